//! What `verify` says of a table, for people and for machines.

use std::time::Duration;

use anstyle::Style;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Level, Log, LogFormat, Verbosity, exit_code, gravest, on_one_line};
use crate::digest::{Compared, Mended};
use crate::error::{Error, Kind, counted, shell_quoted};
use crate::sql::digest::Kind as Difference;

/// What was found of one table.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Its name at the source.
    pub name: String,
    /// What the comparison has found; none where it failed.
    pub compared: Option<Compared>,
    /// A few of the rows that differ.
    pub examples: Vec<Example>,
    /// What was put right.
    pub repaired: Option<Mended>,
    /// Why nothing would be put right, where the next sync replaces the table.
    pub no_copy: Option<Error>,
    /// How long it took.
    pub duration: Duration,
    /// Why it could not be compared, or not be put right.
    pub error: Option<Error>,
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Example {
    /// How.
    #[serde(serialize_with = "kind_of_difference")]
    pub kind: Difference,
    /// Its unique columns and their values, as a person reads them.
    pub key: String,
    /// Which of its columns differ, where both sides have the row.
    pub columns: Vec<String>,
}

// serde's attribute calls this with a reference to the field.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn kind_of_difference<S: serde::Serializer>(
    kind: &Difference,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.name())
}

impl Verdict {
    /// Whether the table is as it should be, now.
    #[must_use]
    pub fn is_right(&self) -> bool {
        let wrong = |compared: &Compared| compared.differences.is_wrong();
        self.error.is_none()
            && (self.repaired.is_some() || !self.compared.as_ref().is_some_and(wrong))
    }
}

impl Log {
    /// What was found of a table.
    pub fn verdict(&self, verdict: &Verdict) {
        let level = match (&verdict.error, verdict.is_right()) {
            (Some(error), _) if error.kind == Kind::Locked => Level::Warning,
            (None, true) => Level::Info,
            _ => Level::Error,
        };
        if let Some(error) = verdict.error.as_ref().filter(|error| error.kind != Kind::Locked) {
            self.error(error);
            if self.format == LogFormat::Text {
                return;
            }
        }
        if self.verbosity == Verbosity::Quiet {
            if level == Level::Error && verdict.error.is_none() {
                let what = format!("`{}` differs: {}", verdict.name, sentence(verdict));
                self.error(&Error::table(what));
            }
            return;
        }
        if self.format == LogFormat::Json {
            self.line(level, Some(&verdict.name), &sentence(verdict), &facts(verdict));
            return;
        }
        let (style, dim) = (level.style(), Style::new().dimmed());
        self.print(&format!("{style}{}{style:#}: {}", verdict.name, sentence(verdict)));
        for example in &verdict.examples {
            let columns = example.columns.join(", ");
            let separator = if columns.is_empty() { "" } else { ": " };
            let line = on_one_line(&format!("{}{separator}{columns}", example.key));
            self.print(&format!("  {dim}{:9}{dim:#}  {line}", example.kind.name()));
        }
    }

    /// What can be done about differences, if there are some that nobody has repaired.
    pub fn remedy(&self, verdicts: &[Verdict]) {
        if self.format != LogFormat::Text || self.verbosity == Verbosity::Quiet {
            return;
        }
        let wrong = |verdict: &&Verdict| verdict.error.is_none() && !verdict.is_right();
        for no_copy in verdicts.iter().filter(wrong).filter_map(|one| one.no_copy.as_ref()) {
            let hint = no_copy.hint.as_deref().unwrap_or_default();
            self.print(&format!("hint: {}; {hint}", no_copy.one_line()));
        }
        let wrong = |verdict: &&Verdict| wrong(verdict) && verdict.no_copy.is_none();
        let wrong: Vec<&str> =
            verdicts.iter().filter(wrong).map(|verdict| verdict.name.as_str()).collect();
        let [first, ..] = wrong[..] else { return };
        let only = if verdicts.len() > 1 && wrong.len() == 1 {
            format!(" --table {}", shell_quoted(first))
        } else {
            String::new()
        };
        let command = format!("incremental-replication verify{only} --repair");
        let lost = verdicts.iter().find_map(loses_much).unwrap_or_default();
        self.print(&format!("hint: {lost}run `{command}` to put the destination right"));
    }
}

/// What to look at before a repair that removes most of a table.
fn loses_much(verdict: &Verdict) -> Option<String> {
    let compared = verdict.compared.as_ref()?;
    let (extra, rows) = (compared.differences.extra, compared.destination_rows?);
    (extra * 2 > rows).then(|| {
        let name = &verdict.name;
        format!(
            "look first whether `{name}` is complete at the source, for {extra} of {rows} rows would be \
             removed or marked; then "
        )
    })
}

/// All verdicts as one JSON document.
#[must_use]
pub fn document(pipeline: &str, verdicts: &[Verdict]) -> Value {
    let statuses: Vec<&str> = verdicts.iter().map(status).collect();
    let gravest =
        ["error", "different", "locked"].into_iter().find(|grave| statuses.contains(grave));
    json!({
        "pipeline": pipeline,
        "status": gravest.unwrap_or("equal"),
        "tables": verdicts.iter().map(facts).collect::<Vec<_>>(),
    })
}

/// The exit code that the verdicts call for.
#[must_use]
pub fn code(verdicts: &[Verdict]) -> u8 {
    let code = |verdict: &Verdict| match &verdict.error {
        Some(error) => exit_code(error.kind),
        None => u8::from(!verdict.is_right()),
    };
    gravest(verdicts.iter().map(code))
}

fn sentence(verdict: &Verdict) -> String {
    if let Some(error) = &verdict.error {
        return error.one_line();
    }
    let Some(compared) = &verdict.compared else { return "not compared".to_owned() };
    let differences = compared.differences;
    let rows = match (compared.source_rows, compared.destination_rows) {
        (Some(source), Some(destination)) if source != destination => {
            format!("{} at the source, {destination} at the destination", counted(source, "row"))
        }
        (Some(rows), _) => counted(rows, "row"),
        _ if differences.is_wrong() => "looked for among all versions".to_owned(),
        _ => "every version is there".to_owned(),
    };
    let seconds = verdict.duration.as_secs_f64();
    let repaired = verdict.repaired.map_or_else(String::new, |mended| {
        format!(
            "; repaired: {} written, {} removed or marked",
            counted(mended.written, "row"),
            mended.deleted
        )
    });
    format!("{} ({rows}; {seconds:.1} s){repaired}", differences.described())
}

fn status(verdict: &Verdict) -> &'static str {
    match (&verdict.error, &verdict.compared, verdict.repaired) {
        (Some(error), _, _) if error.kind == Kind::Locked => "locked",
        (Some(_), _, _) | (_, None, _) => "error",
        (_, _, Some(_)) => "repaired",
        (_, Some(compared), None) if compared.differences.is_wrong() => "different",
        _ => "equal",
    }
}

fn facts(verdict: &Verdict) -> Value {
    let compared = verdict.compared.as_ref();
    let differences = compared.map(|compared| compared.differences).unwrap_or_default();
    json!({
        "name": verdict.name,
        "status": status(verdict),
        "source_rows": compared.and_then(|compared| compared.source_rows),
        "destination_rows": compared.and_then(|compared| compared.destination_rows),
        "missing": differences.missing,
        "extra": differences.extra,
        "different": differences.different,
        "pending": differences.pending,
        "examples": verdict.examples,
        "rows_written": verdict.repaired.map(|mended| mended.written),
        "rows_deleted": verdict.repaired.map(|mended| mended.deleted),
        "duration_ms": u64::try_from(verdict.duration.as_millis()).unwrap_or(u64::MAX),
        "error": verdict.error.as_ref().map(Error::one_line),
        "hint": verdict.error.as_ref().and_then(|error| error.hint.as_ref()),
    })
}
