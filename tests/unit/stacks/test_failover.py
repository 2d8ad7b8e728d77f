"""The machine: its table of states, and its rehearsal with the interpreter that the local cloud uses."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from drills.virtual.machine import Answer as Given
from drills.virtual.machine import Machine, TaskFailed
from recovery import worst_case
from recovery.clock import iso
from stacks.failover_machine import (
    BUDGETS,
    CONFIRM_SECONDS,
    GIVE_UP_SECONDS,
    MACHINE_TIMEOUT_SECONDS,
    OVERRUN_TRIES,
    PROMOTION_SECONDS,
    RESUMED_AT,
    MachineReferences,
    definition,
    remaining,
)
from tests.unit.stacks.conftest import SUFFIX, System

REFERENCES = MachineReferences(
    arbiter_arn="arbiter",
    probe_arn="probe",
    rotation_arn="rotation",
    open_log_arn="open-log",
    roll_forward_arn="roll-forward",
    cutover_arn="cutover",
    verify_arn="verify",
    topic_arn="topic",
    table_name="table",
    member_groups={"citizens-1-unit": "sg-1", "citizens-2-unit": "sg-2"},
    backup_retention_days=35,
    suffix="unit",
    reprotect_arn="reprotect",
)
DEFINITION = definition(REFERENCES)
STATES: dict[str, dict[str, Any]] = DEFINITION["States"]
MACHINE = Machine(DEFINITION)
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
STARTED = 1_795_305_600.0
"""The moment of INPUT's `started_at`, epoch seconds."""
Answer = Callable[[dict[str, Any]], Any]


class Refused(TaskFailed):
    """An error that a service raises, by its Step Functions name."""

    def __init__(self, error: str, after: float = 0.1) -> None:
        super().__init__(error, "because", after)


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
            "RollForward": {"transactions": 3, "had": "1:0/1", "reached": "1:0/9", "trouble": None},
            "RollForwardOn": {"transactions": 3, "had": "1:0/1", "reached": "1:0/9", "trouble": None},
            "PrepareDatabase": {"host": "second"},
            "PointSecret": {"host": "second"},
            "CutOver": {"epoch": 2, "host": "second"},
            "Verify": {"verified": True, "member": "citizens-2-unit", "written_at": "now", "lsn": "0/3"},
            "Record": {},
            "Notify": {},
            "StartReprotect": {},
            "RtoAtRisk": {},
            "ReleaseLease": {},
            **changed,
        }

    def at_first(self, state: str, answers: Iterator[Any]) -> None:
        """Give these answers before the usual ones."""
        usual = self._answers[state]
        self._answers[state] = lambda arguments: next(answers, None) or (usual(arguments) if callable(usual) else usual)

    def called(self, state: str) -> int:
        return sum(1 for name, _ in self.calls if name == state)

    def arguments(self, state: str) -> dict[str, Any]:
        return next(arguments for name, arguments in reversed(self.calls) if name == state)

    def answer(self, state: str, arguments: dict[str, Any], now: float) -> Given:
        self.now = now
        self.calls.append((state, arguments))
        answer = self._answers[state]
        if callable(answer):
            answer = answer(arguments)
        if isinstance(answer, Exception):
            raise answer
        taken = answer if isinstance(answer, Given) else Given(answer)
        if STATES[state]["Resource"].endswith("lambda:invoke"):
            return Given({"Payload": taken.result}, taken.after)
        return taken

    def run(self, **given: Any) -> tuple[list[str], dict[str, Any]]:
        """Run the machine in virtual time. Returns the visited states and the variables at the end."""
        self.execution = MACHINE.run({**INPUT, **given}, self.answer, STARTED)
        return self.execution.states, self.execution.variables

    @property
    def took(self) -> float:
        return self.execution.ended - STARTED


def test_a_lost_primary_is_fenced_before_the_standby_is_promoted() -> None:
    world = World()
    visited, variables = world.run()
    assert variables["outcome"] == "promoted"
    order = [name for name in visited if STATES[name]["Type"] == "Task"]
    assert order == [
        *("Observe", "FindIngress", "RevokeIngress", "FindIngress", "ConfirmFence", "Promote", "AwaitPromotion"),
        *("ProbePromoted", "OpenLog", "RollForward", "PointSecret", "CutOver", "Verify"),
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


def test_what_the_log_added_is_told_and_what_it_could_not_add_keeps_nobody_waiting() -> None:
    world = World()
    visited, variables = world.run()
    assert world.arguments("RollForward")["Payload"] == {"epoch": 1, "member": "citizens-2-unit"}
    values = world.arguments("Record")["ExpressionAttributeValues"]
    assert json.loads(values[":account"]["S"]) == {
        "transactions": 3,
        "had": "1:0/1",
        "reached": "1:0/9",
        "trouble": None,
    }
    assert "3 transactions rolled forward" in [entry["event"] for entry in variables["timeline"]]
    for answer, told in (
        ({"transactions": 0, "trouble": "t has no row"}, "0 transactions rolled forward, not all: t has no row"),
        (Refused("States.Timeout"), "not rolled forward: States.Timeout"),
    ):
        visited, variables = World(RollForward=answer, RollForwardOn=answer).run()
        assert told in [entry["event"] for entry in variables["timeline"]]
        assert "trouble" in variables["account"]
        assert visited[visited.index("PointSecret") - 1] in ("RollForward", "RollForwardOn")
        assert variables["outcome"] == "promoted"


def test_rolling_forward_for_longer_than_its_budget_goes_on_where_it_was_cut_off() -> None:
    world = World(RollForward=Given({}, 30.0), RollForwardOn=Given({"transactions": 9, "trouble": None}, 20.0))
    visited, variables = world.run()
    assert (variables["outcome"], variables["account"]["transactions"]) == ("promoted", 9)
    assert world.arguments("RollForwardOn") == world.arguments("RollForward")
    assert visited.index("RollForward") < visited.index("RollForwardOn") < visited.index("PointSecret")
    assert world.called("RtoAtRisk") == 0


def test_rolling_forward_goes_on_when_its_first_run_has_ended() -> None:
    """Lambda runs one at a time, and Step Functions' time-out ends none."""
    world = World(RollForward=Given({}, 30.0))
    world.at_first("RollForwardOn", iter([Refused("Lambda.TooManyRequestsException")] * 5))
    _, variables = world.run()
    assert world.called("RollForwardOn") == 6
    assert (variables["outcome"], variables["account"]["trouble"]) == ("promoted", None)


def test_a_primary_that_rds_still_calls_available_is_restarted_to_cut_its_connections() -> None:
    visited, _ = World(Observe={**PROMOTE, "primary_status": "available"}).run()
    assert visited.index("RestartOldPrimary") < visited.index("ConfirmFence")
    visited, variables = World(
        Observe={**PROMOTE, "primary_status": "available"}, RestartOldPrimary=Refused("Rds.Busy")
    ).run()
    assert variables["outcome"] == "promoted"


def test_an_old_primary_that_still_answers_is_never_replaced() -> None:
    world = World(ConfirmFence={"reachable": True, "error": None})
    visited, variables = world.run()
    assert "Promote" not in visited
    assert (variables["outcome"], variables["reason"]) == ("refused", "fence not shown: the old primary still answers")
    assert world.took < CONFIRM_SECONDS + BUDGETS["Cooldown"].pause + 5


def test_an_operator_may_accept_that_the_fence_is_not_shown() -> None:
    override = {"by": "duty officer", "reason": "it is unplugged", "accepts": ["fence"]}
    world = World(ConfirmFence={"reachable": True, "error": None})
    _, variables = world.run(override=override)
    assert variables["outcome"] == "promoted"
    assert world.arguments("Observe")["Payload"]["override"] == override
    told = "duty officer accepts that the old primary still answers: it is unplugged"
    assert told in [entry["event"] for entry in variables["timeline"]]
    _, variables = World(ConfirmFence={"reachable": True}, Observe={**PROMOTE, "override": override}).run()
    assert variables["outcome"] == "promoted", "one that was ordered while the incident ran"
    _, variables = World(ConfirmFence={"reachable": True}, Observe={**PROMOTE, "override": None}).run()
    assert variables["outcome"] == "refused"
    _, variables = World(ConfirmFence={"reachable": True}).run(override={**override, "accepts": ["lag"]})
    assert variables["outcome"] == "refused"


def test_ingress_that_cannot_be_revoked_ends_in_a_refusal() -> None:
    visited, variables = World(
        RevokeIngress=Refused("Ec2.Denied"),
        FindIngress={"SecurityGroupRules": [{"SecurityGroupRuleId": "sgr-1", "IsEgress": False}]},
    ).run()
    assert "Promote" not in visited
    assert (variables["outcome"], variables["reason"]) == (
        "refused",
        "fence not shown: the old primary still has ingress rules",
    )


def test_a_revocation_that_hangs_costs_the_incident_no_second_start() -> None:
    world = World()
    world.at_first("RevokeIngress", iter([Given({}, 30.0)]))
    shown = iter([{"SecurityGroupRules": [{"SecurityGroupRuleId": "sgr-1", "IsEgress": False}]}] * 15)
    world.at_first("FindIngress", shown)  # EC2 shows a while later what it has done
    visited, variables = world.run()
    assert variables["outcome"] == "promoted"
    assert visited.count("Observe") == 1
    assert world.took < 15


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


def test_a_decision_that_never_comes_is_alarmed_and_ends_as_failed() -> None:
    world = World(Observe={**PROMOTE, "action": "wait"})
    visited, variables = world.run()
    assert visited[-1] == "Failed"
    assert variables["reason"] == "still no decision: lost"
    assert world.called("RtoAtRisk") == 1
    assert GIVE_UP_SECONDS <= world.took < GIVE_UP_SECONDS + 60


def test_an_alarm_tells_while_there_is_still_time() -> None:
    """Nothing but the alarm happens: the step goes on, and its success is the incident's."""
    late: list[float] = []

    def opened(_: Any) -> Any:
        late.append(world.now)
        return Refused("States.TaskFailed", after=1) if world.now < STARTED + 890 else {"begin_lsn": "0/2"}

    answers = iter([{**PROMOTE, "action": "wait"}] * 300 + [PROMOTE])
    world = World(Observe=lambda _: next(answers), OpenLog=opened)
    _, variables = world.run()
    assert world.called("RtoAtRisk") == 1
    message = json.loads(world.arguments("RtoAtRisk")["Message"])
    assert message["step"] == "Observe"
    assert 300 < message["seconds_left"] < 900
    assert variables["outcome"] in ("promoted", "failed")


@pytest.mark.parametrize("step", sorted(set(RESUMED_AT) & set(STATES)))
def test_a_step_over_its_budget_is_tried_again_without_an_alarm_while_time_is_left(step: str) -> None:
    slow: Iterator[Any] = iter([Given({}, BUDGETS[step].timeout + 1), Refused("Lambda.TooManyRequestsException")])
    world = World()
    world.at_first(step, slow)
    _, variables = world.run()
    assert variables["outcome"] == "promoted"
    assert world.called("RtoAtRisk") == 0
    failures = [entry["event"] for entry in variables["timeline"] if "failed" in entry["event"]]
    assert failures[0] == f"{step} failed: States.Timeout"
    assert len(failures) <= 2


# Ingress that is refused to be revoked is looked at again at once: only one that hangs has cost time
@pytest.mark.parametrize("step", sorted(set(RESUMED_AT) & set(STATES) - {"RevokeIngress"}))
def test_a_step_that_fails_when_time_is_short_is_alarmed_with_the_time_left(step: str) -> None:
    """The incident began so long ago that what is left does not suffice for the step and all that follows it."""
    failing = iter([Refused("States.TaskFailed")])
    world = World()
    world.at_first(step, failing)
    needed = remaining(DEFINITION)[step]
    began = STARTED - (REFERENCES.rto_seconds - needed)
    _, variables = world.run(since=iso(began))
    assert variables["outcome"] == "promoted"
    assert world.called("RtoAtRisk") == 1
    told = json.loads(world.arguments("RtoAtRisk")["Message"])
    assert told["trouble"] == f"{step}: States.TaskFailed: because"
    assert 0 <= told["seconds_left"] <= needed


def test_the_database_is_prepared_before_the_log_is_opened_anew() -> None:
    failing = iter([Refused("PublicationMissing")])
    world = World(OpenLog=lambda _: next(failing, {"slot": "log", "begin_lsn": "0/2"}))
    visited, variables = world.run()
    assert variables["outcome"] == "promoted"
    assert visited.index("OpenLog") < visited.index("PrepareDatabase")


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


def test_a_promotion_that_never_ends_is_alarmed_and_given_up() -> None:
    world = World(AwaitPromotion={"DbInstances": [{"DbInstanceStatus": "rebooting"}]})
    _, variables = world.run()
    assert variables["outcome"] == "failed"
    assert variables["reason"].endswith("RDS says rebooting")
    assert world.called("RtoAtRisk") == 1
    told = json.loads(world.arguments("RtoAtRisk")["Message"])
    assert (told["step"], told["trouble"]) == (
        "PromotionOverdue",
        "the standby is not promoted yet; RDS says rebooting",
    )
    assert told["seconds_left"] > 900 - PROMOTION_SECONDS - 20
    assert world.took > GIVE_UP_SECONDS


def test_a_poll_that_fails_in_the_midst_of_a_promotion_is_no_risk() -> None:
    failing = iter([True])

    def status(_: Any) -> Any:
        if world.now > STARTED + 200 and next(failing, False):
            return Refused("Rds.RdsException")
        done = world.now > STARTED + 450
        return {"DbInstances": [{"DbInstanceStatus": "available" if done else "modifying"}]}

    world = World(AwaitPromotion=status)
    _, variables = world.run()
    assert (variables["outcome"], world.called("RtoAtRisk")) == ("promoted", 0)


def test_a_promotion_that_takes_longer_than_was_granted_is_awaited() -> None:
    def status(_: Any) -> Any:
        done = world.now > STARTED + PROMOTION_SECONDS + 100
        return {"DbInstances": [{"DbInstanceStatus": "available" if done else "modifying"}]}

    world = World(AwaitPromotion=status)
    _, variables = world.run()
    assert variables["outcome"] == "promoted"
    assert world.took > PROMOTION_SECONDS + 100


@pytest.mark.parametrize(
    "state", ["Observe", "FindIngress", "ConfirmFence", "Promote", "OpenLog", "PointSecret", "Verify"]
)
def test_every_failure_is_recorded_told_and_shown_as_a_failed_run(state: str) -> None:
    world = World(**{state: Refused("States.TaskFailed")})
    visited, variables = world.run()
    assert variables["reason"] == f"{state}: States.TaskFailed: because"
    assert world.called(state) == OVERRUN_TRIES
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
    for name, state in STATES.items():
        assert worst_case.budget(name, state) == (BUDGETS[name].seconds_a_visit if name in timed else 0)
        if state["Type"] == "Task":
            assert state["Catch"][-1]["ErrorEquals"] == ["States.ALL"]
    assert MACHINE_TIMEOUT_SECONDS < 3600


def test_every_state_that_is_named_exists_and_is_reached() -> None:
    assert worst_case.reachable(DEFINITION) == set(STATES)
    named = {target for state in STATES.values() for target in worst_case.successors(state)}
    assert named | {DEFINITION["StartAt"]} == set(STATES)


def test_every_path_ends_in_record_then_notify_and_in_nothing_else() -> None:
    """Without Record nothing ends: every way from the start, failures too, passes through it, and then Notify."""
    for gate in ("Record", "Notify"):
        without = {name: state for name, state in STATES.items() if name != gate}
        found, coming = set[str](), ["Accept"]
        while coming:
            name = coming.pop()
            if name in without and name not in found:
                found.add(name)
                coming += worst_case.successors(without[name])
        assert not found & {"Done", "Failed", "End"}
        assert not [name for name in found if not list(worst_case.successors(STATES[name]))]
    for name in set(STATES) - worst_case.reachable({**DEFINITION, "StartAt": "Notify"}):
        worst_case.longest(DEFINITION, to="Record", start=name)


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
    (rule,) = system.of("AWS::Events::Rule", "Failover")
    pattern = rule.properties["EventPattern"]
    assert pattern["source"] == ["aws.rds"]
    assert {"failure", "failover", "availability"} <= set(pattern["detail"]["EventCategories"])
    assert len(pattern["detail"]["SourceArn"]) == 2
    (topic_policy,) = system.of("AWS::SNS::TopicPolicy")
    assert f"rule/{rule.properties['Name']}" in json.dumps(topic_policy.properties)
