"""What can be seen of the daemon: figures for metrics and status, the health snapshot, the self-diagnosis."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Final

from plugmeter import __version__
from plugmeter.lifecycle.diagnosis.doctor import Doctor, headline
from plugmeter.lifecycle.diagnosis.doctor import Limits as DiagnosisLimits
from plugmeter.lifecycle.diagnosis.finding import Change, Finding
from plugmeter.lifecycle.figures import Figures, LinkFigures, OutboxFigures
from plugmeter.lifecycle.health import HealthSnapshot
from plugmeter.lifecycle.metrics import Exposition
from plugmeter.lifecycle.observe import observe
from plugmeter.lifecycle.pages import StatusPages
from plugmeter.lifecycle.procfs import ProcessReader
from plugmeter.lifecycle.samples import LinkSample, WorkerSample
from plugmeter.lifecycle.whereabouts import process_state, whereabouts
from plugmeter.progress import Progress
from plugmeter.sections import Config
from plugmeter.telemetry.link import LinkState

if TYPE_CHECKING:
    from plugmeter.daemon.service import Service

LOG: Final = logging.getLogger("plugmeter.diagnosis")


class Observer:
    """``look`` and ``configure`` are the main thread's; all else is for any."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._reader = ProcessReader()
        self._limits = _limits(service.config)
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
        for change in self._doctor.look(observe(self._reader, self._workers(), _link_sample(self._service))):
            self._tell(change)
            if change.ended_ns is None:
                self._remedy(change.finding)

    def headline(self) -> str:
        """For ``systemctl status``, in ASCII."""
        figures = self.figures()
        parts = [headline(figures.findings), *self._service.troubles()]
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
        service = self._service
        return Figures(
            now_ns=time.monotonic_ns(),
            version=__version__,
            device=service.device,
            pid=os.getpid(),
            stage=service.conductor.stage.value,
            outbox=_outbox_figures(service, exact=exact),
            link=_link_figures(service),
            run=service.runs.figures if service.runs is not None else None,
            process=self._reader.read(threads=False, kinds=False),
            workers=tuple(WorkerSample(each.name, each.wakeups, each.work) for each in self._workers()),
            findings=self._doctor.findings,
            looked_ns=self._doctor.looked_ns,
            stuck_s=service.config.lifecycle.stuck_s,
            signals=dict(service.signals),
            discards=dict(service.discards()),
            commands=dict(service.commands()),
            http=service.http_counters(),
            drains=dict(service.drain_counts),
            last_errors=service.errors.lines(),
            last_drains=service.drains,
        )

    def health(self, reason: str) -> HealthSnapshot:
        """The snapshot that outlives us."""
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
            backlog=self._service.outbox.pending_now() if self._service.outbox else 0,
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

    def _workers(self) -> list[Progress]:
        found: list[Progress] = [*self._service.workers(), self._service.conductor.progress]
        runs = self._service.runs
        if runs is not None and runs.watched is not None:
            found.append(runs.watched.progress)
        return found

    def _whereabouts(self, worker: str) -> str:
        """Of a thread of ours, or of the run's process."""
        runs = self._service.runs
        if worker == "runner" and runs is not None and runs.runner is not None:
            return process_state(runs.runner.pid)
        return whereabouts(worker)

    def _tell(self, change: Change) -> None:
        finding = change.finding
        ended = change.ended_ns is not None
        if ended:
            LOG.info("over: %s", finding.evidence)
        else:
            LOG.warning("%s: %s", finding.headline, finding.evidence)
        self._service.recorder.keep(
            "diagnosis",
            {
                "finding": finding.name,
                "worker": finding.worker,
                "evidence": finding.evidence,
                "remedy": finding.remedy,
                "state": "ended" if ended else "begun",
            },
        )

    def _remedy(self, finding: Finding) -> None:
        service = self._service
        if finding.remedy == "reconnect" and service.link is not None:
            service.link.kick(finding.headline, silent=finding.name == "half_open")
        elif finding.remedy == "restart_worker" and finding.worker == "metrics":
            service.restart_metrics()
        elif finding.remedy == "restart_worker" and finding.worker == "link":
            if self._outbox_is_stuck:
                LOG.warning("the link is left alone: it waits for the same disk as the outbox")
            else:
                service.restart_link()
        elif finding.remedy == "restart_worker" and service.runs is not None:
            runner = service.runs.runner
            if runner is not None:
                runner.kill()


def _limits(config: Config) -> DiagnosisLimits:
    lifecycle = config.lifecycle
    return DiagnosisLimits(
        stuck_s=lifecycle.stuck_s,
        fd_growth=lifecycle.fd_growth,
        spin_wakeups_per_s=lifecycle.spin_wakeups_per_s,
    )


def _outbox_figures(service: Service, *, exact: bool) -> OutboxFigures | None:
    if service.outbox is None:
        return None
    account = service.outbox.account() if exact else service.outbox.glance()
    return OutboxFigures(
        stream=account.stream,
        produced=account.produced,
        acknowledged=account.acknowledged,
        tombstoned=account.tombstoned,
        pending=account.pending,
        unannounced=account.unannounced,
        bytes=account.bytes,
        trouble=service.outbox.trouble,
        counters=dict(service.outbox.counters),
    )


def _link_figures(service: Service) -> LinkFigures | None:
    if service.link is None:
        return None
    status = service.link.status()
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
            **{f"inbound_{name}": count for name, count in service.heard.items()},
            "sent": status.sent,
            "resent": status.resent,
            "tls_failures": status.tls_failures,
        },
    )


def _link_sample(service: Service) -> LinkSample | None:
    if service.link is None:
        return None
    status = service.link.status()
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
    )
