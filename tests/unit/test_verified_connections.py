"""Whatever our code connects to, it verifies: found in the code itself, so that a new connection is found too."""

from __future__ import annotations

import ast
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from recovery.connection import verify_full

ROOT = Path(__file__).resolve().parents[2]
# All but the local cloud, which is the other end; what it runs as a service is tested there.
PACKAGES = ("recovery", "functions", "deployment", "drills", "benchmarks", "stacks")
# Patroni's servers, on this machine's loopback for a benchmark, speak no TLS; no data of ours is there (decision 56).
PATRONI = ROOT / "benchmarks" / "patroni.py"
LESS_THAN_VERIFY_FULL = {"disable", "allow", "prefer", "require", "verify-ca"}
UNVERIFIED = {"CERT_NONE", "CERT_OPTIONAL", "_create_unverified_context", "_create_default_https_context"}
DRIVERS = {"psycopg", "pg8000", "asyncpg", "psycopg2"}


def trees() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            if file == PATRONI:
                continue
            yield str(file.relative_to(ROOT)), ast.parse(file.read_text(encoding="utf-8"))


def findings(name: str, tree: ast.Module) -> Iterator[str]:
    """What in a module could let an unverified or plaintext connection through."""
    for node in ast.walk(tree):
        where = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Attribute | ast.Name):
            identifier = node.attr if isinstance(node, ast.Attribute) else node.id
            if identifier in UNVERIFIED:
                yield f"{where} uses {identifier}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            if "sslmode=" in text and "sslmode=verify-full" not in text:
                yield f"{where} names a weaker sslmode: {text!r}"
            if text.startswith("http://"):
                yield f"{where} names a plaintext address: {text!r}"
        elif isinstance(node, ast.Call):
            yield from _call(where, node)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Attribute) and target.attr in ("check_hostname", "verify_mode"):
                    yield f"{where} changes {target.attr}"


def _call(where: str, node: ast.Call) -> Iterator[str]:
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    called = ast.unparse(node.func)
    mode = given.get("sslmode")
    if isinstance(mode, ast.Constant) and mode.value in LESS_THAN_VERIFY_FULL:
        yield f"{where} connects with sslmode {mode.value}"
    for option in ("verify", "use_ssl"):
        value = given.get(option)
        if isinstance(value, ast.Constant) and value.value is False:
            yield f"{where} passes {option}=False"
    if called == "psycopg.connect":
        if "sslrootcert" not in given:
            yield f"{where} connects without naming the authority it trusts"
        if not node.args and mode is None:
            yield f"{where} connects without sslmode"
    elif called == "Connection" and "sock" not in given:
        yield f"{where} lets the driver connect instead of handing it a verified socket"


def test_no_connection_of_ours_is_less_than_verified() -> None:
    assert [finding for name, tree in trees() for finding in findings(name, tree)] == []


def test_connections_are_opened_where_they_are_verified_and_nowhere_else() -> None:
    """The driver is imported in these modules alone; another one would need a look of its own.

    The benchmark opens a server of its own, over a socket in a private folder, past the endpoint and its TLS.
    """
    connecting = {
        name
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("psycopg.connect", "Connection", *(f"{driver}.connect" for driver in DRIVERS))
    }
    assert connecting == {
        *("recovery/connection.py", "drills/client.py", "drills/rewind.py", "benchmarks/transaction_log.py")
    }


@pytest.mark.parametrize(
    "code",
    [
        "psycopg.connect(host='h', sslmode='require', sslrootcert='f')",
        "psycopg.connect(host='h', sslrootcert='f')",
        "psycopg.connect('postgresql://h', user='u')",
        "uri = 'postgresql://h/?sslmode=prefer'",
        "context.check_hostname = False",
        "context.verify_mode = ssl.CERT_NONE",
        "ssl._create_unverified_context()",
        "boto3.client('rds', verify=False)",
        "boto3.client('rds', use_ssl=False)",
        "urlopen('http://somewhere')",
        "Connection(user='u', host='h')",
    ],
)
def test_an_unverified_connection_would_be_found(code: str) -> None:
    assert list(findings("module.py", ast.parse(code)))


def test_the_functions_context_checks_chain_host_and_protocol() -> None:
    context = verify_full(str(ROOT / "functions" / "rds-ca-eu-central-2.pem"))
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    # The bundle's authorities and none of the operating system's
    assert len(context.get_ca_certs()) == 3
