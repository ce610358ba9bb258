//! Finds the rows in the script that pg_dump writes.
//!
//! What stands around the COPY block is of no use here and differs between versions (`\restrict`
//! lines, settings an older server would refuse), so it is passed over. What must be there is one
//! COPY block with the expected columns, its end, and the line that says the dump is complete.

use memchr::{memchr, memmem};

use crate::error::{Error, Result};
use crate::sql::Qualified;

/// The line that ends a COPY block. In a row a backslash is always doubled, so that no row is
/// this line.
const END_OF_ROWS: &[u8] = b"\\.\n";

/// The line that pg_dump writes last of all.
const COMPLETE: &[u8] = b"-- PostgreSQL database dump complete";

/// A header longer than this is none: 1600 columns of 63 quoted bytes stay well below.
const LONGEST_HEADER_BYTES: usize = 1024 * 1024;

/// Where in the script the reading is.
#[derive(PartialEq, Eq)]
enum Place {
    /// Before the COPY statement.
    Before,
    /// Among the rows, at the start of a line or not.
    Rows { line_start: bool },
    /// After the rows.
    After,
}

/// A reader that is fed the script in pieces.
pub(super) struct Script<'a> {
    table: &'a Qualified,
    columns: &'a [String],
    place: Place,
    /// What could not be judged yet: part of a header, of an end, of a line.
    pending: Vec<u8>,
    complete: bool,
}

impl<'a> Script<'a> {
    pub(super) fn new(table: &'a Qualified, columns: &'a [String]) -> Self {
        Self { table, columns, place: Place::Before, pending: Vec::new(), complete: false }
    }

    /// Takes a piece of the script and hands on the rows in it.
    pub(super) fn feed(
        &mut self,
        piece: &[u8],
        rows: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        // Almost all pieces are rows from end to end and are handed on as they are.
        if self.pending.is_empty() {
            let used = self.advance(piece, rows)?;
            self.pending.extend_from_slice(&piece[used..]);
            return Ok(());
        }
        let mut joined = std::mem::take(&mut self.pending);
        joined.extend_from_slice(piece);
        let used = self.advance(&joined, rows)?;
        joined.drain(..used);
        self.pending = joined;
        Ok(())
    }

    /// The script is over: was it whole?
    pub(super) fn finish(self) -> Result<()> {
        let name = self.table.plain();
        let problem = match self.place {
            Place::Before => "it holds no rows section",
            Place::Rows { .. } => "it ends among the rows",
            Place::After if !self.complete => "its last line is missing",
            Place::After => return Ok(()),
        };
        Err(Error::table(format!("the dump of `{name}` is not whole: {problem}"))
            .hint("\"initial\": \"copy\" in tables-config.json does without pg_dump"))
    }

    /// Goes as far as it can and returns how many bytes that were.
    fn advance(
        &mut self,
        bytes: &[u8],
        rows: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<usize> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            let step = match self.place {
                Place::Before => self.skip_preamble(rest)?,
                Place::Rows { line_start } => self.pass_rows(rest, line_start, rows)?,
                Place::After => self.skip_rest(rest),
            };
            used += step;
            if step == 0 || used == bytes.len() {
                return Ok(used);
            }
        }
    }

    fn skip_preamble(&mut self, bytes: &[u8]) -> Result<usize> {
        if !bytes.starts_with(b"COPY ") {
            // A line at a time; one that could still become "COPY " has no end yet either.
            return Ok(memchr(b'\n', bytes).map_or(0, |end| end + 1));
        }
        let Some(end) = memmem::find(bytes, b" FROM stdin;\n") else {
            if bytes.len() > LONGEST_HEADER_BYTES {
                return Err(self.unexpected(&bytes[..200]));
            }
            return Ok(0);
        };
        if columns_of(&bytes[..end]) != Some(self.columns.to_vec()) {
            return Err(self.unexpected(&bytes[..end]));
        }
        self.place = Place::Rows { line_start: true };
        Ok(end + b" FROM stdin;\n".len())
    }

    fn pass_rows(
        &mut self,
        bytes: &[u8],
        line_start: bool,
        rows: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<usize> {
        if line_start {
            if bytes.starts_with(END_OF_ROWS) {
                self.place = Place::After;
                return Ok(END_OF_ROWS.len());
            }
            if END_OF_ROWS.starts_with(bytes) {
                return Ok(0);
            }
        }
        // Up to and with the line end before the end of the rows, else all but the last line end
        // and what follows it if that could become the end of the rows.
        let length = match memmem::find(bytes, b"\n\\.\n") {
            Some(end) => end + 1,
            None => bytes.len() - undecided(bytes),
        };
        rows(&bytes[..length])?;
        self.place = Place::Rows { line_start: bytes[..length].ends_with(b"\n") };
        Ok(length)
    }

    fn skip_rest(&mut self, bytes: &[u8]) -> usize {
        let Some(end) = memchr(b'\n', bytes) else { return 0 };
        self.complete |= bytes[..end].starts_with(COMPLETE);
        end + 1
    }

    fn unexpected(&self, header: &[u8]) -> Error {
        Error::table(format!(
            "the dump of `{}` has other columns than the catalog",
            self.table.plain()
        ))
        .because(String::from_utf8_lossy(header).into_owned())
        .hint("sync again; if it stays, set \"initial\" to \"copy\"")
    }
}

/// How many bytes at the end of `bytes` could be the beginning of the end of the rows.
fn undecided(bytes: &[u8]) -> usize {
    [&b"\\."[..], b"\\"]
        .into_iter()
        .find(|start| {
            bytes.ends_with(start)
                && bytes[..bytes.len() - start.len()].last().is_some_and(|&last| last == b'\n')
        })
        .map_or(0, <[u8]>::len)
}

/// The columns in `COPY schema.table (a, "b c")`; none where there is no list.
fn columns_of(header: &[u8]) -> Option<Vec<String>> {
    let header = std::str::from_utf8(header).ok()?.strip_prefix("COPY ")?;
    let (schema, rest) = identifier(header)?;
    let (_, rest) = identifier(rest.strip_prefix('.')?)?;
    debug_assert!(!schema.is_empty());
    let rest = rest.trim_start();
    if rest.is_empty() {
        return Some(Vec::new());
    }
    let mut rest = rest.strip_prefix('(')?;
    let mut columns = Vec::new();
    loop {
        let (column, after) = identifier(rest)?;
        columns.push(column);
        match after.strip_prefix(", ") {
            Some(more) => rest = more,
            None => return (after == ")").then_some(columns),
        }
    }
}

/// Reads an identifier, quoted or not, and what follows it.
fn identifier(text: &str) -> Option<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find([' ', '.', ',', ')']).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut name = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(doubled) => {
                name.push('"');
                rest = doubled;
            }
            None => return Some((name, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PREAMBLE: &str =
        "--\n-- PostgreSQL database dump\n--\n\n\\restrict abc\n\nSET x = 0;\n\n";
    const EPILOGUE: &str =
        "\n\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict abc\n\n";

    fn rows_of(script: &[u8], columns: &[&str], piece: usize) -> Result<Vec<u8>> {
        let table = Qualified::new("s", "t");
        let columns: Vec<String> = columns.iter().map(|&name| name.to_owned()).collect();
        let mut reader = Script::new(&table, &columns);
        let mut found = Vec::new();
        for piece in script.chunks(piece) {
            reader.feed(piece, &mut |rows| {
                found.extend_from_slice(rows);
                Ok(())
            })?;
        }
        reader.finish()?;
        Ok(found)
    }

    fn script(header: &str, rows: &str) -> Vec<u8> {
        format!("{PREAMBLE}COPY {header} FROM stdin;\n{rows}\\.\n{EPILOGUE}").into_bytes()
    }

    #[test]
    fn rows_come_out_as_they_are_however_the_script_is_cut() {
        let rows = "1\t\\\\.\n\\\\.\t2\n\\N\t\\\\n\n\t\n\\\\\t\\\\.\\\\.\n";
        let script = script("s.t (a, \"b \"\"c\")", rows);
        for piece in 1..script.len() {
            let found = rows_of(&script, &["a", "b \"c"], piece).unwrap();
            assert_eq!(String::from_utf8(found).unwrap(), rows, "in pieces of {piece} bytes");
        }
    }

    #[test]
    fn a_table_without_rows_or_without_columns_is_no_surprise() {
        assert_eq!(rows_of(&script("s.t (a)", ""), &["a"], 7).unwrap(), b"");
        assert_eq!(rows_of(&script("s.t ", "\n\n"), &[], 7).unwrap(), b"\n\n");
    }

    #[test]
    fn a_name_with_a_line_end_does_not_hide_the_header() {
        let script = script("s.\"a\nCOPY b\" (\"c\nd\")", "1\n");
        assert_eq!(rows_of(&script, &["c\nd"], 5).unwrap(), b"1\n");
    }

    #[test]
    fn other_columns_than_expected_are_refused() {
        let error = rows_of(&script("s.t (a, b)", "1\t2\n"), &["a"], 100).unwrap_err();
        assert!(error.message.contains("other columns"), "{error}");
    }

    #[test]
    fn a_dump_cut_short_anywhere_is_not_whole() {
        let script = script("s.t (a)", "1\n2\n");
        let complete = script.windows(COMPLETE.len()).position(|w| w == COMPLETE).unwrap();
        for length in 0..complete + COMPLETE.len() {
            assert!(rows_of(&script[..length], &["a"], 64).is_err(), "after {length} bytes");
        }
        assert!(rows_of(&script, &["a"], 64).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_and_never_panic(
            bytes in proptest::collection::vec(prop_oneof![
                Just(b"COPY ".to_vec()), Just(b" FROM stdin;\n".to_vec()), Just(b"s.t (a)".to_vec()),
                Just(b"\\.\n".to_vec()), Just(b"\n".to_vec()), Just(b"\\".to_vec()),
                Just(COMPLETE.to_vec()), Just(b"\"".to_vec()), any::<[u8; 2]>().prop_map(Vec::from),
            ], 0..30),
            piece in 1..40usize,
        ) {
            let _ = rows_of(&bytes.concat(), &["a"], piece);
        }
    }
}
