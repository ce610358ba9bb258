//! One table after the other: what the source says of it, and what its next sync would.

use std::collections::BTreeMap;

use crate::catalog;
use crate::config::{Pipeline, Rule};
use crate::db::Session;
use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::inspect::{self, Inspected};
use crate::interrupt::Interrupt;
use crate::plan::Situation;
use crate::report::{About, Checkup, Finding, bytes};
use crate::sql::{Qualified, identifiers};
use crate::table::{DestinationTable, Kind, RECEIPTS, SourceTable, staging_name};

/// The tables of a pipeline, and what is found.
pub(super) struct Tables<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) source: &'a mut Session,
    pub(super) destination: &'a mut Session,
    pub(super) checkup: &'a mut Checkup,
}

impl Tables<'_> {
    pub(super) fn check(mut self, interrupt: &Interrupt) -> Result<()> {
        let Self { pipeline, .. } = self;
        let (from, into) = (&pipeline.source.schema, &pipeline.destination.schema);
        let names: Vec<&str> = pipeline.rules.iter().map(|rule| rule.name.as_str()).collect();
        let there = catalog::source_tables(self.source, from, &names)?;
        let columns = inspect::columns(self.source, from, Some(&names))?;
        let own: Vec<String> = pipeline
            .rules
            .iter()
            .flat_map(|rule| [rule.destination_name.clone(), staging_name(&rule.destination_name)])
            .chain([RECEIPTS.to_owned()])
            .collect();
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let mut here = catalog::destination_tables(self.destination, into, &own)?;
        self.of_others(into, &own)?;
        for rule in &pipeline.rules {
            interrupt.check()?;
            let name = Qualified::new(from, &rule.name);
            let about = About::Table(rule.name.clone());
            let Some(table) = there.get(&rule.name) else {
                let error = catalog::missing(self.source, &name)?;
                self.checkup.add(Finding::error(about, error));
                continue;
            };
            let found = self.table(rule, table, columns.get(&rule.name), &mut here);
            let nothing = found.is_empty();
            for finding in found {
                self.checkup.add(finding);
            }
            if nothing {
                let said = match table.estimated_rows {
                    0 => "empty, or never analyzed at the source".to_owned(),
                    rows => format!("about {rows} rows, {}", bytes(table.estimated_bytes)),
                };
                self.checkup.add(Finding::good(about, said));
            }
        }
        Ok(())
    }

    /// Everything about one table.
    fn table(
        &mut self,
        rule: &Rule,
        there: &SourceTable,
        columns: Option<&Inspected>,
        here: &mut BTreeMap<String, DestinationTable>,
    ) -> Vec<Finding> {
        let about = || About::Table(rule.name.clone());
        if let Some(error) = self.unreadable(rule, there) {
            return vec![Finding::error(about(), error)];
        }
        let table = Qualified::new(&self.pipeline.destination.schema, &rule.destination_name);
        let servers = (&self.source.server, &self.destination.server);
        let facts = match Facts::of(rule, &table, there.clone(), here, servers) {
            Ok(facts) => facts,
            Err(error) => return vec![Finding::error(about(), error)],
        };
        let situation = facts.situation(rule, &table, false);
        let mut found = Vec::new();
        if let Some(filter) = &rule.filter {
            let rows = situation.shape.selection(rule, there, None);
            if let Err(error) = self.source.rows("understand \"where\"", &rows.explain()) {
                let hint = format!("check \"where\" in tables-config.json: {filter}");
                found.push(Finding::error(about(), error.hint(hint)));
                return found;
            }
        }
        if there.row_security {
            found.push(Finding::warning(
                about(),
                "row-level security hides rows from the source's user",
                "grant it BYPASSRLS, or take it that only the rows it sees are copied".to_owned(),
            ));
        }
        if let Some(key) = &situation.shape.key {
            found.extend(self.key(rule, there, columns, key));
        }
        found.extend(self.unique(&situation));
        found.extend(self.at_destination(&situation, &table));
        found
    }

    fn unreadable(&mut self, rule: &Rule, there: &SourceTable) -> Option<Error> {
        // What a materialized view holds may still be to come.
        if there.readable && there.kind != Kind::MaterializedView {
            return None;
        }
        // Some columns of what is not readable may be so all the same, and be all that is wanted.
        let wanted = there.columns.iter().filter(|column| rule.columns.takes(&column.name));
        let names = identifiers(wanted.map(|column| column.name.as_str()));
        let sql = format!("SELECT {names} FROM {} LIMIT 0", there.name);
        self.source.rows(&format!("read `{}`", there.name.plain()), &sql).err()
    }

    fn unique(&mut self, situation: &Situation) -> Option<Finding> {
        let (rule, shape) = (situation.rule, situation.shape);
        if shape.unique_at_source || shape.unique_columns.is_empty() {
            return None;
        }
        let about = About::Table(rule.name.clone());
        let columns = shape.unique_columns.join(", ");
        let selection = shape.selection(rule, situation.source, None);
        let question = selection.shared_key(&shape.unique_columns);
        match inspect::briefly(self.source, &question).as_deref() {
            Some([Some(key), Some(count)]) => {
                let error = Error::table(format!("({columns}) does not identify a row"))
                    .because(format!("{count} rows share the values {key}"))
                    .hint("name other columns in \"unique_cols\", or set \"mode\" to \"full-refresh\"");
                Some(Finding::error(about, error))
            }
            _ => Some(Finding::warning(
                about,
                &format!(
                    "no unique index at the source makes sure that ({columns}) identifies a row"
                ),
                match situation.source.kind {
                    Kind::Table | Kind::Partitioned => {
                        "make one, on columns that are NOT NULL: each sync looks for doubles instead, \
                         which reads the whole table"
                    }
                    _ => "each sync looks for doubles instead, which reads all of it",
                }
                .to_owned(),
            )),
        }
    }

    /// Whether the answer is yes, and comes soon.
    pub(super) fn says_yes(&mut self, question: &str) -> bool {
        inspect::is_so(self.source, question) == Some(true)
    }
}
