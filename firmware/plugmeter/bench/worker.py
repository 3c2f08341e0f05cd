"""A forked child that a benchmark talks to: one line of JSON each way, and no silence when it dies."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

from plugmeter.errors import PlugmeterError

_PATIENCE_S = 120.0


class Link:
    """One end of the line between a benchmark and its child."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._rest = b""

    def say(self, **words: Any) -> None:  # noqa: ANN401  whatever JSON can hold
        """Send one message."""
        self._end.sendall(json.dumps(words).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        """Wait for one message. PlugmeterError where the other side is gone or says nothing any more."""
        while b"\n" not in self._rest:
            if not select.select([self._end], [], [], _PATIENCE_S)[0]:
                raise PlugmeterError(f"the benchmark's other process says nothing for {_PATIENCE_S:g} s")
            data = self._end.recv(65536)
            if not data:
                raise PlugmeterError("the benchmark's other process has ended")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        words: dict[str, Any] = json.loads(line)
        if "error" in words:
            raise PlugmeterError(words["error"])
        return words

    def has_word(self) -> bool:
        """Whether a message waits."""
        return b"\n" in self._rest or bool(select.select([self._end], [], [], 0)[0])


class Worker:
    """Runs ``body(link)`` in a child in the same namespaces; killed, if need be, when the block ends."""

    def __init__(self, body: Callable[[Link], None]) -> None:
        here, there = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            here.close()
            _play(body, Link(there))
        there.close()
        self._socket = here
        self.link = Link(here)

    def __enter__(self) -> Link:
        return self.link

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        if kind is not None:
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _play(body: Callable[[Link], None], link: Link) -> NoReturn:
    """The child's part: it must not return into what it was forked from."""
    status = 1
    try:
        body(link)
        status = 0
    except PlugmeterError as error:
        link.say(error=str(error))
    except BaseException:
        link.say(error="a defect: " + traceback.format_exc(limit=-1).replace("\n", " "))
        raise
    finally:
        os._exit(status)
