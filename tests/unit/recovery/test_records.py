"""Roles, lease and observations: what the recovery table keeps, and how it decides races."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from drills.virtual.kept import Kept
from recovery import history, incident, members, observation, operation, rds, roles
from recovery.clock import iso, seconds
from recovery.incident import Lease
from recovery.members import Endpoint
from recovery.observation import Observation, PrimaryView, StandbyView
from recovery.roles import Roles
from recovery.suspicion import REST_SECONDS, Suspicion
from recovery.table import RecoveryTable, from_attribute, to_attribute

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_stepfunctions import SFNClient

NOW = 1_800_000_000.25
ROLES = Roles(1, "one", "two", iso(NOW))


# -- forms ------------------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_went_in() -> None:
    record = {"a": None, "b": True, "c": -3, "d": 0.25, "e": "x", "f": {"g": [1, "y"]}, "h": (1,), "i": 1e-7}
    back = from_attribute(to_attribute(record))
    assert back == {**record, "h": [1]}
    assert isinstance(back["c"], int)
    with pytest.raises(TypeError, match="no form"):
        to_attribute(object())


def test_times_keep_their_milliseconds() -> None:
    assert iso(NOW) == "2027-01-15T08:00:00.250Z"
    assert seconds(iso(NOW)) == NOW


def test_members_are_read_from_json() -> None:
    text = json.dumps({"one": {"host": "h1", "port": 5432}, "two": {"host": "h2", "port": "5433"}})
    found = members.parse(text)
    assert found["two"].endpoint == Endpoint("h2", 5433)
    assert members.at(found, "h1", 5432) == found["one"]
    assert members.at(found, "h1", 1) is None
    for wrong in ("x", "[]", '{"one": {}}', '{"one": {"host": "h", "port": 1}}'):
        with pytest.raises(members.MembersMalformed):
            members.parse(wrong)


# -- roles ------------------------------------------------------------------------------------------------------------


def test_the_first_witness_writes_the_roles_and_the_second_takes_them(table: RecoveryTable) -> None:
    assert roles.read(table) is None
    with pytest.raises(roles.RolesUnknown):
        roles.known(table)
    first = roles.create(table, "one", "two", NOW)
    assert roles.create(table, "two", "one", NOW) == first == roles.known(table)


def test_roles_pass_on_once_and_a_repeat_finds_them_passed(table: RecoveryTable) -> None:
    roles.create(table, "one", "two", NOW)
    passed = roles.advance(table, 1, "two", "one", NOW + 60)
    assert (passed.epoch, passed.primary) == (2, "two")
    assert roles.advance(table, 1, "two", "one", NOW + 120) == passed
    with pytest.raises(roles.RolesChanged, match="epoch 2 with primary two"):
        roles.advance(table, 1, "one", "two", NOW + 120)


def test_a_table_that_fails_says_so(dynamodb: DynamoDBClient) -> None:
    missing = RecoveryTable(dynamodb, "nothing")
    with pytest.raises(ClientError):
        roles.create(missing, "one", "two", NOW)


# -- the lease --------------------------------------------------------------------------------------------------------


def test_a_second_trigger_finds_the_lease_taken(table: RecoveryTable) -> None:
    lease = incident.take_lease(table, 1, "a", NOW)
    assert lease is not None
    assert re.fullmatch(r"20270115T080000Z-[0-9a-f]{4}", lease.incident)
    assert lease.execution_name == f"1-{lease.incident}"
    assert incident.take_lease(table, 1, "c", NOW + 1) is None
    assert incident.read_lease(table) == lease
    assert lease.held(NOW + 3599)
    assert not lease.held(NOW + 3601)
    assert incident.take_lease(table, 1, "c", NOW + 3601) is not None


def test_only_one_takes_over_a_lease_that_was_left(table: RecoveryTable) -> None:
    left = incident.take_lease(table, 1, "a", NOW)
    assert left is not None
    assert incident.take_over_lease(table, left, 1, "a", NOW + 60) is not None
    assert incident.take_over_lease(table, left, 1, "c", NOW + 60) is None


def test_an_observation_survives_the_table(table: RecoveryTable) -> None:
    assert observation.read(table, "a") is None
    whole = Observation(
        "a", NOW, 1, PrimaryView(True, None, "0/1"), StandbyView(True, "x", 0.5, 7, "0/2"), 2, NOW - 1, 9, "r", NOW
    )
    observation.put(table, whole)
    assert observation.read(table, "a") == whole
    record = table.get("observation#a")
    assert record is not None
    assert record["expires_at"] > NOW
    assert record["primary"] == {"reachable": True, "error": None, "lsn": "0/1"}


# -- suspicion --------------------------------------------------------------------------------------------------------


@pytest.fixture
def states(aws: None) -> SFNClient:
    return boto3.client("stepfunctions")


@pytest.fixture
def machine(states: SFNClient) -> str:
    definition = {"StartAt": "End", "States": {"End": {"Type": "Succeed"}}}
    created = states.create_state_machine(
        name="failover", definition=json.dumps(definition), roleArn="arn:aws:iam::123456789012:role/failover"
    )
    return created["stateMachineArn"]


def suspicion(table: RecoveryTable, states: SFNClient, machine: str, witness: str = "a") -> Suspicion:
    return Suspicion(table, lambda: states, machine, witness)


def names(states: SFNClient, machine: str) -> list[str]:
    return [each["name"] for each in states.list_executions(stateMachineArn=machine)["executions"]]


def test_both_witnesses_suspecting_again_and_again_start_one_execution(
    table: RecoveryTable, states: SFNClient, machine: str
) -> None:
    first = suspicion(table, states, machine).act(ROLES, NOW, None, NOW - 6)
    assert first is not None
    for witness in "acac":
        assert suspicion(table, states, machine, witness).act(ROLES, NOW + 2, NOW) == first
    (name,) = names(states, machine)
    assert name == first.execution_name
    arn = machine.replace(":stateMachine:", ":execution:") + ":" + name
    assert json.loads(states.describe_execution(executionArn=arn)["input"]) == {
        "incident": first.incident,
        "epoch": 1,
        "witness": "a",
        "started_at": iso(NOW),
        "since": iso(NOW - 6),
    }


def test_a_crash_between_lease_and_start_heals_itself(table: RecoveryTable, states: SFNClient, machine: str) -> None:
    left = incident.take_lease(table, 1, "a", NOW)
    assert left is not None
    assert suspicion(table, states, machine, "c").act(ROLES, NOW + 2, None) == left
    assert names(states, machine) == [left.execution_name]


def test_a_lease_whose_execution_has_ended_is_taken_over_after_a_rest(
    table: RecoveryTable, states: SFNClient, machine: str
) -> None:
    left = suspicion(table, states, machine).act(ROLES, NOW, None)
    assert left is not None
    arn = machine.replace(":stateMachine:", ":execution:") + ":" + left.execution_name
    states.stop_execution(executionArn=arn)
    assert suspicion(table, states, machine).act(ROLES, NOW + 2, NOW) is None
    later = suspicion(table, states, machine).act(ROLES, NOW + REST_SECONDS + 1, NOW)
    assert later is not None
    assert later.incident != left.incident
    assert len(names(states, machine)) == 2


def test_after_an_incident_has_ended_the_next_one_waits_a_moment(
    table: RecoveryTable, states: SFNClient, machine: str
) -> None:
    assert suspicion(table, states, machine).act(ROLES, NOW, NOW - 1) is None
    assert not names(states, machine)
    assert suspicion(table, states, machine).act(ROLES, NOW, NOW - REST_SECONDS) is not None


def test_losing_the_race_for_the_lease_leaves_the_start_to_the_other(
    table: RecoveryTable, states: SFNClient, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incident, "take_lease", lambda *_: None)
    assert suspicion(table, states, machine).act(ROLES, NOW, None) is None


def test_an_api_that_refuses_is_not_taken_for_a_start(table: RecoveryTable, states: SFNClient) -> None:
    nowhere = "arn:aws:states:eu-central-2:123456789012:stateMachine:nowhere"
    with pytest.raises(ClientError):
        suspicion(table, states, nowhere).act(ROLES, NOW, None)
    assert isinstance(incident.read_lease(table), Lease)


# -- RDS --------------------------------------------------------------------------------------------------------------


def rds_answering(method: str, answer: dict[str, Any] | str) -> tuple[Any, Stubber]:
    client = boto3.client("rds", region_name="eu-central-2", aws_access_key_id="x", aws_secret_access_key="x")
    stubber = Stubber(client)
    if isinstance(answer, str):
        stubber.add_client_error(method, answer)
    else:
        stubber.add_response(method, answer)
    stubber.activate()
    return client, stubber


def test_rds_statuses_are_read_as_they_are() -> None:
    instance = {"DBInstanceStatus": "backing-up", "MultiAZ": True, "ReadReplicaSourceDBInstanceIdentifier": "one"}
    client, _ = rds_answering("describe_db_instances", {"DBInstances": [instance]})
    assert rds.status(client, "two") == rds.MemberStatus("backing-up", "one", True)


@pytest.mark.parametrize(
    ("answer", "status"),
    [("DBInstanceNotFound", "absent"), ("DBInstanceNotFoundFault", "absent"), ("Throttling", "unknown")],
)
def test_a_member_that_is_gone_is_told_from_an_api_that_fails(answer: str, status: str) -> None:
    client, _ = rds_answering("describe_db_instances", answer)
    assert rds.status(client, "two").status == status
    client, _ = rds_answering("describe_db_instances", {"DBInstances": []})
    assert rds.status(client, "two").status == "unknown"


def test_events_are_read_oldest_first_and_never_fail() -> None:
    listed = [
        {
            "Date": datetime(2027, 1, 15, 8, 0, second, tzinfo=UTC),
            "Message": f"Multi-AZ instance failover {word}.",
            "EventCategories": ["failover"] if word != "mentioned" else [],
        }
        for second, word in ((9, "completed"), (0, "started"), (10, "mentioned"))
    ]
    client, _ = rds_answering("describe_events", {"Events": listed})
    started, ended, other = rds.events(client, "one")
    assert started.failover_started
    assert not started.failover_ended
    assert ended.failover_ended
    assert not any((other.failure, other.failover_started))
    client, _ = rds_answering("describe_events", "Throttling")
    assert rds.events(client, "one") == ()


def test_the_table_of_virtual_time_answers_as_dynamodb_does(table: RecoveryTable) -> None:
    """Lease, roles, operation and history on both: whoever lives in virtual time meets the same races."""

    def lived(kept: RecoveryTable) -> list[Any]:
        first = incident.take_lease(kept, 1, "a", NOW, NOW - 2)
        assert first is not None
        outcomes: list[Any] = [
            incident.take_lease(kept, 1, "c", NOW + 1),
            incident.take_lease_for(kept, 1, first.incident, NOW + 2) is not None,
            incident.take_over_lease(kept, Lease(1, "nobody", NOW, "a"), 1, "c", NOW),
            incident.take_lease(kept, 1, "c", NOW + 2 + incident.LEASE_SECONDS) is not None,
            kept.delete_if("lease", "incident = :it", {":it": first.incident}),
            roles.create(kept, "one", "two", NOW),
            roles.create(kept, "two", "one", NOW),
            roles.advance(kept, 1, "two", "one", NOW + 9),
            roles.advance(kept, 1, "two", "one", NOW + 10),
            roles.set_protected(kept, 1, True),
            roles.set_protected(kept, 2, True),
            operation.claim(kept, "reprotect", "x", NOW),
            operation.claim(kept, "switchover", "y", NOW + 1),
            operation.claim(kept, "reprotect", "x", NOW + 2),
            operation.running(kept, NOW + 3),
        ]
        kept.put("incident#1", {"outcome": "promoted", "epoch": 1, "timeline": "[]", "started_at": iso(NOW)})
        return [*outcomes, history.read(kept), roles.known(kept)]

    assert lived(Kept()) == lived(table)
    with pytest.raises(ValueError, match="no form that is known"):
        Kept().put_if("x", {}, "size(a) > :b", {":b": 1})
