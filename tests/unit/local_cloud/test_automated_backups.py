"""Backups and restores of the fleet, with real clusters: what was committed until a moment, and nothing after it."""

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_cloud.automated_backups import BaseBackup, needed
from local_cloud.fleet import BackupView, Delays, FleetError

from .conftest import SWIFT, Harness, eventually
from .test_fleet import insert, numbers

EAGER = Delays(**{**vars(SWIFT), "log_upload_seconds": 0.3})
A_TIME = datetime(2026, 3, 1, tzinfo=UTC)


def backed_up(harness: Harness, identifier: str = "one", **changes: Any) -> None:
    harness.fleet.create(harness.spec(identifier, backup_retention_days=7, **changes))


def backup_of(harness: Harness, identifier: str) -> BackupView:
    resource = harness.fleet.describe(identifier).resource_id
    return next(view for view in harness.fleet.backups() if view.resource_id == resource)


def restorable_until(harness: Harness, identifier: str, moment: datetime) -> None:
    def reached() -> bool:
        latest = harness.fleet.describe(identifier).latest_restorable_time
        return latest is not None and latest >= moment

    eventually(reached)


def restore(harness: Harness, target: str, until: datetime | None, source: str = "one", **changes: Any) -> None:
    spec = harness.spec(target, **changes)
    harness.fleet.restore(spec, harness.fleet.describe(source).resource_id, until)


def test_a_restore_holds_what_was_committed_until_the_moment_and_nothing_after_it(harness: Harness) -> None:
    harness.fleet.delays = EAGER
    backed_up(harness)
    with harness.connect("one") as connection:
        insert(connection, 1)
        time.sleep(0.01)
        between = datetime.now(UTC)
        time.sleep(0.01)
        insert(connection, 2)
        connection.execute("DROP TABLE citizens")
        restorable_until(harness, "one", datetime.now(UTC))
    restore(harness, "two", between)
    view = harness.fleet.describe("two")
    assert view.endpoint_address != harness.fleet.describe("one").endpoint_address
    assert (view.status, view.source_identifier) == ("available", None)
    with harness.connect("two") as restored:
        assert numbers(restored) == [1]
        insert(restored, 3)
    restored_from = [event for event in harness.events if event.event_id == "RDS-EVENT-0019"]
    assert [(event.source_identifier, event.categories, event.message) for event in restored_from] == [
        ("two", ("restoration",), "Restored from DB instance one to two.")
    ]


def test_the_latest_restorable_time_lags_by_the_upload_and_bounds_a_restore(harness: Harness) -> None:
    harness.fleet.delays = Delays(**{**vars(SWIFT), "log_upload_seconds": 3600})
    before = datetime.now(UTC)
    backed_up(harness)
    latest = harness.fleet.describe("one").latest_restorable_time
    assert latest is not None
    assert before < latest < datetime.now(UTC)
    with harness.connect("one") as connection:
        insert(connection, 1)
    assert harness.fleet.describe("one").latest_restorable_time == latest
    with pytest.raises(FleetError, match="cannot be restored to a time later than") as later:
        restore(harness, "two", latest + timedelta(milliseconds=1))
    with pytest.raises(FleetError, match="cannot be restored to a time earlier than") as earlier:
        restore(harness, "two", before)
    assert later.value.code == earlier.value.code == "InvalidParameterValue"
    assert harness.fleet.identifiers() == ("one",)
    restore(harness, "two", None)
    with harness.connect("two") as restored:
        assert restored.execute("SELECT FROM pg_class WHERE relname = 'citizens'").fetchall() == []


def test_backups_go_on_after_a_failover_to_the_copy_without_a_hole(harness: Harness) -> None:
    harness.fleet.delays = EAGER
    backed_up(harness, multi_az=True)
    with harness.connect("one") as connection:
        insert(connection, 1)
        main = harness.fleet.describe("one").processes[0]
        # Segments are full that the archiver has not come to when the server dies.
        (archiver,) = [each for each in psutil.Process(main).children() if "archiver" in " ".join(each.cmdline())]
        archiver.suspend()
        connection.execute("CREATE TABLE ballast AS SELECT repeat('x', 5000) || i AS t FROM generate_series(1, 9000) i")
        insert(connection, 2)
        os.kill(main, signal.SIGKILL)
    eventually(lambda: "0049" in harness.events_of("one"))
    with harness.connect_when_possible("one") as connection:
        insert(connection, 3)
        restorable_until(harness, "one", datetime.now(UTC))
    restore(harness, "two", None)
    with harness.connect("two") as restored:
        assert numbers(restored) == [1, 2, 3]
        assert restored.execute("SELECT count(*) FROM ballast").fetchone() == (9000,)


def test_an_instance_that_is_lost_can_be_restored_until_its_last_upload(harness: Harness) -> None:
    harness.fleet.delays = EAGER
    backed_up(harness)
    with harness.connect("one") as connection:
        insert(connection, 1)
        restorable_until(harness, "one", datetime.now(UTC))
    harness.fleet.lose("one")
    harness.becomes("one", lambda view: view.status == "failed")
    restore(harness, "two", None, backup_retention_days=1)
    with harness.connect("two") as restored:
        assert numbers(restored) == [1]
    assert backup_of(harness, "two").latest is not None


def test_a_read_replica_is_backed_up_from_its_promotion_on(harness: Harness) -> None:
    harness.fleet.delays = EAGER
    harness.fleet.create(harness.spec("one"))
    harness.fleet.create_replica(harness.spec("two", backup_retention_days=7), "one")
    assert (backup_of(harness, "two").status, backup_of(harness, "two").earliest) == ("creating", None)
    assert harness.fleet.describe("two").latest_restorable_time is None
    harness.fleet.promote("two")
    harness.becomes("two", lambda view: view.source_identifier is None and view.status == "available")
    with harness.connect("two") as connection:
        insert(connection, 1)
        restorable_until(harness, "two", datetime.now(UTC))
    assert backup_of(harness, "two").status == "active"
    restore(harness, "three", None, "two")
    with harness.connect("three") as restored:
        assert numbers(restored) == [1]


def test_without_retention_there_is_no_backup_and_with_it_from_then_on(harness: Harness) -> None:
    harness.fleet.delays = EAGER
    harness.fleet.create(harness.spec("one"))
    assert harness.fleet.backups() == ()
    assert harness.fleet.describe("one").latest_restorable_time is None
    harness.fleet.modify("one", backup_retention_days=1)
    restorable_until(harness, "one", datetime.now(UTC))
    assert backup_of(harness, "one").retention_days == 1
    harness.fleet.modify("one", backup_retention_days=0)
    eventually(lambda: harness.fleet.backups() == ())
    eventually(lambda: not list((harness.state / "postgresql").glob("backup-*")))


def test_backups_go_with_the_instance_unless_they_are_kept(harness: Harness) -> None:
    harness.fleet.delays = EAGER
    for name in ("one", "two"):
        backed_up(harness, name)
    with harness.connect("two") as connection:
        insert(connection, 1)
        restorable_until(harness, "two", datetime.now(UTC))
    kept = backup_of(harness, "two").resource_id
    harness.fleet.delete("one")
    with pytest.raises(FleetError) as in_use:
        harness.fleet.drop_backup(kept)
    harness.fleet.delete("two", keep_backups=True)
    assert [(view.resource_id, view.status) for view in harness.fleet.backups()] == [(kept, "retained")]
    harness.fleet.restore(harness.spec("three"), kept, None)
    with harness.connect("three") as restored:
        assert numbers(restored) == [1]
    harness.fleet.drop_backup(kept)
    assert harness.fleet.backups() == ()
    with pytest.raises(FleetError) as missing:
        harness.fleet.restore(harness.spec("four"), kept, None)
    assert in_use.value.code == "InvalidDBInstanceAutomatedBackupState"
    assert missing.value.code == "DBInstanceAutomatedBackupNotFound"
    assert not list((harness.state / "postgresql").glob("backup-*"))


def test_what_no_restore_needs_any_more_is_removed(harness: Harness) -> None:
    """A base backup each moment, and a day's retention that ended long ago: one base and its WAL are left."""
    harness.fleet.delays = Delays(**{**vars(SWIFT), "log_upload_seconds": 0.2, "backup_interval_seconds": 0.4})
    backed_up(harness)
    folder = next((harness.state / "postgresql").glob("backup-*"))
    eventually(lambda: len(list(folder.glob("base-*"))) >= 3)
    harness.fleet.delays = Delays(**{**vars(SWIFT), "log_upload_seconds": 0.2})
    backup = harness.fleet._backups[harness.fleet.describe("one").resource_id]
    backup.expire(datetime.now(UTC) + timedelta(days=8))
    (base,) = folder.glob("base-*")
    first = backup._bases[0].first_wal
    assert base == backup._bases[0].folder
    assert min(file.name for file in (folder / "wal").iterdir()) >= first
    restore(harness, "two", None)


def test_a_snapshot_is_a_copy_that_can_be_restored_again_and_again(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one"))
    with harness.connect("one") as connection:
        insert(connection, 1)
        harness.fleet.take_snapshot("one", "before")
        insert(connection, 2)
    with pytest.raises(FleetError) as again:
        harness.fleet.take_snapshot("one", "before")
    assert again.value.code == "DBSnapshotAlreadyExists"
    harness.fleet.delete("one")
    for name in ("two", "three"):
        harness.fleet.restore_snapshot(harness.spec(name), "before")
        with harness.connect(name) as restored:
            assert numbers(restored) == [1]
    harness.fleet.drop_snapshot("before")
    harness.fleet.drop_snapshot("before")
    with pytest.raises(FleetError) as missing:
        harness.fleet.restore_snapshot(harness.spec("four"), "before")
    assert missing.value.code == "InvalidDBSnapshotState"
    told = [(event.source_type, event.event_id[-4:]) for event in harness.events if event.source_identifier == "before"]
    assert told == [("db-snapshot", number) for number in ("0040", "0042", "0041")]
    assert [e.message for e in harness.events if e.event_id == "RDS-EVENT-0043"] == [
        "Restored from snapshot before."
    ] * 2


def test_a_snapshot_of_a_read_replica_becomes_a_primary(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one"))
    harness.fleet.create_replica(harness.spec("two"), "one")
    with harness.connect("one") as connection, harness.connect("two") as reader:
        insert(connection, 1)
        eventually(lambda: bool(reader.execute("SELECT FROM pg_class WHERE relname = 'citizens'").fetchall()))
    harness.fleet.take_snapshot("two", "before")
    harness.fleet.restore_snapshot(harness.spec("three"), "before")
    with harness.connect("three") as restored:
        insert(restored, 2)
        assert numbers(restored) == [1, 2]


@given(
    ages=st.lists(st.integers(0, 500), min_size=1, max_size=8, unique=True),
    horizon=st.integers(0, 500),
    moment=st.integers(0, 500),
)
def test_every_moment_within_the_retention_stays_restorable(ages: list[int], horizon: int, moment: int) -> None:
    bases = [BaseBackup(Path(str(age)), "", A_TIME + timedelta(hours=age)) for age in sorted(ages)]
    kept = needed(bases, A_TIME + timedelta(hours=horizon))
    asked = A_TIME + timedelta(hours=max(moment, horizon))
    assert [base for base in bases if base.at <= asked][-1:] == [base for base in kept if base.at <= asked][-1:]
    assert len([base for base in kept if base.at <= A_TIME + timedelta(hours=horizon)]) <= 1


def test_a_restored_instance_is_restored_from_in_turn(harness: Harness) -> None:
    harness.fleet.delays = EAGER
    backed_up(harness)
    with harness.connect("one") as connection:
        insert(connection, 1)
        restorable_until(harness, "one", datetime.now(UTC))
    restore(harness, "two", None, backup_retention_days=1)
    kept = backup_of(harness, "two").resource_id
    harness.fleet.delete("two", keep_backups=True)
    harness.fleet.restore(harness.spec("two"), kept, None)
    with harness.connect("two") as restored:
        assert numbers(restored) == [1]
    harness.fleet.drop_backup(kept)
