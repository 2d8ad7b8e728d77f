from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from botocore.exceptions import ClientError

from tests.unit.local_cloud.running_cloud import RunningCloud, database, eventually, replica

SMALL = {"Engine": "postgres", "DBInstanceClass": "db.t4g.medium", "AllocatedStorage": 20}
LOGIN = {"MasterUsername": "citizens_admin", "MasterUserPassword": "Start-Password-1"}


@pytest.fixture(autouse=True, scope="module")
def swift(cloud: RunningCloud) -> Iterator[None]:
    _, before = cloud.control("GET", "/delays")
    cloud.control("PUT", "/delays", {"promotion_seconds": 0.2, "failed_after_seconds": 0.2, "reboot_seconds": 0.1})
    yield
    cloud.control("PUT", "/delays", before)


def connect(
    cloud: RunningCloud, instance: dict[str, Any], password: str = "Start-Password-1", name: str = "citizens"
) -> "psycopg.Connection[tuple[Any, ...]]":
    return psycopg.connect(
        host=instance["Endpoint"]["Address"],
        port=instance["Endpoint"]["Port"],
        user="citizens_admin",
        password=password,
        dbname=name,
        sslmode="verify-full",
        sslrootcert=cloud.environment["PGSSLROOTCERT"],
        autocommit=True,
    )


OPEN = {
    "Type": "AWS::EC2::SecurityGroup",
    "Properties": {
        "GroupDescription": "open to the applications",
        "SecurityGroupIngress": [{"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "CidrIp": "10.60.0.0/16"}],
    },
}
GROUP = {
    "Type": "AWS::RDS::DBParameterGroup",
    "Properties": {"Family": "postgres18", "Description": "test", "Parameters": {"work_mem": "8192"}},
}


def pair(**replica_properties: Any) -> dict[str, Any]:
    common = {"VPCSecurityGroups": [{"Ref": "Open"}]}
    return {
        "Open": OPEN,
        "Group": GROUP,
        "One": database(
            "one", **common, DBParameterGroupName={"Ref": "Group"}, EnableCloudwatchLogsExports=["postgresql"]
        ),
        "Two": replica("two", {"Ref": "One"}, **common, **replica_properties),
    }


@pytest.fixture(scope="module")
def deployed(cloud: RunningCloud) -> Iterator[RunningCloud]:
    outputs = {"Address": {"Fn::GetAtt": ["One", "Endpoint.Address"]}, "Port": {"Fn::GetAtt": ["One", "Endpoint.Port"]}}
    assert cloud.deploy("pair", pair(), outputs) == "CREATE_COMPLETE"
    yield cloud
    assert cloud.destroy("pair") == "DELETE_COMPLETE"
    assert not {"one", "two"} & set(cloud.control("GET", "/status")[1]["instances"])


def refusal(call: Any, **arguments: Any) -> tuple[str, int]:
    with pytest.raises(ClientError) as refused:
        call(**arguments)
    answer = refused.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def test_a_template_makes_a_database_that_answers_with_the_groups_parameters(deployed: RunningCloud) -> None:
    one = deployed.instance("one")
    assert deployed.outputs("pair") == {"Address": one["Endpoint"]["Address"], "Port": str(one["Endpoint"]["Port"])}
    with connect(deployed, one) as connection:
        assert connection.execute("SHOW work_mem").fetchone() == ("8MB",)
    assert one["DBInstanceStatus"] == "available"
    assert one["EnabledCloudwatchLogsExports"] == ["postgresql"]
    assert one["ReadReplicaDBInstanceIdentifiers"] == ["two"]
    assert "ReadReplicaSourceDBInstanceIdentifier" not in one


def test_a_replica_takes_from_its_source_what_the_template_leaves_out(deployed: RunningCloud) -> None:
    two = deployed.instance("two")
    assert two["ReadReplicaSourceDBInstanceIdentifier"] == "one"
    assert (two["MasterUsername"], two["DBName"], two["EngineVersion"]) == ("citizens_admin", "citizens", "18.6")
    with connect(deployed, two) as connection:
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)


def test_a_replica_that_names_no_zone_works_in_another_than_its_source(deployed: RunningCloud) -> None:
    zones = {deployed.instance(name)["AvailabilityZone"] for name in ("one", "two")}
    assert zones == {"eu-central-2a", "eu-central-2c"}


def test_a_changed_parameter_group_reaches_the_instances(deployed: RunningCloud) -> None:
    name = deployed.physical_id("pair", "Group")
    change = {"ParameterName": "work_mem", "ParameterValue": "16384", "ApplyMethod": "immediate"}
    deployed.client("rds").modify_db_parameter_group(DBParameterGroupName=name, Parameters=[change])

    def changed() -> bool:
        with connect(deployed, deployed.instance("one")) as connection:
            return bool(connection.execute("SHOW work_mem").fetchone() == ("16MB",))

    eventually(changed)


def test_a_new_master_password_is_the_servers(deployed: RunningCloud) -> None:
    deployed.client("rds").modify_db_instance(
        DBInstanceIdentifier="one", MasterUserPassword="Other-Password-2", ApplyImmediately=True
    )
    with connect(deployed, deployed.instance("one"), password="Other-Password-2") as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    deployed.client("rds").modify_db_instance(
        DBInstanceIdentifier="one", MasterUserPassword="Start-Password-1", ApplyImmediately=True
    )


def test_a_reboot_is_a_restart(deployed: RunningCloud) -> None:
    with connect(deployed, deployed.instance("one")) as connection:
        before = connection.execute("SELECT pg_postmaster_start_time()").fetchone()
    answer = deployed.client("rds").reboot_db_instance(DBInstanceIdentifier="one")
    assert answer["DBInstance"]["DBInstanceStatus"] in ("available", "rebooting")

    def restarted() -> bool:
        try:
            with connect(deployed, deployed.instance("one")) as connection:
                return bool(connection.execute("SELECT pg_postmaster_start_time()").fetchone() != before)
        except psycopg.OperationalError:
            return False

    eventually(restarted)
    deployed.becomes("one", lambda instance: instance["DBInstanceStatus"] == "available")


def test_a_source_can_neither_be_added_nor_changed(deployed: RunningCloud) -> None:
    resources = pair()
    resources["One"]["Properties"]["SourceDBInstanceIdentifier"] = "two"
    assert deployed.deploy("pair", resources) == "UPDATE_ROLLBACK_COMPLETE"
    assert "neither added nor changed" in deployed.failure("pair")


def test_an_engine_of_another_major_version_is_refused(cloud: RunningCloud) -> None:
    resources = {"Old": database("old", EngineVersion="17.5")}
    assert cloud.deploy("old", resources) == "ROLLBACK_COMPLETE"
    assert "the local cloud runs PostgreSQL 18" in cloud.failure("old")
    asked = {**SMALL, **LOGIN, "DBInstanceIdentifier": "old"}
    rds = cloud.client("rds")
    assert refusal(rds.create_db_instance, **asked, EngineVersion="17.5") == ("InvalidParameterCombination", 400)
    assert refusal(rds.create_db_instance, **(asked | {"Engine": "mysql"})) == ("InvalidParameterValue", 400)
    assert cloud.deploy("other", {"Old": database("old", Engine="mysql")}) == "ROLLBACK_COMPLETE"


def test_refusals_carry_the_codes_of_rds(deployed: RunningCloud) -> None:
    rds = deployed.client("rds")
    assert refusal(rds.reboot_db_instance, DBInstanceIdentifier="nobody") == ("DBInstanceNotFound", 404)
    assert refusal(rds.promote_read_replica, DBInstanceIdentifier="one") == ("InvalidDBInstanceState", 400)
    assert refusal(rds.delete_db_instance, DBInstanceIdentifier="one") == ("InvalidParameterCombination", 400)
    assert refusal(rds.start_db_instance, DBInstanceIdentifier="one") == ("InvalidDBInstanceState", 400)
    again = {**SMALL, **LOGIN, "DBInstanceIdentifier": "one"}
    assert refusal(rds.create_db_instance, **again) == ("DBInstanceAlreadyExists", 400)
    assert refusal(
        rds.create_db_instance_read_replica, DBInstanceIdentifier="two", SourceDBInstanceIdentifier="one"
    ) == ("DBInstanceAlreadyExists", 400)
    assert deployed.deploy("twice", {"Twice": database("one")}) == "ROLLBACK_COMPLETE"
    assert deployed.instance("one")["DBInstanceStatus"] == "available"


def test_an_instance_is_created_modified_stopped_started_and_deleted_by_the_api(cloud: RunningCloud) -> None:
    rds = cloud.client("rds")
    created = rds.create_db_instance(**SMALL, **LOGIN, DBInstanceIdentifier="api", DeletionProtection=True)
    assert created["DBInstance"]["DBInstanceStatus"] == "creating"
    cloud.becomes("api", lambda instance: instance["DBInstanceStatus"] == "available")
    rds.create_db_instance_read_replica(
        DBInstanceIdentifier="api-copy", SourceDBInstanceIdentifier="api", DBInstanceClass="db.t4g.large"
    )
    copy = cloud.becomes("api-copy", lambda instance: instance["DBInstanceStatus"] == "available")
    assert (copy["DBInstanceClass"], copy["ReadReplicaSourceDBInstanceIdentifier"]) == ("db.t4g.large", "api")
    rds.promote_read_replica(DBInstanceIdentifier="api-copy", BackupRetentionPeriod=3)
    copy = cloud.becomes("api-copy", lambda instance: "ReadReplicaSourceDBInstanceIdentifier" not in instance)
    assert copy["BackupRetentionPeriod"] == 3
    cloud.becomes("api-copy", lambda instance: instance["DBInstanceStatus"] == "available")
    rds.stop_db_instance(DBInstanceIdentifier="api-copy")
    cloud.becomes("api-copy", lambda instance: instance["DBInstanceStatus"] == "stopped")
    rds.start_db_instance(DBInstanceIdentifier="api-copy")
    cloud.becomes("api-copy", lambda instance: instance["DBInstanceStatus"] == "available")
    rds.delete_db_instance(DBInstanceIdentifier="api-copy", SkipFinalSnapshot=True)
    protected = {"DBInstanceIdentifier": "api", "SkipFinalSnapshot": True}
    assert refusal(rds.delete_db_instance, **protected)[0] == "InvalidParameterCombination"
    rds.modify_db_instance(DBInstanceIdentifier="api", DeletionProtection=False, ApplyImmediately=True)
    assert refusal(rds.modify_db_instance, DBInstanceIdentifier="api", EngineVersion="17.1")[1] == 400
    assert rds.delete_db_instance(**protected)["DBInstance"]["DBInstanceStatus"] == "deleting"
    assert refusal(rds.describe_db_instances, DBInstanceIdentifier="api") == ("DBInstanceNotFound", 404)


def test_deletion_protection_holds_against_a_stack_too(cloud: RunningCloud) -> None:
    assert cloud.deploy("guarded", {"Kept": database("kept", DeletionProtection=True)}) == "CREATE_COMPLETE"
    assert cloud.destroy("guarded") == "DELETE_FAILED"
    cloud.client("rds").modify_db_instance(DBInstanceIdentifier="kept", DeletionProtection=False, ApplyImmediately=True)
    assert cloud.destroy("guarded") == "DELETE_COMPLETE"


def test_after_a_lost_primary_and_a_promotion_the_stack_is_as_before_and_can_go(cloud: RunningCloud) -> None:
    """Runs the stack through what a failover does to it behind CloudFormation's back."""
    resources = {"Open": OPEN, "One": database("lost", VPCSecurityGroups=[{"Ref": "Open"}])}
    resources["Two"] = replica("promoted", {"Ref": "One"}, VPCSecurityGroups=[{"Ref": "Open"}])
    assert cloud.deploy("failover", resources) == "CREATE_COMPLETE"
    shown = cloud.control("GET", "/status")[1]["instances"]
    assert (shown["lost"]["role"], shown["promoted"]["role"]) == ("primary", "replica")
    assert shown["lost"]["processes"]
    assert cloud.control("POST", "/rds/lost/lose")[0] == 200
    cloud.becomes("lost", lambda instance: instance["DBInstanceStatus"] == "failed")
    cloud.client("rds").promote_read_replica(DBInstanceIdentifier="promoted")
    cloud.becomes("promoted", lambda instance: "ReadReplicaSourceDBInstanceIdentifier" not in instance)
    cloud.becomes("promoted", lambda instance: instance["DBInstanceStatus"] == "available")
    with pytest.raises(ClientError, match="No updates"):
        cloud.deploy("failover", resources)
    resources["Two"]["Properties"]["BackupRetentionPeriod"] = 9
    assert cloud.deploy("failover", resources) == "UPDATE_COMPLETE"
    assert cloud.instance("promoted")["BackupRetentionPeriod"] == 9
    assert cloud.destroy("failover") == "DELETE_COMPLETE"


def test_removing_the_source_from_the_template_promotes_the_replica(cloud: RunningCloud) -> None:
    resources = {"One": database("source"), "Two": replica("follower", {"Ref": "One"})}
    assert cloud.deploy("detach", resources) == "CREATE_COMPLETE"
    del resources["Two"]["Properties"]["SourceDBInstanceIdentifier"]
    assert cloud.deploy("detach", resources) == "UPDATE_COMPLETE"
    assert "ReadReplicaSourceDBInstanceIdentifier" not in cloud.instance("follower")
    assert cloud.destroy("detach") == "DELETE_COMPLETE"


def test_a_kill_of_the_postmaster_is_healed_and_a_fault_of_the_endpoint_is_not(deployed: RunningCloud) -> None:
    assert deployed.control("POST", "/rds/one/kill")[0] == 200
    deployed.becomes("one", lambda instance: instance["DBInstanceStatus"] == "available")
    assert deployed.control("POST", "/rds/one/endpoint", {"fault": "cut"})[0] == 200
    with pytest.raises(psycopg.OperationalError):
        connect(deployed, deployed.instance("one"))
    assert deployed.control("POST", "/rds/one/endpoint", {"fault": "none"})[0] == 200

    def answers() -> bool:
        try:
            connect(deployed, deployed.instance("one")).close()
        except psycopg.OperationalError:
            return False
        return True

    eventually(answers)
