//! Many tables: idle ones cost next to nothing, several are synced at once, hosts share the work.

use incremental_replication::sql::session::flush;
use serde_json::{Value, json};

use crate::support::case::{Case, OURS, Run, by, create_roles, with};
use crate::support::http::WebhookServer;
use crate::support::judge;
use crate::support::proxy::Proxy;
use crate::support::server::Servers;

const TABLES: usize = 120;

fn name(number: usize) -> String {
    format!("t_{number:03}")
}

fn setup(tables: usize) -> String {
    let table = |number: usize| {
        let name = name(number);
        format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), note text);
             CREATE INDEX ON {name} (at);
             INSERT INTO {name} (id, note) SELECT n, 'note ' || n FROM generate_series(1, {}) n;",
            number % 7 + 1
        )
    };
    (0..tables).map(table).collect()
}

fn rules(tables: usize) -> Value {
    let rule = |number| with(by(&name(number), "at"), &json!({"initial": "copy"}));
    (0..tables).map(rule).collect()
}

/// How many round trips each side of a sync takes.
fn round_trips(case: &Case, code: i32) -> (Run, u64, u64) {
    let (source, destination) = (Proxy::to(case.source_port()), Proxy::to(case.destination_port()));
    case.write_env(&format!("SOURCE_PORT={}\nDEST_PORT={}", source.port, destination.port));
    let run = case.run(&["sync"]);
    run.expect(code);
    (run, source.round_trips(), destination.round_trips())
}

#[test]
fn idle_tables_share_their_round_trips_and_write_nothing() {
    let servers = Servers::start();
    crate::support::case::create_roles(&servers);
    let mut case = Case::on(&servers, &setup(TABLES), &rules(TABLES));
    case.sync();
    // Marks of the first sync may have been held back by its setup.
    case.sync();
    // The server itself may write now and then.
    let mut quiet = false;
    for _ in 0..3 {
        let wal = "SELECT pg_current_wal_insert_lsn()::text";
        let before = case.ask(wal);
        let (run, source, destination) = round_trips(&case, 0);
        quiet |= before == case.ask(wal);
        assert_eq!(run.stdout.matches("incremental sync done: 0 rows").count(), TABLES);
        // Logging in and preparing the session are among them.
        assert!(source <= 20, "{source} round trips at the source");
        assert!(destination <= 25, "{destination} round trips at the destination");
    }
    assert!(quiet, "a sync of idle tables writes to the destination's log");
    // A host without a disk of its own finds them idle by the receipts alone.
    std::fs::remove_dir_all(case.path().join("sync-state")).unwrap();
    let (_, source, destination) = round_trips(&case, 0);
    assert!(source <= 20 && destination <= 25, "{source} and {destination} round trips");
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    assert_eq!(case.ask(locks), ["0"]);
}

#[test]
fn a_table_that_changed_costs_its_source_four_round_trips() {
    const CHANGED: usize = 30;
    let servers = Servers::start();
    crate::support::case::create_roles(&servers);
    let mut case = Case::on(&servers, &setup(CHANGED), &rules(CHANGED));
    case.sync();
    case.sync();
    let (_, idle, _) = round_trips(&case, 0);
    for table in (0..CHANGED).map(name) {
        case.at_source(&format!("UPDATE {table} SET note = 'changed', at = now() WHERE id = 1"));
    }
    let (run, changed, _) = round_trips(&case, 0);
    assert_eq!(run.stdout.matches("incremental sync done: 1 row").count(), CHANGED);
    // A look under the lock, the COPY and its rows, and the end.
    assert!(
        changed - idle <= 4 * CHANGED as u64,
        "{changed} round trips, {idle} where nothing changed"
    );
}

#[test]
fn what_changed_among_idle_tables_is_found_and_one_that_cannot_be_read_spoils_no_other() {
    let mut case = Case::new(&setup(40), &rules(40));
    case.sync();
    case.sync();
    case.at_source(&format!("REVOKE SELECT ON t_007 FROM {}", crate::support::case::READER));
    case.at_source(
        "INSERT INTO t_011 (id, note) VALUES (99, 'new');
         UPDATE t_012 SET note = 'changed', at = now() WHERE id = 1;
         ALTER TABLE t_013 ADD COLUMN more int;
         BEGIN; TRUNCATE t_014; INSERT INTO t_014 (id, at) VALUES (5, '2001-01-01'); COMMIT",
    );
    case.at_destination("DROP TABLE t_015");
    let (run, source, _) = round_trips(&case, 1);
    run.says("cannot sync `t_007`");
    assert_eq!(run.stdout.matches("incremental sync done: 0 rows").count(), 34, "{}", run.stdout);
    assert!(source <= 100, "{source} round trips at the source");
    for table in ["t_011", "t_012", "t_013", "t_015"] {
        case.assert_equal(&format!("public.{table}"));
    }
    let there = case.ask("SELECT count(*) FROM t_014 WHERE at = '2001-01-01'");
    assert_eq!(there, ["1"]);
}

#[test]
fn a_table_that_is_locked_at_the_source_holds_up_no_other() {
    let more = "CREATE VIEW v AS SELECT * FROM t_005; CREATE POLICY p ON t_006 USING (note > '');
                ALTER TABLE t_006 ENABLE ROW LEVEL SECURITY; GRANT SELECT ON v TO reader";
    let mut rules = rules(10);
    rules
        .as_array_mut()
        .unwrap()
        .insert(0, json!({"name": "v", "replication_key": "at", "unique_cols": ["id"]}));
    let case = Case::new(&(setup(10) + more), &rules);
    case.sync();
    let mut other = case.another_source();
    other.batch_execute("BEGIN; LOCK TABLE t_003, t_005, t_006 IN ACCESS EXCLUSIVE MODE").unwrap();
    let started = std::time::Instant::now();
    let others = ["sync", "--table", "v", "--table", "t_002", "--table", "t_006", "--fail-fast"];
    let mut waiting = case.start(&others);
    // What is asked of all tables together waits for none of them: the view's own turn does.
    let mut watcher = case.another_source();
    let asked = "SELECT query FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                 AND application_name LIKE 'incremental-replication%' AND datname = current_database()";
    let query = loop {
        if let Some(query) = crate::support::judge::column(&mut watcher, asked).pop() {
            if query.contains("_005") || query.contains("\"v\"") {
                break query;
            }
            assert!(!query.contains("made_from"), "{query}");
        }
        assert!(started.elapsed() < std::time::Duration::from_mins(1), "nobody waits");
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    assert!(!query.contains("WITH RECURSIVE"), "{query}");
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    let child = case.start(&["sync", "--table", "t_002", "--table", "t_003", "--table", "t_004"]);
    std::thread::sleep(std::time::Duration::from_secs(3));
    other.batch_execute("COMMIT").unwrap();
    let run = Run::from(child.wait_with_output().unwrap());
    run.expect(0);
    assert_eq!(run.stdout.matches("sync done: 0 rows").count(), 3, "{}", run.stdout);
}

#[test]
fn a_table_that_is_locked_at_the_destination_holds_up_no_question_about_others() {
    let mut case = Case::new(&setup(5), &rules(5));
    case.sync();
    let mut other = case.destination_superuser();
    other.batch_execute("BEGIN; LOCK TABLE t_003 IN ACCESS EXCLUSIVE MODE").unwrap();
    case.at_source("INSERT INTO t_004 SELECT 1000, max(at) FROM t_004");
    let started = std::time::Instant::now();
    let run = case.sync();
    assert_eq!(run.stdout.matches("sync done: 0 rows").count(), 4, "{}", run.stdout);
    run.says("t_004-incremental-1");
    case.run(&["status"]).expect(0).says("t_003");
    case.run(&["plan", "--outline"]).expect(0).says("t_003");
    case.run(&["check"]).expect(0);
    let took = started.elapsed();
    assert!(took < std::time::Duration::from_secs(30), "{took:?}");
    other.batch_execute("COMMIT").unwrap();
    case.assert_equal("public.t_004");
}

#[test]
fn several_tables_are_synced_at_once_and_reported_in_the_order_of_the_file() {
    let mut rules = rules(12);
    rules[4]["where"] = json!("no_such_column = 1");
    let mut case = Case::new(&setup(12), &rules);
    let hook = WebhookServer::answering(&[200]);
    case.write_env(&format!("WEBHOOK_URL={}", hook.url));
    let run = case.run(&["sync", "--jobs", "4"]);
    run.expect(1).says("cannot sync `t_004`");
    let body = hook.bodies().remove(0);
    let names: Vec<&str> =
        body["tables"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    let wanted: Vec<String> = (0..12).map(name).collect();
    assert_eq!(names, wanted);
    for number in (0..12).filter(|number| *number != 4) {
        case.assert_equal(&format!("public.{}", name(number)));
    }
    case.wait_until_alone();
    case.assert_nothing_left();
    // More jobs than tables, and none of them with anything to do.
    case.run(&["sync", "--jobs", "64", "--table", "t_001"]).expect(0);
    case.run(&["sync", "--jobs", "0"]).expect(2).says("--jobs");
}

#[test]
fn where_no_more_sessions_are_let_in_fewer_jobs_do_all_the_work() {
    // What is held for so long has other tests' rows read again and again.
    let servers = Servers::start();
    create_roles(&servers);
    let mut case = Case::on(&servers, &setup(6), &rules(6));
    let limit = format!(
        "ALTER DATABASE {0} CONNECTION LIMIT 2; GRANT CREATE ON DATABASE {0} TO writer",
        case.database
    );
    case.destination_superuser().batch_execute(&limit).expect("a limit");
    // The first is busy for longer than the others wait to be let in.
    let mut holder = case.another_source();
    let all: Vec<String> = (0..6).map(name).collect();
    let lock = format!("BEGIN; LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", all.join(", "));
    holder.batch_execute(&lock).expect("a lock");
    let child = case.start(&["sync", "--jobs", "3"]);
    std::thread::sleep(std::time::Duration::from_secs(16));
    holder.batch_execute("COMMIT").expect("an end");
    let run = Run::from(child.wait_with_output().expect("a run"));
    run.expect(0).says("one job fewer: cannot connect to the destination");
    for number in 0..6 {
        case.assert_equal(&format!("public.{}", name(number)));
    }
    servers.stop();
}

#[test]
fn a_failure_ends_all_jobs_where_that_was_asked_for() {
    let mut rules = rules(40);
    rules[0]["where"] = json!("no_such_column = 1");
    let mut case = Case::new(&setup(40), &rules);
    // The largest table is the first.
    case.at_source("INSERT INTO t_000 (id, note) SELECT n, 'more' FROM generate_series(100, 50000) n; ANALYZE t_000");
    let run = case.run(&["sync", "--jobs", "2", "--fail-fast"]);
    run.expect(1).says("cannot sync `t_000`");
    assert!(run.stdout.matches("sync done").count() < 39, "{}", run.stdout);
    assert!(run.stdout.contains("t_039-skipped-NA"), "{}", run.stdout);
}

#[test]
fn hosts_share_the_tables_without_a_shared_disk() {
    let mut case = Case::new(&setup(30), &rules(30));
    let mut seen = Vec::new();
    for shard in ["1/3", "2/3", "3/3"] {
        // Another host has no state file.
        let _ = std::fs::remove_dir_all(case.path().join("sync-state"));
        let run = case.run(&["sync", "--shard", shard]);
        run.expect(0).says(&format!("shard {shard} has "));
        let done: Vec<&str> =
            run.stdout.lines().filter(|line| line.contains("initial sync done")).collect();
        assert!((3..=17).contains(&done.len()), "shard {shard} has {} tables", done.len());
        seen.push(done.len());
    }
    assert_eq!(seen.iter().sum::<usize>(), 30, "{seen:?}");
    for number in 0..30 {
        case.assert_equal(&format!("public.{}", name(number)));
    }
    // The receipts suffice: whoever comes next goes on from them.
    case.at_source("INSERT INTO t_005 (id, note) VALUES (99, 'new')");
    let _ = std::fs::remove_dir_all(case.path().join("sync-state"));
    let run = case.run(&["sync"]);
    run.expect(0);
    assert!(!run.stdout.contains("initial sync"), "{}", run.stdout);
    case.assert_equal("public.t_005");
    // Of one table, most hosts have none.
    for shard in ["1/3", "2/3", "3/3"] {
        case.run(&["sync", "--table", "t_001", "--shard", shard]).expect(0);
    }
    case.run(&["sync", "--shard", "4/3"]).expect(2).says("write it as K/N, such as 2/4");
    let count = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(judge::column(&mut case.destination, count), ["0"]);
}

#[test]
fn a_second_session_has_the_log_of_many_rows_written_and_nothing_depends_on_it() {
    // Others' transactions would have ids as well.
    let servers = Servers::start();
    create_roles(&servers);
    let mut case = Case::on(
        &servers,
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz NOT NULL, note text);
         INSERT INTO t SELECT n, now(), repeat('x', 200) FROM generate_series(1, 200000) n",
        &json!([with(by("t", "at"), &json!({"initial": "copy", "lookback": 0}))]),
    );
    // How many pieces of 256 KiB the destination's log has, and how many transaction ids were given.
    let used = |case: &mut Case| -> [u64; 2] {
        [
            "trunc((pg_current_wal_insert_lsn() - '0/0') / (256 * 1024))",
            "pg_snapshot_xmax(pg_current_snapshot())",
        ]
        .map(|what| case.ask(&format!("SELECT {what}"))[0].parse().expect("a number"))
    };
    let before = used(&mut case);
    let asks = "a second session has the destination's log written to the disk";
    let child = case.start(&["-v", "sync"]);
    let there = "SELECT 1 FROM pg_stat_activity \
                 WHERE application_name = 'incremental-replication (flushing)' AND datname = current_database()";
    judge::wait_for(&mut case.destination_superuser(), there);
    let run = Run::from(child.wait_with_output().expect("a run"));
    run.expect(0);
    assert_eq!(run.stdout.matches(asks).count(), 1, "{}", run.stdout);
    case.wait_until_alone();
    let after = used(&mut case);
    let [log, ids] = [0, 1].map(|at| after[at] - before[at]);
    assert!(log > 100, "a log of {log} pieces");
    assert!(ids <= log + 20, "{ids} ids for {log} pieces of the log");

    case.at_source("UPDATE t SET at = clock_timestamp() WHERE id <= 100");
    let run = case.run(&["-v", "sync"]);
    run.expect(0).says("incremental sync done: 100 rows");
    assert!(!run.stdout.contains(asks), "few rows need none:\n{}", run.stdout);

    // The writer's session is one more than there may be, and that of this test was let in before.
    let limit = format!("ALTER DATABASE {} CONNECTION LIMIT 2", case.database);
    case.destination_superuser().batch_execute(&limit).expect("a limit");
    case.at_source("UPDATE t SET at = clock_timestamp() WHERE id <= 50000");
    let run = case.run(&["-v", "sync"]);
    run.expect(0).says("incremental sync done: 50000 rows").says(asks);
    case.assert_equal("public.t");
    servers.stop();
}

#[test]
fn the_wal_writer_is_woken_once_for_what_the_log_has_grown_by() {
    let servers = Servers::start();
    let connect = || servers.destination.connect("postgres");
    let mut session = connect();
    session.batch_execute("CREATE TABLE grown (note text); CHECKPOINT").expect("a table");
    assert!(judge::column(&mut session, &flush(None)).is_empty(), "all of it is on the disk");
    let mut others = Vec::new();
    // It may have woken up by itself at this very moment.
    let woken_at = (0..20).find_map(|_| {
        let mut other = connect();
        let many = "BEGIN; INSERT INTO grown SELECT repeat('x', 500) FROM generate_series(1, 2000)";
        other.batch_execute(many).expect("rows");
        others.push(other);
        judge::column(&mut session, &flush(None)).pop()
    });
    let woken_at = woken_at.expect("much of it is not on the disk yet");
    assert!(judge::column(&mut session, &flush(Some(&woken_at))).is_empty());
    drop((session, others));
    servers.stop();
}

#[test]
fn a_table_of_fifteen_hundred_columns_is_copied_merged_and_verified() {
    let columns: Vec<String> = (0..1500).map(|n| format!("c{n} int DEFAULT {n}")).collect();
    let setup = format!(
        "CREATE TABLE wide (id int PRIMARY KEY, at int, {});
         INSERT INTO wide (id, at) SELECT n, n FROM generate_series(1, 20) n",
        columns.join(", ")
    );
    for initial in ["copy", "pg_dump"] {
        let rule = with(by("wide", "at"), &json!({"initial": initial}));
        let mut case = Case::new(&setup, &json!([rule]));
        case.sync();
        case.assert_equal("public.wide");
        case.at_source("UPDATE wide SET c1499 = NULL, at = 100 WHERE id = 7");
        case.sync();
        case.assert_equal("public.wide");
        case.run(&["verify"]).expect(0);
    }
}

#[test]
fn rows_of_many_megabytes_arrive_as_they_are() {
    let setup = "CREATE TABLE large (id int PRIMARY KEY, at int, words text, bytes bytea);
         ALTER TABLE large ALTER words SET STORAGE EXTERNAL, ALTER bytes SET STORAGE EXTERNAL;
         INSERT INTO large SELECT 1, 1, repeat(E'tab\\t, newline\\n, \\\\ and ü ', 800000), NULL;
         INSERT INTO large SELECT 2, 2, NULL, decode(repeat('00ff5c0a', 6000000), 'hex');
         INSERT INTO large SELECT n, n, 'small', NULL FROM generate_series(3, 1000) n";
    for initial in ["copy", "pg_dump"] {
        let rule = with(by("large", "at"), &json!({"initial": initial}));
        let mut case = Case::new(setup, &json!([rule]));
        case.sync();
        let equal = |case: &mut Case| {
            let sums = "SELECT format('%s %s %s %s', id, at, md5(words), md5(bytes)) FROM large ORDER BY id";
            assert_eq!(judge::column(&mut case.source, sums), case.ask(sums));
        };
        equal(&mut case);
        case.at_source("UPDATE large SET words = words || 'x', at = 2000 WHERE id = 1");
        case.sync();
        equal(&mut case);
    }
}

#[test]
fn a_table_that_is_copied_twice_has_watermarks_of_its_own_for_each_copy() {
    let setup = "CREATE TABLE orders (id int PRIMARY KEY, n int, region text);
         INSERT INTO orders SELECT n, 1000000 + n, 'eu' FROM generate_series(1, 50) n;";
    let to = |key: &str, name: &str, filter: Option<&str>| {
        let rule = json!({"name": "orders", "replication_key": key, "destination_name": name});
        with(rule, &json!({ "where": filter }))
    };
    let rules = json!([
        to("n", "by_n", None),
        to("id", "by_id", None),
        to("xmin", "europe", Some("region = 'eu'")),
        to("xmin", "america", Some("region = 'us'")),
    ]);
    let mut case = Case::new(setup, &rules);
    case.write_env("METRICS_FILE=shop.prom");
    case.sync();
    case.sync();
    case.at_source("INSERT INTO orders VALUES (2001, 3000000, 'us')");
    case.sync();
    for table in ["by_n", "by_id"] {
        assert_eq!(case.ask(&format!("SELECT count(*) FROM {table}")), ["51"], "{table}");
    }
    assert_eq!(case.ask("SELECT id FROM america"), ["2001"]);
    assert_eq!(case.ask("SELECT count(*) FROM europe"), ["50"]);
    case.at_source("INSERT INTO orders VALUES (2002, 1, 'eu')");
    case.sync();
    assert_eq!(case.ask("SELECT count(*) FROM by_id"), ["52"]);
    assert_eq!(case.ask("SELECT count(*) FROM europe"), ["51"]);
    let metrics = case.read("shop.prom");
    let mut series: Vec<&str> = metrics
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|l| l.contains('{'))
        .collect();
    let all = series.len();
    series.sort_unstable();
    series.dedup();
    assert_eq!(series.len(), all, "a series stands there twice: {metrics}");
}

#[test]
fn a_slow_question_holds_no_other_tables_lock() {
    let mut rules = rules(3);
    rules[1]["where"] = json!("pg_sleep(0.2) IS NOT NULL");
    let case = Case::new(&setup(3), &rules);
    case.sync();
    case.sync();
    let child = case.start(&["sync"]);
    let mut others = case.another_source();
    let started = std::time::Instant::now();
    let mut held = false;
    while started.elapsed() < std::time::Duration::from_secs(20) && !held {
        let asking =
            format!("SELECT pid FROM pg_stat_activity WHERE {OURS} AND wait_event = 'PgSleep'");
        held = !judge::column(&mut others, &asking).is_empty();
    }
    assert!(held, "the slow question was never seen");
    let locks = "SELECT c.relname FROM pg_locks l JOIN pg_class c ON c.oid = l.relation \
                 WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                 AND c.relname IN ('t_000', 't_002')";
    assert_eq!(judge::column(&mut others, locks), [""; 0]);
    Run::from(child.wait_with_output().unwrap()).expect(0);
}
