//! A network that is cut or stands still ends in an error or in success, and never in a hang.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::case::{Case, Run};
use crate::support::judge;
use crate::support::proxy::Proxy;

const ORDERS: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, note text, at int);
    INSERT INTO orders SELECT n, repeat(md5(n::text), 20), n FROM generate_series(1, 60000) n;";

fn through_a_proxy(source: bool, initial: &str) -> (Case, Proxy) {
    let case = Case::new(
        ORDERS,
        &json!([{"name": "orders", "replication_key": "at", "initial": initial}]),
    );
    let proxy = Proxy::to(if source { case.source_port() } else { case.destination_port() });
    let variable = if source { "SOURCE_PORT" } else { "DEST_PORT" };
    case.write_env(&format!("{variable}={}", proxy.port));
    (case, proxy)
}

fn wait_for_bytes(proxy: &Proxy, bytes: u64) {
    let started = Instant::now();
    while proxy.bytes() < bytes {
        assert!(started.elapsed() < Duration::from_mins(1), "only {} bytes passed", proxy.bytes());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_cut_connection_costs_a_second_try() {
    for source in [true, false] {
        let (mut case, proxy) = through_a_proxy(source, "copy");
        let child = case.start(&["sync"]);
        wait_for_bytes(&proxy, 1_000_000);
        proxy.cut();
        std::thread::sleep(Duration::from_millis(300));
        proxy.open();
        Run::from(child.wait_with_output().expect("an end")).expect(0).says("trying again in 1 s");
        case.assert_equal("public.orders");
        case.assert_nothing_left();
    }
}

#[test]
fn a_network_that_stands_still_ends_in_an_error_and_the_next_sync_heals_it() {
    for (source, initial) in [(true, "copy"), (false, "copy"), (true, "pg_dump")] {
        let (mut case, proxy) = through_a_proxy(source, initial);
        let started = Instant::now();
        let child = case.start(&["sync", "--silence-seconds", "1"]);
        wait_for_bytes(&proxy, 1_000_000);
        proxy.stall();
        let run = Run::from(child.wait_with_output().expect("an end"));
        run.expect(3).says("does not answer any more");
        assert!(started.elapsed() < Duration::from_mins(2), "{:?}", started.elapsed());
        proxy.open();
        case.wait_until_alone();
        case.sync();
        case.assert_equal("public.orders");
        case.assert_nothing_left();
    }
}

#[test]
fn a_lost_session_that_has_the_log_written_ends() {
    let (mut case, proxy) = through_a_proxy(false, "copy");
    // PostgreSQL 13 ends it with its connection, which the proxy keeps.
    if case.ask("SELECT current_setting('server_version_num')::int < 140000") == ["t"] {
        return;
    }
    let child = case.start(&["sync", "--silence-seconds", "1"]);
    let there = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() \
                 AND application_name = 'incremental-replication (flushing)'";
    judge::wait_for(&mut case.destination_superuser(), there);
    proxy.forget();
    Run::from(child.wait_with_output().expect("an end")).expect(0);
    case.wait_until_alone();
    case.assert_equal("public.orders");
    case.assert_nothing_left();
}

/// A firewall that has forgotten a connection tells neither end.
#[test]
fn a_session_that_is_lost_without_a_word_does_not_keep_its_own_table() {
    for source in [true, false] {
        let (mut case, proxy) = through_a_proxy(source, "copy");
        let child = case.start(&["sync", "--silence-seconds", "1"]);
        wait_for_bytes(&proxy, 1_000_000);
        proxy.forget();
        let run = Run::from(child.wait_with_output().expect("an end"));
        run.expect(0).says("does not answer any more").says("trying again in 1 s");
        case.wait_until_alone();
        case.assert_equal("public.orders");
        case.assert_nothing_left();
    }
}
