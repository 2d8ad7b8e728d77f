"""A table's rows as lines for COPY in text format, many at a time; it learns which shapes of rows are frequent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from recovery.transaction_log.copy_stream import Run
from recovery.transaction_log.pgoutput import MessageUnknown
from recovery.transaction_log.rows import END_OF_ROW, SEPARATOR, Cell, Relation, cells, copy_text
from recovery.transaction_log.shapes import ROWS_AT_ONCE, Shape, nulls, shape

_OFTEN = 128
_SHAPES = 4
_CANDIDATES = 100
"""A shape that came up so often is looked for from then on; so many at most, for each costs a look at every block."""
PIECE_BYTES = 1 << 20
_TUPLE = 6
"""Where the tuple begins in a message that has the new row only."""


class Lines:
    """Makes lines of one table's rows."""

    def __init__(self, relation: Relation) -> None:
        self._relation = relation
        self._seen: Counter[tuple[bool, ...]] = Counter()
        self.shapes: list[Shape] = []
        """The frequent ones; more may come."""
        if relation.columns:
            self.shapes.append(shape(relation.oid, (False,) * len(relation.columns)))

    def of_messages(self, messages: Sequence[bytes]) -> Iterator[bytes]:
        """Blocks of lines for the rows of messages (I or U) that hold the new row only, in any order within a block.

        MessageUnknown for a row that has another number of columns than the relation, or a value in binary form.
        """
        for at in range(0, len(messages), ROWS_AT_ONCE):
            yield from self._blocks(messages[at : at + ROWS_AT_ONCE])

    def _blocks(self, messages: Sequence[bytes]) -> Iterator[bytes]:
        left, rest = len(messages), END_OF_ROW.join((b"", *messages, b""))
        for known in self.shapes:
            if found := known.message.findall(rest):
                yield known.lines(found)
                left -= len(found)
                if not left:
                    return
                rest = known.message.sub(b"", rest)
        rows, at = [], len(END_OF_ROW)
        while at < len(rest):
            row, at = cells(rest, at + _TUPLE)
            rows.append(self._joined(row))
            at += len(END_OF_ROW)
        yield copy_text(rows)

    def _joined(self, row: list[Cell]) -> bytes:
        check_width(row, self._relation)
        if len(self.shapes) < _SHAPES and len(self._seen) < _CANDIDATES:
            missing = nulls(row)
            self._seen[missing] += 1
            if self._seen[missing] == _OFTEN and not all(missing):
                self.shapes.append(shape(self._relation.oid, missing))
        return SEPARATOR.join(row)  # type: ignore[arg-type]


def of_run(run: Run) -> tuple[int, bytes]:
    """How many rows a run of inserts holds, and their lines."""
    rows = run.shape.frame.findall(run.frames + b"d\0")
    return len(rows), run.shape.lines(rows)


def pieces(blocks: Iterable[bytes]) -> tuple[bytes, ...]:
    """The same lines in larger blocks: between two that are sent Python's lock is waited for."""
    found: list[bytes] = []
    gathered: list[bytes] = []
    for block in blocks:
        gathered.append(block)
        if sum(map(len, gathered)) >= PIECE_BYTES:
            found.append(b"".join(gathered))
            gathered.clear()
    return (*found, b"".join(gathered)) if gathered else tuple(found)


def check_width(row: Sequence[Cell], relation: Relation) -> None:
    """MessageUnknown when a row has another number of columns than the relation."""
    if len(row) != (width := len(relation.columns)):
        raise MessageUnknown(f"A row of {relation.quoted} has {len(row)} columns where {width} were described.")
