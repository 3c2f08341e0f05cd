"""One run: drives the witnesses and a rig, and hands the pipeline what they say. Owns clock and loop.

The pipeline is pure; this is the driver beside it. Every input that the pipeline gets passes
``_Feed``, which can also write it down: so a recording holds just what the report was made of.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from plugmeter.errors import PlugmeterError
from plugmeter.measure.pipeline import Pipeline
from plugmeter.recording import Input
from plugmeter.records import Level, LineAccount, Presence, Record, RunEnd, RunStart
from plugmeter.rigs.rig import Rig
from plugmeter.witnesses.witness import Witness

REORDER_NS = 20_000_000
"""How long a stamped record may take from its witness's thread to the loop before the timeline moves on."""

SWITCH_INTERVAL_S = 0.0005
"""How long one thread may keep the interpreter from another (sys.setswitchinterval) where we measure.
The default of 5 ms would stand in every time stamp that a busy pipeline delays."""

COLLECT_AFTER = (20_000, 50, 1000)
"""gc.set_threshold where we measure: records live for milliseconds and are in no cycles, so that looking
at them every 700 (the default) costs a tenth of the throughput and finds nothing."""

TICK_S = 0.05
PROGRESS_TICK_S = 0.25
"""How often somebody who watches sees that nothing happens."""
IDLE_TICK_S = 1.0
ADVANCE_NS = 10_000_000
"""How often the pipeline moves on in a storm. Each time it asks every port, so not at each wake-up."""
QUIET_NS = 300_000_000
"""A rig is done and nothing waits: after this long without a record the run is over."""
STOP_GRACE_NS = 1_000_000_000
"""After Ctrl-C: how long what is under way may take to be seen."""


def ready_interpreter() -> None:
    """Set the interpreter up for measuring, once everything is loaded and opened: what is there stays."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


class GroundTruth(Protocol):
    """The gpio witness, as far as a run needs more of it than of the others."""

    def levels(self, reason: str) -> Sequence[Level]:
        """The lines as they are read now."""
        ...

    def accounts(self) -> Sequence[LineAccount]:
        """What is known of the lines apart from their edges."""
        ...


@dataclass(slots=True)
class Equipment:
    """What a run is made with; put together by ``equipment``."""

    start: RunStart
    witnesses: Sequence[Witness]
    rig: Rig
    truth: GroundTruth | None = None
    sample: Callable[[str], Sequence[Record]] = lambda reason: ()
    """Records that are read at the "start" and the "end": listeners, coldplug."""
    before: Sequence[Record] = ()
    """What is known from before the start: the last run's coldplug scan."""
    resync: Callable[[], Sequence[Record]] | None = None
    """A coldplug scan, for what changed while a witness was losing records."""
    keep: Callable[[Input], None] | None = None
    """Gets every input of the pipeline, to write it down. An OSError of its ends the recording."""


@dataclass(slots=True)
class Stop:
    """A request to end the run early, safe to set from a signal handler or from another thread."""

    asked: bool = False
    resync_asked: bool = False
    descriptor: int = field(default_factory=lambda: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))

    def ask(self) -> None:
        """End the run soon, with what was seen."""
        self.asked = True
        os.eventfd_write(self.descriptor, 1)

    def ask_resync(self) -> None:
        """No end: a coldplug scan in the middle of the run."""
        self.resync_asked = True
        os.eventfd_write(self.descriptor, 1)

    def hear(self) -> None:
        """For the loop: lower the descriptor, before it looks at what is asked."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)


class Watcher(Protocol):
    """Somebody who follows a run while it is made. Called from the loop, so whoever dawdles delays it."""

    def began(self, first: Sequence[Record]) -> None:
        """The witnesses are bound, and ``first`` are the first scans; the rig starts next."""
        ...

    def turned(self, pipeline: Pipeline, worked: bool) -> None:
        """One turn of the loop is done, a second at most after the last; ``worked``: it got records."""
        ...

    def resynced(self, devices: int | None) -> None:
        """The scan that ``Stop.ask_resync`` asked for is in, with so many devices; None if it failed."""
        ...


class _Feed:
    """The one way into the pipeline."""

    def __init__(self, pipeline: Pipeline, keep: Callable[[Input], None] | None) -> None:
        self._pipeline = pipeline
        self._keep = keep
        self.failure: str | None = None

    def records(self, records: Sequence[Record]) -> None:
        if records:
            self._pipeline.feed(records)
            self._write(records)

    def resync(self, look: Callable[[], Sequence[Record]]) -> int | None:
        """A scan in mid-run, and its devices; one that cannot be made leaves the run INVALID, and goes on."""
        try:
            found = look()
        except PlugmeterError as error:
            self.failure = self.failure or f"no resync in mid-run: {error}"
            return None
        self.records(found)
        return sum(len(each.devices) for each in found if isinstance(each, Presence))

    def advance(self, watermark_ns: int) -> None:
        self._pipeline.advance(watermark_ns)
        self._write((watermark_ns,))

    def start(self, start: RunStart) -> None:
        self._write((start,))

    def end(self, end: RunEnd) -> None:
        """Write the end down; the pipeline gets it from the caller, with what that brought to light."""
        self._write((end,))

    def _write(self, items: Iterable[Input]) -> None:
        if self._keep is None:
            return
        try:
            for item in items:
                self._keep(item)
        except OSError as error:
            self.failure = f"the recording could not be written: {error.strerror}"
            self._keep = None


def measure(
    equipment: Equipment,
    stop: Stop,
    on_progress: Callable[[Pipeline, int, int], None] | None = None,
    watcher: Watcher | None = None,
) -> Pipeline:
    """Run to the end, or until ``stop``; the pipeline that comes back is finished.

    With a ``watcher`` it keeps its news (``Pipeline.take_news``), also those of its end.

    The witnesses are open already and stay open: their closing is the caller's. A rig that dies, a
    recording that cannot be written: the run ends INVALID, with the reason in its ``RunEnd``.
    """
    rig = equipment.rig
    pipeline = Pipeline(equipment.start)
    if watcher is not None:
        pipeline.follow()
    feed = _Feed(pipeline, equipment.keep)
    feed.start(equipment.start)
    levels = equipment.truth.levels("start") if equipment.truth else ()
    first = [*equipment.before, *equipment.sample("start"), *levels]
    feed.records(first)
    with selectors.DefaultSelector() as selector:
        for witness in equipment.witnesses:
            # POLLERR is always reported; a witness whose socket overflowed reads and tells.
            selector.register(witness, selectors.EVENT_READ)
        selector.register(stop.descriptor, selectors.EVENT_READ)
        if watcher is not None:
            watcher.began(first)
        rig.start()
        interrupted = _until_done(equipment, stop, pipeline, feed, selector, on_progress, watcher)
    last, failure = _drain(equipment)
    feed.records(last)
    end = RunEnd(time.monotonic_ns(), _failures(rig.failure, failure, feed.failure), interrupted, rig.emitted)
    feed.end(end)
    if feed.failure and feed.failure not in end.failures:
        # Only now, with the last of it: the recording lacks its end, and so is INVALID as well.
        end = replace(end, failures=(*end.failures, feed.failure))
    pipeline.finish(end)
    return pipeline


def _failures(*lines: str | None) -> tuple[str, ...]:
    return tuple(line for line in lines if line)


def _until_done(
    equipment: Equipment,
    stop: Stop,
    pipeline: Pipeline,
    feed: _Feed,
    selector: selectors.BaseSelector,
    on_progress: Callable[[Pipeline, int, int], None] | None,
    watcher: Watcher | None,
) -> bool:
    """The loop; whether the run was stopped early."""
    rig, start = equipment.rig, equipment.start
    last_record_ns = time.monotonic_ns()
    finished_ns: int | None = None
    stopped_ns: int | None = None
    overruns = 0
    idle_tick_s = PROGRESS_TICK_S if on_progress else IDLE_TICK_S
    tick_s = TICK_S
    advanced_ns = 0
    while True:
        for ready, _ in selector.select(tick_s):
            if ready.fd == stop.descriptor:
                stop.hear()
        now_ns = time.monotonic_ns()
        got = 0
        for witness in equipment.witnesses:
            records = witness.read()
            got += len(records)
            feed.records(records)
        driven = rig.read()
        feed.records(driven)
        if got or driven:
            last_record_ns = now_ns
        if equipment.resync and pipeline.overruns != overruns and not got:
            # Dry again after an overrun: what is plugged now tells what the lost events were about.
            overruns = pipeline.overruns
            feed.resync(equipment.resync)
        if stop.resync_asked and equipment.resync:
            stop.resync_asked = False
            devices = feed.resync(equipment.resync)
            if watcher is not None:
                watcher.resynced(devices)
        if now_ns - advanced_ns >= ADVANCE_NS:
            advanced_ns = now_ns
            feed.advance(_watermark_ns(equipment.witnesses, now_ns))
            busy = len(pipeline.timeline) > 0 or pipeline.undecided > 0 or rig.progress()[1] > 0
            tick_s = TICK_S if busy or stopped_ns is not None else idle_tick_s
            if on_progress is not None:
                on_progress(pipeline, *rig.progress())
        elif got or driven:
            tick_s = TICK_S
        if watcher is not None:
            watcher.turned(pipeline, bool(got or driven))
        if stop.asked and stopped_ns is None:
            stopped_ns = now_ns
            tick_s = TICK_S
            rig.stop()
        if rig.finished and finished_ns is None:
            finished_ns = now_ns
        if stopped_ns is not None and now_ns - stopped_ns > STOP_GRACE_NS:
            return True
        if finished_ns is None:
            continue
        if rig.failure and now_ns - finished_ns > STOP_GRACE_NS:
            return stopped_ns is not None  # INVALID as it is: no need to wait for what it left half done
        quiet = now_ns - last_record_ns > QUIET_NS + start.debounce_ns and not pipeline.undecided
        if quiet or now_ns - finished_ns > start.lost_after_ns + start.debounce_ns + QUIET_NS:
            return stopped_ns is not None


def _watermark_ns(witnesses: Sequence[Witness], now_ns: int) -> int:
    """How far time has come for the pipeline: nothing older than this can still be read.

    In a storm a witness holds stamped records that one ``read`` did not take: not beyond the oldest.
    """
    held = (witness.held_since_ns() for witness in witnesses)
    return min([now_ns - REORDER_NS, *(since_ns - 1 for since_ns in held if since_ns is not None)])


def _drain(equipment: Equipment) -> tuple[list[Record], str | None]:
    """What the kernel still holds, then each witness's account of itself; and what failed, in one line."""
    records: list[Record] = list(equipment.rig.read())
    failure: str | None = None
    for witness in equipment.witnesses:
        while more := witness.read():
            records.extend(more)
    if equipment.truth:
        records += [*equipment.truth.levels("end"), *equipment.truth.accounts()]
    try:
        records += equipment.sample("end")
    except PlugmeterError as error:
        failure = str(error)  # the run is over: what was seen is not to be thrown away
    records += [witness.tally() for witness in equipment.witnesses]
    return records, failure
