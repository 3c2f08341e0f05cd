"""Files as Plugmeter needs them: replaced whole or not at all, and read up to a limit."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Final

_TEMPORARY: Final = re.compile(r"\..+\.[0-9a-f]{12}\.tmp", re.DOTALL).fullmatch


def replace_file(path: Path, data: bytes) -> None:
    """Write ``data`` to a regular file, new or old: beside its place, synced, and renamed into it.

    A reader sees the old file or the new one, also after a power cut; whatever fails, the old file stays and
    nothing half-written remains. Two writers do not meet: each has a temporary name of its own. The old
    file's mode is kept, a symbolic link is followed. Raises OSError, also for what is there and is no regular
    file: a rename would take the place of a device.
    """
    place = Path(os.path.realpath(path))  # Path.resolve raises RuntimeError on loops in 3.11
    old_mode = mode_of(place)
    if old_mode is not None:
        _refuse_special(place, old_mode)
    temporary = place.with_name(f".{place.name[:200]}.{secrets.token_hex(6)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    renamed = False
    try:
        try:
            if old_mode is not None:
                os.fchmod(descriptor, stat.S_IMODE(old_mode))
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(place)
        renamed = True
    finally:
        if not renamed:  # also on Ctrl-C
            temporary.unlink(missing_ok=True)
    _sync_directory(place.parent)


def sweep(directory: Path) -> int:
    """Remove what ``replace_file`` left in a directory when it was killed, or lost its power; how many there
    were. For the one who is the only writer there. What cannot be removed stays; raises nothing."""
    swept = 0
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            if _TEMPORARY(path.name) and path.is_file() and not path.is_symlink():
                path.unlink()
                swept += 1
    return swept


def read_regular(path: Path, limit_bytes: int) -> bytes:
    """All of a regular file of at most ``limit_bytes``.

    Raises OSError: also for a device or a FIFO, which might never end, and for a larger file, of which no
    more than a byte too many is read, whatever size it claims to have (a file may grow; /proc says 0).
    """
    # O_NONBLOCK: opening a FIFO would wait for a writer; on a regular file it does nothing.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _refuse_special(path, os.fstat(descriptor).st_mode)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(limit_bytes + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, f"it is too large (over {limit_bytes >> 20} MiB)", str(path))
    return data


def mode_of(place: Path) -> int | None:
    """The kind and mode of what is there (st_mode of stat(2)); None for nothing. Raises OSError."""
    try:
        return place.stat().st_mode
    except FileNotFoundError:
        return None


def write_all(descriptor: int, data: bytes) -> None:
    """write(2) until all is written. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _refuse_special(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


def _sync_directory(directory: Path) -> None:
    """So that the rename outlasts a power cut; file systems that cannot sync a directory say EINVAL."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)
