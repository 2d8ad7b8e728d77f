"""Database: two members, each Multi-AZ; the second starts as the first's replica. Roles alternate, names do not.

`SourceDBInstanceIdentifier` must never be edited: after a promotion CloudFormation would promote or refuse. A
template that does not change leaves promoted members alone.
"""

from dataclasses import dataclass

from aws_cdk import CfnDeletionPolicy, CfnResource
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_rds as rds
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from stacks.function import Members
from stacks.names import DATABASE, DATABASE_PORT
from stacks.nested import CitizensStack
from stacks.network import NetworkProps
from stacks.permissions import allow, confined_service, identity
from stacks.security import SecurityProps
from stacks.settings import Settings

EXPORTED_LOGS = ("postgresql", "upgrade")
MONITORING_SECONDS = 15
ROTATION_DAYS = 30
# The newest CA of the region that functions and clients verify against.
CERTIFICATE_AUTHORITY = "rds-ca-rsa2048-g1"
# Storage grows by itself up to this many times its first size: a full disk stops the primary.
STORAGE_GROWTH = 5
# A slot that nobody reads keeps WAL until the disk is full. Beyond this share of the disk the slot is given up instead.
SLOT_SHARE_OF_STORAGE = 0.25


@dataclass(frozen=True)
class DatabaseProps:
    """How to reach the members, and the names of their log groups (`postgresql`), in the order of the members."""

    members: Members
    log_groups: tuple[str, str]


class Database(CitizensStack):
    """The members `citizens-1-<suffix>` and `citizens-2-<suffix>`."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        network: NetworkProps,
        security: SecurityProps,
    ) -> None:
        super().__init__(scope, construct_id, settings=settings)
        self._subnets = rds.CfnDBSubnetGroup(
            self,
            "Subnets",
            db_subnet_group_name=self.names.plain,
            db_subnet_group_description="Exactly two zones, so that a member and its Multi-AZ copy are apart",
            subnet_ids=list(network.subnet_ids),
        )
        self._parameters = self._parameter_group()
        monitoring = self._monitoring()
        logs = [self._logs(member, security.log_key_arn) for member in self.names.members]
        first = self._primary(network.member_group_ids[0], security.data_key_arn, monitoring.role.role_arn)
        second = self._standby(first, network.member_group_ids[1], monitoring.role.role_arn)
        for instance, groups in zip((first, second), logs, strict=True):
            monitoring.before(instance)
            for group in groups:
                instance.add_dependency(group)
        self.props = DatabaseProps(
            members=Members(
                identifiers=self.names.members,
                hosts=(first.attr_endpoint_address, second.attr_endpoint_address),
                secret_arn=self._secret(first, security),
            ),
            log_groups=(logs[0][0].ref, logs[1][0].ref),
        )

    def _parameter_group(self) -> rds.CfnDBParameterGroup:
        slot_mib = int(self.settings.allocated_storage * 1024 * SLOT_SHARE_OF_STORAGE)
        return rds.CfnDBParameterGroup(
            self,
            "Parameters",
            db_parameter_group_name=self.names.plain,
            description="TLS only, logical decoding, connections and slow statements logged",
            family=f"postgres{self.settings.engine_version.split('.')[0]}",
            parameters={
                "rds.force_ssl": "1",
                "rds.logical_replication": "1",
                "max_slot_wal_keep_size": str(slot_mib),
                "hot_standby_feedback": "1",
                "wal_sender_timeout": "30000",
                "log_connections": "1",
                "log_disconnections": "1",
                "log_lock_waits": "1",
                "log_min_duration_statement": "1000",
                "log_statement": "ddl",
            },
        )

    def _monitoring(self) -> "_Identity":
        # Enhanced monitoring writes to one log group that the whole account shares; it is never ours to delete.
        group = self.arn("logs", "log-group:RDSOSMetrics")
        return identity(
            self,
            "Monitoring",
            name=self.names.of("monitoring"),
            description="RDS enhanced monitoring of both members",
            principal=confined_service("monitoring.rds.amazonaws.com", self.account),
            statements=[
                allow(("logs:CreateLogGroup", "logs:PutRetentionPolicy"), [group]),
                allow(
                    (
                        "logs:CreateLogStream",
                        "logs:DescribeLogStreams",
                        "logs:GetLogEvents",
                        "logs:PutLogEvents",
                    ),
                    [f"{group}:log-stream:*"],
                ),
            ],
        )

    def _logs(self, member: str, key_arn: str) -> list[CfnResource]:
        """Made before the instance, so that RDS finds them and a destroy leaves none behind."""
        number = self.names.members.index(member) + 1
        return [
            self.log_group(f"Member{number}{log.capitalize()}Logs", self.names.member_log_group(member, log), key_arn)
            for log in EXPORTED_LOGS
        ]
