"""The assessment of the synthesised templates: every control told of once, every claim with something behind it."""

import ast
import dataclasses
import json
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import app
from assessment import baseline, component_definition, validation
from assessment import page as compliance
from assessment.assessed import AGENCY, SHARED, SYSTEM, UNMET, Assessment, assess, facts
from assessment.config_rules import RULES
from assessment.evidence import Evidence
from assessment.implementations import IMPLEMENTATIONS
from stacks.promised import promised
from stacks.settings import Settings
from stacks.templates import System
from tests.unit.stacks.conftest import SUFFIX, settings

PARENT = f"citizens-dr-{SUFFIX}"
NOW, LATER = "2026-11-25T04:00:00Z", "2026-12-25T04:00:00Z"
DRILL = Evidence(
    "drill primary-lost",
    "Drill primary-lost",
    "2026-11-24T10:00:00Z",
    "met: 10.6 s.",
    "reports/d/report.json",
    "a" * 64,
)
# What would say that somebody has decided what only an authorizing official decides
CLAIMS = re.compile(
    r"(is|are|been|being|was|fully|now) (FedRAMP[- ])?(authorized|authorised|accredited|certified)\b"
    r"|FedRAMP[- ](authorized|authorised|certified|compliant|approved)"
    r"|(authorization|authority) to operate|\bATO\b|provisional authorization"
    r"|compliant with FedRAMP|compl(y|ies) with FedRAMP|meets all",
    re.IGNORECASE,
)


def assessed(system: System, chosen: Settings, **evidence: Evidence) -> Assessment:
    return assess(
        system,
        chosen,
        promised(chosen, system.folder),
        evidence,
        parent=PARENT,
        template_sha256="b" * 64,
        commit="c" * 40,
    )


@pytest.fixture(scope="module")
def assessment(protected: System) -> Assessment:
    return assessed(protected, settings(protect=True, logRetentionDays=731), drill=DRILL)


@pytest.fixture(scope="module")
def document(assessment: Assessment) -> dict[str, Any]:
    return component_definition.definition(assessment, NOW)


# --- the assessment ---------------------------------------------------------------------------------------------------
def test_every_control_of_the_baseline_is_told_of_once_and_in_order(assessment: Assessment) -> None:
    assert [row.control for row in assessment.rows] == list(baseline.controls())
    assert {row.status for row in assessment.rows} == {SYSTEM, SHARED, AGENCY}


def test_an_implementation_names_one_control_of_the_baseline_and_no_two_the_same() -> None:
    named = [baseline.named(each.control) for each in IMPLEMENTATIONS]
    assert {len(each) for each in named} == {1}
    assert len(set(named)) == len(named)
    assert {control for (control,) in named} <= {each.id for each in baseline.controls()}


def test_every_control_that_a_config_rule_serves_is_implemented_here() -> None:
    served = {control for rule in RULES for control in baseline.named(rule.controls)}
    assert served <= {control for each in IMPLEMENTATIONS for control in baseline.named(each.control)}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=[each.control for each in IMPLEMENTATIONS])
def test_every_rule_over_the_templates_finds_what_implements_the_control(
    protected: System, implementation: Any
) -> None:
    assert implementation.resources
    assert all(selector(protected) for selector in implementation.resources)


def test_every_test_that_is_named_exists() -> None:
    known: dict[str, set[str]] = {}
    for each in IMPLEMENTATIONS:
        assert each.tests
        for node in each.tests:
            file, _, name = node.partition("::")
            if file not in known:
                tree = ast.parse((app.ROOT / "tests" / file).read_text(encoding="utf-8"))
                known[file] = {found.name for found in ast.walk(tree) if isinstance(found, ast.FunctionDef)}
            assert name in known[file], f"{each.control} is shown by {node}, which does not exist."


def test_the_tests_of_the_config_rules_are_those_that_run(
    assessment: Assessment, request: pytest.FixtureRequest
) -> None:
    named = {each.test for row in assessment.rows for each in row.rules}
    assert named == {
        f"tests/unit/stacks/test_fedramp_moderate.py::test_the_templates_meet[{rule.id}]" for rule in RULES
    }


def test_statements_follow_the_settings(protected: System) -> None:
    def told(control: str, **changed: Any) -> str:
        rows = assessed(protected, settings(protect=True, logRetentionDays=731, **changed)).rows
        return next(row.statement for row in rows if row.control.label == control)

    assert "every 30 days" in told("IA-5")
    assert "every 7 days" in told("IA-5", rotationDays=7)
    assert "for 731 days" in told("AU-11")
    assert "made again when `make reprotect` is given" in told("CP-10", autoReprotect=False)


@given(
    rotation=st.integers(1, 30),
    log=st.booleans(),
    drills=st.integers(0, 365),
    reprotect=st.booleans(),
    protect=st.booleans(),
    key=st.sampled_from([None, "arn:aws:kms:eu-central-2:111122223333:key/00000000-0000-0000-0000-000000000000"]),
    cidrs=st.lists(st.sampled_from(["10.60.0.0/16", "10.61.0.0/16"]), min_size=1, unique=True),
    interval=st.floats(0.2, 2),
)
def test_whatever_the_settings_every_statement_is_whole(protected: System, **drawn: Any) -> None:
    chosen = settings(
        rotationDays=drawn["rotation"],
        transactionLog=drawn["log"],
        drillDays=drawn["drills"],
        autoReprotect=drawn["reprotect"],
        protect=drawn["protect"],
        secretKeyArn=drawn["key"],
        applicationCidrs=drawn["cidrs"],
        probeIntervalSeconds=drawn["interval"],
    )
    # Of the proof, only its figures are told
    told = facts(protected, chosen, promised(settings(), protected.folder), "b" * 64)
    for each in IMPLEMENTATIONS:
        statement = each.statement.format_map(told)
        assert statement.endswith(".")
        assert not re.search(r"[{}]|None|  | [,.]|\.\.|\(\)", statement), statement


def test_the_readme_counts_them_right(assessment: Assessment) -> None:
    readme = " ".join((app.ROOT / "README.md").read_text(encoding="utf-8").split())
    here, theirs = len(assessment.of(SYSTEM, SHARED)), len(assessment.of(AGENCY))
    assert f"for each of the {here} that the system implements in full or in part" in readme
    assert f"the other {theirs} are listed as the agency's" in readme


def test_without_protect_the_rule_that_is_not_met_is_told_with_what_violates_it(system: System) -> None:
    (row,) = assessed(system, settings()).of(UNMET)
    assert row.control.label == "SC-5"
    assert {name for each in row.rules for name in each.violations} == {"Member1", "Member2"}


def test_without_the_transaction_log_what_it_implements_is_the_agencys(protected: System) -> None:
    rows = assessed(protected, settings(protect=True, transactionLog=False)).rows
    status = {row.control.label: row.status for row in rows}
    assert status["CP-10(2)"] == status["SI-7(1)"] == AGENCY
    # The chain of evidence is kept all the same
    assert status["CP-10"] == status["SI-7"] == SHARED
    (recovery,) = (row.statement for row in rows if row.control.label == "CP-10")
    assert "roll forward" not in recovery


def test_evidence_that_nobody_made_is_told_with_the_command_that_makes_it(assessment: Assessment) -> None:
    (row,) = (row for row in assessment.rows if row.control.label == "CP-4")
    assert row.evidence == (DRILL,)
    assert row.missing == ("incidents",)
    assert "make rehearse-time" in compliance.page(assessment)


def test_acknowledgements_are_on_constructs_of_the_templates_and_say_why(
    assessment: Assessment, protected: System
) -> None:
    paths = {each.construct_path.removeprefix(f"{PARENT}/") for each in protected.all}
    assert len(assessment.acknowledgements) > 20
    for each in assessment.acknowledgements:
        assert any(each.covers(path) for path in paths), each
        assert len(each.reason) > 20
        assert "Unrestricted(" not in each.reason
    shown = {each for row in assessment.rows for each in row.acknowledgements}
    assert {each for each in assessment.acknowledgements if "RDS" in each.rule} <= shown


# --- OSCAL ------------------------------------------------------------------------------------------------------------
def refused(folder: Path, document: dict[str, Any]) -> str | None:
    file = folder / "component-definition.json"
    file.write_text(json.dumps(document))
    return validation.problem(file)


def test_compliance_trestle_accepts_the_document(tmp_path: Path, document: dict[str, Any]) -> None:
    assert refused(tmp_path, document) is None


def test_compliance_trestle_refuses_a_broken_document(tmp_path: Path, document: dict[str, Any]) -> None:
    def broken(change: Any) -> str | None:
        other = json.loads(json.dumps(document))
        change(other["component-definition"], other["component-definition"]["components"][0])
        return refused(tmp_path, other)

    def requirements(component: Any) -> Any:
        return component["control-implementations"][0]["implemented-requirements"]

    assert broken(lambda top, _: top.update(verdict="fine"))
    assert broken(lambda top, _: top["metadata"].pop("last-modified"))
    assert broken(lambda _, component: component.pop("title"))
    assert broken(lambda _, component: requirements(component)[0].pop("control-id"))
    assert broken(lambda _, component: requirements(component)[0].update(uuid=requirements(component)[1]["uuid"]))
    assert refused(tmp_path, {"component-definition": []})


def test_the_oscal_version_is_the_one_that_the_validator_knows(document: dict[str, Any]) -> None:
    from trestle.oscal import OSCAL_VERSION

    assert document["component-definition"]["metadata"]["oscal-version"] == OSCAL_VERSION


def test_the_same_system_gives_the_same_document_to_the_byte(assessment: Assessment, document: dict[str, Any]) -> None:
    assert json.dumps(component_definition.definition(assessment, NOW)) == json.dumps(document)


def test_the_time_changes_only_when_the_content_does(assessment: Assessment, document: dict[str, Any]) -> None:
    kept = json.loads(json.dumps(document))
    assert component_definition.definition(assessment, LATER, kept) == document
    changed = dataclasses.replace(assessment, commit="d" * 40)
    other = component_definition.definition(changed, LATER, kept)["component-definition"]
    assert other["metadata"]["last-modified"] == LATER
    assert other["uuid"] != document["component-definition"]["uuid"]
    # It is the same component
    assert other["components"][0]["uuid"] == document["component-definition"]["components"][0]["uuid"]


@pytest.mark.parametrize("before", [{}, {"component-definition": {}}, {"component-definition": {"metadata": {}}}])
def test_a_document_that_is_none_is_replaced(
    assessment: Assessment, document: dict[str, Any], before: dict[str, Any]
) -> None:
    assert component_definition.definition(assessment, NOW, before) == document


def test_every_uuid_is_derived_and_no_two_are_the_same(document: dict[str, Any]) -> None:
    found = [UUID(each) for each in uuids(document)]
    assert len(found) == len(set(found)) > 60
    assert {each.version for each in found} == {5}


def uuids(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["uuid"]] if "uuid" in value else []
        return own + [each for part in value.values() for each in uuids(part)]
    return [each for part in value for each in uuids(part)] if isinstance(value, list) else []


def test_what_is_the_agencys_is_listed_and_is_no_requirement_of_the_component(document: dict[str, Any]) -> None:
    content = document["component-definition"]
    (implementation,) = content["components"][0]["control-implementations"]
    here = {each["control-id"] for each in implementation["implemented-requirements"]}
    (listed,) = (each for each in content["back-matter"]["resources"] if "agency" in each["title"])
    theirs = {each["value"] for each in listed["props"]}
    assert not here & theirs
    assert here | theirs == {each.id for each in baseline.controls()}


def test_evidence_is_linked_with_date_and_hash(document: dict[str, Any]) -> None:
    content = document["component-definition"]
    by_uuid = {each["uuid"]: each for each in content["back-matter"]["resources"]}
    (implementation,) = content["components"][0]["control-implementations"]
    (requirement,) = (e for e in implementation["implemented-requirements"] if e["control-id"] == "cp-4")
    found = by_uuid[requirement["links"][0]["href"].removeprefix("#")]
    assert found["props"][0]["value"] == DRILL.made_at
    assert found["rlinks"][0] == {
        "href": DRILL.path,
        "media-type": "application/json",
        "hashes": [{"algorithm": "SHA-256", "value": DRILL.sha256}],
    }


def test_nothing_claims_an_authorization(assessment: Assessment, document: dict[str, Any]) -> None:
    texts = {
        "component definition": json.dumps(document),
        "page": compliance.page(assessment),
        **{name: (app.ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/compliance.md")},
    }
    for name, text in texts.items():
        assert CLAIMS.search(text) is None, name
        assert "no authorization" in text or "no FedRAMP authorization" in text, name


@pytest.mark.parametrize(
    "claim",
    ["The system is FedRAMP authorized.", "We are certified.", "It has an ATO.", "This is fully FedRAMP-compliant."],
)
def test_a_claim_would_be_found(claim: str) -> None:
    assert CLAIMS.search(claim)
