"""The failover as one declarative table of states (Amazon States Language, JSONata). Plain data: no CDK here.

`definition` gives the machine, `BUDGETS` the longest that each state can take. The task states take their timeouts and
retries *from* the budgets, so the two cannot disagree and a prover may add them up.

Input: {"incident": str, "epoch": int, "witness": str, "started_at": ISO-8601 str}. Every path ends in Record → Notify;
the outcome is one of `promoted`, `stood_by`, `refused`, `failed`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

State = dict[str, Any]

DECISION_ROUNDS = 420
FENCE_ROUNDS = 10
CONFIRM_ROUNDS = 20
PROMOTION_ROUNDS = 480
COOLDOWN_SECONDS = 15
# Below the hour after which a witness takes a lease over: two machines never work on one epoch.
MACHINE_TIMEOUT_SECONDS = 3000


@dataclass(frozen=True)
class MachineReferences:
    """What the machine refers to: ARNs (or CDK tokens of them), names, and each member's own security group."""

    arbiter_arn: str
    probe_arn: str
    rotation_arn: str
    open_log_arn: str
    cutover_arn: str
    verify_arn: str
    topic_arn: str
    table_name: str
    member_groups: Mapping[str, str]
    backup_retention_days: int
    suffix: str
    reprotect_arn: str | None = None

    @property
    def invoked_by_a_switchover(self) -> tuple[str, ...]:
        """The functions that the states invoke which a switchover has too, and those that stop the writes."""
        return self.probe_arn, self.rotation_arn, self.open_log_arn, self.cutover_arn, self.verify_arn


@dataclass(frozen=True)
class Budget:
    """The longest one visit of a state takes, and how often it can be visited. All in seconds.

    A task is tried `attempts` times, `timeout` each, `pause` apart; a wait only pauses once.
    """

    timeout: int = 0
    attempts: int = 1
    pause: int = 0
    visits: int = 1

    @property
    def seconds_a_visit(self) -> int:
        """The longest that one visit takes, s."""
        return self.timeout * self.attempts + self.pause * max(1, self.attempts - 1)


# `visits` are limits, not expectations: the arbiter decides long before its rounds are spent, see recovery.arbiter.
BUDGETS: Mapping[str, Budget] = {
    "Observe": Budget(timeout=15, attempts=3, pause=1, visits=DECISION_ROUNDS),
    "ForceFailover": Budget(timeout=15, attempts=2, pause=1),
    "Pause": Budget(pause=2, visits=DECISION_ROUNDS),
    "FindIngress": Budget(timeout=10, attempts=3, pause=1, visits=FENCE_ROUNDS),
    "RevokeIngress": Budget(timeout=10, attempts=1, visits=FENCE_ROUNDS),
    "FencePause": Budget(pause=1, visits=FENCE_ROUNDS),
    "RestartOldPrimary": Budget(timeout=15, attempts=1),
    "ConfirmFence": Budget(timeout=15, attempts=2, pause=1, visits=CONFIRM_ROUNDS),
    "ConfirmPause": Budget(pause=1, visits=CONFIRM_ROUNDS),
    "Promote": Budget(timeout=15, attempts=3, pause=2, visits=PROMOTION_ROUNDS),
    "AwaitPromotion": Budget(timeout=10, attempts=3, pause=1, visits=PROMOTION_ROUNDS),
    "PromotionPause": Budget(pause=1, visits=PROMOTION_ROUNDS),
    "PromoteAgainPause": Budget(pause=1, visits=PROMOTION_ROUNDS),
    "ProbePromoted": Budget(timeout=15, attempts=2, pause=1, visits=PROMOTION_ROUNDS),
    "PrepareDatabase": Budget(timeout=15, attempts=1),
    "OpenLog": Budget(timeout=35, attempts=3, pause=1),
    "PointSecret": Budget(timeout=35, attempts=3, pause=1),
    "CutOver": Budget(timeout=35, attempts=3, pause=1),
    "Verify": Budget(timeout=35, attempts=4, pause=1),
    "Record": Budget(timeout=10, attempts=5, pause=2),
    "Notify": Budget(timeout=10, attempts=3, pause=2),
    "StartReprotect": Budget(timeout=10, attempts=5, pause=2),
    "Cooldown": Budget(pause=COOLDOWN_SECONDS),
    "ReleaseLease": Budget(timeout=10, attempts=5, pause=2),
}


def definition(references: MachineReferences) -> dict[str, Any]:
    """The whole machine as ASL."""
    return {
        "Comment": "Loses nothing it can keep: decide, fence, promote, cut over, verify, record",
        "QueryLanguage": "JSONata",
        "StartAt": "Begin",
        "TimeoutSeconds": MACHINE_TIMEOUT_SECONDS,
        "States": {
            **_deciding(references),
            **_fencing(references),
            **promoting(references),
            **cutting_over(references),
            **_ending(references),
        },
    }


def _deciding(references: MachineReferences) -> dict[str, State]:
    return {
        "Begin": {
            "Type": "Pass",
            "Assign": {
                "incident": "{% $states.input.incident %}",
                "epoch": "{% $states.input.epoch %}",
                "startedAt": "{% $states.input.started_at %}",
                "groups": dict(references.member_groups),
                "decision": {"action": "none", "reason": "no decision was taken"},
                "outcome": "failed",
                "reason": "",
                "forced": False,
                "rounds": 0,
                "fenceRounds": 0,
                "confirmRounds": 0,
                "promotionRounds": 0,
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
                "forced": "{% $forced %}",
            },
            assign={
                # Before `decision`, which it compares with: an entry only when the action changes
                "timeline": "{% $states.result.Payload.action = $decision.action ? $timeline : $append($timeline, "
                "[{'at': $now(), 'event': 'decided: ' & $states.result.Payload.action & ' - ' & "
                "$states.result.Payload.reason}]) %}",
                "reason": "{% $states.result.Payload.reason %}",
                "rounds": "{% $rounds + 1 %}",
                "decision": "{% $states.result.Payload %}",
            },
            following="Decide",
        ),
        "Decide": {
            "Type": "Choice",
            "Choices": [
                {"Condition": "{% $decision.action = 'promote' %}", "Next": "FindIngress"},
                _finish("{% $decision.action = 'stand_by' %}", "stood_by"),
                _finish("{% $decision.action = 'refuse' %}", "refused"),
                _finish(f"{{% $rounds >= {DECISION_ROUNDS} %}}", "failed", "'no decision in time: ' & $reason"),
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
            assign={
                "ingress": "{% [$states.result.SecurityGroupRules[IsEgress = false].SecurityGroupRuleId] %}",
                "fenceRounds": "{% $fenceRounds + 1 %}",
            },
            following="AnyIngress",
        ),
        "AnyIngress": {
            "Type": "Choice",
            "Choices": [
                _finish(
                    f"{{% $count($ingress) > 0 and $fenceRounds >= {FENCE_ROUNDS} %}}",
                    "refused",
                    "'fence not shown: the old primary still has ingress rules'",
                ),
                {"Condition": "{% $count($ingress) > 0 %}", "Next": "RevokeIngress"},
                {
                    "Condition": "{% $decision.primary_status = 'available' %}",
                    "Next": "RestartOldPrimary",
                },
            ],
            "Default": "ConfirmFence",
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
            # A rule that another attempt removed makes the whole call fail
            catch=[{"ErrorEquals": ["States.ALL"], "Next": "FencePause"}],
        ),
        "FencePause": _wait("FencePause", "FindIngress"),
        "RestartOldPrimary": _task(
            "RestartOldPrimary",
            "arn:aws:states:::aws-sdk:rds:rebootDBInstance",
            {"DbInstanceIdentifier": "{% $decision.primary %}"},
            # A security group does not cut the connections it tracks; a restart does
            assign={"timeline": _note("'restart of ' & $decision.primary & ' requested'")},
            following="ConfirmFence",
            catch=[
                {
                    "ErrorEquals": ["States.ALL"],
                    "Assign": {"timeline": _note("'restart refused: ' & $states.errorOutput.Error")},
                    "Next": "ConfirmFence",
                }
            ],
        ),
        "ConfirmFence": _invoke(
            "ConfirmFence",
            references.probe_arn,
            {"member": "{% $decision.primary %}"},
            assign={"fenced": "{% $states.result.Payload %}", "confirmRounds": "{% $confirmRounds + 1 %}"},
            following="Fenced",
        ),
        "Fenced": {
            "Type": "Choice",
            "Choices": [
                {
                    "Condition": "{% $fenced.reachable = false %}",
                    "Assign": {"timeline": _note("$decision.primary & ' is fenced'")},
                    "Next": "Promote",
                },
                _finish(
                    f"{{% $confirmRounds >= {CONFIRM_ROUNDS} %}}",
                    "refused",
                    "'fence not shown: the old primary still answers'",
                ),
            ],
            "Default": "ConfirmPause",
        },
        "ConfirmPause": _wait("ConfirmPause", "ConfirmFence"),
    }


def promoting(references: MachineReferences) -> dict[str, State]:
    """Promote → … → PrepareDatabase: of `$decision.standby`; a switchover has these states too."""
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
                _otherwise_failed("Promote"),
            ],
            retried=["States.Timeout", "Rds.SdkClientException"],
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
                "promotionRounds": "{% $promotionRounds + 1 %}",
            },
            following="Promoted",
        ),
        "Promoted": {
            "Type": "Choice",
            "Choices": [
                _finish(
                    f"{{% $promotionRounds >= {PROMOTION_ROUNDS} %}}",
                    "failed",
                    "'the standby was not promoted in time; RDS says ' & $member.status",
                ),
                {
                    "Condition": "{% $member.status = 'available' and $member.replica = false %}",
                    "Next": "ProbePromoted",
                },
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
                    "Next": "PrepareDatabase",
                }
            ],
            "Default": "PromotionPause",
        },
    }


def cutting_over(references: MachineReferences) -> dict[str, State]:
    """PrepareDatabase → … → Verify → Record; a switchover has these states too."""
    return {
        # It has replicated all that the functions need; should something be missing, OpenLog says what
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
            following="PointSecret",
        ),
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


def _ending(references: MachineReferences) -> dict[str, State]:
    fields = {
        "outcome": {"S": "{% $outcome %}"},
        "reason": {"S": "{% $reason %}"},
        "epoch": {"N": "{% $string($epoch) %}"},
        "decision": {"S": "{% $string($decision) %}"},
        "timeline": {"S": "{% $string($append($timeline, [{'at': $now(), 'event': 'outcome: ' & $outcome}])) %}"},
        "started_at": {"S": "{% $startedAt %}"},
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
                "$reason, 'decision': $decision, 'timeline': $timeline}) %}",
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
            retried=["States.Timeout"],
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
            retried=["States.Timeout", "StepFunctions.AWSStepFunctionsException"],
        )
    }


def _note(expression: str) -> str:
    """The timeline with one more entry."""
    return f"{{% $append($timeline, [{{'at': $now(), 'event': {expression}}}]) %}}"


def _finish(condition: str, outcome: str, reason: str | None = None) -> State:
    """A choice that ends the machine with an outcome; the reason stays the decision's unless one is given."""
    assign = {"outcome": outcome}
    if reason is not None:
        assign["reason"] = f"{{% {reason} %}}"
    return {"Condition": condition, "Assign": assign, "Next": "Record"}


def _otherwise_failed(name: str) -> State:
    return {
        "ErrorEquals": ["States.ALL"],
        "Assign": {
            "outcome": "failed",
            "reason": f"{{% '{name}: ' & $states.errorOutput.Error & ': ' & $string($states.errorOutput.Cause) %}}",
            "timeline": _note(f"'{name} failed: ' & $states.errorOutput.Error"),
        },
        "Next": "Record",
    }


def _task(
    name: str,
    resource: str,
    arguments: Mapping[str, Any],
    *,
    following: str,
    assign: Mapping[str, Any] | None = None,
    catch: Sequence[State] | None = None,
    retried: Sequence[str] = ("States.ALL",),
) -> State:
    budget = BUDGETS[name]
    state: State = {
        "Type": "Task",
        "Comment": f"At most {budget.seconds_a_visit} s a visit",
        "Resource": resource,
        "Arguments": dict(arguments),
        "TimeoutSeconds": budget.timeout,
        "Catch": list(catch or [_otherwise_failed(name)]),
        "Next": following,
    }
    if assign:
        state["Assign"] = dict(assign)
    if budget.attempts > 1:
        state["Retry"] = [
            {
                "ErrorEquals": list(retried),
                "IntervalSeconds": budget.pause,
                "MaxAttempts": budget.attempts - 1,
                "BackoffRate": 1,
            }
        ]
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
