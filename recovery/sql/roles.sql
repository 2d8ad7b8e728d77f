-- The functions' database roles: one for each job, none with a password. They sign in by IAM database authentication
-- (RDS user guide, "IAM database authentication for MariaDB, MySQL, and PostgreSQL": a member of rds_iam cannot sign in
-- by password). Run again, this puts back whatever was lost or changed; it is one transaction of the main user.
--
--   citizens_witness  writes and reads the heartbeat
--   citizens_probe    asks whether a member is in recovery, and nothing else
--   citizens_log      makes, reads and moves the slot of the transaction log (rds_replication), and asks where the
--                     sequences stand; no table
--   citizens_verify   writes and reads back the row that proves a recovery
--   citizens_roll_forward  applies the log to a promoted or restored database, so it must write everybody's tables
--                     without triggers and foreign keys: session_replication_role is rds_superuser's on RDS. It is a
--                     member of every role that owns tables and that the main user may give away. Itself the main user
--                     cannot: of its own tables the rights are granted, and DDL is run by a function of its
--   citizens_drill    reads the heartbeat, of the primary and of a drill's throw-away copy of it

DO $body$
DECLARE
    job text;
    groups text[];
    wrong record;
    owners text[] := ARRAY(
        SELECT DISTINCT owner.rolname::text
        FROM pg_catalog.pg_class AS class
        JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
        JOIN pg_catalog.pg_roles AS owner ON owner.oid = class.relowner
        WHERE space.nspname <> ALL (ARRAY['pg_catalog', 'information_schema', 'pg_toast', 'recovery'])
          AND class.relpersistence = 'p' AND owner.rolname <> current_user AND NOT owner.rolsuper
          AND pg_catalog.pg_has_role(owner.oid, 'MEMBER WITH ADMIN OPTION'));
BEGIN
    FOREACH job IN ARRAY ARRAY[
        'citizens_witness', 'citizens_probe', 'citizens_log', 'citizens_verify', 'citizens_roll_forward',
        'citizens_drill'] LOOP
        groups := CASE job
            WHEN 'citizens_log' THEN ARRAY['rds_iam', 'rds_replication']
            WHEN 'citizens_roll_forward' THEN ARRAY['rds_iam', 'rds_superuser'] || owners
            ELSE ARRAY['rds_iam'] END;
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = job) THEN
            EXECUTE format('CREATE ROLE %I', job);
        END IF;
        EXECUTE format('ALTER ROLE %I LOGIN INHERIT NOCREATEDB NOCREATEROLE CONNECTION LIMIT 20 PASSWORD NULL', job);
        FOR wrong IN
            SELECT held.rolname FROM pg_catalog.pg_auth_members AS given
            JOIN pg_catalog.pg_roles AS held ON held.oid = given.roleid
            JOIN pg_catalog.pg_roles AS holder ON holder.oid = given.member
            WHERE holder.rolname = job AND held.rolname <> ALL (groups)
        LOOP
            EXECUTE format('REVOKE %I FROM %I', wrong.rolname, job);
        END LOOP;
        EXECUTE format('GRANT %s TO %I', (SELECT string_agg(quote_ident(held), ', ') FROM unnest(groups) AS held), job);
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), job);
    END LOOP;
END
$body$;

CREATE SCHEMA IF NOT EXISTS recovery;

CREATE TABLE IF NOT EXISTS recovery.heartbeat (
    witness text PRIMARY KEY,
    epoch bigint NOT NULL,
    sequence bigint NOT NULL,
    at timestamptz NOT NULL,
    lsn pg_lsn NOT NULL
);

CREATE TABLE IF NOT EXISTS recovery.verification (
    epoch bigint PRIMARY KEY,
    member text NOT NULL,
    written_at timestamptz NOT NULL,
    runs bigint NOT NULL
);

-- Runs as the main user: who may not use a sequence does not see where it stands. One that the main user may not read,
-- or that is dropped meanwhile, is left out.
CREATE OR REPLACE FUNCTION recovery.sequence_positions(OUT name text, OUT last_value bigint, OUT is_called boolean)
RETURNS SETOF record LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    FOR name IN
        SELECT format('%I.%I', space.nspname, class.relname)
        FROM pg_sequence JOIN pg_class AS class ON class.oid = seqrelid
        JOIN pg_namespace AS space ON space.oid = class.relnamespace
        WHERE class.relpersistence = 'p' AND has_sequence_privilege(seqrelid, 'SELECT')
    LOOP
        BEGIN
            EXECUTE 'SELECT last_value, is_called FROM ' || name INTO last_value, is_called;
            RETURN NEXT;
        EXCEPTION WHEN undefined_table OR invalid_schema_name THEN
            NULL;
        END;
    END LOOP;
END
$body$;

REVOKE ALL ON SCHEMA recovery
    FROM PUBLIC, citizens_witness, citizens_probe, citizens_log, citizens_verify, citizens_roll_forward, citizens_drill;
REVOKE ALL ON ALL TABLES IN SCHEMA recovery
    FROM PUBLIC, citizens_witness, citizens_probe, citizens_log, citizens_verify, citizens_roll_forward, citizens_drill;

GRANT USAGE ON SCHEMA recovery TO citizens_witness, citizens_verify, citizens_drill;
GRANT SELECT ON recovery.heartbeat TO citizens_drill;
GRANT SELECT, INSERT, UPDATE ON recovery.heartbeat TO citizens_witness;
GRANT SELECT, INSERT, UPDATE ON recovery.verification TO citizens_verify;
GRANT USAGE ON SCHEMA recovery TO citizens_roll_forward;
GRANT SELECT, INSERT, UPDATE ON recovery.roll_forward TO citizens_roll_forward;
DO $body$
BEGIN
    -- It is made after this, with the publication; the next run grants it.
    IF to_regclass('recovery.ddl_key') IS NOT NULL THEN
        GRANT SELECT ON recovery.ddl_key TO citizens_roll_forward;
    END IF;
END
$body$;
GRANT USAGE ON SCHEMA recovery TO citizens_log;
REVOKE ALL ON FUNCTION recovery.sequence_positions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION recovery.sequence_positions() TO citizens_log;

-- DDL of the main user's, replayed by a role that cannot be it. Its caller's search_path is the statement's.
CREATE OR REPLACE FUNCTION recovery.run_ddl(statement text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $body$
BEGIN
    EXECUTE statement;
END
$body$;
REVOKE ALL ON FUNCTION recovery.run_ddl(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION recovery.run_ddl(text) TO citizens_roll_forward;

DO $body$
DECLARE
    lacking record;
BEGIN
    FOR lacking IN
        SELECT DISTINCT space.oid::regnamespace AS name
        FROM pg_class AS class JOIN pg_namespace AS space ON space.oid = class.relnamespace
        WHERE class.relkind IN ('r', 'p', 'S') AND class.relpersistence = 'p' AND class.relowner = quote_ident(current_user)::regrole
          AND space.nspname <> ALL (ARRAY['pg_catalog', 'information_schema', 'pg_toast', 'recovery'])
          AND NOT has_schema_privilege('citizens_roll_forward', space.oid, 'USAGE')
    LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA %s TO citizens_roll_forward', lacking.name);
    END LOOP;
    FOR lacking IN
        SELECT class.oid::regclass AS name, class.relkind = 'S' AS is_sequence
        FROM pg_class AS class JOIN pg_namespace AS space ON space.oid = class.relnamespace
        WHERE class.relkind IN ('r', 'p', 'S') AND class.relpersistence = 'p' AND class.relowner = quote_ident(current_user)::regrole
          AND space.nspname <> ALL (ARRAY['pg_catalog', 'information_schema', 'pg_toast', 'recovery'])
          AND CASE class.relkind
              WHEN 'S' THEN NOT has_sequence_privilege('citizens_roll_forward', class.oid, 'UPDATE')
              ELSE NOT has_table_privilege('citizens_roll_forward', class.oid, 'TRUNCATE') END
    LOOP
        IF lacking.is_sequence THEN
            EXECUTE format('GRANT SELECT, UPDATE ON SEQUENCE %s TO citizens_roll_forward', lacking.name);
        ELSE
            EXECUTE format(
                'GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON TABLE %s TO citizens_roll_forward', lacking.name);
        END IF;
    END LOOP;
    -- What it makes from now on, so that tables which the log makes may be written in the same roll forward
    IF NOT EXISTS (
        SELECT FROM pg_default_acl WHERE defaclrole = quote_ident(current_user)::regrole AND defaclnamespace = 0 AND defaclobjtype = 'S'
          AND defaclacl::text LIKE '%citizens_roll_forward=%'
    ) THEN
        ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON TABLES TO citizens_roll_forward;
        ALTER DEFAULT PRIVILEGES GRANT SELECT, UPDATE ON SEQUENCES TO citizens_roll_forward;
    END IF;
END
$body$;
