"""What was archived, rolled forward, gives the same tables: on real PostgreSQL, the target a copy made before."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from recovery.connection import Credentials, Database, Session
from recovery.transaction_log.archive import Archive
from recovery.transaction_log.batches import Until
from recovery.transaction_log.digest import digests
from recovery.transaction_log.path import Log, Position
from recovery.transaction_log.roll_forward import Account, roll_forward
from tests.unit.recovery.conftest import MASTER, PASSWORD, Pair

_NUMBERS = itertools.count()


@dataclass
class Rehearsal:
    """A primary that is archived, and a copy of it from the time when the log began."""

    members: Pair
    primary: Session
    root: Path
    copies: list[str]
    archive: Archive | None = None
    start: Position | None = None
    copy: str = ""

    def begin(self) -> None:
        """The log begins, and the copy is made."""
        self.archive = Archive(self.primary, self.root / "epoch-1", 1)
        self.archive.prepare()
        ((lsn,),) = self.primary.run("SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint", 5)
        self.start = Position(1, int(lsn))
        self.copy = self.new_copy()

    def new_copy(self) -> str:
        name = f"copy_{next(_NUMBERS)}"
        self.copies.append(name)
        with self.open("postgres") as elsewhere:
            self.primary.close()
            elsewhere.run(f"CREATE DATABASE {name} TEMPLATE citizens STRATEGY file_copy", 20)
        self.primary = self.members.open()
        self.archive = Archive(self.primary, self.root / "epoch-1", 1)
        self.archive.prepare()
        return name

    def open(self, name: str) -> Session:
        database = Database(name, self.members.database.tls)
        return Session.open(self.members.primary, database, Credentials(MASTER, PASSWORD), 5.0, "test")

    def keep(self) -> None:
        assert self.archive is not None
        while self.archive.step() is not None:
            pass

    def forward(self, until: Until = Until(), **options: object) -> Account:
        self.keep()
        with self.open(self.copy) as target:
            return roll_forward(target, Log(self.root), until, start=self.start, **options)  # type: ignore[arg-type]

    def same(self) -> None:
        with self.open(self.copy) as target:
            assert digests(target, 20) == digests(self.primary, 20)


@pytest.fixture
def rehearsal(members: Pair, tmp_path: Path) -> Iterator[Rehearsal]:
    made = Rehearsal(members, members.open(), tmp_path, [])
    yield made
    made.primary.close()
    with made.open("postgres") as elsewhere:
        for name in made.copies:
            elsewhere.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", 20)


def test_inserts_updates_and_deletes_give_the_same_table(rehearsal: Rehearsal) -> None:
    rehearsal.primary.run("CREATE TABLE t (id int PRIMARY KEY, name text)", 5)
    rehearsal.primary.run("INSERT INTO t SELECT n, 'old' FROM generate_series(1, 100) AS n", 5)
    rehearsal.begin()
    rehearsal.primary.run("INSERT INTO t SELECT n, 'new' FROM generate_series(101, 150) AS n", 5)
    rehearsal.primary.run("UPDATE t SET name = '市民' WHERE id % 3 = 0", 5)
    rehearsal.primary.run("DELETE FROM t WHERE id % 5 = 0", 5)
    account = rehearsal.forward()
    rehearsal.same()
    assert account.transactions == 3
    assert account.tables["public.t"].inserted == 50
