"""A state machine's definition run in virtual time: its real states, choices and JSONata expressions, no waiting.

What its tasks answer, and how long that takes, is asked of the world it is given. Covers what the machines of this
project use: Pass, Task with Retry and Catch, Choice, Wait, Fail; `Assign` sees the variables as they were.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jsonata  # type: ignore[import-untyped]

from recovery.clock import iso

TRANSITION_SECONDS = 0.025
"""What Step Functions itself takes from one state to the next; a few ten milliseconds."""


class TaskFailed(Exception):
    """An error that a task ends with: its Step Functions name, and after how many seconds."""

    def __init__(self, error: str, cause: str = "", after: float = 0.1) -> None:
        super().__init__(error)
        self.error = error
        self.cause = cause
        self.after = after


@dataclass(frozen=True)
class Answer:
    """What a task gives, and after how many seconds."""

    result: Any
    after: float = 0.1


Ask = Callable[[str, dict[str, Any], float], Answer]
"""Of the state's name, its arguments and the moment (epoch seconds) at which it asks; may raise TaskFailed."""


@dataclass(frozen=True)
class Request:
    """What an execution asks of the world: its state's name, the arguments, and when (epoch seconds)."""

    state: str
    arguments: Any
    at: float


@dataclass(frozen=True)
class Visit:
    """A state that was entered, when, and when it was left (epoch seconds)."""

    state: str
    entered: float
    left: float


@dataclass
class Run:
    """One execution: its visits, its variables at the end, and when it ended."""

    visits: list[Visit] = field(default_factory=list)
    variables: dict[str, Any] = field(default_factory=dict)
    output: Any = None

    @property
    def states(self) -> list[str]:
        """The names of the visited states, in order."""
        return [visit.state for visit in self.visits]

    @property
    def ended(self) -> float:
        """When the execution ended, epoch seconds."""
        return self.visits[-1].left


class Machine:
    """One definition, ready to run."""

    def __init__(self, definition: Mapping[str, Any], transition: float = TRANSITION_SECONDS) -> None:
        self._start = str(definition["StartAt"])
        self._states: Mapping[str, Mapping[str, Any]] = definition["States"]
        self._transition = transition

    def run(self, given: Mapping[str, Any], ask: Ask, now: float) -> Run:
        """Run from `now` (epoch seconds) to the end."""
        execution = self.execution(given, now)
        answer: Answer | TaskFailed | None = None
        while True:
            try:
                request = execution.send(answer)
            except StopIteration as end:
                run: Run = end.value
                return run
            try:
                answer = ask(request.state, request.arguments, request.at)
            except TaskFailed as failed:
                answer = failed

    def resource(self, state: str) -> str:
        """The resource of a task; empty of any other state."""
        return str(self._states[state].get("Resource", ""))

    def execution(
        self, given: Mapping[str, Any], now: float, identity: str = "arn:execution"
    ) -> Generator[Request, Answer | TaskFailed | None, Run]:
        """An execution that stops at each request until it is sent the answer: others may go on meanwhile."""
        run, name, value = Run(), self._start, dict(given)
        while True:
            state = self._states[name]
            states: dict[str, Any] = {"input": value, "context": {"Execution": {"Id": identity}}}
            entered, chosen = now, state
            match state["Type"]:
                case "Task":
                    now, chosen = yield from self._task(name, state, now, states, run.variables)
                case "Wait":
                    now += float(_evaluated(state["Seconds"], _scope(states, run.variables, now)))
                case "Choice":
                    chosen = self._chosen(state, now, states, run.variables)
                case "Pass" | "Fail":
                    pass
                case kind:
                    raise NotImplementedError(f"The state {name} is a {kind}.")
            scope = _scope(states, run.variables, now)
            run.variables = {**run.variables, **_evaluated(chosen.get("Assign", {}), scope)}
            if "Output" in chosen:
                value = _evaluated(chosen["Output"], scope)
            now += self._transition
            run.visits.append(Visit(name, entered, now))
            if "Next" not in chosen:
                run.output = value
                return run
            name = str(chosen["Next"])

    @staticmethod
    def _chosen(
        state: Mapping[str, Any], now: float, states: Mapping[str, Any], variables: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        scope = _scope(states, variables, now)
        for choice in state["Choices"]:
            if _evaluated(choice["Condition"], scope):
                found: Mapping[str, Any] = choice
                return found
        return {**state, "Next": state["Default"]}

    def _task(
        self,
        name: str,
        state: Mapping[str, Any],
        now: float,
        states: dict[str, Any],
        variables: Mapping[str, Any],
    ) -> Generator[Request, Answer | TaskFailed | None, tuple[float, Mapping[str, Any]]]:
        limit = float(state["TimeoutSeconds"])
        tried: dict[int, int] = {}
        while True:
            arguments = _evaluated(state["Arguments"], _scope(states, variables, now))
            try:
                answer = yield Request(name, arguments, now)
                if isinstance(answer, TaskFailed):
                    raise answer
                assert answer is not None, "a request has an answer"
                if answer.after > limit:
                    raise TaskFailed("States.Timeout", f"Task timed out after {limit:g} seconds", limit)
            except TaskFailed as failed:
                now += min(failed.after, limit)
                error, cause = (failed.error, failed.cause) if failed.after <= limit else ("States.Timeout", "")
                pause = _pause(state, error, tried)
                if pause is not None:
                    now += pause
                    continue
                states["errorOutput"] = {"Error": error, "Cause": cause}
                for caught in state.get("Catch", ()):
                    if {"States.ALL", error} & set(caught["ErrorEquals"]):
                        return now, caught
                raise
            states["result"] = answer.result
            return now + answer.after, state


def _pause(state: Mapping[str, Any], error: str, tried: dict[int, int]) -> float | None:
    """Seconds until the next try by the first retrier for this error; None when its attempts are spent."""
    for number, retrier in enumerate(state.get("Retry", ())):
        if {"States.ALL", error} & set(retrier["ErrorEquals"]):
            used = tried.get(number, 0)
            if used >= int(retrier.get("MaxAttempts", 3)):
                return None
            tried[number] = used + 1
            return float(retrier.get("IntervalSeconds", 1)) * float(retrier.get("BackoffRate", 2)) ** used
    return None


def _scope(states: Mapping[str, Any], variables: Mapping[str, Any], now: float) -> dict[str, Any]:
    null = jsonata.utils.Utils.NULL_VALUE
    known = {**variables, "states": states, "virtualMillis": round(now * 1000), "virtualNow": iso(now)}
    return {name: null if bound is None else bound for name, bound in known.items()}


@functools.cache
def _compiled(expression: str) -> tuple[Any, frozenset[str]]:
    """The expression, with the machine's clock in place of its own, and the names it may refer to."""
    virtual = expression.replace("$millis()", "$virtualMillis").replace("$now()", "$virtualNow")
    return jsonata.Jsonata.jsonata(virtual), frozenset(re.findall(r"\$(\w+)", virtual))


def _evaluated(value: Any, scope: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        return {key: _evaluated(part, scope) for key, part in value.items()}
    if isinstance(value, list):
        return [_evaluated(part, scope) for part in value]
    if isinstance(value, str) and value.startswith("{%"):
        expression, names = _compiled(value[2:-2].strip())
        result = expression.evaluate(None, {name: bound for name, bound in scope.items() if name in names})
        if result is None:
            raise ValueError(f"The expression {value} gives nothing, which is an error in Step Functions.")
        return result
    return value
