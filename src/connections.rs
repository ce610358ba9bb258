//! The two sessions of a run, made when they are needed and made again when they are gone.

use std::thread;
use std::time::Duration;

use crate::config::{Endpoint, Pipeline, Side};
use crate::crash;
use crate::db::{Server, Session};
use crate::error::{Error, Kind, Result};
use crate::fault::{Fault, planted};
use crate::interrupt::Interrupt;
use crate::report::Log;
use crate::sql::{Qualified, session};

/// The pauses before something is tried again.
const PAUSES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(10)];

/// The two sessions of a run.
pub struct Connections<'a> {
    pipeline: &'a Pipeline,
    interrupt: &'a Interrupt,
    source: Option<Session>,
    destination: Option<Session>,
    /// Sessions whose servers may not know yet that they are over.
    lost: Vec<(Side, Server)>,
}

impl<'a> Connections<'a> {
    /// None yet.
    #[must_use]
    pub fn new(pipeline: &'a Pipeline, interrupt: &'a Interrupt) -> Self {
        Self { pipeline, interrupt, source: None, destination: None, lost: Vec::new() }
    }

    /// The source's session and the destination's.
    ///
    /// Fails where the two are one place.
    pub fn both(&mut self) -> Result<(&mut Session, &mut Session)> {
        let Self { pipeline, interrupt, source, destination, lost } = self;
        let gone = |slot: &Option<Session>| slot.as_ref().is_none_or(Session::is_closed);
        let (source, destination) = if gone(source) && gone(destination) {
            side_by_side(
                || alive(source, &pipeline.source, interrupt),
                || alive(destination, &pipeline.destination, interrupt),
            )?
        } else {
            let source = alive(source, &pipeline.source, interrupt)?;
            (source, alive(destination, &pipeline.destination, interrupt)?)
        };
        while let Some((side, server)) = lost.last() {
            match side {
                Side::Source => source.end(server)?,
                Side::Destination => destination.end(server)?,
            }
            lost.pop();
        }
        two_places(pipeline, &source.server, &destination.server)?;
        Ok((source, destination))
    }

    /// Has both sessions, or fails at once where a server lets no more of them in.
    pub fn at_once(&mut self) -> Result<()> {
        self.source = Some(Session::connect(&self.pipeline.source, self.interrupt)?);
        self.destination = Some(Session::connect(&self.pipeline.destination, self.interrupt)?);
        Ok(())
    }

    /// Ends both sessions; locks, transactions and half-read results end with them.
    pub fn drop_both(&mut self) {
        self.source = None;
        self.destination = None;
    }

    /// Does something, and tries it again where that may help. What is left of a failure, such as
    /// half-read results and open transactions, ends with the sessions.
    pub fn patiently<T>(
        &mut self,
        log: &Log,
        table: Option<&str>,
        mut work: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let mut pauses = PAUSES.into_iter();
        loop {
            let error = match work(self) {
                Err(error) if error.kind != Kind::Locked => error,
                done => return done,
            };
            if error.kind == Kind::Unreachable {
                let sessions = [&self.source, &self.destination].into_iter().flatten();
                let lost = sessions.map(|session| (session.side(), session.server.clone()));
                self.lost.extend(lost);
            }
            self.drop_both();
            let Some(pause) = pauses.next().filter(|_| error.may_pass()) else { return Err(error) };
            let seconds = pause.as_secs();
            log.warning(table, &format!("{}; trying again in {seconds} s", error.one_line()));
            self.interrupt.sleep(pause)?;
        }
    }

    /// Has both sessions again after a table whose server could not be reached, before the next: one
    /// that stays away would cost each table that is left as much patience.
    pub fn again(&mut self, log: &Log) -> Result<()> {
        self.patiently(log, None, |connections| connections.both().map(drop))
    }

    /// Does something under the lock that keeps two runs from one table of the destination.
    ///
    /// Fails where another run holds it.
    pub fn locked<T>(
        &mut self,
        table: &Qualified,
        work: impl FnOnce(&mut Session, &mut Session) -> Result<T>,
    ) -> Result<T> {
        let (source, destination) = self.both()?;
        let locked = destination.value("lock the table", &session::try_lock(table))?;
        if locked.as_deref() != Some("t") && !planted(Fault::NotLocked) {
            return Err(Error::locked(format!("another run holds `{}`", table.plain())).hint(
                "wait until it ends; its session is called `incremental-replication` in \
                 pg_stat_activity at the destination",
            ));
        }
        crash::at("locked");
        let done = work(source, destination)?;
        destination.run("unlock the table", &session::unlock(table))?;
        Ok(done)
    }
}

/// Does something on both sides at the same time, for either may be far away. Where both fail, the
/// source's error counts.
pub fn side_by_side<A: Send, B>(
    source: impl FnOnce() -> Result<A> + Send,
    destination: impl FnOnce() -> Result<B>,
) -> Result<(A, B)> {
    thread::scope(|scope| {
        let source = thread::Builder::new()
            .spawn_scoped(scope, source)
            .map_err(|error| Error::host("cannot ask both sides at once", &error))?;
        let destination = destination();
        let panicked = |_| Err(Error::bug("what was done at the source panicked"));
        Ok((source.join().unwrap_or_else(panicked)?, destination?))
    })
}

fn alive<'s>(
    slot: &'s mut Option<Session>,
    endpoint: &Endpoint,
    interrupt: &Interrupt,
) -> Result<&'s mut Session> {
    match slot.take().filter(|session| !session.is_closed()) {
        Some(session) => Ok(slot.insert(session)),
        None => Ok(slot.insert(connect(endpoint, interrupt)?)),
    }
}

/// Connects, and waits a little for a server that is about to be ready.
fn connect(endpoint: &Endpoint, interrupt: &Interrupt) -> Result<Session> {
    let mut pauses = PAUSES.into_iter();
    loop {
        let error = match Session::connect(endpoint, interrupt) {
            Err(error) if not_ready(&error) => error,
            done => return done,
        };
        let Some(pause) = pauses.next() else { return Err(error) };
        interrupt.sleep(pause)?;
    }
}

/// The server answers, but it is starting or stopping, or its sessions are all taken.
fn not_ready(error: &Error) -> bool {
    error.sqlstate.is_some() && error.may_pass()
}

/// Fails where the destination is the source itself, whose tables would be replaced.
pub fn two_places(pipeline: &Pipeline, source: &Server, destination: &Server) -> Result<()> {
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
