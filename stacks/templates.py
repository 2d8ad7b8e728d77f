"""The synthesised templates as a whole: the resources of the parent and of its nested stacks. No CDK here."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PARENT = "parent"
"""The name under which the parent's own template is kept."""


@dataclass(frozen=True)
class Resource:
    """One resource of one template."""

    stack: str
    logical_id: str
    body: dict[str, Any]

    @property
    def properties(self) -> dict[str, Any]:
        """Its properties as in the template; empty when it has none."""
        found: dict[str, Any] = self.body.get("Properties", {})
        return found

    @property
    def type(self) -> str:
        """Its CloudFormation type."""
        return str(self.body["Type"])

    @property
    def construct_path(self) -> str:
        """Where its construct stands in the app, from the parent stack's name on; empty when CDK wrote none."""
        return str(self.body.get("Metadata", {}).get("aws:cdk:path", ""))

    def __str__(self) -> str:
        return f"{self.stack}/{self.logical_id}"


Selector = Callable[["System"], list[Resource]]
"""Finds resources by a rule, so that nothing is listed by hand."""


@dataclass(frozen=True)
class System:
    """The synthesised templates by the name of their nested stack, in the order in which they depend on each other;
    the parent's under `parent`."""

    folder: Path
    templates: dict[str, dict[str, Any]]

    @property
    def all(self) -> Iterator[Resource]:
        """Every resource, nested stacks themselves included."""
        for stack, template in self.templates.items():
            for logical_id, body in template["Resources"].items():
                yield Resource(stack, logical_id, body)

    def of(self, kind: str, stack: str | None = None) -> list[Resource]:
        """The resources of a type, of one nested stack or of all."""
        return [each for each in self.all if each.type == kind and stack in (None, each.stack)]

    def the(self, kind: str, logical_id: str) -> Resource:
        """The one resource of a type and logical id. Raises ValueError when there is none, or more."""
        (found,) = [each for each in self.of(kind) if each.logical_id == logical_id]
        return found


def read(folder: Path, parent: str) -> System:
    """The templates of a cloud assembly whose parent stack is called `parent`.

    Raises FileNotFoundError when the assembly holds no such stack.
    """
    top: dict[str, Any] = json.loads((folder / f"{parent}.template.json").read_text(encoding="utf-8"))
    templates = {PARENT: top}
    for resource in top["Resources"].values():
        if resource["Type"] == "AWS::CloudFormation::Stack":
            name = resource["Metadata"]["aws:cdk:path"].split("/")[1].removesuffix(".NestedStack")
            (path,) = folder.glob(f"{parent.replace('-', '')}{name}????????.nested.template.json")
            templates[name] = json.loads(path.read_text(encoding="utf-8"))
    return System(folder, templates)
