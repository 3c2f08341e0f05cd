"""The broker: where it is, who we are to it, and a paho client made for it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from plugmeter.errors import UsageError

_CONNECT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """How to reach the broker. ``tls`` is None for an unencrypted connection."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    username: str | None = None
    password: str | None = None
    keepalive_s: int = 15

    @property
    def name(self) -> str:
        """As people write it."""
        scheme = "mqtts" if self.tls else "mqtt"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"

    def client(self, client_id: str, *, manual_ack: bool = False) -> Client:
        """A paho client, MQTT 5, that is not connected yet. It belongs to one thread and one connection."""
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            manual_ack=manual_ack,
            reconnect_on_failure=False,
        )
        client.connect_timeout = _CONNECT_S
        client.max_queued_messages_set(1_000)
        if self.username is not None:
            client.username_pw_set(self.username, self.password)
        if self.tls is not None:
            client.tls_set_context(self.tls)
        return client


def settings_from(
    url: str,
    *,
    ca_file: Path | None = None,
    certificate_file: Path | None = None,
    key_file: Path | None = None,
    username: str | None = None,
    password_file: Path | None = None,
) -> BrokerSettings:
    """From ``mqtt://host``, ``mqtts://host:port``, ``host`` or ``host:port``. Raises UsageError."""
    text = url if "://" in url else f"mqtt://{url}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"--broker {url}: {error}; give mqtt://HOST:PORT or mqtts://HOST:PORT") from error
    if parts.scheme not in ("mqtt", "mqtts") or not host or parts.path not in ("", "/") or parts.query:
        raise UsageError(f"--broker {url}: give mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS")
    if parts.username is not None or parts.password is not None:
        raise UsageError("--broker: no name and password in the URL; use --username and --password-file")
    encrypted = parts.scheme == "mqtts"
    if not encrypted and (ca_file or certificate_file or key_file):
        raise UsageError(f"--broker {url}: certificates are for TLS; give mqtts://{host}")
    if bool(certificate_file) != bool(key_file):
        raise UsageError("--certificate and --key-file belong together: give both or neither")
    if password_file is not None and username is None:
        raise UsageError("--password-file without --username: give both")
    return BrokerSettings(
        host=host,
        port=port or (8883 if encrypted else 1883),
        tls=_tls(ca_file, certificate_file, key_file) if encrypted else None,
        username=username,
        password=_password(password_file) if password_file else None,
    )


def _tls(ca_file: Path | None, certificate_file: Path | None, key_file: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(f"--ca-file {ca_file}: {_reason(error)}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate_file and key_file:
        try:
            # A key that wants a password must not ask a terminal that may not be there.
            context.load_cert_chain(certificate_file, key_file, password=b"")
        except OSError as error:
            raise UsageError(
                f"--certificate {certificate_file}, --key-file {key_file}: {_reason(error)}"
            ) from error
    return context


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "they are no PEM files that fit together"
    return (error.strerror or str(error)).lower()


def _password(path: Path) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            line = file.readline(4_096)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"--password-file {path}: {(reason or str(error)).lower()}") from error
    password = line.rstrip("\r\n")
    if not password:
        raise UsageError(f"--password-file {path}: its first line is empty")
    return password
