"""What the synthesised templates of a deployment promise: the proof of `recovery.promise` over the deployed machine."""

import json
from pathlib import Path

from recovery import promise
from recovery.promise import Promise
from stacks.names import Names
from stacks.settings import Settings


def promised(settings: Settings, assembly: Path) -> Promise:
    """The promise of the templates in `assembly`. Raises ObjectiveMissed or Unbounded, with the reason."""
    templates = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(assembly.glob("*.template.json"))]
    machine = promise.from_templates(templates, Names(settings.environment_suffix).state_machine)
    return promise.prove(machine, settings.detection, settings.objectives)
