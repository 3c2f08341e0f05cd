"""What the machine must grant for a rig to work here, tried before anything is ended for its run."""

from __future__ import annotations

import os
from typing import Final

from plugmeter.errors import PlugmeterError, RigError
from plugmeter.rigs import dummy_hcd
from plugmeter.runner.process import Process, own_command

_TRIAL_S: Final = 2.0
"""Far shorter than any watchdog, whose thread may be the one that waits."""
_REFUSAL_BYTES: Final = 4096
"""Far more than any refusal, and less than a pipe takes with nobody reading (pipe(7))."""

_granted: set[str] = set()
"""The rigs whose trial has succeeded in this process. Any thread may add to it."""


def check_means(rig: str, *, anew: bool = False) -> None:
    """Raises RigError, one line, where ``rig`` could not work in this process's place, however it is asked.

    For the injected rig that is tried, in a process of its own (some 100 ms, 2 s at the most): there is no
    way back from a namespace, and what forbids it has many names (a service's sandbox, a container's,
    sysctls). Once it has succeeded it is not tried again, unless ``anew``. Any thread may ask.
    """
    if rig == "gadget":
        dummy_hcd.check_privilege()
    elif rig == "injected" and (anew or rig not in _granted):
        _check_namespace()


def _check_namespace() -> None:
    _granted.discard("injected")
    tried = _tried()
    if tried is None:
        return  # nothing is known then: it is no reason to refuse what may work, and the run itself will tell
    refusal = " ".join(tried.split())
    if not refusal:
        _granted.add("injected")
        return
    if os.environ.get("NOTIFY_SOCKET") and "sysctl" not in refusal:  # which would be the machine's doing
        raise RigError(
            "rig injected: it needs a namespace, and this service may make none (RestrictNamespaces= in"
            " plugmeter.service): choose another rig, or run it by hand: plugmeter measure --rig injected"
        )
    raise RigError(f"rig injected: {refusal}")


def _tried() -> str | None:
    """What the trial says, nothing if it succeeds; None where it came to no end of its own."""
    try:
        reader, writer = os.pipe()
    except OSError:  # no descriptor left
        return None
    try:
        try:
            null = os.open(os.devnull, os.O_RDONLY)
            try:
                # No signal is blocked in it, unlike in us: see ``Process``.
                trial = Process(own_command("runner", "--try-namespace"), ((null, 0), (writer, 1)))
            finally:
                os.close(null)
        finally:
            os.close(writer)
        try:
            status = trial.wait(_TRIAL_S)
            said = os.read(reader, _REFUSAL_BYTES) if status is not None else b""
            return said.decode(errors="replace") if said or status == 0 else None
        finally:
            trial.close()
    except (OSError, PlugmeterError):
        return None
    finally:
        os.close(reader)
