//! Tables that somebody empties and fills again, or rewrites, while a sync waits for them: an older
//! snapshot sees nothing in them.

use serde_json::{Value, json};

use crate::support::case::{Case, OURS, Run};
use crate::support::judge;

/// A table of 200 rows that the reader may read by columns only, one whose rows a condition and a policy
/// name, and views.
const SETUP: &str = "
    CREATE TABLE base (id int PRIMARY KEY, note text NOT NULL);
    INSERT INTO base SELECT n, 'note ' || n FROM generate_series(1, 200) n;
    CREATE VIEW shown AS SELECT * FROM base;
    CREATE VIEW above AS SELECT * FROM shown WHERE id > 0;
    CREATE TABLE t (LIKE base INCLUDING ALL); INSERT INTO t SELECT * FROM base;
    CREATE TABLE guarded (LIKE base INCLUDING ALL); INSERT INTO guarded SELECT * FROM base;
    ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
    GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;
    CREATE POLICY p ON guarded USING (id IN (SELECT id FROM base));";

const REFILL: &str =
    "TRUNCATE base; INSERT INTO base SELECT n, 'new ' || n FROM generate_series(1, 200) n";
const REWRITE: &str = "ALTER TABLE base ADD token uuid DEFAULT gen_random_uuid()";
const REPLACE: &str = "ALTER TABLE base RENAME TO old; CREATE TABLE base AS TABLE old; \
                       GRANT SELECT ON base TO reader";

/// Does something at the source, and lets go once a sync waits for it, which then goes on.
fn meanwhile(case: &Case, then: &str, arguments: &[&str]) -> Run {
    let mut holder = case.another_source();
    holder.batch_execute(&format!("BEGIN; {then}")).expect("a change");
    let child = case.start(arguments);
    case.until(&format!(
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND {OURS}"
    ));
    holder.batch_execute("COMMIT").expect("an end");
    Run::from(child.wait_with_output().expect("a run"))
}

#[test]
fn what_is_rewritten_below_a_snapshot_is_read_in_another() {
    let whole = |name: &str| json!({"name": name, "mode": "full-refresh"});
    let differs = |name: &str| json!({"name": name, "mode": "diff", "unique_cols": ["id"]});
    let mut some = whole("t");
    some["where"] = Value::from("id IN (SELECT id FROM public.base)");
    let columns = "REVOKE SELECT ON base FROM reader; GRANT SELECT (id, note) ON base TO reader";
    let cases = [
        ("", whole("shown"), REFILL),
        ("", whole("above"), REWRITE),
        ("", differs("above"), REFILL),
        ("", some.clone(), REFILL),
        ("", some, REPLACE),
        ("", differs("guarded"), REFILL),
        (columns, whole("base"), REFILL),
    ];
    for (before, rule, then) in cases {
        let name = rule["name"].as_str().unwrap_or_default().to_owned();
        let mut case = Case::new(&format!("{SETUP} {before}"), &json!([rule]));
        case.sync();
        assert_eq!(case.ask(&format!("SELECT count(*) FROM {name}")), ["200"], "{rule}");
        let run = meanwhile(&case, then, &["sync"]);
        run.expect(0).says("somebody has emptied, rewritten or replaced public.base meanwhile");
        assert_eq!(case.ask(&format!("SELECT count(*) FROM {name}")), ["200"], "{rule}");
        case.verify(0);
        // What is verified at the same time is no exception.
        let run = meanwhile(&case, REFILL, &["verify"]);
        run.says("somebody has emptied, rewritten or replaced public.base meanwhile");
    }
}

#[test]
fn what_is_locked_before_the_snapshot_is_read_once() {
    let mut case = Case::new(SETUP, &json!([{"name": "base", "mode": "full-refresh"}]));
    case.sync();
    let run = meanwhile(&case, REFILL, &["sync"]);
    run.expect(0);
    assert!(!run.stdout.contains("meanwhile"), "{}", run.stdout);
    assert_eq!(case.ask("SELECT count(*) FROM base WHERE note LIKE 'new %'"), ["200"]);
}

/// To attach a partition locks nobody out, and no snapshot keeps from seeing it, with the rows as they were
/// before the same transaction altered them.
#[test]
fn a_partition_that_is_attached_below_a_snapshot_is_read_in_another() {
    let mut case = Case::new(
        "CREATE TABLE p (id int PRIMARY KEY, at timestamptz DEFAULT clock_timestamp()) PARTITION BY RANGE (id);
         CREATE TABLE p_low PARTITION OF p FOR VALUES FROM (0) TO (100);
         CREATE TABLE p_high PARTITION OF p FOR VALUES FROM (100) TO (200);
         INSERT INTO p SELECT n FROM generate_series(1, 149) n",
        &json!([{"name": "p", "replication_key": "at", "deletes": "remove", "max_delete_percent": 100}]),
    );
    case.sync();
    case.at_source(
        "ALTER TABLE p DETACH PARTITION p_high; UPDATE p SET at = clock_timestamp() WHERE id = 1",
    );
    let mut holder = case.destination_superuser();
    holder.batch_execute("BEGIN; LOCK TABLE p IN SHARE MODE").expect("a lock");
    let child = case.start(&["sync"]);
    let mut watcher = case.destination_superuser();
    judge::wait_for(
        &mut watcher,
        "SELECT 1 FROM pg_locks WHERE relation = 'p'::regclass AND NOT granted",
    );
    case.at_source(
        "BEGIN; DELETE FROM p_high WHERE id < 110;
         ALTER TABLE p ATTACH PARTITION p_high FOR VALUES FROM (100) TO (200); COMMIT",
    );
    holder.batch_execute("COMMIT").expect("an end");
    let run = Run::from(child.wait_with_output().expect("a run"));
    run.expect(0).says("somebody has emptied, rewritten or replaced public.p_high meanwhile");
    case.assert_equal("public.p");
}
