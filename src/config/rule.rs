//! One table's rule: how it is copied.

use std::time::Duration;

use crate::watermark::key::Lookback;

/// How one table is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The table's name at the source.
    pub name: String,
    /// Its name at the destination, by default the same.
    pub destination_name: String,
    /// What grows when a row is written. Absent only in modes that need none.
    pub replication_key: Option<ReplicationKey>,
    /// What identifies a row; `None` means the source's primary key.
    pub unique_columns: Option<Vec<String>>,
    /// What a sync does.
    pub mode: Mode,
    /// What becomes of rows that the source no longer has.
    pub deletes: Deletes,
    /// How long until they are looked for again; without it, in every sync.
    pub reconcile_every: Option<Duration>,
    /// The greatest part of a table that one sync may remove or mark, in percent.
    pub max_delete_percent: u8,
    /// What a changed schema leads to.
    pub on_schema_change: OnSchemaChange,
    /// Which columns travel.
    pub columns: ColumnChoice,
    /// A condition in the source's SQL that rows must meet.
    pub filter: Option<String>,
    /// How the first copy is read.
    pub initial: InitialPath,
    /// How far below the watermark is read.
    pub lookback: Option<Lookback>,
    /// How long a run waits for transactions in flight to end.
    pub settle: Duration,
}

impl Rule {
    /// Whether the destination keeps every row that the source has ever shown.
    #[must_use]
    pub fn keeps_every_row(&self) -> bool {
        self.filter.is_none() && self.deletes == Deletes::Keep
    }
}

/// The wait where the rule says nothing.
pub(super) const DEFAULT_SETTLE: Duration = Duration::from_secs(1);

/// The longest wait that makes sense: transactions that take longer hold the watermark back, and
/// nothing else.
pub(super) const LONGEST_SETTLE: Duration = Duration::from_mins(10);

/// The longest lookback of a key that holds a time: any watermark less this is a time that PostgreSQL
/// can hold.
pub(super) const LONGEST_LOOKBACK: Duration = Duration::from_hours(876_600);

/// What may be removed where the rule says nothing.
pub(super) const DEFAULT_MAX_DELETE_PERCENT: u8 = 50;

/// What grows when a row is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicationKey {
    /// A column of the table.
    Column(String),
    /// The transaction that wrote the row version, which every table has.
    Xmin,
}

impl ReplicationKey {
    /// The word in `tables-config.json`, which no column can have as its name.
    const XMIN: &str = "xmin";

    pub(super) fn new(name: String) -> Self {
        if name == Self::XMIN { Self::Xmin } else { Self::Column(name) }
    }

    /// As `tables-config.json` and receipts have it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Column(name) => name,
            Self::Xmin => Self::XMIN,
        }
    }
}

/// What a sync does to a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Rows that changed are merged by the unique columns.
    #[default]
    IncrementalDeduped,
    /// Every version of a row that is found is added, and none is ever changed.
    IncrementalAppend,
    /// The table is copied whole every time.
    FullRefresh,
    /// Both sides digest their rows, and only those that differ travel.
    Diff,
}

impl Mode {
    pub(super) const NAMES: [(&'static str, Self); 4] = [
        ("incremental-deduped", Self::IncrementalDeduped),
        ("incremental-append", Self::IncrementalAppend),
        ("full-refresh", Self::FullRefresh),
        ("diff", Self::Diff),
    ];

    /// The name in `tables-config.json` and in receipts.
    #[must_use]
    pub fn name(self) -> &'static str {
        name_of(&Self::NAMES, self)
    }

    /// Whether it goes by a replication key.
    #[must_use]
    pub fn has_key(self) -> bool {
        match self {
            Self::IncrementalDeduped | Self::IncrementalAppend => true,
            Self::FullRefresh | Self::Diff => false,
        }
    }
}

/// What becomes of rows that the source no longer has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deletes {
    /// They stay.
    #[default]
    Keep,
    /// They are removed.
    Remove,
    /// They stay and get a time in `_deleted_at`.
    Mark,
}

impl Deletes {
    pub(super) const NAMES: [(&'static str, Self); 3] =
        [("keep", Self::Keep), ("remove", Self::Remove), ("mark", Self::Mark)];
}

/// What a changed schema leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnSchemaChange {
    /// The table is copied again.
    #[default]
    Resync,
    /// The destination follows in place where every value stays what it is; else the table is
    /// copied again.
    Evolve,
    /// The table fails until somebody decides.
    Fail,
}

impl OnSchemaChange {
    pub(super) const NAMES: [(&'static str, Self); 3] =
        [("resync", Self::Resync), ("evolve", Self::Evolve), ("fail", Self::Fail)];
}

/// How the first copy is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InitialPath {
    /// By pg_dump, where it can serve.
    #[default]
    PgDump,
    /// By COPY, in binary where both ends agree.
    Copy,
}

impl InitialPath {
    pub(super) const NAMES: [(&'static str, Self); 2] =
        [("pg_dump", Self::PgDump), ("copy", Self::Copy)];
}

/// Which columns travel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ColumnChoice {
    /// All of them.
    #[default]
    All,
    /// Only these.
    Include(Vec<String>),
    /// All but these.
    Exclude(Vec<String>),
}

impl ColumnChoice {
    /// Whether a column travels.
    #[must_use]
    pub fn takes(&self, column: &str) -> bool {
        match self {
            Self::All => true,
            Self::Include(names) => names.iter().any(|name| name == column),
            Self::Exclude(names) => !names.iter().any(|name| name == column),
        }
    }

    /// The columns that the rule names.
    #[must_use]
    pub fn named(&self) -> &[String] {
        match self {
            Self::All => &[],
            Self::Include(names) | Self::Exclude(names) => names,
        }
    }
}

fn name_of<T: Copy + PartialEq>(names: &[(&'static str, T)], value: T) -> &'static str {
    names.iter().find(|(_, one)| *one == value).map_or("", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_written_as_they_are_read() {
        for (name, mode) in Mode::NAMES {
            assert_eq!(mode.name(), name);
        }
        let key = |name: &str| ReplicationKey::new(name.to_owned());
        assert_eq!((key("xmin"), key("XMIN").name()), (ReplicationKey::Xmin, "XMIN"));
        assert_eq!(key("xmin").name(), "xmin");
    }

    #[test]
    fn a_choice_takes_what_it_names_or_all_but_that() {
        let named = || vec!["a".to_owned(), "b".to_owned()];
        let (include, exclude) = (ColumnChoice::Include(named()), ColumnChoice::Exclude(named()));
        let taken = |choice: &ColumnChoice| ["a", "b", "c"].map(|column| choice.takes(column));
        assert_eq!(taken(&ColumnChoice::All), [true, true, true]);
        assert_eq!(taken(&include), [true, true, false]);
        assert_eq!(taken(&exclude), [false, false, true]);
        assert_eq!(ColumnChoice::All.named(), [""; 0]);
        assert_eq!((include.named(), exclude.named()), (&named()[..], &named()[..]));
    }
}
