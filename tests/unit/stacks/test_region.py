"""What is deployed exists in eu-central-2, by the data that cfn-lint took from the region."""

import json
from datetime import date, timedelta
from importlib import resources
from typing import Any

import pytest
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

from stacks.settings import REGION
from tests.unit.stacks.conftest import System

# The data knows these, the region does not: a transform stands behind, or the service's own list of regions lacks it.
ABSENT = ("AWS::FIS::", "AWS::Serverless::", "AWS::RDS::DBProxy", "AWS::Lambda::CodeSigningConfig")
SUPPORTED_FOR = timedelta(days=365)


def data(package: str, name: str) -> Any:
    return json.loads((resources.files(f"cfnlint.data.{package}") / name).read_text())


def rules_for_postgres(name: str) -> list[dict[str, Any]]:
    rules = data("schemas.extensions.aws_rds_dbinstance", name)["allOf"]
    return [rule for rule in rules if rule["if"]["properties"].get("Engine", {}).get("const") == "postgres"]


def test_the_region_has_every_resource_type(system: System, protected: System) -> None:
    offered = set(PROVIDER_SCHEMA_MANAGER.get_resource_types(REGION))
    used = {each.type for which in (system, protected) for each in which.all if not each.type.startswith("Custom::")}
    assert len(used) > 40
    assert used - offered == set()
    assert [kind for kind in used if kind.startswith(ABSENT)] == []


@pytest.mark.parametrize("absent", ["AWS::Macie::Session", "AWS::ResilienceHub::App", "AWS::AuditManager::Assessment"])
def test_the_data_tells_what_the_region_lacks(absent: str) -> None:
    assert absent not in PROVIDER_SCHEMA_MANAGER.get_resource_types(REGION)
    assert absent in PROVIDER_SCHEMA_MANAGER.get_resource_types("us-east-1")


def test_the_region_offers_the_members_instance_class_for_postgresql(system: System) -> None:
    rules = data("schemas.extensions.aws_rds_dbinstance", "dbinstanceclass_enum.json")[REGION]["allOf"]
    (offered, *_) = [
        rule["then"]["properties"]["DBInstanceClass"]["enum"]
        for rule in rules
        if rule["if"]["properties"].get("Engine", {}).get("const") == "postgres"
    ]
    used = {each.properties["DBInstanceClass"] for each in system.of("AWS::RDS::DBInstance")}
    assert used
    assert used <= set(offered)


def test_rds_knows_the_engine_version_and_has_not_deprecated_it(system: System) -> None:
    (known,) = rules_for_postgres("engine_version.json")
    (deprecated,) = rules_for_postgres("engine_version_deprecated.json")
    version = system.the("AWS::RDS::DBInstance", "Member1").properties["EngineVersion"]
    assert version in known["then"]["properties"]["EngineVersion"]["enum"]
    assert version not in deprecated["if"]["properties"]["EngineVersion"]["enum"]


def test_lambda_supports_the_functions_runtime_for_another_year(system: System) -> None:
    lifecycle = data("AdditionalSpecs", "LmbdRuntimeLifecycle.json")
    runtimes = {each.properties["Runtime"] for each in system.of("AWS::Lambda::Function")}
    assert runtimes
    for runtime in runtimes:
        assert date.fromisoformat(lifecycle[runtime]["deprecated"]) > date.today() + SUPPORTED_FOR
