//! Text of SQL, made from plain data by pure functions. Nothing here runs a statement.

pub mod activity;
pub mod catalog;
pub mod condition;
pub mod copy;
pub mod ddl;
pub mod dependents;
pub mod digest;
pub mod inspect;
pub mod merge;
pub mod receipt;
pub mod session;
pub mod swap;

use std::fmt;

/// What `age` takes to be so many transactions in the future is a frozen row, more than half of the ids old.
/// Fewer are given between the planning of a question, from which it may count, and its snapshot, and to the
/// subtransactions of one's own transaction.
pub const FUTURE_IDS: u64 = 1 << 20;

/// Quotes a name, always, so that keywords, capitals, blanks and quotes need no second thought.
#[must_use]
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a value as a string literal, whatever `standard_conforming_strings` says.
#[must_use]
pub fn literal(value: &str) -> String {
    let quoted = value.replace('\'', "''");
    if quoted.contains('\\') {
        format!("E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// Names, quoted and separated by commas.
#[must_use]
pub fn identifiers<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(identifier).collect::<Vec<_>>().join(", ")
}

/// Texts as literals, separated by commas.
#[must_use]
pub fn literals(texts: &[&str]) -> String {
    texts.iter().map(|text| literal(text)).collect::<Vec<_>>().join(", ")
}

/// A name in a schema. Displayed, it is quoted SQL; in messages use [`Qualified::plain`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
pub struct Qualified {
    /// The schema's name, unquoted.
    pub schema: String,
    /// The relation's name, unquoted.
    pub name: String,
}

impl Qualified {
    /// A name in a schema, both unquoted.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }

    /// As a person would say it, for messages.
    #[must_use]
    pub fn plain(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Another name in the same schema.
    #[must_use]
    pub fn beside(&self, name: impl Into<String>) -> Self {
        Self::new(self.schema.clone(), name)
    }
}

impl fmt::Display for Qualified {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", identifier(&self.schema), identifier(&self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_quoted_and_its_quotes_are_doubled() {
        assert_eq!(identifier("Order Lines"), "\"Order Lines\"");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(Qualified::new("s.1", "t").to_string(), "\"s.1\".\"t\"");
    }

    #[test]
    fn a_literal_survives_quotes_and_backslashes() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), "E'a\\\\''b'");
    }
}
