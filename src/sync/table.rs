//! One table's sync, from its snapshot to its state file.

use jiff::Timestamp;

use super::Request;
use super::marks::Marks;
use crate::apply::{Application, Applied};
use crate::catalog;
use crate::config::{Deletes, InitialPath, Mode, Pipeline, Rule};
use crate::crash;
use crate::db::{Server, Session};
use crate::error::{Error, Result, shell_quoted};
use crate::facts::Facts;
use crate::fault::{Fault, planted};
use crate::pg_dump::Installed;
use crate::plan::{
    self, Decision, Depth, Evolution, Expected, First, Merge, Plan, Reconciliation, Remembered,
    Since, Situation, SyncType,
};
use crate::progress::Progress as Bar;
use crate::receipt::{Progress, Receipt, VERSION, Watch};
use crate::report::{Log, TableReport};
use crate::sql::copy::Selection;
use crate::sql::session::Patience;
use crate::sql::{Qualified, digest, session};
use crate::state::{self, Found};
use crate::table::{Kind, SourceTable};
use crate::watermark::Seen;
use crate::watermark::key::Key;
use crate::watermark::overlap::Position;

/// One table under its lock.
pub(super) struct TableSync<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) rule: &'a Rule,
    pub(super) table: &'a Qualified,
    /// What the source's catalog said of it when the run started.
    pub(super) before: Option<&'a SourceTable>,
    pub(super) log: &'a Log,
    pub(super) marks: &'a Marks,
    pub(super) pg_dump: &'a Installed,
    pub(super) request: &'a Request,
    pub(super) source: &'a mut Session,
    pub(super) destination: &'a mut Session,
}

/// The most partitions that are read by their bounds: conditions are to stay short.
const MOST_APART: usize = 100;

/// What a sync has to do.
pub(super) struct Prepared {
    pub(super) found: Found,
    pub(super) plan: Plan,
    pub(super) receipt: Receipt,
}

impl TableSync<'_> {
    /// Syncs the table and returns how many rows were copied or merged.
    pub(super) fn run(mut self, report: &mut TableReport) -> Result<u64> {
        let facts = self.facts()?;
        crash::at("snapshot-open");
        let situation = facts.situation(self.rule, self.table, self.request.verify);
        state::forget_half_written(&self.pipeline.directory, &self.table.name);
        let Prepared { found, plan, receipt } = self.prepare(&situation)?;
        for warning in &found.warnings {
            self.log.warning(Some(&self.rule.name), warning);
        }
        crash::at("planned");
        let (facts, rows) = match self.apply(&plan, &receipt, &found, report) {
            Err(error) if plan.heals_by_copying(&error) && self.keys_are_shared(&situation)? => {
                // The snapshot may have ended, and the table have been altered since.
                let facts = self.facts()?;
                let situation = facts.situation(self.rule, self.table, self.request.verify);
                let reason = "rows at the destination share their unique columns".to_owned();
                let sync_type = SyncType::Initial;
                let decision = Decision::Copy { sync_type, reason, unasked: true };
                let (plan, receipt) = self.plan(&situation, decision, &found)?;
                let rows = self.apply(&plan, &receipt, &found, report)?;
                (facts, rows)
            }
            done => (facts, done?),
        };
        if self.request.verify {
            self.verify(&facts.situation(self.rule, self.table, true))?;
        }
        Ok(rows)
    }

    /// Whether rows at the destination share their unique columns.
    fn keys_are_shared(&mut self, situation: &Situation) -> Result<bool> {
        let rows = Selection::all_of(self.table);
        let question = rows.shared_key(&situation.shape.unique_columns);
        let shared = self.destination.rows("look for rows with one key", &question)?;
        Ok(!shared.is_empty())
    }

    /// Opens the source's snapshot, and reads what the table is like in it and at the destination.
    pub(super) fn facts(&mut self) -> Result<Facts> {
        let name = Qualified::new(&self.pipeline.source.schema, &self.rule.name);
        let there = (&name, self.before);
        Facts::read(self.rule, there, self.table, self.source, self.destination)
    }

    /// Works out what a sync has to do. Nothing is written, on either side or here.
    pub(super) fn prepare(&mut self, situation: &Situation) -> Result<Prepared> {
        let found = state::remember(&self.pipeline.directory, situation, self.destination)?;
        let decision = plan::decide(situation, &found.remembered, self.request.full_refresh)?;
        let (plan, receipt) = self.plan(situation, decision, &found)?;
        Ok(Prepared { found, plan, receipt })
    }

    /// Both sessions, ready to carry something out.
    fn application<'a>(&'a mut self, progress: &'a Bar) -> Application<'a> {
        Application {
            source: self.source,
            endpoint: &self.pipeline.source,
            destination: self.destination,
            log: self.log,
            table: &self.rule.name,
            progress,
            many: false,
        }
    }

    /// Compares both sides in the snapshot that was copied: nothing can be newer than the sync.
    fn verify(&mut self, situation: &Situation) -> Result<()> {
        let name = &self.rule.name;
        let progress = self.log.progress(name, None);
        let mut application = self.application(&progress);
        let comparison = plan::compare(situation, Depth::Rows, Expected::Few, None);
        application.destination.run("begin a transaction", session::BEGIN_CONSISTENT)?;
        let compared = application.compare(&comparison)?;
        application.destination.run("end the comparison", session::ROLLBACK)?;
        application.source.run("end the snapshot", session::COMMIT)?;
        let mut differences = compared.differences;
        if !plan::keeps_keys_equal(self.rule) {
            // They stay because the rule says so, for good or until it is time.
            differences.extra -= compared.only_here.min(differences.extra);
        }
        if differences.is_wrong() {
            return Err(Error::table(format!(
                "the copy is not right: {}",
                differences.described()
            ))
            .hint(format!(
                "run `incremental-replication verify --table {}` to see which rows, and add \
                 --repair to put them right",
                shell_quoted(name)
            )));
        }
        let said = match compared.source_rows {
            Some(rows) => format!("verified: {rows} rows are equal"),
            None => "verified: every row is there".to_owned(),
        };
        self.log.info(Some(name), &said);
        Ok(())
    }

    fn plan(
        &mut self,
        situation: &Situation,
        decision: Decision,
        found: &Found,
    ) -> Result<(Plan, Receipt)> {
        match decision {
            Decision::Merge { progress, reason, evolution } => {
                let evolution = evolution.as_deref();
                let there = evolution.map(|evolution| &evolution.destination);
                let destination = there.or(situation.destination);
                let look = self.look(situation, &progress)?;
                let source = self.filled(situation, &progress)?;
                let situation = Situation { destination, source: &source, ..*situation };
                let situation = &situation;
                let watch = self.watch(situation.source)?;
                let key = situation.shape.key.as_ref();
                let key = key.filter(|_| !evolution.is_some_and(Evolution::adds));
                let beside = found.written_beside_it;
                let since = self.since(situation, &progress, beside, (key, &look))?;
                let reconciliation = self.reconciliation(situation, &progress, since.is_some());
                let reconciled_at = match &reconciliation {
                    Some(_) => self.now_if_spaced_out(),
                    None => progress.reconciled_at,
                };
                let tells = plan::tells_what_is_newer(self.rule, situation.source);
                // Where all rows were compared and need not have been, the next sync is to know.
                let noted = watch.is_none() || since.is_some() || !tells;
                let written_in = found.written_in;
                let mut receipt = self.receipt(situation, &progress, (written_in, &look));
                receipt.progress.reconciled_at = reconciled_at;
                receipt.progress.destination = watch;
                let known = noted
                    && found.written_beside_it
                    && found.receipt.as_ref().is_some_and(|there| {
                        there.origin == receipt.origin
                            && there.progress.serves_as_well_as(&receipt.progress)
                    });
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
            Decision::Copy { sync_type, reason, unasked } => {
                let (now, watch) = (self.now_if_spaced_out(), self.watch(situation.source)?);
                let before = Progress::default();
                let look = self.look(situation, &before)?;
                let source = self.filled(situation, &before)?;
                let situation = &Situation { source: &source, ..*situation };
                let mut receipt = self.receipt(situation, &before, (None, &look));
                receipt.progress.reconciled_at = now;
                receipt.progress.destination = watch;
                let dependents = match situation.destination {
                    Some(_) => catalog::dependents(self.destination, self.table, Patience::Long)?,
                    None => None,
                };
                let copied = found.receipt.as_ref().map(|receipt| &receipt.origin);
                let same_rule =
                    copied.is_none_or(|copied| copied.is_of_the_same_rule(situation.origin));
                let first = First {
                    unasked: unasked && same_rule,
                    dependents: dependents.as_ref(),
                    pg_dump_unusable: match self.rule.initial {
                        InitialPath::PgDump => self.pg_dump.unusable(),
                        InitialPath::Copy => None,
                    },
                    user: &self.destination.server.user,
                    receipt: &receipt,
                };
                let mut plan = plan::initial(situation, sync_type, reason, &first)?;
                if !self.request.full_refresh {
                    let pipeline = &self.pipeline.name;
                    let known = (&found.remembered, found.receipt.as_ref());
                    let anothers = plan::replaces_anothers(situation, pipeline, known);
                    let warning = |(does, hint)| format!("it {does}; {hint}");
                    plan.warnings.extend(anothers.map(warning));
                }
                Ok((plan, receipt))
            }
        }
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

    fn apply(
        &mut self,
        plan: &Plan,
        receipt: &Receipt,
        found: &Found,
        report: &mut TableReport,
    ) -> Result<u64> {
        let name = &self.rule.name;
        begin(self.log, report, plan.sync_type, &plan.reason);
        for warning in &plan.warnings {
            self.log.warning(Some(name), warning);
        }
        for note in &plan.notes {
            self.log.info(Some(name), note);
        }
        for detail in &plan.details {
            self.log.debug(Some(name), detail);
        }
        if planted(Fault::StateFileFirst) {
            state::write_file(&self.pipeline.directory, &self.table.name, receipt)?;
        }
        let expected = match plan.sync_type {
            SyncType::Initial | SyncType::FullRefresh => {
                state::forget(&self.pipeline.directory, &self.table.name);
                self.before.map(|there| there.estimated_rows)
            }
            SyncType::Incremental | SyncType::Skipped => None,
        };
        let progress = self.log.progress(name, expected);
        let applied = self.application(&progress).run(plan)?;
        let directory = &self.pipeline.directory;
        match applied {
            Applied::Rows { written, deleted } => {
                report.deleted_count = deleted;
                state::write_file(directory, &self.table.name, receipt)?;
                Ok(written)
            }
            Applied::Nothing => {
                if let Some(receipt) = found.receipt.as_ref().filter(|_| !found.file_repeats_it) {
                    state::write_file(directory, &self.table.name, receipt)?;
                }
                Ok(0)
            }
        }
    }
}

/// Says what is about to be done to a table, and why.
pub(super) fn begin(log: &Log, report: &mut TableReport, sync_type: SyncType, reason: &str) {
    report.sync_type = sync_type;
    report.reason = Some(reason.to_owned());
    log.info(Some(&report.name), &format!("{} sync: {reason}", sync_type.name()));
}

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
    let mut watermark = after.marks.advance(seen, server, &before.watermark, after.written_in);
    if let (Seen::Nothing, Some(now)) = (&after.look.mark, &after.look.now) {
        // Lower than what a mark has said is always safe.
        watermark = watermark.at_most(now);
    }
    let position = server.position(source, watermark.start.clone());
    let set_in = if watermark.start == before.watermark.start {
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
    if situation.shape.key.is_some() && (before.storage.is_some() || taken_over) {
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
            lookback: situation.shape.key.as_ref().and_then(Key::reach),
            reconciled_at: before.reconciled_at,
            destination: before.destination.clone(),
        },
    }
}
