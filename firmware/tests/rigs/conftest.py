"""Runs scripts in namespaces of their own, as the user who runs the tests and as an ordinary one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
FIRMWARE = HERE.parents[1]
ORDINARY = 65534
_LIMIT_S = 120
_USABLE = "import os, sys; sys.exit(sys.version_info < (3, 11) or not os.access(sys.executable, os.X_OK))"


class Runner:
    """A Python of the user's, with the package and the scripts on its path."""

    def __init__(self, prefix: tuple[str, ...], python: str, package: Path, uid: int) -> None:
        self.uid = uid
        self._command = (*prefix, python)
        path = os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH"))))
        self._environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        self._directory = package

    def code(self, source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("-c", source, *arguments)

    def script(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        ran = self._run(str(self._directory / "tests/rigs/scripts" / name), json.dumps(options))
        assert ran.returncode == 0, ran.stderr
        answer: dict[str, Any] = json.loads(ran.stdout)
        return answer

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            (*self._command, *arguments),
            env=self._environment,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )


@pytest.fixture(scope="session")
def myself() -> Runner:
    """As whoever runs the tests; skips where that user cannot inject uevents."""
    return _checked(Runner((), sys.executable, FIRMWARE, os.geteuid()))


@pytest.fixture(scope="session")
def ordinary() -> Iterator[Runner]:
    """As an ordinary user, standard library only; skips where such a user cannot inject uevents."""
    if os.geteuid() != 0:
        yield _checked(Runner((), sys.executable, FIRMWARE, os.geteuid()))
        return
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("needs setpriv, to become an ordinary user")
    prefix = (setpriv, f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups")
    with tempfile.TemporaryDirectory(prefix="plugmeter-test-") as directory:
        # The checkout and the virtual environment may lie where only root may read.
        package = Path(directory)
        package.chmod(0o755)
        shutil.copytree(FIRMWARE / "plugmeter", package / "plugmeter")
        shutil.copytree(HERE / "scripts", package / "tests/rigs/scripts")
        for python in (sys.executable, "/usr/bin/python3"):
            # setpriv gives its rights up in execve only: ask from inside whether the way there is open
            tried = subprocess.run(
                (*prefix, python, "-c", _USABLE), check=False, capture_output=True, cwd="/", env={}
            )
            if tried.returncode == 0:
                yield _checked(Runner(prefix, python, package, ORDINARY))
                return
        pytest.skip("needs a Python 3.11 or newer that an ordinary user may run")


def _checked(runner: Runner) -> Runner:
    ran = runner.code(
        "from plugmeter.errors import RigError\n"
        "from plugmeter.rigs.namespace import enter\n"
        "try: enter()\n"
        "except RigError as error: raise SystemExit(f'refused: {error}')\n"
    )
    if ran.stderr.startswith("refused: "):
        pytest.skip(f"needs a namespace to inject uevents in: {ran.stderr.strip()}")
    assert ran.returncode == 0, ran.stderr
    return runner
