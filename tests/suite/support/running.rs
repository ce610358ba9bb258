//! Runs of the binary in a story, and what is held against them afterwards.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use postgres::SimpleQueryMessage;
use serde_json::Value;

use super::case::Run;
use super::judge;
use super::ledger::Found;
use super::model::{Copying, Deletes, Table, Way};
use super::shape::{self, Origin};
use super::world::{Failure, Property, Side, Sight, World, broken};

/// No sync of a story's small tables takes longer, retries included.
const LONGEST_RUN: Duration = Duration::from_mins(2);

/// A run under way, and where it writes.
pub struct Running {
    child: Child,
    output: tempfile::TempDir,
    started: Instant,
}

/// What has happened to a run from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// Nothing.
    None,
    /// It was made to end, or had its sessions ended.
    Ended,
    /// Writers were at work meanwhile.
    Writers,
}

impl Running {
    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
    }

    /// Waits for the end, within reason.
    pub fn end(mut self, world: &mut World) -> Result<Run, Failure> {
        let code = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status.code();
            }
            if self.started.elapsed() > LONGEST_RUN {
                self.kill();
                return broken(Property::Ends, "a sync does not end");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let read = |name| fs::read_to_string(self.output.path().join(name)).unwrap_or_default();
        let run = Run { code, stdout: read("stdout"), stderr: read("stderr") };
        world.told.push(format!("  ended with {:?} after {:?}", run.code, self.started.elapsed()));
        for line in outcomes(&run) {
            world.told.push(format!("  {} {}: {}", line.table, line.sync_type, line.message));
        }
        if !run.stderr.is_empty() {
            world.told.push(format!("  {}", run.stderr.trim_end().replace('\n', "\n  ")));
        }
        let receipts = format!(
            "SELECT format('%s: watermark %s, pending %s, position %s', table_name, \
             receipt->>'watermark', receipt->>'pending_marks', receipt->>'position') FROM {}",
            world.qualified("_sync_state")
        );
        if let Ok(messages) = world.destination.simple_query(&receipts) {
            for message in messages {
                if let SimpleQueryMessage::Row(row) = message {
                    world.told.push(format!("  receipt of {}", row.get(0).unwrap_or_default()));
                }
            }
        }
        world.outputs.push(run.stdout.clone());
        if run.code == Some(70) || run.stderr.contains("panicked") {
            return broken(Property::Ends, format!("a bug in the tool:\n{}", run.stderr));
        }
        Ok(run)
    }
}

/// What `sync --verify` says where both sides are not equal.
pub const NOT_RIGHT: &str = "the copy is not right";

/// What a sync says where it would have to give up versions that only the destination has.
const VERSIONS_AT_STAKE: &str = "would lose the versions";

/// What a run says of a table.
struct Outcome {
    table: String,
    sync_type: String,
    message: String,
    failed: bool,
    skipped: bool,
}

fn outcomes(run: &Run) -> Vec<Outcome> {
    let outcome = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        let sync_type = line.get("sync_type")?.as_str()?.to_owned();
        Some(Outcome {
            table: line["table"].as_str()?.to_owned(),
            skipped: sync_type == "skipped",
            sync_type,
            message: line["message"].as_str()?.to_owned(),
            // What a sync finds out when it looks at its work is no failure of the work.
            failed: line["error"].as_str().is_some_and(|error| !error.contains(NOT_RIGHT)),
        })
    };
    run.stdout.lines().filter_map(outcome).collect()
}

/// What was deleted or marked and must not be, or was not and must be, if anything.
fn wrongly_deleted(
    table: &Table,
    before: &Sight,
    after: &Sight,
    reconciles: bool,
    quiet: bool,
) -> Option<String> {
    let now = table.ledger.now();
    let gone = before.rows.keys().filter(|key| !after.rows.contains_key(*key));
    for key in gone {
        if !reconciles || quiet && now.contains_key(key) {
            return Some(format!("the row {key} was removed or marked"));
        }
        if table.deletes == Deletes::Mark && !after.marked.contains_key(key) {
            return Some(format!("the row {key} was removed and not marked"));
        }
    }
    let forgotten = before
        .marked
        .keys()
        .find(|key| !after.marked.contains_key(*key) && !after.rows.contains_key(*key));
    if let Some(key) = forgotten {
        return Some(format!("the row {key}, which was marked, is gone"));
    }
    if !reconciles || !quiet {
        return None;
    }
    let extra = after.rows.keys().find(|key| !now.contains_key(*key));
    if let Some(key) = extra {
        return Some(format!("the row {key}, which the source no longer has, is still there"));
    }
    let missing = now.keys().find(|key| !after.rows.contains_key(*key));
    missing.map(|key| format!("the row {key} is missing after a reconcile"))
}

impl World {
    /// Starts the binary. Every other sync merges row by row, which small tables would never do.
    pub fn start(&mut self, arguments: &[&str]) -> Running {
        let in_parts = arguments.first() == Some(&"sync") && self.told.len().is_multiple_of(2);
        let arguments = &[arguments, if in_parts { &["--row-by-row"] } else { &[] }].concat();
        self.told.push(format!("incremental-replication {}", arguments.join(" ")));
        self.reconcile_asked = arguments.contains(&"--reconcile");
        let output = tempfile::tempdir().expect("a directory");
        let file = |name| File::create(output.path().join(name)).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_incremental-replication"));
        command.args(["--log-format", "json", "-C"]).arg(self.pipeline()).args(arguments);
        command.args(self.fault.iter().flat_map(|fault| ["--planted-fault", fault]));
        command.envs(self.path.iter().map(|path| ("PATH", path)));
        command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
        Running {
            child: command.spawn().expect("the binary runs"),
            output,
            started: Instant::now(),
        }
    }

    /// A sync that must succeed, and everything that must hold after it.
    pub fn sync(&mut self, arguments: &[&str]) -> super::world::Outcome {
        let before = self.sights()?;
        let run = self.start(arguments).end(self)?;
        self.wait_until_alone()?;
        let all = !arguments.contains(&"--table");
        self.judge_run(&run, &before, Disturbance::None)?;
        let well = outcomes(&run).iter().filter(|o| !o.failed && !o.skipped).count();
        let expected = if all { self.tables.len() } else { 1 };
        if (run.code == Some(0)) != (well == expected) {
            return broken(
                Property::Ends,
                format!("{well} of {expected} tables are synced and it ends with {:?}", run.code),
            );
        }
        if run.code == Some(0) {
            return Ok(Found::Surely);
        }
        if self.excused(&run) && run.stderr.contains(VERSIONS_AT_STAKE) {
            let at_stake: Vec<String> = self.tables_at_stake().map(|t| t.name.clone()).collect();
            for name in at_stake {
                self.copy_anew(&name)?;
            }
            return self.sync(arguments);
        }
        if !self.excused(&run) {
            return broken(
                Property::Ends,
                format!("a sync fails although nothing is in its way: {}", run.stderr),
            );
        }
        // What people have made may be in the way; without it there is no excuse.
        for drop in std::mem::take(&mut self.of_people).into_iter().rev() {
            self.at_destination(&drop);
        }
        self.sync(arguments)
    }

    /// Whether something is in the way of a run that failed.
    pub fn excused(&self, run: &Run) -> bool {
        let at_stake = run.stderr.contains(VERSIONS_AT_STAKE);
        !self.of_people.is_empty() || at_stake && self.tables_at_stake().next().is_some()
    }

    fn tables_at_stake(&self) -> impl Iterator<Item = &Table> {
        let at_stake = |table: &&Table| table.versions && table.copying != Copying::Uncalledfor;
        self.tables.iter().filter(at_stake)
    }

    /// Somebody gives up the versions that only the destination has.
    fn copy_anew(&mut self, name: &str) -> super::world::Outcome {
        let found = self.tables.iter_mut().find(|table| table.name == name);
        found.expect("a table").call_for_copy(Copying::Called);
        self.sync(&["sync", "--full-refresh", "--table", name])
    }

    /// What stands at the destination, a table at a time.
    pub fn sights(&mut self) -> Result<Vec<Sight>, Failure> {
        (0..self.tables.len()).map(|at| self.sight(at)).collect()
    }

    fn sight(&mut self, at: usize) -> Result<Sight, Failure> {
        let question = self.tables[at].question_there(&self.schema);
        let oid = format!("SELECT to_regclass({})::oid::text", judge::literal(&question.table));
        let oid = judge::column(&mut self.destination, &oid).pop().filter(|oid| oid != "NULL");
        let receipt = format!(
            "SELECT 1 FROM {} WHERE table_name = {}",
            self.qualified("_sync_state"),
            judge::literal(&self.tables[at].destination)
        );
        let receipt = judge::rows_if_there(&mut self.destination, &receipt);
        let name = &self.tables[at].name;
        let tells = |text: &[u8]| {
            let state: Value = serde_json::from_slice(text).unwrap_or_default();
            state["source"]["table"] == name.as_str()
        };
        let remembered = receipt == ["1"] || self.state_files().iter().any(|(_, text)| tells(text));
        let (rows, marked) = (judge::Rows::new(), judge::Rows::new());
        let mut sight = Sight { oid, rows, marked, remembered };
        if sight.oid.is_none() {
            return Ok(sight);
        }
        // Before a copy the destination may have other columns than the source; versions may differ
        // in nothing but one that the source has dropped.
        let there = judge::column_names(&mut self.destination, &question.table);
        let copied = self.tables[at].copied();
        let tells_all = !self.tables[at].versions || there.len() == copied.len();
        let question = if tells_all && copied.iter().all(|name| there.contains(name)) {
            question
        } else {
            let all: Vec<String> = there.iter().map(|name| judge::quoted(name)).collect();
            // A table that follows in place keeps its rows, and those are told by their keys.
            let followed = self.tables[at].evolves && !self.tables[at].versions;
            let keyed = followed && question.unique.iter().all(|name| all.contains(name));
            let unique = if keyed { question.unique.clone() } else { all.clone() };
            judge::Question { unique, columns: all, key: None, ..question }
        };
        sight.rows = judge::rows_by_key(&mut self.destination, &question)
            .or_else(|what| broken(Property::Right, what))?;
        if let Some(marked) = self.tables[at].question_marked(&self.schema) {
            let marked = judge::Question { filter: marked.filter, ..question };
            sight.marked = judge::rows_by_key(&mut self.destination, &marked)
                .or_else(|what| broken(Property::Right, what))?;
        }
        // A state file alone tells nothing of an empty table.
        sight.remembered &= receipt == ["1"] || !(sight.rows.is_empty() && sight.marked.is_empty());
        Ok(sight)
    }

    /// Whether a table at the destination holds two rows with the same key, marked ones included:
    /// no index need refuse them.
    pub fn holds_keys_twice(&mut self, at: usize) -> bool {
        let question = self.tables[at].question_there(&self.schema);
        let all = judge::Question { filter: None, ..question };
        judge::rows_by_key(&mut self.destination, &all).is_err()
    }

    /// Whatever a run did to each table must be right, or nothing.
    pub fn judge_run(
        &mut self,
        run: &Run,
        before: &[Sight],
        disturbance: Disturbance,
    ) -> Result<(), Failure> {
        let outcomes: BTreeMap<String, bool> = outcomes(run)
            .into_iter()
            .filter(|outcome| !outcome.skipped)
            .map(|outcome| (outcome.table, !outcome.failed))
            .collect();
        for (at, before) in before.iter().enumerate() {
            let after = self.sight(at)?;
            let succeeded = outcomes.get(&self.tables[at].name).copied();
            let found = self.judge_table(at, succeeded, before, &after, disturbance);
            let name = self.tables[at].name.clone();
            found.map_err(|failure| Failure {
                what: format!("`{name}`: {}", failure.what),
                ..failure
            })?;
        }
        // Each table's own sync clears away what an earlier one has left of it.
        let all = outcomes.len() == self.tables.len() && outcomes.values().all(|done| *done);
        self.nothing_left(all)
    }

    fn judge_table(
        &mut self,
        at: usize,
        succeeded: Option<bool>,
        before: &Sight,
        after: &Sight,
        disturbance: Disturbance,
    ) -> Result<(), Failure> {
        let origin = Origin::of(&mut self.source, &self.tables[at], &self.schema);
        let reconcile_asked = self.reconcile_asked;
        let replaced = before.oid != after.oid && after.oid.is_some();
        let done = succeeded == Some(true);
        let table = &mut self.tables[at];
        table.ledger.see(&after.rows);
        let mut copying = table.copying;
        if table.origin.outdated_by(&origin) {
            let in_place = table.evolves && table.origin.differs_in_columns_alone(&origin);
            copying = copying.max(if in_place { Copying::Allowed } else { Copying::Called });
            // What calls for it now may be gone at the next sync.
            table.call_for_copy(Copying::Allowed);
        }
        if table.versions && !before.remembered && copying == Copying::Called {
            // Nobody knows any more what the copy was made with, and its versions are kept. What is
            // known from now on, whether this sync ends or not, is how the source is now.
            (copying, table.copying, table.origin) =
                (Copying::Allowed, Copying::Allowed, origin.clone());
        }
        let whole = table.way == Way::FullRefresh && done;
        if replaced && copying == Copying::Uncalledfor && table.way != Way::FullRefresh {
            return broken(Property::Copying, "copied again although nothing called for it");
        }
        if done && !replaced && (copying == Copying::Called || whole) {
            return broken(Property::Copying, "not copied again although that was called for");
        }
        if !replaced && before.oid != after.oid {
            return broken(Property::Untouched, "the table is gone");
        }
        if !replaced && table.evolves && table.origin.outdated_by(&origin) {
            table.ledger.accept_other_columns(&before.rows, &after.rows);
        }
        if !replaced && !done {
            let untouched = before.rows == after.rows;
            if !untouched && disturbance == Disturbance::None {
                return broken(Property::Untouched, "a sync that failed has changed it");
            }
            if !untouched && let Some(what) = table.ledger.broken_by(&after.rows) {
                return broken(Property::Untouched, format!("neither as it was nor right: {what}"));
            }
            if disturbance != Disturbance::None {
                table.ledger.perhaps_seen();
            }
            return Ok(());
        }
        (table.copying, table.origin) = (Copying::Uncalledfor, origin);
        if !replaced {
            let reconciles = table.reconciles(reconcile_asked);
            let quiet = disturbance != Disturbance::Writers;
            if let Some(what) = wrongly_deleted(table, before, after, reconciles, quiet) {
                return broken(Property::Right, what);
            }
        }
        if disturbance == Disturbance::Writers {
            table.ledger.accept(&after.rows);
            table.ledger.perhaps_seen();
        } else {
            let ledger = &mut table.ledger;
            let exactly = replaced || table.way == Way::Diff && table.deletes != Deletes::Keep;
            let wrong =
                if exactly { ledger.unlike(&after.rows) } else { ledger.broken_by(&after.rows) };
            if let Some(what) = wrong {
                let property = if done { Property::Right } else { Property::Untouched };
                return broken(property, what);
            }
            ledger.settle(&after.rows);
        }
        let (source, destination) = (&mut self.source, &mut self.destination);
        match shape::difference(source, destination, &self.tables[at], &self.schema, self.majors.1)
        {
            Some(what) => broken(Property::Right, what),
            None => Ok(()),
        }
    }

    /// No sync leaves anything behind: no half-made table, no staged row, no file, no lock.
    fn nothing_left(&mut self, succeeded: bool) -> Result<(), Failure> {
        let schema = judge::literal(&self.schema);
        let relations = format!(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = {schema} AND c.relkind IN ('r', 'p', 'S', 'f')"
        );
        let mut expected: Vec<String> = self.tables.iter().map(|t| t.destination.clone()).collect();
        expected.push("_sync_state".to_owned());
        let mut staged = false;
        for name in judge::column(&mut self.destination, &relations) {
            let staging = name.ends_with("_stg");
            if !staging && !expected.contains(&name) {
                return broken(
                    Property::NothingLeft,
                    format!("`{name}` is left at the destination"),
                );
            }
            let count = format!("SELECT count(*) FROM {}", self.qualified(&name));
            if staging && judge::column(&mut self.destination, &count) != ["0"] {
                if !self.staged {
                    return broken(Property::NothingLeft, format!("rows are left in `{name}`"));
                }
                staged = true;
            }
        }
        self.staged = staged;
        let indexes = format!(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = {schema} AND c.relkind = 'i' AND c.relname LIKE '\\_new\\_%'"
        );
        if let Some(name) = judge::column(&mut self.destination, &indexes).pop() {
            return broken(Property::NothingLeft, format!("an index keeps the name `{name}`"));
        }
        for (path, _) in self.state_files() {
            let known = path.extension().is_some_and(|end| end == "json");
            if succeeded && !known {
                return broken(Property::NothingLeft, format!("{} is left", path.display()));
            }
        }
        for (side, session) in [Side::Source, Side::Destination].into_iter().zip(self.superusers())
        {
            let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
            if judge::column(session, locks) != ["0"] {
                return broken(
                    Property::NothingLeft,
                    format!("an advisory lock is left: {side:?}"),
                );
            }
        }
        Ok(())
    }

    /// What tells whether anything was written: the destination's rows and receipts, and the files.
    /// A table that is copied whole every time is left out.
    pub fn traces(&mut self) -> Vec<(String, Vec<String>)> {
        let kept: Vec<String> = self
            .tables
            .iter()
            .filter(|table| table.way != Way::FullRefresh)
            .map(|table| table.destination.clone())
            .collect();
        let mut traces = Vec::new();
        for name in &kept {
            let table = self.qualified(name);
            let rows =
                format!("SELECT tableoid || ' ' || xmin || ' ' || ctid FROM {table} ORDER BY 1");
            let receipt = format!(
                "SELECT xmin || ' ' || receipt FROM {} WHERE table_name = {}",
                self.qualified("_sync_state"),
                judge::literal(name)
            );
            for sql in [rows, receipt] {
                traces.push((name.clone(), judge::rows_if_there(&mut self.destination, &sql)));
            }
        }
        if kept.len() == self.tables.len() {
            let file = |(path, text): (PathBuf, Vec<u8>)| format!("{}: {text:?}", path.display());
            let files = self.state_files().into_iter().map(file).collect();
            traces.push(("sync-state/".to_owned(), files));
        }
        traces
    }

    /// A second sync changes nothing: no row is written again, no receipt, no file. A full refresh
    /// is another matter.
    pub fn second_sync_changes_nothing(&mut self) -> Result<(), Failure> {
        // What was new or rewritten is looked at once more, and noted then.
        let again = format!(
            "SELECT 1 FROM {} WHERE receipt @? '$.storage[*] ? (@.again == true)'",
            self.qualified("_sync_state")
        );
        let again = !judge::rows_if_there(&mut self.destination, &again).is_empty();
        // So are a view's rows where the greatest key was in one that is gone.
        if again || self.tables.iter().any(|table| table.view.is_some()) {
            self.sync(&["sync"])?;
        }
        let before = self.traces();
        self.sync(&["sync"])?;
        let after = self.traces();
        match before.iter().zip(&after).find(|(before, after)| before != after) {
            Some(((name, before), (_, after))) => {
                let gone: Vec<&String> = before.iter().filter(|was| !after.contains(was)).collect();
                let new: Vec<&String> = after.iter().filter(|is| !before.contains(is)).collect();
                let what =
                    format!("a second sync has written to `{name}`: {gone:?} became {new:?}");
                broken(Property::Idempotent, what)
            }
            None => Ok(()),
        }
    }
}
