"""Asking several sources at once, none of which may make the others wait: what half a system still knows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from recovery.connection import Refused, Unreachable


class NotAsked(Exception):
    """The source was not asked, for the reason given: that is no trouble of the source's."""


@dataclass(frozen=True)
class Answer:
    """What a source said, or in one sentence why it said nothing; `seconds` it took."""

    value: Any = None
    trouble: str | None = None
    asked: bool = True
    seconds: float = 0.0


def ask(sources: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Answer]:
    """Each source in a thread of its own; after `seconds` those that are silent are left behind."""
    began = time.monotonic()
    answers: dict[str, Answer] = {}
    done = threading.Condition()

    def run(name: str, look: Callable[[], Any]) -> None:
        answer = _answer(look, began)
        with done:
            answers[name] = answer
            done.notify_all()

    for name, look in sources.items():
        # Daemons: one that hangs must not keep the program from ending
        threading.Thread(target=run, args=(name, look), name=name, daemon=True).start()
    with done:
        done.wait_for(lambda: len(answers) == len(sources), seconds)
        heard = dict(answers)
    silent = Answer(trouble=f"no answer within {seconds:.1f} s", seconds=seconds)
    return {name: heard.get(name, silent) for name in sources}


def _answer(look: Callable[[], Any], began: float) -> Answer:
    try:
        return Answer(look(), seconds=time.monotonic() - began)
    except NotAsked as reason:
        return Answer(trouble=str(reason), asked=False, seconds=time.monotonic() - began)
    except ClientError as error:
        said = error.response["Error"]
        trouble = f"{error.operation_name} was refused: {said.get('Code')}: {said.get('Message', '')}"
    except (BotoCoreError, Refused, Unreachable, OSError) as error:
        trouble = str(error)
    except (LookupError, TypeError, ValueError) as error:
        # An answer in another form than expected is a source that says nothing, not the end of the command
        trouble = f"its answer was not understood ({type(error).__name__}: {error})"
    except Exception as error:
        # One that ended silently would be waited for, and its reason would be lost
        trouble = str(error) or type(error).__name__
    first = trouble.strip().splitlines()[0] if trouble.strip() else "no reason was given"
    return Answer(trouble=first, seconds=time.monotonic() - began)
