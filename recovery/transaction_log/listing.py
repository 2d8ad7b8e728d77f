"""List the log's transactions, so that people find the one before which to stop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from recovery.clock import iso
from recovery.transaction_log import ddl, segment
from recovery.transaction_log.batches import OWN_SCHEMA, name_of
from recovery.transaction_log.netting import Counts
from recovery.transaction_log.path import Log
from recovery.transaction_log.position import Position, Transaction, begin
from recovery.transaction_log.rows import emitted, relation, truncation
from recovery.transaction_log.segment import CHANGES

_TEXT_OF_DDL = 300


@dataclass
class Listed:
    """A transaction of the log: its commit, what it did to which table, its DDL (shortened), and whether the next
    epoch was branched off before it (`abandoned`).
    """

    transaction: Transaction
    tables: dict[str, Counts] = field(default_factory=dict)
    ddl: list[str] = field(default_factory=list)
    abandoned: bool = False

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "position": str(self.transaction.at),
            "xid": self.transaction.xid,
            "committed_at": iso(self.transaction.time_us / 1e6),
            "tables": {name: asdict(counts) for name, counts in sorted(self.tables.items())},
            "ddl": self.ddl,
            "abandoned": self.abandoned,
        }

    def as_text(self) -> str:
        """One line for people."""
        done = [
            name
            + "".join(
                f" {sign}{number}"
                for sign, number in (
                    ("+", counts.inserted),
                    ("~", counts.updated),
                    ("-", counts.deleted),
                    ("emptied ", counts.truncated),
                )
                if number
            )
            for name, counts in sorted(self.tables.items())
        ]
        mark = " (abandoned: the next epoch began before it)" if self.abandoned else ""
        what = "; ".join([*done, *(" ".join(text.split()) for text in self.ddl)])
        when = iso(self.transaction.time_us / 1e6)
        return f"{self.transaction.at}  xid {self.transaction.xid}  {when}  {what or '-'}{mark}"


def transactions(log: Log, since: float | None = None, before: float | None = None) -> Iterator[Listed]:
    """Transactions that committed from `since` on and before `before` (epoch seconds), in the log's order.

    Those that only touched the machinery's own tables are left out. A segment whose end is older is not unpacked.
    """
    for epoch in log.epochs:
        following = log.branch(epoch + 1)
        names: dict[bytes, str | None] = {}
        for path in log.segments(epoch):
            header = segment.read_header(path)
            if header.kind != CHANGES or (since is not None and (header.committed_at or 0.0) < since):
                continue
            for listed in _of(segment.read(path), epoch, names):
                at = listed.transaction.time_us / 1e6
                listed.abandoned = following is not None and listed.transaction.at > following.at
                if (since is None or at >= since) and (before is None or at < before):
                    yield listed


def find(log: Log, xid: int, beyond: Position | None = None) -> list[Transaction]:
    """The transactions with this id (it may be used anew in a later epoch) beyond a position, in the log's order."""
    found = []
    for epoch in log.epochs:
        for path in log.segments(epoch):
            if segment.read_header(path).kind != CHANGES:
                continue
            for messages in segment.message_lists(segment.read(path)):
                for message in messages:
                    if message[0] == 66 and int.from_bytes(message[17:21], "big") == xid:  # B
                        transaction = begin(message, epoch)
                        if beyond is None or transaction.at > beyond:
                            found.append(transaction)
    return found


def _of(found: segment.Segment, epoch: int, names: dict[bytes, str | None]) -> Iterator[Listed]:
    current: Listed | None = None
    own_only = False
    for messages in segment.message_lists(found):
        for message in messages:
            kind = message[:1]
            if kind == b"B":
                current, own_only = Listed(begin(message, epoch)), False
            elif kind == b"R":
                described = relation(message)
                names[message[1:5]] = None if described.schema == OWN_SCHEMA else name_of(described)
            elif current is None:
                continue
            elif kind == b"C":
                if current.tables or current.ddl or not own_only:
                    yield current
                current = None
            elif kind in (b"I", b"U", b"D"):
                own_only = not _count(current, names.get(message[1:5], ""), kind) or own_only
            elif kind == b"T":
                for oid in truncation(message).relations:
                    own_only = not _count(current, names.get(oid, ""), kind) or own_only
            elif kind == b"M":
                said = emitted(message)
                if said.prefix == ddl.PREFIX:
                    current.ddl.append(_ddl(said.content))


def _ddl(content: bytes) -> str:
    try:
        return str(ddl.read(content))[:_TEXT_OF_DDL]
    except ddl.DdlRefused:
        return f"DDL that cannot be read: {content[:_TEXT_OF_DDL]!r}"


def _count(current: Listed, name: str | None, kind: bytes) -> bool:
    """Count a change; False for one of the machinery's own tables."""
    if name is None:
        return False
    counts = current.tables.setdefault(name or "(not described)", Counts())
    if kind == b"I":
        counts.inserted += 1
    elif kind == b"U":
        counts.updated += 1
    elif kind == b"D":
        counts.deleted += 1
    else:
        counts.truncated += 1
    return True
