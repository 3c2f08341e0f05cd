"""From nothing to a session: files read, name looked up, TCP, TLS, CONNECT sent; one attempt at a time."""

from __future__ import annotations

from collections.abc import Callable

from plugmeter.errors import PlugmeterError
from plugmeter.telemetry.breaker import Kind
from plugmeter.telemetry.client import Opening, Session
from plugmeter.telemetry.connector import Connector, Lookup
from plugmeter.telemetry.failures import Failure, LinkError
from plugmeter.telemetry.link_settings import LinkSettings
from plugmeter.telemetry.wire import Wire


class Approach:
    """``begin``, then ``advance`` until it gives a session or raises LinkError. Blocks for files only."""

    def __init__(
        self,
        settings: LinkSettings,
        *,
        client_id: str,
        will_topic: str,
        will: Callable[[], bytes],
        warn: Callable[[str], None],
        connect_s: float,
        user_timeout_s: float,
    ) -> None:
        self.address = ""
        """That the broker's name gave, of the last attempt."""
        self._settings = settings
        self._client_id = client_id
        self._will_topic = will_topic
        self._will = will
        self._warn = warn
        self._connect_s = connect_s
        self._user_timeout_s = user_timeout_s
        self._connector: Connector | None = None
        self._lookup: Lookup | None = None
        self._opening: Opening | None = None

    @property
    def deadline_s(self) -> float | None:
        """Until when (monotonic) this attempt is to come further; None where there is none."""
        return self._connector.deadline_s if self._connector is not None else None

    @property
    def waits_for(self) -> tuple[int, int] | None:
        """The descriptor and its events (selectors.EVENT_*) that let it come further."""
        return (self._connector.fileno(), self._connector.events) if self._connector is not None else None

    def begin(self, now_s: float) -> None:
        """An attempt. Raises LinkError."""
        settings = self._settings
        lookup, self._lookup = self._lookup, None
        try:
            context = settings.context()
            password = settings.password(self._warn)
            will = self._will()
        except PlugmeterError as error:  # a file that is just being replaced, perhaps
            self._lookup = lookup
            raise LinkError(Failure("files", Kind.NETWORK, str(error))) from None
        self._opening = Opening(
            client_id=self._client_id,
            keepalive_s=settings.keepalive_s,
            will_topic=self._will_topic,
            will=will,
            username=settings.username,
            password=password,
        )
        self._connector = Connector(
            settings.host,
            settings.port,
            context,
            now_s,
            timeout_s=self._connect_s,
            user_timeout_s=self._user_timeout_s,
            lookup=lookup,
        )

    def advance(self, now_s: float) -> Session | None:
        """As far as it goes: the session, once CONNECT is sent (or was tried to be). Raises LinkError."""
        assert self._connector is not None and self._opening is not None
        connector, opening = self._connector, self._opening
        self.address = connector.address or self.address
        sock = connector.advance(now_s)
        self.address = connector.address or self.address
        if sock is None:
            return None
        self._connector = self._opening = None  # it holds the password
        try:
            return Session(Wire(sock), opening)
        except BaseException:
            sock.close()
            raise

    def give_up(self) -> None:
        """End the attempt. A lookup that is still going on is kept for the next one."""
        if self._connector is not None:
            self._lookup = self._connector.close()
            self._connector = None
        self._opening = None

    def close(self) -> None:
        """No other attempt will follow."""
        self.give_up()
        if self._lookup is not None:
            self._lookup.close()
            self._lookup = None
