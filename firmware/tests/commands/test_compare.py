"""``plugmeter compare`` as it is called."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from plugmeter.commands import compare
from plugmeter.errors import UsageError
from tests.reporting import samples


def call(*words: str | Path) -> int:
    parser = argparse.ArgumentParser(prog=compare.NAME, description=compare.HELP, epilog=compare.EPILOG)
    compare.add_arguments(parser)
    return compare.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    paths = {}
    for name, make in samples.ALL.items():
        paths[name] = tmp_path / f"{name}.json"
        paths[name].write_text(json.dumps(make()))
    return paths


def test_two_reports_side_by_side(files: dict[str, Path], capsys: Any) -> None:
    assert call(files["clean"], files["lossy"]) == 0
    out = capsys.readouterr().out
    assert "B / A" in out
    assert "1.62 … 2.83 %" in out


def test_an_invalid_one_is_shown_with_a_warning(files: dict[str, Path], capsys: Any) -> None:
    assert call(files["clean"], files["invalid"]) == 0
    assert capsys.readouterr().out.startswith("WARNING: B is INVALID")


def test_json_to_standard_output_and_to_a_file(files: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    assert call(files["clean"], files["lossy"], "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "plugmeter-comparison/1"
    assert call(files["clean"], files["lossy"], "--json", tmp_path / "c.json") == 0
    assert json.loads((tmp_path / "c.json").read_text()) == found


@pytest.mark.parametrize("text", ["", "[]", '{"schema": "plugmeter-report/9"}', "not json"])
def test_no_report_is_a_usage_error(files: dict[str, Path], tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(UsageError) as caught:
        call(files["clean"], tmp_path / "bad.json")
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="cannot read"):
        call(tmp_path / "missing.json", files["clean"])
