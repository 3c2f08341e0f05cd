"""A real mosquitto for tests, on free loopback ports, and certificates to go with it.

    def test_x(tmp_path):
        with Mosquitto(tmp_path) as broker:                        # skips with "needs mosquitto"
            connect("127.0.0.1", broker.port)
            broker.kill()                                          # SIGKILL; nothing was persisted
            broker.start()                                         # the same ports again
            broker.restart()                                       # SIGTERM, then start
            broker.pause(); broker.resume()                        # SIGSTOP, SIGCONT: alive, but says nothing

Listeners: ``port`` (plain) always; with ``Mosquitto(tmp_path, authority=Authority(tmp_path))`` also
``tls_port`` (the authority's good certificate for localhost, 127.0.0.1 and ::1; another with
``server=authority.issue(...)``) and ``mtls_port`` (which demands a client certificate of that authority).
``users={"name": "password"}`` allows these only, on all listeners; ``acl`` is the text of an ACL file;
``extra`` are further lines of the configuration ("max_packet_size 2000", "receive_maximum ..."); ``host`` is
the address to listen at. ``users`` may be changed (``set_users``) and takes effect with the next start.

``Authority(directory)`` makes a CA: ``ca_file``; ``issue(name, hosts=..., valid="now"|"past"|"future")``
gives ``Pair(certificate_file, key_file)``. ``eventually(condition, what)`` waits until something is true.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_STARTING_S = 20.0


def eventually(condition: Callable[[], bool], what: str, limit_s: float = 30.0) -> None:
    """Wait until ``condition`` holds. The limit is for a test that hangs, and measures nothing."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not in {limit_s:g} s: {what}")
        time.sleep(0.01)


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody has, below those that the kernel gives to clients: free also while a broker is down."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(1_000):
        port = random.randrange(10_000, 32_000)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    pytest.fail("no free port")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as PEM files."""

    certificate_file: Path
    key_file: Path


class Authority:
    """A certificate authority of its own for one test."""

    def __init__(self, directory: Path, name: str = "test CA") -> None:
        self._directory = directory / f"ca-{name.replace(' ', '-')}"
        self._directory.mkdir()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        start, end = _validity("now")
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file = self._directory / "ca.pem"
        self.ca_file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "::1"),
        valid: str = "now",
    ) -> Pair:
        """A certificate for a server at ``hosts`` or for a client called ``name``."""
        key = ec.generate_private_key(ec.SECP256R1())
        start, end = _validity(valid)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False
            )
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        serial = f"{certificate.serial_number:x}"[:12]
        pair = Pair(self._directory / f"{serial}.pem", self._directory / f"{serial}.key")
        pair.certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pair.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return pair


def _validity(valid: str) -> tuple[datetime.datetime, datetime.datetime]:
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    return {
        "now": (now - day, now + 365 * day),
        "past": (now - 30 * day, now - day),
        "future": (now + day, now + 30 * day),
    }[valid]


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class Mosquitto:
    """A mosquitto process of one test. Starts with ``with`` or ``start()``; always ends with ``close()``."""

    def __init__(
        self,
        directory: Path,
        *,
        authority: Authority | None = None,
        server: Pair | None = None,
        users: Mapping[str, str] | None = None,
        acl: str | None = None,
        extra: str = "",
        host: str = "127.0.0.1",
    ) -> None:
        found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if found is None:
            pytest.skip("needs mosquitto")
        self._program: str = found
        self._directory = directory / f"mosquitto-{random.randrange(10**9)}"
        self._directory.mkdir()
        self.host = host
        self.log_file = self._directory / "log"
        self._authority = authority
        self._server = server or (authority.issue("broker") if authority else None)
        self._acl = acl
        self._extra = extra
        self._passwords: Path | None = None
        if users is not None:
            self.set_users(users)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = self.tls_port = self.mtls_port = 0

    def set_users(self, users: Mapping[str, str]) -> None:
        """Who may connect, from the next start on."""
        self._passwords = self._directory / "passwords"
        self._passwords.write_text("".join(f"{name}:{password}\n" for name, password in users.items()))
        self._passwords.chmod(0o600)
        program = shutil.which("mosquitto_passwd")
        if program is None:
            pytest.skip("needs mosquitto_passwd")
        if users:
            subprocess.run([program, "-U", self._passwords], check=True, capture_output=True)

    def __enter__(self) -> Mosquitto:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, on the ports that it had before, and wait until it listens."""
        assert not self.running
        chosen = self.port != 0
        for _ in range(1 if chosen else 5):
            if not chosen:
                self.port, self.tls_port, self.mtls_port = (free_port(self.host) for _ in range(3))
            if self._try_start():
                return
        pytest.fail(f"mosquitto does not start: {self.log()[-2000:]}")

    def stop(self) -> None:
        """End it with SIGTERM."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL, connections and all."""
        self._end(signal.SIGKILL)

    def restart(self, *, kill: bool = False) -> None:
        self._end(signal.SIGKILL if kill else signal.SIGTERM)
        self.start()

    def pause(self) -> None:
        """SIGSTOP: the sockets stay, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        if self.running:
            self.resume()
            self._end(signal.SIGKILL)

    def log(self) -> str:
        """What it said so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def _try_start(self) -> bool:
        (self._directory / "mosquitto.conf").write_text(self._configuration())
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-c", self._directory / "mosquitto.conf"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        ports = [self.port, *((self.tls_port, self.mtls_port) if self._authority else ())]
        deadline = time.monotonic() + _STARTING_S
        while self.running and time.monotonic() < deadline:
            if all(_listens(self.host, port) for port in ports):
                return True
            time.sleep(0.01)
        self.close()
        return False

    def _configuration(self) -> str:
        lines = ["per_listener_settings false", "persistence false", "log_type all", "log_dest stderr"]
        if os.geteuid() == 0:
            lines.append("user root")  # else it becomes "mosquitto", which cannot read the test's folder
        if self._passwords is not None:
            lines += ["allow_anonymous false", f"password_file {self._passwords}"]
        else:
            lines.append("allow_anonymous true")
        if self._acl is not None:
            (self._directory / "acl").write_text(self._acl)
            (self._directory / "acl").chmod(0o600)
            lines.append(f"acl_file {self._directory / 'acl'}")
        lines += [self._extra, f"listener {self.port} {self.host}"]
        if self._authority is not None and self._server is not None:
            for port, demand in ((self.tls_port, "false"), (self.mtls_port, "true")):
                lines += [
                    f"listener {port} {self.host}",
                    f"cafile {self._authority.ca_file}",
                    f"certfile {self._server.certificate_file}",
                    f"keyfile {self._server.key_file}",
                    f"require_certificate {demand}",
                ]
        return "\n".join(lines) + "\n"

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=_STARTING_S)
            self._process = None


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True
