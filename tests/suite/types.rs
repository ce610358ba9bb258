//! Every type of PostgreSQL arrives as it was, by pg_dump and by COPY, at first and in a merge.

use serde_json::json;

use crate::support::case::Case;
use crate::support::snapshot;
use crate::support::values::{TYPES, VALUES};

/// One table a type: an error then names the type.
fn setup() -> String {
    let tables = VALUES.iter().enumerate().map(|(number, (data_type, values))| {
        let rows: Vec<String> = values
            .iter()
            .enumerate()
            .map(|(id, value)| format!("({id}, {id}, {value}::{data_type})"))
            .collect();
        format!(
            "CREATE TABLE type_{number} (id int PRIMARY KEY, at int, value {data_type});
             INSERT INTO type_{number} VALUES {};",
            rows.join(", ")
        )
    });
    format!("{TYPES} {}", tables.collect::<String>())
}

fn check(initial: &str) {
    let tables: Vec<_> = (0..VALUES.len()).map(|number| format!("type_{number}")).collect();
    let rules: Vec<_> = tables.iter().map(|name| json!({"name": name})).collect();
    let mut case = Case::new(
        &setup(),
        &json!({"defaults": {"replication_key": "at", "initial": initial}, "tables": rules}),
    );
    case.sync();
    for table in &tables {
        case.assert_equal(&format!("public.{table}"));
    }
    // Every row is written again, so that all of it goes through the staging table.
    for table in &tables {
        case.at_source(&format!("UPDATE {table} SET at = at + 100"));
    }
    case.at_destination("UPDATE type_0 SET value = 0");
    let run = case.sync();
    assert!(!run.stdout.contains("initial sync"), "{}", run.stdout);
    for table in &tables {
        case.assert_equal(&format!("public.{table}"));
    }
    let run = case.sync();
    assert_eq!(run.stdout.matches("sync done: 0 rows").count(), tables.len(), "{}", run.stdout);
    case.assert_nothing_left();
}

#[test]
fn every_value_arrives_as_it_was_by_pg_dump() {
    check("pg_dump");
}

#[test]
fn every_value_arrives_as_it_was_by_copy() {
    check("copy");
}

#[test]
fn a_destination_column_has_the_sources_type_or_the_one_that_stands_for_it() {
    let mut case = Case::new(
        &setup(),
        &json!(
            (0..VALUES.len())
                .map(|number| json!({"name": format!("type_{number}"), "mode": "full-refresh"}))
                .collect::<Vec<_>>()
        ),
    );
    case.sync();
    let mapped: String = VALUES
        .iter()
        .enumerate()
        .map(|(number, (data_type, _))| {
            let there = case.ask(&format!(
                "SELECT format_type(atttypid, atttypmod) FROM pg_attribute \
                 WHERE attrelid = 'type_{number}'::regclass AND attname = 'value'"
            ));
            format!("{data_type} -> {}\n", there[0])
        })
        .collect();
    snapshot("mapping__types", &mapped);
}
