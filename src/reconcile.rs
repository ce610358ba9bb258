//! The two sides find out which of their rows differ, and the destination's are put right.

use crate::apply::{Application, debug};
use crate::config::{Deletes, Side};
use crate::connections::side_by_side;
use crate::copy;
use crate::crash;
use crate::db::Session;
use crate::digest::{Bucket, Buckets, Compared, Differences, Mended};
use crate::error::{Error, Result};
use crate::fault::{Fault, planted};
use crate::plan::{Comparison, Mending, Reconciliation, Step};
use crate::sql::copy::Format;
use crate::sql::digest;

/// How many rows are asked for by their digests: enough for most differences, and little memory.
/// Where there are more, all rows of the buckets that differ are read.
const MOST_WANTED: usize = 100_000;

/// The SQLSTATE of what a role is not allowed to do.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

impl Application<'_> {
    /// Compares, and puts right what differs. `None` where nothing does. Of an attempt that was undone just
    /// before, the server still counts the rows: then it is not asked how many are new.
    pub(crate) fn reconcile(
        &mut self,
        reconciliation: &Reconciliation,
        undone_before: bool,
    ) -> Result<Option<Mended>> {
        let compared = self.compare(&reconciliation.comparison)?;
        if compared.looked_into.is_none() {
            return Ok(None);
        }
        crash::at("compared");
        let inserted = match compared.differences.extra {
            extra if extra > 0 && !undone_before => self.inserted(&reconciliation.comparison)?,
            _ => 0,
        };
        let mended = self.mend(reconciliation, &compared, inserted)?;
        let nothing = mended == Mended::default();
        Ok((!nothing).then_some(mended))
    }

    /// Compares the rows of both sides. The destination is in a transaction.
    pub fn compare(&mut self, comparison: &Comparison) -> Result<Compared> {
        let compared = self.compare_all(comparison)?;
        self.steps(comparison.undisturbed.as_slice())?;
        Ok(compared)
    }

    fn compare_all(&mut self, comparison: &Comparison) -> Result<Compared> {
        for session in [&mut *self.source, &mut *self.destination] {
            session.run("set a setting", digest::SETTINGS)?;
        }
        let mut compared = Compared {
            source_rows: None,
            destination_rows: None,
            differences: Differences::default(),
            unequal: 0,
            to_be_removed: 0,
            only_here: 0,
            looked_into: None,
        };
        let buckets = if comparison.versions {
            // The destination holds more than the source: no sum can agree.
            Buckets::all(1)
        } else {
            let (source, destination) = self.both_sides(comparison)?;
            let rows = |side: &[Bucket]| Some(side.iter().map(|bucket| bucket.rows).sum());
            compared.source_rows = rows(&source);
            compared.destination_rows = rows(&destination);
            Buckets::differing(comparison.buckets, &source, &destination)
        };
        let (differing, of) = buckets.counted();
        let said = format!("{differing} of {of} buckets differ");
        self.log.debug(Some(self.table), &said);
        if buckets.is_empty() {
            return Ok(compared);
        }
        self.send_digests(comparison, &buckets)?;
        let settled = comparison.settled.as_deref();
        let sql = comparison.destination.compare(&buckets, comparison.versions, settled);
        self.at_destination("compare the digests", &sql)?;
        (compared.differences, [compared.unequal, compared.to_be_removed, compared.only_here]) =
            self.count()?;
        compared.looked_into = Some(buckets);
        Ok(compared)
    }

    /// What both sides say of their buckets, asked at the same time.
    fn both_sides(&mut self, comparison: &Comparison) -> Result<(Vec<Bucket>, Vec<Bucket>)> {
        let (log, table) = (self.log, self.table);
        self.progress.doing("comparing digests");
        let ask = |session: &mut Session, sql: String| {
            debug(log, table, session.side(), &sql);
            buckets(session, &sql, comparison.buckets)
        };
        let here = comparison.source.per_bucket(comparison.buckets);
        let there = comparison.destination.per_bucket(comparison.buckets);
        let Self { source, destination, .. } = self;
        side_by_side(|| ask(source, here), || ask(destination, there))
    }

    /// The source's digests of rows in these buckets travel into the destination.
    fn send_digests(&mut self, comparison: &Comparison, buckets: &Buckets) -> Result<()> {
        let query = comparison.source.per_row(buckets, comparison.pending.as_deref());
        let staged = self.at_destination("make room for digests", &digest::stage_digests());
        staged.map_err(|error| match error.sqlstate.as_deref() {
            Some(INSUFFICIENT_PRIVILEGE) => {
                error.hint("grant the destination's user TEMPORARY on its database")
            }
            _ => error,
        })?;
        let Self { source, destination, log, table, progress, .. } = self;
        debug(log, table, Side::Source, &query);
        let into = digest::copy_digests();
        debug(log, table, Side::Destination, &into);
        copy::transfer(
            |mut outgoing| {
                copy::read_query(source, &query, Format::Binary, &mut outgoing)?;
                outgoing.end().map(drop)
            },
            |incoming| {
                let arrived = |rows, bytes| progress.add(rows, bytes);
                copy::write(destination, (&into, Format::Binary), incoming, false, arrived)
            },
        )?;
        Ok(())
    }

    fn count(&mut self) -> Result<(Differences, [u64; 3])> {
        let rows = self.destination.rows("count the differences", &digest::count_differences())?;
        let number = |value: &Option<String>| value.as_ref()?.parse().ok();
        let counts: Option<Vec<u64>> =
            rows.first().and_then(|row| row.iter().map(number).collect());
        match counts.as_deref() {
            Some(&[missing, extra, different, pending, unequal, to_be_removed, only_here]) => {
                let differences = Differences { missing, extra, different, pending };
                Ok((differences, [unequal, to_be_removed, only_here]))
            }
            _ => Err(Error::bug("the differences cannot be counted")),
        }
    }

    /// Removes rows whose keys the source no longer has, before others come, in the destination's transaction, and
    /// returns how many those were.
    pub(crate) fn remove_gone(&mut self, removal: &Reconciliation) -> Result<u64> {
        let compared = self.compare(&removal.comparison)?;
        let (gone, rows) = (compared.only_here, compared.destination_rows.unwrap_or_default());
        if let Some(error) = removal.mending.stop(gone, rows) {
            return Err(error);
        }
        if gone == 0 || planted(Fault::ExtraForgotten) {
            return Ok(0);
        }
        let sql = removal.comparison.destination.remove_gone();
        self.at_destination("remove rows that the source does not have", &sql)
    }

    /// Puts right what differs, in the destination's transaction, which has `inserted` so many rows before.
    pub(crate) fn mend(
        &mut self,
        reconciliation: &Reconciliation,
        compared: &Compared,
        inserted: u64,
    ) -> Result<Mended> {
        let Reconciliation { comparison, mending } = reconciliation;
        // What has just been merged makes no room for more to be removed.
        let rows = compared.destination_rows.unwrap_or_default().saturating_sub(inserted);
        if let Some(error) = mending.stop(compared.differences.extra, rows) {
            return Err(error);
        }
        let mut mended = Mended::default();
        let some = compared.unequal > 0 && !comparison.versions;
        if some && !planted(Fault::ExtraForgotten) {
            mended.deleted = self.remove(comparison, mending)?;
        }
        self.steps(&mending.before)?;
        if let Some(buckets) = &compared.looked_into {
            mended.written = self.fetch(comparison, mending, buckets)?;
        }
        Ok(mended)
    }

    /// How many rows this transaction has inserted into the destination table.
    fn inserted(&mut self, comparison: &Comparison) -> Result<u64> {
        let question = digest::inserted(&comparison.destination.table);
        let inserted = self.destination.value("count the new rows", &question)?;
        Ok(inserted.and_then(|inserted| inserted.parse().ok()).unwrap_or_default())
    }

    fn remove(&mut self, comparison: &Comparison, mending: &Mending) -> Result<u64> {
        let digest = &comparison.destination;
        let mut deleted = 0;
        if mending.extra == Deletes::Remove {
            let purpose = "remove rows that the source does not have";
            return self.at_destination(purpose, &digest.remove());
        }
        if mending.extra == Deletes::Mark {
            let purpose = "mark rows that the source does not have";
            deleted += self.at_destination(purpose, &digest.mark())?;
        }
        if mending.doubled {
            deleted += self.at_destination("remove doubled rows", &digest.remove_doubled())?;
        }
        Ok(deleted)
    }

    /// Lets the rows travel that are wanted from the source, and merges them.
    fn fetch(
        &mut self,
        comparison: &Comparison,
        mending: &Mending,
        buckets: &Buckets,
    ) -> Result<u64> {
        let sql = digest::wanted_digests(MOST_WANTED + 1);
        let wanted = self.digests("list what is wanted", &sql)?;
        if wanted.is_empty() {
            return Ok(0);
        }
        let many = wanted.len() > MOST_WANTED;
        let condition = if many {
            buckets.condition(&comparison.source.key)
        } else {
            Some(comparison.source.wanted(&wanted))
        };
        let check: Vec<Step> = mending.no_shared_key(condition.as_deref()).into_iter().collect();
        self.steps(&check)?;
        self.travel(&mending.fetch(condition), [&[]; 2], false)?;
        if many {
            let forget = comparison.destination.forget_unwanted(&mending.staging);
            self.at_destination("leave out what is not wanted", &forget)?;
        }
        Ok(self.steps(&mending.merge)?.unwrap_or_default())
    }

    /// The digests of keys that a question about the differences answers with.
    pub(crate) fn digests(&mut self, purpose: &str, sql: &str) -> Result<Vec<i64>> {
        let rows = self.destination.rows(purpose, sql)?;
        Ok(rows.iter().filter_map(|row| row.first()?.as_ref()?.parse().ok()).collect())
    }

    fn at_destination(&mut self, purpose: &str, sql: &str) -> Result<u64> {
        debug(self.log, self.table, Side::Destination, sql);
        self.destination.run(purpose, sql)
    }
}

/// Reads what a side says of its buckets.
fn buckets(session: &mut Session, sql: &str, count: u32) -> Result<Vec<Bucket>> {
    let mut buckets = Vec::new();
    let mut rest = Vec::new();
    session.copy_out("digest the rows", sql, |bytes| {
        rest.extend_from_slice(bytes);
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let bucket = Bucket::read(&rest[..end]).filter(|bucket| bucket.number < count);
            buckets.push(bucket.ok_or_else(|| Error::bug("a digest reads strangely"))?);
            rest.drain(..=end);
        }
        Ok(())
    })?;
    Ok(buckets)
}
