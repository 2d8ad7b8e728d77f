"""What is left of many changes to one table: at most one change for each row that was there before.

Pure. A row is followed from the key it had in the database (its origin) to what it is in the end; what was inserted and
deleted again leaves nothing. Values are only taken apart when the batch is over, for the last version of each row.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from recovery.transaction_log.copy_stream import Run
from recovery.transaction_log.lines import Lines, check_width, of_run, pieces
from recovery.transaction_log.pgoutput import MessageUnknown
from recovery.transaction_log.rows import (
    NULL,
    SEPARATOR,
    Cell,
    Key,
    Relation,
    cells,
    copy_text,
    key_at,
)

BLOCK_ROWS = 4096
_INSERT, _UPDATE = b"IU"
_NEW, _OLD, _TEXT = b"NOt"
_TUPLE = 6
"""Where the (first) tuple of a row's message begins."""


@dataclass(frozen=True)
class Rows:
    """Rows as lines for COPY: `count` of them in `blocks`."""

    count: int = 0
    blocks: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Partial:
    """Rows whose key changed, or that keep values which are not sent.

    Each line holds the row (NULL for what it keeps), the key it had, and a number: `kept[number]` are the columns that
    keep their value.
    """

    rows: Rows = Rows()
    kept: tuple[frozenset[int], ...] = ()
    moved: bool = False


@dataclass(frozen=True)
class Net:
    """All that a batch does to a table, to be done in this order: empty it, delete, update, insert.

    `gone` holds the keys to delete (for a table without a key: whole rows, and how many equal ones), `changed` whole
    rows under their unchanged keys, `inserted` whole rows.
    """

    relation: Relation
    truncated: bool = False
    restart: bool = False
    gone: Rows = Rows()
    changed: Rows = Rows()
    partial: Partial = Partial()
    inserted: Rows = Rows()

    @property
    def changes_rows(self) -> bool:
        """Whether it does anything to rows that were there before."""
        return bool(self.gone.count or self.changed.count or self.partial.rows.count)


@dataclass
class Load:
    """Inserts that come as runs, behind what the table's changes come to before them."""

    before: Net
    count: int = 0
    blocks: list[bytes] = field(default_factory=list)

    def take(self, run: Run) -> int:
        """The next run; how many rows it has."""
        count, block = of_run(run)
        self.count += count
        self.blocks.append(block)
        return count

    def net(self) -> Net:
        """Both together."""
        first = self.before.inserted
        rows = Rows(first.count + self.count, pieces((*first.blocks, *self.blocks)))
        return replace(self.before, inserted=rows)


@dataclass
class _Row:
    """A row that needs care: the key it had in the database (None: it is new), and its cells."""

    origin: Key | None
    cells: list[Cell]


@dataclass
class Counts:
    """Changes as the log holds them."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    truncated: int = 0

    def add(self, other: Counts) -> None:
        """Add another's."""
        self.inserted += other.inserted
        self.updated += other.updated
        self.deleted += other.deleted
        self.truncated += other.truncated

    @property
    def all(self) -> int:
        """All of them."""
        return self.inserted + self.updated + self.deleted + self.truncated


class Keyed:
    """The changes to a table whose rows have a key."""

    def __init__(self, relation: Relation, lines: Lines) -> None:
        self.relation = relation
        self.lines = lines
        self._keys = relation.keys
        self._first_only = relation.keys == (0,)
        # A row's message when it tells all (I: the row is new; U: it was there), else a _Row.
        self._rows: dict[Key, bytes | _Row] = {}
        self._gone: dict[Key, None] = {}
        self._truncated = self._restart = False
        self.counts = Counts()

    def take(self, message: bytes) -> None:
        """The next change: a message of kind I, U or D."""
        kind = message[0]
        if message[5] != _NEW:
            self._take_old(message, kind)
            return
        if self._first_only and len(message) < 256 and message[8] == _TEXT:  # the common case, without a call
            key: Key = message[13 : 13 + message[12]]
        else:
            key = key_at(message, _TUPLE, self._keys)
        rows = self._rows
        if kind == _INSERT:
            self.counts.inserted += 1
            rows[key] = message
            return
        self.counts.updated += 1
        before = rows.get(key)
        # A `u` may stand for an unchanged value; one within a value is told apart by looking closer.
        if before.__class__ is _Row or (b"u" in message and None in cells(message, _TUPLE)[0]):
            self._update(key, key, cells(message, _TUPLE)[0])
        elif before is None:
            rows[key] = message
        else:
            rows[key] = message if before[0] == _UPDATE else b"I" + message[1:]  # type: ignore[index]

    def _take_old(self, message: bytes, kind: int) -> None:
        """An update that changes the key, or a deletion."""
        old = key_at(message, _TUPLE, self._keys)
        if kind == _UPDATE:
            self.counts.updated += 1
            _, end = cells(message, _TUPLE)
            if message[end] != _NEW:
                raise MessageUnknown("An update has no new row.")
            self._update(old, key_at(message, end + 1, self._keys), cells(message, end + 1)[0])
            return
        self.counts.deleted += 1
        before = self._rows.pop(old, None)
        origin = _origin(before, old)
        if origin is not None:
            self._gone[origin] = None

    def _update(self, old: Key, new: Key, values: list[Cell]) -> None:
        before = self._rows.pop(old, None)
        origin = _origin(before, old)
        if before is not None and None in values:
            known = before.cells if isinstance(before, _Row) else cells(before, _TUPLE)[0]
            values = [was if value is None else value for value, was in zip(values, known, strict=True)]
        self._rows[new] = _Row(origin, values)

    def truncate(self, restart: bool) -> None:
        """Every row is gone."""
        self.counts.truncated += 1
        self._rows.clear()
        self._gone.clear()
        self._truncated, self._restart = True, self._restart or restart

    def net(self) -> Net:
        """What is left of it all."""
        inserted: list[bytes] = []
        changed: list[bytes] = []
        # Of rows that needed care the cells are known already.
        inserted_joined: list[bytes] = []
        changed_joined: list[bytes] = []
        rest: list[bytes] = []
        patterns: dict[frozenset[int], int] = {}
        moved = False
        for key, row in self._rows.items():
            if isinstance(row, bytes):
                (inserted if row[0] == _INSERT else changed).append(row)
                continue
            check_width(row.cells, self.relation)
            kept = frozenset(number for number, cell in enumerate(row.cells) if cell is None)
            values = [NULL if cell is None else cell for cell in row.cells]
            if row.origin is None:
                inserted_joined.append(SEPARATOR.join(values))
            elif row.origin == key and not kept:
                changed_joined.append(SEPARATOR.join(values))
            else:
                moved = moved or row.origin != key
                number = patterns.setdefault(kept, len(patterns))
                rest.append(SEPARATOR.join([*values, *_parts(row.origin), b"%d" % number]))
        # By the first column's length and text, which for whole numbers is their order: neighbours lie on one page.
        changed.sort()
        return Net(
            self.relation,
            self._truncated,
            self._restart,
            _joined([SEPARATOR.join(_parts(key)) for key in self._gone]),
            _rows(self.lines, changed, changed_joined),
            Partial(_joined(rest), tuple(patterns), moved),
            _rows(self.lines, inserted, inserted_joined),
        )

    def anew(self) -> Keyed:
        """Where the table's next changes gather."""
        return Keyed(self.relation, self.lines)


class Unkeyed:
    """The changes to a table with REPLICA IDENTITY FULL: rows are known by all their values, and may be equal."""

    def __init__(self, relation: Relation, lines: Lines) -> None:
        self.relation = relation
        self.lines = lines
        self._new: list[bytes] = []
        self._counted: Counter[bytes] | None = None
        self._gone: Counter[bytes] = Counter()
        self._truncated = self._restart = False
        self.counts = Counts()

    def take(self, message: bytes) -> None:
        """The next change: a message of kind I, U or D."""
        kind = message[0]
        if kind == _INSERT:
            self.counts.inserted += 1
            if self._counted is None:
                self._new.append(message)
            else:
                self._counted[message[_TUPLE:]] += 1
            return
        if message[5] != _OLD:
            raise MessageUnknown(f"A change to {self.relation.quoted} comes without the row as it was.")
        if self._counted is None:
            self._counted = Counter(inserted[_TUPLE:] for inserted in self._new)
            self._new.clear()
        old, end = cells(message, _TUPLE)
        raw = message[_TUPLE:end]
        if self._counted[raw] > 0:
            self._counted[raw] -= 1
        else:
            self._gone[raw] += 1
        if kind != _UPDATE:
            self.counts.deleted += 1
            return
        self.counts.updated += 1
        new, after = cells(message, end + 1)
        if None in new:
            filled = [was if value is None else value for value, was in zip(new, old, strict=True)]
            self._counted[_packed(filled)] += 1
        else:
            self._counted[message[end + 1 : after]] += 1

    def truncate(self, restart: bool) -> None:
        """Every row is gone."""
        self.counts.truncated += 1
        self._new.clear()
        self._counted = None
        self._gone.clear()
        self._truncated, self._restart = True, self._restart or restart

    def net(self) -> Net:
        """What is left of it all."""
        inserted, gone = self._new, self._gone
        if self._counted is not None:
            gone = self._gone - self._counted
            head = b"I" + self.relation.oid.to_bytes(4, "big") + b"N"
            inserted = [head + raw for raw in (self._counted - self._gone).elements()]
        deleted = [SEPARATOR.join([*cells(raw, 0)[0], b"%d" % copies]) for raw, copies in gone.items()]  # type: ignore[list-item]
        return Net(
            self.relation,
            self._truncated,
            self._restart,
            gone=_joined(deleted),
            inserted=_rows(self.lines, inserted, []),
        )

    def anew(self) -> Unkeyed:
        """Where the table's next changes gather."""
        return Unkeyed(self.relation, self.lines)


Changes = Keyed | Unkeyed


def changes_of(relation: Relation) -> Changes:
    """Where a table's changes gather."""
    return (Unkeyed if relation.whole else Keyed)(relation, Lines(relation))


def _origin(before: bytes | _Row | None, key: Key) -> Key | None:
    """The key in the database of the row that is `before` under `key` within the batch (None: it was not touched)."""
    if before is None:
        return key
    if isinstance(before, _Row):
        return before.origin
    return None if before[0] == _INSERT else key


def _parts(key: Key) -> tuple[bytes, ...]:
    return key if isinstance(key, tuple) else (key,)


def _packed(values: list[Cell]) -> bytes:
    """A tuple as pgoutput writes it."""
    packed = [len(values).to_bytes(2, "big")]
    for value in values:
        assert value is not None
        packed.append(b"n" if value is NULL else b"t" + len(value).to_bytes(4, "big") + value)
    return b"".join(packed)


def _joined(rows: list[bytes]) -> Rows:
    return Rows(len(rows), tuple(copy_text(rows[at : at + BLOCK_ROWS]) for at in range(0, len(rows), BLOCK_ROWS)))


def _rows(lines: Lines, messages: list[bytes], joined: list[bytes]) -> Rows:
    rest = _joined(joined)
    return Rows(len(messages) + rest.count, pieces((*lines.of_messages(messages), *rest.blocks)))
