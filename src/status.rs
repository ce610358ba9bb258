//! How fresh each table is, by what the destination and this host remember.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::catalog;
use crate::config::{Pipeline, Rule};
use crate::db::Session;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::report::{Freshness, Status, TableStatus};
use crate::runs;
use crate::sql::{self, Qualified};
use crate::state;
use crate::table::RECEIPTS;

/// Reads the state of every table of the pipeline. The source is not asked.
///
/// Fails where the destination cannot be reached.
pub fn read(pipeline: &Pipeline, interrupt: &Interrupt) -> Result<Status> {
    let mut destination = Session::connect(&pipeline.destination, interrupt)?;
    let schema = &pipeline.destination.schema;
    let receipts = Qualified::new(schema, RECEIPTS);
    let names: Vec<&str> = pipeline.rules.iter().map(|rule| &*rule.destination_name).collect();
    let found = state::receipts(&mut destination, &receipts, &names)?;
    let mut found: BTreeMap<_, _> =
        found.into_iter().map(|(table, written)| (table, written.receipt)).collect();
    let written_at =
        if found.is_empty() { BTreeMap::new() } else { written_at(&mut destination, &receipts)? };
    let tables = catalog::destination_tables(&mut destination, schema, &names)?;
    let runs = runs::read(&pipeline.directory);
    let status = |rule: &Rule| {
        let name = &rule.destination_name;
        let last = runs.tables.get(name).cloned().unwrap_or_default();
        let (receipt, unreadable) = match found.remove(name).transpose() {
            Ok(receipt) => (receipt, None),
            Err(error) => (None, Some(error.one_line())),
        };
        let written_at = written_at.get(name).copied();
        // A table with nothing to do gets no new receipt.
        let synced_at = last.succeeded_at.max(written_at);
        let watermark =
            receipt.as_ref().and_then(|receipt| receipt.progress.watermark.start.clone());
        let held_back =
            receipt.as_ref().is_some_and(|receipt| !receipt.progress.watermark.pending.is_empty());
        let error = unreadable.or(last.error);
        let freshness = match (&error, synced_at, tables.contains_key(name)) {
            (Some(_), _, _) => Freshness::Failed,
            (None, None, _) => Freshness::Never,
            (None, Some(_), false) => Freshness::Gone,
            (None, Some(_), true) => Freshness::Synced,
        };
        TableStatus {
            name: rule.name.clone(),
            freshness,
            watermark,
            held_back,
            synced_at,
            tried_at: last.tried_at,
            age: synced_at.map(|at| Timestamp::now().duration_since(at)),
            reconciled_at: receipt.and_then(|receipt| receipt.progress.reconciled_at),
            estimated_rows: tables.get(name).map(|table| table.estimated_rows),
            error,
        }
    };
    let tables = pipeline.rules.iter().map(status).collect();
    let age = runs.finished_at.map(|at| Timestamp::now().duration_since(at));
    Ok(Status { tables, ended_at: runs.finished_at, age, failure: runs.failure.clone() })
}

/// When the receipts were written, by the destination's clock.
fn written_at(
    destination: &mut Session,
    receipts: &Qualified,
) -> Result<BTreeMap<String, Timestamp>> {
    let rows = destination.rows("read the receipts", &sql::receipt::written_at(receipts))?;
    let time = |row: Vec<Option<String>>| match <[Option<String>; 2]>::try_from(row) {
        Ok([Some(table), Some(at)]) => Some((table, at.parse().ok()?)),
        _ => None,
    };
    Ok(rows.into_iter().filter_map(time).collect())
}
