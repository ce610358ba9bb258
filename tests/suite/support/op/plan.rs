//! What `plan` prints, held against the sync that follows it.

use fastrand::Rng;
use serde_json::Value;

use super::Operation;
use crate::support::ledger::Found;
use crate::support::world::{Outcome, Property, World, broken};

pub const OPERATIONS: &[Operation] =
    &[Operation { name: "plan_and_sync", weight: 3, run: plan_and_sync }];

fn plan_and_sync(world: &mut World, _: &mut Rng) -> Outcome {
    let before = world.traces();
    let run = world.start(&["plan", "--json"]).end(world)?;
    world.wait_until_alone()?;
    if world.traces() != before {
        return broken(Property::Planned, "a plan has written to the destination, or a file");
    }
    let Ok(plan) = serde_json::from_str::<Value>(&run.stdout) else {
        return broken(Property::Planned, format!("a plan ends with {:?}", run.code));
    };
    world.outputs.clear();
    world.sync(&["sync", "--verbose"])?;
    let log: Vec<Value> = world.outputs[0]
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of the log is JSON"))
        .collect();
    for table in plan["tables"].as_array().expect("tables") {
        let of_a_view = world.tables.iter().any(|it| it.view.is_some() && table["name"] == it.name);
        if let Err(what) = compare(table, &log, of_a_view) {
            return broken(Property::Planned, format!("`{}`: {what}", table["name"]));
        }
    }
    Ok(Found::Surely)
}

/// Compares what was planned for a table with what the log says.
fn compare(planned: &Value, log: &[Value], of_a_view: bool) -> Result<(), String> {
    let of_table: Vec<&Value> =
        log.iter().filter(|line| line["table"] == planned["name"]).collect();
    let Some(done) = of_table.iter().find(|line| line["sync_type"].is_string()) else {
        return Err("the sync says nothing of it".to_owned());
    };
    let action = planned["action"].as_str().expect("an action");
    let failed = done["error"].is_string();
    if action == "error" {
        let told = format!("planned to fail ({}), and it succeeds", planned["error"]);
        return if failed { Ok(()) } else { Err(told) };
    }
    let healed = "rows at the destination share their unique columns";
    if failed || done["reason"] == healed {
        return Ok(());
    }
    let mut ran: Vec<String> = of_table
        .iter()
        .filter_map(|line| line["message"].as_str())
        .filter(|said| said.starts_with("source: ") || said.starts_with("destination: "))
        .map(|said| row_by_row(&without_numbers(said)))
        .collect();
    if action == "nothing" {
        let rows = done["row_count"].as_u64();
        let wrote = ran.iter().find(|said| said.starts_with("destination: "));
        return match wrote {
            None if rows == Some(0) => Ok(()),
            wrote => Err(format!("nothing was planned, but: {rows:?} rows, {wrote:?}")),
        };
    }
    for key in ["reason", "sync_type"] {
        let wanted = if key == "reason" { &planned["reason"] } else { &planned["action"] };
        if done[key] != *wanted {
            return Err(format!("planned {wanted}, done {}", done[key]));
        }
    }
    let statements = planned["statements"].as_array().expect("statements");
    let digests = |statement: &Value| {
        statement["purpose"].as_str().is_some_and(|said| said.contains("digests"))
    };
    let compares = statements.iter().any(digests);
    // Rows of a view that were read again and are the same leave nothing to commit.
    let undone = of_a_view && !ran.iter().any(|said| said == "destination: COMMIT");
    let mut matched = Vec::new();
    for statement in statements {
        let (on, sql) = (statement["on"].as_str(), statement["sql"].as_str());
        let (on, sql) = (on.expect("a side"), sql.expect("SQL"));
        if sql.starts_with("pg_dump ") {
            continue;
        }
        let wanted = row_by_row(&without_numbers(&format!("{on}: {sql}")));
        match ran.iter().position(|said| *said == wanted) {
            Some(at) => matched.push(ran.remove(at)),
            // What both sides find out may end the sync early.
            None if compares || undone && done["row_count"] == 0 => {}
            None => return Err(format!("planned, and did not run: {wanted}")),
        }
    }
    // Rows that are merged in parts are staged, merged and forgotten again and again.
    let a_part = |three: &[String]| {
        let staged = three[0].starts_with("destination: COPY ");
        staged && ran.get(..3) == Some(three) && three.iter().all(|said| matched.contains(said))
    };
    match ran.first() {
        Some(more) if !compares && !ran.chunks(3).all(a_part) => {
            Err(format!("ran, and was not planned: {more}"))
        }
        _ => Ok(()),
    }
}

/// What empties a table of many rows at once does what was planned row by row.
fn row_by_row(said: &str) -> String {
    match said.strip_prefix("destination: TRUNCATE ") {
        Some(table) => format!("destination: DELETE FROM {table}"),
        None => said.to_owned(),
    }
}

/// Transactions and snapshots have other numbers every time, and the server's own work, of which it
/// begins some when it likes, may be among those in flight.
fn without_numbers(text: &str) -> String {
    let mut result = String::new();
    for character in text.chars() {
        if !character.is_ascii_digit() {
            result.push(character);
        } else if !result.ends_with('#') {
            result.push('#');
        }
    }
    let in_flight = r#""in_flight":[#"#;
    while result.contains(&format!("{in_flight},#")) {
        result = result.replace(&format!("{in_flight},#"), in_flight);
    }
    result.replace(&format!("{in_flight}]"), r#""in_flight":[]"#)
}
