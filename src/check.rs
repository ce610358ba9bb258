//! Looks at everything that a sync needs, and says all that is wrong or will be, at once.

use std::collections::BTreeMap;
use std::path::Path;

use crate::catalog;
use crate::config::{Deletes, Endpoint, InitialPath, Mode, Pipeline, ReplicationKey, Rule, Side};
use crate::connections::two_places;
use crate::db::{PLAIN_COLUMN, Session};
use crate::error::{Error, Kind, Result};
use crate::facts::Facts;
use crate::inspect::{self, Inspected, Rights};
use crate::interrupt::Interrupt;
use crate::notify;
use crate::pg_dump::Installed;
use crate::plan::{self, Decision, Situation, SyncType};
use crate::report::{About, Checkup, Finding, ToCopy, bytes};
use crate::sql::copy::holds_null_key;
use crate::sql::session::Patience;
use crate::sql::{self, Qualified, identifiers};
use crate::state;
use crate::table::dependent::Trigger;
use crate::table::{self, DestinationTable, RECEIPTS, SourceTable, staging_name};
use crate::watermark::key::KeyType;

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

/// Connects with one side, and says how, and what the role may do.
fn connect(
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

fn pg_dump(pipeline: &Pipeline, source: &Session, checkup: &mut Checkup) {
    if pipeline.rules.iter().any(|rule| rule.initial == InitialPath::PgDump) {
        let installed = Installed::for_source(&pipeline.source, &source.server);
        match installed.unusable() {
            Some(why) => checkup.add(Finding::warning(
                About::PgDump,
                &format!("{why}: first copies are read by COPY instead"),
                "install PostgreSQL's client programs, of the source's version or newer, or set \
                 \"initial\" to \"copy\""
                    .to_owned(),
            )),
            None => checkup.add(Finding::good(About::PgDump, "it can read the source".to_owned())),
        }
    }
}

struct Tables<'a> {
    pipeline: &'a Pipeline,
    source: &'a mut Session,
    destination: &'a mut Session,
    checkup: &'a mut Checkup,
}

impl Tables<'_> {
    fn check(mut self, interrupt: &Interrupt) -> Result<()> {
        let Self { pipeline, .. } = self;
        let (from, into) = (&pipeline.source.schema, &pipeline.destination.schema);
        let names: Vec<&str> = pipeline.rules.iter().map(|rule| rule.name.as_str()).collect();
        let there = catalog::source_tables(self.source, from, &names)?;
        let columns = inspect::columns(self.source, from, Some(&names))?;
        let own: Vec<String> = pipeline
            .rules
            .iter()
            .flat_map(|rule| [rule.destination_name.clone(), staging_name(&rule.destination_name)])
            .chain([RECEIPTS.to_owned()])
            .collect();
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let mut here = catalog::destination_tables(self.destination, into, &own)?;
        let sql = sql::inspect::owned_by_others(into, &own);
        for row in self.destination.rows("look for tables of others", &sql)? {
            if let [Some(name), Some(owner)] = &row[..] {
                let error = Error::table(format!("`{into}.{name}` belongs to `{owner}`"));
                let hint = "let the destination's user own it, or belong to its owner";
                self.checkup.add(Finding::error(About::Side(Side::Destination), error.hint(hint)));
            }
        }
        let sql = sql::inspect::views_of_others(into, &own);
        for row in self.destination.rows("look for views of others", &sql)? {
            if let [Some(name), Some(view), Some(owner)] = &row[..] {
                let said = format!(
                    "the view `{view}` on `{into}.{name}` belongs to `{owner}`, so no new copy can keep it"
                );
                let hint = format!("grant `{owner}` to the destination's user, or drop the view");
                let about = About::Side(Side::Destination);
                self.checkup.add(Finding::warning(about, &said, hint));
            }
        }
        for rule in &pipeline.rules {
            interrupt.check()?;
            let name = Qualified::new(from, &rule.name);
            let about = About::Table(rule.name.clone());
            let Some(table) = there.get(&rule.name) else {
                let error = catalog::missing(self.source, &name)?;
                self.checkup.add(Finding::error(about, error));
                continue;
            };
            let found = self.table(rule, table, columns.get(&rule.name), &mut here);
            let nothing = found.is_empty();
            for finding in found {
                self.checkup.add(finding);
            }
            if nothing {
                let size = bytes(table.estimated_bytes);
                let rows = table.estimated_rows;
                let said = format!("about {rows} rows, {size}");
                self.checkup.add(Finding::good(about, said));
            }
        }
        Ok(())
    }

    /// Everything about one table.
    fn table(
        &mut self,
        rule: &Rule,
        there: &SourceTable,
        columns: Option<&Inspected>,
        here: &mut BTreeMap<String, DestinationTable>,
    ) -> Vec<Finding> {
        let about = || About::Table(rule.name.clone());
        let name = &there.name;
        if let Some(error) = self.unreadable(rule, there) {
            return vec![Finding::error(about(), error)];
        }
        let table = Qualified::new(&self.pipeline.destination.schema, &rule.destination_name);
        let servers = (&self.source.server, &self.destination.server);
        let facts = match Facts::of(rule, &table, there.clone(), here, servers) {
            Ok(facts) => facts,
            Err(error) => return vec![Finding::error(about(), error)],
        };
        let situation = facts.situation(rule, &table, false);
        let mut found = Vec::new();
        if let Some(filter) = &rule.filter {
            let rows = situation.shape.selection(rule, there, None);
            if let Err(error) = self.source.rows("understand \"where\"", &rows.explain()) {
                let hint = format!("check \"where\" in tables-config.json: {filter}");
                found.push(Finding::error(about(), error.hint(hint)));
                return found;
            }
        }
        if there.row_security {
            found.push(Finding::warning(
                about(),
                "row-level security hides rows from the source's user",
                "grant it BYPASSRLS, or take it that only the rows it sees are copied".to_owned(),
            ));
        }
        if let Some(key) = &situation.shape.key {
            let column = columns.and_then(|table| table.column(&key.column));
            if column.is_some_and(|column| !column.indexed) {
                let hint = match there.kind {
                    table::Kind::View | table::Kind::ForeignTable => {
                        "make one on the table that it reads".to_owned()
                    }
                    _ => sql::inspect::create_index(name, &key.column),
                };
                let said = format!(
                    "no index begins with the replication key `{}`, so each sync reads all of it",
                    key.column
                );
                found.push(if there.is_large() {
                    Finding::warning(about(), &said, hint)
                } else {
                    Finding::note(about(), &said, hint)
                });
            }
            if columns.is_some_and(|table| table.subscribed) {
                found.push(Finding::warning(
                    about(),
                    "a subscription fills it, and the publisher's transactions in flight cannot be seen: \
                     rows that they commit late are found within the lookback only",
                    "let \"lookback\" cover the longest transaction there, or let \"replication_key\" be \
                     \"xmin\""
                        .to_owned(),
                ));
            }
            found.extend(self.keys(rule, there, columns));
            if key.random(name).is_some_and(|question| self.says_yes(&question)) {
                let random = Error::table(format!(
                    "`{}` holds uuids of another version than 7, which do not grow: later rows with \
                     lesser ones may never be read",
                    key.column
                ));
                let hint = "name another replication key, or \"xmin\", or correct them";
                found.push(Finding::error(about(), random.hint(hint)));
            } else if key.beyond(name).is_some_and(|question| self.says_yes(&question)) {
                let or = if key.key_type == KeyType::Uuid { "" } else { ", or is infinite," };
                found.push(Finding::warning(
                    about(),
                    &format!("`{}` lies in the future{or} in some rows", key.column),
                    "correct them: they are read again in every sync".to_owned(),
                ));
            }
        }
        found.extend(self.unique(&situation));
        found.extend(self.at_destination(&situation, &table));
        found
    }

    fn unreadable(&mut self, rule: &Rule, there: &SourceTable) -> Option<Error> {
        if there.readable {
            return None;
        }
        // Some of its columns may be readable all the same, and be all that is wanted.
        let wanted = there.columns.iter().filter(|column| rule.columns.takes(&column.name));
        let names = identifiers(wanted.map(|column| column.name.as_str()));
        let sql = format!("SELECT {names} FROM {} LIMIT 0", there.name);
        self.source.rows(&format!("read `{}`", there.name.plain()), &sql).err()
    }

    /// Whether rows may be without a key, and whether anything sets it.
    fn keys(
        &mut self,
        rule: &Rule,
        there: &SourceTable,
        columns: Option<&Inspected>,
    ) -> Vec<Finding> {
        let about = || About::Table(rule.name.clone());
        let Some(name) = rule.replication_key.as_ref().map(ReplicationKey::name) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let not_null = there.column(name).is_some_and(|column| column.not_null);
        if !not_null && self.says_yes(&holds_null_key(&there.name, name)) {
            found.push(Finding::warning(
                about(),
                &format!("`{name}` is NULL in some rows"),
                format!(
                    "set it, and give it a default: rows without a key are read in every sync{}",
                    if there.lacks_xmin().is_none() { " that finds them changed" } else { "" }
                ),
            ));
        }
        let Some((table, column)) = columns.and_then(|table| Some((table, table.column(name)?)))
        else {
            return found;
        };
        // What a view shows is set elsewhere.
        if there.lacks_xmin().is_some() || table.set_on_update {
            return found;
        }
        let hint = "make sure that every writer does, or use \"mode\": \"diff\"; `verify` finds \
                    what was forgotten"
            .to_owned();
        found.push(if column.sets_itself() {
            let said = format!("nothing at the source sets `{name}` when a row is changed");
            Finding::note(about(), &said, hint)
        } else {
            let said = format!("neither a default nor a trigger at the source sets `{name}`");
            Finding::warning(about(), &said, hint)
        });
        found
    }

    fn unique(&mut self, situation: &Situation) -> Option<Finding> {
        let (rule, shape) = (situation.rule, situation.shape);
        if shape.unique_at_source || shape.unique_columns.is_empty() {
            return None;
        }
        let about = About::Table(rule.name.clone());
        let columns = shape.unique_columns.join(", ");
        let selection = shape.selection(rule, situation.source, None);
        let question = selection.shared_key(&shape.unique_columns);
        match inspect::briefly(self.source, &question).as_deref() {
            Some([Some(key), Some(count)]) => {
                let error = Error::table(format!("({columns}) does not identify a row"))
                    .because(format!("{count} rows share the values {key}"))
                    .hint("name other columns in \"unique_cols\", or set \"mode\" to \"full-refresh\"");
                Some(Finding::error(about, error))
            }
            _ => Some(Finding::warning(
                about,
                &format!(
                    "no unique index at the source makes sure that ({columns}) identifies a row"
                ),
                match situation.source.kind {
                    table::Kind::Table | table::Kind::Partitioned => {
                        "make one, on columns that are NOT NULL: each sync looks for doubles instead, \
                         which reads the whole table"
                    }
                    _ => "each sync looks for doubles instead, which reads all of it",
                }
                .to_owned(),
            )),
        }
    }

    /// What the next sync would say of the destination, and how much it would copy.
    fn at_destination(&mut self, situation: &Situation, table: &Qualified) -> Vec<Finding> {
        let about = || About::Table(situation.rule.name.clone());
        let found = state::remember(&self.pipeline.directory, situation, self.destination);
        let decided = found.and_then(|found| {
            let decision = plan::decide(situation, &found.remembered, false)?;
            Ok((decision, found))
        });
        let mut found = Vec::new();
        match decided {
            Err(error) => found.push(Finding::error(about(), error)),
            Ok((Decision::Copy { sync_type, reason, .. }, known)) => {
                let ToCopy { tables, rows, bytes } = &mut self.checkup.to_copy;
                *tables += 1;
                *rows += situation.source.estimated_rows;
                *bytes += situation.source.estimated_bytes;
                let known = (&known.remembered, known.receipt.as_ref());
                let anothers = plan::replaces_anothers(situation, &self.pipeline.name, known);
                let replaces = plan::replaces(situation);
                let replaces =
                    replaces.filter(|_| sync_type == SyncType::Initial).map(|replaces| {
                        let hint = "if it is another pipeline's copy, give this one a \
                         \"destination_name\", or another DEST_SCHEMA";
                        (format!("{replaces}: {reason}"), hint)
                    });
                if let Some((does, hint)) = anothers.or(replaces) {
                    let said = format!("the next sync {does}");
                    found.push(Finding::warning(about(), &said, hint.to_owned()));
                }
            }
            Ok((Decision::Merge { .. }, _)) => {}
        }
        if situation.destination.is_some_and(|there| there.kind == table::Kind::Table) {
            found.extend(self.put_on(situation, table));
        }
        found
    }

    /// What people have put on the destination table that a sync or a new copy has to do with.
    fn put_on(&mut self, situation: &Situation, table: &Qualified) -> Vec<Finding> {
        let about = || About::Table(situation.rule.name.clone());
        let mut found = Vec::new();
        let dependents = catalog::dependents(self.destination, table, Patience::Short);
        let Ok(Some(dependents)) = dependents else { return found };
        let meddles =
            |trigger: &&Trigger| trigger.enabled != 'D' && trigger.definition.contains(" BEFORE ");
        if let Some(trigger) = dependents.triggers.iter().find(meddles) {
            found.push(Finding::warning(
                about(),
                &format!(
                    "the trigger `{}` of `{}` may leave rows out or alter them",
                    trigger.name,
                    table.plain()
                ),
                "have it let pass what the tool writes, or make it an AFTER trigger; `verify` tells \
                 what it has done"
                    .to_owned(),
            ));
        }
        if dependents.force_row_security {
            found.push(Finding::warning(
                about(),
                &format!(
                    "row-level security is forced upon the owner of `{}`: of rows that the policies \
                     hide, the tool knows nothing",
                    table.plain()
                ),
                "set it to NO FORCE ROW LEVEL SECURITY; others are bound by it all the same"
                    .to_owned(),
            ));
        }
        let may_own = sql::inspect::may_create_in(&dependents.owner, &table.schema);
        if inspect::is_so(self.destination, &may_own) == Some(false) {
            let owner = &dependents.owner;
            found.push(Finding::warning(
                about(),
                &format!("`{owner}`, who owns `{}`, may own no new copy", table.plain()),
                format!(
                    "GRANT CREATE ON SCHEMA {} TO {}",
                    sql::identifier(&table.schema),
                    sql::identifier(owner)
                ),
            ));
        }
        let ours = |lost: &&String| {
            let ends_with = |name: &str| lost.ends_with(&format!(" column {name}"));
            let mut columns = situation.shape.columns.iter().map(|column| column.name.as_str());
            columns.any(|name| ends_with(name) || ends_with(&sql::identifier(name)))
        };
        let unwritable = |lost: &&String| {
            let refuses = lost.starts_with("generated column ")
                || lost.starts_with("identity, generated always");
            refuses && ours(lost)
        };
        if let Some(column) = dependents.beyond_us.iter().find(unwritable) {
            let error = Error::table(format!(
                "no sync can write the {column} of `{}` at the destination",
                table.plain()
            ));
            found.push(Finding::error(about(), error.hint(PLAIN_COLUMN)));
        } else if let Some(lost) = dependents.beyond_us.first() {
            found.push(Finding::warning(
                about(),
                &format!("a new copy of `{}` would lose the {lost}, and is refused", table.plain()),
                "drop it before a new copy is called for, and make it again afterwards".to_owned(),
            ));
        }
        found
    }

    /// Whether the answer is yes, and comes soon.
    fn says_yes(&mut self, question: &str) -> bool {
        inspect::is_so(self.source, question) == Some(true)
    }
}
