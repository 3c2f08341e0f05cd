"""The inotify witness: which names came, changed and went below /dev.

What one record is: one create, attrib or delete of a name that is no directory. It is offered when
the kernel's event for it is read (or when a listing finds it, see below) and delivered by the same
``read``. Everything else inotify says only keeps the watches in order and is not offered:
directories that come and go, IN_IGNORED, the second report of a name that a listing had already
told; ``housekeeping`` counts those. Every ``Gap`` here has count None, since the kernel tells that
its queue ran over and not by how much: it adds nothing to offered, and offered = delivered is exact.

inotify(7) merges an event into the one before it in the queue if they are alike: two attribs of one
name in a row may be one record. A create and a delete of one name alternate and are never merged.
The events carry no time; ``t_ns`` is when the batch was read.

Following (``follow=True``): a new directory is watched first and listed after that, so what was made
before the watch is found by the listing, and what is made later by an event. What is made between
the two is found by both: a name that the listing told is remembered until all events that were
queued when the listing ended have been read, and its event in that stretch is passed over once.
Remaining blind spots: what came *and* went before the watch (if the whole directory did, the Gap
directory_vanished says so), and the names in a directory that is moved or removed as a whole.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fcntl import ioctl
from pathlib import Path
from termios import FIONREAD

from inotify_simple import Event, INotify, flags, parse_events

from plugmeter.errors import PlugmeterError
from plugmeter.records import Gap, NodeEvent, Tally, WitnessName

_READ_BYTES = 64 * 1024
"""At most this much of the kernel's queue in one ``read``: some 2,000 events."""

_WANTED = flags.CREATE | flags.ATTRIB | flags.DELETE | flags.MOVED_TO | flags.MOVED_FROM | flags.MOVE_SELF
_EVENT = struct.Struct("iIII")  # inotify(7), struct inotify_event: wd, mask, cookie, len

_APPEARED = flags.CREATE | flags.MOVED_TO
_VANISHED = flags.DELETE | flags.MOVED_FROM


@dataclass(slots=True)
class _Watch:
    """One watched directory; ``listed`` are names told by listing whose event may yet come."""

    path: Path
    is_root: bool
    listed: set[str] = field(default_factory=set)
    listed_until_bytes: int = 0


class InotifyWitness:
    """Watches ``directories``; names are relative to the first, or whole where they are not below it.

    With ``follow`` their subdirectories are watched too, those that are there and those that come, as
    long as they are on the same filesystem: below /dev that leaves out pts and shm.

    ``unwatched`` are subdirectories that could not be watched at the start for want of permission.

    Raises PlugmeterError for a directory that is not there and where a kernel limit is used up.
    """

    def __init__(self, directories: Sequence[Path] = (Path("/dev"),), *, follow: bool = False) -> None:
        if not directories:
            raise PlugmeterError("inotify has no directory to watch: name at least one, such as /dev")
        self.housekeeping = 0
        self.unwatched: tuple[Path, ...] = ()
        self._follow = follow
        self._base = Path(directories[0])
        self._watches: dict[int, _Watch] = {}
        self._offered = 0
        self._fetched_bytes = 0
        self._devices: set[int] = set()
        self._dry_ns = time.monotonic_ns()
        try:
            self._inotify = INotify(nonblocking=True)
        except OSError as error:
            raise _refused(error, self._base) from error
        try:
            for directory in directories:
                self._add_root(Path(directory))
        except OSError as error:
            self.close()
            raise _refused(error, Path(directory)) from error

    @property
    def name(self) -> WitnessName:
        """Always ``inotify``."""
        return "inotify"

    @property
    def directories(self) -> tuple[Path, ...]:
        """What is being watched at this moment, in order of path."""
        return tuple(sorted(watch.path for watch in self._watches.values()))

    def fileno(self) -> int:
        """The inotify descriptor; -1 once closed."""
        return -1 if self._inotify.closed else self._inotify.fileno()

    def read(self) -> list[NodeEvent | Gap]:
        """The events of at most 64 KiB of the kernel's queue; poll again for more."""
        records: list[NodeEvent | Gap] = []
        if self._inotify.closed:
            return records
        try:
            data = os.read(self._inotify.fileno(), _READ_BYTES)
        except BlockingIOError:
            self._dry_ns = time.monotonic_ns()
            return records
        t_ns = time.monotonic_ns()
        start_bytes = self._fetched_bytes
        self._fetched_bytes += len(data)
        for event, end in zip(parse_events(data), _ends(data), strict=True):
            self._take(event, start_bytes + end, t_ns, records)
        self._dry_ns = t_ns
        self._offered += sum(isinstance(record, NodeEvent) for record in records)
        return records

    def held_since_ns(self) -> int | None:
        """None: records are stamped in ``read``."""
        return None

    def tally(self) -> Tally:
        """offered = names told of so far; what waits in the kernel is not counted until it is read."""
        return Tally(t_ns=time.monotonic_ns(), witness="inotify", offered=self._offered)

    def close(self) -> None:
        """Give the descriptor and all watches back."""
        self._inotify.close()
        self._watches.clear()

    def _take(self, event: Event, end_bytes: int, t_ns: int, records: list[NodeEvent | Gap]) -> None:
        """One event; ``end_bytes`` is where it ends in the stream of all that was ever queued."""
        if event.mask & flags.Q_OVERFLOW:
            records.append(self._gap(t_ns, "inotify_queue"))
            self._find_unwatched(t_ns, records)
            return
        watch = self._watches.get(event.wd)
        if watch is None:
            self._stray(event, t_ns, records)
            return
        if end_bytes > watch.listed_until_bytes:
            watch.listed.clear()
        if event.name and not event.mask & flags.ISDIR:
            self._node(event, watch, t_ns, records)
            return
        self.housekeeping += 1
        if event.mask & flags.IGNORED:
            # The last event of a watch: its directory was removed, unmounted, or we let it go.
            if self._watches.pop(event.wd).is_root:
                records.append(self._gap(t_ns, "watch_lost"))
        elif event.mask & flags.MOVE_SELF and watch.is_root:
            self._let_go(watch.path, keep=event.wd)
            self._remove_watch(event.wd)  # IN_IGNORED follows, and with it the Gap
        elif self._follow and event.mask & _APPEARED:
            self._add_below(watch.path / event.name, t_ns, records)
        elif self._follow and event.mask & flags.MOVED_FROM:
            self._let_go(watch.path / event.name)

    def _stray(self, event: Event, t_ns: int, records: list[NodeEvent | Gap]) -> None:
        """An event of a watch that we gave up, queued before the kernel knew."""
        if event.name and not event.mask & flags.ISDIR:
            records.append(self._gap(t_ns, "directory_unwatched"))
        else:
            self.housekeeping += 1

    def _node(self, event: Event, watch: _Watch, t_ns: int, records: list[NodeEvent | Gap]) -> None:
        if event.mask & _APPEARED:
            action = "create"
            if event.name in watch.listed:
                watch.listed.discard(event.name)
                self.housekeeping += 1
                return
        elif event.mask & _VANISHED:
            action = "delete"
            watch.listed.discard(event.name)
        else:
            action = "attrib"
        records.append(NodeEvent(t_ns=t_ns, action=action, name=self._relative(watch.path / event.name)))

    def _let_go(self, directory: Path, keep: int = -1) -> None:
        """Stop watching a directory that was moved away, and all below it: the names are true no more."""
        for wd, watch in list(self._watches.items()):
            if wd != keep and watch.path.is_relative_to(directory):
                del self._watches[wd]
                self._remove_watch(wd)

    def _remove_watch(self, wd: int) -> None:
        try:
            self._inotify.rm_watch(wd)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: it ended by itself meanwhile
                raise

    def _add_root(self, directory: Path) -> None:
        self._devices.add(directory.stat().st_dev)
        wd = self._inotify.add_watch(directory, _WANTED | flags.ONLYDIR)
        self._watches[wd] = _Watch(directory, is_root=True)
        if self._follow:
            self._add_old(directory)

    def _add_old(self, directory: Path) -> None:
        """Watch the subdirectories that are there at the start: what they hold is not news."""
        for entry in _entries(directory):
            if not self._is_followed(entry):
                continue
            below = Path(entry.path)
            try:
                wd = self._inotify.add_watch(below, _WANTED | flags.ONLYDIR | flags.DONT_FOLLOW)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except PermissionError:
                self.unwatched += (below,)
                continue
            self._watches.setdefault(wd, _Watch(below, is_root=False))
            self._add_old(below)

    def _add_below(self, directory: Path, t_ns: int, records: list[NodeEvent | Gap]) -> None:
        """Watch a directory that is new to us, then tell what it holds."""
        try:
            if directory.lstat().st_dev not in self._devices:
                return  # a mount point: whatever is mounted there is not ours to watch
            wd = self._inotify.add_watch(directory, _WANTED | flags.ONLYDIR | flags.DONT_FOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            records.append(self._gap(t_ns, "directory_vanished"))
            return
        except OSError:
            # ENOSPC (the limit of watches), EACCES: what happens in there is lost from here on.
            records.append(self._gap(t_ns, "directory_unwatched"))
            return
        if wd in self._watches:
            return  # found before, by the listing of the directory above
        watch = self._watches[wd] = _Watch(directory, is_root=False)
        for entry in _entries(directory):
            if entry.is_dir(follow_symlinks=False):
                self.housekeeping += 1
                self._add_below(Path(entry.path), t_ns, records)
            else:
                watch.listed.add(entry.name)
                records.append(NodeEvent(t_ns=t_ns, action="create", name=self._relative(Path(entry.path))))
        watch.listed_until_bytes = self._fetched_bytes + self._unread_bytes()

    def _find_unwatched(self, t_ns: int, records: list[NodeEvent | Gap]) -> None:
        """After an overflow: a directory whose creation was lost would be missed for ever."""
        if not self._follow:
            return
        known = {watch.path for watch in self._watches.values()}
        for path in sorted(known):
            for entry in _entries(path):
                below = Path(entry.path)
                if below not in known and self._is_followed(entry):
                    self._add_below(below, t_ns, records)

    def _is_followed(self, entry: os.DirEntry[str]) -> bool:
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return False
        return stat.S_ISDIR(found.st_mode) and found.st_dev in self._devices

    def _unread_bytes(self) -> int:
        """How much the kernel's queue holds now (FIONREAD, inotify(7))."""
        waiting = array("i", [0])
        ioctl(self._inotify.fileno(), FIONREAD, waiting)
        return waiting[0]

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self._base)) if path.is_relative_to(self._base) else str(path)

    def _gap(self, t_ns: int, cause: str) -> Gap:
        return Gap(t_ns=t_ns, witness="inotify", cause=cause, count=None, since_ns=self._dry_ns)


def _ends(data: bytes) -> Iterator[int]:
    """Where each event in ``data`` ends."""
    at = 0
    while at < len(data):
        at += _EVENT.size + _EVENT.unpack_from(data, at)[3]
        yield at


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    """What is in a directory now; nothing if the directory went meanwhile."""
    try:
        with os.scandir(directory) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _refused(error: OSError, directory: Path) -> PlugmeterError:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            text = f"inotify cannot watch {directory}: there is no such directory"
        case errno.EACCES:
            text = f"inotify cannot watch {directory}: it takes root to read (or leave it out)"
        case errno.ENOSPC:
            text = (
                f"inotify cannot watch {directory}: this user's watches are used up; "
                "raise them: sysctl -w fs.inotify.max_user_watches=524288"
            )
        case errno.EMFILE:
            text = (
                "inotify cannot start: this user's instances or this process's open files (ulimit -n) are "
                "used up; raise them: sysctl -w fs.inotify.max_user_instances=1024"
            )
        case _:
            text = f"inotify cannot watch {directory}: {error.strerror}"
    return PlugmeterError(text)
