//! What can be typed.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::init;
use crate::progress::Screen;
use crate::report::{Log, LogFormat, Verbosity};
use crate::sync::{Request, Shard};
use crate::verify;

/// Copies PostgreSQL tables to another PostgreSQL and keeps them in step, with nothing but SELECT
/// on the source.
#[derive(Debug, Parser)]
#[command(name = "incremental-replication", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    /// The pipeline's directory, with `.env`, `tables-config.json` and `sync-state/`
    #[arg(short = 'C', long = "dir", value_name = "DIR", default_value = ".", global = true)]
    pub directory: PathBuf,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", default_value = "text", global = true)]
    log_format: Format,
    /// Print nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print every statement that reads or writes rows as well
    #[arg(short, long, global = true)]
    verbose: bool,
    /// When to use colours
    #[arg(long, value_name = "WHEN", default_value = "auto", global = true)]
    color: Color,
    /// For the tests: make this mistake
    #[cfg(feature = "planted-faults")]
    #[arg(long, hide = true, global = true)]
    pub planted_fault: Option<crate::fault::Fault>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
   0  all well
   1  a table failed, or `verify` or `check` found something wrong
   2  wrong flags or configuration
   3  a server cannot be reached
   4  another run holds a table (the rest was synced)
  70  a bug in this tool
 130  ended by SIGINT
 143  ended by SIGTERM";

impl Cli {
    /// Where and how to log.
    #[must_use]
    pub fn log(&self) -> Log {
        Log {
            screen: Screen::default(),
            lost: Arc::default(),
            format: match self.log_format {
                Format::Text => LogFormat::Text,
                Format::Json => LogFormat::Json,
            },
            verbosity: match (self.quiet, self.verbose) {
                (true, _) => Verbosity::Quiet,
                (_, true) => Verbosity::Verbose,
                _ => Verbosity::Normal,
            },
            color: match self.color {
                Color::Auto => anstream::ColorChoice::Auto,
                Color::Always => anstream::ColorChoice::Always,
                Color::Never => anstream::ColorChoice::Never,
            },
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring the destination up to date
    Sync(Sync),
    /// Look at the source and write tables-config.json, and .env where it is missing
    Init(Init),
    /// Look at everything that a sync needs, and say all that is wrong or will be
    Check {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Print what the next sync would do to each table, why, and its SQL; changes nothing
    Plan(Plan),
    /// Compare both sides and name the rows that differ
    Verify(Verify),
    /// Print how fresh each table is; reads only the destination and sync-state/
    Status {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the man page
    Man,
}

/// Which tables.
#[derive(Args, Debug)]
struct Only {
    /// Only this table; may be given several times
    #[arg(long = "table", value_name = "TABLE")]
    tables: Vec<String>,
}

/// How to sync.
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Sync {
    #[command(flatten)]
    only: Only,
    /// Copy every table whole
    #[arg(long)]
    full_refresh: bool,
    /// The source is the same database, upgraded or on another server: go on with the copies of the one before, and
    /// read all rows once
    #[arg(long, conflicts_with = "full_refresh")]
    source_moved: bool,
    /// Look for rows that the source no longer has now, where `deletes` is not `keep`
    #[arg(long)]
    reconcile: bool,
    /// Compare both sides afterwards, row by row
    #[arg(long)]
    verify: bool,
    /// Sync so many tables at once, the largest first; each job has two connections of its own
    #[arg(long, value_name = "N", default_value = "1")]
    jobs: NonZeroUsize,
    /// Only the K-th of N parts of the tables, for N hosts that share the work
    #[arg(long, value_name = "K/N")]
    shard: Option<Shard>,
    /// Stop at the first table that fails
    #[arg(long)]
    fail_fast: bool,
    /// For the tests: end the process at this point
    #[arg(long, hide = true, value_parser = clap::builder::PossibleValuesParser::new(crate::crash::POINTS))]
    pub crash_at: Option<String>,
    /// For the tests: ask a silent server after so many seconds
    #[arg(long, hide = true)]
    pub silence_seconds: Option<u64>,
    /// For the tests: merge each row before the next is written, where rows may be merged in parts
    #[arg(long, hide = true)]
    pub row_by_row: bool,
}

impl From<Sync> for Request {
    fn from(typed: Sync) -> Self {
        let Sync {
            only: Only { tables },
            full_refresh,
            source_moved,
            reconcile,
            verify,
            jobs,
            shard,
            fail_fast,
            ..
        } = typed;
        Self { tables, shard, full_refresh, source_moved, reconcile, verify, jobs, fail_fast }
    }
}

/// How to begin.
#[derive(Args, Debug)]
pub struct Init {
    #[command(flatten)]
    only: Only,
    /// Where the source is, for a new .env; better without a password, which others could see
    #[arg(long, value_name = "URL")]
    pub source_url: Option<String>,
    /// Where the destination is, for a new .env
    #[arg(long, value_name = "URL")]
    pub dest_url: Option<String>,
    /// Overwrite the tables-config.json that is there
    #[arg(long)]
    force: bool,
}

impl From<Init> for init::Request {
    fn from(typed: Init) -> Self {
        Self { tables: typed.only.tables, force: typed.force }
    }
}

/// What to plan.
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Plan {
    #[command(flatten)]
    only: Only,
    /// As for a sync that copies every table whole
    #[arg(long)]
    full_refresh: bool,
    /// As for a sync that goes on with the copies of a source that was moved
    #[arg(long, conflicts_with = "full_refresh")]
    source_moved: bool,
    /// As for a sync that looks for rows that the source no longer has
    #[arg(long)]
    reconcile: bool,
    /// Leave the SQL out
    #[arg(long)]
    pub outline: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

impl From<Plan> for Request {
    fn from(typed: Plan) -> Self {
        let Plan { only: Only { tables }, full_refresh, source_moved, reconcile, .. } = typed;
        Self { tables, full_refresh, source_moved, reconcile, ..Self::default() }
    }
}

/// How to verify.
#[derive(Args, Debug)]
pub struct Verify {
    #[command(flatten)]
    only: Only,
    /// Put right what differs, in one transaction a table
    #[arg(long)]
    repair: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

impl From<Verify> for verify::Request {
    fn from(typed: Verify) -> Self {
        Self { tables: typed.only.tables, repair: typed.repair }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}
