//! The marks of all tables, taken together when a run starts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::catalog;
use crate::config::Rule;
use crate::db::{Server, Session};
use crate::error::Result;
use crate::plan;
use crate::report::Log;
use crate::sql::session::Patience;
use crate::table::SourceTable;
use crate::watermark::{Activity, Mark, Seen, Watermark};

/// The first pause between two looks at the transactions in flight.
const FIRST_LOOK: Duration = Duration::from_millis(10);

/// The longest one.
const LONGEST_LOOK: Duration = Duration::from_millis(100);

/// The greatest keys of all tables, who was at work when they were read, and who still was later.
pub(super) struct Marks {
    keys: BTreeMap<String, Greatest>,
    in_flight: BTreeSet<String>,
    /// Read after the marks were taken, and before any snapshot of this run.
    still_active: Activity,
    /// Whose they are.
    source: Server,
    /// The next transaction id of the destination, before any of this was read.
    written_before: u64,
}

struct Greatest {
    oid: u32,
    /// None where the table held none.
    key: Option<String>,
}

impl Marks {
    /// Takes the mark of every table that has a column as its replication key, then waits for the
    /// transactions in flight to end, no longer than `settle`. Receipts of transactions of the
    /// destination below `written_before` are older than the marks.
    pub(super) fn take(
        source: &mut Session,
        written_before: u64,
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
        let source_then = source.server.clone();
        let marks = Self { keys, in_flight, still_active, source: source_then, written_before };
        marks.comment(source, tables, log);
        Ok(marks)
    }

    /// The greatest key of a table when its mark was taken, by its name at the destination: one source
    /// may be copied by several keys. Nothing is known where the table was made again since, or where
    /// another server answers now: what was true of the old one's keys is not of the new one's.
    pub(super) fn key_of(&self, table: &str, oid: u32, source: &Server) -> Seen<&str> {
        match self.keys.get(table) {
            Some(greatest) if greatest.oid == oid && self.source.has_gone_on_as(source) => {
                greatest.key.as_deref().map_or(Seen::NoKey, Seen::Key)
            }
            _ => Seen::Nothing,
        }
    }

    /// The watermark after a sync that went on from `before` and saw this key. Nothing is said of it where
    /// the marks do not serve.
    pub(super) fn advance(
        &self,
        key: Seen<&str>,
        source: &Server,
        before: &Watermark,
        written_in: Option<u32>,
    ) -> Watermark {
        if !self.serve(source, written_in) {
            return before.clone();
        }
        let mark = |key: &str| Mark { key: key.to_owned(), in_flight: self.in_flight.clone() };
        before.advance(key.map(mark), &self.still_active)
    }

    /// Whether they say something of this server, and of a receipt that the transaction `written_in` of
    /// the destination wrote.
    fn serve(&self, source: &Server, written_in: Option<u32>) -> bool {
        let meanwhile = written_in.is_some_and(|writer| self.may_be_older_than(writer));
        !meanwhile && self.source.has_gone_on_as(source)
    }

    /// Whether another run may have written a receipt, in this transaction of the destination, after the
    /// marks were taken.
    fn may_be_older_than(&self, writer: u32) -> bool {
        let began = u32::try_from(self.written_before % (1 << 32)).unwrap_or_default();
        // Ids go round: half of them are younger than any.
        writer.wrapping_sub(began) < 1 << 31
    }

    /// Whether all that were at work when they were taken have ended, as far as they serve.
    pub(super) fn are_safe(&self, source: &Server, written_in: Option<u32>) -> bool {
        self.serve(source, written_in)
            && self.still_active.prepared.is_empty()
            && self.in_flight.is_disjoint(&self.still_active.transactions)
    }

    fn comment(&self, source: &Session, tables: &BTreeMap<String, SourceTable>, log: &Log) {
        if self.keys.is_empty() {
            return;
        }
        let keyed = |table: &&SourceTable| self.keys.values().any(|key| key.oid == table.oid);
        let foreign = tables.values().filter(keyed).filter(|table| table.has_foreign_parts);
        for SourceTable { name, .. } in foreign {
            log.info(
                Some(&name.name),
                "transactions in flight on another server cannot be seen: rows of foreign tables that \
                 they commit late are found within the lookback only",
            );
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
    // Without an answer it may not be read, or is held by somebody; its own turn says so.
    let found = wanted.into_iter().zip(answers).filter_map(|((name, oid, _), rows)| {
        let key = rows?.pop().and_then(|mut row| row.pop()).flatten();
        Some((name, Greatest { oid, key }))
    });
    Ok(found.collect())
}
