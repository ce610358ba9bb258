//! Looks at a source and writes the first `tables-config.json`.

mod choice;

use std::path::{Path, PathBuf};

use crate::catalog;
use crate::config::{self, Endpoint, TABLES_FILE};
use crate::db::Session;
use crate::error::{Error, Result};
use crate::files::{self, Lasting};
use crate::inspect::{self, Inspected};
use crate::interrupt::Interrupt;
use crate::plan;
use crate::report::{Chosen, ChosenRule};
use crate::sql::Qualified;
use crate::sql::copy::holds_null_key;
use crate::table::{RECEIPTS, SourceTable};

use choice::choose;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Only these tables; all that can be read where empty.
    pub tables: Vec<String>,
    /// Overwrite the file that is there.
    pub force: bool,
}

/// Looks at the source and writes `tables-config.json`; hands what was chosen for each table, and
/// why, to `tell`. Returns where it was written.
///
/// Fails where there is such a file already and `force` is not asked for, and where nothing can be
/// read.
pub fn run(
    directory: &Path,
    source: &Endpoint,
    request: &Request,
    interrupt: &Interrupt,
    mut tell: impl FnMut(&Chosen),
) -> Result<PathBuf> {
    let path = directory.join(TABLES_FILE);
    if path.exists() && !request.force {
        return Err(Error::configuration(format!("there is a `{TABLES_FILE}` already"))
            .hint("look at it, and run `init --force` to have it overwritten"));
    }
    let mut session = Session::connect(source, interrupt)?;
    let columns = inspect::columns(&mut session, &source.schema, None)?;
    let wanted: Vec<&str> = if request.tables.is_empty() {
        // What belongs to a partitioned table is copied with it.
        let own = |table: &&Inspected| !table.partition && table.name != RECEIPTS;
        columns.values().filter(own).map(|table| table.name.as_str()).collect()
    } else {
        request.tables.iter().map(String::as_str).collect()
    };
    let tables = catalog::source_tables(&mut session, &source.schema, &wanted)?;
    for name in &request.tables {
        if !tables.contains_key(name) {
            let name = Qualified::new(&source.schema, name);
            return Err(catalog::missing(&mut session, &name)?);
        }
    }
    let mut rules = Vec::new();
    for (name, table) in &tables {
        interrupt.check()?;
        let inspected = columns.get(name);
        let chosen = look(&mut session, table, inspected, &rules);
        rules.extend(chosen.rule.clone());
        tell(&chosen);
    }
    if rules.is_empty() {
        let schema = &source.schema;
        return Err(Error::table(format!(
            "there is no table in schema `{schema}` that can be read"
        ))
        .hint("check SOURCE_SCHEMA, and grant the source's user SELECT on its tables"));
    }
    let text = document(&rules);
    let written = files::replace(&path, &text, Lasting::Surely);
    written.map_err(|error| {
        Error::configuration(format!("cannot write `{}`", path.display())).caused_by(&error)
    })?;
    Ok(path)
}

/// Chooses for one table, and makes sure that the choice holds.
fn look(
    session: &mut Session,
    table: &SourceTable,
    inspected: Option<&Inspected>,
    rules: &[ChosenRule],
) -> Chosen {
    let name = table.name.name.clone();
    let left_out = |why: String| Chosen {
        name: name.clone(),
        rule: None,
        why: vec![why],
        warnings: Vec::new(),
    };
    if table.in_extension {
        return left_out("it belongs to an extension".to_owned());
    }
    if !table.readable {
        return left_out("the source's user may not read it".to_owned());
    }
    let holds_null = |column: &str| {
        let question = holds_null_key(&table.name, column);
        inspect::is_so(session, &question) != Some(false)
    };
    let mut chosen = choose(table, inspected, holds_null);
    let mut mistakes = check(table, chosen.rule.as_ref(), rules);
    if mistakes.is_some() && chosen.rule.as_ref().is_some_and(|rule| rule.mode.is_none()) {
        // What does not do for an incremental sync may do for a copy.
        let whole = ChosenRule::of(&table.name.name);
        chosen.rule = Some(ChosenRule { mode: Some("full-refresh"), ..whole });
        chosen.why = vec![format!(
            "full-refresh, for {}",
            mistakes.as_deref().unwrap_or("nothing else will do")
        )];
        mistakes = check(table, chosen.rule.as_ref(), rules);
    }
    match mistakes {
        Some(why) => left_out(why),
        None => chosen,
    }
}

/// Why a rule does not do, beside those that were chosen before, if so.
fn check(table: &SourceTable, rule: Option<&ChosenRule>, rules: &[ChosenRule]) -> Option<String> {
    let all: Vec<ChosenRule> = rules.iter().chain(rule).cloned().collect();
    let mut mistakes = Vec::new();
    let parsed = config::rules(&document(&all), &mut mistakes);
    if let Some(mistake) = mistakes.into_iter().next() {
        return Some(mistake);
    }
    let rule = parsed.last()?;
    plan::shape(rule, table, u32::MAX).err().map(|error| error.one_line())
}

/// The file's text.
fn document(rules: &[ChosenRule]) -> String {
    // A line a table, as a person would write it.
    let tables: Vec<String> = rules.iter().map(|rule| format!("    {rule}")).collect();
    format!(
        "{{\n  \"defaults\": {{ \"initial\": \"copy\" }},\n  \"tables\": [\n{}\n  ]\n}}\n",
        tables.join(",\n")
    )
}
