//! Carries out a plan, statement by statement.

use std::panic::resume_unwind;
use std::time::{Duration, Instant};

use crate::catalog;
use crate::config::{Endpoint, Side};
use crate::copy;
use crate::crash;
use crate::db::{Flusher, Session};
use crate::digest::Mended;
use crate::error::{Error, Result};
use crate::fault::{Fault, planted};
use crate::pg_dump;
use crate::plan::{DEPENDED_ON, Load, Outcome, Plan, Reading, Shortcut, Step};
use crate::progress::Progress;
use crate::report::Log;
use crate::sql::session;

/// The two sessions of a table, and who listens.
pub struct Application<'a> {
    pub(crate) source: &'a mut Session,
    endpoint: &'a Endpoint,
    pub(crate) destination: &'a mut Session,
    pub(crate) log: &'a Log,
    /// The table's name in the log.
    pub(crate) table: &'a str,
    pub(crate) progress: &'a Progress,
    /// Whether many rows have been written by the last COPY.
    many: bool,
    /// Has the destination's log written to the disk where many rows add to it.
    flusher: Flusher,
}

/// What applying a plan did.
#[derive(Debug)]
pub enum Applied<Made> {
    /// The destination was written to.
    Rows {
        /// How many rows were copied or merged.
        written: u64,
        /// How many were removed or marked.
        deleted: u64,
        /// What was made meanwhile.
        made: Made,
    },
    /// No row travelled, and the destination was not written to.
    Nothing,
}

impl<'a> Application<'a> {
    /// Of a source inside the transaction whose snapshot is read, which is at this place for pg_dump, and a
    /// destination outside of any. What is run goes to the log under this name.
    pub fn new(
        (source, endpoint): (&'a mut Session, &'a Endpoint),
        destination: &'a mut Session,
        (log, table): (&'a Log, &'a str),
        progress: &'a Progress,
    ) -> Self {
        let flusher = destination.flusher();
        Self { source, endpoint, destination, log, table, progress, many: false, flusher }
    }

    /// Carries the plan out, and makes what else is to reach a disk while the destination's server writes its
    /// own. Where it fails, nothing of it remains at the destination.
    pub fn run<Made: Send>(
        &mut self,
        plan: &Plan,
        meanwhile: impl Fn() -> Made + Sync,
    ) -> Result<Applied<Made>> {
        let applied = self.try_run(plan, meanwhile);
        if applied.is_err() {
            // Where the connection is gone, the server has rolled back already.
            let _ = self.destination.run("roll back", session::ROLLBACK);
        }
        applied
    }

    fn try_run<Made: Send>(
        &mut self,
        plan: &Plan,
        meanwhile: impl Fn() -> Made + Sync,
    ) -> Result<Applied<Made>> {
        let (mut before, mut removed) = (&*plan.before, 0);
        if let Some(removal) = &plan.removal {
            self.steps(std::mem::take(&mut before))?;
            removed = self.remove_gone(removal)?;
        }
        let loaded = match &plan.load {
            Some(load) => {
                let steps = [before, &plan.of_each_part];
                self.travel(load, steps, plan.nothing_if_empty)?
            }
            None => None,
        };
        let mut written = 0;
        if let Some(rows) = loaded {
            crash::at("loaded");
            written = self.steps(&plan.after)?.unwrap_or(rows);
        } else if plan.reconciliation.is_some() {
            self.steps(before)?;
        } else {
            return Ok(Applied::Nothing);
        }
        let mended = match &plan.reconciliation {
            Some(reconciliation) => self.reconcile(reconciliation, plan.removal.is_some())?,
            None => None,
        };
        let nothing = match loaded {
            None => plan.nothing_if_empty,
            Some(_) => written == 0 && plan.nothing_if_same,
        };
        if nothing && mended.is_none() {
            self.destination.run("roll back", session::ROLLBACK)?;
            for step in plan.finish.iter().filter(|step| step.on == Side::Source) {
                perform(self.source, step, false, (self.log, self.table))?;
            }
            return Ok(Applied::Nothing);
        }
        let Mended { written: again, deleted } = mended.unwrap_or_default();
        written += again;
        let Some((last, finish)) = plan.finish.split_last() else {
            return Err(Error::bug("a plan has no end"));
        };
        self.steps(finish)?;
        self.flusher.end();
        crash::at("receipt-written");
        let made = std::thread::scope(|scope| {
            let making = std::thread::Builder::new().spawn_scoped(scope, &meanwhile);
            self.steps(std::slice::from_ref(last))?;
            crash::at("committed");
            Ok(match making {
                Ok(making) => making.join().unwrap_or_else(|panic| resume_unwind(panic)),
                // The host has no thread left.
                Err(_) => meanwhile(),
            })
        })?;
        Ok(Applied::Rows { written, deleted: removed + deleted, made })
    }

    /// The session with one side.
    pub(crate) fn session(&mut self, side: Side) -> &mut Session {
        match side {
            Side::Source => self.source,
            Side::Destination => self.destination,
        }
    }

    /// Carries steps out and returns how many rows those have merged that do.
    pub(crate) fn steps(&mut self, steps: &[Step]) -> Result<Option<u64>> {
        let mut merged = None;
        for step in steps {
            let (log, table, many) = (self.log, self.table, self.many);
            self.progress.doing(&step.purpose);
            merged = sum(merged, perform(self.session(step.on), step, many, (log, table))?);
        }
        Ok(merged)
    }

    /// Lets the rows travel, and returns how many were merged, or copied where none is merged yet.
    /// `before` is carried out once the first is there; `None` where there was none and that is the end
    /// of it.
    pub(crate) fn travel(
        &mut self,
        load: &Load,
        [before, of_each_part]: [&[Step]; 2],
        nothing_if_empty: bool,
    ) -> Result<Option<u64>> {
        let Self { source, endpoint, destination, log, table, progress, many, flusher } = self;
        let interrupt = destination.interrupt().clone();
        let (mut snapshot, mut sequences) = (String::new(), Vec::new());
        match &load.from {
            Reading::PgDump { table, .. } => {
                sequences = catalog::sequences(source, table)?;
                let exported = source.value("export the snapshot", session::EXPORT_SNAPSHOT)?;
                snapshot = exported.unwrap_or_default();
            }
            Reading::Copy(query) => debug(log, table, Side::Source, query),
        }
        copy::transfer(
            |mut outgoing| {
                match &load.from {
                    Reading::Copy(query) => {
                        copy::read_query(source, query, load.format, &mut outgoing)
                            .map_err(|error| explain(error, load))?;
                    }
                    Reading::PgDump { table, columns } => {
                        let wanted = pg_dump::Wanted {
                            snapshot: &snapshot,
                            table,
                            columns,
                            without: &sequences,
                        };
                        let ask = || source.run("read the rows", session::ASK).map(drop);
                        pg_dump::read(endpoint, &interrupt, wanted, ask, &mut outgoing)?;
                    }
                }
                let nothing = outgoing.end()? == 0 && nothing_if_empty;
                // Then nothing can be wrong with the rows, and the snapshot still is to end.
                for step in &load.last {
                    if !nothing || step.result != Outcome::NoRow {
                        perform(source, step, false, (log, table))?;
                    }
                }
                Ok(())
            },
            |incoming| {
                if nothing_if_empty && incoming.is_empty() {
                    return Ok(None);
                }
                for step in before.iter().chain(&load.first) {
                    perform(destination, step, *many, (log, table))?;
                }
                let mut arrived = (0, 0);
                let mut arrive = |rows, bytes| {
                    progress.add(rows, bytes);
                    arrived = (arrived.0 + rows, arrived.1 + bytes);
                    if copy::are_many(arrived.0, arrived.1) && flusher.begin() {
                        log.debug(Some(table), FLUSHED);
                    }
                    crash::at("loading");
                };
                let (mut copied, mut merged) = (0, None);
                loop {
                    debug(log, table, Side::Destination, &load.into);
                    let (into, in_parts) = ((&*load.into, load.format), !of_each_part.is_empty());
                    let part = copy::write(destination, into, incoming, in_parts, &mut arrive)?;
                    copied += part.rows;
                    *many = part.is_many();
                    let forgotten = usize::from(part.more && planted(Fault::PartForgotten));
                    for step in of_each_part.iter().skip(forgotten) {
                        if !part.more {
                            progress.doing(&step.purpose);
                        }
                        merged = sum(merged, perform(destination, step, *many, (log, table))?);
                    }
                    if !part.more {
                        return Ok(Some(merged.unwrap_or(copied)));
                    }
                }
            },
        )
    }
}

/// What the log says of it. It is no statement of the plan.
const FLUSHED: &str = "a second session has the destination's log written to the disk";

/// The sum of those that there are.
fn sum(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).reduce(|one, other| one + other)
}

/// Carries one step out, where there are `many` rows or few, and returns how many it has merged, if
/// that is what it does.
fn perform(
    session: &mut Session,
    step: &Step,
    many: bool,
    (log, table): (&Log, &str),
) -> Result<Option<u64>> {
    let merged = carry_out(session, step, many, (log, table))?;
    if let Some(still) = &step.still {
        is_so(session, step, still)?;
    }
    Ok(merged)
}

/// Fails where a question of a step has another answer than it must have.
fn is_so(session: &mut Session, step: &Step, (question, answer): &(String, String)) -> Result<()> {
    if session.value(&step.purpose, question)?.as_ref() == Some(answer) {
        return Ok(());
    }
    Err(Error::table(format!("cannot {}", step.purpose))
        .because("somebody has put something on the old table meanwhile, or taken it off")
        .passing())
}

fn carry_out(
    session: &mut Session,
    step: &Step,
    many: bool,
    (log, table): (&Log, &str),
) -> Result<Option<u64>> {
    if let Some(shortcut) = step.shortcut.as_ref().filter(|shortcut| many || shortcut.of_few)
        && at_once(session, step, shortcut)?
    {
        debug(log, table, step.on, &shortcut.sql);
        return Ok(None);
    }
    debug(log, table, step.on, &step.sql);
    if let Some((question, why)) = &step.unless
        && session.value(&step.purpose, question)?.as_deref() == Some("t")
    {
        log.warning(Some(table), &format!("could not {}: {why}", step.purpose));
        return Ok(None);
    }
    let with_hint = |error: Error| match (&step.hint, error.sqlstate.as_deref()) {
        // What exceeds a limit of PostgreSQL's own is no matter of what the hint knows.
        (_, Some("54000")) => error,
        (Some(_), Some("42501")) => error.hint(NOT_OURS),
        (Some(_), Some("42P07")) => error.hint(TAKEN),
        // Its hint is about a lock.
        (Some(_), Some(DEPENDENT_OBJECTS)) if step.result == Outcome::Patient => {
            error.hint(DEPENDED_ON)
        }
        (Some(hint), _) => error.hint(hint),
        (None, Some("23505" | "23P01")) if step.result == Outcome::RowsMerged => {
            error.hint(ONE_BY_ONE)
        }
        _ => error,
    };
    match step.result {
        Outcome::RowsMerged => {
            let merged = session.run(&step.purpose, &step.sql).map_err(with_hint)?;
            crash::at("merged");
            Ok(Some(merged))
        }
        Outcome::Done | Outcome::Distinct => {
            session.run(&step.purpose, &step.sql).map_err(with_hint).map(|_| None)
        }
        Outcome::NoRow => match session.rows(&step.purpose, &step.sql)?.pop() {
            None => Ok(None),
            Some(example) => Err(with_hint(counterexample(step, &example))),
        },
        Outcome::Undisturbed => match session.rows(&step.purpose, &step.sql)?.pop() {
            None => Ok(None),
            Some(row) => {
                let changed = row.into_iter().flatten().next().unwrap_or_default();
                Err(Error::table(format!("cannot {}", step.purpose))
                    .because(format!(
                        "somebody has emptied, rewritten or replaced {changed} meanwhile"
                    ))
                    .passing())
            }
        },
        Outcome::Patient => patiently(session, step, log, table).map_err(with_hint).map(|()| None),
    }
}

/// Takes a step's shortcut, unless somebody else's lock is in the way.
fn at_once(session: &mut Session, step: &Step, shortcut: &Shortcut) -> Result<bool> {
    if attempt(session, step, &shortcut.lock, None)?.is_some() {
        return Ok(false);
    }
    // Outside of the savepoint a second TRUNCATE finds the files that the first has made.
    session.run(&step.purpose, &shortcut.sql).map(|_| true)
}

/// Runs what may meet somebody else's lock, once the answer is there that must be. Where it does meet one,
/// returns the error, and nothing of it remains.
fn attempt(
    session: &mut Session,
    step: &Step,
    sql: &str,
    provided: Option<&(String, String)>,
) -> Result<Option<Error>> {
    let mut run = |statements: &[&str]| session.run(&step.purpose, &statements.join(";\n"));
    let tried = match provided {
        None => run(&[session::SAVEPOINT, sql, session::RELEASE_SAVEPOINT]),
        Some(provided) => run(&[session::SAVEPOINT, &session::give_up_soon()])
            .and_then(|_| is_so(session, step, provided))
            .and_then(|()| {
                session.run(&step.purpose, &[sql, session::RELEASE_SAVEPOINT].join(";\n"))
            }),
    };
    match tried {
        Err(error) if is_in_the_way(&error) => {
            session.run("roll back to the savepoint", session::ROLLBACK_TO_SAVEPOINT)?;
            Ok(Some(error))
        }
        done => done.map(|_| None),
    }
}

/// What helps where a constraint does not wait until all rows have their places.
const ONE_BY_ONE: &str = "somebody made that constraint at the destination, and it looks at row \
    after row while they change places: drop it, or make it a constraint that is DEFERRABLE \
    INITIALLY DEFERRED; where a row has the value that the source has deleted and the rule keeps, drop it, \
    or let \"deletes\" be \"remove\"";

/// The SQLSTATE of what cannot be dropped because something else stands on it.
const DEPENDENT_OBJECTS: &str = "2BP01";

/// What helps where a name is taken.
const TAKEN: &str = "something else at the destination has that name, such as the index of a table that was \
    renamed: rename it as well, or drop it";

/// What helps where a new copy meets what is not ours.
const NOT_OURS: &str = "what the server speaks of belongs to another role: grant that role, and USAGE \
    on its schema, to the destination's user, and CREATE on the schema to that role; a view may also be \
    dropped, and made again after the sync";

/// A query that the source does not understand, or that breaks off at a value, has the user's own
/// condition to thank for it.
fn explain(error: Error, load: &Load) -> Error {
    let class = error.sqlstate.as_deref().and_then(|sqlstate| sqlstate.get(..2));
    match &load.hint {
        Some(hint) if matches!(class, Some("42" | "22")) && error.hint.is_none() => {
            error.hint(hint)
        }
        _ => error,
    }
}

fn counterexample(step: &Step, example: &[Option<String>]) -> Error {
    let values: Vec<&str> = example.iter().flatten().map(String::as_str).collect();
    let error = Error::table(format!("cannot {}", step.purpose));
    match values[..] {
        [key, count] => error.because(format!("{count} rows share the values {key}")),
        _ => error.because(values.join(", ")),
    }
}

fn patiently(session: &mut Session, step: &Step, log: &Log, table: &str) -> Result<()> {
    let started = Instant::now();
    let mut told = false;
    while let Some(error) = attempt(session, step, &step.sql, step.provided.as_ref())? {
        if started.elapsed() > LONGEST_WAIT {
            return Err(error);
        }
        if !told {
            log.info(Some(table), &format!("waiting for others to {}", step.purpose));
            told = true;
        }
        // Of two that wait for each other, one is to be first.
        let unlike_others = u64::from(started.elapsed().subsec_micros() % 1_000);
        session.interrupt().sleep(PAUSE + Duration::from_millis(unlike_others))?;
    }
    Ok(())
}

/// The SQLSTATE of a lock that could not be had in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// The SQLSTATE of two who wait for each other.
const DEADLOCK: &str = "40P01";

/// The SQLSTATE of what was dropped while it was looked at, and of other internal errors.
const INTERNAL_ERROR: &str = "XX000";

/// Whether somebody is at work on what we want, who may be another run that makes a view again.
fn is_in_the_way(error: &Error) -> bool {
    match error.sqlstate.as_deref() {
        Some(LOCK_NOT_AVAILABLE | DEADLOCK) => true,
        Some(INTERNAL_ERROR) => error.may_pass(),
        _ => false,
    }
}

/// The pause between two attempts to get a lock, in which others go ahead.
const PAUSE: Duration = Duration::from_secs(2);

/// How long others may hold a table before the sync of it fails.
const LONGEST_WAIT: Duration = Duration::from_mins(10);

pub(crate) fn debug(log: &Log, table: &str, side: Side, sql: &str) {
    log.debug(Some(table), &format!("{side}: {sql}"));
}
