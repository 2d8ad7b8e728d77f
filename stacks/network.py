"""Network: an isolated VPC over two availability zones, and every security group with every rule.

All rules are here, whoever they are for: a rule in another nested stack would make the two depend on each other.
Each member has a group of its own, so that fencing one cannot touch the other. Nothing reaches the internet.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aws_cdk import CfnTag, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_scheduler as scheduler
from constructs import Construct

from stacks.names import DATABASE_PORT
from stacks.nested import CitizensStack
from stacks.permissions import allow, confined_service, identity
from stacks.policy_packs import NIST, acknowledge
from stacks.settings import Settings
from stacks.states import Ingress

HTTPS = 443
NFS = 2049

# What functions call from inside the VPC, service by service; the endpoint refuses everything else.
ENDPOINT_ACTIONS: Mapping[str, Sequence[str]] = {
    "secretsmanager": (
        "secretsmanager:DescribeSecret",
        "secretsmanager:GetRandomPassword",
        "secretsmanager:GetSecretValue",
        "secretsmanager:PutSecretValue",
        "secretsmanager:UpdateSecretVersionStage",
    ),
    "rds": ("rds:DescribeDBInstances", "rds:DescribeEvents"),
    "states": ("states:DescribeExecution", "states:StartExecution"),
    "monitoring": ("cloudwatch:DescribeAlarms", "cloudwatch:PutMetricData"),
}
TABLE_ACTIONS = ("dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:Scan", "dynamodb:UpdateItem")


@dataclass(frozen=True)
class NetworkProps:
    """Ids of the VPC, of its isolated subnets in the order of the settings' zones, and of the security groups."""

    vpc_id: str
    subnet_ids: tuple[str, str]
    member_group_ids: tuple[str, str]
    drill_group_id: str
    function_group_id: str
    mount_group_id: str
    member_ingress: tuple[Ingress, ...]
    """The rules of a member's group, the same for both: what a fence takes away and a reprotect gives back."""


class Network(CitizensStack):
    """The VPC `citizens-<suffix>`."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings) -> None:
        super().__init__(scope, construct_id, settings=settings)
        self._vpc = ec2.CfnVPC(
            self,
            "Vpc",
            cidr_block=settings.vpc_cidr,
            enable_dns_hostnames=True,
            enable_dns_support=True,
            tags=[CfnTag(key="Name", value=self.names.plain)],
        )
        acknowledge(
            self._vpc,
            ("AwsSolutions-VPC7", f"{NIST}-VPCFlowLogsEnabled"),
            "All of this VPC's traffic is logged by the flow log in Observability, which needs the key that Security "
            "makes after this stack; the rule sees this stack alone",
        )
        subnets, tables = self._subnets()
        members = (
            self._group("Member1Group", "member-1", "First member of the database"),
            self._group("Member2Group", "member-2", "Second member of the database"),
        )
        drill = self._group("DrillGroup", "drill", "Throw-away copies of the database that drills make")
        functions = self._group("FunctionGroup", "functions", "Functions that watch and recover the database")
        endpoints = self._group("EndpointGroup", "endpoints", "Private endpoints of AWS services")
        mounts = self._group("MountGroup", "mounts", "Mount targets of the transaction log")
        self._rules(members, functions, endpoints, mounts)
        # No application reaches a copy that takes writes and is not the database
        self._connect("FunctionsToDrill", functions, drill, DATABASE_PORT, "PostgreSQL")
        self._endpoints(subnets, tables, endpoints)
        self._close_default_group()

        self.props = NetworkProps(
            vpc_id=self._vpc.ref,
            subnet_ids=(subnets[0].ref, subnets[1].ref),
            member_group_ids=(members[0].attr_group_id, members[1].attr_group_id),
            drill_group_id=drill.attr_group_id,
            function_group_id=functions.attr_group_id,
            mount_group_id=mounts.attr_group_id,
            member_ingress=self._member_ingress(functions),
        )

    def _close_default_group(self) -> None:
        """Take away, at once and every day, the rules that EC2 gives a VPC's default group: no template can.

        A rule that is gone already makes EC2 refuse the call, which harms nothing: there is nothing left to do.
        """
        group_id = self._vpc.attr_default_security_group
        schedules = scheduler.CfnScheduleGroup(self, "Schedules", name=self.names.of("network"))
        who = identity(
            self,
            "CloseDefaultGroup",
            name=self.names.of("close-default-group"),
            description="Scheduler: close the VPC's default security group",
            principal=confined_service("scheduler.amazonaws.com", self.account, schedules.attr_arn),
            statements=[
                allow(
                    ("ec2:RevokeSecurityGroupEgress", "ec2:RevokeSecurityGroupIngress"),
                    [self.arn("ec2", f"security-group/{group_id}")],
                )
            ],
        )
        rules: Mapping[str, Any] = {
            "Ingress": {"UserIdGroupPairs": [{"GroupId": group_id}]},
            "Egress": {"IpRanges": [{"CidrIp": "0.0.0.0/0"}]},
        }
        for direction, rule in rules.items():
            schedule = scheduler.CfnSchedule(
                self,
                f"CloseDefaultGroup{direction}",
                name=self.names.of(f"close-default-group-{direction.lower()}"),
                group_name=schedules.ref,
                description=f"Closes the {direction.lower()} of the default security group",
                schedule_expression="rate(1 day)",
                flexible_time_window=scheduler.CfnSchedule.FlexibleTimeWindowProperty(mode="OFF"),
                target=scheduler.CfnSchedule.TargetProperty(
                    arn=f"arn:{self.partition}:scheduler:::aws-sdk:ec2:revokeSecurityGroup{direction}",
                    role_arn=who.arn,
                    input=Stack.of(self).to_json_string(
                        {"GroupId": group_id, "IpPermissions": [{"IpProtocol": "-1", **rule}]}
                    ),
                    retry_policy=scheduler.CfnSchedule.RetryPolicyProperty(
                        maximum_retry_attempts=3, maximum_event_age_in_seconds=900
                    ),
                ),
            )
            who.before(schedule)
        acknowledge(
            self._vpc,
            f"{NIST}-VPCDefaultSecurityGroupClosed",
            "Closed by the two schedules of this stack; the rule knows CDK's own custom resource only, whose function "
            "would be outside the VPC, unencrypted in its logs and without dead letters",
        )

    def _subnets(self) -> tuple[list[ec2.CfnSubnet], list[ec2.CfnRouteTable]]:
        """One isolated subnet a zone, an eighth of the VPC each; only the gateway endpoint adds routes."""
        blocks = ipaddress.IPv4Network(self.settings.vpc_cidr).subnets(prefixlen_diff=3)
        subnets, tables = [], []
        for zone, block in zip(self.settings.availability_zones, blocks, strict=False):
            letter = zone[-1].upper()
            name = [CfnTag(key="Name", value=f"{self.names.plain}-isolated-{zone}")]
            subnet = ec2.CfnSubnet(
                self,
                f"Subnet{letter}",
                vpc_id=self._vpc.ref,
                availability_zone=zone,
                cidr_block=str(block),
                map_public_ip_on_launch=False,
                tags=name,
            )
            table = ec2.CfnRouteTable(self, f"RouteTable{letter}", vpc_id=self._vpc.ref, tags=name)
            ec2.CfnSubnetRouteTableAssociation(self, f"Routes{letter}", subnet_id=subnet.ref, route_table_id=table.ref)
            subnets.append(subnet)
            tables.append(table)
        return subnets, tables

    def _group(self, construct_id: str, name: str, description: str) -> ec2.CfnSecurityGroup:
        """A group that lets nothing in and nothing out; what it may do is added by rules."""
        return ec2.CfnSecurityGroup(
            self,
            construct_id,
            group_name=self.names.of(name),
            group_description=description,
            vpc_id=self._vpc.ref,
            # Without any rule here EC2 adds one that allows everything out. This one can match no packet.
            security_group_egress=[
                ec2.CfnSecurityGroup.EgressProperty(
                    ip_protocol="icmp",
                    from_port=252,
                    to_port=86,
                    cidr_ip="255.255.255.255/32",
                    description="Disallow all traffic",
                )
            ],
            tags=[CfnTag(key="Name", value=self.names.of(name))],
        )

    def _rules(
        self,
        members: tuple[ec2.CfnSecurityGroup, ec2.CfnSecurityGroup],
        functions: ec2.CfnSecurityGroup,
        endpoints: ec2.CfnSecurityGroup,
        mounts: ec2.CfnSecurityGroup,
    ) -> None:
        for number, member in enumerate(members, start=1):
            # Deleted before the group that its rules speak of, be they the stack's or given back by a reprotect
            member.add_resource_dependency(functions)
            for position, cidr in enumerate(self.settings.application_cidrs, start=1):
                ec2.CfnSecurityGroupIngress(
                    self,
                    f"Application{position}ToMember{number}",
                    group_id=member.attr_group_id,
                    ip_protocol="tcp",
                    from_port=DATABASE_PORT,
                    to_port=DATABASE_PORT,
                    cidr_ip=cidr,
                    description=_from_applications(cidr),
                )
            self._connect(f"FunctionsToMember{number}", functions, member, DATABASE_PORT, "PostgreSQL")
        self._connect("FunctionsToEndpoints", functions, endpoints, HTTPS, "AWS services")
        self._connect("FunctionsToMounts", functions, mounts, NFS, "transaction log")
        # The gateway endpoints' addresses are the region's prefix lists, whose ids differ by region and are in no
        # template. The route tables are the limit: they lead to those prefix lists and nowhere else.
        ec2.CfnSecurityGroupEgress(
            self,
            "FunctionsToTable",
            group_id=functions.attr_group_id,
            ip_protocol="tcp",
            from_port=HTTPS,
            to_port=HTTPS,
            cidr_ip="0.0.0.0/0",
            description="recovery table and evidence, by the only routes there are",
        )

    def _member_ingress(self, functions: ec2.CfnSecurityGroup) -> tuple[Ingress, ...]:
        """What `_rules` lets in to a member, as EC2's API has it."""
        ports = {"IpProtocol": "tcp", "FromPort": DATABASE_PORT, "ToPort": DATABASE_PORT}
        group = functions.attr_group_id
        return (
            *(
                Ingress(cidr, {**ports, "IpRanges": [{"CidrIp": cidr, "Description": _from_applications(cidr)}]})
                for cidr in self.settings.application_cidrs
            ),
            Ingress(
                group,
                {
                    **ports,
                    "UserIdGroupPairs": [{"GroupId": group, "Description": _from_functions("PostgreSQL")}],
                },
            ),
        )

    def _connect(
        self,
        construct_id: str,
        source: ec2.CfnSecurityGroup,
        target: ec2.CfnSecurityGroup,
        port: int,
        what: str,
    ) -> None:
        ports: dict[str, Any] = {"ip_protocol": "tcp", "from_port": port, "to_port": port}
        ec2.CfnSecurityGroupIngress(
            self,
            f"{construct_id}In",
            group_id=target.attr_group_id,
            source_security_group_id=source.attr_group_id,
            description=_from_functions(what),
            **ports,
        )
        ec2.CfnSecurityGroupEgress(
            self,
            f"{construct_id}Out",
            group_id=source.attr_group_id,
            destination_security_group_id=target.attr_group_id,
            description=f"{what}",
            **ports,
        )

    def _endpoints(
        self, subnets: list[ec2.CfnSubnet], tables: list[ec2.CfnRouteTable], group: ec2.CfnSecurityGroup
    ) -> None:
        for service, actions in ENDPOINT_ACTIONS.items():
            ec2.CfnVPCEndpoint(
                self,
                f"{service.capitalize()}Endpoint",
                vpc_id=self._vpc.ref,
                vpc_endpoint_type="Interface",
                service_name=f"com.amazonaws.{self.region}.{service}",
                private_dns_enabled=True,
                subnet_ids=[subnet.ref for subnet in subnets],
                security_group_ids=[group.attr_group_id],
                policy_document=self._only_this_account(actions, "*"),
            )
        ec2.CfnVPCEndpoint(
            self,
            "DynamodbEndpoint",
            vpc_id=self._vpc.ref,
            vpc_endpoint_type="Gateway",
            service_name=f"com.amazonaws.{self.region}.dynamodb",
            route_table_ids=[table.ref for table in tables],
            policy_document=self._only_this_account(TABLE_ACTIONS, self.recovery_table_arn),
        )
        evidence = f"arn:{self.partition}:s3:::{self.names.evidence_bucket(self.account)}/*"
        ec2.CfnVPCEndpoint(
            self,
            "S3Endpoint",
            vpc_id=self._vpc.ref,
            vpc_endpoint_type="Gateway",
            service_name=f"com.amazonaws.{self.region}.s3",
            route_table_ids=[table.ref for table in tables],
            policy_document=self._only_this_account(("s3:PutObject",), evidence),
        )

    def _only_this_account(self, actions: Sequence[str], resource: str) -> dict[str, Any]:
        """An endpoint policy: which actions, and whose principals; the roles' own policies say on what."""
        return {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "OnlyThisAccount",
                    "Effect": "Allow",
                    "Principal": {"AWS": "*"},
                    "Action": list(actions),
                    "Resource": resource,
                    "Condition": {"StringEquals": {"aws:PrincipalAccount": self.account}},
                }
            ],
        }


def _from_applications(cidr: str) -> str:
    return f"PostgreSQL from applications in {cidr}"


def _from_functions(what: str) -> str:
    return f"{what} from functions"
