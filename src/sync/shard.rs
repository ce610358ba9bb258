//! A part of a pipeline's tables, for one of several hosts.

use std::fmt;
use std::str::FromStr;

use crate::table::digest;

/// One of so many parts, each table in exactly one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    number: u64,
    of: u64,
}

impl Shard {
    /// Whether a table belongs to this part. It goes by the table's name alone, so that adding or
    /// removing another one moves nothing.
    #[must_use]
    pub fn has(self, table: &str) -> bool {
        // The greatest of the parts' digests wins: with one part more, a table either stays where
        // it is or goes to the new one.
        let weight = |number: &u64| mixed(digest(&format!("{number}/{table}")));
        (1..=self.of).max_by_key(weight) == Some(self.number)
    }
}

/// Spreads what differs in the last bits only over all of them: the finaliser of MurmurHash3.
fn mixed(mut hash: u64) -> u64 {
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^ (hash >> 33)
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/');
        let parsed =
            numbers.and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match parsed {
            // Who counts from 0 calls the last one so.
            Some((0, of)) if (1..=MOST).contains(&of) => Ok(Self { number: of, of }),
            Some((number, of)) if (1..=of).contains(&number) && of <= MOST => {
                Ok(Self { number, of })
            }
            _ => Err(format!(
                "write it as K/N, such as 2/4, with K from 0 or 1 to N and N up to {MOST}"
            )),
        }
    }
}

/// No pipeline has more tables than that.
const MOST: u64 = 10_000;

impl fmt::Display for Shard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.number, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(of: u64, table: &str) -> u64 {
        let parts: Vec<u64> =
            (1..=of).filter(|number| Shard { number: *number, of }.has(table)).collect();
        assert_eq!(parts.len(), 1, "{table} is in {parts:?}");
        parts[0]
    }

    #[test]
    fn every_table_is_in_exactly_one_part_and_the_parts_are_alike() {
        let tables: Vec<String> = (0..400).map(|number| format!("table_{number}")).collect();
        for of in 1..=8 {
            let mut sizes = vec![0; usize::try_from(of).unwrap()];
            for table in &tables {
                sizes[usize::try_from(part(of, table) - 1).unwrap()] += 1;
            }
            let fair = 400 / usize::try_from(of).unwrap();
            assert!(sizes.iter().all(|size| (fair / 2..=fair * 2).contains(size)), "{sizes:?}");
        }
    }

    #[test]
    fn with_one_part_more_a_table_stays_or_goes_to_the_new_one() {
        for number in 0..200 {
            let table = format!("table_{number}");
            let (before, after) = (part(4, &table), part(5, &table));
            assert!(after == before || after == 5, "{table} went from {before} to {after}");
        }
        // Every host must agree, today and after an upgrade.
        assert_eq!(["orders", "customers", "Ünïcode"].map(|table| part(4, table)), [2, 2, 4]);
    }

    #[test]
    fn a_part_is_written_k_of_n() {
        let parse = str::parse::<Shard>;
        assert_eq!(parse("2/4"), Ok(Shard { number: 2, of: 4 }));
        assert_eq!(parse("2/4").unwrap().to_string(), "2/4");
        assert_eq!(parse("0/4"), parse("4/4"));
        for wrong in ["", "2", "0/0", "5/4", "1/0", "-1/4", "1/4/2", "1/20000", "a/b"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
