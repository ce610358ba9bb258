//! Finds the tables that need nothing, many together: most tables of most runs are idle, and what
//! they cost is round trips.
//!
//! A table is idle where the last receipt says all that this sync's would say, and no row is newer
//! than it. Nothing is written for it, and the destination is what the source was when its
//! catalog was read. Whatever is in doubt is left to the table's own turn.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::Request;
use super::advance::{After, Look, next_receipt};
use super::marks::Marks;
use crate::catalog;
use crate::config::{Mode, Pipeline, Rule};
use crate::connections::Connections;
use crate::db::{Server, Session};
use crate::error::Result;
use crate::facts::Facts;
use crate::fault::{Fault, planted};
use crate::plan::{self, Decision, Merge, Remembered, Situation};
use crate::receipt::Receipt;
use crate::report::Log;
use crate::sql::session::Patience;
use crate::sql::{self, Qualified};
use crate::state::{self, Beside, Written, WrittenBeside};
use crate::table::{DestinationTable, RECEIPTS, SourceTable, staging_name};
use crate::watermark::Seen;
use crate::watermark::key::Key;

/// How many tables are looked at together.
const TABLES_AT_ONCE: usize = 100;

/// A table that is read whole to find out whether anything in it is newer is only read for that
/// purpose if it is no larger: what is found has to be read once more.
const SMALL_BYTES: u64 = 8 << 20;

/// The tables that need nothing, by their names at the destination, and why, as the second half of a
/// sentence.
pub(super) type Idle = BTreeMap<String, String>;

/// The rules whose tables may be found idle.
pub(super) fn candidates<'a>(request: &Request, rules: &[&'a Rule]) -> Vec<&'a Rule> {
    if request.full_refresh || request.reconcile || request.verify {
        return Vec::new();
    }
    let incremental = |rule: &&Rule| match rule.mode {
        Mode::IncrementalDeduped | Mode::IncrementalAppend => true,
        Mode::FullRefresh | Mode::Diff => false,
    };
    rules.iter().copied().filter(incremental).collect()
}

/// What the destination has of some tables.
///
/// No lock is taken: where another run is at work on one, this is what it has committed.
pub(super) struct Here {
    receipts: BTreeMap<String, (Receipt, WrittenBeside, Option<u32>)>,
    relations: BTreeMap<String, DestinationTable>,
}

impl Here {
    /// Reads it for those that may be idle.
    pub(super) fn read(
        schema: &str,
        candidates: &[&Rule],
        destination: &mut Session,
    ) -> Result<Self> {
        if candidates.is_empty() {
            return Ok(Self { receipts: BTreeMap::new(), relations: BTreeMap::new() });
        }
        let names: Vec<&str> =
            candidates.iter().map(|rule| rule.destination_name.as_str()).collect();
        let receipts = state::receipts(destination, &Qualified::new(schema, RECEIPTS), &names)?;
        let receipts = receipts
            .into_iter()
            .filter(|(_, written)| written.beside.is_it())
            .filter_map(|(table, Written { receipt, beside, transaction })| {
                Some((table, (receipt.ok()?, beside, transaction)))
            })
            .collect();
        let staging: Vec<String> = names.iter().map(|name| staging_name(name)).collect();
        let relations: Vec<&str> =
            names.into_iter().chain(staging.iter().map(String::as_str)).collect();
        let relations = catalog::destination_tables(destination, schema, &relations)?;
        Ok(Self { receipts, relations })
    }
}

/// Finds the tables that need nothing among those that may be idle. `tables` is what the source's
/// catalog says of them.
///
/// Fails where a server is gone or a signal arrived.
pub(super) fn find(
    pipeline: &Pipeline,
    candidates: &[&Rule],
    (tables, mut here): (&BTreeMap<String, SourceTable>, Here),
    marks: &Marks,
    connections: &mut Connections,
    log: &Log,
) -> Result<Idle> {
    let mut idle = Idle::new();
    let (source, destination) = connections.both()?;
    let all: Vec<(&Rule, Qualified)> = candidates
        .iter()
        .map(|rule| (*rule, Qualified::new(&pipeline.destination.schema, &rule.destination_name)))
        .collect();
    for some in all.chunks(TABLES_AT_ONCE) {
        let servers = (&source.server, &destination.server);
        let asked: Vec<Asked> = some
            .iter()
            .filter_map(|(rule, table)| {
                let there = tables.get(&rule.name)?.clone();
                question(pipeline, rule, table, (there, &mut here), marks, servers)
            })
            .collect();
        let questions: Vec<String> = asked.iter().map(|asked| asked.question.clone()).collect();
        for question in &questions {
            log.debug(None, &format!("source: {question}"));
        }
        let answers = source.answers("look for newer rows", &questions, Patience::Short)?;
        for (asked, answer) in asked.into_iter().zip(answers) {
            let none = answer.as_deref() == Some(&[vec![Some("f".to_owned())]]);
            if none || planted(Fault::NewerOverlooked) {
                if let Some(receipt) = asked.missing {
                    state::write_missing(&pipeline.directory, asked.table, &receipt);
                }
                idle.insert(asked.table.to_owned(), asked.reason);
            }
        }
    }
    Ok(idle)
}

/// A table that is idle if the source says that it has no newer row.
struct Asked<'a> {
    table: &'a str,
    question: String,
    reason: String,
    /// The receipt that its state file is missing to repeat.
    missing: Option<Receipt>,
}

/// What to ask the source about a table, if it may be idle.
fn question<'a>(
    pipeline: &Pipeline,
    rule: &Rule,
    table: &'a Qualified,
    (there, here): (SourceTable, &mut Here),
    marks: &Marks,
    (source, destination): (&Server, &Server),
) -> Option<Asked<'a>> {
    let (receipt, written_beside, written_in) = here.receipts.remove(&table.name)?;
    let small = there.estimated_bytes <= SMALL_BYTES;
    // To change a file, or to remove one, is for who holds the table's lock.
    let beside = state::beside(&pipeline.directory, &table.name, &receipt);
    if beside == Beside::Other {
        return None;
    }
    let facts = Facts::of(rule, table, there, &mut here.relations, (source, destination)).ok()?;
    let situation = facts.situation(rule, table, false);
    if written_beside.was_emptied(situation.destination) {
        return None;
    }
    let key = situation.shape.key.as_ref();
    let remembered = Remembered::Receipt(Box::new(receipt.clone()));
    let Ok(Decision::Merge { progress, reason, evolution: None }) =
        plan::decide(&situation, &remembered, false)
    else {
        return None;
    };
    if plan::is_due(rule, false, progress.reconciled_at, Timestamp::now())
        || !plan::columns_to_refuse_null(&situation).is_empty()
    {
        return None;
    }
    let mark = marks.key_of(&table.name, situation.source.oid, source);
    let position = source.position(situation.source, None);
    // Parts that hold nothing yet are no parts, as in the table's own turn.
    let mut filled = situation.source.clone();
    let mut new = Vec::new();
    if key.is_some() {
        new = plan::moved(&progress, &filled, &position);
        filled.storage.retain(|part| !new.contains(&part.oid));
    }
    let situation = Situation { source: &filled, ..situation };
    // Where nobody has looked at keys that may go back, the table's own turn does.
    if mark == Seen::Nothing && key.is_some_and(Key::may_go_back) {
        return None;
    }
    let look = Look { mark: mark.map(str::to_owned), now: None };
    let since = plan::since(&progress, (key, look.keys()), situation.source, &position);
    // What is read whatever the keys are is found by its partition's bounds in the table's own turn.
    let again = !plan::again(&progress, situation.source).is_empty();
    if (key.is_none() || since.condition.is_none() || again) && !small {
        return None;
    }
    let selection = since.selection(&situation);
    let after = After { marks, began: Some(situation.source), written_in, look: &look };
    let next = next_receipt(&pipeline.name, &situation, &progress, source, &after);
    let known = receipt.origin == next.origin && progress.serves_as_well_as(&next.progress);
    let merge = Merge {
        reason,
        since: Some(since),
        reconciliation: None,
        evolution: None,
        receipt: &next,
        known,
        holding_null: &[],
    };
    let plan = plan::incremental(&situation, merge);
    plan.nothing_if_empty.then(|| Asked {
        table: &table.name,
        question: sql::catalog::or_filled(&selection.any(), &new),
        reason: plan.reason,
        missing: (beside == Beside::Missing).then_some(receipt),
    })
}
