"""Where metrics and status are served: a Unix socket, or a port of the loopback address."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugmeter.errors import PlugmeterError, UsageError

BACKLOG: Final = 16
_PATH_LIMIT: Final = 107
"""Of sun_path, but for its NUL (unix(7))."""
_LOOPBACK = re.compile(r"(127\.0\.0\.1|\[::1\]):(\d{1,5})")
_PEER = struct.Struct("3i")
_LOCK_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Address:
    """``path`` of a Unix socket, or else ``host`` and ``port``."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """``unix:/path``, ``127.0.0.1:PORT`` or ``[::1]:PORT``. Raises UsageError."""
    if text.startswith("unix:/") and "\0" not in text:
        path = text.removeprefix("unix:")
        if len(os.fsencode(path)) > _PATH_LIMIT:
            raise UsageError(f"{text}: longer than the {_PATH_LIMIT} bytes that a socket's path may have")
        return Address(path=path)
    found = _LOOPBACK.fullmatch(text)
    if found and int(found[2]) <= 65_535:
        return Address(host=found[1].strip("[]"), port=int(found[2]))
    raise UsageError(f"{text!r} is no address: give unix:/full/path, 127.0.0.1:PORT or [::1]:PORT")


def connect(address: Address, timeout_s: float) -> socket.socket:
    """A connection. Raises OSError."""
    family = socket.AF_UNIX if address.path else socket.AF_INET6 if ":" in address.host else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect(address.path or (address.host, address.port))
    except OSError:
        connection.close()
        raise
    return connection


def listen(address: Address) -> socket.socket:
    """A listening socket, non-blocking; a Unix socket's file has mode 0660, and replaces one that is stale.

    Raises PlugmeterError, one line, where another program listens there or it cannot be made.
    """
    try:
        return _listen_unix(address) if address.path else _listen_loopback(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = "another program listens there; stop it, or change daemon.metrics"
        elif error.errno == errno.ENOENT:
            reason = f"there is no folder {Path(address.path).parent}; make it, or change daemon.metrics"
        else:
            reason = f"{error.strerror or error}; change daemon.metrics or its folder's owner"
        raise PlugmeterError(f"metrics cannot be served at {address}: {reason}") from None


def identity(address: Address) -> tuple[int, int] | None:
    """What tells a Unix socket's file from its successor's; None where there is none."""
    try:
        found = Path(address.path).lstat() if address.path else None
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found else None


def remove_socket_file(address: Address, made: tuple[int, int] | None) -> None:
    """Remove a Unix listener's file, if it is still the one that was ``made``. Raises OSError."""
    if made is not None and identity(address) == made:
        Path(address.path).unlink(missing_ok=True)


def _listen_loopback(address: Address) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # lets nobody share a listening port
        listener.bind((address.host, address.port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _listen_unix(address: Address) -> socket.socket:
    path = Path(address.path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The file is made with the mode of the socket's inode (net/unix/af_unix.c): it is never more open.
        os.fchmod(listener.fileno(), 0o660)
        with _locked(path.parent):
            _remove_stale(address)
            listener.bind(address.path)
            path.chmod(0o660)  # what the umask took from the group
            listener.listen(BACKLOG)
        listener.setblocking(False)
    except (OSError, PlugmeterError):
        listener.close()
        raise
    return listener


def _remove_stale(address: Address) -> None:
    """Make room at ``address``. Raises PlugmeterError where somebody listens, or no socket is there."""
    path = Path(address.path)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise PlugmeterError(
            f"metrics cannot be served at {address}: a file that is no socket is there; move it away"
        )
    pid = _listener_of(address)
    if pid is not None:
        raise PlugmeterError(
            f"metrics cannot be served at {address}: another program (pid {pid}) listens there;"
            " stop it, or change daemon.metrics"
        )
    path.unlink(missing_ok=True)


def _listener_of(address: Address) -> int | None:
    """Who listens at a Unix socket's path (SO_PEERCRED, unix(7)); 0 if too busy to say; None for nobody."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address.path)
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except BlockingIOError:  # its backlog is full
            return 0
        pid, _, _ = _PEER.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return int(pid)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Two starting at once must not both find a file stale: an flock(2) on its folder, which leaves no file.

    Where another program sits on that lock we go on without it after 2 s.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until_s = time.monotonic() + _LOCK_PATIENCE_S
        while time.monotonic() < until_s:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)
