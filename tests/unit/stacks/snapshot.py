"""The templates as a reviewer reads them, and what would replace a resource that holds data.

`make snapshots` writes the templates' snapshots again. The list of what replaces data is written only when asked for
(`make snapshots STATEFUL=yes`), because a changed line in it means that a deploy replaces a resource.
"""

import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

from tests.unit.stacks.conftest import STATEFUL, System, settle_environment, synthesised

FOLDER = Path(__file__).with_name("snapshots")
STATEFUL_LIST = FOLDER / "stateful.json"
_ASSET = re.compile(r"[0-9a-f]{64}")
# CDK's name for what comes from another nested stack, of which the end alone tells something
_FROM_ANOTHER_STACK = re.compile(r"referencetocitizensdr\w+?Outputscitizensdr[a-z]+(?=[A-Z])")


def snapshots(system: System) -> dict[Path, str]:
    """The text of each template's snapshot by its file."""
    return {FOLDER / f"{name}.json": _text(readable(template)) for name, template in system.templates.items()}


def readable(value: Any) -> Any:
    """A template's value with hashes of assets masked, references written as `${Name}`, and JSON in texts opened."""
    if isinstance(value, dict):
        if (text := _reference(value)) is not None:
            return _opened(text)
        return {_masked(key): readable(part) for key, part in value.items() if key != "Metadata"}
    if isinstance(value, list):
        if value and all(isinstance(part, dict) and set(part) == {"Key", "Value"} for part in value):
            return {tag["Key"]: readable(tag["Value"]) for tag in value}
        return [readable(part) for part in value]
    return _opened(value) if isinstance(value, str) else value


def _reference(value: Mapping[str, Any]) -> str | None:
    match list(value.items()):
        case [("Ref", name)]:
            return f"${{{name}}}"
        case [("Fn::GetAtt", [resource, attribute])]:
            return f"${{{resource}.{attribute}}}"
        case [("Fn::Join", ["", parts])]:
            return "".join(part if isinstance(part, str) else _reference(part) or json.dumps(part) for part in parts)
    return None


def _opened(text: str) -> Any:
    text = _masked(text)
    if text.startswith("{") and not text.startswith("{{"):
        try:
            return {"JSON": json.loads(text)}
        except ValueError:
            return text
    return text


def _masked(text: str) -> str:
    return _FROM_ANOTHER_STACK.sub("", _ASSET.sub("<asset>", text))


def replacing(system: System) -> dict[str, dict[str, Any]]:
    """For each resource that holds data, the properties whose change replaces it or may, with their values.

    Which these are is what CloudFormation's registry says (`createOnlyProperties`, `conditionalCreateOnlyProperties`).
    """
    return {
        f"{resource.stack}/{resource.logical_id}": {
            "Type": resource.type,
            **{name: readable(value) for name, value in sorted(_create_only(resource.type, resource.properties))},
        }
        for resource in system.all
        if resource.type in STATEFUL
    }


def _create_only(kind: str, properties: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("eu-central-2", kind).schema
    for key in ("createOnlyProperties", "conditionalCreateOnlyProperties"):
        for pointer in schema.get(key) or ():
            name = pointer.removeprefix("/properties/")
            if "/" not in name and name in properties:
                yield name, properties[name]


def stateful_text(system: System) -> str:
    """The text of the list of what replaces data."""
    return _text(replacing(system))


def _text(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"


def write(system: System, stateful: bool) -> None:
    """Write the snapshots, and the list of what replaces data when asked to."""
    FOLDER.mkdir(exist_ok=True)
    for path, text in snapshots(system).items():
        path.write_text(text)
    if stateful:
        STATEFUL_LIST.write_text(stateful_text(system))


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        settle_environment(patch)
        write(synthesised(Path(folder)), "--stateful" in sys.argv[1:])
