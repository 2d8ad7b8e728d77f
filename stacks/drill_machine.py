"""The drill machine as one declarative table of states: sweep, make a copy, recover it, verify, delete. Plain data: no
CDK here.

Input: {"ask": "due" | "replica" | "restore" | "sweep", "by": str}. The outcome is one of `passed`, `missed`, `failed`,
`aborted`, `refused`, and `postponed` or `idle`, of which no record is kept. Every execution begins with deleting what a
killed one has left, and every way from the copy's creation leads over its deletion to Record. The machine names no
member as anything but a source.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stacks import states
from stacks.states import State, caught, choice, note, sdk, task, wait, when

BRISK_ROUNDS = 150
BRISK_SECONDS = 2
# Making a copy of a large database takes hours.
PATIENT_SECONDS = 30
ROUNDS = 900
SWEEPS = 60
CLEANING_ROUNDS = 400
LOG_ROUNDS = 30
LOG_PAUSE_SECONDS = 10
ROLL_FORWARD_SECONDS = 900
MACHINE_TIMEOUT_SECONDS = 14 * 3600
# In which an instance answers.
_OPEN = "['available', 'backing-up', 'storage-optimization']"
_BROKEN = (
    "['absent', 'deleting', 'failed', 'restore-error', 'storage-full', 'incompatible-network', 'incompatible-restore', "
    "'incompatible-parameters', 'incompatible-option-group', 'inaccessible-encryption-credentials']"
)
_CAUSE = "$substring($string($states.errorOutput.Cause), 0, 500)"
_TOLD = (
    *("kind", "epoch", "outcome", "reason", "marks", "measured", "verified"),
    *("account", "timeline", "execution", "by", "resolution"),
)
# Nobody promotes a copy that RDS backs up or that was refused for another reason of the moment: it is asked again.
_LOOKS = f"{{% $rounds < {BRISK_ROUNDS} ? {BRISK_SECONDS} : {PATIENT_SECONDS} %}}"


@dataclass(frozen=True)
class DrillReferences:
    """What the machine refers to: ARNs (or CDK tokens of them) and names. `rewind_arn` is None without a log.

    `replica` and `restored` are the arguments that make the copy, but for its identifier and its source; `prefix` is
    what the identifier of every copy begins with, and no member's does.
    """

    drill_arn: str
    rewind_arn: str | None
    topic_arn: str
    table_name: str
    suffix: str
    prefix: str
    replica: Mapping[str, Any]
    restored: Mapping[str, Any]


def definition(references: DrillReferences) -> dict[str, Any]:
    """The whole machine as ASL."""
    ending = states.Ending("drill", references.suffix, references.table_name, references.topic_arn, claim="drill")
    return {
        "Comment": "A throw-away copy is made, recovered, verified and deleted; first what a killed drill has left",
        "QueryLanguage": "JSONata",
        "StartAt": "Begin",
        "TimeoutSeconds": MACHINE_TIMEOUT_SECONDS,
        "States": {
            **_beginning(references),
            **_sweeping(references),
            **_copying(references),
            **_looking(references),
            **_recovering(references),
            **_cleaning(),
            **ending.states(("passed", "refused", "aborted", "postponed", "idle")),
            **_recording(references),
        },
    }


def _beginning(references: DrillReferences) -> dict[str, State]:
    return {
        "Begin": {
            "Type": "Pass",
            "Assign": {
                "id": "{% $states.context.Execution.Name %}",
                "ask": "{% $states.input.ask %}",
                "by": "{% $states.input.by %}",
                "execution": "{% $states.context.Execution.Id %}",
                "startedAt": "{% $states.context.Execution.StartTime %}",
                "kind": "",
                "epoch": 0,
                "order": {"identifier": "", "primary": "", "source": "", "orphans": [], "preflight": []},
                "step": "copy",
                "marks": {"began": "{% $millis() %}"},
                "seen": {"status": "unknown", "replica_of": "", "host": "", "port": 0, "interruption": None},
                "measured": {},
                "verified": {},
                "account": {},
                "outcome": "",
                "reason": "",
                "rounds": 0,
                "sweeps": 0,
                "cleanings": 0,
                "logRounds": 0,
                # When a look found nothing to do last, epoch milliseconds, and how long (s) before the verification
                "lookedAt": "{% $millis() %}",
                "resolution": 0,
                "timeline": [{"at": "{% $now() %}", "event": "{% 'started by ' & $states.input.by %}"}],
            },
            "Next": "MayBegin",
        },
        "MayBegin": _ask(
            references,
            {
                "step": "begin",
                "ask": "{% $ask %}",
                "drill": "{% $states.context.Execution.Name %}",
                "by": "{% $by %}",
                "execution": "{% $execution %}",
            },
            assign={
                "order": "{% $states.result.Payload %}",
                "id": "{% $states.result.Payload.drill %}",
                "kind": "{% $states.result.Payload.kind %}",
                "epoch": "{% $states.result.Payload.epoch %}",
                "outcome": "{% $states.result.Payload.outcome ? $states.result.Payload.outcome : '' %}",
                "reason": "{% $states.result.Payload.reason %}",
            },
            attempts=5,
            following="Swept",
            catch=[
                caught("Record", outcome="failed", reason=f"{{% 'It could not be asked for: ' & {_CAUSE} %}}"),
            ],
        ),
    }


def _sweeping(references: DrillReferences) -> dict[str, State]:
    # RDS asks for a permission on the source as well, so the role alone does not keep a member's name from being made
    named = f"$contains($order.identifier, '{references.prefix}-')"
    orphan = "$order.orphans[$sweeps % $count($order.orphans)]"
    return {
        "Swept": choice(
            when(
                f"$count($order.orphans) > 0 and $sweeps >= {SWEEPS}",
                "Record",
                outcome="failed",
                reason="{% 'What an earlier drill has left cannot be deleted: ' & $join($order.orphans, ', ') & '.' %}",
            ),
            when("$count($order.orphans) > 0", "DeleteOrphan"),
            when("$outcome = 'refused'", "Record"),
            when("$outcome != ''", "Close"),
            when(f"$kind = 'replica' and {named}", "CreateReplica", marks=_mark("asked")),
            when(f"$kind = 'restore' and {named}", "Restore", marks=_mark("asked")),
            otherwise="Close",
        ),
        "DeleteOrphan": task(
            sdk("rds", "deleteDBInstance"),
            {
                "DbInstanceIdentifier": f"{{% {orphan} %}}",
                "SkipFinalSnapshot": True,
                "DeleteAutomatedBackups": True,
            },
            timeout=30,
            assign={"timeline": note(f"{orphan} & ' is deleted: a drill that was killed has left it'")},
            following="SweepPause",
            # One that is still being made is deleted when it is there
            catch=[caught("SweepPause", timeline=_trouble("deleteDBInstance"))],
        ),
        "SweepPause": {
            **wait(f"{{% $sweeps < 5 ? {BRISK_SECONDS} : {PATIENT_SECONDS} %}}", "MayBegin"),
            "Assign": {"sweeps": "{% $sweeps + 1 %}"},
        },
    }


def _copying(references: DrillReferences) -> dict[str, State]:
    there = {"ErrorEquals": ["Rds.DbInstanceAlreadyExistsException"], "Next": "Look"}
    return {
        "CreateReplica": task(
            sdk("rds", "createDBInstanceReadReplica"),
            {
                **references.replica,
                "DbInstanceIdentifier": "{% $order.identifier %}",
                "SourceDBInstanceIdentifier": "{% $order.primary %}",
            },
            timeout=30,
            assign={"timeline": note("$order.identifier & ' requested as a replica of ' & $order.primary")},
            following="Look",
            # Its answer was lost
            catch=[there, _given_up("the replica was refused")],
        ),
        "Restore": task(
            sdk("rds", "restoreDBInstanceToPointInTime"),
            {
                **references.restored,
                "TargetDBInstanceIdentifier": "{% $order.identifier %}",
                "SourceDBInstanceIdentifier": "{% $order.source %}",
                "UseLatestRestorableTime": True,
            },
            timeout=30,
            assign={"timeline": note("$order.identifier & ' requested from the backups of ' & $order.source")},
            following="Look",
            catch=[there, _given_up("the restore was refused")],
        ),
    }


def _looking(references: DrillReferences) -> dict[str, State]:
    """All waiting is here, so that every wait notices what a drill has to give way to."""
    after = "RollForward" if references.rewind_arn else "CleanUp"
    return {
        "Look": _ask(
            references,
            {
                "step": "look",
                "identifier": "{% $order.identifier %}",
                "epoch": "{% $epoch %}",
                "execution": "{% $execution %}",
            },
            assign={
                # Before `seen`, which it compares with: an entry only when something has changed
                "timeline": "{% $states.result.Payload.status = $seen.status or $count($timeline) >= 300 ? $timeline : "
                "$append($timeline, [{'at': $now(), 'event': $order.identifier & ' is ' & "
                "$states.result.Payload.status}]) %}",
                "seen": "{% $states.result.Payload %}",
                "rounds": "{% $rounds + 1 %}",
            },
            attempts=5,
            following="Seen",
            catch=[_given_up("the copy could not be looked at")],
        ),
        "Seen": choice(
            when(
                "$type($seen.interruption) = 'string'",
                "CleanUp",
                outcome="aborted",
                reason="{% $seen.interruption %}",
                timeline=note("'given up: ' & $seen.interruption"),
            ),
            when(
                f"$seen.status in {_BROKEN}",
                "CleanUp",
                outcome="failed",
                reason="{% $order.identifier & ' is ' & $seen.status & '.' %}",
            ),
            when(
                f"$rounds > {ROUNDS}",
                "CleanUp",
                outcome="failed",
                reason="{% 'Not in time: ' & $order.identifier & ' is ' & $seen.status & '. ' & "
                "($exists($verified.trouble) ? $verified.trouble : $exists($measured.trouble) ? $measured.trouble "
                ": '') %}",
            ),
            when(f"$step = 'log' and $logRounds >= {LOG_ROUNDS}", "CleanUp"),
            when(f"$step = 'log' and {_is_open()}", after),
            when(
                "$kind = 'replica' and $step = 'copy' and $seen.status = 'available' and $seen.replica_of != ''",
                "Measure",
            ),
            when(f"$kind = 'replica' and $exists($marks.promote) and $seen.replica_of = '' and {_is_open()}", "Verify"),
            when(f"$kind = 'restore' and $step = 'copy' and {_is_open()}", "Verify", marks=_mark("copied")),
            otherwise="LookPause",
        ),
        "LookPause": {**wait(_LOOKS, "Look"), "Assign": {"lookedAt": "{% $millis() %}"}},
    }


def _is_open() -> str:
    return f"$seen.status in {_OPEN}"


def _recovering(references: DrillReferences) -> dict[str, State]:
    copy = {"host": "{% $seen.host %}", "port": "{% $seen.port %}"}
    asked = "$kind = 'replica' ? $marks.promote : $marks.asked"
    found: dict[str, State] = {
        "Measure": _ask(
            references,
            {"step": "measure", **copy},
            assign={"measured": "{% $states.result.Payload %}"},
            following="Measured",
            catch=[caught("LookPause")],
        ),
        "Measured": choice(
            when(
                "$measured.behind = false",
                "Promote",
                step="promotion",
                # Both of the first request, should it have to be repeated
                rounds="{% $exists($marks.promote) ? $rounds : 0 %}",
                marks="{% $exists($marks.promote) ? $marks : $merge([$marks, {'copied': $millis(), 'promote': "
                "$millis()}]) %}",
                timeline=note("'the copy is ' & $string($measured.lag_seconds) & ' s behind'"),
            ),
            otherwise="LookPause",
        ),
        "Promote": task(
            sdk("rds", "promoteReadReplica"),
            # Without backups: RDS would make one as soon as it is promoted
            {"DbInstanceIdentifier": "{% $order.identifier %}", "BackupRetentionPeriod": 0},
            timeout=30,
            assign={"timeline": note("'promotion of ' & $order.identifier & ' requested'")},
            following="LookPause",
            catch=[caught("LookPause", step="copy", timeline=_trouble("promoteReadReplica"))],
        ),
        "Verify": _ask(
            references,
            {"step": "verify", **copy, "asked_at": f"{{% $fromMillis({asked}) %}}"},
            assign={"verified": "{% $states.result.Payload %}"},
            following="Verified",
            catch=[caught("LookPause")],
        ),
        "Verified": choice(
            when(
                "$verified.verified",
                "LookPause" if references.rewind_arn else "CleanUp",
                step="log",
                rounds=0,
                marks=_mark("verified"),
                resolution="{% ($millis() - $lookedAt) / 1000 %}",
                timeline=note("'verified: ' & $string($verified.missing_seconds) & ' s are missing'"),
            ),
            otherwise="LookPause",
        ),
    }
    if references.rewind_arn is None:
        return found
    return {
        **found,
        # The function's own limit is as long. It goes on from where a run that was cut off has committed last.
        "RollForward": task(
            states.LAMBDA,
            {
                "FunctionName": references.rewind_arn,
                "Payload": {"action": "roll-forward", **copy, "until": f"{{% $fromMillis({asked}) %}}"},
            },
            timeout=ROLL_FORWARD_SECONDS,
            assign={"account": "{% $states.result.Payload %}", "logRounds": "{% $logRounds + 1 %}"},
            following="RolledForward",
            catch=[
                caught(
                    "LogPause",
                    logRounds="{% $logRounds + 1 %}",
                    account={"trouble": f"{{% $states.errorOutput.Error & ' ' & {_CAUSE} %}}"},
                    timeline=_trouble("roll-forward"),
                )
            ],
        ),
        "RolledForward": choice(
            when(
                "$account.target_reached",
                "CleanUp",
                marks=_mark("rolled"),
                timeline=note("'the log added ' & $string($account.transactions) & ' transactions'"),
            ),
            otherwise="LogPause",
        ),
        # The archive is some seconds behind
        "LogPause": wait(LOG_PAUSE_SECONDS, "Look"),
    }


def _cleaning() -> dict[str, State]:
    """Until RDS says that there is no copy any more. No function is needed for it."""
    return {
        "CleanUp": {"Type": "Pass", "Next": "FindCopy"},
        "FindCopy": task(
            sdk("rds", "describeDBInstances"),
            {"DbInstanceIdentifier": "{% $order.identifier %}"},
            timeout=30,
            assign={
                "left": "{% $states.result.DbInstances[0].DbInstanceStatus %}",
                "cleanings": "{% $cleanings + 1 %}",
            },
            following="AnyCopy",
            catch=[
                {
                    "ErrorEquals": ["Rds.DbInstanceNotFoundException"],
                    "Next": "Record",
                    "Assign": {"marks": _mark("cleaned"), "timeline": note("$order.identifier & ' is gone'")},
                },
                caught("AnyCopy", left="unknown", cleanings="{% $cleanings + 1 %}"),
            ],
        ),
        "AnyCopy": choice(
            when(
                f"$cleanings > {CLEANING_ROUNDS}",
                "Record",
                outcome="failed",
                reason="{% $order.identifier & ' could not be deleted; the daily sweep tries again. ' & $reason %}",
            ),
            when("$left in ['deleting', 'unknown']", "CleaningPause"),
            otherwise="DeleteCopy",
        ),
        "DeleteCopy": task(
            sdk("rds", "deleteDBInstance"),
            {
                "DbInstanceIdentifier": "{% $order.identifier %}",
                "SkipFinalSnapshot": True,
                "DeleteAutomatedBackups": True,
            },
            timeout=30,
            assign={"timeline": note("'deletion of ' & $order.identifier & ' requested'")},
            following="CleaningPause",
            # RDS deletes none that it is still making
            catch=[caught("CleaningPause", timeline=_trouble("deleteDBInstance"))],
        ),
        "CleaningPause": wait(f"{{% $cleanings < 60 ? {BRISK_SECONDS} : {PATIENT_SECONDS} %}}", "FindCopy"),
    }


def _recording(references: DrillReferences) -> dict[str, State]:
    """In place of an operation's Record: the figures are judged by the same rules that are tested."""
    told = {
        name: f"{{% ${variable} %}}"
        for name, variable in {
            **{each: each for each in _TOLD},
            "drill": "id",
            "started_at": "startedAt",
            "identifier": "order.identifier",
            "preflight": "order.preflight",
        }.items()
    }
    return {
        "Record": _ask(
            references,
            {"step": "end", **told},
            assign={
                "outcome": "{% $states.result.Payload.outcome %}",
                "reason": "{% $states.result.Payload.reason %}",
            },
            attempts=5,
            following="Notify",
            # The claim stays, and whoever begins next writes the record
            catch=[caught("Failed", reason="{% 'Not recorded: ' & $states.errorOutput.Error %}")],
        )
    }


def _ask(references: DrillReferences, payload: Mapping[str, Any], *, attempts: int = 1, **rest: Any) -> State:
    arguments = {"FunctionName": references.drill_arn, "Payload": dict(payload)}
    return task(states.LAMBDA, arguments, timeout=40, attempts=attempts, pause=5, **rest)


def _mark(name: str) -> str:
    """The marks with one more: when a step ended, epoch milliseconds."""
    return f"{{% $merge([$marks, {{'{name}': $millis()}}]) %}}"


def _trouble(action: str) -> str:
    """The timeline with the error; one that repeats is told once."""
    text = f"'{action}: ' & $states.errorOutput.Error"
    return (
        f"{{% $timeline[-1].event = ({text}) or $count($timeline) >= 300 ? $timeline : "
        f"$append($timeline, [{{'at': $now(), 'event': {text}}}]) %}}"
    )


def _given_up(why: str) -> State:
    """Whatever error it was: the copy, if there is one, is deleted."""
    return caught(
        "CleanUp",
        outcome="failed",
        reason=f"{{% '{why[:1].upper()}{why[1:]}: ' & $states.errorOutput.Error & ' ' & {_CAUSE} %}}",
        timeline=note(f"'{why}: ' & $states.errorOutput.Error"),
    )
