//! Which replication keys there are, and which of their values may become a watermark.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::error::{Error, Result};
use crate::fault::{Fault, planted};
use crate::sql::{Qualified, copy, identifier, literal};
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
    /// What is subtracted from the watermark; none where nothing is.
    pub lookback: Option<Lookback>,
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
    /// For keys that hold a time.
    Time(Duration),
    /// For keys that are numbers, in their own unit.
    Number(u64),
}

impl KeyType {
    /// Whether keys are given by hand or by a counter, and not by a clock, after which those of later
    /// rows are later, or are reached by the lookback, unless somebody puts it back. Of texts only their
    /// column knows the order.
    fn may_go_back(self) -> bool {
        matches!(self, Self::Integer | Self::Numeric)
    }

    /// The kind of key a column's type makes, if it makes one.
    #[must_use]
    pub fn of(data_type: &DataType) -> Option<Self> {
        if !data_type.base.is_built_in() {
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
            Self::Integer | Self::Text => None,
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
            // The milliseconds since 1970 are the first 48 bits of version 7.
            Self::Uuid => Some(
                "{key} <= rpad(lpad(to_hex(floor(extract(epoch FROM statement_timestamp()) * 1000)\
                 ::bigint), 12, '0'), 32, 'f')::uuid",
            ),
        }
    }

    /// What to subtract from a watermark, if anything.
    ///
    /// Fails where the wish does not fit the type.
    pub fn lookback(self, wish: Option<&Lookback>) -> Result<Option<Lookback>> {
        let default = match self {
            Self::TimestampWithTimeZone | Self::Uuid => Lookback::Time(DEFAULT_LOOKBACK),
            Self::Date | Self::Timestamp => Lookback::Time(DEFAULT_LOOKBACK_WITHOUT_ZONE),
            Self::Integer | Self::Numeric | Self::Text => Lookback::Number(0),
        };
        let wish = wish.unwrap_or(&default);
        let mistake = match (self, wish) {
            (_, Lookback::Number(0) | Lookback::Time(Duration::ZERO)) => return Ok(None),
            (Self::Text, _) => "`lookback` has no meaning for a key of type text",
            (Self::Integer | Self::Numeric, Lookback::Time(_)) => {
                "`lookback` of a key that is a number must be a number"
            }
            (Self::Integer | Self::Numeric, Lookback::Number(_)) | (_, Lookback::Time(_)) => {
                return Ok(Some(wish.clone()));
            }
            (_, Lookback::Number(_)) => {
                "`lookback` of a key that holds a time must be a duration, such as \"5m\""
            }
        };
        Err(Error::table(mistake))
    }
}

impl Key {
    /// The query for the greatest key that may become a watermark.
    #[must_use]
    pub fn greatest(&self, table: &Qualified) -> String {
        copy::greatest_key(table, &self.column, self.key_type.limit())
    }

    /// The condition on rows whose key may become a watermark.
    #[must_use]
    pub fn can_be_a_watermark(&self) -> String {
        copy::can_be_a_watermark(&identifier(&self.column), self.key_type.limit())
    }

    /// Whether there is a key that does not move the watermark, such as one in the future: one row,
    /// one boolean. None where every key does.
    #[must_use]
    pub fn beyond(&self, table: &Qualified) -> Option<String> {
        let limit = self.key_type.limit()?;
        Some(copy::beyond(table, &self.column, limit))
    }

    /// Whether the greatest keys show that keys do not grow: uuids that begin with no time. One row, one
    /// boolean. None where no value could show that.
    #[must_use]
    pub fn random(&self, table: &Qualified) -> Option<String> {
        let limit = (self.key_type == KeyType::Uuid).then(|| self.key_type.limit()).flatten()?;
        let random = format!("NOT ({limit}) AND substring({{key}}::text, 15, 1) NOT IN ('6', '7')");
        Some(copy::greatest_are(table, &self.column, &random))
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
        let bound = match &self.lookback {
            None => self.literal(watermark),
            Some(Lookback::Number(distance)) => format!("{} - {distance}", self.literal(watermark)),
            Some(Lookback::Time(length)) if self.key_type == KeyType::Uuid => {
                self.literal(&uuid_before(watermark, *length))
            }
            Some(Lookback::Time(length)) => {
                let seconds = length.as_secs_f64();
                format!("{} - interval '{seconds} seconds'", self.literal(watermark))
            }
        };
        copy::from_key(&self.column, &bound)
    }

    /// The condition on what a sync reads as well where one of the `marks`, the greatest keys now and
    /// before, lies below the watermark `start`: all rows, or those that meet the condition `since`. With
    /// it, what they may have gone back to. None where keys went on, or have no way back.
    #[must_use]
    pub fn went_back(
        &self,
        marks: &[&str],
        start: &str,
        since: Option<&str>,
    ) -> Option<(String, String)> {
        let mut below: Vec<&str> =
            marks.iter().copied().filter(|mark| self.may_have_gone_back(mark, start)).collect();
        let integers: Option<Vec<i64>> = below.iter().map(|mark| mark.parse().ok()).collect();
        if let Some(least) = integers.and_then(|integers| integers.into_iter().min()) {
            below = vec![below.into_iter().find(|mark| mark.parse() == Ok(least))?];
        }
        // Of those that are no integers the server sees from the values alone how they lie.
        let least = match &below[..] {
            [] => return None,
            [mark] => self.literal(mark),
            many => {
                let all: Vec<String> = many.iter().map(|mark| self.literal(mark)).collect();
                format!("least({})", all.join(", "))
            }
        };
        let mut back = format!("{least} < {}", self.literal(start));
        if let Some(since) = since {
            back = format!("{back} AND {since}");
        }
        Some((below.join(" or "), back))
    }

    /// Whether keys are given by hand or by a counter, so that they may go back.
    #[must_use]
    pub fn may_go_back(&self) -> bool {
        self.key_type.may_go_back()
    }

    /// Whether a source that has lost rows may give their keys to others. A clock does not, and of texts nobody
    /// knows.
    #[must_use]
    pub fn may_be_given_twice(&self) -> bool {
        self.key_type.may_go_back() || self.key_type == KeyType::Text
    }

    /// Whether `mark` may lie below `start`, although keys grow; that of a clock, so far that no lookback
    /// reaches what was written in between.
    #[must_use]
    pub fn may_have_gone_back(&self, mark: &str, start: &str) -> bool {
        if !self.key_type.may_go_back() {
            return self.fell_by(mark, start).is_some_and(|length| length > self.reach_of_time());
        }
        let integers = mark.parse::<i64>().ok().zip(start.parse::<i64>().ok());
        mark != start && integers.is_none_or(|(mark, start)| mark < start)
    }

    /// Whether a clock's key lies below another, and the lookback reaches it.
    #[must_use]
    pub fn fell_within_reach(&self, mark: &str, start: &str) -> bool {
        !self.key_type.may_go_back()
            && self.fell_by(mark, start).is_some_and(|length| length <= self.reach_of_time())
    }

    /// How far a clock's key lies below another, in microseconds, if it does.
    fn fell_by(&self, mark: &str, start: &str) -> Option<i64> {
        let time = |key| match self.key_type {
            KeyType::Uuid => time_of_uuid(key),
            KeyType::Date | KeyType::Timestamp | KeyType::TimestampWithTimeZone => time(key),
            KeyType::Integer | KeyType::Numeric | KeyType::Text => None,
        };
        Some(time(start)?.saturating_sub(time(mark)?)).filter(|length| *length > 0)
    }

    /// The lookback of a clock's key in microseconds.
    fn reach_of_time(&self) -> i64 {
        match &self.lookback {
            Some(Lookback::Time(length)) => i64::try_from(length.as_micros()).unwrap_or(i64::MAX),
            Some(Lookback::Number(_)) | None => 0,
        }
    }

    /// How far below a watermark it is read, for a receipt.
    #[must_use]
    pub fn reach(&self) -> Option<String> {
        self.lookback.as_ref().map(|lookback| match lookback {
            Lookback::Time(length) => format!("{} s", length.as_secs_f64()),
            Lookback::Number(distance) => distance.to_string(),
        })
    }

    /// The same as [`Self::since`] without the lookback.
    #[must_use]
    pub fn from(&self, watermark: &str) -> String {
        copy::from_key(&self.column, &self.literal(watermark))
    }

    fn literal(&self, value: &str) -> String {
        format!("{}::{}", literal(value), self.sql_type)
    }
}

/// The time that PostgreSQL writes so in UTC, of a date its beginning, in microseconds since 1970; none of
/// infinity, nor of years with more than four digits. All that is before Christ is as early as it can be.
#[must_use]
pub fn time(text: &str) -> Option<i64> {
    if text == "-infinity" || text.ends_with(" BC") {
        return Some(i64::MIN);
    }
    let time: DateTime = text.strip_suffix("+00").unwrap_or(text).parse().ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_microsecond())
}

/// Whether it is a uuid, as PostgreSQL writes it: their texts have their order.
#[must_use]
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

/// The time that a uuid of version 7 begins with, in microseconds since 1970.
fn time_of_uuid(uuid: &str) -> Option<i64> {
    i64::try_from(milliseconds(uuid)?).ok()?.checked_mul(1000)
}

fn milliseconds(uuid: &str) -> Option<u128> {
    u128::from_str_radix(&uuid.get(..13)?.replace('-', ""), 16).ok()
}

/// The least uuid whose time lies so far before that of another.
fn uuid_before(uuid: &str, length: Duration) -> String {
    let time = milliseconds(uuid).unwrap_or_default();
    let time = format!("{:012x}", time.saturating_sub(length.as_millis()));
    format!("{}-{}-0000-0000-000000000000", &time[..8], &time[8..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{BaseType, FIRST_USER_OID};

    fn data_type(name: &str, oid: u32) -> DataType {
        let (declared, formatted) = (name.to_owned(), name.to_owned());
        let base = BaseType { oid, name: name.to_owned(), kind: 'b', formatted };
        DataType { declared, base, element: None, parts: Vec::new() }
    }

    fn key(key_type: KeyType, sql_type: &str, lookback: Option<Lookback>) -> Key {
        Key { column: "k".to_owned(), key_type, sql_type: sql_type.to_owned(), lookback }
    }

    #[test]
    fn each_type_makes_its_kind_of_key_and_a_users_own_makes_none() {
        let of = |name| KeyType::of(&data_type(name, 20));
        for name in ["int2", "int4", "int8"] {
            assert_eq!(of(name), Some(KeyType::Integer));
        }
        assert_eq!(of("numeric"), Some(KeyType::Numeric));
        assert_eq!(of("date"), Some(KeyType::Date));
        assert_eq!(of("timestamp"), Some(KeyType::Timestamp));
        assert_eq!(of("timestamptz"), Some(KeyType::TimestampWithTimeZone));
        assert_eq!(of("uuid"), Some(KeyType::Uuid));
        assert_eq!((of("text"), of("varchar")), (Some(KeyType::Text), Some(KeyType::Text)));
        assert_eq!(of("float8"), None);
        assert_eq!(KeyType::of(&data_type("int4", FIRST_USER_OID)), None);
    }

    #[test]
    fn a_lookback_must_fit_the_key() {
        let time = |seconds| Lookback::Time(Duration::from_secs(seconds));
        let of = |key: KeyType, wish: Option<Lookback>| {
            key.lookback(wish.as_ref()).map_err(|error| error.message)
        };
        for (key, default) in [
            (KeyType::TimestampWithTimeZone, Some(time(300))),
            (KeyType::Uuid, Some(time(300))),
            (KeyType::Timestamp, Some(time(93_600))),
            (KeyType::Date, Some(time(93_600))),
            (KeyType::Integer, None),
            (KeyType::Numeric, None),
            (KeyType::Text, None),
        ] {
            assert_eq!(of(key, None), Ok(default), "{key:?}");
            assert_eq!(of(key, Some(time(0))), Ok(None), "{key:?}");
            assert_eq!(of(key, Some(Lookback::Number(0))), Ok(None), "{key:?}");
        }
        assert_eq!(of(KeyType::Timestamp, Some(time(120))), Ok(Some(time(120))));
        let seven = || Some(Lookback::Number(7));
        assert_eq!(of(KeyType::Numeric, seven()), Ok(seven()));
        for (key, wish, said) in [
            (KeyType::Timestamp, seven(), "holds a time must be a duration"),
            (KeyType::Uuid, seven(), "holds a time must be a duration"),
            (KeyType::Integer, Some(time(1)), "is a number must be a number"),
            (KeyType::Text, seven(), "no meaning for a key of type text"),
            (KeyType::Text, Some(time(1)), "no meaning for a key of type text"),
        ] {
            let message = of(key, wish).unwrap_err();
            assert!(message.contains(said), "{key:?}: {message}");
        }
    }

    #[test]
    fn rows_are_read_from_the_watermark_less_the_lookback() {
        let time = |millis| Some(Lookback::Time(Duration::from_millis(millis)));
        let number = key(KeyType::Integer, "bigint", Some(Lookback::Number(7)));
        assert_eq!(number.since("9"), r#""k" >= '9'::bigint - 7 OR "k" IS NULL"#);
        assert_eq!(number.from("9"), r#""k" >= '9'::bigint OR "k" IS NULL"#);
        let day = key(KeyType::Date, "date", time(1500));
        assert_eq!(day.since("d"), r#""k" >= 'd'::date - interval '1.5 seconds' OR "k" IS NULL"#);
        let uuid = key(KeyType::Uuid, "uuid", time(0x1_0001));
        assert_eq!(
            uuid.since("01995f3c-0001-7abc-8000-00000000beef"),
            r#""k" >= '01995f3b-0000-0000-0000-000000000000'::uuid OR "k" IS NULL"#
        );
        assert!(uuid.since("00000000-0001-7abc-8000-00000000beef").contains("'00000000-0000-0000"));
    }

    #[test]
    fn a_key_that_went_back_has_the_rows_read_that_it_hid() {
        let number = key(KeyType::Integer, "bigint", None);
        let back = |key: &Key, marks: &[&str], start, since| {
            key.went_back(marks, start, since).map(|(_, condition)| condition)
        };
        assert_eq!(back(&number, &["9"], "9", None), None);
        assert_eq!(back(&number, &["10"], "9", None), None, "numbers are no texts");
        let below = "'9'::bigint < '10'::bigint";
        let since = back(&number, &["9"], "10", Some("since"));
        assert_eq!(since, Some(format!("{below} AND since")));
        assert_eq!(back(&number, &["9"], "10", None).as_deref(), Some(below));
        // One that is kept tells it as well, and the least tells most.
        assert_eq!(back(&number, &["20", "12", "9", "9"], "10", None).as_deref(), Some(below));
        let numeric = key(KeyType::Numeric, "numeric", None);
        assert_eq!(back(&numeric, &["10"], "9", None), None);
        assert!(back(&numeric, &["9.5"], "9.25", None).is_some(), "the server knows");
        let least = "least('9.5'::numeric, '10'::numeric, '8'::numeric) < '9.25'::numeric";
        assert_eq!(back(&numeric, &["9.5", "10", "8"], "9.25", None).as_deref(), Some(least));
        assert_eq!(back(&key(KeyType::Text, "text", None), &["a"], "b", None), None);
    }

    #[test]
    fn a_clock_has_gone_back_where_the_lookback_does_not_reach() {
        let clock =
            |key_type| key(key_type, "its type", Some(Lookback::Time(Duration::from_mins(5))));
        for (key_type, start, within, below) in [
            (
                KeyType::TimestampWithTimeZone,
                "2026-01-02 00:00:00+00",
                "2026-01-01 23:55:00+00",
                "2026-01-01 23:54:59.999999+00",
            ),
            (
                KeyType::Timestamp,
                "2026-01-02 00:00:00",
                "2026-01-01 23:55:00",
                "2026-01-01 23:54:59.9",
            ),
            // 300,000 and 300,001 milliseconds apart.
            (
                KeyType::Uuid,
                "01995f3c-a000-7abc-8000-00000000beef",
                "01995f38-0c20-7abc-8000-00000000beef",
                "01995f38-0c1f-7abc-8000-00000000beef",
            ),
        ] {
            let clock = clock(key_type);
            assert!(
                !clock.may_have_gone_back(within, start) && clock.fell_within_reach(within, start)
            );
            assert!(
                clock.may_have_gone_back(below, start) && !clock.fell_within_reach(below, start)
            );
            for (mark, start) in
                [(start, start), (start, below), ("infinity", start), (start, "0044-03-15 BC")]
            {
                assert!(
                    !clock.may_have_gone_back(mark, start) && !clock.fell_within_reach(mark, start)
                );
            }
        }
        let day = key(KeyType::Date, "date", Some(Lookback::Time(Duration::from_hours(26))));
        for never in ["-infinity", "0001-01-01 BC"] {
            assert!(day.may_have_gone_back(never, "2026-01-02"));
            assert!(!day.may_have_gone_back("2026-01-02", never));
        }
        assert!(!day.may_have_gone_back("2026-01-01", "2026-01-02"));
        assert!(day.may_have_gone_back("2025-12-31", "2026-01-02"));
        let (_, condition) = day.went_back(&["2025-12-31"], "2026-01-02", Some("since")).unwrap();
        assert_eq!(condition, "'2025-12-31'::date < '2026-01-02'::date AND since");
    }

    #[test]
    fn a_key_in_the_future_or_above_all_others_moves_no_watermark() {
        let table = Qualified::new("s", "t");
        for (key_type, limited) in [
            (KeyType::Integer, None),
            (KeyType::Text, None),
            (KeyType::Numeric, Some("<> 'Infinity'")),
            (KeyType::Date, Some("statement_timestamp()")),
            (KeyType::Timestamp, Some("interval '14 hours'")),
            (KeyType::TimestampWithTimeZone, Some("<= statement_timestamp()")),
            (KeyType::Uuid, Some("::uuid")),
        ] {
            let beyond = key(key_type, "its type", None).beyond(&table);
            assert_eq!(beyond.is_some(), limited.is_some(), "{key_type:?}");
            let asked = beyond.unwrap_or_default();
            assert!(asked.contains(limited.unwrap_or_default()), "{asked}");
        }
    }

    #[test]
    fn nothing_is_subtracted_where_it_might_leave_the_range() {
        let some = || Some(Lookback::Number(1));
        let integer = key(KeyType::Integer, "bigint", some());
        assert!(integer.is_at_the_bottom("-5") && !integer.is_at_the_bottom("5"));
        assert!(!key(KeyType::Integer, "bigint", None).is_at_the_bottom("-5"));
        let day = key(KeyType::Date, "date", some());
        assert!(day.is_at_the_bottom("0001-01-01 BC") && !day.is_at_the_bottom("2026-01-01"));
    }
}
