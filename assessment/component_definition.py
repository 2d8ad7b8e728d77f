"""The OSCAL component definition: the assessment as a machine reads it.

Deterministic: every UUID is derived (version 5), those of the component and its parts from their names, that of the
document from its content. Nothing in it tells the time but evidence, and `last-modified`, which stays as it was while
the content does.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from assessment import baseline
from assessment.assessed import AGENCY, DISCLAIMER, SHARED, STATUSES, SYSTEM, UNMET, Assessment, Row
from assessment.evidence import Evidence

OSCAL_VERSION = "1.2.1"
NAMESPACE = "urn:citizens-disaster-recovery:oscal"
"""Of the properties that OSCAL does not know: responsibility, resource, test, config-rule, acknowledgement."""
_ROOT = uuid5(NAMESPACE_URL, NAMESPACE)


def definition(assessment: Assessment, now: str, previous: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The document; `now` (ISO 8601, UTC) becomes its last-modified unless `previous` says the same but for that."""
    content = _content(assessment)
    content["uuid"] = _uuid("document", json.dumps(content, sort_keys=True, ensure_ascii=False))
    document = {"component-definition": content}
    stamped = _stamped(document, now)
    if previous is not None:
        before = previous.get("component-definition", {}).get("metadata", {}).get("last-modified")
        if isinstance(before, str) and _stamped(document, before) == previous:
            return dict(previous)
    return stamped


def _stamped(document: dict[str, Any], now: str) -> dict[str, Any]:
    content = document["component-definition"]
    metadata = {**content["metadata"], "last-modified": now}
    return {"component-definition": {**content, "metadata": metadata}}


def _content(assessment: Assessment) -> dict[str, Any]:
    settings = assessment.settings
    implemented = assessment.of(SYSTEM, SHARED, UNMET)
    evidence = {each.path: each for row in implemented for each in row.evidence}
    return {
        "uuid": "",
        "metadata": {
            "title": "Disaster recovery of the citizens' database",
            "last-modified": "",
            "version": assessment.template_sha256[:16],
            "oscal-version": OSCAL_VERSION,
            "props": [
                _prop("template-sha256", assessment.template_sha256),
                _prop("commit", assessment.commit),
                _prop("environment", settings.environment_suffix),
                _prop("region", settings.region),
            ],
            "roles": [
                {"id": "provider", "title": "Provider of the system"},
                {"id": "agency", "title": "Agency that operates it"},
            ],
            "remarks": DISCLAIMER,
        },
        "components": [
            {
                "uuid": _uuid("component"),
                "type": "software",
                "title": "Citizens' database: disaster recovery",
                "description": "Two Multi-AZ PostgreSQL members on RDS, witnesses, an arbiter and a failover machine, "
                f"a transaction log, backups, credentials' rotation and alarms in {settings.region}, as the "
                "synthesised CloudFormation templates describe them.",
                "purpose": f"Recovery within {settings.rto_seconds} s, with at most {settings.rpo_seconds} s of data "
                "gone.",
                "props": list(_component_props(assessment)),
                "responsible-roles": [{"role-id": "provider"}],
                "control-implementations": [
                    {
                        "uuid": _uuid("control-implementation"),
                        "source": baseline.SOURCE,
                        "description": f"What this component implements of the {baseline.TITLE}. Every other control "
                        "is the agency's; the back matter lists them.",
                        "props": [
                            _prop("implemented-here", str(len(implemented))),
                            _prop("agency", str(len(assessment.of(AGENCY)))),
                        ],
                        "implemented-requirements": [_requirement(row) for row in implemented],
                    }
                ],
            }
        ],
        "back-matter": {
            "resources": [_agencys(assessment.of(AGENCY)), *(_resource(each) for each in evidence.values())]
        },
    }


def _component_props(assessment: Assessment) -> Iterator[dict[str, Any]]:
    yield {"name": "version", "value": assessment.template_sha256[:16]}
    for each in assessment.acknowledgements:
        yield _prop("acknowledgement", f"{each.rule} at {each.construct}", each.reason)


def _requirement(row: Row) -> dict[str, Any]:
    requirement: dict[str, Any] = {
        "uuid": _uuid("requirement", row.control.id),
        "control-id": row.control.id,
        "description": row.statement,
        "props": [
            _prop("responsibility", row.status.replace(" ", "-"), STATUSES[row.status]),
            *(_prop("resource", str(each), each.type) for each in row.resources),
            *(_prop("test", each) for each in row.tests),
            *(
                _prop(
                    "config-rule",
                    each.rule.name,
                    f"not met by {', '.join(each.violations)}" if each.violations else "met by the templates",
                )
                for each in row.rules
            ),
            *(_prop("acknowledgement", f"{each.rule} at {each.construct}") for each in row.acknowledgements),
        ],
        "responsible-roles": [
            {"role-id": role} for role in (("provider", "agency") if _agency(row) else ("provider",))
        ],
    }
    if row.evidence:
        requirement["links"] = [{"href": f"#{_evidence_uuid(each)}", "rel": "evidence"} for each in row.evidence]
    if agency := _agency(row):
        requirement["remarks"] = f"The agency's part: {agency}"
    return requirement


def _agency(row: Row) -> str:
    return row.implementation.agency if row.implementation else ""


def _agencys(rows: Iterable[Row]) -> dict[str, Any]:
    """The rest of the baseline; not as requirements, because a requirement claims an implementation."""
    return {
        "uuid": _uuid("agencys-controls"),
        "title": "Controls of the baseline that are the agency's",
        "description": "This component implements none of them.",
        "props": [_prop("agency-control", row.control.id, f"{row.control.label} {row.control.title}") for row in rows],
    }


def _resource(evidence: Evidence) -> dict[str, Any]:
    return {
        "uuid": _evidence_uuid(evidence),
        "title": f"{evidence.title}, {evidence.made_at}",
        "description": evidence.says,
        "props": [_prop("made-at", evidence.made_at)],
        "rlinks": [
            {
                "href": evidence.path,
                "media-type": "application/json",
                "hashes": [{"algorithm": "SHA-256", "value": evidence.sha256}],
            }
        ],
    }


def _evidence_uuid(evidence: Evidence) -> str:
    return _uuid("evidence", evidence.path, evidence.sha256)


def _uuid(*names: str) -> str:
    return str(uuid5(_ROOT, "\n".join(names)))


def _prop(name: str, value: str, remarks: str = "") -> dict[str, Any]:
    prop = {"name": name, "ns": NAMESPACE, "value": value}
    return {**prop, "remarks": remarks} if remarks else prop
