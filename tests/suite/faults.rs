//! What happens when something breaks: nothing is lost, nothing is left, and the next sync heals it.

use std::io::Read;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::case::{Case, OURS, Run, by, create_roles, servers};
use crate::support::judge;
use crate::support::server::Servers;

/// Enough rows that a sync takes a moment.
const ORDERS: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, note text, at int);
    INSERT INTO orders SELECT n, repeat(md5(n::text), 20), n FROM generate_series(1, 60000) n;";

fn orders(initial: &str) -> Case {
    Case::new(ORDERS, &json!([{"name": "orders", "replication_key": "at", "initial": initial}]))
}

/// Waits until a query at the destination finds something.
fn wait_for(case: &Case, sql: &str) {
    judge::wait_for(&mut case.destination_superuser(), sql);
}

/// Our session is busy with a COPY.
fn copying() -> String {
    format!(
        "SELECT 1 FROM pg_stat_activity WHERE {OURS} AND query LIKE 'COPY%' AND state = 'active'"
    )
}

/// No session of ours is left.
fn gone() -> String {
    format!("SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE {OURS})")
}

fn finish(mut child: Child) -> Run {
    let mut run = Run { code: None, stdout: String::new(), stderr: String::new() };
    if let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) {
        stdout.read_to_string(&mut run.stdout).expect("output");
        stderr.read_to_string(&mut run.stderr).expect("output");
    }
    run.code = child.wait().expect("an end").code();
    run
}

fn signal(child: &Child, name: &str) {
    let status = std::process::Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status()
        .expect("kill runs");
    assert!(status.success());
}

/// Makes every row new, so that the next sync has work.
fn change_all(case: &mut Case) {
    case.at_source("UPDATE orders SET note = reverse(note), at = at + 100000");
}

#[test]
fn a_sync_that_is_killed_leaves_the_table_as_it_was_and_the_next_one_heals_it() {
    for initial in ["pg_dump", "copy"] {
        let mut case = orders(initial);
        let mut child = case.start(&["sync"]);
        wait_for(&case, &copying());
        child.kill().expect("it can be killed");
        child.wait().expect("an end");
        wait_for(&case, &gone());
        assert!(case.ask("SELECT 1 FROM pg_class WHERE relname LIKE 'orders%'").is_empty());
        case.assert_nothing_left();
        case.sync();
        case.assert_equal("public.orders");
        change_all(&mut case);
        let before = case.ask("SELECT sum(at) FROM orders");
        let mut child = case.start(&["sync"]);
        wait_for(&case, &copying());
        child.kill().expect("it can be killed");
        child.wait().expect("an end");
        wait_for(&case, &gone());
        assert_eq!(case.ask("SELECT sum(at) FROM orders"), before);
        case.assert_nothing_left();
        case.sync();
        case.assert_equal("public.orders");
        case.assert_nothing_left();
    }
}

#[test]
fn a_signal_rolls_back_reports_and_shows_in_the_exit_code() {
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        for initial in ["pg_dump", "copy"] {
            let mut case = orders(initial);
            let child = case.start(&["sync"]);
            wait_for(&case, &copying());
            signal(&child, name);
            let run = finish(child);
            run.expect(code).says("Pipeline shop failed. interrupted");
            wait_for(&case, &gone());
            assert!(case.ask("SELECT 1 FROM pg_class WHERE relname LIKE 'orders%'").is_empty());
            case.sync();
            case.assert_equal("public.orders");
            case.assert_nothing_left();
        }
    }
}

#[test]
fn an_ended_backend_costs_a_second_try_and_nothing_else() {
    for initial in ["pg_dump", "copy"] {
        for at_source in [true, false] {
            let mut case = orders(initial);
            let child = case.start(&["sync"]);
            wait_for(&case, &copying());
            let end =
                format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}");
            let mut superuser =
                if at_source { case.another_source() } else { case.destination_superuser() };
            judge::column(&mut superuser, &end);
            finish(child).expect(0).says("trying again in 1 s");
            case.assert_equal("public.orders");
            case.assert_nothing_left();
        }
    }
}

#[test]
fn two_runs_at_once_are_safe_and_the_second_says_so() {
    let mut case = Case::new(
        &format!(
            "{ORDERS} CREATE TABLE small (id int PRIMARY KEY, at int); INSERT INTO small VALUES (1, 1)"
        ),
        &json!([by("orders", "at"), by("small", "at")]),
    );
    let first = case.start(&["sync"]);
    wait_for(&case, &copying());
    signal(&first, "STOP");
    let second = case.run(&["sync"]);
    signal(&first, "CONT");
    second.expect(4).says("another run holds `public.orders`").says("small-initial-NA");
    assert_eq!(second.stderr, "", "a held table is nothing to mail about");
    finish(first).expect(0);
    case.assert_equal("public.orders");
    case.assert_equal("public.small");
    case.assert_nothing_left();
}

#[test]
fn a_run_holds_the_table_that_it_is_at_and_none_that_it_has_done() {
    let make = |name| {
        format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, at int); INSERT INTO {name} VALUES (1, 1);"
        )
    };
    let mut case = Case::new(
        &["done", "held"].map(make).concat(),
        &json!([by("done", "at"), by("held", "at")]),
    );
    case.sync();
    case.at_source("INSERT INTO done VALUES (2, 2); INSERT INTO held VALUES (2, 2)");
    let mut holder = case.destination_superuser();
    holder.batch_execute("BEGIN; LOCK TABLE held IN SHARE MODE").expect("a lock");
    let first = case.start(&["sync"]);
    let waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'held'::regclass";
    judge::wait_for(&mut holder, waits);
    case.at_source("INSERT INTO done VALUES (3, 3)");
    let second = case.run(&["sync", "--table", "done"]);
    holder.batch_execute("COMMIT").expect("an end");
    second.expect(0).says("done-incremental-");
    case.assert_equal("public.done");
    finish(first).expect(0);
    case.assert_equal("public.held");
}

#[test]
fn a_lock_on_the_table_at_the_source_ends_in_an_error_that_says_so() {
    let mut case = orders("pg_dump");
    case.sync();
    let mut locker = case.another_source();
    locker.batch_execute("BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").expect("a lock");
    let child = case.start(&["sync"]);
    std::thread::sleep(Duration::from_millis(300));
    signal(&child, "TERM");
    let started = Instant::now();
    finish(child).expect(143);
    assert!(started.elapsed() < Duration::from_secs(10));
    locker.batch_execute("ROLLBACK").expect("the end");
    case.sync();
    case.assert_equal("public.orders");
}

/// Servers that may be stopped, one test at a time.
fn fragile() -> MutexGuard<'static, &'static mut Servers> {
    static SERVERS: OnceLock<Mutex<&'static mut Servers>> = OnceLock::new();
    let servers = SERVERS.get_or_init(|| {
        let servers = Servers::start();
        create_roles(&servers);
        Mutex::new(Box::leak(Box::new(servers)))
    });
    servers.lock().expect("no test before this one failed")
}

#[test]
fn a_server_that_crashes_during_a_sync_costs_a_second_try_and_nothing_else() {
    let mut servers = fragile();
    for source_crashes in [true, false] {
        for first in [true, false] {
            let mut case = Case::on(
                &servers,
                ORDERS,
                &json!([{"name": "orders", "replication_key": "at", "initial": "copy"}]),
            );
            if !first {
                case.sync();
                change_all(&mut case);
            }
            let child = case.start(&["sync"]);
            wait_for(&case, &copying());
            let server =
                if source_crashes { &mut servers.source } else { &mut servers.destination };
            server.stop("immediate");
            server.start();
            finish(child).expect(0).says("trying again");
            case.reconnect();
            case.assert_equal("public.orders");
            case.assert_nothing_left();
        }
    }
}

/// The destination is stopped while these commands read the third table of a dozen, and started when
/// they have ended.
fn left_at_the_third_table(servers: &mut Servers, case: &Case, commands: &[&[&str]]) {
    let children: Vec<_> = commands.iter().map(|command| case.start(command)).collect();
    let mut watcher = case.another_source();
    let reading =
        format!("SELECT 1 FROM pg_stat_activity WHERE {OURS} AND query LIKE '%pg_sleep(3)%'");
    while judge::column(&mut watcher, &reading).len() < commands.len() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let started = Instant::now();
    servers.destination.stop("immediate");
    let runs: Vec<_> = children.into_iter().map(finish).collect();
    let elapsed = started.elapsed();
    servers.destination.start();
    for run in &runs {
        run.expect(3).says("cannot connect to the destination");
        assert!(!run.stdout.contains("t4:"), "{}", run.stdout);
    }
    assert!(elapsed < Duration::from_mins(1), "{elapsed:?}");
}

#[test]
fn a_server_that_stays_away_ends_the_run_and_not_each_table_after_long_patience() {
    let mut servers = fragile();
    let tables: Vec<String> = (0..12).map(|number| format!("t{number}")).collect();
    let make = |name: &String| {
        format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, at int); INSERT INTO {name} VALUES (1, 1);"
        )
    };
    let rules: Vec<_> = tables
        .iter()
        .map(|name| json!({"name": name, "replication_key": "at", "initial": "copy"}))
        .collect();
    let mut rules = json!(rules);
    rules[2]["where"] = json!("pg_sleep(3) IS NOT NULL");
    let setup = tables.iter().map(make).collect::<String>();
    let mut case = Case::on(&servers, &setup, &rules);
    left_at_the_third_table(&mut servers, &case, &[&["sync"]]);
    case.reconnect();
    case.sync();
    for name in &tables {
        case.assert_equal(&format!("public.{name}"));
    }
    let commands: [&[&str]; 2] = [&["verify"], &["plan", "--outline"]];
    left_at_the_third_table(&mut servers, &case, &commands);
}

#[test]
fn a_destination_that_refuses_a_value_fails_the_table_alone_and_shows_the_row() {
    let mut case = Case::new(
        "CREATE TABLE t (id int PRIMARY KEY, note text, at int); INSERT INTO t VALUES (1, 'a', 1);
         CREATE TABLE u (id int PRIMARY KEY, at int); INSERT INTO u VALUES (1, 1)",
        &json!([by("t", "at"), by("u", "at")]),
    );
    case.sync();
    case.at_destination("ALTER TABLE t ADD CONSTRAINT short CHECK (length(note) < 3)");
    case.at_source("INSERT INTO t VALUES (2, 'long', 2); INSERT INTO u VALUES (2, 2)");
    case.sync_fails(1).says("violates check constraint \"short\" (23514)").says("u-incremental-1");
    case.assert_equal("public.u");
    case.assert_nothing_left();
    case.at_destination("ALTER TABLE t DROP CONSTRAINT short");
    case.sync();
    case.assert_equal("public.t");
}

#[test]
fn the_servers_of_the_tests_are_shared() {
    assert_ne!(servers().source.address().port(), servers().destination.address().port());
}

/// Our lock is held, pg_dump's is wanted, and between them waits somebody who would wait for us.
#[test]
fn who_waits_to_alter_a_table_that_pg_dump_is_to_read_costs_a_second_try() {
    let mut case = orders("pg_dump");
    let program = case.directory.path().join("slow");
    std::fs::create_dir(&program).expect("a directory");
    let gate = case.directory.path().join("go");
    let path = std::env::var("PATH").expect("a PATH");
    let script = format!(
        "#!/bin/sh\nPATH='{path}'\ncase $1 in --version) ;; *)\n  touch '{0}.waits'\n  \
         until [ -e '{0}' ]; do sleep 0.05; done;;\nesac\nexec pg_dump \"$@\"\n",
        gate.display()
    );
    let program = program.join("pg_dump");
    std::fs::write(&program, script).expect("a program");
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("a program that runs");
    case.set("PATH", &format!("{}:{path}", program.parent().expect("a directory").display()));
    let child = case.start(&["sync"]);
    let waits = gate.with_extension("waits");
    let started = Instant::now();
    while !waits.exists() {
        assert!(started.elapsed() < Duration::from_mins(1), "pg_dump was not started");
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::scope(|scope| {
        let mut other = case.another_source();
        scope.spawn(move || {
            other.batch_execute("ALTER TABLE orders ADD more int").expect("altered");
        });
        let mut watcher = case.another_source();
        let waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'orders'::regclass";
        while judge::column(&mut watcher, waiting).is_empty() {
            std::thread::sleep(Duration::from_millis(10));
        }
        std::fs::write(&gate, "").expect("a way");
    });
    finish(child).expect(0).says("LOCK TABLE public.orders").says("trying again");
    case.assert_equal("public.orders");
    case.assert_nothing_left();
}

/// Functions such as `has_table_privilege` do not look at the snapshot of the catalog's rows.
#[test]
fn a_table_that_is_made_anew_again_and_again_disturbs_no_other() {
    let churned =
        "CREATE TABLE churned (id int PRIMARY KEY, at int); INSERT INTO churned VALUES (1, 1);";
    let mut case = Case::new(
        &format!(
            "{churned} CREATE TABLE calm (id int PRIMARY KEY, at int); INSERT INTO calm VALUES (1, 1);"
        ),
        &json!([
            by("calm", "at"),
            {"name": "churned", "replication_key": "at", "initial": "copy"}
        ]),
    );
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut other = case.another_source();
        let over = &over;
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                other
                    .batch_execute(&format!("BEGIN; DROP TABLE churned; {churned} COMMIT"))
                    .expect("anew");
            }
        });
        let runs = [&["sync"][..], &["plan"], &["check"], &["verify"]]
            .map(|arguments| case.run(arguments));
        // Before anything is said of them, for a panic would wait for who never ends.
        over.store(true, Ordering::Relaxed);
        for run in runs {
            assert!(matches!(run.code, Some(0 | 1)), "{run:?}");
        }
        case.assert_equal("public.calm");
    });
    case.sync();
    case.assert_equal("public.churned");
    case.assert_nothing_left();
}
