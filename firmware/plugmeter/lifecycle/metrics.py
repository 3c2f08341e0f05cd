"""The figures as metrics: a registry of our own, whose only collector reads one snapshot for each scrape.

Import this module only where metrics are served: prometheus-client takes about 3 MiB.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest as plain_text
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.exposition import generate_latest as open_metrics
from prometheus_client.registry import Collector

from plugmeter.lifecycle.diagnosis.finding import NAMES
from plugmeter.lifecycle.figures import (
    LINK_STATES,
    STAGES,
    Figures,
    LinkFigures,
    OutboxFigures,
    RunFigures,
)
from plugmeter.lifecycle.samples import ProcessSample

OPEN_METRICS_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

LABELS_LIMIT: Final = 64
"""No metric has more values of a label; the rest is summed up as ``other``."""
_LABEL_LIMIT: Final = 100
_OTHER: Final = "other"


class FiguresCollector(Collector):
    """Makes metrics of what ``figures`` returns, which is called once for each scrape, on its thread."""

    def __init__(self, figures: Callable[[], Figures]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """All metrics, by convention with units in their names."""
        figures = self._figures()
        build = InfoMetricFamily("plugmeter_build", "What this is.")
        build.add_metric([], {"version": figures.version, "python": platform.python_version()})
        yield build
        yield _one_of("plugmeter_stage", "The stage of the daemon.", "stage", STAGES, figures.stage)
        if figures.outbox is not None:
            yield from _outbox(figures.outbox)
        if figures.link is not None:
            yield from _link(figures.link, figures.now_ns)
        if figures.run is not None:
            yield from _run(figures.run)
        yield from _workers(figures)
        for name, text, label, counts in (
            ("plugmeter_discards", "What was thrown away.", "where", figures.discards),
            ("plugmeter_commands", "What came in as commands.", "result", figures.commands),
            ("plugmeter_signals", "Signals received.", "signal", figures.signals),
            ("plugmeter_drains", "How stops drained the outbox.", "result", figures.drains),
            ("plugmeter_http_requests", "What became of requests here.", "result", figures.http),
        ):
            yield _counters(name, text, label, counts)
        if figures.process is not None:
            yield from _process(figures.process)

    def describe(self) -> Iterable[Metric]:
        """Nothing: else registering would read the figures."""
        return ()


class Exposition:
    """The text of a scrape. For any thread."""

    def __init__(self, figures: Callable[[], Figures]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(FiguresCollector(figures))

    def scrape(self, accept: str) -> tuple[str, bytes]:
        """Content type and text: OpenMetrics 1.0 for who accepts it, else Prometheus's own format."""
        if wants_open_metrics(accept):
            # no annotations of theirs in this module
            return OPEN_METRICS_TYPE, bytes(open_metrics(self._registry))  # type: ignore[no-untyped-call]
        return PLAIN_TYPE, plain_text(self._registry)


def wants_open_metrics(accept: str) -> bool:
    """Whether an Accept header (RFC 9110, 12.5.1) names it and does not refuse it. Total on any text."""
    for part in accept.split(","):
        kind, *parameters = (each.strip().lower() for each in part.split(";"))
        if kind == "application/openmetrics-text":
            return not any(each.replace(" ", "") in ("q=0", "q=0.0", "q=0.000") for each in parameters)
    return False


def _outbox(outbox: OutboxFigures) -> Iterator[Metric]:
    yield _counters(
        "plugmeter_outbox_records",
        "Records of this stream: produced = acknowledged + tombstoned + pending.",
        "state",
        {
            "produced": outbox.produced,
            "acknowledged": outbox.acknowledged,
            "tombstoned": outbox.tombstoned,
        },
    )
    yield _gauge("plugmeter_outbox_pending_records", "Records not acknowledged yet.", outbox.pending)
    yield _gauge(
        "plugmeter_outbox_unannounced_records",
        "Records whose tombstone the controller has not acknowledged yet.",
        outbox.unannounced,
    )
    yield _gauge("plugmeter_outbox_bytes", "The database on disk.", outbox.bytes, "bytes")
    yield _gauge(
        "plugmeter_outbox_trouble", "1 while the database cannot be written.", outbox.trouble is not None
    )
    yield _counters("plugmeter_outbox_events", "What the outbox counts.", "event", outbox.counters)


def _link(link: LinkFigures, now_ns: int) -> Iterator[Metric]:
    yield _one_of("plugmeter_link_state", "The link to the broker.", "state", LINK_STATES, link.state)
    yield _counter("plugmeter_link_connects", "Connections made.", link.connects)
    yield _counters("plugmeter_link_failures", "Connections lost or refused.", "cause", link.failures)
    yield _gauge("plugmeter_link_in_flight", "Messages under way to the broker.", link.in_flight)
    yield _gauge(
        "plugmeter_link_unacknowledged_records", "Records sent and not acknowledged.", link.unacknowledged
    )
    oldest_ns = link.oldest_unacknowledged_ns
    yield _gauge(
        "plugmeter_link_unacknowledged_seconds",
        "Age of the oldest of them.",
        0.0 if oldest_ns is None else max(0.0, (now_ns - oldest_ns) / 1e9),
        "seconds",
    )
    yield _gauge("plugmeter_link_keepalive_seconds", "The keepalive in use.", link.keepalive_s, "seconds")
    yield _counters("plugmeter_link_events", "What the link counts.", "event", link.counters)


def _run(run: RunFigures) -> Iterator[Metric]:
    yield _counters("plugmeter_episodes", "Episodes by what became of them.", "outcome", run.episodes_total)
    yield _counters("plugmeter_lost", "Lost episodes by where they were lost.", "stage", run.lost_total)
    records = CounterMetricFamily(
        "plugmeter_witness_records", "Records by witness.", labels=("witness", "state")
    )
    pending = GaugeMetricFamily(
        "plugmeter_witness_pending_records", "Records that a witness still holds.", labels=("witness",)
    )
    for witness, states in list(run.witnesses.items())[:LABELS_LIMIT]:
        for state, count in _capped(states):
            if state == "pending":
                pending.add_metric([_label(witness)], count)
            else:
                records.add_metric([_label(witness), state], count)
    yield records
    yield pending


def _workers(figures: Figures) -> Iterator[Metric]:
    wakeups = {each.name: each.wakeups for each in figures.workers}
    work = {each.name: each.work for each in figures.workers}
    yield _counters("plugmeter_worker_wakeups", "Turns of a worker's loop.", "worker", wakeups)
    yield _counters("plugmeter_worker_work", "Turns in which it found work.", "worker", work)
    finding = GaugeMetricFamily(
        "plugmeter_finding", "1 while the self-diagnosis finds this.", labels=("finding", "worker")
    )
    active = {(each.name, _label(each.worker)) for each in figures.findings}
    for name in NAMES:
        accused = sorted(worker for each, worker in active if each == name)[:LABELS_LIMIT]
        for worker in accused or [""]:
            finding.add_metric([name, worker], 1 if accused else 0)
    yield finding


def _process(process: ProcessSample) -> Iterator[Metric]:
    yield _gauge("process_open_fds", "Open descriptors.", process.descriptors)
    yield _gauge("process_max_fds", "The most there may be.", process.descriptor_limit)
    yield _gauge("process_resident_memory_bytes", "Resident memory.", process.rss_bytes, "bytes")
    yield _gauge(
        "process_peak_resident_memory_bytes", "The most there ever was.", process.peak_rss_bytes, "bytes"
    )
    yield _counter("process_cpu_seconds", "User and system time.", process.cpu_ns / 1e9, "seconds")
    yield _gauge("process_threads", "Threads.", process.thread_count)
    started_s = time.time() - process.uptime_ns / 1e9  # from uptime: right also after the clock was set
    yield _gauge("process_start_time_seconds", "When it began.", round(started_s, 1), "seconds")


def _gauge(name: str, text: str, value: float, unit: str = "") -> Metric:
    return GaugeMetricFamily(name, text, value=value, unit=unit)


def _counter(name: str, text: str, value: float, unit: str = "") -> Metric:
    return CounterMetricFamily(name, text, value=value, unit=unit)


def _counters(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for value, count in _capped(counts):
        family.add_metric([value], count)
    return family


def _one_of(name: str, text: str, label: str, values: tuple[str, ...], now: str) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for value in values:
        family.add_metric([value], value == now)
    if now not in values:
        family.add_metric([_OTHER], 1)
    return family


def _capped(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """At most ``LABELS_LIMIT`` values, the first ones and ``other``; those alike once shortened are one."""
    found: dict[str, int] = {}
    for value, count in list(counts.items()):
        label = _label(value)
        if label not in found and len(found) >= LABELS_LIMIT - 1:
            label = _OTHER
        found[label] = found.get(label, 0) + count
    return list(found.items())


def _label(value: str) -> str:
    """A value that can be encoded, of bearable length."""
    return value[:_LABEL_LIMIT].encode("utf-8", "replace").decode()
