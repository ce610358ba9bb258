//! A reader of the destination who never sees anything but the state before a sync and after it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use postgres::{Client, SimpleQueryMessage};

use super::park::DATABASE;
use super::world::{Failure, Property, World, broken};

/// Looks at all tables again and again, in a thread of its own.
pub struct Watcher {
    stop: Arc<AtomicBool>,
    /// A session whose snapshot is older than the sync.
    old: Client,
    before: Vec<String>,
    columns: Vec<String>,
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
        let columns = world.tables.iter().map(|t| columns(&mut session, world, &t.destination));
        let columns = columns.collect();
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
        Self { stop, old, before, columns, seen }
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
            let same = self.columns[at] == columns(&mut session, world, &table.destination);
            let old = same.then_some(&old);
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

/// A table and its columns; a new table under the same name is another.
fn columns(session: &mut Client, world: &World, table: &str) -> String {
    let question = format!(
        "SELECT concat(attrelid, array_agg(attname ORDER BY attnum)) FROM pg_attribute \
         WHERE attrelid = to_regclass('{}') AND attnum > 0 AND NOT attisdropped GROUP BY attrelid",
        world.qualified(table).replace('\'', "''")
    );
    look(session, &question)
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
