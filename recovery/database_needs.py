"""What the SQL of this system relies on, and what on RDS grants it: the main user is no superuser there.

A test reads every statement of the code and fails on what is not listed here, and on what PostgreSQL 17 lacks. Sources:
Amazon RDS user guide ("Understanding the rds_superuser role", "Performing logical replication", "Event triggers"), and
the PostgreSQL manual's chapters on system functions and catalogs; `since` is the release that brought it, 0 for those
older than 13.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

NEWEST = 17
"""Nothing may need a later release."""


class Grant(StrEnum):
    """What gives the right on RDS."""

    ANYONE = "PUBLIC"
    OWNER = "the owner of the object, or of the database"
    CREATOR = "CREATEROLE, and being the role's creator"
    MAIN_USER = "rds_superuser"
    REPLICATION = "rds_replication"


@dataclass(frozen=True)
class Need:
    """Who may, and since which release."""

    grant: Grant
    since: int = 0


NAMES: Mapping[str, Need] = {
    # Functions that anyone may call
    **dict.fromkeys(
        (
            *(
                "pg_advisory_lock",
                "pg_advisory_xact_lock",
                "pg_backend_pid",
                "pg_current_wal_flush_lsn",
                "pg_current_wal_lsn",
                "pg_current_xact_id",
            ),
            *("pg_event_trigger_ddl_commands", "pg_event_trigger_dropped_objects", "pg_get_userbyid", "pg_has_role"),
            *("pg_event_trigger_table_rewrite_oid", "pg_event_trigger_table_rewrite_reason", "pg_is_in_recovery"),
            *("pg_last_wal_replay_lsn", "pg_last_xact_replay_timestamp", "pg_logical_emit_message", "pg_wal_lsn_diff"),
            *("pg_xact_commit_timestamp", "pg_control_system"),
        ),
        Need(Grant.ANYONE),
    ),
    # Of others' sessions, a member of pg_signal_backend (and who is no superuser may not end a superuser's)
    "pg_terminate_backend": Need(Grant.MAIN_USER),
    # Of a sequence, whoever may read it
    "pg_sequence_last_value": Need(Grant.OWNER),
    # Functions of a slot
    **dict.fromkeys(
        (
            *("pg_create_logical_replication_slot", "pg_drop_replication_slot"),
            *("pg_logical_slot_peek_binary_changes", "pg_replication_slot_advance"),
        ),
        Need(Grant.REPLICATION),
    ),
    # Catalogs, views, types and schemas that anyone may read
    **dict.fromkeys(
        (
            *("pg_am", "pg_attribute", "pg_auth_members", "pg_catalog", "pg_class", "pg_collation"),
            *("pg_default_acl", "pg_event_trigger"),
            *("pg_index", "pg_inherits", "pg_lsn", "pg_namespace", "pg_proc", "pg_publication", "pg_replication_slots"),
            *(
                "pg_roles",
                "pg_sequence",
                "pg_stat_activity",
                "pg_stat_replication",
                "pg_temp",
                "pg_toast",
                "pg_trigger",
            ),
            "pg_type",
        ),
        Need(Grant.ANYONE),
    ),
    # Columns and arguments that came late; so did the fifth of pg_create_logical_replication_slot, `failover`
    "invalidation_reason": Need(Grant.ANYONE, since=17),
    "synced": Need(Grant.ANYONE, since=17),
    # Roles that RDS brings; who holds rds_superuser may grant them
    "rds_iam": Need(Grant.MAIN_USER),
    "rds_replication": Need(Grant.MAIN_USER),
    "rds_superuser": Need(Grant.MAIN_USER),
}

SETTINGS: Mapping[str, Need] = {
    **dict.fromkeys(
        (
            *("bytea_output", "client_min_messages", "DateStyle", "extra_float_digits", "IntervalStyle", "jit"),
            *("lc_monetary", "lock_timeout", "search_path", "synchronous_commit", "TimeZone", "xmloption"),
        ),
        Need(Grant.ANYONE),
    ),
    # Of a role that the session's user is a member of
    "role": Need(Grant.CREATOR),
    # PostgreSQL's superusers may, and whoever is given SET on it (since 15); on RDS rds_superuser is
    "session_replication_role": Need(Grant.MAIN_USER),
}
"""What the SQL sets for its session or transaction, but for settings of its own (`recovery.…`)."""

STATEMENTS: Mapping[str, Need] = {
    # PostgreSQL asks for a superuser here; RDS lets its main user
    "CREATE EVENT TRIGGER": Need(Grant.MAIN_USER),
    "CREATE PUBLICATION": Need(Grant.MAIN_USER),
    "ALTER EVENT TRIGGER": Need(Grant.OWNER),
    "DROP EVENT TRIGGER": Need(Grant.OWNER),
    "DROP PUBLICATION": Need(Grant.OWNER),
    "CREATE EXTENSION": Need(Grant.MAIN_USER),
    "ALTER EXTENSION": Need(Grant.OWNER),
    "CREATE ROLE": Need(Grant.CREATOR),
    "ALTER ROLE": Need(Grant.CREATOR),
    "CREATE SCHEMA": Need(Grant.OWNER),
    "CREATE FUNCTION": Need(Grant.OWNER),
    "DROP FUNCTION": Need(Grant.OWNER),
    "CREATE TABLE": Need(Grant.OWNER),
    "CREATE TEMPORARY TABLE": Need(Grant.ANYONE),
    "ALTER TABLE": Need(Grant.OWNER),
    "DROP TABLE": Need(Grant.OWNER),
    "CREATE INDEX": Need(Grant.OWNER),
    "DROP INDEX": Need(Grant.OWNER),
    # Of the functions' roles, which the main user made, in groups that rds_superuser may give
    "GRANT ROLE": Need(Grant.MAIN_USER),
    "REVOKE ROLE": Need(Grant.MAIN_USER),
    # On what the main user made, and on the database that it owns
    **dict.fromkeys(
        ("GRANT ON DATABASE", "GRANT ON FUNCTION", "GRANT ON SCHEMA", "GRANT ON SEQUENCE", "GRANT ON TABLE"),
        Need(Grant.OWNER),
    ),
    **dict.fromkeys(("REVOKE ON FUNCTION", "REVOKE ON SCHEMA", "REVOKE ON TABLE"), Need(Grant.OWNER)),
}
"""Of DDL."""
