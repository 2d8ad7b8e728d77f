"""The proof that the objectives are met: detection, the failover machine's longest path, the log's lag.

What it proves, and of what: a loss of which two signals tell is recovered from within the bound, when every step ends
within its budget and RDS promotes within the 480 s that are granted to it (AWS documents minutes). A step that does not
is tried again and, once the objective can no longer be promised, alarmed ("RTO at risk"): states that are only entered
then are left out of the bound. See docs/decisions/0045.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from recovery import worst_case
from recovery.objectives import Detection, LogKeeping, Objectives
from recovery.worst_case import Part, Path, Unbounded

DETECTION_LIMIT_SECONDS = 20.0
LOG_LIMIT_SECONDS = 60.0
STARTING_SECONDS = 8.0
"""From the suspicion to the running machine: observation, lease read, lease taken, execution started. Each of the four
calls is answered at its first attempt, so within the clients' read time-out of 2 s (`functions.clients`)."""
OVER_BUDGET = frozenset({"Overrun", "RtoAtRisk", "OverrunPause", "Resume", "RollForwardOn"})
"""The failover machine's states for steps that were not done within their budget."""
SETTLED = "Record"
"""The state of the failover machine in which the database is back, or the machine has said why not."""


class ObjectiveMissed(Exception):
    """A bound that is not inside its objective; the message names the path that is too long."""


@dataclass(frozen=True)
class Promise:
    """What was proved, all in seconds; `path` begins with the loss and ends with the machine's outcome."""

    detection: float
    path: Path
    rto: float
    log_lag: float
    rpo: float
    ends: float
    """The longest that the machine runs, overruns included: then it has recorded its outcome in any case."""

    def __str__(self) -> str:
        width = max(len(part.name) for part in self.path.parts)
        lines = [f"worst-case RTO: {self.path.seconds:g} s (objective {self.rto:g} s)"]
        lines += [f"  {part.name:<{width}}  {part.seconds:6g} s" for part in self.path.parts]
        lines.append(f"worst-case detection: {self.detection:g} s (limit {DETECTION_LIMIT_SECONDS:g} s)")
        lines.append(
            f"worst-case lag of the log: {self.log_lag:g} s (limit {LOG_LIMIT_SECONDS:g} s, RPO {self.rpo:g} s)"
        )
        return "\n".join(lines)


def detected(detection: Detection) -> float:
    """The longest from the loss to the running machine, s."""
    return detection.worst_case_seconds + STARTING_SECONDS


def prove(
    definition: Mapping[str, Any], detection: Detection, objectives: Objectives, log: LogKeeping | None = None
) -> Promise:
    """The promise of a failover machine. Raises ObjectiveMissed, or Unbounded where no bound can be given."""
    log = log or LogKeeping()
    found = detected(detection)
    if found > DETECTION_LIMIT_SECONDS:
        raise ObjectiveMissed(
            f"Detection may take {found:g} s, more than {DETECTION_LIMIT_SECONDS:g} s: "
            f"{detection.failure_threshold} rounds of {detection.round_seconds:g} s, a last probe of "
            f"{detection.probe_timeout:g} s, {STARTING_SECONDS:g} s to start the machine; set shorter probes or a "
            "lower threshold."
        )
    path = worst_case.longest(
        definition,
        to=SETTLED,
        begin=found,
        first_failure=detection.first_failure_seconds,
        without=OVER_BUDGET,
    )
    path = Path(path.seconds, (Part("detection", found), *path.parts))
    if path.seconds >= objectives.rto_seconds:
        raise ObjectiveMissed(
            f"The worst-case RTO is {path.seconds:g} s, which is not below the objective of {objectives.rto_seconds:g} "
            f"s. The path that is too long: {_told(path.parts)}."
        )
    lag_limit = min(LOG_LIMIT_SECONDS, objectives.rpo_seconds)
    if log.worst_case_seconds > lag_limit:
        raise ObjectiveMissed(
            f"The log may be {log.worst_case_seconds:g} s behind, more than {lag_limit:g} s: a pause of "
            f"{log.pause:g} s, {log.period - log.work:g} s between two runs, {log.start:g} s to start, a batch of "
            f"{log.batch:g} s."
        )
    ends = worst_case.longest(definition, to="End", first_failure=detection.first_failure_seconds).seconds
    limit = float(definition.get("TimeoutSeconds", 0))
    if ends >= limit:
        raise Unbounded(
            f"The machine may take {ends:g} s, but is cut off after {limit:g} s: its outcome would be lost."
        )
    return Promise(found, path, objectives.rto_seconds, log.worst_case_seconds, objectives.rpo_seconds, ends)


def remaining(definition: Mapping[str, Any], state: str) -> float:
    """The longest from a state to the machine's outcome, with the grace over and every step within its budget, s."""
    return worst_case.longest(definition, to=SETTLED, start=state, without=OVER_BUDGET).seconds


def from_templates(templates: Iterable[Mapping[str, Any]], machine: str) -> dict[str, Any]:
    """The definition of the state machine of this name in synthesised templates; tokens become their JSON as text.

    Raises Unbounded when there is none.
    """
    for template in templates:
        for resource in template.get("Resources", {}).values():
            properties = resource.get("Properties", {})
            if resource["Type"] == "AWS::StepFunctions::StateMachine" and properties["StateMachineName"] == machine:
                definition: dict[str, Any] = json.loads(_resolved(properties["DefinitionString"]))
                return definition
    raise Unbounded(f"No template holds the state machine {machine}.")


def _resolved(value: Any) -> str:
    if isinstance(value, str):
        return value
    separator, parts = value["Fn::Join"]
    return str(separator).join(part if isinstance(part, str) else f"${{{'.'.join(_leaves(part))}}}" for part in parts)


def _leaves(token: Any) -> list[str]:
    """The texts in a token, in order: `{"Fn::GetAtt": ["Arbiter", "Arn"]}` gives Arbiter, Arn."""
    if isinstance(token, str):
        return [token]
    inner = token.values() if isinstance(token, Mapping) else token
    return [leaf for part in inner for leaf in _leaves(part)]


def _told(parts: Iterable[Part]) -> str:
    return ", ".join(f"{part.name} {part.seconds:g} s" for part in parts)
