"""The breaker: what cannot succeed before somebody mends something is not tried every few seconds.

A broker that refuses this device (password, ACL) or whose certificate is wrong stays so until a person acts;
knocking on only fills its log and may get the device banned. A network comes back by itself: such failures
do not open the breaker, backoff is for them.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum


class Kind(Enum):
    """What has to change before an attempt can succeed."""

    NETWORK = "network"
    """Nothing of ours: it comes back by itself."""
    REFUSED = "refused"
    """The broker refuses us: user, password, ACL, client identifier."""
    TLS = "tls"
    """A certificate: expired, of an unknown authority, for another host, or ours is wanted."""


class BreakerState(Enum):
    """Closed lets all attempts through, open none, half-open one."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """Opens at a failure that needs a person, for ``first_s``, then twice as long, up to ``longest_s``.

    Times are monotonic seconds. After that time one attempt is let through (half-open): success closes the
    breaker, another failure of those kinds opens it for longer. A network failure of the probe says nothing
    about what was wrong: it stays half-open. ``uniform(low, high)`` spreads the times of a fleet by ± 10 %.
    """

    def __init__(
        self,
        uniform: Callable[[float, float], float],
        *,
        first_s: float = 300.0,
        longest_s: float = 3_600.0,
    ) -> None:
        if not 0 < first_s <= longest_s:
            raise ValueError(f"0 < first_s <= longest_s: {first_s}, {longest_s}")
        self._uniform = uniform
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s
        self.until_s: float | None = None
        """When the next attempt is let through; None while it is closed."""
        self.kind: Kind | None = None
        """What opened it."""

    def state(self, now_s: float) -> BreakerState:
        if self.until_s is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now_s < self.until_s else BreakerState.HALF_OPEN

    def failed(self, kind: Kind, now_s: float) -> bool:
        """Take in a failure; whether it opened the breaker."""
        if kind is Kind.NETWORK:
            return False
        self.until_s = now_s + self._next_s * self._uniform(0.9, 1.1)
        self.kind = kind
        self._next_s = min(self._longest_s, self._next_s * 2.0)
        return True

    def succeeded(self) -> bool:
        """Take in a success; whether the breaker was open."""
        was_open = self.until_s is not None
        self.until_s = self.kind = None
        self._next_s = self._first_s
        return was_open
