"""What the machine must grant for a rig to work here, tried before anything is ended for its run."""

from __future__ import annotations

import os
import subprocess
from typing import Final

from plugmeter.errors import RigError
from plugmeter.rigs import dummy_hcd
from plugmeter.runner.process import own_command

_TRIAL_S: Final = 10.0
"""Longer than the process of a trial takes on the slowest device, and shorter than any watchdog."""


def check_means(rig: str) -> None:
    """Raises RigError, one line, where ``rig`` could not work in this process's place, however it is asked.

    For the injected rig that is tried, in a process of its own (some 100 ms): there is no way back from a
    namespace, and what forbids it has many names (a service's sandbox, a container's, sysctls).
    """
    if rig == "gadget":
        dummy_hcd.check_privilege()
    elif rig == "injected":
        _check_namespace()


def _check_namespace() -> None:
    try:
        tried = subprocess.run(
            own_command("runner", "--try-namespace"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=_TRIAL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return  # nothing is known then: it is no reason to refuse what may work, and the run itself will tell
    refusal = " ".join(tried.stdout.split())
    if not refusal:
        return
    if os.environ.get("NOTIFY_SOCKET") and "sysctl" not in refusal:  # which would be the machine's doing
        raise RigError(
            "rig injected: it needs a namespace, and this service may make none (RestrictNamespaces= in"
            " plugmeter.service): choose another rig, or run it by hand: plugmeter measure --rig injected"
        )
    raise RigError(f"rig injected: {refusal}")
