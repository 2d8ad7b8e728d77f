"""Backups and restores as a client of RDS's API sees them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.unit.local_cloud.running_cloud import RunningCloud, database, eventually, replica

from .test_rds_api import GROUP, OPEN, connect, refusal

ASKED_BY_STACK = {"BackupRetentionPeriod": 7, "DBParameterGroupName": {"Ref": "Group"}}


@pytest.fixture(autouse=True, scope="module")
def eager(cloud: RunningCloud) -> Iterator[None]:
    _, before = cloud.control("GET", "/delays")
    cloud.control("PUT", "/delays", {"promotion_seconds": 0.2, "log_upload_seconds": 0.3})
    yield
    cloud.control("PUT", "/delays", before)


@pytest.fixture(scope="module")
def ledger(cloud: RunningCloud) -> Iterator[RunningCloud]:
    """An instance with backups, and what a restored one needs to be reached."""
    resources = {"Open": OPEN, "Group": GROUP}
    resources["One"] = database("ledger", VPCSecurityGroups=[{"Ref": "Open"}], **ASKED_BY_STACK)
    resources["Two"] = replica("ledger-2", {"Ref": "One"}, BackupRetentionPeriod=7)
    assert cloud.deploy("ledger", resources) == "CREATE_COMPLETE"
    with connect(cloud, cloud.instance("ledger")) as connection:
        connection.execute("CREATE TABLE rows (number int)")
    yield cloud
    assert cloud.destroy("ledger") == "DELETE_COMPLETE"
    assert cloud.client("rds").describe_db_instance_automated_backups()["DBInstanceAutomatedBackups"] == []


def insert(cloud: RunningCloud, number: int) -> datetime:
    """Commit a row; returns a moment after it, to which a restore can already go."""
    with connect(cloud, cloud.instance("ledger")) as connection:
        connection.execute("INSERT INTO rows VALUES (%s)", [number])
    moment = datetime.now(UTC) + timedelta(milliseconds=5)
    # The archiver of a busy machine may wake late
    eventually(lambda: cloud.instance("ledger")["LatestRestorableTime"] > moment, 60)
    return moment


def rows(cloud: RunningCloud, identifier: str) -> list[Any]:
    with connect(cloud, cloud.instance(identifier)) as connection:
        return [number for (number,) in connection.execute("SELECT number FROM rows ORDER BY 1")]


def available(cloud: RunningCloud, identifier: str) -> dict[str, Any]:
    eventually(lambda: cloud.instance(identifier)["DBInstanceStatus"] == "available", 60)
    return cloud.instance(identifier)


def delete(cloud: RunningCloud, *identifiers: str) -> None:
    for identifier in identifiers:
        cloud.client("rds").delete_db_instance(DBInstanceIdentifier=identifier, SkipFinalSnapshot=True)


def test_a_restore_to_a_point_in_time_is_a_new_instance_with_the_settings_asked_for(ledger: RunningCloud) -> None:
    rds, one = ledger.client("rds"), ledger.instance("ledger")
    moment = insert(ledger, 1)
    insert(ledger, 2)
    groups = [group["VpcSecurityGroupId"] for group in one["VpcSecurityGroups"]]
    restored = rds.restore_db_instance_to_point_in_time(
        SourceDBInstanceIdentifier="ledger",
        TargetDBInstanceIdentifier="rewound",
        RestoreTime=moment,
        DBInstanceClass="db.t4g.large",
        VpcSecurityGroupIds=groups,
        DBParameterGroupName=one["DBParameterGroups"][0]["DBParameterGroupName"],
        MultiAZ=True,
        EnableIAMDatabaseAuthentication=True,
        EnableCloudwatchLogsExports=["postgresql"],
        Tags=[{"Key": "purpose", "Value": "test"}],
    )["DBInstance"]
    assert (restored["DBInstanceStatus"], restored["DBInstanceClass"]) == ("creating", "db.t4g.large")
    assert "LatestRestorableTime" not in restored
    twice = {"SourceDBInstanceIdentifier": "ledger", "TargetDBInstanceIdentifier": "rewound"}
    assert refusal(rds.restore_db_instance_to_point_in_time, **twice, UseLatestRestorableTime=True) == (
        "DBInstanceAlreadyExists",
        400,
    )
    rewound = available(ledger, "rewound")
    assert rows(ledger, "rewound")[-1] == 1
    assert rewound["Endpoint"]["Address"] != one["Endpoint"]["Address"]
    assert rewound["DbiResourceId"] != one["DbiResourceId"]
    assert (rewound["MultiAZ"], rewound["IAMDatabaseAuthenticationEnabled"]) == (True, True)
    assert rewound["EnabledCloudwatchLogsExports"] == ["postgresql"]
    assert rewound["TagList"] == [{"Key": "purpose", "Value": "test"}]
    assert rewound["BackupRetentionPeriod"] == 7
    assert rewound["DBParameterGroups"] == one["DBParameterGroups"]
    with connect(ledger, rewound) as connection:
        assert connection.execute("SHOW work_mem").fetchone() == ("8MB",)
    delete(ledger, "rewound")


def test_a_restore_takes_the_defaults_of_rds_for_what_is_not_asked_for(ledger: RunningCloud) -> None:
    rds = ledger.client("rds")
    rds.restore_db_instance_to_point_in_time(
        SourceDbiResourceId=ledger.instance("ledger")["DbiResourceId"],
        TargetDBInstanceIdentifier="plain",
        UseLatestRestorableTime=True,
        BackupRetentionPeriod=0,
    )
    plain = available(ledger, "plain")
    assert plain["DBParameterGroups"][0]["DBParameterGroupName"] == "default.postgres18"
    assert plain["DBSubnetGroup"]["DBSubnetGroupName"] == "default"
    assert (plain["VpcSecurityGroups"], plain["MultiAZ"]) == ([], False)
    assert (plain["DeletionProtection"], plain["IAMDatabaseAuthenticationEnabled"]) == (False, False)
    assert "LatestRestorableTime" not in plain
    again = {"SourceDBInstanceIdentifier": "plain", "TargetDBInstanceIdentifier": "again"}
    assert refusal(rds.restore_db_instance_to_point_in_time, **again, UseLatestRestorableTime=True) == (
        "PointInTimeRestoreNotEnabled",
        400,
    )
    delete(ledger, "plain")


def test_a_restore_that_cannot_be_is_refused_with_the_codes_of_rds(ledger: RunningCloud) -> None:
    rds, moment = ledger.client("rds"), insert(ledger, 3)

    def refused(**changes: Any) -> tuple[str, int]:
        asked = {"SourceDBInstanceIdentifier": "ledger", "TargetDBInstanceIdentifier": "never", "RestoreTime": moment}
        arguments = {name: value for name, value in (asked | changes).items() if value is not None}
        return refusal(rds.restore_db_instance_to_point_in_time, **arguments)

    assert refused(SourceDBInstanceIdentifier="nobody") == ("DBInstanceNotFound", 404)
    assert refused(SourceDBInstanceIdentifier=None, SourceDbiResourceId="db-NOBODY") == (
        "DBInstanceAutomatedBackupNotFound",
        404,
    )
    assert refused(RestoreTime=datetime.now(UTC) + timedelta(minutes=5)) == ("InvalidParameterValue", 400)
    assert refused(RestoreTime=moment - timedelta(days=1)) == ("InvalidParameterValue", 400)
    assert refused(UseLatestRestorableTime=True) == ("InvalidParameterCombination", 400)
    assert refused(RestoreTime=None) == ("InvalidParameterCombination", 400)
    assert refused(DBParameterGroupName="nobodys") == ("DBParameterGroupNotFound", 404)
    assert refused(DBSubnetGroupName="nobodys") == ("DBSubnetGroupNotFoundFault", 404)
    # A read replica has backups of its own only once it is promoted.
    assert refused(SourceDBInstanceIdentifier="ledger-2") == ("InvalidParameterValue", 400)
    assert refusal(rds.describe_db_instances, DBInstanceIdentifier="never") == ("DBInstanceNotFound", 404)


def test_automated_backups_are_described_kept_on_request_and_restored_from(ledger: RunningCloud) -> None:
    rds = ledger.client("rds")
    insert(ledger, 4)
    target = {"TargetDBInstanceIdentifier": "shortlived", "UseLatestRestorableTime": True}
    groups = [group["VpcSecurityGroupId"] for group in ledger.instance("ledger")["VpcSecurityGroups"]]
    rds.restore_db_instance_to_point_in_time(
        SourceDBInstanceIdentifier="ledger", VpcSecurityGroupIds=groups, MultiAZ=False, **target
    )
    resource = available(ledger, "shortlived")["DbiResourceId"]
    (active,) = rds.describe_db_instance_automated_backups(DBInstanceIdentifier="shortlived")[
        "DBInstanceAutomatedBackups"
    ]
    assert (active["Status"], active["DbiResourceId"], active["Engine"]) == ("active", resource, "postgres")
    assert active["RestoreWindow"]["EarliestTime"] <= active["RestoreWindow"]["LatestTime"]
    assert refusal(rds.delete_db_instance_automated_backup, DbiResourceId=resource) == (
        "InvalidDBInstanceAutomatedBackupState",
        400,
    )
    rds.delete_db_instance(DBInstanceIdentifier="shortlived", SkipFinalSnapshot=True, DeleteAutomatedBackups=False)
    (kept,) = rds.describe_db_instance_automated_backups(DbiResourceId=resource)["DBInstanceAutomatedBackups"]
    assert kept["Status"] == "retained"
    rds.restore_db_instance_to_point_in_time(
        SourceDBInstanceAutomatedBackupsArn=kept["DBInstanceAutomatedBackupsArn"],
        VpcSecurityGroupIds=groups,
        **target,
    )
    available(ledger, "shortlived")
    assert rows(ledger, "shortlived") == rows(ledger, "ledger")
    delete(ledger, "shortlived")
    rds.delete_db_instance_automated_backup(DbiResourceId=resource)
    assert refusal(rds.describe_db_instance_automated_backups, DbiResourceId=resource) == (
        "DBInstanceAutomatedBackupNotFound",
        404,
    )


def test_a_snapshot_and_a_final_snapshot_are_restored_from(ledger: RunningCloud) -> None:
    rds = ledger.client("rds")
    insert(ledger, 5)
    snapshot = rds.create_db_snapshot(DBInstanceIdentifier="ledger", DBSnapshotIdentifier="by-hand")["DBSnapshot"]
    assert snapshot["Status"] == "creating"

    def complete() -> bool:
        found = rds.describe_db_snapshots(DBSnapshotIdentifier="by-hand")["DBSnapshots"][0]
        return bool(found["Status"] == "available")

    eventually(complete)
    insert(ledger, 6)
    groups = [group["VpcSecurityGroupId"] for group in ledger.instance("ledger")["VpcSecurityGroups"]]
    arguments = {"DBInstanceIdentifier": "copy", "VpcSecurityGroupIds": groups}
    assert refusal(rds.restore_db_instance_from_db_snapshot, DBSnapshotIdentifier="none", **arguments) == (
        "DBSnapshotNotFound",
        404,
    )
    rds.restore_db_instance_from_db_snapshot(DBSnapshotIdentifier="by-hand", **arguments)
    available(ledger, "copy")
    assert rows(ledger, "copy")[-1] == 5
    with connect(ledger, ledger.instance("copy")) as connection:
        connection.execute("INSERT INTO rows VALUES (7)")
    rds.delete_db_instance(DBInstanceIdentifier="copy", FinalDBSnapshotIdentifier="copy-final")
    rds.restore_db_instance_from_db_snapshot(DBSnapshotIdentifier="copy-final", **arguments)
    available(ledger, "copy")
    assert rows(ledger, "copy")[-2:] == [5, 7]
    delete(ledger, "copy")
    for name in ("by-hand", "copy-final"):
        rds.delete_db_snapshot(DBSnapshotIdentifier=name)
    told = rds.describe_events(SourceIdentifier="by-hand", SourceType="db-snapshot", Duration=60)["Events"]
    assert [event["Message"] for event in told] == [
        "Creating manual snapshot.",
        "Manual snapshot created.",
        "Deleted user snapshot.",
    ]


def test_a_final_snapshot_is_refused_where_rds_cannot_take_one(ledger: RunningCloud) -> None:
    rds = ledger.client("rds")
    assert refusal(
        rds.delete_db_instance, DBInstanceIdentifier="ledger-2", FinalDBSnapshotIdentifier="of-a-replica"
    ) == ("InvalidParameterCombination", 400)
    rds.restore_db_instance_to_point_in_time(
        SourceDBInstanceIdentifier="ledger", TargetDBInstanceIdentifier="doomed", UseLatestRestorableTime=True
    )
    available(ledger, "doomed")
    ledger.control("POST", "/rds/doomed/lose")
    ledger.becomes("doomed", lambda instance: instance["DBInstanceStatus"] == "failed")
    assert refusal(rds.delete_db_instance, DBInstanceIdentifier="doomed", FinalDBSnapshotIdentifier="of-nothing") == (
        "InvalidDBInstanceState",
        400,
    )
    delete(ledger, "doomed")


def test_a_deletion_policy_of_snapshot_keeps_the_data(cloud: RunningCloud) -> None:
    guarded = database("kept-data", BackupRetentionPeriod=1, DeleteAutomatedBackups=False)
    assert cloud.deploy("kept-data", {"One": {**guarded, "DeletionPolicy": "Snapshot"}}) == "CREATE_COMPLETE"
    resource = cloud.instance("kept-data")["DbiResourceId"]
    assert cloud.destroy("kept-data") == "DELETE_COMPLETE"
    rds = cloud.client("rds")
    (snapshot,) = rds.describe_db_snapshots(DBInstanceIdentifier="kept-data")["DBSnapshots"]
    rds.restore_db_instance_from_db_snapshot(
        DBSnapshotIdentifier=snapshot["DBSnapshotIdentifier"], DBInstanceIdentifier="back"
    )
    available(cloud, "back")
    delete(cloud, "back")
    rds.delete_db_snapshot(DBSnapshotIdentifier=snapshot["DBSnapshotIdentifier"])
    (kept,) = rds.describe_db_instance_automated_backups(DbiResourceId=resource)["DBInstanceAutomatedBackups"]
    assert kept["Status"] == "retained"
    rds.delete_db_instance_automated_backup(DbiResourceId=resource)
