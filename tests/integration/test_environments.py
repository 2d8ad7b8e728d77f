"""Several environments live side by side, and a change is an update in place."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest

from deployment import local, remains
from deployment.account import Account
from deployment.cdk import Cdk
from drills.client import Application
from tests.integration.conftest import Cloud

pytestmark = pytest.mark.breaks_the_machine


@pytest.fixture(scope="module")
def pair(cloud: Cloud) -> tuple[Cdk, Cdk]:
    first, second = (f"{name}-{secrets.token_hex(2)}" for name in "ab")
    log = cloud.state / "pair.log"
    return Cdk(first, cloud.environment, log), Cdk(second, cloud.environment, log)


@pytest.fixture(scope="module")
def outputs_of_pair(pair: tuple[Cdk, Cdk]) -> tuple[dict[str, str], dict[str, str]]:
    def deploy(cdk: Cdk) -> dict[str, str]:
        cdk.synth()
        local.play_agency(cdk.environment, cdk.suffix)
        return cdk.deploy()

    with ThreadPoolExecutor() as pool:
        first, second = pool.map(deploy, pair)
    return first, second


def test_two_suffixes_are_deployed_at_once_and_keep_apart(
    cloud: Cloud, outputs_of_pair: tuple[dict[str, str], dict[str, str]]
) -> None:
    account = Account(cloud.environment)
    applications = [Application(account, outputs) for outputs in outputs_of_pair]
    for number, application in enumerate(applications):
        with application.connect() as connection:
            connection.execute("CREATE TABLE whose (number int)")
            connection.execute("INSERT INTO whose VALUES (%s)", (number,))
    for number, application in enumerate(applications):
        with application.connect() as connection:
            assert connection.execute("SELECT number FROM whose").fetchall() == [(number,)]
    shared = set(outputs_of_pair[0].items()) & set(outputs_of_pair[1].items())
    assert {name for name, _ in shared} == {"Region"}


def test_a_changed_setting_updates_its_nested_stack_in_place(
    cloud: Cloud, pair: tuple[Cdk, Cdk], outputs_of_pair: tuple[dict[str, str], dict[str, str]]
) -> None:
    account, before = Account(cloud.environment), outputs_of_pair[0]
    rds, functions = account.client("rds"), account.client("lambda")
    witness = before["WitnessAFunctionName"]
    created = rds.describe_db_instances(DBInstanceIdentifier=before["Member1Identifier"])["DBInstances"][0]
    changed = Cdk(
        pair[0].suffix, {**cloud.environment, "FAILURE_THRESHOLD": "2", "BACKUP_RETENTION_DAYS": "30"}, pair[0].log
    )
    changed.synth()
    assert "FAILURE_THRESHOLD" in changed.diff()
    after = changed.deploy()
    assert after == before
    variables = functions.get_function_configuration(FunctionName=witness)["Environment"]["Variables"]
    assert variables["FAILURE_THRESHOLD"] == "2"
    machine = account.client("stepfunctions").describe_state_machine(stateMachineArn=before["FailoverStateMachineArn"])
    assert '"BackupRetentionPeriod":30' in machine["definition"]
    instance = rds.describe_db_instances(DBInstanceIdentifier=before["Member1Identifier"])["DBInstances"][0]
    assert instance["DbiResourceId"] == created["DbiResourceId"]
    assert changed.diff() == ""


def test_destroying_one_suffix_leaves_the_other_alone(
    cloud: Cloud, pair: tuple[Cdk, Cdk], outputs_of_pair: tuple[dict[str, str], dict[str, str]]
) -> None:
    account = Account(cloud.environment)
    pair[0].destroy()
    assert remains.of(account, pair[0].suffix) == []
    with Application(account, outputs_of_pair[1]).connect() as connection:
        assert connection.execute("SELECT number FROM whose").fetchall() == [(1,)]
    pair[1].destroy()
    assert remains.of(account, pair[1].suffix) == []
    for cdk in pair:
        cdk.discard()
