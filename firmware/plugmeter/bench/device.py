"""Both ends of the telemetry for a bench: a device that only reports, and one who acknowledges.

Each is a process of its own, as in life. The device is the real outbox and the real link. The acknowledger
stores nothing and looks at nothing but the numbers: what a controller does beyond that is the difference
between it and the controller.
"""

from __future__ import annotations

import itertools
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from plugmeter.bench.broker import HOST
from plugmeter.bench.drafts import verdicts
from plugmeter.daemon import documents
from plugmeter.errors import PlugmeterError
from plugmeter.telemetry import acks, envelope, ranges
from plugmeter.telemetry.link import Link, LinkSettings
from plugmeter.telemetry.outbox import DATABASE_NAME, Limits, Outbox
from plugmeter.telemetry.topics import Topics, every_device

DEVICE: Final = "bench"
BACKLOG: Final = 10_000
"""The device makes no more than this in advance: what it makes is what it gets rid of."""
_LIMITS: Final = Limits(max_bytes=268_435_456, max_age_ns=0, commit_interval_s=0.2)
_SLICE: Final = 100
_LONGEST_WARMUP_S: Final = 30.0
_PATIENCE_S: Final = 30.0
_PAUSE_S: Final = 0.002
_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Sustained:
    """What a device got rid of while ``seconds`` were measured, and the books when all was over."""

    seconds: float
    records: int
    """Acknowledged by the other end, and that committed in the outbox."""
    cpu_us: Mapping[str, float]
    """Processor time for each of these records, by process."""
    produced: int
    acknowledged: int
    """Of all, the time before and after included. Must be what was produced."""
    resent: int
    counters: Mapping[str, int]
    """The link's."""

    @property
    def per_s(self) -> float:
        return self.records / self.seconds

    def as_json(self) -> dict[str, Any]:
        """All figures."""
        return {**asdict(self), "per_s": self.per_s}


def report_here(
    state: Path, port: int, seconds: float, warmup_s: float, others: Mapping[str, int]
) -> Sustained:
    """Be the device that is measured: report as much as it can. ``others`` are processes by name.

    Raises PlugmeterError where nobody acknowledges, or where in the end not all of it is.
    """
    outbox = Outbox(state / DATABASE_NAME, _LIMITS, _complain)
    link = Link(
        LinkSettings(host=HOST, port=port, device=DEVICE),
        outbox,
        Topics(DEVICE),
        client_id=f"plugmeter-{DEVICE}",
        inbox=lambda inbound: None,
        diary=lambda event, details: None,
        encode=envelope.batch,
        decode_ack=acks.decode,
        birth=lambda: documents.status("online", outbox.stream, time.time_ns()),
        will=lambda: documents.status("lost", outbox.stream, time.time_ns()),
    )
    outbox.start()
    link.start()
    stop = threading.Event()
    maker = threading.Thread(target=_make, args=(outbox, stop), name="maker", daemon=True)
    maker.start()
    try:
        _await(lambda: outbox.account().acknowledged > 0, _LONGEST_WARMUP_S, "nobody acknowledges a record")
        time.sleep(warmup_s)
        processes = {"device": os.getpid(), **others}
        cpu_s = {name: _cpu_s(pid) for name, pid in processes.items()}
        before, begun_s = outbox.account().acknowledged, time.monotonic()
        time.sleep(seconds)
        records, spent_s = outbox.account().acknowledged - before, time.monotonic() - begun_s
        cpu_us = {
            name: (_cpu_s(pid) - cpu_s[name]) * 1e6 / max(1, records) for name, pid in processes.items()
        }
        stop.set()
        maker.join()
        outbox.flush(_PATIENCE_S)
        _await(lambda: outbox.account().pending == 0, _PATIENCE_S, "not all records were acknowledged")
        account, status = outbox.account(), link.status()
    finally:
        stop.set()
        link.stop()
        outbox.close(_PATIENCE_S)
    return Sustained(
        spent_s, records, cpu_us, account.produced, account.acknowledged, status.resent, dict(status.counters)
    )


def _make(outbox: Outbox, stop: threading.Event) -> None:
    made = verdicts()
    prepared = list(itertools.islice(made, BACKLOG))  # making them is not what is measured
    at = itertools.cycle(range(0, BACKLOG, _SLICE))
    while not stop.is_set():
        if outbox.pending_now() > BACKLOG - _SLICE:
            stop.wait(_PAUSE_S)
            continue
        begin = next(at)
        for draft in prepared[begin : begin + _SLICE]:
            outbox.offer(draft, wait_s=1.0)


def acknowledge_here(port: int) -> None:
    """Be the acknowledger: until somebody ends it."""
    found = re.compile(rb'"id":"([0-9a-f-]{36})/(\d+)(?:-(\d+))?"').findall

    def heard(client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
        numbers: defaultdict[bytes, list[tuple[int, int]]] = defaultdict(list)
        for stream, first, last in found(message.payload):
            numbers[stream].append((int(first), int(last or first)))
        topic = message.topic.rpartition("/")[0] + "/acks"
        for stream, pairs in numbers.items():
            client.publish(topic, acks.encode(stream.decode(), ranges.normalise(pairs)), qos=1)

    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.on_message = heard
    client.on_connect = lambda client, *_: client.subscribe(every_device("records"), qos=1)
    client.connect(HOST, port)
    client.loop_forever(retry_first_connection=False)


def _await(condition: Callable[[], bool], limit_s: float, problem: str) -> None:
    give_up_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > give_up_s:
            raise PlugmeterError(f"{problem} within {limit_s:g} s")
        time.sleep(0.02)


def _cpu_s(pid: int) -> float:
    """User and system time of all its threads (proc_pid_stat(5)), in seconds."""
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    fields = stat[stat.rindex(b")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_NS / 1e9


def _complain(line: str) -> None:
    raise PlugmeterError(line)
