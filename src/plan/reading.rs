//! Which rows a merge reads: what changed since the last sync, and nothing that could be left out.

use crate::config::Rule;
use crate::fault::{Fault, planted};
use crate::receipt::Progress;
use crate::sql::copy::or_in_tables;
use crate::table::{SourceTable, Storage};
use crate::watermark::key::Key;
use crate::watermark::overlap::{self, Position};

/// The condition on the rows of a merge, and what the log should say about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// No condition: all rows are read.
    pub condition: Option<String>,
    /// For the log.
    pub notes: Vec<String>,
    /// For the log with `-v`: why unchanged rows of the overlap travel again, if they do.
    pub details: Vec<String>,
}

/// Works out which rows to read after a sync that left `before`.
#[must_use]
pub fn since(before: &Progress, key: Option<&Key>, source: &SourceTable, now: &Position) -> Since {
    let mut since = Since::default();
    let moved = moved(before, source);
    let start = before.watermark.start.as_deref();
    let key = key
        .zip(start)
        .filter(|(key, start)| !key.is_at_the_bottom(start))
        .map(|(key, start)| format!("({})", key.since(start)));
    let recent = match source.lacks_xmin() {
        Some(why) => Err(why.to_owned()),
        None if before.position.as_ref().is_some_and(|p| p.start != before.watermark.start) => {
            Err("the watermark was set to another value".to_owned())
        }
        None => overlap::condition(before.position.as_ref(), now, source.snapshot.xmax),
    };
    if let Err(why) = &recent {
        since.details.push(format!("unchanged rows of the overlap are read again: {why}"));
    }
    if overlap::history_changed(before.position.as_ref(), now) {
        since.notes.push(
            "the source is on another timeline than before, so it was failed over or restored: \
             rows that it lost may still be at the destination; `sync --full-refresh` removes them"
                .to_owned(),
        );
    }
    let conditions: Vec<String> = key.into_iter().chain(recent.ok()).collect();
    // Where only some columns may be read, tableoid is not among them.
    let whole = moved.len() == source.storage.len() || !source.readable;
    if conditions.is_empty() || whole && !moved.is_empty() {
        if !conditions.is_empty() {
            since
                .notes
                .push("the table was rewritten or emptied since, so all rows are read".to_owned());
        }
        return since;
    }
    let condition = conditions.join(" AND ");
    since.condition = Some(if moved.is_empty() {
        condition
    } else {
        let parts = if moved.len() == 1 { "one part of it is" } else { "parts of it are" };
        since.notes.push(format!("{parts} new or rewritten since, and read whole"));
        or_in_tables(&condition, &moved)
    });
    since
}

/// Whether what changed in a table can be told by the transactions that wrote its rows alone. What
/// a filter or a policy lets through may depend on other tables.
#[must_use]
pub fn tells_what_is_newer(rule: &Rule, source: &SourceTable) -> bool {
    source.lacks_xmin().is_none() && rule.filter.is_none() && !source.row_security
}

/// The condition on rows that were written since the sync that left `before`, so that the next one
/// reads them; none where nothing tells them.
#[must_use]
pub fn unseen(
    before: &Progress,
    key: Option<&Key>,
    source: &SourceTable,
    now: &Position,
) -> Option<String> {
    if planted(Fault::AllPending) {
        return Some("true".to_owned());
    }
    let start = before.watermark.start.as_deref();
    let position = before.position.as_ref().filter(|_| source.lacks_xmin().is_none());
    let newer = overlap::newer(position, now, source.snapshot.xmax).ok();
    // Where nothing but the key tells what is newer, the lookback would hide too much.
    let read = |(key, start): (&Key, &str)| {
        if newer.is_some() { key.since(start) } else { key.from(start) }
    };
    let above = key.zip(start).map(read).map(|condition| format!("({condition})"));
    let conditions: Vec<String> = above.into_iter().chain(newer).collect();
    if conditions.is_empty() {
        return None;
    }
    let condition = conditions.join(" AND ");
    let known = before.storage.as_deref().unwrap_or_default();
    let new = |part: &&Storage| known.iter().all(|known| known.oid != part.oid);
    let attached: Vec<u32> = source.storage.iter().filter(new).map(|part| part.oid).collect();
    let told = before.storage.is_some() && source.readable && !attached.is_empty();
    Some(if told { or_in_tables(&condition, &attached) } else { condition })
}

/// The tables with rows of this one that are new since, or whose rows were rewritten: attached
/// partitions and reloaded tables may hold old keys and old transactions.
fn moved(before: &Progress, source: &SourceTable) -> Vec<u32> {
    let Some(known) = &before.storage else { return Vec::new() };
    if planted(Fault::StorageIgnored) {
        return Vec::new();
    }
    let parts = source.storage.iter().filter(|part| !known.contains(part));
    parts.map(|part| part.oid).collect()
}
