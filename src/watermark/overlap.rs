//! Keeps rows that have not changed since the last sync from travelling again.
//!
//! A row version that the last snapshot did not see was written by a transaction whose id is at or
//! above the snapshot's `xmin`. So `age(xmin) <= age(xmin of that snapshot)` never drops a new row
//! version. It may let an old one through, which the merge then finds to be equal.
//!
//! The ids are compared as long as they come from one history: the same system, the same timeline
//! (a failover, or a restore to a point in time, uses ids twice), and less than half of the id
//! space apart.

use serde::{Deserialize, Serialize};

use crate::fault::{Fault, planted};

/// From this distance on, older and younger can no longer be told apart.
const HALF_OF_THE_IDS: u64 = 1 << 31;

/// Where a snapshot stands in the history of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The cluster's own number, where the host tells it.
    pub system_identifier: Option<String>,
    /// The timeline, where the host tells it.
    pub timeline: Option<String>,
    /// The oldest transaction that was still running: all below are visible or void. 64 bits.
    pub snapshot_xmin: u64,
    /// The watermark that was written with it. Somebody who sets a watermark back wants rows to
    /// be read again, and this position would keep them back.
    pub start: Option<String>,
}

/// The condition that keeps unchanged rows back, or why there can be none. `now` is the present
/// snapshot's position and `next` the next transaction id to be given.
pub fn condition(before: Option<&Position>, now: &Position, next: u64) -> Result<String, String> {
    let Some(before) = before else {
        return Err("the last sync did not say which snapshot it read".to_owned());
    };
    if before.system_identifier.is_none() || now.system_identifier.is_none() {
        return Err("the source does not tell its system identifier".to_owned());
    }
    if before.system_identifier != now.system_identifier {
        return Err("the source has another system identifier than before".to_owned());
    }
    if before.timeline.is_none() || now.timeline.is_none() {
        return Err("the source does not tell its timeline".to_owned());
    }
    if before.timeline != now.timeline {
        return Err("the source is on another timeline than before".to_owned());
    }
    if next < before.snapshot_xmin {
        return Err("the source's transaction ids have gone back".to_owned());
    }
    if next - before.snapshot_xmin >= HALF_OF_THE_IDS {
        return Err("too many transactions have passed since the last sync".to_owned());
    }
    // The 32 bits that a row holds.
    let seen = u64::from(planted(Fault::XminOffByOne));
    let xmin = (before.snapshot_xmin + seen) % (1 << 32);
    Ok(format!("age(xmin) <= age('{xmin}'::xid)"))
}

/// Whether the source was restored or failed over between two syncs, so that rows may be gone
/// that were copied.
#[must_use]
pub fn history_changed(before: Option<&Position>, now: &Position) -> bool {
    before.is_some_and(|before| {
        before.system_identifier == now.system_identifier
            && before.timeline.is_some()
            && now.timeline.is_some()
            && before.timeline != now.timeline
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(xmin: u64) -> Position {
        Position {
            system_identifier: Some("7".to_owned()),
            timeline: Some("1".to_owned()),
            snapshot_xmin: xmin,
            start: None,
        }
    }

    #[test]
    fn the_condition_names_the_32_bits_that_rows_hold() {
        let found = condition(Some(&position((5 << 32) + 77)), &position(0), (5 << 32) + 99);
        assert_eq!(found.unwrap(), "age(xmin) <= age('77'::xid)");
    }

    #[test]
    fn two_histories_are_never_compared() {
        let now = position(1000);
        let why = |before: Option<&Position>, now: &Position, next| {
            condition(before, now, next).unwrap_err()
        };
        assert!(why(None, &now, 1000).contains("which snapshot"));
        let other = Position { system_identifier: Some("8".to_owned()), ..position(10) };
        assert!(why(Some(&other), &now, 1000).contains("another system identifier"));
        let silent = Position { system_identifier: None, ..position(10) };
        assert!(why(Some(&silent), &silent, 1000).contains("does not tell"));
        let promoted = Position { timeline: Some("2".to_owned()), ..position(10) };
        assert!(why(Some(&position(10)), &promoted, 1000).contains("timeline"));
        assert!(history_changed(Some(&position(10)), &promoted));
        assert!(why(Some(&position(2000)), &now, 1999).contains("gone back"));
        assert!(why(Some(&position(10)), &now, 10 + (1 << 31)).contains("too many"));
        assert!(condition(Some(&position(10)), &now, 9 + (1 << 31)).is_ok());
    }
}
