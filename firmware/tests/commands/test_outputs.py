"""Where a report may go: two of a command's files are never one."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from plugmeter.commands import outputs
from plugmeter.errors import UsageError


def arguments(**given: str | None) -> argparse.Namespace:
    return argparse.Namespace(**{"json": None, "html": None, **given})


@pytest.mark.parametrize(
    ("one", "other"),
    [("json", "html"), ("record", "json"), ("state", "json"), ("record", "state"), ("file", "json")],
)
def test_one_file_for_two_purposes_is_one_line(tmp_path: Path, one: str, other: str) -> None:
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(UsageError, match="are the same file") as caught:
        outputs.check(arguments(**{one: str(tmp_path / "real"), other: str(tmp_path / "link")}))
    assert "\n" not in str(caught.value)


def test_files_apart_and_devices_twice_are_fine(tmp_path: Path) -> None:
    outputs.check(arguments(json=str(tmp_path / "a"), record=str(tmp_path / "b"), state=str(tmp_path / "c")))
    outputs.check(arguments(json="/dev/null", record="/dev/null"))
    outputs.check(arguments(json="-", record="-"))
