"""Where evidence is kept outside the table: one object as JSON and one as HTML for each entry, in a bucket that keeps
every version. The table holds a receipt for each: what is not in it is exported again, so an export that was killed
heals, and what is in the bucket but not what the receipt says was changed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from recovery import evidence, report_page
from recovery.clock import iso
from recovery.evidence import FAILURE, RECEIPT, WARNING, Entry, Finding
from recovery.table import RecoveryTable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PREFIX = "records/"
CONTENT_TYPES = {"json": "application/json", "html": "text/html; charset=utf-8"}
GONE = ("NoSuchKey", "404")


@dataclass(frozen=True)
class Receipt:
    """What was exported of an entry: each object's SHA-256 (hexadecimal) by its kind (`json`, `html`), and when."""

    number: int
    digests: Mapping[str, str]
    exported_at: str


class EvidenceStore:
    """The bucket."""

    def __init__(self, client: S3Client, bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def put(self, key: str, text: str, kind: str) -> str:
        """Write an object, which S3 checks on arrival; returns its SHA-256. Repeated, it is another version of it."""
        body = text.encode()
        digest = hashlib.sha256(body)
        self._client.put_object(
            Bucket=self._bucket,
            Key=key,
            Body=body,
            ContentType=CONTENT_TYPES[kind],
            ChecksumSHA256=base64.b64encode(digest.digest()).decode(),
        )
        return digest.hexdigest()

    def get(self, key: str) -> bytes | None:
        """The newest version of an object; None when it is gone, deleted or never was."""
        try:
            body: bytes = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] in GONE:
                return None
            raise
        return body

    def keys(self) -> Iterator[str]:
        """Every object of evidence, the newest versions only."""
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=PREFIX):
            for item in page.get("Contents", ()):
                yield str(item["Key"])


def key(entry: Entry, kind: str) -> str:
    """Where an entry's object is: `records/000001-incident-….json`."""
    return f"{PREFIX}{entry.name}.{kind}"


def report_of(entry: Entry) -> dict[str, Any]:
    """An entry as the report of what happened: a document of `recovery.report_page`."""
    seal = {
        "number": entry.number,
        "sealed_at": entry.sealed_at,
        "previous": entry.previous,
        "sha256": entry.sha256,
    }
    return report_page.of_record(entry.subject, entry.record, seal)


def export(table: RecoveryTable, store: EvidenceStore, entry: Entry, now: float) -> Receipt:
    """Write both objects, then the receipt, once. Cut off anywhere, it is done again as a whole."""
    report = report_of(entry)
    digests = {
        "json": store.put(key(entry, "json"), evidence.as_json(entry, report), "json"),
        "html": store.put(key(entry, "html"), report_page.page(report), "html"),
    }
    receipt = Receipt(entry.number, digests, iso(now))
    table.put_if(f"{RECEIPT}{entry.number}", receipt.__dict__, "attribute_not_exists(id)")
    return receipt


def receipts(table: RecoveryTable) -> dict[int, Receipt]:
    """Every receipt by its entry's number."""
    return {
        int(record["number"]): Receipt(int(record["number"]), dict(record["digests"]), str(record["exported_at"]))
        for record in table.all(RECEIPT)
    }


def waiting(entries: Mapping[int, Entry], exported: Mapping[int, Receipt]) -> list[Entry]:
    """The entries that are not exported yet, oldest first."""
    return [entry for number, entry in sorted(entries.items()) if number not in exported]


def verify(entries: Mapping[int, Entry], exported: Mapping[int, Receipt], store: EvidenceStore) -> Iterator[Finding]:
    """Compare the bucket with the chain: altered, removed, foreign, or not exported yet.

    An export without an entry, or of another entry than the chain holds, is how a chain that somebody cut off or wrote
    anew, head and all, betrays itself.
    """
    present = set(store.keys())
    for entry in waiting(entries, exported):
        if key(entry, "json") not in present:
            yield Finding(WARNING, "UNEXPORTED", f"entry {entry.number}", "the function's next run exports it.")
    for number, receipt in sorted(exported.items()):
        found = entries.get(number)
        if found is None:
            yield Finding(FAILURE, "REMOVED", f"entry {number}", f"it was exported {receipt.exported_at} and is gone.")
            continue
        for kind, digest in sorted(receipt.digests.items()):
            body = store.get(key(found, kind))
            if body is None:
                yield Finding(
                    FAILURE, "REMOVED", key(found, kind), "it was exported and is gone; look at its versions."
                )
            elif hashlib.sha256(body).hexdigest() != digest:
                yield Finding(
                    FAILURE, "ALTERED", key(found, kind), "it is not what was exported; look at its versions."
                )
    yield from _betrayed(entries, present, store)


def _betrayed(entries: Mapping[int, Entry], present: Iterable[str], store: EvidenceStore) -> Iterator[Finding]:
    """What the bucket holds of the chain as it was."""
    known = {key(entry, kind): entry for entry in entries.values() for kind in CONTENT_TYPES}
    for name in sorted(present):
        entry = known.get(name)
        if entry is None:
            yield Finding(FAILURE, "FOREIGN", name, "the chain has no such entry: it was cut off, or written anew.")
            continue
        if not name.endswith(".json"):
            continue
        body = store.get(name)
        try:
            held = evidence.parse((body or b"").decode())
        except ValueError:
            yield Finding(FAILURE, "ALTERED", name, "this is no exported entry.")
            continue
        if held != entry:
            yield Finding(FAILURE, "ALTERED", name, "the chain holds another entry: one of them was changed.")
