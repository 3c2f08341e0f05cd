"""The runs: one after the other, each in a process of its own, and what they tell."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Protocol

from plugmeter.errors import PlugmeterError
from plugmeter.lifecycle.figures import RunFigures
from plugmeter.lifecycle.samples import RunSample
from plugmeter.reporting import words
from plugmeter.runner import wire
from plugmeter.runner.drafts import drafts
from plugmeter.runner.parent import Runner
from plugmeter.runner.plans import plan_of
from plugmeter.sections import Config
from plugmeter.telemetry.record import Draft

LOG: Final = logging.getLogger("plugmeter.runs")

AGAIN_S: Final = 1.0
AGAIN_LIMIT_S: Final = 60.0
"""A run that failed is tried again after a second, and after twice as long each time it fails again. One
that had lasted for the longer of the two failed for the first time."""
ENDING_S: Final = 1.5
"""What a run takes that is told to end: a second for what is under way, and its report."""
ENDING_LIMIT_S: Final = 30.0
"""One that takes longer hangs, whatever its signs of life say."""
KILLED_S: Final = 5.0
"""What is waited for the end of one that is killed: the kernel may be in the middle of something for it."""


class Loop(Protocol):
    """What the conductor offers, as far as runs need it."""

    def register(self, descriptor: int, callback: Callable[[], None]) -> None: ...
    def unregister(self, descriptor: int) -> None: ...
    def wake(self) -> None: ...


class Sink(Protocol):
    """The outbox, as far as runs need it."""

    def offer(self, draft: Draft, *, wait_s: float = 0.0) -> bool: ...
    @property
    def crowded(self) -> bool:
        """Whether it is better not to offer more just now."""
        ...


@dataclass(frozen=True, slots=True)
class _Asked:
    """The run that a command wants, for when the one under way has ended."""

    arguments: Mapping[str, object]
    future: Future[dict[str, Any]]
    run_id: str
    command_id: str


class Runs:
    """All methods are the main thread's; ``figures`` may be read by any.

    There is a standing run, that of the configuration: when it ends, the next one begins. A run that a
    command asks for takes its place once.
    """

    def __init__(self, loop: Loop, sink: Sink, config: Config) -> None:
        self._loop = loop
        self._sink = sink
        self._config = config
        self._runner: Runner | None = None
        self._listening = False
        self._asked: _Asked | None = None
        """The run that comes next instead of the standing one."""
        self._suspended = False
        """A command has ended the standing run, and none has begun another since."""
        self._was_up = False
        self._needed = True
        """See ``start``."""
        self._begun_ns = 0
        """When the run under way was started."""
        self._told_ns = 0
        """When it was first told to end; 0: it was not."""
        self._closing = False
        self._unkillable = False
        """Somebody has waited in vain for the end of the run under way."""
        self._again_s = AGAIN_S
        self._again_at_ns = 0
        self._state = "none"
        self._ready: wire.Ready | None = None
        self._failure: wire.Failure | None = None
        self._failures = 0
        """In a row: see RunSample."""
        self._failing_since_ns = 0
        self._why_failed = ""
        self._finished_episodes: Counter[str] = Counter()
        self._finished_lost: Counter[str] = Counter()
        self._last: wire.Progress | None = None
        self._verdict: tuple[str, str] = ("", "")
        self._begun: list[Future[dict[str, Any]]] = []
        """Who waits for the run under way to be ready."""
        self._resyncs: list[Future[dict[str, Any]]] = []
        self._command_id: str | None = None
        """Of the command that asked for the run under way."""
        self.run_id = ""
        self.rig = ""
        self.figures = RunFigures()
        self.discards: Counter[str] = Counter()

    # -- what the daemon asks for ---------------------------------------------------------------

    def start(self, *, needed: bool = True) -> None:
        """Begin the standing run, if the configuration has one.

        ``needed``: what it fails of ends the daemon's start. Raises UsageError for what the configuration
        says, PlugmeterError. Otherwise it raises nothing, and what fails is tried again as ever.
        """
        self._needed = needed
        if self._stands:
            if needed:
                self._begin(None)
            else:
                self._next()

    @property
    def is_up(self) -> bool:
        """Whether the witnesses were bound once; also where there is no run to be made, or where one that is
        not needed has failed.

        Raises PlugmeterError with what the first run failed of, if it was needed. Never UsageError, whatever
        the run's process called it: that a GPIO line is not there, or taken, may be another time.
        """
        if self._was_up or not self._stands:
            return True
        if not self._needed:
            return self._failures > 0
        if self._failure is not None:
            raise PlugmeterError(self._failure.reason)
        return False

    @property
    def standing_rig(self) -> str:
        """That of the configuration, "none" among them. Any thread may ask."""
        return self._config.daemon.rig

    @property
    def is_over(self) -> bool:
        """Whether nothing can come any more."""
        return self._runner is None

    @property
    def runner(self) -> Runner | None:
        """The run that is under way."""
        return self._runner

    @property
    def watched(self) -> Runner | None:
        """The same, but none while it waits for us: what is not read can show no sign of life."""
        return self._runner if self._listening else None

    @property
    def ready(self) -> wire.Ready | None:
        """What the run under way said of itself."""
        return self._ready

    def close(self) -> None:
        """Take nothing new: the run under way ends, with its report, and no other one begins."""
        self._closing = True
        self._state = "ending"
        if self._asked is not None and self._asked.future.cancel():  # it has not failed: see Interrupted
            self._asked.future.set_running_or_notify_cancel()
            self._asked = None
        self._drop_asked("the daemon is stopping")
        self._refuse_waiting("the daemon is stopping")
        self._end()

    def kill(self, limit_s: float = KILLED_S) -> None:
        """Whatever is left of a run, at once; no other one begins. Waits no longer than ``limit_s`` for its
        end, and not at all for what was waited for in vain already."""
        self._closing = True
        until = time.monotonic() + (0.0 if self._unkillable else limit_s)
        while self._runner is not None:
            self._runner.kill()
            self._take_all(self._runner)
            if self._runner is None or time.monotonic() >= until:
                break
            time.sleep(0.005)
        if self._runner is not None and not self._unkillable:
            self._unkillable = True
            LOG.error("run %s: its process does not end when it is killed; it is left behind", self.run_id)

    def configure(self, config: Config) -> None:
        """Another configuration: the standing run ends and begins anew with it. Raises what ``plan_of`` does,
        and then nothing has changed."""
        if config.daemon.rig != "none":
            plan_of(config, {})
        self._config = config
        self._begin_row()
        if self._runner is not None:
            self._end()
        elif not self._closing:
            self._next()

    def replace(
        self, arguments: Mapping[str, object], begun: Future[dict[str, Any]], run_id: str, command_id: str
    ) -> None:
        """Begin a run as a command wants it, instead of the one under way. ``begun`` tells how it began. It
        can be cancelled as long as the run has not been begun; then it never is. Raises PlugmeterError for
        one that cannot be, and then nothing has changed. Whether the machine grants what its rig needs
        (``means``) the caller has asked, for that takes time."""
        plan_of(self._config, arguments)
        asked = _Asked(dict(arguments), begun, run_id, command_id)
        self._drop_asked("another start-run came after it")
        if self._runner is None:
            if not begun.set_running_or_notify_cancel():
                return
            self._begin(asked)
            self._begun.append(begun)
        else:
            self._asked = asked
            self._end()
        self._suspended = False

    def suspend(self) -> None:
        """End the run under way; the standing one stays ended until a command begins one."""
        self._suspended = True
        self._drop_asked("a stop-run came after it")
        self._again_at_ns = 0
        self._begin_row()
        if self._runner is None:
            self._state = "none"
        self._end()

    def resync(self) -> Future[dict[str, Any]]:
        """A coldplug scan now. Raises PlugmeterError where no run is under way."""
        if self._runner is None or self._ready is None:
            raise PlugmeterError("no run is under way; begin one with start-run")
        future: Future[dict[str, Any]] = Future()
        self._resyncs.append(future)
        self._runner.resync()
        return future

    def tick(self) -> None:
        """Once a second: a failed run's next try; listening again where the outbox has room."""
        now_ns = time.monotonic_ns()
        if self._runner is not None and not self._listening:
            self._listen()
        lasts = self._runner is not None and self._ready is not None
        if lasts and now_ns - self._begun_ns >= AGAIN_LIMIT_S * 1e9:
            self._begin_row()
        if self._runner is not None and self._told_ns and now_ns - self._told_ns >= ENDING_LIMIT_S * 1e9:
            LOG.error("run %s was told to end and does not: it is killed", self.run_id)
            self._runner.kill()
        waits = self._runner is None and not self._closing and self._again_at_ns
        if waits and now_ns >= self._again_at_ns:
            self._next()
        self._figure()

    def sample(self) -> RunSample:
        """For the self-diagnosis."""
        return RunSample(self._failures, self._failing_since_ns, self._why_failed)

    # -- one run --------------------------------------------------------------------------------

    @property
    def _stands(self) -> bool:
        return self._config.daemon.rig != "none" and not self._suspended

    def _begin(self, asked: _Asked | None) -> None:
        """The standing run, or one that is asked for."""
        config, plan = plan_of(self._config, asked.arguments if asked else {})
        runner = Runner(config, plan, run_id=asked.run_id if asked else None)
        try:
            runner.start()
        except PlugmeterError:
            runner.close()
            raise
        self._runner = runner
        self._command_id = asked.command_id if asked else None
        self.run_id, self.rig = runner.run_id, plan.rig
        self._ready = self._failure = None
        self._begun_ns, self._told_ns = time.monotonic_ns(), 0
        self._again_at_ns = 0
        self._state = "starting"
        self._listen()
        self._figure()

    def _end(self) -> None:
        """Have the run under way end, with its report."""
        if self._runner is not None:
            self._told_ns = self._told_ns or time.monotonic_ns()
            self._runner.stop()

    def _listen(self) -> None:
        if self._runner is not None and not self._listening and not self._sink.crowded:
            self._listening = True
            self._loop.register(self._runner.fileno(), self._heard)

    def _hush(self) -> None:
        """Leave what the run says where it is: its own process waits then, and the kernel counts."""
        if self._listening and self._runner is not None:
            self._loop.unregister(self._runner.fileno())
        self._listening = False

    def _heard(self) -> None:
        if self._sink.crowded:
            self._hush()  # until the next tick
        elif self._runner is not None:
            self._take_all(self._runner)

    def _take_all(self, runner: Runner) -> None:
        for message in runner.read():
            self._take(runner, message)

    def _take(self, runner: Runner, message: wire.Message) -> None:
        for draft in drafts(runner.run_id, message, time.time_ns(), self._command_id):
            self._sink.offer(draft)
        match message:
            case wire.Note(text):
                LOG.warning("%s", text)
            case wire.Ready():
                self._ready = message
                self._was_up = True
                if not self._closing:
                    self._state = "running"
                self._tell_begun({"run": runner.run_id, "rig": message.rig, "ports": list(message.ports)})
                self._loop.wake()
            case wire.Progress():
                self._last = message
            case wire.Resynced(t_ns, devices):
                self._tell_resynced(t_ns, devices)
            case wire.Finished(report):
                LOG.info("run %s: %s", runner.run_id, words.verdict(report))
                self._account(report)
            case wire.Failure():
                self._failure = message
                self._state = "failed"
                # Of the first run the conductor tells, if it ends the start.
                level = logging.DEBUG if self._needed and not self._was_up else logging.ERROR
                LOG.log(level, "run %s failed: %s", runner.run_id, message.reason)
                self._refuse_waiting(message.reason)
            case wire.Ended():
                self._over(runner)

    def _over(self, runner: Runner) -> None:
        self._hush()
        self.discards.update({f"runner_{name}": count for name, count in runner.counters.items()})
        runner.close()
        self._runner = None
        self._last = None
        self._refuse_waiting("the run has ended")
        self._loop.wake()
        if self._closing:
            return
        if self._failure is None or time.monotonic_ns() - self._begun_ns >= AGAIN_LIMIT_S * 1e9:
            self._begin_row()
        if self._failure is not None:
            self._try_again(self._failure.reason)
        else:
            self._next()

    def _next(self) -> None:
        self._again_at_ns = 0
        asked, self._asked = self._asked, None
        if asked is not None and not asked.future.set_running_or_notify_cancel():
            asked = None  # called off
        if asked is None and not self._stands:
            self._state = "none"
            return
        try:
            self._begin(asked)
        except PlugmeterError as error:
            LOG.error("no run can be begun: %s", error)
            if asked is not None:
                asked.future.set_exception(error)
            self._try_again(str(error))
            return
        if asked is not None:
            self._begun.append(asked.future)

    def _try_again(self, reason: str) -> None:
        self._state = "failed"
        self._failures += 1
        self._why_failed = reason
        if self._failures == 1:
            self._failing_since_ns = time.monotonic_ns()
        self._again_at_ns = time.monotonic_ns() + int(self._again_s * 1e9)
        self._again_s = min(2 * self._again_s, AGAIN_LIMIT_S)
        self._figure()

    def _begin_row(self) -> None:
        """The next failure is the first one."""
        self._again_s = AGAIN_S
        self._failures = 0

    # -- what is told of it ---------------------------------------------------------------------

    def _account(self, report: Mapping[str, Any]) -> None:
        """The run is over: its figures count from now on, as the report has them."""
        for outcome in ("matched", "late", "ambiguous"):
            self._finished_episodes[outcome] += report[outcome]
        for stage, count in report["lost"].items():
            self._finished_episodes["lost"] += count
            self._finished_lost[stage] += count
        self._last = None
        valid = bool(report["certificate"]["valid"])
        self._verdict = ("valid" if valid else "invalid", words.verdict(report))
        self._figure()

    def _figure(self) -> None:
        now = self._last
        episodes, lost = Counter(self._finished_episodes), Counter(self._finished_lost)
        current_lost = sum(now.lost.values()) if now else 0
        if now is not None:
            episodes.update(matched=now.matched, late=now.late, ambiguous=now.ambiguous, lost=current_lost)
            lost.update(now.lost)
        self.figures = RunFigures(
            state=self._state,
            rig=self.rig,
            expected=now.expected if now else 0,
            matched=now.matched if now else 0,
            late=now.late if now else 0,
            lost=current_lost,
            certificate=self._verdict[0],
            verdict=self._verdict[1],
            failure=self._why_failed if self._failures and self._state in ("failed", "starting") else "",
            episodes_total=dict(episodes),
            lost_total=dict(lost),
            witnesses={
                name: {
                    "offered": count.offered,
                    "delivered": count.delivered,
                    "lost": count.lost,
                    "pending": count.pending,
                }
                for name, count in (now.witnesses.items() if now else ())
            },
        )

    def _tell_begun(self, result: dict[str, Any]) -> None:
        begun, self._begun = self._begun, []
        for future in begun:
            future.set_result(result)

    def _tell_resynced(self, t_ns: int, devices: int | None) -> None:
        resyncs, self._resyncs = self._resyncs, []
        for future in resyncs:
            if not future.set_running_or_notify_cancel():
                continue  # nobody waits any more
            if devices is None:
                future.set_exception(PlugmeterError("the scan could not be made"))
            else:
                future.set_result({"devices": devices, "t_ns": t_ns})

    def _drop_asked(self, reason: str) -> None:
        asked, self._asked = self._asked, None
        if asked is not None and asked.future.set_running_or_notify_cancel():
            asked.future.set_exception(PlugmeterError(reason))

    def _refuse_waiting(self, reason: str) -> None:
        """Who waits for something of the run under way waits in vain."""
        waiting = [*self._begun, *(each for each in self._resyncs if each.set_running_or_notify_cancel())]
        self._begun, self._resyncs = [], []
        for future in waiting:
            future.set_exception(PlugmeterError(reason))
