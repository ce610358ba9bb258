//! What `status` says, for people and for machines.

use anstyle::{AnsiColor, Style};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Log, Verbosity, on_one_line};
use crate::progress::shortened;

/// How a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Freshness {
    /// The last sync of it succeeded.
    Synced,
    /// The last sync of it failed.
    Failed,
    /// It was synced once, and is not at the destination any more.
    Gone,
    /// It was never synced, as far as anybody knows.
    Never,
}

impl Freshness {
    fn shown(self) -> (&'static str, Style) {
        match self {
            Self::Synced => ("ok", AnsiColor::Green.on_default()),
            Self::Failed => ("failed", AnsiColor::Red.on_default()),
            Self::Gone => ("gone", AnsiColor::Red.on_default()),
            Self::Never => ("never synced", AnsiColor::Yellow.on_default()),
        }
    }
}

/// What is remembered of a table.
#[derive(Clone, Debug)]
pub struct TableStatus {
    /// Its name at the source.
    pub name: String,
    /// How it is.
    pub freshness: Freshness,
    /// The replication key that the next sync goes on from.
    pub watermark: Option<String>,
    /// Whether transactions that were in flight keep it from advancing.
    pub held_back: bool,
    /// When a sync of it last succeeded.
    pub synced_at: Option<Timestamp>,
    /// When it was last tried on this host.
    pub tried_at: Option<Timestamp>,
    /// How long ago it was synced.
    pub age: Option<SignedDuration>,
    /// When deleted rows were looked for last, where that is spaced out.
    pub reconciled_at: Option<Timestamp>,
    /// How many rows it has at the destination, by its statistics.
    pub estimated_rows: Option<u64>,
    /// Why the last sync failed.
    pub error: Option<String>,
}

/// What is remembered of a pipeline.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its tables, in the order of the file.
    pub tables: Vec<TableStatus>,
    /// When the last run on this host ended.
    pub ended_at: Option<Timestamp>,
    /// How long ago that was.
    pub age: Option<SignedDuration>,
    /// What kept that run from its work, if anything.
    pub failure: Option<String>,
}

/// The width of a terminal that nobody has made wider.
const COLUMNS: usize = 80;

/// What of it the other columns need, and the blanks between.
const OTHER_COLUMNS: usize = 40;

/// The longest name that gets a column of its own width.
const LONGEST_NAME: usize = 28;

impl Log {
    /// A line a table, within 80 columns where the names are not too long.
    pub fn status(&self, status: &Status) {
        if self.verbosity == Verbosity::Quiet {
            return;
        }
        let tables = &status.tables;
        let longest = |texts: &mut dyn Iterator<Item = &str>| {
            texts.map(|text| text.chars().count()).max().unwrap_or_default()
        };
        let names = longest(&mut tables.iter().map(|table| &*table.name)).clamp(5, LONGEST_NAME);
        let keys = longest(&mut tables.iter().filter_map(|table| table.watermark.as_deref()));
        let keys = keys.clamp(9, COLUMNS - OTHER_COLUMNS - names);
        let dim = Style::new().dimmed();
        let title =
            format!("{:names$}  {:keys$}  {:>8}  {:>11}", "table", "watermark", "synced", "rows");
        self.print(&format!("{dim}{title}  state{dim:#}"));
        for table in tables {
            let (state, style) = table.freshness.shown();
            let watermark = shortened(table.watermark.as_deref().unwrap_or("-"), keys);
            let rows =
                table.estimated_rows.map_or_else(|| "-".to_owned(), |rows| format!("~{rows}"));
            let age = table.age.map_or_else(|| "-".to_owned(), ago);
            let held = if table.held_back { ", held back" } else { "" };
            let name = on_one_line(&table.name);
            let line = format!("{name:names$}  {watermark:keys$}  {age:>8}  {rows:>11}");
            self.print(&format!("{line}  {style}{state}{style:#}{held}"));
            if let Some(error) = &table.error {
                self.print(&format!("  {style}{}{style:#}", on_one_line(error)));
            }
        }
        if let (Some(failure), Some(age)) = (&status.failure, status.age) {
            let style = AnsiColor::Red.on_default();
            let failure = on_one_line(failure);
            self.print(&format!(
                "{style}the last run failed, {} ago{style:#}: {failure}",
                ago(age)
            ));
        }
    }
}

/// A length of time as a person says it.
fn ago(age: SignedDuration) -> String {
    let seconds = age.as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

impl Status {
    /// All of it as one JSON document.
    #[must_use]
    pub fn document(&self, pipeline: &str) -> Value {
        json!({
            "pipeline": pipeline,
            "last_run": { "ended_at": time(self.ended_at), "failure": self.failure },
            "tables": self.tables.iter().map(TableStatus::facts).collect::<Vec<_>>(),
        })
    }
}

impl TableStatus {
    fn facts(&self) -> Value {
        json!({
            "name": self.name,
            "state": self.freshness,
            "watermark": self.watermark,
            "held_back": self.held_back,
            "synced_at": time(self.synced_at),
            "tried_at": time(self.tried_at),
            "age_seconds": self.age.map(|age| age.as_secs().max(0)),
            "reconciled_at": time(self.reconciled_at),
            "estimated_rows": self.estimated_rows,
            "error": self.error,
        })
    }
}

fn time(at: Option<Timestamp>) -> Option<String> {
    at.map(|at| format!("{at:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_said_in_the_unit_a_person_would_choose() {
        let said = |seconds| ago(SignedDuration::from_secs(seconds));
        assert_eq!([-5, 0, 119, 120, 7199].map(said), ["0 s", "0 s", "119 s", "2 min", "119 min"]);
        assert_eq!([7200, 172_799, 172_800].map(said), ["2 h", "47 h", "2 days"]);
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        assert_eq!(shortened("2026-01-01", 10), "2026-01-01");
        assert_eq!(shortened("äöüäöü", 4), "äöü…");
    }
}
