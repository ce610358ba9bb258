//! Reads `.env` with the grammar of Node's dotenv, whose files our users bring: nothing is
//! expanded, so a `$` in a password stays a `$` (the dotenvy crate would replace it).

use std::collections::BTreeMap;
use std::path::Path;

/// Reads a file that may be absent: everything may come from the environment.
pub(super) fn read(path: &Path, mistakes: &mut Vec<String>) -> BTreeMap<String, String> {
    match std::fs::read(path) {
        Ok(bytes) => {
            if let Ok(text) = String::from_utf8(bytes) {
                return parse(&text, mistakes);
            }
            mistakes.push(format!("`{}` is not UTF-8 text", path.display()));
            BTreeMap::new()
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => {
            mistakes.push(format!("cannot read `{}`: {error}", path.display()));
            BTreeMap::new()
        }
    }
}

/// The line that gives a variable its value; none where no way of writing it says the same.
pub(super) fn line(name: &str, value: &str) -> Option<String> {
    let written = ["'", "`", "\"", ""].map(|quote| format!("{name}={quote}{value}{quote}\n"));
    written.into_iter().find(|line| {
        let mut mistakes = Vec::new();
        // A quote that is not closed would swallow what follows.
        let read = parse(&format!("{line}NEXT='x'\n"), &mut mistakes);
        mistakes.is_empty()
            && read.len() == 2
            && read.get(name).is_some_and(|read| read == value)
            && read.get("NEXT").is_some_and(|next| next == "x")
    })
}

/// The variables of a file's text. A line that is not `NAME=value` is a mistake, named by its
/// number only: it may be part of a password.
pub(super) fn parse(text: &str, mistakes: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut line_number = 0;
    while !rest.is_empty() {
        line_number += 1;
        let (line, after) = split_line(rest);
        rest = after;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = assignment(line) else {
            mistakes.push(format!("`.env` line {line_number} is not `NAME=value`"));
            continue;
        };
        let value = value.trim_start();
        let Some(quote) = value.chars().next().filter(|first| "'\"`".contains(*first)) else {
            variables.insert(name.to_owned(), unquoted(value).to_owned());
            continue;
        };
        // A quoted value may span lines, so it is looked for in the whole rest of the file.
        let start = offset(text, value);
        // A backslash before the only closing quote stands for itself.
        let rest_of_line = split_line(&text[start..]).0;
        let closed =
            quoted(&text[start..], quote, true).or_else(|| quoted(rest_of_line, quote, false));
        let Some((value, length)) = closed else {
            mistakes.push(format!("`.env` line {line_number} opens a quote that is never closed"));
            continue;
        };
        variables.insert(name.to_owned(), value);
        let (trailing, after) = split_line(&text[start + length..]);
        let trailing = trailing.trim();
        if !trailing.is_empty() && !trailing.starts_with('#') {
            mistakes.push(format!("`.env` line {line_number} has text behind the closing quote"));
        }
        line_number += text[start..start + length].matches('\n').count();
        rest = after;
    }
    variables
}

fn offset(text: &str, part: &str) -> usize {
    part.as_ptr() as usize - text.as_ptr() as usize
}

fn split_line(text: &str) -> (&str, &str) {
    text.split_once('\n').unwrap_or((text, ""))
}

fn assignment(line: &str) -> Option<(&str, &str)> {
    let line = match line.strip_prefix("export") {
        Some(rest) if rest.starts_with(char::is_whitespace) => rest.trim_start(),
        _ => line,
    };
    let (name, value) = line.split_once('=')?;
    let name = name.trim_end();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
    (!name.is_empty() && name.chars().all(plain)).then_some((name, value))
}

/// A value up to a ` # comment`. A `#` inside a word belongs to the word: passwords have them.
fn unquoted(value: &str) -> &str {
    let comment = value
        .char_indices()
        .find(|&(at, letter)| {
            letter == '#' && value[..at].chars().next_back().is_none_or(char::is_whitespace)
        })
        .map_or(value.len(), |(at, _)| at);
    value[..comment].trim()
}

/// The text between quotes and the length of it all. In double quotes `\n` and `\r` are line
/// ends; a backslash before a quote keeps the value open and, as Node's dotenv has it, stays.
fn quoted(text: &str, quote: char, escapes: bool) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut letters = text.char_indices().skip(1).peekable();
    while let Some((at, letter)) = letters.next() {
        if letter == quote {
            return Some((value, at + quote.len_utf8()));
        }
        let after_backslash = letters.peek().map(|&(_, next)| next).filter(|_| letter == '\\');
        let replacement = match after_backslash {
            Some('n') if quote == '"' => '\n',
            Some('r') if quote == '"' => '\r',
            Some(next) if next == quote && escapes => {
                value.push('\\');
                next
            }
            _ => {
                value.push(letter);
                continue;
            }
        };
        value.push(replacement);
        letters.next();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value_of(line: &str) -> String {
        let mut mistakes = Vec::new();
        let variables = parse(line, &mut mistakes);
        assert_eq!(mistakes, Vec::<String>::new(), "in {line:?}");
        variables["A"].clone()
    }

    #[test]
    fn blanks_quotes_and_comments_of_real_files_are_understood() {
        assert_eq!(value_of("A=b"), "b");
        assert_eq!(value_of("  export A = b c \t"), "b c");
        assert_eq!(value_of("A=b # comment"), "b");
        assert_eq!(value_of("A=b\t#comment"), "b");
        assert_eq!(value_of("A= # comment"), "");
        assert_eq!(value_of("A="), "");
        assert_eq!(value_of("A='b # c' # comment"), "b # c");
        assert_eq!(value_of("A=\"b\\nc\""), "b\nc");
        assert_eq!(value_of("A='b\\nc'"), "b\\nc");
        assert_eq!(value_of("A=\"b\\rc\""), "b\rc");
        assert_eq!(value_of("A='b\\rc'"), "b\\rc");
        assert_eq!(value_of("A=`b'\"c`"), "b'\"c");
        assert_eq!(value_of("A='it\\'s'"), "it\\'s");
        assert_eq!(value_of("A='C:\\dir\\'"), "C:\\dir\\");
        assert_eq!(value_of("A=b\r\n"), "b");
        assert_eq!(value_of("\u{feff}A=b"), "b");
        assert_eq!(value_of("A=\"two\nlines\"\nB=c"), "two\nlines");
    }

    #[test]
    fn a_password_is_taken_as_it_stands() {
        for password in ["pa$$word", "a#b", "a=b==", "ab'c", "\\x\\", "${HOME}", "p@ss:w/rd?"] {
            assert_eq!(value_of(&format!("A={password}")), password);
        }
    }

    #[test]
    fn a_file_may_be_absent_and_must_be_readable_where_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let said = |name: &str| {
            let mut mistakes = Vec::new();
            assert!(read(&folder.path().join(name), &mut mistakes).is_empty());
            mistakes.join(", ")
        };
        assert_eq!(said("absent"), "");
        std::fs::create_dir(folder.path().join("folder")).unwrap();
        assert!(said("folder").starts_with("cannot read"), "{}", said("folder"));
        std::fs::write(folder.path().join("latin"), b"A=\xe9").unwrap();
        assert!(said("latin").ends_with("is not UTF-8 text"), "{}", said("latin"));
    }

    #[test]
    fn a_line_that_is_no_assignment_is_named_by_its_number_alone() {
        let mut mistakes = Vec::new();
        parse("A='b\n\n'\nhunter2\nB='open", &mut mistakes);
        assert_eq!(
            mistakes,
            [
                "`.env` line 4 is not `NAME=value`",
                "`.env` line 5 opens a quote that is never closed"
            ]
        );
        mistakes.clear();
        let read = parse("exportA=b\n=c\nd e=f", &mut mistakes);
        assert_eq!(read.keys().collect::<Vec<_>>(), ["exportA"]);
        assert_eq!(mistakes.len(), 2);
        mistakes.clear();
        parse("A=b\nB='one\ntwo\nthree'\nhunter2", &mut mistakes);
        assert_eq!(mistakes, ["`.env` line 5 is not `NAME=value`"]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_never_panics(text in "(?s)[A=\"'`#\\\\\n\r é$ ]{0,40}") {
            parse(&text, &mut Vec::new());
        }

        #[test]
        fn a_value_in_single_quotes_comes_back_as_it_was(value in "[^'\\\\\r]{0,20}") {
            prop_assert_eq!(value_of(&format!("A='{value}'")), value);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_line_that_is_written_is_read_as_it_was_meant(value in "[ -~]{0,12}|[a\\\\'\"`# \n$]{0,6}|\\PC{0,8}") {
            if let Some(line) = line("A", &value) {
                let read = parse(&format!("B=1\n{line}C=2\n"), &mut Vec::new());
                prop_assert_eq!(read.get("A"), Some(&value));
                prop_assert_eq!(read.len(), 3);
            } else {
                prop_assert!(value.contains(['\'', '"', '`', '\\', '\n', '\r']), "{:?} can be written", value);
            }
        }
    }
}
