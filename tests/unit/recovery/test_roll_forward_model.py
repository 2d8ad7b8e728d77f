"""Roll forward against schedules that nobody thought of: whatever was committed, the tables are the same in the end.

Real PostgreSQL on both sides. Statements that the primary refuses change nothing and so are part of the schedule.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recovery.connection import Refused
from recovery.transaction_log.application import Application
from recovery.transaction_log.batches import Batches
from recovery.transaction_log.digest import digests
from recovery.transaction_log.path import Log
from recovery.transaction_log.position import Position
from recovery.transaction_log.roll_forward import roll_forward
from tests.unit.recovery.rehearsal import TO_THE_END, Rehearsal

TABLES = """
DROP TABLE IF EXISTS keyed, pairs, bag, picky CASCADE;
CREATE TABLE keyed (id int PRIMARY KEY, v text, n int);
CREATE TABLE pairs (a int, b text, v text, PRIMARY KEY (a, b));
CREATE TABLE bag (id int, v text);
CREATE TABLE picky (id int PRIMARY KEY, v text UNIQUE);
ALTER TABLE keyed ALTER v SET STORAGE EXTERNAL;
ALTER TABLE bag ALTER v SET STORAGE EXTERNAL;
INSERT INTO keyed SELECT n, repeat('大', n * 900), n FROM generate_series(1, 4) n;
INSERT INTO bag SELECT n % 3, repeat('u', (n % 2) * 3000) FROM generate_series(1, 6) n;
INSERT INTO pairs SELECT n, 'b', '' FROM generate_series(1, 4) n;
INSERT INTO picky SELECT n, n::text FROM generate_series(1, 4) n"""
IDS = st.integers(0, 6)
VALUES = st.sampled_from(["NULL", "''", "'u'", r"E'\\N\t'", "repeat('市', 1500)", "'1'", "'2'", "'3'"])
SPOTS = st.sampled_from(["keyed", "pairs", "bag", "picky"])
KEYS = {"pairs": "a"}


def _key(table: str) -> str:
    return KEYS.get(table, "id")


STATEMENTS = st.one_of(
    st.builds(
        lambda table, number, value: (
            f"INSERT INTO {table} ({_key(table)}, {'b' if table == 'pairs' else 'v'}) VALUES ({number}, {value})"
        ),
        SPOTS,
        IDS,
        VALUES,
    ),
    st.builds(lambda t, number, value: f"UPDATE {t} SET v = {value} WHERE {_key(t)} = {number}", SPOTS, IDS, VALUES),
    st.builds(lambda t, old, new: f"UPDATE {t} SET {_key(t)} = {new} WHERE {_key(t)} = {old}", SPOTS, IDS, IDS),
    st.builds(lambda number: f"UPDATE keyed SET n = n + 1 WHERE id <= {number}", IDS),
    st.builds(lambda table, number: f"DELETE FROM {table} WHERE {_key(table)} = {number}", SPOTS, IDS),
    st.builds(lambda table: f"DELETE FROM {table} WHERE ctid = (SELECT min(ctid) FROM {table})", SPOTS),
    st.builds(lambda table: f"TRUNCATE {table}", SPOTS),
)
SCHEDULES = st.lists(st.lists(STATEMENTS, min_size=1, max_size=5), min_size=1, max_size=6)


class Killed(BaseException):
    """The process ended here."""


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(schedule=SCHEDULES, changes=st.integers(1, 12), size=st.sampled_from([300, 1 << 20]), killed=st.integers(0, 8))
def test_whatever_was_committed_is_the_same_after_a_roll_forward(
    rehearsal: Rehearsal, schedule: Sequence[Sequence[str]], changes: int, size: int, killed: int
) -> None:
    """In batches of a few changes; the run is killed after some statements' batch and resumed."""
    primary = rehearsal.primary
    if not rehearsal.copy:
        rehearsal.copy = rehearsal.new_copy()
        primary = rehearsal.primary
    with rehearsal.open(rehearsal.copy) as target:
        primary.run(TABLES, 10)
        target.run(TABLES, 10)
        target.run("DROP TABLE IF EXISTS recovery.roll_forward", 10)
        rehearsal.keep()
        start = Position(1, Log(rehearsal.root).end().lsn)
        for statements in schedule:
            with contextlib.suppress(Refused), primary.transaction(10):
                for statement in statements:
                    primary.run(statement, 10)
        rehearsal.keep()
    real, begun = Application.apply, 0

    def apply(self: Application, nets: object, ahead: bool = False) -> None:
        nonlocal begun
        real(self, nets, ahead)  # type: ignore[arg-type]
        begun += 1
        if begun == killed:
            raise Killed

    Application.apply = apply  # type: ignore[method-assign]
    defaults, Batches.__init__.__defaults__ = Batches.__init__.__defaults__, (changes, size)
    try:
        for _ in range(2):
            with rehearsal.open(rehearsal.copy) as target, contextlib.suppress(Killed):
                roll_forward(target, Log(rehearsal.root), TO_THE_END, start=start)
    finally:
        Application.apply = real  # type: ignore[method-assign]
        Batches.__init__.__defaults__ = defaults
    with rehearsal.open(rehearsal.copy) as target:
        assert digests(target, 20) == digests(primary, 20)
