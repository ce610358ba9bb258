//! Which digests the two sides compare, and what is done about rows that differ.

use jiff::Timestamp;

use super::{Load, Outcome, Reading, Situation, Step};
use crate::config::{Deletes, Mode, Rule, Side};
use crate::digest::{self, Digested};
use crate::error::Error;
use crate::fault::{Fault, planted};
use crate::sql::copy::{Format, Selection, copy_in};
use crate::sql::digest::Digest;
use crate::sql::{Qualified, identifier, merge};
use crate::table::DELETED_AT;

/// How much of a row is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Its unique columns: which rows there are.
    Keys,
    /// All that is copied.
    Rows,
}

/// How many rows are expected to differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A few, so that few buckets are looked into.
    Few,
    /// Many, all over the table.
    Many,
}

impl Expected {
    /// So many rows share a bucket. Fewer make the list of all buckets longer, more make those
    /// longer that are looked into.
    fn rows_per_bucket(self) -> u64 {
        match self {
            Self::Few => 256,
            Self::Many => 16,
        }
    }
}

/// What the two sides digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// At the source.
    pub source: Digest,
    /// At the destination.
    pub destination: Digest,
    /// Into how many buckets.
    pub buckets: u32,
    /// Whether the destination keeps versions of rows that the source no longer has.
    pub versions: bool,
    /// The source's condition on rows that the next sync reads anyway.
    pub pending: Option<String>,
    /// The destination's condition on rows that were there when both sides had the same keys: where
    /// the source does not have them, the next sync removes or marks them.
    pub settled: Option<String>,
    /// The step that tells whether the source's rows were all there to be compared.
    pub undisturbed: Option<Step>,
}

/// What is done about rows that differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mending {
    /// What becomes of rows that only the destination has.
    pub extra: Deletes,
    /// Whether rows may stand there twice. Where the unique index forbids it, rows that seem to do
    /// have keys that share a digest.
    pub doubled: bool,
    /// The greatest part of the table that may be removed or marked.
    pub max_delete_percent: Option<u8>,
    /// What must be there before rows are merged.
    pub before: Vec<Step>,
    /// The rows that are wanted from the source, for a condition to be added.
    pub selection: Selection,
    /// How they travel.
    pub format: Format,
    /// The staging table.
    pub staging: Qualified,
    /// What empties it, where something may be in it.
    pub first: Option<Step>,
    /// Its COPY.
    pub into: String,
    /// What to look at when the source does not understand what it is asked.
    pub hint: Option<String>,
    /// The unique columns, where the source does not make sure that they identify a row.
    pub unsure_of: Option<Vec<String>>,
    /// Out of the staging table.
    pub merge: Vec<Step>,
}

/// A comparison, and what is done about what it finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconciliation {
    /// What is compared.
    pub comparison: Comparison,
    /// What is done.
    pub mending: Mending,
}

impl Mending {
    /// Nothing to be done to a table, for the tests of what is made from it.
    #[cfg(test)]
    pub(super) fn bare() -> Self {
        Self {
            extra: Deletes::Keep,
            doubled: false,
            max_delete_percent: None,
            before: Vec::new(),
            selection: Selection::all_of(&Qualified::new("s", "t")),
            format: Format::Text,
            staging: Qualified::new("s", "t_stg"),
            first: None,
            into: String::new(),
            hint: None,
            unsure_of: None,
            merge: Vec::new(),
        }
    }

    /// The way of the rows that meet a condition.
    #[must_use]
    pub fn fetch(&self, wanted: Option<String>) -> Load {
        let rows = self.wanted(wanted);
        Load {
            from: Reading::Copy(rows.copy_out(self.format)),
            rows,
            first: self.first.clone(),
            into: self.into.clone(),
            format: self.format,
            last: Vec::new(),
            hint: self.hint.clone(),
        }
    }

    fn wanted(&self, condition: Option<String>) -> Selection {
        Selection { condition, ..self.selection.clone() }
    }

    /// The step that makes sure that these rows do not share their unique columns with others.
    #[must_use]
    pub fn no_shared_key(&self, wanted: Option<&str>) -> Option<Step> {
        let unique_columns = self.unsure_of.as_ref()?;
        let selection = self.wanted(wanted.map(str::to_owned));
        Some(super::incremental::no_shared_key(&selection, unique_columns))
    }

    /// Why so many rows must not be removed, if so.
    #[must_use]
    pub fn stop(&self, removed: u64, rows: u64) -> Option<Error> {
        let percent = self.max_delete_percent?;
        if self.extra == Deletes::Keep || !digest::exceeds(removed, rows, percent) {
            return None;
        }
        let verb = if self.extra == Deletes::Mark { "marked" } else { "removed" };
        let share = u128::from(removed) * 100 / u128::from(rows.max(1));
        Some(
            Error::table(format!(
                "{removed} of the destination's {rows} rows ({share} %) would be {verb}, and \
                 `max_delete_percent` is {percent}"
            ))
            .hint(
                "look whether the source is complete; if it is, raise \"max_delete_percent\" for \
                 this table, or copy it anew with --full-refresh",
            ),
        )
    }
}

/// What the two sides digest to be compared.
#[must_use]
pub fn compare(
    situation: &Situation,
    depth: Depth,
    expected: Expected,
    pending: Option<String>,
) -> Comparison {
    let (rule, shape) = (situation.rule, situation.shape);
    let versions = situation.keeps_versions();
    let whole = versions || shape.unique_columns.is_empty();
    let digest = |side: Side, prefix: &str| {
        let forgotten = usize::from(planted(Fault::ColumnUndigested));
        let columns = shape.digested.iter().skip(forgotten);
        let values: Vec<String> = columns.map(|column| value(column, side, prefix)).collect();
        let row = digest::expression(&values);
        if whole {
            return (row, None);
        }
        let of = |name: &String| shape.digested.iter().find(|column| column.name == *name);
        let keys = shape.unique_columns.iter().filter_map(of);
        let values: Vec<String> = keys.map(|column| key_value(column, side, prefix)).collect();
        (digest::expression(&values), (depth == Depth::Rows).then_some(row))
    };
    let (mut key, row) = digest(Side::Source, "");
    if situation.source.lacks_xmin().is_some() {
        key = digest::computed_here(&key);
    }
    let source = Digest {
        table: situation.source.name.clone(),
        alias: None,
        key,
        row,
        conditions: rule.filter.iter().map(|filter| format!("({filter}\n)")).collect(),
    };
    let (key, row) = digest(Side::Destination, &format!("{ALIAS}."));
    let marker = shape.marks.then(|| format!("{ALIAS}.{} IS NULL", identifier(DELETED_AT)));
    let destination = Digest {
        table: situation.table.clone(),
        alias: Some(ALIAS),
        key,
        row,
        conditions: marker.into_iter().collect(),
    };
    let rows = situation.destination.map_or(0, |there| there.estimated_rows);
    let buckets = digest::bucket_count(rows, expected.rows_per_bucket());
    let undisturbed = situation.undisturbed();
    Comparison { source, destination, buckets, versions, pending, settled: None, undisturbed }
}

/// The columns by whose values a person tells rows apart: the unique columns, else the first few.
#[must_use]
pub fn telling_columns(situation: &Situation) -> Vec<String> {
    let shape = situation.shape;
    if shape.unique_columns.is_empty() {
        let first = shape.columns.iter().take(TELLING_COLUMNS);
        return first.map(|column| column.name.clone()).collect();
    }
    shape.unique_columns.clone()
}

/// How many columns tell rows apart for a person where none are unique.
const TELLING_COLUMNS: usize = 4;

/// Asks one side for rows whose keys have these digests: the digest, the values of the telling
/// columns, and a digest of each column that is copied.
#[must_use]
pub fn describe(
    situation: &Situation,
    comparison: &Comparison,
    side: Side,
    digests: &[i64],
) -> String {
    let shape = situation.shape;
    let digest = match side {
        Side::Source => &comparison.source,
        Side::Destination => &comparison.destination,
    };
    let prefix = digest.alias.map(|alias| format!("{alias}.")).unwrap_or_default();
    let values = telling_columns(situation);
    let shown = |name: &String| {
        let column = format!("{prefix}{}", identifier(name));
        format!("CASE num_nulls({column}) WHEN 0 THEN left(concat({column}), {LONGEST_VALUE}) END")
    };
    let hashed = |column: &Digested| digest::expression(&[value(column, side, &prefix)]);
    let all: Vec<String> =
        values.iter().map(shown).chain(shape.digested.iter().map(hashed)).collect();
    digest.describe(&all, digests)
}

/// A column's value in bytes, as it is digested on one side.
fn value(column: &Digested, side: Side, prefix: &str) -> String {
    column.at(side).of(&format!("{prefix}{}", identifier(&column.name)))
}

/// The same of a column that identifies rows: equal values are one key.
fn key_value(column: &Digested, side: Side, prefix: &str) -> String {
    let rendering = column.key.as_ref().unwrap_or(column.at(side));
    rendering.of(&format!("{prefix}{}", identifier(&column.name)))
}

/// So much of a value is shown to a person, in characters.
const LONGEST_VALUE: u32 = 60;

/// What the destination's table is called where its rows are digested.
pub const ALIAS: &str = "digested";

/// A comparison with all that is to be done about what it finds.
#[must_use]
pub fn reconcile(situation: &Situation, comparison: Comparison, extra: Deletes) -> Reconciliation {
    let (rule, shape) = (situation.rule, situation.shape);
    let staging = situation.staging_name();
    let mut merge = super::incremental::merge_steps(situation);
    merge.push(super::incremental::empty_staging(situation, false));
    let mending = Mending {
        extra,
        doubled: false,
        max_delete_percent: Some(rule.max_delete_percent),
        before: Vec::new(),
        selection: shape.selection(rule, situation.source, None),
        format: shape.format,
        into: copy_in(&staging, &shape.names(), shape.format, false),
        staging,
        first: super::incremental::leftovers(situation),
        hint: super::shape::filter_hint(rule),
        unsure_of: (!shape.unique_at_source && !shape.unique_columns.is_empty())
            .then(|| shape.unique_columns.clone()),
        merge,
    };
    Reconciliation { comparison, mending }
}

impl Reconciliation {
    /// For a repair, which a person asked for: as many rows as need be, and whatever the merge
    /// needs is made first.
    #[must_use]
    pub fn as_repair(mut self, situation: &Situation) -> Self {
        self.mending.max_delete_percent = None;
        self.mending.doubled = true;
        self.mending.before = super::incremental::in_place_changes(situation);
        let index = self.mending.before.iter().position(|step| step.result == Outcome::Distinct);
        // No index holds NULL equal to NULL before 15.
        let none = situation.shape.nullable_keys && !situation.nulls_not_distinct();
        let before = index.or(none.then_some(self.mending.before.len()));
        if let Some(at) = before.filter(|_| situation.shape.marks) {
            // Marked rows stay, and without the index some may stand there twice.
            let sql = merge::remove_shared(situation.table, &situation.shape.unique_columns);
            let step = Step::destination("remove marked rows that stand there twice", sql);
            self.mending.before.insert(at, step);
        }
        self
    }
}

/// Whether each sync leaves both sides with the same keys.
#[must_use]
pub fn keeps_keys_equal(rule: &Rule) -> bool {
    let deletes = rule.deletes != Deletes::Keep;
    match rule.mode {
        Mode::FullRefresh => true,
        Mode::Diff => deletes,
        Mode::IncrementalDeduped => deletes && rule.reconcile_every.is_none(),
        Mode::IncrementalAppend => false,
    }
}

/// Whether it is time to look for rows that the source no longer has.
#[must_use]
pub fn is_due(rule: &Rule, asked: bool, last: Option<Timestamp>, now: Timestamp) -> bool {
    if rule.deletes == Deletes::Keep {
        return false;
    }
    let (Some(every), Some(last)) = (rule.reconcile_every, last) else { return true };
    // A clock that was set back must not put it off for ever.
    asked || now < last || now.duration_since(last).unsigned_abs() >= every
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{APPENDED, COPIED, MARKED, MERGED, Setting, first_words};
    use super::*;

    fn rule(deletes: Deletes, reconcile_every: Option<Duration>) -> Rule {
        let text = r#"[{"name": "t", "replication_key": "at"}]"#;
        Rule { deletes, reconcile_every, ..crate::config::rules_for_tests(text).remove(0) }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn keys_are_doubted_where_there_are_some_and_the_source_does_not_keep_them_apart() {
        let doubted = |rule, unique_at_source| {
            let mut setting = Setting::new(rule, rule != COPIED);
            setting.shape.unique_at_source = unique_at_source;
            let situation = setting.situation();
            let comparison = compare(&situation, Depth::Keys, Expected::Few, None);
            reconcile(&situation, comparison, Deletes::Remove).mending.unsure_of
        };
        assert_eq!(doubted(MERGED, false), Some(vec!["id".to_owned()]));
        assert_eq!(doubted(MERGED, true), None);
        assert_eq!(doubted(COPIED, false), None);
    }

    #[test]
    fn deleted_rows_are_looked_for_when_it_is_time() {
        let hour = Some(Duration::from_hours(1));
        let spaced = rule(Deletes::Remove, hour);
        assert!(!is_due(&rule(Deletes::Keep, None), true, None, at(0)));
        assert!(is_due(&rule(Deletes::Mark, None), false, Some(at(0)), at(0)));
        assert!(is_due(&spaced, false, None, at(0)));
        assert!(!is_due(&spaced, false, Some(at(0)), at(3599)));
        assert!(is_due(&spaced, false, Some(at(0)), at(3600)));
        assert!(is_due(&spaced, true, Some(at(0)), at(1)));
        // The clock was set back.
        assert!(is_due(&spaced, false, Some(at(10)), at(0)));
        assert!(!is_due(&spaced, false, Some(at(10)), at(10)));
    }

    #[test]
    fn keys_are_equal_after_each_sync_that_looks_for_deleted_rows() {
        let hour = Some(Duration::from_hours(1));
        assert!(keeps_keys_equal(&rule(Deletes::Remove, None)));
        assert!(keeps_keys_equal(&rule(Deletes::Mark, None)));
        assert!(!keeps_keys_equal(&rule(Deletes::Keep, None)));
        assert!(!keeps_keys_equal(&rule(Deletes::Remove, hour)));
        let diff = Rule { mode: Mode::Diff, ..rule(Deletes::Remove, hour) };
        assert!(keeps_keys_equal(&diff));
        let append = Rule { mode: Mode::IncrementalAppend, ..rule(Deletes::Keep, None) };
        assert!(!keeps_keys_equal(&append));
        let copied = Rule { mode: Mode::FullRefresh, ..rule(Deletes::Keep, None) };
        assert!(keeps_keys_equal(&copied));
    }

    fn mending(extra: Deletes, max_delete_percent: Option<u8>) -> Mending {
        Mending { extra, max_delete_percent, ..Mending::bare() }
    }

    #[test]
    fn rows_are_compared_by_their_keys_and_where_they_have_none_whole() {
        let compared = |rule: &str, primary_key: bool, depth| {
            let setting = Setting::new(rule, primary_key);
            let comparison = compare(&setting.situation(), depth, Expected::Few, None);
            let digested = |digest: &Digest| {
                let columns = ["id", "a", "b", "c", "d"].into_iter();
                let found = columns.filter(|name| digest.key.contains(&format!("\"{name}\"")));
                (found.collect::<Vec<_>>().concat(), digest.row.is_some())
            };
            assert_eq!(digested(&comparison.source), digested(&comparison.destination));
            assert_eq!(comparison.versions, rule == APPENDED);
            digested(&comparison.source)
        };
        assert_eq!(compared(MERGED, true, Depth::Keys), ("id".to_owned(), false));
        assert_eq!(compared(MERGED, true, Depth::Rows), ("id".to_owned(), true));
        assert_eq!(compared(COPIED, false, Depth::Rows), ("idabcd".to_owned(), false));
        assert_eq!(compared(APPENDED, true, Depth::Keys), ("idabcd".to_owned(), false));
    }

    #[test]
    fn few_rows_that_differ_are_looked_for_in_larger_buckets_than_many() {
        let setting = Setting::new(MERGED, true);
        let buckets = |expected| compare(&setting.situation(), Depth::Rows, expected, None).buckets;
        assert_eq!((buckets(Expected::Few), buckets(Expected::Many)), (4096, 65_536));
    }

    #[test]
    fn a_person_is_told_rows_by_their_keys_or_by_their_first_columns() {
        let (keyed, bare) = (Setting::new(MERGED, true), Setting::new(COPIED, false));
        assert_eq!(telling_columns(&keyed.situation()), ["id"]);
        assert_eq!(telling_columns(&bare.situation()), ["id", "a", "b", "c"]);
        let situation = keyed.situation();
        let comparison = compare(&situation, Depth::Rows, Expected::Few, None);
        let asked = |side| describe(&situation, &comparison, side, &[5, -6]);
        let shown = r#"CASE num_nulls("id") WHEN 0 THEN left(concat("id"), 60) END"#;
        let there = asked(Side::Source);
        assert!(there.contains(shown) && there.contains(r#"FROM "s"."t""#), "{there}");
        assert!(there.contains("'{5,-6}'"), "{there}");
        let here = asked(Side::Destination);
        assert!(here.contains(&shown.replace("(\"id", "(digested.\"id")), "{here}");
        assert!(here.contains(r#"FROM "copies"."t" AS digested"#), "{here}");
        // The digest of the key, and one of each of the five columns.
        let selected = there.split("\nFROM").next().unwrap();
        assert_eq!(selected.matches("hash_array_extended(ARRAY[int8send(hash").count(), 6);
    }

    #[test]
    fn only_rows_that_are_wanted_are_fetched_and_looked_at() {
        let all = Mending { unsure_of: Some(vec!["id".to_owned()]), ..Mending::bare() };
        let fetched = all.fetch(Some("a = 1".to_owned()));
        assert_eq!(fetched.rows.condition.as_deref(), Some("a = 1"));
        assert!(matches!(&fetched.from, Reading::Copy(query) if query.contains("(a = 1)")));
        assert_eq!(all.fetch(None).rows.condition, None);
        let step = all.no_shared_key(Some("a = 1")).unwrap();
        assert!(step.sql.contains("bool_or((a = 1) IS TRUE)"), "{}", step.sql);
        assert_eq!(Mending::bare().no_shared_key(Some("a = 1")), None);
    }

    #[test]
    fn a_repair_makes_the_index_again_and_keeps_no_marked_row_from_it() {
        let steps_on = |version: u32, rule: &str, indexed: bool| {
            let mut setting = Setting::new(rule, true);
            setting.shape.nullable_keys = version < 15_00_00;
            if !indexed {
                setting.destination.unique_indexes.clear();
            }
            let situation = Situation { destination_version: version, ..setting.situation() };
            let comparison = compare(&situation, Depth::Rows, Expected::Few, None);
            let repair = reconcile(&situation, comparison, Deletes::Remove).as_repair(&situation);
            assert!(repair.mending.doubled && repair.mending.max_delete_percent.is_none());
            first_words(&repair.mending.before)
        };
        assert_eq!(steps_on(14_00_00, MARKED, true), "CREATE DELETE", "no index looks after NULL");
        assert_eq!(steps_on(14_00_00, MERGED, true), "CREATE");
        let steps = |rule, indexed| steps_on(17_00_00, rule, indexed);
        assert_eq!(steps(MERGED, true), "CREATE");
        assert_eq!(steps(MERGED, false), "CREATE ALTER CREATE");
        assert_eq!(steps(MARKED, false), "DELETE CREATE ALTER CREATE");
        assert_eq!(steps(MARKED, true), "CREATE");
    }

    #[test]
    fn a_stop_says_what_was_seen_and_what_would_have_happened() {
        let stopped = mending(Deletes::Remove, Some(50)).stop(600, 1000).unwrap();
        assert_eq!(
            stopped.message,
            "600 of the destination's 1000 rows (60 %) would be removed, and `max_delete_percent` \
             is 50"
        );
        let marked = mending(Deletes::Mark, Some(1)).stop(600, 1000).unwrap();
        assert!(marked.message.contains("would be marked"), "{marked}");
        assert_eq!(mending(Deletes::Remove, Some(60)).stop(600, 1000), None);
        assert_eq!(mending(Deletes::Keep, Some(1)).stop(600, 1000), None);
        assert_eq!(mending(Deletes::Remove, None).stop(600, 1000), None);
    }
}
