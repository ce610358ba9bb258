//! How far a table's copy has come once its sync is done: the receipt that follows the one before.

use super::marks::Marks;
use crate::db::Server;
use crate::plan::{self, Situation};
use crate::receipt::{Progress, Receipt, VERSION};
use crate::table::SourceTable;
use crate::watermark::key::Key;
use crate::watermark::overlap::Position;
use crate::watermark::{Seen, Watermark};

/// What was seen of a table's keys.
#[derive(Clone, Debug)]
pub(super) struct Look {
    /// By the run's mark.
    pub(super) mark: Seen<String>,
    /// The greatest in the table's snapshot, where that was asked.
    pub(super) now: Option<String>,
}

impl Look {
    /// All of them.
    pub(super) fn keys(&self) -> Seen<Vec<&str>> {
        match (&self.mark, &self.now) {
            (Seen::NoKey, _) => Seen::NoKey,
            (Seen::Nothing, None) => Seen::Nothing,
            (Seen::Nothing, Some(now)) => Seen::Key(vec![now]),
            (Seen::Key(mark), now) => {
                Seen::Key(std::iter::once(mark).chain(now).map(String::as_str).collect())
            }
        }
    }
}

/// What a receipt says beside how far the sync before it had come.
pub(super) struct After<'a> {
    pub(super) marks: &'a Marks,
    /// The source table as it was before the marks were taken.
    pub(super) began: Option<&'a SourceTable>,
    /// The transaction of the destination that wrote the receipt before.
    pub(super) written_in: Option<u32>,
    pub(super) look: &'a Look,
}

/// The receipt of a sync that goes on from `before`, and that knows as much of the destination.
pub(super) fn next_receipt(
    pipeline: &str,
    situation: &Situation,
    before: &Progress,
    server: &Server,
    after: &After,
) -> Receipt {
    let source = situation.source;
    let seen = after.look.mark.as_deref();
    let key = situation.shape.key.as_ref();
    let mut position = server.position(source, None);
    // Of texts nobody knows whether they have gone back: then they count from a mark of the new history on.
    let unordered = |key: &Key| key.may_be_given_twice() && !key.may_go_back();
    let forgotten = key.is_some_and(unordered) && plan::has_lost(before, key, &position);
    let known = if forgotten { &Watermark::default() } else { &before.watermark };
    let mut watermark = after.marks.advance(seen, server, known, after.written_in);
    if let (Seen::Nothing, Some(now)) = (&after.look.mark, &after.look.now) {
        // Lower than what a mark has said is always safe.
        watermark = watermark.at_most(now);
    }
    position.start.clone_from(&watermark.start);
    let starts = watermark.start.as_deref().zip(before.watermark.start.as_deref());
    let fell_within_reach =
        key.zip(starts).is_some_and(|(key, (start, before))| key.fell_within_reach(start, before));
    if fell_within_reach {
        // What lies below what this sync has read was seen by none, so that nothing of it may be kept back.
        position.start.clone_from(&before.watermark.start);
    }
    if position.recovered_at.is_none() {
        // A standby says nothing of its primary's crashes, of which another sync may want to know.
        position.recovered_at = before.recovered_at();
    }
    let set_in = if fell_within_reach || watermark.start == before.watermark.start {
        before.watermark_set_in.clone()
    } else {
        // Keys that went back since the mark was taken are not seen by it.
        let at =
            |began| Position { unseen: None, ..server.position(began, watermark.start.clone()) };
        after.began.map(at)
    };
    let mut storage = source.storage.clone();
    // Who has copied the rows up to the watermark did not wait for transactions that were at work.
    let taken_over = before.storage.is_none() && before.watermark.start.is_some();
    if key.is_some() && (before.storage.is_some() || taken_over) {
        let safe = after.marks.are_safe(server, after.written_in);
        let moved = plan::moved(before, source, &position);
        let again = plan::again(before, source);
        for part in &mut storage {
            part.again =
                taken_over || moved.contains(&part.oid) || !safe && again.contains(&part.oid);
        }
    }
    Receipt {
        version: VERSION,
        pipeline: pipeline.to_owned(),
        origin: situation.origin.clone(),
        progress: Progress {
            position: Some(position),
            watermark_set_in: set_in,
            watermark,
            storage: Some(storage),
            lookback: key.and_then(Key::reach),
            reconciled_at: before.reconciled_at,
            destination: before.destination.clone(),
            either: Vec::new(),
        },
    }
}
