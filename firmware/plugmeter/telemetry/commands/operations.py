"""What the daemon implements: the effects of commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from plugmeter.errors import PlugmeterError


class Interrupted(PlugmeterError):
    """The daemon ends before the operation does. It has not failed: the next daemon carries it on."""


@dataclass(frozen=True, slots=True)
class Memo:
    """What an operation leaves for the case that it is called again with the same id."""

    noted: Mapping[str, Any] | None
    """What the call before this one wrote last."""
    write: Callable[[Mapping[str, Any] | None], None]
    """On disk when it returns; None: nothing any more. Raises Interrupted where the daemon ends first."""


class Operations(Protocol):
    """One method an operation. All are called from the operator's effect thread, one at a time.

    Each gets the command's id, gives a result that is JSON (at most ``operator.RESULT_LIMIT_BYTES``, or only
    its size is told) and raises PlugmeterError for a failure whose text the controller gets. After a power
    cut or a kill in the middle, or where it raised Interrupted, it is called again with the same id: it must
    then come to the same outcome, without doing again what that id has done. It ends within reasonable time,
    since the next command waits for it: start_run returns when the run has begun, not when it has ended.
    Those whose effect is not the same when it is done twice get a memo for that.
    """

    def start_run(self, command_id: str, arguments: Mapping[str, Any], memo: Memo) -> Mapping[str, Any]: ...

    def stop_run(self, command_id: str, arguments: Mapping[str, Any], memo: Memo) -> Mapping[str, Any]: ...

    def selftest(self, command_id: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]: ...

    def resync(self, command_id: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]: ...

    def configure(self, command_id: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin a trial of a configuration (``desired``); its outcome is in the reported document."""
        ...

    def log_level(self, command_id: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]: ...

    def restart(self, command_id: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Have the daemon end soon, and return. The command is successful once it has started again."""
        ...

    def hwtest(self, command_id: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The only one that is never called again for the same id."""
        ...


def carry_out(
    operations: Operations, op: str, command_id: str, arguments: Mapping[str, Any], memo: Memo
) -> Mapping[str, Any]:
    """The effect of one operation of ``arguments.OPS``. Raises what it raises."""
    if op == "config":
        return operations.configure(command_id, arguments["config"])
    if op == "start-run":
        return operations.start_run(command_id, arguments, memo)
    if op == "stop-run":
        return operations.stop_run(command_id, arguments, memo)
    method = {
        "selftest": operations.selftest,
        "resync": operations.resync,
        "log-level": operations.log_level,
        "restart": operations.restart,
        "hwtest": operations.hwtest,
    }[op]
    return method(command_id, arguments)
