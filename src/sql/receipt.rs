//! The table of receipts in the destination.

use super::{Qualified, literal, literals};

/// The column that says which relations at the destination a receipt was written beside: the object
/// identifiers of the table of receipts and of the table, the number of the table's file, and whether
/// there was a row in it. It is no part of the receipt, which is repeated where nobody knows of these.
pub const WRITTEN_BESIDE: &str = "written_beside";

/// Makes the table of receipts, if it is not there.
#[must_use]
pub fn create_table(receipts: &Qualified) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {receipts} (\n  \
         table_name text PRIMARY KEY,\n  \
         version integer NOT NULL,\n  \
         receipt jsonb NOT NULL,\n  \
         written_at timestamp with time zone NOT NULL DEFAULT now(),\n  \
         {WRITTEN_BESIDE} text\n);\n\
         COMMENT ON TABLE {receipts} IS 'how far incremental-replication has come with each table'"
    )
}

/// Adds the column that an older table of receipts has not got.
#[must_use]
pub fn add_written_beside(receipts: &Qualified) -> String {
    format!("ALTER TABLE {receipts} ADD COLUMN IF NOT EXISTS {WRITTEN_BESIDE} text")
}

/// What a receipt's table is where it is not the one that the receipt was written beside.
pub const REPLACED: &str = "replaced";

/// The same where it is that table, and its rows are in another file: it was emptied, or rewritten
/// as it was.
pub const REWRITTEN: &str = "rewritten";

/// The same where the table of receipts itself is another one, so that all were brought here from elsewhere,
/// as by `pg_restore`.
pub const BROUGHT: &str = "brought";

/// The same where nobody can tell: an older version has written the receipt.
pub const UNKNOWN: &str = "unknown";

/// The same where it is that table, stored as it was, and it held rows.
pub const WITH_ROWS: &str = "rows";

/// Reads the receipts of these tables: a row each, if there is one, with the table's name, the
/// version, the JSON, NULL, [`REPLACED`], [`REWRITTEN`], [`BROUGHT`], [`UNKNOWN`] or [`WITH_ROWS`], and the
/// transaction that wrote it.
#[must_use]
pub fn read(receipts: &Qualified, tables: &[&str]) -> String {
    format!(
        "SELECT r.table_name, r.version::text, r.receipt::text,\n  \
         CASE WHEN beside[1] IS NULL THEN '{UNKNOWN}'\n    \
         WHEN beside[1] <> r.tableoid::text THEN '{BROUGHT}'\n    \
         WHEN beside[2] <> c.oid::text THEN '{REPLACED}'\n    \
         WHEN beside[3] <> c.relfilenode::text THEN '{REWRITTEN}'\n    \
         WHEN beside[4] = '{WITH_ROWS}' THEN '{WITH_ROWS}' END,\n  \
         r.xmin::text\n\
         FROM {receipts} r\n\
         CROSS JOIN LATERAL string_to_array(to_jsonb(r) ->> '{WRITTEN_BESIDE}', '/') AS beside\n\
         LEFT JOIN pg_class c ON c.relname = r.table_name\n  \
         AND c.relnamespace = (SELECT s.relnamespace FROM pg_class s WHERE s.oid = r.tableoid)\n\
         WHERE r.table_name IN ({})",
        literals(tables)
    )
}

/// Whether a table holds a row that was written after its receipt, or by who has put its rows where they are
/// now: one row, one boolean. VACUUM FULL and CLUSTER leave rows as they were written.
#[must_use]
pub fn written_after(receipts: &Qualified, table: &Qualified) -> String {
    format!(
        "SELECT EXISTS (\n  \
         SELECT FROM {receipts} AS r JOIN pg_class c ON c.oid = {oid}\n  \
         CROSS JOIN {table} AS stored\n  \
         WHERE r.table_name = {} AND (stored.xmin = c.xmin OR age(r.xmin) < 0\n    \
         OR age(stored.xmin) <= age(r.xmin) AND stored.xmin <> r.xmin))",
        literal(&table.name),
        oid = oid(table),
    )
}

fn oid(relation: &Qualified) -> String {
    format!("{}::regclass", literal(&relation.to_string()))
}

/// When each receipt was written: a row each, with the table's name and the time in UTC.
#[must_use]
pub fn written_at(receipts: &Qualified) -> String {
    format!(
        "SELECT table_name, to_char(written_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') \
         FROM {receipts}"
    )
}

/// Writes a table's receipt. Whether the table holds a row is noted where it `keeps_rows`.
#[must_use]
pub fn write(
    receipts: &Qualified,
    (table, keeps_rows): (&Qualified, bool),
    version: u32,
    receipt: &str,
) -> String {
    let mut beside = format!("{}::oid, c.oid, c.relfilenode", oid(receipts));
    if keeps_rows {
        let rows = format!("CASE WHEN EXISTS (SELECT FROM {table}) THEN '{WITH_ROWS}' END");
        beside = format!("{beside},\n  {rows}");
    }
    format!(
        "INSERT INTO {receipts} (table_name, version, receipt, written_at, {WRITTEN_BESIDE})\n\
         SELECT {}, {version}, {}::jsonb, now(), concat_ws('/', {beside})\n\
         FROM pg_class c WHERE c.oid = {}\n\
         ON CONFLICT (table_name) DO UPDATE\n\
         SET version = excluded.version, receipt = excluded.receipt, written_at = excluded.written_at,\n  \
         {WRITTEN_BESIDE} = excluded.{WRITTEN_BESIDE}",
        literal(&table.name),
        literal(receipt),
        oid(table),
    )
}
