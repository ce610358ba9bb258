//! How a session begins.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;

use super::remedy::{shared, silent, unreachable};
use super::watch::{Failure, Watch, connect_timeout, open};
use super::{Server, Session, first_value, tls};
use crate::config::{Endpoint, Side, TlsMode};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::sql::catalog;
use crate::sql::session::{self, Patience};

/// What sessions with the source are called in `pg_stat_activity`. Marks go by it: whoever is
/// called so and has our role only reads.
pub const READER: &str = "incremental-replication (reading)";

/// What those with the destination are called, which may be the source of somebody else.
const WRITER: &str = "incremental-replication";

/// What those are called that have the destination's log written.
pub(super) const FLUSHER: &str = "incremental-replication (flushing)";

/// What sessions with a side are called.
pub(super) fn name(side: Side) -> &'static str {
    match side {
        Side::Source => READER,
        Side::Destination => WRITER,
    }
}

/// After this much silence the network is asked whether the other end is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// How long between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How many of them may go unanswered.
const KEEPALIVE_RETRIES: u32 = 3;

/// How long sent bytes may stay unacknowledged.
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_mins(1);

/// How far apart two clocks may be that have measured the same.
const CLOCKS_DIFFER: Duration = Duration::from_secs(1);

/// How long a pooler may take to find a second process.
const POOLER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a request to cancel may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

impl Session {
    /// Connects and pins every setting that changes how values are written or read.
    pub fn connect(endpoint: &Endpoint, interrupt: &Interrupt) -> Result<Self> {
        interrupt.check()?;
        let began = Instant::now();
        let connector = tls::connector(endpoint)?;
        let runtime = runtime()?;
        let open = |configuration: &Config| {
            let opened = runtime.block_on(async {
                tokio::select! {
                    opened = timeout(connect_timeout(), open(configuration, &connector)) => Ok(opened),
                    () = signalled(interrupt) => Err(Error::interrupted()),
                }
            })?;
            opened.map_err(|_| silent(endpoint))
        };
        let mut configuration = configuration(endpoint);
        let plain = configuration.clone();
        configuration.options(session::MET_DIRECTLY);
        let opened = match open(&configuration)? {
            Err(error) if refuses_options(&error) => {
                configuration = plain.clone();
                open(&configuration)?
            }
            opened => opened,
        };
        let client = opened.map_err(|error| unreachable(endpoint, &error))?;
        let passes_options = configuration != plain;
        let token = client.cancel_token();
        let tls = connector.clone();
        let cancel = interrupt.on_signal(move || {
            // Whether it could be cancelled shows in whether it ends.
            let Ok(runtime) = self::runtime() else { return };
            let cancel = async { timeout(CANCEL_TIMEOUT, token.cancel_query(tls.clone())).await };
            let _ = runtime.block_on(cancel);
        });
        let mut session = Self {
            runtime,
            client,
            watch: Watch { configuration, connector, process: 0 },
            side: endpoint.side,
            interrupt: interrupt.clone(),
            kept: Vec::new(),
            _cancel: cancel,
            server: Server::default(),
        };
        // Where it is certain that somebody stands between, nothing is set that others would find.
        if !passes_options && session.is_shared()? {
            return Err(shared(endpoint));
        }
        session.greet()?;
        session.server.address = endpoint.address();
        // A process that is older than the connection has worked for somebody else before.
        let old = Duration::try_from_secs_f64(session.server.process_seconds.unwrap_or_default());
        let old = old.is_ok_and(|old| old > began.elapsed() + CLOCKS_DIFFER);
        let doubtful = old || !session.server.met_directly;
        if passes_options && doubtful && session.is_shared()? {
            let _ = session.run("reset the session", session::RESET);
            return Err(shared(endpoint));
        }
        Ok(session)
    }

    fn greet(&mut self) -> Result<()> {
        let read_only = self.side == Side::Source;
        let prepare = format!("{};\n{}", session::pin(read_only), catalog::SERVER);
        let facts = self.rows("prepare the session", &prepare)?.pop().and_then(|mut row| row.pop());
        self.server =
            serde_json::from_str(&facts.flatten().unwrap_or_default()).map_err(|error| {
                Error::bug("a server's facts are not as expected").caused_by(&error)
            })?;
        self.watch.process = self.server.process;
        // None of these is worth failing for: some hosts forbid a question, some platforms a setting.
        let can = self.server.version >= session::NOTICES_DEATHS;
        let questions: Vec<String> =
            [catalog::SYSTEM_IDENTIFIER, catalog::TIMELINE, catalog::RECOVERED_AT]
                .into_iter()
                .chain(can.then_some(session::NOTICE_OUR_DEATH))
                .map(str::to_owned)
                .collect();
        let mut answers = self
            .answers("ask the server who it is", &questions, Patience::Long)?
            .into_iter()
            .map(|rows| rows?.pop()?.pop()?);
        self.server.system_identifier = answers.next().flatten();
        self.server.timeline = answers.next().flatten();
        self.server.recovered_at = answers.next().flatten();
        if self.server.version < OLDEST_VERSION {
            return Err(Error::unreachable(format!(
                "the {} is PostgreSQL {}, older than 13",
                self.side,
                self.server.version / 10_000
            ))
            .hint("upgrade it; PostgreSQL 13 and later are supported"));
        }
        Ok(())
    }

    /// Whether a pooler gives the process that works for us to others between two transactions.
    fn is_shared(&mut self) -> Result<bool> {
        let Some(before) = self.process()? else { return Ok(true) };
        let Self { runtime, watch, .. } = &*self;
        let another = async {
            let client = open(&watch.configuration, &watch.connector).await?;
            let said = client.simple_query(session::PROCESS_OF_OUR_OWN).await?;
            Ok::<_, tokio_postgres::Error>((client, said))
        };
        let other = runtime.block_on(async { timeout(POOLER_TIMEOUT, another).await });
        // Who does not get another session shares none with it.
        let Ok(Ok((_working, said))) = other else { return Ok(false) };
        // Where nobody answers, the other has got the only one there is.
        let Some(ours) = self.process()? else { return Ok(true) };
        Ok(Some(&ours) == first_value(said).as_ref() || ours != before)
    }

    /// Which process works for us; none where there is none for a while.
    fn process(&mut self) -> Result<Option<String>> {
        let asked = self.client.simple_query(session::PROCESS);
        match self.runtime.block_on(async { timeout(POOLER_TIMEOUT, asked).await }) {
            Ok(Ok(answer)) => Ok(first_value(answer)),
            Ok(Err(error)) => {
                Err(self.explain("ask which process works for us", Failure::Server(error)))
            }
            Err(_) => Ok(None),
        }
    }
}

pub(super) fn runtime() -> Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::host("cannot start what drives a session", &error))
}

/// Ends when a signal has arrived.
async fn signalled(interrupt: &Interrupt) {
    while interrupt.signal().is_none() {
        sleep(Duration::from_millis(50)).await;
    }
}

/// The oldest server this tool is tested with.
const OLDEST_VERSION: u32 = 13_00_00;

/// Whether somebody who stands before the server does not pass on how a session is to begin.
fn refuses_options(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| {
        [SqlState::PROTOCOL_VIOLATION, SqlState::FEATURE_NOT_SUPPORTED].contains(code)
    })
}

fn configuration(endpoint: &Endpoint) -> Config {
    let mut config = Config::new();
    config
        .host(&endpoint.host)
        .port(endpoint.port)
        .user(&endpoint.user)
        .dbname(&endpoint.database)
        .application_name(name(endpoint.side))
        .connect_timeout(connect_timeout())
        .keepalives(true)
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_RETRIES)
        .tcp_user_timeout(UNACKNOWLEDGED_TIMEOUT)
        .ssl_mode(match endpoint.tls.mode {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
        });
    if let Some(password) = &endpoint.password {
        config.password(password.reveal());
    }
    config
}
