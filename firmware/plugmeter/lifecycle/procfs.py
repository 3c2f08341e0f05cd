"""This process as the kernel sees it: /proc/self (proc_pid_status(5), proc_pid_stat(5), proc_pid_fd(5))."""

from __future__ import annotations

import errno
import os
import re
import resource
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from plugmeter.errors import PlugmeterError
from plugmeter.lifecycle.samples import ProcessSample, ThreadSample

KINDS_LIMIT = 256
"""So many descriptors are looked at for what they are: 1.2 us each."""
THREADS_LIMIT = 32
"""So many threads are looked at: 15 us each. The daemon has about ten."""

_STATUS = re.compile(rb"^(VmHWM|VmRSS|Threads):\s+(\d+)", re.MULTILINE)
_ANONYMOUS = re.compile(r"anon_inode:\[?([^\]]*)\]?|(socket|pipe|mnt|net|uts|user|pid):\[\d+\]")
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_NAME_LIMIT = 120


class ProcessReader:
    """Reads /proc/self. It keeps its files open: where a leak has used up all descriptors it still sees that.

    For one thread only. Raises PlugmeterError where there is no /proc.
    """

    def __init__(self) -> None:
        self.blind = 0
        """How often threads or kinds could not be read for want of descriptors."""
        opened: list[int] = []
        try:
            for name in ("status", "stat"):
                opened.append(os.open(f"/proc/self/{name}", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            for descriptor in opened:
                os.close(descriptor)
            raise PlugmeterError(f"/proc/self cannot be read ({error.strerror}); mount /proc") from None
        self._status, self._stat = opened

    def read(self, *, threads: bool = True, kinds: bool = True) -> ProcessSample:
        """A sample: 40 us, 15 us more for each thread and 1.2 us for each descriptor's kind, up to limits."""
        figures = {name: int(value) for name, value in _STATUS.findall(os.pread(self._status, 8192, 0))}
        fields = _after_name(os.pread(self._stat, 1024, 0))
        began_ns = int(fields[19]) * _TICK_NS
        usage = resource.getrusage(resource.RUSAGE_SELF)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        count, found = self._descriptors(limit, kinds)
        return ProcessSample(
            rss_bytes=figures.get(b"VmRSS", 0) * 1024,
            peak_rss_bytes=figures.get(b"VmHWM", 0) * 1024,
            cpu_ns=round((usage.ru_utime + usage.ru_stime) * 1e9),
            uptime_ns=max(0, time.clock_gettime_ns(time.CLOCK_BOOTTIME) - began_ns),
            descriptors=count,
            descriptor_limit=limit,
            thread_count=figures.get(b"Threads", 0),
            threads=self._threads() if threads else (),
            kinds=tuple(found.most_common()),
            kinds_of=found.total(),
        )

    def close(self) -> None:
        """Harmless when done twice."""
        for descriptor in (self._status, self._stat):
            if descriptor >= 0:
                os.close(descriptor)
        self._status = self._stat = -1

    def _descriptors(self, limit: int, kinds: bool) -> tuple[int, Counter[str]]:
        # From 6.2 on the kernel tells how many there are without opening one (fs/proc/fd.c).
        count = Path("/proc/self/fd").stat().st_size
        if count and not kinds:
            return count, Counter()
        highest: Iterable[int]
        try:
            numbers = os.listdir("/proc/self/fd")  # noqa: PTH208  a third of iterdir's time
        except OSError as error:
            if error.errno not in _OUT_OF_DESCRIPTORS:
                raise
            self.blind += 1
            count = count or limit  # all are taken: that is what the error says
            highest = range(count - 1, max(-1, count - 1 - KINDS_LIMIT), -1)
        else:
            count = count or len(numbers) - 1  # listing took one
            highest = sorted(map(int, numbers), reverse=True)[:KINDS_LIMIT]
        if not kinds:
            return count, Counter()
        return count, Counter(kind for number in highest if (kind := _kind(number)))

    def _threads(self) -> tuple[ThreadSample, ...]:
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        found = []
        try:
            for tid in os.listdir("/proc/self/task")[:THREADS_LIMIT]:  # noqa: PTH208
                with open(f"/proc/self/task/{tid}/stat", "rb", buffering=0) as file:
                    found.append(_thread(int(tid), file.read(1024), names))
        except (FileNotFoundError, ProcessLookupError):
            pass  # it ended while we looked: the others come with the next sample
        except OSError as error:
            if error.errno not in _OUT_OF_DESCRIPTORS:
                raise
            self.blind += 1
        return tuple(found)


def _thread(tid: int, stat: bytes, names: dict[int | None, str]) -> ThreadSample:
    fields = _after_name(stat)
    comm = stat[stat.index(b"(") + 1 : stat.rindex(b")")].decode("utf-8", "replace")
    cpu_ns = (int(fields[11]) + int(fields[12])) * _TICK_NS
    return ThreadSample(names.get(tid, comm), tid, fields[0].decode(), cpu_ns)


def _after_name(stat: bytes) -> list[bytes]:
    """The fields from ``state`` on, which is number 3 in proc_pid_stat(5): a name may hold spaces and )."""
    return stat[stat.rindex(b")") + 2 :].split()


def _kind(number: int) -> str:
    try:
        target = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115  half of Path's time
    except OSError:
        return ""  # closed meanwhile, as the one that listed them was
    known = _ANONYMOUS.fullmatch(target)
    return (known[1] or known[2]) if known else target[:_NAME_LIMIT]
