//! How fresh is each table, and who else is told?

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::case::{Case, Run, by};
use crate::support::judge;

const SHOP: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, at timestamptz);
    INSERT INTO orders SELECT n, '2024-01-01'::timestamptz + n * interval '1 s' FROM generate_series(1, 100) n;
    CREATE TABLE customers (id int PRIMARY KEY, at int); INSERT INTO customers VALUES (1, 1);";

fn shop() -> Case {
    Case::new(SHOP, &json!([by("orders", "at"), by("customers", "at")]))
}

fn status(case: &Case) -> Value {
    let run = case.run(&["status", "--json"]);
    run.expect(0);
    serde_json::from_str(&run.stdout).unwrap()
}

fn states(document: &Value) -> Vec<&str> {
    document["tables"].as_array().unwrap().iter().map(|t| t["state"].as_str().unwrap()).collect()
}

#[test]
fn a_table_is_never_synced_then_fresh_then_failed_then_gone() {
    let mut case = shop();
    assert_eq!(states(&status(&case)), ["never", "never"]);
    case.run(&["status"]).expect(0).says("never synced");
    case.sync();
    let document = status(&case);
    assert_eq!(states(&document), ["synced", "synced"]);
    let orders = &document["tables"][0];
    assert_eq!(orders["watermark"], "2024-01-01 00:01:40+00");
    assert_eq!((&orders["estimated_rows"], &orders["held_back"]), (&json!(100), &json!(false)));
    assert!(orders["age_seconds"].as_u64().unwrap() < 60, "{orders}");

    case.at_source("ALTER TABLE customers RENAME TO clients");
    case.sync_fails(1);
    let document = status(&case);
    assert_eq!(states(&document), ["synced", "failed"]);
    let error = document["tables"][1]["error"].as_str().unwrap();
    assert!(error.starts_with("cannot sync `customers`: there is no table"), "{error}");
    case.run(&["status"]).expect(0).says("failed").says("there is no table");

    case.at_destination("DROP TABLE orders");
    assert_eq!(states(&status(&case)), ["gone", "failed"]);
}

#[test]
fn an_idle_sync_makes_a_table_fresh_and_other_hosts_go_by_the_receipt() {
    let mut case = shop();
    case.sync();
    let before = status(&case)["tables"][0]["synced_at"].clone();
    case.at_destination("UPDATE _sync_state SET written_at = '2020-01-01'");
    case.sync();
    let after = status(&case)["tables"][0]["synced_at"].clone();
    assert!(after.as_str() > before.as_str(), "{before} {after}");
    // Another host has no file.
    std::fs::remove_dir_all(case.path().join("sync-state")).unwrap();
    let document = status(&case);
    assert_eq!(document["tables"][0]["synced_at"], "2020-01-01T00:00:00.000Z");
    assert_eq!(document["last_run"]["ended_at"], Value::Null);
    case.run(&["status"]).expect(0).says(" days ");
}

#[test]
fn a_run_that_never_began_is_told_and_the_source_is_not_asked() {
    let case = shop();
    case.sync();
    case.write_env("SOURCE_PORT=1");
    case.sync_fails(3);
    let document = status(&case);
    assert_eq!(states(&document), ["synced", "synced"]);
    let failure = document["last_run"]["failure"].as_str().unwrap();
    assert!(failure.starts_with("cannot connect to the source"), "{failure}");
    case.run(&["status"]).expect(0).says("the last run failed, 0 s ago: cannot connect");
    case.write_env("DEST_PORT=1");
    case.run(&["status"]).expect(3).says("cannot connect to the destination");
}

#[test]
fn the_screen_is_eighty_columns_wide() {
    let tables = 60;
    let name = |n: usize| format!("a_table_with_a_name_no_{n:04}");
    let setup: String = (0..tables)
        .map(|n| {
            format!(
                "CREATE TABLE {0} (id int PRIMARY KEY, at timestamptz DEFAULT now()); INSERT INTO {0} VALUES (1);",
                name(n)
            )
        })
        .collect();
    let rules: Value = (0..tables)
        .map(|n| {
            let mut rule = by(&name(n), "at");
            rule["initial"] = json!("copy");
            rule
        })
        .collect();
    let case = Case::new(&setup, &rules);
    case.sync();
    let screen = case.run(&["status"]).expect(0).stdout.clone();
    assert_eq!(screen.lines().count(), tables + 1);
    for line in screen.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert!(!screen.contains('\u{1b}'), "no colour where nobody sees it");
    let colored = case.run(&["--color", "always", "status"]).expect(0).stdout.clone();
    assert!(colored.contains("\u{1b}[32mok"), "{colored}");
    assert_eq!(case.run(&["-q", "status"]).expect(0).stdout, "");
}

/// The value of a metric, by its name and what its labels contain.
fn metric(text: &str, name: &str, labels: &str) -> Option<f64> {
    let name = format!("incremental_replication_{name}{{");
    let line = text.lines().find(|line| line.starts_with(&name) && line.contains(labels))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn the_metrics_say_what_happened_and_are_replaced_in_one_step() {
    let mut case = shop();
    case.write_env("METRICS_FILE=shop.prom");
    case.sync();
    let text = case.read("shop.prom");
    let mode = std::fs::metadata(case.path().join("shop.prom")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644, "the collector is somebody else");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.contains("{pipeline=\"shop\"") && value.parse::<f64>().is_ok(), "{line}");
        let bare = name.split('{').next().unwrap();
        assert!(text.contains(&format!("# TYPE {bare} gauge\n")), "{line}");
    }
    assert_eq!(metric(&text, "success", "shop"), Some(1.0));
    assert_eq!(metric(&text, "table_rows", "orders"), Some(100.0));
    assert_eq!(metric(&text, "table_success", "customers"), Some(1.0));
    let synced_at = metric(&text, "table_last_success_timestamp_seconds", "customers").unwrap();
    case.at_source("ALTER TABLE customers RENAME TO clients; DELETE FROM orders WHERE id = 1");
    case.sync_fails(1);
    let text = case.read("shop.prom");
    assert_eq!(metric(&text, "success", "shop"), Some(0.0));
    assert_eq!(metric(&text, "table_success", "customers"), Some(0.0));
    assert_eq!(metric(&text, "table_rows", "customers"), None);
    let still = metric(&text, "table_last_success_timestamp_seconds", "customers").unwrap();
    assert!((still - synced_at).abs() < 0.001);
    assert!(metric(&text, "table_freshness_seconds", "customers").unwrap() > 0.0);
    assert!(!case.path().join("shop.prom.tmp").exists());
    // A server that cannot be reached is a run as well.
    case.write_env("METRICS_FILE=shop.prom\nSOURCE_PORT=1");
    case.sync_fails(3);
    assert_eq!(metric(&case.read("shop.prom"), "success", "shop"), Some(0.0));
    // Other tables stay as fresh as they were.
    case.write_env("METRICS_FILE=shop.prom");
    case.run(&["sync", "--table", "orders"]).expect(0);
    let text = case.read("shop.prom");
    assert_eq!(metric(&text, "table_rows", "customers"), None);
    assert!(metric(&text, "table_last_success_timestamp_seconds", "customers").is_some());
    // What is no file stays what it is, and the pipeline's own files are not written over.
    std::fs::create_dir(case.path().join("folder")).unwrap();
    case.write_env("METRICS_FILE=folder");
    case.run(&["sync", "--table", "orders"]).expect(0).says("is not a file");
    case.write_env("METRICS_FILE=tables-config.json");
    case.sync_fails(2).says("`METRICS_FILE` names a file of the pipeline");
    // Nor is a file that cannot be written a reason to fail.
    case.write_env("METRICS_FILE=/nowhere/shop.prom");
    case.at_source("ALTER TABLE clients RENAME TO customers");
    case.sync().says("cannot write METRICS_FILE `/nowhere/shop.prom`");
}

#[test]
fn a_table_is_as_fresh_as_when_its_sync_began() {
    let mut case = shop();
    case.sync();
    case.at_source("INSERT INTO customers VALUES (2, 2)");
    let mut holder = case.destination_superuser();
    holder.batch_execute("BEGIN; LOCK TABLE customers IN SHARE MODE").expect("a lock");
    let child = case.start(&["sync"]);
    let waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'customers'::regclass";
    judge::wait_for(&mut holder, waits);
    // What is written from now on, this sync does not see.
    let later = jiff::Timestamp::now();
    holder.batch_execute("COMMIT").expect("an end");
    Run::from(child.wait_with_output().expect("a run")).expect(0).says("customers-incremental-1");
    let runs: Value = serde_json::from_str(&case.read("sync-state/last.run.json")).unwrap();
    let fresh = runs["tables"]["customers"]["succeeded_at"].as_str().expect("a success");
    assert!(fresh.parse::<jiff::Timestamp>().unwrap() < later, "{fresh} {later}");
}
