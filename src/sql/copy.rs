//! COPY statements for both ends, and the question for the greatest replication key.

use super::{Qualified, identifier, identifiers, literal};
use crate::fault::{Fault, planted};

/// How rows are written on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// PostgreSQL's text format.
    Text,
    /// PostgreSQL's binary format.
    Binary,
}

/// What is read from a source table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The table.
    pub table: Qualified,
    /// Its columns, in the order they travel.
    pub columns: Vec<Selected>,
    /// The user's own condition, in SQL.
    pub filter: Option<String>,
    /// A condition of ours, such as the one on the replication key.
    pub condition: Option<String>,
    /// Another, for rows that are read beside those. In one query with the first, it would have the planner
    /// read all partitions whole, although it concerns a few.
    pub apart: Option<String>,
}

/// A column on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// The column's name.
    pub name: String,
    /// The type the source casts it to, where its text alone would mislead.
    pub cast: Option<String>,
}

impl Selection {
    /// All rows of a table, for questions about them.
    #[must_use]
    pub fn all_of(table: &Qualified) -> Self {
        Self {
            table: table.clone(),
            columns: Vec::new(),
            filter: None,
            condition: None,
            apart: None,
        }
    }

    /// The query that reads the rows.
    #[must_use]
    pub fn query(&self) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|column| match &column.cast {
                Some(cast) => format!("{}::{cast}", identifier(&column.name)),
                None => identifier(&column.name),
            })
            .collect();
        self.reading(&columns.join(", "))
    }

    fn reading(&self, what: &str) -> String {
        let condition = self.condition.as_ref().map(|condition| format!("({condition})"));
        let query = |conditions: String| format!("SELECT {what} FROM {}{conditions}", self.table);
        let rows = query(self.conditions(condition.as_ref()));
        let Some((apart, condition)) = self.apart.as_ref().zip(condition) else { return rows };
        let apart = format!("({apart}) AND {condition} IS NOT TRUE");
        format!("{rows} UNION ALL {}", query(self.conditions(Some(&apart))))
    }

    fn conditions(&self, ours: Option<&String>) -> String {
        // The line end keeps a comment at the end of the user's text from swallowing the bracket.
        let filter = self.filter.as_ref().map(|filter| format!("({filter}\n)"));
        let all: Vec<String> = filter.into_iter().chain(ours.cloned()).collect();
        if all.is_empty() { String::new() } else { format!(" WHERE {}", all.join(" AND ")) }
    }

    /// How many rows the server expects: one row, JSON.
    #[must_use]
    pub fn explain(&self) -> String {
        format!("EXPLAIN (FORMAT JSON) {}", self.query())
    }

    /// Whether there is any such row: one row, one boolean.
    ///
    /// As if all of them were wanted: a planner that wants but one may read a whole table in the
    /// hope of meeting it soon.
    #[must_use]
    pub fn any(&self) -> String {
        format!(
            "WITH found AS MATERIALIZED ({}) SELECT EXISTS (SELECT FROM found)",
            self.reading("1")
        )
    }

    /// The source's half of a copy.
    #[must_use]
    pub fn copy_out(&self, format: Format) -> String {
        format!("COPY ({}) TO STDOUT{}", self.query(), options(format, false))
    }

    /// Finds one set of values that several rows share although they should identify a row, if a
    /// row read by this selection is among them. One row: the values as text, and how many.
    #[must_use]
    pub fn shared_key(&self, unique_columns: &[String]) -> String {
        let keys = identifiers(unique_columns.iter().map(String::as_str));
        let filter = self.filter.as_ref().map(|filter| format!(" WHERE ({filter}\n)"));
        let concerns_us = self.condition.as_ref().map(|condition| match &self.apart {
            None => format!(" AND bool_or(({condition}) IS TRUE)"),
            Some(apart) => format!(" AND bool_or(({condition}) IS TRUE OR ({apart}) IS TRUE)"),
        });
        format!(
            "SELECT ROW({keys})::text, count(*) FROM {}{} GROUP BY {keys} HAVING count(*) > 1{} LIMIT 1",
            self.table,
            filter.unwrap_or_default(),
            concerns_us.unwrap_or_default(),
        )
    }
}

/// The destination's half of a copy. `frozen` rows are visible to older snapshots too, which a
/// table made in the same transaction needs: else a reader who began before sees it empty.
#[must_use]
pub fn copy_in(table: &Qualified, columns: &[&str], format: Format, frozen: bool) -> String {
    let list = if columns.is_empty() {
        String::new()
    } else {
        format!(" ({})", identifiers(columns.iter().copied()))
    };
    format!("COPY {table}{list} FROM STDIN{}", options(format, frozen))
}

fn options(format: Format, frozen: bool) -> &'static str {
    match (format, frozen) {
        (Format::Text, false) => "",
        (Format::Text, true) if planted(Fault::NotFrozen) => "",
        (Format::Binary, true) if planted(Fault::NotFrozen) => " (FORMAT binary)",
        (Format::Text, true) => " (FREEZE)",
        (Format::Binary, false) => " (FORMAT binary)",
        (Format::Binary, true) => " (FORMAT binary, FREEZE)",
    }
}

/// Rows whose key is at or above what an SQL expression says, and rows without a key.
#[must_use]
pub fn from_key(column: &str, bound: &str) -> String {
    let column = identifier(column);
    let at_or_above = if planted(Fault::KeyAbove) { ">" } else { ">=" };
    let or_null = if planted(Fault::NullKeysForgotten) {
        String::new()
    } else {
        format!(" OR {column} IS NULL")
    };
    format!("{column} {at_or_above} {bound}{or_null}")
}

/// Rows that a condition finds, or that lie in one of these tables, whatever the condition says.
#[must_use]
pub fn or_in_tables(condition: &str, oids: &[u32]) -> String {
    format!("({condition}) OR {}", in_tables(oids))
}

/// Rows that lie in one of these tables.
#[must_use]
pub fn in_tables(oids: &[u32]) -> String {
    let oids: Vec<String> = oids.iter().map(u32::to_string).collect();
    format!("tableoid IN ({})", oids.join(", "))
}

/// The greatest key as text, at most one row. `limit` is an SQL condition on `{key}` that keeps
/// out what must not move a watermark.
#[must_use]
pub fn greatest_key(table: &Qualified, column: &str, limit: Option<&str>) -> String {
    // Unqualified, ORDER BY would mean the text in the list of results.
    let key = format!("source.{}", identifier(column));
    let condition = can_be_a_watermark(&key, limit);
    format!(
        "SELECT {key}::text FROM {table} AS source WHERE {condition} ORDER BY {key} DESC LIMIT 1"
    )
}

/// The condition on rows whose `key`, as SQL, may become a watermark.
#[must_use]
pub fn can_be_a_watermark(key: &str, limit: Option<&str>) -> String {
    match limit {
        Some(limit) => limit.replace("{key}", key),
        None => format!("{key} IS NOT NULL"),
    }
}

/// Whether there is a key that the condition `limit` keeps out: one row, one boolean.
#[must_use]
pub fn beyond(table: &Qualified, column: &str, limit: &str) -> String {
    let key = format!("source.{}", identifier(column));
    let within = limit.replace("{key}", &key);
    // From the greatest down, so that an index shows them first.
    format!(
        "SELECT coalesce((SELECT NOT ({within}) FROM {table} AS source \
         WHERE {key} IS NOT NULL ORDER BY {key} DESC LIMIT 1), false)"
    )
}

/// Whether the ten greatest keys all meet the condition `what` on `{key}`: one row, one boolean.
#[must_use]
pub fn greatest_are(table: &Qualified, column: &str, what: &str) -> String {
    let key = format!("source.{}", identifier(column));
    let meets = what.replace("{key}", "greatest.key");
    format!(
        "SELECT coalesce(bool_and({meets}), false) FROM (SELECT {key} AS key FROM {table} AS source \
         WHERE {key} IS NOT NULL ORDER BY {key} DESC LIMIT 10) AS greatest"
    )
}

/// Whether there is a row without a key: one row, one boolean.
#[must_use]
pub fn holds_null_key(table: &Qualified, column: &str) -> String {
    format!("SELECT EXISTS (SELECT FROM {table} WHERE {} IS NULL)", identifier(column))
}

/// Which of two keys is the lower, as text: one row.
#[must_use]
pub fn lower_key(one: &str, other: &str, key_type: &str) -> String {
    format!("SELECT least({}::{key_type}, {}::{key_type})::text", literal(one), literal(other))
}

/// Whether a table has come as far as a key: one row, one boolean.
#[must_use]
pub fn has_reached(table: &Qualified, column: &str, value: &str, key_type: &str) -> String {
    let column = identifier(column);
    format!("SELECT EXISTS (SELECT FROM {table} WHERE {column} >= {}::{key_type})", literal(value))
}

/// Whether a table has no row: one row, one boolean.
#[must_use]
pub fn is_empty(table: &Qualified) -> String {
    format!("SELECT NOT EXISTS (SELECT FROM {table})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_for_keys_quote_what_they_name() {
        let table = Qualified::new("s", "t");
        assert_eq!(
            greatest_key(&table, "at", None),
            r#"SELECT source."at"::text FROM "s"."t" AS source WHERE source."at" IS NOT NULL ORDER BY source."at" DESC LIMIT 1"#
        );
        assert_eq!(
            beyond(&table, "at", "{key} < 'NaN'"),
            r#"SELECT coalesce((SELECT NOT (source."at" < 'NaN') FROM "s"."t" AS source WHERE source."at" IS NOT NULL ORDER BY source."at" DESC LIMIT 1), false)"#
        );
        let null = r#"SELECT EXISTS (SELECT FROM "s"."t" WHERE "at" IS NULL)"#;
        assert_eq!(holds_null_key(&table, "at"), null);
        let lower = "SELECT least('it''s'::text, '7'::text)::text";
        assert_eq!(lower_key("it's", "7", "text"), lower);
        let reached = r#"SELECT EXISTS (SELECT FROM "s"."t" WHERE "at" >= '7'::integer)"#;
        assert_eq!(has_reached(&table, "at", "7", "integer"), reached);
        assert_eq!(is_empty(&table), r#"SELECT NOT EXISTS (SELECT FROM "s"."t")"#);
    }

    #[test]
    fn a_selection_is_read_explained_and_asked_for_any_row() {
        let mut rows = Selection {
            table: Qualified::new("s", "t"),
            columns: vec![
                Selected { name: "id".to_owned(), cast: None },
                Selected { name: "x".to_owned(), cast: Some("text[]".to_owned()) },
            ],
            filter: Some("a > 1 -- all".to_owned()),
            condition: None,
            apart: None,
        };
        let query = "SELECT \"id\", \"x\"::text[] FROM \"s\".\"t\" WHERE (a > 1 -- all\n)";
        assert_eq!(rows.query(), query);
        assert_eq!(rows.explain(), format!("EXPLAIN (FORMAT JSON) {query}"));
        assert_eq!(rows.copy_out(Format::Text), format!("COPY ({query}) TO STDOUT"));
        rows.condition = Some("b".to_owned());
        assert_eq!(rows.query(), format!("{query} AND (b)"));
        assert!(
            rows.any().ends_with("AND (b)) SELECT EXISTS (SELECT FROM found)"),
            "{}",
            rows.any()
        );
        rows.apart = Some("c OR d".to_owned());
        let both = format!("{query} AND (b) UNION ALL {query} AND (c OR d) AND (b) IS NOT TRUE");
        assert_eq!(rows.query(), both);
        let shared = rows.shared_key(&["id".to_owned()]);
        assert!(shared.contains("AND bool_or((b) IS TRUE OR (c OR d) IS TRUE)"), "{shared}");
    }
}
