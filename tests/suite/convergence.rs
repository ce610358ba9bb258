//! No story breaks it: whatever happens at the source, at the destination and to the tool, the
//! destination holds what was promised.

use crate::support::harness::{Budget, play_all};
use crate::support::park::Park;

/// Short enough for every run of the tests; `scripts/soak` takes longer.
const SECONDS: u64 = 60;

#[test]
fn the_destination_converges_whatever_happens() {
    let budget = Budget::from_environment(SECONDS);
    println!("seed {}: {}", budget.seed, Park::find().described());
    let played = play_all(budget);
    println!("seed {}: {played} stories", budget.seed);
}
