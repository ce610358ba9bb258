//! What happened: for the log, for the webhook, and for the exit code.

mod checkup;
mod chosen;
mod preview;
mod status;
mod verdict;

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::error::{Error, Kind, counted};
use crate::plan::SyncType;
use crate::progress::{Progress, Screen};

pub use checkup::{About, Checkup, Finding, Severity, ToCopy, bytes};
pub use chosen::{Chosen, ChosenRule};
pub use preview::{Action, Preview, plan_code, plan_document};
pub use status::{Freshness, Status, TableStatus};
pub use verdict::{Example, Verdict, code, document};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A line a person reads.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Nothing but errors.
    Quiet,
    /// What happened to each table.
    #[default]
    Normal,
    /// Every statement that reads or writes rows as well.
    Verbose,
}

/// How weighty a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Debug,
    Info,
    Warning,
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Debug => Style::new().dimmed(),
            Self::Info => AnsiColor::Green.on_default(),
            Self::Warning => AnsiColor::Yellow.on_default(),
            Self::Error => AnsiColor::Red.on_default(),
        }
    }
}

/// Writes log lines to stdout and errors to stderr.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// How much is written.
    pub verbosity: Verbosity,
    /// Whether lines have colours.
    pub color: ColorChoice,
    /// Where bars are shown.
    pub screen: Screen,
    /// Whether something could not be written, but for a reader who had gone.
    pub lost: Arc<AtomicBool>,
}

impl Log {
    /// The same, saying nothing but errors.
    #[must_use]
    pub fn quiet(&self) -> Self {
        Self { verbosity: Verbosity::Quiet, ..self.clone() }
    }

    /// Begins to show how a table comes along, where somebody watches.
    #[must_use]
    pub fn progress(&self, table: &str, expected: Option<u64>) -> Progress {
        let shown = self.verbosity > Verbosity::Quiet;
        Progress::start(&self.screen, table, expected, shown)
    }

    /// Something that only `-v` shows.
    pub fn debug(&self, table: Option<&str>, message: &str) {
        if self.verbosity >= Verbosity::Verbose {
            self.line(Level::Debug, table, message, &Value::Null);
        }
    }

    /// Something that happened.
    pub fn info(&self, table: Option<&str>, message: &str) {
        self.line(Level::Info, table, message, &Value::Null);
    }

    /// Something somebody should look at one day.
    pub fn warning(&self, table: Option<&str>, message: &str) {
        self.line(Level::Warning, table, message, &Value::Null);
    }

    /// A table is done, well or not.
    pub fn table(&self, table: &TableReport) {
        let seconds = table.duration.as_secs_f64();
        let facts = serde_json::to_value(table).unwrap_or_default();
        match (&table.error, table.sync_type) {
            (Some(error), SyncType::Skipped) if error.kind == Kind::Locked => {
                self.line(
                    Level::Warning,
                    Some(&table.name),
                    &format!("skipped: {}", error.message),
                    &facts,
                );
            }
            (Some(error), _) => {
                self.line(
                    Level::Error,
                    Some(&table.name),
                    &format!("failed: {}", error.one_line()),
                    &facts,
                );
            }
            (None, sync_type) => {
                let rows = counted(table.row_count.unwrap_or_default(), "row");
                let deleted = match table.deleted_count {
                    0 => String::new(),
                    deleted => format!(", {deleted} deleted"),
                };
                let message =
                    format!("{} sync done: {rows}{deleted} in {seconds:.1} s", sync_type.name());
                self.line(Level::Info, Some(&table.name), &message, &facts);
            }
        }
    }

    /// How the run ended.
    pub fn summary(&self, report: &Report) {
        let level = if report.succeeded() { Level::Info } else { Level::Error };
        let facts = json!({ "pipeline": report.pipeline, "status": report.status() });
        self.line(level, None, &report.sentence(), &facts);
    }

    /// An error, whole, on stderr.
    pub fn error(&self, error: &Error) {
        let text = error.to_string();
        let style = Level::Error.style().bold();
        let text = match text.strip_prefix("error:") {
            Some(rest) => format!("{style}error:{style:#}{rest}"),
            None => text,
        };
        // Nobody is left to tell when stderr is closed.
        self.screen.print(|| {
            let _ = writeln!(AutoStream::new(std::io::stderr(), self.color), "{text}");
        });
    }

    fn line(&self, level: Level, table: Option<&str>, message: &str, facts: &Value) {
        if self.verbosity == Verbosity::Quiet {
            return;
        }
        let time = now();
        let text = match self.format {
            LogFormat::Json => {
                let mut line = json!({
                    "time": time, "level": level.name(), "table": table, "message": message,
                });
                if let (Value::Object(line), Value::Object(facts)) = (&mut line, facts) {
                    line.extend(
                        facts
                            .iter()
                            .filter(|(key, _)| *key != "name")
                            .map(|(key, value)| (key.clone(), value.clone())),
                    );
                }
                line.to_string()
            }
            LogFormat::Text => {
                let (style, dim) = (level.style(), Style::new().dimmed());
                let table = table.map(|table| format!("{table}: ")).unwrap_or_default();
                let level = level.name();
                let rest = on_one_line(&format!("{table}{message}"));
                format!("{dim}{time}{dim:#} {style}{level:7}{style:#} {rest}")
            }
        };
        self.print(&text);
    }

    fn print(&self, text: &str) {
        // Where stdout is closed the work goes on all the same.
        let written = self
            .screen
            .print(|| writeln!(AutoStream::new(std::io::stdout(), self.color), "{text}"));
        if written.is_err_and(|error| error.kind() != ErrorKind::BrokenPipe) {
            self.lost.store(true, Ordering::Relaxed);
        }
    }

    /// Whether something that was said could not be written.
    #[must_use]
    pub fn lost_words(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

/// A name or a message may hold a line end; a line that is printed may not.
fn on_one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

fn now() -> String {
    format!("{:.3}", Timestamp::now())
}

/// What happened to one table.
#[derive(Clone, Debug, Serialize)]
pub struct TableReport {
    /// Its name at the source.
    pub name: String,
    /// Its name at the destination, which no other table has.
    #[serde(skip)]
    pub destination_name: String,
    /// The moment since when the destination may lack what the source has.
    #[serde(skip)]
    pub as_of: Timestamp,
    /// What was done.
    pub sync_type: SyncType,
    /// How many rows were copied or merged; none where the table failed.
    pub row_count: Option<u64>,
    /// How many rows were deleted or marked.
    pub deleted_count: u64,
    /// How long it took.
    #[serde(rename = "duration_ms", serialize_with = "milliseconds")]
    pub duration: Duration,
    /// Why this kind of sync.
    pub reason: Option<String>,
    /// What went wrong.
    #[serde(serialize_with = "as_sentence")]
    pub error: Option<Error>,
}

// serde's attributes call these with a reference to the field.
fn milliseconds<S: serde::Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn as_sentence<S: serde::Serializer>(
    error: &Option<Error>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    error.as_ref().map(Error::one_line).serialize(serializer)
}

/// What happened to a pipeline.
#[derive(Clone, Debug)]
pub struct Report {
    /// The pipeline's name.
    pub pipeline: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// The tables in the order of the file.
    pub tables: Vec<TableReport>,
    /// What kept the whole run from its work.
    pub failure: Option<Error>,
}

impl Report {
    /// Whether every table is as it should be, or in another run's hands.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.errors().all(|error| error.kind == Kind::Locked)
    }

    fn errors(&self) -> impl Iterator<Item = &Error> {
        self.failure.iter().chain(self.tables.iter().filter_map(|table| table.error.as_ref()))
    }

    /// The process's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        gravest(self.errors().map(|error| exit_code(error.kind)))
    }

    /// The one sentence that the log ends with and the webhook sends.
    #[must_use]
    pub fn sentence(&self) -> String {
        let status = self.status();
        let begin = format!("Pipeline {} {status}.", self.pipeline);
        if let Some(failure) = &self.failure {
            return format!("{begin} {}", failure.one_line());
        }
        let of = |table: &TableReport| format!(" || {}-{}", table.name, outcome(table));
        let tables: String = self.tables.iter().map(of).collect();
        format!("{begin} Summary: {}{tables}", self.tables.len())
    }

    fn status(&self) -> &'static str {
        if self.succeeded() { "succeeded" } else { "failed" }
    }

    /// The webhook's body.
    #[must_use]
    pub fn body(&self) -> Value {
        let sentence = self.sentence();
        json!({
            "message": sentence,
            "text": sentence,
            "pipeline": self.pipeline,
            "status": self.status(),
            "started_at": format!("{:.3}", self.started_at),
            "finished_at": format!("{:.3}", self.finished_at),
            "tables": self.tables,
        })
    }
}

fn outcome(table: &TableReport) -> String {
    match (&table.error, table.sync_type, table.row_count) {
        (Some(error), _, _) if error.kind != Kind::Locked => {
            format!("failed: {}", error.one_line())
        }
        (_, SyncType::Incremental | SyncType::FullRefresh, Some(rows)) => {
            format!("{}-{rows}", table.sync_type.name())
        }
        _ => format!("{}-NA", table.sync_type.name()),
    }
}

/// The exit code that counts where there are several: what is wrong counts more than a table that
/// somebody else holds.
fn gravest(codes: impl Iterator<Item = u8>) -> u8 {
    let weight = |code: &u8| match code {
        0 => 0,
        4 => 1,
        other => other + 1,
    };
    codes.max_by_key(weight).unwrap_or(0)
}

/// The exit code that belongs to a kind of failure. A signal's own code is decided where the
/// signal is known.
#[must_use]
pub fn exit_code(kind: Kind) -> u8 {
    match kind {
        Kind::Table | Kind::Interrupted => 1,
        Kind::Configuration => 2,
        Kind::Unreachable => 3,
        Kind::Locked => 4,
        Kind::Bug => 70,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, sync_type: SyncType, rows: u64, error: Option<Error>) -> TableReport {
        TableReport {
            name: name.to_owned(),
            destination_name: name.to_owned(),
            as_of: Timestamp::UNIX_EPOCH,
            sync_type,
            row_count: error.is_none().then_some(rows),
            deleted_count: 0,
            duration: Duration::from_millis(1500),
            reason: None,
            error,
        }
    }

    fn report(tables: Vec<TableReport>) -> Report {
        let at = Timestamp::UNIX_EPOCH;
        Report {
            pipeline: "shop".to_owned(),
            started_at: at,
            finished_at: at,
            tables,
            failure: None,
        }
    }

    #[test]
    fn the_sentence_has_the_predecessors_form() {
        let report = report(vec![
            table("t1", SyncType::Initial, 5, None),
            table("t2", SyncType::Incremental, 17, None),
        ]);
        assert_eq!(
            report.sentence(),
            "Pipeline shop succeeded. Summary: 2 || t1-initial-NA || t2-incremental-17"
        );
        assert_eq!(report.exit_code(), 0);
    }

    #[test]
    fn a_failed_table_fails_the_pipeline_and_a_locked_one_does_not() {
        let locked = Error::locked("another run holds it");
        let report_with_lock = report(vec![table("t", SyncType::Skipped, 0, Some(locked.clone()))]);
        assert!(report_with_lock.succeeded());
        assert_eq!(report_with_lock.exit_code(), 4);
        let failed = Error::table("cannot sync `u`").because("no such column");
        let report = report(vec![
            table("t", SyncType::Skipped, 0, Some(locked)),
            table("u", SyncType::Initial, 0, Some(failed)),
        ]);
        assert_eq!(report.exit_code(), 1);
        assert_eq!(
            report.sentence(),
            "Pipeline shop failed. Summary: 2 || t-skipped-NA || u-failed: cannot sync `u`: no such column"
        );
    }
}
