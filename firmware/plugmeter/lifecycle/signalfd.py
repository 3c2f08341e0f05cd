"""signalfd(2): blocked signals as something to read, with who sent each.

Python's own ``signal.sigtimedwait`` will not do: where the process is stopped and continued while it waits
(SIGSTOP, a debugger, the freezer of a suspended machine; see signal(7), "Interruption of system calls"), and
its time is over when it goes on, CPython 3.11 to 3.13 give back a siginfo that nobody has filled in.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_INFO_BYTES: Final = 128
_INFO: Final = struct.Struct("=IiiII")
"""The beginning of struct signalfd_siginfo (include/uapi/linux/signalfd.h): signo, errno, code, pid, uid."""
_SET_BYTES: Final = 128
"""sizeof (sigset_t) of glibc and of musl."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sigemptyset.argtypes = [ctypes.c_void_p]
_libc.sigaddset.argtypes = [ctypes.c_void_p, ctypes.c_int]
_libc.signalfd.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
_libc.signalfd.restype = ctypes.c_int


@dataclass(frozen=True, slots=True)
class SignalInfo:
    """One signal that had arrived."""

    number: int
    pid: int
    uid: int


def open_signalfd(numbers: Iterable[int]) -> int:
    """A descriptor that can be read when one of the signals, which have to be blocked, is pending for the
    process or for the thread that reads. It does not block. Raises OSError."""
    wanted = ctypes.create_string_buffer(_SET_BYTES)
    _libc.sigemptyset(wanted)
    for number in numbers:
        _libc.sigaddset(wanted, number)
    descriptor = int(_libc.signalfd(-1, wanted, os.O_NONBLOCK | os.O_CLOEXEC))
    if descriptor < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return descriptor


def read_signal(descriptor: int) -> SignalInfo | None:
    """Take one; None where none is pending."""
    try:
        data = os.read(descriptor, _INFO_BYTES)
    except BlockingIOError:
        return None
    number, _, _, pid, uid = _INFO.unpack_from(data)
    return SignalInfo(number, pid, uid)
