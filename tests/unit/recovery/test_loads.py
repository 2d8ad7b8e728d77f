"""Loads among other changes to their table: what a batch comes to is what one change after the other comes to."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recovery.transaction_log.batches import Batch, Batches, Until
from recovery.transaction_log.netting import Net, Rows
from recovery.transaction_log.roll_forward import ahead
from recovery.transaction_log.segment import CHANGES, Segment
from tests.unit.recovery.test_lines import insert, read
from tests.unit.recovery.test_segment import stream
from tests.unit.recovery.test_verification_of_the_log import Log

OID = 16_384
LOAD = 600
"""A run begins 256 messages after the last look for one at the latest."""
Table = dict[bytes, bytes | None]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["load", "backwards", "insert", "update", "delete", "truncate"]), st.integers(0, 3 * LOAD)
    ),
    min_size=1,
    max_size=14,
)


def relation(identity: bytes) -> bytes:
    columns = b"".join(
        bytes([key]) + name + b"\0" + (25).to_bytes(4, "big") + b"\xff\xff\xff\xff"
        for name, key in ((b"id", True), (b"v", identity == b"f"))
    )
    return b"R" + OID.to_bytes(4, "big") + b"public\0t\0" + identity + b"\0\x02" + columns


class Primary:
    """A table, and the messages about what is done to it."""

    def __init__(self, whole: bool) -> None:
        self.table: Table = {b"%d" % n: b"old" for n in range(0, LOAD, 7)}
        self.begins = dict(self.table)
        self.messages = [relation(b"f" if whole else b"d")]
        self._whole = whole

    def insert(self, key: bytes, value: bytes | None) -> None:
        if key not in self.table:
            self.table[key] = value
            self.messages.append(insert(OID, [key, value]))

    def load(self, numbers: range) -> None:
        for n in numbers:
            self.insert(b"%d" % n, b"loaded %d" % n)

    def update(self, key: bytes, value: bytes) -> None:
        if key in self.table:
            old, new = insert(OID, [key, self.table[key]])[6:], insert(OID, [key, value], b"U")
            self.messages.append(new[:5] + b"O" + old + new[5:] if self._whole else new)
            self.table[key] = value

    def delete(self, key: bytes) -> None:
        if key in self.table:
            row = insert(OID, [key, self.table.pop(key) if self._whole else self.table.pop(key) and None], b"D")
            self.messages.append(row[:5] + (b"O" if self._whole else b"K") + row[6:])

    def truncate(self) -> None:
        self.table.clear()
        self.messages.append(b"T" + (1).to_bytes(4, "big") + b"\0" + OID.to_bytes(4, "big"))

    def do(self, step: str, number: int) -> None:
        key = b"%d" % number
        if step == "load":
            self.load(range(number, number + LOAD))
        elif step == "backwards":
            self.load(range(number + LOAD, number, -1))
        elif step == "insert":
            self.insert(key, None)
        elif step == "update":
            self.update(key, b"new")
        elif step == "delete":
            self.delete(key)
        else:
            self.truncate()

    def kept(self, folder: Path) -> Segment:
        """All of it in one transaction."""
        log = Log(folder, 1)
        whole = [b"B" + (100).to_bytes(8, "big") + bytes(12), *self.messages]
        whole.append(b"C\0" + (100).to_bytes(8, "big") + (108).to_bytes(8, "big") + bytes(8))
        header = replace(log.header, kind=CHANGES, first=100, last=108, messages=len(whole))
        return log.link(header, stream(whole))


class Standby:
    """What the nets do to the same table, as strictly as PostgreSQL would."""

    def __init__(self, begins: Table) -> None:
        self.rows: Counter[tuple[bytes | None, ...]] = Counter(begins.items())

    def apply(self, batch: Batch) -> None:
        if any(net.truncated for net in batch.nets):
            self.rows.clear()
        for net in batch.nets:
            self._apply(net)

    def _apply(self, net: Net) -> None:
        assert not net.partial.rows.count
        for row in _rows(net.gone):
            if net.relation.whole:
                self.rows[row[:-1]] -= int(row[-1] or 0)
            else:
                self._remove(row[0])
        for row in _rows(net.changed):
            self._remove(row[0])
            self.rows[row] += 1
        self.rows.update(_rows(net.inserted))
        assert set(self.rows.values()) <= {0, 1}
        self.rows = +self.rows

    def _remove(self, key: bytes | None) -> None:
        (there,) = [row for row in self.rows if row[0] == key]
        del self.rows[there]


def _rows(rows: Rows) -> list[tuple[bytes | None, ...]]:
    found = list(read(rows.blocks).elements())
    assert len(found) == rows.count
    return found


@settings(max_examples=40)
@given(steps=STEPS, whole=st.booleans(), size=st.sampled_from([4_000, 1 << 20]))
def test_a_batch_comes_to_what_its_changes_come_to(steps: list[tuple[str, int]], whole: bool, size: int) -> None:
    """A load comes first; a row of it is changed, another deleted, and put back at the end of a second load."""
    primary = Primary(whole)
    for step, number in [("load", 10), ("update", 500), ("delete", 605), ("backwards", 400), *steps]:
        primary.do(step, number)
    with tempfile.TemporaryDirectory() as folder:
        batches = list(Batches([(primary.kept(Path(folder)), -1, None)], Until(), size=size))
    standby = Standby(primary.begins)
    for batch in batches:
        standby.apply(batch)
    assert standby.rows == Counter(primary.table.items())
    assert sum(counts.all for batch in batches for counts in batch.counts.values()) == len(primary.messages) - 1


def test_working_ahead_leaves_the_turns_of_other_threads_as_they_were() -> None:
    before = sys.getswitchinterval()
    assert list(ahead(range(5))) == list(range(5))
    begun = ahead(range(5))
    assert next(begun) == 0
    assert sys.getswitchinterval() < before
    begun.close()  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError):
        list(ahead(1 // n for n in (1, 0)))
    assert sys.getswitchinterval() == before
