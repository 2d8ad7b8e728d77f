"""`python -m assessment`: the OSCAL component definition, the compliance report, and what is billed. The only place of
this program that reads the environment."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from assessment import component_definition, costs, evidence, page, validation
from assessment.assessed import Assessment, assess
from deployment.cdk import ROOT, Cdk, stack_name
from deployment.configuration import configured
from deployment.problem import Problem
from deployment.work_tree import commit_of
from recovery.promise import ObjectiveMissed
from recovery.worst_case import Unbounded
from stacks import templates
from stacks.promised import promised
from stacks.settings import Settings, SettingsError
from stacks.templates import System

REPORTS = ROOT / "reports"
DEFINITION = REPORTS / "oscal" / "component-definition.json"
COMPLIANCE = REPORTS / "compliance.html"
COSTS = ROOT / "docs" / "costs.md"


def write_oscal(assessment: Assessment) -> str:
    """Write the component definition when compliance-trestle accepts it. Raises Problem when it does not."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    document = component_definition.definition(assessment, now, previous(DEFINITION))
    fresh = DEFINITION.with_suffix(".new.json")
    _write(fresh, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    if reason := validation.problem(fresh):
        raise Problem(f"compliance-trestle refuses {fresh.relative_to(ROOT)}: {reason}")
    fresh.replace(DEFINITION)
    return f"{DEFINITION.relative_to(ROOT)}, valid by compliance-trestle (OSCAL {component_definition.OSCAL_VERSION})"


def write_page(assessment: Assessment) -> str:
    """Write the compliance report."""
    _write(COMPLIANCE, page.page(assessment))
    return str(COMPLIANCE.relative_to(ROOT))


WRITERS: Mapping[str, Callable[[Assessment], str]] = {"oscal": write_oscal, "compliance": write_page}


def previous(path: Path) -> dict[str, Any] | None:
    """The document that is there already; None when there is none that can be read."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def assessed(system: System, settings: Settings, template_sha256: str) -> Assessment:
    """The assessment of synthesised templates with the newest evidence in `reports/`."""
    return assess(
        system,
        settings,
        promised(settings, system.folder),
        evidence.newest(REPORTS),
        parent=stack_name(settings.environment_suffix),
        template_sha256=template_sha256,
        commit=commit_of(ROOT),
    )


def run(command: str, suffix: str, environment: Mapping[str, str]) -> str:
    """Synthesise, and write what was asked for; returns what to tell. Raises Problem, SettingsError or OSError."""
    settings = configured({"environmentSuffix": suffix} if suffix else {})
    with tempfile.TemporaryDirectory(prefix="assessment-") as folder:
        cdk = Cdk(settings.environment_suffix, environment, REPORTS / "logs" / "assessment.log", Path(folder))
        cdk.synth()
        system = templates.read(cdk.assembly, stack_name(settings.environment_suffix))
        if command == "costs":
            _write(COSTS, costs.page(system, settings))
            return str(COSTS.relative_to(ROOT))
        assessment = assessed(system, settings, cdk.template_sha256())
        return f"{page.counts(assessment)}\n{WRITERS[command](assessment)}"


def _write(path: Path, text: str) -> None:
    """All of it or nothing: whoever reads meanwhile, or a full disk, finds the old content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Exit codes: 0 written, 1 not written, with one clear sentence."""
    parser = argparse.ArgumentParser(prog="python -m assessment", description=__doc__)
    parser.add_argument("command", choices=(*WRITERS, "costs"))
    parser.add_argument("--suffix", default="", help="environment suffix, part of every resource's name")
    chosen = parser.parse_args(arguments)
    try:
        print(run(chosen.command, chosen.suffix, environment))
    except (Problem, SettingsError, ObjectiveMissed, Unbounded) as problem:
        print(problem, file=sys.stderr)
        return 1
    except OSError as problem:
        print(f"{problem.filename or 'A file'} cannot be written or read: {problem.strerror}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: nothing was written.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
