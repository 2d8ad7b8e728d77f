"""What was archived, rolled forward, gives the same tables: on real PostgreSQL, the target a copy made before."""

from __future__ import annotations

import pytest

from recovery.transaction_log.batches import Batches
from recovery.transaction_log.netting import Counts
from recovery.transaction_log.path import Log
from recovery.transaction_log.segment import CHANGES, Segment, read, read_header
from tests.unit.recovery.rehearsal import TO_THE_END, Rehearsal, changed


def test_inserts_updates_and_deletes_give_the_same_table(rehearsal: Rehearsal) -> None:
    account = changed(
        rehearsal,
        [
            "CREATE TABLE t (id int PRIMARY KEY, name text)",
            "INSERT INTO t SELECT n, 'a' FROM generate_series(1, 100) n",
        ],
        [
            "INSERT INTO t SELECT n, 'new' FROM generate_series(101, 150) n",
            "UPDATE t SET name = '市民' WHERE id % 3 = 0",
            "DELETE FROM t WHERE id % 5 = 0",
            "INSERT INTO t VALUES (5, NULL), (10, 'again')",
        ],
    )
    assert account.transactions == 4
    assert account.tables["public.t"] == Counts(inserted=52, updated=50, deleted=30)
    assert account.position <= account.end


TYPES = """
CREATE TYPE mood AS ENUM ('sad', '嬉しい', 'of "quotes"');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN age AS int CHECK (VALUE >= 0);
CREATE TABLE everything (
    id bigint PRIMARY KEY, c_bool bool, c_int2 int2, c_int4 int4, c_int8 int8, c_real real, c_double float8,
    c_numeric numeric, c_money money, c_char char(5), c_varchar varchar(40), c_text text, c_name name, c_bytea bytea,
    c_date date, c_time time, c_timetz timetz, c_timestamp timestamp, c_timestamptz timestamptz, c_interval interval,
    c_uuid uuid, c_json json, c_jsonb jsonb, c_xml text, c_inet inet, c_cidr cidr, c_macaddr macaddr,
    c_macaddr8 macaddr8, c_bit bit(5), c_varbit varbit, c_point point, c_line line, c_lseg lseg, c_box box, c_path path,
    c_polygon polygon, c_circle circle, c_tsvector tsvector, c_tsquery tsquery, c_lsn pg_lsn, c_oid oid,
    c_class regclass, c_int4range int4range, c_numrange numrange, c_tsrange tstzrange, c_multi int8multirange,
    c_ints int[], c_texts text[][], c_moods mood[], c_mood mood, c_pair pair, c_pairs pair[], c_age age,
    c_jsonpath jsonpath, c_snapshot pg_snapshot, c_quoted "char", c_vector int2vector, c_xid8 xid8)"""
VALUES = r"""INSERT INTO everything VALUES (
    %d, true, -32768, 2147483647, -9223372036854775808, 'NaN', 1.0e-300, 123456789012345678901234567890.123456789,
    '-1234.56', 'ab', E'tab\tand\nline\\and\r', E'\\N', '名前', '\x00ff5c0a', '0044-03-15 BC', '23:59:59.999999',
    '12:00+09', 'infinity', '2026-11-25 12:34:56.789012+09', '1 year -2 mons 3 days 04:05:06.7', gen_random_uuid(),
    '{"a" :  [1,2,null]}', '{"市民": "番号\t"}', '<a>ü</a>', '2001:db8::1/64', '10.0.0.0/8', '08:00:2b:01:02:03',
    '08:00:2b:01:02:03:04:05', '10101', '1', '(1.5,-2)', '{1,2,3}', '[(0,0),(1,1)]', '(1,1),(0,0)', '[(0,0),(1,1)]',
    '((0,0),(1,1),(2,0))', '<(0,0),5>', 'a:1A cat:3', 'a & !b', '16/B374D848', 4294967295, 'everything', '[1,10)',
    '(,5.5]', '[2026-01-01 00:00:00+09,infinity)', '{[1,3),[7,9)}', '{1,NULL,3}',
    E'{{"a,b","c\\"d"},{"","NULL"}}', '{sad,嬉しい}', 'of "quotes"', '(1,"x,\"y\"")', '{"(1,)","(,z)"}', 7,
    '$.a[*] ? (@ > 1)', '10:20:10,14,15', 'x', '1 2 3', '18446744073709551615')"""


def test_a_value_of_every_type_survives(rehearsal: Rehearsal) -> None:
    columns = "c_" + ", c_".join(part.split()[0] for part in TYPES.split(" c_")[1:])
    nulls = ", ".join(f"{column} = NULL" for column in columns.split(", "))
    changed(
        rehearsal,
        [TYPES, VALUES % 1, VALUES % 2],
        [
            "SET datestyle = 'SQL, DMY'; SET intervalstyle = sql_standard; SET timezone = 'Asia/Tokyo'; "
            "SET bytea_output = escape; SET extra_float_digits = 0; " + VALUES % 3,
            f"UPDATE everything SET {nulls} WHERE id = 1",
            "INSERT INTO everything (id) VALUES (4)",
            "UPDATE everything SET c_text = E'\\t', c_varchar = '', c_texts = '{}' WHERE id = 2",
            VALUES % 5,
            "DELETE FROM everything WHERE id = 5",
        ],
    )


def test_rows_without_a_key_are_told_apart_by_all_their_values(rehearsal: Rehearsal) -> None:
    changed(
        rehearsal,
        [
            "CREATE TABLE loose (n int, doc json, at point, name text)",
            """INSERT INTO loose SELECT n % 3, '{"a": 1}', '(1,2)', NULLIF(n % 2, 0)::text FROM generate_series(1, """
            """30) n""",
            "INSERT INTO loose VALUES (NULL, NULL, NULL, NULL), (NULL, NULL, NULL, NULL), (NULL, NULL, NULL, '')",
        ],
        [
            "DELETE FROM loose WHERE ctid IN (SELECT ctid FROM loose WHERE n = 1 LIMIT 3)",
            "UPDATE loose SET name = '二' WHERE ctid IN (SELECT ctid FROM loose WHERE n = 2 LIMIT 4)",
            "DELETE FROM loose WHERE ctid = (SELECT min(ctid) FROM loose WHERE n IS NULL)",
            "INSERT INTO loose VALUES (9, '[]', '(0,0)', E'a\\\\b'), (9, '[]', '(0,0)', E'a\\\\b')",
            "UPDATE loose SET n = 10 WHERE n = 9",
            "DELETE FROM loose WHERE ctid = (SELECT min(ctid) FROM loose WHERE n = 10)",
        ],
    )


def test_large_values_that_did_not_change_are_kept(rehearsal: Rehearsal) -> None:
    large = "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 3000))"
    changed(
        rehearsal,
        [
            "CREATE TABLE docs (id int PRIMARY KEY, a text, b text, n int); CREATE TABLE loose (a text, n int)",
            "ALTER TABLE docs ALTER a SET STORAGE EXTERNAL; ALTER TABLE docs ALTER b SET STORAGE EXTERNAL",
            f"INSERT INTO docs SELECT n, {large}, {large}, 0 FROM generate_series(1, 8) n",
            f"ALTER TABLE loose ALTER a SET STORAGE EXTERNAL; INSERT INTO loose VALUES ({large}, 1), ({large}, 2)",
        ],
        [
            "UPDATE docs SET n = 1 WHERE id = 1",
            "UPDATE docs SET n = 2, a = 'short' WHERE id IN (1, 2)",
            f"UPDATE docs SET n = 3, b = {large} WHERE id = 3; ",
            "UPDATE docs SET n = 4 WHERE id = 3",
            "UPDATE docs SET id = 44, n = 5 WHERE id = 4",
            "UPDATE docs SET id = 45 WHERE id = 44",
            "UPDATE docs SET n = 6 WHERE id = 45",
            f"INSERT INTO docs VALUES (9, {large}, 'u', 7)",
            "UPDATE docs SET n = 8 WHERE id = 9; UPDATE docs SET id = 10 WHERE id = 9",
            "UPDATE loose SET n = 3 WHERE n = 1; UPDATE loose SET n = 4",
            "DELETE FROM docs WHERE id = 45",
        ],
    )


def test_keys_and_unique_values_may_swap(rehearsal: Rehearsal) -> None:
    changed(
        rehearsal,
        [
            "CREATE TABLE swaps (id int PRIMARY KEY, code text UNIQUE, room int, EXCLUDE USING btree (room WITH =))",
            "INSERT INTO swaps SELECT n, n::text, n FROM generate_series(1, 6) n",
            "CREATE TABLE pairs (a int, b text, v int, PRIMARY KEY (b, a)); "
            "INSERT INTO pairs VALUES (1,'x',0),(2,'x',0)",
        ],
        [
            "UPDATE swaps SET id = 0 WHERE id = 1; UPDATE swaps SET id = 1 WHERE id = 2; "
            "UPDATE swaps SET id = 2 WHERE id = 0",
            "UPDATE swaps SET code = '-' WHERE code = '3'; UPDATE swaps SET code = '3' WHERE code = '4'; "
            "UPDATE swaps SET code = '4' WHERE code = '-'",
            "UPDATE swaps SET room = NULL WHERE room = 5; UPDATE swaps SET room = 5 WHERE room = 6",
            "DELETE FROM swaps WHERE id = 5; INSERT INTO swaps VALUES (5, '5', 6)",
            "UPDATE pairs SET a = 3 WHERE a = 1; UPDATE pairs SET a = 1 WHERE a = 2; "
            "UPDATE pairs SET v = 9 WHERE a = 3",
        ],
    )


def test_foreign_keys_and_triggers_are_not_run_again(rehearsal: Rehearsal) -> None:
    changed(
        rehearsal,
        [
            "CREATE TABLE parent (id int PRIMARY KEY); "
            "CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent "
            "ON DELETE CASCADE ON UPDATE CASCADE); "
            "CREATE TABLE audit (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text)",
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit (what) VALUES "
            "(TG_OP); "
            "RETURN NULL; END $$; "
            "CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON child FOR EACH ROW EXECUTE FUNCTION note()",
            "INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1, 1), (2, 2), (3, 2)",
        ],
        [
            "DELETE FROM parent WHERE id = 1",
            "UPDATE parent SET id = 20 WHERE id = 2",
            "INSERT INTO parent VALUES (5); INSERT INTO child VALUES (6, 5)",
            "UPDATE audit SET id = DEFAULT WHERE what = 'DELETE'",
        ],
    )


def test_generated_and_identity_columns_get_the_values_they_had(rehearsal: Rehearsal) -> None:
    account = changed(
        rehearsal,
        [
            "CREATE TABLE made (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int, "
            "twice int GENERATED ALWAYS AS (n * 2) STORED)",
            "CREATE TABLE numbered (n int PRIMARY KEY, serial int GENERATED ALWAYS AS IDENTITY, other int)",
            "INSERT INTO made (n) VALUES (1), (2); INSERT INTO numbered (n) VALUES (1), (2)",
        ],
        [
            "INSERT INTO made (n) VALUES (3)",
            "UPDATE made SET n = 7 WHERE n = 1",
            "UPDATE numbered SET serial = DEFAULT, other = 4 WHERE n = 2; INSERT INTO numbered (n) VALUES (3)",
        ],
    )
    assert account.tables["public.made"] == Counts(inserted=1, updated=1)


def test_partitions_and_inheritance(rehearsal: Rehearsal) -> None:
    changed(
        rehearsal,
        [
            "CREATE TABLE whole (id int, at int, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
            "CREATE TABLE low PARTITION OF whole FOR VALUES FROM (0) TO (10); "
            "CREATE TABLE high PARTITION OF whole DEFAULT",
            "CREATE TABLE base (n int PRIMARY KEY); CREATE TABLE derived (m int, PRIMARY KEY (n)) INHERITS (base)",
            "INSERT INTO whole SELECT n, n, 'a' FROM generate_series(1, 20) n; INSERT INTO base VALUES (1), (2)",
            "INSERT INTO derived VALUES (1, 1), (3, 3)",
        ],
        [
            "UPDATE whole SET at = at + 10, v = 'moved' WHERE id < 4",
            "UPDATE base SET n = n + 10; DELETE FROM base WHERE n = 11",
            "TRUNCATE ONLY base",
            "INSERT INTO base VALUES (7)",
        ],
    )


def test_changes_published_by_the_partitioned_table(rehearsal: Rehearsal) -> None:
    rehearsal.primary.run("ALTER PUBLICATION citizens_log SET (publish_via_partition_root = true)", 5)
    changed(
        rehearsal,
        [
            "CREATE TABLE whole (id int PRIMARY KEY, v text) PARTITION BY HASH (id)",
            "CREATE TABLE one PARTITION OF whole FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
            "CREATE TABLE two PARTITION OF whole FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
            "CREATE TABLE heap (n int, v text) PARTITION BY LIST (n); CREATE TABLE heap1 PARTITION OF heap DEFAULT",
            "INSERT INTO whole SELECT n, 'a' FROM generate_series(1, 20) n; INSERT INTO heap VALUES (1, 'a'), (1, 'a')",
        ],
        [
            "UPDATE whole SET v = 'b' WHERE id < 9; DELETE FROM whole WHERE id = 3; "
            "UPDATE whole SET id = 100 WHERE id = 4",
            "DELETE FROM heap WHERE ctid = (SELECT min(ctid) FROM heap)",
            "TRUNCATE whole; INSERT INTO whole VALUES (1, 'c')",
        ],
    )


def test_emptied_tables_are_emptied(rehearsal: Rehearsal) -> None:
    account = changed(
        rehearsal,
        [
            "CREATE TABLE parent (id int PRIMARY KEY); "
            "CREATE TABLE child (id serial PRIMARY KEY, parent int REFERENCES parent)",
            "CREATE TABLE heap (n int)",
            "INSERT INTO parent VALUES (1), (2); INSERT INTO child (parent) VALUES (1), (2); "
            "INSERT INTO heap VALUES (1), (1)",
        ],
        [
            "INSERT INTO parent VALUES (3)",
            "TRUNCATE parent CASCADE",
            "INSERT INTO parent VALUES (1), (4); INSERT INTO child (parent) VALUES (4)",
            "UPDATE parent SET id = 5 WHERE id = 1",
            "DELETE FROM heap; INSERT INTO heap VALUES (5)",
            "TRUNCATE child RESTART IDENTITY",
            "TRUNCATE heap; INSERT INTO heap VALUES (2), (2)",
            "UPDATE heap SET n = 3",
        ],
    )
    assert account.tables["public.parent"].truncated == 1


def test_names_that_need_quoting(rehearsal: Rehearsal) -> None:
    changed(
        rehearsal,
        [
            'CREATE SCHEMA "スキーマ:a"; '
            'CREATE TABLE "スキーマ:a"."Of ""quotes"" :x" ("id;" int PRIMARY KEY, "値 %s" text, "order" int)',
            'CREATE TABLE "select" ("from" text, ":p" int)',
            """INSERT INTO "スキーマ:a"."Of ""quotes"" :x" VALUES (1, 'a', 1), (2, 'b', 2); """
            """INSERT INTO "select" VALUES (':q', 1)""",
        ],
        [
            """UPDATE "スキーマ:a"."Of ""quotes"" :x" SET "値 %s" = '漢字' WHERE "id;" = 1""",
            """UPDATE "スキーマ:a"."Of ""quotes"" :x" SET "id;" = 3 WHERE "id;" = 2""",
            """UPDATE "select" SET ":p" = 2; INSERT INTO "select" VALUES ('$1', 3)""",
        ],
    )


def test_a_transaction_larger_than_a_batch_comes_in_parts_and_commits_once(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Batches.__init__, "__defaults__", (100, 20_000))
    changed(
        rehearsal,
        [
            "CREATE TABLE t (id int PRIMARY KEY, name text UNIQUE)",
            "INSERT INTO t SELECT n, n FROM generate_series(1, 50) n",
        ],
        [
            "INSERT INTO t SELECT n, n FROM generate_series(51, 3000) n",
            "UPDATE t SET name = name || '-' WHERE id % 2 = 0",
            "BEGIN; DELETE FROM t WHERE id < 1000; UPDATE t SET id = id - 900 WHERE id < 1500; COMMIT",
        ],
    )


def test_the_same_row_many_times_is_written_once(rehearsal: Rehearsal) -> None:
    rehearsal.primary.run("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 0)", 5)
    rehearsal.begin()
    for n in range(40):
        rehearsal.primary.run(f"UPDATE t SET n = {n}; INSERT INTO t VALUES ({n + 2}, 0); DELETE FROM t WHERE id > 1", 5)
    rehearsal.keep()
    ((segment_path),) = [p for p in Log(rehearsal.root).segments(1) if read_header(p).kind == "changes"]
    (batch,) = Batches([(read(segment_path), -1, None)], TO_THE_END)
    (net,) = batch.nets
    assert (net.changed.blocks, net.inserted.count, net.gone.count, net.partial.rows.count) == ((b"1\t39\n",), 0, 0, 0)
    assert rehearsal.forward().tables["public.t"] == Counts(40, 40, 40)
    rehearsal.same()


@pytest.mark.parametrize("key", ["PRIMARY KEY", ""])
def test_loads_and_changes_to_what_they_loaded_come_in_their_order(rehearsal: Rehearsal, key: str) -> None:
    """All of it in one batch: hundreds of inserts in a row are taken as one, between other changes to the table."""
    account = changed(
        rehearsal,
        [
            f"CREATE TABLE loads (id int {key}, v text, w text)",
            "INSERT INTO loads SELECT n FROM generate_series(1, 9) n",
        ],
        [
            "INSERT INTO loads SELECT n, 'kept', '' FROM generate_series(11, 900) n",
            "TRUNCATE loads",
            "INSERT INTO loads SELECT n, 'a' || n, NULL FROM generate_series(1, 1500) n",
            "UPDATE loads SET v = 'b' || n FROM generate_series(1, 1500) n WHERE id = n AND n % 7 = 0",
            "DELETE FROM loads WHERE id % 5 = 0",
            "INSERT INTO loads SELECT n, E'a\\t\\\\' || n, 'n' FROM generate_series(1, 1500) n WHERE n % 5 = 0",
            "INSERT INTO loads SELECT n, 'late', 'x' FROM generate_series(2000, 3500) n",
            "DELETE FROM loads WHERE id BETWEEN 10 AND 30; UPDATE loads SET w = 'last' WHERE id % 11 = 0",
        ],
    )
    assert account.tables["public.loads"].inserted == 890 + 1500 + 300 + 1501
    (batch,) = (batch for batch in Batches(_parts(rehearsal), TO_THE_END) if batch.transactions)
    assert len(batch.nets) > 2
    assert batch.nets[0].inserted.count
    assert not batch.nets[0].changes_rows


def test_a_load_before_a_change_of_its_table_is_of_the_table_as_it_was(rehearsal: Rehearsal) -> None:
    changed(
        rehearsal,
        ["CREATE TABLE widens (id int PRIMARY KEY, v text)"],
        [
            "BEGIN; INSERT INTO widens SELECT n, 'a' FROM generate_series(1, 700) n; ALTER TABLE widens ADD w int; "
            "INSERT INTO widens SELECT n, 'b', n FROM generate_series(701, 1400) n; "
            "ALTER TABLE widens DROP v; ALTER TABLE widens ADD v text; "
            "INSERT INTO widens SELECT n, n, 'c' FROM generate_series(1401, 2100) n; COMMIT"
        ],
    )


def _parts(rehearsal: Rehearsal) -> list[tuple[Segment, int, int | None]]:
    assert rehearsal.start is not None
    return [
        (found, rehearsal.start.lsn, None)
        for found in map(read, Log(rehearsal.root).segments(1))
        if found.header.kind == CHANGES
    ]
