"""The child's end: makes one run, tells of it, and ends when it is over or nobody listens any more.

Its parent alone decides when it ends: TERM, INT and HUP, which a service manager or a terminal sends to all
processes, are ignored, and the word comes over the socket. The end of the stream is the parent's death: the
run then ends as if it had been stopped, with the rig at rest, and the process with it.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Final

from plugmeter import config, equipment
from plugmeter.errors import PlugmeterError, UsageError
from plugmeter.plan import Plan
from plugmeter.run import Stop, measure, ready_interpreter
from plugmeter.runner import wire
from plugmeter.runner.outgoing import Outgoing
from plugmeter.runner.watch import RawBatches, Watch

_PARENTS_WORD: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LINGER_S: Final = 20.0
"""How long a run may take to end once its parent is gone; then the process ends as it is."""
_LAST_WORDS_S: Final = 2.0
"""How long a process that ends of a defect tries to write what it has said."""
_ORPHANED: Final = 3
"""Exit status of a process whose run did not end in that time."""


def settle_signals() -> None:
    """Ignore what the parent answers for, and only then unblock what it blocks; QUIT shows all stacks."""
    for each in _PARENTS_WORD:
        signal.signal(each, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    faulthandler.register(signal.SIGQUIT, all_threads=True)


def serve(end: socket.socket) -> int:
    """Make the run that the first order on ``end`` asks for; the exit status."""
    orders = _Orders(end)
    outgoing = Outgoing(end)
    try:
        setup = orders.setup()
        if setup is not None:  # else the parent has gone before it had asked for anything
            _run(orders, setup, outgoing)
        status = 0
    except PlugmeterError as error:
        reason = "; ".join(str(error).splitlines())
        outgoing.say(wire.encode(wire.Failure(type(error).__name__, reason)))
        status = error.exit_status
    except BaseException:
        outgoing.start()
        outgoing.finish(_LAST_WORDS_S)
        raise  # a defect: its traceback goes to the journal, and the parent sees the stream's end
    outgoing.say(wire.encode(wire.Bye()))
    outgoing.start()
    outgoing.finish()
    return status


def _run(orders: _Orders, setup: wire.Setup, outgoing: Outgoing) -> None:
    settings = config.from_table(setup.config, setup.source)
    stop = Stop()
    over = threading.Event()
    raw = RawBatches(outgoing) if settings.daemon.records == "all" else None
    try:
        with equipment.equipment(
            settings,
            _plan(setup),
            raw.keep if raw else None,
            lambda text: outgoing.say(wire.encode(wire.Note(text))),
        ) as gear:
            # Only now may there be threads: the injected rig has moved into its namespace.
            outgoing.start()
            threading.Thread(
                target=orders.obey, args=(stop, outgoing, over), name="orders", daemon=True
            ).start()
            ready_interpreter()
            watch = Watch(outgoing, gear)
            pipeline = measure(gear, stop, watcher=watch)
        watch.finish(pipeline, raw.count if raw else 0)
    finally:
        over.set()


def _plan(setup: wire.Setup) -> Plan:
    return Plan(
        rig=setup.rig,
        real_lines=setup.real_lines,
        duration_s=setup.duration_s,
        state=Path(setup.state) if setup.state is not None else None,
        die_after_steps=setup.die_after_steps,
        udevd_drops_every=setup.udevd_drops_every,
    )


class _Orders:
    """What the parent says, in order; its silence for good is its death."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._lines = wire.Lines()
        self._waiting: list[bytes] = []

    def setup(self) -> wire.Setup | None:
        """The first order; None where the parent is gone. Raises UsageError for any other than a setup."""
        while not self._waiting:
            data = self._received()
            if not data:
                return None
            self._waiting = self._lines.feed(data)
        try:
            first = wire.decode_order(self._waiting.pop(0))
        except ValueError as error:
            raise UsageError(
                f"plugmeter runner does not understand its parent ({error}); is that of another version? "
                "Restart plugmeter run"
            ) from error
        if not isinstance(first, wire.Setup):
            raise UsageError("plugmeter runner was told nothing to run; it is started by plugmeter run")
        return first

    def obey(self, stop: Stop, outgoing: Outgoing, over: threading.Event) -> None:
        """The thread that hears the parent, and its death."""
        while True:
            for line in self._waiting:
                self._obey(line, stop)
            data = self._received()
            if not data:
                break
            self._waiting = self._lines.feed(data)
        outgoing.abandon()
        stop.ask()
        if not over.wait(_LINGER_S):
            _complain("the run does not end, and its parent is gone: ending as it is")
            os._exit(_ORPHANED)

    def _obey(self, line: bytes, stop: Stop) -> None:
        try:
            order = wire.decode_order(line)
        except ValueError as error:
            _complain(f"an order that makes no sense is not obeyed: {error}")
            return
        if isinstance(order, wire.StopRun):
            stop.ask()
        elif isinstance(order, wire.Resync):
            stop.ask_resync()
        else:
            _complain("a second setup is not obeyed: a process makes one run")

    def _received(self) -> bytes:
        try:
            return self._end.recv(65_536)
        except ConnectionResetError:  # the parent died with something of ours unread
            return b""


def _complain(line: str) -> None:
    print(f"plugmeter runner: {line}", file=sys.stderr, flush=True)
