"""What templates ask for and this local cloud does not do: noted for each resource when it is deployed.

The stack succeeds, as the emulator accepts the property; the list says where a rehearsal ends. A resource *type* that
is unknown is another matter: the stack is refused before anything is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ministack.services import cloudformation
from ministack.services.cloudformation import stacks

from local_cloud.fleet import unhonoured_parameters

NO_ENCRYPTION = "storage on this machine is not encrypted"
NO_BACKUPS = "nothing is copied, neither continuously nor on a schedule"
NO_NETWORK = "there is no network: only the database endpoints look at security groups"

# AWS namespaces in which this local cloud publishes metrics.
PUBLISHED_NAMESPACES = ("AWS/Backup", "AWS/Lambda", "AWS/RDS", "AWS/SQS", "AWS/States")


@dataclass(frozen=True)
class Finding:
    """One property of one deployed resource that has no effect here."""

    stack: str
    resource: str
    type: str
    property: str
    reason: str


# Per resource type the properties without effect. A dot goes down one level; a property that is absent, empty, zero or
# false asks for nothing. `*` stands for the resource as a whole.
TABLE: Mapping[str, Mapping[str, str]] = {
    "AWS::RDS::DBInstance": {
        "StorageEncrypted": NO_ENCRYPTION,
        "KmsKeyId": NO_ENCRYPTION,
        "MonitoringInterval": "enhanced monitoring publishes nothing",
        "EnablePerformanceInsights": "Performance Insights collects nothing",
        "MaxAllocatedStorage": "storage is this machine's file system",
        "Iops": "storage is this machine's file system",
        "StorageThroughput": "storage is this machine's file system",
        "StorageType": "storage is this machine's file system",
        "AllocatedStorage": "storage is this machine's file system",
        "CACertificateIdentifier": "endpoints have certificates of the local cloud's own authority",
        "PreferredBackupWindow": "a base backup is made when an instance begins to be backed up, then once a day",
        "CopyTagsToSnapshot": "snapshots have no tags of their instance",
        "DBInstanceClass": "an instance has what this machine gives it, whatever its class",
        "PreferredMaintenanceWindow": "there is no maintenance",
        "AutoMinorVersionUpgrade": "there is one minor version",
    },
    "AWS::EFS::FileSystem": {
        "Encrypted": NO_ENCRYPTION,
        "KmsKeyId": NO_ENCRYPTION,
        "LifecyclePolicies": "files stay where they are",
        "BackupPolicy.Status": NO_BACKUPS,
        "FileSystemPolicy": "a mount is a folder, and nobody asks the policy",
        "ReplicationConfiguration": "file systems are not replicated",
        "PerformanceMode": "storage is this machine's file system",
        "ThroughputMode": "storage is this machine's file system",
    },
    "AWS::EFS::AccessPoint": {"PosixUser": "files belong to the user who started the local cloud"},
    "AWS::EFS::MountTarget": {"SecurityGroups": NO_NETWORK},
    "AWS::EC2::VPCEndpoint": {"*": "functions reach every AWS service, with or without an endpoint"},
    "AWS::EC2::FlowLog": {"*": "no flow is recorded, the log group stays empty"},
    "AWS::EC2::NetworkAclEntry": {"*": NO_NETWORK},
    "AWS::EC2::SecurityGroupEgress": {"*": NO_NETWORK},
    "AWS::S3::Bucket": {
        "BucketEncryption": NO_ENCRYPTION,
        "LifecycleConfiguration": "no version expires",
        "ObjectLockConfiguration": "a locked version can be deleted",
    },
    "AWS::Backup::BackupPlan": {"*": NO_BACKUPS},
    "AWS::Backup::BackupSelection": {"*": NO_BACKUPS},
    "AWS::Backup::BackupVault": {"EncryptionKeyArn": NO_ENCRYPTION},
    "AWS::DynamoDB::Table": {
        "SSESpecification": NO_ENCRYPTION,
        "PointInTimeRecoverySpecification": NO_BACKUPS,
    },
    "AWS::Logs::LogGroup": {
        "KmsKeyId": NO_ENCRYPTION,
        "RetentionInDays": "log events stay until the local cloud stops",
    },
    "AWS::SNS::Topic": {"KmsMasterKeyId": NO_ENCRYPTION},
    "AWS::KMS::Key": {
        "EnableKeyRotation": "key material does not rotate",
        "KeyPolicy": "no service encrypts with the key, so a permission that is missing for it is not noticed",
    },
    "AWS::SQS::Queue": {"KmsMasterKeyId": NO_ENCRYPTION},
    "AWS::Lambda::Function": {
        "MemorySize": "a function has the memory of this machine",
        "TracingConfig": "no traces are recorded",
        "KmsKeyArn": NO_ENCRYPTION,
        "Runtime": "functions run on the Python of the local cloud",
    },
    "AWS::StepFunctions::StateMachine": {
        "TracingConfiguration.Enabled": "no traces are recorded",
        "EncryptionConfiguration": NO_ENCRYPTION,
    },
    "AWS::Scheduler::Schedule": {"KmsKeyArn": NO_ENCRYPTION},
}


class TemplateFindings:
    """Collects the findings of everything that is deployed at the moment."""

    def __init__(self) -> None:
        self._findings: dict[tuple[str, str], tuple[Finding, ...]] = {}

    def install(self) -> None:
        """Look at each resource as the stacks provision, update and delete it, with its properties resolved."""
        provision, update, delete = stacks._provision_resource, stacks._update_resource, stacks._delete_resource

        def provisioned(resource_type: str, logical_id: str, properties: dict[str, Any], stack: str) -> Any:
            done = provision(resource_type, logical_id, properties, stack)
            self.note(stack, logical_id, resource_type, properties)
            return done

        def updated(resource_type: str, physical_id: str, old: Any, new: Any, stack: str, *rest: Any) -> Any:
            done = update(resource_type, physical_id, old, new, stack, *rest)
            if rest and rest[0]:
                self.note(stack, rest[0], resource_type, new)
            return done

        def deleted(
            resource_type: str, physical_id: str, properties: Any, stack: Any = None, resource: Any = None
        ) -> None:
            delete(resource_type, physical_id, properties, stack, resource)
            self._findings.pop((str(stack), str(resource)), None)

        stacks._provision_resource, stacks._update_resource, stacks._delete_resource = provisioned, updated, deleted

    def note(self, stack: str, resource: str, resource_type: str, properties: Mapping[str, Any]) -> None:
        """Replace the findings of one resource."""
        found = tuple(
            Finding(stack, resource, resource_type, name, reason)
            for name, reason in _unhonoured(resource_type, properties)
        )
        self._findings[stack, resource] = found

    def findings(self) -> list[dict[str, str]]:
        """Return every finding of the stacks that exist, by stack and resource.

        A resource that outlives its stack (DeletionPolicy Retain) is in no template any more.
        """
        deployed = {name for name, stack in cloudformation._stacks.items() if stack["StackStatus"] != "DELETE_COMPLETE"}
        keys = sorted(key for key in self._findings if key[0] in deployed)
        return [asdict(finding) for key in keys for finding in self._findings[key]]


def _unhonoured(resource_type: str, properties: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, reason in TABLE.get(resource_type, {}).items():
        if name == "*" or _asks_for_something(_value(properties, name)):
            yield name, reason
    special = SPECIAL.get(resource_type)
    if special:
        yield from special(properties)


def _value(properties: Mapping[str, Any], path: str) -> Any:
    value: Any = properties
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _asks_for_something(value: Any) -> bool:
    return bool(value) and str(value).lower() not in ("false", "0", "disabled")


def _parameter_group(properties: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    parameters = {str(name): str(value) for name, value in (properties.get("Parameters") or {}).items()}
    for name in unhonoured_parameters(parameters):
        yield f"Parameters.{name}", "the PostgreSQL server here has no such setting, or a fixed one"


def _alarm(properties: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    namespace = str(properties.get("Namespace") or "")
    if namespace.startswith("AWS/") and namespace not in PUBLISHED_NAMESPACES:
        yield f"Namespace {namespace}", "no metrics of that service are published, so the alarm has no data"


def _replica(properties: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if properties.get("SourceDBInstanceIdentifier") and _asks_for_something(properties.get("BackupRetentionPeriod")):
        yield "BackupRetentionPeriod", "a read replica is backed up from its promotion on"


SPECIAL: Mapping[str, Callable[[Mapping[str, Any]], Iterator[tuple[str, str]]]] = {
    "AWS::RDS::DBInstance": _replica,
    "AWS::RDS::DBParameterGroup": _parameter_group,
    "AWS::CloudWatch::Alarm": _alarm,
}
