"""What is deployed, as the deploy wrote it down: by it a drill's record names commit, templates and plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from recovery.table import RecoveryTable

RECORD = "deployment"


@dataclass(frozen=True)
class Provenance:
    """The commit (with `-dirty` when more than that was deployed), the SHA-256 over the templates, the plans that the
    repository holds (SHA-256 by path), and when it was deployed (ISO 8601). Empty texts: not known."""

    commit: str = ""
    template_sha256: str = ""
    deployed_at: str = ""
    plans: Mapping[str, str] = field(default_factory=dict)

    def of_plan(self, name: str) -> dict[str, str] | None:
        """{"name", "sha256"} of a plan; None when it is not known."""
        return {"name": name, "sha256": self.plans[name]} if name in self.plans else None


def write(table: RecoveryTable, deployed: Provenance) -> None:
    """Write down what is deployed now."""
    record = {**deployed.__dict__, "plans": json.dumps(dict(deployed.plans), sort_keys=True)}
    table.put(RECORD, record)


def read(table: RecoveryTable) -> Provenance:
    """What is deployed; all of it unknown when nobody wrote it down, as after a deploy without `make deploy`."""
    record = table.get(RECORD)
    if record is None:
        return Provenance()
    return Provenance(
        commit=str(record.get("commit", "")),
        template_sha256=str(record.get("template_sha256", "")),
        deployed_at=str(record.get("deployed_at", "")),
        plans={str(name): str(digest) for name, digest in json.loads(record.get("plans") or "{}").items()},
    )
