"""A segment: whole transactions of one epoch's log in one file that proves its own and its predecessor's integrity.

Layout: a header (one line of JSON), then the messages of pgoutput (zlib; each a 4-byte length, then the message), then
the SHA-256 (32 bytes) of all before it. The file's name holds the first transaction's commit position and the position
after the last one's commit, 16 hexadecimal digits each, so that names sort as the log runs.
"""

import hashlib
import json
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

FORMAT = 1
SUFFIX = ".segment"
_NAME = re.compile(r"([0-9A-F]{16})-([0-9A-F]{16})\.segment")
_LENGTH = struct.Struct("!I")
_DIGEST = 32
_POSTGRES_EPOCH = 946_684_800.0
"""2000-01-01 UTC in epoch seconds: PostgreSQL counts its time stamps from there."""


class SegmentCorrupt(Exception):
    """A segment's bytes are not what was written."""


class SegmentConflict(Exception):
    """There is a segment with the same first position and other content."""


class MessageUnknown(Exception):
    """What the slot gave is not pgoutput as this module knows it."""


@dataclass(frozen=True)
class Header:
    """What a segment says of itself; positions are WAL positions of `epoch` as numbers of bytes.

    `previous` is the SHA-256 (hex) of the segment before it in this epoch, None for the first.
    """

    epoch: int
    first: int
    last: int
    transactions: int
    messages: int
    previous: str | None
    system_identifier: str
    format: int = FORMAT


@dataclass(frozen=True)
class Segment:
    """A verified segment."""

    header: Header
    messages: tuple[bytes, ...]
    sha256: str


@dataclass(frozen=True)
class Begin:
    """A transaction begins; it commits at this position and time (epoch seconds)."""

    commit: int
    at: float
    xid: int


@dataclass(frozen=True)
class Commit:
    """A transaction commits at `commit`; the log goes on at `end`."""

    commit: int
    end: int
    at: float


@dataclass(frozen=True)
class Change:
    """A row of a relation was inserted (I), updated (U) or deleted (D)."""

    kind: str
    relation: int


@dataclass(frozen=True)
class Other:
    """Any other message: relation (R), type (Y), truncate (T), origin (O), logical message (M)."""

    kind: str


Message = Begin | Commit | Change | Other


def decode(message: bytes) -> Message:
    """What a message of pgoutput (protocol version 1) says; MessageUnknown for anything else."""
    kind = chr(message[0]) if message else ""
    try:
        match kind:
            case "B":
                commit, at, xid = struct.unpack_from("!QqI", message, 1)
                return Begin(commit, _POSTGRES_EPOCH + at / 1e6, xid)
            case "C":
                _, commit, end, at = struct.unpack_from("!BQQq", message, 1)
                return Commit(commit, end, _POSTGRES_EPOCH + at / 1e6)
            case "I" | "U" | "D":
                return Change(kind, struct.unpack_from("!I", message, 1)[0])
            case "R" | "Y" | "T" | "O" | "M":
                return Other(kind)
    except struct.error as error:
        raise MessageUnknown(f"A message of kind {kind} is cut off after {len(message)} bytes.") from error
    raise MessageUnknown(
        f"A message of kind {kind!r} is not of pgoutput's protocol version 1; read with a newer program."
    )


def header_of(messages: Sequence[bytes], epoch: int, previous: str | None, system_identifier: str) -> Header:
    """The header for whole transactions; MessageUnknown when they are not whole."""
    first = last = transactions = 0
    open_transaction = False
    for message in messages:
        match decode(message):
            case Begin(commit=commit):
                if open_transaction:
                    raise MessageUnknown("A transaction begins inside another one; the batch is not written.")
                open_transaction, first = True, first or commit
            case Commit(end=end):
                open_transaction, last, transactions = False, end, transactions + 1
    if open_transaction or not transactions:
        raise MessageUnknown(f"The batch of {len(messages)} messages does not end with a commit; it is not written.")
    return Header(epoch, first, last, transactions, len(messages), previous, system_identifier)


def name(header: Header) -> str:
    """The file's name."""
    return f"{header.first:016X}-{header.last:016X}{SUFFIX}"


def segments(folder: Path) -> list[Path]:
    """The segments of an epoch's folder in the order of the log."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if _NAME.fullmatch(path.name))


def positions(path: Path) -> tuple[int, int]:
    """First and last position by the file's name."""
    found = _NAME.fullmatch(path.name)
    if found is None:
        raise SegmentCorrupt(f"{path.name} is not a segment's name.")
    return int(found[1], 16), int(found[2], 16)


def encode(header: Header, messages: Sequence[bytes]) -> bytes:
    """The file's bytes; the same header and messages always give the same."""
    body = json.dumps(asdict(header), sort_keys=True).encode() + b"\n"
    body += zlib.compress(b"".join(_LENGTH.pack(len(message)) + message for message in messages), 6)
    return body + hashlib.sha256(body).digest()


def write(folder: Path, header: Header, messages: Sequence[bytes]) -> Segment:
    """Write a segment so that it is there as a whole or not at all, whenever the machine stops.

    The same segment again changes nothing; SegmentConflict when another one begins at the same position.
    """
    content = encode(header, messages)
    written = Segment(header, tuple(messages), content[-_DIGEST:].hex())
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name(header)
    for other in folder.glob(f"{header.first:016X}-*{SUFFIX}"):
        if other.name == target.name and other.read_bytes() == content:
            return written
        raise SegmentConflict(
            f"{other} begins at the same position as {target.name} with other content; keep both and verify the log."
        )
    scratch = folder / f".{target.name}.partial"
    with scratch.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.rename(target)
    _sync_folder(folder)
    return written


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> Segment:
    """A segment, verified against its digest, its header and its name; SegmentCorrupt says what does not fit."""
    content = path.read_bytes()
    body, digest = content[:-_DIGEST], content[-_DIGEST:]
    if len(digest) < _DIGEST or hashlib.sha256(body).digest() != digest:
        raise SegmentCorrupt(f"{path} does not match its SHA-256: it was torn or changed after it was written.")
    line, _, packed = body.partition(b"\n")
    try:
        header = Header(**json.loads(line))
        messages = tuple(_unpack(zlib.decompress(packed)))
    except (ValueError, TypeError, zlib.error, struct.error) as error:
        raise SegmentCorrupt(f"{path} has a right SHA-256 but cannot be read: {error}.") from error
    if header_of(messages, header.epoch, header.previous, header.system_identifier) != header:
        raise SegmentCorrupt(f"{path} holds other transactions than its header says.")
    if path.name != name(header):
        raise SegmentCorrupt(f"{path} is not named after its positions, which would be {name(header)}.")
    return Segment(header, messages, digest.hex())


def _unpack(content: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(content):
        (length,) = _LENGTH.unpack_from(content, position)
        position += _LENGTH.size
        if position + length > len(content):
            raise ValueError("the last message is cut off")
        yield content[position : position + length]
        position += length
