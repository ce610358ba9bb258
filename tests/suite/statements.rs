//! Every statement of every kind of plan, pinned, and run on a real server so that no snapshot
//! pins broken SQL.

use std::io::Read;

use incremental_replication::config::{
    ColumnChoice, Deletes, InitialPath, Mode, OnSchemaChange, ReplicationKey, Rule, Side,
};
use incremental_replication::digest::{Bucket, Buckets};
use incremental_replication::plan::{
    self, Comparison, Depth, Expected, First, Load, Merge, Plan, Reading, Reconciliation,
    Situation, Step, SyncType,
};
use incremental_replication::receipt::{Origin, Progress, Receipt, SourceIdentity};
use incremental_replication::sql::catalog::Question;
use incremental_replication::sql::digest::Digest;
use incremental_replication::sql::{
    self, Qualified, catalog, dependents, digest, inspect, session,
};
use incremental_replication::table::dependent::Dependents;
use incremental_replication::table::{DestinationTable, SourceTable};
use incremental_replication::watermark::key::Key;
use incremental_replication::watermark::overlap::Position;
use incremental_replication::watermark::{Seen, Watermark};
use postgres::Client;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::support::case::Case;
use crate::support::{judge, snapshot};

fn rule(name: &str, key: &str) -> Rule {
    Rule {
        name: name.to_owned(),
        destination_name: name.to_owned(),
        replication_key: Some(ReplicationKey::Column(key.to_owned())),
        unique_columns: None,
        mode: Mode::IncrementalDeduped,
        deletes: Deletes::Keep,
        reconcile_every: None,
        max_delete_percent: 50,
        on_schema_change: OnSchemaChange::Resync,
        columns: ColumnChoice::All,
        filter: None,
        initial: InitialPath::PgDump,
        lookback: None,
        settle: std::time::Duration::ZERO,
    }
}

fn read<T: DeserializeOwned>(client: &mut Client, sql: &str) -> Option<T> {
    let document = judge::column(client, sql).pop()?;
    Some(serde_json::from_str(&document).expect("the catalog's answer has the expected form"))
}

/// The answer to a question that servers keep.
fn kept<T: DeserializeOwned>(client: &mut Client, question: Question, name: &str) -> Option<T> {
    let version: u32 = read(client, "SHOW server_version_num").expect("a version");
    // Whether it is kept already does not matter.
    let _ = client.batch_execute(&question.prepare(version));
    read(client, &question.execute("public", &[name]))
}

/// What a plan is made from, read from real catalogs.
struct Facts {
    rule: Rule,
    source: SourceTable,
    table: Qualified,
    destination: Option<DestinationTable>,
    staging: Option<DestinationTable>,
    dependents: Option<Dependents>,
    version: u32,
}

impl Facts {
    fn of(case: &mut Case, rule: Rule) -> Self {
        let table = Qualified::new("public", &rule.name);
        let staging = incremental_replication::table::staging_name(&rule.name);
        let there = |case: &mut Case, name: &str| {
            kept(&mut case.destination, Question::DestinationTables, name)
        };
        let mut source: SourceTable =
            kept(&mut case.source, Question::SourceTables, &rule.name).expect("a table");
        source.oid = 1;
        Self {
            destination: there(case, &rule.name),
            staging: there(case, &staging),
            dependents: read(&mut case.destination, &dependents::of(&table)),
            rule,
            source,
            table,
            version: 15_00_00,
        }
    }

    fn plan(&self, watermark: Option<&str>) -> Plan {
        let shape = plan::shape(&self.rule, &self.source, self.version).expect("a shape");
        let origin = Origin {
            source: SourceIdentity {
                system_identifier: None,
                address: None,
                database: "shop".to_owned(),
                database_oid: Some(1),
                schema: "public".to_owned(),
                table: self.rule.name.clone(),
            },
            source_table_oid: 1,
            mode: self.rule.mode.name().to_owned(),
            replication_key: None,
            unique_columns: shape.unique_columns.clone(),
            columns: Vec::new(),
            filter: None,
            definition: None,
            last_column: None,
        };
        let situation = Situation {
            rule: &self.rule,
            source: &self.source,
            shape: &shape,
            table: &self.table,
            destination: self.destination.as_ref(),
            staging: self.staging.as_ref(),
            destination_version: self.version,
            origin: &origin,
            snapshot_kept: false,
        };
        let receipt = Receipt {
            version: 1,
            pipeline: "shop".to_owned(),
            origin: origin.clone(),
            progress: Progress::default(),
        };
        if let Some(watermark) = watermark {
            let now = Position {
                system_identifier: Some("1".to_owned()),
                timeline: Some("1".to_owned()),
                running_since: Some("noon".to_owned()),
                recovered_at: Some("dawn".to_owned()),
                snapshot_xmin: 700,
                start: Some(watermark.to_owned()),
                unseen: None,
            };
            let before = Progress {
                watermark: Watermark { start: Some(watermark.to_owned()), ..Watermark::default() },
                position: Some(now.clone()),
                storage: Some(self.source.storage.clone()),
                lookback: shape.key.as_ref().and_then(Key::reach),
                ..Progress::default()
            };
            let key = (shape.key.as_ref(), Seen::Key(vec![watermark]));
            let since = plan::since(&before, key, &self.source, &now);
            let depth = match (self.rule.mode, self.rule.deletes) {
                (Mode::Diff, _) => Some(Depth::Rows),
                (_, Deletes::Keep) => None,
                _ => Some(Depth::Keys),
            };
            let reconciliation = depth.map(|depth| {
                let comparison = plan::compare(&situation, depth, Expected::Few, None);
                plan::reconcile(&situation, comparison, self.rule.deletes)
            });
            let merge = Merge {
                reason: format!("from {watermark}"),
                since: (self.rule.mode != Mode::Diff).then_some(since),
                reconciliation,
                evolution: None,
                receipt: &receipt,
                known: true,
                holding_null: &[],
            };
            return plan::incremental(&situation, merge);
        }
        let first = First {
            unasked: true,
            dependents: self.dependents.as_ref(),
            pg_dump_unusable: None,
            user: "writer",
            receipt: &receipt,
        };
        plan::initial(&situation, SyncType::Initial, "a reason".to_owned(), &first).expect("a plan")
    }
}

/// A plan as a person reads it.
fn shown(plan: &Plan) -> String {
    let mut lines = vec![format!("{} sync: {}", plan.sync_type.name(), plan.reason)];
    lines.extend(plan.notes.clone());
    let step = |step: &plan::Step| {
        let shortcut = step
            .shortcut
            .iter()
            .map(|shortcut| format!("\nof many rows\n{};\n{}", shortcut.lock, shortcut.sql));
        let sql = step.sql.clone() + &shortcut.collect::<String>();
        format!("{}: {} [{:?}]\n{sql}", step.on, step.purpose, step.result)
    };
    lines.extend(plan.before.iter().map(step));
    lines.extend(plan.load.iter().flat_map(|load| &load.first).map(step));
    lines.extend(plan.load.iter().flat_map(way));
    lines.extend(plan.load.iter().flat_map(|load| &load.last).map(step));
    lines.extend(plan.of_each_part.iter().chain(&plan.after).map(step));
    if let Some(Reconciliation { comparison, mending }) = &plan.reconciliation {
        let text = |(side, sql): &(Side, String)| format!("{side}: reconcile\n{sql}");
        lines.extend(compared(comparison).iter().map(text));
        lines.extend(
            mended(&comparison.destination, mending.extra)
                .into_iter()
                .map(|sql| format!("destination: reconcile\n{sql}")),
        );
        let wanted = comparison.source.wanted(&[-1, 7]);
        lines.extend(mending.no_shared_key(Some(&wanted)).iter().map(step));
        lines.extend(way(&mending.fetch(Some(wanted))));
        let forget = comparison.destination.forget_unwanted(&mending.staging);
        lines.push(format!("destination: reconcile, of many rows\n{forget}"));
        lines.extend(mending.merge.iter().map(step));
    }
    lines.extend(plan.finish.iter().map(step));
    lines.join("\n\n")
}

/// The way of rows as a person reads it.
fn way(load: &Load) -> [String; 2] {
    let from = match &load.from {
        Reading::Copy(query) => format!("source: read\n{query}"),
        Reading::PgDump { table, columns } => {
            format!("source: read by pg_dump\n{table} {columns:?}")
        }
    };
    [from, format!("destination: write\n{}", load.into)]
}

/// The statements of a comparison in which one of two buckets differs.
fn compared(comparison: &Comparison) -> Vec<(Side, String)> {
    let one = Bucket { number: 1, rows: 1, sum: 1 };
    let buckets = Buckets::differing(2, &[one], &[]);
    let pending = Some("tableoid > 7");
    vec![
        (Side::Source, comparison.source.per_bucket(2)),
        (Side::Destination, comparison.destination.per_bucket(2)),
        (Side::Destination, digest::stage_digests()),
        (Side::Source, comparison.source.per_row(&buckets, pending)),
        (Side::Destination, digest::copy_digests()),
        (Side::Destination, comparison.destination.compare(&buckets, comparison.versions, None)),
        (Side::Destination, digest::count_differences()),
        (Side::Destination, digest::wanted_digests(10)),
        (Side::Destination, digest::examples(digest::Kind::Different, 5)),
    ]
}

/// The statements that put right what must not be there.
fn mended(digest: &Digest, extra: Deletes) -> Vec<String> {
    match extra {
        Deletes::Remove => vec![digest.remove()],
        Deletes::Mark => vec![digest.mark(), digest.remove_doubled()],
        Deletes::Keep => vec![digest.remove_doubled()],
    }
}

/// Runs every statement of a plan, with no rows on the way.
fn run(case: &mut Case, plan: &Plan) {
    case.at_source("BEGIN");
    run_steps(case, &plan.before);
    if let Some(load) = &plan.load {
        run_load(case, load);
        run_steps(case, &load.last);
        run_steps(case, &plan.of_each_part);
    }
    run_steps(case, &plan.after);
    if let Some(Reconciliation { comparison, mending }) = &plan.reconciliation {
        for (side, sql) in compared(comparison) {
            match side {
                Side::Source => run_copy_out(case, &sql),
                Side::Destination if sql.contains("FROM STDIN") => run_copy_in(case, &sql),
                Side::Destination if sql.starts_with("COPY") => {
                    drop(case.destination.copy_out(sql.as_str()).expect("COPY TO"));
                }
                Side::Destination => case.at_destination(&sql),
            }
        }
        for sql in mended(&comparison.destination, mending.extra) {
            case.at_destination(&sql);
        }
        let wanted = comparison.source.wanted(&[-1, 7]);
        let check: Vec<Step> = mending.no_shared_key(Some(&wanted)).into_iter().collect();
        run_steps(case, &check);
        run_load(case, &mending.fetch(Some(wanted)));
        case.at_destination(&comparison.destination.forget_unwanted(&mending.staging));
        run_steps(case, &mending.merge);
    }
    run_steps(case, &plan.finish);
}

fn run_steps(case: &mut Case, steps: &[Step]) {
    for step in steps {
        if let Some((question, _)) = &step.unless {
            case.at_destination(question);
        }
        match step.on {
            Side::Source => case.at_source(&step.sql),
            Side::Destination => case.at_destination(&step.sql),
        }
    }
}

fn run_load(case: &mut Case, load: &Load) {
    if let Reading::Copy(query) = &load.from {
        run_copy_out(case, query);
    }
    run_copy_in(case, &load.into);
}

fn run_copy_out(case: &mut Case, query: &str) {
    let mut rows = Vec::new();
    case.source.copy_out(query).expect("COPY TO").read_to_end(&mut rows).expect("rows");
}

fn run_copy_in(case: &mut Case, into: &str) {
    let mut writer = case.destination.copy_in(into).expect("COPY FROM");
    if into.contains("(FORMAT binary") {
        let nothing = [&b"PGCOPY\n\xff\r\n\0"[..], &[0; 8], &[0xff; 2]].concat();
        std::io::Write::write_all(&mut writer, &nothing).expect("a header");
    }
    writer.finish().expect("no rows");
}

/// Pins the first copy and the merge that follows it, and runs both.
fn check(name: &str, setup: &str, rule: Rule, watermark: &str, version: u32) {
    let mut case = Case::new(setup, &json!([]));
    case.at_destination(&incremental_replication::sql::receipt::create_table(&Qualified::new(
        "public",
        "_sync_state",
    )));
    let mut facts = Facts::of(&mut case, rule);
    facts.version = version;
    let first = facts.plan(None);
    run(&mut case, &first);
    let rule = facts.rule;
    let mut facts = Facts::of(&mut case, rule);
    facts.version = version;
    let merge = facts.plan(Some(watermark));
    run(&mut case, &merge);
    snapshot(&format!("plan__{name}"), &format!("{}\n\n----\n\n{}", shown(&first), shown(&merge)));
}

#[test]
fn a_plain_table() {
    check(
        "plain",
        "CREATE TABLE orders (id serial PRIMARY KEY, note text, at timestamptz NOT NULL)",
        rule("orders", "at"),
        "2024-01-01 00:00:00+00",
        15_00_00,
    );
}

#[test]
fn a_composite_key_and_weird_names() {
    let setup = "CREATE TABLE \"Order \"\"Lines\"\"\" (\"Or.der\" int, \"select\" smallint, \"it's\" text, at int, PRIMARY KEY (\"select\", \"Or.der\"))";
    check("weird_names", setup, rule("Order \"Lines\"", "at"), "7", 15_00_00);
}

#[test]
fn nullable_keys_that_the_source_does_not_vouch_for() {
    let mut rule = rule("loose", "at");
    rule.unique_columns = Some(vec!["a".to_owned(), "b".to_owned()]);
    let setup = "CREATE TABLE loose (a int, b text, at int)";
    check("nullable_keys", setup, rule.clone(), "7", 15_00_00);
    check("nullable_keys_before_15", setup, rule, "7", 14_00_00);
}

#[test]
fn each_type_family() {
    let setup = "
        CREATE TYPE mood AS ENUM ('sad'); CREATE DOMAIN percent AS numeric(5,2); CREATE TYPE pair AS (a int, b int);
        CREATE TABLE families (
            id uuid PRIMARY KEY, number numeric(12,2), word varchar(40), day date, at timestamp(3) with time zone,
            span interval day to second, document jsonb, binary_data bytea, bits bit(3), area box, address inet,
            words text[], ranged int4range, feeling mood, feelings mood[], share percent, shares percent[],
            couple pair, class regclass, search tsquery)";
    check(
        "type_families",
        setup,
        rule("families", "id"),
        "01890000-0000-7000-8000-000000000001",
        15_00_00,
    );
}

#[test]
fn chosen_columns_and_a_filter() {
    let mut rule = rule("people", "at");
    rule.columns = ColumnChoice::Exclude(vec!["secret".to_owned()]);
    rule.filter = Some("id > 0 -- all".to_owned());
    let setup = "CREATE TABLE people (id int PRIMARY KEY, name text, secret text, at int)";
    check("columns_and_filter", setup, rule, "7", 15_00_00);
}

#[test]
fn deletes_that_are_removed() {
    let mut rule = rule("orders", "at");
    rule.deletes = Deletes::Remove;
    let setup =
        "CREATE TABLE orders (id int, code text, note text, at int, PRIMARY KEY (id, code))";
    check("deletes_removed", setup, rule, "7", 15_00_00);
}

#[test]
fn deletes_that_are_marked() {
    let mut rule = rule("orders", "at");
    rule.deletes = Deletes::Mark;
    rule.unique_columns = Some(vec!["id".to_owned()]);
    let setup = "CREATE TABLE orders (id int, note text, at int)";
    check("deletes_marked", setup, rule.clone(), "7", 15_00_00);
    check("deletes_marked_before_15", setup, rule, "7", 14_00_00);
}

#[test]
fn versions_that_are_added() {
    let mut rule = rule("orders", "at");
    rule.mode = Mode::IncrementalAppend;
    let setup = "CREATE TABLE orders (id int PRIMARY KEY, note text, at int)";
    check("append", setup, rule, "7", 15_00_00);
}

#[test]
fn rows_that_differ() {
    let mut rule = rule("families", "at");
    rule.mode = Mode::Diff;
    rule.replication_key = None;
    rule.deletes = Deletes::Remove;
    rule.filter = Some("families.id > 0".to_owned());
    let setup = "
        CREATE TYPE mood AS ENUM ('sad'); CREATE DOMAIN percent AS numeric(5,2); CREATE TYPE pair AS (a int, b int);
        CREATE TABLE families (
            id int PRIMARY KEY, number numeric(12,2), real_number real, double_number double precision,
            words text[], ranged int4range, feeling mood, feelings mood[], share percent, shares percent[],
            couple pair, class regclass, search tsquery, markup xml, place point, span interval, code \"char\")";
    check("diff", setup, rule, "7", 15_00_00);
}

#[test]
fn a_new_copy_keeps_what_people_put_on_the_table() {
    let mut case = Case::new(
        "CREATE TABLE orders (id int PRIMARY KEY, total numeric NOT NULL, at int)",
        &json!([{"name": "orders", "replication_key": "at"}]),
    );
    case.sync();
    case.at_destination(
        "CREATE INDEX by_total ON orders (total) WHERE total > 0;
         ALTER TABLE orders ADD CONSTRAINT orders_pkey PRIMARY KEY (id);
         ALTER TABLE orders ADD CONSTRAINT positive CHECK (total > 0);
         ALTER TABLE orders SET (fillfactor = 70, toast.autovacuum_enabled = false);
         ALTER TABLE orders REPLICA IDENTITY FULL;
         ALTER TABLE orders ALTER at SET DEFAULT 5;
         COMMENT ON COLUMN orders.total IS 'it''s in euros';
         GRANT SELECT (total) ON orders TO pg_monitor;
         CREATE STATISTICS both_columns ON id, at FROM orders;
         CREATE TABLE lines (order_id int REFERENCES orders);
         ALTER TABLE orders FORCE ROW LEVEL SECURITY;
         CREATE POLICY seen ON orders FOR SELECT USING (true);
         CREATE VIEW big AS SELECT id FROM orders;
         CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM big WITH NO DATA;
         ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO pg_read_all_data",
    );
    let facts = Facts::of(&mut case, rule("orders", "at"));
    let plan = facts.plan(None);
    run(&mut case, &plan);
    // How a server prints a view's definition differs between versions.
    let text = shown(&plan).replace("SELECT orders.id", "SELECT id");
    snapshot("plan__replacing", &text);
}

#[test]
fn questions_of_every_kind() {
    let mut case = Case::new(
        "CREATE TABLE \"it's\" (id int PRIMARY KEY, at timestamptz)",
        &json!([{"name": "it's", "replication_key": "at"}]),
    );
    case.sync();
    let table = Qualified::new("public", "it's");
    let receipts = table.beside("_sync_state");
    let source = [
        sql::activity::in_flight("a program"),
        catalog::table_names("public"),
        catalog::parts(&[16384, 16390]),
        catalog::definitions(&[16384, 16390]),
        catalog::RECOVERED_AT.to_owned(),
        inspect::rights("public"),
        inspect::columns("public", Some(&["t"])),
        sql::copy::holds_null_key(&table, "at"),
        session::pin(true),
        session::begin_snapshot(Some(&table)),
    ];
    let destination = [
        sql::receipt::read(&receipts, &["it's", "t"]),
        sql::receipt::written_at(&receipts),
        catalog::destination_schema(&receipts),
        sql::receipt::add_written_beside(&receipts),
        inspect::owned_by_others("public", &["it's", "t"]),
        inspect::views_of_others("public", &["it's", "t"]),
        digest::written_since(&table, &receipts, (1 << 32) + 7),
        digest::altered_since(&table, &receipts, (1 << 32) + 7),
        session::pin(false),
        session::try_lock(&table),
        session::unlock(&table),
        session::doing(7),
        session::end_lost(7, "2026-01-01T00:00:00+00:00", "it's"),
        session::alone("SELECT 1", session::Patience::Short),
        session::alone("SELECT 1", session::Patience::Long),
    ];
    for question in &source {
        case.at_source(question);
    }
    for question in &destination {
        case.at_destination(question);
    }
    let text = [&source[..], &destination].concat().join(";\n\n");
    snapshot("questions", &text);
}
