//! Keys that do not grow: given out again, put right, emptied, and what runs that overlap make of them.

use std::process::Child;

use serde_json::{Value, json};

use crate::support::case::{Case, Run, by, create_roles, with};
use crate::support::judge;
use crate::support::server::Servers;

#[test]
fn keys_that_are_used_again_are_not_lost() {
    let mut case = Case::new(
        "CREATE TABLE t (id int PRIMARY KEY, note text);
         INSERT INTO t SELECT n, 'old' FROM generate_series(1, 100) n",
        &json!([by("t", "id"), {"name": "t", "destination_name": "n", "replication_key": "id",
                 "columns": {"include": ["id", "note"]}, "deletes": "remove"}]),
    );
    case.sync();
    for _ in 0..3 {
        case.at_source(
            "DELETE FROM t WHERE id > 90; INSERT INTO t SELECT n, 'new' FROM generate_series(91, 95) n",
        );
        case.sync();
        let kept = case.ask("SELECT count(*) FROM t WHERE id > 90 AND id <= 95 AND note = 'new'");
        assert_eq!(kept, ["5"]);
        assert_eq!(case.ask("SELECT count(*) FROM n"), ["95"]);
        case.at_source("INSERT INTO t SELECT n, 'old' FROM generate_series(96, 100) n; UPDATE t SET note = 'old'");
        case.sync();
    }
}

#[test]
fn rows_that_a_wrong_key_has_hidden_arrive_once_it_is_put_right() {
    for kind in ["bigint", "numeric"] {
        let mut case = Case::new(
            &format!(
                "CREATE TABLE t (id int PRIMARY KEY, version {kind}); CREATE INDEX ON t (version);
                 INSERT INTO t SELECT n, n FROM generate_series(1, 10) n"
            ),
            &json!([by("t", "version")]),
        );
        case.sync();
        case.at_source("INSERT INTO t VALUES (11, 1000000)");
        case.sync();
        for id in 12..15 {
            case.at_source(&format!("INSERT INTO t VALUES ({id}, {id}), ({id}00, 1000000)"));
            case.sync();
        }
        case.at_source("UPDATE t SET version = 9 WHERE version = 1000000");
        case.run(&["-v", "sync"])
            .expect(0)
            .says("the greatest replication key may have gone back: 14 now, 1000000 before");
        case.verify(0);
        case.at_source("INSERT INTO t VALUES (15, 15)");
        case.sync().says("t-incremental-");
        case.sync().says("t-incremental-0");
        case.verify(0);
    }
}

/// By this key alone, without any lookback.
fn strictly(name: &str, key: &str) -> Value {
    with(by(name, key), &json!({"lookback": 0, "settle": "50ms", "initial": "copy"}))
}

#[test]
fn a_table_that_was_seen_without_a_key_is_read_from_the_beginning() {
    let number = "CREATE TABLE t (id int PRIMARY KEY, note text, key bigint);
         INSERT INTO t SELECT n, 'old', n FROM generate_series(1, 200) n";
    let numbers = "INSERT INTO t SELECT n, 'new', n FROM generate_series(1, 250) n";
    let time = "CREATE TABLE t (id int PRIMARY KEY, note text, key timestamptz);
         INSERT INTO t SELECT n, 'old', now() - interval '30 days' FROM generate_series(1, 200) n;
         INSERT INTO t VALUES (0, 'old', now())";
    let times =
        "INSERT INTO t SELECT n, 'new', now() - interval '29 days' FROM generate_series(0, 200) n";
    let put_right = "UPDATE t SET key = id, note = 'new'";
    let stories = [
        (number, "TRUNCATE t", numbers),
        (number, "DELETE FROM t", numbers),
        (number, "UPDATE t SET key = NULL", put_right),
        (time, "TRUNCATE t", times),
        (time, "DELETE FROM t", times),
    ];
    for (setup, emptied, filled) in stories {
        let mut case = Case::new(setup, &json!([strictly("t", "key")]));
        case.sync();
        case.at_source(emptied);
        case.sync();
        case.sync().says("t-incremental-0");
        case.at_source(filled);
        case.sync();
        case.verify(0);
        assert_eq!(case.ask("SELECT count(*) FROM t WHERE note = 'old'"), ["0"], "{emptied}");
        case.sync().says("t-incremental-0");
    }
}

#[test]
fn a_part_that_was_emptied_is_read_whole_once_it_is_filled() {
    for in_flight in [false, true] {
        let mut case = Case::new(
            "CREATE TABLE t (id int, region int, note text, key timestamptz, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
             CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2);
             CREATE TABLE t3 PARTITION OF t FOR VALUES IN (3);
             INSERT INTO t SELECT n, 1 + n % 2, 'old', now() - interval '30 days' FROM generate_series(1, 200) n;
             INSERT INTO t VALUES (0, 1, 'old', now())",
            &json!([strictly("t", "key")]),
        );
        case.sync();
        case.at_source("TRUNCATE t2");
        let mut loader = case.another_source();
        let load = "INSERT INTO t SELECT n, 2, 'new', now() - interval '29 days' FROM generate_series(1, 199, 2) n";
        if in_flight {
            loader.batch_execute(&format!("BEGIN; {load}")).expect("rows");
        }
        case.sync();
        loader.batch_execute(if in_flight { "COMMIT" } else { load }).expect("rows");
        case.sync();
        case.verify(0);
        case.sync().says("t-incremental-0");
        // A part that is still empty keeps nobody from finding the table idle.
        let run = case.run(&["-v", "sync"]);
        assert!(!run.stdout.contains("COPY"), "{}", run.stdout);
        case.at_source("INSERT INTO t VALUES (1, 3, 'first', now() - interval '40 days')");
        case.sync().says("t-incremental-1");
        case.verify(0);
    }
}

#[test]
fn keys_that_go_back_beside_an_idle_transaction_are_not_lost() {
    for kind in ["bigint", "numeric"] {
        let mut case = Case::new(
            &format!(
                "CREATE TABLE t (id int PRIMARY KEY, key {kind});
                 INSERT INTO t SELECT n, n FROM generate_series(1, 200) n"
            ),
            &json!([strictly("t", "key")]),
        );
        case.sync();
        case.at_source(
            "DELETE FROM t WHERE id = 200; UPDATE t SET key = 150 WHERE key > 150; INSERT INTO t VALUES (1000, 151)",
        );
        let mut idle = case.another_source();
        idle.batch_execute("BEGIN; SELECT 1").expect("an idle transaction");
        case.sync();
        // More marks than are kept, all of them behind the idle transaction.
        for key in 201..240 {
            case.at_source(&format!("INSERT INTO t VALUES ({}, {key})", 3000 + key));
            case.sync();
        }
        idle.batch_execute("COMMIT").expect("an end");
        case.at_source("INSERT INTO t SELECT 2000 + n, n FROM generate_series(152, 250) n");
        case.sync();
        let lost = case.ask("SELECT 99 - count(*) FROM t WHERE id BETWEEN 2000 AND 2999");
        assert_eq!(lost, ["0"], "{kind}");
    }
}

/// A run that waits at its first table, `a`, which somebody holds at the destination.
struct Waiting {
    holder: postgres::Client,
    run: Child,
}

/// Two tables with new rows, of which a run writes the first one first.
fn two_tables(servers: &Servers) -> Case {
    two_tables_with(servers, "bigint", "")
}

/// The same with keys of a type that a function makes of numbers.
fn two_tables_with(servers: &Servers, kind: &str, made_by: &str) -> Case {
    let make = |name: &str| {
        format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, key {kind});
             INSERT INTO {name} SELECT n, {made_by}(n) FROM generate_series(1, 100) n;"
        )
    };
    let tables = json!([strictly("a", "key"), strictly("t", "key")]);
    let mut case = Case::on(servers, &[make("a"), make("t")].concat(), &tables);
    case.sync();
    for name in ["a", "t"] {
        case.at_source(&format!("INSERT INTO {name} VALUES (101, {made_by}(101))"));
    }
    case
}

impl Waiting {
    fn begin(case: &Case) -> Self {
        let mut holder = case.destination_superuser();
        holder.batch_execute("BEGIN; LOCK TABLE a IN SHARE MODE").expect("a lock");
        let run = case.start(&["sync"]);
        let waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'a'::regclass";
        judge::wait_for(&mut holder, waits);
        Self { holder, run }
    }

    fn end(mut self) -> Run {
        self.holder.batch_execute("COMMIT").expect("an end");
        Run::from(self.run.wait_with_output().expect("a run"))
    }
}

#[test]
fn a_run_does_not_settle_marks_of_one_that_began_after_it() {
    let number = ("bigint", "");
    let time = ("timestamptz", "to_timestamp");
    for ((kind, made_by), prepared) in
        [(number, false), (number, true), (time, false), (time, true)]
    {
        let mut case = two_tables_with(crate::support::case::servers(), kind, made_by);
        // By this one, the first run's own mark is not safe.
        let mut idle = case.another_source();
        idle.batch_execute("BEGIN; SELECT 1").expect("an idle transaction");
        let first = Waiting::begin(&case);
        idle.batch_execute("COMMIT").expect("an end");
        let mut late = case.another_source();
        late.batch_execute(&format!("BEGIN; INSERT INTO t VALUES (777, {made_by}(107))"))
            .expect("a row");
        if prepared {
            late.batch_execute("PREPARE TRANSACTION 'late'").expect("a prepared transaction");
        }
        case.at_source(&format!("INSERT INTO t VALUES (778, {made_by}(108))"));
        case.run(&["sync", "--table", "t"]).expect(0);
        first.end().expect(0);
        let end = if prepared { "COMMIT PREPARED 'late'" } else { "COMMIT" };
        late.batch_execute(end).expect("a commit");
        case.sync();
        case.assert_equal("public.t");
        case.sync().says("t-incremental-0");
    }
}

#[test]
fn keys_that_go_back_while_a_run_is_under_way_are_not_lost() {
    // Where other tests are at work, their transactions make every snapshot older than it is.
    let servers = Servers::start();
    create_roles(&servers);
    let mut case = two_tables(&servers);
    case.at_source("INSERT INTO t SELECT n, n FROM generate_series(102, 110) n");
    let run = Waiting::begin(&case);
    case.at_source(
        "DELETE FROM t WHERE key > 50; INSERT INTO t SELECT 1000 + n, n FROM generate_series(51, 60) n",
    );
    run.end().expect(0);
    case.sync();
    case.sync();
    let lost = case.ask("SELECT 10 - count(*) FROM t WHERE id > 1000");
    assert_eq!(lost, ["0"]);
    servers.stop();
}

#[test]
fn the_mark_of_a_table_that_was_made_again_since_says_nothing_of_the_new_one() {
    // Its newest key is a text of which nobody knows that it lies above those that come.
    let mut case = two_tables_with(crate::support::case::servers(), "text COLLATE \"C\"", "chr");
    let run = Waiting::begin(&case);
    case.at_source(
        "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, key text COLLATE \"C\"); INSERT INTO t SELECT n, chr(n) FROM generate_series(1, 60) n",
    );
    run.end().expect(0);
    case.assert_equal("public.t");
    case.at_source("INSERT INTO t VALUES (101, chr(61))");
    case.sync();
    case.assert_equal("public.t");
}

#[test]
fn marks_are_those_of_the_server_that_they_were_taken_from() {
    let mut servers = Servers::start();
    create_roles(&servers);
    let mut case = two_tables(&servers);
    let mut waiting = None;
    servers.source.rewind(|server| {
        let mut session = server.connect(&case.database);
        let rows = "INSERT INTO t SELECT n, n FROM generate_series(102, 200) n";
        session.batch_execute(rows).expect("rows");
        waiting = Some(Waiting::begin(&case));
    });
    waiting.expect("a run").end().expect(0);
    case.source = servers.source.connect(&case.database);
    case.at_source("INSERT INTO t SELECT 1000 + n, n FROM generate_series(101, 260) n");
    case.sync();
    assert_eq!(case.ask("SELECT 160 - count(*) FROM t WHERE id > 1000"), ["0"]);
    servers.stop();
}

#[test]
fn a_materialized_view_shows_rows_late_whatever_their_keys_are() {
    let rule = with(strictly("m", "key"), &json!({"unique_cols": ["id"]}));
    let mut case = Case::new(
        "CREATE TABLE base (id int PRIMARY KEY, key bigint); INSERT INTO base SELECT n, n FROM generate_series(1, 50) n;
         CREATE MATERIALIZED VIEW m AS SELECT * FROM base; CREATE UNIQUE INDEX ON m (id)",
        &json!([rule]),
    );
    case.sync();
    let mut late = case.another_source();
    late.batch_execute("BEGIN; INSERT INTO base VALUES (51, 51)").expect("a late row");
    case.at_source("INSERT INTO base VALUES (52, 52)");
    case.at_source("REFRESH MATERIALIZED VIEW CONCURRENTLY m");
    late.batch_execute("COMMIT").expect("a commit");
    case.sync().says("m-incremental-1");
    case.at_source("REFRESH MATERIALIZED VIEW CONCURRENTLY m");
    case.sync().says("m-incremental-1");
    case.assert_equal("public.m");
    case.sync().says("m-incremental-0");
}

const TEN: &str = "CREATE TABLE t (id int PRIMARY KEY, note text);
     INSERT INTO t SELECT n, 'old' FROM generate_series(1, 10) n";

fn new(from: u32, to: u32) -> String {
    format!("INSERT INTO t SELECT n, 'new' FROM generate_series({from}, {to}) n")
}

fn assert_all_new(case: &mut Case, from: u32, to: u32) {
    let stale = format!(
        "SELECT {to} - {from} + 1 - count(*) FROM t WHERE id BETWEEN {from} AND {to} AND note = 'new'"
    );
    assert_eq!(case.ask(&stale), ["0"]);
}

#[test]
fn a_key_that_went_back_while_no_row_travelled_is_remembered() {
    let mut case = Case::new(TEN, &json!([strictly("t", "id")]));
    case.sync();
    case.at_source("DELETE FROM t WHERE id > 5");
    let mut idle = case.another_source();
    idle.batch_execute("BEGIN; SELECT 1").expect("an idle transaction");
    case.sync().says("t-incremental-0");
    let log = case.run(&["-v", "sync"]);
    assert!(!log.stdout.contains("write the receipt"), "once is enough:\n{}", log.stdout);
    idle.batch_execute("COMMIT").expect("an end");
    case.at_source(&new(6, 12));
    case.sync();
    assert_all_new(&mut case, 6, 12);
}

/// A sync during whose `settle` something happens at the source.
fn meanwhile(case: &mut Case, what: &str) {
    let mut holder = case.another_source();
    holder.batch_execute("BEGIN; SELECT 1").expect("somebody to wait for");
    let child = case.start(&["sync"]);
    let seen = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'incremental-replication%' \
                AND datname = current_database() AND query LIKE '%pg_prepared_xacts%'";
    case.until(seen);
    case.at_source(what);
    holder.batch_execute("COMMIT").expect("an end");
    Run::from(child.wait_with_output().expect("a run")).expect(0);
}

#[test]
fn keys_that_went_back_and_on_again_before_the_tables_turn_are_not_lost() {
    for (then, after) in [(new(6, 12), None), ("DELETE FROM t".to_owned(), Some(new(1, 7)))] {
        let rule = with(strictly("t", "id"), &json!({"settle": "1m"}));
        let mut case = Case::new(TEN, &json!([rule]));
        case.sync();
        case.at_source("DELETE FROM t WHERE id > 5");
        meanwhile(&mut case, &then);
        if let Some(filled) = &after {
            case.at_source(filled);
        }
        case.sync();
        let (from, to) = if after.is_some() { (1, 7) } else { (6, 12) };
        assert_all_new(&mut case, from, to);
    }
}

#[test]
fn a_key_that_nobody_could_look_at_may_have_gone_back() {
    let mut case = Case::new(TEN, &json!([strictly("t", "id")]));
    case.sync();
    case.at_source(&format!("DELETE FROM t WHERE id > 5; {}", new(6, 6)));
    let mut holder = case.another_source();
    holder.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").expect("a lock");
    let child = case.start(&["sync"]);
    let turn = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%LOCK TABLE%' \
                AND datname = current_database()";
    case.until(turn);
    holder.batch_execute("COMMIT").expect("an end");
    Run::from(child.wait_with_output().expect("a run")).expect(0);
    case.at_source(&new(7, 12));
    case.sync();
    assert_all_new(&mut case, 6, 12);
}

#[test]
fn a_table_whose_key_nobody_could_look_at_is_not_idle() {
    let patient = |name| with(strictly(name, "id"), &json!({"settle": "1m"}));
    let setup = format!("{TEN}; CREATE TABLE u (id int PRIMARY KEY)");
    let mut case = Case::new(&setup, &json!([patient("t"), patient("u")]));
    case.sync();
    case.at_source(&format!("DELETE FROM t WHERE id > 5; {}", new(6, 6)));
    let mut holder = case.another_source();
    holder.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").expect("a lock");
    let child = case.start(&["sync"]);
    // The mark of one was to be taken, and for that of the other whoever is at work is waited for.
    case.until(
        "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_prepared_xacts%' \
         AND application_name LIKE 'incremental-replication%' AND datname = current_database()",
    );
    holder.batch_execute("COMMIT").expect("an end");
    Run::from(child.wait_with_output().expect("a run")).expect(0);
    case.at_source(&new(7, 12));
    case.sync();
    assert_all_new(&mut case, 6, 12);
}

#[test]
fn a_part_that_was_never_filled_is_new_once_it_is() {
    let mut case = Case::new(
        "CREATE TABLE t (id int, region int, note text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
         CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2)",
        &json!([strictly("t", "id")]),
    );
    case.sync();
    case.at_source("INSERT INTO t VALUES (100, 1, 'a')");
    case.sync();
    case.at_source("INSERT INTO t SELECT n, 2, 'b' FROM generate_series(1, 5) n");
    let mut late = case.another_source();
    late.batch_execute("BEGIN; INSERT INTO t VALUES (6, 2, 'late')").expect("a late row");
    case.sync();
    late.batch_execute("COMMIT").expect("a commit");
    case.verify(0);
    case.sync().says("t-incremental-1");
    case.verify(0);
    case.sync();
    let log = case.run(&["-v", "sync"]);
    assert!(!log.stdout.contains("tableoid"), "it is an old part now:\n{}", log.stdout);
}

#[test]
fn a_row_that_a_new_part_gets_late_is_found_however_late_it_is() {
    for prepared in [false, true] {
        let mut case = Case::new(
            "CREATE TABLE t (id int, region int, note text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
             CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); CREATE TABLE t2 (LIKE t INCLUDING ALL);
             INSERT INTO t VALUES (100, 1, 'a'); INSERT INTO t2 VALUES (1, 2, 'b')",
            &json!([strictly("t", "id")]),
        );
        case.sync();
        case.at_source("ALTER TABLE t ATTACH PARTITION t2 FOR VALUES IN (2)");
        let mut late = case.another_source();
        late.batch_execute("BEGIN; INSERT INTO t VALUES (6, 2, 'late')").expect("a late row");
        if prepared {
            late.batch_execute("PREPARE TRANSACTION 'late part'").expect("it is prepared");
        }
        for id in 101..104 {
            case.at_source(&format!("INSERT INTO t VALUES ({id}, 1, 'a')"));
            case.sync();
        }
        let end = if prepared { "COMMIT PREPARED 'late part'" } else { "COMMIT" };
        late.batch_execute(end).expect("a commit");
        case.sync();
        case.verify(0);
    }
}

#[test]
fn a_table_that_was_rewritten_is_read_whole_once_and_not_beside_every_idle_transaction() {
    let mut case = Case::new(TEN, &json!([strictly("t", "id")]));
    case.sync();
    let mut idle = case.another_source();
    idle.batch_execute("BEGIN; SELECT 1").expect("an idle transaction");
    case.at_source("VACUUM FULL t");
    case.sync().says("so all rows are read");
    case.at_source("INSERT INTO t VALUES (11, 'new')");
    let run = case.sync();
    assert!(!run.stdout.contains("so all rows are read"), "{}", run.stdout);
    case.assert_equal("public.t");
}
