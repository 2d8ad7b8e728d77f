"""What holds for the templates as a whole."""

import json
import re
from functools import reduce
from pathlib import Path

import cfnlint
import pytest

from deployment.lint import check_templates
from deployment.problem import Problem
from privilege.granted import listed, short_name
from stacks.names import FUNCTIONS
from stacks.permissions import REASONS_WITHOUT_RESOURCES, without_resources
from stacks.unused_permissions import UNUSED
from tests.unit.stacks.conftest import NESTED, STATEFUL, SUFFIX, Resource, System

OUTPUTS = {
    *("EnvironmentSuffix", "Region", "WriterUri", "ReaderUri", "Member1Endpoint", "Member2Endpoint"),
    *("Member1Identifier", "Member2Identifier", "SecretArn", "SecretName", "FailoverStateMachineArn"),
    *("ReprotectStateMachineArn", "SwitchoverStateMachineArn", "DrillStateMachineArn"),
    *("AlertTopicArn", "FileSystemId", "AccessPointId", "RecoveryTableName", "VpcId", "DataKeyArn"),
    *(
        "BackupVaultName",
        "DashboardName",
        "EvidenceBucketName",
        "RotationFunctionName",
        "WitnessAFunctionName",
        "WitnessCFunctionName",
    ),
    *(
        "ArchiveFunctionName",
        "RewindFunctionName",
        "FailoverLogGroupName",
        "FlowLogGroupName",
        "Member1LogGroupName",
        "Member2LogGroupName",
    ),
}
TAGS = {"Project", "Environment", "Owner", "DataClassification", "Compliance", "ManagedBy"}
# These take no tags at all, or none in CloudFormation.
WITHOUT_TAGS = {
    *("AWS::ApplicationAutoScaling::ScalingPolicy", "AWS::Backup::BackupSelection", "AWS::CloudWatch::Dashboard"),
    *("AWS::EC2::SecurityGroupEgress", "AWS::EC2::SecurityGroupIngress", "AWS::EC2::SubnetRouteTableAssociation"),
    *("AWS::EFS::MountTarget", "AWS::IAM::ManagedPolicy", "AWS::KMS::Alias", "AWS::Lambda::Permission"),
    *(
        "AWS::Lambda::EventInvokeConfig",
        "AWS::Logs::MetricFilter",
        "AWS::S3::BucketPolicy",
        "AWS::SNS::Subscription",
        "AWS::SNS::TopicPolicy",
        "AWS::SQS::QueuePolicy",
    ),
    *("AWS::Scheduler::Schedule", "AWS::SecretsManager::RotationSchedule"),
    *("AWS::SecretsManager::SecretTargetAttachment",),
}
NAMES = re.compile(
    "(Function|Role|Table|Topic|Queue|Alarm|Dashboard|Group|LogGroup|Alias|DBInstanceIdentifier|DBSubnetGroup"
    "|DBParameterGroup|BackupVault|BackupPlan|StateMachine|ManagedPolicy|Dashboard)Name$"
)


def tags_of(resource: Resource) -> set[str]:
    properties = resource.properties
    if resource.type == "AWS::Backup::BackupVault":
        return set(properties["BackupVaultTags"])
    if resource.type == "AWS::Backup::BackupPlan":
        return set(properties["BackupPlanTags"])
    tags: list[dict[str, str]] | dict[str, str] = next(
        (properties[name] for name in ("FileSystemTags", "AccessPointTags", "Tags") if name in properties), []
    )
    return {tag["Key"] for tag in tags} if isinstance(tags, list) else set(tags)


def test_the_parent_holds_the_nested_stacks_and_nothing_else(system: System) -> None:
    kinds = [each.type for each in system.of("AWS::CloudFormation::Stack", "parent")]
    assert len(kinds) == len(NESTED) == len(system.templates["parent"]["Resources"])


def test_the_parent_outputs_what_operators_and_tests_read(system: System) -> None:
    outputs = system.templates["parent"]["Outputs"]
    assert set(outputs) == OUTPUTS
    assert outputs["EnvironmentSuffix"]["Value"] == SUFFIX
    writer = json.dumps(outputs["WriterUri"]["Value"])
    assert '"postgresql://"' in writer
    assert ":5432/citizens?target_session_attrs=read-write&sslmode=verify-full" in writer
    assert "@" not in writer
    assert "target_session_attrs=prefer-standby" in json.dumps(outputs["ReaderUri"]["Value"])


def test_everything_that_takes_tags_has_all_six(system: System) -> None:
    lacking = {
        f"{each.stack}/{each.logical_id} {each.type}": TAGS - tags_of(each)
        for each in system.all
        if each.type not in WITHOUT_TAGS and not tags_of(each) >= TAGS
    }
    assert lacking == {}


def test_every_physical_name_carries_the_suffix(system: System) -> None:
    names = [
        (each.logical_id, name, value)
        for each in system.all
        for name, value in each.properties.items()
        if (NAMES.search(name) or name in ("Name", "GroupName")) and isinstance(value, str)
    ]
    assert len(names) > 100
    assert [entry for entry in names if not re.search(rf"[-/]{SUFFIX}(-schedule$|/|$)", entry[2])] == []


def test_no_account_is_written_into_a_template(system: System) -> None:
    for template in system.templates.values():
        assert not re.search(r"\b\d{12}\b", json.dumps(template["Resources"]))


def test_stateful_resources_go_with_the_stack_by_default(system: System) -> None:
    policies = {each.logical_id: each.body.get("DeletionPolicy") for each in system.all if each.type in STATEFUL}
    assert set(policies.values()) == {"Delete"}


def test_protect_keeps_every_stateful_resource(protected: System) -> None:
    for each in protected.all:
        if each.type in STATEFUL:
            wanted = "Snapshot" if each.type == "AWS::RDS::DBInstance" else "Retain"
            assert each.body["DeletionPolicy"] == each.body["UpdateReplacePolicy"] == wanted
    (table,) = protected.of("AWS::DynamoDB::Table")
    assert table.properties["DeletionProtectionEnabled"] is True
    (vault,) = protected.of("AWS::Backup::BackupVault")
    assert vault.properties["LockConfiguration"] == {"MinRetentionDays": 35}
    for member in protected.of("AWS::RDS::DBInstance"):
        assert member.properties["DeletionProtection"] is True
        assert member.properties["DeleteAutomatedBackups"] is False


def test_protect_and_options_change_no_logical_id_of_a_stateful_resource(system: System, protected: System) -> None:
    def ids(which: System) -> set[tuple[str, str]]:
        return {(each.stack, each.logical_id) for each in which.all if each.type in STATEFUL}

    assert ids(system) == ids(protected)


def statements(resource: Resource) -> list[dict[str, object]]:
    found: list[dict[str, object]] = resource.properties["PolicyDocument"]["Statement"]
    return found


def test_no_role_has_an_inline_or_an_aws_managed_policy(system: System) -> None:
    assert system.of("AWS::IAM::Policy") == []
    for role in system.of("AWS::IAM::Role"):
        assert "Policies" not in role.properties
        assert "ManagedPolicyArns" not in role.properties


def test_every_role_has_a_policy_of_its_own(system: System) -> None:
    roles = {(each.stack, each.logical_id) for each in system.of("AWS::IAM::Role")}
    served = [
        (each.stack, each.properties["Roles"][0]["Ref"])
        for each in system.of("AWS::IAM::ManagedPolicy")
        if len(each.properties["Roles"]) == 1
    ]
    assert sorted(served) == sorted(roles)


def test_no_permission_has_a_wildcard_action(system: System) -> None:
    for each in system.all:
        if each.type in ("AWS::IAM::ManagedPolicy", "AWS::KMS::Key", "AWS::EC2::VPCEndpoint"):
            document = each.properties.get("PolicyDocument") or each.properties["KeyPolicy"]
            for statement in document["Statement"]:
                actions = statement["Action"]
                assert "*" not in "".join([actions] if isinstance(actions, str) else actions), each.logical_id


def test_a_wildcard_resource_is_only_where_the_reason_is_written(system: System) -> None:
    for policy in system.of("AWS::IAM::ManagedPolicy"):
        for statement in statements(policy):
            if statement["Resource"] == "*":
                actions = statement["Action"]
                listed = [actions] if isinstance(actions, str) else actions
                assert isinstance(listed, list)
                assert set(listed) <= set(REASONS_WITHOUT_RESOURCES), policy.logical_id


def test_a_wildcard_resource_without_a_reason_cannot_be_written() -> None:
    with pytest.raises(KeyError, match="GetObject"):
        without_resources(("s3:GetObject",))


def test_every_reason_for_a_wildcard_resource_is_used(system: System) -> None:
    used = json.dumps([statements(each) for each in system.of("AWS::IAM::ManagedPolicy")])
    assert [action for action in REASONS_WITHOUT_RESOURCES if f'"{action}"' not in used] == []


def test_an_action_that_could_be_restricted_says_where_aws_wants_it_unrestricted() -> None:
    """cfn-lint carries the actions of AWS's service authorization reference with their resource types."""
    data = Path(cfnlint.__file__).parent / "data" / "AdditionalSpecs" / "Policies.json"
    known = json.loads(data.read_text(encoding="utf-8"))
    for name, entry in REASONS_WITHOUT_RESOURCES.items():
        service, action = name.split(":")
        restrictable = bool(known[service]["Actions"][action.lower()].get("Resources"))
        assert restrictable == bool(entry.page), name
        assert entry.reason


def test_every_excuse_for_an_unused_permission_is_granted_to_somebody(system: System) -> None:
    granted = [
        (short_name(str(policy.properties["ManagedPolicyName"]), SUFFIX), action)
        for policy in system.of("AWS::IAM::ManagedPolicy")
        for statement in statements(policy)
        for action in listed(statement["Action"])  # type: ignore[arg-type]
    ]
    for entry in UNUSED:
        assert entry.reason
        assert entry.source
        for action in entry.actions:
            assert any(entry.covers(role, name) for role, name in granted if name == action), (entry.roles, action)


def test_functions_machine_and_schedules_have_a_role_each(system: System) -> None:
    roles = [
        json.dumps(value)
        for kind, path in (
            ("AWS::Lambda::Function", ("Role",)),
            ("AWS::StepFunctions::StateMachine", ("RoleArn",)),
            ("AWS::Scheduler::Schedule", ("Target", "RoleArn")),
            ("AWS::EC2::FlowLog", ("DeliverLogsPermissionArn",)),
        )
        for each in system.of(kind)
        # The two schedules that keep the default security group closed share one role.
        if (kind, each.stack) != ("AWS::Scheduler::Schedule", "Network")
        for value in [reduce(lambda found, key: found[key], path, each.properties)]
    ]
    assert len(roles) == len(set(roles)) == len(FUNCTIONS) + 4 + 8 + 1


def test_every_log_group_has_a_key_a_retention_and_a_name(system: System) -> None:
    groups = system.of("AWS::Logs::LogGroup")
    assert len(groups) == len(FUNCTIONS) + 4 + 1 + 4
    for group in groups:
        assert group.properties["RetentionInDays"] == 365
        assert "KmsKeyId" in group.properties
        assert SUFFIX in group.properties["LogGroupName"]


def test_the_settings_choose_zones_key_and_address(protected: System) -> None:
    (subscription,) = protected.of("AWS::SNS::Subscription")
    assert subscription.properties["Endpoint"] == "duty@agency.example"
    policies = json.dumps([each.properties for each in protected.of("AWS::IAM::ManagedPolicy", "Database")])
    assert "arn:aws:kms:eu-central-2:111122223333:key/00000000-0000-0000-0000-000000000000" in policies
    assert "secretsmanager.eu-central-2.amazonaws.com" in policies


def test_cfn_lint_finds_nothing_in_any_template(system: System, protected: System) -> None:
    for which in (system, protected):
        assert len(list(which.folder.glob("*.template.json"))) == len(NESTED) + 1
        check_templates(which.folder, "eu-central-2")


def test_cfn_lint_names_what_the_region_does_not_have(tmp_path: Path) -> None:
    template = {"Resources": {"Macie": {"Type": "AWS::Macie::Session"}}}
    (tmp_path / "nested.template.json").write_text(json.dumps(template))
    with pytest.raises(Problem, match=r"(?s)cannot be deployed to eu-central-2.*AWS::Macie::Session"):
        check_templates(tmp_path, "eu-central-2")


def test_a_folder_without_templates_is_not_taken_for_one_without_findings(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="holds no template"):
        check_templates(tmp_path, "eu-central-2")
