//! Transactions at the source that stay open while others come and go.

use fastrand::Rng;

use super::{Operation, statement};
use crate::support::judge::literal;
use crate::support::ledger::Found;
use crate::support::world::{Outcome, Transaction, World};

pub const OPERATIONS: &[Operation] = &[
    Operation { name: "begin", weight: 6, run: begin },
    Operation { name: "work", weight: 10, run: work },
    Operation { name: "savepoint", weight: 2, run: savepoint },
    Operation { name: "rollback_to_savepoint", weight: 2, run: rollback_to_savepoint },
    Operation { name: "commit", weight: 6, run: |w, r| end(w, r, "COMMIT") },
    Operation { name: "rollback", weight: 2, run: |w, r| end(w, r, "ROLLBACK") },
    Operation { name: "prepare", weight: 2, run: prepare },
    Operation { name: "commit_prepared", weight: 3, run: |w, r| end_prepared(w, r, "COMMIT") },
    Operation { name: "rollback_prepared", weight: 1, run: |w, r| end_prepared(w, r, "ROLLBACK") },
];

/// So many transactions may be open at once.
const MOST: usize = 3;

fn begin(world: &mut World, rng: &mut Rng) -> Outcome {
    if world.transactions.len() < MOST {
        open(world);
    }
    if rng.bool() { work(world, rng) } else { Ok(Found::Surely) }
}

fn open(world: &mut World) {
    let mut session = world.another_source();
    // The transaction's time, which now() gives, is that of its first statement.
    let done = session.batch_execute("BEGIN; SELECT 1");
    world.tell(&format!("transaction {}", world.transactions.len()), "BEGIN", done);
    world.transactions.push(Transaction { session, found: Found::Surely, savepoints: 0 });
}

/// Draws an open transaction.
fn draw(world: &World, rng: &mut Rng) -> Option<usize> {
    (!world.transactions.is_empty()).then(|| rng.usize(..world.transactions.len()))
}

/// Draws an open transaction, or opens one.
fn draw_or_open(world: &mut World, rng: &mut Rng) -> usize {
    if world.transactions.is_empty() {
        open(world);
    }
    rng.usize(..world.transactions.len())
}

fn work(world: &mut World, rng: &mut Rng) -> Outcome {
    let at = draw_or_open(world, rng);
    work_in(world, at, rng);
    Ok(Found::Surely)
}

fn work_in(world: &mut World, at: usize, rng: &mut Rng) {
    let table = world.draw_table(rng);
    let (sql, found) = statement(&world.tables[table], rng);
    if world.in_transaction(at, &sql) && found == Found::Perhaps {
        world.transactions[at].found = found;
    }
}

fn savepoint(world: &mut World, rng: &mut Rng) -> Outcome {
    let at = draw_or_open(world, rng);
    let transaction = &mut world.transactions[at];
    transaction.savepoints += 1;
    let sql = format!("SAVEPOINT s{}", transaction.savepoints);
    let done = transaction.session.batch_execute(&sql);
    world.tell(&format!("transaction {at}"), &sql, done);
    work_in(world, at, rng);
    Ok(Found::Surely)
}

fn rollback_to_savepoint(world: &mut World, rng: &mut Rng) -> Outcome {
    let Some(at) = draw(world, rng) else { return Ok(Found::Surely) };
    let transaction = &mut world.transactions[at];
    if transaction.savepoints > 0 {
        let sql = format!("ROLLBACK TO s{}", rng.u32(1..=transaction.savepoints));
        let done = transaction.session.batch_execute(&sql);
        if !world.tell(&format!("transaction {at}"), &sql, done) {
            // It was rolled back to an earlier one before, which ends the transaction.
            world.transactions.remove(at);
        }
    }
    Ok(Found::Surely)
}

fn end(world: &mut World, rng: &mut Rng, how: &str) -> Outcome {
    let Some(at) = draw(world, rng) else { return Ok(Found::Surely) };
    let mut transaction = world.transactions.remove(at);
    let done = transaction.session.batch_execute(how);
    world.tell(&format!("transaction {at}"), how, done);
    Ok(transaction.found)
}

fn prepare(world: &mut World, rng: &mut Rng) -> Outcome {
    let at = draw_or_open(world, rng);
    work_in(world, at, rng);
    let number = world.number();
    let name = format!("{}: it's {number}", world.schema);
    let mut transaction = world.transactions.remove(at);
    let sql = format!("PREPARE TRANSACTION {}", literal(&name));
    let done = transaction.session.batch_execute(&sql);
    if world.tell(&format!("transaction {at}"), &sql, done) {
        world.prepared.push((name, transaction.found));
    }
    Ok(Found::Surely)
}

fn end_prepared(world: &mut World, rng: &mut Rng, how: &str) -> Outcome {
    if world.prepared.is_empty() {
        return Ok(Found::Surely);
    }
    let (name, found) = world.prepared.remove(rng.usize(..world.prepared.len()));
    world.at_source(&format!("{how} PREPARED {}", literal(&name)));
    Ok(found)
}
