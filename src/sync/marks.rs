//! The marks of all tables, taken together when a run starts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::catalog;
use crate::config::Rule;
use crate::db::Session;
use crate::error::Result;
use crate::plan;
use crate::report::Log;
use crate::sql::session::Patience;
use crate::table::SourceTable;
use crate::watermark::{Activity, Mark};

/// The first pause between two looks at the transactions in flight.
const FIRST_LOOK: Duration = Duration::from_millis(10);

/// The longest one.
const LONGEST_LOOK: Duration = Duration::from_millis(100);

/// The greatest keys of all tables, who was at work when they were read, and who still was later.
pub(super) struct Marks {
    keys: BTreeMap<String, Greatest>,
    in_flight: BTreeSet<String>,
    /// Read after the marks were taken, and before any snapshot of this run.
    pub(super) still_active: Activity,
}

struct Greatest {
    oid: u32,
    key: String,
}

impl Marks {
    /// Takes the mark of every table that has a column as its replication key, then waits for the
    /// transactions in flight to end, no longer than `settle`.
    pub(super) fn take(
        source: &mut Session,
        tables: &BTreeMap<String, SourceTable>,
        rules: &[&Rule],
        log: &Log,
    ) -> Result<Self> {
        let interrupt = source.interrupt().clone();
        let keys = greatest_keys(source, tables, rules)?;
        let first = catalog::activity(source)?;
        let in_flight = first.transactions.clone();
        let settle = rules.iter().map(|rule| rule.settle).max().unwrap_or_default();
        let settle = if keys.is_empty() { Duration::ZERO } else { settle };
        let started = Instant::now();
        let mut pause = FIRST_LOOK;
        let mut still_active = first;
        while started.elapsed() < settle && !in_flight.is_disjoint(&still_active.transactions) {
            interrupt.sleep(pause.min(settle.saturating_sub(started.elapsed())))?;
            pause = (pause * 2).min(LONGEST_LOOK);
            still_active = catalog::activity(source)?;
        }
        let marks = Self { keys, in_flight, still_active };
        marks.comment(source, log);
        Ok(marks)
    }

    /// The mark of a table, by its name at the destination: one source may be copied by several keys.
    /// There is none where it holds no key, and none where the table was
    /// made again since: what was true of the old one's keys is not of the new one's.
    pub(super) fn of(&self, table: &str, oid: u32) -> Option<Mark> {
        let key = self.key_of(table, oid)?.to_owned();
        Some(Mark { key, in_flight: self.in_flight.clone() })
    }

    /// The greatest key of that table, as of its mark.
    pub(super) fn key_of(&self, table: &str, oid: u32) -> Option<&str> {
        let greatest = self.keys.get(table).filter(|greatest| greatest.oid == oid)?;
        Some(&greatest.key)
    }

    fn comment(&self, source: &Session, log: &Log) {
        if self.keys.is_empty() {
            return;
        }
        if source.server.in_recovery {
            log.info(
                None,
                "the source is a standby, where transactions in flight on its primary cannot be \
                 seen: rows that they commit late are found within the lookback only",
            );
        }
        let held = self.in_flight.intersection(&self.still_active.transactions).count();
        if held > 0 {
            log.debug(None, &format!("{held} transactions in flight hold the watermarks back"));
        }
        for name in &self.still_active.prepared {
            log.warning(
                None,
                &format!(
                    "the prepared transaction `{name}` holds the watermarks back until it ends"
                ),
            );
        }
    }
}

fn greatest_keys(
    source: &mut Session,
    tables: &BTreeMap<String, SourceTable>,
    rules: &[&Rule],
) -> Result<BTreeMap<String, Greatest>> {
    let with_key = |rule: &&Rule| {
        let table = tables.get(&rule.name)?;
        // What does not fit is said when it is the table's turn; the type of columns at the
        // destination does not matter here.
        let key = plan::shape(rule, table, u32::MAX).ok()?.key?;
        Some((rule.destination_name.clone(), table.oid, key.greatest(&table.name)))
    };
    let wanted: Vec<_> = rules.iter().filter_map(with_key).collect();
    let questions: Vec<String> = wanted.iter().map(|(_, _, question)| question.clone()).collect();
    let purpose = "read the greatest replication keys";
    let answers = source.answers(purpose, &questions, Patience::Long)?;
    // Without an answer the table holds no key, or may not be read; its own turn says so.
    let found = wanted.into_iter().zip(answers).filter_map(|((name, oid, _), rows)| {
        let key = rows?.pop()?.pop()??;
        Some((name, Greatest { oid, key }))
    });
    Ok(found.collect())
}
