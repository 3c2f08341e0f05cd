"""Whole or not at all: what is left behind when a report cannot be written."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugmeter.errors import PlugmeterError
from plugmeter.reporting.files import write_text
from tests.namespace import as_ordinary_user


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_text(path, "one µs\n")
    write_text(str(path), "two µs\n")
    assert path.read_text("utf-8") == "two µs\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_the_mode_is_the_old_ones_or_the_umasks(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    old = os.umask(0o027)
    try:
        write_text(path, "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    write_text(path, "y")
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "x"


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text(fifo, "through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(fifo.stat().st_mode)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none/report.json", "there is no directory"),
        (".", "is a directory"),
        ("file/report.json", "there is no dir"),
    ],
)
def test_places_that_cannot_be_give_one_line(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(PlugmeterError) as caught:
        write_text(tmp_path / name, "x")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_loop_of_links_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(PlugmeterError, match="cannot write"):
        write_text(tmp_path / "a", "x")


def test_no_permission_gives_one_line() -> None:
    def body(folder: Path) -> None:
        folder.chmod(0o500)
        with pytest.raises(PlugmeterError, match="no permission"):
            write_text(folder / "report.json", "x")

    as_ordinary_user(body)


def test_a_file_larger_than_allowed_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_text(path, "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(PlugmeterError, match="larger than a file may be"):
            write_text(path, "x" * (1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {done.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.privileged
def test_a_full_disk_leaves_the_old_file_and_no_other(tiny_disk: Path) -> None:
    path = tiny_disk / "report.json"
    write_text(path, "old")
    with pytest.raises(PlugmeterError, match="the disk is full"):
        write_text(path, "x" * (1 << 20))
    assert path.read_text() == "old"
    assert [entry.name for entry in tiny_disk.iterdir()] == ["report.json"]


CHILD = """
import sys
from plugmeter.errors import PlugmeterError
from plugmeter.reporting.files import write_text
from tests.namespace import as_ordinary_user
try:
    write_text("-", "x" * 1_000_000)
except PlugmeterError as error:
    print(error, file=sys.stderr)
    raise SystemExit(error.exit_status)
"""


def _child(stdout: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_standard_output_on_a_full_disk_gives_one_line() -> None:
    with open("/dev/full", "wb") as full:
        done = _child(full.fileno())
    assert done.returncode == 1
    assert done.stderr == (
        "cannot write to standard output: the disk is full; make room or choose another place\n"
    )


def test_a_reader_that_went_away_gives_one_line() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = _child(writer)
    finally:
        os.close(writer)
    assert done.returncode == 1
    assert done.stderr == "cannot write to standard output: the program that reads it has ended\n"


def test_standard_output_gets_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    write_text("-", "µ\n")
    assert capsys.readouterr().out == "µ\n"
