"""A state directory on a file system of its own that can be frozen: who writes to it hangs, in state D."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest


class FrozenDisk:
    """Thawed at its end, whatever has come: a process that waits for it cannot even be killed."""

    def __init__(self, folder: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root, to mount a file system")
        image, self.place = folder / "image", folder / "state"
        self.place.mkdir()
        with image.open("wb") as file:
            file.truncate(64 << 20)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
        mounted = subprocess.run(
            ["mount", "-o", "loop", str(image), str(self.place)], capture_output=True, text=True, check=False
        )
        if mounted.returncode:
            pytest.skip(f"needs loop devices: {mounted.stderr.strip()}")
        self._is_frozen = False

    def __enter__(self) -> FrozenDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.thaw()
        subprocess.run(["umount", str(self.place)], check=True)

    def freeze(self) -> None:
        subprocess.run(["fsfreeze", "--freeze", str(self.place)], check=True)
        self._is_frozen = True

    def thaw(self) -> None:
        """Idempotent."""
        if self._is_frozen:
            subprocess.run(["fsfreeze", "--unfreeze", str(self.place)], check=True)
            self._is_frozen = False
