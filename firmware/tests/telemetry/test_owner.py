"""Whose an outbox is: the machine's hash, and what counts as another owner."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from plugmeter.telemetry import owner
from plugmeter.telemetry.owner import Owner, machine_of

HERE = Owner("bench-1", "a" * 32)


@pytest.mark.parametrize(
    ("now", "before", "change"),
    [
        (HERE, HERE, None),
        (HERE, Owner("bench-2", "a" * 32), "renamed"),
        (HERE, Owner("bench-1", "b" * 32), "copied"),
        (HERE, Owner("bench-2", "b" * 32), "copied"),
        (HERE, Owner("bench-1", ""), None),
        (HERE, Owner("bench-2", ""), "renamed"),
        (Owner("bench-1", ""), HERE, None),
        (Owner("bench-2", ""), HERE, "renamed"),
    ],
)
def test_another_name_or_machine_is_another_owner(now: Owner, before: Owner, change: str | None) -> None:
    assert now.change_from(before) == change


def test_a_machine_that_was_known_stays_known() -> None:
    assert Owner("bench-2", "").after(HERE) == Owner("bench-2", HERE.machine)
    assert Owner("bench-2", "b").after(HERE) == Owner("bench-2", "b")


def test_the_hash_tells_machines_apart_and_not_the_id(tmp_path: Path) -> None:
    file = tmp_path / "machine-id"
    found = set()
    for text in ("0123456789abcdef" * 2, "0123456789abcdef" * 2 + "\n", "f" * 32 + "\n"):
        file.write_text(text)
        found.add(machine_of(file))
        assert len(machine_of(file)) == 32
        assert text.strip() not in machine_of(file)
    assert len(found) == 2


@pytest.mark.parametrize("text", ["", "uninitialized\n", "0" * 31, "g" * 32, "0" * 33, "ä" * 16, "\0" * 5000])
def test_what_is_no_machine_id_is_not_known(tmp_path: Path, text: str) -> None:
    file = tmp_path / "machine-id"
    assert machine_of(file) == ""  # there is none
    file.write_text(text)
    assert machine_of(file) == ""
    assert machine_of(tmp_path) == ""


def test_it_is_what_systemd_makes_of_it() -> None:
    tool = shutil.which("systemd-id128")
    if tool is None or not owner.MACHINE_ID.is_file() or os.path.ismount(owner.MACHINE_ID):
        pytest.skip("needs systemd-id128 and a machine id")
    application = f"--app-specific={owner._APPLICATION.hex()}"
    done = subprocess.run([tool, "machine-id", application], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs a machine id that systemd takes: {done.stderr.strip()}")
    assert machine_of() == done.stdout.strip()
