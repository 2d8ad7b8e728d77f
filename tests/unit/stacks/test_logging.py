"""Everything that logs does so into a group that the stack made: encrypted, kept as long as set, gone with the stack.

A group that a service makes by itself has no key, no end of retention, and outlives a destroy (AU-9, AU-11, SI-12).
"""

from collections.abc import Iterator
from typing import Any

from tests.unit.stacks.conftest import SUFFIX, Resource, System
from tests.unit.stacks.snapshot import readable

# What logs to CloudWatch Logs, each with a test below, and what does not (or only when asked to, which it is not).
LOGGING = {
    "AWS::EC2::FlowLog",
    "AWS::Lambda::Function",
    "AWS::RDS::DBInstance",
    "AWS::SNS::Topic",
    "AWS::StepFunctions::StateMachine",
}
SILENT_SERVICES = {
    *("Backup", "CloudFormation", "CloudWatch", "DynamoDB", "EC2", "EFS", "Events", "IAM", "KMS", "Lambda", "Logs"),
    *("RDS", "S3", "SNS", "SQS", "Scheduler", "SecretsManager"),
}
# Enhanced monitoring has one group for the whole account, so no stack can own it: RDS makes it when it is not there.
SHARED_GROUP = "log-group:RDSOSMetrics"
WRITE = ("logs:CreateLogStream", "logs:PutLogEvents")


def group(system: System, stack: str, reference: Any) -> Resource:
    """The group of the same stack that a `Ref` or `Fn::GetAtt` names."""
    name = reference["Ref"] if "Ref" in reference else reference["Fn::GetAtt"][0]
    (found,) = [each for each in system.of("AWS::Logs::LogGroup", stack) if each.logical_id == name]
    return found


def function_groups(system: System) -> Iterator[tuple[Resource, Resource]]:
    for function in system.of("AWS::Lambda::Function"):
        yield function, group(system, function.stack, function.properties["LoggingConfig"]["LogGroup"])


def machine_groups(system: System) -> Iterator[Resource]:
    for machine in system.of("AWS::StepFunctions::StateMachine"):
        for destination in machine.properties["LoggingConfiguration"]["Destinations"]:
            yield group(system, machine.stack, destination["CloudWatchLogsLogGroup"]["LogGroupArn"])


def member_groups(system: System) -> Iterator[tuple[Resource, Resource]]:
    named = {each.properties["LogGroupName"]: each for each in system.of("AWS::Logs::LogGroup", "Database")}
    for member in system.of("AWS::RDS::DBInstance"):
        for log in member.properties["EnableCloudwatchLogsExports"]:
            yield member, named[f"/aws/rds/instance/{member.properties['DBInstanceIdentifier']}/{log}"]


def flow_groups(system: System) -> Iterator[Resource]:
    for log in system.of("AWS::EC2::FlowLog"):
        yield group(system, log.stack, log.properties["LogGroupName"])


def test_every_function_logs_into_a_group_of_its_own(system: System) -> None:
    pairs = list(function_groups(system))
    assert len({log.logical_id for _, log in pairs}) == len(pairs) >= 9
    for function, log in pairs:
        assert log.properties["LogGroupName"] == f"/aws/lambda/{function.properties['FunctionName']}"
        assert function.properties["LoggingConfig"]["LogFormat"] == "JSON"


def test_a_function_may_write_to_its_own_group_and_to_no_other(system: System) -> None:
    for function, log in function_groups(system):
        policy = system.the("AWS::IAM::ManagedPolicy", f"{function.logical_id}Policy")
        granted = [
            statement
            for statement in readable(policy.properties["PolicyDocument"]["Statement"])
            if "logs:" in str(statement["Action"])
        ]
        assert [(tuple(each["Action"]), each["Resource"]) for each in granted] == [
            (WRITE, f"${{{log.logical_id}.Arn}}")
        ]


def test_the_machine_logs_every_event_with_its_data(system: System) -> None:
    (machine,) = system.of("AWS::StepFunctions::StateMachine", "Failover")
    logging = machine.properties["LoggingConfiguration"]
    assert (logging["Level"], logging["IncludeExecutionData"]) == ("ALL", True)
    (log,) = [each for each in machine_groups(system) if each.stack == "Failover"]
    assert log.properties["LogGroupName"] == f"/aws/vendedlogs/states/citizens-failover-{SUFFIX}"


def test_both_logs_of_both_members_have_their_group_before_the_member_writes(system: System) -> None:
    pairs = list(member_groups(system))
    assert [log.properties["LogGroupName"].rpartition("/")[2] for _, log in pairs] == ["postgresql", "upgrade"] * 2
    for member, log in pairs:
        assert log.logical_id in member.body["DependsOn"]


def test_accepted_and_rejected_traffic_is_logged(system: System) -> None:
    (flow_log,) = system.of("AWS::EC2::FlowLog")
    assert flow_log.properties["TrafficType"] == "ALL"
    assert flow_log.properties["LogDestinationType"] == "cloud-watch-logs"
    assert len(list(flow_groups(system))) == 1


def test_every_group_is_somebodys_encrypted_and_kept_for_a_year_unless_set_otherwise(
    system: System, protected: System
) -> None:
    used = {
        *(log.logical_id for _, log in function_groups(system)),
        *(log.logical_id for log in machine_groups(system)),
        *(log.logical_id for _, log in member_groups(system)),
        *(log.logical_id for log in flow_groups(system)),
    }
    groups = system.of("AWS::Logs::LogGroup")
    assert {each.logical_id for each in groups} == used
    for each in groups:
        assert "LogKey" in readable(each.properties["KmsKeyId"])
        assert each.body["DeletionPolicy"] == "Delete"
    assert {each.properties["RetentionInDays"] for each in groups} == {365}
    assert {each.properties["RetentionInDays"] for each in protected.of("AWS::Logs::LogGroup")} == {731}


def test_nobody_may_create_a_group_but_the_one_that_the_account_shares(system: System) -> None:
    creating = [
        (policy.logical_id, statement["Resource"])
        for policy in system.of("AWS::IAM::ManagedPolicy")
        for statement in readable(policy.properties["PolicyDocument"]["Statement"])
        if "logs:CreateLogGroup" in statement["Action"]
    ]
    assert creating == [("MonitoringPolicy", f"arn:aws:logs:eu-central-2:${{AWS::AccountId}}:{SHARED_GROUP}")]


def test_the_topic_does_not_log_its_deliveries_into_a_group_that_it_would_make_itself(system: System) -> None:
    for topic in system.of("AWS::SNS::Topic"):
        assert "DeliveryStatusLogging" not in topic.properties


def test_whatever_else_is_deployed_is_known_to_make_no_group(system: System) -> None:
    unknown = {each.type for each in system.all if each.type.split("::")[1] not in SILENT_SERVICES} - LOGGING
    assert not unknown, "Find out whether it logs: give it a group made by the stack, or add its service above."
