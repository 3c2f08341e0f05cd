from __future__ import annotations

import base64
import json
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plugmeter import config
from plugmeter.errors import PlugmeterError
from plugmeter.sections import Commands, Config, Mqtt, Outbox, Run
from plugmeter.telemetry.commands import signing
from plugmeter.telemetry.commands.message import Verify
from plugmeter.telemetry.desired_keeper import DesiredKeeper

SECOND = 1_000_000_000
BASE = Config(commands=Commands(rollback_minutes=1.0))


class Device:
    """A keeper with a clock of its own; ``applied`` is what the rest of the daemon was given."""

    def __init__(
        self,
        folder: Path,
        base: Config = BASE,
        *,
        verify: Verify | None = None,
        apply: Callable[[Config], None] | None = None,
        now_ns: int = 0,
    ) -> None:
        self.now_ns = now_ns
        self.applied: list[Config] = []
        self.reports: list[dict[str, Any]] = []
        self.records: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.keeper = DesiredKeeper(
            folder / "desired.json", base, device="lab-3", verify=verify, apply=apply or self.applied.append,
            publish=lambda data: self.reports.append(json.loads(data)),
            record=lambda kind, data: self.records.append({"kind": kind, **data}),
            tell=lambda level, line: self.lines.append(line),
            monotonic_ns=lambda: self.now_ns, wall_ns=lambda: 5,
        )  # fmt: skip
        self.started = self.keeper.start()

    def wish(self, wish_id: str, debounce_ms: int, **more: Any) -> None:
        document = {"id": wish_id, "config": {"run": {"debounce_ms": debounce_ms}}, **more}
        self.keeper.desire(json.dumps(document).encode())

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.now_ns += SECOND
            self.keeper.tick()

    @property
    def debounce_ms(self) -> int:
        return self.keeper.effective.run.debounce_ms

    @property
    def said(self) -> tuple[str | None, str]:
        return self.reports[-1]["id"], self.reports[-1]["state"]


def test_the_devices_own_file_holds_without_a_wish(tmp_path: Path) -> None:
    device = Device(tmp_path)
    assert device.started == BASE
    assert device.reports == [
        {"id": None, "state": "in_effect", "reason": None, "config": config.describe(BASE)}
    ]
    assert not (tmp_path / "desired.json").exists()


def test_a_wish_is_applied_verified_and_kept(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.wish("w1", 120)
    assert [each.run.debounce_ms for each in device.applied] == [120]
    assert device.said == ("w1", "trial")
    assert device.reports[-1]["config"]["run"]["debounce_ms"] == 120
    device.wait(30)
    device.keeper.reached(device.now_ns)
    assert device.said == ("w1", "in_effect")
    device.wait(100)
    assert device.debounce_ms == 120
    assert Device(tmp_path).started.run.debounce_ms == 120
    assert [each["state"] for each in device.records] == ["in_effect", "trial", "in_effect"]


def test_it_goes_back_by_itself_when_the_controller_is_not_reached(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.wish("w1", 120)
    device.wait(59)
    assert device.debounce_ms == 120
    device.wait(1)
    assert [each.run.debounce_ms for each in device.applied] == [120, 100]
    assert device.said == ("w1", "rolled_back")
    assert device.reports[-1]["reason"] == "the controller was not reached with it in time"
    assert Device(tmp_path).started == BASE


def test_a_connection_from_before_proves_nothing(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.now_ns = 10 * SECOND
    device.wish("w1", 120)
    device.keeper.reached(9 * SECOND)
    assert device.said == ("w1", "trial")
    device.keeper.reached(10 * SECOND)
    assert device.said == ("w1", "in_effect")


def test_a_connection_that_is_made_while_it_is_applied_counts(tmp_path: Path) -> None:
    """The link is quicker than the rest of what there is to apply."""

    def apply(config: Config) -> None:
        device.now_ns += SECOND

    device = Device(tmp_path, apply=apply, now_ns=10 * SECOND)
    device.wish("w1", 120)
    assert device.now_ns == 11 * SECOND and device.said == ("w1", "trial")
    device.keeper.reached(10 * SECOND + 1)
    assert device.said == ("w1", "in_effect")


def test_a_retained_wish_that_was_rolled_back_is_not_tried_again(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.wish("w1", 120)
    device.wait(60)
    device.wish("w1", 120)
    again = Device(tmp_path)
    again.wish("w1", 120)
    assert (device.debounce_ms, again.debounce_ms) == (100, 100)
    assert again.said == ("w1", "rolled_back")
    again.wish("w2", 120)
    assert again.said == ("w2", "trial")


def test_an_older_retained_wish_does_not_undo_a_newer_one(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.wish("w1", 120)
    device.keeper.reached(device.now_ns)
    device.keeper.configure("c2", {"run": {"debounce_ms": 130}})
    device.keeper.reached(device.now_ns)
    device.wish("w1", 120)
    assert device.debounce_ms == 130
    assert device.said == ("c2", "in_effect")


def test_a_restart_in_the_middle_goes_on_with_the_time_that_is_left(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.wish("w1", 120)
    device.wait(40)
    again = Device(tmp_path, now_ns=7_777 * SECOND)  # another boot: another monotonic clock
    assert again.started.run.debounce_ms == 120
    assert again.said == ("w1", "trial")
    again.wait(15)
    assert again.debounce_ms == 120
    again.wait(10)
    assert again.debounce_ms == 100


def test_a_configuration_that_ends_the_daemon_is_given_up_after_three_starts(tmp_path: Path) -> None:
    Device(tmp_path).wish("w1", 120)
    assert [Device(tmp_path).debounce_ms for _ in range(5)] == [120, 120, 120, 100, 100]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"{", "malformed: it is not JSON: "),
        (
            b'{"id": "w", "config": {"run": {"debounce_ms": 0}}}',
            "config desired w: run.debounce_ms = 0 ",
        ),
        (
            b'{"id": "w", "config": {"run": {"debounce_ms": 9000}}}',
            "config desired w: run.debounce_ms = 9",
        ),
        (b'{"id": "w", "config": {"commands": {"accept": []}}}', "[commands] cannot be changed from afar"),
        (b'{"id": "w", "config": {"mqtt": {"key_file": "/x"}}}', "mqtt.key_file cannot be changed from afar"),
        (b'{"id": "w", "config": {}, "device": "lab-4"}', 'other_device: it is for "lab-4"; this is lab-3'),
    ],
)
def test_a_wish_that_cannot_be(tmp_path: Path, document: bytes, reason: str) -> None:
    device = Device(tmp_path)
    device.keeper.desire(document)
    assert device.reports[-1]["state"] == "refused"
    assert device.reports[-1]["reason"].startswith(reason)
    assert device.reports[-1]["config"] == config.describe(BASE)
    assert device.applied == []
    assert device.keeper.counters["refused"] == 1


def test_a_refused_wish_leaves_what_is_in_effect(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.wish("w1", 120)
    device.keeper.reached(device.now_ns)
    device.wish("w2", 0)
    device.wish("w1", 130)
    assert device.reports[-1]["reason"] == "id_reused: w1 was the id of another configuration"
    assert device.debounce_ms == 120


def test_the_list_of_commands_holds_for_wishes_too(tmp_path: Path) -> None:
    device = Device(tmp_path, Config(commands=Commands(accept=("restart",))))
    device.wish("w1", 120)
    assert device.reports[-1]["reason"] == "not_accepted: config is not in commands.accept"
    assert device.applied == []


def test_what_cannot_be_applied_is_undone(tmp_path: Path) -> None:
    given: list[int] = []

    def apply(wanted: Config) -> None:
        given.append(wanted.run.debounce_ms)
        if wanted.run.debounce_ms == 120:
            raise PlugmeterError("no such port")

    device = Device(tmp_path, apply=apply)
    device.wish("w1", 120)
    assert given == [120, 100]
    assert device.said == ("w1", "refused")
    assert device.reports[-1]["reason"] == "it cannot be applied: no such port"
    assert device.keeper.trouble is None
    assert Device(tmp_path).started == BASE


def test_when_nothing_can_be_applied_it_says_so(tmp_path: Path) -> None:
    def apply(wanted: Config) -> None:
        raise PlugmeterError("all is broken")

    device = Device(tmp_path, apply=apply)
    device.wish("w1", 120)
    assert device.keeper.trouble == (
        "the configuration that was in effect before cannot be applied again: all is broken"
    )


def test_the_command_gives_the_state_and_is_not_carried_out_twice(tmp_path: Path) -> None:
    device = Device(tmp_path)
    wanted = {"run": {"debounce_ms": 120}}
    assert device.keeper.configure("c1", wanted) == {"state": "trial", "left_ms": 60_000}
    again = Device(tmp_path)
    assert again.keeper.configure("c1", wanted) == {"state": "trial", "left_ms": 60_000}
    assert again.applied == []
    again.keeper.reached(again.now_ns)
    assert again.keeper.configure("c1", wanted) == {"state": "in_effect", "left_ms": 0}
    with pytest.raises(PlugmeterError, match="c1 was the id of another configuration"):
        again.keeper.configure("c1", {})
    with pytest.raises(PlugmeterError, match="refused: config desired c2: unknown section rug"):
        again.keeper.configure("c2", {"rug": {}})
    with pytest.raises(PlugmeterError, match="a later configuration has taken its place"):
        again.keeper.configure("c1", wanted)


def test_only_signed_wishes_where_there_is_a_key_and_no_older_ones(tmp_path: Path) -> None:
    public_path, _ = signing.new_key_pair(tmp_path / "k")
    private = signing.load_private_key(tmp_path / "k")
    device = Device(tmp_path, verify=signing.load_public_key(public_path).verify)

    def signed(wish_id: str, minute: int, debounce_ms: int) -> bytes:
        text = json.dumps(
            {"device": "lab-3", "id": wish_id, "issued": f"2026-11-22T10:{minute:02}:00Z",
             "config": {"run": {"debounce_ms": debounce_ms}}}
        )  # fmt: skip
        signature = base64.b64encode(private.sign(text.encode())).decode()
        return json.dumps({"signed": text, "signature": signature}).encode()

    device.wish("w1", 120)
    assert device.reports[-1]["reason"].startswith("unsigned: ")
    device.keeper.desire(signed("w2", 20, 120))
    device.keeper.reached(device.now_ns)
    assert device.said == ("w2", "in_effect")
    device.keeper.desire(signed("w3", 10, 130))  # kept back by somebody, and sent now
    assert device.reports[-1]["reason"].startswith("expired: ")
    tampered = signed("w4", 30, 130).replace(b"130", b"140")
    device.keeper.desire(tampered)
    assert device.reports[-1]["reason"].startswith("bad_signature: ")
    assert device.debounce_ms == 120
    device.keeper.desire(signed("w5", 30, 130))
    assert device.said == ("w5", "trial")


SECRET = Config(mqtt=Mqtt(host="broker", username="u", password_file="/secret"), commands=BASE.commands)
EVIL = {"mqtt": {"host": "evil", "port": 7, "tls": False}}


def test_an_unsigned_wish_sends_the_credentials_nowhere_else(tmp_path: Path) -> None:
    device = Device(tmp_path, SECRET)
    device.keeper.desire(json.dumps({"id": "w1", "config": EVIL}).encode())
    assert device.said == ("w1", "refused")
    assert device.reports[-1]["reason"].startswith(
        "mqtt.host, mqtt.port cannot be changed from afar without a"
    )
    with pytest.raises(PlugmeterError, match=r"refused: mqtt\.host, mqtt\.port cannot be changed from afar"):
        device.keeper.configure("c1", EVIL)
    assert device.applied == [] and device.keeper.standing.trial is None
    assert Device(tmp_path, SECRET).started == SECRET


def test_a_signed_one_is_the_owners_own_will(tmp_path: Path) -> None:
    public_path, _ = signing.new_key_pair(tmp_path / "k")
    private = signing.load_private_key(tmp_path / "k")
    text = json.dumps({"device": "lab-3", "id": "w1", "issued": "2026-11-22T10:00:00Z", "config": EVIL})
    signature = base64.b64encode(private.sign(text.encode())).decode()
    document = json.dumps({"signed": text, "signature": signature}).encode()

    unchecked = Device(tmp_path, SECRET)  # without a key a signature says nothing
    unchecked.keeper.desire(document)
    assert unchecked.said == ("w1", "refused")
    (tmp_path / "desired.json").unlink()
    device = Device(tmp_path, SECRET, verify=signing.load_public_key(public_path).verify)
    device.keeper.desire(document)
    assert [each.mqtt.host for each in device.applied] == ["evil"]
    device.keeper.reached(device.now_ns)
    assert Device(tmp_path, SECRET).started.mqtt.host == "evil", "it outlasts a restart"
    assert device.keeper.configure("c1", {**EVIL, "run": {}}, signed=True)["state"] == "in_effect"


def test_credentials_that_come_after_the_wish_stay_with_the_files_broker(tmp_path: Path) -> None:
    """The device was led elsewhere while it had no secrets; then its owner gives it some."""
    device = Device(tmp_path)
    device.keeper.configure("c1", EVIL)
    device.keeper.reached(device.now_ns)
    assert device.keeper.effective.mqtt.host == "evil"
    with pytest.raises(config.ConfigError, match="while this device has credentials"):
        device.keeper.preview(SECRET)
    with pytest.raises(config.ConfigError, match="while this device has credentials"):
        device.keeper.rebase(SECRET, None, 0)
    again = Device(tmp_path, SECRET)
    assert again.started == SECRET
    assert again.said == ("c1", "refused")


SMALL = {"outbox": {"max_bytes": 1 << 20, "max_age_days": 0.05, "commit_interval_ms": 9}}


def limits(config: Config) -> tuple[int, float]:
    return config.outbox.max_bytes, config.outbox.max_age_days


def test_a_trial_of_smaller_limits_destroys_nothing_until_it_is_in_effect(tmp_path: Path) -> None:
    device = Device(tmp_path, now_ns=SECOND)
    file = limits(BASE)
    device.keeper.configure("c1", SMALL)
    assert [limits(each) for each in device.applied] == [file]
    assert device.keeper.effective.outbox.commit_interval_ms == 9
    assert device.reports[-1]["config"]["outbox"]["max_bytes"] == file[0], "what is reported is in effect"
    again = Device(tmp_path, now_ns=SECOND)
    assert limits(again.started) == file
    again.wait(60)
    assert again.said == ("c1", "rolled_back")
    assert {limits(each) for each in (*device.applied, *again.applied)} == {file}
    again.keeper.configure("c2", SMALL)
    again.keeper.reached(again.now_ns)
    assert again.said == ("c2", "in_effect")
    assert limits(again.applied[-1]) == limits(again.keeper.effective) == (1 << 20, 0.05)
    assert limits(Device(tmp_path).started) == (1 << 20, 0.05)


def test_limits_that_grow_are_on_trial_at_once_and_those_kept_before_count(tmp_path: Path) -> None:
    device = Device(tmp_path, Config(outbox=Outbox(max_age_days=0)))
    device.keeper.configure("c1", {"outbox": {"max_bytes": 1 << 30}})
    device.keeper.reached(device.now_ns)
    device.keeper.configure("c2", {"outbox": {"max_bytes": 1 << 31, "max_age_days": 5}})
    assert limits(device.keeper.effective) == (1 << 31, 0)
    device.keeper.configure("c3", {"run": {"debounce_ms": 120}})  # without c1's limits: the file's
    assert limits(device.keeper.effective) == (1 << 30, 0)
    device.keeper.reached(device.now_ns)
    assert limits(device.keeper.effective) == limits(Config(outbox=Outbox(max_age_days=0)))


def test_a_trial_of_nothing_but_smaller_limits_is_proved_on_a_new_connection(tmp_path: Path) -> None:
    device = Device(tmp_path, now_ns=10 * SECOND)
    device.keeper.configure("c1", {"outbox": {"max_bytes": 1 << 20}})
    assert len(device.applied) == 1, "so that a new connection is made"
    device.keeper.reached(9 * SECOND)
    assert device.said == ("c1", "trial")
    device.keeper.reached(10 * SECOND)
    assert device.said == ("c1", "in_effect")
    assert device.keeper.effective.outbox.max_bytes == 1 << 20


def test_each_outcome_has_a_line(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.wish("w1", 120)
    device.keeper.reached(device.now_ns)
    device.wish("w2", 130)
    device.wait(60)
    device.wish("w3", 0)
    for _ in range(20):  # as the broker sends it with each connection
        device.wait(2)
        device.wish("w3", 0)
        device.keeper.desire(b"{")
    assert [line.removeprefix("the configuration ").partition(" (")[0][:60] for line in device.lines] == [
        "w1 from afar is on trial: it stays if the controller is reac",
        "w1 from afar is in effect",
        "w2 from afar is on trial: it stays if the controller is reac",
        "w2 from afar is rolled back: the controller was not reached ",
        "w3 from afar is refused: config desired w3: run.debounce_ms ",
        "without an id from afar is refused: malformed: it is not JSO",
    ]
    again = Device(tmp_path)
    assert again.lines == []
    again.wish("w4", 140)
    assert ["w4 from afar is on trial" in line for line in Device(tmp_path).lines] == [True], "it goes on"


def test_of_very_many_documents_the_last_one_counts(tmp_path: Path) -> None:
    device = Device(tmp_path)
    for number in range(200):
        device.wish(f"w{number}", 101 + number)
    assert len(device.applied) < 50
    assert device.keeper.counters["deferred"] > 150
    device.wait(3)
    assert device.said == ("w199", "trial")
    assert device.debounce_ms == 300


def test_a_cleared_topic_changes_nothing(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.wish("w1", 120)
    device.keeper.reached(device.now_ns)
    device.keeper.desire(b"")
    assert device.debounce_ms == 120


def test_a_damaged_file_is_set_aside_and_reported(tmp_path: Path) -> None:
    (tmp_path / "desired.json").write_bytes(b"\0\0\0")
    device = Device(tmp_path)
    assert device.started == BASE
    assert device.keeper.set_aside == tmp_path / "desired.json.corrupt-5"
    assert device.keeper.set_aside.read_bytes() == b"\0\0\0"
    assert device.reports[-1]["reason"].startswith("what was kept of wishes is damaged: ")
    device.wish("w1", 120)
    assert Device(tmp_path).debounce_ms == 120


def test_a_wish_that_does_not_go_with_a_changed_file_any_more(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.wish("w1", 2_000)
    device.keeper.reached(device.now_ns)
    other = Config(run=Run(nominal_ms=1_500), commands=BASE.commands)
    with pytest.raises(config.ConfigError, match="debounce_ms = 2000 must be less than"):
        device.keeper.rebase(other, None, 0)
    assert device.debounce_ms == 2_000
    again = Device(tmp_path, other)
    assert again.started == other
    assert again.said == ("w1", "refused")
    assert "does not go with the device's own file" in again.reports[-1]["reason"]


def test_a_changed_file_below_a_wish(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.wish("w1", 120)
    device.keeper.reached(device.now_ns)
    other = Config(run=Run(nominal_ms=1_500), commands=BASE.commands)
    assert not device.keeper.rebase(other, None, 0), "what was proved needs no proof"
    now = device.keeper.effective
    assert (now.run.debounce_ms, now.run.nominal_ms) == (120, 1_500)


def test_a_file_that_changes_during_a_trial_has_to_be_proved_with_it(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.wish("w1", 120)
    device.now_ns = 10 * SECOND
    assert not device.keeper.rebase(BASE, None, 8 * SECOND), "nothing has changed"
    other = Config(run=Run(nominal_ms=1_500), commands=BASE.commands)
    assert device.keeper.rebase(other, None, 8 * SECOND)
    device.keeper.reached(8 * SECOND - 1)
    assert device.said == ("w1", "trial"), "a connection from before"
    device.keeper.reached(8 * SECOND)  # made while the rest was applied
    assert device.said == ("w1", "in_effect")


def test_what_cannot_be_written_is_not_tried(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    device = Device(folder)
    folder.rmdir()
    device.wish("w1", 120)
    assert device.applied == []
    assert device.reports[-1]["reason"].startswith("it cannot be kept: cannot write ")
    folder.mkdir()
    device.wish("w1", 120)  # as the broker sends it again
    assert device.said == ("w1", "trial")
    assert device.keeper.trouble is None


def test_a_start_that_cannot_be_counted_does_not_try_on(tmp_path: Path) -> None:
    Device(tmp_path).wish("w1", 120)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # as on a full disk: EFBIG
    try:
        device = Device(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert device.started == BASE
    assert device.reports[-1]["reason"].startswith("its starts cannot be counted: ")
    device.wait(1)
    assert Device(tmp_path).started == BASE


def test_a_power_cut_at_any_moment(tmp_path: Path) -> None:
    """The device ends at any call of ours or none; whatever is applied then is in the file as what it is."""
    draw = random.Random(3)
    reached_with = {100}
    device = Device(tmp_path)
    for number in range(300):
        what = draw.choice(["wish", "wait", "reach", "cut", "cut in the middle"])
        if what == "wish":
            device.wish(f"w{number}", draw.randrange(101, 2_000))
        elif what == "wait":
            device.wait(draw.randrange(40))
        elif what == "reach":
            reached_with = {device.debounce_ms}
            device.keeper.reached(device.now_ns)
        elif what == "cut":
            device = Device(tmp_path, now_ns=draw.randrange(10**15))
        else:

            class PowerCut(BaseException):
                pass

            def apply(wanted: Config) -> None:
                raise PowerCut

            cut = Device(tmp_path, apply=apply)
            try:
                cut.wish(f"w{number}", draw.randrange(101, 2_000))
                cut.wait(60)
            except PowerCut:
                pass
            device = Device(tmp_path)
        if device.keeper.standing.trial is None:
            assert device.debounce_ms in reached_with
    for _ in range(4):
        device = Device(tmp_path)
    assert device.keeper.standing.trial is None
    assert device.debounce_ms in reached_with
