"""One daemon a state directory: a lock that ends with its process, and says whose it is."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from plugmeter.errors import PlugmeterError
from plugmeter.telemetry.database import shown

LOCK_NAME: Final = "lock"
_MODE: Final = 0o640


class StateLock:
    """flock(2) on DIR/lock, with our process id in it. The kernel gives it back when the process ends."""

    def __init__(self, directory: Path) -> None:
        """Take it. Raises PlugmeterError, which names the process that has it."""
        path = directory / LOCK_NAME
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
        except OSError as error:
            raise PlugmeterError(f"{shown(path)} cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(self._descriptor)
            os.close(self._descriptor)
            raise PlugmeterError(
                f"another plugmeter ({holder}) uses {shown(directory)}; end it, or name another directory"
            ) from None
        except OSError as error:
            os.close(self._descriptor)
            raise PlugmeterError(f"{shown(path)} cannot be locked: {error.strerror}") from None
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            pass  # a full disk: the lock holds all the same, and only the name of its holder is missing

    def close(self) -> None:
        """Give it back. The file stays: who removed it could remove another's."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    return f"pid {text}" if text.isdigit() else "of unknown pid"
