import json
from typing import Any

from tests.unit.stacks.conftest import SUFFIX, System

NEVER_ON_A_REPLICA = {
    *("MasterUsername", "MasterUserPassword", "StorageEncrypted", "DBName", "KmsKeyId", "ManageMasterUserPassword"),
    *("Engine", "EngineVersion", "AllocatedStorage", "DBSubnetGroupName"),
}


def member(system: System, number: int) -> dict[str, Any]:
    return system.the("AWS::RDS::DBInstance", f"Member{number}").properties


def test_there_are_two_members_with_fixed_identifiers(system: System) -> None:
    assert [member(system, number)["DBInstanceIdentifier"] for number in (1, 2)] == [
        f"citizens-1-{SUFFIX}",
        f"citizens-2-{SUFFIX}",
    ]


def test_both_members_are_multi_az_monitored_backed_up_and_private(system: System) -> None:
    for number in (1, 2):
        properties = member(system, number)
        assert properties["MultiAZ"] is True
        assert "AvailabilityZone" not in properties
        assert properties["StorageType"] == "gp3"
        assert properties["PubliclyAccessible"] is False
        assert properties["BackupRetentionPeriod"] == 35
        assert properties["MonitoringInterval"] == 15
        assert properties["EnableCloudwatchLogsExports"] == ["postgresql", "upgrade"]
        assert properties["EnableIAMDatabaseAuthentication"] is True
        assert properties["CACertificateIdentifier"] == "rds-ca-rsa2048-g1"
        assert properties["AutoMinorVersionUpgrade"] is False
        assert properties["CopyTagsToSnapshot"] is True
        assert properties["DeletionProtection"] is False


def test_the_first_is_encrypted_with_our_key_and_signs_in_with_the_agencys_secret(system: System) -> None:
    properties = member(system, 1)
    assert properties["StorageEncrypted"] is True
    assert "KmsKeyId" in properties
    assert (
        properties["MasterUsername"]
        == f"{{{{resolve:secretsmanager:citizens/{SUFFIX}/database:SecretString:username::}}}}"
    )
    assert (
        properties["MasterUserPassword"]
        == f"{{{{resolve:secretsmanager:citizens/{SUFFIX}/database:SecretString:password::}}}}"
    )


def test_the_second_is_its_replica_and_has_nothing_that_rds_refuses_there(system: System) -> None:
    properties = member(system, 2)
    assert properties["SourceDBInstanceIdentifier"] == {"Ref": "Member1"}
    assert not NEVER_ON_A_REPLICA & set(properties)


def test_the_parameters_force_tls_log_connections_and_bound_a_stuck_slot(system: System) -> None:
    (group,) = system.of("AWS::RDS::DBParameterGroup")
    assert group.properties["Family"] == "postgres18"
    parameters = group.properties["Parameters"]
    for name in ("rds.force_ssl", "rds.logical_replication", "log_connections", "log_disconnections"):
        assert parameters[name] == "1"
    assert (parameters["sync_replication_slots"], parameters["hot_standby_feedback"]) == ("1", "1")
    assert parameters["rds.logical_slot_sync_dbname"] == "citizens"
    assert "synchronized_standby_slots" not in parameters
    assert parameters["max_slot_wal_keep_size"] == str(5 * 1024)


def test_log_groups_exist_before_the_members_that_write_them(system: System) -> None:
    for number in (1, 2):
        body = system.the("AWS::RDS::DBInstance", f"Member{number}").body
        assert {f"Member{number}PostgresqlLogs", f"Member{number}UpgradeLogs"} <= set(body["DependsOn"])


def test_the_secret_is_attached_before_it_can_rotate(system: System) -> None:
    (schedule,) = system.of("AWS::SecretsManager::RotationSchedule")
    assert schedule.properties["SecretId"] == {"Ref": "SecretAttachment"}
    assert schedule.properties["RotationRules"] == {"AutomaticallyAfterDays": 30}
    assert schedule.properties["RotateImmediatelyOnUpdate"] is False
    assert "SecretMayRotate" in schedule.body["DependsOn"]
    permission = system.the("AWS::Lambda::Permission", "SecretMayRotate").properties
    assert permission["Principal"] == "secretsmanager.amazonaws.com"
    assert permission["SourceAccount"] == {"Ref": "AWS::AccountId"}
    assert permission["SourceArn"] == {"Ref": "SecretAttachment"}


def test_the_monitoring_role_writes_to_the_group_that_rds_uses_and_no_other(system: System) -> None:
    policy = json.dumps(system.the("AWS::IAM::ManagedPolicy", "MonitoringPolicy").properties)
    assert policy.count("log-group:RDSOSMetrics") == policy.count("log-group:")
