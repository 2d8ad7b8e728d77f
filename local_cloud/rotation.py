"""Rotation of secrets as Secrets Manager does it: a pending version, four calls of the rotation function, a timer."""

from __future__ import annotations

import contextvars
import functools
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ministack.core.iam_evaluator import EvalContext, evaluate_resource_policy
from ministack.core.responses import error_response_json, json_response, new_uuid
from ministack.services import eventbridge, lambda_svc, secretsmanager
from ministack.services.cloudformation import provisioners, stacks

from local_cloud import schedules
from local_cloud.server import LocalCloudOptions

logger = logging.getLogger(__name__)

Request = Mapping[str, Any]
Response = tuple[int, dict[str, str], bytes]
Secret = dict[str, Any]
Properties = Mapping[str, Any]

RESOURCE_TYPE = "AWS::SecretsManager::RotationSchedule"
PRINCIPAL = "secretsmanager.amazonaws.com"
STEPS = ("createSecret", "setSecret", "testSecret", "finishSecret")
# Secrets Manager repeats a failed rotation a few times; it publishes neither how often nor after how long.
ATTEMPTS = 3
PAUSE_SECONDS = 1.0
TIMER_SECONDS = 1.0
DAY_SECONDS = 86_400


@dataclass(frozen=True)
class RotationFailure(Exception):
    """The rotation function reported an error in one of the steps."""

    step: str
    reason: str


class RotationRefused(Exception):
    """A rotation cannot start: the error code and sentence of Secrets Manager."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Rotations:
    """Runs rotations: those asked for by RotateSecret and those that are due."""

    def __init__(self, options: LocalCloudOptions) -> None:
        self._options = options
        self._under_way: set[str] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def install(self) -> None:
        """Replace RotateSecret, add the CloudFormation type, and start the timer."""
        secretsmanager._rotate_secret = self.rotate
        secretsmanager._describe_secret = _with_rotation_dates(secretsmanager._describe_secret)
        secretsmanager._get_secret_value = _refusing_an_empty_version(secretsmanager._get_secret_value)
        secretsmanager._put_secret_value = _moving_labels(secretsmanager._put_secret_value)
        provisioners._RESOURCE_HANDLERS[RESOURCE_TYPE] = {
            "create": self._create_schedule,
            "update": self._update_schedule,
            "update_with_logical_id": True,
            "delete": self._delete_schedule,
        }
        on_worker = stacks._runs_on_worker_thread
        stacks._runs_on_worker_thread = lambda name: name == RESOURCE_TYPE or on_worker(name)
        threading.Thread(target=self._watch_the_clock, name="rotation-timer", daemon=True).start()

    def close(self) -> None:
        """Start no rotation any more; one that is under way makes no further attempt."""
        self._closed.set()

    def rotate(self, request: Request) -> Response:
        """Answer RotateSecret: note the schedule, make the pending version and let the steps run on their own."""
        _key, secret = secretsmanager._resolve(request.get("SecretId"))
        if not secret:
            return _error("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
        if secret.get("DeletedDate"):
            return _error(
                "InvalidRequestException",
                "You can't perform this operation on the secret because it was marked for deletion.",
            )
        try:
            immediately = request.get("RotateImmediately", True) is not False
            version = self._begin(secret, request, immediately=immediately)
        except RotationRefused as refused:
            return _error(refused.code, str(refused))
        _apart(self._run if immediately else self._test, secret, version)
        answer: Response = json_response({"ARN": secret["ARN"], "Name": secret["Name"], "VersionId": version})
        return answer

    def _begin(self, secret: Secret, request: Request, *, immediately: bool) -> str:
        """Check, note the configuration and add the AWSPENDING version; returns its id."""
        function = request.get("RotationLambdaARN") or secret.get("RotationLambdaARN")
        if not function:
            raise RotationRefused("InvalidRequestException", "No Lambda rotation function ARN is associated with it.")
        self._check_permission(function, secret["ARN"])
        current, _version = secretsmanager._find_stage_version(secret, "AWSCURRENT")
        pending, _version = secretsmanager._find_stage_version(secret, "AWSPENDING")
        with self._lock:
            if secret["ARN"] in self._under_way or (pending and pending != current):
                self._reattempt(secret, pending)
                raise RotationRefused(
                    "InvalidRequestException",
                    "A previous rotation isn't complete. That rotation will be reattempted.",
                )
            self._under_way.add(secret["ARN"])
        rules = request.get("RotationRules") or secret.get("RotationRules") or {}
        secret.update(RotationLambdaARN=function, RotationRules=dict(rules), RotationEnabled=True)
        secret["NextRotationDate"] = next_rotation(rules, secret.get("LastRotatedDate") or schedules.now())
        version = str(request.get("ClientRequestToken") or new_uuid())
        if pending:
            secretsmanager._remove_stage(secret, pending, "AWSPENDING")
        _key, value = secretsmanager._find_stage_version(secret, "AWSCURRENT")
        # A rotation's version is empty until createSecret fills it; a mere test works on a copy.
        content = None if immediately or not value else value.get("SecretString")
        secret["Versions"].setdefault(
            version,
            {"SecretString": content, "SecretBinary": None, "CreatedDate": int(time.time()), "Stages": []},
        )
        secretsmanager._add_stage(secret, version, "AWSPENDING")
        return version

    def _reattempt(self, secret: Secret, pending: str | None) -> None:
        """Take up a rotation that was left behind, unless it is running. The lock is held."""
        if pending and secret["ARN"] not in self._under_way:
            self._under_way.add(secret["ARN"])
            _apart(self._run, secret, pending)

    def _run(self, secret: Secret, version: str) -> None:
        """Run the four steps, all over again after a failure; what fails for good leaves AWSPENDING behind."""
        try:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    for step in STEPS:
                        self._call(secret, version, step)
                except RotationFailure as failure:
                    logger.warning(
                        "rotation of %s, attempt %d of %d: %s failed: %s",
                        *(secret["Name"], attempt, ATTEMPTS, failure.step, failure.reason),
                    )
                    if self._closed.wait(PAUSE_SECONDS):
                        return
                    continue
                secret["LastRotatedDate"] = schedules.now()
                break
        finally:
            secret["NextRotationDate"] = next_rotation(secret.get("RotationRules") or {}, schedules.now())
            with self._lock:
                self._under_way.discard(secret["ARN"])

    def _test(self, secret: Secret, version: str) -> None:
        """Run testSecret on a pending version that goes away again: what a rotation that is not immediate does."""
        try:
            self._call(secret, version, "testSecret")
        except RotationFailure as failure:
            logger.warning("test of the rotation of %s failed: %s", secret["Name"], failure.reason)
        finally:
            secretsmanager._remove_stage(secret, version, "AWSPENDING")
            if not secret["Versions"].get(version, {}).get("Stages"):
                secret["Versions"].pop(version, None)
            with self._lock:
                self._under_way.discard(secret["ARN"])

    def _call(self, secret: Secret, version: str, step: str) -> None:
        function, config, name = lambda_svc._get_func_record_for_ref(secret["RotationLambdaARN"])
        if not function or not config:
            raise RotationFailure(step, f"function {name} not found")
        record = lambda_svc._execution_record_for_config(function, config)
        event = {"SecretId": secret["ARN"], "ClientRequestToken": version, "Step": step}
        result = lambda_svc._execute_function_with_config_scope(record, event)
        if result.get("error") or result.get("function_error"):
            raise RotationFailure(step, json.dumps(result.get("body"), default=str))

    def _check_permission(self, function: str, secret_arn: str) -> None:
        """Refuse a function that does not exist or whose policy does not let Secrets Manager invoke it."""
        record, config, name = lambda_svc._get_func_record_for_ref(function)
        if not record or not config:
            raise RotationRefused("ResourceNotFoundException", f"Function {name} not found.")
        arn = config["FunctionArn"]
        context = EvalContext(
            principal_arn=PRINCIPAL,
            principal_type="Service",
            principal_account=self._options.account,
            action="lambda:InvokeFunction",
            resource_arn=arn,
            region=self._options.region,
            service_context={"aws:sourceaccount": self._options.account, "aws:sourcearn": secret_arn},
        )
        if evaluate_resource_policy(record.get("policy"), context, service=PRINCIPAL).decision != "Allow":
            raise RotationRefused(
                "AccessDeniedException",
                f"Secrets Manager cannot invoke the specified Lambda function {name}. Ensure that the function policy "
                f"grants access to the principal {PRINCIPAL}.",
            )

    def _watch_the_clock(self) -> None:
        """Rotate, until `close`, what is due."""
        while not self._closed.wait(TIMER_SECONDS):
            for secret in list(secretsmanager._secrets.values()):
                due = secret.get("NextRotationDate")
                if secret.get("RotationEnabled") and due and due <= schedules.now() and not secret.get("DeletedDate"):
                    # Until the rotation has set the next date, this one is not due again.
                    secret["NextRotationDate"] = None
                    self.rotate({"SecretId": secret["ARN"]})

    # The CloudFormation type -----------------------------------------------------------------------------------------

    def _create_schedule(self, _logical_id: str, properties: Properties, _stack: str) -> tuple[str, dict[str, str]]:
        if properties.get("HostedRotationLambda"):
            raise ValueError("HostedRotationLambda is a transform, which nested stacks do not take: name a function")
        return self._apply_schedule(properties)

    def _update_schedule(
        self, _physical_id: str, _old: Properties, new: Properties, _stack: str, _logical_id: str | None = None
    ) -> tuple[str, dict[str, str]]:
        return self._apply_schedule(new)

    def _apply_schedule(self, properties: Properties) -> tuple[str, dict[str, str]]:
        _key, secret = secretsmanager._resolve(properties.get("SecretId"))
        if not secret:
            raise ValueError(f"Secrets Manager can't find the secret {properties.get('SecretId')}")
        immediately = str(properties.get("RotateImmediatelyOnUpdate", True)).lower() == "true"
        try:
            version = self._begin(secret, properties, immediately=immediately)
        except RotationRefused as refused:
            raise ValueError(f"{refused} ({refused.code})") from refused
        # Secrets Manager does not make the stack wait. Here it does, so that a deployment leaves nothing running.
        (self._run if immediately else self._test)(secret, version)
        return str(secret["ARN"]), {"Id": str(secret["ARN"])}

    def _delete_schedule(self, physical_id: str, _properties: Properties) -> None:
        _key, secret = secretsmanager._resolve(physical_id)
        if secret:
            secret["RotationEnabled"] = False
            for name in ("RotationLambdaARN", "RotationRules", "NextRotationDate"):
                secret.pop(name, None)


def _apart(work: Callable[[Secret, str], None], secret: Secret, version: str) -> None:
    """Run on a thread of its own, in the account and region (context variables) of the caller."""
    arguments = (work, secret, version)
    name = f"rotation-{secret['Name']}"
    threading.Thread(target=contextvars.copy_context().run, args=arguments, name=name, daemon=True).start()


def next_rotation(rules: Mapping[str, Any], after: float) -> float | None:
    """Return when (epoch seconds) the next rotation is due by a rate, a cron expression or a number of days."""
    expression = str(rules.get("ScheduleExpression") or "")
    if expression.startswith("rate("):
        seconds = eventbridge._parse_rate_seconds(expression)
        return after + seconds if seconds else None
    if expression.startswith("cron("):
        fields = eventbridge._parse_cron_fields(expression)
        due = eventbridge._cron_next_fire(fields, datetime.fromtimestamp(after, UTC)) if fields else None
        return due.timestamp() if due else None
    days = rules.get("AutomaticallyAfterDays")
    return after + int(days) * DAY_SECONDS if days else None


def _with_rotation_dates(describe: Callable[[Request], Response]) -> Callable[[Request], Response]:
    @functools.wraps(describe)
    def described(request: Request) -> Response:
        status, headers, body = describe(request)
        _key, secret = secretsmanager._resolve(request.get("SecretId"))
        if status >= 400 or not secret:
            return status, headers, body
        answer = json.loads(body)
        answer |= {name: secret[name] for name in ("LastRotatedDate", "NextRotationDate") if secret.get(name)}
        completed: Response = json_response(answer)
        return completed

    return described


def _refusing_an_empty_version(get: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """Answer for a version that a rotation has made and not yet filled as Secrets Manager does: there is no value."""

    @functools.wraps(get)
    def got(request: Request) -> Response:
        status, headers, body = get(request)
        if status == 200:
            answer = json.loads(body)
            if "SecretString" not in answer and "SecretBinary" not in answer:
                return _error(
                    "ResourceNotFoundException",
                    f"Secrets Manager can't find the specified secret value for VersionId: {answer['VersionId']}",
                )
        return status, headers, body

    return got


def _moving_labels(put: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """A staging label is on one version of a secret: what is put under AWSPENDING takes it from the one before."""

    @functools.wraps(put)
    def done(request: Request) -> Response:
        status, headers, body = put(request)
        _key, secret = secretsmanager._resolve(request.get("SecretId"))
        if status == 200 and secret:
            answer = json.loads(body)
            for number, version in secret["Versions"].items():
                if number != answer["VersionId"]:
                    version["Stages"] = [held for held in version["Stages"] if held not in answer["VersionStages"]]
        return status, headers, body

    return done


def _error(code: str, message: str) -> Response:
    refusal: Response = error_response_json(code, message, 400)
    return refusal
