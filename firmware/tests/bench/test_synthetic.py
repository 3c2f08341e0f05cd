"""The synthetic recording: it replays to a report in which everything fits."""

from __future__ import annotations

import io
from typing import Any

import pytest

from plugmeter.bench.synthetic import recording
from plugmeter.measure import report
from plugmeter.measure.pipeline import Pipeline
from plugmeter.recording import RecordingWriter, read_recording
from plugmeter.records import RunEnd, RunStart


@pytest.mark.parametrize("records", [1, 500, 5000])
def test_it_is_a_run_without_loss(records: Any) -> None:
    file = io.BytesIO()
    writer = RecordingWriter(file)
    count = 0
    for item in recording(records):
        writer.write(item)
        count += not isinstance(item, int)
    assert abs(count - records) < 0.1 * records + 200
    file.seek(0)
    inputs = read_recording(file, "synthetic")
    start = next(inputs)
    assert isinstance(start, RunStart)
    pipeline = Pipeline(start)
    for item in inputs:
        if isinstance(item, int):
            pipeline.advance(item)
        elif isinstance(item, RunEnd):
            pipeline.finish(item)
        else:
            pipeline.feed([item])
    made = report.build(pipeline)
    assert made["certificate"]["reasons"] == []
    assert made["conservation"] == {"holds": True, "violations": []}
    assert made["expected"] == made["matched"] > 0
    assert made["orphans"] == made["duplicates"] == 0
