//! What a receipt says: how far a table has come, and what its copy was made with.
//!
//! The same content stands in the destination's `_sync_state` and in `sync-state/`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fault::{Fault, planted};
use crate::mapping;
use crate::table::{LABEL, Storage};
use crate::watermark::Watermark;
use crate::watermark::overlap::Position;

/// The version this tool writes. It reads all earlier ones.
pub const VERSION: u32 = 1;

/// How far a table has come, and what its copy was made with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The version of the format.
    pub version: u32,
    /// The pipeline that wrote it, for people.
    pub pipeline: String,
    /// What the copy was made with.
    #[serde(flatten)]
    pub origin: Origin,
    /// How far it has come.
    #[serde(flatten)]
    pub progress: Progress,
}

/// What a copy was made with. When one of these changes, the table is copied again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Where the rows come from.
    pub source: SourceIdentity,
    /// The source table's object identifier.
    pub source_table_oid: u32,
    /// The mode's name.
    pub mode: String,
    /// The replication key.
    pub replication_key: Option<String>,
    /// The columns that identify a row.
    pub unique_columns: Vec<String>,
    /// The columns that were copied.
    pub columns: Vec<CopiedColumn>,
    /// The condition that rows had to meet.
    pub filter: Option<String>,
    /// A digest of what decided which rows a view, a foreign table or a table with row-level security
    /// showed; empty for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
    /// The greatest number of a column that the source had, copied or not: one above it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_column: Option<i16>,
}

/// How far a copy has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The replication key to go on from.
    #[serde(flatten)]
    pub watermark: Watermark,
    /// The snapshot that was read last.
    pub position: Option<Position>,
    /// The snapshot of the sync that set the watermark where it is, for keys that go back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark_set_in: Option<Position>,
    /// Where the rows were stored then; what is new or was rewritten since is read whole.
    pub storage: Option<Vec<Storage>>,
    /// How far below the watermark was read: what a greater distance reaches was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookback: Option<String>,
    /// When rows that the source no longer has were looked for last, where that is not done in
    /// every sync.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconciled_at: Option<Timestamp>,
    /// For a table that is compared by digests: since when others would be noticed who write to it
    /// at the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Watch>,
    /// The snapshots of two syncs that speak of different ones: what the source may have lost since either counts.
    #[serde(skip)]
    pub either: Vec<Position>,
}

/// Since when rows of others are noticed at the destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// The cluster's own number, where the host tells it.
    pub system_identifier: Option<String>,
    /// The oldest transaction that may write after the sync had looked, in 64 bits.
    pub xmin: u64,
}

impl Watch {
    /// Whether it was begun on the cluster with this number: another one has other transactions.
    #[must_use]
    pub fn is_of(&self, system_identifier: Option<&str>) -> bool {
        system_identifier.is_some() && self.system_identifier.as_deref() == system_identifier
    }
}

impl Progress {
    /// Whether a receipt with this progress serves the next sync as well as one with `newer`, where
    /// no row travelled in between. What pending marks and a newer snapshot would spare it is not
    /// worth a write for every idle table in every run; that keys went back is.
    #[must_use]
    pub fn serves_as_well_as(&self, newer: &Self) -> bool {
        let of_one_history = match (&self.position, &newer.position) {
            (Some(one), Some(other)) => one.is_of_one_history(other),
            (one, other) => one.is_none() && other.is_none(),
        };
        self.watermark.start == newer.watermark.start
            && self.watermark.tells_of_keys_that_went_back_as(&newer.watermark)
            && self.storage == newer.storage
            && self.lookback == newer.lookback
            && self.reconciled_at == newer.reconciled_at
            && of_one_history
    }

    /// When the source had recovered from a crash last, as far as that was told. Where two syncs say different
    /// things, what neither of them would say again.
    #[must_use]
    pub fn recovered_at(&self) -> Option<String> {
        let told: BTreeSet<&str> = self
            .positions()
            .filter_map(|position| position.recovered_at.as_deref())
            .flat_map(|told| told.split(", "))
            .collect();
        (!told.is_empty()).then(|| told.into_iter().collect::<Vec<_>>().join(", "))
    }

    /// The snapshots of the sync before, or of both that it may have been.
    pub fn positions(&self) -> impl Iterator<Item = &Position> {
        self.position.iter().chain(&self.either)
    }

    /// Forgets what was read, where nobody knows whether the destination's rows are those that it speaks of: the
    /// next sync reads all. What the source has deleted is looked for when it is time.
    pub fn forget_rows(&mut self) {
        let either = self.positions().cloned().collect();
        *self = Self { either, reconciled_at: self.reconciled_at, ..Self::default() };
    }

    /// What both of two agree on: a sync that starts there reads all that either would. `start` is
    /// the lower of their watermarks.
    #[must_use]
    pub fn earlier(self, other: Self, start: Option<String>) -> Self {
        let either: Vec<Position> =
            [&self.position, &other.position].into_iter().flatten().cloned().collect();
        let position = match (self.position, other.position) {
            (Some(one), Some(other))
                if one.start == start && other.start == start && one.is_of_one_history(&other) =>
            {
                Some(if one.snapshot_xmin <= other.snapshot_xmin { one } else { other })
            }
            _ => None,
        };
        let storage = match (self.storage, other.storage) {
            (Some(one), Some(other)) => {
                Some(one.into_iter().filter(|part| other.contains(part)).collect())
            }
            _ => Some(Vec::new()),
        };
        Self {
            watermark: Watermark { start, ..Watermark::default() },
            position,
            watermark_set_in: None,
            either,
            storage,
            lookback: self.lookback.filter(|lookback| other.lookback.as_ref() == Some(lookback)),
            reconciled_at: self.reconciled_at.min(other.reconciled_at),
            destination: None,
        }
    }
}

/// Where rows come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceIdentity {
    /// The cluster's own number, where the host tells it.
    pub system_identifier: Option<String>,
    /// Where it is reached, if the host does not tell that number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The database.
    pub database: String,
    /// Its object identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_oid: Option<u32>,
    /// The schema.
    pub schema: String,
    /// The table.
    pub table: String,
}

/// A column as it was when it was copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiedColumn {
    /// Its name.
    pub name: String,
    /// Its number in the source table.
    pub number: i16,
    /// Its type at the source.
    pub data_type: String,
    /// The labels of its enum, what its composite or range is made of, or its expression.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<String>,
    /// Whether the parts are labels.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_enum: bool,
}

impl CopiedColumn {
    /// Whether it is the same column, with the same values, whatever its name.
    #[must_use]
    pub fn holds_the_same_as(&self, now: &Self) -> bool {
        self.number == now.number
            && mapping::same_type(&self.data_type, &now.data_type)
            && self.reads_as(now)
    }

    /// Whether the text of every value is what it was. A new label of an enum changes no value;
    /// one that was renamed does, and so does another attribute of a composite.
    fn reads_as(&self, now: &Self) -> bool {
        if planted(Fault::LabelsIgnored) {
            return true;
        }
        let split = |parts: &[String]| -> (Vec<String>, Vec<String>) {
            parts.iter().cloned().partition(|part| now.is_enum || part.starts_with(LABEL))
        };
        let ((labels, others), (now_labels, now_others)) = (split(&self.parts), split(&now.parts));
        // In their order: two that have changed places have changed all values.
        let mut rest = now_labels.iter();
        others.len() == now_others.len()
            && others.iter().zip(&now_others).all(|(before, now)| same_part(before, now))
            && labels.iter().all(|label| rest.any(|now| same_part(label, now)))
    }
}

impl Origin {
    /// Whether the rule asked for the same rows then: who has changed it has asked for another copy.
    #[must_use]
    pub fn is_of_the_same_rule(&self, now: &Self) -> bool {
        (&self.mode, &self.filter, &self.unique_columns)
            == (&now.mode, &now.filter, &now.unique_columns)
    }

    /// Whether it speaks of the table that there is now, and not of one in another database, on another server,
    /// or that was dropped.
    #[must_use]
    pub fn is_of_the_same_table(&self, now: &Self) -> bool {
        self.source.may_be(&now.source) && self.source_table_oid == now.source_table_oid
    }

    /// The same where its table is the one that there is now, under other numbers: columns are told by their names
    /// and types, and none of those that are gone has become another.
    #[must_use]
    pub fn moved_to(&self, now: &Self) -> Self {
        let column = |before: &CopiedColumn| {
            let same = |now: &&CopiedColumn| {
                now.name == before.name && mapping::same_type(&before.data_type, &now.data_type)
            };
            let gone = || CopiedColumn { number: 0, ..before.clone() };
            now.columns.iter().find(same).cloned().unwrap_or_else(gone)
        };
        Self {
            source: now.source.clone(),
            source_table_oid: now.source_table_oid,
            definition: now.definition.clone(),
            last_column: now.last_column,
            columns: self.columns.iter().map(column).collect(),
            ..self.clone()
        }
    }

    /// Why a copy made from here does not serve what is wanted now, as the second half of
    /// a sentence; `None` where it does.
    #[must_use]
    pub fn outdated_by(&self, now: &Self) -> Option<String> {
        if !self.source.may_be(&now.source) {
            let database_oid = self.source.database_oid;
            if self.source.may_be(&SourceIdentity { database_oid, ..now.source.clone() }) {
                let database = &now.source.database;
                return Some(format!(
                    "the source's database `{database}` was dropped and created again"
                ));
            }
            return Some(format!(
                "the source is {} now and was {} when it was copied",
                now.source.described(),
                self.source.described()
            ));
        }
        if self.source_table_oid != now.source_table_oid && !planted(Fault::NewTableTrusted) {
            return Some("the source table was dropped and created again".to_owned());
        }
        changed("mode", Some(&self.mode), Some(&now.mode))
            .or_else(|| {
                let (before, now) = (&self.replication_key, &now.replication_key);
                changed("replication_key", before.as_deref(), now.as_deref())
            })
            .or_else(|| {
                let list = |columns: &[String]| columns.join(", ");
                let (before, now) = (list(&self.unique_columns), list(&now.unique_columns));
                changed("unique_cols", Some(&before), Some(&now))
            })
            .or_else(|| changed("where", self.filter.as_deref(), now.filter.as_deref()))
            .or_else(|| {
                // Older receipts do not say it.
                let known = self.definition.is_some();
                let altered = known && self.definition != now.definition;
                altered.then(|| {
                    "the source decides otherwise which rows it shows: the view, the \
                    foreign table or its policies were altered, or our role was"
                        .to_owned()
                })
            })
            .or_else(|| self.changed_columns(now))
    }

    fn changed_columns(&self, now: &Self) -> Option<String> {
        for column in &now.columns {
            let Some(before) = self.columns.iter().find(|before| before.name == column.name) else {
                return Some(format!("the source has a new column `{}`", column.name));
            };
            if before.number != column.number {
                return Some(format!(
                    "the source's column `{}` is another one than before under the same name",
                    column.name
                ));
            }
            if !mapping::same_type(&before.data_type, &column.data_type) {
                return Some(format!(
                    "the source's column `{}` is {} now and was {}",
                    column.name, column.data_type, before.data_type
                ));
            }
        }
        let altered = now.columns.iter().find(|column| {
            let before = self.columns.iter().find(|before| before.name == column.name);
            before.is_some_and(|before| !before.reads_as(column))
        });
        if let Some(column) = altered {
            return Some(format!(
                "the type {} of the source's column `{}` was altered",
                column.data_type, column.name
            ));
        }
        let gone = self.columns.iter().find(|b| now.columns.iter().all(|c| c.name != b.name))?;
        Some(format!("the source's column `{}` is gone", gone.name))
    }
}

/// Whether a part is the one that it was. Older receipts know neither the number of an attribute,
/// which stands before its type, nor what tells a label from others of its name, which stands behind it.
fn same_part(before: &str, now: &str) -> bool {
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let unnumbered = now.split_once(' ').filter(|(first, _)| number(first)).map(|(_, rest)| rest);
    let untold = now.rsplit_once(' ').filter(|(_, last)| number(last)).map(|(rest, _)| rest);
    before == now || unnumbered == Some(before) || untold == Some(before)
}

impl SourceIdentity {
    /// Whether it is the same as far as is known: older receipts know neither address nor object
    /// identifier.
    #[must_use]
    pub fn may_be(&self, now: &Self) -> bool {
        let address = self.address.as_ref().and(now.address.clone());
        let database_oid = self.database_oid.and(now.database_oid);
        *self == Self { address, database_oid, ..now.clone() }
    }

    /// What it is called in messages.
    #[must_use]
    pub fn described(&self) -> String {
        let of = match (&self.system_identifier, &self.address) {
            (Some(id), _) => Some(format!(" of system {id}")),
            (None, Some(address)) => Some(format!(" at `{address}`")),
            (None, None) => None,
        };
        format!(
            "`{}.{}` in database `{}`{}",
            self.schema,
            self.table,
            self.database,
            of.unwrap_or_default()
        )
    }
}

fn changed(what: &str, before: Option<&str>, now: Option<&str>) -> Option<String> {
    let said = |value: Option<&str>| value.map_or_else(|| "unset".to_owned(), |v| format!("`{v}`"));
    (before != now).then(|| format!("`{what}` is {} now and was {}", said(now), said(before)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watermark::Mark;

    #[test]
    fn a_part_of_an_older_receipt_is_what_it_was_and_another_is_not() {
        for (before, now) in [
            ("sad", "sad 16390"),
            ("label sad", "label sad 16390"),
            ("integer", "1 integer"),
            ("numeric(10,2)", "12 numeric(10,2)"),
            ("sad 16390", "sad 16390"),
        ] {
            assert!(same_part(before, now), "{before} {now}");
        }
        for (before, now) in
            [("sad 16390", "sad 16395"), ("1 integer", "2 integer"), ("integer", "1 bigint")]
        {
            assert!(!same_part(before, now), "{before} {now}");
        }
    }

    #[test]
    fn when_the_source_recovered_is_known_as_long_as_two_do_not_say_different_things() {
        let at = |at: Option<&str>| Position {
            recovered_at: at.map(str::to_owned),
            ..Position::default()
        };
        let told = |position: Option<Position>, either: Vec<Position>| {
            Progress { position, either, ..Progress::default() }.recovered_at()
        };
        assert_eq!(told(None, Vec::new()), None);
        assert_eq!(told(Some(at(Some("1"))), Vec::new()).as_deref(), Some("1"));
        assert_eq!(told(None, vec![at(Some("1")), at(None)]).as_deref(), Some("1"));
        let both = told(None, vec![at(Some("1")), at(Some("2"))]);
        assert!(both.as_deref().is_some_and(|both| both != "1" && both != "2"));
        // Two hosts that read a standby in turns repeat what they have heard of each other.
        assert_eq!(told(None, vec![at(Some("1")), at(both.as_deref())]), both);
    }

    #[test]
    fn what_two_agree_on_reads_all_that_either_would() {
        let part = |oid| Storage { oid, file: oid, attached: None, unlogged: false, again: false };
        let watch = Watch { system_identifier: Some("7".to_owned()), xmin: 5 };
        let progress = |start: &str, snapshot_xmin, parts: &[u32], reconciled_at: Option<i64>| {
            let start = Some(start.to_owned());
            let position = Position { snapshot_xmin, start: start.clone(), ..Position::default() };
            let pending = vec![Mark { key: "9".to_owned(), in_flight: BTreeSet::new() }];
            Progress {
                watermark: Watermark { start, pending },
                position: Some(position.clone()),
                watermark_set_in: Some(position),
                storage: Some(parts.iter().map(|&oid| part(oid)).collect()),
                lookback: Some("3".to_owned()),
                reconciled_at: reconciled_at.map(|at| Timestamp::from_second(at).unwrap()),
                destination: Some(watch.clone()),
                either: Vec::new(),
            }
        };
        let seven = Some("7".to_owned());
        let newer = progress("7", 60, &[1, 2], Some(20));
        let older = progress("7", 50, &[2, 3], Some(10));
        for (one, other) in [(&newer, &older), (&older, &newer)] {
            let both = one.clone().earlier(other.clone(), seven.clone());
            assert_eq!(both.watermark, Watermark { start: seven.clone(), pending: Vec::new() });
            assert_eq!(both.position, older.position, "the older snapshot has seen less");
            assert_eq!(both.either.len(), 2);
            let elsewhere = other
                .position
                .clone()
                .map(|position| Position { timeline: Some("2".to_owned()), ..position });
            let elsewhere = Progress { position: elsewhere, ..other.clone() };
            assert_eq!(one.clone().earlier(elsewhere, seven.clone()).position, None);
            assert_eq!(both.watermark_set_in, None);
            assert_eq!(both.storage, Some(vec![part(2)]), "what one does not know is read whole");
            assert_eq!(both.lookback.as_deref(), Some("3"));
            assert_eq!(both.reconciled_at, older.reconciled_at);
            assert_eq!(both.destination, None, "who has written there since, neither can tell");
            // Of two lookbacks the lesser is not known to have been read with either.
            let longer = Progress { lookback: Some("4".to_owned()), ..other.clone() };
            assert_eq!(one.clone().earlier(longer, seven.clone()).lookback, None);
            let unknown = Progress { storage: None, position: None, ..other.clone() };
            let both = one.clone().earlier(unknown, seven.clone());
            assert_eq!((both.storage, both.position), (Some(Vec::new()), None));
            let not_yet = Progress { reconciled_at: None, ..other.clone() };
            assert_eq!(one.clone().earlier(not_yet, seven.clone()).reconciled_at, None);
        }
        let ahead = progress("8", 70, &[2], None);
        assert_eq!(newer.earlier(ahead, seven).position, None, "one was set in another snapshot");
    }

    #[test]
    fn what_older_receipts_do_not_know_of_the_source_is_no_change() {
        let source = |number: Option<&str>, address: Option<&str>| SourceIdentity {
            system_identifier: number.map(str::to_owned),
            address: address.map(str::to_owned),
            database: "shop".to_owned(),
            database_oid: Some(1),
            schema: "public".to_owned(),
            table: "t".to_owned(),
        };
        assert!(source(None, None).may_be(&source(None, Some("a:1/shop"))));
        assert!(!source(None, Some("b:1/shop")).may_be(&source(None, Some("a:1/shop"))));
        assert!(!source(None, Some("b:1/shop")).may_be(&source(Some("7"), None)));
        assert!(!source(Some("7"), None).may_be(&source(Some("8"), None)));
    }
}
