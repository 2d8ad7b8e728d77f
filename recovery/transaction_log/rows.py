"""The rows in pgoutput's messages, as far as roll forward needs them: relations, tuples, truncations, messages.

Layouts: PostgreSQL documentation, "Logical Replication Message Formats" and "TupleData". Values are kept as the bytes
PostgreSQL wrote: nothing is turned into Python's types and back.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from recovery.transaction_log.pgoutput import MessageUnknown

TEXT_FORM: Final = (
    "SET datestyle = 'ISO, YMD'; SET intervalstyle = postgres; SET extra_float_digits = 1; SET bytea_output = hex; "
    "SET lc_monetary = 'C'; SET xmloption = content; SET timezone = 'UTC'; SET search_path = pg_catalog"
)
"""Under these settings every value is written and read in one form, whatever the database's own settings are."""

NULL: Final = b"\0c"
"""Stands for NULL: no text of PostgreSQL holds a zero byte."""
SEPARATOR: Final = b"\0a"
END_OF_ROW: Final = b"\0b"
_TEXT, _BINARY, _NULL, _UNCHANGED = b"tbnu"
FULL: Final = "f"
_SMALL = 256

Cell = bytes | None
"""A value in PostgreSQL's text form, or `NULL`; None: an unchanged value stored out of line, which is not sent."""
Key = bytes | tuple[bytes, ...]


@dataclass(frozen=True)
class Column:
    """A published column; `key` when it belongs to the replica identity; its type's OID and modifier on the primary."""

    name: str
    key: bool
    kind: int = 0
    modifier: int = -1


@dataclass(frozen=True)
class Relation:
    """A table as the log describes it; `identity` is `pg_class.relreplident`, `keys` the identity's column numbers."""

    oid: int
    schema: str
    name: str
    identity: str
    columns: tuple[Column, ...]

    @property
    def keys(self) -> tuple[int, ...]:
        """Numbers, from 0, of the columns that identify a row."""
        return tuple(number for number, column in enumerate(self.columns) if column.key)

    @property
    def whole(self) -> bool:
        """Whether a row is known by all its values alone. So are rows that come before their table is given a key."""
        return self.identity == FULL or not self.keys

    @property
    def quoted(self) -> str:
        """The name as SQL."""
        return f"{quote(self.schema)}.{quote(self.name)}"


@dataclass(frozen=True)
class Truncation:
    """Tables emptied by one statement: the OIDs of all of them, as the log names them (4 bytes each)."""

    relations: tuple[bytes, ...]
    restart: bool


@dataclass(frozen=True)
class Emitted:
    """A logical message (`pg_logical_emit_message`)."""

    transactional: bool
    prefix: str
    content: bytes


def quote(identifier: str) -> str:
    """An identifier as SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def relation(message: bytes) -> Relation:
    """What a relation message (R) describes; MessageUnknown when it is cut off."""
    try:
        (oid,) = struct.unpack_from("!I", message, 1)
        schema, at = _text(message, 5)
        name, at = _text(message, at)
        identity, count = struct.unpack_from("!cH", message, at)
        at += 3
        columns = []
        for _ in range(count):
            flags = message[at]
            column, at = _text(message, at + 1)
            kind, modifier = struct.unpack_from("!Ii", message, at)
            at += 8
            columns.append(Column(column, bool(flags & 1), kind, modifier))
    except (struct.error, IndexError, ValueError) as error:
        raise MessageUnknown(f"A relation message is cut off after {len(message)} bytes.") from error
    return Relation(oid, schema or "pg_catalog", name, identity.decode(), tuple(columns))


def truncation(message: bytes) -> Truncation:
    """What a truncate message (T) empties. Of its options CASCADE needs no care: the message names every table."""
    try:
        count, options = struct.unpack_from("!IB", message, 1)
        oids = tuple(message[6 + 4 * n : 10 + 4 * n] for n in range(count))
    except struct.error as error:
        raise MessageUnknown(f"A truncate message is cut off after {len(message)} bytes.") from error
    return Truncation(oids, bool(options & 2))


def emitted(message: bytes) -> Emitted:
    """What a logical message (M) says."""
    try:
        flags = message[1]
        prefix, at = _text(message, 10)
        (length,) = struct.unpack_from("!I", message, at)
    except (struct.error, IndexError, ValueError) as error:
        raise MessageUnknown(f"A logical message is cut off after {len(message)} bytes.") from error
    return Emitted(bool(flags & 1), prefix, message[at + 4 : at + 4 + length])


def cells(message: bytes, at: int) -> tuple[list[Cell], int]:
    """The cells of the tuple at `at`, and where it ends."""
    count = message[at] << 8 | message[at + 1]
    at += 2
    found: list[Cell] = []
    if len(message) < _SMALL:  # then every length fits into its last byte
        for _ in range(count):
            kind = message[at]
            if kind == _TEXT:
                start = at + 5
                at = start + message[at + 4]
                found.append(message[start:at])
            else:
                found.append(_without_text(kind))
                at += 1
        return found, at
    for _ in range(count):
        kind = message[at]
        if kind == _TEXT:
            start = at + 5
            at = start + int.from_bytes(message[at + 1 : start], "big")
            found.append(message[start:at])
        else:
            found.append(_without_text(kind))
            at += 1
    return found, at


def _without_text(kind: int) -> Cell:
    if kind == _NULL:
        return NULL
    if kind == _UNCHANGED:
        return None
    raise MessageUnknown("A value is in its type's binary form; read the slot without the option `binary`.")


def key_at(message: bytes, at: int, keys: tuple[int, ...]) -> Key:
    """The key of the tuple at `at`: its columns `keys`; one column's value stands for itself."""
    if keys == (0,) and len(message) < _SMALL and message[at + 2] == _TEXT:
        return message[at + 7 : at + 7 + message[at + 6]]
    values, _ = cells(message, at)
    found = []
    for number in keys:
        value = values[number]
        if value is None or value is NULL:
            raise MessageUnknown("A column of a key is not sent.")
        found.append(value)
    return found[0] if len(found) == 1 else tuple(found)


def copy_text(rows: list[bytes]) -> bytes:
    """Rows, each joined by SEPARATOR, as lines for COPY in text format."""
    block = END_OF_ROW.join(rows)
    for plain, escaped in ((b"\\", b"\\\\"), (b"\n", b"\\n"), (b"\r", b"\\r"), (b"\t", b"\\t")):
        if plain in block:
            block = block.replace(plain, escaped)
    block = block.replace(SEPARATOR, b"\t").replace(END_OF_ROW, b"\n")
    return (block.replace(NULL, b"\\N") if NULL in block else block) + b"\n"


def _text(message: bytes, at: int) -> tuple[str, int]:
    end = message.index(0, at)
    return message[at:end].decode(), end + 1
