//! People at the destination: they drop tables, and put things on them.

use fastrand::Rng;

use super::Operation;
use crate::support::judge::quoted;
use crate::support::ledger::Found;
use crate::support::model::Copying;
use crate::support::world::{Outcome, World};

pub const OPERATIONS: &[Operation] = &[
    Operation { name: "drop_destination", weight: 1, run: drop_destination },
    Operation { name: "drop_staging", weight: 1, run: drop_staging },
    Operation { name: "drop_receipts", weight: 1, run: drop_receipts },
    Operation { name: "drop_everything", weight: 1, run: drop_everything },
    Operation { name: "drop_unique_index", weight: 1, run: drop_unique_index },
    Operation { name: "stage_rows", weight: 1, run: stage_rows },
    Operation { name: "create_view", weight: 2, run: create_view },
    Operation { name: "create_index", weight: 2, run: create_index },
    Operation { name: "add_constraint", weight: 1, run: add_constraint },
    Operation { name: "grant", weight: 1, run: grant },
    Operation { name: "comment", weight: 1, run: comment },
];

/// Draws a table and gives its name at the destination.
fn draw(world: &World, rng: &mut Rng) -> (usize, String) {
    let at = world.draw_table(rng);
    (at, world.qualified(&world.tables[at].destination))
}

fn drop_destination(world: &mut World, rng: &mut Rng) -> Outcome {
    let (at, table) = draw(world, rng);
    if world.at_destination(&format!("DROP TABLE {table} CASCADE")) {
        world.tables[at].call_for_copy(Copying::Called);
    }
    Ok(Found::Surely)
}

fn drop_staging(world: &mut World, rng: &mut Rng) -> Outcome {
    let at = world.draw_table(rng);
    let name = &world.tables[at].destination;
    if name.len() + 4 > 63 {
        return Ok(Found::Surely);
    }
    let staging = world.qualified(&format!("{name}_stg"));
    if world.at_destination(&format!("DROP TABLE {staging}")) && !world.tables[at].versions {
        world.tables[at].call_for_copy(Copying::Called);
    }
    Ok(Found::Surely)
}

pub fn drop_receipts(world: &mut World, _: &mut Rng) -> Outcome {
    let receipts = world.qualified("_sync_state");
    if world.at_destination(&format!("DROP TABLE {receipts}")) {
        for table in &mut world.tables {
            table.call_for_copy(Copying::Allowed);
        }
    }
    Ok(Found::Surely)
}

fn drop_everything(world: &mut World, _: &mut Rng) -> Outcome {
    let schema = quoted(&world.schema);
    if world.at_destination(&format!("DROP SCHEMA {schema} CASCADE")) {
        world.of_people.clear();
        for table in &mut world.tables {
            table.call_for_copy(Copying::Called);
        }
    }
    Ok(Found::Surely)
}

fn drop_unique_index(world: &mut World, rng: &mut Rng) -> Outcome {
    let at = world.draw_table(rng);
    let index = world.qualified(&format!("{}_replicated_key", world.tables[at].destination));
    world.at_destination(&format!("DROP INDEX {index}"));
    Ok(Found::Surely)
}

/// Somebody has put the rows into the staging table that are in the table already.
fn stage_rows(world: &mut World, rng: &mut Rng) -> Outcome {
    let (at, table) = draw(world, rng);
    let staging = world.qualified(&format!("{}_stg", world.tables[at].destination));
    world.staged |=
        world.at_destination(&format!("INSERT INTO {staging} SELECT * FROM {table} LIMIT 3"));
    Ok(Found::Surely)
}

fn of_people(world: &mut World, create: &str, drop: String) -> Outcome {
    if world.at_destination(create) {
        world.of_people.push(drop);
    }
    Ok(Found::Surely)
}

fn create_view(world: &mut World, rng: &mut Rng) -> Outcome {
    let (_, table) = draw(world, rng);
    let number = world.number();
    let view = world.qualified(&format!("view {number}"));
    let what = ["*", "count(*)", "1 AS one"][rng.usize(..3)];
    let kind = if rng.u32(..3) == 0 { "MATERIALIZED VIEW" } else { "VIEW" };
    of_people(
        world,
        &format!("CREATE {kind} {view} AS SELECT {what} FROM {table}"),
        format!("DROP {kind} IF EXISTS {view} CASCADE"),
    )
}

fn create_index(world: &mut World, rng: &mut Rng) -> Outcome {
    let (at, table) = draw(world, rng);
    let columns = &world.tables[at].columns;
    let column = quoted(&columns[rng.usize(..columns.len())].name);
    let number = world.number();
    let index = world.qualified(&format!("index {number}"));
    of_people(
        world,
        &format!("CREATE INDEX \"index {number}\" ON {table} (num_nulls({column}))"),
        format!("DROP INDEX IF EXISTS {index}"),
    )
}

fn add_constraint(world: &mut World, rng: &mut Rng) -> Outcome {
    let (at, table) = draw(world, rng);
    let column = quoted(&world.tables[at].columns[0].name);
    let number = world.number();
    of_people(
        world,
        &format!("ALTER TABLE {table} ADD CONSTRAINT c{number} CHECK (num_nulls({column}) < 2)"),
        format!("ALTER TABLE IF EXISTS {table} DROP CONSTRAINT IF EXISTS c{number}"),
    )
}

fn grant(world: &mut World, rng: &mut Rng) -> Outcome {
    let (_, table) = draw(world, rng);
    world.at_destination(&format!("GRANT SELECT ON {table} TO pg_monitor"));
    Ok(Found::Surely)
}

fn comment(world: &mut World, rng: &mut Rng) -> Outcome {
    let (_, table) = draw(world, rng);
    world.at_destination(&format!("COMMENT ON TABLE {table} IS 'it''s ours'"));
    Ok(Found::Surely)
}
