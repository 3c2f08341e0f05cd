"""A second machine to test on: Debian's arm64 kernel in QEMU, with GPIO lines that the host drives.

    check_host()
    with Guest(image(), source=repository, log=tmp_path / "console.log") as guest:
        result = guest.run(["python3", "-m", "pytest", ...], seconds=120)

Inside, PLUGMETER_GPIO_DRIVER names a character device. A line "set 5 1" written to it raises line 5 of
/dev/gpiochip0, a PL061, and "ok" comes back when the guest's kernel has taken the interrupt;
"error ..." where it could not be done. QEMU's test protocol (``-qtest``) moves the lines.

The guest has one processor, so that a test which drives lines cannot outrun the kernel: the thread in
which it makes GPIO events has real-time priority, and so has made the event before the test goes on.
(With two, up to 49 of 100 edges fell together on a busy host; with one, none did.)
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.guest.agent import COMMANDS, LINES
from tests.guest.build import Image, Missing
from tests.guest.cpio import CpioWriter

QEMU = "qemu-system-aarch64"
BOOT_SECONDS = 180
POWER_KEY_LINE = 3
"""The PL061's line that -M virt wires to the guest's power key."""
PL061_BASE, GPIOIE, GPIORIS = 0x0903_0000, 0x410, 0x414
"""Where -M virt has its PL061, and its registers of enabled and raw interrupts (Arm DDI 0190B); read only."""


def check_host() -> None:
    """Raises Missing where no guest could be run, before anybody builds one."""
    if shutil.which(QEMU) is None:
        raise Missing(f"needs {QEMU} (scripts/test installs it as root)")


class GuestDied(Exception):
    """QEMU ended, or did not answer in time; the text ends with the console's last lines."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a command in the guest ended: ``status`` is None where it was killed for taking too long."""

    status: int | None
    output: str


class Guest:
    """One boot of the guest. Not for several threads; ``run`` takes one command at a time."""

    def __init__(self, image: Image, source: Path, log: Path) -> None:
        self._image, self._source, self._log = image, source, log
        self._qemu: subprocess.Popen[bytes] | None = None
        self._sockets: list[socket.socket] = []
        self._lines: threading.Thread | None = None
        self.kernel = ""
        """The guest's kernel release, after ``start``."""

    def start(self) -> None:
        """Boot, and return when the guest can run commands. Raises GuestDied."""
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def run(self, argv: Sequence[str], seconds: float, env: Mapping[str, str] | None = None) -> Result:
        """Run ``argv`` in /src, a copy of the source; stdout and stderr come back together."""
        send = json.dumps({"argv": list(argv), "env": dict(env or {}), "seconds": seconds}) + "\n"
        self._commands.sendall(send.encode())
        output: list[str] = []
        deadline = time.monotonic() + seconds + 30
        while True:
            message = self._message(deadline)
            if "status" in message:
                return Result(message["status"], "".join(output))
            output.append(message["out"])

    def close(self) -> None:
        """End QEMU; the guest has nothing on disk to lose."""
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait()
            self._qemu = None
        # With QEMU gone the thread reads an end of file.
        if self._lines is not None:
            self._lines.join()
            self._lines = None
        while self._sockets:
            self._sockets.pop().close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        with tempfile.TemporaryDirectory(prefix="guest-") as name:
            scratch = Path(name)
            initrd = scratch / "initrd"
            with open(initrd, "wb") as out:
                with open(self._image.root, "rb") as root:
                    shutil.copyfileobj(root, out, 1 << 20)
                _source_archive(self._source, CpioWriter(out))
            self._boot(scratch, initrd)
            # By now QEMU has read the archive and every socket is connected.

    def _boot(self, scratch: Path, initrd: Path) -> None:
        listening = {}
        for channel in ("qtest", "qmp", "commands", "lines"):
            listening[channel] = socket.socket(socket.AF_UNIX)
            self._sockets.append(listening[channel])
            listening[channel].bind(str(scratch / channel))
            listening[channel].listen(1)
        unix = {channel: f"socket,id={channel},path={scratch / channel}" for channel in listening}
        said = open(self._log.with_suffix(".qemu"), "wb")  # noqa: SIM115 - a stream for QEMU, closed below
        self._qemu = subprocess.Popen(
            [
                QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-M", "virt", "-cpu", "cortex-a57", "-smp", "1", "-m", "1G",
                "-accel", "tcg,thread=multi",
                "-kernel", str(self._image.kernel), "-initrd", str(initrd),
                "-append", "console=ttyAMA0 quiet panic=-1",
                "-serial", f"file:{self._log}",
                "-chardev", unix["qtest"], "-qtest", "chardev:qtest", "-qtest-log", "/dev/null",
                "-chardev", unix["qmp"], "-mon", "chardev=qmp,mode=control",
                "-device", "virtio-serial-pci",
                "-chardev", unix["commands"], "-device", f"virtserialport,chardev=commands,name={COMMANDS}",
                "-chardev", unix["lines"], "-device", f"virtserialport,chardev=lines,name={LINES}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )  # fmt: skip
        said.close()
        connected = {channel: self._accept(server) for channel, server in listening.items()}
        self._commands = connected["commands"]
        self._buffer = b""
        lines = _Lines(connected["lines"], connected["qtest"], _pl061(connected["qmp"]))
        self._lines = threading.Thread(target=lines.serve, name="guest-lines")
        self._lines.start()
        self.kernel = self._message(time.monotonic() + BOOT_SECONDS)["ready"]

    def _accept(self, server: socket.socket) -> socket.socket:
        server.settimeout(20)
        try:
            connection, _ = server.accept()
        except TimeoutError:
            raise GuestDied(f"QEMU did not start: {self._last_words()}") from None
        self._sockets.append(connection)
        return connection

    def _message(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._commands], [], [], left)[0]:
                raise GuestDied(f"the guest did not answer in time: {self._last_words()}")
            piece = self._commands.recv(65536)
            if not piece:
                raise GuestDied(f"the guest is gone: {self._last_words()}")
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def _last_words(self) -> str:
        said = b""
        for log in (self._log.with_suffix(".qemu"), self._log):
            if log.exists():
                said += log.read_bytes()[-2000:]
        return said.decode(errors="replace")


class _Lines:
    """Answers the guest's "set LINE LEVEL" by moving that input of the PL061."""

    def __init__(self, guest: socket.socket, qtest: socket.socket, chip: str) -> None:
        self._guest, self._qtest, self._chip = guest, qtest, chip

    def serve(self) -> None:
        """Until QEMU ends."""
        try:
            with self._guest.makefile("rb") as requests:
                for request in requests:
                    self._guest.sendall(
                        self._answer(request.decode(errors="replace").split()).encode() + b"\n"
                    )
        except ConnectionError:
            return  # QEMU was ended between a question and its answer.

    def _answer(self, words: list[str]) -> str:
        match words:
            case ["set", line, "0" | "1" as level] if line in {"0", "1", "2", "4", "5", "6", "7"}:
                moved = self._ask(f"set_irq_in {self._chip} unnamed-gpio-in {line} {level}")
                if moved != ["OK"]:
                    return f"error QEMU said {' '.join(moved)}"
                return self._taken(1 << int(line))
        return f"error expected: set LINE 0|1, LINE 0 to 7 but not {POWER_KEY_LINE}, the power key"

    def _taken(self, bit: int) -> str:
        """Wait until the guest has acknowledged the line's interrupt, if it has that enabled.

        Otherwise the next edge could fall into the same interrupt, and how many edges the guest's
        kernel sees would depend on how busy this machine is.
        """
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if not self._register(GPIORIS) & bit or not self._register(GPIOIE) & bit:
                return "ok"
        return "error the guest did not take the interrupt within 5 s"

    def _register(self, offset: int) -> int:
        return int(self._ask(f"readl {PL061_BASE + offset:#x}")[1], 16)

    def _ask(self, command: str) -> list[str]:
        self._qtest.sendall(command.encode() + b"\n")
        reply = b""
        while not reply.endswith(b"\n"):
            piece = self._qtest.recv(4096)
            if not piece:
                raise ConnectionResetError
            reply += piece
        return reply.decode().split()


def _pl061(qmp: socket.socket) -> str:
    """The QOM path of the machine's GPIO chip, asked of QEMU's monitor."""
    with qmp.makefile("rwb") as monitor:

        def ask(execute: str, **arguments: str) -> Any:
            monitor.write(json.dumps({"execute": execute, "arguments": arguments}).encode() + b"\n")
            monitor.flush()
            while "return" not in (reply := json.loads(monitor.readline())):
                if "error" in reply:
                    raise GuestDied(f"QEMU's monitor refused {execute}: {reply['error']}")
            return reply["return"]

        monitor.readline()  # the greeting
        ask("qmp_capabilities")
        parent = "/machine/unattached"
        for child in ask("qom-list", path=parent):
            if child["type"] == "child<pl061>":
                return f"{parent}/{child['name']}"
    raise GuestDied("this QEMU's virt machine has no PL061")


def _source_archive(source: Path, archive: CpioWriter) -> None:
    """Our own tree, as it is on disk now, to /src; and the entry points that an installation would have."""
    archive.directory("src")
    archive.file("src/pyproject.toml", (source / "pyproject.toml").read_bytes())
    archive.directory("src/firmware")
    for top, directories, files in os.walk(source / "firmware"):
        directories[:] = sorted(name for name in directories if not name.startswith((".", "__")))
        here = Path(top)
        for name in directories:
            archive.directory(f"src/{(here / name).relative_to(source)}")
        for name in sorted(files):
            if name.endswith((".py", ".json", ".toml", ".typed")):
                archive.file(f"src/{(here / name).relative_to(source)}", (here / name).read_bytes())
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    info = "src/firmware/plugmeter-0.dist-info"
    archive.directory(info)
    archive.file(f"{info}/METADATA", b"Metadata-Version: 2.1\nName: plugmeter\nVersion: 0\n")
    points = "".join(
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in members.items())
        for group, members in project["entry-points"].items()
    )
    archive.file(f"{info}/entry_points.txt", points.encode())
    archive.close()
