//! Looks at everything that a sync needs, and says all that is wrong or will be, at once.

mod destination;
mod key;
mod side;
mod table;

use std::path::Path;

use crate::config::{InitialPath, Pipeline};
use crate::connections::two_places;
use crate::db::Session;
use crate::error::{Error, Kind, Result};
use crate::interrupt::Interrupt;
use crate::notify;
use crate::pg_dump::{Installed, Unusable};
use crate::report::{About, Checkup, Finding};
use crate::state;

use side::connect;
use table::Tables;

/// Looks at everything. What is found is no failure of the looking.
///
/// Fails where a signal arrived, and on bugs.
pub fn run(pipeline: &Pipeline, interrupt: &Interrupt) -> Result<Checkup> {
    let mut checkup = Checkup::default();
    for remark in &pipeline.remarks {
        let hint = "correct its name; where it is another program's, all is well".to_owned();
        checkup.add(Finding::warning(About::Pipeline, remark, hint));
    }
    let rules = &pipeline.rules;
    let source = connect(&pipeline.source, rules, interrupt, &mut checkup)?;
    let destination = connect(&pipeline.destination, rules, interrupt, &mut checkup)?;
    let (Some(mut source), Some(mut destination)) = (source, destination) else {
        return Ok(checkup);
    };
    if let Err(error) = two_places(pipeline, &source.server, &destination.server) {
        checkup.add(Finding::error(About::Pipeline, error));
        return Ok(checkup);
    }
    pg_dump(pipeline, &source, &mut checkup);
    files(pipeline, &mut checkup);
    webhook(pipeline, &mut checkup);
    let tables = Tables {
        pipeline,
        source: &mut source,
        destination: &mut destination,
        checkup: &mut checkup,
    };
    match tables.check(interrupt) {
        Err(error) if matches!(error.kind, Kind::Interrupted | Kind::Bug) => Err(error),
        Err(error) => {
            checkup.add(Finding::error(About::Pipeline, error));
            Ok(checkup)
        }
        Ok(()) => Ok(checkup),
    }
}

/// Whether the user who runs this may write what a sync writes on this host.
fn files(pipeline: &Pipeline, checkup: &mut Checkup) {
    let state = pipeline.directory.join(state::FOLDER);
    let state = if state.exists() { state } else { pipeline.directory.clone() };
    let metrics = pipeline.metrics.as_deref().and_then(Path::parent).map(Path::to_owned);
    for folder in std::iter::once(state).chain(metrics) {
        // Access rights say little of full and of read-only disks.
        if let Err(error) = write_and_remove(&folder) {
            let error = Error::table(format!("cannot write into `{}`", folder.display()))
                .caused_by(&error)
                .hint("let the user who runs the syncs own it");
            checkup.add(Finding::error(About::Pipeline, error));
        }
    }
}

/// Writes a file and removes it.
fn write_and_remove(folder: &Path) -> std::io::Result<()> {
    let path = folder.join(format!(".check-{}", std::process::id()));
    let written = std::fs::write(&path, "x");
    // Where it was not made there is nothing to remove.
    let _ = std::fs::remove_file(&path);
    written
}

/// Whether the report of a sync has somewhere to go.
fn webhook(pipeline: &Pipeline, checkup: &mut Checkup) {
    if pipeline.webhook.as_ref().is_some_and(|url| !notify::understands(url.reveal())) {
        // The value is not repeated: it may hold a token.
        let error = Error::table("`WEBHOOK_URL` cannot be understood");
        let hint = "write it as https://HOST/PATH, with %-escapes for what has a meaning in URLs";
        checkup.add(Finding::error(About::Pipeline, error.hint(hint)));
    }
}

fn pg_dump(pipeline: &Pipeline, source: &Session, checkup: &mut Checkup) {
    if pipeline.rules.iter().any(|rule| rule.initial == InitialPath::PgDump) {
        let installed = Installed::for_source(&pipeline.source, &source.server);
        match installed.unusable() {
            Some(Unusable { why, remedy }) => {
                let said = format!("{why}: first copies are read by COPY instead");
                checkup.add(Finding::warning(About::PgDump, &said, (*remedy).to_owned()));
            }
            None => checkup.add(Finding::good(About::PgDump, "it can read the source".to_owned())),
        }
    }
}
