"""A child process, started with a signal mask of its own, and watched by a descriptor.

The daemon blocks TERM, INT and HUP in all its threads, and a child inherits the mask: ``subprocess`` has no
way to set another one but a hook between fork and exec, which is not safe with threads. posix_spawn(3) has.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from plugmeter.errors import PlugmeterError

DEFAULTED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGPIPE,
    signal.SIGCHLD,
    signal.SIGXFSZ,
)
"""Signals that a parent may ignore: a child must not inherit that."""


def own_command(*arguments: str) -> tuple[str, ...]:
    """The command line that runs plugmeter with ``arguments``, as this process itself was run."""
    if getattr(sys, "frozen", False):  # PyInstaller: the executable is plugmeter
        return (sys.executable, *arguments)
    return (sys.executable, "-m", "plugmeter", *arguments)


class Process:
    """Runs ``command`` in a session of its own, so that a terminal's Ctrl-C is not for it.

    ``descriptors`` are pairs (ours, the child's number): it gets these, and of 0 to 2 those that are not
    among them. ``blocked`` is its signal mask; the dispositions are the default ones. Raises PlugmeterError
    where it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        descriptors: Sequence[tuple[int, int]],
        environment: Mapping[str, str] | None = None,
        blocked: Iterable[signal.Signals] = (),
    ) -> None:
        actions: list[tuple[int, int, int] | tuple[int, int]] = [
            (os.POSIX_SPAWN_DUP2, ours, theirs) for ours, theirs in descriptors
        ]
        kept = {0, 1, 2, *(theirs for _, theirs in descriptors)}
        try:
            actions += [(os.POSIX_SPAWN_CLOSE, number) for number in _inheritable() - kept]
            self.pid = os.posix_spawn(
                command[0],
                list(command),
                os.environ if environment is None else environment,
                file_actions=actions,
                setsid=True,
                setsigmask=list(blocked),
                setsigdef=DEFAULTED,
            )
        except OSError as error:
            raise PlugmeterError(f"cannot start {command[0]}: {error.strerror}") from error
        self._status: int | None = None
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError as error:  # no descriptor left: then there is no way to watch it
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise PlugmeterError(f"cannot start {command[0]}: {error.strerror}") from error

    def fileno(self) -> int:
        """Polls readable once the process has ended (pidfd_open(2)); -1 once closed."""
        return self._pidfd

    def poll(self) -> int | None:
        """The exit status, minus the signal that ended it, or None while it runs."""
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it: how it ended nobody knows
                self._status = 255
            else:
                if pid:
                    self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def wait(self, timeout_s: float) -> int | None:
        """As ``poll``, after at most ``timeout_s``."""
        if self._status is None and self._pidfd >= 0:
            poller = select.poll()
            poller.register(self._pidfd, select.POLLIN)
            poller.poll(timeout_s * 1000)
        return self.poll()

    def send(self, number: signal.Signals) -> None:
        """Send a signal; to one that has ended nothing happens."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def close(self) -> None:
        """Kill it if it still runs, and give everything back; a second call does nothing."""
        self.send(signal.SIGKILL)
        self.wait(_KILLED_S)
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _inheritable() -> set[int]:
    """Our descriptors that an exec does not close: none of Python's (PEP 446), but what we were given."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  descriptors are no paths
        with suppress(OSError):  # the listing's own is closed again
            if os.get_inheritable(int(name)):
                found.add(int(name))
    return found


_KILLED_S = 10.0
"""How long a killed process may take to end: only what hangs in the kernel takes long."""
