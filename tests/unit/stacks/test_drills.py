"""The drill machine walked without its waits, and what its role may create and delete."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator
from typing import Any

import pytest

from stacks import drill_machine
from stacks.drill_machine import CLEANING_ROUNDS, LOG_ROUNDS, ROUNDS, SWEEPS, DrillReferences
from tests.unit.stacks.conftest import SUFFIX, System
from tests.unit.stacks.test_failover import Refused
from tests.unit.stacks.test_operations import Walk

REFERENCES = DrillReferences(
    drill_arn="drill",
    rewind_arn="rewind",
    topic_arn="topic",
    table_name="table",
    suffix="unit",
    prefix="citizens-drill-unit",
    replica={"MultiAZ": False, "Tags": [{"Key": "citizens:drill", "Value": "unit"}]},
    restored={"MultiAZ": False, "DbSubnetGroupName": "citizens-unit"},
)
MACHINE = drill_machine.definition(REFERENCES)
WITHOUT_LOG = drill_machine.definition(DrillReferences(**{**REFERENCES.__dict__, "rewind_arn": None}))
COPY = "citizens-drill-unit-20270115080000"
PRIMARY = "citizens-1-unit"
GONE = Refused("Rds.DbInstanceNotFoundException")


def order(kind: str = "replica", **rest: Any) -> dict[str, Any]:
    return {
        "outcome": None,
        "reason": "",
        "kind": kind,
        "drill": "20270115T080000Z-abcd",
        "identifier": COPY,
        "epoch": 3,
        "primary": PRIMARY,
        "source": "citizens-2-unit" if kind == "restore" else PRIMARY,
        "orphans": [],
        "preflight": [{"check": "incident", "verdict": "ok", "found": "none"}],
        **rest,
    }


def seen(status: str = "available", replica_of: str = "", interruption: str | None = None) -> dict[str, Any]:
    return {"status": status, "replica_of": replica_of, "host": "h", "port": 5432, "interruption": interruption}


class Copy:
    """An instance that is made, promoted and deleted as asked for, and how often each was asked."""

    def __init__(self, kind: str = "replica") -> None:
        self.source = PRIMARY if kind == "replica" else ""
        self.there = False

    def make(self, arguments: Any) -> Any:
        assert arguments.get("DbInstanceIdentifier", arguments.get("TargetDBInstanceIdentifier")) == COPY
        self.there = True
        return {}

    def look(self, _: Any) -> Any:
        return seen("available" if self.there else "absent", self.source)

    def promote(self, _: Any) -> Any:
        self.source = ""
        return {}

    def describe(self, _: Any) -> Any:
        return {"DbInstances": [{"DbInstanceStatus": "available"}]} if self.there else GONE

    def delete(self, arguments: Any) -> Any:
        assert arguments == {
            "DbInstanceIdentifier": COPY,
            "SkipFinalSnapshot": True,
            "DeleteAutomatedBackups": True,
        }
        self.there = False
        return {}


def held(kind: str = "replica", definition: dict[str, Any] = MACHINE, **answers: Any) -> Walk:
    copy = answers.pop("copy", None) or Copy(kind)
    given: dict[str, Any] = {
        "MayBegin": order(kind),
        "CreateReplica": copy.make,
        "Restore": copy.make,
        "Look": copy.look,
        "Measure": {"behind": False, "lag_seconds": 0.2, "trouble": ""},
        "Promote": copy.promote,
        "Verify": {"verified": True, "missing_seconds": 0.4, "trouble": ""},
        "RollForward": {"target_reached": True, "transactions": 2},
        "FindCopy": copy.describe,
        "DeleteCopy": copy.delete,
        "Record": lambda arguments: {
            "outcome": arguments["Payload"]["outcome"] or "passed",
            "reason": arguments["Payload"]["reason"] or "judged",
        },
        **answers,
    }
    return Walk(definition, {"ask": kind, "by": "me"}, **given).run()


def test_a_replica_is_made_measured_promoted_verified_rolled_forward_and_deleted() -> None:
    walk = held()
    assert walk.arguments("CreateReplica") == {
        "DbInstanceIdentifier": COPY,
        "SourceDBInstanceIdentifier": PRIMARY,
        "MultiAZ": False,
        "Tags": [{"Key": "citizens:drill", "Value": "unit"}],
    }
    assert walk.arguments("Promote") == {"DbInstanceIdentifier": COPY, "BackupRetentionPeriod": 0}
    told = walk.arguments("Record")["Payload"]
    assert list(told["marks"]) == ["began", "asked", "copied", "promote", "verified", "rolled", "cleaned"]
    assert (told["kind"], told["drill"], told["identifier"], told["outcome"]) == (
        "replica",
        "20270115T080000Z-abcd",
        COPY,
        "",
    )
    assert walk.visited[-4:] == ["Notify", "Close", "End", "Done"]
    assert walk.arguments("Close")["Key"] == {"id": {"S": "drill"}}


def test_a_backup_is_restored_to_its_latest_time_rolled_forward_to_when_it_was_asked_for_and_deleted() -> None:
    walk = held("restore")
    assert walk.arguments("Restore") == {
        "TargetDBInstanceIdentifier": COPY,
        "SourceDBInstanceIdentifier": "citizens-2-unit",
        "UseLatestRestorableTime": True,
        "MultiAZ": False,
        "DbSubnetGroupName": "citizens-unit",
    }
    told = walk.arguments("Record")["Payload"]
    assert list(told["marks"]) == ["began", "asked", "copied", "verified", "rolled", "cleaned"]
    until = walk.arguments("RollForward")["Payload"]["until"]
    assert until == walk.arguments("Verify")["Payload"]["asked_at"]
    assert "Promote" not in walk.visited


def test_without_a_log_a_drill_ends_with_the_verification() -> None:
    for kind in ("replica", "restore"):
        walk = held(kind, WITHOUT_LOG)
        assert "RollForward" not in walk.visited
        assert "DeleteCopy" in walk.visited
    assert "RollForward" not in WITHOUT_LOG["States"]


@pytest.mark.parametrize("step", ["CreateReplica", "Look", "Measure", "Promote", "Verify", "RollForward"])
def test_whatever_fails_the_copy_is_deleted_and_a_record_kept(step: str) -> None:
    copy = Copy()
    if step == "CreateReplica":
        copy.there = True  # made, although the answer was an error
    answers: dict[str, Any] = {"copy": copy, step: Refused("Some.Error")}
    walk = held(**answers)
    assert not copy.there
    assert "Record" in walk.visited
    if step != "RollForward":  # judged by the figures
        assert walk.arguments("Record")["Payload"]["outcome"] == "failed"


def test_a_drill_gives_way_in_every_wait() -> None:
    """After any number of looks: before the copy is there, while it is promoted, while the log catches up."""
    whole = [state for state in held(RollForward=_reached_at_the_third()).visited if state == "Look"]
    assert len(whole) >= 4
    for allowed in range(len(whole)):
        copy, looks = Copy(), iter(range(len(whole)))

        def look(arguments: Any, copy: Copy = copy, looks: Iterator[int] = looks, allowed: int = allowed) -> Any:
            found = copy.look(arguments)
            return found if next(looks) < allowed else {**found, "interruption": "The incident i holds the lease."}

        walk = held(copy=copy, Look=look, RollForward=_reached_at_the_third())
        told = walk.arguments("Record")["Payload"]
        assert (told["outcome"], told["reason"]) == ("aborted", "The incident i holds the lease.")
        assert not copy.there
        assert walk.visited[-1] == "Done"


def _reached_at_the_third() -> Any:
    rounds = iter(range(100))
    return lambda _: {"target_reached": next(rounds) >= 2, "transactions": 2}


def test_a_promotion_that_rds_refuses_for_now_is_asked_for_again_and_counts_from_the_first_request() -> None:
    copy, refusals = Copy(), iter([True, True])

    def promote(arguments: Any) -> Any:
        return Refused("Rds.InvalidDbInstanceStateException") if next(refusals, False) else copy.promote(arguments)

    walk = held(copy=copy, Promote=promote)
    assert walk.visited.count("Promote") == 3
    marks = walk.arguments("Record")["Payload"]["marks"]
    assert marks["verified"] > marks["promote"]


def test_a_promotion_whose_answer_was_lost_is_found_done() -> None:
    copy = Copy()

    def promote(arguments: Any) -> Any:
        copy.promote(arguments)
        return Refused("States.Timeout")

    walk = held(copy=copy, Promote=promote)
    assert walk.visited.count("Promote") == 1
    assert walk.variables["outcome"] == "passed"


def test_a_copy_that_is_there_already_is_this_executions_own() -> None:
    copy = Copy()
    copy.there = True
    walk = held(copy=copy, CreateReplica=Refused("Rds.DbInstanceAlreadyExistsException"))
    assert walk.variables["outcome"] == "passed"


def test_a_replica_that_catches_up_is_waited_for() -> None:
    lags = iter([{"behind": True, "lag_seconds": 90.0, "trouble": ""}] * 3)
    walk = held(Measure=lambda _: next(lags, {"behind": False, "lag_seconds": 3.0, "trouble": ""}))
    assert walk.visited.count("Measure") == 4


def test_the_resolution_of_a_drills_rto_is_the_time_since_the_last_look_that_found_nothing() -> None:
    """Looks are two seconds apart: the copy was ready at most so much before it was verified."""
    answers = iter([{"verified": False, "trouble": "It is in recovery still."}] * 2)
    verified = {"verified": True, "missing_seconds": 0.5, "trouble": ""}
    told = held(Verify=lambda _: next(answers, verified)).arguments("Record")["Payload"]
    assert 0 < told["resolution"] <= 3
    assert told["preflight"] == order()["preflight"]
    assert held(Verify={"verified": False, "trouble": "never"}).arguments("Record")["Payload"]["resolution"] == 0


def test_what_does_not_come_ends_the_drill_and_says_for_what_was_waited() -> None:
    walk = held(Measure={"behind": True, "lag_seconds": -1.0, "trouble": "no answer"})
    told = walk.arguments("Record")["Payload"]
    assert told["outcome"] == "failed"
    assert told["reason"] == f"Not in time: {COPY} is available. no answer"
    assert walk.visited.count("Look") == ROUNDS + 1
    assert "DeleteCopy" in walk.visited


def test_a_log_that_never_reaches_the_moment_is_judged_by_the_figures() -> None:
    walk = held(RollForward={"target_reached": False, "transactions": 0})
    assert walk.visited.count("RollForward") == LOG_ROUNDS
    assert walk.arguments("Record")["Payload"]["account"] == {"target_reached": False, "transactions": 0}


def test_a_copy_that_rds_does_not_delete_is_told_of() -> None:
    walk = held(DeleteCopy=Refused("Rds.InvalidDbInstanceStateException"))
    told = walk.arguments("Record")["Payload"]
    assert told["outcome"] == "failed"
    assert told["reason"].startswith(f"{COPY} could not be deleted; the daily sweep tries again.")
    assert walk.visited.count("DeleteCopy") == CLEANING_ROUNDS
    assert walk.visited[-1] == "Failed"


def test_what_a_killed_drill_has_left_is_deleted_before_anything_else() -> None:
    left = ["citizens-drill-unit-20260101000000", "citizens-drill-unit-20260201000000"]
    refused = iter([True])

    def delete(arguments: Any) -> Any:
        if next(refused, False):
            return Refused("Rds.InvalidDbInstanceStateException")
        left.remove(arguments["DbInstanceIdentifier"])
        return {}

    walk = held(MayBegin=lambda _: order(orphans=list(left)), DeleteOrphan=delete)
    assert left == []
    assert walk.visited.index("CreateReplica") > max(n for n, s in enumerate(walk.visited) if s == "DeleteOrphan")
    assert walk.variables["outcome"] == "passed"


def test_no_copy_is_made_beside_one_that_cannot_be_deleted() -> None:
    walk = held(
        MayBegin=order(orphans=["citizens-drill-unit-20260101000000"]), DeleteOrphan=Refused("Rds.RdsException")
    )
    assert walk.visited.count("DeleteOrphan") == SWEEPS
    assert "CreateReplica" not in walk.visited
    told = walk.arguments("Record")["Payload"]
    assert told["outcome"] == "failed"
    assert "citizens-drill-unit-20260101000000" in told["reason"]


@pytest.mark.parametrize("outcome", ["idle", "postponed"])
def test_a_night_without_a_drill_leaves_no_record_and_tells_nobody(outcome: str) -> None:
    walk = held(MayBegin=order("", outcome=outcome, identifier=""))
    assert walk.visited == ["Begin", "MayBegin", "Swept", "Close", "End", "Done"]


def test_a_drill_that_somebody_asked_for_and_may_not_be_is_recorded_as_refused() -> None:
    walk = held(MayBegin=order(outcome="refused", reason="The incident i holds the lease.", identifier=""))
    assert walk.visited == ["Begin", "MayBegin", "Swept", "Record", "Notify", "Close", "End", "Done"]


@pytest.mark.parametrize("kind", ["replica", "restore"])
@pytest.mark.parametrize("name", ["citizens-2-unit", "citizens-drill-unit", ""])
def test_nothing_is_made_under_a_name_that_is_no_copys(kind: str, name: str) -> None:
    walk = held(kind, MayBegin=order(kind, identifier=name))
    assert walk.visited == ["Begin", "MayBegin", "Swept", "Close", "End", "Failed"]


def test_a_record_that_cannot_be_kept_leaves_the_claim_to_whoever_begins_next() -> None:
    walk = held(Record=Refused("Lambda.Unknown"))
    assert "Close" not in walk.visited
    assert walk.visited[-1] == "Failed"


# What is deployed


def statements(system: System, name: str) -> Iterator[dict[str, Any]]:
    for each in system.of("AWS::IAM::ManagedPolicy", "Drills"):
        if each.properties["ManagedPolicyName"] == f"citizens-{name}-{SUFFIX}":
            for statement in each.properties["PolicyDocument"]["Statement"]:
                actions, resources = statement["Action"], statement["Resource"]
                yield {
                    "actions": [actions] if isinstance(actions, str) else actions,
                    "resources": [
                        "".join(part if isinstance(part, str) else "*" for part in each["Fn::Join"][1])
                        if isinstance(each, dict) and "Fn::Join" in each
                        else json.dumps(each)
                        for each in (resources if isinstance(resources, list) else [resources])
                    ],
                }


def test_the_machine_deletes_and_promotes_what_a_drill_has_made_and_nothing_else(system: System) -> None:
    granted = [
        resource
        for statement in statements(system, "drill-machine")
        for action in statement["actions"]
        if action in ("rds:DeleteDBInstance", "rds:PromoteReadReplica", "rds:AddTagsToResource")
        for resource in statement["resources"]
    ]
    assert len(granted) == 3
    for resource in granted:
        pattern = resource.rsplit(":", 1)[1]
        assert fnmatch.fnmatchcase(f"citizens-drill-{SUFFIX}-20270115080000", pattern)
        for other in (
            f"citizens-1-{SUFFIX}",
            f"citizens-2-{SUFFIX}",
            f"citizens-restored-{SUFFIX}",
            f"citizens-drill-{SUFFIX}-more-20270115080000",
            "citizens-drill-other-20270115080000",
        ):
            assert not fnmatch.fnmatchcase(other, pattern), other


def test_the_machine_passes_no_role_and_reaches_no_member_but_as_a_source(system: System) -> None:
    actions = {action for each in statements(system, "drill-machine") for action in each["actions"]}
    assert "iam:PassRole" not in actions
    assert not {action for action in actions if action.startswith("ec2:")}
    on_members = {
        action
        for each in statements(system, "drill-machine")
        if any(resource.endswith(f"db:citizens-1-{SUFFIX}") for resource in each["resources"])
        for action in each["actions"]
    }
    assert on_members == {"rds:CreateDBInstanceReadReplica", "rds:RestoreDBInstanceToPointInTime"}


def test_a_copy_costs_no_second_instance_and_lets_only_functions_in(system: System) -> None:
    (machine,) = system.of("AWS::StepFunctions::StateMachine", "Drills")
    definition = json.dumps(machine.properties["DefinitionString"])
    assert definition.count('\\"MultiAZ\\":false') == 2
    assert "Member1Group" not in definition
    rules = [
        each.properties
        for each in system.of("AWS::EC2::SecurityGroupIngress")
        if each.properties["GroupId"] == {"Fn::GetAtt": ["DrillGroup", "GroupId"]}
    ]
    assert [rule["SourceSecurityGroupId"] for rule in rules] == [{"Fn::GetAtt": ["FunctionGroup", "GroupId"]}]


def test_a_killed_execution_is_followed_by_a_sweep(system: System) -> None:
    (rule,) = system.of("AWS::Events::Rule", "Drills")
    assert rule.properties["EventPattern"]["detail"]["status"] == ["ABORTED", "TIMED_OUT"]
    (target,) = rule.properties["Targets"]
    assert json.loads(target["Input"])["ask"] == "sweep"
