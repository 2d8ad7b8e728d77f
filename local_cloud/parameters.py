"""DB parameters of RDS as settings of the PostgreSQL clusters that stand in for it."""

from collections.abc import Mapping

# Parameters PostgreSQL knows by the same name and in the same unit as RDS (a bare number is in PostgreSQL's base unit
# on both).
HONOURED = frozenset(
    {
        "autovacuum",
        "autovacuum_naptime",
        "checkpoint_timeout",
        "client_min_messages",
        "datestyle",
        "deadlock_timeout",
        "default_transaction_isolation",
        "hot_standby_feedback",
        "idle_in_transaction_session_timeout",
        "idle_session_timeout",
        "lock_timeout",
        "log_autovacuum_min_duration",
        "log_checkpoints",
        "log_connections",
        "log_disconnections",
        "log_error_verbosity",
        "log_lock_waits",
        "log_min_duration_statement",
        "log_min_error_statement",
        "log_min_messages",
        "log_replication_commands",
        "log_statement",
        "log_temp_files",
        "logical_decoding_work_mem",
        "maintenance_work_mem",
        "max_connections",
        "max_locks_per_transaction",
        "max_logical_replication_workers",
        "max_prepared_transactions",
        "max_replication_slots",
        "max_slot_wal_keep_size",
        "max_standby_archive_delay",
        "max_standby_streaming_delay",
        "max_wal_senders",
        "max_wal_size",
        "max_worker_processes",
        "min_wal_size",
        "password_encryption",
        "random_page_cost",
        "search_path",
        "statement_timeout",
        "sync_replication_slots",
        "tcp_keepalives_count",
        "tcp_keepalives_idle",
        "tcp_keepalives_interval",
        "temp_file_limit",
        "timezone",
        "track_activity_query_size",
        "track_commit_timestamp",
        "track_functions",
        "track_io_timing",
        "transaction_timeout",
        "wal_keep_size",
        "wal_receiver_timeout",
        "wal_sender_timeout",
        "work_mem",
    }
)
FORCE_SSL = "rds.force_ssl"
LOGICAL_REPLICATION = "rds.logical_replication"
# The library must be among the installation's: these come with PostgreSQL itself and exist on RDS too.
LIBRARIES = "shared_preload_libraries"
LIBRARIES_AVAILABLE = frozenset({"auto_explain", "pg_prewarm", "pg_stat_statements"})
TRUE_VALUES = frozenset({"1", "on", "true", "yes"})


def honoured_settings(parameters: Mapping[str, str]) -> dict[str, str]:
    """The PostgreSQL settings that `parameters` (RDS name → value) ask for."""
    settings = {name: value for name, value in parameters.items() if _is_passed_on(name, value)}
    if _is_true(parameters.get(LOGICAL_REPLICATION, "0")):
        settings["wal_level"] = "logical"
    libraries = [name for name in _libraries(parameters) if name in LIBRARIES_AVAILABLE]
    if libraries:
        settings[LIBRARIES] = ",".join(libraries)
    return settings


def unhonoured_parameters(parameters: Mapping[str, str]) -> tuple[str, ...]:
    """The parameters that mean nothing here, sorted: unknown names, formulas (`{DBInstanceClassMemory/…}`), missing
    libraries.

    A library is named as `shared_preload_libraries=<library>`.
    """
    names = [
        name
        for name, value in parameters.items()
        if name not in (FORCE_SSL, LOGICAL_REPLICATION, LIBRARIES) and not _is_passed_on(name, value)
    ]
    libraries = [f"{LIBRARIES}={name}" for name in _libraries(parameters) if name not in LIBRARIES_AVAILABLE]
    return tuple(sorted(names + libraries))


def forces_ssl(parameters: Mapping[str, str]) -> bool:
    """Whether plaintext is refused: RDS's default since PostgreSQL 15 is that it is."""
    return _is_true(parameters.get(FORCE_SSL, "1"))


def _is_passed_on(name: str, value: str) -> bool:
    return name in HONOURED and "{" not in value


def _is_true(value: str) -> bool:
    return value.strip().lower() in TRUE_VALUES


def _libraries(parameters: Mapping[str, str]) -> list[str]:
    return [name.strip() for name in parameters.get(LIBRARIES, "").split(",") if name.strip()]
