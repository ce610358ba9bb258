//! Finds the tables that need nothing, many together: most tables of most runs are idle, and what
//! they cost is round trips.
//!
//! A table is idle where the last receipt says all that this sync's would say, and no row is newer
//! than it. Nothing is written for it, and the destination is what the source was when its
//! catalog was read. Whatever is in doubt is left to the table's own turn.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::Request;
use super::marks::Marks;
use super::table::next_receipt;
use crate::catalog;
use crate::config::{Mode, Pipeline, Rule};
use crate::connections::Connections;
use crate::db::Server;
use crate::error::Result;
use crate::facts::Facts;
use crate::fault::{Fault, planted};
use crate::plan::{self, Decision, Merge, Remembered};
use crate::receipt::Receipt;
use crate::report::Log;
use crate::sql::{Qualified, session};
use crate::state;
use crate::table::{DestinationTable, RECEIPTS, SourceTable, staging_name};

/// How many tables are locked at once, at most: another run may want them.
const TABLES_AT_ONCE: usize = 100;

/// A table that is read whole to find out whether anything in it is newer is only read for that
/// purpose if it is no larger: what is found has to be read once more.
const SMALL_BYTES: u64 = 8 << 20;

/// The tables that need nothing, and why, as the second half of a sentence.
pub(super) type Idle = BTreeMap<String, String>;

/// Finds the tables that need nothing. `tables` is what the source's catalog says of them.
///
/// Fails where a server is gone or a signal arrived.
pub(super) fn find(
    pipeline: &Pipeline,
    request: &Request,
    (rules, tables): (&[&Rule], &[SourceTable]),
    marks: &Marks,
    connections: &mut Connections,
    log: &Log,
) -> Result<Idle> {
    let mut idle = Idle::new();
    if request.full_refresh || request.reconcile || request.verify {
        return Ok(idle);
    }
    let incremental = |rule: &&&Rule| match rule.mode {
        Mode::IncrementalDeduped | Mode::IncrementalAppend => true,
        Mode::FullRefresh | Mode::Diff => false,
    };
    let candidates: Vec<&Rule> = rules.iter().filter(incremental).copied().collect();
    for rules in candidates.chunks(TABLES_AT_ONCE) {
        let locked = Locked::take(pipeline, rules, connections)?;
        let asked = locked.questions(pipeline, tables, marks, connections)?;
        let (source, destination) = connections.both()?;
        let questions: Vec<String> = asked.iter().map(|asked| asked.question.clone()).collect();
        for question in &questions {
            log.debug(None, &format!("source: {question}"));
        }
        let answers = source.answers("look for newer rows", &questions)?;
        for (asked, answer) in asked.into_iter().zip(answers) {
            let none = answer.as_deref() == Some(&[vec![Some("f".to_owned())]]);
            if none || planted(Fault::NewerOverlooked) {
                if let Some(receipt) = asked.to_repeat {
                    state::write_file(&pipeline.directory, asked.table, &receipt)?;
                }
                idle.insert(asked.rule.name.clone(), asked.reason);
            }
        }
        let names: Vec<&Qualified> = locked.0.iter().map(|(_, table)| table).collect();
        if !names.is_empty() {
            destination.run("unlock the tables", &session::unlock(&names))?;
        }
    }
    Ok(idle)
}

/// Rules whose tables are locked.
struct Locked<'a>(Vec<(&'a Rule, Qualified)>);

/// A table that is idle if the source says that it has no newer row.
struct Asked<'a> {
    rule: &'a Rule,
    table: &'a str,
    question: String,
    reason: String,
    /// The receipt that its state file is to repeat.
    to_repeat: Option<Receipt>,
}

impl<'a> Locked<'a> {
    fn take(
        pipeline: &Pipeline,
        rules: &[&'a Rule],
        connections: &mut Connections,
    ) -> Result<Self> {
        let name = |rule: &&'a Rule| {
            (*rule, Qualified::new(&pipeline.destination.schema, &rule.destination_name))
        };
        let all: Vec<(&Rule, Qualified)> = rules.iter().map(name).collect();
        let names: Vec<&Qualified> = all.iter().map(|(_, table)| table).collect();
        let (_, destination) = connections.both()?;
        let row = destination.rows("lock the tables", &session::try_lock(&names))?.pop();
        let locked = all.into_iter().zip(row.unwrap_or_default());
        Ok(Self(
            locked.filter(|(_, got)| got.as_deref() == Some("t")).map(|(one, _)| one).collect(),
        ))
    }

    /// What to ask the source about each of them that may be idle.
    fn questions(
        &self,
        pipeline: &Pipeline,
        tables: &[SourceTable],
        marks: &Marks,
        connections: &mut Connections,
    ) -> Result<Vec<Asked<'_>>> {
        let schema = &pipeline.destination.schema;
        let names: Vec<&str> = self.0.iter().map(|(_, table)| table.name.as_str()).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let (source, destination) = connections.both()?;
        let receipts = state::receipts(destination, &Qualified::new(schema, RECEIPTS), &names)?;
        let mut receipts: BTreeMap<String, Receipt> =
            receipts.into_iter().filter_map(|(table, found)| Some((table, found.ok()?))).collect();
        let staging: Vec<String> = names.iter().map(|name| staging_name(name)).collect();
        let all: Vec<&str> = names.into_iter().chain(staging.iter().map(String::as_str)).collect();
        let mut here = catalog::destination_tables(destination, schema, &all)?;
        let servers = (&source.server, &destination.server);
        let asked = self.0.iter().filter_map(|(rule, table)| {
            let receipt = receipts.remove(&table.name)?;
            let there = tables.iter().find(|there| there.name.name == rule.name)?.clone();
            question(pipeline, rule, table, (there, &mut here), receipt, marks, servers)
        });
        Ok(asked.collect())
    }
}

/// What to ask the source about a table, if it may be idle.
fn question<'a>(
    pipeline: &Pipeline,
    rule: &'a Rule,
    table: &'a Qualified,
    (there, here): (SourceTable, &mut BTreeMap<String, DestinationTable>),
    receipt: Receipt,
    marks: &Marks,
    (source, destination): (&Server, &Server),
) -> Option<Asked<'a>> {
    let small = there.estimated_bytes <= SMALL_BYTES;
    state::forget_half_written(&pipeline.directory, &table.name);
    let file_repeats_it = state::repeats(&pipeline.directory, &table.name, &receipt)?;
    let facts = Facts::of(rule, table, there, here, (source, destination)).ok()?;
    let situation = facts.situation(rule, table, false);
    let key = situation.shape.key.as_ref();
    let remembered = Remembered::Receipt(Box::new(receipt.clone()));
    let Ok(Decision::Merge { progress, reason }) = plan::decide(&situation, &remembered, false)
    else {
        return None;
    };
    if plan::is_due(rule, false, progress.reconciled_at, Timestamp::now())
        || !plan::columns_to_refuse_null(&situation).is_empty()
    {
        return None;
    }
    let since =
        plan::since(&progress, key, situation.source, &source.position(situation.source, None));
    if key.is_none() && !small {
        return None;
    }
    let condition = since.condition.clone()?;
    let next = next_receipt(&pipeline.name, &situation, &progress, (source, marks));
    let known = receipt.origin == next.origin && progress.serves_as_well_as(&next.progress);
    let selection = situation.shape.selection(rule, situation.source, Some(condition));
    let merge = Merge {
        reason,
        since: Some(since),
        reconciliation: None,
        receipt: &next,
        known,
        holding_null: &[],
    };
    let plan = plan::incremental(&situation, merge);
    plan.nothing_if_empty.then(|| Asked {
        rule,
        table: &table.name,
        question: selection.any(),
        reason: plan.reason,
        to_repeat: (!file_repeats_it).then_some(receipt),
    })
}
