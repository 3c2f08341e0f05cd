"""The conductor: the main thread's loop, and the only owner of the stage.

It walks through ``stages.TABLE``: events come in (signals, what other threads post, exit conditions,
deadlines), the table says what follows, and the entry action of the stage is called. Signals have to be
blocked before it is made (``signals.block``); ``commands/run.py`` and ``daemon/service.py`` put it together.

What other threads may call: ``post`` (RESTART, FATAL), ``call``, ``wake``, and read ``stage``. All else is
the main thread's.
"""

from __future__ import annotations

import logging
import os
import selectors
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final, NoReturn, TypeVar

from plugmeter.errors import PlugmeterError
from plugmeter.lifecycle import stacks
from plugmeter.lifecycle.actions import Actions, Timing
from plugmeter.lifecycle.audit import (
    RELOAD_REFUSED_MESSAGE_ID,
    Audited,
    SignalReceived,
    TransitionMade,
)
from plugmeter.lifecycle.deadline import SECOND_NS, Work
from plugmeter.lifecycle.defects import Defects
from plugmeter.lifecycle.drains import DrainMemory
from plugmeter.lifecycle.inbox import Inbox
from plugmeter.lifecycle.insistence import Insistence
from plugmeter.lifecycle.journal import fields
from plugmeter.lifecycle.notify import Notifier
from plugmeter.lifecycle.signals import Caught, Presses, SignalThread
from plugmeter.lifecycle.stages import FAILURES, Event, Stage, StageMachine, Transition
from plugmeter.lifecycle.startup import Startup
from plugmeter.lifecycle.stop import Stop
from plugmeter.lifecycle.watchdog import Watchdog
from plugmeter.progress import Progress

LOG: Final = logging.getLogger("plugmeter.lifecycle")

POLL_S: Final = 0.01
"""How often conditions are asked for in the stages that wait for one; ``wake()`` is quicker."""

TICK_NS: Final = SECOND_NS

Result = TypeVar("Result")


def leave(status: int) -> NoReturn:
    """End the process now, after ``Conductor.run``: all that matters is closed by ``say_goodbye``. Taking the
    interpreter apart would cost the stop some 30 ms, and longer where a library waits for its threads then
    (gpiozero: 10 s for each)."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            pass  # nobody reads it any more
    os._exit(status)


class Conductor:
    """See the module. ``run()`` once; made and run in the main thread."""

    def __init__(
        self,
        actions: Actions,
        timing: Timing,
        *,
        drains: DrainMemory,
        audit: Callable[[Audited], None],
        notifier: Notifier | None = None,
        catch_signals: bool = True,
    ) -> None:
        """``audit`` gets each signal and transition, to make a record of it; they are in the journal already.
        ``catch_signals`` wants ``signals.block()`` called before; without, signals are somebody else's."""
        self.timing = timing
        """May be replaced by ``reload``."""
        self.progress = Progress("conductor")
        self.notifier = Notifier() if notifier is None else notifier
        self.reload_problem: str | None = None
        """Why the last reload was refused; None after a good one."""
        self._actions = actions
        self._audit = audit
        self._defects = Defects(self._happen)
        self._startup = Startup(actions.start, actions.ready, self._defects, self._happen, self.notifier)
        self._stop = Stop(self.notifier, drains)
        self._machine = StageMachine()
        self._inbox = Inbox()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._inbox.fileno(), selectors.EVENT_READ, None)
        insistence = Insistence(lambda: self.stage)
        self._signals = SignalThread(self._inbox.signal, insistence.heed) if catch_signals else None
        self._presses = Presses()
        self._happened: deque[tuple[Event, str]] = deque()
        self._thread = threading.get_ident()
        self._entered_ns = self._ticked_ns = time.monotonic_ns()
        self._refused = False
        """Whether the start was, by what the user has to mend: that was told, and the way out is no news."""
        self._reload_owed: str | None = None
        """Why there is to be a reload as soon as it runs."""
        self._watchdog = Watchdog(self.notifier)
        self._over = False

    # For any thread

    @property
    def stage(self) -> Stage:
        """Where the daemon is."""
        return self._machine.stage

    @property
    def signal_progress(self) -> Progress | None:
        """The signal thread's, for ``Actions.workers``."""
        return None if self._signals is None else self._signals.progress

    def post(self, event: Event, reason: str) -> None:
        """Say that ``event`` has happened: FATAL from a part that cannot go on, RESTART, TERM for an end by
        its own will. ``reason`` is one line."""
        self._inbox.post(event, reason)

    def call(self, function: Callable[[], Result]) -> Future[Result]:
        """Have ``function`` run in the main thread; its result or exception is in the Future, which is
        cancelled if the end comes first. Raises PlugmeterError when too many wait already."""
        return self._inbox.call(function)

    def wake(self) -> None:
        """What ``ready``, ``intake`` or ``backlog`` tell may have changed: have them asked at once."""
        self._inbox.wake()

    @property
    def stuck(self) -> tuple[str, ...]:
        """The workers that do not move, while running: for them the watchdog is not fed."""
        return self._watchdog.stuck

    # For the main thread

    def register(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever ``descriptor`` can be read (or its other end is gone). One that raises
        is a defect, and its descriptor is left alone from then on."""
        self._mine()
        self._selector.register(descriptor, selectors.EVENT_READ, callback)

    def unregister(self, descriptor: int) -> None:
        """Before ``descriptor`` is closed. Harmless for one that is not registered (any more)."""
        self._mine()
        try:
            self._selector.unregister(descriptor)
        except KeyError:
            pass  # a defect of its callback took it out

    def run(self) -> int:
        """From the first stage to the last; the exit status: 0, or 1 after a failure, or that of the
        PlugmeterError of ``start`` or ``ready``."""
        self._mine()
        self._entered_ns = time.monotonic_ns()
        if self._signals is not None:
            self._signals.start()
        try:
            self._enter(Stage.INITIALIZING)
            self._settle()
            while self.stage is not Stage.STOPPED:
                self._turn()
        finally:
            if self._signals is not None:
                self._signals.close()
            self._inbox.close()
            self._selector.close()
            self.notifier.retry()
            stacks.unguard()
        return self._startup.exit_status if self._machine.failed else 0

    def _mine(self) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError("only the conductor's own thread may do this; see Conductor.call")

    # The loop

    def _turn(self) -> None:
        ready = self._selector.select(self._timeout_s(time.monotonic_ns()))
        found = False
        for key, _ in ready:
            if key.data is not None and self._selector.get_map().get(key.fd) is key:
                found = True  # and no callback before this one has unregistered it
                self._call_back(key.fd, key.data)
        taken = self._inbox.take()
        for caught in taken.signals:
            self._signal(caught)
        self._happened.extend(taken.events)
        self._settle()
        self.progress.woke(found or bool(taken.signals or taken.events or taken.calls))
        for call in taken.calls:
            if self._over:
                call.future.cancel()
            else:
                call.run()
        if not self._over:
            self._look(time.monotonic_ns())
            self._settle()

    def _timeout_s(self, now_ns: int) -> float:
        if self.stage is Stage.INITIALIZING:
            return 0 if self._startup.has_steps else POLL_S
        if self.stage.stopping:
            return min(POLL_S, self._stop.remaining_s(now_ns))
        next_ns = min(self._ticked_ns + TICK_NS, self._watchdog.due_ns)
        return max(0, next_ns - now_ns) / SECOND_NS

    def _call_back(self, descriptor: int, callback: Callable[[], None]) -> None:
        name = f"the callback of descriptor {descriptor}"
        self._defects.ask(name, callback, None)
        if self._defects.forget(name):  # the number may come again
            self.unregister(descriptor)

    def _signal(self, caught: Caught) -> None:
        """Tell of a signal, and let it happen."""
        received = SignalReceived(
            caught.number, caught.name, caught.pid, caught.uid, caught.command, self.stage, caught.time_ns
        )
        self._tell(received)
        event = self._presses.event(caught.number, caught.t_ns)
        if event is not None:
            self._happened.append((event, received.text()))
            self._settle()

    def _look(self, now_ns: int) -> None:
        """Conditions, deadlines, and what is done now and then."""
        stage = self.stage
        ticks = now_ns - self._ticked_ns >= TICK_NS
        if stage is Stage.INITIALIZING:
            if self._startup.go_on(now_ns - self._entered_ns, self.timing.start_s):
                self._show()
        elif stage is Stage.RUNNING:
            if ticks or now_ns >= self._watchdog.due_ns:
                self._watchdog.look(now_ns, self._defects.ask("workers", self._actions.workers, ()))
        elif stage is Stage.TERMINATING:
            self._negotiate(now_ns, "intake", self._actions.intake)
        elif stage is Stage.DRAINING:
            self._negotiate(now_ns, "backlog", self._actions.backlog)
        if ticks:
            self._ticked_ns = now_ns
            self._defects.ask("tick", self._actions.tick, None)
            self._show()

    def _negotiate(self, now_ns: int, name: str, ask: Callable[[], Sequence[Work]]) -> None:
        works = self._defects.ask(name, ask, None)
        if works is None:
            return
        outcome = self._stop.negotiate(now_ns, self.stage, works)
        if outcome is not None:
            self._happen(*outcome)

    # Events

    def _happen(self, event: Event, reason: str = "") -> None:
        self._happened.append((event, reason))

    def _settle(self) -> None:
        """Let happen all that has happened."""
        while self._happened:
            event, reason = self._happened.popleft()
            if event in FAILURES and reason:
                LOG.error("%s", reason)
            self._refused = self._refused or (event is Event.FATAL and self.stage is Stage.INITIALIZING)
            transition = self._machine.feed(event)
            if transition is None:
                LOG.debug("%s changes nothing while %s", event, self.stage)
            elif transition.moves:
                self._move(transition, reason)
            elif self.stage is Stage.RUNNING:
                self._reload(transition, reason)
            else:
                self._reload_owed = reason
                spent_s = (time.monotonic_ns() - self._entered_ns) / SECOND_NS
                self._tell(TransitionMade(*transition, f"{reason}: once it runs", spent_s, time.time_ns()))

    def _move(self, transition: Transition, reason: str) -> None:
        now_ns = time.monotonic_ns()
        spent_s = (now_ns - self._entered_ns) / SECOND_NS
        if transition.target.stopping and not transition.source.stopping:
            self._stop.caused(transition, reason)
        if transition.target is Stage.STOPPED:
            self._defects.ask("the memory of drains", lambda: self._stop.finish(transition, spent_s), None)
        self._entered_ns = now_ns
        self._tell(TransitionMade(*transition, reason, spent_s, time.time_ns()))
        self._enter(transition.target, transition.event)

    def _enter(self, stage: Stage, event: Event | None = None) -> None:
        """The entry action of ``stage``."""
        now_ns = time.monotonic_ns()
        if stage is Stage.INITIALIZING:
            self._startup.begin(self.timing.start_s)
        elif stage is Stage.RUNNING:
            stacks.unguard()
            self.notifier.ready()
            self._watchdog.begin(now_ns)
            if self._reload_owed is not None:
                self._happen(Event.HUP, self._reload_owed)
        elif stage is Stage.TERMINATING:
            self._startup.end()
            self._stop.begin(now_ns, self.timing)
            self._defects.ask("end_intake", self._actions.end_intake, None)
        elif stage is Stage.DRAINING:
            self._stop.drain(now_ns, self.timing)
            ends_ns, cap_ns = self._stop.ends_ns, self._stop.cap_ns
            self._defects.ask(
                "flush_and_publish", lambda: self._actions.flush_and_publish(ends_ns, cap_ns), None
            )
        elif stage is Stage.STOPPED:
            self._stop.end()
            self._say_goodbye(event)
        self._inbox.wake()  # what the stage waits for may be so already
        self._show()

    def _say_goodbye(self, event: Event | None) -> None:
        try:
            self._actions.say_goodbye(self._stop.ending(event, self._machine.failed))
        except Exception:
            LOG.exception("say_goodbye failed: a defect")
            self._machine.failed = True  # the table has nothing after the last stage
        self._over = True

    def _reload(self, transition: Transition, reason: str) -> None:
        """Within ``running``: whatever goes wrong, the old configuration stays and the daemon runs on."""
        begun_ns = time.monotonic_ns()
        self.notifier.reloading(begun_ns)
        self.notifier.status("reloading")
        problem: str | None = None
        try:
            self._actions.reload()
        except PlugmeterError as error:
            problem = str(error)
        except Exception as error:
            LOG.exception("the reload failed: a defect")
            problem = f"a defect, {type(error).__name__}"
        self.reload_problem = problem
        if problem is not None:
            LOG.error("reload refused, the old configuration stays: %s", problem,
                      extra=fields({"MESSAGE_ID": RELOAD_REFUSED_MESSAGE_ID}))  # fmt: skip
            reason = f"refused, the old configuration stays: {problem}"
        spent_s = (time.monotonic_ns() - self._entered_ns) / SECOND_NS
        self._tell(TransitionMade(*transition, reason, spent_s, time.time_ns()))
        self.notifier.ready()
        self._show()

    # Saying so

    def _tell(self, what: Audited) -> None:
        only = self._refused and isinstance(what, TransitionMade)
        LOG.info("%s", what.text(), extra=fields(what.fields(), only=only))
        if not self._over:  # else a signal that came too late for a record
            self._defects.ask("the audit", lambda: self._audit(what), None)

    def _show(self) -> None:
        """STATUS, and what could not be sent before."""
        self.notifier.retry()
        if self.stage is Stage.RUNNING:
            text = self._defects.ask("status", self._actions.status, "")
            problems = []
            if self.stuck:
                problems.append(f"stuck: {', '.join(self.stuck)}")
            if self.reload_problem is not None:
                problems.append(f"reload refused: {self.reload_problem}")
            self.notifier.status("; ".join([*problems, text or "running"]))
        else:
            doing = self._stop.doing if self.stage.stopping else self._startup.doing
            self.notifier.status(f"{self.stage}: {doing}" if doing else self.stage)
