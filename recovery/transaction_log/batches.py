"""From segments to batches: whole transactions in commit order, netted out for each table.

A batch ends where a transaction ends. A transaction larger than a batch comes in parts, of which only the last says
where it commits, so memory is bounded; DDL ends a part too, for what follows may be of another shape.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from recovery.transaction_log import ddl, segment
from recovery.transaction_log.copy_stream import Run
from recovery.transaction_log.netting import Changes, Counts, Load, Net, changes_of
from recovery.transaction_log.pgoutput import MessageUnknown
from recovery.transaction_log.position import Position, Transaction, begin
from recovery.transaction_log.rows import Relation, emitted, relation, truncation
from recovery.transaction_log.segment import Segment
from recovery.transaction_log.shapes import Shape

BATCH_CHANGES = 100_000
BATCH_BYTES = 32 << 20
LOAD_BYTES = 2 << 20
"""Of inserts in a row nothing is netted out, so smaller parts of them cost nothing and take less memory."""
OWN_SCHEMA = "recovery"
"""The machinery's own tables (heartbeat, progress): they belong to a member's life, not to the citizens' data."""
_ROWS = frozenset(b"IUD")
_COMMIT_LSN = struct.Struct("!Q")
_BEGIN, _COMMIT, _RELATION, _TRUNCATE, _MESSAGE = b"BCRTM"


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

    With `ddl_first` the DDL comes before the rows: it makes their table.
    Without `commit` the transaction goes on in the next batch. `counts` by table, as the log holds them.
    """

    nets: tuple[Net, ...]
    ddl: bytes | None = None
    commit: Transaction | None = None
    transactions: int = 0
    counts: dict[str, Counts] = field(default_factory=dict)
    ddl_first: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether the transaction goes on in the next batch, with rows or with DDL about these."""
        return self.commit is None and self.ddl is None


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
        # The first batch is smaller: until it is there PostgreSQL has nothing to do.
        self._enough = max(1, changes // 4)
        self._largest = size
        self._described: dict[bytes, bytes] = {}
        self._tables: dict[bytes, Changes | None] = {}
        self._touched: dict[bytes, Changes] = {}
        self._shapes: dict[bytes, list[Shape]] = {}
        # What is touched comes after these.
        self._loads: dict[bytes, list[Load]] = {}
        self._counts: dict[str, Counts] = {}
        self._count = self._transactions = 0
        self._begun = b""
        self._uncommitted = False
        # Within the transaction there was DDL: what it made (a value of an enum) may need its commit to be used.
        self._altered = False
        self.reached = False
        """Whether the stop was met (not just the log's end)."""

    def __iter__(self) -> Iterator[Batch]:
        epoch = 0
        for found, after, until in self._parts:
            if found.header.epoch != epoch:
                # A promoted member gives its tables the same OIDs, but nothing says that it must.
                yield from self._rest(epoch)
                epoch = found.header.epoch
                self._described.clear()
                self._tables.clear()
                self._shapes.clear()
            yield from self._segment(found, after, until)
            if self.reached:
                break
        yield from self._rest(epoch)

    def _rest(self, epoch: int) -> Iterator[Batch]:
        if self._uncommitted:
            yield self._batch(epoch, commits=True)

    def _segment(self, found: Segment, after: int, until: int | None) -> Iterator[Batch]:
        epoch, largest = found.header.epoch, self._largest
        tables, touched = self._tables, self._touched
        unpack, excludes = _COMMIT_LSN.unpack_from, self._until.excludes if self._until != Until() else None
        skipping = inside = False
        size = loaded = 0
        for part in segment.parts(found, self._shapes):
            if isinstance(part, Run):
                if not skipping and self._take_run(part):
                    size += len(part.frames)
                    loaded += len(part.frames)
                    if size > largest or loaded > LOAD_BYTES:
                        yield self._batch(epoch)
                        size = loaded = 0
                continue
            for message in part:
                kind = message[0]
                if kind in _ROWS:
                    if skipping:
                        continue
                    oid = message[1:5]
                    changes = tables[oid] if oid in tables else self._unknown(oid)
                    if changes is not None:
                        changes.take(message)
                        touched[oid] = changes
                        self._count += 1
                        size += len(message)
                        if size > largest:
                            yield self._batch(epoch)
                            size = 0
                elif kind == _BEGIN:
                    inside = True
                    lsn = unpack(message, 1)[0]
                    if until is not None and lsn > until:
                        return  # the next epoch was branched off before it
                    if excludes is not None and excludes(begin(message, epoch)):
                        self.reached = True
                        return
                    skipping = lsn <= after
                    if not skipping:
                        self._begun = message
                elif kind == _COMMIT:
                    inside = False
                    if not skipping:
                        self._transactions += 1
                        self._uncommitted = True
                        if self._count >= self._enough or self._altered:
                            yield self._batch(epoch, commits=True)
                            size = 0
                elif kind == _RELATION:
                    if self._described.get(message[1:5]) != message:
                        if message[1:5] in touched or message[1:5] in self._loads:
                            yield self._batch(epoch)
                            size = 0
                        self._describe(message)
                elif not skipping and kind == _TRUNCATE:
                    self._truncate(message)
                elif not skipping and inside and kind == _MESSAGE:
                    said = emitted(message)
                    if said.transactional and said.prefix == ddl.PREFIX:
                        yield self._batch(epoch, content=said.content)
                        size, self._altered = 0, True

    def _truncate(self, message: bytes) -> None:
        emptied = truncation(message)
        for oid in emptied.relations:
            changes = self._tables[oid] if oid in self._tables else self._unknown(oid)
            if changes is not None:
                gone = self._loads.pop(oid, [])
                changes.truncate(emptied.restart or any(load.before.restart for load in gone))
                self._touched[oid] = changes
                self._count += 1

    def _take_run(self, run: Run) -> bool:
        """Many inserts at once, behind what the table's changes come to before them; False for a table left out."""
        oid = run.oid
        changes = self._tables[oid] if oid in self._tables else self._unknown(oid)
        if changes is None:
            return False
        loads = self._loads.setdefault(oid, [])
        if oid in self._touched or not loads:
            loads.append(Load(changes.net()))
            self._settle(oid, changes)
        count = loads[-1].take(run)
        self._counts[name_of(changes.relation)].inserted += count
        self._count += count
        return True

    def _settle(self, oid: bytes, changes: Changes) -> None:
        self._counts.setdefault(name_of(changes.relation), Counts()).add(changes.counts)
        self._touched.pop(oid, None)
        self._tables[oid] = changes.anew()

    def _unknown(self, oid: bytes) -> Changes | None:
        raise MessageUnknown(f"The log changes the table {int.from_bytes(oid, 'big')} without describing it.")

    def _describe(self, message: bytes) -> None:
        oid = message[1:5]
        described = relation(message)
        self._described[oid] = message
        changes = None if described.schema == OWN_SCHEMA else changes_of(described)
        self._tables[oid] = changes
        self._shapes[oid] = [] if changes is None else changes.lines.shapes

    def _batch(self, epoch: int, content: bytes | None = None, commits: bool = False) -> Batch:
        """What gathered so far; unless it `commits`, its last transaction goes on."""
        nets = [load.net() for loads in self._loads.values() for load in loads]
        for oid, changes in list(self._touched.items()):
            nets.append(changes.net())
            self._settle(oid, changes)
        counts = self._counts
        commit = begin(self._begun, epoch) if commits else None
        first = content is not None and ddl.comes_first(content)
        batch = Batch(tuple(nets), content, commit, self._transactions, counts, first)
        self._loads.clear()
        self._counts = {}
        self._count = self._transactions = 0
        self._enough = self._most
        self._uncommitted = not commits
        self._altered = self._altered and not commits
        return batch


def name_of(table: Relation) -> str:
    """`schema.name`, for people."""
    return f"{table.schema}.{table.name}"
