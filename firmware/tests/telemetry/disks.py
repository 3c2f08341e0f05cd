"""File systems of a test's own: small, or read-only. To be called inside of ``in_namespace``."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from tests.namespace import CLONE_NEWNS

_MS_RDONLY = 1
_MS_REMOUNT = 32
_MS_REC_PRIVATE = 0x4000 | 0x40000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.unshare.argtypes = [ctypes.c_int]
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]


def mount_small(place: Path, kib: int) -> None:
    """A tmpfs of so many KiB at ``place``, for this process and its children only."""
    _checked(_libc.unshare(CLONE_NEWNS))
    _checked(_libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None))
    _checked(_libc.mount(b"none", os.fsencode(place), b"tmpfs", 0, b"size=%dk" % kib))


def make_read_only(place: Path) -> None:
    """What ``mount_small`` mounted."""
    _checked(_libc.mount(b"none", os.fsencode(place), b"tmpfs", _MS_REMOUNT | _MS_RDONLY, None))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
