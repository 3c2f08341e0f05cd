"""Files with secrets: one line for what is wrong with each."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from plugmeter.errors import UsageError
from plugmeter.telemetry.credentials import password_path, read_password, tls_context
from tests.telemetry.broker import Authority


def test_where_a_password_is(tmp_path: Path) -> None:
    assert password_path("/etc/secret", {}) == Path("/etc/secret")
    assert password_path("mqtt", {"CREDENTIALS_DIRECTORY": "/run/credentials/x"}) == Path(
        "/run/credentials/x/mqtt"
    )
    with pytest.raises(UsageError, match="LoadCredential="):
        password_path("mqtt", {})
    with pytest.raises(UsageError, match="no name"):
        password_path("..", {"CREDENTIALS_DIRECTORY": "/run/credentials/x"})


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"secret", b"secret"),
        (b"secret\nrest", b"secret"),
        (b"a b\r\n", b"a b"),
        (b"\xff\x01\n", b"\xff\x01"),
    ],
)
def test_the_first_line_is_the_password(tmp_path: Path, content: bytes, password: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    file.chmod(0o600)
    warnings: list[str] = []
    assert read_password(file, warnings.append) == password
    assert not warnings
    file.chmod(0o644)
    read_password(file, warnings.append)
    assert len(warnings) == 1 and "chmod 600" in warnings[0]


@pytest.mark.parametrize("content", [b"", b"\nsecond", b"x" * 70_000])
def test_no_password_at_all(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="first line"):
        read_password(file, print)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for attempt in (
        lambda: read_password(tmp_path / "none", print),
        lambda: read_password(tmp_path, print),
        lambda: tls_context(tmp_path / "none", None, None),
        lambda: tls_context(None, tmp_path / "none", None),
    ):
        with pytest.raises(UsageError, match="cannot be read") as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_certificates(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own, other = authority.issue("one"), authority.issue("two")
    assert tls_context(authority.ca_file, own.certificate_file, own.key_file).check_hostname
    with pytest.raises(UsageError, match="is not the key of"):
        tls_context(None, own.certificate_file, other.key_file)
    junk = tmp_path / "junk"
    junk.write_text("no PEM")
    with pytest.raises(UsageError, match="holds no certificate"):
        tls_context(junk, None, None)
    with pytest.raises(UsageError, match="no PEM pair"):
        tls_context(None, junk, own.key_file)


def test_an_encrypted_key_asks_nobody(tmp_path: Path) -> None:
    own = Authority(tmp_path).issue("one")
    key = serialization.load_pem_private_key(own.key_file.read_bytes(), None)
    own.key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(UsageError, match="is encrypted"):
        tls_context(None, own.certificate_file, own.key_file)
