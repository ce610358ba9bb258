//! What a plan for one table is made from, read from both servers.

use crate::catalog;
use crate::config::Rule;
use crate::db::Session;
use crate::error::Result;
use crate::plan::{self, Shape, Situation};
use crate::receipt::Origin;
use crate::sql::Qualified;
use crate::table::{DestinationTable, SourceTable, staging_name};

/// One table as it is at both ends.
#[derive(Clone, Debug)]
pub struct Facts {
    source: SourceTable,
    shape: Shape,
    origin: Origin,
    destination: Option<DestinationTable>,
    staging: Option<DestinationTable>,
    destination_version: u32,
}

impl Facts {
    /// Opens the source's transaction, and reads the table's shape in it and at the destination.
    pub fn read(
        rule: &Rule,
        schema: &str,
        table: &Qualified,
        source: &mut Session,
        destination: &mut Session,
    ) -> Result<Self> {
        let there = catalog::open_snapshot(source, &Qualified::new(schema, &rule.name))?;
        let destination_version = destination.server.version;
        let shape = plan::shape(rule, &there, destination_version)?;
        let server = &source.server;
        let identity = (server.system_identifier.as_deref(), server.database.as_str());
        let origin = plan::origin(rule, &there, &shape, identity);
        let staging = staging_name(&table.name);
        let names = [table.name.as_str(), staging.as_str()];
        let [here, staging] = catalog::destination_tables(destination, &table.schema, names)?;
        Ok(Self { source: there, shape, origin, destination: here, staging, destination_version })
    }

    /// The same for a plan. `snapshot_kept` as in [`Situation`].
    #[must_use]
    pub fn situation<'a>(
        &'a self,
        rule: &'a Rule,
        table: &'a Qualified,
        snapshot_kept: bool,
    ) -> Situation<'a> {
        Situation {
            rule,
            source: &self.source,
            shape: &self.shape,
            table,
            destination: self.destination.as_ref(),
            staging: self.staging.as_ref(),
            destination_version: self.destination_version,
            origin: &self.origin,
            snapshot_kept,
        }
    }
}
