//! The variables of `.env` and the environment, given their meaning.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Endpoint, Listeners, SYSTEM, Secret, Side, Tls, TlsMode};
use super::{pgpass, url};
use crate::error::did_you_mean;

/// What the variables say.
pub(super) struct Settings {
    pub(super) source: Endpoint,
    pub(super) destination: Endpoint,
    pub(super) listeners: Listeners,
}

/// The ends of the variables' names that each side has.
const OF_A_SIDE: [&str; 11] = [
    "URL",
    "HOST",
    "PORT",
    "USERNAME",
    "PASSWORD",
    "DB",
    "SCHEMA",
    "SSLMODE",
    "SSLROOTCERT",
    "SSLCERT",
    "SSLKEY",
];

/// The other variables.
const OTHERS: [&str; 4] = ["PIPELINE_NAME", "WEBHOOK_URL", "METRICS_FILE", "PGPASSFILE"];

/// The names of all variables that mean something.
pub(super) fn variables() -> Vec<String> {
    let sides = [Side::Source, Side::Destination];
    let of = |side: Side| OF_A_SIDE.map(|end| format!("{}_{end}", side.prefix()));
    sides.into_iter().flat_map(of).chain(OTHERS.map(str::to_owned)).collect()
}

/// The variables of a side that mean nothing, and which ending each may stand for.
fn meaningless<'a>(
    prefix: &str,
    variables: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = (&'a str, Option<&'static str>)> {
    variables.keys().filter_map(move |name| {
        let end = name.strip_prefix(prefix)?.strip_prefix('_')?;
        (!OF_A_SIDE.contains(&end)).then(|| (name.as_str(), did_you_mean(end, OF_A_SIDE)))
    })
}

/// What is said of those in `.env`. They are no mistake: other programs may share it.
pub(super) fn remarks(variables: &BTreeMap<String, String>) -> Vec<String> {
    let of = |side: Side| {
        let prefix = side.prefix();
        meaningless(prefix, variables).map(move |(name, near)| {
            let near = near.map(|near| format!("; did you mean `{prefix}_{near}`?"));
            format!("`{name}` in `.env` means nothing here{}", near.unwrap_or_default())
        })
    };
    [Side::Source, Side::Destination].into_iter().flat_map(of).collect()
}

/// Gives the variables their meaning, or says everything that is wrong with them.
pub(super) fn interpret(
    variables: &BTreeMap<String, String>,
    directory: &Path,
    mistakes: &mut Vec<String>,
) -> Option<Settings> {
    let mut side = |side| endpoint(side, directory, variables, mistakes);
    let (source, destination) = (side(Side::Source), side(Side::Destination));
    let listeners = listeners(variables, directory, mistakes);
    Some(Settings { source: source?, destination: destination?, listeners })
}

/// Who wants to know how a sync ended, as far as the variables say it rightly.
pub(super) fn listeners(
    variables: &BTreeMap<String, String>,
    directory: &Path,
    mistakes: &mut Vec<String>,
) -> Listeners {
    let pipeline = present(variables, "PIPELINE_NAME")
        .map_or_else(|| name_of_directory(directory), str::to_owned);
    // Cron starts in another directory than people do.
    let metrics = present(variables, "METRICS_FILE").map(|path| directory.join(path));
    let ours = [super::DOTENV, super::TABLES_FILE].map(|name| directory.join(name));
    let of_the_pipeline = metrics.as_ref().is_some_and(|path| ours.contains(path));
    if of_the_pipeline {
        mistakes
            .push("`METRICS_FILE` names a file of the pipeline, which would be gone".to_owned());
    }
    Listeners {
        directory: directory.to_owned(),
        pipeline,
        webhook: webhook(variables, mistakes),
        metrics: metrics.filter(|_| !of_the_pipeline),
    }
}

fn present<'a>(variables: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

fn name_of_directory(directory: &Path) -> String {
    let full = directory.canonicalize();
    let name = full.as_deref().unwrap_or(directory).file_name();
    name.map_or_else(|| "pipeline".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn webhook(variables: &BTreeMap<String, String>, mistakes: &mut Vec<String>) -> Option<Secret> {
    let url = present(variables, "WEBHOOK_URL")?;
    let (scheme, host) = url.split_once("://").unwrap_or_default();
    let http = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let host = http.then_some(host);
    if host.is_some_and(|host| !host.is_empty() && !host.starts_with('/')) {
        return Some(Secret::new(url.to_owned()));
    }
    // The value is not repeated: the URL may hold a token.
    mistakes.push("`WEBHOOK_URL` is not a URL that starts with `https://` or `http://`".to_owned());
    None
}

/// What the variables say of one side.
pub(super) fn endpoint(
    side: Side,
    directory: &Path,
    variables: &BTreeMap<String, String>,
    mistakes: &mut Vec<String>,
) -> Option<Endpoint> {
    let prefix = side.prefix();
    let mut variables = variables.clone();
    url::expand(prefix, &mut variables, mistakes)?;
    let variables = &variables;
    let before = mistakes.len();
    let get = |name: &str| present(variables, &format!("{prefix}_{name}"));
    for (name, what) in [("HOST", "a host name"), ("DB", "a database's name")] {
        // Never repeated: what does not belong here may well be a URL with a password in it.
        if get(name).is_some_and(|value| value.contains("://") || value.contains('@')) {
            mistakes.push(format!(
                "`{prefix}_{name}` is not {what}: a URL or a user does not belong there; \
                 `{prefix}_URL` takes a URL"
            ));
        }
    }
    let host = get("HOST").unwrap_or_default();
    // An address of IPv6 has more than one; what has a slash is a socket's folder, or wrong otherwise.
    if !host.contains('/') && (host.starts_with('[') || host.matches(':').count() == 1) {
        mistakes.push(format!(
            "`{prefix}_HOST` is a name or an address alone: no brackets belong there, and a port belongs \
             into `{prefix}_PORT`"
        ));
    }
    for name in ["HOST", "PORT", "USERNAME", "DB", "SCHEMA", "SSLMODE"] {
        if get(name).is_some_and(|value| value.chars().any(char::is_control)) {
            mistakes.push(format!(
                "`{prefix}_{name}` holds a control character or several lines: is a quote closed?"
            ));
            return None;
        }
    }
    let mut required = |name: &str| {
        let value = get(name).map(str::to_owned);
        if value.is_none() {
            let misspelt = meaningless(prefix, variables).find(|(_, near)| *near == Some(name));
            let meant = misspelt
                .map_or_else(String::new, |(given, _)| format!("; did you mean it by `{given}`?"));
            mistakes.push(format!(
                "`{prefix}_{name}` is not set: put it, or `{prefix}_URL`, into `.env` or the \
                 environment{meant}"
            ));
        }
        value.unwrap_or_default()
    };
    // Cron starts in another directory than people do.
    let file = |name: &str| {
        let name = get(name)?;
        let path = if name == SYSTEM { PathBuf::from(name) } else { directory.join(name) };
        Some(path.to_string_lossy().into_owned())
    };
    let mut endpoint = Endpoint {
        side,
        host: required("HOST"),
        user: required("USERNAME"),
        database: required("DB"),
        port: port(prefix, get("PORT"), mistakes),
        password: get("PASSWORD").map(|password| Secret::new(password.to_owned())),
        password_file_ignored: None,
        schema: get("SCHEMA").unwrap_or("public").to_owned(),
        tls: Tls {
            mode: tls_mode(prefix, get("SSLMODE"), get("SSLROOTCERT"), mistakes),
            root_certificate: file("SSLROOTCERT"),
            certificate: file("SSLCERT"),
            key: file("SSLKEY"),
        },
    };
    if endpoint.has_socket() {
        // As libpq has it: nobody can listen there.
        endpoint.tls.mode = TlsMode::Disable;
    }
    if endpoint.tls.certificate.is_some() != endpoint.tls.key.is_some() {
        mistakes.push(format!("`{prefix}_SSLCERT` and `{prefix}_SSLKEY` go together: set both"));
    }
    if endpoint.schema.len() > 63 {
        mistakes.push(format!("`{prefix}_SCHEMA` is longer than PostgreSQL's 63 bytes"));
    }
    if endpoint.password.is_none() {
        look_up_password(&mut endpoint, variables);
    }
    (mistakes.len() == before).then_some(endpoint)
}

/// What libpq would do where no password is given.
fn look_up_password(endpoint: &mut Endpoint, variables: &BTreeMap<String, String>) {
    let Endpoint { host, port, database, user, .. } = &*endpoint;
    match pgpass::read(variables) {
        Ok(text) => {
            let found = text.and_then(|text| pgpass::find(&text, host, *port, database, user));
            endpoint.password = found.map(Secret::new);
        }
        Err(why) => endpoint.password_file_ignored = Some(why),
    }
}

fn port(prefix: &str, value: Option<&str>, mistakes: &mut Vec<String>) -> u16 {
    let Some(value) = value else { return 5432 };
    match value.parse() {
        Ok(port) if port != 0 => port,
        _ => {
            mistakes.push(format!("`{prefix}_PORT` is `{value}`, not a port from 1 to 65535"));
            0
        }
    }
}

fn tls_mode(
    prefix: &str,
    value: Option<&str>,
    root_certificate: Option<&str>,
    mistakes: &mut Vec<String>,
) -> TlsMode {
    // As libpq has it: anybody gets a certificate that a whole system trusts, for a name of his own.
    let only = (root_certificate == Some(SYSTEM)).then_some(TlsMode::VerifyFull);
    let Some(value) = value else { return only.unwrap_or_default() };
    if let Some((_, mode)) = TlsMode::NAMES.iter().find(|(name, _)| *name == value) {
        if only.is_some_and(|only| only != *mode) {
            mistakes.push(format!(
                "`{prefix}_SSLMODE` is `{value}`, too weak for `{prefix}_SSLROOTCERT={SYSTEM}`: \
                 set it to `verify-full`, or leave it out"
            ));
        }
        return *mode;
    }
    let names = TlsMode::NAMES.map(|(name, _)| name);
    let suggestion = did_you_mean(value, names)
        .map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
    mistakes.push(format!(
        "`{prefix}_SSLMODE` is `{value}`, not one of {}{suggestion}",
        names.join(", ")
    ));
    TlsMode::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes_in(pairs: &[(&str, &str)]) -> Vec<String> {
        let mut mistakes = Vec::new();
        interpret(&variables(pairs), Path::new("shop"), &mut mistakes);
        mistakes
    }

    fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let complete = [
            ("SOURCE_HOST", "a"),
            ("SOURCE_USERNAME", "u"),
            ("SOURCE_DB", "d"),
            ("DEST_HOST", "b"),
            ("DEST_USERNAME", "u"),
            ("DEST_DB", "d"),
        ];
        complete.iter().chain(pairs).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn what_is_left_out_gets_what_libpq_would_assume() {
        let settings = interpret(&variables(&[]), Path::new("shop"), &mut Vec::new()).unwrap();
        assert_eq!(settings.listeners.pipeline, "shop");
        assert_eq!(settings.source.port, 5432);
        assert_eq!(settings.source.schema, "public");
        assert_eq!(settings.source.tls.mode, TlsMode::Prefer);
        assert!(settings.listeners.webhook.is_none());
    }

    #[test]
    fn a_variable_that_means_nothing_is_remarked_on_and_explains_one_that_is_missing() {
        let given = variables(&[("SOURCE_SSL_MODE", "require"), ("DEST_X", "1"), ("PGDATA", "x")]);
        let ssl_mode =
            "`SOURCE_SSL_MODE` in `.env` means nothing here; did you mean `SOURCE_SSLMODE`?";
        assert_eq!(remarks(&given), [ssl_mode, "`DEST_X` in `.env` means nothing here"]);
        let mut given = variables(&[("SOURCE_USER", "u")]);
        given.remove("SOURCE_USERNAME");
        let mut mistakes = Vec::new();
        assert!(interpret(&given, Path::new("shop"), &mut mistakes).is_none());
        assert_eq!(mistakes.len(), 1);
        assert!(mistakes[0].starts_with("`SOURCE_USERNAME` is not set"), "{mistakes:?}");
        assert!(mistakes[0].ends_with("; did you mean it by `SOURCE_USER`?"), "{mistakes:?}");
    }

    #[test]
    fn a_host_is_without_its_port() {
        let said = |host| mistakes_in(&[("SOURCE_HOST", host)]);
        for host in ["db.example.com", "10.0.0.1", "::1", "fe80::1%eth0", "/run/pg:1"] {
            assert_eq!(said(host), [""; 0], "{host}");
        }
        for host in ["db.example.com:5433", "10.0.0.1:5432", "[::1]:5432", "[::1]", "db:"] {
            let mistakes = said(host);
            assert!(mistakes[0].contains("into `SOURCE_PORT`"), "{host}: {mistakes:?}");
        }
    }

    #[test]
    fn what_the_system_trusts_is_trusted_for_its_name_alone() {
        let read = |pairs: &[(&str, &str)]| {
            let mut mistakes = Vec::new();
            let settings = interpret(&variables(pairs), Path::new("/shop"), &mut mistakes);
            (settings.map(|settings| settings.source.tls.mode), mistakes)
        };
        let system = ("SOURCE_SSLROOTCERT", "system");
        assert_eq!(read(&[system]), (Some(TlsMode::VerifyFull), Vec::new()));
        let full = ("SOURCE_SSLMODE", "verify-full");
        assert_eq!(read(&[system, full]), (Some(TlsMode::VerifyFull), Vec::new()));
        for weak in ["disable", "prefer", "require", "verify-ca"] {
            let (settings, mistakes) = read(&[system, ("SOURCE_SSLMODE", weak)]);
            assert!(settings.is_none() && mistakes[0].contains("too weak"), "{mistakes:?}");
        }
        // Nothing is encrypted on a Unix socket.
        let socket = ("SOURCE_HOST", "/tmp");
        assert_eq!(read(&[system, socket]), (Some(TlsMode::Disable), Vec::new()));
    }

    #[test]
    fn a_pipeline_is_called_after_its_directory_where_it_has_no_name() {
        let name = |pairs: &[(&str, &str)], directory: &str| {
            interpret(&variables(pairs), Path::new(directory), &mut Vec::new())
                .unwrap()
                .listeners
                .pipeline
        };
        assert_eq!(name(&[("PIPELINE_NAME", "nightly")], "shop"), "nightly");
        assert_eq!(name(&[], "/nowhere/shop"), "shop");
        assert_eq!(name(&[], "/usr/../usr/bin/.."), "usr");
        assert_eq!(name(&[], "/"), "pipeline");
    }

    #[test]
    fn metrics_go_to_a_file_beside_the_pipelines_own() {
        let read = |file: &str| {
            let given = variables(&[("METRICS_FILE", file)]);
            let mut mistakes = Vec::new();
            let settings = interpret(&given, Path::new("/shop"), &mut mistakes).unwrap();
            (settings.listeners.metrics, mistakes.len())
        };
        assert_eq!(read("metrics.prom"), (Some(PathBuf::from("/shop/metrics.prom")), 0));
        assert_eq!(read("/var/m.prom"), (Some(PathBuf::from("/var/m.prom")), 0));
        assert_eq!(read("tables-config.json").1, 1);
        assert_eq!(read("/shop/.env").1, 1);
    }

    #[test]
    fn ports_schemas_and_webhooks_have_their_limits() {
        let right = |name: &str, value: &str| mistakes_in(&[(name, value)]).is_empty();
        assert!(right("SOURCE_PORT", "1") && right("SOURCE_PORT", "65535"));
        assert!(!right("SOURCE_PORT", "0") && !right("SOURCE_PORT", "65536"));
        assert!(right("DEST_SCHEMA", &"x".repeat(63)) && !right("DEST_SCHEMA", &"x".repeat(64)));
        assert!(right("WEBHOOK_URL", "http://h") && right("WEBHOOK_URL", "HTTPS://h/x"));
        assert!(!right("WEBHOOK_URL", "https:///x") && !right("WEBHOOK_URL", "https://"));
        assert!(!right("WEBHOOK_URL", "ftp://h"));
    }

    #[test]
    fn a_source_is_read_whatever_the_destination_is() {
        let mut given = variables(&[("SOURCE_URL", "postgresql://u@a:6000/d"), ("DEST_PORT", "x")]);
        given.retain(|name, _| {
            !["SOURCE_HOST", "SOURCE_USERNAME", "SOURCE_DB"].contains(&name.as_str())
        });
        let found = endpoint(Side::Source, Path::new("p"), &given, &mut Vec::new()).unwrap();
        assert_eq!((found.address().as_str(), found.user.as_str()), ("a:6000/d", "u"));
    }

    #[test]
    fn a_password_that_is_not_given_is_looked_up_as_libpq_does() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pass");
        std::fs::write(&path, "a:*:d:u:hunter2").unwrap();
        let given = variables(&[("PGPASSFILE", path.to_str().unwrap()), ("DEST_PASSWORD", "own")]);
        let read = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            interpret(&given, Path::new("shop"), &mut Vec::new()).unwrap()
        };
        let Settings { source, destination, .. } = read(0o600);
        assert_eq!(source.password.as_ref().map(Secret::reveal), Some("hunter2"));
        assert_eq!(destination.password.as_ref().map(Secret::reveal), Some("own"));
        let Settings { source, destination, .. } = read(0o644);
        assert!(source.password.is_none() && source.password_file_ignored.is_some());
        assert!(destination.password_file_ignored.is_none(), "nobody needs it");
    }

    #[test]
    fn a_unix_socket_is_never_asked_for_tls() {
        let given =
            variables(&[("SOURCE_HOST", "/run/postgresql"), ("SOURCE_SSLMODE", "verify-full")]);
        let settings = interpret(&given, Path::new("shop"), &mut Vec::new()).unwrap();
        assert_eq!(settings.source.tls.mode, TlsMode::Disable);
        assert!(settings.source.has_socket() && !settings.destination.has_socket());
        let mistakes = mistakes_in(&[("SOURCE_HOST", "/run"), ("SOURCE_SSLMODE", "full")]);
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    }

    #[test]
    fn the_list_of_variables_has_every_name_that_is_read() {
        let read = include_str!("settings.rs").split("#[cfg(test)]").next().unwrap();
        for (call, list) in
            [("get(\"", &OF_A_SIDE[..]), ("required(\"", &OF_A_SIDE), ("variables, \"", &OTHERS)]
        {
            for name in read.split(call).skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(list.contains(&name), "{name}");
            }
        }
    }

    #[test]
    fn all_mistakes_come_at_once() {
        assert_eq!(
            mistakes_in(&[
                ("SOURCE_HOST", ""),
                ("SOURCE_PORT", "54e2"),
                ("DEST_PORT", "70000"),
                ("DEST_SSLMODE", "verify_full"),
                ("DEST_SSLCERT", "c.pem"),
                ("WEBHOOK_URL", "hooks.example/T0KEN"),
            ]),
            [
                "`SOURCE_HOST` is not set: put it, or `SOURCE_URL`, into `.env` or the environment",
                "`SOURCE_PORT` is `54e2`, not a port from 1 to 65535",
                "`DEST_PORT` is `70000`, not a port from 1 to 65535",
                "`DEST_SSLMODE` is `verify_full`, not one of disable, prefer, require, verify-ca, \
                 verify-full; did you mean `verify-full`?",
                "`DEST_SSLCERT` and `DEST_SSLKEY` go together: set both",
                "`WEBHOOK_URL` is not a URL that starts with `https://` or `http://`",
            ]
        );
    }

    #[test]
    fn what_may_hold_a_password_by_mistake_is_not_repeated() {
        let said = mistakes_in(&[
            ("SOURCE_HOST", "postgres://u:hunter2@host"),
            ("SOURCE_DB", "hunter2@host"),
            ("DEST_DB", "jdbc://hunter2"),
            ("DEST_PORT", "5432\nDEST_PASSWORD=hunter2"),
        ]);
        assert_eq!(
            said,
            [
                "`SOURCE_HOST` is not a host name: a URL or a user does not belong there; \
                 `SOURCE_URL` takes a URL",
                "`SOURCE_DB` is not a database's name: a URL or a user does not belong there; \
                 `SOURCE_URL` takes a URL",
                "`DEST_DB` is not a database's name: a URL or a user does not belong there; \
                 `DEST_URL` takes a URL",
                "`DEST_PORT` holds a control character or several lines: is a quote closed?",
            ]
        );
    }

    #[test]
    fn a_password_is_never_shown_by_debug() {
        let settings = interpret(
            &variables(&[("SOURCE_PASSWORD", "hunter2"), ("WEBHOOK_URL", "https://x/T0KEN")]),
            Path::new("shop"),
            &mut Vec::new(),
        )
        .unwrap();
        let shown = format!("{:?} {:?}", settings.source, settings.listeners.webhook);
        assert!(!shown.contains("hunter2") && !shown.contains("T0KEN"), "{shown}");
    }
}
