"""Execution environments: a function's code, environment and process."""

from __future__ import annotations

import hashlib
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
from typing import Any

import psutil
from ministack.core import lambda_runtime
from ministack.services import sts

from local_cloud import file_systems
from local_cloud.function_bootstrap import END_OF_LOG
from local_cloud.function_log import FunctionLog, log_group

# AWS gives a function's initialisation 10 s (Lambda developer guide, "Lambda execution environment lifecycle").
INITIALISATION_SECONDS = 10.0
NEVER = 4_102_444_800.0
"""The year 2100, s since the epoch."""
_BOOTSTRAP = Path(__file__).with_name("function_bootstrap.py")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FunctionIdentity:
    """The function that a process belongs to, and where it sits in the network (both empty: outside of any VPC)."""

    name: str
    arn: str
    security_group_ids: tuple[str, ...]
    subnet_ids: tuple[str, ...]


@dataclass(frozen=True)
class Home:
    """Where workers live and what all of them share."""

    folder: Path
    runtime: Path
    endpoint_url: str
    authority_bundle: Path


class Stopped(Exception):
    """No worker may start any more."""


class Registry:
    """Every worker that has a process, by process id."""

    def __init__(self) -> None:
        self.home: Home | None = None
        self._workers: dict[int, FunctionWorker] = {}
        self._lock = threading.Lock()

    def add(self, process: int, worker: FunctionWorker) -> bool:
        """Note a worker's process; False when no worker may run any more."""
        with self._lock:
            if self.home is None:
                return False
            self._workers[process] = worker
            return True

    def remove(self, process: int) -> None:
        """Forget a process that is gone."""
        with self._lock:
            self._workers.pop(process, None)

    def processes(self) -> dict[int, FunctionIdentity]:
        """Return the running workers: process id → function."""
        with self._lock:
            return {process: worker.identity for process, worker in self._workers.items()}

    def close(self) -> list[FunctionWorker]:
        """Let no worker start any more; return those that run."""
        with self._lock:
            self.home = None
            return list(self._workers.values())


registry = Registry()


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has ended. `Popen.poll` says no while another thread is about to collect it."""
    try:
        return bool(psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _code_folder(home: Home, code: bytes) -> Path:
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


def worker_environment(config: Mapping[str, Any], home: Home, code: Path, scratch: Path, stream: str) -> dict[str, str]:
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
        "AWS_CA_BUNDLE": str(home.authority_bundle),
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
        **_credentials(config),
    }
    return {**defaults, **variables, **reserved}


def _credentials(config: Mapping[str, Any]) -> dict[str, str]:
    """The role's session. Lambda renews a function's credentials in time, so here they do not expire; that is said as
    a date because the database refuses a token whose signer's session has none.
    """
    credentials: dict[str, str] = lambda_runtime.execution_credentials(dict(config))
    session = sts._sessions.get(credentials["AWS_ACCESS_KEY_ID"])
    if session is not None:
        session.setdefault("Expiration", NEVER)
    return credentials


def _mounted(value: str, mount: str, folder: str) -> str:
    mount = mount.rstrip("/")
    return folder + value[len(mount) :] if value == mount or value.startswith(mount + "/") else value


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
            if self._proc is None or _has_ended(self._proc):
                self.kill()
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
            return {"error": exit_error(request_id, None)}
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
            return {"error": exit_error(request_id, self._exit_status(process))}
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
        home = registry.home
        if home is None or self._dead:
            raise Stopped
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
        known = registry.add(process.pid, self)
        # The readers belong to this process; a later one of the same worker has queues of its own.
        threading.Thread(target=_read_answers, args=(answers_read, self._answers), daemon=True).start()
        threading.Thread(target=_read_log, args=(process, self.log, self._log_ended), daemon=True).start()
        if not known or self._dead:
            self.kill()
            raise Stopped
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
        error: dict[str, Any] = answer["error"] if answer else exit_error("", status)
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
            registry.remove(process.pid)
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def kill_workers(workers: Iterable[Any]) -> None:
    """End workers for good; what they were doing ends with Runtime.ExitError."""
    for worker in workers:
        if isinstance(worker, FunctionWorker):
            worker.retire()


def worker_class(config: Mapping[str, Any]) -> type[FunctionWorker]:
    """Return the class of a function's workers. Raises ValueError for a runtime that is not Python."""
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


def exit_error(request_id: str, returncode: int | None) -> dict[str, Any]:
    """Return AWS's error for a process that ended during an invocation, from its exit status (negative: a signal)."""
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
