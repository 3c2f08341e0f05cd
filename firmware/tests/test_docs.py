"""The documents say what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plugmeter import cli
from plugmeter.lifecycle import stages
from plugmeter.measure import ports

ROOT = Path(__file__).parents[2]
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
PACKAGE = ROOT / "firmware/plugmeter"


def test_the_diagram_of_the_port_states_is_the_table() -> None:
    assert ports.markdown() in ARCHITECTURE


def test_the_diagram_of_the_stages_is_the_table() -> None:
    assert stages.markdown() in ARCHITECTURE


def named_files() -> list[str]:
    table = ARCHITECTURE[ARCHITECTURE.index("| word |") : ARCHITECTURE.index("| probes,")]
    return sorted({name for name in re.findall(r"`([a-z_]+(?:/[a-z_]+)?\.py)`", table) if "/" in name})


@pytest.mark.parametrize("name", named_files())
def test_every_file_that_a_word_points_to_is_there(name: str) -> None:
    assert (PACKAGE / name).is_file()


@pytest.mark.parametrize(
    "folder",
    [
        "measure", "witnesses", "rigs", "bench", "reporting", "commands", "daemon", "controller", "runner",
        "telemetry", "lifecycle",
    ],
)  # fmt: skip
def test_every_folder_of_the_package_has_its_line(folder: str) -> None:
    assert re.search(rf"^ +(?:[\w.]+ )*{folder}/", ARCHITECTURE, re.MULTILINE)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_readme_knows_every_command(command: str) -> None:
    assert re.search(rf"plugmeter {command}\b", README)


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_links_and_paths_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_nothing_is_left_to_fill_in(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    assert not re.search(r"^(?:DEMO_OUTPUT|FIGURES|PORT_STATES)$|\bDATE\b", text, re.MULTILINE)
