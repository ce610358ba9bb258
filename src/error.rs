//! Errors as a person meets them: what could not be done, why, and what to do about it.
//!
//! One struct, shaped here and nowhere else. The first line says what failed, the causes walk the
//! whole chain down to the server's own words, the hint is something to do.

use std::fmt;

/// The result of everything that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of failure it is, which decides the exit code and whether the run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Wrong flags or configuration. Nothing was done.
    Configuration,
    /// A server cannot be reached, or does not let us in.
    Unreachable,
    /// One table failed; the others are not concerned.
    Table,
    /// Another run holds the table.
    Locked,
    /// SIGINT or SIGTERM arrived.
    Interrupted,
    /// Something that cannot happen did.
    Bug,
}

/// A failure with everything a reader at 3 a.m. needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Decides the exit code.
    pub kind: Kind,
    /// Lower case, no full stop, names in backticks.
    pub message: String,
    /// From the nearest cause to the deepest.
    pub causes: Vec<String>,
    /// Something to do.
    pub hint: Option<String>,
    /// The server's SQLSTATE where a server spoke.
    pub sqlstate: Option<String>,
}

/// A word for a shell's command line.
#[must_use]
pub fn shell_quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A number with its noun: `1 row`, `2 rows`.
#[must_use]
pub fn counted(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// The SQLSTATE of what failed because others were at work at the same moment.
const SERIALIZATION_FAILURE: &str = "40001";

impl Error {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), causes: Vec::new(), hint: None, sqlstate: None }
    }

    /// Wrong flags or configuration.
    pub fn configuration(message: impl Into<String>) -> Self {
        Self::new(Kind::Configuration, message)
    }

    /// A server cannot be reached.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unreachable, message)
    }

    /// A table cannot be synced.
    pub fn table(message: impl Into<String>) -> Self {
        Self::new(Kind::Table, message)
    }

    /// Another run holds a table.
    pub fn locked(message: impl Into<String>) -> Self {
        Self::new(Kind::Locked, message)
    }

    /// A signal ended the work.
    #[must_use]
    pub fn interrupted() -> Self {
        Self::new(Kind::Interrupted, "interrupted")
    }

    /// The host gives us no more threads or files.
    pub fn host(message: impl Into<String>, error: &std::io::Error) -> Self {
        Self::table(message).caused_by(error).hint(
            "raise this host's limits, `ulimit -u` and `ulimit -n`, or the container's number of \
             processes, or let `--jobs` be fewer",
        )
    }

    /// Something that cannot happen did.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Kind::Bug, message)
            .hint("this is a bug in incremental-replication; please report it with the lines above")
    }

    /// What failed and each cause, on one line.
    #[must_use]
    pub fn one_line(&self) -> String {
        let mut text = self.message.clone();
        for cause in &self.causes {
            text.push_str(": ");
            text.push_str(cause);
        }
        text
    }

    /// Whether the same may succeed when it is tried again a little later: the connection was
    /// lost, the server restarts or is out of something, transactions got in each other's way.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match (self.sqlstate.as_deref(), self.kind) {
            // A cancelled statement was cancelled by somebody, and a full disk stays full.
            (Some("57014" | "53100"), _) => false,
            // PostgreSQL calls an internal error what it says of something that was dropped while
            // a statement looked at it.
            (Some("XX000"), _) => self.causes.iter().any(|cause| {
                ["could not open relation with OID", "cache lookup failed for"]
                    .iter()
                    .any(|said| cause.starts_with(said))
            }),
            (Some(sqlstate), _) => {
                ["08", "40", "53", "57"].iter().any(|class| sqlstate.starts_with(class))
            }
            (None, kind) => kind == Kind::Unreachable,
        }
    }

    /// Says that the same may succeed a little later.
    #[must_use]
    pub fn passing(mut self) -> Self {
        self.sqlstate = Some(SERIALIZATION_FAILURE.to_owned());
        self.hint("sync again")
    }

    /// Adds a cause below those that are there.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says how to see more of what a command did to a table, where nobody has said what to do.
    #[must_use]
    pub fn or_look_closer(mut self, command: &str, table: &str) -> Self {
        self.hint.get_or_insert_with(|| {
            format!(
                "run `incremental-replication -v {command} --table {}` to see the statement; \
                 the servers' own logs may say more",
                shell_quoted(table)
            )
        });
        self
    }

    /// Puts a broader failure above this one, which becomes its first cause.
    #[must_use]
    pub fn within(mut self, message: impl Into<String>) -> Self {
        self.causes.insert(0, std::mem::replace(&mut self.message, message.into()));
        self
    }

    /// Adds an operating system or library error and everything below it as causes.
    #[must_use]
    pub fn caused_by(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(server) = error.downcast_ref::<tokio_postgres::error::DbError>() {
                return self.said_by_server(server);
            }
            let text = error.to_string();
            // Libraries tend to repeat their source in their own text; say each thing once. What
            // the postgres crate says above a server's message is only "db error".
            let said = text == "db error" || self.causes.iter().any(|cause| cause.ends_with(&text));
            if !said {
                self.causes.push(text);
            }
            next = error.source();
        }
        self
    }

    fn said_by_server(mut self, server: &tokio_postgres::error::DbError) -> Self {
        self.sqlstate = Some(server.code().code().to_owned());
        self.causes.push(format!("{} ({})", server.message(), server.code().code()));
        if let Some(detail) = server.detail() {
            self.causes.push(detail.to_owned());
        }
        if let Some(place) = server.where_() {
            // The first line names the COPY line and column, the rest is a stack of functions.
            self.causes.extend(place.lines().next().map(str::to_owned));
        }
        if self.hint.is_none() {
            self.hint = server.hint().map(str::to_owned);
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "error: {}", self.message)?;
        for cause in &self.causes {
            write!(formatter, "\ncaused by: {cause}")?;
        }
        if let Some(hint) = &self.hint {
            write!(formatter, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// The candidate that a misspelt word most likely stands for.
#[must_use]
pub fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| {
            (strsim::jaro_winkler(&word.to_lowercase(), &candidate.to_lowercase()), candidate)
        })
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_for_the_shell_is_one_word() {
        let quoted = ["orders", "it's", "a b", ""].map(shell_quoted);
        assert_eq!(quoted, ["orders", r"'it'\''s'", "'a b'", "''"]);
    }

    #[test]
    fn an_error_reads_from_the_failure_down_to_the_remedy() {
        let error = Error::table("the first cause").because("the deepest").hint("do this");
        assert_eq!(
            error.within("cannot sync `orders`").to_string(),
            "error: cannot sync `orders`\ncaused by: the first cause\ncaused by: the deepest\nhint: do this"
        );
    }

    #[test]
    fn a_misspelt_word_finds_its_neighbour_and_a_strange_one_finds_none() {
        let keys = ["unique_cols", "replication_key"];
        assert_eq!(did_you_mean("uniq_cols", keys), Some("unique_cols"));
        assert_eq!(did_you_mean("Replication_Key", keys), Some("replication_key"));
        assert_eq!(did_you_mean("frobnicate", keys), None);
    }
}
