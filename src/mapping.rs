//! Which type a column has at the destination, and how its values travel.

use crate::fault::{Fault, planted};
use crate::table::{BaseType, DataType};

/// Multiranges came with PostgreSQL 14.
const MULTIRANGE_VERSION: u32 = 14_00_00;

/// Infinite intervals came with PostgreSQL 17.
const INFINITE_INTERVAL_VERSION: u32 = 17_00_00;

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
    let becomes = |data_type: &str, transfer| Mapped { data_type: data_type.to_owned(), transfer };
    let Some(element) = &source.element else {
        return match portability(&source.base, destination_version) {
            Portability::Binary => becomes(&source.base.formatted, Transfer::Binary),
            Portability::Text => becomes(&source.base.formatted, Transfer::Text),
            Portability::Label => becomes("text", Transfer::Binary),
            Portability::Foreign => becomes("text", Transfer::Text),
        };
    };
    let portability = if element.is_array {
        Portability::Foreign
    } else {
        portability(&element.base, destination_version)
    };
    match portability {
        // The binary form of an array names its element type: a domain, which the destination lacks.
        Portability::Binary | Portability::Text if element.is_domain => {
            becomes(&format!("{}[]", element.base.formatted), Transfer::Text)
        }
        Portability::Binary => becomes(&source.base.formatted, Transfer::Binary),
        Portability::Text => becomes(&source.base.formatted, Transfer::Text),
        _ if element.delimiter == ',' => becomes("text[]", Transfer::Text),
        _ => becomes("text[]", Transfer::Cast),
    }
}

/// Whether two types, as `format_type` prints them, are one.
#[must_use]
pub fn same_type(one: &str, other: &str) -> bool {
    let told = |data_type: &str| match data_type.split_once('(') {
        Some((bare, _)) if planted(Fault::ModifiersIgnored) => bare.to_owned(),
        _ => data_type.to_owned(),
    };
    told(one) == told(other)
}

/// What another server makes of a type that is neither a domain nor an array.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Portability {
    /// The destination has the same type, and its binary form is always accepted.
    Binary,
    /// The destination has the same type.
    Text,
    /// An enum: its text and its binary form are both the label.
    Label,
    /// Only its text means something elsewhere.
    Foreign,
}

fn portability(base: &BaseType, destination_version: u32) -> Portability {
    let built_in = base.is_built_in();
    match base.kind {
        'e' => Portability::Label,
        // An older server takes the binary form of infinity for a finite interval.
        'b' if base.name == "interval" && destination_version < INFINITE_INTERVAL_VERSION => {
            Portability::Text
        }
        'b' if built_in && BINARY_TYPES.contains(&base.name.as_str()) => Portability::Binary,
        'b' if built_in && !means_something_only_inside(&base.name) => Portability::Text,
        'r' if built_in => Portability::Binary,
        'm' if built_in && destination_version >= MULTIRANGE_VERSION => Portability::Binary,
        _ => Portability::Foreign,
    }
}

/// The types whose binary form every server accepts whatever the value. Not all are among them:
/// an empty tsquery, for one, can be sent and not received.
const BINARY_TYPES: [&str; 32] = [
    "bit",
    "bool",
    "bpchar",
    "bytea",
    "char",
    "cidr",
    "date",
    "float4",
    "float8",
    "inet",
    "int2",
    "int4",
    "int8",
    "interval",
    "json",
    "jsonb",
    "macaddr",
    "macaddr8",
    "money",
    "name",
    "numeric",
    "oid",
    "point",
    "text",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "tsvector",
    "uuid",
    "varbit",
    "varchar",
];

/// Whether two values that differ may read the same: these leave out the types of arguments.
#[must_use]
pub fn reads_ambiguously(data_type: &DataType) -> bool {
    let base = data_type.innermost();
    base.is_built_in() && ["regproc", "regoper"].contains(&base.name.as_str())
}

/// Whether PostgreSQL has no order for the values, so that no index can tell them apart.
#[must_use]
pub fn has_no_order(data_type: &DataType) -> bool {
    let base = data_type.innermost();
    let without = [
        "json", "jsonpath", "xml", "point", "lseg", "path", "box", "polygon", "line", "circle",
        "xid", "cid",
    ];
    base.is_built_in() && without.contains(&base.name.as_str())
}

/// Types whose values point into the catalog or the log of the server they come from.
fn means_something_only_inside(name: &str) -> bool {
    name.starts_with("reg") || name.starts_with("pg_") || name == "aclitem"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{ElementType, FIRST_USER_OID};

    fn base(oid: u32, name: &str, kind: char) -> BaseType {
        BaseType { oid, name: name.to_owned(), kind, formatted: name.to_owned() }
    }

    #[test]
    fn a_multirange_becomes_text_where_the_destination_is_older_than_14() {
        let data_type = DataType {
            declared: "int4multirange".to_owned(),
            base: base(4451, "int4multirange", 'm'),
            element: None,
            parts: Vec::new(),
        };
        assert_eq!(map(&data_type, 14_00_00).data_type, "int4multirange");
        assert_eq!(map(&data_type, 13_00_21).data_type, "text");
    }

    #[test]
    fn an_interval_travels_as_text_to_a_server_that_does_not_know_infinity() {
        let data_type = DataType {
            declared: "interval".to_owned(),
            base: base(1186, "interval", 'b'),
            element: None,
            parts: Vec::new(),
        };
        assert_eq!(map(&data_type, 16_00_00).transfer, Transfer::Text);
        assert_eq!(map(&data_type, 17_00_00).transfer, Transfer::Binary);
    }

    #[test]
    fn an_array_that_is_not_separated_by_commas_is_cast_by_the_source() {
        let data_type = DataType {
            declared: "geometry[]".to_owned(),
            base: base(20_001, "_geometry", 'b'),
            element: Some(ElementType {
                base: base(20_000, "geometry", 'b'),
                is_domain: false,
                is_array: false,
                delimiter: ':',
            }),
            parts: Vec::new(),
        };
        let mapped = map(&data_type, 15_00_00);
        assert_eq!((mapped.data_type.as_str(), mapped.transfer), ("text[]", Transfer::Cast));
    }

    fn scalar(base: BaseType) -> DataType {
        DataType { declared: base.name.clone(), base, element: None, parts: Vec::new() }
    }

    fn array(element: BaseType, is_domain: bool, is_array: bool) -> DataType {
        DataType {
            declared: "an array".to_owned(),
            base: base(1007, "array[]", 'b'),
            element: Some(ElementType { base: element, is_domain, is_array, delimiter: ',' }),
            parts: Vec::new(),
        }
    }

    #[test]
    fn what_the_destination_has_too_stays_and_everything_else_becomes_text() {
        use Transfer::{Binary, Text};
        let becomes = |data_type: &DataType, name: &str, transfer| {
            let mapped = map(data_type, 17_00_00);
            assert_eq!((mapped.data_type.as_str(), mapped.transfer), (name, transfer));
        };
        becomes(&scalar(base(23, "int4", 'b')), "int4", Binary);
        becomes(&scalar(base(3615, "tsquery", 'b')), "tsquery", Text);
        becomes(&scalar(base(2205, "regclass", 'b')), "text", Text);
        becomes(&scalar(base(3220, "pg_lsn", 'b')), "text", Text);
        becomes(&scalar(base(1033, "aclitem", 'b')), "text", Text);
        becomes(&scalar(base(3904, "int4range", 'r')), "int4range", Binary);
        becomes(&scalar(base(20_000, "mood", 'e')), "text", Binary);
        // The last object that comes with PostgreSQL, and the first that does not.
        becomes(&scalar(base(FIRST_USER_OID - 1, "int4", 'b')), "int4", Binary);
        becomes(&scalar(base(FIRST_USER_OID, "int4", 'b')), "text", Text);
        becomes(&scalar(base(FIRST_USER_OID, "int4range", 'r')), "text", Text);
        becomes(&array(base(23, "int4", 'b'), false, false), "array[]", Binary);
        becomes(&array(base(3615, "tsquery", 'b'), false, false), "array[]", Text);
        becomes(&array(base(23, "int4", 'b'), true, false), "int4[]", Text);
        becomes(&array(base(23, "int4", 'b'), false, true), "text[]", Text);
        becomes(&array(base(20_000, "mood", 'e'), false, false), "text[]", Text);
    }

    #[test]
    fn a_modifier_makes_another_type() {
        assert!(same_type("numeric(12,2)", "numeric(12,2)"));
        assert!(!same_type("numeric(12,2)", "numeric(13,2)"));
    }

    #[test]
    fn an_index_tells_the_values_of_most_types_apart() {
        assert!(has_no_order(&scalar(base(114, "json", 'b'))));
        assert!(has_no_order(&array(base(600, "point", 'b'), false, false)));
        assert!(!has_no_order(&scalar(base(3802, "jsonb", 'b'))));
        assert!(!has_no_order(&scalar(base(FIRST_USER_OID, "json", 'b'))), "it is text here");
    }

    #[test]
    fn only_names_of_functions_and_operators_read_ambiguously() {
        assert!(reads_ambiguously(&scalar(base(24, "regproc", 'b'))));
        assert!(reads_ambiguously(&array(base(2203, "regoper", 'b'), false, false)));
        assert!(!reads_ambiguously(&scalar(base(2205, "regclass", 'b'))));
        assert!(!reads_ambiguously(&scalar(base(FIRST_USER_OID, "regproc", 'b'))));
    }
}
