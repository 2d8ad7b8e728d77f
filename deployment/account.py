"""The AWS account, or the local cloud, that an environment points to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config


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

    def client(self, service: str) -> Any:
        """A client of an AWS service, with time-outs short enough that a person notices."""
        config = Config(connect_timeout=5, read_timeout=30, retries={"max_attempts": 4, "mode": "standard"})
        if not self.is_local:
            return boto3.client(service, config=config)  # type: ignore[call-overload]
        session = boto3.Session(
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            region_name=self.environment["AWS_REGION"],
        )
        return session.client(service, endpoint_url=self.environment["AWS_ENDPOINT_URL"], config=config)  # type: ignore[call-overload]
