"""The listeners: every uevent socket on this machine and what the kernel dropped for it.

Nobody's help is needed: the drop counters stand in /proc/net/netlink of each network namespace
(proc(5)), and whose a socket is shows in /proc/PID/fd. What cannot be seen: a namespace that no
process is in, and without root the namespaces and descriptors of other users (pid 0, comm ``?``).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from plugmeter.errors import PlugmeterError
from plugmeter.records import Listener, ListenerSample
from plugmeter.witnesses.netlink_table import NetlinkTable, Row, parse_proc_netlink

_MAX_LISTENERS = 4096
"""Sockets in one sample and in the cache; more are counted in ``overlooked`` and left out."""

_UNSEEN = "?"
_KERNEL = "kernel"


@dataclass(frozen=True, slots=True)
class _Owner:
    """Who holds a socket, and by which link in /proc one sees that it still does."""

    pid: int
    comm: str
    link: str


_NOBODY = _Owner(pid=0, comm=_UNSEEN, link="")


class ListenerScanner:
    """Takes samples; remembers whose a socket is, so that only a new socket costs a walk.

    A walk reads every descriptor of every process. A sample without one reads one link for each
    process (its network namespace) and for each socket (is it still held?).

    After each sample: ``malformed`` lines and ``hidden`` processes (whose namespace may not be seen)
    and ``overlooked`` sockets of that sample; ``walks`` counts the walks so far.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self.malformed = 0
        self.hidden = 0
        self.overlooked = 0
        self.walks = 0
        self._proc = proc
        self._owners: dict[int, _Owner] = {}

    def sample(self) -> ListenerSample:
        """All uevent sockets now, in order of inode; ``t_ns`` is when the reading began."""
        t_ns = time.monotonic_ns()
        pids = self._pids()
        rows = self._rows(pids)
        self.overlooked = max(0, len(rows) - _MAX_LISTENERS)
        rows = dict(sorted(rows.items())[:_MAX_LISTENERS])
        known = {inode: owner for inode, owner in self._owners.items() if inode in rows}
        held = {inode: owner for inode, owner in known.items() if _still_holds(owner, inode)}
        wanted = {inode for inode, row in rows.items() if row.port_id or row.groups}
        if wanted - held.keys():
            # The walk costs the same for one as for all: look again for those we never found, too.
            lost = {inode for inode in wanted if held.get(inode, _NOBODY) is _NOBODY}
            held |= dict.fromkeys(lost, _NOBODY) | self._walk(pids, lost)
        self._owners = held
        return ListenerSample(t_ns=t_ns, listeners=tuple(self._listener(row) for row in rows.values()))

    def _listener(self, row: Row) -> Listener:
        if row.port_id == 0 and row.groups == 0:
            pid, comm = 0, _KERNEL
        else:
            owner = self._owners[row.inode]
            pid, comm = owner.pid, owner.comm
        return Listener(pid=pid, comm=comm, groups=row.groups, drops=row.drops, inode=row.inode)

    def _pids(self) -> list[int]:
        try:
            return sorted(int(entry.name) for entry in self._proc.iterdir() if entry.name.isdecimal())
        except OSError as error:
            raise PlugmeterError(
                f"cannot list {self._proc}, where listeners show: {error.strerror}"
            ) from error

    def _rows(self, pids: list[int]) -> dict[int, Row]:
        """The rows of every network namespace that a process is in, each read once; key is the inode."""
        self.malformed = self.hidden = 0
        seen: set[str] = set()
        rows: dict[int, Row] = {}
        for process in ("self", *map(str, pids)):
            try:
                namespace = os.readlink(f"{self._proc}/{process}/ns/net")  # noqa: PTH115 - see _target
            except PermissionError:
                self.hidden += 1
                continue
            except OSError:
                continue  # it ended meanwhile, or is a zombie, which is in no namespace any more
            if namespace in seen:
                continue
            table = self._table(process)
            if table is not None:
                seen.add(namespace)
                self.malformed += table.malformed
                rows |= {row.inode: row for row in table.rows}
        return rows

    def _table(self, process: str) -> NetlinkTable | None:
        try:
            text = (self._proc / process / "net/netlink").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None  # it ended meanwhile: another process of its namespace will do
        return parse_proc_netlink(text)

    def _walk(self, pids: list[int], inodes: set[int]) -> dict[int, _Owner]:
        """Who holds these sockets.

        Of several holders it is the one with the lowest pid, but PID 1 only if it is alone: systemd
        keeps udevd's socket open for it, and a fork holds what its parent opened.
        """
        self.walks += 1
        targets = {f"socket:[{inode}]": inode for inode in inodes}
        found: dict[int, _Owner] = {}
        for pid in [*(pid for pid in pids if pid != 1), *(pid for pid in pids if pid == 1)]:
            process = f"{self._proc}/{pid}"
            for link in _descriptors(process):
                inode = targets.get(_target(link), -1)
                if inode >= 0 and inode not in found:
                    found[inode] = _Owner(pid=pid, comm=_comm(process), link=link)
        return found


def sample(proc: Path = Path("/proc")) -> ListenerSample:
    """One sample; keep a ListenerScanner to take many."""
    return ListenerScanner(proc).sample()


def _still_holds(owner: _Owner, inode: int) -> bool:
    return owner is _NOBODY or _target(owner.link) == f"socket:[{inode}]"


def _descriptors(process: str) -> list[str]:
    try:
        return [f"{process}/fd/{name}" for name in os.listdir(f"{process}/fd")]  # noqa: PTH208 - see _target
    except OSError:
        return []  # not ours to see, or gone


def _target(link: str) -> str:
    """Where a link of /proc leads; thousands in a walk, so not by Path, which takes several times as long."""
    try:
        return os.readlink(link)  # noqa: PTH115
    except OSError:
        return ""


def _comm(process: str) -> str:
    try:
        return Path(process, "comm").read_text(encoding="utf-8", errors="replace").strip() or _UNSEEN
    except OSError:
        return _UNSEEN
