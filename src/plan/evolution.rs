//! Changes of the source's columns that the destination can follow in place, because every value it
//! holds stays what it is. Whatever is not of that kind leads to a new copy.
//!
//! - A column with another name and the same number holds what it held.
//! - A column that is gone takes its values along.
//! - A column that is new is NULL in every row version that was there before it, unless PostgreSQL
//!   keeps a value for those. A version in which it is not NULL was written since the last sync. So
//!   all versions written since then are read, whatever their key: see [`Evolution::adds`].

use super::decision::schema_change;
use super::{DEPENDED_ON, Outcome, Situation, Step};
use crate::config::ColumnChoice;
use crate::receipt::{CopiedColumn, Origin};
use crate::sql::{ddl, session};
use crate::table::{Column, DestinationTable, Kind, SourceColumn};

/// How the destination's columns become those of the source, and what they are then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evolution {
    changes: Vec<Change>,
    /// The destination's table when it has followed.
    pub destination: DestinationTable,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Drop(String),
    Rename { from: String, to: String },
    Add(Column),
}

impl Evolution {
    /// Whether there are columns of which only rows that were written since hold values.
    #[must_use]
    pub fn adds(&self) -> bool {
        self.changes.iter().any(|change| matches!(change, Change::Add(_)))
    }

    /// What it does, as a sentence.
    #[must_use]
    pub fn described(&self) -> String {
        let said = |change: &Change| match change {
            Change::Drop(column) => format!("`{column}` is gone"),
            Change::Rename { from, to } => format!("`{from}` is `{to}` now"),
            Change::Add(column) => format!("`{}` is new", column.name),
        };
        let changes: Vec<String> = self.changes.iter().map(said).collect();
        format!("the schema is changed in place: {}", changes.join(", "))
    }

    /// The steps that carry it out.
    pub(super) fn steps(&self, situation: &Situation) -> Vec<Step> {
        let table = situation.table;
        let alter = |change: &Change| {
            let (purpose, sql) = match change {
                Change::Drop(column) => {
                    (format!("drop the column `{column}`"), ddl::drop_column(table, column))
                }
                Change::Rename { from, to } => (
                    format!("rename the column `{from}` to `{to}`"),
                    ddl::rename_column(table, from, to),
                ),
                Change::Add(column) => (
                    format!("add the column `{}`", column.name),
                    ddl::add_column(table, &column.name, &column.data_type),
                ),
            };
            Step::destination(&purpose, sql).hint(DEPENDED_ON)
        };
        let lock = Step::destination(
            &format!("have `{}` for the moment of its change", table.plain()),
            session::lock_exclusively(&[], &[table]),
        )
        .result(Outcome::Patient)
        .hint("somebody keeps a transaction open that has read it; sync again when it has ended");
        std::iter::once(lock).chain(self.changes.iter().map(alter)).collect()
    }
}

/// How the destination can follow what changed since the copy that `before` tells of; none where
/// nothing but a new copy is sure to be right.
#[must_use]
pub fn evolution(situation: &Situation, before: &Origin) -> Option<Evolution> {
    let (source, now) = (situation.source, situation.origin);
    let else_the_same = Origin { columns: now.columns.clone(), ..before.clone() };
    if else_the_same.outdated_by(now).is_some() {
        return None;
    }
    if !matches!(source.kind, Kind::Table | Kind::Partitioned) {
        return None;
    }
    // What was the greatest key says nothing of another column that has the key's name now.
    let number = |origin: &Origin| {
        let key = |column: &&CopiedColumn| Some(&column.name) == now.replication_key.as_ref();
        origin.columns.iter().find(key).map(|column| column.number)
    };
    if number(before) != number(now) {
        return None;
    }
    let mut changes = Vec::new();
    let gone = |old: &&CopiedColumn| now.columns.iter().all(|new| new.number != old.number);
    changes.extend(before.columns.iter().filter(gone).map(|old| Change::Drop(old.name.clone())));
    for new in &now.columns {
        let Some(old) = before.columns.iter().find(|old| old.number == new.number) else {
            if !is_null_in_old_rows(situation, before, source.column(&new.name)?) {
                return None;
            }
            let wanted = situation.shape.columns.iter().find(|column| column.name == new.name)?;
            changes.push(Change::Add(Column { not_null: false, ..wanted.clone() }));
            continue;
        };
        if !old.holds_the_same_as(new) {
            return None;
        }
        if old.name != new.name {
            changes.push(Change::Rename { from: old.name.clone(), to: new.name.clone() });
        }
    }
    let mut destination = situation.destination?.clone();
    for change in &changes {
        follow(&mut destination, change)?;
    }
    let fits =
        !changes.is_empty() && schema_change(situation.shape, &destination.columns).is_none();
    fits.then_some(Evolution { changes, destination })
}

/// Whether rows from before a column was added hold NULL in it.
fn is_null_in_old_rows(situation: &Situation, before: &Origin, column: &SourceColumn) -> bool {
    let source = situation.source;
    // What is said of a column of a parent may not hold for its children.
    let alone = source.kind == Kind::Table && !source.has_children;
    // A column may have been there, and not have been copied.
    let new = before.last_column.is_some_and(|last| column.number > last)
        && situation.rule.columns == ColumnChoice::All;
    alone && new && !column.filled && !column.generated
}

/// None where a column is not there, or one of that name is there already.
fn follow(table: &mut DestinationTable, change: &Change) -> Option<()> {
    let at = |table: &DestinationTable, name: &str| {
        table.columns.iter().position(|column| column.name == name)
    };
    match change {
        Change::Drop(column) => {
            table.columns.remove(at(table, column)?);
            table.unique_indexes.retain(|index| !index.columns.contains(column));
        }
        Change::Rename { from, to } => {
            let there = at(table, from).filter(|_| at(table, to).is_none())?;
            table.columns[there].name.clone_from(to);
            let indexed = table.unique_indexes.iter_mut().flat_map(|index| &mut index.columns);
            indexed.filter(|name| *name == from).for_each(|name| name.clone_from(to));
        }
        Change::Add(column) if at(table, &column.name).is_none() => {
            table.columns.push(column.clone());
        }
        Change::Add(_) => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MERGED, Setting, first_words};
    use super::*;
    use crate::table::{SourceTable, UniqueIndex};

    /// What is done where the source, and what the last copy was made with, were changed like this.
    fn followed(change: fn(&mut SourceTable), before: fn(&mut Origin)) -> Option<String> {
        let mut was = Setting::new(MERGED, true);
        before(&mut was.origin);
        let now = Setting::changed(MERGED, change);
        let situation = Situation { destination: Some(&was.destination), ..now.situation() };
        let evolution = evolution(&situation, &was.origin)?;
        let words = first_words(&evolution.steps(&situation));
        assert!(words.starts_with("SET ALTER"), "first the lock: {words}");
        let names = |columns: &[Column]| -> Vec<String> {
            columns.iter().map(|column| column.name.clone()).collect()
        };
        assert_eq!(names(&evolution.destination.columns), names(&situation.shape.columns));
        Some(evolution.described().replacen("the schema is changed in place: ", "", 1))
    }

    fn column(number: i16, name: &str) -> SourceColumn {
        let template = Setting::new(MERGED, true).source.columns[1].clone();
        SourceColumn { number, name: name.to_owned(), ..template }
    }

    #[test]
    fn what_keeps_every_value_is_followed_in_place() {
        let unchanged = |_: &mut Origin| {};
        let all = |change| followed(change, unchanged).unwrap();
        assert_eq!(all(|source| "z".clone_into(&mut source.columns[4].name)), "`d` is `z` now");
        assert_eq!(all(|source| drop(source.columns.pop())), "`d` is gone");
        assert_eq!(all(|source| source.columns.push(column(6, "e"))), "`e` is new");
        let at_once = |source: &mut SourceTable| {
            source.columns.remove(2);
            "b".clone_into(&mut source.columns[1].name);
            source.columns.push(column(6, "a"));
        };
        assert_eq!(all(at_once), "`b` is gone, `a` is `b` now, `a` is new");
    }

    #[test]
    fn whatever_may_change_a_value_is_copied_again() {
        let unchanged = |_: &mut Origin| {};
        let copied = |change| assert_eq!(followed(change, unchanged), None);
        copied(|_| {});
        copied(|source| source.columns[1].data_type.declared = "integer".to_owned());
        copied(|source| source.columns[1].data_type.parts = vec!["a".to_owned()]);
        copied(|source| source.oid = 2);
        copied(|source| source.columns.push(SourceColumn { filled: true, ..column(6, "e") }));
        copied(|source| source.columns.push(SourceColumn { generated: true, ..column(6, "e") }));
        copied(|source| {
            source.has_children = true;
            source.columns.push(column(6, "e"));
        });
        copied(|source| {
            source.kind = Kind::Partitioned;
            source.columns.push(column(6, "e"));
        });
        copied(|source| {
            source.kind = Kind::View;
            source.columns.pop();
        });
        // The replication key is another column.
        copied(|source| {
            let key = source.columns.iter().position(|column| column.name == "id").unwrap();
            "was".clone_into(&mut source.columns[key].name);
            source.columns.push(SourceColumn {
                number: 6,
                name: "id".to_owned(),
                ..source.columns[key].clone()
            });
        });
        // Two that change places would need a third name.
        copied(|source| {
            "b".clone_into(&mut source.columns[1].name);
            "a".clone_into(&mut source.columns[2].name);
        });
        let renamed = |source: &mut SourceTable| {
            source.kind = Kind::Partitioned;
            "z".clone_into(&mut source.columns[4].name);
        };
        assert_eq!(followed(renamed, unchanged).as_deref(), Some("`d` is `z` now"));
    }

    #[test]
    fn a_column_that_was_there_and_not_copied_is_not_new() {
        let added = |source: &mut SourceTable| source.columns.push(column(6, "e"));
        assert_eq!(followed(added, |origin| origin.last_column = Some(6)), None);
        assert_eq!(followed(added, |origin| origin.last_column = None), None);
        let another_filter = |origin: &mut Origin| origin.filter = Some("true".to_owned());
        assert_eq!(followed(|source| drop(source.columns.pop()), another_filter), None);
    }

    #[test]
    fn only_new_columns_need_rows_of_every_key() {
        let changed = |change| {
            let was = Setting::new(MERGED, true);
            let now = Setting::changed(MERGED, change);
            let situation = Situation { destination: Some(&was.destination), ..now.situation() };
            evolution(&situation, &was.origin).unwrap().adds()
        };
        assert!(changed(|source| source.columns.push(column(6, "e"))));
        assert!(!changed(|source| drop(source.columns.pop())));
    }

    #[test]
    fn a_new_column_refuses_null_only_when_its_rows_are_there() {
        let was = Setting::new(MERGED, true);
        let now = Setting::changed(MERGED, |source| {
            source.columns.push(SourceColumn { not_null: true, ..column(6, "e") });
        });
        let situation = Situation { destination: Some(&was.destination), ..now.situation() };
        let added = evolution(&situation, &was.origin).unwrap().destination.columns.pop().unwrap();
        assert_eq!((&*added.name, added.not_null), ("e", false));
    }

    #[test]
    fn an_index_follows_its_columns() {
        let index = |column: &str| UniqueIndex {
            name: column.to_owned(),
            columns: vec![column.to_owned()],
            immediate: true,
            nulls_not_distinct: false,
            equates: false,
        };
        let mut was = Setting::new(MERGED, true);
        was.destination.unique_indexes = vec![index("c"), index("d")];
        let now = Setting::changed(MERGED, |source| {
            source.columns.pop();
            "z".clone_into(&mut source.columns[3].name);
        });
        let situation = Situation { destination: Some(&was.destination), ..now.situation() };
        let evolution = evolution(&situation, &was.origin).unwrap();
        let [left] = &evolution.destination.unique_indexes[..] else { panic!("one is left") };
        assert_eq!(left.columns, ["z"]);
    }

    #[test]
    fn a_destination_that_differs_already_is_copied_again() {
        let mut was = Setting::new(MERGED, true);
        was.destination.columns.remove(4);
        let now = Setting::changed(MERGED, |source| drop(source.columns.pop()));
        let situation = Situation { destination: Some(&was.destination), ..now.situation() };
        assert_eq!(evolution(&situation, &was.origin), None);
        let mut was = Setting::new(MERGED, true);
        was.destination.columns[1].data_type = "xml".to_owned();
        let situation = Situation { destination: Some(&was.destination), ..now.situation() };
        assert_eq!(evolution(&situation, &was.origin), None);
        let now = Setting::changed(MERGED, |source| source.columns.push(column(6, "e")));
        let mut was = Setting::new(MERGED, true);
        let theirs = Column { name: "e".to_owned(), ..was.destination.columns[1].clone() };
        was.destination.columns.push(theirs);
        let situation = Situation { destination: Some(&was.destination), ..now.situation() };
        assert_eq!(evolution(&situation, &was.origin), None);
    }
}
