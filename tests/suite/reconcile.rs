//! Rows that the source no longer has.

use serde_json::{Value, json};

use crate::support::case::{Case, ROLE_PASSWORD, with};

const ORDERS: &str = "
    CREATE TABLE orders (id int, code text, note text, updated_at timestamptz, PRIMARY KEY (id, code));
    INSERT INTO orders SELECT n, 'code ' || n % 7, 'note', '2024-01-01 00:00:00+00' FROM generate_series(1, 1000) n;";

fn rule(more: &Value) -> Value {
    json!([with(json!({"name": "orders", "replication_key": "updated_at"}), more)])
}

fn orders(more: &Value) -> Case {
    let case = Case::new(ORDERS, &rule(more));
    case.sync();
    case
}

#[test]
fn a_tenth_of_the_rows_deleted_and_keys_changed_end_equal() {
    let mut case = orders(&json!({"deletes": "remove"}));
    case.at_source(
        "DELETE FROM orders WHERE id % 10 = 3;
         UPDATE orders SET code = 'changed', updated_at = now() WHERE id % 50 = 1;
         UPDATE orders SET code = 'changed silently' WHERE id % 50 = 2",
    );
    let run = case.sync();
    // A hundred are deleted, and of twenty and twenty the old keys are.
    run.says("140 deleted");
    case.assert_equal("public.orders");
    case.sync().says("incremental sync done: 0 rows in");
    case.assert_nothing_left();
}

#[test]
fn deleted_rows_are_kept_unless_the_rule_says_otherwise() {
    let mut case = orders(&json!({}));
    case.at_source("DELETE FROM orders WHERE id <= 10");
    case.run(&["sync", "--reconcile"]).expect(0);
    assert_eq!(case.ask("SELECT count(*) FROM orders"), ["1000"]);
}

#[test]
fn deleted_rows_are_marked_and_unmarked_when_they_come_back() {
    let mut case = orders(&json!({"deletes": "mark"}));
    case.at_source("DELETE FROM orders WHERE id <= 10");
    case.sync().says("10 deleted");
    let marked = "SELECT count(*) FROM orders WHERE _deleted_at IS NOT NULL";
    assert_eq!(case.ask(marked), ["10"]);
    case.sync().says("incremental sync done: 0 rows in");
    assert_eq!(case.verify(0)["tables"][0]["destination_rows"], 990);
    // One comes back as new, one with its old key, as it was.
    case.at_source(
        "INSERT INTO orders VALUES (1, 'code 1', 'back', now()), (2, 'code 2', 'note', '2024-01-01 00:00:00+00')",
    );
    case.sync().says("2 rows in");
    assert_eq!(case.ask(marked), ["8"]);
    assert_eq!(case.ask("SELECT note FROM orders WHERE id = 1"), ["back"]);
    case.assert_nothing_left();
}

#[test]
fn a_table_is_marked_that_was_copied_before_marking_was_asked_for() {
    let mut case = orders(&json!({}));
    case.at_source("DELETE FROM orders WHERE id <= 10");
    case.write_tables(&rule(&json!({"deletes": "mark"})));
    case.sync().says("incremental sync done: 0 rows, 10 deleted");
    case.write_tables(&rule(&json!({"deletes": "remove"})));
    case.sync().says("has a column `_deleted_at` that the source has not");
    case.assert_equal("public.orders");
}

#[test]
fn a_source_with_a_column_for_marks_is_not_marked() {
    let setup =
        "CREATE TABLE orders (id int PRIMARY KEY, _deleted_at timestamptz, updated_at timestamptz)";
    let case = Case::new(setup, &rule(&json!({"deletes": "mark"})));
    case.sync_fails(1).says("has a column `_deleted_at` of its own");
}

#[test]
fn more_than_may_be_removed_stops_the_table_and_says_what_was_seen() {
    for deletes in ["remove", "mark"] {
        let mut case = orders(&json!({"deletes": deletes}));
        case.at_source(
            "DELETE FROM orders WHERE id > 400; INSERT INTO orders VALUES (0, 'new', 'new', now())",
        );
        let before = case.ask("SELECT orders::text FROM orders ORDER BY 1");
        let run = case.sync_fails(1);
        run.says("600 of the destination's 1000 rows (60 %) would be")
            .says("max_delete_percent` is 50");
        run.says("look whether the source is complete");
        assert_eq!(case.ask("SELECT orders::text FROM orders ORDER BY 1"), before);
        case.assert_nothing_left();
        case.write_tables(&rule(&json!({"deletes": deletes, "max_delete_percent": 60})));
        case.sync().says("600 deleted");
    }
}

#[test]
fn rows_that_have_just_come_make_no_room_for_more_to_be_removed() {
    let mut case = orders(&json!({"deletes": "remove"}));
    case.at_source(
        "DELETE FROM orders; INSERT INTO orders SELECT n, 'new', 'note', now() FROM generate_series(5001, 6000) n",
    );
    case.sync_fails(1).says("1000 of the destination's 1000 rows (100 %) would be removed");
    assert_eq!(case.ask("SELECT min(id) FROM orders"), ["1"]);
    case.run(&["sync", "--full-refresh"]).expect(0);
    case.assert_equal("public.orders");
}

#[test]
fn a_truncated_table_ends_empty_where_all_may_be_removed() {
    let mut case = orders(&json!({"deletes": "remove", "max_delete_percent": 100}));
    case.at_source("TRUNCATE orders");
    case.sync().says("1000 deleted");
    case.assert_equal("public.orders");
}

#[test]
fn a_value_that_changes_places_is_told_what_stands_in_its_way() {
    let mut case = Case::new(
        "CREATE TABLE t (id int PRIMARY KEY, mail text, at timestamptz DEFAULT now());
         INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')",
        &json!([{"name": "t", "replication_key": "at", "deletes": "remove"}]),
    );
    case.sync();
    case.at_destination("CREATE UNIQUE INDEX mails ON t (mail)");
    case.at_source(
        "DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (4, 'a');
         UPDATE t SET mail = 'x' WHERE id = 2;
         UPDATE t SET mail = 'b', at = clock_timestamp() WHERE id = 3;
         UPDATE t SET mail = 'c', at = clock_timestamp() WHERE id = 2",
    );
    case.sync_fails(1).says("\"mails\"").says("DEFERRABLE INITIALLY DEFERRED");
    case.at_destination(
        "DROP INDEX mails; ALTER TABLE t ADD UNIQUE (mail) DEFERRABLE INITIALLY DEFERRED",
    );
    case.sync();
    case.assert_equal("public.t");
}

/// It would compute the digests of what lies below the foreign columns' types.
#[test]
fn no_foreign_server_is_asked_which_rows_differ() {
    let rule = |name: &str, more: &Value| {
        with(json!({"name": name, "unique_cols": ["id"], "max_delete_percent": 100}), more)
    };
    let rules = json!([
        rule("removed", &json!({"replication_key": "at", "deletes": "remove"})),
        rule("compared", &json!({"mode": "diff"})),
    ]);
    let setup = "
        CREATE SCHEMA far; GRANT USAGE ON SCHEMA far TO reader;
        CREATE TABLE far.t (id timestamptz PRIMARY KEY, n int, at timestamptz DEFAULT now());
        INSERT INTO far.t SELECT timestamptz '2026-01-01' + n * interval '1.2345678 s', n FROM generate_series(1, 2000) n;
        GRANT SELECT ON far.t TO reader; CREATE EXTENSION postgres_fdw;";
    let mut case = Case::new(setup, &rules);
    case.at_source(&format!(
        "CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw
           OPTIONS (host '127.0.0.1', port '{}', dbname '{}');
         CREATE USER MAPPING FOR reader SERVER far OPTIONS (user 'reader', password '{ROLE_PASSWORD}');
         CREATE FOREIGN TABLE removed (id timestamptz(3), n int, at timestamptz) SERVER far
           OPTIONS (schema_name 'far', table_name 't');
         CREATE FOREIGN TABLE compared (id timestamptz(3), n int, at timestamptz) SERVER far
           OPTIONS (schema_name 'far', table_name 't')",
        case.source_port(),
        case.database,
    ));
    case.sync();
    case.at_source("DELETE FROM far.t WHERE n IN (7, 700, 1700)");
    case.sync().says("0 rows, 3 deleted");
    for table in ["removed", "compared"] {
        assert_eq!(case.ask(&format!("SELECT count(*) FROM {table}")), ["1997"], "{table}");
    }
    case.run(&["sync", "--verify"]).expect(0);
}

#[test]
fn a_dropped_partition_ends_dropped() {
    let setup = "
        CREATE TABLE orders (id int, region int, updated_at timestamptz, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
        CREATE TABLE one PARTITION OF orders FOR VALUES IN (1); CREATE TABLE two PARTITION OF orders FOR VALUES IN (2);
        INSERT INTO orders SELECT n, 1 + n % 2, '2024-01-01' FROM generate_series(1, 50) n";
    let mut case = Case::new(setup, &rule(&json!({"deletes": "remove"})));
    case.sync();
    case.at_source("DROP TABLE two");
    case.sync().says("25 deleted");
    case.assert_equal("public.orders");
}

#[test]
fn a_reconcile_is_spaced_out_and_can_be_asked_for() {
    let mut case = orders(&json!({"deletes": "remove", "reconcile_every": "24h"}));
    case.at_source("DELETE FROM orders WHERE id = 5");
    case.sync();
    assert_eq!(case.ask("SELECT count(*) FROM orders"), ["1000"]);
    case.run(&["sync", "--reconcile"]).expect(0).says("1 deleted");
    case.at_source("DELETE FROM orders WHERE id = 6");
    case.sync();
    assert_eq!(case.ask("SELECT count(*) FROM orders"), ["999"]);
    // As if the last one had been two days ago.
    let back = "UPDATE _sync_state SET receipt = jsonb_set(receipt, '{reconciled_at}', \
                to_jsonb(to_char(now() AT TIME ZONE 'UTC' - interval '2 days', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')))";
    case.at_destination(back);
    std::fs::remove_dir_all(case.path().join("sync-state")).expect("state files");
    case.sync().says("1 deleted");
    case.sync().says("incremental sync done: 0 rows in");
    case.assert_equal("public.orders");
}

#[test]
fn a_sync_that_looks_for_no_deleted_rows_puts_the_next_look_for_them_off_no_further() {
    let mut case = orders(&json!({"deletes": "remove", "reconcile_every": "24h"}));
    let last = "SELECT receipt ->> 'reconciled_at' FROM _sync_state";
    let first = case.ask(last);
    case.at_source(
        "DELETE FROM orders WHERE id = 5; UPDATE orders SET updated_at = now() WHERE id = 6",
    );
    case.sync().says("incremental sync done: 1 row in");
    assert_eq!(case.ask(last), first);
    case.run(&["sync", "--reconcile"]).expect(0).says("1 deleted");
    assert_ne!(case.ask(last), first);
}

#[test]
fn keys_that_read_alike_in_a_collation_are_kept_apart() {
    let setup = "
        CREATE COLLATION indifferent (provider = icu, locale = 'und-u-ks-level1', deterministic = false);
        CREATE TABLE orders (code text COLLATE \"C\", padded char(4), number numeric, updated_at timestamptz, PRIMARY KEY (code, padded, number));
        INSERT INTO orders VALUES ('a', 'x', 1.0, now()), ('A', 'x', 1.0, now()), ('a ', 'x ', 1, now()),
            ('ä', '', 'NaN', now()), ('', 'x', 2.50, now())";
    let mut case = Case::new(setup, &rule(&json!({"deletes": "remove"})));
    case.sync();
    case.sync().says("incremental sync done: 0 rows in");
    case.at_source(
        "DELETE FROM orders WHERE code = 'A'; UPDATE orders SET number = 1.00 WHERE code = 'a'",
    );
    case.sync();
    case.assert_equal("public.orders");
}

#[test]
fn a_reconcile_killed_in_the_middle_leaves_the_table_as_it_was() {
    let mut case = orders(&json!({"deletes": "remove"}));
    case.at_source("DELETE FROM orders WHERE id <= 10");
    case.run(&["sync", "--crash-at", "compared"]);
    case.wait_until_alone();
    assert_eq!(case.ask("SELECT count(*) FROM orders"), ["1000"]);
    case.sync().says("10 deleted");
    case.assert_equal("public.orders");
}

const ACCOUNTS: &str = "
    CREATE TABLE accounts (id int PRIMARY KEY, email text UNIQUE, at timestamptz DEFAULT clock_timestamp());
    INSERT INTO accounts SELECT n, n || '@example.com' FROM generate_series(1, 10) n";

#[test]
fn a_value_that_a_deleted_row_had_goes_to_another_where_people_made_it_unique() {
    for rule in [
        json!({"replication_key": "at", "deletes": "remove"}),
        json!({"replication_key": "at", "deletes": "remove", "reconcile_every": "30d"}),
        json!({"replication_key": "xmin", "deletes": "remove"}),
        json!({"mode": "diff", "replication_key": "xmin"}),
        json!({"mode": "diff"}),
    ] {
        let mut case = Case::new(ACCOUNTS, &json!([with(json!({"name": "accounts"}), &rule)]));
        case.sync();
        case.at_destination("CREATE UNIQUE INDEX people_need_it ON accounts (email)");
        case.at_source(
            "DELETE FROM accounts WHERE id IN (3, 4);
             INSERT INTO accounts VALUES (11, '3@example.com');
             UPDATE accounts SET email = '4@example.com', at = clock_timestamp() WHERE id = 5",
        );
        case.sync().says("2 deleted");
        case.assert_equal("public.accounts");
        case.sync().says("sync done: 0 rows in");
        case.assert_nothing_left();
    }
}

#[test]
fn what_is_removed_first_is_no_more_than_the_rule_lets_go() {
    let rule = json!({"name": "accounts", "replication_key": "at", "deletes": "remove"});
    let mut case = Case::new(ACCOUNTS, &json!([with(rule, &json!({"max_delete_percent": 10}))]));
    case.at_source(
        "INSERT INTO accounts SELECT n, n || '@example.com' FROM generate_series(11, 200) n",
    );
    case.sync();
    case.at_destination("CREATE UNIQUE INDEX people_need_it ON accounts (email)");
    case.at_source(
        "DELETE FROM accounts WHERE id <= 40; INSERT INTO accounts VALUES (201, '3@example.com')",
    );
    case.sync_fails(1).says("max_delete_percent");
    assert_eq!(case.ask("SELECT count(*) FROM accounts"), ["200"]);
    case.assert_nothing_left();
}

#[test]
fn values_that_rows_exchange_fail_with_a_remedy_that_works() {
    let mut case = Case::new(
        ACCOUNTS,
        &json!([{"name": "accounts", "replication_key": "at", "deletes": "remove"}]),
    );
    case.sync();
    case.at_destination("ALTER TABLE accounts ADD CONSTRAINT people_need_it UNIQUE (email)");
    case.at_source(
        "UPDATE accounts SET email = 'x', at = clock_timestamp() WHERE id = 1;
         UPDATE accounts SET email = '1@example.com', at = clock_timestamp() WHERE id = 2;
         UPDATE accounts SET email = '2@example.com', at = clock_timestamp() WHERE id = 1",
    );
    case.sync_fails(1).says("DEFERRABLE INITIALLY DEFERRED");
    case.at_destination(
        "ALTER TABLE accounts DROP CONSTRAINT people_need_it,
         ADD CONSTRAINT people_need_it UNIQUE (email) DEFERRABLE INITIALLY DEFERRED",
    );
    case.sync();
    case.assert_equal("public.accounts");
}

/// What an attempt has inserted and undone, the server's statistics count for a while as new rows.
#[test]
fn what_is_removed_first_is_measured_without_the_attempt_that_was_undone() {
    let run = |rows: u32, deleted: u32, new: u32, code: i32| {
        let mut case = Case::new(
            ACCOUNTS,
            &json!([{"name": "accounts", "replication_key": "at", "deletes": "remove"}]),
        );
        case.at_source(&format!(
            "TRUNCATE accounts; INSERT INTO accounts SELECT n, n || '@example.com' FROM generate_series(1, {rows}) n"
        ));
        case.sync();
        case.at_destination("CREATE UNIQUE INDEX people_need_it ON accounts (email)");
        case.at_source(&format!(
            "DELETE FROM accounts WHERE id <= {deleted};
             INSERT INTO accounts SELECT 5000 + n, 'new ' || n FROM generate_series(2, {new}) n;
             INSERT INTO accounts VALUES (9000, '1@example.com')"
        ));
        case.run(&["sync"]).expect(code);
        case
    };
    // 95 % of the old rows.
    let mut stopped = run(200, 190, 150, 1);
    assert_eq!(stopped.ask("SELECT count(*) FROM accounts"), ["200"]);
    // 30 % of them.
    let mut done = run(1000, 300, 600, 0);
    done.assert_equal("public.accounts");
}

#[test]
fn what_is_removed_first_are_rows_whose_keys_are_gone_and_no_doubled_ones() {
    let mut case = Case::new(
        "CREATE TABLE t (id int, code text, at timestamptz DEFAULT clock_timestamp());
         INSERT INTO t SELECT n, 'c' || n FROM generate_series(1, 20) n",
        &json!([{"name": "t", "replication_key": "at", "deletes": "remove", "reconcile_every": "1d",
                 "unique_cols": ["id"]}]),
    );
    case.sync();
    case.at_destination("CREATE UNIQUE INDEX people_need_it ON t (code)");
    case.at_source(
        "INSERT INTO t VALUES (10, 'other', now() - interval '2 days');
         DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (21, 'c1')",
    );
    case.run(&["sync"]);
    assert_eq!(case.ask("SELECT count(*) FROM t WHERE id = 10"), ["1"]);
}
