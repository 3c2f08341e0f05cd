"""The rule that nothing is skipped in .ci/run, run by a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")

TESTS = """
import pytest

def test_passes(): pass

def test_needs(): pytest.skip("needs a unicorn")

@pytest.mark.skipif(True, reason="needs a dragon")
def test_marked(): pass

@pytest.fixture
def phoenix(): pytest.skip("needs a phoenix")

def test_fixture(phoenix): pass

def test_does_not_apply(): pytest.skip("only on a Sunday")

@pytest.mark.xfail
def test_known_to_fail(): raise AssertionError("needs work")
"""
MODULE = 'import pytest\npytest.skip("needs a griffin", allow_module_level=True)\n'


def run(folder: Path, required: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text(TESTS)
    (folder / "test_module.py").write_text(MODULE)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "--continue-on-collection-errors"],
        cwd=folder,
        env={**os.environ, "PLUGMETER_REQUIRE_ALL": required},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("required", ["", "0"])
def test_skips_are_skips_for_a_developer(tmp_path: Path, required: str) -> None:
    done = run(tmp_path, required)
    assert done.returncode == 0, done.stdout
    assert "1 passed, 5 skipped, 1 xfailed" in done.stdout


def test_what_needs_something_fails_where_all_is_required(tmp_path: Path) -> None:
    done = run(tmp_path, "1")
    assert done.returncode == 1, done.stdout
    assert "1 failed, 1 passed, 1 skipped, 1 xfailed, 3 errors" in done.stdout
    for animal in ("unicorn", "dragon", "phoenix", "griffin"):
        assert f"skipped, with PLUGMETER_REQUIRE_ALL=1: needs a {animal}" in done.stdout
