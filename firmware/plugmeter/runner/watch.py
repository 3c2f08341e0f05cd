"""Follows a run from inside its loop, and puts into words what the parent is to hear of it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from plugmeter import recording
from plugmeter.measure import report
from plugmeter.measure.pipeline import Pipeline
from plugmeter.recording import Input
from plugmeter.records import Presence, Record, RunEnd
from plugmeter.run import Equipment
from plugmeter.runner import wire
from plugmeter.runner.outgoing import Outgoing
from plugmeter.witnesses.netlink_table import parse_proc_netlink

LIFE_NS: Final = 1_000_000_000
RAW_ITEMS: Final = 512
RAW_BYTES: Final = 128 << 10
"""A batch of raw inputs ends with whichever comes first; it must fit into one record."""
RAW_NS: Final = 1_000_000_000
"""So long an input may wait for others to share its batch; one that only says that time passes, longer."""

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TABLE: Final = Path("/proc/self/net/netlink")


class Watch:
    """A run's watcher (``run.Watcher``). Once it is over, ``finish`` tells the rest and the report."""

    def __init__(self, outgoing: Outgoing, equipment: Equipment) -> None:
        self._outgoing = outgoing
        self._equipment = equipment
        self._drops = ListenerDrops()
        self._wakeups = 0
        self._work = 0
        self._life_ns = 0
        self._verdicts = 0
        self._gaps = 0

    def began(self, first: Sequence[Record]) -> None:
        start = self._equipment.start
        scans = [each for each in first if isinstance(each, Presence) and each.reason == "start"]
        self._drops.take()
        self._outgoing.say(
            wire.encode(
                wire.Ready(
                    pid=os.getpid(),
                    rig=start.rig,
                    truth=start.truth,
                    ports=start.ports,
                    witnesses=start.witnesses,
                    devices=sum(len(scan.devices) for scan in scans),
                    version=start.version,
                    host=start.host,
                )
            )
        )
        self._outgoing.say(wire.encode(wire.Started(start)))

    def turned(self, pipeline: Pipeline, worked: bool) -> None:
        self._wakeups += 1
        self._work += worked
        self._tell_news(pipeline)
        now_ns = time.monotonic_ns()
        if now_ns - self._life_ns >= LIFE_NS:
            self._life_ns = now_ns
            self._outgoing.show_life(wire.encode(self._progress(pipeline, now_ns)))

    def resynced(self, devices: int | None) -> None:
        self._outgoing.say(wire.encode(wire.Resynced(time.monotonic_ns(), devices)))

    def finish(self, pipeline: Pipeline, raw: int) -> None:
        """The run is over: the verdicts of its end, and the report. ``raw``: how many inputs it had."""
        self._tell_news(pipeline)
        self._outgoing.settle()
        self._outgoing.show_life(wire.encode(self._progress(pipeline, time.monotonic_ns())))
        discarded = self._outgoing.discarded
        made = report.build(pipeline)
        self._outgoing.say(
            wire.encode(wire.Finished(made, self._verdicts, self._gaps, raw - discarded, discarded))
        )

    def _tell_news(self, pipeline: Pipeline) -> None:
        news = pipeline.take_news()
        for verdict in news.verdicts:
            self._outgoing.say(wire.encode(wire.Decided(verdict)))
        for gap in news.gaps:
            self._outgoing.say(wire.encode(wire.Missed(gap)))
        if news.omitted:
            now_ns = time.monotonic_ns()
            self._outgoing.say(wire.encode(wire.Discarded("news", news.omitted, pipeline.now_ns, now_ns)))
        self._verdicts += len(news.verdicts)
        self._gaps += len(news.gaps)

    def _progress(self, pipeline: Pipeline, now_ns: int) -> wire.Progress:
        counts = pipeline.verdicts
        done, total = self._equipment.rig.progress()
        queued, queued_bytes = self._outgoing.waiting
        return wire.Progress(
            t_ns=now_ns,
            wakeups=self._wakeups,
            work=self._work,
            expected=counts.expected,
            expected_plugs=pipeline.expected_plugs,
            matched=counts.matched,
            late=counts.late,
            ambiguous=counts.ambiguous,
            undecided=pipeline.undecided,
            duplicates=counts.duplicates,
            orphans=counts.orphans,
            lost={str(stage): count for stage, count in counts.lost.items() if count},
            witnesses=self._witnesses(pipeline),
            listener_drops=self._drops.take(),
            steps_done=done,
            steps_total=total,
            rss_bytes=_rss_bytes(),
            queued=queued,
            queued_bytes=queued_bytes,
            discarded=self._outgoing.discarded,
        )

    def _witnesses(self, pipeline: Pipeline) -> dict[str, wire.WitnessCount]:
        counted: dict[str, wire.WitnessCount] = {}
        for witness in self._equipment.witnesses:
            account = pipeline.witnesses[witness.name].account()
            tally = witness.tally()
            counted[witness.name] = wire.WitnessCount(
                tally.offered, account.delivered, account.lost_total, tally.pending
            )
        return counted


class RawBatches:
    """Takes every input of a run (``Equipment.keep``), and says them in batches."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing
        self._items: list[bytes] = []
        self._bytes = 0
        self._first_ns: int | None = None
        self._number = 0
        self.count = 0
        """All inputs so far, said or given up."""

    def keep(self, item: Input) -> None:
        """One more input; the last of a run, its end, says all that waits."""
        line = recording.encode(item)
        self.count += 1
        if self._items and (len(self._items) >= RAW_ITEMS or self._bytes + len(line) > RAW_BYTES):
            self._say()
        self._items.append(line)
        self._bytes += len(line)
        if isinstance(item, RunEnd):
            self._say()
        elif isinstance(item, int):  # time has moved on; the records before it are complete
            if self._first_ns is not None and item - self._first_ns >= RAW_NS:
                self._say()
        elif self._first_ns is None:
            self._first_ns = item.t_ns

    def _say(self) -> None:
        self._number += 1
        self._outgoing.say_raw(wire.encode_raw(self._number, self._items), len(self._items))
        self._items = []
        self._bytes = 0
        self._first_ns = None


class ListenerDrops:
    """What the kernel has dropped for the uevent sockets of this namespace since they were first looked at.

    A socket that is closed keeps its share, so the sum never falls.
    """

    def __init__(self) -> None:
        self._first: dict[int, int] = {}
        self._last: dict[int, int] = {}
        self._gone = 0

    def take(self) -> int | None:
        """Look again; the sum, or None where the kernel's table cannot be read."""
        try:
            text = _TABLE.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        now = {row.inode: row.drops for row in parse_proc_netlink(text).rows}
        for inode in self._first.keys() - now.keys():
            self._gone += self._last.pop(inode) - self._first.pop(inode)
        for inode, drops in now.items():
            self._first.setdefault(inode, drops)
        self._last = now
        return self._gone + sum(drops - self._first[inode] for inode, drops in now.items())


def _rss_bytes() -> int:
    """Resident memory of this process (proc(5), statm); 0 where that cannot be read."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0
