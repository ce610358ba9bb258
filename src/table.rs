//! The shape of a table at either end, as plain data.

pub mod dependent;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::sql::Qualified;

/// The table in the destination that holds the receipts.
pub const RECEIPTS: &str = "_sync_state";

/// The column of a destination table that says since when the source no longer has the row.
pub const DELETED_AT: &str = "_deleted_at";

/// PostgreSQL cuts longer names off silently; this tool never lets it.
pub const LONGEST_NAME_BYTES: usize = 63;

/// The first object identifier that does not belong to PostgreSQL itself (`FirstNormalObjectId`).
pub const FIRST_USER_OID: u32 = 16384;

/// From this size on a table is large.
const LARGE_BYTES: u64 = 64 << 20;

/// What kind of relation it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Kind {
    /// An ordinary table.
    #[serde(rename = "r")]
    Table,
    /// A partitioned table.
    #[serde(rename = "p")]
    Partitioned,
    /// A view.
    #[serde(rename = "v")]
    View,
    /// A materialized view.
    #[serde(rename = "m")]
    MaterializedView,
    /// A foreign table.
    #[serde(rename = "f")]
    ForeignTable,
    /// A sequence, an index, a composite type.
    #[serde(other)]
    Other,
}

impl Kind {
    /// With its article, for messages.
    #[must_use]
    pub fn described(self) -> &'static str {
        match self {
            Self::Table => "a table",
            Self::Partitioned => "a partitioned table",
            Self::View => "a view",
            Self::MaterializedView => "a materialized view",
            Self::ForeignTable => "a foreign table",
            Self::Other => "not a table",
        }
    }
}

/// A table at the source.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own in the catalog")]
pub struct SourceTable {
    /// Its name.
    pub name: Qualified,
    /// What kind of relation it is.
    pub kind: Kind,
    /// The relation's object identifier: a table made again under its name has another.
    pub oid: u32,
    /// In the order of the table, without dropped ones.
    #[serde(deserialize_with = "of_its_length")]
    pub columns: Vec<SourceColumn>,
    /// The unique indexes over all rows.
    pub unique_indexes: Vec<SourceIndex>,
    /// Whether row-level security hides rows from our role.
    pub row_security: bool,
    /// Whether tables inherit from it, whose rows a SELECT shows too.
    pub has_children: bool,
    /// Whether it belongs to an extension, whose tables pg_dump leaves out.
    pub in_extension: bool,
    /// Whether we may read all of it, and not only some columns; it can only be locked then.
    pub readable: bool,
    /// Where its rows are stored: itself, or its partitions and children.
    pub storage: Vec<Storage>,
    /// The conditions that the rows of some of its partitions meet, and no others of its rows, where they were
    /// asked for.
    #[serde(skip)]
    pub bounds: BTreeMap<u32, String>,
    /// How much room it takes, by the server's statistics; 0 where there are none.
    pub estimated_bytes: u64,
    /// How many rows it has, by the same.
    pub estimated_rows: u64,
    /// Whether some of its rows are in foreign tables, which have no `xmin`.
    pub has_foreign_parts: bool,
    /// Of a view, a table with foreign parts or one with row-level security: a digest of what decides
    /// which rows it shows.
    #[serde(default)]
    pub definition: String,
    /// The snapshot in which all this was read.
    pub snapshot: Snapshot,
}

/// A list without room for more: a run holds the columns of all its tables at once.
fn of_its_length<'a, T: Deserialize<'a>, D: Deserializer<'a>>(
    document: D,
) -> Result<Vec<T>, D::Error> {
    let mut list = Vec::deserialize(document)?;
    list.shrink_to_fit();
    Ok(list)
}

/// A unique index at the source.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SourceIndex {
    /// Its columns, in its own order.
    pub columns: Vec<String>,
    /// Whether it is the primary key's.
    pub primary: bool,
    /// Whether it holds for all rows yet.
    pub valid: bool,
}

#[cfg(test)]
impl SourceIndex {
    /// A valid one, for the tests of what is made from tables.
    pub(crate) fn bare(columns: &[&str], primary: bool) -> Self {
        let columns = columns.iter().map(|&name| name.to_owned()).collect();
        Self { columns, primary, valid: true }
    }
}

/// A table that holds rows, and the file they are in. TRUNCATE, CLUSTER and a rewrite by ALTER
/// TABLE give a table another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Storage {
    /// The table's object identifier.
    pub oid: u32,
    /// `pg_class.relfilenode`.
    pub file: u32,
    /// For a part of another table, the sum of the transactions that have made it one: a part that
    /// was detached, written to and attached again has another one. Older receipts do not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached: Option<i64>,
    /// Whether a crash of the server empties it, in the same file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unlogged: bool,
    /// In a receipt: whether rows that were not committed yet when it was read are still to be found
    /// by their transactions, whatever their keys are, as it was new or rewritten then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}

impl Storage {
    /// Whether a part that was stored like `before` is still where it was.
    #[must_use]
    pub fn is_still(&self, before: &Self) -> bool {
        (self.oid, self.file) == (before.oid, before.file)
            && (before.attached.is_none() || self.attached == before.attached)
    }
}

/// The transactions that a snapshot sees, in 64 bits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Snapshot {
    /// All below have ended.
    pub xmin: u64,
    /// None from here on had begun to write.
    pub xmax: u64,
    /// Those in between that had begun to write and had not ended, by the 32 bits that rows hold,
    /// subtransactions included. A standby does not tell.
    pub in_flight: Option<Vec<u32>>,
}

impl Snapshot {
    /// Whose rows it does not see; unknown where that is not told, and not told where too many
    /// would have to be remembered.
    #[must_use]
    pub fn unseen(&self) -> Option<Unseen> {
        let in_flight = self.in_flight.as_ref().filter(|list| list.len() <= MOST_IN_FLIGHT)?;
        Some(Unseen { from: self.xmax, in_flight: in_flight.clone() })
    }
}

/// How many transactions in flight are remembered.
const MOST_IN_FLIGHT: usize = 1000;

/// The transactions whose rows a snapshot does not see.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Unseen {
    /// All from here on, in 64 bits.
    pub from: u64,
    /// And these below, by the 32 bits that rows hold.
    pub in_flight: Vec<u32>,
}

/// A column at the source.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SourceColumn {
    /// Its name.
    pub name: String,
    /// Its number in the table, which no other column of the table will ever have again.
    pub number: i16,
    /// Whether it refuses NULL.
    pub not_null: bool,
    /// Whether the server computes it.
    pub generated: bool,
    /// Whether rows from before it was added have a value of it that is kept elsewhere
    /// (`pg_attribute.atthasmissing`).
    pub filled: bool,
    /// Its type.
    pub data_type: DataType,
}

impl SourceColumn {
    /// The user's type of which its values are made, if it is one that is made of something. An array
    /// of a domain over an array is still one where the domain was taken off.
    #[must_use]
    pub fn of_a_user(&self) -> Option<u32> {
        let base = self.data_type.innermost();
        let is_array = self.data_type.element.as_ref().is_some_and(|element| element.is_array);
        let made = is_array || matches!(base.kind, 'c' | 'e' | 'm' | 'r');
        (made && !base.is_built_in()).then_some(base.oid)
    }
}

/// What a label begins with among parts that are not all labels. No type's name begins with it.
pub const LABEL: &str = "label ";

/// A column's type: as declared, and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct DataType {
    /// As `format_type` prints it.
    pub declared: String,
    /// What remains when every domain is replaced by what it is over.
    pub base: BaseType,
    /// What the base type is an array of, if it is one; domains replaced as well.
    pub element: Option<ElementType>,
    /// What gives the values their text beside the type's name: the expression of a generated column;
    /// the labels of the enum that the type or its element is; of a composite or a range, the types of
    /// attributes and, behind [`LABEL`], the labels of enums, at any depth.
    pub parts: Vec<String>,
}

impl DataType {
    /// What its elements are, if it is an array, and else itself; domains replaced.
    #[must_use]
    pub fn innermost(&self) -> &BaseType {
        self.element.as_ref().map_or(&self.base, |element| &element.base)
    }

    /// Whether it is an enum, or an array of one.
    #[must_use]
    pub fn is_enum(&self) -> bool {
        self.innermost().kind == 'e'
    }
}

/// A type that is not a domain.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BaseType {
    /// Its object identifier; below [`FIRST_USER_OID`] it comes with PostgreSQL.
    pub oid: u32,
    /// `pg_type.typname`.
    pub name: String,
    /// `pg_type.typtype`: b(ase), c(omposite), e(num), r(ange), m(ultirange).
    pub kind: char,
    /// As `format_type` prints it, with the modifiers that apply.
    pub formatted: String,
}

impl BaseType {
    /// Whether it holds so many bytes and no more, whatever they mean in an encoding: `name`, `"char"`.
    #[must_use]
    pub fn is_bytes(&self) -> bool {
        self.oid < FIRST_USER_OID && matches!(&*self.name, "name" | "char")
    }

    /// Whether it comes with PostgreSQL.
    #[must_use]
    pub fn is_built_in(&self) -> bool {
        self.oid < FIRST_USER_OID
    }
}

/// What an array is made of.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ElementType {
    /// The element's type, domains replaced.
    pub base: BaseType,
    /// Whether a domain was replaced.
    pub is_domain: bool,
    /// Whether the element is an array itself (an array of a domain over an array).
    pub is_array: bool,
    /// The character between elements: a comma in all but a few types.
    pub delimiter: char,
}

impl SourceTable {
    /// The column of that name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&SourceColumn> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The primary key's columns in its own order; none where there is no primary key.
    #[must_use]
    pub fn primary_key(&self) -> &[String] {
        let primary = self.unique_indexes.iter().find(|index| index.primary);
        primary.map_or(&[], |index| &index.columns)
    }

    /// Sets of columns, each of which the source itself lets no two of its rows share.
    pub fn identities(&self) -> impl Iterator<Item = &[String]> {
        let holds_null = |name: &String| !self.column(name).is_some_and(|column| column.not_null);
        let tells_apart =
            move |index: &&SourceIndex| index.valid && !index.columns.iter().any(holds_null);
        self.unique_indexes.iter().filter(tells_apart).map(|index| &*index.columns)
    }

    /// Whether its rows are others as soon as it is defined otherwise.
    #[must_use]
    pub fn is_defined(&self) -> bool {
        self.row_security
            || self.has_foreign_parts
            || matches!(self.kind, Kind::View | Kind::ForeignTable)
    }

    /// Whether what has to read all of it takes long.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.estimated_bytes >= LARGE_BYTES
    }

    /// A table without anything, for the tests of what is made from tables.
    #[cfg(test)]
    pub(crate) fn bare() -> Self {
        Self {
            name: Qualified::new("s", "t"),
            kind: Kind::Table,
            oid: 1,
            columns: Vec::new(),
            unique_indexes: Vec::new(),
            row_security: false,
            has_children: false,
            in_extension: false,
            readable: true,
            storage: Vec::new(),
            bounds: BTreeMap::new(),
            estimated_bytes: 0,
            estimated_rows: 0,
            has_foreign_parts: false,
            definition: String::new(),
            snapshot: Snapshot::default(),
        }
    }

    /// Why its rows do not tell which transaction wrote them, if so.
    #[must_use]
    pub fn lacks_xmin(&self) -> Option<&'static str> {
        match self.kind {
            Kind::View => Some("it is a view"),
            Kind::ForeignTable => Some("it is a foreign table"),
            _ if !self.readable => Some("we may read only some of its columns"),
            _ if self.has_foreign_parts => Some("some of its rows are in foreign tables"),
            _ => None,
        }
    }

    /// Whether the source itself makes sure that these columns identify a row.
    #[must_use]
    pub fn guarantees_unique(&self, columns: &[String]) -> bool {
        // An index of a parent does not see the rows of its children.
        !self.has_children
            && self.identities().any(|index| index.iter().all(|name| columns.contains(name)))
    }
}

/// A relation at the destination.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own in the catalog")]
pub struct DestinationTable {
    /// Its name.
    pub name: Qualified,
    /// What kind of relation it is.
    pub kind: Kind,
    /// Whether it is UNLOGGED.
    pub unlogged: bool,
    /// How large its file and its TOAST table's are: 0 right after a TRUNCATE. About as large where
    /// somebody else holds it, and never 0 then.
    pub bytes: u64,
    /// How many rows it has, by the planner's statistics or its size.
    pub estimated_rows: u64,
    /// In the order of the table, without dropped ones.
    #[serde(deserialize_with = "of_its_length")]
    pub columns: Vec<Column>,
    /// The valid unique indexes over all rows.
    pub unique_indexes: Vec<UniqueIndex>,
    /// `COMMENT ON TABLE`, if any.
    pub comment: Option<String>,
    /// Whether another table inherits from it or it from another, partitions included.
    pub inherits: bool,
    /// Whether it has triggers, or a constraint that works by them: a foreign key of its own or of
    /// another table to it, or a deferrable one. It may say so a while longer than it is true.
    pub has_triggers: bool,
    /// Whether row-level security hides rows from our role.
    pub row_security: bool,
}

/// A column that the destination has, or shall have.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// As `format_type` prints it, at the destination with the collation where that is not deterministic.
    pub data_type: String,
    /// Whether it refuses NULL.
    pub not_null: bool,
}

/// A unique index at the destination that `ON CONFLICT` may use.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct UniqueIndex {
    /// Its name.
    pub name: String,
    /// Its columns.
    pub columns: Vec<String>,
    /// Whether it takes some different values for equal, by a collation that is not deterministic.
    pub equates: bool,
    /// Whether it is looked at with every row; that of a deferrable constraint is not.
    pub immediate: bool,
    /// Whether two NULLs are equal to it.
    pub nulls_not_distinct: bool,
}

impl DestinationTable {
    /// Whether it is certain that it holds no row. One that does may still be empty.
    #[must_use]
    pub fn has_no_row(&self) -> bool {
        self.kind == Kind::Table && self.bytes == 0
    }
}

impl UniqueIndex {
    /// Whether it is over exactly these columns, in whatever order.
    #[must_use]
    pub fn covers(&self, columns: &[String]) -> bool {
        self.columns.len() == columns.len() && columns.iter().all(|c| self.columns.contains(c))
    }
}

/// The name of a table's staging table: `<table>_stg`.
#[must_use]
pub fn staging_name(table: &str) -> String {
    suffixed(table, "_stg")
}

/// The name of the unique index that this tool makes on a destination table.
#[must_use]
pub fn own_index_name(table: &str) -> String {
    suffixed(table, "_replicated_key")
}

/// The names that PostgreSQL would give to a column's NOT NULL, each where those before it are taken, but for
/// very long ones.
pub fn not_null_names(table: &str, column: &str) -> impl Iterator<Item = String> {
    let name = format!("{table}_{column}");
    let numbers = std::iter::once(String::new()).chain((1..).map(|number: u32| number.to_string()));
    numbers.map(move |number| suffixed(&name, &format!("_not_null{number}")))
}

/// A name with a suffix. Where the whole would exceed PostgreSQL's 63 bytes, the name's end is
/// replaced by a digest of all of it, so that two long names stay apart.
#[must_use]
fn suffixed(name: &str, suffix: &str) -> String {
    if name.len() + suffix.len() <= LONGEST_NAME_BYTES {
        return format!("{name}{suffix}");
    }
    let digest = format!("~{:016x}", digest(name));
    let room = LONGEST_NAME_BYTES - suffix.len() - digest.len();
    format!("{}{digest}{suffix}", &name[..name.floor_char_boundary(room)])
}

/// FNV-1a: the same on every machine and in every version, which names must be.
#[must_use]
pub fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_shortened_to_63_bytes_and_stays_unlike_its_neighbour() {
        assert_eq!(staging_name("orders"), "orders_stg");
        assert_eq!(staging_name(&"x".repeat(59)).len(), 63);
        let (one, other) = ("é".repeat(31) + "a", "é".repeat(31) + "b");
        assert!(staging_name(&one).len() <= 63 && staging_name(&one).ends_with("_stg"));
        assert_ne!(staging_name(&one), staging_name(&other));
    }
}
