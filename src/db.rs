//! A session with one of the two servers.

mod connect;
mod flush;
mod remedy;
mod server;
mod tls;
mod watch;

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep_until};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::config::Side;
use crate::error::{Error, Kind, Result};
use crate::interrupt::{Interrupt, Registration};
use crate::sql::catalog::Question;
use crate::sql::session::{self, Patience};
pub use connect::READER;
use connect::name;
pub use flush::Flusher;
use remedy::failed;
pub use remedy::{CONFLICT_REMEDY, PLAIN_COLUMN};
pub use server::Server;
use watch::{Failure, Watch};
pub use watch::{shorten_silence, silence};

/// A row of a result, as text.
pub type Row = Vec<Option<String>>;

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

    /// What has the server's log written to the disk while this session adds to it.
    #[must_use]
    pub fn flusher(&self) -> Flusher {
        Flusher::new(self.watch.clone(), self.server.version)
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
            let left = &questions[answers.len()..];
            let asked: Vec<String> =
                left.iter().take(QUESTIONS_AT_ONCE).map(|q| session::alone(q, patience)).collect();
            let mut messages = Vec::new();
            let heard = self.hear(purpose, &asked.concat(), |message| messages.push(message));
            answers.extend(
                by_statement(messages)
                    .chunks_exact(session::STATEMENTS_ALONE)
                    .map(|of_one| Some(of_one[session::STATEMENTS_ALONE - 2].clone())),
            );
            let Err(error) = heard else { continue };
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

    /// Runs a query and hands on the first column of each row as it arrives, where it is not NULL.
    pub fn each(&mut self, purpose: &str, sql: &str, mut take: impl FnMut(&str)) -> Result<()> {
        self.hear(purpose, sql, |message| {
            if let SimpleQueryMessage::Row(row) = message {
                row.get(0).into_iter().for_each(&mut take);
            }
        })
    }

    fn query(&mut self, purpose: &str, sql: &str) -> Result<Vec<SimpleQueryMessage>> {
        let mut messages = Vec::new();
        self.hear(purpose, sql, |message| messages.push(message))?;
        Ok(messages)
    }

    /// Runs statements and hands on what the server says as it arrives.
    fn hear(
        &mut self,
        purpose: &str,
        sql: &str,
        mut take: impl FnMut(SimpleQueryMessage),
    ) -> Result<()> {
        self.interrupt.check()?;
        let Self { runtime, client, watch, .. } = self;
        let heard = runtime.block_on(async {
            let mut said = pin!(watch.over(client.simple_query_raw(sql)).await?);
            while let Some(message) = watch.over(async { Ok(said.next().await) }).await? {
                take(message.map_err(Failure::Server)?);
            }
            Ok(())
        });
        heard.map_err(|failure| self.explain(purpose, failure))
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
