from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter import settings
from plugmeter.sections import Daemon
from plugmeter.telemetry import topics
from plugmeter.telemetry.topics import Place, Topics, parse

DEVICES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True)
LEVELS = st.text(st.characters(codec="utf-8"), max_size=140)


@given(DEVICES, st.sampled_from(topics.KINDS))
def test_every_topic_of_a_device_is_found_again(device: str, kind: str) -> None:
    assert parse(getattr(Topics(device), kind)) == Place(device, kind)


@given(DEVICES)
def test_a_command_is_found_again(device: str) -> None:
    assert parse(Topics(device).command("start-run", "c-1")) == Place(device, "cmd", ("start-run", "c-1"))


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/",
        "plugmeter",
        "plugmeter/v1",
        "plugmeter/v1/bench",
        "plugmeter/v1/bench/",
        "plugmeter/v1/bench/unheard-of",
        "plugmeter/v2/bench/status",
        "/plugmeter/v1/bench/status",
        "plugmeter/v1//status",
        "plugmeter/v1/+/status",
        "plugmeter/v1/#",
        "plugmeter/v1/Bench/status",
        "plugmeter/v1/bench\n/status",
        f"plugmeter/v1/{'b' * 64}/status",
        "plugmeter/v1/-bench/status",
        "plugmeter/v1/bench/status/more",
        "plugmeter/v1/bench/cmd",
        "plugmeter/v1/bench/cmd/op",
        "plugmeter/v1/bench/cmd/op/",
        "plugmeter/v1/bench/cmd//id",
        "plugmeter/v1/bench/cmd/+/+",
        "plugmeter/v1/bench/cmd/op/#",
        "plugmeter/v1/bench/cmd/op/id/more",
        "plugmeter/v1/bench/cmd/op/i\0d",
        "plugmeter/v1/bench/cmd/op/\ud800",
        f"plugmeter/v1/bench/cmd/op/{'i' * 129}",
        "plugmeter/v1/bench/cmd/" + "/" * 60_000,
        "homeassistant/status",
    ],
)
def test_what_is_not_of_the_tree(topic: str) -> None:
    assert parse(topic) is None


@given(
    st.one_of(st.text(), st.lists(LEVELS).map("/".join), LEVELS.map("plugmeter/v1/bench/cmd/op/{}".format))
)
def test_parse_is_total_and_what_it_finds_is_in_order(topic: str) -> None:
    place = parse(topic)
    if place is not None:
        assert topics.is_device(place.device)
        assert topic == "/".join((topics.ROOT, place.device, place.kind, *place.rest))
        assert all(level.isprintable() and len(level) <= 128 for level in place.rest)


@pytest.mark.parametrize("name", ["", "Bench", "a/b", "a+b", "#", "-a", "ä", "a\n", "a" * 64, "a b", "٣"])
def test_no_device_is_called_so(name: str) -> None:
    assert not topics.is_device(name)
    with pytest.raises(ValueError, match="is no device's name"):
        Topics(name)


@pytest.mark.parametrize(
    ("host", "device"),
    [
        ("bench-3", "bench-3"),
        ("Bench 3.example.org", "bench-3"),
        ("ünit", "nit"),
        ("", "plugmeter"),
        ("...", "plugmeter"),
        ("___", "plugmeter"),
        ("a" * 200, "a" * 63),
        ("-" * 70 + "a", "plugmeter"),
    ],
)
def test_a_device_named_after_its_host(host: str, device: str) -> None:
    assert topics.device_of(host) == device


@given(st.text())
def test_every_host_gives_a_device(host: str) -> None:
    assert topics.is_device(topics.device_of(host))


@given(st.one_of(DEVICES, st.text(min_size=1, max_size=70)))
def test_the_configuration_and_the_topics_agree_on_names(name: str) -> None:
    pattern = settings.keys(Daemon)["device"].pattern
    assert topics.is_device(name) == bool(re.fullmatch(pattern, name))


def test_filters_for_a_fleet() -> None:
    assert topics.every_device("records") == "plugmeter/v1/+/records"
    assert topics.every_device("cmd") == "plugmeter/v1/+/cmd/+/+"
    assert Topics("bench").commands == "plugmeter/v1/bench/cmd/+/+"
