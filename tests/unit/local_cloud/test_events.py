import json
from datetime import UTC, datetime
from typing import Any

import pytest

from local_cloud.events import wants
from local_cloud.fleet import RdsEvent
from tests.unit.local_cloud.running_cloud import ACCOUNT, RunningCloud, database, eventually

LISTENER = """
import json

def handler(event, context):
    print("got", json.dumps(event))
"""
EVENT = RdsEvent("one", "RDS-EVENT-0031", ("failure",), "lost", datetime(2026, 11, 23, tzinfo=UTC))


def logged(cloud: RunningCloud, function: str) -> str:
    logs = cloud.client("logs")
    group = f"/aws/lambda/{function}"
    if not logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]:
        return ""
    return " ".join(event["message"] for event in logs.filter_log_events(logGroupName=group)["events"])


@pytest.fixture(scope="module")
def listener(cloud: RunningCloud) -> str:
    actions = ("logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents")
    arn = cloud.function("listener", LISTENER, *actions)
    for principal in ("events", "sns"):
        cloud.client("lambda").add_permission(
            FunctionName="listener",
            StatementId=principal,
            Action="lambda:InvokeFunction",
            Principal=f"{principal}.amazonaws.com",
        )
    return arn


def test_the_loss_of_an_instance_reaches_the_history_the_bus_and_the_subscribers(
    cloud: RunningCloud, listener: str
) -> None:
    events = cloud.client("events")
    arn = f"arn:aws:rds:eu-central-2:{ACCOUNT}:db:eventful"
    kinds = {"source": ["aws.rds"], "detail-type": ["RDS DB Instance Event"], "detail": {"SourceArn": [arn]}}
    pattern = json.dumps(kinds)
    events.put_rule(Name="rds", EventPattern=pattern)
    events.put_targets(Rule="rds", Targets=[{"Id": "one", "Arn": listener}])
    topic = cloud.client("sns").create_topic(Name="events")["TopicArn"]
    cloud.client("sns").subscribe(TopicArn=topic, Protocol="lambda", Endpoint=listener)
    subscription = {"SnsTopicArn": topic, "SourceType": "db-instance", "SourceIds": ["eventful"]}
    resources: dict[str, Any] = {
        "Eventful": database("eventful"),
        "Subscription": {"Type": "AWS::RDS::EventSubscription", "Properties": subscription},
    }
    assert cloud.deploy("events", resources) == "CREATE_COMPLETE"
    before = cloud.control("GET", "/delays")[1]
    cloud.control("PUT", "/delays", {"failed_after_seconds": 0.1})
    cloud.control("POST", "/rds/eventful/lose")
    eventually(lambda: "RDS-EVENT-0031" in logged(cloud, "listener"), 20)
    eventually(lambda: "RDS Notification Message" in logged(cloud, "listener"), 20)
    described = cloud.client("rds").describe_events(
        SourceType="db-instance", SourceIdentifier="eventful", Duration=5, EventCategories=["failure"]
    )["Events"]
    assert [event["SourceArn"] for event in described] == [arn]
    cloud.control("PUT", "/delays", before)
    assert cloud.destroy("events") == "DELETE_COMPLETE"
    cloud.client("sns").delete_topic(TopicArn=topic)
    events.remove_targets(Rule="rds", Ids=["one"])
    events.delete_rule(Name="rds")


@pytest.mark.parametrize(
    ("subscription", "wanted"),
    [
        ({}, True),
        ({"EventCategories": ["failure"]}, True),
        ({"EventCategories": ["failover"]}, False),
        ({"SourceIds": ["two"]}, False),
        ({"SourceType": "db-cluster"}, False),
        ({"Enabled": False}, False),
    ],
)
def test_a_subscription_chooses_its_events(subscription: dict[str, Any], wanted: bool) -> None:
    assert wants(subscription, EVENT) is wanted
