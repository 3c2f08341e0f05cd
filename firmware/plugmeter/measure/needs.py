"""What a storm of hotplug events asks of the kernel's queues.

A netlink socket's buffer is charged per message with the skb's truesize, not with the message's
length: 212,992 B hold 256 events of 100 B, and only 92 of 700 B. Measured by SO_MEMINFO (kernel
6.18, x86-64; uevents through /sys/class/mem/null/uevent and injected ones), the charge is

    ======================  ========
    message, as received     charged
    ======================  ========
    up to 256 B                832 B
    up to 704 B              1,280 B
    up to 1,728 B            2,304 B
    up to 3,776 B            4,352 B
    ======================  ========

which is struct sk_buff (256 B) and the allocator's smallest class that holds the message and struct
skb_shared_info (320 B): net/core/skbuff.c, SKB_TRUESIZE and the skb_small_head cache. An injected
message carries its 16 B netlink header too, so its steps come 16 B earlier; kernels before 6.3 have
no class of 576 B, so there the steps for short messages differ. A message is dropped where
the charge would pass the buffer (net/netlink/af_netlink.c, netlink_broadcast_deliver).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SKB_BYTES = 256
SHARED_INFO_BYTES = 320
_CLASSES_BYTES = (576, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)

UEVENTS_PER_EPISODE = 16
"""What one stick with one partition makes at a plug, and again at a pull (kernel 6.x)."""

NODE_EVENTS_PER_EPISODE = 15
"""An estimate for its five nodes in /dev: create and two attribs for each at a plug, fewer at a pull."""

DEFAULT_EPISODES = 120
"""The storm that is taken where none was measured: a set of 120 sticks plugged while nobody reads."""

DEFAULT_EVENT_BYTES = 1200
"""A message of udevd's group, which are the longer ones, with the properties of a disk."""

DEFAULT_MARGIN = 2.0

LARGEST_BUFFER_BYTES = 1 << 30
"""SO_RCVBUF doubles what it is asked for and must stay within an int (net/core/sock.c)."""

_PAGE = 65_536


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in a listener's queues at the worst moment: nothing was read since the storm began."""

    episodes: int
    uevents: int
    node_events: int
    source: str
    """Where the figures come from, in words."""


@dataclass(frozen=True, slots=True)
class InotifyUse:
    """What the user with the most of them has in use already, and what a listener of /dev adds."""

    instances: int = 0
    watches: int = 0
    device_directories: int = 64


@dataclass(frozen=True, slots=True)
class Need:
    """A kernel setting (as sysctl writes it) and the least that suffices."""

    key: str
    value: int
    why: str


def truesize_bytes(message_bytes: int) -> int:
    """What a socket buffer is charged for one uevent of that length, as received."""
    if message_bytes < 0:
        raise ValueError(f"a message of {message_bytes} B cannot be")
    head = message_bytes + SHARED_INFO_BYTES
    for size in _CLASSES_BYTES:
        if head <= size:
            return SKB_BYTES + size
    raise ValueError(f"a uevent of {message_bytes} B cannot be: the kernel makes none beyond some 2 KiB")


def capacity(buffer_bytes: int, message_bytes: int) -> int:
    """How many uevents of that length wait in a buffer (as SO_RCVBUF reads back) before one is dropped."""
    return max(0, buffer_bytes) // truesize_bytes(message_bytes)


def default_backlog(episodes: int = DEFAULT_EPISODES) -> Backlog:
    """The backlog of the default storm."""
    return Backlog(
        episodes,
        episodes * UEVENTS_PER_EPISODE,
        episodes * NODE_EVENTS_PER_EPISODE,
        f"no report given: {episodes} sticks at once, {UEVENTS_PER_EPISODE} uevents each",
    )


def backlog_of(report: Mapping[str, Any], stall_s: float) -> Backlog:
    """The backlog of a listener that reads nothing for ``stall_s`` at the storm's worst.

    Episodes: the most that the timeline has in any such time (to a whole bucket, rounded up); without a
    timeline, the largest storm. Events for each: what the rig emitted, else what the witness was
    offered, shared among the episodes; else the figures of one stick.
    """
    expected: int = report["expected"]
    if expected == 0:
        return default_backlog()
    line = report["timeline"]
    if line["expected"]:
        # a stall need not begin where a bucket does
        span = math.ceil(stall_s * 1000 / line["bucket_ms"]) + 1
        episodes = _busiest(line["expected"], span)
    else:
        episodes = report["storms"]["largest"]
    episodes = min(expected, max(1, episodes))
    emitted = report["emitted"] or _offered(report, "netlink")
    uevents_each = emitted / expected if emitted else UEVENTS_PER_EPISODE
    offered = _offered(report, "inotify")
    nodes_each = offered / expected if offered else NODE_EVENTS_PER_EPISODE
    return Backlog(
        episodes,
        math.ceil(episodes * uevents_each),
        math.ceil(episodes * nodes_each),
        f"measured: at most {episodes:,} episodes within {stall_s:g} s, {uevents_each:.3g} uevents each",
    )


def needs(
    backlog: Backlog,
    inotify: InotifyUse,
    *,
    event_bytes: int = DEFAULT_EVENT_BYTES,
    margin: float = DEFAULT_MARGIN,
) -> tuple[Need, ...]:
    """What each setting must at least be so that ``backlog`` loses nothing, ``margin`` times over."""
    if not margin >= 1:
        raise ValueError(f"a margin of {margin} would lose what was measured")
    charged = truesize_bytes(event_bytes)
    exact = math.ceil(backlog.uevents * charged * margin)
    buffer = min(LARGEST_BUFFER_BYTES, math.ceil(exact / _PAGE) * _PAGE)
    capped = ", as much as the kernel allows" if exact > LARGEST_BUFFER_BYTES else ""
    each = f"up to {event_bytes:,} B, {charged:,} B charged for each"
    why = f"{backlog.uevents:,} uevents of {each}, x {margin:g}{capped}"
    queue = math.ceil(backlog.node_events * margin)
    directories = math.ceil(inotify.device_directories * margin)
    return (
        Need("net.core.rmem_max", buffer // 2, f"what a listener may ask for, and gets twice: {why}"),
        Need("net.core.rmem_default", buffer, f"what a listener gets that asks for nothing: {why}"),
        Need(
            "fs.inotify.max_user_watches",
            inotify.watches + directories,
            f"{inotify.watches:,} in use by one user, {directories:,} for the directories of /dev",
        ),
        Need(
            "fs.inotify.max_user_instances",
            inotify.instances + 1,
            f"{inotify.instances:,} in use by one user, and ours",
        ),
        Need(
            "fs.inotify.max_queued_events",
            queue,
            f"{backlog.node_events:,} events of nodes in /dev, x {margin:g}",
        ),
    )


def _busiest(buckets: list[int], span: int) -> int:
    window = sum(buckets[:span])
    best = window
    for new, old in zip(buckets[span:], buckets, strict=False):
        window += new - old
        best = max(best, window)
    return best


def _offered(report: Mapping[str, Any], witness: str) -> int:
    account = report["witnesses"].get(witness)
    return int(account["offered"]) if account else 0
