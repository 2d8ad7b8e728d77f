"""The AWS account, or the local cloud, that an environment points to."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config

from stacks.settings import REGION

# Where global services answer, whatever region is meant.
GLOBAL_REGION = "us-east-1"


@dataclass(frozen=True)
class Account:
    """Makes boto3 clients for what an environment names: endpoint, credentials, region.

    Passed on explicitly, because a program that rehearses in the local cloud must never fall back to the credentials
    of a real account.
    """

    environment: Mapping[str, str]

    @property
    def is_local(self) -> bool:
        """Whether this is the local cloud."""
        return "LOCAL_CLOUD_URL" in self.environment

    def has_credentials(self) -> bool:
        """Whether there are any to sign requests with, wherever AWS's own tools look for them."""
        return self.is_local or boto3.Session().get_credentials() is not None

    def client(self, service: str, region: str = REGION, *, patience: float = 30, attempts: int = 5) -> Any:
        """A client of an AWS service, with time-outs short enough that a person notices; `patience` (seconds) for an
        answer to each of so many `attempts`.

        The region is the system's, never the caller's default one: names asked for elsewhere would not be found.
        """
        config = Config(
            connect_timeout=min(5, patience),
            read_timeout=patience,
            retries={"total_max_attempts": attempts, "mode": "standard"},
        )
        if not self.is_local:
            return boto3.client(service, region_name=region, config=config)  # type: ignore[call-overload]
        session = _local_session(self.environment["AWS_ACCESS_KEY_ID"], self.environment["AWS_SECRET_ACCESS_KEY"])
        return session.client(
            service,  # type: ignore[call-overload]
            region_name=region,
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            verify=self.environment["AWS_CA_BUNDLE"],
            config=config,
        )


@functools.lru_cache
def _local_session(access_key: str, secret_key: str) -> boto3.Session:
    """One session for all clients: each new one would read the services' descriptions again."""
    return boto3.Session(aws_access_key_id=access_key, aws_secret_access_key=secret_key)
