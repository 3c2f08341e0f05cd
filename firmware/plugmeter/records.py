"""The records: what witnesses say, and all that the measuring part ever hears.

Every time is the kernel's CLOCK_MONOTONIC in nanoseconds (``_ns``), stamped as near to the source
as the witness can. Records are values: frozen, comparable, without behaviour. A record that could
not be had is a record too, a ``Gap``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

WitnessName: TypeAlias = Literal["gpio", "netlink", "udev", "inotify", "coldplug", "listeners"]
Truth: TypeAlias = Literal["gpio", "simulated"]


@dataclass(frozen=True, slots=True)
class Edge:
    """One GPIO transition of the line that senses a port's VBUS.

    ``line_seqno`` is the kernel's number of this event on its line, from 1 (linux/gpio.h, struct
    gpio_v2_line_event); 0 where the pin factory does not give one.
    """

    t_ns: int
    port: str
    rising: bool
    line_seqno: int = 0


@dataclass(frozen=True, slots=True)
class Level:
    """The level of a port's VBUS as read, not as derived from edges: at a run's start and end."""

    t_ns: int
    port: str
    high: bool


@dataclass(frozen=True, slots=True)
class Driven:
    """A rig's own log of a level that it drove onto a port's sense line; only simulated truth has it."""

    t_ns: int
    port: str
    rising: bool


class Uevent(NamedTuple):
    """One uevent, from the kernel's group (witness netlink) or udevd's (witness udev).

    A named tuple, alone among the records: a storm makes 100,000 of them a second, and a frozen
    dataclass takes five times as long to make (``plugmeter bench pipeline`` hangs on it).

    ``seqnum`` is the kernel's SEQNUM, which udevd passes on unchanged: the identity by which the two
    witnesses speak of the same event. ``devname`` is relative to /dev, empty where there is no node.
    """

    t_ns: int
    witness: WitnessName
    seqnum: int
    action: str
    devpath: str
    subsystem: str
    devtype: str = ""
    devname: str = ""


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """What inotify saw of one name below /dev: ``action`` is create, attrib or delete."""

    t_ns: int
    action: str
    name: str


@dataclass(frozen=True, slots=True)
class Device:
    """A USB device as sysfs shows it: ``port`` is its sysname (1-1.4), ``devnum`` changes at each plug."""

    port: str
    busnum: int
    devnum: int
    vendor_id: str = ""
    product_id: str = ""
    serial: str = ""


@dataclass(frozen=True, slots=True)
class Presence:
    """A coldplug scan: every USB device there was at ``t_ns``; ``reason`` is start, resync or end."""

    t_ns: int
    reason: str
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True)
class Listener:
    """One uevent socket on this machine (NETLINK_KOBJECT_UEVENT) and what the kernel dropped for it.

    ``groups``: 1 is the kernel's, 2 is udevd's. ``pid`` is 0 and ``comm`` "?" where the owner cannot
    be seen. ``drops`` counts since the socket was opened (proc: net/netlink, column Drops).
    """

    pid: int
    comm: str
    groups: int
    drops: int
    inode: int


@dataclass(frozen=True, slots=True)
class ListenerSample:
    """All uevent sockets at one moment."""

    t_ns: int
    listeners: tuple[Listener, ...] = ()


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that a witness knows it lost. ``count`` is None where the kernel does not tell how many.

    ``cause`` is a short word of the witness (socket_queue, malformed, truncated, not_from_kernel,
    gpio_fifo, inotify_queue, ...). The loss lies in ``since_ns`` .. ``t_ns``.
    """

    t_ns: int
    witness: WitnessName
    cause: str
    count: int | None
    since_ns: int


@dataclass(frozen=True, slots=True)
class Tally:
    """A witness's account at ``t_ns``: what was offered to it, and what of that it still holds.

    ``offered`` is counted at the intake (messages read + drops that the kernel tells of + what waits
    in the kernel). The ledger counts what is delivered and lost at the other end of the way, so
    offered = delivered + lost + pending is a test and not a definition.
    """

    t_ns: int
    witness: WitnessName
    offered: int
    pending: int = 0


@dataclass(frozen=True, slots=True)
class LineAccount:
    """What is known of one sense line apart from its edges, at a run's end.

    ``interrupts`` is the /proc/interrupts delta over the run, None where it cannot be read.
    ``kernel_numbers`` says whether the pin factory passes the kernel's line_seqno on.
    """

    t_ns: int
    port: str
    factory: str
    kernel_numbers: bool
    interrupts: int | None = None


@dataclass(frozen=True, slots=True)
class RunStart:
    """What a run is about: everything that the report needs and no witness says."""

    t_ns: int
    rig: str
    truth: Truth
    ports: tuple[str, ...]
    witnesses: tuple[WitnessName, ...]
    debounce_ns: int
    nominal_ns: int
    lost_after_ns: int
    storm_quiet_ns: int
    claim_rate: float
    """The loss rate that the run wants to support ("under 0.1 %")."""
    seed: int
    started_at: str
    """Wall time, RFC 3339."""
    version: str
    host: dict[str, str] = field(default_factory=dict)
    """machine (as uname -m), kernel, hostname."""
    reorder_window_ns: int = 500_000_000
    """How long a missing SEQNUM may still come: two events may arrive inverted."""
    plan: dict[str, int | float | str] = field(default_factory=dict)
    """The rig's parameters: sticks, cycles, gap_ms, density_per_s and so on."""


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended. ``failures`` make it INVALID; ``interrupted`` only says that it is short.

    ``emitted`` is how many uevents the rig itself put on the kernel's group (None where it cannot know).
    """

    t_ns: int
    failures: tuple[str, ...] = ()
    interrupted: bool = False
    emitted: int | None = None


Record: TypeAlias = (
    Edge
    | Level
    | Driven
    | Uevent
    | NodeEvent
    | Presence
    | ListenerSample
    | Gap
    | Tally
    | LineAccount
    | RunStart
    | RunEnd
)
