"""What the SQL relies on is listed with what grants it on RDS, and nothing needs a release after PostgreSQL 17."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

import app
from recovery.database_needs import NAMES, NEWEST, SETTINGS, STATEMENTS, Grant
from tests.unit.recovery.conftest import Pair

_LATE = ("invalidation_reason", "synced")
_NAME = re.compile(rf"\b(?:(?:pg|rds)_[a-z_]*[a-z]|{'|'.join(_LATE)})\b")
_STATEMENT = re.compile(
    r"\b(CREATE|ALTER|DROP) (?:OR REPLACE )?"
    r"(EVENT TRIGGER|TEMPORARY TABLE|EXTENSION|FUNCTION|INDEX|PUBLICATION|ROLE|SCHEMA|SUBSCRIPTION|TABLE|USER|DATABASE|"
    r"TABLESPACE|CAST|LANGUAGE|SERVER|SYSTEM)\b"
)
_GRANT = re.compile(
    r"\b(GRANT|REVOKE) (?:(?:[A-Z]+(?:, )?)+ ON "
    r"(ALL TABLES|DATABASE|FUNCTION|SCHEMA|SEQUENCES?|TABLES?|[a-z_.]+)|%[sI] (?:TO|FROM))"
)
_SETTING = re.compile(
    r"\bSET (?:LOCAL |SESSION )?([A-Za-z_]+) ?(?:=|TO)\s|set_config\('([A-Za-z_]+)'|\b(SET LOCAL ROLE)\b"
)
# Names of programs.
_NOT_SQL = {"pg_dump", "pg_restore"}


def documentation(tree: ast.AST) -> set[int]:
    """Docstrings, of modules and of attributes: text about SQL, not SQL."""
    return {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }


def texts() -> Iterator[str]:
    for path in sorted([*(app.ROOT / "recovery").rglob("*"), *(app.ROOT / "functions").rglob("*.py")]):
        if path.suffix == ".sql":
            yield re.sub(r"--.*", "", path.read_text())
        elif path.suffix == ".py" and path.name != "database_needs.py":
            tree = ast.parse(path.read_text())
            told = documentation(tree)
            yield from (
                node.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told
            )


def granted(verb: str, on: str) -> str:
    if not on:
        return f"{verb} ROLE"
    kind = on.removeprefix("ALL ").removesuffix("S") if on.isupper() else "TABLE"
    return f"{verb} ON {kind}"


def settings_used() -> frozenset[str]:
    """What looks like a setting of PostgreSQL in the code's SQL, in small letters."""
    found: set[str] = set()
    for text in texts():
        found.update("role" if role else (plain or called).lower() for plain, called, role in _SETTING.findall(text))
    return frozenset(found)


@cache
def used() -> tuple[frozenset[str], frozenset[str]]:
    """Names and statements in the code's SQL."""
    names: set[str] = set()
    statements: set[str] = set()
    for text in texts():
        names.update(_NAME.findall(text))
        statements.update(f"{verb} {what}" for verb, what in _STATEMENT.findall(text))
        statements.update(granted(verb, on) for verb, on in _GRANT.findall(text))
    return frozenset(names - _NOT_SQL), frozenset(statements)


def test_every_name_of_postgresql_and_rds_that_the_sql_uses_is_listed_and_no_other() -> None:
    assert used()[0] - NAMES.keys() == set(), "say in recovery/database_needs.py what grants them on RDS"
    assert NAMES.keys() - used()[0] - set(_LATE) == set(), "nothing uses these any more"


def test_every_statement_that_makes_changes_or_removes_something_is_listed_and_no_other() -> None:
    assert used()[1] - STATEMENTS.keys() == set(), "say in recovery/database_needs.py what grants them on RDS"
    assert STATEMENTS.keys() - used()[1] == set(), "nothing uses these any more"


def test_every_setting_that_the_sql_changes_is_listed_and_whoever_must_may_change_it(members: Pair) -> None:
    """Asked of PostgreSQL itself: which names are settings, and which of them any user may set."""
    with members.open() as session:
        contexts = dict(session.run("SELECT lower(name), context FROM pg_settings", 5))
    # It is of the session, not of the server, so it is not among them
    contexts["role"] = "member"
    listed = {name.lower(): need for name, need in SETTINGS.items()}
    assert settings_used() & contexts.keys() == listed.keys(), "say in recovery/database_needs.py who may on RDS"
    for name, need in listed.items():
        assert (contexts[name] == "user") == (need.grant is Grant.ANYONE), name


def test_nothing_needs_a_release_after_17() -> None:
    assert {name for name, need in {**NAMES, **SETTINGS, **STATEMENTS}.items() if need.since > NEWEST} == set()


@pytest.mark.parametrize("text", ["SELECT pg_read_file('x')", "SELECT pg_get_acl(1, 2, 3)", "ALTER SYSTEM SET x = 1"])
def test_a_superusers_function_or_a_new_one_would_be_noticed(text: str) -> None:
    names, statements = set(_NAME.findall(text)), {" ".join(found) for found in _STATEMENT.findall(text)}
    assert (names - NAMES.keys()) | (statements - STATEMENTS.keys())


def test_what_anyone_may_call_is_open_to_a_role_without_any_right(members: Pair) -> None:
    """Asked of PostgreSQL itself, for every function on the list, of a role that is nothing but a role."""
    with members.open() as session:
        session.run("DROP ROLE IF EXISTS nobody; CREATE ROLE nobody", 5)
        rows = session.run(
            "SELECT proname::text, has_function_privilege('nobody', oid, 'EXECUTE') FROM pg_catalog.pg_proc "
            "WHERE pronamespace = 'pg_catalog'::regnamespace AND proname LIKE 'pg\\_%'",
            5,
        )
        session.run("DROP ROLE nobody", 5)
    allowed: dict[str, bool] = {}
    for name, may in rows:
        allowed[name] = allowed.get(name, True) and may
    for name, need in NAMES.items():
        if name in allowed and need.grant in (Grant.ANYONE, Grant.REPLICATION):
            assert allowed[name], f"{name} is not open to everyone"
    assert not allowed["pg_read_file"]
