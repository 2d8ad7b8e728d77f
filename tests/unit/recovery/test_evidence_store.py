"""What is exported of the chain: a killed export heals, and whatever is changed in table or bucket is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError

from recovery import evidence, evidence_store
from recovery.evidence import FAILURE, WARNING, Entry
from recovery.evidence_store import EvidenceStore
from recovery.table import RecoveryTable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

NOW = 1_800_000_000.0
BUCKET = "citizens-evidence-123456789012-test"


@pytest.fixture
def s3(aws: None) -> S3Client:
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-2"})
    client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    return client


@pytest.fixture
def store(s3: S3Client) -> EvidenceStore:
    return EvidenceStore(s3, BUCKET)


@pytest.fixture
def entries(table: RecoveryTable, store: EvidenceStore) -> dict[int, Entry]:
    """Three sealed records, exported."""
    for number in range(1, 4):
        record = {"outcome": "promoted", "reason": f"loss {number}", "ended_at": f"2027-01-1{number}T08:00:00Z"}
        table.put(f"incident#{number}", record)
        evidence_store.export(table, store, evidence.append(table, f"incident#{number}", record, NOW), NOW)
    return evidence.read(table)


def kinds(table: RecoveryTable, store: EvidenceStore) -> set[tuple[str, str]]:
    found = evidence_store.verify(evidence.read(table), evidence_store.receipts(table), store)
    return {(finding.verdict, finding.kind) for finding in found}


def test_each_entry_is_one_object_as_json_and_one_as_html(
    entries: dict[int, Entry], table: RecoveryTable, store: EvidenceStore
) -> None:
    assert len(list(store.keys())) == 6
    assert evidence.parse((store.get("records/000001-incident-1.json") or b"").decode()) == entries[1]
    page = (store.get("records/000002-incident-2.html") or b"").decode()
    assert "loss 2" in page
    assert entries[2].sha256 in page
    assert kinds(table, store) == set()
    assert evidence_store.waiting(entries, evidence_store.receipts(table)) == []
    assert store.get("records/none.json") is None


@pytest.mark.parametrize("survives", [0, 1, 2])
def test_an_export_that_is_killed_is_done_again(
    table: RecoveryTable, store: EvidenceStore, monkeypatch: pytest.MonkeyPatch, survives: int
) -> None:
    entry = evidence.append(table, "drill#1", {"outcome": "passed", "ended_at": "x"}, NOW)
    put = EvidenceStore.put
    calls: list[tuple[str, ...]] = []

    def dying(self: EvidenceStore, *arguments: str) -> str:
        if len(calls) == survives:
            raise KeyboardInterrupt
        calls.append(arguments)
        return put(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(EvidenceStore, "put", dying)
        if survives < 2:
            with pytest.raises(KeyboardInterrupt):
                evidence_store.export(table, store, entry, NOW)
        else:
            patch.setattr(RecoveryTable, "put_if", lambda *_: False)
            evidence_store.export(table, store, entry, NOW)
    assert evidence_store.waiting({1: entry}, evidence_store.receipts(table)) == [entry]
    # Half an export is no change: at most a warning
    assert {verdict for verdict, _ in kinds(table, store)} <= {WARNING}
    evidence_store.export(table, store, entry, NOW)
    assert kinds(table, store) == set()


def test_what_waits_for_its_export_is_a_warning(table: RecoveryTable, store: EvidenceStore) -> None:
    evidence.append(table, "drill#1", {"ended_at": "x"}, NOW)
    assert kinds(table, store) == {(WARNING, "UNEXPORTED")}


@pytest.mark.parametrize("kind", ["json", "html"])
def test_a_changed_or_deleted_object_is_found(
    entries: dict[int, Entry], table: RecoveryTable, store: EvidenceStore, s3: S3Client, kind: str
) -> None:
    name = evidence_store.key(entries[2], kind)
    s3.put_object(Bucket=BUCKET, Key=name, Body=(store.get(name) or b"").replace(b"loss 2", b"loss 0"))
    assert (FAILURE, "ALTERED") in kinds(table, store)
    s3.delete_object(Bucket=BUCKET, Key=name)
    assert kinds(table, store) == {(FAILURE, "REMOVED")}


def test_an_object_that_no_entry_has_is_found(
    entries: dict[int, Entry], table: RecoveryTable, store: EvidenceStore
) -> None:
    store.put("records/000009-incident-9.json", "{}", "json")
    assert kinds(table, store) == {(FAILURE, "FOREIGN")}


def test_a_chain_that_was_cut_off_with_its_head_and_receipt_is_betrayed_by_the_bucket(
    entries: dict[int, Entry], table: RecoveryTable, store: EvidenceStore
) -> None:
    for identity in ("evidence#3", "exported#3", "sealed#incident#3"):
        assert table.delete_if(identity, "id = :id", {":id": identity})
    table.put("evidence", {"number": 2, "sha256": entries[2].sha256})
    assert evidence.verify(evidence.read(table), evidence.read_head(table)).verdict == "OK"
    assert kinds(table, store) == {(FAILURE, "FOREIGN")}


def test_a_chain_that_was_written_anew_as_a_whole_is_betrayed_by_the_bucket(
    entries: dict[int, Entry], table: RecoveryTable, store: EvidenceStore
) -> None:
    newest = None
    for number, entry in sorted(entries.items()):
        forged = {**entry.record, "reason": "nothing"} if number == 2 else entry.record
        newest = evidence.link(newest, entry.subject, forged, entry.sealed_at)
        table.put(f"evidence#{number}", newest.__dict__)
    assert newest is not None
    table.put("evidence", {"number": 3, "sha256": newest.sha256})
    assert evidence.verify(evidence.read(table), evidence.read_head(table)).verdict == "OK"
    assert kinds(table, store) == {(FAILURE, "ALTERED")}


def test_an_entry_that_is_gone_but_was_exported_is_found(
    entries: dict[int, Entry], table: RecoveryTable, store: EvidenceStore
) -> None:
    assert table.delete_if("evidence#2", "id = :id", {":id": "evidence#2"})
    assert (FAILURE, "REMOVED") in kinds(table, store)


def test_a_bucket_that_is_not_there_is_an_error_and_not_an_empty_one(aws: None, s3: S3Client) -> None:
    with pytest.raises(ClientError, match="NoSuchBucket"):
        EvidenceStore(s3, "citizens-evidence-123456789012-gone").get("records/x.json")


def test_what_is_no_json_in_the_bucket_is_found(
    entries: dict[int, Entry], table: RecoveryTable, store: EvidenceStore, s3: Any
) -> None:
    s3.put_object(Bucket=BUCKET, Key=evidence_store.key(entries[1], "json"), Body=b"\xff")
    assert kinds(table, store) == {(FAILURE, "ALTERED")}
