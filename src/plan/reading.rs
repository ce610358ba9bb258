//! Which rows a merge reads: what changed since the last sync, and nothing that could be left out.

use super::Situation;
use crate::config::Rule;
use crate::fault::{Fault, planted};
use crate::receipt::Progress;
use crate::sql::copy::{Selection, in_tables, or_in_tables};
use crate::table::{SourceTable, Storage};
use crate::watermark::Seen;
use crate::watermark::key::Key;
use crate::watermark::overlap::{self, Position};

/// The condition on the rows of a merge, and what the log should say about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// No condition: all rows are read.
    pub condition: Option<String>,
    /// The condition on those of other parts, which are read beside them, if there are any.
    pub apart: Option<String>,
    /// What somebody should look at.
    pub warnings: Vec<String>,
    /// For the log.
    pub notes: Vec<String>,
    /// For the log with `-v`: why unchanged rows of the overlap travel again, if they do.
    pub details: Vec<String>,
}

impl Since {
    /// The rows that are read.
    #[must_use]
    pub fn selection(&self, situation: &Situation) -> Selection {
        let (condition, apart) = (self.condition.clone(), self.apart.clone());
        let rows = situation.shape.selection(situation.rule, situation.source, condition);
        Selection { apart, ..rows }
    }
}

/// Works out which rows to read after a sync that left `before`. `seen` are the greatest keys when the run
/// began, and now.
#[must_use]
pub fn since(
    before: &Progress,
    (key, seen): (Option<&Key>, Seen<Vec<&str>>),
    source: &SourceTable,
    now: &Position,
) -> Since {
    let mut since = Since::default();
    let mut moved = moved(before, source, now);
    let start = before.watermark.start.as_deref();
    let has_lost = has_lost(before, key, now);
    if has_lost {
        let note = if key.is_some_and(Key::may_be_given_twice) {
            "the source was failed over or restored, or has crashed, and may have given keys twice since: all \
             rows are read"
        } else {
            "the source was failed over or restored, and may have taken rows back: all rows are read"
        };
        since.notes.push(note.to_owned());
    }
    let from = key
        .zip(start)
        .filter(|(key, start)| !key.is_at_the_bottom(start) && seen != Seen::NoKey && !has_lost)
        .map(|(key, start)| format!("({})", key.since(start)));
    let recent = match source.lacks_xmin() {
        Some(why) => Err(why.to_owned()),
        None if before.position.as_ref().is_some_and(|p| p.start != before.watermark.start) => {
            Err("the watermark was set to another value".to_owned())
        }
        None if key.is_some_and(|key| key.reach() != before.lookback) => {
            Err("it is not the same as before".to_owned())
        }
        None => overlap::condition(before.position.as_ref(), now, source.snapshot.xmax),
    };
    let again = again(before, source);
    let mut apart = Vec::new();
    let from = match (&recent, from) {
        (Ok(recent), Some(from)) if !again.is_empty() => match rows_of(&again, source) {
            Some(rows) => {
                apart.push(format!("{rows} AND {recent}"));
                Some(from)
            }
            None => Some(format!("({})", or_in_tables(&from, &again))),
        },
        (Err(_), from) => {
            moved.extend(&again);
            from
        }
        (_, from) => from,
    };
    if let Err(why) = &recent {
        since.details.push(format!("unchanged rows of the overlap are read again: {why}"));
    }
    if before.positions().any(|position| overlap::history_changed(Some(position), now)) {
        since.warnings.push(
            "the source is on another timeline than before, so it was failed over or restored: \
             rows that it lost may still be at the destination; `sync --full-refresh` removes them"
                .to_owned(),
        );
    }
    let conditions: Vec<String> = from.into_iter().chain(recent.ok()).collect();
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
    let mut condition = conditions.join(" AND ");
    let kept = before.watermark.pending.iter().map(|mark| mark.key.as_str());
    let marks: Vec<&str> = match seen {
        Seen::Key(keys) => keys.into_iter().chain(kept).collect(),
        Seen::Nothing => kept.collect(),
        Seen::NoKey => Vec::new(),
    };
    if let Some((key, start)) = key.zip(start)
        && let Some((least, back)) =
            key.went_back(&marks, start, since_then(before, source, now).as_deref())
    {
        since.details.push(format!(
            "the greatest replication key may have gone back: {least} now, {start} before"
        ));
        condition = format!("({condition}) OR ({back})");
    }
    if !moved.is_empty() {
        let parts = if moved.len() == 1 { "one part of it is" } else { "parts of it are" };
        since.notes.push(format!("{parts} new or rewritten since, and read whole"));
        match rows_of(&moved, source) {
            Some(rows) => apart.push(rows),
            None => condition = or_in_tables(&condition, &moved),
        }
    }
    since.condition = Some(condition);
    since.apart = (!apart.is_empty()).then(|| apart.join(" OR "));
    since
}

/// The condition on the rows of some partitions by which the planner leaves others alone; none where the
/// bounds of one are not known.
fn rows_of(partitions: &[u32], source: &SourceTable) -> Option<String> {
    let bounds: Option<Vec<&str>> =
        partitions.iter().map(|oid| source.bounds.get(oid).map(String::as_str)).collect();
    Some(format!("{} AND ({})", in_tables(partitions), bounds?.join(" OR ")))
}

/// Whether the source may have lost rows that were read, so that all are read once more: it was failed over
/// or restored to an earlier time, and what it has lost may be an update. After a crash, which takes back the
/// last moment at most, where others may have got the keys of lost rows.
#[must_use]
pub fn has_lost(before: &Progress, key: Option<&Key>, now: &Position) -> bool {
    let Some(key) = key else { return false };
    let lost = |position: &Position| {
        overlap::history_changed(Some(position), now)
            || key.may_be_given_twice() && overlap::may_have_lost(Some(position), now)
    };
    before.positions().any(lost)
}

/// The condition on rows that were written since the watermark stands where it does; none where nothing
/// tells.
fn since_then(before: &Progress, source: &SourceTable, now: &Position) -> Option<String> {
    let set_in = before.watermark_set_in.as_ref().filter(|_| source.lacks_xmin().is_none());
    overlap::condition(set_in, now, source.snapshot.xmax).ok()
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
    if planted(Fault::AllPending) || has_lost(before, key, now) {
        return Some("true".to_owned());
    }
    let start = before.watermark.start.as_deref();
    let position = before.position.as_ref().filter(|_| source.lacks_xmin().is_none());
    let newer = overlap::newer(position, now, source.snapshot.xmax).ok();
    // Where nothing but the key tells what is newer, the lookback would hide too much.
    let read = |(key, start): (&Key, &str)| {
        let within_reach = newer.is_some() && !key.is_at_the_bottom(start);
        if within_reach { key.since(start) } else { key.from(start) }
    };
    let above = key.zip(start).map(read).map(|condition| format!("({condition})"));
    let again = again(before, source);
    let above = match above {
        Some(above) if newer.is_some() && !again.is_empty() => {
            Some(format!("({})", or_in_tables(&above, &again)))
        }
        above => above,
    };
    let conditions: Vec<String> = above.into_iter().chain(newer).collect();
    if conditions.is_empty() {
        // Then the next sync reads all rows, and where the one after it will know more, so may we wait for it.
        // A key that can be a watermark will be one then.
        let passing = now.tells() && source.lacks_xmin().is_none();
        return if passing { Some("true".to_owned()) } else { key.map(Key::can_be_a_watermark) };
    }
    let condition = conditions.join(" AND ");
    let known = before.storage.as_deref().unwrap_or_default();
    let new = |part: &&Storage| known.iter().all(|known| known.oid != part.oid);
    let attached: Vec<u32> = source.storage.iter().filter(new).map(|part| part.oid).collect();
    let told = before.storage.is_some() && source.readable && !attached.is_empty();
    Some(if told { or_in_tables(&condition, &attached) } else { condition })
}

/// The tables with rows of this one that are where they were, and are to be read by their transactions
/// whatever the keys are.
#[must_use]
pub fn again(before: &Progress, source: &SourceTable) -> Vec<u32> {
    let known = before.storage.as_deref().unwrap_or_default();
    let again = |part: &&Storage| known.iter().any(|known| known.again && part.is_still(known));
    source.storage.iter().filter(again).map(|part| part.oid).collect()
}

/// The tables with rows of this one that are new since, or whose rows were rewritten: attached
/// partitions and reloaded tables may hold old keys and old transactions.
#[must_use]
pub fn moved(before: &Progress, source: &SourceTable, now: &Position) -> Vec<u32> {
    let Some(known) = &before.storage else { return Vec::new() };
    if planted(Fault::StorageIgnored) {
        return Vec::new();
    }
    let undisturbed = before.position.as_ref().is_some_and(|before| {
        before.running_since.is_some() && before.running_since == now.running_since
    });
    let is_still = |part: &&Storage| {
        (undisturbed || !part.unlogged) && known.iter().any(|known| part.is_still(known))
    };
    let parts = source.storage.iter().filter(|part| !is_still(part));
    parts.map(|part| part.oid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Kind, Snapshot, Unseen};
    use crate::watermark::Watermark;
    use crate::watermark::key::{KeyType, Lookback};

    const PARTS: [Storage; 2] = [part(1, 10), part(2, 20)];

    const fn part(oid: u32, file: u32) -> Storage {
        Storage { oid, file, attached: None, unlogged: false, again: false }
    }

    fn source(storage: &[Storage]) -> SourceTable {
        SourceTable {
            storage: storage.to_vec(),
            snapshot: Snapshot { xmin: 90, xmax: 99, in_flight: None },
            ..SourceTable::bare()
        }
    }

    fn position(start: Option<&str>) -> Position {
        Position {
            system_identifier: Some("7".to_owned()),
            timeline: Some("1".to_owned()),
            running_since: Some("noon".to_owned()),
            recovered_at: Some("dawn".to_owned()),
            snapshot_xmin: 50,
            start: start.map(str::to_owned),
            unseen: Some(Unseen { from: 60, in_flight: vec![50] }),
        }
    }

    fn before(start: Option<&str>, storage: &[Storage]) -> Progress {
        Progress {
            watermark: Watermark { start: start.map(str::to_owned), ..Watermark::default() },
            position: Some(position(start)),
            storage: Some(storage.to_vec()),
            lookback: Some("3".to_owned()),
            ..Progress::default()
        }
    }

    fn key() -> Key {
        Key {
            column: "at".to_owned(),
            key_type: KeyType::Integer,
            sql_type: "integer".to_owned(),
            lookback: Some(Lookback::Number(3)),
        }
    }

    const RECENT: &str = "age(xmin) <= age('50'::xid) AND age(xmin) > -1048576";
    const NEWER: &str = "age(xmin) <= age('50'::xid) AND age(xmin) > -1048576 \
                         AND (age(xmin) <= age('60'::xid) OR xmin = ANY ('{50}'::xid[]))";

    #[test]
    fn rows_are_read_from_the_watermark_less_the_lookback_and_unchanged_ones_are_not() {
        let key = key();
        let read = |before: &Progress, key: Option<&Key>, source: &SourceTable| {
            since(before, (key, Seen::Nothing), source, &position(None)).condition
        };
        let from = "(\"at\" >= '7'::integer - 3 OR \"at\" IS NULL)";
        let whole = before(Some("7"), &PARTS);
        let both = format!("{from} AND {RECENT}");
        assert_eq!(read(&whole, Some(&key), &source(&PARTS)), Some(both));
        assert_eq!(read(&whole, None, &source(&PARTS)), Some(RECENT.to_owned()));
        let view = SourceTable { kind: Kind::View, ..source(&[]) };
        assert_eq!(read(&whole, Some(&key), &view), Some(from.to_owned()));
        // Somebody set the watermark back.
        let set_back = Progress { position: Some(position(Some("9"))), ..whole.clone() };
        assert_eq!(read(&set_back, Some(&key), &source(&PARTS)), Some(from.to_owned()));
        let bottom = before(Some("-1"), &PARTS);
        assert_eq!(read(&bottom, Some(&key), &source(&PARTS)), Some(RECENT.to_owned()));
    }

    #[test]
    fn where_the_key_went_back_what_was_written_since_the_watermark_was_set_is_read() {
        let set_in = Position { snapshot_xmin: 30, ..position(None) };
        let set = Progress { watermark_set_in: Some(set_in.clone()), ..before(Some("7"), &PARTS) };
        let read = |before: &Progress, mark| {
            let key = key();
            since(before, (Some(&key), Seen::Key(vec![mark])), &source(&PARTS), &position(None))
                .condition
        };
        let usual = format!("(\"at\" >= '7'::integer - 3 OR \"at\" IS NULL) AND {RECENT}");
        assert_eq!(read(&set, "7"), Some(usual.clone()));
        assert_eq!(read(&set, "8"), Some(usual.clone()));
        let back = "'6'::integer < '7'::integer";
        let recent = "age(xmin) <= age('30'::xid) AND age(xmin) > -1048576";
        let since_then = format!("({usual}) OR ({back} AND {recent})");
        assert_eq!(read(&set, "6"), Some(since_then));
        let whole = Some(format!("({usual}) OR ({back})"));
        assert_eq!(read(&before(Some("7"), &PARTS), "6"), whole);
        let elsewhere = Position { running_since: Some("one".to_owned()), ..set_in };
        let restarted = Progress { watermark_set_in: Some(elsewhere), ..set };
        assert_eq!(read(&restarted, "6"), whole);
    }

    #[test]
    fn where_numbers_may_have_been_given_twice_all_rows_are_read_and_where_a_clock_gave_them_they_are_not()
     {
        let old = before(Some("7"), &PARTS);
        let crashed = Position {
            recovered_at: Some("dusk".to_owned()),
            running_since: Some("one".to_owned()),
            ..position(None)
        };
        let read =
            |key: &Key| since(&old, (Some(key), Seen::Key(vec!["9"])), &source(&PARTS), &crashed);
        let found = read(&key());
        assert_eq!(found.condition, None);
        assert!(found.notes[0].contains("may have given keys twice"), "{found:?}");
        assert_eq!(unseen(&old, Some(&key()), &source(&PARTS), &crashed), Some("true".to_owned()));
        let clock = Key { key_type: KeyType::TimestampWithTimeZone, ..key() };
        assert!(read(&clock).condition.is_some());
        // Where two syncs are spoken of, either may be the one before.
        let either = vec![position(None), crashed.clone()];
        let two = Progress { position: None, either, ..before(Some("7"), &PARTS) };
        let found = since(&two, (Some(&key()), Seen::Nothing), &source(&PARTS), &crashed);
        assert_eq!(found.condition, None);
    }

    #[test]
    fn new_parts_are_read_whole_and_so_is_a_table_that_was_rewritten() {
        let old = before(None, &PARTS[..1]);
        let read = since(&old, (None, Seen::Nothing), &source(&PARTS), &position(None));
        assert_eq!(read.condition, Some(format!("({RECENT}) OR tableoid IN (2)")));
        assert!(read.notes[0].starts_with("one part of it is new"), "{read:?}");
        let rewritten = [part(1, 11)];
        let read = since(&old, (None, Seen::Nothing), &source(&rewritten), &position(None));
        assert_eq!(read.condition, None);
        assert!(read.notes[0].contains("all rows are read"), "{read:?}");
        let idle =
            since(&before(None, &PARTS), (None, Seen::Nothing), &source(&PARTS), &position(None));
        assert_eq!((idle.notes.len(), idle.details.len()), (0, 0));
    }

    #[test]
    fn a_part_that_was_new_is_read_by_its_transactions_once_more() {
        let again = Storage { again: true, ..PARTS[1] };
        let old = before(Some("7"), &[PARTS[0], again]);
        let read = |source: &SourceTable| {
            since(&old, (Some(&key()), Seen::Key(vec!["9"])), source, &position(None))
        };
        let from = "(\"at\" >= '7'::integer - 3 OR \"at\" IS NULL)";
        let either = format!("(({from}) OR tableoid IN (2)) AND {RECENT}");
        let found = read(&source(&PARTS));
        assert_eq!((found.condition, found.notes.len()), (Some(either), 0));
        // A standby that was restarted tells nothing by transactions.
        let elsewhere = Position { running_since: Some("one".to_owned()), ..position(None) };
        let found = since(&old, (Some(&key()), Seen::Nothing), &source(&PARTS), &elsewhere);
        assert_eq!(found.condition, Some(format!("({from}) OR tableoid IN (2)")));
        let pending = unseen(&old, Some(&key()), &source(&PARTS), &position(None)).unwrap();
        assert_eq!(pending, format!("(({from}) OR tableoid IN (2)) AND {NEWER}"));
    }

    #[test]
    fn partitions_whose_bounds_are_known_are_read_apart() {
        let key = key();
        let bounds = |oids: &[u32]| oids.iter().map(|&oid| (oid, format!("bound {oid}"))).collect();
        let read = |before: &Progress, known: &[u32]| {
            let source = SourceTable { bounds: bounds(known), ..source(&PARTS) };
            let since = since(before, (Some(&key), Seen::Key(vec!["9"])), &source, &position(None));
            (since.condition.unwrap_or_default(), since.apart)
        };
        let usual = format!("(\"at\" >= '7'::integer - 3 OR \"at\" IS NULL) AND {RECENT}");
        let new = before(Some("7"), &PARTS[..1]);
        let apart = Some("tableoid IN (2) AND (bound 2)".to_owned());
        assert_eq!(read(&new, &[2]), (usual.clone(), apart));
        assert_eq!(read(&new, &[1]), (format!("({usual}) OR tableoid IN (2)"), None));
        let again = Storage { again: true, ..PARTS[1] };
        let again = before(Some("7"), &[PARTS[0], again]);
        let apart = Some(format!("tableoid IN (2) AND (bound 2) AND {RECENT}"));
        assert_eq!(read(&again, &[2]), (usual, apart));
    }

    #[test]
    fn pending_is_what_the_last_snapshot_did_not_see_and_the_next_sync_reads() {
        let now = position(None);
        let whole = before(Some("7"), &PARTS);
        let pending = unseen(&whole, Some(&key()), &source(&PARTS), &now).unwrap();
        let from = "(\"at\" >= '7'::integer - 3 OR \"at\" IS NULL)";
        assert_eq!(pending, format!("{from} AND {NEWER}"));
        let bottom = unseen(&before(Some("-1"), &PARTS), Some(&key()), &source(&PARTS), &now);
        let from = "(\"at\" >= '-1'::integer OR \"at\" IS NULL)";
        assert_eq!(bottom.unwrap(), format!("{from} AND {NEWER}"));
        // A view tells nothing but the key, and the lookback would hide too much.
        let view = SourceTable { kind: Kind::View, ..source(&[]) };
        let pending = unseen(&whole, Some(&key()), &view, &now).unwrap();
        assert_eq!(pending, "(\"at\" >= '7'::integer OR \"at\" IS NULL)");
        assert_eq!(unseen(&whole, None, &view, &now), None);
        // Where nothing tells, and the next sync reads all, what it will find is pending; where nothing ever
        // will, it is not.
        let elsewhere = Position { running_since: Some("one".to_owned()), ..position(None) };
        let all = Some("true".to_owned());
        assert_eq!(unseen(&whole, None, &source(&PARTS), &elsewhere), all);
        assert_eq!(unseen(&before(None, &PARTS), Some(&key()), &source(&PARTS), &elsewhere), all);
        let pending = unseen(&before(None, &[]), Some(&key()), &view, &now);
        assert_eq!(pending.as_deref(), Some("\"at\" IS NOT NULL"));
        for silent in [
            Position { system_identifier: None, ..position(None) },
            Position { timeline: None, ..position(None) },
            Position { running_since: None, ..position(None) },
        ] {
            assert_eq!(unseen(&whole, None, &source(&PARTS), &silent), None);
        }
        // A part that was attached is newer, one that was rewritten is not.
        let parts = [part(1, 11), PARTS[1]];
        let old = before(None, &PARTS[..1]);
        let pending = unseen(&old, None, &source(&parts), &now).unwrap();
        assert_eq!(pending, format!("({NEWER}) OR tableoid IN (2)"));
    }

    #[test]
    fn a_filter_a_policy_and_a_view_may_hide_what_changed() {
        let filtered = |filter: Option<&str>| {
            let rule = serde_json::json!([{"name": "t", "mode": "diff", "where": filter}]);
            crate::config::rules_for_tests(&rule.to_string()).remove(0)
        };
        assert!(tells_what_is_newer(&filtered(None), &source(&PARTS)));
        assert!(!tells_what_is_newer(&filtered(Some("true")), &source(&PARTS)));
        let view = SourceTable { kind: Kind::View, ..source(&[]) };
        assert!(!tells_what_is_newer(&filtered(None), &view));
        let guarded = SourceTable { row_security: true, ..source(&PARTS) };
        assert!(!tells_what_is_newer(&filtered(None), &guarded));
    }
}
