-- Every DDL becomes a transactional logical message in the log (recovery/transaction_log/ddl.py says what it holds).
--
-- A user can emit a message of any prefix, and roll forward runs what it finds: so each is sealed with a key that only
-- the main user may read. The function that seals runs as the main user and notes nothing of its caller; a function
-- that runs just before it does, as the caller.

CREATE SCHEMA IF NOT EXISTS recovery;

CREATE TABLE IF NOT EXISTS recovery.ddl_key (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    key bytea NOT NULL
);
REVOKE ALL ON recovery.ddl_key FROM PUBLIC;
INSERT INTO recovery.ddl_key (key)
SELECT sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8'))
ON CONFLICT DO NOTHING;

-- No search_path of its own, so every name is written in full.
CREATE OR REPLACE FUNCTION recovery.note_ddl_caller() RETURNS event_trigger LANGUAGE plpgsql AS $body$
BEGIN
    PERFORM pg_catalog.set_config('recovery.ddl_role', current_user::pg_catalog.text, true);
    PERFORM pg_catalog.set_config('recovery.ddl_search_path', pg_catalog.current_setting('search_path'), true);
END
$body$;

CREATE OR REPLACE FUNCTION recovery.note_ddl_extension() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM set_config('recovery.ddl_within', tg_tag, true);
END
$body$;

CREATE OR REPLACE FUNCTION recovery.note_ddl_rewritten() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM set_config('recovery.ddl_rewritten', (
        coalesce(nullif(current_setting('recovery.ddl_rewritten', true), ''), '{}')::jsonb
        || (SELECT jsonb_build_object(format('%I.%I', space.nspname, class.relname),
                                      pg_event_trigger_table_rewrite_reason())
            FROM pg_class AS class JOIN pg_namespace AS space ON space.oid = class.relnamespace
            WHERE class.oid = pg_event_trigger_table_rewrite_oid()))::text, true);
END
$body$;

CREATE OR REPLACE FUNCTION recovery.note_ddl_dropped() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM set_config('recovery.ddl_dropped', (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
            'type', object_type, 'identity', object_identity,
            'own', is_temporary OR coalesce(schema_name, object_identity) IN ('recovery', 'pg_temp'))), '[]')
        FROM pg_event_trigger_dropped_objects() WHERE original)::text, true);
END
$body$;

-- Runs as its caller, so nobody else can read the key by it.
--
-- PostgreSQL files a message under the position where it ends, and a row under that where it begins. A row right behind
-- a message of a subtransaction has the same, and either may be decoded first. A record in between keeps them apart.
CREATE OR REPLACE FUNCTION recovery.emit_ddl(content jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    message bytea := convert_to(content::text, 'UTF8');
    secret bytea := coalesce((SELECT key FROM recovery.ddl_key), '');
BEGIN
    PERFORM pg_logical_emit_message(true, 'citizens.ddl', convert_to(
        encode(sha256(secret || sha256(secret || message)), 'hex'), 'UTF8') || message);
    PERFORM pg_logical_emit_message(false, 'citizens.ddl', '');
END
$body$;

CREATE OR REPLACE FUNCTION recovery.keep_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    content jsonb;
    said text := current_query();
    nested text;
    query text := extract(epoch FROM statement_timestamp())::text || '/' || pg_backend_pid();
    seen jsonb;
    counted text;
    objects jsonb;
    dropped jsonb;
    rewritten jsonb;
    missing jsonb;
    made jsonb;
    relations oid[];
    scripted boolean;
    own boolean;
BEGIN
    GET DIAGNOSTICS nested = PG_CONTEXT;
    nested := substr(nested, strpos(nested || E'\n', E'\n') + 1);
    dropped := coalesce(nullif(current_setting('recovery.ddl_dropped', true), ''), '[]');
    rewritten := nullif(current_setting('recovery.ddl_rewritten', true), '');
    PERFORM set_config('recovery.ddl_dropped', '', true), set_config('recovery.ddl_rewritten', '', true);
    SELECT coalesce(jsonb_agg(jsonb_build_object('type', object_type, 'identity', object_identity)), '[]'),
           bool_and(in_extension),
           array_agg(objid) FILTER (WHERE classid = 'pg_class'::regclass AND objsubid = 0),
           coalesce(bool_and(coalesce(schema_name IN ('recovery', 'pg_temp'),
                                      object_type = 'schema' AND object_identity = 'recovery', false)), true)
    INTO objects, scripted, relations, own
    FROM pg_event_trigger_ddl_commands();
    IF tg_tag IN ('CREATE EXTENSION', 'ALTER EXTENSION') THEN
        PERFORM set_config('recovery.ddl_within', '', true);
    ELSIF coalesce(scripted, current_setting('recovery.ddl_within', true) <> '') THEN
        RETURN;
    END IF;

    -- Which of several statements in one string this is: the so-manieth with this tag.
    seen := coalesce(nullif(current_setting('recovery.ddl_seen', true), ''), '{}');
    IF seen ->> 'query' IS DISTINCT FROM query THEN
        seen := jsonb_build_object('query', query, 'counts', '{}'::jsonb);
    END IF;
    counted := tg_tag || ' ' || hashtextextended(coalesce(nullif(nested, ''), said, ''), 0);
    seen := jsonb_set(seen, ARRAY['counts', counted], to_jsonb(coalesce((seen #>> ARRAY['counts', counted])::int, 0) + 1));
    own := (own AND NOT jsonb_path_exists(dropped, '$[*] ? (@.own == false)')
            AND jsonb_array_length(objects) + jsonb_array_length(dropped) > 0)
        OR tg_tag = 'REINDEX'
        OR (tg_tag IN ('CREATE TABLE AS', 'SELECT INTO') AND relations IS NULL)
        OR (coalesce(current_setting('recovery.own_ddl', true), '') = 'on'
            AND current_setting('recovery.ddl_role') = current_user);
    IF NOT own AND nested = '' AND seen ->> 'told' IS DISTINCT FROM pg_current_xact_id()::text THEN
        seen := jsonb_set(seen, '{told}', to_jsonb(pg_current_xact_id()::text));
    ELSE
        said := NULL;
    END IF;
    PERFORM set_config('recovery.ddl_seen', seen::text, false);
    IF own THEN
        RETURN;
    END IF;

    IF tg_tag = 'ALTER TABLE' THEN
        WITH RECURSIVE touched (relation) AS (
            SELECT unnest(relations)
            UNION SELECT inhrelid FROM pg_inherits JOIN touched ON inhparent = relation
        )
        SELECT jsonb_agg(jsonb_build_array(format('%I.%I', space.nspname, class.relname), attname,
                                           (attmissingval::text::text[])[1]))
        INTO missing
        FROM touched JOIN pg_class AS class ON class.oid = relation
        JOIN pg_namespace AS space ON space.oid = class.relnamespace
        JOIN pg_attribute ON attrelid = relation AND atthasmissing AND NOT attisdropped;
    ELSIF tg_tag IN ('CREATE TABLE AS', 'SELECT INTO') THEN
        SELECT jsonb_build_object(
            'name', format('%I.%I', space.nspname, class.relname),
            'unlogged', class.relpersistence = 'u',
            'options', class.reloptions,
            'method', (SELECT amname FROM pg_am WHERE oid = class.relam),
            'columns', (
                SELECT coalesce(jsonb_agg(jsonb_build_array(attname, format_type(atttypid, atttypmod), (
                    SELECT format('%I.%I', of_collation.nspname, collname)
                    FROM pg_collation JOIN pg_namespace AS of_collation ON of_collation.oid = collnamespace
                    JOIN pg_type ON pg_type.oid = atttypid
                    WHERE pg_collation.oid = attcollation AND attcollation <> typcollation)) ORDER BY attnum), '[]')
                FROM pg_attribute WHERE attrelid = class.oid AND attnum > 0 AND NOT attisdropped))
        INTO made
        FROM pg_class AS class JOIN pg_namespace AS space ON space.oid = class.relnamespace
        WHERE class.oid = relations[1];
    END IF;
    content := jsonb_strip_nulls(jsonb_build_object(
        'tag', tg_tag, 'query', query, 'text', said, 'context', nullif(nested, ''),
        'number', seen #> ARRAY['counts', counted],
        'objects', objects, 'dropped', dropped, 'rewritten', rewritten, 'missing', missing, 'table', made,
        'role', current_setting('recovery.ddl_role'),
        'settings', jsonb_build_object(
            'search_path', current_setting('recovery.ddl_search_path'),
            'TimeZone', current_setting('TimeZone'),
            'DateStyle', current_setting('DateStyle'),
            'IntervalStyle', current_setting('IntervalStyle'),
            'standard_conforming_strings', current_setting('standard_conforming_strings'),
            'default_table_access_method', current_setting('default_table_access_method'),
            'default_toast_compression', current_setting('default_toast_compression'))));
    PERFORM recovery.emit_ddl(content);
EXCEPTION WHEN OTHERS THEN
    -- DDL is never refused because it cannot be kept; roll forward stops here with this reason.
    RAISE WARNING 'this % is not in the transaction log: %', tg_tag, sqlerrm;
    PERFORM recovery.emit_ddl(jsonb_build_object('tag', tg_tag, 'failed', sqlerrm));
END
$body$;

-- They fire for DDL of a roll forward too (a session with session_replication_role = replica): the log of the new
-- epoch, which is open by then, must hold it. By their names, the caller is noted before it is kept.
DROP EVENT TRIGGER IF EXISTS recovery_ddl_1_caller;
DROP EVENT TRIGGER IF EXISTS recovery_ddl_2_keep;
DROP EVENT TRIGGER IF EXISTS recovery_ddl_dropped;
DROP EVENT TRIGGER IF EXISTS recovery_ddl_rewritten;
DROP EVENT TRIGGER IF EXISTS recovery_ddl_extension;
CREATE EVENT TRIGGER recovery_ddl_extension ON ddl_command_start
    WHEN TAG IN ('CREATE EXTENSION', 'ALTER EXTENSION') EXECUTE FUNCTION recovery.note_ddl_extension();
CREATE EVENT TRIGGER recovery_ddl_rewritten ON table_rewrite EXECUTE FUNCTION recovery.note_ddl_rewritten();
CREATE EVENT TRIGGER recovery_ddl_dropped ON sql_drop EXECUTE FUNCTION recovery.note_ddl_dropped();
CREATE EVENT TRIGGER recovery_ddl_1_caller ON ddl_command_end EXECUTE FUNCTION recovery.note_ddl_caller();
CREATE EVENT TRIGGER recovery_ddl_2_keep ON ddl_command_end EXECUTE FUNCTION recovery.keep_ddl();
ALTER EVENT TRIGGER recovery_ddl_extension ENABLE ALWAYS;
ALTER EVENT TRIGGER recovery_ddl_rewritten ENABLE ALWAYS;
ALTER EVENT TRIGGER recovery_ddl_dropped ENABLE ALWAYS;
ALTER EVENT TRIGGER recovery_ddl_1_caller ENABLE ALWAYS;
ALTER EVENT TRIGGER recovery_ddl_2_keep ENABLE ALWAYS;
