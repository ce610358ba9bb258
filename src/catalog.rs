//! Reads the shape of tables at both ends.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::db::{READER, Session};
use crate::error::{Error, Result, did_you_mean};
use crate::sql::catalog::Question;
use crate::sql::session::Patience;
use crate::sql::{self, Qualified, catalog, dependents};
use crate::table::dependent::Dependents;
use crate::table::{DestinationTable, Kind, SourceColumn, SourceTable};
use crate::watermark::Activity;

/// Those of the named tables that the source has, by their names.
pub fn source_tables(
    session: &mut Session,
    schema: &str,
    names: &[&str],
) -> Result<BTreeMap<String, SourceTable>> {
    locked_source_tables(session, None, schema, names)
}

/// The same, once the statements of `lock` have run.
fn locked_source_tables(
    session: &mut Session,
    lock: Option<&str>,
    schema: &str,
    names: &[&str],
) -> Result<BTreeMap<String, SourceTable>> {
    let mut tables: Vec<SourceTable> =
        kept_documents(session, lock, Question::SourceTables, schema, names)?;
    add_parts(session, &mut tables)?;
    heed_children(session, &mut tables)?;
    add_definitions(session, &mut tables)?;
    Ok(tables.into_iter().map(|table| (table.name.name.clone(), table)).collect())
}

/// Adds what the values of users' types are made of. Most tables have none, and are not asked about.
fn add_parts(session: &mut Session, tables: &mut [SourceTable]) -> Result<()> {
    let of_a_user: BTreeSet<u32> = tables
        .iter()
        .flat_map(|table| &table.columns)
        .filter_map(SourceColumn::of_a_user)
        .collect();
    if of_a_user.is_empty() {
        return Ok(());
    }
    let types: Vec<u32> = of_a_user.into_iter().collect();
    let made_of: Vec<MadeOf> =
        documents(session, "read the catalog of types", &catalog::parts(&types))?;
    for column in tables.iter_mut().flat_map(|table| &mut table.columns) {
        let Some(oid) = column.of_a_user() else { continue };
        if let Some(found) = made_of.iter().find(|found| found.oid == oid) {
            column.data_type.parts.extend_from_slice(&found.parts);
        }
    }
    Ok(())
}

/// What the values of a type are made of.
#[derive(Deserialize)]
struct MadeOf {
    oid: u32,
    parts: Vec<String>,
}

/// Takes NOT NULL off columns that hold NULL in a child, which need not refuse what its parent does.
fn heed_children(session: &mut Session, tables: &mut [SourceTable]) -> Result<()> {
    let parents: Vec<u32> =
        tables.iter().filter(|table| table.has_children).map(|table| table.oid).collect();
    if parents.is_empty() {
        return Ok(());
    }
    let question = catalog::nullable_in_children(&parents, session.server.version);
    let found: Vec<Nullable> = documents(session, "read the catalog of children", &question)?;
    for Nullable { oid, columns } in found {
        for table in tables.iter_mut().filter(|table| table.oid == oid) {
            for column in &mut table.columns {
                column.not_null &= !columns.contains(&column.name);
            }
        }
    }
    Ok(())
}

/// Adds what decides which rows a view, a foreign table or a table with policies shows. Most tables
/// are none of these.
fn add_definitions(session: &mut Session, tables: &mut [SourceTable]) -> Result<()> {
    let defined: Vec<u32> =
        tables.iter().filter(|table| table.is_defined()).map(|table| table.oid).collect();
    if defined.is_empty() {
        return Ok(());
    }
    let found: Vec<Definition> =
        documents(session, "read the catalog of views", &catalog::definitions(&defined))?;
    for table in tables.iter_mut().filter(|table| table.is_defined()) {
        let digest = found.iter().find(|found| found.oid == table.oid).map(|found| &found.digest);
        table.definition = digest.cloned().unwrap_or_default();
    }
    Ok(())
}

/// What decides which rows a relation shows.
#[derive(Deserialize)]
struct Definition {
    oid: u32,
    digest: String,
}

/// The columns of a table that may hold NULL.
#[derive(Deserialize)]
struct Nullable {
    oid: u32,
    columns: Vec<String>,
}

/// The named table at the source.
///
/// Fails with a suggestion where there is none.
pub fn source_table(session: &mut Session, name: &Qualified) -> Result<SourceTable> {
    locked_source_table(session, None, name)
}

fn locked_source_table(
    session: &mut Session,
    lock: Option<&str>,
    name: &Qualified,
) -> Result<SourceTable> {
    match locked_source_tables(session, lock, &name.schema, &[&name.name])?.remove(&name.name) {
        Some(table) => Ok(table),
        None => Err(missing(session, name)?),
    }
}

/// Opens the source's transaction and reads the table's shape in it. `before` is what is known of
/// the table from before.
pub fn open_snapshot(
    session: &mut Session,
    name: &Qualified,
    before: Option<&SourceTable>,
) -> Result<SourceTable> {
    // What it is decides whether it can be locked, and is looked up before the snapshot.
    let found = match before {
        Some(_) => None,
        None => Some(source_table(session, name)?),
    };
    let lockable = before.or(found.as_ref()).is_some_and(|table| {
        table.readable && matches!(table.kind, Kind::Table | Kind::Partitioned)
    });
    let lock = lockable.then_some(name);
    // In one message: where the source is far away, it is the messages that take time.
    let begin = sql::session::begin_snapshot(lock);
    locked_source_table(session, Some(&begin), name)
}

/// The sequences of a table's serial and identity columns.
pub fn sequences(session: &mut Session, table: &Qualified) -> Result<Vec<Qualified>> {
    documents(session, "read the catalog of sequences", &catalog::sequences(table))
}

/// Those of some tables whose files are empty. They are locked, so that this waits for nobody.
pub fn empty_parts(session: &mut Session, tables: &[u32]) -> Result<Vec<u32>> {
    documents(session, "look for empty parts", &catalog::empty_parts(tables))
}

/// The conditions that all rows of some partitions meet, and no others.
pub fn bounds(session: &mut Session, partitions: &[u32]) -> Result<BTreeMap<u32, String>> {
    let found: Vec<(u32, String)> =
        documents(session, "look at the bounds of partitions", &catalog::bounds(partitions))?;
    Ok(found.into_iter().collect())
}

/// The transactions in flight at the source.
pub fn activity(session: &mut Session) -> Result<Activity> {
    let question = sql::activity::in_flight(READER);
    let mut activity = Activity::default();
    for row in session.rows("read the transactions in flight", &question)? {
        if let [Some(kind), Some(name)] = &row[..] {
            match kind.as_str() {
                "prepared" => activity.prepared.insert(name.clone()),
                _ => activity.transactions.insert(name.clone()),
            };
        }
    }
    Ok(activity)
}

/// Says that the source has no such table, and which it may have been.
pub fn missing(session: &mut Session, name: &Qualified) -> Result<Error> {
    let rows = session.rows("read the catalog", &catalog::table_names(&name.schema))?;
    if rows.is_empty() {
        return Ok(Error::table(format!("there is no schema `{}` at the source", name.schema))
            .hint("check SOURCE_SCHEMA"));
    }
    let tables: Vec<&str> = rows.iter().filter_map(|row| row[0].as_deref()).collect();
    if tables.contains(&name.name.as_str()) {
        return Ok(Error::table(format!("cannot look at `{}` at the source", name.plain()))
            .because("somebody dropped it at this moment, and has made it anew")
            .passing());
    }
    let error = Error::table(format!(
        "there is no table `{}` in schema `{}` at the source",
        name.name, name.schema
    ));
    let without_schema = name.name.rsplit_once('.').map(|(_, table)| table);
    if let Some(table) = without_schema.filter(|table| tables.contains(table)) {
        return Ok(
            error.hint(format!("did you mean `{table}`? Its schema belongs into SOURCE_SCHEMA"))
        );
    }
    Ok(match did_you_mean(&name.name, tables.iter().copied()) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint("check its name in tables-config.json, and SOURCE_SCHEMA"),
    })
}

/// Those of the named relations that the destination has, by their names.
pub fn destination_tables(
    session: &mut Session,
    schema: &str,
    names: &[&str],
) -> Result<BTreeMap<String, DestinationTable>> {
    let tables: Vec<DestinationTable> =
        kept_documents(session, None, Question::DestinationTables, schema, names)?;
    Ok(tables.into_iter().map(|table| (table.name.name.clone(), table)).collect())
}

/// Those of a destination table's columns that hold NULL.
pub fn columns_holding_null(
    session: &mut Session,
    table: &Qualified,
    columns: &[String],
) -> Result<Vec<String>> {
    let mut holding = Vec::new();
    for column in columns {
        let question = sql::ddl::holds_null(table, column);
        if session.value("look for NULL", &question)?.as_deref() == Some("t") {
            holding.push(column.clone());
        }
    }
    Ok(holding)
}

/// What people have put on a destination table. With little patience this fails where somebody holds
/// it.
pub fn dependents(
    session: &mut Session,
    table: &Qualified,
    patience: Patience,
) -> Result<Option<Dependents>> {
    let sql = match patience {
        Patience::Short => {
            format!("{}; {}", sql::inspect::BRIEFLY, dependents::with_digests(table))
        }
        Patience::Long => dependents::with_digests(table),
    };
    let rows = session.rows("read what depends on the table", &sql)?;
    let [Some(document), Some(digest), Some(own_digest)] = rows.last().map_or(&[][..], |row| row)
    else {
        return Ok(None);
    };
    let found: Dependents =
        serde_json::from_str(document).map_err(|error| strange(session, &error))?;
    Ok(Some(Dependents { digest: digest.clone(), own_digest: own_digest.clone(), ..found }))
}

/// Whether the destination's schema and a table of the name of the receipts' exist, whether that is one
/// of receipts, and whether it has all its columns.
pub fn destination_schema(session: &mut Session, receipts: &Qualified) -> Result<[bool; 4]> {
    let rows = session.rows("read the catalog", &catalog::destination_schema(receipts))?;
    let is = |column: usize| rows.first().is_some_and(|row| row[column].as_deref() == Some("t"));
    Ok([is(0), is(1), is(2), is(3)])
}

/// The answer to a question that the server keeps, once the statements of `lock` have run.
fn kept_documents<T: DeserializeOwned>(
    session: &mut Session,
    lock: Option<&str>,
    question: Question,
    schema: &str,
    names: &[&str],
) -> Result<Vec<T>> {
    let purpose = if lock.is_some() { "look at the table" } else { "read the catalog" };
    let new = !session.keeps(question);
    let prepare = new.then(|| question.prepare(session.server.version));
    let execute = question.execute(schema, names);
    let all: Vec<&str> = lock.into_iter().chain(prepare.as_deref()).chain([&*execute]).collect();
    let found = documents(session, purpose, &all.join(";\n"))?;
    session.keep(question);
    Ok(found)
}

/// The rows of a question that is answered with one JSON document a row.
pub(crate) fn documents<T: DeserializeOwned>(
    session: &mut Session,
    purpose: &str,
    sql: &str,
) -> Result<Vec<T>> {
    let (mut found, mut unread) = (Vec::new(), None);
    // What somebody has dropped since the statement began has no document.
    session.each(purpose, sql, |document| match serde_json::from_str(document) {
        Ok(one) => found.push(one),
        Err(error) => unread = Some(error),
    })?;
    match unread {
        None => Ok(found),
        Some(error) => Err(strange(session, &error)),
    }
}

fn strange(session: &Session, error: &serde_json::Error) -> Error {
    Error::bug(format!("the catalog of the {} reads strangely", session.side())).caused_by(error)
}
