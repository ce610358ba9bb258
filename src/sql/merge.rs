//! From the staging table into the destination table, and out of the staging table.

use super::{Qualified, identifier, identifiers};
use crate::fault::{Fault, planted};
use crate::table::DELETED_AT;

/// What is merged.
#[derive(Clone, Copy, Debug)]
pub struct Merge<'a> {
    /// The destination table.
    pub table: &'a Qualified,
    /// Its staging table.
    pub staging: &'a Qualified,
    /// All columns.
    pub columns: &'a [&'a str],
    /// The columns that identify a row.
    pub unique_columns: &'a [String],
    /// Whether one of those may be NULL.
    pub nullable_keys: bool,
    /// The replication key, if it is among the columns: where it is another one, so is the row.
    pub replication_key: Option<&'a str>,
    /// Whether rows may be marked as deleted; one that comes back is not any more.
    pub marks: bool,
}

impl Merge<'_> {
    /// One statement by the unique index. A row that is the same to the last bit is not written.
    ///
    /// `*<>` compares the stored images: `IS DISTINCT FROM` has no meaning for json, xml or
    /// point, and takes 1.0 for 1.00 and 0 for -0.
    #[must_use]
    pub fn by_unique_index(&self) -> String {
        format!(
            "INSERT INTO {table} AS destination ({columns})\n\
             SELECT {columns} FROM {staging}\n\
             ON CONFLICT ({keys}) DO UPDATE SET {set}\n\
             WHERE {differ}",
            table = self.table,
            staging = self.staging,
            columns = identifiers(self.columns.iter().copied()),
            keys = identifiers(self.unique_columns.iter().map(String::as_str)),
            set = self.set("excluded"),
            differ = self.differ("excluded"),
        )
    }

    /// Two statements, first the update, for keys that hold NULL on a server whose unique indexes
    /// cannot hold NULL equal to NULL (before 15).
    #[must_use]
    pub fn by_comparison(&self) -> [String; 2] {
        let (table, staging) = (self.table, self.staging);
        let same = self.same_key();
        let columns = identifiers(self.columns.iter().copied());
        [
            format!(
                "UPDATE {table} AS destination SET {}\nFROM {staging} AS staged\nWHERE {same}\nAND {}",
                self.set("staged"),
                self.differ("staged"),
            ),
            format!(
                "INSERT INTO {table} ({columns})\nSELECT {columns} FROM {staging} AS staged\n\
                 WHERE NOT EXISTS (SELECT FROM {table} AS destination WHERE {same})"
            ),
        ]
    }

    /// One statement that adds every staged row.
    #[must_use]
    pub fn all(&self) -> String {
        let columns = identifiers(self.columns.iter().copied());
        // A table may have no columns at all, and then no list of them.
        let list = if columns.is_empty() { String::new() } else { format!(" ({columns})") };
        format!("INSERT INTO {}{list}\nSELECT {columns} FROM {}", self.table, self.staging)
    }

    /// One statement that adds every staged version of a row that is not there already, the same
    /// to the last bit.
    #[must_use]
    pub fn new_versions(&self) -> String {
        if planted(Fault::VersionAddedTwice) {
            return self.all();
        }
        format!(
            "{} AS staged\nWHERE NOT EXISTS (SELECT FROM {} AS destination\n  \
             WHERE {} AND {} OPERATOR(pg_catalog.*=) {})",
            self.all(),
            self.table,
            self.same_key(),
            self.record("destination"),
            self.record("staged"),
        )
    }

    /// What a merge sets.
    fn set(&self, other: &str) -> String {
        let columns = match self.columns {
            [all_but_one @ .., _] if planted(Fault::ColumnForgotten) => all_but_one,
            all => all,
        };
        let unmarked = self.marks.then(|| format!("{} = NULL", identifier(DELETED_AT)));
        let set = columns.iter().map(|column| {
            let column = identifier(column);
            format!("{column} = {other}.{column}")
        });
        set.chain(unmarked).collect::<Vec<_>>().join(", ")
    }

    fn record(&self, alias: &str) -> String {
        let columns: Vec<String> =
            self.columns.iter().map(|column| format!("{alias}.{}", identifier(column))).collect();
        // Without the cast PostgreSQL would compare column by column, by other operators.
        format!("ROW({})::record", columns.join(", "))
    }

    fn differ(&self, other: &str) -> String {
        let differs = if planted(Fault::EqualIsSame) {
            "IS DISTINCT FROM"
        } else {
            "OPERATOR(pg_catalog.*<>)"
        };
        let differ = format!("{} {differs} {}", self.record("destination"), self.record(other));
        // Most rows that travel have another key than before, and to compare that is less than to
        // compare two whole rows.
        let moved = self.replication_key.filter(|_| !planted(Fault::EqualIsSame)).map(|key| {
            let key = identifier(key);
            format!("destination.{key} IS DISTINCT FROM {other}.{key}")
        });
        let marked =
            self.marks.then(|| format!("destination.{} IS NOT NULL", identifier(DELETED_AT)));
        let any: Vec<String> = moved.into_iter().chain([differ]).chain(marked).collect();
        if any.len() == 1 { any.concat() } else { format!("({})", any.join(" OR ")) }
    }

    fn same_key(&self) -> String {
        let same = |column: &String| {
            let column = identifier(column);
            if !self.nullable_keys {
                return format!("destination.{column} = staged.{column}");
            }
            format!(
                "(destination.{column} = staged.{column} \
                 OR (destination.{column} IS NULL AND staged.{column} IS NULL))"
            )
        };
        self.unique_columns.iter().map(same).collect::<Vec<_>>().join(" AND ")
    }
}

/// Removes all but one of the rows that share their unique columns, marked ones first.
#[must_use]
pub fn remove_shared(table: &Qualified, unique_columns: &[String]) -> String {
    let columns = identifiers(unique_columns.iter().map(String::as_str));
    format!(
        "DELETE FROM {table} WHERE ctid IN (\n  SELECT ctid FROM (SELECT ctid, row_number() OVER (\n    \
         PARTITION BY {columns} ORDER BY {} DESC NULLS FIRST) AS number\n  \
         FROM {table}) AS numbered WHERE number > 1)",
        identifier(DELETED_AT)
    )
}
