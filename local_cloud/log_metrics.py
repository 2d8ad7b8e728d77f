"""Metric filters: what a log group receives becomes points of a metric, as CloudWatch Logs does it.

Patterns are those of the user guide's "Filter pattern syntax": terms and quoted phrases that must all be there, `?`
before those of which one suffices, `-` before those that must not be; or `{ … }` over the fields of a JSON event with
`=`, `!=`, `<`, `<=`, `>`, `>=`, `*` inside a text, `&&`, `||` and parentheses. Letter case counts. What is beyond that
(regular expressions, space-delimited `[…]`, IS, EXISTS) is refused when the filter is made, rather than never matching.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ministack.core.responses import error_response_json
from ministack.services import cloudwatch, cloudwatch_logs

Request = Mapping[str, Any]
Response = tuple[int, dict[str, str], bytes]
Matches = Callable[[str], bool]

_TERM = re.compile(r'\s*([-?]?)(?:"((?:[^"\\]|\\.)*)"|([^\s"]+))')
_TOKEN = re.compile(
    r"\s*(?:(?P<mark>&&|\|\||[()])|(?P<path>\$(?:\.[\w-]+|\[\d+\])+)|(?P<compare>!=|<=|>=|=|<|>)"
    r'|"(?P<text>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s()"&|=<>!]+))'
)
_NUMERIC = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


class PatternUnsupported(Exception):
    """A filter pattern that CloudWatch Logs refuses, or one that is not evaluated here."""


def install() -> None:
    """Evaluate the filters of a log group on every event that is put into it."""
    cloudwatch_logs._put_metric_filter = _refusing_unknown_patterns(cloudwatch_logs._put_metric_filter)
    cloudwatch_logs._put_log_events = _measuring(cloudwatch_logs._put_log_events)


def compiled(pattern: str) -> Matches:
    """What tells whether a message matches. Raises PatternUnsupported."""
    text = pattern.strip()
    if text.startswith("{") and text.endswith("}"):
        return _Selector(text[1:-1]).compiled()
    if text.startswith(("[", "%", "{")):
        raise PatternUnsupported(f"The filter pattern {pattern!r} is of a kind that the local cloud does not evaluate")
    return _terms(text)


def measured(filters: Iterable[Mapping[str, Any]], messages: Iterable[str]) -> list[tuple[Mapping[str, Any], float]]:
    """The points that events give: each with its metric transformation. One without a match gives its default value."""
    found = []
    texts = list(messages)
    for each in filters:
        matching = [text for text in texts if _matcher(str(each.get("filterPattern") or ""))(text)]
        for transformation in each["metricTransformations"]:
            values = [value for text in matching if (value := _value(transformation["metricValue"], text)) is not None]
            if not values and texts and transformation.get("defaultValue") is not None:
                values = [float(transformation["defaultValue"])]
            found += [(transformation, value) for value in values]
    return found


_matcher = functools.lru_cache(maxsize=256)(compiled)


def _terms(text: str) -> Matches:
    needed: list[str] = []
    one_of: list[str] = []
    absent: list[str] = []
    position = 0
    while position < len(text):
        term = _TERM.match(text, position)
        if term is None:
            raise PatternUnsupported(f"The filter pattern {text!r} ends inside a quoted phrase")
        position = term.end()
        sign, phrase, word = term.groups()
        {"": needed, "?": one_of, "-": absent}[sign].append(word if phrase is None else _unquoted(phrase))

    def matches(message: str) -> bool:
        return (
            all(term in message for term in needed)
            and (not one_of or any(term in message for term in one_of))
            and not any(term in message for term in absent)
        )

    return matches


class _Selector:
    """The expression of a JSON pattern: `||` of `&&` of comparisons or parentheses."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[re.Match[str]] = []
        position = 0
        while text[position:].strip():
            token = _TOKEN.match(text, position)
            if token is None:
                raise self._refusal()
            self._tokens.append(token)
            position = token.end()
        self._next = 0

    def compiled(self) -> Matches:
        """What tells whether a message is JSON of which the expression is true."""
        holds = self._any()
        if self._next != len(self._tokens):
            raise self._refusal()

        def matches(message: str) -> bool:
            try:
                event = json.loads(message)
            except ValueError:
                return False
            return isinstance(event, dict) and holds(event)

        return matches

    def _any(self) -> Callable[[Any], bool]:
        parts = [self._all()]
        while self._take("mark", "||"):
            parts.append(self._all())
        return lambda event: any(part(event) for part in parts)

    def _all(self) -> Callable[[Any], bool]:
        parts = [self._one()]
        while self._take("mark", "&&"):
            parts.append(self._one())
        return lambda event: all(part(event) for part in parts)

    def _one(self) -> Callable[[Any], bool]:
        if self._take("mark", "("):
            inside = self._any()
            if not self._take("mark", ")"):
                raise self._refusal()
            return inside
        path, compare = self._take("path"), self._take("compare")
        quoted = self._take("text")
        wanted = quoted if quoted is not None else self._take("bare")
        if path is None or compare is None or wanted is None or (quoted is None and wanted in ("IS", "EXISTS", "NOT")):
            raise self._refusal()
        if quoted is not None:
            wanted = _unquoted(quoted)
        if compare in _NUMERIC and _number(wanted) is None:
            raise self._refusal()
        return lambda event: _holds(_at(event, path), compare, wanted)

    def _take(self, kind: str, exactly: str | None = None) -> str | None:
        if self._next == len(self._tokens):
            return None
        found = self._tokens[self._next].group(kind)
        if found is None or exactly not in (None, found):
            return None
        self._next += 1
        return str(found)

    def _refusal(self) -> PatternUnsupported:
        return PatternUnsupported(f"The filter pattern {{{self._text}}} is not one that the local cloud evaluates")


def _holds(found: Any, compare: str, wanted: str) -> bool:
    """Whether a field's value compares so; one that is not there, or is no single value, compares in no way."""
    if found is None or isinstance(found, dict | list):
        return False
    number, other = _number(found), _number(wanted)
    if compare in _NUMERIC:
        return number is not None and other is not None and _NUMERIC[compare](number, other)
    text = str(found).lower() if isinstance(found, bool) else str(found)
    equal = (number == other) if None not in (number, other) else fnmatch.fnmatchcase(text, _only_stars(wanted))
    return equal == (compare == "=")


def _only_stars(wanted: str) -> str:
    return re.sub(r"([?\[])", r"[\1]", wanted)


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _at(event: Any, path: str) -> Any:
    for name, index in re.findall(r"\.([\w-]+)|\[(\d+)\]", path):
        if name:
            event = event.get(name) if isinstance(event, dict) else None
        else:
            event = event[int(index)] if isinstance(event, list) and int(index) < len(event) else None
    return event


def _value(wanted: str, message: str) -> float | None:
    """A literal number, or the field of a JSON event that `$.…` names; None when that is no number."""
    return _number(_at(json.loads(message), wanted)) if wanted.startswith("$") else float(wanted)


def _unquoted(phrase: str) -> str:
    return re.sub(r"\\(.)", r"\1", phrase)


def _refusing_unknown_patterns(put: Callable[[Request], Response]) -> Callable[[Request], Response]:
    @functools.wraps(put)
    def checked(request: Request) -> Response:
        try:
            compiled(str(request.get("filterPattern") or ""))
        except PatternUnsupported as unsupported:
            refused: Response = error_response_json("InvalidParameterException", str(unsupported), 400)
            return refused
        return put(request)

    return checked


def _measuring(put: Callable[[Request], Response]) -> Callable[[Request], Response]:
    @functools.wraps(put)
    def measured_put(request: Request) -> Response:
        answer = put(request)
        if answer[0] < 400:
            group = request["logGroupName"]
            filters = [each for each in list(cloudwatch_logs._metric_filters.values()) if each["logGroupName"] == group]
            messages = (str(event.get("message", "")) for event in request.get("logEvents") or [])
            for transformation, value in measured(filters, messages):
                cloudwatch.record_metric(
                    transformation["metricNamespace"],
                    transformation["metricName"],
                    value,
                    str(transformation.get("unit") or "None"),
                )
        return answer

    return measured_put
