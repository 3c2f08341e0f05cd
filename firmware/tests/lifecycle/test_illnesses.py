"""Real illnesses of a real process, found by what the kernel says of it."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from plugmeter.lifecycle.diagnosis.doctor import Doctor, Limits
from plugmeter.lifecycle.diagnosis.finding import Finding
from plugmeter.lifecycle.observe import observe
from plugmeter.lifecycle.procfs import ProcessReader
from plugmeter.lifecycle.samples import LinkSample
from plugmeter.lifecycle.whereabouts import whereabouts
from plugmeter.progress import Progress

FIRMWARE = Path(__file__).parents[2]
SO_ATTACH_FILTER = 26
GIVE_UP_S = 60
"""No test takes this long, unless it fails."""

QUICK = Limits(
    stuck_s=1.5, fd_growth=8, fd_window_s=0.2, spin_s=0.6, unanswered_s=1.0, silent_s=2.0, tls_window_s=60
)


@pytest.fixture
def reader() -> Iterator[ProcessReader]:
    made = ProcessReader()
    yield made
    made.close()


def until(
    doctor: Doctor,
    look: Callable[[], object],
    holds: Callable[[tuple[Finding, ...]], bool],
) -> tuple[Finding, ...]:
    """Look again and again until the findings are as they should be."""
    give_up = time.monotonic() + GIVE_UP_S
    while not holds(doctor.findings):
        assert time.monotonic() < give_up, doctor.findings
        look()
        time.sleep(0.02)
    return doctor.findings


def named(name: str) -> Callable[[tuple[Finding, ...]], bool]:
    return lambda findings: any(each.name == name for each in findings)


def healthy(findings: tuple[Finding, ...]) -> bool:
    return not findings


def test_a_leak_of_sockets_is_found_and_named_and_its_end_too(reader: ProcessReader) -> None:
    doctor = Doctor(QUICK)
    leaked: list[socket.socket] = []

    def look(leaking: bool) -> None:
        if leaking:
            leaked.append(socket.socket(socket.AF_UNIX))
        doctor.look(observe(reader, (), None))

    found = until(doctor, lambda: look(True), named("fd_leak"))
    assert [each.remedy for each in found] == ["none"]
    assert ": socket +" in found[0].evidence
    for each in leaked:
        each.close()
    until(doctor, lambda: look(False), healthy)


def test_a_process_without_a_free_descriptor_still_sees_that() -> None:
    code = """
import os, resource
from plugmeter.lifecycle.procfs import ProcessReader
reader = ProcessReader()
resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))
try:
    while True:
        os.open("/dev/null", os.O_RDONLY)
except OSError:
    pass
sample = reader.read()
assert (sample.descriptors, sample.descriptor_limit) == (80, 80), sample
assert sample.kinds[0][0] == "/dev/null" and sample.kinds[0][1] > 60, sample
assert sample.threads == () and sample.thread_count == 1 and sample.rss_bytes > 0, sample
assert reader.blind == 2
"""
    environment = {**os.environ, "PYTHONPATH": str(FIRMWARE)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_loop_around_an_event_that_nobody_takes_spins(reader: ProcessReader) -> None:
    """The classic: a descriptor stays readable, and whoever polls it does not read it."""
    event, stop, progress = os.eventfd(1), threading.Event(), Progress("link")

    def loop() -> None:
        poller = select.poll()
        poller.register(event, select.POLLIN)
        while not stop.is_set():
            poller.poll(1000)
            progress.woke(False)

    thread = threading.Thread(target=loop, name="link")
    thread.start()
    try:
        doctor = Doctor(QUICK)
        found = until(doctor, lambda: doctor.look(observe(reader, [progress], None)), named("spinning"))
        assert [(each.worker, each.remedy) for each in found] == [("link", "reconnect")]
        assert "of a processor" in found[0].evidence
        os.read(event, 8)  # somebody takes it
        until(doctor, lambda: doctor.look(observe(reader, [progress], None)), healthy)
    finally:
        stop.set()
        os.eventfd_write(event, 1)
        thread.join()
        os.close(event)


def test_a_thread_that_waits_for_a_lock_for_ever_is_stuck_and_where(reader: ProcessReader) -> None:
    lock, stop, progress, busy = threading.Lock(), threading.Event(), Progress("runner"), Progress("outbox")

    def the_place_of_the_wait() -> None:
        with lock:
            pass

    def loop() -> None:
        while not stop.is_set():
            the_place_of_the_wait()
            progress.woke(True)
            time.sleep(0.05)

    thread = threading.Thread(target=loop, name="runner")
    thread.start()
    try:
        doctor = Doctor(QUICK, whereabouts)

        def look() -> None:
            busy.woke(True)
            doctor.look(observe(reader, [progress, busy], None))

        with lock:
            found = until(doctor, look, named("stuck"))
            assert [(each.worker, each.remedy) for each in found] == [("runner", "restart_worker")]
            assert "the_place_of_the_wait < " in found[0].evidence
            assert ", state S)" in found[0].evidence
        until(doctor, look, healthy)
    finally:
        stop.set()
        thread.join()


def test_nobody_is_where_no_thread_is() -> None:
    assert whereabouts("no such thread") == ""
    assert "test_nobody_is_where_no_thread_is" in whereabouts(threading.current_thread().name)


class Broker:
    """A peer of one connection, in a process of its own that can be stopped."""

    CODE = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
peer = listener.accept()[0]
while data := peer.recv(4096):
    peer.sendall(data)
"""

    def __init__(self, stack: ExitStack) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", self.CODE], stdout=subprocess.PIPE)
        stack.callback(self.process.wait)
        stack.callback(self.process.kill)
        assert self.process.stdout is not None
        stack.callback(self.process.stdout.close)
        port = int(self.process.stdout.readline())
        self.connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        self.connected_ns = time.monotonic_ns()
        self.sent_ns = self.received_ns = 0

    def ask(self) -> None:
        self.connection.sendall(b"ping")
        self.sent_ns = time.monotonic_ns()

    def answered(self) -> bool:
        if select.select([self.connection], [], [], 0)[0]:
            self.connection.recv(4096)
            self.received_ns = time.monotonic_ns()
        return self.received_ns > self.sent_ns

    def sample(self) -> LinkSample:
        waits = not self.answered() and self.sent_ns
        return LinkSample(
            "connected",
            self.connected_ns,
            self.sent_ns if waits else None,
            self.received_ns or None,
            0,
            self.connection.fileno(),
        )


def test_a_broker_that_was_stopped_is_found_and_one_that_goes_on_is_acquitted(reader: ProcessReader) -> None:
    """Its kernel acknowledges what we send: TCP knows of nothing wrong."""
    with ExitStack() as stack:
        broker = Broker(stack)
        doctor = Doctor(QUICK)
        broker.process.send_signal(signal.SIGSTOP)
        broker.ask()
        found = until(doctor, lambda: doctor.look(observe(reader, (), broker.sample())), named("half_open"))
        assert found[0].remedy == "reconnect"
        assert "its program does not answer" in found[0].evidence
        broker.process.send_signal(signal.SIGCONT)
        until(doctor, lambda: doctor.look(observe(reader, (), broker.sample())), healthy)


def test_a_connection_into_a_black_hole_is_found_by_its_retransmissions(reader: ProcessReader) -> None:
    """A classic BPF filter on the peer's socket drops each segment before TCP sees it (tcp_v4_rcv): there is
    no acknowledgement and no reset, as with a router that forgot the connection."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        ours = stack.enter_context(socket.create_connection(listener.getsockname()))
        peer = stack.enter_context(listener.accept()[0])
        connected_ns = time.monotonic_ns()
        drop_all = struct.pack("=HBBI", 0x06, 0, 0, 0)  # BPF_RET | BPF_K, 0: include/uapi/linux/filter.h
        program = ctypes.create_string_buffer(drop_all)
        peer.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", 1, ctypes.addressof(program)))
        ours.sendall(b"is anybody there?")
        link = LinkSample("connected", connected_ns, time.monotonic_ns(), None, 0, ours.fileno())
        doctor = Doctor(QUICK)
        found = until(doctor, lambda: doctor.look(observe(reader, (), link)), named("half_open"))
        assert "1 segments unacknowledged" in found[0].evidence
        assert found[0].remedy == "reconnect"


def test_a_healthy_process_has_nothing(reader: ProcessReader) -> None:
    """Bursts of descriptors, a busy worker, a connection that answers."""
    with ExitStack() as stack:
        broker = Broker(stack)
        doctor, busy = Doctor(QUICK, whereabouts), Progress("outbox")
        for turn in range(60):
            broker.ask()
            with ExitStack() as burst:
                for _ in range(40 if turn % 3 else 0):
                    burst.enter_context(socket.socket(socket.AF_UNIX))
                for _ in range(500):
                    busy.woke(True)
                assert doctor.look(observe(reader, [busy], broker.sample())) == ()
            while not broker.answered():
                select.select([broker.connection], [], [], GIVE_UP_S)
            time.sleep(0.02)
