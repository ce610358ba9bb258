//! Who is at work at the source.

use super::literal;

/// The transactions in flight in this database, but for those of sessions of ours: rows of a kind
/// (`transaction`, `prepared`) and a name.
///
/// Two statements, and in this order: a transaction that is being prepared leaves the first list
/// only once it is on the second. A session is ours if it has our role and our name; it only
/// reads. Of others' sessions we see the database and the role, and that is enough: autovacuum
/// and other servants have no role, and other databases cannot write here.
#[must_use]
pub fn in_flight(application_name: &str) -> String {
    format!(
        "SELECT 'transaction', l.virtualtransaction
FROM pg_locks l LEFT JOIN pg_stat_activity s ON s.pid = l.pid
WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted
  AND l.pid <> pg_backend_pid()
  AND (s.pid IS NULL OR (s.usesysid IS NOT NULL
    AND s.datid = (SELECT oid FROM pg_database WHERE datname = current_database())))
  AND NOT coalesce(s.usename = current_user AND s.application_name = {}, false);
SELECT 'prepared', gid FROM pg_prepared_xacts WHERE database = current_database()",
        literal(application_name)
    )
}
