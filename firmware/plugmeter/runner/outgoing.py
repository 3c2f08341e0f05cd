"""What a run has to say and its parent has not read yet: a bounded queue, and the thread that writes it.

The measuring loop puts lines in and does not wait; the socket holds some 200 KiB, the queue holds the rest
while the parent is busy. When the queue is full, in this order:

1. raw inputs that come then are given up, and for whatever else comes the oldest that wait; a ``Discarded``
   message tells how many, before the next message that is heard;
2. whoever says something else waits. Then the measuring loop stands still, the witnesses' kernel queues hold
   what happens meanwhile, and should they overflow as well the kernel counts it and the report names it.

So verdicts, gaps and reports are never lost while the parent lives, however long it does not read. Of the
signs of life only the latest is kept.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque

from plugmeter.runner import wire

MOST_LINES = 50_000
MOST_BYTES = 16 << 20
_WRITE_BYTES = 65_536
"""Lines are written together up to this."""


class Outgoing:
    """The queue; ``start`` starts its thread. Everything else may be called from any thread."""

    def __init__(
        self, end: socket.socket, *, most_lines: int = MOST_LINES, most_bytes: int = MOST_BYTES
    ) -> None:
        self._end = end
        self._most_lines = most_lines
        self._most_bytes = most_bytes
        self._changed = threading.Condition()
        self._said: deque[tuple[int, bytes]] = deque()
        self._raw: deque[tuple[int, bytes, int]] = deque()
        self._number = 0
        self._bytes = 0
        self._life: bytes | None = None
        self._settled = False
        self._over = False
        self._deaf = False
        self._untold = 0
        self._untold_since_ns = 0
        self._discarded = 0
        self._thread = threading.Thread(target=self._write, name="outgoing", daemon=True)

    @property
    def waiting(self) -> tuple[int, int]:
        """How many lines wait, and their bytes."""
        return len(self._said) + len(self._raw), self._bytes

    @property
    def discarded(self) -> int:
        """How many raw inputs were given up."""
        return self._discarded

    @property
    def deaf(self) -> bool:
        """Whether the other side is gone: nothing that is said is kept any more."""
        return self._deaf

    def start(self) -> None:
        """Begin to write; a second call does nothing."""
        if self._thread.ident is None:
            self._thread.start()

    def say(self, line: bytes) -> None:
        """Put in what must not be lost; waits while there is no room for it."""
        with self._changed:
            while self._full(len(line)) and not self._deaf:
                if self._raw and not self._settled:
                    _, given_up, count = self._raw.popleft()
                    self._bytes -= len(given_up)
                    self._count(count)
                else:
                    self._changed.wait()
            if not self._deaf:
                self._number += 1
                self._said.append((self._number, line))
                self._bytes += len(line)
                self._changed.notify_all()

    def say_raw(self, line: bytes, count: int) -> bool:
        """Put in ``count`` inputs; False where there was no room and they were given up."""
        with self._changed:
            if self._deaf:
                return False
            if self._full(len(line)):
                self._count(count)
                return False
            self._number += 1
            self._raw.append((self._number, line, count))
            self._bytes += len(line)
            self._changed.notify_all()
        return True

    def show_life(self, line: bytes) -> None:
        """Put in a sign of life, in the place of the one before it if that was not written yet."""
        with self._changed:
            if not self._deaf:
                self._life = line
                self._changed.notify_all()

    def settle(self) -> None:
        """No raw inputs come any more, and none of those that wait is given up: ``discarded`` is final."""
        with self._changed:
            self._settled = True

    def abandon(self) -> None:
        """The other side is gone: forget what waits, let nobody wait."""
        with self._changed:
            self._deaf = True
            self._said.clear()
            self._raw.clear()
            self._bytes = 0
            self._life = None
            self._untold = 0
            self._changed.notify_all()

    def finish(self, timeout_s: float | None = None) -> bool:
        """Wait until all is written, as long as it takes or ``timeout_s``; nothing may be said afterwards."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _full(self, more_bytes: int) -> bool:
        lines = len(self._said) + len(self._raw)
        # A line that is larger than all room may come in alone.
        return lines > 0 and (lines >= self._most_lines or self._bytes + more_bytes > self._most_bytes)

    def _count(self, count: int) -> None:
        if not self._untold:
            self._untold_since_ns = time.monotonic_ns()
        self._untold += count
        self._discarded += count

    # -- the thread -----------------------------------------------------------------------------

    def _write(self) -> None:
        while True:
            with self._changed:
                while not self._anything() and not self._over and not self._deaf:
                    self._changed.wait()
                data = self._take()
                self._changed.notify_all()
            if not data:
                return  # over, or nobody hears
            try:
                self._end.sendall(data)
            except OSError:
                self.abandon()
                return

    def _anything(self) -> bool:
        return bool(self._said or self._raw or self._untold or self._life)

    def _take(self) -> bytes:
        lines: list[bytes] = []
        size = 0
        if self._untold:
            lines.append(
                wire.encode(wire.Discarded("raw", self._untold, self._untold_since_ns, time.monotonic_ns()))
            )
            self._untold = 0
        if self._life is not None:
            lines.append(self._life)
            self._life = None
        while (self._said or self._raw) and size < _WRITE_BYTES:
            if not self._raw or (self._said and self._said[0][0] < self._raw[0][0]):
                _, line = self._said.popleft()
            else:
                _, line, _ = self._raw.popleft()
            lines.append(line)
            size += len(line)
        self._bytes -= size
        return b"".join(lines)
