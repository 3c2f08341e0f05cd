"""The trouble of a writer that cannot write: told once, tried again at growing intervals, told when over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

RETRY_S: Final = (0.1, 0.25, 0.5, 1.0)
"""Before the first, second ... attempt after a failure; the last of them from then on."""


class Trouble:
    """One at a time. Pure: the time comes in, on whatever clock. Written by one thread, read by any."""

    __slots__ = ("_over", "_retries", "_tell", "retry_at_ns", "text")

    def __init__(self, tell: Callable[[str], None], over: str) -> None:
        """``tell`` gets the first line of each trouble, and ``over`` at its end."""
        self._tell = tell
        self._over = over
        self._retries = 0
        self.text: str | None = None
        """What is wrong, in one line; None while all is well."""
        self.retry_at_ns = 0
        """When to try again, while there is trouble."""

    def met(self, text: str, now_ns: int) -> None:
        """It went wrong, perhaps once more."""
        self.retry_at_ns = now_ns + int(RETRY_S[min(self._retries, len(RETRY_S) - 1)] * 1e9)
        self._retries += 1
        if self.text is None:
            self._tell(text)
        self.text = text

    def over(self) -> None:
        """It went well."""
        if self.text is not None:
            self._tell(self._over)
            self.text = None
            self._retries = 0
