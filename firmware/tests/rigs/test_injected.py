from __future__ import annotations

import importlib.util
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from plugmeter.errors import RigError, UsageError
from plugmeter.records import Driven
from plugmeter.rigs.injected import InjectedRig
from plugmeter.rigs.injection import Injector
from plugmeter.rigs.rig import Rig
from plugmeter.rigs.sequence import Bounce, SequencePlan, plan
from plugmeter.rigs.world import World

if TYPE_CHECKING:
    from tests.rigs.conftest import Runner

PORTS = ("1-1", "1-2", "1-3.1", "1-3.2")
PLUG_UEVENTS = 16
NEVER_MS = 1e6


def wait_for(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(6000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("what was waited for did not come about in a minute")


def alternates(driven: list[list[Any]], ports: tuple[str, ...]) -> bool:
    lanes = [[rising for name, rising in driven if name == port] for port in ports]
    return all(rising == (place % 2 == 0) for lane in lanes for place, rising in enumerate(lane))


def lasting_plugs(seen: dict[str, Any]) -> int:
    """How often a level lasted for the debounce, by the rig's own log: a machine that stalls moves edges."""
    count = 0
    for port in PORTS:
        lane = [
            (t_ns, high)
            for t_ns, (name, high) in zip(seen["times"], seen["driven"], strict=True)
            if name == port
        ]
        for (rose_ns, high), (fell_ns, _) in itertools.pairwise(lane):
            count += high and fell_ns - rose_ns >= 100_000_000
    return count


# The whole of it, through the real kernel.


@pytest.mark.parametrize("who", ["myself", "ordinary"])
def test_twelve_sticks_twice_on_four_ports(who: str, request: pytest.FixtureRequest) -> None:
    runner: Runner = request.getfixturevalue(who)
    seen = runner.script("play_injected.py", {"sticks": 12, "cycles": 2, "ports": PORTS, "seed": 7})
    pairs = 24
    assert seen["failure"] is None
    assert seen["progress"] == [2 * pairs, 2 * pairs]
    assert seen["emitted"] == pairs * 2 * PLUG_UEVENTS
    assert len(set(seen["seqnums"])) == len(seen["seqnums"]) == seen["emitted"]
    assert sorted(seen["udev_seqnums"]) == sorted(seen["seqnums"])
    udevd = seen["udevd"]
    assert udevd["received"] == udevd["broadcast"] >= seen["emitted"]
    assert (udevd["withheld"], udevd["malformed"], udevd["drops"]) == (0, 0, 0)
    assert seen["driven"] == seen["levels"]
    assert seen["times"] == sorted(seen["times"])
    steps = plan(SequencePlan(12, 2, PORTS, seed=7))
    assert sorted(seen["driven"]) == sorted([step.port, step.plugged] for step in steps)
    assert alternates(seen["driven"], PORTS)
    assert alternates([[name, action == "add"] for action, name in seen["enumerations"]], PORTS)
    assert len(seen["enumerations"]) == 2 * pairs
    assert seen["left_in_dev"] == ["bus/usb/001/001"]
    assert seen["left_in_sys"] == []
    assert seen["world_is_gone"]


def test_libudev_inotify_and_gpiozero_see_it_too(myself: Runner) -> None:
    if not Path("/run/udev/control").exists() and "/dev devtmpfs" not in Path("/proc/mounts").read_text():
        pytest.skip("needs udevd or a devtmpfs on /dev: libudev hears nothing without")
    for module in ("pyudev", "inotify_simple", "gpiozero"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}")
    options = {"sticks": 6, "cycles": 1, "ports": PORTS, "libudev": True, "inotify": True, "mock_lines": True}
    seen = myself.script("play_injected.py", options)
    assert seen["failure"] is None
    assert [number for number, _, _ in seen["libudev"]] == seen["udev_seqnums"]
    assert sorted(seen["udev_seqnums"]) == sorted(seen["seqnums"])
    assert ("add", "/dev/sda1") in {(action, node) for _, action, node in seen["libudev"]}
    assert seen["levels"] == seen["driven"]
    by_name: dict[str, list[str]] = {}
    for action, name in seen["inotify"]:
        by_name.setdefault(name, []).append(action)
    assert {"sda", "sda1", "sg0", "bsg/4:0:0:0", "bus/usb/001/002", "bus/usb/001/007"} <= set(by_name)
    for actions in by_name.values():
        lives = [action for action in actions if action != "attrib"]
        assert lives == ["create", "delete"] * (len(lives) // 2)
    every = list(itertools.chain(*by_name.values()))
    assert every.count("create") == every.count("delete") == 6 * 5
    untouched = 6 * 5 - every.count("attrib")  # on a machine that stalls, a node may go before udevd comes
    assert 0 <= untouched <= seen["udevd"]["nodes_gone"]


@pytest.mark.parametrize("bounce", ["contact", "dip"])
def test_bounces_make_what_the_kernel_makes_of_them(ordinary: Runner, bounce: Bounce) -> None:
    options = {"sticks": 4, "cycles": 1, "ports": PORTS, "bounce": bounce}
    seen = ordinary.script("play_injected.py", options)
    assert seen["failure"] is None
    assert len(seen["enumerations"]) == 2 * lasting_plugs(seen)
    assert alternates([[name, action == "add"] for action, name in seen["enumerations"]], PORTS)
    assert alternates(seen["driven"], PORTS)
    pulses = sum(len(step.pulses) for step in plan(SequencePlan(4, 1, PORTS, bounce=bounce)))
    assert len(seen["driven"]) == 8 + pulses


def test_a_plug_shorter_than_the_debounce_makes_no_device(ordinary: Runner) -> None:
    options = {"sticks": 4, "cycles": 1, "ports": PORTS, "gap_ms": 50, "jitter_ms": 0}
    seen = ordinary.script("play_injected.py", options)
    assert (seen["failure"], seen["progress"]) == (None, [8, 8])
    assert seen["emitted"] == lasting_plugs(seen) * 2 * PLUG_UEVENTS


def test_a_plug_just_longer_than_the_debounce_makes_one(ordinary: Runner) -> None:
    """It is pulled after 105 ms at the least, and its add is due after 110: none may go missing."""
    options = {"sticks": 12, "cycles": 2, "ports": PORTS, "gap_ms": 105, "jitter_ms": 0}
    seen = ordinary.script("play_injected.py", options)
    assert (seen["failure"], seen["emitted"]) == (None, 24 * 2 * PLUG_UEVENTS)
    assert alternates([[name, action == "add"] for action, name in seen["enumerations"]], PORTS)


def test_a_rig_that_dies_says_so_and_cleans_up(ordinary: Runner) -> None:
    options = {"sticks": 4, "cycles": 2, "ports": PORTS, "die_after_steps": 5}
    seen = ordinary.script("play_injected.py", options)
    assert seen["failure"] == "the rig died after 5 of 16 steps: it was told to die here"
    assert seen["progress"] == [5, 16]
    assert len(seen["seqnums"]) == seen["emitted"]
    assert seen["world_is_gone"]


def test_a_stand_in_that_withholds_is_seen_at_udevs_group_alone(ordinary: Runner) -> None:
    options = {"sticks": 4, "cycles": 1, "ports": PORTS, "drop_every": 10}
    seen = ordinary.script("play_injected.py", options)
    withheld = seen["emitted"] // 10
    assert seen["udevd"]["withheld"] == withheld
    missing = set(seen["seqnums"]) - set(seen["udev_seqnums"])
    assert missing == set(seen["seqnums"][9::10])


# The thread and the hand-off; no uevent is ever due.


class Bench:
    """A rig whose kernel never answers, with the levels it drove."""

    def __init__(self, **keywords: Any) -> None:
        self.levels: list[tuple[str, bool]] = []
        self.raises: Exception | None = None
        self.world = World(ports=PORTS)
        sequence = SequencePlan(keywords.pop("sticks", 4), 5, PORTS, gap_ms=50, jitter_ms=0)
        keywords.setdefault("connect_delay_ms", NEVER_MS)
        self.rig = InjectedRig(sequence, self.world, self.drive, Injector(), **keywords)

    def drive(self, port: str, high: bool) -> None:
        if self.raises is not None:
            raise self.raises
        self.levels.append((port, high))


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**keywords: Any) -> Bench:
        made.append(Bench(**keywords))
        return made[-1]

    yield make
    for each in made:
        each.rig.close()
        each.rig.close()
        assert not each.world.root.exists()


def test_what_it_drove_is_handed_over_in_order(bench: Callable[..., Bench]) -> None:
    made = bench()
    rig: Rig = made.rig
    rig.start()
    driven: list[Driven] = []

    def over() -> bool:
        driven.extend(rig.read())
        return len(driven) == 40

    wait_for(over)
    assert [(each.port, each.rising) for each in driven] == made.levels
    assert all(a.t_ns <= b.t_ns for a, b in itertools.pairwise(driven))
    assert rig.progress() == (40, 40)
    assert made.rig.lateness.steps == 40
    assert 0 <= made.rig.lateness.mean_us <= made.rig.lateness.max_us


def test_a_rig_that_nobody_reads_waits_and_loses_nothing(bench: Callable[..., Bench]) -> None:
    made = bench(handoff=3)
    made.rig.start()
    wait_for(lambda: len(made.levels) == 3)
    threading.Event().wait(0.5)  # ten gaps: it would have gone on
    assert len(made.levels) == 3
    driven: list[Driven] = []

    def over() -> bool:
        driven.extend(made.rig.read())
        return len(driven) == 40

    wait_for(over)
    assert [(each.port, each.rising) for each in driven] == made.levels


@pytest.mark.parametrize("handoff", [1, 4096])
def test_stop_ends_the_plan_early(bench: Callable[..., Bench], handoff: int) -> None:
    made = bench(sticks=1000, handoff=handoff)
    made.rig.start()
    wait_for(lambda: len(made.levels) >= 1)
    made.rig.stop()
    made.rig.stop()
    assert made.rig.finished
    assert made.rig.failure is None
    drove = len(made.levels)
    done, total = made.rig.progress()
    assert done == drove < total == 10_000
    assert [(each.port, each.rising) for each in made.rig.read()] == made.levels
    assert made.rig.read() == []


@pytest.mark.parametrize("error", [OSError(19, "No such device"), RigError("the line\nis gone")])
def test_a_line_that_fails_ends_the_rig_in_one_line(bench: Callable[..., Bench], error: Exception) -> None:
    made = bench()
    made.raises = error
    made.rig.start()
    wait_for(lambda: made.rig.finished)
    failure = made.rig.failure
    assert failure is not None
    assert failure.startswith("the rig died after 0 of 40 steps: ")
    assert "\n" not in failure


def test_what_it_tells_of_itself(bench: Callable[..., Bench]) -> None:
    rig = bench().rig
    assert (rig.name, rig.truth, rig.ports, rig.emitted) == ("injected", "simulated", PORTS, 0)
    assert not rig.finished
    assert rig.plan == {
        "sticks": 4,
        "cycles": 5,
        "ports": 4,
        "gap_ms": 50,
        "jitter_ms": 0,
        "seed": 0,
        "bounce": "none",
        "connect_delay_ms": NEVER_MS,
        "disconnect_delay_ms": 4.0,
        "debounce_ms": 100.0,
    }


def test_it_starts_once(bench: Callable[..., Bench]) -> None:
    rig = bench().rig
    rig.start()
    with pytest.raises(RigError, match="only once"):
        rig.start()


@pytest.mark.parametrize(
    "delays",
    [
        {"disconnect_delay_ms": 100},
        {"disconnect_delay_ms": -1},
        {"connect_delay_ms": 99},
        {"debounce_ms": 111},
        {"connect_delay_ms": float("nan")},
    ],
)
def test_delays_that_no_kernel_has_are_refused(delays: dict[str, float]) -> None:
    sequence = SequencePlan(1, 1, PORTS)
    with (
        World() as world,
        Injector() as injector,
        pytest.raises(UsageError, match="must be at least the debounce"),
    ):
        InjectedRig(sequence, world, lambda *_: None, injector, **delays)  # type: ignore[arg-type]  # a table of floats
