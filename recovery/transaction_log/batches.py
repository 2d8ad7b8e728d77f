"""From segments to batches: whole transactions in commit order, netted out for each table.

A batch ends where a transaction ends. A transaction larger than a batch comes in parts, of which only the last says
where it commits, so memory is bounded; DDL ends a part too, for what follows may be of another shape.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from recovery.transaction_log import segment
from recovery.transaction_log.netting import Changes, Counts, Net, changes_of
from recovery.transaction_log.path import Position
from recovery.transaction_log.pgoutput import MessageUnknown
from recovery.transaction_log.rows import Relation, emitted, relation, truncation
from recovery.transaction_log.segment import Segment

BATCH_CHANGES = 100_000
BATCH_BYTES = 32 << 20
DDL = "citizens.ddl"
"""Prefix of the logical messages that hold DDL."""
OWN_SCHEMA = "recovery"
"""The machinery's own tables (heartbeat, progress): they belong to a member's life, not to the citizens' data."""
_ROWS = b"IUD"
_BEGIN, _COMMIT, _RELATION, _TRUNCATE, _MESSAGE = b"BCRTM"
_POSTGRES_EPOCH_US = 946_684_800_000_000
_BEGINS = struct.Struct("!QqI")


@dataclass(frozen=True)
class Transaction:
    """A transaction's commit: where, when (microseconds since 1970), and its 32-bit id on the primary."""

    at: Position
    time_us: int
    xid: int


@dataclass(frozen=True)
class Until:
    """Where to stop: after the commit at `last`, before the commit at `before`, or before the first commit later than
    `time_us`. Nothing given: at the log's end.
    """

    last: Position | None = None
    before: Position | None = None
    time_us: int | None = None

    def excludes(self, transaction: Transaction) -> bool:
        """Whether to stop before this transaction."""
        return bool(
            (self.last is not None and transaction.at > self.last)
            or (self.before is not None and transaction.at >= self.before)
            or (self.time_us is not None and transaction.time_us > self.time_us)
        )


@dataclass(frozen=True)
class Batch:
    """A part of the log: what it does to each table, then DDL (the message's content), then the last commit in it.

    Without `commit` the transaction goes on in the next batch. `counts` by table, as the log holds them.
    """

    nets: tuple[Net, ...]
    ddl: bytes | None = None
    commit: Transaction | None = None
    transactions: int = 0
    counts: dict[str, Counts] = field(default_factory=dict)


def begin(message: bytes, epoch: int) -> Transaction:
    """What a begin message (B) says."""
    try:
        commit, at, xid = _BEGINS.unpack_from(message, 1)
    except struct.error as error:
        raise MessageUnknown(f"A begin message is cut off after {len(message)} bytes.") from error
    return Transaction(Position(epoch, commit), at + _POSTGRES_EPOCH_US, xid)


class Batches:
    """The batches of some segments, from beyond `after` in the first epoch to `until`; each epoch's bounds apply."""

    def __init__(
        self,
        parts: Iterable[tuple[Segment, int, int | None]],
        until: Until,
        changes: int = BATCH_CHANGES,
        size: int = BATCH_BYTES,
    ) -> None:
        self._parts = parts
        self._until = until
        self._most = changes
        self._largest = size
        self._described: dict[bytes, bytes] = {}
        self._tables: dict[bytes, Changes | None] = {}
        self._touched: dict[bytes, Changes] = {}
        self._size = self._count = self._transactions = 0
        self._epoch = 0
        self.reached = False
        """Whether the stop was met (not just the log's end)."""

    def __iter__(self) -> Iterator[Batch]:
        last = done = None
        for found, after, until in self._parts:
            if found.header.epoch != self._epoch:
                # A promoted member gives its tables the same OIDs, but nothing says that it must.
                if last is not done:
                    yield self._batch(commit=last)
                    done = last
                self._epoch = found.header.epoch
                self._described.clear()
                self._tables.clear()
            for part in self._segment(found, after, until):
                if isinstance(part, Batch):
                    yield part
                elif part is None:
                    self.reached = True
                    break
                else:
                    last = part
                    if self._count >= self._most or self._size >= self._largest:
                        yield self._batch(commit=last)
                        done = last
            if self.reached:
                break
        if last is not done:
            yield self._batch(commit=last)

    def _segment(self, found: Segment, after: int, until: int | None) -> Iterator[Batch | Transaction | None]:
        """Parts of transactions, and each one's commit; None where to stop."""
        epoch, largest = found.header.epoch, self._largest
        current: Transaction | None = None
        skipping = False
        tables = self._tables
        touched = self._touched
        for message in segment.messages(found):
            kind = message[0]
            if kind in _ROWS:
                if skipping:
                    continue
                oid = message[1:5]
                changes = tables[oid] if oid in tables else self._unknown(oid)
                if changes is None:
                    continue
                changes.take(message)
                touched[oid] = changes
                self._count += 1
                self._size += len(message)
                if self._size > largest:
                    yield self._batch()
            elif kind == _BEGIN:
                current = begin(message, epoch)
                if until is not None and current.at.lsn > until:
                    return  # the next epoch was branched off before it
                if self._until.excludes(current):
                    yield None
                    return
                skipping = current.at.lsn <= after
            elif kind == _COMMIT:
                if not skipping and current is not None:
                    self._transactions += 1
                    yield current
                current = None
            elif kind == _RELATION:
                yield from self._describe(message)
            elif skipping:
                continue
            elif kind == _TRUNCATE:
                emptied = truncation(message)
                for oid in emptied.relations:
                    changes = tables[oid] if oid in tables else self._unknown(oid)
                    if changes is not None:
                        changes.truncate(emptied.restart)
                        touched[oid] = changes
                        self._count += 1
            elif kind == _MESSAGE and current is not None:
                said = emitted(message)
                if said.transactional and said.prefix == DDL:
                    yield self._batch(ddl=said.content)

    def _unknown(self, oid: bytes) -> Changes | None:
        raise MessageUnknown(f"The log changes the table {int.from_bytes(oid, 'big')} without describing it.")

    def _describe(self, message: bytes) -> Iterator[Batch]:
        oid = message[1:5]
        if self._described.get(oid) == message:
            return
        if oid in self._touched:
            yield self._batch()
        described = relation(message)
        self._described[oid] = message
        self._tables[oid] = None if described.schema == OWN_SCHEMA else changes_of(described)

    def _batch(self, ddl: bytes | None = None, commit: Transaction | None = None) -> Batch:
        """What gathered so far; a part that ends within a transaction says no commit."""
        nets, counts = [], {}
        for oid, changes in self._touched.items():
            nets.append(changes.net())
            counts[name_of(changes.relation)] = changes.counts
            self._tables[oid] = changes_of(changes.relation)
        batch = Batch(tuple(nets), ddl, commit, self._transactions, counts)
        self._touched.clear()
        self._size = self._count = self._transactions = 0
        return batch


def name_of(table: Relation) -> str:
    """`schema.name`, for people."""
    return f"{table.schema}.{table.name}"
