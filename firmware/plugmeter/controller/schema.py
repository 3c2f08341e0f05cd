"""The tables, for SQLite and PostgreSQL: one text, versioned.

``record`` holds every record, by stream and number: its primary key is what makes a record arrive once in
effect. ``coverage`` says in ranges which numbers are there (``record`` and ``tombstone`` apart), so that
one transaction can tell the new from the known without looking at each; the audit checks it against
``record``. Numbers whose record was deleted after its time are there twice: as ``record`` and as ``deleted``.
``hour``, ``minute`` (of the last two hours only), ``notable``, ``run``, ``listener``, ``listener_hour`` and
``listener_minute`` (again) are what the page shows, kept in the same transaction as the records, so that they
agree with them, and the page is quick however many there are.

Times are milliseconds since 1970 (``_ms``): those of a record are its device's, ``received_ms`` is ours.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = 3
"""Of the tables. A database of a later version is refused, one of an earlier is brought forward."""

APPLICATION_ID: Final = 0x504C_5547
"""SQLite's mark of whose file it is ("PLUG"); other files are refused."""

_TABLES: Final = """
CREATE TABLE device (
  id {identity},
  name TEXT NOT NULL UNIQUE,
  first_ms BIGINT NOT NULL,
  heard_ms BIGINT,
  records BIGINT NOT NULL DEFAULT 0,
  bytes BIGINT NOT NULL DEFAULT 0,
  duplicates BIGINT NOT NULL DEFAULT 0,
  conflicts BIGINT NOT NULL DEFAULT 0,
  refused BIGINT NOT NULL DEFAULT 0,
  problems BIGINT NOT NULL DEFAULT 0,
  problem TEXT NOT NULL DEFAULT '',
  problem_ms BIGINT,
  verdicts BIGINT NOT NULL DEFAULT 0,
  losses BIGINT NOT NULL DEFAULT 0,
  runs BIGINT NOT NULL DEFAULT 0,
  runs_valid BIGINT NOT NULL DEFAULT 0,
  decided_valid BIGINT NOT NULL DEFAULT 0,
  lost_valid BIGINT NOT NULL DEFAULT 0,
  last_run TEXT,
  last_run_ms BIGINT
);
CREATE TABLE stream (
  id {identity},
  name TEXT NOT NULL UNIQUE,
  device BIGINT NOT NULL REFERENCES device (id),
  first_ms BIGINT NOT NULL,
  heard_ms BIGINT NOT NULL,
  records BIGINT NOT NULL DEFAULT 0,
  duplicates BIGINT NOT NULL DEFAULT 0,
  conflicts BIGINT NOT NULL DEFAULT 0,
  tombstoned BIGINT NOT NULL DEFAULT 0,
  previous TEXT,
  reason TEXT,
  set_aside TEXT
);
CREATE INDEX stream_by_device ON stream (device);
CREATE TABLE record (
  stream BIGINT NOT NULL,
  seq BIGINT NOT NULL,
  kind TEXT NOT NULL,
  time_ms BIGINT NOT NULL,
  received_ms BIGINT NOT NULL,
  data TEXT NOT NULL,
  PRIMARY KEY (stream, seq)
){clustered};
CREATE TABLE tombstone (
  stream BIGINT NOT NULL,
  first BIGINT NOT NULL,
  last BIGINT NOT NULL,
  reason TEXT NOT NULL,
  rank INTEGER NOT NULL,
  time_ms BIGINT NOT NULL,
  received_ms BIGINT NOT NULL,
  PRIMARY KEY (stream, first, last)
){clustered};
CREATE TABLE coverage (
  stream BIGINT NOT NULL,
  what TEXT NOT NULL,
  first BIGINT NOT NULL,
  last BIGINT NOT NULL,
  PRIMARY KEY (stream, what, first)
){clustered};
CREATE TABLE account (
  stream BIGINT PRIMARY KEY,
  received_ms BIGINT NOT NULL,
  produced BIGINT NOT NULL,
  acknowledged BIGINT NOT NULL,
  tombstoned BIGINT NOT NULL,
  pending BIGINT NOT NULL,
  oldest_pending BIGINT NOT NULL,
  unannounced BIGINT,
  contradictions BIGINT NOT NULL DEFAULT 0,
  contradiction TEXT NOT NULL DEFAULT ''
){clustered};
CREATE TABLE conflict (
  stream BIGINT NOT NULL,
  seq BIGINT NOT NULL,
  digest TEXT NOT NULL,
  kind TEXT NOT NULL,
  time_ms BIGINT NOT NULL,
  received_ms BIGINT NOT NULL,
  data TEXT NOT NULL,
  PRIMARY KEY (stream, seq, digest)
){clustered};
CREATE TABLE document (
  device BIGINT NOT NULL,
  kind TEXT NOT NULL,
  received_ms BIGINT NOT NULL,
  body TEXT NOT NULL,
  PRIMARY KEY (device, kind)
){clustered};
CREATE TABLE command (
  device BIGINT NOT NULL,
  op TEXT NOT NULL,
  id TEXT NOT NULL,
  received_ms BIGINT NOT NULL,
  state TEXT NOT NULL,
  body TEXT NOT NULL,
  PRIMARY KEY (device, op, id)
){clustered};
CREATE TABLE notable (
  device BIGINT NOT NULL,
  topic TEXT NOT NULL,
  time_ms BIGINT NOT NULL,
  stream BIGINT NOT NULL,
  seq BIGINT NOT NULL,
  PRIMARY KEY (device, topic, time_ms, stream, seq)
){clustered};
CREATE TABLE hour (
  device BIGINT NOT NULL,
  hour BIGINT NOT NULL,
  port TEXT NOT NULL,
  outcome TEXT NOT NULL,
  stage TEXT NOT NULL,
  n BIGINT NOT NULL,
  PRIMARY KEY (device, hour, port, outcome, stage)
){clustered};
CREATE TABLE minute (
  device BIGINT NOT NULL,
  minute BIGINT NOT NULL,
  port TEXT NOT NULL,
  outcome TEXT NOT NULL,
  stage TEXT NOT NULL,
  n BIGINT NOT NULL,
  PRIMARY KEY (device, minute, port, outcome, stage)
){clustered};
CREATE INDEX hour_by_time ON hour (hour, device, outcome, n);
CREATE TABLE run (
  device BIGINT NOT NULL,
  id TEXT NOT NULL,
  started_ms BIGINT,
  ended_ms BIGINT,
  rig TEXT NOT NULL DEFAULT '',
  truth TEXT NOT NULL DEFAULT '',
  valid INTEGER,
  interrupted INTEGER,
  expected BIGINT,
  decided BIGINT,
  lost BIGINT,
  stream BIGINT,
  seq BIGINT,
  PRIMARY KEY (device, id)
){clustered};
CREATE INDEX run_by_start ON run (device, started_ms);
CREATE TABLE listener (
  device BIGINT NOT NULL,
  comm TEXT NOT NULL,
  groups BIGINT NOT NULL,
  runs BIGINT NOT NULL,
  drops BIGINT NOT NULL,
  last_ms BIGINT NOT NULL,
  PRIMARY KEY (device, comm, groups)
){clustered};
"""

_LISTENER_TIMES: Final = """
CREATE TABLE listener_hour (
  device BIGINT NOT NULL,
  comm TEXT NOT NULL,
  groups BIGINT NOT NULL,
  hour BIGINT NOT NULL,
  runs BIGINT NOT NULL,
  drops BIGINT NOT NULL,
  PRIMARY KEY (device, comm, groups, hour)
){clustered};
CREATE TABLE listener_minute (
  device BIGINT NOT NULL,
  comm TEXT NOT NULL,
  groups BIGINT NOT NULL,
  minute BIGINT NOT NULL,
  runs BIGINT NOT NULL,
  drops BIGINT NOT NULL,
  PRIMARY KEY (device, comm, groups, minute)
){clustered};
"""

_IDENTITIES: Final = """
ALTER TABLE record ADD COLUMN time TEXT NOT NULL DEFAULT '';
ALTER TABLE conflict ADD COLUMN time TEXT NOT NULL DEFAULT '';
ALTER TABLE stream ADD COLUMN reported INTEGER NOT NULL DEFAULT 0;
ALTER TABLE stream ADD COLUMN returns BIGINT NOT NULL DEFAULT 0;
ALTER TABLE device ADD COLUMN present BIGINT;
CREATE TABLE refusal (
  device BIGINT NOT NULL,
  stream TEXT NOT NULL,
  count BIGINT NOT NULL,
  last_ms BIGINT NOT NULL,
  PRIMARY KEY (device, stream)
){clustered};
"""
"""``time``: of a record, as its device wrote it; empty for those that came before it was kept. ``present``:
the stream that a device reported as last; ``returns``: how often it came back to one. ``refusal``: what was
refused of a device, by the stream that it named, '' for one stream too many."""

_VERSIONS: Final = (_TABLES, _LISTENER_TIMES, _IDENTITIES)
"""What each version added to the one before. Version 2 also deletes records, which version 1 would take for
another hand's doing."""

_DIALECTS: Final = {
    # WITHOUT ROWID: rows lie in the order of the key, written once (sqlite.org/withoutrowid.html).
    "sqlite": {"identity": "INTEGER PRIMARY KEY", "clustered": " WITHOUT ROWID"},
    "postgresql": {
        "identity": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "clustered": "",
    },
}


def steps(dialect: str, version: int) -> tuple[str, ...]:
    """The statements that bring tables of ``version`` (0: none yet) to ``VERSION``."""
    added = "".join(_VERSIONS[version:]).format(**_DIALECTS[dialect])
    return tuple(part.strip() for part in added.split(";") if part.strip())
