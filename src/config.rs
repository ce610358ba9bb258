//! What the user wants, from a pipeline's directory and the environment, checked before the
//! first connection. Every mistake is reported, each with its place.

mod document;
mod dotenv;
mod pgpass;
mod rule;
mod settings;
mod tables_file;
mod url;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub use rule::{ColumnChoice, Deletes, InitialPath, Mode, OnSchemaChange, ReplicationKey, Rule};

use crate::error::{Error, Result, did_you_mean};

/// The name of the file that says which tables are copied and how.
pub const TABLES_FILE: &str = "tables-config.json";

/// The name of the file that says where the servers are.
pub const DOTENV: &str = ".env";

/// Which of the two servers something belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The server that is only read.
    Source,
    /// The server that is written.
    Destination,
}

impl Side {
    /// What the names of its variables begin with.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Source => "SOURCE",
            Self::Destination => "DEST",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
        })
    }
}

/// Who wants to know how each sync of a pipeline ended, whatever is wrong with the rest of it.
#[derive(Clone, Debug)]
pub struct Listeners {
    /// Where `sync-state/` is.
    pub directory: PathBuf,
    /// `PIPELINE_NAME`, by default the directory's own name.
    pub pipeline: String,
    /// Where to post the report, if anywhere. May hold a token: never printed.
    pub webhook: Option<Secret>,
    /// The file that gets the metrics, if any.
    pub metrics: Option<PathBuf>,
}

/// One directory: one source schema copied to one destination schema.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Where `.env`, `tables-config.json` and `sync-state/` are.
    pub directory: PathBuf,
    /// `PIPELINE_NAME`, by default the directory's own name.
    pub name: String,
    /// The server that is only read.
    pub source: Endpoint,
    /// The server that is written.
    pub destination: Endpoint,
    /// Where to post the report, if anywhere. May hold a token: never printed.
    pub webhook: Option<Secret>,
    /// The file that gets the metrics, if any.
    pub metrics: Option<PathBuf>,
    /// What `check` says of variables that mean nothing.
    pub remarks: Vec<String>,
    /// The tables in the order of the file.
    pub rules: Vec<Rule>,
}

impl Pipeline {
    /// Who wants to know how its syncs end.
    #[must_use]
    pub fn listeners(&self) -> Listeners {
        Listeners {
            directory: self.directory.clone(),
            pipeline: self.name.clone(),
            webhook: self.webhook.clone(),
            metrics: self.metrics.clone(),
        }
    }

    /// The rules of these tables, or of all where none is named, in the order of the file.
    ///
    /// Fails on a name that the pipeline does not have.
    pub fn choose(&self, tables: &[String]) -> Result<Vec<&Rule>> {
        let names = || self.rules.iter().map(|rule| rule.name.as_str());
        for wanted in tables {
            if names().any(|name| name == wanted) {
                continue;
            }
            let error = Error::configuration(format!("{TABLES_FILE} has no table `{wanted}`"));
            if let Some(near) = did_you_mean(wanted, names()) {
                return Err(error.hint(format!("did you mean `{near}`?")));
            }
            let some: Vec<&str> = names().take(MOST_NAMED).collect();
            let more = match self.rules.len().saturating_sub(MOST_NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            return Err(error.hint(format!("its tables are {}{more}", some.join(", "))));
        }
        let chosen = |rule: &&Rule| tables.is_empty() || tables.contains(&rule.name);
        Ok(self.rules.iter().filter(chosen).collect())
    }
}

/// How many tables a message names.
const MOST_NAMED: usize = 10;

/// A server, a database, a user and a schema.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Source or destination.
    pub side: Side,
    /// A host name, an address, or the folder of a Unix socket.
    pub host: String,
    /// 5432 where the pipeline says nothing.
    pub port: u16,
    /// The role to log in as.
    pub user: String,
    /// Absent where the server asks for none.
    pub password: Option<Secret>,
    /// Why a password file was not used, if so.
    pub password_file_ignored: Option<String>,
    /// The database's name.
    pub database: String,
    /// `public` where the pipeline says nothing.
    pub schema: String,
    /// How far TLS is required and verified.
    pub tls: Tls,
}

impl Endpoint {
    /// The server as messages name it: without user and password.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}/{}", self.host, self.port, self.database)
    }

    /// Whether it is reached by a Unix socket.
    #[must_use]
    pub fn has_socket(&self) -> bool {
        is_socket(&self.host)
    }
}

/// Whether a host is the folder of a Unix socket.
fn is_socket(host: &str) -> bool {
    host.starts_with('/')
}

/// The word for the operating system's own trusted certificates in the place of a file's name.
pub const SYSTEM: &str = "system";

/// TLS as libpq's `sslmode`, `sslrootcert`, `sslcert` and `sslkey` describe it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// `sslmode`.
    pub mode: TlsMode,
    /// A file of trusted certificates, or [`SYSTEM`].
    pub root_certificate: Option<String>,
    /// The client's certificate.
    pub certificate: Option<String>,
    /// The client's key.
    pub key: Option<String>,
}

/// libpq's `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Never TLS.
    Disable,
    /// TLS where the server offers it.
    #[default]
    Prefer,
    /// TLS, whoever answers.
    Require,
    /// TLS with a certificate that a trusted authority signed.
    VerifyCa,
    /// The same, and the certificate names this host.
    VerifyFull,
}

impl TlsMode {
    /// All modes with their names in `.env`.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("disable", Self::Disable),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];

    /// The name libpq uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, mode)| *mode == self).map_or("prefer", |(name, _)| name)
    }
}

/// A password or a webhook's URL. Its `Debug` form hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a value.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("<hidden>")
    }
}

/// The names of all variables that mean something.
#[must_use]
pub fn variables() -> Vec<String> {
    settings::variables()
}

/// Reads a pipeline's directory. `environment` beats `.env`.
///
/// Fails with every mistake found in `.env`, the environment and `tables-config.json` at once.
pub fn load(directory: &Path, environment: &BTreeMap<String, String>) -> Result<Pipeline> {
    if !directory.is_dir() {
        return Err(Error::configuration(format!(
            "there is no directory `{}`",
            directory.display()
        ))
        .hint("name the pipeline's directory with `-C DIR`"));
    }
    let mut mistakes = Vec::new();
    let (given, remarks) = given(directory, environment, &mut mistakes);
    let settings = settings::interpret(&given, directory, &mut mistakes);
    let rules = read_rules(&directory.join(TABLES_FILE), &mut mistakes);
    match settings {
        Some(settings) if mistakes.is_empty() => Ok(pipeline(settings, rules, remarks)),
        _ => Err(all_mistakes(mistakes)),
    }
}

/// Those who want to be told that a pipeline's directory cannot be read, as far as it names them; none
/// where it is no pipeline's.
#[must_use]
pub fn load_listeners(
    directory: &Path,
    environment: &BTreeMap<String, String>,
) -> Option<Listeners> {
    let mut mistakes = Vec::new();
    let (given, _) = given(directory, environment, &mut mistakes);
    let ours = [DOTENV, TABLES_FILE].iter().any(|name| directory.join(name).exists())
        || settings::interpret(&given, directory, &mut mistakes).is_some();
    ours.then(|| settings::listeners(&given, directory, &mut mistakes))
}

fn pipeline(settings: settings::Settings, rules: Vec<Rule>, remarks: Vec<String>) -> Pipeline {
    let settings::Settings { source, destination, listeners } = settings;
    let Listeners { directory, pipeline: name, webhook, metrics } = listeners;
    Pipeline { directory, name, source, destination, webhook, metrics, remarks, rules }
}

/// The variables of `.env`, and those of the environment, which beat them; and what is to be said of
/// the former.
fn given(
    directory: &Path,
    environment: &BTreeMap<String, String>,
    mistakes: &mut Vec<String>,
) -> (BTreeMap<String, String>, Vec<String>) {
    let mut given = dotenv::read(&directory.join(DOTENV), mistakes);
    let remarks = settings::remarks(&given);
    given.extend(environment.clone());
    (given, remarks)
}

fn read_rules(path: &Path, mistakes: &mut Vec<String>) -> Vec<Rule> {
    match std::fs::read_to_string(path) {
        Ok(text) => rules(&text, mistakes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            mistakes.push(format!(
                "cannot read `{}`: there is none; run `incremental-replication init`, or name the \
                 pipeline's directory with `-C DIR`",
                path.display()
            ));
            Vec::new()
        }
        Err(error) => {
            mistakes.push(format!("cannot read `{}`: {error}", path.display()));
            Vec::new()
        }
    }
}

/// The rules of a text of `tables-config.json`, and every mistake in it.
pub fn rules(text: &str, mistakes: &mut Vec<String>) -> Vec<Rule> {
    tables_file::parse(text, mistakes)
}

/// The same for the tests of what is made from rules.
#[cfg(test)]
pub(crate) fn rules_for_tests(text: &str) -> Vec<Rule> {
    rules(text, &mut Vec::new())
}

/// Reads where a pipeline's source is, whatever else is missing in its directory.
///
/// Fails with every mistake found in what concerns the source.
pub fn load_source(directory: &Path, environment: &BTreeMap<String, String>) -> Result<Endpoint> {
    let mut mistakes = Vec::new();
    let (variables, _) = given(directory, environment, &mut mistakes);
    match settings::endpoint(Side::Source, directory, &variables, &mut mistakes) {
        Some(source) if mistakes.is_empty() => Ok(source),
        _ => Err(all_mistakes(mistakes)),
    }
}

/// The line of `.env` that gives a variable its value.
///
/// Fails where the file cannot say it.
pub fn dotenv_line(name: &str, value: &str) -> Result<String> {
    dotenv::line(name, value).ok_or_else(|| {
        Error::configuration(format!("`{name}` has a value that `.env` cannot hold"))
            .hint("leave it out, and set it in the environment")
    })
}

/// Fails with what is wrong with the URLs in a text of `.env`.
pub fn understand(text: &str) -> Result<()> {
    let mut mistakes = Vec::new();
    let mut variables = dotenv::parse(text, &mut mistakes);
    for side in [Side::Source, Side::Destination] {
        url::expand(side.prefix(), &mut variables, &mut mistakes);
    }
    if mistakes.is_empty() { Ok(()) } else { Err(all_mistakes(mistakes)) }
}

fn all_mistakes(mut mistakes: Vec<String>) -> Error {
    if mistakes.len() == 1 {
        return Error::configuration(mistakes.remove(0));
    }
    let mut error =
        Error::configuration(format!("{} mistakes in the configuration", mistakes.len()));
    error.causes = mistakes;
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline(tables: &[&str]) -> Pipeline {
        let endpoint = |side| Endpoint {
            side,
            host: "db.example.com".to_owned(),
            port: 5433,
            user: "reader".to_owned(),
            password: Some(Secret::new("s3cret".to_owned())),
            password_file_ignored: None,
            database: "shop".to_owned(),
            schema: "public".to_owned(),
            tls: Tls::default(),
        };
        let names: Vec<_> = tables
            .iter()
            .map(|name| serde_json::json!({"name": name, "mode": "full-refresh"}))
            .collect();
        Pipeline {
            directory: PathBuf::new(),
            name: "shop".to_owned(),
            source: endpoint(Side::Source),
            destination: endpoint(Side::Destination),
            webhook: None,
            metrics: None,
            remarks: Vec::new(),
            rules: rules_for_tests(&serde_json::json!(names).to_string()),
        }
    }

    #[test]
    fn the_named_tables_are_chosen_in_the_order_of_the_file_and_all_where_none_is_named() {
        let pipeline = pipeline(&["customers", "orders", "lines"]);
        let chosen = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let rules = pipeline.choose(&names)?;
            Ok::<_, Error>(rules.iter().map(|rule| rule.name.clone()).collect::<Vec<_>>())
        };
        assert_eq!(chosen(&[]).unwrap(), ["customers", "orders", "lines"]);
        assert_eq!(chosen(&["lines", "customers"]).unwrap(), ["customers", "lines"]);
        let error = chosen(&["lines", "order"]).unwrap_err();
        assert_eq!(error.message, "tables-config.json has no table `order`");
        assert_eq!(error.hint.as_deref(), Some("did you mean `orders`?"));
        let error = chosen(&["zebra"]).unwrap_err();
        assert_eq!(error.hint.as_deref(), Some("its tables are customers, orders, lines"));
    }

    #[test]
    fn servers_are_named_without_secrets() {
        let Pipeline { source, destination, .. } = pipeline(&[]);
        assert_eq!(source.address(), "db.example.com:5433/shop");
        assert_eq!(format!("{} {}", source.side, destination.side), "source destination");
        let password = source.password.unwrap();
        assert_eq!((password.reveal(), format!("{password:?}").as_str()), ("s3cret", "<hidden>"));
    }

    #[test]
    fn the_modes_of_tls_have_libpqs_names() {
        for (name, mode) in TlsMode::NAMES {
            assert_eq!(mode.name(), name);
        }
        assert_eq!(TlsMode::default().name(), "prefer");
    }

    /// What a directory with these two files is read as, with this environment.
    fn loaded(
        dotenv: &str,
        tables: Option<&str>,
        environment: &[(&str, &str)],
    ) -> (Result<Pipeline>, Result<Endpoint>) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(".env"), dotenv).unwrap();
        if let Some(tables) = tables {
            std::fs::write(directory.path().join(TABLES_FILE), tables).unwrap();
        }
        let own = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let environment = own.collect();
        (load(directory.path(), &environment), load_source(directory.path(), &environment))
    }

    const DOTENV: &str = "SOURCE_HOST=a\nSOURCE_USERNAME=reader\nSOURCE_DB=shop\n\
                          DEST_HOST=b\nDEST_USERNAME=writer\nDEST_DB=copies\n";

    #[test]
    fn a_directory_is_read_and_the_environment_beats_its_file() {
        let tables = r#"[{"name": "orders", "replication_key": "updated_at"}]"#;
        let (pipeline, source) = loaded(DOTENV, Some(tables), &[("SOURCE_DB", "market")]);
        let pipeline = pipeline.unwrap();
        assert_eq!(pipeline.source.address(), "a:5432/market");
        assert_eq!(pipeline.destination.address(), "b:5432/copies");
        assert_eq!(pipeline.rules.iter().map(|rule| &rule.name).collect::<Vec<_>>(), ["orders"]);
        assert_eq!(source.unwrap().address(), "a:5432/market");
        let names = variables();
        assert!(["SOURCE_HOST", "DEST_SCHEMA"].iter().all(|&name| names.iter().any(|n| n == name)));
    }

    #[test]
    fn every_mistake_of_a_directory_is_told_and_only_those_of_the_source_where_it_suffices() {
        let (pipeline, source) = loaded(&DOTENV.replace("DEST_DB", "DEST_BD"), None, &[]);
        let error = pipeline.unwrap_err();
        assert_eq!(error.kind, crate::error::Kind::Configuration);
        assert!(error.causes.iter().any(|cause| cause.contains("DEST_DB")), "{error:?}");
        assert!(error.causes.iter().any(|cause| cause.contains(TABLES_FILE)), "{error:?}");
        assert_eq!(source.unwrap().address(), "a:5432/shop");
        let (pipeline, source) = loaded("SOURCE_HOST=a\nSOURCE_PORT=many\n", Some("[]"), &[]);
        assert!(pipeline.unwrap_err().causes.iter().any(|cause| cause.contains("SOURCE_PORT")));
        assert!(source.unwrap_err().causes.iter().any(|cause| cause.contains("SOURCE_PORT")));
        // What can be read in part is not taken in part.
        let (pipeline, source) = loaded(&format!("{DOTENV}oops\n"), Some("[]"), &[]);
        assert!(pipeline.is_err());
        assert_eq!(source.unwrap_err().message, "`.env` line 7 is not `NAME=value`");
        let nowhere = load(Path::new("/nowhere/at/all"), &BTreeMap::new()).unwrap_err();
        assert!(nowhere.message.contains("there is no directory `/nowhere/at/all`"));
    }

    #[test]
    fn lines_and_texts_of_a_file_are_understood_or_refused() {
        assert_eq!(dotenv_line("SOURCE_DB", "shop").unwrap(), "SOURCE_DB='shop'\n");
        let refused = dotenv_line("SOURCE_PASSWORD", "a'b\"c`d\n").unwrap_err();
        assert_eq!(refused.message, "`SOURCE_PASSWORD` has a value that `.env` cannot hold");
        assert!(understand("SOURCE_URL=postgresql://reader@a/shop\n").is_ok());
        let refused = understand("DEST_URL=mysql://writer@b/shop\n").unwrap_err();
        assert!(refused.message.contains("DEST_URL"), "{refused:?}");
    }

    #[test]
    fn one_mistake_is_the_message_and_several_are_listed() {
        let one = all_mistakes(vec!["the only one".to_owned()]);
        assert_eq!((one.message.as_str(), one.causes.len()), ("the only one", 0));
        let two = all_mistakes(vec!["one".to_owned(), "two".to_owned()]);
        assert_eq!(two.message, "2 mistakes in the configuration");
        assert_eq!(two.causes, ["one", "two"]);
    }
}
