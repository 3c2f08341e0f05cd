from __future__ import annotations

import json
from pathlib import Path

import pytest

from plugmeter import config
from plugmeter.cli import main


def test_a_good_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "f.toml"
    file.write_text("[rig]\nsticks = 7\n")
    assert main(["check", str(file)]) == 0
    assert capsys.readouterr() == (f"{file}: good\n", "")


def test_the_effective_values_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "f.toml"
    file.write_text("[rig]\nsticks = 7\n")
    assert main(["check", "--json", str(file)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"file": str(file), "good": True, "config": config.describe(config.load(file))}
    assert said["config"]["rig"]["sticks"] == 7
    assert said["config"]["run"]["debounce_ms"] == 100


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_all_problems_of_a_bad_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    file = tmp_path / "f.toml"
    file.write_text("[rig]\nstick = 7\n[run]\nnominal_ms = true\n")
    assert main(["check", str(file), *option]) == 2
    out, err = capsys.readouterr()
    lines = [
        f"config {file}: unknown key rig.stick; did you mean rig.sticks?",
        f"config {file}: run.nominal_ms = true is true or false; it must be a whole number, 1 to 600000 ms",
    ]
    assert err.splitlines() == [f"plugmeter: {line}" for line in lines]
    if option:
        assert json.loads(out) == {"file": str(file), "good": False, "problems": lines}
    else:
        assert out == ""


def test_the_example_is_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--example"]) == 0
    file = tmp_path / "f.toml"
    file.write_text(capsys.readouterr().out)
    assert config.load(file) == config.default()


def test_the_messages_over_mqtt(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--asyncapi"]) == 0
    assert json.loads(capsys.readouterr().out)["asyncapi"] == "3.0.0"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--json"],
        ["--example", "x"],
        ["--example", "--json"],
        ["--asyncapi", "x"],
        ["--asyncapi", "--json"],
        ["--asyncapi", "--example"],
    ],
)
def test_a_command_line_that_asks_for_nothing_or_too_much(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(["check", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("plugmeter: check: ")
    assert err.count("\n") == 1
