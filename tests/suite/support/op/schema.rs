//! The source's schema changes under the pipeline. Whether that calls for a new copy is seen by
//! comparing what the table is with what it was; an operation only says where one is allowed.

use fastrand::Rng;

use super::Operation;
use crate::support::judge::{literal, quoted};
use crate::support::ledger::Found;
use crate::support::model::{Copying, Table, family, value};
use crate::support::world::{Outcome, World};

pub const OPERATIONS: &[Operation] = &[
    Operation { name: "add_column", weight: 2, run: add_column },
    Operation { name: "drop_column", weight: 2, run: drop_column },
    Operation { name: "rename_column", weight: 2, run: rename_column },
    Operation { name: "exchange_columns", weight: 1, run: exchange_columns },
    Operation { name: "change_type", weight: 3, run: change_type },
    Operation { name: "change_modifier", weight: 4, run: change_modifier },
    Operation { name: "set_not_null", weight: 2, run: set_not_null },
    Operation { name: "drop_not_null", weight: 2, run: drop_not_null },
    Operation { name: "set_default", weight: 1, run: set_default },
    Operation { name: "replace_view", weight: 2, run: replace_view },
    Operation { name: "create_again", weight: 2, run: create_again },
    Operation { name: "rename_another_in", weight: 1, run: rename_another_in },
    Operation { name: "attach_partition", weight: 4, run: attach_partition },
    Operation { name: "detach_partition", weight: 1, run: detach_partition },
    Operation { name: "add_label", weight: 1, run: add_label },
    Operation { name: "rename_label", weight: 3, run: rename_label },
    Operation { name: "remove_label", weight: 1, run: remove_label },
    Operation { name: "alter_domain", weight: 1, run: alter_domain },
    Operation { name: "add_index", weight: 1, run: add_index },
];

/// Draws a column that a writer may set.
fn draw(world: &World, rng: &mut Rng) -> Option<(usize, usize)> {
    let at = world.draw_table(rng);
    let table = &world.tables[at];
    let free: Vec<usize> = (table.unique..table.columns.len())
        .filter(|&column| !table.columns[column].generated)
        .collect();
    (!free.is_empty()).then(|| (at, free[rng.usize(..free.len())]))
}

fn alter(world: &mut World, at: usize, action: &str) -> bool {
    let sql = format!("ALTER TABLE {} {action}", world.tables[at].stored());
    world.at_source(&sql)
}

/// Alters columns, which the view through which they are read, if there is one, does not survive.
fn reshape(world: &mut World, at: usize, action: &str) -> bool {
    let table = &world.tables[at];
    let sql = format!("ALTER TABLE {} {action};", table.stored());
    let sql = beside_the_view(table, &sql);
    world.at_source(&sql)
}

fn beside_the_view(table: &Table, sql: &str) -> String {
    format!("{}{sql}{}", table.drop_view(), table.create_view())
}

fn add_column(world: &mut World, rng: &mut Rng) -> Outcome {
    let at = world.draw_table(rng);
    let major = world.majors.0;
    let column = world.tables[at].new_column(rng, major);
    let default =
        if rng.bool() { format!(" DEFAULT {}", value(&column, rng)) } else { String::new() };
    let action =
        format!("ADD COLUMN {} {}{default}", quoted(&column.name), column.family.data_type);
    if reshape(world, at, &action) {
        let table = &mut world.tables[at];
        table.columns.push(column);
        table.call_for_copy(Copying::Allowed);
    }
    Ok(Found::Perhaps)
}

fn drop_column(world: &mut World, rng: &mut Rng) -> Outcome {
    let Some((at, column)) = draw(world, rng) else { return Ok(Found::Surely) };
    let name = world.tables[at].columns[column].name.clone();
    if world.tables[at].excluded.as_ref() == Some(&name) {
        // The rule names it.
        return Ok(Found::Surely);
    }
    if reshape(world, at, &format!("DROP COLUMN {}", quoted(&name))) {
        world.tables[at].call_for_copy(Copying::Allowed);
        world.tables[at].columns.remove(column);
    }
    Ok(Found::Perhaps)
}

fn rename_column(world: &mut World, rng: &mut Rng) -> Outcome {
    let Some((at, column)) = draw(world, rng) else { return Ok(Found::Surely) };
    let old = world.tables[at].columns[column].name.clone();
    if world.tables[at].excluded.as_ref() == Some(&old) {
        return Ok(Found::Surely);
    }
    let major = world.majors.0;
    let new = world.tables[at].new_column(rng, major).name;
    if reshape(world, at, &format!("RENAME COLUMN {} TO {}", quoted(&old), quoted(&new))) {
        let table = &mut world.tables[at];
        table.columns[column].name = new;
        table.call_for_copy(Copying::Allowed);
    }
    Ok(Found::Perhaps)
}

/// Two columns of one type change their names: nothing but their numbers tells.
fn exchange_columns(world: &mut World, rng: &mut Rng) -> Outcome {
    let Some((at, one)) = draw(world, rng) else { return Ok(Found::Surely) };
    let table = &world.tables[at];
    let same = |&other: &usize| {
        let (a, b) = (&table.columns[one], &table.columns[other]);
        other != one && !b.generated && a.family.data_type == b.family.data_type
    };
    let Some(other) = (table.unique..table.columns.len()).find(same) else {
        return Ok(Found::Surely);
    };
    let (a, b) = (table.columns[one].name.clone(), table.columns[other].name.clone());
    let name = table.stored();
    let (a, b) = (quoted(&a), quoted(&b));
    let sql = format!(
        "ALTER TABLE {name} RENAME {a} TO between; ALTER TABLE {name} RENAME {b} TO {a}; \
         ALTER TABLE {name} RENAME between TO {b};"
    );
    if world.at_source(&beside_the_view(&world.tables[at], &sql)) {
        let table = &mut world.tables[at];
        let (one_name, other_name) =
            (table.columns[one].name.clone(), table.columns[other].name.clone());
        (table.columns[one].name, table.columns[other].name) = (other_name, one_name);
        table.call_for_copy(Copying::Allowed);
    }
    Ok(Found::Perhaps)
}

fn change_type(world: &mut World, rng: &mut Rng) -> Outcome {
    let Some((at, column)) = draw(world, rng) else { return Ok(Found::Surely) };
    let new = family(rng, world.majors.0);
    let old = world.tables[at].columns[column].clone();
    if old.family.data_type == new.data_type || old.not_null {
        return Ok(Found::Surely);
    }
    let name = quoted(&old.name);
    let castable = format!("ALTER COLUMN {name} TYPE {0} USING {name}::text::{0}", new.data_type);
    let by_force = format!("ALTER COLUMN {name} TYPE {} USING NULL", new.data_type);
    // Its default may not fit; rows written by people keep none either.
    alter(world, at, &format!("ALTER COLUMN {name} DROP DEFAULT"));
    if reshape(world, at, &castable) || reshape(world, at, &by_force) {
        world.tables[at].call_for_copy(Copying::Allowed);
        world.tables[at].columns[column].family = new;
    }
    Ok(Found::Perhaps)
}

/// The type stays, its modifier does not; no row is rewritten.
fn change_modifier(world: &mut World, rng: &mut Rng) -> Outcome {
    let wider = |data_type: &str| match data_type {
        "character varying(40)" => Some("character varying(50)"),
        "character varying(50)" | "character varying(60)" => Some("character varying(70)"),
        "numeric(12,2)" => Some("numeric(13,2)"),
        "numeric(14,4)" => Some("numeric(15,4)"),
        "timestamp(3) with time zone" => Some("timestamp(5) with time zone"),
        "interval day to second(3)" => Some("interval day to second(5)"),
        _ => None,
    };
    let at = world.draw_table(rng);
    let columns = world.tables[at].columns.iter().enumerate();
    let fitting: Vec<(usize, &str)> = columns
        .filter_map(|(number, column)| Some((number, wider(&column.family.data_type)?)))
        .collect();
    if fitting.is_empty() {
        return Ok(Found::Surely);
    }
    let (column, new) = fitting[rng.usize(..fitting.len())];
    let name = quoted(&world.tables[at].columns[column].name);
    if reshape(world, at, &format!("ALTER COLUMN {name} TYPE {new}")) {
        world.tables[at].call_for_copy(Copying::Allowed);
        new.clone_into(&mut world.tables[at].columns[column].family.data_type);
    }
    Ok(Found::Perhaps)
}

fn set_not_null(world: &mut World, rng: &mut Rng) -> Outcome {
    if let Some((at, column)) = draw(world, rng) {
        refuse_null(world, rng, at, column);
    }
    Ok(Found::Surely)
}

fn refuse_null(world: &mut World, rng: &mut Rng, at: usize, column: usize) -> bool {
    let column_there = world.tables[at].columns[column].clone();
    let (table, name) = (world.tables[at].stored(), quoted(&column_there.name));
    // Rows without a value get one, or go.
    let filled = value(&crate::support::model::Column { not_null: true, ..column_there }, rng);
    let key = world.tables[at].key.clone().expect("every table has one");
    let sql = format!(
        "UPDATE {table} SET {name} = {filled}, {} = {} WHERE {name} IS NULL OR num_nulls({name}) > 0; \
         ALTER TABLE {table} ALTER COLUMN {name} SET NOT NULL",
        quoted(&key.column),
        key.grows
    );
    let done = world.at_source(&sql);
    world.tables[at].columns[column].not_null |= done;
    done
}

/// A column that the destination has seen refuse NULL holds one now.
fn drop_not_null(world: &mut World, rng: &mut Rng) -> Outcome {
    let Some((at, column)) = draw(world, rng) else { return Ok(Found::Surely) };
    if !world.tables[at].columns[column].not_null && refuse_null(world, rng, at, column) {
        world.note(Found::Surely);
        world.sync(&["sync"])?;
    }
    let name = quoted(&world.tables[at].columns[column].name);
    if alter(world, at, &format!("ALTER COLUMN {name} DROP NOT NULL")) {
        let table = &mut world.tables[at];
        table.columns[column].not_null = false;
        let key = table.key.clone().expect("every table has one");
        let table = table.stored();
        world.at_source(&format!(
            "UPDATE {table} SET {name} = NULL, {} = {} WHERE (tableoid, ctid) IN \
             (SELECT tableoid, ctid FROM {table} LIMIT 2)",
            quoted(&key.column),
            key.grows
        ));
    }
    Ok(Found::Surely)
}

fn set_default(world: &mut World, rng: &mut Rng) -> Outcome {
    let Some((at, column)) = draw(world, rng) else { return Ok(Found::Surely) };
    let column = world.tables[at].columns[column].clone();
    let action =
        format!("ALTER COLUMN {} SET DEFAULT {}", quoted(&column.name), value(&column, rng));
    alter(world, at, &action);
    Ok(Found::Surely)
}

/// A view lets other rows through.
fn replace_view(world: &mut World, rng: &mut Rng) -> Outcome {
    let at = world.draw_table(rng);
    let number = world.number();
    let mut table = world.tables[at].clone();
    if table.view.is_none() {
        return Ok(Found::Surely);
    }
    let column = quoted(&table.columns[rng.usize(..table.columns.len())].name);
    let values = rng.u32(..2);
    table.view = Some(format!("num_nulls({column}) >= {values} AND {number} = {number}"));
    if world.at_source(&table.create_view()) {
        table.call_for_copy(Copying::Called);
        world.tables[at] = table;
    }
    Ok(Found::Perhaps)
}

fn create_again(world: &mut World, rng: &mut Rng) -> Outcome {
    let at = world.draw_table(rng);
    let mut table = world.tables[at].clone();
    if rng.bool() {
        let major = world.majors.0;
        let column = table.new_column(rng, major);
        table.columns.push(column);
    }
    let sql = format!("{}DROP TABLE {}; {}", table.drop_view(), table.stored(), table.create());
    if world.at_source(&sql) {
        table.call_for_copy(Copying::Allowed);
        world.tables[at] = table;
    }
    Ok(Found::Surely)
}

fn rename_another_in(world: &mut World, rng: &mut Rng) -> Outcome {
    let at = world.draw_table(rng);
    let number = world.number();
    let table = &world.tables[at];
    // A view goes on showing the table that it was made on.
    if !table.regions.is_empty() || table.view.is_some() {
        return Ok(Found::Surely);
    }
    let name = quoted(&table.name);
    let (other, away) = (quoted(&format!("other {number}")), quoted(&format!("away {number}")));
    // Some rows of the one are in the other, with the keys they had.
    let columns: Vec<String> = table.writable().iter().map(|column| quoted(&column.name)).collect();
    let unique: Vec<String> = table.unique_names().iter().map(|name| quoted(name)).collect();
    let key = table.key.iter().map(|key| quoted(&key.column));
    let all: Vec<String> = unique.into_iter().chain(columns).chain(key).collect();
    let all = all.join(", ");
    let sql = format!(
        "CREATE TABLE {other} (LIKE {name} INCLUDING ALL); \
         INSERT INTO {other} ({all}) SELECT {all} FROM {name} LIMIT {}; \
         ALTER TABLE {name} RENAME TO {away}; ALTER TABLE {other} RENAME TO {name}",
        rng.u32(..20)
    );
    if world.at_source(&sql) {
        world.tables[at].call_for_copy(Copying::Allowed);
    }
    Ok(Found::Perhaps)
}

/// A table full of old rows becomes a partition, for one value or for all that have none.
fn attach_partition(world: &mut World, rng: &mut Rng) -> Outcome {
    let at = world.draw_table(rng);
    let mut table = world.tables[at].clone();
    let Some(region) =
        (1..=3).find(|region| !table.regions.is_empty() && !table.regions.contains(region))
    else {
        return Ok(Found::Surely);
    };
    let (name, part) = (table.stored(), quoted(&table.part(region)));
    table.regions = vec![region];
    let rows: String = (0..rng.u32(..4))
        .map(|_| {
            let insert = super::rows::insert_old_row(&table, rng);
            let (_, rest) = insert.split_once(&name).expect("the table's name");
            format!("INSERT INTO {part}{rest};")
        })
        .collect();
    let bounds = match region {
        3 if rng.bool() => "DEFAULT".to_owned(),
        _ => format!("FOR VALUES IN ({region})"),
    };
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS {part} (LIKE {name} INCLUDING ALL); {rows} \
         ALTER TABLE {name} ATTACH PARTITION {part} {bounds}"
    );
    if world.at_source(&sql) {
        world.tables[at].regions.push(region);
    }
    Ok(Found::Perhaps)
}

fn detach_partition(world: &mut World, rng: &mut Rng) -> Outcome {
    let at = world.draw_table(rng);
    let table = &world.tables[at];
    if table.regions.len() < 2 {
        return Ok(Found::Surely);
    }
    let gone = rng.usize(..table.regions.len());
    let part = quoted(&table.part(table.regions[gone]));
    if alter(world, at, &format!("DETACH PARTITION {part}")) {
        world.tables[at].regions.remove(gone);
    }
    Ok(Found::Surely)
}

/// What happens to the enum happens to every column of it.
fn labels_changed(world: &mut World) {
    for table in &mut world.tables {
        let concerned =
            |column: &&crate::support::model::Column| column.family.data_type == "feeling";
        if table.columns.iter().any(|column| concerned(&column)) {
            table.call_for_copy(Copying::Allowed);
        }
    }
}

fn add_label(world: &mut World, _: &mut Rng) -> Outcome {
    let label = format!("label {}", world.number());
    if world.at_source(&format!("ALTER TYPE feeling ADD VALUE {}", literal(&label))) {
        for table in &mut world.tables {
            for column in &mut table.columns {
                if column.family.data_type == "feeling" {
                    column.family.values.push(literal(&label));
                }
            }
        }
        world.labels.push(label);
    }
    Ok(Found::Surely)
}

fn rename_label(world: &mut World, rng: &mut Rng) -> Outcome {
    let at = rng.usize(..world.labels.len());
    let (old, new) = (world.labels[at].clone(), format!("renamed {}", world.number()));
    if world.at_source(&format!(
        "ALTER TYPE feeling RENAME VALUE {} TO {}",
        literal(&old),
        literal(&new)
    )) {
        world.labels[at].clone_from(&new);
        relabel(world, &old, &new);
        labels_changed(world);
    }
    Ok(Found::Perhaps)
}

fn relabel(world: &mut World, old: &str, new: &str) {
    let (old, new) = (literal(old), literal(new));
    for column in world.tables.iter_mut().flat_map(|table| &mut table.columns) {
        if column.family.data_type == "feeling" {
            for value in &mut column.family.values {
                if *value == old || format!("E{value}") == old {
                    value.clone_from(&new);
                }
            }
        }
    }
}

/// PostgreSQL cannot take a label away: people make the type again without it.
fn remove_label(world: &mut World, _: &mut Rng) -> Outcome {
    if world.labels.len() < 2 {
        return Ok(Found::Surely);
    }
    let (kept, removed) = world.labels.split_at(world.labels.len() - 1);
    let (kept, removed) = (kept.to_vec(), removed[0].clone());
    let labels: Vec<String> = kept.iter().map(|label| literal(label)).collect();
    let mut sql = format!(
        "ALTER TYPE feeling RENAME TO feeling_before; CREATE TYPE feeling AS ENUM ({});",
        labels.join(", ")
    );
    sql += &world.tables.iter().map(Table::drop_view).collect::<String>();
    for table in &world.tables {
        for column in &table.columns {
            if column.family.data_type == "feeling" {
                let (table, column) = (table.stored(), quoted(&column.name));
                sql += &format!(
                    "ALTER TABLE {table} ALTER COLUMN {column} DROP DEFAULT; \
                     ALTER TABLE {table} ALTER COLUMN {column} TYPE feeling \
                     USING coalesce(nullif({column}::text, {}), {})::feeling;",
                    literal(&removed),
                    literal(&kept[0])
                );
            }
        }
    }
    sql += &world.tables.iter().map(Table::create_view).collect::<String>();
    sql += "DROP TYPE feeling_before";
    if world.at_source(&sql) {
        world.labels = kept;
        let first = world.labels[0].clone();
        relabel(world, &removed, &first);
        labels_changed(world);
    }
    Ok(Found::Perhaps)
}

/// A domain's rules change, which is no change of any value.
fn alter_domain(world: &mut World, rng: &mut Rng) -> Outcome {
    let sql = match rng.u32(..3) {
        0 => {
            format!("ALTER DOMAIN measure ADD CONSTRAINT c{} CHECK (VALUE > -1000)", world.number())
        }
        1 => "ALTER DOMAIN measure SET DEFAULT 7".to_owned(),
        _ => "ALTER DOMAIN measure DROP CONSTRAINT IF EXISTS measure_check".to_owned(),
    };
    world.at_source(&sql);
    Ok(Found::Surely)
}

fn add_index(world: &mut World, rng: &mut Rng) -> Outcome {
    let at = world.draw_table(rng);
    let table = &world.tables[at];
    let key = quoted(&table.key.as_ref().expect("every table has one").column);
    let sql = format!("CREATE INDEX ON {} ({key} DESC NULLS LAST)", table.stored());
    world.at_source(&sql);
    Ok(Found::Surely)
}
