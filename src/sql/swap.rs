//! Puts a freshly loaded table in the place of the old one, with everything that people had put
//! on the old one made again.
//!
//! The old table cannot simply be emptied and filled: readers would wait for the whole load, and
//! one with an older snapshot would see nothing. So a new table takes its name.

use super::{Qualified, identifier, identifiers, literal};
use crate::table::DELETED_AT;
use crate::table::dependent::{
    Comment, Constraint, Dependents, Grant, Index, Policy, Remark, Sequence, Target, Trigger,
    Tuned, View,
};

/// A statement and the object it is about, for the error that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What to run at the destination.
    pub sql: String,
    /// Such as `` view `public.totals` ``; `None` for the table itself.
    pub object: Option<String>,
}

/// How the old table is stored, and so the new one, as the end of its CREATE TABLE.
#[must_use]
pub fn storage(dependents: &Dependents) -> String {
    let Dependents { options: there, tablespace, .. } = dependents;
    let with = (!there.is_empty()).then(|| format!(" WITH ({})", options(there)));
    let place = tablespace.as_ref().map(|name| format!(" TABLESPACE {}", identifier(name)));
    [with, place].into_iter().flatten().collect()
}

/// Statements that make the old table's indexes on the new one, under names of their own: the
/// long part, done while readers still use the old table.
#[must_use]
pub fn prepare(new: &Qualified, kept: &[&Index]) -> Vec<Statement> {
    kept.iter().enumerate().map(|(number, index)| build(new, number, index)).collect()
}

fn build(new: &Qualified, number: usize, index: &Index) -> Statement {
    let own = Qualified::new(&new.schema, interim(new, number));
    let name = identifier(&own.name);
    let sql = match &index.constraint {
        Some(constraint) => {
            let set = match &index.options[..] {
                [] => String::new(),
                tuned => format!(";\nALTER INDEX {own} SET ({})", options(tuned)),
            };
            format!("ALTER TABLE {new} ADD CONSTRAINT {name} {constraint}{set}")
        }
        None => format!(
            "CREATE {}INDEX {name} ON {new}{}",
            if index.unique { "UNIQUE " } else { "" },
            method_and_columns(&index.definition)
        ),
    };
    let sql = placed(sql, index.tablespace.as_deref());
    Statement { sql, object: Some(format!("index `{}`", index.name)) }
}

/// A statement that makes an index, in a tablespace: one that makes a constraint cannot say it itself.
#[must_use]
pub fn placed(sql: String, tablespace: Option<&str>) -> String {
    match tablespace {
        Some(tablespace) => format!(
            "SET LOCAL default_tablespace = {};\n{sql};\nSET LOCAL default_tablespace TO DEFAULT",
            literal(tablespace)
        ),
        None => sql,
    }
}

fn interim(new: &Qualified, number: usize) -> String {
    format!("{}_{number}", new.name)
}

/// What follows the table's name in the text of `pg_get_indexdef`.
fn method_and_columns(definition: &str) -> &str {
    let behind = |text, word: &str| str::split_once(text, word).map_or("", |(_, rest)| rest);
    let rest = after_identifier(behind(definition, "INDEX "));
    let rest = rest.strip_prefix(" ON ").unwrap_or(rest);
    let rest = after_identifier(rest.strip_prefix("ONLY ").unwrap_or(rest));
    rest.strip_prefix('.').map_or(rest, after_identifier)
}

fn after_identifier(text: &str) -> &str {
    let Some(mut rest) = text.strip_prefix('"') else {
        return text.find([' ', '.']).map_or("", |end| &text[end..]);
    };
    while let Some((_, after)) = rest.split_once('"') {
        match after.strip_prefix('"') {
            Some(doubled) => rest = doubled,
            None => return after,
        }
    }
    ""
}

/// Statements that put `new` in the place of `table`. `kept` are the indexes that
/// [`prepare`] has made, `user` is the role that runs them.
#[must_use]
pub fn replace(
    table: &Qualified,
    new: &Qualified,
    dependents: &Dependents,
    kept: &[&Index],
    columns: &[&str],
    user: &str,
) -> Vec<Statement> {
    let mut script = Script::default();
    script.clear_the_way(table, dependents);
    script.sequences(dependents, columns, |_| "NONE".to_owned());
    script.table(format!("DROP TABLE {table}"));
    script.table(rename(table, new));
    script.indexes(table, new, kept);
    script.settings(table, dependents, user);
    script.tuned("TABLE", table, &dependents.tuned, Some(columns));
    script.access(table, &dependents.grants, &dependents.default_grantees, Some(columns));
    script.comments("TABLE", table, &dependents.comments, Some(columns));
    script.rules_for_rows(table, dependents, columns);
    script.sequences(dependents, columns, |column| format!("{table}.{}", identifier(column)));
    for view in &dependents.views {
        script.view(view, &dependents.default_grantees, user);
    }
    script.0
}

/// One row where a new copy lacks more than so many percent of a table's rows, and the table has at
/// least so many: what a person should know of it. Marked rows are not counted, and of rows of the table that
/// share their unique columns, which may be `shared`, one is.
#[must_use]
pub fn shrinks(
    table: &Qualified,
    new: &Qualified,
    (percent, at_least): (u8, u64),
    marked: bool,
    shared: &[String],
) -> String {
    let unmarked =
        if marked { format!(" WHERE {} IS NULL", identifier(DELETED_AT)) } else { String::new() };
    let present = match identifiers(shared.iter().map(String::as_str)) {
        none if none.is_empty() => format!("SELECT count(*) FROM {table}{unmarked}"),
        shared => format!(
            "SELECT count(*) FROM (SELECT DISTINCT {shared} FROM {table}{unmarked}) AS keys"
        ),
    };
    format!(
        "SELECT 'it has ' || fresh.rows || ' rows, and the table has ' || present.rows\n\
         FROM ({present}) AS present (rows), \
         (SELECT count(*) FROM {new}) AS fresh (rows)\n\
         WHERE present.rows >= {at_least} \
         AND (present.rows - fresh.rows) * 100 > present.rows * {percent}"
    )
}

/// Statements that drop the views on a table, the outermost first, as a reader locks them: views
/// before tables, else the two lock each other out.
#[must_use]
pub fn drop_views(dependents: &Dependents) -> Vec<String> {
    let drop = |view: &View| format!("DROP {} {}", view_kind(view), view.name);
    dependents.views.iter().rev().map(drop).collect()
}

/// The statement that gives the new table its name.
#[must_use]
pub fn rename(table: &Qualified, new: &Qualified) -> String {
    format!("ALTER TABLE {new} RENAME TO {}", identifier(&table.name))
}

#[derive(Default)]
struct Script(Vec<Statement>);

impl Script {
    fn add(&mut self, sql: String, object: &str) {
        self.0.push(Statement { sql, object: Some(object.to_owned()) });
    }

    fn table(&mut self, sql: String) {
        self.0.push(Statement { sql, object: None });
    }

    fn clear_the_way(&mut self, table: &Qualified, dependents: &Dependents) {
        for constraint in &dependents.references {
            let other = constraint.table.as_ref().unwrap_or(table);
            let name = identifier(&constraint.name);
            self.add(format!("ALTER TABLE {other} DROP CONSTRAINT {name}"), &about(constraint));
        }
    }

    fn indexes(&mut self, table: &Qualified, new: &Qualified, kept: &[&Index]) {
        for (number, index) in kept.iter().enumerate() {
            let about = format!("index `{}`", index.name);
            let interim = table.beside(interim(new, number));
            let name = identifier(&index.name);
            self.add(format!("ALTER INDEX {interim} RENAME TO {name}"), &about);
            if index.replica_identity {
                let identity = format!("ALTER TABLE {table} REPLICA IDENTITY USING INDEX {name}");
                self.add(identity, &about);
            }
            self.made_of_index("TABLE", table, index);
        }
    }

    /// What people have made of an index.
    fn made_of_index(&mut self, kind: &str, relation: &Qualified, index: &Index) {
        let about = format!("index `{}`", index.name);
        let (name, itself) = (identifier(&index.name), relation.beside(&index.name));
        if index.clustered {
            self.add(format!("ALTER {kind} {relation} CLUSTER ON {name}"), &about);
        }
        if let Some(comment) = &index.comment {
            self.add(format!("COMMENT ON INDEX {itself} IS {}", literal(comment)), &about);
        }
        for Target { number, target } in &index.statistics {
            let alter = format!("ALTER INDEX {itself} ALTER COLUMN {number}");
            self.add(format!("{alter} SET STATISTICS {target}"), &about);
        }
    }

    fn settings(&mut self, table: &Qualified, dependents: &Dependents, user: &str) {
        match dependents.replica_identity {
            'f' => self.table(format!("ALTER TABLE {table} REPLICA IDENTITY FULL")),
            'n' => self.table(format!("ALTER TABLE {table} REPLICA IDENTITY NOTHING")),
            _ => {}
        }
        if dependents.owner != user {
            let owner = identifier(&dependents.owner);
            self.table(format!("ALTER TABLE {table} OWNER TO {owner}"));
        }
    }

    /// Grants as they were, but for those on columns that are not among `columns`. What new tables are
    /// granted by default is taken back first: the old table may have been without it on purpose.
    fn access(
        &mut self,
        relation: &Qualified,
        grants: &[Grant],
        default_grantees: &[Option<String>],
        columns: Option<&[&str]>,
    ) {
        let about = format!("grants on `{}`", relation.plain());
        for grantee in default_grantees {
            self.add(
                format!("REVOKE ALL ON TABLE {relation} FROM {}", role(grantee.as_deref())),
                &about,
            );
        }
        for grant in grants {
            let column = match grant.column.as_deref() {
                Some(gone) if columns.is_some_and(|columns| !columns.contains(&gone)) => continue,
                Some(column) => format!(" ({})", identifier(column)),
                None => String::new(),
            };
            let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
            let grantee = role(grant.grantee.as_deref());
            let privilege = &grant.privilege;
            self.add(
                format!("GRANT {privilege}{column} ON TABLE {relation} TO {grantee}{option}"),
                &about,
            );
        }
    }

    fn comments(
        &mut self,
        kind: &str,
        relation: &Qualified,
        comments: &[Comment],
        columns: Option<&[&str]>,
    ) {
        let about = format!("comments on `{}`", relation.plain());
        for comment in comments {
            let text = literal(&comment.text);
            match comment.column.as_deref() {
                None => self.add(format!("COMMENT ON {kind} {relation} IS {text}"), &about),
                Some(column) if columns.is_none_or(|there| there.contains(&column)) => {
                    let column = identifier(column);
                    self.add(format!("COMMENT ON COLUMN {relation}.{column} IS {text}"), &about);
                }
                Some(_) => {}
            }
        }
    }

    /// Gives the sequences of the columns that stay to somebody else: they would go with the old table.
    fn sequences(
        &mut self,
        dependents: &Dependents,
        columns: &[&str],
        owner: impl Fn(&str) -> String,
    ) {
        let staying = |sequence: &&Sequence| columns.contains(&sequence.column.as_str());
        for Sequence { column, name } in dependents.sequences.iter().filter(staying) {
            self.add(
                format!("ALTER SEQUENCE {name} OWNED BY {}", owner(column)),
                &format!("sequence of column `{column}`"),
            );
        }
    }

    fn rules_for_rows(&mut self, table: &Qualified, dependents: &Dependents, columns: &[&str]) {
        for default in &dependents.defaults {
            if columns.contains(&default.column.as_str()) {
                let column = identifier(&default.column);
                let expression = &default.expression;
                self.add(
                    format!("ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT {expression}"),
                    &format!("default of column `{}`", default.column),
                );
            }
        }
        for constraint in dependents.constraints.iter().chain(&dependents.references) {
            let table = constraint.table.as_ref().unwrap_or(table);
            let (name, definition) = (identifier(&constraint.name), &constraint.definition);
            self.add(
                format!("ALTER TABLE {table} ADD CONSTRAINT {name} {definition}"),
                &about(constraint),
            );
            if let Some(comment) = &constraint.comment {
                let comment = literal(comment);
                self.add(
                    format!("COMMENT ON CONSTRAINT {name} ON {table} IS {comment}"),
                    &about(constraint),
                );
            }
        }
        self.triggers(table, &dependents.triggers);
        for policy in &dependents.policies {
            let about = format!("policy `{}`", policy.name);
            self.add(create_policy(table, policy), &about);
        }
        if dependents.row_security {
            self.table(format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"));
        }
        if dependents.force_row_security {
            self.table(format!("ALTER TABLE {table} FORCE ROW LEVEL SECURITY"));
        }
        for statistics in &dependents.statistics {
            self.add(statistics.clone(), "extended statistics");
        }
        for remark in &dependents.remarks {
            self.remark(table, remark);
        }
        for publication in &dependents.publications {
            let name = identifier(publication);
            self.add(
                format!("ALTER PUBLICATION {name} ADD TABLE {table}"),
                &format!("publication `{publication}`"),
            );
        }
    }

    fn remark(&mut self, table: &Qualified, remark: &Remark) {
        let object = match &remark.schema {
            Some(schema) => Qualified::new(schema, &remark.name).to_string(),
            None => format!("{} ON {table}", identifier(&remark.name)),
        };
        let about = format!("comment on {} `{}`", remark.kind.to_lowercase(), remark.name);
        let text = literal(&remark.text);
        self.add(format!("COMMENT ON {} {object} IS {text}", remark.kind), &about);
    }

    fn tuned(
        &mut self,
        kind: &str,
        relation: &Qualified,
        tuned: &[Tuned],
        columns: Option<&[&str]>,
    ) {
        let about = format!("settings of columns of `{}`", relation.plain());
        let there =
            |one: &&Tuned| columns.is_none_or(|columns| columns.contains(&one.column.as_str()));
        for tuned in tuned.iter().filter(there) {
            let column = identifier(&tuned.column);
            let alter = format!("ALTER {kind} {relation} ALTER COLUMN {column}");
            if let Some(target) = tuned.statistics {
                self.add(format!("{alter} SET STATISTICS {target}"), &about);
            }
            if let Some(storage) = &tuned.storage {
                self.add(format!("{alter} SET STORAGE {storage}"), &about);
            }
            if !tuned.options.is_empty() {
                self.add(format!("{alter} SET ({})", options(&tuned.options)), &about);
            }
        }
    }

    fn triggers(&mut self, relation: &Qualified, triggers: &[Trigger]) {
        for trigger in triggers {
            let about = format!("trigger `{}`", trigger.name);
            self.add(trigger.definition.clone(), &about);
            let enabling = match trigger.enabled {
                'D' => "DISABLE",
                'R' => "ENABLE REPLICA",
                'A' => "ENABLE ALWAYS",
                _ => continue,
            };
            let name = identifier(&trigger.name);
            self.add(format!("ALTER TABLE {relation} {enabling} TRIGGER {name}"), &about);
        }
    }

    fn view(&mut self, view: &View, default_grantees: &[Option<String>], user: &str) {
        let (name, kind, about) = (&view.name, view_kind(view), named(view));
        let with = if view.options.is_empty() {
            String::new()
        } else {
            format!(" WITH ({})", options(&view.options))
        };
        let data = if view.materialized { "\nWITH NO DATA" } else { "" };
        let query = view.definition.trim().trim_end_matches(';');
        self.add(format!("CREATE {kind} {name}{with} AS\n{query}{data}"), &about);
        if view.populated && view.materialized {
            // Unlike CREATE ... WITH DATA, this writes rows that older snapshots see.
            self.add(format!("REFRESH MATERIALIZED VIEW {name}"), &about);
        }
        for index in &view.indexes {
            self.add(index.definition.clone(), &format!("index `{}`", index.name));
            self.made_of_index(kind, name, index);
        }
        self.tuned(kind, name, &view.tuned, None);
        self.triggers(name, &view.triggers);
        for statistics in &view.statistics {
            self.add(statistics.clone(), "extended statistics");
        }
        for remark in &view.remarks {
            self.remark(name, remark);
        }
        self.comments(kind, name, &view.comments, None);
        self.access(name, &view.grants, default_grantees, None);
        if view.owner != user {
            let owner = identifier(&view.owner);
            self.add(format!("ALTER {kind} {name} OWNER TO {owner}"), &about);
        }
    }
}

fn view_kind(view: &View) -> &'static str {
    if view.materialized { "MATERIALIZED VIEW" } else { "VIEW" }
}

fn named(view: &View) -> String {
    format!("{} `{}`", view_kind(view).to_lowercase(), view.name.plain())
}

fn about(constraint: &Constraint) -> String {
    let on = constraint.table.as_ref().map(|table| format!(" of `{}`", table.plain()));
    format!("constraint `{}`{}", constraint.name, on.unwrap_or_default())
}

fn role(name: Option<&str>) -> String {
    name.map_or_else(|| "PUBLIC".to_owned(), identifier)
}

fn options(options: &[String]) -> String {
    let one = |option: &String| match option.split_once('=') {
        Some((name, value)) => format!("{name} = {}", literal(value)),
        None => option.clone(),
    };
    options.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn create_policy(table: &Qualified, policy: &Policy) -> String {
    let kind = if policy.permissive { "PERMISSIVE" } else { "RESTRICTIVE" };
    let command = match policy.command {
        'r' => "SELECT",
        'a' => "INSERT",
        'w' => "UPDATE",
        'd' => "DELETE",
        _ => "ALL",
    };
    let roles =
        policy.roles.iter().map(|name| role(name.as_deref())).collect::<Vec<_>>().join(", ");
    let clause = |word: &str, expression: &Option<String>| {
        expression.as_ref().map_or_else(String::new, |text| format!(" {word} ({text})"))
    };
    format!(
        "CREATE POLICY {} ON {table} AS {kind} FOR {command} TO {roles}{}{}",
        identifier(&policy.name),
        clause("USING", &policy.using),
        clause("WITH CHECK", &policy.check),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_an_index_is_found_behind_any_name() {
        for definition in [
            "CREATE INDEX i ON public.orders USING btree (a)",
            "CREATE UNIQUE INDEX \"i \"\"ON x\" ON public.\"or.ders\" USING btree (a)",
            "CREATE INDEX i ON ONLY \"S\".t USING btree (a)",
        ] {
            assert_eq!(method_and_columns(definition), " USING btree (a)", "{definition}");
        }
    }

    /// What is run for a table of the columns `id` and `a` on which this was put, without the schema's name.
    fn replaced(dependents: &Dependents, kept: &[&Index]) -> Vec<String> {
        let (table, new) = (Qualified::new("s", "t"), Qualified::new("s", "new"));
        let statements = replace(&table, &new, dependents, kept, &["id", "a"], "owner");
        statements.into_iter().map(|statement| statement.sql.replace("\"s\".", "")).collect()
    }

    /// The same, without what is run in any case.
    fn added(dependents: &Dependents) -> Vec<String> {
        let mut all = replaced(dependents, &[]);
        assert_eq!(all[..2], ["DROP TABLE \"t\"", "ALTER TABLE \"new\" RENAME TO \"t\""]);
        all.split_off(2)
    }

    #[test]
    fn a_table_is_as_its_owner_left_it() {
        let with = |change: fn(&mut Dependents)| {
            let mut dependents = Dependents::bare();
            change(&mut dependents);
            added(&dependents)
        };
        assert_eq!(with(|_| {}), [""; 0]);
        let identity = |which: &str| [format!("ALTER TABLE \"t\" REPLICA IDENTITY {which}")];
        assert_eq!(with(|there| there.replica_identity = 'f'), identity("FULL"));
        assert_eq!(with(|there| there.replica_identity = 'n'), identity("NOTHING"));
        assert_eq!(with(|there| there.replica_identity = 'i'), [""; 0], "the index says it");
        let owned = with(|there| "somebody".clone_into(&mut there.owner));
        assert_eq!(owned, ["ALTER TABLE \"t\" OWNER TO \"somebody\""]);
        let mut stored = Dependents::bare();
        assert_eq!(storage(&stored), "");
        stored.options =
            vec!["fillfactor=90".to_owned(), "toast.autovacuum_enabled=false".to_owned()];
        stored.tablespace = Some("a b".to_owned());
        let said =
            " WITH (fillfactor = '90', toast.autovacuum_enabled = 'false') TABLESPACE \"a b\"";
        assert_eq!(storage(&stored), said);
        let tuned = with(|there| {
            let tuned = |column: &str| Tuned {
                column: column.to_owned(),
                statistics: Some(7),
                storage: Some("EXTERNAL".to_owned()),
                options: vec!["n_distinct=5".to_owned()],
            };
            there.tuned =
                vec![tuned("a"), tuned("gone"), Tuned { options: Vec::new(), ..tuned("a") }];
        });
        let alter = "ALTER TABLE \"t\" ALTER COLUMN \"a\" SET";
        let [statistics, storage] =
            [format!("{alter} STATISTICS 7"), format!("{alter} STORAGE EXTERNAL")];
        let options = format!("{alter} (n_distinct = '5')");
        assert_eq!(tuned, [&*statistics, &storage, &options, &statistics, &storage]);
    }

    #[test]
    fn grants_and_comments_come_back_but_for_columns_that_are_gone() {
        let grant = |grantee: Option<&str>, column: Option<&str>, grantable| Grant {
            grantee: grantee.map(str::to_owned),
            privilege: "SELECT".to_owned(),
            grantable,
            column: column.map(str::to_owned),
        };
        let comment = |column: Option<&str>| Comment {
            column: column.map(str::to_owned),
            text: "it's".to_owned(),
        };
        let dependents = Dependents {
            grants: vec![
                grant(None, None, false),
                grant(Some("r"), Some("a"), true),
                grant(Some("r"), Some("gone"), false),
            ],
            default_grantees: vec![Some("r".to_owned())],
            comments: vec![comment(None), comment(Some("a")), comment(Some("gone"))],
            ..Dependents::bare()
        };
        assert_eq!(
            added(&dependents),
            [
                "REVOKE ALL ON TABLE \"t\" FROM \"r\"",
                "GRANT SELECT ON TABLE \"t\" TO PUBLIC",
                "GRANT SELECT (\"a\") ON TABLE \"t\" TO \"r\" WITH GRANT OPTION",
                "COMMENT ON TABLE \"t\" IS 'it''s'",
                "COMMENT ON COLUMN \"t\".\"a\" IS 'it''s'",
            ]
        );
    }

    #[test]
    fn an_index_is_what_people_had_made_of_it() {
        let index = Index {
            name: "i".to_owned(),
            definition: "CREATE UNIQUE INDEX i ON s.t USING btree (a)".to_owned(),
            tablespace: None,
            unique: true,
            clustered: true,
            replica_identity: true,
            comment: Some("ours".to_owned()),
            statistics: vec![Target { number: 1, target: 9 }],
            constraint: None,
            options: vec!["fillfactor=60".to_owned()],
        };
        let plain = Index { unique: false, ..index.clone() };
        let constraint = Index { constraint: Some("UNIQUE (a)".to_owned()), ..index.clone() };
        let new = Qualified::new("s", "new");
        let prepared: Vec<String> = prepare(&new, &[&index, &plain, &constraint])
            .into_iter()
            .map(|statement| statement.sql.replace("\"s\".", ""))
            .collect();
        assert_eq!(
            prepared,
            [
                "CREATE UNIQUE INDEX \"new_0\" ON \"new\" USING btree (a)",
                "CREATE INDEX \"new_1\" ON \"new\" USING btree (a)",
                "ALTER TABLE \"new\" ADD CONSTRAINT \"new_2\" UNIQUE (a);\n\
                 ALTER INDEX \"new_2\" SET (fillfactor = '60')",
            ]
        );
        assert_eq!(
            replaced(&Dependents::bare(), &[&index])[2..],
            [
                "ALTER INDEX \"new_0\" RENAME TO \"i\"",
                "ALTER TABLE \"t\" REPLICA IDENTITY USING INDEX \"i\"",
                "ALTER TABLE \"t\" CLUSTER ON \"i\"",
                "COMMENT ON INDEX \"i\" IS 'ours'",
                "ALTER INDEX \"i\" ALTER COLUMN 1 SET STATISTICS 9",
            ]
        );
    }

    #[test]
    fn rules_for_rows_come_back_in_the_order_in_which_they_need_each_other() {
        let constraint = |name: &str, table: Option<&str>| Constraint {
            table: table.map(|table| Qualified::new("s", table)),
            name: name.to_owned(),
            definition: "CHECK (true)".to_owned(),
            comment: table.map(str::to_owned),
        };
        let default = |column: &str| crate::table::dependent::Default {
            column: column.to_owned(),
            expression: "7".to_owned(),
        };
        let trigger = |name: &str, enabled| Trigger {
            name: name.to_owned(),
            definition: format!("CREATE TRIGGER {name}"),
            enabled,
        };
        let policy = |name: &str, command, permissive| Policy {
            name: name.to_owned(),
            permissive,
            command,
            roles: vec![None, Some("r".to_owned())],
            using: (command != 'a').then(|| "u".to_owned()),
            check: (command == 'a').then(|| "c".to_owned()),
        };
        let remark = |kind: &str, schema: Option<&str>| Remark {
            kind: kind.to_owned(),
            schema: schema.map(str::to_owned),
            name: "n".to_owned(),
            text: "x".to_owned(),
        };
        let dependents = Dependents {
            constraints: vec![constraint("c", None)],
            references: vec![constraint("r", Some("other"))],
            defaults: vec![default("a"), default("gone")],
            triggers: [("o", 'O'), ("d", 'D'), ("p", 'R'), ("w", 'A')]
                .map(|(n, e)| trigger(n, e))
                .into(),
            policies: vec![
                policy("p", 'r', true),
                policy("p", 'a', true),
                policy("p", 'w', false),
                policy("p", 'd', true),
                policy("p", '*', true),
            ],
            row_security: true,
            force_row_security: true,
            statistics: vec!["CREATE STATISTICS x".to_owned()],
            publications: vec!["pub".to_owned()],
            remarks: vec![remark("TRIGGER", None), remark("STATISTICS", Some("s"))],
            ..Dependents::bare()
        };
        let all = replaced(&dependents, &[]);
        assert_eq!(all[0], "ALTER TABLE \"other\" DROP CONSTRAINT \"r\"");
        assert_eq!(
            all[3..],
            [
                "ALTER TABLE \"t\" ALTER COLUMN \"a\" SET DEFAULT 7",
                "ALTER TABLE \"t\" ADD CONSTRAINT \"c\" CHECK (true)",
                "ALTER TABLE \"other\" ADD CONSTRAINT \"r\" CHECK (true)",
                "COMMENT ON CONSTRAINT \"r\" ON \"other\" IS 'other'",
                "CREATE TRIGGER o",
                "CREATE TRIGGER d",
                "ALTER TABLE \"t\" DISABLE TRIGGER \"d\"",
                "CREATE TRIGGER p",
                "ALTER TABLE \"t\" ENABLE REPLICA TRIGGER \"p\"",
                "CREATE TRIGGER w",
                "ALTER TABLE \"t\" ENABLE ALWAYS TRIGGER \"w\"",
                "CREATE POLICY \"p\" ON \"t\" AS PERMISSIVE FOR SELECT TO PUBLIC, \"r\" USING (u)",
                "CREATE POLICY \"p\" ON \"t\" AS PERMISSIVE FOR INSERT TO PUBLIC, \"r\" WITH CHECK (c)",
                "CREATE POLICY \"p\" ON \"t\" AS RESTRICTIVE FOR UPDATE TO PUBLIC, \"r\" USING (u)",
                "CREATE POLICY \"p\" ON \"t\" AS PERMISSIVE FOR DELETE TO PUBLIC, \"r\" USING (u)",
                "CREATE POLICY \"p\" ON \"t\" AS PERMISSIVE FOR ALL TO PUBLIC, \"r\" USING (u)",
                "ALTER TABLE \"t\" ENABLE ROW LEVEL SECURITY",
                "ALTER TABLE \"t\" FORCE ROW LEVEL SECURITY",
                "CREATE STATISTICS x",
                "COMMENT ON TRIGGER \"n\" ON \"t\" IS 'x'",
                "COMMENT ON STATISTICS \"n\" IS 'x'",
                "ALTER PUBLICATION \"pub\" ADD TABLE \"t\"",
            ]
        );
    }

    #[test]
    fn a_view_comes_back_with_all_that_was_put_on_it() {
        let view = |materialized, populated, owner: &str| View {
            name: Qualified::new("s", "v"),
            materialized,
            populated,
            definition: " SELECT 1;".to_owned(),
            owner: owner.to_owned(),
            options: if materialized {
                Vec::new()
            } else {
                vec!["security_barrier=true".to_owned()]
            },
            comments: vec![Comment { column: Some("gone".to_owned()), text: "x".to_owned() }],
            grants: vec![Grant {
                grantee: None,
                privilege: "SELECT".to_owned(),
                grantable: false,
                column: Some("one".to_owned()),
            }],
            indexes: Vec::new(),
            tuned: Vec::new(),
            statistics: Vec::new(),
            remarks: Vec::new(),
            triggers: Vec::new(),
        };
        let of = |view: View| added(&Dependents { views: vec![view], ..Dependents::bare() });
        let rest = [
            "COMMENT ON COLUMN \"v\".\"gone\" IS 'x'",
            "GRANT SELECT (\"one\") ON TABLE \"v\" TO PUBLIC",
        ];
        let plain = of(view(false, true, "owner"));
        assert_eq!(plain[0], "CREATE VIEW \"v\" WITH (security_barrier = 'true') AS\nSELECT 1");
        assert_eq!(plain[1..], rest);
        let empty = of(view(true, false, "somebody"));
        assert_eq!(empty[0], "CREATE MATERIALIZED VIEW \"v\" AS\nSELECT 1\nWITH NO DATA");
        assert_eq!(empty[1..3], rest);
        assert_eq!(empty[3], "ALTER MATERIALIZED VIEW \"v\" OWNER TO \"somebody\"");
        let filled = of(view(true, true, "owner"));
        assert_eq!(filled[1], "REFRESH MATERIALIZED VIEW \"v\"");
        let dependents = Dependents {
            views: vec![view(false, true, "owner"), view(true, true, "owner")],
            ..Dependents::bare()
        };
        let dropped = ["DROP MATERIALIZED VIEW \"s\".\"v\"", "DROP VIEW \"s\".\"v\""];
        assert_eq!(drop_views(&dependents), dropped);
    }
}
