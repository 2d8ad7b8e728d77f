"""The metrics of RDS, SQS and AWS Backup are those of the real servers, queues and jobs behind them."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from tests.unit.local_cloud.running_cloud import ACCOUNT, RunningCloud, database, eventually, replica
from tests.unit.local_cloud.test_rds_api import OPEN, connect

GIB = 1024**3


@pytest.fixture(scope="module")
def instances(cloud: RunningCloud) -> Iterator[dict[str, Any]]:
    common = {"VPCSecurityGroups": [{"Ref": "Open"}]}
    resources = {
        "Open": OPEN,
        "One": database("measured", **common),
        "Two": replica("measured-replica", {"Ref": "One"}, **common),
    }
    assert cloud.deploy("measured", resources) == "CREATE_COMPLETE"
    described = cloud.client("rds").describe_db_instances()["DBInstances"]
    yield {each["DBInstanceIdentifier"]: each for each in described}
    assert cloud.destroy("measured") == "DELETE_COMPLETE"


def newest(cloud: RunningCloud, namespace: str, name: str, **dimensions: str) -> float | None:
    """The metric in the minute that has just begun on the cloud's clock."""
    _, clock = cloud.control("PUT", "/clock", {"advance_seconds": 60})
    now = datetime.fromtimestamp(clock["now"], UTC)
    found = cloud.client("cloudwatch").get_metric_statistics(
        Namespace=namespace,
        MetricName=name,
        Dimensions=[{"Name": key, "Value": value} for key, value in dimensions.items()],
        StartTime=now.replace(second=0, microsecond=0),
        EndTime=now + timedelta(seconds=60),
        Period=60,
        Statistics=["Maximum"],
    )["Datapoints"]
    return found[0]["Maximum"] if found else None


def of_instance(cloud: RunningCloud, name: str, identifier: str = "measured") -> float | None:
    return newest(cloud, "AWS/RDS", name, DBInstanceIdentifier=identifier)


def test_every_connection_of_a_client_is_counted_and_none_of_rds_itself(
    cloud: RunningCloud, instances: dict[str, Any]
) -> None:
    assert of_instance(cloud, "DatabaseConnections") == 0
    sessions = [connect(cloud, instances["measured"]) for _ in range(3)]
    assert of_instance(cloud, "DatabaseConnections") == 3
    for session in sessions:
        session.close()
    eventually(lambda: of_instance(cloud, "DatabaseConnections") == 0, 10)


def test_what_is_written_takes_storage_and_wal_away(cloud: RunningCloud, instances: dict[str, Any]) -> None:
    free, wal = of_instance(cloud, "FreeStorageSpace"), of_instance(cloud, "TransactionLogsDiskUsage")
    assert free is not None
    assert wal is not None
    assert 19 * GIB < free < 20 * GIB
    with connect(cloud, instances["measured"]) as session:
        session.execute("CREATE TABLE filler AS SELECT repeat(md5(n::text), 60) FROM generate_series(1, 15000) AS n")
    after = of_instance(cloud, "FreeStorageSpace")
    assert after is not None
    assert free - after > 25 * 1024**2
    assert (of_instance(cloud, "TransactionLogsDiskUsage") or 0) > wal


def test_a_slot_that_nobody_reads_falls_behind(cloud: RunningCloud, instances: dict[str, Any]) -> None:
    with connect(cloud, instances["measured"]) as session:
        session.execute("SELECT pg_create_physical_replication_slot('idle', true)")
        session.execute("CREATE TABLE more AS SELECT repeat('x', 2000) FROM generate_series(1, 1000)")
        behind = of_instance(cloud, "OldestReplicationSlotLag")
        session.execute("SELECT pg_drop_replication_slot('idle')")
    assert behind is not None
    assert behind > 1024**2
    eventually(lambda: (of_instance(cloud, "OldestReplicationSlotLag") or 0) < 1024**2, 10)


def test_only_a_replica_lags(cloud: RunningCloud, instances: dict[str, Any]) -> None:
    assert of_instance(cloud, "ReplicaLag") is None
    assert of_instance(cloud, "ReplicaLag", "measured-replica") is not None


def test_a_processor_that_works_is_busier_than_one_that_does_not(
    cloud: RunningCloud, instances: dict[str, Any]
) -> None:
    of_instance(cloud, "CPUUtilization")
    time.sleep(1)
    idle = of_instance(cloud, "CPUUtilization")
    with connect(cloud, instances["measured"]) as session:
        session.execute("SELECT count(*) FROM generate_series(1, 4000000)")
        busy = of_instance(cloud, "CPUUtilization")
    assert idle is not None
    assert busy is not None
    assert idle < busy <= 100


def test_a_host_shows_what_it_was_told_until_it_is_told_no_more(cloud: RunningCloud, instances: dict[str, Any]) -> None:
    assert of_instance(cloud, "CPUCreditBalance") is None
    told = {"CPUCreditBalance": 7, "FreeStorageSpace": GIB}
    assert cloud.control("PUT", "/rds/measured/host", told) == (200, told)
    assert of_instance(cloud, "CPUCreditBalance") == 7
    assert of_instance(cloud, "FreeStorageSpace") == GIB
    assert cloud.control("PUT", "/rds/measured/host", dict.fromkeys(told)) == (200, {})
    assert of_instance(cloud, "CPUCreditBalance") is None
    assert (of_instance(cloud, "FreeStorageSpace") or 0) > 19 * GIB


def test_a_frozen_server_sends_nothing_and_keeps_no_other_from_it(
    cloud: RunningCloud, instances: dict[str, Any]
) -> None:
    cloud.control("POST", "/rds/measured-replica/freeze")
    try:
        assert of_instance(cloud, "DatabaseConnections", "measured-replica") is None
        began = time.monotonic()
        assert of_instance(cloud, "DatabaseConnections") is not None
        assert time.monotonic() - began < 1.5, "it is waited for once"
    finally:
        cloud.control("POST", "/rds/measured-replica/thaw")
    eventually(lambda: of_instance(cloud, "DatabaseConnections", "measured-replica") is not None, 10)


def test_messages_in_a_queue_are_counted(cloud: RunningCloud) -> None:
    queues = cloud.client("sqs")
    url = queues.create_queue(QueueName="counted")["QueueUrl"]
    assert newest(cloud, "AWS/SQS", "ApproximateNumberOfMessagesVisible", QueueName="counted") == 0
    queues.send_message(QueueUrl=url, MessageBody="one")
    queues.send_message(QueueUrl=url, MessageBody="two")
    assert newest(cloud, "AWS/SQS", "ApproximateNumberOfMessagesVisible", QueueName="counted") == 2
    queues.purge_queue(QueueUrl=url)
    assert newest(cloud, "AWS/SQS", "ApproximateNumberOfMessagesVisible", QueueName="counted") == 0


def test_a_backup_job_of_an_instance_that_is_not_available_fails_and_is_counted(
    cloud: RunningCloud, instances: dict[str, Any]
) -> None:
    backup = cloud.client("backup")
    backup.create_backup_vault(BackupVaultName="counting")
    arn = instances["measured"]["DBInstanceArn"]
    given = {"BackupVaultName": "counting", "ResourceArn": arn, "IamRoleArn": f"arn:aws:iam::{ACCOUNT}:role/backup"}
    done = backup.start_backup_job(**given)
    assert backup.describe_backup_job(BackupJobId=done["BackupJobId"])["State"] == "COMPLETED"
    before = cloud.control("GET", "/delays")[1]
    cloud.control("PUT", "/delays", {"reboot_seconds": 2})
    cloud.client("rds").reboot_db_instance(DBInstanceIdentifier="measured")
    try:
        failed = backup.start_backup_job(**given)
    finally:
        cloud.control("PUT", "/delays", before)
    job = backup.describe_backup_job(BackupJobId=failed["BackupJobId"])
    assert (job["State"], job["StatusMessage"]) == ("FAILED", "Instance measured is not in available state.")
    assert backup.describe_backup_vault(BackupVaultName="counting")["NumberOfRecoveryPoints"] == 1
    now = datetime.fromtimestamp(cloud.control("PUT", "/clock", {"advance_seconds": 0})[1]["now"], UTC)
    for metric in ("NumberOfBackupJobsFailed", "NumberOfBackupJobsCompleted"):
        points = cloud.client("cloudwatch").get_metric_statistics(
            Namespace="AWS/Backup",
            MetricName=metric,
            Dimensions=[{"Name": "BackupVaultName", "Value": "counting"}],
            StartTime=now - timedelta(minutes=5),
            EndTime=now + timedelta(minutes=5),
            Period=3600,
            Statistics=["Sum"],
        )["Datapoints"]
        assert sum(point["Sum"] for point in points) == 1
    backup.delete_recovery_point(BackupVaultName="counting", RecoveryPointArn=done["RecoveryPointArn"])
    backup.delete_backup_vault(BackupVaultName="counting")

    def back() -> bool:
        found = cloud.client("rds").describe_db_instances(DBInstanceIdentifier="measured")["DBInstances"][0]
        return bool(found["DBInstanceStatus"] == "available")

    eventually(back, 15)


def served(cloud: RunningCloud, instance: dict[str, Any]) -> datetime:
    """When the certificate ends that a client of the endpoint is shown."""
    with connect(cloud, instance) as session:
        assert session.execute("SELECT 1").fetchone() == (1,)
    context = ssl.create_default_context(cafile=cloud.environment["PGSSLROOTCERT"])
    with socket.create_connection((instance["Endpoint"]["Address"], instance["Endpoint"]["Port"]), 5) as plain:
        plain.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")  # SSLRequest
        assert plain.recv(1) == b"S"
        with context.wrap_socket(plain, server_hostname=instance["Endpoint"]["Address"]) as encrypted:
            shown = encrypted.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).not_valid_after_utc


def described(cloud: RunningCloud) -> datetime:
    found = cloud.client("rds").describe_db_instances(DBInstanceIdentifier="measured")["DBInstances"][0]
    ends: datetime = found["CertificateDetails"]["ValidTill"]
    return ends.replace(microsecond=0)


def test_rds_tells_when_the_certificate_ends_that_clients_are_shown_and_renews_it_when_asked(
    cloud: RunningCloud, instances: dict[str, Any]
) -> None:
    assert described(cloud) == served(cloud, instances["measured"])
    assert cloud.control("POST", "/rds/measured/certificate", {"days": 20}) == (200, {"days": 20})
    assert described(cloud) == served(cloud, instances["measured"])
    assert described(cloud) < datetime.now(UTC) + timedelta(days=21)
    cloud.client("rds").modify_db_instance(
        DBInstanceIdentifier="measured", CACertificateIdentifier="rds-ca-rsa2048-g1", ApplyImmediately=True
    )
    assert described(cloud) == served(cloud, instances["measured"]) > datetime.now(UTC) + timedelta(days=300)
