"""SQL text taken apart as far as DDL needs it: into tokens, and a string into its statements.

Quoting, comments and `BEGIN ATOMIC` bodies are PostgreSQL's (documentation, "Lexical Structure"); nothing is parsed
beyond that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_DOLLAR = re.compile(r"\$(?:[A-Za-z_\u0080-\uffff][A-Za-z0-9_\u0080-\uffff]*)?\$")
_WORD = re.compile(r"[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_$\u0080-\U0010ffff]*")
_COMMENT = re.compile(r"/\*|\*/")
_QUOTED = re.compile(r"'(?:[^']|'')*'")
_ESCAPED = re.compile(r"'(?:[^'\\]|''|\\.)*'", re.DOTALL)
_NAME = re.compile(r'"(?:[^"]|"")*"')
_MODIFIERS = frozenset(
    re.findall(
        r"\w+",
        "OR REPLACE GLOBAL LOCAL TEMP TEMPORARY UNLOGGED UNIQUE RECURSIVE CONSTRAINT TRUSTED PROCEDURAL DEFAULT",
    )
)
_GLOBAL = frozenset(("DATABASE", "ROLE", "TABLESPACE", "PARAMETER"))
"""Objects of the whole cluster: commands on them fire no event trigger."""


class Unreadable(ValueError):
    """A quote or comment that never ends."""


@dataclass(frozen=True)
class Token:
    """A word (upper case; what is quoted as it is), or any other piece; `start` and `end` are its place in the text."""

    word: str
    start: int
    end: int


@dataclass(frozen=True)
class Statement:
    """One statement of a string, without its semicolon."""

    text: str
    tokens: tuple[Token, ...]

    @property
    def words(self) -> list[str]:
        """The words of the tokens, from the first."""
        return [token.word for token in self.tokens]

    def has_tag(self, tag: str) -> bool:
        """Whether PostgreSQL would give this statement the command tag and fire event triggers for it."""
        words = self.words
        wanted = tag.split()
        if not words or words[0] != wanted[0]:
            return False
        if words[0] in ("GRANT", "REVOKE", "COMMENT"):
            # Without ON it grants a role; the object's kind follows ON.
            at = words.index("ON") + 1 if "ON" in words else len(words)
            return at < len(words) and words[at] not in _GLOBAL
        rest = words[1:]
        if words[0] == "CREATE":
            while rest and rest[0] in _MODIFIERS:
                rest = rest[1:]
        return rest[: len(wanted) - 1] == wanted[1:] and not (tag == "CREATE TABLE" and self._is_filled())

    def _is_filled(self) -> bool:
        """CREATE TABLE … AS; in a plain CREATE TABLE every AS stands in parentheses."""
        depth = 0
        for word in self.words:
            depth += (word == "(") - (word == ")")
            if word == "AS" and depth == 0:
                return True
        return False

    @property
    def is_temporary(self) -> bool:
        """Whether it creates something that ends with the session."""
        return self.words[:1] == ["CREATE"] and any(
            word in ("TEMP", "TEMPORARY") for word in self.words[1:5] if word in _MODIFIERS
        )

    def without(self, tokens: Sequence[Token]) -> str:
        """The text without these tokens."""
        text = self.text
        for token in sorted(tokens, key=lambda token: -token.start):
            text = text[: token.start] + text[token.end :]
        return text


def tokens(sql: str, *, conforming: bool = True) -> Iterator[Token]:
    """The tokens of a text without blanks and comments; `conforming` as the setting standard_conforming_strings."""
    position, end = 0, len(sql)
    while position < end:
        begin, char = position, sql[position]
        if char.isspace():
            position += 1
            continue
        if sql.startswith("--", position):
            position = (sql.find("\n", position) + 1) or end
            continue
        if sql.startswith("/*", position):
            position = _after_comment(sql, position)
            continue
        word = _WORD.match(sql, position)
        if char in "eE" and sql.startswith("'", position + 1):
            position = _after(_ESCAPED, sql, position + 1)
        elif word:
            position = word.end()
            yield Token(word[0].upper(), begin, position)
            continue
        elif char == "'":
            position = _after(_QUOTED if conforming else _ESCAPED, sql, position)
        elif char == '"':
            position = _after(_NAME, sql, position)
        elif char == "$" and (opening := _DOLLAR.match(sql, position)):
            closing = sql.find(opening[0], opening.end())
            if closing < 0:
                raise Unreadable(f"{opening[0]} never ends")
            position = closing + len(opening[0])
        else:
            position += 1
        yield Token(sql[begin:position], begin, position)


def _after(pattern: re.Pattern[str], sql: str, position: int) -> int:
    found = pattern.match(sql, position)
    if found is None:
        raise Unreadable(f"{sql[position]} never ends")
    return found.end()


def _after_comment(sql: str, position: int) -> int:
    """Comments nest."""
    depth = 0
    for mark in _COMMENT.finditer(sql, position):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return mark.end()
    raise Unreadable("/* never ends")


def split(sql: str, *, conforming: bool = True) -> list[Statement]:
    """The statements of a string; a semicolon in parentheses or between BEGIN ATOMIC and its END ends none."""
    found: list[Statement] = []
    current: list[Token] = []
    parentheses = blocks = 0
    for token in tokens(sql, conforming=conforming):
        if token.word == ";" and parentheses <= 0 and blocks == 0:
            found += _statement(sql, current)
            current, parentheses = [], 0
            continue
        current.append(token)
        parentheses += (token.word == "(") - (token.word == ")")
        if parentheses == 0 and _is_routine(current):
            if token.word == "BEGIN" or (token.word == "CASE" and blocks):
                blocks += 1
            elif token.word == "END" and blocks:
                blocks -= 1
    return found + _statement(sql, current)


def _is_routine(current: Sequence[Token]) -> bool:
    words = [token.word for token in current[:4] if token.word not in ("OR", "REPLACE")]
    return words[:1] == ["CREATE"] and words[1:2] in (["FUNCTION"], ["PROCEDURE"])


def _statement(sql: str, current: Sequence[Token]) -> list[Statement]:
    if not current:
        return []
    start = current[0].start
    moved = tuple(Token(token.word, token.start - start, token.end - start) for token in current)
    return [Statement(sql[start : current[-1].end], moved)]
