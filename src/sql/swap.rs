//! Puts a freshly loaded table in the place of the old one, with everything that people had put
//! on the old one made again.
//!
//! The old table cannot simply be emptied and filled: readers would wait for the whole load, and
//! one with an older snapshot would see nothing. So a new table takes its name.

use super::{Qualified, identifier, literal};
use crate::table::dependent::{
    Comment, Constraint, Dependents, Grant, Index, Policy, Remark, Trigger, Tuned, View,
};

/// A statement and the object it is about, for the error that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What to run at the destination.
    pub sql: String,
    /// Such as `` view `public.totals` ``; `None` for the table itself.
    pub object: Option<String>,
}

/// Statements that make the old table's indexes on the new one, under names of their own: the
/// long part, done while readers still use the old table.
#[must_use]
pub fn prepare(new: &Qualified, kept: &[&Index]) -> Vec<Statement> {
    kept.iter().enumerate().map(|(number, index)| build(new, number, index)).collect()
}

fn build(new: &Qualified, number: usize, index: &Index) -> Statement {
    let name = identifier(&interim(new, number));
    let sql = match &index.constraint {
        Some(constraint) => format!("ALTER TABLE {new} ADD CONSTRAINT {name} {constraint}"),
        None => format!(
            "CREATE {}INDEX {name} ON {new}{}",
            if index.unique { "UNIQUE " } else { "" },
            method_and_columns(&index.definition)
        ),
    };
    Statement { sql, object: Some(format!("index `{}`", index.name)) }
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
    script.table(format!("DROP TABLE {table}"));
    script.table(rename(table, new));
    script.indexes(table, new, kept);
    script.settings(table, dependents, user);
    script.tuned(table, &dependents.tuned, columns);
    script.access("TABLE", table, &dependents.grants, &dependents.default_grantees, columns);
    script.comments("TABLE", table, &dependents.comments, Some(columns));
    script.rules_for_rows(table, dependents, columns);
    for view in &dependents.views {
        script.view(view, &dependents.default_grantees, user);
    }
    script.0
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
            if index.clustered {
                self.add(format!("ALTER TABLE {table} CLUSTER ON {name}"), &about);
            }
            if index.replica_identity {
                let identity = format!("ALTER TABLE {table} REPLICA IDENTITY USING INDEX {name}");
                self.add(identity, &about);
            }
            if let Some(comment) = &index.comment {
                let index = table.beside(&index.name);
                self.add(format!("COMMENT ON INDEX {index} IS {}", literal(comment)), &about);
            }
        }
    }

    fn settings(&mut self, table: &Qualified, dependents: &Dependents, user: &str) {
        if !dependents.options.is_empty() {
            let options = options(&dependents.options);
            self.table(format!("ALTER TABLE {table} SET ({options})"));
        }
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

    /// Grants as they were. What new tables are granted by default is taken back first: the old
    /// table may have been without it on purpose.
    fn access(
        &mut self,
        kind: &str,
        relation: &Qualified,
        grants: &[Grant],
        default_grantees: &[Option<String>],
        columns: &[&str],
    ) {
        let about = format!("grants on `{}`", relation.plain());
        for grantee in default_grantees {
            self.add(
                format!("REVOKE ALL ON {kind} {relation} FROM {}", role(grantee.as_deref())),
                &about,
            );
        }
        for grant in grants {
            let column = match grant.column.as_deref() {
                Some(gone)
                    if kind == "TABLE" && !columns.is_empty() && !columns.contains(&gone) =>
                {
                    continue;
                }
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

    fn tuned(&mut self, table: &Qualified, tuned: &[Tuned], columns: &[&str]) {
        for tuned in tuned.iter().filter(|tuned| columns.contains(&tuned.column.as_str())) {
            let alter = format!("ALTER TABLE {table} ALTER COLUMN {}", identifier(&tuned.column));
            if let Some(target) = tuned.statistics {
                self.table(format!("{alter} SET STATISTICS {target}"));
            }
            if let Some(storage) = &tuned.storage {
                self.table(format!("{alter} SET STORAGE {storage}"));
            }
            if !tuned.options.is_empty() {
                self.table(format!("{alter} SET ({})", options(&tuned.options)));
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
        }
        self.triggers(name, &view.triggers);
        self.comments(kind, name, &view.comments, None);
        self.access("TABLE", name, &view.grants, default_grantees, &[]);
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
}
