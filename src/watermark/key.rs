//! Which replication keys there are, and which of their values may become a watermark.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::fault::{Fault, planted};
use crate::sql::{Qualified, copy};
use crate::table::DataType;

/// How far below the watermark a key with time zone is read where the rule says nothing.
pub const DEFAULT_LOOKBACK: Duration = Duration::from_mins(5);

/// The same for a key without: wall clocks of the world lie up to 26 hours apart, and most go back
/// by one hour once a year.
pub const DEFAULT_LOOKBACK_WITHOUT_ZONE: Duration = Duration::from_hours(26);

/// A replication key with what SQL must know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The column.
    pub column: String,
    /// What kind of values it has.
    pub key_type: KeyType,
    /// Its type as SQL, for casting literals to it.
    pub sql_type: String,
    /// What is subtracted from the watermark, as SQL; none where nothing is.
    pub lookback: Option<String>,
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

/// How far below the watermark a rule wants to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookback {
    /// For keys of date and time.
    Time(Duration),
    /// For keys that are numbers, in their own unit.
    Number(u64),
}

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
            _ if planted(Fault::FutureKeyCounts) => None,
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

    /// What to subtract from a watermark, as SQL.
    ///
    /// Fails where the wish does not fit the type.
    pub fn lookback(self, wish: Option<&Lookback>) -> Result<Option<String>> {
        let interval = |length: Duration| {
            (!length.is_zero()).then(|| format!("interval '{} seconds'", length.as_secs_f64()))
        };
        match (self, wish) {
            (Self::Date | Self::Timestamp | Self::TimestampWithTimeZone, wish) => match wish {
                None if self == Self::TimestampWithTimeZone => Ok(interval(DEFAULT_LOOKBACK)),
                None => Ok(interval(DEFAULT_LOOKBACK_WITHOUT_ZONE)),
                Some(Lookback::Time(length)) => Ok(interval(*length)),
                Some(Lookback::Number(0)) => Ok(None),
                Some(Lookback::Number(_)) => Err(Error::table(
                    "`lookback` of a date or time key must be a duration, such as \"5m\"",
                )),
            },
            (Self::Integer | Self::Numeric, Some(Lookback::Number(distance))) => {
                Ok((*distance > 0).then(|| distance.to_string()))
            }
            (Self::Integer | Self::Numeric, Some(Lookback::Time(length))) if !length.is_zero() => {
                Err(Error::table("`lookback` of a key that is a number must be a number"))
            }
            (_, None | Some(Lookback::Number(0))) => Ok(None),
            (_, Some(Lookback::Time(length))) if length.is_zero() => Ok(None),
            _ => Err(Error::table("`lookback` has no meaning for a key of type uuid or text")),
        }
    }
}

impl Key {
    /// The query for the greatest key that may become a watermark.
    #[must_use]
    pub fn greatest(&self, table: &Qualified) -> String {
        copy::greatest_key(table, &self.column, self.key_type.limit())
    }

    /// Whether there is a key that does not move the watermark, such as one in the future: one row,
    /// one boolean. None where every key does.
    #[must_use]
    pub fn beyond(&self, table: &Qualified) -> Option<String> {
        let limit = self.key_type.limit()?;
        Some(copy::beyond(table, &self.column, limit))
    }

    /// Whether so little lies below the watermark that subtracting the lookback might leave the
    /// type's range, which is an error. All rows are read then.
    #[must_use]
    pub fn is_at_the_bottom(&self, watermark: &str) -> bool {
        self.lookback.is_some()
            && match self.key_type {
                KeyType::Integer => watermark.starts_with('-'),
                _ => watermark.ends_with("BC"),
            }
    }

    /// The condition on the rows that a sync reads: all from the watermark on, less the lookback,
    /// and all without a key.
    #[must_use]
    pub fn since(&self, watermark: &str) -> String {
        copy::from_key(&self.column, watermark, &self.sql_type, self.lookback.as_deref())
    }

    /// The same without the lookback.
    #[must_use]
    pub fn from(&self, watermark: &str) -> String {
        copy::from_key(&self.column, watermark, &self.sql_type, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lookback_must_fit_the_key() {
        let minutes = Lookback::Time(Duration::from_mins(2));
        let of = |key: KeyType, wish| key.lookback(wish).map_err(|error| error.message);
        assert_eq!(
            of(KeyType::TimestampWithTimeZone, None),
            Ok(Some("interval '300 seconds'".to_owned()))
        );
        assert_eq!(
            of(KeyType::Timestamp, Some(&minutes)),
            Ok(Some("interval '120 seconds'".to_owned()))
        );
        assert_eq!(of(KeyType::Timestamp, Some(&Lookback::Number(0))), Ok(None));
        assert_eq!(of(KeyType::Date, None), Ok(Some("interval '93600 seconds'".to_owned())));
        assert_eq!(of(KeyType::Integer, None), Ok(None));
        assert_eq!(of(KeyType::Numeric, Some(&Lookback::Number(7))), Ok(Some("7".to_owned())));
        assert!(of(KeyType::Timestamp, Some(&Lookback::Number(7))).is_err());
        assert!(of(KeyType::Integer, Some(&minutes)).is_err());
        assert!(of(KeyType::Text, Some(&Lookback::Number(7))).is_err());
    }
}
