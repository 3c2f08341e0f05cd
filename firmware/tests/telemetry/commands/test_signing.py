from __future__ import annotations

import base64
import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.errors import PlugmeterError, UsageError
from plugmeter.telemetry.commands import message, signing
from plugmeter.telemetry.commands.message import Command, Outcome, Refusal, Why
from plugmeter.telemetry.commands.signing import PrivateKey, PublicKey
from tests.telemetry.commands.orders import DEVICE, TOPICS, document

TOPIC = TOPICS.command("selftest", "a1")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[PrivateKey, PublicKey]:
    path = tmp_path_factory.mktemp("keys") / "fleet.key"
    public_path, fingerprint = signing.new_key_pair(path)
    private, public = signing.load_private_key(path), signing.load_public_key(public_path)
    assert private.fingerprint == public.fingerprint == fingerprint
    return private, public


def sealed(private: PrivateKey, text: str) -> dict[str, str]:
    return {"signed": text, "signature": base64.b64encode(private.sign(text.encode())).decode()}


def parsed(public: PublicKey | None, outer: dict[str, Any], topic: str = TOPIC) -> Outcome:
    verify = public.verify if public else None
    return message.parse(topic, json.dumps(outer).encode(), device=DEVICE, verify=verify)


def why(outcome: Outcome) -> Why:
    assert isinstance(outcome, Refusal), outcome
    return outcome.why


def test_a_signed_command(pair: tuple[PrivateKey, PublicKey]) -> None:
    private, public = pair
    outcome = parsed(public, sealed(private, json.dumps(document(), indent=3)))
    assert isinstance(outcome, Command)
    assert outcome.signed


def test_a_device_without_a_key_obeys_and_does_not_call_it_signed(pair: tuple[PrivateKey, PublicKey]) -> None:
    outcome = parsed(None, sealed(pair[0], json.dumps(document())))
    assert isinstance(outcome, Command)
    assert not outcome.signed


def test_what_is_not_signed(pair: tuple[PrivateKey, PublicKey]) -> None:
    assert why(parsed(pair[1], document())) is Why.UNSIGNED


def test_a_text_that_was_changed(pair: tuple[PrivateKey, PublicKey]) -> None:
    outer = sealed(pair[0], json.dumps(document()))
    assert why(parsed(pair[1], outer | {"signed": outer["signed"] + " "})) is Why.BAD_SIGNATURE
    assert why(parsed(pair[1], outer | {"signed": json.dumps(document(op="restart"))})) is Why.BAD_SIGNATURE


def test_another_key(pair: tuple[PrivateKey, PublicKey], tmp_path: Path) -> None:
    signing.new_key_pair(tmp_path / "k")
    other = signing.load_private_key(tmp_path / "k")
    assert why(parsed(pair[1], sealed(other, json.dumps(document())))) is Why.BAD_SIGNATURE


@pytest.mark.parametrize("signature", ["", "AAAA", "not base64!", "ä", "A" * 88, "A" * 86 + "=="])
def test_what_is_no_signature(pair: tuple[PrivateKey, PublicKey], signature: str) -> None:
    outer = {"signed": json.dumps(document()), "signature": signature}
    assert why(parsed(pair[1], outer)) is Why.BAD_SIGNATURE


@pytest.mark.parametrize(
    "outer",
    [
        {"signed": "{}"},
        {"signature": ""},
        {"signed": {}, "signature": ""},
        {"signed": "{}", "signature": 3},
        {"signed": "{}", "signature": "", "state": "init"},
        {"signed": "{}", "signature": "", "state": "successful"},
    ],
)
def test_half_a_signed_message(pair: tuple[PrivateKey, PublicKey], outer: dict[str, Any]) -> None:
    assert why(parsed(pair[1], outer)) in (Why.MALFORMED, Why.UNSIGNED)
    assert why(parsed(None, outer)) is Why.MALFORMED


def test_a_broker_cannot_send_it_elsewhere(pair: tuple[PrivateKey, PublicKey]) -> None:
    private, public = pair
    to_other = sealed(private, json.dumps(document(device="lab-4")))
    assert why(parsed(public, to_other)) is Why.OTHER_DEVICE
    good = sealed(private, json.dumps(document()))
    assert why(parsed(public, good, TOPICS.command("restart", "a1"))) is Why.MALFORMED
    assert why(parsed(public, good, TOPICS.command("selftest", "a2"))) is Why.MALFORMED


@pytest.mark.parametrize("name", ["device", "op", "id", "issued", "expires", "state"])
def test_a_signed_text_must_name_all_that_binds_it(pair: tuple[PrivateKey, PublicKey], name: str) -> None:
    text = json.dumps({each: value for each, value in document().items() if each != name})
    outcome = parsed(pair[1], sealed(pair[0], text))
    assert outcome == Refusal(Why.MALFORMED, f'"{name}" is missing')


@given(data=st.binary(max_size=100), signature=st.binary(max_size=100))
def test_any_bytes_are_no_signature(
    pair: tuple[PrivateKey, PublicKey], data: bytes, signature: bytes
) -> None:
    assert not pair[1].verify(data, signature)


def test_openssl_signs_as_we_do(pair: tuple[PrivateKey, PublicKey], tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    text, key, signature = tmp_path / "text", tmp_path / "key", tmp_path / "signature"
    text.write_text(json.dumps(document()))

    def run(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True)

    run("genpkey", "-algorithm", "ed25519", "-out", str(key))
    run("pkey", "-in", str(key), "-pubout", "-out", f"{key}.pub")
    run("pkeyutl", "-sign", "-inkey", str(key), "-rawin", "-in", str(text), "-out", str(signature))
    outer = {"signed": text.read_text(), "signature": base64.b64encode(signature.read_bytes()).decode()}
    assert isinstance(parsed(signing.load_public_key(Path(f"{key}.pub")), outer), Command)


def test_the_private_key_is_its_owners_alone(tmp_path: Path) -> None:
    signing.new_key_pair(tmp_path / "k")
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600


@pytest.mark.parametrize("there", ["k", "k.pub"])
def test_a_key_is_never_replaced(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    with pytest.raises(PlugmeterError, match=f"{there} is there already"):
        signing.new_key_pair(tmp_path / "k")
    assert [each.name for each in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "precious"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file"),
        ("", "is no public key in PEM"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "is no public key in PEM"),
        ("x" * 70_000, "cannot be read: it is too large"),
    ],
)
def test_a_file_that_is_no_public_key(tmp_path: Path, content: str | None, problem: str) -> None:
    path = tmp_path / "k"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=problem) as caught:
        signing.load_public_key(path)
    assert "\n" not in str(caught.value)


def test_a_key_of_another_kind(tmp_path: Path) -> None:
    key = Ed448PrivateKey.generate()
    private, public = tmp_path / "k", tmp_path / "k.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(UsageError, match="is not an Ed25519 key"):
        signing.load_public_key(public)
    with pytest.raises(UsageError, match="is not an Ed25519 key"):
        signing.load_private_key(private)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
    with pytest.raises(UsageError, match="has a passphrase: give one without"):
        signing.load_private_key(private)


def test_the_keys_are_not_taken_for_each_other(tmp_path: Path) -> None:
    signing.new_key_pair(tmp_path / "k")
    with pytest.raises(UsageError, match="is a private key: a device is given the public one"):
        signing.load_public_key(tmp_path / "k")
    with pytest.raises(UsageError, match="is no private key in PEM"):
        signing.load_private_key(tmp_path / "k.pub")


def test_cryptography_is_loaded_only_for_a_key() -> None:
    code = (
        "import sys, plugmeter.telemetry.commands.operator, plugmeter.telemetry.desired_keeper;"
        "sys.exit('cryptography' in sys.modules)"
    )
    path = {"PYTHONPATH": str(Path(__file__).parents[3])}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=path).returncode == 0
