"""Lines for COPY that are made of many rows at once hold what is in the rows, whatever that is."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recovery.transaction_log import lines
from recovery.transaction_log.copy_stream import Run, frame, messages, parts
from recovery.transaction_log.lines import Lines
from recovery.transaction_log.pgoutput import MessageUnknown
from recovery.transaction_log.rows import Column, Relation
from recovery.transaction_log.shapes import ROWS_AT_ONCE, RUN

Value = bytes | None
# `n`, `t`, `d`, `u` and `b` are tags too; `I` begins a message; lengths of 98 and 116 look like ends and tags.
TEXTS = st.one_of(
    st.text(alphabet="ntdubIN\\\n\r\t市", max_size=4).map(str.encode),
    st.sampled_from([b"", b"n", b"\\N", b"\\.", b"n" * 98, b"t" * 116, b"x" * 255, b"d" * 256, b"nt"]),
)
OIDS = st.sampled_from([16_400, 0x6E740000, 0x00740000, 0x00624900, 0x5C2E2A28])
ROWS = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(st.none() | TEXTS, min_size=width, max_size=width), min_size=1, max_size=12)
)


def table(oid: int, width: int) -> Relation:
    return Relation(oid, "public", "t", "f", tuple(Column(f"c{n}", True) for n in range(width)))


def insert(oid: int, row: Sequence[Value], kind: bytes = b"I") -> bytes:
    cells = b"".join(b"n" if value is None else b"t" + struct.pack("!I", len(value)) + value for value in row)
    return kind + struct.pack("!I", oid) + b"N" + struct.pack("!H", len(row)) + cells


def read(blocks: Sequence[bytes]) -> Counter[tuple[Value, ...]]:
    """What COPY reads."""
    found: Counter[tuple[Value, ...]] = Counter()
    for block in blocks:
        assert block.endswith(b"\n")
        for line in block[:-1].split(b"\n"):
            found[tuple(None if cell == b"\\N" else _plain(cell) for cell in line.split(b"\t"))] += 1
    return found


def _plain(cell: bytes) -> bytes:
    escapes = {b"\\": b"\\", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
    parts = cell.split(b"\\\\")
    for letter in (b"n", b"r", b"t"):
        parts = [part.replace(b"\\" + letter, escapes[letter]) for part in parts]
    return b"\\".join(parts)


@example(oid=16_400, rows=[[b"a", None, b"b"], [b"xn", b"y", None]], times=150)
@given(oid=OIDS, rows=ROWS, times=st.sampled_from([1, 150]))
def test_all_rows_are_in_the_lines_of_messages(oid: int, rows: list[list[Value]], times: int) -> None:
    """Repeated, so that shapes become frequent and are known the second time."""
    made = Lines(table(oid, len(rows[0])))
    sent = [insert(oid, row, b"IU"[n % 2 : n % 2 + 1]) for n, row in enumerate(rows * times)]
    wanted = Counter({tuple(row): count * times for row, count in Counter(map(tuple, rows)).items()})
    for _ in range(2):
        assert read(list(made.of_messages(sent))) == wanted


@given(oid=OIDS, rows=ROWS, times=st.sampled_from([1, 80, 700]), cut=st.integers(200, 1 << 20))
def test_runs_and_messages_together_are_the_stream(oid: int, rows: list[list[Value]], times: int, cut: int) -> None:
    made = Lines(table(oid, len(rows[0])))
    sent = [insert(oid, row) for row in rows[:1] * times + rows]
    list(made.of_messages(sent))  # learns
    begin, commit = b"B" + bytes(20), b"C" + bytes(25)
    stream = b"".join(frame(message, n == 0) for n, message in enumerate([begin, *sent, commit]))
    blocks = [stream[at : at + cut] for at in range(0, len(stream), cut)]
    found: list[bytes] = []
    for part in parts(blocks, {struct.pack("!I", oid): made.shapes}):
        if isinstance(part, Run):
            within = list(messages([frame(begin, first=True), part.frames]))[1:]
            assert RUN <= len(within) <= ROWS_AT_ONCE
            count, block = lines.of_run(part)
            assert count == len(within)
            assert read([block]) == read(list(Lines(table(oid, len(rows[0]))).of_messages(within)))
            found += within
        else:
            found += part
    assert found == [begin, *sent, commit]


def test_a_load_comes_in_runs_and_its_rows_are_told_by_their_shape() -> None:
    made = Lines(table(16_400, 3))
    sent = [insert(16_400, [b"%d" % n, None, b"citizen %d" % n]) for n in range(5_000)]
    stream = b"".join(frame(message, n == 0) for n, message in enumerate([b"B" + bytes(20), *sent, b"C" + bytes(25)]))
    found = list(parts([stream], {sent[0][1:5]: made.shapes}))
    assert not any(isinstance(part, Run) for part in found)
    list(made.of_messages(sent))
    found = list(parts([stream], {sent[0][1:5]: made.shapes}))
    assert sum(lines.of_run(part)[0] for part in found if isinstance(part, Run)) > 4_000


def test_rows_with_a_large_value_are_among_the_others() -> None:
    rows = [[b"%d" % n, b"z" * (70_000 if n % 100 == 7 else n), None] for n in range(300)]
    made = Lines(table(16_400, 3))
    for _ in range(2):
        found = read(list(made.of_messages([insert(16_400, row) for row in rows])))
        assert found == Counter(map(tuple, rows))


def test_a_row_of_another_width_is_refused() -> None:
    made = Lines(table(16_400, 2))
    with pytest.raises(MessageUnknown, match="3 columns where 2"):
        list(made.of_messages([insert(16_400, [b"a", b"b"]), insert(16_400, [b"a", b"b", b"c"])]))


def test_a_value_in_binary_form_is_refused() -> None:
    sent = b"I" + struct.pack("!I", 16_400) + b"N\0\x02t\0\0\0\x01ab\0\0\0\x01\0"
    with pytest.raises(MessageUnknown, match="binary"):
        list(Lines(table(16_400, 2)).of_messages([sent]))
