"""The real daemon as a child process, and a client that looks on at the broker."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.telemetry.broker import eventually

FIRMWARE = Path(__file__).resolve().parents[2]
DEVICE = "bench-1"
BASE = f"plugmeter/v1/{DEVICE}"


def environment(**more: str) -> dict[str, str]:
    """Of every child: this checkout's plugmeter."""
    return {**os.environ, "PYTHONPATH": str(FIRMWARE), "PYTHONUNBUFFERED": "1", **more}


def configuration(folder: Path, port: int | None, text: str = "", *, rig: str = "none") -> Path:
    """A configuration file in ``folder``; ``text`` is more of it."""
    path = folder / "plugmeter.toml"
    broker = f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\nack_timeout_s = 1.0\n' if port else ""
    path.write_text(
        f'[daemon]\ndevice = "{DEVICE}"\nstate_directory = "{folder}/state"\nrig = "{rig}"\n'
        f'metrics = "unix:{folder}/metrics.sock"\n'
        f"[rig]\nsticks = 4\ncycles = 1\nports = 4\n{broker}{text}"
    )
    return path


class Daemon:
    """``plugmeter run`` with a notify socket that is read."""

    def __init__(self, folder: Path, config: Path, *, before: Sequence[str] = (), **more: str) -> None:
        """``before`` are words in front of the command: a program that ends as ours (exec). ``more`` goes
        into its environment."""
        self.folder = folder
        self.config = config
        self.state = folder / "state"
        self._before = before
        self._more = more
        self._starts = 0
        self._listeners: list[socket.socket] = []

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for listener in self._listeners:  # so that no thread of ours is left for the tests to come
            listener.shutdown(socket.SHUT_RDWR)

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it is ready."""
        self._starts += 1
        address = self.folder / f"notify{self._starts}"
        self.notifications: list[str] = []
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.bind(str(address))
        self._listeners.append(listener)
        threading.Thread(target=self._listen, args=(listener,), daemon=True).start()
        with open(self.folder / "daemon.log", "ab") as log:
            self.process = subprocess.Popen(
                [*self._before, sys.executable, "-m", "plugmeter", "run", "--config", str(self.config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=environment(NOTIFY_SOCKET=str(address), **self._more),
            )  # fmt: skip
        if wait:
            self.await_notified("READY=1")

    def _listen(self, listener: socket.socket) -> None:
        with listener:
            while data := listener.recv(65_536):
                self.notifications.extend(data.decode(errors="replace").splitlines())

    def await_notified(self, line: str, times: int = 1, limit_s: float = 60.0) -> None:
        """Until systemd would have heard ``line``."""
        eventually(
            lambda: self.notifications.count(line) >= times or self.process.poll() is not None,
            f"{line}; {self.log()[-1500:]}",
            limit_s,
        )
        assert self.notifications.count(line) >= times, self.log()[-3000:]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM, limit_s: float = 60.0) -> int:
        """An orderly end; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(limit_s)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        return (self.folder / "daemon.log").read_text(errors="replace")

    def ask(self, page: str) -> tuple[int, str]:
        """A page of the metrics socket: status and body."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(self.folder / "metrics.sock"))
            client.sendall(f"GET {page} HTTP/1.0\r\n\r\n".encode())
            answer = b""
            while part := client.recv(65_536):
                answer += part
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode()

    def figures(self) -> dict[str, Any]:
        """What /status tells."""
        figures: dict[str, Any] = json.loads(self.ask("/status")[1])
        return figures


class SmallDisk:
    """The state directory on a file system of its own, which can be filled up."""

    def __init__(self, folder: Path, kib: int = 2048) -> None:
        place = folder / "state"
        place.mkdir()
        script = 'mount -t tmpfs -o size="$1"k none "$2" && shift 2 && exec "$@"'
        self.before = ("unshare", "-Urm", "sh", "-c", script, "sh", str(kib), str(place))
        done = subprocess.run([*self.before, "true"], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"needs user namespaces with a tmpfs: {done.stderr.strip()}")

    def of(self, daemon: Daemon) -> Path:
        """The state directory as ``daemon`` sees it."""
        return Path(f"/proc/{daemon.process.pid}/root{daemon.state}")

    def fill(self, daemon: Daemon) -> Path:
        """Leave no byte free; the file that takes it all."""
        filler = self.of(daemon) / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (65_536, 4_096, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size):
                        pass
        return filler


class Onlooker:
    """A client at the broker: keeps the last payload of each topic and every record; sends acks when told."""

    def __init__(self, port: int, *, acknowledges: bool = False, device: str = DEVICE) -> None:
        self.device = device
        self.base = f"plugmeter/v1/{device}"
        self.last: dict[str, bytes] = {}
        self.all: dict[str, list[bytes]] = defaultdict(list)
        self.events: list[dict[str, Any]] = []
        self.acknowledges = acknowledges
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_message = self._heard
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def __enter__(self) -> Onlooker:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _heard(self, client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
        self.last[message.topic] = bytes(message.payload)
        self.all[message.topic].append(bytes(message.payload))
        if message.topic == f"{self.base}/records":
            found = json.loads(message.payload)
            self.events.extend(found)
            if self.acknowledges:
                self.acknowledge(found)

    def acknowledge(self, events: Sequence[Mapping[str, Any]]) -> None:
        """As a controller does after its commit."""
        by_stream: dict[str, list[list[int]]] = defaultdict(list)
        for event in events:
            stream, _, number = event["id"].partition("/")
            first, _, last = number.partition("-")
            by_stream[stream].append([int(first), int(last or first)])
        for stream, ranges in by_stream.items():
            self.publish(f"{self.base}/acks", {"stream": stream, "ranges": ranges}, retain=False)

    def publish(self, topic: str, document: object, *, retain: bool = True) -> None:
        payload = document if isinstance(document, bytes) else json.dumps(document).encode()
        self._client.publish(topic, payload, qos=1, retain=retain)

    def document(self, topic: str) -> dict[str, Any]:
        """The last document of a topic below the device's; empty where there was none."""
        payload = self.last.get(f"{self.base}/{topic}", b"")
        with contextlib.suppress(ValueError):
            found = json.loads(payload)
            if isinstance(found, dict):
                return found
        return {}

    def kinds(self) -> list[str]:
        """The kinds of all records, in order."""
        return [event["type"].split(".")[1] for event in self.events]

    def command(self, op: str, command_id: str, arguments: Mapping[str, Any] | None = None) -> None:
        now = time.time()
        self.publish(
            f"{self.base}/cmd/{op}/{command_id}",
            {
                "state": "init", "device": self.device, "op": op, "id": command_id,
                "issued": _rfc3339(now), "expires": _rfc3339(now + 3600), "arguments": arguments or {},
            },
        )  # fmt: skip

    def await_state(self, op: str, command_id: str, limit_s: float = 90.0) -> dict[str, Any]:
        """The final state of a command."""
        topic = f"cmd/{op}/{command_id}"
        final = ("successful", "failed", "refused")
        eventually(lambda: self.document(topic).get("state") in final, f"the end of {op}", limit_s)
        return self.document(topic)


def _rfc3339(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
