"""The function that seals and exports: what has ended, once, in order; what cannot be sealed stops nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from functions import clients, evidence
from recovery import evidence as chain
from recovery import evidence_store
from recovery.evidence import RecordChanged
from recovery.table import RecoveryTable

BUCKET = "citizens-evidence-123456789012-test"


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[RecoveryTable]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "eu-central-2",
        "SUFFIX": "test",
        "RECOVERY_TABLE": "recovery",
        "SECRET_ID": "citizens/database",
        "MEMBERS": json.dumps({name: {"host": "127.0.0.1", "port": 5432} for name in ("one", "two")}),
        "DATABASE": "citizens",
        "METRICS_NAMESPACE": "CitizensRecovery",
        "EVIDENCE_BUCKET": BUCKET,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        dynamodb, s3 = boto3.client("dynamodb"), boto3.client("s3")
        dynamodb.create_table(
            TableName="recovery",
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-2"})
        monkeypatch.setattr(clients, "dynamodb", lambda: dynamodb)
        monkeypatch.setattr(clients, "s3", lambda: s3)
        yield RecoveryTable(dynamodb, "recovery")


def ended(at: str, **more: Any) -> dict[str, Any]:
    return {"outcome": "promoted", "started_at": "2027-01-15T08:00:00Z", "ended_at": at, **more}


def test_what_has_ended_is_sealed_in_its_order_and_what_goes_on_is_not(table: RecoveryTable) -> None:
    table.put("incident#b", ended("2027-01-15T09:00:00Z"))
    table.put("operation#a", ended("2027-01-15T08:30:00Z"))
    table.put("drill#c", {"started_at": "2027-01-15T08:00:00Z"})
    assert evidence.handler({}, None) == {"sealed": 2, "exported": 2}
    entries = chain.read(table)
    assert [entries[number].subject for number in (1, 2)] == ["operation#a", "incident#b"]
    assert evidence.handler({}, None) == {"sealed": 0, "exported": 0}
    table.put("drill#c", ended("2027-01-15T10:00:00Z"))
    assert evidence.handler({}, None) == {"sealed": 1, "exported": 1}
    assert chain.verify(chain.read(table), chain.read_head(table)).verdict == "OK"


def test_a_run_that_was_killed_before_its_export_is_made_good_by_the_next(
    table: RecoveryTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.put("incident#1", ended("2027-01-15T09:00:00Z"))
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(evidence_store, "export", killed)
        with pytest.raises(KeyboardInterrupt):
            evidence.handler({}, None)
    assert evidence.handler({}, None) == {"sealed": 0, "exported": 1}


def test_a_chain_that_was_changed_fails_the_function_and_what_is_whole_is_exported(table: RecoveryTable) -> None:
    first = chain.append(table, "incident#1", ended("2027-01-15T09:00:00Z"), 0)
    table.put("evidence#1", {**first.__dict__, "sha256": "0" * 64})
    table.put("incident#2", ended("2027-01-15T10:00:00Z"))
    with pytest.raises(RecordChanged, match="evidence --verify"):
        evidence.handler({}, None)
    assert chain.read_entry(table, 2) is None
    assert 1 in evidence_store.receipts(table)
