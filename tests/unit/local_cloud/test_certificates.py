import socket
import ssl
import threading
from pathlib import Path

import pytest

from local_cloud.certificates import CertificateAuthority


def handshake(server: ssl.SSLContext, bundle: Path, name: str) -> None:
    """A TLS handshake over a socket pair, verified as a client does it."""
    client_context = ssl.create_default_context(cafile=str(bundle))
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as connection:
                connection.recv(1)
        except (ssl.SSLError, OSError):
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client_context.wrap_socket(ours, server_hostname=name) as connection:
            connection.send(b"x")
    finally:
        ours.close()
        thread.join()


def test_a_client_with_the_bundle_verifies_an_address_and_a_name(tmp_path: Path) -> None:
    authority = CertificateAuthority.open(tmp_path)
    context = authority.server_context(["127.4.5.6", "database.example.internal"])
    handshake(context, authority.bundle, "127.4.5.6")
    handshake(context, authority.bundle, "database.example.internal")


def test_a_certificate_is_not_valid_for_another_address(tmp_path: Path) -> None:
    authority = CertificateAuthority.open(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        handshake(authority.server_context(["127.4.5.6"]), authority.bundle, "127.4.5.7")


def test_the_authority_of_another_cloud_is_not_trusted(tmp_path: Path) -> None:
    authority = CertificateAuthority.open(tmp_path / "one")
    other = CertificateAuthority.open(tmp_path / "two")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(authority.server_context(["127.4.5.6"]), other.bundle, "127.4.5.6")


def test_the_authority_is_the_same_when_opened_again(tmp_path: Path) -> None:
    first = CertificateAuthority.open(tmp_path)
    bundle = first.bundle.read_bytes()
    again = CertificateAuthority.open(tmp_path)
    assert again.bundle.read_bytes() == bundle
    handshake(first.server_context(["localhost"]), again.bundle, "localhost")


def test_a_damaged_authority_is_replaced(tmp_path: Path) -> None:
    bundle = CertificateAuthority.open(tmp_path).bundle
    before = bundle.read_bytes()
    (tmp_path / "ca.key").write_text("damaged")
    authority = CertificateAuthority.open(tmp_path)
    assert bundle.read_bytes() != before
    handshake(authority.server_context(["localhost"]), authority.bundle, "localhost")


def test_a_key_of_another_certificate_is_replaced(tmp_path: Path) -> None:
    bundle = CertificateAuthority.open(tmp_path / "one").bundle
    other = CertificateAuthority.open(tmp_path / "two").bundle
    bundle.write_bytes(other.read_bytes())
    assert CertificateAuthority.open(tmp_path / "one").bundle.read_bytes() != other.read_bytes()


def test_keys_are_private_and_no_server_key_stays(tmp_path: Path) -> None:
    authority = CertificateAuthority.open(tmp_path)
    authority.server_context(["localhost"])
    assert (tmp_path / "ca.key").stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.key", "ca.pem"]


def test_a_certificate_needs_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a name"):
        CertificateAuthority.open(tmp_path).server_context([])
