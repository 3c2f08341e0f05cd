"""Files replaced whole, and read up to a limit: real files, devices and FIFOs."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from plugmeter.files import read_regular, replace_file, sweep


def test_what_is_written_is_read_up_to_the_limit_and_not_beyond(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_file(path, b"12345")
    assert read_regular(path, 5) == b"12345"
    with pytest.raises(OSError, match="too large"):
        read_regular(path, 4)


def test_a_file_without_a_size_is_limited_by_what_is_read() -> None:
    path = Path("/proc/self/status")  # st_size is 0
    assert read_regular(path, 1 << 20)
    with pytest.raises(OSError, match="too large"):
        read_regular(path, 10)


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/full", "/dev/null"])
def test_devices_are_neither_read_nor_replaced(name: str) -> None:
    path = Path(name)
    with pytest.raises(OSError, match="no regular file"):
        read_regular(path, 10)
    with pytest.raises(OSError, match="no regular file"):
        replace_file(path, b"x")
    assert path.is_char_device()


def test_a_fifo_without_a_writer_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="no regular file"):
        read_regular(tmp_path / "fifo", 10)


def test_writers_at_the_same_time_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    failed: list[OSError] = []

    def write(letter: bytes) -> None:
        try:
            for _ in range(20):
                replace_file(path, letter * 10_000)
        except OSError as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c", b"d")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failed == []
    assert len(set(path.read_bytes())) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_what_a_kill_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from plugmeter.files import replace_file\n"
        "print('on', flush=True)\n"
        "while True: replace_file(pathlib.Path(sys.argv[1]), bytes(100_000))\n"
    )
    place = tmp_path / "health.json"
    while len(list(tmp_path.iterdir())) < 3:  # the file, and two that were left
        with subprocess.Popen([sys.executable, "-c", code, str(place)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(random.uniform(0, 0.02))
            writer.kill()
    others = {".health.json.tmp", "x.0123456789ab.tmp", ".x.0123456789ab.tmp.bak", ".0123456789ab.tmp"}
    for name in others:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".folder.0123456789ab.tmp").mkdir()
    assert sweep(tmp_path) >= 2
    assert {path.name for path in tmp_path.iterdir()} == others | {"health.json", ".folder.0123456789ab.tmp"}
    assert len(place.read_bytes()) == 100_000
    assert sweep(tmp_path) == sweep(tmp_path / "missing") == 0
