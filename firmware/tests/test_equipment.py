"""What a configuration becomes: the relay rig on gpiozero's mock pins, put together and not run."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from plugmeter import config, equipment
from plugmeter.equipment import Plan
from plugmeter.errors import UsageError
from plugmeter.rigs.planned import ENUMERATED_GAP_MS
from plugmeter.rigs.relay import RelayRig

RELAY = """
[witnesses]
netlink = false
udev = false
listeners = false
[gpio]
factory = "mock"
[ports."1-1"]
sense_gpio = 17
switch_gpio = 5
[ports."1-2"]
sense_gpio = 18
switch_gpio = 6
[rig]
sticks = 3
seed = 9
"""


def test_the_report_of_a_relay_run_has_its_plan() -> None:
    told: list[str] = []
    with equipment.equipment(config.parse(RELAY, "f.toml"), Plan("relay"), tell=told.append) as gear:
        assert gear.start.plan == gear.rig.plan
        assert gear.rig.plan == {
            "sticks": 3,
            "cycles": 1,
            "ports": 2,
            "gap_ms": ENUMERATED_GAP_MS,
            "jitter_ms": 15,
            "seed": 9,
            "bounce": "none",
        }
        assert gear.start.witnesses == ("gpio", "inotify")
    assert told == []


def test_a_density_stands_in_the_plan_as_well() -> None:
    dense = RELAY + "density_per_s = 0.5\n"
    with equipment.equipment(config.parse(dense, "f.toml"), Plan("relay")) as gear:
        assert gear.rig.plan["density_per_s"] == 0.5


def test_the_relay_rig_obeys_a_gpio_witness_that_is_switched_off() -> None:
    text = RELAY.replace("[witnesses]", "[witnesses]\ngpio = false")
    with equipment.equipment(config.parse(text, "f.toml"), Plan("relay")) as gear:
        assert gear.truth is None
        assert gear.start.witnesses == ("inotify",)


@pytest.mark.parametrize("at_rest", [False, True])
@pytest.mark.parametrize("active_high", [False, True])
def test_relays_rest_as_the_configuration_says(active_high: bool, at_rest: bool) -> None:
    keys = f"switch_active_high = {str(active_high).lower()}\nvbus_at_rest = {str(at_rest).lower()}\n"
    text = RELAY.replace("[gpio]\n", f"[gpio]\n{keys}")
    with equipment.equipment(config.parse(text, "f.toml"), Plan("relay")) as gear:
        assert isinstance(gear.rig, RelayRig)
        for switch in gear.rig._switches.values():
            assert switch.pin.state == (at_rest == active_high)


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("moock", "is unknown; this machine has .*mock"),
        pytest.param(
            "rpigpio",
            "cannot be used",
            marks=pytest.mark.skipif(find_spec("RPi") is not None, reason="needs a machine without RPi.GPIO"),
        ),
    ],
)
def test_a_pin_factory_that_cannot_be_had_is_one_line(factory: str, words: str) -> None:
    text = RELAY.replace('"mock"', f'"{factory}"')
    with (
        pytest.raises(UsageError, match=words) as caught,
        equipment.equipment(config.parse(text, "f.toml"), Plan("relay")),
    ):
        pass
    assert "\n" not in str(caught.value)
