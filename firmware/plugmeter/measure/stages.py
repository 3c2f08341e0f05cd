"""The stages of the way of an event, and at which of them it was lost, from what the witnesses saw.

The stages, in the order in which the data passes them:

1. ``before_uevent``: no witness saw anything and the kernel's group had no gap: the event died in the hub, in
   the debounce, in the enumeration or on the way to the broadcast (the eBPF probes tell these apart).
2. ``socket_queue``: the kernel made the uevent and our socket in its group dropped it.
3. ``udevd``: the kernel's group had it, udevd's never did: udevd's own socket, its rules or its workers.
4. ``udev_socket_queue``: udevd passed it on and our socket in its group dropped it.
5. ``devtmpfs``: the uevent came, its node below /dev never did.
6. ``inotify_queue``: inotify's queue overflowed while the node should have come.
7. ``unknown``: what was observed does not suffice to say.

Devtmpfs does not wait for udevd (the kernel makes the node, drivers/base/devtmpfs.c), so 5 and 6 are a branch
beside 3 and 4; where an event was lost on both, the verdict names the earlier in this list.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import Literal, TypeAlias, get_args


class Stage(StrEnum):
    """Where an event was lost. The value is the word for reports; the order is that of the way."""

    BEFORE_UEVENT = "before_uevent"
    SOCKET_QUEUE = "socket_queue"
    UDEVD = "udevd"
    UDEV_SOCKET_QUEUE = "udev_socket_queue"
    DEVTMPFS = "devtmpfs"
    INOTIFY_QUEUE = "inotify_queue"
    UNKNOWN = "unknown"


Sight: TypeAlias = Literal["seen", "missed", "gap", "not_observed", "not_expected"]
"""What one witness has to say of one event.

``seen``: it has it. ``missed``: it was listening, lost nothing at that time, and did not see it.
``gap``: it did not see it and was losing records at that time. ``not_observed``: it took no part in the run.
``not_expected``: this event never comes to it (no devname, so no node). The last two prove nothing.
"""

SIGHTS: tuple[Sight, ...] = get_args(Sight)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What netlink (the kernel's group), udev (udevd's group) and inotify (the node) have of one event."""

    netlink: Sight
    udev: Sight
    node: Sight


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: with each sight among those given, the event was lost at ``stage``, because ``why``."""

    netlink: frozenset[Sight]
    udev: frozenset[Sight]
    node: frozenset[Sight]
    stage: Stage | None
    why: str


_ANY = frozenset(SIGHTS)
_SEEN: frozenset[Sight] = frozenset({"seen"})
_MISSED: frozenset[Sight] = frozenset({"missed"})
_GAP: frozenset[Sight] = frozenset({"gap"})
_NOT_EXPECTED: frozenset[Sight] = frozenset({"not_expected"})
_SILENT: frozenset[Sight] = frozenset({"not_observed", "not_expected"})

# fmt: off
TABLE: tuple[Rule, ...] = (
    # The kernel's group has the last word on whether there was a uevent at all.
    Rule(_GAP,    _ANY,    _ANY,    Stage.SOCKET_QUEUE,      "our socket in the kernel's group was dropping"),
    Rule(_MISSED, _SEEN,   _ANY,    Stage.SOCKET_QUEUE,      "udevd had it, our kernel socket did not"),
    Rule(_MISSED, _ANY,    _SEEN,   Stage.SOCKET_QUEUE,      "the node came, our kernel socket had nothing"),
    Rule(_MISSED, _ANY,    _ANY,    Stage.BEFORE_UEVENT,     "nobody saw it, the kernel's group had no gap"),
    # The uevent came to us: where did it end after that?
    Rule(_SEEN,   _MISSED, _ANY,    Stage.UDEVD,             "the kernel's group had it, udevd's never did"),
    Rule(_SEEN,   _GAP,    _ANY,    Stage.UDEV_SOCKET_QUEUE, "our socket in udevd's group was dropping"),
    Rule(_SEEN,   _ANY,    _MISSED, Stage.DEVTMPFS,          "the uevent came, the node never did"),
    Rule(_SEEN,   _ANY,    _GAP,    Stage.INOTIFY_QUEUE,     "inotify's queue was overflowing"),
    Rule(_SEEN,   _ANY,    _ANY,    None,                    "seen to the end of the observed chain"),
    # From here on nobody listened to the kernel's group. What udevd passed on, the kernel had made.
    Rule(_SILENT, _SEEN,   _MISSED, Stage.DEVTMPFS,          "udevd passed it on, the node never came"),
    Rule(_SILENT, _SEEN,   _GAP,    Stage.INOTIFY_QUEUE,     "inotify's queue was overflowing"),
    Rule(_SILENT, _SEEN,   _ANY,    None,                    "seen to the end of the observed chain"),
    Rule(_SILENT, _GAP,    _ANY,    Stage.UDEV_SOCKET_QUEUE, "our socket in udevd's group was dropping"),
    # Udevd and devtmpfs do not depend upon one another: what both lack was not there before them.
    Rule(_SILENT, _MISSED, _SEEN,   Stage.UDEVD,             "the node came, udevd passed nothing on"),
    Rule(_SILENT, _MISSED, _MISSED, Stage.BEFORE_UEVENT,     "neither udevd nor devtmpfs had it"),
    Rule(_SILENT, _MISSED, _ANY,    Stage.UNKNOWN,           "nobody saw whether udevd got it"),
    # Nobody listened to uevents at all.
    Rule(_SILENT, _SILENT, _SEEN,   None,                    "seen to the end of the observed chain"),
    Rule(_SILENT, _SILENT, _GAP,    Stage.INOTIFY_QUEUE,     "inotify's queue was overflowing"),
    Rule(_SILENT, _SILENT, _MISSED, Stage.UNKNOWN,           "nobody saw whether there was a uevent"),
    Rule(_NOT_EXPECTED, _NOT_EXPECTED, _NOT_EXPECTED, None, "no witness was to see it"),
    Rule(_SILENT, _SILENT, _SILENT, Stage.UNKNOWN,           "nobody observed it"),
)
# fmt: on
"""The rules: the first row that fits decides. Every combination of sights fits one."""


def rule_of(evidence: Evidence) -> Rule:
    """The row of the table that decides; total over all sights."""
    return _DECIDING[evidence.netlink, evidence.udev, evidence.node]


def stage_of(evidence: Evidence) -> Stage | None:
    """The stage at which the event was lost; None where it reached the end of the observed chain."""
    return rule_of(evidence).stage


_DECIDING: dict[tuple[Sight, Sight, Sight], Rule] = {
    (netlink, udev, node): next(
        rule for rule in TABLE if netlink in rule.netlink and udev in rule.udev and node in rule.node
    )
    for netlink, udev, node in product(SIGHTS, repeat=3)
}
