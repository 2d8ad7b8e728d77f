"""Each call of each step of the failover machine goes wrong once, in every way that there is. Pure.

The combinations come from the deployed definition, so that a state which is added is struck too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from drills.soak.course import Lived
from drills.soak.schedule import Act, Schedule

# States that a failover enters only when another one has failed, and which
AFTER: Mapping[str, str] = {"PrepareDatabase": "OpenLog", "RollForwardOn": "RollForward"}
# States that need a primary which RDS takes for available: it is cut off then, not lost
OF_A_LIVING_PRIMARY = ("RestartOldPrimary",)
# Entered only when the RTO is at risk, or when there is no standby but a Multi-AZ copy: in virtual time
ELSEWHERE = ("RtoAtRisk", "ForceFailover")
CUT_SECONDS = 15.0
KILLED_AFTER_MS = (0, 40, 150)
FAULTS: tuple[tuple[str, int], ...] = (("throttle", 1), ("throttle", 3), ("lose_answer", 1), ("lose_answer", 3))
DELAYS: Mapping[str, float] = {
    "promotion_seconds": 0.5,
    "multi_az_failover_seconds": 0.0,
    "failed_after_seconds": 0.0,
    "reboot_seconds": 0.0,
    "backing_up_seconds": 0.0,
    "creation_seconds": 0.0,
}


@dataclass(frozen=True)
class Call:
    """What a state asks for: the action as IAM names it, the pattern of its resource, and how many calls of the same
    kind come before it in a failover."""

    state: str
    action: str
    resource: str
    skip: int


@dataclass(frozen=True)
class Combination:
    """One thing that goes wrong in one failover."""

    name: str
    schedule: Schedule


def calls(definition: Mapping[str, Any]) -> dict[str, Call]:
    """By state, what the machine's tasks ask for, in the order of a failover."""
    found: dict[str, Call] = {}
    for name, state in definition["States"].items():
        if state["Type"] != "Task" or name in ELSEWHERE:
            continue
        action, resource = asked(state)
        alike = [
            each
            for each in found.values()
            # A call that another fault strikes is not counted: the state whose failure leads here is always struck
            if (each.action, each.resource) == (action, resource) and each.state not in (*AFTER, AFTER.get(name))
        ]
        found[name] = Call(name, action, resource, len(alike))
    return found


def asked(state: Mapping[str, Any]) -> tuple[str, str]:
    """The action of a task as IAM names it, and a pattern of the function that it invokes (`*` for anything else)."""
    parts = str(state["Resource"]).removeprefix("arn:aws:states:::").removeprefix("aws-sdk:").split(":")
    service, verb = parts[0].lower(), parts[-1]
    if (service, verb) == ("lambda", "invoke"):
        return "lambda:InvokeFunction", f"*:{str(state['Arguments']['FunctionName']).rpartition(':')[2]}"
    return f"{service}:{verb[:1].upper()}{verb[1:]}", "*"


def combinations(definition: Mapping[str, Any]) -> Iterator[Combination]:
    """Every call throttled, answered to nobody, its function killed; then all at once; then every trigger again."""
    found = calls(definition)
    for call in found.values():
        invoked = call.action == "lambda:InvokeFunction"
        for kind, times in FAULTS:
            yield _combination(found, call, {"kind": kind, "times": times})
        for after in KILLED_AFTER_MS if invoked else ():
            yield _combination(found, call, {"kind": "kill", "times": 1, "after_ms": after})
    yield everything(definition, "throttle")
    yield everything(definition, "lose_answer")
    yield again_and_again()


def everything(definition: Mapping[str, Any], kind: str) -> Combination:
    """A failover in which the first call of every state goes wrong."""
    found = calls(definition)
    lost = [call for call in found.values() if call.state not in (*AFTER, *OF_A_LIVING_PRIMARY)]
    acts = [_struck(call, {"kind": kind, "times": 1}) for call in lost]
    return Combination(f"{kind} of every state's call", _schedule(*acts, _lost()))


def again_and_again() -> Combination:
    """Every trigger comes again and again, old ones and false ones among them."""
    acts = [
        Act(round(0.3 * n, 1), "trigger", whom)
        for n in range(30)
        for whom in ("repeat", "witness-a", "false", "witness-c")[n % 4 : n % 4 + 1]
    ]
    return Combination("triggers again and again", _schedule(*acts, _lost()))


def judged(lived: Lived) -> tuple[str, ...]:
    """What was violated; here also that there was one failover, and that everything went wrong that was meant to."""
    found = list(lived.finding.violations)
    if lived.finding.changes != ("failover",):
        found.append(f"The roles were changed by {', '.join(lived.finding.changes) or 'nothing'}: not by one failover.")
    for fault in lived.struck:
        if not fault["struck"]:
            address = f"{fault['action']} of {fault['resource']}, after {fault['skip']}"
            found.append(f"Nothing was shown: {fault['kind']} of {address} never happened.")
    return tuple(found)


def _combination(found: Mapping[str, Call], call: Call, how: Mapping[str, Any]) -> Combination:
    acts = [_struck(call, how)]
    if call.state in AFTER:
        acts.insert(0, _struck(found[AFTER[call.state]], {"kind": "throttle", "times": 1}))
    text = " ".join(f"{name} {value}" for name, value in how.items())
    loss = Act(0.2, "network", "primary", CUT_SECONDS, {"fault": "cut", "from": "everyone"})
    return Combination(
        f"{call.state}: {text}", _schedule(*acts, loss if call.state in OF_A_LIVING_PRIMARY else _lost())
    )


def _struck(call: Call, how: Mapping[str, Any]) -> Act:
    address = {"action": call.action, "resource": call.resource, "skip": call.skip}
    return Act(0.0, "calls", "failover-machine", 0.0, {**how, **address})


def _lost() -> Act:
    return Act(0.2, "lose", "primary")


def _schedule(*acts: Act) -> Schedule:
    return Schedule(0, 2, DELAYS, tuple(sorted(acts, key=lambda each: each.at)))
