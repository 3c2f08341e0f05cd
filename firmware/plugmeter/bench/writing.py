"""What a record costs the card in small bursts, where each is a commit of its own.

All that the process writes meanwhile goes to the outbox's files, so ``wchar`` of /proc/self/io (proc(5)) is
what strace would count of write and pwrite64 on them; ``write_bytes`` is what the kernel sends on to the
disk, in pages, the log's index among them. Within is all of it: the commit of each burst, that of its
acknowledgement, copying the log back (also at the end), the segments that are rewritten.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plugmeter.bench.drafts import RECORD_BYTES, noise, verdicts
from plugmeter.errors import PlugmeterError
from plugmeter.telemetry.outbox import DATABASE_NAME, Limits, Outbox
from plugmeter.telemetry.record import Draft

SOURCES: dict[str, Callable[[], Iterator[Draft]]] = {"verdicts": verdicts, "noise": noise}
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Written:
    """For ``records`` of 300 bytes in bursts of ``burst``."""

    source: str
    burst: int
    acknowledged: bool
    """Each burst soon after its commit; otherwise none of them ever, as with a dead broker."""
    records: int
    bytes_per_record: float
    """Given to write system calls."""
    disk_bytes_per_record: float
    """Sent on to the disk (write_bytes; 0 where the folder is not on one)."""

    def as_json(self) -> dict[str, Any]:
        """All figures."""
        return {**asdict(self), "record_bytes": RECORD_BYTES}


def measure(state: Path, limits: Limits, source: str, burst: int, bursts: int, acked: bool) -> Written:
    """In this process, which may write nothing else meanwhile. Opening the outbox is not within."""
    outbox = Outbox(state / DATABASE_NAME, limits, _complain)
    try:
        outbox.start()
        drafts = SOURCES[source]()
        before = _written()
        last = outbox.account().produced
        for _ in range(bursts):
            for draft in itertools.islice(drafts, burst):
                if not outbox.offer(draft, wait_s=_PATIENCE_S):
                    raise PlugmeterError(f"the outbox takes no more: {outbox.trouble or 'it is full'}")
            if not outbox.flush(_PATIENCE_S):
                raise PlugmeterError(f"the outbox does not commit: {outbox.trouble or 'no time was left'}")
            if acked:
                outbox.acknowledge([(last + 1, last + burst)])
                last += burst
                outbox.flush(_PATIENCE_S)  # a commit of its own: it comes when the burst is over
        pending = outbox.account().pending
        if acked and pending > 1:  # the stream's beginning is not acknowledged
            raise PlugmeterError(f"{pending} records are pending that were acknowledged: a defect")
    finally:
        outbox.close(_PATIENCE_S)
    chars, disk = (now - then for now, then in zip(_written(), before, strict=True))
    records = burst * bursts
    return Written(source, burst, acked, records, chars / records, disk / records)


def _complain(line: str) -> None:
    raise PlugmeterError(line)


def _written() -> tuple[int, int]:
    """wchar and write_bytes of this process."""
    found = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(found["wchar"]), int(found["write_bytes"])
