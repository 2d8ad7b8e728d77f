"""Clients of AWS and of the database, made when first needed and kept while the function stays warm."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any, cast

import boto3
from botocore.config import Config
from botocore.exceptions import NoCredentialsError

from functions.environment import Environment, required
from recovery.access import Access, token
from recovery.connection import Database, verify_full
from recovery.members import Endpoint
from recovery.table import RecoveryTable

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_rds import RDSClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_stepfunctions import SFNClient

CONNECT_SECONDS = 1.0
READ_SECONDS = 2.0
ATTEMPTS = 2
"""A hanging API costs six seconds at most: detection and every state of the machine go on without it."""

_making = threading.Lock()


@functools.cache
def _client(service: str) -> Any:
    with _making:  # boto3's default session is not safe to make clients from in two threads at once
        return boto3.client(
            service,  # type: ignore[call-overload]
            config=Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
            ),
        )


def dynamodb() -> DynamoDBClient:
    """DynamoDB."""
    return cast("DynamoDBClient", _client("dynamodb"))


def secretsmanager() -> SecretsManagerClient:
    """Secrets Manager."""
    return cast("SecretsManagerClient", _client("secretsmanager"))


def stepfunctions() -> SFNClient:
    """Step Functions."""
    return cast("SFNClient", _client("stepfunctions"))


def cloudwatch() -> CloudWatchClient:
    """CloudWatch."""
    return cast("CloudWatchClient", _client("cloudwatch"))


def rds() -> RDSClient:
    """RDS."""
    return cast("RDSClient", _client("rds"))


def s3() -> S3Client:
    """S3."""
    return cast("S3Client", _client("s3"))


def table(environment: Environment) -> RecoveryTable:
    """The recovery table."""
    return RecoveryTable(dynamodb(), environment.table)


@functools.cache
def _database(name: str, ca_file: str) -> Database:
    return Database(name, verify_full(ca_file))


def database(environment: Environment) -> Database:
    """The members' database, over verify-full TLS."""
    return _database(environment.database, environment.ca_file)


def access(environment: Environment) -> Access:
    """Access as the function's own database user, by tokens that are signed with its role's credentials."""
    return Access(database(environment), required("DATABASE_USER"), _token)


def _token(endpoint: Endpoint, user: str) -> str:
    session = boto3.session.Session()
    signer = session.get_credentials()
    if signer is None:
        raise NoCredentialsError
    return token(signer, str(session.region_name), endpoint, user)
