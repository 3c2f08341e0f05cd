"""The main command, end to end: real processes, the kernel's real broadcast, real signals and full disks."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plugmeter.reporting.schema import fault_of
from tests.commands.conftest import CommandLine
from tests.namespace import CLONE_NEWNS, in_child, in_user_namespace, mount_private, unshare

QUICK = ("measure", "--rig", "injected", "--sticks", "4", "--cycles", "1", "--quiet")
LONG = ("measure", "--rig", "injected", "--sticks", "200", "--cycles", "2", "--quiet")
RELIED_UPON = (
    "truth",
    "expected",
    "matched",
    "late",
    "ambiguous",
    "duplicates",
    "orphans",
    "lost",
    "loss_rate",
    "loss_ci95",
    "latency_us",
    "witnesses",
    "listeners",
)


def one_line(done: subprocess.CompletedProcess[str], status: int) -> str:
    """The one line that a command which could not do its work has said."""
    assert done.returncode == status, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("plugmeter: ")
    return done.stderr


def reported(text: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(text)
    assert fault_of(report) is None
    return report


# -- a run that goes well ------------------------------------------------------------------------------


def assert_whole(report: dict[str, Any]) -> None:
    assert report["certificate"] == {**report["certificate"], "valid": True, "reasons": []}
    assert all(key in report for key in RELIED_UPON)
    assert report["truth"] == "simulated"
    assert report["expected"] == report["matched"] + report["late"] == 8
    assert (
        sum(report["lost"].values()) == report["ambiguous"] == report["orphans"] == report["duplicates"] == 0
    )
    assert report["loss_rate"] == 0.0
    assert report["loss_ci95"][0] == 0.0 < report["loss_ci95"][1] < 1.0
    assert report["conservation"] == {"holds": True, "violations": []}
    for name in ("gpio", "netlink", "udev", "inotify"):
        account = report["witnesses"][name]
        assert account["offered"] == account["delivered"] > 0
        assert account["lost"] == account["pending"] == 0
    for stage in ("edge_to_uevent_plug", "edge_to_uevent_pull", "uevent_to_udev"):
        figures = report["latency_us"][stage]
        assert 0 < figures["p50"] <= figures["p95"] <= figures["p99"] <= figures["max"]
    assert all({"pid", "comm", "drops"} <= each.keys() for each in report["listeners"])
    assert report["coldplug"]["at_start"] == report["coldplug"]["at_end"] == 0
    assert {port["state"] for port in report["ports"].values()} == {"idle"}
    assert sum(port["illegal_transitions"] for port in report["ports"].values()) == 0


def test_a_run_finds_every_stick(plugmeter: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = plugmeter(*QUICK, "--json", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert "VALID" in done.stdout
    assert_whole(reported(file.read_text()))
    assert plugmeter.left_behind() == []


def test_a_run_of_an_ordinary_user_is_as_good(ordinary: CommandLine) -> None:
    done = ordinary(*QUICK, "--json", "-")
    assert (done.returncode, done.stderr) == (0, "")
    assert_whole(reported(done.stdout))
    assert ordinary.left_behind() == []


def test_a_recording_gives_the_same_report_byte_for_byte(plugmeter: CommandLine, tmp_path: Path) -> None:
    recording, first, again = (str(tmp_path / name) for name in ("run.jsonl", "a.json", "b.json"))
    assert plugmeter(*QUICK, "--record", recording, "--json", first).returncode == 0
    assert plugmeter("replay", recording, "--json", again).returncode == 0
    assert Path(first).read_bytes() == Path(again).read_bytes()


@pytest.mark.parametrize("bounce", ["contact", "dip"])
def test_bouncing_contacts_are_ambiguous_and_cost_nothing(plugmeter: CommandLine, bounce: str) -> None:
    done = plugmeter(*QUICK, "--bounce", bounce, "--json", "-")
    report = reported(done.stdout)
    assert (done.returncode, report["certificate"]["reasons"]) == (0, [])
    assert report["expected"] == report["matched"] + report["late"] == 8
    assert report["ambiguous"] > 0
    assert report["orphans"] == report["duplicates"] == sum(report["lost"].values()) == 0
    assert (report["excused"] > 0) == (bounce == "dip")  # the kernel saw it go and come, as it may


def test_what_changed_between_two_runs_is_accounted(plugmeter: CommandLine, tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    first, second = (reported(plugmeter(*QUICK, "--state", state, "--json", "-").stdout) for _ in range(2))
    assert first["coldplug"]["before_start"] is None
    assert second["coldplug"]["before_start"] == {"appeared": 0, "vanished": 0, "replaced": 0}


# -- Ctrl-C, and worse ---------------------------------------------------------------------------------


def until(done: Callable[[], bool], running: subprocess.Popen[str]) -> None:
    while not done():
        assert running.poll() is None, running.communicate()
        time.sleep(0.01)


def ended(running: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = running.communicate(timeout=60)  # a guard against a hang, not a measure of anything
    finally:
        running.kill()
        running.wait()
    assert "Traceback" not in err, err
    assert len(err.splitlines()) <= 1, err
    return running.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", range(4))
def test_a_signal_at_any_moment_ends_a_run_with_what_was_seen(
    plugmeter: CommandLine, number: signal.Signals, moment: int
) -> None:
    running = plugmeter.begin(*LONG, "--json", "-")
    until(lambda: bool(plugmeter.left_behind()), running)
    time.sleep(random.Random(moment).uniform(0, 0.4) * moment)
    running.send_signal(number)
    status, out, err = ended(running)
    if out:
        report = reported(out)
        assert err == ""
        assert report["run"]["interrupted"]
        assert report["conservation"]["holds"]
        assert status == (0 if report["certificate"]["valid"] else 1)
        assert report["expected"] < 800
    else:  # before the run had begun
        assert status in (130, -signal.SIGINT, 143)
    assert plugmeter.left_behind() == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_it_at_once_and_tidily(
    plugmeter: CommandLine, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    recording = tmp_path / "run.jsonl"
    running = plugmeter.begin(*LONG, "--record", str(recording))
    until(lambda: recording.exists() and recording.stat().st_size > 10_000, running)
    running.send_signal(number)
    time.sleep(0.2)  # two signals that wait together are one
    running.send_signal(number)
    found, out, _ = ended(running)
    # Where the machine was so slow that the first has ended it already, there is a report.
    assert (found == status and not out) or (found == 0 and out)
    assert plugmeter.left_behind() == []


def test_the_recording_of_a_run_that_was_killed_is_invalid_and_says_why(
    plugmeter: CommandLine, tmp_path: Path
) -> None:
    recording = tmp_path / "run.jsonl"
    running = plugmeter.begin(*LONG, "--record", str(recording))
    until(lambda: recording.exists() and recording.stat().st_size > 20_000, running)
    running.kill()
    ended(running)
    done = plugmeter("replay", str(recording), "--json", "-")
    report = reported(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert report["certificate"]["reasons"] == ["the run has no end: its recording was cut"]


def test_a_rig_that_dies_midway_makes_the_run_invalid(plugmeter: CommandLine) -> None:
    running = plugmeter.begin(*LONG, "--json", "-")
    until(lambda: bool(plugmeter.left_behind()), running)
    world = plugmeter.temporary / plugmeter.left_behind()[0]
    nodes = world / "dev/bsg"
    until(lambda: nodes.is_dir() and any(nodes.iterdir()), running)
    shutil.rmtree(world / "staging")
    status, out, _ = ended(running)
    report = reported(out)
    assert status == 1
    assert not report["certificate"]["valid"]
    assert "the rig died after" in report["certificate"]["reasons"][0]
    assert sum(report["lost"].values()) == 0
    assert plugmeter.left_behind() == []


# -- outputs that cannot be written ----------------------------------------------------------------------


@pytest.mark.privileged
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a disk that is full")
@pytest.mark.parametrize("option", ["--json", "--html", "--record"])
def test_a_full_disk_is_one_line_and_what_can_be_shown_is_shown(
    plugmeter: CommandLine, tmp_path: Path, option: str
) -> None:
    full = tmp_path / "full"
    full.mkdir()

    def body() -> tuple[int, str, str, list[str]]:
        unshare(CLONE_NEWNS)
        mount_private(full)
        small = ("mount", "-t", "tmpfs", "-o", "size=4k", "none", str(full))
        subprocess.run(small, check=True)  # on top of the private one, which would take half of the RAM
        done = plugmeter(*QUICK, option, str(full / "file"))
        return done.returncode, done.stdout, done.stderr, sorted(each.name for each in full.iterdir())

    status, out, err, left = in_child(body)
    assert status == 1
    assert "expected 8 (4 plugs, 4 pulls); matched 8" in out
    assert len(err.splitlines()) <= 1
    assert "Traceback" not in err
    if option == "--record":
        assert "the recording could not be written: No space left on device" in " ".join(out.split())
    else:
        assert "the disk is full" in err
        assert left == []


def test_a_recording_that_grows_too_large_makes_the_run_invalid(
    plugmeter: CommandLine, tmp_path: Path
) -> None:
    recording = tmp_path / "run.jsonl"
    shell = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
        "from plugmeter.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        (*plugmeter.command[:-2], "-c", shell, *QUICK, "--record", str(recording), "--json", "-"),
        capture_output=True,
        text=True,
        env=plugmeter.environment,
        check=False,
    )
    report = reported(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert report["certificate"]["reasons"] == [
        "the run failed: the recording could not be written: File too large"
    ]
    assert not reported(plugmeter("replay", str(recording), "--json", "-").stdout)["certificate"]["valid"]


@pytest.mark.parametrize("option", ["--json", "--html", "--record", "--state"])
@pytest.mark.parametrize("place", ["{tmp}/no/such/file", "{tmp}"])
def test_a_place_that_cannot_be_is_refused_before_the_run(
    plugmeter: CommandLine, tmp_path: Path, option: str, place: str
) -> None:
    is_state_folder = option == "--state" and place == "{tmp}"  # told by its reader, which fails at reading
    said = one_line(plugmeter(*QUICK, option, place.format(tmp=tmp_path)), 1 if is_state_folder else 2)
    assert (str(tmp_path) if is_state_folder else option) in said


@pytest.mark.parametrize("option", ["--json", "--record"])
def test_a_folder_without_permission_is_refused_before_the_run(ordinary: CommandLine, option: str) -> None:
    assert option in one_line(ordinary(*QUICK, option, "/proc/file"), 2)


# -- what the user got wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("--ports", "0"),
        ("--ports", "100"),
        ("--ports", "999999"),
        ("--gap-ms", "10"),
        ("--gap-ms", "-5"),
        ("--jitter-ms", "100000"),
        ("--sticks", "-1"),
        ("--sticks", "0"),
        ("--sticks", "1000000", "--cycles", "1000000"),
        ("--cycles", "0"),
        ("--density", "1e9"),
        ("--density", "nan"),
        ("--density", "10000"),
        ("--seed", "abc"),
        ("--seed", "99999999999999999999"),
        ("--bounce", "madly"),
        ("--rig", "raspberry"),
        ("--rig", "relay"),
        ("--real-lines",),
        ("--duration", "5"),
        ("--ports", "45"),
        ("--rig", "passive", "--duration", "-1"),
        ("--rig", "passive", "--duration", "nan"),
        ("--config", "/no/such/file.toml"),
        ("--config", "/"),
        ("--config", "/dev/full"),
        ("extra",),
    ],
    ids=" ".join,
)
def test_absurd_options_are_one_line_and_status_2(plugmeter: CommandLine, arguments: tuple[str, ...]) -> None:
    one_line(plugmeter("measure", "--quiet", *arguments), 2)


@pytest.mark.parametrize(
    "option",
    [
        ("--sticks", "4"),
        ("--cycles", "2"),
        ("--ports", "2"),
        ("--seed", "1"),
        ("--gap-ms", "250"),
        ("--jitter-ms", "0"),
        ("--density", "5"),
        ("--bounce", "none"),
    ],
    ids=" ".join,
)
def test_an_option_that_the_passive_rig_cannot_obey_is_refused(
    plugmeter: CommandLine, option: tuple[str, str]
) -> None:
    said = one_line(plugmeter("measure", "--rig", "passive", "--duration", "0.1", *option), 2)
    assert f"{option[0]} is not for --rig passive" in said


@pytest.mark.parametrize("lines", [("--rig", "relay"), ("--real-lines",)], ids=" ".join)
def test_ports_are_not_for_real_lines(plugmeter: CommandLine, lines: tuple[str, ...]) -> None:
    said = one_line(plugmeter("measure", *lines, "--ports", "2"), 2)
    assert f"--ports is not for {' '.join(lines)}" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--gap-ms", "50"),
            "never stable for the debounce time of 100 ms: every pulse will be ambiguous and nothing"
            " expected; give --gap-ms 150 or more",
        ),
        (("--gap-ms", "110"), "not always stable for the debounce time of 100 ms: pulses may be ambiguous"),
    ],
)
def test_a_gap_too_short_for_the_debounce_is_told_before_the_run(
    plugmeter: CommandLine, options: tuple[str, ...], words: str
) -> None:
    done = plugmeter(*QUICK, *options, "--json", "-")
    assert words in one_line(done, done.returncode)
    report = reported(done.stdout)
    assert (report["expected"] == 0) == ("never" in words)


def test_a_damaged_state_is_told_and_the_run_is_made(plugmeter: CommandLine, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_text("nonsense")
    done = plugmeter(*QUICK, "--state", str(state), "--json", "-")
    assert f"the USB snapshot {state} is damaged" in one_line(done, 0)
    assert reported(done.stdout)["coldplug"]["before_start"] is None


def test_without_its_gpio_witness_a_run_has_no_ground_truth(plugmeter: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[witnesses]\ngpio = false\n")
    done = plugmeter(*QUICK, "--config", str(file), "--json", "-")
    report = reported(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert "gpio" not in report["witnesses"]
    assert report["certificate"]["reasons"] == ["no ground truth: no port has a sense line"]


@pytest.mark.skipif(
    Path("/sys/kernel/config/usb_gadget").exists(), reason="needs a kernel without USB gadgets"
)
def test_a_rig_that_the_kernel_lacks_is_one_line(plugmeter: CommandLine) -> None:
    assert "gadget" in one_line(plugmeter("measure", "--quiet", "--rig", "gadget"), 1)


def test_a_missing_gpio_chip_is_one_line(plugmeter: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[gpio]\nchip = "/dev/gpiochip99"\n[ports."1-1"]\nsense_gpio = 17\n')
    done = plugmeter("measure", "--rig", "passive", "--duration", "1", "--config", str(file))
    assert done.returncode in (1, 2)
    assert "gpiochip99" in one_line(done, done.returncode)


def test_a_passive_run_without_a_line_is_invalid_and_never_0_lost(
    plugmeter: CommandLine, tmp_path: Path
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f'[witnesses]\nudev = false\n[inotify]\ndirectories = ["{tmp_path}"]\n')
    done = plugmeter(
        "measure", "--rig", "passive", "--duration", "0.1", "--quiet", "--config", str(file), "--json", "-"
    )
    report = reported(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert report["certificate"]["reasons"] == ["no ground truth: no port has a sense line"]


def test_a_system_that_forbids_the_namespace_is_one_line_with_what_to_do(plugmeter: CommandLine) -> None:
    def body() -> tuple[int, str, str]:
        # Both limits are those of this user namespace alone.
        for name in ("user", "net"):
            Path(f"/proc/sys/user/max_{name}_namespaces").write_text("0")
        done = plugmeter(*QUICK)
        return done.returncode, done.stdout, done.stderr

    status, out, err = in_user_namespace(body)
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert "sysctl user.max_" in err
    assert plugmeter.left_behind() == []


def test_recordings_that_are_none_are_one_line(plugmeter: CommandLine, tmp_path: Path) -> None:
    recording = tmp_path / "run.jsonl"
    assert plugmeter(*QUICK, "--record", str(recording)).returncode == 0
    lines = recording.read_bytes().splitlines(keepends=True)
    broken = tmp_path / "broken.jsonl"
    for content in (
        b"",
        b"\0\xff" * 100,
        b"{}\n",
        lines[0],
        lines[1],
        b"".join([*lines, lines[5]]),
        b"".join([*lines[:5], lines[1], *lines[5:]]),
        b"".join([lines[0], lines[1].replace(b'"debounce_ns":100000000', b'"debounce_ns":-1'), *lines[2:]]),
        b"".join([*lines[:5], b'["edge", {}]\n', *lines[5:]]),
        b"".join([*lines[:5], b"[" * 5000 + b"\n", *lines[5:]]),
    ):
        broken.write_bytes(content)
        assert "broken.jsonl" in one_line(plugmeter("replay", str(broken)), 2)
    one_line(plugmeter("replay", str(tmp_path / "none")), 2)
    one_line(plugmeter("replay", str(tmp_path)), 2)
