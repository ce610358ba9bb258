//! Rows that are written.

use fastrand::Rng;

use super::Operation;
use crate::support::judge::quoted;
use crate::support::ledger::Found;
use crate::support::model::{Table, value};
use crate::support::world::{Outcome, World};

pub const OPERATIONS: &[Operation] = &[
    Operation { name: "insert", weight: 10, run: |w, r| write(w, r, insert) },
    Operation { name: "upsert", weight: 5, run: |w, r| write(w, r, upsert) },
    Operation { name: "update", weight: 8, run: |w, r| write(w, r, update) },
    Operation {
        name: "update_without_key",
        weight: 3,
        run: |w, r| write(w, r, update_without_key),
    },
    Operation {
        name: "update_unique_columns",
        weight: 4,
        run: |w, r| write(w, r, update_unique_columns),
    },
    Operation { name: "delete", weight: 4, run: |w, r| write(w, r, delete) },
    Operation { name: "delete_and_insert", weight: 2, run: |w, r| write(w, r, delete_and_insert) },
    Operation {
        name: "insert_strange_key",
        weight: 3,
        run: |w, r| write(w, r, insert_strange_key),
    },
    Operation { name: "insert_old_key", weight: 2, run: |w, r| write(w, r, insert_old_key) },
    Operation { name: "forget_key", weight: 2, run: |w, r| write(w, r, forget_key) },
    Operation { name: "update_all", weight: 2, run: |w, r| write(w, r, update_all) },
    Operation { name: "insert_many", weight: 2, run: insert_many },
    Operation { name: "truncate", weight: 1, run: truncate },
    Operation { name: "load_again", weight: 3, run: load_again },
    Operation { name: "rewrite", weight: 1, run: rewrite },
];

/// A statement that writes to a table, and what a sync owes to it.
pub fn statement(table: &Table, rng: &mut Rng) -> (String, Found) {
    let writes =
        [insert, insert, upsert, update, update, update_unique_columns, delete, insert_strange_key];
    writes[rng.usize(..writes.len())](table, rng)
}

fn write(
    world: &mut World,
    rng: &mut Rng,
    statement: fn(&Table, &mut Rng) -> (String, Found),
) -> Outcome {
    let at = world.draw_table(rng);
    let (sql, found) = statement(&world.tables[at], rng);
    world.at_source(&sql);
    Ok(found)
}

/// The names and the values of a new row.
fn row(table: &Table, key: Option<&str>, rng: &mut Rng) -> (Vec<String>, Vec<String>) {
    let mut names: Vec<String> = table.unique_names().iter().map(|name| quoted(name)).collect();
    let mut values: Vec<String> =
        table.columns[..table.unique].iter().map(|column| value(column, rng)).collect();
    if let (Some(region), true) = (values.last_mut(), !table.regions.is_empty()) {
        *region = table.regions[rng.usize(..table.regions.len())].to_string();
    }
    for column in table.writable() {
        names.push(quoted(&column.name));
        values.push(value(column, rng));
    }
    if let Some(own) = &table.key {
        names.push(quoted(&own.column));
        values.push(key.unwrap_or(own.grows).to_owned());
    }
    (names, values)
}

fn insert_with(table: &Table, key: Option<&str>, rng: &mut Rng) -> String {
    let (names, values) = row(table, key, rng);
    let name = table.stored();
    format!("INSERT INTO {name} ({}) VALUES ({})", names.join(", "), values.join(", "))
}

fn insert(table: &Table, rng: &mut Rng) -> (String, Found) {
    let many: Vec<String> = (0..rng.u32(1..3))
        .map(|_| insert_with(table, None, rng) + " ON CONFLICT DO NOTHING")
        .collect();
    (many.join("; "), Found::Surely)
}

fn upsert(table: &Table, rng: &mut Rng) -> (String, Found) {
    let insert = insert_with(table, None, rng);
    if table.nullable_unique {
        return (insert + " ON CONFLICT DO NOTHING", Found::Surely);
    }
    let unique: Vec<String> = table.unique_names().iter().map(|name| quoted(name)).collect();
    let sql = format!(
        "{insert} ON CONFLICT ({}) DO UPDATE SET {}",
        unique.join(", "),
        set(table, true, rng)
    );
    (sql, Found::Surely)
}

/// Assignments to some columns, and to the key where it shall move.
fn set(table: &Table, moves: bool, rng: &mut Rng) -> String {
    let mut assignments = Vec::new();
    for column in table.writable() {
        if rng.bool() {
            assignments.push(format!("{} = {}", quoted(&column.name), value(column, rng)));
        }
    }
    match &table.key {
        Some(key) if moves => assignments.push(format!("{} = {}", quoted(&key.column), key.grows)),
        Some(key) if assignments.is_empty() => {
            assignments.push(format!("{0} = {0}", quoted(&key.column)));
        }
        _ => {}
    }
    assignments.join(", ")
}

/// A condition on a few rows of a table, whatever is in them.
fn some(table: &Table, most: u32, rng: &mut Rng) -> String {
    let by: Vec<String> = table.unique_names().iter().map(|name| quoted(name)).collect();
    let offset = rng.usize(..table.ledger.now().len().max(1));
    format!(
        "(tableoid, ctid) IN (SELECT tableoid, ctid FROM {} ORDER BY {} LIMIT {} OFFSET {offset})",
        table.stored(),
        by.join(", "),
        rng.u32(1..=most)
    )
}

fn update(table: &Table, rng: &mut Rng) -> (String, Found) {
    let sql = format!(
        "UPDATE {} SET {} WHERE {}",
        table.stored(),
        set(table, true, rng),
        some(table, 3, rng)
    );
    (sql, Found::Surely)
}

fn update_without_key(table: &Table, rng: &mut Rng) -> (String, Found) {
    let sql = format!(
        "UPDATE {} SET {} WHERE {}",
        table.stored(),
        set(table, false, rng),
        some(table, 3, rng)
    );
    (sql, Found::Perhaps)
}

fn update_unique_columns(table: &Table, rng: &mut Rng) -> (String, Found) {
    let column = &table.columns[rng.usize(..table.unique)];
    let to = value(column, rng);
    let sql = format!(
        "UPDATE {} SET {} = {to}, {} WHERE {}",
        table.stored(),
        quoted(&column.name),
        set(table, true, rng),
        some(table, 1, rng)
    );
    (sql, Found::Surely)
}

fn delete(table: &Table, rng: &mut Rng) -> (String, Found) {
    (format!("DELETE FROM {} WHERE {}", table.stored(), some(table, 4, rng)), Found::Surely)
}

fn delete_and_insert(table: &Table, rng: &mut Rng) -> (String, Found) {
    let (delete, _) = delete(table, rng);
    let (insert, _) = insert(table, rng);
    (format!("{delete}; {insert}"), Found::Surely)
}

fn insert_strange_key(table: &Table, rng: &mut Rng) -> (String, Found) {
    let beyond = table.key.as_ref().map_or(&[][..], |key| key.beyond);
    let key = match rng.usize(..=beyond.len()) {
        0 => "NULL",
        at => beyond[at - 1],
    };
    (insert_with(table, Some(key), rng) + " ON CONFLICT DO NOTHING", Found::Surely)
}

fn insert_old_key(table: &Table, rng: &mut Rng) -> (String, Found) {
    (insert_old_row(table, rng) + " ON CONFLICT DO NOTHING", Found::Perhaps)
}

/// A row whose key no sync has a reason to read.
pub fn insert_old_row(table: &Table, rng: &mut Rng) -> String {
    insert_with(table, table.key.as_ref().map(|key| key.old), rng)
}

fn forget_key(table: &Table, rng: &mut Rng) -> (String, Found) {
    let key = table.key.as_ref().map_or("at", |key| key.column.as_str());
    let sql = format!(
        "UPDATE {} SET {} = NULL WHERE {}",
        table.stored(),
        quoted(key),
        some(table, 2, rng)
    );
    (sql, Found::Surely)
}

fn update_all(table: &Table, rng: &mut Rng) -> (String, Found) {
    (format!("UPDATE {} SET {}", table.stored(), set(table, true, rng)), Found::Surely)
}

fn insert_many(world: &mut World, rng: &mut Rng) -> Outcome {
    let at = world.draw_table(rng);
    let table = &world.tables[at];
    let Some(id) =
        table.columns[..table.unique].iter().position(|c| c.family.data_type == "integer")
    else {
        return Ok(Found::Surely);
    };
    let (names, mut values) = row(table, None, rng);
    // Only the number differs from row to row.
    values[id] = format!("{} + n", rng.u32(10..2000));
    let sql = format!(
        "INSERT INTO {} ({}) SELECT {} FROM generate_series(1, {}) n ON CONFLICT DO NOTHING",
        table.stored(),
        names.join(", "),
        values.join(", "),
        rng.u32(50..400)
    );
    world.at_source(&sql);
    Ok(Found::Surely)
}

fn truncate(world: &mut World, rng: &mut Rng) -> Outcome {
    let at = world.draw_table(rng);
    let sql = format!("TRUNCATE {}", world.tables[at].stored());
    world.at_source(&sql);
    Ok(Found::Surely)
}

/// A table is emptied and loaded with rows that keep the keys they had.
fn load_again(world: &mut World, rng: &mut Rng) -> Outcome {
    let at = world.draw_table(rng);
    let table = &world.tables[at];
    let rows: Vec<String> = (0..rng.u32(1..5))
        .map(|_| insert_old_row(table, rng) + " ON CONFLICT DO NOTHING")
        .collect();
    let sql = format!("TRUNCATE {}; {}", table.stored(), rows.join("; "));
    world.at_source(&sql);
    Ok(Found::PerhapsAnew)
}

/// VACUUM moves rows to another file, and old row versions out of sight.
fn rewrite(world: &mut World, rng: &mut Rng) -> Outcome {
    let at = world.draw_table(rng);
    let how = ["FULL", "FREEZE", "ANALYZE"][rng.usize(..3)];
    let sql = format!("VACUUM ({how}) {}", world.tables[at].stored());
    world.at_source(&sql);
    Ok(Found::Surely)
}
