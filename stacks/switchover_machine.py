"""Switchover as one declarative table of states. Plain data: no CDK here.

Input: {"incident": str, "epoch": int, "started_at": ISO-8601 str, "by": str}, in an execution `<epoch>-<incident>`. The
outcome is one of `promoted`, `refused`, `abandoned`, `failed`. From the promotion on the states are the failover
machine's own; before it every way that does not lead there lets the applications back in to the old primary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stacks import failover_machine, states
from stacks.failover_machine import MachineReferences
from stacks.states import Ingress, State, caught, choice, note, sdk, task, when

CLOSE_ROUNDS = 10
CATCH_UP_ROUNDS = 4
# Below the hour after which a witness takes a lease over.
MACHINE_TIMEOUT_SECONDS = 3000


@dataclass(frozen=True)
class SwitchoverReferences:
    """What the machine refers to beyond the failover machine's references."""

    failover: MachineReferences
    switchover_arn: str
    reprotect_machine_arn: str
    ingress: Sequence[Ingress]


def definition(references: SwitchoverReferences) -> dict[str, Any]:
    """The whole machine as ASL."""
    shared = references.failover
    ending = states.Ending("switchover", shared.suffix, shared.table_name, shared.topic_arn)
    return {
        "Comment": "Keep the applications out, let the standby catch up, change the roles",
        "QueryLanguage": "JSONata",
        "StartAt": "Begin",
        "TimeoutSeconds": MACHINE_TIMEOUT_SECONDS,
        "States": _shared(
            shared,
            {
                **_beginning(references),
                **_stopping(references),
                **_going_back(),
                **ending.states(("promoted", "refused", "abandoned"), closed="ReleaseLease"),
                **_reprotecting(references),
            },
        ),
    }


def _shared(references: MachineReferences, own: Mapping[str, State]) -> dict[str, State]:
    """With the failover machine's states from the promotion on, which come back to their own steps only."""
    found = {
        **own,
        **failover_machine.promoting(references),
        **failover_machine.opening_log(references),
        **failover_machine.cutting_over(references),
        **failover_machine.overrunning(references),
    }
    resume = found["Resume"]
    found["Resume"] = {**resume, "Choices": [each for each in resume["Choices"] if each["Next"] in found]}
    given_up, tried, at_risk, at_once = found["Overrun"]["Choices"]
    at_risk = {**at_risk, "Condition": "{% $atRisk = false and $millis() > $recoverBy %}"}
    found["Overrun"] = {**found["Overrun"], "Choices": [given_up, tried, at_risk, at_once]}
    return found


def _beginning(references: SwitchoverReferences) -> dict[str, State]:
    shared = references.failover
    return {
        "Begin": {
            "Type": "Pass",
            "Assign": {
                "id": "{% $states.input.incident %}",
                "incident": "{% $states.input.incident %}",
                "epoch": "{% $states.input.epoch %}",
                "startedAt": "{% $states.input.started_at %}",
                "execution": "{% $states.context.Execution.Id %}",
                **states.members_rules(shared.member_groups, references.ingress),
                "decision": {"primary": "", "standby": ""},
                "outcome": "failed",
                "reason": "",
                "why": "",
                "openings": [],
                "insiders": [],
                "closeRounds": 0,
                "catchUpRounds": 0,
                "step": "Promote",
                "tries": 0,
                "trouble": "",
                "atRisk": False,
                "account": {"transactions": 0},
                "promoteBy": 0,
                "recoverBy": 0,
                "giveUpBy": 0,
                "stopped": {"sessions": 0, "lsn": "0/0"},
                "member": {"status": "unknown", "replica": True},
                "timeline": [{"at": "{% $now() %}", "event": "{% 'started by ' & $states.input.by %}"}],
            },
            "Next": "MayBegin",
        },
        "MayBegin": _ask(
            references.switchover_arn,
            {"step": "begin", "incident": "{% $incident %}", "epoch": "{% $epoch %}", "execution": "{% $execution %}"},
            assign={
                "decision": {
                    "primary": "{% $states.result.Payload.primary %}",
                    "standby": "{% $states.result.Payload.standby %}",
                },
                "reason": "{% $states.result.Payload.hindrance ? $states.result.Payload.hindrance : 'planned' %}",
                "begun": "{% $states.result.Payload.hindrance ? false : true %}",
            },
            attempts=3,
            following="Allowed",
            catch=[states.failed("MayBegin")],
        ),
        "Allowed": choice(when("$begun", "WarmUp"), otherwise="Refused"),
        "Refused": {"Type": "Pass", "Assign": {"outcome": "refused"}, "Next": "Record"},
        # What is asked for during the outage has answered just now: no function starts cold in it
        "WarmUp": _ask(
            shared.rotation_arn,
            {"Step": "prepareDatabase", "member": "{% $decision.primary %}"},
            timeout=20,
            following="WarmUpProbe",
            catch=[caught("Refused", reason="{% 'the primary could not be prepared: ' & $states.errorOutput.Error %}")],
        ),
        "WarmUpProbe": _ask(
            shared.probe_arn,
            {"member": "{% $decision.standby %}"},
            timeout=20,
            following="FindOpenings",
            catch=[caught("Refused", reason="{% 'the standby was not probed: ' & $states.errorOutput.Error %}")],
        ),
    }


def _stopping(references: SwitchoverReferences) -> dict[str, State]:
    group = "{% $lookup($groups, $decision.primary) %}"
    return {
        "FindOpenings": task(
            sdk("ec2", "describeSecurityGroupRules"),
            {"Filters": [{"Name": "group-id", "Values": [group]}]},
            timeout=10,
            attempts=3,
            assign={
                # Applications come from networks, functions from a group: its rules have no network, or null
                "openings": "{% [$states.result.SecurityGroupRules[IsEgress = false and "
                "$length($string(CidrIpv4)) > 4].SecurityGroupRuleId] %}",
                "insiders": "{% [$states.result.SecurityGroupRules[IsEgress = false and "
                "$exists(ReferencedGroupInfo.GroupId)].SecurityGroupRuleId] %}",
                "closeRounds": "{% $closeRounds + 1 %}",
            },
            following="AnyOpening",
            catch=[_abandoned("the rules of the primary could not be read")],
        ),
        "AnyOpening": choice(
            when("$count($openings) = 0", "StopWrites", timeline=note("'applications are kept out'")),
            when(f"$closeRounds > {CLOSE_ROUNDS}", "GoBack", why="applications could not be kept out"),
            otherwise="KeepOut",
        ),
        "KeepOut": task(
            sdk("ec2", "revokeSecurityGroupIngress"),
            {"GroupId": group, "SecurityGroupRuleIds": "{% $openings %}"},
            timeout=10,
            following="FindOpenings",
            catch=[caught("FindOpenings")],
        ),
        "StopWrites": _ask(
            references.failover.rotation_arn,
            {"Step": "stopWrites", "member": "{% $decision.primary %}"},
            timeout=20,
            assign={
                "stopped": "{% $states.result.Payload %}",
                "catchUpRounds": "{% $catchUpRounds + 1 %}",
                "timeline": note(
                    "'writes end at ' & $states.result.Payload.lsn & ', ' & $string($states.result.Payload.sessions) "
                    "& ' sessions left'"
                ),
            },
            following="Silent",
            catch=[_abandoned("the sessions of the applications could not be ended")],
        ),
        "Silent": choice(
            when("$stopped.sessions = 0", "CatchUp"),
            when(f"$catchUpRounds >= {CATCH_UP_ROUNDS}", "GoBack", why="sessions of applications come back"),
            otherwise="StopWrites",
        ),
        "CatchUp": _ask(
            references.switchover_arn,
            {"step": "catchUp", "standby": "{% $decision.standby %}", "lsn": "{% $stopped.lsn %}"},
            timeout=20,
            assign={"replayed": "{% $states.result.Payload.replayed %}"},
            following="CaughtUp",
            catch=[_abandoned("the standby could not be asked")],
        ),
        "CaughtUp": choice(
            when(
                "$replayed",
                "Fence",
                timeline=note("$decision.standby & ' has all that was committed'"),
            ),
            when(f"$catchUpRounds >= {CATCH_UP_ROUNDS}", "GoBack", why="the standby does not catch up"),
            otherwise="StopWrites",
        ),
        # From here on there is no way back: the functions are kept out too, and the old primary is deleted soon
        "Fence": task(
            sdk("ec2", "revokeSecurityGroupIngress"),
            {"GroupId": group, "SecurityGroupRuleIds": "{% $insiders %}"},
            timeout=10,
            attempts=2,
            assign={
                "timeline": note("$decision.primary & ' is fenced'"),
                "promoteBy": f"{{% $millis() + {failover_machine.PROMOTION_SECONDS * 1000} %}}",
                "recoverBy": f"{{% $millis() + {references.failover.rto_seconds * 1000} %}}",
                "giveUpBy": f"{{% $millis() + {failover_machine.GIVE_UP_SECONDS * 1000} %}}",
            },
            following="RestartOldPrimary",
            catch=[_abandoned("the primary could not be fenced")],
        ),
        # No session was left; should one have come since, it ends here: a security group cuts no connection it tracks
        "RestartOldPrimary": task(
            sdk("rds", "rebootDBInstance"),
            {"DbInstanceIdentifier": "{% $decision.primary %}"},
            timeout=10,
            assign={"timeline": note("'restart of ' & $decision.primary & ' requested'")},
            following="Promote",
            catch=[caught("Promote", timeline=note("'restart refused: ' & $states.errorOutput.Error"))],
        ),
    }


def _going_back() -> dict[str, State]:
    """Applications may write to the old primary again, before anything is told."""
    back = {
        "Next": "Record",
        "Assign": {
            "outcome": "abandoned",
            "reason": "{% $why %}",
            "timeline": note("'applications are let back in to ' & $decision.primary"),
        },
    }
    given_up = {
        "Next": "Record",
        "Assign": {"outcome": "failed", "reason": "{% $why & '; the applications could not be let back in' %}"},
    }
    return {
        "GoBack": {"Type": "Pass", "Assign": {"liftRounds": 0}, "Next": "FindIngress"},
        **states.letting_in("$decision.primary", done=back, given_up=given_up, trouble=[caught("Record")]),
    }


def _reprotecting(references: SwitchoverReferences) -> dict[str, State]:
    """The old primary knows nothing of the new epoch: it is made anew, from nothing that need be kept."""
    return {
        "ReleaseLease": task(
            "arn:aws:states:::dynamodb:deleteItem",
            {
                "TableName": references.failover.table_name,
                "Key": {"id": {"S": "lease"}},
                "ConditionExpression": "#incident = :incident",
                "ExpressionAttributeNames": {"#incident": "incident"},
                "ExpressionAttributeValues": {":incident": {"S": "{% $incident %}"}},
            },
            timeout=10,
            attempts=5,
            pause=2,
            following="Onwards",
            catch=[caught("Onwards")],
            final=["DynamoDB.ConditionalCheckFailedException"],
        ),
        "Onwards": choice(when("$outcome = 'promoted'", "StartReprotect"), otherwise="End"),
        "StartReprotect": task(
            "arn:aws:states:::states:startExecution",
            {
                "StateMachineArn": references.reprotect_machine_arn,
                "Name": "{% $string($epoch + 1) & '-' & $incident %}",
                "Input": {
                    "id": "{% $incident & '-reprotect' %}",
                    "epoch": "{% $epoch + 1 %}",
                    "started_at": "{% $now() %}",
                    "automatic": True,
                    "forensics": False,
                    "by": "{% 'switchover ' & $incident %}",
                },
            },
            timeout=10,
            attempts=5,
            pause=2,
            following="End",
            # The roles are changed; that there is no standby has an alarm of its own
            catch=[caught("End")],
            final=["StepFunctions.ExecutionAlreadyExistsException"],
        ),
    }


def _ask(function_arn: str, payload: Mapping[str, Any], **rest: Any) -> State:
    arguments = {"FunctionName": function_arn, "Payload": dict(payload)}
    return task(states.LAMBDA, arguments, **{"timeout": 20, **rest})


def _abandoned(why: str) -> State:
    return caught(
        "GoBack",
        why=f"{{% '{why}: ' & $states.errorOutput.Error %}}",
        timeline=note("'error: ' & $states.errorOutput.Error"),
    )
