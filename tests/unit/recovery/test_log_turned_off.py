"""The setting that turns the log off leaves no trace that costs the primary anything; turned on, the log says so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from recovery.connection import Session
from recovery.preparation import ROLES, prepare
from recovery.transaction_log import removal, source
from recovery.transaction_log.archive import Archive
from recovery.transaction_log.source import NotPrepared
from recovery.transaction_log.verification import WARNING, verify
from tests.unit.recovery.conftest import Pair
from tests.unit.recovery.test_transaction_log import drain, insert, kept, ready


@pytest.fixture
def session(members: Pair) -> Session:
    opened = members.open()
    opened.run("CREATE TABLE citizens (number int, name text)", 5)
    return opened


@pytest.fixture
def reader(members: Pair) -> Iterator[Session]:
    """The archive's own session, which has settings of its own."""
    with members.open() as opened:
        yield opened


def traces(session: Session) -> list[int]:
    """Publications, event triggers, their functions, logical slots."""
    counts = [
        f"pg_publication WHERE pubname = '{source.NAME}'",
        "pg_event_trigger",
        "pg_proc WHERE prorettype = 'event_trigger'::regtype AND pronamespace = 'recovery'::regnamespace",
        "pg_replication_slots WHERE slot_type = 'logical'",
    ]
    return [session.run(f"SELECT count(*) FROM {what}", 5)[0][0] for what in counts]


def test_turned_off_nothing_of_the_log_is_left_and_all_else_is_there(session: Session) -> None:
    source.ensure_slot(session)
    assert min(traces(session)) >= 1
    for _ in range(2):
        assert prepare(session, transaction_log=False)
        assert traces(session) == [0, 0, 0, 0]
    ((roles,),) = session.run("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'citizens\\_%'", 5)
    assert roles == len(ROLES)
    session.run("UPDATE citizens SET name = 'x'; DELETE FROM citizens; CREATE TABLE later (n int)", 5)
    session.run("INSERT INTO later VALUES (1); UPDATE later SET n = 2; DELETE FROM later", 5)


_PEEK = """SELECT count(*) FROM pg_logical_slot_peek_binary_changes('citizens_log', NULL, NULL, 'proto_version', '1',
'publication_names', 'citizens_log')"""


def test_a_slot_that_is_still_read_is_removed_a_run_later(session: Session, members: Pair) -> None:
    source.ensure_slot(session)
    session.run("INSERT INTO citizens SELECT generate_series(1, 400000), 'a citizen'", 60)
    with members.open() as reading:
        reader = threading.Thread(target=lambda: reading.run(_PEEK, 60))
        reader.start()
        while not session.run("SELECT 1 FROM pg_replication_slots WHERE active", 5):
            assert reader.is_alive(), "the slot was read before anybody looked"
        assert removal.remove(session, 30) is False
        reader.join()
    assert traces(session) == [0, 0, 0, 1]
    assert removal.remove(session, 5)
    assert traces(session) == [0, 0, 0, 0]


def test_an_archive_that_still_runs_is_told_that_there_is_no_log(session: Session, tmp_path: Path) -> None:
    prepare(session, transaction_log=False)
    with pytest.raises(NotPrepared):
        Archive(session, tmp_path, 1).prepare()
    assert traces(session)[-1] == 0


def test_turned_on_again_the_log_goes_on_behind_a_gap_and_verify_says_so(
    session: Session, reader: Session, tmp_path: Path
) -> None:
    archive = ready(reader, tmp_path / "epoch-1")
    xids = insert(session, 2)
    drain(archive)
    prepare(session, transaction_log=False)
    missed = insert(session, 2)
    prepare(session, transaction_log=True)
    again = ready(reader, tmp_path / "epoch-1")
    xids += insert(session, 2)
    drain(again)
    found = kept(tmp_path / "epoch-1")
    assert [xid for xid in found if xid in xids] == xids
    assert not set(missed) & set(found)
    report = verify(tmp_path)
    assert (report.verdict, [finding.kind for finding in report.findings]) == (WARNING, ["GAP"])
    assert "was dropped" in report.findings[0].text
    session.run("UPDATE citizens SET name = 'x'; DELETE FROM citizens", 5)


def test_turned_on_for_the_first_time_the_log_begins_where_it_is_opened(
    session: Session, reader: Session, tmp_path: Path
) -> None:
    prepare(session, transaction_log=False)
    insert(session, 2)
    prepare(session, transaction_log=True)
    archive = ready(reader, tmp_path / "epoch-1")
    xids = insert(session, 1)
    drain(archive)
    assert set(xids) <= set(kept(tmp_path / "epoch-1"))
    assert verify(tmp_path).verdict == "OK"
