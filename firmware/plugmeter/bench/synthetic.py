"""A recording that no run made: as many records as asked for, in the proportions of a run.

For each plug and pull of a ``rigs.sequence`` plan: the level driven and its edge, the stick's 16 uevents from
the kernel's group and the same from udevd's, what inotify has of its nodes; and now and then the watermark,
as the run's loop writes it. All of it is made in memory; times are offsets from an arbitrary start.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from plugmeter import __version__
from plugmeter.recording import Input
from plugmeter.records import (
    Driven,
    Edge,
    Level,
    LineAccount,
    NodeEvent,
    RunEnd,
    RunStart,
    Tally,
    Uevent,
    WitnessName,
)
from plugmeter.rigs.numbering import Numbering
from plugmeter.rigs.sequence import SequencePlan, Step, plan
from plugmeter.rigs.stick import Attachment, KernelUevent, Stick, plug_events, pull_events

_PORTS = tuple(f"1-{number}" for number in range(1, 17))
_RECORDS_PER_PAIR = 77
_MS = 1_000_000
_BEGUN_NS = 1_000_000_000
_ADVANCE_NS = 50 * _MS
_ADD_AFTER_NS = 105 * _MS
_REMOVE_AFTER_NS = 5 * _MS
_BETWEEN_EVENTS_NS = 200_000
_UDEV_AFTER_NS = 2 * _MS


def recording(records: int, seed: int = 7) -> Iterator[Input]:
    """About ``records`` records (watermarks not counted), in the order in which a run would write them."""
    pairs = max(1, records // _RECORDS_PER_PAIR)
    sequence = SequencePlan(
        sticks=min(120, pairs), cycles=-(-pairs // 120), ports=_PORTS, gap_ms=250, seed=seed
    )
    steps = plan(sequence)[: 2 * pairs]
    yield _start(sequence)
    yield from (Level(_BEGUN_NS, port, False) for port in _PORTS)
    timed = sorted(_records(steps, random.Random(seed)), key=lambda record: record.t_ns)
    due_ns = _BEGUN_NS
    counts: dict[WitnessName, int] = {"gpio": 0, "netlink": 0, "udev": 0, "inotify": 0}
    for record in timed:
        while record.t_ns > due_ns:
            yield due_ns
            due_ns += _ADVANCE_NS
        counts[_witness_of(record)] += not isinstance(record, Driven)
        yield record
    end_ns = due_ns + 2_000 * _MS
    high = {step.port: step.plugged for step in steps}
    for port in _PORTS:
        yield Level(end_ns, port, high.get(port, False))
        yield LineAccount(end_ns, port, "MockFactory", False)
    yield from (Tally(end_ns, name, offered) for name, offered in counts.items())
    yield RunEnd(end_ns, emitted=counts["netlink"])


def _start(sequence: SequencePlan) -> RunStart:
    return RunStart(
        t_ns=_BEGUN_NS,
        rig="synthetic",
        truth="simulated",
        ports=_PORTS,
        witnesses=("gpio", "netlink", "udev", "inotify"),
        debounce_ns=100 * _MS,
        nominal_ns=3_000 * _MS,
        lost_after_ns=30_000 * _MS,
        storm_quiet_ns=1_000 * _MS,
        claim_rate=0.001,
        seed=sequence.seed,
        started_at="2026-01-01T00:00:00+00:00",
        version=__version__,
        host={"machine": "none", "kernel": "none", "hostname": "none"},
        plan={"sticks": sequence.sticks, "cycles": sequence.cycles},
    )


def _witness_of(record: Driven | Edge | Uevent | NodeEvent) -> WitnessName:
    if isinstance(record, Uevent):
        return record.witness
    return "inotify" if isinstance(record, NodeEvent) else "gpio"


def _records(steps: list[Step], draw: random.Random) -> Iterator[Driven | Edge | Uevent | NodeEvent]:
    numbering = Numbering()
    attached: dict[str, Attachment] = {}
    edges = dict.fromkeys(_PORTS, 0)
    seqnum = 1000
    for step in steps:
        t_ns = _BEGUN_NS + step.t_offset_ns + 10 * _MS
        edges[step.port] += 1
        yield Driven(t_ns, step.port, step.plugged)
        yield Edge(t_ns + 20_000, step.port, step.plugged, edges[step.port])
        if step.plugged:
            stick = attached[step.port] = numbering.attach(Stick(step.stick), step.port)
            events = plug_events(stick)
            at_ns = t_ns + _ADD_AFTER_NS
        else:
            stick = attached.pop(step.port)
            events = pull_events(stick)
            numbering.detach(stick)
            at_ns = t_ns + _REMOVE_AFTER_NS
        at_ns += draw.randrange(10 * _MS)
        for event in events:
            seqnum += 1
            at_ns += _BETWEEN_EVENTS_NS
            yield _uevent(event, at_ns, "netlink", seqnum)
            yield _uevent(event, at_ns + _UDEV_AFTER_NS, "udev", seqnum)
            if event.node and event.action in ("add", "remove"):
                yield NodeEvent(at_ns, "create" if event.action == "add" else "delete", event.node)


def _uevent(event: KernelUevent, t_ns: int, witness: WitnessName, seqnum: int) -> Uevent:
    devtype = dict(event.variables).get("DEVTYPE", "")
    return Uevent(t_ns, witness, seqnum, event.action, event.devpath, event.subsystem, devtype, event.node)
