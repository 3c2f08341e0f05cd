from __future__ import annotations

import json
import os
import re
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugmeter import config
from plugmeter.config import ConfigError
from plugmeter.rigs.lines import MOST_MOCK_PORTS
from plugmeter.sections import Config, Inotify, Port, Rig
from plugmeter.settings import PROBLEMS_SHOWN, Key, keys
from plugmeter.witnesses.ring import MessageRing

SECTIONS = ("run", "witnesses", "netlink", "udev", "inotify", "gpio", "rig")


def problems(text: str) -> list[str]:
    """The lines of a text that cannot be read, each without the file's name, which each must have."""
    with pytest.raises(ConfigError) as caught:
        config.parse(text, "f.toml")
    assert caught.value.exit_status == 2
    assert str(caught.value).split("\n") == list(caught.value.problems)
    assert all(line.startswith("config f.toml: ") for line in caught.value.problems)
    return [line.removeprefix("config f.toml: ") for line in caught.value.problems]


def all_keys() -> list[tuple[str, str, Key]]:
    return [
        (section, name, known)
        for section in SECTIONS
        for name, known in keys(type(getattr(Config(), section))).items()
    ]


def test_an_empty_file_means_the_defaults() -> None:
    assert config.parse("", "f.toml") == config.default() == Config()


def test_every_field_is_a_documented_key_and_every_default_is_within_its_limits() -> None:
    for section in SECTIONS:
        values = getattr(Config(), section)
        assert [each.name for each in fields(values)] == list(keys(type(values)))
    for section, name, known in all_keys():
        assert known.doc.endswith("."), (section, name)
        if known.kind in (int, float):
            value = getattr(getattr(Config(), section), name)
            assert known.low is not None
            assert known.high is not None
            assert known.low <= value <= known.high, (section, name)
        if name.endswith(("_ms", "_bytes")):
            assert known.unit == name.rpartition("_")[2], (section, name)


def test_the_documented_file_is_current_and_means_the_defaults() -> None:
    kept = Path(__file__).parent.parent / "docs" / "plugmeter.toml"
    assert kept.read_text() == config.document(), "run: scripts/plugmeter check --example > " + str(kept)
    assert config.load(kept) == config.default()
    for section, name, _ in all_keys():
        assert name in tomllib.loads(config.document())[section]


def test_the_commented_port_in_the_document_is_a_good_one() -> None:
    text = re.sub(r"^# (?=\[ports\.|\w+ = )", "", config.document(), flags=re.MULTILINE)
    assert config.parse(text, "f.toml").ports == (Port(name="1-1.1", sense_gpio=17, switch_gpio=5),)


def test_values_are_read() -> None:
    read = config.parse(
        """
        [run]
        claim_loss_rate = 0.01
        [inotify]
        directories = ["/dev", "/dev/bus/usb"]
        [gpio]
        pull = "down"
        [rig]
        density_per_s = 85
        [ports."1-1.1"]
        sense_gpio = 17
        switch_gpio = 5
        [ports."2-1"]
        sense_gpio = 0
        """,
        "f.toml",
    )
    assert read.run.claim_loss_rate == 0.01
    assert read.inotify.directories == ("/dev", "/dev/bus/usb")
    assert read.gpio.pull == "down"
    assert read.rig.density_per_s == 85.0
    assert isinstance(read.rig.density_per_s, float)
    assert read.ports == (
        Port(name="1-1.1", sense_gpio=17, switch_gpio=5),
        Port(name="2-1", sense_gpio=0, switch_gpio=None),
    )
    assert read.source == "f.toml"
    assert read.netlink == config.default().netlink


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[run]\ndebounce_m = 1", "unknown key run.debounce_m; did you mean run.debounce_ms?"),
        ("[run]\ngap_ms = 60", "unknown key run.gap_ms; did you mean rig.gap_ms?"),
        ("[run]\nxyzzy = 60", "unknown key run.xyzzy"),
        ("nominal_ms = 60", "unknown key nominal_ms; did you mean run.nominal_ms?"),
        ("[witness]\ngpio = true", "unknown section witness; did you mean witnesses?"),
        ("[port.'1-1']\nsense_gpio = 1", "unknown section port; did you mean ports?"),
        ('["a\\nb"]', 'unknown section "a\\nb"'),
        ("run = 3", "run = 3: it must be a section: [run], with its keys below it"),
        ("[[run]]", "run = a list: it must be a section: [run], with its keys below it"),
        (
            "[run]\ndebounce_ms = true",
            "run.debounce_ms = true is true or false; it must be a whole number, 1 to 10000 ms",
        ),
        (
            "[run]\ndebounce_ms = 1.5",
            "run.debounce_ms = 1.5 is a number; it must be a whole number, 1 to 10000 ms",
        ),
        (
            "[run]\ndebounce_ms = 0",
            "run.debounce_ms = 0 is out of range; it must be a whole number, 1 to 10000 ms",
        ),
        (
            "[run]\ndebounce_ms = -100",
            "run.debounce_ms = -100 is out of range; it must be a whole number, 1 to 10000 ms",
        ),
        (
            f"[run]\ndebounce_ms = 0x{'f' * 9000}",
            "run.debounce_ms = a number of 36000 bits is out of range;"
            " it must be a whole number, 1 to 10000 ms",
        ),
        (
            f"[rig]\ndensity_per_s = 0x{'f' * 9000}",
            "rig.density_per_s = a number of 36000 bits is out of range;"
            " it must be a number, 0 to 1000000 per second",
        ),
        (f"[run]\ndebounce_ms = {'9' * 9000}", "not a configuration: a number has too many digits"),
        (
            "[rig]\ndensity_per_s = nan",
            "rig.density_per_s = nan is out of range; it must be a number, 0 to 1000000 per second",
        ),
        (
            "[rig]\ndensity_per_s = inf",
            "rig.density_per_s = inf is out of range; it must be a number, 0 to 1000000 per second",
        ),
        (
            "[rig]\nseed = 2025-01-01",
            "rig.seed = 2025-01-01 is a date or time; it must be a whole number, 0 to ",
        ),
        ("[rig]\nsticks = {a = 1}", "rig.sticks = a section is a section; it must be a whole number, 1 to "),
        (
            "[witnesses]\ngpio = 1",
            "witnesses.gpio = 1 is a whole number; it must be true or false",
        ),
        (
            "[netlink]\nring_slots = 1000",
            "netlink.ring_slots = 1000 is not a power of two; it must be a power of two, 16 to 65536",
        ),
        (
            "[netlink]\nring_slots = 131072",
            "netlink.ring_slots = 131072 is out of range; it must be a power of two, 16 to 65536",
        ),
        ("[rig]\nports = 45", "rig.ports = 45 is out of range; it must be a whole number, 1 to 44"),
        (
            '[gpio]\npull = "upp"',
            'gpio.pull = "upp" is not known (did you mean "up"?); it must be "none", "up" or "down"',
        ),
        (
            '[gpio]\nfactory = "a b"',
            'gpio.factory = "a b" cannot be; it must be the name of a gpiozero pin factory',
        ),
        (
            '[inotify]\ndirectories = "/dev"',
            'inotify.directories = "/dev" is a text in quotes;'
            ' it must be a list of full paths, such as ["/dev"]',
        ),
        (
            '[inotify]\ndirectories = ["dev"]',
            'inotify.directories = a list has "dev" in it; it must be a list of full paths, such as ["/dev"]',
        ),
        (
            "[inotify]\ndirectories = []",
            'inotify.directories = a list has 0 items; it must be a list of full paths, such as ["/dev"]',
        ),
        (
            '[inotify]\ndirectories = ["/dev", "/dev/"]',
            'inotify.directories has "/dev/" twice: every node would be seen twice',
        ),
        ("ports = 1", 'ports = 1: it must be sections, one for each port: [ports."1-1.1"]'),
        (
            "[ports.1-1.4]\nsense_gpio = 1",
            'ports.1-1.4: put the port\'s name in quotes: [ports."1-1.4"]',
        ),
        (
            "[ports.usb1]\nsense_gpio = 1",
            "ports.usb1 is no USB port; one is named as the kernel names it, such as 1-1 or 1-1.4",
        ),
        (
            '[ports."1-1\\n"]\nsense_gpio = 1',
            'ports."1-1\\n" is no USB port; one is named as the kernel names it, such as 1-1 or 1-1.4',
        ),
        (
            '[ports."1-1"]\nswitch_gpio = 1',
            'ports."1-1".sense_gpio is missing: The GPIO line that senses this port\'s VBUS.',
        ),
        (
            '[ports."1-1"]\nsense_gpio = 4\n[ports."1-2"]\nsense_gpio = 5\nswitch_gpio = 4',
            'ports."1-2".switch_gpio = 4: GPIO line 4 is used by ports."1-1".sense_gpio already',
        ),
        (
            '[ports."1-1"]\nsense_gpio = 4\nswitch_gpio = 4',
            'ports."1-1".switch_gpio = 4: GPIO line 4 is used by ports."1-1".sense_gpio already',
        ),
        (
            "[run]\nnominal_ms = 30000",
            "run.nominal_ms = 30000 must be less than run.lost_after_ms = 30000:"
            " what is late comes before what is lost",
        ),
        (
            "[run]\ndebounce_ms = 3000",
            "run.debounce_ms = 3000 must be less than run.nominal_ms = 3000:"
            " an episode is known only after the debounce time",
        ),
        (
            "[netlink]\nreorder_window_ms = 30000",
            "netlink.reorder_window_ms = 30000 must be less than run.lost_after_ms = 30000",
        ),
        (
            "[outbox]\nmax_age_days = 1e-7",
            "outbox.max_age_days = 1e-07 must be 0, or not be less than 1/24 (0.0417): records that wait for"
            " the controller would go within the hour",
        ),
        (
            "[rig]\ngap_ms = 49",
            "rig.gap_ms = 49 must be 0, or not be less than 50: no USB core would see it",
        ),
        (
            "[rig]\ngap_ms = 250\njitter_ms = 251",
            "rig.jitter_ms = 251 must not be more than rig.gap_ms = 250",
        ),
        (
            "[witnesses]\nnetlink = false\nudev = false\ninotify = false",
            "witnesses: nothing would see a device; one of netlink, udev and inotify must be true",
        ),
        ("[run", "not TOML: Expected ']' at the end of a table declaration (at end of document)"),
        ("[run]\n[run]", "not TOML: Cannot declare ('run',) twice (at line 2, column 5)"),
        ("a = " + "[" * 30_000, "not a configuration: nested too deep"),
        (".".join("a" * 500) + " = 1", "line 1 has more than 200 dots; no key does"),
    ],
)
def test_each_mistake_is_one_line_that_says_what_is_wrong(text: str, line: str) -> None:
    (said,) = problems(text)
    assert said == line or (line.endswith(" ") and said.startswith(line))


def test_all_problems_are_said_at_once_in_the_order_of_the_file() -> None:
    text = '[run]\ndebounce_m = 1\nnominal_ms = "x"\n[rig]\nsticks = 0\n[netlnk]\n[rig.x]\n'
    assert [line.split(" = ")[0].split(";")[0] for line in problems(text)] == [
        "unknown key run.debounce_m",
        "run.nominal_ms",
        "rig.sticks",
        "unknown key rig.x",
        "unknown section netlnk",
    ]


def test_an_unreadable_section_contradicts_no_other() -> None:
    text = "[run]\nlost_after_ms = 90000\nnominal_s = 3\n[netlink]\nreorder_window_ms = 40000\n"
    assert problems(text) == ["unknown key run.nominal_s; did you mean run.nominal_ms?"]


def test_thousands_of_problems_are_counted_and_not_shown() -> None:
    said = problems("[rig]\n" + "\n".join(f"k{number} = 1" for number in range(3000)))
    assert len(said) == PROBLEMS_SHOWN + 1
    assert said[-1] == f"and {3000 - PROBLEMS_SHOWN} more problems"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"#" * (10 << 20), "longer than 65536 bytes"),
        (b"[run]\n# \xff\n", "not UTF-8: byte 9 cannot be text"),
        (b"\x00", "not TOML"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "f.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        config.load(file)
    assert len(caught.value.problems) == 1
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("name", ["", "missing.toml", ".", "a\0b", "no\nnewline", "\udcff", "x" * 300])
def test_files_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        config.load(f"{tmp_path}/{name}" if name else name)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_with_a_byte_order_mark_and_dos_lines_is_read(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_bytes(b"\xef\xbb\xbf[rig]\r\nsticks = 7\r\n")
    assert config.load(file).rig.sticks == 7
    assert config.load(os.fspath(file)) == config.load(file)


def test_what_is_described_reads_back_as_the_same_configuration() -> None:
    text = '[run]\ndebounce_ms = 50\n[mqtt]\nhost = "h"\n[ports."1-1"]\nsense_gpio = 4\nswitch_gpio = 5\n'
    for read in (config.default(), config.parse(text, "f.toml")):
        described = json.loads(json.dumps(config.describe(read)))
        assert config.from_table(described, "afar") == read


def test_a_table_is_held_to_the_limits_of_a_file() -> None:
    with pytest.raises(config.ConfigError, match=r"config afar: run.debounce_ms = 0 is out of range"):
        config.from_table({"run": {"debounce_ms": 0}}, "afar")


def test_describe_has_every_effective_value() -> None:
    read = config.parse('[rig]\nsticks = 7\n[ports."1-1"]\nsense_gpio = 4\n', "f.toml")
    described = config.describe(read)
    assert {(section, name) for section, name, _ in all_keys()} == {
        (section, name) for section in SECTIONS for name in described[section]
    }
    assert described["rig"]["sticks"] == 7
    assert described["inotify"]["directories"] == ["/dev"]
    assert described["ports"] == {"1-1": {"sense_gpio": 4}}


def test_the_rig_may_have_as_many_ports_as_the_mock_board_has_lines() -> None:
    assert keys(Rig)["ports"].high == MOST_MOCK_PORTS


@given(st.one_of(st.integers(-1, 4096), st.integers(0, 12).map(lambda power: 2**power)))
def test_every_ring_that_is_accepted_can_be_made(slots: int) -> None:
    text = f"[netlink]\nring_slots = {slots}"
    if slots in (16, 32, 64, 128, 256, 512, 1024, 2048, 4096):
        assert MessageRing(config.parse(text, "f.toml").netlink.ring_slots, 64).slots == slots
    else:
        assert len(problems(text)) == 1


# What a user might write: mostly known names, with values of every kind.
names = st.one_of(st.sampled_from([name for _, name, _ in all_keys()]), st.text(max_size=8))
values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(),
        st.integers(0, 5000),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["none", "up", "dip", "/dev", "mock"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)
tables = st.dictionaries(
    st.one_of(st.sampled_from([*SECTIONS, "ports"]), st.text(max_size=6)),
    st.one_of(st.dictionaries(names, values, max_size=5), values),
    max_size=5,
)


def to_toml(value: object) -> str:
    """Any value as TOML writes it, on one line; independent of the code under test."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(each):08x}" for each in value) + '"'
    if isinstance(value, list):
        return f"[{', '.join(map(to_toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{to_toml(name)} = {to_toml(each)}' for name, each in value.items())}}}"
    return repr(value)


def reads_or_says_why(text: str) -> Config | None:
    try:
        return config.parse(text, "f.toml")
    except ConfigError as error:
        assert error.problems
        assert all(line == line.splitlines()[0] and len(line) < 400 for line in error.problems)
        return None


@given(st.text())
def test_any_text_is_a_configuration_or_a_clear_no(text: str) -> None:
    reads_or_says_why(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_configuration_or_a_clear_no(raw: bytes) -> None:
    reads_or_says_why(raw.decode("utf-8", "surrogateescape"))


@settings(max_examples=300)
@given(tables)
def test_any_table_is_a_configuration_or_a_clear_no(table: dict[str, Any]) -> None:
    text = "\n".join(f"{to_toml(name)} = {to_toml(value)}" for name, value in table.items())
    read = reads_or_says_why(text)
    if read is not None:
        for section, name, known in all_keys():
            value = getattr(getattr(read, section), name)
            assert type(value) is known.kind, (section, name)


@st.composite
def good_values(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """Any configuration that keeps within the limits of its keys, contradictions included."""
    drawn: dict[str, dict[str, Any]] = {}
    for section, name, known in all_keys():
        if not draw(st.booleans()):
            continue
        value: st.SearchStrategy[Any]
        if known.kind is bool:
            value = st.booleans()
        elif known.choices:
            value = st.sampled_from(known.choices)
        elif known.power_of_two:
            value = st.sampled_from([2**power for power in range(4, 17)])
        elif known.kind is int:
            assert known.low is not None
            assert known.high is not None
            value = st.integers(int(known.low), int(known.high))
        elif known.kind is float:
            value = st.floats(known.low, known.high)
        elif known.kind is str:
            value = st.from_regex(known.pattern, fullmatch=True)
        else:
            value = st.lists(st.sampled_from(["/dev", "/tmp", "/run"]), min_size=1, unique=True)
        drawn.setdefault(section, {})[name] = draw(value)
    return drawn


@given(good_values())
def test_whatever_is_within_the_limits_is_kept_as_it_was_written(wanted: dict[str, dict[str, Any]]) -> None:
    text = "\n".join(f"{name} = {to_toml(value)}" for name, value in wanted.items())
    try:
        read = config.parse(text, "f.toml")
    except ConfigError as error:  # only for what two keys say together
        assert all(
            re.search("must be less than|must not be more|not be less than|one of netlink", line)
            for line in error.problems
        )
        return
    described = config.describe(read)
    assert {
        section: {name: described[section][name] for name in names} for section, names in wanted.items()
    } == wanted
    again = "\n".join(f"{name} = {to_toml(value)}" for name, value in described.items())
    assert config.parse(again, "g.toml") == read


OVERLAID = config.parse(
    '[rig]\nsticks = 7\n[ports."1-1"]\nsense_gpio = 4\nswitch_gpio = 5\n[ports."1-2"]\nsense_gpio = 6\n',
    "f.toml",
)


def test_an_empty_overlay_changes_nothing() -> None:
    assert config.with_overlay(OVERLAID, {}) == OVERLAID
    assert config.with_overlay(OVERLAID, {"rig": {}, "ports": {}}) == OVERLAID


def test_an_overlay_changes_just_what_is_in_it() -> None:
    changed = config.with_overlay(OVERLAID, {"rig": {"cycles": 3}, "inotify": {"directories": ["/dev/bus"]}})
    assert changed.source == "f.toml"
    assert changed == replace(
        OVERLAID, rig=replace(OVERLAID.rig, cycles=3), inotify=Inotify(directories=("/dev/bus",))
    )


@pytest.mark.parametrize(
    ("overlay", "ports"),
    [
        ({"1-2": {"switch_gpio": 8}}, {"1-1": (4, 5), "1-2": (6, 8)}),
        ({"1-1": {"switch_gpio": None}}, {"1-1": (4, None), "1-2": (6, None)}),
        ({"1-1": None}, {"1-2": (6, None)}),
        ({"1-1": {"sense_gpio": 6, "switch_gpio": 9}, "1-2": None}, {"1-1": (6, 9)}),
        ({"2-1.4": {"sense_gpio": 0}}, {"1-1": (4, 5), "1-2": (6, None), "2-1.4": (0, None)}),
    ],
)
def test_ports_of_an_overlay(overlay: dict[str, object], ports: dict[str, tuple[int, int | None]]) -> None:
    changed = config.with_overlay(OVERLAID, {"ports": overlay})
    assert {each.name: (each.sense_gpio, each.switch_gpio) for each in changed.ports} == ports


@pytest.mark.parametrize(
    ("overlay", "line"),
    [
        ({"rig": {"stick": 1}}, "unknown key rig.stick; did you mean rig.sticks?"),
        ({"rug": {"sticks": 1}}, "unknown section rug; did you mean run?"),
        ({"rig": None}, "rig = null: leave it out instead"),
        ({"rig": {"sticks": None}}, "rig.sticks = null: leave it out instead"),
        ({"rig": 3}, "rig = 3: it must be a section: [rig], with its keys below it"),
        ({"rig": {"sticks": 0}}, "rig.sticks = 0 is out of range; it must be a whole number, 1 to 1000000"),
        (
            {"run": {"debounce_ms": 5000}},
            "run.debounce_ms = 5000 must be less than run.nominal_ms = 3000:"
            " an episode is known only after the debounce time",
        ),
        ({"ports": 3}, 'ports = 3: it must be sections, one for each port: [ports."1-1.1"]'),
        ({"ports": {"9-9": None}}, 'ports."9-9" = null: there is no such port to take away'),
        (
            {"ports": {"1-1": {"sense_gpio": None}}},
            'ports."1-1".sense_gpio is missing: The GPIO line that senses this port\'s VBUS.',
        ),
        (
            {"ports": {"1-3": {"sense_gpio": 6}}},
            'ports."1-3".sense_gpio = 6: GPIO line 6 is used by ports."1-2".sense_gpio already',
        ),
    ],
)
def test_an_overlay_that_cannot_be(overlay: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.with_overlay(OVERLAID, overlay, "desired 7")
    assert caught.value.problems == (f"config desired 7: {line}",)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["run", "ports", "rig", "1-1", "sticks", "sense_gpio", "x"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_as_an_overlay_gives_a_configuration_or_its_problems(value: Any) -> None:
    overlay = value if isinstance(value, dict) else {"rig": value}
    try:
        changed = config.with_overlay(OVERLAID, overlay)
    except ConfigError as error:
        assert error.problems
    else:
        assert config.with_overlay(changed, overlay | {"ports": {}}).rig == changed.rig
