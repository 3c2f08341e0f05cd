from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter import config as configuration
from plugmeter.sections import SECTIONS, Config, Mqtt, Outbox, Port
from plugmeter.settings import keys
from plugmeter.telemetry import desired_scope
from plugmeter.telemetry.desired_scope import RULES, Scope, rule_of

DOCS = Path(__file__).resolve().parents[2] / "docs"
ALL = {(section, name) for section, known in SECTIONS.items() for name in keys(known)} | {
    ("ports", name) for name in keys(Port)
}
PLAIN = Config(mqtt=Mqtt(host="broker", port=1883))
PASSWORD = Config(mqtt=Mqtt(host="broker", username="u", password_file="/secret"))
CERTIFICATE = Config(mqtt=Mqtt(host="broker", tls=True, certificate_file="/c", key_file="/k"))
COMBINED = Config(mqtt=Mqtt(host="broker", tls=True, certificate_file="/both"))
TLS = Config(mqtt=Mqtt(host="broker", tls=True))


def unsigned(base: Config, overlay: dict[str, Any]) -> tuple[str, ...]:
    return desired_scope.unsigned(base, configuration.with_overlay(base, overlay))


def test_each_key_is_in_one_class() -> None:
    """Whoever adds a key has to say who may change it from afar: add it to desired_scope.RULES."""
    classed = Counter((rule.section, name) for rule in RULES for name in rule.keys)
    assert set(classed) == ALL
    assert [each for each, times in classed.items() if times > 1] == []
    assert all(rule.why for rule in RULES)


def test_a_key_in_no_class_is_nobodys() -> None:
    assert rule_of("mqtt", "a_new_one").scope is Scope.NOBODY


def test_what_names_a_file_or_whom_to_trust_is_in_no_class_for_anybody() -> None:
    """By their names and patterns: a new key of that sort must not be put with the harmless ones."""
    suspicious = {
        (section, name)
        for section, name in ALL
        if section != "ports"
        for known in (keys(SECTIONS[section])[name],)
        if "file" in name
        or "director" in name
        or "path" in known.pattern_text
        or "address" in known.pattern_text
    }
    assert ("mqtt", "ca_file") in suspicious and ("daemon", "metrics") in suspicious
    assert [each for each in sorted(suspicious) if rule_of(*each).scope is Scope.ANYBODY] == []


def test_the_classes_are_documented() -> None:
    text = (DOCS / "telemetry.md").read_text()
    start = text.index("## Configuration from afar")
    chapter = text[start : text.index("\n## ", start + 1)]
    for rule in RULES:
        for name in rule.keys:
            if rule.scope is not Scope.ANYBODY and rule.section != "commands":
                assert f"`{rule.section}.{name}`" in chapter, name


@pytest.mark.parametrize(
    ("overlay", "lines"),
    [
        ({"run": {"debounce_ms": 1}, "mqtt": {"host": "b"}, "daemon": {"rig": "none"}, "ports": {}}, ()),
        ({"commands": {}}, ("[commands] cannot be changed from afar: change the device's own file",)),
        ({"commands": None}, ("[commands] cannot be changed from afar: change the device's own file",)),
        (
            {"daemon": {"device": "x", "state_directory": "/x"}, "mqtt": {"password_file": "/etc/shadow"}},
            (
                "daemon.device cannot be changed from afar: change the device's own file",
                "daemon.state_directory cannot be changed from afar: change the device's own file",
                "mqtt.password_file cannot be changed from afar: change the device's own file",
            ),
        ),
        (
            {"mqtt": {"key_file": ""}},
            ("mqtt.key_file cannot be changed from afar: change the device's own file",),
        ),
        (
            {"lifecycle": {"start_s": 1}},
            ("lifecycle.start_s cannot be changed from afar: change the device's own file",),
        ),
        ({"daemon": 3, "nonsense": {"device": 1}}, ()),
    ],
)  # fmt: skip
def test_what_nobody_may_change_from_afar(overlay: dict[str, Any], lines: tuple[str, ...]) -> None:
    assert desired_scope.forbidden(overlay) == lines


@pytest.mark.parametrize(
    "base", [PASSWORD, CERTIFICATE, COMBINED], ids=["password", "certificate", "combined"]
)
@pytest.mark.parametrize(
    "changes", [{"host": "evil"}, {"port": 7}, {"host": ""}, {"username": "x"}, {"host": "evil", "port": 7}]
)
def test_credentials_go_to_nobody_else(base: Config, changes: dict[str, Any]) -> None:
    (line,) = unsigned(base, {"mqtt": changes})
    assert line == (
        f"{', '.join(f'mqtt.{name}' for name in changes)} cannot be changed from afar without a signature"
        " while this device has credentials, which it would send to whoever is there: sign it for"
        " commands.public_key_file, or change the device's own file"
    )


def test_nor_are_they_sent_otherwise() -> None:
    assert unsigned(PASSWORD, {"mqtt": {"tls": True}})[0].startswith("mqtt.tls cannot be changed")
    assert unsigned(CERTIFICATE, {"mqtt": {"tls": False}})[0].startswith("mqtt.tls cannot be changed")
    assert unsigned(PASSWORD, {"mqtt": {"keepalive_s": 9, "window": 3}, "run": {"nominal_ms": 999}}) == ()
    assert unsigned(PASSWORD, {"mqtt": {"host": "broker", "port": 0, "tls": False}}) == (), "as in the file"


def test_a_device_without_credentials_may_be_sent_elsewhere_but_never_without_tls() -> None:
    assert unsigned(PLAIN, {"mqtt": {"host": "b2", "port": 1, "tls": True, "username": "u"}}) == ()
    assert unsigned(TLS, {"mqtt": {"host": "b2"}}) == ()
    (line,) = unsigned(TLS, {"mqtt": {"host": "b2", "tls": False}})
    assert line.startswith("mqtt.tls cannot be turned off from afar without a signature: sign it for ")


@pytest.mark.parametrize(
    ("overlay", "named"),
    [
        ({"mqtt": {"ca_file": "/dev/x", "certificate_file": "/x"}}, "mqtt.ca_file, mqtt.certificate_file"),
        ({"daemon": {"metrics": "unix:/run/other.sock"}}, "daemon.metrics"),
        ({"inotify": {"directories": ["/home"]}}, "inotify.directories"),
        ({"gpio": {"chip": "/dev/x"}}, "gpio.chip"),
        ({"gpio": {"factory": "mock"}}, "gpio.factory"),
        ({"ports": {"1-1": {"sense_gpio": 1, "switch_gpio": 2}}}, 'ports."1-1".switch_gpio'),
    ],
)  # fmt: skip
def test_what_takes_a_signature(overlay: dict[str, Any], named: str) -> None:
    (line,) = unsigned(PLAIN, overlay)
    assert line.startswith(f"{named} cannot be changed from afar without a signature (")


def test_a_line_that_the_file_switches_stays_its_ports() -> None:
    base = Config(ports=(Port(name="1-1", sense_gpio=1, switch_gpio=2), Port(name="1-2", sense_gpio=3)))
    assert unsigned(base, {"ports": {"1-1": {"sense_gpio": 4, "switch_gpio": 2}}}) == ()
    assert unsigned(base, {"ports": {"1-1": None, "1-2": {"sense_gpio": 9}}}) == ()
    assert unsigned(base, {"ports": {"1-1": {"switch_gpio": None}}}) == ()
    (line,) = unsigned(base, {"ports": {"1-1": None, "1-2": {"switch_gpio": 2}}})
    assert line.startswith('ports."1-2".switch_gpio cannot')


AGES = st.sampled_from([0.0, 1 / 24, 1.0, 90.0, 3_650.0])
OUTBOXES = st.builds(Outbox, commit_interval_ms=st.integers(1, 9), max_bytes=st.integers(1 << 20, 1 << 40),
                     max_age_days=AGES)  # fmt: skip


@given(OUTBOXES, OUTBOXES)
def test_a_trial_destroys_no_record(kept: Outbox, wanted: Outbox) -> None:
    """Whatever either of the two would keep is kept on trial."""
    now = desired_scope.on_trial(Config(outbox=kept), replace(TLS, outbox=wanted))
    assert now.outbox.max_bytes >= max(kept.max_bytes, wanted.max_bytes)
    for each in (kept, wanted):
        lives = each.max_age_days or float("inf")
        assert (now.outbox.max_age_days or float("inf")) >= lives
    assert now.outbox.max_bytes in (kept.max_bytes, wanted.max_bytes)
    assert replace(now, outbox=wanted) == replace(TLS, outbox=wanted), "all else is as wanted"
    assert now.outbox.commit_interval_ms == wanted.commit_interval_ms
