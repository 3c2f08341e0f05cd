"""[mqtt] as the link takes it: defaults filled in, files looked at, contradictions in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plugmeter.errors import UsageError
from plugmeter.sections import Config, Mqtt
from plugmeter.telemetry.link_settings import LinkSettings
from tests.telemetry.broker import Authority


def settings(warnings: list[str], environment: dict[str, str] | None = None, **mqtt: Any) -> LinkSettings:
    config = Config(mqtt=Mqtt(**mqtt))
    return LinkSettings.from_config(config, "bench", environment=environment or {}, warn=warnings.append)


def test_ports_and_names(tmp_path: Path) -> None:
    warnings: list[str] = []
    assert settings(warnings, host="a").port == 1883
    assert settings(warnings, host="a", port=99).port == 99
    authority = Authority(tmp_path)
    assert settings(warnings, host="a", tls=True, ca_file=str(authority.ca_file)).port == 8883
    assert settings(warnings, host="::1").broker == "[::1]:1883"
    assert settings(warnings, host="a").discovery_prefix == "homeassistant"
    assert settings(warnings).host == ""
    assert not warnings


def test_a_password_in_clear(tmp_path: Path) -> None:
    (tmp_path / "mqtt").write_text("x")
    (tmp_path / "mqtt").chmod(0o600)
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    warnings: list[str] = []
    known = {"username": "u", "password_file": "mqtt"}
    for host in ("localhost", "127.0.0.1", "::1"):
        assert settings(warnings, credentials, host=host, **known).password_file == tmp_path / "mqtt"
    assert not warnings
    settings(warnings, credentials, host="192.0.2.1", **known)
    assert len(warnings) == 1 and "set tls" in warnings[0]


@pytest.mark.parametrize(
    ("mqtt", "words"),
    [
        ({"ca_file": "/x"}, "mqtt.ca_file: is for TLS only"),
        ({"certificate_file": "/x"}, "mqtt.certificate_file: is for TLS only"),
        ({"tls": True, "key_file": "/x"}, "mqtt.key_file: there is no certificate"),
        ({"password_file": "/x"}, "mqtt.password_file: a password needs a name"),
        ({"username": "u", "password_file": "/does/not/exist"}, "cannot be read"),
        ({"tls": True, "ca_file": "/does/not/exist"}, "mqtt.ca_file: /does/not/exist cannot be read"),
    ],
)
def test_one_line_for_what_is_wrong(mqtt: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        settings([], host="broker", **mqtt)
    assert "\n" not in str(caught.value) and caught.value.exit_status == 2
