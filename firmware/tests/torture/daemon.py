"""``plugmeter run`` itself, killed: with the injected rig, whose verdicts, edges and uevents are the records.

What is on the disk after a kill was committed: the numbers 1 to C of its stream, by the outbox's own books.
All of them must be at the controller in the end, each once and with one content.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import time
from types import TracebackType

from tests.telemetry.broker import eventually
from tests.torture.proof import Proof
from tests.torture.rig import PLUGMETER, SETTLE_S, Rig, environ

DEVICE = "torture"
LOG = "device.log"


class Daemon:
    """Use with ``with``. Started again and again on the same state directory."""

    def __init__(self, it: Rig) -> None:
        self._it = it
        self._config = it.folder / "plugmeter.toml"
        self._config.write_text(
            f'[daemon]\ndevice = "{DEVICE}"\nstate_directory = "{it.state}"\nrig = "injected"\n'
            f'records = "all"\nmetrics = ""\n[rig]\nsticks = 4\ncycles = 4\nports = 4\n'
            f'[mqtt]\nhost = "127.0.0.1"\nport = {it.chaos.port}\nack_timeout_s = 1.0\n'
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.committed: dict[str, int] = {}
        """The numbers of each stream that were found committed."""

    def __enter__(self) -> Daemon:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        with open(self._it.folder / LOG, "ab") as log:
            self._process = subprocess.Popen(
                [*PLUGMETER, "run", "--config", str(self._config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ(), start_new_session=True,
            )  # fmt: skip

    def kill(self) -> bool:
        """kill -9 of the daemon, and then of what it leaves behind; whether it was alive."""
        if self._process is None:
            return False
        process, self._process = self._process, None
        process.kill()
        status = process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its runner, which ends by itself, but not at once
        return status == -signal.SIGKILL

    def stop(self) -> None:
        """In order."""
        assert self._process is not None
        process, self._process = self._process, None
        process.terminate()
        status = process.wait(60)
        assert status == 0, f"the daemon ended with {status}: {self._it.log()}"

    def look(self) -> int:
        """How many records more than before are on its disk."""
        file = self._it.state / "outbox.sqlite"
        if not file.exists():
            return 0
        with contextlib.closing(sqlite3.connect(file, timeout=30)) as database:
            try:
                row = database.execute("SELECT stream, produced FROM books").fetchone()
            except sqlite3.OperationalError:  # killed before it had made its tables
                return 0
        if row is None:
            return 0
        before = self.committed.get(row[0], 0)
        self.committed[row[0]] = max(before, row[1])
        return int(row[1]) - before

    def missing(self) -> int:
        """How many of those are not at the controller."""
        with contextlib.closing(sqlite3.connect(self._it.database)) as database:
            return sum(
                committed - _stored(database, name, committed) for name, committed in self.committed.items()
            )

    def prove(self, proof: Proof) -> None:
        proof.lost = self.missing()
        with contextlib.closing(sqlite3.connect(self._it.database)) as database:
            proof.stored = database.execute("SELECT count(*) FROM record").fetchone()[0]
            proof.duplicates = database.execute("SELECT coalesce(sum(conflicts), 0) FROM stream").fetchone()[
                0
            ]
            for (name,) in database.execute("SELECT name FROM stream"):
                highest = database.execute(
                    "SELECT coalesce(max(seq), 0) FROM record JOIN stream ON stream = id WHERE name = ?",
                    (name,),
                ).fetchone()[0]
                proof.holes += highest - _stored(database, name, highest)
            (proof.tombstoned,) = database.execute(
                "SELECT coalesce(sum(tombstoned), 0) FROM stream"
            ).fetchone()
        proof.lost += proof.tombstoned
        self._it.audit(proof)

    def settle(self) -> None:
        """Until the controller has all that was committed before the last start; then end it in order."""
        eventually(lambda: self.missing() == 0, f"everything arrives; {self._it.log()}", SETTLE_S)
        self.stop()
        self.look()
        eventually(lambda: self.missing() == 0, f"the rest arrives; {self._it.log()}", SETTLE_S)


def await_committed(daemon: Daemon, limit_s: float = 60.0) -> None:
    """Until this process of it has committed something."""
    deadline = time.monotonic() + limit_s
    while daemon.look() <= 0:
        assert time.monotonic() < deadline, "the daemon commits nothing"
        time.sleep(0.05)


def _stored(database: sqlite3.Connection, stream: str, most: int) -> int:
    found = database.execute(
        "SELECT count(*) FROM record JOIN stream ON stream = id WHERE name = ? AND seq BETWEEN 1 AND ?",
        (stream, most),
    ).fetchone()
    return int(found[0])
