"""The metrics endpoint: where the metrics server listens, and which one does at present."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

from plugmeter.errors import PlugmeterError
from plugmeter.lifecycle.address import parse_address
from plugmeter.lifecycle.exchange import Pages
from plugmeter.lifecycle.http import MetricsServer
from plugmeter.progress import Progress

LOG: Final = logging.getLogger("plugmeter.daemon")

_CLOSE_S: Final = 0.5
"""For requests under way, before another server takes the place of theirs."""


class MetricsEndpoint:
    """All methods are the main thread's, ``open`` comes first; ``counters`` and ``progress`` are for any.

    An address is as in ``daemon.metrics``: empty for no server at all.
    """

    def __init__(self) -> None:
        self._address = ""
        self._pages: Pages | None = None
        self._server: MetricsServer | None = None
        self._trouble = ""
        """Why no server could be begun anew, as it was told last."""
        self._served_before: Counter[str] = Counter()
        """Of servers that are no more."""

    def open(self, address: str, pages: Pages) -> None:
        """Serve there. Raises PlugmeterError."""
        self._address, self._pages = address, pages
        self._begin()

    def prepare(self, address: str) -> Callable[[], None]:
        """Listen at another address, beside the server that there is. What is returned puts the new one in
        its place, and cannot fail. Raises PlugmeterError."""
        if address == self._address:
            return lambda: None
        server = self._listen(address)

        def take_its_place() -> None:
            self._retire()
            self._address, self._server = address, server
            if server is not None:
                server.start()

        return take_its_place

    def restart(self) -> None:
        """The remedy for a server that spins or is stuck."""
        self._retire()
        self._try_again()

    def tick(self) -> None:
        """Once a second: what could not be begun anew is tried again."""
        if self._server is None and self._address:
            self._try_again()

    def close(self, timeout_s: float) -> None:
        """Listen no more; see MetricsServer.close. Idempotent."""
        if self._server is not None:
            self._server.close(timeout_s)

    @property
    def progress(self) -> Progress | None:
        """The server's sign of life, if there is one."""
        server = self._server
        return server.progress if server is not None else None

    @property
    def counters(self) -> dict[str, int]:
        """Connections so far, by what became of them; see MetricsServer."""
        served, server = Counter(self._served_before), self._server
        if server is not None:
            served.update(server.counters)
        return dict(served)

    def _begin(self) -> None:
        self._server = self._listen(self._address)
        if self._server is not None:
            self._server.start()

    def _listen(self, address: str) -> MetricsServer | None:
        """It listens and does not serve yet. Raises PlugmeterError."""
        if not address or self._pages is None:
            return None
        return MetricsServer(parse_address(address), self._pages)

    def _retire(self) -> None:
        if self._server is not None:
            self._server.close(_CLOSE_S)
            self._served_before.update(self._server.counters)
            self._server = None

    def _try_again(self) -> None:
        """What fails is told once, and tried again each second: the daemon goes on without."""
        try:
            self._begin()
        except PlugmeterError as error:
            if self._trouble != str(error):
                LOG.error("%s", error)
            self._trouble = str(error)
        else:
            self._trouble = ""
