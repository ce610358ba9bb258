//! Brings a destination in line with its source: the only file that knows the order of the steps.

mod advance;
mod idle;
mod marks;
mod prepare;
mod preview;
mod shard;
mod table;

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::catalog;
use crate::config::{Pipeline, Rule, Side};
use crate::connections::{Connections, side_by_side};
use crate::crash;
use crate::db::Session;
use crate::error::{Error, Kind, Result, counted};
use crate::interrupt::Interrupt;
use crate::pg_dump::Installed;
use crate::plan::{Statement, SyncType};
use crate::report::{Log, Report, TableReport};
use crate::sql::{self, Qualified};
use crate::state;
use crate::table::{RECEIPTS, SourceTable};

use idle::{Here, Idle};
use marks::Marks;
pub use preview::preview;
pub use shard::Shard;
use table::TableSync;

/// What one run is asked to do.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Request {
    /// Only these tables; all where empty.
    pub tables: Vec<String>,
    /// Only this part of them.
    pub shard: Option<Shard>,
    /// Copy every table whole.
    pub full_refresh: bool,
    /// Go on with the copies of another source, which this one is now.
    pub source_moved: bool,
    /// Look for rows that the source no longer has, whether it is time or not.
    pub reconcile: bool,
    /// Compare both sides afterwards.
    pub verify: bool,
    /// How many tables are synced at once.
    pub jobs: NonZeroUsize,
    /// Stop at the first table that fails.
    pub fail_fast: bool,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            tables: Vec::new(),
            shard: None,
            full_refresh: false,
            source_moved: false,
            reconcile: false,
            verify: false,
            jobs: NonZeroUsize::MIN,
            fail_fast: false,
        }
    }
}

/// Syncs the tables of a pipeline, one after the other or several at once. A table that fails does
/// not stop the rest.
///
/// Fails before anything is done where the request names a table that is not there. Everything
/// else is in the report.
pub fn run(
    pipeline: &Pipeline,
    request: &Request,
    interrupt: &Interrupt,
    log: &Log,
) -> Result<Report> {
    let mut rules = pipeline.choose(&request.tables)?;
    if let Some(shard) = request.shard {
        let all = rules.len() as u64;
        rules.retain(|rule| shard.has(&rule.destination_name));
        log.info(None, &format!("shard {shard} has {} of {}", rules.len(), counted(all, "table")));
    }
    let started_at = Timestamp::now();
    let mut reports: Vec<Option<TableReport>> = rules.iter().map(|_| None).collect();
    let failure = Run::start(pipeline, request, interrupt, log, &rules)
        .and_then(|run| run.all(&mut reports))
        .err();
    if let Some(failure) = &failure {
        log.error(failure);
    }
    let tables = rules.iter().zip(reports);
    let tables = tables.map(|(rule, report)| report.unwrap_or_else(|| untouched(rule))).collect();
    let pipeline = pipeline.name.clone();
    let report = Report { pipeline, started_at, finished_at: Timestamp::now(), tables, failure };
    log.summary(&report);
    Ok(report)
}

fn untouched(rule: &Rule) -> TableReport {
    TableReport {
        name: rule.name.clone(),
        destination_name: rule.destination_name.clone(),
        as_of: Timestamp::now(),
        sync_type: SyncType::Skipped,
        row_count: None,
        deleted_count: 0,
        duration: Duration::ZERO,
        reason: Some("the run ended before it".to_owned()),
        error: None,
    }
}

/// A run under way: what all its workers know.
struct Run<'a> {
    pipeline: &'a Pipeline,
    request: &'a Request,
    interrupt: &'a Interrupt,
    log: &'a Log,
    rules: &'a [&'a Rule],
    /// The first worker's sessions.
    connections: Connections<'a>,
    marks: Marks,
    /// When idle tables began to be looked for.
    looked_at: Timestamp,
    idle: Idle,
    /// What the source's catalog said of the tables when the run started.
    tables: BTreeMap<String, SourceTable>,
    pg_dump: Installed,
}

/// How long a worker waits to be let in, and between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(500);

/// The SQLSTATE of a server that lets no more sessions in.
const TOO_MANY_CONNECTIONS: &str = "53300";

/// What the workers share: the tables that are left, by their place in the file, and what became
/// of the others.
struct Queue<'r> {
    left: VecDeque<usize>,
    reports: &'r mut [Option<TableReport>],
}

impl<'a> Run<'a> {
    /// Connects, prepares the destination's schema, takes the marks of all tables, and finds those
    /// that need nothing.
    fn start(
        pipeline: &'a Pipeline,
        request: &'a Request,
        interrupt: &'a Interrupt,
        log: &'a Log,
        rules: &'a [&'a Rule],
    ) -> Result<Self> {
        let mut connections = Connections::new(pipeline, interrupt);
        // A server that cannot be reached is not waited for; one that is lost later is.
        connections.both()?;
        crash::at("connected");
        let candidates = idle::candidates(request, rules);
        let looked_at = Timestamp::now();
        let (tables, marks, here) = connections.patiently(log, None, |connections| {
            let (source, destination) = connections.both()?;
            prepare(pipeline, source, destination, (rules, &candidates), log)
        })?;
        crash::at("marks-taken");
        // A server that goes away from here on is waited for in the tables' own turns.
        let pg_dump = Installed::for_source(&pipeline.source, &connections.both()?.0.server);
        let found = here.and_then(|here| {
            let seen = (&tables, here);
            idle::find(pipeline, &candidates, seen, &marks, &mut connections, log)
        });
        let idle = match found {
            Err(error) if error.kind == Kind::Interrupted => return Err(error),
            Err(error) => {
                // Open transactions end with the sessions. Each table's own turn says what is wrong.
                connections.drop_both();
                log.debug(None, &format!("idle tables are not known: {}", error.one_line()));
                Idle::new()
            }
            Ok(idle) => idle,
        };
        Ok(Self {
            pipeline,
            request,
            interrupt,
            log,
            rules,
            connections,
            marks,
            looked_at,
            idle,
            tables,
            pg_dump,
        })
    }

    /// Syncs the tables, as many at once as was asked for.
    fn all(mut self, reports: &mut [Option<TableReport>]) -> Result<()> {
        let busy = self.rules.iter().filter(|rule| !self.idle.contains_key(&rule.destination_name));
        let jobs = self.request.jobs.get().min(busy.count().max(1));
        let mut left: VecDeque<usize> = (0..self.rules.len()).collect();
        if jobs > 1 {
            // The largest first, so that none of them is left when the others are done.
            let size = |at: &usize| {
                self.tables.get(&self.rules[*at].name).map(|table| table.estimated_bytes)
            };
            left.make_contiguous().sort_by_key(|at| Reverse(size(at)));
        }
        let queue = Mutex::new(Queue { left, reports });
        let mut own = Connections::new(self.pipeline, self.interrupt);
        std::mem::swap(&mut own, &mut self.connections);
        let (run, queue) = (&self, &queue);
        std::thread::scope(|scope| {
            let another = |_| {
                let work = move || run.work_once_let_in(queue);
                let spawned = std::thread::Builder::new().spawn_scoped(scope, work);
                spawned
                    .inspect_err(|error| run.log.warning(None, &format!("one job fewer: {error}")))
                    .ok()
            };
            let others: Vec<_> = (1..jobs).filter_map(another).collect();
            let first = run.work(own, queue);
            others.into_iter().fold(first, |done, other| {
                let panicked = |_| Err(Error::bug("a worker panicked"));
                done.and(other.join().unwrap_or_else(panicked))
            })
        })
    }

    /// Takes one table after the other until none is left.
    fn work(&self, mut connections: Connections<'a>, queue: &Mutex<Queue>) -> Result<()> {
        loop {
            self.interrupt.check()?;
            let Some(at) = locked(queue).left.pop_front() else { return Ok(()) };
            let report = self.table(self.rules[at], &mut connections);
            let error = report.error.clone();
            {
                let mut queue = locked(queue);
                self.log.table(&report);
                queue.reports[at] = Some(report);
            }
            let Some(error) = error else { continue };
            if error.kind == Kind::Interrupted {
                return Err(error);
            }
            if error.kind != Kind::Locked {
                self.log.error(&error);
                if self.request.fail_fast {
                    locked(queue).left.clear();
                }
            }
            if error.kind == Kind::Unreachable && !locked(queue).left.is_empty() {
                connections.again(self.log)?;
            }
        }
    }

    /// The same for a worker that others can do without: where no more sessions are let in for a while, or
    /// until no table is left, it does nothing.
    fn work_once_let_in(&self, queue: &Mutex<Queue>) -> Result<()> {
        let mut connections = Connections::new(self.pipeline, self.interrupt);
        let began = Instant::now();
        while !locked(queue).left.is_empty() {
            match connections.at_once() {
                Err(error) if error.sqlstate.as_deref() == Some(TOO_MANY_CONNECTIONS) => {
                    if began.elapsed() > LONGEST_WAIT {
                        let said = format!("one job fewer: {}", error.one_line());
                        self.log.warning(None, &said);
                        return Ok(());
                    }
                    self.interrupt.sleep(PAUSE)?;
                }
                // What else is wrong, the first table will say.
                _ => return self.work(connections, queue),
            }
        }
        Ok(())
    }

    fn table(&self, rule: &Rule, connections: &mut Connections) -> TableReport {
        let started = Instant::now();
        let mut report = untouched(rule);
        report.reason = None;
        match self.sync(rule, connections, &mut report) {
            Ok(rows) => report.row_count = Some(rows),
            Err(error) if matches!(error.kind, Kind::Interrupted | Kind::Locked) => {
                report.error = Some(error);
            }
            Err(error) => {
                let name = &rule.name;
                let error = error.or_look_closer("sync", name);
                report.error = Some(error.within(format!("cannot sync `{name}`")));
            }
        }
        report.duration = started.elapsed();
        report
    }

    /// Syncs a table under its lock, and tries again where that may help. Returns how many rows
    /// were copied or merged.
    fn sync(
        &self,
        rule: &Rule,
        connections: &mut Connections,
        report: &mut TableReport,
    ) -> Result<u64> {
        if let Some(reason) = self.idle.get(&rule.destination_name) {
            report.as_of = self.looked_at;
            table::begin(self.log, report, SyncType::Incremental, reason);
            return Ok(0);
        }
        let table = Qualified::new(&self.pipeline.destination.schema, &rule.destination_name);
        connections.patiently(self.log, Some(&rule.name), |connections| {
            connections.locked(&table, |source, destination| {
                let sync = TableSync {
                    pipeline: self.pipeline,
                    rule,
                    table: &table,
                    before: self.tables.get(&rule.name),
                    log: self.log,
                    marks: &self.marks,
                    pg_dump: &self.pg_dump,
                    request: self.request,
                    source,
                    destination,
                };
                sync.run(report)
            })
        })
    }
}

/// Where a worker panicked, its own report is missing, and the others' are as they should be.
fn locked<'q, 'r>(queue: &'q Mutex<Queue<'r>>) -> MutexGuard<'q, Queue<'r>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads what the source says of all tables and takes their marks, while what is missing in the
/// destination's schema is made, and what it has of the tables that may be idle is read. Where the
/// latter fails, each table's own turn says what is wrong.
fn prepare(
    pipeline: &Pipeline,
    source: &mut Session,
    destination: &mut Session,
    (rules, candidates): (&[&Rule], &[&Rule]),
    log: &Log,
) -> Result<(BTreeMap<String, SourceTable>, Marks, Result<Here>)> {
    let schema = &pipeline.destination.schema;
    let next_transaction = destination.server.next_transaction;
    let ((tables, marks), here) = side_by_side(
        || look_around(source, next_transaction, &pipeline.source.schema, rules, log),
        || {
            prepare_schema(destination, schema)?;
            Ok(Here::read(schema, candidates, destination))
        },
    )?;
    Ok((tables, marks, here))
}

/// Reads what the source says of all tables, and takes their marks. `written_before` as in
/// [`Marks::take`].
fn look_around(
    source: &mut Session,
    written_before: u64,
    schema: &str,
    rules: &[&Rule],
    log: &Log,
) -> Result<(BTreeMap<String, SourceTable>, Marks)> {
    let names: Vec<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
    let tables = catalog::source_tables(source, schema, &names)?;
    let marks = Marks::take(source, written_before, &tables, rules, log)?;
    Ok((tables, marks))
}

/// Makes the destination's schema and its table of receipts, where they are missing.
fn prepare_schema(destination: &mut Session, schema: &str) -> Result<()> {
    let user = sql::identifier(&destination.server.user);
    let hint = format!(
        "let the destination's user create it: GRANT CREATE, USAGE ON SCHEMA {} TO {user}, or where there \
         is no such schema GRANT CREATE ON DATABASE {} TO {user}",
        sql::identifier(schema),
        sql::identifier(&destination.server.database)
    );
    for Statement { purpose, sql, .. } in preparation(destination, schema)? {
        // IF NOT EXISTS does not see what another run creates at the same moment; once more does.
        let first = destination.run(&purpose, &sql);
        let taken = |error: &Error| {
            matches!(error.sqlstate.as_deref(), Some("23505" | "42P06" | "42P07" | "42710"))
        };
        let done = match first {
            Err(error) if taken(&error) => destination.run(&purpose, &sql),
            done => done,
        };
        done.map_err(|error| match error.sqlstate.as_deref() {
            Some("42501") => error.hint(&hint),
            _ => error,
        })?;
    }
    Ok(())
}

/// What is still to be made at the destination before the first table is.
fn preparation(destination: &mut Session, schema: &str) -> Result<Vec<Statement>> {
    let receipts = Qualified::new(schema, RECEIPTS);
    let [schema_there, receipts_there, ours, whole] =
        catalog::destination_schema(destination, &receipts)?;
    if receipts_there && !ours {
        return Err(state::not_our_receipts(&receipts));
    }
    let statement =
        |purpose: String, sql: String| Statement { on: Side::Destination, purpose, sql };
    let mut missing = Vec::new();
    if !schema_there {
        let sql = sql::ddl::create_schema(schema);
        missing.push(statement(format!("create the schema `{schema}`"), sql));
    }
    if !receipts_there {
        let sql = sql::receipt::create_table(&receipts);
        missing.push(statement(format!("create `{}`", receipts.plain()), sql));
    } else if !whole {
        let sql = sql::receipt::add_written_beside(&receipts);
        missing.push(statement(format!("add a column to `{}`", receipts.plain()), sql));
    }
    Ok(missing)
}
