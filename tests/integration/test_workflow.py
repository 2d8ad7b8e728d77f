"""The whole life of a deployed system, in order: write, replicate, rotate, lose the primary, recover, destroy."""

from __future__ import annotations

import json
import socket
import uuid

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from deployment import remains
from drills.client import Application
from drills.scenarios import post
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


def test_both_witnesses_report_within_two_minutes(deployed: Deployed) -> None:
    table = deployed.account.client("dynamodb")

    def sees_both(witness: str) -> bool:
        key = {"id": {"S": f"observation#{witness}"}}
        item = table.get_item(TableName=deployed.outputs["RecoveryTableName"], Key=key).get("Item", {})
        return all(item.get(role, {}).get("M", {}).get("reachable", {}).get("BOOL") for role in ("primary", "standby"))

    for witness in "ac":
        eventually(lambda name=witness: sees_both(name), 120, f"witness {witness}")  # type: ignore[misc]


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
def test_the_standby_takes_over_when_the_primary_is_lost(deployed: Deployed, written: str) -> None:
    table, rds = deployed.account.client("dynamodb"), deployed.account.client("rds")
    lost, standby = deployed.outputs["Member1Identifier"], deployed.outputs["Member2Identifier"]
    with deployed.application.connect_reader() as reader:
        eventually(lambda: written in rows(reader), 10, "the row on the standby")

    post(f"{deployed.control}/rds/{lost}/lose")

    def new_roles() -> dict[str, dict[str, str]] | None:
        item = table.get_item(TableName=deployed.outputs["RecoveryTableName"], Key={"id": {"S": "roles"}})["Item"]
        return item if item["epoch"]["N"] == "2" else None

    roles = eventually(new_roles, 60, "a new epoch")
    assert roles["primary"]["S"] == standby
    assert rds.describe_db_instances(DBInstanceIdentifier=lost)["DBInstances"][0]["DBInstanceStatus"] == "failed"
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
def test_an_infrastructure_diff_after_the_failover_is_empty(deployed: Deployed) -> None:
    assert deployed.cdk is not None
    assert deployed.cdk.diff() == ""


@pytest.mark.breaks_the_machine
def test_a_destroy_after_the_failover_leaves_nothing(deployed: Deployed) -> None:
    assert deployed.cdk is not None
    deployed.cdk.destroy()
    assert remains.of(deployed.account, deployed.cdk.suffix) == []
    secret = deployed.account.client("secretsmanager").get_secret_value(SecretId=deployed.outputs["SecretName"])
    assert json.loads(secret["SecretString"])["password"], "the agency's own secret is still there"
