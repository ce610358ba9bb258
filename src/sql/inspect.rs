//! Questions about what a person should know before the first sync, each answered with one JSON
//! document a row.

use super::{Qualified, literal, literals};

/// Settings for questions that may have to read a whole table: whoever asks can do without the
/// answer.
pub const BRIEFLY: &str = "SET LOCAL statement_timeout = '10s'; SET LOCAL lock_timeout = '1s'";

/// How we are connected, and what our role may do in a schema.
#[must_use]
pub fn rights(schema: &str) -> String {
    let schema = literal(schema);
    format!(
        "\
SELECT json_build_object(
  'tls', (SELECT s.version FROM pg_stat_ssl s WHERE s.pid = pg_backend_pid() AND s.ssl),
  'superuser', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
  'schema_exists', n.oid IS NOT NULL,
  'schema_usable', coalesce(has_schema_privilege(n.oid, 'USAGE'), false),
  'schema_creatable', CASE WHEN n.oid IS NULL
    THEN has_database_privilege(current_database(), 'CREATE')
    ELSE has_schema_privilege(n.oid, 'USAGE') AND has_schema_privilege(n.oid, 'CREATE') END,
  'temporary', has_database_privilege(current_database(), 'TEMPORARY'),
  'read_only', current_setting('transaction_read_only')::boolean,
  'writable', coalesce((
    SELECT json_agg(w.relname ORDER BY w.relname) FROM (
      SELECT c.relname FROM pg_class c
      WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p')
        AND (has_table_privilege(c.oid, 'INSERT') OR has_table_privilege(c.oid, 'UPDATE')
          OR has_table_privilege(c.oid, 'DELETE') OR has_table_privilege(c.oid, 'TRUNCATE'))
      ORDER BY c.relname LIMIT 5) w), '[]'))
FROM (VALUES (1)) AS one (n) LEFT JOIN pg_namespace n ON n.nspname = {schema}"
    )
}

/// Those of these relations at the destination that our role does not own: their names.
#[must_use]
pub fn owned_by_others(schema: &str, tables: &[&str]) -> String {
    format!(
        "SELECT c.relname, pg_get_userbyid(c.relowner) FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = {} AND c.relname IN ({}) AND NOT pg_has_role(c.relowner, 'USAGE') ORDER BY 1",
        literal(schema),
        literals(tables)
    )
}

/// Whether a role may make tables in a schema, and so own them.
#[must_use]
pub fn may_create_in(role: &str, schema: &str) -> String {
    format!("SELECT has_schema_privilege({}, {}, 'CREATE')", literal(role), literal(schema))
}

/// The views on these tables that belong to roles that we do not belong to: a row each, with the
/// table, the view and its owner.
#[must_use]
pub fn views_of_others(schema: &str, tables: &[&str]) -> String {
    format!(
        "SELECT DISTINCT c.relname, vn.nspname || '.' || v.relname, pg_get_userbyid(v.relowner) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid \
         AND d.classid = 'pg_rewrite'::regclass \
         JOIN pg_rewrite w ON w.oid = d.objid \
         JOIN pg_class v ON v.oid = w.ev_class AND v.oid <> c.oid AND v.relkind IN ('v', 'm') \
         JOIN pg_namespace vn ON vn.oid = v.relnamespace \
         WHERE n.nspname = {} AND c.relname IN ({}) AND NOT pg_has_role(v.relowner, 'USAGE') \
         ORDER BY 1, 2",
        literal(schema),
        literals(tables)
    )
}

/// What sets the columns of a schema's tables, or of those of these names, and what is known of their values: a
/// row a table.
#[must_use]
pub fn columns(schema: &str, only: Option<&[&str]>) -> String {
    let named = only.map_or_else(String::new, |names| {
        format!(" AND c.relname = ANY (ARRAY[{}]::name[])", literals(names))
    });
    format!(
        "\
SELECT json_build_object(
  'name', c.relname,
  'set_on_update', EXISTS (
    SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal
      AND g.tgenabled <> 'D' AND g.tgtype & 2 > 0 AND g.tgtype & 16 > 0),
  'partition', c.relispartition,
  'subscribed', EXISTS (
    SELECT FROM pg_subscription_rel s WHERE s.srrelid = c.oid
      OR s.srrelid IN (SELECT p.relid FROM pg_partition_tree(c.oid) p WHERE c.relkind = 'p')),
  'columns', (
    SELECT coalesce(json_agg(json_build_object(
      'name', a.attname,
      'default', (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
        WHERE d.adrelid = c.oid AND d.adnum = a.attnum),
      'identity', a.attidentity <> '',
      'indexed', EXISTS (
        SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
        JOIN pg_am m ON m.oid = x.relam AND m.amname = 'btree'
        WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = a.attnum),
      'null_share', (SELECT max(s.null_frac) FROM pg_stats s
        WHERE s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname))
      ORDER BY a.attnum), '[]')
    FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = {}{named} AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY c.relname",
        literal(schema)
    )
}

/// An index that a person may want to make on a column.
#[must_use]
pub fn create_index(table: &Qualified, column: &str) -> String {
    format!("CREATE INDEX CONCURRENTLY ON {table} ({})", super::identifier(column))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proposed_index_locks_nobody_out() {
        assert_eq!(
            create_index(&Qualified::new("s", "t"), "At"),
            r#"CREATE INDEX CONCURRENTLY ON "s"."t" ("At")"#
        );
    }
}
