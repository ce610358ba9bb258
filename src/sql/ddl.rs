//! Tables, indexes and columns at the destination.

use super::{Qualified, identifier, identifiers, literal};
use crate::table::Column;

/// Makes a schema, if it is not there.
#[must_use]
pub fn create_schema(schema: &str) -> String {
    format!("CREATE SCHEMA IF NOT EXISTS {}", identifier(schema))
}

/// Makes a table with its NOT NULLs and nothing else. What `not_null_name` calls that of a column is its name,
/// where it has one. `storage` ends the statement.
#[must_use]
pub fn create_table(
    table: &Qualified,
    columns: &[Column],
    not_null_name: impl Fn(&str) -> Option<String>,
    storage: &str,
) -> String {
    let column = |column: &Column| {
        let not_null = match (column.not_null, not_null_name(&column.name)) {
            (false, _) => String::new(),
            (true, None) => " NOT NULL".to_owned(),
            (true, Some(name)) => format!(" CONSTRAINT {} NOT NULL", identifier(&name)),
        };
        format!("\n  {} {}{not_null}", identifier(&column.name), column.data_type)
    };
    let columns: Vec<String> = columns.iter().map(column).collect();
    format!("CREATE TABLE {table} ({}\n){storage}", columns.join(","))
}

/// What makes a staging table recognisable as ours.
pub const STAGING_COMMENT: &str = "staging table of incremental-replication; empty between syncs";

/// Makes a staging table: UNLOGGED, no constraints, left alone by autovacuum, which would only
/// get in the way of what empties it.
#[must_use]
pub fn create_staging(staging: &Qualified, columns: &[Column]) -> String {
    let column = |column: &Column| format!("\n  {} {}", identifier(&column.name), column.data_type);
    let columns: Vec<String> = columns.iter().map(column).collect();
    format!(
        "CREATE UNLOGGED TABLE {staging} ({}\n) WITH (autovacuum_enabled = false);\n{}",
        columns.join(","),
        comment_staging(staging)
    )
}

/// Makes a staging table recognisable as ours.
#[must_use]
pub fn comment_staging(staging: &Qualified) -> String {
    format!("COMMENT ON TABLE {staging} IS {}", literal(STAGING_COMMENT))
}

/// Removes a table, if it is there. PostgreSQL refuses where something depends on it.
#[must_use]
pub fn drop_table(table: &Qualified) -> String {
    format!("DROP TABLE IF EXISTS {table}")
}

/// Empties a table row by row, which leaves its file as large as it is.
#[must_use]
pub fn delete_all(table: &Qualified) -> String {
    format!("DELETE FROM {table}")
}

/// Empties a table at once.
#[must_use]
pub fn truncate(table: &Qualified) -> String {
    format!("TRUNCATE {table}")
}

/// Makes the unique index on the unique columns.
#[must_use]
pub fn create_unique_index(
    name: &str,
    table: &Qualified,
    columns: &[String],
    nulls_not_distinct: bool,
) -> String {
    format!(
        "CREATE UNIQUE INDEX {} ON {table} ({}){}",
        identifier(name),
        identifiers(columns.iter().map(String::as_str)),
        if nulls_not_distinct { " NULLS NOT DISTINCT" } else { "" },
    )
}

/// Makes an index on the unique columns, of which there may be several versions.
#[must_use]
pub fn create_index(name: &str, table: &Qualified, columns: &[String]) -> String {
    format!(
        "CREATE INDEX {} ON {table} ({})",
        identifier(name),
        identifiers(columns.iter().map(String::as_str)),
    )
}

/// Drops an index. PostgreSQL refuses where something depends on it.
#[must_use]
pub fn drop_index(index: &Qualified) -> String {
    format!("DROP INDEX {index}")
}

/// Gives an index another name.
#[must_use]
pub fn rename_index(index: &Qualified, name: &str) -> String {
    format!("ALTER INDEX {index} RENAME TO {}", identifier(name))
}

/// Whether there is a table, an index or the like of that name: one row, one boolean.
#[must_use]
pub fn is_there(relation: &Qualified) -> String {
    format!("SELECT to_regclass({}) IS NOT NULL", literal(&relation.to_string()))
}

/// Adds a column that may be NULL, which writes no row.
#[must_use]
pub fn add_column(table: &Qualified, column: &str, data_type: &str) -> String {
    format!("ALTER TABLE {table} ADD COLUMN {} {data_type}", identifier(column))
}

/// Drops a column. PostgreSQL refuses where something depends on it.
#[must_use]
pub fn drop_column(table: &Qualified, column: &str) -> String {
    format!("ALTER TABLE {table} DROP COLUMN {}", identifier(column))
}

/// Gives a column another name, which what depends on it follows.
#[must_use]
pub fn rename_column(table: &Qualified, from: &str, to: &str) -> String {
    format!("ALTER TABLE {table} RENAME COLUMN {} TO {}", identifier(from), identifier(to))
}

/// Gathers statistics for the planner.
#[must_use]
pub fn analyze(table: &Qualified) -> String {
    format!("ANALYZE {table}")
}

/// Lets a column hold NULL.
#[must_use]
pub fn drop_not_null(table: &Qualified, column: &str) -> String {
    format!("ALTER TABLE {table} ALTER COLUMN {} DROP NOT NULL", identifier(column))
}

/// Whether a column holds NULL: one row, one boolean. A composite of nothing but NULLs is none.
#[must_use]
pub fn holds_null(table: &Qualified, column: &str) -> String {
    format!(
        "SELECT EXISTS (SELECT FROM {table} AS there WHERE num_nulls({}) > 0)",
        identifier(column)
    )
}

/// Makes a column refuse NULL.
#[must_use]
pub fn set_not_null(table: &Qualified, column: &str) -> String {
    format!("ALTER TABLE {table} ALTER COLUMN {} SET NOT NULL", identifier(column))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_wherever_they_stand() {
        let (table, name) = (Qualified::new("s", "t\"t"), "a b");
        assert_eq!(create_schema(name), r#"CREATE SCHEMA IF NOT EXISTS "a b""#);
        assert_eq!(drop_table(&table), r#"DROP TABLE IF EXISTS "s"."t""t""#);
        assert_eq!(delete_all(&table), r#"DELETE FROM "s"."t""t""#);
        assert_eq!(truncate(&table), r#"TRUNCATE "s"."t""t""#);
        assert_eq!(analyze(&table), r#"ANALYZE "s"."t""t""#);
        let alter = |rest: &str| format!(r#"ALTER TABLE "s"."t""t" {rest}"#);
        let added = alter(r#"ADD COLUMN "a b" integer"#);
        assert_eq!(add_column(&table, name, "integer"), added);
        let dropped = alter(r#"ALTER COLUMN "a b" DROP NOT NULL"#);
        assert_eq!(drop_not_null(&table, name), dropped);
        assert_eq!(set_not_null(&table, name), alter(r#"ALTER COLUMN "a b" SET NOT NULL"#));
        let index = r#"CREATE UNIQUE INDEX "i" ON "s"."t""t" ("a b", "c")"#;
        let columns = ["a b".to_owned(), "c".to_owned()];
        assert_eq!(create_unique_index("i", &table, &columns, false), index);
        let nulls = format!("{index} NULLS NOT DISTINCT");
        assert_eq!(create_unique_index("i", &table, &columns, true), nulls);
        assert_eq!(create_index("i", &table, &columns), index.replace("UNIQUE ", ""));
        assert_eq!(drop_index(&table), r#"DROP INDEX "s"."t""t""#);
        assert_eq!(rename_index(&table, name), r#"ALTER INDEX "s"."t""t" RENAME TO "a b""#);
        assert_eq!(is_there(&table), r#"SELECT to_regclass('"s"."t""t"') IS NOT NULL"#);
        let null = r#"SELECT EXISTS (SELECT FROM "s"."t""t" AS there WHERE num_nulls("a b") > 0)"#;
        assert_eq!(holds_null(&table, name), null);
    }
}
