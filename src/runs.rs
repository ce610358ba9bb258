//! What became of each table in the last runs, for `status` and the metrics.
//!
//! A table with nothing to do gets no new receipt, so the receipts alone do not say how fresh it
//! is. The file is of this host; where it is missing, the receipts are all there is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::files::{self, Lasting};
use crate::report::Report;
use crate::state;

/// In the folder of state files; no table's file has a dot in its name.
const FILE: &str = "last.run.json";

/// The last runs, by the tables' names at the destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runs {
    /// When the last of them ended.
    pub finished_at: Option<Timestamp>,
    /// What kept a whole run from its work, if that was the last.
    pub failure: Option<String>,
    /// The tables.
    pub tables: BTreeMap<String, LastRun>,
}

/// What became of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// When it was tried last.
    pub tried_at: Option<Timestamp>,
    /// When the last sync of it began that succeeded.
    pub succeeded_at: Option<Timestamp>,
    /// Why the last one failed, if it did.
    pub error: Option<String>,
}

/// Reads what is known of the last runs. A file that cannot be read or understood says nothing.
#[must_use]
pub fn read(directory: &Path) -> Runs {
    let text = fs::read_to_string(path(directory)).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Adds what became of the tables in a run, and returns all that is known then.
///
/// Fails where it cannot be written, which is no reason for a sync to fail.
pub fn record(directory: &Path, report: &Report) -> (Runs, Result<()>) {
    let runs = read(directory).after(report);
    let text = serde_json::to_string_pretty(&runs).unwrap_or_default() + "\n";
    let write = || {
        fs::create_dir_all(directory.join(state::FOLDER))?;
        files::replace(&path(directory), &text, Lasting::Perhaps)
    };
    let written = write().map_err(|error| {
        let name = format!("{}/{FILE}", state::FOLDER);
        Error::table(format!("cannot write `{name}`, which `status` reads")).caused_by(&error)
    });
    (runs, written)
}

fn path(directory: &Path) -> PathBuf {
    directory.join(state::FOLDER).join(FILE)
}

impl Runs {
    fn after(mut self, report: &Report) -> Self {
        self.finished_at = Some(report.finished_at);
        self.failure = report.failure.as_ref().map(Error::one_line);
        for table in &report.tables {
            let locked = table.error.as_ref().is_some_and(|error| error.kind == Kind::Locked);
            let untried = table.error.is_none() && table.row_count.is_none();
            if locked || untried {
                continue;
            }
            let last = self.tables.entry(table.destination_name.clone()).or_default();
            last.tried_at = Some(report.finished_at);
            last.error = table.error.as_ref().map(Error::one_line);
            if last.error.is_none() {
                last.succeeded_at = Some(table.as_of);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan::SyncType;
    use crate::report::TableReport;

    fn report(second: i64, tables: &[(&str, Option<Error>)]) -> Report {
        let at = Timestamp::from_second(second).unwrap();
        let table = |(name, error): &(&str, Option<Error>)| TableReport {
            name: (*name).to_owned(),
            destination_name: (*name).to_owned(),
            as_of: at,
            sync_type: SyncType::Incremental,
            row_count: error.is_none().then_some(1),
            deleted_count: 0,
            duration: Duration::ZERO,
            reason: None,
            error: error.clone(),
        };
        Report {
            pipeline: "shop".to_owned(),
            started_at: at,
            finished_at: at,
            tables: tables.iter().map(table).collect(),
            failure: None,
        }
    }

    #[test]
    fn a_failure_keeps_the_last_success_and_a_table_of_another_run_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let failed = Error::table("cannot sync `a`").because("no such column");
        let (_, done) = record(directory.path(), &report(10, &[("a", None), ("b", None)]));
        done.unwrap();
        let locked = Error::locked("another run holds it");
        let (runs, done) =
            record(directory.path(), &report(20, &[("a", Some(failed)), ("b", Some(locked))]));
        done.unwrap();
        let second = |at: Option<Timestamp>| at.map(Timestamp::as_second);
        let (a, b) = (&runs.tables["a"], &runs.tables["b"]);
        assert_eq!((second(a.tried_at), second(a.succeeded_at)), (Some(20), Some(10)));
        assert_eq!(a.error.as_deref(), Some("cannot sync `a`: no such column"));
        assert_eq!((second(b.tried_at), &b.error), (Some(10), &None));
        assert_eq!(read(directory.path()), runs);
        fs::write(path(directory.path()), "{").unwrap();
        assert_eq!(read(directory.path()), Runs::default());
    }
}
