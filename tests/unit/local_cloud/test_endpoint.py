import contextlib
import socket
import ssl
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pg8000.dbapi
import psycopg
import pytest
from psycopg.pq.abc import PGresult

from local_cloud import endpoint
from local_cloud.certificates import CertificateAuthority
from local_cloud.endpoint import EndpointServer, Rules
from local_cloud.fleet import Caller, Fault

from .conftest import APPLICATION, PASSWORD, SWIFT, Guard, Harness, eventually

SSL_REQUEST = struct.pack("!II", 8, 80877103)
GSSENC_REQUEST = struct.pack("!II", 8, 80877104)


@pytest.fixture(scope="module")
def endpoints(shared_harness: Harness) -> Iterator[Harness]:
    yield shared_harness
    shared_harness.clear()


@pytest.fixture
def database(endpoints: Harness) -> Harness:
    """An instance that works, whatever the test before has done to it."""
    endpoints.guard.asked.clear()
    endpoints.guard.everyone = APPLICATION
    endpoints.fleet.delays = SWIFT
    if "one" in endpoints.fleet.identifiers():
        endpoints.fleet.set_fault("one", Fault())
        endpoints.fleet.modify("one", security_groups=("sg-open",), parameters={})
    else:
        endpoints.fleet.create(endpoints.spec("one"))
    endpoints.connect_when_possible("one").close()
    return endpoints


def address_of(harness: Harness, identifier: str = "one") -> tuple[str, int]:
    view = harness.fleet.describe(identifier)
    return view.endpoint_address, view.endpoint_port


def is_refused_or_reset(harness: Harness) -> bool:
    """Whether a client learns at once that nobody serves it."""
    started = time.monotonic()
    try:
        harness.connect("one").close()
    except psycopg.OperationalError as error:
        return "timeout" not in str(error) and time.monotonic() - started < 1
    return False


def result_of(connection: "psycopg.Connection[tuple[object, ...]]") -> PGresult:
    """The result of a query that was sent.

    Polled, because libpq would wait for it without giving the endpoint's thread of this process a chance to run.
    """

    def has_arrived() -> bool:
        connection.pgconn.consume_input()
        return not connection.pgconn.is_busy()

    eventually(has_arrived)
    result = connection.pgconn.get_result()
    assert result is not None
    return result


def test_a_client_verifies_the_endpoint_in_full(database: Harness) -> None:
    with database.connect("one") as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("SELECT current_user, current_database()").fetchone() == (
            "citizens_admin",
            "citizens",
        )
    address, port = address_of(database)
    if sys.platform == "linux":
        assert address.startswith("127.")
        assert not address.startswith("127.0.")
        assert port == 5432


def test_a_driver_in_pure_python_connects_too(database: Harness) -> None:
    address, port = address_of(database)
    plain = socket.create_connection((address, port), timeout=5)
    plain.sendall(SSL_REQUEST)
    assert plain.recv(1) == b"S"
    context = ssl.create_default_context(cafile=str(database.authority.bundle))
    # TLS is made here because the driver would bind SCRAM to it by a function its SCRAM library no longer has.
    with context.wrap_socket(plain, server_hostname=address) as encrypted:
        connection = pg8000.dbapi.connect(
            user="citizens_admin", password=PASSWORD, database="citizens", sock=encrypted, ssl_context=False
        )
        cursor = connection.cursor()
        cursor.execute("SELECT 6 * 7")
        assert cursor.fetchone() == [42]
        connection.close()


def test_a_wrong_password_and_an_internal_role_are_refused(database: Harness) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        database.connect("one", password="wrong")
    for role in ("rdsadmin", "rdsrepladmin"):
        with pytest.raises(psycopg.OperationalError, match=r"pg_hba\.conf rejects connection .* SSL encryption"):
            database.connect("one", user=role)


def test_plaintext_is_refused_in_postgresql_s_words_unless_the_parameter_allows_it(database: Harness) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry for host .* no encryption"):
        database.connect("one", sslmode="disable")
    database.fleet.modify("one", parameters={"rds.force_ssl": "0"})
    with database.connect("one", sslmode="disable") as connection:
        assert not connection.pgconn.ssl_in_use


def test_much_data_passes_unharmed_both_ways(database: Harness) -> None:
    text = "0123456789abcdef" * 65536
    with database.connect("one") as connection:
        assert connection.execute("SELECT %s || 'x'", [text * 4]).fetchone() == (text * 4 + "x",)


def test_a_query_can_be_cancelled_through_the_endpoint(database: Harness) -> None:
    connection = database.connect("one")
    connection.pgconn.send_query(b"SELECT pg_sleep(30)")
    time.sleep(0.1)
    connection.cancel_safe(timeout=5)
    assert b"canceling statement due to user request" in result_of(connection).error_message
    connection.close()


def test_a_request_for_gss_encryption_is_declined_and_tls_goes_on(database: Harness) -> None:
    with socket.create_connection(address_of(database), timeout=5) as client:
        client.sendall(GSSENC_REQUEST)
        assert client.recv(1) == b"N"
        client.sendall(SSL_REQUEST)
        assert client.recv(1) == b"S"


@pytest.mark.parametrize(
    "nonsense", [b"GET / HTTP/1.1\r\n\r\n", struct.pack("!II", 5, 0), b"\x16\x03\x01\x02\x00\x01\x00\x01"]
)
def test_nonsense_ends_the_connection(database: Harness, nonsense: bytes) -> None:
    with socket.create_connection(address_of(database), timeout=5) as client:
        client.sendall(nonsense)
        try:
            assert client.recv(1) == b""
        except ConnectionResetError:
            return


def test_a_client_without_trust_ends_the_handshake_and_harms_nobody(
    database: Harness, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stranger = CertificateAuthority.open(tmp_path_factory.mktemp("stranger"))
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        database.connect("one", sslrootcert=str(stranger.bundle))
    database.connect("one").close()


def test_who_is_not_admitted_hears_nothing(database: Harness) -> None:
    established = database.connect("one")
    database.fleet.modify("one", security_groups=("sg-closed",))
    assert database.fleet.describe("one").security_groups == ("sg-closed",)
    with pytest.raises(psycopg.OperationalError, match="timeout expired"):
        database.connect("one", connect_timeout="2")
    assert established.execute("SELECT 1").fetchone() == (1,)
    established.close()
    assert ("one", ("sg-closed",), address_of(database)[1]) in database.guard.asked
    database.fleet.modify("one", security_groups=("sg-open",))
    database.connect("one").close()


def test_an_admission_that_fails_lets_nobody_in(
    authority: CertificateAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> Caller:
        raise RuntimeError("no idea")

    server = EndpointServer(authority, broken)
    address = server.open("one", Rules((), 5432, force_ssl=True))
    with socket.create_connection(address, timeout=0.3) as client:
        client.sendall(SSL_REQUEST)
        with pytest.raises(TimeoutError):
            client.recv(1)
    server.close()
    assert "the connection is dropped" in caplog.text


def test_a_cut_drops_connections_and_refuses_new_ones(database: Harness) -> None:
    connection = database.connect("one")
    database.fleet.set_fault("one", Fault("cut"))
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    assert is_refused_or_reset(database)
    database.fleet.set_fault("one", Fault())
    database.connect("one").close()


def test_a_hang_keeps_connections_open_and_silent_until_it_ends(database: Harness) -> None:
    connection = database.connect("one")
    database.fleet.set_fault("one", Fault("hang"))
    connection.pgconn.send_query(b"SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="timeout expired"):
        database.connect("one", connect_timeout="2")
    connection.pgconn.consume_input()
    assert connection.pgconn.is_busy()
    database.fleet.set_fault("one", Fault())
    assert result_of(connection).get_value(0, 0) == b"1"
    connection.close()


def test_a_connection_that_a_hang_held_back_does_not_reach_the_server_after_a_reboot(database: Harness) -> None:
    """Else it would get past a fence: it was let in before the security group was closed."""
    database.fleet.set_fault("one", Fault("hang"))
    database.guard.asked.clear()
    with socket.create_connection(address_of(database), timeout=10) as held:
        held.sendall(SSL_REQUEST)
        eventually(lambda: bool(database.guard.asked))
        database.fleet.reboot("one")
        eventually(lambda: database.fleet.describe("one").status == "available")
        database.fleet.set_fault("one", Fault())
        assert held.recv(1) == b"S"
        context = ssl.create_default_context(cafile=str(database.authority.bundle))
        with context.wrap_socket(held, server_hostname=address_of(database)[0]) as encrypted:
            encrypted.sendall(struct.pack("!II", 47, 196608) + b"user\0citizens_admin\0database\0citizens\0\0")
            with contextlib.suppress(ConnectionResetError):
                assert encrypted.recv(1) == b""


def test_a_slow_network_takes_its_time(database: Harness) -> None:
    connection = database.connect("one")
    database.fleet.set_fault("one", Fault("slow", delay_ms=100))
    started = time.monotonic()
    connection.execute("SELECT 1")
    assert time.monotonic() - started >= 0.2
    connection.close()


def test_a_fault_strikes_the_side_it_is_meant_for(database: Harness) -> None:
    function = Caller(allowed=True, kind="functions", name="witness")
    database.guard.everyone, application = function, database.guard.everyone
    as_function = database.connect("one")
    database.guard.everyone = application
    as_application = database.connect("one")
    database.fleet.set_fault("one", Fault("cut", scope="functions"))
    with pytest.raises(psycopg.OperationalError):
        as_function.execute("SELECT 1")
    assert as_application.execute("SELECT 1").fetchone() == (1,)
    as_application.close()


def test_an_endpoint_without_a_cluster_resets_and_a_deleted_one_refuses(database: Harness) -> None:
    address = address_of(database)
    database.fleet.delays = replace(SWIFT, reboot_seconds=0.6)
    database.fleet.kill("one")
    eventually(lambda: not database.fleet.describe("one").processes or is_refused_or_reset(database))
    database.connect_when_possible("one").close()
    database.fleet.delete("one")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=2)


def test_a_connection_ends_when_its_cluster_does(database: Harness) -> None:
    connection = database.connect("one")
    database.fleet.kill("one")
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT pg_sleep(5)")


def test_a_target_that_is_no_socket_resets(
    authority: CertificateAuthority, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server = EndpointServer(authority, Guard())
    address = server.open("one", Rules((), 5432, force_ssl=False))
    server.set_target("one", tmp_path_factory.mktemp("nothing") / "socket")
    with socket.create_connection(address, timeout=5) as client:
        client.sendall(struct.pack("!II", 8, 196608))
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    server.close_endpoint("one")
    server.close_endpoint("one")
    server.close()
    server.close()
    server.set_target("one", None)
    with pytest.raises(RuntimeError, match="closed"):
        server.open("two", Rules((), 5432, force_ssl=False))


def test_an_endpoint_has_another_port_when_its_own_is_taken(
    authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EndpointServer(authority, Guard())
    address, port = server.open("one", Rules((), 5432, force_ssl=True))
    monkeypatch.setattr(endpoint, "_free_address", lambda taken, wanted: (address, port))
    other_address, other_port = server.open("two", Rules((), 5432, force_ssl=True))
    assert other_address == address
    assert other_port != port
    server.close()


def test_where_loopback_has_one_address_ports_tell_instances_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert endpoint._free_address(set(), 5432) == ("127.0.0.1", 0)


def test_a_port_that_is_free_nowhere_leads_to_any_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_is_free", lambda address, port: False)
    assert endpoint._free_address(set(), 5432)[1] == 0
