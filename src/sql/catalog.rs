//! Questions to the catalogs, each answered with one JSON document a row.
//!
//! They read `pg_catalog` only, which every role may, and run on PostgreSQL 13 to 18. A column
//! that not every version has is read through `to_jsonb(row)`. `OFFSET 0` keeps a planner that
//! expects many rows of a recursion from reading a whole catalog for each table.
//!
//! Functions such as `has_table_privilege` do not look at the statement's snapshot and say NULL of
//! what somebody has dropped since; a source table that is gone has a NULL document.

use super::receipt::WRITTEN_BESIDE;
use super::{Qualified, literal, literals};
use crate::table::{FIRST_USER_OID, LABEL};

/// What the tool needs to know of a server it has just connected to.
pub const SERVER: &str = "\
SELECT json_build_object(
  'version', current_setting('server_version_num')::integer,
  'database', current_database(),
  'database_oid', (SELECT d.oid::bigint FROM pg_database d WHERE d.datname = current_database()),
  'user', current_user,
  'running_since', pg_postmaster_start_time(),
  'process', pg_backend_pid(),
  'process_seconds', (
    SELECT extract(epoch FROM clock_timestamp() - a.backend_start)
    FROM pg_stat_get_activity(pg_backend_pid()) a),
  'met_directly', coalesce(current_setting('incremental_replication.met_directly', true), '') = 'on',
  'met_at', clock_timestamp(),
  'next_transaction', pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
  'in_recovery', pg_is_in_recovery())";

/// The cluster's own number. Some hosts forbid the question.
pub const SYSTEM_IDENTIFIER: &str = "SELECT system_identifier::text FROM pg_control_system()";

/// The timeline the server is on. A primary knows it from its log; `pg_control_checkpoint()` still
/// says the old one between a promotion and the checkpoint that follows it.
pub const TIMELINE: &str = "\
SELECT CASE WHEN pg_is_in_recovery()
  THEN (SELECT timeline_id FROM pg_control_checkpoint())
  ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::integer
END::text";

/// Since when the server counts, as text. One that has recovered from a crash, be it that of one of its
/// processes, counts all statistics anew, and lets nobody but its log know more of that. Those of the
/// archiver are hardly ever reset for another reason.
pub const RECOVERED_AT: &str = "SELECT coalesce(stats_reset::text, '') FROM pg_stat_archiver";

/// Replaces every domain, starting from the type and modifier that two expressions name.
fn without_domains(oid: &str, modifier: &str) -> String {
    format!(
        "(WITH RECURSIVE chain (oid, modifier, depth) AS (
          SELECT {oid}, {modifier}, 0
          UNION ALL
          SELECT t.typbasetype, t.typtypmod, chain.depth + 1
          FROM chain CROSS JOIN LATERAL (
            SELECT d.* FROM pg_type d WHERE d.oid = chain.oid AND d.typtype = 'd' OFFSET 0) t)
        SELECT chain.oid, chain.modifier, chain.depth FROM chain ORDER BY depth DESC LIMIT 1)"
    )
}

/// A type without its domains, as JSON.
fn base_type(alias: &str, modifier: &str) -> String {
    format!(
        "json_build_object('oid', {alias}.oid::bigint, 'name', {alias}.typname, \
         'kind', {alias}.typtype, 'formatted', format_type({alias}.oid, {modifier}))"
    )
}

/// Whether a column holds no NULL. From PostgreSQL 18 on a NOT NULL has a name, and may be NOT VALID.
fn not_null(version: u32) -> &'static str {
    if version < 18_00_00 {
        return "a.attnotnull";
    }
    "a.attnotnull AND NOT EXISTS (
        SELECT FROM pg_constraint k WHERE k.conrelid = a.attrelid AND k.contype = 'n'
          AND k.conkey = ARRAY[a.attnum] AND NOT k.convalidated)"
}

/// The names of an index's key columns, in its own order.
const KEY_COLUMNS: &str = "\
(SELECT json_agg(k.attname ORDER BY key.ordinality)
         FROM unnest(i.indkey) WITH ORDINALITY AS key (number, ordinality)
         JOIN pg_attribute k ON k.attrelid = i.indrelid AND k.attnum = key.number
         WHERE key.ordinality <= i.indnkeyatts)";

/// A question about tables of a schema, `$1`, by their names, `$2`. Servers keep it between two
/// times it is asked, for working out how to answer takes longer than the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The tables at the source: one row a table that exists.
    SourceTables,
    /// The relations at the destination, whatever they are: one row each.
    DestinationTables,
}

impl Question {
    fn name(self) -> &'static str {
        match self {
            Self::SourceTables => "source_tables",
            Self::DestinationTables => "destination_tables",
        }
    }

    /// Has a server of that version (`server_version_num`) keep it for the session.
    #[must_use]
    pub fn prepare(self, version: u32) -> String {
        let sql = match self {
            Self::SourceTables => source_tables(version),
            Self::DestinationTables => destination_tables(),
        };
        format!("PREPARE {} (name, name[]) AS\n{sql}", self.name())
    }

    /// Asks it.
    #[must_use]
    pub fn execute(self, schema: &str, tables: &[&str]) -> String {
        let (name, schema) = (self.name(), literal(schema));
        format!("EXECUTE {name} ({schema}, ARRAY[{}]::name[])", literals(tables))
    }
}

fn source_tables(version: u32) -> String {
    let resolved = without_domains("a.atttypid", "a.atttypmod");
    let element = without_domains("item.oid", "base.modifier");
    let base = base_type("t", "base.modifier");
    let element_base = base_type("e", "element.modifier");
    let not_null = not_null(version);
    format!(
        "\
SELECT CASE WHEN has_table_privilege(c.oid, 'SELECT') IS NOT NULL THEN json_build_object(
  'name', json_build_object('schema', n.nspname, 'name', c.relname),
  'kind', c.relkind,
  'oid', c.oid::bigint,
  'columns', (
    SELECT coalesce(json_agg(json_build_object(
      'name', a.attname,
      'number', a.attnum,
      'not_null', {not_null},
      'generated', a.attgenerated <> '',
      'filled', a.atthasmissing,
      'data_type', json_build_object(
        'declared', format_type(a.atttypid, a.atttypmod),
        'base', {base},
        'element', CASE WHEN item.oid IS NOT NULL THEN json_build_object(
          'base', {element_base},
          'is_domain', element.depth > 0,
          'is_array', EXISTS (SELECT FROM pg_type inner_item WHERE inner_item.typarray = e.oid),
          'delimiter', item.typdelim) END,
        'parts', CASE WHEN a.attgenerated = '' THEN '[]' ELSE (
          SELECT json_build_array(coalesce(pg_get_expr(f.adbin, f.adrelid), ''))
          FROM pg_attrdef f WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum) END
      )) ORDER BY a.attnum), '[]')
    FROM pg_attribute a
    CROSS JOIN LATERAL {resolved} AS base
    JOIN pg_type t ON t.oid = base.oid
    LEFT JOIN pg_type item ON item.oid = t.typelem AND item.typarray = t.oid
    LEFT JOIN LATERAL {element} AS element ON item.oid IS NOT NULL
    LEFT JOIN pg_type e ON e.oid = element.oid
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  'unique_indexes', coalesce((
    SELECT json_agg(json_build_object(
      'columns', {KEY_COLUMNS}, 'primary', i.indisprimary, 'valid', i.indisvalid))
    FROM pg_index i
    WHERE i.indrelid = c.oid AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL), '[]'),
  'row_security', row_security_active(c.oid),
  'has_children', c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits h WHERE h.inhparent = c.oid),
  'in_extension', EXISTS (
    SELECT FROM pg_depend d
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'),
  'readable', coalesce(has_table_privilege(c.oid, 'SELECT'), false),
  'storage', parts.storage,
  'estimated_bytes', parts.bytes,
  'estimated_rows', parts.rows,
  'has_foreign_parts', parts.has_foreign,
  'snapshot', (
    SELECT json_build_object(
      'xmin', pg_snapshot_xmin(now)::text::bigint, 'xmax', pg_snapshot_xmax(now)::text::bigint,
      'in_flight', CASE WHEN NOT pg_is_in_recovery() THEN (
        SELECT coalesce(json_agg(writer.xid ORDER BY writer.xid), '[]') FROM (
          SELECT pg_snapshot_xip(now)::text::bigint % (1::bigint << 32)
          UNION
          SELECT transactionid::text::bigint FROM pg_locks
          WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted) AS writer (xid)) END)
    FROM pg_current_snapshot() AS now)) END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
  WITH RECURSIVE paths (oid, attached) AS (
    SELECT c.oid, 0::bigint
    UNION
    SELECT child.oid, paths.attached + child.attached FROM paths CROSS JOIN LATERAL (
      SELECT i.inhrelid, i.xmin::text::bigint FROM pg_inherits i
      WHERE i.inhparent = paths.oid OFFSET 0) child (oid, attached))
  SELECT
    coalesce(json_agg(json_build_object('oid', s.oid::bigint, 'file', s.relfilenode::bigint,
      'attached', nullif(tree.attached, 0), 'unlogged', s.relpersistence = 'u') ORDER BY s.oid) FILTER (WHERE s.relkind IN ('r', 'm', 'f')), '[]') AS storage,
    coalesce(bool_or(s.relkind = 'f'), false) AS has_foreign,
    coalesce(sum(greatest(s.relpages, 0)::bigint), 0) * current_setting('block_size')::bigint AS bytes,
    coalesce(sum(greatest(s.reltuples, 0)) FILTER (WHERE s.relkind <> 'p'), 0)::bigint AS rows
  FROM (SELECT oid, sum(attached)::bigint FROM paths GROUP BY oid) AS tree (oid, attached)
  CROSS JOIN LATERAL (SELECT p.* FROM pg_class p WHERE p.oid = tree.oid OFFSET 0) s) parts
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relname = ANY ($2)",
    )
}

/// The sequences of a table's serial and identity columns, as names of one JSON document a row.
#[must_use]
pub fn sequences(table: &Qualified) -> String {
    format!(
        "\
SELECT json_build_object('schema', sn.nspname, 'name', s.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
  AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
JOIN pg_namespace sn ON sn.oid = s.relnamespace
WHERE n.nspname = {} AND c.relname = {}",
        literal(&table.schema),
        literal(&table.name)
    )
}

/// Object identifiers as an array.
fn oids(list: &[u32]) -> String {
    let list: Vec<String> = list.iter().map(u32::to_string).collect();
    format!("'{{{}}}'::oid[]", list.join(","))
}

/// What the values of types of a user's are made of, at any depth: the numbers and types of attributes,
/// and the labels of enums with what tells each from others that had or get its name, inside of another
/// type behind [`LABEL`]. One row a type that is made of something.
#[must_use]
pub fn parts(types: &[u32]) -> String {
    format!(
        "\
WITH RECURSIVE made_of (whole, oid, path) AS (
  SELECT oid, oid, ARRAY[]::integer[] FROM unnest({}) AS asked (oid)
  UNION ALL
  SELECT made_of.whole, part.oid, made_of.path || part.number
  FROM made_of CROSS JOIN LATERAL (
    SELECT d.typbasetype, 0 FROM pg_type d WHERE d.oid = made_of.oid AND d.typtype = 'd'
    UNION ALL
    SELECT i.oid, 0 FROM pg_type i WHERE i.typarray = made_of.oid
    UNION ALL
    SELECT r.rngsubtype, 0 FROM pg_range r WHERE r.rngtypid = made_of.oid
    UNION ALL
    SELECT m.rngtypid, 0 FROM pg_range m WHERE to_jsonb(m) ->> 'rngmultitypid' = made_of.oid::text
    UNION ALL
    SELECT p.atttypid, p.attnum FROM pg_type c JOIN pg_attribute p ON p.attrelid = c.typrelid
    WHERE c.oid = made_of.oid AND c.typtype = 'c' AND p.attnum > 0 AND NOT p.attisdropped
    OFFSET 0) AS part (oid, number)
  WHERE made_of.oid >= {FIRST_USER_OID})
SELECT json_build_object('oid', made_of.whole::bigint,
  'parts', json_agg(part.named ORDER BY made_of.path, part.place))
FROM made_of CROSS JOIN LATERAL (
  SELECT p.attnum || ' ' || format_type(p.atttypid, p.atttypmod), p.attnum::real
  FROM pg_type c JOIN pg_attribute p ON p.attrelid = c.typrelid
  WHERE c.oid = made_of.oid AND c.typtype = 'c' AND p.attnum > 0 AND NOT p.attisdropped
  UNION ALL
  SELECT CASE WHEN made_of.oid = made_of.whole THEN '' ELSE '{LABEL}' END || l.enumlabel || ' ' || l.oid, l.enumsortorder
  FROM pg_enum l WHERE l.enumtypid = made_of.oid
  OFFSET 0) AS part (named, place)
WHERE made_of.oid >= {FIRST_USER_OID}
GROUP BY made_of.whole",
        oids(types)
    )
}

/// A digest of what decides which rows some relations show, and what is in them, beside the rows that
/// they are made of: the queries of views, of those below them as well, with their owners, options and
/// functions, where the rows of foreign tables and partitions are, and the policies that a SELECT meets:
/// of our role, and below a view of whatever role, with what they and the table's owner are to the owners of the
/// views and to us. One row a relation that has some.
///
/// Queries and conditions are read as they are stored: to have them printed is to wait for whoever holds
/// a table that they speak of.
#[must_use]
pub fn definitions(relations: &[u32]) -> String {
    // Who reads a table with children meets its policies alone.
    let below_parent = "EXISTS (
      SELECT FROM pg_inherits i JOIN made_from parent ON parent.oid = i.inhparent
      WHERE i.inhrelid = made_from.oid AND parent.whole = made_from.whole)";
    format!(
        "\
WITH RECURSIVE made_from (whole, oid) AS (
  SELECT oid, oid FROM unnest({}) AS asked (oid)
  UNION
  SELECT made_from.whole, part.oid FROM made_from CROSS JOIN LATERAL (
    SELECT d.refobjid FROM pg_rewrite r JOIN pg_depend d ON d.objid = r.oid
    WHERE r.ev_class = made_from.oid AND d.classid = 'pg_rewrite'::regclass
      AND d.refclassid = 'pg_class'::regclass
    UNION ALL
    SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = made_from.oid
    OFFSET 0) AS part (oid))
SELECT json_build_object('oid', made_from.whole::bigint, 'digest',
  hashtextextended(string_agg(part.text, E'\\n' ORDER BY made_from.oid, part.text), 0)::text)
FROM made_from CROSS JOIN LATERAL (
  SELECT concat_ws(' ', r.ev_action, v.relowner, v.reloptions)
  FROM pg_rewrite r JOIN pg_class v ON v.oid = r.ev_class
  WHERE r.ev_class = made_from.oid AND r.rulename = '_RETURN' AND v.relkind = 'v'
  UNION ALL
  SELECT concat_ws(' ', f.ftserver, s.srvoptions, f.ftoptions)
  FROM pg_foreign_table f JOIN pg_foreign_server s ON s.oid = f.ftserver WHERE f.ftrelid = made_from.oid
  UNION ALL
  SELECT concat_ws(' ', p.polname, p.polpermissive, p.polqual, p.polroles, t.relforcerowsecurity)
  FROM pg_policy p JOIN pg_class t ON t.oid = p.polrelid
  WHERE p.polrelid = made_from.oid AND p.polcmd IN ('r', '*') AND t.relrowsecurity AND NOT {below_parent}
    AND (made_from.oid <> made_from.whole OR EXISTS (
      SELECT FROM unnest(p.polroles) AS role (oid)
      WHERE CASE WHEN role.oid = 0 THEN true ELSE pg_has_role(role.oid, 'USAGE') END))
  UNION ALL
  SELECT concat_ws(' ', t.relowner, t.relforcerowsecurity, (
    SELECT string_agg(concat_ws(' ', reader.oid, reader.rolsuper OR reader.rolbypassrls,
      pg_has_role(reader.oid, t.relowner, 'USAGE'), (
        SELECT string_agg(pg_has_role(reader.oid, role.oid, 'USAGE')::text, ' ' ORDER BY role.oid)
        FROM pg_policy p CROSS JOIN LATERAL unnest(p.polroles) AS role (oid)
        WHERE p.polrelid = t.oid AND role.oid <> 0)), ', ' ORDER BY reader.oid)
    FROM pg_roles reader
    WHERE reader.rolname = current_user OR reader.oid IN (
      SELECT v.relowner FROM made_from above JOIN pg_class v ON v.oid = above.oid
      WHERE above.whole = made_from.whole AND v.relkind = 'v')))
  FROM pg_class t
  WHERE t.oid = made_from.oid AND made_from.oid <> made_from.whole AND t.relrowsecurity
    AND NOT {below_parent}
  UNION ALL
  SELECT concat_ws(' ', f.oid, f.prosrc, to_jsonb(f) ->> 'prosqlbody', f.proconfig, f.prosecdef)
  FROM pg_proc f
  WHERE f.oid >= {FIRST_USER_OID} AND f.oid IN (
    SELECT d.refobjid FROM pg_depend d
    WHERE d.refclassid = 'pg_proc'::regclass AND (
      d.classid = 'pg_rewrite'::regclass AND d.objid IN (
        SELECT r.oid FROM pg_rewrite r WHERE r.ev_class = made_from.oid)
      OR d.classid = 'pg_policy'::regclass AND d.objid IN (
        SELECT p.oid FROM pg_policy p WHERE p.polrelid = made_from.oid)))
  OFFSET 0) AS part (text)
GROUP BY made_from.whole",
        oids(relations)
    )
}

/// A question that is answered by one boolean, or whether one of these tables has a file that is not
/// empty.
#[must_use]
pub fn or_filled(question: &str, tables: &[u32]) -> String {
    if tables.is_empty() {
        return question.to_owned();
    }
    format!(
        "SELECT ({question}) OR EXISTS (\
         SELECT FROM unnest({}) AS t (oid) WHERE pg_relation_size(t.oid) > 0)",
        oids(tables)
    )
}

/// The object identifiers of those tables whose files are empty, one a row.
#[must_use]
pub fn empty_parts(tables: &[u32]) -> String {
    format!(
        "SELECT c.oid FROM pg_class c WHERE c.oid = ANY ({}) AND c.relkind IN ('r', 'm') \
         AND pg_relation_size(c.oid) = 0",
        oids(tables)
    )
}

/// The conditions that all rows of some partitions meet, at all levels, and no others: an identifier and SQL a
/// row. A default partition without others beside it has none. Those of hash partitions are none by which a
/// planner could leave others alone, and those of expressions and of users' types may name what we may not use.
#[must_use]
pub fn bounds(partitions: &[u32]) -> String {
    format!(
        "SELECT json_build_array(c.oid::bigint, bound) \
         FROM pg_class c CROSS JOIN LATERAL pg_get_partition_constraintdef(c.oid) AS bound \
         WHERE c.oid = ANY ({}) AND bound IS NOT NULL AND c.relispartition AND NOT EXISTS (\
         SELECT FROM pg_partition_ancestors(c.oid) a JOIN pg_partitioned_table p ON p.partrelid = a.relid \
         WHERE p.partstrat = 'h' OR p.partexprs IS NOT NULL \
         OR EXISTS (SELECT FROM unnest(p.partclass::oid[] || p.partcollation::oid[]) used WHERE used >= {FIRST_USER_OID}) \
         OR EXISTS (SELECT FROM pg_attribute k WHERE k.attrelid = p.partrelid \
         AND k.attnum = ANY (p.partattrs) AND k.atttypid >= {FIRST_USER_OID}))",
        oids(partitions)
    )
}

/// The columns that tables, or tables that inherit from them at any depth, let hold NULL. One row a
/// table that has some.
#[must_use]
pub fn nullable_in_children(parents: &[u32], version: u32) -> String {
    format!(
        "\
WITH RECURSIVE tree (parent, oid) AS (
  SELECT oid, oid FROM unnest({}) AS asked (oid)
  UNION
  SELECT tree.parent, i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid)
SELECT json_build_object('oid', tree.parent::bigint, 'columns', json_agg(DISTINCT a.attname))
FROM tree JOIN pg_attribute a ON a.attrelid = tree.oid
WHERE a.attnum > 0 AND NOT a.attisdropped AND NOT ({})
GROUP BY tree.parent",
        oids(parents),
        not_null(version)
    )
}

/// The names of all that can be copied from a schema, for "did you mean"; no row means that the
/// schema itself does not exist.
#[must_use]
pub fn table_names(schema: &str) -> String {
    format!(
        "\
SELECT c.relname
FROM pg_namespace n
LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
WHERE n.nspname = {}
ORDER BY c.relname",
        literal(schema)
    )
}

/// To ask a file's size is to wait for who has the table for himself, or waits for it: of such a table
/// its statistics say how large it is, and never that it is empty.
fn destination_tables() -> String {
    format!(
        "\
SELECT json_build_object(
  'name', json_build_object('schema', n.nspname, 'name', c.relname),
  'kind', c.relkind,
  'unlogged', c.relpersistence = 'u',
  'bytes', size.bytes,
  'estimated_rows', CASE WHEN c.reltuples > 0 THEN c.reltuples::bigint ELSE size.bytes / 100 END,
  'columns', (
    SELECT coalesce(json_agg(json_build_object(
      'name', a.attname,
      'data_type', concat_ws(' COLLATE ', format_type(a.atttypid, a.atttypmod), (
        SELECT k.collname FROM pg_collation k
        WHERE k.oid = a.attcollation AND NOT k.collisdeterministic)),
      'not_null', a.attnotnull) ORDER BY a.attnum), '[]')
    FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  'unique_indexes', coalesce((
    SELECT json_agg(json_build_object(
      'name', x.relname,
      'equates', EXISTS (
        SELECT FROM pg_collation k
        WHERE k.oid = ANY (i.indcollation::oid[]) AND NOT k.collisdeterministic),
      'columns', {KEY_COLUMNS},
      'immediate', i.indimmediate,
      'nulls_not_distinct', coalesce((to_jsonb(i)->>'indnullsnotdistinct')::boolean, false)))
    FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
    WHERE i.indrelid = c.oid AND i.indisunique AND NOT i.indisexclusion AND i.indisvalid
      AND i.indpred IS NULL AND i.indexprs IS NULL), '[]'),
  'comment', obj_description(c.oid, 'pg_class'),
  'inherits', EXISTS (SELECT FROM pg_inherits h WHERE c.oid IN (h.inhparent, h.inhrelid)),
  'has_triggers', c.relhastriggers,
  'row_security', row_security_active(c.oid))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (SELECT CASE
  WHEN c.relkind <> 'r' THEN 0
  WHEN c.oid = ANY (ARRAY(
    SELECT l.relation FROM pg_locks l JOIN pg_database d ON d.oid = l.database
    WHERE d.datname = current_database() AND l.mode = 'AccessExclusiveLock'
      AND l.pid IS DISTINCT FROM pg_backend_pid()))
  THEN greatest(c.relpages, 1)::bigint * current_setting('block_size')::bigint
  ELSE coalesce(pg_relation_size(c.oid), 0) + coalesce(pg_relation_size(nullif(c.reltoastrelid, 0)), 0)
  END AS bytes) AS size
WHERE n.nspname = $1 AND c.relname = ANY ($2)",
    )
}

/// Whether a schema exists, whether it holds a table of the name of the receipts', whether that is one of
/// receipts, and whether it has all its columns: one row, four booleans.
#[must_use]
pub fn destination_schema(receipts: &Qualified) -> String {
    let has = |column| {
        format!(
            "EXISTS (SELECT FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = {} AND c.relname = {} AND a.attname = '{column}')",
            literal(&receipts.schema),
            literal(&receipts.name),
        )
    };
    format!(
        "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = {schema}), \
         EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = {schema} AND c.relname = {name}), \
         {has_version}, {has_all}",
        has_version = has("version"),
        has_all = has(WRITTEN_BESIDE),
        schema = literal(&receipts.schema),
        name = literal(&receipts.name),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_reach_the_catalog_as_literals() {
        assert!(table_names("it's").contains("WHERE n.nspname = 'it''s'"));
        let asked = Question::SourceTables.execute("it's", &["a", "b\\"]);
        assert_eq!(asked, r"EXECUTE source_tables ('it''s', ARRAY['a', E'b\\']::name[])");
        let prepared = Question::DestinationTables.prepare(17_00_00);
        assert!(prepared.starts_with("PREPARE destination_tables"), "{prepared}");
        assert!(Question::SourceTables.prepare(17_00_00).contains("c.relname = ANY ($2)"));
    }
}
