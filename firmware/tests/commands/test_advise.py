"""``plugmeter advise`` on a tree that stands for /proc, and, as root, on the kernel's own."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plugmeter import tuning
from plugmeter.commands import advise
from plugmeter.errors import PlugmeterError, UsageError
from plugmeter.measure.needs import InotifyUse, Need
from tests.namespace import as_ordinary_user
from tests.reporting import samples

SMALL = {
    "net.core.rmem_max": 212_992,
    "net.core.rmem_default": 212_992,
    "fs.inotify.max_user_watches": 8192,
    "fs.inotify.max_user_instances": 128,
    "fs.inotify.max_queued_events": 16_384,
}


def make_proc(root: Path, settings: dict[str, int]) -> Path:
    root.mkdir()
    for key, value in settings.items():
        path = root.joinpath("sys", *key.split("."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return root


def values(proc: Path) -> dict[str, int | None]:
    return {key: tuning.read_setting(key, proc) for key in SMALL}


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    return make_proc(tmp_path / "proc", SMALL)


def call(*words: str | Path) -> int:
    parser = argparse.ArgumentParser(prog=advise.NAME, description=advise.HELP, epilog=advise.EPILOG)
    advise.add_arguments(parser)
    return advise.run(parser.parse_args([str(word) for word in words]))


def as_json(capsys: Any, *words: str | Path) -> dict[str, Any]:
    capsys.readouterr()
    assert call(*words, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_it_says_what_is_and_what_is_needed_and_touches_nothing(proc: Path, capsys: Any) -> None:
    assert call("--proc", proc) == 0
    out = capsys.readouterr().out
    assert "holds 92 uevents of 1,200 B; 1,920 may wait" in " ".join(out.split())
    assert "sysctl -w net.core.rmem_default=8847360" in out
    assert values(proc) == SMALL


def test_the_measured_storm_decides(proc: Path, tmp_path: Path, capsys: Any) -> None:
    report = tmp_path / "run.json"
    report.write_text(json.dumps(samples.lossy()))
    found = as_json(capsys, "--proc", proc, "--report", report, "--stall", "1000")
    assert found["storm"]["episodes"] == 2400
    assert found["storm"]["uevents"] == 2400 * 16
    shorter = as_json(capsys, "--proc", proc, "--report", report, "--stall", "1")
    assert shorter["storm"]["episodes"] < 100


def test_apply_raises_and_says_how_to_undo(proc: Path, capsys: Any) -> None:
    assert call("--proc", proc, "--apply") == 0
    out = capsys.readouterr().out
    after = values(proc)
    assert after["net.core.rmem_default"] == 8_847_360
    assert after["net.core.rmem_max"] == 4_423_680
    assert after["fs.inotify.max_user_watches"] == SMALL["fs.inotify.max_user_watches"]
    assert "  sysctl -w net.core.rmem_default=212992\n" in out
    assert call("--proc", proc, "--apply") == 0
    assert "nothing to set" in capsys.readouterr().out
    assert values(proc) == after


def test_apply_never_lowers(tmp_path: Path) -> None:
    high = dict.fromkeys(SMALL, 1 << 30)
    proc = make_proc(tmp_path / "proc", high)
    assert call("--proc", proc, "--apply") == 0
    assert values(proc) == high


def test_persist_writes_a_drop_in_that_lowers_nothing(proc: Path, tmp_path: Path, capsys: Any) -> None:
    found = as_json(capsys, "--proc", proc, "--apply", "--persist", "--sysctl-dir", tmp_path)
    drop_in = tmp_path / tuning.DROP_IN
    assert found["persisted"] == str(drop_in)
    lines = drop_in.read_text().splitlines()[1:]
    assert lines == ["net.core.rmem_default = 8847360", "net.core.rmem_max = 4423680"]
    # a smaller storm afterwards leaves what an earlier one asked for
    call("--proc", proc, "--apply", "--persist", "--sysctl-dir", tmp_path, "--margin", "1")
    assert drop_in.read_text().splitlines()[1:] == lines


def test_persist_after_apply_alone_persists_it_too(proc: Path, tmp_path: Path) -> None:
    call("--proc", proc, "--apply")
    call("--proc", proc, "--apply", "--persist", "--sysctl-dir", tmp_path)
    assert "net.core.rmem_max = 4423680" in (tmp_path / tuning.DROP_IN).read_text()


def test_a_drop_in_that_is_not_ours_is_not_overwritten(proc: Path, tmp_path: Path) -> None:
    (tmp_path / tuning.DROP_IN).write_text("net.core.rmem_max = a lot\n")
    with pytest.raises(PlugmeterError, match="mend or delete"):
        call("--proc", proc, "--apply", "--persist", "--sysctl-dir", tmp_path)
    assert (tmp_path / tuning.DROP_IN).read_text() == "net.core.rmem_max = a lot\n"


def test_what_cannot_be_read_is_unknown_and_not_set(tmp_path: Path, capsys: Any) -> None:
    proc = make_proc(tmp_path / "proc", {k: v for k, v in SMALL.items() if not k.startswith("net")})
    found = as_json(capsys, "--proc", proc, "--apply")
    assert [s["is"] for s in found["settings"][:2]] == [None, None]
    assert found["changes"] == []
    call("--proc", proc)
    assert "unknown" in capsys.readouterr().out


def test_a_setting_that_fails_sets_the_others_back(proc: Path) -> None:
    needs = [Need("net.core.rmem_max", 1 << 22, ""), Need("net.core.rmem_default", 1 << 22, "")]
    advice = tuning.advise(needs, proc)
    (proc / "sys/net/core/rmem_default").unlink()
    (proc / "sys/net/core/rmem_default").mkdir()
    with pytest.raises(PlugmeterError, match=r"net\.core\.rmem_default"):
        tuning.apply(advice, proc)
    assert tuning.read_setting("net.core.rmem_max", proc) == SMALL["net.core.rmem_max"]


@pytest.mark.parametrize(
    "words",
    [
        ("--persist",),
        ("--stall", "0"),
        ("--stall", "1e9"),
        ("--margin", "0.5"),
        ("--event-bytes", "0"),
        ("--event-bytes", "100000"),
        ("--report", "/nonexistent.json"),
    ],
)
def test_what_cannot_be_meant_is_one_line(proc: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        call("--proc", proc, *words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", ["nan", "inf", "x"])
def test_numbers_that_are_none_are_refused(proc: Path, word: str) -> None:
    with pytest.raises(SystemExit):
        call("--proc", proc, "--stall", word)


def test_a_proc_that_is_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PlugmeterError, match="cannot read"):
        call("--proc", tmp_path / "none")
    proc = make_proc(tmp_path / "proc", SMALL)
    (proc / "sys/net/core/rmem_max").write_text("lots\n")
    with pytest.raises(PlugmeterError, match="is not a number"):
        call("--proc", proc)


def test_inotify_in_use_is_counted(tmp_path: Path) -> None:
    proc = make_proc(tmp_path / "proc", SMALL)
    for pid, watches in (("10", 3), ("11", 2)):
        (proc / pid / "fd").mkdir(parents=True)
        (proc / pid / "fdinfo").mkdir()
        (proc / pid / "fd" / "3").symlink_to("anon_inode:inotify")
        (proc / pid / "fd" / "4").symlink_to("/dev/null")
        (proc / pid / "fdinfo" / "3").write_text("pos:\t0\n" + "inotify wd:1 ino:2\n" * watches)
        (proc / pid / "fdinfo" / "4").write_text("pos:\t0\ninotify wd: not one\n")
    (proc / "12").mkdir()  # a process that ended while we looked
    devices = tmp_path / "dev"
    (devices / "bus" / "usb").mkdir(parents=True)
    assert tuning.inotify_use(proc, devices) == (InotifyUse(2, 5, 3), 0)


def test_without_root_it_is_one_line() -> None:
    def body(folder: Path) -> None:
        proc = make_proc(folder / "proc", SMALL)
        (proc / "sys/net/core/rmem_max").chmod(0o444)
        with pytest.raises(PlugmeterError, match="sudo plugmeter advise --apply"):
            call("--proc", proc, "--apply")
        assert values(proc) == SMALL

    as_ordinary_user(body)


@pytest.fixture
def kernel() -> Iterator[Path]:
    proc = Path("/proc")
    if os.geteuid() != 0:
        pytest.skip("needs root: it raises the kernel's own limits and sets them back")
    before = values(proc)
    if None in before.values():
        pytest.skip("needs net.core and fs.inotify below /proc/sys")
    if not os.access("/proc/sys/fs/inotify/max_queued_events", os.W_OK):
        pytest.skip("needs /proc/sys writable")
    yield proc
    for key, value in before.items():
        proc.joinpath("sys", *key.split(".")).write_text(f"{value}\n")


@pytest.mark.privileged
def test_the_kernels_own_settings_rise_and_come_back(kernel: Path) -> None:
    key = "fs.inotify.max_queued_events"
    old = tuning.read_setting(key, kernel)
    assert old is not None
    changes = tuning.apply(tuning.advise([Need(key, old + 1, "")], kernel), kernel)
    assert changes == (tuning.Change(key, old, old + 1),)
    assert tuning.read_setting(key, kernel) == old + 1
    assert tuning.undo_commands(changes) == [f"sysctl -w {key}={old}"]


@pytest.mark.privileged
def test_the_kernel_refuses_and_nothing_stays(kernel: Path) -> None:
    before = values(kernel)
    needs = [Need("fs.inotify.max_queued_events", (before["fs.inotify.max_queued_events"] or 0) + 1, "")]
    needs.append(Need("net.core.rmem_max", 1 << 40, ""))
    with pytest.raises(PlugmeterError, match=r"refuses net\.core\.rmem_max"):
        tuning.apply(tuning.advise(needs, kernel), kernel)
    assert values(kernel) == before
