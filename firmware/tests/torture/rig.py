"""All of it for real: a broker, the controller, a device, and a proxy that does the network's worst.

What must hold afterwards, whatever happened (``Rig.prove``):

- **nothing lost**: of each life of the device, records 1 to C are at the controller, where C is the last one
  that the device had committed as far as it came to tell us. What a kill takes is the tail behind C.
- **no hole, nothing twice**: of each life the controller has the numbers 1 to M without a hole, each once.
- **the books add up**: produced = acknowledged + tombstoned + pending at the device each time it opens its
  outbox, and the controller's audit finds each sequence number stored, tombstoned or pending.
- **it did happen**: a turn counts (``Rig.struck``) only when there is evidence that it struck; one that did
  not is repeated, and after too many of those the proof fails. And nobody left a traceback.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.telemetry.broker import Mosquitto, eventually
from tests.telemetry.chaos import Chaos
from tests.torture.proof import Proof

FIRMWARE = Path(__file__).resolve().parents[2]
PLUGMETER = (sys.executable, "-m", "plugmeter")
LOGS = ("device.log", "controller.log")
TURNS = "turns"
SETTLE_S = 240.0
"""So long may the last records take to arrive once everything works again. No figure, only an end."""


@dataclass(slots=True)
class Life:
    """What one process of the device has told of itself."""

    number: int
    process: subprocess.Popen[str]
    committed: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    log_at: int = 0
    """Where its part of device.log begins."""
    reader: threading.Thread | None = None
    books_wrong: bool = False

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                told = json.loads(line)
            except ValueError:
                continue  # killed in the middle of a line
            if not told.get("adds_up", True):
                self.books_wrong = True
            if "produced" in told:
                self.committed = max(self.committed, told["committed"] or 0)
                self.last = told

    @property
    def acknowledged(self) -> int:
        """As the device last told."""
        return int(self.last.get("acknowledged", 0))

    def tell(self, order: str) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(order + "\n")
            self.process.stdin.flush()


class Rig:
    """Use with ``with``. The device is started and stopped by the scenario."""

    def __init__(
        self,
        folder: Path,
        *,
        state: Path | None = None,
        per_s: int = 400,
        environ: Mapping[str, str] | None = None,
        controller_environ: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.state = state or folder / "state"
        self.state.mkdir(exist_ok=True)
        self.database = folder / "controller.sqlite"
        self.per_s = per_s
        self.broker = Mosquitto(folder)
        self.lives: list[Life] = []
        self.wrapper: Sequence[str] = ()
        """A program before the device: strace, say."""
        self.environ = environ or {}
        self.controller_environ = controller_environ or {}
        self.kinds: Counter[str] = Counter()
        """What struck, how often."""
        self._turns = 0
        self._struck = 0
        self._controller: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Rig:
        self.broker.start()
        self.chaos = Chaos(self.broker.port)
        self.start_controller()
        return self

    def __exit__(self, *_: object) -> None:
        for life in self.lives:
            if life.process.poll() is None:
                _kill_group(life.process.pid)
                life.process.wait()
        self.stop_controller(signal.SIGKILL)
        self.chaos.close()
        self.broker.close()

    # -- the turns ------------------------------------------------------------------------------

    def turns(self, times: int) -> Iterator[int]:
        """0, 1, ... until ``times`` turns have struck; gives up after three times as many and 20."""
        while self._struck < times and self._turns < 3 * times + 20:
            self._turns += 1
            yield self._turns - 1

    def struck(self, *kinds: str) -> None:
        """This turn did what it was to do: there is evidence of it. ``kinds`` are words to count it by."""
        self._struck += 1
        self.kinds.update(kinds)
        with open(self.folder / TURNS, "ab") as file:  # whoever shows the progress looks at its size
            file.write(b".")

    # -- the controller -------------------------------------------------------------------------

    def start_controller(self) -> None:
        with open(self.folder / "controller.log", "ab") as log:
            self._controller = subprocess.Popen(
                [
                    *PLUGMETER, "controller", "serve", "--broker", f"mqtt://127.0.0.1:{self.broker.port}",
                    "--database", str(self.database), "--no-page",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**environ(), **self.controller_environ},
            )  # fmt: skip

    def stop_controller(self, number: signal.Signals) -> None:
        if self._controller is not None and self._controller.poll() is None:
            self._controller.send_signal(number)
            self._controller.wait(30)

    # -- the device -----------------------------------------------------------------------------

    @property
    def life(self) -> Life:
        return self.lives[-1]

    def start_device(self, *, through_chaos: bool = True) -> Life:
        number = len(self.lives) + 1
        port = self.chaos.port if through_chaos else self.broker.port
        with open(self.folder / "device.log", "ab") as log:
            log_at = log.tell()
            process = subprocess.Popen(
                [
                    *self.wrapper, sys.executable, "-m", "tests.torture.device",
                    str(self.state), str(port), str(number), str(self.per_s),
                ],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env={**environ(), **self.environ}, start_new_session=True,
            )  # fmt: skip
        life = Life(number, process, log_at=log_at)
        life.reader = threading.Thread(target=life.read, daemon=True)
        life.reader.start()
        self.lives.append(life)
        return life

    def kill_device(self) -> bool:
        """kill -9, in whatever it is doing. False if it had ended by itself before."""
        life = self.life
        _kill_group(life.process.pid)
        status = life.process.wait()
        assert life.reader is not None
        life.reader.join(10)
        return status == -signal.SIGKILL

    def said(self, words: str) -> int:
        """How often the device's present process has said them so far."""
        with open(self.folder / "device.log", "rb") as log:
            log.seek(self.life.log_at)
            return log.read().count(words.encode())

    def await_committed(self, more: int = 1, limit_s: float = 60.0) -> None:
        """Until the device has told of ``more`` records than it had told of before."""
        life, before = self.life, self.life.committed
        eventually(
            lambda: life.committed >= before + more or life.process.poll() is not None,
            "the device commits", limit_s,
        )  # fmt: skip
        assert life.process.poll() is None, f"the device ended by itself: {self.log()}"

    def await_acknowledged(self, more: int = 20) -> None:
        """Until the controller has acknowledged ``more`` than before: the connection lives, and is in use."""
        life, before = self.life, self.life.acknowledged
        eventually(
            lambda: life.acknowledged >= before + more or life.process.poll() is not None,
            "the controller acknowledges", SETTLE_S,
        )  # fmt: skip
        assert life.process.poll() is None, f"the device ended by itself: {self.log()}"

    def await_committed_or_end(self) -> None:
        """As ``await_committed``, for a device that may be unable to start."""
        life = self.life
        eventually(lambda: life.committed > 0 or life.process.poll() is not None, "it commits, or ends", 120)

    def settle(self) -> None:
        """End the production, wait until all has arrived, stop the device in order."""
        life = self.life
        life.tell("quiet")
        eventually(
            lambda: (life.last.get("pending") == 0 and life.last.get("unannounced") == 0)
            or life.process.poll() is not None,
            "everything is acknowledged", SETTLE_S,
        )  # fmt: skip
        assert life.process.poll() is None, f"the device ended by itself: {self.log()}"
        life.tell("stop")
        life.process.wait(30)
        assert life.reader is not None
        life.reader.join(10)

    def log(self) -> str:
        """The last that device and controller have said."""
        return "\n".join(
            (self.folder / name).read_text(errors="replace")[-2000:]
            for name in LOGS
            if (self.folder / name).exists()
        )

    # -- the proof ------------------------------------------------------------------------------

    def prove(self, *, exact: bool = True) -> Proof:
        """Count. ``exact`` is for scenarios in which nothing may have got a tombstone."""
        proof = self.counted()
        stored = self._stored()
        for life in self.lives:
            numbers = stored.get(life.number, [])
            proof.stored += len(numbers)
            proof.duplicates += len(numbers) - len(set(numbers))
            have = set(numbers)
            proof.lost += sum(n not in have for n in range(1, life.committed + 1))
            proof.holes += max(have, default=0) - len(have)
            proof.books_wrong += life.books_wrong
        proof.tombstoned = int(self.life.last.get("tombstoned", 0))
        self.audit(proof)
        if exact and proof.tombstoned:
            proof.lost += proof.tombstoned
        return proof

    def counted(self) -> Proof:
        """The turns, and what the logs tell."""
        proof = Proof(hits=self._struck, missed=self._turns - self._struck, kinds=self.kinds)
        proof.tracebacks = sum(
            (self.folder / name).read_bytes().count(b"Traceback")
            for name in LOGS
            if (self.folder / name).exists()
        )
        return proof

    def audit(self, proof: Proof) -> None:
        """What the controller itself finds."""
        audit = subprocess.run(
            [*PLUGMETER, "controller", "audit", "--database", str(self.database), "--json"],
            capture_output=True, text=True, env=environ(), check=False,
        )  # fmt: skip
        proof.audit_status = audit.returncode
        if audit.returncode:
            proof.audit = audit.stdout + audit.stderr

    def newest_received_s(self) -> float:
        """The controller's clock when it stored the record that it stored last, in seconds since 1970."""
        with contextlib.closing(sqlite3.connect(self.database)) as database:
            (received_ms,) = database.execute(
                "SELECT received_ms FROM record ORDER BY stream DESC, seq DESC LIMIT 1"
            ).fetchone()
        return float(received_ms) / 1_000

    def _stored(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = defaultdict(list)
        with contextlib.closing(sqlite3.connect(self.database)) as database:
            for (data,) in database.execute("SELECT data FROM record WHERE kind = 'link'"):
                details = json.loads(data).get("details", {})
                if "n" in details:
                    found[details["life"]].append(details["n"])
        return found


@contextlib.contextmanager
def rig(folder: Path, **settings: Any) -> Iterator[Rig]:
    """A rig in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    with Rig(folder, **settings) as made:
        yield made


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(FIRMWARE), "PYTHONUNBUFFERED": "1"}
