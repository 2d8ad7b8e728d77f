"""A local cloud in a process of its own, as the command line starts it, and what tests do to it."""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

ACCOUNT = "111122223333"
TEMPLATE_BUCKET = "templates"


@dataclass
class RunningCloud:
    """Clients of one running local cloud."""

    state: Path
    environment: Mapping[str, str]
    _clients: dict[str, Any] = field(default_factory=dict)

    def client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = boto3.client(
                service,  # type: ignore[call-overload]
                endpoint_url=self.environment["AWS_ENDPOINT_URL"],
                verify=self.environment["AWS_CA_BUNDLE"],
                region_name=self.environment["AWS_REGION"],
                aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            )
        return self._clients[service]

    def control(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.environment["LOCAL_CLOUD_URL"] + path, method=method, data=data)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def deploy(self, stack: str, resources: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> str:
        """Create or update a stack; returns the status it ends in."""
        formation = self.client("cloudformation")
        body = template(resources, outputs)
        exists = any(
            found["StackName"] == stack and found["StackStatus"] not in ("DELETE_COMPLETE", "ROLLBACK_COMPLETE")
            for found in formation.list_stacks()["StackSummaries"]
        )
        act = formation.update_stack if exists else formation.create_stack
        act(StackName=stack, TemplateBody=body, Capabilities=["CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"])
        return self.settled(stack)

    def settled(self, stack: str) -> str:
        def done() -> str | None:
            status: str = self.stack(stack)["StackStatus"]
            return None if status.endswith("IN_PROGRESS") else status

        return str(eventually(done, 40))

    def stack(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
        return found

    def outputs(self, stack: str) -> dict[str, str]:
        return {output["OutputKey"]: output["OutputValue"] for output in self.stack(stack).get("Outputs", [])}

    def physical_id(self, stack: str, logical_id: str) -> str:
        resources = self.client("cloudformation").describe_stack_resources(StackName=stack)["StackResources"]
        return str(next(r["PhysicalResourceId"] for r in resources if r["LogicalResourceId"] == logical_id))

    def failure(self, stack: str) -> str:
        """All reasons of failures of a stack and its resources."""
        events = self.client("cloudformation").describe_stack_events(StackName=stack)["StackEvents"]
        return " ".join(
            event.get("ResourceStatusReason", "") for event in events if event["ResourceStatus"].endswith("FAILED")
        )

    def destroy(self, stack: str) -> str:
        self.client("cloudformation").delete_stack(StackName=stack)
        stack_id = next(
            found["StackId"]
            for found in self.client("cloudformation").list_stacks()["StackSummaries"]
            if found["StackName"] == stack
        )
        return self.settled(stack_id)

    def template_url(self, name: str, resources: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> str:
        """Upload a nested stack's template."""
        storage = self.client("s3")
        if TEMPLATE_BUCKET not in [bucket["Name"] for bucket in storage.list_buckets()["Buckets"]]:
            storage.create_bucket(
                Bucket=TEMPLATE_BUCKET, CreateBucketConfiguration={"LocationConstraint": self.environment["AWS_REGION"]}
            )
        storage.put_object(Bucket=TEMPLATE_BUCKET, Key=name, Body=template(resources, outputs).encode())
        return f"{self.environment['AWS_ENDPOINT_URL']}/{TEMPLATE_BUCKET}/{name}"

    def role(self, name: str, service: str, *actions: str) -> str:
        trust = {"Statement": {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": service}}}
        allowed = {"Statement": {"Effect": "Allow", "Action": list(actions), "Resource": "*"}}
        iam = self.client("iam")
        arn = str(iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"])
        iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=json.dumps(allowed))
        return arn

    def function(self, name: str, source: str, *actions: str) -> str:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as code:
            code.writestr("app.py", source)
        created = self.client("lambda").create_function(
            FunctionName=name,
            Runtime="python3.14",
            Handler="app.handler",
            Timeout=10,
            Role=self.role(f"{name}-role", "lambda.amazonaws.com", *actions),
            Code={"ZipFile": archive.getvalue()},
        )
        return str(created["FunctionArn"])

    def instance(self, identifier: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client("rds").describe_db_instances(DBInstanceIdentifier=identifier)[
            "DBInstances"
        ][0]
        return found

    def becomes(self, identifier: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        eventually(lambda: condition(self.instance(identifier)))
        return self.instance(identifier)


def template(resources: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> str:
    shown = {name: {"Value": value} for name, value in (outputs or {}).items()}
    return json.dumps({"Resources": resources, **({"Outputs": shown} if shown else {})})


def eventually(condition: Callable[[], Any], seconds: float = 15) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
    return value


def database(identifier: str, **properties: Any) -> dict[str, Any]:
    """An AWS::RDS::DBInstance with what it needs."""
    return {
        "Type": "AWS::RDS::DBInstance",
        "DeletionPolicy": "Delete",
        "Properties": {
            "DBInstanceIdentifier": identifier,
            "DBInstanceClass": "db.t4g.medium",
            "Engine": "postgres",
            "EngineVersion": "18.6",
            "AllocatedStorage": "20",
            "DBName": "citizens",
            "MasterUsername": "citizens_admin",
            "MasterUserPassword": "Start-Password-1",
            **properties,
        },
    }


def replica(identifier: str, source: Any, **properties: Any) -> dict[str, Any]:
    return {
        "Type": "AWS::RDS::DBInstance",
        "DeletionPolicy": "Delete",
        "Properties": {
            "DBInstanceIdentifier": identifier,
            "DBInstanceClass": "db.t4g.medium",
            "SourceDBInstanceIdentifier": source,
            **properties,
        },
    }
