"""The transaction log from outside its file system: by the functions that mount it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from deployment.problem import Problem
from drctl.place import Place

FUNCTION_SECONDS = 930
"""Lambda's own limit is 900 s."""


class RemoteLog:
    """The functions that reach the log: `rewind` reads it and rolls a restored instance forward, `log-care` verifies
    it, holds it and lets it expire."""

    def __init__(self, place: Place) -> None:
        self._names = place.names
        self._functions = place.account.client("lambda", patience=FUNCTION_SECONDS, attempts=1)

    def ends(self) -> str:
        """The position of the newest transaction that the log holds."""
        # Nothing is later than this: an empty list, and where the log ends
        return str(self._ask("rewind", action="list", since="9999-01-01T00:00:00Z")["log_ends"])

    def verify(self) -> Mapping[str, Any]:
        """Every file read and checked, by the function that does so twice a day: {"verdict", "findings", …}."""
        return self._ask("log-care")

    def roll_forward(self, host: str, port: int, stop: Mapping[str, str], *, dry_run: bool) -> Mapping[str, Any]:
        """Roll a restored instance (never a member) forward: {"transactions", "reached", …}."""
        return self._ask("rewind", action="roll-forward", host=host, port=port, dry_run=dry_run, **stop)

    def hold(self, name: str, reason: str) -> Mapping[str, Any]:
        """Let nothing expire until the hold is released: {"holds": […]}."""
        return self._held(action="hold", name=name, reason=reason)

    def release(self, name: str) -> Mapping[str, Any]:
        """Take a hold away: {"holds": […]}, those that are left."""
        return self._held(action="release", name=name)

    def holds(self) -> Mapping[str, Any]:
        """What is held: {"holds": [{"name", "reason", "since"}, …]}."""
        return self._held(action="holds")

    def _held(self, **event: str) -> Mapping[str, Any]:
        answer = self._ask("log-care", **event)
        if "refused" in answer:
            raise Problem(str(answer["refused"]))
        if "holds" not in answer:
            raise Problem(f"The deployed {self._names.of('log-care')} knows no holds yet: deploy {self._names.suffix}.")
        return answer

    def _ask(self, function: str, **event: Any) -> Mapping[str, Any]:
        name = self._names.of(function)
        try:
            answer = self._functions.invoke(FunctionName=name, Payload=json.dumps(event).encode())
        except self._functions.exceptions.ResourceNotFoundException:
            raise Problem(f"There is no function {name}: this environment keeps no log, or is not deployed.") from None
        said = json.load(answer["Payload"])
        if "FunctionError" in answer:
            raise Problem(f"{name} failed: {said.get('errorMessage', said) if isinstance(said, dict) else said}")
        return dict(said)
