"""``plugmeter run`` for a bench: its configuration and its command; and controllers for it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from plugmeter.bench.broker import HOST, Broker
from plugmeter.bench.device import DEVICE
from plugmeter.errors import PlugmeterError, UsageError
from plugmeter.telemetry.topics import every_device

MAX_BYTES: Final = 4 << 30
_END_S: Final = 20.0


def plugmeter(*words: str) -> list[str]:
    """The command line of this plugmeter with ``words``."""
    python = [sys.executable] if getattr(sys, "frozen", False) else [sys.executable, "-m", "plugmeter"]
    return [*python, *words]


@dataclass(frozen=True, slots=True)
class DaemonFolder:
    """A folder with a daemon's configuration and its state."""

    path: Path

    @property
    def state(self) -> Path:
        return self.path / "state"

    def configure(self, port: int, *, drain_s: float, stop_cap_s: float = 60.0) -> list[str]:
        """Write the configuration, for a broker at ``port``; gives the daemon's command. It measures
        nothing: a run is a process of its own, and not what is looked at here."""
        file = self.path / "plugmeter.toml"
        file.write_text(
            f'[daemon]\ndevice = "{DEVICE}"\nstate_directory = "{self.state}"\nrig = "none"\n'
            f'metrics = "unix:{self.path}/metrics.sock"\n'
            f"[lifecycle]\ndrain_s = {drain_s}\nstop_cap_s = {stop_cap_s}\n"
            f"[outbox]\nmax_bytes = {MAX_BYTES}\n"
            f'[mqtt]\nhost = "{HOST}"\nport = {port}\n'
        )
        return plugmeter("run", "--config", str(file))

    def forget_drains(self) -> None:
        """Each drain that runs out makes the next deadline longer; so that all have the same."""
        (self.state / "drains.json").unlink(missing_ok=True)


def controller_command(template: str | None, port: int, folder: Path, *, installed: bool) -> list[str] | None:
    """The controller's command; None where this Plugmeter has none.

    ``template`` is another one, a command line with {port} and {folder} in it. Raises UsageError.
    """
    if template is not None:
        try:
            return shlex.split(template.format(port=port, folder=folder))
        except (ValueError, LookupError) as error:
            raise UsageError(f"--controller {template!r} cannot be read: {error}") from error
    if not installed:
        return None
    broker, database = f"mqtt://{HOST}:{port}", str(folder / "controller.sqlite")
    return plugmeter("controller", "serve", "--no-page", "--broker", broker, "--database", database)


class Listener:
    """A process that subscribes to the records: a controller, or the acknowledger. Ends with the ``with``."""

    def __init__(self, name: str, command: Sequence[str], broker: Broker) -> None:
        self._name = name
        self._command = list(command)
        self._broker = broker

    def __enter__(self) -> Listener:
        self._log = self._broker.folder / f"{self._name}.log"
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
        except OSError as error:
            raise UsageError(f"{self._command[0]} cannot be run: {error.strerror or error}") from error
        try:
            self._broker.wait_for_subscriber(every_device("records"), self.look)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def pid(self) -> int:
        return self._process.pid

    def look(self) -> None:
        """Raises PlugmeterError if it has ended."""
        if self._process.poll() is not None:
            last = (self._log.read_text(errors="replace").strip().splitlines() or ["it says nothing"])[-1]
            raise PlugmeterError(f"the {self._name} has ended, with {self._process.returncode}: {last}")

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
