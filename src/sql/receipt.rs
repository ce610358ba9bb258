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

/// Reads a table's receipt: no row, or its version and its JSON.
#[must_use]
pub fn read(receipts: &Qualified, table: &str) -> String {
    format!(
        "SELECT version::text, receipt::text FROM {receipts} WHERE table_name = {}",
        literal(table)
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
