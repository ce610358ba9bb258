//! Tables without a replication key, of which only what differs travels.

use serde_json::{Value, json};

use crate::support::case::{Case, with};
use crate::support::judge;

const STOCK: &str = "
    CREATE TABLE stock (id int PRIMARY KEY, amount numeric, note text, tags text[], seen timestamptz);
    INSERT INTO stock SELECT n, n / 3.0, 'note ' || n, array['a', NULL, n::text], '2024-01-01' FROM generate_series(1, 5000) n;";

fn rule(more: &Value) -> Value {
    json!([with(json!({"name": "stock", "mode": "diff"}), more)])
}

fn stock(more: &Value) -> Case {
    let case = Case::new(STOCK, &rule(more));
    case.sync().says("initial sync");
    case
}

#[test]
fn only_what_differs_travels_and_what_is_gone_is_removed() {
    let mut case = stock(&json!({}));
    case.sync().says("incremental sync: by digests").says("incremental sync done: 0 rows in");
    case.at_source(
        "UPDATE stock SET amount = amount + 1 WHERE id % 100 = 0;
         UPDATE stock SET note = NULL WHERE id = 7;
         DELETE FROM stock WHERE id % 1000 = 1;
         INSERT INTO stock (id) VALUES (0), (-1)",
    );
    case.sync().says("incremental sync done: 53 rows, 5 deleted");
    case.assert_equal("public.stock");
    case.sync().says("incremental sync done: 0 rows in");
    case.assert_nothing_left();
}

#[test]
fn rows_that_are_gone_are_kept_or_marked_where_the_rule_says_so() {
    let mut case = stock(&json!({"deletes": "keep"}));
    case.at_source("DELETE FROM stock WHERE id = 1; UPDATE stock SET note = 'x' WHERE id = 2");
    case.sync().says("incremental sync done: 1 row in");
    assert_eq!(case.ask("SELECT count(*) FROM stock"), ["5000"]);
    let mut case = stock(&json!({"deletes": "mark"}));
    case.at_source("DELETE FROM stock WHERE id = 1");
    case.sync().says("1 deleted");
    assert_eq!(case.ask("SELECT id FROM stock WHERE _deleted_at IS NOT NULL"), ["1"]);
    case.at_source("INSERT INTO stock (id) VALUES (1)");
    case.sync().says("1 row in");
    assert_eq!(case.ask("SELECT id FROM stock WHERE _deleted_at IS NOT NULL"), [""; 0]);
}

#[test]
fn values_that_are_equal_and_not_the_same_differ() {
    let setup = "CREATE TABLE stock (id int PRIMARY KEY, amount numeric, real_amount float8, document jsonb, span interval);
        INSERT INTO stock VALUES (1, 1.0, 0, '1.0', '1 mon'), (2, 1.0, 0, '1.0', '1 mon'), (3, 1, 'NaN', '1', '1 day')";
    let mut case = Case::new(setup, &rule(&json!({})));
    case.sync();
    case.sync().says("incremental sync done: 0 rows in");
    case.at_source("UPDATE stock SET amount = 1.00, real_amount = '-0', document = '1.00', span = '30 days' WHERE id = 1");
    // A NaN of another form reads the same.
    case.at_source(
        "UPDATE stock SET real_amount = 'infinity'::float8 - 'infinity'::float8 WHERE id = 3",
    );
    case.sync().says("incremental sync done: 1 row in");
    case.assert_equal("public.stock");
}

#[test]
fn a_safety_stop_holds_for_a_diff_too() {
    let mut case = stock(&json!({}));
    case.at_source("TRUNCATE stock");
    case.sync_fails(1).says("5000 of the destination's 5000 rows (100 %) would be removed");
    assert_eq!(case.ask("SELECT count(*) FROM stock"), ["5000"]);
    case.write_tables(&rule(&json!({"max_delete_percent": 100})));
    case.sync().says("5000 deleted");
    case.assert_equal("public.stock");
}

#[test]
fn a_view_is_compared_like_a_table() {
    let setup = format!("{STOCK} CREATE VIEW seen AS SELECT id, note FROM stock WHERE id < 100");
    let mut case =
        Case::new(&setup, &json!([{"name": "seen", "mode": "diff", "unique_cols": ["id"]}]));
    case.sync();
    case.at_source("UPDATE stock SET note = 'other' WHERE id = 5; DELETE FROM stock WHERE id = 6");
    case.sync().says("incremental sync done: 1 row, 1 deleted");
    case.assert_equal("public.seen");
}

#[test]
fn a_table_that_was_spoilt_by_hand_is_put_right() {
    let mut case = stock(&json!({"where": "stock.id % 2 = 0"}));
    case.at_destination(
        "UPDATE stock SET note = 'spoilt' WHERE id = 4; DELETE FROM stock WHERE id = 6;
         INSERT INTO stock (id) VALUES (7)",
    );
    case.sync().says("incremental sync done: 2 rows, 1 deleted");
    assert_eq!(case.ask("SELECT count(*) FROM stock WHERE id % 2 = 0"), ["2500"]);
    case.run(&["verify"]).expect(0);
}

#[test]
fn unchanged_rows_are_not_digested_where_nobody_else_writes_to_the_destination() {
    let mut case = stock(&json!({}));
    case.at_source("UPDATE stock SET note = 'x' WHERE id = 1; DELETE FROM stock WHERE id = 2");
    let run = case.run(&["sync", "-v"]);
    run.expect(0).says("1 row, 1 deleted");
    assert!(!run.stdout.contains("AS row_digest"), "{}", run.stdout);
    case.assert_equal("public.stock");
    // Somebody does, in a transaction that began before the sync and ends after it.
    let mut other = case.destination_superuser();
    other.batch_execute("BEGIN; UPDATE stock SET note = 'spoilt' WHERE id = 3").expect("a row");
    case.at_source("UPDATE stock SET note = 'y' WHERE id = 1");
    case.sync().says("1 row in");
    other.batch_execute("COMMIT").expect("an end");
    case.at_source("UPDATE stock SET note = 'z' WHERE id = 1");
    let run = case.run(&["sync", "-v"]);
    run.expect(0).says("2 rows in").says("AS row_digest");
    case.assert_equal("public.stock");
}

#[test]
fn nothing_that_happened_to_the_destination_goes_unnoticed() {
    let spoil = "UPDATE stock SET note = 'spoilt' WHERE id = 3";
    let tricks: [&str; 5] = [
        &format!("{spoil}; DELETE FROM _sync_state"),
        "ALTER TABLE stock DROP COLUMN note; ALTER TABLE stock ADD COLUMN note text",
        "CREATE TABLE other AS SELECT * FROM stock WHERE id <> 4; DROP TABLE stock; ALTER TABLE other RENAME TO stock",
        &format!("{spoil}; UPDATE _sync_state SET version = version"),
        // As in a dump that was restored in one transaction.
        &format!(
            "{spoil}; CREATE TABLE restored (LIKE stock INCLUDING ALL); INSERT INTO restored SELECT * FROM stock;
             DROP TABLE stock; ALTER TABLE restored RENAME TO stock;
             CREATE TABLE receipts (LIKE _sync_state INCLUDING ALL); INSERT INTO receipts SELECT * FROM _sync_state;
             DROP TABLE _sync_state; ALTER TABLE receipts RENAME TO _sync_state"
        ),
    ];
    for trick in tricks {
        let mut case = stock(&json!({}));
        // As if this had been before the last sync.
        case.at_destination("CREATE TABLE copied AS TABLE stock");
        case.at_source("UPDATE stock SET note = 'x' WHERE id = 1");
        case.sync();
        case.at_destination(trick);
        case.at_source("UPDATE stock SET note = 'y' WHERE id = 2");
        case.sync();
        case.run(&["verify", "-q"]).expect(0);
        case.assert_nothing_left();
    }
}

#[test]
fn a_diff_that_had_to_compare_all_rows_need_not_the_next_time() {
    let mut case = stock(&json!({}));
    case.at_destination("UPDATE stock SET note = note WHERE id = 1");
    // As long as older transactions are at work, it may be a later one for all that the sync can tell.
    let settled = "SELECT 1 FROM stock WHERE id = 1 AND xmin::text::bigint \
                   < txid_snapshot_xmin(txid_current_snapshot()) % (1::bigint << 32)";
    judge::wait_for(&mut case.destination_superuser(), settled);
    case.sync().says("incremental sync done: 0 rows in");
    let run = case.run(&["sync", "-v"]);
    assert!(!run.stdout.contains("AS row_digest"), "{}", run.stdout);
    let written = case.ask("SELECT xmin FROM _sync_state");
    case.sync();
    assert_eq!(case.ask("SELECT xmin FROM _sync_state"), written);
}

#[test]
fn a_column_that_a_sync_makes_refuse_null_is_no_change_of_others() {
    let mut case = stock(&json!({}));
    case.at_source("UPDATE stock SET tags = '{}' WHERE tags IS NULL; ALTER TABLE stock ALTER tags SET NOT NULL");
    case.sync();
    let written = case.ask("SELECT xmin FROM _sync_state");
    let run = case.run(&["sync", "-v"]);
    assert!(!run.stdout.contains("AS row_digest"), "{}", run.stdout);
    assert_eq!(case.ask("SELECT xmin FROM _sync_state"), written);
}

#[test]
fn a_row_that_left_the_filter_and_came_back_is_not_forgotten() {
    let setup = "CREATE TABLE vip (id int PRIMARY KEY); INSERT INTO vip VALUES (1), (2);
                 CREATE TABLE stock (id int PRIMARY KEY, note text); INSERT INTO stock VALUES (1, 'a'), (2, 'a');";
    let filter = json!({"where": "id IN (SELECT id FROM public.vip)", "deletes": "keep"});
    let mut case = Case::new(setup, &rule(&filter));
    case.sync();
    case.at_source("DELETE FROM vip WHERE id = 1; UPDATE stock SET note = 'b' WHERE id = 1");
    case.sync();
    case.at_source("INSERT INTO vip VALUES (1)");
    case.sync();
    case.assert_equal("public.stock");
}

#[test]
fn more_rows_than_one_query_can_name_travel_all_the_same() {
    let setup = "CREATE TABLE stock (id int PRIMARY KEY, n int);
                 INSERT INTO stock SELECT n, 0 FROM generate_series(1, 250000) n";
    let mut case = Case::new(setup, &rule(&json!({})));
    case.sync();
    case.at_source("UPDATE stock SET n = 1");
    // Somebody has written to the destination, so that digests find what differs.
    case.at_destination("UPDATE stock SET n = 2 WHERE id = 1");
    case.sync().says("incremental sync done: 250000 rows in");
    case.run(&["verify"]).expect(0).says("250000 rows");
}
