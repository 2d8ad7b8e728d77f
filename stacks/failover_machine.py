"""The failover as one declarative table of states (Amazon States Language, JSONata). Plain data: no CDK here.

`definition` gives the machine, `BUDGETS` the longest that each state may take; `recovery.promise` proves from the
synthesised definition that they add up to less than the recovery time objective. Loops end by deadlines, in the form
that `recovery.worst_case` understands. A step that is not done within its budget goes to Overrun: it is tried again,
and alarmed as soon as the objective can no longer be promised.

Input: {"incident": str, "epoch": int, "witness": str, "started_at": ISO-8601 str, "since"?: ISO-8601 str, the first
failed probe, "override"?: {"by": str, "reason": str, "accepts": ["lag" | "fence", …]}}. Every path ends in Record →
Notify; the outcome is one of `promoted`, `stood_by`, `refused`, `failed`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recovery import promise
from stacks.states import retriers

State = dict[str, Any]

FENCE_SECONDS = 6
CONFIRM_SECONDS = 6
# What AWS is granted for a promotion, of which it says "several minutes or longer"
PROMOTION_SECONDS = 480
# Tried again so often in a row, so far apart; a refusal of permission, say, does not pass
OVERRUN_TRIES = 10
OVERRUN_PAUSE_SECONDS = 2
OVERRUN_EXTENSION_SECONDS = 30
GIVE_UP_SECONDS = 1500
COOLDOWN_SECONDS = 15
# Below the hour after which a witness takes a lease over: two machines never work on one epoch.
MACHINE_TIMEOUT_SECONDS = 3000
TIMELINE_ENTRIES = 100


@dataclass(frozen=True)
class MachineReferences:
    """What the machine refers to: ARNs (or CDK tokens of them), names, and each member's own security group.

    `open_log_arn` and `roll_forward_arn` are None when no transaction log is kept: the machine has no such steps then.
    """

    arbiter_arn: str
    probe_arn: str
    rotation_arn: str
    open_log_arn: str | None
    roll_forward_arn: str | None
    cutover_arn: str
    verify_arn: str
    topic_arn: str
    table_name: str
    member_groups: Mapping[str, str]
    backup_retention_days: int
    suffix: str
    grace_seconds: int = 150
    rto_seconds: int = 900
    reprotect_arn: str | None = None

    @property
    def invoked_by_a_switchover(self) -> tuple[str, ...]:
        """The functions that the states invoke which a switchover has too, and those that stop the writes."""
        arns = (self.probe_arn, self.rotation_arn, self.open_log_arn, self.roll_forward_arn, self.cutover_arn)
        return *(arn for arn in arns if arn is not None), self.verify_arn


@dataclass(frozen=True)
class Budget:
    """The longest that one visit of a state takes, s: a task is tried `attempts` times, `timeout` each, `pause` apart;
    a wait only pauses once."""

    timeout: int = 0
    attempts: int = 1
    pause: int = 0

    @property
    def seconds_a_visit(self) -> int:
        """The longest that one visit takes, s."""
        return self.timeout * self.attempts + self.pause * max(1, self.attempts - 1)


# Before the database is back a step has one attempt, and Overrun tries again: an answer that takes longer than this is
# an exception (a cold start takes 2 s, a call to AWS well below one), and must not be planned for on every step.
BUDGETS: Mapping[str, Budget] = {
    "Observe": Budget(timeout=6),
    "ForceFailover": Budget(timeout=3),
    "Pause": Budget(pause=2),
    "FindIngress": Budget(timeout=3),
    "RevokeIngress": Budget(timeout=3),
    "FencePause": Budget(pause=1),
    "RestartOldPrimary": Budget(timeout=3),
    "ConfirmFence": Budget(timeout=4),
    "ConfirmPause": Budget(pause=1),
    "Promote": Budget(timeout=3),
    "AwaitPromotion": Budget(timeout=3),
    "PromotionPause": Budget(pause=1),
    "PromoteAgainPause": Budget(pause=1),
    "ProbePromoted": Budget(timeout=4),
    "PrepareDatabase": Budget(timeout=15),
    "OpenLog": Budget(timeout=5),
    # What the standby lacked: usually a second's transactions, and 100,000 take it a few seconds
    "RollForward": Budget(timeout=11),
    # It goes on where it was cut off, for as long as its function may run; Lambda refuses it while the first still does
    "RollForwardOn": Budget(timeout=45, attempts=9, pause=5),
    "PointSecret": Budget(timeout=6),
    "CutOver": Budget(timeout=4),
    "Verify": Budget(timeout=6),
    "RtoAtRisk": Budget(timeout=5),
    "OverrunPause": Budget(pause=OVERRUN_PAUSE_SECONDS),
    "Record": Budget(timeout=10, attempts=5, pause=2),
    "Notify": Budget(timeout=10, attempts=3, pause=2),
    "StartReprotect": Budget(timeout=10, attempts=5, pause=2),
    "Cooldown": Budget(pause=COOLDOWN_SECONDS),
    "ReleaseLease": Budget(timeout=10, attempts=5, pause=2),
}
# The steps that Overrun comes back to, each by the state at which it begins anew.
RESUMED_AT: Mapping[str, str] = {
    "Observe": "Observe",
    "FindIngress": "FindIngress",
    "RevokeIngress": "FindIngress",
    "ConfirmFence": "ConfirmFence",
    "Promote": "Promote",
    "AwaitPromotion": "AwaitPromotion",
    "ProbePromoted": "AwaitPromotion",
    "PromotionOverdue": "AwaitPromotion",
    # It has replicated all that the log needs; should something be missing, it is put in place before the next try
    "OpenLog": "PrepareDatabase",
    "RollForward": "RollForwardOn",
    "PointSecret": "PointSecret",
    "CutOver": "CutOver",
    "Verify": "Verify",
}
# The deadline that is put off when a step is come back to: its time was spent on failing.
EXTENDED: Mapping[str, str] = {
    "FindIngress": "fenceBy",
    "RevokeIngress": "fenceBy",
    "ConfirmFence": "confirmBy",
    "PromotionOverdue": "promoteBy",
}


def definition(references: MachineReferences) -> dict[str, Any]:
    """The whole machine as ASL."""
    planned = _assembled(references, dict.fromkeys(_resumed_at(references), 0.0))
    return _assembled(references, remaining(planned))


def remaining(machine: Mapping[str, Any]) -> dict[str, float]:
    """How many seconds another try of each step, and all that follows it, may take from its failure on."""
    states = machine["States"]
    within = {step: at for step, at in RESUMED_AT.items() if step in states and at not in promise.OVER_BUDGET}
    seconds = {step: promise.remaining(machine, at) for step, at in within.items()}
    if "RollForward" in states:
        seconds["RollForward"] = BUDGETS["RollForwardOn"].timeout + promise.remaining(machine, "PointSecret")
    # A poll that failed does not make RDS begin anew; a promotion that is overdue may end at any time, or never
    polled = sum(BUDGETS[state].timeout for state in ("AwaitPromotion", "ProbePromoted"))
    seconds["AwaitPromotion"] = seconds["ProbePromoted"] = polled + promise.remaining(
        machine, "OpenLog" if "OpenLog" in states else "PointSecret"
    )
    seconds["PromotionOverdue"] = float(GIVE_UP_SECONDS)
    return {step: OVERRUN_PAUSE_SECONDS + each for step, each in seconds.items()}


def _assembled(references: MachineReferences, needed: Mapping[str, float]) -> dict[str, Any]:
    """`needed` tells for each step how many seconds another try and all after it may take."""
    states = {
        **_deciding(references),
        **_fencing(references),
        **promoting(references),
        **opening_log(references),
        **cutting_over(references),
        **overrunning(references),
        **_ending(references),
    }
    states["Overrun"]["Choices"][2]["Condition"] = (
        f"{{% $atRisk = false and $millis() + $lookup({json.dumps(dict(needed))}, $step) * 1000 > $recoverBy %}}"
    )
    return {
        "Comment": "Loses nothing it can keep: decide, fence, promote, cut over, verify, record",
        "QueryLanguage": "JSONata",
        "StartAt": "Accept",
        "TimeoutSeconds": MACHINE_TIMEOUT_SECONDS,
        "States": states,
    }


def _deciding(references: MachineReferences) -> dict[str, State]:
    # The arbiter decides when the grace is over; its answer may take as long as its budget
    decide_by = references.grace_seconds + BUDGETS["Observe"].timeout
    return {
        "Accept": {
            "Type": "Pass",
            "Output": "{% $merge([{'since': $states.input.started_at, 'override': {'accepts': []}}, $states.input]) %}",
            "Next": "Begin",
        },
        "Begin": {
            "Type": "Pass",
            "Assign": {
                "incident": "{% $states.input.incident %}",
                "epoch": "{% $states.input.epoch %}",
                "startedAt": "{% $states.input.started_at %}",
                "account": {"transactions": 0},
                "since": "{% $states.input.since %}",
                "override": "{% $states.input.override %}",
                "groups": dict(references.member_groups),
                "decision": {"action": "none", "reason": "no decision was taken"},
                "outcome": "failed",
                "reason": "",
                "forced": False,
                "decideBy": f"{{% $toMillis($states.input.since) + {decide_by * 1000} %}}",
                "recoverBy": f"{{% $toMillis($states.input.since) + {references.rto_seconds * 1000} %}}",
                "giveUpBy": f"{{% $millis() + {GIVE_UP_SECONDS * 1000} %}}",
                "step": "Observe",
                "tries": 0,
                "trouble": "",
                "atRisk": False,
                "ingress": [],
                "fenced": {"reachable": True, "error": "not probed"},
                "member": {"status": "unknown", "replica": True},
                "timeline": [
                    {"at": "{% $now() %}", "event": "{% 'machine started by witness ' & $states.input.witness %}"}
                ],
            },
            "Next": "Observe",
        },
        "Observe": _invoke(
            "Observe",
            references.arbiter_arn,
            {
                "incident": "{% $incident %}",
                "epoch": "{% $epoch %}",
                "started_at": "{% $startedAt %}",
                "since": "{% $since %}",
                "forced": "{% $forced %}",
                "override": "{% $override %}",
            },
            assign={
                # Before `decision`, which it compares with: an entry only when the action changes
                "timeline": "{% $states.result.Payload.action = $decision.action ? $timeline : $append($timeline, "
                "[{'at': $now(), 'event': 'decided: ' & $states.result.Payload.action & ' - ' & "
                "$states.result.Payload.reason}]) %}",
                "reason": "{% $states.result.Payload.reason %}",
                "decision": "{% $states.result.Payload %}",
                # One that was ordered meanwhile counts too
                "override": "{% $states.result.Payload.override ? $states.result.Payload.override : $override %}",
            },
            following="Decide",
        ),
        "Decide": {
            "Type": "Choice",
            "Choices": [
                {
                    "Condition": "{% $decision.action = 'promote' %}",
                    "Assign": {"fenceBy": _from_now(FENCE_SECONDS)},
                    "Next": "FindIngress",
                },
                _finish("{% $decision.action = 'stand_by' %}", "stood_by"),
                _finish("{% $decision.action = 'refuse' %}", "refused"),
                _overrun_by("decideBy", "Observe", "'still no decision: ' & $reason", ("decideBy",)),
                # A second forced failover soon after the first is abandoned by RDS (event 0034): once is enough
                {"Condition": "{% $decision.action = 'force' and $forced = false %}", "Next": "ForceFailover"},
            ],
            "Default": "Pause",
        },
        "ForceFailover": _task(
            "ForceFailover",
            "arn:aws:states:::aws-sdk:rds:rebootDBInstance",
            {"DbInstanceIdentifier": "{% $decision.primary %}", "ForceFailover": True},
            assign={"forced": True, "timeline": _note("'Multi-AZ failover forced of ' & $decision.primary")},
            following="Pause",
            # RDS refuses while it is failing over by itself, which is what was wanted
            catch=[
                {
                    "ErrorEquals": ["States.ALL"],
                    "Assign": {
                        "forced": True,
                        "timeline": _note("'Multi-AZ failover not forced: ' & $states.errorOutput.Error"),
                    },
                    "Next": "Pause",
                }
            ],
        ),
        "Pause": _wait("Pause", "Observe"),
    }


def _fencing(references: MachineReferences) -> dict[str, State]:
    return {
        "FindIngress": _task(
            "FindIngress",
            "arn:aws:states:::aws-sdk:ec2:describeSecurityGroupRules",
            {"Filters": [{"Name": "group-id", "Values": ["{% $lookup($groups, $decision.primary) %}"]}]},
            assign={"ingress": "{% [$states.result.SecurityGroupRules[IsEgress = false].SecurityGroupRuleId] %}"},
            following="AnyIngress",
        ),
        "AnyIngress": {
            "Type": "Choice",
            "Choices": [
                {
                    "Condition": "{% $count($ingress) = 0 and $decision.primary_status = 'available' %}",
                    "Next": "RestartOldPrimary",
                },
                {
                    "Condition": "{% $count($ingress) = 0 %}",
                    "Assign": {"confirmBy": _from_now(CONFIRM_SECONDS)},
                    "Next": "ConfirmFence",
                },
                {
                    "Condition": _passed("fenceBy"),
                    "Assign": {"fenced": {"reachable": True, "error": "the old primary still has ingress rules"}},
                    "Next": "Unfenced",
                },
            ],
            "Default": "RevokeIngress",
        },
        "RevokeIngress": _task(
            "RevokeIngress",
            "arn:aws:states:::aws-sdk:ec2:revokeSecurityGroupIngress",
            {
                "GroupId": "{% $lookup($groups, $decision.primary) %}",
                "SecurityGroupRuleIds": "{% $ingress %}",
            },
            assign={"timeline": _note("'ingress of ' & $decision.primary & ' revoked'")},
            # Looks again: the fence is what EC2 says is left, not that a call succeeded
            following="FindIngress",
            catch=[
                # It has used up the fence's time, which is given back: nothing was refused
                {**_overrun("RevokeIngress"), "ErrorEquals": ["States.Timeout"]},
                # A rule that another attempt removed makes the whole call fail
                {"ErrorEquals": ["States.ALL"], "Next": "FencePause"},
            ],
        ),
        "FencePause": _wait("FencePause", "FindIngress"),
        "RestartOldPrimary": _task(
            "RestartOldPrimary",
            "arn:aws:states:::aws-sdk:rds:rebootDBInstance",
            {"DbInstanceIdentifier": "{% $decision.primary %}"},
            # A security group does not cut the connections it tracks; a restart does
            assign={
                "confirmBy": _from_now(CONFIRM_SECONDS),
                "timeline": _note("'restart of ' & $decision.primary & ' requested'"),
            },
            following="ConfirmFence",
            catch=[
                {
                    "ErrorEquals": ["States.ALL"],
                    "Assign": {
                        "confirmBy": _from_now(CONFIRM_SECONDS),
                        "timeline": _note("'restart refused: ' & $states.errorOutput.Error"),
                    },
                    "Next": "ConfirmFence",
                }
            ],
        ),
        "ConfirmFence": _invoke(
            "ConfirmFence",
            references.probe_arn,
            {"member": "{% $decision.primary %}"},
            assign={"fenced": "{% $states.result.Payload %}"},
            following="Fenced",
        ),
        "Fenced": {
            "Type": "Choice",
            "Choices": [
                {
                    "Condition": "{% $fenced.reachable = false %}",
                    "Assign": {
                        "promoteBy": _from_now(PROMOTION_SECONDS),
                        "timeline": _note("$decision.primary & ' is fenced'"),
                    },
                    "Next": "Promote",
                },
                {
                    "Condition": _passed("confirmBy"),
                    "Assign": {"fenced": {"reachable": True, "error": "the old primary still answers"}},
                    "Next": "Unfenced",
                },
            ],
            "Default": "ConfirmPause",
        },
        "Unfenced": {
            "Type": "Choice",
            "Choices": [
                {
                    "Condition": "{% 'fence' in $override.accepts %}",
                    "Assign": {
                        "promoteBy": _from_now(PROMOTION_SECONDS),
                        "timeline": _note("$override.by & ' accepts that ' & $fenced.error & ': ' & $override.reason"),
                    },
                    "Next": "Promote",
                },
            ],
            "Default": "RefuseUnfenced",
        },
        "RefuseUnfenced": {
            "Type": "Pass",
            "Assign": {"outcome": "refused", "reason": "{% 'fence not shown: ' & $fenced.error %}"},
            "Next": "Record",
        },
        "ConfirmPause": _wait("ConfirmPause", "ConfirmFence"),
    }


def promoting(references: MachineReferences) -> dict[str, State]:
    """Promote → … → OpenLog: of `$decision.standby`; a switchover has these states too."""
    return {
        "Promote": _task(
            "Promote",
            "arn:aws:states:::aws-sdk:rds:promoteReadReplica",
            {
                "DbInstanceIdentifier": "{% $decision.standby %}",
                # Left out, a promotion sets the retention back to one day
                "BackupRetentionPeriod": references.backup_retention_days,
            },
            assign={"timeline": _note("'promotion of ' & $decision.standby & ' requested'")},
            following="AwaitPromotion",
            # Already promoted, or on its way: the next states find out which
            catch=[
                {
                    "ErrorEquals": ["Rds.InvalidDbInstanceStateException", "Rds.InvalidDBInstanceStateException"],
                    "Next": "AwaitPromotion",
                },
                _overrun("Promote"),
            ],
        ),
        "AwaitPromotion": _task(
            "AwaitPromotion",
            "arn:aws:states:::aws-sdk:rds:describeDBInstances",
            {"DbInstanceIdentifier": "{% $decision.standby %}"},
            assign={
                "member": {
                    "status": "{% $states.result.DbInstances[0].DbInstanceStatus %}",
                    "replica": "{% $exists($states.result.DbInstances[0].ReadReplicaSourceDBInstanceIdentifier) ? "
                    "$length($string($states.result.DbInstances[0].ReadReplicaSourceDBInstanceIdentifier)) > 0 and "
                    "$states.result.DbInstances[0].ReadReplicaSourceDBInstanceIdentifier != null : false %}",
                },
            },
            following="Promoted",
        ),
        "Promoted": {
            "Type": "Choice",
            "Choices": [
                {
                    "Condition": "{% $member.status = 'available' and $member.replica = false %}",
                    "Next": "ProbePromoted",
                },
                _overrun_by(
                    "promoteBy", "PromotionOverdue", "'the standby is not promoted yet; RDS says ' & $member.status"
                ),
                # The status stays `available` for seconds after the call, so asking again may be refused, harmlessly
                {"Condition": "{% $member.status = 'available' %}", "Next": "PromoteAgainPause"},
            ],
            "Default": "PromotionPause",
        },
        "PromotionPause": _wait("PromotionPause", "AwaitPromotion"),
        "PromoteAgainPause": _wait("PromoteAgainPause", "Promote"),
        "ProbePromoted": _invoke(
            "ProbePromoted",
            references.probe_arn,
            {"member": "{% $decision.standby %}"},
            assign={"promoted": "{% $states.result.Payload %}"},
            following="Writable",
        ),
        "Writable": {
            "Type": "Choice",
            "Choices": [
                {
                    "Condition": "{% $promoted.reachable = true and $promoted.in_recovery = false %}",
                    "Assign": {"timeline": _note("$decision.standby & ' is promoted'")},
                    "Next": "OpenLog" if references.open_log_arn else "PointSecret",
                },
                _overrun_by("promoteBy", "PromotionOverdue", "'the promoted standby takes no writes yet'"),
            ],
            "Default": "PromotionPause",
        },
    }


def cutting_over(references: MachineReferences) -> dict[str, State]:
    """PointSecret → CutOver → Verify → Record; a switchover has these states too."""
    return {
        "PointSecret": _invoke(
            "PointSecret",
            references.rotation_arn,
            {
                "Step": "pointSecret",
                "incident": "{% $incident %}",
                "epoch": "{% $epoch %}",
                "primary": "{% $decision.standby %}",
                "standby": "{% $decision.primary %}",
            },
            assign={"timeline": _note("'secret points at ' & $states.result.Payload.host")},
            following="CutOver",
        ),
        "CutOver": _invoke(
            "CutOver",
            references.cutover_arn,
            {
                "incident": "{% $incident %}",
                "epoch": "{% $epoch %}",
                "primary": "{% $decision.standby %}",
                "standby": "{% $decision.primary %}",
            },
            assign={"timeline": _note("'cut over to ' & $states.result.Payload.host")},
            following="Verify",
        ),
        "Verify": _invoke(
            "Verify",
            references.verify_arn,
            {},
            assign={
                "outcome": "promoted",
                "timeline": _note("'written and read back on ' & $states.result.Payload.member"),
            },
            following="Record",
        ),
    }


def _resumed_at(references: MachineReferences) -> dict[str, str]:
    of_the_log = () if references.open_log_arn is not None else ("OpenLog", "RollForward")
    return {step: at for step, at in RESUMED_AT.items() if step not in of_the_log}


def opening_log(references: MachineReferences) -> dict[str, State]:
    """Of the new epoch, and what the old one has beyond the standby is applied; nothing when no log is kept."""
    if references.open_log_arn is None or references.roll_forward_arn is None:
        return {}
    return {
        "PrepareDatabase": _task(
            "PrepareDatabase",
            "arn:aws:states:::lambda:invoke",
            {
                "FunctionName": references.rotation_arn,
                "Payload": {"Step": "prepareDatabase", "member": "{% $decision.standby %}"},
            },
            following="OpenLog",
            catch=[
                {
                    "ErrorEquals": ["States.ALL"],
                    "Assign": {"timeline": _note("'database not prepared: ' & $states.errorOutput.Error")},
                    "Next": "OpenLog",
                }
            ],
        ),
        "OpenLog": _invoke(
            "OpenLog",
            references.open_log_arn,
            {"epoch": "{% $epoch + 1 %}", "member": "{% $decision.standby %}"},
            assign={"timeline": _note("'transaction log opened at ' & $states.result.Payload.begin_lsn")},
            following="RollForward",
        ),
        # After OpenLog, so that what it applies is in the new epoch's log, and before clients are sent here
        "RollForward": _roll_forward("RollForward", references.roll_forward_arn, _overrun("RollForward")),
        "RollForwardOn": _roll_forward(
            "RollForwardOn",
            references.roll_forward_arn,
            # The citizens wait: what is missing is told, and can be rolled forward later
            {
                "ErrorEquals": ["States.ALL"],
                "Assign": {
                    "account": {"trouble": "{% 'not rolled forward: ' & $states.errorOutput.Error %}"},
                    "timeline": _note("'not rolled forward: ' & $states.errorOutput.Error"),
                },
                "Next": "PointSecret",
            },
        ),
    }


def _roll_forward(name: str, function_arn: str, caught: State) -> State:
    return _task(
        name,
        "arn:aws:states:::lambda:invoke",
        {"FunctionName": function_arn, "Payload": {"epoch": "{% $epoch %}", "member": "{% $decision.standby %}"}},
        assign={
            "account": "{% $states.result.Payload %}",
            "timeline": _note(
                "$string($states.result.Payload.transactions) & ' transactions rolled forward' & "
                "($exists($states.result.Payload.trouble) and $states.result.Payload.trouble != null ? "
                "', not all: ' & $states.result.Payload.trouble : '')"
            ),
        },
        following="PointSecret",
        catch=[caught],
        retried=["Lambda.TooManyRequestsException"],
    )


def overrunning(references: MachineReferences) -> dict[str, State]:
    """What happens to a step that is not done within its budget: it is tried again, and people are told in time."""
    given_up = {"outcome": "failed", "reason": "{% $trouble %}"}
    steps = _resumed_at(references)
    *others, last = steps
    return {
        "Overrun": {
            "Type": "Choice",
            "Choices": [
                {"Condition": _passed("giveUpBy"), "Assign": given_up, "Next": "Record"},
                {"Condition": f"{{% $tries >= {OVERRUN_TRIES} %}}", "Assign": given_up, "Next": "Record"},
                {"Condition": "", "Assign": {"atRisk": True}, "Next": "RtoAtRisk"},
                # A call that was throttled once, or hung, is answered the next time: only a second failure in a row is
                # worth a pause
                {"Condition": "{% $tries = 1 %}", "Next": "Resume"},
            ],
            "Default": "OverrunPause",
        },
        "RtoAtRisk": _task(
            "RtoAtRisk",
            "arn:aws:states:::sns:publish",
            {
                "TopicArn": references.topic_arn,
                "Subject": f"Citizens database {references.suffix}: RTO at risk",
                "Message": "{% $string({'incident': $incident, 'epoch': $epoch, 'step': $step, 'trouble': $trouble, "
                "'seconds_left': $round(($recoverBy - $millis()) / 1000), 'timeline': $timeline}) %}",
            },
            assign={"timeline": _note("'RTO at risk, told: ' & $trouble")},
            following="OverrunPause",
            catch=[{"ErrorEquals": ["States.ALL"], "Next": "OverrunPause"}],
        ),
        "OverrunPause": _wait("OverrunPause", "Resume"),
        "Resume": {
            "Type": "Choice",
            "Choices": [
                {
                    "Condition": f"{{% $step = '{step}' %}}",
                    **({"Assign": {EXTENDED[step]: _from_now(OVERRUN_EXTENSION_SECONDS)}} if step in EXTENDED else {}),
                    "Next": steps[step],
                }
                for step in others
            ],
            "Default": steps[last],
        },
    }


def _ending(references: MachineReferences) -> dict[str, State]:
    fields = {
        "outcome": {"S": "{% $outcome %}"},
        "reason": {"S": "{% $reason %}"},
        "epoch": {"N": "{% $string($epoch) %}"},
        "decision": {"S": "{% $string($decision) %}"},
        "timeline": {"S": "{% $string($append($timeline, [{'at': $now(), 'event': 'outcome: ' & $outcome}])) %}"},
        "started_at": {"S": "{% $startedAt %}"},
        "account": {"S": "{% $string($account) %}"},
        "ended_at": {"S": "{% $now() %}"},
        "execution": {"S": "{% $states.context.Execution.Id %}"},
    }
    return {
        "Record": _task(
            "Record",
            "arn:aws:states:::dynamodb:updateItem",
            {
                "TableName": references.table_name,
                "Key": {"id": {"S": "{% 'incident#' & $incident %}"}},
                "UpdateExpression": "SET " + ", ".join(f"#{name} = :{name}" for name in fields),
                "ExpressionAttributeNames": {f"#{name}": name for name in fields},
                "ExpressionAttributeValues": {f":{name}": value for name, value in fields.items()},
            },
            following="Notify",
            # Not recorded is still to be told
            catch=[{"ErrorEquals": ["States.ALL"], "Next": "Notify"}],
        ),
        "Notify": _task(
            "Notify",
            "arn:aws:states:::sns:publish",
            {
                "TopicArn": references.topic_arn,
                "Subject": f"{{% 'Citizens database {references.suffix}: failover ' & $outcome %}}",
                "Message": "{% $string({'incident': $incident, 'epoch': $epoch, 'outcome': $outcome, 'reason': "
                "$reason, 'account': $account, 'decision': $decision, 'timeline': $timeline}) %}",
            },
            following="Recovered",
            catch=[{"ErrorEquals": ["States.ALL"], "Next": "Recovered"}],
        ),
        "Recovered": {
            "Type": "Choice",
            "Choices": [
                {
                    "Condition": "{% $outcome = 'promoted' %}",
                    "Next": "StartReprotect" if references.reprotect_arn else "ReleaseLease",
                }
            ],
            # The witnesses may still suspect the same loss: without a pause they would start the next machine at once
            "Default": "Cooldown",
        },
        **_reprotecting(references),
        "Cooldown": _wait("Cooldown", "ReleaseLease"),
        "ReleaseLease": _task(
            "ReleaseLease",
            "arn:aws:states:::dynamodb:deleteItem",
            {
                "TableName": references.table_name,
                "Key": {"id": {"S": "lease"}},
                "ConditionExpression": "#incident = :incident",
                "ExpressionAttributeNames": {"#incident": "incident"},
                "ExpressionAttributeValues": {":incident": {"S": "{% $incident %}"}},
            },
            following="End",
            # Another incident's lease is not ours to release, and one that stays is taken over after an hour
            catch=[{"ErrorEquals": ["States.ALL"], "Next": "End"}],
            final=["DynamoDB.ConditionalCheckFailedException"],
        ),
        "End": {
            "Type": "Choice",
            "Choices": [{"Condition": "{% $outcome = 'failed' %}", "Next": "Failed"}],
            "Default": "Done",
        },
        "Failed": {"Type": "Fail", "Error": "FailoverFailed", "Cause": "{% $reason %}"},
        # A Pass, not a Succeed, because it gives the execution its output
        "Done": {
            "Type": "Pass",
            "Output": {"incident": "{% $incident %}", "outcome": "{% $outcome %}", "reason": "{% $reason %}"},
            "End": True,
        },
    }


def _reprotecting(references: MachineReferences) -> dict[str, State]:
    """Until there is a standby again, the next loss is one for good. It begins when the lease is released."""
    if references.reprotect_arn is None:
        return {}
    return {
        "StartReprotect": _task(
            "StartReprotect",
            "arn:aws:states:::states:startExecution",
            {
                "StateMachineArn": references.reprotect_arn,
                # A repeat finds the name taken
                "Name": "{% $string($epoch + 1) & '-' & $incident %}",
                "Input": {
                    "id": "{% $incident & '-reprotect' %}",
                    "epoch": "{% $epoch + 1 %}",
                    "started_at": "{% $now() %}",
                    "automatic": True,
                    "forensics": True,
                    "by": "{% 'failover ' & $incident %}",
                },
            },
            following="ReleaseLease",
            # Recovered is recovered; that there is no standby has an alarm of its own
            catch=[{"ErrorEquals": ["States.ALL"], "Next": "ReleaseLease"}],
            final=["StepFunctions.ExecutionAlreadyExistsException"],
        )
    }


def _note(expression: str) -> str:
    """The timeline with one more entry."""
    return f"{{% $append($timeline, [{{'at': $now(), 'event': {expression}}}]) %}}"


def _finish(condition: str, outcome: str) -> State:
    """A choice that ends the machine with an outcome, for the decision's reason."""
    return {"Condition": condition, "Assign": {"outcome": outcome}, "Next": "Record"}


def _overrun(name: str) -> State:
    """A step that failed or took longer than its budget; noted the first time in a row."""
    return {
        "ErrorEquals": ["States.ALL"],
        "Assign": {
            "step": name,
            "tries": "{% $tries + 1 %}",
            "trouble": f"{{% '{name}: ' & $states.errorOutput.Error & ': ' & "
            "$substring($string($states.errorOutput.Cause), 0, 500) %}",
            "timeline": f"{{% $tries > 0 or $count($timeline) >= {TIMELINE_ENTRIES} ? $timeline : "
            f"$append($timeline, [{{'at': $now(), 'event': '{name} failed: ' & $states.errorOutput.Error}}]) %}}",
        },
        "Next": "Overrun",
    }


def _overrun_by(deadline: str, step: str, trouble: str, extended: Sequence[str] = ()) -> State:
    """A choice for a loop whose deadline has passed without what it waits for."""
    return {
        "Condition": _passed(deadline),
        "Assign": {
            "step": step,
            "trouble": f"{{% {trouble} %}}",
            **{name: _from_now(OVERRUN_EXTENSION_SECONDS) for name in extended},
        },
        "Next": "Overrun",
    }


def _passed(deadline: str) -> str:
    """The condition that `recovery.worst_case` knows as a deadline's."""
    return f"{{% $millis() >= ${deadline} %}}"


def _from_now(seconds: int) -> str:
    return f"{{% $millis() + {seconds * 1000} %}}"


def _task(
    name: str,
    resource: str,
    arguments: Mapping[str, Any],
    *,
    following: str,
    assign: Mapping[str, Any] | None = None,
    catch: Sequence[State] | None = None,
    retried: Sequence[str] = ("States.ALL",),
    final: Sequence[str] = (),
) -> State:
    budget = BUDGETS[name]
    state: State = {
        "Type": "Task",
        "Comment": f"At most {budget.seconds_a_visit} s a visit",
        "Resource": resource,
        "Arguments": dict(arguments),
        "TimeoutSeconds": budget.timeout,
        "Catch": list(catch or [_overrun(name)]),
        "Next": following,
    }
    # The tries that Overrun counts are those in a row
    if assigned := {**({"tries": 0} if name in RESUMED_AT else {}), **(assign or {})}:
        state["Assign"] = assigned
    if budget.attempts > 1:
        state["Retry"] = retriers(retried, final, budget.attempts, budget.pause)
    return state


def _invoke(
    name: str, function_arn: str, payload: Mapping[str, Any], *, assign: Mapping[str, Any], following: str
) -> State:
    return _task(
        name,
        "arn:aws:states:::lambda:invoke",
        {"FunctionName": function_arn, "Payload": dict(payload)},
        assign=assign,
        following=following,
    )


def _wait(name: str, following: str) -> State:
    seconds = BUDGETS[name].pause
    return {"Type": "Wait", "Comment": f"{seconds} s a visit", "Seconds": seconds, "Next": following}
