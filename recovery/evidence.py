"""The chain of evidence: what was recorded of each incident, operation and drill, so that no later change goes unseen.

Each entry holds a record as it was, and the SHA-256 over itself and the entry before it. An entry, the head of the
chain and the mark that the record is sealed are written in one transaction, on the condition that the head is still the
one that the entry follows: two writers cannot fork the chain, and a writer that is killed leaves all three or none. An
entry is exported to where it can be changed only with a trace; a receipt in the table tells what was exported.

Who writes a record need not call this: whatever stands in the table under one of `SEALED`, with an end, is sealed by
the evidence function soon after.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from recovery.clock import iso
from recovery.table import Record, RecoveryTable, Write

SEALED = ("incident#", "operation#", "drill#")
"""The records that become evidence, by how their identity begins."""
ENTRY, HEAD, MARK, RECEIPT = "evidence#", "evidence", "sealed#", "exported#"
GENESIS = "0" * 64
"""In place of a hash before the first entry."""
TRIES = 20
"""Another writer was faster: so often in a row at most. Each time one of them has got on."""
LONGEST_PAUSE_SECONDS = 0.2

OK, WARNING, FAILURE = "OK", "WARNING", "FAILURE"
EXIT_CODES = {OK: 0, WARNING: 1, FAILURE: 2}


class RecordChanged(Exception):
    """A record is sealed once; this one is no longer what was sealed."""


class ChainBusy(Exception):
    """Other writers were faster, again and again; nothing was written."""


@dataclass(frozen=True)
class Entry:
    """One link. `number` counts from 1; `subject` is the record's identity; `sealed_at` is ISO 8601 UTC; `previous` and
    `sha256` are hexadecimal; `content` is the record as canonical JSON."""

    number: int
    subject: str
    sealed_at: str
    previous: str
    content: str
    sha256: str

    @property
    def record(self) -> Record:
        """The record as it was sealed."""
        found: Record = json.loads(self.content)
        return found

    @property
    def name(self) -> str:
        """`000001-incident-20261122T102030Z-1a2b`: sorts by number, and is safe in a path."""
        safe = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in self.subject)
        return f"{self.number:06d}-{safe}"


@dataclass(frozen=True)
class Finding:
    """What is not as it should be: `verdict` WARNING or FAILURE, what was found, where, and what it means."""

    verdict: str
    kind: str
    where: str
    meaning: str


@dataclass(frozen=True)
class Verification:
    """What a look at the whole chain found; `entries` is how many links it has, `head` the newest one's hash."""

    verdict: str
    findings: tuple[Finding, ...]
    entries: int
    head: str

    @property
    def exit_code(self) -> int:
        """0 OK, 1 WARNING, 2 FAILURE."""
        return EXIT_CODES[self.verdict]


# Pure rules ----------------------------------------------------------------------------------------------------------


def canonical(value: object) -> str:
    """One text for one value: keys sorted, no spaces, characters as they are, whole numbers without a point (the table
    gives 1 for 1.0). Raises ValueError for NaN and infinity, which JSON lacks."""
    return json.dumps(_whole(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(text: str) -> str:
    """Of the text in UTF-8, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def link(previous: Entry | None, subject: str, record: Mapping[str, object], sealed_at: str) -> Entry:
    """The entry that follows `previous` (None: the first)."""
    number, before = (1, GENESIS) if previous is None else (previous.number + 1, previous.sha256)
    content = canonical(record)
    return Entry(number, subject, sealed_at, before, content, _digest(number, subject, sealed_at, before, content))


def is_intact(entry: Entry) -> bool:
    """Whether an entry's hash is the one of its content."""
    return entry.sha256 == _digest(entry.number, entry.subject, entry.sealed_at, entry.previous, entry.content)


def verify(stored: Mapping[int, Entry], head: tuple[int, str] | None) -> Verification:
    """Judge a chain: `stored` holds the entries by the place each was found at, `head` the newest number and hash.

    Finds what was altered, removed, put elsewhere (reordered), cut off at the end (truncated) or written anew.
    """
    findings = []
    last = max([*stored, head[0] if head else 0], default=0)
    if stored and head is None:
        findings.append(Finding(FAILURE, "MISSING", HEAD, "the record of the newest entry is gone."))
    before: Entry | None = None
    unbroken = True
    for number in range(1, last + 1):
        entry = stored.get(number)
        where = f"{ENTRY}{number}"
        if entry is None:
            kind = "TRUNCATED" if number > max(stored, default=0) else "REMOVED"
            findings.append(Finding(FAILURE, kind, where, "it was written and is gone."))
            unbroken = False
            continue
        where = f"{where} ({entry.subject})"
        expected = GENESIS if number == 1 else before.sha256 if before and unbroken else None
        if entry.number != number:
            findings.append(Finding(FAILURE, "REORDERED", where, f"it was written as number {entry.number}."))
        elif not is_intact(entry):
            findings.append(Finding(FAILURE, "ALTERED", where, "its hash is not the one of its content."))
        elif expected is not None and entry.previous != expected:
            findings.append(Finding(FAILURE, "ALTERED", where, "it follows another entry than the one before it."))
        before, unbroken = entry, True
    if head and before and head[0] in stored and stored[head[0]].sha256 != head[1]:
        findings.append(Finding(FAILURE, "ALTERED", HEAD, f"entry {head[0]} is not the one that was written last."))
    for place in sorted(number for number in stored if number < 1):
        findings.append(Finding(FAILURE, "REORDERED", f"{ENTRY}{place}", "the chain begins with number 1."))
    if head and head[0] < max(stored, default=0):
        findings.append(Finding(FAILURE, "ALTERED", HEAD, f"it says {head[0]}, and there are entries after that."))
    return _verification(findings, stored, head)


def verify_sources(entries: Iterable[Entry], sources: Mapping[str, Record]) -> list[Finding]:
    """Compare what was sealed with what the table holds now: `sources` are the records by identity."""
    findings, sealed = [], {}
    for entry in entries:
        sealed[entry.subject] = entry
        now = sources.get(entry.subject)
        where = f"{entry.subject} (entry {entry.number})"
        if now is None:
            findings.append(Finding(FAILURE, "REMOVED", where, "the record is gone; the entry holds it as it was."))
        elif sha256(canonical(now)) != sha256(entry.content):
            changed = sorted(
                {*now, *entry.record} - {key for key in now if key in entry.record and now[key] == entry.record[key]}
            )
            findings.append(
                Finding(FAILURE, "ALTERED", where, f"{', '.join(changed)}: not what was sealed {entry.sealed_at}.")
            )
    for identity, record in sorted(sources.items()):
        if identity not in sealed and has_ended(record):
            findings.append(
                Finding(WARNING, "UNSEALED", identity, "it is not in the chain yet; the next run seals it.")
            )
    return findings


def judged(verification: Verification, more: Sequence[Finding]) -> Verification:
    """With further findings."""
    findings = (*verification.findings, *more)
    return Verification(_verdict(findings), findings, verification.entries, verification.head)


def has_ended(record: Mapping[str, Any]) -> bool:
    """Whether a record is complete: until then it changes."""
    return bool(record.get("ended_at"))


def unsealed(sources: Mapping[str, Record], sealed: Iterable[str]) -> list[str]:
    """What is to be sealed next, in the order in which it ended."""
    known = set(sealed)
    waiting = [identity for identity, record in sources.items() if identity not in known and has_ended(record)]
    return sorted(waiting, key=lambda identity: (str(sources[identity]["ended_at"]), identity))


def as_json(entry: Entry, report: Mapping[str, Any] | None = None) -> str:
    """What is exported of an entry, and read back by `parse`; beside it the report that its page shows."""
    told = {**asdict(entry), **({} if report is None else {"report": report})}
    return json.dumps(told, ensure_ascii=False, indent=2, sort_keys=True, default=str) + "\n"


def parse(text: str) -> Entry:
    """An exported entry. Raises ValueError when it is none."""
    try:
        found = json.loads(text)
        return _entry(found)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError("This is no exported entry.") from error


# The chain in the recovery table -------------------------------------------------------------------------------------


def append(
    table: RecoveryTable,
    identity: str,
    record: Mapping[str, object],
    now: float,
    pause: Callable[[float], None] = time.sleep,
) -> Entry:
    """Seal a record: the entry, or the one that it was sealed with before. Two writers at once, or the same one twice,
    make one entry.

    `record` is what the table holds under `identity`, with or without its `id`. Raises RecordChanged when another
    content was sealed, ChainBusy when others were always faster.
    """
    content = {name: value for name, value in record.items() if name != "id"}
    digest = sha256(canonical(content))
    for _ in range(TRIES):
        mark = table.get(f"{MARK}{identity}")
        if mark is not None:
            entry = read_entry(table, int(mark["number"]))
            if mark["content_sha256"] != digest or entry is None:
                raise RecordChanged(f"{identity} was sealed as entry {mark['number']} with another content.")
            return entry
        head = table.get(HEAD)
        newest = None if head is None else read_entry(table, int(head["number"]))
        if head is not None and (newest is None or newest.sha256 != head["sha256"]):
            raise RecordChanged(
                f"Entry {head['number']} is not the one that was written last: run `evidence --verify`."
            )
        entry = link(newest, identity, content, iso(now))
        if table.put_all_if(_writes(entry, newest, digest)):
            return entry
        pause(random.uniform(0, LONGEST_PAUSE_SECONDS))  # noqa: S311 - so that writers do not meet again
    raise ChainBusy(f"{identity} was not sealed: other writers were faster {TRIES} times in a row.")


def read(table: RecoveryTable) -> dict[int, Entry]:
    """Every entry by its place. Raises ValueError when a record of the chain is not even an entry."""
    found = {}
    for record in table.all(ENTRY):
        place = str(record["id"]).removeprefix(ENTRY)
        try:
            found[int(place)] = _entry(record)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{record['id']} is no entry of the chain: {error}.") from error
    return found


def read_entry(table: RecoveryTable, number: int) -> Entry | None:
    """One entry, or None."""
    record = table.get(f"{ENTRY}{number}")
    return None if record is None else _entry(record)


def read_head(table: RecoveryTable) -> tuple[int, str] | None:
    """Number and hash of the newest entry, or None before the first."""
    record = table.get(HEAD)
    return None if record is None else (int(record["number"]), str(record["sha256"]))


def sources(table: RecoveryTable) -> dict[str, Record]:
    """The records that are evidence, or will be, by identity and without their `id`."""
    return {
        str(record["id"]): {name: value for name, value in record.items() if name != "id"}
        for prefix in SEALED
        for record in table.all(prefix)
    }


def _writes(entry: Entry, newest: Entry | None, digest: str) -> list[Write]:
    new = "attribute_not_exists(id)"
    head = {"number": entry.number, "sha256": entry.sha256}
    return [
        Write(f"{ENTRY}{entry.number}", asdict(entry), new),
        Write(f"{MARK}{entry.subject}", {"number": entry.number, "content_sha256": digest}, new),
        Write(HEAD, head, new)
        if newest is None
        else Write(HEAD, head, "sha256 = :previous", {":previous": newest.sha256}),
    ]


def _entry(found: Mapping[str, Any]) -> Entry:
    return Entry(
        int(found["number"]),
        str(found["subject"]),
        str(found["sealed_at"]),
        str(found["previous"]),
        str(found["content"]),
        str(found["sha256"]),
    )


def _whole(value: object) -> object:
    match value:
        case float() if value.is_integer():
            return int(value)
        case Mapping():
            return {name: _whole(part) for name, part in value.items()}
        case list() | tuple():
            return [_whole(part) for part in value]
        case _:
            return value


def _digest(number: int, subject: str, sealed_at: str, previous: str, content: str) -> str:
    return sha256(canonical([number, subject, sealed_at, previous, content]))


def _verification(
    findings: Sequence[Finding], stored: Mapping[int, Entry], head: tuple[int, str] | None
) -> Verification:
    return Verification(_verdict(findings), tuple(findings), len(stored), head[1] if head else GENESIS)


def _verdict(findings: Iterable[Finding]) -> str:
    verdicts = {finding.verdict for finding in findings}
    return next((verdict for verdict in (FAILURE, WARNING) if verdict in verdicts), OK)
