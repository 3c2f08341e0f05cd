"""The broker's address and credentials: understood, or one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugmeter.controller.broker import settings_from
from plugmeter.errors import UsageError
from tests.telemetry.broker import Authority


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("broker.example", "mqtt://broker.example:1883"),
        ("broker.example:2883", "mqtt://broker.example:2883"),
        ("mqtt://127.0.0.1", "mqtt://127.0.0.1:1883"),
        ("mqtts://broker.example", "mqtts://broker.example:8883"),
        ("mqtt://[::1]:99/", "mqtt://[::1]:99"),
    ],
)
def test_an_address_is_understood(url: str, name: str) -> None:
    assert settings_from(url).name == name


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "give mqtt://HOST:PORT"),
        ("http://x", "give mqtt://HOST:PORT"),
        ("mqtt://x:port", "give mqtt://HOST:PORT"),
        ("mqtt://x:99999", "give mqtt://HOST:PORT"),
        ("mqtt://x/topic", "give mqtt://HOST:PORT"),
        ("mqtt://me:secret@x", "use --username and --password-file"),
    ],
)
def test_an_address_that_is_none_is_one_line(url: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        settings_from(url)
    assert "secret" not in str(caught.value)


def test_credentials_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, two = authority.issue("one"), authority.issue("two")
    empty = tmp_path / "empty"
    empty.write_text("\n")
    for arguments, words in (
        ({"ca_file": one.certificate_file}, "certificates are for TLS"),
        ({"url": "mqtts://x", "certificate_file": one.certificate_file}, "belong together"),
        (
            {"url": "mqtts://x", "certificate_file": one.certificate_file, "key_file": two.key_file},
            "no PEM files that fit together",
        ),
        ({"url": "mqtts://x", "ca_file": tmp_path / "none"}, "--ca-file .*: no such file"),
        ({"url": "mqtts://x", "ca_file": empty}, "--ca-file .*: they are no PEM"),
        ({"password_file": empty}, "--password-file without --username"),
        ({"username": "me", "password_file": empty}, "its first line is empty"),
        ({"username": "me", "password_file": tmp_path / "none"}, "--password-file .*: no such file"),
    ):
        given = {"url": "mqtt://x", **arguments}
        with pytest.raises(UsageError, match=words) as caught:
            settings_from(**given)  # type: ignore[arg-type]  # a table of keywords
        assert "\n" not in str(caught.value)


def test_a_password_is_the_files_first_line(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("correct horse \nsecond line\n")
    settings = settings_from("x", username="me", password_file=file)
    assert settings.password == "correct horse "
