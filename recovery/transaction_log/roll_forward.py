"""Roll a database forward along the transaction log: onto a promoted standby, or onto a point-in-time restore.

Each batch and the record of how far it goes commit together, so a run that is killed anywhere is simply run again, and
one that is run twice does nothing the second time. Nothing is applied before the whole way is known to be sound.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from recovery.clock import iso
from recovery.connection import Refused, Session
from recovery.heartbeat import lsn_number, lsn_text
from recovery.transaction_log import ddl, path, standing
from recovery.transaction_log.application import Application
from recovery.transaction_log.batches import Batch, Batches, Until
from recovery.transaction_log.netting import Counts
from recovery.transaction_log.path import GapOnTheWay, Log
from recovery.transaction_log.position import Position
from recovery.transaction_log.segment import Segment

SECONDS = 600.0
"""One statement's time: a batch's largest takes a few seconds, DDL may take long."""
_AHEAD = 1
"""So many batches wait while one is applied and one is taken apart."""
_TURN_SECONDS = 0.0002
"""So long a thread may keep Python's lock while the other waits for it; by default 5 ms, in which PostgreSQL idles."""
_LOCK = 0x726F_6C6C_666F_7277
LOCK_SECONDS = 5
_LOCK_NOT_AVAILABLE = "55P03"

_READ = """
SELECT from_epoch, from_lsn::text, epoch, lsn::text, extract(epoch FROM committed_at)::float8, transactions,
       tables::text, ddl
FROM recovery.roll_forward"""

_WRITE = """
INSERT INTO recovery.roll_forward AS known
    (from_epoch, from_lsn, epoch, lsn, committed_at, transactions, tables, ddl)
VALUES (:from_epoch, CAST(:from_lsn AS pg_lsn), :epoch, CAST(:lsn AS pg_lsn), to_timestamp(CAST(:at AS float8)),
        :transactions, CAST(:tables AS jsonb), :ddl)
ON CONFLICT (only_one) DO UPDATE
SET (from_epoch, from_lsn, epoch, lsn, committed_at, transactions, tables, ddl, at) =
    (excluded.from_epoch, excluded.from_lsn, excluded.epoch, excluded.lsn, excluded.committed_at,
     excluded.transactions, excluded.tables, excluded.ddl, now())"""

_SEQUENCE = """
SELECT setval(class.oid::regclass, CAST(:value AS bigint), CAST(:called AS boolean))
FROM pg_class AS class JOIN pg_sequence AS known ON known.seqrelid = class.oid,
LATERAL (SELECT coalesce(pg_sequence_last_value(class.oid), seqstart - seqincrement) AS value) AS here
WHERE class.oid = to_regclass(:name)
  AND sign(seqincrement) * CAST(:value AS numeric) > sign(seqincrement) * here.value::numeric
  AND CAST(:value AS bigint) BETWEEN seqmin AND seqmax"""
"""Onwards only, whichever way the sequence runs: a number that was given out must not be given out again."""


class Unsuitable(Exception):
    """The database cannot be rolled forward: it replays, it is of another system, or another run is at it."""


@dataclass
class Account:
    """The loss account of a roll forward: what the database had, what the log added, what is not known to be there.

    Positions are of the last commit; `end` is where the log itself ends; `reached` whether the stop lies within the
    log; `gap` why it went no further.
    """

    start: Position
    position: Position
    end: Position
    committed_at: float | None = None
    transactions: int = 0
    ddl: int = 0
    tables: dict[str, Counts] = field(default_factory=dict)
    reached: bool = False
    gap: str | None = None
    dry_run: bool = False

    @property
    def changes(self) -> int:
        """Rows and truncations that were added, as the log holds them."""
        return sum(counts.all for counts in self.tables.values())

    def add(self, batch: Batch) -> None:
        """A batch has been applied."""
        self.transactions += batch.transactions
        self.ddl += batch.ddl is not None
        for name, counts in batch.counts.items():
            self.tables.setdefault(name, Counts()).add(counts)
        if batch.commit is not None:
            self.position = batch.commit.at
            self.committed_at = batch.commit.time_us / 1e6

    def as_json(self) -> dict[str, Any]:
        """For programs and the incident's record."""
        return {
            "had": str(self.start),
            "reached": str(self.position),
            "log_ends": str(self.end),
            "last_commit": None if self.committed_at is None else iso(self.committed_at),
            "transactions": self.transactions,
            "changes": self.changes,
            "ddl": self.ddl,
            "tables": {name: asdict(counts) for name, counts in sorted(self.tables.items())},
            "target_reached": self.reached,
            "gap": self.gap,
            "dry_run": self.dry_run,
        }

    def as_text(self) -> str:
        """For people."""
        verb = "would add" if self.dry_run else "added"
        last = "" if self.committed_at is None else f", the last committed at {iso(self.committed_at)}"
        lines = [
            f"the database had the log up to {self.start}",
            f"the log {verb} {self.transactions} transactions ({self.changes} changes, {self.ddl} DDL){last}",
            *(
                f"  {name}: {counts.inserted} inserted, {counts.updated} updated, {counts.deleted} deleted"
                + (f", emptied {counts.truncated} times" if counts.truncated else "")
                for name, counts in sorted(self.tables.items())
            ),
            f"it stands at {self.position}; the log ends at {self.end}",
        ]
        if self.gap is not None:
            lines.append(f"known to be missing: {self.gap}")
        return "\n".join(lines)


def roll_forward(
    session: Session,
    log: Log,
    until: Until,
    *,
    start: Position | None = None,
    last_epoch: int | None = None,
    stop_at_gap: bool = False,
    dry_run: bool = False,
    seconds: float = SECONDS,
    changes: int | None = None,
    patience: float | None = None,
) -> Account:
    """Apply what the log holds beyond where the database stands (or `start`), until `until`; the account of it.

    `last_epoch` is the epoch to stop in (default: the log's newest); `patience`: seconds to wait for another run to
    end. Raises LogUnfit, GapOnTheWay, StandsNowhere, Unsuitable, Diverged or DdlRefused, each with one
    sentence, and what `Session.run` raises.
    """
    system = _suitable(session, seconds, LOCK_SECONDS if patience is None else patience)
    application = Application(session, seconds)
    application.prepare()
    account = account_of(session, log, standing.find(session, log, seconds) if start is None else start, seconds)
    account.dry_run = dry_run
    epoch = last_epoch if last_epoch is not None else _last_epoch(log, until)
    parts = list(_sound(log, account, epoch, system, until, stop_at_gap))
    batches = Batches(parts, until) if changes is None else Batches(parts, until, changes)
    if dry_run:
        for batch in batches:
            account.add(batch)
        account.reached = _reached(log, until, batches.reached, account)
        return account
    _apply(session, application, batches, account, seconds)
    account.reached = _reached(log, until, batches.reached, account)
    _finish(session, account, parts, seconds)
    return account


def _reached(log: Log, until: Until, met: bool, account: Account) -> bool:
    """Whether the stop lies within the log: a log that ends before it may lack transactions."""
    stop = until.last or until.before
    return account.gap is None and (met or until == Until() or (stop is not None and stop <= log.end()))


def _suitable(session: Session, seconds: float, patience: float) -> str:
    ((replays, system),) = session.run(
        "SELECT pg_is_in_recovery(), (SELECT system_identifier::text FROM pg_control_system())", seconds
    )
    if replays:
        raise Unsuitable(f"{session.endpoint} is in recovery and takes no writes; promote it first.")
    try:
        # Not at once: the server notices only after a moment that a run was killed.
        session.run(f"SET lock_timeout = '{max(1, round(patience * 1000))}ms'", seconds)
        session.run("SELECT pg_advisory_lock(:lock)", seconds, lock=_LOCK)
        session.run("SET lock_timeout = 0", seconds)
    except Refused as refused:
        if refused.sqlstate != _LOCK_NOT_AVAILABLE:
            raise
        raise Unsuitable(f"Another roll forward is at work at {session.endpoint}; wait until it is over.") from refused
    return str(system)


def account_of(session: Session, log: Log, stands: Position, seconds: float) -> Account:
    """The account so far of a database that has replayed up to `stands`, with what earlier runs have applied to it."""
    for row in session.run(_READ, seconds) if _has_progress(session, seconds) else ():
        from_epoch, from_lsn, epoch, lsn, committed_at, transactions, tables, statements = row
        applied = Position(int(epoch), lsn_number(lsn))
        # A record that came with a backup is of an incident long over: the database has replayed more since.
        if applied >= stands:
            counted = {name: Counts(**counts) for name, counts in json.loads(tables).items()}
            begun = Position(int(from_epoch), lsn_number(from_lsn))
            return Account(begun, applied, log.end(), committed_at, int(transactions), int(statements), counted)
    return Account(stands, stands, log.end())


def _has_progress(session: Session, seconds: float) -> bool:
    return bool(session.run("SELECT 1 WHERE to_regclass('recovery.roll_forward') IS NOT NULL", seconds))


def _sound(
    log: Log, account: Account, last_epoch: int, system: str, until: Until, stop_at_gap: bool
) -> Iterator[tuple[Segment, int, int | None]]:
    """The segments to apply and their bounds; what is wrong with one of them is found before anything is applied."""
    stretches = log.way(account.position, max(last_epoch, account.position.epoch))
    for stretch in stretches:
        try:
            for found in path.read(_within(stretch, until), system):
                yield found, stretch.after, stretch.until
                committed_at = found.header.committed_at
                if until.time_us is not None and committed_at is not None and committed_at * 1e6 > until.time_us:
                    return
        except GapOnTheWay as gap:
            if not stop_at_gap:
                raise
            account.gap = str(gap)
            return


def _last_epoch(log: Log, until: Until) -> int:
    """The epoch of the stop: for a time, the newest epoch that had begun to commit by then."""
    if until.time_us is None:
        return (until.last or until.before or log.end()).epoch
    begun = [epoch for epoch in log.epochs if (first := log.first(epoch)) is None or first.time_us <= until.time_us]
    return begun[-1] if begun else log.epochs[0]


def _within(stretch: path.Stretch, until: Until) -> path.Stretch:
    """The stretch without segments that begin beyond a stop in its epoch."""
    for stop in (until.last, until.before):
        if stop is not None and stop.epoch == stretch.epoch:
            kept = tuple(found for found in stretch.segments if path.bounds(found)[0] <= stop.lsn)
            return replace(stretch, segments=kept)
    return stretch


def _apply(
    session: Session,
    application: Application,
    batches: Iterable[Batch],
    account: Account,
    seconds: float,
) -> None:
    if not _has_progress(session, seconds):  # a database that was never prepared, or before this was part of it
        session.run((Path(__file__).parents[1] / "sql" / "roll_forward.sql").read_text(encoding="utf-8"), seconds)
    replay = ddl.Replay(session, seconds)
    inside = False
    try:
        for batch in ahead(batches):
            if not inside:
                session.run("BEGIN; SET CONSTRAINTS ALL DEFERRED", seconds)
                inside = True
            if not batch.ddl_first:
                application.apply(batch.nets, ahead=batch.goes_on)
            if batch.ddl is not None:
                application.forget()
                replay.apply(batch.ddl)
            if batch.ddl_first:
                application.described()
                application.apply(batch.nets)
            account.add(batch)
            if batch.commit is not None:
                application.require_described()
                _record(session, account, seconds)
                session.run("COMMIT", seconds)
                inside = False
    except BaseException:
        if inside and not session.closed:
            session.run("ROLLBACK", seconds)
        raise


def _record(session: Session, account: Account, seconds: float) -> None:
    session.run(
        _WRITE,
        seconds,
        from_epoch=account.start.epoch,
        from_lsn=lsn_text(account.start.lsn),
        epoch=account.position.epoch,
        lsn=lsn_text(account.position.lsn),
        at=account.committed_at,
        transactions=account.transactions,
        tables=json.dumps({name: asdict(counts) for name, counts in account.tables.items()}),
        ddl=account.ddl,
    )


def _finish(session: Session, account: Account, parts: list[tuple[Segment, int, int | None]], seconds: float) -> None:
    """Sequences stand at least where the log says, and the last commit, with all before it, is on disk."""
    session.run("SET synchronous_commit = on", seconds)
    with session.transaction(seconds):
        for name, (value, called) in _sequences(account, parts).items():
            session.run(_SEQUENCE, seconds, name=name, value=value, called=called)
        _record(session, account, seconds)


def _sequences(account: Account, parts: list[tuple[Segment, int, int | None]]) -> dict[str, tuple[int, bool]]:
    """Where sequences stood when the newest segment that was read was written: beyond what was applied has used."""
    found: dict[str, tuple[int, bool]] = {}
    for read, _, _ in parts:
        if Position(read.header.epoch, read.header.first) <= account.position:
            found |= {name: (int(value), bool(called)) for name, (value, called) in read.header.sequences.items()}
    return found


Item = TypeVar("Item")


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items, made in a thread of its own, ahead of their use: Python works while PostgreSQL does."""
    made: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(_AHEAD)
    stopped = threading.Event()

    def put(item: Item | None, error: BaseException | None) -> None:
        while not stopped.is_set():
            try:
                made.put((item, error), timeout=0.1)
                return
            except queue.Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put(item, None)
                if stopped.is_set():
                    return
            put(None, None)
        except BaseException as error:
            put(None, error)

    worker = threading.Thread(target=make, name="batches", daemon=True)
    turn = sys.getswitchinterval()
    sys.setswitchinterval(min(turn, _TURN_SECONDS))
    worker.start()
    try:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stopped.set()
        worker.join()
        sys.setswitchinterval(turn)
