"""Boots the guest once and runs inside it what this machine's kernel has no parts for.

python -m pytest -m guest                        about 80 s; the first time half a minute more
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from plugmeter.commands.replay import replayed
from plugmeter.measure import report
from tests.guest.build import Missing, image
from tests.guest.lab import Guest, check_host

pytestmark = pytest.mark.guest

SOURCE = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class Suite:
    """A test file to run in the guest: ``least`` of its tests must pass, only ``skips`` may skip."""

    path: str
    least: int
    skips: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return Path(self.path).stem


SUITES = (
    Suite("firmware/tests/rigs/test_gadget.py", 18, ("test_a_kernel_without_dummy_hcd_is_refused",)),
    Suite("firmware/tests/guest/test_lines.py", 3),
    Suite("firmware/tests/witnesses/test_contract.py", 13),
    Suite("firmware/tests/witnesses/test_gpiod_chip.py", 5, ("test_a_machine_without_a_chip_is_told_so",)),
    Suite("firmware/tests/witnesses/test_coldplug.py", 7),
    Suite("firmware/tests/witnesses/test_gpio_factories.py", 110, env={"PLUGMETER_GPIO_REQUIRED": "1"}),
)


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    try:
        check_host()
        machine = Guest(image(), SOURCE, tmp_path_factory.mktemp("guest") / "console.log")
    except Missing as missing:
        pytest.skip(str(missing))
    with machine:
        yield machine


def test_the_guest_is_another_kernel(guest: Guest) -> None:
    result = guest.run(["uname", "-rm"], seconds=20)
    assert result.status == 0
    assert result.output.split() == [guest.kernel, "aarch64"]


def test_a_command_that_hangs_is_ended(guest: Guest) -> None:
    result = guest.run(["sh", "-c", "echo begun; exec sleep 600"], seconds=1)
    assert result.status is None
    assert result.output == "begun\n"


def test_a_line_that_must_not_be_driven_is_refused(guest: Guest) -> None:
    ask = "with open(__import__('os').environ['PLUGMETER_GPIO_DRIVER'], 'r+b', buffering=0) as port:\n"
    ask += " for line in (b'3', b'8', b'x'):\n  port.write(b'set %s 1\\n' % line); print(port.read(200))"
    result = guest.run(["python3", "-c", ask], seconds=30)
    assert result.status == 0
    assert result.output.count("error expected: set LINE 0|1") == 3


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_suite_passes_in_the_guest(guest: Guest, suite: Suite) -> None:
    pytest_ = [
        "python3",
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--tb=short",
        "--junit-xml=/tmp/junit.xml",
    ]
    result = guest.run([*pytest_, suite.path], seconds=240, env=suite.env)
    assert result.status == 0, result.output
    cases = ElementTree.fromstring(guest.run(["cat", "/tmp/junit.xml"], seconds=20).output).iter("testcase")
    outcomes = {case.attrib["name"]: case.find("skipped") is None for case in cases}
    skipped = {name for name, passed in outcomes.items() if not passed}
    assert skipped <= set(suite.skips), result.output
    assert sum(outcomes.values()) >= suite.least, result.output


def test_a_gadget_run_is_measured_from_end_to_end(guest: Guest, tmp_path: Path) -> None:
    """Sticks that the real kernel enumerates, with its own uevents and nodes; every one is accounted for."""
    script = "firmware/tests/guest/record_gadget.py"
    run = guest.run(["python3", script, "/tmp/run.jsonl", "4", "1", "2"], seconds=200)
    assert run.status == 0, run.output
    recording = tmp_path / "run.jsonl"
    recording.write_text(guest.run(["cat", "/tmp/run.jsonl"], seconds=60).output)
    made = report.build(replayed(str(recording)))
    assert made["certificate"] == {**made["certificate"], "valid": True, "reasons": []}
    assert made["run"]["host"]["machine"] == "aarch64"
    assert (made["expected"], made["matched"], made["orphans"], made["duplicates"]) == (8, 8, 0, 0)
    assert sum(made["lost"].values()) == 0
    assert made["conservation"] == {"holds": True, "violations": []}
    assert made["latency_us"]["edge_to_uevent_plug"]["p50"] > 100_000, "the kernel debounces for 100 ms"
    assert made["latency_us"]["edge_to_node"]["count"] == 4, "each stick became a disk in /dev"


def test_the_kernel_did_not_complain(guest: Guest) -> None:
    """Last: nothing that ran before has tainted the kernel (kernel: admin-guide/tainted-kernels.rst)."""
    result = guest.run(["cat", "/proc/sys/kernel/tainted"], seconds=20)
    assert (result.status, result.output) == (0, "0\n")
