"""Functions: the deployed zip in a process of its own that has what an execution environment on AWS has, and no more.

Replaces the emulator's warm workers. A worker sees the zip, boto3 and the standard library; its environment is the
function's, with the credentials of the function's role; it is killed at its timeout with everything it started; its
output goes to CloudWatch Logs while it runs, if the role may write there.
"""

from __future__ import annotations

import contextvars
import hashlib
import importlib.util
import io
import json
import logging
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ministack.core import lambda_runtime
from ministack.core.responses import get_account_id, get_region, request_scope
from ministack.services import cloudwatch, cloudwatch_logs, efs, lambda_svc
from ministack.services.cloudformation import provisioners

from local_cloud import file_systems, permissions
from local_cloud.function_bootstrap import END_OF_LOG
from local_cloud.permissions import RoleSession

if TYPE_CHECKING:
    from local_cloud.server import LocalCloudOptions

# What AWS's Python runtimes bring besides the standard library: boto3 and what it needs.
RUNTIME_PACKAGES = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six", "urllib3")
# AWS gives a function's initialisation 10 s (Lambda developer guide, "Lambda execution environment lifecycle").
INITIALISATION_SECONDS = 10.0
# AWS waits one minute, then two, between the attempts of an asynchronous invocation; here the shape is the same.
ASYNCHRONOUS_RETRY_SECONDS = 1.0
ASYNCHRONOUS_RETRY_LIMIT_SECONDS = 4.0
_BOOTSTRAP = Path(__file__).with_name("function_bootstrap.py")
_LOG_LEVELS = {
    "TRACE": "DEBUG",
    "DEBUG": "DEBUG",
    "INFO": "INFO",
    "WARN": "WARNING",
    "ERROR": "ERROR",
    "FATAL": "FATAL",
}
# The properties of AWS::Lambda::Function that the emulator's CloudFormation leaves out.
_CONFIGURED = ("VpcConfig", "FileSystemConfigs", "DeadLetterConfig")

_logger = logging.getLogger(__name__)
_create_function = provisioners._lambda_create
_update_function = provisioners._lambda_update
_delete_function = provisioners._lambda_delete
_execute_function = lambda_svc._execute_function


@dataclass(frozen=True)
class FunctionIdentity:
    """The function that a process belongs to, and where it sits in the network (both empty: outside of any VPC)."""

    name: str
    arn: str
    security_group_ids: tuple[str, ...]
    subnet_ids: tuple[str, ...]


@dataclass(frozen=True)
class _Home:
    """Where workers live and what all of them share."""

    folder: Path
    runtime: Path
    endpoint_url: str
    authority_bundle: Path


class _Stopped(Exception):
    """No worker may start any more."""


class _Registry:
    """Every worker that has a process, by process id."""

    def __init__(self) -> None:
        self.home: _Home | None = None
        self._workers: dict[int, FunctionWorker] = {}
        self._lock = threading.Lock()

    def add(self, process: int, worker: FunctionWorker) -> bool:
        with self._lock:
            if self.home is None:
                return False
            self._workers[process] = worker
            return True

    def remove(self, process: int) -> None:
        with self._lock:
            self._workers.pop(process, None)

    def processes(self) -> dict[int, FunctionIdentity]:
        with self._lock:
            return {process: worker.identity for process, worker in self._workers.items()}

    def close(self) -> list[FunctionWorker]:
        with self._lock:
            self.home = None
            return list(self._workers.values())


_registry = _Registry()


def install(options: LocalCloudOptions, authority_bundle: Path) -> None:
    """Make functions run as described above. `authority_bundle` is the region's CA, given as PGSSLROOTCERT."""
    folder = options.state / "functions"
    shutil.rmtree(folder, ignore_errors=True)
    runtime = folder / "runtime"
    runtime.mkdir(parents=True, mode=0o700)
    for package in RUNTIME_PACKAGES:
        _link_package(package, runtime)
    _registry.home = _Home(folder, runtime, f"http://{options.host}:{options.port}", authority_bundle)
    permissions.install()
    lambda_runtime._worker_class_for = _worker_class
    lambda_runtime.kill_workers = kill_workers
    lambda_svc._execute_function = _execute_and_measure
    lambda_svc._execute_function_warm = _execute_warm
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
    home = _registry.home
    workers = _registry.close()
    with lambda_runtime._lock:
        lambda_runtime._workers.clear()
    kill_workers(workers)
    if home is not None:
        shutil.rmtree(home.folder, ignore_errors=True)


def function_processes() -> dict[int, FunctionIdentity]:
    """Return the running workers: process id → function. What a worker started is in the process group of its id."""
    return _registry.processes()


def function_of_process(pid: int) -> FunctionIdentity | None:
    """Return the function a process belongs to (the worker itself or anything it started), if there is one."""
    workers = _registry.processes()
    if pid in workers:
        return workers[pid]
    try:
        return workers.get(os.getsid(pid))
    except ProcessLookupError:
        return None


def _nothing(*_arguments: Any, **_named: Any) -> None:
    return None


def _link_package(package: str, folder: Path) -> None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"The functions' runtime needs {package}, which is not installed.")
    origin = Path(spec.origin)
    source = origin.parent if origin.name == "__init__.py" else origin
    (folder / source.name).symlink_to(source)


# Code and environment


def _code_folder(home: _Home, code: bytes) -> Path:
    """Return the folder of an unpacked zip; functions with the same code share it, as nothing may write there."""
    folder = home.folder / f"code-{hashlib.sha256(code).hexdigest()[:32]}"
    if not folder.exists():
        unpacked = home.folder / f"unpacking-{uuid.uuid4().hex}"
        with zipfile.ZipFile(io.BytesIO(code)) as archive:
            archive.extractall(unpacked)
        try:
            unpacked.rename(folder)
        except OSError:
            # Another worker of the same code was faster.
            shutil.rmtree(unpacked, ignore_errors=True)
    return folder


def worker_environment(
    config: Mapping[str, Any], home: _Home, code: Path, scratch: Path, stream: str
) -> dict[str, str]:
    """Return the whole environment of a worker: nothing of this process's own environment is in it."""
    function_arn = str(config["FunctionArn"])
    region = function_arn.split(":")[3]
    variables = {str(k): str(v) for k, v in ((config.get("Environment") or {}).get("Variables") or {}).items()}
    for mount in config.get("FileSystemConfigs") or []:
        folder = str(file_systems.efs_folder(mount["Arn"]))
        variables = {k: _mounted(v, str(mount["LocalMountPath"]), folder) for k, v in variables.items()}
    defaults = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "en_US.UTF-8",
        "TZ": ":UTC",
        "TMPDIR": str(scratch),
        "AWS_ENDPOINT_URL": home.endpoint_url,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "PGSSLROOTCERT": str(home.authority_bundle),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    reserved = {
        "_HANDLER": str(config.get("Handler", "")),
        "AWS_DEFAULT_REGION": region,
        "AWS_REGION": region,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{config.get('Runtime', 'python3.14')}",
        "AWS_LAMBDA_FUNCTION_NAME": str(config["FunctionName"]),
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(config.get("MemorySize", 128)),
        "AWS_LAMBDA_FUNCTION_VERSION": str(config.get("Version", "$LATEST")),
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": log_group(config),
        "AWS_LAMBDA_LOG_STREAM_NAME": stream,
        "LAMBDA_TASK_ROOT": str(code),
        "LAMBDA_RUNTIME_DIR": str(home.runtime),
        **lambda_runtime.execution_credentials(config),
    }
    return {**defaults, **variables, **reserved}


def _mounted(value: str, mount: str, folder: str) -> str:
    mount = mount.rstrip("/")
    return folder + value[len(mount) :] if value == mount or value.startswith(mount + "/") else value


def log_group(config: Mapping[str, Any]) -> str:
    """Return the log group of a function: the one it configures, else `/aws/lambda/<name>`."""
    return str((config.get("LoggingConfig") or {}).get("LogGroup") or f"/aws/lambda/{config['FunctionName']}")


# Logs


class FunctionLog:
    """The log stream of one worker, written with the permissions of the function's role.

    AWS never tells a function that its log could not be written; neither does this.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        date = time.strftime("%Y/%m/%d", time.gmtime())
        self.stream = f"{date}/[{config.get('Version', '$LATEST')}]{uuid.uuid4().hex}"
        self._group = log_group(config)
        self._session = RoleSession(str(config.get("Role", "")), str(config["FunctionName"])[:64])
        self._scope = tuple(str(config["FunctionArn"]).split(":")[3:5])
        logging_config = config.get("LoggingConfig") or {}
        self.layout = str(logging_config.get("LogFormat") or "Text").upper()
        self.level = _LOG_LEVELS.get(str(logging_config.get("ApplicationLogLevel")), "WARNING")
        self._memory = int(config.get("MemorySize", 128))

    def write(self, lines: Iterable[str]) -> None:
        """Append lines, now."""
        now = int(time.time() * 1000)
        region, account = self._scope
        with request_scope(account, region):
            if self._writable(region, account):
                events = [{"timestamp": now, "message": line} for line in lines]
                cloudwatch_logs._put_log_events(
                    {"logGroupName": self._group, "logStreamName": self.stream, "logEvents": events}
                )

    def start(self, request_id: str, version: str) -> None:
        """Write the platform's line at the start of an invocation."""
        record = {"requestId": request_id, "version": version}
        self._platform("platform.start", record, f"START RequestId: {request_id} Version: {version}")

    def report(self, request_id: str, milliseconds: float, initialisation: float | None, status: str) -> None:
        """Write the platform's lines at the end of an invocation (durations in milliseconds)."""
        metrics: dict[str, Any] = {"durationMs": round(milliseconds, 2), "memorySizeMB": self._memory}
        text = (
            f"REPORT RequestId: {request_id}\tDuration: {milliseconds:.2f} ms\t"
            f"Billed Duration: {int(milliseconds) + 1} ms\tMemory Size: {self._memory} MB"
        )
        if initialisation is not None:
            metrics["initDurationMs"] = round(initialisation, 2)
            text += f"\tInit Duration: {initialisation:.2f} ms"
        if self.layout != "JSON":
            self.write([f"END RequestId: {request_id}"])
        record = {"requestId": request_id, "status": status, "metrics": metrics}
        self._platform("platform.report", record, text if status == "success" else f"{text}\tStatus: {status}")

    def _platform(self, kind: str, record: dict[str, Any], text: str) -> None:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        self.write([json.dumps({"time": moment, "type": kind, "record": record}) if self.layout == "JSON" else text])

    def _writable(self, region: str, account: str) -> bool:
        group = f"arn:aws:logs:{region}:{account}:log-group:{self._group}"
        stream = f"{group}:log-stream:{self.stream}"
        if self._group not in cloudwatch_logs._log_groups:
            if self._denied("logs:CreateLogGroup", group):
                return False
            cloudwatch_logs._create_log_group({"logGroupName": self._group})
        if self.stream not in cloudwatch_logs._log_groups[self._group]["streams"]:
            if self._denied("logs:CreateLogStream", stream):
                return False
            cloudwatch_logs._create_log_stream({"logGroupName": self._group, "logStreamName": self.stream})
        return not self._denied("logs:PutLogEvents", stream)

    def _denied(self, action: str, resource: str) -> bool:
        return permissions.role_denial(self._session, action, resource) is not None


# Workers


class FunctionWorker:
    """One execution environment: a process that keeps its module's state between invocations.

    The attributes without a doc string are the ones that the emulator's pool of workers reads and writes.
    """

    def __init__(self, func_name: str, config: dict[str, Any], code_zip: bytes) -> None:
        self.func_name = func_name
        self.config = config
        self.code_zip = code_zip
        self.in_use = False
        self.last_used = time.time()
        self._lock = threading.Lock()
        self._proc: subprocess.Popen[bytes] | None = None
        network = config.get("VpcConfig") or {}
        self.identity = FunctionIdentity(
            func_name,
            str(config.get("FunctionArn", "")),
            tuple(network.get("SecurityGroupIds") or ()),
            tuple(network.get("SubnetIds") or ()),
        )
        self._dead = False
        self._scratch: Path | None = None
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._log_ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.log = FunctionLog(config)

    def invoke(self, event: Any, request_id: str, function_arn: str, trace_id: str | None) -> dict[str, Any]:
        """Run one invocation and return the emulator's record of it: `body`, and `error` when it failed."""
        with self._lock:
            timeout = float(self.config.get("Timeout", 3))
            initialisation: float | None = None
            fault: dict[str, Any] | None = None
            if self._proc is None or self._proc.poll() is not None:
                began = time.monotonic()
                fault = self._start()
                initialisation = (time.monotonic() - began) * 1000
            self.log.start(request_id, str(self.config.get("Version", "$LATEST")))
            began = time.monotonic()
            if fault is None:
                invocation = {
                    "event": event,
                    "request_id": request_id,
                    "function_arn": function_arn,
                    "deadline": time.time() + timeout,
                    "trace_id": trace_id,
                }
                answer = self._ask(invocation, request_id, timeout)
            else:
                answer = {"error": {**fault, "requestId": request_id}}
            elapsed = (time.monotonic() - began) * 1000
            error = answer.get("error")
            status = "success"
            if error is not None:
                status = "timeout" if error["errorType"] == "Sandbox.Timedout" else "error"
                self.log.write([_error_text(error, self.log.layout)])
            self.log.report(request_id, elapsed, initialisation, status)
            self.last_used = time.time()
        if error is not None:
            return {"body": error, "error": True, "function_error": "Unhandled"}
        return {"body": answer["payload"], "raw_payload": True}

    def _ask(self, invocation: dict[str, Any], request_id: str, timeout: float) -> dict[str, Any]:
        process = self._proc
        if process is None or process.stdin is None:
            return {"error": _exit_error(request_id, None)}
        deadline = time.monotonic() + timeout
        try:
            process.stdin.write(json.dumps(invocation).encode() + b"\n")
            process.stdin.flush()
            answer = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            self.kill()
            message = f"RequestId: {request_id} Error: Task timed out after {timeout:.2f} seconds"
            return {"error": {"errorType": "Sandbox.Timedout", "errorMessage": message}}
        except OSError:
            answer = None
        if answer is None:
            return {"error": _exit_error(request_id, self._exit_status(process))}
        self._wait_for_log(request_id)
        return answer

    def _wait_for_log(self, request_id: str) -> None:
        # The process wrote the end of the log before its answer; the reader may be a moment behind.
        deadline = time.monotonic() + 1
        while (left := deadline - time.monotonic()) > 0:
            try:
                if self._log_ended.get(timeout=left) == request_id:
                    return
            except queue.Empty:
                return

    def _start(self) -> dict[str, Any] | None:
        """Start the process and wait until the handler's module is imported; return the error when it cannot be."""
        home = _registry.home
        if home is None or self._dead:
            raise _Stopped
        self._scratch = home.folder / f"{self.func_name}-{uuid.uuid4().hex[:8]}"
        self._scratch.mkdir(mode=0o700)
        code = _code_folder(home, self.code_zip)
        self.log = FunctionLog(self.config)
        environment = worker_environment(self.config, home, code, self._scratch, self.log.stream)
        self._answers, self._log_ended = queue.SimpleQueue(), queue.SimpleQueue()
        answers_read, answers_write = os.pipe()
        try:
            # Isolated: no site-packages, no working directory on the path, no PYTHON* variable.
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-u", "-X", "utf8", str(_BOOTSTRAP)],
                cwd=code,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(answers_write,),
                start_new_session=True,
            )
        except OSError:
            os.close(answers_read)
            raise
        finally:
            os.close(answers_write)
        self._proc = process
        known = _registry.add(process.pid, self)
        # The readers belong to this process; a later one of the same worker has queues of its own.
        threading.Thread(target=_read_answers, args=(answers_read, self._answers), daemon=True).start()
        threading.Thread(target=_read_log, args=(process, self.log, self._log_ended), daemon=True).start()
        if not known or self._dead:
            self.kill()
            raise _Stopped
        start = {
            "answers": answers_write,
            "handler": self.config.get("Handler", "index.handler"),
            "path": [str(code), str(home.runtime)],
            "log_format": self.log.layout,
            "log_level": self.log.level,
        }
        try:
            if process.stdin is not None:
                process.stdin.write(json.dumps(start).encode() + b"\n")
                process.stdin.flush()
            answer = self._answers.get(timeout=max(INITIALISATION_SECONDS, float(self.config.get("Timeout", 3))))
        except (OSError, queue.Empty):
            answer = None
        if answer is not None and "error" not in answer:
            self._wait_for_log("init")
            return None
        status = self._exit_status(process)
        error: dict[str, Any] = answer["error"] if answer else _exit_error("", status)
        return error

    def _exit_status(self, process: subprocess.Popen[bytes]) -> int:
        """Return how a process that answers no more ended; one that does not end is killed."""
        try:
            process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            _logger.debug("The worker of %s neither answers nor ends", self.func_name)
        self.kill()
        return process.wait()

    def retire(self) -> None:
        """Kill the process and let no other one start: the function was changed or deleted."""
        self._dead = True
        self.kill()

    def kill(self) -> None:
        """Kill the process with everything it started and remove its folder."""
        process, self._proc = self._proc, None
        if process is not None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                process.kill()
            process.wait()
            if process.stdin is not None:
                try:
                    process.stdin.close()
                except OSError:
                    _logger.debug("The worker of %s was gone before its request", self.func_name)
            _registry.remove(process.pid)
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def kill_workers(workers: Iterable[Any]) -> None:
    """End workers for good; what they were doing ends with Runtime.ExitError."""
    for worker in workers:
        if isinstance(worker, FunctionWorker):
            worker.retire()


def _worker_class(config: Mapping[str, Any]) -> type[FunctionWorker]:
    runtime = str(config.get("Runtime", ""))
    if not runtime.startswith("python"):
        raise ValueError(f"The local cloud runs Python functions only, not {runtime or 'container images'}.")
    return FunctionWorker


def _read_answers(descriptor: int, answers: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    with os.fdopen(descriptor, encoding="utf-8") as stream:
        for line in stream:
            try:
                answers.put(json.loads(line))
            except ValueError:
                break
    answers.put(None)


def _read_log(process: subprocess.Popen[bytes], log: FunctionLog, ended: queue.SimpleQueue[str]) -> None:
    if process.stdout is None:
        return
    with process.stdout:
        for raw in process.stdout:
            line = raw.decode("utf-8", "replace").rstrip("\n")
            text, marker, request_id = line.partition(END_OF_LOG)
            if text:
                try:
                    log.write([text])
                except Exception:
                    _logger.exception("A line of %s was not written", log.stream)
            if marker:
                ended.put(request_id)


def _exit_error(request_id: str, returncode: int | None) -> dict[str, Any]:
    if returncode is not None and returncode < 0:
        names = {signal.SIGKILL: "killed", signal.SIGSEGV: "segmentation fault", signal.SIGTERM: "terminated"}
        reason = f"Runtime exited with error: signal: {names.get(signal.Signals(-returncode), str(-returncode))}"
    elif returncode:
        reason = f"Runtime exited with error: exit status {returncode}"
    else:
        reason = "Runtime exited without providing a reason"
    return {"errorType": "Runtime.ExitError", "errorMessage": f"RequestId: {request_id} Error: {reason}"}


def _error_text(error: Mapping[str, Any], layout: str) -> str:
    if layout == "JSON":
        return json.dumps({"level": "ERROR", **error})
    if error["errorType"].startswith(("Sandbox.", "Runtime.Exit")):
        return str(error["errorMessage"])
    trace = "".join(error.get("stackTrace") or [])
    head = f"[ERROR] {error['errorType']}: {error['errorMessage']}"
    return f"{head}\nTraceback (most recent call last):\n{trace}" if trace else head


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
    except _Stopped:
        return {"body": _exit_error(request_id, -signal.SIGKILL), "error": True, "function_error": "Unhandled"}
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
