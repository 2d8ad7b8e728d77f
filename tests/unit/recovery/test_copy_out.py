"""The COPY stream as the server sends it, through TLS, taken without looking at its rows."""

from __future__ import annotations

import pytest

from recovery.connection import Refused, TimedOut, Unreachable
from recovery.transaction_log import copy_stream
from tests.unit.recovery.conftest import Pair


class Taken(list[bytes]):
    def messages(self) -> list[bytes]:
        return list(copy_stream.messages(self))


@pytest.mark.parametrize(("rows", "length"), [(1, 0), (1, 3_000_000), (3, 65_536), (20_000, 40), (1_000, 1_000)])
def test_rows_arrive_as_they_are_whatever_their_number_and_size(members: Pair, rows: int, length: int) -> None:
    taken = Taken()
    query = f"SELECT convert_to(n || repeat('x', {length}), 'UTF8') FROM generate_series(1, {rows}) AS n"
    with members.open() as session:
        assert session.copy_out(query, 20, taken.append) == rows
        assert session.run("SELECT 1", 5) == [[1]]
    assert taken.messages() == [f"{n}{'x' * length}".encode() for n in range(1, rows + 1)]


def test_no_rows_are_no_rows(members: Pair) -> None:
    taken = Taken()
    with members.open() as session:
        assert session.copy_out("SELECT 'x'::bytea WHERE false", 5, taken.append) == 0
    assert b"".join(taken) == b""


@pytest.mark.parametrize(
    ("query", "sqlstate"),
    [
        ("SELECT nonsense", "42703"),
        ("SELECT convert_to((1 / n)::text, 'UTF8') FROM generate_series(-5, 5) AS n", "22012"),
        ("SELECT convert_to((1 / (n - 200000))::text, 'UTF8') FROM generate_series(1, 300000) AS n", "22012"),
    ],
)
def test_what_the_server_refuses_before_or_in_the_stream_is_refused(members: Pair, query: str, sqlstate: str) -> None:
    with members.open() as session:
        with pytest.raises(Refused) as refused:
            session.copy_out(query, 20, lambda data: None)
        assert refused.value.sqlstate == sqlstate
        assert session.run("SELECT 1", 5) == [[1]]


def test_what_looks_like_the_streams_end_is_not_taken_for_it(members: Pair) -> None:
    end = (
        b"d\0\0\0\x06\xff\xffc\0\0\0\x04C\0\0\0\x0bCOPY 1\0Z\0\0\0\x05IT\0\0\0\x21\0\x01?column?\0" + bytes(18)
        + b"D\0\0\0\x2a\0\x01\0\0\0\x20" + b"0" * 32 + b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I"
    )  # fmt: skip
    taken = Taken()
    with members.open() as session:
        query = f"SELECT '\\x{end.hex()}'::bytea FROM generate_series(1, 3), pg_sleep(0.1)"
        assert session.copy_out(query, 20, taken.append) == 3
    assert taken.messages() == [end] * 3


def test_a_stream_that_takes_too_long_or_breaks_closes_the_session(members: Pair) -> None:
    with members.open() as session, pytest.raises(TimedOut):
        session.copy_out("SELECT ''::bytea FROM pg_sleep(10)", 0.3, lambda data: None)
    assert session.closed
    with pytest.raises(Unreachable):
        session.copy_out("SELECT ''::bytea", 1, lambda data: None)
    with members.open() as session, pytest.raises(Unreachable, match="broke the connection"):
        session.copy_out("SELECT ''::bytea FROM pg_terminate_backend(pg_backend_pid())", 5, lambda data: None)


def test_a_taker_that_fails_closes_the_session(members: Pair) -> None:
    def full(data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with members.open() as session, pytest.raises(OSError, match="No space"):
        session.copy_out("SELECT ''::bytea", 5, full)
    assert session.closed
