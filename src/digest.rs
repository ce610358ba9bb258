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
//! Each value is hashed in a form of bytes that both sides share: as its type sends it, where that
//! form is the only one a value has, else its text, as its type's output function writes it, in
//! UTF-8 whatever the server's encoding. In a key, values that are equal have one form. Hashes are PostgreSQL's own, of bytes: the same in all
//! versions since 11, for hash partitions depend on them, and cheap. (Those of numbers will not do:
//! `hashint8extended` folds 64 bits to 32, `hash_numeric_extended` has no sign and takes NaN for
//! NULL.) An array's hash is a sum over its elements, so the row's is hashed once more: else two rows
//! of a bucket could exchange values, and the bucket's sum would stay what it was.

use crate::config::Side;
use crate::fault::{Fault, planted};
use crate::mapping::{Mapped, Transfer};
use crate::table::DataType;

/// How a column is written, in bytes, where it is digested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digested {
    /// The column.
    pub name: String,
    /// At the source.
    pub source: Rendering,
    /// At the destination, whose column has the mapped type.
    pub destination: Rendering,
    /// On both sides where it identifies a row, if its type writes equal values in several ways.
    pub key: Option<Rendering>,
}

/// How a value is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rendering {
    /// By the function that sends its type, after a cast to the type that a domain is over.
    Sent(&'static str, Option<String>),
    /// By a function that sends a number, cast to its type first.
    Number(&'static str, &'static str),
    /// As text, cast to it, after a cast to `text[]` where elements are not separated by commas.
    Text {
        /// Whether that cast comes first.
        list_first: bool,
    },
    /// As its type's output function writes it, which a cast to text need not do.
    Written,
    /// In the one form that equal values share, with `{}` for the value.
    Shared(&'static str),
}

impl Rendering {
    /// The expression, for a column given as SQL.
    #[must_use]
    pub fn of(&self, column: &str) -> String {
        match self {
            Self::Sent(function, None) => format!("{function}({column})"),
            Self::Sent(function, Some(below)) => format!("{function}({column}::{below})"),
            Self::Number(function, data_type) => format!("{function}({column}::{data_type})"),
            Self::Text { list_first: false } => format!("textsend({column}::text)"),
            Self::Text { list_first: true } => format!("textsend({column}::text[]::text)"),
            // A composite of nothing but NULLs IS NULL, yet is a value.
            Self::Written => {
                format!("CASE num_nulls({column}) WHEN 0 THEN textsend(concat({column})) END")
            }
            Self::Shared(form) => form.replace("{}", column),
        }
    }
}

/// The types whose values have one sent form only, and what sends them. Arrays, ranges and
/// tsvectors may carry what their text does not show, and floating-point numbers have many NaNs.
const SENT_TYPES: [(&str, &str); 12] = [
    ("bool", "boolsend"),
    ("bytea", "byteasend"),
    ("date", "date_send"),
    ("money", "cash_send"),
    ("numeric", "numeric_send"),
    ("text", "textsend"),
    ("time", "time_send"),
    ("timestamp", "timestamp_send"),
    ("timestamptz", "timestamptz_send"),
    ("timetz", "timetz_send"),
    ("uuid", "uuid_send"),
    ("varchar", "varcharsend"),
];

/// The types that hold values which differ and yet are equal, such as 1.0 and 1.00, 0 and -0, a day
/// and 24 hours: they are one key. Arrays and ranges of them are told apart by their text.
const SHARED_FORMS: [(&str, &str); 6] = [
    ("bpchar", "textsend({}::text)"),
    ("float4", "textsend(({} + 0)::text)"),
    ("float8", "textsend(({} + 0)::text)"),
    ("interval", "int8send(interval_hash_extended({}, 0))"),
    ("jsonb", "int8send(jsonb_hash_extended({}, 0))"),
    ("numeric", "numeric_send(trim_scale({}))"),
];

impl Digested {
    /// How a column is digested whose type becomes `mapped`.
    #[must_use]
    pub fn new(name: &str, data_type: &DataType, mapped: &Mapped) -> Self {
        let (source, destination) = written(data_type, mapped);
        let shared = SHARED_FORMS.iter().find(|(own, _)| *own == data_type.base.name);
        let key = shared.filter(|_| is_the_same(data_type, mapped) && data_type.element.is_none());
        let key = key.map(|(_, form)| Rendering::Shared(form));
        Self { name: name.to_owned(), source, destination, key }
    }

    /// How it is written on one side.
    #[must_use]
    pub fn at(&self, side: Side) -> &Rendering {
        match side {
            Side::Source => &self.source,
            Side::Destination => &self.destination,
        }
    }
}

/// Whether both sides have the same type, which PostgreSQL brings: a user's becomes another.
fn is_the_same(data_type: &DataType, mapped: &Mapped) -> bool {
    mapped.data_type == data_type.base.formatted
}

fn written(data_type: &DataType, mapped: &Mapped) -> (Rendering, Rendering) {
    use Rendering::{Number, Sent, Text, Written};
    const AS_TEXT: Rendering = Text { list_first: false };
    let both = |rendering: Rendering| (rendering.clone(), rendering);
    if data_type.element.is_some() {
        return (Text { list_first: mapped.transfer == Transfer::Cast }, AS_TEXT);
    }
    let base = &data_type.base;
    if base.kind == 'e' {
        // A user may have made a cast.
        return (Written, AS_TEXT);
    }
    if !is_the_same(data_type, mapped) {
        return (Written, AS_TEXT);
    }
    let name = base.name.as_str();
    if let Some((_, send)) = SENT_TYPES.iter().find(|(sent, _)| *sent == name) {
        let domain = data_type.declared != base.formatted;
        return (Sent(send, domain.then(|| base.formatted.clone())), Sent(send, None));
    }
    both(match name {
        "int2" | "int4" | "int8" | "oid" => Number("int8send", "bigint"),
        // What its output function prints of a byte above 127 depends on the version.
        "char" => Number("int4send", "integer"),
        "float4" | "float8" | "json" | "jsonb" => AS_TEXT,
        _ => Written,
    })
}

/// The digest of some values of a row, each in bytes, as SQL.
#[must_use]
pub fn expression(values: &[String]) -> String {
    if values.is_empty() {
        return "0::bigint".to_owned();
    }
    let sum = format!("hash_array_extended(ARRAY[{}], 0)", values.join(", "));
    format!("hash_array_extended(ARRAY[int8send({sum})], 0)")
}

/// The same digest, which the server computes itself where conditions name it: a foreign server may know the
/// columns by other types. Only what is immutable is sent there.
#[must_use]
pub fn computed_here(digest: &str) -> String {
    format!("(CASE WHEN now() IS NOT NULL THEN {digest} END)")
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

/// What a comparison has found.
#[derive(Clone, Debug)]
pub struct Compared {
    /// How many rows the source has; unknown where versions are kept.
    pub source_rows: Option<u64>,
    /// How many the destination has, without those that are marked.
    pub destination_rows: Option<u64>,
    /// How many differ.
    pub differences: Differences,
    /// How many of the destination's rows share a digest of which the source has not as many.
    pub unequal: u64,
    /// How many of the pending rows only the destination has.
    pub to_be_removed: u64,
    /// How many of the extra rows have keys of which the source has none.
    pub only_here: u64,
    /// The buckets of which the digests of single rows were compared; none where all agree.
    pub looked_into: Option<Buckets>,
}

/// What mending has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// How many rows were merged.
    pub written: u64,
    /// How many were removed or marked.
    pub deleted: u64,
}

/// The fewest rows of a table that the safety stop guards: of a few, many may well go.
pub const GUARDED_ROWS: u64 = 100;

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
        assert!(!differing.is_empty() && Buckets::differing(8, &source, &source).is_empty());
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
        let becomes = |data_type: &DataType, source: &str, destination: &str| {
            let mapped = crate::mapping::map(data_type, 17_00_00);
            let digested = Digested::new("c", data_type, &mapped);
            let found = (digested.source.of("c"), digested.destination.of("c"));
            assert_eq!(found, (source.to_owned(), destination.to_owned()));
        };
        let same = |name: &str, form: &str| becomes(&data_type(name, name, 'b', 23), form, form);
        let written = "CASE num_nulls(c) WHEN 0 THEN textsend(concat(c)) END";
        let text = "textsend(c::text)";
        same("int4", "int8send(c::bigint)");
        same("bool", "boolsend(c)");
        same("char", "int4send(c::integer)");
        same("numeric", "numeric_send(c)");
        same("varchar", "varcharsend(c)");
        same("float8", text);
        same("jsonb", text);
        same("xml", written);
        same("bpchar", written);
        let price = data_type("price", "numeric", 'b', 1700);
        becomes(&price, "numeric_send(c::numeric)", "numeric_send(c)");
        becomes(&data_type("mood", "mood", 'e', 20_000), written, text);
        becomes(&data_type("int4range", "int4range", 'r', 3904), written, written);
        becomes(&data_type("regclass", "regclass", 'b', 2205), written, text);
        becomes(&data_type("pair", "pair", 'c', 20_001), written, text);
        // A user's own type that bears the name of another.
        becomes(&data_type("date", "date", 'b', 20_001), written, text);
        let array = |delimiter| {
            let base = data_type("x", "x", 'b', 20_002).base;
            let element = ElementType { base, is_domain: false, is_array: false, delimiter };
            DataType { element: Some(element), ..data_type("x[]", "_x", 'b', 20_003) }
        };
        becomes(&array(','), text, text);
        becomes(&array(';'), "textsend(c::text[]::text)", text);
    }

    #[test]
    fn equal_values_of_a_key_have_one_form() {
        let key = |data_type: &DataType| {
            let mapped = crate::mapping::map(data_type, 17_00_00);
            Digested::new("c", data_type, &mapped).key.map(|key| key.of("c"))
        };
        let shared = |name: &str, form: &str| {
            assert_eq!(key(&data_type(name, name, 'b', 23)), Some(form.to_owned()));
        };
        shared("numeric", "numeric_send(trim_scale(c))");
        shared("float8", "textsend((c + 0)::text)");
        shared("bpchar", "textsend(c::text)");
        shared("interval", "int8send(interval_hash_extended(c, 0))");
        shared("jsonb", "int8send(jsonb_hash_extended(c, 0))");
        let price = data_type("price", "numeric", 'b', 1700);
        assert_eq!(key(&price), Some("numeric_send(trim_scale(c))".to_owned()));
        for one_form in ["int4", "text", "timestamptz", "uuid"] {
            assert_eq!(key(&data_type(one_form, one_form, 'b', 23)), None);
        }
        assert_eq!(key(&data_type("numeric", "numeric", 'b', 20_001)), None);
        let base = data_type("numeric", "numeric", 'b', 1700).base;
        let element = ElementType { base, is_domain: false, is_array: false, delimiter: ',' };
        let array = data_type("numeric[]", "numeric", 'b', 1231);
        assert_eq!(key(&DataType { element: Some(element), ..array }), None);
    }

    #[test]
    fn a_digest_is_hashed_once_more_so_that_sums_say_nothing_of_its_parts() {
        assert_eq!(
            expression(&["a".to_owned(), "b".to_owned()]),
            "hash_array_extended(ARRAY[int8send(hash_array_extended(ARRAY[a, b], 0))], 0)"
        );
        assert_eq!(expression(&[]), "0::bigint");
    }
}
