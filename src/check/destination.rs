//! What is already at a table's place at the destination.

use super::table::Tables;
use crate::catalog;
use crate::config::Side;
use crate::db::PLAIN_COLUMN;
use crate::error::{Error, Result};
use crate::inspect;
use crate::plan::{self, Decision, Situation, SyncType};
use crate::report::{About, Finding, ToCopy};
use crate::sql::session::Patience;
use crate::sql::{self, Qualified};
use crate::state;
use crate::table::Kind;
use crate::table::dependent::{Trigger, Unwritable};

impl Tables<'_> {
    /// What belongs to others, of these relations and of the views on them.
    pub(super) fn of_others(&mut self, into: &str, own: &[&str]) -> Result<()> {
        let sql = sql::inspect::owned_by_others(into, own);
        for row in self.destination.rows("look for tables of others", &sql)? {
            if let [Some(name), Some(owner)] = &row[..] {
                let error = Error::table(format!("`{into}.{name}` belongs to `{owner}`"));
                let hint = "let the destination's user own it, or belong to its owner";
                self.checkup.add(Finding::error(About::Side(Side::Destination), error.hint(hint)));
            }
        }
        let sql = sql::inspect::views_of_others(into, own);
        for row in self.destination.rows("look for views of others", &sql)? {
            if let [Some(name), Some(view), Some(owner)] = &row[..] {
                let said = format!(
                    "the view `{view}` on `{into}.{name}` belongs to `{owner}`, so no new copy can keep it"
                );
                let hint = format!("grant `{owner}` to the destination's user, or drop the view");
                let about = About::Side(Side::Destination);
                self.checkup.add(Finding::warning(about, &said, hint));
            }
        }
        Ok(())
    }

    /// What the next sync would say of the destination, and how much it would copy.
    pub(super) fn at_destination(
        &mut self,
        situation: &Situation,
        table: &Qualified,
    ) -> Vec<Finding> {
        let about = || About::Table(situation.rule.name.clone());
        let found = state::remember(&self.pipeline.directory, situation, self.destination);
        let decided = found.and_then(|found| {
            let decision = plan::decide(situation, &found.remembered, false)?;
            Ok((decision, found))
        });
        let mut found = Vec::new();
        let copies = match decided {
            Err(error) => {
                found.push(Finding::error(about(), error));
                false
            }
            Ok((Decision::Copy { sync_type, reason, .. }, known)) => {
                let ToCopy { tables, rows, bytes } = &mut self.checkup.to_copy;
                *tables += 1;
                *rows += situation.source.estimated_rows;
                *bytes += situation.source.estimated_bytes;
                let known = (&known.remembered, known.receipt.as_ref());
                let anothers = plan::replaces_anothers(situation, &self.pipeline.name, known);
                let replaces = plan::replaces(situation);
                let replaces =
                    replaces.filter(|_| sync_type == SyncType::Initial).map(|replaces| {
                        let hint = "if it is another pipeline's copy, give this one a \
                         \"destination_name\", or another DEST_SCHEMA";
                        (format!("{replaces}: {reason}"), hint)
                    });
                if let Some((does, hint)) = anothers.or(replaces) {
                    let said = format!("the next sync {does}");
                    found.push(Finding::warning(about(), &said, hint.to_owned()));
                }
                true
            }
            Ok((Decision::Merge { .. }, _)) => false,
        };
        if situation.destination.is_some_and(|there| there.kind == Kind::Table) {
            found.extend(self.put_on(situation, table, copies));
        }
        found
    }

    /// What people have put on the destination table that a sync or a new copy has to do with. The next sync
    /// `copies` it anew or not.
    fn put_on(&mut self, situation: &Situation, table: &Qualified, copies: bool) -> Vec<Finding> {
        let about = || About::Table(situation.rule.name.clone());
        let mut found = Vec::new();
        let dependents = catalog::dependents(self.destination, table, Patience::Short);
        let Ok(Some(dependents)) = dependents else { return found };
        let meddles =
            |trigger: &&Trigger| trigger.enabled != 'D' && trigger.definition.contains(" BEFORE ");
        if let Some(trigger) = dependents.triggers.iter().find(meddles) {
            found.push(Finding::warning(
                about(),
                &format!(
                    "the trigger `{}` of `{}` may leave rows out or alter them",
                    trigger.name,
                    table.plain()
                ),
                "have it let pass what the tool writes, or make it an AFTER trigger; `verify` tells \
                 what it has done"
                    .to_owned(),
            ));
        }
        let may_own = sql::inspect::may_create_in(&dependents.owner, &table.schema);
        if inspect::is_so(self.destination, &may_own) == Some(false) {
            let owner = &dependents.owner;
            found.push(Finding::warning(
                about(),
                &format!("`{owner}`, who owns `{}`, may own no new copy", table.plain()),
                format!(
                    "GRANT CREATE ON SCHEMA {} TO {}",
                    sql::identifier(&table.schema),
                    sql::identifier(owner)
                ),
            ));
        }
        let written = |it: &&Unwritable| {
            situation.shape.columns.iter().any(|column| column.name == it.column)
        };
        if let Some(Unwritable { what, .. }) = dependents.unwritable.iter().find(written) {
            let error = Error::table(format!(
                "no sync can write the {what} of `{}` at the destination",
                table.plain()
            ));
            found.push(Finding::error(about(), error.hint(PLAIN_COLUMN)));
        } else if let Some(lost) = dependents.beyond_us.first() {
            let said =
                format!("a new copy of `{}` would lose the {lost}, and is refused", table.plain());
            found.push(if copies {
                let hint = "the next sync wants to make one: drop it, and make it again afterwards";
                Finding::error(about(), Error::table(said).hint(hint))
            } else {
                let hint = "drop it before a new copy is called for, and make it again afterwards";
                Finding::warning(about(), &said, hint.to_owned())
            });
        }
        found
    }
}
