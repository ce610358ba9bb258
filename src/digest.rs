//! Finds rows that differ without sending them: both sides digest their rows, and the digests are
//! compared.
//!
//! A row has two digests of 64 bits: one of its unique columns, its key, and one of all that is
//! copied. The low bits of the first say in which **bucket** the row lies. Each side counts the
//! rows of each bucket and adds up their digests; a bucket in which both agree holds the same rows.
//! Only of buckets that differ the source then sends the digests themselves, and only rows whose
//! digests differ travel.
//!
//! Two different buckets agree by accident once in 2^64. Keys that share a digest are handled: the
//! rows of a digest are compared together and replaced together.
//!
//! Values of few types are hashed as they are: those of which equal means the same. All others are
//! hashed as text, as their type's output function writes it, in UTF-8 and by the C collation.
//! Hashes are PostgreSQL's own: they are the same in all versions since 11, for hash partitions
//! depend on them, and far cheaper than any other that SQL offers.

use std::collections::BTreeMap;

use crate::fault::{Fault, planted};
use crate::mapping::{FIRST_USER_OID, Mapped, Transfer};
use crate::table::DataType;

/// How a column is digested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digested {
    /// The column.
    pub name: String,
    /// With what other columns it is hashed.
    pub class: Class,
    /// How it is written at the source.
    pub source: Rendering,
    /// And at the destination, whose column has the mapped type.
    pub destination: Rendering,
}

/// Columns of one class are hashed together, as one array.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// As `bigint`.
    Integer,
    /// As `numeric`, and its scale as an integer: 1.0 and 1.00 have the same hash.
    Numeric,
    /// As text.
    Text,
    /// As it is, for types of which equal means the same.
    Same(String),
}

/// How a value is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rendering {
    /// As it is.
    Plain,
    /// Cast to these types, one after the other.
    Cast(&'static [&'static str]),
    /// Cast to the type that its domain is over.
    Below(String),
    /// As its type's output function writes it, which a cast to text need not do.
    Written,
}

impl Rendering {
    /// The expression, for a column given as SQL.
    #[must_use]
    pub fn of(&self, column: &str) -> String {
        match self {
            Self::Plain => column.to_owned(),
            Self::Cast(types) => format!("{column}::{}", types.join("::")),
            Self::Below(data_type) => format!("{column}::{data_type}"),
            // A composite of nothing but NULLs IS NULL, yet is a value.
            Self::Written => format!("CASE num_nulls({column}) WHEN 0 THEN concat({column}) END"),
        }
    }
}

impl Digested {
    /// How a column is digested whose type becomes `mapped`.
    #[must_use]
    pub fn new(name: &str, data_type: &DataType, mapped: &Mapped) -> Self {
        let (class, source, destination) = written(data_type, mapped);
        Self { name: name.to_owned(), class, source, destination }
    }
}

fn written(data_type: &DataType, mapped: &Mapped) -> (Class, Rendering, Rendering) {
    use Class::{Integer, Numeric, Same, Text};
    use Rendering::{Below, Cast, Plain, Written};
    const AS_TEXT: Rendering = Cast(&["text"]);
    if data_type.element.is_some() {
        let cast = mapped.transfer == Transfer::Cast;
        return (Text, if cast { Cast(&["text[]", "text"]) } else { AS_TEXT }, AS_TEXT);
    }
    let base = &data_type.base;
    if base.kind == 'e' {
        return (Text, AS_TEXT, Plain);
    }
    if base.oid >= FIRST_USER_OID || mapped.data_type != base.formatted {
        return (Text, Written, Plain);
    }
    let plain = || {
        let domain = data_type.declared != base.formatted;
        if domain { Below(base.formatted.clone()) } else { Plain }
    };
    match base.name.as_str() {
        "int2" | "int4" | "int8" | "oid" => (Integer, Cast(&["bigint"]), Cast(&["bigint"])),
        "bool" => (Integer, Cast(&["integer", "bigint"]), Cast(&["integer", "bigint"])),
        "numeric" => (Numeric, plain(), Plain),
        // The text of a number of these has one NaN, and a zero below zero.
        "float4" | "float8" | "text" | "varchar" | "json" | "jsonb" => (Text, AS_TEXT, AS_TEXT),
        "bytea" | "date" | "time" | "timestamp" | "timestamptz" | "uuid" => {
            (Same(base.name.clone()), plain(), Plain)
        }
        _ => (Text, Written, Written),
    }
}

/// The digest of some columns of a row, as SQL: each with its class and its value.
#[must_use]
pub fn expression(columns: impl IntoIterator<Item = (Class, String)>, utf8: bool) -> String {
    let mut classes: BTreeMap<Class, Vec<String>> = BTreeMap::new();
    for (class, value) in columns {
        let value = match class {
            Class::Numeric => {
                let scale = format!("scale({value})::bigint");
                classes.entry(Class::Integer).or_default().push(scale);
                value
            }
            Class::Text if utf8 => format!("({value}) COLLATE \"C\""),
            Class::Text => {
                format!("encode(convert_to({value}, 'UTF8'), 'escape') COLLATE \"C\"")
            }
            Class::Integer | Class::Same(_) => value,
        };
        classes.entry(class).or_default().push(value);
    }
    let hash = |values: &[String]| format!("hash_array_extended(ARRAY[{}], 0)", values.join(", "));
    let hashes: Vec<String> = classes.values().map(|values| hash(values)).collect();
    match &hashes[..] {
        [one] => one.clone(),
        all => hash(all),
    }
}

/// The most buckets. Both lists of so many are held in memory: a few megabytes.
const MOST_BUCKETS: u64 = 1 << 16;

/// How many buckets there are: a power of two, so that there are about so many rows in each.
#[must_use]
pub fn bucket_count(rows: u64, rows_per_bucket: u64) -> u32 {
    let wanted = rows.div_ceil(rows_per_bucket.max(1)).clamp(1, MOST_BUCKETS);
    u32::try_from(wanted.next_power_of_two()).unwrap_or(1)
}

/// What one side says of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its number.
    pub number: u32,
    /// How many rows it holds.
    pub rows: u64,
    /// The sum of their digests.
    pub sum: i128,
}

impl Bucket {
    /// Reads a line of COPY's text: number, rows and sum.
    #[must_use]
    pub fn read(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?.trim_end_matches('\n');
        let mut fields = line.split('\t');
        let bucket = Self {
            number: fields.next()?.parse().ok()?,
            rows: fields.next()?.parse().ok()?,
            sum: fields.next()?.parse().ok()?,
        };
        fields.next().is_none().then_some(bucket)
    }
}

/// Some of the buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    chosen: Vec<bool>,
}

impl Buckets {
    /// All buckets.
    #[must_use]
    pub fn all(count: u32) -> Self {
        Self { chosen: vec![true; count as usize] }
    }

    /// Those in which the two sides do not agree. Each list has a bucket once, and only those with
    /// rows.
    #[must_use]
    pub fn differing(count: u32, source: &[Bucket], destination: &[Bucket]) -> Self {
        let mut chosen = vec![false; count as usize];
        let mut there = vec![None; count as usize];
        for bucket in destination {
            there[bucket.number as usize] = Some((bucket.rows, bucket.sum));
            chosen[bucket.number as usize] = true;
        }
        for bucket in source {
            let number = bucket.number as usize;
            chosen[number] = there[number] != Some((bucket.rows, bucket.sum));
        }
        if planted(Fault::BucketSkipped)
            && let Some(first) = chosen.iter_mut().find(|chosen| **chosen)
        {
            *first = false;
        }
        Self { chosen }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.chosen.contains(&true)
    }

    /// How many there are, of how many.
    #[must_use]
    pub fn counted(&self) -> (usize, usize) {
        (self.chosen.iter().filter(|chosen| **chosen).count(), self.chosen.len())
    }

    /// The condition that a row with this key's digest lies in one of them; none where all are
    /// chosen. Bits are looked up in no time, whatever their number and the server's version.
    #[must_use]
    pub fn condition(&self, key_digest: &str) -> Option<String> {
        if !self.chosen.contains(&false) {
            return None;
        }
        let bits: String = self.chosen.iter().map(|&one| if one { '1' } else { '0' }).collect();
        let mask = self.chosen.len() - 1;
        Some(format!("get_bit(B'{bits}', ({key_digest} & {mask})::integer) = 1"))
    }
}

/// How many rows differ, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Differences {
    /// Rows that only the source has.
    pub missing: u64,
    /// Rows that only the destination has.
    pub extra: u64,
    /// Rows that both have, and that are not the same.
    pub different: u64,
    /// Rows that were written since the last sync, which the next one reads.
    pub pending: u64,
}

impl Differences {
    /// Whether something is wrong. What is pending is not.
    #[must_use]
    pub fn is_wrong(&self) -> bool {
        self.missing + self.extra + self.different > 0
    }

    /// As a person would say it.
    #[must_use]
    pub fn described(&self) -> String {
        let parts = [
            (self.missing, "missing"),
            (self.extra, "extra"),
            (self.different, "different"),
            (self.pending, "pending"),
        ];
        let said: Vec<String> = parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if said.is_empty() { "equal".to_owned() } else { said.join(", ") }
    }
}

/// The fewest rows of a table that the safety stop guards: of a few, many may well go.
const GUARDED_ROWS: u64 = 100;

/// Whether removing so many rows of so many is more than `percent` allows.
#[must_use]
pub fn exceeds(removed: u64, rows: u64, percent: u8) -> bool {
    rows >= GUARDED_ROWS && u128::from(removed) * 100 > u128::from(rows) * u128::from(percent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{BaseType, ElementType};

    fn bucket(number: u32, rows: u64, sum: i128) -> Bucket {
        Bucket { number, rows, sum }
    }

    fn chosen(buckets: &Buckets) -> Vec<usize> {
        (0..buckets.chosen.len()).filter(|&at| buckets.chosen[at]).collect()
    }

    #[test]
    fn buckets_differ_by_their_rows_by_their_sum_and_where_one_side_has_none() {
        let source = [bucket(0, 1, 5), bucket(1, 2, 7), bucket(3, 1, 1), bucket(5, 2, 8)];
        let destination = [bucket(0, 1, 5), bucket(1, 2, 8), bucket(4, 1, 1), bucket(5, 1, 8)];
        let differing = Buckets::differing(8, &source, &destination);
        assert_eq!(chosen(&differing), [1, 3, 4, 5]);
        assert_eq!(differing.counted(), (4, 8));
        assert!(Buckets::differing(8, &source, &source).is_empty());
    }

    #[test]
    fn the_condition_names_the_chosen_buckets_bit_by_bit() {
        let differing = Buckets::differing(4, &[bucket(1, 1, 1)], &[bucket(2, 1, 1)]);
        let condition = differing.condition("digest").unwrap();
        assert_eq!(condition, "get_bit(B'0110', (digest & 3)::integer) = 1");
        assert_eq!(Buckets::all(4).condition("digest"), None);
    }

    #[test]
    fn there_are_as_many_buckets_as_the_rows_ask_for_and_memory_allows() {
        assert_eq!(bucket_count(0, 16), 1);
        assert_eq!(bucket_count(16, 16), 1);
        assert_eq!(bucket_count(17, 16), 2);
        assert_eq!(bucket_count(1_000_000, 256), 4096);
        assert_eq!(bucket_count(u64::MAX, 1), 65_536);
    }

    #[test]
    fn a_line_of_digests_is_read_whole_or_not_at_all() {
        assert_eq!(Bucket::read(b"7\t2\t-99\n"), Some(bucket(7, 2, -99)));
        for line in [&b"7\t2"[..], b"7\t2\tx", b"7\t2\t1\t1", b"\t2\t1", b"-1\t2\t1", b"\xff"] {
            assert_eq!(Bucket::read(line), None, "{line:?}");
        }
    }

    #[test]
    fn differences_are_said_in_words() {
        let none = Differences::default();
        assert_eq!((none.described(), none.is_wrong()), ("equal".to_owned(), false));
        let pending = Differences { pending: 2, ..none };
        assert_eq!((pending.described(), pending.is_wrong()), ("2 pending".to_owned(), false));
        for wrong in [
            Differences { missing: 1, ..none },
            Differences { extra: 1, ..none },
            Differences { different: 1, ..none },
        ] {
            assert!(wrong.is_wrong(), "{wrong:?}");
        }
        let all = Differences { missing: 1, extra: 2, different: 3, pending: 4 };
        assert_eq!(all.described(), "1 missing, 2 extra, 3 different, 4 pending");
    }

    #[test]
    fn the_safety_stop_guards_tables_of_a_hundred_rows_from_more_than_its_percentage() {
        assert!(!exceeds(99, 99, 0));
        assert!(!exceeds(50, 100, 50));
        assert!(exceeds(51, 100, 50));
        assert!(exceeds(1, 100, 0));
        assert!(!exceeds(100, 100, 100));
    }

    fn data_type(declared: &str, name: &str, kind: char, oid: u32) -> DataType {
        let base = BaseType { oid, name: name.to_owned(), kind, formatted: name.to_owned() };
        DataType { declared: declared.to_owned(), base, element: None, parts: Vec::new() }
    }

    #[test]
    fn a_value_is_digested_in_a_form_that_both_sides_share() {
        let becomes = |data_type: &DataType, class: Class, source: &str, destination: &str| {
            let mapped = crate::mapping::map(data_type, 17_00_00);
            let digested = Digested::new("c", data_type, &mapped);
            let found = (digested.class, digested.source.of("c"), digested.destination.of("c"));
            assert_eq!(found, (class, source.to_owned(), destination.to_owned()));
        };
        let written = "CASE num_nulls(c) WHEN 0 THEN concat(c) END";
        let (integer, text) = (Class::Integer, Class::Text);
        let base = |name: &str| data_type(name, name, 'b', 23);
        becomes(&base("int4"), integer.clone(), "c::bigint", "c::bigint");
        becomes(&base("bool"), integer, "c::integer::bigint", "c::integer::bigint");
        becomes(&data_type("price", "numeric", 'b', 1700), Class::Numeric, "c::numeric", "c");
        becomes(&base("date"), Class::Same("date".to_owned()), "c", "c");
        becomes(&base("jsonb"), text.clone(), "c::text", "c::text");
        becomes(&base("xml"), text.clone(), written, written);
        becomes(&base("bpchar"), text.clone(), written, written);
        becomes(&data_type("mood", "mood", 'e', 20_000), text.clone(), "c::text", "c");
        becomes(&data_type("int4range", "int4range", 'r', 3904), text.clone(), written, written);
        becomes(&base("regclass"), text.clone(), written, "c");
        becomes(&data_type("pair", "pair", 'c', 20_001), text.clone(), written, "c");
        // A user's own type that bears the name of another.
        becomes(&data_type("date", "date", 'b', 20_001), text.clone(), written, "c");
        let array = |delimiter| {
            let base = data_type("x", "x", 'b', 20_002).base;
            let element = ElementType { base, is_domain: false, is_array: false, delimiter };
            DataType { element: Some(element), ..data_type("x[]", "_x", 'b', 20_003) }
        };
        becomes(&array(','), text.clone(), "c::text", "c::text");
        becomes(&array(';'), text, "c::text[]::text", "c::text");
    }

    #[test]
    fn columns_of_one_class_are_hashed_together_and_then_the_hashes() {
        let one = |class: Class, value: &str| (class, value.to_owned());
        assert_eq!(
            expression([one(Class::Integer, "a"), one(Class::Integer, "b")], true),
            "hash_array_extended(ARRAY[a, b], 0)"
        );
        let mixed =
            [one(Class::Text, "t"), one(Class::Numeric, "n"), one(Class::Same("date".into()), "d")];
        assert_eq!(
            expression(mixed, false),
            "hash_array_extended(ARRAY[hash_array_extended(ARRAY[scale(n)::bigint], 0), \
             hash_array_extended(ARRAY[n], 0), \
             hash_array_extended(ARRAY[encode(convert_to(t, 'UTF8'), 'escape') COLLATE \"C\"], 0), \
             hash_array_extended(ARRAY[d], 0)], 0)"
        );
    }
}
