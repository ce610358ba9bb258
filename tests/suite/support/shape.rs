//! Whether a destination table has the shape of its source: columns, types, NOT NULL, the index.

use std::collections::BTreeSet;

use postgres::Client;

use super::judge::{column, literal, quoted};
use super::model::{Deletes, Table};

/// What there is to know of a column, as the catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shape {
    name: String,
    data_type: String,
    not_null: bool,
    /// `e`num, `d`omain, `b`uilt in, or `o`ther: a type that becomes text or something else.
    kind: String,
}

fn shapes(client: &mut Client, table: &str) -> Vec<Shape> {
    let sql = format!(
        "SELECT a.attname || E'\\x01' || format_type(a.atttypid, a.atttypmod) || E'\\x01' || a.attnotnull || E'\\x01' || \
           CASE WHEN t.typtype IN ('e', 'd') THEN t.typtype::text \
                WHEN t.oid < 16384 AND t.typtype <> 'c' AND coalesce(e.oid, 0) < 16384 \
                 AND coalesce(e.typname, t.typname) !~ '^(reg|pg_|aclitem)' \
                 AND t.typname !~ 'multirange' AND n.nspname = 'pg_catalog' THEN 'b' ELSE 'o' END \
         FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace n ON n.oid = t.typnamespace \
         LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A' \
         WHERE a.attrelid = {}::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        literal(table)
    );
    column(client, &sql)
        .into_iter()
        .map(|line| {
            let mut fields = line.split('\u{1}').map(str::to_owned);
            let mut next = || fields.next().expect("a field");
            Shape { name: next(), data_type: next(), not_null: next() == "true", kind: next() }
        })
        .collect()
}

/// What a copy of a table is made from. Where it is another one, the table must be copied again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    oid: String,
    /// Name, number and type of each copied column.
    columns: BTreeSet<String>,
    /// The labels of each column that is an enum, behind its number.
    labels: BTreeSet<String>,
}

impl Origin {
    /// What the table is now.
    pub fn of(source: &mut Client, table: &Table, schema: &str) -> Self {
        let from = literal(&table.question(schema).table);
        let excluded = table.excluded.as_deref().map_or("NULL".to_owned(), literal);
        let mut ask = |sql: &str| column(source, sql).into_iter().collect::<BTreeSet<String>>();
        let attributes = format!(
            "FROM pg_attribute a WHERE a.attrelid = {from}::regclass AND a.attnum > 0 \
             AND NOT a.attisdropped AND a.attname IS DISTINCT FROM {excluded}"
        );
        let number = format!("SELECT {from}::regclass::oid::text");
        Self {
            oid: ask(&number).pop_first().unwrap_or_default(),
            columns: ask(&format!(
                "SELECT attname || ' ' || attnum || ' ' || format_type(atttypid, atttypmod) {attributes}"
            )),
            labels: ask(&format!(
                "SELECT attnum || ' ' || enumlabel FROM pg_enum \
                 JOIN (SELECT attnum, atttypid {attributes}) typed ON atttypid = enumtypid"
            )),
        }
    }

    /// Whether a copy made from here no longer serves.
    pub fn outdated_by(&self, now: &Self) -> bool {
        self.columns != now.columns || !self.differs_in_columns_alone(now)
    }

    /// Whether it is the same table, and its types read as they did. A new label of an enum changes
    /// no value, and neither do those of a column that is gone.
    pub fn differs_in_columns_alone(&self, now: &Self) -> bool {
        let number = |label: &String| label.split_once(' ').map(|(number, _)| number.to_owned());
        let typed: BTreeSet<_> = now.labels.iter().map(number).collect();
        let still = self.labels.iter().filter(|label| typed.contains(&number(label)));
        let read_alike = still.into_iter().all(|label| now.labels.contains(label));
        self.oid == now.oid && read_alike
    }
}

/// How the destination's shape differs from what it must be, if it does.
pub fn difference(
    source: &mut Client,
    destination: &mut Client,
    table: &Table,
    schema: &str,
    destination_major: u32,
) -> Option<String> {
    let (from, to) = (table.question(schema).table, table.question_there(schema).table);
    let wanted: Vec<Shape> = shapes(source, &from)
        .into_iter()
        .filter(|shape| Some(&shape.name) != table.excluded.as_ref())
        .collect();
    let mut found = shapes(destination, &to);
    if table.deletes == Deletes::Mark {
        match found.iter().position(|shape| shape.name == "_deleted_at") {
            Some(at) => drop(found.remove(at)),
            None => return Some("there is no column for marks".to_owned()),
        }
    }
    let names =
        |shapes: &[Shape]| shapes.iter().map(|shape| shape.name.clone()).collect::<Vec<_>>();
    if names(&wanted) != names(&found) {
        return Some(format!(
            "columns {:?} at the source, {:?} here",
            names(&wanted),
            names(&found)
        ));
    }
    for shape in &wanted {
        let there = found.iter().find(|there| there.name == shape.name)?;
        let expected = match shape.kind.as_str() {
            "e" => "text",
            "b" => &shape.data_type,
            "d" if shape.data_type == "measure" => "numeric(6,2)",
            _ => &there.data_type,
        };
        if there.data_type != expected {
            return Some(format!(
                "the column {} is {} and must be {expected}",
                shape.name, there.data_type
            ));
        }
        if there.not_null && !shape.not_null {
            return Some(format!("the column {} refuses NULL here and not there", shape.name));
        }
        let name = quoted(&shape.name);
        let nulls = format!("SELECT count(*) FROM {to} WHERE num_nulls({name}) > 0");
        if shape.not_null && !there.not_null && column(destination, &nulls) == ["0"] {
            return Some(format!("the column {} refuses NULL there and not here", shape.name));
        }
    }
    if table.versions {
        return None;
    }
    let by_index = !table.nullable_keys() || destination_major >= 15;
    (by_index && !has_index(destination, table, &to)).then(|| {
        format!("no unique index on ({}) at the destination", table.unique_names().join(", "))
    })
}

fn has_index(destination: &mut Client, table: &Table, to: &str) -> bool {
    let mut wanted = table.unique_names();
    wanted.sort();
    let sql = format!(
        "SELECT string_agg(a.attname, E'\\x01' ORDER BY a.attname COLLATE \"C\") FROM pg_index i \
         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) \
         WHERE i.indrelid = {}::regclass AND i.indisunique AND i.indpred IS NULL GROUP BY i.indexrelid",
        literal(to)
    );
    column(destination, &sql).contains(&wanted.join("\u{1}"))
}
