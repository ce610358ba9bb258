//! The two sessions of a run, made when they are needed and made again when they are gone.

use crate::config::Pipeline;
use crate::db::Session;
use crate::error::Result;
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
        let source =
            alive(&mut self.source, || Session::connect(&self.pipeline.source, self.interrupt))?;
        let destination = alive(&mut self.destination, || {
            Session::connect(&self.pipeline.destination, self.interrupt)
        })?;
        Ok((source, destination))
    }

    /// The destination's session.
    pub(super) fn destination(&mut self) -> Result<&mut Session> {
        alive(&mut self.destination, || {
            Session::connect(&self.pipeline.destination, self.interrupt)
        })
    }

    /// Ends both sessions; locks, transactions and half-read results end with them.
    pub(super) fn drop_both(&mut self) {
        self.source = None;
        self.destination = None;
    }
}

fn alive(
    slot: &mut Option<Session>,
    connect: impl FnOnce() -> Result<Session>,
) -> Result<&mut Session> {
    match slot.take().filter(|session| !session.is_closed()) {
        Some(session) => Ok(slot.insert(session)),
        None => Ok(slot.insert(connect()?)),
    }
}
