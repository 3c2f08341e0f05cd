"""Records to try the telemetry with: verdicts as a run gives them, each of 300 bytes."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from plugmeter.errors import PlugmeterError
from plugmeter.telemetry.change import Handing
from plugmeter.telemetry.limits import Limits
from plugmeter.telemetry.outbox import DATABASE_NAME, Outbox
from plugmeter.telemetry.reading import Reader
from plugmeter.telemetry.record import Draft

RECORD_BYTES: Final = 300
ROOM: Final = Limits(max_bytes=4 << 30, max_age_ns=0, commit_interval_s=0.2)
"""Enough for millions; the log is as large as with the default."""

_ENCODE: Final = json.JSONEncoder(separators=(",", ":")).encode
_HEX: Final = "0123456789abcdef"
_PATIENCE_S: Final = 60.0


def verdicts(seed: int = 1) -> Iterator[Draft]:
    """Without end. What they lack to 300 bytes is random digits, so that they do not compress too well."""
    chance = random.Random(seed)
    run = "-".join("".join(chance.choices(_HEX, k=size)) for size in (8, 4, 4, 4, 12))
    t_ns = chance.randrange(10**12, 10**13)
    ordinal = 0
    while True:
        ordinal += 1
        t_ns += chance.randrange(10**7, 10**9)
        first_us = chance.randrange(100_000_000, 300_000_000) / 1000
        data = {
            "run": run,
            "t_ns": t_ns,
            "port": f"1-1.{chance.randrange(1, 8)}",
            "ordinal": ordinal,
            "action": "plug" if ordinal % 2 else "pull",
            "outcome": "matched",
            "stage": None,
            "enumerated": True,
            "latency_us": {
                "netlink": first_us,
                "udev": round(first_us + chance.random() * 9000, 3),
                "node": round(first_us + chance.random() * 900, 3),
            },
            "nonce": "",
        }
        bare = _ENCODE(data)
        nonce = f"{chance.getrandbits(4 * RECORD_BYTES):x}"
        yield Draft(
            "verdict", (bare[:-2] + nonce[: RECORD_BYTES - len(bare)] + '"}').encode(), time.time_ns()
        )


def noise(seed: int = 1) -> Iterator[Draft]:
    """Without end: raw records of 300 bytes that hardly compress, for the worst case."""
    chance = random.Random(seed)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    while True:
        text = "".join(chance.choices(letters, k=RECORD_BYTES - len('{"noise":""}')))
        yield Draft("raw", f'{{"noise":"{text}"}}'.encode(), time.time_ns())


def fill(state: Path, count: int, tell: Callable[[str], None]) -> int:
    """Put ``count`` records into the outbox of a state directory, as a daemon would; how many are pending.

    Raises PlugmeterError where the disk does not take them.
    """
    outbox = Outbox(state / DATABASE_NAME, ROOM, tell)
    try:
        outbox.start()
        made = verdicts(seed=outbox.account().produced + 1)
        for number in range(1, count + 1):
            if not outbox.offer(next(made), wait_s=_PATIENCE_S):
                raise PlugmeterError(f"the outbox takes no more: {outbox.trouble or 'it is full'}")
            if number % 100_000 == 0:
                tell(f"{number:,} of {count:,} records are in the outbox")
        if not outbox.flush(_PATIENCE_S):
            raise PlugmeterError(f"the outbox does not commit: {outbox.trouble or 'no time was left'}")
        return outbox.account().pending
    finally:
        outbox.close(_PATIENCE_S)


def pending(state: Path) -> int:
    """How many records are pending in the outbox of a state directory that nobody has open."""
    reader = Reader(state / DATABASE_NAME, Handing())
    try:
        return reader.account().pending
    finally:
        reader.close()
