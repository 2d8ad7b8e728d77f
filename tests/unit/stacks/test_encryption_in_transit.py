"""Plaintext is refused wherever a client could speak it (SC-8). The resources' own policies are evaluated, not read."""

from typing import Any

import pytest
from ministack.core import iam_evaluator

from stacks.database import CERTIFICATE_AUTHORITY
from tests.unit.stacks.conftest import Resource, System
from tests.unit.stacks.snapshot import readable

ADMINISTRATOR = "arn:aws:iam::111122223333:role/administrator"


def decision(policy: Any, resource: str, action: str, *, encrypted: bool) -> str:
    """What a resource's policy says to an administrator of the account: `Allow`, `Deny` or `ImplicitDeny`."""
    request = iam_evaluator.EvalContext(
        principal_arn=ADMINISTRATOR,
        principal_type="AssumedRole",
        principal_account="111122223333",
        action=action,
        resource_arn=resource,
        region="eu-central-2",
        secure_transport=encrypted,
    )
    return str(iam_evaluator.evaluate_resource_policy(readable(policy), request).decision)


def policy_of(system: System, kind: str, attached: str, resource: Resource) -> Any:
    (found,) = [
        each.properties["PolicyDocument"]
        for each in system.of(kind)
        if each.stack == resource.stack and each.properties[attached] == [{"Ref": resource.logical_id}]
    ]
    return found


@pytest.mark.parametrize("action", ["sqs:SendMessage", "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:PurgeQueue"])
def test_every_queue_refuses_plaintext_and_nothing_else(system: System, action: str) -> None:
    queues = system.of("AWS::SQS::Queue")
    assert queues
    for queue in queues:
        policy = policy_of(system, "AWS::SQS::QueuePolicy", "Queues", queue)
        arn = f"${{{queue.logical_id}.Arn}}"
        assert decision(policy, arn, action, encrypted=False) == "Deny"
        assert decision(policy, arn, action, encrypted=True) != "Deny"


def test_every_topic_refuses_plaintext_and_nothing_else(system: System) -> None:
    topics = system.of("AWS::SNS::Topic")
    assert topics
    for topic in topics:
        policy = policy_of(system, "AWS::SNS::TopicPolicy", "Topics", topic)
        arn = f"${{{topic.logical_id}}}"
        assert decision(policy, arn, "sns:Publish", encrypted=False) == "Deny"
        assert decision(policy, arn, "sns:Publish", encrypted=True) != "Deny"


@pytest.mark.parametrize("action", ["ClientMount", "ClientWrite", "ClientRootAccess"])
def test_every_file_system_refuses_mounts_without_tls(system: System, action: str) -> None:
    systems = system.of("AWS::EFS::FileSystem")
    assert systems
    for files in systems:
        policy = files.properties["FileSystemPolicy"]
        assert decision(policy, "*", f"elasticfilesystem:{action}", encrypted=False) == "Deny"
        assert decision(policy, "*", f"elasticfilesystem:{action}", encrypted=True) != "Deny"


@pytest.mark.parametrize("action", ["GetObject", "PutObject", "DeleteObjectVersion"])
def test_every_bucket_refuses_calls_without_tls(system: System, action: str) -> None:
    policies = {each.properties["Bucket"]["Ref"]: each for each in system.of("AWS::S3::BucketPolicy")}
    buckets = system.of("AWS::S3::Bucket")
    assert buckets
    for bucket in buckets:
        policy = policies[bucket.logical_id].properties["PolicyDocument"]
        arn = f"${{{bucket.logical_id}.Arn}}/records/1.json"
        assert decision(policy, arn, f"s3:{action}", encrypted=False) == "Deny"
        assert decision(policy, arn, f"s3:{action}", encrypted=True) != "Deny"


def test_both_members_force_tls_with_an_authority_that_functions_trust(system: System) -> None:
    members = system.of("AWS::RDS::DBInstance")
    assert len(members) == 2
    for member in members:
        group = system.the("AWS::RDS::DBParameterGroup", member.properties["DBParameterGroupName"]["Ref"])
        assert group.properties["Parameters"]["rds.force_ssl"] == "1"
        assert member.properties["CACertificateIdentifier"] == CERTIFICATE_AUTHORITY


def test_clients_are_told_to_verify_host_and_chain(system: System) -> None:
    outputs = system.templates["parent"]["Outputs"]
    for name in ("WriterUri", "ReaderUri"):
        assert "sslmode=verify-full" in readable(outputs[name]["Value"])


def test_no_alarm_leaves_over_plaintext(protected: System) -> None:
    subscriptions = protected.of("AWS::SNS::Subscription")
    assert subscriptions
    assert not [each for each in subscriptions if each.properties["Protocol"] == "http"]
