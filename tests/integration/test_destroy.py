"""A destroy leaves nothing of its suffix, whatever had happened before it, and can be run again after anything."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from deployment import local, remains
from deployment.account import Account
from deployment.cdk import ROOT, Cdk
from deployment.destruction import Destruction, confirm
from deployment.problem import Problem
from drills.client import Application
from drills.scenarios import post
from tests.integration.conftest import Cloud, eventually
from tests.integration.test_commands import run

pytestmark = pytest.mark.breaks_the_machine


@dataclass(frozen=True)
class Environment:
    """A deployed environment of a test of its own."""

    cloud: Cloud
    cdk: Cdk
    outputs: dict[str, str]

    @property
    def account(self) -> Account:
        return Account(self.cloud.environment)

    def client(self, service: str) -> Any:
        return self.account.client(service)

    @property
    def suffix(self) -> str:
        return self.cdk.suffix

    @property
    def application(self) -> Application:
        return Application(self.account, self.outputs)

    def destroy(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        state = str(self.cloud.state)
        command = ("deployment", "destroy", "--local", "--suffix", self.suffix, "--state", state, *arguments)
        return run(*command, environment=variables)

    def secret(self) -> dict[str, Any]:
        answer = self.client("secretsmanager").get_secret_value(SecretId=self.outputs["SecretName"])
        return dict(json.loads(answer["SecretString"]))

    def back_up(self, resource: str) -> None:
        self.client("backup").start_backup_job(
            BackupVaultName=self.outputs["BackupVaultName"],
            ResourceArn=resource,
            IamRoleArn=f"arn:aws:iam::111122223333:role/citizens-backup-{self.suffix}",
        )

    def member_arn(self, number: int) -> str:
        return f"arn:aws:rds:eu-central-2:111122223333:db:{self.outputs[f'Member{number}Identifier']}"

    def status(self, number: int) -> str | None:
        rds = self.client("rds")
        try:
            found = rds.describe_db_instances(DBInstanceIdentifier=self.outputs[f"Member{number}Identifier"])
        except rds.exceptions.DBInstanceNotFoundFault:
            return None
        return str(found["DBInstances"][0]["DBInstanceStatus"])


def deploy(cloud: Cloud, **variables: str) -> Environment:
    suffix = f"des-{secrets.token_hex(2)}"
    cdk = Cdk(suffix, {**cloud.environment, **variables}, cloud.state / "destroy.log")
    cdk.synth()
    local.play_agency(cloud.environment, suffix)
    return Environment(cloud, cdk, cdk.deploy())


@pytest.fixture
def environment(cloud: Cloud) -> Iterator[Environment]:
    deployed = deploy(cloud)
    yield deployed
    deployed.cdk.discard()


def test_a_destroy_that_was_interrupted_and_stood_in_front_of_an_interface_leaves_nothing(
    environment: Environment,
) -> None:
    """With recovery points in the vault, a rotated secret, a snapshot, and an interface that is released late."""
    first = environment.secret()
    environment.back_up(environment.member_arn(1))
    environment.back_up(
        environment.client("dynamodb").describe_table(TableName=environment.outputs["RecoveryTableName"])["Table"][
            "TableArn"
        ]
    )
    rds, member = environment.client("rds"), environment.outputs["Member1Identifier"]
    rds.create_db_snapshot(DBInstanceIdentifier=member, DBSnapshotIdentifier=f"{member}-before-a-change")
    restored = f"citizens-restored-{environment.suffix}"
    rds.restore_db_instance_to_point_in_time(
        SourceDBInstanceIdentifier=member,
        TargetDBInstanceIdentifier=restored,
        UseLatestRestorableTime=True,
    )
    environment.client("secretsmanager").rotate_secret(SecretId=environment.outputs["SecretArn"])
    eventually(lambda: environment.secret()["password"] != first["password"], 60, "a rotated secret")
    rotated = environment.secret()
    ec2 = environment.client("ec2")
    vpc = [{"Name": "vpc-id", "Values": [environment.outputs["VpcId"]]}]
    subnet = ec2.describe_subnets(Filters=vpc)["Subnets"][0]["SubnetId"]
    groups = {g["GroupName"]: g["GroupId"] for g in ec2.describe_security_groups(Filters=vpc)["SecurityGroups"]}
    interface = ec2.create_network_interface(
        SubnetId=subnet,
        Groups=[groups[f"citizens-functions-{environment.suffix}"]],
        Description=f"AWS Lambda VPC ENI-citizens-probe-{environment.suffix}-0",
    )["NetworkInterface"]["NetworkInterfaceId"]

    backup, formation = environment.client("backup"), environment.client("cloudformation")
    with pytest.raises(backup.exceptions.InvalidRequestException, match="contains recovery points"):
        backup.delete_backup_vault(BackupVaultName=environment.outputs["BackupVaultName"])

    interrupt(environment)
    assert formation.describe_stacks(StackName=f"citizens-dr-{environment.suffix}")["Stacks"]
    assert remains.of(environment.account, environment.suffix) != []

    output = released_when_waited_for(environment, lambda: ec2.delete_network_interface(NetworkInterfaceId=interface))
    assert f"Waiting for 1 network interfaces to be released: {interface}" in output
    assert "DependencyViolation" in output
    assert f"Destroyed {environment.suffix}: nothing is left" in output
    assert remains.of(environment.account, environment.suffix) == []
    # The agency's own secret is as it was rotated; where the database was goes with the attachment.
    assert {name: rotated[name] for name in ("username", "password")} == environment.secret()
    described = environment.client("secretsmanager").describe_secret(SecretId=environment.outputs["SecretName"])
    assert not described.get("RotationEnabled")

    # What a late log line makes again goes with the next run; what is nobody's to delete is listed.
    logs, group = environment.client("logs"), f"/aws/lambda/citizens-probe-{environment.suffix}"
    logs.create_log_group(logGroupName=group)
    stray = environment.client("sns").create_topic(Name=f"citizens-stray-{environment.suffix}")["TopicArn"]
    done = environment.destroy()
    assert done.returncode == 1
    assert f"topic {stray}" in done.stderr
    assert remains.of(environment.account, environment.suffix) == [f"topic {stray}"]
    environment.client("sns").delete_topic(TopicArn=stray)


def started(environment: Environment) -> subprocess.Popen[str]:
    command = ["destroy", "--local", "--suffix", environment.suffix, "--state", str(environment.cloud.state)]
    return subprocess.Popen(
        [sys.executable, "-m", "deployment", *command],
        cwd=ROOT,
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def read_until(process: subprocess.Popen[str], text: str) -> str:
    output = ""
    assert process.stdout is not None
    for line in process.stdout:
        output += line
        if text in line:
            return output
    raise AssertionError(f"{text!r} was not said:\n{output}")


def released_when_waited_for(environment: Environment, release: Callable[[], object]) -> str:
    """Destroy, and release what stands in the way as soon as the command says that it waits for it."""
    process = started(environment)
    output = read_until(process, "Waiting for 1 network interfaces")
    release()
    assert process.stdout is not None
    output += process.stdout.read()
    assert process.wait(timeout=120) == 0, output
    return output


def interrupt(environment: Environment) -> None:
    """Ctrl-C at a destroy when CloudFormation has begun."""
    process = started(environment)
    output = read_until(process, "destroying...")
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    assert process.stdout is not None
    output += process.stdout.read()
    assert process.wait(timeout=60) == 130, output
    assert "run the same command again" in output
    assert "Traceback" not in output
    assert "Deleting 2 recovery points" in output


def test_a_destroy_after_a_reprotect_leaves_nothing(environment: Environment) -> None:
    """The second member is the primary; the first was deleted and made again, under its identifier, as its replica."""
    rds = environment.client("rds")
    first, second = (environment.outputs[f"Member{n}Identifier"] for n in (1, 2))
    rds.promote_read_replica(DBInstanceIdentifier=second)
    eventually(lambda: is_primary(environment, 2), 60, "the promotion")
    before = rds.describe_db_instances(DBInstanceIdentifier=first)["DBInstances"][0]
    rds.delete_db_instance(DBInstanceIdentifier=first, FinalDBSnapshotIdentifier=f"{first}-for-forensics")
    eventually(lambda: environment.status(1) is None, 60, "the end of the lost member")
    rds.create_db_instance_read_replica(
        DBInstanceIdentifier=first,
        SourceDBInstanceIdentifier=second,
        MultiAZ=True,
        VpcSecurityGroupIds=[group["VpcSecurityGroupId"] for group in before["VpcSecurityGroups"]],
    )
    eventually(lambda: environment.status(1) == "available", 60, "the new standby")
    said: list[str] = []
    outcome = Destruction(environment.account, environment.cdk, protect=False, announce=said.append).run()
    assert (outcome.kept, outcome.left) == ((), ())
    assert f"Deleting the snapshot {first}-for-forensics" in said
    assert remains.of(environment.account, environment.suffix) == []
    assert environment.secret()["password"]


def is_primary(environment: Environment, number: int) -> bool:
    rds = environment.client("rds")
    found = rds.describe_db_instances(DBInstanceIdentifier=environment.outputs[f"Member{number}Identifier"])
    member = found["DBInstances"][0]
    return member["DBInstanceStatus"] == "available" and not member.get("ReadReplicaSourceDBInstanceIdentifier")


@pytest.fixture
def protected(cloud: Cloud) -> Iterator[Environment]:
    deployed = deploy(cloud, PROTECT="true")
    yield deployed
    deployed.cdk.discard()


def test_a_protected_environment_goes_only_when_confirmed_and_its_data_stays(protected: Environment) -> None:
    """Deployed with PROTECT, destroyed without: what counts is what protects the deployed environment. The first
    member is lost, so the newest data is in the second, which CloudFormation takes for a replica."""
    protected.back_up(protected.member_arn(2))
    refused = protected.destroy()
    assert refused.returncode == 1
    assert "Nothing was destroyed" in refused.stderr
    assert "termination protection" in refused.stdout
    wrong = protected.destroy("--yes-destroy", "another")
    assert wrong.returncode == 1
    assert "'another' is not its suffix" in wrong.stderr
    assert protected.status(1) == protected.status(2) == "available"

    rds = protected.client("rds")
    with pytest.raises(rds.exceptions.ClientError, match="DeletionProtection"):
        rds.delete_db_instance(DBInstanceIdentifier=protected.outputs["Member2Identifier"], SkipFinalSnapshot=True)
    post(f"{protected.cloud.environment['LOCAL_CLOUD_URL']}/rds/{protected.outputs['Member1Identifier']}/lose")
    eventually(lambda: is_primary(protected, 2), 60, "the failover")

    done = protected.destroy("--yes-destroy", protected.suffix)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    stays = remains.survey(protected.account, protected.suffix).found
    for remainder in stays:
        assert str(remainder) in done.stdout, "everything that stays is listed"
    kinds = {remainder.kind for remainder in stays}
    kept = {
        "DB snapshot",
        "automated backup",
        "file system",
        "table",
        "backup vault",
        "recovery point",
        "log group",
        "bucket",
    }
    kept |= {"key", "queue"}
    assert kinds == kept
    newest = f"DB snapshot {protected.outputs['Member2Identifier']}-final-"
    assert [each for each in stays if str(each).startswith(newest)], "RDS deletes a template's replica without one"
    assert "is locked and stays" in done.stdout
    assert protected.secret()["password"]


def test_the_typed_suffix_confirms_and_nothing_else_does() -> None:
    asked: list[str] = []

    def types(answer: str | None) -> Any:
        def ask(question: str) -> str:
            asked.append(question)
            if answer is None:
                raise EOFError
            return answer

        return ask

    confirm("prod", ("termination protection",), None, types("prod\n"))
    assert "Type prod" in asked[0]
    for answer in ("yes", "", "pro", None):
        with pytest.raises(Problem, match="Nothing was destroyed"):
            confirm("prod", (), None, types(answer))


def test_destroying_what_does_not_exist_is_done_already(cloud: Cloud) -> None:
    account, suffix = Account(cloud.environment), f"none-{secrets.token_hex(2)}"
    cdk = Cdk(suffix, cloud.environment, cloud.state / "none.log")
    said: list[str] = []
    outcome = Destruction(account, cdk, protect=False, announce=said.append).run()
    assert (outcome.kept, outcome.left, said) == ((), (), [])
    assert not cdk.log or not cdk.log.exists(), "CloudFormation was not even asked to"
