//! The servers of the harness: one pair for each PostgreSQL that is found, started when first drawn.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::case::create_roles;
use super::model::ONCE;
use super::server::{Servers, find_installations};

/// The database in which each story has a schema of its own.
pub const DATABASE: &str = "harness";

/// The servers of one PostgreSQL.
pub struct Installation {
    pub major: u32,
    bin: PathBuf,
    servers: Option<Arc<Servers>>,
}

/// All of them.
pub struct Park {
    pub installations: Vec<Installation>,
    /// Where the newest pg_dump is.
    pub pg_dump: Option<PathBuf>,
}

impl Park {
    /// Looks for installations: `PG_BIN_DIRS`, else those that are installed, else what the other
    /// tests use.
    pub fn find() -> Self {
        let mut installations: Vec<Installation> = find_installations()
            .into_iter()
            .filter_map(|bin| Some(Installation { major: major(&bin)?, bin, servers: None }))
            .collect();
        installations.sort_by_key(|installation| installation.major);
        installations.dedup_by_key(|installation| installation.major);
        let pg_dump = installations
            .iter()
            .rev()
            .map(|installation| installation.bin.clone())
            .find(|bin| bin.join("pg_dump").is_file());
        Self { installations, pg_dump }
    }

    /// What is here, in a sentence.
    pub fn described(&self) -> String {
        let majors: Vec<String> =
            self.installations.iter().map(|installation| installation.major.to_string()).collect();
        match &majors[..] {
            [only] => format!(
                "PostgreSQL {only} on both sides, for it is the only one here \
                 (scripts/fetch-postgres brings others, PG_BIN_DIRS names them)"
            ),
            _ => format!("PostgreSQL {} on either side", majors.join(", ")),
        }
    }

    /// The installation of that major version, or the nearest to it that is here.
    pub fn nearest(&self, major: u32) -> usize {
        let distance = |at: &usize| self.installations[*at].major.abs_diff(major);
        (0..self.installations.len()).min_by_key(distance).expect("an installation")
    }

    /// Its servers.
    pub fn servers(&mut self, at: usize) -> Arc<Servers> {
        let installation = &mut self.installations[at];
        let bin = &installation.bin;
        Arc::clone(installation.servers.get_or_insert_with(|| Arc::new(started(bin))))
    }
}

impl Drop for Park {
    fn drop(&mut self) {
        for installation in &mut self.installations {
            if let Some(servers) = installation.servers.take().and_then(Arc::into_inner) {
                servers.stop();
            }
        }
    }
}

fn started(bin: &Path) -> Servers {
    let servers = Servers::start_with(bin);
    create_roles(&servers);
    for (server, owner) in
        [(&servers.source, "postgres"), (&servers.destination, super::case::WRITER)]
    {
        let create = format!("CREATE DATABASE {DATABASE} OWNER {owner}");
        server.connect("postgres").batch_execute(&create).expect("a database");
    }
    let privileges = "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO reader; \
                      ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO reader;";
    let major = major(bin).unwrap_or_default();
    let mut source = servers.source.connect(DATABASE);
    source
        .batch_execute(&format!("{privileges} {ONCE}"))
        .unwrap_or_else(|error| panic!("{major}: {error:?}"));
    servers
}

/// The major version of the programs in a folder.
fn major(bin: &Path) -> Option<u32> {
    let output = Command::new(bin.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number =
        text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
