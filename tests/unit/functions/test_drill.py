"""The drill machine's questions, asked of real members and of moto's AWS."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from functions import clients, drill
from recovery import (
    alarm_states,
    evidence,
    evidence_store,
    heartbeat,
    incident,
    operation,
    pause,
    provenance,
    rds,
    report_page,
    roles,
)
from recovery import drill as rules
from recovery.alarm_states import AlarmState
from recovery.clock import iso
from recovery.drill import Claim
from recovery.operation import Operation
from recovery.provenance import Provenance
from recovery.table import RecoveryTable
from tests.contingency_test_report import missing, section
from tests.unit.functions.conftest import Context
from tests.unit.recovery.conftest import PRIMARY, STANDBY, Pair

PREFIX = "citizens-drill-test"
SHOWN: list[float] = []


@pytest.fixture(autouse=True)
def told(deployed: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the function is told beside what all are, a primary that RDS knows, and CloudWatch's ear."""
    monkeypatch.setenv("DATABASE_USER", "citizens_drill")
    for name, value in {
        "DRILL_PREFIX": PREFIX,
        "DRILL_TAG": "citizens:drill",
        "DRILL_DAYS": "30",
        "PROMOTION_SECONDS": "480",
    }.items():
        monkeypatch.setenv(name, value)
    instance(PRIMARY, tagged=False)
    SHOWN.clear()

    real = boto3.client("cloudwatch")

    class CloudWatch:
        get_paginator = real.get_paginator

        def put_metric_data(self, **request: Any) -> None:
            SHOWN.extend(each["Value"] for each in request["MetricData"] if each["MetricName"] == "DaysSinceDrill")

    monkeypatch.setattr(clients, "cloudwatch", CloudWatch)


def instance(name: str, tagged: bool = True) -> None:
    boto3.client("rds").create_db_instance(
        DBInstanceIdentifier=name,
        DBInstanceClass="db.t4g.medium",
        Engine="postgres",
        MasterUsername="citizens",
        MasterUserPassword="not-a-secret",
        AllocatedStorage=20,
        Tags=[{"Key": "citizens:drill", "Value": "test"}] if tagged else [],
    )


@pytest.fixture
def executions(deployed: Pair) -> Callable[[], str]:
    states = boto3.client("stepfunctions")
    machine = states.create_state_machine(
        name="citizens-drill-machine-test",
        definition=json.dumps({"StartAt": "End", "States": {"End": {"Type": "Succeed"}}}),
        roleArn="arn:aws:iam::123456789012:role/drill",
    )["stateMachineArn"]
    return lambda: str(states.start_execution(stateMachineArn=machine)["executionArn"])


def begin(ask: str, execution: str = "arn:mine", name: str = "20270115T080000Z-abcd") -> dict[str, Any]:
    event = {"step": "begin", "ask": ask, "drill": name, "by": "me", "execution": execution}
    return drill.handler(event, Context())


def end(**rest: Any) -> dict[str, Any]:
    event: dict[str, Any] = {
        "step": "end",
        "drill": "20270115T080000Z-abcd",
        "kind": "replica",
        "epoch": 1,
        "outcome": "",
        "reason": "",
        "marks": {"began": 1.8e12, "asked": 1.8e12 + 500, "promote": 1.8e12 + 9000, "verified": 1.8e12 + 19000},
        "measured": {"lag_seconds": 0.5},
        "verified": {"verified": True, "missing_seconds": 1.5},
        "account": {"target_reached": True},
        "timeline": [{"at": iso(1.8e9), "event": "started by me"}],
        "started_at": iso(1.8e9),
        "execution": "arn:mine",
        "identifier": f"{PREFIX}-20270115080000",
        "by": "me",
        "preflight": [{"check": "incident", "verdict": "ok", "found": "none"}],
        "resolution": 2.3456,
        **rest,
    }
    return drill.handler(event, Context())


def test_a_drill_begins_with_a_name_for_its_copy_and_the_same_one_when_asked_again(table: RecoveryTable) -> None:
    first = begin("replica")
    assert first["outcome"] is None
    assert (first["kind"], first["drill"], first["epoch"]) == ("replica", "20270115T080000Z-abcd", 1)
    assert (first["primary"], first["source"], first["orphans"]) == (PRIMARY, PRIMARY, [])
    assert rules.is_copy(PREFIX, ("a", "b"), first["identifier"], [{"Key": "a", "Value": "b"}])
    assert begin("replica") == first, "its answer was lost"
    claim = rules.claimed(table)
    assert claim is not None
    assert (claim.kind, claim.identifier, claim.execution) == ("replica", first["identifier"], "arn:mine")


def test_only_what_has_name_and_tag_of_a_copy_is_an_orphan_and_never_ones_own(table: RecoveryTable) -> None:
    instance(f"{PREFIX}-20260101000000")
    instance(f"{PREFIX}-20260102000000", tagged=False)
    instance("citizens-drill-test-more-20260101000000")
    instance("citizens-restored-test")
    assert begin("sweep")["orphans"] == [f"{PREFIX}-20260101000000"]
    own = begin("replica")
    instance(own["identifier"])
    assert begin("replica")["orphans"] == [f"{PREFIX}-20260101000000"]


HINDERED: dict[str, Callable[[RecoveryTable], object]] = {
    "holds the lease": lambda table: incident.take_lease(table, 1, "a", time.time()),
    "An operation runs: reprotect": lambda table: table.put(
        operation.RECORD, Operation("reprotect", "arn", time.time()).__dict__
    ),
    "paused until": lambda table: pause.begin(table, "patching", 60, "me", time.time()),
    "is no standby": lambda table: roles.set_protected(table, 1, False),
    "Nobody knows the roles yet": lambda table: table.delete_if("roles", "epoch = :one", {":one": 1}),
}


@pytest.mark.parametrize("sentence", HINDERED)
def test_nothing_begins_beside_anything_else(table: RecoveryTable, sentence: str) -> None:
    """Who asked for it is refused; the schedule tries again the next night. Neither names a copy."""
    HINDERED[sentence](table)
    table.put(rules.LEDGER, {"since": time.time() - 40 * rules.DAY_SECONDS})
    refused, postponed = begin("replica"), begin("due")
    assert (refused["outcome"], postponed["outcome"]) == ("refused", "postponed")
    for order in (refused, postponed):
        assert sentence in order["reason"]
        assert order["identifier"] == ""
    claim = rules.claimed(table)
    assert claim is not None
    assert claim.kind == "", "nothing to bury, should this execution be killed now"


def test_every_night_tells_the_days_and_holds_what_is_due(table: RecoveryTable) -> None:
    assert begin("due")["outcome"] == "idle"
    assert [pytest.approx(0, abs=0.01)] == SHOWN
    now = time.time()
    table.put(rules.LEDGER, {"since": now - 90 * rules.DAY_SECONDS, "restore_at": now, "restore_passed_at": now})
    order = begin("due")
    assert (order["outcome"], order["kind"]) == (None, "replica")
    assert SHOWN[-1] == pytest.approx(90, abs=0.01)


def test_nothing_is_restored_before_rds_names_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rds, "restorable_until", lambda *_: None)
    assert "names no time" in begin("restore")["reason"]
    known = {PRIMARY: 100.0, STANDBY: 200.0}
    monkeypatch.setattr(rds, "restorable_until", lambda _, names: known[names[0]])
    order = begin("restore")
    assert (order["outcome"], order["source"]) == (None, STANDBY), "whose backups reach further"


def test_one_drill_at_a_time(executions: Callable[[], str], table: RecoveryTable) -> None:
    running = executions()
    rules.claim(table, Claim("i", "replica", f"{PREFIX}-20270115080000", running, 1.8e9, "me", 1), None)
    assert begin("replica")["reason"] == f"Another drill runs: {running}."
    assert begin("replica")["outcome"] == "refused"
    assert begin("due")["outcome"] == begin("sweep")["outcome"] == "idle"
    assert begin("sweep")["orphans"] == [], "its copy is nobody's business"


def test_a_drill_whose_execution_was_stopped_is_buried_once(
    executions: Callable[[], str], table: RecoveryTable
) -> None:
    dead = executions()
    boto3.client("stepfunctions").stop_execution(executionArn=dead, cause="somebody's hand")
    copy = f"{PREFIX}-20270115080000"
    instance(copy)
    rules.claim(table, Claim("i", "replica", copy, dead, 1.8e9, "me", 1), None)
    order = begin("sweep")
    assert (order["outcome"], order["orphans"]) == ("idle", [copy])
    record = table.get("drill#i")
    assert record is not None
    assert (record["outcome"], record["kind"]) == ("aborted", "replica drill")
    assert record["reason"].startswith("The execution ended as ABORTED")
    assert record["ended_at"]
    assert rules.ledger(table, 0.0).kinds["replica"].at is None


def test_a_copy_that_is_looked_at_shows_where_it_answers_and_what_to_give_way_to(table: RecoveryTable) -> None:
    order = begin("replica")
    look = {"step": "look", "identifier": order["identifier"], "epoch": 1, "execution": "arn:mine"}
    assert drill.handler(look, Context())["status"] == "absent"
    instance(order["identifier"])
    seen = drill.handler(look, Context())
    assert (seen["status"], seen["replica_of"], seen["interruption"]) == ("available", "", None)
    assert seen["host"]
    assert seen["port"]
    rules.ask_to_end(table, "arn:mine", "Ended by me: enough.")
    assert drill.handler(look, Context())["interruption"] == "Ended by me: enough."
    assert "taken this drill's place" in drill.handler({**look, "execution": "arn:other"}, Context())["interruption"]


def test_a_replicas_lag_is_measured_by_the_heartbeat_and_a_standby_is_not_taken_for_promoted(deployed: Pair) -> None:
    def place(member: str) -> dict[str, Any]:
        endpoint = deployed.members[member].endpoint
        return {"host": endpoint.host, "port": endpoint.port}

    measured = drill.handler({"step": "measure", **place(STANDBY)}, Context())
    assert (measured["behind"], measured["trouble"]) == (True, "There is no heartbeat to measure by yet.")
    now = time.time()
    with deployed.open() as session:
        heartbeat.write(session, "a", 1, now - 5, 5)
        heartbeat.write(session, "c", 1, now, 5)
    for _ in range(50):
        measured = drill.handler({"step": "measure", **place(STANDBY)}, Context())
        if not measured["behind"]:
            break
        time.sleep(0.1)
    assert measured["lag_seconds"] == 0, measured
    assert measured["lag_bytes"] >= 0
    verify = {"step": "verify", "asked_at": iso(now + 7)}
    assert drill.handler({**verify, **place(STANDBY)}, Context()) == {
        "verified": False,
        "trouble": "It is in recovery still.",
    }
    verified = drill.handler({**verify, **place(PRIMARY)}, Context())
    assert (verified["verified"], verified["missing_seconds"]) == (True, pytest.approx(7, abs=0.01))
    later = drill.handler({**verify, **place(PRIMARY), "asked_at": iso(now - 60)}, Context())
    assert later["missing_seconds"] == 0, "it holds more than was asked for"
    nobody = drill.handler({"step": "measure", "host": "127.0.0.1", "port": 1}, Context())
    assert (nobody["behind"], "127.0.0.1:1" in nobody["trouble"]) == (True, True)


def test_the_end_of_a_drill_is_judged_kept_once_and_counted(table: RecoveryTable) -> None:
    assert end() == {
        "outcome": "passed",
        "reason": "Promoted and verified in 10.0 s; 1.5 s were missing, nothing with the log.",
    }
    record = table.get("drill#20270115T080000Z-abcd")
    assert record is not None
    assert (record["rto_seconds"], record["rpo_seconds"], record["kind"]) == (10, 1.5, "replica drill")
    assert [step["step"] for step in json.loads(record["steps"])] == ["asked", "promote", "verified"]
    assert rules.ledger(table, 0.0).kinds["replica"].passed_at == 1.8e9
    end(outcome="aborted", reason="another word")
    assert table.get("drill#20270115T080000Z-abcd") == record


MEASURED = {"lag_seconds": 0.5, "lag_bytes": 16, "primary_lsn": "0/3000148", "replayed_lsn": "0/3000138"}
ACCOUNT = {"had": "1:0/3000138", "target_reached": True, "transactions": 2, "changes": 5}


def test_the_record_of_a_drill_tells_all_that_a_test_report_has_to_tell(table: RecoveryTable) -> None:
    """Also of which commit, templates and plan, which the deploy has written down."""
    provenance.write(table, Provenance("c" * 40, "f" * 64, iso(1.8e9), {rules.PLAN: "p" * 64}))
    alarm = {
        "MetricName": "m", "Namespace": "n", "Period": 60, "EvaluationPeriods": 1, "Threshold": 1.0,
        "ComparisonOperator": "GreaterThanThreshold", "Statistic": "Maximum",
    }  # fmt: skip
    cloudwatch = boto3.client("cloudwatch")
    for name in ("citizens-same-zone-test", "citizens-same-zone-other"):
        cloudwatch.put_metric_alarm(AlarmName=name, **alarm)  # type: ignore[arg-type]
        cloudwatch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="told")
    marks = {"began": 1.7e12, "asked": 1.7e12, "promote": 1.7e12, "verified": 1.7e12 + 9000, "cleaned": 1.7e12 + 20000}
    timeline = [
        {"at": iso(1.7e9), "event": "started by me"},
        {"at": iso(1.7e9), "event": "promoteReadReplica: Rds.InvalidDbInstanceStateException"},
    ]
    end(marks=marks, measured=MEASURED, account=ACCOUNT, started_at=iso(1.7e9), timeline=timeline)
    record = table.get("drill#20270115T080000Z-abcd")
    assert record is not None
    entry = evidence.append(table, "drill#20270115T080000Z-abcd", record, 1.8e9)
    told = evidence_store.report_of(entry)
    assert list(missing(told)) == []
    page = report_page.page(told)
    assert section(page, "Alarms").count("same-zone") == 1, "of this environment only"
    for said in ("9.0 s ± 2.3 s", "8 min", "60 min"):
        assert said in section(page, "Objectives and their basis")
    assert told["deviations"][0] == "The machine: promoteReadReplica: Rds.InvalidDbInstanceStateException."
    assert told["deviations"][1].startswith("The alarm same-zone fired unexpectedly: ")
    took = {"asked": "0.0", "promote": "0.0", "verified": "9.0", "cleaned": "11.0"}
    assert told["facts"] == {f"step {name}, seconds": seconds for name, seconds in took.items()}
    assert "was gone at" in told["restoration"][0]
    assert "not recorded" not in page.lower()


def test_alarms_that_nobody_tells_of_keep_no_drill_from_its_record(
    table: RecoveryTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> list[AlarmState]:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "DescribeAlarms")

    monkeypatch.setattr(alarm_states, "read", refused)
    assert end()["outcome"] == "passed"
    record = table.get("drill#20270115T080000Z-abcd")
    assert record is not None
    assert "alarms" not in record
    told = report_page.of_record("drill#x", record)
    assert "Alarms were not watched." in section(report_page.page(told), "Alarms")
    assert (told["commit"], told["plan"]) == (None, None), "nobody wrote down what is deployed"


def test_a_drill_that_was_given_up_is_kept_and_does_not_count(table: RecoveryTable) -> None:
    end(outcome="aborted", reason="The incident i holds the lease.", verified={}, marks={"began": 1.8e12})
    record = table.get("drill#20270115T080000Z-abcd")
    assert record is not None
    assert record["outcome"] == "aborted"
    assert "rto_seconds" not in record
    assert rules.ledger(table, 0.0).kinds["replica"].at is None


def test_a_restore_counts_from_its_request_and_a_log_that_did_not_reach_it_misses() -> None:
    ended = end(kind="restore", account={"trouble": "a gap"})
    assert ended["outcome"] == "missed"
    assert "the log could not be rolled forward" in ended["reason"].lower()


def test_an_unknown_step_or_kind_is_one_sentence() -> None:
    with pytest.raises(drill.RequestUnclear, match="'dance' is none of"):
        drill.handler({"step": "dance"}, Context())
    with pytest.raises(drill.RequestUnclear, match="'waltz' is none of replica, restore"):
        end(kind="waltz")
