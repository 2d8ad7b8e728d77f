"""The local cloud answers what an account is asked before a deploy."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from local_cloud.rds_api import engine_version
from tests.unit.local_cloud.running_cloud import RunningCloud


def test_the_newest_engine_version_on_offer_is_the_one_that_runs(cloud: RunningCloud) -> None:
    versions = cloud.client("rds").describe_db_engine_versions(Engine="postgres")["DBEngineVersions"]
    assert versions[-1]["EngineVersion"] == engine_version()
    assert len({each["EngineVersion"].split(".")[0] for each in versions}) == 1
    assert cloud.client("rds").describe_db_engine_versions(Engine="mysql")["DBEngineVersions"] == []


def test_a_class_is_orderable_with_what_this_system_needs_or_not_at_all(cloud: RunningCloud) -> None:
    def options(instance_class: str) -> list[dict[str, object]]:
        arguments = {"Engine": "postgres", "EngineVersion": engine_version(), "DBInstanceClass": instance_class}
        found: list[dict[str, object]] = cloud.client("rds").describe_orderable_db_instance_options(**arguments)[
            "OrderableDBInstanceOptions"
        ]
        return found

    [option] = options("db.t4g.medium")
    assert (option["MultiAZCapable"], option["ReadReplicaCapable"], option["StorageType"]) == (True, True, "gp3")
    assert option["AvailabilityZones"] == [{"Name": f"eu-central-2{zone}"} for zone in "abc"]
    assert options("db.m6i.large") == []


def test_an_opt_in_region_can_be_disabled_and_enabled_and_no_other(cloud: RunningCloud) -> None:
    account = cloud.client("account")

    def status() -> str:
        return str(account.get_region_opt_status(RegionName="eu-central-2")["RegionOptStatus"])

    assert status() == "ENABLED"
    account.disable_region(RegionName="eu-central-2")
    assert status() == "DISABLED"
    account.enable_region(RegionName="eu-central-2")
    assert status() == "ENABLED"
    with pytest.raises(ClientError, match="not a region to opt in to"):
        account.disable_region(RegionName="us-east-1")


def test_quotas_are_known_for_what_a_deploy_needs(cloud: RunningCloud) -> None:
    quotas = cloud.client("service-quotas")
    quota = quotas.get_service_quota(ServiceCode="rds", QuotaCode="L-7B6409FD")["Quota"]
    assert (quota["QuotaName"], quota["Value"]) == ("DB instances", 40.0)
    with pytest.raises(quotas.exceptions.NoSuchResourceException):
        quotas.get_service_quota(ServiceCode="rds", QuotaCode="L-NONE")
