//! A story as it happens: two servers, the open transactions, the pipeline's directory, and the
//! real binary at work. Every operation acts through this.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use postgres::Client;
use serde_json::Value;
use tempfile::TempDir;

use super::case::{OURS, READER, ROLE_PASSWORD, WRITER};
use super::judge::{self, Rows, literal, quoted};
use super::ledger::Found;
use super::model::{SETUP, Table, Way};
use super::park::{DATABASE, Park};
use super::server::{Address, Servers};

/// A statement that waits longer than this for another's lock does not happen.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '40ms'; SET statement_timeout = '30s'";

/// What the harness holds against the tool, and the sentence that it broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Property {
    /// After a sync that succeeded, the destination holds all that the mode promises.
    Right,
    /// A sync that did not succeed leaves a table as it was, or right.
    Untouched,
    /// A reader sees the state before a sync or the one after it, and nothing else.
    Readers,
    /// `verify` reports a difference if and only if there is one, and its repair leaves none.
    Verified,
    /// What `plan` prints is what the next sync does, and it changes nothing.
    Planned,
    /// A second sync changes nothing.
    Idempotent,
    /// No sync leaves anything behind.
    NothingLeft,
    /// A table is copied again when that is called for, and only then.
    Copying,
    /// A sync ends, soon, and with success unless something is in its way.
    Ends,
}

/// A property that did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    pub property: Property,
    pub what: String,
}

/// What an operation returns: what the next sync owes to it, or what it found wrong.
pub type Outcome = Result<Found, Failure>;

/// Fails a property.
pub fn broken<T>(property: Property, what: impl fmt::Display) -> Result<T, Failure> {
    Err(Failure { property, what: what.to_string() })
}

/// One of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

/// An open transaction at the source.
pub struct Transaction {
    pub session: Client,
    /// What a sync owes to all that it writes.
    pub found: Found,
    pub savepoints: u32,
}

/// What stands at the destination under a table's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    pub oid: Option<String>,
    pub rows: Rows,
    /// Rows that are marked as deleted.
    pub marked: Rows,
    /// Whether a receipt or a file may say what the copy was made with.
    pub remembered: bool,
}

/// The state of a story.
pub struct World {
    pub source: Client,
    pub destination: Client,
    pub schema: String,
    pub tables: Vec<Table>,
    pub transactions: Vec<Transaction>,
    /// Names of prepared transactions.
    pub prepared: Vec<(String, Found)>,
    /// Objects of people at the destination, as the statements that drop them.
    pub of_people: Vec<String>,
    /// State files that were set aside.
    pub saved: Option<Vec<(PathBuf, Vec<u8>)>>,
    pub majors: (u32, u32),
    /// The story so far, told for a person.
    pub told: Vec<String>,
    pub labels: Vec<String>,
    /// Whether people have put rows into staging tables, which stay until rows come.
    pub staged: bool,
    /// Whether the source may hold other rows than when it was last looked at.
    pub unseen: bool,
    /// Whether the last run was asked to look for deleted rows.
    pub reconcile_asked: bool,
    /// What the runs of the binary have printed.
    pub outputs: Vec<String>,
    servers: (Arc<Servers>, Arc<Servers>),
    superusers: [Client; 2],
    directory: TempDir,
    /// With the newest pg_dump first.
    pub path: Option<std::ffi::OsString>,
    /// The fault that the binary is told to make.
    pub fault: Option<String>,
    counter: u32,
}

impl World {
    /// Two empty schemas, and a pipeline between them.
    pub fn new(
        park: &mut Park,
        at: (usize, usize),
        tables: Vec<Table>,
        settle: &str,
        fault: Option<&str>,
    ) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let schema = if number.is_multiple_of(3) {
            format!("Case {number}")
        } else {
            format!("case_{number}")
        };
        let majors = (park.installations[at.0].major, park.installations[at.1].major);
        let servers = (park.servers(at.0), park.servers(at.1));
        let path = park.pg_dump.as_ref().map(|bin| {
            let old = std::env::var_os("PATH").unwrap_or_default();
            let folders = std::iter::once(bin.clone()).chain(std::env::split_paths(&old));
            std::env::join_paths(folders).expect("a PATH")
        });
        let mut world = Self {
            source: source_session(servers.0.source.address(), &schema),
            destination: destination_session(servers.1.destination.address()),
            schema,
            tables,
            transactions: Vec::new(),
            prepared: Vec::new(),
            of_people: Vec::new(),
            saved: None,
            majors,
            told: Vec::new(),
            labels: ["one", "two", "it's three"].map(str::to_owned).to_vec(),
            superusers: [
                servers.0.source.connect(DATABASE),
                servers.1.destination.connect(DATABASE),
            ],
            staged: false,
            unseen: false,
            reconcile_asked: false,
            outputs: Vec::new(),
            servers,
            directory: tempfile::tempdir().expect("a directory"),
            path,
            fault: fault.map(str::to_owned),
            counter: 0,
        };
        let create = format!("CREATE SCHEMA {}; {SETUP}", quoted(&world.schema));
        world.source.batch_execute(&create).expect("a schema");
        for at in 0..world.tables.len() {
            let create = world.tables[at].create();
            assert!(world.at_source(&create), "{}", world.told.join("\n"));
        }
        world.write_configuration(settle);
        world
    }

    /// Writes `.env` and `tables-config.json`.
    fn write_configuration(&mut self, settle: &str) {
        let [source, destination] = self.addresses().map(Address::port);
        let env = format!(
            "SOURCE_HOST=127.0.0.1\nSOURCE_PORT={source}\nSOURCE_USERNAME={READER}\n\
             SOURCE_PASSWORD={ROLE_PASSWORD}\nSOURCE_DB={DATABASE}\nSOURCE_SCHEMA=\"{schema}\"\n\
             DEST_HOST=127.0.0.1\nDEST_PORT={destination}\nDEST_USERNAME={WRITER}\n\
             DEST_PASSWORD={ROLE_PASSWORD}\nDEST_DB={DATABASE}\nDEST_SCHEMA=\"{schema}\"\n",
            schema = self.schema
        );
        let rules: Vec<Value> = self.tables.iter().map(Table::rule).collect();
        let tables = serde_json::json!({ "defaults": { "settle": settle }, "tables": rules });
        fs::write(self.directory.path().join(".env"), env).expect("a file");
        self.told.push(format!("tables-config.json: {tables}"));
        fs::write(self.directory.path().join("tables-config.json"), tables.to_string())
            .expect("a file");
    }

    // What operations do.

    /// Runs statements at the source. A server that refuses makes it not have happened.
    pub fn at_source(&mut self, sql: &str) -> bool {
        let done = self.source.batch_execute(sql);
        self.tell("source", sql, done)
    }

    /// Runs statements at the destination, as the role that owns it.
    pub fn at_destination(&mut self, sql: &str) -> bool {
        let done = self.destination.batch_execute(sql);
        self.tell("destination", sql, done)
    }

    /// Runs a statement in an open transaction. One that is refused does not end it.
    pub fn in_transaction(&mut self, at: usize, sql: &str) -> bool {
        let session = &mut self.transactions[at].session;
        session.batch_execute("SAVEPOINT attempt").expect("a savepoint");
        let done = session.batch_execute(sql);
        let back = if done.is_ok() { "RELEASE attempt" } else { "ROLLBACK TO attempt" };
        session.batch_execute(back).expect("the savepoint");
        self.tell(&format!("transaction {at}"), sql, done)
    }

    /// Writes a line of the story.
    pub fn tell(&mut self, who: &str, what: &str, done: Result<(), postgres::Error>) -> bool {
        let refused = done.err().map(|error| match error.as_db_error() {
            Some(said) => format!("  -- refused: {}", said.message()),
            None => format!("  -- refused: {error}"),
        });
        self.told.push(format!("{who}: {what}{}", refused.clone().unwrap_or_default()));
        self.unseen |= refused.is_none() && who != "destination";
        refused.is_none()
    }

    /// A table of the story.
    pub fn draw_table(&self, rng: &mut Rng) -> usize {
        rng.usize(..self.tables.len())
    }

    /// A number that no other object of the story has.
    pub fn number(&mut self) -> u32 {
        self.counter += 1;
        self.counter
    }

    /// Another session with the source, as the one that writes.
    pub fn another_source(&self) -> Client {
        source_session(self.servers.0.source.address(), &self.schema)
    }

    /// Where source and destination listen.
    pub fn addresses(&self) -> [Address; 2] {
        [self.servers.0.source.address(), self.servers.1.destination.address()]
    }

    /// A superuser's session with either side.
    pub fn superusers(&mut self) -> &mut [Client; 2] {
        &mut self.superusers
    }

    /// A relation of this story's schema, as SQL.
    pub fn qualified(&self, name: &str) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(name))
    }

    /// The pipeline's directory.
    pub fn pipeline(&self) -> &Path {
        self.directory.path()
    }

    /// The source's rows are looked at again after an operation.
    pub fn note(&mut self, found: Found) {
        for table in &mut self.tables {
            let question = table.question(&self.schema);
            let rows = judge::rows_by_key(&mut self.source, &question)
                .unwrap_or_else(|what| panic!("{what}\n{}", self.told.join("\n")));
            let files = judge::files(&mut self.source, &question);
            // Other ways than a key do not need a key that moves.
            let found = if table.way == Way::Key { found } else { Found::Surely };
            table.ledger.note(rows, files, found);
        }
    }

    /// All that is open ends, one way or the other.
    pub fn come_to_rest(&mut self, rng: &mut Rng) {
        for mut transaction in std::mem::take(&mut self.transactions) {
            let end = if rng.u32(..4) == 0 { "ROLLBACK" } else { "COMMIT" };
            let done = transaction.session.batch_execute(end);
            self.tell("transaction", end, done);
            self.note(transaction.found);
        }
        for (name, found) in std::mem::take(&mut self.prepared) {
            let end = if rng.u32(..4) == 0 { "ROLLBACK" } else { "COMMIT" };
            self.at_source(&format!("{end} PREPARED {}", literal(&name)));
            self.note(found);
        }
    }

    /// Removes what the story has left on the servers.
    pub fn forget(mut self) {
        self.come_to_rest(&mut Rng::with_seed(0));
        let drop = format!("DROP SCHEMA IF EXISTS {} CASCADE", quoted(&self.schema));
        for session in self.superusers() {
            // What cannot be dropped is gone with the servers.
            let _ = session.batch_execute(&format!("SET lock_timeout = '5s'; {drop}"));
        }
    }

    /// The folder of the state files.
    pub fn state_folder(&self) -> PathBuf {
        self.directory.path().join("sync-state")
    }

    /// The state files and what they hold.
    pub fn state_files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(self.state_folder())
            .into_iter()
            .flatten()
            .flatten()
            // It says when tables were synced, and not what was.
            .filter(|entry| !entry.file_name().to_string_lossy().starts_with("last.run."))
            .map(|entry| (entry.path(), fs::read(entry.path()).unwrap_or_default()))
            .collect();
        files.sort();
        files
    }

    /// Stops a server, `fast` or `immediate`, and starts it again; open transactions are gone.
    pub fn restart(&mut self, side: Side, mode: &str) {
        self.told.push(format!("{side:?}: restarted, {mode}"));
        match side {
            Side::Source => {
                self.transactions.clear();
                self.servers.0.source.restart(mode);
                self.source = source_session(self.servers.0.source.address(), &self.schema);
                self.superusers[0] = self.servers.0.source.connect(DATABASE);
            }
            Side::Destination => {
                self.servers.1.destination.restart(mode);
                self.destination = destination_session(self.servers.1.destination.address());
                self.superusers[1] = self.servers.1.destination.connect(DATABASE);
            }
        }
    }

    /// Waits until no session of the tool is left on either side.
    pub fn wait_until_alone(&mut self) -> Result<(), Failure> {
        let started = Instant::now();
        for session in self.superusers() {
            let ours = format!("SELECT pid FROM pg_stat_activity WHERE {OURS}");
            while !judge::column(session, &ours).is_empty() {
                if started.elapsed() > Duration::from_secs(30) {
                    return broken(Property::NothingLeft, "a session of the tool does not end");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }
}

/// A session that writes at the source.
fn source_session(address: Address, schema: &str) -> Client {
    let mut session = address.connect(DATABASE);
    let path = format!("{LOCK_TIMEOUT}; SET search_path = {}, public", quoted(schema));
    session.batch_execute(&path).expect("settings");
    session
}

/// A session of the role that owns the destination.
fn destination_session(address: Address) -> Client {
    let mut session = address.connect(DATABASE);
    session.batch_execute(&format!("{LOCK_TIMEOUT}; SET ROLE {WRITER}")).expect("settings");
    session
}
