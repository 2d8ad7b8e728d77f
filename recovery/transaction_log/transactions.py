"""The log's transactions one by one: when each committed, which tables it touched, which DDL it ran.

For a person who looks for the one that did harm, and for the list of what came after it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from recovery.clock import iso
from recovery.transaction_log import segment
from recovery.transaction_log.batches import DDL, OWN_SCHEMA, Transaction, begin, name_of
from recovery.transaction_log.path import Log, Position
from recovery.transaction_log.pgoutput import MessageUnknown
from recovery.transaction_log.rows import Relation, emitted, relation, truncation
from recovery.transaction_log.segment import CHANGES, Segment

_NUMBERS = {"I": 0, "U": 1, "D": 2}
_TRUNCATED = 3


class NoSuchTransaction(Exception):
    """The log holds no transaction that commits there."""


@dataclass
class Listed:
    """A transaction of the log. `tables`: rows inserted, updated, deleted, and how often each table was emptied;
    `ddl`: each statement's tag and what it made, altered or dropped.
    """

    transaction: Transaction
    tables: dict[str, list[int]] = field(default_factory=dict)
    ddl: list[str] = field(default_factory=list)

    @property
    def committed_at(self) -> float:
        """Seconds since 1970, on the primary's clock."""
        return self.transaction.time_us / 1e6

    @property
    def concerns_citizens(self) -> bool:
        """Whether it changed anything but the machinery's own tables."""
        return bool(self.tables or self.ddl)

    def as_json(self) -> dict[str, Any]:
        """For programs: `at` is `EPOCH:X/Y`, as the commands take it."""
        names = ("inserted", "updated", "deleted", "truncated")
        return {
            "at": str(self.transaction.at),
            "committed_at": iso(self.committed_at),
            "committed_at_us": self.transaction.time_us,
            "xid": self.transaction.xid,
            "tables": {name: dict(zip(names, counts, strict=True)) for name, counts in sorted(self.tables.items())},
            "ddl": self.ddl,
        }


def listing(log: Log, since: float | None = None, until: float | None = None) -> Iterator[Listed]:
    """The transactions that committed from `since` until `until` (seconds since 1970), in the log's order."""
    for epoch in log.epochs:
        described: dict[bytes, Relation] = {}
        for path in log.segments(epoch):
            found = segment.read(path)
            header = found.header
            early = since is not None and header.committed_at is not None and header.committed_at < since
            if header.kind != CHANGES:
                continue
            for listed in _transactions(found, described):
                if until is not None and listed.committed_at > until:
                    break
                if not early and (since is None or listed.committed_at >= since):
                    yield listed


def transaction_at(log: Log, at: Position) -> Listed:
    """The transaction that commits at a position; NoSuchTransaction when there is none."""
    described: dict[bytes, Relation] = {}
    for path in log.segments(at.epoch) if at.epoch in log.epochs else ():
        found = segment.read(path)
        if found.header.kind == CHANGES and found.header.first <= at.lsn <= found.header.last:
            for listed in _transactions(found, described):
                if listed.transaction.at == at:
                    return listed
    raise NoSuchTransaction(f"No transaction of the log commits at {at}; `log` lists them.")


def _transactions(found: Segment, described: dict[bytes, Relation]) -> Iterator[Listed]:
    listed: Listed | None = None
    for message in segment.messages(found):
        kind = chr(message[0])
        if kind == "B":
            listed = Listed(begin(message, found.header.epoch))
        elif kind == "C" and listed is not None:
            yield listed
            listed = None
        elif kind == "R":
            described[message[1:5]] = relation(message)
        elif listed is not None and kind in _NUMBERS:
            _count(listed, described, message[1:5], _NUMBERS[kind])
        elif listed is not None and kind == "T":
            for oid in truncation(message).relations:
                _count(listed, described, oid, _TRUNCATED)
        elif listed is not None and kind == "M":
            said = emitted(message)
            if said.transactional and said.prefix == DDL:
                listed.ddl.append(_told(said.content))


def _count(listed: Listed, described: dict[bytes, Relation], oid: bytes, number: int) -> None:
    if oid not in described:
        # The slot describes a table once a session: a segment that begins a session describes all it names.
        raise MessageUnknown(f"The log changes the table {struct.unpack('!I', oid)[0]} without describing it.")
    table = described[oid]
    if table.schema != OWN_SCHEMA:
        listed.tables.setdefault(name_of(table), [0, 0, 0, 0])[number] += 1


def _told(content: bytes) -> str:
    """One line of a DDL message: its tag, and the objects it is about."""
    try:
        said = json.loads(content[content.index(b"{") :])
        objects = [str(each["identity"]) for each in (said.get("dropped") or said.get("objects") or [])]
        return " ".join([str(said["tag"]), *dict.fromkeys(objects)][:6])
    except (ValueError, KeyError, TypeError, AttributeError):
        return "DDL that cannot be read"
