"""What an exercise finds out about the environment it works in."""

from __future__ import annotations

import time

from moto import mock_aws

from deployment.account import Account
from privilege.site import Site

GROUP = "/aws/lambda/citizens-witness-a-here"
ACCOUNT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


@mock_aws
def test_a_functions_new_log_is_found_behind_more_old_ones_than_an_answer_holds() -> None:
    site = Site(Account(ACCOUNT), {"EnvironmentSuffix": "here"})
    logs = site.client("logs")
    logs.create_log_group(logGroupName=GROUP)
    for number in range(60):
        logs.create_log_stream(logGroupName=GROUP, logStreamName=f"a{number:02}")
    site.renewed["witness-a"] = time.time() * 1000
    logs.create_log_stream(logGroupName=GROUP, logStreamName="b")
    assert not site.has_logged("witness-a"), "an environment that is at work yet"
    event = {"timestamp": int(site.renewed["witness-a"]) + 1, "message": '{"type": "platform.report"}'}
    logs.put_log_events(logGroupName=GROUP, logStreamName="b", logEvents=[event])
    assert site.has_logged("witness-a")
