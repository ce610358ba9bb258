//! A session with one of the two servers.

mod remedy;
mod tls;
mod watch;

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, SimpleQueryMessage};

use crate::config::{Endpoint, Side, TlsMode};
use crate::error::{Error, Kind, Result};
use crate::interrupt::{Interrupt, Registration};
use crate::sql::catalog::Question;
use crate::sql::session::Patience;
use crate::sql::{catalog, session};
use crate::table::SourceTable;
use crate::watermark::overlap::Position;
pub use remedy::{CONFLICT_REMEDY, PLAIN_COLUMN};
use remedy::{failed, shared, silent, unreachable};
use watch::{Failure, Watch, connect_timeout, open};
pub use watch::{shorten_silence, silence};

/// What sessions with the source are called in `pg_stat_activity`. Marks go by it: whoever is
/// called so and has our role only reads.
pub const READER: &str = "incremental-replication (reading)";

/// What those with the destination are called, which may be the source of somebody else.
const WRITER: &str = "incremental-replication";

/// What sessions with a side are called.
fn name(side: Side) -> &'static str {
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

/// A row of a result, as text.
pub type Row = Vec<Option<String>>;

/// What a server says of itself.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Server {
    /// `server_version_num`.
    pub version: u32,
    /// Where it is reached.
    #[serde(default)]
    pub address: String,
    /// The database.
    pub database: String,
    /// Its object identifier: another one where it was dropped and made again.
    pub database_oid: u32,
    /// The role we are.
    pub user: String,
    /// When the server was started, which tells servers apart: a clone has its origin's system
    /// identifier.
    pub running_since: String,
    /// Since when it counts: another time once it has recovered from a crash. Where the host tells it.
    #[serde(default)]
    pub recovered_at: Option<String>,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// The cluster's own number, where the host tells it.
    #[serde(default)]
    pub system_identifier: Option<String>,
    /// The timeline it is on, where the host tells it.
    #[serde(default)]
    pub timeline: Option<String>,
    /// The server process of this session.
    pub process: i32,
    /// How long that process had been there, in seconds.
    #[serde(default)]
    pub process_seconds: Option<f64>,
    /// Whether it has got what we said when we connected, which poolers keep to themselves.
    pub met_directly: bool,
    /// When it was there, by the server's clock.
    pub met_at: String,
    /// None from here on had begun to write then, in 64 bits.
    pub next_transaction: u64,
}

impl Server {
    /// What is another one once the server was started or has recovered from a crash, which it does
    /// without a new start where one of its processes was killed.
    fn undisturbed_since(&self) -> Option<String> {
        Some(format!("{} {}", self.running_since, self.recovered_at.as_ref()?))
    }

    /// Whether a session that was begun later, with `later`, is one with the same server, which has not
    /// been restored, failed over or recovered from a crash in between.
    #[must_use]
    pub fn has_gone_on_as(&self, later: &Self) -> bool {
        self.in_recovery == later.in_recovery
            && self.system_identifier == later.system_identifier
            && self.timeline == later.timeline
            && self.running_since == later.running_since
            && self.recovered_at == later.recovered_at
    }

    /// Where the snapshot stands in which a table was read, for a receipt with this watermark.
    #[must_use]
    pub fn position(&self, source: &SourceTable, start: Option<String>) -> Position {
        Position {
            start,
            system_identifier: self.system_identifier.clone(),
            timeline: self.timeline.clone(),
            running_since: self.undisturbed_since(),
            snapshot_xmin: source.snapshot.xmin,
            unseen: source.snapshot.unseen(),
        }
    }
}

/// A session with one of the two servers, its settings pinned.
pub struct Session {
    runtime: Runtime,
    client: Client,
    watch: Watch,
    side: Side,
    interrupt: Interrupt,
    /// The questions that the server keeps for this session.
    kept: Vec<Question>,
    _cancel: Registration,
    /// What the server says of itself.
    pub server: Server,
}

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
        let questions = [
            catalog::SYSTEM_IDENTIFIER,
            catalog::TIMELINE,
            catalog::RECOVERED_AT,
            session::NOTICE_OUR_DEATH,
        ];
        let mut answers = self
            .answers("ask the server who it is", &questions.map(str::to_owned), Patience::Long)?
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

    /// Ends a session of ours that was lost without a word, which its server may not have noticed: it
    /// would keep its locks and its snapshot until then.
    pub fn end(&mut self, lost: &Server) -> Result<()> {
        let question = session::end_lost(lost.process, &lost.met_at, name(self.side));
        for pause in ENDING {
            match self.rows("end the lost session", &question) {
                Ok(there) if there.is_empty() => break,
                // Where it may not be told to end, its lock says the rest.
                Err(error) if error.kind == Kind::Table => break,
                told => told.map(drop)?,
            }
            self.interrupt.sleep(pause)?;
        }
        Ok(())
    }

    /// Whether the server keeps a question.
    #[must_use]
    pub fn keeps(&self, question: Question) -> bool {
        self.kept.contains(&question)
    }

    /// Notes that the server keeps a question from now on.
    pub fn keep(&mut self, question: Question) {
        if !self.keeps(question) {
            self.kept.push(question);
        }
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

    /// Asks many questions in few round trips: all rows of each. A question that fails, or would
    /// have to wait for somebody's lock, or takes longer than it may, has no answer; those beside
    /// it have. Each has a transaction of its own, so that none holds a lock while another is
    /// answered.
    ///
    /// Fails where the session is gone or a signal arrived.
    pub fn answers(
        &mut self,
        purpose: &str,
        questions: &[String],
        patience: Patience,
    ) -> Result<Vec<Option<Vec<Row>>>> {
        let mut answers = Vec::with_capacity(questions.len());
        while answers.len() < questions.len() {
            self.interrupt.check()?;
            let left = &questions[answers.len()..];
            let asked: Vec<String> =
                left.iter().take(QUESTIONS_AT_ONCE).map(|q| session::alone(q, patience)).collect();
            let Self { runtime, client, watch, .. } = self;
            let mut messages = Vec::new();
            let sql = asked.concat();
            let ended = runtime.block_on(async {
                let mut said = pin!(watch.over(client.simple_query_raw(&sql)).await?);
                // Each wait is watched, as that for a whole answer is.
                while let Some(message) = watch.over(async { Ok(said.next().await) }).await? {
                    messages.push(message.map_err(Failure::Server)?);
                }
                Ok(())
            });
            answers.extend(
                by_statement(messages)
                    .chunks_exact(session::STATEMENTS_ALONE)
                    .map(|of_one| Some(of_one[session::STATEMENTS_ALONE - 2].clone())),
            );
            let Err(failure) = ended else { continue };
            let error = self.explain(purpose, failure);
            if self.is_closed() || self.interrupt.signal().is_some() {
                return Err(error);
            }
            // The one that failed has no answer; those behind it were not looked at.
            answers.push(None);
            self.run("roll back", session::ROLLBACK)?;
        }
        Ok(answers)
    }

    /// Runs a query and returns its rows as text.
    pub fn rows(&mut self, purpose: &str, sql: &str) -> Result<Vec<Row>> {
        Ok(by_statement(self.query(purpose, sql)?).into_iter().flatten().collect())
    }

    /// Runs a query and returns the first column of its first row.
    pub fn value(&mut self, purpose: &str, sql: &str) -> Result<Option<String>> {
        Ok(first_value(self.query(purpose, sql)?))
    }

    fn query(&mut self, purpose: &str, sql: &str) -> Result<Vec<SimpleQueryMessage>> {
        self.interrupt.check()?;
        let Self { runtime, client, watch, .. } = self;
        let answer = runtime.block_on(watch.over(client.simple_query(sql)));
        answer.map_err(|failure| self.explain(purpose, failure))
    }

    /// Runs a COPY TO STDOUT and hands on what it sends, a row or more at a time.
    pub fn copy_out(
        &mut self,
        purpose: &str,
        sql: &str,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.interrupt.check()?;
        let Self { runtime, client, watch, .. } = self;
        let read = runtime.block_on(async {
            let mut rows = pin!(watch.over(client.copy_out(sql)).await?);
            // The clock is looked at when the alarm goes, not for every row.
            let (mut heard, mut suspicious) = (false, false);
            let mut alarm = pin!(sleep_until(Instant::now() + watch.interval()));
            loop {
                tokio::select! {
                    biased;
                    row = rows.next() => match row {
                        Some(Ok(row)) => {
                            take(&row).map_err(Failure::Ours)?;
                            heard = true;
                        }
                        Some(Err(error)) => return Err(Failure::Server(error)),
                        None => return Ok(()),
                    },
                    () = &mut alarm => {
                        if heard {
                            suspicious = false;
                        } else if !watch.is_alive(&mut suspicious).await {
                            return Err(Failure::Silence);
                        }
                        heard = false;
                        alarm.as_mut().reset(Instant::now() + watch.interval());
                    }
                }
            }
        });
        read.map_err(|failure| self.explain(purpose, failure))
    }

    /// Runs a COPY FROM STDIN with the chunks that `next` gives, and returns how many rows
    /// arrived.
    pub fn copy_in(
        &mut self,
        purpose: &str,
        sql: &str,
        mut next: impl FnMut() -> Result<Option<Vec<u8>>>,
    ) -> Result<u64> {
        self.interrupt.check()?;
        let Self { runtime, client, watch, .. } = self;
        let written = runtime.block_on(async {
            let mut rows = pin!(watch.over(client.copy_in::<_, Bytes>(sql)).await?);
            while let Some(chunk) = next().map_err(Failure::Ours)? {
                match watch.over(rows.send(Bytes::from(chunk))).await {
                    Ok(()) => {}
                    Err(Failure::Server(_)) => break,
                    Err(failure) => return Err(failure),
                }
            }
            // Where sending failed, it only learnt that the server no longer listens; this says why.
            watch.over(rows.finish()).await
        });
        written.map_err(|failure| self.explain(purpose, failure))
    }

    /// What a failure means for the table at hand.
    fn explain(&self, purpose: &str, failure: Failure) -> Error {
        match failure {
            Failure::Ours(error) => error,
            _ if self.interrupt.signal().is_some() => Error::interrupted(),
            Failure::Server(error) => failed(self.side, purpose, &error),
            Failure::Silence => Error::unreachable(format!(
                "cannot {purpose}: the {} does not answer any more",
                self.side
            ))
            .hint("check the network between here and there"),
        }
    }
}

/// How long to wait for the end of a session that was told to end.
const ENDING: [Duration; 5] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

/// How many questions are sent together.
const QUESTIONS_AT_ONCE: usize = 100;

/// The rows of each statement.
fn by_statement(messages: Vec<SimpleQueryMessage>) -> Vec<Vec<Row>> {
    let (mut all, mut rows) = (Vec::new(), Vec::new());
    for message in messages {
        match message {
            SimpleQueryMessage::Row(row) => rows.push(
                (0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect::<Row>(),
            ),
            SimpleQueryMessage::CommandComplete(_) => all.push(std::mem::take(&mut rows)),
            _ => {}
        }
    }
    all
}

/// The first column of the first row.
fn first_value(messages: Vec<SimpleQueryMessage>) -> Option<String> {
    by_statement(messages).into_iter().flatten().next()?.into_iter().next()?
}

fn runtime() -> Result<Runtime> {
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
