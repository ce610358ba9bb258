//! Which replication keys there are, which value may become a watermark, and what a sync reads.
//!
//! A sync reads every row whose key is at or above the watermark, so that rows which share the
//! last key are never lost, and every row without a key.

use crate::sql::copy;
use crate::table::DataType;

/// A replication key with what SQL must know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The column.
    pub column: String,
    /// What kind of values it has.
    pub key_type: KeyType,
    /// Its type as SQL, for casting literals to it.
    pub sql_type: String,
}

/// The types a replication key may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// `smallint`, `integer`, `bigint`.
    Integer,
    /// `numeric`.
    Numeric,
    /// `date`.
    Date,
    /// `timestamp without time zone`.
    Timestamp,
    /// `timestamp with time zone`.
    TimestampWithTimeZone,
    /// `uuid`, of version 7 if it is to grow.
    Uuid,
    /// `text` and `character varying`.
    Text,
}

/// The types, for the error that names a wrong one.
pub const KEY_TYPES: &str =
    "smallint, integer, bigint, numeric, date, timestamp, timestamptz, uuid or text";

impl KeyType {
    /// The kind of key a column's type makes, if it makes one.
    #[must_use]
    pub fn of(data_type: &DataType) -> Option<Self> {
        if data_type.base.oid >= crate::mapping::FIRST_USER_OID {
            return None;
        }
        Some(match data_type.base.name.as_str() {
            "int2" | "int4" | "int8" => Self::Integer,
            "numeric" => Self::Numeric,
            "date" => Self::Date,
            "timestamp" => Self::Timestamp,
            "timestamptz" => Self::TimestampWithTimeZone,
            "uuid" => Self::Uuid,
            "text" | "varchar" => Self::Text,
            _ => return None,
        })
    }

    /// The SQL condition on `{key}` that keeps out what must not move a watermark: a key in the
    /// future, or one above all others, would hide every later row. A key without time zone may be
    /// any zone's wall clock, and those run up to 14 hours ahead of UTC.
    fn limit(self) -> Option<&'static str> {
        match self {
            Self::Integer | Self::Uuid | Self::Text => None,
            // Infinity came with PostgreSQL 14, so it is told by its text; NaN sorts above it.
            Self::Numeric => Some("{key} < 'NaN' AND {key}::text <> 'Infinity'"),
            Self::Date => Some(
                "{key} <= (statement_timestamp() AT TIME ZONE 'UTC' + interval '14 hours')::date",
            ),
            Self::Timestamp => {
                Some("{key} <= statement_timestamp() AT TIME ZONE 'UTC' + interval '14 hours'")
            }
            Self::TimestampWithTimeZone => Some("{key} <= statement_timestamp()"),
        }
    }
}

impl Key {
    /// The query for the greatest key that may become a watermark.
    #[must_use]
    pub fn greatest(&self, table: &crate::sql::Qualified) -> String {
        copy::greatest_key(table, &self.column, self.key_type.limit())
    }

    /// The condition on the rows that a sync reads; none where there is no watermark yet.
    #[must_use]
    pub fn since(&self, watermark: Option<&str>) -> Option<String> {
        watermark.map(|watermark| copy::from_key(&self.column, watermark, &self.sql_type))
    }
}
