//! The merge of what changed: into the staging table, from there by the unique columns.

use super::decision::is_ours;
use super::initial::{own_index_in_place, write_receipt};
use super::shape::DELETED_AT_TYPE;
use super::{
    Evolution, Load, Outcome, Plan, Reading, Reconciliation, Shortcut, Since, Situation, Step,
    SyncType,
};
use crate::fault::{Fault, planted};
use crate::receipt::Receipt;
use crate::sql::copy::{Selection, copy_in};
use crate::sql::{ddl, merge, session};
use crate::table::{Column, DELETED_AT, DestinationTable};

/// What a merge is made from beside the situation.
#[derive(Clone, Debug)]
pub struct Merge<'a> {
    /// Why, as the second half of a sentence.
    pub reason: String,
    /// Which rows are read; none where only what differs is.
    pub since: Option<Since>,
    /// What the two sides find out about each other's rows, if anything.
    pub reconciliation: Option<Reconciliation>,
    /// What is done to the destination's columns first; the situation tells of them as they are then.
    pub evolution: Option<&'a Evolution>,
    /// The receipt that it leaves.
    pub receipt: &'a Receipt,
    /// Whether the destination holds a receipt that says as much, so that there is nothing to
    /// write where no row travels.
    pub known: bool,
    /// Columns that refuse NULL at the source and hold some at the destination, in rows that the
    /// source no longer has or that are about to be merged.
    pub holding_null: &'a [String],
}

/// Plans a merge.
#[must_use]
pub fn incremental(situation: &Situation, merge: Merge) -> Plan {
    let Merge { reason, since, reconciliation, evolution, receipt, known, holding_null } = merge;
    let mut changes = evolution.map_or_else(Vec::new, |evolution| evolution.steps(situation));
    changes.extend(in_place_changes(situation));
    let new_not_nulls = columns_to_refuse_null(situation);
    // Where no row travels, those that hold NULL will go on holding it.
    let hopeless = new_not_nulls.iter().all(|column| holding_null.contains(column));
    let nothing_if_empty = known && changes.is_empty() && hopeless;
    let mut before = vec![Step::destination("begin a transaction", session::BEGIN)];
    before.extend(changes);
    if planted(Fault::ReceiptOutside) {
        before.insert(0, write_receipt(situation, receipt));
    }
    let Since { warnings, mut notes, details, .. } = since.clone().unwrap_or_default();
    notes.extend(evolution.map(Evolution::described));
    // The snapshot ends as soon as the source has nothing more to say in it.
    let end = situation.end_of_snapshot();
    let (early, late) = if reconciliation.is_none() { (end, None) } else { (None, end) };
    let load = since.as_ref().map(|since| newer_rows(situation, since, early));
    let merged = load.as_ref().map_or_else(Vec::new, |_| merge_and_empty(situation));
    let (of_each_part, after) =
        if merges_in_parts(situation) { (merged, Vec::new()) } else { (Vec::new(), merged) };
    let mut finish: Vec<Step> = late.into_iter().collect();
    finish.extend(new_not_nulls.iter().map(|column| refuse_null(situation, column)));
    finish.push(write_receipt(situation, receipt));
    finish.push(Step::destination("commit", session::COMMIT));
    Plan {
        sync_type: SyncType::Incremental,
        reason,
        warnings,
        notes,
        details,
        before,
        removal: None,
        load,
        of_each_part,
        after,
        reconciliation,
        finish,
        nothing_if_empty,
        nothing_if_same: nothing_if_empty && will_be_read_again(situation),
    }
}

/// Whether the next sync reads what this one has read, whatever the receipt says, and nobody else does
/// anything with it: elsewhere a receipt tells which rows need not be read again.
fn will_be_read_again(situation: &Situation) -> bool {
    situation.source.lacks_xmin().is_some()
        && situation.destination.is_some_and(|there| !there.has_triggers)
}

/// The way of the rows that changed.
fn newer_rows(situation: &Situation, since: &Since, end_of_snapshot: Option<Step>) -> Load {
    let shape = situation.shape;
    let selection = since.selection(situation);
    let staging = situation.staging_name();
    let mut last: Vec<Step> = situation.undisturbed().into_iter().collect();
    if !shape.unique_at_source {
        last.push(no_shared_key(&selection, &shape.unique_columns));
    }
    last.extend(end_of_snapshot);
    Load {
        from: Reading::Copy(selection.copy_out(shape.format)),
        rows: selection,
        first: leftovers(situation),
        into: copy_in(&staging, &shape.names(), shape.format, false),
        format: shape.format,
        last,
        hint: super::shape::filter_hint(situation.rule),
    }
}

fn merge_and_empty(situation: &Situation) -> Vec<Step> {
    let mut steps = merge_steps(situation);
    if !planted(Fault::StagingKept) {
        steps.push(empty_staging(situation, false));
    }
    steps
}

/// Empties the staging table. A TRUNCATE makes new files and looks through all of `shared_buffers`
/// for the old ones, which takes longer than the deletion of some thousand rows, and it would wait
/// for whoever is reading the table: a backup reads them all, for hours. `of_few` tries it for few rows
/// as well.
pub(super) fn empty_staging(situation: &Situation, of_few: bool) -> Step {
    let name = situation.staging_name();
    let (lock, sql) = (session::lock_at_once(&name), ddl::truncate(&name));
    Step::destination("empty the staging table", ddl::delete_all(&name)).shortcut(Shortcut {
        lock,
        sql,
        of_few,
    })
}

/// Whether rows may be merged before all are there.
///
/// Not where rows may share their unique columns, which shows when all are there, nor where the
/// source may have the same version twice, nor where a constraint or a trigger that somebody made
/// at the destination looks at the table after each statement.
fn merges_in_parts(situation: &Situation) -> bool {
    situation.shape.unique_at_source
        && merges_by_unique_index(situation)
        && situation.destination.is_some_and(|there| !there.has_triggers)
}

/// The step that fails where rows that are read share their unique columns.
pub(super) fn no_shared_key(selection: &Selection, unique_columns: &[String]) -> Step {
    let table = selection.table.plain();
    Step::source(
        &format!("merge `{table}`: its unique columns are not unique at the source"),
        selection.shared_key(unique_columns),
    )
    .result(Outcome::NoRow)
    .hint(
        "name columns in \"unique_cols\" that identify a row, or set \"mode\" to \"full-refresh\"",
    )
}

pub(super) fn merge_steps(situation: &Situation) -> Vec<Step> {
    let names = situation.shape.names();
    let staging = situation.staging_name();
    let key = situation.shape.key.as_ref().map(|key| &*key.column);
    let unique = |key: &str| situation.shape.unique_columns.iter().any(|column| column == key);
    let merge = merge::Merge {
        table: situation.table,
        staging: &staging,
        columns: &names,
        unique_columns: &situation.shape.unique_columns,
        nullable_keys: situation.shape.nullable_keys,
        replication_key: key.filter(|key| names.contains(key) && !unique(key)),
        marks: situation.shape.marks,
    };
    let statements = if merges_by_unique_index(situation) {
        vec![merge.by_unique_index()]
    } else if situation.keeps_versions() {
        vec![merge.new_versions()]
    } else if situation.shape.unique_columns.is_empty() {
        vec![merge.all()]
    } else {
        merge.by_comparison().to_vec()
    };
    let purpose = format!("merge the staged rows into `{}`", situation.table.plain());
    let step = |sql| Step::destination(&purpose, sql).result(Outcome::RowsMerged);
    statements.into_iter().map(step).collect()
}

fn merges_by_unique_index(situation: &Situation) -> bool {
    situation.merges_by_index()
        && !situation.keeps_versions()
        && !situation.shape.unique_columns.is_empty()
}

/// What must be put right before rows can be staged and merged.
pub(super) fn in_place_changes(situation: &Situation) -> Vec<Step> {
    let mut steps = Vec::new();
    let table = situation.table;
    let marked = |there: &DestinationTable| there.columns.iter().any(|c| c.name == DELETED_AT);
    if situation.shape.marks && !situation.destination.is_some_and(marked) {
        steps.push(Step::destination(
            &format!("add the column `{DELETED_AT}`"),
            ddl::add_column(table, DELETED_AT, DELETED_AT_TYPE),
        ));
    }
    for (wanted, there) in matched(situation) {
        if there.not_null && !wanted.not_null && !planted(Fault::NotNullKept) {
            steps.push(Step::destination(
                &format!("let `{}` hold NULL", wanted.name),
                ddl::drop_not_null(table, &wanted.name),
            ));
        }
    }
    if merges_by_unique_index(situation) && !has_fitting_index(situation) {
        steps.extend(own_index_in_place(situation));
    }
    steps.extend(make_staging(situation));
    steps
}

fn has_fitting_index(situation: &Situation) -> bool {
    let shape = situation.shape;
    situation.destination.is_some_and(|there| {
        there.unique_indexes.iter().any(|index| {
            index.immediate
                && index.covers(&shape.unique_columns)
                && (index.nulls_not_distinct || !shape.nullable_keys)
        })
    })
}

/// The columns that refuse NULL at the source and not at the destination.
#[must_use]
pub fn columns_to_refuse_null(situation: &Situation) -> Vec<String> {
    matched(situation)
        .filter(|(wanted, there)| wanted.not_null && !there.not_null)
        .map(|(wanted, _)| wanted.name.clone())
        .collect()
}

/// Rows that were deleted at the source and kept here may stand in the way.
fn refuse_null(situation: &Situation, column: &str) -> Step {
    let (table, purpose) = (situation.table, format!("make `{column}` refuse NULL"));
    Step::destination(&purpose, ddl::set_not_null(table, column))
        .unless(ddl::holds_null(table, column), "rows that the source no longer has hold it")
}

fn matched<'a>(situation: &Situation<'a>) -> impl Iterator<Item = (&'a Column, &'a Column)> {
    let there = situation.destination.map_or(&[][..], |table| &table.columns);
    situation.shape.columns.iter().filter_map(move |wanted| {
        there.iter().find(|column| column.name == wanted.name).map(|column| (wanted, column))
    })
}

/// Makes the staging table, or makes it fit, as needed.
pub(super) fn make_staging(situation: &Situation) -> Vec<Step> {
    let name = situation.staging_name();
    let wanted = &situation.shape.columns;
    let purpose = format!("make the staging table `{}`", name.plain());
    let create = Step::destination(&purpose, ddl::create_staging(&name, wanted));
    let Some(staging) = situation.staging else { return vec![create] };
    if fits(staging, wanted) {
        let purpose = format!("tell whose the staging table `{}` is", name.plain());
        let comment = Step::destination(&purpose, ddl::comment_staging(&name));
        return if is_ours(staging) { Vec::new() } else { vec![comment] };
    }
    vec![Step::destination(&purpose, ddl::drop_table(&name)), create]
}

fn fits(staging: &DestinationTable, wanted: &[Column]) -> bool {
    let same =
        |one: &Column, other: &Column| one.name == other.name && one.data_type == other.data_type;
    staging.unlogged
        && staging.columns.len() == wanted.len()
        && staging.columns.iter().zip(wanted).all(|(one, other)| same(one, other))
        && staging.columns.iter().all(|column| !column.not_null)
}

/// How large the file of an empty staging table may be. Each merge reads it whole, and the planner
/// takes it for full of rows.
const MOST_KEPT_BYTES: u64 = 256 << 10;

/// Sees to it that a staging table that fits is empty, and its file small.
pub(super) fn leftovers(situation: &Situation) -> Option<Step> {
    let staging = situation.staging.filter(|staging| fits(staging, &situation.shape.columns))?;
    match staging.bytes {
        0 => None,
        1..=MOST_KEPT_BYTES => Some(Step { shortcut: None, ..empty_staging(situation, false) }),
        _ => Some(empty_staging(situation, true)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{APPENDED, COPIED, MARKED, MERGED, Setting, first_words, receipt};
    use super::*;
    use crate::table::own_index_name;

    /// A merge that reads nothing, and after which the destination knows nothing new.
    fn bare(receipt: &Receipt) -> Merge<'_> {
        Merge {
            reason: String::new(),
            since: None,
            reconciliation: None,
            evolution: None,
            receipt,
            known: true,
            holding_null: &[],
        }
    }

    #[test]
    fn nothing_is_written_where_no_row_travels_and_nothing_is_to_be_put_right() {
        let idle = |change: fn(&mut DestinationTable), known, holding_null: &[&str]| {
            let mut setting = Setting::new(MERGED, true);
            change(&mut setting.destination);
            let staging = setting.staging();
            let situation = Situation { staging: Some(&staging), ..setting.situation() };
            let holding_null: Vec<String> =
                holding_null.iter().map(|&name| name.to_owned()).collect();
            let receipt = receipt(&situation);
            let merge = Merge { known, holding_null: &holding_null, ..bare(&receipt) };
            incremental(&situation, merge).nothing_if_empty
        };
        assert!(idle(|_| {}, true, &[]));
        assert!(!idle(|_| {}, false, &[]), "the receipt says more");
        assert!(!idle(|there| there.unique_indexes.clear(), true, &[]), "the index is to be made");
        let nullable = |there: &mut DestinationTable| there.columns[0].not_null = false;
        assert!(!idle(nullable, true, &[]), "it could refuse NULL");
        assert!(idle(nullable, true, &["id"]), "it goes on holding NULL");
    }

    #[test]
    fn what_stands_in_the_way_of_a_merge_is_put_right_first() {
        let changed = |rule, change: fn(&mut Setting)| {
            let mut setting = Setting::new(rule, rule != COPIED);
            change(&mut setting);
            let staging = setting.staging();
            let situation = Situation { staging: Some(&staging), ..setting.situation() };
            first_words(&in_place_changes(&situation))
        };
        let unindexed = |setting: &mut Setting| setting.destination.unique_indexes.clear();
        assert_eq!(changed(MERGED, |_| {}), "");
        assert_eq!(
            changed(MERGED, |setting| setting.destination.columns[1].not_null = true),
            "ALTER"
        );
        assert_eq!(changed(MERGED, |setting| setting.shape.columns[1].not_null = true), "");
        assert_eq!(changed(MARKED, |_| {}), "");
        let unmarked = |setting: &mut Setting| drop(setting.destination.columns.pop());
        assert_eq!(changed(MARKED, unmarked), "ALTER", "it lacks the time of the deletion");
        assert_eq!(changed(MERGED, unindexed), "CREATE ALTER");
        assert_eq!(changed(APPENDED, unindexed), "", "no key is unique");
        assert_eq!(changed(COPIED, unindexed), "", "there is no key");
        let elsewhere = |setting: &mut Setting| {
            "a".clone_into(&mut setting.destination.unique_indexes[0].columns[0]);
        };
        assert_eq!(changed(MERGED, elsewhere), "CREATE ALTER");
        let deferrable = |setting: &mut Setting| {
            setting.destination.unique_indexes[0].immediate = false;
        };
        assert_eq!(changed(MERGED, deferrable), "", "it stands in the way of any other");
        let nullable = |setting: &mut Setting| setting.shape.nullable_keys = true;
        assert_eq!(changed(MERGED, nullable), "CREATE ALTER");
        let own = |setting: &mut Setting| {
            setting.shape.nullable_keys = true;
            setting.destination.unique_indexes[0].name = own_index_name("t");
        };
        assert_eq!(changed(MERGED, own), "DROP CREATE ALTER", "it is in the way of its successor");
        let equal = |setting: &mut Setting| {
            setting.shape.nullable_keys = true;
            setting.destination.unique_indexes[0].nulls_not_distinct = true;
        };
        assert_eq!(changed(MERGED, equal), "");
    }

    #[test]
    fn staged_rows_are_merged_as_the_rule_and_the_server_allow() {
        let setting = Setting::new(MERGED, true);
        let merged = |setting: &Setting, destination_version| {
            let situation = Situation { destination_version, ..setting.situation() };
            let end = situation.end_of_snapshot();
            let load = newer_rows(&situation, &Since::default(), end);
            let steps = merge_and_empty(&situation);
            let into = load.into;
            assert!(
                into.starts_with(r#"COPY "copies"."t_stg" ("id", "a", "b", "c", "d")"#),
                "{into}"
            );
            (first_words(&[load.last, steps.clone()].concat()), steps)
        };
        let (words, steps) = merged(&setting, 17_00_00);
        assert_eq!(words, "COMMIT INSERT DELETE");
        assert!(steps[0].sql.contains("ON CONFLICT (\"id\")"), "{}", steps[0].sql);
        let mut doubtful = Setting::new(MERGED, true);
        doubtful.shape.unique_at_source = false;
        assert_eq!(merged(&doubtful, 17_00_00).0, "SELECT COMMIT INSERT DELETE");
        let mut nullable = Setting::new(MERGED, true);
        nullable.shape.nullable_keys = true;
        assert_eq!(merged(&nullable, 14_00_00).0, "COMMIT UPDATE INSERT DELETE");
        let (words, steps) = merged(&Setting::new(APPENDED, true), 17_00_00);
        assert_eq!(words, "COMMIT INSERT DELETE");
        assert!(steps[0].sql.contains("NOT EXISTS"), "{}", steps[0].sql);
        let keyless = merge_steps(&Setting::new(COPIED, false).situation());
        assert!(first_words(&keyless) == "INSERT" && !keyless[0].sql.contains("WHERE"));
    }

    #[test]
    fn rows_are_merged_before_all_are_there_where_nothing_looks_at_all_of_them() {
        let of_each_part = |rule, change: fn(&mut Setting)| {
            let mut setting = Setting::new(rule, rule != COPIED);
            change(&mut setting);
            let situation = setting.situation();
            let receipt = receipt(&situation);
            let merge = Merge { since: Some(Since::default()), ..bare(&receipt) };
            let Plan { of_each_part, after, .. } = incremental(&situation, merge);
            assert_ne!(of_each_part.is_empty(), after.is_empty(), "rows are merged once");
            first_words(&of_each_part)
        };
        assert_eq!(of_each_part(MERGED, |_| {}), "INSERT DELETE");
        assert_eq!(of_each_part(MARKED, |_| {}), "INSERT DELETE");
        assert_eq!(of_each_part(APPENDED, |_| {}), "");
        assert_eq!(of_each_part(COPIED, |_| {}), "");
        assert_eq!(of_each_part(MERGED, |setting| setting.shape.unique_at_source = false), "");
        assert_eq!(of_each_part(MERGED, |setting| setting.destination.has_triggers = true), "");
        let deferrable = |setting: &mut Setting| {
            setting.destination.unique_indexes[0].immediate = false;
        };
        assert_eq!(of_each_part(MERGED, deferrable), "");
    }

    #[test]
    fn a_staging_table_that_fits_is_kept() {
        let setting = Setting::new(MERGED, true);
        let made = |change: fn(&mut DestinationTable)| {
            let mut staging = setting.staging();
            change(&mut staging);
            let situation = Situation { staging: Some(&staging), ..setting.situation() };
            assert!(leftovers(&situation).is_none());
            first_words(&make_staging(&situation))
        };
        assert_eq!(made(|_| {}), "");
        assert_eq!(made(|staging| staging.comment = None), "COMMENT");
        assert_eq!(made(|staging| staging.unlogged = false), "DROP CREATE");
        assert_eq!(made(|staging| drop(staging.columns.pop())), "DROP CREATE");
        assert_eq!(made(|staging| staging.columns.swap(1, 2)), "DROP CREATE");
        assert_eq!(
            made(|staging| "xml".clone_into(&mut staging.columns[1].data_type)),
            "DROP CREATE"
        );
        assert_eq!(made(|staging| staging.columns[1].not_null = true), "DROP CREATE");
        let none = make_staging(&setting.situation());
        assert!(none.len() == 1 && none[0].sql.starts_with("CREATE"), "{none:?}");
    }

    #[test]
    fn what_a_staging_table_holds_goes_before_rows_come_and_where_it_is_large_its_file_too() {
        let setting = Setting::new(MERGED, true);
        let emptied = |bytes| {
            let staging = DestinationTable { bytes, ..setting.staging() };
            let situation = Situation { staging: Some(&staging), ..setting.situation() };
            assert_eq!(first_words(&in_place_changes(&situation)), "", "no change of the table");
            let step = leftovers(&situation)?;
            assert!(step.sql.starts_with("DELETE FROM "), "{}", step.sql);
            Some(step.shortcut.is_some_and(|shortcut| shortcut.of_few))
        };
        assert_eq!(emptied(0), None);
        assert_eq!(emptied(MOST_KEPT_BYTES), Some(false));
        assert_eq!(emptied(MOST_KEPT_BYTES + 1), Some(true));
        let none = setting.situation();
        assert!(leftovers(&none).is_none());
    }
}
