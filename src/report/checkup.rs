//! What `check` says, for people and for machines.

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Log, Verbosity, exit_code, gravest, on_one_line};
use crate::config::Side;
use crate::error::{Error, Kind, counted};

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Good,
    /// Worth knowing.
    Note,
    /// Something to look at; syncs work all the same.
    Warning,
    /// A sync would fail.
    Error,
}

impl Severity {
    fn shown(self) -> (&'static str, Style) {
        match self {
            Self::Good => ("ok", AnsiColor::Green.on_default()),
            Self::Note => ("note", AnsiColor::Cyan.on_default()),
            Self::Warning => ("warning", AnsiColor::Yellow.on_default()),
            Self::Error => ("error", AnsiColor::Red.on_default()),
        }
    }
}

/// What a finding is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// One of the two servers.
    Side(Side),
    /// pg_dump.
    PgDump,
    /// All of it.
    Pipeline,
    /// A table, by its name at the source.
    Table(String),
}

impl About {
    fn name(&self) -> String {
        match self {
            Self::Side(side) => side.to_string(),
            Self::PgDump => "pg_dump".to_owned(),
            Self::Pipeline => "pipeline".to_owned(),
            Self::Table(table) => table.clone(),
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug)]
pub struct Finding {
    /// How grave it is.
    pub severity: Severity,
    /// What kind of failure a sync would end with.
    pub kind: Option<Kind>,
    /// What it is about.
    pub about: About,
    /// What it is.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Finding {
    /// As it should be.
    #[must_use]
    pub fn good(about: About, message: String) -> Self {
        Self { severity: Severity::Good, kind: None, about, message, hint: None }
    }

    /// Something to look at.
    #[must_use]
    pub fn warning(about: About, message: &str, hint: String) -> Self {
        let (severity, message) = (Severity::Warning, message.to_owned());
        Self { severity, kind: None, about, message, hint: Some(hint) }
    }

    /// Something worth knowing.
    #[must_use]
    pub fn note(about: About, message: &str, hint: String) -> Self {
        Self { severity: Severity::Note, ..Self::warning(about, message, hint) }
    }

    /// What would make a sync fail.
    #[must_use]
    pub fn error(about: About, error: Error) -> Self {
        let (severity, kind) = (Severity::Error, Some(error.kind));
        Self { severity, kind, about, message: error.one_line(), hint: error.hint }
    }

    fn facts(&self) -> Value {
        let table = match &self.about {
            About::Table(table) => Some(table),
            _ => None,
        };
        json!({
            "severity": self.severity,
            "about": if table.is_some() { "table".to_owned() } else { self.about.name() },
            "table": table,
            "message": self.message,
            "hint": self.hint,
        })
    }
}

/// What first copies will read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ToCopy {
    /// How many tables.
    pub tables: u64,
    /// How many rows, by the source's statistics.
    pub rows: u64,
    /// How much room they take there.
    pub bytes: u64,
}

/// Everything that was found.
#[derive(Clone, Debug, Default)]
pub struct Checkup {
    /// In the order in which it was looked at.
    pub findings: Vec<Finding>,
    /// What first copies will read.
    pub to_copy: ToCopy,
}

impl Checkup {
    /// Adds a finding.
    pub fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    fn count(&self, severity: Severity) -> u64 {
        self.findings.iter().filter(|finding| finding.severity == severity).count() as u64
    }

    /// The exit code that the findings call for: warnings are none.
    #[must_use]
    pub fn code(&self) -> u8 {
        gravest(self.findings.iter().filter_map(|finding| finding.kind).map(exit_code))
    }

    /// All of it as one JSON document.
    #[must_use]
    pub fn document(&self, pipeline: &str) -> Value {
        let status = match (self.count(Severity::Error), self.count(Severity::Warning)) {
            (0, 0) => "ok",
            (0, _) => "warnings",
            _ => "errors",
        };
        json!({
            "pipeline": pipeline,
            "status": status,
            "to_copy": self.to_copy,
            "findings": self.findings.iter().map(Finding::facts).collect::<Vec<_>>(),
        })
    }

    fn sentence(&self) -> String {
        let of = |severity, noun| match self.count(severity) {
            0 => format!("no {noun}s"),
            number => counted(number, noun),
        };
        let found =
            format!("{}, {}", of(Severity::Error, "error"), of(Severity::Warning, "warning"));
        let ToCopy { tables, rows, bytes } = self.to_copy;
        if tables == 0 {
            return found;
        }
        let size = self::bytes(bytes);
        format!(
            "{found}; the next sync copies {} whole, about {} and {size} at the source, \
             plus indexes",
            counted(tables, "table"),
            counted(rows, "row")
        )
    }
}

/// What is beside the words of a finding.
const INDENTED: &str = "\n        ";

/// The room beside it, on a terminal that nobody has made wider.
const ROOM: usize = 72;

/// A text in lines that fit, broken between words.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= ROOM => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A size as a person says it.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB"];
    let (mut size, mut unit) = (bytes, 0);
    // As pg_size_pretty does: a unit is left once ten thousand of it are there.
    while size >= 10_240 && unit + 1 < units.len() {
        size = (size + 512) / 1024;
        unit += 1;
    }
    format!("{size} {}", units[unit])
}

impl Log {
    /// All findings, the grave ones with what to do about them.
    pub fn checkup(&self, checkup: &Checkup) {
        let dim = Style::new().dimmed();
        for Finding { severity, about, message, hint, .. } in &checkup.findings {
            if self.verbosity == Verbosity::Quiet && *severity != Severity::Error {
                continue;
            }
            let (word, style) = severity.shown();
            let message = on_one_line(message);
            let lines = wrapped(&format!("{}: {message}", about.name()));
            self.print(&format!("{style}{word:8}{style:#}{}", lines.join(INDENTED)));
            if let Some(hint) = hint {
                let lines = wrapped(&format!("hint: {hint}"));
                self.print(&format!("{:8}{dim}{}{dim:#}", "", lines.join(INDENTED)));
            }
        }
        if self.verbosity > Verbosity::Quiet {
            self.print(&wrapped(&checkup.sentence()).join("\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_broken_between_words_and_a_long_word_is_not() {
        let text = format!("one two {} three", "x".repeat(100));
        assert_eq!(wrapped(&text), ["one two", &"x".repeat(100), "three"]);
        assert_eq!(wrapped("a  b"), ["a  b"]);
    }

    #[test]
    fn sizes_read_as_psql_prints_them() {
        let read = [0, 10_239, 10_240, 8192 * 1024, 3 << 30].map(bytes);
        assert_eq!(read, ["0 bytes", "10239 bytes", "10 kB", "8192 kB", "3072 MB"]);
    }
}
