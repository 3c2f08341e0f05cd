"""How many uevents a second: the netlink witness and the whole pipeline against pyudev's bare polling.

Two questions, two measurements, each in a child process that does nothing else:

**capacity**: so many uevents are put into the listener's queue while it waits; then it is told to go, and
the time until it has taken the last of them is its capacity, whatever the speed of whoever emits them. Within
the time lies all that the listener does to an event: receive, parse, make its record, count it; for the
pipeline the way to the ledger as well. Outside of it lies the emitting. The witness's thread has up to a
ring of messages (2,048) received before the go; nothing of them is parsed. All get the same buffer.

**burst**: so many uevents at the kernel's full speed at a witness that reads as it always does; then it
says how many it delivered and how many it knows to have lost, and the two must add up to what was emitted.
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import pyudev

from plugmeter.bench.flood import Flood
from plugmeter.bench.storm import Profile, prepare
from plugmeter.bench.worker import Link, Worker
from plugmeter.errors import PlugmeterError
from plugmeter.measure.pipeline import Pipeline
from plugmeter.records import Gap, RunStart
from plugmeter.run import ready_interpreter
from plugmeter.witnesses.netlink import NetlinkWitness
from plugmeter.witnesses.socket_queue import SocketQueue

BUFFER_BYTES = 128 << 20
BURST_EVENTS = 100_000
SMALL_BUFFER_BYTES = 65_536
SMALL_BUFFER_PAUSE_S = 0.02

_QUEUE_BYTES_PER_EVENT = 3000
"""More than the kernel charges a queue for an event of 300 bytes (sk_buff's truesize)."""
_SILENCE_MS = 1000
_SETTLE_MS = 300


class Reader(Protocol):
    """A listener as it is measured here: it counts, and no more."""

    buffer_bytes: int
    """What its queue holds, as the kernel counts it."""

    def take(self, count: int) -> int:
        """Read until ``count`` events are taken, or nothing comes any more; how many were."""
        ...


class _WitnessReader:
    """The netlink witness with its default settings."""

    def __init__(self) -> None:
        self.witness = NetlinkWitness(receive_buffer_bytes=BUFFER_BYTES)
        self.buffer_bytes = self.witness.privileges.receive_buffer_bytes
        self._poller = select.poll()
        self._poller.register(self.witness, select.POLLIN)

    def take(self, count: int) -> int:
        taken = 0
        while taken < count and self._poller.poll(_SILENCE_MS):
            taken += len(self.witness.read())
        return taken


class _PipelineReader(_WitnessReader):
    """The netlink witness and the pipeline behind it: what is taken is what the ledger has."""

    def __init__(self) -> None:
        super().__init__()
        start = RunStart(
            t_ns=time.monotonic_ns(),
            rig="bench",
            truth="simulated",
            ports=(),
            witnesses=("netlink",),
            debounce_ns=10**8,
            nominal_ns=3 * 10**9,
            lost_after_ns=30 * 10**9,
            storm_quiet_ns=10**9,
            claim_rate=0.001,
            seed=0,
            started_at="",
            version="",
        )
        self._pipeline = Pipeline(start)

    def take(self, count: int) -> int:
        ledger = self._pipeline.witnesses["netlink"]
        before = ledger.delivered
        while ledger.delivered - before < count and self._poller.poll(_SILENCE_MS):
            self._pipeline.feed(self.witness.read())
            self._pipeline.advance(time.monotonic_ns())
        return ledger.delivered - before


class _PyudevReader:
    """pyudev's Monitor, polled, with the same buffer; nothing is asked of the devices that it gives."""

    def __init__(self) -> None:
        self._monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
        self._monitor.start()
        with socket.socket(fileno=os.dup(self._monitor.fileno())) as same:
            self.buffer_bytes = SocketQueue(same).grow(BUFFER_BYTES)

    def take(self, count: int) -> int:
        poll = self._monitor.poll
        taken = 0
        while taken < count and poll(_SILENCE_MS / 1000) is not None:
            taken += 1
        return taken


class _PyudevFieldsReader(_PyudevReader):
    """The same, and read from each device what one of our records holds."""

    def take(self, count: int) -> int:
        poll = self._monitor.poll
        taken = 0
        while taken < count and (device := poll(_SILENCE_MS / 1000)) is not None:
            known = (
                device.sequence_number,
                device.action,
                device.device_path,
                device.subsystem,
                device.device_type,
                device.device_node,
            )
            taken += known is not None
        return taken


READERS: Mapping[str, Callable[[], Reader]] = {
    "plugmeter": _WitnessReader,
    "pipeline": _PipelineReader,
    "pyudev": _PyudevReader,
    "pyudev, fields read": _PyudevFieldsReader,
}


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one reader made of a queue full of events."""

    reader: str
    events: int
    taken: int
    events_per_s: float
    cpu_us_per_event: float
    """User and system time of the reader's process, its receive thread included."""


@dataclass(frozen=True, slots=True)
class Burst:
    """What the netlink witness made of a burst. ``accounted``: delivered + known lost = emitted."""

    emitted: int
    delivered: int
    known_lost: int
    emitted_per_s: float
    events_per_s: float
    """Delivered, from the first to the last."""
    buffer_bytes: int

    @property
    def accounted(self) -> bool:
        """Whether every event has exactly one fate."""
        return self.delivered + self.known_lost == self.emitted


def payloads(profile: Profile) -> list[bytes]:
    """A storm's uevents as they go on the wire, without a moment in their paths."""
    return [
        (head % (0, 0) + rest).replace(b"/plugmeter-0/", b"/")
        for step in prepare(profile)
        for head, rest in step
    ]


def capacity(reader: str, profile: Profile, events: int) -> Capacity:
    """How fast ``reader`` takes ``events`` from its queue, in as many rounds as its buffer makes needful.

    PlugmeterError where it did not get them all: then the figure would mean nothing.
    """
    taken, wall_ns, cpu_ns = 0, 0, 0
    with Worker(lambda link: _read(READERS[reader](), link)) as link, Flood(payloads(profile)) as flood:
        room = max(1, link.hear()["buffer_bytes"] // _QUEUE_BYTES_PER_EVENT)
        while flood.emitted < events:
            count = min(room, events - flood.emitted)
            flood.send(count)
            link.say(take=count)
            result = link.hear()
            taken += result["taken"]
            wall_ns += result["wall_ns"]
            cpu_ns += result["cpu_ns"]
        link.say(take=0)
    if taken != events:
        raise PlugmeterError(
            f"reader {reader} took {taken} of {events} uevents; something else empties or fills its queue"
        )
    return Capacity(reader, events, taken, taken * 1e9 / wall_ns, cpu_ns / 1000 / taken)


def _read(reader: Reader, link: Link) -> None:
    ready_interpreter()
    link.say(buffer_bytes=reader.buffer_bytes)
    cpu_ns = time.process_time_ns()
    while count := link.hear()["take"]:
        begun_ns = time.perf_counter_ns()
        taken = reader.take(count)
        spent_ns = time.perf_counter_ns() - begun_ns
        before_ns, cpu_ns = cpu_ns, time.process_time_ns()
        link.say(taken=taken, wall_ns=spent_ns, cpu_ns=cpu_ns - before_ns)


def burst(events: int = BURST_EVENTS, buffer_bytes: int | None = None, pause_s: float = 0.0) -> Burst:
    """``events`` uevents of sticks at full speed; ``buffer_bytes`` None is the witness's default setting.

    With ``pause_s`` the reader rests after each read, so that a small buffer overruns again and again.
    """
    with (
        Worker(lambda link: _listen(link, buffer_bytes, pause_s)) as link,
        Flood(payloads("sticks")) as flood,
    ):
        effective_bytes = link.hear()["buffer_bytes"]
        begun_ns = time.perf_counter_ns()
        flood.send(events)
        spent_ns = time.perf_counter_ns() - begun_ns
        link.say(over=True)
        heard = link.hear()
    listened_ns = heard["last_ns"] - heard["first_ns"]
    return Burst(
        emitted=flood.emitted,
        delivered=heard["delivered"],
        known_lost=heard["known_lost"],
        emitted_per_s=events * 1e9 / spent_ns,
        events_per_s=heard["delivered"] * 1e9 / listened_ns if listened_ns else 0.0,
        buffer_bytes=effective_bytes,
    )


def _listen(link: Link, buffer_bytes: int | None, pause_s: float) -> None:
    witness = NetlinkWitness() if buffer_bytes is None else NetlinkWitness(receive_buffer_bytes=buffer_bytes)
    ready_interpreter()
    poller = select.poll()
    poller.register(witness, select.POLLIN)
    link.say(buffer_bytes=witness.privileges.receive_buffer_bytes)
    delivered = known_lost = first_ns = last_ns = 0
    while poller.poll(_SETTLE_MS) or not link.has_word():
        for record in witness.read():
            if isinstance(record, Gap):
                known_lost += record.count or 0
            else:
                delivered += 1
        if delivered:
            last_ns = time.monotonic_ns()
            first_ns = first_ns or last_ns
        if pause_s:
            time.sleep(pause_s)
    # What was dropped after the last message that came through rings no bell.
    for record in witness.read():
        known_lost += (record.count or 0) if isinstance(record, Gap) else 0
    witness.close()
    link.say(delivered=delivered, known_lost=known_lost, first_ns=first_ns, last_ns=last_ns)


@dataclass(frozen=True, slots=True)
class Throughput:
    """Medians of paired runs; the ratios are medians of each run's own ratio."""

    runs: int
    events: int
    witness_per_s: float
    witness_cpu_us: float
    witness_ratio: float
    """Against pyudev's bare polling."""
    witness_ratio_fields: float
    """Against pyudev polled, with the fields read that our records hold."""
    pyudev_fields_per_s: float
    pyudev_fields_cpu_us: float
    pyudev_per_s: float
    pyudev_cpu_us: float
    pipeline_per_s: float
    pipeline_cpu_us: float
    pipeline_ratio: float
    """Against pyudev's bare polling, of the same events."""
    bursts: tuple[Burst, ...]
    """With the default settings."""
    squeezed: tuple[Burst, ...]
    """With a small buffer."""

    @property
    def burst_lost(self) -> int:
        """Of all bursts with the default settings."""
        return sum(each.emitted - each.delivered for each in self.bursts)

    @property
    def accounted(self) -> bool:
        """Whether all bursts, of either kind, add up."""
        return all(each.accounted for each in (*self.bursts, *self.squeezed))

    def as_json(self) -> dict[str, Any]:
        """The figures with what is derived from them."""
        return {
            **asdict(self),
            "bursts": [{**asdict(each), "accounted": each.accounted} for each in self.bursts],
            "squeezed": [{**asdict(each), "accounted": each.accounted} for each in self.squeezed],
            "burst_lost": self.burst_lost,
            "accounted": self.accounted,
        }


def measure(
    runs: int = 5,
    events: int = 80_000,
    burst_events: int = BURST_EVENTS,
    tell: Callable[[str], None] = lambda line: None,
) -> Throughput:
    """All of it, in the namespace of the caller; ``tell`` gets a line of progress for each step."""
    rounds = []
    for number in range(runs):
        tell(f"run {number + 1} of {runs}: capacity")
        rounds.append(
            (
                capacity("plugmeter", "sticks", events),
                capacity("pyudev", "sticks", events),
                capacity("pipeline", "devices", events),
                capacity("pyudev", "devices", events),
                capacity("pyudev, fields read", "sticks", events),
            )
        )
    bursts, squeezed = [], []
    for number in range(runs):
        tell(f"run {number + 1} of {runs}: burst of {burst_events:,}")
        bursts.append(burst(burst_events))
        squeezed.append(burst(burst_events, SMALL_BUFFER_BYTES, SMALL_BUFFER_PAUSE_S))
    median = statistics.median
    return Throughput(
        runs=runs,
        events=events,
        witness_per_s=median(each[0].events_per_s for each in rounds),
        witness_cpu_us=median(each[0].cpu_us_per_event for each in rounds),
        witness_ratio=median(each[0].events_per_s / each[1].events_per_s for each in rounds),
        witness_ratio_fields=median(each[0].events_per_s / each[4].events_per_s for each in rounds),
        pyudev_fields_per_s=median(each[4].events_per_s for each in rounds),
        pyudev_fields_cpu_us=median(each[4].cpu_us_per_event for each in rounds),
        pyudev_per_s=median(each[1].events_per_s for each in rounds),
        pyudev_cpu_us=median(each[1].cpu_us_per_event for each in rounds),
        pipeline_per_s=median(each[2].events_per_s for each in rounds),
        pipeline_cpu_us=median(each[2].cpu_us_per_event for each in rounds),
        pipeline_ratio=median(each[2].events_per_s / each[3].events_per_s for each in rounds),
        bursts=tuple(bursts),
        squeezed=tuple(squeezed),
    )
