from __future__ import annotations

import contextvars
import functools
import gc
import inspect
import io
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped,unused-ignore]
import pytest
from ministack.core import lambda_runtime
from ministack.services import cloudwatch_logs, efs, lambda_svc, sqs, sts
from ministack.services.cloudformation import provisioners

from local_cloud import function_bootstrap, functions_runtime
from local_cloud.function_worker import FunctionIdentity
from tests.unit.local_cloud.emulated_account import ACCOUNT, LOGS, REGION, Account, emulated_account, eventually

ENVIRONMENT = "import os\ndef handler(event, context):\n    return dict(os.environ)\n"
ECHO = "def handler(event, context):\n    print('got', event)\n    return event\n"
COUNTER = """
import os, sys, time
calls = 0
def handler(event, context):
    global calls
    calls += 1
    if event.get("raise"):
        class FenceNotShown(Exception): pass
        raise FenceNotShown("still reachable")
    if event.get("kill"):
        os.kill(os.getpid(), 9)
    if "exit" in event:
        sys.exit(event["exit"])
    if event.get("sleep"):
        time.sleep(event["sleep"])
    return {"calls": calls, "pid": os.getpid(), "left": context.get_remaining_time_in_millis()}
"""


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    with emulated_account(tmp_path) as emulated:
        yield emulated


def test_a_function_sees_its_own_environment_and_nothing_of_the_servers(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COVERAGE_PROCESS_START", "/somewhere")
    monkeypatch.setenv("SECRET_OF_THE_SERVER", "1")
    account.function("f", ENVIRONMENT, Environment={"Variables": {"SUFFIX": "test", "AWS_REGION": "elsewhere"}})
    seen = account.invoke("f")
    assert not {"COVERAGE_PROCESS_START", "SECRET_OF_THE_SERVER", "PYTEST_CURRENT_TEST", "HOME"} & seen.keys()
    assert seen["SUFFIX"] == "test"
    assert seen["AWS_REGION"] == REGION
    assert seen["AWS_LAMBDA_FUNCTION_NAME"] == "f"
    assert seen["_HANDLER"] == "app.handler"
    assert seen["AWS_EXECUTION_ENV"] == "AWS_Lambda_python3.14"
    assert seen["AWS_ENDPOINT_URL"] == "https://127.0.0.1:4566"
    assert seen["AWS_CONFIG_FILE"] == seen["AWS_SHARED_CREDENTIALS_FILE"] == os.devnull
    assert seen["PGSSLROOTCERT"] == str(account.authority_bundle)


def test_a_function_has_the_credentials_of_its_own_role(account: Account) -> None:
    account.function("f", ENVIRONMENT)
    session = sts._sessions[account.invoke("f")["AWS_ACCESS_KEY_ID"]]
    assert session["Arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/f-role/f"


def test_a_function_has_boto3_and_nothing_else_that_is_not_in_its_zip(account: Account) -> None:
    account.function("with-boto3", "import boto3\ndef handler(event, context):\n    return boto3.__version__\n")
    assert account.invoke("with-boto3")
    account.function("with-driver", "import pg8000\ndef handler(event, context):\n    return 1\n")
    error = account.attempt("with-driver")["body"]
    assert error["errorType"] == "Runtime.ImportModuleError"
    assert error["errorMessage"] == "Unable to import module 'app': No module named 'pg8000'"


def test_a_file_system_is_a_folder_and_the_environment_points_to_it(account: Account) -> None:
    arn = f"arn:aws:elasticfilesystem:{REGION}:{ACCOUNT}:access-point/fsap-1"
    efs._access_points["fsap-1"] = {"FileSystemId": "fs-1", "RootDirectory": {"Path": "/log"}}
    source = (
        "import os\ndef handler(event, context):\n"
        "    open(os.environ['LOG_PATH'] + '/a', 'w').close()\n    return dict(os.environ)\n"
    )
    props = {
        "FileSystemConfigs": [{"Arn": arn, "LocalMountPath": "/mnt/log"}],
        "Environment": {"Variables": {"LOG_PATH": "/mnt/log", "BELOW": "/mnt/log/a", "OTHER": "/mnt/logs"}},
    }
    account.function("f", source, Role=account.role("r", "elasticfilesystem:ClientMount"), **props)
    seen = account.invoke("f")
    folder = Path(seen["LOG_PATH"])
    assert folder == account.options.state / "efs" / "fs-1" / "log"
    assert (folder / "a").exists()
    assert seen["BELOW"] == str(folder / "a")
    assert seen["OTHER"] == "/mnt/logs"


def test_a_role_that_may_not_mount_the_file_system_cannot_run_the_function(account: Account) -> None:
    arn = f"arn:aws:elasticfilesystem:{REGION}:{ACCOUNT}:access-point/"
    efs._access_points["fsap-2"] = {"FileSystemId": "fs-2"}
    for access_point, reason in (("fsap-2", "elasticfilesystem:ClientMount"), ("fsap-none", "does not exist")):
        account.function("f", ECHO, FileSystemConfigs=[{"Arn": arn + access_point, "LocalMountPath": "/mnt/log"}])
        error = account.attempt("f")["body"]
        assert error["errorType"] == "EFSMountFailureException"
        assert reason in error["errorMessage"]


def test_a_warm_worker_keeps_its_state_and_an_exception_does_not_end_it(account: Account) -> None:
    account.function("f", COUNTER)
    first = account.invoke("f")
    failed = account.attempt("f", {"raise": True})["body"]
    third = account.invoke("f")
    assert failed["errorType"] == "FenceNotShown"
    assert failed["errorMessage"] == "still reachable"
    assert "in handler" in failed["stackTrace"][0]
    assert third == {"calls": 3, "pid": first["pid"], "left": pytest.approx(5000, abs=200)}


def test_a_function_is_killed_at_its_timeout_with_what_it_started(account: Account) -> None:
    source = (
        "import os, subprocess, time\ndef handler(event, context):\n"
        "    child = subprocess.Popen(['sleep', '60'])\n"
        "    open(os.environ['NOTE'], 'w').write(f'{os.getpid()} {child.pid}')\n    time.sleep(60)\n"
    )
    note = account.options.state / "note"
    account.function("f", source, Timeout=1, Environment={"Variables": {"NOTE": str(note)}})
    error = account.attempt("f")["body"]
    assert error["errorType"] == "Sandbox.Timedout"
    assert error["errorMessage"].endswith("Error: Task timed out after 1.00 seconds")
    for process in note.read_text().split():
        eventually(functools.partial(_is_gone, int(process)))


def _is_gone(process: int) -> bool:
    return not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE


def test_a_killed_worker_is_a_runtime_exit_and_the_next_invocation_has_a_new_one(account: Account) -> None:
    account.function("f", COUNTER)
    first = account.invoke("f")
    error = account.attempt("f", {"kill": True})["body"]
    assert error["errorType"] == "Runtime.ExitError"
    assert error["errorMessage"].endswith("Runtime exited with error: signal: killed")
    second = account.invoke("f")
    assert second["pid"] != first["pid"]
    assert second["calls"] == 1


@pytest.mark.parametrize(("status", "reason"), [(3, "with error: exit status 3"), (0, "without providing a reason")])
def test_a_handler_that_exits_is_a_runtime_exit(account: Account, status: int, reason: str) -> None:
    account.function("f", COUNTER)
    error = account.attempt("f", {"exit": status})["body"]
    assert error["errorType"] == "Runtime.ExitError"
    assert error["errorMessage"].endswith(f"Runtime exited {reason}")


def test_a_worker_killed_between_invocations_is_replaced(account: Account) -> None:
    account.function("f", COUNTER)
    process = psutil.Process(account.invoke("f")["pid"])
    process.kill()
    eventually(lambda: process.status() == "zombie")
    assert account.invoke("f")["calls"] == 1


def test_a_module_that_ends_the_process_while_it_is_imported_is_a_runtime_exit(account: Account) -> None:
    account.function("f", "import os\nos._exit(4)\n")
    assert account.attempt("f")["body"]["errorType"] == "Runtime.ExitError"


def test_a_function_logs_to_its_group_with_the_platforms_lines(account: Account) -> None:
    account.log_group("/aws/lambda/f")
    account.function("f", ECHO)
    account.invoke("f", {"a": 1})
    start, printed, end, report = account.log("/aws/lambda/f")
    assert start.startswith("START RequestId: ")
    assert printed == "got {'a': 1}"
    assert end.startswith("END RequestId: ")
    assert "Billed Duration" in report
    assert "Init Duration" in report


def test_a_configured_log_group_and_layout_are_used(account: Account) -> None:
    account.log_group("shared")
    source = "import logging\ndef handler(event, context):\n    logging.info('quiet')\n    raise ValueError('bad')\n"
    configuration = {"LogGroup": "shared", "LogFormat": "JSON", "ApplicationLogLevel": "INFO"}
    account.function("f", source, LoggingConfig=configuration)
    account.attempt("f")
    entries = [json.loads(line) for line in account.log("shared")]
    assert [entry.get("type") or entry["level"] for entry in entries] == [
        "platform.start",
        "INFO",
        "ERROR",
        "platform.report",
    ]
    assert entries[3]["record"]["status"] == "error"


def test_a_log_group_is_created_only_by_a_role_that_may(account: Account) -> None:
    account.function("without", ECHO)
    account.function("with", ECHO, Role=account.role("creator", "logs:*"))
    account.invoke("without")
    account.invoke("with")
    groups = cloudwatch_logs._log_groups
    assert "/aws/lambda/without" not in groups
    assert "/aws/lambda/with" in groups


@pytest.mark.parametrize("allowed", [("none:None",), ("logs:CreateLogStream",)])
def test_a_role_that_may_not_write_the_log_leaves_it_empty(account: Account, allowed: tuple[str, ...]) -> None:
    account.log_group("/aws/lambda/f")
    account.function("f", ECHO, Role=account.role("r", *allowed))
    account.invoke("f")
    assert account.log("/aws/lambda/f") == []


def test_changing_or_deleting_a_function_ends_its_workers(account: Account) -> None:
    account.function("f", COUNTER)
    first = psutil.Process(account.invoke("f")["pid"])
    account.function("f", COUNTER, MemorySize=256)
    assert not first.is_running()
    second = psutil.Process(account.invoke("f")["pid"])
    handlers = provisioners._RESOURCE_HANDLERS["AWS::Lambda::Function"]
    handlers["delete"]("f", {})
    assert not second.is_running()
    assert functions_runtime.function_processes() == {}


def test_an_update_keeps_what_the_template_says_about_network_and_concurrency(account: Account) -> None:
    old = {
        "FunctionName": "f",
        "Handler": "app.handler",
        "Runtime": "python3.14",
        "Role": account.role("r", *LOGS),
        "Code": {"ZipFile": ECHO},
        "ReservedConcurrentExecutions": 1,
        "VpcConfig": {"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]},
        "DeadLetterConfig": {"TargetArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:dead"},
    }
    handlers = provisioners._RESOURCE_HANDLERS["AWS::Lambda::Function"]
    handlers["create"]("F", old, "stack")
    record = lambda_svc._functions["f"]
    assert record["concurrency"] == 1
    assert record["config"]["VpcConfig"]["SecurityGroupIds"] == ["sg-1"]
    new = {key: value for key, value in old.items() if key not in ("DeadLetterConfig", "ReservedConcurrentExecutions")}
    new["VpcConfig"] = {"SubnetIds": ["subnet-2"], "SecurityGroupIds": ["sg-2"]}
    handlers["update"]("f", old, new, "stack", "F")
    record = lambda_svc._functions["f"]
    assert record["concurrency"] is None
    assert record["config"]["VpcConfig"]["SecurityGroupIds"] == ["sg-2"]
    assert "DeadLetterConfig" not in record["config"]


def test_reserved_concurrency_throttles_and_counts_as_a_throttle(account: Account) -> None:
    account.function("throttled", COUNTER, ReservedConcurrentExecutions=1)
    account.invoke("throttled")
    running = threading.Thread(target=_in_account(lambda: account.invoke("throttled", {"sleep": 0.5})))
    running.start()
    eventually(lambda: lambda_svc.executions_in_flight()[0])
    refused = account.attempt("throttled")
    running.join()
    assert refused["body"]["__type"] == "TooManyRequestsException"
    assert account.metric("AWS/Lambda", "Throttles", FunctionName="throttled") == 1
    assert account.metric("AWS/Lambda", "Invocations", FunctionName="throttled") == 2
    assert account.metric("AWS/Lambda", "Errors", FunctionName="throttled") == 0


def _in_account(call: Any) -> Any:
    context = contextvars.copy_context()
    return lambda: context.run(call)


def test_an_asynchronous_invocation_is_tried_three_times_and_then_goes_to_the_dead_letter_queue(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lambda_svc, "_LAMBDA_ASYNC_RETRY_BASE_SECONDS", 0.01)
    sqs._act_create_queue({"QueueName": "dead"}, "")
    dead = f"arn:aws:sqs:{REGION}:{ACCOUNT}:dead"
    note = account.options.state / "attempts"
    source = (
        "import os\ndef handler(event, context):\n"
        "    open(os.environ['NOTE'], 'a').write('x')\n    raise ValueError('no')\n"
    )
    arn = account.function(
        "f",
        source,
        Role=account.role("f-role", *LOGS, "sqs:SendMessage"),
        DeadLetterConfig={"TargetArn": dead},
        Environment={"Variables": {"NOTE": str(note)}},
    )
    assert functions_runtime.invoke_asynchronously(arn, {"n": 1})
    message = eventually(lambda: sqs._queue_by_arn(dead)["messages"])[0]
    assert json.loads(message["body"])["responsePayload"]["errorType"] == "ValueError"
    assert note.read_text() == "xxx"
    assert not functions_runtime.invoke_asynchronously(arn + "-absent", {})


def test_processes_and_what_they_start_are_known_by_their_function(account: Account) -> None:
    source = "import subprocess\ndef handler(event, context):\n    return subprocess.Popen(['sleep', '30']).pid\n"
    network = {"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    arn = account.function("f", source, VpcConfig=network)
    child = account.invoke("f")
    identity = FunctionIdentity("f", arn, ("sg-1",), ("subnet-1",))
    worker = next(iter(functions_runtime.function_processes()))
    assert functions_runtime.function_of_process(worker) == identity
    assert functions_runtime.function_of_process(child) == identity
    assert functions_runtime.function_of_process(os.getpid()) is None
    assert functions_runtime.function_of_process(2**22 + 1) is None


def test_stopping_ends_every_worker_removes_its_folder_and_lets_no_new_one_start(account: Account) -> None:
    account.function("f", COUNTER)
    process = psutil.Process(account.invoke("f")["pid"])
    functions_runtime.stop_all()
    assert not process.is_running()
    assert not (account.options.state / "functions").exists()
    assert account.attempt("f")["body"]["errorType"] == "Runtime.ExitError"


def test_a_worker_ends_with_its_server(account: Account) -> None:
    account.function("f", COUNTER)
    process = psutil.Process(account.invoke("f")["pid"])
    (worker,) = lambda_runtime._workers[f"{ACCOUNT}:{REGION}:f:$LATEST"]
    worker._proc.stdin.close()
    eventually(lambda: not process.is_running() or process.status() == "zombie")


def test_what_cannot_run_here_says_so(account: Account) -> None:
    account.function("node", ECHO, Runtime="nodejs24.x")
    assert account.attempt("node")["body"]["errorType"] == "InvalidRuntimeException"
    account.function("empty", ECHO, Code={})
    assert account.attempt("empty")["body"]["errorType"] == "InvalidZipFileException"
    record = lambda_svc._functions.pop("empty")
    assert lambda_svc._execute_function(record, {})["body"]["errorType"] == "ResourceNotFoundException"


@pytest.mark.parametrize(
    ("module", "name", "parameters"),
    [
        (lambda_runtime, "_worker_class_for", ["config"]),
        (lambda_runtime, "kill_workers", ["workers"]),
        (lambda_runtime, "execution_credentials", ["config"]),
        (lambda_runtime, "acquire_worker", ["func_name", "config", "code_zip", "qualifier", "max_concurrency"]),
        (lambda_runtime, "release_worker", ["worker"]),
        (lambda_svc, "_function_config_scope_mismatch", ["config"]),
        (lambda_svc, "_get_func_record_for_ref", ["function_ref"]),
        (lambda_svc, "_execution_record_for_config", ["func", "config"]),
        (lambda_svc, "_xray_trace_id_for_invocation", ["config", "inbound_trace_header"]),
        (lambda_svc, "_vpc_config_with_id", ["request_config"]),
        (lambda_svc, "invoke_async_with_retry", ["func", "event"]),
        (lambda_svc, "invalidate_worker", ["func_name", "qualifier", "account", "region"]),
    ],
)
def test_the_emulators_hooks_for_functions_are_as_expected(module: Any, name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(module, name)).parameters) == parameters


@pytest.mark.parametrize(
    ("original", "parameters"),
    [
        (functions_runtime._execute_function, ["func", "event"]),
        (functions_runtime._create_function, ["logical_id", "props", "stack_name"]),
        (functions_runtime._update_function, ["physical_id", "old_props", "new_props", "stack_name", "logical_id"]),
        (functions_runtime._delete_function, ["physical_id", "props"]),
    ],
)
def test_what_is_replaced_for_functions_is_called_as_expected(original: Any, parameters: list[str]) -> None:
    assert list(inspect.signature(original).parameters) == parameters


def _context(**more: Any) -> function_bootstrap.Context:
    return function_bootstrap.Context({"request_id": "r", "function_arn": "a", "deadline": 0, **more})


@pytest.fixture
def lambda_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FUNCTION_NAME", "FUNCTION_VERSION", "FUNCTION_MEMORY_SIZE", "LOG_GROUP_NAME", "LOG_STREAM_NAME"):
        monkeypatch.setenv(f"AWS_LAMBDA_{name}", name.lower())


@pytest.mark.usefixtures("lambda_environment")
def test_the_remaining_time_never_is_negative() -> None:
    assert _context().get_remaining_time_in_millis() == 0
    assert _context(deadline=1e12).get_remaining_time_in_millis() > 0
    assert _context().function_name == "function_name"


@pytest.mark.parametrize(
    ("handler", "source", "kind"),
    [
        ("handler", "", "Runtime.MalformedHandlerName"),
        ("absent_module_x.handler", "", "Runtime.ImportModuleError"),
        ("broken_module_x.handler", "def (", "Runtime.UserCodeSyntaxError"),
        ("empty_module_x.handler", "", "Runtime.HandlerNotFound"),
    ],
)
def test_a_handler_that_cannot_be_loaded_is_named_as_on_aws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handler: str, source: str, kind: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    if not handler.startswith("absent"):
        (tmp_path / f"{handler.partition('.')[0]}.py").write_text(source)
    with pytest.raises(function_bootstrap.RuntimeFault) as fault:
        function_bootstrap.load(handler)
    assert function_bootstrap.failure(fault.value, "r")["errorType"] == kind


def test_a_handler_is_loaded_and_its_failure_has_its_name_and_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "good_module_x.py").write_text("def handler(event, context):\n    raise KeyError(event)\n")
    handler = function_bootstrap.load("good_module_x.handler")
    with pytest.raises(KeyError) as error:
        handler("a", None)  # type: ignore[arg-type]
    reported = function_bootstrap.failure(error.value, "r")
    assert (reported["errorType"], reported["requestId"]) == ("KeyError", "r")
    assert "in handler" in reported["stackTrace"][-1]


@pytest.mark.parametrize("layout", ["TEXT", "JSON"])
def test_records_are_laid_out_as_on_aws(layout: str) -> None:
    stream = io.StringIO()
    log = function_bootstrap.Log(stream, layout)
    log.request_id = "r"
    try:
        raise ValueError("bad")
    except ValueError:
        log.emit(logging.LogRecord("n", logging.ERROR, "f", 1, "it is %s", ("so",), sys.exc_info()))
    line = stream.getvalue()
    if layout == "JSON":
        assert json.loads(line) | {"timestamp": ""} == {
            "timestamp": "",
            "level": "ERROR",
            "message": "it is so",
            "logger": "n",
            "requestId": "r",
            "errorType": "ValueError",
            "errorMessage": "bad",
            "stackTrace": json.loads(line)["stackTrace"],
        }
    else:
        assert line.startswith("[ERROR]\t")
        assert "\tr\tit is so\n" in line


def test_decimals_are_numbers_and_other_objects_are_refused(account: Account) -> None:
    assert function_bootstrap._number(Decimal("1.5")) == 1.5
    account.function("f", "def handler(event, context):\n    return object()\n")
    error = account.attempt("f")["body"]
    assert error["errorType"] == "Runtime.MarshalError"
    assert error["errorMessage"] == "Unable to marshal response: Object of type object is not JSON serializable"


@pytest.mark.usefixtures("lambda_environment")
def test_the_runtime_answers_every_request_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "def handler(event, context):\n    if event == 'bad': raise KeyError(event)\n    return event\n"
    (tmp_path / "served_module_x.py").write_text(source)
    answers = _serve(tmp_path, monkeypatch, "served_module_x.handler", [1, "bad", "last"])
    assert answers[0] == {"ready": True}
    assert answers[1] == {"payload": "1"}
    assert answers[2]["error"]["errorType"] == "KeyError"
    assert os.environ.pop("_X_AMZN_TRACE_ID") == "Root=1"


@pytest.mark.usefixtures("lambda_environment")
def test_the_runtime_ends_when_the_handler_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = _serve(tmp_path, monkeypatch, "absent_module_y.handler", [])
    assert answers[0]["error"]["errorType"] == "Runtime.ImportModuleError"


def _serve(path: Path, monkeypatch: pytest.MonkeyPatch, handler: str, events: list[Any]) -> list[Any]:
    read, write = os.pipe()
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(sys, "path", list(sys.path))
    start = {"answers": write, "handler": handler, "path": [str(path)], "log_format": "TEXT", "log_level": "INFO"}
    invocation = {"request_id": "r", "function_arn": "a", "deadline": 0, "trace_id": "Root=1"}
    requests = iter([json.dumps(start), *(json.dumps({**invocation, "event": event}) for event in events)])
    with os.fdopen(read) as stream:
        with pytest.raises((StopIteration, SystemExit)):
            function_bootstrap.serve(lambda: next(requests))
        gc.collect()
        return [json.loads(line) for line in stream]
