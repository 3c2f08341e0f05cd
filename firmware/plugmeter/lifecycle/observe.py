"""One look at everything that the detectors judge."""

from __future__ import annotations

import time
from collections.abc import Iterable

from plugmeter.lifecycle.procfs import ProcessReader
from plugmeter.lifecycle.samples import LinkSample, Observation, RunSample, WorkerSample
from plugmeter.lifecycle.tcp_info import read_tcp
from plugmeter.progress import Progress


def observe(
    reader: ProcessReader,
    workers: Iterable[Progress],
    link: LinkSample | None,
    run: RunSample | None = None,
) -> Observation:
    """Now. About 0.3 ms with ten threads and as many descriptors as a healthy daemon has."""
    return Observation(
        time.monotonic_ns(),
        tuple(WorkerSample(each.name, each.wakeups, each.work) for each in workers),
        reader.read(),
        link,
        read_tcp(link.fileno) if link else None,
        run,
    )
