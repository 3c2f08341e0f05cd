"""journald's native protocol: a message as a datagram of fields, so that the journal can be asked by them.

The format is documented with systemd (JOURNAL_NATIVE_PROTOCOL; sd_journal_send(3)): a field is "NAME=value"
and a line break, or, where the value has a line break itself, "NAME", a line break, the length as 64 bits
little-endian, the value, and a line break. A message that is too large for a datagram goes as a sealed memfd.
"""

from __future__ import annotations

import array
import errno
import fcntl
import logging
import os
import re
import select
import socket
import struct
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TextIO

SOCKET: Final = Path("/run/systemd/journal/socket")
IDENTIFIER: Final = "plugmeter"
VALUE_BYTES: Final = 65_536
"""A value is cut after so many bytes, and says so."""
_CUT: Final = b" [cut]"
_PIPE_BYTES: Final = 4096
"""PIPE_BUF of pipe(7): a pipe that is ready takes as much without blocking."""
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}", re.ASCII)


def encode(fields: Mapping[str, str]) -> bytes:
    """The datagram. Raises ValueError for a name that journald would ignore (systemd.journal-fields(7))."""
    parts = []
    for name, text in fields.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a field")
        value = text.encode("utf-8", "backslashreplace")
        if len(value) > VALUE_BYTES:
            value = value[: VALUE_BYTES - len(_CUT)].decode("utf-8", "ignore").encode() + _CUT
        if b"\n" in value:
            parts.append(b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(value)), value))
        else:
            parts.append(b"%s=%s\n" % (name.encode(), value))
    return b"".join(parts)


class Journal:
    """The line to journald. Thread-safe; never raises for the journal's sake, never blocks."""

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._lock = threading.Lock()
        self.sent = 0
        self.failures = 0
        """Messages that journald did not take."""
        self._untold = 0

    def send(self, fields: Mapping[str, str]) -> bool:
        """Whether it was sent. The next one that is, after some that were not, is preceded by how many."""
        data = encode(fields)
        with self._lock:
            if self._untold:
                words = f"{self._untold} messages before this one could not be written to the journal"
                if self._send(encode(_basic(words, logging.WARNING))):
                    self._untold = 0
            if self._send(data):
                self.sent += 1
                return True
            self.failures += 1
            self._untold += 1
            return False

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _send(self, data: bytes) -> bool:
        try:
            self._socket.sendto(data, self._path)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                return False
        else:
            return True
        try:
            self._send_memfd(data)
        except OSError:
            return False
        return True

    def _send_memfd(self, data: bytes) -> None:
        """An empty datagram with the message in a file that nobody can change any more."""
        file = os.memfd_create(IDENTIFIER, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(file, rest) :]
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))]
            self._socket.sendmsg([], ancillary, 0, self._path)
        finally:
            os.close(file)


class JournalHandler(logging.Handler):
    """Log records as messages of the journal. Structured fields come as ``extra=fields(...)``."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        self._journal.send(
            {
                **_basic(self.format(record), record.levelno),
                "CODE_FILE": record.pathname,
                "CODE_LINE": str(record.lineno),
                "CODE_FUNC": record.funcName or "",
                "LOGGER": record.name,
                "THREAD_NAME": record.threadName or "",
                **getattr(record, "journal_fields", {}),
            }
        )


class StderrHandler(logging.Handler):
    """Log records as plain lines. A reader that does not read costs lines, which are counted, and no time."""

    def __init__(self, file: TextIO) -> None:
        super().__init__()
        self._descriptor = file.fileno()
        self.failures = 0
        self._untold = 0
        self.setFormatter(logging.Formatter(f"{IDENTIFIER}: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler, which holds its lock."""
        if getattr(record, "journal_only", False):
            return
        if self._untold:
            words = f"{IDENTIFIER}: {self._untold} messages before this one could not be written\n"
            if self._write(words.encode()):
                self._untold = 0
        if not self._write(self.format(record).encode("utf-8", "backslashreplace") + b"\n"):
            self.failures += 1
            self._untold += 1

    def _write(self, data: bytes) -> bool:
        rest = memoryview(data)
        poller = select.poll()
        poller.register(self._descriptor, select.POLLOUT)
        try:
            while rest:
                if not any(events & select.POLLOUT for _, events in poller.poll(0)):
                    return False
                rest = rest[os.write(self._descriptor, rest[:_PIPE_BYTES]) :]
        except OSError:  # closed, full disk, reader gone: there is nobody else to be told
            return False
        return True


def fields(of: Mapping[str, str], *, only: bool = False) -> dict[str, object]:
    """``extra`` for a log call, so that ``of`` become fields of the journal. ``only``: in plain lines on
    standard error it is left out, for there it would say once more what was said."""
    return {"journal_fields": of, "journal_only": only}


def stderr_is_the_journal() -> bool:
    """Whether what is written to standard error goes to journald anyway: see JOURNAL_STREAM in
    systemd.exec(5), which names the device and inode of that socket."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def install(level: str, path: Path = SOCKET) -> logging.Handler:
    """Have all logging of the process go to the journal, where standard error is it, and else to standard
    error in plain lines. ``level`` is that of ``Daemon.log_level`` ("info"); ``set_level`` changes it."""
    handler: logging.Handler
    handler = JournalHandler(Journal(path)) if stderr_is_the_journal() else StderrHandler(sys.stderr)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    handler.addFilter(_Wanted())
    root.addHandler(handler)
    set_level(level)
    return handler


def set_level(level: str) -> None:
    """From now on tell what is of this level or above: debug, info, warning, error. What has fields of its
    own (signals, transitions) is told at any level: it is the audit, and no chatter."""
    root = logging.getLogger()
    wanted = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(
        min(wanted, logging.INFO)
    )  # handlers that keep warnings and the audit get them all the same
    for handler in root.handlers:
        for each in handler.filters:
            if isinstance(each, _Wanted):
                each.least = wanted


class _Wanted(logging.Filter):
    """Lets through what is of a level, or audited."""

    def __init__(self) -> None:
        super().__init__()
        self.least = logging.INFO

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        return record.levelno >= self.least or hasattr(record, "journal_fields")


def _basic(text: str, level: int) -> dict[str, str]:
    return {"MESSAGE": text, "PRIORITY": _priority(level), "SYSLOG_IDENTIFIER": IDENTIFIER}


def _priority(level: int) -> str:
    """As syslog(3) counts them."""
    for least, priority in ((50, "2"), (40, "3"), (30, "4"), (20, "6")):
        if level >= least:
            return priority
    return "7"
