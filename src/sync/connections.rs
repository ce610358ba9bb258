//! The two sessions of a run, made when they are needed and made again when they are gone.

use super::PAUSES;
use crate::config::{Endpoint, Pipeline};
use crate::db::Session;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;

/// The two sessions of a run.
pub(super) struct Connections<'a> {
    pipeline: &'a Pipeline,
    interrupt: &'a Interrupt,
    source: Option<Session>,
    destination: Option<Session>,
}

impl<'a> Connections<'a> {
    pub(super) fn new(pipeline: &'a Pipeline, interrupt: &'a Interrupt) -> Self {
        Self { pipeline, interrupt, source: None, destination: None }
    }

    /// The source's session and the destination's.
    pub(super) fn both(&mut self) -> Result<(&mut Session, &mut Session)> {
        let Self { pipeline, interrupt, source, destination } = self;
        let source = alive(source, &pipeline.source, interrupt)?;
        let destination = alive(destination, &pipeline.destination, interrupt)?;
        Ok((source, destination))
    }

    /// The destination's session.
    pub(super) fn destination(&mut self) -> Result<&mut Session> {
        alive(&mut self.destination, &self.pipeline.destination, self.interrupt)
    }

    /// Ends both sessions; locks, transactions and half-read results end with them.
    pub(super) fn drop_both(&mut self) {
        self.source = None;
        self.destination = None;
    }
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
