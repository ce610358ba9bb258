//! Tests of plans as values, and one table at both ends for tests of what is made from it.

use super::*;
use crate::receipt::{Progress, Receipt, SourceIdentity, VERSION};
use crate::sql::digest::Digest;
use crate::table::{BaseType, Column, DataType, Kind, SourceColumn, SourceIndex};

// The rests of rules.
pub(super) const MERGED: &str = r#""replication_key": "id""#;
pub(super) const MARKED: &str = r#""replication_key": "id", "deletes": "mark""#;
pub(super) const APPENDED: &str = r#""replication_key": "id", "mode": "incremental-append""#;
pub(super) const COPIED: &str = r#""mode": "full-refresh""#;

/// One table at both ends, for tests of what is made from it: `t (id integer, a, b, c, d text)`.
pub(super) struct Setting {
    pub(super) rule: Rule,
    pub(super) source: SourceTable,
    pub(super) destination: DestinationTable,
    pub(super) shape: Shape,
    pub(super) origin: Origin,
    table: Qualified,
}

impl Setting {
    /// The same of a source that was changed, with the destination that it wants.
    pub(super) fn changed(rule: &str, change: fn(&mut SourceTable)) -> Self {
        let mut source = Self::new(rule, true).source;
        change(&mut source);
        Self::of(Self::rule(rule), source)
    }

    /// `rule` is the rest of the rule. The primary key is `id`, if there is one.
    pub(super) fn new(rule: &str, primary_key: bool) -> Self {
        let rule = Self::rule(rule);
        let columns = [("id", "int4", "integer", 23, true)]
            .into_iter()
            .chain(["a", "b", "c", "d"].map(|name| (name, "text", "text", 25, false)));
        let column = |(at, (name, base, declared, oid, not_null)): (usize, _)| SourceColumn {
            name: str::to_owned(name),
            number: i16::try_from(at).unwrap() + 1,
            not_null,
            generated: false,
            filled: false,
            data_type: DataType {
                declared: str::to_owned(declared),
                base: BaseType {
                    oid,
                    name: str::to_owned(base),
                    kind: 'b',
                    formatted: str::to_owned(declared),
                },
                element: None,
                parts: Vec::new(),
            },
        };
        let source = SourceTable {
            columns: columns.enumerate().map(column).collect(),
            unique_indexes: primary_key
                .then(|| SourceIndex::bare(&["id"], true))
                .into_iter()
                .collect(),
            ..SourceTable::bare()
        };
        Self::of(rule, source)
    }

    fn of(rule: Rule, source: SourceTable) -> Self {
        let shape = shape(&rule, &source, 17_00_00).unwrap();
        let identity = SourceIdentity {
            system_identifier: Some("7".to_owned()),
            address: None,
            database: "shop".to_owned(),
            database_oid: Some(1),
            schema: source.name.schema.clone(),
            table: source.name.name.clone(),
        };
        let origin = origin(&rule, &source, &shape, identity);
        let destination = DestinationTable {
            name: Qualified::new("copies", "t"),
            kind: Kind::Table,
            unlogged: false,
            bytes: 1_000_000,
            estimated_rows: 1_000_000,
            columns: shape.destination_columns(),
            unique_indexes: vec![UniqueIndex {
                name: "t_key".to_owned(),
                columns: vec!["id".to_owned()],
                immediate: true,
                nulls_not_distinct: false,
                equates: false,
            }],
            comment: None,
            inherits: false,
            has_triggers: false,
            row_security: false,
        };
        Self { rule, source, destination, shape, origin, table: Qualified::new("copies", "t") }
    }

    /// A rule for `t`, of which this is the rest.
    pub(super) fn rule(rest: &str) -> Rule {
        let text = format!(r#"[{{"name": "t", {rest}}}]"#);
        crate::config::rules_for_tests(&text).remove(0)
    }

    /// A staging table that fits and is empty.
    pub(super) fn staging(&self) -> DestinationTable {
        let columns = self.shape.columns.iter().cloned();
        DestinationTable {
            unlogged: true,
            bytes: 0,
            columns: columns.map(|column| Column { not_null: false, ..column }).collect(),
            comment: Some(crate::sql::ddl::STAGING_COMMENT.to_owned()),
            ..self.destination.clone()
        }
    }

    pub(super) fn situation(&self) -> Situation<'_> {
        Situation {
            rule: &self.rule,
            source: &self.source,
            shape: &self.shape,
            table: &self.table,
            destination: Some(&self.destination),
            staging: None,
            destination_version: 17_00_00,
            origin: &self.origin,
            snapshot_kept: false,
        }
    }
}

/// A receipt of a sync that has come to nothing yet.
pub(super) fn receipt(situation: &Situation) -> Receipt {
    let (pipeline, origin) = ("shop".to_owned(), situation.origin.clone());
    Receipt { version: VERSION, pipeline, origin, progress: Progress::default() }
}

/// What steps do, a word each.
pub(super) fn first_words(steps: &[Step]) -> String {
    let word = |step: &Step| step.sql.split(' ').next().unwrap_or_default().to_owned();
    steps.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn step(sql: &str) -> Step {
    Step::destination("do it", sql)
}

fn plan(before: Vec<Step>) -> Plan {
    Plan {
        sync_type: SyncType::Incremental,
        reason: String::new(),
        warnings: Vec::new(),
        notes: Vec::new(),
        details: Vec::new(),
        before,
        removal: None,
        load: None,
        of_each_part: vec![step("part")],
        after: vec![step("after")],
        reconciliation: None,
        finish: vec![step("receipt"), step("commit")],
        nothing_if_empty: false,
        nothing_if_same: false,
    }
}

fn load(from: Reading) -> Load {
    let rows = Mending::bare().selection;
    let (into, format) = ("into".to_owned(), Format::Text);
    Load {
        rows,
        from,
        first: Some(step("first")),
        into,
        format,
        last: vec![step("last")],
        hint: None,
    }
}

fn reconciliation(versions: bool) -> Reconciliation {
    let digest = |name| Digest {
        table: Qualified::new("s", name),
        alias: None,
        key: "1".to_owned(),
        row: None,
        conditions: Vec::new(),
    };
    let comparison = Comparison {
        source: digest("there"),
        destination: digest("here"),
        buckets: 1,
        versions,
        pending: None,
        settled: None,
        undisturbed: None,
    };
    Reconciliation { comparison, mending: Mending::bare() }
}

#[test]
fn a_new_copy_heals_rows_that_share_keys_only_where_an_index_was_to_be_made() {
    let failed = |sqlstate: &str| Error {
        sqlstate: Some(sqlstate.to_owned()),
        ..Error::table("cannot do it")
    };
    let indexed = plan(vec![step("begin"), step("index").result(Outcome::Distinct)]);
    assert!(indexed.heals_by_copying(&failed("23505")));
    assert!(!indexed.heals_by_copying(&failed("23502")));
    assert!(!plan(vec![step("begin")]).heals_by_copying(&failed("23505")));
}

#[test]
fn a_merge_goes_by_the_index_unless_that_is_deferrable_or_cannot_hold_the_keys() {
    // Whether it goes by the index, and whether the index must hold NULL equal to NULL.
    let goes = |destination_version, nullable_keys, columns: &[&str], immediate| {
        let mut setting = Setting::new(MERGED, true);
        setting.shape.nullable_keys = nullable_keys;
        let index = &mut setting.destination.unique_indexes[0];
        index.columns = columns.iter().map(|&name| name.to_owned()).collect();
        index.immediate = immediate;
        let situation = Situation { destination_version, ..setting.situation() };
        (situation.merges_by_index(), situation.wants_nulls_not_distinct())
    };
    assert_eq!(goes(14_00_20, false, &["id"], true), (true, false));
    assert_eq!(goes(14_00_20, true, &["id"], true), (false, false));
    assert_eq!(goes(15_00_00, true, &["id"], true), (true, true));
    assert_eq!(goes(17_00_00, false, &["id"], true), (true, false));
    assert_eq!(goes(17_00_00, false, &["id"], false), (false, false));
    assert_eq!(goes(17_00_00, false, &["a"], false), (true, false), "on other columns");
    let setting = Setting::new(MERGED, true);
    let absent = Situation { destination: None, ..setting.situation() };
    assert!(absent.merges_by_index());
}

#[test]
fn the_snapshot_ends_with_the_plan_unless_somebody_still_needs_it() {
    let setting = Setting::new(MERGED, true);
    let ended = |snapshot_kept| {
        let situation = Situation { snapshot_kept, ..setting.situation() };
        situation.end_of_snapshot().map(|step| (step.on, step.sql))
    };
    assert_eq!(ended(false), Some((Side::Source, "COMMIT".to_owned())));
    assert_eq!(ended(true), None);
}

#[test]
fn the_statements_of_a_plan_are_told_in_the_order_in_which_they_run() {
    let told = |plan: &Plan| {
        // Of a digest, the table.
        let word = |statement: Statement| match statement.sql.split('"').nth(3) {
            Some(table) => table.to_owned(),
            None => statement.sql,
        };
        plan.statements().into_iter().map(word).collect::<Vec<_>>().join(" ")
    };
    let copied =
        Plan { load: Some(load(Reading::Copy("out".to_owned()))), ..plan(vec![step("before")]) };
    assert_eq!(told(&copied), "out before first into last part after receipt commit");
    let dumped = Reading::PgDump { table: Qualified::new("s", "t"), columns: Vec::new() };
    let dumped = Plan { load: Some(load(dumped)), ..plan(Vec::new()) };
    assert!(dumped.statements()[0].sql.starts_with("pg_dump --data-only"));
    let compared = |versions| Plan {
        reconciliation: Some(reconciliation(versions)),
        ..plan(vec![step("before")])
    };
    assert_eq!(told(&compared(false)), "before there here receipt commit");
    assert_eq!(told(&compared(true)), "before receipt commit");
    assert_eq!(compared(false).statements()[1].on, Side::Source);
}
