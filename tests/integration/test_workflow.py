"""The whole life of a deployed system, in order: write, replicate, rotate, lose the primary, recover, destroy."""

from __future__ import annotations

import json
import socket
import time
import uuid

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from deployment import remains
from deployment.destruction import Destruction
from deployment.operations import Operations
from deployment.problem import Problem
from drills.client import Application
from drills.cycles import INSTANT, Cycles
from drills.ledger import Ledger
from drills.rotation_load import rotate_under_load
from drills.scenarios import post
from recovery import history
from recovery.table import RecoveryTable
from tests.integration.conftest import Deployed, eventually

TABLE = "public.workflow_test"


def rows(connection: psycopg.Connection[tuple[object, ...]]) -> set[str]:
    return {str(row[0]) for row in connection.execute(f"SELECT note FROM {TABLE}")}


def write(application: Application) -> str:
    note = f"住民 {uuid.uuid4()}"
    with application.connect() as connection:
        connection.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} (note text PRIMARY KEY)")
        connection.execute(f"INSERT INTO {TABLE} VALUES (%s)", (note,))
    return note


@pytest.fixture(scope="module")
def written(deployed: Deployed) -> str:
    return write(deployed.application)


def test_the_outputs_name_what_operators_and_tests_need(deployed: Deployed) -> None:
    expected = {
        "EnvironmentSuffix",
        "WriterUri",
        "ReaderUri",
        "Member1Endpoint",
        "Member2Endpoint",
        "SecretArn",
        "FailoverStateMachineArn",
        "AlertTopicArn",
        "FileSystemId",
        "RecoveryTableName",
        "FailoverLogGroupName",
        "FlowLogGroupName",
    }
    assert expected <= deployed.outputs.keys()
    assert "password" not in json.dumps(dict(deployed.outputs)).lower()
    assert "sslmode=verify-full" in deployed.outputs["WriterUri"]


def test_a_write_on_the_primary_is_seen_on_the_standby(deployed: Deployed, written: str) -> None:
    with deployed.application.connect_reader() as standby:
        answer = standby.execute("SELECT pg_is_in_recovery()").fetchone()
        assert answer == (True,), "the reader URI leads to the standby"
        eventually(lambda: written in rows(standby), 10, "the row on the standby")


@pytest.mark.parametrize("member", [1, 2])
def test_a_plaintext_connection_is_refused(deployed: Deployed, member: int) -> None:
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        deployed.application.connect_member(member, sslmode="disable")


def test_the_certificate_of_one_member_does_not_pass_for_the_other(deployed: Deployed) -> None:
    user, password = deployed.application.credentials()
    first, second = (deployed.outputs[f"Member{n}Endpoint"] for n in (1, 2))
    with pytest.raises(psycopg.OperationalError, match="certificate"):
        psycopg.connect(
            host=second,
            hostaddr=socket.gethostbyname(first),
            port=str(conninfo_to_dict(deployed.outputs["WriterUri"])["port"]).split(",")[0],
            user=user,
            password=password,
            sslmode="verify-full",
            sslrootcert=deployed.application.certificate_authority,
            connect_timeout=5,
        )


def test_the_default_group_of_the_vpc_lets_nothing_in_or_out(deployed: Deployed) -> None:
    filters = [{"Name": "vpc-id", "Values": [deployed.outputs["VpcId"]]}, {"Name": "group-name", "Values": ["default"]}]

    def closed() -> bool:
        (group,) = deployed.account.client("ec2").describe_security_groups(Filters=filters)["SecurityGroups"]
        return not group["IpPermissions"] and not group["IpPermissionsEgress"]

    eventually(closed, 60, "the default group without rules")


def test_both_witnesses_report_within_two_minutes(deployed: Deployed) -> None:
    table = deployed.account.client("dynamodb")

    def sees_both(witness: str) -> bool:
        key = {"id": {"S": f"observation#{witness}"}}
        item = table.get_item(TableName=deployed.outputs["RecoveryTableName"], Key=key).get("Item", {})
        return all(item.get(role, {}).get("M", {}).get("reachable", {}).get("BOOL") for role in ("primary", "standby"))

    for witness in "ac":
        eventually(lambda name=witness: sees_both(name), 120, f"witness {witness}")  # type: ignore[misc]


def test_every_log_group_has_a_key_and_an_end_of_retention(deployed: Deployed) -> None:
    suffix = deployed.outputs["EnvironmentSuffix"]
    pages = deployed.account.client("logs").get_paginator("describe_log_groups").paginate()
    groups = [group for page in pages for group in page["logGroups"] if suffix in group["logGroupName"]]
    assert len(groups) >= 15
    lacking = [group for group in groups if not group.get("kmsKeyId") or not group.get("retentionInDays")]
    assert lacking == [], "made by a service, not by the stack"


@pytest.mark.breaks_the_machine
def test_deploying_again_changes_nothing(deployed: Deployed) -> None:
    assert deployed.cdk is not None
    assert deployed.cdk.diff() == ""


def test_a_rotation_gives_a_new_password_that_both_members_know(deployed: Deployed) -> None:
    secrets = deployed.account.client("secretsmanager")
    old = deployed.application.credentials()[1]
    secrets.rotate_secret(SecretId=deployed.outputs["SecretArn"], RotateImmediately=True)
    new = eventually(lambda: p if (p := deployed.application.credentials()[1]) != old else None, 60, "a new password")

    def signs_in(member: int, password: str) -> bool:
        try:
            deployed.application.connect_member(member, password=password).close()
        except psycopg.OperationalError:
            return False
        return True

    for member in (1, 2):
        eventually(lambda n=member: signs_in(n, new), 10, f"the new password on member {member}")  # type: ignore[misc]
        assert not signs_in(member, old), f"member {member} still takes the old password"


@pytest.mark.breaks_the_machine
def test_clients_that_read_the_secret_again_do_not_notice_rotations(deployed: Deployed) -> None:
    load = rotate_under_load(deployed.application, 5)
    assert load.rotations == 5
    assert load.failures == []
    assert load.dropped == []
    assert load.signed_in > 0
    assert load.retried > 0, "nobody met a rotation, so nothing was shown"


@pytest.mark.breaks_the_machine
def test_thirty_days_later_the_password_has_changed_by_itself(deployed: Deployed) -> None:
    old = deployed.application.credentials()[1]
    secrets = deployed.account.client("secretsmanager")
    due = secrets.describe_secret(SecretId=deployed.outputs["SecretArn"])["NextRotationDate"].timestamp()
    day = 86_400.0
    post(f"{deployed.control}/clock", {"advance_seconds": due - time.time() - day}, "PUT")
    time.sleep(3)
    assert deployed.application.credentials()[1] == old, "a day too early"
    post(f"{deployed.control}/clock", {"advance_seconds": day + 1}, "PUT")
    eventually(lambda: deployed.application.credentials()[1] != old, 30, "the rotation")
    deployed.application.connect().close()


@pytest.mark.breaks_the_machine
def test_the_standby_takes_over_when_the_primary_is_lost(deployed: Deployed, written: str) -> None:
    table = deployed.account.client("dynamodb")
    lost, standby = deployed.outputs["Member1Identifier"], deployed.outputs["Member2Identifier"]
    with deployed.application.connect_reader() as reader:
        eventually(lambda: written in rows(reader), 10, "the row on the standby")

    post(f"{deployed.control}/rds/{lost}/lose")

    def new_roles() -> dict[str, dict[str, str]] | None:
        item = table.get_item(TableName=deployed.outputs["RecoveryTableName"], Key={"id": {"S": "roles"}})["Item"]
        return item if item["epoch"]["N"] == "2" else None

    roles = eventually(new_roles, 60, "a new epoch")
    assert roles["primary"]["S"] == standby
    with deployed.application.connect() as connection:
        assert written in rows(connection)
    write(deployed.application)


@pytest.mark.breaks_the_machine
def test_the_secret_leads_to_the_new_primary(deployed: Deployed) -> None:
    answer = deployed.account.client("secretsmanager").get_secret_value(SecretId=deployed.outputs["SecretArn"])
    assert json.loads(answer["SecretString"])["host"] == deployed.outputs["Member2Endpoint"]


@pytest.mark.breaks_the_machine
def test_the_incident_is_recorded_and_its_lease_released(deployed: Deployed) -> None:
    machines, table = deployed.account.client("stepfunctions"), deployed.account.client("dynamodb")
    arn = deployed.outputs["FailoverStateMachineArn"]

    def ended() -> bool:
        states = [e["status"] for e in machines.list_executions(stateMachineArn=arn)["executions"]]
        return bool(states) and "RUNNING" not in states

    eventually(ended, 30, "the end of the incident's execution")
    items = table.scan(TableName=deployed.outputs["RecoveryTableName"])["Items"]
    incidents = [item for item in items if item["id"]["S"].startswith("incident#")]
    assert [incident["outcome"]["S"] for incident in incidents] == ["promoted"]
    assert not [item for item in items if item["id"]["S"] == "lease"]


@pytest.mark.breaks_the_machine
def test_the_lost_member_is_made_again_by_itself_as_the_template_describes_it(deployed: Deployed, written: str) -> None:
    operator = Operations(deployed.account, deployed.outputs["EnvironmentSuffix"], print)
    operator.await_protection(2, 120)
    rds = deployed.account.client("rds")
    first, second = (
        rds.describe_db_instances(DBInstanceIdentifier=deployed.outputs[f"Member{n}Identifier"])["DBInstances"][0]
        for n in (1, 2)
    )
    assert first["ReadReplicaSourceDBInstanceIdentifier"] == deployed.outputs["Member2Identifier"]
    assert (first["PreferredBackupWindow"], first["PreferredMaintenanceWindow"]) == (
        "01:00-01:30",
        "sun:04:00-sun:04:30",
    )
    same = (
        *("DBInstanceClass", "MultiAZ", "StorageType", "PubliclyAccessible", "IAMDatabaseAuthenticationEnabled"),
        *("CACertificateIdentifier", "EnabledCloudwatchLogsExports", "MonitoringInterval", "MonitoringRoleArn"),
        *("CopyTagsToSnapshot", "DeletionProtection", "BackupRetentionPeriod", "AutoMinorVersionUpgrade"),
        *("DBSubnetGroup", "StorageEncrypted", "KmsKeyId"),
    )
    assert {name: first.get(name) for name in same} == {name: second.get(name) for name in same}
    tags = {tag["Key"]: tag["Value"] for tag in first["TagList"]}
    assert tags["Environment"] == deployed.outputs["EnvironmentSuffix"]
    with deployed.application.connect_member(1) as standby:
        assert standby.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
        eventually(lambda: written in rows(standby), 10, "the row on the new standby")


@pytest.mark.breaks_the_machine
def test_a_pause_is_known_and_ended_and_the_history_tells_what_has_happened(deployed: Deployed) -> None:
    suffix = deployed.outputs["EnvironmentSuffix"]
    operator = Operations(deployed.account, suffix, print)
    assert "patching" in str(operator.pause("patching", 60))
    with pytest.raises(Problem, match=r"paused until .*: patching; resume first"):
        operator.preview_of_switchover()
    assert operator.resume()
    assert not operator.resume()
    assert [(entry.kind, entry.outcome) for entry in operator.history()] == [
        ("reprotect", "protected"),
        ("failover", "promoted"),
    ]


@pytest.mark.breaks_the_machine
def test_a_planned_switchover_and_what_comes_after_lose_nothing(deployed: Deployed) -> None:
    post(f"{deployed.control}/delays", INSTANT, "PUT")
    ledger = Ledger(deployed.application.connect)
    ledger.create_table()
    ledger.start()
    try:
        step = Cycles(deployed.account, deployed.outputs, ledger, print).switchover()
    finally:
        ledger.stop()
    assert (step.lost, step.tail) == (0, 0)
    assert step.epoch == 3
    assert step.outage < 30, "the bound of a busy machine; make cycles measures it"
    kinds = [(entry.kind, entry.outcome) for entry in history.read(recovery_table(deployed))]
    assert kinds[:2] == [("reprotect", "protected"), ("switchover", "promoted")]
    with deployed.application.connect() as primary, deployed.application.connect_member(1) as first:
        assert (
            primary.execute("SELECT system_identifier FROM pg_control_system()").fetchone()
            == first.execute("SELECT system_identifier FROM pg_control_system()").fetchone()
        )
        assert first.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)


def recovery_table(deployed: Deployed) -> RecoveryTable:
    return RecoveryTable(deployed.account.client("dynamodb"), deployed.outputs["RecoveryTableName"])


@pytest.mark.breaks_the_machine
def test_an_infrastructure_diff_after_every_change_of_roles_is_empty(deployed: Deployed) -> None:
    assert deployed.cdk is not None
    assert deployed.cdk.diff() == ""


@pytest.mark.breaks_the_machine
def test_a_destroy_after_every_change_of_roles_leaves_nothing(deployed: Deployed) -> None:
    assert deployed.cdk is not None
    outcome = Destruction(deployed.account, deployed.cdk, protect=False, announce=print).run()
    assert (outcome.kept, outcome.left) == ((), ())
    assert remains.of(deployed.account, deployed.cdk.suffix) == []
    secret = deployed.account.client("secretsmanager").get_secret_value(SecretId=deployed.outputs["SecretName"])
    assert json.loads(secret["SecretString"])["password"], "the agency's own secret is still there"
