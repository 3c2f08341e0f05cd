"""A recorded run: one JSON array a line, each an input of the measuring part, in the order it took them.

The same inputs in the same order give the same report, byte for byte; so the file holds not only
the records but also when the timeline was told to move on (``["advance", t_ns]``).

    {"plugmeter_recording": 1}
    ["run_start", {"t_ns": 81234, "rig": "injected", ...}]
    ["edge", {"t_ns": 81301, "port": "1-1", "rising": true, "line_seqno": 1}]
    ["uevent", [81305, "netlink", 4711, "add", "/devices/...", "usb", "usb_device", ""]]
    ["advance", 90000]
    ["run_end", {"t_ns": 99999, "failures": [], "interrupted": false, "emitted": 1200}]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, Final, TypeAlias

import msgspec

from plugmeter import records
from plugmeter.errors import UsageError
from plugmeter.records import Record

FORMAT: Final = 1
_HEADER_KEY: Final = "plugmeter_recording"

TYPES: Final[dict[str, type[Any]]] = {
    "edge": records.Edge,
    "level": records.Level,
    "driven": records.Driven,
    "uevent": records.Uevent,
    "node": records.NodeEvent,
    "presence": records.Presence,
    "listeners": records.ListenerSample,
    "gap": records.Gap,
    "tally": records.Tally,
    "line": records.LineAccount,
    "run_start": records.RunStart,
    "run_end": records.RunEnd,
    "advance": int,
}
_TAGS: Final = {cls: tag for tag, cls in TYPES.items()}
_ENCODE: Final = msgspec.json.Encoder().encode
_SPLIT: Final = msgspec.json.Decoder(tuple[str, msgspec.Raw]).decode
_DECODE: Final = {tag: msgspec.json.Decoder(cls).decode for tag, cls in TYPES.items()}

Input: TypeAlias = Record | int
"""A record, or the watermark (ns) up to which the timeline moved on."""


def encode(item: Input) -> bytes:
    """One line of a recording, without its newline."""
    return _ENCODE((_TAGS[type(item)], item))


def decode(line: bytes) -> Input:
    """Read one line; ValueError says what is wrong with it (types and names are checked)."""
    tag, raw = _SPLIT(line)
    if tag not in _DECODE:
        raise ValueError(f"no record is called {tag!r}")
    item: Input = _DECODE[tag](raw)
    return item


class RecordingWriter:
    """Writes inputs to a binary file as they come; the caller opens and closes it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.write(_ENCODE({_HEADER_KEY: FORMAT}) + b"\n")

    def write(self, item: Input) -> None:
        """Append one input; the run's end also writes out all that was buffered.

        OSError (a full disk) is the caller's to report.
        """
        self._file.write(encode(item) + b"\n")
        if isinstance(item, records.RunEnd):
            self._file.flush()


def read_recording(file: BinaryIO, name: str) -> Iterator[Input]:
    """All inputs of a recording, in order.

    Errors: UsageError with file and line where it is no recording or a line is broken. A last line
    without its newline was cut by a crash: it is left out, and the missing run_end makes the report
    INVALID.
    """
    try:
        found = msgspec.json.decode(file.readline(1024), type=dict[str, int])[_HEADER_KEY]
    except (ValueError, KeyError) as error:
        raise UsageError(
            f"{name} is no Plugmeter recording; `plugmeter measure --record FILE` makes one"
        ) from error
    if found != FORMAT:
        raise UsageError(f"{name} is a recording of format {found}; this version reads format {FORMAT}")
    for number, line in enumerate(file, start=2):
        if not line.endswith(b"\n"):
            return
        try:
            yield decode(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{name}, line {number}: {error}; the recording is damaged there") from error
