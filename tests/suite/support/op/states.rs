//! What is remembered between syncs is edited, lost or brought back.

use std::fs;

use fastrand::Rng;
use serde_json::Value;

use super::Operation;
use crate::support::judge::literal;
use crate::support::ledger::Found;
use crate::support::model::Copying;
use crate::support::world::{Outcome, World};

pub const OPERATIONS: &[Operation] = &[
    Operation { name: "delete_state_files", weight: 2, run: delete_state_files },
    Operation { name: "set_state_files_aside", weight: 2, run: set_state_files_aside },
    Operation { name: "bring_state_files_back", weight: 2, run: bring_state_files_back },
    Operation { name: "damage_state_file", weight: 1, run: damage_state_file },
    Operation { name: "unset_watermark", weight: 1, run: unset_watermark },
    Operation { name: "delete_receipt", weight: 2, run: delete_receipt },
    Operation { name: "lose_receipts_in_a_crash", weight: 2, run: lose_receipts_in_a_crash },
    Operation { name: "lose_files_in_a_crash", weight: 2, run: lose_files_in_a_crash },
];

fn delete_state_files(world: &mut World, _: &mut Rng) -> Outcome {
    world.told.push("sync-state/ is removed".to_owned());
    // It may not be there yet.
    let _ = fs::remove_dir_all(world.state_folder());
    Ok(Found::Surely)
}

fn set_state_files_aside(world: &mut World, _: &mut Rng) -> Outcome {
    world.told.push("sync-state/ is copied aside".to_owned());
    world.saved = Some(world.state_files());
    Ok(Found::Surely)
}

fn bring_state_files_back(world: &mut World, _: &mut Rng) -> Outcome {
    let Some(saved) = world.saved.clone() else { return Ok(Found::Surely) };
    world.told.push("sync-state/ is as it was set aside".to_owned());
    fs::create_dir_all(world.state_folder()).expect("a folder");
    for (path, text) in saved {
        fs::write(path, text).expect("a file");
    }
    // Where the receipt is gone, an old file may not fit the destination any more.
    allow_copies(world);
    Ok(Found::Surely)
}

fn allow_copies(world: &mut World) {
    for table in &mut world.tables {
        table.call_for_copy(Copying::Allowed);
    }
}

fn damage_state_file(world: &mut World, rng: &mut Rng) -> Outcome {
    let files = world.state_files();
    if files.is_empty() {
        return Ok(Found::Surely);
    }
    let (path, text) = &files[rng.usize(..files.len())];
    let damaged = match rng.u32(..3) {
        0 => text[..rng.usize(..=text.len() / 2)].to_vec(),
        1 => vec![0, 159, 146, 150],
        _ => b"{}".to_vec(),
    };
    world.told.push(format!("{} is damaged", path.display()));
    fs::write(path, damaged).expect("a file");
    allow_copies(world);
    Ok(Found::Surely)
}

/// Somebody wants everything to be read again.
fn unset_watermark(world: &mut World, rng: &mut Rng) -> Outcome {
    let files = world.state_files();
    if files.is_empty() {
        return Ok(Found::Surely);
    }
    let (path, text) = &files[rng.usize(..files.len())];
    let Ok(mut state) = serde_json::from_slice::<Value>(text) else { return Ok(Found::Surely) };
    if state.get("watermark").is_some() {
        state["watermark"] = Value::Null;
        world.told.push(format!("{} has its watermark unset", path.display()));
        fs::write(path, state.to_string()).expect("a file");
    }
    Ok(Found::Surely)
}

/// What is left after a crash is put back together without the receipts.
fn lose_receipts_in_a_crash(world: &mut World, rng: &mut Rng) -> Outcome {
    super::syncs::sync_with_a_crash(world, rng)?;
    super::destination::drop_receipts(world, rng)
}

/// A crash takes a disk with it that nobody thought worth keeping.
fn lose_files_in_a_crash(world: &mut World, rng: &mut Rng) -> Outcome {
    super::syncs::sync_with_a_crash(world, rng)?;
    delete_state_files(world, rng)
}

fn delete_receipt(world: &mut World, rng: &mut Rng) -> Outcome {
    let at = world.draw_table(rng);
    let name = literal(&world.tables[at].destination);
    let sql = format!("DELETE FROM {} WHERE table_name = {name}", world.qualified("_sync_state"));
    world.at_destination(&sql);
    world.tables[at].call_for_copy(Copying::Allowed);
    Ok(Found::Surely)
}
