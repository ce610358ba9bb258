//! No row is lost: late commits, ties, long and prepared transactions, old rows in new places.

use std::time::{Duration, Instant};

use postgres::Client;
use serde_json::{Value, json};

use crate::support::case::{Case, by, create_roles, with};
use crate::support::judge;
use crate::support::server::Servers;

const EVENTS: &str = "
    CREATE SEQUENCE numbers;
    CREATE TABLE events (id int PRIMARY KEY, at timestamptz DEFAULT now(), number bigint DEFAULT nextval('numbers'));
    INSERT INTO events SELECT n FROM generate_series(1, 10) n;";

/// A pipeline without lookback, so that only the watermark can save a row.
fn events(key: &str) -> Case {
    Case::new(
        EVENTS,
        &json!([{"name": "events", "replication_key": key, "lookback": 0, "settle": "50ms"}]),
    )
}

fn receipt(case: &mut Case) -> Value {
    let text = case.ask("SELECT receipt FROM _sync_state");
    serde_json::from_str(&text[0]).expect("JSON")
}

#[test]
fn a_row_committed_late_reaches_the_destination() {
    for key in ["at", "number", "xmin"] {
        let mut case = events(key);
        case.sync();
        let mut late = case.another_source();
        late.batch_execute("BEGIN; INSERT INTO events VALUES (100)").expect("a late row");
        case.at_source("INSERT INTO events VALUES (101)");
        case.sync();
        case.at_source("INSERT INTO events VALUES (102)");
        case.sync();
        late.batch_execute("SAVEPOINT s; INSERT INTO events VALUES (103); COMMIT")
            .expect("a commit");
        case.sync();
        case.assert_equal("public.events");
        case.sync();
        case.sync().says("done: 0 rows");
    }
}

#[test]
fn a_row_written_before_the_first_copy_and_committed_after_it_is_not_lost() {
    for initial in ["pg_dump", "copy"] {
        let mut case = Case::new(
            EVENTS,
            &json!([{"name": "events", "replication_key": "number", "settle": "0s", "initial": initial}]),
        );
        let mut late = case.another_source();
        late.batch_execute("BEGIN; INSERT INTO events VALUES (100)").expect("a late row");
        case.at_source("INSERT INTO events VALUES (101)");
        case.sync();
        late.batch_execute("COMMIT").expect("a commit");
        case.sync();
        case.assert_equal("public.events");
    }
}

#[test]
fn a_prepared_transaction_holds_the_watermark_back_and_its_rows_arrive() {
    let mut case = events("number");
    case.sync();
    case.at_source("BEGIN; INSERT INTO events VALUES (100); PREPARE TRANSACTION 'two phases'");
    case.at_source("INSERT INTO events VALUES (101)");
    case.sync().says("the prepared transaction `two phases` holds the watermarks back");
    case.at_source("INSERT INTO events VALUES (102)");
    case.sync();
    assert_eq!(receipt(&mut case)["watermark"], "10");
    case.at_source("COMMIT PREPARED 'two phases'");
    case.sync();
    case.assert_equal("public.events");
    // Rows that are gone by rollback leave no trace either.
    case.at_source("BEGIN; INSERT INTO events VALUES (103); PREPARE TRANSACTION 'undone'");
    case.sync();
    case.at_source("ROLLBACK PREPARED 'undone'");
    case.sync();
    case.assert_equal("public.events");
}

#[test]
fn a_transaction_that_idles_holds_the_watermark_back_and_blocks_nothing() {
    let mut case = Case::new(EVENTS, &json!([{"name": "events", "replication_key": "number"}]));
    case.sync();
    let mut idle = case.another_source();
    idle.batch_execute("BEGIN; SELECT 1").expect("an idle transaction");
    for id in 100..103 {
        case.at_source(&format!("INSERT INTO events VALUES ({id})"));
        let started = Instant::now();
        case.sync().says("done: 1 row ");
        let took = started.elapsed();
        assert!(took > Duration::from_secs(1) && took < Duration::from_secs(30), "{took:?}");
    }
    let there = receipt(&mut case);
    // All marks wait for the same transaction, so the newest speaks for them.
    assert_eq!(
        (&there["watermark"], there["pending_marks"].as_array().map(Vec::len)),
        (&json!("10"), Some(1))
    );
    assert_eq!(there["pending_marks"][0]["key"], "13");
    idle.batch_execute("COMMIT").expect("an end");
    case.at_source("INSERT INTO events VALUES (103)");
    case.write_tables(&json!([{"name": "events", "replication_key": "number", "settle": "2m"}]));
    let started = Instant::now();
    case.sync();
    assert!(started.elapsed() < Duration::from_mins(1), "there is nobody to wait for");
    assert_eq!(receipt(&mut case)["watermark"], "14");
}

#[test]
fn a_new_partition_has_no_other_read_whole() {
    let setup = "
        CREATE TABLE events (id int, day date, at timestamptz, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
        CREATE INDEX ON events (at);
        CREATE TABLE one PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-01-02');
        CREATE TABLE two PARTITION OF events FOR VALUES FROM ('2026-01-02') TO ('2026-01-03') PARTITION BY LIST (id);
        CREATE TABLE two_old PARTITION OF two FOR VALUES IN (1, 2, 3);
        INSERT INTO events SELECT n, '2026-01-01', '2026-01-01' FROM generate_series(1, 1000) n;
        INSERT INTO events VALUES (2, '2026-01-02', '2026-01-02'); ANALYZE";
    let mut case = Case::new(setup, &json!([by("events", "at")]));
    case.sync();
    let mut busy = case.another_source();
    busy.batch_execute("BEGIN; INSERT INTO events VALUES (0, '2026-01-01', '2025-12-31')")
        .expect("a row");
    // Its rows are older than all others.
    case.at_source(
        "CREATE TABLE two_new PARTITION OF two FOR VALUES IN (4, 5, 6);
         INSERT INTO events VALUES (5, '2026-01-02', '2025-01-01')",
    );
    let scanned = |case: &mut Case| {
        let run = case.run(&["sync", "-v"]);
        let query = run
            .expect(0)
            .stdout
            .lines()
            .find_map(|line| line.split_once("source: COPY (")?.1.split_once(") TO STDOUT"));
        let (query, _) = query.expect("the rows are read");
        let mut session = case.another_source();
        session.batch_execute("SET enable_seqscan = off; SET search_path = ''").expect("a setting");
        let plan = judge::column(&mut session, &format!("EXPLAIN {query}"));
        // Whatever goes by the replication key's index goes by the replication key.
        let whole = plan.iter().filter(|line| {
            line.contains("Scan") && !line.contains("at_idx") && !line.contains("Bitmap Heap")
        });
        let name =
            |line: &String| Some(line.split_once(" on ")?.1.split_whitespace().next()?.to_owned());
        whole.filter_map(name).collect::<Vec<_>>()
    };
    let new_alone = |scanned: Vec<String>| {
        assert!(
            !scanned.is_empty() && scanned.iter().all(|name| name.starts_with("two_new")),
            "{scanned:?}"
        );
    };
    new_alone(scanned(&mut case));
    case.assert_equal("public.events");
    // Once more by its transactions, as long as some that were at work then are.
    case.at_source("INSERT INTO events VALUES (6, '2026-01-02', '2025-01-01')");
    new_alone(scanned(&mut case));
    case.assert_equal("public.events");
    busy.batch_execute("ROLLBACK").expect("an end");
    case.sync();
    case.assert_equal("public.events");
}

#[test]
fn a_new_partition_needs_no_right_that_its_bounds_would() {
    let setup = "
        CREATE SCHEMA types; CREATE TYPE types.mood AS ENUM ('a', 'b');
        CREATE FUNCTION types.part(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 % 2';
        CREATE TABLE feelings (id int, m types.mood, at int, PRIMARY KEY (id, m)) PARTITION BY LIST (m);
        CREATE TABLE a PARTITION OF feelings FOR VALUES IN ('a'); INSERT INTO feelings VALUES (1, 'a', 5);
        CREATE TABLE halves (id int NOT NULL, at int) PARTITION BY LIST (types.part(id));
        CREATE TABLE even PARTITION OF halves FOR VALUES IN (0); INSERT INTO halves VALUES (2, 5);
        REVOKE ALL ON FUNCTION types.part FROM public; REVOKE USAGE ON SCHEMA types FROM public, reader";
    let halves = json!({"name": "halves", "replication_key": "at", "unique_cols": ["id"]});
    let mut case = Case::new(setup, &json!([by("feelings", "at"), halves]));
    case.sync();
    case.at_source(
        "CREATE TABLE b PARTITION OF feelings FOR VALUES IN ('b'); INSERT INTO feelings VALUES (1, 'b', 1);
         CREATE TABLE odd PARTITION OF halves FOR VALUES IN (1); INSERT INTO halves VALUES (1, 1)",
    );
    case.sync();
    assert_eq!(case.ask("SELECT count(*) FROM feelings"), ["2"]);
    case.assert_equal("public.halves");
}

#[test]
fn a_default_partition_without_others_has_no_bounds() {
    let mut case = Case::new(
        "CREATE TABLE a (id int PRIMARY KEY, at int) PARTITION BY LIST (id);
         CREATE TABLE rest PARTITION OF a DEFAULT; INSERT INTO a VALUES (1, 1), (2, 2)",
        &json!([by("a", "at")]),
    );
    case.sync();
    case.at_source("TRUNCATE a; INSERT INTO a VALUES (3, 1)");
    case.sync();
    assert_eq!(case.ask("SELECT id FROM a ORDER BY 1"), ["1", "2", "3"]);
    case.sync();
}

#[test]
fn sessions_of_other_databases_are_not_waited_for() {
    let mut case = Case::new(
        EVENTS,
        &json!([{"name": "events", "replication_key": "number", "settle": "1m"}]),
    );
    let mut elsewhere = case.source_at("postgres");
    elsewhere.batch_execute("BEGIN; SELECT 1").expect("a transaction elsewhere");
    let started = Instant::now();
    case.sync();
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(receipt(&mut case)["watermark"], "10");
}

#[test]
fn many_busy_writers_lose_nothing() {
    let mut case = Case::new(
        "CREATE SEQUENCE numbers;
         CREATE TABLE by_begin (id bigserial PRIMARY KEY, note text, at timestamptz DEFAULT now());
         CREATE TABLE by_clock (id bigserial PRIMARY KEY, note text, at timestamp DEFAULT clock_timestamp());
         CREATE TABLE by_number (id bigserial PRIMARY KEY, note text, at bigint DEFAULT nextval('numbers'));
         CREATE TABLE by_xmin (id bigserial PRIMARY KEY, note text);",
        &json!({
            "defaults": {"settle": "20ms"},
            "tables": [
                {"name": "by_begin", "replication_key": "at", "lookback": 0},
                // Wall clocks of several zones, which only the lookback can bridge.
                by("by_clock", "at"),
                by("by_number", "at"),
                by("by_xmin", "xmin"),
            ],
        }),
    );
    let until = Instant::now() + Duration::from_secs(8);
    let writers: Vec<_> = (0..3)
        .map(|number| {
            let mut session = case.another_source();
            std::thread::spawn(move || write_until(&mut session, number, until))
        })
        .collect();
    let mut syncs = 0;
    while Instant::now() < until {
        case.sync();
        syncs += 1;
    }
    let written: usize = writers.into_iter().map(|writer| writer.join().expect("it writes")).sum();
    case.sync();
    assert!(written > 100 && syncs > 3, "{written} transactions, {syncs} syncs");
    for table in ["by_begin", "by_clock", "by_number", "by_xmin"] {
        case.assert_equal(&format!("public.{table}"));
    }
    case.assert_nothing_left();
}

/// Transactions of all kinds, one after the other; returns how many.
fn write_until(session: &mut postgres::Client, number: usize, until: Instant) -> usize {
    let zone = ["UTC", "Asia/Tokyo", "America/New_York"][number % 3];
    session.batch_execute(&format!("SET TimeZone = '{zone}'")).expect("a zone");
    let mut count = 0;
    while Instant::now() < until {
        let table = ["by_begin", "by_clock", "by_number", "by_xmin"][count % 4];
        let insert = format!("INSERT INTO {table} (note) SELECT 'n' FROM generate_series(1, 5);");
        let set = match table {
            "by_begin" => "note = note || 'u', at = now()",
            "by_clock" => "note = note || 'u', at = clock_timestamp()",
            "by_number" => "note = note || 'u', at = nextval('numbers')",
            _ => "note = note || 'u'",
        };
        let update = format!("UPDATE {table} SET {set} WHERE id % 7 = {};", count % 7);
        let pause = format!(
            "SELECT pg_sleep({});",
            f64::from(u8::try_from(count % 10).unwrap_or(0)) / 40.0
        );
        let end = match count % 11 {
            3 => "ROLLBACK".to_owned(),
            7 => format!(
                "PREPARE TRANSACTION 'p{number}_{count}'; SELECT pg_sleep(0.1); COMMIT PREPARED 'p{number}_{count}'"
            ),
            _ => "COMMIT".to_owned(),
        };
        let script = [
            "BEGIN".to_owned(),
            insert.clone(),
            pause,
            "SAVEPOINT s".to_owned(),
            if count % 3 == 0 { update } else { insert },
            if count % 5 == 0 { "ROLLBACK TO SAVEPOINT s".to_owned() } else { String::new() },
        ];
        // Two writers may get in each other's way; the one that loses starts over.
        let mut run = |sql: &str| session.batch_execute(sql).is_ok();
        let done = script.iter().all(|sql| run(sql)) && end.split("; ").all(&mut run);
        if !done {
            run("ROLLBACK");
        }
        count += 1;
    }
    count
}

#[test]
fn a_sync_with_nothing_to_do_writes_nothing_to_the_destination() {
    let mut case = Case::new(
        "CREATE TABLE a (id int PRIMARY KEY, at timestamptz DEFAULT now()); INSERT INTO a SELECT generate_series(1, 1000);
         CREATE TABLE b (id int PRIMARY KEY, at timestamptz); INSERT INTO b VALUES (1, NULL), (2, NULL);
         CREATE TABLE c (id int PRIMARY KEY); INSERT INTO c VALUES (1);
         CREATE TABLE d (id int PRIMARY KEY, at int)",
        &json!([{"name": "a", "replication_key": "at", "lookback": "24h"}, by("b", "at"), by("c", "xmin"), by("d", "at")]),
    );
    case.sync();
    case.sync();
    let files = case.ask("SELECT 1");
    let before =
        (case.ask("SELECT xmin, ctid FROM _sync_state ORDER BY table_name"), position(&mut case));
    for _ in 0..3 {
        let run = case.sync();
        assert_eq!(run.stdout.matches("done: 0 rows").count(), 4, "{}", run.stdout);
    }
    assert_eq!(case.ask("SELECT 1"), files);
    let after =
        (case.ask("SELECT xmin, ctid FROM _sync_state ORDER BY table_name"), position(&mut case));
    assert_eq!(before.0, after.0);
    // Other tests write to the same server, so the log's position says little; transactions of
    // this database say all.
    assert_eq!(before.1, after.1);
}

/// How many rows this database has written, dead ones included.
fn position(case: &mut Case) -> Vec<String> {
    std::thread::sleep(Duration::from_millis(1200));
    case.ask("SELECT sum(n_tup_ins + n_tup_upd + n_tup_del + n_dead_tup) FROM pg_stat_user_tables")
}

#[test]
fn unchanged_rows_of_the_overlap_do_not_travel_and_v_says_when_they_do() {
    let mut case = Case::new(
        "CREATE TABLE a (id int PRIMARY KEY, at timestamptz DEFAULT now()); INSERT INTO a SELECT generate_series(1, 1000);
         CREATE VIEW v AS SELECT * FROM a",
        &json!([by("a", "at"), {"name": "v", "replication_key": "at", "unique_cols": ["id"]}]),
    );
    case.sync();
    case.at_source("INSERT INTO a VALUES (2000)");
    let run = case.run(&["sync", "-v"]);
    run.expect(0).says("unchanged rows of the overlap are read again: it is a view");
    assert_eq!(run.stdout.matches("AND age(xmin) <= age('").count(), 1, "{}", run.stdout);
    case.assert_equal("public.a");
    case.assert_equal("public.v");
}

#[test]
fn rows_from_more_than_two_billion_transactions_ago_are_not_taken_for_new_ones() {
    let mut servers = Servers::start();
    create_roles(&servers);
    let table = |name| {
        format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, at timestamptz DEFAULT now());
             INSERT INTO {name} SELECT generate_series(1, 1000);"
        )
    };
    let setup = [table("a"), table("b"), table("c")].concat();
    let rules = json!([by("a", "xmin"), by("b", "at"), {"name": "c", "mode": "diff"}]);
    let mut case = Case::on(&servers, &setup, &rules);
    case.sync();
    let file_of_xact = 1 << 20;
    for file in [1400, 2800] {
        servers.source.pass_transactions(file * file_of_xact);
        servers.destination.pass_transactions(file * file_of_xact);
    }
    case.reconnect();
    // The server was started, so all rows are looked at once more.
    case.sync();
    case.sync();
    case.at_source("SELECT pg_current_xact_id()");
    let idle = case.run(&["sync", "-v"]);
    // Nor for those of others, at the destination.
    for read in ["a: source: COPY", "b: source: COPY", "AS row_digest"] {
        assert!(!idle.expect(0).stdout.contains(read), "{}", idle.stdout);
    }
    case.at_source("UPDATE a SET at = now() WHERE id = 7; INSERT INTO b VALUES (1001)");
    case.sync().says("a: incremental sync done: 1 row ").says("b: incremental sync done: 1 row ");
    case.assert_equal("public.a");
    case.assert_equal("public.b");
}

#[test]
fn a_row_that_is_committed_late_is_found_where_the_clock_has_gone_back_before_and_gone_on() {
    let of = |when: &str| {
        format!(
            "rpad(lpad(to_hex(floor(extract(epoch FROM {when}) * 1000)::bigint), 12, '0'), 32, '7')::uuid"
        )
    };
    let (now, long_ago) = ("now()", "now() - interval '28 days'");
    let keys = [
        (
            "timestamptz",
            now.to_owned(),
            long_ago.to_owned(),
            "now() - interval '3 days'".to_owned(),
        ),
        (
            "timestamptz",
            now.to_owned(),
            "'-infinity'".to_owned(),
            "now() - interval '3 days'".to_owned(),
        ),
        ("uuid", of(now), of(long_ago), of("now() - interval '3 days'")),
    ];
    for (key, now, long_ago, before) in keys {
        let mut case = Case::new(
            &format!(
                "CREATE TABLE a (id int PRIMARY KEY, at {key});
                 INSERT INTO a VALUES (1, {before}), (2, {now})"
            ),
            &json!([with(by("a", "at"), &json!({"settle": "0s"}))]),
        );
        case.sync();
        case.at_source("DELETE FROM a WHERE id = 2");
        let mut late = case.another_source();
        late.batch_execute(&format!("BEGIN; INSERT INTO a VALUES (7, {long_ago})")).expect("a row");
        case.sync();
        case.at_source(&format!("INSERT INTO a VALUES (8, {now})"));
        case.sync();
        late.batch_execute("COMMIT").expect("an end");
        case.sync();
        case.sync();
        assert_eq!(
            case.ask("SELECT id FROM a WHERE id IN (7, 8) ORDER BY 1"),
            ["7", "8"],
            "{key} {long_ago}"
        );
    }
}

/// Its clock was put back, or yesterday's rows were loaded again: by DELETE, which leaves the table its file.
#[test]
fn rows_below_the_lookback_are_read_where_a_clock_went_back() {
    for (key, since) in [
        ("timestamptz", "now() - interval '3 days'"),
        ("timestamp", "now() AT TIME ZONE 'UTC' - interval '3 days'"),
        ("date", "current_date - 3"),
        ("uuid", "'01890000-0000-7000-8000-000000000000'"),
    ] {
        let now = match key {
            "uuid" => {
                "rpad(lpad(to_hex(floor(extract(epoch FROM now()) * 1000)::bigint), 12, '0'), 32, '7')::uuid"
            }
            "timestamptz" => "now()",
            _ => "now() AT TIME ZONE 'UTC'",
        };
        let mut case = Case::new(
            &format!(
                "CREATE TABLE a (id int PRIMARY KEY, at {key}, note text); INSERT INTO a SELECT n, {since} FROM generate_series(1, 5) n"
            ),
            &json!([by("a", "at")]),
        );
        case.at_source(&format!("UPDATE a SET at = {now}, note = 'mistake' WHERE id <= 3"));
        case.sync();
        case.sync();
        case.at_source(&format!(
            "DELETE FROM a; INSERT INTO a SELECT n, {since} FROM generate_series(1, 6) n"
        ));
        case.sync();
        case.assert_equal("public.a");
        case.sync();
        assert!(!case.run(&["sync", "-v"]).expect(0).stdout.contains("gone back"), "{key}");
    }
}

#[test]
fn what_lies_below_a_clocks_key_that_went_back_within_the_lookback_is_read_by_the_next_sync() {
    let mut case = Case::new(
        "CREATE TABLE a (id int PRIMARY KEY, at timestamptz);
         INSERT INTO a VALUES (1, now() - interval '4 min'), (2, now())",
        &json!([by("a", "at")]),
    );
    case.sync();
    case.at_source(
        "DELETE FROM a WHERE id = 2; INSERT INTO a VALUES (3, now() - interval '8 min')",
    );
    case.run(&["sync", "-v"]).expect(0);
    case.sync().says("1 row ");
    case.assert_nothing_left();
    assert_eq!(case.ask("SELECT id FROM a ORDER BY 1"), ["1", "2", "3"]);
    case.sync();
    let idle = case.run(&["sync", "-v"]);
    assert!(!idle.expect(0).stdout.contains("source: COPY"), "{}", idle.stdout);
    // And where it goes back further before anybody could read it.
    let mut case = Case::new(
        "CREATE TABLE a (id int PRIMARY KEY, at timestamptz);
         INSERT INTO a VALUES (0, now() - interval '2 days'), (1, now() - interval '4 min'), (2, now())",
        &json!([by("a", "at")]),
    );
    case.sync();
    case.at_source(
        "DELETE FROM a WHERE id = 2; INSERT INTO a VALUES (4, now() - interval '20 min')",
    );
    case.sync();
    case.at_source("DELETE FROM a WHERE id = 1");
    case.sync();
    assert_eq!(case.ask("SELECT id FROM a ORDER BY 1"), ["0", "1", "2", "4"]);
}

#[test]
fn old_rows_in_new_places_are_found() {
    let mut case = Case::new(
        "CREATE TABLE parted (id int, at int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
         INSERT INTO parted VALUES (1, 100);
         CREATE TABLE p2 (id int NOT NULL, at int); INSERT INTO p2 VALUES (11, 5), (12, NULL);
         CREATE TABLE plain (id int PRIMARY KEY, at int, note text);
         INSERT INTO plain SELECT n, n, 'old' FROM generate_series(1, 10) n",
        &json!([by("parted", "at"), by("plain", "at")]),
    );
    case.sync();
    case.at_source("ALTER TABLE parted ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20)");
    case.sync().says("one part of it is new or rewritten since, and read whole");
    case.assert_equal("public.parted");
    case.at_source("TRUNCATE plain; INSERT INTO plain SELECT n, 1, 'loaded again' FROM generate_series(1, 10) n");
    case.sync().says("the table was rewritten or emptied since, so all rows are read");
    case.assert_equal("public.plain");
    // The same type with other values: every row is another, and no key has moved.
    case.at_source("ALTER TABLE plain ALTER note TYPE text COLLATE \"C\" USING note || '!'");
    case.sync();
    case.assert_equal("public.plain");
    case.sync().says("parted-incremental-0 || plain-incremental-0");
}

#[test]
fn old_rows_that_were_written_to_a_part_while_it_was_none_are_found() {
    let mut case = Case::new(
        "CREATE TABLE parted (id int PRIMARY KEY, at int) PARTITION BY RANGE (id);
         CREATE TABLE middle PARTITION OF parted FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (id);
         CREATE TABLE part PARTITION OF middle FOR VALUES FROM (0) TO (50);
         INSERT INTO parted VALUES (1, 100);
         CREATE TABLE parent (id int PRIMARY KEY, at int); CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
         INSERT INTO child VALUES (1, 100)",
        &json!([by("parted", "at"), by("parent", "at")]),
    );
    case.sync();
    let still = "parted-incremental-0 || parent-incremental-0";
    case.sync().says(still);
    for (id, away, back) in [
        (
            2,
            "middle DETACH PARTITION part",
            "middle ATTACH PARTITION part FOR VALUES FROM (0) TO (50)",
        ),
        (
            3,
            "parted DETACH PARTITION middle",
            "parted ATTACH PARTITION middle FOR VALUES FROM (0) TO (100)",
        ),
    ] {
        case.at_source(&format!(
            "ALTER TABLE {away}; INSERT INTO part VALUES ({id}, 5); ALTER TABLE {back}"
        ));
        case.sync().says("all rows are read");
        case.assert_equal("public.parted");
        case.sync().says(still);
    }
    case.at_source("ALTER TABLE child NO INHERIT parent; INSERT INTO child VALUES (2, 5); ALTER TABLE child INHERIT parent");
    case.sync();
    case.assert_equal("public.parent");
    case.sync().says(still);
}

#[test]
fn xmin_needs_no_column_and_finds_every_change() {
    let mut case = Case::new(
        "CREATE TABLE t (id int PRIMARY KEY, note text); INSERT INTO t SELECT n, 'x' FROM generate_series(1, 100) n;
         CREATE VIEW v AS SELECT * FROM t",
        &json!([by("t", "xmin"), {"name": "v", "replication_key": "xmin", "unique_cols": ["id"]}]),
    );
    case.sync_fails(1).says("`public.v` cannot be read by xmin: it is a view");
    case.write_tables(&json!([by("t", "xmin")]));
    case.at_source("UPDATE t SET note = 'y' WHERE id < 4");
    case.at_source("VACUUM FREEZE t");
    case.sync().says("incremental sync: by xmin").says("done: 3 rows");
    case.assert_equal("public.t");
    case.sync().says("done: 0 rows");
    case.at_source("INSERT INTO t SELECT n, 'new' FROM generate_series(101, 105) n");
    case.sync().says("done: 5 rows");
    case.assert_equal("public.t");
}

#[test]
fn lookback_reads_below_the_watermark_where_the_source_does_not_tell_what_changed() {
    let mut case = Case::new(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz, number int); INSERT INTO t VALUES (1, now(), 1000);
         CREATE VIEW by_time AS SELECT * FROM t; CREATE VIEW by_number AS SELECT * FROM t;
         CREATE VIEW without AS SELECT * FROM t",
        &json!({"defaults": {"unique_cols": ["id"]}, "tables": [
            {"name": "by_time", "replication_key": "at", "lookback": "1h"},
            {"name": "by_number", "replication_key": "number", "lookback": 500},
            {"name": "without", "replication_key": "number"},
        ]}),
    );
    case.sync();
    // An import writes old keys.
    case.at_source("INSERT INTO t VALUES (2, now() - interval '30 minutes', 700)");
    case.sync();
    case.assert_equal("public.by_time");
    case.assert_equal("public.by_number");
    assert_eq!(case.ask("SELECT count(*) FROM without"), ["1"]);
}

#[test]
fn a_wrong_lookback_or_settle_is_explained() {
    let case = Case::new(
        EVENTS,
        &json!([{"name": "events", "replication_key": "at", "lookback": -1, "settle": "soon"}]),
    );
    case.sync_fails(2)
        .says("`lookback` is neither a duration nor a whole number")
        .says("`settle` is `soon`, not a duration");
    case.write_tables(&json!([{"name": "events", "replication_key": "at", "lookback": 7}]));
    case.sync_fails(1).says("`lookback` of a key that holds a time must be a duration");
}

#[test]
fn a_table_that_is_made_again_while_its_mark_is_known_starts_over() {
    let mut case = events("number");
    case.sync();
    case.at_source("DROP TABLE events; CREATE TABLE events (id int PRIMARY KEY, at timestamptz, number bigint); INSERT INTO events VALUES (1, NULL, 1)");
    case.sync().says("the source table was dropped and created again");
    case.assert_equal("public.events");
    let rows = judge::rows(&mut case.destination, "public.events");
    assert_eq!(rows.len(), 1);
}

#[test]
fn a_source_that_comes_back_from_an_image_of_its_disk_loses_no_newer_row() {
    let mut servers = Servers::start();
    create_roles(&servers);
    let tables = ["keyed", "by_xmin", "compared"];
    let rules =
        [by("keyed", "at"), by("by_xmin", "xmin"), json!({"name": "compared", "mode": "diff"})];
    let make = |name| {
        format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, at timestamptz DEFAULT now(), note text);
             INSERT INTO {name} (id) SELECT generate_series(1, 5);"
        )
    };
    let mut case = Case::on(&servers, &tables.map(make).concat(), &json!(rules));
    case.sync();
    // Transactions, whose ids are then given once more.
    let spend = |session: &mut postgres::Client, number| {
        for _ in 0..number {
            session.batch_execute("SELECT pg_current_xact_id()").expect("an id");
        }
    };
    servers.source.rewind(|server| {
        let mut session = server.connect(&case.database);
        spend(&mut session, 50);
        for name in tables {
            let update = format!("UPDATE {name} SET note = 'lost', at = now() WHERE id = 1");
            session.batch_execute(&update).expect("an update");
        }
        case.sync();
    });
    case.source = servers.source.connect(&case.database);
    for name in tables {
        case.at_source(&format!(
            "UPDATE {name} SET note = 'after', at = now() WHERE id <= 2;
             INSERT INTO {name} VALUES (6, now(), 'after')"
        ));
    }
    spend(&mut case.source, 100);
    case.run(&["-v", "sync"])
        .expect(0)
        .says("it is not known that the source has been running ever since");
    for name in tables {
        case.assert_equal(&format!("public.{name}"));
    }
    case.sync().says("keyed-incremental-0 || by_xmin-incremental-0 || compared-incremental-0");
    servers.stop();
}

/// What a crash takes back was given transaction ids, which are given once more.
#[test]
fn a_source_that_recovers_from_a_crash_of_one_process_loses_no_newer_row() {
    let servers = Servers::start();
    create_roles(&servers);
    let mut superuser = servers.source.connect("postgres");
    superuser.batch_execute("ALTER SYSTEM SET wal_writer_delay = '10s'").expect("a setting");
    superuser.batch_execute("SELECT pg_reload_conf()").expect("a setting");
    let tables = ["keyed", "by_xmin", "compared", "emptied"];
    let rules = [
        by("keyed", "at"),
        by("by_xmin", "xmin"),
        json!({"name": "compared", "mode": "diff"}),
        by("emptied", "number"),
    ];
    let make = |name| {
        let unlogged = if name == "emptied" { "UNLOGGED" } else { "" };
        format!(
            "CREATE {unlogged} TABLE {name} (id int PRIMARY KEY, at timestamptz DEFAULT now(), number int, note text);
             INSERT INTO {name} (id, number) SELECT n, n FROM generate_series(1, 5) n;"
        )
    };
    let mut case = Case::on(&servers, &tables.map(make).concat(), &json!(rules));
    let id = "SELECT pg_current_xact_id()::text::int";
    let next = |case: &mut Case| -> i32 { case.source.query_one(id, &[]).expect("an id").get(0) };
    case.sync();
    case.at_source("INSERT INTO keyed VALUES (6); INSERT INTO by_xmin VALUES (6)");
    // What follows does not fill a page of the log, which would be written.
    case.at_source("SELECT pg_switch_wal()");
    case.at_source("CHECKPOINT");
    // From now on the next time at which it is written anyway is ten seconds away.
    superuser.batch_execute("SELECT pg_reload_conf()").expect("a reload");
    for _ in 0..100 {
        next(&mut case);
    }
    case.sync();
    let before = next(&mut case);
    servers.source.crash();
    case.source = case.another_source();
    assert!(next(&mut case) < before - 50, "no id is given twice");
    for name in &tables[..3] {
        case.at_source(&format!(
            "INSERT INTO {name} VALUES (7, now(), 7, 'after'); UPDATE {name} SET note = 'after', at = now() WHERE id = 1"
        ));
    }
    // The same keys again, in the same file.
    case.at_source("INSERT INTO emptied SELECT n, now(), n, 'after' FROM generate_series(1, 5) n");
    for _ in 0..200 {
        next(&mut case);
    }
    case.sync();
    for name in tables {
        case.assert_equal(&format!("public.{name}"));
    }
    case.sync().says("keyed-incremental-0 || by_xmin-incremental-0 || compared-incremental-0 || emptied-incremental-0");
    servers.stop();
}

#[test]
fn a_greater_lookback_reads_what_it_reaches() {
    let rule = |lookback: &str| with(by("t", "at"), &json!({"lookback": lookback}));
    let mut case = Case::new(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz); INSERT INTO t VALUES (1, now())",
        &json!([rule("1m")]),
    );
    case.sync();
    case.at_source("INSERT INTO t VALUES (2, now())");
    case.sync();
    case.at_source("INSERT INTO t VALUES (3, now() - interval '10 minutes'), (4, now())");
    case.sync();
    assert_eq!(case.ask("SELECT count(*) FROM t"), ["3"]);
    case.write_tables(&json!([rule("2h")]));
    case.sync();
    case.assert_equal("public.t");
    case.sync().says("t-incremental-0");
}

#[test]
fn a_writer_with_our_role_and_the_name_of_our_writing_sessions_is_waited_for() {
    let mut case = events("number");
    case.set("SOURCE_USERNAME", "postgres");
    case.set("SOURCE_PASSWORD", "embedded");
    case.sync();
    // The tool itself, at work on its destination, which is our source.
    let mut writer = case.another_source();
    writer
        .batch_execute(
            "SET application_name = 'incremental-replication'; BEGIN;
             INSERT INTO events VALUES (700, now(), 700)",
        )
        .expect("a row");
    case.at_source("INSERT INTO events VALUES (800, now(), 800)");
    case.sync();
    writer.batch_execute("COMMIT").expect("a commit");
    case.sync();
    case.assert_equal("public.events");
}

#[test]
fn a_standby_serves_as_the_source_and_its_promotion_is_noticed() {
    let servers = Servers::start();
    create_roles(&servers);
    let mut case =
        Case::on(&servers, EVENTS, &json!([by("events", "number"), by("others", "xmin")]));
    case.at_source("CREATE TABLE others (id int PRIMARY KEY); INSERT INTO others VALUES (1)");
    let standby = servers.standby();
    case.write_env(&format!("SOURCE_PORT={}", standby.address().port()));
    let run = case.sync();
    run.says("the source is a standby, where transactions in flight on its primary cannot be seen");
    run.says("events: COPY reads it instead of pg_dump: the source is a standby");
    case.assert_equal("public.events");
    case.at_source("INSERT INTO events VALUES (100); INSERT INTO others VALUES (2)");
    let mut replica = standby.connect(&case.database);
    judge::wait_for(&mut replica, "SELECT 1 FROM others WHERE id = 2");
    case.sync().says("events-incremental-1 || others-incremental-1");
    case.assert_equal("public.events");
    case.assert_equal("public.others");
    // The primary of the source is no place to write a copy to: it would replace the tables.
    case.set("DEST_PORT", &servers.source.address().port().to_string());
    case.set("DEST_USERNAME", "postgres");
    case.set("DEST_PASSWORD", "embedded");
    case.sync_fails(2).says("source and destination are the same");
    let back = case.destination_port().to_string();
    case.set("DEST_PORT", &back);
    // The primary is lost, and with it whatever the standby had not seen.
    servers.source.stop("immediate");
    standby.promote();
    replica
        .batch_execute("INSERT INTO events VALUES (101); INSERT INTO others VALUES (3)")
        .expect("rows");
    case.run(&["-v", "sync"])
        .expect(0)
        .says("the source is on another timeline than before, so it was failed over or restored")
        .says("unchanged rows of the overlap are read again: the source is on another timeline");
    case.source = replica;
    case.assert_equal("public.events");
    case.assert_equal("public.others");
    standby.stop("immediate");
    servers.stop();
}

/// A session that takes over a standby's snapshot takes transactions in flight for undone, where one of them has
/// more than 64 subtransactions, and tells everybody so in the pages that it reads.
#[test]
fn a_first_copy_from_a_standby_hides_no_row_there_for_good() {
    let servers = Servers::start();
    create_roles(&servers);
    let mut case = Case::on(&servers, EVENTS, &json!([by("events", "number")]));
    case.at_source("CREATE TABLE others (id int)");
    let standby = servers.standby();
    case.write_env(&format!("SOURCE_PORT={}", standby.address().port()));
    let mut many = case.another_source();
    many.batch_execute("BEGIN").expect("a transaction");
    for number in 0..70 {
        let step = format!("SAVEPOINT s{number}; INSERT INTO others VALUES ({number})");
        many.batch_execute(&step).expect("a subtransaction");
    }
    let mut late = case.another_source();
    late.batch_execute("BEGIN; INSERT INTO events VALUES (500)").expect("a row");
    case.at_source("INSERT INTO others VALUES (100)");
    let mut replica = standby.connect(&case.database);
    judge::wait_for(&mut replica, "SELECT 1 FROM others WHERE id = 100");
    case.sync();
    late.batch_execute("COMMIT").expect("a commit");
    many.batch_execute("COMMIT").expect("a commit");
    judge::wait_for(&mut replica, "SELECT 1 FROM others WHERE id = 69");
    assert_eq!(judge::column(&mut replica, "SELECT id FROM events WHERE id = 500"), ["500"]);
    case.sync();
    case.assert_equal("public.events");
    standby.stop("immediate");
    servers.stop();
}

/// A standby that gets nothing more of its primary.
fn cut_off(standby: &mut Client) {
    standby.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").expect("a setting");
    standby.batch_execute("SELECT pg_reload_conf()").expect("a reload");
    judge::wait_for(standby, "SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_wal_receiver)");
}

#[test]
fn numbers_that_a_failover_gives_out_again_hide_no_row_and_updates_that_it_takes_back_go() {
    let servers = Servers::start();
    create_roles(&servers);
    let rules = json!([
        by("events", "number"),
        {"name": "removing", "replication_key": "number", "deletes": "remove"},
        {"name": "timed", "replication_key": "at", "deletes": "remove"},
    ]);
    let mut case = Case::on(&servers, EVENTS, &rules);
    case.at_source(
        "CREATE TABLE removing (LIKE events INCLUDING ALL);
         CREATE TABLE timed (id int PRIMARY KEY, at timestamptz, note text);
         INSERT INTO timed SELECT n, now() - interval '1 day' FROM generate_series(1, 10) n",
    );
    let standby = servers.standby();
    let mut replica = standby.connect(&case.database);
    cut_off(&mut replica);
    // What the standby never gets.
    case.at_source(
        "INSERT INTO events SELECT n FROM generate_series(11, 30) n;
         INSERT INTO removing SELECT n FROM generate_series(1, 20) n;
         UPDATE timed SET note = 'a mistake', at = now() WHERE id <= 3",
    );
    case.sync();
    servers.source.stop("immediate");
    standby.promote();
    replica
        .batch_execute(
            "INSERT INTO removing SELECT n FROM generate_series(1, 40) n;
             INSERT INTO events SELECT n FROM generate_series(11, 50) n",
        )
        .expect("rows");
    case.source = replica;
    case.write_env(&format!("SOURCE_PORT={}", standby.address().port()));
    case.sync()
        .says("may have given keys twice since: all rows are read")
        .says("timed: the source was failed over or restored, and may have taken rows back");
    case.assert_equal("public.events");
    case.assert_equal("public.removing");
    case.assert_equal("public.timed");
    case.source.batch_execute("INSERT INTO events VALUES (51)").expect("a row");
    let run = case.sync();
    run.says("events: incremental sync done: 1 row")
        .says("removing: incremental sync done: 0 rows");
    assert!(!run.stdout.contains("all rows are read"), "{}", run.stdout);
    case.assert_equal("public.events");
    standby.stop("immediate");
    servers.stop();
}

/// Both keys count on from what the lost rows had, and somebody keeps a transaction open meanwhile.
#[test]
fn after_a_failover_the_keys_of_the_lost_history_are_no_watermark_and_no_state_file_makes_them_one()
{
    let servers = Servers::start();
    create_roles(&servers);
    let rules = json!([by("numbered", "key"), by("lettered", "key")]);
    let make = |name: &str, key: &str| {
        format!("CREATE TABLE {name} (id int PRIMARY KEY, key {key}, note text);")
    };
    let setup = make("numbered", "int") + &make("lettered", "text COLLATE \"C\"");
    let mut case = Case::on(&servers, &setup, &rules);
    let insert = |from: u32, to: u32, note: &str| {
        format!(
            "INSERT INTO numbered SELECT n, n, '{note}' FROM generate_series({from}, {to}) n;
             INSERT INTO lettered SELECT n, lpad(n::text, 5, '0'), '{note}' FROM generate_series({from}, {to}) n"
        )
    };
    case.at_source(&insert(1, 40, "first"));
    let standby = servers.standby();
    let mut replica = standby.connect(&case.database);
    cut_off(&mut replica);
    case.at_source(&insert(41, 70, "lost"));
    case.sync();
    let file = case.directory.path().join("sync-state/numbered.json");
    let older = std::fs::read(&file).expect("a file");
    case.at_source(&insert(71, 100, "lost too"));
    case.sync();
    std::fs::write(file, older).expect("an older file");
    servers.source.stop("immediate");
    standby.promote();
    case.source = replica;
    case.at_source(&insert(41, 80, "new"));
    case.write_env(&format!("SOURCE_PORT={}", standby.address().port()));
    let mut open = standby.connect(&case.database);
    open.batch_execute("BEGIN; SELECT pg_current_xact_id()").expect("a transaction");
    case.sync().says("the older one counts");
    let wrong = "SELECT id FROM numbered WHERE note LIKE 'lost%' AND id <= 80 UNION ALL \
                 SELECT id FROM lettered WHERE note LIKE 'lost%' AND id <= 80";
    assert_eq!(case.ask(wrong), [""; 0]);
    // Below what the lost rows had.
    case.at_source(
        "INSERT INTO lettered SELECT n, lpad((n - 1000)::text, 5, '0'), 'later' FROM generate_series(1081, 1090) n",
    );
    case.sync();
    assert_eq!(case.ask("SELECT count(*) FROM lettered WHERE note = 'later'"), ["10"]);
    open.batch_execute("COMMIT").expect("an end");
    standby.stop("immediate");
    servers.stop();
}

#[test]
fn numbers_that_a_crash_gives_out_again_hide_no_row() {
    let servers = Servers::start();
    create_roles(&servers);
    let mut case = Case::on(&servers, EVENTS, &json!([by("events", "number")]));
    case.sync();
    case.at_source("INSERT INTO events SELECT n FROM generate_series(11, 30) n; CHECKPOINT");
    case.sync();
    // As if the last rows had not reached the disk: what is lost is lost, whoever has taken it.
    case.at_source(
        "DELETE FROM events WHERE id > 20; SELECT setval('numbers', 20);
         INSERT INTO events SELECT n FROM generate_series(121, 150) n",
    );
    servers.source.crash();
    case.sync().says("may have given keys twice since: all rows are read");
    assert_eq!(
        case.ask("SELECT count(*) FROM events WHERE id > 120"),
        ["30"],
        "those that were deleted stay, for the rule keeps them"
    );
    servers.stop();
}

#[test]
fn a_sync_from_a_standby_does_not_forget_when_the_primary_recovered() {
    let servers = Servers::start();
    create_roles(&servers);
    let mut case = Case::on(&servers, EVENTS, &json!([by("events", "number")]));
    case.sync();
    let known = "SELECT receipt -> 'position' ->> 'recovered_at' FROM _sync_state";
    let before = case.ask(known);
    let standby = servers.standby();
    case.write_env(&format!("SOURCE_PORT={}", standby.address().port()));
    // What has become of the primary since it was read, the standby does not say.
    case.sync().says("may have given keys twice since: all rows are read");
    assert_eq!(case.ask(known), before);
    let run = case.sync();
    assert!(!run.stdout.contains("all rows are read"), "{}", run.stdout);
    standby.stop("immediate");
    servers.stop();
}
