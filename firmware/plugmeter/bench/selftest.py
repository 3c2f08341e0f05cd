"""The self-test: losses that are provoked and proven, and a report that must name exactly those.

Each part is a real run of the injected rig. A control beside the witnesses hears every uevent; what it has
and a witness lacks is the proven loss, by SEQNUM and, where it is a stick's add or remove, by episode. The
report of the run is then held against that, figure by figure.

It stands in ``bench`` because it measures Plugmeter itself, by whole runs: above ``equipment``, and below
``commands``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from plugmeter import equipment
from plugmeter.bench.control import Control
from plugmeter.equipment import Plan
from plugmeter.measure.pipeline import Pipeline
from plugmeter.measure.report import Report, build
from plugmeter.measure.stages import Stage
from plugmeter.recording import Input
from plugmeter.records import Uevent
from plugmeter.rigs.injection import Injector
from plugmeter.run import Equipment, Stop, measure
from plugmeter.sections import Config
from plugmeter.witnesses.netlink import NetlinkWitness

DROP_EVERY = 3
"""The udevd of part udevd loses every 3rd uevent: prime to the 16 of a plug, so that all kinds are hit."""

LEAST_STICKS = 12
"""With fewer no loss may be provoked: none in the middle third, or none that udevd happens to drop."""

BEACON = (
    b"change@/devices/virtual/plugmeter/selftest\0ACTION=change\0"
    b"DEVPATH=/devices/virtual/plugmeter/selftest\0SUBSYSTEM=plugmeter\0"
)
"""The last uevent of a run: it closes every hole in the SEQNUMs, so that each drop has a number."""

_BEACON_AFTER_NS = 100_000_000
_SMALLEST_BUFFER = 1
"""Bytes; the kernel makes its own minimum of it (socket(7): 256, doubled, and room for one buffer)."""

Progress: TypeAlias = Callable[[Pipeline, int, int], None]


@dataclass(frozen=True, slots=True)
class Check:
    """One figure: as it must be, and as the report names it."""

    what: str
    expected: Any
    named: Any

    @property
    def passed(self) -> bool:
        """Whether they are the same."""
        return bool(self.expected == self.named)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One part: what was done, how the report compares, and the report itself."""

    name: str
    did: str
    checks: tuple[Check, ...]
    report: Report

    @property
    def passed(self) -> bool:
        """Whether every figure is as it must be."""
        return all(check.passed for check in self.checks)


@dataclass(frozen=True, slots=True)
class Proof:
    """What was lost for certain: ``losses`` are (port, ordinal, plug or pull, stage), in order."""

    losses: tuple[tuple[str, int, str, str], ...]
    episodes: int
    netlink_missing: int
    """Uevents that the kernel broadcast and the netlink witness never got."""
    overruns: int
    """Of the control's own socket: with one of them there is no proof."""

    def by_stage(self) -> dict[str, int]:
        """How many episodes each stage lost; all stages are there."""
        counts = Counter(stage for *_, stage in self.losses)
        return {str(stage): counts[stage] for stage in Stage}


def selftest(config: Config) -> Iterator[Outcome]:
    """The four parts, one after the other. PlugmeterError where the system does not let them be run."""
    yield _stalled(config)
    yield _undisturbed(config)
    yield _deaf_udevd(config)
    yield _dying_rig(config)


def _stalled(config: Config) -> Outcome:
    small = replace(config, netlink=replace(config.netlink, receive_buffer_bytes=_SMALLEST_BUFFER))
    stall: list[_Stall] = []

    def direct(gear: Equipment) -> Progress:
        stall.append(_Stall(gear))
        return stall[0].show

    report, proof = _run(small, Plan("injected"), direct)
    did = (
        f"the netlink witness had the smallest buffer that the kernel grants ({stall[0].buffer_bytes:,} "
        f"bytes) and read nothing for {stall[0].held_ms} ms in the middle of the run"
    )
    checks = (
        Check("a loss was provoked", True, proof.netlink_missing > 0 and bool(proof.losses)),
        *held_against(report, proof),
    )
    return Outcome("socket queue", did, checks, report)


def _undisturbed(config: Config) -> Outcome:
    report, proof = _run(config, Plan("injected"), _Beacon)
    checks = (
        Check("uevents lost, by the control", 0, proof.netlink_missing),
        Check("episodes lost, by the control", (), proof.losses),
        *held_against(report, proof),
    )
    return Outcome("nothing lost", "nothing was provoked", checks, report)


def _deaf_udevd(config: Config) -> Outcome:
    report, proof = _run(config, Plan("injected", udevd_drops_every=DROP_EVERY), _Beacon)
    only = {stage for *_, stage in proof.losses}
    checks = (
        Check("a loss was provoked, at one stage", {str(Stage.UDEVD)}, only),
        *held_against(report, proof),
    )
    return Outcome("udevd", f"the stand-in for udevd lost every {DROP_EVERY}rd uevent", checks, report)


def _dying_rig(config: Config) -> Outcome:
    dies_after = config.rig.sticks * config.rig.cycles
    report, _ = _run(config, Plan("injected", die_after_steps=dies_after), _Beacon)
    certificate = report["certificate"]
    died = [reason for reason in certificate["reasons"] if f"the rig died after {dies_after} of" in reason]
    checks = (
        Check("certificate.valid", False, certificate["valid"]),
        Check("reasons that say how the rig died", 1, len(died)),
        Check("lost", 0, sum(report["lost"].values())),
    )
    return Outcome("dead rig", f"the rig died after {dies_after} plugs and pulls", checks, report)


class _Beacon:
    """Sends the beacon once the rig has emitted its last."""

    def __init__(self, gear: Equipment) -> None:
        self._rig = gear.rig
        self._finished_ns: int | None = None
        self._sent = False

    def __call__(self, pipeline: Pipeline, done: int, total: int) -> None:
        now_ns = time.monotonic_ns()
        if self._rig.finished and self._finished_ns is None:
            self._finished_ns = now_ns
        if self._finished_ns is None or self._sent or now_ns - self._finished_ns < _BEACON_AFTER_NS:
            return
        with Injector() as injector:
            injector.inject(BEACON)
        self._sent = True


class _Stall:
    """Stalls the netlink witness from the first third of the plan to the second."""

    def __init__(self, gear: Equipment) -> None:
        self._beacon = _Beacon(gear)
        self._netlink = next(each for each in gear.witnesses if isinstance(each, NetlinkWitness))
        self._from_ns: int | None = None
        self._until_ns: int | None = None

    @property
    def buffer_bytes(self) -> int:
        """The stalled socket's buffer, as the kernel counts it."""
        return self._netlink.privileges.receive_buffer_bytes

    @property
    def held_ms(self) -> int:
        """How long the stall was."""
        if self._from_ns is None or self._until_ns is None:
            return 0
        return (self._until_ns - self._from_ns) // 1_000_000

    def show(self, pipeline: Pipeline, done: int, total: int) -> None:
        """To be called again and again, as a run calls for its progress."""
        if self._from_ns is None and 3 * done >= total:
            self._from_ns = time.monotonic_ns()
            self._netlink.pause()
        if self._from_ns is not None and self._until_ns is None and 3 * done >= 2 * total:
            self._until_ns = time.monotonic_ns()
            self._netlink.resume()
        self._beacon(pipeline, done, total)


def _run(config: Config, plan: Plan, direct: Callable[[Equipment], Progress]) -> tuple[Report, Proof]:
    """One run with a control beside it: the report, and what the control proves."""
    had: dict[str, set[int]] = {"netlink": set(), "udev": set()}

    def keep(item: Input) -> None:
        if isinstance(item, Uevent):
            had[item.witness].add(item.seqnum)

    with equipment.equipment(config, plan, keep) as gear, Control() as control:
        pipeline = measure(gear, Stop(), direct(gear))
        control.stop()
    return build(pipeline), proof_of(control, had)


def proof_of(control: Control, had: dict[str, set[int]]) -> Proof:
    """What the control heard and the witnesses (by name, the SEQNUMs that they had) did not."""
    ordinals: Counter[str] = Counter()
    losses = []
    for event in control.kernel:
        if not event.port:
            continue
        ordinals[event.port] += 1
        if event.seqnum not in had["netlink"]:
            stage = Stage.SOCKET_QUEUE
        elif event.seqnum not in control.udev:
            stage = Stage.UDEVD
        elif event.seqnum not in had["udev"]:
            stage = Stage.UDEV_SOCKET_QUEUE
        else:
            continue
        losses.append((event.port, ordinals[event.port], "plug" if event.plugged else "pull", str(stage)))
    missing = {event.seqnum for event in control.kernel} - had["netlink"]
    return Proof(tuple(sorted(losses)), ordinals.total(), len(missing), control.overruns)


def held_against(report: Report, proof: Proof) -> Iterator[Check]:
    """Every figure of the report that the proof has a say in."""
    named = tuple(
        sorted((loss["port"], loss["ordinal"], loss["action"], loss["stage"]) for loss in report["losses"])
    )
    yield Check("overruns of the control", 0, proof.overruns)
    yield Check("expected", proof.episodes, report["expected"])
    yield Check("lost", proof.by_stage(), report["lost"])
    yield Check("losses", proof.losses, named)
    yield Check("matched + late", proof.episodes - len(proof.losses), report["matched"] + report["late"])
    yield Check("orphans + duplicates", 0, report["orphans"] + report["duplicates"])
    yield Check("witnesses.netlink.lost", proof.netlink_missing, report["witnesses"]["netlink"]["lost"])
    yield Check("seqnums.lost", proof.netlink_missing, report["seqnums"]["lost"])
    yield Check("conservation.holds", True, report["conservation"]["holds"])
    yield Check("certificate.valid", True, report["certificate"]["valid"])
