"""A person plugs: nothing to drive, only to wait for."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from plugmeter.errors import RigError, UsageError
from plugmeter.records import Driven, Truth


class PassiveRig:
    """Finishes when ``duration_s`` has passed, or only by ``stop`` where there is none."""

    def __init__(self, ports: tuple[str, ...], duration_s: float | None = None) -> None:
        if duration_s is not None and not duration_s > 0:
            raise UsageError(f"the duration is a number of seconds above 0, not {duration_s:g}")
        self._ports = ports
        self._duration_s = duration_s
        self._ends_at: float | None = None
        self._stopped = threading.Event()
        self._started = False

    @property
    def name(self) -> str:
        return "passive"

    @property
    def truth(self) -> Truth:
        return "gpio"

    @property
    def ports(self) -> tuple[str, ...]:
        return self._ports

    @property
    def finished(self) -> bool:
        if self._stopped.is_set():
            return True
        return self._ends_at is not None and time.monotonic() >= self._ends_at

    @property
    def failure(self) -> str | None:
        return None

    @property
    def emitted(self) -> int | None:
        return None

    @property
    def plan(self) -> dict[str, int | float | str]:
        return {} if self._duration_s is None else {"duration_s": self._duration_s}

    def start(self) -> None:
        if self._started:
            raise RigError("a rig starts only once")
        self._started = True
        if self._duration_s is not None:
            self._ends_at = time.monotonic() + self._duration_s

    def read(self) -> Sequence[Driven]:
        return ()

    def progress(self) -> tuple[int, int]:
        return 0, 0

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        self.stop()
