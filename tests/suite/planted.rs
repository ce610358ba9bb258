//! Proof that the harness sees: each fault that can be planted is caught, within so many stories.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::ValueEnum;
use incremental_replication::fault::Fault;

use crate::support::harness::{Budget, Story};
use crate::support::park::Park;
use crate::support::world::Failure;

/// So many stories are enough for the most hidden one.
const MOST_STORIES: u64 = 1000;

/// The seed of the first story. The same each time, so that a change of the harness that makes it
/// blind is not taken for bad luck.
const SEED: u64 = 1;

/// The property that caught a fault, and how many stories that took.
///
/// Panics where the story ends badly without the fault as well: it has caught nothing.
fn caught(fault: &str, seed: u64, park: &mut Park) -> Option<(Failure, u64)> {
    (0..MOST_STORIES).find_map(|number| {
        let story = Story::draw(seed + number, park);
        let ending = story.play(park, Some(fault)).err()?;
        if let Err(by_itself) = story.play(park, None) {
            let Failure { property, what } = by_itself.failure;
            let seed = seed + number;
            panic!("the story of seed {seed} ends badly without {fault}: {property:?}: {what}");
        }
        Some((ending.failure, number + 1))
    })
}

fn line(fault: &str, caught: Option<&(Failure, u64)>) -> String {
    let Some((Failure { property, what }, stories)) = caught else {
        return format!("{fault:20} nothing      {MOST_STORIES:7}");
    };
    let what: String = what.lines().next().unwrap_or_default().chars().take(100).collect();
    format!("{fault:20} {:12} {stories:7}  {what}", format!("{property:?}"))
}

#[test]
fn every_planted_fault_is_caught() {
    let budget = Budget::from_environment(0);
    let seed = if std::env::var_os("HARNESS_SEED").is_some() { budget.seed } else { SEED };
    let only = std::env::var("HARNESS_FAULT").ok();
    let names: Vec<String> = Fault::value_variants()
        .iter()
        .filter_map(|fault| Some(fault.to_possible_value()?.get_name().to_owned()))
        .filter(|name| only.as_ref().is_none_or(|only| only == name))
        .collect();
    let next = AtomicUsize::new(0);
    let found = Mutex::new(vec![None; names.len()]);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut park = Park::find();
                while let Some((at, name)) = {
                    let at = next.fetch_add(1, Ordering::SeqCst);
                    names.get(at).map(|name| (at, name))
                } {
                    let caught = caught(name, seed, &mut park);
                    println!("{}", line(name, caught.as_ref()));
                    found.lock().expect("nobody panics here")[at] = caught;
                }
            });
        }
    });
    let found = found.into_inner().expect("nobody panics here");
    println!("\n{:20} {:12} stories", "fault", "caught by");
    for (name, caught) in names.iter().zip(&found) {
        println!("{}", line(name, caught.as_ref()));
    }
    assert!(found.iter().all(Option::is_some), "the harness is blind to a fault");
}
