//! Every type of PostgreSQL arrives as it was, by pg_dump and by COPY, at first and in a merge.

use serde_json::json;

use crate::support::case::Case;
use crate::support::snapshot;

/// A type as SQL, and values of it, nasty ones first.
const VALUES: &[(&str, &[&str])] = &[
    ("smallint", &["'-32768'", "32767"]),
    ("integer", &["'-2147483648'", "2147483647"]),
    ("bigint", &["'-9223372036854775808'", "9223372036854775807"]),
    (
        "numeric",
        &["'NaN'", "1.0", "1.00", "-0.000", "1e-40", "12345678901234567890123456789012345678.9"],
    ),
    ("numeric(12,2)", &["1.10", "-9999999999.99"]),
    ("real", &["'-0'", "'NaN'", "'-infinity'", "1.1754944e-38", "0.1"]),
    ("double precision", &["'-0'", "'NaN'", "'infinity'", "2.2250738585072014e-308", "0.1"]),
    ("money", &["'-92233720368547758.08'", "'12.34'"]),
    ("character varying(40)", &["''", "'NULL'", "E'\\\\N'", "E'a\\tb\\nc\\\\.'", "'ü€😀'"]),
    ("character(5)", &["''", "'a'", "'ü  '"]),
    ("text", &["''", "E'\\\\.'", "E'\\r\\n'", "E'\\x01\\x7f'", "' '"]),
    ("\"char\"", &["'a'", "''"]),
    ("name", &["'n'", "''"]),
    ("bytea", &["''", "'\\x00ff5c'"]),
    ("boolean", &["true", "false"]),
    ("date", &["'infinity'", "'-infinity'", "'0044-03-15 BC'", "'5874897-12-31'"]),
    ("time", &["'24:00:00'", "'00:00:00.000001'"]),
    ("time(3) with time zone", &["'24:00:00+00'", "'12:00:00.123-15:59:59'"]),
    ("timestamp", &["'infinity'", "'4714-11-24 00:00:00 BC'", "'2024-02-29 12:00:00.123456'"]),
    ("timestamp(3) with time zone", &["'-infinity'", "'1883-11-18 12:00:00.123-04:56:02'"]),
    ("interval", &["'-1 year 2 mons -3 days 04:05:06.789'", "'30 days'", "'1 mon'", "'0'"]),
    ("interval day to second(3)", &["'3 days 04:05:06.789'"]),
    ("uuid", &["'00000000-0000-0000-0000-000000000000'"]),
    ("json", &["'{ \"a\" :  1, \"a\":2 }'", "'null'"]),
    ("jsonb", &["'{\"b\": 1.00, \"a\": null}'", "'\"\\u00fc\"'"]),
    ("jsonpath", &["'$.a[*] ? (@ > 1)'"]),
    ("xml", &["'<a>b</a>'", "'text only'"]),
    ("inet", &["'::1/64'", "'10.0.0.1'"]),
    ("cidr", &["'10.0.0.0/8'"]),
    ("macaddr", &["'08:00:2b:01:02:03'"]),
    ("macaddr8", &["'08:00:2b:01:02:03:04:05'"]),
    ("bit(3)", &["B'101'"]),
    ("bit varying", &["B''", "B'1010'"]),
    ("tsvector", &["'''a b'':1A c'", "''"]),
    ("tsquery", &["'a & !b'", "''"]),
    ("point", &["'(0.1,-0)'"]),
    ("line", &["'{1,2,3}'"]),
    ("lseg", &["'((0,0),(1,1))'"]),
    ("box", &["'((0,0),(1,1))'"]),
    ("path", &["'[(0,0),(1,1)]'", "'((0,0),(1,1))'"]),
    ("polygon", &["'((0,0),(1,1),(1,0))'"]),
    ("circle", &["'<(0,0),1>'"]),
    ("int4range", &["'empty'", "'[1,)'"]),
    ("tstzrange", &["'[2024-01-01,infinity)'"]),
    ("int4multirange", &["'{}'", "'{[1,2),[5,)}'"]),
    ("oid", &["4294967295"]),
    ("xid", &["'7'"]),
    ("tid", &["'(1,2)'"]),
    ("pg_lsn", &["'16/B374D848'"]),
    ("pg_snapshot", &["'10:20:10,14'"]),
    ("regclass", &["'pg_class'", "'public.referred'"]),
    ("regtype", &["'integer'", "'public.mood'"]),
    ("regproc", &["'now'"]),
    ("regconfig", &["'simple'"]),
    ("aclitem", &["'reader=r/postgres'"]),
    ("int2vector", &["'1 2 3'", "''"]),
    ("oidvector", &["'1 2 3'", "''"]),
    ("integer[]", &["'{}'", "'[0:1]={1,NULL}'", "'{{1,2},{3,4}}'"]),
    ("text[]", &["'{NULL,\"NULL\",\"\",\"a,b\",\"\\\"\"}'"]),
    ("numeric(6,3)[]", &["'{1.5,NaN}'"]),
    ("box[]", &["'{(1,1),(0,0);(2,2),(1,1)}'"]),
    ("jsonb[]", &["ARRAY['{\"a\": 1}'::jsonb]"]),
    ("regclass[]", &["'{pg_class,public.referred}'"]),
    ("mood", &["'sad'", "'very ''happy'''"]),
    ("mood[]", &["'{sad,NULL}'"]),
    ("pair", &["'(1,\"a b\")'", "'(,)'"]),
    ("pair[]", &["ARRAY['(1,\"a,b\")'::pair, NULL]"]),
    ("small", &["'[1,2)'"]),
    ("percent", &["12.5"]),
    ("percent[]", &["'{1,2.5}'"]),
    ("\"naïve domain\"", &["'short'"]),
    ("pairs", &["'(1,a)'"]),
    ("numbers", &["'{1,2}'"]),
    ("numbers[]", &["ARRAY['{1,2}'::numbers, '{3}']"]),
    ("referred", &["'(1)'"]),
    ("information_schema.sql_identifier", &["'x'"]),
];

const TYPES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'very ''happy''');
    CREATE TYPE pair AS (number int, word text);
    CREATE TYPE small AS RANGE (subtype = smallint);
    CREATE DOMAIN percent AS numeric(5,2) CHECK (VALUE <= 100);
    CREATE DOMAIN narrower AS character varying(10);
    CREATE DOMAIN \"naïve domain\" AS narrower NOT NULL;
    CREATE DOMAIN pairs AS pair;
    CREATE DOMAIN numbers AS int[];
    CREATE TABLE referred (a int);";

/// One table a type: an error then names the type.
fn setup() -> String {
    let tables = VALUES.iter().enumerate().map(|(number, (data_type, values))| {
        let rows: Vec<String> = values
            .iter()
            .enumerate()
            .map(|(id, value)| format!("({id}, {id}, {value}::{data_type})"))
            .collect();
        format!(
            "CREATE TABLE type_{number} (id int PRIMARY KEY, at int, value {data_type});
             INSERT INTO type_{number} VALUES {};",
            rows.join(", ")
        )
    });
    format!("{TYPES} {}", tables.collect::<String>())
}

fn check(initial: &str) {
    let tables: Vec<_> = (0..VALUES.len()).map(|number| format!("type_{number}")).collect();
    let rules: Vec<_> = tables.iter().map(|name| json!({"name": name})).collect();
    let mut case = Case::new(
        &setup(),
        &json!({"defaults": {"replication_key": "at", "initial": initial}, "tables": rules}),
    );
    case.sync();
    for table in &tables {
        case.assert_equal(&format!("public.{table}"));
    }
    // Every row is written again, so that all of it goes through the staging table.
    for table in &tables {
        case.at_source(&format!("UPDATE {table} SET at = at + 100"));
    }
    case.at_destination("UPDATE type_0 SET value = 0");
    let run = case.sync();
    assert!(!run.stdout.contains("initial sync"), "{}", run.stdout);
    for table in &tables {
        case.assert_equal(&format!("public.{table}"));
    }
    let run = case.sync();
    assert_eq!(run.stdout.matches("sync done: 0 rows").count(), tables.len(), "{}", run.stdout);
    case.assert_nothing_left();
}

#[test]
fn every_value_arrives_as_it_was_by_pg_dump() {
    check("pg_dump");
}

#[test]
fn every_value_arrives_as_it_was_by_copy() {
    check("copy");
}

#[test]
fn a_destination_column_has_the_sources_type_or_the_one_that_stands_for_it() {
    let mut case = Case::new(
        &setup(),
        &json!(
            (0..VALUES.len())
                .map(|number| json!({"name": format!("type_{number}"), "mode": "full-refresh"}))
                .collect::<Vec<_>>()
        ),
    );
    case.sync();
    let mapped: String = VALUES
        .iter()
        .enumerate()
        .map(|(number, (data_type, _))| {
            let there = case.ask(&format!(
                "SELECT format_type(atttypid, atttypmod) FROM pg_attribute \
                 WHERE attrelid = 'type_{number}'::regclass AND attname = 'value'"
            ));
            format!("{data_type} -> {}\n", there[0])
        })
        .collect();
    snapshot("mapping__types", &mapped);
}
