import json
import os
import subprocess
import sys
from importlib import resources
from typing import Any

import pytest
from pydantic import ValidationError

import app
from stacks.settings import INSTANCE_CLASSES, SettingsError, load
from tests.unit.stacks.conftest import settings


def sentences(**changed: Any) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as refused:
        settings(**changed)
    return refused.value.sentences


@pytest.mark.parametrize("suffix", ["a", "dev", "pr-123", "0", "a" * 20])
def test_a_suffix_of_small_letters_digits_and_single_hyphens_is_taken(suffix: str) -> None:
    assert settings(environmentSuffix=suffix).environment_suffix == suffix


@pytest.mark.parametrize("suffix", ["Dev", "-dev", "dev-", "a--b", "a" * 21, "dev_1", "dev ", "é", "dev\n"])
def test_a_malformed_suffix_is_refused_in_one_sentence(suffix: str) -> None:
    (sentence,) = sentences(environmentSuffix=suffix)
    assert sentence.startswith(f"The environment suffix {suffix!r} is malformed:")


def test_a_missing_suffix_is_refused_with_the_command_to_give() -> None:
    with pytest.raises(SettingsError) as refused:
        load({})
    assert refused.value.sentences == (
        "The environment suffix is missing: set ENV_SUFFIX, for example `make deploy ENV_SUFFIX=dev`.",
    )


@pytest.mark.parametrize(
    ("changed", "beginning"),
    [
        ({"region": "eu-central-1"}, "The region 'eu-central-1' is refused:"),
        ({"availabilityZones": ["eu-central-2a"]}, "The availability zones eu-central-2a are refused:"),
        ({"availabilityZones": []}, "The availability zones (none) are refused:"),
        ({"availabilityZones": ["eu-central-2a", "eu-central-2a"]}, "The availability zones eu-central-2a, eu-"),
        ({"availabilityZones": ["eu-central-2a", "eu-central-1c"]}, "The availability zones eu-central-2a, eu-"),
        ({"availabilityZones": "eu-central-2a,eu-central-2d"}, "The availability zones eu-central-2a, eu-central-2d"),
        ({"instanceClass": "db.m6i.large"}, "The instance class 'db.m6i.large' is not one that eu-central-2 offers"),
        ({"instanceClass": "t4g.medium"}, "The instance class 't4g.medium' is not one"),
        ({"engineVersion": "17.11"}, "The engine version '17.11' is refused: recovery is rehearsed with PostgreSQL 18"),
        ({"engineVersion": "18"}, "The engine version '18' is malformed:"),
        ({"engineVersion": "latest"}, "The engine version 'latest' is malformed:"),
        ({"applicationCidrs": ["10.60.0.1/16"]}, "The application range '10.60.0.1/16' is malformed:"),
        ({"applicationCidrs": []}, "No application range is given:"),
        ({"applicationCidrs": ["0.0.0.0/0"]}, "The application range '0.0.0.0/0' is refused: it is wider than a /8."),
        ({"applicationCidrs": ["10.40.7.0/24"]}, "The application range 10.40.7.0/24 overlaps the VPC's own"),
        ({"vpcCidr": "10.40.0.0"}, "The VPC's range '10.40.0.0' is refused:"),
        ({"vpcCidr": "nonsense"}, "The VPC range 'nonsense' is malformed:"),
        ({"vpcCidr": "10.40.0.0/28"}, "The VPC's range '10.40.0.0/28' is refused:"),
        ({"secretName": "has space"}, "The secret name 'has space' is malformed:"),
        ({"secretName": "/leading"}, "The secret name '/leading' is malformed:"),
        ({"secretName": "citizens-abc123"}, "The secret name 'citizens-abc123' ends like an ARN"),
        ({"secretKeyArn": "alias/mine"}, "The secret's key 'alias/mine' is malformed:"),
        ({"alarmEmail": "duty"}, "The alarm address 'duty' is malformed:"),
        ({"logRetentionDays": 366}, "The log retention 366 is not one CloudWatch Logs accepts:"),
        ({"logRetentionDays": 180, "protect": True}, "The log retention 180 is too short for a protected environment:"),
        ({"owner": "a\tb"}, "The tag value 'a\\tb' is malformed:"),
        ({"allocatedStorage": 5}, "The setting allocated_storage is 5, but should be greater than or equal to 20."),
        ({"rtoSeconds": 901}, "The setting rto_seconds is 901, but should be less than or equal to 900."),
        ({"protect": "perhaps"}, "The setting protect is 'perhaps', but should be a valid boolean"),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence(changed: dict[str, Any], beginning: str) -> None:
    (sentence,) = sentences(**changed)
    assert sentence.startswith(beginning)
    assert "\n" not in sentence


def test_every_problem_has_its_own_sentence() -> None:
    assert len(sentences(region="us-east-1", instanceClass="big", engineVersion="9.6")) == 3


def test_an_environment_variable_wins_over_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENV_SUFFIX", "fromenv")
    monkeypatch.setenv("INSTANCE_CLASS", "db.r8g.large")
    monkeypatch.setenv("AVAILABILITY_ZONES", "eu-central-2b,eu-central-2c")
    monkeypatch.setenv("APPLICATION_CIDRS", '["10.61.0.0/16", "10.62.0.0/16"]')
    chosen = settings(environmentSuffix="fromcontext", instanceClass="db.t3.medium")
    assert chosen.environment_suffix == "fromenv"
    assert chosen.instance_class == "db.r8g.large"
    assert chosen.availability_zones == ("eu-central-2b", "eu-central-2c")
    assert chosen.application_cidrs == ("10.61.0.0/16", "10.62.0.0/16")


def test_an_empty_environment_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTANCE_CLASS", "")
    assert settings().instance_class == "db.t4g.medium"


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError):
        settings().region = "us-east-1"


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in type(settings()).model_fields.values())


def test_the_instance_classes_are_those_that_the_region_offers_for_postgresql() -> None:
    data = resources.files("cfnlint.data.schemas.extensions.aws_rds_dbinstance") / "dbinstanceclass_enum.json"
    rules = json.loads(data.read_text())["eu-central-2"]["allOf"]
    (offered, *_) = [
        rule["then"]["properties"]["DBInstanceClass"]["enum"]
        for rule in rules
        if rule["if"]["properties"].get("Engine", {}).get("const") == "postgres"
    ]
    assert set(offered) == INSTANCE_CLASSES


def test_the_app_refuses_before_the_cdk_starts() -> None:
    environment = {**os.environ, "REGION": "eu-west-1", "ENV_SUFFIX": "Bad", "JSII_NODE": "/does/not/exist"}
    refused = subprocess.run(
        [sys.executable, "app.py"], cwd=app.ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert refused.stdout == ""
    first, second = refused.stderr.splitlines()
    assert first.startswith("The environment suffix 'Bad' is malformed")
    assert second.startswith("The region 'eu-west-1' is refused")


def test_the_app_takes_the_context_that_the_command_line_hands_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDK_CONTEXT_JSON", json.dumps({"environmentSuffix": "UPPER"}))
    assert app.main() == 1
