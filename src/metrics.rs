//! How a sync ended, in the text format of Prometheus, for node_exporter's textfile collector.

use std::fmt::Write;
use std::path::Path;

use jiff::Timestamp;

use crate::error::{Error, Result};
use crate::report::{Report, TableReport};
use crate::runs::Runs;
use crate::state::{self, Lasting};

/// What every name begins with.
const PREFIX: &str = "incremental_replication";

/// Replaces the file in one step: whoever reads it sees the old one or the new one.
pub fn write(path: &Path, report: &Report, runs: &Runs) -> Result<()> {
    state::replace(path, &text(report, runs), Lasting::Perhaps).map_err(|error| {
        Error::table(format!("cannot write METRICS_FILE `{}`", path.display())).caused_by(&error)
    })
}

/// A metric of the whole run, or one of each table.
struct Metric<'a> {
    name: &'a str,
    help: &'a str,
}

/// The whole text.
#[must_use]
pub fn text(report: &Report, runs: &Runs) -> String {
    let mut text = String::new();
    let pipeline = escaped(&report.pipeline);
    let mut of_run = |name, help, value: String| {
        head(&mut text, &Metric { name, help });
        let _ = writeln!(text, "{PREFIX}_{name}{{pipeline=\"{pipeline}\"}} {value}");
    };
    let success = u8::from(report.succeeded());
    of_run("success", "Whether the last run succeeded.", success.to_string());
    of_run("start_timestamp_seconds", "When it began.", seconds(report.started_at));
    of_run("end_timestamp_seconds", "When it ended.", seconds(report.finished_at));
    let duration = report.finished_at.duration_since(report.started_at).as_secs_f64();
    of_run("duration_seconds", "How long it took.", format!("{duration:.3}"));
    let tables = report.tables.len();
    of_run("tables", "How many tables it had.", tables.to_string());

    let mut of_tables = |name, help, value: &dyn Fn(&TableReport) -> Option<String>| {
        head(&mut text, &Metric { name, help });
        for table in &report.tables {
            let Some(value) = value(table) else { continue };
            let name_of_table = escaped(&table.name);
            let _ = writeln!(
                text,
                "{PREFIX}_{name}{{pipeline=\"{pipeline}\",table=\"{name_of_table}\"}} {value}"
            );
        }
    };
    let last = |table: &TableReport| runs.tables.get(&table.name)?.succeeded_at;
    of_tables("table_success", "Whether the table was synced in the last run.", &|table| {
        Some(u8::from(table.error.is_none() && table.row_count.is_some()).to_string())
    });
    of_tables("table_last_success_timestamp_seconds", "When it was last synced.", &|table| {
        last(table).map(seconds)
    });
    of_tables("table_freshness_seconds", "How long ago that was when the run ended.", &|table| {
        let age = report.finished_at.duration_since(last(table)?).as_secs_f64();
        Some(format!("{:.3}", age.max(0.0)))
    });
    of_tables("table_duration_seconds", "How long its sync took.", &|table| {
        Some(format!("{:.3}", table.duration.as_secs_f64()))
    });
    of_tables("table_rows", "How many rows were copied or merged.", &|table| {
        table.row_count.map(|rows| rows.to_string())
    });
    of_tables("table_deleted_rows", "How many rows were removed or marked.", &|table| {
        Some(table.deleted_count.to_string())
    });
    text
}

fn head(text: &mut String, metric: &Metric) {
    let Metric { name, help } = metric;
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
