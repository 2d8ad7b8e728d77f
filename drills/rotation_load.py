"""Rotations while clients keep connecting: does anybody notice?

A client keeps the credentials it has and reads the secret again only when a sign-in is refused: AWSPENDING first, then
AWSCURRENT, so that a rotation that ends in between is seen in one of the two. It then signs in a second time, with
AWSCURRENT's password unless that is the refused one. What fails then is a failure a client would see.

The next rotation begins when every client has signed in since the last: there are thirty days between two of them, and
what is shown is one rotation under load, many times.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from dataclasses import dataclass, field

import psycopg
from botocore.exceptions import ClientError

from drills.client import Application

CLIENTS = 4
SESSIONS = 4
ROTATION_SECONDS = 180.0
AGAIN_SECONDS = 20.0
"""After so long without an end an operator would ask for the rotation again."""


class RotationStuck(Exception):
    """A rotation did not end in time."""


@dataclass
class Load:
    """What the clients saw. `seconds` of each rotation; `retried` sign-ins needed the secret again; `asked_again` is
    how often a rotation that was slow or had failed was asked for once more."""

    rotations: int = 0
    seconds: list[float] = field(default_factory=list)
    signed_in: int = 0
    retried: int = 0
    asked_again: int = 0
    failures: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


def rotate_under_load(application: Application, rotations: int) -> Load:
    """Rotate so many times, one after the other, while clients connect and sessions stay open."""
    load, lock, over = Load(), threading.Lock(), threading.Event()
    rounds = [0] * CLIENTS
    workers = [
        *(
            threading.Thread(target=_connecting, args=(application, load, lock, over, rounds, n))
            for n in range(CLIENTS)
        ),
        *(threading.Thread(target=_staying, args=(application, load, lock, over)) for _ in range(SESSIONS)),
    ]
    for worker in workers:
        worker.start()
    try:
        for _ in range(rotations):
            load.seconds.append(_rotate(application, load))
            load.rotations += 1
            seen = list(rounds)
            while any(now - before < 2 for before, now in zip(seen, rounds, strict=True)):
                time.sleep(0.01)  # a round that was under way, and a whole one
    finally:
        over.set()
        for worker in workers:
            worker.join()
    return load


def _rotate(application: Application, load: Load) -> float:
    """Rotate; returns how long it took, s. One that Secrets Manager gave up for now is asked for again."""
    secrets, secret = application.account.client("secretsmanager"), application.outputs["SecretArn"]
    began = asked = time.monotonic()
    version = secrets.rotate_secret(SecretId=secret)["VersionId"]
    while True:
        stages = secrets.describe_secret(SecretId=secret)["VersionIdsToStages"]
        # AWSPENDING on the current version is harmless: only elsewhere is a rotation under way.
        if "AWSCURRENT" in stages.get(version, []) and all(
            "AWSCURRENT" in held for held in stages.values() if "AWSPENDING" in held
        ):
            return time.monotonic() - began
        if time.monotonic() - began > ROTATION_SECONDS:
            raise RotationStuck(
                f"Rotation {version} has not ended after {ROTATION_SECONDS:.0f} s: {stages}; the function last said: "
                f"{_last_reason(application)}."
            )
        if time.monotonic() - asked > AGAIN_SECONDS:
            asked = time.monotonic()
            with contextlib.suppress(secrets.exceptions.InvalidRequestException):  # it is taken up again, or runs still
                secrets.rotate_secret(SecretId=secret, ClientRequestToken=version)
            load.asked_again += 1
        time.sleep(0.02)


def _last_reason(application: Application) -> str:
    """Why a step of a rotation has failed, as the function's log has it last."""
    group = f"/aws/lambda/citizens-rotation-{application.outputs['EnvironmentSuffix']}"
    pages = application.account.client("logs").get_paginator("filter_log_events").paginate(logGroupName=group)
    said = [
        event["message"] for page in pages for event in page["events"] if "rotation step failed" in event["message"]
    ]
    return said[-1].strip() if said else "nothing"


def _password(application: Application, stage: str) -> str | None:
    try:
        answer = application.account.client("secretsmanager").get_secret_value(
            SecretId=application.outputs["SecretArn"], VersionStage=stage
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
        return None
    return str(json.loads(answer["SecretString"])["password"])


def _connecting(
    application: Application, load: Load, lock: threading.Lock, over: threading.Event, rounds: list[int], number: int
) -> None:
    user, kept = application.credentials()
    while not over.is_set():
        retried = False
        try:
            try:
                application.connect_with(user, kept).close()
            except psycopg.OperationalError as error:
                if "password authentication failed" not in str(error):
                    raise
                retried = True
                pending, current = (_password(application, stage) for stage in ("AWSPENDING", "AWSCURRENT"))
                kept = (pending if current == kept else current) or kept
                application.connect_with(user, kept).close()
        except (psycopg.Error, ClientError) as error:
            _note(lock, load.failures, str(error))
        with lock:
            load.signed_in += 1
            load.retried += retried
        rounds[number] += 1
        time.sleep(0.01)


def _staying(application: Application, load: Load, lock: threading.Lock, over: threading.Event) -> None:
    with application.connect_with(*application.credentials()) as connection:
        try:
            while not over.wait(0.1):
                connection.execute("SELECT 1")
        except psycopg.Error as error:
            _note(lock, load.dropped, str(error))


def _note(lock: threading.Lock, notes: list[str], text: str) -> None:
    with lock:
        notes.append(text)
