//! What changed, and nothing else, is merged.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::case::{Case, Run, by, create_roles, with};
use crate::support::server::Servers;

const ORDERS: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, note text, updated_at timestamptz);
    INSERT INTO orders SELECT n, 'note', '2024-01-01 00:00:00.123456+00' FROM generate_series(1, 10) n;";

fn orders() -> Case {
    let case = Case::new(ORDERS, &json!([by("orders", "updated_at")]));
    case.sync();
    case
}

#[test]
fn rows_that_share_the_last_key_are_not_lost() {
    let mut case = orders();
    case.at_source("INSERT INTO orders VALUES (11, 'a tie', '2024-01-01 00:00:00.123456+00')");
    case.sync().says("incremental sync done: 1 row ");
    case.assert_equal("public.orders");
}

/// How often rows were merged into a table, by what `-v` says.
fn merges(run: &Run, table: &str) -> usize {
    let into = format!(r#"INSERT INTO "public"."{table}" AS destination"#);
    run.stdout.matches(&into).count() + run.stderr.matches(&into).count()
}

#[test]
fn rows_of_a_slow_source_are_merged_while_others_are_on_their_way() {
    let slow = json!({"where": "pg_sleep(0.001) IS NOT NULL", "initial": "copy"});
    let mut case = Case::new(
        "CREATE TABLE t (id int PRIMARY KEY, note text, at int);
         INSERT INTO t SELECT n, repeat('x', 1000), n FROM generate_series(1, 500) n",
        &json!([with(by("t", "at"), &slow)]),
    );
    case.sync();
    case.at_source(
        "UPDATE t SET note = repeat('y', 1000), at = at + 500 WHERE id > 50;
         INSERT INTO t SELECT n, repeat('z', 1000), n FROM generate_series(1001, 1500) n",
    );
    let run = case.run(&["-v", "sync"]);
    run.expect(0).says("incremental sync done: 950 rows");
    assert!((3..20).contains(&merges(&run, "t")), "{}", merges(&run, "t"));
    case.assert_equal("public.t");
    case.assert_nothing_left();
}

#[test]
fn each_row_may_be_a_part_of_its_own_in_either_format() {
    for kind in ["text", "xml"] {
        let mut case = Case::new(
            &format!(
                "CREATE TABLE t (id int PRIMARY KEY, note {kind}, at int);
                 INSERT INTO t SELECT n, 'a', n FROM generate_series(1, 9) n"
            ),
            &json!([by("t", "at")]),
        );
        case.sync();
        case.at_source("UPDATE t SET note = 'b', at = at + 10 WHERE id > 6; INSERT INTO t VALUES (10, NULL, 20)");
        let run = case.run(&["-v", "sync", "--row-by-row"]);
        run.expect(0).says("incremental sync done: 4 rows");
        // The fifth finds nothing: only then it is known that there are no more.
        assert_eq!(merges(&run, "t"), 5, "{}", run.stderr);
        case.assert_equal("public.t");
        case.sync().says("done: 0 rows");
        case.assert_nothing_left();
    }
}

/// Servers on which nobody else is at work, whose transactions would have rows read once more.
fn alone() -> Servers {
    let servers = Servers::start();
    create_roles(&servers);
    servers
}

/// A table whose rows are of a kilobyte, and which was synced.
fn wide(servers: &Servers, rule: &Value) -> Case {
    let case = Case::on(
        servers,
        "CREATE TABLE t (id int PRIMARY KEY, note text, at int); INSERT INTO t VALUES (1, 'a', 1)",
        &json!([with(by("t", "at"), rule)]),
    );
    case.sync();
    case
}

/// Adds rows, syncs them, and returns how often the staging table was truncated. The sync after it
/// writes nothing.
fn staged(case: &mut Case, rows: u32, arguments: &[&str]) -> usize {
    case.at_source(&format!(
        "INSERT INTO t SELECT n, repeat('x', 1000), n FROM
         generate_series((SELECT max(id) + 1 FROM t), (SELECT max(id) + {rows} FROM t)) n"
    ));
    let run = case.run(&[&["-v", "sync"], arguments].concat());
    run.expect(0).says(&format!("incremental sync done: {rows} row"));
    case.assert_equal("public.t");
    case.assert_nothing_left();
    let idle = case.run(&["-v", "sync"]);
    idle.expect(0).says("incremental sync done: 0 rows");
    for writing in ["DELETE", "TRUNCATE", "COPY \"", "COMMIT"] {
        assert!(!idle.stdout.contains(&format!("destination: {writing}")), "{}", idle.stdout);
    }
    run.stdout.matches("TRUNCATE").count()
}

/// How many times 100 kB the staging table takes up, its TOAST table included.
const STAGING_SIZE: &str = "SELECT pg_total_relation_size('t_stg')::int / 100000";

#[test]
fn a_backup_of_the_destination_keeps_no_sync_waiting() {
    let servers = alone();
    let mut case = wide(&servers, &json!({}));
    let mut backup = case.destination_superuser();
    backup.batch_execute("BEGIN; LOCK TABLE t, t_stg IN ACCESS SHARE MODE").expect("a backup");
    assert_eq!(staged(&mut case, 2, &[]), 0);
    assert_eq!(staged(&mut case, 2000, &[]), 0);
    assert_ne!(case.ask(STAGING_SIZE), ["0"]);
    backup.batch_execute("COMMIT").expect("its end");
    assert_eq!(staged(&mut case, 2, &[]), 1, "what many rows have left");
    assert_eq!(case.ask(STAGING_SIZE), ["0"]);
    assert!(staged(&mut case, 2000, &[]) >= 1);
    assert_eq!(case.ask(STAGING_SIZE), ["0"]);
}

#[test]
fn what_few_rows_leave_in_the_staging_table_does_not_grow() {
    let servers = alone();
    for rule in [json!({}), json!({"deletes": "remove"})] {
        let mut case = wide(&servers, &rule);
        assert_eq!(staged(&mut case, 200, &[]), 0);
        assert_eq!(staged(&mut case, 200, &[]), 0);
        assert_eq!(staged(&mut case, 200, &[]), 1);
        assert!(case.ask(STAGING_SIZE)[0].parse::<u32>().unwrap() < 6);
        // A value that is kept in the TOAST table counts where it is.
        for _ in 0..4 {
            case.at_source(
                "UPDATE t SET at = (SELECT max(at) FROM t), note = (SELECT string_agg(
                 md5(random()::text), '') FROM generate_series(1, 3000)) WHERE id = 1",
            );
            case.sync().says("incremental sync done: 1 row");
        }
        assert_eq!(staged(&mut case, 1, &[]), 1);
        assert_eq!(case.ask(STAGING_SIZE), ["0"]);
        // A new copy brings few rows and finds much.
        staged(&mut case, 200, &[]);
        staged(&mut case, 200, &[]);
        case.at_source("DELETE FROM t WHERE id > 1");
        case.run(&["sync", "--full-refresh"]).expect(0);
        assert_eq!(case.ask(STAGING_SIZE), ["0"]);
    }
}

#[test]
fn many_parts_are_staged_in_the_same_file() {
    let servers = alone();
    let mut case = wide(&servers, &json!({}));
    let file = "SELECT pg_relation_filenode('t_stg')::text";
    let first: u32 = case.ask(file)[0].parse().unwrap();
    assert!(staged(&mut case, 50, &["--row-by-row"]) >= 50);
    let last: u32 = case.ask(file)[0].parse().unwrap();
    assert!(last - first < 20, "one more file a part: {first} and {last}");
}

#[test]
fn a_staging_table_that_has_lost_its_comment_is_marked_again() {
    let servers = alone();
    let mut case = wide(&servers, &json!({}));
    case.at_destination("COMMENT ON TABLE t_stg IS NULL");
    case.sync();
    staged(&mut case, 2, &[]);
    case.at_destination("DELETE FROM _sync_state");
    std::fs::remove_dir_all(case.path().join("sync-state")).unwrap();
    case.sync().says("initial");
    case.assert_equal("public.t");
}

#[test]
fn rows_are_merged_together_where_a_foreign_key_of_the_destination_ties_them() {
    let mut case = Case::new(
        "CREATE TABLE t (id int PRIMARY KEY, parent int, at int); INSERT INTO t VALUES (1, NULL, 1)",
        &json!([by("t", "at")]),
    );
    case.sync();
    case.at_destination("ALTER TABLE t ADD FOREIGN KEY (parent) REFERENCES t (id)");
    case.at_source("INSERT INTO t VALUES (2, 3, 2), (3, 4, 3), (4, 1, 4)");
    let run = case.run(&["-v", "sync", "--row-by-row"]);
    run.expect(0);
    assert_eq!(merges(&run, "t"), 1);
    case.assert_equal("public.t");
}

#[test]
fn a_unique_index_does_not_tell_rows_apart_whose_column_holds_null() {
    let mut case = Case::new(
        "CREATE TABLE t (id int UNIQUE, at int); INSERT INTO t VALUES (1, 1)",
        &json!([with(by("t", "at"), &json!({ "unique_cols": ["id"] }))]),
    );
    case.sync();
    // From PostgreSQL 18 on a column can refuse NULL and yet hold it.
    case.at_source(
        "INSERT INTO t VALUES (NULL, 2), (NULL, 3);
        DO $$ BEGIN IF current_setting('server_version_num')::int >= 180000 THEN
          EXECUTE 'ALTER TABLE t ADD NOT NULL id NOT VALID';
        END IF; END $$",
    );
    let run = case.run(&["sync", "--row-by-row"]);
    run.expect(1).says("its unique columns are not unique at the source");
}

#[test]
fn a_unique_column_that_may_be_null_now_gets_an_index_that_tells() {
    let mut case = Case::new(
        "CREATE TABLE t (a int NOT NULL, b int NOT NULL, at int, UNIQUE (a, b)); INSERT INTO t VALUES (1, 1, 1)",
        &json!([with(by("t", "at"), &json!({ "unique_cols": ["a", "b"] }))]),
    );
    case.sync();
    case.at_source("ALTER TABLE t ALTER b DROP NOT NULL; INSERT INTO t VALUES (2, NULL, 2)");
    case.sync();
    case.at_source("UPDATE t SET at = 3");
    case.sync();
    case.assert_equal("public.t");
    case.run(&["sync"]).expect(0);
    let indexes = "SELECT string_agg(indexname, ',') FROM pg_indexes WHERE tablename = 't'";
    assert_eq!(case.ask(indexes), ["t_replicated_key"]);
}

#[test]
fn rows_without_a_key_are_not_lost() {
    let mut case = orders();
    case.at_source("INSERT INTO orders VALUES (11, 'no key', NULL), (12, 'no key', NULL)");
    case.sync().says("incremental sync done: 2 rows");
    case.at_source("UPDATE orders SET note = 'changed' WHERE id = 12");
    case.sync().says("incremental sync done: 1 row ");
    case.assert_equal("public.orders");
}

#[test]
fn a_key_in_the_future_does_not_hide_later_rows() {
    for far in ["infinity", "2999-01-01"] {
        let mut case = orders();
        case.at_source(&format!("INSERT INTO orders VALUES (11, 'far', '{far}')"));
        case.sync();
        case.at_source("INSERT INTO orders VALUES (12, 'later', clock_timestamp())");
        case.sync().says("incremental sync done: 1 row ");
        case.assert_equal("public.orders");
    }
}

#[test]
fn a_uuid_from_the_future_or_of_another_version_does_not_hide_later_rows() {
    // A uuid of version 7, so many seconds from now.
    let uuid = |seconds: i64| {
        format!(
            "(lpad(to_hex(floor(extract(epoch FROM clock_timestamp() + interval '{seconds} s') * 1000)\
             ::bigint), 12, '0') || '7abc8000' || lpad(to_hex((random() * 1e9)::bigint), 12, '0'))::uuid"
        )
    };
    let random = "'f47ac10b-58cc-4372-a567-0e02b2c3d479'".to_owned();
    let far = [uuid(7200), random];
    for far in far {
        let mut case = Case::new(
            &format!(
                "CREATE TABLE t (id int PRIMARY KEY, at uuid); INSERT INTO t VALUES (1, {})",
                uuid(-9)
            ),
            &json!([by("t", "at")]),
        );
        case.at_source(&format!("INSERT INTO t VALUES (2, {far})"));
        case.sync();
        case.at_source(&format!("INSERT INTO t VALUES (3, {})", uuid(0)));
        case.sync().says("incremental sync done: 1 row ");
        // Made by an application before its transaction began.
        case.at_source(&format!("INSERT INTO t VALUES (4, {})", uuid(-100)));
        case.sync().says("incremental sync done: 1 row ");
        case.assert_equal("public.t");
        case.run(&["check"]).expect(0).says("t: `at` lies in the future in some rows");
    }
}

#[test]
fn uuids_that_do_not_grow_are_no_replication_key() {
    let case = Case::new(
        "CREATE TABLE t (id int PRIMARY KEY, at uuid);
         INSERT INTO t SELECT n, gen_random_uuid() FROM generate_series(1, 5000) n",
        &json!([by("t", "at")]),
    );
    case.run(&["check"]).expect(1).says("t: `at` holds uuids of another version than 7");
}

#[test]
fn every_type_of_replication_key_keeps_its_full_precision() {
    let keys = [
        ("smallint", "1", "2"),
        ("bigint", "9223372036854775806", "9223372036854775807"),
        ("numeric", "0.12345678901234567890123456789", "0.12345678901234567890123456790"),
        ("date", "'0044-03-15 BC'", "'2024-01-01'"),
        ("timestamp", "'2024-01-01 00:00:00.000001'", "'2024-01-01 00:00:00.000002'"),
        (
            "timestamp(3) with time zone",
            "'2024-01-01 00:00:00.001+00'",
            "'2024-01-01 00:00:00.002+00'",
        ),
        (
            "uuid",
            "'01890000-0000-7000-8000-000000000001'",
            "'01890000-0000-7000-8000-000000000002'",
        ),
        ("text", "'a''\\b'", "'b'"),
        ("character varying(20)", "'a'", "'b'"),
    ];
    let setup: String = keys
        .iter()
        .enumerate()
        .map(|(number, (data_type, first, _))| {
            format!("CREATE TABLE t{number} (id int PRIMARY KEY, at {data_type}); INSERT INTO t{number} VALUES (1, {first}), (2, {first});")
        })
        .collect();
    let rules: Vec<_> = (0..keys.len()).map(|number| by(&format!("t{number}"), "at")).collect();
    let mut case = Case::new(&setup, &json!(rules));
    case.sync();
    for (number, (_, first, second)) in keys.iter().enumerate() {
        case.at_source(&format!("INSERT INTO t{number} VALUES (3, {first}), (4, {second})"));
    }
    let run = case.sync();
    assert_eq!(run.stdout.matches("done: 2 rows").count(), keys.len(), "{}", run.stdout);
    for number in 0..keys.len() {
        case.assert_equal(&format!("public.t{number}"));
    }
    let run = case.sync();
    assert_eq!(run.stdout.matches("done: 0 rows").count(), keys.len(), "{}", run.stdout);
}

#[test]
fn nan_and_infinity_do_not_move_a_numeric_watermark() {
    let mut case = Case::new(
        "CREATE TABLE t (id int PRIMARY KEY, at numeric); INSERT INTO t VALUES (1, 5), (2, 'NaN'), (3, 'Infinity')",
        &json!([by("t", "at")]),
    );
    case.sync();
    case.at_source("INSERT INTO t VALUES (4, 6)");
    case.sync().says("from 5");
    case.assert_equal("public.t");
}

#[test]
fn a_table_without_any_key_is_read_whole_until_it_has_one() {
    let mut case = Case::new(
        "CREATE TABLE t (id int PRIMARY KEY, at int); INSERT INTO t VALUES (1, NULL)",
        &json!([by("t", "at")]),
    );
    case.sync();
    case.at_source("UPDATE t SET at = 5");
    case.sync().says("there is no watermark yet");
    case.assert_equal("public.t");
    case.sync().says("incremental sync: from 5");
}

#[test]
fn a_changed_schema_leads_to_a_new_copy_and_the_log_says_what_changed() {
    let mut case = orders();
    for (change, said) in [
        ("ADD COLUMN more int DEFAULT 7", "the source has a new column `more`"),
        ("ALTER COLUMN note TYPE varchar(20)", "`note` is character varying(20) now and was text"),
        ("RENAME COLUMN more TO less", "the source has a new column `less`"),
        ("DROP COLUMN less", "the source's column `less` is gone"),
    ] {
        case.at_source(&format!("ALTER TABLE orders {change}"));
        case.sync().says(said);
        case.assert_equal("public.orders");
    }
    // The same name and type, yet another column: every row may hold another value.
    case.at_source("ALTER TABLE orders DROP COLUMN note; ALTER TABLE orders ADD COLUMN note varchar(20) DEFAULT 'new'");
    case.sync().says("`note` is another one than before");
    // And a table that was made again under its name.
    case.at_source("ALTER TABLE orders RENAME TO old; CREATE TABLE orders AS TABLE old; ALTER TABLE orders ADD PRIMARY KEY (id); UPDATE orders SET note = 'x'");
    case.sync().says("the source table was dropped and created again");
    case.assert_equal("public.orders");
    case.assert_nothing_left();
}

#[test]
fn a_changed_destination_is_a_changed_schema_too() {
    let mut case = orders();
    case.at_destination("ALTER TABLE orders ADD COLUMN mine int");
    case.sync().says("the destination has a column `mine` that the source has not");
    case.at_destination("ALTER TABLE orders ALTER COLUMN note TYPE varchar(30)");
    case.sync().says("`note` is character varying(30) and must be text");
    case.assert_equal("public.orders");
}

#[test]
fn on_schema_change_fail_stops_the_table_and_names_the_change() {
    let mut case = Case::new(
        ORDERS,
        &json!([{"name": "orders", "replication_key": "updated_at", "on_schema_change": "fail"}]),
    );
    case.sync();
    case.at_source("ALTER TABLE orders ADD COLUMN more int");
    case.sync_fails(1)
        .says("the schema changed: the destination has no column `more`")
        .says("--table orders --full-refresh");
    case.run(&["sync", "--table", "orders", "--full-refresh"]).expect(0);
    case.assert_equal("public.orders");
    case.sync();
}

#[test]
fn not_null_is_changed_in_place() {
    let mut case = orders();
    case.at_source("UPDATE orders SET updated_at = clock_timestamp(); ALTER TABLE orders ALTER COLUMN note SET NOT NULL");
    let not_null = "SELECT attnotnull FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'note'";
    case.sync().says("incremental sync done: 10 rows");
    assert_eq!(case.ask(not_null), ["t"]);
    case.at_source("ALTER TABLE orders ALTER COLUMN note DROP NOT NULL; UPDATE orders SET note = NULL, updated_at = clock_timestamp()");
    case.sync().says("incremental sync done: 10 rows");
    assert_eq!(case.ask(not_null), ["f"]);
    case.assert_equal("public.orders");
    // A NULL that stays behind at the destination keeps the column as it is, and is no failure.
    case.at_source("DELETE FROM orders WHERE id = 1; UPDATE orders SET note = 'n', updated_at = clock_timestamp(); ALTER TABLE orders ALTER COLUMN note SET NOT NULL");
    case.sync().says("could not make `note` refuse NULL");
    assert_eq!(case.ask("SELECT count(*) FROM orders WHERE note IS NULL"), ["1"]);
    case.assert_nothing_left();
}

#[test]
fn dropping_the_table_or_its_staging_table_leads_to_a_new_copy() {
    let mut case = orders();
    for (dropped, said) in [
        ("orders", "there is no such table at the destination"),
        ("orders_stg", "there is no staging table `orders_stg`"),
        ("orders, orders_stg", "there is no such table at the destination"),
    ] {
        case.at_destination(&format!("UPDATE orders SET note = 'spoilt'; DROP TABLE {dropped}"));
        case.sync().says(&format!("initial sync: {said}"));
        case.assert_equal("public.orders");
    }
}

#[test]
fn rows_that_did_not_change_are_not_written() {
    let mut case = orders();
    let versions = "SELECT xmin FROM orders ORDER BY id";
    let before = case.ask(versions);
    case.at_source("UPDATE orders SET updated_at = clock_timestamp() WHERE id = 3");
    case.sync();
    let after = case.ask(versions);
    let changed: Vec<_> = (0..10).filter(|&at| before[at] != after[at]).collect();
    assert_eq!(changed, [2]);
}

/// A view does not tell which of the rows within the lookback have been read already.
#[test]
fn rows_that_are_read_again_and_are_the_same_leave_no_trace_at_the_destination() {
    let seen = |deletes: &str| {
        let rule = json!({"replication_key": "at", "unique_cols": ["id"], "deletes": deletes});
        let mut case = Case::new(
            "CREATE TABLE t (id int PRIMARY KEY, at timestamptz DEFAULT now());
             INSERT INTO t SELECT generate_series(1, 100); CREATE VIEW seen AS SELECT * FROM t",
            &json!([with(rule, &json!({"name": "seen"}))]),
        );
        case.sync();
        case.sync();
        let traces = "SELECT concat(receipt, xmin) FROM _sync_state";
        let before = case.ask(traces);
        let run = case.run(&["sync", "-v"]);
        assert!(run.expect(0).says("COPY").stdout.contains(" 0 rows"), "{run:?}");
        assert_eq!(case.ask(traces), before, "{deletes}");
        case.assert_nothing_left();
        case.at_source("UPDATE t SET at = now() WHERE id = 7");
        case.sync().says("1 row ");
        assert_ne!(case.ask(traces), before, "{deletes}");
        case.assert_equal("public.seen");
    };
    seen("keep");
    seen("remove");
}

#[test]
fn rows_that_were_written_anew_and_are_the_same_are_read_once() {
    let setup = "CREATE TABLE t (id int PRIMARY KEY, at int); INSERT INTO t SELECT n, n FROM generate_series(1, 100) n";
    // Older transactions of others would have them read again.
    let servers = alone();
    for rule in [by("t", "xmin"), by("t", "at"), json!({"name": "t", "mode": "diff"})] {
        let mut case = Case::on(&servers, setup, &json!([rule]));
        case.sync();
        case.sync();
        case.at_source("UPDATE t SET at = at");
        case.sync().says("0 rows");
        let run = case.run(&["sync", "-v"]);
        let staged = r#"destination: COPY "public"."t_stg""#;
        assert!(!run.expect(0).stdout.contains(staged), "{rule}: {}", run.stdout);
    }
    servers.stop();
}

#[test]
fn values_that_are_equal_but_not_the_same_are_merged() {
    let mut case = Case::new(
        "CREATE TABLE t (id numeric PRIMARY KEY, n numeric, f float8, j json, p point, at int);
         INSERT INTO t VALUES (1.0, 1.0, 0, '{}', '(1,1)', 1)",
        &json!([by("t", "at")]),
    );
    case.sync();
    for change in ["n = 1.00", "f = '-0'", "j = '{ }'", "p = '(1,2)'", "id = 1.00"] {
        case.at_source(&format!("UPDATE t SET {change}"));
        case.sync().says("1 row ");
        case.assert_equal("public.t");
    }
}

#[test]
fn another_rule_leads_to_a_new_copy_and_the_log_says_which() {
    let case = Case::new(
        "CREATE TABLE t (id int PRIMARY KEY, other int UNIQUE NOT NULL, at int, at2 int);
         INSERT INTO t SELECT n, n, n, n FROM generate_series(1, 5) n",
        &json!([by("t", "at")]),
    );
    case.sync();
    for (rule, said) in [
        (json!({"replication_key": "at2"}), "`replication_key` is `at2` now and was `at`"),
        (
            json!({"replication_key": "at2", "unique_cols": ["other"]}),
            "`unique_cols` is `other` now and was `id`",
        ),
        (
            json!({"replication_key": "at2", "unique_cols": ["other"], "where": "id < 4"}),
            "`where` is `id < 4` now and was unset",
        ),
        (
            json!({"replication_key": "at2", "unique_cols": ["other"], "columns": {"exclude": ["at"]}}),
            "`where` is unset now and was `id < 4`",
        ),
    ] {
        let mut rule = rule;
        rule["name"] = json!("t");
        case.write_tables(&json!([rule]));
        case.sync().says(said);
    }
    case.sync().says("incremental sync: from 5");
}

#[test]
fn a_unique_column_may_get_another_value() {
    let mut case = orders();
    case.at_source("UPDATE orders SET id = id + 5, updated_at = clock_timestamp() WHERE id > 5");
    case.sync();
    // `deletes` is `keep`: what has no successor stays.
    assert_eq!(case.ask("SELECT count(*), max(id) FROM orders"), ["15"]);
    case.at_source("UPDATE orders SET id = CASE id WHEN 1 THEN 1001 ELSE 1000 + id END, updated_at = clock_timestamp()");
    case.sync();
    case.at_destination("DELETE FROM orders WHERE id < 1000");
    case.assert_equal("public.orders");
}

#[test]
fn an_enum_or_composite_that_reads_otherwise_leads_to_a_new_copy() {
    let mut case = Case::new(
        "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TYPE pair AS (a int, b int);
         CREATE TABLE t (id int PRIMARY KEY, feelings mood[], couple pair, at int);
         INSERT INTO t VALUES (1, '{sad}', '(1,2)', 1)",
        &json!([by("t", "at")]),
    );
    case.sync();
    case.at_source("ALTER TYPE mood ADD VALUE 'calm' BEFORE 'sad'");
    case.sync().says("incremental sync: from 1");
    case.at_source("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'");
    case.sync().says("the type public.mood[] of the source's column `feelings` was altered");
    case.assert_equal("public.t");
    case.at_source("ALTER TYPE pair ADD ATTRIBUTE c int");
    case.sync().says("the type public.pair of the source's column `couple` was altered");
    case.assert_equal("public.t");
    case.sync().says("done: 0 rows");
    // Another label and another attribute under the names that others had.
    case.at_source(
        "ALTER TYPE mood RENAME VALUE 'blue' TO 'sad'; ALTER TYPE mood ADD VALUE 'blue'",
    );
    case.sync().says("the type public.mood[] of the source's column `feelings` was altered");
    case.assert_equal("public.t");
    case.at_source("ALTER TYPE pair DROP ATTRIBUTE b; ALTER TYPE pair ADD ATTRIBUTE b int");
    case.sync().says("the type public.pair of the source's column `couple` was altered");
    case.assert_equal("public.t");
    case.sync().says("done: 0 rows");
}

#[test]
fn a_label_that_is_renamed_deep_inside_a_type_leads_to_a_new_copy() {
    let columns = [
        ("c", "composite", "(1,a)"),
        ("ca", "composite[]", "{\"(1,b)\"}"),
        ("cd", "checked", "(2,a)"),
        ("r", "moods", "[a,b]"),
        ("n", "nested", "(\"(3,b)\")"),
        ("na", "listing", "({a})"),
        ("da", "several[]", "{\"{a,b}\"}"),
    ];
    let table = |(name, data_type, value): (&str, &str, &str)| {
        format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, at int, v {data_type});
             INSERT INTO {name} VALUES (1, 1, '{value}');"
        )
    };
    let types = "CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TYPE composite AS (x int, m mood);
        CREATE DOMAIN checked AS composite CHECK ((VALUE).x > 0); CREATE TYPE moods AS RANGE (subtype = mood);
        CREATE TYPE nested AS (inner_one composite); CREATE TYPE listing AS (items mood[]);
        CREATE DOMAIN several AS mood[];";
    let rules: Vec<_> = columns.iter().map(|(name, ..)| by(name, "at")).collect();
    let mut case = Case::new(&(types.to_owned() + &columns.map(table).concat()), &json!(rules));
    case.sync();
    let all = |case: &mut Case, altered: &str| {
        case.at_source(altered);
        let run = case.sync();
        let copied = run.stdout.matches("was altered").count();
        for (name, ..) in columns {
            case.assert_equal(&format!("public.{name}"));
        }
        copied
    };
    assert_eq!(all(&mut case, "ALTER TYPE mood ADD VALUE 'c' BEFORE 'a'"), 0);
    assert_eq!(all(&mut case, "ALTER TYPE mood RENAME VALUE 'a' TO 'd'"), columns.len());
    assert_eq!(all(&mut case, "SELECT"), 0);
    let swap = "ALTER TYPE mood RENAME VALUE 'd' TO 'x'; ALTER TYPE mood RENAME VALUE 'b' TO 'd';
                ALTER TYPE mood RENAME VALUE 'x' TO 'b'";
    assert_eq!(all(&mut case, swap), columns.len());
    assert_eq!(all(&mut case, "ALTER TYPE composite ADD ATTRIBUTE y int"), 4);
}

/// A file for a foreign table, which the server may read.
fn file_of(rows: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), rows).expect("rows");
    std::fs::set_permissions(file.path(), PermissionsExt::from_mode(0o644)).expect("readable");
    file
}

#[test]
fn a_view_a_foreign_table_or_a_policy_that_is_altered_leads_to_a_new_copy() {
    let (one, other) = (file_of("1,1\n"), file_of("1,1\n2,2\n"));
    let key = json!({"unique_cols": ["id"]});
    let rule = |name| with(by(name, "at"), &key);
    let mut case = Case::new(
        &format!(
            "CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
             CREATE FOREIGN TABLE f (id int, at int) SERVER files OPTIONS (filename '{}', format 'csv');
             CREATE TABLE base (id int, at int, tenant int);
             INSERT INTO base VALUES (1, 1, 1), (2, 2, 2), (3, 3, 1);
             CREATE VIEW below AS SELECT * FROM base WHERE tenant = 1; CREATE VIEW v AS SELECT id, at FROM below;
             CREATE TABLE r (id int PRIMARY KEY, at int, tenant int); INSERT INTO r SELECT * FROM base;
             ALTER TABLE r ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON r USING (tenant = 1);
             GRANT pg_read_server_files TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader",
            one.path().display()
        ),
        &json!([rule("f"), rule("v"), rule("r")]),
    );
    let count = |case: &mut Case, table: &str| case.ask(&format!("SELECT count(*) FROM {table}"));
    case.sync();
    assert_eq!(["f", "v", "r"].map(|name| count(&mut case, name)), [["1"], ["2"], ["2"]]);
    case.sync().says("f-incremental-0 || v-incremental-0 || r-incremental-0");
    case.at_source(&format!(
        "ALTER FOREIGN TABLE f OPTIONS (SET filename '{}')",
        other.path().display()
    ));
    case.at_source(
        "CREATE OR REPLACE VIEW below AS SELECT * FROM base; ALTER POLICY p ON r USING (true)",
    );
    let run = case.sync();
    assert_eq!(
        run.stdout.matches("decides otherwise which rows it shows").count(),
        3,
        "{}",
        run.stdout
    );
    assert_eq!(["f", "v", "r"].map(|name| count(&mut case, name)), [["2"], ["3"], ["3"]]);
    case.sync().says("f-incremental-0 || v-incremental-0 || r-incremental-0");
    // A policy for a role that we are not in concerns nobody here, until we are.
    case.at_source(
        "ALTER POLICY p ON r USING (tenant = 1); CREATE POLICY q ON r TO pg_read_all_stats USING (true)",
    );
    case.sync().says("r-initial-NA");
    assert_eq!(count(&mut case, "r"), ["2"]);
    case.at_source("DROP POLICY q ON r");
    case.sync().says("r-incremental-0");
    case.at_source("ALTER TABLE r DISABLE ROW LEVEL SECURITY");
    case.sync().says("r-initial-NA");
    assert_eq!(count(&mut case, "r"), ["3"]);
    case.at_source("ALTER TABLE r ENABLE ROW LEVEL SECURITY");
    case.sync().says("r-initial-NA");
    assert_eq!(count(&mut case, "r"), ["2"]);
}

#[test]
fn whose_eyes_a_view_looks_through_and_what_its_functions_say_leads_to_a_new_copy() {
    let rule = with(by("v", "at"), &json!({"unique_cols": ["id"], "lookback": 0}));
    let mut case = Case::new(
        "CREATE TABLE base (id int, at int, tenant int);
         INSERT INTO base VALUES (1, 1, 1), (2, 2, 2), (3, 3, 1), (4, 9, 1), (5, 9, 2);
         CREATE ROLE looker; GRANT SELECT ON base TO looker;
         CREATE FUNCTION wanted(int) RETURNS boolean LANGUAGE sql AS 'SELECT $1 <> 3';
         CREATE VIEW v AS SELECT id, at FROM base WHERE wanted(id);
         ALTER TABLE base ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON base TO looker USING (tenant = 1);
         GRANT SELECT ON v TO reader",
        &json!([rule]),
    );
    case.sync();
    let alterations = [
        ("ALTER VIEW v OWNER TO looker", "2"),
        ("ALTER ROLE looker BYPASSRLS", "4"),
        ("ALTER ROLE looker NOBYPASSRLS", "2"),
        ("CREATE POLICY q ON base TO pg_read_all_stats USING (true)", "2"),
        ("GRANT pg_read_all_stats TO looker", "4"),
        ("REVOKE pg_read_all_stats FROM looker; DROP POLICY q ON base", "2"),
        ("ALTER TABLE base OWNER TO looker", "4"),
        ("ALTER TABLE base OWNER TO postgres; GRANT SELECT ON base TO looker", "2"),
        ("DROP POLICY p ON base", "0"),
        ("ALTER TABLE base FORCE ROW LEVEL SECURITY; ALTER TABLE base OWNER TO looker", "0"),
        ("ALTER TABLE base NO FORCE ROW LEVEL SECURITY", "4"),
        ("ALTER TABLE base OWNER TO postgres; GRANT SELECT ON base TO looker", "0"),
        ("ALTER TABLE base DISABLE ROW LEVEL SECURITY", "4"),
        (
            "ALTER TABLE base ENABLE ROW LEVEL SECURITY;
             CREATE POLICY p ON base TO looker USING (tenant = 1)",
            "2",
        ),
        ("ALTER POLICY p ON base USING (true)", "4"),
        (
            "CREATE OR REPLACE FUNCTION wanted(int) RETURNS boolean LANGUAGE sql AS 'SELECT $1 <> 4'",
            "4",
        ),
        ("ALTER TABLE base DISABLE ROW LEVEL SECURITY; ALTER VIEW v OWNER TO postgres", "4"),
    ];
    for (alteration, rows) in alterations {
        case.at_source(alteration);
        case.sync().says("v-initial-NA");
        assert_eq!(case.ask("SELECT count(*) FROM v"), [rows], "{alteration}");
        case.verify(0);
        case.sync().says("v-incremental-0");
    }
    case.at_source("ALTER VIEW v OWNER TO postgres; DROP OWNED BY looker; DROP ROLE looker");
}

/// Who reads a table by its parent meets the parent's policies alone.
#[test]
fn a_new_partition_with_row_level_security_of_its_own_leads_to_no_new_copy() {
    let mut case = Case::new(
        "CREATE TABLE p (id int PRIMARY KEY, at int) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); INSERT INTO p VALUES (1, 1);
         ALTER TABLE p ENABLE ROW LEVEL SECURITY; CREATE POLICY a ON p USING (true);
         CREATE VIEW v AS SELECT * FROM p; GRANT SELECT ON v TO reader",
        &json!([by("p", "at"), with(by("v", "at"), &json!({"unique_cols": ["id"]}))]),
    );
    case.sync();
    case.at_source(
        "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20); INSERT INTO p VALUES (11, 2);
         ALTER TABLE p2 ENABLE ROW LEVEL SECURITY; CREATE POLICY a ON p2 USING (false)",
    );
    case.sync().says("p-incremental-1 || v-incremental-1");
}

#[test]
fn a_database_that_was_put_back_from_a_template_leads_to_a_new_copy() {
    let mut case = Case::new(
        "CREATE TABLE t (id int PRIMARY KEY, note text, at timestamptz DEFAULT now());
         INSERT INTO t SELECT n, 'old' FROM generate_series(1, 300) n",
        &json!([by("t", "at"), {"name": "t", "destination_name": "d", "mode": "diff"}]),
    );
    case.sync();
    let database = case.database.clone();
    let saved = format!("{database}_saved");
    let mut elsewhere = case.source_at("postgres");
    let put = |elsewhere: &mut postgres::Client, name: &str, template: &str| {
        let left = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{template}'"
        );
        elsewhere.simple_query(&left).expect("an end");
        elsewhere
            .batch_execute(&format!("CREATE DATABASE \"{name}\" TEMPLATE \"{template}\""))
            .expect("a copy");
    };
    put(&mut elsewhere, &saved, &database);
    case.source = case.another_source();
    case.at_source("UPDATE t SET note = 'lost', at = now() WHERE id <= 50");
    case.sync();
    elsewhere.batch_execute(&format!("DROP DATABASE \"{database}\" WITH (FORCE)")).expect("gone");
    put(&mut elsewhere, &database, &saved);
    case.source = case.another_source();
    case.at_source("INSERT INTO t VALUES (301, 'new')");
    case.sync().says("was dropped and created again");
    case.verify(0);
    elsewhere.batch_execute(&format!("DROP DATABASE \"{saved}\"")).expect("gone");
}

#[test]
fn a_foreign_table_that_is_attached_is_read_whole() {
    let file = file_of("1,1\n2,2\n");
    let mut case = Case::new(
        &format!(
            "CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
             CREATE TABLE t (id int, at int NOT NULL) PARTITION BY RANGE (at);
             CREATE TABLE later PARTITION OF t FOR VALUES FROM (10) TO (100); INSERT INTO t VALUES (11, 11);
             CREATE FOREIGN TABLE f (id int, at int NOT NULL) SERVER files OPTIONS (filename '{}', format 'csv');
             GRANT pg_read_server_files TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader",
            file.path().display()
        ),
        &json!([with(by("t", "at"), &json!({"unique_cols": ["id"]}))]),
    );
    case.sync();
    case.at_source("ALTER TABLE t ATTACH PARTITION f FOR VALUES FROM (0) TO (10)");
    case.sync();
    assert_eq!(case.ask("SELECT id FROM t ORDER BY id"), ["1", "2", "11"]);
    case.sync().says("t-incremental-0");
    let other = file_of("1,1\n3,3\n");
    let path = other.path().display();
    case.at_source(&format!("ALTER FOREIGN TABLE f OPTIONS (SET filename '{path}')"));
    case.sync().says("decides otherwise which rows it shows");
    assert_eq!(case.ask("SELECT id FROM t ORDER BY id"), ["1", "3", "11"]);
}

#[test]
fn a_label_of_a_generated_column_that_is_renamed_leads_to_a_new_copy() {
    let mut case = Case::new(
        "CREATE TYPE mood AS ENUM ('sad', 'happy');
         CREATE TABLE t (id int PRIMARY KEY, at int, base mood, feeling mood GENERATED ALWAYS AS (base) STORED);
         INSERT INTO t VALUES (1, 1, 'sad')",
        &json!([with(by("t", "at"), &json!({"columns": {"exclude": ["base"]}}))]),
    );
    case.sync();
    case.at_source("ALTER TYPE mood ADD VALUE 'calm'");
    case.sync().says("t-incremental-0");
    case.at_source("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'");
    case.sync().says("the type public.mood of the source's column `feeling` was altered");
    assert_eq!(case.ask("SELECT feeling FROM t"), ["blue"]);
    case.sync().says("done: 0 rows");
}

#[test]
fn not_null_is_added_even_when_no_row_travels() {
    let mut case = orders();
    case.sync();
    case.at_source("ALTER TABLE orders ALTER COLUMN note SET NOT NULL");
    case.sync();
    assert_eq!(
        case.ask("SELECT attnotnull FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'note'"),
        ["t"]
    );
}

#[test]
fn a_deferrable_constraint_at_the_destination_is_no_obstacle() {
    let mut case = orders();
    case.at_destination("ALTER TABLE orders ADD CONSTRAINT later PRIMARY KEY (id) DEFERRABLE");
    case.at_source("UPDATE orders SET note = 'new', updated_at = now() WHERE id < 4; INSERT INTO orders VALUES (11, 'new', now())");
    case.sync().says("done: 4 rows");
    case.assert_equal("public.orders");
    case.run(&["sync", "--full-refresh"]).expect(0);
    case.at_source("UPDATE orders SET note = 'newer', updated_at = clock_timestamp() WHERE id < 3");
    case.sync();
    case.assert_equal("public.orders");
}

#[test]
fn select_on_some_columns_is_enough_for_them() {
    let mut case = Case::new(
        ORDERS,
        &json!([{"name": "orders", "replication_key": "updated_at", "columns": {"exclude": ["note"]}}]),
    );
    case.at_source(
        "REVOKE SELECT ON orders FROM reader; GRANT SELECT (id, updated_at) ON orders TO reader",
    );
    case.sync();
    case.at_source("UPDATE orders SET updated_at = now() WHERE id = 1");
    case.sync();
    assert_eq!(case.ask("SELECT count(*) FROM orders"), ["10"]);
    case.write_tables(&json!([by("orders", "updated_at")]));
    case.sync_fails(1)
        .says("permission denied for table orders")
        .says("grant the source's user SELECT");
}

#[test]
fn settings_of_roles_do_not_change_what_arrives() {
    let mut case = Case::new(
        "CREATE TABLE t (id int PRIMARY KEY, words text[], f float8, at timestamptz, m money, i interval, b bytea, r regclass);
         INSERT INTO t VALUES (1, ARRAY['a', NULL, 'NULL'], 0.1::float8 + 0.2, '2024-01-02 03:04:05.678+00', 12.5, '1 mon -2 days', '\\x00ff', 'pg_class')",
        &json!([by("t", "at")]),
    );
    let settings = [
        "DateStyle = 'German, DMY'",
        "IntervalStyle = 'sql_standard'",
        "TimeZone = 'Asia/Tokyo'",
        "extra_float_digits = -10",
        "bytea_output = 'escape'",
        "array_nulls = off",
        "search_path = 'pg_catalog'",
        "standard_conforming_strings = off",
        "client_encoding = 'LATIN1'",
        "default_transaction_isolation = 'serializable'",
        "default_transaction_deferrable = on",
        "idle_in_transaction_session_timeout = '50ms'",
        "lock_timeout = '1ms'",
        "statement_timeout = '2s'",
        "default_transaction_read_only = on",
        "row_security = off",
        "quote_all_identifiers = on",
    ];
    let mut superuser = case.destination_superuser();
    for setting in settings {
        let database = case.database.clone();
        case.at_source(&format!("ALTER ROLE reader IN DATABASE {database} SET {setting}"));
        superuser
            .batch_execute(&format!("ALTER ROLE writer IN DATABASE {database} SET {setting}"))
            .expect("a setting");
    }
    case.sync();
    case.assert_equal("public.t");
    case.at_source("UPDATE t SET id = 2, at = now(); INSERT INTO t (id, words, at) VALUES (3, '{NULL}', now())");
    case.sync();
    case.at_destination("DELETE FROM t WHERE id = 1");
    case.assert_equal("public.t");
}

#[test]
fn a_parent_whose_children_repeat_its_keys_can_be_refreshed_whole() {
    let mut case = Case::new(
        "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child () INHERITS (parent);
         INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1)",
        &json!([{"name": "parent", "mode": "full-refresh"}]),
    );
    case.sync();
    case.assert_equal("public.parent");
}

#[test]
fn values_that_differ_and_read_the_same_cannot_identify_a_row() {
    let mut case = Case::new(
        "CREATE TABLE t (f regproc PRIMARY KEY, at int);
         INSERT INTO t VALUES ('abs(int)'::regprocedure::oid, 1), ('abs(bigint)'::regprocedure::oid, 2)",
        &json!([by("t", "at")]),
    );
    case.sync_fails(1).says("the column `f` of `public.t` cannot identify a row");
    case.write_tables(&json!([{"name": "t", "mode": "full-refresh"}]));
    case.sync();
    case.assert_equal("public.t");
}

#[test]
fn a_watermark_at_the_bottom_of_its_type_is_no_obstacle() {
    let mut case = Case::new(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz); INSERT INTO t VALUES (1, '4714-11-24 00:00:00+00 BC');
         CREATE TABLE n (id int PRIMARY KEY, at bigint); INSERT INTO n VALUES (1, '-9223372036854775808')",
        &json!([by("t", "at"), {"name": "n", "replication_key": "at", "lookback": 5}]),
    );
    case.sync();
    case.at_source("INSERT INTO t VALUES (2, NULL); INSERT INTO n VALUES (2, NULL)");
    case.sync();
    case.assert_equal("public.t");
    case.assert_equal("public.n");
}

#[test]
fn a_trigger_on_the_staging_table_swallows_no_row_unseen() {
    let mut case = Case::new(
        "CREATE TABLE orders (id int PRIMARY KEY, at int); INSERT INTO orders VALUES (1, 1)",
        &json!([by("orders", "at")]),
    );
    case.sync();
    case.at_source("INSERT INTO orders VALUES (2, 2)");
    case.sync();
    case.at_destination(
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER swallow BEFORE INSERT ON orders_stg FOR EACH ROW EXECUTE FUNCTION swallow()",
    );
    case.at_source("INSERT INTO orders VALUES (3, 3)");
    case.sync_fails(1).says("the destination took 0 of ").says("look for a trigger");
    case.at_destination("DROP TRIGGER swallow ON orders_stg");
    case.sync();
    case.assert_equal("public.orders");
}

#[test]
fn whether_rows_share_their_unique_columns_is_not_asked_where_none_is_newer() {
    let mut case = Case::new(
        "CREATE TABLE loose (id int, at timestamptz DEFAULT now(), note text);
         INSERT INTO loose SELECT n, now(), 'note' FROM generate_series(1, 9) n",
        &json!([{"name": "loose", "replication_key": "at", "unique_cols": ["id"], "deletes": "remove"}]),
    );
    case.sync();
    case.sync();
    let asks = |case: &Case| {
        let run = case.run(&["-v", "sync"]);
        run.expect(0);
        (run.stdout + &run.stderr).contains("HAVING count(*) > 1")
    };
    assert!(!asks(&case), "all rows of the source are grouped for nothing");
    case.at_source("INSERT INTO loose VALUES (10, now(), 'new')");
    assert!(asks(&case));
    case.assert_equal("public.loose");
}
