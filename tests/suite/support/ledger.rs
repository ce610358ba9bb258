//! What the source has promised a table's destination: for each row the versions it may have there.
//!
//! A write that moves the replication key must be found by the next sync. One that does not may be
//! found or not, and so may a deletion where deletes are kept. Both are written down here as
//! versions that are accepted, and nothing else is.

use std::collections::{BTreeMap, BTreeSet};

use super::judge::{Row, Rows};

/// What the next sync owes to a change at the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It must find the change.
    Surely,
    /// It may find it or not.
    Perhaps,
    /// The same, and what it had to find before is gone.
    PerhapsAnew,
}

/// One table's promises.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// The committed rows of the source.
    now: Rows,
    /// What each row may be at the destination; `None` is "not there".
    accepted: BTreeMap<String, BTreeSet<Option<String>>>,
    /// The destination's rows as they were last seen.
    there: Rows,
    /// The files whose rows the last sync has seen. Rows in others must be found, whatever their
    /// key is.
    seen_files: BTreeSet<String>,
    /// The files it has now, the empty ones too.
    files: BTreeSet<String>,
    /// The rows that the last sync has left as another version than the source's, as it may.
    unfound: BTreeSet<String>,
}

impl Ledger {
    /// The source has these rows now, in these files.
    pub fn note(&mut self, now: Rows, files: BTreeSet<String>, found: Found) {
        let absent = || BTreeSet::from([None]);
        for (key, row) in &now {
            if self.now.get(key).is_some_and(|before| before.text == row.text) {
                continue;
            }
            let accepted = self.accepted.entry(key.clone()).or_insert_with(absent);
            match found {
                Found::Surely => accepted.clear(),
                Found::Perhaps => {}
                Found::PerhapsAnew => {
                    accepted.insert(self.there.get(key).map(|row| row.text.clone()));
                }
            }
            accepted.insert(Some(row.text.clone()));
        }
        for key in self.now.keys().filter(|key| !now.contains_key(*key)) {
            let accepted = self.accepted.entry(key.clone()).or_insert_with(absent);
            accepted.insert(None);
            // What was to be replaced may stay now as it is.
            accepted.insert(self.there.get(key).map(|row| row.text.clone()));
        }
        (self.now, self.files) = (now, files);
    }

    /// The rows of the source.
    pub fn now(&self) -> &Rows {
        &self.now
    }

    /// How the destination differs from a whole copy of the source, if it does.
    pub fn unlike(&self, destination: &Rows) -> Option<String> {
        let keys: BTreeSet<&String> = self.now.keys().chain(destination.keys()).collect();
        keys.into_iter().find_map(|key| {
            let wanted = self.now.get(key).map(|row| Some(row.text.clone()));
            let wanted = BTreeSet::from([wanted.unwrap_or_default()]);
            told(key, &wanted, destination)
        })
    }

    /// How the destination breaks a promise, if it does.
    pub fn broken_by(&self, destination: &Rows) -> Option<String> {
        let nothing = BTreeSet::from([None]);
        let keys: BTreeSet<&String> = self.accepted.keys().chain(destination.keys()).collect();
        keys.into_iter().find_map(|key| match self.now.get(key) {
            Some(row) if row.key_is_null || !self.seen_files.contains(&row.file) => {
                told(key, &BTreeSet::from([Some(row.text.clone())]), destination)
            }
            _ => told(key, self.accepted.get(key).unwrap_or(&nothing), destination),
        })
    }

    /// The destination has these rows now.
    pub fn see(&mut self, destination: &Rows) {
        self.there.clone_from(destination);
    }

    /// A sync has succeeded and left these rows: what was found stays found.
    pub fn settle(&mut self, destination: &Rows) {
        self.accepted.clear();
        self.unfound.clear();
        for key in self.now.keys().chain(destination.keys()) {
            let there = |rows: &Rows| rows.get(key).map(|row| row.text.clone());
            let versions = [there(&self.now), there(destination)];
            if versions[0] != versions[1] {
                self.unfound.insert(key.clone());
            }
            self.accepted.insert(key.clone(), BTreeSet::from(versions));
        }
        self.seen_files = self.files.clone();
    }

    /// A sync may have got as far as its commit, and nobody knows.
    pub fn perhaps_seen(&mut self) {
        self.seen_files.extend(self.files.clone());
    }

    /// The destination's columns were followed in place: rows that it has kept while the source had
    /// none of their key, or another version that need not be found, have other columns now, which the
    /// source has never said anything of.
    pub fn accept_other_columns(&mut self, before: &Rows, after: &Rows) {
        for (key, row) in after.iter().filter(|(key, _)| before.contains_key(*key)) {
            let accepted = self.accepted.entry(key.clone()).or_default();
            let unfound = self.unfound.contains(key) || accepted.contains(&None);
            if unfound || !self.now.contains_key(key) {
                accepted.insert(Some(row.text.clone()));
            }
        }
    }

    /// Writers were at work during a sync: of what it found, the versions in between are accepted.
    pub fn accept(&mut self, destination: &Rows) {
        for (key, row) in destination.iter().filter(|(key, _)| !self.now.contains_key(*key)) {
            let versions = [None, Some(row.text.clone())];
            self.accepted.entry(key.clone()).or_default().extend(versions);
        }
    }
}

fn told(key: &str, accepted: &BTreeSet<Option<String>>, rows: &Rows) -> Option<String> {
    let found = rows.get(key).map(|row| row.text.clone());
    if accepted.contains(&found) {
        return None;
    }
    let shown = |version: &Option<String>| version.clone().unwrap_or_else(|| "no row".to_owned());
    let wanted: Vec<String> = accepted.iter().map(shown).collect();
    Some(format!("the row {key} must be {} and is {}", wanted.join(" or "), shown(&found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(pairs: &[(&str, &str)]) -> Rows {
        let row =
            |text: &str| Row { text: text.to_owned(), file: "1".to_owned(), key_is_null: false };
        pairs.iter().map(|(key, text)| ((*key).to_owned(), row(text))).collect()
    }

    fn note(ledger: &mut Ledger, pairs: &[(&str, &str)], found: Found) {
        ledger.note(rows(pairs), BTreeSet::from(["1".to_owned()]), found);
    }

    #[test]
    fn a_change_that_moves_the_key_must_be_found_and_another_may_be() {
        let mut ledger = Ledger::default();
        note(&mut ledger, &[("1", "a")], Found::Surely);
        ledger.settle(&rows(&[("1", "a")]));
        note(&mut ledger, &[("1", "b")], Found::Perhaps);
        assert_eq!(ledger.broken_by(&rows(&[("1", "a")])), None);
        assert_eq!(ledger.broken_by(&rows(&[("1", "b")])), None);
        note(&mut ledger, &[("1", "c")], Found::Surely);
        assert!(ledger.broken_by(&rows(&[("1", "b")])).is_some());
        assert_eq!(ledger.broken_by(&rows(&[("1", "c")])), None);
        assert!(ledger.broken_by(&rows(&[])).is_some());
    }

    #[test]
    fn what_was_to_be_found_need_not_be_once_it_is_gone_and_another_is_there() {
        let mut ledger = Ledger::default();
        note(&mut ledger, &[], Found::Surely);
        ledger.settle(&rows(&[]));
        note(&mut ledger, &[("1", "a")], Found::Surely);
        assert!(ledger.broken_by(&rows(&[])).is_some());
        note(&mut ledger, &[("1", "b")], Found::Perhaps);
        assert!(ledger.broken_by(&rows(&[])).is_some());
        note(&mut ledger, &[("1", "b,")], Found::PerhapsAnew);
        assert_eq!(ledger.broken_by(&rows(&[])), None);
        assert_eq!(ledger.broken_by(&rows(&[("1", "b,")])), None);
        assert!(ledger.broken_by(&rows(&[("1", "c")])).is_some());
    }

    #[test]
    fn a_row_that_is_deleted_before_its_change_was_found_may_stay_as_it_was() {
        let mut ledger = Ledger::default();
        note(&mut ledger, &[("1", "a")], Found::Surely);
        ledger.see(&rows(&[("1", "a")]));
        note(&mut ledger, &[("1", "b")], Found::Surely);
        assert!(ledger.broken_by(&rows(&[("1", "a")])).is_some());
        note(&mut ledger, &[], Found::Surely);
        assert_eq!(ledger.broken_by(&rows(&[("1", "a")])), None);
    }

    #[test]
    fn a_deleted_row_may_get_other_columns_and_a_row_that_was_not_there_may_not() {
        let mut ledger = Ledger::default();
        note(&mut ledger, &[("1", "a"), ("2", "b")], Found::Surely);
        let before = rows(&[("1", "a"), ("2", "b")]);
        ledger.settle(&before);
        note(&mut ledger, &[("2", "b,")], Found::Perhaps);
        let after = rows(&[("1", "a,"), ("2", "b;"), ("3", "c,")]);
        ledger.accept_other_columns(&before, &after);
        assert_eq!(ledger.broken_by(&rows(&[("1", "a,"), ("2", "b,")])), None);
        assert!(ledger.broken_by(&rows(&[("1", "a,"), ("2", "b;")])).is_some());
        assert!(ledger.broken_by(&rows(&[("1", "a,"), ("2", "b,"), ("3", "c,")])).is_some());
    }

    #[test]
    fn a_deleted_row_may_get_other_columns_though_its_key_is_there_again_unfound() {
        let mut ledger = Ledger::default();
        note(&mut ledger, &[("1", "a"), ("2", "b")], Found::Surely);
        let before = rows(&[("1", "a"), ("2", "b")]);
        ledger.settle(&before);
        ledger.see(&before);
        note(&mut ledger, &[], Found::Surely);
        note(&mut ledger, &[("1", "c"), ("2", "d")], Found::Perhaps);
        note(&mut ledger, &[("1", "c,"), ("2", "d,")], Found::Perhaps);
        note(&mut ledger, &[("1", "c,"), ("2", "e,")], Found::Surely);
        let after = rows(&[("1", "a,"), ("2", "b,")]);
        ledger.accept_other_columns(&before, &after);
        let told = ledger.broken_by(&after);
        assert!(told.is_some_and(|told| told.contains("the row 2")), "the second must be found");
    }

    #[test]
    fn a_version_that_need_not_be_found_may_get_other_columns_after_a_sync() {
        let mut ledger = Ledger::default();
        let before = rows(&[("1", "a")]);
        note(&mut ledger, &[("1", "b")], Found::Perhaps);
        ledger.settle(&before);
        note(&mut ledger, &[("1", "b,")], Found::Perhaps);
        let after = rows(&[("1", "a,")]);
        assert!(ledger.broken_by(&after).is_some());
        ledger.accept_other_columns(&before, &after);
        assert_eq!(ledger.broken_by(&after), None);
    }

    #[test]
    fn a_deleted_row_may_stay_and_a_row_the_source_never_had_may_not_be() {
        let mut ledger = Ledger::default();
        note(&mut ledger, &[("1", "a")], Found::Surely);
        ledger.settle(&rows(&[("1", "a")]));
        note(&mut ledger, &[], Found::Surely);
        assert_eq!(ledger.broken_by(&rows(&[("1", "a")])), None);
        assert_eq!(ledger.broken_by(&rows(&[])), None);
        assert!(ledger.unlike(&rows(&[("1", "a")])).is_some());
        assert!(ledger.broken_by(&rows(&[("1", "b")])).is_some());
        assert!(ledger.broken_by(&rows(&[("2", "a")])).is_some());
    }
}
