from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.lifecycle.procfs import KINDS_LIMIT, ProcessReader
from plugmeter.lifecycle.tcp_info import parse_tcp_info, read_tcp

FIRMWARE = Path(__file__).parents[2]


def test_a_sample_agrees_with_what_else_is_known_of_this_process() -> None:
    reader = ProcessReader()
    try:
        with socket.socket(socket.AF_UNIX), open("/dev/zero", "rb"):
            sample = reader.read()
            there = len(list(Path("/proc/self/fd").iterdir())) - 1
    finally:
        reader.close()
        reader.close()
    assert sample.descriptors == there
    kinds = dict(sample.kinds)
    assert kinds["/dev/zero"] == 1
    assert kinds["socket"] >= 1
    assert sum(kinds.values()) == sample.kinds_of == there
    assert sample.descriptor_limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert 1 << 20 < sample.rss_bytes <= sample.peak_rss_bytes
    assert sample.thread_count >= 1
    assert sample.cpu_ns > 0
    assert sample.uptime_ns > 0
    assert reader.blind == 0


def test_threads_have_their_python_names_and_their_time() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="a worker of ours ) R")
    thread.start()
    reader = ProcessReader()
    try:
        threads = {each.name: each for each in reader.read().threads}
    finally:
        reader.close()
        stop.set()
        thread.join()
    ours = threads["a worker of ours ) R"]
    assert ours.tid == thread.native_id
    assert ours.state in "RSD"
    assert threads[threading.main_thread().name].cpu_ns > 0


def test_of_many_descriptors_the_newest_are_looked_at() -> None:
    reader = ProcessReader()
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(KINDS_LIMIT + 10)]
    try:
        full = reader.read()
        cheap = reader.read(threads=False, kinds=False)
    finally:
        for each in opened:
            os.close(each)
        reader.close()
    assert full.kinds[0][0] == "/dev/null"
    assert KINDS_LIMIT - 1 <= full.kinds_of <= KINDS_LIMIT
    assert full.descriptors > KINDS_LIMIT
    assert (cheap.threads, cheap.kinds, cheap.kinds_of) == ((), (), 0)
    assert cheap.descriptors == full.descriptors


def test_without_proc_it_says_so(tmp_path: Path) -> None:
    """In a root directory that is empty; an ordinary user gets there in a user namespace."""
    code = f"""
import os
from plugmeter.errors import PlugmeterError
from plugmeter.lifecycle.procfs import ProcessReader
os.chroot({str(tmp_path)!r})
try:
    ProcessReader()
except PlugmeterError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(FIRMWARE)}
    done = subprocess.run(
        ["unshare", "-Ur", sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    if "unshare failed" in done.stderr:
        pytest.skip("needs user namespaces")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "/proc/self cannot be read (No such file or directory); mount /proc\n"


def test_what_the_kernel_says_of_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        with listener.accept()[0] as peer, ours:
            peer.sendall(b"hello")
            ours.recv(5)
            sample = read_tcp(ours.fileno())
    assert sample is not None
    assert sample.state == 1
    assert (sample.unacked, sample.retransmits, sample.probes, sample.is_unanswered) == (0, 0, 0, False)
    assert sample.last_data_received_ms < 60_000
    assert sample.rtt_us > 0


def test_of_what_is_no_tcp_connection_nothing_is_known() -> None:
    with socket.socket(socket.AF_UNIX) as other, open("/dev/null", "rb") as file:
        assert read_tcp(other.fileno()) is None
        assert read_tcp(file.fileno()) is None
        assert other.fileno() >= 0, "the owner's descriptor stays open"
        gone = os.dup(file.fileno())
        os.close(gone)
        assert read_tcp(gone) is None
    assert read_tcp(None) is None


@given(st.binary(max_size=300))
def test_any_bytes_are_a_sample_or_none(raw: bytes) -> None:
    assert (parse_tcp_info(raw) is None) == (len(raw) < 104)
