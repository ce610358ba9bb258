//! Which type a column has at the destination, and how its values travel.

use crate::table::DataType;

/// The first object identifier that does not belong to PostgreSQL itself (`FirstNormalObjectId`).
pub const FIRST_USER_OID: u32 = 16384;

/// Multiranges came with PostgreSQL 14.
const MULTIRANGE_VERSION: u32 = 14_00_00;

/// What becomes of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// The destination column's type, as `format_type` prints it.
    pub data_type: String,
    /// How the values travel.
    pub transfer: Transfer,
}

/// How the values of a type may travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// The binary form means the same at both ends.
    Binary,
    /// Only the text form does.
    Text,
    /// Not even the text form, until the source has cast it to the destination's type: an array
    /// whose elements are not separated by commas.
    Cast,
}

/// Maps a source column's type to the destination's, for a destination of that version
/// (`server_version_num`).
#[must_use]
pub fn map(source: &DataType, destination_version: u32) -> Mapped {
    let kept = |data_type: &str, transfer| Mapped { data_type: data_type.to_owned(), transfer };
    let Some(element) = &source.element else {
        return match portability(
            source.base.oid,
            &source.base.name,
            source.base.kind,
            destination_version,
        ) {
            Portability::Same => kept(&source.base.formatted, Transfer::Binary),
            Portability::Label => kept("text", Transfer::Binary),
            Portability::Foreign => kept("text", Transfer::Text),
        };
    };
    let base = &element.base;
    let same =
        portability(base.oid, &base.name, base.kind, destination_version) == Portability::Same;
    match (same && !element.is_array, element.is_domain) {
        (true, false) => kept(&source.base.formatted, Transfer::Binary),
        // The binary form of an array names its element type, here a domain the destination lacks.
        (true, true) => kept(&format!("{}[]", base.formatted), Transfer::Text),
        (false, _) if element.delimiter == ',' => kept("text[]", Transfer::Text),
        (false, _) => kept("text[]", Transfer::Cast),
    }
}

#[derive(PartialEq, Eq)]
enum Portability {
    /// The destination has the same type.
    Same,
    /// An enum: its text and its binary form are both the label.
    Label,
    /// Only its text means something elsewhere.
    Foreign,
}

fn portability(oid: u32, name: &str, kind: char, destination_version: u32) -> Portability {
    match kind {
        'e' => Portability::Label,
        'b' | 'r' if oid < FIRST_USER_OID && !means_something_only_inside(name) => {
            Portability::Same
        }
        'm' if oid < FIRST_USER_OID && destination_version >= MULTIRANGE_VERSION => {
            Portability::Same
        }
        _ => Portability::Foreign,
    }
}

/// Types whose values point into the catalog or the log of the server they come from.
fn means_something_only_inside(name: &str) -> bool {
    let name = name.strip_prefix('_').unwrap_or(name);
    name.starts_with("reg") || name.starts_with("pg_") || name == "aclitem"
}
