"""What the controller's commands do: called on the operator's thread, done on the main one."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from plugmeter.errors import PlugmeterError
from plugmeter.runner.proof import selftest, without_reports
from plugmeter.telemetry.commands.operations import Interrupted

LOG: Final = logging.getLogger("plugmeter.operations")

SELFTEST_SOCKET: Final = Path("/run/plugmeter-selftest.sock")
"""Under systemd the self-test has a unit of its own: this one may make no namespaces."""
SELFTEST_S: Final = 300.0
BEGIN_S: Final = 60.0
"""Until a run's witnesses are bound, the run before ended and reported."""

Result = TypeVar("Result")


class Daemon(Protocol):
    """What the operations need of the daemon; all but ``call`` are for the main thread only."""

    def call(self, function: Callable[[], Result]) -> Future[Result]: ...
    def start_run(self, arguments: Mapping[str, object]) -> Future[dict[str, Any]]: ...
    def stop_run(self) -> dict[str, Any]: ...
    def resync(self) -> Future[dict[str, Any]]: ...
    def try_config(self, command_id: str, config: Mapping[str, Any]) -> dict[str, Any]: ...
    def log_level(self, level: str, minutes: int | None) -> dict[str, Any]: ...
    def restart(self, command_id: str) -> None: ...
    @property
    def is_stopping(self) -> bool: ...


class DaemonOperations:
    """Implements telemetry.commands.operations.Operations."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def start_run(self, command_id: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin a run, instead of the one under way."""
        return self._wait(self._main(lambda: self._daemon.start_run(arguments)), BEGIN_S)

    def stop_run(self, command_id: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """End the run under way; none begins until one is asked for."""
        return self._main(self._daemon.stop_run)

    def selftest(self, command_id: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Provoke a known loss, and tell whether it was named."""
        try:
            if SELFTEST_SOCKET.exists():
                result = self._selftest_by_socket()
            else:
                result = selftest(arguments, tick=lambda: not self._daemon.is_stopping)
        except PlugmeterError:
            self._unless_stopping()
            raise
        result = without_reports(result)
        if not result.get("passed"):
            failed = [str(part.get("name", "?")) for part in result["parts"] if not part.get("passed")]
            raise PlugmeterError(f"the self-test failed: {', '.join(failed)[:500]}")
        return result

    def resync(self, command_id: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Scan what is plugged."""
        return self._wait(self._main(self._daemon.resync), BEGIN_S)

    def configure(self, command_id: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Try a configuration."""
        return self._main(lambda: self._daemon.try_config(command_id, config))

    def log_level(self, command_id: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Tell more or less in the journal."""
        return self._main(lambda: self._daemon.log_level(arguments["level"], arguments.get("minutes")))

    def restart(self, command_id: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """End in order; the service manager starts anew."""
        self._main(lambda: self._daemon.restart(command_id))
        return {}

    def hwtest(self, command_id: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run the hardware tests of the image."""
        raise PlugmeterError("this installation has no hardware tests; they come with the firmware image")

    def _main(self, function: Callable[[], Result]) -> Result:
        try:
            future = self._daemon.call(function)
        except PlugmeterError:
            self._unless_stopping()
            raise
        return self._wait(future, BEGIN_S)

    def _wait(self, future: Future[Result], limit_s: float) -> Result:
        """The Future's result; Interrupted where the daemon stops first, PlugmeterError where it takes too
        long."""
        until = time.monotonic() + limit_s
        while True:
            try:
                return future.result(timeout=0.5)
            except CancelledError:
                raise Interrupted("the daemon is stopping") from None
            except PlugmeterError:
                self._unless_stopping()
                raise
            except FutureTimeoutError:
                if future.done():
                    raise  # the operation's own
                self._unless_stopping()
                if time.monotonic() > until:
                    raise PlugmeterError(f"nothing came of it within {limit_s:g} s") from None

    def _unless_stopping(self) -> None:
        """What fails because the daemon ends has not failed."""
        if self._daemon.is_stopping:
            raise Interrupted("the daemon is stopping") from None

    def _selftest_by_socket(self) -> dict[str, Any]:
        until = time.monotonic() + SELFTEST_S
        said = bytearray()
        try:
            with socket.socket(socket.AF_UNIX) as asked:
                asked.settimeout(1.0)
                asked.connect(str(SELFTEST_SOCKET))
                while True:
                    try:
                        part = asked.recv(65_536)
                    except TimeoutError:
                        self._unless_stopping()
                        if time.monotonic() > until:
                            raise PlugmeterError(f"it did not end within {SELFTEST_S:g} s") from None
                        continue
                    if not part:
                        break
                    said += part
                    if len(said) > 16 << 20:
                        raise PlugmeterError("the self-test said far more than any self-test does")
            result = json.loads(bytes(said))
        except OSError as error:
            raise PlugmeterError(f"{SELFTEST_SOCKET}: {error.strerror or error}") from error
        except ValueError:
            raise PlugmeterError("the self-test gave no result; the journal says why") from None
        if not isinstance(result, dict) or not isinstance(result.get("parts"), list):
            raise PlugmeterError("the self-test gave no result; the journal says why")
        return result
