"""The records of the telemetry's benches, and filling an outbox with them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from plugmeter.bench.drafts import RECORD_BYTES, fill, noise, pending, verdicts
from plugmeter.telemetry import schemas


def test_records_are_verdicts_of_300_bytes() -> None:
    drafts = list(itertools.islice(verdicts(), 500))
    assert {len(each.data) for each in drafts} == {RECORD_BYTES}
    assert all(schemas.record_fault(each.kind, json.loads(each.data)) is None for each in drafts)
    assert len({each.data for each in drafts}) == 500


def test_noise_is_json_of_300_bytes() -> None:
    for draft in itertools.islice(noise(), 50):
        assert len(draft.data) == RECORD_BYTES
        assert isinstance(json.loads(draft.data), dict)


def test_filling_goes_on_where_it_ended(tmp_path: Path) -> None:
    told: list[str] = []
    first = fill(tmp_path / "state", 150, told.append)
    again = fill(tmp_path / "state", 50, told.append)
    assert first >= 150
    assert again >= first + 50
    assert pending(tmp_path / "state") == again
    assert told == []
