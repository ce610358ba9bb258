//! Syncs: undisturbed, watched, ended in the middle, beside writers, beside each other.

use std::time::Duration;

use fastrand::Rng;
use incremental_replication::crash::POINTS;

use super::{Operation, statement};
use crate::support::case::OURS;
use crate::support::ledger::Found;
use crate::support::running::Disturbance;
use crate::support::watcher::Watcher;
use crate::support::world::{Outcome, Property, Side, World, broken};

pub const OPERATIONS: &[Operation] = &[
    Operation { name: "sync", weight: 14, run: |world, _| world.sync(&["sync"]) },
    Operation { name: "sync_one_table", weight: 2, run: sync_one_table },
    Operation { name: "sync_full_refresh", weight: 1, run: sync_full_refresh },
    Operation { name: "sync_reconcile", weight: 2, run: |w, _| w.sync(&["sync", "--reconcile"]) },
    Operation { name: "sync_jobs", weight: 2, run: |w, _| w.sync(&["sync", "--jobs", "3"]) },
    Operation { name: "sync_watched", weight: 3, run: sync_watched },
    Operation { name: "sync_with_a_crash", weight: 5, run: sync_with_a_crash },
    Operation { name: "sync_killed", weight: 2, run: sync_killed },
    Operation { name: "sync_terminated", weight: 1, run: sync_terminated },
    Operation { name: "sync_beside_writers", weight: 4, run: sync_beside_writers },
    Operation { name: "sync_beside_truncates", weight: 3, run: sync_beside_truncates },
    Operation { name: "two_syncs", weight: 2, run: two_syncs },
    Operation { name: "sync_loses_its_sessions", weight: 1, run: sync_loses_its_sessions },
    Operation { name: "restart_source", weight: 1, run: |w, r| restart(w, r, Side::Source) },
    Operation {
        name: "restart_destination",
        weight: 1,
        run: |w, r| restart(w, r, Side::Destination),
    },
];

fn sync_one_table(world: &mut World, rng: &mut Rng) -> Outcome {
    let name = world.tables[world.draw_table(rng)].name.clone();
    world.sync(&["sync", "--table", &name])
}

fn sync_full_refresh(world: &mut World, _: &mut Rng) -> Outcome {
    for table in &mut world.tables {
        table.call_for_copy(crate::support::model::Copying::Called);
    }
    world.sync(&["sync", "--full-refresh"])
}

fn sync_watched(world: &mut World, _: &mut Rng) -> Outcome {
    let watcher = Watcher::start(world);
    let done = world.sync(&["sync"]);
    watcher.judge(world)?;
    done
}

pub fn sync_with_a_crash(world: &mut World, rng: &mut Rng) -> Outcome {
    // Most is at stake once rows travel.
    let loading = POINTS.iter().position(|point| *point == "loading").expect("a point");
    let first = if rng.bool() { loading } else { 0 };
    let point = POINTS[rng.usize(first..POINTS.len())];
    let before = world.sights()?;
    let run = world.start(&["sync", "--crash-at", point]).end(world)?;
    world.wait_until_alone()?;
    world.judge_run(&run, &before, Disturbance::Ended)?;
    Ok(Found::Surely)
}

fn sync_killed(world: &mut World, rng: &mut Rng) -> Outcome {
    let before = world.sights()?;
    let mut running = world.start(&["sync"]);
    std::thread::sleep(Duration::from_millis(rng.u64(5..150)));
    running.kill();
    let run = running.end(world)?;
    world.wait_until_alone()?;
    world.judge_run(&run, &before, Disturbance::Ended)?;
    Ok(Found::Surely)
}

fn sync_terminated(world: &mut World, rng: &mut Rng) -> Outcome {
    let before = world.sights()?;
    let running = world.start(&["sync"]);
    std::thread::sleep(Duration::from_millis(rng.u64(20..150)));
    let signal = ["-INT", "-TERM"][rng.usize(..2)];
    // It may have ended by itself.
    let _ = std::process::Command::new("kill").args([signal, &running.id().to_string()]).output();
    let run = running.end(world)?;
    if run.code.is_none() {
        world.told.push("  before it listened".to_owned());
    } else if ![Some(0), Some(1), Some(130), Some(143)].contains(&run.code) {
        return broken(Property::Ends, format!("{signal} ends in {:?}", run.code));
    }
    world.wait_until_alone()?;
    world.judge_run(&run, &before, Disturbance::Ended)?;
    Ok(Found::Surely)
}

/// Statements with pauses, a session of its own; now and then a few in one transaction. One that
/// `truncates` empties a table before, now and then.
fn writer(world: &World, rng: &mut Rng, truncates: bool) -> std::thread::JoinHandle<Vec<String>> {
    let mut session = world.another_source();
    let mut rng = rng.fork();
    let tables = world.tables.clone();
    std::thread::spawn(move || {
        let mut told = Vec::new();
        for _ in 0..rng.u32(3..15) {
            let together = rng.u32(1..4);
            let mut all: Vec<String> = (0..together)
                .map(|_| statement(&tables[rng.usize(..tables.len())], &mut rng))
                .filter(|(_, found)| *found == Found::Surely)
                .map(|(sql, _)| sql)
                .collect();
            if truncates && rng.bool() {
                let emptied = tables[rng.usize(..tables.len())].stored();
                all.insert(0, format!("TRUNCATE {emptied}"));
            }
            let sql =
                format!("BEGIN; {}; SELECT pg_sleep({}); COMMIT", all.join("; "), rng.f64() / 50.0);
            if session.batch_execute(&sql).is_err() {
                session.batch_execute("ROLLBACK").expect("a rollback");
            } else {
                told.push(sql);
            }
        }
        told
    })
}

fn sync_beside_writers(world: &mut World, rng: &mut Rng) -> Outcome {
    beside(world, rng, false)
}

/// Truncated tables look empty in snapshots that are older.
fn sync_beside_truncates(world: &mut World, rng: &mut Rng) -> Outcome {
    beside(world, rng, true)
}

fn beside(world: &mut World, rng: &mut Rng, truncates: bool) -> Outcome {
    let before = world.sights()?;
    let writers = [writer(world, rng, truncates), writer(world, rng, truncates)];
    std::thread::sleep(Duration::from_millis(rng.u64(..40)));
    let running = world.start(&["sync"]);
    for writer in writers {
        let told = writer.join().expect("a writer ends");
        world.told.extend(told.into_iter().map(|sql| format!("writer: {sql}")));
    }
    let run = running.end(world)?;
    world.wait_until_alone()?;
    world.note(Found::Surely);
    world.judge_run(&run, &before, Disturbance::Writers)?;
    if run.code != Some(0) && !world.excused(&run) {
        return broken(Property::Ends, format!("a sync beside writers fails: {}", run.stderr));
    }
    Ok(Found::Surely)
}

fn two_syncs(world: &mut World, rng: &mut Rng) -> Outcome {
    let before = world.sights()?;
    let first = world.start(&["sync"]);
    std::thread::sleep(Duration::from_millis(rng.u64(..60)));
    let second = world.start(&["sync"]);
    let runs = [first.end(world)?, second.end(world)?];
    for run in &runs {
        // 4: the other has the table.
        if ![Some(0), Some(4)].contains(&run.code) && !world.excused(run) {
            return broken(Property::Ends, format!("one of two syncs ends with {:?}", run.code));
        }
    }
    world.wait_until_alone()?;
    world.judge_run(&runs[0], &before, Disturbance::Ended)?;
    // Between them they may have done everything or not; one more has.
    world.sync(&["sync"])
}

fn sync_loses_its_sessions(world: &mut World, rng: &mut Rng) -> Outcome {
    let before = world.sights()?;
    let running = world.start(&["sync"]);
    std::thread::sleep(Duration::from_millis(rng.u64(20..120)));
    for session in world.superusers() {
        let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}");
        if rng.bool() {
            session.batch_execute(&end).expect("sessions end");
        }
    }
    let run = running.end(world)?;
    world.wait_until_alone()?;
    world.judge_run(&run, &before, Disturbance::Ended)?;
    if run.code != Some(0) && !world.excused(&run) {
        return broken(
            Property::Ends,
            format!("a sync does not survive the loss of its sessions: {}", run.stderr),
        );
    }
    Ok(Found::Surely)
}

fn restart(world: &mut World, rng: &mut Rng, side: Side) -> Outcome {
    let mode = ["fast", "immediate"][rng.usize(..2)];
    world.restart(side, mode);
    Ok(Found::Surely)
}
