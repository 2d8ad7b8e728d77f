"""Reprotect as one declarative table of states: ask for the next step, take it, look again. Plain data: no CDK here.

Input: {"id": str, "epoch": int, "started_at": ISO-8601 str, "automatic": bool, "forensics": bool, "by": str}. The
outcome is one of `protected`, `refused`, `failed`. No step relies on the one before: what to do next is chosen from
the members as they are (recovery.reprotection), so an execution may be killed anywhere and another one goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stacks import states
from stacks.states import Ingress, State, caught, choice, note, sdk, task, wait, when

BRISK_ROUNDS = 120
BRISK_SECONDS = 2
# Making a replica of a large database takes hours.
PATIENT_SECONDS = 30
ROUNDS = 1500
ERRORS = 60
ERROR_SECONDS = 60
AFTER_ERRORS = 3
MACHINE_TIMEOUT_SECONDS = 14 * 3600


@dataclass(frozen=True)
class ReprotectReferences:
    """What the machine refers to: ARNs (or CDK tokens of them) and names; the rest by member.

    `created` are the arguments of the replica's creation, `wanted` the settings that creation cannot give, `groups`
    the members' security groups and `ingress` the rules that each of these has.
    """

    plan_arn: str
    topic_arn: str
    table_name: str
    suffix: str
    created: Mapping[str, Mapping[str, Any]]
    wanted: Mapping[str, Mapping[str, Any]]
    groups: Mapping[str, str]
    ingress: Sequence[Ingress]
    keep_automated_backups: bool


def definition(references: ReprotectReferences) -> dict[str, Any]:
    """The whole machine as ASL."""
    ending = states.Ending("reprotect", references.suffix, references.table_name, references.topic_arn)
    return {
        "Comment": "From a primary alone back to a pair: delete, create again, let in, see it replicate",
        "QueryLanguage": "JSONata",
        "StartAt": "Begin",
        "TimeoutSeconds": MACHINE_TIMEOUT_SECONDS,
        "States": {
            **_planning(references),
            **_acting(references),
            **_letting_in(),
            **ending.states(("protected", "refused")),
        },
    }


def _planning(references: ReprotectReferences) -> dict[str, State]:
    return {
        "Begin": {
            "Type": "Pass",
            "Assign": {
                "id": "{% $states.input.id %}",
                "epoch": "{% $states.input.epoch %}",
                "startedAt": "{% $states.input.started_at %}",
                "automatic": "{% $states.input.automatic %}",
                "forensics": "{% $states.input.forensics %}",
                "execution": "{% $states.context.Execution.Id %}",
                "created": {name: dict(each) for name, each in references.created.items()},
                **states.members_rules(references.groups, references.ingress),
                "plan": {"action": "none", "reason": "nothing was planned", "standby": "", "settings": {}},
                "outcome": "failed",
                "reason": "nothing was planned",
                "trouble": "",
                "errors": 0,
                "rounds": 0,
                "deletions": 0,
                "refusals": 0,
                "lifted": False,
                "timeline": [{"at": "{% $now() %}", "event": "{% 'started by ' & $states.input.by %}"}],
            },
            "Next": "Plan",
        },
        "Plan": task(
            states.LAMBDA,
            {
                "FunctionName": references.plan_arn,
                "Payload": {
                    "epoch": "{% $epoch %}",
                    "execution": "{% $execution %}",
                    "wanted": {name: dict(each) for name, each in references.wanted.items()},
                    "lifted": "{% $lifted %}",
                    "automatic": "{% $automatic %}",
                    "forensics": "{% $forensics %}",
                    "deletions": "{% $deletions %}",
                    "refusals": "{% $refusals %}",
                },
            },
            timeout=20,
            attempts=5,
            pause=5,
            assign={
                # Before `plan`, which it compares with: an entry only when something has changed
                "timeline": "{% $states.result.Payload.reason = $plan.reason or $count($timeline) >= 300 ? $timeline : "
                "$append($timeline, [{'at': $now(), 'event': $states.result.Payload.action & ': ' & "
                "$states.result.Payload.reason}]) %}",
                "plan": "{% $states.result.Payload %}",
                "reason": "{% $states.result.Payload.reason %}",
                "rounds": "{% $rounds + 1 %}",
            },
            following="Choose",
            catch=[states.failed("Plan")],
        ),
        "Choose": choice(
            when("$plan.action = 'protected'", "Record", outcome="protected"),
            when("$plan.action = 'refuse'", "Record", outcome="refused"),
            when(f"$errors >= {ERRORS}", "Record", outcome="failed", reason="{% $plan.reason & ' ' & $trouble %}"),
            when(f"$rounds >= {ROUNDS}", "Record", outcome="failed", reason="{% 'not in time: ' & $plan.reason %}"),
            when("$plan.action = 'delete' and $type($plan.snapshot) = 'string'", "DeleteKeepingData"),
            when("$plan.action = 'delete'", "Delete"),
            when("$plan.action = 'create'", "Create"),
            when("$plan.action = 'modify'", "Modify"),
            when("$plan.action = 'lift_fence'", "FindIngress"),
            otherwise="Pause",
        ),
        "Pause": wait(
            f"{{% $errors > {AFTER_ERRORS} ? {ERROR_SECONDS} : $rounds < {BRISK_ROUNDS} ? {BRISK_SECONDS} : "
            f"{PATIENT_SECONDS} %}}",
            "Plan",
        ),
    }


def _acting(references: ReprotectReferences) -> dict[str, State]:
    backups = {"DeleteAutomatedBackups": not references.keep_automated_backups}
    return {
        "DeleteKeepingData": _act(
            "deleteDBInstance",
            {
                "DbInstanceIdentifier": "{% $plan.standby %}",
                "SkipFinalSnapshot": False,
                "FinalDBSnapshotIdentifier": "{% $plan.snapshot %}",
                **backups,
            },
            "'deletion of ' & $plan.standby & ' requested, kept as ' & $plan.snapshot",
            catch=[_refused("deleteDBInstance"), _trouble("Pause", "deleteDBInstance")],
            deletions="{% $deletions + 1 %}",
            refusals=0,
            lifted=False,
        ),
        "Delete": _act(
            "deleteDBInstance",
            {"DbInstanceIdentifier": "{% $plan.standby %}", "SkipFinalSnapshot": True, **backups},
            "'deletion of ' & $plan.standby & ' requested'",
            deletions="{% $deletions + 1 %}",
            lifted=False,
        ),
        "Create": _act(
            "createDBInstanceReadReplica",
            "{% $merge([$lookup($created, $plan.standby), {'SourceDBInstanceIdentifier': $plan.primary}]) %}",
            "$plan.standby & ' requested as a replica of ' & $plan.primary",
            lifted=False,
        ),
        "Modify": _act(
            "modifyDBInstance",
            "{% $merge([{'DbInstanceIdentifier': $plan.standby, 'ApplyImmediately': true}, $plan.settings]) %}",
            "'change of ' & $join($keys($plan.settings), ', ') & ' requested'",
        ),
    }


def _act(action: str, arguments: Any, what: str, catch: Sequence[State] = (), **assign: Any) -> State:
    """One request to RDS. Refused or lost, the next round sees what has come of it."""
    return task(
        sdk("rds", action),
        arguments,
        timeout=30,
        assign={"timeline": note(what), "errors": 0, "trouble": "", **assign},
        following="Pause",
        catch=list(catch) or [_trouble("Pause", action)],
    )


def _refused(action: str) -> State:
    """RDS says that the instance is in no state for it; counted, for the plan to know."""
    found = _trouble("Pause", action)
    names = ["Rds.InvalidDbInstanceStateException", "Rds.InvalidDBInstanceStateException"]
    return {**found, "ErrorEquals": names, "Assign": {**found["Assign"], "refusals": "{% $refusals + 1 %}"}}


def _letting_in() -> dict[str, State]:
    lifted = {
        "Next": "Plan",
        "Assign": {"lifted": True, "liftRounds": 0, "timeline": note("'the fence of ' & $plan.standby & ' is lifted'")},
    }
    given_up = {"Next": "Pause", "Assign": {"liftRounds": 0, "errors": ERRORS}}
    return states.letting_in(
        "$plan.standby", done=lifted, given_up=given_up, trouble=[_trouble("Pause", "ingress of the standby")]
    )


def _trouble(following: str, action: str) -> State:
    """Go on after an error; the timeline tells of it once in a row."""
    text = f"'{action}: ' & $states.errorOutput.Error & ' ' & $substring($string($states.errorOutput.Cause), 0, 200)"
    return caught(
        following,
        errors="{% $errors + 1 %}",
        trouble=f"{{% {text} %}}",
        timeline=f"{{% {text} = $trouble or $count($timeline) >= 300 ? $timeline : "
        f"$append($timeline, [{{'at': $now(), 'event': {text}}}]) %}}",
    )
