import contextlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import psycopg
import pytest

from local_cloud.certificates import CertificateAuthority
from local_cloud.fleet import Delays, Fleet, FleetError, InstanceView
from local_cloud.postgres_host import HostError

from .conftest import PASSWORD, SWIFT, Guard, Harness, eventually


def kill_process(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def insert(connection: "psycopg.Connection[tuple[object, ...]]", *numbers: int) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS citizens (number int PRIMARY KEY)")
    for number in numbers:
        connection.execute("INSERT INTO citizens VALUES (%s)", [number])


def numbers(connection: "psycopg.Connection[tuple[object, ...]]") -> list[object]:
    return [number for (number,) in connection.execute("SELECT number FROM citizens ORDER BY 1").fetchall()]


def statuses_until(harness: Harness, identifier: str, end: str) -> list[str]:
    """The statuses an instance walks through until event `end`."""
    seen: list[str] = []
    deadline = time.monotonic() + 15
    while True:
        done = end in harness.events_of(identifier)
        status = harness.fleet.describe(identifier).status
        if not seen or seen[-1] != status:
            seen.append(status)
        if done and status == "available":
            return seen
        assert time.monotonic() < deadline, seen
        time.sleep(0.002)


def test_a_new_instance_is_described_as_rds_does(harness: Harness) -> None:
    view = harness.fleet.create(harness.spec("one", multi_az=True))
    assert view == harness.fleet.describe("one")
    assert view.status == "available"
    assert (view.availability_zone, view.secondary_availability_zone) == ("eu-central-2a", "eu-central-2c")
    assert view.source_identifier is None
    assert view.replica_identifiers == ()
    assert view.resource_id.startswith("db-")
    assert len(view.resource_id) == 29
    assert view.resource_id[3:].isalnum()
    assert view.resource_id[3:].isupper()
    assert len(view.processes) == len(view.directories) == 2
    assert view.latest_restorable_time is None
    assert harness.fleet.identifiers() == ("one",)
    assert [(event.event_id, event.categories) for event in harness.events] == [("RDS-EVENT-0005", ("creation",))]


def test_an_identifier_exists_once_and_what_does_not_exist_is_not_found(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one"))
    with pytest.raises(FleetError) as exists:
        harness.fleet.create(harness.spec("one"))
    assert exists.value.code == "DBInstanceAlreadyExists"
    for request in (harness.fleet.describe, harness.fleet.promote, harness.fleet.delete, harness.fleet.lose):
        with pytest.raises(FleetError) as missing:
            request("two")
        assert missing.value.code == "DBInstanceNotFound"


def test_creation_takes_its_time_and_ends_with_a_backup(harness: Harness) -> None:
    harness.fleet.delays = Delays(creation_seconds=0.5, backing_up_seconds=0.4)
    with ThreadPoolExecutor(1) as pool:
        creation = pool.submit(harness.fleet.create, harness.spec("one"))
        eventually(lambda: "one" in harness.fleet.identifiers())
        assert harness.fleet.describe("one").status == "creating"
        assert harness.fleet.describe("one").latest_restorable_time is None
        harness.becomes("one", lambda view: view.status == "backing-up")
        assert creation.result().status == "available"
    assert harness.events_of("one") == ["0005", "0001", "0002"]


def test_a_creation_that_fails_leaves_nothing(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(FleetError, match="work_mem") as failure:
        harness.fleet.create(harness.spec("one", parameters={"work_mem": "plenty"}))
    assert failure.value.code == "InternalFailure"
    assert harness.fleet.identifiers() == ()
    assert not [path for path in (harness.state / "postgresql").iterdir() if path.name.startswith("one")]


def test_an_instance_can_be_deleted_while_it_is_created(harness: Harness) -> None:
    harness.fleet.delays = Delays(creation_seconds=30)
    with ThreadPoolExecutor(1) as pool:
        creation = pool.submit(harness.fleet.create, harness.spec("one"))
        eventually(lambda: bool(harness.fleet.identifiers()) and bool(harness.fleet.describe("one").processes))
        harness.fleet.delete("one")
        with pytest.raises(FleetError):
            creation.result(10)
    assert harness.fleet.identifiers() == ()


def test_the_address_is_kept_by_an_instance_that_is_created_again(harness: Harness) -> None:
    first = harness.fleet.create(harness.spec("one"))
    harness.fleet.delete("one")
    second = harness.fleet.create(harness.spec("one"))
    assert (first.endpoint_address, first.endpoint_port) == (second.endpoint_address, second.endpoint_port)
    assert first.resource_id != second.resource_id
    assert harness.events_of("one") == ["0005", "0003", "0005"]


def test_what_is_written_on_the_source_is_read_on_the_replica(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one"))
    replica = harness.fleet.create_replica(harness.spec("two", master_username="", master_password=""), "one")
    assert replica.source_identifier == "one"
    assert replica.master_username == "citizens_admin"
    assert replica.latest_restorable_time is None
    assert harness.fleet.describe("one").replica_identifiers == ("two",)
    with harness.connect("one", "two", target_session_attrs="read-write") as writer:
        insert(writer, 1)
    with harness.connect("one", "two", target_session_attrs="prefer-standby") as reader:
        assert reader.info.host == replica.endpoint_address
        eventually(lambda: bool(reader.execute("SELECT FROM pg_class WHERE relname = 'citizens'").fetchall()))
        eventually(lambda: numbers(reader) == [1])
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            insert(reader, 2)


def test_a_replica_needs_a_source_that_is_available(harness: Harness) -> None:
    with pytest.raises(FleetError) as missing:
        harness.fleet.create_replica(harness.spec("two"), "one")
    assert missing.value.code == "DBInstanceNotFound"
    harness.fleet.create(harness.spec("one"))
    harness.fleet.stop("one")
    harness.becomes("one", lambda view: view.status == "stopped")
    with pytest.raises(FleetError) as stopped:
        harness.fleet.create_replica(harness.spec("two"), "one")
    assert stopped.value.code == "InvalidDBInstanceState"


def test_a_promotion_walks_the_statuses_of_rds(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one"))
    harness.fleet.create_replica(harness.spec("two", multi_az=True), "one")
    with harness.connect("one") as connection:
        insert(connection, 1, 2)
    harness.fleet.delays = replace(SWIFT, promotion_seconds=0.6)
    with pytest.raises(FleetError, match="not a read replica"):
        harness.fleet.promote("one")
    harness.fleet.promote("two")
    assert harness.fleet.describe("two").status == "available"
    with pytest.raises(FleetError, match="promoted already"):
        harness.fleet.promote("two")
    sources: list[tuple[str, str | None]] = []

    def promoted() -> bool:
        view = harness.fleet.describe("two")
        if (view.status, view.source_identifier) not in sources:
            sources.append((view.status, view.source_identifier))
        return view.source_identifier is None and view.status == "available"

    eventually(promoted)
    walk = [entry for entry in sources if entry[1] is not None]
    assert walk == [("available", "one"), ("modifying", "one"), ("rebooting", "one")]
    assert harness.events_of("two") == ["0005", "0004", "0006"]
    # The copy that cascaded from the replica is synchronous now.
    assert harness.has_copy("two")
    with harness.connect("two") as connection:
        insert(connection, 3)
        assert numbers(connection) == [1, 2, 3]
        state = connection.execute("SELECT sync_state FROM pg_stat_replication").fetchall()
        assert state == [("sync",)]
    with harness.connect("one") as connection:
        assert connection.execute("SELECT slot_name FROM pg_replication_slots").fetchall() == []


def test_a_replica_that_is_backing_up_is_not_promoted(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one"))
    harness.fleet.create_replica(harness.spec("two"), "one")
    harness.fleet.delays = replace(SWIFT, backing_up_seconds=0.4)
    harness.fleet.back_up("two")
    with pytest.raises(FleetError, match="backing-up") as refusal:
        harness.fleet.promote("two")
    assert refusal.value.code == "InvalidDBInstanceState"
    harness.becomes("two", lambda view: view.status == "available")
    harness.fleet.promote("two")


def test_a_promotion_survives_the_death_of_the_server(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one"))
    harness.fleet.create_replica(harness.spec("two"), "one")
    harness.fleet.delays = replace(SWIFT, promotion_seconds=1.0)
    harness.fleet.promote("two")
    harness.becomes("two", lambda view: view.status == "modifying")
    harness.fleet.kill("two")
    harness.becomes("two", lambda view: view.source_identifier is None and view.status == "available")
    with harness.connect_when_possible("two") as connection:
        insert(connection, 1)


def test_the_loss_of_a_primary_is_final_and_its_replica_takes_over(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one", multi_az=True))
    harness.fleet.create_replica(harness.spec("two"), "one")
    with harness.connect("one") as connection:
        insert(connection, 1)
        lost = harness.fleet.describe("one")
        harness.fleet.lose("one")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert not any(psutil.pid_exists(pid) for pid in lost.processes)
    assert not any(directory.exists() for directory in lost.directories)
    harness.fleet.lose("one")
    with pytest.raises(FleetError, match="not running"):
        harness.fleet.kill("one")
    failed = harness.becomes("one", lambda view: view.status == "failed")
    assert failed.processes == ()
    assert failed.directories == ()
    eventually(lambda: harness.events_of("one") == ["0005", "0031"])
    eventually(lambda: "0045" in harness.events_of("two"))
    with pytest.raises(FleetError, match="failed"):
        harness.fleet.reboot("one")
    harness.fleet.promote("two")
    harness.becomes("two", lambda view: view.source_identifier is None)
    with harness.connect("one", "two", target_session_attrs="read-write") as connection:
        assert numbers(connection) == [1]
    harness.fleet.delete("one")
    assert harness.fleet.identifiers() == ("two",)


def test_what_is_asked_of_a_lost_instance_is_not_done(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one"))
    harness.fleet.delays = replace(SWIFT, failed_after_seconds=0.5)
    harness.fleet.lose("one")
    # RDS has not noticed yet and takes the request.
    assert harness.fleet.describe("one").status == "available"
    harness.fleet.reboot("one")
    harness.becomes("one", lambda view: view.status == "failed")
    assert harness.events_of("one") == ["0005", "0031"]


def test_a_lost_instance_can_be_deleted_before_it_is_reported(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one"))
    harness.fleet.delays = replace(SWIFT, failed_after_seconds=30)
    harness.fleet.lose("one")
    started = time.monotonic()
    harness.fleet.delete("one")
    assert time.monotonic() - started < 5
    assert harness.events_of("one") == ["0005", "0003"]


def test_the_death_of_a_multi_az_primary_is_a_failover_that_loses_nothing(harness: Harness) -> None:
    before = harness.fleet.create(harness.spec("one", multi_az=True))
    harness.fleet.create_replica(harness.spec("two", multi_az=True), "one")
    acknowledged: list[int] = []
    with harness.connect("one") as connection:
        connection.execute("CREATE TABLE citizens (number int PRIMARY KEY)")
        killer = threading.Timer(0.2, harness.fleet.kill, ["one"])
        killer.start()
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                connection.execute("INSERT INTO citizens VALUES (%s)", [len(acknowledged)])
                acknowledged.append(len(acknowledged))
    eventually(lambda: "0049" in harness.events_of("one"))
    assert harness.events_of("one") == ["0005", "0013", "0049"]
    after = harness.fleet.describe("one")
    assert (after.availability_zone, after.secondary_availability_zone) == ("eu-central-2c", "eu-central-2a")
    assert after.endpoint_address == before.endpoint_address
    with harness.connect_when_possible("one") as connection:
        found = numbers(connection)
        assert found[: len(acknowledged)] == acknowledged
        assert len(found) <= len(acknowledged) + 1
        # The replica follows the new cluster, or is rebuilt from it.
        connection.execute("INSERT INTO citizens VALUES (-1)")
    with harness.connect_when_possible("two") as reader:
        eventually(lambda: numbers(reader)[0] == -1)
    eventually(lambda: harness.has_copy("one"))
    eventually(lambda: len(harness.fleet.describe("two").processes) == 2)
    harness.fleet.kill("one")
    eventually(lambda: harness.events_of("one").count("0049") == 2)
    with harness.connect_when_possible("one") as connection:
        assert numbers(connection)[0] == -1


def test_a_forced_failover_swaps_the_zones(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one", multi_az=True))
    harness.fleet.reboot("one", force_failover=True)
    with pytest.raises(FleetError, match="rebooting"):
        harness.fleet.reboot("one")
    assert statuses_until(harness, "one", "0049") == ["rebooting", "available"]
    assert harness.fleet.describe("one").availability_zone == "eu-central-2c"


def test_a_replica_is_put_beside_its_source_unless_the_zone_there_is_lost(harness: Harness) -> None:
    zones = ("eu-central-2a", "eu-central-2c")
    harness.fleet.create(harness.spec("one", multi_az=True))
    assert harness.fleet.zones_beside("one", zones) == zones[::-1]
    harness.fleet.lose_zone("eu-central-2c")
    assert harness.fleet.zones_beside("one", zones) == zones
    harness.fleet.restore_zone("eu-central-2c")
    eventually(lambda: harness.has_copy("one"))
    harness.fleet.reboot("one", force_failover=True)
    eventually(lambda: harness.fleet.describe("one").availability_zone == "eu-central-2c")
    assert harness.fleet.zones_beside("one", zones) == zones


def test_a_failover_asked_for_without_a_copy_is_abandoned(harness: Harness) -> None:
    view = harness.fleet.create(harness.spec("one", multi_az=True))
    for pid in view.processes:
        kill_process(pid)
    eventually(lambda: "0006" in harness.events_of("one") or "0049" in harness.events_of("one"))
    harness.becomes("one", lambda view: len(view.processes) == 2)
    eventually(lambda: harness.has_copy("one"))
    single = harness.fleet.create(harness.spec("two"))
    assert single.secondary_availability_zone is None
    with pytest.raises(FleetError) as refusal:
        harness.fleet.reboot("two", force_failover=True)
    assert refusal.value.code == "InvalidParameterCombination"


def test_a_failover_asked_for_too_soon_is_abandoned(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one", multi_az=True))
    harness.fleet.reboot("one", force_failover=True)
    abandoned = False
    deadline = time.monotonic() + 15
    while not abandoned:
        assert time.monotonic() < deadline
        try:
            harness.fleet.reboot("one", force_failover=True)
        except FleetError:
            time.sleep(0.001)
            continue
        harness.becomes("one", lambda view: view.status == "available")
        abandoned = "0034" in harness.events_of("one")
    harness.connect_when_possible("one").close()


def test_commits_go_on_when_the_copy_dies_and_it_is_built_again(harness: Harness) -> None:
    view = harness.fleet.create(harness.spec("one", multi_az=True))
    with harness.connect("one") as connection:
        insert(connection, 1)
        kill_process(view.processes[1])
        insert(connection, 2)
        eventually(lambda: harness.has_copy("one"))
        assert harness.fleet.describe("one").processes[1] != view.processes[1]
        insert(connection, 3)
    assert harness.events_of("one") == ["0005"]


def test_a_single_az_instance_that_dies_is_restarted(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one"))
    with harness.connect("one") as connection:
        insert(connection, 1)
    harness.fleet.kill("one")
    eventually(lambda: harness.events_of("one") == ["0005", "0006"])
    with harness.connect_when_possible("one") as connection:
        assert numbers(connection) == [1]


def test_the_death_of_a_backend_is_survived(harness: Harness) -> None:
    view = harness.fleet.create(harness.spec("one"))
    with harness.connect("one") as connection:
        insert(connection, 1)
        kill_process(connection.info.backend_pid)
    with harness.connect_when_possible("one") as connection:
        eventually(lambda: numbers(connection) == [1])
    assert harness.fleet.describe("one").processes == view.processes


def test_a_multi_az_replica_that_dies_is_replaced_by_its_copy_and_stays_a_replica(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one"))
    harness.fleet.create_replica(harness.spec("two", multi_az=True), "one")
    harness.fleet.kill("two")
    eventually(lambda: "0049" in harness.events_of("two"))
    assert harness.fleet.describe("two").source_identifier == "one"
    with harness.connect("one") as connection:
        insert(connection, 1)
    with harness.connect_when_possible("two") as reader:
        eventually(lambda: bool(reader.execute("SELECT FROM pg_class WHERE relname = 'citizens'").fetchall()))
        eventually(lambda: numbers(reader) == [1])
        assert reader.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
    harness.becomes("two", lambda view: len(view.processes) == 2)


def test_a_replica_that_cannot_follow_is_rebuilt(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local_cloud.multi_az.FOLLOW_SECONDS", 1.0)
    harness.fleet.create(harness.spec("one", multi_az=True))
    replica = harness.fleet.create_replica(harness.spec("two"), "one")
    with harness.connect("one") as connection:
        insert(connection, 1)
    # The replica gets ahead of the copy: what it has more has no place in the history after the failover.
    copy = harness.fleet.describe("one").processes[1]
    for process in (psutil.Process(copy), *psutil.Process(copy).children()):
        process.suspend()
    with harness.connect("one") as connection:
        connection.execute("SET synchronous_commit = local")
        # More than the kernel keeps on the way to the copy.
        connection.execute("INSERT INTO citizens SELECT generate_series(2, 100000)")
    with harness.connect("two") as reader:
        eventually(lambda: len(numbers(reader)) == 100_000)
    harness.fleet.kill("one")
    eventually(lambda: "0013" in harness.events_of("one"))
    for process in (psutil.Process(copy), *psutil.Process(copy).children()):
        process.resume()
    eventually(lambda: "0046" in harness.events_of("two"))
    assert harness.events_of("two") == ["0005", "0045", "0046"]
    assert harness.fleet.describe("two").directories != replica.directories
    with harness.connect_when_possible("one") as connection:
        insert(connection, 3)
        expected = numbers(connection)
    with harness.connect_when_possible("two") as reader:
        eventually(lambda: numbers(reader) == expected)


def test_a_logical_slot_survives_a_failover(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one", multi_az=True))
    with harness.connect("one") as connection:
        insert(connection, 1)
        connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        connection.execute("SELECT pg_create_logical_replication_slot('log', 'pgoutput', false, false, true)")
        insert(connection, 2)
    harness.fleet.reboot("one", force_failover=True)
    eventually(lambda: "0049" in harness.events_of("one"))
    with harness.connect_when_possible("one") as connection:
        insert(connection, 3)
        changes = connection.execute(
            "SELECT data FROM pg_logical_slot_get_binary_changes('log', NULL, NULL, 'proto_version', '4',"
            " 'publication_names', 'everything')"
        ).fetchall()
    inserted = [bytes(data)[-1:] for (data,) in changes if bytes(data)[:1] == b"I"]
    assert inserted == [b"2", b"3"]


def test_a_logical_slot_survives_the_death_of_its_server_with_the_wal_it_needs(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one", multi_az=True))
    with harness.connect("one") as connection:
        connection.execute("SELECT pg_create_logical_replication_slot('log', 'test_decoding')")
        insert(connection, 1)
        for _ in range(3):
            connection.execute("SELECT pg_switch_wal()")
            connection.execute("CHECKPOINT")
    harness.fleet.kill("one")
    eventually(lambda: "0049" in harness.events_of("one"))
    with harness.connect_when_possible("one") as connection:
        insert(connection, 2)
        changes = connection.execute("SELECT data FROM pg_logical_slot_get_changes('log', NULL, NULL)").fetchall()
    assert [data.split(":")[-1] for (data,) in changes if "INSERT" in data] == ["1", "2"]


def test_a_reboot_restarts_the_same_cluster(harness: Harness) -> None:
    before = harness.fleet.create(harness.spec("one", multi_az=True))
    harness.fleet.reboot("one")
    assert statuses_until(harness, "one", "0006") == ["rebooting", "available"]
    after = harness.fleet.describe("one")
    assert after.directories == before.directories
    assert not set(after.processes) & set(before.processes)
    assert harness.events_of("one") == ["0005", "0004", "0006"]


def test_an_instance_stops_and_starts(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one", multi_az=True))
    with pytest.raises(FleetError, match="stopped"):
        harness.fleet.start("one")
    harness.fleet.stop("one")
    assert harness.becomes("one", lambda view: view.status == "stopped").processes == ()
    with pytest.raises(psycopg.OperationalError):
        harness.connect("one")
    harness.fleet.start("one")
    harness.becomes("one", lambda view: view.status == "available")
    with harness.connect("one") as connection:
        insert(connection, 1)
    assert harness.events_of("one") == ["0005", "0087", "0088"]


def test_replicas_and_their_sources_are_not_stopped(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one"))
    harness.fleet.create_replica(harness.spec("two"), "one")
    for identifier in ("one", "two"):
        with pytest.raises(FleetError) as refusal:
            harness.fleet.stop(identifier)
        assert refusal.value.code == "InvalidDBInstanceState"


def test_a_new_master_password_counts_at_once(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one", multi_az=True))
    harness.fleet.create_replica(harness.spec("two"), "one")
    harness.fleet.modify("one", master_password="another-Password")
    harness.connect("one", password="another-Password").close()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        harness.connect("one", password=PASSWORD)
    eventually(lambda: harness.connect("two", password="another-Password").info.dbname == "citizens")
    assert harness.events_of("one") == ["0005", "0016"]
    with pytest.raises(FleetError, match="its source's"):
        harness.fleet.modify("two", master_password="x")


def test_dynamic_parameters_count_at_once_and_static_ones_after_a_reboot(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one", parameters={}))
    harness.fleet.modify("one", parameters={"work_mem": "5000", "rds.logical_replication": "1"})

    def setting(name: str) -> object:
        with harness.connect_when_possible("one") as connection:
            row = connection.execute("SELECT setting FROM pg_settings WHERE name = %s", [name]).fetchone()
            return row and row[0]

    eventually(lambda: setting("work_mem") == "5000")
    assert setting("wal_level") == "replica"
    harness.fleet.reboot("one")
    harness.becomes("one", lambda view: view.status == "available")
    assert setting("wal_level") == "logical"


def test_an_instance_becomes_multi_az_and_single_az(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one"))
    harness.fleet.modify("one", multi_az=True)
    assert harness.has_copy("one")
    assert harness.fleet.describe("one").secondary_availability_zone == "eu-central-2c"
    harness.fleet.modify("one", multi_az=False)
    assert len(harness.fleet.describe("one").directories) == 1
    with harness.connect("one") as connection:
        insert(connection, 1)
        assert connection.execute("SELECT count(*) FROM pg_replication_slots").fetchone() == (0,)
    assert harness.events_of("one") == ["0005", "0024", "0025", "0030"]


def test_a_protected_instance_is_not_deleted(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one", deletion_protection=True))
    with pytest.raises(FleetError, match="protected") as refusal:
        harness.fleet.delete("one")
    assert refusal.value.code == "InvalidParameterCombination"
    harness.fleet.modify("one", deletion_protection=False)
    harness.fleet.delete("one")


def test_the_replicas_of_a_deleted_source_are_promoted(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one"))
    harness.fleet.create_replica(harness.spec("two"), "one")
    harness.fleet.delete("one")
    harness.becomes("two", lambda view: view.source_identifier is None and view.status == "available")
    with harness.connect("two") as connection:
        insert(connection, 1)


def test_a_deleted_replica_leaves_no_slot_behind(harness: Harness) -> None:
    harness.fleet.create(harness.spec("one"))
    view: InstanceView = harness.fleet.create_replica(harness.spec("two", multi_az=True), "one")
    harness.fleet.delete("two")
    assert not any(directory.exists() for directory in view.directories)
    with harness.connect("one") as connection:
        assert connection.execute("SELECT count(*) FROM pg_replication_slots").fetchone() == (0,)


def test_an_instance_that_cannot_come_back_is_failed(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    view = harness.fleet.create(harness.spec("one"))
    (view.directories[0] / "data" / "global" / "pg_control").unlink()
    harness.fleet.kill("one")
    harness.becomes("one", lambda view: view.status == "failed")
    eventually(lambda: harness.events_of("one") == ["0005", "0031"])


def test_a_listener_that_fails_stops_nothing(open_folder: Path, authority: CertificateAuthority) -> None:
    def listener(_: object) -> None:
        raise RuntimeError("not listening")

    fleet = Fleet(open_folder / "deaf", authority, on_event=listener, admission=Guard(), delays=SWIFT)
    harness = Harness(fleet, authority, open_folder / "deaf", Guard(), [])
    assert fleet.create(harness.spec("one")).status == "available"
    fleet.close()


def test_closing_leaves_no_process_and_no_file(open_folder: Path, authority: CertificateAuthority) -> None:
    state = open_folder / "closed"
    fleet = Fleet(state, authority, on_event=lambda _: None, admission=Guard(), delays=SWIFT)
    harness = Harness(fleet, authority, state, Guard(), [])
    view = fleet.create(harness.spec("one", multi_az=True))
    children = [child for pid in view.processes for child in (psutil.Process(pid), *psutil.Process(pid).children())]
    fleet.reboot("one", force_failover=True)
    fleet.close()
    fleet.close()
    eventually(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))
    assert list(state.iterdir()) == []
    with pytest.raises(FleetError, match="closed"):
        fleet.create(harness.spec("two"))


def test_a_machine_without_postgresql_is_a_clear_error(
    open_folder: Path, authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("local_cloud.fleet.make_template", _fail)
    with pytest.raises(HostError, match="no space"):
        Fleet(open_folder / "full", authority, on_event=lambda _: None, admission=Guard())
    assert list((open_folder / "full").iterdir()) == []


def _fail(_: object) -> Path:
    raise HostError("no space left")
