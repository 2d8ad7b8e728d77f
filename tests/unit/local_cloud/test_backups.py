"""A vault is in the way of a destroy as it is on AWS: as long as it holds recovery points, and for good when locked."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.unit.local_cloud.running_cloud import ACCOUNT, RunningCloud

INSTANCE = f"arn:aws:rds:eu-central-2:{ACCOUNT}:db:members-1"
FILES = f"arn:aws:elasticfilesystem:eu-central-2:{ACCOUNT}:file-system/fs-1"


def back_up(cloud: RunningCloud, vault: str, resource: str) -> str:
    role = f"arn:aws:iam::{ACCOUNT}:role/backup"
    job = cloud.client("backup").start_backup_job(BackupVaultName=vault, ResourceArn=resource, IamRoleArn=role)
    return str(job["RecoveryPointArn"])


def recovery_points(cloud: RunningCloud, vault: str) -> dict[str, str]:
    found = cloud.client("backup").list_recovery_points_by_backup_vault(BackupVaultName=vault)["RecoveryPoints"]
    return {point["RecoveryPointArn"]: point["ResourceArn"] for point in found}


def vault(name: str, **properties: Any) -> dict[str, Any]:
    return {"Vault": {"Type": "AWS::Backup::BackupVault", "Properties": {"BackupVaultName": name, **properties}}}


def test_a_stack_whose_vault_holds_recovery_points_is_not_deleted_until_they_are_gone(cloud: RunningCloud) -> None:
    backup = cloud.client("backup")
    assert cloud.deploy("with-vault", vault("full")) == "CREATE_COMPLETE"
    points = {back_up(cloud, "full", resource): resource for resource in (INSTANCE, FILES)}
    assert recovery_points(cloud, "full") == points
    assert backup.describe_backup_vault(BackupVaultName="full")["NumberOfRecoveryPoints"] == 2
    assert {arn.split(":")[2] for arn in points} == {"rds", "backup"}, "an instance's recovery point is a snapshot"

    assert cloud.destroy("with-vault") == "DELETE_FAILED"
    assert "contains recovery points" in cloud.failure("with-vault")
    for arn in points:
        backup.delete_recovery_point(BackupVaultName="full", RecoveryPointArn=arn)
    assert recovery_points(cloud, "full") == {}
    assert cloud.destroy("with-vault") == "DELETE_COMPLETE"
    with pytest.raises(ClientError, match="ResourceNotFound"):
        backup.delete_recovery_point(BackupVaultName="full", RecoveryPointArn=INSTANCE)


def test_a_locked_vault_gives_up_no_recovery_point(cloud: RunningCloud) -> None:
    backup = cloud.client("backup")
    lock = {"MinRetentionDays": 35}
    assert cloud.deploy("with-lock", vault("locked", LockConfiguration=lock)) == "CREATE_COMPLETE"
    described = backup.describe_backup_vault(BackupVaultName="locked")
    assert (described["Locked"], described["MinRetentionDays"]) == (True, 35)
    point = back_up(cloud, "locked", INSTANCE)
    with pytest.raises(ClientError, match="is locked"):
        backup.delete_recovery_point(BackupVaultName="locked", RecoveryPointArn=point)
    assert list(recovery_points(cloud, "locked")) == [point]

    backup.create_backup_vault(BackupVaultName="later")
    backup.put_backup_vault_lock_configuration(BackupVaultName="later", MinRetentionDays=7)
    assert backup.describe_backup_vault(BackupVaultName="later")["Locked"]
    backup.delete_backup_vault(BackupVaultName="later")
