"""Strays: nodes that inotify alone saw, kept until a uevent that lags may have told of them."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from plugmeter.measure.nodes import NodeSighting

_KEPT = 4096


class Strays:
    """Joins a node that inotify saw with uevents of it that were read much later.

    Inotify is stamped as it happens, a uevent when it is read: behind a long queue that may be further
    apart than any window. ``unclaimed`` counts the nodes that no uevent came for.
    """

    def __init__(self, memory_ns: int) -> None:
        self._memory_ns = memory_ns
        self._kept: deque[NodeSighting] = deque()
        self.unclaimed = 0

    def keep(self, sighting: NodeSighting) -> None:
        """Take a node of which nobody knows the port."""
        self._kept.append(sighting)
        if len(self._kept) > _KEPT:
            self._kept.popleft()
            self.unclaimed += 1

    def join(self, sighting: NodeSighting) -> NodeSighting:
        """``sighting`` with inotify's time, where it lacks that and a stray of its name came before it."""
        first_ns = min(
            (t for t in (sighting.t_netlink_ns, sighting.t_udev_ns) if t is not None), default=None
        )
        if sighting.t_inotify_ns is not None or first_ns is None:
            return sighting
        self._forget(first_ns - self._memory_ns)
        for stray in self._kept:  # the oldest first: queues keep their order
            alike = (stray.name, stray.added) == (sighting.name, sighting.added)
            if alike and stray.t_inotify_ns is not None and stray.t_inotify_ns <= first_ns:
                self._kept.remove(stray)
                return replace(sighting, t_inotify_ns=stray.t_inotify_ns)
        return sighting

    def __len__(self) -> int:
        return len(self._kept)

    def _forget(self, before_ns: int) -> None:
        while self._kept and (self._kept[0].t_inotify_ns or 0) < before_ns:
            self._kept.popleft()
            self.unclaimed += 1
