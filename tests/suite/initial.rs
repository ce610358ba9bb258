//! The first copy of a table, and every later one that starts from nothing.

use serde_json::json;

use crate::support::case::{Case, by, with};
use crate::support::judge;

const ORDERS: &str = "
    CREATE TABLE orders (
        id int PRIMARY KEY,
        note text,
        updated_at timestamptz NOT NULL DEFAULT now());
    INSERT INTO orders SELECT n, 'note ' || n FROM generate_series(1, 100) n;";

#[test]
fn a_table_is_copied_and_then_kept_in_step() {
    let mut case = Case::new(ORDERS, &json!([by("orders", "updated_at")]));
    case.sync().says("initial sync: there is no such table at the destination");
    case.assert_equal("public.orders");
    case.at_source(
        "UPDATE orders SET note = 'changed', updated_at = clock_timestamp() WHERE id <= 10;
         INSERT INTO orders VALUES (101, NULL, clock_timestamp())",
    );
    case.sync().says("incremental sync done: 11 rows");
    case.assert_equal("public.orders");
    case.assert_nothing_left();
}

#[test]
fn copy_serves_as_well_as_pg_dump_and_says_nothing_about_it_when_it_was_asked_for() {
    let mut case = Case::new(
        ORDERS,
        &json!([{"name": "orders", "replication_key": "updated_at", "initial": "copy"}]),
    );
    let run = case.sync();
    assert!(!run.stdout.contains("pg_dump"), "{}", run.stdout);
    case.assert_equal("public.orders");
}

#[test]
fn copy_steps_in_where_pg_dump_cannot_serve_and_says_why() {
    let mut case = Case::new(
        "CREATE TABLE parted (id int, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (id);
         CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
         CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20);
         INSERT INTO parted SELECT n, n FROM generate_series(0, 19) n;
         CREATE TABLE generated (id int PRIMARY KEY, at int, twice int GENERATED ALWAYS AS (id * 2) STORED);
         INSERT INTO generated VALUES (1, 1), (2, 2);
         CREATE TABLE parent (id int PRIMARY KEY, at int);
         CREATE TABLE child (more text) INHERITS (parent);
         INSERT INTO parent VALUES (1, 1); INSERT INTO child VALUES (2, 2, 'more');
         CREATE TABLE secured (id int PRIMARY KEY, at int);
         INSERT INTO secured VALUES (1, 1), (2, 2);
         ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
         CREATE POLICY all_rows ON secured USING (true);
         CREATE VIEW seen AS SELECT * FROM parted;
         CREATE MATERIALIZED VIEW stored AS SELECT * FROM parted;",
        &json!([
            by("parted", "at"), by("generated", "at"), by("parent", "at"), by("secured", "at"),
            {"name": "seen", "replication_key": "at", "unique_cols": ["id"]},
            {"name": "stored", "replication_key": "at", "unique_cols": ["id"]},
        ]),
    );
    let run = case.sync();
    for (table, reason) in [
        ("parted", "it is a partitioned table"),
        ("generated", "it has generated columns"),
        ("parent", "other tables inherit from it"),
        ("secured", "row-level security applies to us"),
        ("seen", "it is a view"),
        ("stored", "it is a materialized view"),
    ] {
        run.says(&format!("{table}: COPY reads it instead of pg_dump: {reason}"));
        case.assert_equal(&format!("public.{table}"));
    }
    case.at_source(
        "INSERT INTO parted VALUES (15, 30); DELETE FROM parted WHERE (id, at) = (15, 15); REFRESH MATERIALIZED VIEW stored;
                    UPDATE child SET at = 9; INSERT INTO generated VALUES (3, 3)",
    );
    case.sync();
    for table in ["generated", "parent", "seen", "stored"] {
        case.assert_equal(&format!("public.{table}"));
    }
    case.assert_nothing_left();
}

#[test]
fn rows_of_a_child_may_hold_null_where_their_parent_refuses_it() {
    let mut case = Case::new(
        "CREATE TABLE parent (id int PRIMARY KEY, note text, more text NOT NULL, at int);
         CREATE TABLE child () INHERITS (parent); CREATE TABLE grandchild () INHERITS (child);
         DO $$ BEGIN IF current_setting('server_version_num')::int >= 180000
           THEN EXECUTE 'ALTER TABLE parent ADD NOT NULL note NO INHERIT';
           ELSE ALTER TABLE ONLY parent ALTER note SET NOT NULL; ALTER TABLE child ALTER note SET NOT NULL;
             ALTER TABLE grandchild ALTER note DROP NOT NULL;
         END IF; END $$;
         INSERT INTO parent VALUES (1, 'a', 'b', 1); INSERT INTO grandchild VALUES (2, NULL, 'b', 2)",
        &json!([by("parent", "at")]),
    );
    case.sync();
    case.assert_equal("public.parent");
    case.at_source("INSERT INTO grandchild VALUES (3, NULL, 'b', 3)");
    case.sync().says("incremental sync done: 1 row ");
    case.assert_equal("public.parent");
    let refused = "SELECT attname FROM pg_attribute WHERE attrelid = 'parent'::regclass AND attnotnull \
                   AND attnum > 0 ORDER BY attnum";
    assert_eq!(case.ask(refused), ["id", "more"]);
}

#[test]
fn a_machine_without_pg_dump_can_sync() {
    let mut case = Case::new(ORDERS, &json!([by("orders", "updated_at")]));
    case.set("PATH", "/nowhere");
    case.sync().says("COPY reads it instead of pg_dump: pg_dump cannot be run");
    case.assert_equal("public.orders");
}

#[test]
fn serial_and_identity_columns_need_no_right_on_their_sequences() {
    let mut case = Case::new(
        "CREATE TABLE a (id serial PRIMARY KEY, at int); INSERT INTO a (at) VALUES (1), (2);
         CREATE TABLE b (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at int);
         INSERT INTO b (at) VALUES (1), (2)",
        &json!([by("a", "at"), by("b", "at")]),
    );
    let run = case.sync();
    assert!(!run.stdout.contains("instead of pg_dump"), "{}", run.stdout);
    case.assert_equal("public.a");
    case.assert_equal("public.b");
}

#[test]
fn chosen_columns_and_filtered_rows_are_all_that_travels() {
    let mut case = Case::new(
        "CREATE TABLE people (id int PRIMARY KEY, name text, secret text, at int);
         INSERT INTO people SELECT n, 'name', 'secret', n FROM generate_series(1, 20) n",
        &json!([{
            "name": "people", "replication_key": "at", "destination_name": "persons",
            "columns": {"exclude": ["secret"]}, "where": "id % 2 = 0 -- even",
        }]),
    );
    case.sync();
    assert_eq!(judge::column_names(&mut case.destination, "public.persons"), ["id", "name", "at"]);
    assert_eq!(case.ask("SELECT count(*) FROM persons"), ["10"]);
    case.at_source("INSERT INTO people VALUES (21, 'odd', 's', 21), (22, 'even', 's', 22)");
    case.sync().says("1 row ");
    assert_eq!(case.ask("SELECT count(*) FROM persons"), ["11"]);
}

#[test]
fn a_table_without_rows_and_one_without_columns_are_tables_too() {
    let mut case = Case::new(
        "CREATE TABLE empty (id int PRIMARY KEY, at int);
         CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES",
        &json!([by("empty", "at"), {"name": "nothing", "mode": "full-refresh"}]),
    );
    case.sync();
    case.assert_equal("public.empty");
    case.assert_equal("public.nothing");
    case.at_source("INSERT INTO empty VALUES (1, 1)");
    case.sync();
    case.assert_equal("public.empty");
    case.assert_equal("public.nothing");
}

#[test]
fn names_may_be_whatever_postgresql_allows() {
    let long = format!("{}ü", "x".repeat(61));
    let long_twin = format!("{}ö", "x".repeat(61));
    let names = [
        "Order \"Lines\"",
        "a.b",
        "select",
        "1st",
        "täble'; DROP",
        "tab\tand\nline",
        &long,
        &long_twin,
    ];
    let setup: String = names
        .iter()
        .map(|name| {
            let name = name.replace('"', "\"\"");
            format!(
                "CREATE TABLE \"{name}\" (\"Id \"\"x\"\"\" int PRIMARY KEY, \"at.b\" int, \"from\" text);
                 INSERT INTO \"{name}\" VALUES (1, 1, 'a'), (2, 2, NULL);"
            )
        })
        .collect();
    let tables: Vec<_> = names.iter().map(|name| by(name, "at.b")).collect();
    let mut case = Case::new(&setup, &json!(tables));
    case.sync();
    for name in names {
        case.at_source(&format!(
            "INSERT INTO \"{}\" VALUES (3, 3, 'c')",
            name.replace('"', "\"\"")
        ));
    }
    let run = case.sync();
    assert_eq!(
        run.stdout.matches("incremental sync done: 1 row ").count(),
        names.len(),
        "{}",
        run.stdout
    );
    for name in names {
        case.assert_equal(&format!("public.\"{}\"", name.replace('"', "\"\"")));
    }
    case.assert_nothing_left();
}

#[test]
fn the_destination_schema_may_have_another_name_and_is_created() {
    let mut case = Case::new(ORDERS, &json!([by("orders", "updated_at")]));
    case.write_env("DEST_SCHEMA=\"Copy of shop\"");
    case.sync();
    assert_eq!(case.ask("SELECT count(*) FROM \"Copy of shop\".orders"), ["100"]);
}

#[test]
fn full_refresh_copies_a_table_whole_by_flag_and_by_mode() {
    let mut case = Case::new(
        &format!(
            "{ORDERS} CREATE TABLE bare (a int, b text); INSERT INTO bare VALUES (1, 'x'), (1, 'x')"
        ),
        &json!([by("orders", "updated_at"), {"name": "bare", "mode": "full-refresh"}]),
    );
    case.sync().says("bare-full-refresh-2");
    case.at_source(
        "DELETE FROM orders WHERE id > 50; DELETE FROM bare; INSERT INTO bare VALUES (2, 'y')",
    );
    case.run(&["sync", "--full-refresh"])
        .expect(0)
        .says("orders-full-refresh-50 || bare-full-refresh-1");
    case.assert_equal("public.orders");
    case.assert_equal("public.bare");
}

#[test]
fn a_reader_with_an_older_snapshot_never_finds_the_table_empty() {
    let case = Case::new(ORDERS, &json!([by("orders", "updated_at")]));
    case.sync();
    let mut reader = case.destination_superuser();
    // The snapshot is taken without a look at the table, which the swap would else wait for.
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").expect("a snapshot");
    case.run(&["sync", "--full-refresh"]).expect(0);
    assert_eq!(judge::column(&mut reader, "SELECT count(*) FROM public.orders"), ["100"]);
}

#[test]
fn rows_that_are_not_unique_are_named_with_an_example() {
    let mut case = Case::new(
        "CREATE TABLE t (a int, b text, at int); INSERT INTO t VALUES (1, 'x', 1), (2, 'y', 2), (2, 'z', 3)",
        &json!([{"name": "t", "replication_key": "at", "unique_cols": ["a"]}]),
    );
    let run = case.sync_fails(1);
    run.says("Key (a)=(2) is duplicated.").says("unique_cols");
    assert!(case.ask("SELECT relname FROM pg_class WHERE relname = 't'").is_empty());
    case.assert_nothing_left();
}

#[test]
fn null_in_unique_columns_is_a_value_like_any_other() {
    let mut case = Case::new(
        "CREATE TABLE t (a int, b text, at int);
         INSERT INTO t VALUES (1, NULL, 1), (NULL, 'y', 2), (NULL, NULL, 3), (2, 'z', 4)",
        &json!([{"name": "t", "replication_key": "at", "unique_cols": ["a", "b"]}]),
    );
    case.sync();
    case.assert_equal("public.t");
    case.at_source("UPDATE t SET at = 10 + at; INSERT INTO t VALUES (3, NULL, 20)");
    case.sync().says("5 rows");
    case.assert_equal("public.t");
    case.at_source("INSERT INTO t VALUES (NULL, NULL, 30)");
    case.sync_fails(1).says("2 rows share the values (,)");
    case.assert_nothing_left();
}

#[test]
fn a_source_that_was_emptied_by_mistake_does_not_empty_the_destination() {
    let table = "CREATE TABLE orders (id int PRIMARY KEY, at int);";
    let many = "INSERT INTO orders SELECT n, n FROM generate_series(1, 200) n";
    let mut case = Case::new(&format!("{table} {many}"), &json!([by("orders", "at")]));
    case.sync();
    // As pg_restore --clean has it for a while.
    case.at_source(&format!("DROP TABLE orders; {table}"));
    case.sync_fails(1)
        .says("cannot replace `public.orders` by a new copy that is so much smaller")
        .says("it has 0 rows, and the table has 200")
        .says("--full-refresh");
    assert_eq!(case.ask("SELECT count(*) FROM orders"), ["200"]);
    case.assert_nothing_left();
    case.at_source("INSERT INTO orders SELECT n, n FROM generate_series(1, 100) n");
    case.sync();
    case.assert_equal("public.orders");
    // Who asks for it, or allows it, gets it.
    case.at_source(&format!("DROP TABLE orders; {table}"));
    case.sync_fails(1);
    case.run(&["sync", "--full-refresh"]).expect(0);
    assert_eq!(case.ask("SELECT count(*) FROM orders"), ["0"]);
    case.at_source(many);
    case.sync();
    case.write_tables(&json!([with(by("orders", "at"), &json!({"max_delete_percent": 100}))]));
    case.at_source(&format!("DROP TABLE orders; {table}"));
    case.sync();
    assert_eq!(case.ask("SELECT count(*) FROM orders"), ["0"]);
}

#[test]
fn a_rule_that_asks_for_fewer_rows_gets_them() {
    let mut case = Case::new(
        "CREATE TABLE orders (id int PRIMARY KEY, at int); INSERT INTO orders SELECT n, n FROM generate_series(1, 200) n",
        &json!([by("orders", "at")]),
    );
    case.sync();
    case.write_tables(&json!([with(by("orders", "at"), &json!({"where": "id < 10"}))]));
    case.sync();
    assert_eq!(case.ask("SELECT count(*) FROM orders"), ["9"]);
}

/// What pg_dump writes is in another encoding, in which a name is shorter.
#[test]
fn names_and_single_bytes_are_not_read_by_pg_dump() {
    let mut case = Case::new(
        r#"CREATE TABLE orders (id int PRIMARY KEY, at int, n name, c "char");
           INSERT INTO orders VALUES (1, 1, 'x', 'y')"#,
        &json!([by("orders", "at")]),
    );
    case.sync().says("COPY reads it instead of pg_dump: it has names or single bytes");
    case.assert_equal("public.orders");
}
