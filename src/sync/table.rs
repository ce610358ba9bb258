//! One table's sync, from its snapshot to its state file.

use super::marks::Marks;
use crate::apply::{Application, Applied};
use crate::catalog;
use crate::config::{Pipeline, Rule};
use crate::crash;
use crate::db::Session;
use crate::error::Result;
use crate::fault::{Fault, planted};
use crate::plan::{self, Decision, First, Merge, Plan, Shape, Situation, SyncType};
use crate::progress::Progress as Bar;
use crate::receipt::{CopiedColumn, Origin, Progress, Receipt, SourceIdentity, VERSION};
use crate::report::{Log, TableReport, Verbosity};
use crate::sql::{Qualified, session};
use crate::state::{self, Found};
use crate::table::{Kind, SourceTable, staging_name};
use crate::watermark::overlap::Position;

/// One table under its lock.
pub(super) struct TableSync<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) rule: &'a Rule,
    pub(super) table: &'a Qualified,
    pub(super) log: &'a Log,
    pub(super) marks: &'a Marks,
    pub(super) pg_dump_unusable: Option<&'a str>,
    pub(super) source: &'a mut Session,
    pub(super) destination: &'a mut Session,
}

impl TableSync<'_> {
    /// Syncs the table and returns how many rows were copied or merged.
    pub(super) fn run(mut self, full_refresh: bool, report: &mut TableReport) -> Result<u64> {
        let source = self.open_snapshot()?;
        crash::at("snapshot-open");
        let shape = plan::shape(self.rule, &source, self.destination.server.version)?;
        let origin = self.origin(&source, &shape);
        let staging = staging_name(&self.table.name);
        let names = [self.table.name.as_str(), staging.as_str()];
        let [destination, staging] =
            catalog::destination_tables(self.destination, &self.table.schema, names)?;
        let situation = Situation {
            rule: self.rule,
            source: &source,
            shape: &shape,
            table: self.table,
            destination: destination.as_ref(),
            staging: staging.as_ref(),
            destination_version: self.destination.server.version,
            origin: &origin,
        };
        let found = state::remember(
            &self.pipeline.directory,
            self.table,
            destination.as_ref(),
            shape.key.as_ref(),
            self.destination,
        )?;
        for warning in &found.warnings {
            self.log.warning(Some(&self.rule.name), warning);
        }
        let decision = plan::decide(&situation, &found.remembered, full_refresh)?;
        let (plan, receipt) = self.plan(&situation, decision, &found)?;
        crash::at("planned");
        match self.apply(&plan, &receipt, &found, report) {
            Err(error) if plan.heals_by_copying(&error) => {
                self.open_snapshot()?;
                let reason = "rows at the destination share their unique columns".to_owned();
                let decision = Decision::Copy { sync_type: SyncType::Initial, reason };
                let (plan, receipt) = self.plan(&situation, decision, &found)?;
                self.apply(&plan, &receipt, &found, report)
            }
            done => done,
        }
    }

    /// Opens the source's transaction and reads the table's shape in it.
    fn open_snapshot(&mut self) -> Result<SourceTable> {
        let name = Qualified::new(&self.pipeline.source.schema, &self.rule.name);
        // What it is decides whether it can be locked, and is looked up before the snapshot.
        let table = catalog::source_table(self.source, &name)?;
        let lockable = table.readable && matches!(table.kind, Kind::Table | Kind::Partitioned);
        let lock = lockable.then_some(&name);
        self.source.run("lock the table", &session::begin_snapshot(lock))?;
        catalog::source_table(self.source, &name)
    }

    fn origin(&self, source: &SourceTable, shape: &Shape) -> Origin {
        let copied = |name: &str| {
            let column = source.column(name)?;
            Some(CopiedColumn {
                name: column.name.clone(),
                number: column.number,
                data_type: column.data_type.declared.clone(),
                parts: column.data_type.parts.clone(),
                is_enum: column.data_type.is_enum(),
            })
        };
        let key = self.rule.replication_key.as_ref().filter(|_| self.rule.mode.has_key());
        Origin {
            source: SourceIdentity {
                system_identifier: self.source.server.system_identifier.clone(),
                database: self.source.server.database.clone(),
                schema: source.name.schema.clone(),
                table: source.name.name.clone(),
            },
            source_table_oid: source.oid,
            mode: self.rule.mode.name().to_owned(),
            replication_key: key.map(|key| key.name().to_owned()),
            unique_columns: shape.unique_columns.clone(),
            columns: shape.names().into_iter().filter_map(copied).collect(),
            filter: self.rule.filter.clone(),
        }
    }

    /// Where the present snapshot stands, for a receipt with this watermark.
    fn position(&self, source: &SourceTable, start: Option<String>) -> Position {
        Position {
            start,
            system_identifier: self.source.server.system_identifier.clone(),
            timeline: self.source.server.timeline.clone(),
            snapshot_xmin: source.snapshot.xmin,
        }
    }

    /// The receipt of a sync that goes on from `before`.
    fn receipt(&self, situation: &Situation, before: &Progress) -> Receipt {
        let source = situation.source;
        let mark = self.marks.of(&self.rule.name, source.oid);
        let watermark = before.watermark.advance(mark, &self.marks.still_active);
        Receipt {
            version: VERSION,
            pipeline: self.pipeline.name.clone(),
            origin: situation.origin.clone(),
            progress: Progress {
                position: Some(self.position(source, watermark.start.clone())),
                watermark,
                storage: Some(source.storage.clone()),
            },
        }
    }

    fn plan(
        &mut self,
        situation: &Situation,
        decision: Decision,
        found: &Found,
    ) -> Result<(Plan, Receipt)> {
        match decision {
            Decision::Merge { progress, reason } => {
                let receipt = self.receipt(situation, &progress);
                let source = situation.source;
                let key = situation.shape.key.as_ref();
                let since = plan::since(&progress, key, source, &self.position(source, None));
                let known = found.receipt.as_ref().is_some_and(|there| {
                    there.origin == receipt.origin
                        && there.progress.serves_as_well_as(&receipt.progress)
                });
                let candidates = plan::columns_to_refuse_null(situation);
                let holding_null =
                    catalog::columns_holding_null(self.destination, self.table, &candidates)?;
                let holding_null = &holding_null;
                let merge = Merge { reason, since, receipt: &receipt, known, holding_null };
                Ok((plan::incremental(situation, merge), receipt))
            }
            Decision::Copy { sync_type, reason } => {
                let receipt = self.receipt(situation, &Progress::default());
                let dependents = match situation.destination {
                    Some(_) => catalog::dependents(self.destination, self.table)?,
                    None => None,
                };
                let first = First {
                    dependents: dependents.as_ref(),
                    pg_dump_unusable: self.pg_dump_unusable,
                    user: &self.destination.server.user,
                    receipt: &receipt,
                };
                Ok((plan::initial(situation, sync_type, reason, &first)?, receipt))
            }
        }
    }

    fn apply(
        &mut self,
        plan: &Plan,
        receipt: &Receipt,
        found: &Found,
        report: &mut TableReport,
    ) -> Result<u64> {
        let name = &self.rule.name;
        report.sync_type = plan.sync_type;
        report.reason = Some(plan.reason.clone());
        self.log.info(Some(name), &format!("{} sync: {}", plan.sync_type.name(), plan.reason));
        for note in &plan.notes {
            self.log.info(Some(name), note);
        }
        for detail in &plan.details {
            self.log.debug(Some(name), detail);
        }
        if planted(Fault::StateFileFirst) {
            state::write_file(&self.pipeline.directory, &self.table.name, receipt)?;
        }
        let progress = Bar::start(name, self.log.verbosity > Verbosity::Quiet);
        let applied = Application {
            source: self.source,
            endpoint: &self.pipeline.source,
            destination: self.destination,
            log: self.log,
            table: name,
            progress: &progress,
        }
        .run(plan)?;
        let directory = &self.pipeline.directory;
        match applied {
            Applied::Rows(rows) => {
                state::write_file(directory, &self.table.name, receipt)?;
                Ok(rows)
            }
            Applied::Nothing => {
                self.source.run("end the snapshot", session::COMMIT)?;
                if let Some(receipt) = found.receipt.as_ref().filter(|_| !found.file_repeats_it) {
                    state::write_file(directory, &self.table.name, receipt)?;
                }
                Ok(0)
            }
        }
    }
}
