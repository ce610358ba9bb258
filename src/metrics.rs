//! How a sync ended, in the text format of Prometheus, for node_exporter's textfile collector.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use jiff::Timestamp;

use crate::error::{Error, Result};
use crate::files;
use crate::report::{Report, TableReport};
use crate::runs::Runs;

/// What every name begins with.
const PREFIX: &str = "incremental_replication";

/// Replaces the file in one step: whoever reads it sees the old one or the new one.
///
/// Fails where something stands there that is no file: that would be gone.
pub fn write(path: &Path, tables: &[&str], report: &Report, runs: &Runs) -> Result<()> {
    if path.exists() && !path.is_file() {
        let path = path.display();
        return Err(Error::table(format!("METRICS_FILE `{path}` is there, and is not a file")));
    }
    // A link goes on leading to where it leads.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    // The collector is somebody else, and a service's umask knows nothing of it.
    files::publish(path, &text(tables, report, runs)).map_err(|error| {
        Error::table(format!("cannot write METRICS_FILE `{}`", path.display())).caused_by(&error)
    })
}

/// The whole text. `tables` are all tables of the pipeline, by their names at the destination: those
/// that were not in this run stay as fresh as they were.
#[must_use]
pub fn text(tables: &[&str], report: &Report, runs: &Runs) -> String {
    let mut text = String::new();
    let pipeline = escaped(&report.pipeline);
    let mut of_run = |name, help, value: String| {
        head(&mut text, name, help);
        let _ = writeln!(text, "{PREFIX}_{name}{{pipeline=\"{pipeline}\"}} {value}");
    };
    let success = u8::from(report.succeeded());
    of_run("success", "Whether the last run succeeded.", success.to_string());
    of_run("start_timestamp_seconds", "When it began.", seconds(report.started_at));
    of_run("end_timestamp_seconds", "When it ended.", seconds(report.finished_at));
    let duration = report.finished_at.duration_since(report.started_at).as_secs_f64();
    of_run("duration_seconds", "How long it took.", format!("{duration:.3}"));
    let number = report.tables.len();
    of_run("tables", "How many tables it had.", number.to_string());

    let mut of_tables = |name, help, tables: &[&str], value: &dyn Fn(&str) -> Option<String>| {
        head(&mut text, name, help);
        for table in tables {
            let Some(value) = value(table) else { continue };
            let label = escaped(table);
            let _ = writeln!(
                text,
                "{PREFIX}_{name}{{pipeline=\"{pipeline}\",table=\"{label}\"}} {value}"
            );
        }
    };
    let reports: BTreeMap<&str, &TableReport> =
        report.tables.iter().map(|table| (&*table.destination_name, table)).collect();
    let in_run: Vec<&str> = report.tables.iter().map(|table| &*table.destination_name).collect();
    let report_of = |table: &str| reports.get(table).copied();
    let last = |table: &str| runs.tables.get(table)?.succeeded_at;
    of_tables(
        "table_success",
        "Whether the table was synced in the last run.",
        &in_run,
        &|table| {
            let table = report_of(table)?;
            Some(u8::from(table.error.is_none() && table.row_count.is_some()).to_string())
        },
    );
    let help = "When the last sync of it began that succeeded.";
    of_tables("table_last_success_timestamp_seconds", help, tables, &|table| {
        last(table).map(seconds)
    });
    let help = "How long ago that was when the run ended.";
    of_tables("table_freshness_seconds", help, tables, &|table| {
        let age = report.finished_at.duration_since(last(table)?).as_secs_f64();
        Some(format!("{:.3}", age.max(0.0)))
    });
    of_tables("table_duration_seconds", "How long its sync took.", &in_run, &|table| {
        Some(format!("{:.3}", report_of(table)?.duration.as_secs_f64()))
    });
    of_tables("table_rows", "How many rows were copied or merged.", &in_run, &|table| {
        report_of(table)?.row_count.map(|rows| rows.to_string())
    });
    of_tables("table_deleted_rows", "How many rows were removed or marked.", &in_run, &|table| {
        Some(report_of(table)?.deleted_count.to_string())
    });
    text
}

/// What stands above a metric, of the whole run or of each table.
fn head(text: &mut String, name: &str, help: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "# HELP {PREFIX}_{name} {help}\n# TYPE {PREFIX}_{name} gauge");
}

fn seconds(at: Timestamp) -> String {
    format!("{}.{:03}", at.as_second(), at.subsec_millisecond().max(0))
}

/// A label's value, as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_may_hold_anything() {
        assert_eq!(escaped("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
        let at = Timestamp::from_millisecond(1_700_000_000_007).unwrap();
        assert_eq!(seconds(at), "1700000000.007");
    }
}
