//! The argument under attack: random histories of transactions and syncs, in which no row may be
//! lost. No database; many thousand histories a second.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;

use super::{Activity, Mark, Seen, Watermark};

/// Where keys come from.
#[derive(Clone, Copy, Debug)]
enum KeySource {
    /// `now()`: the transaction's begin.
    Begin,
    /// `clock_timestamp()`: the moment of the write.
    Clock,
    /// A sequence.
    Sequence,
}

#[derive(Clone, Debug)]
enum Op {
    Begin,
    Write {
        transaction: Index,
        row: u8,
    },
    Commit(Index),
    Abort(Index),
    Prepare(Index),
    CommitPrepared(Index),
    /// All unprepared transactions end, and virtual transaction ids start again.
    Restart,
    /// A step of a sync that is under way, or the begin of one.
    SyncStep,
    /// A sync under way is killed.
    Crash,
}

struct Transaction {
    id: String,
    begun: u64,
    writes: BTreeMap<u8, u64>,
}

/// What a sync has done so far.
enum Sync {
    Greatest(Option<u64>),
    Mark(Seen<Mark>),
    Settled(Seen<Mark>, Activity),
}

#[derive(Default)]
struct World {
    clock: u64,
    sequence: u64,
    next_id: u32,
    active: Vec<Transaction>,
    prepared: Vec<Transaction>,
    source: BTreeMap<u8, u64>,
    destination: BTreeMap<u8, u64>,
    receipt: Watermark,
    copied: bool,
    sync: Option<Sync>,
}

impl World {
    fn apply(&mut self, op: &Op, keys: KeySource) {
        // Ties are likely: the clock often stands still.
        match op {
            Op::Begin if self.active.len() < 4 => {
                self.next_id += 1;
                let id = format!("{}/{}", self.active.len(), self.next_id);
                self.active.push(Transaction { id, begun: self.clock, writes: BTreeMap::new() });
            }
            Op::Write { transaction, row } if !self.active.is_empty() => {
                self.clock += u64::from(*row % 2);
                self.sequence += 1;
                let at = transaction.index(self.active.len());
                let key = match keys {
                    KeySource::Begin => self.active[at].begun,
                    KeySource::Clock => self.clock,
                    KeySource::Sequence => self.sequence,
                };
                // A row that another transaction holds would wait for it.
                let held = |t: &Transaction| t.writes.contains_key(row);
                let others = self.active.iter().enumerate().filter(|(other, _)| *other != at);
                let blocked = others.map(|(_, t)| t).chain(&self.prepared).any(held);
                if !blocked {
                    self.active[at].writes.insert(*row, key);
                }
            }
            Op::Commit(index) if !self.active.is_empty() => {
                let at = index.index(self.active.len());
                let transaction = self.active.remove(at);
                self.source.extend(transaction.writes);
            }
            Op::Abort(index) if !self.active.is_empty() => {
                self.active.remove(index.index(self.active.len()));
            }
            Op::Prepare(index) if !self.active.is_empty() => {
                let transaction = self.active.remove(index.index(self.active.len()));
                self.prepared.push(transaction);
            }
            Op::CommitPrepared(index) if !self.prepared.is_empty() => {
                let transaction = self.prepared.remove(index.index(self.prepared.len()));
                self.source.extend(transaction.writes);
            }
            Op::Restart => {
                self.active.clear();
                self.next_id = 0;
                self.sync = None;
            }
            Op::SyncStep => self.sync_step(),
            Op::Crash => self.sync = None,
            _ => {}
        }
    }

    fn activity(&self) -> Activity {
        Activity {
            transactions: self.active.iter().map(|t| t.id.clone()).collect(),
            prepared: self.prepared.iter().map(|t| t.id.clone()).collect(),
        }
    }

    fn sync_step(&mut self) {
        self.sync = match self.sync.take() {
            None => Some(Sync::Greatest(self.source.values().max().copied())),
            Some(Sync::Greatest(greatest)) => {
                let in_flight: BTreeSet<String> = self.activity().transactions;
                let mark = |key: u64| Mark { key: key.to_string(), in_flight };
                Some(Sync::Mark(greatest.map_or(Seen::NoKey, |key| Seen::Key(mark(key)))))
            }
            Some(Sync::Mark(mark)) => Some(Sync::Settled(mark, self.activity())),
            Some(Sync::Settled(mark, still_active)) => {
                self.copy(mark, &still_active);
                None
            }
        };
    }

    /// The snapshot, the merge and the receipt, which are one transaction at the destination.
    fn copy(&mut self, mark: Seen<Mark>, still_active: &Activity) {
        let start: Option<u64> = self.receipt.start.as_ref().and_then(|key| key.parse().ok());
        let wanted = |key: u64| !self.copied || start.is_none_or(|start| key >= start);
        self.destination.extend(self.source.iter().filter(|(_, key)| wanted(**key)));
        self.receipt = self.receipt.advance(mark, still_active);
        self.copied = true;
    }

    /// All transactions end and one sync runs undisturbed.
    fn come_to_rest(&mut self) {
        while let Some(transaction) = self.active.pop().or_else(|| self.prepared.pop()) {
            self.source.extend(transaction.writes);
        }
        self.sync = None;
        for _ in 0..4 {
            self.sync_step();
        }
    }
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => Just(Op::Begin),
        8 => (any::<Index>(), 0..12u8).prop_map(|(transaction, row)| Op::Write { transaction, row }),
        4 => any::<Index>().prop_map(Op::Commit),
        1 => any::<Index>().prop_map(Op::Abort),
        1 => any::<Index>().prop_map(Op::Prepare),
        1 => any::<Index>().prop_map(Op::CommitPrepared),
        8 => Just(Op::SyncStep),
        1 => Just(Op::Crash),
    ];
    let restart = prop_oneof![40 => op, 1 => Just(Op::Restart)];
    proptest::collection::vec(restart, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_row_is_lost_in_any_history(
        ops in ops(),
        keys in prop_oneof![
            Just(KeySource::Begin), Just(KeySource::Clock), Just(KeySource::Sequence)
        ],
    ) {
        let mut world = World::default();
        for op in &ops {
            world.apply(op, keys);
        }
        world.come_to_rest();
        prop_assert_eq!(&world.destination, &world.source);
        // And at rest the watermark comes as far as the greatest key.
        world.come_to_rest();
        let greatest = world.source.values().max().map(u64::to_string);
        prop_assert_eq!(&world.receipt.start, &greatest);
    }
}
