from tests.unit.stacks.conftest import System


def test_the_file_system_is_encrypted_and_refuses_plaintext_mounts(system: System) -> None:
    (files,) = system.of("AWS::EFS::FileSystem")
    assert files.properties["Encrypted"] is True
    assert "KmsKeyId" in files.properties
    (deny,) = files.properties["FileSystemPolicy"]["Statement"]
    assert deny["Effect"] == "Deny"
    assert "elasticfilesystem:ClientMount" in deny["Action"]
    assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_old_files_move_to_cheaper_storage_and_the_automatic_backup_is_off(system: System) -> None:
    (files,) = system.of("AWS::EFS::FileSystem")
    assert {"TransitionToIA": "AFTER_30_DAYS"} in files.properties["LifecyclePolicies"]
    assert files.properties["BackupPolicy"] == {"Status": "DISABLED"}


def test_there_is_a_mount_target_in_each_zone_and_an_access_point_that_is_not_root(system: System) -> None:
    targets = system.of("AWS::EFS::MountTarget")
    assert len({str(each.properties["SubnetId"]) for each in targets}) == 2
    (point,) = system.of("AWS::EFS::AccessPoint")
    assert point.properties["PosixUser"]["Uid"] != "0"


def test_the_recovery_table_is_encrypted_recoverable_and_forgets_what_expired(system: System) -> None:
    (table,) = system.of("AWS::DynamoDB::Table")
    assert table.properties["SSESpecification"]["SSEType"] == "KMS"
    assert table.properties["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True
    assert table.properties["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    assert table.properties["BillingMode"] == "PAY_PER_REQUEST"
    assert table.properties["DeletionProtectionEnabled"] is False


def test_everything_that_holds_data_is_backed_up_daily_for_35_days(system: System) -> None:
    (plan,) = system.of("AWS::Backup::BackupPlan")
    (rule,) = plan.properties["BackupPlan"]["BackupPlanRule"]
    assert rule["ScheduleExpression"] == "cron(0 3 * * ? *)"
    assert rule["Lifecycle"]["DeleteAfterDays"] == 35
    (selection,) = system.of("AWS::Backup::BackupSelection")
    assert len(selection.properties["BackupSelection"]["Resources"]) == 4
    (vault,) = system.of("AWS::Backup::BackupVault")
    assert "EncryptionKeyArn" in vault.properties
    assert "LockConfiguration" not in vault.properties
