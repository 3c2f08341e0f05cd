"""The scribe: what it writes, and who waits for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugmeter.errors import PlugmeterError
from plugmeter.lifecycle.scribe import Scribe

LONG_S = 60.0


class Bench:
    def __init__(self) -> None:
        self.told: list[str] = []
        self.scribe = Scribe(self.told.append)
        self.begun = threading.Event()
        self.disk = threading.Event()
        """Set once the disk answers."""

    def hang(self) -> None:
        self.scribe.do("what hangs", self._hang)
        assert self.begun.wait(LONG_S)

    def _hang(self) -> None:
        self.begun.set()
        assert self.disk.wait(LONG_S)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.disk.set()


def test_files_are_written_whole(bench: Bench, tmp_path: Path) -> None:
    assert bench.scribe.wait(0), "there is nothing to wait for"
    for name in ("one", "other"):
        bench.scribe.write(tmp_path / name, name.encode(), "")
    assert bench.scribe.wait(LONG_S)
    assert [(tmp_path / name).read_text() for name in ("one", "other")] == ["one", "other"]
    assert bench.scribe.undone == ()
    assert bench.told == []


def test_the_latest_of_a_file_wins_and_the_others_are_counted(bench: Bench, tmp_path: Path) -> None:
    bench.hang()
    for text in ("first", "second", "third"):
        bench.scribe.write(tmp_path / "file", text.encode(), "")
    assert bench.scribe.replaced == 2
    assert bench.scribe.undone == ("what hangs", str(tmp_path / "file"))
    bench.disk.set()
    assert bench.scribe.wait(LONG_S)
    assert (tmp_path / "file").read_text() == "third"


def test_a_disk_that_hangs_is_told_once_and_waited_for_once(bench: Bench, tmp_path: Path) -> None:
    bench.hang()
    bench.scribe.write(tmp_path / "file", b"x", "")
    assert not bench.scribe.wait(0.01)
    assert not bench.scribe.wait(LONG_S), "which it does not wait for"
    assert bench.told == [f"the state directory does not answer; not done: what hangs, {tmp_path}/file"]
    bench.disk.set()
    while not bench.scribe.wait(LONG_S):
        pass
    assert (tmp_path / "file").exists()


def test_what_cannot_be_done_is_told_and_the_next_is_done(bench: Bench, tmp_path: Path) -> None:
    def fail() -> None:
        raise PlugmeterError("this cannot be done")

    bench.scribe.do("one", fail)
    bench.scribe.write(tmp_path / "none" / "file", b"x", "it stays as it was")
    bench.scribe.write(tmp_path / "file", b"x", "")
    assert bench.scribe.wait(LONG_S)
    assert bench.told == [
        "this cannot be done",
        f"cannot write {tmp_path}/none/file: No such file or directory; it stays as it was",
    ]
    assert (tmp_path / "file").read_bytes() == b"x"
