"""States of a machine (Amazon States Language, JSONata) that operations share. Plain data: no CDK here.

A machine that uses them has the variables `id`, `epoch`, `startedAt`, `execution`, `outcome`, `reason` and `timeline`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

State = dict[str, Any]

LIFT_ROUNDS = 40
LAMBDA = "arn:aws:states:::lambda:invoke"
_CALL: Mapping[str, Any] = {"timeout": 10, "attempts": 5, "pause": 2}


def sdk(service: str, action: str) -> str:
    """The resource of a call of AWS's SDK; names of fields and errors follow the SDK for Java 2."""
    return f"arn:aws:states:::aws-sdk:{service}:{action}"


def note(expression: str) -> str:
    """The timeline with one more entry, as long as it is no longer than a record can hold."""
    return (
        f"{{% $count($timeline) < 300 ? $append($timeline, [{{'at': $now(), 'event': {expression}}}]) : $timeline %}}"
    )


def wait(seconds: int | str, following: str) -> State:
    """Wait for so many seconds, or for what a JSONata expression gives."""
    return {"Type": "Wait", "Seconds": seconds, "Next": following}


def choice(*choices: State, otherwise: str) -> State:
    """The first choice whose condition holds."""
    return {"Type": "Choice", "Choices": list(choices), "Default": otherwise}


def when(condition: str, following: str, **assign: Any) -> State:
    """One choice."""
    found: State = {"Condition": f"{{% {condition} %}}", "Next": following}
    if assign:
        found["Assign"] = assign
    return found


def task(
    resource: str,
    arguments: Any,
    *,
    following: str,
    timeout: int,
    attempts: int = 1,
    pause: int = 1,
    assign: Mapping[str, Any] | None = None,
    catch: Sequence[State],
    final: Sequence[str] = (),
) -> State:
    """A task that is tried `attempts` times, `timeout` s each, `pause` s apart, unless an error is `final`."""
    state: State = {
        "Type": "Task",
        "Resource": resource,
        "Arguments": arguments,
        "TimeoutSeconds": timeout,
        "Catch": list(catch),
        "Next": following,
    }
    if assign:
        state["Assign"] = dict(assign)
    if attempts > 1:
        state["Retry"] = retriers(("States.ALL",), final, attempts, pause)
    return state


def retriers(retried: Sequence[str], final: Sequence[str], attempts: int, pause: int) -> list[State]:
    """Try again after the errors of `retried`, but never after those of `final`, which are an answer."""
    pace = {"IntervalSeconds": pause, "BackoffRate": 1}
    never = [{"ErrorEquals": list(final), "MaxAttempts": 0, **pace}] if final else []
    return [*never, {"ErrorEquals": list(retried), "MaxAttempts": attempts - 1, **pace}]


def caught(following: str, **assign: Any) -> State:
    """Whatever error it was, go on."""
    found: State = {"ErrorEquals": ["States.ALL"], "Next": following}
    if assign:
        found["Assign"] = assign
    return found


def failed(name: str) -> State:
    """Whatever error it was, the operation has failed, for a reason that names the state."""
    return caught(
        "Record",
        outcome="failed",
        reason=f"{{% '{name}: ' & $states.errorOutput.Error & ': ' & $string($states.errorOutput.Cause) %}}",
        timeline=note(f"'{name} failed: ' & $states.errorOutput.Error"),
    )


@dataclass(frozen=True)
class Ingress:
    """A rule that lets somebody in: `key` is how EC2 shows who (CIDR or group), `permission` how it is given."""

    key: str
    permission: Mapping[str, Any]


def members_rules(groups: Mapping[str, str], ingress: Sequence[Ingress]) -> dict[str, Any]:
    """The variables that `letting_in` needs: the members' groups, and the rules that each of them has."""
    return {
        "groups": dict(groups),
        "ingress": [{"key": rule.key, "permission": dict(rule.permission)} for rule in ingress],
        "missing": [],
        "liftRounds": 0,
    }


def letting_in(member: str, *, done: State, given_up: State, trouble: Sequence[State]) -> dict[str, State]:
    """FindIngress → AnyMissing → LetIn → FindIngress …: every rule of a member's group that is not there is given back.

    `member` is the expression that names it, `done` and `given_up` are choices without conditions.
    """
    return {
        "FindIngress": task(
            sdk("ec2", "describeSecurityGroupRules"),
            {"Filters": [{"Name": "group-id", "Values": [f"{{% $lookup($groups, {member}) %}}"]}]},
            timeout=10,
            attempts=3,
            assign={
                "missing": "{% ($rules := $states.result.SecurityGroupRules[IsEgress = false]; "
                "$present := [$rules.CidrIpv4, $rules.ReferencedGroupInfo.GroupId]; "
                "[$ingress[$not(key in $present)]]) %}",
                "liftRounds": "{% $liftRounds + 1 %}",
            },
            following="AnyMissing",
            catch=[{**each, "Next": given_up["Next"]} for each in trouble],
        ),
        "AnyMissing": choice(
            {"Condition": "{% $count($missing) = 0 %}", **done},
            # Refused every time: it is tried again after a pause, and given up after many
            {"Condition": f"{{% $liftRounds > {LIFT_ROUNDS} %}}", **given_up},
            otherwise="LetIn",
        ),
        # One rule at a time: a rule that is there already makes EC2 refuse all of a request
        "LetIn": task(
            sdk("ec2", "authorizeSecurityGroupIngress"),
            {"GroupId": f"{{% $lookup($groups, {member}) %}}", "IpPermissions": ["{% $missing[0].permission %}"]},
            timeout=10,
            assign={"timeline": note(f"$missing[0].key & ' is let in to ' & {member}")},
            following="FindIngress",
            catch=[{**each, "Next": "LetInPause"} for each in trouble],
        ),
        "LetInPause": wait(2, "FindIngress"),
    }


@dataclass(frozen=True)
class Ending:
    """What the end of an operation refers to: its kind, the environment's suffix, the table's name, the topic, and the
    record by which it keeps others off."""

    kind: str
    suffix: str
    table_name: str
    topic_arn: str
    claim: str = "operation"

    def states(self, finished: Sequence[str], *, told: str = "Close", closed: str = "End") -> dict[str, State]:
        """Record → Notify → `told` … Close → `closed` … End → Done, or Failed unless the outcome is `finished`."""
        fields = {
            "kind": {"S": self.kind},
            "outcome": {"S": "{% $outcome %}"},
            "reason": {"S": "{% $reason %}"},
            "epoch": {"N": "{% $string($epoch) %}"},
            "timeline": {"S": "{% $string($append($timeline, [{'at': $now(), 'event': 'outcome: ' & $outcome}])) %}"},
            "started_at": {"S": "{% $startedAt %}"},
            "ended_at": {"S": "{% $now() %}"},
            "execution": {"S": "{% $execution %}"},
        }
        return {
            "Record": task(
                "arn:aws:states:::dynamodb:updateItem",
                {
                    "TableName": self.table_name,
                    "Key": {"id": {"S": "{% 'operation#' & $id %}"}},
                    "UpdateExpression": "SET " + ", ".join(f"#{name} = :{name}" for name in fields),
                    "ExpressionAttributeNames": {f"#{name}": name for name in fields},
                    "ExpressionAttributeValues": {f":{name}": value for name, value in fields.items()},
                },
                following="Notify",
                # Not recorded is still to be told
                catch=[caught("Notify")],
                **_CALL,
            ),
            "Notify": task(
                "arn:aws:states:::sns:publish",
                {
                    "TopicArn": self.topic_arn,
                    "Subject": f"{{% 'Citizens database {self.suffix}: {self.kind} ' & $outcome %}}",
                    "Message": "{% $string({'operation': $id, 'epoch': $epoch, 'outcome': $outcome, 'reason': $reason, "
                    "'timeline': $timeline}) %}",
                },
                following=told,
                catch=[caught(told)],
                **_CALL,
            ),
            "Close": task(
                "arn:aws:states:::dynamodb:deleteItem",
                {
                    "TableName": self.table_name,
                    "Key": {"id": {"S": self.claim}},
                    "ConditionExpression": "#execution = :execution",
                    "ExpressionAttributeNames": {"#execution": "execution"},
                    "ExpressionAttributeValues": {":execution": {"S": "{% $execution %}"}},
                },
                following=closed,
                # Another execution's claim is not ours to give up, and one that stays ends by itself
                catch=[caught(closed)],
                final=["DynamoDB.ConditionalCheckFailedException"],
                **_CALL,
            ),
            "End": choice(
                *(when(f"$outcome = '{outcome}'", "Done") for outcome in finished),
                otherwise="Failed",
            ),
            "Failed": {"Type": "Fail", "Error": f"{self.kind.capitalize()}Failed", "Cause": "{% $reason %}"},
            # A Pass, not a Succeed, because it gives the execution its output
            "Done": {
                "Type": "Pass",
                "Output": {"operation": "{% $id %}", "outcome": "{% $outcome %}", "reason": "{% $reason %}"},
                "End": True,
            },
        }
