//! The binary as a person and cron meet it: output, exit codes, files, the webhook.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::case::{Case, ROLE_PASSWORD, Run, by};
use crate::support::http::WebhookServer;
use crate::support::{judge, snapshot};

const ORDERS: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, note text, at int);
    INSERT INTO orders SELECT n, 'note', n FROM generate_series(1, 10) n;
    CREATE TABLE customers (id int PRIMARY KEY, at int); INSERT INTO customers VALUES (1, 1), (2, 2);";

fn shop() -> Case {
    Case::new(ORDERS, &json!([by("orders", "at"), by("customers", "at")]))
}

#[test]
fn the_help_is_what_a_person_agreed_to() {
    let case = shop();
    snapshot("help__top", &case.run(&["--help"]).expect(0).stdout);
    snapshot("help__sync", &case.run(&["sync", "--help"]).expect(0).stdout);
}

#[test]
fn completions_and_the_man_page_come_from_the_binary() {
    let case = shop();
    for shell in ["bash", "zsh", "fish"] {
        case.run(&["completions", shell]).expect(0).says("full-refresh");
    }
    let page = case.run(&["man"]).expect(0).says(".TH incremental-replication 1").stdout.clone();
    assert!(page.contains("\nverify\n") && !page.contains("verify(1)"), "{page}");
    // Who reads only the beginning has all that was wanted.
    let mut child = case.start(&["man"]);
    drop(child.stdout.take());
    assert!(child.wait().expect("an end").success());
}

#[test]
fn wrong_flags_end_with_2_and_say_what_is_right() {
    let case = shop();
    case.run(&[]).expect(2);
    case.run(&["snyc"]).expect(2).says("sync");
    case.run(&["sync", "--full-refesh"]).expect(2).says("--full-refresh");
    case.run(&["sync", "--log-format", "yaml"]).expect(2).says("text");
    case.run(&["-q", "-v", "sync"]).expect(2).says("cannot be used with");
    case.run(&["sync", "--table"]).expect(2);
    case.run(&["sync", "--table", "order"])
        .expect(2)
        .says("no table `order`")
        .says("did you mean `orders`?");
    case.run(&["-C", "."]).expect(2);
    std::fs::remove_file(case.path().join("tables-config.json")).expect("a file");
    case.run(&["sync"]).expect(2).says("cannot read").says("tables-config.json");
    let nowhere = case.path().join("nowhere");
    Run::from(
        std::process::Command::new(env!("CARGO_BIN_EXE_incremental-replication"))
            .arg("-C")
            .arg(&nowhere)
            .arg("sync")
            .output()
            .expect("the binary runs"),
    )
    .expect(2)
    .says(&format!("`{}`", nowhere.display()));
}

/// What the tool says about a `tables-config.json`.
fn said_of(tables: &str) -> String {
    let case = shop();
    case.write("tables-config.json", tables);
    let run = case.run(&["sync"]);
    run.expect(2);
    format!("{tables}\n\n{}", run.stderr)
}

#[test]
fn mistakes_in_the_tables_file_come_all_at_once_each_with_its_place() {
    let texts = [
        "",
        "[",
        "{\"tables\": [}",
        "[]",
        "42",
        "{\"table\": []}",
        "{\"tables\": {}, \"defaults\": []}",
        "[{\"name\": \"orders\"}, 7, {\"replication_key\": \"at\"}]",
        "[{\"name\": \"orders\", \"replicaton_key\": \"at\", \"frobnicate\": 1}]",
        "[{\"name\": \"orders\", \"replication_key\": \"at\", \"mode\": \"incremental\", \"unique_cols\": [1], \"columns\": {\"only\": []}}]",
        "[{\"name\": 5, \"replication_key\": \"\", \"unique_cols\": [\"a\", \"a\"], \"where\": true}]",
        "[{\"name\": \"orders\", \"replication_key\": \"at\"}, {\"name\": \"orders\", \"replication_key\": \"at\"}, {\"name\": \"orders_stg\", \"replication_key\": \"at\"}, {\"name\": \"_sync_state\", \"replication_key\": \"at\"}, {\"name\": \"orders_replicated_key\", \"replication_key\": \"at\"}]",
        "{\"defaults\": {\"name\": \"x\", \"mod\": \"full-refresh\"}, \"tables\": [{\"name\": \"orders\"}]}",
    ];
    let said: Vec<String> = texts.iter().map(|text| said_of(text)).collect();
    snapshot("messages__tables_config", &said.join("\n----\n\n"));
}

#[test]
fn mistakes_in_the_environment_come_all_at_once_and_show_no_secret() {
    let case = shop();
    case.write(
        ".env",
        "SOURCE_HOST=\nSOURCE_PORT=http\nSOURCE_PASSWORD=hunter2\nthis is hunter2 alone\n\
         DEST_SSLMODE=required\nDEST_SSLROOTCERT=system\nWEBHOOK_URL=hook/T0KEN\nDEST_DB='open",
    );
    let run = case.run(&["sync"]);
    run.expect(2);
    snapshot("messages__environment", &run.stderr);
    no_secret(&run);
}

#[test]
fn the_environment_beats_the_file() {
    let mut case = shop();
    case.write_env("SOURCE_DB=nonsense\nPIPELINE_NAME=from-the-file");
    let database = case.database.clone();
    case.set("SOURCE_DB", &database);
    case.set("PIPELINE_NAME", "from-the-environment");
    case.sync().says("Pipeline from-the-environment succeeded.");
}

fn no_secret(run: &Run) {
    for secret in [ROLE_PASSWORD, "hunter2", "T0KEN"] {
        assert!(!run.stdout.contains(secret), "{secret} in {}", run.stdout);
        assert!(!run.stderr.contains(secret), "{secret} in {}", run.stderr);
    }
}

#[test]
fn a_server_that_cannot_be_reached_ends_with_3_and_names_it() {
    let free =
        TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let port = format!("SOURCE_PORT={free}");
    for (line, culprit) in [
        (port.as_str(), format!("cannot connect to the source at `127.0.0.1:{free}/")),
        ("DEST_DB=nonsense", "database \"nonsense\" does not exist (3D000)".to_owned()),
        (
            "SOURCE_PASSWORD=hunter2",
            "password authentication failed for user \"reader\" (28P01)".to_owned(),
        ),
        ("DEST_USERNAME=nobody_here", "as `nobody_here`".to_owned()),
        ("SOURCE_HOST=no.such.host.invalid", "no.such.host.invalid".to_owned()),
        ("SOURCE_SSLMODE=require", "server does not support TLS".to_owned()),
        ("DEST_HOST=/no/such/socket", "/no/such/socket".to_owned()),
    ] {
        let mut case = shop();
        case.write_env(line);
        let hook = WebhookServer::answering(&[200]);
        case.set("WEBHOOK_URL", &hook.url);
        let run = case.sync_fails(3);
        run.says(&culprit).says("hint: check ");
        no_secret(&run);
        let body = hook.bodies().pop().expect("the webhook is told");
        assert_eq!(body["status"], "failed");
        assert_eq!(body["tables"][0]["sync_type"], "skipped");
        assert!(
            body["text"]
                .as_str()
                .is_some_and(|text| text.starts_with("Pipeline shop failed. cannot connect"))
        );
    }
}

#[test]
fn bad_tls_files_are_named() {
    for (lines, culprit) in [
        ("SOURCE_SSLMODE=verify-full", "sslmode `verify-full` needs trusted certificates"),
        ("SOURCE_SSLMODE=verify-ca\nSOURCE_SSLROOTCERT=/no/root.pem", "`/no/root.pem`"),
        ("DEST_SSLMODE=require\nDEST_SSLCERT=/no/c.pem\nDEST_SSLKEY=/no/k.pem", "`/no/c.pem`"),
    ] {
        let case = shop();
        case.write_env(lines);
        case.sync_fails(2).says(culprit);
    }
}

#[test]
fn a_failing_table_does_not_stop_the_rest_and_is_explained() {
    let cases: [(&str, Value); 13] = [
        ("", json!({"name": "order", "replication_key": "at"})),
        ("", json!({"name": "public.orders", "replication_key": "at"})),
        ("", json!({"name": "orders", "replication_key": "updated"})),
        ("", json!({"name": "orders", "replication_key": "at", "unique_cols": ["id", "idd"]})),
        (
            "",
            json!({"name": "orders", "replication_key": "at", "columns": {"exclude": ["at", "nothing"]}}),
        ),
        (
            "",
            json!({"name": "orders", "replication_key": "at", "columns": {"include": ["id", "note"]}}),
        ),
        ("", json!({"name": "orders", "replication_key": "at", "columns": {"exclude": ["id"]}})),
        ("", json!({"name": "orders", "replication_key": "at", "where": "nothing = 1"})),
        (
            "",
            json!({"name": "orders", "replication_key": "at", "where": "true); DROP TABLE orders; --"}),
        ),
        ("REVOKE SELECT ON orders FROM reader", json!({"name": "orders", "replication_key": "at"})),
        (
            "CREATE FUNCTION wanted(int) RETURNS boolean LANGUAGE sql AS 'SELECT true';
             REVOKE ALL ON FUNCTION wanted FROM PUBLIC",
            json!({"name": "orders", "replication_key": "at", "where": "public.wanted(id)"}),
        ),
        (
            "ALTER TABLE orders DROP CONSTRAINT orders_pkey",
            json!({"name": "orders", "replication_key": "at"}),
        ),
        (
            "ALTER TABLE orders ALTER at TYPE float8",
            json!({"name": "orders", "replication_key": "at"}),
        ),
    ];
    let mut said = Vec::new();
    for (change, rule) in cases {
        let mut case = shop();
        case.at_source(change);
        case.write_tables(&json!([rule, by("customers", "at")]));
        let run = case.sync_fails(1);
        case.assert_equal("public.customers");
        said.push(format!("{change}\n{rule}\n\n{}", run.stderr));
        no_secret(&run);
        // And nothing of the failed one is there.
        assert_eq!(case.ask("SELECT count(*) FROM pg_class WHERE relname LIKE 'order%'"), ["0"]);
    }
    snapshot("messages__tables", &said.join("\n----\n\n"));
}

#[test]
fn a_destination_that_is_the_source_itself_is_refused() {
    let mut case = shop();
    let port = case.source_port();
    case.at_source("CREATE ROLE reader_and_writer LOGIN SUPERUSER PASSWORD 'both'");
    case.write_env(&format!(
        "DEST_PORT={port}\nDEST_USERNAME=reader_and_writer\nDEST_PASSWORD=both"
    ));
    case.sync_fails(2).says("source and destination are the same: schema `public` of database");
    case.write_env(&format!(
        "DEST_PORT={port}\nDEST_USERNAME=reader_and_writer\nDEST_PASSWORD=both\nDEST_SCHEMA=copy"
    ));
    case.sync();
    assert_eq!(judge::column(&mut case.source, "SELECT count(*) FROM copy.orders"), ["10"]);
}

#[test]
fn a_missing_schema_at_the_source_is_named() {
    let case = shop();
    case.write_env("SOURCE_SCHEMA=pubic");
    case.sync_fails(1).says("there is no schema `pubic` at the source").says("check SOURCE_SCHEMA");
}

#[test]
fn a_destination_that_may_not_be_written_says_so() {
    let mut case = shop();
    case.at_destination("SET ROLE postgres; ALTER SCHEMA public OWNER TO postgres; REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    case.sync_fails(1)
        .says("cannot create `public._sync_state` at the destination")
        .says("permission denied for schema public");
    case.write_env("DEST_USERNAME=writer\nDEST_SCHEMA=elsewhere");
    case.at_destination(&format!(
        "REVOKE CREATE ON DATABASE {} FROM writer; ALTER DATABASE {0} OWNER TO postgres",
        case.database.clone()
    ));
    case.sync_fails(1).says("cannot create the schema `elsewhere`");
}

#[test]
fn a_state_folder_that_cannot_be_written_fails_the_table_and_loses_nothing() {
    let mut case = shop();
    std::fs::create_dir_all(case.path().join("sync-state/orders.json.tmp"))
        .expect("a folder in the way");
    case.sync_fails(1).says("cannot write `sync-state/orders.json`");
    case.assert_equal("public.orders");
    std::fs::remove_dir(case.path().join("sync-state/orders.json.tmp")).expect("a folder");
    case.sync().says("orders: incremental sync: from 10");
}

#[test]
fn fail_fast_stops_at_the_first_table_that_fails() {
    let case = shop();
    case.write_tables(&json!([by("nothing", "at"), by("orders", "at")]));
    case.run(&["sync", "--fail-fast"]).expect(1).says("|| orders-skipped-NA");
}

#[test]
fn only_the_named_tables_are_synced() {
    let mut case = shop();
    case.run(&["sync", "--table", "customers"])
        .expect(0)
        .says("Summary: 1 || customers-initial-NA");
    assert_eq!(case.ask("SELECT count(*) FROM pg_class WHERE relname = 'orders'"), ["0"]);
}

#[test]
fn quiet_prints_nothing_on_success_and_errors_on_failure() {
    let case = shop();
    let run = case.run(&["-q", "sync"]);
    run.expect(0);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
    case.write_tables(&json!([by("nothing", "at")]));
    let run = case.run(&["sync", "-q"]);
    run.expect(1);
    assert_eq!(run.stdout, "");
    assert!(run.stderr.starts_with("error: cannot sync `nothing`"), "{}", run.stderr);
}

#[test]
fn json_logs_are_one_object_a_line_with_stable_keys() {
    let case = shop();
    let run = case.run(&["sync", "--log-format", "json"]);
    run.expect(0);
    let lines: Vec<Value> =
        run.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let done = lines.iter().find(|line| line["row_count"] == 10).expect("orders are done");
    let mut keys: Vec<&str> =
        done.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "deleted_count",
            "duration_ms",
            "error",
            "level",
            "message",
            "reason",
            "row_count",
            "sync_type",
            "table",
            "time"
        ]
    );
    assert_eq!(lines.last().expect("a last line")["status"], "succeeded");
}

#[test]
fn the_webhook_is_told_what_happened() {
    let mut case = shop();
    let hook = WebhookServer::answering(&[200]);
    case.set("WEBHOOK_URL", &hook.url);
    case.sync();
    case.at_source("UPDATE orders SET at = at + 10 WHERE id < 4");
    case.write_tables(&json!([by("orders", "at"), by("customers", "at"), by("nothing", "at")]));
    let run = case.sync_fails(1);
    no_secret(&run);
    let mut bodies = hook.bodies();
    for body in &mut bodies {
        body["started_at"] = json!("TIME");
        body["finished_at"] = json!("TIME");
        for table in body["tables"].as_array_mut().expect("tables") {
            table["duration_ms"] = json!("NUMBER");
        }
    }
    let text: Vec<String> = bodies.iter().map(|body| format!("{body:#}")).collect();
    snapshot("webhook__bodies", &text.join("\n"));
}

#[test]
fn tables_that_cannot_be_read_are_a_failed_sync_for_all_who_are_told_of_one() {
    let mut case = shop();
    let hook = WebhookServer::answering(&[200]);
    case.set("WEBHOOK_URL", &hook.url);
    case.set("METRICS_FILE", "shop.prom");
    case.sync();
    case.write("tables-config.json", "[{");
    case.sync_fails(2).says("tables-config.json");
    let told = hook.bodies().pop().expect("a report");
    assert_eq!((&told["status"], &told["tables"]), (&json!("failed"), &json!([])), "{told:#}");
    let metrics = case.read("shop.prom");
    assert!(metrics.contains("incremental_replication_success{pipeline=\"shop\"} 0"), "{metrics}");
    assert!(metrics.contains("orders"), "{metrics}");
    // Nor does a mistake elsewhere in `.env` keep those from knowing that it names rightly.
    case.set("SOURCE_PORT", "many");
    case.sync_fails(2).says("SOURCE_PORT");
    assert_eq!(hook.bodies().len(), 3);
    case.set("SOURCE_PORT", &case.source_port().to_string());
    // Nor does it matter that all of it stands in the environment, and no file is there.
    let mut bare = std::process::Command::new(env!("CARGO_BIN_EXE_incremental-replication"));
    let empty = tempfile::tempdir().expect("a folder");
    let sides = ["SOURCE", "DEST"].map(|side| {
        ["HOST", "USERNAME", "DB"].map(|end| (format!("{side}_{end}"), "127.0.0.1".to_owned()))
    });
    bare.arg("-C").arg(empty.path()).arg("sync").envs(sides.into_iter().flatten());
    bare.env("WEBHOOK_URL", &hook.url);
    Run::from(bare.output().expect("a run")).expect(2).says("tables-config.json`: there is none");
    assert_eq!(hook.bodies().len(), 4);
    // A flag that is misspelt is between the tool and who typed it.
    case.write_tables(&json!([by("orders", "at"), by("customers", "at")]));
    case.run(&["sync", "--table", "nope"]).expect(2);
    assert_eq!(hook.bodies().len(), 4);
}

#[test]
fn a_table_of_the_receipts_name_that_is_none_of_ours_is_left_alone() {
    let mut case = shop();
    case.at_destination("CREATE TABLE _sync_state (a int); INSERT INTO _sync_state VALUES (1)");
    case.sync_fails(2).says("is not this tool's table of receipts");
    assert_eq!(case.ask("SELECT string_agg(attname, ',') FROM pg_attribute WHERE attrelid = '_sync_state'::regclass AND attnum > 0"), ["a"]);
}

#[test]
fn a_webhook_that_fails_is_tried_again_and_never_changes_the_exit_code() {
    let mut case = shop();
    let hook = WebhookServer::answering(&[503, 200]);
    case.set("WEBHOOK_URL", &hook.url);
    let run = case.sync();
    assert_eq!(hook.bodies().len(), 2);
    assert!(!run.stdout.contains("webhook"), "{}", run.stdout);
    let hook = WebhookServer::answering(&[404]);
    case.set("WEBHOOK_URL", &hook.url);
    let run = case.sync();
    run.says("the webhook could not be told: the server answered 404");
    assert_eq!(hook.bodies().len(), 1);
    no_secret(&run);
    for url in
        ["http://127.0.0.1:1/T0KEN", "http://no.such.host.invalid/T0KEN", "http://[::1/T0KEN"]
    {
        case.set("WEBHOOK_URL", url);
        let run = case.sync();
        run.says("the webhook could not be told: ");
        no_secret(&run);
    }
}

#[test]
fn a_webhook_that_leads_elsewhere_has_not_taken_the_report() {
    let mut case = shop();
    let hook = WebhookServer::answering(&[302]);
    case.set("WEBHOOK_URL", &hook.url);
    let run = case.sync();
    run.says("the webhook could not be told: the server answered 302, a redirect");
    assert_eq!(hook.bodies().len(), 1);
    no_secret(&run);
}

#[test]
fn a_webhook_that_is_slow_is_waited_for_and_one_that_is_silent_is_given_up() {
    let mut case = shop();
    let slow = WebhookServer::answering_after(Duration::from_secs(3), &[200]);
    case.set("WEBHOOK_URL", &slow.url);
    let run = case.sync();
    assert!(!run.stdout.contains("webhook"), "{}", run.stdout);
    assert_eq!(slow.bodies().len(), 1);
    // It takes the connection, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    case.set("WEBHOOK_URL", &format!("http://{address}/hook/T0KEN"));
    let started = Instant::now();
    let run = case.sync();
    run.says("the webhook could not be told: no answer within 10 s");
    no_secret(&run);
    assert!(started.elapsed() < Duration::from_mins(2), "{:?}", started.elapsed());
}

#[test]
fn an_empty_webhook_url_means_none() {
    let case = shop();
    case.write_env("WEBHOOK_URL=''");
    let run = case.sync();
    assert!(!run.stdout.contains("webhook"), "{}", run.stdout);
}

#[test]
fn verbose_output_and_the_process_list_show_no_secret() {
    let case = shop();
    let run = case.run(&["-v", "sync"]);
    run.expect(0);
    no_secret(&run);
}
