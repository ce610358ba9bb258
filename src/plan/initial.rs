//! The first copy: load a new table, then let it take the old one's name.

use super::{DEPENDED_ON, Load, Outcome, Plan, Reading, Situation, Step, SyncType};
use crate::config::{ColumnChoice, Deletes, InitialPath, Mode, Rule};
use crate::digest::GUARDED_ROWS;
use crate::error::{Error, Result, shell_quoted};
use crate::fault::{Fault, planted};
use crate::receipt::{Receipt, VERSION};
use crate::sql::copy::{Format, Selection, copy_in};
use crate::sql::{self, Qualified, ddl, session, swap};
use crate::table::dependent::{Dependents, Index};
use crate::table::{DELETED_AT, Kind, SourceTable, digest, not_null_names, own_index_name};

/// What only a first copy needs to know.
#[derive(Clone, Copy, Debug)]
pub struct First<'a> {
    /// Whether nobody has asked for the copy, so that it must not be much smaller.
    pub unasked: bool,
    /// What people have put on the destination's present table.
    pub dependents: Option<&'a Dependents>,
    /// Why pg_dump cannot be used at all, if so.
    pub pg_dump_unusable: Option<&'a str>,
    /// The role we are at the destination.
    pub user: &'a str,
    /// The receipt that the copy leaves.
    pub receipt: &'a Receipt,
}

/// Plans a first copy.
///
/// Fails where people have put something on the present table that could not be kept.
pub fn initial(
    situation: &Situation,
    sync_type: SyncType,
    reason: String,
    first: &First,
) -> Result<Plan> {
    if let Some(lost) = first.dependents.and_then(|dependents| dependents.beyond_us.first()) {
        return Err(Error::table(format!(
            "a new copy of `{}` would lose the {lost}",
            situation.table.plain()
        ))
        .hint(if lost.starts_with("generated column ") {
            "drop it, and let a view compute it: the copy has the source's columns and no others"
        } else {
            "drop it, and make it again after the sync"
        }));
    }
    let new = new_table(situation);
    let (load, note) = load(situation, &new, first.pg_dump_unusable);
    let mut before = vec![Step::destination("begin a transaction", session::BEGIN)];
    if planted(Fault::DroppedFirst) {
        let drop = format!("{} CASCADE", ddl::drop_table(situation.table));
        before.insert(0, Step::destination("drop the old table", drop));
    }
    let not_null_name = |column: &str| not_null_name(situation, first.dependents, column);
    let columns = situation.shape.destination_columns();
    let storage = first.dependents.map_or_else(String::new, swap::storage);
    before.push(Step::destination(
        &format!("create `{}`", situation.table.plain()),
        ddl::create_table(&new, &columns, not_null_name, &storage),
    ));
    Ok(Plan {
        sync_type,
        reason,
        warnings: Vec::new(),
        notes: note.into_iter().collect(),
        details: Vec::new(),
        before,
        removal: None,
        load: Some(load),
        of_each_part: Vec::new(),
        after: after_load(situation, &new, first),
        reconciliation: None,
        finish: vec![
            write_receipt(situation, first.receipt),
            Step::destination("commit", session::COMMIT),
        ],
        nothing_if_empty: false,
        nothing_if_same: false,
    })
}

fn load(situation: &Situation, new: &Qualified, unusable: Option<&str>) -> (Load, Option<String>) {
    let (rule, source, shape) = (situation.rule, situation.source, situation.shape);
    let names = shape.names();
    let last = situation.undisturbed().into_iter().chain(situation.end_of_snapshot()).collect();
    let rows = shape.selection(rule, source, None);
    let obstacle = match rule.initial {
        InitialPath::Copy => None,
        InitialPath::PgDump => obstacle_to_pg_dump(rule, source, shape.needs_casts())
            .map(str::to_owned)
            .or_else(|| unusable.map(str::to_owned)),
    };
    if rule.initial == InitialPath::PgDump && obstacle.is_none() {
        let columns = names.iter().map(|&name| name.to_owned()).collect();
        let from = Reading::PgDump { table: source.name.clone(), columns };
        let into = copy_in(new, &names, Format::Text, true);
        let (format, hint) = (Format::Text, None);
        return (Load { rows, from, first: None, into, format, last, hint }, None);
    }
    let query = rows.copy_out(shape.format);
    let into = copy_in(new, &names, shape.format, true);
    let note = obstacle.map(|obstacle| format!("COPY reads it instead of pg_dump: {obstacle}"));
    let hint = super::shape::filter_hint(rule);
    let (from, format) = (Reading::Copy(query), shape.format);
    (Load { rows, from, first: None, into, format, last, hint }, note)
}

fn obstacle_to_pg_dump(rule: &Rule, source: &SourceTable, casts: bool) -> Option<&'static str> {
    match source.kind {
        Kind::Table => {}
        Kind::Partitioned => return Some("it is a partitioned table"),
        Kind::View => return Some("it is a view"),
        Kind::MaterializedView => return Some("it is a materialized view"),
        Kind::ForeignTable => return Some("it is a foreign table"),
        Kind::Other => return Some("it is not a table"),
    }
    if rule.mode == Mode::IncrementalAppend {
        Some("versions are told apart to the last bit, which text does not keep")
    } else if rule.columns != ColumnChoice::All {
        Some("the rule chooses columns")
    } else if rule.filter.is_some() {
        Some("the rule has a filter")
    } else if source.columns.iter().any(|column| column.generated) {
        Some("it has generated columns, which pg_dump leaves out")
    } else if source.row_security {
        Some("row-level security applies to us")
    } else if source.has_children {
        Some("other tables inherit from it, whose rows pg_dump leaves out")
    } else if source.in_extension {
        Some("it belongs to an extension, whose tables pg_dump leaves out")
    } else if !source.readable {
        Some("we may read only some of its columns")
    } else if source.columns.iter().any(|column| column.data_type.innermost().is_bytes()) {
        Some("it has names or single bytes, whose length in text is another in another encoding")
    } else if casts {
        Some("it has arrays whose elements are not separated by commas")
    } else {
        None
    }
}

fn after_load(situation: &Situation, new: &Qualified, first: &First) -> Vec<Step> {
    let (table, shape) = (situation.table, situation.shape);
    let mut steps = Vec::new();
    if first.unasked {
        steps.extend(no_shrinking(situation, new));
    }
    let own_name = own_index_name(&table.name);
    let there: Vec<&Index> =
        first.dependents.iter().flat_map(|dependents| &dependents.indexes).collect();
    let names: Vec<&str> = there.iter().map(|index| index.name.as_str()).collect();
    let own_interim = interim_name(new, &names);
    let ours = |index: &Index| index.name == own_name || interim_names(new).contains(&index.name);
    let kept: Vec<&Index> =
        there.iter().copied().filter(|index| !ours(index) || index.is_made_much_of()).collect();
    let has_own = !shape.unique_columns.is_empty() && !one_of_them_serves(situation, &kept);
    if has_own {
        let before = there.iter().find(|index| ours(index));
        let place = before.and_then(|index| index.tablespace.as_deref());
        let index = own_index(situation, new, &own_interim);
        steps.push(Step { sql: swap::placed(index.sql, place), ..index });
    }
    if shape.nullable_keys && !situation.nulls_not_distinct() && !situation.keeps_versions() {
        steps.push(no_shared_key(situation, new));
    }
    for statement in swap::prepare(new, &kept) {
        steps.push(keeping(situation, statement));
    }
    steps.push(Step::destination("analyze the new table", ddl::analyze(new)));
    if let Some(dependents) = first.dependents {
        let columns = shape.destination_columns();
        let columns: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let others = dependents.references.iter().filter_map(|other| other.table.as_ref());
        let all: Vec<&Qualified> = std::iter::once(table).chain(others).collect();
        let purpose = format!("have `{}` for the moment of its replacement", table.plain());
        steps.push(
            Step::destination(
                &purpose,
                session::lock_exclusively(&swap::drop_views(dependents), &all),
            )
            .result(Outcome::Patient)
            // Of the views, this is the last look: they are gone once the table is ours. It opens all that
            // they show, which others who wait for the same views must have back after each attempt.
            .provided(sql::dependents::digest_of(table), dependents.digest.clone())
            .still(sql::dependents::own_digest_of(table), dependents.own_digest.clone())
            .hint(
                "somebody keeps a transaction open that has read it; sync again when it has ended",
            ),
        );
        for statement in swap::replace(table, new, dependents, &kept, &columns, first.user) {
            steps.push(keeping(situation, statement));
        }
    } else {
        let name = format!("give the new table the name `{}`", table.plain());
        steps.push(Step::destination(&name, swap::rename(table, new)));
    }
    if has_own {
        steps.push(name_own_index(situation, &own_interim));
    }
    steps.extend(super::incremental::make_staging(situation));
    steps.extend(super::incremental::leftovers(situation));
    steps
}

/// A source that was emptied by mistake must not empty the destination.
fn no_shrinking(situation: &Situation, new: &Qualified) -> Option<Step> {
    let (table, percent) = (situation.table, situation.rule.max_delete_percent);
    let there = situation.destination.filter(|_| percent < 100)?;
    let marked = there.columns.iter().any(|column| column.name == DELETED_AT);
    let purpose = format!("replace `{}` by a new copy that is so much smaller", table.plain());
    let keys = &situation.shape.unique_columns;
    let unique = there.unique_indexes.iter().any(|index| index.covers(keys));
    let known = keys.iter().all(|key| there.columns.iter().any(|column| column.name == *key));
    let shared = if known && !unique { keys } else { &[][..] };
    let asked = swap::shrinks(table, new, (percent, GUARDED_ROWS), marked, shared);
    // The present table is not kept from others until the copy is done.
    let sql = [session::SAVEPOINT, &asked, session::ROLLBACK_TO_SAVEPOINT].join(";\n");
    Some(Step::destination(&purpose, sql).result(Outcome::NoRow).hint(format!(
        "look whether the source is complete, for \"max_delete_percent\" is {percent}; if it is, \
         copy it with `incremental-replication sync --table {} --full-refresh`, or, where it was upgraded or \
         moved, go on with the copy by `sync --source-moved`",
        shell_quoted(&situation.rule.name)
    )))
}

/// Whether an index that is kept serves the merge as well.
fn one_of_them_serves(situation: &Situation, kept: &[&Index]) -> bool {
    situation.destination.is_some_and(|there| {
        there.unique_indexes.iter().any(|index| {
            index.immediate
                && kept.iter().any(|kept| kept.name == index.name)
                && index.covers(&situation.shape.unique_columns)
                && (index.nulls_not_distinct || !situation.wants_nulls_not_distinct())
        })
    })
}

/// What a new copy is called until it takes the table's place.
fn new_table(situation: &Situation) -> Qualified {
    situation.table.beside(format!("_new_{:016x}", digest(&situation.table.to_string())))
}

/// The names that our unique index may have until it gets its own, and goes by where that is taken.
fn interim_names(new: &Qualified) -> [String; 2] {
    ["unique", "unique2"].map(|end| format!("{}_{end}", new.name))
}

/// The one that none of the table's indexes has.
fn interim_name(new: &Qualified, there: &[&str]) -> String {
    let [one, other] = interim_names(new);
    if there.contains(&&*one) { other } else { one }
}

/// The steps that make the index on the unique columns of the table that is there.
pub(super) fn own_index_in_place(situation: &Situation) -> Vec<Step> {
    let table = situation.table;
    let own = own_index_name(&table.name);
    let there = situation.destination.map_or(&[][..], |there| &there.unique_indexes);
    let there: Vec<&str> = there.iter().map(|index| index.name.as_str()).collect();
    let interim = interim_name(&new_table(situation), &there);
    let mut steps = Vec::new();
    if there.contains(&&*own) {
        let drop = ddl::drop_index(&table.beside(own));
        let purpose = "drop the unique index that no longer fits";
        steps.push(Step::destination(purpose, drop).hint(DEPENDED_ON));
    }
    steps.push(own_index(situation, table, &interim).result(Outcome::Distinct));
    steps.push(name_own_index(situation, &interim));
    steps
}

/// The step that gives our index its name, unless something else has it: the index of a table that
/// people have renamed is called as before.
fn name_own_index(situation: &Situation, interim: &str) -> Step {
    let own = situation.table.beside(own_index_name(&situation.table.name));
    let rename = ddl::rename_index(&own.beside(interim), &own.name);
    Step::destination("name the unique index", rename).unless(
        ddl::is_there(&own),
        &format!("there is a `{}` already, perhaps of a table that was renamed", own.plain()),
    )
}

/// The step that makes the index on the unique columns.
fn own_index(situation: &Situation, table: &Qualified, name: &str) -> Step {
    let columns = &situation.shape.unique_columns;
    let purpose = format!("make the index on the unique columns ({})", columns.join(", "));
    if situation.keeps_versions() {
        return Step::destination(&purpose, ddl::create_index(name, table, columns));
    }
    let nulls_not_distinct = situation.wants_nulls_not_distinct();
    Step::destination(&purpose, ddl::create_unique_index(name, table, columns, nulls_not_distinct))
        .hint(not_unique(situation))
}

/// Before NULLS NOT DISTINCT, a unique index does not see that two NULLs are the same.
fn no_shared_key(situation: &Situation, table: &Qualified) -> Step {
    let columns = &situation.shape.unique_columns;
    let purpose = format!("make the unique columns ({}) unique", columns.join(", "));
    Step::destination(&purpose, Selection::all_of(table).shared_key(columns))
        .result(Outcome::NoRow)
        .hint(not_unique(situation))
}

fn not_unique(situation: &Situation) -> String {
    format!(
        "the rows of `{}` are not unique by these columns: name columns in \"unique_cols\" that \
         identify a row, or set \"mode\" to \"full-refresh\" and leave \"unique_cols\" out",
        situation.source.name.plain()
    )
}

pub(super) fn write_receipt(situation: &Situation, receipt: &Receipt) -> Step {
    // A receipt is plain strings and numbers, which always have a JSON form.
    let json = serde_json::to_string(receipt).unwrap_or_default();
    // Elsewhere both sides are compared, and the first rows may all be dead: to find one that is not
    // would be to read them.
    let keeps_rows = situation.rule.deletes == Deletes::Keep && situation.rule.mode.has_key();
    Step::destination(
        "write the receipt",
        sql::receipt::write(&situation.receipts(), (situation.table, keeps_rows), VERSION, &json),
    )
}

fn keeping(situation: &Situation, statement: swap::Statement) -> Step {
    let table = situation.table.plain();
    match statement.object {
        Some(object) => Step::destination(
            &format!("keep {object} with a new copy of `{table}`"),
            statement.sql,
        )
        .hint(format!(
            "`{table}` is as it was; drop the {object}, or change it so that it fits the new \
             table, and sync again"
        )),
        None => Step::destination(&format!("replace `{table}` by its new copy"), statement.sql)
            .hint(format!(
                "`{table}` is as it was; drop what depends on it, and make it again after the sync"
            )),
    }
}

/// What a column's NOT NULL is called, where it has a name: after the name that the table will get, and as
/// nothing else that people have put on it.
fn not_null_name(
    situation: &Situation,
    dependents: Option<&Dependents>,
    column: &str,
) -> Option<String> {
    let kept = |name: &String| {
        dependents.is_some_and(|there| {
            there.constraints.iter().any(|one| one.name == *name)
                || there.indexes.iter().any(|one| one.name == *name)
                || there.triggers.iter().any(|one| one.name == *name)
        })
    };
    let mut names = not_null_names(&situation.table.name, column);
    names.find(|name| !kept(name)).filter(|_| situation.names_not_nulls())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{APPENDED, COPIED, MERGED, Setting, first_words, receipt};
    use super::*;
    use crate::table::UniqueIndex;
    use crate::table::dependent::Constraint;

    fn index(name: &str) -> Index {
        Index {
            name: name.to_owned(),
            definition: format!("CREATE UNIQUE INDEX {name} ON copies.t USING btree (id)"),
            tablespace: None,
            unique: true,
            clustered: false,
            replica_identity: false,
            comment: None,
            statistics: Vec::new(),
            constraint: None,
            options: Vec::new(),
        }
    }

    #[test]
    fn copy_reads_what_pg_dump_would_leave_out_or_cannot_say() {
        let obstacle = |rule: &str, change: fn(&mut SourceTable)| {
            let mut setting = Setting::new(rule, true);
            change(&mut setting.source);
            let found = obstacle_to_pg_dump(&setting.rule, &setting.source, false);
            found.unwrap_or_default()
        };
        assert_eq!(obstacle(MERGED, |_| {}), "");
        assert!(obstacle(APPENDED, |_| {}).contains("to the last bit"));
        let excluding = format!(r#"{MERGED}, "columns": {{"exclude": ["a"]}}"#);
        assert_eq!(obstacle(&excluding, |_| {}), "the rule chooses columns");
        assert_eq!(
            obstacle(&format!(r#"{MERGED}, "where": "true""#), |_| {}),
            "the rule has a filter"
        );
        let said = |change, said: &str| {
            assert!(obstacle(MERGED, change).contains(said), "{said}");
        };
        said(|source| source.columns[1].generated = true, "generated columns");
        said(|source| source.row_security = true, "row-level security");
        said(|source| source.has_children = true, "inherit from it");
        said(|source| source.in_extension = true, "belongs to an extension");
        said(|source| source.readable = false, "only some of its columns");
        said(|source| source.kind = Kind::View, "it is a view");
        let setting = Setting::new(MERGED, true);
        let casts = obstacle_to_pg_dump(&setting.rule, &setting.source, true);
        assert!(casts.is_some_and(|said| said.contains("not separated by commas")));
    }

    #[test]
    fn a_first_copy_is_read_as_the_rule_wants_it_and_says_where_it_is_not() {
        let loaded = |rule: &str, unusable| {
            let setting = Setting::new(rule, true);
            let new = Qualified::new("copies", "new");
            let (load, note) = load(&setting.situation(), &new, unusable);
            (matches!(load.from, Reading::PgDump { .. }), note.unwrap_or_default())
        };
        assert_eq!(loaded(MERGED, None), (true, String::new()));
        let note = "COPY reads it instead of pg_dump: it is not there";
        assert_eq!(loaded(MERGED, Some("it is not there")), (false, note.to_owned()));
        let copied = format!(r#"{MERGED}, "initial": "copy""#);
        assert_eq!(loaded(&copied, Some("it is not there")), (false, String::new()));
    }

    #[test]
    fn not_nulls_are_called_after_the_table_and_as_nothing_else_where_they_have_names() {
        let setting = Setting::new(COPIED, false);
        let created = |destination_version, kept: &[&str]| {
            let situation = Situation { destination_version, ..setting.situation() };
            let receipt = receipt(&situation);
            let constraint = |name: &&str| Constraint {
                table: None,
                name: (*name).to_owned(),
                definition: "CHECK (id > 0)".to_owned(),
                comment: None,
            };
            let constraints = kept.iter().map(constraint).collect();
            let first = First {
                unasked: true,
                dependents: Some(&Dependents { constraints, ..Dependents::bare() }),
                pg_dump_unusable: None,
                user: "owner",
                receipt: &receipt,
            };
            let plan = initial(&situation, SyncType::Initial, String::new(), &first).unwrap();
            plan.before[1].sql.clone()
        };
        let says = |created: &str, said: &str| assert!(created.contains(said), "{created}");
        says(&created(17_00_00, &["t_id_not_null"]), r#""id" integer NOT NULL,"#);
        says(&created(18_00_00, &[]), r#""id" integer CONSTRAINT "t_id_not_null" NOT NULL,"#);
        let kept = ["t_id_not_null1", "t_id_not_null"];
        says(&created(18_00_00, &kept), r#""id" integer CONSTRAINT "t_id_not_null2" NOT NULL,"#);
    }

    #[test]
    fn a_new_copy_gets_its_indexes_before_its_name() {
        let planned = |setting: &Setting, destination_version, indexes: Option<Vec<Index>>| {
            let situation = Situation { destination_version, ..setting.situation() };
            let dependents = indexes.map(|indexes| Dependents { indexes, ..Dependents::bare() });
            let first = First {
                unasked: false,
                dependents: dependents.as_ref(),
                pg_dump_unusable: None,
                user: "owner",
                receipt: &receipt(&situation),
            };
            first_words(&after_load(&situation, &Qualified::new("copies", "new"), &first))
        };
        let merged = || Setting::new(MERGED, true);
        let own = || index(&own_index_name("t"));
        let plain = "CREATE ANALYZE ALTER ALTER CREATE";
        assert_eq!(planned(&merged(), 17_00_00, None), plain);
        // Without a key, nothing is indexed.
        let keyless = "ANALYZE ALTER CREATE";
        assert_eq!(planned(&Setting::new(COPIED, false), 17_00_00, None), keyless);
        // An index that serves is made again, one that this tool made is not.
        let replaced = |setting: &Setting, indexes| planned(setting, 17_00_00, Some(indexes));
        let made_anew = replaced(&merged(), vec![own()]);
        assert!(made_anew.starts_with("CREATE ANALYZE SET"), "{made_anew}");
        assert_eq!(replaced(&merged(), Vec::new()), made_anew);
        let both = replaced(&merged(), vec![index("another")]);
        assert!(both.starts_with("CREATE CREATE ANALYZE SET"), "{both}");
        let serving = replaced(&merged(), vec![index("t_key")]);
        assert!(serving.starts_with("CREATE ANALYZE SET"), "{serving}");
        let cherished = Index { comment: Some("ours".to_owned()), ..own() };
        let cherished = replaced(&merged(), vec![cherished]);
        assert!(cherished.starts_with("CREATE CREATE ANALYZE SET"), "{cherished}");
        // Before 15 an index cannot tell that NULL is there twice.
        let mut nullable = merged();
        nullable.shape.nullable_keys = true;
        let asked = "CREATE SELECT ANALYZE ALTER ALTER CREATE";
        assert_eq!(planned(&nullable, 14_00_00, None), asked);
        assert_eq!(planned(&nullable, 15_00_00, None), plain);
        let mut versions = Setting::new(APPENDED, true);
        versions.shape.nullable_keys = true;
        assert_eq!(planned(&versions, 14_00_00, None), plain);
    }

    #[test]
    fn an_index_of_somebody_elses_serves_where_it_is_kept_and_looked_at_with_every_row() {
        let serves = |kept: &str, change: fn(&mut UniqueIndex)| {
            let mut setting = Setting::new(MERGED, true);
            change(&mut setting.destination.unique_indexes[0]);
            one_of_them_serves(&setting.situation(), &[&index(kept)])
        };
        assert!(serves("t_key", |_| {}));
        assert!(!serves("another", |_| {}));
        assert!(!serves("t_key", |index| index.immediate = false));
        assert!(!serves("t_key", |index| "a".clone_into(&mut index.columns[0])));
        assert!(serves("t_key", |index| index.nulls_not_distinct = true));
    }

    #[test]
    fn rows_that_are_not_unique_lead_to_the_rule() {
        let setting = Setting::new(MERGED, true);
        let step = own_index(&setting.situation(), &Qualified::new("copies", "new"), "new_key");
        let hint = step.hint.unwrap_or_default();
        assert!(hint.starts_with("the rows of `s.t` are not unique by these columns"), "{hint}");
        let setting = Setting::new(APPENDED, true);
        let step = own_index(&setting.situation(), &Qualified::new("copies", "new"), "new_key");
        assert!(step.sql.starts_with("CREATE INDEX") && step.hint.is_none(), "{step:?}");
    }
}
