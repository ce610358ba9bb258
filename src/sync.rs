//! Brings a destination in line with its source: the only file that knows the order of the steps.

mod connections;

use std::time::Instant;

use jiff::Timestamp;

use crate::apply::{Application, Applied};
use crate::catalog;
use crate::config::{Pipeline, Rule};
use crate::db::{Server, Session};
use crate::error::{Error, Kind, Result, did_you_mean};
use crate::interrupt::Interrupt;
use crate::pg_dump;
use crate::plan::{self, Decision, First, Plan, Shape, Situation, SyncType};
use crate::progress::Progress;
use crate::receipt::{CopiedColumn, Receipt, SourceIdentity, VERSION};
use crate::report::{Log, Report, TableReport, Verbosity};
use crate::sql::{self, Qualified, session};
use crate::state;
use crate::table::{Kind as Relation, RECEIPTS, SourceTable, staging_name};

use connections::Connections;

/// What one run is asked to do.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Only these tables; all where empty.
    pub tables: Vec<String>,
    /// Copy every table whole.
    pub full_refresh: bool,
    /// Stop at the first table that fails.
    pub fail_fast: bool,
}

impl Request {
    /// The rules this run is about, in the order of the file.
    ///
    /// Fails on a name that the pipeline does not have.
    fn choose<'a>(&self, pipeline: &'a Pipeline) -> Result<Vec<&'a Rule>> {
        let names = || pipeline.rules.iter().map(|rule| rule.name.as_str());
        for wanted in &self.tables {
            if names().any(|name| name == wanted) {
                continue;
            }
            let error = Error::configuration(format!("tables-config.json has no table `{wanted}`"));
            return Err(match did_you_mean(wanted, names()) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => {
                    error.hint(format!("its tables are {}", names().collect::<Vec<_>>().join(", ")))
                }
            });
        }
        let chosen = |rule: &&Rule| self.tables.is_empty() || self.tables.contains(&rule.name);
        Ok(pipeline.rules.iter().filter(chosen).collect())
    }
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
    let rules = request.choose(pipeline)?;
    let started_at = Timestamp::now();
    let mut tables = Vec::new();
    let failure = Run::start(pipeline, request, interrupt, log)
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
        duration: std::time::Duration::ZERO,
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
    pg_dump_unusable: Option<String>,
}

impl<'a> Run<'a> {
    fn start(
        pipeline: &'a Pipeline,
        request: &'a Request,
        interrupt: &'a Interrupt,
        log: &'a Log,
    ) -> Result<Self> {
        let mut connections = Connections::new(pipeline, interrupt);
        let (source, destination) = connections.both()?;
        two_places(pipeline, &source.server, &destination.server)?;
        let pg_dump_unusable = pg_dump::unusable_for(source.server.version);
        prepare_schema(destination, &pipeline.destination.schema)?;
        Ok(Self { pipeline, request, interrupt, log, connections, pg_dump_unusable })
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
                // Half-read results and open transactions go with the sessions.
                self.connections.drop_both();
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

    /// Syncs a table under its lock and returns how many rows were copied or merged.
    fn sync(&mut self, rule: &Rule, report: &mut TableReport) -> Result<u64> {
        let table = Qualified::new(&self.pipeline.destination.schema, &rule.destination_name);
        let (source, destination) = self.connections.both()?;
        let locked = destination.value("lock the table", &session::try_lock(&table))?;
        if locked.as_deref() != Some("t") {
            return Err(Error::locked(format!("another run holds `{}`", table.plain())));
        }
        let work = TableWork {
            pipeline: self.pipeline,
            rule,
            table: &table,
            log: self.log,
            pg_dump_unusable: self.pg_dump_unusable.as_deref(),
            source,
            destination,
        };
        let rows = work.sync(self.request.full_refresh, report)?;
        self.connections.destination()?.run("unlock the table", &session::unlock(&table))?;
        Ok(rows)
    }
}

/// Fails where the destination is the source itself, whose tables would be replaced.
fn two_places(pipeline: &Pipeline, source: &Server, destination: &Server) -> Result<()> {
    let same = source.running_since == destination.running_since
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
    if !schema_there {
        destination
            .run(&format!("create the schema `{schema}`"), &sql::ddl::create_schema(schema))
            .map_err(|error| error.hint(hint))?;
    }
    if !receipts_there {
        destination
            .run(&format!("create `{}`", receipts.plain()), &sql::receipt::create_table(&receipts))
            .map_err(|error| error.hint(hint))?;
    }
    Ok(())
}

/// One table under its lock.
struct TableWork<'a> {
    pipeline: &'a Pipeline,
    rule: &'a Rule,
    table: &'a Qualified,
    log: &'a Log,
    pg_dump_unusable: Option<&'a str>,
    source: &'a mut Session,
    destination: &'a mut Session,
}

impl TableWork<'_> {
    fn sync(mut self, full_refresh: bool, report: &mut TableReport) -> Result<u64> {
        let source_name = Qualified::new(&self.pipeline.source.schema, &self.rule.name);
        let source = self.open_snapshot(&source_name)?;
        let shape = plan::shape(self.rule, &source, self.destination.server.version)?;
        let receipt = self.new_receipt(&source, &shape)?;
        let staging = staging_name(&self.table.name);
        let names = [self.table.name.as_str(), staging.as_str()];
        let [destination, staging] =
            catalog::destination_tables(self.destination, &self.table.schema, names)?;
        let situation = Situation {
            rule: self.rule,
            source: &source,
            shape: &shape,
            table: self.table,
            destination: destination.as_ref(),
            staging: staging.as_ref(),
            destination_version: self.destination.server.version,
            receipt: &receipt,
        };
        let found = state::remember(
            &self.pipeline.directory,
            self.table,
            destination.as_ref(),
            shape.key.as_ref(),
            self.destination,
        )?;
        for warning in &found.warnings {
            self.log.warning(Some(&self.rule.name), warning);
        }
        let decision = plan::decide(&situation, &found.remembered, full_refresh)?;
        let plan = self.plan(&situation, decision, found.receipt_there)?;
        let rows = match self.apply(&plan, report) {
            Err(error) if plan.heals_by_copying(&error) => {
                self.open_snapshot(&source_name)?;
                let reason = "rows at the destination share their unique columns".to_owned();
                let decision = Decision::Copy { sync_type: SyncType::Initial, reason };
                let plan = self.plan(&situation, decision, found.receipt_there)?;
                self.apply(&plan, report)?
            }
            applied => applied?,
        };
        match rows {
            Applied::Rows(rows) => {
                state::write_file(&self.pipeline.directory, &self.table.name, &receipt)?;
                Ok(rows)
            }
            Applied::Nothing => {
                self.source.run("end the snapshot", session::COMMIT)?;
                Ok(0)
            }
        }
    }

    /// Opens the source's transaction and reads the table's shape in it.
    fn open_snapshot(&mut self, name: &Qualified) -> Result<SourceTable> {
        // What it is decides whether it can be locked, and is looked up before the snapshot.
        let kind = catalog::source_table(self.source, name)?.kind;
        let lock = matches!(kind, Relation::Table | Relation::Partitioned).then_some(name);
        self.source.run("lock the table", &session::begin_snapshot(lock))?;
        catalog::source_table(self.source, name)
    }

    fn new_receipt(&mut self, source: &SourceTable, shape: &Shape) -> Result<Receipt> {
        let watermark = match &shape.key {
            Some(key) => self
                .source
                .value("read the greatest replication key", &key.greatest(&source.name))?,
            None => None,
        };
        let server = &self.source.server;
        let copied = |name: &str| {
            let column = source.column(name)?;
            Some(CopiedColumn {
                name: column.name.clone(),
                number: column.number,
                data_type: column.data_type.declared.clone(),
            })
        };
        Ok(Receipt {
            version: VERSION,
            pipeline: self.pipeline.name.clone(),
            source: SourceIdentity {
                system_identifier: server.system_identifier.clone(),
                database: server.database.clone(),
                schema: source.name.schema.clone(),
                table: source.name.name.clone(),
            },
            source_table_oid: source.oid,
            mode: self.rule.mode.name().to_owned(),
            replication_key: shape.key.as_ref().map(|key| key.column.clone()),
            unique_columns: shape.unique_columns.clone(),
            columns: shape.names().into_iter().filter_map(copied).collect(),
            filter: self.rule.filter.clone(),
            watermark,
        })
    }

    fn plan(
        &mut self,
        situation: &Situation,
        decision: Decision,
        receipt_there: bool,
    ) -> Result<Plan> {
        match decision {
            Decision::Merge { watermark, reason } => {
                Ok(plan::incremental(situation, watermark.as_deref(), reason, receipt_there))
            }
            Decision::Copy { sync_type, reason } => {
                let dependents = match situation.destination {
                    Some(_) => catalog::dependents(self.destination, self.table)?,
                    None => None,
                };
                let first = First {
                    dependents: dependents.as_ref(),
                    pg_dump_unusable: self.pg_dump_unusable,
                    user: &self.destination.server.user,
                };
                plan::initial(situation, sync_type, reason, &first)
            }
        }
    }

    fn apply(&mut self, plan: &Plan, report: &mut TableReport) -> Result<Applied> {
        let name = &self.rule.name;
        report.sync_type = plan.sync_type;
        report.reason = Some(plan.reason.clone());
        self.log.info(Some(name), &format!("{} sync: {}", plan.sync_type.name(), plan.reason));
        for note in &plan.notes {
            self.log.info(Some(name), note);
        }
        let progress = Progress::start(name, self.log.verbosity > Verbosity::Quiet);
        Application {
            source: self.source,
            endpoint: &self.pipeline.source,
            destination: self.destination,
            log: self.log,
            table: name,
            progress: &progress,
        }
        .run(plan)
    }
}
