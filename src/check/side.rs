//! One of the two servers: how it is reached, and what the role may do there.

use crate::config::{Deletes, Endpoint, Mode, Rule, Side};
use crate::db::Session;
use crate::error::{Error, Kind, Result};
use crate::inspect::{self, Rights};
use crate::interrupt::Interrupt;
use crate::report::{About, Checkup, Finding};

/// Connects with one side, and says how, and what the role may do.
pub(super) fn connect(
    endpoint: &Endpoint,
    rules: &[Rule],
    interrupt: &Interrupt,
    checkup: &mut Checkup,
) -> Result<Option<Session>> {
    let about = About::Side(endpoint.side);
    let mut session = match Session::connect(endpoint, interrupt) {
        Err(error) if error.kind == Kind::Interrupted => return Err(error),
        Err(error) => {
            checkup.add(Finding::error(about, error));
            return Ok(None);
        }
        Ok(session) => session,
    };
    let rights = inspect::rights(&mut session, &endpoint.schema)?;
    let server = &session.server;
    let (major, minor) = (server.version / 10_000, server.version % 10_000);
    let encrypted = match &rights.tls {
        Some(version) => version.replace("TLSv", "TLS "),
        None => "not encrypted".to_owned(),
    };
    let standby = if server.in_recovery { ", a standby" } else { "" };
    checkup.add(Finding::good(
        about.clone(),
        format!(
            "PostgreSQL {major}.{minor} at {} as {}, {encrypted}{standby}",
            endpoint.address(),
            endpoint.user
        ),
    ));
    if rights.tls.is_none() && is_remote(endpoint) {
        let prefix = endpoint.side.prefix();
        checkup.add(Finding::warning(
            about.clone(),
            "the connection is not encrypted, and leaves this host",
            format!("turn on TLS at the server, and set {prefix}_SSLMODE to `verify-full`"),
        ));
    }
    let found = match endpoint.side {
        Side::Source => source_rights(&rights, &endpoint.schema),
        Side::Destination => destination_rights(&rights, &endpoint.schema, rules),
    };
    for finding in found {
        checkup.add(finding);
    }
    if server.in_recovery && endpoint.side == Side::Source {
        checkup.add(Finding::warning(
            about,
            "it is a standby, where transactions in flight on its primary cannot be seen: rows that \
             they commit late are found within the lookback only",
            "read from the primary, or let \"lookback\" cover the longest transaction".to_owned(),
        ));
    }
    Ok(Some(session))
}

fn is_remote(endpoint: &Endpoint) -> bool {
    let here = ["localhost", "127.0.0.1", "::1"];
    !endpoint.has_socket() && !here.contains(&endpoint.host.as_str())
}

fn source_rights(rights: &Rights, schema: &str) -> Vec<Finding> {
    let about = || About::Side(Side::Source);
    if !rights.schema_exists {
        let error = Error::table(format!("there is no schema `{schema}`"));
        return vec![Finding::error(about(), error.hint("check SOURCE_SCHEMA"))];
    }
    if !rights.schema_usable {
        let error = Error::table(format!("the user may not look into the schema `{schema}`"));
        let hint = "grant the source's user USAGE on it";
        return vec![Finding::error(about(), error.hint(hint))];
    }
    let hint =
        "let a user read that may do nothing else: GRANT USAGE ON SCHEMA and SELECT ON the tables";
    let could = if rights.superuser {
        "the user is a superuser".to_owned()
    } else if rights.writable.is_empty() {
        return Vec::new();
    } else {
        format!("the user could write {}", rights.writable.join(", "))
    };
    vec![Finding::warning(about(), &format!("{could}; this tool only reads"), hint.to_owned())]
}

fn destination_rights(rights: &Rights, schema: &str, rules: &[Rule]) -> Vec<Finding> {
    let about = || About::Side(Side::Destination);
    let mut found = Vec::new();
    if rights.read_only {
        let error = Error::table("nothing can be written there");
        let hint = "point DEST_HOST at the primary, or unset default_transaction_read_only";
        return vec![Finding::error(about(), error.hint(hint))];
    }
    if !rights.schema_creatable {
        let (what, hint) = if rights.schema_exists {
            (format!("the user may not make tables in the schema `{schema}`"), "CREATE on it")
        } else {
            let what = format!("there is no schema `{schema}`, and the user may not make it");
            (what, "CREATE on the database, or make the schema")
        };
        let error = Error::table(what).hint(format!("grant the destination's user {hint}"));
        found.push(Finding::error(about(), error));
    } else if !rights.schema_exists {
        let said = format!("the first sync will make the schema `{schema}`");
        found.push(Finding::good(about(), said));
    }
    if !rights.temporary {
        let said =
            "the user may not make temporary tables, which `verify`, `diff` and `deletes` need";
        let hint = "grant the destination's user TEMPORARY on its database";
        found.push(
            if rules.iter().any(|rule| rule.mode == Mode::Diff || rule.deletes != Deletes::Keep) {
                Finding::error(about(), Error::table(said).hint(hint))
            } else {
                Finding::warning(about(), said, hint.to_owned())
            },
        );
    }
    found
}
