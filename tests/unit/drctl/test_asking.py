"""Half a system still answers: no source makes the others wait, and none ends the command."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from drctl.asking import NotAsked, ask
from recovery.connection import TimedOut
from recovery.secret import SecretMissing


def raising(error: BaseException) -> Any:
    def look() -> None:
        raise error

    return look


def test_a_source_that_hangs_costs_the_others_nothing_and_is_named() -> None:
    forever = threading.Event()
    began = time.monotonic()
    answers = ask({"hangs": forever.wait, "answers": lambda: 7}, 0.3)
    assert time.monotonic() - began < 1.5
    assert answers["answers"].value == 7
    assert answers["hangs"].value is None
    assert answers["hangs"].trouble == "no answer within 0.3 s"
    forever.set()


def test_a_source_that_fails_in_a_way_of_its_own_says_why_and_is_not_waited_for() -> None:
    began = time.monotonic()
    answers = ask({"secret": raising(SecretMissing("There is no secret x.")), "odd": raising(Exception())}, 30)
    assert time.monotonic() - began < 5
    assert (answers["secret"].trouble, answers["odd"].trouble) == ("There is no secret x.", "Exception")


def test_the_answer_is_there_as_soon_as_the_last_source_has_spoken() -> None:
    began = time.monotonic()
    ask({"quick": lambda: 1, "quicker": lambda: 2}, 30)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "GetItem"),
            "GetItem was refused: AccessDenied: no",
        ),
        (EndpointConnectionError(endpoint_url="https://x"), 'Could not connect to the endpoint URL: "https://x"'),
        (TimedOut("it did not answer within 2.0 s."), "it did not answer within 2.0 s."),
        (ConnectionResetError("reset"), "reset"),
        (KeyError("DBInstances"), "its answer was not understood (KeyError: 'DBInstances')"),
        (OSError(), "no reason was given"),
    ],
)
def test_what_goes_wrong_with_a_source_is_one_sentence(error: BaseException, sentence: str) -> None:
    answer = ask({"source": raising(error)}, 5)["source"]
    assert answer.trouble == sentence
    assert answer.asked


def test_a_source_that_cannot_be_asked_from_here_is_not_in_trouble() -> None:
    answer = ask({"source": raising(NotAsked("no outputs are at hand"))}, 5)["source"]
    assert (answer.asked, answer.trouble) == (False, "no outputs are at hand")
