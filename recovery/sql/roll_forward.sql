-- How far a roll forward has come; it commits with what it applies.
CREATE SCHEMA IF NOT EXISTS recovery;
CREATE TABLE IF NOT EXISTS recovery.roll_forward (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    from_epoch bigint NOT NULL,
    from_lsn pg_lsn NOT NULL,
    epoch bigint NOT NULL,
    lsn pg_lsn NOT NULL,
    committed_at timestamptz,
    transactions bigint NOT NULL,
    tables jsonb NOT NULL,
    ddl bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
