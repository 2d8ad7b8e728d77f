"""Storage: what outlives a failover outside the database — the transaction log's files, the recovery table, backups."""

from dataclasses import dataclass

from aws_cdk import aws_backup as backup
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_efs as efs
from aws_cdk import aws_iam as iam
from constructs import Construct

from stacks.backup_plan import NIGHTLY
from stacks.nested import CitizensStack
from stacks.network import NetworkProps
from stacks.permissions import allow, identity, without_resources
from stacks.security import SecurityProps
from stacks.settings import Settings

# Lambda's own convention for a function's files: a POSIX user of its own, never root.
LOG_USER = "1000"


@dataclass(frozen=True)
class StorageProps:
    """The file system and its access point, the table, the vault."""

    file_system_id: str
    file_system_arn: str
    access_point_id: str
    access_point_arn: str
    table_name: str
    vault_name: str


class Storage(CitizensStack):
    """File system, recovery table and backup plan."""

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
        files = self._file_system(security.data_key_arn)
        for letter, subnet_id in zip(
            (zone[-1].upper() for zone in settings.availability_zones), network.subnet_ids, strict=True
        ):
            efs.CfnMountTarget(
                self,
                f"Mount{letter}",
                file_system_id=files.ref,
                subnet_id=subnet_id,
                security_groups=[network.mount_group_id],
            )
        point = self._access_point(files)
        table = self._table(security.data_key_arn)
        vault = self._vault(security.data_key_arn)
        self._plan(vault, files, security.data_key_arn)
        self.props = StorageProps(
            file_system_id=files.ref,
            file_system_arn=files.attr_arn,
            access_point_id=point.ref,
            access_point_arn=point.attr_arn,
            table_name=table.ref,
            vault_name=vault.ref,
        )

    def _file_system(self, key_arn: str) -> efs.CfnFileSystem:
        files = efs.CfnFileSystem(
            self,
            "TransactionLog",
            encrypted=True,
            kms_key_id=key_arn,
            performance_mode="generalPurpose",
            throughput_mode="elastic",
            lifecycle_policies=[
                # And not back after an access: verifying reads every segment, twice a day
                efs.CfnFileSystem.LifecyclePolicyProperty(transition_to_ia="AFTER_30_DAYS"),
            ],
            # The automatic policy would leave recovery points in the account's own vault: the plan below backs up
            backup_policy=efs.CfnFileSystem.BackupPolicyProperty(status="DISABLED"),
            # Denies the clients' actions only: denying all of them would lock the policy's own administrators out.
            # It does not name the access point, which needs the file system first.
            file_system_policy={
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Sid": "OnlyOverTls",
                        "Effect": "Deny",
                        "Principal": {"AWS": "*"},
                        "Action": [
                            "elasticfilesystem:ClientMount",
                            "elasticfilesystem:ClientRootAccess",
                            "elasticfilesystem:ClientWrite",
                        ],
                        "Resource": "*",
                        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                    }
                ],
            },
            file_system_tags=[efs.CfnFileSystem.ElasticFileSystemTagProperty(key="Name", value=self.names.file_system)],
        )
        self.keep_or_destroy(files)
        return files

    def _access_point(self, files: efs.CfnFileSystem) -> efs.CfnAccessPoint:
        return efs.CfnAccessPoint(
            self,
            "AccessPoint",
            file_system_id=files.ref,
            posix_user=efs.CfnAccessPoint.PosixUserProperty(uid=LOG_USER, gid=LOG_USER),
            root_directory=efs.CfnAccessPoint.RootDirectoryProperty(
                path="/transaction-log",
                creation_info=efs.CfnAccessPoint.CreationInfoProperty(
                    owner_uid=LOG_USER, owner_gid=LOG_USER, permissions="0750"
                ),
            ),
            access_point_tags=[efs.CfnAccessPoint.AccessPointTagProperty(key="Name", value=self.names.file_system)],
        )

    def _table(self, key_arn: str) -> dynamodb.CfnTable:
        table = dynamodb.CfnTable(
            self,
            "RecoveryTable",
            table_name=self.names.recovery_table,
            billing_mode="PAY_PER_REQUEST",
            attribute_definitions=[
                dynamodb.CfnTable.AttributeDefinitionProperty(attribute_name="id", attribute_type="S")
            ],
            key_schema=[dynamodb.CfnTable.KeySchemaProperty(attribute_name="id", key_type="HASH")],
            sse_specification=dynamodb.CfnTable.SSESpecificationProperty(
                sse_enabled=True, sse_type="KMS", kms_master_key_id=key_arn
            ),
            point_in_time_recovery_specification=dynamodb.CfnTable.PointInTimeRecoverySpecificationProperty(
                point_in_time_recovery_enabled=True
            ),
            time_to_live_specification=dynamodb.CfnTable.TimeToLiveSpecificationProperty(
                attribute_name="expires_at", enabled=True
            ),
            deletion_protection_enabled=self.settings.protect,
        )
        self.keep_or_destroy(table)
        return table

    def _vault(self, key_arn: str) -> backup.CfnBackupVault:
        vault = backup.CfnBackupVault(
            self,
            "Vault",
            backup_vault_name=self.names.plain,
            encryption_key_arn=key_arn,
            lock_configuration=(
                backup.CfnBackupVault.LockConfigurationTypeProperty(min_retention_days=NIGHTLY.kept_days)
                if self.settings.protect
                else None
            ),
        )
        self.keep_or_destroy(vault)
        return vault

    def _plan(self, vault: backup.CfnBackupVault, files: efs.CfnFileSystem, key_arn: str) -> None:
        plan = backup.CfnBackupPlan(
            self,
            "Plan",
            backup_plan=backup.CfnBackupPlan.BackupPlanResourceTypeProperty(
                backup_plan_name=self.names.plain,
                backup_plan_rule=[
                    backup.CfnBackupPlan.BackupRuleResourceTypeProperty(
                        rule_name="daily",
                        target_backup_vault=vault.ref,
                        schedule_expression=NIGHTLY.schedule,
                        start_window_minutes=NIGHTLY.start_window_minutes,
                        completion_window_minutes=NIGHTLY.completion_window_minutes,
                        lifecycle=backup.CfnBackupPlan.LifecycleResourceTypeProperty(
                            delete_after_days=NIGHTLY.kept_days
                        ),
                    )
                ],
            ),
        )
        snapshots = self.arn("rds", "snapshot:awsbackup:*")
        who = identity(
            self,
            "Backup",
            name=self.names.of("backup"),
            description="AWS Backup: daily recovery points of both members, the files and the table",
            # AWS Backup does not say for which account it takes a role, so a condition would shut it out
            principal=iam.ServicePrincipal("backup.amazonaws.com"),
            statements=[
                allow(
                    ("rds:AddTagsToResource", "rds:CreateDBSnapshot", "rds:DescribeDBInstances"),
                    [*self.member_arns, snapshots],
                ),
                allow(("rds:ListTagsForResource",), [*self.member_arns, snapshots]),
                allow(("rds:DeleteDBSnapshot", "rds:ModifyDBSnapshotAttribute"), [snapshots]),
                allow(("elasticfilesystem:Backup", "elasticfilesystem:DescribeTags"), [files.attr_arn]),
                allow(
                    (
                        "dynamodb:CreateBackup",
                        "dynamodb:DescribeTable",
                        "dynamodb:ListTagsOfResource",
                        "dynamodb:StartAwsBackupJob",
                    ),
                    [self.recovery_table_arn],
                ),
                allow(("backup:CopyIntoBackupVault", "backup:DescribeBackupVault"), [vault.attr_backup_vault_arn]),
                without_resources(("rds:DescribeDBSnapshots", "tag:GetResources")),
                allow(("kms:DescribeKey", "kms:Decrypt", "kms:GenerateDataKey"), [key_arn]),
                allow(("kms:CreateGrant",), [key_arn], {"Bool": {"kms:GrantIsForAWSResource": "true"}}),
            ],
            patterns={snapshots: "AWS Backup makes up the names of its snapshots; only they begin with awsbackup:"},
        )
        selection = backup.CfnBackupSelection(
            self,
            "Selection",
            backup_plan_id=plan.ref,
            backup_selection=backup.CfnBackupSelection.BackupSelectionResourceTypeProperty(
                selection_name=self.names.plain,
                iam_role_arn=who.arn,
                # The members by their fixed identifiers: they come later than this, and may be made again under them
                resources=[*self.member_arns, files.attr_arn, self.recovery_table_arn],
            ),
        )
        who.before(selection)
