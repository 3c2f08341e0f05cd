"""Keeps the configuration that the controller wants: in a file, in effect, and reported.

Whatever changes is in the file before it is applied. So after a power cut in the middle the trial is known to
be one, and its end is the same as without.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from plugmeter import config as configuration
from plugmeter.errors import PlugmeterError
from plugmeter.files import read_regular, replace_file
from plugmeter.sections import Config
from plugmeter.telemetry import desired, desired_scope, strictjson
from plugmeter.telemetry.commands.limiter import Limiter
from plugmeter.telemetry.commands.message import Cleared, Refusal, Verify, Why
from plugmeter.telemetry.desired import Outcome, Standing, Wish
from plugmeter.telemetry.desired_news import News

FILE_NAME: Final = "desired.json"
_FILE_LIMIT_BYTES: Final = 1 << 20
_MINUTE_NS: Final = 60_000_000_000
_SAVE_EVERY_NS: Final = 5_000_000_000
"""How much of a trial's time a power cut can give back, at most; less of short trials."""
_REASON_LIMIT: Final = 2_000
_DOCUMENTS_BURST: Final = 16
_DOCUMENTS_PER_S: Final = 0.5


class DesiredKeeper:
    """Not thread-safe: one thread owns it. ``start`` comes first.

    ``apply(config)`` puts a configuration into effect, or raises PlugmeterError and then the one before is
    applied again. It may also have the daemon restart: the next ``start`` gives the same configuration.
    ``publish(payload)`` retains the reported document, ``record(kind, data)`` keeps a record of kind
    "config"; ``tell(level, line)`` has a line for the journal. ``base`` is the device's own file; its
    [commands] says how long a trial is and whether there is any.
    """

    def __init__(
        self,
        path: Path,
        base: Config,
        *,
        device: str,
        verify: Verify | None,
        apply: Callable[[Config], None],
        publish: Callable[[bytes], None],
        record: Callable[[str, Mapping[str, Any]], None],
        tell: Callable[[int, str], None],
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.set_aside: Path | None = None
        """Where a damaged file was put."""
        self._path = path
        self._base = base
        self._device = device
        self._verify = verify
        self._apply = apply
        self._publish = publish
        self._record = record
        self._news = News(tell)
        self._monotonic_ns = monotonic_ns
        self._wall_ns = wall_ns
        self.counters = {"desired": 0, "refused": 0, "deferred": 0}
        self._save_trouble: str | None = None
        self._apply_trouble: str | None = None
        self._limiter = Limiter(_DOCUMENTS_BURST, _DOCUMENTS_PER_S)
        self._deferred: bytes | None = None
        self._standing = Standing()
        self._saved: Standing | None = None
        self._effective = base
        self._applied_ns = self._ticked_ns = monotonic_ns()

    @property
    def effective(self) -> Config:
        """What is to be in effect now."""
        return self._effective

    @property
    def trouble(self) -> str | None:
        """One line while the file cannot be written, or a configuration cannot be applied."""
        return self._apply_trouble or self._save_trouble

    @property
    def standing(self) -> Standing:
        """What is kept of wishes."""
        return self._standing

    def start(self) -> Config:
        """Read what was kept, count this start, and give what is to be in effect. Raises nothing: what cannot
        be used is set aside or rolled back, and reported."""
        before = self._saved = self._read()
        if before.trial is None:
            self._news.know(before.id, before.outcome, before.reason)
        changed = desired.start(before)
        if changed != before and not self._save(changed) and changed.trial is not None:
            # A start that cannot be counted might be the first of very many.
            changed = desired.roll_back(changed, f"its starts cannot be counted: {self._save_trouble}")
        self._standing = changed
        self._effective = self._usable()
        self._applied_ns = self._ticked_ns = self._monotonic_ns()
        self._report()
        return self._effective

    def desire(self, payload: bytes) -> None:
        """A document came in on the topic ``desired``: it is obeyed or refused with a reason, and reported.

        Where there are very many, all but the last are skipped (and counted): the last is what is desired.
        """
        self.counters["desired"] += 1
        if self._deferred is None and self._limiter.take(self._monotonic_ns()):
            self._obey(payload)
        else:
            self.counters["deferred"] += 1
            self._deferred = payload

    def _obey(self, payload: bytes) -> None:
        asked = desired.parse(payload, device=self._device, verify=self._verify)
        if isinstance(asked, Cleared):
            return  # no wish is no wish to go back
        if isinstance(asked, Refusal):
            self._report_refusal(None, asked.reason)
            return
        newest_ns = self._standing.newest_issued_ns
        known = self._standing.knows(asked)
        if known:
            self._publish(self.report())
        elif known is None:
            self._report_refusal(asked.id, f"{Why.ID_REUSED}: {asked.id} was the id of another configuration")
        elif "config" not in self._base.commands.accept:
            self._report_refusal(asked.id, f"{Why.NOT_ACCEPTED}: config is not in commands.accept")
        elif asked.issued_ns is not None and asked.issued_ns <= newest_ns:
            self._report_refusal(asked.id, f"{Why.EXPIRED}: a later one was obeyed already: sign it anew")
        else:
            self._propose(asked)

    def configure(
        self, command_id: str, config: Mapping[str, Any], *, signed: bool = False
    ) -> dict[str, Any]:
        """The command ``config``: begins the trial, and gives its state. Again with the same id: its state.
        ``signed``: with the key that was configured when it came in.

        Raises PlugmeterError where it is refused or was rolled back.
        """
        wish = Wish(command_id, config, signed=signed)
        known = self._standing.knows(wish)
        if known is None:
            raise PlugmeterError(f"{command_id} was the id of another configuration: give it a new one")
        if not known:
            self._propose(wish)
        standing = self._standing
        if standing.id != command_id:
            raise PlugmeterError("a later configuration has taken its place")
        if standing.outcome in (Outcome.REFUSED, Outcome.ROLLED_BACK):
            raise PlugmeterError(f"{standing.outcome}: {standing.reason}")
        left_ms = standing.trial.left_ns // 1_000_000 if standing.trial else 0
        return {"state": str(standing.outcome), "left_ms": left_ms}

    def reached(self, since_ns: int) -> None:
        """The controller has answered, on a connection that was made at ``since_ns`` (monotonic). That
        counts only if that was after the configuration began to be applied: an old one proves nothing."""
        if self._standing.trial is not None and since_ns >= self._applied_ns:
            self._become(desired.reach(self._standing))

    def tick(self) -> None:
        """At least once a second: time passes."""
        now_ns = self._monotonic_ns()
        self._news.tick(now_ns)
        if self._deferred is not None and self._limiter.take(now_ns):
            payload, self._deferred = self._deferred, None
            self._obey(payload)
        passed_ns, self._ticked_ns = now_ns - self._ticked_ns, now_ns
        before = self._standing
        after = desired.pass_time(before, passed_ns)
        if after.trial is None and before.trial is not None:
            self._become(after)
            return
        self._standing = after
        if self._must_save():
            self._save(after)

    def preview(self, base: Config) -> Config:
        """What ``rebase`` will give. Raises ConfigError where what is wished does not go with it."""
        return self._composed(base)

    def rebase(self, base: Config, verify: Verify | None, since_ns: int) -> bool:
        """The device's own file was read anew (SIGHUP), and the key that it names. The caller has begun to
        apply its ``preview`` at ``since_ns`` (monotonic).

        Whether the controller has to be reached with it: something has changed while there is a trial, to
        which the connections from before prove nothing now. Raises ConfigError, and keeps the old one, where
        what is wished does not go with it.
        """
        effective = self.preview(base)
        changed = effective != self._effective
        if changed:
            self._applied_ns = since_ns
        self._effective = effective
        self._base, self._verify = base, verify
        self._report()
        return changed and self._standing.trial is not None

    def report(self) -> bytes:
        """The reported document."""
        standing = self._standing
        return self._document(standing.id, standing.outcome, standing.reason)

    def _document(self, wish_id: str | None, outcome: Outcome, reason: str | None) -> bytes:
        return strictjson.canonical(
            {
                "id": wish_id,
                "state": str(outcome),
                "reason": reason,
                "config": configuration.describe(self._effective),
            }
        ).encode()

    def _propose(self, wish: Wish) -> None:
        try:
            config = _laid_over(self._base, wish)
        except configuration.ConfigError as error:
            self.counters["refused"] += 1
            self._become(desired.refuse(self._standing, wish, "; ".join(error.problems)[:_REASON_LIMIT]))
            return
        kept = self._kept(self._base)
        limit_ns = round(self._base.commands.rollback_minutes * _MINUTE_NS)
        proposed = desired.propose(self._standing, wish, limit_ns, changes=config != kept)
        if not self._save(proposed):  # it is not remembered: the next time it may be possible
            self._report_refusal(wish.id, f"it cannot be kept: {self._save_trouble}")
            return
        self._become(proposed)

    def _become(self, standing: Standing) -> None:
        """Save, apply, report, in this order."""
        self._save(standing)
        trial_before = self._standing.trial
        before, self._standing = self._effective, standing
        self._effective = self._usable()
        trial = self._standing.trial
        # A trial that changes nothing yet (on_trial) has to be proved all the same.
        begins = trial is not None and (trial_before is None or trial_before.wish != trial.wish)
        if self._effective != before or begins:
            # From its beginning: the link may be connected anew before all of it is applied.
            self._applied_ns = self._monotonic_ns()
            self._put_into_effect()
            self._ticked_ns = self._monotonic_ns()
        self._report()

    def _put_into_effect(self) -> None:
        try:
            self._apply(self._effective)
            self._apply_trouble = None
            return
        except PlugmeterError as error:
            why = str(error)
        trial = self._standing.trial
        if trial is not None:
            self._standing = desired.refuse(self._standing, trial.wish, f"it cannot be applied: {why}")
            self._save(self._standing)
            self._effective = self._usable()
            try:
                self._apply(self._effective)
                return
            except PlugmeterError as error:
                why = str(error)
        self._apply_trouble = f"the configuration that was in effect before cannot be applied again: {why}"

    def _usable(self) -> Config:
        """The configuration of the standing; where the device's own file has changed so that a wish does not
        go with it any more, the standing changes too."""
        while True:
            try:
                return self._composed(self._base)
            except configuration.ConfigError as error:
                why = f"it does not go with the device's own file: {error.problems[0]}"
            if self._standing.trial is not None:
                self._standing = desired.roll_back(self._standing, why)
            else:
                wish = self._standing.kept or Wish("", {})
                self._standing = Standing(
                    id=wish.id,
                    outcome=Outcome.REFUSED,
                    reason=why,
                    newest_issued_ns=self._standing.newest_issued_ns,
                    seen=self._standing.seen,
                )
            self._save(self._standing)

    def _composed(self, base: Config) -> Config:
        """What the standing makes of ``base``. Raises ConfigError."""
        wish, trial = self._standing.wish, self._standing.trial
        config = _laid_over(base, wish) if wish is not None else base
        return desired_scope.on_trial(self._kept(base), config) if trial is not None else config

    def _kept(self, base: Config) -> Config:
        """What a rollback would go back to."""
        try:
            return _laid_over(base, self._standing.kept) if self._standing.kept is not None else base
        except configuration.ConfigError:  # said when it comes to that (_usable)
            return base

    def _must_save(self) -> bool:
        saved, now = self._saved, self._standing
        if saved == now:
            return False
        if saved is None or saved.trial is None or now.trial is None:
            return True
        limit_ns = round(self._base.commands.rollback_minutes * _MINUTE_NS)
        return saved.trial.left_ns - now.trial.left_ns >= min(_SAVE_EVERY_NS, limit_ns // 20)

    def _save(self, standing: Standing) -> bool:
        """Whether it is in the file now. If not, ``trouble`` says so, and tick() tries again."""
        try:
            replace_file(self._path, desired.encode(standing))
        except OSError as error:
            self._save_trouble = f"cannot write {self._path}: {error.strerror or error}"
            return False
        self._saved = standing
        self._save_trouble = None
        return True

    def _read(self) -> Standing:
        try:
            return desired.decode(read_regular(self._path, _FILE_LIMIT_BYTES))
        except FileNotFoundError:
            return Standing()
        except OSError as error:
            why = f"cannot be read: {error.strerror or error}"
        except ValueError as error:
            why = str(error)
        aside = self._path.with_name(f"{self._path.name}.corrupt-{self._wall_ns()}")
        try:
            self._path.rename(aside)
            self.set_aside = aside
        except OSError as error:
            self._save_trouble = f"cannot set {self._path} aside: {error.strerror or error}"
        return Standing(outcome=Outcome.REFUSED, reason=f"what was kept of wishes is damaged: {why}")

    def _report_refusal(self, wish_id: str | None, reason: str) -> None:
        """Of what is not even remembered: what is in effect, and its outcome, stay."""
        self.counters["refused"] += 1
        reason = reason[:_REASON_LIMIT]
        self._publish(self._document(wish_id, Outcome.REFUSED, reason))
        self._record("config", {"id": wish_id, "state": str(Outcome.REFUSED), "reason": reason})
        self._news.add(wish_id, Outcome.REFUSED, reason, self._monotonic_ns(), remembered=False)

    def _report(self) -> None:
        self._publish(self.report())
        standing = self._standing
        self._record("config", {"id": standing.id, "state": str(standing.outcome), "reason": standing.reason})
        left_ns = standing.trial.left_ns if standing.trial else 0
        self._news.add(standing.id, standing.outcome, standing.reason, self._monotonic_ns(), left_ns=left_ns)


def _laid_over(base: Config, wish: Wish) -> Config:
    """The device's own file with a wish over it. Raises ConfigError, also for what the wish may not change:
    each time, for the file may have got credentials since the wish came."""
    problems = desired_scope.forbidden(wish.config)
    if problems:
        raise configuration.ConfigError(problems)
    config = configuration.with_overlay(base, wish.config, f"desired {wish.id}") if wish.config else base
    problems = () if wish.signed else desired_scope.unsigned(base, config)
    if problems:
        raise configuration.ConfigError(problems)
    return config
