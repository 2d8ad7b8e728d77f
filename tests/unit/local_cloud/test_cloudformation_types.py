from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.unit.local_cloud.running_cloud import RunningCloud

VPC = {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.40.0.0/16"}}


def group(**properties: Any) -> dict[str, Any]:
    return {
        "Type": "AWS::EC2::SecurityGroup",
        "Properties": {"GroupDescription": "test", "VpcId": {"Ref": "Vpc"}, **properties},
    }


def rule(direction: str, **properties: Any) -> dict[str, Any]:
    values = {"GroupId": {"Ref": "Group"}, "IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, **properties}
    return {"Type": f"AWS::EC2::SecurityGroup{direction}", "Properties": values}


def rules_of(cloud: RunningCloud, group_id: str) -> list[dict[str, Any]]:
    filters = [{"Name": "group-id", "Values": [group_id]}]
    found: list[dict[str, Any]] = cloud.client("ec2").describe_security_group_rules(Filters=filters)[
        "SecurityGroupRules"
    ]
    return found


def test_rules_of_their_own_are_rules_of_the_group(cloud: RunningCloud) -> None:
    resources = {
        "Vpc": VPC,
        "Group": group(),
        "In": rule("Ingress", CidrIp="10.60.0.0/16"),
        "Between": rule("Ingress", SourceSecurityGroupId={"Ref": "Group"}),
        "Out": rule("Egress", CidrIp="10.61.0.0/16"),
    }
    assert cloud.deploy("rules", resources) == "CREATE_COMPLETE"
    group_id = cloud.physical_id("rules", "Group")
    ingress = [found for found in rules_of(cloud, group_id) if not found["IsEgress"]]
    assert {found["SecurityGroupRuleId"] for found in ingress} == {
        cloud.physical_id("rules", "In"),
        cloud.physical_id("rules", "Between"),
    }
    # Changed in place, and by a new rule in place of the old.
    resources["In"] = rule("Ingress", CidrIp="10.60.0.0/16", Description="applications")
    resources["Out"] = rule("Egress", CidrIp="10.62.0.0/16")
    assert cloud.deploy("rules", resources) == "UPDATE_COMPLETE"
    cidrs = {found.get("CidrIpv4") for found in rules_of(cloud, group_id)}
    assert {"10.60.0.0/16", "10.62.0.0/16"} <= cidrs
    assert "10.61.0.0/16" not in cidrs
    # Revoked behind the stack's back, by id and by content, as a fence does it.
    ec2 = cloud.client("ec2")
    ec2.revoke_security_group_ingress(GroupId=group_id, SecurityGroupRuleIds=[cloud.physical_id("rules", "In")])
    pairs = [{"GroupId": group_id}]
    permission = {"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "UserIdGroupPairs": pairs}
    ec2.revoke_security_group_ingress(GroupId=group_id, IpPermissions=[permission])
    assert not [found for found in rules_of(cloud, group_id) if not found["IsEgress"]]
    assert cloud.destroy("rules") == "DELETE_COMPLETE"


def test_a_rule_of_an_unknown_group_or_twice_the_same_fails_the_stack(cloud: RunningCloud) -> None:
    resources = {"In": rule("Ingress", GroupId="sg-00000000000000000", CidrIp="10.0.0.0/8")}
    assert cloud.deploy("unknown-group", resources) == "ROLLBACK_COMPLETE"
    assert "InvalidGroup.NotFound" in cloud.failure("unknown-group")
    twice = {"Vpc": VPC, "Group": group()}
    twice |= {name: rule("Ingress", CidrIp="10.60.0.0/16") for name in ("In", "Again")}
    assert cloud.deploy("twice-the-rule", twice) == "ROLLBACK_COMPLETE"
    assert "InvalidPermission.Duplicate" in cloud.failure("twice-the-rule")


def test_flow_logs_alarms_backups_and_subscriptions_come_change_and_go(cloud: RunningCloud) -> None:
    alarm = {"MetricName": "m", "Namespace": "n", "Period": 60, "EvaluationPeriods": 1, "Threshold": 1}
    alarm |= {"Statistic": "Sum", "ComparisonOperator": "GreaterThanThreshold", "AlarmName": "child"}
    rules = [{"RuleName": "daily", "TargetBackupVault": {"Ref": "Vault"}, "ScheduleExpression": "cron(0 5 ? * * *)"}]
    selection = {"SelectionName": "all", "IamRoleArn": "arn:aws:iam::111122223333:role/backup", "Resources": ["*"]}
    subscription = {"SnsTopicArn": {"Ref": "Topic"}, "SourceType": "db-instance", "EventCategories": ["failure"]}
    flow = {"ResourceId": {"Ref": "Vpc"}, "ResourceType": "VPC", "TrafficType": "ALL", "LogGroupName": "flows"}
    resources: dict[str, Any] = {
        "Vpc": VPC,
        "Flow": {"Type": "AWS::EC2::FlowLog", "Properties": flow},
        "Child": {"Type": "AWS::CloudWatch::Alarm", "Properties": alarm},
        "Composite": {
            "Type": "AWS::CloudWatch::CompositeAlarm",
            "Properties": {"AlarmName": "parent", "AlarmRule": 'ALARM("child")'},
            "DependsOn": "Child",
        },
        "Vault": {"Type": "AWS::Backup::BackupVault", "Properties": {"BackupVaultName": "vault"}},
        "Plan": {
            "Type": "AWS::Backup::BackupPlan",
            "Properties": {"BackupPlan": {"BackupPlanName": "plan", "BackupPlanRule": rules}},
        },
        "Selection": {
            "Type": "AWS::Backup::BackupSelection",
            "Properties": {"BackupPlanId": {"Ref": "Plan"}, "BackupSelection": selection},
        },
        "Topic": {"Type": "AWS::SNS::Topic", "Properties": {"TopicName": "alerts"}},
        "Subscription": {"Type": "AWS::RDS::EventSubscription", "Properties": subscription},
    }
    outputs = {"Cidr": {"Fn::GetAtt": ["Vpc", "CidrBlock"]}, "Default": {"Fn::GetAtt": ["Vpc", "DefaultSecurityGroup"]}}
    assert cloud.deploy("types", resources, outputs) == "CREATE_COMPLETE"
    assert cloud.outputs("types")["Cidr"] == "10.40.0.0/16"
    default = cloud.outputs("types")["Default"]
    [group] = cloud.client("ec2").describe_security_groups(GroupIds=[default])["SecurityGroups"]
    [inside], [outside] = group["IpPermissions"], group["IpPermissionsEgress"]
    assert [pair["GroupId"] for pair in inside["UserIdGroupPairs"]] == [default]
    assert [block["CidrIp"] for block in outside["IpRanges"]] == ["0.0.0.0/0"]

    resources["Flow"]["Properties"]["Tags"] = [{"Key": "Project", "Value": "test"}]
    resources["Composite"]["Properties"]["AlarmDescription"] = "changed"
    resources["Subscription"]["Properties"]["EventCategories"] = ["failure", "failover"]
    before = cloud.physical_id("types", "Flow")
    assert cloud.deploy("types", resources, outputs) == "UPDATE_COMPLETE"
    assert cloud.physical_id("types", "Flow") == before
    [flow_log] = cloud.client("ec2").describe_flow_logs()["FlowLogs"]
    assert flow_log["Tags"][0]["Key"] == "Project"
    alarms = cloud.client("cloudwatch").describe_alarms(AlarmTypes=["CompositeAlarm"])["CompositeAlarms"]
    assert [(found["AlarmName"], found["AlarmDescription"]) for found in alarms] == [("parent", "changed")]
    [subscribed] = cloud.client("rds").describe_event_subscriptions()["EventSubscriptionsList"]
    assert subscribed["EventCategoriesList"] == ["failure", "failover"]
    plan = cloud.physical_id("types", "Plan")
    assert len(cloud.client("backup").list_backup_selections(BackupPlanId=plan)["BackupSelectionsList"]) == 1

    resources["Flow"]["Properties"]["TrafficType"] = "REJECT"
    resources["Subscription"]["Properties"]["SubscriptionName"] = "renamed"
    assert cloud.deploy("types", resources, outputs) == "UPDATE_COMPLETE"
    assert cloud.physical_id("types", "Flow") != before
    assert len(cloud.client("ec2").describe_flow_logs()["FlowLogs"]) == 1

    assert cloud.destroy("types") == "DELETE_COMPLETE"
    assert cloud.client("ec2").describe_flow_logs()["FlowLogs"] == []
    assert cloud.client("cloudwatch").describe_alarms(AlarmTypes=["CompositeAlarm"])["CompositeAlarms"] == []
    with pytest.raises(ClientError, match="SubscriptionNotFound"):
        cloud.client("rds").describe_event_subscriptions(SubscriptionName="renamed")


@pytest.mark.parametrize(
    "resource",
    [
        {"Type": "AWS::CloudWatch::CompositeAlarm", "Properties": {"AlarmRule": 'ALARM("nobody")'}},
        {
            "Type": "AWS::Backup::BackupSelection",
            "Properties": {"BackupPlanId": "nobody", "BackupSelection": {"SelectionName": "x"}},
        },
    ],
)
def test_a_refusal_of_the_service_is_the_reason_of_the_failure(cloud: RunningCloud, resource: dict[str, Any]) -> None:
    assert cloud.deploy("refused", {"Refused": resource}) == "ROLLBACK_COMPLETE"
    assert "nobody" in cloud.failure("refused")


def test_an_unknown_type_is_refused_by_name_before_anything_is_made(cloud: RunningCloud) -> None:
    with pytest.raises(ClientError, match="AWS::Unknown::Thing"):
        cloud.deploy("unknown", {"Vpc": VPC, "Thing": {"Type": "AWS::Unknown::Thing"}})
