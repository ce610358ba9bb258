//! Brings a destination in line with its source: the only file that knows the order of the steps.

mod marks;
mod table;

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::catalog;
use crate::config::{Pipeline, Rule};
use crate::connections::Connections;
use crate::crash;
use crate::db::{Server, Session};
use crate::error::{Error, Kind, Result};
use crate::interrupt::Interrupt;
use crate::pg_dump;
use crate::plan::SyncType;
use crate::report::{Log, Report, TableReport};
use crate::sql::{self, Qualified};
use crate::table::RECEIPTS;

use marks::Marks;
use table::TableSync;

/// What one run is asked to do.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Request {
    /// Only these tables; all where empty.
    pub tables: Vec<String>,
    /// Copy every table whole.
    pub full_refresh: bool,
    /// Look for rows that the source no longer has, whether it is time or not.
    pub reconcile: bool,
    /// Compare both sides afterwards.
    pub verify: bool,
    /// Stop at the first table that fails.
    pub fail_fast: bool,
}

/// Syncs the tables of a pipeline, one after the other. A table that fails does not stop the rest.
///
/// Fails before anything is done where the request names a table that is not there. Everything
/// else is in the report.
pub fn run(
    pipeline: &Pipeline,
    request: &Request,
    interrupt: &Interrupt,
    log: &Log,
) -> Result<Report> {
    let rules = pipeline.choose(&request.tables)?;
    let started_at = Timestamp::now();
    let mut tables = Vec::new();
    let failure = Run::start(pipeline, request, interrupt, log, &rules)
        .and_then(|mut run| run.tables(&rules, &mut tables))
        .err();
    if let Some(failure) = &failure {
        log.error(failure);
    }
    for rule in &rules[tables.len()..] {
        tables.push(untouched(rule));
    }
    let pipeline = pipeline.name.clone();
    let report = Report { pipeline, started_at, finished_at: Timestamp::now(), tables, failure };
    log.summary(&report);
    Ok(report)
}

fn untouched(rule: &Rule) -> TableReport {
    TableReport {
        name: rule.name.clone(),
        sync_type: SyncType::Skipped,
        row_count: None,
        deleted_count: 0,
        duration: Duration::ZERO,
        reason: Some("the run ended before it".to_owned()),
        error: None,
    }
}

/// A run under way.
struct Run<'a> {
    pipeline: &'a Pipeline,
    request: &'a Request,
    interrupt: &'a Interrupt,
    log: &'a Log,
    connections: Connections<'a>,
    marks: Marks,
    pg_dump_unusable: Option<String>,
}

impl<'a> Run<'a> {
    /// Connects, prepares the destination's schema, and takes the marks of all tables.
    fn start(
        pipeline: &'a Pipeline,
        request: &'a Request,
        interrupt: &'a Interrupt,
        log: &'a Log,
        rules: &[&Rule],
    ) -> Result<Self> {
        let mut connections = Connections::new(pipeline, interrupt);
        // A server that cannot be reached is not waited for; one that is lost later is.
        connections.both()?;
        crash::at("connected");
        let marks = connections.patiently(log, None, |connections| {
            let (source, destination) = connections.both()?;
            prepare(pipeline, source, destination, rules, log)
        })?;
        crash::at("marks-taken");
        let pg_dump_unusable = pg_dump::unusable_for(connections.both()?.0.server.version);
        Ok(Self { pipeline, request, interrupt, log, connections, marks, pg_dump_unusable })
    }

    fn tables(&mut self, rules: &[&Rule], reports: &mut Vec<TableReport>) -> Result<()> {
        for rule in rules {
            self.interrupt.check()?;
            let report = self.table(rule);
            self.log.table(&report);
            let error = report.error.clone();
            reports.push(report);
            let Some(error) = error else { continue };
            if error.kind == Kind::Interrupted {
                return Err(error);
            }
            if error.kind != Kind::Locked {
                self.log.error(&error);
                if self.request.fail_fast {
                    break;
                }
            }
        }
        Ok(())
    }

    fn table(&mut self, rule: &Rule) -> TableReport {
        let started = Instant::now();
        let mut report = untouched(rule);
        report.reason = None;
        match self.sync(rule, &mut report) {
            Ok(rows) => report.row_count = Some(rows),
            Err(error) if matches!(error.kind, Kind::Interrupted | Kind::Locked) => {
                report.error = Some(error);
            }
            Err(error) => {
                report.error = Some(error.within(format!("cannot sync `{}`", rule.name)));
            }
        }
        report.duration = started.elapsed();
        report
    }

    /// Syncs a table under its lock, and tries again where that may help. Returns how many rows
    /// were copied or merged.
    fn sync(&mut self, rule: &Rule, report: &mut TableReport) -> Result<u64> {
        let Self { pipeline, request, log, connections, marks, pg_dump_unusable, .. } = self;
        let table = Qualified::new(&pipeline.destination.schema, &rule.destination_name);
        connections.patiently(log, Some(&rule.name), |connections| {
            connections.locked(&table, |source, destination| {
                let sync = TableSync {
                    pipeline,
                    rule,
                    table: &table,
                    log,
                    marks,
                    pg_dump_unusable: pg_dump_unusable.as_deref(),
                    request,
                    source,
                    destination,
                };
                sync.run(report)
            })
        })
    }
}

/// Looks at both servers, makes what is missing in the destination's schema, and takes the marks
/// of all tables.
fn prepare(
    pipeline: &Pipeline,
    source: &mut Session,
    destination: &mut Session,
    rules: &[&Rule],
    log: &Log,
) -> Result<Marks> {
    two_places(pipeline, &source.server, &destination.server)?;
    prepare_schema(destination, &pipeline.destination.schema)?;
    Marks::take(source, &pipeline.source.schema, rules, log)
}

/// Fails where the destination is the source itself, whose tables would be replaced.
fn two_places(pipeline: &Pipeline, source: &Server, destination: &Server) -> Result<()> {
    // A standby was started at another time than its primary, but is on its timeline.
    let same = (source.running_since == destination.running_since
        || source.in_recovery && source.timeline == destination.timeline)
        && source.system_identifier == destination.system_identifier
        && source.database == destination.database
        && pipeline.source.schema == pipeline.destination.schema;
    if !same {
        return Ok(());
    }
    Err(Error::configuration(format!(
        "source and destination are the same: schema `{}` of database `{}`",
        pipeline.source.schema, source.database
    ))
    .hint("set DEST_SCHEMA, DEST_DB or DEST_HOST to another place"))
}

/// Makes the destination's schema and its table of receipts, where they are missing.
fn prepare_schema(destination: &mut Session, schema: &str) -> Result<()> {
    let receipts = Qualified::new(schema, RECEIPTS);
    let (schema_there, receipts_there) = catalog::destination_schema(destination, &receipts)?;
    let hint = "let the destination's user create it, or create it yourself";
    let mut create = |there: bool, what: &str, sql: &str| {
        if there {
            return Ok(0);
        }
        let purpose = format!("create {what}");
        // IF NOT EXISTS does not see what another run creates at the same moment; once more does.
        let first = destination.run(&purpose, sql);
        let taken = |error: &Error| {
            matches!(error.sqlstate.as_deref(), Some("23505" | "42P06" | "42P07" | "42710"))
        };
        let done = match first {
            Err(error) if taken(&error) => destination.run(&purpose, sql),
            done => done,
        };
        done.map_err(|error| error.hint(hint))
    };
    create(schema_there, &format!("the schema `{schema}`"), &sql::ddl::create_schema(schema))?;
    create(
        receipts_there,
        &format!("`{}`", receipts.plain()),
        &sql::receipt::create_table(&receipts),
    )?;
    Ok(())
}
