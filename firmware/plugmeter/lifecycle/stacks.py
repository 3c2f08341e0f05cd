"""SIGQUIT: the stacks of all threads, at once, and the end. And the last resort of a stop that hangs.

Both are done by the C code of faulthandler, which needs no interpreter lock: they work while some C function
holds it, where a handler written in Python would wait for its turn.
"""

from __future__ import annotations

import faulthandler
import signal
import sys
from typing import TextIO


def install(file: TextIO | None = None) -> None:
    """Have SIGQUIT write the stacks to ``file`` (standard error) and then end the process as it does by
    default; likewise the signals of a crash. ``file`` stays open for as long as the process lives.

    SIGQUIT is reset first: the shells' background jobs inherit that it is ignored, and then the chain would
    end there, and the process go on. Main thread only.
    """
    to = sys.stderr if file is None else file
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    faulthandler.enable(to, all_threads=True)
    faulthandler.register(signal.SIGQUIT, to, all_threads=True, chain=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGQUIT})


def guard(seconds: float, file: TextIO | None = None) -> None:
    """End the process with exit status 1 and all stacks on ``file`` (standard error) after ``seconds``,
    unless ``unguard`` or another ``guard`` comes before. There is one such timer in a process.

    For what must not hang: the service manager's SIGKILL says nothing of where it did.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.stderr if file is None else file)


def unguard() -> None:
    """Call off ``guard``."""
    faulthandler.cancel_dump_traceback_later()
