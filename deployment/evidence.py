"""The evidence of a deployed environment: list it, fetch it, and look whether any of it was changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from deployment.account import Account
from deployment.problem import Problem
from recovery import evidence, evidence_store
from recovery.evidence import FAILURE, Entry, Finding, Verification
from recovery.evidence_store import CONTENT_TYPES, EvidenceStore, Receipt
from recovery.table import RecoveryTable
from stacks.names import Names


class EvidenceRoom:
    """Chain and bucket of one environment; only reads."""

    def __init__(self, account: Account, suffix: str) -> None:
        names = Names(suffix)
        self._suffix = suffix
        self._table = RecoveryTable(account.client("dynamodb"), names.recovery_table)
        number = account.client("sts").get_caller_identity()["Account"]
        self._store = EvidenceStore(account.client("s3"), names.evidence_bucket(number))

    def entries(self) -> dict[int, Entry]:
        """The chain. Raises Problem when there is no such environment, or a record of the chain is no entry."""
        try:
            return evidence.read(self._table)
        except ClientError as error:
            if error.response["Error"]["Code"] == "ResourceNotFoundException":
                raise Problem(f"There is no environment {self._suffix}: deploy it first.") from error
            raise
        except ValueError as error:
            raise Problem(str(error)) from error

    def receipts(self) -> dict[int, Receipt]:
        """What was exported."""
        return evidence_store.receipts(self._table)

    def download(self, folder: Path) -> Iterator[Path]:
        """Fetch every object of evidence into a folder; what is there already is written anew. Raises Problem when it
        cannot be written."""
        for key in sorted(self._store.keys()):
            body = self._store.get(key)
            # Names are flat; whatever else was put into the bucket cannot leave the folder
            path = folder / Path(key).name
            try:
                folder.mkdir(parents=True, exist_ok=True)
                path.write_bytes(body or b"")
            except OSError as error:
                raise Problem(f"{path} cannot be written: {error.strerror}.") from error
            yield path

    def verify(self) -> Verification:
        """Judge the chain, the records that it seals, and the bucket, each against the others."""
        try:
            entries = self.entries()
        except Problem as problem:
            if not isinstance(problem.__cause__, ValueError):
                raise
            return Verification(FAILURE, (Finding(FAILURE, "ALTERED", "chain", str(problem)),), 0, evidence.GENESIS)
        verification = evidence.verify(entries, evidence.read_head(self._table))
        return evidence.judged(
            verification,
            [
                *evidence.verify_sources(entries.values(), evidence.sources(self._table)),
                *evidence_store.verify(entries, self.receipts(), self._store),
            ],
        )


def listed(entries: Mapping[int, Entry], receipts: Mapping[int, Receipt]) -> list[dict[str, Any]]:
    """What a person or a program is told of each entry."""
    return [
        {
            "number": number,
            "record": entry.subject,
            "outcome": entry.record.get("outcome") or entry.record.get("verdict"),
            "ended_at": entry.record.get("ended_at"),
            "sealed_at": entry.sealed_at,
            "sha256": entry.sha256,
            "exported_at": receipts[number].exported_at if number in receipts else None,
            "objects": [evidence_store.key(entry, kind) for kind in CONTENT_TYPES],
        }
        for number, entry in sorted(entries.items())
    ]


def as_text(found: list[dict[str, Any]]) -> str:
    """A line for each."""
    if not found:
        return "Nothing is sealed yet."
    return "\n".join(
        f"{each['number']:6}  {each['sealed_at']}  {each['record']}  {each['outcome'] or 'unknown'}  "
        f"{'exported ' + each['exported_at'] if each['exported_at'] else 'not exported yet'}  {each['sha256'][:16]}…"
        for each in found
    )


def verification_as_text(verification: Verification) -> str:
    """A line for each finding, and the verdict."""
    lines = [f"{each.verdict:8} {each.kind:10} {each.where}: {each.meaning}" for each in verification.findings]
    return "\n".join([*lines, f"{verification.verdict}: {verification.entries} entries, head {verification.head}"])


def verification_as_json(verification: Verification) -> str:
    """`{"verdict", "findings", "entries", "head"}`."""
    return json.dumps(asdict(verification), indent=2, ensure_ascii=False)
