from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local_cloud.certificates import CertificateAuthority
from local_cloud.endpoint import Fault
from recovery.connection import (
    Credentials,
    Database,
    Refused,
    Session,
    TimedOut,
    Unreachable,
    answers,
    verify_full,
)
from recovery.members import Endpoint
from tests.unit.recovery.conftest import MASTER, PASSWORD, PRIMARY, Pair

CREDENTIALS = Credentials(MASTER, PASSWORD)


@contextlib.contextmanager
def server(serve: Callable[[socket.socket], None]) -> Iterator[Endpoint]:
    """A server that treats every connection as `serve` does."""
    listening = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = listening.accept()
                threading.Thread(target=serve_one, args=(accepted,), daemon=True).start()

    def serve_one(accepted: socket.socket) -> None:
        with contextlib.suppress(OSError), accepted:
            serve(accepted)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield Endpoint("127.0.0.1", listening.getsockname()[1])
    finally:
        listening.close()


def test_a_session_signs_in_over_verified_tls_and_answers(members: Pair) -> None:
    with members.open() as session:
        assert session.run("SELECT :a::int + 1", 2, a=41) == [[42]]
        assert session.run("SELECT 1 WHERE false", 2) == []


def test_a_certificate_of_another_authority_is_refused(members: Pair, tmp_path: Path) -> None:
    other = Database("citizens", verify_full(str(CertificateAuthority.open(tmp_path).bundle)))
    with pytest.raises(Refused, match="certificate") as refused:
        Session.open(members.primary, other, CREDENTIALS, 2, "test")
    assert refused.value.sqlstate == "08P01"


def test_a_certificate_for_another_name_is_refused(members: Pair) -> None:
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        threading.Thread(target=lambda: forward(listening, members.primary), daemon=True).start()
        with pytest.raises(Refused, match="certificate"):
            Session.open(Endpoint("localhost", listening.getsockname()[1]), members.database, CREDENTIALS, 2, "test")


def forward(listening: socket.socket, target: Endpoint) -> None:
    accepted, _ = listening.accept()
    onward = socket.create_connection((target.host, target.port))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    threading.Thread(target=pump, args=(onward, accepted), daemon=True).start()
    pump(accepted, onward)


def test_a_server_that_refuses_connections_is_unreachable_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = Endpoint("127.0.0.1", free.getsockname()[1])
    began = time.monotonic()
    with pytest.raises(Unreachable, match="refuses connections"):
        Session.open(endpoint, Database("citizens", verify_full_of_nobody()), CREDENTIALS, 2, "test")
    assert time.monotonic() - began < 0.5


def verify_full_of_nobody() -> ssl.SSLContext:
    return ssl.create_default_context()


@pytest.mark.parametrize(
    ("kind", "serve"),
    [
        ("silent", lambda accepted: time.sleep(5)),
        ("silent after it accepted TLS", lambda accepted: accept_tls_and_sleep(accepted)),
        ("dripping garbage into the TLS handshake", lambda accepted: drip(accepted)),
    ],
)
def test_a_server_that_hangs_in_mid_protocol_cannot_hold_a_sign_in(
    kind: str, serve: Callable[[socket.socket], None]
) -> None:
    with server(serve) as endpoint:
        began = time.monotonic()
        with pytest.raises(TimedOut, match="did not answer within"):
            Session.open(endpoint, Database("citizens", verify_full_of_nobody()), CREDENTIALS, 0.4, "test")
        assert time.monotonic() - began < 0.8, kind


def accept_tls_and_sleep(accepted: socket.socket) -> None:
    accepted.recv(8)
    accepted.sendall(b"S")
    time.sleep(5)


def drip(accepted: socket.socket) -> None:
    accepted.recv(8)
    accepted.sendall(b"S")
    # A TLS record of 16 KiB, a byte at a time: every read succeeds, and a per-read time-out never fires.
    for byte in b"\x16\x03\x03\x40\x00" + bytes(16384):
        accepted.sendall(bytes([byte]))
        time.sleep(0.05)


@pytest.mark.parametrize("answer", [b"N", b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_a_server_that_does_not_speak_postgresql_over_tls_is_unreachable(answer: bytes) -> None:
    def serve(accepted: socket.socket) -> None:
        accepted.recv(8)
        accepted.sendall(answer)

    with server(serve) as endpoint, pytest.raises(Unreachable, match="broke the connection"):
        Session.open(endpoint, Database("citizens", verify_full_of_nobody()), CREDENTIALS, 2, "test")


def test_a_statement_that_takes_too_long_ends_the_session_in_time(members: Pair) -> None:
    session = members.open()
    began = time.monotonic()
    with pytest.raises(TimedOut):
        session.run("SELECT pg_sleep(5)", 0.3)
    assert time.monotonic() - began < 0.7
    assert session.closed
    with pytest.raises(Unreachable, match="is closed"):
        session.run("SELECT 1", 1)


def test_a_statement_we_gave_up_on_does_not_stay_behind_on_the_server(members: Pair) -> None:
    with members.open() as holder:
        holder.run("CREATE TABLE held (n int)", 2)
        holder.run("BEGIN; LOCK TABLE held", 2)
        waiting = members.open()
        with pytest.raises(TimedOut):
            waiting.run("SELECT * FROM held", 0.2)
        deadline = time.monotonic() + 5
        while holder.run("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'", 2) != [[0]]:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_server_that_hangs_under_an_open_session_is_noticed_in_time(members: Pair) -> None:
    with members.open() as session:
        members.fault(PRIMARY, Fault("hang"))
        began = time.monotonic()
        with pytest.raises(TimedOut):
            session.run("SELECT 1", 0.3)
        assert time.monotonic() - began < 0.7


def test_a_cut_connection_is_unreachable(members: Pair) -> None:
    with members.open() as session:
        members.fault(PRIMARY, Fault("cut"))
        with pytest.raises(Unreachable):
            session.run("SELECT 1", 2)
    with pytest.raises(Unreachable):
        members.open()


def test_what_the_server_refuses_carries_its_sqlstate_and_keeps_the_session(members: Pair) -> None:
    with members.open() as session:
        with pytest.raises(Refused, match="does not exist") as refused:
            session.run("SELECT * FROM nothing_here", 2)
        assert refused.value.sqlstate == "42P01"
        assert session.run("SELECT 1", 2) == [[1]]


def test_a_transaction_that_fails_leaves_nothing(members: Pair) -> None:
    with members.open() as session:
        session.run("CREATE TABLE kept (n int)", 2)
        with pytest.raises(Refused), session.transaction(2):
            session.run("INSERT INTO kept VALUES (1); SELECT 1/0", 2)
        assert session.run("SELECT count(*) FROM kept", 2) == [[0]]
        with pytest.raises(TimedOut), session.transaction(2):
            session.run("SELECT pg_sleep(5)", 0.1)


def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="cannot be resolved"):
        Session.open(Endpoint("no-such-member.invalid", 5432), database_of_nobody(), CREDENTIALS, 5, "test")


def test_a_resolver_that_hangs_cannot_hold_a_sign_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(3))
    began = time.monotonic()
    with pytest.raises(TimedOut, match="was not resolved"):
        Session.open(Endpoint("member", 5432), database_of_nobody(), CREDENTIALS, 0.2, "test")
    assert time.monotonic() - began < 0.5


def test_an_address_that_never_accepts_runs_into_the_deadline() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        try:
            with pytest.raises(TimedOut, match="did not accept"):
                Session.open(Endpoint(*full.getsockname()), database_of_nobody(), CREDENTIALS, 0.2, "test")
        finally:
            for filler in fillers:
                filler.close()


def test_no_time_left_is_a_time_out() -> None:
    with pytest.raises(TimedOut):
        Session.open(Endpoint("127.0.0.1", 1), database_of_nobody(), CREDENTIALS, -1, "test")


def database_of_nobody() -> Database:
    return Database("citizens", verify_full_of_nobody())


def test_a_password_is_not_shown() -> None:
    assert PASSWORD not in repr(CREDENTIALS)


def test_one_answer_to_several_attempts_is_an_answer() -> None:
    asked: list[float] = []

    def deaf_at_first(accepted: socket.socket) -> None:
        asked.append(time.monotonic())
        accepted.recv(8)
        if len(asked) < 3:
            time.sleep(2)
        accepted.sendall(b"S")

    with server(deaf_at_first) as endpoint:
        assert answers(endpoint, 1)
        assert len(asked) == 3
        assert answers(endpoint, 1)
        assert len(asked) == 4, "who answers at once is asked once"


def test_silence_a_broken_connection_and_a_closed_port_are_no_answer() -> None:
    began = time.monotonic()
    with server(lambda accepted: time.sleep(2)) as silent:
        assert not answers(silent, 0.5)
    assert time.monotonic() - began < 1
    with server(lambda accepted: None) as broken:
        assert not answers(broken, 5)
    assert not answers(Endpoint("127.0.0.1", 1), 5)
    assert time.monotonic() - began < 2, "what is refused is not waited for"
