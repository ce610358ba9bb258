//! The operations of which stories are made.
//!
//! To add one, write a function and a line in the list of one of the files below, and nothing
//! else: it is drawn, shrunk, printed and replayed like all others. It gets the [`World`] and
//! random numbers, chooses what it acts on from what is there, and does nothing where there is
//! nothing to act on. What it runs at the source is looked at afterwards, so it need not say what
//! it changed, only whether a sync must find it: `Ok(Found::Surely)`, or `Ok(Found::Perhaps)` where
//! the replication key did not move.

mod destination;
mod plan;
mod rows;
mod schema;
mod states;
mod syncs;
mod transactions;
mod verify;

use fastrand::Rng;

use super::world::{Outcome, World};

pub use rows::statement;

/// An operation.
pub struct Operation {
    /// Its name in a story.
    pub name: &'static str,
    /// How often it is drawn, beside the others.
    pub weight: u32,
    /// What it does.
    pub run: fn(&mut World, &mut Rng) -> Outcome,
}

/// All operations, by what they are about.
pub const GROUPS: [&[Operation]; 8] = [
    rows::OPERATIONS,
    transactions::OPERATIONS,
    schema::OPERATIONS,
    syncs::OPERATIONS,
    states::OPERATIONS,
    destination::OPERATIONS,
    verify::OPERATIONS,
    plan::OPERATIONS,
];

/// The operation of that name.
pub fn named(name: &str) -> &'static Operation {
    let mut all = GROUPS.into_iter().flatten();
    all.find(|operation| operation.name == name).unwrap_or_else(|| panic!("no operation {name}"))
}
