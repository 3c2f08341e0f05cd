"""Telling the service manager: sd_notify(3) by way of sdnotify, with its traps closed.

sdnotify 0.3.2 encodes latin-1, so everything is made ASCII; it swallows errors, so it is asked for them
(``debug``); it blocks while PID 1 does not read, so its socket is made non-blocking. READY is alone in its
datagram: what is wrong with a STATUS must not cost it.

What says where the daemon is (READY, RELOADING, STOPPING) must arrive, and in order: what cannot be sent is
kept and tried again. STATUS, WATCHDOG and EXTEND_TIMEOUT_USEC are worth nothing later: lost and counted.
"""

from __future__ import annotations

import errno
import os
import re
from collections import deque
from typing import Final

import sdnotify

STATUS_CHARACTERS: Final = 200
_MOST_KEPT: Final = 8
_FULL: Final = (errno.EAGAIN, errno.ENOBUFS)


class Notifier:
    """The line to the service manager; one that says nothing where there is no NOTIFY_SOCKET. Not for several
    threads at once: the conductor's. Nothing raises, nothing blocks."""

    def __init__(self) -> None:
        self.present = bool(os.environ.get("NOTIFY_SOCKET"))
        """Whether there is a service manager that wants to know."""
        self.watchdog_s: float | None = _watchdog_s() if self.present else None
        """WATCHDOG_USEC in seconds, if the watchdog is on and for this process."""
        self.sent = 0
        self.failures = 0
        """Messages that could not be sent when they were to be."""
        self.dropped = 0
        """Those of READY, RELOADING and STOPPING that were given up for newer ones."""
        self._kept: deque[str] = deque()
        self._status = ""
        self._line: sdnotify.SystemdNotifier | None = None

    def ready(self) -> None:
        """All is up; or, after ``reloading``, up again."""
        self._must_arrive("READY=1")

    def reloading(self, monotonic_ns: int) -> None:
        """A reload begins, at this time of CLOCK_MONOTONIC; ``ready`` has to follow."""
        self._must_arrive(f"RELOADING=1\nMONOTONIC_USEC={monotonic_ns // 1000}")

    def stopping(self) -> None:
        """The end begins; there is no way back."""
        self._must_arrive("STOPPING=1")

    def status(self, text: str) -> None:
        """A line for people (systemctl status); one that is the same as before is not sent again."""
        line = ascii_line(text)
        if line != self._status and self._send(f"STATUS={line}"):
            self._status = line

    def watchdog(self) -> None:
        """All is well."""
        self._send("WATCHDOG=1")

    def extend(self, usec: int) -> None:
        """The present timeout (of starting, stopping) is to be at least ``usec`` from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={usec}")

    def retry(self) -> None:
        """Send what was kept, in order, as far as it goes now. To be called now and then."""
        while self._kept and self._send_now(self._kept[0]):
            self._kept.popleft()

    @property
    def waiting(self) -> int:
        """Messages that are kept and not sent yet."""
        return len(self._kept)

    def close(self) -> None:
        """Close the socket."""
        if self._line is not None:
            self._line.socket.close()
            self._line = None
        self.present = False

    def _must_arrive(self, state: str) -> None:
        if not self.present:
            return
        if len(self._kept) == _MOST_KEPT:
            self._kept.popleft()
            self.dropped += 1
        self._kept.append(state)
        self.retry()

    def _send(self, state: str) -> bool:
        """Send what may be lost, after what may not."""
        if not self.present:
            return False
        self.retry()
        return not self._kept and self._send_now(state)

    def _send_now(self, state: str) -> bool:
        try:
            if self._line is None:
                self._line = sdnotify.SystemdNotifier(debug=True)
                self._line.socket.setblocking(False)
            self._line.notify(state)
        except OSError as error:
            self.failures += 1
            if error.errno not in _FULL and self._line is not None:
                self._line.socket.close()  # PID 1 has made itself anew, perhaps: connect again next time
                self._line = None
            return False
        self.sent += 1
        return True


def ascii_line(text: str) -> str:
    """One line of printable ASCII, of at most ``STATUS_CHARACTERS``: a line break would begin another
    assignment."""
    line = re.sub(r"[^ -~]", "?", " ".join(text.split()))
    return line if len(line) <= STATUS_CHARACTERS else line[: STATUS_CHARACTERS - 3] + "..."


def _watchdog_s() -> float | None:
    """See sd_watchdog_enabled(3): the variables may be somebody else's."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not re.fullmatch(r"[0-9]{1,18}", usec, re.ASCII) or int(usec) == 0:
        return None
    if pid and pid != str(os.getpid()):
        return None
    return int(usec) / 1e6
