//! PostgreSQL is the judge: both sides print their rows as text, and the first that differs is
//! shown from both. Shares no code with `src`.

use postgres::{Client, SimpleQueryMessage};

/// Makes a session print values the same way everywhere.
const PINNED: &str = "SET LOCAL search_path = ''; SET LOCAL DateStyle = 'ISO, MDY'; SET LOCAL IntervalStyle = 'postgres'; \
    SET LOCAL TimeZone = 'UTC'; SET LOCAL extra_float_digits = 3; SET LOCAL bytea_output = 'hex'; SET LOCAL lc_monetary = 'C'";

/// The rows of a table as text, in the order of the C collation, its columns in its own order.
pub fn rows(client: &mut Client, table: &str) -> Vec<String> {
    client.batch_execute(&format!("BEGIN; {PINNED}")).expect("settings");
    let columns = column_names(client, table);
    let row = if columns.is_empty() {
        "''".to_owned()
    } else {
        let texts: Vec<String> = columns
            .iter()
            .map(|column| {
                let quoted = format!("\"{}\"", column.replace('"', "\"\""));
                // format() prints what the type's output function prints, which a cast need not.
                // So is num_nulls: a composite of nothing but NULLs IS NULL, yet is a value.
                format!("CASE num_nulls({quoted}) WHEN 0 THEN format('%s', {quoted}) END")
            })
            .collect();
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
