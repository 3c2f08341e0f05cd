"""The scribe: a thread that writes the small files of the state directory, which may hang at any time.

A thread that waits for a disk cannot be interrupted, by no deadline and no signal (fsfreeze(8), a dead card,
a server that is gone): so it must not be the conductor's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from plugmeter.errors import PlugmeterError
from plugmeter.files import replace_file

WAIT_S: Final = 0.05
"""What the stop waits for the scribe, if nothing else needs the time."""


class Scribe:
    """What it is given it does in the order in which it was given; of what has the same name and was not
    begun yet only the latest. All methods are for one thread, the one that must not wait."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """``tell`` gets a line for each thing that could not be done; from the scribe's thread too."""
        self.replaced = 0
        """What was never done, because something of the same name came after it."""
        self._tell = tell
        self._changed = threading.Condition()
        # With the lock of _changed:
        self._waiting: dict[str, Callable[[], None]] = {}
        self._doing: str | None = None
        self._hangs = False
        """Whether somebody has waited in vain for what is being done."""
        # The one thread's:
        self._thread: threading.Thread | None = None

    def write(self, path: Path, data: bytes, loss: str) -> None:
        """Have the file replaced (files.replace_file); ``loss`` says what it means if it cannot be. Returns
        at once."""

        def replace() -> None:
            try:
                replace_file(path, data)
            except OSError as error:
                raise PlugmeterError(f"cannot write {path}: {error.strerror or error}; {loss}") from None

        self.do(str(path), replace)

    def do(self, name: str, job: Callable[[], None]) -> None:
        """Have ``job`` done, which may raise PlugmeterError. Returns at once."""
        with self._changed:
            self.replaced += self._waiting.pop(name, None) is not None
            self._waiting[name] = job
            self._changed.notify_all()
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="scribe", daemon=True)
            self._thread.start()

    @property
    def undone(self) -> tuple[str, ...]:
        """What was given and is not done."""
        with self._changed:
            return self._undone()

    def wait(self, limit_s: float = WAIT_S) -> bool:
        """Whether all that was given is done; waits no longer than ``limit_s`` for that, and not at all for
        what was waited for in vain already. If not, that is told, once."""
        with self._changed:
            if self._hangs:
                return False
            until = time.monotonic() + limit_s
            while self._waiting or self._doing is not None:
                left_s = until - time.monotonic()
                if left_s <= 0:
                    self._hangs = True
                    undone = ", ".join(self._undone())
                    break
                self._changed.wait(left_s)
            else:
                return True
        self._tell(f"the state directory does not answer; not done: {undone}")
        return False

    def _undone(self) -> tuple[str, ...]:
        return (*(() if self._doing is None else (self._doing,)), *self._waiting)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                self._doing = next(iter(self._waiting))
                job = self._waiting.pop(self._doing)
            try:
                job()
            except PlugmeterError as error:
                self._tell(str(error))
            finally:
                with self._changed:
                    self._doing = None
                    self._hangs = False
                    self._changed.notify_all()
