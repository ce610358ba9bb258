//! What `plan` says of a table, for people and for machines.

use anstyle::{AnsiColor, Style};
use serde_json::{Value, json};

use super::{Level, Log, Verbosity, exit_code, gravest};
use crate::error::{Error, counted};
use crate::plan::{Statement, SyncType};

/// What a sync would do to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A sync of this kind.
    Sync(SyncType),
    /// No row has changed, and nothing would be written.
    Nothing,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Sync(sync_type) => sync_type.name(),
            Self::Nothing => "nothing",
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Nothing => Style::new().dimmed(),
            Self::Sync(SyncType::Incremental) => AnsiColor::Green.on_default(),
            Self::Sync(_) => AnsiColor::Yellow.on_default(),
        }
    }
}

/// What the next sync would do to a table, and why.
#[derive(Clone, Debug)]
pub struct Preview {
    /// Its name at the source.
    pub name: String,
    /// What would be done; none where it would fail.
    pub action: Option<Action>,
    /// Why, as the second half of a sentence.
    pub reason: Option<String>,
    /// What the log would say beside it.
    pub notes: Vec<String>,
    /// How the destination's columns differ from what they shall be, as by diff.
    pub schema_difference: Vec<String>,
    /// How many rows the source expects to send.
    pub estimated_rows: Option<u64>,
    /// What would run, in its order.
    pub statements: Vec<Statement>,
    /// Why it would fail.
    pub error: Option<Error>,
}

impl Preview {
    /// Of this table nothing is known yet.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            action: None,
            reason: None,
            notes: Vec::new(),
            schema_difference: Vec::new(),
            estimated_rows: None,
            statements: Vec::new(),
            error: None,
        }
    }

    fn sentence(&self) -> String {
        let action = match self.action {
            Some(Action::Nothing) => "nothing to do".to_owned(),
            Some(action) => format!("{} sync", action.name()),
            None => "cannot be synced".to_owned(),
        };
        let rows = self
            .estimated_rows
            .map(|rows| format!(", about {}", counted(rows, "row")))
            .unwrap_or_default();
        let reason = self.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("{action}{rows}{reason}")
    }

    fn facts(&self) -> Value {
        json!({
            "name": self.name,
            "action": self.action.map_or("error", Action::name),
            "reason": self.reason,
            "notes": self.notes,
            "schema_difference": self.schema_difference,
            "estimated_rows": self.estimated_rows,
            "statements": self.statements,
            "error": self.error.as_ref().map(Error::one_line),
            "hint": self.error.as_ref().and_then(|error| error.hint.as_ref()),
        })
    }
}

impl Log {
    /// What would be done to a table. The statements are left out where only an outline is wanted.
    pub fn preview(&self, preview: &Preview, outline: bool) {
        if let Some(error) = &preview.error {
            self.error(error);
            return;
        }
        if self.verbosity == Verbosity::Quiet {
            return;
        }
        let style = preview.action.map(Action::style).unwrap_or_default();
        self.print(&format!("{style}{}{style:#}: {}", preview.name, preview.sentence()));
        for note in &preview.notes {
            self.print(&format!("  {note}"));
        }
        for line in &preview.schema_difference {
            let color = if line.starts_with('-') { AnsiColor::Red } else { AnsiColor::Green };
            let style = color.on_default();
            self.print(&format!("  {style}{line}{style:#}"));
        }
        if !outline {
            self.statements(&preview.statements);
        }
    }

    /// Statements as a person would paste them.
    pub fn statements(&self, statements: &[Statement]) {
        if self.verbosity == Verbosity::Quiet {
            return;
        }
        let dim = Style::new().dimmed();
        for Statement { on, purpose, sql } in statements {
            let sql = sql.replace('\n', "\n    ");
            self.print(&format!("  {dim}-- {on}: {purpose}{dim:#}\n    {sql};"));
        }
    }

    /// What the tables have come to.
    pub fn previewed(&self, previews: &[Preview]) {
        if self.verbosity == Verbosity::Quiet {
            return;
        }
        let kinds = [
            ("initial", Some(Action::Sync(SyncType::Initial))),
            ("full refresh", Some(Action::Sync(SyncType::FullRefresh))),
            ("incremental", Some(Action::Sync(SyncType::Incremental))),
            ("nothing to do", Some(Action::Nothing)),
            ("would fail", None),
        ];
        let count = |action| previews.iter().filter(|preview| preview.action == action).count();
        let parts: Vec<String> = kinds
            .iter()
            .map(|(word, action)| (word, count(*action)))
            .filter(|(_, number)| *number > 0)
            .map(|(word, number)| format!("{number} {word}"))
            .collect();
        let level = if count(None) > 0 { Level::Error } else { Level::Info };
        let style = level.style();
        let tables = counted(previews.len() as u64, "table");
        self.print(&format!("{style}{tables}{style:#}: {}", parts.join(", ")));
    }
}

/// All previews as one JSON document. `first` is what runs before the first table.
#[must_use]
pub fn plan_document(pipeline: &str, first: &[Statement], previews: &[Preview]) -> Value {
    json!({
        "pipeline": pipeline,
        "preparation": first,
        "tables": previews.iter().map(Preview::facts).collect::<Vec<_>>(),
    })
}

/// The exit code that the previews call for.
#[must_use]
pub fn plan_code(previews: &[Preview]) -> u8 {
    let errors = previews.iter().filter_map(|preview| preview.error.as_ref());
    gravest(errors.map(|error| exit_code(error.kind)))
}
