"""One thread of a process of ours, stopped by ptrace(2) as if it hung; the others go on."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from pathlib import Path

import pytest

from tests.telemetry.broker import eventually

_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17
WALL = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long

_POLLS = ("poll_schedule_timeout", "do_sys_poll", "do_poll")
WAITS = {"signals": (_POLLS, 0), "metrics": (_POLLS, -1), "link": (("ep_poll", "do_epoll_wait"), 0)}
"""Where in the kernel a worker's thread waits when it has nothing to do (threads have no names there), and
which one in the order of their making it is of those that wait so."""


class Thread:
    """One thread by its id, stopped between enter and exit."""

    def __init__(self, tid: int) -> None:
        self.tid = tid

    def __enter__(self) -> Thread:
        if _libc.ptrace(_SEIZE, self.tid, None, None):
            pytest.skip(f"needs ptrace: {os.strerror(ctypes.get_errno())}")
        assert _libc.ptrace(_INTERRUPT, self.tid, None, None) == 0
        os.waitpid(self.tid, WALL)
        return self

    def __exit__(self, *_: object) -> None:
        _libc.ptrace(_DETACH, self.tid, None, None)


class Frozen:
    """The worker's thread, caught while it waits: it holds no lock of the interpreter then."""

    def __init__(self, pid: int, worker: str) -> None:
        self._pid = pid
        self._waits, self._place = WAITS[worker]
        self.tid = 0

    def __enter__(self) -> Frozen:
        eventually(self._found, "a thread that waits as it should")
        if _libc.ptrace(_SEIZE, self.tid, None, None):
            pytest.skip(f"needs ptrace: {os.strerror(ctypes.get_errno())}")
        assert _libc.ptrace(_INTERRUPT, self.tid, None, None) == 0
        os.waitpid(self.tid, WALL)
        return self

    def __exit__(self, *_: object) -> None:
        _libc.ptrace(_DETACH, self.tid, None, None)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(self.tid, WALL | os.WNOHANG) == (0, 0):  # ours to bury if it was killed
                if Path(f"/proc/{self.tid}").exists():
                    return
                time.sleep(0.01)

    def _found(self) -> bool:
        waiting = []
        for task in Path(f"/proc/{self._pid}/task").iterdir():
            with contextlib.suppress(OSError):
                # The main thread waits as the link does.
                if int(task.name) != self._pid and (task / "wchan").read_text().startswith(self._waits):
                    waiting.append(int(task.name))
        if not waiting or (self._waits is _POLLS and len(waiting) != 2):
            return False
        self.tid = sorted(waiting)[self._place]
        return True
