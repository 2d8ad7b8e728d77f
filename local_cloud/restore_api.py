"""The RDS API's backups and restores: automated backups, restores to a point in time, snapshots and restores from them.

A restored instance is a new one: it has the data of its source, and of the source's settings only what RDS takes over.
The rest is asked for in the request or RDS's default: the VPC's default security group, the default parameter and
subnet groups, one availability zone, no IAM authentication, no log exports.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from ministack.core.responses import get_account_id, get_region
from ministack.services import ec2, rds

from local_cloud.fleet import BackupView, Fleet, FleetError
from local_cloud.rds_api import (
    DatabaseService,
    Record,
    Request,
    Response,
    answering_fleet_errors,
    engine_major_version,
    timestamp,
)

logger = logging.getLogger(__name__)

# Elements of an automated backup that come from its instance's record.
FROM_RECORD = (
    "AllocatedStorage",
    "AvailabilityZone",
    "BackupRetentionPeriod",
    "Engine",
    "EngineVersion",
    "InstanceCreateTime",
    "KmsKeyId",
    "LicenseModel",
    "MasterUsername",
    "StorageType",
)


class RestoreService:
    """Bridges backups and restores of the RDS API to the fleet."""

    def __init__(self, fleet: Fleet, databases: DatabaseService) -> None:
        self._fleet = fleet
        self._databases = databases
        self._work = concurrent.futures.ThreadPoolExecutor(max_workers=4, thread_name_prefix="snapshot")

    def install(self) -> None:
        """Take the place of the emulator's metadata-only handlers. After DatabaseService."""
        actions = {
            "RestoreDBInstanceToPointInTime": self._restore_to_point_in_time,
            "RestoreDBInstanceFromDBSnapshot": self._restore_from_snapshot,
            "DescribeDBInstanceAutomatedBackups": self._describe_backups,
            "DeleteDBInstanceAutomatedBackup": self._delete_backup,
            "CreateDBSnapshot": self._create_snapshot,
            "DeleteDBSnapshot": self._delete_snapshot,
        }
        for name, action in actions.items():
            rds._ACTION_MAP[name] = answering_fleet_errors(action)
        rds._create_snapshot_internal = _keeping_what_a_restore_needs(rds._create_snapshot_internal)

    # Automated backups -----------------------------------------------------------------------------------------------

    def _describe_backups(self, request: Request) -> Response:
        wanted = {
            "identifier": _value(request, "DBInstanceIdentifier"),
            "resource_id": _value(request, "DbiResourceId"),
            "arn": _value(request, "DBInstanceAutomatedBackupsArn"),
        }
        found = [
            backup
            for backup in self._fleet.backups()
            if wanted["identifier"] in ("", backup.identifier)
            and wanted["resource_id"] in ("", backup.resource_id)
            and wanted["arn"] in ("", _backup_arn(backup.resource_id))
        ]
        if not found and (wanted["resource_id"] or wanted["arn"]):
            raise _no_backup(wanted["resource_id"] or wanted["arn"])
        shown = "".join(map(self._xml, found))
        return _answer(
            "DescribeDBInstanceAutomatedBackups", f"<DBInstanceAutomatedBackups>{shown}</DBInstanceAutomatedBackups>"
        )

    def _delete_backup(self, request: Request) -> Response:
        backup = self._backup(_value(request, "DbiResourceId"), _value(request, "DBInstanceAutomatedBackupsArn"))
        xml = self._xml(backup)
        self._fleet.drop_backup(backup.resource_id)
        self._databases.kept_records.pop(backup.resource_id, None)
        return _answer("DeleteDBInstanceAutomatedBackup", xml)

    def _backup(self, resource_id: str, arn: str = "") -> BackupView:
        for backup in self._fleet.backups():
            if resource_id == backup.resource_id or arn == _backup_arn(backup.resource_id):
                return backup
        raise _no_backup(resource_id or arn)

    def _xml(self, backup: BackupView) -> str:
        record = self._record_of(backup)
        window = "".join(
            f"<{name}>{timestamp(moment)}</{name}>"
            for name, moment in (("EarliestTime", backup.earliest), ("LatestTime", backup.latest))
            if moment
        )
        elements = {
            "DBInstanceIdentifier": backup.identifier,
            "DbiResourceId": backup.resource_id,
            "DBInstanceArn": record.get("DBInstanceArn"),
            "DBInstanceAutomatedBackupsArn": _backup_arn(backup.resource_id),
            "Region": get_region(),
            "Status": backup.status,
            "Port": (record.get("Endpoint") or {}).get("Port"),
            "Encrypted": str(bool(record.get("StorageEncrypted"))).lower(),
            "IAMDatabaseAuthenticationEnabled": str(bool(record.get("IAMDatabaseAuthenticationEnabled"))).lower(),
            "BackupTarget": "region",
            **{name: record.get(name) for name in FROM_RECORD},
        }
        shown = "".join(f"<{name}>{value}</{name}>" for name, value in elements.items() if value not in (None, ""))
        return f"<DBInstanceAutomatedBackup><RestoreWindow>{window}</RestoreWindow>{shown}</DBInstanceAutomatedBackup>"

    def _record_of(self, backup: BackupView) -> Record:
        """The instance's record, or what was kept of it."""
        record = rds._instances.get(backup.identifier)
        if backup.status != "retained" and record is not None:
            return dict(record)
        return dict(self._databases.kept_records.get(backup.resource_id, {}))

    # Restores --------------------------------------------------------------------------------------------------------

    def _restore_to_point_in_time(self, request: Request) -> Response:
        target = _value(request, "TargetDBInstanceIdentifier")
        _require_new(target)
        until = _moment(request)
        backup = self._source(request)
        record = self._restored(request, target, self._record_of(backup))
        spec = self._databases.spec(record, _value(request, "AvailabilityZone"), record.get("DBName") or "")
        return self._begin(
            "RestoreDBInstanceToPointInTime",
            record,
            lambda: self._fleet.restore(spec, backup.resource_id, until),
        )

    def _restore_from_snapshot(self, request: Request) -> Response:
        target, name = _value(request, "DBInstanceIdentifier"), _value(request, "DBSnapshotIdentifier")
        _require_new(target)
        snapshot = rds._snapshots.get(name.rpartition(":")[2])
        if snapshot is None:
            raise FleetError("DBSnapshotNotFound", f"DBSnapshot {name} not found.")
        if snapshot["Status"] != "available":
            raise FleetError("InvalidDBSnapshotState", f"DBSnapshot {name} is {snapshot['Status']}.")
        record = self._restored(request, target, {**snapshot["_Instance"]})
        spec = self._databases.spec(record, _value(request, "AvailabilityZone"), record.get("DBName") or "")
        return self._begin(
            "RestoreDBInstanceFromDBSnapshot",
            record,
            lambda: self._fleet.restore_snapshot(spec, snapshot["DBSnapshotIdentifier"]),
        )

    def _begin(self, action: str, record: Record, restore: Callable[[], object]) -> Response:
        rds._instances[record["DBInstanceIdentifier"]] = record
        self._databases.begin(record, restore)
        return self._databases.answer(action, record)

    def _source(self, request: Request) -> BackupView:
        identifier = _value(request, "SourceDBInstanceIdentifier")
        if not identifier:
            return self._backup(
                _value(request, "SourceDbiResourceId"), _value(request, "SourceDBInstanceAutomatedBackupsArn")
            )
        record = rds._instances.get(identifier.rpartition(":")[2])
        if record is None:
            raise FleetError("DBInstanceNotFound", f"DBInstance {identifier} not found.")
        if not record.get("BackupRetentionPeriod"):
            raise FleetError(
                "PointInTimeRestoreNotEnabled",
                f"Point in time restore is not enabled for {identifier}: its backup retention period is 0.",
            )
        return self._backup(self._fleet.describe(record["DBInstanceIdentifier"]).resource_id)

    def _restored(self, request: Request, target: str, source: Record) -> Record:
        """The record of a restored instance: what the request says, else RDS's default, else what its source had."""
        subnets = _subnet_group(_value(request, "DBSubnetGroupName") or "default")
        groups = rds._parse_member_list(request, "VpcSecurityGroupIds") or _default_group(subnets)
        tags = rds._parse_tags(request)
        arn = f"arn:aws:rds:{get_region()}:{get_account_id()}:db:{target}"
        if tags:
            rds._tags[arn] = tags
        return {
            **source,
            "DBInstanceIdentifier": target,
            "DBInstanceArn": arn,
            "DBInstanceStatus": "creating",
            "DBInstanceClass": _value(request, "DBInstanceClass") or source["DBInstanceClass"],
            "DBSubnetGroup": subnets,
            "DBParameterGroups": [
                {"DBParameterGroupName": _parameter_group(request), "ParameterApplyStatus": "in-sync"}
            ],
            "VpcSecurityGroups": [{"VpcSecurityGroupId": group, "Status": "active"} for group in groups],
            "Endpoint": {"Port": int(_value(request, "Port") or source["Endpoint"]["Port"])},
            "BackupRetentionPeriod": int(
                _value(request, "BackupRetentionPeriod") or source.get("BackupRetentionPeriod") or 0
            ),
            "MultiAZ": _value(request, "MultiAZ") == "true",
            "DeletionProtection": _value(request, "DeletionProtection") == "true",
            "IAMDatabaseAuthenticationEnabled": _value(request, "EnableIAMDatabaseAuthentication") == "true",
            "CopyTagsToSnapshot": _value(request, "CopyTagsToSnapshot") == "true",
            "PubliclyAccessible": _value(request, "PubliclyAccessible") == "true",
            "EnabledCloudwatchLogsExports": rds._parse_member_list(request, "EnableCloudwatchLogsExports"),
            "MonitoringInterval": 0,
            "MonitoringRoleArn": "",
            "PerformanceInsightsEnabled": False,
            "PendingModifiedValues": {},
            "ReadReplicaSourceDBInstanceIdentifier": "",
            "ReadReplicaDBInstanceIdentifiers": [],
            "TagList": tags,
            "LatestRestorableTime": None,
        }

    # Snapshots -------------------------------------------------------------------------------------------------------

    def _create_snapshot(self, request: Request) -> Response:
        name, identifier = _value(request, "DBSnapshotIdentifier"), _value(request, "DBInstanceIdentifier")
        if identifier in rds._instances:
            status = self._fleet.describe(identifier).status
            if status != "available":
                raise FleetError("InvalidDBInstanceState", f"Instance {identifier} is not available, it is {status}.")
        response: Response = rds._create_db_snapshot(request)
        if response[0] >= 400:
            return response
        snapshot = rds._snapshots[name]
        snapshot.update(Status="creating", PercentProgress=0)
        context = contextvars.copy_context()
        self._work.submit(context.run, self._take, identifier, snapshot)
        return _answer("CreateDBSnapshot", f"<DBSnapshot>{rds._snapshot_xml(snapshot)}</DBSnapshot>")

    def _take(self, identifier: str, snapshot: Record) -> None:
        try:
            self._fleet.take_snapshot(identifier, snapshot["DBSnapshotIdentifier"])
        except FleetError as error:
            logger.warning("snapshot %s failed: %s", snapshot["DBSnapshotIdentifier"], error.message)
            snapshot["Status"] = "failed"
        else:
            snapshot.update(Status="available", PercentProgress=100)

    def _delete_snapshot(self, request: Request) -> Response:
        name = _value(request, "DBSnapshotIdentifier")
        snapshot = rds._snapshots.get(name)
        if snapshot is not None and snapshot["Status"] == "creating":
            raise FleetError("InvalidDBSnapshotState", f"DBSnapshot {name} is creating.")
        response: Response = rds._delete_db_snapshot(request)
        if response[0] < 400:
            self._fleet.drop_snapshot(name)
        return response


def _keeping_what_a_restore_needs(create: Callable[[str, Record], Record]) -> Callable[[str, Record], Record]:
    def created(name: str, instance: Record) -> Record:
        snapshot = create(name, instance)
        snapshot["_Instance"] = dict(instance)
        return snapshot

    return created


def _require_new(identifier: str) -> None:
    if identifier in rds._instances:
        raise FleetError("DBInstanceAlreadyExists", f"DB instance {identifier} already exists")


def _moment(request: Request) -> datetime | None:
    """The time to restore to, None for the latest one."""
    text, latest = _value(request, "RestoreTime"), _value(request, "UseLatestRestorableTime") == "true"
    if latest == bool(text):
        raise FleetError(
            "InvalidParameterCombination", "Specify either RestoreTime or UseLatestRestorableTime, and not both."
        )
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise FleetError("InvalidParameterValue", f"{text} is not a time.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _parameter_group(request: Request) -> str:
    default = f"default.postgres{engine_major_version()}"
    name = _value(request, "DBParameterGroupName") or default
    if name != default and name not in rds._param_groups:
        raise FleetError("DBParameterGroupNotFound", f"DBParameterGroup {name} not found.")
    return name


def _subnet_group(name: str) -> Record:
    found = rds._subnet_groups.get(name)
    if found is not None:
        return dict(found)
    if name != "default":
        raise FleetError("DBSubnetGroupNotFoundFault", f"DBSubnetGroup {name} not found.")
    return {"DBSubnetGroupName": name, "DBSubnetGroupDescription": name, "SubnetGroupStatus": "Complete", "Subnets": []}


def _default_group(subnets: Mapping[str, Any]) -> list[str]:
    """The default security group of the subnets' VPC."""
    vpc = subnets.get("VpcId")
    return [
        str(identifier)
        for identifier, group in ec2._security_groups.items()
        if vpc and group.get("VpcId") == vpc and group.get("GroupName") == "default"
    ]


def _backup_arn(resource_id: str) -> str:
    return f"arn:aws:rds:{get_region()}:{get_account_id()}:auto-backup:ab-{resource_id.lower().removeprefix('db-')}"


def _no_backup(name: str) -> FleetError:
    return FleetError("DBInstanceAutomatedBackupNotFound", f"There is no automated backup {name}.")


def _value(request: Request, name: str) -> str:
    return str(rds._p(request, name) or "")


def _answer(action: str, result: str) -> Response:
    answer: Response = rds._xml(200, f"{action}Response", f"<{action}Result>{result}</{action}Result>")
    return answer
