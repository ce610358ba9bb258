//! Compares the tables of a pipeline, says which rows differ, and puts them right if asked to.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::apply::Application;
use crate::config::{Deletes, Mode, Pipeline, Rule, Side};
use crate::connections::Connections;
use crate::db::{Row, Session};
use crate::error::{Error, Kind, Result, shell_quoted};
use crate::facts::Facts;
use crate::interrupt::Interrupt;
use crate::plan::{self, Comparison, Depth, Expected, Remembered, Situation};
use crate::report::{Example, Log, Verdict};
use crate::sql::digest::{self, Kind as Difference};
use crate::sql::{Qualified, session};
use crate::state;

/// How many rows of each kind of difference are named.
const EXAMPLES: usize = 5;

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Only these tables; all where empty.
    pub tables: Vec<String>,
    /// Put right what differs.
    pub repair: bool,
}

/// Compares the tables, one after the other, and hands each verdict to `tell`. A table that cannot
/// be compared does not stop the rest.
///
/// Fails before anything is done where the request names a table that is not there, and where a
/// server cannot be reached.
pub fn run(
    pipeline: &Pipeline,
    request: &Request,
    interrupt: &Interrupt,
    log: &Log,
    mut tell: impl FnMut(Verdict),
) -> Result<()> {
    let rules = pipeline.choose(&request.tables)?;
    let mut connections = Connections::new(pipeline, interrupt);
    connections.both()?;
    let mut unreachable = false;
    for rule in rules {
        interrupt.check()?;
        if unreachable {
            connections.again(log)?;
        }
        let started = Instant::now();
        let mut verdict = Verdict {
            name: rule.name.clone(),
            compared: None,
            examples: Vec::new(),
            repaired: None,
            no_copy: None,
            duration: Duration::ZERO,
            error: None,
        };
        let table = Qualified::new(&pipeline.destination.schema, &rule.destination_name);
        let done = connections.patiently(log, Some(&rule.name), |connections| {
            connections.locked(&table, |source, destination| {
                let repair = request.repair;
                TableVerification {
                    pipeline,
                    rule,
                    table: &table,
                    log,
                    repair,
                    source,
                    destination,
                }
                .run(&mut verdict)
            })
        });
        verdict.duration = started.elapsed();
        unreachable = done.as_ref().is_err_and(|error| error.kind == Kind::Unreachable);
        verdict.error = done.err().map(|error| match error.kind {
            Kind::Interrupted | Kind::Locked => error,
            _ => error
                .or_look_closer("verify", &rule.name)
                .within(format!("cannot verify `{}`", rule.name)),
        });
        let interrupted = verdict.error.clone().filter(|error| error.kind == Kind::Interrupted);
        tell(verdict);
        if let Some(error) = interrupted {
            return Err(error);
        }
    }
    Ok(())
}

/// One table under its lock.
struct TableVerification<'a> {
    pipeline: &'a Pipeline,
    rule: &'a Rule,
    table: &'a Qualified,
    log: &'a Log,
    repair: bool,
    source: &'a mut Session,
    destination: &'a mut Session,
}

impl TableVerification<'_> {
    fn run(mut self, verdict: &mut Verdict) -> Result<()> {
        let name = Qualified::new(&self.pipeline.source.schema, &self.rule.name);
        let there = (&name, None);
        let facts = Facts::read(self.rule, there, self.table, self.source, self.destination)?;
        let situation = facts.situation(self.rule, self.table, true);
        plan::ready_to_compare(&situation)?;
        let (pending, settled) = self.newer(&situation, verdict)?;
        let comparison = Comparison {
            settled,
            ..plan::compare(&situation, Depth::Rows, Expected::Few, pending)
        };
        self.destination.run("begin a transaction", session::BEGIN_CONSISTENT)?;
        self.judge(&situation, comparison, verdict)?;
        self.source.run("end the snapshot", session::COMMIT)?;
        Ok(())
    }

    /// The source's condition on rows that are newer than the last sync, and the destination's on
    /// rows that were there then.
    fn newer(
        &mut self,
        situation: &Situation,
        verdict: &mut Verdict,
    ) -> Result<(Option<String>, Option<String>)> {
        let (source, key) = (situation.source, situation.shape.key.as_ref());
        let receipts = situation.receipts();
        let found = state::remember(&self.pipeline.directory, situation, self.destination)?;
        let outdated = match &found.remembered {
            Remembered::Nothing(why) => Some(why.clone()),
            Remembered::Receipt(receipt) => receipt.origin.outdated_by(situation.origin),
            Remembered::Predecessor { .. } => None,
        };
        if let Some(why) = outdated {
            let no_copy = no_copy(self.rule, self.table, &why);
            if self.repair {
                return Err(no_copy);
            }
            verdict.no_copy = Some(no_copy);
            return Ok((None, None));
        }
        let Remembered::Receipt(receipt) = found.remembered else { return Ok((None, None)) };
        let now = self.source.server.position(source, None);
        let pending = plan::unseen(&receipt.progress, key, source, &now);
        let system_identifier = self.destination.server.system_identifier.as_deref();
        // A trigger may keep what a sync removes.
        let removes = plan::keeps_keys_equal(self.rule)
            && found.written_beside_it
            && situation.destination.is_some_and(|there| !there.has_triggers);
        let watch =
            receipt.progress.destination.filter(|watch| removes && watch.is_of(system_identifier));
        let Some(watch) = watch else { return Ok((pending, None)) };
        let sql = digest::altered_since(self.table, &receipts, watch.xmin);
        let altered = self.destination.value("look for changes of others", &sql)?;
        let settled = (altered.as_deref() == Some("f"))
            .then(|| digest::settled_since(plan::ALIAS, self.table, &receipts, watch.xmin));
        Ok((pending, settled))
    }

    /// Compares, names a few rows, and repairs, in the destination's transaction.
    fn judge(
        &mut self,
        situation: &Situation,
        mut comparison: Comparison,
        verdict: &mut Verdict,
    ) -> Result<()> {
        let progress = self.log.progress(&self.rule.name, None);
        let source = (&mut *self.source, &self.pipeline.source);
        let named = (self.log, self.rule.name.as_str());
        let mut application = Application::new(source, self.destination, named, &progress);
        let mut compared = application.compare(&comparison)?;
        let rows = compared.destination_rows.unwrap_or_default();
        let limited = self.rule.mode != Mode::FullRefresh;
        let percent = self.rule.max_delete_percent;
        if limited && crate::digest::exceeds(compared.to_be_removed, rows, percent) {
            // The next sync will not remove so many: nobody may rely on it.
            comparison.settled = None;
            compared = application.compare(&comparison)?;
        }
        // A first attempt may have been cut short.
        verdict.examples.clear();
        let wrong = compared.differences.is_wrong();
        if wrong {
            verdict.examples = examples(&mut application, situation, &comparison)?;
        }
        verdict.compared = Some(compared.clone());
        if !wrong || !self.repair {
            application.destination.run("end the comparison", session::ROLLBACK)?;
            return Ok(());
        }
        let extra = match self.rule.deletes {
            Deletes::Keep => Deletes::Remove,
            other => other,
        };
        let repair = plan::reconcile(situation, comparison, extra).as_repair(situation);
        let mended = application.mend(&repair, &compared, 0)?;
        let left = application.compare(&repair.comparison)?.differences;
        if left.is_wrong() {
            application.destination.run("roll back", session::ROLLBACK)?;
            return Err(Error::table(format!(
                "the repair was undone, for it left {}",
                left.described()
            ))
            .hint("look for a trigger or a rule on the table at the destination"));
        }
        application.destination.run("commit", session::COMMIT)?;
        verdict.repaired = Some(mended);
        Ok(())
    }
}

/// A repair removes rows: not from what may be no copy of this table by this rule, and which the next sync
/// replaces.
fn no_copy(rule: &Rule, table: &Qualified, why: &str) -> Error {
    let table = table.plain();
    // What is added to is not replaced unless somebody asks for it.
    let asked = if rule.mode == Mode::IncrementalAppend { " --full-refresh" } else { "" };
    Error::table(format!("`{table}` may be no copy of `{}`, and is not repaired", rule.name))
        .because(why)
        .hint(format!(
            "run `incremental-replication sync --table {}{asked}`, which replaces it",
            shell_quoted(&rule.name)
        ))
}

/// A few rows of each kind of difference.
fn examples(
    application: &mut Application,
    situation: &Situation,
    comparison: &Comparison,
) -> Result<Vec<Example>> {
    let mut examples = Vec::new();
    for kind in Difference::ALL {
        let sql = digest::examples(kind, EXAMPLES);
        let digests = application.digests("list differences", &sql)?;
        if digests.is_empty() {
            continue;
        }
        let mut ask = |side| {
            let sql = plan::describe(situation, comparison, side, &digests);
            application.session(side).rows("name rows that differ", &sql)
        };
        match kind {
            Difference::Missing => examples.extend(named(situation, kind, &ask(Side::Source)?)),
            Difference::Extra => examples.extend(named(situation, kind, &ask(Side::Destination)?)),
            Difference::Different => {
                let (here, there) = (ask(Side::Source)?, ask(Side::Destination)?);
                examples.extend(compared(situation, &here, &there));
            }
        }
    }
    Ok(examples)
}

fn named(situation: &Situation, kind: Difference, rows: &[Row]) -> Vec<Example> {
    let columns = plan::telling_columns(situation);
    let example = |row: &Row| Example { kind, key: key(&columns, row), columns: Vec::new() };
    rows.iter().take(EXAMPLES).map(example).collect()
}

/// The rows that both sides have, each with the columns that differ.
fn compared(situation: &Situation, here: &[Row], there: &[Row]) -> Vec<Example> {
    let telling = plan::telling_columns(situation);
    let digest = |row: &Row| row.first().cloned().flatten();
    let there: BTreeMap<_, _> = there.iter().map(|row| (digest(row), row)).collect();
    let example = |row: &Row| {
        let other = there.get(&digest(row))?;
        let names = situation.shape.digested.iter().map(|column| column.name.clone());
        let values = row.iter().zip(other.iter()).skip(1 + telling.len());
        let differ = names.zip(values).filter(|(_, (one, other))| one != other);
        let columns = differ.map(|(name, _)| name).collect();
        Some(Example { kind: Difference::Different, key: key(&telling, row), columns })
    };
    here.iter().filter_map(example).take(EXAMPLES).collect()
}

/// A row's telling columns as a person reads them: `id=5, code=a`.
fn key(columns: &[String], row: &Row) -> String {
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "NULL".to_owned());
    let pair = |(name, found): (&String, &Option<String>)| format!("{name}={}", value(found));
    columns.iter().zip(row.iter().skip(1)).map(pair).collect::<Vec<_>>().join(", ")
}
