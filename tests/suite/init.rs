//! The first pipeline, from nothing but where the servers are.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::case::{Case, READER, ROLE_PASSWORD, Run, WRITER};
use crate::support::snapshot;

const SHOP: &str = "
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.updated_at = now(); RETURN NEW; END';
    CREATE TABLE orders (id int PRIMARY KEY, created_at timestamptz DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now());
    CREATE INDEX ON orders (updated_at);
    CREATE TRIGGER touch BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch();
    INSERT INTO orders SELECT n FROM generate_series(1, 100) n;
    CREATE TABLE customers (id int PRIMARY KEY, name text, \"lastModified\" timestamp, price_changed_at timestamptz);
    INSERT INTO customers VALUES (1, 'a', now()), (2, 'b', NULL);
    CREATE TABLE countries (code text PRIMARY KEY, name text); INSERT INTO countries VALUES ('ch', 'x');
    CREATE TABLE lines (order_id int NOT NULL, number int NOT NULL, note text, UNIQUE (order_id, number));
    INSERT INTO lines VALUES (1, 1, 'x');
    CREATE TABLE log (at timestamptz, line text); INSERT INTO log VALUES (now(), 'x'), (now(), 'x');
    CREATE TABLE events (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE events_2024 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    INSERT INTO events VALUES (1, '2024-02-02');
    CREATE VIEW order_days AS SELECT created_at::date AS day, count(*) FROM orders GROUP BY 1;
    CREATE TABLE \"Odd \"\"Name\" (id int PRIMARY KEY); INSERT INTO \"Odd \"\"Name\" VALUES (1);
    CREATE TABLE secret (id int PRIMARY KEY);
    CREATE TABLE nothing ();
    ANALYZE;";

fn shop() -> Case {
    let mut case = Case::new(SHOP, &json!([]));
    fs::remove_file(case.path().join("tables-config.json")).unwrap();
    case.at_source(&format!("REVOKE SELECT ON secret FROM {READER}"));
    case
}

fn everything_is_equal(case: &mut Case) {
    for table in [
        "orders",
        "customers",
        "countries",
        "lines",
        "log",
        "events",
        "order_days",
        "\"Odd \"\"Name\"",
        "nothing",
    ] {
        case.assert_equal(&format!("public.{table}"));
    }
}

#[test]
fn what_init_writes_passes_check_and_syncs() {
    let mut case = shop();
    let run = case.run(&["init"]);
    run.expect(0);
    assert_eq!(run.stderr, "");
    let said = run.stdout.replace(&case.path().display().to_string(), "DIR");
    snapshot("init__shop", &format!("{said}\n{}", case.read("tables-config.json")));
    let findings = case.run(&["check", "--json"]);
    findings.expect(0);
    let document: Value = serde_json::from_str(&findings.stdout).unwrap();
    assert_ne!(document["status"], "errors");
    case.sync();
    everything_is_equal(&mut case);
    case.at_source("UPDATE countries SET name = 'y'; UPDATE orders SET id = 1000 WHERE id = 7; INSERT INTO events VALUES (2, '2024-03-03')");
    case.sync();
    case.assert_equal("public.countries");
    case.assert_equal("public.events");
}

#[test]
fn init_never_overwrites_unless_it_is_told_to() {
    let case = shop();
    case.write("tables-config.json", "mine");
    case.run(&["init"]).expect(2).says("there is a `tables-config.json` already").says("--force");
    assert_eq!(case.read("tables-config.json"), "mine");
    case.run(&["init", "--force", "--table", "orders", "--table", "events_2024"]).expect(0);
    let file = case.read("tables-config.json");
    assert!(file.contains("\"orders\"") && file.contains("\"events_2024\""), "{file}");
    assert!(!file.contains("customers"), "{file}");
}

#[test]
fn init_says_what_is_missing() {
    let case = shop();
    case.run(&["init", "--table", "oders"]).expect(1).says("did you mean `orders`?");
    case.write_env("SOURCE_SCHEMA=nowhere");
    case.run(&["init"]).expect(1).says("there is no table in schema `nowhere`");
    case.write_env("SOURCE_PORT=1");
    case.run(&["init"]).expect(3).says("cannot connect to the source");
    fs::remove_file(case.path().join(".env")).unwrap();
    case.run(&["init"]).expect(2).says("`SOURCE_HOST` is not set").says("on a terminal");
    assert!(!case.path().join("tables-config.json").exists());
}

/// Where the two servers are, as URLs without passwords, and a password file that has those.
fn urls(case: &mut Case, passwords: u32) -> (String, String) {
    let file = case.path().join("passwords");
    let line = |port: u16| format!("127.0.0.1:{port}:*:*:{}\n", ROLE_PASSWORD.replace(':', "\\:"));
    fs::write(&file, line(case.source_port()) + &line(case.destination_port())).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(passwords)).unwrap();
    case.set("PGPASSFILE", &file.display().to_string());
    let url = |user: &str, port: u16| {
        format!("postgresql://{user}@127.0.0.1:{port}/{}?sslmode=prefer", case.database)
    };
    (url(READER, case.source_port()), url(WRITER, case.destination_port()))
}

#[test]
fn two_urls_and_a_password_file_are_enough() {
    let mut case = shop();
    fs::remove_file(case.path().join(".env")).unwrap();
    let (source, destination) = urls(&mut case, 0o600);
    let flags = ["init", "--source-url", &source, "--dest-url", &destination];
    case.run(&flags).expect(0).says("tables-config.json");
    let mode = fs::metadata(case.path().join(".env")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    case.sync();
    everything_is_equal(&mut case);
    case.run(&flags).expect(2).says(".env` already");
}

#[test]
fn a_password_file_that_others_can_read_is_not_used_and_that_is_said() {
    let mut case = shop();
    fs::remove_file(case.path().join(".env")).unwrap();
    let (source, destination) = urls(&mut case, 0o644);
    case.run(&["init", "--source-url", &source, "--dest-url", &destination])
        .expect(3)
        .says("set SOURCE_PASSWORD; `")
        .says("run `chmod 600");
}

#[test]
fn a_url_with_a_password_in_escapes_connects_and_is_never_shown() {
    let case = shop();
    let escaped: Vec<String> = ROLE_PASSWORD.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let url = |user: &str, port: u16, password: &str| {
        format!("postgres://{user}:{password}@localhost:{port}/{}", case.database)
    };
    let good = escaped.concat();
    case.write(
        ".env",
        &format!(
            "SOURCE_URL={}\nDEST_URL='{}'\n",
            url(READER, case.source_port(), &good),
            url(WRITER, case.destination_port(), &good)
        ),
    );
    case.run(&["init"]).expect(0);
    case.run(&["sync", "--table", "orders"]).expect(0);
    case.write(".env", &format!("SOURCE_URL={}\nDEST_URL=hunter2\n", url(READER, 1, "hunter2")));
    let run = case.run(&["-v", "sync"]);
    run.expect(2).says("`DEST_URL` is not a URL");
    assert!(!format!("{}{}", run.stdout, run.stderr).contains("hunter2"));
}

#[test]
fn a_wrong_url_is_refused_before_anything_is_written() {
    let case = shop();
    fs::remove_file(case.path().join(".env")).unwrap();
    case.run(&["init", "--source-url", "postgres://u:hunter/2@h/d"]).expect(2).says("not escaped");
    assert!(!case.path().join(".env").exists());
}

#[test]
fn a_person_at_a_terminal_is_asked() {
    let mut case = shop();
    fs::remove_file(case.path().join(".env")).unwrap();
    let Some(mut terminal) = terminal(&case) else { return };
    let (source, destination) = (case.source_port(), case.destination_port());
    let answers = format!(
        "127.0.0.1\n{source}\n{0}\n{READER}\n{ROLE_PASSWORD}\n\n127.0.0.1\n{destination}\n{0}\n{WRITER}\n{ROLE_PASSWORD}\n\n",
        case.database
    );
    let mut child = terminal.spawn().unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), answers.as_bytes()).unwrap();
    let run = Run::from(child.wait_with_output().unwrap());
    run.expect(0).says("password (nothing for ~/.pgpass)").says("wrote ");
    case.sync();
    everything_is_equal(&mut case);
}

/// `init` as a person at a terminal starts it. script(1) gives it one; not every system has one of this
/// kind.
fn terminal(case: &Case) -> Option<Command> {
    let script = Command::new("script").arg("--version").output();
    if !script.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("util-linux")) {
        println!("there is no script(1) of util-linux: nobody is asked");
        return None;
    }
    let program = env!("CARGO_BIN_EXE_incremental-replication");
    let command = format!("exec {program} -C '{}' init", case.path().display());
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &command, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    Some(terminal)
}

#[test]
fn a_signal_ends_the_questions_with_its_own_code() {
    let case = shop();
    fs::remove_file(case.path().join(".env")).unwrap();
    let Some(mut terminal) = terminal(&case) else { return };
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let mut child = terminal.spawn().unwrap();
        let mut asked = String::new();
        while !asked.ends_with("host [localhost]: ") {
            let mut byte = [0];
            child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
            asked.push(char::from(byte[0]));
        }
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let tool = fs::read_to_string(children).unwrap();
        let told = Command::new("kill").args(["-s", signal, tool.trim()]).status().unwrap();
        assert!(told.success());
        // Its end would be an answer, too.
        let _answers = child.stdin.take();
        let run = Run::from(child.wait_with_output().unwrap());
        run.expect(code);
        assert!(!case.path().join(".env").exists());
    }
}
