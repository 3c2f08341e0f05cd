"""The real command line, in processes of its own: as whoever runs the tests, and as an ordinary user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

FIRMWARE = Path(__file__).parents[2]
ORDINARY = 65534
_NEEDED = ("gpiod", "gpiozero", "hdrhistogram", "inotify-simple", "msgspec", "pyudev")


class CommandLine:
    """``plugmeter`` as one user, with a place for temporary files that can be looked into."""

    def __init__(self, prefix: tuple[str, ...], python: str, package: Path, temporary: Path) -> None:
        self.temporary = temporary
        self.command = (*prefix, python, "-m", "plugmeter")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self.environment = {
            **kept,
            "PYTHONPATH": str(package),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(temporary),
        }

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one command line to its end."""
        return subprocess.run(
            (*self.command, *arguments),
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd="/",
            env=self.environment,
            check=False,
        )

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin one; whoever asks for it also ends it."""
        return subprocess.Popen(
            (*self.command, *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd="/",
            env=self.environment,
        )

    def left_behind(self) -> list[str]:
        """Names of temporary files that are still there."""
        return sorted(each.name for each in self.temporary.iterdir())


@pytest.fixture
def plugmeter(tmp_path: Path) -> CommandLine:
    """As whoever runs the tests; skips where that user cannot inject uevents."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    return _checked(CommandLine((), sys.executable, FIRMWARE, temporary))


@pytest.fixture
def ordinary() -> Iterator[CommandLine]:
    """As an ordinary user, in a directory that this user may read and write."""
    with tempfile.TemporaryDirectory(prefix="pm-test-") as name:
        place = Path(name)
        temporary = place / "temporary"
        temporary.mkdir()
        if os.geteuid() != 0:
            yield _checked(CommandLine((), sys.executable, FIRMWARE, temporary))
            return
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("needs setpriv, to become an ordinary user")
        # The checkout and the virtual environment may lie where only root may read.
        place.chmod(0o755)
        os.chown(temporary, ORDINARY, ORDINARY)
        package = place / "package"
        shutil.copytree(FIRMWARE / "plugmeter", package / "plugmeter")
        for distribution in _with_requirements(_NEEDED):
            _copy(distribution, package)
        prefix = (setpriv, f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups")
        yield _checked(CommandLine(prefix, _python_for_all(prefix), package, temporary))


def _python_for_all(prefix: tuple[str, ...]) -> str:
    same = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    for python in (sys.executable, "/usr/bin/python3", f"/usr/bin/python3.{sys.version_info[1]}"):
        # setpriv gives its rights up in execve only: ask from inside whether the way there is open
        tried = subprocess.run(
            (*prefix, python, "-c", same), check=False, capture_output=True, cwd="/", env={}
        )
        if tried.returncode == 0:
            return python
    pytest.skip("needs a Python of the same version that an ordinary user may run")


def _with_requirements(names: tuple[str, ...]) -> dict[str, metadata.Distribution]:
    found: dict[str, metadata.Distribution] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another system, or an extra
        for requirement in found[name].requires or ():
            wanted = "".join(letter if letter.isalnum() or letter in "-_." else " " for letter in requirement)
            waiting.append(wanted.split()[0])
    return found


def _copy(name: str, package: Path) -> None:
    distribution = metadata.distribution(name)
    for file in distribution.files or ():
        if ".." in file.parts or file.suffix == ".pyc":
            continue
        target = package / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(file.locate()), target)


_REFUSED: dict[tuple[str, ...], str] = {}
"""By the prefix of the command: why this user cannot inject uevents, or nothing."""


def _checked(command: CommandLine) -> CommandLine:
    user = command.command[:-3]
    if user not in _REFUSED:
        _REFUSED[user] = _refusal(command)
    if _REFUSED[user]:
        pytest.skip(f"needs a namespace to inject uevents in: {_REFUSED[user]}")
    return command


def _refusal(command: CommandLine) -> str:
    done = command("measure", "--sticks", "1", "--cycles", "1", "--quiet")
    if "forbids the namespace" in done.stderr:
        return done.stderr.strip()
    assert done.returncode == 0, done.stderr
    return ""
