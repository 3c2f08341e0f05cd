"""The parent's end of a run in a process of its own: starts it, hears it, and never believes it blindly."""

from __future__ import annotations

import logging
import select
import signal
import socket
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from plugmeter import config
from plugmeter.errors import PlugmeterError
from plugmeter.plan import Plan
from plugmeter.progress import Progress
from plugmeter.runner import wire
from plugmeter.runner.process import Process, own_command
from plugmeter.runner.wire import Message
from plugmeter.sections import Config

CHILDS_END: Final = 3
"""The number of the socket in the child."""

READ_BYTES: Final = 262_144
"""One ``read`` takes no more than this from the socket, so that whoever reads stays responsive."""

_BLOCKED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""From the child's first instruction until it ignores them (``child.settle_signals``)."""

_SETUP_S: Final = 10.0

_log = logging.getLogger(__name__)


class Runner:
    """One run in a child process. For one thread, but that ``stop``, ``resync`` and ``kill`` are for any.

    ``start`` it, poll ``fileno``, and ``read`` what there is: ``Ready`` and ``Started`` come first,
    ``Finished`` or ``Failure`` exactly once, ``Ended`` last, whatever the child does. ``progress`` moves once
    a second while the child's loop does, provided that somebody reads. ``counters``: ``garbage`` (lines that
    are no message), ``too_long``, ``half_line`` (cut by the child's death), ``out_of_place`` (a second end of
    the same run), ``unheard_orders`` (the child was gone).

    Raises PlugmeterError where the system has no room for it.

    ``command`` is what is started instead of plugmeter itself, with the socket as descriptor 3.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        *,
        run_id: str | None = None,
        command: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.run_id = run_id or str(uuid.uuid4())
        self.plan = plan
        self.progress = Progress("runner")
        self.latest: wire.Progress | None = None
        """How far the run was when it last said so."""
        self.counters: Counter[str] = Counter()
        self._config = config
        self._command = command or own_command("runner", "--descriptor", str(CHILDS_END))
        self._environment = environment
        self._process: Process | None = None
        self._end: socket.socket | None = None
        try:
            self._epoll = select.epoll()
        except OSError as error:
            raise PlugmeterError(f"a run cannot be started: {error.strerror}") from None
        self._lines = wire.Lines()
        self._told_end = False
        self._ended = False

    @property
    def pid(self) -> int | None:
        """The child's process id once it is started."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the child and tell it what to run. Raises PlugmeterError where it cannot be started."""
        if self._process is not None:
            raise PlugmeterError("a runner starts only once")
        try:
            here, there = socket.socketpair()
        except OSError as error:
            raise PlugmeterError(f"a run cannot be started: {error.strerror}") from None
        with there:
            try:
                self._process = Process(
                    self._command,
                    [(there.fileno(), CHILDS_END), *_standard_streams()],
                    self._environment,
                    _BLOCKED,
                )
            except PlugmeterError:
                here.close()
                raise
        self._end = here
        self._epoll.register(here, select.EPOLLIN)
        self._epoll.register(self._process, select.EPOLLIN)
        here.settimeout(_SETUP_S)  # a configuration fits into the socket; what does not, the child reads soon
        try:
            here.sendall(wire.encode(_setup(self._config, self.plan)))
        except OSError:  # it died at once, which read() tells
            self.counters["unheard_orders"] += 1
        here.setblocking(False)

    def fileno(self) -> int:
        """Polls readable when ``read`` has something to return; not any more after ``Ended``."""
        return self._epoll.fileno()

    def read(self) -> Sequence[Message]:
        """What the child has said since, without waiting, and at most ``READ_BYTES`` of it. Never raises.

        When the child is gone and all that it said is read: a ``Failure`` if it never said how the run
        ended, and ``Ended``.
        """
        if self._process is None or self._ended:
            return ()
        status = self._process.poll()  # asked first: what it said before it ended is there by then
        messages: list[Message] = []
        data = b""
        if self._end is not None:
            data, alive = _received(self._end)
            messages += self._understood(data)
            if not alive:
                self._hang_up()
        if status is not None and not data:
            messages += self._last_words(status)
        return messages

    def stop(self) -> None:
        """Ask the run to end soon: with what was seen, its report and all. Harmless at any time."""
        self._send(wire.StopRun())

    def resync(self) -> None:
        """Ask for a coldplug scan in mid-run; a ``Resynced`` answers. Harmless at any time."""
        self._send(wire.Resync())

    def kill(self) -> None:
        """End it at once, without a report: ``read`` then tells of a failure."""
        if self._process is not None:
            self._process.send(signal.SIGKILL)

    def poll(self) -> int | None:
        """The child's exit status, minus the signal that ended it; None while it runs or never started."""
        return self._process.poll() if self._process else None

    def close(self) -> None:
        """Kill the child if it still runs, and give everything back; a second call does nothing."""
        self._hang_up()
        if self._process is not None:
            self._process.close()
        self._ended = True
        self._epoll.close()

    # -- what the child says --------------------------------------------------------------------

    def _understood(self, data: bytes) -> Iterator[Message]:
        for line in self._lines.feed(data):
            try:
                message = wire.decode_message(line)
            except ValueError as error:
                self.counters["garbage"] += 1
                if self.counters["garbage"] == 1:
                    _log.error("run %s: its process says what makes no sense: %s", self.run_id, error)
                continue
            if isinstance(message, wire.Finished | wire.Failure):
                if self._told_end:
                    self.counters["out_of_place"] += 1
                    continue
                self._told_end = True
            elif isinstance(message, wire.Progress):
                self.latest = message
                self.progress.wakeups = message.wakeups
                self.progress.work = message.work
            yield message
        if self._lines.too_long:
            self.counters["too_long"] = self._lines.too_long

    def _last_words(self, status: int) -> Iterator[Message]:
        self._hang_up()
        if self._process is not None:
            self._epoll.unregister(self._process)
        self._ended = True
        if self._lines.partial:
            self.counters["half_line"] += 1
        if not self._told_end:
            yield wire.Failure("died", f"the run's process {_how(status)} before it had made its report")
        yield wire.Ended(status)

    def _hang_up(self) -> None:
        if self._end is not None:
            self._epoll.unregister(self._end)
            self._end.close()
            self._end = None

    def _send(self, order: wire.Order) -> None:
        end = self._end
        if end is None:
            return  # not started, or over: there is nobody to be told
        line = wire.encode(order)
        try:
            sent = end.send(line)
        except OSError:  # its end is closed, which read() tells; or it has not read 200 KiB of orders
            sent = 0
        if sent != len(line):
            self.counters["unheard_orders"] += 1


def _setup(settings: Config, plan: Plan) -> wire.Setup:
    return wire.Setup(
        config=config.describe(settings),
        source=settings.source,
        rig=plan.rig,
        real_lines=plan.real_lines,
        duration_s=plan.duration_s,
        state=str(plan.state) if plan.state is not None else None,
        die_after_steps=plan.die_after_steps,
        udevd_drops_every=plan.udevd_drops_every,
    )


def _standard_streams() -> list[tuple[int, int]]:
    """What the child says on its standard output and error goes to our standard error: the journal."""
    return [(2, 1), (2, 2)]


def _received(end: socket.socket) -> tuple[bytes, bool]:
    """What is there, and whether more may come."""
    parts: list[bytes] = []
    size = 0
    while size < READ_BYTES:
        try:
            part = end.recv(65_536)
        except BlockingIOError:
            return b"".join(parts), True
        except OSError:  # the child died with orders unread
            part = b""
        if not part:
            return b"".join(parts), False
        parts.append(part)
        size += len(part)
    return b"".join(parts), True


def _how(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
