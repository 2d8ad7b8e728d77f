"""The certificate authority of the local cloud's region: what `rds-ca-…` is to RDS."""

import contextlib
import datetime
import ipaddress
import os
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFETIME = datetime.timedelta(days=3650)
CERTIFICATE_LIFETIME = datetime.timedelta(days=397)
CLOCK_TOLERANCE = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class ServerCertificate:
    """A TLS server context with its certificate, and when that ends."""

    context: ssl.SSLContext
    ends: datetime.datetime


class CertificateAuthority:
    """Signs server certificates; its own certificate is the bundle clients verify against."""

    def __init__(self, bundle: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.bundle = bundle
        self._certificate = certificate
        self._key = key

    @classmethod
    def open(cls, directory: Path) -> "CertificateAuthority":
        """Load the authority kept in `directory`, or make a new one there (`ca.pem`, `ca.key`).

        An authority that is incomplete, unreadable or about to expire is replaced.
        """
        directory.mkdir(parents=True, exist_ok=True)
        bundle, key_file = directory / "ca.pem", directory / "ca.key"
        with contextlib.suppress(OSError, ValueError):
            certificate = x509.load_pem_x509_certificate(bundle.read_bytes())
            key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
            if (
                isinstance(key, ec.EllipticCurvePrivateKey)
                and certificate.public_key() == key.public_key()
                and certificate.not_valid_after_utc > _now() + CERTIFICATE_LIFETIME
            ):
                return cls(bundle, certificate, key)
        certificate, key = _new_authority()
        _write(key_file, _pem(key), 0o600)
        _write(bundle, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        return cls(bundle, certificate, key)

    def server_context(self, names: Sequence[str]) -> ssl.SSLContext:
        """A TLS server context whose new certificate is valid for `names`; ValueError without a name."""
        return self.issue(names).context

    def issue(self, names: Sequence[str], lifetime: datetime.timedelta = CERTIFICATE_LIFETIME) -> "ServerCertificate":
        """A new server certificate for `names`, valid for so long.

        IP addresses become IP SANs, everything else DNS SANs. Raises ValueError without a name.
        """
        if not names:
            raise ValueError("a server certificate needs a name")
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name(names[0]), self._certificate.subject, key.public_key(), lifetime)
            .add_extension(x509.SubjectAlternativeName([_subject_alternative(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # The ssl module reads a key from a file only: it exists, for its owner alone, as long as the read takes.
        with tempfile.NamedTemporaryFile(dir=self.bundle.parent, prefix="server-", suffix=".pem") as file:
            file.write(_pem(key) + certificate.public_bytes(serialization.Encoding.PEM))
            file.flush()
            context.load_cert_chain(file.name)
        return ServerCertificate(context, certificate.not_valid_after_utc)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Local Cloud"),
            # X.520 caps a common name at 64 characters; clients look at the SANs only.
            x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64]),
        ]
    )


def _subject_alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: datetime.timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - CLOCK_TOLERANCE)
        .not_valid_after(_now() + lifetime)
        # Python 3.13 verifies strictly (RFC 5280): key identifiers and key usage are not optional then.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _new_authority() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    # The serial number in the name tells one local cloud's authority from another's.
    name = _name(f"Local Cloud RDS CA {x509.random_serial_number():x}"[:40])
    certificate = (
        _builder(name, name, key.public_key(), AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace `path` in one step, never readable by more than `mode` says."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    Path(temporary).chmod(mode)
    Path(temporary).replace(path)
