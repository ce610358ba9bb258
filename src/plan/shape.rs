//! What the destination table shall look like, from the source's table and the rule.

use crate::config::{ColumnChoice, Deletes, Mode, ReplicationKey, Rule};
use crate::digest::Digested;
use crate::error::{Error, Result, did_you_mean};
use crate::mapping::{self, Transfer};
use crate::receipt::{CopiedColumn, Origin, SourceIdentity};
use crate::sql::condition;
use crate::sql::copy::{Format, Selected, Selection};
use crate::table::{Column, DELETED_AT, Kind, SourceColumn, SourceTable};
use crate::watermark::key::{KEY_TYPES, Key, KeyType};

/// What the destination table shall look like, and how its rows are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The destination's columns.
    pub columns: Vec<Column>,
    /// The same columns as the source's SELECT writes them.
    pub selected: Vec<Selected>,
    /// The same columns as both sides digest them.
    pub digested: Vec<Digested>,
    /// Whether the destination has a column of its own that says what the source no longer has.
    pub marks: bool,
    /// How rows travel when COPY reads them.
    pub format: Format,
    /// What identifies a row; empty only where no merge is needed.
    pub unique_columns: Vec<String>,
    /// Whether one of those may be NULL.
    pub nullable_keys: bool,
    /// Whether the source itself makes sure that they identify a row.
    pub unique_at_source: bool,
    /// The column of the replication key; none where rows are found by xmin, or all are read.
    pub key: Option<Key>,
}

impl Shape {
    /// The names of the columns.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.columns.iter().map(|column| column.name.as_str()).collect()
    }

    /// The rows of the source table that the rule asks for, under a condition of ours.
    #[must_use]
    pub fn selection(
        &self,
        rule: &Rule,
        source: &SourceTable,
        condition: Option<String>,
    ) -> Selection {
        Selection {
            table: source.name.clone(),
            columns: self.selected.clone(),
            filter: rule.filter.clone(),
            condition,
            apart: None,
        }
    }

    /// The destination's columns with the one of its own.
    #[must_use]
    pub fn destination_columns(&self) -> Vec<Column> {
        let own = self.marks.then(|| Column {
            name: DELETED_AT.to_owned(),
            data_type: DELETED_AT_TYPE.to_owned(),
            not_null: false,
        });
        self.columns.iter().cloned().chain(own).collect()
    }

    /// Whether some values must be cast at the source to read as they shall at the destination.
    #[must_use]
    pub fn needs_casts(&self) -> bool {
        self.selected.iter().any(|column| column.cast.is_some())
    }
}

/// What a copy made now is made with.
#[must_use]
pub fn origin(
    rule: &Rule,
    source: &SourceTable,
    shape: &Shape,
    identity: SourceIdentity,
) -> Origin {
    let copied = |name: &str| {
        let column = source.column(name)?;
        Some(CopiedColumn {
            name: column.name.clone(),
            number: column.number,
            data_type: column.data_type.declared.clone(),
            parts: column.data_type.parts.clone(),
            is_enum: column.data_type.is_enum(),
        })
    };
    let key = rule.replication_key.as_ref().filter(|_| rule.mode.has_key());
    Origin {
        source: identity,
        source_table_oid: source.oid,
        mode: rule.mode.name().to_owned(),
        replication_key: key.map(|key| key.name().to_owned()),
        unique_columns: shape.unique_columns.clone(),
        columns: shape.names().into_iter().filter_map(copied).collect(),
        last_column: source.columns.iter().map(|column| column.number).max(),
        filter: rule.filter.clone(),
        definition: Some(source.definition.clone()),
    }
}

/// The type of [`DELETED_AT`], as `format_type` prints it.
pub(super) const DELETED_AT_TYPE: &str = "timestamp with time zone";

/// Works out the shape, or says what in the rule does not fit the source table.
pub fn shape(rule: &Rule, source: &SourceTable, destination_version: u32) -> Result<Shape> {
    if let (Some(what), Some(hint)) =
        (rule.filter.as_deref().and_then(condition::gets_out), filter_hint(rule))
    {
        return Err(Error::table(format!("`where` {what}")).hint(hint));
    }
    for name in rule.columns.named() {
        find(source, name, "columns")?;
    }
    let taken: Vec<&SourceColumn> =
        source.columns.iter().filter(|column| rule.columns.takes(&column.name)).collect();
    let mapped: Vec<_> = taken
        .iter()
        .map(|column| (*column, mapping::map(&column.data_type, destination_version)))
        .collect();
    let unique_columns = unique_columns(rule, source)?;
    let marks = rule.deletes == Deletes::Mark;
    if marks && taken.iter().any(|column| column.name == DELETED_AT) {
        return Err(Error::table(format!(
            "`{}` has a column `{DELETED_AT}` of its own, where `deletes`: `mark` writes",
            source.name.plain()
        ))
        .hint("set \"deletes\" to \"remove\", or leave the column out with \"columns\""));
    }
    let binary = mapped.iter().all(|(_, mapped)| mapped.transfer == Transfer::Binary);
    Ok(Shape {
        columns: mapped
            .iter()
            .map(|(column, mapped)| Column {
                name: column.name.clone(),
                data_type: mapped.data_type.clone(),
                not_null: column.not_null,
            })
            .collect(),
        selected: mapped
            .iter()
            .map(|(column, mapped)| Selected {
                name: column.name.clone(),
                cast: (mapped.transfer == Transfer::Cast).then(|| mapped.data_type.clone()),
            })
            .collect(),
        digested: mapped
            .iter()
            .map(|(column, mapped)| Digested::new(&column.name, &column.data_type, mapped))
            .collect(),
        marks,
        format: if binary { Format::Binary } else { Format::Text },
        nullable_keys: taken.iter().any(|c| !c.not_null && unique_columns.contains(&c.name)),
        unique_at_source: source.guarantees_unique(&unique_columns),
        unique_columns,
        key: key(rule, source)?,
    })
}

fn unique_columns(rule: &Rule, source: &SourceTable) -> Result<Vec<String>> {
    if let Some(named) = &rule.unique_columns {
        for name in named {
            find(source, name, "unique_cols")?;
            travels(rule, name, "unique_cols")?;
            unambiguous(source, name)?;
        }
        if named.len() > MOST_IN_AN_INDEX {
            return Err(Error::table(format!(
                "`unique_cols` names {} columns, and an index of PostgreSQL holds {MOST_IN_AN_INDEX}",
                named.len()
            )));
        }
        return Ok(named.clone());
    }
    let primary_key = source.primary_key();
    let whole = primary_key.iter().all(|name| rule.columns.takes(name));
    let unambiguous: Result<Vec<()>> =
        primary_key.iter().map(|name| unambiguous(source, name)).collect();
    // The primary key of a parent says nothing about the rows of its children. A full refresh
    // can do without.
    let serves = !source.has_children && unambiguous.is_ok();
    if whole && !primary_key.is_empty() && (serves || rule.mode != Mode::FullRefresh) {
        unambiguous?;
        return Ok(primary_key.to_vec());
    }
    if rule.mode == Mode::FullRefresh {
        return Ok(Vec::new());
    }
    let message = if primary_key.is_empty() {
        format!(
            "`{}` has no primary key at the source, and the rule has no `unique_cols`",
            rule.name
        )
    } else {
        format!(
            "the primary key of `{}` ({}) is not among the columns that are copied",
            rule.name,
            primary_key.join(", ")
        )
    };
    Err(Error::table(message).hint(
        "name the columns that identify a row in \"unique_cols\", or set \"mode\" to \"full-refresh\"",
    ))
}

/// How many columns an index can have, `INDEX_MAX_KEYS`.
const MOST_IN_AN_INDEX: usize = 32;

/// Fails for a column whose values may differ and yet read the same at the destination.
fn unambiguous(source: &SourceTable, name: &str) -> Result<()> {
    let Some(SourceColumn { data_type, .. }) = source.column(name) else { return Ok(()) };
    let declared = &data_type.declared;
    let why = if mapping::reads_ambiguously(data_type) {
        format!("different values of type {declared} read the same")
    } else if mapping::has_no_order(data_type) {
        format!("PostgreSQL has no order for values of type {declared}")
    } else {
        return Ok(());
    };
    Err(Error::table(format!(
        "the column `{name}` of `{}` cannot identify a row: {why}",
        source.name.plain()
    ))
    .hint("name other columns in \"unique_cols\", or set \"mode\" to \"full-refresh\""))
}

fn key(rule: &Rule, source: &SourceTable) -> Result<Option<Key>> {
    let name = match &rule.replication_key {
        Some(ReplicationKey::Column(name)) if rule.mode.has_key() => name,
        Some(ReplicationKey::Xmin) if rule.mode.has_key() => {
            return has_xmin(source).map(|()| None);
        }
        _ => return Ok(None),
    };
    let column = find(source, name, "replication_key")?;
    travels(rule, name, "replication_key")?;
    // It shows what its last REFRESH saw, whose transactions in flight nobody knows any more. Which of its
    // rows are new is told by the REFRESH itself.
    if source.kind == Kind::MaterializedView && source.lacks_xmin().is_none() {
        return Ok(None);
    }
    let Some(key_type) = KeyType::of(&column.data_type) else {
        return Err(Error::table(format!(
            "the replication key `{}` of `{}` is {}, which cannot serve as one",
            column.name, rule.name, column.data_type.declared
        ))
        .hint(format!("choose a column of type {KEY_TYPES}")));
    };
    Ok(Some(Key {
        column: column.name.clone(),
        key_type,
        sql_type: column.data_type.base.formatted.clone(),
        lookback: key_type.lookback(rule.lookback.as_ref())?,
    }))
}

fn has_xmin(source: &SourceTable) -> Result<()> {
    let Some(why) = source.lacks_xmin() else { return Ok(()) };
    Err(Error::table(format!("`{}` cannot be read by xmin: {why}", source.name.plain()))
        .hint("name a column as its \"replication_key\", or set \"mode\" to \"full-refresh\""))
}

fn find<'a>(source: &'a SourceTable, name: &str, rule_key: &str) -> Result<&'a SourceColumn> {
    source.column(name).ok_or_else(|| {
        let error = Error::table(format!(
            "`{rule_key}` names the column `{name}`, which `{}` does not have at the source",
            source.name.plain()
        ));
        let names: Vec<&str> = source.columns.iter().map(|column| column.name.as_str()).collect();
        match did_you_mean(name, names.iter().copied()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint(format!("its columns are {}", names.join(", "))),
        }
    })
}

fn travels(rule: &Rule, name: &str, rule_key: &str) -> Result<()> {
    if rule.columns.takes(name) {
        return Ok(());
    }
    let how = match rule.columns {
        ColumnChoice::Include(_) => "does not include",
        _ => "excludes",
    };
    Err(Error::table(format!("`columns` {how} `{name}`, which `{rule_key}` needs")))
}

/// Where to look when the source does not understand the query: only the filter is not ours.
pub(super) fn filter_hint(rule: &Rule) -> Option<String> {
    rule.filter.as_ref().map(|filter| format!("check \"where\" in tables-config.json: {filter}"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{COPIED, MERGED, Setting};
    use super::*;
    use crate::table::{BaseType, ElementType, Kind};

    /// The unique columns of a rule, or the error, where the source was changed.
    fn unique(rule: &str, primary_key: bool, change: fn(&mut SourceTable)) -> String {
        let mut setting = Setting::new(COPIED, primary_key);
        change(&mut setting.source);
        let rule = Setting::rule(rule);
        match shape(&rule, &setting.source, 17_00_00) {
            Ok(shape) => shape.unique_columns.join(", "),
            Err(error) => error.message,
        }
    }

    #[test]
    fn a_valid_unique_index_without_null_tells_rows_apart() {
        let told_apart = |change: fn(&mut SourceTable)| {
            let mut source = Setting::new(COPIED, true).source;
            change(&mut source);
            source.guarantees_unique(&["id".to_owned()])
        };
        assert!(told_apart(|_| {}));
        assert!(!told_apart(|source| source.columns[0].not_null = false));
        assert!(!told_apart(|source| source.unique_indexes[0].valid = false));
        assert!(!told_apart(|source| source.unique_indexes[0].columns.push("a".to_owned())));
        assert!(!told_apart(|source| source.has_children = true));
    }

    #[test]
    fn rows_are_identified_by_the_rule_else_by_the_primary_key() {
        let unchanged = |_: &mut SourceTable| {};
        let named = r#""replication_key": "id", "unique_cols": ["b", "a"]"#;
        assert_eq!(unique(named, true, unchanged), "b, a");
        assert_eq!(unique(MERGED, true, unchanged), "id");
        assert_eq!(
            unique(MERGED, false, unchanged),
            "`t` has no primary key at the source, and the rule has no `unique_cols`"
        );
        assert_eq!(unique(COPIED, false, unchanged), "");
        let without = r#""mode": "diff", "columns": {"exclude": ["id"]}"#;
        assert_eq!(
            unique(without, true, unchanged),
            "the primary key of `t` (id) is not among the columns that are copied"
        );
        // It says nothing about the rows of children.
        let parent = |source: &mut SourceTable| source.has_children = true;
        assert_eq!(unique(MERGED, true, parent), "id");
        assert_eq!(unique(COPIED, true, parent), "");
        assert_eq!(unique(COPIED, true, unchanged), "id");
        // Its values may be told apart inside one server only.
        let procedure = |source: &mut SourceTable| {
            source.columns[0].data_type.base = BaseType {
                oid: 24,
                name: "regproc".to_owned(),
                kind: 'b',
                formatted: "regproc".to_owned(),
            };
        };
        assert_eq!(unique(COPIED, true, procedure), "");
        assert!(unique(r#""mode": "diff""#, true, procedure).contains("`id`"));
    }

    #[test]
    fn what_an_index_cannot_hold_identifies_no_row() {
        let point =
            |source: &mut SourceTable| source.columns[1].data_type.base.name = "point".to_owned();
        let by_a = r#""mode": "diff", "unique_cols": ["a"]"#;
        assert!(unique(by_a, true, point).contains("PostgreSQL has no order for values of type"));
        let many = |number: usize| {
            let names: Vec<String> = (0..number).map(|at| format!("\"c{at}\"")).collect();
            let mut setting = Setting::new(MERGED, true);
            let template = setting.source.columns[1].clone();
            let column = |at: usize| SourceColumn { name: format!("c{at}"), ..template.clone() };
            setting.source.columns.extend((0..number).map(column));
            let rule = format!(r#""mode": "diff", "unique_cols": [{}]"#, names.join(","));
            shape(&Setting::rule(&rule), &setting.source, 17_00_00).map_err(|error| error.message)
        };
        assert!(many(32).is_ok());
        let said = many(33).unwrap_err();
        assert!(said.contains("names 33 columns, and an index of PostgreSQL holds 32"), "{said}");
    }

    #[test]
    fn rows_travel_in_binary_where_every_column_can() {
        let format = |change: fn(&mut SourceTable)| {
            let setting = Setting::changed(MERGED, change);
            shape(&setting.rule, &setting.source, 17_00_00).unwrap().format
        };
        assert_eq!(format(|_| {}), Format::Binary);
        let query = |source: &mut SourceTable| {
            "tsquery".clone_into(&mut source.columns[1].data_type.base.name);
        };
        assert_eq!(format(query), Format::Text);
    }

    #[test]
    fn the_column_for_marks_is_the_tools_own() {
        let owned = |source: &mut SourceTable| DELETED_AT.clone_into(&mut source.columns[4].name);
        let marking = r#""replication_key": "id", "deletes": "mark""#;
        assert!(unique(marking, true, owned).contains("has a column `_deleted_at` of its own"));
        assert_eq!(unique(marking, true, |_| {}), "id");
        let without = format!(r#"{marking}, "columns": {{"exclude": ["{DELETED_AT}"]}}"#);
        assert_eq!(unique(&without, true, owned), "id");
    }

    #[test]
    fn a_key_is_only_looked_for_where_rows_are_read_by_it() {
        let key = |rule| {
            let setting = Setting::new(COPIED, true);
            shape(&Setting::rule(rule), &setting.source, 17_00_00)
                .unwrap()
                .key
                .map(|key| key.column)
        };
        assert_eq!(key(MERGED).as_deref(), Some("id"));
        assert_eq!(key(r#""replication_key": "xmin""#), None);
        assert_eq!(key(r#""replication_key": "id", "mode": "full-refresh""#), None);
        assert_eq!(key(r#""replication_key": "absent", "mode": "diff""#), None);
    }

    #[test]
    fn what_a_rule_needs_must_travel() {
        let unchanged = |_: &mut SourceTable| {};
        let excluded = r#""replication_key": "a", "columns": {"exclude": ["a"]}"#;
        assert_eq!(
            unique(excluded, true, unchanged),
            "`columns` excludes `a`, which `replication_key` needs"
        );
        let not_included = r#""replication_key": "a", "columns": {"include": ["id"]}"#;
        assert_eq!(
            unique(not_included, true, unchanged),
            "`columns` does not include `a`, which `replication_key` needs"
        );
        let view = |source: &mut SourceTable| source.kind = Kind::View;
        let by_xmin = r#""replication_key": "xmin", "unique_cols": ["id"]"#;
        assert_eq!(unique(by_xmin, true, view), "`s.t` cannot be read by xmin: it is a view");
        assert_eq!(unique(by_xmin, true, unchanged), "id");
        let compared = r#""replication_key": "xmin", "mode": "diff", "unique_cols": ["id"]"#;
        assert_eq!(unique(compared, true, view), "id", "nothing is read by xmin");
    }

    #[test]
    fn the_hint_to_a_filter_repeats_it() {
        assert_eq!(filter_hint(&Setting::rule(MERGED)), None);
        let filtered = Setting::rule(r#""mode": "full-refresh", "where": "a > 'x'""#);
        let hint = filter_hint(&filtered);
        assert_eq!(hint.as_deref(), Some(r#"check "where" in tables-config.json: a > 'x'"#));
    }

    #[test]
    fn only_arrays_without_commas_need_casts() {
        let mut setting = Setting::new(MERGED, true);
        let base = BaseType {
            oid: 20_000,
            name: "box".to_owned(),
            kind: 'b',
            formatted: "box".to_owned(),
        };
        let element = ElementType { base, is_domain: false, is_array: false, delimiter: ',' };
        let mut casts = |delimiter| {
            let element = Some(ElementType { delimiter, ..element.clone() });
            setting.source.columns[1].data_type.element = element;
            shape(&setting.rule, &setting.source, 17_00_00).unwrap().needs_casts()
        };
        assert_eq!((casts(','), casts(';')), (false, true));
    }
}
