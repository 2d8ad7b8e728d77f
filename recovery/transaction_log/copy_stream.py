"""PostgreSQL's binary COPY stream of one bytea column, in the frames (CopyData) in which the server sends it.

The log keeps the stream as it came: taking 700,000 rows apart costs Python more than PostgreSQL needs to decode them.
The server puts one row into a frame, and the stream's signature before the row of the first.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from recovery.transaction_log.pgoutput import Begin, Commit, MessageUnknown, decode
from recovery.transaction_log.shapes import Shape

SIGNATURE = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
"""Signature, flags, and the length of the header's extension: all zero."""
_FRAME = struct.Struct("!cI")
_ROW = struct.Struct("!hI")
_FRAMED_ROW = struct.Struct("!cIhI")
_OVERHEAD = _FRAME.size + _ROW.size
_BEGIN, _COMMIT = ord("B"), ord("C")
_BEGIN_BYTES = 21
_COMMIT_BYTES = 26
_BETWEEN_RUNS = 256
"""After so many messages it is seen whether a run begins."""
HEAD_BYTES = _FRAME.size + len(SIGNATURE) + _ROW.size + _BEGIN_BYTES
"""So much of a stream's beginning holds the first message, when that is the beginning of a transaction."""
TAIL_BYTES = _OVERHEAD + _COMMIT_BYTES
"""So much of a stream's end holds the last message, when that is a commit."""


@dataclass(frozen=True)
class Survey:
    """What a stream holds: messages, transactions, where the first commits and the last ends (None: there is none)."""

    messages: int
    transactions: int
    first: int | None
    last: int | None


@dataclass(frozen=True)
class Run:
    """Inserts of one shape into a table (its OID: 4 bytes), in their frames."""

    oid: bytes
    shape: Shape
    frames: bytes


Shapes = Mapping[bytes, Sequence[Shape]]


def frame(message: bytes, first: bool = False) -> bytes:
    """A message in its frame; `first` of a stream, with the signature."""
    row = (SIGNATURE if first else b"") + _ROW.pack(1, len(message)) + message
    return _FRAME.pack(b"d", len(row) + 4) + row


def ends(head: bytes, tail: bytes) -> tuple[Begin, Commit]:
    """First and last message of a stream, from its first HEAD_BYTES and last TAIL_BYTES; MessageUnknown otherwise."""
    first, last = head[-_BEGIN_BYTES:], tail[-_COMMIT_BYTES:]
    if head == frame(first, first=True) and tail == frame(last):
        begin, commit = decode(first), decode(last)
        if isinstance(begin, Begin) and isinstance(commit, Commit):
            return begin, commit
    raise MessageUnknown("The batch is not whole transactions, from a begin to a commit; it is not written.")


def messages(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The messages of a stream that comes in blocks cut anywhere; ValueError when it is not such a stream."""
    return (bytes(buffer[start:end]) for buffer, start, end in _rows(blocks))


def parts(blocks: Iterable[bytes], shapes: Shapes) -> Iterator[list[bytes] | Run]:
    """The messages of a stream, hundreds in a list: for those who look at every one, the fastest way to them.

    Many inserts of one of the `shapes` (by a table's OID, 4 bytes) come as runs between them, in the stream's order.
    """
    rest, skip = b"", len(SIGNATURE)
    unpack = _FRAMED_ROW.unpack_from
    for block in blocks:
        buffer = rest + block
        position, end = 0, len(buffer)
        found: list[bytes] = []
        if skip and end >= _OVERHEAD + skip:
            if buffer[_FRAME.size : _FRAME.size + skip] != SIGNATURE:
                raise ValueError("it does not begin with the signature of a COPY stream")
            length = _FRAME.unpack_from(buffer)[1] - skip
            buffer = _FRAME.pack(buffer[:1], length) + buffer[_FRAME.size + skip :]
            end, skip = len(buffer), 0
        whole = not skip
        while whole:
            if (run := _run_at(buffer, position, shapes)) is not None:
                yield run
                position += len(run.frames)
                continue
            for _ in range(_BETWEEN_RUNS):
                if position + _OVERHEAD > end:
                    whole = False
                    break
                kind, length, columns, size = unpack(buffer, position)
                if kind != b"d" or columns != 1 or size + _ROW.size + 4 != length:
                    raise ValueError(f"a frame of kind {kind!r} and {length} bytes is not a row's")
                follows = position + 1 + length
                if follows > end:
                    whole = False
                    break
                found.append(buffer[position + _OVERHEAD : follows])
                position = follows
            yield found
            found = []
        rest = buffer[position:]
    if rest:
        raise ValueError("the last message is cut off")


def _run_at(buffer: bytes, position: int, shapes: Shapes) -> Run | None:
    start = position + _OVERHEAD
    if buffer[start : start + 1] == b"I":
        oid = buffer[start + 1 : start + 5]
        for shape in shapes.get(oid, ()):
            if found := shape.run.match(buffer, position):
                return Run(oid, shape, found[0])
    return None


def survey(blocks: Iterable[bytes]) -> Survey:
    """Count what a stream holds; ValueError when it is not such a stream or its transactions are not whole."""
    count = transactions = 0
    inside = False
    begin = commit = b""
    for buffer, start, end in _rows(blocks):
        count += 1
        kind = buffer[start] if end > start else 0
        if (kind == _BEGIN) == inside:
            raise ValueError(f"a transaction is not whole at message {count}")
        if kind == _BEGIN:
            inside = True
            begin = begin or bytes(buffer[start:end])
        elif kind == _COMMIT:
            inside = False
            transactions += 1
            commit = bytes(buffer[start:end])
    if inside:
        raise ValueError("the last transaction is not whole")
    first, last = (decode(begin), decode(commit)) if count else (None, None)
    return Survey(
        count,
        transactions,
        first.commit if isinstance(first, Begin) else None,
        last.end if isinstance(last, Commit) else None,
    )


def _rows(blocks: Iterable[bytes]) -> Iterator[tuple[bytearray, int, int]]:
    """Where each message stands, in a buffer that is only good until the next one is asked for."""
    buffer, skip = bytearray(), len(SIGNATURE)
    for block in blocks:
        buffer += block
        position, end = 0, len(buffer)
        while position + _FRAME.size <= end:
            kind, length = _FRAME.unpack_from(buffer, position)
            follows = position + 1 + length
            if kind != b"d" or length < 4 + skip + _ROW.size:
                raise ValueError(f"a frame of kind {kind!r} and {length} bytes is not a row's")
            if follows > end:
                break
            columns, size = _ROW.unpack_from(buffer, position + _FRAME.size + skip)
            start = position + _OVERHEAD + skip
            if columns != 1 or start + size != follows:
                raise ValueError(f"a row of {columns} columns and {size} bytes does not fit its frame")
            yield buffer, start, follows
            position, skip = follows, 0
        del buffer[:position]
    if buffer:
        raise ValueError("the last message is cut off")
