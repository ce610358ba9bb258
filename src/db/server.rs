//! What a server says of itself.

use serde::Deserialize;

use crate::table::SourceTable;
use crate::watermark::overlap::Position;

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
            recovered_at: self.recovered_at.clone().filter(|_| !self.in_recovery),
            snapshot_xmin: source.snapshot.xmin,
            unseen: source.snapshot.unseen(),
        }
    }
}
