//! Versions of rows, added and never changed.

use serde_json::{Value, json};

use crate::support::case::Case;

const PRICES: &str = "
    CREATE TABLE prices (id int PRIMARY KEY, price numeric(8,2), updated_at timestamptz DEFAULT now());
    INSERT INTO prices VALUES (1, 1.00, '2024-01-01'), (2, 2.00, '2024-01-01'), (3, 3.00, NULL);";

fn rule() -> Value {
    json!([{"name": "prices", "replication_key": "updated_at", "mode": "incremental-append"}])
}

fn prices() -> Case {
    let case = Case::new(PRICES, &rule());
    case.sync();
    case
}

fn versions(case: &mut Case) -> Vec<String> {
    case.ask("SELECT id || ' ' || price FROM prices ORDER BY 1")
}

#[test]
fn every_version_is_added_once_and_none_is_changed() {
    let mut case = prices();
    case.at_source("UPDATE prices SET price = 1.50, updated_at = now() WHERE id = 1");
    case.sync().says("incremental sync done: 1 row in");
    case.at_source("UPDATE prices SET price = 1.60, updated_at = now() WHERE id = 1");
    case.at_source("DELETE FROM prices WHERE id = 2");
    case.sync().says("incremental sync done: 1 row in");
    // The row without a key is read again and again, and is there already.
    case.sync().says("incremental sync done: 0 rows in");
    assert_eq!(versions(&mut case), ["1 1.00", "1 1.50", "1 1.60", "2 2.00", "3 3.00"]);
    case.assert_nothing_left();
}

#[test]
fn a_repeated_or_crashed_sync_adds_nothing_twice() {
    let mut case = prices();
    case.at_source("UPDATE prices SET price = price + 1, updated_at = now()");
    for point in ["loading", "merged", "receipt-written", "committed", "state-file-written"] {
        case.run(&["sync", "--crash-at", point]);
        case.wait_until_alone();
    }
    case.sync();
    let expected = ["1 1.00", "1 2.00", "2 2.00", "2 3.00", "3 3.00", "3 4.00"];
    assert_eq!(versions(&mut case), expected);
    // Nothing is remembered: all is read, and nothing added.
    case.at_destination("DELETE FROM _sync_state; DROP TABLE prices_stg");
    std::fs::remove_dir_all(case.path().join("sync-state")).expect("state files");
    case.sync().says("incremental sync");
    assert_eq!(versions(&mut case), expected);
}

#[test]
fn versions_that_are_equal_and_not_the_same_are_both_kept() {
    let setup = "CREATE TABLE prices (id int PRIMARY KEY, price numeric, document json, updated_at timestamptz);
                 INSERT INTO prices VALUES (1, 1.0, '{}', now())";
    let mut case = Case::new(setup, &rule());
    case.sync();
    case.at_source("UPDATE prices SET price = 1.00, document = '{ }', updated_at = now()");
    case.sync().says("1 row in");
    assert_eq!(versions(&mut case), ["1 1.0", "1 1.00"]);
}

#[test]
fn a_changed_schema_does_not_cost_the_versions() {
    let mut case = prices();
    case.at_source("UPDATE prices SET price = 1.50, updated_at = now() WHERE id = 1");
    case.sync();
    case.at_source("ALTER TABLE prices ADD COLUMN note text");
    let run = case.sync_fails(1);
    run.says("would lose the versions that only the destination has").says("--full-refresh");
    assert_eq!(versions(&mut case).len(), 4);
    case.run(&["sync", "--full-refresh"]).expect(0);
    assert_eq!(versions(&mut case), ["1 1.50", "2 2.00", "3 3.00"]);
}

#[test]
fn verify_looks_for_the_source_among_the_versions() {
    let mut case = prices();
    case.at_source("UPDATE prices SET price = 1.50, updated_at = now() WHERE id = 1");
    case.sync();
    case.run(&["verify"]).expect(0).says("every version is there");
    case.run(&["sync", "--verify"]).expect(0).says("verified");
    case.at_destination(
        "DELETE FROM prices WHERE price = 1.50; UPDATE prices SET price = 9 WHERE id = 2",
    );
    case.run(&["verify"]).expect(1).says("2 missing");
    case.run(&["verify", "--repair"]).expect(0).says("repaired: 2 rows written");
    case.run(&["verify"]).expect(0);
    assert_eq!(versions(&mut case), ["1 1.00", "1 1.50", "2 2.00", "2 9.00", "3 3.00"]);
}

#[test]
fn a_version_is_not_deleted() {
    let rules = json!([{"name": "prices", "replication_key": "updated_at", "mode": "incremental-append", "deletes": "remove"}]);
    let case = Case::new(PRICES, &rules);
    case.sync_fails(2).says("`deletes` must be `keep`");
}

#[test]
fn a_not_a_number_of_another_form_is_the_same_version() {
    let setup = "CREATE TABLE prices (id int PRIMARY KEY, price float8, updated_at timestamptz);
                 INSERT INTO prices VALUES (1, 'infinity'::float8 - 'infinity'::float8, now())";
    let mut case = Case::new(setup, &rule());
    case.sync();
    case.at_destination(
        "UPDATE _sync_state SET receipt = jsonb_set(receipt, '{watermark}', 'null')",
    );
    case.sync().says("incremental sync done: 0 rows in");
    assert_eq!(versions(&mut case), ["1 NaN"]);
}
