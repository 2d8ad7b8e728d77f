import json

from tests.unit.stacks.conftest import SUFFIX, System


def test_the_vpc_spans_two_zones_and_knows_no_internet(system: System) -> None:
    subnets = system.of("AWS::EC2::Subnet")
    assert [each.properties["AvailabilityZone"] for each in subnets] == ["eu-central-2a", "eu-central-2c"]
    assert {each.properties["CidrBlock"] for each in subnets} == {"10.40.0.0/19", "10.40.32.0/19"}
    assert not any(each.properties["MapPublicIpOnLaunch"] for each in subnets)
    kinds = {each.type for each in system.all}
    assert not kinds & {"AWS::EC2::InternetGateway", "AWS::EC2::NatGateway", "AWS::EC2::Route", "AWS::EC2::EIP"}


def test_each_member_has_a_group_of_its_own(system: System) -> None:
    first, second = system.of("AWS::RDS::DBInstance")
    assert first.properties["VPCSecurityGroups"] != second.properties["VPCSecurityGroups"]
    assert len(first.properties["VPCSecurityGroups"]) == len(second.properties["VPCSecurityGroups"]) == 1


def test_a_member_lets_in_only_applications_and_functions_on_the_database_port(system: System) -> None:
    for number in (1, 2):
        rules = [
            each.properties
            for each in system.of("AWS::EC2::SecurityGroupIngress")
            if each.properties["GroupId"]["Fn::GetAtt"][0] == f"Member{number}Group"
        ]
        assert {(rule["FromPort"], rule["ToPort"], rule["IpProtocol"]) for rule in rules} == {(5432, 5432, "tcp")}
        assert [rule["CidrIp"] for rule in rules if "CidrIp" in rule] == ["10.60.0.0/16"]
        sources = [rule["SourceSecurityGroupId"]["Fn::GetAtt"][0] for rule in rules if "CidrIp" not in rule]
        assert sources == ["FunctionGroup"]


def test_no_group_lets_the_world_in_or_everything_out(system: System) -> None:
    for rule in system.of("AWS::EC2::SecurityGroupIngress"):
        assert rule.properties.get("CidrIp") != "0.0.0.0/0"
    for rule in system.of("AWS::EC2::SecurityGroupEgress"):
        assert rule.properties["IpProtocol"] == "tcp"
        assert rule.properties["FromPort"] == rule.properties["ToPort"]
    for group in system.of("AWS::EC2::SecurityGroup"):
        assert "SecurityGroupIngress" not in group.properties
        assert [rule["CidrIp"] for rule in group.properties["SecurityGroupEgress"]] == ["255.255.255.255/32"]


def test_functions_reach_members_endpoints_and_mounts_and_are_let_in_there(system: System) -> None:
    def pairs(kind: str, source: str, target: str) -> set[tuple[str, str, int]]:
        return {
            (rule[source]["Fn::GetAtt"][0], rule[target]["Fn::GetAtt"][0], rule["FromPort"])
            for each in system.of(kind)
            if source in (rule := each.properties) and target in rule
        }

    out = pairs("AWS::EC2::SecurityGroupEgress", "GroupId", "DestinationSecurityGroupId")
    assert out == pairs("AWS::EC2::SecurityGroupIngress", "SourceSecurityGroupId", "GroupId")
    assert out == {
        ("FunctionGroup", "Member1Group", 5432),
        ("FunctionGroup", "Member2Group", 5432),
        ("FunctionGroup", "DrillGroup", 5432),
        ("FunctionGroup", "EndpointGroup", 443),
        ("FunctionGroup", "MountGroup", 2049),
    }


def test_functions_reach_aws_by_private_endpoints_that_allow_only_what_they_call(system: System) -> None:
    endpoints = {each.properties["ServiceName"].rsplit(".", 1)[1]: each for each in system.of("AWS::EC2::VPCEndpoint")}
    assert set(endpoints) == {"secretsmanager", "rds", "states", "monitoring", "dynamodb", "s3"}
    for name, endpoint in endpoints.items():
        assert endpoint.properties["VpcEndpointType"] == ("Gateway" if name in ("dynamodb", "s3") else "Interface")
        (statement,) = endpoint.properties["PolicyDocument"]["Statement"]
        assert statement["Condition"] == {"StringEquals": {"aws:PrincipalAccount": {"Ref": "AWS::AccountId"}}}


def test_an_endpoint_allows_every_action_that_a_function_is_granted_through_it(system: System) -> None:
    allowed = {
        action
        for each in system.of("AWS::EC2::VPCEndpoint")
        for statement in each.properties["PolicyDocument"]["Statement"]
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }
    functions = [each for each in system.of("AWS::IAM::ManagedPolicy") if "WitnessAPolicy" in each.logical_id]
    functions += [
        each
        for name in ("WitnessC", "Arbiter", "Probe", "OpenLog", "Cutover", "Verify", "Archive", "Rotation")
        for each in system.of("AWS::IAM::ManagedPolicy")
        if each.logical_id == f"{name}Policy"
    ]
    assert len(functions) == 9
    for policy in functions:
        for statement in policy.properties["PolicyDocument"]["Statement"]:
            actions = statement["Action"]
            for action in [actions] if isinstance(actions, str) else actions:
                if action.split(":")[0] in ("secretsmanager", "rds", "states", "cloudwatch", "dynamodb"):
                    assert action in allowed, f"{policy.logical_id}: {action}"


def test_all_traffic_is_logged_into_an_encrypted_group(system: System) -> None:
    (flow_log,) = system.of("AWS::EC2::FlowLog")
    assert flow_log.properties["TrafficType"] == "ALL"
    group = system.the("AWS::Logs::LogGroup", flow_log.properties["LogGroupName"]["Ref"])
    assert group.properties["LogGroupName"] == f"/aws/vpc/flow-logs/citizens-{SUFFIX}"


def test_closing_the_default_group_when_it_is_closed_already_rings_nowhere(system: System) -> None:
    """EC2 refuses to revoke what is gone, which is how it should be, every day: no dead letter, no alarm."""
    closing = [each for each in system.of("AWS::Scheduler::Schedule") if "CloseDefaultGroup" in each.logical_id]
    assert len(closing) == 2
    assert not [each for each in closing if "DeadLetterConfig" in each.properties["Target"]]
    assert not [each for each in system.of("AWS::CloudWatch::Alarm") if each.properties["Namespace"] == "AWS/Scheduler"]


def test_more_application_ranges_give_more_rules(protected: System) -> None:
    assert "Application1ToMember1" in json.dumps(protected.templates["Network"])
