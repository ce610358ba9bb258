//! The reading of `tables-config.json`: every mistake is collected, each with its place.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};
use serde_json::{Map, Value};

use super::document::Document;
use super::rule::{
    ColumnChoice, DEFAULT_MAX_DELETE_PERCENT, DEFAULT_SETTLE, Deletes, InitialPath,
    LONGEST_LOOKBACK, LONGEST_SETTLE, Mode, OnSchemaChange, ReplicationKey, Rule,
};
use crate::error::did_you_mean;
use crate::watermark::key::Lookback;

/// The keys a table may have, in the order of the documentation.
const KEYS: [&str; 14] = [
    "name",
    "replication_key",
    "unique_cols",
    "mode",
    "deletes",
    "reconcile_every",
    "max_delete_percent",
    "on_schema_change",
    "columns",
    "where",
    "lookback",
    "settle",
    "initial",
    "destination_name",
];

/// Reads the rules of `tables-config.json`, collecting every mistake with its place.
pub(super) fn parse(text: &str, mistakes: &mut Vec<String>) -> Vec<Rule> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let document = match serde_json::from_str(text) {
        Ok(Document(document)) => document,
        Err(error) => {
            mistakes.push(format!("`tables-config.json` is not valid JSON: {error}"));
            return Vec::new();
        }
    };
    let (defaults, tables) = match document {
        Value::Array(tables) => (Map::new(), tables),
        Value::Object(document) => sections(document, mistakes),
        _ => {
            mistakes.push(
                "`tables-config.json` is neither an array of tables nor an object with `tables`"
                    .to_owned(),
            );
            return Vec::new();
        }
    };
    let before = mistakes.len();
    Fields { place: "defaults".to_owned(), object: &defaults, whole: false, mistakes }.rule();
    // A mistake in the defaults is said once, and not again for each table.
    let sound_defaults = (mistakes.len() == before).then_some(&defaults);
    let rules: Vec<Rule> = tables
        .iter()
        .enumerate()
        .filter_map(|(index, table)| rule(index, table, sound_defaults, mistakes))
        .collect();
    if tables.is_empty() {
        mistakes.push("`tables-config.json` names no table".to_owned());
    }
    collisions(&rules, mistakes);
    rules
}

fn sections(
    mut document: Map<String, Value>,
    mistakes: &mut Vec<String>,
) -> (Map<String, Value>, Vec<Value>) {
    let tables = match document.remove("tables") {
        Some(Value::Array(tables)) => tables,
        Some(_) => {
            mistakes.push("`tables` in `tables-config.json` is not an array".to_owned());
            Vec::new()
        }
        None => {
            mistakes.push("`tables-config.json` has no `tables`".to_owned());
            Vec::new()
        }
    };
    let defaults = match document.remove("defaults") {
        Some(Value::Object(defaults)) => defaults,
        None => Map::new(),
        Some(_) => {
            mistakes.push("`defaults` in `tables-config.json` is not an object".to_owned());
            Map::new()
        }
    };
    for name in ["name", "destination_name"] {
        if defaults.contains_key(name) {
            mistakes.push(format!("defaults: `{name}` belongs to one table"));
        }
    }
    // Editors find in it which keys there are.
    document.remove("$schema");
    for key in document.keys() {
        mistakes.push(unknown_key("tables-config.json", key, &["defaults", "tables"]));
    }
    (defaults, tables)
}

fn unknown_key(place: &str, key: &str, known: &[&str]) -> String {
    let suggestion = did_you_mean(key, known.iter().copied()).map_or_else(
        || format!("; known keys are {}", known.join(", ")),
        |name| format!("; did you mean `{name}`?"),
    );
    format!("{place}: unknown key `{key}`{suggestion}")
}

fn rule(
    index: usize,
    table: &Value,
    defaults: Option<&Map<String, Value>>,
    mistakes: &mut Vec<String>,
) -> Option<Rule> {
    let Value::Object(own) = table else {
        mistakes.push(format!("tables[{index}] is not an object"));
        return None;
    };
    let place = own
        .get("name")
        .and_then(Value::as_str)
        .map_or_else(|| format!("tables[{index}]"), |name| format!("tables[{index}] (`{name}`)"));
    let mut merged = defaults.cloned().unwrap_or_default();
    merged.extend(own.clone());
    let before = mistakes.len();
    let rule = Fields { place, object: &merged, whole: defaults.is_some(), mistakes }.rule();
    (mistakes.len() == before).then_some(rule)
}

/// The keys of one table, read one by one.
struct Fields<'a> {
    place: String,
    object: &'a Map<String, Value>,
    /// Whether something can be missing: not from the defaults, nor where they are unknown.
    whole: bool,
    mistakes: &'a mut Vec<String>,
}

impl Fields<'_> {
    fn rule(&mut self) -> Rule {
        for key in self.object.keys().filter(|key| !KEYS.contains(&key.as_str())) {
            self.mistakes.push(unknown_key(&self.place, key, &KEYS));
        }
        let name = self.name("name");
        let lacks = |key| self.object.get(key).is_none_or(Value::is_null);
        let (nameless, keyless) = (lacks("name"), lacks("replication_key"));
        if self.whole && nameless {
            self.mistake("`name` is missing");
        }
        let name = name.unwrap_or_default();
        let mode = self.choice("mode", &Mode::NAMES);
        let replication_key = self.name("replication_key").map(ReplicationKey::new);
        if self.whole && mode.has_key() && keyless {
            self.mistake(
                "`replication_key` is missing: name the column that grows when a row is written, \
                 or \"xmin\", or set \"mode\" to \"diff\" or \"full-refresh\"",
            );
        }
        Rule {
            destination_name: self.name("destination_name").unwrap_or_else(|| name.clone()),
            name,
            replication_key,
            unique_columns: self.unique_columns(),
            mode,
            deletes: self.deletes(mode),
            reconcile_every: self.duration("reconcile_every"),
            max_delete_percent: self.max_delete_percent(),
            on_schema_change: self.choice("on_schema_change", &OnSchemaChange::NAMES),
            columns: self.columns(),
            filter: self.text("where").filter(|condition| !condition.trim().is_empty()),
            initial: self.choice("initial", &InitialPath::NAMES),
            lookback: self.lookback(),
            settle: self.settle(),
        }
    }

    /// A diff removes what the source no longer has, unless it is told not to.
    fn deletes(&mut self, mode: Mode) -> Deletes {
        let unsaid = self.object.get("deletes").is_none_or(Value::is_null);
        let deletes = self.choice("deletes", &Deletes::NAMES);
        match (mode, deletes) {
            (Mode::Diff, _) if unsaid => return Deletes::Remove,
            (Mode::IncrementalAppend, Deletes::Remove | Deletes::Mark) if self.whole => {
                self.mistake("`deletes` must be `keep` where \"mode\" is \"incremental-append\", which never changes a row");
            }
            (Mode::FullRefresh, Deletes::Mark) if self.whole => {
                self.mistake("`deletes` cannot be `mark` where \"mode\" is \"full-refresh\": a new copy has no row to mark");
            }
            _ => {}
        }
        deletes
    }

    fn max_delete_percent(&mut self) -> u8 {
        let percent = match self.object.get("max_delete_percent") {
            None | Some(Value::Null) => return DEFAULT_MAX_DELETE_PERCENT,
            Some(value) => value.as_u64().and_then(|percent| u8::try_from(percent).ok()),
        };
        percent.filter(|percent| *percent <= 100).unwrap_or_else(|| {
            self.mistake("`max_delete_percent` is not a whole number from 0 to 100");
            DEFAULT_MAX_DELETE_PERCENT
        })
    }

    fn lookback(&mut self) -> Option<Lookback> {
        if let Value::Number(number) = self.object.get("lookback")? {
            let distance = number.as_u64();
            if distance.is_none() {
                self.mistake("`lookback` is neither a duration nor a whole number from 0 on");
            }
            return distance.map(Lookback::Number);
        }
        let length = self.duration("lookback")?;
        if length > LONGEST_LOOKBACK {
            self.mistake("`lookback` is longer than 100 years");
        }
        Some(Lookback::Time(length))
    }

    fn settle(&mut self) -> Duration {
        let Some(settle) = self.duration("settle") else { return DEFAULT_SETTLE };
        if settle > LONGEST_SETTLE {
            self.mistake("`settle` is longer than 10 minutes");
        }
        settle
    }

    fn duration(&mut self, key: &str) -> Option<Duration> {
        let text = self.text(key)?;
        let length = text.parse::<Span>().ok().and_then(|span| {
            span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?.try_into().ok()
        });
        if length.is_none() {
            self.mistake(&format!("`{key}` is `{text}`, not a duration such as \"90s\" or \"5m\""));
        }
        length
    }

    fn mistake(&mut self, what: &str) {
        self.mistakes.push(format!("{}: {what}", self.place));
    }

    fn text(&mut self, key: &str) -> Option<String> {
        match self.object.get(key)? {
            Value::String(text) if text.contains('\0') => {
                self.mistake(&format!("`{key}` contains a NUL character"));
                None
            }
            Value::String(text) => Some(text.clone()),
            Value::Null => None,
            other => {
                self.mistake(&format!("`{key}` is {}, not a string", kind_of(other)));
                None
            }
        }
    }

    fn name(&mut self, key: &str) -> Option<String> {
        let name = self.text(key)?;
        if name.is_empty() {
            self.mistake(&format!("`{key}` is empty"));
            return None;
        }
        if name.len() > 63 {
            self.mistake(&format!("`{key}` is longer than PostgreSQL's 63 bytes"));
            return None;
        }
        Some(name)
    }

    fn choice<T: Copy + Default>(&mut self, key: &str, names: &[(&str, T)]) -> T {
        let Some(value) = self.text(key) else { return T::default() };
        if let Some((_, choice)) = names.iter().find(|(name, _)| *name == value) {
            return *choice;
        }
        let known = names.iter().map(|(name, _)| *name);
        let suggestion = did_you_mean(&value, known.clone())
            .map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
        let known = known.collect::<Vec<_>>().join(", ");
        self.mistake(&format!("`{key}` is `{value}`, not one of {known}{suggestion}"));
        T::default()
    }

    fn unique_columns(&mut self) -> Option<Vec<String>> {
        let columns = match self.object.get("unique_cols")? {
            Value::String(column) => vec![column.clone()],
            Value::Null => return None,
            list => self.list("unique_cols", list),
        };
        // The predecessor's files have an empty list where the primary key is meant.
        if columns.is_empty() {
            return None;
        }
        for (at, column) in columns.iter().enumerate() {
            if columns[..at].contains(column) {
                self.mistake(&format!("`unique_cols` names `{column}` twice"));
            }
        }
        Some(columns)
    }

    fn columns(&mut self) -> ColumnChoice {
        let object = match self.object.get("columns") {
            None | Some(Value::Null) => return ColumnChoice::All,
            Some(Value::Object(object)) if object.len() == 1 => object,
            Some(_) => {
                self.mistake("`columns` is not {\"include\": [...]} or {\"exclude\": [...]}");
                return ColumnChoice::All;
            }
        };
        let mut choice = ColumnChoice::All;
        for (key, list) in object {
            choice = match key.as_str() {
                "include" => ColumnChoice::Include(self.list("columns.include", list)),
                "exclude" => ColumnChoice::Exclude(self.list("columns.exclude", list)),
                _ => {
                    let place = format!("{}: columns", self.place);
                    self.mistakes.push(unknown_key(&place, key, &["include", "exclude"]));
                    ColumnChoice::All
                }
            };
        }
        choice
    }

    fn list(&mut self, key: &str, value: &Value) -> Vec<String> {
        let names: Option<Vec<String>> = value
            .as_array()
            .and_then(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect());
        names.unwrap_or_else(|| {
            self.mistake(&format!("`{key}` is not an array of strings"));
            Vec::new()
        })
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn collisions(rules: &[Rule], mistakes: &mut Vec<String>) {
    for (index, rule) in rules.iter().enumerate() {
        let name = &rule.destination_name;
        let first = rules.iter().position(|other| other.destination_name == *name);
        if first != Some(index) {
            mistakes.push(format!(
                "two tables are copied to `{name}`: give one of them a \"destination_name\""
            ));
            continue;
        }
        let own = [
            ("staging table", crate::table::staging_name(name)),
            ("unique index", crate::table::own_index_name(name)),
        ];
        for (what, own) in own {
            if rules.iter().any(|other| other.destination_name == own) {
                mistakes.push(format!(
                    "table `{own}` has the name of the {what} of `{name}`: give one of them a \
                     \"destination_name\""
                ));
            }
        }
        if name == crate::table::RECEIPTS {
            mistakes.push(format!(
                "table `{name}` has the name of the table of receipts: give it a \"destination_name\""
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(document: &Value) -> Result<Vec<Rule>, Vec<String>> {
        let mut mistakes = Vec::new();
        let rules = parse(&document.to_string(), &mut mistakes);
        if mistakes.is_empty() { Ok(rules) } else { Err(mistakes) }
    }

    /// Whatever a person might put behind a key, right or wrong.
    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            prop_oneof![
                Just("t"),
                Just(""),
                Just("xmin"),
                Just("diff"),
                Just("90s"),
                Just("-1h"),
                Just("copy"),
                Just("pg_dump"),
                Just("full-refresh"),
                Just("resync"),
                Just("a\0b"),
                Just("_sync_state"),
                Just("t_stg")
            ]
            .prop_map(Value::from),
            "\\PC{0,70}".prop_map(Value::from),
            proptest::collection::vec("[a-c]{0,2}", 0..3).prop_map(Value::from),
            Just(json!({"include": ["a"]})),
            Just(json!({"include": ["a"], "exclude": ["b"]})),
            Just(json!({"exclude": [1]})),
        ]
    }

    fn table() -> impl Strategy<Value = Value> {
        let key = prop_oneof![
            20 => proptest::sample::select(&KEYS[..]).prop_map(str::to_owned),
            1 => "[a-z_]{0,8}",
        ];
        let more = proptest::collection::vec((key, value()), 0..3);
        more.prop_map(|more| {
            let mut table = json!({"name": "t", "replication_key": "at"});
            for (key, value) in more {
                table[key] = value;
            }
            table
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_file_is_accepted_whole_or_not_at_all(
            tables in proptest::collection::vec(table(), 0..4),
            defaults in table(),
            with_defaults in any::<bool>(),
        ) {
            let document = if with_defaults {
                json!({"defaults": defaults, "tables": tables})
            } else {
                json!(tables)
            };
            if let Ok(rules) = read(&document) {
                prop_assert_eq!(rules.len(), tables.len());
                for (rule, table) in rules.iter().zip(&tables) {
                    prop_assert_eq!(Some(rule.name.as_str()), table["name"].as_str());
                    let known = |key: &String| KEYS.contains(&key.as_str());
                    prop_assert!(table.as_object().unwrap().keys().all(known));
                    if let Some(filter) = table.get("where").and_then(Value::as_str) {
                        let said = rule.filter.as_deref().unwrap_or_default();
                        prop_assert_eq!(said.trim(), filter.trim());
                    }
                }
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused_and_never_panic(
            text in "(?s)[\\[\\]{}:,\"\\\\nameulk tr0-9.\u{feff}é]{0,60}",
        ) {
            let mut mistakes = Vec::new();
            let rules = parse(&text, &mut mistakes);
            prop_assert!(!rules.is_empty() || !mistakes.is_empty());
        }
    }

    #[test]
    fn null_counts_as_nothing_where_something_is_needed() {
        let name = read(&json!([{"name": null, "replication_key": "at"}])).unwrap_err();
        assert_eq!(name, ["tables[0]: `name` is missing"]);
        let key = read(&json!([{"name": "t", "replication_key": null}])).unwrap_err();
        assert!(key[0].contains("`replication_key` is missing"), "{key:?}");
    }

    /// A rule for `t` with these keys beside its replication key.
    fn with(keys: &Value) -> Result<Rule, Vec<String>> {
        let mut table = json!({"name": "t", "replication_key": "id"});
        table.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        read(&json!([table])).map(|mut rules| rules.remove(0))
    }

    #[test]
    fn what_is_left_out_has_its_default_and_what_is_said_counts() {
        let (bare, duration) = (with(&json!({})).unwrap(), Duration::from_secs);
        assert_eq!((bare.lookback, bare.settle, bare.reconcile_every), (None, duration(1), None));
        assert_eq!((bare.max_delete_percent, bare.deletes), (50, Deletes::Keep));
        assert_eq!(
            (bare.unique_columns, bare.columns, bare.filter),
            (None, ColumnChoice::All, None)
        );
        let said = with(&json!({
            "lookback": "90s", "settle": "10m", "reconcile_every": "1d", "max_delete_percent": 100,
            "deletes": "mark", "unique_cols": "a", "columns": {"exclude": ["b"]}, "where": "true",
        }));
        let said = said.unwrap();
        assert_eq!(said.lookback, Some(Lookback::Time(duration(90))));
        assert_eq!((said.settle, said.reconcile_every), (duration(600), Some(duration(86_400))));
        assert_eq!((said.max_delete_percent, said.deletes), (100, Deletes::Mark));
        assert_eq!(said.unique_columns, Some(vec!["a".to_owned()]));
        assert_eq!(said.columns, ColumnChoice::Exclude(vec!["b".to_owned()]));
        assert_eq!(said.filter.as_deref(), Some("true"));
        assert_eq!(with(&json!({"lookback": 7})).unwrap().lookback, Some(Lookback::Number(7)));
        assert_eq!(with(&json!({"max_delete_percent": 0})).unwrap().max_delete_percent, 0);
        assert_eq!(with(&json!({"mode": "diff"})).unwrap().deletes, Deletes::Remove);
        let kept = with(&json!({"mode": "diff", "deletes": "keep"})).unwrap();
        assert_eq!(kept.deletes, Deletes::Keep);
        assert_eq!(with(&json!({"name": "x".repeat(63)})).unwrap().name.len(), 63);
    }

    #[test]
    fn each_mistake_has_its_place_and_says_what_would_be_right() {
        for (keys, said) in [
            (json!({"lookbak": 1}), "unknown key `lookbak`; did you mean `lookback`?"),
            (
                json!({"lookback": -1}),
                "`lookback` is neither a duration nor a whole number from 0 on",
            ),
            (json!({"lookback": "-1s"}), "`lookback` is `-1s`, not a duration such as"),
            (json!({"settle": "601s"}), "`settle` is longer than 10 minutes"),
            (json!({"lookback": "876601h"}), "`lookback` is longer than 100 years"),
            (
                json!({"settle": "soon"}),
                "`settle` is `soon`, not a duration such as \"90s\" or \"5m\"",
            ),
            (json!({"where": "a\0b"}), "`where` contains a NUL character"),
            (json!({"where": false}), "`where` is a boolean, not a string"),
            (json!({"where": 1}), "`where` is a number, not a string"),
            (json!({"where": []}), "`where` is an array, not a string"),
            (json!({"where": {}}), "`where` is an object, not a string"),
            (json!({"destination_name": ""}), "`destination_name` is empty"),
            (json!({"destination_name": "x".repeat(64)}), "is longer than PostgreSQL's 63 bytes"),
            (json!({"mode": "dif"}), "`mode` is `dif`, not one of"),
            (json!({"max_delete_percent": 101}), "is not a whole number from 0 to 100"),
            (json!({"max_delete_percent": 256}), "is not a whole number from 0 to 100"),
            (json!({"unique_cols": ["a", "b", "a"]}), "`unique_cols` names `a` twice"),
            (json!({"unique_cols": [1]}), "`unique_cols` is not an array of strings"),
            (json!({"columns": {}}), "`columns` is not {\"include\": [...]} or"),
            (json!({"columns": {"include": [], "exclude": []}}), "`columns` is not {\"include\""),
            (json!({"columns": {"includ": []}}), "columns: unknown key `includ`; did you mean"),
            (json!({"deletes": "mark", "mode": "full-refresh"}), "a new copy has no row to mark"),
            (json!({"deletes": "mark", "mode": "incremental-append"}), "which never changes a row"),
            (
                json!({"deletes": "remove", "mode": "incremental-append"}),
                "`deletes` must be `keep`",
            ),
        ] {
            let mistakes = with(&keys).unwrap_err();
            let right = mistakes[0].starts_with("tables[0] (`t`): ") && mistakes[0].contains(said);
            assert!(right && mistakes.len() == 1, "{keys}: {mistakes:?}");
        }
        for mode in ["full-refresh", "incremental-append"] {
            let everywhere = read(&json!({
                "defaults": {"deletes": "mark", "mode": mode},
                "tables": [{"name": "t", "mode": "diff"}],
            }));
            assert!(everywhere.is_ok(), "it is right with what a table says: {everywhere:?}");
        }
    }

    #[test]
    fn a_key_that_is_there_twice_is_an_error() {
        let mut mistakes = Vec::new();
        parse(
            r#"[{"name": "t", "replication_key": "at", "where": "a", "where": "b"}]"#,
            &mut mistakes,
        );
        assert_eq!(mistakes.len(), 1);
        let said =
            "`tables-config.json` is not valid JSON: the key `where` is there twice at line 1";
        assert!(mistakes[0].starts_with(said), "{mistakes:?}");
        let all = r#"[null, true, -1, 1, 1.5, "x", {"a": {"a": 1}}]"#;
        let Document(read) = serde_json::from_str(all).unwrap();
        assert_eq!(read, serde_json::from_str::<Value>(all).unwrap());
    }

    #[test]
    fn no_two_tables_and_nothing_of_ours_share_a_name() {
        let named = |names: [&str; 2]| {
            let table = |name| json!({"name": name, "replication_key": "xmin"});
            read(&json!(names.map(table))).err().unwrap_or_default().join(" ")
        };
        assert_eq!(named(["a", "b"]), "");
        assert!(named(["a", "a"]).contains("two tables are copied to `a`: give one"));
        assert!(named(["a", "a_stg"]).contains("`a_stg` has the name of the staging table of `a`"));
        assert!(
            named(["a", &crate::table::own_index_name("a")])
                .contains("name of the unique index of `a`")
        );
        assert!(named(["a", crate::table::RECEIPTS]).contains("the table of receipts"));
    }

    #[test]
    fn deep_nesting_is_refused_and_ends_nothing() {
        let mut mistakes = Vec::new();
        parse(&"[".repeat(100_000), &mut mistakes);
        assert!(mistakes[0].contains("not valid JSON"), "{mistakes:?}");
    }

    #[test]
    fn the_schema_for_editors_knows_the_keys_and_words_that_we_know() {
        let schema: Value =
            serde_json::from_str(include_str!("../../docs/tables-config.schema.json")).unwrap();
        let properties = schema["$defs"]["rule"]["properties"].as_object().unwrap();
        let mut keys: Vec<&str> = properties.keys().map(String::as_str).collect();
        let mut known = KEYS.to_vec();
        keys.sort_unstable();
        known.sort_unstable();
        assert_eq!(keys, known);
        let words = |key: &str| -> Vec<&str> {
            properties[key]["enum"].as_array().unwrap().iter().filter_map(Value::as_str).collect()
        };
        assert_eq!(words("mode"), Mode::NAMES.map(|(name, _)| name));
        assert_eq!(words("deletes"), Deletes::NAMES.map(|(name, _)| name));
        assert_eq!(words("on_schema_change"), OnSchemaChange::NAMES.map(|(name, _)| name));
        assert_eq!(words("initial"), InitialPath::NAMES.map(|(name, _)| name));
        let text = r#"{"$schema": "x", "tables": [{"name": "t", "replication_key": "xmin"}]}"#;
        let mut mistakes = Vec::new();
        assert_eq!(parse(text, &mut mistakes).len(), 1);
        assert!(mistakes.is_empty(), "{mistakes:?}");
    }
}
