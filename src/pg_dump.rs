//! Reads a table through pg_dump, in the snapshot of our own transaction.

mod script;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{Builder, JoinHandle};

use crate::config::{Endpoint, SYSTEM, TlsMode};
use crate::copy::Outgoing;
use crate::db::{CONFLICT_REMEDY, Server, silence};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::sql::Qualified;

/// The program, looked up on the PATH.
const PROGRAM: &str = "pg_dump";

/// What Debian has on the PATH instead: a script that starts the newest version there is, which
/// takes it longer than pg_dump needs for a small table.
const WRAPPER: &str = "pg_wrapper";

/// Where Debian has the versions.
const VERSIONS: &str = "/usr/lib/postgresql";

/// By these words pg_dump tells that it lost the server, or with it the session that exported the
/// snapshot.
const LOST: [&str; 6] = [
    "server closed the connection",
    "terminating connection",
    "connection to server",
    "the database system is",
    "invalid snapshot identifier",
    "SET TRANSACTION SNAPSHOT",
];

/// By these words it tells that it was let in, and that a trigger on login wants to write.
const LOGIN_WRITES: &str = "in a read-only transaction";

/// By these words pg_dump tells that somebody has the table for himself, or who wants to alter it stands
/// between us, who hold a lock on it, and pg_dump, which wants one too.
const NOT_LOCKED: [&str; 2] = ["LOCK TABLE", "canceling statement due to statement timeout"];

/// By these words pg_dump tells that a standby has ended what it read.
const CONFLICT: &str = "due to conflict with recovery";

/// From this version on libpq takes [`SYSTEM`] for more than the name of a file.
const KNOWS_SYSTEM: u32 = 16;

/// As much as a pipe holds.
const PIECE_BYTES: usize = 64 * 1024;

/// How much of what pg_dump has to say is kept.
const LONGEST_COMPLAINT_BYTES: usize = 8 * 1024;

/// The pg_dump that is installed, asked who it is when that matters first: where it is a script
/// that looks for the right one, as Debian's is, the answer takes longer than most syncs.
#[derive(Debug)]
pub struct Installed {
    server_version: u32,
    in_recovery: bool,
    met_directly: bool,
    system_is_trusted: bool,
    unusable: OnceLock<Option<Unusable>>,
}

/// Why pg_dump cannot read a source, and what helps.
#[derive(Debug)]
pub struct Unusable {
    /// Why.
    pub why: String,
    /// What helps.
    pub remedy: &'static str,
}

/// What helps where the program is the reason.
const INSTALL: &str = "install PostgreSQL's client programs, of the source's version or newer, or set \
    \"initial\" to \"copy\"";

impl Installed {
    /// What is to read this source, which says this of itself.
    #[must_use]
    pub fn for_source(source: &Endpoint, server: &Server) -> Self {
        let Server { version: server_version, in_recovery, met_directly, .. } = *server;
        let system_is_trusted = source.tls.mode != TlsMode::Disable
            && source.tls.root_certificate.as_deref() == Some(SYSTEM);
        let unusable = OnceLock::new();
        Self { server_version, in_recovery, met_directly, system_is_trusted, unusable }
    }

    fn look(&self) -> Option<Unusable> {
        // An exported snapshot lacks what of a standby's holds the transactions in flight, once one of them has
        // more than 64 subtransactions. Who takes it over takes them all for undone, and marks their rows as
        // such in the standby's pages, for everybody and for good (PostgreSQL 14 to 18; tried in the suite).
        if self.in_recovery {
            let why =
                "the source is a standby, which a snapshot that it shares with pg_dump may damage";
            let remedy = "set \"initial\" to \"copy\", or read from the primary";
            return Some(Unusable { why: why.to_owned(), remedy });
        }
        if !self.met_directly {
            let why = "a pooler keeps to itself what pg_dump's session is to begin with";
            let remedy = "set \"initial\" to \"copy\", or let SOURCE_HOST and SOURCE_PORT be the server's own";
            return Some(Unusable { why: why.to_owned(), remedy });
        }
        self.look_at_program().map(|why| Unusable { why, remedy: INSTALL })
    }

    fn look_at_program(&self) -> Option<String> {
        let output = match Command::new(program()).arg("--version").stderr(Stdio::null()).output() {
            Ok(output) if output.status.success() => output,
            Ok(output) => return Some(format!("`pg_dump --version` ended with {}", output.status)),
            Err(error) => return Some(format!("pg_dump cannot be run ({error})")),
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let Some(major) = major_version(&text) else {
            return Some(format!("`pg_dump --version` says `{}`", text.trim()));
        };
        let server = self.server_version / 10_000;
        if major < server {
            return Some(format!("pg_dump is version {major}, older than the source's {server}"));
        }
        (self.system_is_trusted && major < KNOWS_SYSTEM).then(|| {
            format!(
                "pg_dump is version {major}, and only from {KNOWS_SYSTEM} on knows \
                 `SOURCE_SSLROOTCERT={SYSTEM}`"
            )
        })
    }

    /// Why it cannot, if so.
    #[must_use]
    pub fn unusable(&self) -> Option<&Unusable> {
        self.unusable.get_or_init(|| self.look()).as_ref()
    }
}

/// The program itself, where a script stands before it.
fn program() -> &'static Path {
    static PROGRAM_ITSELF: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM_ITSELF.get_or_init(|| behind_wrapper().unwrap_or_else(|| PathBuf::from(PROGRAM)))
}

/// The newest pg_dump, where the one on the PATH is Debian's script.
fn behind_wrapper() -> Option<PathBuf> {
    let found = Command::new("sh").args(["-c", "command -v pg_dump"]).output().ok()?;
    let found = String::from_utf8(found.stdout).ok()?;
    let real = Path::new(found.trim()).canonicalize().ok()?;
    if !real.ends_with(WRAPPER) {
        return None;
    }
    let version = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let mut versions: Vec<u32> =
        std::fs::read_dir(VERSIONS).ok()?.flatten().filter_map(version).collect();
    versions.sort_unstable_by(|one, other| other.cmp(one));
    let program = |version: u32| PathBuf::from(format!("{VERSIONS}/{version}/bin/{PROGRAM}"));
    versions.into_iter().map(program).find(|program| program.is_file())
}

/// The major version in `pg_dump (PostgreSQL) 17.2 (Debian 17.2-1)`.
fn major_version(text: &str) -> Option<u32> {
    let word =
        text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let digits = word.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// What pg_dump is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The exported snapshot's name.
    pub snapshot: &'a str,
    /// The table.
    pub table: &'a Qualified,
    /// Its columns, which the dump must have in this order.
    pub columns: &'a [String],
    /// The sequences that belong to the table. Their values do not travel, and we may not be
    /// allowed to read them.
    pub without: &'a [Qualified],
}

/// Reads the rows of a table. While pg_dump is silent, `ask` is called now and then; it fails where
/// the server cannot be heard any more, which pg_dump would wait for without end.
pub fn read(
    source: &Endpoint,
    interrupt: &Interrupt,
    wanted: Wanted,
    mut ask: impl FnMut() -> Result<()>,
    outgoing: &mut Outgoing,
) -> Result<()> {
    let dump = Dump::start(source, interrupt, wanted)?;
    let mut script = script::Script::new(wanted.table, wanted.columns);
    loop {
        match dump.pieces.recv_timeout(silence()) {
            Ok(piece) => {
                let piece = piece
                    .map_err(|error| Error::table("cannot read from pg_dump").caused_by(&error))?;
                script.feed(&piece, &mut |rows| {
                    // A row is a line: the end of one within a value is written as an escape.
                    let ends = memchr::memchr_iter(b'\n', rows).count();
                    outgoing.push(rows, ends as u64)
                })?;
            }
            Err(RecvTimeoutError::Timeout) => ask()?,
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    dump.finish(interrupt)?;
    script.finish()
}

/// A running pg_dump. It does not outlive this value.
struct Dump {
    child: Arc<Mutex<Child>>,
    /// What it writes, piece by piece.
    pieces: Receiver<std::io::Result<Vec<u8>>>,
    complaints: Option<JoinHandle<String>>,
    _cancel: crate::interrupt::Registration,
}

impl Dump {
    fn start(source: &Endpoint, interrupt: &Interrupt, wanted: Wanted) -> Result<Self> {
        interrupt.check()?;
        let bug = || Error::bug("pg_dump has no output");
        let mut child = command(source, wanted)
            .spawn()
            .map_err(|error| Error::table("cannot run pg_dump").caused_by(&error))?;
        let stdout = child.stdout.take().ok_or_else(bug)?;
        let stderr = child.stderr.take().ok_or_else(bug)?;
        let child = Arc::new(Mutex::new(child));
        let doomed = Arc::clone(&child);
        let mut dump = Self {
            child,
            pieces: sync_channel(0).1,
            complaints: None,
            _cancel: interrupt.on_signal(move || kill(&doomed)),
        };
        // Dropped where one of these fails, it ends the child.
        let cannot = |error| Error::host("cannot read what pg_dump writes", &error);
        dump.pieces = pieces(stdout).map_err(cannot)?;
        let complaining = Builder::new().spawn(move || complaints(stderr));
        dump.complaints = Some(complaining.map_err(cannot)?);
        Ok(dump)
    }

    /// Waits for the end, which must be a good one.
    fn finish(mut self, interrupt: &Interrupt) -> Result<()> {
        let complaints = self.complaints.take().and_then(|thread| thread.join().ok());
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let status = child
            .wait()
            .map_err(|error| Error::table("cannot wait for pg_dump").caused_by(&error))?;
        interrupt.check()?;
        if status.success() {
            return Ok(());
        }
        Err(failure(status, complaints.as_deref().unwrap_or_default()))
    }
}

/// What is to be said of a pg_dump that ended badly.
fn failure(status: impl std::fmt::Display, complaints: &str) -> Error {
    let message = format!("pg_dump ended with {status}");
    let said = |sign: &str| complaints.contains(sign);
    let without = "\"initial\": \"copy\" in tables-config.json does without pg_dump";
    let mut error = if LOST.into_iter().any(said) && !said(LOGIN_WRITES) {
        Error::unreachable(message).hint(without)
    } else if NOT_LOCKED.into_iter().all(said) {
        Error::table(message).passing().hint(
            "another session at the source holds the table, or waits to alter it; sync again when it \
             is done",
        )
    } else if said(CONFLICT) {
        Error::table(message).passing().hint(CONFLICT_REMEDY)
    } else {
        Error::table(message).hint(without)
    };
    error.causes.extend(complaints.lines().filter(|line| !line.is_empty()).map(str::to_owned));
    error
}

impl Drop for Dump {
    fn drop(&mut self) {
        kill(&self.child);
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // Only takes the ended child off the system's list.
        let _ = child.wait();
    }
}

fn kill(child: &Mutex<Child>) {
    // It fails where the child has ended already, which is what is wanted.
    let _ = child.lock().unwrap_or_else(PoisonError::into_inner).kill();
}

/// Reads what pg_dump writes in a thread of its own, so that its silence can be noticed.
fn pieces(mut stdout: ChildStdout) -> std::io::Result<Receiver<std::io::Result<Vec<u8>>>> {
    let (sender, receiver) = sync_channel(4);
    Builder::new().spawn(move || {
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let sent = match stdout.read(&mut piece) {
                // The end is told by hanging up.
                Ok(0) => break,
                Ok(length) => {
                    piece.truncate(length);
                    sender.send(Ok(piece))
                }
                Err(error) => {
                    // Whether anybody still listens or not, this was the last word.
                    let _ = sender.send(Err(error));
                    break;
                }
            };
            if sent.is_err() {
                break;
            }
        }
    })?;
    Ok(receiver)
}

fn complaints(mut stderr: ChildStderr) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stderr.read(&mut buffer) {
        let room = LONGEST_COMPLAINT_BYTES - kept.len();
        kept.extend_from_slice(&buffer[..length.min(room)]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

fn command(source: &Endpoint, wanted: Wanted) -> Command {
    let mut command = Command::new(program());
    // Nothing of the user's own PG* variables may change what is dumped or from where.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    // As patterns these match no other table: quoted, nothing in them is special.
    let without = wanted.without.iter().map(|name| format!("--exclude-table-data={name}"));
    command
        .args(["--data-only", "--format=plain", "--encoding=UTF8", "--no-password"])
        .args(["--lock-wait-timeout=10s", "--snapshot", wanted.snapshot, "--table"])
        .arg(wanted.table.to_string())
        .args(without)
        .env("PGHOST", &source.host)
        .env("PGPORT", source.port.to_string())
        .env("PGUSER", &source.user)
        .env("PGDATABASE", &source.database)
        .env("PGAPPNAME", crate::db::READER)
        .env("PGCONNECT_TIMEOUT", "15")
        .env("PGSSLMODE", source.tls.mode.name())
        // pg_dump itself pins what else changes how values are written.
        .env(
            "PGOPTIONS",
            "-c default_transaction_read_only=on -c lc_monetary=C -c TimeZone=UTC -c bytea_output=hex \
             -c quote_all_identifiers=off",
        )
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(password) = &source.password {
        command.env("PGPASSWORD", password.reveal());
    }
    let files = [
        ("PGSSLROOTCERT", &source.tls.root_certificate),
        ("PGSSLCERT", &source.tls.certificate),
        ("PGSSLKEY", &source.tls.key),
    ];
    if source.tls.mode != TlsMode::Disable {
        for (name, file) in files {
            if let Some(file) = file {
                command.env(name, file);
            }
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn the_major_version_is_found_in_what_distributions_print() {
        assert_eq!(major_version("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(major_version("pg_dump (PostgreSQL) 18beta2\n"), Some(18));
        assert_eq!(major_version("no such thing"), None);
    }

    #[test]
    fn it_reads_in_our_snapshot_and_trusts_and_writes_no_more_than_we_do() {
        let tls = |mode| crate::config::Tls {
            mode,
            root_certificate: Some("/root.crt".to_owned()),
            certificate: Some("/own.crt".to_owned()),
            key: Some("/own.key".to_owned()),
        };
        let endpoint = |mode| Endpoint {
            side: crate::config::Side::Source,
            host: "db.example.com".to_owned(),
            port: 5433,
            user: "reader".to_owned(),
            password: Some(crate::config::Secret::new("s3cret".to_owned())),
            password_file_ignored: None,
            database: "shop".to_owned(),
            schema: "public".to_owned(),
            tls: tls(mode),
        };
        let table = Qualified::new("s", "t");
        let wanted = Wanted { snapshot: "00000003-1", table: &table, columns: &[], without: &[] };
        let told = |mode| {
            let command = command(&endpoint(mode), wanted);
            let text = |text: &std::ffi::OsStr| text.to_str().unwrap().to_owned();
            let arguments: Vec<String> = command.get_args().map(text).collect();
            let set =
                command.get_envs().filter_map(|(name, value)| Some((text(name), text(value?))));
            (arguments, set.collect::<std::collections::BTreeMap<_, _>>())
        };
        for (name, mode) in TlsMode::NAMES {
            let (arguments, set) = told(mode);
            assert!(arguments.windows(2).any(|two| two == ["--snapshot", "00000003-1"]));
            assert!(arguments.iter().all(|argument| !argument.contains("s3cret")));
            let get = |name: &str| set.get(name).map(String::as_str);
            assert_eq!(get("PGSSLMODE"), Some(name), "else libpq would prefer, and trust anybody");
            let encrypted = mode != TlsMode::Disable;
            assert_eq!(get("PGSSLROOTCERT"), encrypted.then_some("/root.crt"));
            assert_eq!(get("PGSSLCERT"), encrypted.then_some("/own.crt"));
            assert_eq!(get("PGSSLKEY"), encrypted.then_some("/own.key"));
            assert_eq!(get("PGPASSWORD"), Some("s3cret"));
            let options = get("PGOPTIONS").unwrap_or_default();
            for setting in [
                "default_transaction_read_only=on",
                "lc_monetary=C",
                "TimeZone=UTC",
                "bytea_output=hex",
                "quote_all_identifiers=off",
            ] {
                assert!(options.contains(setting), "{options}");
            }
        }
    }

    #[test]
    fn what_passes_is_told_from_what_stays_and_a_lock_from_a_lost_server() {
        let kinds = [
            ("pg_dump: error: connection to server at \"h\" failed", true, Kind::Unreachable),
            (
                "pg_dump: error: connection to server at \"h\" failed: FATAL:  cannot execute INSERT in a \
                 read-only transaction",
                false,
                Kind::Table,
            ),
            (
                "pg_dump: error: query failed: ERROR:  canceling statement due to statement timeout; \
                 Query was: LOCK TABLE public.t IN ACCESS SHARE MODE",
                true,
                Kind::Table,
            ),
            ("pg_dump: detail: Query was: LOCK TABLE public.t", false, Kind::Table),
            (
                "pg_dump: detail: Error message from server: ERROR:  canceling statement due to conflict with \
                 recovery",
                true,
                Kind::Table,
            ),
            ("pg_dump: error: query failed: ERROR:  permission denied", false, Kind::Table),
        ];
        for (said, passes, kind) in kinds {
            let error = failure("exit status: 1", said);
            assert_eq!((error.may_pass(), error.kind), (passes, kind), "{error:?}");
            assert_eq!(error.causes, [said]);
        }
    }
}
