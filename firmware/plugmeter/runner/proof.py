"""The self-test as a child process: four runs that enter namespaces of their own."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from plugmeter.errors import PlugmeterError, UsageError
from plugmeter.runner.process import Process, own_command

LIMIT_S: Final = 180.0
OUTPUT_LIMIT_BYTES: Final = 16 << 20
_ERRORS_LIMIT_BYTES: Final = 65_536
_GRACE_S: Final = 5.0
_TICK_S: Final = 0.5


def selftest(
    arguments: Mapping[str, object],
    *,
    limit_s: float = LIMIT_S,
    tick: Callable[[], bool] = lambda: True,
    command: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run ``plugmeter selftest --json -`` in a child, wait for it, and give back what it says.

    ``arguments``: sticks and seed, or nothing. ``tick`` is called twice a second meanwhile, so that whoever
    waits can show that it lives; False from it gives the test up. The result has ``passed``, ``sticks``,
    ``seed`` and ``parts`` (see commands/selftest.py); ``without_reports`` makes it small. Raises UsageError
    for arguments that cannot be, and PlugmeterError, both in one line, where there is no result.
    """
    run = list(command or own_command("selftest", "--json", "-")) + _options(arguments)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    out, childs_out = os.pipe()
    errors, childs_errors = os.pipe()
    ends = {out: bytearray(), errors: bytearray()}
    process: Process | None = None
    try:
        try:
            process = Process(run, [(null, 0), (childs_out, 1), (childs_errors, 2)], environment)
        finally:
            for each in (null, childs_out, childs_errors):
                os.close(each)
        status = _attend(process, ends, {out: OUTPUT_LIMIT_BYTES, errors: _ERRORS_LIMIT_BYTES}, limit_s, tick)
        said, complaint = bytes(ends[out]), bytes(ends[errors])
    finally:
        if process is not None:
            process.close()
        os.close(out)
        os.close(errors)
    return _result(status, said, complaint)


def without_reports(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result of ``selftest`` with the figures that were checked, and not the whole reports. Pure."""
    parts = [{key: value for key, value in part.items() if key != "report"} for part in result["parts"]]
    return {**result, "parts": parts}


def _options(arguments: Mapping[str, object]) -> list[str]:
    options: list[str] = []
    for name, value in arguments.items():
        if name not in ("sticks", "seed"):
            raise UsageError(f"selftest: unknown argument {ascii(name)[:60]}; there are sticks and seed")
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise UsageError(f"selftest: {name} must be a whole number, not {ascii(value)[:60]}")
        options += [f"--{name}", str(value)]
    return options


def _attend(
    process: Process,
    ends: dict[int, bytearray],
    limits: Mapping[int, int],
    limit_s: float,
    tick: Callable[[], bool],
) -> int:
    """Take what it says until it has ended; its exit status."""
    poller = select.poll()
    for each in ends:
        poller.register(each, select.POLLIN)
    open_ends = set(ends)
    ends_at = time.monotonic() + limit_s
    ticked_at = 0.0
    while open_ends or process.poll() is None:
        now = time.monotonic()
        if now - ticked_at >= _TICK_S:
            ticked_at = now
            if not tick():
                _end(process)
                raise PlugmeterError("the self-test was given up: plugmeter is stopping")
        if now >= ends_at:
            _end(process)
            raise PlugmeterError(f"the self-test did not end within {limit_s:g} s and was ended")
        if not open_ends:
            process.wait(_TICK_S)
        for each, _ in poller.poll(_TICK_S * 1000) if open_ends else ():
            data = os.read(each, 65_536)
            if not data:
                poller.unregister(each)
                open_ends.discard(each)
            ends[each] += data[: limits[each] - len(ends[each])]
            if len(ends[each]) >= limits[each]:
                _end(process)
                raise PlugmeterError("the self-test said far more than any self-test does, and was ended")
    status = process.poll()
    return 255 if status is None else status


def _end(process: Process) -> None:
    """As Ctrl-C does, so that it clears away what it has made; then the hard way."""
    process.send(signal.SIGINT)
    if process.wait(_GRACE_S) is None:
        process.send(signal.SIGKILL)


def _result(status: int, said: bytes, complaint: bytes) -> dict[str, Any]:
    try:
        result = json.loads(said)
    except (ValueError, RecursionError):
        result = None
    if isinstance(result, dict) and isinstance(result.get("parts"), list) and status in (0, 1):
        return result
    lines = complaint.decode(errors="replace").strip().splitlines()
    reason = lines[-1].removeprefix("plugmeter: ")[:500] if lines else f"it ended with status {status}"
    if status == UsageError.exit_status:
        raise UsageError(reason)
    raise PlugmeterError(f"the self-test could not be made: {reason}")
