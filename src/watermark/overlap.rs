//! Keeps rows that have not changed since the last sync from travelling again.
//!
//! A row version that the last snapshot did not see was written by a transaction whose id is at or
//! above the snapshot's `xmin`. So `age(xmin) <= age(xmin of that snapshot)` never drops a new row
//! version. It may let an old one through, which the merge then finds to be equal. What seems to come
//! from the future is a frozen row, more than half of the id space old.
//!
//! The ids are compared as long as they come from one history: the same system, the same timeline
//! (a failover, or a restore to a point in time, uses ids twice), the same run of the server without a
//! crash (a disk that comes back from an image goes on as if nothing had happened, and what a crash
//! has taken back was given ids as well: both use them twice), and less than a quarter of the id space apart.

use serde::{Deserialize, Serialize};

use crate::fault::{Fault, planted};
use crate::sql::FUTURE_IDS;
use crate::table::Unseen;

/// From half of the ids on, older and younger can no longer be told apart. As many again may be given until
/// the rows are read.
const QUARTER_OF_THE_IDS: u64 = 1 << 30;

/// Where a snapshot stands in the history of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The cluster's own number, where the host tells it.
    pub system_identifier: Option<String>,
    /// The timeline, where the host tells it.
    pub timeline: Option<String>,
    /// When the server was started, and when it recovered from a crash; older receipts do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_since: Option<String>,
    /// When it recovered from a crash, which may have taken back what was committed. Of a standby nothing: what it
    /// shows is safe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered_at: Option<String>,
    /// The oldest transaction that was still running: all below are visible or void. 64 bits.
    pub snapshot_xmin: u64,
    /// The watermark that was written with it. Somebody who sets a watermark back wants rows to
    /// be read again, and this position would keep them back.
    pub start: Option<String>,
    /// Whose rows it did not see, exactly but for a subtransaction that ended at that very moment:
    /// good enough to tell what is newer, and not to leave rows out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unseen: Option<Unseen>,
}

impl Position {
    /// Whether another one speaks of the same history of the same server.
    #[must_use]
    pub fn is_of_one_history(&self, other: &Self) -> bool {
        self.system_identifier == other.system_identifier
            && self.timeline == other.timeline
            && self.running_since == other.running_since
    }

    /// Whether the next sync can tell by it what is newer.
    #[must_use]
    pub fn tells(&self) -> bool {
        self.system_identifier.is_some() && self.timeline.is_some() && self.running_since.is_some()
    }
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
    if before.running_since.is_none() || before.running_since != now.running_since {
        return Err("it is not known that the source has been running ever since".to_owned());
    }
    if next < before.snapshot_xmin {
        return Err("the source's transaction ids have gone back".to_owned());
    }
    if next - before.snapshot_xmin >= QUARTER_OF_THE_IDS {
        return Err("too many transactions have passed since the last sync".to_owned());
    }
    // The 32 bits that a row holds.
    let seen = u64::from(planted(Fault::XminOffByOne));
    let xmin = before.snapshot_xmin.saturating_add(seen) % (1 << 32);
    Ok(format!("age(xmin) <= age('{xmin}'::xid) AND age(xmin) > -{FUTURE_IDS}"))
}

/// The condition on rows that the earlier snapshot did not see, or why there can be none.
pub fn newer(before: Option<&Position>, now: &Position, next: u64) -> Result<String, String> {
    let recent = condition(before, now, next)?;
    let Some(unseen) = before.and_then(|before| before.unseen.as_ref()) else { return Ok(recent) };
    let from = unseen.from % (1 << 32);
    let in_flight: Vec<String> = unseen.in_flight.iter().map(u32::to_string).collect();
    let in_flight = in_flight.join(",");
    Ok(format!(
        "{recent} AND (age(xmin) <= age('{from}'::xid) OR xmin = ANY ('{{{in_flight}}}'::xid[]))"
    ))
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

/// Whether the source may have lost between two syncs what it had committed: it was restored or failed over, or
/// it crashed, and `synchronous_commit` was off. What it has counted since may have the same numbers.
#[must_use]
pub fn may_have_lost(before: Option<&Position>, now: &Position) -> bool {
    let crashed = |before: &Position| match (&before.recovered_at, &now.recovered_at) {
        (Some(before), Some(now)) => before != now,
        // A standby does not say what has become of its primary since that was read.
        (Some(_), None) => before.running_since != now.running_since,
        (None, _) => false,
    };
    history_changed(before, now) || before.is_some_and(crashed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(xmin: u64) -> Position {
        Position {
            system_identifier: Some("7".to_owned()),
            timeline: Some("1".to_owned()),
            running_since: Some("noon".to_owned()),
            recovered_at: Some("dawn".to_owned()),
            snapshot_xmin: xmin,
            start: None,
            unseen: None,
        }
    }

    #[test]
    fn what_is_newer_was_in_flight_or_began_later() {
        let unseen = Some(Unseen { from: (5 << 32) + 80, in_flight: vec![77, 79] });
        let before = Position { unseen, ..position((5 << 32) + 77) };
        assert_eq!(
            newer(Some(&before), &position(0), (5 << 32) + 99).unwrap(),
            "age(xmin) <= age('77'::xid) AND age(xmin) > -1048576 \
             AND (age(xmin) <= age('80'::xid) OR xmin = ANY ('{77,79}'::xid[]))"
        );
        let before = position((5 << 32) + 77);
        assert_eq!(
            newer(Some(&before), &position(0), (5 << 32) + 99).unwrap(),
            "age(xmin) <= age('77'::xid) AND age(xmin) > -1048576"
        );
    }

    #[test]
    fn the_condition_names_the_32_bits_that_rows_hold() {
        let found = condition(Some(&position((5 << 32) + 77)), &position(0), (5 << 32) + 99);
        assert_eq!(found.unwrap(), "age(xmin) <= age('77'::xid) AND age(xmin) > -1048576");
    }

    #[test]
    fn a_failover_and_a_crash_may_lose_and_a_start_does_not() {
        let now = position(10);
        let lost = |before: &Position| may_have_lost(Some(before), &now);
        assert!(lost(&Position { timeline: Some("0".to_owned()), ..position(10) }));
        assert!(lost(&Position { recovered_at: Some("dusk".to_owned()), ..position(10) }));
        assert!(!lost(&Position { running_since: Some("one".to_owned()), ..position(10) }));
        // A standby, or the receipt of an older version.
        assert!(!lost(&Position { recovered_at: None, ..position(10) }));
        let standby = Position { recovered_at: None, ..position(10) };
        assert!(!may_have_lost(Some(&position(10)), &standby), "it was read before");
        let elsewhere = Position { running_since: Some("one".to_owned()), ..position(10) };
        assert!(may_have_lost(Some(&elsewhere), &standby));
        assert!(!may_have_lost(None, &now));
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
        assert!(why(Some(&position(10)), &silent, 1000).contains("does not tell its system"));
        let lost = Position { timeline: None, ..position(10) };
        assert!(why(Some(&lost), &now, 1000).contains("does not tell its timeline"));
        assert!(why(Some(&position(10)), &lost, 1000).contains("does not tell its timeline"));
        let promoted = Position { timeline: Some("2".to_owned()), ..position(10) };
        assert!(why(Some(&position(10)), &promoted, 1000).contains("timeline"));
        assert!(history_changed(Some(&position(10)), &promoted));
        let restarted = Position { running_since: Some("one".to_owned()), ..position(1000) };
        assert!(why(Some(&position(10)), &restarted, 1000).contains("running ever since"));
        let unknown = Position { running_since: None, ..position(10) };
        assert!(why(Some(&unknown), &now, 1000).contains("running ever since"));
        assert!(!history_changed(Some(&position(10)), &restarted));
        assert!(why(Some(&position(2000)), &now, 1999).contains("gone back"));
        assert!(why(Some(&position(10)), &now, 10 + (1 << 30)).contains("too many"));
        assert!(condition(Some(&position(10)), &now, 9 + (1 << 30)).is_ok());
        assert!(condition(Some(&position(1000)), &now, 1000).is_ok(), "nothing has happened since");
    }
}
