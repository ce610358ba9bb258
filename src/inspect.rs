//! What only people want to know of the two servers, read for `check` and `init`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::catalog::documents;
use crate::db::Session;
use crate::error::{Error, Result};
use crate::sql::inspect;

/// How we are connected, and what our role may do in a schema.
#[derive(Clone, Debug, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a right of its own")]
pub struct Rights {
    /// The version of TLS; none where the connection is not encrypted.
    pub tls: Option<String>,
    /// Whether it may do everything.
    pub superuser: bool,
    /// Whether the schema is there.
    pub schema_exists: bool,
    /// Whether what is in it may be seen.
    pub schema_usable: bool,
    /// Whether tables may be made in it, or it may be made itself.
    pub schema_creatable: bool,
    /// Whether temporary tables may be made.
    pub temporary: bool,
    /// Whether nothing can be written at all.
    pub read_only: bool,
    /// The first few tables of the schema that the role may write.
    pub writable: Vec<String>,
}

/// What sets a table's columns.
#[derive(Clone, Debug, Deserialize)]
pub struct Inspected {
    /// The table's name.
    pub name: String,
    /// Whether a trigger runs before each UPDATE, which may set columns.
    pub set_on_update: bool,
    /// Whether it is a part of another table.
    pub partition: bool,
    /// Whether another server's changes are written to it, or to a part of it.
    pub subscribed: bool,
    /// Its columns.
    pub columns: Vec<InspectedColumn>,
}

/// What sets a column, and what is known of its values.
#[derive(Clone, Debug, Deserialize)]
pub struct InspectedColumn {
    /// Its name.
    pub name: String,
    /// Its default, as SQL.
    pub default: Option<String>,
    /// Whether it is an identity column.
    pub identity: bool,
    /// Whether an index over all rows begins with it.
    pub indexed: bool,
    /// Which part of its values is NULL, by the statistics.
    pub null_share: Option<f64>,
}

impl Inspected {
    /// The column of that name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&InspectedColumn> {
        self.columns.iter().find(|column| column.name == name)
    }
}

impl InspectedColumn {
    /// Whether something at the source gives it a value when a row is inserted.
    #[must_use]
    pub fn sets_itself(&self) -> bool {
        self.identity || self.default.is_some()
    }
}

/// How we are connected with one side, and what our role may do there.
pub fn rights(session: &mut Session, schema: &str) -> Result<Rights> {
    let found = documents(session, "ask for our rights", &inspect::rights(schema))?.pop();
    found.ok_or_else(|| Error::bug("a server does not say what we may do"))
}

/// What sets the columns of a schema's tables at the source, or of those of these names, by the tables' names.
pub fn columns(
    source: &mut Session,
    schema: &str,
    names: Option<&[&str]>,
) -> Result<BTreeMap<String, Inspected>> {
    let tables: Vec<Inspected> =
        documents(source, "look at the columns", &inspect::columns(schema, names))?;
    Ok(tables.into_iter().map(|table| (table.name.clone(), table)).collect())
}

/// The answer to a question that may take long; none where it would.
pub fn briefly(session: &mut Session, question: &str) -> Option<Vec<Option<String>>> {
    let sql = format!("{}; {question}", inspect::BRIEFLY);
    session.rows("look at the rows", &sql).ok().map(|mut rows| rows.pop().unwrap_or_default())
}

/// Whether something is so; none where the answer would take long.
pub fn is_so(session: &mut Session, question: &str) -> Option<bool> {
    let answer = briefly(session, question)?.into_iter().next().flatten()?;
    Some(answer == "t")
}
