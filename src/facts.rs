//! What a plan for one table is made from, read from both servers.

use std::collections::BTreeMap;

use crate::catalog;
use crate::config::Rule;
use crate::connections::side_by_side;
use crate::db::{Server, Session};
use crate::error::Result;
use crate::plan::{self, Shape, Situation};
use crate::receipt::{Origin, SourceIdentity};
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
    /// `before` is what is known of the source's table from before.
    pub fn read(
        rule: &Rule,
        (name, before): (&Qualified, Option<&SourceTable>),
        table: &Qualified,
        source: &mut Session,
        destination: &mut Session,
    ) -> Result<Self> {
        let names = [table.name.as_str(), &staging_name(&table.name)];
        let (there, mut here) = side_by_side(
            || catalog::open_snapshot(source, name, before),
            || catalog::destination_tables(destination, &table.schema, &names),
        )?;
        Self::of(rule, table, there, &mut here, (&source.server, &destination.server))
    }

    /// The same from what was read already. What is taken of the destination's tables is removed.
    ///
    /// Fails where something in the rule does not fit the source table.
    pub fn of(
        rule: &Rule,
        table: &Qualified,
        source: SourceTable,
        here: &mut BTreeMap<String, DestinationTable>,
        (at_source, at_destination): (&Server, &Server),
    ) -> Result<Self> {
        let destination_version = at_destination.version;
        let shape = plan::shape(rule, &source, destination_version)?;
        let identity = SourceIdentity {
            system_identifier: at_source.system_identifier.clone(),
            address: at_source.system_identifier.is_none().then(|| at_source.address.clone()),
            database: at_source.database.clone(),
            database_oid: Some(at_source.database_oid),
            schema: source.name.schema.clone(),
            table: source.name.name.clone(),
        };
        let origin = plan::origin(rule, &source, &shape, identity);
        let destination = here.remove(&table.name);
        let staging = here.remove(&staging_name(&table.name));
        Ok(Self { source, shape, origin, destination, staging, destination_version })
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
