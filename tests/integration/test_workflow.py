"""The whole life of a deployed system, in order: write, replicate, rotate, lose the primary, recover, destroy."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import uuid
from collections.abc import Callable
from typing import Any

import boto3
import psycopg
import pytest
from botocore.exceptions import ClientError
from psycopg.conninfo import conninfo_to_dict

from deployment import remains
from deployment.account import Account
from deployment.destruction import Destruction
from deployment.evidence import EvidenceRoom
from deployment.exercises import Exercises
from deployment.operations import Operations, Started
from deployment.problem import Problem
from drills.client import Application
from drills.cycles import INSTANT, Cycles
from drills.ledger import Ledger
from drills.rotation_load import rotate_under_load
from drills.scenarios import post
from recovery import evidence, evidence_store, history, incident, override, roles
from recovery.table import RecoveryTable
from stacks.names import Names
from stacks.settings import REGION
from tests.integration.conftest import Deployed, eventually
from tests.integration.test_drills_on_aws import copies

TABLE = "public.workflow_test"
drilling: list[Started] = []


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


def without_tls(deployed: Deployed, service: str) -> Any:
    """A client of an AWS service that does not encrypt; nobody but this test has one."""
    if not deployed.account.is_local:
        return boto3.client(service, region_name=REGION, use_ssl=False)  # type: ignore[call-overload]
    plain = deployed.control.removesuffix("/_local")
    return Account({**deployed.account.environment, "AWS_ENDPOINT_URL": plain}).client(service)


def test_a_call_to_the_alert_topic_without_tls_is_refused(deployed: Deployed) -> None:
    with pytest.raises(ClientError, match="not authorized to perform: sns:Publish"):
        without_tls(deployed, "sns").publish(TopicArn=deployed.outputs["AlertTopicArn"], Message="in the clear")


@pytest.mark.parametrize("call", ["send_message", "receive_message", "purge_queue"])
def test_a_call_to_the_dead_letter_queue_without_tls_is_refused(deployed: Deployed, call: str) -> None:
    encrypted = deployed.account.client("sqs")
    name = f"citizens-dead-letters-{deployed.outputs['EnvironmentSuffix']}"
    queue = encrypted.get_queue_url(QueueName=name)["QueueUrl"]
    message = {"MessageBody": "in the clear"} if call == "send_message" else {}
    with pytest.raises(ClientError) as refused:
        getattr(without_tls(deployed, "sqs"), call)(QueueUrl=queue, **message)
    assert refused.value.response["Error"]["Code"].startswith("AccessDenied")
    assert encrypted.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]


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


def alarm(deployed: Deployed, name: str) -> dict[str, Any]:
    full = f"citizens-{name}-{deployed.outputs['EnvironmentSuffix']}"
    (found,) = deployed.account.client("cloudwatch").describe_alarms(AlarmNames=[full])["MetricAlarms"]
    return dict(found)


def eventually_is(deployed: Deployed, name: str, state: str, within: float = 30) -> dict[str, Any]:
    return eventually(
        lambda: found if (found := alarm(deployed, name))["StateValue"] == state else None, within, f"{name}: {state}"
    )


def advance(deployed: Deployed, seconds: float) -> None:
    post(f"{deployed.control}/clock", {"advance_seconds": seconds}, "PUT")


def logged(deployed: Deployed, group: str, words: str) -> int:
    streams = deployed.account.client("logs").get_paginator("filter_log_events")
    pages = streams.paginate(logGroupName=group, filterPattern=f'"{words}"')
    return sum(words in event["message"] for page in pages for event in page["events"])


def rotation_log(deployed: Deployed) -> str:
    return f"/aws/lambda/citizens-rotation-{deployed.outputs['EnvironmentSuffix']}"


def hold_the_lease(deployed: Deployed) -> Callable[[], None]:
    """Take the lease as a witness does that has started an incident; returns what releases it."""
    name = deployed.outputs["RecoveryTableName"]
    dynamodb = deployed.account.client("dynamodb")
    assert incident.take_lease(RecoveryTable(dynamodb, name), 1, "a", time.time()) is not None
    return lambda: dynamodb.delete_item(TableName=name, Key={"id": {"S": incident.LEASE}}) and None


def rotate(deployed: Deployed) -> None:
    """Ask for a rotation; where one was left behind Secrets Manager refuses, and takes that one up again."""
    with contextlib.suppress(deployed.account.client("secretsmanager").exceptions.InvalidRequestException):
        deployed.account.client("secretsmanager").rotate_secret(SecretId=deployed.outputs["SecretArn"])


def rotated(deployed: Deployed, old: str) -> str:
    return eventually(lambda: new if (new := deployed.application.credentials()[1]) != old else None, 60, "a rotation")


def is_refused(deployed: Deployed, password: str) -> bool:
    try:
        deployed.application.connect_member(1, password=password).close()
    except psycopg.OperationalError as error:
        return "password authentication failed" in str(error)
    return False


@pytest.mark.breaks_the_machine
def test_no_rotation_runs_during_an_incident_and_an_alarm_says_that_it_failed(deployed: Deployed) -> None:
    old = deployed.application.credentials()[1]
    advance(deployed, 120)
    eventually_is(deployed, "rotation-failed", "OK")
    release = hold_the_lease(deployed)
    try:
        rotate(deployed)
        fired = eventually_is(deployed, "rotation-failed", "ALARM")
        assert logged(deployed, rotation_log(deployed), "no rotation runs during a failover") >= 1
        assert deployed.application.credentials()[1] == old
        deployed.application.connect().close()
    finally:
        release()
    assert "keeps working" in fired["AlarmDescription"]
    assert "rotate-secret" in fired["AlarmDescription"]

    def taken_up() -> bool:
        rotate(deployed)
        return deployed.application.credentials()[1] != old

    eventually(taken_up, 60, "the rotation that was left behind")
    # The last request may have begun another rotation, in the middle of which AWSCURRENT is refused
    eventually(lambda: not is_refused(deployed, deployed.application.credentials()[1]), 20, "one working password")
    advance(deployed, 120)
    eventually_is(deployed, "rotation-failed", "OK")


@pytest.mark.breaks_the_machine
def test_a_password_that_was_superseded_is_an_alarm_when_it_is_used_again_and_again(deployed: Deployed) -> None:
    group = deployed.outputs["Member1LogGroupName"]
    old = deployed.application.credentials()[1]
    rotate(deployed)
    rotated(deployed, old)
    advance(deployed, 4000)
    eventually_is(deployed, "superseded-password", "OK")

    def sign_in_with_the_old_one() -> None:
        before = logged(deployed, group, "password authentication failed")
        assert is_refused(deployed, old)
        eventually(
            lambda: logged(deployed, group, "password authentication failed") > before,
            10,
            "the server's line in the log",
        )

    sign_in_with_the_old_one()
    time.sleep(2.5)
    assert alarm(deployed, "superseded-password")["StateValue"] == "OK", "once is what a client meets in a rotation"
    advance(deployed, 600)
    sign_in_with_the_old_one()
    fired = eventually_is(deployed, "superseded-password", "ALARM")
    assert group in fired["AlarmDescription"]
    advance(deployed, 4000)
    eventually_is(deployed, "superseded-password", "OK")


@pytest.mark.breaks_the_machine
def test_a_rotation_that_is_overdue_is_an_alarm_until_it_has_run(deployed: Deployed) -> None:
    old = deployed.application.credentials()[1]
    log = rotation_log(deployed)

    def measure_again() -> None:
        before = logged(deployed, log, "password age")
        advance(deployed, 900)
        eventually(lambda: logged(deployed, log, "password age") > before, 30, "the password's age")

    measure_again()
    eventually_is(deployed, "rotation-overdue", "OK")
    release = hold_the_lease(deployed)
    try:
        advance(deployed, 31.5 * 86_400)
        for _ in range(4):
            measure_again()
        time.sleep(2.5)
        # All of the hour's periods have been measured by now: it is the age, not the silence of the jump.
        fired = eventually_is(deployed, "rotation-overdue", "ALARM")
        assert deployed.application.credentials()[1] == old
    finally:
        release()
    assert "older than 31 days" in fired["AlarmDescription"]

    def taken_up() -> bool:
        rotate(deployed)
        return deployed.application.credentials()[1] != old

    eventually(taken_up, 60, "the rotation")
    measure_again()
    eventually_is(deployed, "rotation-overdue", "OK")


@pytest.mark.breaks_the_machine
def test_the_standby_takes_over_when_the_primary_is_lost(deployed: Deployed, written: str) -> None:
    table = deployed.account.client("dynamodb")
    lost, standby = deployed.outputs["Member1Identifier"], deployed.outputs["Member2Identifier"]
    with deployed.application.connect_reader() as reader:
        eventually(lambda: written in rows(reader), 10, "the row on the standby")
    # A drill is under way: nothing of what follows may wait for it
    drilling.append(Exercises(deployed.account, deployed.outputs["EnvironmentSuffix"], print).start("replica"))
    eventually(lambda: copies(deployed), 60, "the copy of a drill")

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
def test_the_drill_that_ran_when_the_primary_was_lost_has_given_way_and_cleaned_up(deployed: Deployed) -> None:
    def gone() -> bool:
        states = deployed.account.client("stepfunctions")
        (started,) = drilling
        return bool(states.describe_execution(executionArn=started.execution_arn)["status"] != "RUNNING")

    eventually(gone, 60, "the end of the drill")
    (done,) = [
        entry for entry in history.read(recovery_table(deployed)) if entry.execution == drilling[0].execution_arn
    ]
    # Whichever it sees first: the lease, or that RDS cannot make a replica of a lost instance
    assert done.outcome in ("aborted", "failed"), done.reason
    assert copies(deployed) == []


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
    # The drills' tests have begun one against which nothing was to be done
    assert [told for incident in incidents if (told := incident["outcome"]["S"]) != "stood_by"] == ["promoted"]
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
    entries = [
        entry for entry in operator.history() if not entry.kind.endswith("drill") and entry.outcome != "stood_by"
    ]
    told = [(entry.kind, entry.outcome) for entry in entries]
    assert told == [("reprotect", "protected"), ("failover", "promoted")]


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


@pytest.mark.breaks_the_machine
def test_a_person_lifts_the_fence_of_a_primary_that_nobody_has_replaced(deployed: Deployed) -> None:
    suffix, ec2 = deployed.outputs["EnvironmentSuffix"], deployed.account.client("ec2")
    operator, known = Operations(deployed.account, suffix, print), roles.known(recovery_table(deployed))
    operator.pause("a failover has ended half way", 120)
    try:
        number = 1 if known.primary == deployed.outputs["Member1Identifier"] else 2
        named = [{"Name": "group-name", "Values": [Names(suffix).of(f"member-{number}")]}]
        (group,) = ec2.describe_security_groups(Filters=named)["SecurityGroups"]
        before = group["IpPermissions"]
        ec2.revoke_security_group_ingress(GroupId=group["GroupId"], IpPermissions=before)
        with pytest.raises(psycopg.OperationalError):
            deployed.application.connect_member(number)
        preview, missing = operator.preview_of_lifting()
        assert f"{known.primary}, the primary of epoch {known.epoch}, is let in again from" in preview
        # As if it had been killed behind the first rule
        applications = next(each for each in before if each["IpRanges"])
        alone = {name: applications[name] for name in ("IpProtocol", "FromPort", "ToPort", "IpRanges")}
        ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=[alone])
        assert len(operator.preview_of_lifting()[1]) == len(missing) - 1
        operator.lift_fence()
        assert "is let in already" in operator.preview_of_lifting()[0]
        (group,) = ec2.describe_security_groups(Filters=named)["SecurityGroups"]
        assert len(group["IpPermissions"]) == len(before)
        deployed.application.connect_member(number).close()
    finally:
        operator.resume()


@pytest.mark.breaks_the_machine
def test_a_failover_that_was_refused_for_the_lag_happens_under_an_operators_override(deployed: Deployed) -> None:
    suffix, functions = deployed.outputs["EnvironmentSuffix"], deployed.account.client("lambda")
    operator, known = Operations(deployed.account, suffix, print), roles.known(recovery_table(deployed))
    arbiter = Names(suffix).of("arbiter")
    usual = functions.get_function_configuration(FunctionName=arbiter)["Environment"]["Variables"]
    with deployed.application.connect_reader() as standby:
        eventually(lambda: standby.execute("SELECT pg_is_in_recovery()").fetchone() == (True,), 20, "the standby")
    # An RPO that a test can wait for: no setting goes so low
    functions.update_function_configuration(
        FunctionName=arbiter, Environment={"Variables": usual | {"RPO_SECONDS": "3"}}
    )
    try:
        post(f"{deployed.control}/rds/{known.standby}/replay", {"paused": True})
        time.sleep(5)
        post(f"{deployed.control}/rds/{known.primary}/lose")
        refused = eventually(
            lambda: [e for e in operator.history() if (e.kind, e.epoch) == ("failover", known.epoch)], 60, "the refusal"
        )[0]
        assert (refused.kind, refused.outcome) == ("failover", "refused")
        assert "beyond the RPO of 3 s" in refused.reason

        order = (frozenset({"lag"}), "the agency would rather have service than the last seconds", 600.0)
        preview = operator.preview_of_override(*order)
        assert f"transactions which {known.standby} lacks are lost" in preview
        assert " s behind" in preview
        assert operator.override(*order).epoch == known.epoch
        eventually(lambda: roles.known(recovery_table(deployed)).epoch > known.epoch, 90, "a failover after all")
        write(deployed.application)
        promoted = eventually(
            lambda: [e for e in operator.history() if e.outcome == "promoted" and e.epoch == known.epoch],
            30,
            "its record",
        )[0]
        assert "accepts (the agency would rather" in promoted.reason
        assert override.active(recovery_table(deployed), time.time(), known.epoch + 1) is None, "it is used up"
        assert operator.withdraw_override()
        assert not operator.withdraw_override()
    finally:
        functions.update_function_configuration(FunctionName=arbiter, Environment={"Variables": usual})
    operator.await_protection(known.epoch + 1, 120)


def recovery_table(deployed: Deployed) -> RecoveryTable:
    return RecoveryTable(deployed.account.client("dynamodb"), deployed.outputs["RecoveryTableName"])


@pytest.mark.breaks_the_machine
def test_all_that_happened_is_sealed_and_exported_by_itself_and_any_change_is_found(deployed: Deployed) -> None:
    room, table = EvidenceRoom(deployed.account, deployed.outputs["EnvironmentSuffix"]), recovery_table(deployed)
    happened = {identity for identity, record in evidence.sources(table).items() if evidence.has_ended(record)}
    assert len(happened) >= 4, "failovers, switchover and reprotects of the tests before"
    with contextlib.suppress(AssertionError):
        eventually(lambda: room.verify().verdict == evidence.OK, 60, "everything sealed and exported")
    assert room.verify().findings == ()
    entries = room.entries()
    assert happened <= {entry.subject for entry in entries.values()}
    s3, bucket = deployed.account.client("s3"), deployed.outputs["EvidenceBucketName"]
    exported = s3.get_object(Bucket=bucket, Key=evidence_store.key(entries[1], "json"))
    whole = exported["Body"].read()
    assert evidence.parse(whole.decode()) == entries[1]
    s3.put_object(Bucket=bucket, Key=evidence_store.key(entries[1], "json"), Body=whole.replace(b"0", b"1"))
    assert room.verify().exit_code == 2
    s3.put_object(Bucket=bucket, Key=evidence_store.key(entries[1], "json"), Body=whole)
    record = table.get(entries[1].subject)
    assert record is not None
    table.put(entries[1].subject, {**record, "reason": "nothing"})
    assert {finding.kind for finding in room.verify().findings} == {"ALTERED"}
    table.put(entries[1].subject, record)
    assert room.verify().verdict == evidence.OK


@pytest.mark.breaks_the_machine
def test_an_infrastructure_diff_after_every_change_of_roles_is_empty(deployed: Deployed) -> None:
    assert deployed.cdk is not None
    assert deployed.cdk.diff() == ""


@pytest.mark.breaks_the_machine
def test_a_destroy_in_the_middle_of_a_drill_after_every_change_of_roles_leaves_nothing(deployed: Deployed) -> None:
    assert deployed.cdk is not None
    Exercises(deployed.account, deployed.outputs["EnvironmentSuffix"], print).start("replica")
    eventually(lambda: copies(deployed), 60, "the copy of a drill, which nobody waits for")
    outcome = Destruction(deployed.account, deployed.cdk, protect=False, announce=print).run()
    assert (outcome.kept, outcome.left) == ((), ())
    assert remains.of(deployed.account, deployed.cdk.suffix) == []
    secret = deployed.account.client("secretsmanager").get_secret_value(SecretId=deployed.outputs["SecretName"])
    assert json.loads(secret["SecretString"])["password"], "the agency's own secret is still there"
