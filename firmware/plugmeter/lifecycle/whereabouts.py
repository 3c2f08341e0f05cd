"""Where a thread is just now, as text for people."""

from __future__ import annotations

import sys
import threading
from pathlib import PurePath

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
