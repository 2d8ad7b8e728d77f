"""What the fleet can suffer besides the loss of an instance."""

import psycopg
import pytest

from local_cloud.fleet import FleetError

from .conftest import Harness, eventually


def test_a_crashed_process_ends_the_sessions_and_the_server_recovers_by_itself(harness: Harness) -> None:
    before = harness.fleet.create(harness.spec("one"))
    with harness.connect("one") as session:
        harness.fleet.crash("one")
        eventually(lambda: _fails(session))
    eventually(lambda: _answers(harness, "one"))
    after = harness.fleet.describe("one")
    assert (after.status, after.processes) == ("available", before.processes), "the postmaster is the same"


def test_a_frozen_server_keeps_its_connections_answers_nobody_and_goes_on(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one"))
    with harness.connect("one") as session:
        harness.fleet.freeze("one")
        assert harness.fleet.describe("one").status == "available", "RDS does not notice"
        with pytest.raises(psycopg.OperationalError, match="timeout"):
            harness.connect("one", connect_timeout="2")
        harness.fleet.thaw("one")
        assert session.execute("SELECT 1").fetchone() == (1,)


def test_a_replica_of_a_frozen_server_is_promoted_as_fast_as_any(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one"))
    harness.fleet.create_replica(harness.spec("two"), "one")
    harness.fleet.freeze("one")
    harness.fleet.promote("two")
    eventually(lambda: harness.fleet.describe("two").source_identifier is None, 5)
    harness.fleet.reboot("one")
    harness.becomes("one", lambda view: view.status == "available")
    eventually(lambda: _answers(harness, "one"))


def test_a_replica_that_does_not_replay_has_it_all_when_it_is_promoted(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one"))
    harness.fleet.create_replica(harness.spec("two"), "one")
    with harness.connect("one") as writer, harness.connect("two") as reader:
        writer.execute("CREATE TABLE kept (number int)")
        eventually(lambda: bool(reader.execute("SELECT FROM pg_class WHERE relname = 'kept'").fetchall()))
        harness.fleet.pause_replay("two", True)
        writer.execute("INSERT INTO kept VALUES (1)")
        assert reader.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    harness.fleet.lose("one")
    harness.fleet.promote("two")
    harness.becomes("two", lambda view: view.source_identifier is None and view.status == "available")
    with harness.connect("two") as session:
        assert session.execute("SELECT count(*) FROM kept").fetchone() == (1,)


def test_a_primary_has_nothing_to_replay(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one"))
    with pytest.raises(FleetError, match="not a read replica"):
        harness.fleet.pause_replay("one", True)


def test_a_full_storage_shuts_the_database_down_and_its_copy_does_not_take_over(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one", multi_az=True))
    harness.fleet.create_replica(harness.spec("two"), "one")
    harness.fleet.fill("one")
    eventually(lambda: "0221" in harness.events_of("one"))
    assert harness.fleet.describe("one").status == "storage-full"
    assert not _answers(harness, "one")
    harness.fleet.promote("two")
    harness.becomes("two", lambda view: view.source_identifier is None and view.status == "available")
    harness.fleet.delete("one")


def test_the_loss_of_a_zone_moves_what_was_there_and_builds_no_copy_until_it_is_back(harness: Harness) -> None:
    view = harness.fleet.create(harness.spec("one", multi_az=True))
    harness.fleet.lose_zone(view.availability_zone)
    moved = harness.becomes("one", lambda now: now.availability_zone == view.secondary_availability_zone)
    eventually(lambda: _answers(harness, "one"))
    assert len(harness.fleet.describe("one").processes) == 1, "a copy beside it would be none"
    harness.fleet.restore_zone(view.availability_zone)
    harness.becomes("one", lambda now: len(now.processes) == 2)
    assert moved.status == "available"


def test_the_loss_of_the_copys_zone_is_noticed_by_nobody(harness: Harness) -> None:
    view = harness.fleet.create(harness.spec("one", multi_az=True))
    assert view.secondary_availability_zone is not None
    with harness.connect("one") as session:
        harness.fleet.lose_zone(view.secondary_availability_zone)
        harness.becomes("one", lambda now: len(now.processes) == 1)
        session.execute("CREATE TABLE written (number int)")
    harness.fleet.restore_zone(view.secondary_availability_zone)
    harness.becomes("one", lambda now: len(now.processes) == 2)


def test_an_instance_without_a_copy_waits_for_its_zone(harness: Harness) -> None:
    view = harness.fleet.create(harness.spec("one"))
    harness.fleet.lose_zone(view.availability_zone)
    harness.becomes("one", lambda now: not now.processes)
    assert not _answers(harness, "one")
    harness.fleet.restore_zone(view.availability_zone)
    eventually(lambda: _answers(harness, "one"))


def _answers(harness: Harness, identifier: str) -> bool:
    try:
        with harness.connect(identifier) as session:
            return session.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def _fails(session: "psycopg.Connection[tuple[object, ...]]") -> bool:
    try:
        session.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False
