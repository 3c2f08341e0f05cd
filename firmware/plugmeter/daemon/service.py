"""The daemon: lifecycle, outbox, link, runs, commands and metrics, put together; what the stages act on."""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from plugmeter import config as configuration
from plugmeter.daemon import preflight
from plugmeter.daemon.endpoint import MetricsEndpoint
from plugmeter.daemon.footprints import FILE_NAME as FOOTPRINTS_NAME
from plugmeter.daemon.footprints import LOSS as FOOTPRINTS_LOSS
from plugmeter.daemon.footprints import Footprints
from plugmeter.daemon.hearing import Message
from plugmeter.daemon.log_level import LogLevel
from plugmeter.daemon.observation import Observer, Parts
from plugmeter.daemon.operations import DaemonOperations
from plugmeter.daemon.recorder import Recorder
from plugmeter.daemon.runs import ENDING_S, KILLED_S, Runs
from plugmeter.daemon.uplink import Uplink
from plugmeter.errors import PlugmeterError, UsageError
from plugmeter.files import sweep
from plugmeter.lifecycle import journal
from plugmeter.lifecycle.actions import Ending, Timing
from plugmeter.lifecycle.allowance import Allowance
from plugmeter.lifecycle.audit import Audited, SignalReceived
from plugmeter.lifecycle.conductor import Conductor
from plugmeter.lifecycle.deadline import Work
from plugmeter.lifecycle.drains import LOSS, DrainMemory
from plugmeter.lifecycle.health import LastErrors
from plugmeter.lifecycle.pace import Pace
from plugmeter.lifecycle.scribe import WAIT_S, Scribe
from plugmeter.lifecycle.stages import Stage
from plugmeter.lifecycle.stop import LAST_S
from plugmeter.progress import Progress
from plugmeter.sections import Config
from plugmeter.telemetry.commands.journal import FILE_NAME as COMMANDS_NAME
from plugmeter.telemetry.commands.journal import Journal
from plugmeter.telemetry.commands.message import Verify
from plugmeter.telemetry.commands.operator import Operator
from plugmeter.telemetry.commands.signing import PublicKey, load_public_key
from plugmeter.telemetry.desired import Outcome
from plugmeter.telemetry.desired_keeper import FILE_NAME, DesiredKeeper
from plugmeter.telemetry.outbox import CLOSING_S, DATABASE_NAME, Outbox, limits_of
from plugmeter.telemetry.owner import this_owner
from plugmeter.telemetry.topics import Topics, device_of

LOG: Final = logging.getLogger("plugmeter.daemon")

SUMMARY_S: Final = 5
DRAIN_COMMIT_S: Final = 0.02
"""How far apart the outbox commits while draining, at most."""
HEALTH_S: Final = 900
"""How often the snapshot of a daemon that goes on is written: seldom, for the card's sake."""
_WIDE_BYTES: Final = 1 << 40
_FLUSH_TURN_S: Final = 0.005
_FOOTPRINTS_S: Final = 0.2
_CLOSE_S: Final = 2.0
"""What the last commit may take; all before it is on the disk already."""
_OUTBOX_S: Final = _CLOSE_S + CLOSING_S + WAIT_S
_ENDPOINT_S: Final = 0.1
_OPERATOR_S: Final = 0.5
_CLOSING_S: Final = _ENDPOINT_S + _OPERATOR_S + _OUTBOX_S
"""What is kept for closing, whatever comes before it."""
_PARTING_S: Final = 2.5
"""What is kept for the goodbye where a run's process does not end."""


class Service:
    """Implements lifecycle.actions.Actions. Made and run in the main thread."""

    def __init__(self, path: Path | None, config: Config) -> None:
        """``path`` is the configuration's file, read again with SIGHUP; ``config`` what it means now."""
        self._path = path
        self._config = config
        self._state = Path(config.daemon.state_directory)
        self._recorder = Recorder()
        self._scribe = Scribe(LOG.warning)
        self._errors = LastErrors()
        logging.getLogger().addHandler(self._errors)
        self._signals: Counter[str] = Counter()
        self._why = ""
        """What began the stop."""
        self._device = config.daemon.device or device_of(socket.gethostname())
        self._log_level = LogLevel()
        self._endpoint = MetricsEndpoint()
        # What the start makes, in this order; a stop may come before it has.
        self._outbox: Outbox | None = None
        self._desired: DesiredKeeper | None = None
        self._journal: Journal | None = None
        self._runs: Runs | None = None
        self._uplink: Uplink | None = None
        self._operator: Operator | None = None
        self._observer: Observer | None = None
        self._ticks = 0
        self._stopping = False
        self._flushed = False
        """Whether all that was there when the drain began is on the disk."""
        self._pace = Pace()
        self._conductor = Conductor(
            self,
            _timing(config),
            drains=DrainMemory(
                self._state / "drains.json",
                LOG.warning,
                lambda path, data: self._scribe.write(path, data, LOSS),
            ),
            audit=self._audit,
        )

    def run(self) -> int:
        """From the first stage to the last; the exit status."""
        return self._conductor.run()

    # -- Actions: the stages --------------------------------------------------------------------

    def start(self) -> Iterator[str]:
        """Bring everything up."""
        yield "opening the outbox"
        limits, owner = limits_of(self._config.outbox), this_owner(self._device)
        # Which limits hold is known only below; until then nothing is to go for the sake of the file's.
        wide = replace(limits, max_bytes=max(limits.max_bytes, _WIDE_BYTES), max_age_ns=0)
        outbox = Outbox(self._state / DATABASE_NAME, wide, LOG.warning, owner=owner)
        self._outbox = outbox  # from here on the state directory is ours alone
        sweep(self._state)
        self._recorder.attach(outbox)
        outbox.on_commit(self._conductor.wake)
        yield "looking for a configuration that is on trial"
        base, key = self._config, _public_key(self._config)
        desired = self._desired = self._new_keeper(base, key)
        config = self._config = desired.start()
        is_own = config == base
        self._conductor.timing = _timing(config)
        if config.daemon.log_level != base.daemon.log_level:  # the file's is in effect already
            journal.set_level(config.daemon.log_level)
        outbox.set_limits(limits_of(config.outbox))
        outbox.start()
        if desired.set_aside is not None:
            LOG.warning("what was kept of desired configurations is damaged: it is set aside as %s",
                        desired.set_aside)  # fmt: skip
        yield "opening the journal of commands"
        commands = self._journal = Journal(self._state / COMMANDS_NAME, time.time_ns(), tell=LOG.warning)
        yield "starting the metrics"
        runs = self._runs = Runs(self._conductor, outbox, config)
        uplink = self._uplink = self._new_uplink(outbox, owner.machine, runs, desired)
        operations = DaemonOperations(
            self._conductor,
            runs,
            desired,
            self._log_level,
            is_stopping=lambda: self._stopping,
            is_signed=lambda command_id: _is_signed(commands, command_id),
        )
        operator = self._operator = self._new_operator(
            commands, base.commands.accept, key, uplink, operations
        )
        self._observer = Observer(
            Parts(
                device=self._device,
                conductor=self._conductor,
                recorder=self._recorder,
                errors=self._errors,
                signals=self._signals,
                outbox=outbox,
                desired=desired,
                runs=runs,
                uplink=uplink,
                operator=operator,
                endpoint=self._endpoint,
            ),
            config,
            self._state,
            self._scribe,
        )
        with _blamed(is_own):
            self._endpoint.open(config.daemon.metrics, self._observer.pages)
        yield "starting the run"
        # What came from afar must not keep the controller from mending it: then there is no run for now.
        runs.start(needed=is_own)
        yield "connecting to the broker"
        with _blamed(is_own):
            uplink.open()
        operator.recover()

    def ready(self) -> bool:
        """Whether the witnesses are bound and the first coldplug scan is in; or, with a configuration from
        afar, whether it is known that they cannot be."""
        return self._runs is not None and self._runs.is_up

    def reload(self) -> None:
        """The file anew: all of it good, or none of it in effect."""
        if self._path is None:
            raise PlugmeterError("there is no configuration file to read again")
        base = configuration.load(self._path, again=True)
        key = _public_key(base)
        assert self._desired is not None and self._operator is not None and self._uplink is not None
        # From its beginning: the link may be connected anew before all of it is applied.
        before, since_ns = self._uplink.link, time.monotonic_ns()
        self._adopt(self._desired.preview(base), forgiving=True)
        if self._desired.rebase(base, _verify(key), since_ns):
            self._uplink.prove(before)
        self._operator.configure(base.commands.accept, key)
        self._uplink.publish_meta()

    def end_intake(self) -> None:
        """No new commands, no new runs; the one under way ends with its report. Probes find no listener."""
        self._stopping = True
        if self._operator is not None:
            self._operator.close(0.0)
        if self._runs is not None:
            self._runs.close()
        self._endpoint.close(0.5)  # the run needs as long to end, while a request is waited for

    def intake(self) -> Sequence[Work]:
        """What the run has still to say."""
        if self._runs is None or self._runs.is_over:
            return ()
        return (Work("run to end", 1, ENDING_S),)

    def flush_and_publish(self, ends_ns: int, cap_ns: int) -> None:
        """What is here goes to disk, and from there to the controller while there is time."""
        if self._runs is not None:
            self._runs.kill()  # one that has not ended by itself has had its time
        if self._observer is not None:
            self._observer.tell_health(self._why[:1000])
        if self._outbox is not None:
            # From here on each acknowledgement is waited for; grouping them for the card's sake would cost
            # the end of the drain the rest of an interval.
            limits = limits_of(self._config.outbox)
            interval_s = min(limits.commit_interval_s, DRAIN_COMMIT_S)
            self._outbox.set_limits(replace(limits, commit_interval_s=interval_s))
            self._outbox.hasten()
        if self._uplink is not None:
            self._uplink.drain(cap_ns)

    def backlog(self) -> Sequence[Work]:
        """What is not on the disk yet, and what the controller has still to acknowledge."""
        outbox = self._outbox
        if outbox is None:
            return ()
        works = []
        # A little at a time: a disk that does not take it must not keep the conductor from its signals.
        if not self._flushed:
            self._flushed = outbox.flush(_FLUSH_TURN_S)
        if not self._flushed:
            # A disk that does not take them now will not with more time.
            works.append(Work("records to write to the disk", max(1, outbox.uncommitted()), wants_time=False))
        if self._uplink is not None and self._uplink.link is not None:
            pending = outbox.pending_now()
            expected_s = self._pace.expected_s(time.monotonic_ns(), pending)
            works.append(Work("records to publish", pending, expected_s))
        return works

    def say_goodbye(self, ending: Ending) -> None:
        """The death on purpose, then the snapshot, and everything closed; the outbox last. The disk may hang
        at any time, so all that waits for it is done in other threads, at the same time."""
        self._stopping = True
        allowance = Allowance(LAST_S)
        if self._runs is not None:
            self._runs.kill(allowance.share_s(KILLED_S, _PARTING_S + _CLOSING_S))
        if self._observer is not None:
            self._observer.tell_health(self._why[:1000])
        if self._uplink is not None:
            self._uplink.say_goodbye(ending.reason, ending.goodbye_s, allowance.within(_CLOSING_S))
        if self._observer is not None:  # else it never came so far: what the last life left stays
            self._observer.note_drain(ending.drain)
            self._observer.write_health(ending.reason)
        self._endpoint.close(allowance.share_s(_ENDPOINT_S, _OUTBOX_S))
        if self._operator is not None:
            self._operator.close(allowance.share_s(_OPERATOR_S, _OUTBOX_S))
        if self._journal is not None:
            self._scribe.do("the journal of commands", self._journal.close)
        close_s = allowance.share_s(_CLOSE_S, CLOSING_S + WAIT_S)
        closing_until = time.monotonic() + close_s
        if self._outbox is not None:
            # What could not be written until now has had its time.
            self._outbox.close(0.0 if self._outbox.trouble else close_s)
        self._scribe.wait(max(WAIT_S, closing_until - time.monotonic()))

    # -- Actions: all the time ------------------------------------------------------------------

    def tick(self) -> None:
        """Once a second."""
        self._ticks += 1
        if self._runs is not None:
            self._runs.tick()
        if self._conductor.stage is Stage.RUNNING:
            self._look()
        self._log_level.tick(self._config.daemon.log_level)
        if self._uplink is not None:
            self._uplink.tick()
            if self._ticks % SUMMARY_S == 0:
                if self._observer is not None:
                    self._uplink.publish_summary(self._observer.figures)
                self._uplink.refresh()
        if self._ticks % HEALTH_S == 0 and self._observer is not None:
            self._observer.write_health("it was time")

    def status(self) -> str:
        """A line for ``systemctl status``."""
        if self._observer is None:
            return "starting"
        return self._observer.headline()

    def workers(self) -> Iterable[Progress]:
        """Those that have to move."""
        return () if self._observer is None else self._observer.workers()

    # -- inside ---------------------------------------------------------------------------------

    def _audit(self, what: Audited) -> None:
        if isinstance(what, SignalReceived):
            self._signals[what.name] += 1
        elif what.target.stopping and not self._why:
            self._why = what.reason or what.event
        self._recorder.keep(what.KIND, what.data(), what.time_ns)

    def _new_keeper(self, base: Config, key: PublicKey | None) -> DesiredKeeper:
        return DesiredKeeper(
            self._state / FILE_NAME,
            base,
            device=self._device,
            verify=_verify(key),
            apply=self._try,
            publish=self._report,
            record=self._recorder.keep,
            tell=LOG.log,
        )

    def _new_uplink(self, outbox: Outbox, machine: str, runs: Runs, desired: DesiredKeeper) -> Uplink:
        return Uplink(
            self._device,
            self._config,
            outbox,
            runs,
            self._recorder,
            Footprints(self._state / FOOTPRINTS_NAME, machine, LOG.warning, self._write_footprints),
            reported=desired.report,
            command=self._command,
            desire=self._desire,
            call=self._conductor.call,
        )

    def _write_footprints(self, path: Path, data: bytes) -> None:
        """Before they are left, if the disk is quick."""
        self._scribe.write(path, data, FOOTPRINTS_LOSS)
        self._scribe.wait(_FOOTPRINTS_S)

    def _new_operator(
        self,
        commands: Journal,
        accept: Collection[str],
        key: PublicKey | None,
        uplink: Uplink,
        operations: DaemonOperations,
    ) -> Operator:
        return Operator(
            commands,
            Topics(self._device),
            self._device,
            accept,
            key,
            operations,
            uplink.answer,
            self._recorder.keep,
            withdrawn=uplink.withdraw,
        )

    def _report(self, payload: bytes) -> None:
        """What became of a desired configuration. The uplink asks for it itself where it comes later."""
        if self._uplink is not None:
            self._uplink.publish_reported(payload)

    def _command(self, message: Message) -> None:
        if self._operator is not None:
            self._operator.handle(message)

    def _desire(self, payload: bytes) -> None:
        if self._desired is not None and not self._stopping:
            self._desired.desire(payload)

    def _adopt(self, new: Config, *, forgiving: bool = False) -> None:
        """Put a configuration into effect. PlugmeterError: the old one is, still, all of it. ``forgiving``:
        an open breaker is closed."""
        old = self._config
        for name in ("device", "state_directory"):
            if getattr(new.daemon, name) != getattr(old.daemon, name):
                raise UsageError(f"daemon.{name} changes with a restart only: systemctl restart plugmeter")
        settings = preflight.check(new, self._device, LOG.warning)
        change_endpoint = self._endpoint.prepare(new.daemon.metrics)
        # From here on nothing fails: no file is read, and what is to run was seen to be possible.
        self._config = new
        self._conductor.timing = _timing(new)
        if self._runs is not None and _measures_otherwise(old, new):
            self._runs.configure(new)
        if self._outbox is not None:
            self._outbox.set_limits(limits_of(new.outbox))
        if new.daemon.log_level != old.daemon.log_level:
            journal.set_level(new.daemon.log_level)
        change_endpoint()
        if self._observer is not None:
            self._observer.configure(new)
        if self._uplink is not None:
            self._uplink.configure(new, settings, forgiving=forgiving)

    def _try(self, new: Config) -> None:
        """As ``_adopt``, for a configuration from afar: the controller has to be reached with it."""
        before = self._uplink.link if self._uplink is not None else None
        self._adopt(new)
        # What is in effect for good was proved: then only limits that had to wait for that have changed.
        settled = self._desired is not None and self._desired.standing.outcome is Outcome.IN_EFFECT
        if self._uplink is not None and not settled:
            self._uplink.prove(before)

    def _look(self) -> None:
        """Once a second, while running."""
        if self._observer is not None:
            self._observer.look()
        self._endpoint.tick()
        if self._uplink is not None and self._desired is not None:
            reached_ns = self._uplink.reached_since_ns()
            if reached_ns is not None:
                self._desired.reached(reached_ns)
            self._uplink.look()
            self._desired.tick()


@contextmanager
def _blamed(is_own: bool) -> Iterator[None]:
    """A mistake is one of the device's own file only if nothing from afar is in effect: the service manager
    takes exit status 2 for one that only a person can mend, and never starts the device again."""
    try:
        yield
    except UsageError as error:
        if is_own:
            raise
        raise PlugmeterError(str(error)) from error


def _public_key(config: Config) -> PublicKey | None:
    """Of who may command. Raises UsageError."""
    name = config.commands.public_key_file
    return load_public_key(Path(name)) if name else None


def _is_signed(commands: Journal, command_id: str) -> bool:
    """Whether its signature was checked when it came in: a key that came later says nothing of it."""
    entry = commands.find(command_id)
    return entry is not None and entry.signed


def _verify(key: PublicKey | None) -> Verify | None:
    return key.verify if key is not None else None


def _timing(config: Config) -> Timing:
    lifecycle = config.lifecycle
    return Timing(lifecycle.start_s, lifecycle.drain_s, lifecycle.stop_cap_s)


def _measures_otherwise(old: Config, new: Config) -> bool:
    """Whether a run would be another one."""
    sections = ("run", "witnesses", "netlink", "udev", "inotify", "gpio", "ports", "rig")
    return any(getattr(old, name) != getattr(new, name) for name in sections) or (
        (old.daemon.rig, old.daemon.run_minutes, old.daemon.records)
        != (new.daemon.rig, new.daemon.run_minutes, new.daemon.records)
    )
