//! Works out what a table's sync has to do, and writes nothing.

use jiff::Timestamp;

use super::advance::{After, Look, next_receipt};
use super::table::TableSync;
use crate::catalog;
use crate::config::{Deletes, InitialPath, Mode};
use crate::error::Result;
use crate::plan::{
    self, Decision, Depth, Evolution, Expected, First, Merge, Plan, Reconciliation, Remembered,
    Since, Situation, SyncType,
};
use crate::receipt::{Progress, Receipt, Watch};
use crate::sql::digest;
use crate::sql::session::Patience;
use crate::state::{self, Found};
use crate::table::{Kind, SourceTable};
use crate::watermark::Seen;
use crate::watermark::key::Key;

/// The most partitions that are read by their bounds: conditions are to stay short.
const MOST_APART: usize = 100;

/// What a sync has to do.
pub(super) struct Prepared {
    pub(super) found: Found,
    pub(super) plan: Plan,
    pub(super) receipt: Receipt,
}

impl TableSync<'_> {
    /// Works out what a sync has to do. Nothing is written, on either side or here.
    pub(super) fn prepare(&mut self, situation: &Situation) -> Result<Prepared> {
        let mut found = state::remember(&self.pipeline.directory, situation, self.destination)?;
        let followed =
            self.request.source_moved && found.follow(situation.origin, &self.pipeline.name);
        let decision = plan::decide(situation, &found.remembered, self.request.full_refresh)?;
        if let Decision::Copy { reason, unasked: true, .. } = &decision
            && followed
            && situation.destination.is_some()
        {
            return Err(plan::cannot_follow(reason));
        }
        let (plan, receipt) = self.plan(situation, decision, &found)?;
        Ok(Prepared { found, plan, receipt })
    }

    /// How what was decided is done.
    pub(super) fn plan(
        &mut self,
        situation: &Situation,
        decision: Decision,
        found: &Found,
    ) -> Result<(Plan, Receipt)> {
        match decision {
            Decision::Merge { progress, reason, evolution } => {
                self.merge(situation, found, (&progress, reason, evolution.as_deref()))
            }
            Decision::Copy { sync_type, reason, unasked } => {
                self.copy(situation, found, (sync_type, reason, unasked))
            }
        }
    }

    fn merge(
        &mut self,
        situation: &Situation,
        found: &Found,
        (before, reason, evolution): (&Progress, String, Option<&Evolution>),
    ) -> Result<(Plan, Receipt)> {
        let there = evolution.map(|evolution| &evolution.destination);
        let destination = there.or(situation.destination);
        let look = self.look(situation, before)?;
        let source = &self.filled(situation, before)?;
        let situation = &Situation { source, destination, ..*situation };
        let watch = self.watch(source)?;
        let key = situation.shape.key.as_ref();
        let key = key.filter(|_| !evolution.is_some_and(Evolution::adds));
        let since = self.since(situation, before, found.written_beside_it, (key, &look))?;
        let reconciliation = self.reconciliation(situation, before, since.is_some());
        let reconciled_at = match &reconciliation {
            Some(_) => self.now_if_spaced_out(),
            None => before.reconciled_at,
        };
        let tells = plan::tells_what_is_newer(self.rule, source);
        // Where all rows were compared and need not have been, the next sync is to know.
        let noted = watch.is_none() || since.is_some() || !tells;
        let mut receipt = self.receipt(situation, before, (found.written_in, &look));
        receipt.progress.reconciled_at = reconciled_at;
        receipt.progress.destination = watch;
        let serves = |there: &Receipt| {
            there.origin == receipt.origin && there.progress.serves_as_well_as(&receipt.progress)
        };
        let known = noted && found.written_beside_it && found.receipt.as_ref().is_some_and(serves);
        // Of columns that are still to be made, nothing can be asked.
        let candidates = match evolution {
            None => plan::columns_to_refuse_null(situation),
            Some(_) => Vec::new(),
        };
        let holding_null =
            &catalog::columns_holding_null(self.destination, self.table, &candidates)?;
        let merge = Merge {
            reason,
            since,
            reconciliation,
            evolution,
            receipt: &receipt,
            known,
            holding_null,
        };
        let mut plan = plan::incremental(situation, merge);
        if let Remembered::Predecessor { greatest_key } = &found.remembered {
            plan.warnings.push(plan::taken_over(greatest_key));
        }
        Ok((plan, receipt))
    }

    fn copy(
        &mut self,
        situation: &Situation,
        found: &Found,
        (sync_type, reason, unasked): (SyncType, String, bool),
    ) -> Result<(Plan, Receipt)> {
        let before = &Progress::default();
        let (now, watch) = (self.now_if_spaced_out(), self.watch(situation.source)?);
        let look = self.look(situation, before)?;
        let source = &self.filled(situation, before)?;
        let situation = &Situation { source, ..*situation };
        let mut receipt = self.receipt(situation, before, (None, &look));
        receipt.progress.reconciled_at = now;
        receipt.progress.destination = watch;
        let dependents = match situation.destination {
            Some(_) => catalog::dependents(self.destination, self.table, Patience::Long)?,
            None => None,
        };
        let copied = found.receipt.as_ref().map(|receipt| &receipt.origin);
        let same_rule = copied.is_none_or(|copied| copied.is_of_the_same_rule(situation.origin));
        let first = First {
            unasked: unasked && same_rule,
            dependents: dependents.as_ref(),
            pg_dump_unusable: match self.rule.initial {
                InitialPath::PgDump => self.pg_dump.unusable().map(|unusable| &*unusable.why),
                InitialPath::Copy => None,
            },
            user: &self.destination.server.user,
            receipt: &receipt,
        };
        let mut plan = plan::initial(situation, sync_type, reason, &first)?;
        if !self.request.full_refresh {
            let known = (&found.remembered, found.receipt.as_ref());
            let anothers = plan::replaces_anothers(situation, &self.pipeline.name, known);
            let warning = |(does, hint)| format!("it {does}; {hint}");
            plan.warnings.extend(anothers.map(warning));
        }
        Ok((plan, receipt))
    }

    /// Which rows are read because they are newer than the last sync; none where all are compared.
    /// Without `key`, their transactions alone tell.
    ///
    /// A diff that knows that nobody else has written to its destination since, which is stored as it was then,
    /// needs to look for no difference but those that the source has made.
    fn since(
        &mut self,
        situation: &Situation,
        before: &Progress,
        written_beside_it: bool,
        (key, look): (Option<&Key>, &Look),
    ) -> Result<Option<Since>> {
        let source = situation.source;
        let position = self.source.server.position(source, None);
        let since = plan::since(before, (key, look.keys()), source, &position);
        if self.rule.mode != Mode::Diff {
            return Ok(Some(since));
        }
        let system_identifier = self.destination.server.system_identifier.as_deref();
        let watched = before.destination.as_ref().filter(|watch| {
            written_beside_it
                && watch.is_of(system_identifier)
                && plan::tells_what_is_newer(self.rule, source)
                && since.condition.is_some()
        });
        let Some(watch) = watched else { return Ok(None) };
        let sql = digest::written_since(self.table, &situation.receipts(), watch.xmin);
        let written = self.destination.value("look for rows of others", &sql)?;
        Ok((written.as_deref() == Some("f")).then_some(since))
    }

    /// The greatest keys: that of the table's mark, and where keys may have gone back since, or nobody has
    /// looked, that of the snapshot as well.
    fn look(&mut self, situation: &Situation, before: &Progress) -> Result<Look> {
        let source = situation.source;
        let mark = self.marks.key_of(&situation.table.name, source.oid, &self.source.server);
        let mark = mark.map(str::to_owned);
        let asked = situation.shape.key.as_ref().zip(before.watermark.start.as_ref()).filter(
            |(key, start)| match &mark {
                Seen::Key(mark) => key.may_have_gone_back(mark, start),
                Seen::Nothing => key.may_go_back(),
                Seen::NoKey => false,
            },
        );
        let Some((key, _)) = asked else { return Ok(Look { mark, now: None }) };
        let question = key.greatest(&source.name);
        let now = self.source.value("read the greatest replication key", &question)?;
        let mark = if now.is_some() { mark } else { Seen::NoKey };
        Ok(Look { mark, now })
    }

    /// The source table without those of its parts, new or rewritten since, that hold nothing yet: they are
    /// new once they hold something, whatever its key is. With the bounds of partitions that are to be read
    /// whatever the keys are.
    fn filled(&mut self, situation: &Situation, before: &Progress) -> Result<SourceTable> {
        let mut source = situation.source.clone();
        let now = self.source.server.position(&source, None);
        let new = match before.storage {
            Some(_) => plan::moved(before, &source, &now),
            // What is written to a table of one part is newer than its mark.
            None if source.storage.len() == 1 => Vec::new(),
            None => source.storage.iter().map(|part| part.oid).collect(),
        };
        if situation.shape.key.is_some() && !new.is_empty() {
            let empty = catalog::empty_parts(self.source, &new)?;
            source.storage.retain(|part| !empty.contains(&part.oid));
        }
        let mut apart = plan::again(before, &source);
        apart.extend(new);
        if !apart.is_empty() && apart.len() <= MOST_APART && source.kind == Kind::Partitioned {
            source.bounds = catalog::bounds(self.source, &apart)?;
        }
        Ok(source)
    }

    /// What a receipt says of the destination, so that the next diff, or verify, knows whether
    /// anybody else has written to it.
    fn watch(&mut self, source: &SourceTable) -> Result<Option<Watch>> {
        let diff = self.rule.mode == Mode::Diff && plan::tells_what_is_newer(self.rule, source);
        if !diff && !plan::keeps_keys_equal(self.rule) {
            return Ok(None);
        }
        let oldest =
            self.destination.value("ask for transactions in flight", digest::OLDEST_IN_FLIGHT)?;
        let system_identifier = self.destination.server.system_identifier.clone();
        Ok(oldest
            .and_then(|oldest| oldest.parse().ok())
            .map(|xmin| Watch { system_identifier, xmin }))
    }

    /// What the two sides are to find out about each other's rows in this sync, if anything.
    fn reconciliation(
        &self,
        situation: &Situation,
        before: &Progress,
        newer_are_read: bool,
    ) -> Option<Reconciliation> {
        let (depth, expected) = match self.rule.mode {
            Mode::Diff if newer_are_read => (Depth::Keys, Expected::Few),
            Mode::Diff => (Depth::Rows, Expected::Many),
            Mode::IncrementalDeduped => {
                if self.request.reconcile && self.rule.deletes == Deletes::Keep {
                    let said = "rows that the source no longer has stay: `deletes` is `keep`";
                    self.log.info(Some(&self.rule.name), said);
                }
                let (asked, last) = (self.request.reconcile, before.reconciled_at);
                let due = plan::is_due(self.rule, asked, last, Timestamp::now());
                due.then_some((Depth::Keys, Expected::Few))?
            }
            Mode::IncrementalAppend | Mode::FullRefresh => return None,
        };
        let comparison = plan::compare(situation, depth, expected, None);
        Some(plan::reconcile(situation, comparison, self.rule.deletes))
    }

    /// The receipt of a sync that goes on from `before`.
    fn receipt(
        &self,
        situation: &Situation,
        before: &Progress,
        (written_in, look): (Option<u32>, &Look),
    ) -> Receipt {
        let after = After { marks: self.marks, began: self.before, written_in, look };
        next_receipt(&self.pipeline.name, situation, before, &self.source.server, &after)
    }

    /// What a receipt says of the time of a reconcile: nothing where each sync does one.
    fn now_if_spaced_out(&self) -> Option<Timestamp> {
        let spaced_out = self.rule.deletes != Deletes::Keep && self.rule.mode != Mode::Diff;
        self.rule.reconcile_every.filter(|_| spaced_out).map(|_| Timestamp::now())
    }
}
