"""AWS Backup as far as it can stand in a destroy's way: vaults that hold recovery points, and locked vaults.

The emulator runs backup jobs without keeping what they make. Here a job leaves a recovery point; a vault with recovery
points cannot be deleted (InvalidRequestException), and a locked one gives none up. Nothing is copied anywhere. A job
for an instance that is there but not available fails, and how a job ended is counted in CloudWatch.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote

from ministack.core.responses import AccountRegionScopedDict, get_account_id, get_region
from ministack.services import backup, cloudwatch
from ministack.services.cloudformation import provisioners

Response = tuple[int, dict[str, str], bytes]
Handler = Callable[[str, str, Any, bytes, Any], Awaitable[Response]]
VAULT_TYPE = "AWS::Backup::BackupVault"
REFUSED = "InvalidRequestException"

_recovery_points: Any = AccountRegionScopedDict()  # ARN → record


def install(hinders: Callable[[str], str | None]) -> None:
    """Complete the emulator's vaults, jobs and routes. `hinders` says why an instance cannot be backed up, by its
    identifier."""
    backup._start_job = _keeping_a_recovery_point(backup._start_job, hinders)
    backup._delete_vault = _refusing_while_not_empty(backup._delete_vault)
    backup._list_recovery_points_by_vault = _list_recovery_points
    backup.handle_request = _with_missing_routes(backup.handle_request)
    handlers = provisioners._RESOURCE_HANDLERS[VAULT_TYPE]
    create = handlers["create"]

    def created(logical_id: str, properties: Mapping[str, Any], stack_name: str) -> tuple[str, dict[str, str]]:
        name, attributes = create(logical_id, properties, stack_name)
        _lock(name, properties.get("LockConfiguration"))
        return name, attributes

    def deleted(physical_id: str, _properties: Mapping[str, Any]) -> None:
        status, _headers, body = backup._delete_vault(physical_id)
        if status >= 400 and status != 404:
            raise ValueError(json.loads(body)["Message"])

    handlers.update(create=created, delete=deleted)


def _lock(vault: str, configuration: Mapping[str, Any] | None) -> None:
    if configuration:
        backup._vaults[vault].update(configuration, Locked=True)


def _keeping_a_recovery_point(
    start: Callable[[Mapping[str, Any]], Response], hinders: Callable[[str], str | None]
) -> Callable[..., Response]:
    def started(body: Mapping[str, Any]) -> Response:
        response = start(body)
        if response[0] < 400:
            job = backup._jobs[json.loads(response[2])["BackupJobId"]]
            hindrance = hinders(job["ResourceArn"].rpartition(":")[2]) if ":rds:" in job["ResourceArn"] else None
            if hindrance is not None:
                job.update(State="FAILED", StatusMessage=hindrance, PercentDone="0.0")
            metric = "NumberOfBackupJobsFailed" if hindrance is not None else "NumberOfBackupJobsCompleted"
            cloudwatch.record_metric("AWS/Backup", metric, 1, "Count", {"BackupVaultName": job["BackupVaultName"]})
            if hindrance is not None:
                _count(job["BackupVaultName"])
                return response
            arn = _recovery_point_arn(job)
            job["RecoveryPointArn"] = arn
            _recovery_points[arn] = {
                "RecoveryPointArn": arn,
                "BackupVaultName": job["BackupVaultName"],
                "BackupVaultArn": job["BackupVaultArn"],
                "ResourceArn": job["ResourceArn"],
                "IamRoleArn": job["IamRoleArn"],
                "Status": "COMPLETED",
                "CreationDate": job["CreationDate"],
            }
            _count(job["BackupVaultName"])
            answer = {**json.loads(response[2]), "RecoveryPointArn": arn}
            return response[0], response[1], json.dumps(answer).encode()
        return response

    return started


def _recovery_point_arn(job: Mapping[str, Any]) -> str:
    """As AWS names them: an instance's recovery point is a DB snapshot."""
    if ":rds:" in job["ResourceArn"]:
        return f"arn:aws:rds:{get_region()}:{get_account_id()}:snapshot:awsbackup:job-{job['BackupJobId']}"
    return f"arn:aws:backup:{get_region()}:{get_account_id()}:recovery-point:{job['BackupJobId']}"


def _of_vault(vault: str) -> list[dict[str, Any]]:
    return [point for point in _recovery_points.values() if point["BackupVaultName"] == vault]


def _count(vault: str) -> None:
    backup._vaults[vault]["NumberOfRecoveryPoints"] = len(_of_vault(vault))


def _refusing_while_not_empty(delete: Callable[[str], Response]) -> Callable[[str], Response]:
    def deleted(vault: str) -> Response:
        if vault in backup._vaults and _of_vault(vault):
            refused: Response = backup._err(
                REFUSED, f"Backup vault {vault} cannot be deleted because it contains recovery points.", 400
            )
            return refused
        return delete(vault)

    return deleted


def _list_recovery_points(vault: str, query: Mapping[str, Any]) -> Response:
    if vault not in backup._vaults:
        missing: Response = backup._not_found(f"Vault '{vault}' not found.")
        return missing
    listed: Response = backup._paginate(_of_vault(vault), query, "RecoveryPoints")
    return listed


def _delete_recovery_point(vault: str, arn: str) -> Response:
    point = _recovery_points.get(arn)
    answer: Response
    if point is None or point["BackupVaultName"] != vault:
        answer = backup._not_found(f"Recovery point '{arn}' not found.")
    elif backup._vaults[vault]["Locked"]:
        answer = backup._err(REFUSED, f"Backup vault {vault} is locked: its recovery points cannot be deleted.", 400)
    else:
        _recovery_points.pop(arn)
        _count(vault)
        answer = backup._no_content()
    return answer


def _with_missing_routes(handle: Handler) -> Handler:
    async def handled(method: str, path: str, headers: Any, body: bytes, query: Any) -> Response:
        match [method, *path.strip("/").split("/", 3)]:
            case ["DELETE", "backup-vaults", vault, "recovery-points", arn]:
                return _delete_recovery_point(vault, unquote(arn))
            case ["PUT", "backup-vaults", vault, "vault-lock"] if vault in backup._vaults:
                _lock(vault, json.loads(body))
                done: Response = backup._no_content()
                return done
        return await handle(method, path, headers, body, query)

    return handled
