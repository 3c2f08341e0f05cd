"""Ed25519 signatures of commands (RFC 8032), so that a broker alone cannot command a fleet.

Signed is the exact text in the message's "signed", as UTF-8. That text names device, operation, id, issue
and expiry: it is good for nothing else. Keys are PEM files, as openssl makes them too. ``cryptography``
is loaded only where a key is: it costs memory.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugmeter.errors import PlugmeterError, UsageError
from plugmeter.files import read_regular, write_all

SIGNATURE_BYTES: Final = 64
_KEY_FILE_LIMIT_BYTES: Final = 65_536
_MAKE_ONE: Final = "make one with plugmeter sign --new-key"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What a device has: it can check and not sign."""

    fingerprint: str
    """SHA-256 of the 32 bytes of the key, the first 16 hexadecimal digits: for people to compare."""
    _verify: Callable[[bytes, bytes], bool]

    def verify(self, text: bytes, signature: bytes) -> bool:
        """Whether the owner of the private key has signed just these bytes."""
        return self._verify(text, signature)


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """What a controller has, and no device."""

    fingerprint: str
    """Of its public key."""
    _sign: Callable[[bytes], bytes]

    def sign(self, text: bytes) -> bytes:
        """The 64 bytes of the signature."""
        return self._sign(text)


def load_public_key(path: Path) -> PublicKey:
    """The key that commands.public_key_file names. Raises UsageError, one line."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    pem = _read(path)
    if b"PRIVATE KEY" in pem:
        raise UsageError(
            f"key {path} is a private key: a device is given the public one (plugmeter sign --new-key makes"
            " both)"
        )
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"key {path} is no public key in PEM: {_MAKE_ONE}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"key {path} is not an Ed25519 key: {_MAKE_ONE}")

    def verify(text: bytes, signature: bytes) -> bool:
        try:
            key.verify(signature, text)
        except InvalidSignature:
            return False
        return True

    return PublicKey(_fingerprint(key.public_bytes_raw()), verify)


def load_private_key(path: Path) -> PrivateKey:
    """A key to sign with. Raises UsageError, one line."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_read(path), password=None)
    except TypeError:  # what cryptography raises for a missing passphrase
        raise UsageError(f"key {path} has a passphrase: give one without") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"key {path} is no private key in PEM: {_MAKE_ONE}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"key {path} is not an Ed25519 key: {_MAKE_ONE}")
    return PrivateKey(_fingerprint(key.public_key().public_bytes_raw()), key.sign)


def new_key_pair(path: Path) -> tuple[Path, str]:
    """Write a new private key to ``path`` (mode 0600) and its public one beside it (``.pub``).

    Gives the public key's path and its fingerprint. Raises PlugmeterError: also where one of the files is
    there already, since a fleet may depend on it.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public_path = path.with_name(path.name + ".pub")
    key = Ed25519PrivateKey.generate()
    private_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public_pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _write_new(path, private_pem, 0o600)
    try:
        _write_new(public_path, public_pem, 0o644)
    except PlugmeterError:
        path.unlink()  # half a pair is none, and nobody has it yet
        raise
    return public_path, _fingerprint(key.public_key().public_bytes_raw())


def _fingerprint(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, _KEY_FILE_LIMIT_BYTES)
    except OSError as error:
        raise UsageError(f"key {path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # a NUL in the name
        raise UsageError(f"key {str(path)!r} cannot be read: {error}") from None


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno == errno.EEXIST:
            raise PlugmeterError(f"{path} is there already: move it away, or name another file") from None
        raise PlugmeterError(f"cannot write {path}: {error.strerror or error}") from None
