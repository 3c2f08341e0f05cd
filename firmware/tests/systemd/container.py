"""A real systemd as PID 1, in a container on this machine's kernel and network.

with Container(root(), tmp_path) as box:
    box.write("etc/plugmeter/plugmeter.toml", text)
    box.run("systemctl", "start", "plugmeter")
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.systemd.build import CHECKOUT, SOURCE

BOOT_S = 60
"""Booting takes half a second; after so long something is wrong."""

_BOOT = """
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
exec systemd-nspawn --quiet --directory="$1" --machine="$2" --register=no --keep-unit --console=pipe \
    --bind-ro="$3:$4" --boot
"""


class Container:
    """The tree copied, booted at ``__enter__`` and thrown away at ``__exit__``."""

    def __init__(self, tree: Path, scratch: Path) -> None:
        self.root = scratch / "root"
        self._tree = tree
        self._console = scratch / "console.log"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> Container:
        subprocess.run(["cp", "-a", "--reflink=auto", str(self._tree), str(self.root)], check=True)
        shutil.copytree(SOURCE / "overlays/rootfs", self.root, dirs_exist_ok=True)
        command = [
            "sh",
            "-c",
            _BOOT,
            "boot",
            str(self.root),
            f"plugmeter-{os.getpid()}",
            str(SOURCE),
            CHECKOUT,
        ]
        with open(self._console, "wb") as console:
            self._nspawn = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", *command],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            )  # fmt: skip
        try:
            self.wait(self._is_up, "the container's boot", BOOT_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        nspawn = self._nspawn
        if nspawn is not None and nspawn.poll() is None:
            if self._leader:
                os.kill(self._leader, signal.SIGKILL)  # PID 1 of the container, and all in it
            try:
                nspawn.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(nspawn.pid, signal.SIGKILL)
                nspawn.wait()
        shutil.rmtree(self.root, ignore_errors=True)

    def run(self, *argv: str, check: bool = True, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root; its output comes back as text."""
        done = subprocess.run(
            [
                "nsenter", f"--target={self._leader}", "--mount", "--uts", "--ipc", "--pid", "--cgroup",
                "--", *argv,
            ],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{' '.join(argv)} gave {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the container."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit, as `systemctl show` has them."""
        out = self.run("systemctl", "show", unit, *(f"--property={name}" for name in properties)).stdout
        return dict(line.split("=", 1) for line in out.splitlines() if "=" in line)

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """The journal's entries with all their fields, oldest first."""
        out = self.run("journalctl", "--no-pager", "--output=json", *matches).stdout
        return [json.loads(line) for line in out.splitlines()]

    def outside(self, pid: int) -> int:
        """A process's number here, which has another one inside (NSpid of proc_pid_status(5))."""
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                lines = status.read_text().splitlines()
            except OSError:
                continue  # it has ended
            numbers = next((line.split()[1:] for line in lines if line.startswith("NSpid:")), [])
            if len(numbers) > 1 and int(numbers[-1]) == pid and self._is_inside(status.parent):
                return int(status.parent.name)
        raise AssertionError(f"nobody has number {pid} inside")

    def _is_inside(self, process: Path) -> bool:
        leader = Path(f"/proc/{self._leader}/ns/pid")
        try:
            return (process / "ns/pid").readlink() == leader.readlink()
        except OSError:
            return False

    def wait(self, ready: Callable[[], bool], what: str, seconds: float = 60) -> None:
        """Until ``ready``; fails with what the container has said if that takes too long."""
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline or (self._nspawn is not None and self._nspawn.poll() is not None):
                said = self._console.read_text(errors="replace")[-4000:]
                raise AssertionError(f"waited for {what} in vain; the container said: {said}")
            time.sleep(0.05)

    def _is_up(self) -> bool:
        if not self._leader and not self._find_leader():
            return False
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    def _find_leader(self) -> bool:
        """The PID, here, of the container's PID 1: nspawn's child that is called systemd."""
        assert self._nspawn is not None
        for child in _children(self._nspawn.pid):
            try:
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    self._leader = child
                    return True
            except FileNotFoundError:
                continue
        return False


def _children(pid: int) -> Sequence[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
