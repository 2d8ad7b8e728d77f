"""The messages of PostgreSQL's `pgoutput` (protocol version 1), as the log keeps them.

Layouts: PostgreSQL documentation, "Logical Replication Message Formats".
"""

import struct
from dataclasses import dataclass

_POSTGRES_EPOCH = 946_684_800.0
"""2000-01-01 UTC in epoch seconds: PostgreSQL counts its time stamps from there."""


class MessageUnknown(Exception):
    """What the slot gave is not pgoutput as this module knows it."""


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
    """What a message says; MessageUnknown for one that is cut off or not of protocol version 1."""
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
