"""The project's own files: locks that fit pyproject.toml, and scripts that end with one clear line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
LOCKS = ROOT / "firmware" / "requirements"
KINDS = {"device": (), "report": ("report",), "dev": ("report", "dev")}


def project() -> dict[str, object]:
    read: dict[str, dict[str, object]] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return read["project"]


def wanted(kind: str) -> list[Requirement]:
    """What pyproject.toml asks for in an environment of this kind."""
    table = project()
    lines = table["dependencies"]
    extras = table["optional-dependencies"]
    assert isinstance(lines, list)
    assert isinstance(extras, dict)
    return [
        Requirement(line) for line in [*lines, *(line for extra in KINDS[kind] for line in extras[extra])]
    ]


def locked(kind: str) -> dict[str, tuple[str, list[str]]]:
    """Each package of a lock: its version and its hashes."""
    found: dict[str, tuple[str, list[str]]] = {}
    text = (LOCKS / f"{kind}.lock").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, version = re.fullmatch(r"([a-z0-9-]+)==([^ ;]+).*", line).groups()  # type: ignore[union-attr]  # or fail
        found[name] = (version, re.findall(r"--hash=sha256:([0-9a-f]{64})\b", line))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_each_lock_has_what_the_project_asks_for_with_hashes(kind: str) -> None:
    packages = locked(kind)
    for requirement in wanted(kind):
        version, _ = packages[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), requirement
    assert all(hashes for _, hashes in packages.values())
    assert {"setuptools", "pbr"} <= packages.keys(), "scripts/lib.sh installs these first, from the lock"


def test_the_locks_agree_with_each_other() -> None:
    device, report, dev = locked("device"), locked("report"), locked("dev")
    assert device.items() <= report.items() <= dev.items()
    assert not {"matplotlib", "numpy", "jinja2"} & device.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_no_lock_names_an_index_or_a_path(kind: str) -> None:
    text = (LOCKS / f"{kind}.lock").read_text()
    assert not re.search(r"://|--index|--find-links|--extra|^-|(^|\s)/", text, re.MULTILINE)


def test_what_is_tested_here_is_what_is_locked() -> None:
    if not Path(sys.prefix).name.startswith("venv-dev-"):
        pytest.skip("this environment was not made by scripts/test")
    for name, (version, _) in locked("dev").items():
        try:
            assert metadata.version(name) == version
        except metadata.PackageNotFoundError:
            assert name == "colorama"  # wanted on other systems only


def script(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPTS / name, *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ["setup", "demo", "test", "lock"])
def test_each_script_explains_itself_before_it_does_anything(name: str) -> None:
    done = script(name, "--help", HOME="/nonexistent")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: scripts/{name}")


def fake_python(folder: Path, says: str) -> Path:
    """An interpreter of another version, as far as find_python can tell."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\necho '{says}'\necho {file}\n")
    file.chmod(0o755)
    return file


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (
            "3.10.12 x86_64 cpython False",
            "needs CPython 3.11 or newer ({python} is cpython 3.10.12); install one",
        ),
        ("3.11.13 x86_64 pypy True", "needs CPython 3.11 or newer ({python} is pypy 3.11.13); install one"),
    ],
)
def test_a_python_that_will_not_do_is_named(tmp_path: Path, says: str, words: str) -> None:
    python = fake_python(tmp_path, says)
    done = script("setup", HOME=str(tmp_path), PLUGMETER_PYTHON=str(python))
    assert (done.returncode, done.stdout) == (1, "")
    assert words.format(python=python) in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_python_that_does_not_run_is_named(tmp_path: Path) -> None:
    done = script("setup", HOME=str(tmp_path), PLUGMETER_PYTHON=str(tmp_path / "none"))
    assert done.returncode == 1
    assert f"{tmp_path / 'none'} does not run" in done.stderr


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"XDG_CACHE_HOME": "relative"}, "set HOME or XDG_CACHE_HOME to a full path"),
        ({"HOME": "relative"}, "set HOME or XDG_CACHE_HOME to a full path"),
        ({"HOME": "/proc"}, "cannot write to /proc/.cache/plugmeter; set XDG_CACHE_HOME"),
        ({"XDG_CACHE_HOME": "/dev/null"}, "cannot write to /dev/null/plugmeter; set XDG_CACHE_HOME"),
    ],
)
def test_a_cache_that_cannot_be_is_one_line(environment: dict[str, str], words: str) -> None:
    done = script("setup", **environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_unknown_kind_or_option_is_one_line(tmp_path: Path) -> None:
    for name, argument in (("setup", "everything"), ("lock", "--bogus")):
        done = script(name, argument, HOME=str(tmp_path))
        assert done.returncode == 1
        assert argument in done.stderr
        assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_half_made_environment_does_not_count(tmp_path: Path) -> None:
    """With no network (an index that refuses), so that what is there can be seen not to be taken."""
    environment = {
        "XDG_CACHE_HOME": str(tmp_path),
        "HOME": str(tmp_path),
        "PIP_INDEX_URL": "http://127.0.0.1:9/",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_RETRIES": "0",
    }
    for _ in range(2):  # the second finds what the first has left
        done = script("setup", "device", **environment)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.splitlines()[-1].startswith(
            "plugmeter: pip could not install Plugmeter's packages"
        )
    (deps,) = (tmp_path / "plugmeter").glob("deps-device-*")
    assert not (deps / "complete").exists()


def test_packages_are_listed_once_each_and_only_in_groups_that_are_used() -> None:
    lines = [
        line.split()
        for line in (SCRIPTS / "packages").read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    assert {words[0] for words in lines} == {"test"}
    assert all(len(words) > 3 and words[2] == "#" for words in lines), "each says why"
    names = [words[1] for words in lines]
    assert len(names) == len(set(names))
