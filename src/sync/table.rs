//! One table's sync, from its snapshot to its state file.

use super::Request;
use super::marks::Marks;
use super::prepare::Prepared;
use crate::apply::{Application, Applied};
use crate::config::{Deletes, Pipeline, Rule};
use crate::crash;
use crate::db::Session;
use crate::error::{Error, Result, shell_quoted};
use crate::facts::Facts;
use crate::fault::{Fault, planted};
use crate::pg_dump::Installed;
use crate::plan::{self, Decision, Depth, Expected, Plan, Situation, SyncType};
use crate::progress::Progress;
use crate::receipt::Receipt;
use crate::report::{Log, TableReport};
use crate::sql::copy::Selection;
use crate::sql::{Qualified, session};
use crate::state::{self, Found, StateFile};
use crate::table::SourceTable;

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
                self.copy_instead(&found, report)?
            }
            Err(error)
                if self.rule.deletes == Deletes::Remove && plan.may_heal_by_removing(&error) =>
            {
                self.remove_first(&error, report)?
            }
            done => (facts, done?),
        };
        if self.request.verify {
            self.verify(&facts.situation(self.rule, self.table, true))?;
        }
        Ok(rows)
    }

    /// Copies the table anew. The snapshot may have ended, and the table have been altered since: what it is
    /// like is read once more.
    fn copy_instead(&mut self, found: &Found, report: &mut TableReport) -> Result<(Facts, u64)> {
        let facts = self.facts()?;
        let situation = facts.situation(self.rule, self.table, self.request.verify);
        let reason = "rows at the destination share their unique columns".to_owned();
        let decision = Decision::Copy { sync_type: SyncType::Initial, reason, unasked: true };
        let (plan, receipt) = self.plan(&situation, decision, found)?;
        let rows = self.apply(&plan, &receipt, found, report)?;
        Ok((facts, rows))
    }

    /// Syncs once more, and removes what the source no longer has before other rows come. What the table is
    /// like is read once more as well.
    fn remove_first(&mut self, why: &Error, report: &mut TableReport) -> Result<(Facts, u64)> {
        let said = format!("removing rows that the source no longer has first: {}", why.one_line());
        self.log.info(Some(&self.rule.name), &said);
        let facts = self.facts()?;
        let situation = facts.situation(self.rule, self.table, self.request.verify);
        let Prepared { found, plan, receipt } = self.prepare(&situation)?;
        let comparison = plan::compare(&situation, Depth::Keys, Expected::Few, None);
        let removal = plan::reconcile(&situation, comparison, Deletes::Remove);
        let rows = self.apply(&plan.removing_first(removal), &receipt, &found, report)?;
        Ok((facts, rows))
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

    /// Both sessions, ready to carry something out.
    fn application<'a>(&'a mut self, progress: &'a Progress) -> Application<'a> {
        let source = (&mut *self.source, &self.pipeline.source);
        Application::new(source, self.destination, (self.log, &self.rule.name), progress)
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
        let (directory, table) = (&*self.pipeline.directory, &*self.table.name);
        let state_file = |receipt| StateFile::write(directory, table, receipt);
        if planted(Fault::StateFileFirst) {
            state_file(receipt).take_place()?;
        }
        let expected = match plan.sync_type {
            SyncType::Initial | SyncType::FullRefresh => {
                state::forget(directory, table);
                self.before.map(|there| there.estimated_rows)
            }
            SyncType::Incremental | SyncType::Skipped => None,
        };
        let progress = self.log.progress(name, expected);
        match self.application(&progress).run(plan, || state_file(receipt))? {
            Applied::Rows { written, deleted, made } => {
                report.deleted_count = deleted;
                made.take_place()?;
                Ok(written)
            }
            Applied::Nothing => {
                if let Some(receipt) = found.receipt.as_ref().filter(|_| !found.file_repeats_it) {
                    state_file(receipt).take_place()?;
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
