"""What status asks AWS for, and what it makes of the answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from moto import mock_aws

from deployment.account import Account
from drctl.place import Place
from drctl.sources import Sources
from stacks.names import METRICS_NAMESPACE

HOURS = timedelta(hours=1)
MINUTES = timedelta(minutes=1)


@mock_aws
@pytest.mark.parametrize(
    ("verdicts", "shown"),
    [
        ({3 * MINUTES: 2, 1 * MINUTES: 0}, "OK"),
        ({3 * MINUTES: 0, 1 * MINUTES: 2}, "FAILURE"),
        ({20 * HOURS: 0, 8 * HOURS: 1}, "WARNING"),
        ({}, None),
    ],
)
def test_the_newest_verdict_of_the_log_counts_and_no_worse_one_before_it(
    verdicts: dict[timedelta, int], shown: str | None
) -> None:
    account = Account({"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "eu-central-2"})
    now = datetime.now(UTC)
    for age, verdict in verdicts.items():
        account.client("cloudwatch").put_metric_data(
            Namespace=METRICS_NAMESPACE,
            MetricData=[
                {
                    "MetricName": "LogVerdict",
                    "Dimensions": [{"Name": "Suffix", "Value": "here"}],
                    "Timestamp": now - age,
                    "Value": verdict,
                }
            ],
        )
    assert Sources(Place(account, "here"), "").log().verdict == shown
