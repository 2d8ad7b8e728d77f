import json

from stacks.security import ADMINISTRATION
from tests.unit.stacks.conftest import SUFFIX, Resource, System


def statement(resource: Resource, sid: str, document: str = "PolicyDocument") -> dict[str, object]:
    (found,) = [each for each in resource.properties[document]["Statement"] if each.get("Sid") == sid]
    assert isinstance(found, dict)
    return found


def test_every_key_is_customer_managed_and_rotates(system: System) -> None:
    keys = {each.logical_id: each for each in system.of("AWS::KMS::Key")}
    assert set(keys) == {"DataKey", "LogKey", "AlertKey"}
    assert all(key.properties["EnableKeyRotation"] for key in keys.values())
    aliases = {each.properties["AliasName"] for each in system.of("AWS::KMS::Alias")}
    assert aliases == {f"alias/citizens-{name}-{SUFFIX}" for name in ("data", "logs", "alerts")}


def test_administrators_manage_keys_but_cannot_decrypt(system: System) -> None:
    assert not {"kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:CreateGrant"} & set(ADMINISTRATION)
    for key in system.of("AWS::KMS::Key"):
        assert statement(key, "AdministerWithoutUse", "KeyPolicy")["Action"] == list(ADMINISTRATION)


def test_the_data_key_is_used_only_through_the_services_that_hold_data(system: System) -> None:
    use = statement(system.the("AWS::KMS::Key", "DataKey"), "UseThroughServices", "KeyPolicy")
    condition = json.dumps(use["Condition"])
    for service in ("rds", "elasticfilesystem", "dynamodb", "backup", "sqs"):
        assert f"{service}.eu-central-2.amazonaws.com" in condition
    grant = statement(system.the("AWS::KMS::Key", "DataKey"), "GrantToServices", "KeyPolicy")
    assert '"kms:GrantIsForAWSResource": "true"' in json.dumps(grant["Condition"])


def test_the_log_key_serves_our_log_groups_alone(system: System) -> None:
    use = statement(system.the("AWS::KMS::Key", "LogKey"), "UseByLogGroups", "KeyPolicy")
    assert use["Principal"] == {"Service": "logs.eu-central-2.amazonaws.com"}
    contexts = json.dumps(use["Condition"])
    for group in system.of("AWS::Logs::LogGroup"):
        name = group.properties["LogGroupName"]
        prefix = name.rsplit("/", 1)[0] if name.startswith("/aws/rds/") else None
        if name.startswith("/aws/lambda/"):
            name = f"/aws/lambda/citizens-*-{SUFFIX}"
        assert f":log-group:{name if prefix is None else prefix + '/*'}" in contexts


def test_the_alert_topic_is_encrypted_and_takes_only_tls(system: System) -> None:
    (topic,) = system.of("AWS::SNS::Topic")
    assert topic.properties["KmsMasterKeyId"] == {"Fn::GetAtt": ["AlertKey", "Arn"]}
    (policy,) = system.of("AWS::SNS::TopicPolicy")
    deny = statement(policy, "OnlyOverTls")
    assert deny["Effect"] == "Deny"
    assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    publishers = {
        each["Principal"]["Service"]
        for each in policy.properties["PolicyDocument"]["Statement"]
        if each["Effect"] == "Allow"
    }
    assert publishers == {"cloudwatch.amazonaws.com", "events.amazonaws.com"}


def test_whoever_publishes_to_the_topic_may_use_its_key(system: System) -> None:
    key = system.the("AWS::KMS::Key", "AlertKey")
    for sid in ("UseByAlarms", "UseByRules", "UseThroughTopic"):
        assert statement(key, sid, "KeyPolicy")["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]


def test_nobody_is_subscribed_unless_an_address_is_set(system: System) -> None:
    assert system.of("AWS::SNS::Subscription") == []


def test_dead_letters_are_encrypted_and_take_only_tls(system: System) -> None:
    (queue,) = system.of("AWS::SQS::Queue")
    assert "KmsMasterKeyId" in queue.properties
    (policy,) = system.of("AWS::SQS::QueuePolicy")
    assert statement(policy, "OnlyOverTls")["Effect"] == "Deny"


def test_no_secret_is_created(system: System) -> None:
    assert system.of("AWS::SecretsManager::Secret") == []
