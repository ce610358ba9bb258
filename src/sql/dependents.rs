//! The question what people have put on a destination table, which is to survive a new copy of it.

use super::{Qualified, literal};

/// What people have put on a destination table, in one JSON document: everything that would
/// vanish with the table, or keep it from being dropped, and that can be made again.
#[must_use]
#[expect(clippy::too_many_lines, reason = "one statement")]
pub fn of(table: &Qualified) -> String {
    let view_part = |text: fn(&str) -> String| text("w");
    format!(
        "\
WITH RECURSIVE view_depends (oid, level) AS (
  SELECT c.oid, 0 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = {schema} AND c.relname = {name}
  UNION ALL
  SELECT DISTINCT r.ev_class, v.level + 1
  FROM view_depends v
  JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = v.oid
    AND d.classid = 'pg_rewrite'::regclass
  JOIN pg_rewrite r ON r.oid = d.objid AND r.ev_class <> v.oid
  JOIN pg_class w ON w.oid = r.ev_class AND w.relkind IN ('v', 'm'))
SELECT json_build_object(
  'owner', pg_get_userbyid(c.relowner),
  'options', (
    SELECT coalesce(json_agg(o.option), '[]') FROM (
      SELECT unnest(c.reloptions) AS option
      UNION ALL
      SELECT 'toast.' || unnest(toast.reloptions) FROM pg_class toast
      WHERE toast.oid = c.reltoastrelid) o),
  'tablespace', {tablespace},
  'replica_identity', c.relreplident,
  'comments', {comments},
  'grants', {grants},
  'default_grantees', coalesce((
    SELECT json_agg(DISTINCT CASE WHEN acl.grantee <> 0 THEN pg_get_userbyid(acl.grantee) END::text)
    FROM pg_default_acl a CROSS JOIN LATERAL aclexplode(a.defaclacl) acl
    WHERE a.defaclobjtype = 'r' AND a.defaclnamespace IN (0, c.relnamespace)
      AND a.defaclrole = current_user::regrole AND acl.grantee <> a.defaclrole), '[]'),
  'indexes', {indexes},
  'constraints', coalesce((
    SELECT json_agg(json_build_object(
      'table', NULL, 'name', k.conname, 'definition', pg_get_constraintdef(k.oid), 'comment', NULL)
      ORDER BY k.conname)
    FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype IN ('c', 'f')), '[]'),
  'references', coalesce((
    SELECT json_agg(json_build_object(
      'table', json_build_object('schema', rn.nspname, 'name', rc.relname),
      'name', k.conname, 'definition', pg_get_constraintdef(k.oid),
      'comment', obj_description(k.oid, 'pg_constraint')) ORDER BY k.conname)
    FROM pg_constraint k
    JOIN pg_class rc ON rc.oid = k.conrelid JOIN pg_namespace rn ON rn.oid = rc.relnamespace
    WHERE k.confrelid = c.oid AND k.conrelid <> c.oid AND k.contype = 'f' AND k.conparentid = 0),
    '[]'),
  'defaults', coalesce((
    SELECT json_agg(json_build_object(
      'column', a.attname, 'expression', pg_get_expr(f.adbin, f.adrelid)) ORDER BY a.attnum)
    FROM pg_attrdef f JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
    WHERE f.adrelid = c.oid AND a.attgenerated = ''), '[]'),
  'sequences', coalesce((
    SELECT json_agg(json_build_object('column', a.attname,
      'name', json_build_object('schema', sn.nspname, 'name', s.relname)) ORDER BY s.oid)
    FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
    JOIN pg_namespace sn ON sn.oid = s.relnamespace
    JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
      AND d.refobjid = c.oid AND d.deptype = 'a'), '[]'),
  'triggers', {triggers},
  'row_security', c.relrowsecurity,
  'force_row_security', c.relforcerowsecurity,
  'policies', coalesce((
    SELECT json_agg(json_build_object(
      'name', p.polname, 'permissive', p.polpermissive, 'command', p.polcmd,
      'roles', (SELECT json_agg(CASE WHEN role.oid <> 0 THEN pg_get_userbyid(role.oid) END::text)
        FROM unnest(p.polroles) AS role (oid)),
      'using', pg_get_expr(p.polqual, p.polrelid),
      'check', pg_get_expr(p.polwithcheck, p.polrelid)) ORDER BY p.polname)
    FROM pg_policy p WHERE p.polrelid = c.oid), '[]'),
  'statistics', {statistics},
  'publications', coalesce((
    SELECT json_agg(p.pubname ORDER BY p.pubname)
    FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
    WHERE r.prrelid = c.oid), '[]'),
  'remarks', {remarks},
  'tuned', {tuned},
  'unwritable', (
    SELECT coalesce(json_agg(json_build_object('column', a.attname, 'what', format(
      CASE a.attidentity WHEN 'a' THEN 'identity, generated always, of column %I'
                         ELSE 'generated column %I' END, a.attname)) ORDER BY a.attnum), '[]')
    FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      AND (a.attidentity = 'a' OR a.attgenerated <> '')),
  'beyond_us', (
    SELECT coalesce(json_agg(o.what ORDER BY o.what), '[]') FROM (
      SELECT format('rule %I', r.rulename) AS what FROM pg_rewrite r WHERE r.ev_class = c.oid
      UNION ALL
      SELECT format('rule %I of view %s', r.rulename, r.ev_class::regclass)
      FROM pg_rewrite r
      WHERE r.rulename <> '_RETURN'
        AND r.ev_class IN (SELECT v.oid FROM view_depends v WHERE v.level > 0)
      UNION ALL
      SELECT format('column defaults of view %s', f.adrelid::regclass) FROM pg_attrdef f
      WHERE f.adrelid IN (SELECT v.oid FROM view_depends v WHERE v.level > 0)
      UNION ALL
      SELECT pg_describe_object(d.classid, d.objid, d.objsubid)
      FROM pg_depend d LEFT JOIN pg_policy p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
      WHERE d.deptype = 'n'
        AND d.classid IN ('pg_proc'::regclass, 'pg_policy'::regclass, 'pg_class'::regclass,
          'pg_type'::regclass)
        AND p.polrelid IS DISTINCT FROM c.oid
        AND NOT (d.classid = 'pg_class'::regclass AND d.objid IN (SELECT v.oid FROM view_depends v))
        AND (d.refclassid, d.refobjid) IN (
          SELECT 'pg_class'::regclass::oid, v.oid FROM view_depends v
          UNION ALL
          SELECT 'pg_type'::regclass, t.oid
          FROM view_depends v JOIN pg_type row ON row.typrelid = v.oid
          JOIN pg_type t ON t.oid IN (row.oid, row.typarray))
      UNION ALL
      SELECT format('identity of column %I', a.attname) FROM pg_attribute a
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attidentity <> ''
      UNION ALL
      SELECT format('security label of provider %s', l.provider) FROM pg_seclabel l
      WHERE l.classoid = 'pg_class'::regclass AND l.objoid = c.oid
      UNION ALL
      SELECT format('publication %I with a filter or a list of columns', p.pubname)
      FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
      WHERE r.prrelid = c.oid
        AND (to_jsonb(r)->>'prqual' IS NOT NULL OR to_jsonb(r)->>'prattrs' IS NOT NULL)
      UNION ALL
      SELECT format('generated column %I', a.attname) FROM pg_attribute a
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attgenerated <> '') o),
  'views', coalesce((
    SELECT json_agg(json_build_object(
      'name', json_build_object('schema', wn.nspname, 'name', w.relname),
      'materialized', w.relkind = 'm',
      'populated', w.relispopulated,
      'definition', pg_get_viewdef(w.oid),
      'owner', pg_get_userbyid(w.relowner),
      'options', coalesce(to_json(w.reloptions), '[]'),
      'comments', {view_comments},
      'grants', {view_grants},
      'indexes', {view_indexes},
      'tuned', {view_tuned},
      'statistics', {view_statistics},
      'remarks', {view_remarks},
      'triggers', {view_triggers}) ORDER BY ranked.level, wn.nspname, w.relname)
    FROM (SELECT v.oid, max(v.level) AS level FROM view_depends v WHERE v.level > 0 GROUP BY v.oid)
      ranked
    JOIN pg_class w ON w.oid = ranked.oid JOIN pg_namespace wn ON wn.oid = w.relnamespace), '[]'))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = {schema} AND c.relname = {name}",
        schema = literal(&table.schema),
        name = literal(&table.name),
        comments = comments("c"),
        grants = grants("c"),
        tablespace = tablespace("c"),
        indexes = indexes("c"),
        triggers = triggers("c"),
        remarks = remarks("c"),
        tuned = tuned("c"),
        statistics = statistics("c"),
        view_comments = view_part(comments),
        view_grants = view_part(grants),
        view_indexes = view_part(indexes),
        view_triggers = view_part(triggers),
        view_remarks = view_part(remarks),
        view_tuned = view_part(tuned),
        view_statistics = view_part(statistics),
    )
}

/// The question what all of that is, and the answers of [`digest_of`] and [`own_digest_of`] to it: one row.
#[must_use]
pub fn with_digests(table: &Qualified) -> String {
    format!("SELECT document, {DIGEST}, {OWN_DIGEST} FROM (\n{}\n) AS found (document)", of(table))
}

const DIGEST: &str = "md5(document::text)";
const OWN_DIGEST: &str = "md5((document::jsonb - 'views')::text)";

/// The question what all of that reads as, short: another text where anything has changed.
#[must_use]
pub fn digest_of(table: &Qualified) -> String {
    format!("SELECT {DIGEST} FROM (\n{}\n) AS found (document)", of(table))
}

/// The same without the views.
#[must_use]
pub fn own_digest_of(table: &Qualified) -> String {
    format!("SELECT {OWN_DIGEST} FROM (\n{}\n) AS found (document)", of(table))
}

/// The tablespace that a relation was put into, if that is not the database's own and our role may put
/// something into it.
fn tablespace(relation: &str) -> String {
    format!(
        "(SELECT s.spcname FROM pg_tablespace s
    WHERE s.oid = {relation}.reltablespace AND has_tablespace_privilege(s.oid, 'CREATE'))"
    )
}

/// A relation's comments, one a column and one for itself, as a JSON array.
fn comments(relation: &str) -> String {
    format!(
        "coalesce((SELECT json_agg(json_build_object('column', a.attname, 'text', d.description)
      ORDER BY d.objsubid)
    FROM pg_description d
    LEFT JOIN pg_attribute a ON a.attrelid = d.objoid AND a.attnum = d.objsubid AND d.objsubid > 0
    WHERE d.classoid = 'pg_class'::regclass AND d.objoid = {relation}.oid), '[]')"
    )
}

/// A relation's grants, on itself and on its columns, as a JSON array.
fn grants(relation: &str) -> String {
    format!(
        "coalesce((SELECT json_agg(json_build_object(
      'grantee', CASE WHEN acl.grantee <> 0 THEN pg_get_userbyid(acl.grantee) END,
      'privilege', acl.privilege_type,
      'grantable', acl.is_grantable,
      'column', acl.attname) ORDER BY acl.attname NULLS FIRST, acl.grantee, acl.privilege_type)
    FROM (
      SELECT NULL::name AS attname, (aclexplode({relation}.relacl)).*
      UNION ALL
      SELECT a.attname, (aclexplode(a.attacl)).*
      FROM pg_attribute a
      WHERE a.attrelid = {relation}.oid AND NOT a.attisdropped AND a.attacl IS NOT NULL) acl
    WHERE acl.grantee <> {relation}.relowner), '[]')"
    )
}

/// A relation's indexes and the constraints that stand on them, as a JSON array.
fn indexes(relation: &str) -> String {
    format!(
        "coalesce((SELECT json_agg(json_build_object(
      'name', x.relname,
      'definition', pg_get_indexdef(x.oid),
      'tablespace', {},
      'unique', i.indisunique,
      'clustered', i.indisclustered,
      'replica_identity', i.indisreplident,
      'comment', obj_description(x.oid, 'pg_class'),
      'options', coalesce(to_json(x.reloptions), '[]'),
      'statistics', (
        SELECT coalesce(json_agg(json_build_object(
          'number', a.attnum, 'target', a.attstattarget::integer) ORDER BY a.attnum), '[]')
        FROM pg_attribute a WHERE a.attrelid = x.oid AND a.attstattarget >= 0),
      'constraint', (SELECT pg_get_constraintdef(k.oid) FROM pg_constraint k
        WHERE k.conindid = x.oid AND k.conrelid = {relation}.oid AND k.contype IN ('p', 'u', 'x')))
      ORDER BY x.relname)
    FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
    WHERE i.indrelid = {relation}.oid AND i.indisvalid), '[]')",
        tablespace("x")
    )
}

/// A relation's triggers, as a JSON array.
fn triggers(relation: &str) -> String {
    format!(
        "coalesce((SELECT json_agg(json_build_object(
      'name', g.tgname, 'definition', pg_get_triggerdef(g.oid), 'enabled', g.tgenabled)
      ORDER BY g.tgname)
    FROM pg_trigger g WHERE g.tgrelid = {relation}.oid AND NOT g.tgisinternal), '[]')"
    )
}

/// The comments on what a relation has that has no relation of its own, as a JSON array. A NOT NULL that has a
/// name, as from 18 on, is the source's in a new copy.
fn remarks(relation: &str) -> String {
    format!(
        "coalesce((SELECT json_agg(json_build_object(
      'kind', o.kind, 'schema', o.schema, 'name', o.name, 'text', d.description)
      ORDER BY o.kind, o.name)
    FROM (
      SELECT 'CONSTRAINT' AS kind, NULL::name AS schema, k.conname AS name, k.oid,
        'pg_constraint'::regclass AS class
      FROM pg_constraint k WHERE k.conrelid = {relation}.oid AND k.contype <> 'n'
      UNION ALL
      SELECT 'TRIGGER', NULL, g.tgname, g.oid, 'pg_trigger'::regclass
      FROM pg_trigger g WHERE g.tgrelid = {relation}.oid
      UNION ALL
      SELECT 'POLICY', NULL, p.polname, p.oid, 'pg_policy'::regclass
      FROM pg_policy p WHERE p.polrelid = {relation}.oid
      UNION ALL
      SELECT 'STATISTICS', sn.nspname, s.stxname, s.oid, 'pg_statistic_ext'::regclass
      FROM pg_statistic_ext s JOIN pg_namespace sn ON sn.oid = s.stxnamespace
      WHERE s.stxrelid = {relation}.oid) o
    JOIN pg_description d ON d.classoid = o.class AND d.objoid = o.oid AND d.objsubid = 0), '[]')"
    )
}

/// How people have tuned a relation's columns, as a JSON array.
fn tuned(relation: &str) -> String {
    format!(
        "coalesce((SELECT json_agg(json_build_object(
      'column', a.attname,
      'statistics', CASE WHEN a.attstattarget >= 0 THEN a.attstattarget::integer END,
      'storage', CASE WHEN a.attstorage <> t.typstorage THEN CASE a.attstorage
        WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'x' THEN 'EXTENDED'
        WHEN 'm' THEN 'MAIN' END END,
      'options', coalesce(to_json(a.attoptions), '[]')) ORDER BY a.attnum)
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = {relation}.oid AND a.attnum > 0 AND NOT a.attisdropped
      AND (a.attstattarget >= 0 OR a.attstorage <> t.typstorage OR a.attoptions IS NOT NULL)), '[]')"
    )
}

/// The statements that make a relation's extended statistics, as a JSON array.
fn statistics(relation: &str) -> String {
    format!(
        "coalesce((SELECT json_agg(o.statement ORDER BY s.stxname, o.number)
    FROM pg_statistic_ext s JOIN pg_namespace sn ON sn.oid = s.stxnamespace
    CROSS JOIN LATERAL (VALUES
      (1, pg_get_statisticsobjdef(s.oid)),
      (2, CASE WHEN s.stxstattarget >= 0 THEN format(
        'ALTER STATISTICS %I.%I SET STATISTICS %s', sn.nspname, s.stxname, s.stxstattarget) END))
      AS o (number, statement)
    WHERE s.stxrelid = {relation}.oid AND o.statement IS NOT NULL), '[]')"
    )
}
