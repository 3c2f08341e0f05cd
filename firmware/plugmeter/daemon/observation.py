"""What can be seen of the daemon: figures for metrics and status, the health snapshot, the self-diagnosis."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugmeter import __version__
from plugmeter.daemon.endpoint import MetricsEndpoint
from plugmeter.daemon.recorder import Recorder
from plugmeter.daemon.runs import Runs
from plugmeter.daemon.uplink import Uplink
from plugmeter.lifecycle.actions import Drained
from plugmeter.lifecycle.conductor import Conductor
from plugmeter.lifecycle.diagnosis.doctor import Doctor, headline
from plugmeter.lifecycle.diagnosis.doctor import Limits as DiagnosisLimits
from plugmeter.lifecycle.diagnosis.finding import Change, Finding
from plugmeter.lifecycle.figures import Figures, LinkFigures, OutboxFigures
from plugmeter.lifecycle.health import (
    Drain,
    HealthSnapshot,
    LastErrors,
    read_health,
    with_drain,
    write_health,
)
from plugmeter.lifecycle.metrics import Exposition
from plugmeter.lifecycle.observe import observe
from plugmeter.lifecycle.pages import StatusPages
from plugmeter.lifecycle.procfs import ProcessReader
from plugmeter.lifecycle.samples import LinkSample, WorkerSample
from plugmeter.lifecycle.whereabouts import process_state, whereabouts
from plugmeter.progress import Progress
from plugmeter.sections import Config
from plugmeter.telemetry.commands.operator import Operator
from plugmeter.telemetry.desired_keeper import DesiredKeeper
from plugmeter.telemetry.link import Link, LinkState
from plugmeter.telemetry.outbox import Outbox

LOG: Final = logging.getLogger("plugmeter.diagnosis")
_DAEMON_LOG: Final = logging.getLogger("plugmeter.daemon")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a daemon is made of, as far as it can be seen."""

    device: str
    conductor: Conductor
    recorder: Recorder
    errors: LastErrors
    signals: Mapping[str, int]
    """Those received, by name."""
    outbox: Outbox
    desired: DesiredKeeper
    runs: Runs
    uplink: Uplink
    operator: Operator
    endpoint: MetricsEndpoint

    def workers(self) -> Iterator[Progress]:
        """Those that have to move. The run's process is none of them: it can be replaced."""
        link = self.uplink.link
        found = (
            self.outbox.progress, self.operator.progress, link.progress if link is not None else None,
            self.endpoint.progress, self.conductor.signal_progress,
        )  # fmt: skip
        yield from (each for each in found if each is not None)

    def discards(self) -> Counter[str]:
        """All that was thrown away, by where."""
        found = Counter(self.recorder.discards)
        found.update(self.runs.discards)
        heard = self.uplink.heard
        found.update({f"inbound_{name}": heard[name] for name in ("strange", "desired_replaced")})
        found.update({f"desired_{name}": self.desired.counters[name] for name in ("refused", "deferred")})
        return found

    def troubles(self) -> list[str]:
        """What cannot be done just now, a line each."""
        named = (
            ("outbox", self.outbox.trouble), ("commands", self.operator.trouble),
            ("desired", self.desired.trouble),
        )  # fmt: skip
        return [f"{name}: {trouble}" for name, trouble in named if trouble is not None]


class Observer:
    """``figures``, ``pages`` and ``workers`` are for any thread; all else is the main thread's."""

    def __init__(self, parts: Parts, config: Config, state: Path) -> None:
        """``state`` is the state directory: it has the snapshot that the last life left."""
        self._parts = parts
        self._state = state
        before, _ = read_health(state)
        self._drains = before.drains if before is not None else ()
        """The last stops, of earlier lives too; the oldest first."""
        self._drain_counts = Counter(before.drain_counts if before is not None else {})
        self._told_health = False
        self._reader = ProcessReader()
        self._limits = _limits(config)
        self._doctor = Doctor(self._limits, self._whereabouts)
        self.pages = StatusPages(self.figures, Exposition(self.figures))

    def configure(self, config: Config) -> None:
        """Other limits, perhaps; with them the diagnosis begins anew."""
        if _limits(config) == self._limits:
            return
        now_ns = time.monotonic_ns()
        for finding in self._doctor.findings:
            self._tell(Change(finding, now_ns))
        self._limits = _limits(config)
        self._doctor = Doctor(self._limits, self._whereabouts)

    def look(self) -> None:
        """What is wrong now: told once, with the remedy applied where there is one."""
        link = self._parts.uplink.link
        sample = _link_sample(link)
        seen = observe(self._reader, self._watched(), sample, self._parts.runs.sample())
        for change in self._doctor.look(seen):
            self._tell(change)
            if change.ended_ns is None:
                self._remedy(change.finding, link, sample.connected_since_ns if sample else None)

    def headline(self) -> str:
        """For ``systemctl status``, in ASCII."""
        figures = self.figures()
        parts = [headline(figures.findings), *self._parts.troubles()]
        run, outbox, link = figures.run, figures.outbox, figures.link
        if run is not None:
            parts.append(f"run {run.state}" + (f" ({run.rig})" if run.rig else ""))
        if outbox is not None:
            parts.append(f"{outbox.pending} records pending")
        parts.append(f"broker {link.state}" if link is not None else "no broker")
        return "; ".join(part for part in parts if part)

    def figures(self, *, exact: bool = False) -> Figures:
        """Everything at this moment; the outbox's books a second ago at the most, or, ``exact``, as they are
        on the disk, which may hang."""
        parts = self._parts
        return Figures(
            now_ns=time.monotonic_ns(),
            version=__version__,
            device=parts.device,
            pid=os.getpid(),
            stage=parts.conductor.stage.value,
            outbox=_outbox_figures(parts.outbox, exact=exact),
            link=_link_figures(parts.uplink),
            run=parts.runs.figures,
            process=self._reader.read(threads=False, kinds=False),
            workers=tuple(WorkerSample(each.name, each.wakeups, each.work) for each in self._watched()),
            findings=self._doctor.findings,
            looked_ns=self._doctor.looked_ns,
            stuck_s=self._limits.stuck_s,
            signals=dict(parts.signals),
            discards=dict(parts.discards()),
            commands=dict(parts.operator.counters),
            http=parts.endpoint.counters,
            drains=dict(self._drain_counts),
            last_errors=parts.errors.lines(),
            last_drains=self._drains,
        )

    def workers(self) -> Iterator[Progress]:
        """See Parts."""
        return self._parts.workers()

    # -- the health snapshot, which outlives us -------------------------------------------------

    def note_drain(self, drain: Drained) -> None:
        """How this life's stop drained the outbox."""
        left = self._parts.outbox.pending_now()
        made = Drain(time.time_ns(), drain.result, drain.took_s, drain.deadline_s, left)
        self._drains = with_drain(self._drains, made)
        self._drain_counts[drain.result] += 1

    def tell_health(self, reason: str) -> None:
        """A record of it, once: on the way out, and early enough for it to reach the controller."""
        if not self._told_health:
            self._told_health = True
            self._parts.recorder.keep("health", self._health(reason).document())

    def write_health(self, reason: str) -> None:
        """Into the state directory."""
        try:
            write_health(self._state, self._health(reason))
        except OSError as error:
            _DAEMON_LOG.warning("the health snapshot cannot be written: %s", error.strerror or error)

    def _health(self, reason: str) -> HealthSnapshot:
        figures = self.figures(exact=not self._outbox_is_stuck)
        process, outbox = figures.process, figures.outbox
        return HealthSnapshot(
            time_ns=time.time_ns(),
            version=__version__,
            device=figures.device,
            stage=figures.stage,
            reason=reason,
            uptime_s=process.uptime_ns / 1e9 if process else 0.0,
            rss_bytes=process.rss_bytes if process else 0,
            peak_rss_bytes=process.peak_rss_bytes if process else 0,
            threads=process.thread_count if process else 0,
            descriptors=process.descriptors if process else 0,
            backlog=self._parts.outbox.pending_now(),
            account={
                "stream": outbox.stream,
                "produced": outbox.produced,
                "acknowledged": outbox.acknowledged,
                "tombstoned": outbox.tombstoned,
                "pending": outbox.pending,
            }
            if outbox
            else {},
            findings=tuple(finding.headline for finding in figures.findings),
            last_errors=figures.last_errors,
            drains=figures.last_drains,
            drain_counts=figures.drains,
        )

    @property
    def _outbox_is_stuck(self) -> bool:
        return any(each.name == "stuck" and each.worker == "outbox" for each in self._doctor.findings)

    def _watched(self) -> list[Progress]:
        found = [*self._parts.workers(), self._parts.conductor.progress]
        runner = self._parts.runs.watched
        if runner is not None:
            found.append(runner.progress)
        return found

    def _whereabouts(self, worker: str) -> str:
        """Of a thread of ours, or of the run's process."""
        runner = self._parts.runs.runner
        if worker == "runner" and runner is not None:
            return process_state(runner.pid)
        return whereabouts(worker)

    def _tell(self, change: Change) -> None:
        finding = change.finding
        ended = change.ended_ns is not None
        if ended:
            LOG.info("over: %s", finding.evidence)
        else:
            LOG.warning("%s: %s", finding.headline, finding.evidence)
        self._parts.recorder.keep(
            "diagnosis",
            {
                "finding": finding.name,
                "worker": finding.worker,
                "evidence": finding.evidence,
                "remedy": finding.remedy,
                "state": "ended" if ended else "begun",
            },
        )

    def _remedy(self, finding: Finding, link: Link | None, connected_ns: int | None) -> None:
        """``link`` and when its connection began (monotonic): those that were looked at."""
        runner = self._parts.runs.runner
        if finding.remedy == "reconnect" and link is not None:
            link.kick(finding.headline, silent=finding.name == "half_open", since_ns=connected_ns)
        elif finding.remedy == "restart_worker" and finding.worker == "metrics":
            self._parts.endpoint.restart()
        elif finding.remedy == "restart_worker" and finding.worker == "link":
            if self._outbox_is_stuck:
                LOG.warning("the link is left alone: it waits for the same disk as the outbox")
            else:
                self._parts.uplink.restart()
        elif finding.remedy == "restart_worker" and runner is not None:
            runner.kill()


def _limits(config: Config) -> DiagnosisLimits:
    lifecycle = config.lifecycle
    return DiagnosisLimits(
        stuck_s=lifecycle.stuck_s,
        fd_growth=lifecycle.fd_growth,
        spin_wakeups_per_s=lifecycle.spin_wakeups_per_s,
    )


def _outbox_figures(outbox: Outbox, *, exact: bool) -> OutboxFigures:
    account = outbox.account() if exact else outbox.glance()
    return OutboxFigures(
        stream=account.stream,
        produced=account.produced,
        acknowledged=account.acknowledged,
        tombstoned=account.tombstoned,
        pending=account.pending,
        unannounced=account.unannounced,
        bytes=account.bytes,
        trouble=outbox.trouble,
        counters=dict(outbox.counters),
    )


def _link_figures(uplink: Uplink) -> LinkFigures | None:
    link = uplink.link
    if link is None:
        return None
    status = link.status()
    return LinkFigures(
        state=status.state.value,
        since_ns=status.since_ns,
        broker=status.broker,
        connects=status.connects,
        failures=dict(status.failures),
        in_flight=status.in_flight,
        unacknowledged=status.unacknowledged_records,
        oldest_unacknowledged_ns=status.oldest_unacknowledged_ns,
        last_received_ns=status.last_received_ns,
        next_attempt_ns=status.next_attempt_ns,
        keepalive_s=status.keepalive_s,
        breaker=status.breaker,
        counters={
            **status.counters,
            **{f"inbound_{name}": count for name, count in uplink.heard.items()},
            "sent": status.sent,
            "resent": status.resent,
            "tls_failures": status.tls_failures,
        },
    )


def _link_sample(link: Link | None) -> LinkSample | None:
    if link is None:
        return None
    status = link.status()
    return LinkSample(
        state=status.state.value,
        connected_since_ns=status.since_ns if status.state is LinkState.CONNECTED else None,
        # What the broker owes, and not the controller, who may be away for days.
        oldest_unacknowledged_ns=status.unanswered_ns,
        last_received_ns=status.last_received_ns,
        tls_failures=status.tls_failures,
        fileno=status.socket,
        distrusts=status.distrusts,
        tls_cause=status.last_failure or "",
        twin=status.twin,
    )
