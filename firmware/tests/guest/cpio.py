"""Initramfs archives in the "newc" format (kernel: driver-api/early-userspace/buffer-format.rst).

Written here rather than with cpio(1), so that an ordinary user can put root's files and device nodes
into an archive, and so that equal inputs give equal bytes. Archives may be concatenated: the kernel
unpacks one after the other into the same root.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import BinaryIO


class CpioWriter:
    """Writes entries owned by root with a fixed time; ``close`` ends the archive (not the file)."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._ino = 0
        self._at = 0

    def directory(self, name: str) -> None:
        """A directory; its parents must have come before it."""
        self._entry(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, data: bytes, executable: bool = False) -> None:
        """A regular file."""
        self._entry(name, stat.S_IFREG | (0o755 if executable else 0o644), data)

    def symlink(self, name: str, target: str) -> None:
        """A symbolic link, taken as it is."""
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def device(self, name: str, major: int, minor: int) -> None:
        """A character device node, which needs no privilege here."""
        self._entry(name, stat.S_IFCHR | 0o600, b"", major, minor)

    def tree(self, root: Path) -> None:
        """Everything below ``root``, sorted, without ``root`` itself."""
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.is_symlink():
                self.symlink(name, str(path.readlink()))
            elif path.is_dir():
                self.directory(name)
            else:
                self.file(name, path.read_bytes(), executable=bool(path.stat().st_mode & 0o100))

    def close(self) -> None:
        """Write the trailer and pad to 512 bytes, so that another archive may follow."""
        self._entry("TRAILER!!!", 0, b"")
        self._pad(512)

    def _entry(self, name: str, mode: int, data: bytes, major: int = 0, minor: int = 0) -> None:
        self._ino += 1
        encoded = name.encode() + b"\0"
        nlink = 2 if stat.S_ISDIR(mode) else 1
        fields = (self._ino, mode, 0, 0, nlink, 0, len(data), 0, 0, major, minor, len(encoded), 0)
        self._write(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)
        self._pad(4)
        self._write(data)
        self._pad(4)

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._at += len(data)

    def _pad(self, boundary: int) -> None:
        self._write(b"\0" * (-self._at % boundary))
