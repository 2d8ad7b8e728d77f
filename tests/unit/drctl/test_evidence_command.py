"""`drctl evidence`: what it lists, fetches and finds, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from drctl.__main__ import main
from recovery import evidence, evidence_store
from recovery.evidence_store import EvidenceStore
from recovery.table import RecoveryTable

ACCOUNT = "123456789012"
BUCKET = f"citizens-evidence-{ACCOUNT}-unit"
TABLE = "citizens-recovery-unit"


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[RecoveryTable]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "LOCAL_CLOUD_URL"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        dynamodb, s3 = boto3.client("dynamodb", "eu-central-2"), boto3.client("s3", "eu-central-2")
        dynamodb.create_table(
            TableName=TABLE,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-2"})
        found = RecoveryTable(dynamodb, TABLE)
        record = {"outcome": "promoted", "ended_at": "2027-01-15T08:00:00Z"}
        found.put("incident#1", record)
        evidence_store.export(found, EvidenceStore(s3, BUCKET), evidence.append(found, "incident#1", record, 0), 0)
        yield found


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["evidence", "--suffix", "unit", *arguments], {})
    said = capsys.readouterr()
    return code, said.out, said.err


def test_sealed_records_are_listed_and_fetched(
    table: RecoveryTable, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = run(capsys)
    assert (code, "incident#1  promoted  exported" in out) == (0, True)
    code, out, err = run(capsys, "--json", "--download", str(tmp_path / "kept"))
    (listed,) = json.loads(out)
    assert (code, listed["record"], len(listed["objects"])) == (0, "incident#1", 2)
    assert "2 objects" in err
    entry = evidence.parse((tmp_path / "kept" / "000001-incident-1.json").read_text())
    assert entry == evidence.read_entry(table, 1)
    (tmp_path / "file").write_text("")
    code, _, err = run(capsys, "--download", str(tmp_path / "file"))
    assert (code, "cannot be written" in err) == (1, True)


def test_verify_ends_with_0_3_or_4(table: RecoveryTable, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--verify")[0] == 0
    table.put("drill#1", {"ended_at": "2027-01-16T08:00:00Z"})
    code, out, _ = run(capsys, "--verify", "--json")
    found: dict[str, Any] = json.loads(out)
    assert (code, found["verdict"], found["findings"][0]["kind"]) == (3, "WARNING", "UNSEALED")
    table.put("incident#1", {"outcome": "stood_by", "ended_at": "2027-01-15T08:00:00Z"})
    code, out, _ = run(capsys, "--verify")
    assert (code, "ALTERED" in out) == (4, True)


def test_a_record_of_the_chain_that_is_no_entry_is_a_change(
    table: RecoveryTable, capsys: pytest.CaptureFixture[str]
) -> None:
    table.put("evidence#1", {"number": 1})
    code, out, _ = run(capsys, "--verify")
    assert (code, "evidence#1 is no entry" in out) == (4, True)
    code, _, err = run(capsys)
    assert (code, err.count("\n")) == (1, 1)


def test_what_cannot_be_verified_is_no_warning(table: RecoveryTable, capsys: pytest.CaptureFixture[str]) -> None:
    boto3.client("dynamodb", "eu-central-2").delete_table(TableName=TABLE)
    code, _, err = run(capsys, "--verify")
    assert (code, err) == (5, "There is no environment unit: deploy it first.\n")
    assert run(capsys)[0] == 1
