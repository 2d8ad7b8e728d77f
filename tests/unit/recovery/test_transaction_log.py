from __future__ import annotations

import os
from pathlib import Path

import pytest

from recovery.connection import Refused, Session
from recovery.heartbeat import lsn_number, lsn_text
from recovery.table import RecoveryTable
from recovery.transaction_log import ddl, segment, source
from recovery.transaction_log.archive import Archive, ForeignLog, NotThePrimary, keep
from recovery.transaction_log.open_log import open_log
from recovery.transaction_log.pgoutput import Begin, Change, Commit, decode
from recovery.transaction_log.verification import verify
from tests.unit.recovery.conftest import PRIMARY, Pair


class Killed(Exception):
    """The function was killed here."""


def drain(archive: Archive) -> None:
    while archive.step() is not None:
        pass


def ready(session: Session, folder: Path, batch: int = 1000) -> Archive:
    archive = Archive(session, folder, 1, batch)
    archive.prepare()
    session.run("RESET search_path", 5)  # the tests use the archive's session for their own statements too
    return archive


def kept(folder: Path) -> list[int]:
    """The transaction ids in the log, in its order; every segment is verified, and the chain."""
    xids, previous = [], None
    for path in segment.segments(folder):
        found = segment.read(path)
        assert found.header.previous == previous
        previous = found.sha256
        messages = [decode(message) for message in segment.messages(found)]
        xids += [message.xid for message in messages if isinstance(message, Begin)]
    return xids


def insert(session: Session, transactions: int) -> list[int]:
    """Commit so many transactions; their ids."""
    return [
        int(
            session.run("INSERT INTO public.citizens VALUES (:n) RETURNING pg_current_xact_id()::text::bigint", 5, n=n)[
                0
            ][0]
        )
        for n in range(transactions)
    ]


@pytest.fixture
def session(members: Pair) -> Session:
    opened = members.open()
    opened.run("CREATE TABLE citizens (number int, name text)", 5)
    return opened


@pytest.fixture
def unprepared(session: Session) -> Session:
    """Before the publication is there for the first time."""
    session.run("DROP EVENT TRIGGER recovery_give_identity; DROP PUBLICATION citizens_log", 5)
    ddl.remove(session, 5)
    session.run("ALTER TABLE citizens REPLICA IDENTITY DEFAULT", 5)
    return session


def test_every_committed_transaction_is_kept_once_and_in_order(session: Session, tmp_path: Path) -> None:
    archive = ready(session, tmp_path, batch=5)
    xids = insert(session, 12)
    session.run("BEGIN; INSERT INTO citizens VALUES (99); ROLLBACK", 5)
    drain(archive)
    assert kept(tmp_path) == xids
    assert archive.progress.segments > 1
    assert sum(segment.transactions(segment.read(path)) for path in segment.segments(tmp_path)) == 12
    assert archive.progress.last_lsn == lsn_text(header_of(segment.segments(tmp_path)[-1]).last)


def test_a_transaction_larger_than_a_batch_is_never_cut(session: Session, tmp_path: Path) -> None:
    archive = ready(session, tmp_path, batch=10)
    session.run("INSERT INTO citizens SELECT generate_series(1, 500), '市民'", 5)
    drain(archive)
    _, path = segment.segments(tmp_path)
    messages = [decode(message) for message in segment.messages(segment.read(path))]
    assert isinstance(messages[0], Begin)
    assert isinstance(messages[-1], Commit)
    assert messages[-1].end == header_of(path).last
    assert sum(message == Change("I", message.relation) for message in messages if isinstance(message, Change)) == 500


@pytest.mark.parametrize("step", ["write", "rename", "sync", "advance", "advanced"])
def test_killed_anywhere_nothing_is_lost_or_doubled(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    xids = []
    archive = ready(session, tmp_path / "epoch-1")
    xids += insert(session, 3)

    def die(*_: object, **__: object) -> None:
        raise Killed

    real_advance = Archive._advance

    def advance_and_die(self: Archive, position: int) -> None:
        real_advance(self, position)
        raise Killed

    with monkeypatch.context() as patch:
        match step:
            case "write":
                patch.setattr(os, "fsync", die)
            case "rename":
                patch.setattr(Path, "rename", die)
            case "sync":
                patch.setattr(segment, "sync_folder", die)
            case "record":
                patch.setattr(segment, "record_newest", die)
            case "advance":
                patch.setattr(Archive, "_advance", die)
            case _:
                patch.setattr(Archive, "_advance", advance_and_die)
        with pytest.raises(Killed):
            drain(archive)
    xids += insert(session, 2)
    drain(ready(session, tmp_path / "epoch-1"))
    assert kept(tmp_path / "epoch-1") == xids
    assert verify(tmp_path).as_text().endswith("OK")
    assert not list(tmp_path.rglob("*.partial"))


def test_an_idle_database_does_not_hold_its_wal_back(session: Session, tmp_path: Path) -> None:
    archive = ready(session, tmp_path)
    session.run("CREATE TEMP TABLE scratch AS SELECT generate_series(1, 1000)", 5)
    ((before,),) = session.run("SELECT pg_current_wal_lsn()::text", 5)
    assert archive.step() is None
    found = source.slot(session, 5)
    assert found is not None
    assert lsn_number(found.position) >= lsn_number(before)
    assert len(segment.segments(tmp_path)) == 1


def test_tables_without_a_primary_key_still_take_updates_and_deletes(session: Session) -> None:
    session.run("INSERT INTO citizens VALUES (1, 'a'), (2, 'b')", 5)
    session.run("CREATE TABLE nothing (n int); ALTER TABLE nothing REPLICA IDENTITY NOTHING", 5)
    source.ensure_publication(session, 5)
    session.run("CREATE TABLE later (n int); CREATE TABLE copied AS SELECT 1 AS n", 5)
    session.run("CREATE TABLE keyed (n int PRIMARY KEY, m int); ALTER TABLE keyed DROP CONSTRAINT keyed_pkey", 5)
    session.run('CREATE TABLE "Of ""quotes""" (n int) PARTITION BY RANGE (n)', 5)
    session.run('CREATE TABLE part PARTITION OF "Of ""quotes""" FOR VALUES FROM (0) TO (10)', 5)
    session.run("CREATE UNIQUE INDEX by_n ON later (n); ALTER TABLE later ALTER n SET NOT NULL", 5)
    session.run("CREATE SCHEMA inside CREATE TABLE kept (n int)", 5)
    for table in ("later", "keyed", "part", "nothing", "inside.kept"):
        session.run(f"INSERT INTO {table} VALUES (1)", 5)
    for table, column in (
        ("citizens", "number"), ("nothing", "n"), ("later", "n"), ("copied", "n"), ("keyed", "n"), ("part", "n"),
        ("inside.kept", "n"),
    ):  # fmt: skip
        session.run(f"UPDATE {table} SET {column} = 2; DELETE FROM {table}", 5)
    session.run("DROP SCHEMA inside CASCADE", 5)


def test_a_trigger_of_an_earlier_release_is_made_anew(session: Session) -> None:
    session.run("DROP EVENT TRIGGER recovery_give_identity", 5)
    session.run(source._TRIGGER.replace("'CREATE SCHEMA', ", ""), 5)
    source.ensure_publication(session, 5)
    session.run("CREATE SCHEMA inside CREATE TABLE kept (n int)", 5)
    session.run("INSERT INTO inside.kept VALUES (1); UPDATE inside.kept SET n = 2; DROP SCHEMA inside CASCADE", 5)


def test_an_ordinary_user_who_makes_a_table_is_not_hindered(session: Session, members: Pair) -> None:
    session.run("DROP ROLE IF EXISTS clerk", 5)
    session.run("CREATE ROLE clerk LOGIN PASSWORD 'Clerk-Clerk-1'; GRANT USAGE, CREATE ON SCHEMA public TO clerk", 5)
    with members.open(user="clerk", password="Clerk-Clerk-1") as clerk:
        clerk.run("CREATE TABLE of_clerk (n int); INSERT INTO of_clerk VALUES (1); UPDATE of_clerk SET n = 2", 5)
        clerk.run("CREATE TEMP TABLE passing (n int); DROP TABLE of_clerk, passing", 5)
    session.run("DROP OWNED BY clerk; DROP ROLE clerk", 5)


def test_a_table_that_would_be_hurt_stops_the_publication(unprepared: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_TABLES_WITHOUT_IDENTITY", "SELECT 'public.theirs', false, 'them'")
    with pytest.raises(source.LogWouldHurt, match="as them"):
        source.ensure_publication(unprepared, 5)
    assert unprepared.run("SELECT count(*) FROM pg_publication", 5) == [[0]]
    assert unprepared.run("SELECT count(*) FROM pg_event_trigger", 5) == [[0]]


def test_a_table_in_use_is_not_waited_for(unprepared: Session, members: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "LOCK_MILLISECONDS", 100)
    with members.open() as busy:
        busy.run("BEGIN; LOCK TABLE citizens IN ACCESS SHARE MODE", 5)
        with pytest.raises(Refused, match="lock timeout"):
            source.ensure_publication(unprepared, 5)


def test_two_runs_may_prepare_the_primary_one_after_the_other(session: Session) -> None:
    for _ in range(2):
        source.ensure_publication(session, 5)
        assert source.ensure_slot(session).name == "citizens_log"
    assert session.run("SELECT count(*) FROM pg_replication_slots WHERE failover", 5) == [[1]]


def test_a_run_that_loses_the_race_for_publication_and_slot_goes_on(
    session: Session, members: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.ensure_publication(session, 5)
    source.ensure_slot(session)
    found = source.slot(session, 5)
    answers = iter([None, found])
    monkeypatch.setattr(source, "slot", lambda *_: next(answers))
    assert source.ensure_slot(session) == found
    monkeypatch.setattr(source, "_state_of", lambda *_: "SELECT 1 WHERE false")
    source.ensure_publication(session, 5)


def test_the_log_of_an_epoch_is_opened_once(session: Session, table: RecoveryTable) -> None:
    first = open_log(session, table, 2, PRIMARY, 1_800_000_000.0)
    insert(session, 3)
    drain_to_nowhere(session)
    assert open_log(session, table, 2, PRIMARY, 1_800_000_060.0) == first
    record = table.get("epoch#2")
    assert record is not None
    assert record["begin_lsn"] == first.begin_lsn
    assert record["member"] == PRIMARY
    assert record["opened_at"] == "2027-01-15T08:00:00.000Z"


def drain_to_nowhere(session: Session) -> None:
    session.run("SELECT count(*) FROM pg_logical_slot_get_binary_changes('citizens_log', NULL, NULL, 'proto_version', "
                "'1', 'publication_names', 'citizens_log')", 5)  # fmt: skip


def test_the_standby_is_not_archived(members: Pair, tmp_path: Path) -> None:
    with members.open(members.standby) as standby, pytest.raises(NotThePrimary):
        Archive(standby, tmp_path, 1).prepare()


def test_a_folder_of_another_system_or_epoch_is_refused(session: Session, tmp_path: Path) -> None:
    archive = ready(session, tmp_path)
    insert(session, 1)
    drain(archive)
    with pytest.raises(ForeignLog, match="epoch 2"):
        Archive(session, tmp_path, 2).prepare()


def test_a_broken_chain_is_refused(session: Session, tmp_path: Path) -> None:
    archive = ready(session, tmp_path)
    for _ in range(3):
        insert(session, 1)
        archive.step()
    segment.segments(tmp_path)[-2].unlink()
    with pytest.raises(ForeignLog, match="chain is broken"):
        ready(session, tmp_path)


def test_a_log_whose_newest_segment_was_taken_away_is_refused(session: Session, tmp_path: Path) -> None:
    archive = ready(session, tmp_path)
    insert(session, 1)
    drain(archive)
    segment.segments(tmp_path)[-1].unlink()
    with pytest.raises(ForeignLog, match="is gone"):
        ready(session, tmp_path)


def test_a_slot_that_was_not_the_logs_is_noticed(session: Session, tmp_path: Path) -> None:
    archive = ready(session, tmp_path)
    insert(session, 2)
    session.run("SELECT pg_copy_logical_replication_slot('citizens_log', 'earlier')", 5)
    drain(archive)
    session.run("SELECT pg_drop_replication_slot('citizens_log')", 5)
    session.run("SELECT pg_copy_logical_replication_slot('earlier', 'citizens_log')", 5)
    with pytest.raises(ForeignLog, match="before the end of the log"):
        archive.step()


def test_the_lag_is_measured_in_bytes_and_seconds(session: Session, tmp_path: Path) -> None:
    archive = ready(session, tmp_path)
    insert(session, 1)
    archive.measure(0, None)
    assert archive.progress.lag_bytes > 0
    newest = archive.step()
    assert newest is not None
    assert newest.header.committed_at is not None
    archive.measure(newest.header.committed_at + 3, newest)
    assert archive.progress.lag_seconds == pytest.approx(3)


def test_keeping_goes_on_until_time_is_up_or_the_roles_change(session: Session, tmp_path: Path) -> None:
    shown: list[int] = []
    archive = Archive(session, tmp_path, 1)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        insert(session, 1)

    answers = iter([True, True, True, False])
    progress = keep(archive, 60, lambda: next(answers), lambda p: shown.append(p.segments), sleep=pause)
    assert progress.segments == 3
    assert progress.messages >= 9
    assert shown[-1] == progress.segments
    assert pauses
    assert keep(Archive(session, tmp_path, 1), 0, lambda: True, lambda p: None).segments == 0


def test_a_batch_that_is_not_small_is_followed_at_once(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recovery.transaction_log.archive.SMALL_BATCH", 10)
    archive = Archive(session, tmp_path, 1, batch=20)
    archive.prepare()
    insert(session, 40)
    answers, pauses = iter([True, True, True, False]), list[float]()
    keep(archive, 60, lambda: next(answers), lambda p: None, sleep=pauses.append)
    assert archive.progress.segments == 4
    assert not pauses


def test_every_segment_says_where_the_sequences_that_moved_stand(session: Session, tmp_path: Path) -> None:
    session.run('CREATE SEQUENCE "Of ""quotes"""; CREATE SEQUENCE unused; CREATE TEMP SEQUENCE passing', 5)
    session.run("ALTER TABLE citizens ADD id bigint GENERATED ALWAYS AS IDENTITY", 5)
    archive = ready(session, tmp_path)
    session.run('SELECT nextval(\'"Of ""quotes"""\'); INSERT INTO citizens VALUES (1), (2)', 5)
    first = archive.step()
    insert(session, 1)
    second = archive.step()
    session.run("SELECT setval('unused', 50, false); INSERT INTO citizens VALUES (3)", 5)
    session.run('DROP SEQUENCE "Of ""quotes"""', 5)
    third = archive.step()
    assert first is not None
    assert second is not None
    assert third is not None
    assert dict[str, object](first.header.sequences) == {
        'public."Of ""quotes"""': [1, True], "public.unused": [1, False], "public.citizens_id_seq": [2, True],
    }  # fmt: skip
    assert dict[str, object](second.header.sequences) == {"public.citizens_id_seq": [3, True]}
    assert dict[str, object](third.header.sequences) == {
        "public.citizens_id_seq": [4, True],
        "public.unused": [50, False],
    }
    insert(session, 1)
    fresh = ready(session, tmp_path).step()
    assert fresh is not None
    assert set(fresh.header.sequences) == {"public.citizens_id_seq", "public.unused"}


def test_the_logs_own_role_sees_where_sequences_of_others_stand_but_may_not_use_them(
    session: Session, members: Pair
) -> None:
    session.run("CREATE SEQUENCE numbers; SELECT nextval('numbers'), nextval('numbers')", 5)
    with members.access("citizens_log").open(members.primary, 5, "test") as keeper:
        assert source.sequences(keeper, 5) == {"public.numbers": (2, True)}
        with pytest.raises(Refused):
            keeper.run("SELECT last_value FROM public.numbers", 5)
    session.run("DROP FUNCTION recovery.sequence_positions()", 5)
    with pytest.raises(source.NotPrepared, match="sequence_positions"):
        source.sequences(session, 5)


def test_messages_outside_of_transactions_do_not_disturb_the_log(session: Session, tmp_path: Path) -> None:
    archive = ready(session, tmp_path)
    session.run("SELECT pg_logical_emit_message(false, 'somebody', 'said')", 5)
    xids = insert(session, 1)
    session.run("SELECT pg_logical_emit_message(false, 'somebody', 'said'), pg_logical_emit_message(true, 'x', 'y')", 5)
    drain(archive)
    assert kept(tmp_path)[:1] == xids
    session.run("SELECT pg_logical_emit_message(false, 'somebody', 'said')", 5)
    assert archive.step() is None
    assert verify(tmp_path).epochs == ()


# -- a hole -----------------------------------------------------------------------------------------------------------


def lose_slot(session: Session) -> None:
    session.run("SELECT pg_drop_replication_slot('citizens_log')", 5)


@pytest.mark.parametrize("step", ["nowhere", "write_synced", "drop_slot", "ensure_slot", "rename", "sync", "unlink"])
def test_a_hole_is_written_down_once_wherever_the_run_is_killed(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = ready(session, tmp_path)
    xids = insert(session, 2)
    drain(before)
    lose_slot(session)
    insert(session, 1)

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        match step:
            case "nowhere":
                pass
            case "write_synced":
                patch.setattr(segment, step, die)
            case "rename" | "unlink":
                patch.setattr(Path, step, die)
            case "sync":
                patch.setattr(segment, "sync_folder", die)
            case _:
                patch.setattr(source, step, die)
        if step != "nowhere":
            with pytest.raises(Killed):
                ready(session, tmp_path)
    archive = ready(session, tmp_path)
    xids += insert(session, 2)
    drain(archive)
    assert kept(tmp_path) == xids
    (gap,) = [header for header in map(header_of, segment.segments(tmp_path)) if header.kind == segment.GAP]
    assert "dropped" in gap.reason
    assert gap.first < gap.last


def header_of(path: Path) -> segment.Header:
    return segment.read(path).header


def test_the_log_goes_on_behind_a_gap_when_postgresql_gives_the_slot_up(new_pair: Pair, tmp_path: Path) -> None:
    sizes = {"max_slot_wal_keep_size": "1", "wal_keep_size": "0"}
    new_pair.fleet.modify(PRIMARY, parameters={"rds.logical_replication": "1", **sizes})
    new_pair.prepare()
    with new_pair.open() as session:
        session.run("CREATE TABLE citizens (number int, name text)", 5)
        archive = ready(session, tmp_path)
        kept_xids = insert(session, 2)
        drain(archive)
        for _ in range(3):
            session.run("SELECT pg_switch_wal()", 5)
            session.run("CREATE TABLE filler AS SELECT generate_series(1, 1000) AS n; DROP TABLE filler", 5)
        session.run("CHECKPOINT", 20)
        with pytest.raises(source.SlotLost, match="behind a gap"):
            source.slot(session, 5)
        archive = ready(session, tmp_path)
        assert archive.progress.gaps == 1
        kept_xids += insert(session, 1)
        drain(archive)
        assert kept(tmp_path) == kept_xids
