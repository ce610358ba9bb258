//! What is wrong with a session, or with what was asked in it, and what to do about it.

use super::watch::connect_timeout;
use crate::config::{Endpoint, Side};
use crate::error::Error;

pub(super) fn unreachable(endpoint: &Endpoint, error: &tokio_postgres::Error) -> Error {
    let cannot = cannot_connect(endpoint).caused_by(error);
    let hint = hint(endpoint, &cannot);
    cannot.hint(hint)
}

pub(super) fn shared(endpoint: &Endpoint) -> Error {
    let prefix = endpoint.side.prefix();
    Error::configuration(format!(
        "the {} at `{}` is a pooler that lends each transaction another session",
        endpoint.side,
        endpoint.address()
    ))
    .hint(format!(
        "point {prefix}_HOST and {prefix}_PORT at the server itself, or have the pooler keep sessions \
         (PgBouncer: pool_mode = session)"
    ))
}

/// Somebody took the connection and never said a word, or not enough of them.
pub(super) fn silent(endpoint: &Endpoint) -> Error {
    let cannot = cannot_connect(endpoint)
        .because(format!("no answer within {} s", connect_timeout().as_secs()));
    let hint = hint(endpoint, &cannot);
    cannot.hint(hint)
}

fn cannot_connect(endpoint: &Endpoint) -> Error {
    Error::unreachable(format!(
        "cannot connect to the {} at `{}` as `{}`",
        endpoint.side,
        endpoint.address(),
        endpoint.user
    ))
}

/// What an error of either server means for the table at hand.
pub(super) fn failed(side: Side, purpose: &str, error: &tokio_postgres::Error) -> Error {
    let cannot = format!("cannot {purpose} at the {side}");
    // What the server did not say, the connection did.
    let lost = error.as_db_error().is_none();
    let cannot = if lost { Error::unreachable(cannot) } else { Error::table(cannot) };
    let mut error = cannot.caused_by(error);
    if lost {
        error.sqlstate = Some(CONNECTION_FAILURE.to_owned());
    }
    let denied = error.causes.iter().any(|cause| DENIED_TO_ALL.iter().any(|of| cause.contains(of)));
    match remedy(side, error.sqlstate.as_deref().unwrap_or_default(), denied) {
        Some(remedy) => error.hint(remedy),
        None => error,
    }
}

/// The SQLSTATE of a connection that was there and is lost, which no server is left to send.
const CONNECTION_FAILURE: &str = "08006";

/// What to do where a source, which we only read, says that it got into conflict with others.
pub const CONFLICT_REMEDY: &str = "sync again; a source that is a standby ends what reads from it for long: \
    `hot_standby_feedback = on` there keeps it from that, or a longer `max_standby_streaming_delay`";

/// What to do about a column of the destination that nobody may write.
pub const PLAIN_COLUMN: &str =
    "let it be a plain column: ALTER TABLE ... ALTER COLUMN ... DROP IDENTITY, or DROP EXPRESSION";

/// By these words a server tells of what everybody may use unless somebody has forbidden it: functions, and what
/// the catalog shows.
const DENIED_TO_ALL: [&str; 3] =
    ["denied for function ", "denied for view pg_", "denied for table pg_"];

/// What to do about the failures that every table may meet; `denied_to_all`, where somebody has forbidden
/// what everybody may do.
fn remedy(side: Side, sqlstate: &str, denied_to_all: bool) -> Option<String> {
    Some(match (sqlstate, side) {
        ("42501", _) if denied_to_all => format!(
            "the {side}'s user needs that right, which everybody has unless it is revoked: GRANT EXECUTE ON \
             FUNCTION ..., or GRANT SELECT ON pg_catalog. ..."
        ),
        ("42501", Side::Source) => {
            "grant the source's user SELECT on the table and USAGE on its schema".to_owned()
        }
        ("42501", Side::Destination) => {
            "the destination's user needs CREATE on the schema, and must own the tables or belong to their \
             owner"
                .to_owned()
        }
        ("25006", Side::Destination) => {
            "the destination is a standby, or only lets itself be read: point DEST_HOST at its primary"
                .to_owned()
        }
        ("428C9", Side::Destination) => {
            PLAIN_COLUMN.to_owned()
        }
        ("23503", Side::Destination) => {
            "somebody made that foreign key at the destination, where tables arrive one by one: drop it, or \
             put the table that it refers to first in tables-config.json"
                .to_owned()
        }
        ("55000", Side::Destination) => {
            "where a publication there sends on what the table gets, let it tell its rows apart, which new copies \
             keep: ALTER TABLE ... REPLICA IDENTITY FULL"
                .to_owned()
        }
        ("55P03", _) => {
            format!("another session at the {side} holds a lock; sync again when it is done")
        }
        ("54000", Side::Source) => {
            "PostgreSQL sends no row of more than 1 GB: leave its largest column out by \"columns\" \
             in tables-config.json"
                .to_owned()
        }
        ("53100", _) => format!("make room on the disk of the {side} and sync again"),
        ("40001", Side::Source) => CONFLICT_REMEDY.to_owned(),
        ("08000" | "08003" | "08006" | "40001" | "40P01" | "57P01" | "57P02" | "57P03", _) => {
            "sync again".to_owned()
        }
        _ => return None,
    })
}

fn hint(endpoint: &Endpoint, cannot: &Error) -> String {
    let prefix = endpoint.side.prefix();
    let missing =
        endpoint.password.is_none() && cannot.causes.iter().any(|c| c.contains("password"));
    match cannot.sqlstate.as_deref() {
        _ if missing => match &endpoint.password_file_ignored {
            Some(why) => format!("set {prefix}_PASSWORD; {why}"),
            None => format!("set {prefix}_PASSWORD, or put the password into ~/.pgpass"),
        },
        Some("28P01" | "28000") => {
            format!("check {prefix}_USERNAME, {prefix}_PASSWORD and the server's pg_hba.conf")
        }
        Some("53300") => format!(
            "the {} lets no more sessions in: raise max_connections, or the CONNECTION LIMIT of the role \
             or the database; `sync --jobs N` takes N on each side, and pg_dump one more at the source for each",
            endpoint.side
        ),
        Some("3D000") => format!("check {prefix}_DB"),
        Some(_) => "the server's own log may say more".to_owned(),
        None => format!(
            "check {prefix}_HOST, {prefix}_PORT and {prefix}_SSLMODE, and whether the server runs"
        ),
    }
}
