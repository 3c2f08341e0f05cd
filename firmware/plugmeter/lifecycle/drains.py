"""How long a drain may take, which depends on how the last ones ended; remembered in a file.

Base × 1.5^(recent drains that ran out), at most 30 s. Recent are the last five in this sense: each drain that
ran out counts, up to five, and each that got all out forgives one. So a broker that is slow for a season
gets more time, and one that is dead does not get more for ever.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

from plugmeter.files import read_regular, replace_file

GROWTH: Final = 1.5
LONGEST_S: Final = 30.0
MOST_REMEMBERED: Final = 5
LOSS: Final = "how drains ended is forgotten"
"""What it means that the file cannot be written."""
_LIMIT_BYTES: Final = 4096


def deadline_s(base_s: float, ran_out: int) -> float:
    """What a drain may take, in seconds, after ``ran_out`` recent ones that did not suffice."""
    return min(base_s * GROWTH ** min(ran_out, MOST_REMEMBERED), LONGEST_S)


def after(ran_out: int, suffices: bool) -> int:
    """The recent drains that ran out, once another one has ended."""
    return max(0, ran_out - 1) if suffices else min(MOST_REMEMBERED, ran_out + 1)


class DrainMemory:
    """``ran_out`` in a file, replaced whole. A file that cannot be had costs its memory and nothing else."""

    def __init__(
        self,
        path: Path | None,
        tell: Callable[[str], None],
        write: Callable[[Path, bytes], None] = replace_file,
    ) -> None:
        """``path`` None keeps it in memory only; ``tell`` gets one line on what is wrong with the file.
        ``write`` may raise OSError; it must not wait for a disk where the caller must not."""
        self._path = path
        self._tell = tell
        self._write = write
        self.ran_out = 0 if path is None else self._read(path)

    def deadline_s(self, base_s: float) -> float:
        """What the next drain may take, in seconds."""
        return deadline_s(base_s, self.ran_out)

    def remember(self, suffices: bool) -> None:
        """A drain has ended. Nothing is written where nothing changes: writing takes time from the stop."""
        ran_out = after(self.ran_out, suffices)
        if ran_out == self.ran_out:
            return
        self.ran_out = ran_out
        if self._path is None:
            return
        try:
            self._write(self._path, json.dumps({"ran_out": ran_out}).encode() + b"\n")
        except OSError as error:
            self._tell(f"cannot write {self._path}: {error.strerror or error}; {LOSS}")

    def _read(self, path: Path) -> int:
        try:
            data = read_regular(path, _LIMIT_BYTES)
        except FileNotFoundError:
            return 0
        except OSError as error:
            self._tell(f"cannot read {path}: {error.strerror or error}; drains have their usual time")
            return 0
        ran_out = parse(data)
        if ran_out is None:
            self._tell(f"{path} makes no sense; drains have their usual time")
        return ran_out or 0


def parse(data: bytes) -> int | None:
    """The file's number, or None for what is no such file; never raises."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    ran_out = found.get("ran_out") if isinstance(found, dict) else None
    if type(ran_out) is not int or not 0 <= ran_out <= MOST_REMEMBERED:
        return None
    return ran_out
