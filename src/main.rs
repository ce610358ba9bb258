//! Copies PostgreSQL tables to another PostgreSQL and keeps them in step.

use std::collections::BTreeMap;
use std::io::{ErrorKind, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use incremental_replication::check;
use incremental_replication::cli::{self, Cli, Command};
use incremental_replication::config::{self, Listeners, Pipeline};
use incremental_replication::copy;
use incremental_replication::crash;
use incremental_replication::db;
use incremental_replication::error::{Error, Kind, Result};
use incremental_replication::init;
use incremental_replication::interrupt::Interrupt;
use incremental_replication::metrics;
use incremental_replication::notify;
use incremental_replication::plan::Statement;
use incremental_replication::report::{self, Log, Report, exit_code};
use incremental_replication::runs;
use incremental_replication::status;
use incremental_replication::sync::{self, Request};
use incremental_replication::verify;
use jiff::Timestamp;

mod questions;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let log = cli.log();
    let last_words = log.clone();
    std::panic::set_hook(Box::new(move |panic| last_words.error(&Error::bug(panic.to_string()))));
    // What a sync says of itself is not what it is for.
    let answers = !matches!(cli.command, Command::Sync(_));
    match std::panic::catch_unwind(|| run(cli, &log)) {
        Ok(Ok(0)) if answers && log.lost_words() => {
            let error = Error::table("cannot write to stdout");
            log.error(&error);
            ExitCode::from(exit_code(error.kind))
        }
        Ok(Ok(code)) => ExitCode::from(code),
        Ok(Err(error)) => {
            log.error(&error);
            ExitCode::from(exit_code(error.kind))
        }
        Err(_) => ExitCode::from(exit_code(Kind::Bug)),
    }
}

fn run(cli: Cli, log: &Log) -> Result<u8> {
    #[cfg(feature = "planted-faults")]
    if let Some(fault) = cli.planted_fault {
        incremental_replication::fault::plant(fault);
    }
    let load = || config::load(&cli.directory, &environment());
    let listeners = || config::load_listeners(&cli.directory, &environment());
    match cli.command {
        Command::Init(typed) => init(&cli.directory, typed, log),
        Command::Check { json } => check(&load()?, json, log),
        Command::Plan(typed) => plan(&load()?, typed, log),
        Command::Sync(typed) => sync(load, listeners, typed, log),
        Command::Verify(typed) => verify(&load()?, typed, log),
        Command::Status { json } => status(&load()?, json, log),
        Command::Completions { shell } => {
            let (mut script, name) = (Vec::new(), env!("CARGO_PKG_NAME"));
            clap_complete::generate(shell, &mut Cli::command(), name, &mut script);
            print(&script)
        }
        Command::Man => {
            let page = man_page()
                .map_err(|error| Error::bug("the man page cannot be made").caused_by(&error))?;
            print(&page)
        }
    }
}

fn init(directory: &Path, mut typed: cli::Init, log: &Log) -> Result<u8> {
    let urls = [("SOURCE_URL", typed.source_url.take()), ("DEST_URL", typed.dest_url.take())];
    let lines: String = urls
        .into_iter()
        .filter_map(|(name, url)| Some(config::dotenv_line(name, &url?)))
        .collect::<Result<_>>()?;
    let file = directory.join(config::DOTENV);
    let missing = !file.exists();
    if !lines.is_empty() && !missing {
        return Err(Error::configuration(format!("there is a `{}` already", file.display()))
            .hint("say in it where the servers are, and leave the flags out"));
    }
    if !lines.is_empty() {
        // Looked at before anything is written.
        config::understand(&lines)?;
        write_env(&file, &lines)?;
    } else if missing && std::io::stdin().is_terminal() {
        let interrupt = Interrupt::listen()?;
        write_env(&file, &questions::ask(&interrupt)?)?;
    }
    let source = config::load_source(directory, &environment()).map_err(|error| {
        let said = "write `.env`, or run `init` on a terminal, which asks for what is missing";
        if missing && lines.is_empty() { error.hint(said) } else { error }
    })?;
    let interrupt = Interrupt::listen()?;
    let tell = |chosen: &report::Chosen| log.chosen(chosen);
    let done = init::run(directory, &source, &typed.into(), &interrupt, tell);
    unless_signalled(&interrupt, log, done, |path| {
        log.written(&path);
        Ok(0)
    })
}

/// Writes a file that holds passwords: for nobody's eyes but the user's.
fn write_env(path: &Path, text: &str) -> Result<()> {
    let create = || -> std::io::Result<()> {
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())
    };
    create().map_err(|error| {
        Error::configuration(format!("cannot write `{}`", path.display())).caused_by(&error)
    })
}

fn check(pipeline: &Pipeline, json: bool, log: &Log) -> Result<u8> {
    let interrupt = Interrupt::listen()?;
    unless_signalled(&interrupt, log, check::run(pipeline, &interrupt), |checkup| {
        if json {
            print_json(&checkup.document(&pipeline.name))?;
        } else {
            log.checkup(&checkup);
        }
        Ok(checkup.code())
    })
}

fn plan(pipeline: &Pipeline, typed: cli::Plan, log: &Log) -> Result<u8> {
    let (json, outline) = (typed.json, typed.outline);
    let interrupt = Interrupt::listen()?;
    let log = &if json { log.quiet() } else { log.clone() };
    let (mut first, mut previews) = (Vec::new(), Vec::new());
    let begin = |statements: Vec<Statement>| {
        if !json && !outline {
            log.statements(&statements);
        }
        first = statements;
    };
    let done = sync::preview(pipeline, &typed.into(), &interrupt, log, begin, |preview| {
        if !json {
            log.preview(&preview, outline);
        }
        previews.push(preview);
    });
    unless_signalled(&interrupt, log, done, |()| {
        if json {
            print_json(&report::plan_document(&pipeline.name, &first, &previews))?;
        } else {
            log.previewed(&previews);
        }
        Ok(report::plan_code(&previews))
    })
}

fn sync(
    load: impl FnOnce() -> Result<Pipeline>,
    listeners: impl FnOnce() -> Option<Listeners>,
    mut typed: cli::Sync,
    log: &Log,
) -> Result<u8> {
    if let Some(point) = typed.crash_at.take() {
        crash::choose(point);
    }
    if let Some(seconds) = typed.silence_seconds {
        db::shorten_silence(Duration::from_secs(seconds));
    }
    if typed.row_by_row {
        copy::row_by_row();
    }
    let started_at = Timestamp::now();
    let pipeline = load().inspect_err(|error| {
        // Who is told of each sync is told of one that could not begin as well.
        let Some(listeners) = listeners() else { return };
        let report = Report {
            pipeline: listeners.pipeline.clone(),
            started_at,
            finished_at: Timestamp::now(),
            tables: Vec::new(),
            failure: Some(error.clone()),
        };
        tell(&listeners, &[], &report, log);
    })?;
    let interrupt = Interrupt::listen()?;
    let report = sync::run(&pipeline, &Request::from(typed), &interrupt, log)?;
    let tables: Vec<&str> = pipeline.rules.iter().map(|rule| &*rule.destination_name).collect();
    tell(&pipeline.listeners(), &tables, &report, log);
    Ok(signalled(&interrupt).unwrap_or_else(|| report.exit_code()))
}

fn verify(pipeline: &Pipeline, typed: cli::Verify, log: &Log) -> Result<u8> {
    let json = typed.json;
    let interrupt = Interrupt::listen()?;
    let log = &if json { log.quiet() } else { log.clone() };
    let mut verdicts = Vec::new();
    let done = verify::run(pipeline, &typed.into(), &interrupt, log, |verdict| {
        if !json {
            log.verdict(&verdict);
        }
        verdicts.push(verdict);
    });
    unless_signalled(&interrupt, log, done, |()| {
        if json {
            print_json(&report::document(&pipeline.name, &verdicts))?;
        } else {
            log.remedy(&verdicts);
        }
        Ok(report::code(&verdicts))
    })
}

fn status(pipeline: &Pipeline, json: bool, log: &Log) -> Result<u8> {
    let status = status::read(pipeline, &Interrupt::listen()?)?;
    if json {
        print_json(&status.document(&pipeline.name))
    } else {
        log.status(&status);
        Ok(0)
    }
}

/// Goes on with what was done, unless a signal ended it, which is told.
fn unless_signalled<T>(
    interrupt: &Interrupt,
    log: &Log,
    done: Result<T>,
    go_on: impl FnOnce(T) -> Result<u8>,
) -> Result<u8> {
    match (done, signalled(interrupt)) {
        (Err(_), Some(code)) => {
            log.error(&Error::interrupted());
            Ok(code)
        }
        (done, _) => go_on(done?),
    }
}

/// One page for all commands: the library writes one for each, which nobody would find.
fn man_page() -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let mut command = Cli::command();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    command.build();
    let with_options =
        |command: &&clap::Command| command.get_opts().any(|option| !option.is_global_set());
    for command in command.get_subcommands().filter(with_options) {
        writeln!(page, ".SH \"OPTIONS OF {}\"", command.get_name().to_uppercase())?;
        let own = command.clone().mut_args(|option| {
            let hidden = option.is_hide_set() || option.is_global_set();
            option.hide(hidden)
        });
        let mut options = Vec::new();
        clap_mangen::Man::new(own).render_options_section(&mut options)?;
        let options = String::from_utf8_lossy(&options);
        page.write_all(options.replacen(".SH OPTIONS\n", "", 1).as_bytes())?;
    }
    // The library refers to a page for each command.
    let name = env!("CARGO_PKG_NAME").replace('-', "\\-");
    let page = String::from_utf8_lossy(&page);
    let lines = page.lines().map(|line| {
        let command = line.strip_prefix(&*name).and_then(|rest| rest.strip_prefix("\\-"));
        let command = command.and_then(|command| command.strip_suffix("(1)"));
        command.map_or_else(|| format!("{line}\n"), |command| format!("{command}\n"))
    });
    Ok(lines.collect::<String>().into_bytes())
}

/// A process that a signal ended says so in its code, as shells expect.
fn signalled(interrupt: &Interrupt) -> Option<u8> {
    interrupt.signal().and_then(|signal| u8::try_from(128 + signal).ok())
}

/// Tells everybody who wants to know how a sync of these tables ended. None of that changes its exit code.
fn tell(listeners: &Listeners, tables: &[&str], report: &Report, log: &Log) {
    let (runs, recorded) = runs::record(&listeners.directory, report);
    // Where the rules cannot be read, those of the last run are all that is known.
    let last: Vec<&str> = runs.tables.keys().map(String::as_str).collect();
    let tables = if tables.is_empty() { &last } else { tables };
    let write = |path| metrics::write(path, tables, report, &runs);
    let measured = listeners.metrics.as_deref().map(write);
    for failed in [Some(recorded), measured].into_iter().flatten().filter_map(Result::err) {
        log.warning(None, &failed.one_line());
    }
    let Some(url) = &listeners.webhook else { return };
    if let Err(why) = notify::post(url, &report.body()) {
        log.warning(None, &format!("the webhook could not be told: {why}"));
    }
}

/// The environment's variables that are text; the others are none of ours.
fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn print_json(document: &serde_json::Value) -> Result<u8> {
    print(format!("{document:#}\n").as_bytes())
}

fn print(bytes: &[u8]) -> Result<u8> {
    match std::io::stdout().write_all(bytes) {
        // Who reads no further, such as `head`, has what was wanted.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::table("cannot write to stdout").caused_by(&error))
        }
        _ => Ok(0),
    }
}
