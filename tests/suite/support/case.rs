//! One test's own pair of databases and its pipeline's directory.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use postgres::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::judge;
use super::server::{Address, Servers};

/// The role that reads the source: SELECT and nothing else.
pub const READER: &str = "reader";

/// The role that writes the destination: owner of its database, no superuser.
pub const WRITER: &str = "writer";

/// The password of both.
pub const ROLE_PASSWORD: &str = "s3cret-pa$$word";

/// The servers that all tests of the process share.
pub fn servers() -> &'static Servers {
    static SERVERS: OnceLock<Servers> = OnceLock::new();
    SERVERS.get_or_init(|| {
        let servers = Servers::start();
        create_roles(&servers);
        servers
    })
}

/// Makes the two roles.
pub fn create_roles(servers: &Servers) {
    for (server, role) in [(&servers.source, READER), (&servers.destination, WRITER)] {
        let sql = format!("CREATE ROLE {role} LOGIN PASSWORD '{ROLE_PASSWORD}'");
        server.connect("postgres").batch_execute(&sql).expect("a role");
    }
}

/// A source database, a destination database and a pipeline between them.
pub struct Case {
    pub source: Client,
    pub destination: Client,
    pub directory: TempDir,
    pub database: String,
    source_server: Address,
    destination_server: Address,
    environment: Vec<(String, String)>,
}

/// What tells the sessions of the tool in this database in `pg_stat_activity`.
pub const OURS: &str =
    "application_name LIKE 'incremental-replication%' AND datname = current_database()";

/// How a run of the binary ended.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Case {
    /// Two empty databases whose source runs `setup`, and a pipeline that copies these tables.
    pub fn new(setup: &str, tables: &Value) -> Self {
        Self::on(servers(), setup, tables)
    }

    /// The same on servers of one's own, which may be stopped.
    pub fn on(servers: &Servers, setup: &str, tables: &Value) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let database = format!("case_{number}");
        let create = format!("CREATE DATABASE {database}");
        servers.source.connect("postgres").batch_execute(&create).expect("a source");
        let create = format!("{create} OWNER {WRITER}");
        servers.destination.connect("postgres").batch_execute(&create).expect("a destination");
        let mut source = servers.source.connect(&database);
        source
            .batch_execute(&format!(
                "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {READER}; \
                 ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO {READER}"
            ))
            .expect("privileges");
        source.batch_execute(setup).expect("the source's setup");
        let mut destination = servers.destination.connect(&database);
        destination
            .batch_execute(&format!("ALTER SCHEMA public OWNER TO {WRITER}; SET ROLE {WRITER}"))
            .expect("a schema");
        let directory = tempfile::tempdir().expect("a directory");
        let case = Self {
            source,
            destination,
            directory,
            database,
            source_server: servers.source.address(),
            destination_server: servers.destination.address(),
            environment: Vec::new(),
        };
        case.write_env("");
        case.write_tables(tables);
        case
    }

    /// The source's port.
    pub fn source_port(&self) -> u16 {
        self.source_server.port()
    }

    /// The destination's port.
    pub fn destination_port(&self) -> u16 {
        self.destination_server.port()
    }

    /// A superuser's session with another database of the source.
    pub fn source_at(&self, database: &str) -> Client {
        self.source_server.connect(database)
    }

    /// The first column of a query at the destination, whose table may not be there.
    pub fn ask_if_there(&mut self, sql: &str) -> Option<Vec<String>> {
        let found = self.destination.simple_query(sql).is_ok();
        found.then(|| self.ask(sql))
    }

    /// Waits until no session of the tool is left on either side.
    pub fn wait_until_alone(&self) {
        let ours = format!("SELECT pid FROM pg_stat_activity WHERE {OURS}");
        let mut sessions = [self.another_source(), self.destination_superuser()];
        let started = Instant::now();
        for session in &mut sessions {
            while !judge::column(session, &ours).is_empty() {
                assert!(started.elapsed() < Duration::from_mins(1), "a session does not end");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// A superuser's session with the destination.
    pub fn destination_superuser(&self) -> Client {
        self.destination_server.connect(&self.database)
    }

    /// Another session with the source.
    pub fn another_source(&self) -> Client {
        self.source_server.connect(&self.database)
    }

    /// Waits until a question at the source has an answer.
    pub fn until(&self, question: &str) {
        judge::wait_for(&mut self.another_source(), question);
    }

    /// Connects again to servers that were started again.
    pub fn reconnect(&mut self) {
        self.source = self.another_source();
        self.destination = self.destination_superuser();
        self.at_destination(&format!("SET ROLE {WRITER}"));
    }

    /// Writes `.env`, with further lines at its end.
    pub fn write_env(&self, more: &str) {
        let database = &self.database;
        let (source, destination) = (self.source_server.port(), self.destination_server.port());
        let text = format!(
            "PIPELINE_NAME = shop\n\
             SOURCE_HOST=127.0.0.1\nSOURCE_PORT={source}\nSOURCE_USERNAME={READER}\n\
             SOURCE_PASSWORD={ROLE_PASSWORD}\nSOURCE_DB={database}\nSOURCE_SCHEMA=public\n\
             DEST_HOST='127.0.0.1' # loopback\nDEST_PORT={destination}\nDEST_USERNAME={WRITER}\n\
             DEST_PASSWORD=\"{ROLE_PASSWORD}\"\nDEST_DB={database}\nDEST_SCHEMA=public\n{more}\n"
        );
        self.write(".env", &text);
    }

    /// Writes `tables-config.json`.
    pub fn write_tables(&self, tables: &Value) {
        self.write("tables-config.json", &format!("{tables:#}"));
    }

    /// Writes a file of the pipeline.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    /// Reads a file of the pipeline.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The pipeline's directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Sets a variable for every later run.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Runs statements at the source.
    pub fn at_source(&mut self, sql: &str) {
        self.source.batch_execute(sql).unwrap_or_else(|error| panic!("{error:?} in: {sql}"));
    }

    /// Runs statements at the destination, as its owner.
    pub fn at_destination(&mut self, sql: &str) {
        self.destination.batch_execute(sql).unwrap_or_else(|error| panic!("{error:?} in: {sql}"));
    }

    /// The first column of a query at the destination.
    pub fn ask(&mut self, sql: &str) -> Vec<String> {
        judge::column(&mut self.destination, sql)
    }

    /// The binary with arguments, ready to run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_incremental-replication"));
        command.arg("-C").arg(self.path()).args(arguments).stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the binary to its end.
    pub fn run(&self, arguments: &[&str]) -> Run {
        Run::from(self.command(arguments).output().expect("the binary runs"))
    }

    /// Starts the binary.
    pub fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs")
    }

    /// A sync that must succeed.
    pub fn sync(&self) -> Run {
        let run = self.run(&["sync"]);
        run.expect(0);
        run
    }

    /// What `verify` says, which must end with this code.
    pub fn verify(&self, code: i32) -> Value {
        let run = self.run(&["verify", "--json"]);
        run.expect(code);
        serde_json::from_str(&run.stdout).expect("JSON")
    }

    /// A sync that must end with this code.
    pub fn sync_fails(&self, code: i32) -> Run {
        let run = self.run(&["sync"]);
        run.expect(code);
        run
    }

    /// Fails unless both sides of a table, named as in SQL, are equal.
    pub fn assert_equal(&mut self, table: &str) {
        judge::assert_equal(&mut self.source, &mut self.destination, (table, table));
    }

    /// Fails if anything of ours but the tables, their staging tables and the receipts is left.
    pub fn assert_nothing_left(&mut self) {
        self.assert_nothing_left_but_a_temporary_file();
        let temporary: Vec<_> = fs::read_dir(self.path().join("sync-state"))
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|end| end == "tmp"))
            .collect();
        assert!(temporary.is_empty(), "{temporary:?}");
    }

    /// The same, where the process may have ended while it wrote a state file.
    pub fn assert_nothing_left_but_a_temporary_file(&mut self) {
        let left = self.ask(
            "SELECT format('%s %s: %s', c.relkind, c.relname, 'left behind') FROM pg_class c \
             WHERE c.relname LIKE '\\_new\\_%'",
        );
        assert!(left.is_empty(), "{left:?}");
        for staging in self.ask(
            "SELECT c.oid::regclass::text FROM pg_class c \
             WHERE c.relkind = 'r' AND c.relname LIKE '%\\_stg'",
        ) {
            let staged = self.ask(&format!("SELECT count(*) FROM {staging}"));
            assert_eq!(staged, ["0"], "rows in {staging}");
        }
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Run {
    /// Fails unless the run ended with this code.
    pub fn expect(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "\n{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Fails unless the output says so.
    pub fn says(&self, words: &str) -> &Self {
        let said = self.stdout.contains(words) || self.stderr.contains(words);
        assert!(said, "nothing says `{words}` in:\n{}\n{}", self.stdout, self.stderr);
        self
    }
}

/// A rule with a replication key.
pub fn by(name: &str, key: &str) -> Value {
    json!({ "name": name, "replication_key": key })
}

/// A rule with more keys.
pub fn with(mut rule: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().expect("keys") {
        rule[key] = value.clone();
    }
    rule
}
