//! What people put on a destination table survives a new copy of it.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::case::{Case, Run, by, with};
use crate::support::judge;

const SOURCE: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, total numeric(12,2) NOT NULL, note text, at int);
    INSERT INTO orders SELECT n, n, 'note', n FROM generate_series(1, 10) n;
    CREATE TABLE customers (id int PRIMARY KEY, at int); INSERT INTO customers VALUES (1, 1);";

const PUT_ON: &str = r#"
    CREATE INDEX "by Note" ON orders (lower(note)) WHERE total > 1;
    CREATE UNIQUE INDEX by_at ON orders (at);
    ALTER TABLE orders ADD CONSTRAINT orders_pkey PRIMARY KEY (id);
    ALTER INDEX orders_pkey SET (fillfactor = 60);
    ALTER TABLE orders ADD CONSTRAINT positive CHECK (total > 0);
    ALTER TABLE orders ALTER COLUMN note SET DEFAULT 'none';
    CREATE SEQUENCE "order Numbers" START 100 OWNED BY orders.id;
    ALTER TABLE orders ALTER COLUMN id SET DEFAULT nextval('"order Numbers"');
    ALTER TABLE orders SET (fillfactor = 70);
    COMMENT ON TABLE orders IS 'it''s ours';
    COMMENT ON COLUMN orders.total IS 'in euros';
    COMMENT ON INDEX by_at IS 'an index';
    GRANT SELECT ON orders TO PUBLIC;
    GRANT INSERT, UPDATE ON orders TO pg_monitor WITH GRANT OPTION;
    GRANT UPDATE (note) ON orders TO pg_read_all_stats;
    CREATE STATISTICS "both" ON id, at FROM orders;
    CREATE TABLE lines (order_id int REFERENCES orders (id));
    INSERT INTO lines VALUES (1);
    CREATE FUNCTION noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER before_all BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION noop();
    ALTER TABLE orders DISABLE TRIGGER before_all;
    ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
    CREATE POLICY "see all" ON orders FOR SELECT TO PUBLIC USING (true);
    CREATE POLICY own ON orders AS RESTRICTIVE FOR UPDATE TO pg_monitor USING (id > 0) WITH CHECK (id < 100);
    COMMENT ON CONSTRAINT positive ON orders IS 'a constraint';
    COMMENT ON CONSTRAINT lines_order_id_fkey ON lines IS 'a constraint of another table';
    COMMENT ON TRIGGER before_all ON orders IS 'a trigger';
    COMMENT ON POLICY own ON orders IS 'a policy';
    COMMENT ON STATISTICS "both" IS 'statistics';
    ALTER TABLE orders ALTER note SET STATISTICS 500, ALTER note SET STORAGE EXTERNAL, ALTER id SET (n_distinct = 10);
    CREATE PUBLICATION changes FOR TABLE orders;
    CREATE VIEW big WITH (security_barrier = true) AS SELECT id, total FROM orders WHERE total > 5;
    GRANT SELECT ON big TO pg_monitor;
    COMMENT ON VIEW big IS 'big ones';
    COMMENT ON COLUMN big.id IS 'a number';
    CREATE SCHEMA reports;
    CREATE MATERIALIZED VIEW reports.sums AS SELECT count(*), sum(big.total) FROM big, orders;
    CREATE UNIQUE INDEX ON reports.sums (count);
    COMMENT ON INDEX reports.sums_count_idx IS 'an index of a view';
    ALTER MATERIALIZED VIEW reports.sums CLUSTER ON sums_count_idx;
    ALTER MATERIALIZED VIEW reports.sums ALTER count SET STATISTICS 300;
    CREATE STATISTICS reports.of_view ON count, sum FROM reports.sums;
    COMMENT ON STATISTICS reports.of_view IS 'statistics of a view';
    ALTER STATISTICS "both" SET STATISTICS 77;
    ALTER INDEX "by Note" ALTER COLUMN 1 SET STATISTICS 55;
    CREATE VIEW "Top" AS SELECT * FROM reports.sums;
    CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER on_top INSTEAD OF INSERT ON "Top" FOR EACH ROW EXECUTE FUNCTION instead();
    COMMENT ON TRIGGER on_top ON "Top" IS 'a trigger of a view';"#;

/// Everything the catalogs say about the tables, in a form that does not change when an object is
/// made again as it was.
const DESCRIBED: &str = "
    SELECT line FROM (
        SELECT format('%s %s owner=%s options=%s acl=%s rls=%s', c.relkind, c.oid::regclass,
            c.relowner::regrole, c.reloptions,
            (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(c.relacl) a), c.relrowsecurity)
        FROM pg_class c WHERE c.relnamespace::regnamespace::text NOT LIKE 'pg\\_%'
            AND c.relnamespace <> 'information_schema'::regnamespace AND c.relkind IN ('r', 'v', 'm')
        UNION ALL SELECT format('column acl %s.%s %s', attrelid::regclass, attname, attacl)
        FROM pg_attribute WHERE attacl IS NOT NULL
            AND attrelid::regclass::text !~ '^(pg_|information)'
        UNION ALL SELECT format('index %s %s', pg_get_indexdef(indexrelid), indisclustered) FROM pg_index i
        JOIN pg_class c ON c.oid = i.indrelid
        WHERE c.relnamespace::regnamespace::text NOT LIKE 'pg\\_%'
        AND i.indexrelid::regclass::text <> 'orders_replicated_key'
        UNION ALL SELECT format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
        FROM pg_constraint WHERE conrelid <> 0 AND contype <> 'n'
            AND connamespace::regnamespace::text !~ '^(pg_|information)'
        UNION ALL SELECT format('trigger %s %s', pg_get_triggerdef(oid), tgenabled) FROM pg_trigger
        WHERE NOT tgisinternal
        UNION ALL SELECT format('policy %s %s %s %s %s %s', tablename, policyname, permissive, roles, qual, with_check)
        FROM pg_policies
        UNION ALL SELECT format('sequence %s of %s.%s', s.oid::regclass, d.refobjid::regclass, a.attname)
        FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
        JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid WHERE d.deptype = 'a'
        UNION ALL SELECT format('statistics %s %s', pg_get_statisticsobjdef(oid), stxstattarget) FROM pg_statistic_ext
        UNION ALL SELECT format('publication %s %s', pubname, tablename) FROM pg_publication_tables
        UNION ALL SELECT format('default %s', pg_get_expr(adbin, adrelid)) FROM pg_attrdef d
        WHERE adrelid::regclass::text NOT LIKE '%information%' AND adrelid::regclass::text NOT LIKE '\\_%'
        UNION ALL SELECT format('comment %s %s %s', objoid::regclass, objsubid, description)
        FROM pg_description WHERE classoid = 'pg_class'::regclass AND objoid > 16384
        UNION ALL SELECT format('remark %s %s', classoid::regclass, description)
        FROM pg_description WHERE objoid > 16384 AND classoid <> 'pg_class'::regclass
        UNION ALL SELECT format('tuned %s %s %s %s', attname, nullif(attstattarget, -1), attstorage, attoptions)
        FROM pg_attribute WHERE attrelid::regclass::text IN ('orders', 'reports.sums', '\"by Note\"') AND attnum > 0
        UNION ALL SELECT format('view %s', definition) FROM pg_views WHERE schemaname NOT LIKE 'pg\\_%'
            AND schemaname <> 'information_schema'
    ) described (line) ORDER BY line COLLATE \"C\"";

#[test]
fn a_table_and_its_indexes_stay_where_people_have_put_them() {
    let mut case = Case::new(SOURCE, &json!([by("orders", "at")]));
    case.sync();
    let mut superuser = case.destination_superuser();
    if superuser.batch_execute("SET allow_in_place_tablespaces = true").is_err() {
        println!("not tried: PostgreSQL before 15 wants a folder of its own");
        return;
    }
    superuser.batch_execute("CREATE TABLESPACE big_disk LOCATION ''").expect("a tablespace");
    superuser.batch_execute("GRANT CREATE ON TABLESPACE big_disk TO writer").expect("a right");
    case.at_destination(
        "CREATE INDEX by_note ON orders (note) TABLESPACE big_disk; CREATE INDEX by_at ON orders (at);
         ALTER TABLE orders ADD CONSTRAINT one UNIQUE (id, at) USING INDEX TABLESPACE big_disk;
         ALTER TABLE orders SET TABLESPACE big_disk; ALTER INDEX orders_replicated_key SET TABLESPACE big_disk;
         ALTER TABLE orders SET (fillfactor = 10)",
    );
    let places = "SELECT c.relname || ' ' || s.spcname FROM pg_class c JOIN pg_tablespace s ON s.oid = c.reltablespace \
                  WHERE c.relname !~ '^pg_' AND s.spcname = 'big_disk' ORDER BY 1";
    let before = case.ask(places);
    assert_eq!(before.len(), 4, "{before:?}");
    let oid = case.ask("SELECT 'orders'::regclass::oid");
    case.at_source("INSERT INTO orders SELECT n, n, 'note', n FROM generate_series(11, 300) n");
    case.run(&["sync", "--full-refresh"]).expect(0);
    assert_ne!(case.ask("SELECT 'orders'::regclass::oid"), oid);
    assert_eq!(case.ask(places), before);
    // What the table was tuned for holds for the rows that are copied.
    let pages = "SELECT pg_relation_size('orders') / 8192 > 10";
    assert_eq!(case.ask(pages), ["t"]);
    case.at_destination("DROP TABLE orders, orders_stg");
    superuser.batch_execute("DROP TABLESPACE big_disk").expect("an end");
}

fn case_with_objects() -> Case {
    let mut case = Case::new(SOURCE, &json!([by("orders", "at"), by("customers", "at")]));
    case.sync();
    let mut superuser = case.destination_superuser();
    superuser
        .batch_execute(&format!("GRANT CREATE ON DATABASE {} TO writer", case.database))
        .expect("a right");
    case.at_destination(PUT_ON);
    case
}

#[test]
fn what_people_put_on_a_table_survives_a_new_copy() {
    let mut case = case_with_objects();
    // Ours is not needed beside the primary key that people made.
    let before = case.ask(DESCRIBED).join("\n");
    case.at_source("UPDATE orders SET total = total + 1, at = at + 100");
    case.run(&["sync", "--full-refresh"]).expect(0);
    let after = case.ask(DESCRIBED).join("\n");
    assert_eq!(before, after);
    case.at_destination("SET ROLE postgres");
    case.assert_equal("public.orders");
    assert_eq!(case.ask("SELECT sum FROM reports.sums"), ["510.00"]);
    case.at_destination("SET ROLE writer");
    case.at_source("UPDATE orders SET note = 'again', at = at + 100");
    case.sync();
    case.assert_nothing_left();
}

#[test]
fn a_view_on_a_column_that_is_gone_keeps_the_table_as_it_was() {
    let mut case = case_with_objects();
    case.at_destination("DROP INDEX \"by Note\"; ALTER TABLE orders DROP CONSTRAINT positive");
    let before = case.ask(DESCRIBED);
    case.at_source("ALTER TABLE orders DROP COLUMN total; UPDATE orders SET at = at + 100; UPDATE customers SET at = 7");
    let run = case.sync_fails(1);
    run.says("cannot keep view `public.big` with a new copy of `public.orders`")
        .says("`public.orders` is as it was; drop the view `public.big`");
    assert_eq!(case.ask(DESCRIBED), before);
    assert_eq!(case.ask("SELECT sum(at) FROM orders"), ["55"]);
    // The other table is not concerned.
    case.assert_equal("public.customers");
    case.assert_nothing_left();
}

#[test]
fn what_cannot_be_made_again_is_named_before_anything_happens() {
    let mut case = Case::new(SOURCE, &json!([by("orders", "at")]));
    case.sync();
    case.at_destination("CREATE RULE audit AS ON DELETE TO orders DO ALSO NOTHING");
    case.run(&["sync", "--full-refresh"])
        .expect(1)
        .says("a new copy of `public.orders` would lose the rule audit");
    case.at_destination("DROP RULE audit ON orders; CREATE VIEW seen AS SELECT id FROM orders");
    let on_it = [
        (
            "FUNCTION f(orders) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "function public.f(public.orders)",
        ),
        (
            "FUNCTION f(seen[]) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "function public.f(public.seen[])",
        ),
        ("TABLE kept (one orders)", "column one of table public.kept"),
        ("DOMAIN narrow AS orders[]", "type public.narrow"),
    ];
    for (object, named) in on_it {
        case.at_destination(&format!("CREATE {object}"));
        case.run(&["sync", "--full-refresh"])
            .expect(1)
            .says(&format!("a new copy of `public.orders` would lose the {named}"))
            .says("drop it, and make it again after the sync");
        case.run(&["check", "--json"]).says(&format!("would lose the {named}"));
        let gone: Vec<&str> = object.split(" RETURNS").next().expect("a name").split(' ').collect();
        case.at_destination(&format!("DROP {} {}", gone[0], gone[1]));
    }
    case.at_destination(
        "CREATE TABLE secret (id int); ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
         CREATE POLICY ours ON secret USING (EXISTS (SELECT 1 FROM seen WHERE seen.id = secret.id))",
    );
    case.run(&["sync", "--full-refresh"])
        .expect(1)
        .says("would lose the policy ours on table public.secret");
    case.at_destination("DROP TABLE secret");
    case.run(&["sync", "--full-refresh"]).expect(0);
    assert_eq!(case.ask("SELECT count(*) FROM orders"), ["10"]);
}

#[test]
fn a_new_column_and_a_new_type_leave_views_working() {
    let mut case = case_with_objects();
    case.at_source("ALTER TABLE orders ALTER COLUMN total TYPE numeric(20,4); ALTER TABLE orders ADD COLUMN more text DEFAULT 'm'");
    case.sync().says("orders: initial sync");
    case.at_destination("SET ROLE postgres");
    case.assert_equal("public.orders");
    assert_eq!(case.ask("SELECT max(total) FROM big"), ["10.0000"]);
}

#[test]
fn somebody_elses_relation_in_the_way_is_left_alone() {
    let mut case = Case::new(SOURCE, &json!([by("orders", "at"), by("customers", "at")]));
    case.at_destination(
        "CREATE VIEW orders AS SELECT 1 AS one;
         CREATE TABLE customers_stg (precious text); INSERT INTO customers_stg VALUES ('gold')",
    );
    let run = case.sync_fails(1);
    run.says("`public.orders` at the destination is a view").says(
        "`public.customers_stg` at the destination is needed as the staging table of \
         `public.customers`, but holds rows that this tool did not put there",
    );
    assert_eq!(case.ask("SELECT precious FROM customers_stg"), ["gold"]);
    assert_eq!(case.ask("SELECT one FROM orders"), ["1"]);
}

#[test]
fn a_column_that_the_destination_computes_is_no_part_of_a_copy() {
    let mut case = Case::new(SOURCE, &json!([by("orders", "at")]));
    case.sync();
    case.at_destination(
        "ALTER TABLE orders ADD COLUMN twice int GENERATED ALWAYS AS (id * 2) STORED",
    );
    case.sync_fails(1)
        .says("a new copy of `public.orders` would lose the generated column twice")
        .says("drop it, and let a view compute it");
}

#[test]
fn the_staging_table_of_another_pipeline_is_no_place_for_a_copy() {
    let case = Case::new(SOURCE, &json!([by("customers", "at")]));
    case.sync();
    case.write_tables(&json!([with(
        by("orders", "at"),
        &json!({"destination_name": "customers_stg"})
    )]));
    case.sync_fails(1).says("`public.customers_stg` at the destination is the staging table of");
    case.write_tables(&json!([by("customers", "at")]));
    case.sync().says("customers-incremental-0");
}

#[test]
fn our_own_index_is_kept_where_people_have_made_something_of_it() {
    let mut case = Case::new(SOURCE, &json!([by("orders", "at")]));
    case.sync();
    case.at_destination(
        "ALTER TABLE orders ADD CONSTRAINT orders_replicated_key PRIMARY KEY USING INDEX orders_replicated_key;
         CREATE TABLE lines (order_id int REFERENCES orders);
         ALTER TABLE orders REPLICA IDENTITY USING INDEX orders_replicated_key",
    );
    let described = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid IN ('orders'::regclass, 'lines'::regclass) AND contype IN ('p', 'f') \
                     UNION ALL SELECT relreplident::text FROM pg_class WHERE oid = 'orders'::regclass ORDER BY 1";
    let before = case.ask(described);
    case.run(&["sync", "--full-refresh"]).expect(0);
    assert_eq!(case.ask(described), before);
    case.at_source("UPDATE orders SET at = at + 100");
    case.sync().says("done: 10 rows");
    case.assert_equal("public.orders");
}

#[test]
fn a_reader_with_an_older_snapshot_finds_materialized_views_filled() {
    let mut case = Case::new(SOURCE, &json!([by("orders", "at")]));
    case.sync();
    case.at_destination("CREATE MATERIALIZED VIEW stored AS SELECT * FROM orders");
    let mut reader = case.destination_superuser();
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").expect("a snapshot");
    case.run(&["sync", "--full-refresh"]).expect(0);
    assert_eq!(judge::column(&mut reader, "SELECT count(*) FROM public.stored"), ["10"]);
}

#[test]
fn readers_do_not_wait_behind_a_swap_that_waits_for_another_reader() {
    let mut case = Case::new(SOURCE, &json!([by("orders", "at")]));
    case.sync();
    let mut long = case.destination_superuser();
    long.batch_execute("BEGIN; SELECT * FROM orders").expect("a reader");
    let child = case.start(&["sync", "--full-refresh"]);
    let mut short = case.destination_superuser();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        let asked = Instant::now();
        judge::column(&mut short, "SELECT count(*) FROM orders");
        assert!(asked.elapsed() < Duration::from_secs(2), "a reader waited {:?}", asked.elapsed());
    }
    long.batch_execute("COMMIT").expect("the end");
    Run::from(child.wait_with_output().expect("an end"))
        .expect(0)
        .says("waiting for others to have `public.orders` for the moment of its replacement");
    case.assert_nothing_left();
}

#[test]
fn a_view_of_another_role_is_said_to_be_its_own() {
    let mut case = Case::new(SOURCE, &json!([by("orders", "at")]));
    case.sync();
    case.at_destination(
        "SET ROLE postgres; CREATE VIEW theirs AS SELECT at FROM orders; SET ROLE writer",
    );
    case.at_source("ALTER TABLE orders ADD COLUMN more int DEFAULT 3");
    case.run(&["check"]).expect(0).says("the view `public.theirs` on");
    case.sync_fails(1).says("must be member of role").says("belongs to another role");
    case.at_destination("SET ROLE postgres; ALTER VIEW theirs OWNER TO writer; SET ROLE writer");
    case.run(&["check"]).expect(0);
    case.sync();
    case.assert_equal("public.orders");
}

#[test]
fn what_is_put_on_a_table_while_it_is_copied_survives() {
    let mut case = Case::new(SOURCE, &json!([by("orders", "at")]));
    case.sync();
    let mut reader = case.destination_superuser();
    reader.batch_execute("BEGIN; SELECT FROM orders").expect("a reader");
    let child = case.start(&["sync", "--full-refresh"]);
    let mut watcher = case.destination_superuser();
    let waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'orders'::regclass";
    while judge::column(&mut watcher, waits).is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // Nothing of this waits for the reader, nor for who waits for it.
    case.at_destination("GRANT SELECT ON orders TO pg_monitor");
    reader.batch_execute("COMMIT").expect("an end");
    Run::from(child.wait_with_output().expect("a run"))
        .expect(0)
        .says("somebody has put something on the old table meanwhile");
    let granted = "SELECT has_table_privilege('pg_monitor', 'orders', 'SELECT')";
    assert_eq!(case.ask(granted), ["t"]);
    case.assert_nothing_left();
}

#[test]
fn a_view_that_is_changed_while_its_table_is_copied_stays_as_it_was_changed() {
    let mut case = Case::new(SOURCE, &json!([by("orders", "at")]));
    case.sync();
    case.at_destination("CREATE VIEW mine AS SELECT id, 'old'::text AS said FROM orders");
    let mut reader = case.destination_superuser();
    reader.batch_execute("BEGIN; SELECT FROM orders").expect("a reader");
    let child = case.start(&["sync", "--full-refresh"]);
    let waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'orders'::regclass";
    judge::wait_for(&mut case.destination_superuser(), waits);
    case.at_destination(
        "CREATE OR REPLACE VIEW mine AS SELECT id, 'new'::text AS said FROM orders",
    );
    reader.batch_execute("COMMIT").expect("an end");
    Run::from(child.wait_with_output().expect("a run"))
        .expect(0)
        .says("somebody has put something on the old table meanwhile");
    assert_eq!(case.ask("SELECT DISTINCT said FROM mine"), ["new"]);
    case.assert_nothing_left();
}

#[test]
fn an_index_that_takes_different_keys_for_equal_is_no_place_to_merge_by() {
    let mut case = Case::new(
        "CREATE TABLE t (code text PRIMARY KEY, at int); INSERT INTO t VALUES ('A', 1), ('b', 2)",
        &json!([by("t", "at")]),
    );
    let collation = "CREATE COLLATION coarse (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
    case.at_destination(collation);
    case.sync();
    case.at_destination("CREATE UNIQUE INDEX mine ON t (code COLLATE coarse)");
    case.at_source("INSERT INTO t VALUES ('a', 3), ('c', 4)");
    case.sync_fails(1).says(
        "the unique index `mine` of `public.t` at the destination takes different values for equal",
    );
    case.at_destination("DROP INDEX mine");
    case.sync();
    case.assert_equal("public.t");
    case.at_destination(
        "DELETE FROM t WHERE code = 'a'; ALTER TABLE t ALTER code TYPE text COLLATE coarse",
    );
    case.sync().says("the destination's column `code` is text COLLATE coarse and must be text");
    case.assert_equal("public.t");
}

#[test]
fn views_of_whole_rows_are_made_again_like_others() {
    let mut case = Case::new(SOURCE, &json!([by("orders", "at")]));
    case.sync();
    case.at_destination(
        "CREATE VIEW whole AS SELECT orders AS row FROM orders;
         CREATE VIEW all_of_them AS SELECT array_agg(orders) AS rows FROM orders",
    );
    case.run(&["sync", "--full-refresh"]).expect(0);
    assert_eq!(case.ask("SELECT cardinality(rows) FROM all_of_them"), ["10"]);
    assert_eq!(case.ask("SELECT count((row).id) FROM whole"), ["10"]);
}

#[test]
fn two_tables_under_one_view_do_not_wait_for_each_other() {
    let rules = ["orders", "customers"].map(|name| json!({"name": name, "mode": "full-refresh"}));
    let mut case = Case::new(SOURCE, &json!(rules));
    case.sync();
    case.at_destination(
        "CREATE VIEW both_of_them AS SELECT o.id, c.at FROM orders o JOIN customers c USING (id)",
    );
    let mut reader = case.destination_superuser();
    reader.batch_execute("BEGIN; SELECT FROM both_of_them").expect("a reader");
    let mut child = case.start(&["sync", "--jobs", "2"]);
    // Both come to the point at which they wait for the reader.
    std::thread::sleep(Duration::from_secs(3));
    reader.batch_execute("COMMIT").expect("an end");
    let started = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if started.elapsed() > Duration::from_secs(90) {
            child.kill().expect("a child");
            panic!("the two wait for each other");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let run = Run::from(child.wait_with_output().expect("a run"));
    run.expect(0);
    assert!(!run.stdout.contains("trying again"), "no row is copied twice:\n{}", run.stdout);
    assert_eq!(case.ask("SELECT count(*) FROM both_of_them"), ["1"]);
    case.assert_nothing_left();
}

#[test]
fn a_table_that_was_renamed_keeps_its_index_and_the_new_copy_has_another() {
    let mut case = Case::new(SOURCE, &json!([by("orders", "at")]));
    case.sync();
    case.at_destination("ALTER TABLE orders RENAME TO orders_old");
    let ours = "SELECT count(*) FROM pg_index WHERE indrelid = 'orders'::regclass AND indisunique";
    let named = "SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'orders'::regclass";
    for _ in 0..3 {
        case.run(&["sync", "--full-refresh"]).expect(0).says(
            "could not name the unique index: there is a `public.orders_replicated_key` already",
        );
        case.at_source("UPDATE orders SET at = at + 100");
        case.sync().says("done: 10 rows");
        case.assert_equal("public.orders");
        assert_eq!(case.ask(ours), ["1"]);
    }
    // In place as well, and with its own name once that is free.
    let index = case.ask(named).concat();
    case.at_destination(&format!("DROP INDEX {index}"));
    case.at_source("UPDATE orders SET at = at + 100");
    case.sync().says("could not name the unique index");
    case.at_destination("DROP TABLE orders_old");
    case.run(&["sync", "--full-refresh"]).expect(0);
    assert_eq!(case.ask(named), ["orders_replicated_key"]);
    case.assert_equal("public.orders");
}

/// From PostgreSQL 18 on a NOT NULL is a constraint with a name, and that of a new copy is the source's.
#[test]
fn a_comment_on_a_not_null_keeps_no_new_copy_from_succeeding() {
    let mut case = Case::new(
        "CREATE TABLE t (id int PRIMARY KEY, note text, at int DEFAULT 1); INSERT INTO t VALUES (1, 'one')",
        &json!([by("t", "at")]),
    );
    case.sync();
    case.at_destination(
        "ALTER TABLE t ADD CHECK (id > 0); COMMENT ON CONSTRAINT t_id_check ON t IS 'why';
         DO $$ BEGIN IF current_setting('server_version_num')::int >= 180000 THEN
           EXECUTE 'ALTER TABLE t ADD CONSTRAINT noted NOT NULL note';
           EXECUTE 'COMMENT ON CONSTRAINT noted ON t IS $q$why not$q$';
         END IF; END $$",
    );
    case.run(&["sync", "--full-refresh"]).expect(0);
    case.assert_equal("public.t");
    let comments = "SELECT description FROM pg_description WHERE classoid = 'pg_constraint'::regclass AND description LIKE 'why%'";
    assert_eq!(case.ask(comments), ["why"]);
}
