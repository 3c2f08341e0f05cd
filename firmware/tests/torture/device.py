"""A device that does nothing but report: the real outbox and the real link, fed with numbered records.

    python -m tests.torture.device STATE_DIRECTORY BROKER_PORT LIFE RECORDS_PER_S

Each record says which life of the process made it (``life``) and which one of that life it is (``n``, from
1). Standard output gets a JSON object a line: what is committed so far, ten times a second; so whoever reads
it knows what must not be lost, whatever happens to this process. A line on standard input ends the production
("quiet"), or the process ("stop"), in order. What cannot be mended here ends it with one line and status 1.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

from plugmeter.errors import PlugmeterError
from plugmeter.telemetry import acks, envelope
from plugmeter.telemetry.limits import Limits
from plugmeter.telemetry.link import Link, LinkSettings, Timing
from plugmeter.telemetry.outbox import Outbox
from plugmeter.telemetry.record import Draft
from plugmeter.telemetry.topics import Topics

DEVICE = "torture"
PAD = "x" * 180
"""Makes a record of about 300 bytes."""
SLICE_S = 0.02


class Producer:
    """Offers records at a steady rate, and counts those that were taken."""

    def __init__(self, outbox: Outbox, life: int, per_s: int) -> None:
        self._outbox = outbox
        self._life = life
        self._per_s = per_s
        self.n = 0
        self.quiet = threading.Event()

    def run(self) -> None:
        began = time.monotonic()
        while not self.quiet.wait(SLICE_S):
            due = int((time.monotonic() - began) * self._per_s)
            while self.n < due and not self.quiet.is_set():
                data = {"event": "torture", "details": {"life": self._life, "n": self.n + 1, "pad": PAD}}
                draft = Draft("link", json.dumps(data).encode(), time.time_ns())
                if not self._outbox.offer(draft, wait_s=0.1):
                    break  # it counted that; the next one has the same n, so that n stays without a hole
                self.n += 1


def main(arguments: list[str]) -> None:
    """Run until told to stop."""
    state, port, life, per_s = Path(arguments[0]), int(arguments[1]), int(arguments[2]), int(arguments[3])
    # An age limit, so that a clock that is off has a chance to do harm.
    limits = Limits(max_bytes=64 << 20, max_age_ns=86_400 * 10**9, commit_interval_s=0.05)
    outbox = Outbox(state / "outbox.sqlite", limits, _say)
    opened = outbox.account()
    print(json.dumps({"opened": opened.produced, "adds_up": opened.adds_up}), flush=True)
    outbox.start()
    link = Link(
        LinkSettings(
            host="127.0.0.1", port=port, keepalive_s=4, window=20, ack_timeout_s=0.5, device=DEVICE
        ),
        outbox, Topics(DEVICE), client_id=DEVICE, inbox=lambda inbound: None,
        diary=lambda event, details: None, encode=envelope.batch, decode_ack=acks.decode,
        birth=lambda: b'{"state":"online"}', will=lambda: b'{"state":"lost"}',
        # Everything as quick as can be: hundreds of failures, not one a minute.
        timing=Timing(answer_s=1.0, retry_s=0.05, longest_retry_s=0.2, breaker_s=0.5, longest_breaker_s=1.0),
    )  # fmt: skip
    link.start()
    producer = Producer(outbox, life, per_s)
    thread = threading.Thread(target=producer.run)
    thread.start()
    orders = _orders()
    while "stop" not in orders:
        # The order matters: all that was taken before the flush is committed after it.
        taken = producer.n
        committed = taken if outbox.flush(1.0) else None
        _print(outbox, committed)
        if "quiet" in orders:
            producer.quiet.set()
        time.sleep(0.1)
    producer.quiet.set()
    thread.join()
    link.stop()
    outbox.close()
    _print(outbox, producer.n)


def _orders() -> set[str]:
    heard: set[str] = set()

    def listen() -> None:
        for line in sys.stdin:
            heard.add(line.strip())
        heard.add("stop")  # whoever reads us is gone

    threading.Thread(target=listen, daemon=True).start()
    return heard


def _print(outbox: Outbox, committed: int | None) -> None:
    account = outbox.account()
    print(
        json.dumps(
            {
                "committed": committed,
                "produced": account.produced,
                "acknowledged": account.acknowledged,
                "pending": account.pending,
                "tombstoned": account.tombstoned,
                "unannounced": account.unannounced,
                "adds_up": account.adds_up,
                "trouble": outbox.trouble,
                "wall_s": time.time(),
            }
        ),
        flush=True,
    )


def _say(note: str) -> None:
    print(note, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PlugmeterError as error:
        _say(f"plugmeter: {error}")
        sys.exit(1)
