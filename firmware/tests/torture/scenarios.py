"""What is done to the device, the broker and the network between them: one function a scenario.

Each takes a folder, how often, and a seed; it leaves a proof, and raises AssertionError where something
hangs. The usual tests run a few of each, ``scripts/torture`` all of them.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.telemetry.broker import eventually
from tests.torture.clock import WallClock
from tests.torture.daemon import Daemon, await_committed
from tests.torture.faults import Faults, hits_in, strace_words
from tests.torture.proof import Proof
from tests.torture.rig import Rig, rig

CANNOT_WRITE = "cannot be written"
"""The outbox says so once, whenever that begins."""
CALLS = ("pwrite64", "fdatasync", "pread64")


def kill_9(folder: Path, times: int, seed: int) -> Proof:
    """kill -9 of the device at random moments; each time it starts again on what it left."""
    chance = random.Random(seed)
    with rig(folder) as it:
        for _ in it.turns(times):
            it.start_device()
            if chance.random() < 0.8:  # the rest dies while it starts
                it.await_committed(1)
                time.sleep(chance.random() * 0.3)
            else:
                time.sleep(chance.random() * 0.6)
            if it.kill_device():
                it.struck("running" if it.life.committed else "starting")
        it.start_device()
        it.await_committed(1)
        it.settle()
        return it.prove()


def kill_daemon(folder: Path, times: int, seed: int) -> Proof:
    """kill -9 of ``plugmeter run`` at random moments; the injected rig makes its records."""
    chance = random.Random(seed)
    with rig(folder) as it, Daemon(it) as daemon:
        for _ in it.turns(times):
            daemon.start()
            running = chance.random() < 0.8
            if running:
                await_committed(daemon)
                time.sleep(chance.random() * 3.0)  # its run begins after a second
            else:
                time.sleep(chance.random() * 0.8)
            if daemon.kill():
                it.struck("running" if running else "starting")
            daemon.look()
        daemon.start()
        await_committed(daemon)
        daemon.settle()
        proof = it.counted()
        daemon.prove(proof)
        return proof


def restart_broker(folder: Path, times: int, seed: int) -> Proof:
    """mosquitto ends, by SIGTERM or kill -9 in turn, and comes back having forgotten everything."""
    chance = random.Random(seed)
    with rig(folder) as it:
        it.start_device()
        for turn in it.turns(times):
            it.await_acknowledged()
            it.broker.restart(kill=turn % 2 == 1)
            it.struck(("SIGTERM", "SIGKILL")[turn % 2])
            time.sleep(chance.random() * 0.2)
        it.settle()
        return it.prove()


def kill_controller(folder: Path, times: int, seed: int) -> Proof:
    """kill -9 of the controller at random moments: what it had acknowledged it must have."""
    chance = random.Random(seed)
    with rig(folder) as it:
        it.start_device()
        for _ in it.turns(times):
            it.await_acknowledged()
            time.sleep(chance.random() * 0.3)
            it.stop_controller(signal.SIGKILL)
            it.struck()
            it.start_controller()
        it.settle()
        return it.prove()


def _between(do: Callable[[Rig], None], heal: bool = True) -> Callable[[Path, int, int], Proof]:
    """A scenario that does something to the link while records flow, again and again."""

    def scenario(folder: Path, times: int, seed: int) -> Proof:
        with rig(folder) as it:
            it.start_device()
            for _ in it.turns(times):
                it.await_acknowledged()
                do(it)
                it.struck()
                if heal:
                    time.sleep(0.1)
                    it.chaos.heal()
            it.chaos.heal()
            it.settle()
            return it.prove()

    scenario.__doc__ = do.__doc__
    return scenario


def _blackhole(it: Rig) -> None:
    """Nothing gets through any more, and nobody is told: the device notices by itself."""
    _connects_again(it, it.chaos.blackhole)


def _half_open(it: Rig) -> None:
    """The broker's end is gone; the device's still looks alive."""
    _connects_again(it, it.chaos.half_open)


def _connects_again(it: Rig, cut: Callable[[], None]) -> None:
    """Cut the connection, and wait until the device has noticed."""
    before = it.chaos.connections
    cut()
    eventually(lambda: it.chaos.connections > before, f"the device connects again; {it.log()}", 120)


def _reset(it: Rig) -> None:
    """RST in the middle of a PUBACK."""
    done = it.chaos.done["reset_in_puback"]
    it.chaos.reset_in_puback(count=1, topic="/records")
    _await_done(it, "reset_in_puback", done + 1)


def _refused(code: int) -> Callable[[Rig], None]:
    def act(it: Rig) -> None:
        done = it.chaos.done["rewrite_puback"]
        it.chaos.rewrite_puback(code, count=1, topic="/records")
        _await_done(it, "rewrite_puback", done + 1)

    act.__doc__ = f"A PUBACK with reason code 0x{code:02X}."
    return act


def _acks_lost(it: Rig) -> None:
    """The controller's acknowledgement never arrives."""
    done = it.chaos.done["lose"]
    it.chaos.lose_publishes("/acks", count=1)
    _await_done(it, "lose", done + 1)


def _acks_twice(it: Rig) -> None:
    """The controller's acknowledgement arrives twice."""
    done = it.chaos.done["repeat"]
    it.chaos.repeat_publishes("/acks", count=1)
    _await_done(it, "repeat", done + 1)


def _acks_swapped(it: Rig) -> None:
    """Two acknowledgements arrive in the wrong order."""
    done = it.chaos.done["swap"]
    it.chaos.swap_publishes("/acks", count=1)
    _await_done(it, "swap", done + 1)


def _await_done(it: Rig, what: str, times: int) -> None:
    deadline = time.monotonic() + 120
    while it.chaos.done[what] < times:
        assert time.monotonic() < deadline, f"{what} did not come about: {it.log()}"
        time.sleep(0.01)


def disk_full(folder: Path, times: int, seed: int) -> Proof:
    """The disk with the outbox is full for a while, again and again."""
    small = folder / "disk"
    small.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("needs root, to mount a small disk")
    try:
        with rig(folder / "rest", state=small) as it:
            it.start_device()
            filler = small / "filler"
            for _ in it.turns(times):
                it.await_committed(20)
                before = it.said(CANNOT_WRITE)
                with open(filler, "wb", buffering=0) as file:
                    try:
                        while True:
                            file.write(bytes(65536))
                    except OSError:
                        pass
                if _within(5.0, lambda: it.said(CANNOT_WRITE) > before):  # noqa: B023  called here and now
                    it.struck()
                time.sleep(0.2)
                filler.unlink()
            it.settle()
            return it.prove(exact=False)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)


def disk_error(folder: Path, times: int, seed: int) -> Proof:
    """Three EIO in a row for the outbox of the running device: it goes on, or is killed on top of that."""
    chance = random.Random(seed)
    with rig(folder, per_s=200) as it:
        it.start_device()
        for turn in it.turns(times):
            it.await_committed(1)
            call = CALLS[turn % len(CALLS)]
            before = it.said(CANNOT_WRITE)
            kill = turn // len(CALLS) % 2 == 1
            with Faults(it, call, chance.randrange(1, 6)) as faults:
                if faults.await_hit(5.0):
                    told = _within(0.5, lambda: it.said(CANNOT_WRITE) > before)  # noqa: B023  as above
                    assert it.life.process.poll() is None, f"the device ended by itself: {it.log()}"
                    it.struck(call, "told" if told else "not felt", "killed too" if kill else "went on")
                if kill:
                    it.kill_device()
            if kill:
                it.start_device()
        it.await_committed(1)
        it.settle()
        return it.prove(exact=False)


def disk_error_at_start(folder: Path, times: int, seed: int) -> Proof:
    """Three EIO in a row while the outbox is opened: it gets over them, or ends with one line."""
    chance = random.Random(seed)
    trace = folder / "trace"
    with rig(folder, per_s=200) as it:
        it.start_device()
        it.await_committed(1)
        it.kill_device()
        for turn in it.turns(times):
            call = CALLS[turn % len(CALLS)]
            trace.unlink(missing_ok=True)
            it.wrapper = strace_words(trace, call, chance.randrange(1, 6), it.state)
            it.start_device()
            it.await_committed_or_end()
            hit = hits_in(trace) > 0
            ended = it.life.process.poll()
            it.kill_device()
            if ended is not None:
                assert (ended, it.said("\n"), it.said("plugmeter: ")) == (1, 1, 1), it.log()
            if hit:
                it.struck(call, "started" if ended is None else "ended with a line")
        it.wrapper = ()
        it.start_device()
        it.await_committed(1)
        it.settle()
        return it.prove(exact=False)


def clock_steps(folder: Path, times: int, seed: int) -> Proof:
    """The wall clock of the device, or of the controller, is set a year on or back while records flow: all
    that the process does goes by it. In a fifth of the turns that process is then killed, and starts with it.
    """
    folder.mkdir(parents=True)
    clocks = (WallClock(folder, "device"), WallClock(folder, "controller"))
    with rig(folder, environ=clocks[0].environ, controller_environ=clocks[1].environ) as it:
        it.start_device()
        for turn in it.turns(times):
            it.await_acknowledged()
            eventually(lambda: it.life.last["pending"] > 0, "records are on their way", 30)
            who, step = turn % 2, turn // 2
            clock = clocks[who]
            clock.set_off((365, 0, -365, 0)[step % 4])
            if step % 5 == 4:
                _restart(it, who)
            if who == 0 and step % 4 == 3:
                _there_and_back(it, clock)
            shown = (lambda: it.life.last.get("wall_s", 0)) if who == 0 else it.newest_received_s
            eventually(lambda: clock.shows(shown()), "the clock is another", 120)  # noqa: B023  as above
            it.await_acknowledged()
            it.struck(("device", "controller")[who], ("+1 year", "-1 year", "-1 year", "+1 year")[step % 4])
        it.settle()
        return it.prove()


def _there_and_back(it: Rig, clock: WallClock) -> None:
    """Twice, while a backlog waits: by a clock that is set, the first of it would be years old."""
    it.kinds["backlog"] += 1
    it.chaos.refuse()
    it.chaos.reset()
    it.await_committed(20)
    for days in (365, 0, 365, 0):
        clock.set_off(days)
        it.await_committed(20)
    it.chaos.accept()


def _restart(it: Rig, who: int) -> None:
    """kill -9 of the device (0) or the controller (1), and again from the start."""
    it.kinds["killed too"] += 1
    if who == 0:
        it.kill_device()
        it.start_device()
        it.await_committed(1)
    else:
        it.stop_controller(signal.SIGKILL)
        it.start_controller()


def _within(limit_s: float, condition: Callable[[], bool]) -> bool:
    """Whether it comes true."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@dataclass(frozen=True, slots=True)
class Scenario:
    """One line of the table: ``few`` times in the usual tests, ``all`` in scripts/torture, where ``part`` of
    them at the most are done with one device and one controller; the rest with others, at the same time."""

    name: str
    play: Callable[[Path, int, int], Proof]
    few: int
    all: int = 100
    part: int = 50


SCENARIOS: tuple[Scenario, ...] = (
    Scenario("kill -9 of the device", kill_9, 6, 1000, 125),
    Scenario("kill -9 of plugmeter run", kill_daemon, 3),
    Scenario("broker restarts", restart_broker, 4, 200, 10),  # the controller's pauses grow with each
    Scenario("kill -9 of the controller", kill_controller, 3),
    Scenario("connection black-holed", _between(_blackhole), 2),
    Scenario("connection half-open", _between(_half_open), 2),
    Scenario("RST in mid-PUBACK", _between(_reset), 3),
    Scenario("PUBACK 0x97", _between(_refused(0x97)), 3),
    Scenario("PUBACK 0x10", _between(_refused(0x10)), 3),
    Scenario("acknowledgement lost", _between(_acks_lost), 3),
    Scenario("acknowledgement twice", _between(_acks_twice), 3),
    Scenario("acknowledgements swapped", _between(_acks_swapped), 3),
    Scenario("disk full", disk_full, 3),
    Scenario("EIO while it runs", disk_error, 6),
    Scenario("EIO while it starts", disk_error_at_start, 6),
    Scenario("clock set a year off", clock_steps, 10),
)
