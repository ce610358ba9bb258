//! Tells a server that works in silence from one that cannot be heard any more.

use std::future::Future;
use std::pin::pin;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::{Client, Config, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::Error;
use crate::sql::session;

/// How long a server may take to answer the first word.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a server may be silent before it is asked whether it still works for us.
const SILENCE: Duration = Duration::from_secs(30);

static SHORTENED: OnceLock<Duration> = OnceLock::new();

/// Has this process lose its patience with silent servers sooner, for the tests.
pub fn shorten_silence(length: Duration) {
    // A second choice would be one too many, and changes nothing.
    let _ = SHORTENED.set(length);
}

/// How long a server may be silent before it is asked whether it still works for us.
#[must_use]
pub fn silence() -> Duration {
    SHORTENED.get().copied().unwrap_or(SILENCE)
}

/// How long a server may take to let us in.
pub(super) fn connect_timeout() -> Duration {
    SHORTENED.get().map_or(CONNECT_TIMEOUT, |silence| *silence * 2)
}

/// Why a wait ended badly.
pub(super) enum Failure {
    /// The server, or the connection, said so.
    Server(tokio_postgres::Error),
    /// Nobody says anything any more.
    Silence,
    /// What we do with the rows failed.
    Ours(Error),
}

/// What it takes to ask a server about a session of ours.
#[derive(Clone)]
pub(super) struct Watch {
    pub(super) configuration: Config,
    pub(super) connector: MakeRustlsConnect,
    /// The server process of the session; 0 as long as it is not known.
    pub(super) process: i32,
}

impl Watch {
    /// After this much silence the server is asked through another connection.
    pub(super) fn interval(&self) -> Duration {
        // Before the process is known there is nothing to ask for but an answer.
        if self.process == 0 { connect_timeout() } else { silence() }
    }

    /// Waits for an answer as long as the server is alive.
    pub(super) async fn over<T>(
        &self,
        work: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
    ) -> std::result::Result<T, Failure> {
        let mut work = pin!(work);
        let mut suspicious = false;
        loop {
            match timeout(self.interval(), &mut work).await {
                Ok(result) => return result.map_err(Failure::Server),
                Err(_) if self.is_alive(&mut suspicious).await => {}
                Err(_) => return Err(Failure::Silence),
            }
        }
    }

    /// Asks what the session's process does. It is not alive for us if it is gone, if nobody
    /// answers, or if it waits for us twice in a row while we wait for it.
    pub(super) async fn is_alive(&self, suspicious: &mut bool) -> bool {
        let question = session::doing(self.process);
        let asked = timeout(connect_timeout(), async {
            let client = open(&self.configuration, &self.connector).await?;
            client.simple_query(&question).await
        });
        let waits_for_us = match asked.await {
            // The server refuses another session, but it is there.
            Ok(Err(error)) => return error.code().is_some(),
            Err(_) => return false,
            Ok(Ok(messages)) => {
                let Some(row) = messages.iter().find_map(|message| match message {
                    SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                }) else {
                    return false;
                };
                row.get(0) == Some("Client")
            }
        };
        let alive = !(waits_for_us && *suspicious);
        *suspicious = waits_for_us;
        alive
    }
}

/// Opens a connection.
pub(super) async fn open(
    configuration: &Config,
    connector: &MakeRustlsConnect,
) -> std::result::Result<Client, tokio_postgres::Error> {
    let (client, connection) = configuration.connect(connector.clone()).await?;
    // What ends the connection shows in the next statement as well.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}
