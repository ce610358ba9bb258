//! What is remembered from earlier syncs: the receipt in the destination, and the file in
//! `sync-state/` that repeats it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::crash;
use crate::db::Session;
use crate::error::{Error, Result};
use crate::files::{Lasting, Nameless, own_temporary, temporary};
use crate::plan::{Remembered, Situation};
use crate::receipt::{Origin, Receipt, VERSION};
use crate::sql::{self, Qualified};
use crate::table::{DestinationTable, RECEIPTS};
use crate::watermark::key::{Key, KeyType};

/// The folder of state files in a pipeline's directory.
pub const FOLDER: &str = "sync-state";

/// Why a destination table that had rows has none.
const EMPTIED: &str = "somebody has emptied the destination table";

/// What was found, and what the log should say about it.
#[derive(Debug)]
pub struct Found {
    /// What counts.
    pub remembered: Remembered,
    /// The receipt at the destination, as it stands there.
    pub receipt: Option<Receipt>,
    /// Whether the state file repeats it.
    pub file_repeats_it: bool,
    /// Whether its table is stored as it was when it was written.
    pub written_beside_it: bool,
    /// The transaction of the destination that wrote it.
    pub written_in: Option<u32>,
    /// Things worth a warning.
    pub warnings: Vec<String>,
}

impl Found {
    /// Lets this pipeline's receipt of another source count for this one, which it is now, if it speaks of
    /// another.
    pub fn follow(&mut self, now: &Origin, pipeline: &str) -> bool {
        if let Remembered::Receipt(receipt) = &mut self.remembered
            && !receipt.origin.is_of_the_same_table(now)
            && receipt.pipeline == pipeline
        {
            self.warnings.push(format!(
                "the copy of {} goes on as one of {}: all rows are read",
                receipt.origin.source.described(),
                now.source.described()
            ));
            receipt.origin = receipt.origin.moved_to(now);
            receipt.progress.forget_rows();
            return true;
        }
        false
    }
}

/// Compares the receipt with the state file and settles what counts.
///
/// Fails on a version from the future: an older tool must not guess.
pub fn remember(
    directory: &Path,
    situation: &Situation,
    destination: &mut Session,
) -> Result<Found> {
    let (table, destination_table) = (situation.table, situation.destination);
    let key = situation.shape.key.as_ref();
    // Then one of the destination's rows is as late as the receipt says.
    let keeps_all = situation.rule.keeps_every_row();
    let mut warnings = Vec::new();
    let (receipt, beside, written_in) = match read_receipt(destination, table)? {
        Some(there) => (Some(there.receipt?), there.beside, there.transaction),
        None => (None, WrittenBeside::It, None),
    };
    let file = read_file(directory, &table.name, &mut warnings)?;
    let (found, file_repeats_it) = (receipt.clone(), receipt == file);
    // Without a table there is nothing to continue, and without a key no column to ask.
    let there = destination_table.is_some();
    let start = receipt.as_ref().and_then(|receipt| receipt.progress.watermark.start.as_deref());
    let lost = match beside {
        _ if beside.was_emptied(destination_table) => Some(EMPTIED.to_owned()),
        _ if !there => None,
        WrittenBeside::It | WrittenBeside::ItWithRows | WrittenBeside::NobodyKnows => None,
        WrittenBeside::Another => Some(format!(
            "the destination table was made anew by somebody else since the receipt was written \
             ({})",
            said(start)
        )),
        WrittenBeside::OtherRows | WrittenBeside::Elsewhere => {
            lost_rows(destination, table, start.filter(|_| keeps_all), key)?
        }
    };
    let others = match lost {
        None if there => others_rows(destination, table, beside)?,
        _ => None,
    };
    let written_beside_it = beside.is_it();
    let mut remembered = match (lost, receipt, file, key) {
        (Some(why), ..) => Remembered::Nothing(why),
        (_, Some(receipt), Some(file), _) if receipt.progress != file.progress => {
            both(destination, table, receipt, file, key, &mut warnings)?
        }
        (_, Some(receipt), _, _) => Remembered::Receipt(Box::new(receipt)),
        (_, None, Some(file), key) if there => {
            confirmed(destination, table, file, key, &mut warnings)?
        }
        (_, None, None, Some(key))
            if there
                && situation.may_be_the_predecessors()
                && predecessors_file(directory, &table.name).is_file() =>
        {
            predecessor(destination, table, key)?
        }
        _ => Remembered::Nothing("there is no receipt at the destination".to_owned()),
    };
    if let (Remembered::Receipt(receipt), Some(why)) = (&mut remembered, others) {
        warnings.push(format!("{why}: all rows are read"));
        receipt.progress.forget_rows();
    }
    Ok(Found {
        remembered,
        receipt: found,
        file_repeats_it,
        written_beside_it,
        written_in,
        warnings,
    })
}

/// What a state file says beside a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// The same.
    Same,
    /// Nothing: there is none.
    Missing,
    /// Something else, or there is something to be said or done about it.
    Other,
}

/// Compares a table's state file with its receipt. Nothing is changed.
#[must_use]
pub fn beside(directory: &Path, table: &str, receipt: &Receipt) -> Beside {
    let mut warnings = Vec::new();
    let file = read_file(directory, table, &mut warnings);
    let half_written = temporary(&directory.join(file_name(table))).exists();
    match file {
        _ if half_written || !warnings.is_empty() => Beside::Other,
        Ok(None) => Beside::Missing,
        Ok(Some(file)) if file == *receipt => Beside::Same,
        _ => Beside::Other,
    }
}

/// Writes a file that is missing and has to repeat the receipt. Who does not hold the table's lock
/// may do so: where another run has written one meanwhile, that one stays.
pub fn write_missing(directory: &Path, table: &str, receipt: &Receipt) {
    let nameless = nameless(directory, table, receipt, (own_temporary, Lasting::Perhaps));
    // The receipt counts without it, and the next sync that has something to do says what is wrong.
    let _ = nameless.and_then(Nameless::link);
}

fn said(watermark: Option<&str>) -> &str {
    watermark.unwrap_or("that there is no watermark yet")
}

/// What a receipt and a file that speak of different syncs agree on.
fn both(
    destination: &mut Session,
    table: &Qualified,
    receipt: Receipt,
    file: Receipt,
    key: Option<&Key>,
    warnings: &mut Vec<String>,
) -> Result<Remembered> {
    let (one, other) = (&receipt.progress.watermark.start, &file.progress.watermark.start);
    let name = file_name(&table.name);
    let older = match (one, other, key) {
        (Some(one), Some(other), _) if one == other => Some(one.clone()),
        // The source may order texts otherwise than the destination, which is asked here.
        (Some(_), Some(_), Some(key)) if key.key_type == KeyType::Text => None,
        (Some(one), Some(other), Some(key)) => {
            let question = sql::copy::lower_key(one, other, &key.sql_type);
            let older = destination.value("compare the receipt with the state file", &question);
            let Some(older) = if_values_of_the_key(older)? else {
                warnings.push(format!(
                    "the receipt says {one} and {name} says {other}, which {}: the receipt counts",
                    no_value_of(key)
                ));
                return Ok(Remembered::Receipt(Box::new(receipt)));
            };
            older
        }
        _ => None,
    };
    warnings.push(if one == other {
        format!("the receipt and {name} speak of different syncs: what both agree on counts")
    } else if older.is_none() && one.is_some() && other.is_some() {
        let (one, other) = (said(one.as_deref()), said(other.as_deref()));
        format!("the receipt says {one} and {name} says {other}, and nothing tells the older text")
    } else {
        let (one, other) = (said(one.as_deref()), said(other.as_deref()));
        format!("the receipt says {one} and {name} says {other}: the older one counts")
    });
    let progress = receipt.progress.earlier(file.progress, older);
    Ok(Remembered::Receipt(Box::new(Receipt { progress, ..receipt })))
}

/// The answer of a question about watermarks; none where one of them is no value of the key, which
/// is another column than it was then, or where somebody has put something else into a file.
fn if_values_of_the_key<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Err(error) if error.sqlstate.as_deref().is_some_and(no_such_value) => Ok(None),
        answer => answer.map(Some),
    }
}

/// A data exception, or a column or an operator that is not there.
fn no_such_value(sqlstate: &str) -> bool {
    sqlstate.starts_with("22") || ["42703", "42804", "42846", "42883"].contains(&sqlstate)
}

fn no_value_of(key: &Key) -> String {
    format!("is no value of `{}`", key.column)
}

/// A state file without a receipt counts if the destination has come as far as it says.
fn confirmed(
    destination: &mut Session,
    table: &Qualified,
    mut file: Receipt,
    key: Option<&Key>,
    warnings: &mut Vec<String>,
) -> Result<Remembered> {
    if let (Some(watermark), Some(key)) = (&file.progress.watermark.start, key) {
        let name = file_name(&table.name);
        let reached = has_reached(destination, table, watermark, key)?;
        if reached != Some(true) {
            return Ok(Remembered::Nothing(match reached {
                None => format!(
                    "there is no receipt, and what {name} says ({watermark}) {}",
                    no_value_of(key)
                ),
                _ => format!(
                    "there is no receipt, and the destination has no row as late as {name} says \
                     ({watermark})"
                ),
            }));
        }
    }
    if is_empty(destination, table)? {
        return Ok(Remembered::Nothing(
            "there is no receipt, and the destination table is empty".to_owned(),
        ));
    }
    warnings.push(format!(
        "there is no receipt at the destination: {} counts, and all rows are read",
        file_name(&table.name)
    ));
    // One row that is as late says nothing of those before it, which may have come from a backup.
    file.progress.forget_rows();
    Ok(Remembered::Receipt(Box::new(file)))
}

/// Why the rows of a table that is stored anew are not those that its receipt speaks of, if they are
/// not: VACUUM FULL keeps them, TRUNCATE does not. `start` is how late one of them must be, if it is
/// known.
fn lost_rows(
    destination: &mut Session,
    table: &Qualified,
    start: Option<&str>,
    key: Option<&Key>,
) -> Result<Option<String>> {
    if is_empty(destination, table)? {
        return Ok(Some(EMPTIED.to_owned()));
    }
    // Without a key there is no column to ask, and where it is another one, that decides.
    let (Some(watermark), Some(key)) = (start, key) else { return Ok(None) };
    let reached = has_reached(destination, table, watermark, key)?.unwrap_or(true);
    Ok((!reached).then(|| {
        format!(
            "somebody has emptied the destination table: it has no row as late as the receipt says \
             ({watermark})"
        )
    }))
}

/// Why the destination table may hold other rows than those that its receipt speaks of, if it may: those of an
/// older backup, perhaps, none of which is as it was then, or not all of them.
fn others_rows(
    destination: &mut Session,
    table: &Qualified,
    beside: WrittenBeside,
) -> Result<Option<&'static str>> {
    match beside {
        WrittenBeside::Elsewhere => {
            Ok(Some("the destination table and its receipt were brought here from elsewhere"))
        }
        WrittenBeside::OtherRows => {
            let question = sql::receipt::written_after(&table.beside(RECEIPTS), table);
            let written = destination.value("look for rows of others", &question)?;
            Ok((written.as_deref() == Some("t")).then_some(
                "somebody has loaded the destination table since its receipt was written",
            ))
        }
        _ => Ok(None),
    }
}

/// Whether the destination table has no row.
fn is_empty(destination: &mut Session, table: &Qualified) -> Result<bool> {
    let question = sql::copy::is_empty(table);
    Ok(destination.value("look for rows", &question)?.as_deref() == Some("t"))
}

/// Whether the destination has a row as late as a watermark; none where that is no value of the key.
fn has_reached(
    destination: &mut Session,
    table: &Qualified,
    watermark: &str,
    key: &Key,
) -> Result<Option<bool>> {
    let question = sql::copy::has_reached(table, &key.column, watermark, &key.sql_type);
    let reached = destination.value("compare the receipt with the rows", &question);
    Ok(if_values_of_the_key(reached)?.map(|reached| reached.as_deref() == Some("t")))
}

/// How far the Node.js script has come.
fn predecessor(destination: &mut Session, table: &Qualified, key: &Key) -> Result<Remembered> {
    let greatest = destination.value("read the greatest replication key", &key.greatest(table));
    Ok(match if_values_of_the_key(greatest)? {
        Some(Some(greatest_key)) => Remembered::Predecessor { greatest_key },
        Some(None) => Remembered::Nothing(
            "the predecessor's table holds no replication key to continue from".to_owned(),
        ),
        None => Remembered::Nothing(format!(
            "the predecessor's table has no column `{}` with values like the source's",
            key.column
        )),
    })
}

fn read_receipt(destination: &mut Session, table: &Qualified) -> Result<Option<Written>> {
    let found = receipts(destination, &table.beside(RECEIPTS), &[&table.name])?.pop();
    Ok(found.map(|(_, written)| written))
}

/// What a receipt was written beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrittenBeside {
    /// The table that is there.
    It,
    /// That table, and it held rows.
    ItWithRows,
    /// Perhaps that table: an older version has not said it.
    NobodyKnows,
    /// One on another server or in another database, from which both were brought here.
    Elsewhere,
    /// Another one of its name.
    Another,
    /// This one, when its rows were stored elsewhere.
    OtherRows,
}

impl WrittenBeside {
    /// Whether it is the table that is there, stored as it was.
    #[must_use]
    pub fn is_it(self) -> bool {
        matches!(self, Self::It | Self::ItWithRows)
    }

    /// Whether that table, as it is now, has lost its rows without having got another file: VACUUM
    /// gives room back, and a crash empties what is UNLOGGED.
    #[must_use]
    pub fn was_emptied(self, now: Option<&DestinationTable>) -> bool {
        self == Self::ItWithRows && now.is_some_and(DestinationTable::has_no_row)
    }
}

/// A receipt as it stands at the destination.
#[derive(Debug)]
pub struct Written {
    /// What it says, where that is understood.
    pub receipt: Result<Receipt>,
    /// What it was written beside.
    pub beside: WrittenBeside,
    /// The transaction that wrote it.
    pub transaction: Option<u32>,
}

/// The SQLSTATE of a column that is not there.
const UNDEFINED_COLUMN: &str = "42703";

/// Says that a table has the name of the receipts' and is another.
#[must_use]
pub fn not_our_receipts(receipts: &Qualified) -> Error {
    Error::configuration(format!(
        "`{}` at the destination is not this tool's table of receipts, whose name it has",
        receipts.plain()
    ))
    .hint("rename it, or set DEST_SCHEMA to another schema")
}

/// The receipts of these tables by the tables' names, where there are any. The destination is outside of
/// any transaction.
pub fn receipts(
    destination: &mut Session,
    receipts: &Qualified,
    tables: &[&str],
) -> Result<Vec<(String, Written)>> {
    let question = sql::receipt::read(receipts, tables);
    let rows = match destination.rows("read the receipts", &question) {
        // Before the first sync neither the schema nor the table of receipts is there.
        Err(error) if matches!(error.sqlstate.as_deref(), Some("42P01" | "3F000")) => Vec::new(),
        Err(error) if error.sqlstate.as_deref() == Some(UNDEFINED_COLUMN) => {
            return Err(not_our_receipts(receipts));
        }
        read => read?,
    };
    let found = rows.into_iter().filter_map(|row| match <[Option<String>; 5]>::try_from(row) {
        Ok([Some(table), version, receipt, beside, transaction]) => {
            let receipt = understood(&table, version.as_deref(), receipt.as_deref());
            let beside = match beside.as_deref() {
                Some(sql::receipt::REPLACED) => WrittenBeside::Another,
                Some(sql::receipt::REWRITTEN) => WrittenBeside::OtherRows,
                Some(sql::receipt::UNKNOWN) => WrittenBeside::NobodyKnows,
                Some(sql::receipt::BROUGHT) => WrittenBeside::Elsewhere,
                Some(sql::receipt::WITH_ROWS) => WrittenBeside::ItWithRows,
                _ => WrittenBeside::It,
            };
            let transaction = transaction.and_then(|transaction| transaction.parse().ok());
            Some((table, Written { receipt, beside, transaction }))
        }
        _ => None,
    });
    Ok(found.collect())
}

fn understood(table: &str, version: Option<&str>, receipt: Option<&str>) -> Result<Receipt> {
    let place = || format!("the receipt of `{table}` in `{RECEIPTS}` at the destination");
    let version: Option<u64> = version.and_then(|version| version.parse().ok());
    match version {
        Some(version) if version > u64::from(VERSION) => Err(from_the_future(&place(), version)),
        _ => parse(receipt.unwrap_or_default()).map_err(|error| {
            error
                .within(format!("cannot read {}", place()))
                .hint("delete that row; the table is then copied again")
        }),
    }
}

/// Reads a receipt that says all that receipts say, and nothing else: a key that was misspelt by
/// hand or lost with a bit must not count as one that says nothing.
fn parse(text: &str) -> Result<Receipt> {
    let refused = |error: serde_json::Error| Error::table(error.to_string());
    let document: serde_json::Value = serde_json::from_str(text).map_err(refused)?;
    let receipt: Receipt = serde_json::from_value(document.clone()).map_err(refused)?;
    if serde_json::to_value(&receipt).map_err(refused)? == document {
        Ok(receipt)
    } else {
        Err(Error::table("a key is missing or misspelt"))
    }
}

fn from_the_future(place: &str, version: u64) -> Error {
    Error::table(format!(
        "{place} has version {version}, and this tool knows versions up to {VERSION}"
    ))
    .hint("use the newer incremental-replication that wrote it")
}

/// A damaged file is as good as none: the receipt says the same, and without a receipt the table
/// is copied again.
fn read_file(directory: &Path, table: &str, warnings: &mut Vec<String>) -> Result<Option<Receipt>> {
    let place = file_name(table);
    let text = match fs::read_to_string(directory.join(&place)) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == ErrorKind::InvalidData => String::new(),
        Err(error) => {
            return Err(Error::table(format!("cannot read `{place}`")).caused_by(&error));
        }
    };
    let document: Option<serde_json::Value> = serde_json::from_str(&text).ok();
    let version = document.as_ref().and_then(|document| document.get("version")?.as_u64());
    if let Some(version) = version.filter(|version| *version > u64::from(VERSION)) {
        return Err(from_the_future(&format!("`{place}`"), version));
    }
    match parse(&text) {
        Ok(receipt) => Ok(Some(receipt)),
        Err(error) => {
            let what =
                if text.is_empty() { "it is empty or not text".to_owned() } else { error.message };
            warnings.push(format!("{place} is damaged and does not count: {what}"));
            Ok(None)
        }
    }
}

/// The file that repeats the receipt, on the disk and without its name yet.
#[derive(Debug)]
pub struct StateFile {
    nameless: std::io::Result<Nameless>,
    /// What it will be, for people.
    described: String,
}

impl StateFile {
    /// Writes what it says to the disk.
    #[must_use]
    pub fn write(directory: &Path, table: &str, receipt: &Receipt) -> Self {
        Self {
            nameless: nameless(directory, table, receipt, (temporary, Lasting::Surely)),
            described: format!("`{}` in `{}`", file_name(table), directory.display()),
        }
    }

    /// Lets it take the place of the one before. A power cut may bring that one back, from which the next
    /// sync begins earlier than it had to.
    pub fn take_place(self) -> Result<()> {
        let rename = |nameless: Nameless| {
            crash::at("state-file-written");
            nameless.rename()
        };
        self.nameless.and_then(rename).map_err(|error| {
            Error::table(format!("cannot write {}", self.described))
                .caused_by(&error)
                .hint("the rows and the receipt are in the destination; the next sync continues from them")
        })?;
        crash::at("state-file-renamed");
        Ok(())
    }
}

fn nameless(
    directory: &Path,
    table: &str,
    receipt: &Receipt,
    (temporary, lasting): (fn(&Path) -> PathBuf, Lasting),
) -> std::io::Result<Nameless> {
    let text = serde_json::to_string_pretty(receipt).unwrap_or_default() + "\n";
    fs::create_dir_all(directory.join(FOLDER))?;
    let path = directory.join(file_name(table));
    let temporary = temporary(&path);
    Nameless::write(path, temporary, &text, lasting)
}

/// Removes the state file of a table that is about to be copied anew: it must not outlive the copy that
/// it speaks of. Until the new one is there, the receipt says the same.
pub fn forget(directory: &Path, table: &str) {
    // Where it cannot go now, writing the new one will say why.
    let _ = fs::remove_file(directory.join(file_name(table)));
}

/// Removes what a process has left that ended while it wrote a state file.
pub fn forget_half_written(directory: &Path, table: &str) {
    // Where it cannot go now, writing will say why.
    let _ = fs::remove_file(temporary(&directory.join(file_name(table))));
}

/// `sync-state/<table>.json`. Capitals and everything that a disk might fold, forbid or change is
/// written as `%XX`, so that no two tables share a file.
fn file_name(table: &str) -> String {
    let safe = |byte| match byte {
        b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => char::from(byte).to_string(),
        _ => format!("%{byte:02x}"),
    };
    format!("{FOLDER}/{}.json", table.bytes().map(safe).collect::<String>())
}

/// The file the predecessor kept for a table.
fn predecessors_file(directory: &Path, table: &str) -> PathBuf {
    // A table's name may hold a slash, which would lead elsewhere.
    directory.join(FOLDER).join(format!("{}.txt", table.replace('/', "_")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index;

    #[test]
    fn no_two_tables_share_a_state_file_even_where_case_does_not_count() {
        assert_eq!(file_name("orders"), "sync-state/orders.json");
        assert_eq!(file_name("Orders"), "sync-state/%4frders.json");
        assert_eq!(file_name("a/../b"), "sync-state/a%2f%2e%2e%2fb.json");
        assert_ne!(file_name("a%2f"), file_name("a/"));
    }

    #[test]
    fn a_damaged_state_file_is_named_and_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join(FOLDER)).unwrap();
        for damage in ["", "{", "[]", "{\"version\": 1}", "\u{0}\u{1}"] {
            fs::write(directory.path().join(FOLDER).join("t.json"), damage).unwrap();
            let mut warnings = Vec::new();
            assert_eq!(read_file(directory.path(), "t", &mut warnings).unwrap(), None);
            assert!(warnings[0].starts_with("sync-state/t.json is damaged"), "{warnings:?}");
        }
    }

    fn receipt() -> Receipt {
        serde_json::from_value(serde_json::json!({
            "version": 1, "pipeline": "shop", "source_table_oid": 1, "mode": "incremental-deduped",
            "source": {"system_identifier": "7", "database": "d", "schema": "s", "table": "t"},
            "replication_key": "at", "unique_columns": ["id"], "filter": null,
            "columns": [{"name": "id", "number": 1, "data_type": "integer"}],
            "watermark": "7", "pending_marks": [{"key": "9", "in_flight": ["1/1"]}],
            "position": {"system_identifier": "7", "timeline": "1", "snapshot_xmin": 5, "start": "7"},
            "storage": [{"oid": 1, "file": 2}],
        }))
        .unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_state_file_is_accepted_whole_or_not_at_all(
            at in any::<Index>(),
            damage in prop_oneof![
                Just(None), any::<u8>().prop_map(|byte| Some(vec![byte])),
                "[0-9\\[\\]{}:,\"a-z]{0,4}".prop_map(|text| Some(text.into_bytes())),
            ],
        ) {
            let directory = tempfile::tempdir().unwrap();
            StateFile::write(directory.path(), "t", &receipt()).take_place().unwrap();
            let path = directory.path().join(FOLDER).join("t.json");
            let mut bytes = fs::read(&path).unwrap();
            let at = at.index(bytes.len() - 2);
            match damage {
                None => bytes.truncate(at),
                Some(other) => drop(bytes.splice(at..=at, other)),
            }
            fs::write(&path, &bytes).unwrap();
            let mut warnings = Vec::new();
            // What is left says all that a receipt says, or it does not count, and somebody is told.
            match read_file(directory.path(), "t", &mut warnings) {
                Ok(Some(read)) => {
                    let read = serde_json::to_value(&read).unwrap();
                    let file: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                    prop_assert_eq!(read, file);
                    prop_assert!(warnings.is_empty());
                }
                Ok(None) => prop_assert_eq!(warnings.len(), 1),
                Err(error) => prop_assert!(error.message.contains("has version"), "{}", error),
            }
        }
    }

    #[test]
    fn a_state_file_from_the_future_is_an_error_whatever_else_is_in_it() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join(FOLDER)).unwrap();
        fs::write(directory.path().join(FOLDER).join("t.json"), "{\"version\": 99, \"x\": 1}")
            .unwrap();
        let error = read_file(directory.path(), "t", &mut Vec::new()).unwrap_err();
        assert!(error.message.contains("version 99"), "{error}");
    }
}
