"""Keep the transaction log: from the primary's slot into segments, batch by batch.

A batch is read without consuming it (peek), written, synced and named, and only then is the slot advanced. Stopped
anywhere, the next run finds the segment and just advances, or reads the batch again: nothing is lost, nothing doubled.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recovery.connection import Session
from recovery.heartbeat import lsn_number
from recovery.transaction_log import segment, source
from recovery.transaction_log.segment import Commit, Header, Segment

BATCH_CHANGES = 20_000
"""A batch ends with the first transaction that reaches this number: `upto_nchanges` never cuts inside a transaction."""
STATEMENT_SECONDS = 30.0

_PEEK = f"""
SELECT data FROM pg_logical_slot_peek_binary_changes('{source.NAME}', NULL, :most, 'proto_version', '1',
                                                     'publication_names', '{source.NAME}')"""  # noqa: S608 - constants

_ADVANCE = f"SELECT end_lsn::text FROM pg_replication_slot_advance('{source.NAME}', CAST(:position AS pg_lsn))"  # noqa: S608

_BEHIND = f"""
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint
FROM pg_replication_slots WHERE slot_name = '{source.NAME}'"""  # noqa: S608 - a constant


class NotThePrimary(Exception):
    """The member the log should be read from does not take writes."""


class ForeignLog(Exception):
    """The epoch's folder holds the log of another database system, or its chain is broken."""


def lsn_text(number: int) -> str:
    """A WAL position as PostgreSQL writes it."""
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"


@dataclass
class Progress:
    """What a run has done: segments and transactions written, the last position (text), and how far behind it is."""

    segments: int = 0
    transactions: int = 0
    last_lsn: str | None = None
    lag_seconds: float = 0.0
    lag_bytes: int = 0


class Archive:
    """The log of one epoch, read from its primary by `session`, kept in `folder`."""

    def __init__(self, session: Session, folder: Path, epoch: int, batch: int = BATCH_CHANGES) -> None:
        self._session = session
        self._folder = folder
        self._epoch = epoch
        self._batch = batch
        self._previous: Header | None = None
        self._previous_sha256: str | None = None
        self._system = ""
        self.progress = Progress()

    def prepare(self) -> None:
        """The slot is there, the chain's end is sound, and the slot stands where the last segment ends."""
        ((replays, self._system),) = self._session.run(
            "SELECT pg_is_in_recovery(), (SELECT system_identifier::text FROM pg_control_system())", STATEMENT_SECONDS
        )
        if replays:
            raise NotThePrimary(
                f"{self._session.endpoint} is in recovery, so it is not the primary; the next run asks again."
            )
        source.require_publication(self._session, STATEMENT_SECONDS)
        slot = source.ensure_slot(self._session)
        self._folder.mkdir(parents=True, exist_ok=True)
        for partial in self._folder.glob(".*.partial"):
            partial.unlink()
        self._resume(segment.segments(self._folder))
        if self._previous is not None and lsn_number(slot.position) < self._previous.last:
            self._advance(self._previous.last)

    def _resume(self, kept: list[Path]) -> None:
        if not kept:
            return
        newest = segment.read(kept[-1])
        if newest.header.system_identifier != self._system or newest.header.epoch != self._epoch:
            raise ForeignLog(
                f"{kept[-1]} is of system {newest.header.system_identifier}, epoch {newest.header.epoch}, but the "
                f"primary is system {self._system} in epoch {self._epoch}; move the folder away and keep it."
            )
        if len(kept) > 1:
            before = segment.read(kept[-2])
            if newest.header.previous != before.sha256 or newest.header.first < before.header.last:
                raise ForeignLog(
                    f"{kept[-1].name} does not follow {kept[-2].name}: the chain is broken; verify the log."
                )
        self._previous, self._previous_sha256 = newest.header, newest.sha256
        self.progress.last_lsn = lsn_text(newest.header.last)

    def step(self) -> Segment | None:
        """One batch; None when there is nothing to keep."""
        ((now_at,),) = self._session.run("SELECT pg_current_wal_lsn()::text", STATEMENT_SECONDS)
        messages = [bytes(row[0]) for row in self._session.run(_PEEK, STATEMENT_SECONDS, most=self._batch)]
        if not messages:
            # What was committed before `now_at` and is not ours to keep must not hold the primary's WAL back.
            self._advance(lsn_number(now_at))
            return None
        header = segment.header_of(messages, self._epoch, self._previous_sha256, self._system)
        if self._previous is not None and header.first < self._previous.last:
            raise ForeignLog(
                f"The slot gives a transaction at {lsn_text(header.first)}, before the end of the log "
                f"{lsn_text(self._previous.last)}; it is not the slot this log was read from."
            )
        written = segment.write(self._folder, header, messages)
        self._advance(header.last)
        self._previous, self._previous_sha256 = header, written.sha256
        self.progress.segments += 1
        self.progress.transactions += header.transactions
        self.progress.last_lsn = lsn_text(header.last)
        return written

    def measure(self, now: float, newest: Segment | None) -> None:
        """How far the log is behind: WAL bytes not confirmed; age of the newest kept commit, 0 when all is kept."""
        ((behind,),) = self._session.run(_BEHIND, STATEMENT_SECONDS)
        self.progress.lag_bytes = int(behind)
        commit = segment.decode(newest.messages[-1]) if newest is not None else None
        self.progress.lag_seconds = max(0.0, now - commit.at) if isinstance(commit, Commit) else 0.0

    def _advance(self, position: int) -> None:
        """Let PostgreSQL forget what is kept. Asking again, or for a position already passed, does nothing."""
        current = source.slot(self._session, STATEMENT_SECONDS)
        if current is not None and lsn_number(current.position) < position:
            self._session.run(_ADVANCE, STATEMENT_SECONDS, position=lsn_text(position))


def keep(
    archive: Archive,
    seconds: float,
    still_ours: Callable[[], bool],
    on_measured: Callable[[Progress], None],
    sleep: Callable[[float], None] = time.sleep,
    idle_seconds: float = 1.0,
) -> Progress:
    """Work for `seconds`: batch after batch, pausing when there is none, until the roles change (not `still_ours`)."""
    archive.prepare()
    deadline = time.monotonic() + seconds
    while True:
        newest = archive.step()
        archive.measure(time.time(), newest)
        on_measured(archive.progress)
        if time.monotonic() >= deadline or not still_ours():
            return archive.progress
        if newest is None:
            sleep(idle_seconds)
