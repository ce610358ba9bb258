//! What the next sync of a table will do, as a value: every statement, and a sentence saying why.
//!
//! [`decide`] chooses between a first copy and a merge; [`initial`] and [`incremental`] spell the
//! choice out. Nothing here connects, reads a file or looks at a clock.

mod comparison;
mod decision;
mod evolution;
mod incremental;
mod initial;
mod reading;
mod shape;

pub use comparison::{
    ALIAS, Comparison, Depth, Expected, Mending, Reconciliation, compare, describe, is_due,
    keeps_keys_equal, reconcile, telling_columns,
};
pub use decision::{
    Decision, Remembered, cannot_follow, decide, ready_to_compare, replaces, replaces_anothers,
    schema_difference, taken_over,
};
pub use evolution::{Evolution, evolution};
pub use incremental::{Merge, columns_to_refuse_null, incremental};
pub use initial::{First, initial};
pub use reading::{Since, again, has_lost, moved, since, tells_what_is_newer, unseen};
pub use shape::{Shape, origin, shape};

use crate::config::{Mode, Rule, Side};
use crate::error::Error;
use crate::fault::{Fault, planted};
use crate::receipt::Origin;
use crate::sql::Qualified;
use crate::sql::copy::{Format, Selection};
use crate::table::{DestinationTable, Kind, SourceTable, UniqueIndex};

/// Everything a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// What the user wants.
    pub rule: &'a Rule,
    /// The table at the source.
    pub source: &'a SourceTable,
    /// What the destination shall look like.
    pub shape: &'a Shape,
    /// The destination table's name.
    pub table: &'a Qualified,
    /// What is there under that name.
    pub destination: Option<&'a DestinationTable>,
    /// What is there under the staging table's name.
    pub staging: Option<&'a DestinationTable>,
    /// The destination's version, as `server_version_num`.
    pub destination_version: u32,
    /// What a copy made now is made with.
    pub origin: &'a Origin,
    /// Whether the source's snapshot is still needed when the plan has been carried out.
    pub snapshot_kept: bool,
}

impl Situation<'_> {
    /// The staging table's name.
    #[must_use]
    pub fn staging_name(&self) -> Qualified {
        self.table.beside(crate::table::staging_name(&self.table.name))
    }

    /// Whether the Node.js script may have made the copy: it knew neither conditions nor names of copies,
    /// and where the staging table is ours, the copy has been taken over before.
    #[must_use]
    pub fn may_be_the_predecessors(&self) -> bool {
        let taken_over = self.staging.is_none_or(decision::is_ours);
        !taken_over && self.rule.filter.is_none() && self.rule.name == self.table.name
    }

    /// Whether the destination knows NULLS NOT DISTINCT, so that a unique index can hold NULL
    /// equal to NULL.
    fn nulls_not_distinct(&self) -> bool {
        self.destination_version >= 15_00_00
    }

    /// Whether a NOT NULL has a name at the destination.
    fn names_not_nulls(&self) -> bool {
        self.destination_version >= 18_00_00
    }

    /// Whether the unique index must hold NULL equal to NULL, and can.
    fn wants_nulls_not_distinct(&self) -> bool {
        self.shape.nullable_keys && self.nulls_not_distinct()
    }

    /// Whether merges go by the unique index, or by comparison.
    fn merges_by_index(&self) -> bool {
        // ON CONFLICT refuses as soon as one of the indexes on its columns is deferrable.
        let deferrable = self.destination.is_some_and(|there| {
            let on_them = |index: &UniqueIndex| index.covers(&self.shape.unique_columns);
            there.unique_indexes.iter().any(|index| on_them(index) && !index.immediate)
        });
        !deferrable && (!self.shape.nullable_keys || self.nulls_not_distinct())
    }

    /// Whether versions of rows are kept that the source no longer has.
    fn keeps_versions(&self) -> bool {
        self.rule.mode == Mode::IncrementalAppend
    }

    /// The step that lets the source forget what only our snapshot still sees.
    fn end_of_snapshot(&self) -> Option<Step> {
        (!self.snapshot_kept).then(|| Step::source("end the snapshot", crate::sql::session::COMMIT))
    }

    /// The step that fails where somebody has emptied or rewritten what was read after the snapshot was
    /// taken, which then looks empty in it; none where our lock was there before the snapshot.
    fn undisturbed(&self) -> Option<Step> {
        // A partition may be attached to a table that others have locked as we have.
        let fixed = self.source.kind == Kind::Table;
        // A policy may read other tables than this one, and so may a condition, by a query or a function.
        let reads = self.rule.filter.as_ref().is_some_and(|condition| condition.contains('('));
        let alone = !reads && !self.source.row_security;
        let locked = fixed && alone && self.source.readable;
        (!locked).then(|| {
            let purpose = format!("read `{}` as it was at one time", self.source.name.plain());
            Step::source(&purpose, crate::sql::session::REWRITTEN).result(Outcome::Undisturbed)
        })
    }

    /// The table of receipts.
    #[must_use]
    pub fn receipts(&self) -> Qualified {
        self.table.beside(crate::table::RECEIPTS)
    }
}

/// What a sync does to a table, by the names that the log and the webhook use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyncType {
    /// The table is copied whole.
    Initial,
    /// What changed is merged.
    Incremental,
    /// The table is copied whole because that was asked for.
    FullRefresh,
    /// Nothing was tried.
    Skipped,
}

impl SyncType {
    /// As the log and the webhook print it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Incremental => "incremental",
            Self::FullRefresh => "full-refresh",
            Self::Skipped => "skipped",
        }
    }
}

/// What the next sync of a table will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its kind.
    pub sync_type: SyncType,
    /// Why, as the second half of a sentence.
    pub reason: String,
    /// What somebody should look at.
    pub warnings: Vec<String>,
    /// What else the log should say.
    pub notes: Vec<String>,
    /// What it should say with `-v`.
    pub details: Vec<String>,
    /// Before the rows travel.
    pub before: Vec<Step>,
    /// Then, by what the two sides find out, rows that only the destination has are removed, which are in the
    /// way of those that travel; nothing where they may wait.
    pub removal: Option<Reconciliation>,
    /// The rows' way; none where only what differs travels.
    pub load: Option<Load>,
    /// What is done with each part of them that has arrived, while more are on their way; nothing
    /// where all must be there first.
    pub of_each_part: Vec<Step>,
    /// After all have arrived.
    pub after: Vec<Step>,
    /// Then, what the two sides find out about each other's rows.
    pub reconciliation: Option<Reconciliation>,
    /// At the end.
    pub finish: Vec<Step>,
    /// Whether the steps are left out when no row travels.
    pub nothing_if_empty: bool,
    /// Whether what was done is undone where no row that travelled was another than at the destination.
    pub nothing_if_same: bool,
}

impl Plan {
    /// Whether the plan failed on rows at the destination that share their unique columns, which
    /// a new copy puts right.
    #[must_use]
    pub fn heals_by_copying(&self, error: &Error) -> bool {
        self.before.iter().any(|step| step.result == Outcome::Distinct)
            && error.sqlstate.as_deref() == Some(UNIQUE_VIOLATION)
    }

    /// Whether it may have failed on rows that the source no longer has, and whose values others have now, in
    /// what people have made unique at the destination.
    #[must_use]
    pub fn may_heal_by_removing(&self, error: &Error) -> bool {
        self.sync_type == SyncType::Incremental
            && matches!(error.sqlstate.as_deref(), Some(UNIQUE_VIOLATION | EXCLUSION_VIOLATION))
    }

    /// The same, once rows that the source no longer has are removed. In a new copy there are none.
    #[must_use]
    pub fn removing_first(self, removal: Reconciliation) -> Self {
        let removal = Some(removal).filter(|_| self.sync_type == SyncType::Incremental);
        Self { removal, nothing_if_empty: false, nothing_if_same: false, ..self }
    }
}

/// A statement of a plan, for somebody who reads it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Statement {
    /// Where it runs.
    #[serde(serialize_with = "as_word")]
    pub on: Side,
    /// What it is for.
    pub purpose: String,
    /// What it is: SQL, or pg_dump's command line.
    pub sql: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn as_word<S: serde::Serializer>(side: &Side, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&side.to_string())
}

impl Plan {
    /// All that is known beforehand of what will run, in its order. What the two sides find out
    /// about each other's rows decides over the rest.
    #[must_use]
    pub fn statements(&self) -> Vec<Statement> {
        let steps = |steps: &[Step]| -> Vec<Statement> { steps.iter().map(Step::shown).collect() };
        let mut all = Vec::new();
        match &self.load {
            Some(load) => {
                let (out, into) = load.shown();
                all.push(out);
                all.extend(steps(&self.before));
                all.extend(load.first.iter().map(Step::shown));
                all.push(into);
                all.extend(steps(&load.last));
                all.extend(steps(&self.of_each_part));
                all.extend(steps(&self.after));
            }
            None => all.extend(steps(&self.before)),
        }
        if let Some(Reconciliation { comparison, .. }) = &self.reconciliation
            && !comparison.versions
        {
            let sides =
                [(Side::Source, &comparison.source), (Side::Destination, &comparison.destination)];
            all.extend(sides.map(|(on, digest)| Statement {
                on,
                purpose: "compare the rows by digests; those that differ are put right".to_owned(),
                sql: digest.per_bucket(comparison.buckets),
            }));
        }
        let forgotten = usize::from(planted(Fault::PlanCutShort));
        all.extend(steps(&self.finish).into_iter().skip(forgotten));
        all
    }
}

/// The SQLSTATE of rows that share what must be unique.
const UNIQUE_VIOLATION: &str = "23505";

/// The SQLSTATE of a row that an exclusion constraint, such as a temporal key, has no room for.
const EXCLUSION_VIOLATION: &str = "23P01";

/// The rows' way from the source into a table of the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Which they are.
    pub rows: Selection,
    /// Where they come from.
    pub from: Reading,
    /// What empties the table they are written into, where something may be in it.
    pub first: Option<Step>,
    /// The destination's COPY.
    pub into: String,
    /// How they are written on the wire.
    pub format: Format,
    /// What the source is asked and told once it has sent them; the last may still be on their way.
    pub last: Vec<Step>,
    /// What to look at when the source does not understand what it is asked.
    pub hint: Option<String>,
}

impl Load {
    fn shown(&self) -> (Statement, Statement) {
        let sql = match &self.from {
            Reading::Copy(query) => query.clone(),
            Reading::PgDump { table, .. } => {
                format!("pg_dump --data-only --snapshot=... --table={table}")
            }
        };
        let read = Statement { on: Side::Source, purpose: "read the rows".to_owned(), sql };
        let purpose = "write the rows".to_owned();
        (read, Statement { on: Side::Destination, purpose, sql: self.into.clone() })
    }
}

/// How rows are read at the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// By pg_dump, in the snapshot of our transaction.
    PgDump {
        /// The source table.
        table: Qualified,
        /// Its columns, which the dump must name in this order.
        columns: Vec<String>,
    },
    /// By a COPY of our own.
    Copy(String),
}

/// What helps where something stands on what is dropped, and this tool does not know how to make it again.
pub const DEPENDED_ON: &str = "drop what depends on it, and make it again after the sync";

/// One statement on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it runs.
    pub on: Side,
    /// What it is.
    pub sql: String,
    /// What its result means.
    pub result: Outcome,
    /// What it is for, to stand behind "cannot".
    pub purpose: String,
    /// What to do when it fails.
    pub hint: Option<String>,
    /// A question and what to say where its answer is yes: the step is then left out.
    pub unless: Option<(String, String)>,
    /// A question and the answer that it must have beforehand, in the same attempt, or the plan no longer
    /// fits.
    pub provided: Option<(String, String)>,
    /// The same afterwards.
    pub still: Option<(String, String)>,
    /// What may take the place of `sql`.
    pub shortcut: Option<Shortcut>,
}

/// What does at once, for any number of rows, what a step does row by row, unless somebody else's
/// lock is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortcut {
    /// Takes the lock it needs, or fails at once.
    pub lock: String,
    /// What it is.
    pub sql: String,
    /// Whether it is taken for few rows, too.
    pub of_few: bool,
}

/// What a step's result means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeds or the table fails.
    Done,
    /// As `Done`; the rows it wrote are the sync's row count.
    RowsMerged,
    /// As `Done`, but rows that share their unique columns lead to copying the table again.
    Distinct,
    /// Any row it returns is an example of what makes the sync impossible.
    NoRow,
    /// Any row it returns names what somebody has changed while it was read: once more may help.
    Undisturbed,
    /// As `Done`, but where somebody else's lock is in the way it is tried again for a while, each
    /// time briefly, so that nobody has to wait behind it for long.
    Patient,
}

impl Step {
    fn new(on: Side, purpose: &str, sql: impl Into<String>) -> Self {
        let purpose = purpose.to_owned();
        let (sql, result) = (sql.into(), Outcome::Done);
        Self {
            on,
            sql,
            result,
            purpose,
            hint: None,
            unless: None,
            provided: None,
            still: None,
            shortcut: None,
        }
    }

    fn destination(purpose: &str, sql: impl Into<String>) -> Self {
        Self::new(Side::Destination, purpose, sql)
    }

    fn source(purpose: &str, sql: impl Into<String>) -> Self {
        Self::new(Side::Source, purpose, sql)
    }

    fn shown(&self) -> Statement {
        let (mut purpose, mut sql) = (self.purpose.clone(), &self.sql);
        match &self.shortcut {
            Some(shortcut) if shortcut.of_few => sql = &shortcut.sql,
            Some(shortcut) => purpose = format!("{purpose}; of many rows: {}", shortcut.sql),
            None => {}
        }
        Statement { on: self.on, purpose, sql: sql.clone() }
    }

    fn result(mut self, result: Outcome) -> Self {
        self.result = result;
        self
    }

    fn unless(mut self, question: String, why: &str) -> Self {
        self.unless = Some((question, why.to_owned()));
        self
    }

    fn provided(mut self, question: String, answer: String) -> Self {
        self.provided = Some((question, answer));
        self
    }

    fn still(mut self, question: String, answer: String) -> Self {
        self.still = Some((question, answer));
        self
    }

    fn shortcut(mut self, shortcut: Shortcut) -> Self {
        self.shortcut = Some(shortcut);
        self
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

#[cfg(test)]
mod tests;
