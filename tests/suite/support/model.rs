//! The tables of a story: what they look like at the source, and by which rule they are copied.

use fastrand::Rng;
use serde_json::{Value, json};

use super::judge::{Question, quoted};
use super::ledger::Ledger;
use super::shape::Origin;
use super::values::{TYPES, VALUES};

/// Names that PostgreSQL allows and that people forget about.
const NAMES: [&str; 12] = [
    "orders",
    "Order \"Lines\"",
    "select",
    "naïve ü€😀",
    "1st",
    "a.b",
    "it's",
    "UPPER",
    "back\\slash",
    "with space ",
    "a_very_long_name_that_leaves_no_room_for_any_suffix_in_63_byte",
    "%wild_card*",
];

/// Names of columns.
const COLUMNS: [&str; 8] =
    ["total", "Note \"x\"", "user", "größe", "from", "a,b", "excluded", "destination"];

/// A type and values of it, as SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    pub data_type: String,
    pub values: Vec<String>,
}

/// A column of the source.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub family: Family,
    pub not_null: bool,
    /// Whether the server computes it.
    pub generated: bool,
}

/// How the tool finds what changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By a column that grows.
    Key,
    /// By xmin.
    Xmin,
    /// It copies everything each time.
    FullRefresh,
    /// Both sides digest their rows.
    Diff,
}

/// What becomes of rows that the source no longer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletes {
    Keep,
    Remove,
    Mark,
}

/// A replication key.
#[derive(Clone, Debug)]
pub struct Key {
    pub column: String,
    pub data_type: &'static str,
    /// What a writer sets it to.
    pub grows: &'static str,
    /// Values that a sync has to read again and again, for they are above every watermark.
    pub beyond: &'static [&'static str],
    /// Values that a sync has no reason to read.
    pub old: &'static str,
}

/// Keys of every type. Most of them stand still now and then, so that rows tie.
const KEYS: [Key; 12] = [
    key("timestamptz", "now()", &["'infinity'", "'2999-01-01'"], "'2001-01-01'"),
    key("timestamptz", "clock_timestamp()", &["'infinity'"], "'0044-03-15 BC'"),
    key(
        "timestamp(0) with time zone",
        "date_trunc('second', now())",
        &["'infinity'"],
        "'-infinity'",
    ),
    key("timestamp", "clock_timestamp() AT TIME ZONE 'UTC'", &["'infinity'"], "'2001-01-01'"),
    key(
        "date",
        "(now() AT TIME ZONE 'UTC')::date",
        &["'infinity'", "'2999-01-01'"],
        "'2001-01-01'",
    ),
    key("integer", "nextval('ticks')", &[], "'-7'"),
    key("bigint", "nextval('ticks') / 3", &[], "0"),
    key("bigint", "9007199254740993 + nextval('ticks') / 2", &[], "9007199254740992"),
    key("smallint", "nextval('ticks') / 4", &[], "'-32768'"),
    key("numeric", "nextval('ticks') / 4.0", &["'NaN'"], "'-1e40'"),
    key("text", "to_char(nextval('ticks') / 2, 'FM000000000')", &[], "''"),
    key(
        "uuid",
        "('01890000-0000-7000-8000-' || lpad(to_hex(nextval('ticks') / 2), 12, '0'))::uuid",
        &[],
        "'00000000-0000-0000-0000-000000000000'",
    ),
];

const fn key(
    data_type: &'static str,
    grows: &'static str,
    beyond: &'static [&'static str],
    old: &'static str,
) -> Key {
    Key { column: String::new(), data_type, grows, beyond, old }
}

/// What a copy of a table must be like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Copying {
    /// Nothing has happened that would call for a new copy.
    #[default]
    Uncalledfor,
    /// A new copy is nobody's mistake.
    Allowed,
    /// The next sync has to copy the table whole.
    Called,
}

/// From this seed on, tables are read through a view.
pub const VIEWS_FROM: u64 = 10_000;

/// A table of a story.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct Table {
    pub name: String,
    pub destination: String,
    pub way: Way,
    /// Whether versions are added and never changed.
    pub versions: bool,
    pub deletes: Deletes,
    /// Whether deleted rows are looked for only where that is asked for.
    pub spaced_out: bool,
    pub key: Option<Key>,
    /// Its unique columns are the first ones, so many of them.
    pub unique: usize,
    /// Whether one of them may be NULL, so that there is no primary key.
    pub nullable_unique: bool,
    pub columns: Vec<Column>,
    /// The values of the last unique column that have a partition; empty where it has none.
    pub regions: Vec<u32>,
    pub excluded: Option<String>,
    pub filter: Option<String>,
    /// The condition of the view through which it is read, if it is.
    pub view: Option<String>,
    pub initial: &'static str,
    pub lookback: Option<u32>,
    pub copying: Copying,
    /// Whether columns that change are followed in place where that is right.
    pub evolves: bool,
    /// What its last copy was made from.
    pub origin: Origin,
    pub ledger: Ledger,
    next_name: u32,
}

impl Table {
    /// Draws a table whose name no other of the story has.
    pub fn draw(number: usize, seed: u64, source_major: u32) -> Self {
        let rng = &mut Rng::with_seed(seed % VIEWS_FROM);
        let mut table = Self::draw_stored(number, rng, source_major);
        if seed >= VIEWS_FROM {
            table.view = Some("true".to_owned());
            if table.way == Way::Xmin {
                table.way = Way::Key;
            }
        }
        table
    }

    fn draw_stored(number: usize, rng: &mut Rng, source_major: u32) -> Self {
        let at = (rng.usize(..NAMES.len()) / 3 * 3 + number) % NAMES.len();
        let name = NAMES[at].to_owned();
        let way = match rng.u32(..10) {
            0 => Way::FullRefresh,
            1 | 2 => Way::Xmin,
            _ => Way::Key,
        };
        let mut key = rng.choice(KEYS.iter()).expect("keys").clone();
        rng.choice(["at", "Updated At"]).expect("names").clone_into(&mut key.column);
        let partitioned = rng.u32(..4) == 0;
        let nullable_unique = !partitioned && rng.u32(..6) == 0;
        let mut columns = unique_columns(partitioned, nullable_unique, rng);
        let unique = columns.len();
        if rng.u32(..6) == 0 && columns[0].family.data_type == "integer" {
            let family = Family { data_type: "integer".to_owned(), values: Vec::new() };
            columns.push(Column {
                name: "computed".to_owned(),
                family,
                not_null: false,
                generated: true,
            });
        }
        let mut table = Self {
            destination: if rng.u32(..8) == 0 { format!("copy {number}") } else { name.clone() },
            name,
            way,
            versions: false,
            deletes: Deletes::Keep,
            spaced_out: false,
            key: Some(key),
            unique,
            nullable_unique,
            columns,
            regions: if partitioned { vec![1, 2] } else { Vec::new() },
            excluded: None,
            filter: None,
            view: None,
            initial: if rng.bool() { "pg_dump" } else { "copy" },
            lookback: if rng.u32(..5) == 0 { None } else { Some(0) },
            copying: Copying::Called,
            evolves: at.is_multiple_of(2),
            origin: Origin::default(),
            ledger: Ledger::default(),
            next_name: 0,
        };
        for _ in 0..rng.u32(1..4) {
            let column = table.new_column(rng, source_major);
            table.columns.push(column);
        }
        if rng.u32(..8) == 0 {
            table.excluded = table.columns.last().map(|column| column.name.clone());
        }
        if rng.u32(..8) == 0 && table.columns[0].family.data_type == "integer" {
            table.filter = Some(format!("{} % 2 = 0 -- even", quoted(&table.columns[0].name)));
        }
        table.draw_mode(rng);
        table
    }

    fn draw_mode(&mut self, rng: &mut Rng) {
        let drawn = rng.u32(..10);
        let deletes =
            [Deletes::Keep, Deletes::Remove, Deletes::Remove, Deletes::Mark][rng.usize(..4)];
        self.spaced_out = rng.u32(..4) == 0;
        match (self.way, drawn) {
            (Way::FullRefresh, _) => {}
            // Most tables keep what was deleted: a reconcile would bring rows that a sync has lost.
            (_, 0) => self.versions = true,
            (_, 1) => (self.way, self.deletes) = (Way::Diff, deletes),
            (_, 2..4) => self.deletes = deletes,
            _ => {}
        }
    }

    /// Whether a sync looks for rows that the source no longer has.
    pub fn reconciles(&self, asked: bool) -> bool {
        match self.way {
            Way::Diff => self.deletes != Deletes::Keep,
            Way::FullRefresh => false,
            Way::Key | Way::Xmin => self.deletes != Deletes::Keep && (asked || !self.spaced_out),
        }
    }

    /// A column that the table does not have yet.
    pub fn new_column(&mut self, rng: &mut Rng, source_major: u32) -> Column {
        self.next_name += 1;
        let base = rng.choice(COLUMNS.iter()).expect("names");
        let taken = self.columns.iter().any(|column| column.name == **base);
        let name = if taken { format!("{base} {}", self.next_name) } else { (*base).to_owned() };
        let family = family(rng, source_major);
        Column { name, family, not_null: false, generated: false }
    }

    /// The name, as SQL, of the table that holds the rows.
    pub fn stored(&self) -> String {
        match self.view {
            Some(_) => quoted(&format!("{} below", self.first_letters())),
            None => quoted(&self.name),
        }
    }

    /// The statement that makes the view through which it is read, if it is.
    pub fn create_view(&self) -> String {
        self.view.as_ref().map_or_else(String::new, |condition| {
            let (view, below) = (quoted(&self.name), self.stored());
            format!("CREATE OR REPLACE VIEW {view} AS SELECT * FROM {below} WHERE {condition};")
        })
    }

    /// The statement that drops that view.
    pub fn drop_view(&self) -> String {
        self.view
            .as_ref()
            .map_or_else(String::new, |_| format!("DROP VIEW {};", quoted(&self.name)))
    }

    /// Whether one of its unique columns may hold NULL, for all that the catalog tells.
    pub fn nullable_keys(&self) -> bool {
        self.nullable_unique || self.view.is_some()
    }

    /// The statements that make the table, and its view.
    pub fn create(&self) -> String {
        let mut lines: Vec<String> = self
            .columns
            .iter()
            .map(|column| {
                let not_null = if column.not_null { " NOT NULL" } else { "" };
                let generated = if column.generated {
                    format!(" GENERATED ALWAYS AS ({} * 2) STORED", quoted(&self.columns[0].name))
                } else {
                    String::new()
                };
                format!("{} {}{generated}{not_null}", quoted(&column.name), column.family.data_type)
            })
            .collect();
        if let Some(key) = &self.key {
            lines.push(format!(
                "{} {} DEFAULT ({})",
                quoted(&key.column),
                key.data_type,
                key.grows
            ));
        }
        let unique: Vec<String> = self.unique_names().iter().map(|name| quoted(name)).collect();
        if !self.nullable_unique {
            lines.push(format!("PRIMARY KEY ({})", unique.join(", ")));
        }
        let by = unique.last().map_or("", String::as_str);
        let table = self.stored();
        let partitioned = if self.regions.is_empty() {
            String::new()
        } else {
            format!(" PARTITION BY LIST ({by})")
        };
        let mut sql = format!("CREATE TABLE {table} ({}){partitioned};", lines.join(", "));
        for region in &self.regions {
            sql += &format!(
                "CREATE TABLE {} PARTITION OF {table} FOR VALUES IN ({region});",
                quoted(&self.part(*region))
            );
        }
        if self.nullable_unique {
            let text = |column: &Column| {
                let name = quoted(&column.name);
                let numeric = column.family.data_type == "numeric";
                let canonical = if numeric { format!("trim_scale({name})") } else { name };
                format!("coalesce({canonical}::text, 'NULL')")
            };
            let texts: Vec<String> = self.columns[..self.unique].iter().map(text).collect();
            sql += &format!("CREATE UNIQUE INDEX ON {table} (({}));", texts.join("), ("));
        }
        if let Some(key) = &self.key
            && self.unique % 2 == 1
        {
            sql += &format!("CREATE INDEX ON {table} ({});", quoted(&key.column));
        }
        sql + &self.create_view()
    }

    /// The name of a partition.
    pub fn part(&self, region: u32) -> String {
        format!("{} part {region}", self.first_letters())
    }

    fn first_letters(&self) -> String {
        self.name.chars().take(20).collect()
    }

    /// The names of its unique columns.
    pub fn unique_names(&self) -> Vec<String> {
        self.columns[..self.unique].iter().map(|column| column.name.clone()).collect()
    }

    /// The names of the columns that are copied, in the table's order.
    pub fn copied(&self) -> Vec<String> {
        let all = self.columns.iter().map(|column| column.name.clone());
        let key = self.key.iter().map(|key| key.column.clone());
        all.chain(key).filter(|name| Some(name) != self.excluded.as_ref()).collect()
    }

    /// The columns beside the unique ones that a writer may set.
    pub fn writable(&self) -> Vec<&Column> {
        self.columns[self.unique..].iter().filter(|column| !column.generated).collect()
    }

    /// What the judge asks the source.
    pub fn question(&self, schema: &str) -> Question {
        Question {
            table: format!("{}.{}", quoted(schema), quoted(&self.name)),
            columns: self.copied().iter().map(|name| quoted(name)).collect(),
            unique: if self.versions { self.copied() } else { self.unique_names() }
                .iter()
                .map(|name| quoted(name))
                .collect(),
            versions: self.versions,
            key: (self.way == Way::Key)
                .then(|| self.key.as_ref().map(|key| quoted(&key.column)))
                .flatten(),
            filter: self.filter.as_ref().map(|filter| format!("{filter}\n")),
            view: self.view.is_some(),
        }
    }

    /// What it asks the destination.
    pub fn question_there(&self, schema: &str) -> Question {
        let table = format!("{}.{}", quoted(schema), quoted(&self.destination));
        let live = || "\"_deleted_at\" IS NULL".to_owned();
        let filter = (self.deletes == Deletes::Mark).then(live);
        Question { table, filter, view: false, ..self.question(schema) }
    }

    /// What it asks for rows that are marked, if there can be any.
    pub fn question_marked(&self, schema: &str) -> Option<Question> {
        let marked = || "\"_deleted_at\" IS NOT NULL".to_owned();
        let filter = (self.deletes == Deletes::Mark).then(marked)?;
        Some(Question { filter: Some(filter), ..self.question_there(schema) })
    }

    /// Its rule in `tables-config.json`.
    pub fn rule(&self) -> Value {
        let mut rule = json!({ "name": self.name, "initial": self.initial });
        let mut set = |key: &str, value: Value| rule[key] = value;
        match (self.way, &self.key) {
            (Way::Key, Some(key)) => set("replication_key", json!(key.column)),
            (Way::Xmin, _) => set("replication_key", json!("xmin")),
            (Way::Diff, _) => set("mode", json!("diff")),
            _ => set("mode", json!("full-refresh")),
        }
        if self.versions {
            set("mode", json!("incremental-append"));
        }
        match self.deletes {
            Deletes::Keep if self.way == Way::Diff => set("deletes", json!("keep")),
            Deletes::Keep => {}
            Deletes::Remove => set("deletes", json!("remove")),
            Deletes::Mark => set("deletes", json!("mark")),
        }
        if self.evolves {
            set("on_schema_change", json!("evolve"));
        }
        // Small tables often lose all of their rows.
        set("max_delete_percent", json!(100));
        if self.spaced_out {
            set("reconcile_every", json!("1h"));
        }
        if self.nullable_keys() {
            set("unique_cols", json!(self.unique_names()));
        }
        if self.destination != self.name {
            set("destination_name", json!(self.destination));
        }
        if let Some(excluded) = &self.excluded {
            set("columns", json!({ "exclude": [excluded] }));
        }
        if let Some(filter) = &self.filter {
            set("where", json!(filter));
        }
        if let Some(lookback) = self.lookback {
            set("lookback", json!(lookback));
        }
        rule
    }

    /// Something happened after which the next sync has to copy the table, or may.
    pub fn call_for_copy(&mut self, copying: Copying) {
        self.copying = self.copying.max(copying);
    }
}

/// What every story's source needs beside its tables. The types of users are in `public`.
pub const SETUP: &str = "
    CREATE SEQUENCE ticks;
    CREATE TYPE feeling AS ENUM ('one', 'two', 'it''s three');
    CREATE DOMAIN measure AS numeric(6,2) CHECK (VALUE < 1000);";

/// What a server needs once, in the schema `public`.
pub const ONCE: &str = TYPES;

fn unique_columns(partitioned: bool, nullable: bool, rng: &mut Rng) -> Vec<Column> {
    let column = |name: &str, data_type: &str, values: &[&str]| Column {
        name: name.to_owned(),
        family: Family {
            data_type: data_type.to_owned(),
            values: values.iter().map(|&value| value.to_owned()).collect(),
        },
        not_null: !nullable,
        generated: false,
    };
    let numbers = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "'-1'", "2147483647"];
    let texts =
        ["''", "'a'", "'A'", "'a '", "E'\\\\N'", "E'\\t'", "'ü'", "'😀'", "'NULL'", "E'\\n'"];
    let id = || column("id", "integer", &numbers);
    if partitioned {
        return vec![id(), column("region", "integer", &["1", "2", "3"])];
    }
    match rng.u32(..8) {
        0 => vec![column("ID", "bigint", &numbers)],
        1 => vec![column("code", "text", &texts)],
        2 => vec![id(), column("Code", "character varying(20)", &texts)],
        3 => vec![column("number", "numeric", &["1", "1.0", "1.00", "2", "'NaN'", "0.1", "1e-20"])],
        4 => vec![column("padded", "character(5)", &["'a'", "'a '", "''", "'b'", "'ü'"]), id()],
        // A date's text depends on settings, so that no index can make it unique with its NULLs.
        5 if !nullable => {
            vec![column("day", "date", &["'infinity'", "'2024-02-29'", "'0044-03-15 BC'"]), id()]
        }
        _ => vec![id()],
    }
}

/// Draws a type.
pub fn family(rng: &mut Rng, source_major: u32) -> Family {
    let of = |data_type: &str, values: &[&str]| Family {
        data_type: data_type.to_owned(),
        values: values.iter().map(|&value| value.to_owned()).collect(),
    };
    match rng.u32(..14) {
        // What people alter is drawn more often than the rest.
        0 | 5 => of("feeling", &["'one'", "'two'"]),
        1 => of("measure", &["1", "999.99"]),
        2 => of("numeric(14,4)", &["1.1", "-9999999999.9999"]),
        3 => of("character varying(60)", &["''", "'sixty'", "'ü€😀'"]),
        4 => of("numeric(12,2)", &["1.10", "-9999999999.99"]),
        6 => of("integer", &["0", "1", "2147483647"]),
        _ => {
            let known = |(data_type, _): &&(&str, _)| {
                source_major >= 14 || !data_type.contains("multirange")
            };
            let all: Vec<_> = VALUES.iter().filter(known).collect();
            let (data_type, values) = all[rng.usize(..all.len())];
            of(data_type, values)
        }
    }
}

/// Draws a value of a column as SQL.
pub fn value(column: &Column, rng: &mut Rng) -> String {
    if !column.not_null && rng.u32(..6) == 0 {
        return "NULL".to_owned();
    }
    let random = match column.family.data_type.as_str() {
        "text" | "character varying(60)" if rng.bool() => Some(word(rng)),
        "integer" if column.family.values.len() < 5 && rng.bool() => {
            Some(format!("'{}'", rng.i32(..)))
        }
        "numeric" if rng.u32(..3) == 0 => {
            Some(format!("'{}.{:0>5}'", rng.i64(..), rng.u32(..9999)))
        }
        "double precision" if rng.bool() => Some(format!("'{:e}'", rng.f64() * 1e10)),
        "bytea" if rng.bool() => Some(format!("'\\x{:08x}'", rng.u32(..))),
        "timestamp" if rng.bool() => {
            Some(format!("'2024-02-28'::timestamp + interval '{} us'", rng.i64(..1 << 50)))
        }
        _ => None,
    };
    random.unwrap_or_else(|| rng.choice(column.family.values.iter()).expect("values").clone())
}

/// A text of pieces that mean something to COPY, to arrays, to SQL or to nobody.
fn word(rng: &mut Rng) -> String {
    let pieces = [
        "a", " ", "\\\\", "\\t", "\\n", "\\r", "''", "\"", ",", "{", "N", ".", "ü", "😀", "\\x01",
        "%",
    ];
    let text: String =
        (0..rng.usize(..8)).map(|_| *rng.choice(pieces.iter()).expect("pieces")).collect();
    format!("E'{text}'")
}
