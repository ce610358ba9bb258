//! What would a sync do? And nothing is done.

use serde_json::{Value, json};

use crate::support::case::{Case, by, with};
use crate::support::{judge, snapshot};

const SHOP: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, total numeric(12,2), at int);
    INSERT INTO orders SELECT n, n, n FROM generate_series(1, 100) n;
    CREATE TABLE lines (id int PRIMARY KEY, at int); INSERT INTO lines VALUES (1, 1), (2, 2);
    CREATE TABLE customers (id int PRIMARY KEY, name varchar(20), at int);
    INSERT INTO customers VALUES (1, 'a', 1);
    CREATE TABLE stock (id int PRIMARY KEY, pieces int); INSERT INTO stock VALUES (1, 5);
    ANALYZE;";

fn shop() -> Case {
    let rules = json!([
        by("orders", "at"),
        with(by("lines", "at"), &json!({"initial": "copy", "deletes": "remove"})),
        with(by("customers", "at"), &json!({"on_schema_change": "fail"})),
        {"name": "stock", "mode": "diff"},
    ]);
    Case::new(SHOP, &rules)
}

/// Everything that a plan could have changed, on both servers and in the pipeline's directory.
fn all(case: &mut Case) -> Vec<String> {
    let catalog = "SELECT format('%s %s.%s %s', c.oid, n.nspname, c.relname, c.relfilenode) FROM pg_class c \
                   JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname NOT LIKE 'pg\\_%' \
                   AND n.nspname <> 'information_schema' ORDER BY 1";
    let mut all = judge::column(&mut case.source, catalog);
    all.extend(case.ask(catalog));
    for table in ["orders", "lines", "customers", "stock", "_sync_state"] {
        let rows = format!("SELECT format('%s %s %s', xmin, ctid, t) FROM {table} t ORDER BY 1");
        if table != "_sync_state" {
            all.extend(judge::column(&mut case.source, &rows));
        }
        all.extend(judge::rows_if_there(&mut case.destination, &rows));
    }
    let mut files: Vec<String> = walk(case.path()).collect();
    files.sort();
    all.extend(files);
    all
}

fn walk(folder: &std::path::Path) -> Box<dyn Iterator<Item = String>> {
    Box::new(std::fs::read_dir(folder).unwrap().flatten().flat_map(|entry| {
        if entry.path().is_dir() {
            return walk(&entry.path());
        }
        let text = std::fs::read_to_string(entry.path()).unwrap();
        Box::new(std::iter::once(format!("{}: {text}", entry.path().display())))
    }))
}

/// The SQL without what differs from run to run.
fn steady(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let line = match line.find("'{\"version\"") {
            Some(at) => format!("{}'...', now())", &line[..at]),
            None => line.to_owned(),
        };
        lines.push(line);
    }
    let text = lines.join("\n");
    let mut steady = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("age('") {
        let end = at + 5 + rest[at + 5..].find('\'').unwrap();
        steady.push_str(&rest[..at]);
        steady.push_str("age('...");
        rest = &rest[end..];
    }
    steady + rest
}

#[test]
fn a_plan_is_what_a_person_agreed_to_and_changes_nothing() {
    let mut case = shop();
    case.write_env("DEST_SCHEMA=warehouse");
    let before = all(&mut case);
    let run = case.run(&["plan"]);
    run.expect(0);
    assert_eq!(run.stderr, "");
    snapshot("plan__first", &steady(&run.stdout));
    assert_eq!(all(&mut case), before);

    case.write_env("");
    case.sync();
    case.sync();
    case.at_source(
        "INSERT INTO orders VALUES (101, 1, 101);
         ALTER TABLE lines ALTER id TYPE bigint, ADD COLUMN \"Note\" text NOT NULL DEFAULT 'x';
         ALTER TABLE customers ALTER name TYPE varchar(30); ANALYZE",
    );
    let before = all(&mut case);
    let run = case.run(&["plan"]);
    run.expect(1);
    snapshot("plan__later", &steady(&format!("{}\n{}", run.stdout, run.stderr)));
    let outline = case.run(&["plan", "--outline", "--table", "orders", "--table", "lines"]);
    snapshot("plan__outline", &outline.expect(0).stdout);
    assert_eq!(all(&mut case), before);
}

#[test]
fn a_plan_for_machines_has_every_statement() {
    let mut case = shop();
    case.sync();
    let plan = |case: &Case, more: &[&str]| -> Value {
        let arguments: Vec<&str> = ["plan", "--json"].iter().chain(more).copied().collect();
        let run = case.run(&arguments);
        run.expect(0);
        serde_json::from_str(&run.stdout).unwrap()
    };
    let document = plan(&case, &[]);
    let action = |document: &Value, at: usize| document["tables"][at]["action"].clone();
    assert_eq!(document["pipeline"], "shop");
    assert_eq!(document["preparation"], json!([]));
    assert_eq!(action(&document, 0), "nothing");
    assert_eq!(document["tables"][0]["statements"], json!([]));
    assert_eq!(document["tables"][0]["estimated_rows"], Value::Null);
    // A comparison of keys is work, whatever it finds.
    assert_eq!(action(&document, 1), "incremental");
    case.at_source("INSERT INTO orders VALUES (101, 1, 101)");
    let document = plan(&case, &["--table", "orders", "--full-refresh"]);
    assert_eq!(action(&document, 0), "full-refresh");
    let read = &document["tables"][0]["statements"][0];
    assert_eq!((&read["on"], &read["purpose"]), (&json!("source"), &json!("read the rows")));
    assert!(read["sql"].as_str().unwrap().starts_with("pg_dump "), "{read}");
    assert_eq!(document["tables"][0]["estimated_rows"], 100);
}

#[test]
fn a_plan_says_what_is_wrong() {
    let mut case = shop();
    case.at_source(&format!("REVOKE SELECT ON stock FROM {}", crate::support::case::READER));
    case.run(&["plan"]).expect(1).says("a sync of `stock` would fail").says("permission denied");
    case.run(&["plan", "--table", "oders"]).expect(2).says("did you mean `orders`?");
    case.write_env("SOURCE_PORT=1");
    case.run(&["plan"]).expect(3).says("cannot connect to the source");
    let quiet = shop().run(&["-q", "plan"]);
    assert_eq!((quiet.code, quiet.stdout.as_str()), (Some(0), ""));
}
