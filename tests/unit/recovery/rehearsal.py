"""A primary whose log is kept, and a copy of its database from the time when the log began, to be rolled forward."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from recovery.connection import Session
from recovery.transaction_log.archive import Archive
from recovery.transaction_log.batches import Until
from recovery.transaction_log.digest import digests
from recovery.transaction_log.path import Log
from recovery.transaction_log.position import Position
from recovery.transaction_log.roll_forward import Account, roll_forward
from tests.unit.recovery.conftest import Pair

TO_THE_END = Until()
_NUMBERS = itertools.count()


@dataclass
class Rehearsal:
    """A primary that is archived, and a copy of it from the time when the log began."""

    members: Pair
    primary: Session
    root: Path
    copies: list[str]
    start: Position | None = None
    copy: str = ""

    def begin(self) -> None:
        """The log begins, and the copy is made."""
        self.keep()
        ((lsn,),) = self.primary.run("SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint", 5)
        self.start = Position(1, int(lsn))
        self.copy = self.new_copy()

    def new_copy(self) -> str:
        name = f"copy_{next(_NUMBERS)}"
        self.copies.append(name)
        self.primary.close()
        with self.open("postgres") as elsewhere:
            elsewhere.run(f"CREATE DATABASE {name} TEMPLATE citizens STRATEGY file_copy", 20)
        self.primary = self.members.open()
        return name

    def open(self, name: str) -> Session:
        return self.members.open(database=name)

    def keep(self) -> None:
        with self.members.open() as session:
            archive = Archive(session, self.root / "epoch-1", 1)
            archive.prepare()
            while archive.step() is not None:
                pass

    def forward(self, until: Until = TO_THE_END, **options: object) -> Account:
        self.keep()
        with self.open(self.copy) as target:
            return roll_forward(target, Log(self.root), until, start=self.start, **options)  # type: ignore[arg-type]

    def same(self) -> None:
        with self.open(self.copy) as target:
            assert digests(target, 20) == digests(self.primary, 20)


def changed(rehearsal: Rehearsal, before: list[str], after: list[str], **options: object) -> Account:
    """Run `before`, begin the log, run `after` (each a transaction), roll forward: the tables must be the same."""
    for statement in before:
        rehearsal.primary.run(statement, 10)
    rehearsal.begin()
    for statement in after:
        rehearsal.primary.run(statement, 10)
    account = rehearsal.forward(**options)  # type: ignore[arg-type]
    rehearsal.same()
    return account
