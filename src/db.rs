//! A session with one of the two servers.

mod tls;

use std::time::Duration;

use postgres::config::SslMode;
use postgres::{Client, Config, CopyInWriter, CopyOutReader, SimpleQueryMessage};
use serde::Deserialize;

use crate::config::{Endpoint, Side, TlsMode};
use crate::error::{Error, Result};
use crate::interrupt::{Interrupt, Registration};
use crate::sql::{catalog, session};

/// What sessions are called in `pg_stat_activity`.
pub const APPLICATION_NAME: &str = "incremental-replication";

/// How long a server may take to answer the first word.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// After this much silence the network is asked whether the other end is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// How long between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How many of them may go unanswered.
const KEEPALIVE_RETRIES: u32 = 3;

/// How long sent bytes may stay unacknowledged.
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_mins(1);

/// A row of a result, as text.
pub type Row = Vec<Option<String>>;

/// What a server says of itself.
#[derive(Clone, Debug, Deserialize)]
pub struct Server {
    /// `server_version_num`.
    pub version: u32,
    /// The database.
    pub database: String,
    /// The role we are.
    pub user: String,
    /// When the server was started, which tells servers apart: a clone has its origin's system
    /// identifier.
    pub running_since: String,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// The cluster's own number, where the host tells it.
    #[serde(default)]
    pub system_identifier: Option<String>,
}

/// A session with one of the two servers, its settings pinned.
pub struct Session {
    client: Client,
    side: Side,
    interrupt: Interrupt,
    _cancel: Registration,
    /// What the server says of itself.
    pub server: Server,
}

impl Session {
    /// Connects and pins every setting that changes how values are written or read.
    pub fn connect(endpoint: &Endpoint, interrupt: &Interrupt) -> Result<Self> {
        interrupt.check()?;
        let connector = tls::connector(endpoint)?;
        let cannot = |error: &postgres::Error| {
            Error::unreachable(format!(
                "cannot connect to the {} at `{}` as `{}`",
                endpoint.side,
                endpoint.address(),
                endpoint.user
            ))
            .caused_by(error)
        };
        let client = configuration(endpoint).connect(connector.clone()).map_err(|error| {
            let cannot = cannot(&error);
            let hint = hint(endpoint, cannot.sqlstate.as_deref());
            cannot.hint(hint)
        })?;
        let token = client.cancel_token();
        let cancel = interrupt.on_signal(move || {
            // Whether it could be cancelled shows in whether it ends.
            let _ = token.cancel_query(connector.clone());
        });
        let mut session = Self {
            client,
            side: endpoint.side,
            interrupt: interrupt.clone(),
            _cancel: cancel,
            server: Server {
                version: 0,
                database: String::new(),
                user: String::new(),
                running_since: String::new(),
                in_recovery: false,
                system_identifier: None,
            },
        };
        session.greet()?;
        Ok(session)
    }

    fn greet(&mut self) -> Result<()> {
        let read_only = self.side == Side::Source;
        self.rows("prepare the session", &session::pin(read_only))?;
        let facts = self.value("ask the server for its version", catalog::SERVER)?;
        self.server = serde_json::from_str(&facts.unwrap_or_default()).map_err(|error| {
            Error::bug("a server's facts are not as expected").caused_by(&error)
        })?;
        // Neither is worth failing for: some hosts forbid the one, some platforms the other.
        self.server.system_identifier =
            self.value("ask for the system identifier", catalog::SYSTEM_IDENTIFIER).ok().flatten();
        let _ = self.run("set a setting", session::NOTICE_OUR_DEATH);
        if self.server.version < OLDEST_VERSION {
            return Err(Error::unreachable(format!(
                "the {} is PostgreSQL {}, older than 13",
                self.side,
                self.server.version / 10_000
            )));
        }
        Ok(())
    }

    /// Which of the two it is.
    #[must_use]
    pub fn side(&self) -> Side {
        self.side
    }

    /// What tells whether a signal arrived.
    #[must_use]
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// Whether the connection is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs statements and returns the number of rows that the last one wrote.
    /// `purpose` stands behind "cannot" when they fail.
    pub fn run(&mut self, purpose: &str, sql: &str) -> Result<u64> {
        let mut written = 0;
        for message in self.query(purpose, sql)? {
            if let SimpleQueryMessage::CommandComplete(count) = message {
                written = count;
            }
        }
        Ok(written)
    }

    /// Runs a query and returns its rows as text.
    pub fn rows(&mut self, purpose: &str, sql: &str) -> Result<Vec<Row>> {
        let rows = self.query(purpose, sql)?.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }

    /// Runs a query and returns the first column of its first row.
    pub fn value(&mut self, purpose: &str, sql: &str) -> Result<Option<String>> {
        let first = self.rows(purpose, sql)?.into_iter().next();
        Ok(first.and_then(|row| row.into_iter().next()).flatten())
    }

    fn query(&mut self, purpose: &str, sql: &str) -> Result<Vec<SimpleQueryMessage>> {
        self.interrupt.check()?;
        self.client.simple_query(sql).map_err(|error| self.failed(purpose, &error))
    }

    /// Begins a COPY TO STDOUT.
    pub fn copy_out(&mut self, purpose: &str, sql: &str) -> Result<CopyOutReader<'_>> {
        self.interrupt.check()?;
        let (side, interrupt) = (self.side, self.interrupt.clone());
        self.client.copy_out(sql).map_err(|error| failure(side, &interrupt, purpose, &error))
    }

    /// Begins a COPY FROM STDIN.
    pub fn copy_in(&mut self, purpose: &str, sql: &str) -> Result<CopyInWriter<'_>> {
        self.interrupt.check()?;
        let (side, interrupt) = (self.side, self.interrupt.clone());
        self.client.copy_in(sql).map_err(|error| failure(side, &interrupt, purpose, &error))
    }

    /// What `error` means for the table at hand.
    fn failed(&self, purpose: &str, error: &postgres::Error) -> Error {
        failure(self.side, &self.interrupt, purpose, error)
    }
}

/// What an error of either server means for the table at hand.
pub fn failure(
    side: Side,
    interrupt: &Interrupt,
    purpose: &str,
    error: &(dyn std::error::Error + 'static),
) -> Error {
    if interrupt.signal().is_some() {
        return Error::interrupted();
    }
    let error = Error::table(format!("cannot {purpose} at the {side}")).caused_by(error);
    match remedy(side, error.sqlstate.as_deref().unwrap_or_default()) {
        Some(remedy) => error.hint(remedy),
        None => error,
    }
}

/// What to do about the failures that every table may meet.
fn remedy(side: Side, sqlstate: &str) -> Option<String> {
    Some(match (sqlstate, side) {
        ("42501", Side::Source) => {
            "grant the source's user SELECT on the table and USAGE on its schema".to_owned()
        }
        ("42501", Side::Destination) => {
            "the destination's user needs CREATE on the schema, and must \
                                         own the tables or belong to their owner"
                .to_owned()
        }
        ("55P03", _) => {
            format!("another session at the {side} holds a lock; sync again when it is done")
        }
        ("53100", _) => format!("make room on the disk of the {side} and sync again"),
        ("08000" | "08003" | "08006" | "40001" | "40P01" | "57P01" | "57P02" | "57P03", _) => {
            "sync again".to_owned()
        }
        _ => return None,
    })
}

/// The oldest server this tool is tested with.
const OLDEST_VERSION: u32 = 13_00_00;

fn configuration(endpoint: &Endpoint) -> Config {
    let mut config = Config::new();
    config
        .host(&endpoint.host)
        .port(endpoint.port)
        .user(&endpoint.user)
        .dbname(&endpoint.database)
        .application_name(APPLICATION_NAME)
        .connect_timeout(CONNECT_TIMEOUT)
        .keepalives(true)
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_RETRIES)
        .tcp_user_timeout(UNACKNOWLEDGED_TIMEOUT)
        .ssl_mode(match endpoint.tls.mode {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
        })
        // Notices such as "relation already exists, skipping" are of no use to anybody here.
        .notice_callback(|_| {});
    if let Some(password) = &endpoint.password {
        config.password(password.reveal());
    }
    config
}

fn hint(endpoint: &Endpoint, sqlstate: Option<&str>) -> String {
    let prefix = match endpoint.side {
        Side::Source => "SOURCE",
        Side::Destination => "DEST",
    };
    match sqlstate {
        Some("28P01" | "28000") => {
            format!("check {prefix}_USERNAME, {prefix}_PASSWORD and the server's pg_hba.conf")
        }
        Some("3D000") => format!("check {prefix}_DB"),
        Some(_) => "the server's own log may say more".to_owned(),
        None => format!(
            "check {prefix}_HOST, {prefix}_PORT and {prefix}_SSLMODE, and whether the server runs"
        ),
    }
}
