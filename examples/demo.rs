//! The main job before your eyes: two real PostgreSQL servers, a small shop, and what a sync does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "../tests/suite/support/judge.rs"]
#[allow(dead_code, unreachable_pub)]
mod judge;
#[path = "../tests/suite/support/server.rs"]
#[allow(dead_code, unreachable_pub)]
mod server;

use std::path::{Path, PathBuf};
use std::process::Command;

use postgres::Client;
use server::{PASSWORD, SUPERUSER, Servers};

const SHOP: &str = "
    CREATE TYPE state AS ENUM ('open', 'paid', 'sent');
    CREATE TABLE customers (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text NOT NULL,
        tags text[],
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE TABLE orders (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        customer bigint NOT NULL REFERENCES customers,
        state state NOT NULL DEFAULT 'open',
        total numeric(12,2) NOT NULL,
        details jsonb,
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp());
    INSERT INTO customers (name, tags)
        SELECT 'customer ' || n, ARRAY['new', NULL, 'é'] FROM generate_series(1, 1000) n;
    INSERT INTO orders (customer, total, details)
        SELECT 1 + n % 1000, n * 1.25, jsonb_build_object('line', n) FROM generate_series(1, 20000) n;
    CREATE ROLE reader LOGIN PASSWORD 'select-only';
    GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;";

const CHANGES: &str = "
    UPDATE orders SET state = 'paid', updated_at = clock_timestamp() WHERE id % 100 = 0;
    INSERT INTO customers (name) VALUES ('a new one'), ('another one');";

const NEW_SCHEMA: &str = "
    ALTER TABLE orders ADD COLUMN currency char(3) NOT NULL DEFAULT 'EUR';
    ALTER TABLE orders ALTER COLUMN total TYPE numeric(14,4);";

const TABLES: &str = r#"[
    {"name": "customers", "replication_key": "updated_at"},
    {"name": "orders", "replication_key": "updated_at", "deletes": "remove"}
]"#;

const SPOILT: &str = "
    UPDATE customers SET name = 'spoilt' WHERE id = 7;
    DELETE FROM customers WHERE id = 8;";

fn main() {
    say("Starting two PostgreSQL servers, a source and a destination ...");
    let servers = Servers::start();
    let mut source = servers.source.connect("postgres");
    let mut destination = servers.destination.connect("postgres");
    source.batch_execute(SHOP).expect("the shop opens");
    let pipeline = pipeline(&servers);

    say("A shop at the source: 1000 customers, 20000 orders. The first sync copies both tables.");
    sync(pipeline.path());
    compare(&mut source, &mut destination);

    say("200 orders are paid and two customers come. The next sync takes just those.");
    source.batch_execute(CHANGES).expect("the shop works");
    sync(pipeline.path());
    compare(&mut source, &mut destination);

    say("The table of orders gets a new column and a wider type. The next sync notices.");
    source.batch_execute(NEW_SCHEMA).expect("the shop changes");
    sync(pipeline.path());
    compare(&mut source, &mut destination);

    say("Three orders are deleted at the source. The next sync finds out.");
    source.batch_execute("DELETE FROM orders WHERE id <= 3").expect("the shop forgets");
    sync(pipeline.path());
    compare(&mut source, &mut destination);

    say("Somebody spoils two customers at the destination. Who can tell, and who mends it?");
    destination.batch_execute(SPOILT).expect("the destination is spoilt");
    run(pipeline.path(), &["verify"], 1);
    run(pipeline.path(), &["verify", "--repair", "--table", "customers"], 0);
    compare(&mut source, &mut destination);

    servers.stop();
    say("The servers are stopped and their folder is gone. That was all.");
}

fn say(sentence: &str) {
    println!("\n{sentence}");
}

fn pipeline(servers: &Servers) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let (source, destination) =
        (servers.source.address().port(), servers.destination.address().port());
    let env = format!(
        "PIPELINE_NAME=shop\n\
         SOURCE_HOST=127.0.0.1\nSOURCE_PORT={source}\nSOURCE_USERNAME=reader\n\
         SOURCE_PASSWORD=select-only\nSOURCE_DB=postgres\n\
         DEST_HOST=127.0.0.1\nDEST_PORT={destination}\nDEST_USERNAME={SUPERUSER}\n\
         DEST_PASSWORD={PASSWORD}\nDEST_DB=postgres\n"
    );
    std::fs::write(directory.path().join(".env"), env).expect("a file");
    std::fs::write(directory.path().join("tables-config.json"), TABLES).expect("a file");
    directory
}

fn sync(pipeline: &Path) {
    run(pipeline, &["sync"], 0);
}

fn run(pipeline: &Path, arguments: &[&str], code: i32) {
    println!("$ incremental-replication {}", arguments.join(" "));
    let status = Command::new(binary()).arg("-C").arg(pipeline).args(arguments).status();
    assert_eq!(status.expect("the binary runs").code(), Some(code), "it ended otherwise");
}

/// The real binary: `DEMO_BINARY` where the demo is installed, else the one that cargo puts one
/// folder above the examples.
fn binary() -> PathBuf {
    if let Some(installed) = std::env::var_os("DEMO_BINARY") {
        return installed.into();
    }
    let example = std::env::current_exe().expect("the example's own path");
    let folder = example.parent().and_then(Path::parent).expect("a target folder");
    let binary = folder.join("incremental-replication");
    // `cargo run --example` builds the library and the example, not the binary.
    // Asked for at run time: an installed demo must not hold on to the cargo that built it.
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "--bin", "incremental-replication"]);
    if folder.ends_with("release") {
        build.arg("--release");
    }
    // What cargo tells this process of itself would make it build some libraries again.
    for (name, _) in std::env::vars() {
        if name.starts_with("CARGO_PKG") || name.starts_with("CARGO_MANIFEST") {
            build.env_remove(name);
        }
    }
    let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).status();
    assert!(status.expect("cargo runs").success(), "the binary cannot be built");
    binary
}

fn compare(source: &mut Client, destination: &mut Client) {
    for table in ["public.customers", "public.orders"] {
        judge::assert_equal(source, destination, (table, table));
        let rows = judge::rows(destination, table).len();
        println!("{table}: {rows} rows, the same on both sides");
    }
}
