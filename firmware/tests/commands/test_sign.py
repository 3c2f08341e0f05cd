from __future__ import annotations

import argparse
import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from plugmeter.cli import Parser
from plugmeter.commands import sign
from plugmeter.errors import PlugmeterError, UsageError
from plugmeter.telemetry import desired
from plugmeter.telemetry.commands import message, signing
from plugmeter.telemetry.commands.arguments import OPS
from plugmeter.telemetry.commands.message import Command
from plugmeter.telemetry.desired import Wish
from tests.telemetry.commands.orders import ARGUMENTS


def run(*words: str) -> int:
    parser = Parser(prog="plugmeter sign", epilog=sign.EPILOG)
    sign.add_arguments(parser)
    args: argparse.Namespace = parser.parse_args(words)
    return sign.run(args)


@pytest.fixture
def keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert run("--new-key", str(tmp_path / "k")) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{tmp_path}/k: the private key")
    assert said[1].startswith(f"{tmp_path}/k.pub: the public key")
    assert said[2] == f"fingerprint: {signing.load_public_key(tmp_path / 'k.pub').fingerprint}"
    return tmp_path / "k"


def made(capsys: pytest.CaptureFixture[str]) -> tuple[str, bytes]:
    """Topic and payload as a shell, and so mosquitto_pub, would see them."""
    words = shlex.split(capsys.readouterr().out)
    assert words[:4] == ["-q", "1", "-r", "-t"]
    assert words[5] == "-m"
    assert len(words) == 7
    return words[4], words[6].encode()


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("op", [op for op in OPS if op != "config"])
def test_a_device_takes_what_is_made(
    capsys: pytest.CaptureFixture[str], keys: Path, op: str, signed: bool
) -> None:
    values = [f"{name}={value}" for name, value in ARGUMENTS.get(op, {}).items()]
    assert run(*(["--key", str(keys)] if signed else []), "--id", "a-1", "lab-3", op, *values) == 0
    topic, payload = made(capsys)
    assert topic == f"plugmeter/v1/lab-3/cmd/{op}/a-1"
    verify = signing.load_public_key(Path(f"{keys}.pub")).verify if signed else None
    command = message.parse(topic, payload, device="lab-3", verify=verify)
    assert isinstance(command, Command)
    assert (command.op, command.id, command.arguments) == (op, "a-1", ARGUMENTS.get(op, {}))
    assert command.signed == signed


CONFIG = (
    "run.debounce_ms=120",
    "mqtt.host=b2",
    "ports.1-1.4=null",
    "ports.1-1.sense_gpio=4",
    "mqtt.tls=true",
)
MEANT: dict[str, Any] = {
    "run": {"debounce_ms": 120},
    "mqtt": {"host": "b2", "tls": True},
    "ports": {"1-1.4": None, "1-1": {"sense_gpio": 4}},
}


def test_a_configuration(capsys: pytest.CaptureFixture[str], keys: Path) -> None:
    verify = signing.load_public_key(Path(f"{keys}.pub")).verify
    assert run("--key", str(keys), "lab-3", "config", *CONFIG) == 0
    topic, payload = made(capsys)
    command = message.parse(topic, payload, device="lab-3", verify=verify)
    assert isinstance(command, Command)
    assert command.arguments == {"config": MEANT}
    assert run("--key", str(keys), "lab-3", "desired", *CONFIG) == 0
    topic, payload = made(capsys)
    wish = desired.parse(payload, device="lab-3", verify=verify)
    assert topic == "plugmeter/v1/lab-3/desired"
    assert isinstance(wish, Wish)
    assert wish.config == MEANT


def test_what_only_the_device_can_know_is_left_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Its own file may go with these: a long nominal time, a port with its sense_gpio."""
    values = (
        "run.debounce_ms=3900",
        "ports.1-1.switch_gpio=5",
        "ports.1-2.switch_gpio=null",
        "ports.1-3=null",
    )
    assert run("lab-3", "config", *values) == 0
    made(capsys)


def test_xargs_hands_it_on_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lab-3", "config", 'gpio.chip=it\'s "a" $HOME \\ chip') == 0
    line = capsys.readouterr().out
    words = subprocess.run(
        ["xargs", "printf", "%s\\n"], input=line, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    config = json.loads(words[-1])["arguments"]["config"]
    assert config == {"gpio": {"chip": 'it\'s "a" $HOME \\ chip'}}


def test_as_json_and_with_an_id_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    ids = set()
    for _ in range(3):
        assert run("--json", "lab-3", "restart") == 0
        said = json.loads(capsys.readouterr().out)
        assert said["topic"] == f"plugmeter/v1/lab-3/cmd/restart/{said['id']}"
        assert isinstance(message.parse(said["topic"], said["payload"].encode(), device="lab-3"), Command)
        ids.add(said["id"])
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "which DEVICE is to do what"),
        (["lab-3"], "which DEVICE is to do what"),
        (["Lab 3", "restart"], "'Lab 3' is no device; its name is a to z, 0 to 9"),
        (["", "restart"], "'' is no device"),
        (["lab-3", "reboot"], "unknown operation 'reboot'; there are start-run"),
        (["lab-3", "restrat"], "unknown operation 'restrat'; did you mean restart?"),
        (["lab-3", "restart", "now"], "'now' is no argument; give NAME=VALUE"),
        (["lab-3", "start-run", "stick=2"], "unknown key arguments.stick; did you mean arguments.sticks?"),
        (["lab-3", "start-run", "sticks=2", "sticks=3"], "sticks is given twice"),
        (["lab-3", "start-run", 'sticks=1, "rig": "relay"'], "arguments.sticks"),
        (
            ["lab-3", "config", "debounce_ms=2"],
            "'debounce_ms' is no key of a configuration; give SEC",
        ),
        (["lab-3", "config", "commands.accept=[]"], "[commands] cannot be changed from afar"),
        (["lab-3", "desired", "mqtt.password_file=/x"], "mqtt.password_file cannot be changed from afar"),
        (["lab-3", "config", "run.nominal_ms=0"], "run.nominal_ms = 0 is out of range; it must be"),
        (["lab-3", "desired", "run.nominal_ms=0"], "run.nominal_ms = 0 is out of range; it must be"),
        (["lab-3", "config", "run.nominal=5"], "unknown key run.nominal; did you mean run.nominal_ms?"),
        (["lab-3", "config", "runs.nominal_ms=5"], "unknown section runs; did you mean run?"),
        (["lab-3", "config", "run.debounce_ms=null"], "run.debounce_ms = null: leave it out instead"),
        (["lab-3", "config", "run.debounce_ms=often"], 'run.debounce_ms = "often" is a text'),
        (["lab-3", "config", "ports.1-1.4.sense_gpio=-1"], 'ports."1-1.4".sense_gpio = -1 is out of range'),
        (["lab-3", "config", "ports.usb1.sense_gpio=4"], "ports.usb1 is no USB port"),
        (["--id", "a b", "lab-3", "restart"], "--id 'a b' cannot be; an id is 1 to 64"),
        (["--valid", "0", "lab-3", "restart"], "--valid 0 cannot be: give 1 to 2678400 seconds"),
        (["--new-key", "k", "lab-3", "restart"], "--new-key makes keys and signs nothing"),
        (["--key", "/no/such/key", "lab-3", "restart"], "key /no/such/key cannot be read: No such file"),
    ],
)
def test_what_no_device_would_take(words: list[str], problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        run(*words)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_is_never_replaced(keys: Path) -> None:
    before = keys.read_bytes()
    with pytest.raises(PlugmeterError, match="is there already: move it away, or name another file"):
        run("--new-key", str(keys))
    assert keys.read_bytes() == before
