"""The machines of reprotect and switchover: their tables of states, walked without their waits."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from ministack.services.stepfunctions import _validate_definition_jsonata

from drills.virtual.machine import Answer as Given
from drills.virtual.machine import Machine
from stacks import failover_machine, reprotect_machine, switchover_machine
from stacks.database import CREATED, MODIFIED, OF_REQUESTS
from stacks.reprotect_machine import ERRORS, ReprotectReferences
from stacks.states import Ingress
from stacks.switchover_machine import SwitchoverReferences
from tests.unit.stacks.conftest import SUFFIX, System
from tests.unit.stacks.test_failover import REFERENCES, Refused

OLD, NEW = "citizens-1-unit", "citizens-2-unit"
INGRESS = (
    Ingress("10.60.0.0/16", {"IpProtocol": "tcp", "IpRanges": [{"CidrIp": "10.60.0.0/16"}]}),
    Ingress("sg-f", {"IpProtocol": "tcp", "UserIdGroupPairs": [{"GroupId": "sg-f", "Description": "functions"}]}),
)
TO_REPROTECT = ReprotectReferences(
    plan_arn="plan",
    topic_arn="topic",
    table_name="table",
    suffix="unit",
    created={name: {"DbInstanceIdentifier": name, "MultiAZ": True} for name in (OLD, NEW)},
    wanted={name: {"BackupRetentionPeriod": 35} for name in (OLD, NEW)},
    groups=REFERENCES.member_groups,
    ingress=INGRESS,
    keep_automated_backups=False,
)
REPROTECT = reprotect_machine.definition(TO_REPROTECT)
SWITCHOVER = switchover_machine.definition(
    SwitchoverReferences(
        failover=REFERENCES, switchover_arn="switchover", reprotect_machine_arn="reprotect", ingress=INGRESS
    )
)

FAILOVER = failover_machine.definition(replace(REFERENCES, reprotect_arn="reprotect"))


class Walk:
    """A run of a machine in which every task's answer is given: a value, a function of the arguments, or an error."""

    def __init__(self, definition: dict[str, Any], order: dict[str, Any], **answers: Any) -> None:
        self._definition = definition
        self._order = order
        self._answers: dict[str, Any] = {"Record": {}, "Notify": {}, "Close": {}, **answers}
        self.calls: list[tuple[str, Any]] = []

    def arguments(self, state: str) -> Any:
        return next(arguments for name, arguments in reversed(self.calls) if name == state)

    def run(self) -> Walk:
        done = Machine(self._definition).run(self._order, self._answer, 1_800_000_000.0)
        self.visited, self.variables = done.states, done.variables
        return self

    def _answer(self, state: str, arguments: dict[str, Any], now: float) -> Given:
        self.calls.append((state, arguments))
        answer = self._answers[state]
        answer = answer(arguments) if callable(answer) else answer
        if isinstance(answer, Refused):
            raise answer
        resource = self._definition["States"][state]["Resource"]
        return Given({"Payload": answer} if resource.endswith("lambda:invoke") else answer)


def step(action: str, **rest: Any) -> dict[str, Any]:
    return {
        "action": action,
        "reason": f"{action}.",
        "primary": NEW,
        "standby": OLD,
        "snapshot": None,
        "settings": {},
        **rest,
    }


class Rules:
    """The rules of a member's security group."""

    def __init__(self, *keys: str) -> None:
        self.keys = list(keys)

    def described(self, _: Any) -> Any:
        rules: list[dict[str, Any]] = [{"SecurityGroupRuleId": "sgr-out", "IsEgress": True, "CidrIpv4": "0.0.0.0/0"}]
        for key in self.keys:
            who = {"CidrIpv4": key} if "/" in key else {"ReferencedGroupInfo": {"GroupId": key}}
            rules.append({"SecurityGroupRuleId": f"sgr-{key}", "IsEgress": False, **who})
        return {"SecurityGroupRules": rules}

    def let_in(self, arguments: Any) -> Any:
        (permission,) = arguments["IpPermissions"]
        self.keys += [each.key for each in INGRESS if each.permission == permission]
        return {}

    def keep_out(self, arguments: Any) -> Any:
        assert arguments["SecurityGroupRuleIds"]
        self.keys = [key for key in self.keys if f"sgr-{key}" not in arguments["SecurityGroupRuleIds"]]
        return {}


def reprotected(
    *plans: Any, rules: Rules | None = None, definition: dict[str, Any] = REPROTECT, **answers: Any
) -> Walk:
    steps = iter(plans)
    last = plans[-1]
    rules = rules or Rules()
    order = {"id": "i", "epoch": 2, "started_at": "t", "automatic": True, "forensics": True, "by": "failover i"}
    given: dict[str, Any] = {
        "Plan": lambda _: next(steps, last),
        "DeleteKeepingData": {},
        "Delete": {},
        "Create": {},
        "Modify": {},
        "FindIngress": rules.described,
        "LetIn": rules.let_in,
        **answers,
    }
    return Walk(definition, order, **given).run()


def test_a_reprotect_takes_each_step_as_planned_and_records_it() -> None:
    rules = Rules()
    walk = reprotected(
        step("delete", snapshot="citizens-1-unit-fenced-1-20270115080000"),
        step("wait"),
        step("create"),
        step("modify", settings={"BackupRetentionPeriod": 35}),
        step("lift_fence"),
        step("protected"),
        rules=rules,
    )
    assert walk.arguments("DeleteKeepingData") == {
        "DbInstanceIdentifier": OLD,
        "SkipFinalSnapshot": False,
        "FinalDBSnapshotIdentifier": "citizens-1-unit-fenced-1-20270115080000",
        "DeleteAutomatedBackups": True,
    }
    assert walk.arguments("Create") == {
        "DbInstanceIdentifier": OLD,
        "MultiAZ": True,
        "SourceDBInstanceIdentifier": NEW,
    }
    assert walk.arguments("Modify") == {
        "DbInstanceIdentifier": OLD,
        "ApplyImmediately": True,
        "BackupRetentionPeriod": 35,
    }
    assert rules.keys == [each.key for each in INGRESS]
    assert walk.arguments("Plan")["Payload"]["lifted"] is True
    record = walk.arguments("Record")["ExpressionAttributeValues"]
    assert (record[":kind"]["S"], record[":outcome"]["S"]) == ("reprotect", "protected")
    events = [entry["event"] for entry in json.loads(record[":timeline"]["S"])]
    assert "delete: delete." in events
    assert walk.visited[-4:] == ["Notify", "Close", "End", "Done"]


def test_rules_that_are_there_already_are_not_given_again() -> None:
    walk = reprotected(step("lift_fence"), step("protected"), rules=Rules("sg-f"))
    assert [arguments["IpPermissions"] for name, arguments in walk.calls if name == "LetIn"] == [
        [INGRESS[0].permission]
    ]


def test_a_refused_request_is_looked_at_again_and_told_of_once() -> None:
    answers: Any = iter([Refused("Rds.InvalidDbInstanceStateException")] * 3 + [{}])
    walk = reprotected(*[step("delete")] * 4, step("protected"), Delete=lambda _: next(answers))
    assert walk.variables["outcome"] == "protected"
    assert sum("InvalidDbInstanceState" in entry["event"] for entry in walk.variables["timeline"]) == 1
    assert walk.variables["deletions"] == 1


def test_refusals_of_a_final_snapshot_are_counted_for_the_plan_and_no_other_error_is() -> None:
    errors = ["Rds.RdsException", "Rds.InvalidDbInstanceStateException", "Rds.InvalidDbInstanceStateException"]
    answers: Any = iter([*map(Refused, errors), {}])
    keeping = {**step("delete"), "snapshot": "kept"}
    walk = reprotected(*[keeping] * 4, step("protected"), DeleteKeepingData=lambda _: next(answers))
    asked = [arguments["Payload"]["refusals"] for name, arguments in walk.calls if name == "Plan"]
    assert asked == [0, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("definition", "state", "answer"),
    [
        (REPROTECT, "Close", "DynamoDB.ConditionalCheckFailedException"),
        (SWITCHOVER, "ReleaseLease", "DynamoDB.ConditionalCheckFailedException"),
        (SWITCHOVER, "StartReprotect", "StepFunctions.ExecutionAlreadyExistsException"),
        (FAILOVER, "ReleaseLease", "DynamoDB.ConditionalCheckFailedException"),
        (FAILOVER, "StartReprotect", "StepFunctions.ExecutionAlreadyExistsException"),
    ],
)
def test_what_others_wait_for_is_tried_again_until_there_is_an_answer(
    definition: dict[str, Any], state: str, answer: str
) -> None:
    """A lease that stays keeps a reprotect, a switchover and rotations waiting for an hour."""
    never, again = definition["States"][state]["Retry"]
    assert (never["ErrorEquals"], never["MaxAttempts"]) == ([answer], 0)
    assert (again["ErrorEquals"], again["MaxAttempts"] >= 4) == (["States.ALL"], True)


@pytest.mark.parametrize("state", ["Delete", "Create", "Modify", "LetIn", "FindIngress"])
def test_what_is_refused_for_ever_is_given_up_recorded_and_shown_as_a_failed_run(state: str) -> None:
    action = {"LetIn": "lift_fence", "FindIngress": "lift_fence"}.get(state, state.lower())
    refused: dict[str, Any] = {state: Refused("Rds.RdsException")}
    walk = reprotected(step(action), **refused)
    assert walk.variables["outcome"] == "failed"
    assert walk.visited[-1] == "Failed"
    assert len(walk.visited) < ERRORS * 50
    assert "Rds.RdsException" in walk.variables["reason"]


def test_a_member_that_never_becomes_available_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reprotect_machine, "ROUNDS", 30)
    walk = reprotected(step("wait"), definition=reprotect_machine.definition(TO_REPROTECT))
    assert walk.visited.count("Plan") == 30
    assert walk.variables["reason"] == "not in time: wait."


def test_a_refusal_is_an_outcome_and_no_failure() -> None:
    walk = reprotected(step("refuse"))
    assert (walk.variables["outcome"], walk.visited[-1]) == ("refused", "Done")


def switched(rules: Rules | None = None, **answers: Any) -> tuple[Walk, Rules]:
    rules = rules or Rules("10.60.0.0/16", "sg-f")
    order = {"incident": "i", "epoch": 1, "started_at": "t", "by": "operator"}
    given: dict[str, Any] = {
        "MayBegin": {"hindrance": None, "primary": OLD, "standby": NEW},
        "WarmUp": {},
        "WarmUpProbe": {},
        "FindOpenings": rules.described,
        "KeepOut": rules.keep_out,
        "StopWrites": {"sessions": 0, "lsn": "0/5"},
        "CatchUp": {"replayed": True},
        "Fence": rules.keep_out,
        "RestartOldPrimary": {},
        "Promote": {},
        "AwaitPromotion": {"DbInstances": [{"DbInstanceStatus": "available"}]},
        "ProbePromoted": {"reachable": True, "in_recovery": False},
        "PrepareDatabase": {"host": "second"},
        "OpenLog": {"slot": "log", "begin_lsn": "0/6"},
        "RollForward": {"transactions": 0, "trouble": None},
        "RtoAtRisk": {},
        "PointSecret": {"host": "second"},
        "CutOver": {"epoch": 2, "host": "second"},
        "Verify": {"verified": True, "member": NEW},
        "FindIngress": rules.described,
        "LetIn": rules.let_in,
        "ReleaseLease": {},
        "StartReprotect": {},
        **answers,
    }
    return Walk(SWITCHOVER, order, **given).run(), rules


def test_a_switchover_keeps_out_stops_catches_up_fences_and_promotes_in_this_order() -> None:
    walk, rules = switched()
    tasks = [name for name, _ in walk.calls]
    order = [
        *("MayBegin", "KeepOut", "StopWrites", "CatchUp", "Fence", "RestartOldPrimary", "Promote", "OpenLog"),
        *("PointSecret", "CutOver", "Verify", "Record", "ReleaseLease", "StartReprotect"),
    ]
    assert [name for name in tasks if name in order] == order
    assert walk.variables["outcome"] == "promoted"
    assert rules.keys == [], "somebody is still let in to the old primary"
    assert walk.arguments("CatchUp")["Payload"]["lsn"] == "0/5"
    assert walk.arguments("StartReprotect")["Input"]["forensics"] is False
    assert walk.arguments("StartReprotect")["Input"]["epoch"] == 2


def test_a_hindrance_ends_it_before_anything_is_touched() -> None:
    walk, rules = switched(MayBegin={"hindrance": "The system is paused.", "primary": OLD, "standby": NEW})
    assert walk.variables["outcome"] == "refused"
    assert walk.variables["reason"] == "The system is paused."
    assert {name for name, _ in walk.calls} == {"MayBegin", "Record", "Notify", "Close", "ReleaseLease"}
    assert len(rules.keys) == 2


@pytest.mark.parametrize(
    ("state", "answer"),
    [
        ("CatchUp", {"replayed": False}),
        ("CatchUp", Refused("States.Timeout")),
        ("StopWrites", {"sessions": 3, "lsn": "0/5"}),
        ("StopWrites", Refused("NoPasswordWorks")),
        ("KeepOut", Refused("Ec2.Ec2Exception")),
        ("FindOpenings", Refused("Ec2.Ec2Exception")),
        ("Fence", Refused("Ec2.Ec2Exception")),
    ],
)
def test_what_cannot_finish_before_the_promotion_lets_the_applications_in_again(state: str, answer: Any) -> None:
    walk, rules = switched(**{state: answer})
    assert "Promote" not in walk.visited
    assert walk.variables["outcome"] == "abandoned"
    assert sorted(rules.keys) == sorted(each.key for each in INGRESS)
    assert "StartReprotect" not in walk.visited
    assert walk.visited[-1] == "Done"


def test_applications_that_cannot_be_let_in_again_are_a_failure() -> None:
    walk, _ = switched(CatchUp={"replayed": False}, LetIn=Refused("Ec2.Ec2Exception"))
    assert walk.variables["outcome"] == "failed"
    assert "could not be let back in" in walk.variables["reason"]


def test_there_is_no_way_back_once_the_promotion_was_asked_for() -> None:
    walk, rules = switched(Promote=Refused("Rds.RdsException"))
    assert walk.variables["outcome"] == "failed"
    assert "GoBack" not in walk.visited
    assert rules.keys == []
    assert "ReleaseLease" in walk.visited, "the witnesses could not start a failover"


@pytest.mark.parametrize("definition", [REPROTECT, SWITCHOVER])
def test_every_state_that_is_named_exists_is_reached_and_catches_what_may_fail(definition: dict[str, Any]) -> None:
    states = definition["States"]
    named = {definition["StartAt"]}
    for name, state in states.items():
        for part in (state, *state.get("Choices", []), *state.get("Catch", [])):
            named |= {part[key] for key in ("Next", "Default") if key in part}
        if state["Type"] == "Task":
            assert state["TimeoutSeconds"] > 0
            assert state["Catch"][-1]["ErrorEquals"] == ["States.ALL"], name
    assert named == set(states)


def test_a_property_of_the_members_that_a_reprotect_does_not_know_fails_the_synthesis() -> None:
    from stacks import database

    complete = dict.fromkeys([*CREATED, *MODIFIED, *OF_REQUESTS], "value")
    assert set(database.made_again(complete).created) == set(CREATED.values())
    with pytest.raises(ValueError, match="iops"):
        database.made_again({**complete, "iops": 3000})


def test_the_machine_makes_each_member_as_the_template_describes_it(system: System) -> None:
    (machine,) = [
        each
        for each in system.of("AWS::StepFunctions::StateMachine", "Operations")
        if each.properties["StateMachineName"] == f"citizens-reprotect-machine-{SUFFIX}"
    ]
    text = json.dumps(machine.properties["DefinitionString"])
    for instance in system.of("AWS::RDS::DBInstance"):
        properties = instance.properties
        for name in ("DBInstanceClass", "StorageType", "PreferredBackupWindow", "PreferredMaintenanceWindow"):
            assert str(properties[name]) in text, name
        assert properties["DBInstanceIdentifier"] in text


def test_every_jsonata_expression_of_every_machine_can_be_parsed(system: System) -> None:
    """Step Functions refuses a machine with one that cannot; CloudFormation in the local cloud does not."""
    machines = system.of("AWS::StepFunctions::StateMachine")
    assert len(machines) >= 4
    for machine in machines:
        text = machine.properties["DefinitionString"]
        if not isinstance(text, str):
            text = "".join(part if isinstance(part, str) else "token" for part in text["Fn::Join"][1])
        assert _validate_definition_jsonata(text) is None, machine.logical_id
