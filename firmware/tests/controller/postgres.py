"""A PostgreSQL server for tests: a real one, of our own, in a temporary folder, on a Unix socket."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path
from types import TracebackType

import pytest

_CLUSTERS = Path("/usr/lib/postgresql")


def programs() -> Path | None:
    """The folder with initdb and postgres, of the newest version there is."""
    found = [path.parent for path in _CLUSTERS.glob("*/bin/initdb")]
    if not found and (initdb := shutil.which("initdb")):
        found = [Path(initdb).parent]
    return max(
        found, key=lambda path: [int(n) for n in path.parent.name.split(".") if n.isdigit()], default=None
    )


class Postgres:
    """Starts with ``with``. It refuses to run as root, so as root it is an ordinary user's."""

    def __init__(self) -> None:
        found = programs()
        if found is None:
            pytest.skip("needs postgresql")
        self._programs: Path = found
        # Not pytest's folder: that is for root alone, and each session that starts makes it so again.
        self._directory = Path(tempfile.mkdtemp(prefix="plugmeter-postgres-"))
        self._user: str | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Postgres:
        if os.geteuid() == 0:
            for name in ("postgres", "nobody"):
                try:
                    owner = pwd.getpwnam(name)
                except KeyError:
                    continue
                self._user = name
                os.chown(self._directory, owner.pw_uid, owner.pw_gid)
                break
        data = self._directory / "data"
        subprocess.run(
            [self._programs / "initdb", "-D", data, "-A", "trust", "-U", "plugmeter", "-N", "-E", "UTF8"],
            user=self._user,
            check=True,
            capture_output=True,
            cwd="/",
        )
        self._process = subprocess.Popen(
            [
                self._programs / "postgres", "-D", data, "-k", self._directory, "-h", "", "-F",
                "-c", "max_connections=40", "-c", "shared_buffers=16MB",
            ],
            user=self._user,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self._directory / "log").open("wb"),
        )  # fmt: skip
        for _ in range(200):
            ready = subprocess.run(
                [self._programs / "pg_isready", "-h", self._directory, "-q"], check=False, cwd="/"
            )
            if ready.returncode == 0:
                return self
            if self._process.poll() is not None:
                break
        said = (self._directory / "log").read_text()[-2000:]
        self.__exit__(None, None, None)
        pytest.fail(said)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.terminate()  # SIGTERM waits for clients; SIGINT does not
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.send_signal(2)
                self._process.wait(20)
            self._process = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def new_database(self) -> str:
        """A URL of an empty one."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        subprocess.run(
            [self._programs / "createdb", "-h", self._directory, "-U", "plugmeter", name],
            check=True,
            capture_output=True,
            cwd="/",
        )
        return f"postgresql://plugmeter@/{name}?host={self._directory}"
