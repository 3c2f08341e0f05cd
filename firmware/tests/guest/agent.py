"""Runs in the guest: takes one command a line from the host and sends back what it prints and how it ends.

Both ways one JSON object a line. Host: ``{"argv": [...], "env": {...}, "seconds": 60}``. Guest:
``{"ready": "6.12..."}`` once, then for each command any number of ``{"out": "text"}`` and one
``{"status": n}``; n is negative for a signal and null where the time was up.
"""

from __future__ import annotations

import json
import os
import platform
import selectors
import signal
import subprocess
import time
from pathlib import Path
from typing import BinaryIO

COMMANDS, LINES = "plugmeter.commands", "plugmeter.lines"


def port(name: str) -> Path:
    """The device node of a virtio-serial port; without udevd nothing links it in /dev/virtio-ports."""
    for entry in Path("/sys/class/virtio-ports").iterdir():
        if (entry / "name").read_text().strip() == name:
            return Path("/dev", entry.name)
    raise FileNotFoundError(f"no virtio-serial port named {name}")


def run(command: dict[str, object], host: int, out: BinaryIO) -> int | None:
    """Run one command to its end or its time limit, passing on what it prints as it comes.

    ``host`` is the port's descriptor: readable during a command only when the host has gone, which ends it.
    """
    argv, env, seconds = command["argv"], command["env"], command["seconds"]
    assert isinstance(argv, list) and isinstance(env, dict) and isinstance(seconds, int | float)
    given = {
        "PYTHONPATH": "/src/firmware",
        # Hypothesis's plugin makes pytest rewrite all of it, 14 s under emulation; @given needs none.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PLUGMETER_GPIO_DRIVER": str(port(LINES)),
        **env,
    }
    child = subprocess.Popen(
        argv,
        env={**os.environ, **given},
        cwd="/src",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert child.stdout is not None
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        selector.register(host, selectors.EVENT_READ)
        while ready := selector.select(max(0.0, deadline - time.monotonic())):
            if any(key.fd == host for key, _ in ready):
                os.killpg(child.pid, signal.SIGKILL)
                # Not by way of an answer: writing to a port that nobody has open waits for ever.
                raise SystemExit("the host has gone")
            if not (piece := os.read(child.stdout.fileno(), 65536)):
                return child.wait()
            send(out, {"out": piece.decode(errors="replace")})
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    return None


def send(out: BinaryIO, message: dict[str, object]) -> None:
    """One line to the host, at once."""
    out.write(json.dumps(message).encode() + b"\n")
    out.flush()


def main() -> None:
    """Serve commands until the host closes the port or the machine."""
    with open(port(COMMANDS), "r+b", buffering=0) as raw:
        # One descriptor for both ways: a port can be opened once only.
        reader, writer = os.fdopen(os.dup(raw.fileno()), "rb"), os.fdopen(os.dup(raw.fileno()), "wb")
        send(writer, {"ready": platform.release()})
        for line in reader:
            send(writer, {"status": run(json.loads(line), raw.fileno(), writer)})


if __name__ == "__main__":
    main()
