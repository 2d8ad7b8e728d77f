"""The process a function runs in: the part of AWS's Python runtime that a handler can see.

Run by path, isolated, by `functions_runtime`; it imports nothing but the standard library before the handler's own path
is set up. Requests come as JSON lines on standard input, answers go as JSON lines to the descriptor named in the first
request, and everything the handler prints goes to standard output and error, which the local cloud reads as its log.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NoReturn, TextIO

# Ends the log of one invocation, so that the reader knows that it has all of it.
END_OF_LOG = "\0end "


class Context:
    """The context object of an invocation, as AWS's runtime passes it."""

    def __init__(self, invocation: dict[str, Any]) -> None:
        self.aws_request_id = str(invocation["request_id"])
        self.invoked_function_arn = str(invocation["function_arn"])
        self.function_name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
        self.function_version = os.environ["AWS_LAMBDA_FUNCTION_VERSION"]
        self.memory_limit_in_mb = os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
        self.log_group_name = os.environ["AWS_LAMBDA_LOG_GROUP_NAME"]
        self.log_stream_name = os.environ["AWS_LAMBDA_LOG_STREAM_NAME"]
        self.identity = None
        self.client_context = None
        self._deadline = float(invocation["deadline"])

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the function's timeout ends this invocation."""
        return max(0, int((self._deadline - time.time()) * 1000))


class Log(logging.Handler):
    """The handler AWS installs on the root logger: its text layout, or JSON when the function asks for it."""

    def __init__(self, stream: TextIO, layout: str) -> None:
        super().__init__()
        self.request_id = ""
        self._stream = stream
        self._json = layout == "JSON"

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        if self._json:
            entry: dict[str, Any] = {
                "timestamp": f"{moment}Z",
                "level": record.levelname,
                "message": record.getMessage(),
                "logger": record.name,
                "requestId": self.request_id,
            }
            if record.exc_info and record.exc_info[0] is not None:
                entry["errorType"] = record.exc_info[0].__name__
                entry["errorMessage"] = str(record.exc_info[1])
                entry["stackTrace"] = traceback.format_tb(record.exc_info[2])
            line = json.dumps(entry)
        else:
            head = f"[{record.levelname}]\t{moment}.{int(record.msecs):03d}Z\t{self.request_id}"
            line = f"{head}\t{self.format(record)}"
        self._stream.write(line + "\n")


class RuntimeFault(Exception):
    """What AWS's runtime reports itself (`Runtime.ImportModuleError` …)."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def load(handler: str) -> Callable[[Any, Context], Any]:
    """Import `<module>.<function>`. Raises RuntimeFault, or whatever the module raises while it is imported."""
    name, _, function = handler.rpartition(".")
    if not name:
        raise RuntimeFault("Runtime.MalformedHandlerName", f"Bad handler '{handler}': not enough values to unpack")
    try:
        module = importlib.import_module(name.replace("/", "."))
    except ImportError as error:
        raise RuntimeFault("Runtime.ImportModuleError", f"Unable to import module '{name}': {error}") from error
    except SyntaxError as error:
        raise RuntimeFault("Runtime.UserCodeSyntaxError", f"Syntax error in module '{name}': {error}") from error
    if not hasattr(module, function):
        raise RuntimeFault("Runtime.HandlerNotFound", f"Handler '{function}' missing on module '{name}'")
    loaded: Callable[[Any, Context], Any] = getattr(module, function)
    return loaded


def failure(error: BaseException, request_id: str) -> dict[str, Any]:
    """Return an exception as AWS's runtime reports it: its class's name, its text, its stack."""
    kind = error.kind if isinstance(error, RuntimeFault) else type(error).__name__
    trace = [] if isinstance(error, RuntimeFault) else traceback.format_tb(error.__traceback__)[1:]
    return {"errorMessage": str(error), "errorType": kind, "requestId": request_id, "stackTrace": trace}


def _number(value: Any) -> float:
    """Serialise a Decimal as AWS's runtime does."""
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _read_requests(requests: queue.SimpleQueue[str]) -> NoReturn:  # pragma: no cover - runs where nothing is measured
    """Pass requests on, and die with everything started from here as soon as nobody can send any more."""
    with os.fdopen(os.dup(0), encoding="utf-8") as stream:
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        for line in stream:
            requests.put(line)
    os.killpg(0, signal.SIGKILL)
    raise SystemExit


def serve(next_request: Callable[[], str]) -> NoReturn:
    """Load the handler that the first request names, then answer one invocation per request; ends with the process."""
    start = json.loads(next_request())
    os.set_inheritable(start["answers"], False)
    answers = os.fdopen(start["answers"], "w", encoding="utf-8")
    log = Log(sys.stdout, start["log_format"])
    root = logging.getLogger()
    root.addHandler(log)
    root.setLevel(start["log_level"])
    sys.path[:0] = start["path"]

    def answer(message: dict[str, Any], request_id: str) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(1, f"{END_OF_LOG}{request_id}\n".encode())
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        handler = load(start["handler"])
    except Exception as error:
        answer({"error": failure(error, "")}, "init")
        raise SystemExit(1) from error
    answer({"ready": True}, "init")
    while True:
        invocation = json.loads(next_request())
        context = Context(invocation)
        log.request_id = context.aws_request_id
        if invocation.get("trace_id"):
            os.environ["_X_AMZN_TRACE_ID"] = invocation["trace_id"]
        answer(_invoke(handler, invocation["event"], context), context.aws_request_id)


def _invoke(handler: Callable[[Any, Context], Any], event: Any, context: Context) -> dict[str, Any]:
    try:
        result = handler(event, context)
    except Exception as error:
        return {"error": failure(error, context.aws_request_id)}
    try:
        return {"payload": json.dumps(result, default=_number)}
    except (TypeError, ValueError) as error:
        fault = RuntimeFault("Runtime.MarshalError", f"Unable to marshal response: {error}")
        return {"error": failure(fault, context.aws_request_id)}


if __name__ == "__main__":
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    serve(requests.get)
