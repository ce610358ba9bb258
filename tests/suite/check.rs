//! What is wrong, or will be, before the first sync?

use serde_json::{Value, json};

use crate::support::case::{Case, READER, WRITER, by, with};
use crate::support::snapshot;

const SHOP: &str = "
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.updated_at = now(); RETURN NEW; END';
    CREATE TABLE orders (id int PRIMARY KEY, updated_at timestamptz NOT NULL DEFAULT now());
    CREATE INDEX ON orders (updated_at);
    CREATE TRIGGER touch BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch();
    INSERT INTO orders SELECT n FROM generate_series(1, 100) n;
    CREATE TABLE customers (id int, updated_at timestamptz);
    INSERT INTO customers VALUES (1, NULL), (2, 'infinity'), (3, now());
    CREATE TABLE lines (a int NOT NULL, b int NOT NULL, at int DEFAULT 1);
    INSERT INTO lines VALUES (1, 1), (1, 1), (2, 2);
    ANALYZE;";

fn check(case: &Case, code: i32) -> Vec<Value> {
    let run = case.run(&["check", "--json"]);
    run.expect(code);
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    document["findings"].as_array().unwrap().clone()
}

/// The findings of a severity: what they are about, and what they say.
fn of(findings: &[Value], severity: &str) -> Vec<String> {
    let of = |finding: &&Value| finding["severity"] == severity;
    let said = |finding: &Value| {
        let about = finding["table"].as_str().or(finding["about"].as_str()).unwrap();
        format!("{about}: {}", finding["message"].as_str().unwrap())
    };
    findings.iter().filter(of).map(said).collect()
}

fn says(found: &[String], words: &str) {
    assert!(found.iter().any(|said| said.contains(words)), "nothing says `{words}`: {found:#?}");
}

#[test]
fn nothing_is_wrong_with_a_good_pipeline() {
    let mut case = Case::new(SHOP, &json!([by("orders", "updated_at")]));
    let findings = check(&case, 0);
    let (errors, warnings) = (of(&findings, "error"), of(&findings, "warning"));
    assert!(errors.is_empty() && warnings.is_empty(), "{errors:?} {warnings:?}");
    let good = of(&findings, "good");
    says(&good, "source: PostgreSQL");
    says(&good, "as writer, not encrypted");
    says(&good, "pg_dump: it can read the source");
    says(&good, "orders: about 100 rows");
    case.run(&["check"])
        .expect(0)
        .says("no errors, no warnings; the next sync copies 1 table whole,");
    let quiet = case.run(&["-q", "check"]);
    assert_eq!((quiet.code, quiet.stdout.as_str(), quiet.stderr.as_str()), (Some(0), "", ""));
    case.sync();
    let text = case.run(&["check"]).expect(0).stdout.clone();
    assert!(text.ends_with("no errors, no warnings\n"), "{text}");
    // Nobody has counted the rows of this one.
    let fresh =
        "CREATE TABLE fresh (LIKE orders INCLUDING ALL); INSERT INTO fresh SELECT * FROM orders;
        CREATE TRIGGER touch BEFORE UPDATE ON fresh FOR EACH ROW EXECUTE FUNCTION touch()";
    case.at_source(fresh);
    case.write_tables(&json!([by("fresh", "updated_at")]));
    says(&of(&check(&case, 0), "good"), "fresh: empty, or never analyzed");
}

#[test]
fn everything_that_is_wrong_is_found_at_once_with_its_remedy() {
    let rules = json!([
        by("oders", "updated_at"),
        with(by("customers", "updated_at"), &json!({"unique_cols": ["id"]})),
        with(by("lines", "at"), &json!({"unique_cols": ["a"]})),
        with(by("orders", "updated_on"), &json!({"destination_name": "o"})),
        {"name": "orders", "mode": "full-refresh", "where": "no_such_column"},
    ]);
    let mut case = Case::new(SHOP, &rules);
    let text = case.run(&["check"]).expect(1).stdout.clone();
    for line in
        text.lines().filter(|line| !line.contains("CREATE INDEX") && !line.contains("127.0.0.1"))
    {
        assert!(line.chars().count() <= 80, "{line}");
    }
    snapshot("check__wrong", from_pg_dump_on(&text));
    case.at_source(&format!(
        "GRANT INSERT ON orders TO {READER}; REVOKE SELECT ON lines FROM {READER}"
    ));
    let findings = check(&case, 1);
    says(&of(&findings, "warning"), "source: the user could write orders; this tool only reads");
    says(
        &of(&findings, "error"),
        "lines: cannot read `public.lines` at the source: permission denied",
    );
    for finding in &findings {
        let wrong = ["error", "warning"].contains(&finding["severity"].as_str().unwrap());
        assert!(!wrong || finding["hint"].is_string(), "no remedy: {finding}");
    }
}

/// The text from where it is the same on every machine.
fn from_pg_dump_on(text: &str) -> &str {
    &text[text.find("ok      pg_dump").unwrap()..]
}

#[test]
fn the_destinations_rights_and_what_is_in_the_way_are_looked_at() {
    let case = Case::new(SHOP, &json!([by("orders", "updated_at")]));
    case.write_env("DEST_SCHEMA=warehouse");
    says(&of(&check(&case, 0), "good"), "the first sync will make the schema `warehouse`");
    let mut superuser = case.destination_superuser();
    let database = case.database.clone();
    superuser.batch_execute(&format!("ALTER DATABASE {database} OWNER TO postgres; REVOKE ALL ON DATABASE {database} FROM PUBLIC, {WRITER}; GRANT CONNECT ON DATABASE {database} TO {WRITER}")).unwrap();
    let findings = check(&case, 1);
    says(&of(&findings, "error"), "there is no schema `warehouse`, and the user may not make it");
    says(&of(&findings, "warning"), "the user may not make temporary tables");
    superuser.batch_execute("CREATE SCHEMA warehouse").unwrap();
    says(&of(&check(&case, 1), "error"), "the user may not make tables in the schema `warehouse`");
    superuser
        .batch_execute(&format!(
            "ALTER SCHEMA warehouse OWNER TO {WRITER}; CREATE VIEW warehouse.orders AS SELECT 1"
        ))
        .unwrap();
    let errors = of(&check(&case, 1), "error");
    says(&errors, "`warehouse.orders` at the destination is a view");
    says(&errors, "`warehouse.orders` belongs to `postgres`");
    case.write_env("SOURCE_SCHEMA=nowhere");
    says(&of(&check(&case, 1), "error"), "there is no schema `nowhere`");
}

#[test]
fn servers_that_cannot_be_reached_are_both_named() {
    let case = Case::new(SHOP, &json!([by("orders", "updated_at")]));
    case.write_env("SOURCE_PORT=1\nDEST_PASSWORD=wrong\nDEST_SSL_MODE=require");
    let findings = check(&case, 3);
    says(&of(&findings, "warning"), "did you mean `DEST_SSLMODE`?");
    let errors = of(&findings, "error");
    says(&errors, "cannot connect to the source");
    says(&errors, "cannot connect to the destination");
    says(&errors, "password authentication failed");
    case.write_env(&format!("DEST_PORT={}\nDEST_USERNAME=reader", case.source_port()));
    says(&of(&check(&case, 2), "error"), "source and destination are the same");
    case.write("tables-config.json", "[]");
    case.run(&["check"]).expect(2);
}

#[test]
fn without_a_pg_dump_copy_reads_and_check_says_so() {
    let mut case = Case::new(SHOP, &json!([by("orders", "updated_at")]));
    case.set("PATH", "/nowhere");
    says(&of(&check(&case, 0), "warning"), "pg_dump cannot be run");
    case.write_tables(&json!([with(by("orders", "updated_at"), &json!({"initial": "copy"}))]));
    assert!(of(&check(&case, 0), "warning").is_empty());
}

#[test]
fn files_that_cannot_be_written_are_found() {
    let case =
        Case::new("CREATE TABLE orders (id int PRIMARY KEY, at int)", &json!([by("orders", "at")]));
    case.write_env("METRICS_FILE=absent/metrics.prom\nWEBHOOK_URL='http://exa mple/T0KEN'");
    // A file has the folder's name.
    case.write("sync-state", "");
    case.run(&["check"])
        .expect(1)
        .says("cannot write into")
        .says("sync-state`")
        .says("absent`")
        .says("`WEBHOOK_URL` cannot be understood")
        .says("let the user who runs the syncs own it");
}

#[test]
fn a_table_that_this_tool_has_not_made_is_said_to_be_replaced() {
    let mut case =
        Case::new("CREATE TABLE orders (id int PRIMARY KEY, at int)", &json!([by("orders", "at")]));
    case.at_destination("CREATE TABLE orders (precious text); INSERT INTO orders SELECT 'gold' FROM generate_series(1, 50); ANALYZE orders");
    case.run(&["check"])
        .expect(0)
        .says("the next sync replaces `public.orders`, which has about 50 rows");
    let replaces = "it replaces `public.orders`, which has about 50 rows and no receipt";
    case.run(&["plan"]).expect(0).says(replaces);
    case.write_tables(&json!([{"name": "orders", "mode": "full-refresh"}]));
    case.run(&["check"]).expect(0).says("the next sync replaces `public.orders`");
    case.run(&["plan"]).expect(0).says(replaces);
    case.write_tables(&json!([by("orders", "at")]));
    case.sync().says(replaces);
    let run = case.run(&["check"]);
    assert!(!run.stdout.contains("replaces"), "{}", run.stdout);
}

#[test]
fn a_column_of_the_destination_that_nobody_may_write_is_an_error_with_its_remedy() {
    let mut case =
        Case::new("CREATE TABLE t (id int PRIMARY KEY, at int)", &json!([by("t", "at")]));
    case.sync();
    case.at_destination("ALTER TABLE t ALTER id ADD GENERATED ALWAYS AS IDENTITY");
    case.at_source("INSERT INTO t VALUES (1, 1)");
    let said = "no sync can write the identity, generated always, of column id of `public.t`";
    says(&of(&check(&case, 1), "error"), said);
    case.sync_fails(1).says("DROP IDENTITY, or DROP EXPRESSION");
    case.at_destination("ALTER TABLE t ALTER id DROP IDENTITY");
    check(&case, 0);
    case.sync().says("1 row ");
    // What a new copy would lose is an error where the next sync wants to make one.
    case.at_destination("CREATE RULE audit AS ON DELETE TO t DO ALSO NOTHING");
    let lost = "a new copy of `public.t` would lose the rule audit, and is refused";
    says(&of(&check(&case, 0), "warning"), lost);
    case.at_source("ALTER TABLE t ADD more int");
    says(&of(&check(&case, 1), "error"), lost);
    case.sync_fails(1).says("would lose the rule audit");
}

#[test]
fn a_copy_of_another_source_and_a_trigger_that_meddles_are_warned_of() {
    let mut case = Case::new(SHOP, &json!([by("orders", "updated_at")]));
    case.sync();
    case.at_destination(
        "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER mine BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION skip()",
    );
    case.at_source(
        "CREATE SCHEMA other; GRANT USAGE ON SCHEMA other TO reader;
         CREATE TABLE other.orders (LIKE orders INCLUDING ALL); GRANT SELECT ON other.orders TO reader",
    );
    case.write_env("SOURCE_SCHEMA=other");
    let found = of(&check(&case, 0), "warning");
    says(&found, "the next sync replaces `public.orders`, which has about 100 rows: the source is");
    says(&found, "the trigger `mine` of `public.orders` may leave rows out or alter them");
    case.set("PIPELINE_NAME", "market");
    let said = "replaces `public.orders`, which has about 100 rows: the pipeline `shop` has copied";
    says(&of(&check(&case, 0), "warning"), said);
    case.sync_fails(1).says(said).says("so much smaller");
}

#[test]
fn a_subscriber_a_forced_policy_and_an_owner_who_may_own_nothing_new_are_warned_of() {
    let mut case = Case::new(SHOP, &json!([by("orders", "updated_at")]));
    case.sync();
    // As CREATE SUBSCRIPTION would leave it.
    case.at_source(
        "SET allow_system_table_mods = on;
         INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate) VALUES (1, 'orders'::regclass, 'r')",
    );
    let mut superuser = case.destination_superuser();
    let group = format!("people_of_{}", case.database);
    superuser
        .batch_execute(&format!(
            "ALTER TABLE orders ENABLE ROW LEVEL SECURITY; ALTER TABLE orders FORCE ROW LEVEL SECURITY; CREATE ROLE {group}; GRANT {group} TO {WRITER};
             ALTER TABLE orders OWNER TO {group}"
        ))
        .expect("another owner");
    let findings = check(&case, 1);
    says(
        &of(&findings, "error"),
        "row-level security hides rows of `public.orders` from the destination's user",
    );
    let found = of(&findings, "warning");
    says(&found, "orders: a subscription fills it");
    says(&found, &format!("`{group}`, who owns `public.orders`, may own no new copy"));
    let hints: Vec<&str> = findings.iter().filter_map(|finding| finding["hint"].as_str()).collect();
    let remedy = hints.iter().find(|hint| hint.starts_with("GRANT CREATE")).expect("a remedy");
    superuser.batch_execute(remedy).expect("a grant");
    superuser.batch_execute("ALTER TABLE orders NO FORCE ROW LEVEL SECURITY").expect("no policy");
    assert!(!of(&check(&case, 0), "warning").iter().any(|said| said.contains("may own no new")));
    case.run(&["sync", "--full-refresh"]).expect(0);
    superuser
        .batch_execute(&format!("DROP OWNED BY {group} CASCADE; DROP ROLE {group}"))
        .expect("an end");
}

#[test]
fn a_materialized_view_that_was_never_filled_is_an_error_with_its_remedy() {
    let case = Case::new(
        "CREATE TABLE t (id int PRIMARY KEY, at int);
         CREATE MATERIALIZED VIEW v AS SELECT * FROM t WITH NO DATA",
        &json!([{"name": "v", "replication_key": "at", "unique_cols": ["id"]}]),
    );
    says(&of(&check(&case, 1), "error"), "has not been populated");
}
