"""The findings of the policy packs that were acknowledged beside their constructs, read from a cloud assembly."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stacks.templates import System

_KIND = "aws:cdk:acknowledged-rules"


@dataclass(frozen=True, order=True)
class Acknowledgement:
    """A finding that may stay: on which construct (path below the parent stack), which rule, why."""

    construct: str
    rule: str
    reason: str

    def covers(self, path: str) -> bool:
        """Whether it speaks of the construct at this path, or of one that holds it."""
        return path == self.construct or path.startswith(f"{self.construct}/")


def read(system: System, parent: str) -> tuple[Acknowledgement, ...]:
    """Every acknowledgement of the assembly. Raises FileNotFoundError when CDK wrote no metadata."""
    metadata = json.loads((system.folder / f"{parent}.metadata.json").read_text(encoding="utf-8"))
    return tuple(sorted(set(_found(metadata, parent))))


def _found(metadata: dict[str, list[dict[str, Any]]], parent: str) -> Iterator[Acknowledgement]:
    for path, entries in metadata.items():
        for entry in entries:
            if entry["type"] == _KIND:
                for rule, reason in entry["data"].items():
                    yield Acknowledgement(
                        path.removeprefix(f"/{parent}/"), str(rule).removeprefix("Annotation::"), str(reason)
                    )
