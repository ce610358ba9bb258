//! What `init` says of a table.

use std::fmt;
use std::path::Path;

use anstyle::{AnsiColor, Style};
use serde_json::json;

use super::{Log, Verbosity};

/// A rule of `tables-config.json`, its keys in the order in which a person would write them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenRule {
    /// The table.
    pub name: String,
    /// The replication key.
    pub replication_key: Option<String>,
    /// The unique columns; none where the primary key serves.
    pub unique_cols: Vec<String>,
    /// The mode; none for the usual one.
    pub mode: Option<&'static str>,
}

impl ChosenRule {
    /// A rule that says nothing yet.
    #[must_use]
    pub fn of(table: &str) -> Self {
        Self { name: table.to_owned(), replication_key: None, unique_cols: Vec::new(), mode: None }
    }
}

impl fmt::Display for ChosenRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = (!self.unique_cols.is_empty()).then(|| json!(self.unique_cols));
        let keys = [
            ("name", Some(json!(self.name))),
            ("replication_key", self.replication_key.as_ref().map(|key| json!(key))),
            ("unique_cols", columns),
            ("mode", self.mode.map(|mode| json!(mode))),
        ];
        let written: Vec<String> = keys
            .into_iter()
            .filter_map(|(key, value)| Some(format!("\"{key}\": {}", value?)))
            .collect();
        write!(formatter, "{{ {} }}", written.join(", "))
    }
}

/// What was chosen for a table, and why.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Its name at the source.
    pub name: String,
    /// Its rule in `tables-config.json`; none where it is left out.
    pub rule: Option<ChosenRule>,
    /// Why.
    pub why: Vec<String>,
    /// Where the choice is a guess, or will be a burden.
    pub warnings: Vec<String>,
}

impl Log {
    /// Where it all was written, and what comes next.
    pub fn written(&self, path: &Path) {
        if self.verbosity > Verbosity::Quiet {
            let next = "`incremental-replication check`, `plan` and `sync` come next";
            self.print(&format!("wrote {}; {next}", path.display()));
        }
    }

    /// What was chosen for a table.
    pub fn chosen(&self, chosen: &Chosen) {
        if self.verbosity == Verbosity::Quiet {
            return;
        }
        let Chosen { name, rule, why, warnings } = chosen;
        let (style, left_out) = match rule {
            Some(_) => (AnsiColor::Green.on_default(), ""),
            None => (Style::new().dimmed(), "left out: "),
        };
        self.print(&format!("{style}{name}{style:#}: {left_out}{}", why.join("; ")));
        let style = AnsiColor::Yellow.on_default();
        for warning in warnings {
            self.print(&format!("  {style}warning{style:#}: {warning}"));
        }
    }
}
