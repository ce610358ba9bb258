//! Is the destination right? The tool is asked, and its answer compared with what is there.

use fastrand::Rng;
use serde_json::Value;

use super::Operation;
use crate::support::judge::{Rows, quoted};
use crate::support::ledger::Found;
use crate::support::model::{Copying, Deletes, Table, Way};
use crate::support::running::Disturbance;
use crate::support::world::{Failure, Outcome, Property, Sight, World, broken};

pub const OPERATIONS: &[Operation] = &[
    Operation { name: "verify", weight: 2, run: verify },
    Operation { name: "damage_and_repair", weight: 3, run: damage_and_repair },
    Operation { name: "sync_verify", weight: 2, run: sync_verify },
];

/// How two sides differ, by keys.
#[derive(Debug, PartialEq, Eq)]
struct Differences {
    missing: usize,
    extra: usize,
    different: usize,
}

impl Differences {
    fn of(table: &Table, there: &Rows) -> Self {
        let now = table.ledger.now();
        let missing = now.keys().filter(|key| !there.contains_key(*key)).count();
        let extra = there.keys().filter(|key| !now.contains_key(*key)).count();
        let differs = |(key, row): &(&String, &crate::support::judge::Row)| {
            there.get(*key).is_some_and(|other| other.text != row.text)
        };
        let different = now.iter().filter(differs).count();
        // Versions of which the source knows no more are no difference.
        Self { missing, extra: if table.versions { 0 } else { extra }, different }
    }

    fn none(&self) -> bool {
        *self == Self { missing: 0, extra: 0, different: 0 }
    }
}

/// Whether a table cannot be compared, with good reason.
fn excused(table: &Table, sight: &Sight) -> bool {
    sight.oid.is_none() || table.copying != Copying::Uncalledfor
}

/// Runs `verify` and returns what it says of each table.
fn ask(world: &mut World, arguments: &[&str]) -> Result<(Option<i32>, Vec<Value>), Failure> {
    let run = world.start(&[&["verify", "--json"], arguments].concat()).end(world)?;
    world.wait_until_alone()?;
    world.told.push(format!("  {}", run.stdout.trim_end().replace('\n', "\n  ")));
    let Ok(document) = serde_json::from_str::<Value>(&run.stdout) else {
        return broken(Property::Verified, format!("verify says nothing: {}", run.stderr));
    };
    Ok((run.code, document["tables"].as_array().cloned().unwrap_or_default()))
}

/// Compares what is said of each table with what is there.
fn compare(world: &mut World, code: Option<i32>, said: &[Value]) -> Result<(), Failure> {
    let mut all_right = true;
    for (at, sight) in world.sights()?.iter().enumerate() {
        let (table, said) = (&world.tables[at], &said[at]);
        if said["status"] == "error" && excused(table, sight) {
            all_right = false;
            continue;
        }
        let number = |key: &str| {
            usize::try_from(said[key].as_u64().unwrap_or(u64::MAX)).unwrap_or(usize::MAX)
        };
        let there = Differences::of(table, &sight.rows);
        let wrong = number("missing") + number("extra") + number("different");
        let told = Differences {
            missing: number("missing"),
            extra: number("extra"),
            different: number("different"),
        };
        let pending = number("pending");
        let fits = told.missing <= there.missing
            && told.different <= there.different
            && told.extra <= there.extra
            && wrong + pending == there.missing + there.extra + there.different
            && said["error"].is_null();
        if !fits {
            return broken(
                Property::Verified,
                format!("`{}`: verify says {said}, and there are {there:?}", table.name),
            );
        }
        all_right &= wrong == 0;
    }
    if (code == Some(0)) == all_right {
        return Ok(());
    }
    broken(Property::Verified, format!("verify ends with {code:?}, and all is right: {all_right}"))
}

fn verify(world: &mut World, _: &mut Rng) -> Outcome {
    let (code, said) = ask(world, &[])?;
    compare(world, code, &said)?;
    Ok(Found::Surely)
}

/// Somebody spoils the destination behind the tool's back; it is found, and put right.
fn damage_and_repair(world: &mut World, rng: &mut Rng) -> Outcome {
    world.sync(&["sync"])?;
    let before = world.sights()?;
    for _ in 0..rng.u32(1..4) {
        if !damage(world, rng) {
            break;
        }
    }
    let doubled = (0..world.tables.len()).any(|at| world.holds_keys_twice(at));
    if !doubled {
        // Nothing has happened at the source since, so nothing is newer than the sync.
        let (code, said) = ask(world, &[])?;
        compare(world, code, &said)?;
        for (at, said) in said.iter().enumerate() {
            let table = &world.tables[at];
            // Of a view, rows at the watermark or above it may be pending for all that is known.
            if said["pending"] != 0 && table.way != Way::Diff && table.view.is_none() {
                let what = format!("`{}`: damage counts as pending: {said}", table.name);
                return broken(Property::Verified, what);
            }
        }
    }
    let (code, _) = ask(world, &["--repair"])?;
    if code != Some(0) {
        return broken(Property::Verified, format!("a repair ends with {code:?}"));
    }
    let (code, said) = ask(world, &[])?;
    compare(world, code, &said)?;
    let after = world.sights()?;
    for at in 0..world.tables.len() {
        let table = &mut world.tables[at];
        let left = Differences::of(table, &after[at].rows);
        let pending = usize::try_from(said[at]["pending"].as_u64().unwrap_or(0)).unwrap_or(0);
        if !left.none() && left.missing + left.different > pending || left.extra > 0 {
            let what = format!("`{}`: a repair leaves {left:?}", table.name);
            return broken(Property::Verified, what);
        }
        let lost = before[at]
            .marked
            .keys()
            .find(|key| !after[at].marked.contains_key(*key) && !after[at].rows.contains_key(*key));
        if let Some(key) = lost.filter(|_| !doubled) {
            return broken(Property::Verified, format!("the marked row {key} is gone"));
        }
        table.ledger.settle(&after[at].rows);
        if doubled {
            // Rows that were newer, and so left to this sync, may stand there twice still.
            table.call_for_copy(Copying::Allowed);
        }
    }
    world.sync(&["sync"])
}

/// Damages a table. Rows may stand there twice afterwards.
///
/// Whether more damage may follow: where marks were taken off, nothing tells any more which rows
/// cannot be brought back.
fn damage(world: &mut World, rng: &mut Rng) -> bool {
    let at = world.draw_table(rng);
    let table = &world.tables[at];
    if table.view.is_some() && table.way == Way::Key {
        // Nothing tells which of its rows the sync has seen, so that damage may count as pending.
        return true;
    }
    let name = world.qualified(&table.destination);
    let columns = table.copied();
    let column = |rng: &mut Rng| quoted(&columns[rng.usize(..columns.len())]);
    let drawn = format!("ORDER BY md5(ctid::text || '{}') LIMIT {}", rng.u32(..100), rng.u32(1..4));
    let any = format!("ctid IN (SELECT ctid FROM {name} {drawn})");
    // What is marked cannot be brought back once it is gone.
    let live = if table.deletes == Deletes::Mark { "WHERE \"_deleted_at\" IS NULL" } else { "" };
    let some = format!("ctid IN (SELECT ctid FROM {name} {live} {drawn})");
    let index = world.qualified(&format!("{}_replicated_key", table.destination));
    let list_of = |prefix: &str| {
        let columns = columns.iter().map(|name| format!("{prefix}{}", quoted(name)));
        columns.collect::<Vec<_>>().join(", ")
    };
    let list = list_of("");
    let mut more = true;
    let sql = match rng.u32(..7) {
        2 => format!("UPDATE {name} SET {} = NULL WHERE {some}", column(rng)),
        3 => {
            // A value of another row: the sums of the columns may stay what they were.
            let column = column(rng);
            format!(
                "UPDATE {name} AS spoilt SET {column} = (SELECT {column} FROM {name} AS other \
                 WHERE other.ctid <> spoilt.ctid LIMIT 1) WHERE {some}"
            )
        }
        4 if table.columns[0].family.data_type == "integer" && !table.versions => {
            let first = quoted(&columns[0]);
            format!(
                "UPDATE {name} SET {first} = {first} + 1000000 WHERE {some} AND {first} < 1000000"
            )
        }
        5 if table.deletes == Deletes::Mark => {
            more = false;
            let marked = "CASE WHEN \"_deleted_at\" IS NULL THEN now() END";
            format!("UPDATE {name} SET \"_deleted_at\" = {marked} WHERE {any}")
        }
        6 if !table.versions => format!(
            "DROP INDEX {index}; INSERT INTO {name} ({list}) SELECT {list} FROM {name} WHERE {some}"
        ),
        _ => format!("DELETE FROM {name} WHERE {some}"),
    };
    // A version that stands there twice stays: nothing tells it from two that the source had.
    let once = table.versions.then(|| {
        format!(
            "; DELETE FROM {name} AS one USING {name} AS other WHERE one.ctid < other.ctid \
             AND ROW({})::text = ROW({})::text",
            list_of("one."),
            list_of("other.")
        )
    });
    world.at_destination(&(sql + &once.unwrap_or_default()));
    more
}

/// A sync looks at its own work, and tells the truth.
fn sync_verify(world: &mut World, _: &mut Rng) -> Outcome {
    let before = world.sights()?;
    let run = world.start(&["sync", "--verify"]).end(world)?;
    world.wait_until_alone()?;
    world.judge_run(&run, &before, Disturbance::None)?;
    if world.excused(&run) {
        return Ok(Found::Surely);
    }
    let sights = world.sights()?;
    let right = |(at, sight): (usize, &Sight)| {
        let table = &world.tables[at];
        let there = Differences::of(table, &sight.rows);
        // What the rule keeps, the sync does not hold against itself.
        let extra = if table.reconciles(false) { there.extra } else { 0 };
        Differences { extra, ..there }.none()
    };
    let all_right = sights.iter().enumerate().all(right);
    if (run.code == Some(0)) == all_right {
        return Ok(Found::Surely);
    }
    broken(
        Property::Verified,
        format!("sync --verify ends with {:?}, and all is right: {all_right}", run.code),
    )
}
