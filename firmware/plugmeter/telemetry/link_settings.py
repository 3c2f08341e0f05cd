"""What the link is told: the broker and its files, and how long it waits for what."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from plugmeter.errors import UsageError
from plugmeter.sections import Config
from plugmeter.telemetry.credentials import password_path, read_password, tls_context

_PORT = 1883
_TLS_PORT = 8883


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long the link waits, in seconds."""

    connect_s: float = 10.0
    """For name, TCP and TLS."""
    answer_s: float = 15.0
    """A broker that was asked something and says nothing at all for so long is not there any more."""
    puback_s: float = 120.0
    """A message without PUBACK, while the broker says other things."""
    user_timeout_s: float = 30.0
    """TCP_USER_TIMEOUT."""
    retry_s: float = 1.0
    longest_retry_s: float = 120.0
    stable_s: float = 60.0
    short_life_s: float = 5.0
    """Two connections in a row that the broker closed sooner may be due to another device of this name."""
    breaker_s: float = 300.0
    longest_breaker_s: float = 3_600.0
    least_keepalive_s: float = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """[mqtt], with defaults filled in. An empty ``host`` reports to nobody."""

    host: str
    port: int
    tls: bool = False
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    username: str = ""
    password_file: Path | None = None
    keepalive_s: int = 60
    window: int = 20
    ack_timeout_s: float = 30.0
    device: str
    discovery_prefix: str = ""

    @classmethod
    def from_config(
        cls,
        config: Config,
        device: str,
        *,
        environment: Mapping[str, str] | None = None,
        warn: Callable[[str], None],
    ) -> LinkSettings:
        """Of [mqtt]; ``device`` is its name in topics. All files are read once, to see that they can be.

        Raises UsageError in one line; ``warn`` gets a line for what is unwise.
        """
        mqtt = config.mqtt
        _check_together(config)
        password: Path | None = None
        if mqtt.password_file:
            password = password_path(mqtt.password_file, os.environ if environment is None else environment)
        settings = cls(
            host=mqtt.host,
            port=mqtt.port or (_TLS_PORT if mqtt.tls else _PORT),
            tls=mqtt.tls,
            ca_file=_path(mqtt.ca_file),
            certificate_file=_path(mqtt.certificate_file),
            key_file=_path(mqtt.key_file),
            username=mqtt.username,
            password_file=password,
            keepalive_s=mqtt.keepalive_s,
            window=mqtt.window,
            ack_timeout_s=mqtt.ack_timeout_s,
            device=device,
            discovery_prefix=mqtt.discovery_prefix.strip("/"),
        )
        if settings.host:
            settings.context()
            settings.password(warn)
            if password is not None and not settings.tls and not _is_loopback(settings.host):
                warn(f"mqtt: the password goes to {settings.host} readable for everybody on the way: set tls")
        return settings

    def context(self) -> ssl.SSLContext | None:
        """For a new connection: the files are read each time. Raises UsageError."""
        return tls_context(self.ca_file, self.certificate_file, self.key_file) if self.tls else None

    def password(self, warn: Callable[[str], None]) -> bytes:
        """For a new connection: the file is read each time. Empty for none. Raises UsageError."""
        return read_password(self.password_file, warn) if self.password_file is not None else b""

    @property
    def broker(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _check_together(config: Config) -> None:
    mqtt = config.mqtt
    if not mqtt.tls and (mqtt.ca_file or mqtt.certificate_file or mqtt.key_file):
        name = next(each for each in ("ca_file", "certificate_file", "key_file") if getattr(mqtt, each))
        raise UsageError(f"mqtt.{name}: is for TLS only: set mqtt.tls = true, or leave it out")
    if mqtt.key_file and not mqtt.certificate_file:
        raise UsageError("mqtt.key_file: there is no certificate to it: set mqtt.certificate_file")
    if mqtt.password_file and not mqtt.username:
        raise UsageError("mqtt.password_file: a password needs a name: set mqtt.username")


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
