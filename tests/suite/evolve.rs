//! Columns that come, go and change their names, followed in place.

use serde_json::json;

use crate::support::case::{Case, by, with};

const TABLE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, a text, b int, c text, at timestamptz DEFAULT now());
    INSERT INTO t SELECT n, 'a' || n, n, 'c' FROM generate_series(1, 100) n;
    CREATE TABLE parts (id int, at int, a text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (1) TO (9);
    INSERT INTO parts VALUES (1, 1, 'x');";

fn evolving() -> Case {
    let evolve = json!({"on_schema_change": "evolve", "lookback": 0});
    Case::new(TABLE, &json!([with(by("t", "at"), &evolve), with(by("parts", "at"), &evolve)]))
}

#[test]
fn columns_are_renamed_dropped_and_added_in_place_and_no_value_is_lost() {
    let mut case = evolving();
    case.sync();
    case.at_destination("CREATE VIEW seen AS SELECT id, a FROM t; CREATE INDEX mine ON t (b)");
    case.at_source("ALTER TABLE parts RENAME a TO z");
    case.at_source(
        "ALTER TABLE t RENAME a TO z; ALTER TABLE t DROP c; ALTER TABLE t ADD a int; ALTER TABLE t ADD e text;
         UPDATE t SET a = id WHERE id <= 3; INSERT INTO t VALUES (101, 'new')",
    );
    // The update has not moved the key, and the values are there all the same.
    case.sync()
        .says("the schema is changed in place: `c` is gone, `a` is `z` now, `a` is new, `e` is new")
        .says("t-incremental-4 || parts-incremental-0");
    case.assert_equal("public.t");
    case.assert_equal("public.parts");
    assert_eq!(case.ask("SELECT count(*) FROM seen"), ["101"]);
    assert_eq!(case.ask("SELECT a FROM seen WHERE id = 7"), ["a7"]);
    case.sync().says("t-incremental-0 || parts-incremental-0");
    case.assert_nothing_left();
}

#[test]
fn what_may_change_a_value_leads_to_a_new_copy() {
    let mut case = evolving();
    for (number, altered) in [
        "ALTER TABLE t ADD d int DEFAULT 7",
        "ALTER TABLE t ALTER b TYPE bigint",
        "ALTER TABLE parts ADD d int DEFAULT 7",
        "ALTER TABLE t DROP b; ALTER TABLE t ADD b int GENERATED ALWAYS AS (id * 2) STORED",
    ]
    .into_iter()
    .enumerate()
    {
        case.sync();
        case.at_source(altered);
        let run = case.sync();
        assert_eq!(run.stdout.matches(": initial sync: ").count(), 1, "{number}: {}", run.stdout);
        case.assert_equal("public.t");
        case.assert_equal("public.parts");
    }
}

#[test]
fn a_column_that_was_left_out_is_no_new_one() {
    let mut case = Case::new(TABLE, &json!([]));
    let rule =
        |more| json!([with(with(by("t", "at"), &json!({"on_schema_change": "evolve"})), &more)]);
    case.write_tables(&rule(json!({"columns": {"exclude": ["c"]}})));
    case.sync();
    case.write_tables(&rule(json!({})));
    case.sync().says("t: initial sync: the source has a new column `c`");
    case.assert_equal("public.t");
    case.write_tables(&rule(json!({"columns": {"exclude": ["c"]}})));
    case.sync().says("the schema is changed in place: `c` is gone");
    assert_eq!(case.ask("SELECT count(*) FROM t WHERE a LIKE 'a%'"), ["100"]);
}

#[test]
fn what_depends_on_a_column_that_goes_is_named_and_nothing_happens() {
    let mut case = evolving();
    case.sync();
    case.at_destination("CREATE VIEW seen AS SELECT c FROM t");
    case.at_source("ALTER TABLE t DROP c; INSERT INTO t VALUES (101)");
    case.sync_fails(1).says("view public.seen depends on column c").says("drop what depends on it");
    assert_eq!(case.ask("SELECT count(c) FROM seen"), ["100"]);
    case.at_destination("DROP VIEW seen");
    case.sync();
    case.assert_equal("public.t");
}

#[test]
fn a_table_that_is_compared_by_digests_follows_too() {
    let mut case =
        Case::new(TABLE, &json!([{"name": "t", "mode": "diff", "on_schema_change": "evolve"}]));
    case.sync();
    case.at_source("ALTER TABLE t RENAME a TO z; ALTER TABLE t ADD e text NOT NULL DEFAULT 'x'");
    case.sync().says("t: initial sync");
    case.at_source("ALTER TABLE t RENAME z TO a; ALTER TABLE t ADD f int; UPDATE t SET f = 1 WHERE id < 9; DELETE FROM t WHERE id > 90");
    case.sync().says("the schema is changed in place: `z` is `a` now, `f` is new");
    case.assert_equal("public.t");
    case.sync().says("t-incremental-0");
}

#[test]
fn a_key_that_is_another_column_is_not_followed_from_where_the_old_one_was() {
    let evolve = json!({"on_schema_change": "evolve", "settle": "100ms"});
    let mut case = Case::new(
        "CREATE TABLE t (id int PRIMARY KEY, rev text); INSERT INTO t SELECT n, 'z' || n FROM generate_series(1, 9) n;
         CREATE TABLE u (id int PRIMARY KEY, at timestamptz DEFAULT now()); INSERT INTO u VALUES (1), (2)",
        &json!([with(by("t", "rev"), &evolve), with(by("u", "at"), &evolve)]),
    );
    case.sync();
    case.at_source(
        "ALTER TABLE t RENAME rev TO old; ALTER TABLE t ADD rev text; UPDATE t SET rev = 'a' || id;
         ALTER TABLE u RENAME at TO old; ALTER TABLE u ADD at bigint; UPDATE u SET at = id",
    );
    let mut busy = case.another_source();
    busy.batch_execute("BEGIN; CREATE TABLE other (a int)").expect("a transaction in flight");
    case.sync().says("t: initial sync").says("u: initial sync");
    case.at_source("INSERT INTO t VALUES (100, NULL, 'b0'); INSERT INTO u VALUES (3, NULL, 3)");
    busy.batch_execute("COMMIT").expect("an end");
    case.sync();
    case.verify(0);
}
