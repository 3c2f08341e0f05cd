"""Passwords and certificates: read from files at each connection, so that renewing a file is enough."""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from plugmeter.errors import UsageError
from plugmeter.files import read_regular

_PASSWORD_LIMIT_BYTES: Final = 65_535
"""A password's length is 16 bits (MQTT 5, 3.1.3.6)."""
_FILE_LIMIT_BYTES: Final = 131_072


def password_path(setting: str, environment: Mapping[str, str]) -> Path:
    """Where mqtt.password_file is: a full path, or the name of a systemd credential (systemd.exec(5)).

    Raises UsageError.
    """
    if "/" in setting:
        return Path(setting)
    directory = environment.get("CREDENTIALS_DIRECTORY", "")
    if not directory:
        raise UsageError(
            f"mqtt.password_file: {setting!r} has no slash, so it names a systemd credential, but there is no"
            " CREDENTIALS_DIRECTORY: give a full path, or LoadCredential= in the unit"
        )
    if setting in (".", ".."):
        raise UsageError(f"mqtt.password_file: {setting!r} is no name of a credential")
    return Path(directory, setting)


def read_password(path: Path, warn: Callable[[str], None]) -> bytes:
    """The first line of the file. Warns where others may read it. Raises UsageError."""
    try:
        text = read_regular(path, _FILE_LIMIT_BYTES)
        mode = path.stat().st_mode
    except OSError as error:
        raise UsageError(f"mqtt.password_file: {path} cannot be read: {error.strerror or error}") from None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        warn(f"mqtt.password_file: everybody may read {path}: chmod 600 it")
    password = text.split(b"\n", 1)[0].removesuffix(b"\r")
    if not password:
        raise UsageError(f"mqtt.password_file: the first line of {path} is empty")
    if len(password) > _PASSWORD_LIMIT_BYTES:
        raise UsageError(f"mqtt.password_file: the first line of {path} is longer than a password may be")
    return password


def tls_context(ca_file: Path | None, certificate_file: Path | None, key_file: Path | None) -> ssl.SSLContext:
    """What checks the broker's certificate and host name, and shows ours. Raises UsageError."""
    try:
        context = ssl.create_default_context(cafile=os.fspath(ca_file) if ca_file else None)
    except ssl.SSLError:
        raise UsageError(f"mqtt.ca_file: {ca_file} holds no certificate (PEM)") from None
    except OSError as error:
        raise UsageError(f"mqtt.ca_file: {ca_file} cannot be read: {error.strerror or error}") from None
    if certificate_file is not None:
        _load_own(context, certificate_file, key_file)
    return context


def _load_own(context: ssl.SSLContext, certificate_file: Path, key_file: Path | None) -> None:
    for name, file in (("certificate_file", certificate_file), ("key_file", key_file)):
        if file is None:
            continue
        try:
            file.open("rb").close()
        except OSError as error:  # load_cert_chain does not say which of the two it was
            raise UsageError(f"mqtt.{name}: {file} cannot be read: {error.strerror or error}") from None
    try:
        # Without a password of ours OpenSSL asks the terminal for one, and waits.
        context.load_cert_chain(certificate_file, key_file, password=_no_password)
    except _EncryptedKey:
        raise UsageError(f"mqtt.key_file: the key in {key_file or certificate_file} is encrypted") from None
    except ssl.SSLError as error:
        if "MISMATCH" in (error.reason or ""):
            words = f"mqtt.key_file: {key_file or certificate_file} is not the key of {certificate_file}"
        else:
            words = f"mqtt.certificate_file: {certificate_file} with {key_file or 'its key'} is no PEM pair"
        raise UsageError(words) from None
    except OSError as error:
        raise UsageError(f"mqtt.certificate_file: {error.strerror or error}") from None


class _EncryptedKey(Exception):
    pass


def _no_password() -> str:
    raise _EncryptedKey
