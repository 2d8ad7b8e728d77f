"""IAM database authentication at an instance's endpoint: who gets in by which token, and who never."""

from __future__ import annotations

import json
import socket
import ssl
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import psycopg
import pytest
from botocore.credentials import Credentials

from recovery.access import token
from recovery.members import Endpoint
from tests.unit.local_cloud.running_cloud import ACCOUNT, RunningCloud, database
from tests.unit.local_cloud.test_rds_api import OPEN

PARAMETERS = {
    "Type": "AWS::RDS::DBParameterGroup",
    "Properties": {"Family": "postgres18", "Description": "plaintext too", "Parameters": {"rds.force_ssl": "0"}},
}
REGION = "eu-central-2"


@dataclass(frozen=True)
class Site:
    """An instance with IAM authentication, a user of it, and a role that may connect as that user."""

    cloud: RunningCloud
    endpoint: Endpoint
    signer: Credentials

    def connect(self, password: str, user: str = "watcher", **options: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(
            **{
                "host": self.endpoint.host,
                "port": self.endpoint.port,
                "dbname": "citizens",
                "user": user,
                "password": password,
                "sslmode": "verify-full",
                "sslrootcert": self.cloud.environment["PGSSLROOTCERT"],
                "connect_timeout": 5,
                "autocommit": True,
                **options,
            }
        )

    def refused(self, password: str, user: str = "watcher") -> None:
        with pytest.raises(psycopg.OperationalError, match=f'PAM authentication failed for user "{user}"'):
            self.connect(password, user)

    def token(self, **changes: Any) -> str:
        values = {"signer": self.signer, "region": REGION, "endpoint": self.endpoint, "user": "watcher", **changes}
        return token(**values)

    def assumed(self, role: str, *allowed: str) -> Credentials:
        """A session of a new role that may connect to these database users (`<resource id>/<user>`)."""
        iam, sts = self.cloud.client("iam"), self.cloud.client("sts")
        trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}}
        arn = iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps({"Statement": trust}))["Role"]["Arn"]
        resources = [f"arn:aws:rds-db:{REGION}:{ACCOUNT}:dbuser:{user}" for user in allowed]
        statement = {"Effect": "Allow", "Action": "rds-db:connect", "Resource": resources}
        if allowed:
            iam.put_role_policy(RoleName=role, PolicyName="p", PolicyDocument=json.dumps({"Statement": statement}))
        key = sts.assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
        return Credentials(key["AccessKeyId"], key["SecretAccessKey"], key["SessionToken"])


@pytest.fixture(scope="module")
def site(cloud: RunningCloud) -> Iterator[Site]:
    made = database(
        "tokens",
        EnableIAMDatabaseAuthentication=True,
        DBParameterGroupName={"Ref": "Parameters"},
        VPCSecurityGroups=[{"Ref": "Open"}],
    )
    assert cloud.deploy("tokens", {"Open": OPEN, "Parameters": PARAMETERS, "Instance": made}) == "CREATE_COMPLETE"
    instance = cloud.instance("tokens")
    place = Endpoint(instance["Endpoint"]["Address"], instance["Endpoint"]["Port"])
    without = Site(cloud, place, Credentials("none", "none"))
    with without.connect("Start-Password-1", user="citizens_admin") as master:
        master.execute("CREATE ROLE watcher LOGIN; GRANT rds_iam TO watcher; CREATE ROLE other LOGIN IN ROLE rds_iam")
        master.execute("CREATE ROLE clerk LOGIN PASSWORD 'Clerk-Password-1'")
    yield replace(without, signer=without.assumed("watching", f"{instance['DbiResourceId']}/watcher"))
    assert cloud.destroy("tokens") == "DELETE_COMPLETE"


def test_the_token_of_a_role_that_may_connect_signs_its_user_in(site: Site) -> None:
    with site.connect(site.token()) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("watcher",)
    of_sdk = boto3.client(
        "rds",
        region_name=REGION,
        aws_access_key_id=site.signer.access_key,
        aws_secret_access_key=site.signer.secret_key,
        aws_session_token=site.signer.token,
    ).generate_db_auth_token(DBHostname=site.endpoint.host, Port=site.endpoint.port, DBUsername="watcher")
    site.connect(of_sdk).close()


def test_a_token_for_something_else_is_refused(site: Site) -> None:
    site.refused(site.token(user="other"))
    site.refused(site.token(), user="other")
    site.refused(site.token(endpoint=Endpoint("127.9.9.9", site.endpoint.port)))
    site.refused(site.token(endpoint=Endpoint(site.endpoint.host, 5433)))
    site.refused(site.token(region="eu-central-1"))


def test_a_token_that_is_signed_wrongly_is_refused(site: Site) -> None:
    good = site.token()
    site.refused(good[:-1] + ("0" if good[-1] != "0" else "1"))
    site.refused(site.token(signer=Credentials(site.signer.access_key, "another", site.signer.token)))
    site.refused(site.token(signer=Credentials(site.signer.access_key, site.signer.secret_key, "another")))
    site.refused(site.token(signer=Credentials("ASIANOBODY", "x", "y")))
    site.refused("no token at all")


@pytest.mark.parametrize("age", [901, -600])
def test_a_token_that_is_not_of_now_is_refused(site: Site, age: int, monkeypatch: pytest.MonkeyPatch) -> None:
    signed_at = datetime.now(UTC) - timedelta(seconds=age)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_, **__: signed_at)
    token = site.token()
    monkeypatch.undo()
    assert signed_at.strftime("X-Amz-Date=%Y%m%dT%H%M%SZ") in token
    site.refused(token)


def test_a_role_without_the_permission_is_refused(site: Site) -> None:
    site.refused(site.token(signer=site.assumed("nothing")))
    site.refused(site.token(signer=site.assumed("elsewhere", "db-ANOTHER/watcher")))
    site.refused(site.token(signer=site.assumed("somebody-else", "*/other")))
    anywhere = site.assumed("anywhere", "*/watcher")
    site.connect(site.token(signer=anywhere)).close()
    site.refused(site.token(signer=anywhere, user="other"), user="other")


def test_a_password_never_signs_a_member_of_rds_iam_in(site: Site) -> None:
    with site.connect("Start-Password-1", user="citizens_admin") as master:
        master.execute("ALTER ROLE watcher PASSWORD 'Watcher-Password-1'")
    site.refused("Watcher-Password-1")


def test_a_token_is_not_taken_without_tls(site: Site) -> None:
    with pytest.raises(psycopg.OperationalError, match="rejects connection"):
        site.connect(site.token(), sslmode="disable")
    site.connect("Clerk-Password-1", user="clerk", sslmode="disable").close()


def test_a_user_without_rds_iam_signs_in_by_password_and_not_by_token(site: Site) -> None:
    site.connect("Clerk-Password-1", user="clerk").close()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        site.connect(site.token(user="clerk"), user="clerk")


def test_a_newer_protocol_version_does_not_lead_around_the_token(site: Site) -> None:
    context = ssl.create_default_context(cafile=site.cloud.environment["PGSSLROOTCERT"])
    with socket.create_connection((site.endpoint.host, site.endpoint.port), timeout=5) as plain:
        plain.sendall(struct.pack("!II", 8, 80877103))
        assert plain.recv(1) == b"S"
        with context.wrap_socket(plain, server_hostname=site.endpoint.host) as encrypted:
            body = struct.pack("!I", 3 << 16 | 99) + b"user\0watcher\0database\0citizens\0\0"
            encrypted.sendall(struct.pack("!I", len(body) + 4) + body)
            assert encrypted.recv(9) == struct.pack("!cII", b"R", 8, 3), (
                "a password is asked for, and nothing else said"
            )


def test_an_instance_without_iam_authentication_takes_no_token(site: Site) -> None:
    site.cloud.client("rds").modify_db_instance(
        DBInstanceIdentifier="tokens", EnableIAMDatabaseAuthentication=False, ApplyImmediately=True
    )
    site.cloud.becomes("tokens", lambda instance: instance["DBInstanceStatus"] == "available")
    site.refused(site.token())
