"""Rows of one shape, NULL in the same columns, taken apart by one regular expression: no value's length is read.

No text of PostgreSQL holds a zero byte, while the length of a value below 64 KiB begins with two. So a value ends at
the tag before the next zero byte. A value that ends in `n` might be taken for one before a NULL: where a shape has
NULLs, rows with such a value do not fit, nor do rows with larger values anywhere. So the number of tags tells a shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from recovery.transaction_log.rows import NULL, SEPARATOR, Cell, copy_text

ROWS_AT_ONCE = 512
"""Python's lock is held while so many are taken apart, for half a millisecond, and nothing is sent meanwhile."""
RUN = 64
"""Fewer inserts in a row are taken one by one."""
_FRAME = rb"d\0\0..\0\x01\0\0.."


@dataclass(frozen=True)
class Shape:
    """Patterns for rows of one shape; a row's groups are its values.

    `message`: a message (I or U, with the new row only) between two ends of rows; `frame`: an insert in its frame,
    behind which another comes; `run`: RUN to ROWS_AT_ONCE of these.
    """

    missing: tuple[bool, ...]
    message: re.Pattern[bytes]
    frame: re.Pattern[bytes]
    run: re.Pattern[bytes]

    def lines(self, rows: Sequence[Any]) -> bytes:
        """What `findall` gave for a pattern of one row as lines for COPY; at least one row."""
        block = b"\n".join(map(_join(self.missing, b"\t", b"\\N"), rows)) + b"\n"
        wanted = {b"\t": len(self.missing) - 1, b"\n": 1, b"\\": self.missing.count(True), b"\r": 0}
        if all(block.count(special) == each * len(rows) for special, each in wanted.items()):
            return block
        return copy_text(list(map(_join(self.missing, SEPARATOR, NULL), rows)))


def nulls(row: Sequence[Cell]) -> tuple[bool, ...]:
    """Which columns of a row are NULL."""
    return tuple(cell is NULL for cell in row)


def _join(missing: Sequence[bool], separator: bytes, null: bytes) -> Callable[[Any], bytes]:
    """Makes a row of its values: `findall` gives a tuple of several groups, but one as it is."""
    if True in missing:
        return separator.join(null if absent else b"%b" for absent in missing).__mod__
    return bytes if len(missing) == 1 else separator.join


def shape(oid: int, missing: Sequence[bool]) -> Shape:
    """The shape of a table's rows that are NULL where `missing` says so, and not everywhere."""
    head = re.escape(oid.to_bytes(4, "big") + b"N" + len(missing).to_bytes(2, "big"))
    value = rb"(?:[^\0]*[^n\0])?" if True in missing else rb"[^\0]*"
    values = b"".join(b"n" if null else rb"t\0\0..(%b)" % value for null in missing)
    only = values.replace(b"(%b)" % value, value)
    return Shape(
        tuple(missing),
        re.compile(rb"\0b[IU]%b%b(?=\0b)" % (head, values), re.DOTALL),
        re.compile(rb"%bI%b%b(?=d\0)" % (_FRAME, head, values), re.DOTALL),
        re.compile(rb"(?:%bI%b%b(?=d\0)){%d,%d}+" % (_FRAME, head, only, RUN, ROWS_AT_ONCE), re.DOTALL),
    )
