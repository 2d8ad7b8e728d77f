"""Keep the transaction log: from the primary's slot into segments, batch by batch.

A batch is read without consuming it (peek), written as it arrives, synced and named, and only then is the slot
advanced. Stopped anywhere, the next run finds the segment and just advances, or reads the batch again: nothing is lost,
nothing doubled. A slot that is lost or gone is made anew, and the hole becomes a segment of its own: a gap.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recovery.connection import Session
from recovery.heartbeat import lsn_number, lsn_text
from recovery.transaction_log import continuity, segment, source
from recovery.transaction_log.rows import TEXT_FORM
from recovery.transaction_log.segment import CHANGES, GAP, OPENED, PENDING, Header, Segment

BATCH_CHANGES = 1_000_000
"""A batch ends with the first transaction that reaches this number: `upto_nchanges` never cuts inside a transaction.

Each batch costs the primary reading its WAL again from the slot's `restart_lsn`, so few large ones are cheap for it.
"""
SMALL_BATCH = 10_000
PAUSE_SECONDS = 4.0
"""After a small batch the next one gathers for this long: a quiet database makes few files."""
STATEMENT_SECONDS = 30.0

_PEEK = f"""
SELECT data FROM pg_logical_slot_peek_binary_changes('{source.NAME}', NULL, %d, 'proto_version', '1',
    'publication_names', '{source.NAME}', 'messages', 'true') WITH ORDINALITY AS message (lsn, xid, data, number)
WHERE data < '\\x4d00' OR data >= '\\x4d01' ORDER BY number
"""  # noqa: S608 - constants
"""PostgreSQL knows that what a function returns is in the order of its ordinality: no plan of this sorts.

A logical message (0x4D) that is not transactional (0x00) stands outside of every transaction; none is ours.
"""

_ADVANCE = f"SELECT end_lsn::text FROM pg_replication_slot_advance('{source.NAME}', CAST(:position AS pg_lsn))"  # noqa: S608

_BEHIND = f"""
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint
FROM pg_replication_slots WHERE slot_name = '{source.NAME}'"""  # noqa: S608 - a constant


class NotThePrimary(Exception):
    """The member the log should be read from does not take writes."""


class ForeignLog(Exception):
    """The epoch's folder holds the log of another database system, or its chain is broken."""


@dataclass
class Progress:
    """What a run has done: segments and messages written, gaps, the last position (text), and how far behind it is."""

    segments: int = 0
    messages: int = 0
    gaps: int = 0
    last_lsn: str | None = None
    lag_seconds: float = 0.0
    lag_bytes: int = 0


class Archive:
    """The log of one epoch, read from its primary by `session`, kept in `folder`.

    The caller holds `segment.alone(folder)`. `patience` is how many seconds reading one batch or moving the slot may
    take: a transaction that needs longer is never kept.
    """

    def __init__(
        self,
        session: Session,
        folder: Path,
        epoch: int,
        batch: int = BATCH_CHANGES,
        patience: float = STATEMENT_SECONDS,
    ) -> None:
        self._session = session
        self._folder = folder
        self._epoch = epoch
        self._batch = batch
        self._patience = patience
        self._newest: Segment | None = None
        self._system = ""
        self._sequences: dict[str, tuple[int, bool]] = {}
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
        # JIT would compile every batch's plan; a notice would stand in the middle of the stream.
        self._session.run(f"{TEXT_FORM}; SET jit = off; SET client_min_messages = error", STATEMENT_SECONDS)
        source.require_publication(self._session, STATEMENT_SECONDS)
        self._folder.mkdir(parents=True, exist_ok=True)
        for partial in self._folder.glob(".*.partial"):
            partial.unlink()
        self._resume(segment.segments(self._folder))
        slot = self._slot()
        if self._newest is None:
            begins, how = lsn_number(slot.position), continuity.evidence(self._session, STATEMENT_SECONDS)
            self._newest = self._link(OPENED, begins, begins, how)
        elif lsn_number(slot.position) < self._newest.header.last:
            self._advance(self._newest.header.last)
        self.progress.last_lsn = lsn_text(self._newest.header.last)

    def _resume(self, kept: list[Path]) -> None:
        recorded = segment.newest_recorded(self._folder)
        if recorded is not None and self._folder / recorded[0] not in kept:
            raise ForeignLog(f"{self._folder / recorded[0]} was written and is gone; bring it back and verify the log.")
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
        self._newest = newest
        segment.record_newest(newest)

    def _slot(self) -> source.Slot:
        """The slot; a new one, and a gap in the log, when it is lost or gone though the log had begun."""
        pending = self._folder / PENDING
        try:
            found, reason = source.slot(self._session, STATEMENT_SECONDS), f"the slot {source.NAME} was dropped"
        except source.SlotLost as lost:
            found, reason = None, str(lost)
        if found is not None and not pending.exists():
            return found
        if self._newest is not None and not pending.exists():
            # Written down before there is a new slot: stopped in between, the next run must not take it for the old.
            segment.write_synced(pending, json.dumps({"reason": reason}))
        if found is None:
            source.drop_slot(self._session, STATEMENT_SECONDS)
        slot = source.ensure_slot(self._session)
        if self._newest is None:
            return slot
        # Nothing to write when nothing was committed in between, and when a run was stopped after writing the gap.
        if lsn_number(slot.position) > self._newest.header.last:
            reason = json.loads(pending.read_text(encoding="utf-8"))["reason"]
            self._newest = self._link(GAP, self._newest.header.last, lsn_number(slot.position), reason)
            self.progress.gaps += 1
        pending.unlink()
        return slot

    def _link(self, kind: str, first: int, last: int, reason: str = "") -> Segment:
        """A segment that holds no changes."""
        with contextlib.closing(segment.Writer(self._folder)) as writer:
            after = self._newest.path if self._newest else None
            written = writer.finish(self._header(kind, first, last, reason=reason), after)
        segment.record_newest(written)
        return written

    def _header(
        self, kind: str, first: int, last: int, messages: int = 0, at: float | None = None, reason: str = ""
    ) -> Header:
        previous = self._newest.sha256 if self._newest else None
        return Header(self._epoch, self._system, previous, kind, first, last, messages, committed_at=at, reason=reason)

    def step(self) -> Segment | None:
        """One batch; None when there is nothing to keep."""
        assert self._newest is not None, "prepare first"
        ((now_at,),) = self._session.run("SELECT pg_current_wal_lsn()::text", STATEMENT_SECONDS)
        with contextlib.closing(segment.Writer(self._folder)) as writer:
            messages = self._session.copy_out(_PEEK % self._batch, self._patience, writer.take)
            if messages:
                begin, commit = writer.whole()
                if begin.commit < self._newest.header.last:
                    raise ForeignLog(
                        f"The slot gives a transaction at {lsn_text(begin.commit)}, before the end of the log "
                        f"{lsn_text(self._newest.header.last)}; it is not the slot this log was read from."
                    )
                header = self._header(CHANGES, begin.commit, commit.end, messages, commit.at)
                # Asked behind the batch, so none stands behind a row that is in it.
                standing = source.sequences(self._session, STATEMENT_SECONDS)
                moved = {name: list(at) for name, at in standing.items() if self._sequences.get(name) != at}
                self._newest = writer.finish(dataclasses.replace(header, sequences=moved), self._newest.path)
                self._sequences = standing
                segment.record_newest(self._newest)
        if not messages:
            # What was committed before `now_at` and is not ours to keep must not hold the primary's WAL back.
            self._advance(lsn_number(now_at))
            return None
        self._advance(self._newest.header.last)
        self.progress.segments += 1
        self.progress.messages += messages
        self.progress.last_lsn = lsn_text(self._newest.header.last)
        return self._newest

    def measure(self, now: float, newest: Segment | None) -> None:
        """How far the log is behind: WAL bytes not confirmed; age of the newest kept commit, 0 when all is kept."""
        ((behind,),) = self._session.run(_BEHIND, STATEMENT_SECONDS)
        self.progress.lag_bytes = int(behind)
        committed_at = newest.header.committed_at if newest is not None else None
        self.progress.lag_seconds = max(0.0, now - committed_at) if committed_at is not None else 0.0

    def _advance(self, position: int) -> None:
        """Let PostgreSQL forget what is kept. Asking again, or for a position already passed, does nothing."""
        current = source.slot(self._session, STATEMENT_SECONDS)
        if current is not None and lsn_number(current.position) < position:
            self._session.run(_ADVANCE, self._patience, position=lsn_text(position))


def keep(
    archive: Archive,
    seconds: float,
    still_ours: Callable[[], bool],
    on_measured: Callable[[Progress], None],
    sleep: Callable[[float], None] = time.sleep,
    pause_seconds: float = PAUSE_SECONDS,
) -> Progress:
    """Work for `seconds`: batch after batch, pausing after a small one, until the roles change (not `still_ours`)."""
    archive.prepare()
    deadline = time.monotonic() + seconds
    while True:
        newest = archive.step()
        archive.measure(time.time(), newest)
        on_measured(archive.progress)
        if time.monotonic() >= deadline or not still_ours():
            return archive.progress
        if newest is None or newest.header.messages < SMALL_BATCH:
            sleep(min(pause_seconds, max(0.0, deadline - time.monotonic())))
