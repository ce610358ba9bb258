//! From the staging table into the destination table, and out of the staging table.

use super::{Qualified, identifier, identifiers};
use crate::fault::{Fault, planted};

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
}

impl Merge<'_> {
    /// One statement by the unique index. A row that is the same to the last bit is not written.
    ///
    /// `*<>` compares the stored images: `IS DISTINCT FROM` has no meaning for json, xml or
    /// point, and takes 1.0 for 1.00 and 0 for -0.
    #[must_use]
    pub fn by_unique_index(&self) -> String {
        let set: Vec<String> = self
            .set()
            .iter()
            .map(|column| format!("{0} = excluded.{0}", identifier(column)))
            .collect();
        format!(
            "INSERT INTO {table} AS destination ({columns})\n\
             SELECT {columns} FROM {staging}\n\
             ON CONFLICT ({keys}) DO UPDATE SET {set}\n\
             WHERE {differ}",
            table = self.table,
            staging = self.staging,
            columns = identifiers(self.columns.iter().copied()),
            keys = identifiers(self.unique_columns.iter().map(String::as_str)),
            set = set.join(", "),
            differ = self.differ("excluded"),
        )
    }

    /// Two statements, first the update, for keys that hold NULL on a server whose unique indexes
    /// cannot hold NULL equal to NULL (before 15).
    #[must_use]
    pub fn by_comparison(&self) -> [String; 2] {
        let set: Vec<String> = self
            .set()
            .iter()
            .map(|column| format!("{0} = staged.{0}", identifier(column)))
            .collect();
        let (table, staging) = (self.table, self.staging);
        let same = self.same_key();
        let columns = identifiers(self.columns.iter().copied());
        [
            format!(
                "UPDATE {table} AS destination SET {}\nFROM {staging} AS staged\nWHERE {same}\nAND {}",
                set.join(", "),
                self.differ("staged"),
            ),
            format!(
                "INSERT INTO {table} ({columns})\nSELECT {columns} FROM {staging} AS staged\n\
                 WHERE NOT EXISTS (SELECT FROM {table} AS destination WHERE {same})"
            ),
        ]
    }

    /// The columns that a merge sets.
    fn set(&self) -> &[&str] {
        match self.columns {
            [all_but_one @ .., _] if planted(Fault::ColumnForgotten) => all_but_one,
            all => all,
        }
    }

    fn differ(&self, other: &str) -> String {
        let of = |alias: &str| {
            let columns: Vec<String> = self
                .columns
                .iter()
                .map(|column| format!("{alias}.{}", identifier(column)))
                .collect();
            // Without the cast PostgreSQL would compare column by column, by other operators.
            format!("ROW({})::record", columns.join(", "))
        };
        let differs = if planted(Fault::EqualIsSame) {
            "IS DISTINCT FROM"
        } else {
            "OPERATOR(pg_catalog.*<>)"
        };
        format!("{} {differs} {}", of("destination"), of(other))
    }

    fn same_key(&self) -> String {
        let same = |column: &String| {
            let column = identifier(column);
            format!(
                "(destination.{column} = staged.{column} \
                 OR (destination.{column} IS NULL AND staged.{column} IS NULL))"
            )
        };
        self.unique_columns.iter().map(same).collect::<Vec<_>>().join(" AND ")
    }
}
