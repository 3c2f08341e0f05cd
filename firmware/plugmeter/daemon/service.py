"""The daemon: lifecycle, outbox, link, runs, commands and metrics, put together; what the stages act on."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from plugmeter import config as configuration
from plugmeter.daemon import documents, preflight
from plugmeter.daemon.hearing import Hearing
from plugmeter.daemon.observation import Observer
from plugmeter.daemon.operations import DaemonOperations
from plugmeter.daemon.recorder import Recorder
from plugmeter.daemon.runs import ENDING_S, Runs
from plugmeter.errors import PlugmeterError, UsageError
from plugmeter.lifecycle import journal
from plugmeter.lifecycle.actions import Drained, Ending, Timing
from plugmeter.lifecycle.address import parse_address
from plugmeter.lifecycle.audit import Audited, SignalReceived
from plugmeter.lifecycle.conductor import Conductor
from plugmeter.lifecycle.deadline import Work
from plugmeter.lifecycle.drains import DrainMemory
from plugmeter.lifecycle.health import Drain, LastErrors, read_health, with_drain, write_health
from plugmeter.lifecycle.http import MetricsServer
from plugmeter.lifecycle.pace import Pace
from plugmeter.lifecycle.stages import Event, Stage
from plugmeter.progress import Progress
from plugmeter.sections import Config
from plugmeter.telemetry import acks, discovery, envelope
from plugmeter.telemetry.commands.journal import FILE_NAME as COMMANDS_NAME
from plugmeter.telemetry.commands.journal import Journal
from plugmeter.telemetry.commands.message import Verify
from plugmeter.telemetry.commands.operator import Operator
from plugmeter.telemetry.commands.signing import PublicKey, load_public_key
from plugmeter.telemetry.desired_keeper import FILE_NAME, DesiredKeeper
from plugmeter.telemetry.link import Link, LinkSettings, LinkState
from plugmeter.telemetry.outbox import DATABASE_NAME, Outbox, limits_of
from plugmeter.telemetry.topics import Topics, device_of

LOG: Final = logging.getLogger("plugmeter.daemon")

Result = TypeVar("Result")

SUMMARY_S: Final = 5
DRAIN_COMMIT_S: Final = 0.02
"""How far apart the outbox commits while draining, at most."""
HEALTH_S: Final = 900
"""How often the snapshot of a daemon that goes on is written: seldom, for the card's sake."""
_COURTESY_S: Final = 0.5
_NO_TIME_S: Final = 0.02
_ANSWERS_NS: Final = 200_000_000
"""A broker that owes an answer for longer may be dead."""
_FLUSH_TURN_S: Final = 0.005
_CLOSE_S: Final = 2.0
"""What the last commit may take; all before it is on the disk already."""


class Service:
    """Implements lifecycle.actions.Actions. Made and run in the main thread."""

    def __init__(self, path: Path | None, config: Config) -> None:
        """``path`` is the configuration's file, read again with SIGHUP; ``config`` what it means now."""
        self._path = path
        self._base = config
        self._config = config
        self._state = Path(config.daemon.state_directory)
        self._recorder = Recorder()
        self._errors = LastErrors()
        logging.getLogger().addHandler(self._errors)
        self.signals: Counter[str] = Counter()
        self.drains: tuple[Drain, ...] = ()
        """The last stops, of earlier lives too; the oldest first."""
        self.drain_counts: Counter[str] = Counter()
        self._why = ""
        """What began the stop."""
        self._told_health = False
        self._outbox: Outbox | None = None
        self._link: Link | None = None
        self._runs: Runs | None = None
        self._operator: Operator | None = None
        self._journal: Journal | None = None
        self._desired: DesiredKeeper | None = None
        self._metrics: MetricsServer | None = None
        self._metrics_trouble = ""
        self._served_before: Counter[str] = Counter()
        """Of metrics servers that are no more."""
        self._observer: Observer | None = None
        self._key: PublicKey | None = None
        self._told_meta = b""
        self._told_stream = ""
        self._log_until_ns = 0
        self._ticks = 0
        self._plugger: tuple[str, tuple[str, ...]] | None = None
        self._stopping = False
        self._flushed = False
        """Whether all that was there when the drain began is on the disk."""
        self._pace = Pace()
        self.device = config.daemon.device or device_of(socket.gethostname())
        self._topics = Topics(self.device)
        self.conductor = Conductor(
            self,
            _timing(config),
            drains=DrainMemory(self._state / "drains.json", LOG.warning),
            audit=self._audit,
        )
        self._hearing = Hearing(
            self._topics,
            command=lambda message: self._operator.handle(message) if self._operator is not None else None,
            desire=self._desire,
            birth=self._publish_meta,  # Home Assistant has started: it wants to hear of us again
            call=self.conductor.call,
        )

    def run(self) -> int:
        """From the first stage to the last; the exit status."""
        return self.conductor.run()

    # -- Actions: the stages --------------------------------------------------------------------

    def start(self) -> Iterator[str]:
        """Bring everything up."""
        yield "opening the outbox"
        outbox = Outbox(self._state / DATABASE_NAME, limits_of(self._config.outbox), LOG.warning)
        self._outbox = outbox
        self._recorder.attach(outbox)
        outbox.on_commit(self.conductor.wake)
        outbox.start()
        before, _ = read_health(self._state)
        if before is not None:
            self.drains = before.drains
            self.drain_counts.update(before.drain_counts)
        yield "looking for a configuration that is on trial"
        self._desired = self._new_keeper()
        self._config = self._desired.start()
        if self._desired.set_aside is not None:
            LOG.warning("what was kept of desired configurations is damaged: it is set aside as %s",
                        self._desired.set_aside)  # fmt: skip
        yield "opening the journal of commands"
        self._journal = Journal(self._state / COMMANDS_NAME, time.time_ns(), tell=LOG.warning)
        yield "starting the metrics"
        self._observer = Observer(self)
        self._open_metrics()
        yield "starting the run"
        self._runs = Runs(self.conductor, outbox, self._config)
        self._runs.start()
        yield "connecting to the broker"
        self._operator = self._new_operator()
        if self._config.mqtt.host:
            self._open_link()
        self._operator.recover()

    def ready(self) -> bool:
        """Whether the witnesses are bound and the first coldplug scan is in."""
        return self._runs is not None and self._runs.is_up

    def reload(self) -> None:
        """The file anew: all of it good, or none of it in effect."""
        if self._path is None:
            raise PlugmeterError("there is no configuration file to read again")
        base = configuration.load(self._path, again=True)
        key = _public_key(base)
        assert self._desired is not None and self._operator is not None
        self._adopt(self._desired.preview(base), forgiving=True)
        self._base, self._key = base, key
        self._desired.rebase(base, _verify(key))
        self._operator.configure(base.commands.accept, key)
        if self._link is not None:
            self._publish_meta()

    def end_intake(self) -> None:
        """No new commands, no new runs; the one under way ends with its report. Probes find no listener."""
        self._stopping = True
        if self._operator is not None:
            self._operator.close(0.0)
        if self._runs is not None:
            self._runs.close()
        if self._metrics is not None:
            self._metrics.close(0.5)  # the run needs as long to end, while a request is waited for

    def intake(self) -> Sequence[Work]:
        """What the run has still to say."""
        if self._runs is None or self._runs.is_over:
            return ()
        return (Work("run to end", 1, ENDING_S),)

    def flush_and_publish(self, ends_ns: int, cap_ns: int) -> None:
        """What is here goes to disk, and from there to the controller while there is time."""
        if self._runs is not None:
            self._runs.kill()  # one that has not ended by itself has had its time
        self._tell_health()
        if self._outbox is not None:
            # From here on each acknowledgement is waited for; grouping them for the card's sake would cost
            # the end of the drain the rest of an interval.
            limits = limits_of(self._config.outbox)
            interval_s = min(limits.commit_interval_s, DRAIN_COMMIT_S)
            self._outbox.set_limits(replace(limits, commit_interval_s=interval_s))
        if self._link is not None:
            self._link.drain(cap_ns)

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
            works.append(Work("records to write to the disk", max(1, outbox.uncommitted())))
        if self._link is not None:
            pending = outbox.pending_now()
            expected_s = self._pace.expected_s(time.monotonic_ns(), pending)
            works.append(Work("records to publish", pending, expected_s))
        return works

    def say_goodbye(self, ending: Ending) -> None:
        """The snapshot, the death on purpose, and everything closed; the outbox last."""
        self._stopping = True
        if self._runs is not None:
            self._runs.kill()
        self._tell_health()
        self._note_drain(ending.drain)
        self._write_health(ending.reason)
        if self._link is not None:
            if ending.goodbye_s:
                self._send_the_last(ending.goodbye_s / 2)
            farewell = documents.status("stopped", self._stream, time.time_ns(), ending.reason[:500])
            self._link.say_goodbye(farewell, ending.goodbye_s or self._courtesy_s(self._link))
            self._link.stop()
        if self._metrics is not None:
            self._metrics.close(0.1)
        if self._operator is not None:
            self._operator.close(0.5)
        if self._journal is not None:
            self._journal.close()
        if self._outbox is not None:
            # What could not be written until now has had its time.
            self._outbox.close(0.0 if self._outbox.trouble else _CLOSE_S)

    def _tell_health(self) -> None:
        """Once, on the way out, and early enough for it to reach the controller."""
        if self._observer is not None and not self._told_health:
            self._told_health = True
            self._recorder.keep("health", self._observer.health(self._why[:1000]).document())

    def _note_drain(self, drain: Drained) -> None:
        left = self._outbox.pending_now() if self._outbox is not None else 0
        made = Drain(time.time_ns(), drain.result, drain.took_s, drain.deadline_s, left)
        self.drains = with_drain(self.drains, made)
        self.drain_counts[drain.result] += 1

    def _courtesy_s(self, link: Link) -> float:
        """How long goodbye may take when no time is left for it: a broker that answers hears it, and one that
        is dead costs nothing."""
        status = link.status()
        owes_ns = 0 if status.unanswered_ns is None else time.monotonic_ns() - status.unanswered_ns
        answers = status.state is LinkState.CONNECTED and owes_ns < _ANSWERS_NS
        return _COURTESY_S if answers else _NO_TIME_S

    def _send_the_last(self, limit_s: float) -> None:
        """The record of the last transition came when all the others were acknowledged."""
        until = time.monotonic() + limit_s
        if self._outbox is not None and self._outbox.flush(limit_s):
            while self._outbox.pending_now() and time.monotonic() < until:
                time.sleep(0.002)

    # -- Actions: all the time ------------------------------------------------------------------

    def tick(self) -> None:
        """Once a second."""
        self._ticks += 1
        if self._runs is not None:
            self._runs.tick()
        if self._observer is not None and self.conductor.stage is Stage.RUNNING:
            self._observer.look()
            if self._metrics is None and self._config.daemon.metrics:
                self._reopen_metrics()
        if self._desired is not None and self.conductor.stage is Stage.RUNNING:
            self._look_for_the_controller(self._desired)
            self._hearing.look()
            self._desired.tick()
        if self._log_until_ns and time.monotonic_ns() >= self._log_until_ns:
            self._log_until_ns = 0
            journal.set_level(self._config.daemon.log_level)
        if self._link is not None and self._stream != self._told_stream:
            self._told_stream = self._stream
            self._link.kick("another stream began: status and last will are to name it")
        if self._ticks % SUMMARY_S == 0:
            self._publish_summary()
            if self._meta() != self._told_meta:  # the ports are known once the run has begun
                self._publish_meta()
        if self._ticks % HEALTH_S == 0:
            self._write_health("it was time")

    def status(self) -> str:
        """A line for ``systemctl status``."""
        if self._observer is None:
            return "starting"
        return self._observer.headline()

    def workers(self) -> Iterable[Progress]:
        """Those that have to move. The run's process is none of them: it can be replaced."""
        found = [self._outbox, self._operator, self._link, self._metrics]
        yield from (each.progress for each in found if each is not None)
        if self.conductor.signal_progress is not None:
            yield self.conductor.signal_progress

    # -- Daemon: what the operations ask for ----------------------------------------------------

    @property
    def is_stopping(self) -> bool:
        """For any thread."""
        return self._stopping

    def call(self, function: Callable[[], Result]) -> Future[Result]:
        """Have the main thread do it."""
        return self.conductor.call(function)

    def start_run(self, arguments: Mapping[str, object]) -> Future[dict[str, Any]]:
        """A run as a command wants it."""
        return self._running().replace(arguments)

    def stop_run(self) -> dict[str, Any]:
        """The end of the run under way."""
        runs = self._running()
        stopped = None if runs.is_over else runs.run_id
        runs.suspend()
        return {"run": stopped}

    def resync(self) -> Future[dict[str, Any]]:
        """A coldplug scan."""
        return self._running().resync()

    def try_config(self, command_id: str, config: Mapping[str, Any]) -> dict[str, Any]:
        """Begin a trial."""
        assert self._desired is not None
        return self._desired.configure(command_id, config)

    def log_level(self, level: str, minutes: int | None) -> dict[str, Any]:
        """What is told in the journal, for a while."""
        journal.set_level(level)
        self._log_until_ns = time.monotonic_ns() + minutes * 60_000_000_000 if minutes else 0
        return {"level": level, "minutes": minutes}

    def restart(self, command_id: str) -> None:
        """An orderly end; the service manager starts anew."""
        self.conductor.post(Event.RESTART, f"the controller's command {command_id}")

    # -- what the observer asks for -------------------------------------------------------------

    @property
    def config(self) -> Config:
        """What is in effect."""
        return self._config

    @property
    def outbox(self) -> Outbox | None:
        """Once it is open."""
        return self._outbox

    @property
    def link(self) -> Link | None:
        """Once there is one."""
        return self._link

    @property
    def runs(self) -> Runs | None:
        """Once they may begin."""
        return self._runs

    @property
    def metrics(self) -> MetricsServer | None:
        """Once it listens."""
        return self._metrics

    @property
    def errors(self) -> LastErrors:
        """The last warnings and worse."""
        return self._errors

    @property
    def recorder(self) -> Recorder:
        """Where records go."""
        return self._recorder

    def discards(self) -> Counter[str]:
        """All that was thrown away, by where."""
        found = Counter(self._recorder.discards)
        if self._runs is not None:
            found.update(self._runs.discards)
        found.update({f"inbound_{name}": self.heard[name] for name in ("strange", "desired_replaced")})
        if self._desired is not None:
            found.update(
                {f"desired_{name}": self._desired.counters[name] for name in ("refused", "deferred")}
            )
        return found

    @property
    def heard(self) -> Counter[str]:
        """What came in from the broker, by what it was."""
        return self._hearing.counters

    def troubles(self) -> list[str]:
        """What cannot be done just now, a line each."""
        return [
            f"{name}: {part.trouble}"
            for name, part in (
                ("outbox", self._outbox), ("commands", self._operator), ("desired", self._desired),
            )
            if part is not None and part.trouble is not None
        ]  # fmt: skip

    def commands(self) -> Counter[str]:
        """What came in as commands, and what became of it."""
        return Counter(self._operator.counters if self._operator is not None else {})

    def http_counters(self) -> dict[str, int]:
        """Connections to the metrics so far, by what became of them."""
        served = Counter(self._served_before)
        if self._metrics is not None:
            served.update(self._metrics.counters)
        return dict(served)

    def restart_metrics(self) -> None:
        """The remedy for a server that spins or is stuck."""
        self._close_metrics(0.5)
        self._reopen_metrics()

    def restart_link(self) -> None:
        """The remedy for one that is stuck: another takes its place, and the broker drops the old one's
        connection for its. Should the old one's thread go on, it ends."""
        if self._link is not None:
            self._link.abandon()
            self._open_link()

    # -- inside ---------------------------------------------------------------------------------

    @property
    def _stream(self) -> str:
        return self._outbox.stream if self._outbox is not None else ""

    def _running(self) -> Runs:
        if self._runs is None or self._stopping:
            raise PlugmeterError("the daemon is not running")
        return self._runs

    def _audit(self, what: Audited) -> None:
        if isinstance(what, SignalReceived):
            self.signals[what.name] += 1
        elif what.target.stopping and not self._why:
            self._why = what.reason or what.event
        self._recorder.keep(what.KIND, what.data(), what.time_ns)

    def _new_operator(self) -> Operator:
        assert self._journal is not None
        return Operator(
            self._journal,
            self._topics,
            self.device,
            self._base.commands.accept,
            self._key,
            DaemonOperations(self),
            self._answer,
            self._recorder.keep,
            withdrawn=self._withdraw,
        )

    def _open_link(self) -> None:
        assert self._outbox is not None
        settings = LinkSettings.from_config(self._config, self.device, warn=LOG.warning)
        link = Link(
            settings,
            self._outbox,
            self._topics,
            client_id=f"plugmeter-{self.device}",
            inbox=self._hearing.take,
            diary=lambda event, details: self._recorder.keep("link", {"event": event, "details": details}),
            documents=self._link.documents if self._link is not None else None,
            encode=envelope.batch,
            decode_ack=acks.decode,
            birth=lambda: documents.status("online", self._stream, time.time_ns()),
            will=lambda: documents.status("lost", self._stream, time.time_ns()),
        )
        self._link = link
        self._told_stream = self._stream
        self._hearing.prefix = settings.discovery_prefix
        self._publish_meta()
        if self._desired is not None:
            self._publish_reported(self._desired.report())
        link.start()

    def _open_metrics(self) -> None:
        self._metrics = self._metrics_at(self._config.daemon.metrics)
        if self._metrics is not None:
            self._metrics.start()

    def _metrics_at(self, address: str) -> MetricsServer | None:
        """It listens and does not serve yet. Raises PlugmeterError."""
        if not address or self._observer is None:
            return None
        return MetricsServer(parse_address(address), self._observer.pages)

    def _close_metrics(self, timeout_s: float) -> None:
        if self._metrics is not None:
            self._metrics.close(timeout_s)
            self._served_before.update(self._metrics.counters)
            self._metrics = None

    def _reopen_metrics(self) -> None:
        """What fails is told once, and tried again each second: the daemon goes on without."""
        try:
            self._open_metrics()
        except PlugmeterError as error:
            if self._metrics_trouble != str(error):
                LOG.error("%s", error)
            self._metrics_trouble = str(error)
        else:
            self._metrics_trouble = ""

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
        preflight.check(new, LOG.warning)
        metrics = self._metrics
        if new.daemon.metrics != old.daemon.metrics:
            metrics = self._metrics_at(new.daemon.metrics)
        # A breaker that is open waits for a person, and who reloads is one: the files are read anew.
        forgiven = forgiving and self._link is not None and self._link.status().state is LinkState.BROKEN
        # From here on nothing fails.
        self._config = new
        self.conductor.timing = _timing(new)
        if self._runs is not None and _measures_otherwise(old, new):
            self._runs.configure(new)
        if self._outbox is not None:
            self._outbox.set_limits(limits_of(new.outbox))
        if new.daemon.log_level != old.daemon.log_level:
            journal.set_level(new.daemon.log_level)
        if metrics is not self._metrics:
            self._close_metrics(0.5)
            self._metrics = metrics
            if metrics is not None:
                metrics.start()
        if self._observer is not None:
            self._observer.configure(new)
        if new.mqtt != old.mqtt or forgiven:
            self._change_link()

    def _try(self, new: Config) -> None:
        """As ``_adopt``, for a configuration from afar: the controller has to be reached with it."""
        before = self._link
        self._adopt(new)
        if self._link is not None and self._link is before:
            self._link.kick("another configuration: the controller is to be reached with it")

    def _change_link(self) -> None:
        """Another broker, perhaps: the old one hears that we leave it on purpose."""
        old = self._link
        if old is not None:
            farewell = documents.status("stopped", self._stream, time.time_ns(), "another configuration")
            old.say_goodbye(farewell, self._courtesy_s(old))
            try:
                old.stop()
            except PlugmeterError as error:
                LOG.error("%s; it is left behind", error)
                old.abandon()
        if self._config.mqtt.host:
            self._open_link()
        else:
            self._link = None

    def _look_for_the_controller(self, keeper: DesiredKeeper) -> None:
        """Reached is it where it has acknowledged something on this connection: a broker proves nothing."""
        if self._link is None:
            return
        status = self._link.status()
        if status.state is not LinkState.CONNECTED:
            return
        if (status.last_ack_ns or 0) > status.since_ns:
            keeper.reached(status.since_ns)

    def _new_keeper(self) -> DesiredKeeper:
        self._key = _public_key(self._base)
        return DesiredKeeper(
            self._state / FILE_NAME,
            self._base,
            device=self.device,
            verify=_verify(self._key),
            apply=self._try,
            publish=self._publish_reported,
            record=self._recorder.keep,
        )

    # -- documents ------------------------------------------------------------------------------

    def _publish(self, topic: str, payload: bytes) -> None:
        if self._link is not None:
            self._link.set_document(topic, payload)

    def _answer(self, topic: str, payload: bytes) -> None:
        """The state of a command. There will be any number of them; the journal has them all."""
        if self._link is not None:
            self._link.set_document(topic, payload, passing=True)

    def _withdraw(self, topic: str) -> None:
        if self._link is not None:
            self._link.remove_document(topic)

    def _publish_reported(self, payload: bytes) -> None:
        self._publish(self._topics.reported, payload)

    def _meta(self) -> bytes:
        ready = self._runs.ready if self._runs is not None else None
        if ready is not None:
            self._plugger = ready.rig, ready.ports
        # Between two runs it is as in the last one.
        configured = self._config.daemon.rig, tuple(port.name for port in self._config.ports)
        rig, ports = self._plugger or configured
        return documents.meta(self._config, rig, ports, documents.host())

    def _publish_meta(self) -> None:
        meta = self._told_meta = self._meta()
        self._publish(self._topics.meta, meta)
        if self._hearing.prefix:
            topic, payload = discovery.config(self.device, json.loads(meta), prefix=self._hearing.prefix)
            self._publish(topic, payload)

    def _publish_summary(self) -> None:
        if self._link is None or self._observer is None or self._outbox is None:
            return
        run_id = self._runs.run_id if self._runs is not None else ""
        summary = documents.summary(self._observer.figures(), self._outbox.glance(), run_id, time.time_ns())
        self._publish(self._topics.summary, summary)

    def _write_health(self, reason: str) -> None:
        if self._observer is None:
            return  # it never came so far: what the last life left stays
        try:
            write_health(self._state, self._observer.health(reason))
        except OSError as error:
            LOG.warning("the health snapshot cannot be written: %s", error.strerror or error)


def _public_key(config: Config) -> PublicKey | None:
    """Of who may command. Raises UsageError."""
    name = config.commands.public_key_file
    return load_public_key(Path(name)) if name else None


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
