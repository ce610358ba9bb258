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

/// The values and NULL, unless a domain refuses that.
fn with_null<'a>(data_type: &str, values: &[&'a str]) -> Vec<&'a str> {
    let null = (!data_type.contains("domain")).then_some("NULL");
    values.iter().copied().chain(null).collect()
}

/// In each table a row for each pair of values, NULL among them: the first at the source, and the
/// second at the destination.
#[test]
fn every_value_is_told_from_every_other_by_its_digest() {
    let tables = VALUES.iter().enumerate().map(|(number, (data_type, values))| {
        let values = with_null(data_type, values);
        let count = values.len();
        let pairs = values.iter().enumerate().flat_map(|(one, value)| {
            (0..count).map(move |other| format!("({}, {value}::{data_type})", one * count + other))
        });
        format!(
            "CREATE TABLE type_{number} (id int PRIMARY KEY, value {data_type});
             INSERT INTO type_{number} VALUES {};",
            pairs.collect::<Vec<_>>().join(", ")
        )
    });
    let setup = format!("{TYPES} {}", tables.collect::<String>());
    let names: Vec<String> = (0..VALUES.len()).map(|number| format!("type_{number}")).collect();
    let rules: Vec<_> = names.iter().map(|name| json!({"name": name, "mode": "diff"})).collect();
    let mut case = Case::new(&setup, &json!(rules));
    case.sync();
    case.run(&["verify", "--quiet"]).expect(0);
    let printed = |name: &str| {
        format!(
            "SELECT CASE num_nulls(value) WHEN 0 THEN format('=%s', value) END FROM {name} ORDER BY id"
        )
    };
    let mut expected = Vec::new();
    for (name, (data_type, values)) in names.iter().zip(VALUES) {
        let count = with_null(data_type, values).len();
        let before = case.ask(&printed(name));
        case.at_destination(&format!(
            "UPDATE {name} AS row SET value = other.value FROM {name} AS other \
             WHERE other.id = row.id % {count} * {count}"
        ));
        let after = case.ask(&printed(name));
        expected.push(before.iter().zip(&after).filter(|(one, other)| one != other).count());
    }
    let run = case.run(&["verify", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    for ((table, expected), (data_type, _)) in
        document["tables"].as_array().expect("tables").iter().zip(expected).zip(VALUES)
    {
        assert_eq!(table["different"], expected, "{data_type}: {table}");
    }
    case.sync();
    case.run(&["verify", "--quiet"]).expect(0);
}
