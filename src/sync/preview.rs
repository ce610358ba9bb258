//! What the next sync would do, worked out as the sync works it out, and not done.

use serde_json::Value;

use super::prepare::Prepared;
use super::table::TableSync;
use super::{Request, look_around, preparation};
use crate::config::{Pipeline, Rule};
use crate::connections::Connections;
use crate::db::Session;
use crate::error::{Error, Kind, Result};
use crate::interrupt::Interrupt;
use crate::pg_dump::Installed;
use crate::plan::{self, Statement};
use crate::report::{Action, Log, Preview};
use crate::sql::copy::Selection;
use crate::sql::{Qualified, session};

/// Works out what a sync would do: hands what would run before the first table to `begin`, and what
/// would be done to each table to `tell`.
///
/// Fails where the request names a table that is not there, and where a server cannot be reached.
pub fn preview(
    pipeline: &Pipeline,
    request: &Request,
    interrupt: &Interrupt,
    log: &Log,
    begin: impl FnOnce(Vec<Statement>),
    mut tell: impl FnMut(Preview),
) -> Result<()> {
    let rules = pipeline.choose(&request.tables)?;
    let mut connections = Connections::new(pipeline, interrupt);
    connections.both()?;
    let (first, (tables, marks)) = connections.patiently(log, None, |connections| {
        let (source, destination) = connections.both()?;
        let first = preparation(destination, &pipeline.destination.schema)?;
        let next_transaction = destination.server.next_transaction;
        let schema = &pipeline.source.schema;
        Ok((first, look_around(source, next_transaction, schema, &rules, log)?))
    })?;
    begin(first);
    let pg_dump = Installed::for_source(&pipeline.source, &connections.both()?.0.server);
    let mut unreachable = false;
    for rule in rules {
        interrupt.check()?;
        if unreachable {
            connections.again(log)?;
        }
        let table = Qualified::new(&pipeline.destination.schema, &rule.destination_name);
        let looked = connections.patiently(log, Some(&rule.name), |connections| {
            let (source, destination) = connections.both()?;
            let (marks, pg_dump) = (&marks, &pg_dump);
            let sync = TableSync {
                pipeline,
                rule,
                table: &table,
                before: tables.get(&rule.name),
                log,
                marks,
                pg_dump,
                request,
                source,
                destination,
            };
            look(sync)
        });
        unreachable = looked.as_ref().is_err_and(|error| error.kind == Kind::Unreachable);
        tell(match looked {
            Ok(preview) => preview,
            Err(error) if error.kind == Kind::Interrupted => return Err(error),
            Err(error) => failed(rule, error),
        });
    }
    Ok(())
}

fn failed(rule: &Rule, error: Error) -> Preview {
    let error = error.within(format!("a sync of `{}` would fail", rule.name));
    Preview { error: Some(error), ..Preview::of(&rule.name) }
}

fn look(mut sync: TableSync) -> Result<Preview> {
    let (rule, table) = (sync.rule, sync.table);
    let facts = sync.facts()?;
    let situation = facts.situation(rule, table, false);
    let Prepared { found, plan, .. } = sync.prepare(&situation)?;
    let rows = plan.load.as_ref().map(|load| &load.rows);
    let (mut action, mut estimated_rows) = (Action::Sync(plan.sync_type), None);
    if let Some(rows) = rows {
        if plan.nothing_if_empty && plan.reconciliation.is_none() && !any(sync.source, rows)? {
            action = Action::Nothing;
        } else {
            estimated_rows = Some(estimate(sync.source, rows)?);
        }
    }
    sync.source.run("end the snapshot", session::COMMIT)?;
    let statements = if action == Action::Nothing { Vec::new() } else { plan.statements() };
    let schema_difference = situation.destination.map_or_else(Vec::new, |destination| {
        plan::schema_difference(situation.shape, &destination.columns)
    });
    Ok(Preview {
        action: Some(action),
        reason: Some(plan.reason),
        notes: [found.warnings, plan.warnings, plan.notes].concat(),
        schema_difference,
        estimated_rows,
        statements,
        ..Preview::of(&rule.name)
    })
}

fn any(source: &mut Session, rows: &Selection) -> Result<bool> {
    Ok(source.value("look for newer rows", &rows.any())?.as_deref() == Some("t"))
}

/// How many rows the source expects to read.
fn estimate(source: &mut Session, rows: &Selection) -> Result<u64> {
    let lines = source.rows("estimate the rows", &rows.explain())?;
    let text: Vec<String> = lines.into_iter().flatten().flatten().collect();
    let explained: Value = serde_json::from_str(&text.join("\n")).unwrap_or_default();
    Ok(explained[0]["Plan"]["Plan Rows"].as_f64().map_or(0, rounded))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of rows")]
fn rounded(rows: f64) -> u64 {
    rows.max(0.0).round() as u64
}
