"""The kernel's table of netlink sockets, /proc/net/netlink: a pure parser.

Source: net/netlink/af_netlink.c, netlink_native_seq_show. The columns are found by the names in the
header, so that one more of them does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass

from plugmeter.witnesses.socket_queue import NETLINK_KOBJECT_UEVENT

_COLUMNS = ("Eth", "Pid", "Groups", "Rmem", "Drops", "Inode")


@dataclass(frozen=True, slots=True)
class Row:
    """One uevent socket. ``port_id`` is its netlink address: 0 for the kernel, often the pid of a process.

    ``rmem_bytes`` is what waits in its queue, ``drops`` what the kernel dropped since it was opened.
    """

    port_id: int
    groups: int
    rmem_bytes: int
    drops: int
    inode: int


@dataclass(frozen=True, slots=True)
class NetlinkTable:
    """The uevent sockets of one network namespace, and how many lines made no sense."""

    rows: tuple[Row, ...] = ()
    malformed: int = 0


def parse_proc_netlink(text: str) -> NetlinkTable:
    """The rows whose protocol (Eth) is NETLINK_KOBJECT_UEVENT; total, for any text.

    A line that is cut short or holds no numbers is counted, as is every line if there is no header.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if not lines:
        return NetlinkTable()
    header, *table = lines
    if not set(_COLUMNS) <= set(header):
        return NetlinkTable(malformed=len(lines))
    eth, pid, groups, rmem, drops, inode = (header.index(column) for column in _COLUMNS)
    rows = []
    malformed = 0
    for fields in table:
        try:
            if _number(fields[eth]) != NETLINK_KOBJECT_UEVENT:
                continue
            rows.append(
                Row(
                    port_id=_number(fields[pid]),
                    groups=_number(fields[groups], 16),
                    rmem_bytes=_number(fields[rmem]),
                    drops=_number(fields[drops]),
                    inode=_number(fields[inode]),
                )
            )
        except (IndexError, ValueError):
            malformed += 1
    return NetlinkTable(rows=tuple(rows), malformed=malformed)


def _number(text: str, base: int = 10) -> int:
    # int() takes signs, underscores and the digits of any script; the kernel prints none of these.
    if not (text.isascii() and text.isalnum()):
        raise ValueError(text)
    return int(text, base)
