"""One synthesis for all tests of the templates: `system` as deployed by default, `protected` with `protect` on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import app
from stacks import templates
from stacks.settings import Settings, load
from stacks.templates import Resource as Resource
from stacks.templates import System as System

SUFFIX = "unit"
NESTED = (
    *("Network", "Security", "Storage", "Database", "TransactionLog", "Failover", "Operations", "Drills"),
    "Evidence",
    "Observability",
)
# What holds data.
STATEFUL = {
    *("AWS::RDS::DBInstance", "AWS::EFS::FileSystem", "AWS::DynamoDB::Table", "AWS::Backup::BackupVault"),
    *("AWS::KMS::Key", "AWS::Logs::LogGroup", "AWS::SQS::Queue", "AWS::S3::Bucket"),
}


def context(**changed: Any) -> dict[str, Any]:
    declared: dict[str, Any] = json.loads((app.ROOT / "cdk.json").read_text())["context"]
    # The last is what the command line adds, and what tells cfn-lint that the template is generated
    return {**declared, "environmentSuffix": SUFFIX, **changed, "aws:cdk:enable-path-metadata": True}


def settings(**changed: Any) -> Settings:
    return load(context(**changed))


def synthesised(folder: Path, **changed: Any) -> System:
    from stacks.disaster_recovery import synthesise

    synthesise(settings(**changed), app.ROOT, context(**changed), folder)
    return templates.read(folder, f"citizens-dr-{SUFFIX}")


def settle_environment(patch: pytest.MonkeyPatch) -> None:
    """Settings come from cdk.json alone, whatever the shell has set."""
    for field in Settings.model_fields:
        patch.delenv(field.upper(), raising=False)
    patch.delenv("ENV_SUFFIX", raising=False)
    app.use_node_of_this_environment()


@pytest.fixture(scope="session", autouse=True)
def _own_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        settle_environment(patch)
        yield


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory, _own_environment: None) -> System:
    return synthesised(tmp_path_factory.mktemp("system"))


@pytest.fixture(scope="session")
def protected(tmp_path_factory: pytest.TempPathFactory, system: System) -> System:
    return synthesised(
        tmp_path_factory.mktemp("protected"),
        protect=True,
        logRetentionDays=731,
        alarmEmail="duty@agency.example",
        secretKeyArn="arn:aws:kms:eu-central-2:111122223333:key/00000000-0000-0000-0000-000000000000",
    )
