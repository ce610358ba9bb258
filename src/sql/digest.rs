//! Questions for digests, and what is done to rows by their digests.

use super::{FUTURE_IDS, Qualified, identifier, literal};
use crate::digest::Buckets;
use crate::table::DELETED_AT;

/// What is digested on one side, in SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The table.
    pub table: Qualified,
    /// What the table is called in the expressions. None at the source, where the user's own
    /// condition may call it by its name.
    pub alias: Option<&'static str>,
    /// The digest of a row's key.
    pub key: String,
    /// The digest of all that is copied; none where only keys are compared.
    pub row: Option<String>,
    /// The conditions that rows must meet, each in brackets where it needs them.
    pub conditions: Vec<String>,
}

/// The source's digests of the buckets that differ, for as long as the destination's transaction.
const STAGED_DIGESTS: &str = "pg_temp.source_digests";

/// What the comparison of all digests has found, for as long.
const DIFFERENCES: &str = "pg_temp.differences";

/// Settings of a transaction that digests: memory for a hash of all buckets, and no more than the
/// usual number of workers, but without the fear that their few bytes a row cost much. A worker sends text
/// in the encoding of its database, whatever the session's is, so there are none where that is another.
pub const SETTINGS: &str = "\
SELECT set_config('work_mem', '64MB', true) FROM pg_settings
WHERE name = 'work_mem' AND setting::bigint < 65536;
SELECT set_config('max_parallel_workers_per_gather', '0', true)
WHERE current_setting('server_encoding') <> 'UTF8';
SET LOCAL parallel_tuple_cost = 0.001";

impl Digest {
    fn row(&self) -> &str {
        self.row.as_deref().unwrap_or(&self.key)
    }

    fn rows(&self, more: Option<String>) -> String {
        let all: Vec<String> = self.conditions.iter().cloned().chain(more).collect();
        let conditions =
            if all.is_empty() { String::new() } else { format!("\nWHERE {}", all.join(" AND ")) };
        format!("FROM {}{conditions}", self.aliased())
    }

    fn aliased(&self) -> String {
        match self.alias {
            Some(alias) => format!("{} AS {alias}", self.table),
            None => self.table.to_string(),
        }
    }

    /// For each bucket with rows its number, how many rows it holds, and the sum of their digests:
    /// a COPY that sends text.
    #[must_use]
    pub fn per_bucket(&self, buckets: u32) -> String {
        let (key, mask, rows) = (&self.key, buckets - 1, self.rows(None));
        let (row, digest) = match &self.row {
            Some(row) => (format!(", {row} AS row_digest"), "row_digest"),
            None => (String::new(), "key_digest"),
        };
        // OFFSET 0 keeps the planner from taking the digests for what they are made of, and each
        // bucket for a row's own.
        format!(
            "COPY (SELECT (key_digest & {mask})::integer, count(*), sum({digest})\n\
             FROM (SELECT {key} AS key_digest{row}\n{rows}\nOFFSET 0) AS digests\n\
             GROUP BY 1) TO STDOUT"
        )
    }

    /// The digests of the rows in some buckets, and whether the next sync reads them: a COPY that
    /// sends binary.
    #[must_use]
    pub fn per_row(&self, buckets: &Buckets, pending: Option<&str>) -> String {
        let pending =
            pending.map_or_else(|| "false".to_owned(), |when| format!("coalesce({when}, false)"));
        format!(
            "COPY (SELECT {}, {}, {pending}\n{}) TO STDOUT (FORMAT binary)",
            self.key,
            self.row(),
            self.rows(buckets.condition(&self.key)),
        )
    }

    /// Compares the staged digests of the source with those of this side's rows in the same
    /// buckets, and keeps what differs. Rows whose keys share a digest are compared together.
    /// Where `versions` are kept, rows that the source no longer has are no difference. Rows that
    /// only this side has are pending where they are `settled`, a condition on them.
    #[must_use]
    pub fn compare(&self, buckets: &Buckets, versions: bool, settled: Option<&str>) -> String {
        let differ = if versions {
            "destination.key_digest IS NULL"
        } else {
            "(source.rows, source.digest) IS DISTINCT FROM (destination.rows, destination.digest)"
        };
        format!(
            "CREATE TEMPORARY TABLE differences ON COMMIT DROP AS\n\
             SELECT key_digest, coalesce(source.rows, 0) AS at_source,\n  \
             coalesce(destination.rows, 0) AS at_destination,\n  \
             coalesce(source.pending, destination.settled, false) AS pending\n\
             FROM (SELECT key_digest, count(*) AS rows, sum(row_digest) AS digest, bool_or(pending) AS pending\n  \
             FROM {STAGED_DIGESTS} GROUP BY 1) AS source\n\
             FULL JOIN (SELECT {} AS key_digest, count(*) AS rows, sum({}) AS digest,\n  \
             bool_and({}) AS settled\n\
             {}\nGROUP BY 1) AS destination USING (key_digest)\nWHERE {differ}",
            self.key,
            self.row(),
            settled.unwrap_or("false"),
            self.rows(buckets.condition(&self.key)),
        )
    }

    /// Removes the rows that only this side has, and all rows of a digest of which the sides have
    /// not as many: the source's are put in their place.
    #[must_use]
    pub fn remove(&self) -> String {
        format!(
            "DELETE FROM {} USING {DIFFERENCES} AS differences\nWHERE {}",
            self.aliased(),
            self.all([&self.matched(), UNEQUAL]),
        )
    }

    /// Removes the rows whose keys only this side has.
    #[must_use]
    pub fn remove_gone(&self) -> String {
        format!("{} AND differences.at_source = 0", self.remove())
    }

    /// Marks the rows that only this side has.
    #[must_use]
    pub fn mark(&self) -> String {
        format!(
            "UPDATE {} SET {} = now()\nFROM {DIFFERENCES} AS differences\n\
             WHERE {}",
            self.aliased(),
            identifier(DELETED_AT),
            self.all([&self.matched(), "differences.at_source = 0 AND NOT differences.pending"]),
        )
    }

    fn matched(&self) -> String {
        format!("{} = differences.key_digest", self.key)
    }

    /// Removes rows of which this side has more than the source, which has some.
    #[must_use]
    pub fn remove_doubled(&self) -> String {
        format!("{} AND differences.at_source > 0", self.remove())
    }

    /// Removes staged rows that are not wanted, where all of some buckets were read.
    #[must_use]
    pub fn forget_unwanted(&self, staging: &Qualified) -> String {
        let alias = self.alias.map(|alias| format!(" AS {alias}")).unwrap_or_default();
        format!(
            "DELETE FROM {staging}{alias} WHERE NOT EXISTS (SELECT FROM {DIFFERENCES} AS differences\n\
             WHERE {} AND at_source > 0 AND NOT pending)",
            self.matched(),
        )
    }

    /// Says more of the rows whose keys have these digests: the digest, and what else is asked for.
    #[must_use]
    pub fn describe(&self, more: &[String], digests: &[i64]) -> String {
        let rows = self.rows(Some(self.wanted(digests)));
        let asked: Vec<&str> = std::iter::once(&self.key).chain(more).map(String::as_str).collect();
        format!("SELECT {}\n{rows}\nORDER BY 1", asked.join(", "))
    }

    /// What rows must meet beside these conditions, all of them together.
    fn all(&self, first: [&str; 2]) -> String {
        let conditions = self.conditions.iter().map(String::as_str);
        first.into_iter().chain(conditions).collect::<Vec<_>>().join(" AND ")
    }

    /// The condition that a row's key has one of these digests.
    #[must_use]
    pub fn wanted(&self, digests: &[i64]) -> String {
        let list: Vec<String> = digests.iter().map(i64::to_string).collect();
        format!("{} IN (SELECT unnest('{{{}}}'::bigint[]))", self.key, list.join(","))
    }
}

/// What is pending is left to the next sync.
const UNEQUAL: &str =
    "differences.at_source <> differences.at_destination AND NOT differences.pending";

/// Rows that only this side has, or more of than the source.
const EXTRA: &str = "at_destination > at_source AND NOT pending";

/// Makes room for the source's digests.
#[must_use]
pub fn stage_digests() -> String {
    // There may be those of an earlier comparison in this transaction.
    format!(
        "DROP TABLE IF EXISTS {STAGED_DIGESTS}, {DIFFERENCES};\n\
         CREATE TEMPORARY TABLE {} (key_digest bigint, row_digest bigint, pending boolean)\n\
         ON COMMIT DROP",
        STAGED_DIGESTS.trim_start_matches("pg_temp.")
    )
}

/// The destination's half of sending them.
#[must_use]
pub fn copy_digests() -> String {
    format!("COPY {STAGED_DIGESTS} FROM STDIN (FORMAT binary)")
}

/// How many rows are missing, extra, different and pending, how many there are here that must go
/// before others come, and how many of the pending ones only this side has: one row.
#[must_use]
pub fn count_differences() -> String {
    format!(
        "SELECT\n  \
         coalesce(sum(at_source - at_destination) FILTER (WHERE at_source > at_destination AND NOT pending), 0),\n  \
         coalesce(sum(at_destination - at_source) FILTER (WHERE {EXTRA}), 0),\n  \
         coalesce(sum(at_source) FILTER (WHERE at_source = at_destination AND NOT pending), 0),\n  \
         coalesce(sum(greatest(at_source, at_destination)) FILTER (WHERE pending), 0),\n  \
         coalesce(sum(at_destination) FILTER (WHERE at_source <> at_destination AND NOT pending), 0),\n  \
         coalesce(sum(at_destination) FILTER (WHERE at_source = 0 AND pending), 0),\n  \
         coalesce(sum(at_destination) FILTER (WHERE at_source = 0 AND NOT pending), 0)\n\
         FROM {DIFFERENCES}"
    )
}

/// How many rows this transaction has inserted into a table, and others just before it that were rolled back.
#[must_use]
pub fn inserted(table: &Qualified) -> String {
    let name = literal(&table.to_string());
    format!("SELECT pg_stat_get_xact_tuples_inserted({name}::regclass)")
}

/// The digests of keys whose rows are wanted from the source.
#[must_use]
pub fn wanted_digests(limit: usize) -> String {
    format!(
        "SELECT key_digest FROM {DIFFERENCES}\nWHERE at_source > 0 AND NOT pending LIMIT {limit}"
    )
}

/// What a difference is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only the source has the row.
    Missing,
    /// Only the destination has it.
    Extra,
    /// Both have it, and it is not the same.
    Different,
}

impl Kind {
    /// All kinds, in the order in which they are told.
    pub const ALL: [Self; 3] = [Self::Missing, Self::Extra, Self::Different];

    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Different => "different",
        }
    }
}

/// The digests of a few keys of one kind of difference.
#[must_use]
pub fn examples(kind: Kind, limit: usize) -> String {
    let condition = match kind {
        Kind::Missing => "at_source > at_destination AND NOT pending",
        Kind::Extra => EXTRA,
        Kind::Different => "at_source = at_destination AND NOT pending",
    };
    format!("SELECT key_digest FROM {DIFFERENCES} WHERE {condition} ORDER BY 1 LIMIT {limit}")
}

/// Whether somebody has written to a table since the transaction that left its receipt, or may
/// have, or has altered it or put another in its place: one row, one boolean. `from` is the oldest
/// transaction that was in flight before that one began. Removed rows leave no trace here; their
/// keys are missing.
#[must_use]
pub fn written_since(table: &Qualified, receipts: &Qualified, from: u64) -> String {
    format!(
        "SELECT ({}) OR EXISTS (SELECT FROM {table} AS written WHERE NOT {})",
        altered(table, receipts, from),
        settled_since("written", table, receipts, from),
    )
}

/// The condition that a row was written by nobody but the sync since then.
#[must_use]
pub fn settled_since(row: &str, table: &Qualified, receipts: &Qualified, from: u64) -> String {
    format!(
        "(age({row}.xmin) > age('{}'::xid) OR {row}.xmin IS NOT DISTINCT FROM \
         (SELECT xmin FROM {receipts} WHERE table_name = {}) OR age({row}.xmin) < -{FUTURE_IDS})",
        from % (1 << 32),
        literal(&table.name)
    )
}

/// Whether a table was altered since then or another put in its place, or whether nobody can tell:
/// one row, one boolean.
#[must_use]
pub fn altered_since(table: &Qualified, receipts: &Qualified, from: u64) -> String {
    format!("SELECT {}", altered(table, receipts, from))
}

fn altered(table: &Qualified, receipts: &Qualified, from: u64) -> String {
    let next = "pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
    let oid = format!("{}::regclass", literal(&table.to_string()));
    format!(
        "NOT ({next} BETWEEN {from} AND {from}::bigint + {HALF_OF_THE_IDS})\n  \
         OR EXISTS (SELECT FROM pg_class c WHERE c.oid = {oid} AND NOT {})\n  \
         OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = {oid} AND NOT {})",
        settled_since("c", table, receipts, from),
        settled_since("a", table, receipts, from),
    )
}

/// From this distance on, older and younger transactions can no longer be told apart.
const HALF_OF_THE_IDS: u64 = (1 << 31) - 1;

/// The oldest transaction in flight: one row.
pub const OLDEST_IN_FLIGHT: &str = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_difference_has_its_word() {
        assert_eq!(Kind::ALL.map(Kind::name), ["missing", "extra", "different"]);
    }
}
