"""Places in the log: an epoch and a WAL position in it, for after a promotion the positions of two epochs overlap."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from recovery.heartbeat import lsn_number, lsn_text
from recovery.transaction_log.pgoutput import MessageUnknown

_POSITION = re.compile(r"(?:([1-9][0-9]{0,9}):)?([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})")
_POSTGRES_EPOCH_US = 946_684_800_000_000
_BEGINS = struct.Struct("!QqI")


@dataclass(frozen=True, order=True)
class Position:
    """A place in the log: a WAL position (bytes) of an epoch."""

    epoch: int
    lsn: int

    def __str__(self) -> str:
        return f"{self.epoch}:{lsn_text(self.lsn)}"


def position(text: str, epoch: int) -> Position:
    """`EPOCH:X/Y`, or `X/Y` of `epoch`; ValueError says what is wrong."""
    found = _POSITION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a position; write EPOCH:X/Y, as `list` shows it, for example 1:0/3000148.")
    return Position(int(found[1]) if found[1] else epoch, lsn_number(found[2]))


@dataclass(frozen=True)
class Transaction:
    """A transaction's commit: where, when (microseconds since 1970), and its 32-bit id on the primary."""

    at: Position
    time_us: int
    xid: int


def begin(message: bytes, epoch: int) -> Transaction:
    """What a begin message (B) says."""
    try:
        commit, at, xid = _BEGINS.unpack_from(message, 1)
    except struct.error as error:
        raise MessageUnknown(f"A begin message is cut off after {len(message)} bytes.") from error
    return Transaction(Position(epoch, commit), at + _POSTGRES_EPOCH_US, xid)
