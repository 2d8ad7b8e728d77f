"""Each thing that an account may lack stops a deploy before it begins, with what to do; each is made to lack here."""

from __future__ import annotations

import io
import json
import secrets
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from deployment import local, preflight
from deployment.account import Account
from deployment.cdk import Cdk
from deployment.configuration import configured
from deployment.preflight import Subject, Verdict
from tests.integration.conftest import Cloud, Deployed
from tests.integration.test_commands import run

pytestmark = pytest.mark.breaks_the_machine

CHECKS = ["credentials", "region", "bootstrap", "secret", "names", "engine", "VPCs", "DB instances", "concurrency"]


@pytest.fixture(scope="module")
def subject(cloud: Cloud) -> Iterator[Subject]:
    """An environment that was never deployed, synthesised, in an account that has everything."""
    suffix = f"pre-{secrets.token_hex(2)}"
    cdk = Cdk(suffix, cloud.environment, cloud.state / "preflight.log")
    cdk.synth()
    local.play_agency(cloud.environment, suffix)
    yield Subject(Account(cloud.environment), configured({"environmentSuffix": suffix}), cdk)
    cdk.discard()


def with_settings(subject: Subject, **changed: str) -> Subject:
    return replace(subject, settings=subject.settings.model_copy(update=changed))


def finding(subject: Subject, check: str) -> Verdict:
    """The verdict of one check, when all others are fine."""
    verdicts = preflight.run(subject)
    others = [each for each in verdicts if each.check != check and each.verdict != "ok"]
    assert not others, others
    (found,) = [each for each in verdicts if each.check == check]
    return found


@contextmanager
def new_secret(subject: Subject, value: object, **arguments: str) -> Iterator[Subject]:
    client, name = subject.account.client("secretsmanager"), f"citizens/pre/{secrets.token_hex(4)}x"
    if isinstance(value, bytes):
        client.create_secret(Name=name, SecretBinary=value, **arguments)
    else:
        client.create_secret(Name=name, SecretString=json.dumps(value), **arguments)
    try:
        yield with_settings(subject, secret_name=name)
    finally:
        client.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)


GOOD = {"username": "citizens_admin", "password": "Long-Enough-1"}


def test_an_account_that_has_everything_passes_every_check(subject: Subject) -> None:
    verdicts = preflight.run(subject)
    assert [each.check for each in verdicts] == CHECKS
    assert {each.verdict for each in verdicts} == {"ok"}
    assert not preflight.has_failed(verdicts)
    assert preflight.as_text(verdicts).splitlines()[1] == "ok       region        eu-central-2 is enabled"
    assert json.loads(preflight.as_json(verdicts))["verdict"] == "ok"


def test_without_credentials_nothing_else_is_asked(subject: Subject) -> None:
    nobody = {**subject.account.environment, "AWS_ACCESS_KEY_ID": "AKIANOBODY0000000000", "AWS_SECRET_ACCESS_KEY": "x"}
    verdicts = preflight.run(replace(subject, account=Account(nobody)))
    assert [(each.check, each.verdict) for each in verdicts] == [("credentials", "failed")]
    assert "sign in" in verdicts[0].todo


def test_credentials_of_another_account_than_the_one_meant_are_refused(subject: Subject) -> None:
    meant = {**subject.account.environment, "CDK_DEFAULT_ACCOUNT": "999988887777"}
    (verdict,) = preflight.run(replace(subject, account=Account(meant)))
    assert (verdict.check, verdict.verdict) == ("credentials", "failed")
    assert "999988887777" in verdict.found


def test_a_region_that_is_not_enabled_is_found_before_anything_is_asked_there(subject: Subject) -> None:
    switch = subject.account.client("account", "us-east-1")
    switch.disable_region(RegionName="eu-central-2")
    try:
        verdicts = preflight.run(subject)
    finally:
        switch.enable_region(RegionName="eu-central-2")
    assert [(each.check, each.verdict) for each in verdicts] == [("credentials", "ok"), ("region", "failed")]
    assert "enable-region" in verdicts[1].todo


@pytest.mark.parametrize(("version", "found"), [(None, "not bootstrapped"), ("5", "version 5, but 8 is needed")])
def test_a_bootstrap_that_is_missing_or_too_old_fails(subject: Subject, version: str | None, found: str) -> None:
    ssm, name = subject.account.client("ssm"), preflight.BOOTSTRAP_PARAMETER
    was = ssm.get_parameter(Name=name)["Parameter"]["Value"]
    if version is None:
        ssm.delete_parameter(Name=name)
    else:
        ssm.put_parameter(Name=name, Value=version, Type="String", Overwrite=True)
    try:
        verdict = finding(subject, "bootstrap")
    finally:
        ssm.put_parameter(Name=name, Value=was, Type="String", Overwrite=True)
    assert verdict.verdict == "failed"
    assert found in verdict.found
    assert "cdk bootstrap" in verdict.todo


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b"binary", "is binary"),
        ("no object", "not an object"),
        ({"password": "Long-Enough-1"}, "username"),
        ({"username": "citizens_admin"}, "password"),
        ({**GOOD, "password": "with/slash-1"}, "slash"),
        ({**GOOD, "password": "short"}, "8 to 128"),
    ],
)
def test_a_secret_that_rds_would_refuse_fails(subject: Subject, value: object, found: str) -> None:
    with new_secret(subject, value) as changed:
        verdict = finding(changed, "secret")
    assert verdict.verdict == "failed"
    assert found in verdict.found


def test_a_secret_that_does_not_exist_fails(subject: Subject) -> None:
    verdict = finding(with_settings(subject, secret_name="citizens/none"), "secret")
    assert verdict.verdict == "failed"
    assert "does not exist" in verdict.found
    assert "SECRET_NAME" in verdict.todo


def test_a_secret_that_is_scheduled_for_deletion_fails(subject: Subject) -> None:
    with new_secret(subject, GOOD) as changed:
        subject.account.client("secretsmanager").delete_secret(SecretId=changed.settings.secret_name)
        verdict = finding(changed, "secret")
    assert verdict.verdict == "failed"
    assert "scheduled for deletion" in verdict.found
    assert "restore-secret" in verdict.todo


def test_the_secret_of_a_deployed_environment_is_refused_to_another(subject: Subject, deployed: Deployed) -> None:
    verdict = finding(with_settings(subject, secret_name=deployed.outputs["SecretName"]), "secret")
    assert verdict.verdict == "failed"
    assert "belongs to another environment" in verdict.found


@pytest.fixture
def key(subject: Subject) -> Iterator[str]:
    kms = subject.account.client("kms")
    arn = str(kms.create_key(Description="the agency's")["KeyMetadata"]["Arn"])
    yield arn
    kms.schedule_key_deletion(KeyId=arn, PendingWindowInDays=7)


def test_a_secret_with_its_own_key_passes_when_that_key_is_named(subject: Subject, key: str) -> None:
    with new_secret(subject, GOOD, KmsKeyId=key) as changed:
        assert finding(with_settings(changed, secret_key_arn=key), "secret").verdict == "ok"


def test_a_secret_whose_key_is_not_named_fails_because_no_function_could_read_it(subject: Subject, key: str) -> None:
    with new_secret(subject, GOOD, KmsKeyId=key) as changed:
        verdict = finding(changed, "secret")
    assert verdict.verdict == "failed"
    assert key in verdict.found
    assert "SECRET_KEY_ARN" in verdict.todo


def test_a_key_that_is_named_but_is_not_the_secrets_fails(subject: Subject, key: str) -> None:
    verdict = finding(with_settings(subject, secret_key_arn=key), "secret")
    assert verdict.verdict == "failed"
    assert "alias/aws/secretsmanager" in verdict.found
    other = subject.account.client("kms").create_key()["KeyMetadata"]["Arn"]
    with new_secret(subject, GOOD, KmsKeyId=other) as changed:
        verdict = finding(with_settings(changed, secret_key_arn=key), "secret")
    assert f"is encrypted with {other}, not with {key}" in verdict.found


def test_a_key_that_is_disabled_or_gone_fails(subject: Subject, key: str) -> None:
    subject.account.client("kms").disable_key(KeyId=key)
    with new_secret(subject, GOOD, KmsKeyId=key) as changed:
        assert "is Disabled" in finding(with_settings(changed, secret_key_arn=key), "secret").found
    gone = key[:-12] + "000000000000"
    with new_secret(subject, GOOD, KmsKeyId=gone) as changed:
        assert "does not exist" in finding(with_settings(changed, secret_key_arn=gone), "secret").found


def test_a_name_left_over_from_an_earlier_environment_fails(subject: Subject) -> None:
    logs, name = subject.account.client("logs"), f"/aws/lambda/citizens-probe-{subject.suffix}"
    logs.create_log_group(logGroupName=name)
    try:
        verdict = finding(subject, "names")
    finally:
        logs.delete_log_group(logGroupName=name)
    assert verdict.verdict == "failed"
    assert f"log group {name}" in verdict.found
    assert "make destroy" in verdict.todo


def test_an_instance_that_somebody_restored_is_left_over_without_a_stack(subject: Subject) -> None:
    rds, name = subject.account.client("rds"), f"citizens-restored-{subject.suffix}"
    rds.create_db_instance(
        DBInstanceIdentifier=name,
        Engine="postgres",
        DBInstanceClass="db.t4g.medium",
        AllocatedStorage=20,
        MasterUsername="citizens_admin",
        MasterUserPassword="Start-Password-1",
        BackupRetentionPeriod=0,
    )
    try:
        verdict = finding(subject, "names")
    finally:
        rds.delete_db_instance(DBInstanceIdentifier=name, SkipFinalSnapshot=True)
    assert verdict.verdict == "failed"
    assert f"DB instance {name}" in verdict.found


def test_a_snapshot_kept_from_an_earlier_environment_is_only_a_warning(subject: Subject) -> None:
    kms = subject.account.client("kms")
    kept = kms.create_key(Description=f"Encrypts the log groups of citizens-{subject.suffix}")["KeyMetadata"]["KeyId"]
    try:
        verdict = finding(subject, "names")
    finally:
        kms.schedule_key_deletion(KeyId=kept, PendingWindowInDays=7)
    assert verdict.verdict == "warning"
    assert kept in verdict.found
    assert finding(subject, "names").verdict == "ok", "a key pending deletion counts as gone"


def test_a_stack_of_this_suffix_that_cannot_be_updated_fails(subject: Subject) -> None:
    formation, name = subject.account.client("cloudformation"), f"citizens-dr-{subject.suffix}"
    formation.create_stack(StackName=name, TemplateBody=json.dumps(BAD_STACK))
    try:
        verdict = finding(subject, "names")
        while "IN_PROGRESS" in verdict.found:
            assert "wait" in verdict.todo
            verdict = finding(subject, "names")
    finally:
        formation.delete_stack(StackName=name)
    assert verdict.verdict == "failed"
    assert "ROLLBACK_COMPLETE" in verdict.found
    assert "make destroy" in verdict.todo


BAD_STACK = {
    "Resources": {
        "Rule": {
            "Type": "AWS::EC2::SecurityGroupIngress",
            "Properties": {
                "GroupId": "sg-none",
                "IpProtocol": "tcp",
                "FromPort": 1,
                "ToPort": 1,
                "CidrIp": "10.0.0.0/8",
            },
        }
    }
}


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"engine_version": "18.99"}, "does not offer PostgreSQL 18.99"),
        ({"instance_class": "db.m6gd.large"}, "db.m6gd.large"),
    ],
)
def test_an_engine_or_class_that_rds_offers_no_longer_fails(
    subject: Subject, changed: dict[str, str], found: str
) -> None:
    verdict = finding(with_settings(subject, **changed), "engine")
    assert verdict.verdict == "failed"
    assert found in verdict.found
    assert verdict.todo


def test_an_account_without_room_for_another_vpc_fails(subject: Subject) -> None:
    ec2, made = subject.account.client("ec2"), []
    try:
        while len(ec2.describe_vpcs()["Vpcs"]) < 20:
            made.append(ec2.create_vpc(CidrBlock="10.99.0.0/16")["Vpc"]["VpcId"])
        verdict = finding(subject, "VPCs")
    finally:
        for vpc in made:
            ec2.delete_vpc(VpcId=vpc)
    assert verdict.verdict == "failed"
    assert "quota" in verdict.todo


def test_an_account_without_room_for_both_members_fails() -> None:
    assert preflight.quota_verdict("DB instances", used=38, needed=2, limit=40).verdict == "ok"
    assert preflight.quota_verdict("DB instances", used=39, needed=2, limit=40).verdict == "failed"


def test_an_account_whose_functions_would_starve_fails(subject: Subject) -> None:
    client = subject.account.client("lambda")
    free = client.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"]
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "lambda.amazonaws.com"}}
    iam = subject.account.client("iam")
    role = iam.create_role(RoleName="greedy", AssumeRolePolicyDocument=json.dumps({"Statement": [trust]}))["Role"][
        "Arn"
    ]
    arguments = {"Runtime": "python3.14", "Handler": "a.b", "Role": role, "Code": {"ZipFile": empty_zip()}}
    client.create_function(FunctionName="greedy", **arguments)
    try:
        client.put_function_concurrency(FunctionName="greedy", ReservedConcurrentExecutions=free - 105)
        verdict = finding(subject, "concurrency")
    finally:
        client.delete_function(FunctionName="greedy")
        iam.delete_role(RoleName="greedy")
    assert verdict.verdict == "failed"
    assert "of 105 unreserved" in verdict.found


def empty_zip() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.py", "")
    return archive.getvalue()


def test_what_the_caller_may_not_ask_is_a_warning_and_never_a_traceback(subject: Subject) -> None:
    iam, user = subject.account.client("iam"), f"may-nothing-{secrets.token_hex(2)}"
    iam.create_user(UserName=user)
    access = iam.create_access_key(UserName=user)["AccessKey"]
    keys = {"AWS_ACCESS_KEY_ID": access["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": access["SecretAccessKey"]}
    verdicts = preflight.run(replace(subject, account=Account({**subject.account.environment, **keys})))
    # The local cloud does not check permissions on the account service.
    assert [each.verdict for each in verdicts[:2]] == ["ok", "ok"]
    assert {each.verdict for each in verdicts[2:]} == {"warning"}, preflight.as_text(verdicts)
    assert all("could not be asked: " in each.found for each in verdicts[2:])
    assert not preflight.has_failed(verdicts)


def test_the_command_prints_json_and_says_by_its_exit_code_that_a_check_failed(cloud: Cloud) -> None:
    arguments = ("deployment", "preflight", "--local", "--suffix", "none", "--state", str(cloud.state))
    done = run(*arguments, "--json")
    assert done.returncode == 1
    assert done.stderr == "A check failed: a deploy would not succeed.\n"
    report = json.loads(done.stdout)
    assert report["verdict"] == "failed"
    assert [each["check"] for each in report["checks"]] == CHECKS
    Cdk("none", cloud.environment).discard()
