"""The chain of evidence: no change goes unseen, no two writers fork it, no killed writer leaves a hole."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from recovery import evidence
from recovery.evidence import FAILURE, GENESIS, OK, WARNING, ChainBusy, Entry, RecordChanged
from recovery.table import RecoveryTable, Write

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

NOW = 1_800_000_000.0
RECORD = {"outcome": "promoted", "epoch": 1, "ended_at": "2027-01-15T08:00:00Z", "lag": 0.25, "account": None}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
RECORDS = st.lists(st.dictionaries(st.text(min_size=1), JSON, max_size=4), min_size=1, max_size=6)


def chain(records: list[dict[str, Any]]) -> dict[int, Entry]:
    entries: dict[int, Entry] = {}
    newest = None
    for number, record in enumerate(records, 1):
        newest = entries[number] = evidence.link(newest, f"incident#{number}", record, "2027-01-15T08:00:00Z")
    return entries


def head_of(entries: dict[int, Entry]) -> tuple[int, str]:
    newest = entries[max(entries)]
    return newest.number, newest.sha256


def kinds(verification: evidence.Verification) -> set[str]:
    return {finding.kind for finding in verification.findings}


# -- pure rules -------------------------------------------------------------------------------------------------------


@given(RECORDS)
def test_a_chain_that_nobody_touched_is_ok(records: list[dict[str, Any]]) -> None:
    entries = chain(records)
    verification = evidence.verify(entries, head_of(entries))
    assert (verification.verdict, verification.findings, verification.exit_code) == (OK, (), 0)
    assert verification.head == entries[len(records)].sha256
    assert all(evidence.parse(evidence.as_json(entry)) == entry for entry in entries.values())


@given(RECORDS, st.data())
def test_any_changed_field_of_any_entry_is_found(records: list[dict[str, Any]], data: st.DataObject) -> None:
    entries = chain(records)
    head = head_of(entries)
    number = data.draw(st.sampled_from(sorted(entries)))
    name = data.draw(st.sampled_from(["number", "subject", "sealed_at", "previous", "content", "sha256"]))
    old = getattr(entries[number], name)
    new = data.draw((st.integers(1, 99) if isinstance(old, int) else st.text()).filter(lambda value: value != old))
    entries[number] = Entry(**{**entries[number].__dict__, name: new})
    assert evidence.verify(entries, head).exit_code == 2


@given(RECORDS, st.data())
def test_any_removed_entry_is_found_also_the_last_ones(records: list[dict[str, Any]], data: st.DataObject) -> None:
    entries = chain(records)
    head = head_of(entries)
    gone = data.draw(st.sets(st.sampled_from(sorted(entries)), min_size=1))
    left = {number: entry for number, entry in entries.items() if number not in gone}
    verification = evidence.verify(left, head)
    assert verification.exit_code == 2
    assert ("TRUNCATED" in kinds(verification)) == (max(entries) in gone)


@given(RECORDS.filter(lambda records: len(records) > 1), st.data())
def test_entries_in_another_order_are_found(records: list[dict[str, Any]], data: st.DataObject) -> None:
    entries = chain(records)
    first, second = data.draw(st.permutations(sorted(entries)))[:2]
    swapped = {**entries, first: entries[second], second: entries[first]}
    assert "REORDERED" in kinds(evidence.verify(swapped, head_of(entries)))


@given(RECORDS.filter(lambda records: len(records) > 1), st.data())
def test_a_chain_written_anew_behind_a_change_is_found_by_the_head(
    records: list[dict[str, Any]], data: st.DataObject
) -> None:
    entries = chain(records)
    number = data.draw(st.sampled_from(sorted(entries)))
    forged = chain([*records[: number - 1], {**records[number - 1], "forged": True}, *records[number:]])
    assert evidence.verify(forged, head_of(entries)).verdict == FAILURE
    # With the head as well it is a chain: what was exported tells
    assert evidence.verify(forged, head_of(forged)).verdict == OK
    assert forged[len(records)].sha256 != entries[len(records)].sha256


def test_nothing_recorded_is_an_empty_chain_and_a_lost_head_is_not() -> None:
    assert evidence.verify({}, None) == evidence.Verification(OK, (), 0, GENESIS)
    entries = chain([RECORD])
    assert kinds(evidence.verify(entries, None)) == {"MISSING"}
    assert kinds(evidence.verify({0: entries[1], **entries}, head_of(entries))) == {"REORDERED"}
    longer = chain([RECORD, RECORD])
    assert kinds(evidence.verify(longer, head_of(entries))) == {"ALTERED"}


def test_a_record_that_is_no_longer_what_was_sealed_is_found() -> None:
    entries = chain([RECORD, RECORD])
    same = {"incident#1": RECORD, "incident#2": RECORD}
    assert evidence.verify_sources(entries.values(), same) == []
    changed = {"incident#1": {**RECORD, "outcome": "refused", "by": "someone"}}
    first, second = evidence.verify_sources(entries.values(), changed)
    assert (first.kind, first.meaning.partition(":")[0]) == ("ALTERED", "by, outcome")
    assert second.kind == "REMOVED"
    verification = evidence.verify(entries, head_of(entries))
    assert evidence.judged(verification, [first]).exit_code == 2


def test_a_record_that_waits_to_be_sealed_is_a_warning_and_one_that_still_changes_is_not() -> None:
    waiting = {"drill#b": {"ended_at": "2"}, "drill#a": {"ended_at": "2"}, "operation#z": {"ended_at": "1"}}
    found = evidence.verify_sources([], {**waiting, "drill#c": {"outcome": "running"}})
    assert {(finding.verdict, finding.kind) for finding in found} == {(WARNING, "UNSEALED")}
    assert len(found) == 3
    assert evidence.judged(evidence.verify({}, None), found).exit_code == 1
    assert evidence.unsealed(waiting, ["drill#b"]) == ["operation#z", "drill#a"]


@given(JSON)
def test_one_value_has_one_text(value: object) -> None:
    text = evidence.canonical({"b": value, "a": 1.0})
    assert text == evidence.canonical({"a": 1, "b": value})
    assert text.startswith('{"a":1,')


def test_what_is_no_entry_is_said_to_be_none() -> None:
    for wrong in ("", "[]", "{}", '"x"', '{"number": "x"}'):
        with pytest.raises(ValueError, match=r"\w"):
            evidence.parse(wrong)
    with pytest.raises(ValueError, match="JSON"):
        evidence.canonical(float("nan"))


def test_an_entrys_name_is_safe_in_a_path() -> None:
    entry = evidence.link(None, "drill#../a b", {}, "x")
    assert entry.name == "000001-drill-..-a-b"


# -- the table --------------------------------------------------------------------------------------------------------


def test_a_record_is_sealed_once_and_a_repeat_finds_it(table: RecoveryTable) -> None:
    table.put("incident#1", RECORD)
    found = table.get("incident#1")
    assert found is not None
    first = evidence.append(table, "incident#1", found, NOW)
    assert (first.number, first.previous, first.record) == (1, GENESIS, RECORD)
    assert evidence.append(table, "incident#1", RECORD, NOW + 9) == first
    second = evidence.append(table, "drill#1", {"whole": 1.0}, NOW)
    assert (second.number, second.previous) == (2, first.sha256)
    assert evidence.read(table) == {1: first, 2: second}
    assert evidence.verify(evidence.read(table), evidence.read_head(table)).verdict == OK


def test_what_was_sealed_cannot_be_sealed_with_another_content(table: RecoveryTable) -> None:
    evidence.append(table, "incident#1", RECORD, NOW)
    with pytest.raises(RecordChanged, match="entry 1 with another content"):
        evidence.append(table, "incident#1", {**RECORD, "outcome": "refused"}, NOW)
    assert len(evidence.read(table)) == 1


def test_a_chain_whose_end_was_changed_is_not_continued(table: RecoveryTable) -> None:
    entry = evidence.append(table, "incident#1", RECORD, NOW)
    table.put("evidence#1", {**entry.__dict__, "sha256": "0" * 64})
    with pytest.raises(RecordChanged, match="evidence --verify"):
        evidence.append(table, "incident#2", RECORD, NOW)


class Killed(Exception):
    pass


class Dying(RecoveryTable):
    """Its process is killed at the n-th call."""

    def __init__(self, client: DynamoDBClient, after: int, *, before_it: bool) -> None:
        super().__init__(client, "recovery")
        self._left = after
        self._before_it = before_it

    def _call(self, call: Any) -> Any:
        self._left -= 1
        if self._left < 0 and self._before_it:
            raise Killed
        answer = call()
        if self._left < 0:
            raise Killed
        return answer

    def get(self, identity: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._call(lambda: super(Dying, self).get(identity))
        return found

    def put_all_if(self, writes: Any) -> bool:
        return bool(self._call(lambda: super(Dying, self).put_all_if(writes)))


@pytest.mark.parametrize("before_it", [True, False])
def test_a_writer_killed_at_any_call_leaves_no_hole_and_its_repeat_no_double(
    table: RecoveryTable, dynamodb: DynamoDBClient, before_it: bool
) -> None:
    evidence.append(table, "incident#0", RECORD, NOW)
    deaths = 0
    for number in range(1, 9):
        try:
            evidence.append(Dying(dynamodb, number - 1, before_it=before_it), f"drill#{number}", RECORD, NOW)
        except Killed:
            deaths += 1
        # Whether it was written or not: the next writer goes on, and the repeat finds it
        evidence.append(table, f"incident#{number}", RECORD, NOW)
        evidence.append(table, f"drill#{number}", RECORD, NOW)
        entries = evidence.read(table)
        assert len(entries) == 1 + 2 * number
        assert evidence.verify(entries, evidence.read_head(table)).verdict == OK
    assert deaths == 4


def test_writers_at_the_same_time_make_one_chain(
    table: RecoveryTable, dynamodb: DynamoDBClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble: list[Exception] = []
    one_call_at_a_time, call = threading.Lock(), dynamodb._make_api_call  # type: ignore[attr-defined]

    def called(*given: Any) -> Any:
        # DynamoDB takes calls at the same time; moto's dictionaries do not
        with one_call_at_a_time:
            return call(*given)

    monkeypatch.setattr(dynamodb, "_make_api_call", called)

    def write(name: str) -> None:
        try:
            for number in range(4):
                evidence.append(table, f"drill#{number}", {"of": "all"}, NOW)
                evidence.append(table, f"incident#{name}{number}", {"of": name}, NOW)
        except Exception as error:
            trouble.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trouble == []
    entries = evidence.read(table)
    assert len(entries) == 4 + 16
    assert evidence.verify(entries, evidence.read_head(table)).verdict == OK


class Beaten(RecoveryTable):
    """Somebody else is always faster."""

    def put_all_if(self, writes: Any) -> bool:
        return False


def test_a_writer_that_is_always_beaten_gives_up_and_has_written_nothing(dynamodb: DynamoDBClient) -> None:
    table = Beaten(dynamodb, "recovery")
    with pytest.raises(ChainBusy, match="20 times"):
        evidence.append(table, "incident#1", RECORD, NOW, lambda _: None)
    assert evidence.read(table) == {}


def test_writes_happen_together_or_not_at_all(table: RecoveryTable, dynamodb: DynamoDBClient) -> None:
    new = "attribute_not_exists(id)"
    assert table.put_all_if([Write("a", {"x": 1}, new), Write("b", {}, new)])
    assert not table.put_all_if([Write("c", {}, new), Write("a", {}, "x = :x", {":x": 2})])
    assert table.get("c") is None
    with pytest.raises(ClientError):
        RecoveryTable(dynamodb, "nothing").put_all_if([Write("a", {}, new)])


def test_a_record_of_the_chain_that_is_no_entry_is_named(table: RecoveryTable) -> None:
    table.put("evidence#7", {"number": 7})
    with pytest.raises(ValueError, match="evidence#7 is no entry"):
        evidence.read(table)


def test_sources_are_the_records_that_become_evidence(table: RecoveryTable) -> None:
    for identity in ("incident#1", "operation#1", "drill#1", "roles", "operation", "observation#a"):
        table.put(identity, {"x": 1})
    assert evidence.sources(table) == {identity: {"x": 1} for identity in ("incident#1", "operation#1", "drill#1")}
