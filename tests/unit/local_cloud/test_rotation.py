import contextvars
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from ministack.services import lambda_svc, secretsmanager

from local_cloud import rotation, schedules
from local_cloud.rotation import next_rotation
from tests.unit.local_cloud.emulated_account import emulated_account
from tests.unit.local_cloud.running_cloud import ACCOUNT, RunningCloud, eventually

ROTATION = """
import json
import boto3
secrets = boto3.client("secretsmanager")

def handler(event, context):
    print(event["Step"], event["ClientRequestToken"])
    secret, token, step = event["SecretId"], event["ClientRequestToken"], event["Step"]
    value = json.loads(secrets.get_secret_value(SecretId=secret)["SecretString"])
    if step == value.get("fails"):
        raise RuntimeError("on purpose")
    stages = secrets.describe_secret(SecretId=secret)["VersionIdsToStages"]
    assert "AWSPENDING" in stages[token]
    if step == "createSecret":
        try:
            secrets.get_secret_value(SecretId=secret, VersionId=token, VersionStage="AWSPENDING")
        except secrets.exceptions.ResourceNotFoundException:
            value["password"] += "+"
            secrets.put_secret_value(SecretId=secret, ClientRequestToken=token, SecretString=json.dumps(value),
                                     VersionStages=["AWSPENDING"])
    if step == "finishSecret":
        [current] = [version for version, held in stages.items() if "AWSCURRENT" in held]
        secrets.update_secret_version_stage(SecretId=secret, VersionStage="AWSCURRENT", MoveToVersionId=token,
                                            RemoveFromVersionId=current)
"""
RULES = {"AutomaticallyAfterDays": 30}


@pytest.fixture(scope="module")
def function(cloud: RunningCloud) -> Iterator[str]:
    arn = cloud.function("rotate", ROTATION, "secretsmanager:*", "logs:*")
    yield arn
    cloud.client("lambda").delete_function(FunctionName="rotate")


@pytest.fixture(scope="module")
def permitted(cloud: RunningCloud, function: str) -> str:
    cloud.client("lambda").add_permission(
        FunctionName="rotate",
        StatementId="rotation",
        Action="lambda:InvokeFunction",
        Principal="secretsmanager.amazonaws.com",
        SourceAccount=ACCOUNT,
    )
    return function


def secret(cloud: RunningCloud, name: str, **value: Any) -> str:
    content = json.dumps({"username": "somebody", "password": "first", **value})
    return str(cloud.client("secretsmanager").create_secret(Name=name, SecretString=content)["ARN"])


def password(cloud: RunningCloud, name: str) -> str:
    value = json.loads(cloud.client("secretsmanager").get_secret_value(SecretId=name)["SecretString"])
    return str(value["password"])


def stages(cloud: RunningCloud, name: str) -> dict[str, list[str]]:
    described: dict[str, list[str]] = cloud.client("secretsmanager").describe_secret(SecretId=name)[
        "VersionIdsToStages"
    ]
    return described


def schedule(secret_arn: str, function: str, **properties: Any) -> dict[str, Any]:
    values = {"SecretId": secret_arn, "RotationLambdaARN": function, "RotationRules": RULES, **properties}
    return {"Schedule": {"Type": "AWS::SecretsManager::RotationSchedule", "Properties": values}}


def test_a_function_that_secrets_manager_may_not_invoke_is_refused(cloud: RunningCloud, function: str) -> None:
    secret(cloud, "refused")
    with pytest.raises(ClientError, match="AccessDenied"):
        cloud.client("secretsmanager").rotate_secret(SecretId="refused", RotationLambdaARN=function)
    with pytest.raises(ClientError, match="not found"):
        cloud.client("secretsmanager").rotate_secret(SecretId="refused", RotationLambdaARN=f"{function}-other")
    with pytest.raises(ClientError, match="No Lambda rotation function"):
        cloud.client("secretsmanager").rotate_secret(SecretId="refused")
    with pytest.raises(ClientError, match="ResourceNotFound"):
        cloud.client("secretsmanager").rotate_secret(SecretId="nobody")
    assert cloud.deploy("refused-rotation", schedule("refused", function)) == "ROLLBACK_COMPLETE"
    assert "AccessDeniedException" in cloud.failure("refused-rotation")


def test_the_four_steps_make_the_new_version_current(cloud: RunningCloud, permitted: str) -> None:
    secret(cloud, "rotated")
    secrets = cloud.client("secretsmanager")
    version = secrets.rotate_secret(SecretId="rotated", RotationLambdaARN=permitted, RotationRules=RULES)["VersionId"]
    eventually(lambda: "LastRotatedDate" in secrets.describe_secret(SecretId="rotated"))
    assert password(cloud, "rotated") == "first+"
    assert "AWSCURRENT" in stages(cloud, "rotated")[version]
    described = secrets.describe_secret(SecretId="rotated")
    due = described["NextRotationDate"] - described["LastRotatedDate"]
    assert 29.9 < due.total_seconds() / 86_400 < 30.1
    secrets.rotate_secret(SecretId="rotated")
    eventually(lambda: password(cloud, "rotated") == "first++")


def test_a_rotation_that_fails_leaves_its_version_pending_and_the_next_one_takes_it_up(
    cloud: RunningCloud, permitted: str
) -> None:
    arn = secret(cloud, "failing", fails="setSecret")
    secrets = cloud.client("secretsmanager")
    version = secrets.rotate_secret(SecretId="failing", RotationLambdaARN=permitted)["VersionId"]
    with pytest.raises(ClientError, match="A previous rotation isn't complete"):
        secrets.rotate_secret(SecretId="failing")
    time.sleep(3.5)
    assert password(cloud, "failing") == "first"
    assert stages(cloud, "failing")[version] == ["AWSPENDING"]
    value = json.dumps({"username": "somebody", "password": "healed"})
    secrets.put_secret_value(SecretId=arn, SecretString=value)
    with pytest.raises(ClientError, match="will be reattempted"):
        secrets.rotate_secret(SecretId="failing")
    eventually(lambda: "AWSCURRENT" in stages(cloud, "failing").get(version, []))


def test_a_version_that_has_no_value_yet_cannot_be_read(cloud: RunningCloud, permitted: str) -> None:
    secret(cloud, "empty", fails="createSecret")
    secrets = cloud.client("secretsmanager")
    secrets.rotate_secret(SecretId="empty", RotationLambdaARN=permitted)
    with pytest.raises(ClientError, match="can't find the specified secret value"):
        secrets.get_secret_value(SecretId="empty", VersionStage="AWSPENDING")


def test_a_staging_label_is_on_one_version(cloud: RunningCloud) -> None:
    client, arn = cloud.client("secretsmanager"), secret(cloud, "labelled")
    for password in ("left behind", "newer"):
        client.put_secret_value(SecretId=arn, SecretString=password, VersionStages=["AWSPENDING"])
    assert client.get_secret_value(SecretId=arn, VersionStage="AWSPENDING")["SecretString"] == "newer"
    held = client.describe_secret(SecretId=arn)["VersionIdsToStages"].values()
    assert sorted(label for labels in held for label in labels) == ["AWSCURRENT", "AWSPENDING"]


def test_a_schedule_that_does_not_rotate_at_once_runs_the_test_only(cloud: RunningCloud, permitted: str) -> None:
    arn = secret(cloud, "scheduled")
    resources = schedule(arn, permitted, RotateImmediatelyOnUpdate=False)
    assert cloud.deploy("rotation", resources) == "CREATE_COMPLETE"
    assert password(cloud, "scheduled") == "first"
    assert list(stages(cloud, "scheduled").values()) == [["AWSCURRENT"]]
    described = cloud.client("secretsmanager").describe_secret(SecretId=arn)
    assert described["RotationEnabled"]
    assert "LastRotatedDate" not in described
    resources["Schedule"]["Properties"]["RotateImmediatelyOnUpdate"] = True
    assert cloud.deploy("rotation", resources) == "UPDATE_COMPLETE"
    assert password(cloud, "scheduled") == "first+"
    assert cloud.destroy("rotation") == "DELETE_COMPLETE"
    assert not cloud.client("secretsmanager").describe_secret(SecretId=arn)["RotationEnabled"]


def test_a_schedule_by_transform_or_of_no_secret_fails_with_a_sentence(cloud: RunningCloud, permitted: str) -> None:
    hosted = schedule("scheduled", permitted, HostedRotationLambda={"RotationType": "PostgreSQLSingleUser"})
    assert cloud.deploy("hosted", hosted) == "ROLLBACK_COMPLETE"
    assert "name a function" in cloud.failure("hosted")
    assert cloud.deploy("nothing", schedule("nobody", permitted)) == "ROLLBACK_COMPLETE"
    assert "can't find the secret nobody" in cloud.failure("nothing")


def test_the_next_date_of_a_cron_schedule_is_its_next_minute(cloud: RunningCloud, permitted: str) -> None:
    secret(cloud, "due")
    rules = {"ScheduleExpression": "cron(* * * * ? *)"}
    secrets = cloud.client("secretsmanager")
    secrets.rotate_secret(SecretId="due", RotationLambdaARN=permitted, RotationRules=rules, RotateImmediately=False)
    due = secrets.describe_secret(SecretId="due")["NextRotationDate"]
    assert 0 < (due - datetime.now(UTC)).total_seconds() <= 61
    secrets.delete_secret(SecretId="due", ForceDeleteWithoutRecovery=True)


def test_a_rotation_that_is_due_happens_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, where the clock of the other tests is not moved."""
    monkeypatch.setattr(rotation, "TIMER_SECONDS", 0.01)
    with emulated_account(tmp_path) as account:
        arn = account.function("timed", "def handler(event, context):\n    print(event['Step'])\n")
        principal = {"StatementId": "rotation", "Principal": rotation.PRINCIPAL}
        lambda_svc._add_permission("timed", principal)
        account.log_group("/aws/lambda/timed")
        secretsmanager.create_secret_in_process("timed", "{}")
        kept = secretsmanager._secrets["timed"]
        due = time.time() + 30 * rotation.DAY_SECONDS
        kept.update(RotationEnabled=True, RotationLambdaARN=arn, NextRotationDate=due, RotationRules=RULES)
        rotations = rotation.Rotations(account.options)
        watch = contextvars.copy_context()
        threading.Thread(target=watch.run, args=(rotations._watch_the_clock,), daemon=True).start()
        schedules.advance(29 * rotation.DAY_SECONDS)
        time.sleep(0.2)
        assert "LastRotatedDate" not in kept, "it is not due yet"
        schedules.advance(rotation.DAY_SECONDS)
        eventually(lambda: kept.get("LastRotatedDate"))
        eventually(lambda: kept["NextRotationDate"] and kept["NextRotationDate"] - due > 29 * rotation.DAY_SECONDS)
        rotations.close()
        eventually(lambda: "finishSecret" in " ".join(account.log("/aws/lambda/timed")))
        secretsmanager._secrets.clear()


def test_the_next_rotation_follows_a_rate_a_cron_expression_or_days() -> None:
    start = datetime(2026, 11, 23, 10, 30, tzinfo=UTC).timestamp()
    assert next_rotation({"ScheduleExpression": "rate(4 hours)"}, start) == start + 4 * 3600
    assert next_rotation({"AutomaticallyAfterDays": 2}, start) == start + 2 * 86_400
    eleven = datetime(2026, 11, 23, 11, 0, tzinfo=UTC).timestamp()
    assert next_rotation({"ScheduleExpression": "cron(0 11 * * ? *)"}, start) == eleven
    assert next_rotation({"ScheduleExpression": "cron(nonsense)"}, start) is None
    assert next_rotation({}, start) is None
