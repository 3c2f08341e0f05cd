"""The trial of a namespace, as the daemon makes it: from a process that blocks all its signals."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.daemon.process import environment

# Prints, for each trial's process that is seen, the signals that it blocks; then what the questions cost.
PROGRAM = """
import json, os, pathlib, threading
from plugmeter.lifecycle import signals
signals.block()
from plugmeter.errors import RigError
from plugmeter.runner.means import check_means

seen = {}
over = threading.Event()

def look():
    while not over.is_set():
        for task in pathlib.Path("/proc/self/task").iterdir():
            try:
                for child in (task / "children").read_text().split():
                    if b"--try-namespace" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes():
                        status = pathlib.Path(f"/proc/{child}/status").read_text()
                        (blocked,) = (line for line in status.splitlines() if line.startswith("SigBlk:"))
                        seen[child] = int(blocked.split()[1], 16)
            except OSError:
                continue  # gone meanwhile

def ask(**how):
    try:
        check_means("injected", **how)
    except RigError as error:
        return str(error)
    return ""

before = len(os.listdir("/proc/self/fd"))
looker = threading.Thread(target=look, daemon=True)
looker.start()
answers, counts = [], []
for how in ({}, {}, {"anew": True}, {}):
    answers.append(ask(**how))
    counts.append(len(seen))
over.set()
looker.join()
print(json.dumps({"answers": answers, "counts": counts, "blocked": list(seen.values()),
                  "left": len(os.listdir("/proc/self/fd")) - before}))
"""


def made(*before: str) -> dict[str, Any]:
    done = subprocess.run(
        [*before, sys.executable, "-c", PROGRAM],
        capture_output=True, text=True, env=environment(), timeout=120, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_success_is_tried_once_and_its_process_can_be_told_to_end() -> None:
    found = made()
    if any(found["answers"]):
        pytest.skip(f"needs a namespace: {found['answers'][0]}")
    assert found["counts"] == [1, 1, 2, 2]
    assert found["blocked"] == [0, 0]
    assert found["left"] == 0


def test_a_refusal_is_not_remembered() -> None:
    script = 'echo 0 > /proc/sys/user/max_net_namespaces && exec "$@"'
    limited = ("unshare", "-Ur", "sh", "-c", script, "sh")
    tried = subprocess.run([*limited, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"needs user namespaces: {tried.stderr.strip()}")
    found = made(*limited)
    assert all("sysctl" in each for each in found["answers"])
    assert found["counts"] == [1, 2, 3, 4]
    assert found["left"] == 0
