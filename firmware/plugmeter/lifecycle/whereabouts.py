"""Where a thread is just now, as text for people."""

from __future__ import annotations

import sys
import threading
from pathlib import Path, PurePath

FRAMES_LIMIT = 6


def whereabouts(name: str) -> str:
    """``file.py:12 function < caller.py:34 ...``, innermost first, of the thread of that name.

    Empty where this process has no such thread. The frames are read without stopping it, so that one that
    runs may be elsewhere already; a stuck one is where this says.
    """
    ident = next((thread.ident for thread in threading.enumerate() if thread.name == name), None)
    frame = sys._current_frames().get(ident) if ident is not None else None
    places: list[str] = []
    while frame is not None and len(places) < FRAMES_LIMIT:
        code = frame.f_code
        file = "/".join(PurePath(code.co_filename).parts[-2:])
        places.append(f"{file}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return " < ".join(places)


def process_state(pid: int | None) -> str:
    """``process 4711, state T (stopped)``, as the kernel has it (proc_pid_status(5)), and what it waits for
    in the kernel, if that is told. Empty where there is no such process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines()
        channel = Path(f"/proc/{pid}/wchan").read_text("ascii", "replace")
    except OSError:
        return ""
    state = next((line.partition(":")[2].strip() for line in lines if line.startswith("State:")), "?")
    waits = f", waits in {channel}" if channel not in ("", "0") else ""
    return f"process {pid}, state {state}{waits}"
