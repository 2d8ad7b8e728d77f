"""The bucket of evidence and the function that fills it."""

import json
from typing import Any

from stacks.evidence import KEPT_DAYS
from tests.unit.stacks.conftest import SUFFIX, System


def bucket(system: System) -> dict[str, Any]:
    (found,) = system.of("AWS::S3::Bucket")
    return found.properties


def test_the_bucket_is_private_encrypted_and_keeps_every_version(system: System) -> None:
    found = bucket(system)
    assert set(found["PublicAccessBlockConfiguration"].values()) == {True}
    (rule,) = found["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    assert "KMSMasterKeyID" in rule["ServerSideEncryptionByDefault"]
    assert found["VersioningConfiguration"] == {"Status": "Enabled"}
    assert found["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    (lifecycle,) = found["LifecycleConfiguration"]["Rules"]
    assert lifecycle["NoncurrentVersionExpiration"] == {"NoncurrentDays": KEPT_DAYS}
    assert "ExpirationInDays" not in lifecycle, "what is current stays"


def test_nobody_reaches_the_bucket_without_tls(system: System) -> None:
    (policy,) = system.of("AWS::S3::BucketPolicy")
    (deny,) = policy.properties["PolicyDocument"]["Statement"]
    assert (deny["Effect"], deny["Action"]) == ("Deny", "s3:*")
    assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert len(deny["Resource"]) == 2


def test_protected_evidence_cannot_be_deleted_by_anybody_and_protecting_replaces_no_bucket(
    system: System, protected: System
) -> None:
    kept = bucket(protected)["ObjectLockConfiguration"]["Rule"]["DefaultRetention"]
    assert kept == {"Mode": "COMPLIANCE", "Days": KEPT_DAYS}
    assert "Rule" not in bucket(system)["ObjectLockConfiguration"]
    assert bucket(system)["ObjectLockEnabled"] is bucket(protected)["ObjectLockEnabled"] is True
    (free,), (held,) = (each.of("AWS::S3::Bucket") for each in (system, protected))
    assert (free.body["DeletionPolicy"], held.body["DeletionPolicy"]) == ("Delete", "Retain")


def test_the_function_may_write_records_and_read_or_delete_nothing_of_the_bucket(system: System) -> None:
    (policy,) = [
        each.properties["PolicyDocument"]
        for each in system.of("AWS::IAM::ManagedPolicy")
        if each.properties["ManagedPolicyName"] == f"citizens-evidence-{SUFFIX}"
    ]
    actions = {
        action
        for statement in policy["Statement"]
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }
    assert {action for action in actions if action.startswith("s3:")} == {"s3:PutObject"}
    assert {action for action in actions if action.startswith("dynamodb:")} == {
        "dynamodb:GetItem",
        "dynamodb:PutItem",
        "dynamodb:Scan",
    }
    (statement,) = [each for each in policy["Statement"] if each["Action"] == "s3:PutObject"]
    assert json.dumps(statement["Resource"]).rstrip('"]}').endswith("/records/*")


def test_every_end_of_every_machine_starts_it_and_no_machine_knows(system: System) -> None:
    (rule,) = [
        each.properties
        for each in system.of("AWS::Events::Rule")
        if each.properties["Name"] == f"citizens-machine-ended-{SUFFIX}"
    ]
    detail = rule["EventPattern"]["detail"]
    assert set(detail["status"]) == {"SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"}
    assert len(detail["stateMachineArn"]) == len(system.of("AWS::StepFunctions::StateMachine"))
    for machine in system.of("AWS::StepFunctions::StateMachine"):
        assert "citizens-evidence" not in json.dumps(machine.properties["DefinitionString"])
