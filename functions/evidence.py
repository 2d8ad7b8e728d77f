"""Seals what has happened and exports it: after every execution of a machine, and regularly for what was missed."""

import time
from typing import Any

from functions import clients, journal
from functions.environment import environment, required
from recovery import evidence, evidence_store
from recovery.evidence import RecordChanged
from recovery.evidence_store import EvidenceStore


def handler(event: dict[str, Any], context: Any) -> dict[str, int]:  # noqa: ARG001 - Lambda's signature
    """{} → {"sealed", "exported"}; RecordChanged, at the end, when a record or the chain is not what was sealed."""
    table = clients.table(environment())
    store = EvidenceStore(clients.s3(), required("EVIDENCE_BUCKET"))
    entries = evidence.read(table)
    sources = evidence.sources(table)
    sealed, trouble = 0, None
    for identity in evidence.unsealed(sources, {entry.subject for entry in entries.values()}):
        try:
            entry = evidence.append(table, identity, sources[identity], time.time())
        except RecordChanged as changed:
            # What can be sealed is, and what cannot is an error that alarms
            journal.note("trouble", {"with": identity, "error": str(changed)})
            trouble = changed
            continue
        entries[entry.number] = entry
        sealed += 1
        journal.note("sealed", {"record": identity, "number": entry.number, "sha256": entry.sha256})
    exported = 0
    for entry in evidence_store.waiting(entries, evidence_store.receipts(table)):
        receipt = evidence_store.export(table, store, entry, time.time())
        exported += 1
        journal.note("exported", {"number": entry.number, **receipt.digests})
    if trouble is not None:
        raise trouble
    return {"sealed": sealed, "exported": exported}
