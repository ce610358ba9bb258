//! PostgreSQL is the judge: both sides print their rows as text, and the first that differs is
//! shown from both. Shares no code with `src`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use postgres::{Client, SimpleQueryMessage};

/// Makes a session print values the same way everywhere.
const PINNED: &str = "SET LOCAL search_path = ''; SET LOCAL DateStyle = 'ISO, MDY'; SET LOCAL IntervalStyle = 'postgres'; \
    SET LOCAL TimeZone = 'UTC'; SET LOCAL extra_float_digits = 3; SET LOCAL bytea_output = 'hex'; SET LOCAL lc_monetary = 'C'";

/// A row as both sides print it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its copied columns.
    pub text: String,
    /// The table and the file it lies in.
    pub file: String,
    /// Whether its replication key is NULL.
    pub key_is_null: bool,
}

/// Rows by the text of their unique columns.
pub type Rows = BTreeMap<String, Row>;

/// What is read of a table: quoted names, and SQL.
#[derive(Clone, Debug, Default)]
pub struct Question {
    pub table: String,
    pub columns: Vec<String>,
    pub unique: Vec<String>,
    /// Whether rows that are equal, though not the same, have keys of their own.
    pub versions: bool,
    pub key: Option<String>,
    pub filter: Option<String>,
    /// Whether it is a view, whose rows do not tell where they lie.
    pub view: bool,
}

/// The rows of a table by their unique columns; an error where two share them.
pub fn rows_by_key(client: &mut Client, question: &Question) -> Result<Rows, String> {
    let Question { table, columns, unique, versions, key, filter, view } = question;
    let null = key.as_ref().map_or("false".to_owned(), |key| format!("num_nulls({key}) > 0"));
    let filter = filter.as_ref().map_or(String::new(), |filter| format!(" WHERE {filter}"));
    let file = if *view {
        "''"
    } else {
        "(SELECT c.oid::bigint || '/' || c.relfilenode FROM pg_catalog.pg_class c WHERE c.oid = judged.tableoid)"
    };
    // Two numerics may be equal and read differently.
    let canonical = |column: &String| if *versions { column.clone() } else { canonical(column) };
    let unique: Vec<String> = unique.iter().map(|column| printed(&canonical(column))).collect();
    let columns: Vec<String> = columns.iter().map(|column| printed(column)).collect();
    let sql = format!(
        "BEGIN; {PINNED}; SELECT ROW({})::text, ROW({})::text, \
         {file}, {null} FROM {table} AS judged{filter}; COMMIT",
        unique.join(", "),
        columns.join(", ")
    );
    let messages = client.simple_query(&sql).map_err(|error| {
        // The transaction is over; what it says is what failed.
        let _ = client.batch_execute("ROLLBACK");
        format!("{error:?} in: {sql}")
    })?;
    let mut rows = Rows::new();
    for message in messages {
        let SimpleQueryMessage::Row(row) = message else { continue };
        let text = |at| row.get(at).unwrap_or("NULL").to_owned();
        let found = Row { text: text(1), file: text(2), key_is_null: row.get(3) == Some("t") };
        if let Some(other) = rows.insert(text(0), found) {
            return Err(format!(
                "{table} holds two rows with the key {}: {} and {}",
                text(0),
                other.text,
                text(1)
            ));
        }
    }
    Ok(rows)
}

fn canonical(column: &str) -> String {
    format!(
        "CASE pg_catalog.pg_typeof({column})::text WHEN 'numeric' \
         THEN pg_catalog.trim_scale(({column}::text)::numeric)::text ELSE {column}::text END"
    )
}

/// The tables that hold a table's rows, each with its file; of a view, none that anybody could tell.
pub fn files(client: &mut Client, Question { table, view, .. }: &Question) -> BTreeSet<String> {
    if *view {
        return BTreeSet::from([String::new()]);
    }
    let sql = format!(
        "WITH RECURSIVE tree (oid) AS (SELECT to_regclass({}) UNION \
           SELECT i.inhrelid::regclass FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid) \
         SELECT c.oid::bigint || '/' || c.relfilenode FROM tree JOIN pg_class c ON c.oid = tree.oid \
         WHERE c.relkind = 'r'",
        literal(table)
    );
    column(client, &sql).into_iter().collect()
}

/// A text as a literal of SQL.
pub fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// A name as SQL has it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A value as its type's output function prints it, which a cast need not; NULL as NULL.
fn printed(value: &str) -> String {
    // A composite of nothing but NULLs IS NULL, yet is a value.
    format!("CASE num_nulls({value}) WHEN 0 THEN format('%s', {value}) END")
}

/// The rows of a table as text, in the order of the C collation, its columns in its own order.
pub fn rows(client: &mut Client, table: &str) -> Vec<String> {
    client.batch_execute(&format!("BEGIN; {PINNED}")).expect("settings");
    let columns = column_names(client, table);
    let row = if columns.is_empty() {
        "''".to_owned()
    } else {
        let texts: Vec<String> = columns.iter().map(|column| printed(&quoted(column))).collect();
        format!("ROW({})::text", texts.join(", "))
    };
    let sql = format!("SELECT {row} COLLATE \"C\" AS line FROM {table} ORDER BY line");
    let rows = column(client, &sql);
    client.batch_execute("COMMIT").expect("the end of the settings");
    rows
}

/// The columns' names, in the table's order.
pub fn column_names(client: &mut Client, table: &str) -> Vec<String> {
    column(
        client,
        &format!(
            "SELECT attname FROM pg_attribute WHERE attrelid = '{}'::regclass AND attnum > 0 \
             AND NOT attisdropped ORDER BY attnum",
            table.replace('\'', "''")
        ),
    )
}

/// Waits until a question has an answer.
pub fn wait_for(session: &mut Client, question: &str) {
    let started = Instant::now();
    while column(session, question).is_empty() {
        assert!(started.elapsed() < Duration::from_mins(1), "nothing answers {question}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The first column of a query's result.
pub fn column(client: &mut Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).unwrap_or_else(|error| panic!("{error:?} in: {sql}"));
    messages
        .into_iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
            _ => None,
        })
        .collect()
}

/// The same of a relation that may not be there.
pub fn rows_if_there(client: &mut Client, sql: &str) -> Vec<String> {
    match client.simple_query(sql) {
        Err(error)
            if error.code().is_some_and(|code| ["42P01", "3F000"].contains(&code.code())) =>
        {
            vec!["it is not there".to_owned()]
        }
        _ => column(client, sql),
    }
}

/// Fails with the first differing row unless both tables hold the same rows.
pub fn assert_equal(source: &mut Client, destination: &mut Client, tables: (&str, &str)) {
    if let Some(difference) = difference(source, destination, tables) {
        panic!("{difference}");
    }
}

/// How two tables differ, if they do.
pub fn difference(
    source: &mut Client,
    destination: &mut Client,
    (source_table, destination_table): (&str, &str),
) -> Option<String> {
    let there = column_names(source, source_table);
    let here = column_names(destination, destination_table);
    if there != here {
        return Some(format!("{source_table}: columns {there:?} at the source, {here:?} here"));
    }
    let expected = rows(source, source_table);
    let found = rows(destination, destination_table);
    let at = (0..expected.len().max(found.len())).find(|&at| expected.get(at) != found.get(at))?;
    Some(format!(
        "{source_table}: {} rows at the source, {} at the destination; the first difference:\n\
         source:      {:?}\ndestination: {:?}",
        expected.len(),
        found.len(),
        expected.get(at),
        found.get(at)
    ))
}
