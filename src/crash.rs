//! Ends the process at a named point, so that tests can see what a crash there leaves behind.

use std::sync::OnceLock;

/// The points, in the order in which a sync passes them.
pub const POINTS: [&str; 13] = [
    "connected",
    "marks-taken",
    "locked",
    "snapshot-open",
    "planned",
    "loading",
    "loaded",
    "merged",
    "compared",
    "receipt-written",
    "committed",
    "state-file-written",
    "state-file-renamed",
];

static CHOSEN: OnceLock<String> = OnceLock::new();

/// Chooses the point at which this process shall end.
pub fn choose(point: String) {
    // A second choice would be one too many, and changes nothing.
    let _ = CHOSEN.set(point);
}

/// Passes a point, or ends there as a crash would: without a word to anybody.
pub fn at(point: &str) {
    debug_assert!(POINTS.contains(&point), "{point} is not on the list");
    if CHOSEN.get().is_some_and(|chosen| chosen == point) {
        std::process::abort();
    }
}
