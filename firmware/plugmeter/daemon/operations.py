"""What the controller's commands do: called on the operator's thread, done on the main one."""

from __future__ import annotations

import json
import logging
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path
from typing import Any, Final, TypeVar

from plugmeter.daemon.log_level import LogLevel
from plugmeter.daemon.runs import Runs
from plugmeter.errors import PlugmeterError
from plugmeter.lifecycle.conductor import Conductor
from plugmeter.lifecycle.stages import Event
from plugmeter.runner.means import check_means
from plugmeter.runner.proof import selftest, without_reports
from plugmeter.telemetry.commands.operations import Interrupted, Memo
from plugmeter.telemetry.desired_keeper import DesiredKeeper

LOG: Final = logging.getLogger("plugmeter.operations")

SELFTEST_SOCKET: Final = Path("/run/plugmeter-selftest.sock")
"""Under systemd the self-test has a unit of its own: this one may make no namespaces."""
SELFTEST_S: Final = 300.0
BEGIN_S: Final = 60.0
"""Until a run's witnesses are bound, the run before ended and reported."""

_CALLED_OFF: Final = "it did not begin within {:g} s, and was called off"

Result = TypeVar("Result")


class DaemonOperations:
    """Implements telemetry.commands.operations.Operations."""

    def __init__(
        self,
        conductor: Conductor,
        runs: Runs,
        desired: DesiredKeeper,
        log_level: LogLevel,
        *,
        is_stopping: Callable[[], bool],
        is_signed: Callable[[str], bool],
        begin_s: float = BEGIN_S,
    ) -> None:
        """``is_stopping`` is asked on any thread; ``is_signed``, whether the command of that id was signed
        with the key that was configured when it came in, on the operator's. It may raise PlugmeterError. What
        has not begun after ``begin_s`` is called off."""
        self._conductor = conductor
        self._runs = runs
        self._desired = desired
        self._log_level = log_level
        self._is_stopping = is_stopping
        self._is_signed = is_signed
        self._begin_s = begin_s

    def start_run(self, command_id: str, arguments: Mapping[str, Any], memo: Memo) -> Mapping[str, Any]:
        """Begin a run, instead of the one under way. One id never begins a second one: the first has ended
        with the daemon that began it."""
        if memo.noted is not None:
            return _begun_before(memo.noted)
        # Here and not on the main thread, which must not wait for it.
        check_means(str(arguments.get("rig", self._runs.standing_rig)), anew=True)
        run_id = str(uuid.uuid4())
        memo.write({"run": run_id, "begun": False})
        begun: Future[dict[str, Any]] = Future()
        try:
            self._main(lambda: self._running().replace(arguments, begun, run_id, command_id))
            return self._wait(begun)
        except Interrupted:  # in order: so it is known whether it had begun
            never = begun.cancel() or begun.cancelled()
            memo.write(None if never else {"run": run_id, "begun": True})
            raise

    def stop_run(self, command_id: str, arguments: Mapping[str, Any], memo: Memo) -> Mapping[str, Any]:
        """End the run under way; none begins until one is asked for. Called again by another daemon there is
        nothing to be done: that run has ended with its own, and it meant no other."""
        if memo.noted is not None:
            return memo.noted
        memo.write({"run": None if self._runs.is_over else self._runs.run_id})
        return self._main(self._stop_run)

    def selftest(self, command_id: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Provoke a known loss, and tell whether it was named."""
        try:
            if SELFTEST_SOCKET.exists():
                result = self._selftest_by_socket()
            else:
                result = selftest(arguments, tick=lambda: not self._is_stopping())
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
        scan = self._main(lambda: self._running().resync())
        return self._wait(scan, "the run has not answered within {:g} s; it may still make the scan")

    def configure(self, command_id: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Try a configuration."""
        signed = self._is_signed(command_id)

        def configure() -> dict[str, Any]:
            self._running()  # else it would be put into effect for a daemon that ends
            return self._desired.configure(command_id, config, signed=signed)

        return self._main(configure)

    def log_level(self, command_id: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Tell more or less in the journal."""
        return self._main(lambda: self._log_level.set(arguments["level"], arguments.get("minutes")))

    def restart(self, command_id: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """End in order; the service manager starts anew."""
        reason = f"the controller's command {command_id}"
        self._main(lambda: self._conductor.post(Event.RESTART, reason))
        return {}

    def hwtest(self, command_id: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run the hardware tests of the image."""
        raise PlugmeterError("this installation has no hardware tests; they come with the firmware image")

    def _running(self) -> Runs:
        if self._is_stopping():
            raise PlugmeterError("the daemon is not running")
        return self._runs

    def _stop_run(self) -> dict[str, Any]:
        runs = self._running()
        stopped = None if runs.is_over else runs.run_id
        runs.suspend()
        return {"run": stopped}

    def _main(self, function: Callable[[], Result]) -> Result:
        try:
            future = self._conductor.call(function)
        except PlugmeterError:
            self._unless_stopping()
            raise
        return self._wait(future)

    def _wait(self, future: Future[Result], called_off: str = _CALLED_OFF) -> Result:
        """The Future's result; Interrupted where the daemon stops first.

        What has not begun in time is called off, and PlugmeterError says so. What has begun cannot
        be: then its end is waited for, since who is told that it failed would send it again. A main thread
        that never ends it is killed by the watchdog, a run that never begins by the self-diagnosis.
        """
        until = time.monotonic() + self._begin_s
        told = False
        while not (wait((future,), timeout=0.5).done or future.cancelled()):
            self._unless_stopping()
            if time.monotonic() <= until or told:
                continue
            if future.cancel():
                raise PlugmeterError(called_off.format(self._begin_s))
            told = True
            LOG.warning(
                "a command has begun and not ended within %g s: it cannot be called off", self._begin_s
            )
        try:
            return future.result()
        except CancelledError:
            raise Interrupted("the daemon is stopping") from None
        except PlugmeterError:
            self._unless_stopping()
            raise

    def _unless_stopping(self) -> None:
        """What fails because the daemon ends has not failed."""
        if self._is_stopping():
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


def _begun_before(noted: Mapping[str, Any]) -> dict[str, Any]:
    if noted["begun"]:
        return {"run": noted["run"], "ended": "with the daemon, which was stopped meanwhile"}
    raise PlugmeterError(
        f"the daemon was ended while it began run {noted['run']}, or right after that: the run's records tell"
        " whether it had begun; it is not begun a second time"
    )
