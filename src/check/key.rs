//! A table's replication key: whether it tells what is newer, and at what cost.

use super::table::Tables;
use crate::config::{ReplicationKey, Rule};
use crate::error::Error;
use crate::inspect::Inspected;
use crate::report::{About, Finding};
use crate::sql;
use crate::sql::copy::holds_null_key;
use crate::table::{Kind, SourceTable};
use crate::watermark::key::{Key, KeyType};

impl Tables<'_> {
    /// Whether an index begins with it, its writers can be seen, and its values are such as grow.
    pub(super) fn key(
        &mut self,
        rule: &Rule,
        there: &SourceTable,
        columns: Option<&Inspected>,
        key: &Key,
    ) -> Vec<Finding> {
        let about = || About::Table(rule.name.clone());
        let mut found = Vec::new();
        let column = columns.and_then(|table| table.column(&key.column));
        if column.is_some_and(|column| !column.indexed) {
            let hint = match there.kind {
                Kind::View | Kind::ForeignTable => "make one on the table that it reads".to_owned(),
                _ => sql::inspect::create_index(&there.name, &key.column),
            };
            let said = format!(
                "no index begins with the replication key `{}`, so each sync reads all of it",
                key.column
            );
            found.push(if there.is_large() {
                Finding::warning(about(), &said, hint)
            } else {
                Finding::note(about(), &said, hint)
            });
        }
        if columns.is_some_and(|table| table.subscribed) {
            found.push(Finding::warning(
                about(),
                "a subscription fills it, and the publisher's transactions in flight cannot be seen: \
                 rows that they commit late are found within the lookback only",
                "let \"lookback\" cover the longest transaction there, or let \"replication_key\" be \
                 \"xmin\""
                    .to_owned(),
            ));
        }
        found.extend(self.set(rule, there, columns));
        if key.random(&there.name).is_some_and(|question| self.says_yes(&question)) {
            let random = Error::table(format!(
                "`{}` holds uuids of another version than 7, which do not grow: later rows with \
                 lesser ones may never be read",
                key.column
            ));
            let hint = "name another replication key, or \"xmin\", or correct them";
            found.push(Finding::error(about(), random.hint(hint)));
        } else if key.beyond(&there.name).is_some_and(|question| self.says_yes(&question)) {
            let or = if key.key_type == KeyType::Uuid { "" } else { ", or is infinite," };
            found.push(Finding::warning(
                about(),
                &format!("`{}` lies in the future{or} in some rows", key.column),
                "correct them: they are read again in every sync".to_owned(),
            ));
        }
        found
    }

    /// Whether rows may be without a key, and whether anything sets it.
    fn set(
        &mut self,
        rule: &Rule,
        there: &SourceTable,
        columns: Option<&Inspected>,
    ) -> Vec<Finding> {
        let about = || About::Table(rule.name.clone());
        let Some(name) = rule.replication_key.as_ref().map(ReplicationKey::name) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let not_null = there.column(name).is_some_and(|column| column.not_null);
        if !not_null && self.says_yes(&holds_null_key(&there.name, name)) {
            found.push(Finding::warning(
                about(),
                &format!("`{name}` is NULL in some rows"),
                format!(
                    "set it, and give it a default: rows without a key are read in every sync{}",
                    if there.lacks_xmin().is_none() { " that finds them changed" } else { "" }
                ),
            ));
        }
        let Some((table, column)) = columns.and_then(|table| Some((table, table.column(name)?)))
        else {
            return found;
        };
        // What a view shows is set elsewhere.
        if there.lacks_xmin().is_some() || table.set_on_update {
            return found;
        }
        let hint = "make sure that every writer does, or use \"mode\": \"diff\"; `verify` finds \
                    what was forgotten"
            .to_owned();
        found.push(if column.sets_itself() {
            let said = format!("nothing at the source sets `{name}` when a row is changed");
            Finding::note(about(), &said, hint)
        } else {
            let said = format!("neither a default nor a trigger at the source sets `{name}`");
            Finding::warning(about(), &said, hint)
        });
        found
    }
}
