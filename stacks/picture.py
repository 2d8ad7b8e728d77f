"""The pictures in docs/, drawn from the synthesised templates: `python -m stacks.picture` (make pictures).

A page for each state machine; into docs/architecture.md the nested stacks, with what each takes from those before it.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recovery import promise, worst_case
from stacks import templates
from stacks.names import Names
from stacks.promised import promised
from stacks.settings import Settings, load
from stacks.templates import PARENT, System

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
ARCHITECTURE = DOCS / "architecture.md"
SUFFIX = "docs"
MACHINE = "AWS::StepFunctions::StateMachine"
NESTED = "AWS::CloudFormation::Stack"

_SHAPES = {"Choice": ("{", "}"), "Task": ("[", "]"), "Wait": ("([", "])"), "Pass": (">", "]"), "Fail": ("[[", "]]")}
_LABEL_LENGTH = 60
_FROM = "<!-- drawn by make pictures: from here"
_TO = "<!-- to here -->"
# What a stack is told apart by; roles, policies and logs are everywhere.
_TELLING = (
    *("AWS::EC2::VPC", "AWS::EC2::SecurityGroup", "AWS::EC2::VPCEndpoint", "AWS::KMS::Key", "AWS::SNS::Topic"),
    *("AWS::SQS::Queue", "AWS::EFS::FileSystem", "AWS::DynamoDB::Table", "AWS::Backup::BackupVault"),
    *("AWS::RDS::DBInstance", "AWS::S3::Bucket", "AWS::Lambda::Function", MACHINE, "AWS::CloudWatch::Alarm"),
    *("AWS::CloudWatch::Dashboard", "AWS::EC2::FlowLog"),
)


def pages(system: System, settings: Settings) -> dict[Path, str]:
    """Every page that holds a picture, as it should be, by its file.

    Raises ObjectiveMissed or Unbounded when the templates do not promise the objectives, ValueError when the
    architecture's page has lost the place for its picture.
    """
    names = Names(settings.environment_suffix)
    proof = promised(settings, system.folder)
    drawn = {}
    for resource in system.of(MACHINE):
        name = resource.properties["StateMachineName"]
        machine = promise.from_templates(system.templates.values(), name)
        subject = name.removeprefix("citizens-").removesuffix(f"-{names.suffix}").removesuffix("-machine")
        drawn[DOCS / f"{subject}-machine.md"] = _page(
            subject, machine, names.suffix, str(proof) if name == names.state_machine else None
        )
    return {**drawn, ARCHITECTURE: _with_stacks(ARCHITECTURE.read_text(encoding="utf-8"), system, names.suffix)}


def _page(subject: str, machine: Mapping[str, Any], suffix: str, proof: str | None) -> str:
    proved = f"\nWith the default settings, `make synth` proves:\n\n```\n{proof}\n```\n" if proof else ""
    return (
        f"# The {subject} machine\n\n{machine['Comment']}.\n\n"
        "Drawn from the synthesised template by `make pictures`; a test keeps it current. A rectangle is a task, a "
        "rounded one a wait, a diamond\na choice, each with the longest that one visit may take where that is fixed. "
        "Dotted: an error, or a spent budget, is caught.\n\n"
        f"```mermaid\n{mermaid(machine, suffix)}\n```\n{proved}"
    )


def mermaid(machine: Mapping[str, Any], suffix: str) -> str:
    """A definition as a Mermaid flow chart, the environment's suffix left out."""
    lines = ["flowchart TD", f"  start((start)) --> {_name(machine['StartAt'])}"]
    for name, state in machine["States"].items():
        opening, closing = _SHAPES[state["Type"]]
        lines.append(f'  {_name(name)}{opening}"{name}{_longest(name, state)}"{closing}')
        lines += (f"  {_name(name)} {arrow} {_name(target)}" for arrow, target in dict.fromkeys(_arrows(state, suffix)))
    return "\n".join(lines)


def _longest(name: str, state: Mapping[str, Any]) -> str:
    try:
        seconds = worst_case.budget(name, state)
    except worst_case.Unbounded:  # a wait whose length the machine computes
        return ""
    return f"<br/>{seconds:g} s" if seconds else ""


def _arrows(state: Mapping[str, Any], suffix: str) -> Iterator[tuple[str, str]]:
    for choice in state.get("Choices", ()):
        yield f'-- "{_label(choice["Condition"].replace(f"-{suffix}-", "-…-"))}" -->', choice["Next"]
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


def taken(system: System, suffix: str) -> dict[str, dict[str, list[str]]]:
    """What each nested stack takes from which others, by their names: the outputs' own names, sorted."""
    stacks = {each.logical_id: each.construct_path.split("/")[1] for each in system.of(NESTED, PARENT)}
    names = {logical_id: path.removesuffix(".NestedStack") for logical_id, path in stacks.items()}
    found: dict[str, dict[str, list[str]]] = {name: {} for name in system.templates if name != PARENT}
    for stack in system.of(NESTED, PARENT):
        for value in stack.properties.get("Parameters", {}).values():
            source, output = value.get("Fn::GetAtt", (None, ""))
            if source in names:
                own = output.removeprefix(f"Outputs.citizensdr{suffix.replace('-', '')}{names[source]}")
                # CDK's: the construct's name, eight hexadecimal digits, the attribute
                found[names[stack.logical_id]].setdefault(names[source], []).append(
                    re.sub(r"[0-9A-F]{8}(?=(?:Arn|Ref|GroupId|EndpointAddress|QueueName)$).*", "", own)
                )
    return {stack: {source: sorted(set(values)) for source, values in of.items()} for stack, of in found.items()}


def _stacks(system: System, suffix: str) -> str:
    took = taken(system, suffix)
    picture = ["flowchart LR"]
    for stack in took:
        counts = Counter(body["Type"] for body in system.templates[stack]["Resources"].values())
        made_of = [f"{counts[kind]} × {kind.rsplit('::', 1)[1]}" for kind in _TELLING if counts[kind]]
        picture.append(f'  {stack}["{"<br/>".join((f"<b>{stack}</b>", *made_of))}"]')
    for stack, sources in took.items():
        # What another source has needed already goes without saying
        implied = {earlier for source in sources for earlier in _before(source, took)}
        picture += [f"  {source} --> {stack}" for source in took if source in sources and source not in implied]
    rows = [
        f"| {stack} | {len(system.templates[stack]['Resources'])} | "
        + ("; ".join(f"{source}: {', '.join(took[stack][source])}" for source in took if source in took[stack]) or "–")
        + " |"
        for stack in took
    ]
    return "\n".join(
        [
            "```mermaid",
            *picture,
            "```",
            "",
            "An arrow: takes something from; arrows that follow from others are left out. All that is taken:",
            "",
            "| nested stack | resources | takes |",
            "|---|---|---|",
            *rows,
        ]
    )


def _before(stack: str, took: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {each for source in took[stack] for each in (source, *_before(source, took))}


def _with_stacks(page: str, system: System, suffix: str) -> str:
    if page.count(_FROM) != 1 or page.count(_TO) != 1:
        raise ValueError(f"{ARCHITECTURE.name} needs one line that begins with {_FROM} and one {_TO}.")
    before, after = page.split(_FROM)[0], page.split(_TO)[1]
    return f"{before}{_FROM} -->\n{_stacks(system, suffix)}\n{_TO}{after}"


def main() -> int:
    """Synthesise with the settings of cdk.json, whatever the shell has set, and write the pages."""
    declared = json.loads((ROOT / "cdk.json").read_text(encoding="utf-8"))["context"]
    context = {**declared, "environmentSuffix": SUFFIX, "aws:cdk:enable-path-metadata": True}
    with tempfile.TemporaryDirectory(prefix="pictures-") as folder:
        alone = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "CDK_OUTDIR": folder,
            "CDK_CONTEXT_JSON": json.dumps(context),
        }
        ran = subprocess.run([sys.executable, str(ROOT / "app.py")], cwd=ROOT, env=alone, check=False)
        if ran.returncode:
            return ran.returncode
        settings = load(context)
        for path, text in pages(templates.read(Path(folder), Names(SUFFIX).parent_stack), settings).items():
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
