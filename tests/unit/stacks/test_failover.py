"""The machine: its table of states, and its rehearsal with the interpreter that the local cloud uses."""

import json
from collections.abc import Callable
from typing import Any

import jsonata  # type: ignore[import-untyped]
import pytest

from stacks.failover_machine import BUDGETS, MACHINE_TIMEOUT_SECONDS, MachineReferences, definition
from tests.unit.stacks.conftest import SUFFIX, System

REFERENCES = MachineReferences(
    arbiter_arn="arbiter",
    probe_arn="probe",
    rotation_arn="rotation",
    open_log_arn="open-log",
    cutover_arn="cutover",
    verify_arn="verify",
    topic_arn="topic",
    table_name="table",
    member_groups={"citizens-1-unit": "sg-1", "citizens-2-unit": "sg-2"},
    backup_retention_days=35,
    suffix="unit",
    reprotect_arn="reprotect",
)
STATES: dict[str, dict[str, Any]] = definition(REFERENCES)["States"]
INPUT = {"incident": "20261122T000000Z-beef", "epoch": 1, "witness": "a", "started_at": "2026-11-22T00:00:00Z"}
PROMOTE = {
    "action": "promote",
    "reason": "lost",
    "primary": "citizens-1-unit",
    "standby": "citizens-2-unit",
    "epoch": 1,
    "primary_status": "failed",
    "inputs": {},
}
Answer = Callable[[dict[str, Any]], Any]


class Refused(Exception):
    """An error that a service raises, by its Step Functions name."""


class World:
    """What the machine's tasks answer; each answer may be a value or a function of the arguments."""

    def __init__(self, **changed: Any) -> None:
        rules = [
            {"SecurityGroupRuleId": "sgr-1", "IsEgress": False},
            {"SecurityGroupRuleId": "sgr-2", "IsEgress": True},
        ]
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._answers: dict[str, Any] = {
            "Observe": PROMOTE,
            "FindIngress": lambda _: {"SecurityGroupRules": [] if self.called("RevokeIngress") else rules},
            "RevokeIngress": {},
            "RestartOldPrimary": {},
            "ForceFailover": {},
            "ConfirmFence": {"reachable": False, "in_recovery": None, "lsn": None, "error": "refused"},
            "Promote": {},
            "AwaitPromotion": {"DbInstances": [{"DbInstanceStatus": "available"}]},
            "ProbePromoted": {"reachable": True, "in_recovery": False, "lsn": "0/1", "error": None},
            "OpenLog": {"slot": "log", "begin_lsn": "0/2"},
            "PrepareDatabase": {"host": "second"},
            "PointSecret": {"host": "second"},
            "CutOver": {"epoch": 2, "host": "second"},
            "Verify": {"verified": True, "member": "citizens-2-unit", "written_at": "now", "lsn": "0/3"},
            "Record": {},
            "Notify": {},
            "StartReprotect": {},
            "ReleaseLease": {},
            **changed,
        }

    def called(self, state: str) -> int:
        return sum(1 for name, _ in self.calls if name == state)

    def arguments(self, state: str) -> dict[str, Any]:
        return next(arguments for name, arguments in reversed(self.calls) if name == state)

    def answer(self, state: str, arguments: dict[str, Any]) -> Any:
        self.calls.append((state, arguments))
        answer = self._answers[state]
        if callable(answer):
            answer = answer(arguments)
        if isinstance(answer, Exception):
            raise answer
        return {"Payload": answer} if STATES[state]["Resource"].endswith("lambda:invoke") else answer

    def run(self) -> tuple[list[str], dict[str, Any]]:
        """Walk the machine without its waits. Returns the visited states and the variables at the end."""
        variables: dict[str, Any] = {}
        visited = []
        name = "Begin"
        while True:
            visited.append(name)
            state = STATES[name]
            states: dict[str, Any] = {"input": INPUT, "context": {"Execution": {"Id": "arn:execution"}}}
            chosen = state
            if state["Type"] == "Task":
                chosen = self._task(name, state, states, variables)
            elif state["Type"] == "Choice":
                chosen = next(
                    (each for each in state["Choices"] if evaluate(each["Condition"], states, variables)),
                    {"Next": state["Default"]},
                )
            # All of Assign sees the variables as they were: so it is on AWS
            variables = {**variables, **evaluate(chosen.get("Assign", {}), states, variables)}
            if "Next" not in chosen:
                return visited, variables
            name = chosen["Next"]

    def _task(
        self, name: str, state: dict[str, Any], states: dict[str, Any], variables: dict[str, Any]
    ) -> dict[str, Any]:
        arguments = evaluate(state["Arguments"], states, variables)
        try:
            states["result"] = self.answer(name, arguments)
        except Refused as error:
            states["errorOutput"] = {"Error": str(error), "Cause": "because"}
            return next(each for each in state["Catch"] if {"States.ALL", str(error)} & set(each["ErrorEquals"]))
        return state


def evaluate(value: Any, states: dict[str, Any], variables: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: evaluate(part, states, variables) for key, part in value.items()}
    if isinstance(value, list):
        return [evaluate(part, states, variables) for part in value]
    if isinstance(value, str) and value.startswith("{%"):
        bindings = {
            name: jsonata.utils.Utils.NULL_VALUE if bound is None else bound
            for name, bound in {**variables, "states": states}.items()
        }
        result = jsonata.Jsonata.jsonata(value[2:-2].strip()).evaluate(None, bindings)
        assert result is not None, f"undefined: {value}"
        return result
    return value


def test_a_lost_primary_is_fenced_before_the_standby_is_promoted() -> None:
    world = World()
    visited, variables = world.run()
    assert variables["outcome"] == "promoted"
    order = [name for name in visited if STATES[name]["Type"] == "Task"]
    assert order == [
        *("Observe", "FindIngress", "RevokeIngress", "FindIngress", "ConfirmFence", "Promote", "AwaitPromotion"),
        *("ProbePromoted", "PrepareDatabase", "OpenLog", "PointSecret", "CutOver", "Verify"),
        *("Record", "Notify", "StartReprotect", "ReleaseLease"),
    ]
    assert world.arguments("StartReprotect")["Name"] == "2-20261122T000000Z-beef"
    assert world.arguments("RevokeIngress") == {"GroupId": "sg-1", "SecurityGroupRuleIds": ["sgr-1"]}
    assert world.arguments("OpenLog")["Payload"] == {"epoch": 2, "member": "citizens-2-unit"}
    order_to_cut_over = {
        "incident": INPUT["incident"],
        "epoch": 1,
        "primary": "citizens-2-unit",
        "standby": "citizens-1-unit",
    }
    assert world.arguments("PointSecret")["Payload"] == {"Step": "pointSecret", **order_to_cut_over}
    assert world.arguments("CutOver")["Payload"] == order_to_cut_over
    assert world.arguments("Promote")["BackupRetentionPeriod"] == 35


def test_the_record_holds_outcome_decision_and_timeline() -> None:
    world = World()
    world.run()
    record = world.arguments("Record")
    assert record["Key"] == {"id": {"S": f"incident#{INPUT['incident']}"}}
    values = record["ExpressionAttributeValues"]
    assert values[":outcome"] == {"S": "promoted"}
    assert json.loads(values[":decision"]["S"]) == PROMOTE
    timeline = json.loads(values[":timeline"]["S"])
    assert [entry["event"].split(" ")[0] for entry in timeline][:2] == ["machine", "decided:"]
    assert all(entry["at"].endswith("Z") for entry in timeline)


def test_a_primary_that_rds_still_calls_available_is_restarted_to_cut_its_connections() -> None:
    visited, _ = World(Observe={**PROMOTE, "primary_status": "available"}).run()
    assert visited.index("RestartOldPrimary") < visited.index("ConfirmFence")
    visited, variables = World(
        Observe={**PROMOTE, "primary_status": "available"}, RestartOldPrimary=Refused("Rds.Busy")
    ).run()
    assert variables["outcome"] == "promoted"


def test_an_old_primary_that_still_answers_is_never_replaced() -> None:
    visited, variables = World(ConfirmFence={"reachable": True, "error": None}).run()
    assert "Promote" not in visited
    assert (variables["outcome"], variables["reason"].split(":")[0]) == ("refused", "fence not shown")


def test_ingress_that_cannot_be_revoked_ends_in_a_refusal() -> None:
    visited, variables = World(
        RevokeIngress=Refused("Ec2.Denied"),
        FindIngress={"SecurityGroupRules": [{"SecurityGroupRuleId": "sgr-1", "IsEgress": False}]},
    ).run()
    assert "Promote" not in visited
    assert variables["outcome"] == "refused"


@pytest.mark.parametrize(("action", "outcome"), [("stand_by", "stood_by"), ("refuse", "refused")])
def test_the_arbiter_may_end_it_and_it_is_recorded_with_a_pause_before_the_next(action: str, outcome: str) -> None:
    visited, variables = World(Observe={**PROMOTE, "action": action, "reason": "because"}).run()
    assert (variables["outcome"], variables["reason"]) == (outcome, "because")
    assert visited[-6:] == ["Notify", "Recovered", "Cooldown", "ReleaseLease", "End", "Done"]


def test_it_waits_while_the_arbiter_says_so_and_writes_the_wait_down_once() -> None:
    answers = iter([{**PROMOTE, "action": "wait", "reason": f"{n} s"} for n in range(3)] + [PROMOTE])
    visited, variables = World(Observe=lambda _: next(answers)).run()
    assert visited.count("Pause") == 3
    assert sum("decided: wait" in entry["event"] for entry in variables["timeline"]) == 1


def test_a_decision_that_never_comes_ends_as_failed() -> None:
    visited, variables = World(Observe={**PROMOTE, "action": "wait"}).run()
    assert visited.count("Observe") == BUDGETS["Observe"].visits
    assert visited[-1] == "Failed"
    assert variables["reason"].startswith("no decision in time")


@pytest.mark.parametrize("answer", [{}, Refused("Rds.InvalidDbInstanceStateException")])
def test_a_multi_az_failover_is_forced_once(answer: Any) -> None:
    answers = iter([{**PROMOTE, "action": "force"}] * 3 + [{**PROMOTE, "action": "stand_by"}])
    world = World(Observe=lambda _: next(answers), ForceFailover=answer)
    world.run()
    assert world.called("ForceFailover") == 1
    assert world.arguments("ForceFailover") == {"DbInstanceIdentifier": "citizens-1-unit", "ForceFailover": True}
    assert world.arguments("Observe")["Payload"]["forced"] is True


def test_a_standby_that_is_still_a_replica_is_promoted_again() -> None:
    replica = {"DbInstanceStatus": "available", "ReadReplicaSourceDBInstanceIdentifier": "citizens-1-unit"}
    answers = iter([replica, {**replica, "DbInstanceStatus": "modifying"}, {"DbInstanceStatus": "available"}])
    world = World(AwaitPromotion=lambda _: {"DbInstances": [next(answers)]})
    _, variables = world.run()
    assert world.called("Promote") == 2
    assert variables["outcome"] == "promoted"


@pytest.mark.parametrize("source", [None, ""])
def test_a_source_that_rds_gives_as_nothing_is_no_source(source: str | None) -> None:
    promoted = {"DbInstanceStatus": "available", "ReadReplicaSourceDBInstanceIdentifier": source}
    world = World(AwaitPromotion={"DbInstances": [promoted]})
    assert world.run()[1]["outcome"] == "promoted"


def test_a_promotion_already_under_way_is_awaited() -> None:
    _, variables = World(Promote=Refused("Rds.InvalidDbInstanceStateException")).run()
    assert variables["outcome"] == "promoted"


def test_a_standby_still_in_recovery_is_awaited() -> None:
    answers = iter([{"reachable": True, "in_recovery": True}, {"reachable": True, "in_recovery": False}])
    visited, _ = World(ProbePromoted=lambda _: next(answers)).run()
    assert visited.count("AwaitPromotion") == 2


def test_a_promotion_that_never_ends_is_given_up() -> None:
    _, variables = World(AwaitPromotion={"DbInstances": [{"DbInstanceStatus": "rebooting"}]}).run()
    assert variables["outcome"] == "failed"
    assert variables["reason"].endswith("RDS says rebooting")


@pytest.mark.parametrize(
    "state", ["Observe", "FindIngress", "ConfirmFence", "Promote", "OpenLog", "PointSecret", "Verify"]
)
def test_every_failure_is_recorded_told_and_shown_as_a_failed_run(state: str) -> None:
    visited, variables = World(**{state: Refused("States.TaskFailed")}).run()
    assert variables["reason"] == f"{state}: States.TaskFailed: because"
    assert visited[visited.index("Record") :] == [
        *("Record", "Notify", "Recovered", "Cooldown", "ReleaseLease", "End", "Failed"),
    ]


@pytest.mark.parametrize("state", ["Record", "Notify", "StartReprotect", "ReleaseLease"])
def test_trouble_at_the_end_does_not_undo_a_recovery(state: str) -> None:
    visited, variables = World(**{state: Refused("States.Timeout")}).run()
    assert variables["outcome"] == "promoted"
    assert visited[-1] == "Done"


def test_every_task_and_wait_has_a_finite_budget_and_no_other_state_takes_time() -> None:
    timed = {name for name, state in STATES.items() if state["Type"] in ("Task", "Wait")}
    assert timed == set(BUDGETS)
    for name in timed:
        state, budget = STATES[name], BUDGETS[name]
        assert budget.seconds_a_visit > 0
        if state["Type"] == "Wait":
            assert state["Seconds"] == budget.pause
            continue
        assert state["TimeoutSeconds"] == budget.timeout
        retries = sum(each["MaxAttempts"] for each in state.get("Retry", []))
        assert retries == budget.attempts - 1
        assert state["Catch"][-1]["ErrorEquals"] == ["States.ALL"]
    assert MACHINE_TIMEOUT_SECONDS < 3600


def test_every_state_that_is_named_exists_and_is_reached() -> None:
    named = {"Begin"}
    for state in STATES.values():
        for part in (state, *state.get("Choices", []), *state.get("Catch", [])):
            named |= {part[key] for key in ("Next", "Default") if key in part}
    assert named == set(STATES)


def test_the_deployed_machine_logs_everything_and_is_traced(system: System) -> None:
    (machine,) = system.of("AWS::StepFunctions::StateMachine", "Failover")
    logging = machine.properties["LoggingConfiguration"]
    assert logging["Level"] == "ALL"
    assert logging["IncludeExecutionData"] is True
    assert machine.properties["TracingConfiguration"] == {"Enabled": True}
    assert '"QueryLanguage\\":\\"JSONata' in json.dumps(machine.properties["DefinitionString"])


def test_the_machines_role_touches_both_members_their_groups_and_nothing_else(system: System) -> None:
    policy = system.the("AWS::IAM::ManagedPolicy", "MachinePolicy").properties["PolicyDocument"]["Statement"]
    by_action = {json.dumps(each["Action"]): each["Resource"] for each in policy}
    assert len(by_action['"ec2:RevokeSecurityGroupIngress"']) == 2
    members = by_action['["rds:DescribeDBInstances", "rds:PromoteReadReplica", "rds:RebootDBInstance"]']
    assert [json.dumps(arn).count(f"db:citizens-{n}-{SUFFIX}") for n, arn in enumerate(members, 1)] == [1, 1]


def test_the_roles_that_services_take_are_for_this_account_only(system: System) -> None:
    for role in system.of("AWS::IAM::Role"):
        (statement,) = role.properties["AssumeRolePolicyDocument"]["Statement"]
        if statement["Principal"]["Service"] not in ("lambda.amazonaws.com", "backup.amazonaws.com"):
            assert statement["Condition"]["StringEquals"]["aws:SourceAccount"] == {"Ref": "AWS::AccountId"}


def test_what_rds_reports_about_the_members_reaches_the_topic(system: System) -> None:
    (rule,) = system.of("AWS::Events::Rule")
    pattern = rule.properties["EventPattern"]
    assert pattern["source"] == ["aws.rds"]
    assert {"failure", "failover", "availability"} <= set(pattern["detail"]["EventCategories"])
    assert len(pattern["detail"]["SourceArn"]) == 2
    (topic_policy,) = system.of("AWS::SNS::TopicPolicy")
    assert f"rule/{rule.properties['Name']}" in json.dumps(topic_policy.properties)
