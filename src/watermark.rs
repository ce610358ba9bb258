//! The watermark: where the next sync starts to read, so that no row is ever lost.
//!
//! # The danger
//!
//! A cursor alone loses rows. A transaction that began before a sync and commits after it writes
//! keys *below* the greatest key that the sync saw; the next sync starts above them.
//!
//! # The method
//!
//! A **mark** is taken before the data is read: `M`, the greatest replication key visible, then
//! `F`, the transactions in flight, read after `M`. Every transaction holds a lock on its own
//! virtual transaction id from its begin to its end, and every role may read `pg_locks`; `F` is
//! those of client sessions of this database other than our own. After a short wait (`settle`),
//! which ends as soon as all of `F` have ended, the transactions still in flight are read as `A`,
//! in a statement of its own that is finished before the snapshot exists. Only then is the
//! snapshot taken that is copied.
//!
//! A mark is **safe** once `F` and `A` have no transaction in common. The next sync starts at the
//! `M` of the newest safe mark. Marks that are not safe yet are kept, and looked at again by the
//! next sync against its own `A`.
//!
//! # The argument
//!
//! Let T write a row that the copied snapshot does not see. If T began after the safe mark was
//! taken, the row's key is at least `M`: keys do not run backwards. If T began before, it was in
//! `F`; being unfinished when the snapshot was taken, which is after `A` was read, it is in `A` as
//! well; so the mark was not safe. Either way the next sync, which starts at `M`, reads the row.
//!
//! `A` must be read before the snapshot and not in it: a transaction that ended in between would
//! be missing in `A` and invisible in the snapshot, and its rows lost. `A` may be read any time
//! before: a transaction that ends after `A` only makes a mark look less safe than it is. So one
//! `A` serves all tables of a run.
//!
//! The argument needs no privilege and no clock, and holds for timestamps in any time zone and for
//! sequences. A prepared transaction gives up its virtual transaction id without having ended, so
//! that nothing is safe while this database has one. Virtual transaction ids are used again after
//! a restart of the server, which can only make a mark look less safe than it is.
//!
//! # Keys that went back
//!
//! Where the newest row was deleted, or its key was corrected, `M` is less than it was. Where keys are
//! numbers, a row that was written since the watermark stood there may have any key: one that is used
//! again, or one below a wrong key that has hidden it. All that was written since that sync is then read,
//! whatever its keys are, and all rows where [`overlap`] cannot tell ([`key::Key::went_back`]). The mark tells
//! of it, the greatest key of the table's own snapshot, and a mark that is kept, for as long as the watermark
//! stands above it. Where nobody could look at the keys when the marks were taken, the snapshot's greatest
//! key is a watermark if it is the lower one.
//!
//! A clock goes on all the same, unless somebody has put it back, or has loaded yesterday's rows again. Where
//! its `M` is less than it was by more than the lookback, it is like a number. Where it is less by no more
//! than that, the next sync reads its lookback as if nothing of it had been seen.
//!
//! A table that was seen without any key was emptied: whatever comes next may have any key, that of a
//! clock as well, and all rows are read until there is a safe mark again.
//!
//! # Whose marks
//!
//! `A` judges marks that were taken before it. Another run may write a receipt between this run's `A` and
//! the table's turn; what a transaction that began in between does is not in `A`. Such a receipt's
//! watermark and marks stay as they are. Marks of one server say nothing of another that answers under its
//! name, nor of what it has become after a crash.
//!
//! # What it does not cover
//!
//! Clocks of application servers that disagree, sequences with CACHE above 1, the instant between
//! a session's look at the clock and its lock, imports that write old keys, and a standby, which
//! cannot see the transactions of its primary. For these, `lookback` reads that far below the
//! watermark, and [`overlap`] keeps unchanged rows of the overlap from travelling.

pub mod key;
pub mod overlap;

#[cfg(test)]
mod history;

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::fault::{Fault, planted};

/// The most marks that are kept. Every one that is dropped only makes the watermark advance later.
const MOST_PENDING: usize = 32;

/// Where the next sync starts, and which marks may let the one after it start later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// The replication key to start at, as PostgreSQL's text; without one, all rows are read.
    #[serde(rename = "watermark")]
    pub start: Option<String>,
    /// Marks that are not safe yet, the oldest first.
    #[serde(rename = "pending_marks", default)]
    pub pending: Vec<Mark>,
}

/// What a look at the keys of a table has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen<K> {
    /// Nothing is known: nobody has looked, or not at this table.
    Nothing,
    /// There was no key that may become a watermark.
    NoKey,
    /// The greatest.
    Key(K),
}

impl Seen<String> {
    /// The same with the key as a text of somebody else's.
    #[must_use]
    pub fn as_deref(&self) -> Seen<&str> {
        match self {
            Self::Nothing => Seen::Nothing,
            Self::NoKey => Seen::NoKey,
            Self::Key(key) => Seen::Key(key),
        }
    }
}

impl<K> Seen<K> {
    /// The same with what is made of the key.
    pub fn map<T>(self, made: impl FnOnce(K) -> T) -> Seen<T> {
        match self {
            Self::Nothing => Seen::Nothing,
            Self::NoKey => Seen::NoKey,
            Self::Key(key) => Seen::Key(made(key)),
        }
    }
}

/// The greatest replication key, and who was at work when it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// `M`, as PostgreSQL's text.
    pub key: String,
    /// `F`, as virtual transaction ids, without those known to have ended.
    pub in_flight: BTreeSet<String>,
}

/// The transactions in flight at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Virtual transaction ids of client sessions of the source database.
    pub transactions: BTreeSet<String>,
    /// The names of its prepared transactions.
    pub prepared: BTreeSet<String>,
}

/// How two keys lie that are numbers, exactly where both are integers, and nearly else, times, or uuids.
fn compared(one: &str, other: &str) -> Option<Ordering> {
    if let (Ok(one), Ok(other)) = (one.parse::<i64>(), other.parse::<i64>()) {
        return Some(one.cmp(&other));
    }
    if let (Some(one), Some(other)) = (key::time(one), key::time(other)) {
        return Some(one.cmp(&other));
    }
    if key::is_uuid(one) && key::is_uuid(other) {
        return Some(one.cmp(other));
    }
    one.parse::<f64>().ok()?.partial_cmp(&other.parse().ok()?)
}

impl Watermark {
    /// The same, or with the key to start at, a number, where that is less.
    #[must_use]
    pub fn at_most(mut self, key: &str) -> Self {
        let start = self.start.as_deref();
        if start.is_some_and(|start| compared(key, start) == Some(Ordering::Less)) {
            self.start = Some(key.to_owned());
        }
        self
    }

    /// Whether its marks that are numbers below where the next sync starts are all that the `newer` one
    /// has.
    #[must_use]
    pub fn tells_of_keys_that_went_back_as(&self, newer: &Self) -> bool {
        let Some(start) = newer.start.as_deref() else { return true };
        // What cannot be told apart costs a write, and no row.
        let below = |mark: &&Mark| {
            mark.key != start
                && compared(&mark.key, start).is_some_and(|order| order != Ordering::Greater)
        };
        newer
            .pending
            .iter()
            .filter(below)
            .all(|mark| self.pending.iter().any(|kept| kept.key == mark.key))
    }

    /// The watermark after a sync that took the mark `new` and then read `still_active`, before
    /// its snapshot.
    #[must_use]
    pub fn advance(&self, new: Seen<Mark>, still_active: &Activity) -> Self {
        let mut marks: Vec<Mark> = self.pending.clone();
        match new {
            Seen::Nothing => {}
            Seen::NoKey => return Self::default(),
            Seen::Key(mark) => marks.push(mark),
        }
        for mark in &mut marks {
            mark.in_flight.retain(|transaction| still_active.transactions.contains(transaction));
        }
        let settled = still_active.prepared.is_empty() || planted(Fault::PreparedIgnored);
        let safe = |mark: &Mark| mark.in_flight.is_empty() && settled || planted(Fault::UnsafeMark);
        let newest_safe = marks.iter().rposition(safe);
        let start = newest_safe.map(|at| marks[at].key.clone()).or_else(|| self.start.clone());
        // The safe mark itself goes as all do that have the key the next sync starts from.
        let pending = marks.split_off(newest_safe.unwrap_or_default());
        let pending = latest(worthwhile(pending, start.as_deref()), start.as_deref());
        let pending = thinned(pending);
        Self { start, pending }
    }
}

/// Without marks that would not let a sync start later than an older one with the same key, which
/// is safe no later.
fn worthwhile(pending: Vec<Mark>, start: Option<&str>) -> Vec<Mark> {
    let mut kept: Vec<Mark> = Vec::new();
    for mark in pending {
        let known = kept.last().map(|last| last.key.as_str()).or(start);
        if known != Some(mark.key.as_str()) {
            kept.push(mark);
        }
    }
    kept
}

/// Without marks that wait for the same transactions as the next one, which lets a sync start later. One
/// that is a number below where the next sync starts tells that keys went back, and stays.
fn latest(pending: Vec<Mark>, start: Option<&str>) -> Vec<Mark> {
    let mut kept = Vec::new();
    let mut marks = pending.into_iter().peekable();
    while let Some(mark) = marks.next() {
        let below = start.and_then(|start| compared(&mark.key, start)) == Some(Ordering::Less);
        if below || marks.peek().is_none_or(|newer| newer.in_flight != mark.in_flight) {
            kept.push(mark);
        }
    }
    kept
}

/// Few enough marks, the newer the denser, and the least of those that are numbers, which may tell that
/// keys went back.
fn thinned(mut pending: Vec<Mark>) -> Vec<Mark> {
    if pending.len() > MOST_PENDING {
        let key = |at: &usize| pending[*at].key.as_str();
        let least = (0..pending.len())
            .min_by(|one, other| compared(key(one), key(other)).unwrap_or(Ordering::Equal));
        let newer = pending.split_off(MOST_PENDING / 2);
        let older = pending.into_iter().enumerate();
        let kept = older.filter(|(at, _)| at % 2 == 0 || Some(*at) == least);
        pending = kept.map(|(_, mark)| mark).chain(newer).collect();
    }
    pending
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn mark(key: &str, in_flight: &[&str]) -> Mark {
        Mark { key: key.to_owned(), in_flight: set(in_flight) }
    }

    fn active(transactions: &[&str]) -> Activity {
        Activity { transactions: set(transactions), prepared: BTreeSet::new() }
    }

    #[test]
    fn a_mark_is_safe_once_all_that_were_in_flight_have_ended() {
        let watermark = Watermark::default().advance(Seen::Key(mark("5", &[])), &active(&["9/9"]));
        assert_eq!((watermark.start.as_deref(), watermark.pending.len()), (Some("5"), 0));
        let watermark = watermark.advance(Seen::Key(mark("7", &["1/1", "2/2"])), &active(&["1/1"]));
        assert_eq!(watermark.start.as_deref(), Some("5"));
        assert_eq!(watermark.pending, [mark("7", &["1/1"])]);
        let watermark = watermark.advance(Seen::Key(mark("8", &["1/1"])), &active(&["1/1", "3/3"]));
        assert_eq!(watermark.start.as_deref(), Some("5"));
        let watermark = watermark.advance(Seen::Key(mark("9", &["3/3"])), &active(&["3/3"]));
        assert_eq!(watermark.start.as_deref(), Some("8"));
        assert_eq!(watermark.pending, [mark("9", &["3/3"])]);
    }

    #[test]
    fn nothing_is_safe_while_a_transaction_is_prepared() {
        let prepared = Activity { transactions: set(&[]), prepared: set(&["gid"]) };
        let watermark = Watermark::default().advance(Seen::Key(mark("5", &[])), &prepared);
        assert_eq!(watermark.start, None);
        assert_eq!(watermark.advance(Seen::Nothing, &active(&[])).start.as_deref(), Some("5"));
    }

    #[test]
    fn a_table_without_a_key_starts_anew() {
        let watermark = Watermark::default().advance(Seen::Key(mark("5", &[])), &active(&[]));
        let watermark = watermark.advance(Seen::Key(mark("7", &["1/1"])), &active(&["1/1"]));
        assert_eq!(watermark.advance(Seen::NoKey, &active(&[])), Watermark::default());
    }

    #[test]
    fn a_mark_just_below_the_watermark_is_no_less_below_it_where_keys_are_large() {
        let left = |start: &str, pending: &[&str]| Watermark {
            start: Some(start.to_owned()),
            pending: pending.iter().map(|key| mark(key, &["1/1"])).collect(),
        };
        let (start, below) = ("9007199254740993", "9007199254740992");
        let newer = left(start, &[below]);
        assert!(!left(start, &[]).tells_of_keys_that_went_back_as(&newer));
        assert!(left(start, &[below]).tells_of_keys_that_went_back_as(&newer));
        assert_eq!(left(start, &[]).at_most(below).start.as_deref(), Some(below));
        assert_eq!(left(below, &[]).at_most(start).start.as_deref(), Some(below));
        // One above the watermark is for later.
        let time = |below| left("2026-01-02 00:00:00+00", &[below]);
        let now = left("2026-01-02 00:00:00+00", &[]);
        assert!(!now.tells_of_keys_that_went_back_as(&time("2026-01-01 23:59:59.999999+00")));
        assert!(now.tells_of_keys_that_went_back_as(&time("2026-01-02 00:00:00.000001+00")));
        let (below, start) =
            ("01995f3c-a000-7abc-8000-000000000001", "01995f3c-a000-7abc-8000-000000000002");
        assert!(!left(start, &[]).tells_of_keys_that_went_back_as(&left(start, &[below])));
        assert!(left(below, &[]).tells_of_keys_that_went_back_as(&left(below, &[start])));
        assert!(
            left(start, &[]).tells_of_keys_that_went_back_as(&left(start, &["9007199254740994"]))
        );
    }

    #[test]
    fn an_idle_table_gathers_no_marks() {
        let mut watermark = Watermark::default().advance(Seen::Key(mark("5", &[])), &active(&[]));
        for _ in 0..3 {
            watermark = watermark.advance(Seen::Key(mark("5", &["1/1"])), &active(&["1/1"]));
        }
        assert_eq!(watermark.pending, []);
    }

    #[test]
    fn marks_behind_an_endless_transaction_stay_few() {
        let mut watermark = Watermark::default();
        for key in 0..100 {
            watermark =
                watermark.advance(Seen::Key(mark(&key.to_string(), &["1/1"])), &active(&["1/1"]));
            assert_eq!(watermark.pending.len(), 1, "they wait for the same");
        }
        assert_eq!(watermark.advance(Seen::Nothing, &active(&[])).start.as_deref(), Some("99"));
        // Each waits for one more than the one before.
        let endless: Vec<String> = (0..300).map(|at| format!("1/{at}")).collect();
        let endless: Vec<&str> = endless.iter().map(String::as_str).collect();
        let mut watermark = Watermark::default();
        for key in 0..endless.len() {
            let waits_for = &endless[..=key];
            watermark =
                watermark.advance(Seen::Key(mark(&key.to_string(), waits_for)), &active(waits_for));
            assert!(watermark.pending.len() <= MOST_PENDING);
        }
        assert!(watermark.pending.len() > MOST_PENDING / 2);
        assert_eq!(watermark.advance(Seen::Nothing, &active(&[])).start.as_deref(), Some("299"));
        // A number below where the next sync starts tells that keys went back.
        let low = Watermark { start: Some("5".to_owned()), pending: vec![mark("3", &["1/1"])] };
        let low = low.advance(Seen::Key(mark("7", &["1/1"])), &active(&["1/1"]));
        assert_eq!(low.pending, [mark("3", &["1/1"]), mark("7", &["1/1"])]);
        let low = |at: usize| if at == 3 { mark("0", &["1/1"]) } else { mark("1", &["1/1"]) };
        assert_eq!(thinned((0..33).map(low).collect())[2], mark("0", &["1/1"]));
        let many = |count: usize| thinned(vec![mark("1", &["1/1"]); count]).len();
        assert_eq!((many(MOST_PENDING), many(MOST_PENDING + 1)), (32, 25));
    }
}
