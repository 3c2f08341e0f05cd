"""Writing what Plugmeter makes: whole or not at all, with one clear line where it cannot be."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

from plugmeter.errors import PlugmeterError
from plugmeter.files import mode_of, replace_file, write_all


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` (as UTF-8) to a file, or to standard output where ``path`` is ``-``.

    A regular file is replaced whole or not at all (``files.replace_file``). What is there and is no
    regular file (/dev/stdout, a FIFO) is written to directly, since a rename would replace it.
    Raises PlugmeterError.
    """
    data = text.encode("utf-8", "backslashreplace")
    if str(path) == "-":
        _write_stdout(data)
        return
    target = Path(path)
    try:
        place = Path(os.path.realpath(target))  # Path.resolve raises RuntimeError on loops in 3.11
        mode = mode_of(place)
        if mode is None or stat.S_ISREG(mode):
            replace_file(place, data)
        else:
            _write_through(place, data)
    except OSError as error:
        raise PlugmeterError(f"cannot write {target}: {_reason(error, target)}") from error


def _write_through(place: Path, data: bytes) -> None:
    fd = os.open(place, os.O_WRONLY | os.O_CLOEXEC)
    try:
        write_all(fd, data)
    finally:
        os.close(fd)


def _write_stdout(data: bytes) -> None:
    out = sys.stdout
    try:
        buffer = getattr(out, "buffer", None)
        if buffer is None:  # replaced by something that takes text alone
            out.write(data.decode("utf-8"))
        else:
            out.flush()
            buffer.write(data)
        out.flush()
    except OSError as error:
        _abandon_stdout()
        raise PlugmeterError(f"cannot write to standard output: {_reason(error, None)}") from error


def _abandon_stdout() -> None:
    """What waits in the buffer would fail once more when the interpreter ends, with a traceback."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.dup2(null, sys.stdout.fileno())
    finally:
        os.close(null)


def _reason(error: OSError, target: Path | None) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "the disk is full; make room or choose another place"
        case errno.EFBIG:
            return "it would be larger than a file may be here (ulimit -f)"
        case errno.EACCES | errno.EPERM:
            return "no permission; choose a place that you may write to"
        case errno.EROFS:
            return "the file system is read-only; choose another place"
        case errno.ENOENT | errno.ENOTDIR if target is not None:
            return f"there is no directory {target.parent}; make it first"
        case errno.EISDIR:
            return "it is a directory; name a file in it"
        case errno.EPIPE:
            return "the program that reads it has ended"
        case _:
            return (error.strerror or str(error)).lower()
