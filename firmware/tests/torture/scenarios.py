"""What is done to the device, the broker and the network between them: one function a scenario.

Each takes a folder and how often; it leaves a proof, and raises AssertionError where something hangs. The
usual tests run a few of each, ``scripts/torture`` all of them.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.torture.rig import Proof, Rig, rig


def kill_9(folder: Path, times: int, seed: int = 1) -> Proof:
    """kill -9 of the device at random moments; each time it starts again on what it left."""
    chance = random.Random(seed)
    with rig(folder) as it:
        for _ in range(times):
            it.start_device()
            if chance.random() < 0.8:  # the rest dies while it starts
                it.await_committed(1)
                time.sleep(chance.random() * 0.3)
            else:
                time.sleep(chance.random() * 0.6)
            it.kill_device()
        it.start_device()
        it.await_committed(1)
        it.settle()
        return it.prove()


def restart_broker(folder: Path, times: int, seed: int = 2) -> Proof:
    """mosquitto ends, by SIGTERM or kill -9 in turn, and comes back having forgotten everything."""
    chance = random.Random(seed)
    with rig(folder) as it:
        it.start_device()
        for turn in range(times):
            it.await_acknowledged()
            it.broker.restart(kill=turn % 2 == 1)
            time.sleep(chance.random() * 0.2)
        it.settle()
        return it.prove()


def kill_controller(folder: Path, times: int, seed: int = 3) -> Proof:
    """kill -9 of the controller at random moments: what it had acknowledged it must have."""
    chance = random.Random(seed)
    with rig(folder) as it:
        it.start_device()
        for _ in range(times):
            it.await_acknowledged()
            time.sleep(chance.random() * 0.3)
            it.stop_controller(signal.SIGKILL)
            it.start_controller()
        it.settle()
        return it.prove()


def _between(do: Callable[[Rig], None], heal: bool = True) -> Callable[[Path, int], Proof]:
    """A scenario that does something to the link while records flow, again and again."""

    def scenario(folder: Path, times: int) -> Proof:
        with rig(folder) as it:
            it.start_device()
            for _ in range(times):
                it.await_acknowledged()
                do(it)
                if heal:
                    time.sleep(0.1)
                    it.chaos.heal()
            it.chaos.heal()
            it.settle()
            return it.prove()

    scenario.__doc__ = do.__doc__
    return scenario


def _blackhole(it: Rig) -> None:
    """Nothing gets through any more, and nobody is told."""
    it.chaos.blackhole()


def _half_open(it: Rig) -> None:
    """The broker's end is gone; the device's still looks alive."""
    it.chaos.half_open()


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
    deadline = time.monotonic() + 60
    while it.chaos.done[what] < times:
        assert time.monotonic() < deadline, f"{what} did not come about: {it.log()}"
        time.sleep(0.01)


def disk_full(folder: Path, times: int) -> Proof:
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
            for _ in range(times):
                it.await_committed(20)
                with open(filler, "wb", buffering=0) as file:
                    try:
                        while True:
                            file.write(bytes(65536))
                    except OSError:
                        pass
                time.sleep(0.3)
                filler.unlink()
            it.settle()
            return it.prove(exact=False)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)


def disk_error(folder: Path, times: int, seed: int = 5) -> Proof:
    """EIO from fdatasync or pwrite of the database, a few times in each life of the device."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    chance = random.Random(seed)
    with rig(folder, per_s=200) as it:
        for turn in range(times):
            call = ("fdatasync", "pwrite64")[turn % 2]
            first = chance.randrange(3, 20)
            it.wrapper = (
                "strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}",
                "-e", f"inject={call}:error=EIO:when={first}..{first + 2}",
            )  # fmt: skip
            it.start_device()
            it.await_committed_or_end()  # the error may hit while the database is opened: then it says so
            time.sleep(0.5)
            it.kill_device()
        it.wrapper = ()
        it.start_device()
        it.await_committed(1)
        it.settle()
        return it.prove(exact=False)


def clock_steps(folder: Path, times: int) -> Proof:
    """The wall clock that the outbox goes by jumps forward and back by a year while records flow."""
    with rig(folder) as it:
        it.start_device()
        for turn in range(times):
            it.await_committed(20)
            it.life.tell(f"clock {(365, -365, 0)[turn % 3]}")
        it.settle()
        return it.prove()


@dataclass(frozen=True, slots=True)
class Scenario:
    """One line of the table: ``few`` times in the usual tests, ``all`` in scripts/torture."""

    name: str
    play: Callable[[Path, int], Proof]
    few: int
    all: int


SCENARIOS: tuple[Scenario, ...] = (
    Scenario("kill -9 of the device", kill_9, 6, 1000),
    Scenario("broker restarts", restart_broker, 4, 200),
    Scenario("kill -9 of the controller", kill_controller, 3, 100),
    Scenario("connection black-holed", _between(_blackhole), 2, 100),
    Scenario("connection half-open", _between(_half_open), 2, 100),
    Scenario("RST in mid-PUBACK", _between(_reset), 3, 100),
    Scenario("PUBACK 0x97", _between(_refused(0x97)), 3, 100),
    Scenario("PUBACK 0x10", _between(_refused(0x10)), 3, 100),
    Scenario("acknowledgement lost", _between(_acks_lost), 3, 100),
    Scenario("acknowledgement twice", _between(_acks_twice), 3, 100),
    Scenario("acknowledgements swapped", _between(_acks_swapped), 3, 100),
    Scenario("disk full", disk_full, 3, 100),
    Scenario("EIO", disk_error, 3, 100),
    Scenario("clock a year off", clock_steps, 3, 100),
)
