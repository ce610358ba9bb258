//! `SOURCE_URL` and `DEST_URL`: a connection as libpq's URLs write it, in place of the single
//! variables.

use std::collections::BTreeMap;

use super::TlsMode;
use crate::error::did_you_mean;

/// What may follow the `?`, and the variable each stands for.
const PARAMETERS: [(&str, &str); 9] = [
    ("host", "HOST"),
    ("port", "PORT"),
    ("user", "USERNAME"),
    ("password", "PASSWORD"),
    ("dbname", "DB"),
    ("sslmode", "SSLMODE"),
    ("sslrootcert", "SSLROOTCERT"),
    ("sslcert", "SSLCERT"),
    ("sslkey", "SSLKEY"),
];

/// Replaces a URL by the variables it stands for. What a single variable says beside it must be
/// the same. The URL is never repeated: it may hold a password.
///
/// `None` where it cannot be understood: what the variables lack then means nothing.
pub(super) fn expand(
    prefix: &str,
    variables: &mut BTreeMap<String, String>,
    mistakes: &mut Vec<String>,
) -> Option<()> {
    let name = format!("{prefix}_URL");
    let Some(url) = variables.remove(&name).filter(|url| !url.is_empty()) else { return Some(()) };
    let parts = match parse(url.trim()) {
        Ok(parts) => parts,
        Err(why) => {
            mistakes.push(format!(
                "`{name}` {why}: write it as postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with \
                 %-escapes for what has a meaning in URLs"
            ));
            return None;
        }
    };
    for (part, value) in parts {
        let single = format!("{prefix}_{part}");
        match variables.get(&single).filter(|there| !there.is_empty()) {
            Some(there) if *there != value => {
                mistakes.push(format!("`{name}` and `{single}` say different things: keep one"));
            }
            _ => drop(variables.insert(single, value)),
        }
    }
    Some(())
}

/// The variables of a URL, without their prefix, or what is wrong with it.
fn parse(url: &str) -> Result<BTreeMap<&'static str, String>, String> {
    let (scheme, rest) = url.split_once("://").ok_or("is not a URL")?;
    if !["postgresql", "postgres"].contains(&scheme.to_lowercase().as_str()) {
        return Err("does not begin with `postgresql://`".to_owned());
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (user_info, location) = match authority.rsplit_once('@') {
        Some((user_info, location)) => (user_info, location),
        None => ("", authority),
    };
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    if location.contains(',') {
        return Err("names several hosts, of which this tool takes one".to_owned());
    }
    let (host, port) = match location.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) =
                bracketed.split_once(']').ok_or("opens a bracket and closes none")?;
            (host, rest.strip_prefix(':').unwrap_or(rest))
        }
        None => location.split_once(':').unwrap_or((location, "")),
    };
    // What is looked at here is not repeated: it may be a piece of a password.
    if database.contains(['/', '@']) || query.contains('@') {
        return Err(
            "has a `/`, `?` or `@` in the user or the password that is not escaped".to_owned()
        );
    }
    if !port.chars().all(|digit| digit.is_ascii_digit()) {
        return Err("has a port that is not a number".to_owned());
    }
    let mut parts = BTreeMap::new();
    let written = [
        ("HOST", host),
        ("PORT", port),
        ("USERNAME", user),
        ("PASSWORD", password),
        ("DB", database),
    ];
    for (part, value) in written {
        if !value.is_empty() {
            parts.insert(part, decoded(value)?);
        }
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some((_, named)) = PARAMETERS.iter().find(|(name, _)| *name == key) else {
            let near = did_you_mean(key, PARAMETERS.map(|(name, _)| name));
            let near = near.map_or_else(
                || format!(" (it knows {})", PARAMETERS.map(|(name, _)| name).join(", ")),
                |near| format!("; did you mean `{near}`?"),
            );
            // What is no known key may be a piece of a password that was not escaped.
            let word = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let key = if word { format!(" `{key}`") } else { String::new() };
            return Err(format!("has a parameter{key} that this tool does not know{near}"));
        };
        let value = decoded(value)?;
        if *named == "SSLMODE" && TlsMode::NAMES.iter().all(|(name, _)| *name != value) {
            let modes = TlsMode::NAMES.map(|(name, _)| name).join(", ");
            return Err(format!("has an sslmode that is none of {modes}"));
        }
        parts.insert(named, value);
    }
    Ok(parts)
}

/// The text without its %-escapes.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next(), rest.next()];
        let value = digits.map(|digit| char::from(digit?).to_digit(16));
        let [Some(high), Some(low)] = value else {
            return Err("has a % that two hexadecimal digits do not follow".to_owned());
        };
        bytes.extend(u8::try_from(high * 16 + low));
    }
    String::from_utf8(bytes).map_err(|_| "has %-escapes that are not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(url: &str) -> Vec<(&'static str, String)> {
        parse(url).unwrap().into_iter().collect()
    }

    #[test]
    fn a_url_says_what_libpq_would_read_in_it() {
        let of = |pairs: &[(&'static str, &str)]| -> Vec<(&'static str, String)> {
            pairs.iter().map(|(part, value)| (*part, (*value).to_owned())).collect()
        };
        assert_eq!(
            said("postgresql://reader:p%40ss%2Fw%3Ard@db.example.com:5433/shop?sslmode=require"),
            of(&[
                ("DB", "shop"),
                ("HOST", "db.example.com"),
                ("PASSWORD", "p@ss/w:rd"),
                ("PORT", "5433"),
                ("SSLMODE", "require"),
                ("USERNAME", "reader"),
            ])
        );
        assert_eq!(said("postgres://[::1]/d"), of(&[("DB", "d"), ("HOST", "::1")]));
        assert_eq!(said("postgres://[::1]:7/"), of(&[("HOST", "::1"), ("PORT", "7")]));
        let socket = of(&[("DB", "d"), ("HOST", "/run/postgresql"), ("USERNAME", "u")]);
        assert_eq!(said("postgresql://u@%2Frun%2Fpostgresql/d"), socket);
        assert_eq!(said("postgresql:///d?host=/run/postgresql&user=u"), socket);
        assert_eq!(
            said("POSTGRES://u:a@b@h"),
            of(&[("HOST", "h"), ("PASSWORD", "a@b"), ("USERNAME", "u")])
        );
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        for (url, why) in [
            ("db.example.com", "is not a URL"),
            ("https://hunter2@h/d", "does not begin with"),
            ("postgres://u:hunter2@a,b/d", "several hosts"),
            ("postgres://u:hunter2@[::1/d", "bracket"),
            ("postgres://u:hun%ter2@h/d", "hexadecimal"),
            ("postgres://u:hun%ff2@h/d", "UTF-8"),
            ("postgres://u@h/d?sslmod=require", "did you mean `sslmode`?"),
            ("postgres://u@h/d?hunter2-x", "has a parameter that"),
            ("postgres://u@h/d?pass_word=", "has a parameter `pass_word` that"),
            ("postgres://u:hunter/2@h/d", "not escaped"),
            ("postgres://u:hunter?2=3@h/d", "not escaped"),
            ("postgres://u@h:hunter2/d", "not a number"),
            ("postgres://u@h/d?sslmode=hunter2", "sslmode that is none of disable"),
        ] {
            let said = parse(url).unwrap_err();
            assert!(said.contains(why) && !said.contains("hunter"), "{url}: {said}");
        }
    }

    #[test]
    fn a_variable_beside_a_url_fills_in_and_must_not_contradict() {
        let expanded = |more: &[(&str, &str)]| {
            let url = [("SOURCE_URL", "postgres://u@h/d")];
            let mut variables: BTreeMap<String, String> = url
                .iter()
                .chain(more)
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            let mut mistakes = Vec::new();
            expand("SOURCE", &mut variables, &mut mistakes);
            (variables, mistakes)
        };
        let (variables, mistakes) = expanded(&[("SOURCE_PASSWORD", "x"), ("SOURCE_HOST", "h")]);
        assert!(mistakes.is_empty() && !variables.contains_key("SOURCE_URL"), "{mistakes:?}");
        assert_eq!((&*variables["SOURCE_DB"], &*variables["SOURCE_PASSWORD"]), ("d", "x"));
        let (_, mistakes) = expanded(&[("SOURCE_HOST", "other")]);
        assert_eq!(mistakes, ["`SOURCE_URL` and `SOURCE_HOST` say different things: keep one"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_read_or_refused(url in "(postgres(ql)?://)?[ -~]{0,40}|\\PC{0,20}") {
            let _ = parse(&url);
        }

        #[test]
        fn any_password_survives_its_escapes(password in "\\PC{1,12}") {
            let escaped: Vec<String> = password.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let escaped = escaped.concat();
            let parts = parse(&format!("postgres://u:{escaped}@h/d")).unwrap();
            prop_assert_eq!(&parts["PASSWORD"], &password);
        }
    }
}
