"""TLS in front of the AWS APIs: what a policy says of `aws:SecureTransport` holds for how a call really came."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, SSLError

from local_cloud.certificates import CertificateAuthority
from tests.unit.local_cloud.running_cloud import RunningCloud


def client(cloud: RunningCloud, service: str, endpoint: str, authority: str) -> Any:
    return boto3.client(
        service,  # type: ignore[call-overload]
        endpoint_url=endpoint,
        verify=authority,
        region_name=cloud.environment["AWS_REGION"],
        aws_access_key_id=cloud.environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=cloud.environment["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}),
    )


def in_the_clear(cloud: RunningCloud, service: str) -> Any:
    plain = cloud.environment["LOCAL_CLOUD_URL"].removesuffix("/_local")
    return client(cloud, service, plain, cloud.environment["AWS_CA_BUNDLE"])


def tls_only(action: str, resource: str) -> str:
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": action,
        "Resource": resource,
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def test_a_topic_whose_policy_wants_tls_refuses_the_same_call_without(cloud: RunningCloud) -> None:
    encrypted = cloud.client("sns")
    topic = encrypted.create_topic(Name="tls-only")["TopicArn"]
    in_the_clear(cloud, "sns").publish(TopicArn=topic, Message="no policy yet")
    encrypted.set_topic_attributes(
        TopicArn=topic, AttributeName="Policy", AttributeValue=tls_only("sns:Publish", topic)
    )
    with pytest.raises(ClientError, match="not authorized to perform: sns:Publish"):
        in_the_clear(cloud, "sns").publish(TopicArn=topic, Message="m")
    assert encrypted.publish(TopicArn=topic, Message="m")["MessageId"]
    encrypted.delete_topic(TopicArn=topic)


def test_a_queue_whose_policy_wants_tls_refuses_the_same_call_without(cloud: RunningCloud) -> None:
    encrypted = cloud.client("sqs")
    queue = encrypted.create_queue(QueueName="tls-only")["QueueUrl"]
    in_the_clear(cloud, "sqs").send_message(QueueUrl=queue, MessageBody="no policy yet")
    arn = encrypted.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    encrypted.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": tls_only("sqs:*", arn)})
    with pytest.raises(ClientError, match="AccessDenied"):
        in_the_clear(cloud, "sqs").send_message(QueueUrl=queue, MessageBody="m")
    assert encrypted.send_message(QueueUrl=queue, MessageBody="m")["MessageId"]
    encrypted.delete_queue(QueueUrl=queue)


def test_the_endpoint_is_not_trusted_by_another_authority(cloud: RunningCloud, authority: CertificateAuthority) -> None:
    stranger = client(cloud, "sts", cloud.environment["AWS_ENDPOINT_URL"], str(authority.bundle))
    with pytest.raises(SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        stranger.get_caller_identity()


def test_plain_http_is_not_understood_where_tls_is_spoken(cloud: RunningCloud) -> None:
    address = cloud.environment["AWS_ENDPOINT_URL"].replace("https", "http")
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        urllib.request.urlopen(address, timeout=5)


def test_the_certificate_names_the_endpoints_address(cloud: RunningCloud) -> None:
    context = ssl.create_default_context(cafile=cloud.environment["AWS_CA_BUNDLE"])
    with pytest.raises(urllib.error.HTTPError) as answered:
        urllib.request.urlopen(f"{cloud.environment['AWS_ENDPOINT_URL']}/none", timeout=5, context=context)
    assert answered.value.code in (400, 403, 404)
