"""Signals, taken by one thread that reads them (signalfd(2)), with who sent each.

``block()`` first of all: a thread inherits the mask of the one that starts it (pthread_sigmask(3)), and a
single thread that does not block a signal gets it, and with it the process its default action. So
``commands/run.py`` calls it before it imports anything that may start a thread.

**Children inherit the mask as well**, through exec too (signal(7)), and then cannot be told to end.
Python's ``subprocess`` does not reset it: ``restore_signals=True`` is about ignored signals only, and
``preexec_fn`` is not safe beside threads. So a child of ours that is Plugmeter itself calls ``unblock()``
first, or wants it so; any other program is started by ``spawn()``, for posix_spawn(3) sets the mask in the
child itself.

SIGQUIT is none of these: see ``stacks``.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from plugmeter.lifecycle.signalfd import SignalInfo, open_signalfd, read_signal
from plugmeter.lifecycle.stages import Event
from plugmeter.progress import Progress
from plugmeter.wakeup import Wakeup

_LEFT_ALONE: Final = frozenset(
    {
        signal.SIGKILL, signal.SIGSTOP,  # nobody can take them
        signal.SIGQUIT,
        signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT,
        signal.SIGSYS,  # faults of the thread that they hit
        signal.SIGPIPE, signal.SIGXFSZ,  # Python ignores them: write(2) says EPIPE, EFBIG
        signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH,  # they do nothing
        signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,  # a terminal's, which goes on with SIGCONT
    }
)  # fmt: skip

EVENTS: Final[Mapping[int, Event | None]] = MappingProxyType(
    {int(number): None for number in sorted(signal.valid_signals() - _LEFT_ALONE)}
    | {signal.SIGTERM: Event.TERM, signal.SIGINT: Event.INT, signal.SIGHUP: Event.HUP}
)
"""The signals that are taken, and what each means. Those that mean nothing would end the process if they were
left alone (signal(7), the real-time ones too); they are told of, and that is all."""

FORCE_AFTER_NS: Final = 1_000_000_000
"""A second TERM or INT forces from so long after the first: signals coalesce and are sent in bursts (by
terminals, and by those who kill a group and then each of its members), so a quick second one says nothing."""

_TICK_S: Final = 1.0
_COMMAND_BYTES: Final = 200


def block() -> None:
    """Block the signals of ``EVENTS`` in this thread and in all that it starts from now on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, EVENTS)


def unblock() -> None:
    """Undo ``block()`` in this thread, with default actions: for a child process that is Plugmeter itself.

    What had arrived before takes effect now.
    """
    for number in EVENTS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, EVENTS)


def blocked() -> bool:
    """Whether ``block()`` is in effect in this thread."""
    return EVENTS.keys() <= signal.pthread_sigmask(signal.SIG_BLOCK, ())


def spawn(
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
) -> int:
    """Start another program, with no signal blocked and default actions, and give its pid.

    ``arguments[0]`` is looked up in PATH; the descriptors become its 0, 1 and 2 (None: ours). The caller has
    to wait for it (os.waitpid, os.pidfd_open). Raises OSError.
    """
    actions: list[tuple[int, int, int]] = [
        (os.POSIX_SPAWN_DUP2, descriptor, place)
        for place, descriptor in enumerate((stdin, stdout, stderr))
        if descriptor is not None
    ]
    return os.posix_spawnp(
        arguments[0],
        list(arguments),
        dict(os.environ if environment is None else environment),
        file_actions=actions,
        setsigmask=(),
        setsigdef=[*EVENTS, signal.SIGQUIT, signal.SIGPIPE],
    )


@dataclass(frozen=True, slots=True)
class Caught:
    """A signal as it was taken."""

    number: int
    pid: int
    uid: int
    command: str
    t_ns: int
    """CLOCK_MONOTONIC."""
    time_ns: int
    """Wall time, nanoseconds since 1970."""

    @property
    def name(self) -> str:
        """As SIGTERM, or SIGRTMIN+1."""
        return name_of(self.number)


def name_of(number: int) -> str:
    """As SIGTERM, or SIGRTMIN+1."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal between the first and the last
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


class Presses:
    """Which event a signal is: the second TERM or INT forces, if it comes late enough. Pure."""

    __slots__ = ("first_ns",)

    def __init__(self) -> None:
        self.first_ns: int | None = None
        """When the first TERM or INT came, CLOCK_MONOTONIC."""

    def event(self, number: int, t_ns: int) -> Event | None:
        """The event, or None for a signal that means nothing."""
        event = EVENTS[number]
        if event not in (Event.TERM, Event.INT):
            return event
        if self.first_ns is None:
            self.first_ns = t_ns
        elif t_ns - self.first_ns >= FORCE_AFTER_NS:
            return Event.FORCE
        return event


class SignalThread:
    """The thread that takes the signals, and hands each on. Needs ``block()`` in the main thread before."""

    def __init__(
        self, hand_on: Callable[[Caught], bool], heed: Callable[[Caught], None] = lambda _: None
    ) -> None:
        """``hand_on`` may wait for at most a second, and says whether it took the signal; if not, it is asked
        again, and meanwhile the kernel keeps (one of each of) those that come. ``heed`` gets each before."""
        self.progress = Progress("signals")
        self._hand_on = hand_on
        self._heed = heed
        self._closing = threading.Event()
        self._wakeup = Wakeup()
        self._descriptor = -1
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)

    def start(self) -> None:
        """Begin. RuntimeError where the signals are not blocked: they would end the process instead. OSError
        where there is no descriptor left."""
        if not blocked():
            raise RuntimeError("signals.block() was not called before the threads were started")
        self._descriptor = open_signalfd(EVENTS)
        self._thread.start()

    def close(self) -> None:
        """End the thread; what arrives from now on stays blocked, and pending."""
        self._closing.set()
        self._wakeup.wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._wakeup.close()

    def _run(self) -> None:
        descriptor = self._descriptor
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        poller.register(self._wakeup, select.POLLIN)
        try:
            while not self._closing.is_set():
                poller.poll(_TICK_S * 1000)
                info = read_signal(descriptor)
                self.progress.woke(info is not None)
                if info is not None:
                    self._take(info)
        finally:
            os.close(descriptor)

    def _take(self, info: SignalInfo) -> None:
        caught = Caught(
            info.number,
            info.pid,
            info.uid,
            command_of(info.pid),  # at once: a sender like kill(1) is gone in a moment
            time.monotonic_ns(),
            time.time_ns(),
        )
        self._heed(caught)
        while not self._hand_on(caught) and not self._closing.is_set():
            self.progress.woke(False)


def command_of(pid: int) -> str:
    """The command line of a process, or its name in brackets where it has none (a kernel thread, one that is
    ending), or nothing where it is gone or hidden. Printable ASCII, at most 200 characters."""
    if pid <= 0:
        return ""
    try:
        line = _beginning(Path(f"/proc/{pid}/cmdline")).rstrip(b"\0").replace(b"\0", b" ")
        if not line.strip():
            line = b"[" + _beginning(Path(f"/proc/{pid}/comm")).rstrip(b"\n") + b"]"
    except OSError:  # gone: not even told apart from hidden (proc(5), hidepid)
        return ""
    return "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in line)


def _beginning(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        return file.read(_COMMAND_BYTES) or b""
