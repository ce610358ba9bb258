//! Real PostgreSQL servers, started for the tests and the demo and gone with them.
//!
//! An installed PostgreSQL is used where there is one: `PG_BIN_DIR`, then `pg_config --bindir`,
//! then the usual folders. Otherwise one is downloaded. As root, which PostgreSQL refuses to run
//! as, its processes run as `nobody`.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use postgresql_embedded::blocking::PostgreSQL;
use postgresql_embedded::{LATEST, Settings};

/// The user that servers run as when the tests run as root.
const NOBODY: u32 = 65534;

/// The superuser of every server.
pub const SUPERUSER: &str = "postgres";

/// Its password.
pub const PASSWORD: &str = "embedded";

/// How long initdb and pg_ctl may take.
const COMMAND_TIMEOUT: Duration = Duration::from_mins(2);

/// How often a start is tried: a free port may be taken before the server gets to it.
const STARTS: usize = 5;

/// Ports that no system gives to outgoing connections, which would take that of a server that is
/// being restarted.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// A running server.
pub struct Server {
    postgresql: PostgreSQL,
    /// The folder of initdb and pg_ctl, callable by whoever runs the tests.
    programs: PathBuf,
    data: PathBuf,
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> Address {
        Address(self.postgresql.settings().port)
    }

    /// The superuser's session with a database.
    pub fn connect(&self, database: &str) -> postgres::Client {
        self.address().connect(database)
    }

    /// Stops the server: `fast`, or `immediate` as a crash would.
    pub fn stop(&self, mode: &str) {
        let status = Command::new(self.programs.join("bin/pg_ctl"))
            .args(["stop", "--wait", "--mode", mode, "--pgdata"])
            .arg(&self.data)
            .stdout(Stdio::null())
            .status()
            .expect("pg_ctl runs");
        assert!(status.success(), "pg_ctl stop --mode {mode} ended with {status}");
    }

    /// Gives the server a certificate and its key, both as PEM, and turns TLS on.
    pub fn serve_tls(&self, certificate: &str, key: &str) {
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let path = self.data.join(name);
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permissions");
            give_away(&path).expect("files change hands");
        }
        let mut session = self.connect("postgres");
        session.batch_execute("ALTER SYSTEM SET ssl = on").expect("a setting");
        session.batch_execute("SELECT pg_reload_conf()").expect("a reload");
        // The postmaster reads its files a moment later.
        std::thread::sleep(Duration::from_millis(500));
    }

    /// Lets clients show certificates that this authority has signed.
    pub fn trust_authority(&self, certificate: &str) {
        let path = self.data.join("authority.crt");
        fs::write(&path, certificate).expect("a file");
        give_away(&path).expect("files change hands");
        let mut session = self.connect("postgres");
        session.batch_execute("ALTER SYSTEM SET ssl_ca_file = 'authority.crt'").expect("a setting");
    }

    /// Puts lines before all others in pg_hba.conf.
    pub fn admit(&self, lines: &str) {
        let path = self.data.join("pg_hba.conf");
        let rules = fs::read_to_string(&path).expect("the rules");
        fs::write(&path, format!("{lines}\n{rules}")).expect("the rules");
        self.connect("postgres").batch_execute("SELECT pg_reload_conf()").expect("a reload");
        std::thread::sleep(Duration::from_millis(500));
    }

    /// The folder of its Unix socket.
    pub fn socket_folder(&self) -> PathBuf {
        self.data.parent().expect("a folder").to_owned()
    }

    /// Stops the server, `fast` or `immediate`, and starts it again on the same port.
    pub fn restart(&self, mode: &str) {
        let control = |arguments: &[&str]| {
            Command::new(self.programs.join("bin/pg_ctl"))
                .args(arguments)
                .arg(&self.data)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .expect("pg_ctl runs")
                .success()
        };
        if control(&["restart", "--wait", "--mode", mode, "--pgdata"]) {
            return;
        }
        // After an immediate stop a busy machine may take a while to end the old server's last
        // process, and until then the memory that they share cannot be had. The options of the
        // last start are in a file of the data folder.
        let options = fs::read_to_string(self.data.join("postmaster.opts")).expect("the options");
        let options: Vec<&str> = options.split('"').skip(1).step_by(2).collect();
        let options = options.iter().map(|option| format!("'{option}'")).collect::<Vec<_>>();
        let started = (0..60).any(|_| {
            std::thread::sleep(Duration::from_millis(500));
            control(&["start", "--wait", "--options", &options.join(" "), "--pgdata"])
        });
        assert!(started, "a server does not start again after a stop, {mode}");
    }

    /// Takes an image of the server's disk, lets `meanwhile` happen, and puts the image back, from
    /// which the server goes on as if nothing had happened.
    pub fn rewind(&mut self, meanwhile: impl FnOnce(&Self)) {
        let image = self.data.with_file_name("image");
        let copy = |from: &Path, to: &Path| {
            let status = Command::new("cp").arg("-a").args([from, to]).status().expect("cp runs");
            assert!(status.success(), "cp ended with {status}");
        };
        self.stop("fast");
        copy(&self.data, &image);
        self.start();
        meanwhile(self);
        self.stop("fast");
        fs::remove_dir_all(&self.data).expect("the data is removed");
        fs::rename(&image, &self.data).expect("the image takes its place");
        self.start();
    }

    /// Has the server go on as if transactions had been given their ids up to this one, the first of a file of
    /// `pg_xact`: all rows that are there are frozen before, as they would have been.
    pub fn pass_transactions(&mut self, next: u32) {
        self.connect("template1")
            .batch_execute("UPDATE pg_database SET datallowconn = true")
            .expect("an update");
        let databases = self.connect("template1").query("SELECT datname FROM pg_database", &[]);
        for database in databases.expect("the databases") {
            let mut session = self.connect(database.get(0));
            session.batch_execute("VACUUM (FREEZE)").expect("a vacuum");
        }
        self.stop("fast");
        // A page says of four transactions in a byte how they ended, and a file has 32 pages of 8 KiB.
        let file = self.data.join(format!("pg_xact/{:04X}", next / (32 * 8192 * 4)));
        fs::write(&file, vec![0; 32 * 8192]).expect("a file");
        give_away(&file).expect("files change hands");
        let status = Command::new(self.programs.join("bin/pg_resetwal"))
            .args(["--next-transaction-id", &next.to_string(), "--pgdata"])
            .arg(&self.data)
            .stdout(Stdio::null())
            .status()
            .expect("pg_resetwal runs");
        assert!(status.success(), "pg_resetwal ended with {status}");
        self.start();
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        let status = Command::new(self.programs.join("bin/pg_ctl"))
            .args(["promote", "--wait", "--pgdata"])
            .arg(&self.data)
            .stdout(Stdio::null())
            .status()
            .expect("pg_ctl runs");
        assert!(status.success(), "pg_ctl promote ended with {status}");
    }

    /// Kills one of its processes, upon which it ends all others and recovers, without a new start.
    pub fn crash(&self) {
        let mut victim = self.connect("postgres");
        let row = victim.query_one("SELECT pg_backend_pid()", &[]).expect("a process");
        let process: i32 = row.get(0);
        let status = Command::new("kill").args(["-KILL", &process.to_string()]).status();
        assert!(status.expect("kill runs").success());
        while victim.simple_query("").is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let there = || self.address().configuration("postgres").connect(postgres::NoTls).is_ok();
        let recovered = (0..600).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            there()
        });
        assert!(recovered, "a server does not recover");
    }

    /// Starts a stopped server again, on the same port.
    pub fn start(&mut self) {
        self.postgresql.start().expect("the server starts again");
    }
}

/// Where a server listens: a port of 127.0.0.1.
#[derive(Clone, Copy)]
pub struct Address(u16);

impl Address {
    /// The port.
    pub fn port(self) -> u16 {
        self.0
    }

    /// The superuser's session with a database.
    pub fn connect(self, database: &str) -> postgres::Client {
        self.configuration(database)
            .connect(postgres::NoTls)
            .expect("the embedded server accepts connections")
    }

    fn configuration(self, database: &str) -> postgres::Config {
        let mut configuration = postgres::Config::new();
        configuration
            .host("127.0.0.1")
            .port(self.0)
            .user(SUPERUSER)
            .password(PASSWORD)
            .dbname(database)
            .notice_callback(|_| {});
        configuration
    }
}

/// A source and a destination, in a folder of their own that goes with them.
pub struct Servers {
    /// The server that is read.
    pub source: Server,
    /// The server that is written.
    pub destination: Server,
    watchdog: Watchdog,
}

impl Servers {
    /// Starts two servers of the PostgreSQL that is found.
    pub fn start() -> Self {
        Self::start_with(&find_installation())
    }

    /// Starts two servers of the PostgreSQL whose programs are in `bin`.
    pub fn start_with(bin: &Path) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("incremental-replication-")
            .tempdir()
            .expect("a temporary folder")
            .keep();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("permissions");
        let programs = programs(bin, &folder);
        let watchdog = Watchdog::start(&folder, &programs);
        let (source, destination) = std::thread::scope(|scope| {
            let source = scope.spawn(|| server(&folder, &programs, "source"));
            let destination = server(&folder, &programs, "destination");
            (source.join().expect("the source starts"), destination)
        });
        Self { source, destination, watchdog }
    }

    /// Starts a standby of the source, in the folder of both.
    pub fn standby(&self) -> Server {
        let programs = &self.source.programs;
        let home =
            self.source.data.parent().and_then(Path::parent).expect("a folder").join("standby");
        let data = home.join("data");
        fs::create_dir_all(&data).expect("a data folder");
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("permissions");
        for path in [&home, &data] {
            give_away(path).expect("files change hands");
        }
        let status = Command::new(programs.join("bin/pg_basebackup"))
            .args([
                "--host=127.0.0.1",
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-password",
            ])
            .arg(format!("--port={}", self.source.address().port()))
            .arg(format!("--username={SUPERUSER}"))
            .arg("--pgdata")
            .arg(&data)
            .env("PGPASSWORD", PASSWORD)
            .status()
            .expect("pg_basebackup runs");
        assert!(status.success(), "pg_basebackup ended with {status}");
        launch(home, data, programs)
    }

    /// Stops both servers and removes their folder. The watchdog does the same for a process that
    /// ends without a word.
    pub fn stop(self) {
        self.watchdog.release();
    }
}

/// Stops the servers and removes their folder when this process is gone, however it ended: it
/// reads from a pipe that nobody writes to, and which the system closes.
struct Watchdog(Child);

impl Watchdog {
    fn start(folder: &Path, programs: &Path) -> Self {
        let script = "read -r _; cd /; for data in \"$1\"/*/data; do \
                      \"$2/bin/pg_ctl\" stop --wait --mode immediate --pgdata \"$data\"; done; \
                      rm -rf \"$1\"";
        let child = Command::new("sh")
            .args(["-c", script, "sh"])
            .args([folder, programs])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for the tests; the watchdog ends after them.
            .process_group(0)
            .spawn()
            .expect("sh runs");
        Self(child)
    }

    fn release(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().expect("the watchdog ends");
    }
}

fn server(folder: &Path, programs: &Path, name: &str) -> Server {
    let home = folder.join(name);
    let data = home.join("data");
    fs::create_dir_all(&data).expect("a data folder");
    let password_file = home.join("password");
    fs::write(&password_file, PASSWORD).expect("a password file");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("permissions");
    for path in [&home, &data, &password_file] {
        give_away(path).expect("files change hands");
    }
    launch(home, data, programs)
}

/// Makes a cluster in the data folder, if there is none, and starts it.
fn launch(home: PathBuf, data: PathBuf, programs: &Path) -> Server {
    let settings = Settings {
        releases_url: String::new(),
        version: LATEST.clone(),
        installation_dir: programs.to_owned(),
        password_file: home.join("password"),
        data_dir: data.clone(),
        host: "127.0.0.1".to_owned(),
        port: free_port(),
        username: SUPERUSER.to_owned(),
        password: PASSWORD.to_owned(),
        temporary: false,
        timeout: Some(COMMAND_TIMEOUT),
        configuration: configuration(),
        trust_installation_dir: true,
        socket_dir: Some(home),
    };
    let mut postgresql = PostgreSQL::new(settings.clone());
    postgresql.setup().expect("initdb succeeds");
    for attempt in 1.. {
        match postgresql.start() {
            Ok(()) => break,
            Err(error) if attempt == STARTS => panic!("a server does not start: {error}"),
            Err(_) => {
                postgresql = PostgreSQL::new(Settings { port: free_port(), ..settings.clone() });
            }
        }
    }
    Server { postgresql, programs: programs.to_owned(), data }
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    std::iter::repeat_with(|| fastrand::u16(PORTS))
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a port")
}

/// Fast rather than safe: what is tested is not whether PostgreSQL survives a power cut.
fn configuration() -> HashMap<String, String> {
    [
        ("fsync", "off"),
        ("full_page_writes", "off"),
        ("max_connections", "200"),
        ("max_prepared_transactions", "50"),
        // Long runs would fill the disk with what nobody reads again.
        ("max_wal_size", "128MB"),
        ("min_wal_size", "32MB"),
        ("shared_buffers", "64MB"),
        ("lc_messages", "C"),
        ("logging_collector", "off"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// The folder that holds PostgreSQL's programs.
pub fn find_installation() -> PathBuf {
    if let Some(bin) = std::env::var_os("PG_BIN_DIR").map(PathBuf::from) {
        assert!(
            bin.join("initdb").is_file(),
            "PG_BIN_DIR is `{}`, which holds no initdb",
            bin.display()
        );
        return bin;
    }
    let configured = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output();
    let configured = configured.ok().filter(|output| output.status.success());
    let configured = configured
        .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim().to_owned()));
    let whole =
        |bin: &PathBuf| ["initdb", "pg_ctl", "postgres"].iter().all(|p| bin.join(p).is_file());
    configured.into_iter().chain(usual_folders()).find(whole).unwrap_or_else(download)
}

/// The folders of programs of every PostgreSQL to test with: those in `PG_BIN_DIRS`, separated by
/// colons, else all that are installed, else the one that [`find_installation`] finds.
pub fn find_installations() -> Vec<PathBuf> {
    let whole = |bin: &PathBuf| bin.join("initdb").is_file();
    if let Some(named) = std::env::var_os("PG_BIN_DIRS") {
        let named: Vec<PathBuf> = std::env::split_paths(&named).collect();
        let missing = named.iter().find(|bin| !whole(bin));
        assert!(missing.is_none(), "PG_BIN_DIRS names {missing:?}, which holds no initdb");
        return named;
    }
    let installed: Vec<PathBuf> = usual_folders().into_iter().filter(whole).collect();
    if installed.is_empty() || std::env::var_os("PG_BIN_DIR").is_some() {
        return vec![find_installation()];
    }
    installed
}

/// Where packages put PostgreSQL, the newest first.
fn usual_folders() -> Vec<PathBuf> {
    let parents = [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
        ("/Applications/Postgres.app/Contents/Versions", ""),
    ];
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix) in parents {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let version = name.strip_prefix(prefix).and_then(|version| version.parse().ok());
            found.extend(version.map(|version| (version, entry.path().join("bin"))));
        }
    }
    found.sort();
    found.into_iter().rev().map(|(_, bin)| bin).collect()
}

/// Downloads PostgreSQL once; later runs find it.
fn download() -> PathBuf {
    let base = if is_root() {
        // Nobody must be able to read it, which root's own folder does not allow.
        PathBuf::from("/var/tmp/incremental-replication-postgresql")
    } else {
        std::env::home_dir().expect("a home folder").join(".theseus/postgresql")
    };
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let settings = Settings {
        releases_url: "https://github.com/theseus-rs/postgresql-binaries".to_owned(),
        version: LATEST.clone(),
        installation_dir: base,
        password_file: scratch.path().join("password"),
        data_dir: scratch.path().join("data"),
        host: "127.0.0.1".to_owned(),
        port: 0,
        username: SUPERUSER.to_owned(),
        password: PASSWORD.to_owned(),
        temporary: true,
        timeout: Some(COMMAND_TIMEOUT),
        configuration: HashMap::new(),
        trust_installation_dir: false,
        socket_dir: None,
    };
    let mut postgresql = PostgreSQL::new(settings);
    let outcome = postgresql.setup();
    let bin = postgresql.settings().binary_dir();
    // As root the download succeeds and the initdb that follows it does not, which is no harm.
    assert!(
        bin.join("initdb").is_file(),
        "there is no PostgreSQL on this machine, and none could be downloaded: {outcome:?}\n\
         install PostgreSQL, or name the folder of its programs in PG_BIN_DIR"
    );
    bin
}

pub fn is_root() -> bool {
    // /proc/self is not everywhere; a file of one's own is.
    tempfile::tempfile().and_then(|file| file.metadata()).is_ok_and(|file| file.uid() == 0)
}

fn give_away(path: &Path) -> io::Result<()> {
    if is_root() { chown(path, Some(NOBODY), Some(NOBODY)) } else { Ok(()) }
}

/// A folder whose `bin` starts PostgreSQL's programs as somebody PostgreSQL accepts.
fn programs(bin: &Path, folder: &Path) -> PathBuf {
    if !is_root() {
        return bin.parent().expect("programs are in a folder").to_owned();
    }
    let wrappers = folder.join("programs");
    fs::create_dir_all(wrappers.join("bin")).expect("a folder");
    for program in ["initdb", "pg_ctl", "pg_basebackup", "pg_resetwal"] {
        let wrapper = wrappers.join("bin").join(program);
        let real = bin.join(program);
        let script = format!(
            "#!/bin/sh\ncd /\nexec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups '{}' \"$@\"\n",
            real.display()
        );
        fs::write(&wrapper, script).expect("a wrapper");
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("permissions");
    }
    wrappers
}
