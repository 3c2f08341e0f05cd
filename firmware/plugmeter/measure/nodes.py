"""Device nodes: what inotify, the kernel's uevents and udevd's say of one node, merged into one sighting.

**The key** of a record is ``node_key``: (name below /dev, whether it came or went). Records with one key
belong to one sighting if they lie within ``window_ns`` of its first record and its slot for their channel is
free. Where several sightings would do (a stick that is plugged twice within the window), uevents go by their
SEQNUM, which udevd passes on unchanged, and everything else to the sighting that is nearest in time; but what
inotify saw after the node had gone again is of the next coming. A channel that is silent is normal: inotify
watches some directories only.
"""

from __future__ import annotations

import heapq
import re
from collections import OrderedDict, deque
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from plugmeter.measure.enumerations import PORT_NAME
from plugmeter.records import NodeEvent, Uevent

NodeKey: TypeAlias = tuple[str, bool]

_CAME = {"add": True, "create": True, "remove": False, "delete": False}
_NETLINK, _UDEV, _INOTIFY = range(3)
_OPEN_PER_KEY = 64  # more at once is a flood of one name; without a bound it would cost quadratic time
_CHANNEL = {"netlink": _NETLINK, "udev": _UDEV}
_CHANNELS = {**_CHANNEL, "inotify": _INOTIFY}
_INTERFACE = re.compile(rf"{PORT_NAME.pattern}:[0-9]+\.[0-9]+")


@dataclass(frozen=True, slots=True)
class NodeSighting:
    """One coming (``added``) or going of the node ``name`` (relative to /dev), and when each channel said so.

    ``generation`` counts the adds of that name; a going has the generation of the add before it, 0 if
    there was none. Times are CLOCK_MONOTONIC in ns, None where the channel said nothing within the window.
    ``port`` is the USB port above the node, None where only inotify saw it or it is no USB device's.
    """

    name: str
    added: bool
    generation: int
    t_netlink_ns: int | None
    t_udev_ns: int | None
    t_inotify_ns: int | None
    port: str | None


def node_key(action: str, devname: str) -> NodeKey | None:
    """The key of a uevent's or an inotify event's node; None if it is about no coming or going of a node.

    Of the actions only add, create, remove and delete count; ``change``, ``bind`` and ``attrib`` do not.
    """
    added = _CAME.get(action)
    if added is None or not devname:
        return None
    return devname.removeprefix("/dev/"), added


@lru_cache(maxsize=4096)
def port_of(devpath: str) -> str | None:
    """The USB port that a device of any kind hangs on: ``1-1.4`` for .../1-1/1-1.4/1-1.4:1.0/host2/.../sdb.

    It is the deepest port name before the first interface: what lies below an interface is not the USB
    tree any more, and other subsystems (an I2C client, say) have names that look alike.
    """
    port = None
    for name in devpath.split("/"):
        if PORT_NAME.fullmatch(name):
            port = name
        elif port is not None and _INTERFACE.fullmatch(name):
            break
    return port


class _Open:
    """A sighting whose window is still open."""

    __slots__ = ("added", "generation", "name", "port", "seqnum", "t_first_ns", "times")

    def __init__(self, name: str, added: bool, generation: int, t_first_ns: int) -> None:
        self.name = name
        self.added = added
        self.generation = generation
        self.t_first_ns = t_first_ns
        self.seqnum = 0
        self.port: str | None = None
        self.times: list[int | None] = [None, None, None]

    def closed(self) -> NodeSighting:
        netlink, udev, inotify = self.times
        return NodeSighting(self.name, self.added, self.generation, netlink, udev, inotify, self.port)


class NodeMerger:
    """Merges the channels, on event time only, in memory bounded by the window and by ``max_names``.

    ``advance(now_ns)`` promises that every record up to ``now_ns`` was fed. Sightings come in the order
    of their first record, whatever the order between channels in which they were fed; those that are
    complete (``channels``) come at once. Each record is in exactly one sighting or counted: in
    ``passed_over`` (no node, or neither coming nor going) or ``overtaken`` (the sighting of its SEQNUM
    was closed without its witness). ``late_records`` counts breaches of the promise, ``sealed_early`` the
    sightings that a flood of one name closed to further records before their window was over,
    ``forgotten_names`` the names whose generation starts anew because more than ``max_names`` were seen.
    """

    __slots__ = (
        "_arrivals",
        "_by_key",
        "_complete",
        "_ended",
        "_generations",
        "_held",
        "_max_names",
        "_open",
        "_turned",
        "_watermark_ns",
        "_window_ns",
        "forgotten_names",
        "late_records",
        "overtaken",
        "passed_over",
        "sealed_early",
    )

    def __init__(
        self, window_ns: int, max_names: int = 65_536, *, channels: frozenset[str] = frozenset()
    ) -> None:
        """``channels``: a sighting that all of these (netlink, udev, inotify) have is closed at once."""
        if window_ns < 0 or max_names < 1:
            raise ValueError(
                f"window_ns ({window_ns}) must be at least 0 and max_names ({max_names}) at least 1"
            )
        self.passed_over = 0
        self.overtaken = 0
        self.late_records = 0
        self.sealed_early = 0
        self.forgotten_names = 0
        self._window_ns = window_ns
        self._max_names = max_names
        self._complete = [_CHANNELS[name] for name in channels if name in _CHANNELS]
        self._arrivals = 0
        self._held: list[tuple[int, int, int, NodeKey, int, str]] = []
        self._open: deque[_Open] = deque()
        self._by_key: dict[NodeKey, deque[_Open]] = {}
        # By the SEQNUM of a closed sighting: the channels of uevents that said nothing of it.
        self._ended: OrderedDict[int, frozenset[int]] = OrderedDict()
        self._generations: OrderedDict[str, int] = OrderedDict()
        self._turned: OrderedDict[NodeKey, int] = OrderedDict()  # when inotify last saw each key
        self._watermark_ns: int | None = None

    @property
    def pending(self) -> int:
        """Records that are in no sighting yet, plus sightings that are still open."""
        return len(self._held) + len(self._open)

    def feed(self, record: NodeEvent | Uevent) -> None:
        """Take one record. Raises ValueError for a uevent of a witness other than netlink and udev."""
        if isinstance(record, NodeEvent):
            channel, name, seqnum, devpath = _INOTIFY, record.name, 0, ""
        else:
            if record.witness not in _CHANNEL:
                raise ValueError(f"a uevent of witness {record.witness}: only netlink and udev have uevents")
            channel = _CHANNEL[record.witness]
            name, seqnum, devpath = record.devname, record.seqnum, record.devpath
        key = node_key(record.action, name)
        if key is None:
            self.passed_over += 1
            return
        if self._watermark_ns is not None and record.t_ns <= self._watermark_ns:
            self.late_records += 1
        self._arrivals += 1
        heapq.heappush(self._held, (record.t_ns, channel, self._arrivals, key, seqnum, devpath))

    def advance(self, now_ns: int) -> list[NodeSighting]:
        """Every sighting whose window is over by ``now_ns``."""
        if self._watermark_ns is None or now_ns > self._watermark_ns:
            self._watermark_ns = now_ns
        out: list[NodeSighting] = []
        held = self._held
        while held and held[0][0] <= now_ns:
            self._merge(out)
        self._close(now_ns, out)
        return out

    def finish(self) -> list[NodeSighting]:
        """No record will come any more: every sighting there is."""
        out: list[NodeSighting] = []
        while self._held:
            self._merge(out)
        self._close(None, out)
        return out

    def _merge(self, out: list[NodeSighting]) -> None:
        """Put the oldest held record into its sighting, after closing what its time closes."""
        t_ns, channel, _, key, seqnum, devpath = heapq.heappop(self._held)
        self._close(t_ns, out)
        if channel in self._ended.get(seqnum, ()):
            # Its witness was stalled, and stamps on reading: by its time it would be another's.
            self.overtaken += 1
            return
        sighting = self._fitting(key, channel, seqnum, t_ns)
        if sighting is None:
            sighting = self._begin(key, t_ns)
        sighting.times[channel] = t_ns
        if channel == _INOTIFY:
            self._turned.pop(key, None)
            self._turned[key] = t_ns
            if len(self._turned) > 2 * self._max_names:
                self._turned.popitem(last=False)
        if channel != _INOTIFY:
            sighting.seqnum = sighting.seqnum or seqnum
            sighting.port = sighting.port or port_of(devpath)
        if self._complete and all(sighting.times[channel] is not None for channel in self._complete):
            self._open.remove(sighting)
            self._end(sighting, out)

    def _fitting(self, key: NodeKey, channel: int, seqnum: int, t_ns: int) -> _Open | None:
        free = [sighting for sighting in self._by_key.get(key, ()) if sighting.times[channel] is None]
        if channel == _INOTIFY:
            # The node went (or came) in between: what lies before that was another coming (or going).
            name, added = key
            turned_ns = self._turned.get((name, not added), t_ns)
            free = [sighting for sighting in free if turned_ns >= t_ns or sighting.t_first_ns >= turned_ns]
        if not free:
            return None
        if seqnum:
            for sighting in free:
                if sighting.seqnum == seqnum:
                    return sighting
            free = [sighting for sighting in free if not sighting.seqnum]
        return min(free, key=lambda sighting: abs(t_ns - sighting.t_first_ns), default=None)

    def _begin(self, key: NodeKey, t_ns: int) -> _Open:
        name, added = key
        generations = self._generations
        generation = generations.pop(name, 0) + added
        generations[name] = generation
        if len(generations) > self._max_names:
            generations.popitem(last=False)
            self.forgotten_names += 1
        sighting = _Open(name, added, generation, t_ns)
        self._open.append(sighting)
        same = self._by_key.setdefault(key, deque())
        same.append(sighting)
        if len(same) > _OPEN_PER_KEY:
            same.popleft()
            self.sealed_early += 1
        return sighting

    def _close(self, now_ns: int | None, out: list[NodeSighting]) -> None:
        """Close every sighting whose window ended before ``now_ns`` (all, if None)."""
        waiting = self._open
        while waiting and (now_ns is None or waiting[0].t_first_ns + self._window_ns < now_ns):
            self._end(waiting.popleft(), out)

    def _end(self, sighting: _Open, out: list[NodeSighting]) -> None:
        key = (sighting.name, sighting.added)
        same = self._by_key.get(key)
        if same is not None and sighting in same:  # else it was sealed early
            same.remove(sighting)
            if not same:
                del self._by_key[key]
        if sighting.seqnum:
            silent = (channel for channel in (_NETLINK, _UDEV) if sighting.times[channel] is None)
            self._ended[sighting.seqnum] = frozenset(silent)
            if len(self._ended) > self._max_names:
                self._ended.popitem(last=False)
        out.append(sighting.closed())
