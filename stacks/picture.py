"""The machine's picture in docs/, drawn from its definition: `python -m stacks.picture` (make pictures)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recovery import promise, worst_case
from recovery.objectives import Detection, Objectives
from stacks.failover_machine import MachineReferences, definition

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "failover-machine.md"
_SHAPES = {"Choice": ("{", "}"), "Task": ("[", "]"), "Wait": ("([", "])"), "Pass": (">", "]"), "Fail": ("[[", "]]")}
_LABEL_LENGTH = 60

REFERENCES = MachineReferences(
    arbiter_arn="arbiter",
    probe_arn="probe",
    rotation_arn="rotation",
    open_log_arn="open-log",
    roll_forward_arn="roll-forward",
    cutover_arn="cutover",
    verify_arn="verify",
    topic_arn="alerts",
    table_name="recovery",
    member_groups={"citizens-1": "sg-1", "citizens-2": "sg-2"},
    backup_retention_days=35,
    suffix="dev",
)


def page() -> str:
    """The page: the picture, and what the default settings promise."""
    machine = definition(REFERENCES)
    return (
        "# The failover machine\n\n"
        "Drawn from its definition by `make pictures`; a test keeps it current. A rectangle is a task, a rounded one a "
        "wait, a diamond\na choice, each with the longest that one visit may take. Dotted: an error, or a spent "
        "budget, is caught.\n\n"
        f"```mermaid\n{mermaid(machine)}\n```\n\n"
        "With the default settings, `make synth` proves:\n\n"
        f"```\n{promise.prove(machine, Detection(), Objectives())}\n```\n"
    )


def mermaid(machine: Mapping[str, Any]) -> str:
    """A definition as a Mermaid flow chart."""
    lines = ["flowchart TD", f"  start((start)) --> {_name(machine['StartAt'])}"]
    for name, state in machine["States"].items():
        seconds = worst_case.budget(name, state)
        opening, closing = _SHAPES[state["Type"]]
        lines.append(f'  {_name(name)}{opening}"{name}{f"<br/>{seconds:g} s" if seconds else ""}"{closing}')
        lines += (f"  {_name(name)} {arrow} {_name(target)}" for arrow, target in dict.fromkeys(_arrows(state)))
    return "\n".join(lines)


def _arrows(state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for choice in state.get("Choices", ()):
        yield f'-- "{_label(choice["Condition"])}" -->', choice["Next"]
    if "Default" in state:
        yield "-- otherwise -->", state["Default"]
    if "Next" in state:
        yield "-->", state["Next"]
    for caught in state.get("Catch", ()):
        errors = [error.removeprefix("States.") for error in caught["ErrorEquals"]]
        yield f'-. "{"any error" if errors == ["ALL"] else errors[0]}" .->', caught["Next"]


def _label(condition: str) -> str:
    text = condition.strip("{}% ").replace("$millis() >= $", "now >= ").replace("$", "").replace('"', "'")
    return text if len(text) <= _LABEL_LENGTH else f"{text[:_LABEL_LENGTH]}…"


def _name(state: str) -> str:
    """`end` is a word of Mermaid's."""
    return f"s{state}"


if __name__ == "__main__":
    PICTURE.write_text(page(), encoding="utf-8")
