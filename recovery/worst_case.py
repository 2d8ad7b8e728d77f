"""The longest that a state machine can take, from its definition alone (Amazon States Language, JSONata).

Pure, standard library only: the stacks import it. What is understood is little, and everything else is refused, so a
bound that is given holds:

- A Task takes `TimeoutSeconds` for each attempt, and its retriers' intervals; a Wait its `Seconds`; nothing else takes
  time.
- A loop is bounded by a deadline: a Choice in it has the condition `{% $millis() >= $name %}`, and from then on only
  the choices up to that one are open. `name` is assigned outside of the loop: `{% $millis() + <ms> %}`, or
  `{% $toMillis($states.input.since) + <ms> %}`, which counts from the first failed probe.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

State = Mapping[str, Any]

_DEADLINE_PASSED = re.compile(r"\{% \$millis\(\) >= \$(\w+) %\}")
_FROM_NOW = re.compile(r"\{% \$millis\(\) \+ (\d+) %\}")
_FROM_FIRST_FAILURE = re.compile(r"\{% \$toMillis\(\$states\.input\.since\) \+ (\d+) %\}")
_UNTIMED = ("Pass", "Choice", "Succeed", "Fail")


class Unbounded(Exception):
    """No bound can be given for this definition; the message says where and why."""


@dataclass(frozen=True)
class Part:
    """A part of a path: a state's visit, or a loop until its deadline, and the seconds it adds."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Path:
    """The longest way to a state: the latest moment of arrival in seconds, and the parts that add up to it."""

    seconds: float
    parts: tuple[Part, ...] = ()

    def and_then(self, name: str, seconds: float) -> Path:
        """The path with one more part; parts that take no time are left out."""
        if seconds <= 0:
            return self
        return Path(self.seconds + seconds, (*self.parts, Part(name, seconds)))


@dataclass(frozen=True)
class _Edge:
    """A way from one state to another. `closed_by` names the deadlines after which it is not taken any more."""

    source: str
    target: str
    assigned: Mapping[str, Any]
    closed_by: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Deadline:
    """`seconds` from the moment it is set, or (`anchored`) from the first failed probe; whichever ends later."""

    from_now: float | None
    anchored: float | None


def budget(name: str, state: State) -> float:
    """The longest that one visit of a state takes, retries included, s. Raises Unbounded."""
    kind = state["Type"]
    if kind in _UNTIMED:
        return 0.0
    if kind == "Wait":
        return _number(name, state, "Seconds")
    if kind != "Task":
        raise Unbounded(f"The state {name} is a {kind}: how long that takes is not known here.")
    total = attempt = _number(name, state, "TimeoutSeconds")
    for retrier in state.get("Retry", ()):
        pause = float(retrier.get("IntervalSeconds", 1))
        for _ in range(int(retrier.get("MaxAttempts", 3))):
            total += min(pause, float(retrier.get("MaxDelaySeconds", pause))) + attempt
            pause *= float(retrier.get("BackoffRate", 2.0))
    return total


def successors(state: State) -> Iterator[str]:
    """The states that a state names."""
    for part in (state, *state.get("Choices", ()), *state.get("Catch", ())):
        yield from (part[key] for key in ("Next", "Default") if key in part)


def reachable(definition: Mapping[str, Any]) -> set[str]:
    """The states that the machine can come to."""
    found, coming = set[str](), [str(definition["StartAt"])]
    while coming:
        name = coming.pop()
        if name not in found:
            found.add(name)
            coming += successors(definition["States"][name])
    return found


def longest(
    definition: Mapping[str, Any],
    *,
    to: str,
    start: str | None = None,
    begin: float = 0.0,
    first_failure: float | None = None,
    without: frozenset[str] = frozenset(),
) -> Path:
    """The longest way to the state `to`: the latest moment of arrival there.

    `start` (the machine's own when None) is entered at `begin`. `first_failure` is the latest moment of the first
    failed probe; None when it is so long ago that deadlines counted from it have passed. States in `without` are not
    entered. Raises Unbounded; also when `to` is not reached.
    """
    states: Mapping[str, State] = definition["States"]
    walk = _Walk(states, without, first_failure)
    first = start or str(definition["StartAt"])
    arrivals = walk.arrivals(frozenset(states) - without, frozenset(), {first: Path(begin)})
    if to not in arrivals:
        raise Unbounded(f"No way leads from {first} to {to}.")
    return arrivals[to]


class _Walk:
    """The longest ways through one machine."""

    def __init__(self, states: Mapping[str, State], without: frozenset[str], first_failure: float | None) -> None:
        self._budgets = {name: budget(name, state) for name, state in states.items() if name not in without}
        self._edges = [edge for name, state in states.items() if name not in without for edge in _edges(name, state)]
        unknown = {edge.target for edge in self._edges} - set(states)
        if unknown:
            raise Unbounded(f"States are named that do not exist: {', '.join(sorted(unknown))}.")
        self._edges = [edge for edge in self._edges if edge.target not in without]
        self._own_assigned = {name: states[name].get("Assign", {}) for name in self._budgets}
        self._first_failure = first_failure

    def arrivals(self, nodes: frozenset[str], passed: frozenset[str], starts: Mapping[str, Path]) -> dict[str, Path]:
        """The latest arrival at each state within `nodes`, when the deadlines `passed` have passed."""
        edges = [
            edge
            for edge in self._edges
            if edge.source in nodes and edge.target in nodes and not edge.closed_by & passed
        ]
        arrived = dict(starts)
        for component in _components(nodes, edges):  # in topological order
            entered = {name: arrived[name] for name in component if name in arrived}
            if not entered:
                continue
            leaving = [edge for edge in edges if edge.source in component and edge.target not in component]
            inside = [edge for edge in edges if edge.source in component and edge.target in component]
            if not inside:
                (name,) = component
                left = arrived[name].and_then(name, self._budgets[name])
                for edge in leaving:
                    _later(arrived, edge.target, left)
                continue
            ends, late = self._loop(component, inside, passed, max(entered.values(), key=lambda path: path.seconds))
            for name, path in late.items():
                _later(arrived, name, path)
            for edge in leaving:
                if edge.closed_by & ends.passed:
                    _later(arrived, edge.target, ends.path)
                elif edge.source in late:
                    _later(arrived, edge.target, late[edge.source].and_then(edge.source, self._budgets[edge.source]))
        return arrived

    def _loop(
        self, component: frozenset[str], inside: Sequence[_Edge], passed: frozenset[str], entry: Path
    ) -> tuple[_Ended, dict[str, Path]]:
        """When the loop's deadline passes at the latest, and the latest arrivals at its states after that.

        At that moment the machine may be at the beginning of any of the loop's states.
        """
        reasons = []
        for name in sorted({name for edge in inside for name in edge.closed_by} - passed):
            try:
                deadline = self._deadline(name, inside, component)
                path = self._until(deadline, name, component, entry)
                late = self.arrivals(component, passed | {name}, dict.fromkeys(component, path))
            except Unbounded as error:
                reasons.append(str(error))
                continue
            return _Ended(passed | {name}, path), late
        states = ", ".join(sorted(component))
        raise Unbounded(" ".join(reasons) or f"The loop of {states} has no deadline.")

    def _until(self, deadline: _Deadline, name: str, component: frozenset[str], entry: Path) -> Path:
        until = entry.seconds + (deadline.from_now or 0.0)
        if deadline.anchored is not None and self._first_failure is not None:
            until = max(until, self._first_failure + deadline.anchored)
        some = ", ".join(sorted(component, key=lambda state: (-self._budgets[state], state))[:3])
        return entry.and_then(f"loop of {some} … until {name}", until - entry.seconds)

    def _deadline(self, name: str, inside: Sequence[_Edge], component: frozenset[str]) -> _Deadline:
        moved = [edge for edge in inside if name in edge.assigned]
        moved_by = [state for state in component if name in self._own_assigned[state]]
        if moved or moved_by:
            where = moved[0].source if moved else moved_by[0]
            raise Unbounded(f"The deadline {name} is moved by {where}, inside of the loop that it should end.")
        values = [edge.assigned[name] for edge in self._edges if name in edge.assigned]
        values += [assigned[name] for assigned in self._own_assigned.values() if name in assigned]
        from_now: list[float] = []
        anchored: list[float] = []
        for value in values:
            if found := _FROM_NOW.fullmatch(str(value)):
                from_now.append(int(found[1]) / 1000)
            elif found := _FROM_FIRST_FAILURE.fullmatch(str(value)):
                anchored.append(int(found[1]) / 1000)
            else:
                raise Unbounded(f"The deadline {name} is set to {value!r}, which is not understood.")
        if not values:
            raise Unbounded(f"The deadline {name} is never set.")
        return _Deadline(max(from_now, default=None), max(anchored, default=None))


@dataclass(frozen=True)
class _Ended:
    """A loop's deadline and those that had passed before, and the latest moment at which it passes."""

    passed: frozenset[str]
    path: Path


def _later(arrived: dict[str, Path], name: str, path: Path) -> None:
    if name not in arrived or path.seconds > arrived[name].seconds:
        arrived[name] = path


def _edges(name: str, state: State) -> Iterator[_Edge]:
    own = state.get("Assign", {})
    if state["Type"] == "Choice":
        closed: frozenset[str] = frozenset()
        for choice in state["Choices"]:
            yield _Edge(name, choice["Next"], {**own, **choice.get("Assign", {})}, closed)
            if found := _DEADLINE_PASSED.fullmatch(str(choice.get("Condition", ""))):
                closed |= {found[1]}
        if "Default" in state:
            yield _Edge(name, state["Default"], own, closed)
        return
    if "Next" in state:
        yield _Edge(name, state["Next"], own)
    for caught in state.get("Catch", ()):
        yield _Edge(name, caught["Next"], caught.get("Assign", {}))


def _components(nodes: frozenset[str], edges: Sequence[_Edge]) -> list[frozenset[str]]:
    """The strongly connected components, each before those that it leads to (Tarjan's algorithm)."""
    following: dict[str, list[str]] = {name: [] for name in sorted(nodes)}
    for edge in edges:
        following[edge.source].append(edge.target)
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[frozenset[str]] = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for target in following[name]:
            if target not in number:
                visit(target)
                lowest[name] = min(lowest[name], lowest[target])
            elif target in stack:
                lowest[name] = min(lowest[name], number[target])
        if lowest[name] == number[name]:
            end = stack.index(name)
            found.append(frozenset(stack[end:]))
            del stack[end:]

    for name in following:
        if name not in number:
            visit(name)
    return found[::-1]


def _number(name: str, state: State, field: str) -> float:
    value = state.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unbounded(f"The state {name} has no fixed {field}: it may take for ever.")
    return float(value)
