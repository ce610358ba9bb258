//! How a table is best copied, going by what its source says of it.

use crate::inspect::{Inspected, InspectedColumn};
use crate::report::{Chosen, ChosenRule};
use crate::table::{Kind, SourceColumn, SourceTable};
use crate::watermark::key::KeyType;

/// What the names of columns begin or end with that say when a row was changed.
const WORDS: [&str; 6] = ["updat", "modif", "chang", "mtime", "last_write", "touched"];

/// From this part of NULLs on a column is none that tells when a row was changed.
const TOO_MANY_NULLS: f64 = 0.5;

/// Chooses the unique columns and the replication key. `holds_null` tells whether a column that may
/// hold NULL does.
pub(super) fn choose(
    table: &SourceTable,
    inspected: Option<&Inspected>,
    mut holds_null: impl FnMut(&str) -> bool,
) -> Chosen {
    let mut rule = ChosenRule::of(&table.name.name);
    let (mut why, mut warnings) = (Vec::new(), Vec::new());
    let done = |rule: ChosenRule, why: Vec<String>, warnings: Vec<String>| Chosen {
        name: table.name.name.clone(),
        rule: Some(rule),
        why,
        warnings,
    };
    if table.primary_key().is_empty() || table.has_children {
        let Some(columns) = table.identities().min_by_key(|columns| columns.len()) else {
            rule.mode = Some("full-refresh");
            why.push("full-refresh, for nothing identifies its rows".to_owned());
            if table.kind == Kind::View {
                warnings.push("if some columns do, name them in \"unique_cols\"".to_owned());
            } else if table.is_large() {
                warnings.push("it is large: give it a primary key".to_owned());
            }
            return done(rule, why, warnings);
        };
        rule.unique_cols = columns.to_vec();
        why.push(format!("rows by the unique index on ({})", columns.join(", ")));
    }
    match best_key(table, inspected) {
        Some(candidate) => {
            rule.replication_key = Some(candidate.column.name.clone());
            why.insert(0, format!("`{}`, {}", candidate.column.name, candidate.reasons.join(", ")));
            warnings.extend(candidate.warnings(table, inspected, &mut holds_null));
        }
        None if table.lacks_xmin().is_none() => {
            rule.replication_key = Some("xmin".to_owned());
            why.insert(0, "xmin, for no column says when a row was changed".to_owned());
            if table.is_large() {
                warnings
                    .push("it is large, and each sync reads all of it at the source".to_owned());
            }
        }
        None => {
            rule.mode = Some("diff");
            why.insert(0, "diff, for no column says when a row was changed".to_owned());
        }
    }
    done(rule, why, warnings)
}

/// A column that may say when a row was changed.
struct Candidate<'a> {
    column: &'a SourceColumn,
    inspected: Option<&'a InspectedColumn>,
    reasons: Vec<String>,
    score: u32,
    rivals: Vec<String>,
}

fn best_key<'a>(table: &'a SourceTable, inspected: Option<&'a Inspected>) -> Option<Candidate<'a>> {
    let mut candidates: Vec<Candidate> =
        table.columns.iter().filter_map(|column| candidate(column, inspected)).collect();
    // The first of equals, as the table has them.
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.score));
    let rivals = candidates.iter().skip(1).map(|rival| rival.column.name.clone()).collect();
    let mut best = candidates.into_iter().next()?;
    best.rivals = rivals;
    Some(best)
}

fn candidate<'a>(
    column: &'a SourceColumn,
    inspected: Option<&'a Inspected>,
) -> Option<Candidate<'a>> {
    let name = column.name.to_lowercase();
    if !WORDS.iter().any(|word| name.contains(word)) {
        return None;
    }
    let (kind, mut score) = match KeyType::of(&column.data_type)? {
        KeyType::TimestampWithTimeZone => ("a timestamp with time zone", 40),
        KeyType::Timestamp => ("a timestamp", 30),
        KeyType::Integer if name.contains("by") => return None,
        KeyType::Integer => ("a number", 10),
        _ => return None,
    };
    let column_facts = inspected.and_then(|table| table.column(&column.name));
    if column_facts.and_then(|facts| facts.null_share).is_some_and(|share| share > TOO_MANY_NULLS) {
        return None;
    }
    let mut reasons = vec!["by its name".to_owned(), kind.to_owned()];
    // "updated_at" rather than "price_updated_at".
    score += if WORDS.iter().any(|word| name.starts_with(word)) { 8 } else { 0 };
    if column_facts.is_some_and(|facts| facts.indexed) {
        reasons.push("indexed".to_owned());
        score += 4;
    }
    if inspected.is_some_and(|table| table.set_on_update) {
        reasons.push("a trigger runs on UPDATE".to_owned());
    } else if column_facts.is_some_and(InspectedColumn::sets_itself) {
        reasons.push("with a default".to_owned());
    }
    if column_facts.is_some_and(InspectedColumn::sets_itself) {
        score += 2;
    }
    if column.not_null {
        reasons.push("never NULL".to_owned());
        score += 1;
    }
    Some(Candidate { column, inspected: column_facts, reasons, score, rivals: Vec::new() })
}

impl Candidate<'_> {
    fn warnings(
        &self,
        table: &SourceTable,
        inspected: Option<&Inspected>,
        holds_null: &mut impl FnMut(&str) -> bool,
    ) -> Vec<String> {
        let name = &self.column.name;
        let mut warnings = Vec::new();
        if !self.rivals.is_empty() {
            let rivals = self.rivals.join("`, `");
            warnings.push(format!("a guess: it could be `{rivals}` as well"));
        }
        let base = table.lacks_xmin().is_none();
        if base && !inspected.is_some_and(|table| table.set_on_update) {
            warnings.push(format!(
                "a guess: no trigger sets `{name}`, so make sure that every writer does"
            ));
        }
        if base && table.is_large() && !self.inspected.is_some_and(|c| c.indexed) {
            warnings.push(format!("it is large, and no index begins with `{name}`"));
        }
        if !self.column.not_null && holds_null(name) {
            warnings.push(format!("`{name}` is NULL in some rows"));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{BaseType, DataType, SourceIndex};

    fn column(name: &str, base: &str) -> SourceColumn {
        SourceColumn {
            name: name.to_owned(),
            number: 1,
            not_null: true,
            generated: false,
            filled: false,
            data_type: DataType {
                declared: base.to_owned(),
                base: BaseType {
                    oid: 20,
                    name: base.to_owned(),
                    kind: 'b',
                    formatted: base.to_owned(),
                },
                element: None,
                parts: Vec::new(),
            },
        }
    }

    fn table(columns: &[(&str, &str)], primary_key: &[&str]) -> SourceTable {
        SourceTable {
            columns: columns.iter().map(|(name, base)| column(name, base)).collect(),
            unique_indexes: match primary_key {
                [] => Vec::new(),
                columns => vec![SourceIndex::bare(columns, true)],
            },
            ..SourceTable::bare()
        }
    }

    fn rule(table: &SourceTable) -> String {
        choose(table, None, |_| false).rule.unwrap().to_string()
    }

    #[test]
    fn the_likeliest_column_is_the_key() {
        let columns = [
            ("id", "int8"),
            ("created_at", "timestamptz"),
            ("price_updated_at", "timestamptz"),
            ("updated_at", "timestamptz"),
            ("updated_by", "int8"),
            ("modified", "timestamp"),
        ];
        let found = choose(&table(&columns, &["id"]), None, |_| false);
        let wanted = r#"{ "name": "t", "replication_key": "updated_at" }"#;
        assert_eq!(found.rule.unwrap().to_string(), wanted);
        assert!(
            found.warnings[0].contains("`price_updated_at`, `modified`"),
            "{:?}",
            found.warnings
        );
        assert!(found.why[0].starts_with("`updated_at`, by its name"), "{:?}", found.why);
    }

    #[test]
    fn without_such_a_column_it_is_xmin_diff_or_a_copy() {
        let plain = table(&[("id", "int8"), ("note", "text"), ("updated_by", "int8")], &["id"]);
        assert_eq!(rule(&plain), r#"{ "name": "t", "replication_key": "xmin" }"#);
        let keyless = table(&[("note", "text")], &[]);
        assert_eq!(rule(&keyless), r#"{ "name": "t", "mode": "full-refresh" }"#);
        let unique = SourceTable {
            unique_indexes: vec![
                SourceIndex::bare(&["a", "b"], false),
                SourceIndex::bare(&["c"], false),
            ],
            ..table(&[("a", "int8"), ("b", "int8"), ("c", "int8")], &[])
        };
        let wanted = r#"{ "name": "t", "replication_key": "xmin", "unique_cols": ["c"] }"#;
        assert_eq!(rule(&unique), wanted);
        let foreign = SourceTable { kind: Kind::ForeignTable, ..unique };
        let wanted = r#"{ "name": "t", "unique_cols": ["c"], "mode": "diff" }"#;
        assert_eq!(rule(&foreign), wanted);
    }
}
