//! What people have put on a destination table: views, grants, comments, indexes and the like.

use serde::Deserialize;

use crate::sql::Qualified;

/// Everything that would vanish with a table, or keep it from being dropped.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Dependents {
    /// What all of it reads as, short.
    #[serde(skip)]
    pub digest: String,
    /// The same without the views.
    #[serde(skip)]
    pub own_digest: String,
    /// The role that owns the table.
    pub owner: String,
    /// Storage parameters, each `name=value`.
    pub options: Vec<String>,
    /// Where it is stored, if not where new tables are.
    pub tablespace: Option<String>,
    /// `pg_class.relreplident`: d(efault), n(othing), f(ull), i(ndex).
    pub replica_identity: char,
    /// On the table and on its columns.
    pub comments: Vec<Comment>,
    /// On the table and on its columns; the owner's own are not listed.
    pub grants: Vec<Grant>,
    /// Roles (`None`: everybody) to whom new tables of ours are granted by default.
    pub default_grantees: Vec<Option<String>>,
    /// Our own unique index among them.
    pub indexes: Vec<Index>,
    /// Checks and foreign keys of the table.
    pub constraints: Vec<Constraint>,
    /// Foreign keys of other tables that point here.
    pub references: Vec<Constraint>,
    /// Column defaults.
    pub defaults: Vec<Default>,
    /// Sequences that belong to serial columns.
    pub sequences: Vec<Sequence>,
    /// Triggers of the table.
    pub triggers: Vec<Trigger>,
    /// Whether row-level security is on.
    pub row_security: bool,
    /// Whether it binds the owner too.
    pub force_row_security: bool,
    /// Its policies.
    pub policies: Vec<Policy>,
    /// `CREATE STATISTICS` statements.
    pub statistics: Vec<String>,
    /// Publications that name the table.
    pub publications: Vec<String>,
    /// Comments on what the table has, each after its object has been made again.
    pub remarks: Vec<Remark>,
    /// Columns whose statistics or storage people have tuned.
    pub tuned: Vec<Tuned>,
    /// Columns that no sync can write.
    pub unwritable: Vec<Unwritable>,
    /// What this tool cannot make again, described for a message.
    pub beyond_us: Vec<String>,
    /// Views on the table and views on those, each after those it needs.
    pub views: Vec<View>,
}

#[cfg(test)]
impl Dependents {
    /// Those of a table on which nobody has put anything.
    pub(crate) fn bare() -> Self {
        Self {
            digest: "all".to_owned(),
            own_digest: "own".to_owned(),
            owner: "owner".to_owned(),
            options: Vec::new(),
            tablespace: None,
            replica_identity: 'd',
            comments: Vec::new(),
            grants: Vec::new(),
            default_grantees: Vec::new(),
            indexes: Vec::new(),
            constraints: Vec::new(),
            references: Vec::new(),
            defaults: Vec::new(),
            sequences: Vec::new(),
            triggers: Vec::new(),
            row_security: false,
            force_row_security: false,
            policies: Vec::new(),
            statistics: Vec::new(),
            publications: Vec::new(),
            remarks: Vec::new(),
            tuned: Vec::new(),
            unwritable: Vec::new(),
            beyond_us: Vec::new(),
            views: Vec::new(),
        }
    }
}

/// A comment on a relation, or on one of its columns.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Comment {
    /// `None`: the relation itself.
    pub column: Option<String>,
    /// What it says.
    pub text: String,
}

/// A comment on a constraint, a trigger, a policy or an object of extended statistics.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Remark {
    /// `CONSTRAINT`, `TRIGGER`, `POLICY` or `STATISTICS`.
    pub kind: String,
    /// The object's schema, where it is named by one.
    pub schema: Option<String>,
    /// The object's name.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// How people have tuned a column.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Tuned {
    /// The column.
    pub column: String,
    /// `SET STATISTICS`, where it was set.
    pub statistics: Option<i32>,
    /// `SET STORAGE`, where it differs from the type's own.
    pub storage: Option<String>,
    /// Options, each `name=value`.
    pub options: Vec<String>,
}

/// A column that takes only what the server gives it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Unwritable {
    /// The column.
    pub column: String,
    /// What it is, as `generated column c`.
    pub what: String,
}

/// A privilege on a relation, or on one of its columns.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Grant {
    /// `None`: everybody.
    pub grantee: Option<String>,
    /// `SELECT` and so on.
    pub privilege: String,
    /// Whether the grantee may pass it on.
    pub grantable: bool,
    /// `None`: the whole relation.
    pub column: Option<String>,
}

/// An index, and the constraint that stands on it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// As `pg_get_indexdef` prints it.
    pub definition: String,
    /// Where it is stored, if not where new ones are.
    pub tablespace: Option<String>,
    /// Whether it is unique.
    pub unique: bool,
    /// Whether `CLUSTER` goes by it.
    pub clustered: bool,
    /// Whether it is the table's replica identity.
    pub replica_identity: bool,
    /// `COMMENT ON INDEX`.
    pub comment: Option<String>,
    /// Columns whose statistics people have tuned.
    pub statistics: Vec<Target>,
    /// The definition of the constraint of the same name.
    pub constraint: Option<String>,
    /// Its storage parameters, which its definition names and that of a constraint does not.
    pub options: Vec<String>,
}

impl Index {
    /// Whether people have done something with it, so that it is more than the index this tool
    /// made.
    #[must_use]
    pub fn is_made_much_of(&self) -> bool {
        self.constraint.is_some()
            || self.comment.is_some()
            || !self.statistics.is_empty()
            || self.clustered
            || self.replica_identity
    }
}

/// How many values an index keeps statistics of.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Target {
    /// The column's number in the index.
    pub number: i16,
    /// `SET STATISTICS`.
    pub target: i32,
}

/// A constraint that needs no index of its own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Constraint {
    /// The table that has it, where it is another than ours.
    pub table: Option<Qualified>,
    /// Its name.
    pub name: String,
    /// As `pg_get_constraintdef` prints it.
    pub definition: String,
    /// `COMMENT ON CONSTRAINT`, of one that another table has.
    pub comment: Option<String>,
}

/// A column's default.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Default {
    /// The column.
    pub column: String,
    /// The expression.
    pub expression: String,
}

/// A sequence that would be dropped with a column.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Sequence {
    /// The column.
    pub column: String,
    /// The sequence.
    pub name: Qualified,
}

/// A trigger.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Trigger {
    /// Its name.
    pub name: String,
    /// As `pg_get_triggerdef` prints it.
    pub definition: String,
    /// `pg_trigger.tgenabled`: O(rigin), D(isabled), R(eplica), A(lways).
    pub enabled: char,
}

/// A row-level security policy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Permissive or restrictive.
    pub permissive: bool,
    /// `pg_policy.polcmd`: r, a, w, d, or * for all.
    pub command: char,
    /// `None`: everybody.
    pub roles: Vec<Option<String>>,
    /// The `USING` expression.
    pub using: Option<String>,
    /// The `WITH CHECK` expression.
    pub check: Option<String>,
}

/// A view, or a materialized view.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct View {
    /// Its name.
    pub name: Qualified,
    /// Whether its rows are stored.
    pub materialized: bool,
    /// Whether a materialized view has been filled.
    pub populated: bool,
    /// As `pg_get_viewdef` prints it.
    pub definition: String,
    /// The role that owns it.
    pub owner: String,
    /// Its options, each `name=value`.
    pub options: Vec<String>,
    /// On the view and its columns.
    pub comments: Vec<Comment>,
    /// On the view and its columns.
    pub grants: Vec<Grant>,
    /// Of a materialized view.
    pub indexes: Vec<Index>,
    /// Columns of one whose statistics or storage people have tuned.
    pub tuned: Vec<Tuned>,
    /// `CREATE STATISTICS` statements, and what was set for them.
    pub statistics: Vec<String>,
    /// Comments on those and on its triggers.
    pub remarks: Vec<Remark>,
    /// `INSTEAD OF` triggers.
    pub triggers: Vec<Trigger>,
}
