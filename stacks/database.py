"""Database: two members, each Multi-AZ; the second starts as the first's replica. Roles alternate, names do not.

`SourceDBInstanceIdentifier` must never be edited: after a promotion CloudFormation would promote or refuse. A
template that does not change leaves promoted members alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aws_cdk import CfnResource, RemovalPolicy, SecretValue
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_rds as rds
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from stacks import instance_class, schedule
from stacks.function import DeployedFunction, FunctionSpec, Members, function, read_secret, use_table
from stacks.names import DATABASE, DATABASE_PORT
from stacks.nested import CitizensStack
from stacks.network import NetworkProps
from stacks.permissions import Identity, allow, confined_service, identity, without_resources
from stacks.policy_packs import NIST, acknowledge
from stacks.security import SecurityProps
from stacks.settings import Settings

EXPORTED_LOGS = ("postgresql", "upgrade")
MONITORING_SECONDS = 15
# A database that was restored has no roles for the functions until they are put back.
PREPARATION_MINUTES = 5
# The newest CA of the region that functions and clients verify against.
CERTIFICATE_AUTHORITY = "rds-ca-rsa2048-g1"
# Storage grows by itself up to this many times its first size: a full disk stops the primary.
STORAGE_GROWTH = 5
# A slot that nobody reads keeps WAL until the disk is full. Beyond this share of the disk the slot is given up instead.
SLOT_SHARE_OF_STORAGE = 0.25
# Backup and maintenance windows of the members, apart from each other: UTC.
WINDOWS = (("01:00-01:30", "sun:04:00-sun:04:30"), ("01:45-02:15", "sun:05:00-sun:05:30"))
# The findings that the setting `protect` decides.
DELETION_PROTECTION = ("AwsSolutions-RDS10", f"{NIST}-RDSInstanceDeletionProtectionEnabled")


# What a member has in common with the other, by how RDS's API has it (SDK for Java): given at a replica's creation …
CREATED: Mapping[str, str] = {
    "db_instance_class": "DbInstanceClass",
    "multi_az": "MultiAZ",
    "storage_type": "StorageType",
    "max_allocated_storage": "MaxAllocatedStorage",
    "vpc_security_groups": "VpcSecurityGroupIds",
    "db_parameter_group_name": "DbParameterGroupName",
    "publicly_accessible": "PubliclyAccessible",
    "enable_iam_database_authentication": "EnableIAMDatabaseAuthentication",
    "ca_certificate_identifier": "CaCertificateIdentifier",
    "enable_cloudwatch_logs_exports": "EnableCloudwatchLogsExports",
    "monitoring_interval": "MonitoringInterval",
    "monitoring_role_arn": "MonitoringRoleArn",
    "copy_tags_to_snapshot": "CopyTagsToSnapshot",
    "deletion_protection": "DeletionProtection",
    "auto_minor_version_upgrade": "AutoMinorVersionUpgrade",
}
# … changed afterwards, because RDS refuses it there …
MODIFIED: Mapping[str, str] = {
    "backup_retention_period": "BackupRetentionPeriod",
    "preferred_backup_window": "PreferredBackupWindow",
    "preferred_maintenance_window": "PreferredMaintenanceWindow",
}
# … or said when a member is deleted or changed, so no property of an instance.
OF_REQUESTS = ("delete_automated_backups", "allow_major_version_upgrade")


@dataclass(frozen=True)
class Replica:
    """How to make a member again, as the other's replica: arguments of the creation, settings changed afterwards."""

    created: Mapping[str, Any]
    wanted: Mapping[str, Any]


def made_again(common: Mapping[str, Any]) -> Replica:
    """The members' common properties as RDS's API has them; ValueError for one that none of the three lists names."""
    unknown = set(common) ^ {*CREATED, *MODIFIED, *OF_REQUESTS}
    if unknown:
        raise ValueError(f"A member made again would differ in {', '.join(sorted(unknown))}: say how RDS's API has it.")
    return Replica(
        created={name: common[each] for each, name in CREATED.items()},
        wanted={name: common[each] for each, name in MODIFIED.items()},
    )


@dataclass(frozen=True)
class DatabaseProps:
    """How to reach the members, the rotation function, the members' log groups (`postgresql`) in their order, how to
    make each again."""

    members: Members
    rotation: DeployedFunction
    log_groups: tuple[str, str]
    replicas: tuple[Replica, Replica]
    monitoring_role_arn: str


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
        common = [
            self._common(group_id, monitoring.arn, *windows)
            for group_id, windows in zip(network.member_group_ids, WINDOWS, strict=True)
        ]
        first = self._primary(common[0], security.data_key_arn)
        second = self._standby(first, common[1])
        for instance, groups in zip((first, second), logs, strict=True):
            monitoring.before(instance)
            for group in groups:
                instance.add_resource_dependency(group)
        members = Members(
            identifiers=self.names.members,
            hosts=(first.attr_endpoint_address, second.attr_endpoint_address),
            secret_arn=self._attach_secret(first),
        )
        self.props = DatabaseProps(
            members=members,
            rotation=self._rotate(members, security),
            log_groups=(logs[0][0].ref, logs[1][0].ref),
            replicas=(self._replica(0, common[0]), self._replica(1, common[1])),
            monitoring_role_arn=monitoring.arn,
        )

    def _replica(self, position: int, common: Mapping[str, Any]) -> Replica:
        """From the same properties as the template's, so that the two cannot differ."""
        replica = made_again(common)
        own = {
            "DbInstanceIdentifier": self.names.members[position],
            "Port": DATABASE_PORT,
            "Tags": [{"Key": key, "Value": value} for key, value in sorted(self.settings.tags.items())],
        }
        return Replica({**replica.created, **own}, replica.wanted)

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
                # Roll forward tells by it where a promoted or restored database stands in the log
                "track_commit_timestamp": "1",
                "max_slot_wal_keep_size": str(slot_mib),
                "hot_standby_feedback": "1",
                # The standby keeps the log's slot in step, so a promoted one has it before any client writes. RDS asks
                # the database of its `rds.` parameter for the slots. `synchronized_standby_slots` stays unset: with the
                # standby lost it would stop the archive.
                "sync_replication_slots": "1",
                "rds.logical_slot_sync_dbname": DATABASE,
                "wal_sender_timeout": "30000",
                "max_connections": str(instance_class.of(self.settings.instance_class).max_connections),
                "log_connections": "1",
                "log_disconnections": "1",
                "log_lock_waits": "1",
                "log_min_duration_statement": "1000",
            },
        )

    def _monitoring(self) -> Identity:
        # Enhanced monitoring writes to one log group that the whole account shares; it is never ours to delete.
        group = self.arn("logs", "log-group:RDSOSMetrics")
        streams = f"{group}:log-stream:*"
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
                    [streams],
                ),
            ],
            patterns={streams: "RDS names a stream after the member's resource id, unknown until the member exists"},
        )

    def _logs(self, member: str, key_arn: str) -> list[CfnResource]:
        """Made before the instance, so that RDS finds them and a destroy leaves none behind."""
        number = self.names.members.index(member) + 1
        return [
            self.log_group(f"Member{number}{log.capitalize()}Logs", self.names.member_log_group(member, log), key_arn)
            for log in EXPORTED_LOGS
        ]

    def _common(self, group_id: str, monitoring_role_arn: str, window: str, maintenance: str) -> dict[str, Any]:
        settings = self.settings
        return {
            "db_instance_class": settings.instance_class,
            "multi_az": True,
            "storage_type": "gp3",
            "max_allocated_storage": min(settings.allocated_storage * STORAGE_GROWTH, 65536),
            "vpc_security_groups": [group_id],
            "db_parameter_group_name": self._parameters.ref,
            "publicly_accessible": False,
            "enable_iam_database_authentication": True,
            "ca_certificate_identifier": CERTIFICATE_AUTHORITY,
            "enable_cloudwatch_logs_exports": list(EXPORTED_LOGS),
            "monitoring_interval": MONITORING_SECONDS,
            "monitoring_role_arn": monitoring_role_arn,
            # RDS lets a PostgreSQL replica have backups of its own, so that a promoted one is covered from the start
            "backup_retention_period": settings.backup_retention_days,
            "preferred_backup_window": window,
            "preferred_maintenance_window": maintenance,
            "copy_tags_to_snapshot": True,
            "delete_automated_backups": not settings.protect,
            "deletion_protection": settings.protect,
            # Roles alternate, so the version is what the template says, never what one member drifted to
            "auto_minor_version_upgrade": False,
            "allow_major_version_upgrade": False,
        }

    def _primary(self, common: Mapping[str, Any], key_arn: str) -> rds.CfnDBInstance:
        instance = rds.CfnDBInstance(
            self,
            "Member1",
            db_instance_identifier=self.names.members[0],
            engine="postgres",
            engine_version=self.settings.engine_version,
            db_name=DATABASE,
            port=str(DATABASE_PORT),
            allocated_storage=str(self.settings.allocated_storage),
            storage_encrypted=True,
            kms_key_id=key_arn,
            db_subnet_group_name=self._subnets.ref,
            # Always references by this form: another form of the user name would replace the database
            master_username=self._of_secret("username"),
            master_user_password=self._of_secret("password"),
            **common,
        )
        self._deploy_member(instance)
        return instance

    def _standby(self, source: rds.CfnDBInstance, common: Mapping[str, Any]) -> rds.CfnDBInstance:
        """Engine, user, database name, storage, key and subnets are the source's; RDS refuses most of them here."""
        instance = rds.CfnDBInstance(
            self,
            "Member2",
            db_instance_identifier=self.names.members[1],
            source_db_instance_identifier=source.ref,
            port=str(DATABASE_PORT),
            **common,
        )
        self._deploy_member(instance)
        acknowledge(
            instance,
            ("AwsSolutions-RDS2", f"{NIST}-RDSStorageEncrypted"),
            "A replica in the same region has the storage encryption and the key of its source, Member1; RDS refuses "
            "both properties here",
        )
        return instance

    def _deploy_member(self, instance: rds.CfnDBInstance) -> None:
        protect = self.settings.protect
        instance.apply_removal_policy(RemovalPolicy.SNAPSHOT if protect else RemovalPolicy.DESTROY)
        acknowledge(
            instance,
            "AwsSolutions-RDS11",
            "Another port would hide nothing: clients get it in the outputs. Only the application ranges and the "
            "functions are let in, over verified TLS",
        )
        acknowledge(
            instance,
            f"{NIST}-RDSInBackupPlan",
            "The selection in Storage names this member by its ARN, daily for 35 days; the rule sees this stack alone",
        )
        if not protect:
            acknowledge(
                instance,
                DELETION_PROTECTION,
                f"protect is off: the environment {self.settings.environment_suffix} is made to be destroyed",
            )

    def _of_secret(self, field: str) -> str:
        return SecretValue.secrets_manager(self.settings.secret_name, json_field=field).unsafe_unwrap()

    def _attach_secret(self, instance: rds.CfnDBInstance) -> str:
        """Write engine, host, port and database into the agency's secret. Returns its full ARN, unknown before."""
        attachment = secretsmanager.CfnSecretTargetAttachment(
            self,
            "SecretAttachment",
            secret_id=self.settings.secret_name,
            target_id=instance.ref,
            target_type="AWS::RDS::DBInstance",
        )
        return attachment.ref

    def _rotate(self, members: Members, security: SecurityProps) -> DeployedFunction:
        """The rotation, which must come after the attachment: before `host` is in the secret it would fail."""
        rotation = function(
            self,
            FunctionSpec(
                name="rotation",
                module="rotation",
                purpose="Changes the password of the database and does all else that needs the main user",
                timeout=60,
                # A step of a rotation and its repetition, the schedule's run, and the failover machine's
                concurrency=4,
                environment={
                    "MEMBERS": members.as_json(),
                    "PASSWORD_LENGTH": str(self.settings.password_length),
                    "PASSWORD_EXCLUDED": self.settings.password_excluded,
                    "TRANSACTION_LOG": "on" if self.settings.transaction_log else "off",
                },
                statements=[
                    *read_secret(self, members.secret_arn),
                    allow(
                        (
                            "secretsmanager:DescribeSecret",
                            "secretsmanager:PutSecretValue",
                            "secretsmanager:UpdateSecretVersionStage",
                        ),
                        [members.secret_arn],
                    ),
                    without_resources(("secretsmanager:GetRandomPassword",)),
                    *use_table(self, security.platform),
                ],
            ),
            security.platform,
        )
        schedule.every(
            self,
            rotation,
            security.platform,
            schedule.group(self, "rotation"),
            minutes=PREPARATION_MINUTES,
            payload='{"Step": "prepareDatabase", "time": "<aws.scheduler.scheduled-time>"}',
        )
        invoke = lambda_.CfnPermission(
            self,
            "SecretMayRotate",
            action="lambda:InvokeFunction",
            function_name=rotation.arn,
            principal="secretsmanager.amazonaws.com",
            source_account=self.account,
            source_arn=members.secret_arn,
        )
        rotations = secretsmanager.CfnRotationSchedule(
            self,
            "SecretRotation",
            secret_id=members.secret_arn,
            rotation_lambda_arn=rotation.arn,
            # Still runs the rotation's testSecret step, so a deployment proves that the function works
            rotate_immediately_on_update=False,
            rotation_rules=secretsmanager.CfnRotationSchedule.RotationRulesProperty(
                automatically_after_days=self.settings.rotation_days
            ),
        )
        rotations.add_resource_dependency(invoke)
        return rotation
