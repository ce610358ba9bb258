//! First copy or merge?

use super::{Evolution, Shape, Situation, SyncType, evolution};
use crate::config::{Mode, OnSchemaChange};
use crate::error::{Error, Result, counted, shell_quoted};
use crate::mapping;
use crate::receipt::{Progress, Receipt};
use crate::sql::identifier;
use crate::table::{Column, DELETED_AT, DestinationTable, Kind};

/// What is known from earlier syncs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remembered {
    /// Nothing that counts, and why.
    Nothing(String),
    /// A receipt, from the destination, from `sync-state/`, or the older of both.
    Receipt(Box<Receipt>),
    /// The predecessor's state file; the destination's own greatest key says how far it came.
    Predecessor {
        /// As PostgreSQL's text.
        greatest_key: String,
    },
}

/// What the next sync is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The table is copied whole.
    Copy {
        /// Initial or full refresh.
        sync_type: SyncType,
        /// Why, as the second half of a sentence.
        reason: String,
        /// Whether nobody has asked for it, so that it must not be much smaller.
        unasked: bool,
    },
    /// Rows that changed since are merged.
    Merge {
        /// How far the copy has come.
        progress: Box<Progress>,
        /// Why, as the second half of a sentence.
        reason: String,
        /// What is done to the destination's columns first, if anything.
        evolution: Option<Box<Evolution>>,
    },
}

impl Decision {
    fn initial(reason: impl Into<String>) -> Self {
        Self::Copy { sync_type: SyncType::Initial, reason: reason.into(), unasked: true }
    }
}

/// Decides. `full_refresh` is the flag.
///
/// Fails where something of somebody else's is in the way, and where the schema changed and the
/// rule says to stop then.
pub fn decide(
    situation: &Situation,
    remembered: &Remembered,
    full_refresh: bool,
) -> Result<Decision> {
    check_destination(situation)?;
    check_staging(situation, remembered)?;
    let asked = match (full_refresh, situation.rule.mode) {
        (true, _) => Some("--full-refresh was given"),
        (false, Mode::FullRefresh) => Some("its mode is full-refresh"),
        (false, Mode::IncrementalDeduped | Mode::IncrementalAppend | Mode::Diff) => None,
    };
    if let Some(reason) = asked {
        let reason = reason.to_owned();
        return Ok(Decision::Copy { sync_type: SyncType::FullRefresh, reason, unasked: false });
    }
    let Some(destination) = situation.destination else {
        return Ok(Decision::initial("there is no such table at the destination"));
    };
    check_sight(situation)?;
    let missing = match (situation.staging, remembered) {
        _ if situation.keeps_versions() => None,
        (None, _) => Some(format!("there is no staging table `{}`", situation.staging_name().name)),
        (Some(_), Remembered::Nothing(reason)) => Some(reason.clone()),
        _ => None,
    };
    if let Some(reason) = missing {
        return Ok(Decision::initial(reason));
    }
    let (progress, outdated) = match remembered {
        Remembered::Nothing(_) => (Progress::default(), None),
        Remembered::Receipt(receipt) => {
            (receipt.progress.clone(), receipt.origin.outdated_by(situation.origin))
        }
        Remembered::Predecessor { greatest_key } => {
            let mut progress = Progress::default();
            progress.watermark.start = Some(greatest_key.clone());
            (progress, None)
        }
    };
    let schema_change = schema_change(situation.shape, &destination.columns);
    if let Some(change) = &schema_change
        && situation.rule.on_schema_change == OnSchemaChange::Fail
    {
        return Err(Error::table(format!("the schema changed: {change}")).hint(format!(
            "run `incremental-replication sync --table {} --full-refresh`, or set \
             \"on_schema_change\" to \"resync\"",
            shell_quoted(&situation.rule.name)
        )));
    }
    let changed = outdated.or(schema_change);
    let evolution = match (&changed, remembered) {
        (Some(_), Remembered::Receipt(receipt))
            if situation.rule.on_schema_change == OnSchemaChange::Evolve =>
        {
            evolution(situation, &receipt.origin).map(Box::new)
        }
        _ => None,
    };
    match (changed, evolution) {
        (Some(reason), _) if situation.keeps_versions() => {
            Err(would_lose_versions(situation, remembered, &reason))
        }
        (Some(reason), None) => Ok(Decision::initial(match situation.rule.on_schema_change {
            OnSchemaChange::Evolve => format!("{reason}, which cannot be followed in place"),
            OnSchemaChange::Resync | OnSchemaChange::Fail => reason,
        })),
        (_, evolution) => {
            tells_keys_apart(situation, destination)?;
            let reason = reason(situation, remembered, &progress);
            Ok(Decision::Merge { progress: Box::new(progress), reason, evolution })
        }
    }
}

/// What somebody should do about a copy that was taken over.
#[must_use]
pub fn taken_over(greatest_key: &str) -> String {
    format!(
        "what the predecessor has missed below {greatest_key} is not read again: run \
         `incremental-replication verify` after this sync; its --repair brings what is missing, and \
         removes what the source no longer has, or let one sync have a \"lookback\" that reaches so far"
    )
}

/// What a new copy replaces, as the second half of a sentence; none where it replaces no row.
#[must_use]
pub fn replaces(situation: &Situation) -> Option<String> {
    let there = situation.destination.filter(|there| !there.has_no_row())?;
    let rows = match there.estimated_rows {
        0 => "rows".to_owned(),
        rows => format!("about {}", counted(rows, "row")),
    };
    Some(format!("replaces `{}`, which has {rows}", situation.table.plain()))
}

/// The same and the remedy where that may be somebody else's: a table without a receipt, or a copy of
/// another source.
#[must_use]
pub fn replaces_anothers(
    situation: &Situation,
    pipeline: &str,
    (remembered, receipt): (&Remembered, Option<&Receipt>),
) -> Option<(String, &'static str)> {
    let replaces = replaces(situation)?;
    let receipt = match (receipt, remembered) {
        (None, Remembered::Receipt(receipt)) => Some(&**receipt),
        (None, Remembered::Predecessor { .. }) => return None,
        (receipt, _) => receipt,
    };
    let Some(receipt) = receipt else {
        let hint = "if it is not a copy, rename it, or give the copy a \"destination_name\"";
        return Some((format!("{replaces} and no receipt"), hint));
    };
    let copied = &receipt.origin.source;
    let anothers = !copied.may_be(&situation.origin.source);
    anothers.then(|| {
        let from = copied.described();
        let why = if receipt.pipeline == pipeline {
            format!("the source is {} now and was {from}", situation.origin.source.described())
        } else {
            format!("the pipeline `{}` has copied {from}", receipt.pipeline)
        };
        let said = format!("{replaces}: {why}");
        (
            said,
            "give one of the two copies a \"destination_name\", or another DEST_SCHEMA; where the source is the \
             same, upgraded or moved, `sync --source-moved` goes on with the copy",
        )
    })
}

/// Fails where a merge, for which any unique index on the unique columns serves, would go by one that
/// takes two keys of the source for one.
fn tells_keys_apart(situation: &Situation, destination: &DestinationTable) -> Result<()> {
    let key = &situation.shape.unique_columns;
    let coarse = destination.unique_indexes.iter().find(|index| index.equates && index.covers(key));
    coarse.map_or(Ok(()), |index| {
        Err(Error::table(format!(
            "the unique index `{}` of `{}` at the destination takes different values for equal, by \
             its collation: rows would be merged over others",
            index.name,
            situation.table.plain()
        ))
        .hint("drop it, or make it anew with a collation that is deterministic"))
    })
}

fn reason(situation: &Situation, remembered: &Remembered, progress: &Progress) -> String {
    match (remembered, &progress.watermark.start) {
        (Remembered::Nothing(why), _) => why.clone(),
        (Remembered::Predecessor { .. }, Some(key)) => {
            format!("taken over from the predecessor at {key}")
        }
        (_, Some(key)) => format!("from {key}"),
        (_, None) if situation.rule.mode == Mode::Diff => "by digests".to_owned(),
        (_, None) if situation.shape.key.is_none() => "by xmin".to_owned(),
        (_, None) => "there is no watermark yet".to_owned(),
    }
}

/// Fails where there is nothing at the destination that could be compared with the source.
pub fn ready_to_compare(situation: &Situation) -> Result<()> {
    let first = |error: Error| {
        error.hint(format!(
            "run `incremental-replication sync --table {}` first",
            shell_quoted(&situation.rule.name)
        ))
    };
    let Some(destination) = situation.destination else {
        return Err(first(Error::table(format!(
            "there is no table `{}` at the destination",
            situation.table.plain()
        ))));
    };
    check_destination(situation)?;
    check_sight(situation)?;
    let marked = destination.columns.iter().any(|column| column.name == DELETED_AT);
    let unmarked = (situation.shape.marks && !marked)
        .then(|| format!("the destination has no column `{DELETED_AT}`"));
    match schema_change(situation.shape, &destination.columns).or(unmarked) {
        Some(change) => Err(first(Error::table(format!("the schema changed: {change}")))),
        None => Ok(()),
    }
}

/// A new copy of a table that keeps versions is only made where it was asked for.
fn would_lose_versions(situation: &Situation, remembered: &Remembered, reason: &str) -> Error {
    let moved = match remembered {
        Remembered::Receipt(receipt) if !receipt.origin.is_of_the_same_table(situation.origin) => {
            MOVED
        }
        _ => "",
    };
    Error::table(format!(
        "a new copy is called for, and would lose the versions that only the destination has: \
         {reason}"
    ))
    .hint(format!(
        "{moved}rename `{}` at the destination to keep them, or run `incremental-replication sync --table \
         {} --full-refresh` to give them up",
        situation.table.plain(),
        situation.rule.name
    ))
}

/// A copy of a source that was moved is to go on, and cannot.
#[must_use]
pub fn cannot_follow(reason: &str) -> Error {
    Error::table(format!(
        "a new copy is called for, and would lose what only the destination has: {reason}"
    ))
    .hint(
        "let the rule be what it was, and move the source before its tables are altered; without --source-moved \
         the table is copied whole",
    )
}

/// What helps where the source has become another, as after an upgrade.
const MOVED: &str = "where the source is the same, upgraded or moved, run `incremental-replication sync \
    --source-moved`, which goes on with the copy; else ";

fn check_destination(situation: &Situation) -> Result<()> {
    let Some(destination) = situation.destination else { return Ok(()) };
    let name = situation.table.plain();
    if destination.kind != Kind::Table {
        return Err(in_the_way(&name, destination));
    }
    if is_ours(destination) {
        return Err(Error::table(format!(
            "`{name}` at the destination is the staging table of another table"
        ))
        .hint(REMEDY));
    }
    if destination.inherits {
        return Err(Error::table(format!(
            "`{name}` at the destination is a partition, or inherits, or is inherited from"
        ))
        .hint(REMEDY));
    }
    Ok(())
}

/// What is hidden from us at the destination can neither be merged with nor proved.
fn check_sight(situation: &Situation) -> Result<()> {
    match situation.destination {
        Some(destination) if destination.row_security => Err(Error::table(format!(
            "row-level security hides rows of `{}` from the destination's user",
            situation.table.plain()
        ))
        .hint(
            "set it to NO FORCE ROW LEVEL SECURITY: others than the owner are bound by it all the same; or \
             give the user BYPASSRLS",
        )),
        _ => Ok(()),
    }
}

fn check_staging(situation: &Situation, remembered: &Remembered) -> Result<()> {
    let Some(staging) = situation.staging else { return Ok(()) };
    let name = situation.staging_name().plain();
    if staging.kind != Kind::Table {
        return Err(in_the_way(&name, staging));
    }
    let doubted = match remembered {
        Remembered::Nothing(_) => true,
        Remembered::Receipt(_) => !staging.unlogged,
        Remembered::Predecessor { .. } => false,
    };
    if staging.bytes > 0 && !is_ours(staging) && doubted {
        return Err(Error::table(format!(
            "`{name}` at the destination is needed as the staging table of `{}`, but holds rows \
             that this tool did not put there",
            situation.table.plain()
        ))
        .hint(REMEDY));
    }
    Ok(())
}

/// Whether this tool has made a table to stage rows in.
/// Whether it is a staging table of ours, by what it says.
pub(super) fn is_ours(table: &DestinationTable) -> bool {
    table.unlogged && table.comment.as_deref() == Some(crate::sql::ddl::STAGING_COMMENT)
}

const REMEDY: &str = "drop it or rename it, or give the table a \"destination_name\"";

fn in_the_way(name: &str, relation: &DestinationTable) -> Error {
    Error::table(format!("`{name}` at the destination is {}", relation.kind.described()))
        .hint(REMEDY)
}

/// How the destination's columns differ from what they shall be, spelled out as by diff: a line
/// each, `-` for what is there and `+` for what shall be.
#[must_use]
pub fn schema_difference(shape: &Shape, there: &[Column]) -> Vec<String> {
    let wanted = shape.destination_columns();
    let said = |sign: char, column: &Column| {
        let refuses = if column.not_null { " NOT NULL" } else { "" };
        format!("{sign} {} {}{refuses}", identifier(&column.name), column.data_type)
    };
    let named = |columns: &[Column], name: &str| -> Option<Column> {
        columns.iter().find(|column| column.name == name).cloned()
    };
    let mut lines = Vec::new();
    for column in there {
        match named(&wanted, &column.name) {
            None => lines.push(said('-', column)),
            Some(other)
                if other.not_null != column.not_null
                    || !mapping::same_type(&column.data_type, &other.data_type) =>
            {
                lines.extend([said('-', column), said('+', &other)]);
            }
            Some(_) => {}
        }
    }
    let new = wanted.iter().filter(|column| named(there, &column.name).is_none());
    lines.extend(new.map(|column| said('+', column)));
    lines
}

/// The first difference between what the destination shall look like and what it looks like, as
/// the second half of a sentence. NOT NULL is not among them: it is changed in place.
pub(super) fn schema_change(shape: &Shape, there: &[Column]) -> Option<String> {
    let wanted = shape.destination_columns();
    for column in &wanted {
        match there.iter().find(|other| other.name == column.name) {
            // It is added in place.
            None if shape.marks && column.name == DELETED_AT => {}
            None => return Some(format!("the destination has no column `{}`", column.name)),
            Some(other) if !mapping::same_type(&other.data_type, &column.data_type) => {
                return Some(format!(
                    "the destination's column `{}` is {} and must be {}",
                    column.name, other.data_type, column.data_type
                ));
            }
            Some(_) => {}
        }
    }
    let extra = there.iter().find(|other| wanted.iter().all(|column| column.name != other.name))?;
    Some(format!("the destination has a column `{}` that the source has not", extra.name))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{APPENDED, COPIED, MARKED, MERGED, Setting};
    use super::*;
    use crate::table::SourceTable;

    fn receipt(situation: &Situation, start: Option<&str>) -> Remembered {
        let mut receipt = super::super::tests::receipt(situation);
        receipt.progress.watermark.start = start.map(str::to_owned);
        Remembered::Receipt(Box::new(receipt))
    }

    /// The decision in words: the kind of sync and why, or the error.
    fn decided(situation: &Situation, remembered: &Remembered, full_refresh: bool) -> String {
        match decide(situation, remembered, full_refresh) {
            Ok(Decision::Copy { sync_type, reason, .. }) => {
                format!("{}: {reason}", sync_type.name())
            }
            Ok(Decision::Merge { reason, .. }) => format!("merge: {reason}"),
            Err(error) => format!("error: {}", error.message),
        }
    }

    fn nothing() -> Remembered {
        Remembered::Nothing("there is no receipt".to_owned())
    }

    #[test]
    fn a_table_is_merged_from_where_the_last_sync_came_to() {
        let merged = |rule: &str, start: Option<&str>| {
            let setting = Setting::new(rule, true);
            let staging = setting.staging();
            let situation = Situation { staging: Some(&staging), ..setting.situation() };
            decided(&situation, &receipt(&situation, start), false)
        };
        assert_eq!(merged(MERGED, Some("7")), "merge: from 7");
        assert_eq!(merged(MERGED, None), "merge: there is no watermark yet");
        assert_eq!(merged(r#""mode": "diff""#, None), "merge: by digests");
        assert_eq!(merged(r#""replication_key": "xmin""#, None), "merge: by xmin");
        let setting = Setting::new(MERGED, true);
        let staging = setting.staging();
        let situation = Situation { staging: Some(&staging), ..setting.situation() };
        let predecessor = Remembered::Predecessor { greatest_key: "9".to_owned() };
        let taken = decided(&situation, &predecessor, false);
        assert_eq!(taken, "merge: taken over from the predecessor at 9");
        let Ok(Decision::Merge { progress, .. }) = decide(&situation, &predecessor, false) else {
            panic!("a merge");
        };
        assert_eq!(progress.watermark.start.as_deref(), Some("9"));
    }

    #[test]
    fn a_table_is_copied_where_that_was_asked_for_or_something_is_missing() {
        let setting = Setting::new(MERGED, true);
        let staging = setting.staging();
        let whole = Situation { staging: Some(&staging), ..setting.situation() };
        let known = receipt(&whole, Some("7"));
        assert_eq!(decided(&whole, &known, true), "full-refresh: --full-refresh was given");
        assert_eq!(decided(&whole, &nothing(), false), "initial: there is no receipt");
        let alone = setting.situation();
        assert_eq!(decided(&alone, &known, false), "initial: there is no staging table `t_stg`");
        let absent = Situation { destination: None, ..whole };
        let reason = "initial: there is no such table at the destination";
        assert_eq!(decided(&absent, &known, false), reason);
        let copied = Setting::new(COPIED, true);
        let reason = "full-refresh: its mode is full-refresh";
        assert_eq!(decided(&copied.situation(), &nothing(), false), reason);
    }

    #[test]
    fn versions_are_kept_whatever_is_forgotten_and_never_copied_over_unasked() {
        let mut setting = Setting::new(APPENDED, true);
        assert_eq!(decided(&setting.situation(), &nothing(), false), "merge: there is no receipt");
        setting.destination.columns.remove(1);
        let refused = decided(&setting.situation(), &nothing(), false);
        assert!(
            refused.starts_with("error: a new copy is called for, and would lose"),
            "{refused}"
        );
        assert!(refused.ends_with("the destination has no column `a`"), "{refused}");
        let asked = decided(&setting.situation(), &nothing(), true);
        assert_eq!(asked, "full-refresh: --full-refresh was given");
    }

    #[test]
    fn a_change_of_the_schema_is_a_new_copy_or_an_error_as_the_rule_wants_it() {
        let changed = |rule: &str, change: fn(&mut Vec<Column>)| {
            let mut setting = Setting::new(rule, true);
            change(&mut setting.destination.columns);
            let staging = setting.staging();
            let situation = Situation { staging: Some(&staging), ..setting.situation() };
            decided(&situation, &receipt(&situation, Some("7")), false)
        };
        let missing = |columns: &mut Vec<Column>| drop(columns.remove(1));
        assert_eq!(changed(MERGED, missing), "initial: the destination has no column `a`");
        let retyped = |columns: &mut Vec<Column>| "bigint".clone_into(&mut columns[0].data_type);
        assert_eq!(
            changed(MERGED, retyped),
            "initial: the destination's column `id` is bigint and must be integer"
        );
        let extra = |columns: &mut Vec<Column>| {
            columns.push(Column { name: "z".to_owned(), ..columns[1].clone() });
        };
        assert_eq!(
            changed(MERGED, extra),
            "initial: the destination has a column `z` that the source has not"
        );
        assert_eq!(
            changed(&format!(r#"{MERGED}, "on_schema_change": "fail""#), extra),
            "error: the schema changed: the destination has a column `z` that the source has not"
        );
        // Both are put right in place.
        let nullable = |columns: &mut Vec<Column>| columns[0].not_null = false;
        assert_eq!(changed(MERGED, nullable), "merge: from 7");
        let unmarked = |columns: &mut Vec<Column>| drop(columns.pop());
        assert_eq!(changed(MARKED, unmarked), "merge: from 7");
        assert_eq!(
            changed(MARKED, |columns| drop(columns.remove(4))),
            "initial: the destination has no column `d`"
        );
    }

    #[test]
    fn columns_are_followed_in_place_where_the_rule_says_so_and_it_is_right() {
        let told = |rule: &str, change: fn(&mut SourceTable)| {
            let was = Setting::new(MERGED, true);
            let now = Setting::changed(&format!("{MERGED}{rule}"), change);
            let staging = now.staging();
            let (destination, staging) = (Some(&was.destination), Some(&staging));
            let situation = Situation { destination, staging, ..now.situation() };
            let known = receipt(&was.situation(), Some("7"));
            match decide(&situation, &known, false) {
                Ok(Decision::Merge { evolution: Some(_), .. }) => "followed",
                Ok(Decision::Merge { evolution: None, .. }) => "merged",
                Ok(Decision::Copy { .. }) => "copied",
                Err(_) => "refused",
            }
        };
        let evolve = r#", "on_schema_change": "evolve""#;
        assert_eq!(told(evolve, |source| drop(source.columns.pop())), "followed");
        assert_eq!(told("", |source| drop(source.columns.pop())), "copied");
        assert_eq!(told(evolve, |_| {}), "merged");
        let retyped = |source: &mut SourceTable| {
            "xml".clone_into(&mut source.columns[4].data_type.declared);
        };
        assert_eq!(told(evolve, retyped), "copied");
    }

    #[test]
    fn what_somebody_else_put_there_is_never_touched() {
        let mut setting = Setting::new(MERGED, true);
        let staging = setting.staging();
        let beside = |staging: &DestinationTable, remembered: &Remembered| {
            let situation = Situation { staging: Some(staging), ..setting.situation() };
            decided(&situation, remembered, false)
        };
        let known = receipt(&setting.situation(), Some("7"));
        let written = DestinationTable { bytes: 1, ..staging.clone() };
        let theirs = DestinationTable { comment: None, ..written.clone() };
        assert_eq!(beside(&written, &nothing()), "initial: there is no receipt");
        assert_eq!(beside(&theirs, &known), "merge: from 7");
        let logged = DestinationTable { unlogged: false, ..theirs.clone() };
        assert!(beside(&logged, &known).contains("holds rows that this tool did not put there"));
        let predecessor = Remembered::Predecessor { greatest_key: "7".to_owned() };
        let taken_over = "merge: taken over from the predecessor at 7";
        assert_eq!(beside(&logged, &predecessor), taken_over);
        let empty = DestinationTable { bytes: 0, ..theirs.clone() };
        assert_eq!(beside(&empty, &nothing()), "initial: there is no receipt");
        let refused = beside(&theirs, &nothing());
        assert!(refused.contains("holds rows that this tool did not put there"), "{refused}");
        let view = DestinationTable { kind: Kind::View, ..staging };
        assert_eq!(beside(&view, &known), "error: `copies.t_stg` at the destination is a view");
        let staging = setting.staging();
        let situation = Situation { destination: Some(&staging), ..setting.situation() };
        let refused = decided(&situation, &nothing(), true);
        assert!(refused.contains("is the staging table of another table"), "{refused}");
        setting.destination.inherits = true;
        let refused = decided(&setting.situation(), &known, true);
        assert!(refused.contains("is a partition, or inherits"), "{refused}");
        setting.destination.kind = Kind::View;
        let refused = decided(&setting.situation(), &known, true);
        assert_eq!(refused, "error: `copies.t` at the destination is a view");
    }

    #[test]
    fn only_a_table_of_the_right_shape_is_compared() {
        let mut setting = Setting::new(MARKED, true);
        let refused = |situation: &Situation| {
            ready_to_compare(situation).map_err(|error| error.message).err()
        };
        assert_eq!(refused(&setting.situation()), None);
        let absent = Situation { destination: None, ..setting.situation() };
        let said = "there is no table `copies.t` at the destination";
        assert_eq!(refused(&absent).as_deref(), Some(said));
        setting.destination.columns.pop();
        let said = "the schema changed: the destination has no column `_deleted_at`";
        assert_eq!(refused(&setting.situation()).as_deref(), Some(said));
        let mut plain = Setting::new(MERGED, true);
        assert_eq!(refused(&plain.situation()), None);
        plain.destination.columns.pop();
        let said = "the schema changed: the destination has no column `d`";
        assert_eq!(refused(&plain.situation()).as_deref(), Some(said));
    }

    #[test]
    fn a_difference_of_schemas_is_spelled_out_as_by_diff() {
        let setting = Setting::new(MERGED, true);
        let shape = setting.situation().shape;
        let mut there = setting.destination.columns.clone();
        assert_eq!(schema_difference(shape, &there), Vec::<String>::new());
        there[0].not_null = false;
        there[1].data_type = "bigint".to_owned();
        there[2].name = "z".to_owned();
        assert_eq!(
            schema_difference(shape, &there),
            [
                r#"- "id" integer"#,
                r#"+ "id" integer NOT NULL"#,
                r#"- "a" bigint"#,
                r#"+ "a" text"#,
                r#"- "z" text"#,
                r#"+ "b" text"#,
            ]
        );
    }
}
