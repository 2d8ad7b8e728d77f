"""Nothing that the templates create can hide from the list of what is left, and nothing of another environment is in
it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

import app
from deployment.remains import KINDS, PARTS, carries
from stacks.disaster_recovery import synthesise
from stacks.settings import load

SUFFIX = "unit"


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Every resource of a deployment that uses every setting which adds one."""
    folder = tmp_path_factory.mktemp("assembly")
    declared = json.loads((app.ROOT / "cdk.json").read_text(encoding="utf-8"))["context"]
    context = {**declared, "environmentSuffix": SUFFIX, "protect": True, "alarmEmail": "on-call@example.org"}
    synthesise(load(context), app.ROOT, context, folder)
    templates = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.template.json")]
    assert len(templates) > 5
    return [resource for template in templates for resource in template["Resources"].values()]


def test_every_resource_type_of_the_templates_is_asked_for_or_part_of_another(resources: list[dict[str, Any]]) -> None:
    covered = {each for kind in KINDS for each in kind.types}
    types = {str(resource["Type"]) for resource in resources}
    assert types - covered - PARTS.keys() == set(), "add a Kind to deployment/remains.py, or say whose part it is"
    assert not covered & PARTS.keys()


def test_nothing_is_listed_as_a_part_that_no_template_has(resources: list[dict[str, Any]]) -> None:
    assert PARTS.keys() <= {resource["Type"] for resource in resources}


def test_every_name_in_the_templates_is_recognised(resources: list[dict[str, Any]]) -> None:
    found = 0
    for resource in resources:
        for name in names(resource.get("Properties", {})):
            assert carries(name, SUFFIX), f"{name} of a {resource['Type']} would not be found when it is left over"
            found += 1
    assert found > 100


def names(properties: dict[str, Any]) -> Iterator[str]:
    """Physical names: the properties that end in Name or Identifier, and the Name tag."""
    for key, value in properties.items():
        if isinstance(value, str) and re.search(r"(Name|Identifier)$", key) and "citizens-" in value:
            yield value
        if key.endswith("Tags") and isinstance(value, list):
            yield from (tag["Value"] for tag in value if tag["Key"] == "Name")


@pytest.mark.parametrize(
    "text",
    [
        "citizens-x",
        "citizens-1-x",
        "citizens-x-isolated-eu-central-2a",
        "citizens-dr-x-NetworkNestedStackNetworkNestedStackResource0124E108-8454ccb",
        "eni-1 AWS Lambda VPC ENI-citizens-witness-a-x-8454ccbb-1234-1111-2222-333344445555",
        "arn:aws:sns:eu-central-2:111122223333:citizens-alerts-x",
        "https://sqs.eu-central-2.amazonaws.com/111122223333/citizens-dead-letters-x",
        "Encrypts the log groups of citizens-x",
        "citizens-dr-x-database-snapshot-member1-1abc citizens-1-x",
        "/aws/rds/instance/citizens-1-x/postgresql",
        "citizens-recovery-x$DeletedTableBackup citizens-recovery-x",
    ],
)
def test_what_aws_appends_to_a_name_does_not_hide_it(text: str) -> None:
    assert carries(text, "x")


@pytest.mark.parametrize("text", ["citizens-1-x-2", "citizens-1-xy", "citizens-x2", "eu-central-2x", "not-citizens-x"])
def test_another_environment_whose_suffix_begins_alike_is_not_taken_for_it(text: str) -> None:
    assert not carries(text, "x")


@pytest.mark.parametrize("suffix", ["a", "1", "log", "witness", "dr"])
def test_a_suffix_that_is_also_a_part_of_names_finds_only_its_own(suffix: str) -> None:
    for name in ("citizens-witness-a-x", "citizens-1-x", "citizens-log-x", "citizens-dr-x-Network1"):
        assert not carries(name, suffix)
        assert carries(name.replace("-x", f"-{suffix}"), suffix)


def test_a_longer_suffix_that_ends_alike_is_told_apart_while_its_stack_exists() -> None:
    assert not carries("citizens-1-ci-dev", "dev", others=["ci-dev"])
    assert carries("citizens-1-dev", "dev", others=["ci-dev"])
