"""The certificates that the functions trust: Amazon RDS's for the region, with years to go, and no others."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

import functions
from stacks.database import CERTIFICATE_AUTHORITY
from stacks.settings import REGION

BUNDLE = Path(functions.__file__).with_name(f"rds-ca-{REGION}.pem")
TO_GO = timedelta(days=2 * 365)
# SHA-256 of each certificate; where they come from is in docs/decisions/0003.
FINGERPRINTS = {
    "RSA2048 G1": "97477e83609fc31e6312009830b36faeec32ad317f91531a21ace6448b6416c6",
    "RSA4096 G1": "969ed937f0f63f9fa703bea5089d2b3ea0164f32d843d26b2edd74f07b44df28",
    "ECC384 G1": "896ef0d9c66ac5ac46e12bcd8f44dc2065b9006983b8b3c3203a4ab951f63368",
}
CERTIFICATES = x509.load_pem_x509_certificates(BUNDLE.read_bytes())


def common_name(certificate: x509.Certificate) -> str:
    (name,) = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(name.value)


def test_the_bundle_holds_the_three_authorities_of_the_region_and_nothing_else() -> None:
    assert {common_name(each): each.fingerprint(hashes.SHA256()).hex() for each in CERTIFICATES} == {
        f"Amazon RDS {REGION} Root CA {name}": fingerprint for name, fingerprint in FINGERPRINTS.items()
    }
    assert BUNDLE.read_text().count("BEGIN") == len(FINGERPRINTS)


@pytest.mark.parametrize("certificate", CERTIFICATES, ids=common_name)
def test_a_certificate_has_two_years_to_go(certificate: x509.Certificate) -> None:
    assert certificate.not_valid_before_utc < datetime.now(UTC)
    assert certificate.not_valid_after_utc > datetime.now(UTC) + TO_GO, (
        "Ship the region's next bundle, and deploy it before the members change their authority."
    )


@pytest.mark.parametrize("certificate", CERTIFICATES, ids=common_name)
def test_a_certificate_is_a_root_authority_that_signed_itself(certificate: x509.Certificate) -> None:
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    certificate.verify_directly_issued_by(certificate)


def test_the_members_authority_is_among_them() -> None:
    algorithm, generation = CERTIFICATE_AUTHORITY.removeprefix("rds-ca-").split("-")
    assert f"{algorithm} {generation}".upper() in FINGERPRINTS
