//! A reader of the destination who never sees anything but the state before a sync and after it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use postgres::{Client, SimpleQueryMessage};

use super::judge;
use super::park::DATABASE;
use super::world::{Failure, Property, World, broken};

/// Looks at all tables again and again, in a thread of its own.
pub struct Watcher {
    stop: Arc<AtomicBool>,
    /// A session whose snapshot is older than the sync.
    old: Client,
    before: Vec<String>,
    shapes: Vec<[String; 2]>,
    seen: JoinHandle<Vec<BTreeSet<String>>>,
}

impl Watcher {
    /// Starts to look.
    pub fn start(world: &World) -> Self {
        let questions: Vec<String> =
            world.tables.iter().map(|t| question(world, &t.destination)).collect();
        let [_, destination] = world.addresses();
        let mut old = destination.connect(DATABASE);
        old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").expect("a snapshot");
        let mut session = destination.connect(DATABASE);
        let before = questions.iter().map(|question| look(&mut session, question)).collect();
        let shapes = world.tables.iter().map(|t| shape(&mut session, world, &t.destination));
        let shapes = shapes.collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let seen = std::thread::spawn(move || {
            let mut seen: Vec<BTreeSet<String>> = vec![BTreeSet::new(); questions.len()];
            while !stopped.load(Ordering::SeqCst) {
                for (question, seen) in questions.iter().zip(&mut seen) {
                    seen.insert(look(&mut session, question));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            seen
        });
        Self { stop, old, before, shapes, seen }
    }

    /// Looks a last time and compares.
    pub fn judge(mut self, world: &World) -> Result<(), Failure> {
        self.stop.store(true, Ordering::SeqCst);
        let seen = self.seen.join().expect("the watcher ends");
        let [_, destination] = world.addresses();
        let mut session = destination.connect(DATABASE);
        for (at, table) in world.tables.iter().enumerate() {
            let question = question(world, &table.destination);
            let after = look(&mut session, &question);
            self.old.batch_execute("SAVEPOINT look").expect("a savepoint");
            let old = look(&mut self.old, &question);
            self.old.batch_execute("ROLLBACK TO look").expect("the savepoint");
            let strange = |state: &&String| **state != self.before[at] && **state != after;
            // Old rows are shown with new columns where those were changed in place.
            let [relation, columns] = shape(&mut session, world, &table.destination);
            let in_place = self.shapes[at][0] == relation && self.shapes[at][1] != columns;
            let old = (!in_place).then_some(&old);
            if let Some(state) = seen[at].iter().chain(old).find(strange) {
                return broken(
                    Property::Readers,
                    format!(
                        "a reader of `{}` has seen\n{state}\nbetween\n{}\nand\n{after}",
                        table.destination, self.before[at]
                    ),
                );
            }
        }
        Ok(())
    }
}

fn question(world: &World, table: &str) -> String {
    format!(
        "SELECT coalesce(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE \"C\"), 'no rows') FROM {} t",
        world.qualified(table)
    )
}

/// Which relation a table is, and its columns.
fn shape(session: &mut Client, world: &World, table: &str) -> [String; 2] {
    let relation = format!("to_regclass({})::oid", judge::literal(&world.qualified(table)));
    let columns = format!(
        "SELECT array_agg(attname ORDER BY attnum) FROM pg_attribute \
         WHERE attrelid = {relation} AND attnum > 0 AND NOT attisdropped"
    );
    [look(session, &format!("SELECT {relation}")), look(session, &columns)]
}

/// A table's state, or why it has none.
fn look(session: &mut Client, question: &str) -> String {
    let Ok(messages) = session.simple_query(question) else { return "no table".to_owned() };
    let row = messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    row.unwrap_or_default()
}
