//! What the documentation says is what the program does: its commands run, its names exist, and
//! nothing that exists is left out.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::CommandFactory;
use incremental_replication::cli::Cli;
use incremental_replication::config;
use incremental_replication::error::Kind;
use incremental_replication::report::exit_code;
use serde_json::{Value, json};

use crate::support::case::{Case, READER, ROLE_PASSWORD, Run, WRITER, by};
use crate::support::http::WebhookServer;

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The part of a text below a heading, up to the next one of that kind.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let kind = format!("\n{} ", heading.split(' ').next().unwrap());
    let start = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let rest = &text[start + heading.len() + 2..];
    &rest[..rest.find(&kind).unwrap_or(rest.len())]
}

/// The blocks of code in a text that are of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let begin = format!("```{language}\n");
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(&begin) {
        let block = &rest[at + begin.len()..];
        let end = block.find("```").expect("the end of a block");
        found.push(&block[..end]);
        rest = &block[end + 3..];
    }
    found
}

/// What stands in backticks in the first column of a table's rows.
fn first_column(text: &str) -> Vec<String> {
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.flat_map(|row| {
        let cell = row.split(" | ").next().unwrap();
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
    })
    .collect()
}

fn set(items: impl IntoIterator<Item = impl Into<String>>) -> BTreeSet<String> {
    items.into_iter().map(Into::into).collect()
}

/// The keys of a document with the way to them, as in `tables[].name`; below a list of plain values none.
fn ways(value: &Value, way: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let way = if way.is_empty() { key.clone() } else { format!("{way}.{key}") };
                ways(value, &way, found);
                found.insert(way);
            }
        }
        Value::Array(list) => list.iter().for_each(|one| ways(one, &format!("{way}[]"), found)),
        _ => {}
    }
}

#[test]
fn every_key_of_a_document_is_explained_and_no_other() {
    let mut case = Case::new(
        "CREATE TABLE t (id int PRIMARY KEY, at int, note text); INSERT INTO t VALUES (1, 1), (2, 2)",
        &json!([by("t", "at"), by("nothing", "at")]),
    );
    let text = read("docs/json.md");
    let document = |case: &Case, command: &str| -> Value {
        let run = case.run(&[command, "--json"]);
        serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.stdout))
    };
    let first = document(&case, "plan");
    case.sync_fails(1);
    case.at_source("ALTER TABLE t ADD more text");
    case.at_destination("UPDATE t SET note = 'spoilt' WHERE id = 1");
    for command in ["check", "plan", "verify", "status"] {
        let part = section(&text, &format!("## `{command} --json`"));
        let mut there = BTreeSet::new();
        if command == "verify" {
            case.at_source("ALTER TABLE t DROP more");
            case.sync_fails(1);
            case.at_destination("UPDATE t SET note = 'spoilt' WHERE id = 1");
        }
        if command == "plan" {
            ways(&first, "", &mut there);
        }
        ways(&document(&case, command), "", &mut there);
        there.remove("pipeline");
        let named = set(first_column(part));
        // Some are explained in the words of the one above them.
        let explained = |key: &String| {
            let (above, last) = key.rsplit_once('.').unwrap_or(("", key));
            named.contains(key)
                || named.contains(above.trim_end_matches("[]"))
                    && part.contains(&format!("`{last}`"))
                || part.contains(&format!("`{key}[]."))
        };
        let missing: Vec<&String> = there.iter().filter(|key| !explained(key)).collect();
        assert!(missing.is_empty(), "{command}: {missing:?} are not explained");
        let gone: Vec<&String> = named.iter().filter(|key| !there.contains(*key)).collect();
        assert!(gone.is_empty(), "{command}: {gone:?} are explained and not there");
    }
}

#[test]
fn the_readme_leads_from_nothing_to_cron() {
    let readme = read("README.md");
    let section = section(&readme, "## A pipeline, from nothing to cron");
    let tables =
        "CREATE TABLE {} (id int PRIMARY KEY, updated_at timestamptz NOT NULL DEFAULT now());
         INSERT INTO {} SELECT n FROM generate_series(1, 5) n;";
    let setup: String = ["customers", "orders"].map(|name| tables.replace("{}", name)).concat();
    let mut case = Case::new(&setup, &json!([]));
    case.at_source(&format!("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {READER}"));
    fs::remove_file(case.path().join("tables-config.json")).unwrap();
    let grants = blocks(section, "sql")[0];
    case.at_source(grants);
    // The file as it stands there, with other servers.
    let [file] = blocks(section, "sh")
        .into_iter()
        .filter(|block| block.contains("SOURCE_HOST="))
        .collect::<Vec<_>>()[..]
    else {
        panic!("the README has one .env")
    };
    let ports = [case.source_port(), case.destination_port()];
    let file = file
        .replace("source.example.com", &format!("127.0.0.1\nSOURCE_PORT={}", ports[0]))
        .replace("warehouse.example.com", &format!("127.0.0.1\nDEST_PORT={}", ports[1]))
        .replace("'secret'", &format!("'{ROLE_PASSWORD}'"))
        .replace("_DB=shop", &format!("_DB={}", case.database))
        .replace("_DB=warehouse", &format!("_DB={}", case.database));
    assert!(file.contains(&format!("SOURCE_USERNAME={READER}")) && file.contains(WRITER), "{file}");
    case.write(".env", &file);
    let mut ran = Vec::new();
    for line in blocks(section, "sh").iter().flat_map(|block| block.lines()) {
        let Some(arguments) = line.strip_prefix("incremental-replication ") else { continue };
        let arguments: Vec<&str> = arguments.split(' ').collect();
        case.run(&arguments).expect(0);
        ran.push(arguments[0].to_owned());
    }
    assert_eq!(ran, ["init", "check", "plan", "sync", "status"]);
    // What init writes is what the README shows.
    let [shown] = blocks(section, "json")[..] else { panic!("one tables-config.json") };
    assert_eq!(case.read("tables-config.json").trim(), shown.trim());
    case.assert_equal("public.orders");
    let cron = blocks(section, "crontab")[0];
    let (_, command) = cron.split_once("incremental-replication ").unwrap();
    let command = command.replace("/srv/shop", &case.path().display().to_string());
    let arguments: Vec<&str> = command.split_whitespace().collect();
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_incremental-replication"));
    let run = Run::from(program.args(&arguments).output().unwrap());
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(0), "", ""));
}

#[test]
fn every_command_and_flag_is_in_the_readme_and_every_one_there_exists() {
    let readme = read("README.md");
    let options = section(&readme, "## Options");
    let mut told = BTreeSet::new();
    for usage in first_column(options.split("\n### ").next().unwrap()) {
        let mut words = usage.split([' ', ',', '[', ']', '.', '|', '\\']).filter(|w| !w.is_empty());
        let command = words.next().unwrap();
        let global = command.starts_with('-');
        if !global {
            told.insert(command.to_owned());
        }
        let flags = usage.split([' ', ',', '[', ']']).filter(|word| word.starts_with('-'));
        told.extend(
            flags.map(|flag| if global { flag.to_owned() } else { format!("{command} {flag}") }),
        );
    }
    let mut exist = BTreeSet::new();
    let mut cli = Cli::command();
    cli.build();
    let names = |argument: &clap::Arg| {
        let long = argument.get_long().map(|long| format!("--{long}"));
        let short = argument.get_short().map(|short| format!("-{short}"));
        (long, short)
    };
    let known = |argument: &&clap::Arg| {
        !argument.is_hide_set() && !["help", "version"].contains(&argument.get_id().as_str())
    };
    for argument in cli.get_arguments().filter(known) {
        let (long, short) = names(argument);
        // One of both is enough.
        let shown = [&short, &long].into_iter().flatten().find(|name| told.contains(*name));
        exist.insert(shown.or(long.as_ref()).unwrap().clone());
        exist.extend([long, short].into_iter().flatten().filter(|name| told.contains(name)));
    }
    for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
        exist.insert(command.get_name().to_owned());
        let own =
            command.get_arguments().filter(|argument| known(argument) && !argument.is_global_set());
        exist.extend(
            own.filter_map(|argument| {
                Some(format!("{} {}", command.get_name(), names(argument).0?))
            }),
        );
    }
    assert_eq!(told, exist);
}

#[test]
fn every_variable_key_and_exit_code_is_in_the_readme_and_every_one_there_exists() {
    let readme = read("README.md");
    let mut told = set(first_column(section(&readme, "### `.env`")));
    assert!(told.remove("DEST_..."), "the destination has the same variables");
    let source: Vec<String> =
        told.iter().filter_map(|name| name.strip_prefix("SOURCE_")).map(str::to_owned).collect();
    told.extend(source.iter().map(|name| format!("DEST_{name}")));
    told.insert("PGPASSFILE".to_owned());
    assert_eq!(told, set(config::variables()));
    assert!(readme.contains("`PGPASSFILE`"));

    let schema: Value = serde_json::from_str(&read("docs/tables-config.schema.json")).unwrap();
    let keys = set(schema["$defs"]["rule"]["properties"].as_object().unwrap().keys());
    assert_eq!(set(first_column(section(&readme, "### `tables-config.json`"))), keys);

    let codes: BTreeSet<u8> = section(&readme, "### Exit codes")
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| code"))
        .flat_map(|line| {
            let cell = line[2..].split(" |").next().unwrap();
            cell.split(", ").map(|code| code.parse().unwrap()).collect::<Vec<u8>>()
        })
        .collect();
    let kinds = [
        Kind::Configuration,
        Kind::Unreachable,
        Kind::Table,
        Kind::Locked,
        Kind::Interrupted,
        Kind::Bug,
    ];
    let known: BTreeSet<u8> = kinds.map(exit_code).into_iter().chain([0, 130, 143]).collect();
    assert_eq!(codes, known);
}

/// The keys of an object, and of the first object of each list in it.
fn keys(value: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (key, value) in value.as_object().unwrap() {
        found.insert(key.clone());
        if let Some(first) = value.as_array().and_then(|list| list.first()) {
            found.extend(keys(first).into_iter().map(|inner| format!("{key}.{inner}")));
        }
    }
    found
}

const ORDERS: &str =
    "CREATE TABLE orders (id int PRIMARY KEY, at int); INSERT INTO orders VALUES (1, 1)";

#[test]
fn the_webhooks_example_has_the_keys_that_are_sent() {
    let readme = read("README.md");
    let example: Value =
        serde_json::from_str(blocks(section(&readme, "### Webhook"), "json")[0]).unwrap();
    let mut case = Case::new(ORDERS, &json!([by("orders", "at")]));
    let hook = WebhookServer::answering(&[200]);
    case.set("WEBHOOK_URL", &hook.url);
    case.sync();
    assert_eq!(keys(&hook.bodies().remove(0)), keys(&example));
}

#[test]
fn the_keys_of_the_log_and_the_metrics_are_those_that_are_documented() {
    let text = read("docs/monitoring.md");
    let case = Case::new(ORDERS, &json!([by("orders", "at")]));
    case.write_env("METRICS_FILE=shop.prom");
    let log = case.run(&["sync", "--log-format", "json", "-v"]).expect(0).stdout.clone();
    let always = set(first_column(section(&text, "## Logs")));
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).expect("a line is an object");
        assert!(always.is_subset(&keys(&line)), "{line}");
        for key in keys(&line) {
            assert!(text.contains(&format!("`{key}`")), "`{key}` is not documented");
        }
    }
    let metrics = case.read("shop.prom");
    let written = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split('{').next().unwrap());
    assert_eq!(set(written), set(first_column(section(&text, "## Prometheus"))));
}

/// Every text that the program can say, roughly: its source, without what breaks lines.
fn everything_said() -> String {
    fn walk(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                walk(&entry.path(), text);
            } else {
                text.push_str(&fs::read_to_string(entry.path()).unwrap());
            }
        }
    }
    let mut text = String::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
    let mut joined = String::new();
    for line in text.lines() {
        let goes_on = line.strip_suffix('\\');
        joined.push_str(goes_on.unwrap_or(line).trim_start());
        if goes_on.is_none() {
            joined.push('\n');
        }
    }
    joined.replace("\\\"", "\"").replace("{TABLES_FILE}", config::TABLES_FILE)
}

/// What others say: PostgreSQL and rustls.
const OF_OTHERS: [&str; 5] = [
    "password authentication failed",
    "no pg_hba.conf entry",
    "permission denied for table",
    "invalid peer certificate: certificate not valid for name",
    "invalid peer certificate: UnknownIssuer",
];

#[test]
fn every_error_that_is_explained_can_be_said() {
    let (text, said) = (read("docs/troubleshooting.md"), everything_said());
    let explained: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("**")?.strip_suffix("**")).collect();
    assert!(explained.len() >= 50, "only {} errors are explained", explained.len());
    let mut unsaid = Vec::new();
    for error in explained {
        if OF_OTHERS.contains(&error) {
            continue;
        }
        // A name of a variable stands for any of its kind.
        let mut general = String::new();
        for word in error.split_inclusive(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let name = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let variable = ["SOURCE_", "DEST_"].iter().any(|start| name.starts_with(start));
            general += &if variable { word.replacen(name, "...", 1) } else { word.to_owned() };
        }
        let pieces = general.split("...").map(str::trim).filter(|piece| piece.len() > 5);
        unsaid.extend(pieces.filter(|piece| !said.contains(piece)).map(str::to_owned));
    }
    assert!(unsaid.is_empty(), "nothing says: {unsaid:#?}");
}
