//! The table of receipts in the destination.

use super::{Qualified, literal};

/// Makes the table of receipts, if it is not there.
#[must_use]
pub fn create_table(receipts: &Qualified) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {receipts} (\n  \
         table_name text PRIMARY KEY,\n  \
         version integer NOT NULL,\n  \
         receipt jsonb NOT NULL,\n  \
         written_at timestamp with time zone NOT NULL DEFAULT now()\n);\n\
         COMMENT ON TABLE {receipts} IS 'how far incremental-replication has come with each table'"
    )
}

/// Reads the receipts of these tables: a row each, if there is one, with the table's name, the
/// version and the JSON.
#[must_use]
pub fn read(receipts: &Qualified, tables: &[&str]) -> String {
    let tables: Vec<String> = tables.iter().map(|table| literal(table)).collect();
    format!(
        "SELECT table_name, version::text, receipt::text FROM {receipts} WHERE table_name IN ({})",
        tables.join(", ")
    )
}

/// When each receipt was written: a row each, with the table's name and the time in UTC.
#[must_use]
pub fn written_at(receipts: &Qualified) -> String {
    format!(
        "SELECT table_name, to_char(written_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') \
         FROM {receipts}"
    )
}

/// Writes a table's receipt.
#[must_use]
pub fn write(receipts: &Qualified, table: &str, version: u32, receipt: &str) -> String {
    format!(
        "INSERT INTO {receipts} (table_name, version, receipt, written_at)\n\
         VALUES ({}, {version}, {}, now())\n\
         ON CONFLICT (table_name) DO UPDATE\n\
         SET version = excluded.version, receipt = excluded.receipt, written_at = excluded.written_at",
        literal(table),
        literal(receipt),
    )
}
