//! Statements about sessions, transactions and locks.

use super::{Qualified, literal};

/// Everything that changes how a value is written or read, and every time limit that a role or a
/// database may have set for people and not for us. Settings a server does not know are left out.
#[must_use]
pub fn pin(read_only: bool) -> String {
    let mut settings = vec![
        ("search_path", ""),
        ("DateStyle", "ISO, MDY"),
        ("IntervalStyle", "postgres"),
        ("TimeZone", "UTC"),
        ("extra_float_digits", "3"),
        ("bytea_output", "hex"),
        ("lc_monetary", "C"),
        ("client_encoding", "UTF8"),
        ("xmloption", "content"),
        ("standard_conforming_strings", "on"),
        ("quote_all_identifiers", "off"),
        ("statement_timeout", "0"),
        ("transaction_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
        ("idle_session_timeout", "0"),
        // Else a server holds locks and a snapshot for hours for a client that is gone.
        ("tcp_keepalives_idle", "30"),
        ("tcp_keepalives_interval", "10"),
        ("tcp_keepalives_count", "3"),
        ("lock_timeout", LOCK_TIMEOUT),
        ("array_nulls", "on"),
        // Some servers end the session at the first error, where we go on.
        ("exit_on_error", "off"),
        ("row_security", "on"),
        ("default_transaction_isolation", "read committed"),
        ("default_transaction_deferrable", "off"),
        // It takes longer than what it compiles for us.
        ("jit", "off"),
        ("plan_cache_mode", "force_generic_plan"),
    ];
    settings.push(("default_transaction_read_only", if read_only { "on" } else { "off" }));
    let values: Vec<String> = settings
        .iter()
        .map(|(name, value)| format!("({}, {})", literal(name), literal(value)))
        .collect();
    // The first statement keeps a role's time limit from ending the second.
    format!(
        "SET statement_timeout = 0;\nSELECT set_config(wanted.name, wanted.value, false)\n\
         FROM (VALUES {}) AS wanted (name, value)\n\
         WHERE current_setting(wanted.name, true) IS NOT NULL",
        values.join(", ")
    )
}

/// What a session begins with, so that [`super::catalog::SERVER`] can tell whether it has reached the server.
pub const MET_DIRECTLY: &str = "-c incremental_replication.met_directly=on";

/// How long a statement waits for somebody else's lock before the table fails.
const LOCK_TIMEOUT: &str = "60s";

/// Lets the server notice within seconds that we were killed while it worked for us. Some platforms refuse it,
/// which is no reason to fail; before [`NOTICES_DEATHS`] none knows it.
pub const NOTICE_OUR_DEATH: &str = "SET client_connection_check_interval = '5s'";

/// The first `server_version_num` that can.
pub const NOTICES_DEATHS: u32 = 14_00_00;

/// Begins the transaction whose snapshot a table is read in. The lock keeps the table's shape
/// from changing between the look at the catalog and the copy; being taken before the snapshot,
/// it makes both see the same.
#[must_use]
pub fn begin_snapshot(lock: Option<&Qualified>) -> String {
    let begin = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY";
    match lock {
        Some(table) => format!("{begin};\nLOCK TABLE {table} IN ACCESS SHARE MODE"),
        None => begin.to_owned(),
    }
}

/// Which tables, of all that the transaction has read, look otherwise in its snapshot than they were when it
/// got their locks: one row each, its name. A TRUNCATE, and an ALTER TABLE that writes all rows anew, leave
/// nothing that an older snapshot could see, and neither does a table that has taken another's name. Of one that has
/// become a partition since, an older snapshot shows rows that its parent never had.
///
/// A snapshot sees the catalog as it was, and functions see it as it is.
pub const REWRITTEN: &str = "\
SELECT DISTINCT l.relation::regclass::text
FROM pg_catalog.pg_locks AS l LEFT JOIN pg_catalog.pg_class AS c ON c.oid = l.relation
WHERE l.locktype = 'relation' AND l.pid = pg_backend_pid()
AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = current_database())
AND CASE WHEN c.oid IS NULL THEN pg_get_indexdef(l.relation) IS NULL
  ELSE c.relkind IN ('r', 'm') AND c.relfilenode NOT IN (0, pg_relation_filenode(c.oid))
    OR c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition AND pg_partition_root(c.oid) <> c.oid END";

/// Hands the transaction's snapshot to another session: one row, its name.
pub const EXPORT_SNAPSHOT: &str = "SELECT pg_export_snapshot()";

/// Begins a transaction that writes.
pub const BEGIN: &str = "BEGIN";

/// Begins a transaction that writes, all of whose statements see the same rows of others.
pub const BEGIN_CONSISTENT: &str = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ";

/// Ends a transaction and keeps what it did.
pub const COMMIT: &str = "COMMIT";

/// Ends a transaction and forgets what it did.
pub const ROLLBACK: &str = "ROLLBACK";

/// Takes the lock that keeps two runs from one table: one row, one boolean.
#[must_use]
pub fn try_lock(table: &Qualified) -> String {
    format!("SELECT pg_try_advisory_lock({})", lock_key(table))
}

/// Gives the lock back.
#[must_use]
pub fn unlock(table: &Qualified) -> String {
    format!("SELECT pg_advisory_unlock({})", lock_key(table))
}

fn lock_key(table: &Qualified) -> i64 {
    crate::table::digest(&format!("incremental-replication/{table}")).cast_signed()
}

/// How long one attempt to get a table for ourselves may keep readers waiting behind it.
const SHORT_LOCK_TIMEOUT: &str = "500ms";

/// Has what follows in the transaction give up soon on what somebody else holds.
#[must_use]
pub fn give_up_soon() -> String {
    format!("SET LOCAL lock_timeout = '{SHORT_LOCK_TIMEOUT}'")
}

/// Runs statements that need locks of their own, and takes tables for ourselves, or gives up soon: those who come after wait behind this.
#[must_use]
pub fn lock_exclusively(first: &[String], tables: &[&Qualified]) -> String {
    let first: String = first.iter().map(|statement| statement.clone() + ";\n").collect();
    let tables: Vec<String> = tables.iter().map(ToString::to_string).collect();
    format!(
        "{};\n{first}LOCK TABLE {} IN ACCESS EXCLUSIVE MODE;\n\
         SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'",
        give_up_soon(),
        tables.join(", ")
    )
}

/// Takes a table for ourselves, or fails at once where somebody else has it open.
#[must_use]
pub fn lock_at_once(table: &Qualified) -> String {
    format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE NOWAIT")
}

/// How long a question may take that can wait until it is the table's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// A moment.
    Short,
    /// As long as it takes.
    Long,
}

/// A question in a transaction of its own, which gives up soon on what somebody else holds.
#[must_use]
pub fn alone(question: &str, patience: Patience) -> String {
    let limit = match patience {
        Patience::Short => "2s",
        Patience::Long => "0",
    };
    format!(
        "BEGIN;\nSET LOCAL lock_timeout = '200ms';\nSET LOCAL statement_timeout = '{limit}';\n\
         {question};\nCOMMIT;\n"
    )
}

/// Of how many statements that consists; the question is the last but one.
pub const STATEMENTS_ALONE: usize = 5;

/// Marks the point to which a failed attempt goes back.
pub const SAVEPOINT: &str = "SAVEPOINT attempt";

/// Forgets that point: what follows belongs to the transaction itself, and bears its id.
pub const RELEASE_SAVEPOINT: &str = "RELEASE SAVEPOINT attempt";

/// Goes back to that point, and forgets it.
pub const ROLLBACK_TO_SAVEPOINT: &str = "ROLLBACK TO SAVEPOINT attempt; RELEASE SAVEPOINT attempt";

/// What a server process waits for, such as `Client` or `Lock`: one row while it is there.
#[must_use]
pub fn doing(process: i32) -> String {
    format!("SELECT wait_event_type FROM pg_catalog.pg_stat_activity WHERE pid = {process}")
}

/// Tells a session to end that is called so and whose process was there at that time: one row while
/// it is there.
#[must_use]
pub fn end_lost(process: i32, met_at: &str, name: &str) -> String {
    format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE pid = {process} AND pid <> pg_backend_pid() \
         AND backend_start <= {}::timestamptz AND application_name = {}",
        literal(met_at),
        literal(name)
    )
}

/// Which process works for us.
pub const PROCESS: &str = "SELECT pg_backend_pid()";

/// Has a process work for us until the transaction ends, and tells which.
pub const PROCESS_OF_OUR_OWN: &str = "BEGIN; SELECT pg_backend_pid()";

/// Takes back what was set for the session.
pub const RESET: &str = "RESET ALL";

/// What has a server of that version (`server_version_num`) end a session that asks all the time, once it is not
/// heard any more: options that the session begins with.
#[must_use]
pub fn end_where_silent(version: u32) -> &'static str {
    if version < KNOWS_IDLE_SESSIONS {
        return "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3";
    }
    "-c idle_session_timeout=10s"
}

/// The first `server_version_num` that ends sessions which ask nothing.
const KNOWS_IDLE_SESSIONS: u32 = 14_00_00;

/// Wakes the WAL writer where the log has grown by more than 256 KiB, and as much is not on the disk yet, and
/// returns how far it goes. `woken_at` is where it went when this last woke it. What wakes it is the end of a
/// transaction that has an id, of which PostgreSQL has two billion, so it is no oftener than that.
#[must_use]
pub fn flush(woken_at: Option<&str>) -> String {
    format!(
        "SELECT log.until, pg_catalog.pg_current_xact_id() \
         FROM (SELECT pg_catalog.pg_current_wal_insert_lsn() AS until OFFSET 0) AS log \
         WHERE log.until - greatest(pg_catalog.pg_current_wal_flush_lsn(), {}) > 256 * 1024",
        literal(woken_at.unwrap_or("0/0"))
    )
}

/// Asks for nothing but an answer.
pub const ASK: &str = "SELECT 1";
