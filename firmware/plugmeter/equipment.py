"""The only place where things are put together: a configuration becomes witnesses, a rig and a run."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gpiozero import GPIOZeroError
from gpiozero.pins import Factory

from plugmeter import __version__
from plugmeter.errors import UsageError
from plugmeter.plan import RIGS as RIGS
from plugmeter.plan import Plan as Plan
from plugmeter.plan import switch_lines
from plugmeter.recording import Input
from plugmeter.records import Presence, Record, RunStart
from plugmeter.rigs import namespace
from plugmeter.rigs.gadget import GadgetRig
from plugmeter.rigs.injected import InjectedRig
from plugmeter.rigs.injection import Injector
from plugmeter.rigs.lines import MockLines, OutputLines, mock_lines
from plugmeter.rigs.passive import PassiveRig
from plugmeter.rigs.planned import port_names, sequence_of
from plugmeter.rigs.relay import RelayRig
from plugmeter.rigs.rig import Rig
from plugmeter.rigs.sequence import SequencePlan, Step, plan
from plugmeter.rigs.udevd import UdevdStandIn
from plugmeter.rigs.world import World
from plugmeter.run import Equipment
from plugmeter.sections import Config
from plugmeter.witnesses import coldplug, pin_factories, snapshot
from plugmeter.witnesses.gpio import GpioWitness
from plugmeter.witnesses.gpiod_factory import GpiodFactory
from plugmeter.witnesses.inotify import InotifyWitness
from plugmeter.witnesses.listeners import ListenerScanner
from plugmeter.witnesses.netlink import NetlinkWitness
from plugmeter.witnesses.udev import UdevWitness
from plugmeter.witnesses.witness import Witness

_MS = 1_000_000


@dataclass(slots=True)
class _Setup:
    """What depends on the rig: itself, where its devices are seen, and who senses its lines."""

    rig: Rig
    truth: GpioWitness | None
    sysfs: Path
    directories: Sequence[Path]
    sequence: SequencePlan | None = None
    """What is plugged when; None where a human does it."""


@contextmanager
def equipment(
    config: Config,
    asked: Plan,
    keep: Callable[[Input], None] | None = None,
    tell: Callable[[str], None] = lambda note: None,
) -> Iterator[Equipment]:
    """Everything for one run, opened; and closed again, whatever happens in between.

    With the injected rig the process moves into a namespace of its own and stays there, so it must not have
    started a thread before. Errors: UsageError and RigError in one line each. ``tell`` gets, in one line
    each, what does not stop the run but its user must know before.
    """
    with ExitStack() as stack:
        setup = _SETUPS[asked.rig](config, asked, stack)
        witnesses = [*([setup.truth] if setup.truth else []), *_open_witnesses(config, setup, stack)]
        stack.callback(setup.rig.close)
        scanner = ListenerScanner() if config.witnesses.listeners else None

        def sample(reason: str) -> list[Record]:
            records: list[Record] = list(coldplug.look(reason, setup.sysfs))
            if scanner is not None:
                records.append(scanner.sample())
            if reason == "end" and asked.state is not None:
                snapshot.save(asked.state, coldplug.take(reason, setup.sysfs))
            return records

        before = _last_presence(asked.state, tell) if asked.state is not None else []
        if setup.sequence is not None:
            _warn_of_ambiguity(setup.sequence, config.run.debounce_ms, tell)
        yield Equipment(
            start=_run_start(config, setup, witnesses),
            witnesses=witnesses,
            rig=setup.rig,
            truth=setup.truth,
            sample=sample,
            before=before,
            resync=lambda: coldplug.look("resync", setup.sysfs),
            keep=keep,
        )


def _run_start(config: Config, setup: _Setup, witnesses: Sequence[Witness]) -> RunStart:
    system = os.uname()
    run = config.run
    return RunStart(
        t_ns=time.monotonic_ns(),
        rig=setup.rig.name,
        truth=setup.rig.truth,
        ports=setup.rig.ports,
        witnesses=tuple(witness.name for witness in witnesses),
        debounce_ns=run.debounce_ms * _MS,
        nominal_ns=run.nominal_ms * _MS,
        lost_after_ns=run.lost_after_ms * _MS,
        storm_quiet_ns=run.storm_quiet_ms * _MS,
        claim_rate=run.claim_loss_rate,
        seed=config.rig.seed,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        host={
            "machine": system.machine,
            "kernel": system.release,
            "hostname": system.nodename,
            "python": platform.python_version(),
            **_privileges(witnesses),
        },
        reorder_window_ns=config.netlink.reorder_window_ms * _MS,
        plan=setup.rig.plan,
    )


def _privileges(witnesses: Sequence[Witness]) -> dict[str, str]:
    """What the kernel granted to the netlink witness: an ordinary user's buffer ends at rmem_max."""
    for witness in witnesses:
        if isinstance(witness, NetlinkWitness):
            granted = witness.privileges
            extras = [name for name in ("realtime", "locked") if getattr(granted, name)]
            return {"netlink": ", ".join([f"buffer {granted.receive_buffer_bytes} bytes", *extras])}
    return {}


def _open_witnesses(config: Config, setup: _Setup, stack: ExitStack) -> list[Witness]:
    wanted = config.witnesses
    opened: list[Witness] = []
    if wanted.netlink:
        netlink = config.netlink
        opened.append(
            NetlinkWitness(
                receive_buffer_bytes=netlink.receive_buffer_bytes,
                ring_slots=netlink.ring_slots,
                realtime_priority=netlink.realtime_priority,
                lock_memory=netlink.lock_memory,
            )
        )
        stack.callback(opened[-1].close)
    if wanted.udev:
        expected = setup.rig.name != "injected"
        opened.append(UdevWitness(config.udev.receive_buffer_bytes, udevd_expected=expected))
        stack.callback(opened[-1].close)
    if wanted.inotify:
        opened.append(InotifyWitness(setup.directories))
        stack.callback(opened[-1].close)
    return opened


def _last_presence(state: Path, tell: Callable[[str], None]) -> list[Presence]:
    """The scan that the run before left, if there is one that can be read."""
    loaded = snapshot.load(state)
    if loaded.problem:
        tell(loaded.problem)
    if loaded.snapshot is None:
        return []
    last = loaded.snapshot
    reason = "last" if last.boot_id == snapshot.boot_id() else "last_other_boot"
    return [Presence(last.presence.t_ns, reason, last.presence.devices)]


def _warn_of_ambiguity(sequence: SequencePlan, debounce_ms: int, tell: Callable[[str], None]) -> None:
    """Tell where a plan has levels shorter than the debounce time: what is not stable is not expected."""
    if min(sequence.hold_floor_ns, sequence.rest_floor_ns) >= debounce_ms * _MS:
        return
    # Both ends of a hold move by the jitter. Without a stable hold nothing is ever plugged or pulled.
    never = sequence.grid().hold_ms + 2 * sequence.jitter_ms < debounce_ms
    enough_ms = math.ceil((debounce_ms + sequence.jitter_ms) / 50) * 50
    tell(
        f"with a gap of {sequence.gap_ms:g} ms and jitter of {sequence.jitter_ms:g} ms VBUS is "
        f"{'never' if never else 'not always'} stable for the debounce time of {debounce_ms} ms: "
        f"{'every pulse will be ambiguous and nothing expected' if never else 'pulses may be ambiguous'}; "
        f"give --gap-ms {enough_ms} or more"
    )


# -- one function a rig -----------------------------------------------------------------------------


def _parameters(sequence: SequencePlan) -> dict[str, int | float | str]:
    """A sequence for the report, in the words of the injected rig."""
    parameters: dict[str, int | float | str] = {
        "sticks": sequence.sticks,
        "cycles": sequence.cycles,
        "ports": len(sequence.ports),
        "gap_ms": sequence.gap_ms,
        "jitter_ms": sequence.jitter_ms,
        "seed": sequence.seed,
        "bounce": sequence.bounce,
    }
    if sequence.density_per_s is not None:
        parameters["density_per_s"] = sequence.density_per_s
    return parameters


def _setup_injected(config: Config, asked: Plan, stack: ExitStack) -> _Setup:
    if asked.real_lines:
        ports = tuple(port.name for port in config.ports)
        sense = {port.name: port.sense_gpio for port in config.ports}
        switch = switch_lines(config)
    else:
        ports = port_names(config, "injected")
    sequence = sequence_of(config, "injected", ports)
    namespace.enter()
    world = stack.enter_context(World(ports=ports))
    if asked.real_lines:
        factory = _factory(config, stack)
        outputs = OutputLines(factory, switch)
        stack.callback(outputs.close)
        drive: Callable[[str, bool], None] = outputs.drive
        truth = _open_truth(config, sense, factory, stack)
    else:
        mock = mock_lines(ports)
        stack.callback(mock.factory.close)
        drive = mock.drive
        truth = _open_mock_truth(config, mock, stack)
    rig = InjectedRig(
        sequence,
        world,
        drive,
        Injector(),
        UdevdStandIn(world.dev, drop_every=asked.udevd_drops_every),
        die_after_steps=asked.die_after_steps,
    )
    return _Setup(rig, truth, world.sys, [world.dev], sequence)


def _setup_gadget(config: Config, asked: Plan, stack: ExitStack) -> _Setup:
    lines: list[MockLines] = []

    def steps(ports: tuple[str, ...]) -> list[Step]:
        # Only the kernel knows the ports' names, so the lines can be made no sooner.
        lines.append(mock_lines(ports))
        return plan(sequence_of(config, "gadget", ports))

    rig = GadgetRig(config.rig.ports, steps, lambda port, high: lines[0].drive(port, high))
    stack.callback(rig.close)
    stack.callback(lines[0].factory.close)
    truth = _open_mock_truth(config, lines[0], stack)
    sequence = sequence_of(config, "gadget", rig.ports)
    return _Setup(rig, truth, Path("/sys"), _directories(config), sequence)


def _setup_relay(config: Config, asked: Plan, stack: ExitStack) -> _Setup:
    switch = switch_lines(config)
    sequence = sequence_of(config, "relay", port_names(config, "relay"))
    factory = _factory(config, stack)
    truth = _open_truth(config, {p.name: p.sense_gpio for p in config.ports}, factory, stack)
    rig = RelayRig(
        plan(sequence),
        switch,
        factory,
        active_high=config.gpio.switch_active_high,
        vbus_at_rest=config.gpio.vbus_at_rest,
        plan=_parameters(sequence),
    )
    return _Setup(rig, truth, Path("/sys"), _directories(config), sequence)


def _setup_passive(config: Config, asked: Plan, stack: ExitStack) -> _Setup:
    ports = tuple(port.name for port in config.ports)
    truth = None
    if ports and config.witnesses.gpio:
        factory = _factory(config, stack)
        truth = _open_truth(config, {p.name: p.sense_gpio for p in config.ports}, factory, stack)
    return _Setup(PassiveRig(ports, asked.duration_s), truth, Path("/sys"), _directories(config))


_SETUPS: Mapping[str, Callable[[Config, Plan, ExitStack], _Setup]] = {
    "injected": _setup_injected,
    "gadget": _setup_gadget,
    "relay": _setup_relay,
    "passive": _setup_passive,
}


def _directories(config: Config) -> list[Path]:
    return [Path(directory) for directory in config.inotify.directories]


def _factory(config: Config, stack: ExitStack) -> Factory:
    """The pin factory that the configuration names; gpiozero's global one is left alone."""
    name = config.gpio.factory
    if name == pin_factories.OWN:
        factory: Factory = GpiodFactory(config.gpio.chip or None)
    else:
        made = pin_factories.find(name)
        try:
            factory = made.load()()
        except (GPIOZeroError, ImportError, OSError, RuntimeError) as error:
            raise UsageError(f"gpio.factory = {name!r} cannot be used: {error}") from error
    stack.callback(factory.close)
    return factory


def _open_truth(
    config: Config, lines: Mapping[str, int | str], factory: Factory, stack: ExitStack
) -> GpioWitness | None:
    """The witness of real lines, unless the configuration wants none."""
    if not config.witnesses.gpio:
        return None
    pull_up = {"none": None, "up": True, "down": False}[config.gpio.pull]
    truth = GpioWitness(lines, factory, pull_up, config.gpio.active_high)
    stack.callback(truth.close)
    return truth


def _open_mock_truth(config: Config, mock: MockLines, stack: ExitStack) -> GpioWitness | None:
    if not config.witnesses.gpio:
        return None
    truth = GpioWitness(mock.pins, mock.factory)
    stack.callback(truth.close)
    return truth
