"""GPIO edges of a real kernel, moved from outside: what libgpiod 2 hands over, and what it shows of a loss.

Not a test of ours alone: it holds down the facts about the kernel that the gpio witness is built on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import gpiod
import pytest
from gpiod.line import Direction, Edge

CHIP = Path("/dev/gpiochip0")
LINE = 5
KERNEL_FIFO = 1024
"""The most that the kernel holds for one request (16 for each of 64 lines; linux/gpio.h)."""


@pytest.fixture
def driver() -> Iterator[BinaryIO]:
    """What moves the lines: see firmware/tests/guest/lab.py."""
    name = os.environ.get("PLUGMETER_GPIO_DRIVER")
    if not name:
        pytest.skip("runs in the guest: GPIO lines that something else moves")
    with open(name, "r+b", buffering=0) as port:
        yield port


def drive(port: BinaryIO, level: int) -> None:
    port.write(f"set {LINE} {level}\n".encode())
    answer = b""
    while not answer.endswith(b"\n"):
        answer += port.read(64)
    assert answer == b"ok\n"


@pytest.fixture
def request_(driver: BinaryIO) -> Iterator[gpiod.LineRequest]:
    drive(driver, 0)
    settings = gpiod.LineSettings(direction=Direction.INPUT, edge_detection=Edge.BOTH)
    with gpiod.request_lines(
        str(CHIP), consumer="test", config={LINE: settings}, event_buffer_size=KERNEL_FIFO
    ) as request:
        yield request


def read_all(request: gpiod.LineRequest) -> list[gpiod.EdgeEvent]:
    events: list[gpiod.EdgeEvent] = []
    while request.wait_edge_events(timedelta(seconds=1)):
        events += request.read_edge_events(KERNEL_FIFO)
    return events


def test_each_edge_comes_once_in_order_and_numbered(driver: BinaryIO, request_: gpiod.LineRequest) -> None:
    before_ns = time.monotonic_ns()
    for number in range(200):
        drive(driver, 1 - number % 2)
    after_ns = time.monotonic_ns()
    events = read_all(request_)
    assert [event.line_seqno for event in events] == list(range(1, 201))
    rising = gpiod.EdgeEvent.Type.RISING_EDGE
    assert [event.event_type is rising for event in events] == [True, False] * 100
    stamps = [event.timestamp_ns for event in events]
    assert stamps == sorted(stamps)
    # The kernel's stamps are CLOCK_MONOTONIC, like our own.
    assert before_ns <= stamps[0] and stamps[-1] <= after_ns


def test_what_the_kernel_fifo_dropped_is_missing_from_the_numbers(
    driver: BinaryIO, request_: gpiod.LineRequest
) -> None:
    edges = 1100
    for number in range(edges):
        drive(driver, 1 - number % 2)
    events = read_all(request_)
    # The oldest are dropped, so that the loss shows at the first event and only there.
    assert [event.line_seqno for event in events] == list(range(edges - KERNEL_FIFO + 1, edges + 1))


def test_interrupts_are_counted_as_often_as_edges(driver: BinaryIO, request_: gpiod.LineRequest) -> None:
    before = interrupts()
    for number in range(100):
        drive(driver, 1 - number % 2)
    assert len(read_all(request_)) == 100
    assert interrupts() - before == 100


def interrupts() -> int:
    """How often the requested line has interrupted, over all processors: it is named by its consumer."""
    for row in Path("/proc/interrupts").read_text().splitlines():
        if row.endswith(" test"):
            return sum(int(word) for word in row.split()[1 : 1 + (os.cpu_count() or 1)])
    raise AssertionError("no interrupt named by the request's consumer")
