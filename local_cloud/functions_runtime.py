"""Functions: the deployed zip in a process of its own that has what an execution environment on AWS has, and no more.

Replaces the emulator's warm workers. A worker sees the zip, boto3 and the standard library; its environment is the
function's, with the credentials of the function's role; it is killed at its timeout with everything it started; its
output goes to CloudWatch Logs while it runs, if the role may write there.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib.util
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ministack.core import lambda_runtime
from ministack.core.responses import get_account_id, get_region
from ministack.services import cloudwatch, ec2, efs, lambda_svc
from ministack.services.cloudformation import provisioners

from local_cloud import permissions
from local_cloud.function_worker import (
    FunctionIdentity,
    Home,
    Stopped,
    exit_error,
    kill_workers,
    registry,
    worker_class,
)
from local_cloud.permissions import RoleSession

if TYPE_CHECKING:
    from local_cloud.server import LocalCloudOptions

# What AWS's Python runtimes bring besides the standard library: boto3 and what it needs.
RUNTIME_PACKAGES = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six", "urllib3")
# AWS waits one minute, then two, between the attempts of an asynchronous invocation; here the shape is the same.
ASYNCHRONOUS_RETRY_SECONDS = 1.0
ASYNCHRONOUS_RETRY_LIMIT_SECONDS = 4.0
# The properties of AWS::Lambda::Function that the emulator's CloudFormation leaves out.
_CONFIGURED = ("VpcConfig", "FileSystemConfigs", "DeadLetterConfig")
# What a function's role needs for the target of its failures, by the target's service.
_FAILURE_ACTIONS = {
    "sqs": "sqs:SendMessage",
    "sns": "sns:Publish",
    "lambda": "lambda:InvokeFunction",
    "events": "events:PutEvents",
}

_logger = logging.getLogger(__name__)
_create_function = provisioners._lambda_create
_update_function = provisioners._lambda_update
_delete_function = provisioners._lambda_delete
_execute_function = lambda_svc._execute_function
_route_failure = lambda_svc._route_async_failure


def install(options: LocalCloudOptions, authority_bundle: Path) -> None:
    """Make functions run as described above. `authority_bundle` is the region's CA, given as PGSSLROOTCERT."""
    folder = options.state / "functions"
    shutil.rmtree(folder, ignore_errors=True)
    runtime = folder / "runtime"
    runtime.mkdir(parents=True, mode=0o700)
    for package in RUNTIME_PACKAGES:
        _link_package(package, runtime)
    registry.home = Home(folder, runtime, options.endpoint, authority_bundle)
    permissions.install()
    lambda_runtime._worker_class_for = worker_class
    lambda_runtime.kill_workers = kill_workers
    lambda_svc._execute_function = _execute_and_measure
    lambda_svc._execute_function_warm = _execute_warm
    lambda_svc._route_async_failure = _route_failure_as_role
    # The worker's log and the metrics are written where the invocation happens, whoever asked for it.
    lambda_svc._emit_lambda_logs = _nothing
    lambda_svc._emit_lambda_metrics = _nothing
    lambda_svc._LAMBDA_ASYNC_RETRY_BASE_SECONDS = ASYNCHRONOUS_RETRY_SECONDS
    lambda_svc._LAMBDA_ASYNC_RETRY_MAX_SECONDS = ASYNCHRONOUS_RETRY_LIMIT_SECONDS
    provisioners._RESOURCE_HANDLERS["AWS::Lambda::Function"].update(
        create=_create_from_template, update=_update_from_template, delete=_delete_from_template
    )


def stop_all() -> None:
    """Kill every worker with everything it started, let no new one start, and remove their folders."""
    home = registry.home
    workers = registry.close()
    with lambda_runtime._lock:
        lambda_runtime._workers.clear()
    kill_workers(workers)
    if home is not None:
        shutil.rmtree(home.folder, ignore_errors=True)


def function_processes() -> dict[int, FunctionIdentity]:
    """Return the running workers: process id → function. What a worker started is in the process group of its id."""
    return registry.processes()


def function_of_process(pid: int) -> FunctionIdentity | None:
    """Return the function a process belongs to (the worker itself or anything it started), if there is one."""
    workers = registry.processes()
    if pid in workers:
        return workers[pid]
    try:
        return workers.get(os.getsid(pid))
    except ProcessLookupError:
        return None


_lost_zones: frozenset[str] = frozenset()


def lose_zones(zones: frozenset[str]) -> None:
    """Let functions run only in other zones: what runs in the lost ones ends, and those pinned there cannot start."""
    global _lost_zones
    _lost_zones = zones
    _kill(lambda function: _is_cut_off(function.subnet_ids))


def kill(name: str) -> int:
    """End the running workers of a function, as a crash of their host does; how many there were."""
    return _kill(lambda function: function.name == name)


def _kill(doomed: Callable[[FunctionIdentity], bool]) -> int:
    processes = [pid for pid, function in registry.processes().items() if doomed(function)]
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    return len(processes)


def _is_cut_off(subnet_ids: Sequence[str]) -> bool:
    """Whether all zones of a function in a VPC are lost."""
    zones = {str((ec2._subnets.get(subnet) or {}).get("AvailabilityZone", "")) for subnet in subnet_ids}
    return bool(zones) and zones <= _lost_zones


def _nothing(*_arguments: Any, **_named: Any) -> None:
    return None


def _link_package(package: str, folder: Path) -> None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"The functions' runtime needs {package}, which is not installed.")
    origin = Path(spec.origin)
    source = origin.parent if origin.name == "__init__.py" else origin
    (folder / source.name).symlink_to(source)


# Invocations


def _execute_warm(func: dict[str, Any], event: Any, request_id: str) -> dict[str, Any]:
    """Run an invocation on a free worker of the function as it is deployed now."""
    config = func.get("config") or func
    version = str(config.get("Version", "$LATEST"))
    name = str(config.get("FunctionName", ""))
    current = lambda_svc._functions.get(name)
    if current is None:
        # A retry that outlived its function.
        return _service_error("ResourceNotFoundException", f"Function not found: {config.get('FunctionArn')}")
    record = current if version == "$LATEST" else current["versions"].get(version, func)
    if not record.get("code_zip"):
        return _service_error("InvalidZipFileException", f"The function {name} has no code.")
    if _is_cut_off((record["config"].get("VpcConfig") or {}).get("SubnetIds") or ()):
        return _service_error("SubnetOutOfService", f"The function {name} has no subnet in a zone that works.")
    if denial := _mount_denial(record["config"]):
        return _service_error("EFSMountFailureException", denial)
    lambda_svc._ensure_reaper_thread()
    try:
        worker, _ = lambda_runtime.acquire_worker(name, record["config"], record["code_zip"], qualifier=version)
    except ValueError as error:
        return _service_error("InvalidRuntimeException", str(error))
    try:
        arn = str(config.get("FunctionArn", ""))
        result: dict[str, Any] = worker.invoke(event, request_id, arn, lambda_svc._xray_trace_id_for_invocation(config))
    except Stopped:
        return {"body": exit_error(request_id, -signal.SIGKILL), "error": True, "function_error": "Unhandled"}
    finally:
        lambda_runtime.release_worker(worker)
    return result


def _service_error(kind: str, message: str) -> dict[str, Any]:
    return {"body": {"errorType": kind, "errorMessage": message}, "error": True, "function_error": "Unhandled"}


def _mount_denial(config: Mapping[str, Any]) -> str | None:
    """Why the function's role may not mount one of its file systems, or None."""
    session = RoleSession(str(config.get("Role", "")), str(config.get("FunctionName", ""))[:64])
    for mount in config.get("FileSystemConfigs") or []:
        identifier = str(mount["Arn"]).rpartition("/")[2]
        access_point = efs._access_points.get(identifier)
        if access_point is None:
            return f"The access point {mount['Arn']} does not exist."
        resource = (
            f"arn:aws:elasticfilesystem:{get_region()}:{get_account_id()}:file-system/{access_point['FileSystemId']}"
        )
        context = {"elasticfilesystem:AccessPointArn": mount["Arn"], "elasticfilesystem:AccessedViaMountTarget": "true"}
        if denial := permissions.role_denial(session, "elasticfilesystem:ClientMount", resource, context=context):
            return f"The function couldn't mount the Amazon EFS file system with access point {mount['Arn']}: {denial}"
    return None


def _execute_and_measure(func: dict[str, Any], event: Any) -> dict[str, Any]:
    config = func.get("config") or func
    if lambda_svc._function_config_scope_mismatch(config):
        # Comes back here in the function's own account and region.
        again: dict[str, Any] = _execute_function(func, event)
        return again
    began = time.monotonic()
    result: dict[str, Any] = _execute_function(func, event)
    _measure(str(config.get("FunctionName", "")), result, (time.monotonic() - began) * 1000)
    return result


def _measure(name: str, result: Mapping[str, Any], milliseconds: float) -> None:
    """Record AWS/Lambda metrics: a throttled request is a throttle and not an invocation."""
    throttled = bool(result.get("throttle"))
    values = [("Throttles", float(throttled), "Count")]
    if not throttled:
        values += [
            ("Invocations", 1.0, "Count"),
            ("Errors", float(bool(result.get("error"))), "Count"),
            ("Duration", milliseconds, "Milliseconds"),
        ]
    for dimensions in ({"FunctionName": name}, {}):
        for metric, value, unit in values:
            cloudwatch.record_metric("AWS/Lambda", metric, value, unit, dimensions)


def invoke_asynchronously(function_arn: str, event: Any) -> bool:
    """Invoke as an event source does: two more attempts, then the dead-letter target. False: no such function."""
    func, config, _ = lambda_svc._get_func_record_for_ref(function_arn)
    if not func or not config:
        return False
    record = lambda_svc._execution_record_for_config(func, config)
    contextvars.copy_context().run(lambda_svc.invoke_async_with_retry, record, event)
    return True


def _route_failure_as_role(target_arn: str, name: str, event: Any, result: dict[str, Any]) -> None:
    """Send what failed for good to the dead-letter target or destination, if the function's role may."""
    config = (lambda_svc._functions.get(name) or {}).get("config") or {}
    service = target_arn.split(":")[2] if target_arn.count(":") >= 5 else ""
    session = RoleSession(str(config.get("Role", "")), name[:64])
    action = _FAILURE_ACTIONS.get(service)
    denial = permissions.role_denial(session, action, target_arn, service=service) if action else None
    if denial:
        _logger.warning("A failed event of %s was dropped: %s", name, denial)
        cloudwatch.record_metric("AWS/Lambda", "DeadLetterErrors", 1, "Count", {"FunctionName": name})
        return
    _route_failure(target_arn, name, event, result)


# Templates


def _create_from_template(logical_id: str, props: dict[str, Any], stack_name: str) -> Any:
    created = _create_function(logical_id, props, stack_name)
    _complete(created[0], props)
    return created


def _update_from_template(
    physical_id: str, old: dict[str, Any], new: dict[str, Any], stack_name: str, logical_id: str | None = None
) -> Any:
    updated = _update_function(physical_id, old, new, stack_name, logical_id)
    _complete(updated[0], new)
    return updated


def _delete_from_template(physical_id: str, props: dict[str, Any]) -> Any:
    deleted = _delete_function(physical_id, props)
    lambda_svc.invalidate_worker(physical_id, account=get_account_id(), region=get_region())
    return deleted


def _complete(name: str, props: Mapping[str, Any]) -> None:
    """Keep what the emulator's CloudFormation drops: network, file systems, dead letters, reserved concurrency."""
    record = lambda_svc._functions[name]
    config = record["config"]
    for key in _CONFIGURED:
        if props.get(key):
            config[key] = lambda_svc._vpc_config_with_id(props[key]) if key == "VpcConfig" else props[key]
        else:
            config.pop(key, None)
    reserved = props.get("ReservedConcurrentExecutions")
    record["concurrency"] = None if reserved is None else int(reserved)
    lambda_svc.invalidate_worker(name, account=get_account_id(), region=get_region())
