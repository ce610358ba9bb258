//! Conditions that people write: each is put in parentheses, and must not get out of them.

/// Says what keeps a condition from standing alone in parentheses, as the second half of a sentence.
///
/// Texts, names and comments are read as the server reads them. Anything else that is wrong with it, the
/// server says better.
#[must_use]
pub fn gets_out(condition: &str) -> Option<&'static str> {
    let mut depth = 0_usize;
    let mut rest = condition;
    // A word that ends before a quote or a dollar has to do with it.
    let mut word = "";
    // Whether the text that goes on, if one does, has escapes.
    let mut continued = None;
    while let Some(first) = rest.chars().next() {
        let length = rest.find(|c: char| !is_of_a_word(c)).unwrap_or(rest.len());
        if length > 0 && first != '$' {
            (word, rest) = rest.split_at(length);
            continue;
        }
        let before = std::mem::take(&mut word);
        let goes_on = continued.take().filter(|_| first == '\'');
        let length = match first {
            '(' => {
                depth += 1;
                Some(1)
            }
            ')' => {
                let Some(outer) = depth.checked_sub(1) else {
                    return Some("closes a parenthesis that it does not open");
                };
                depth = outer;
                Some(1)
            }
            '\'' => {
                let escapes = goes_on.unwrap_or(matches!(before, "e" | "E"));
                let length = quoted(rest, '\'', escapes);
                // Behind a line end the next one goes on with it, in the same way.
                if let Some(behind) = length.map(|length| &rest[length..]) {
                    let blanks = behind.len() - behind.trim_start().len();
                    if behind[..blanks].contains(['\n', '\r']) {
                        continued = Some(escapes);
                        rest = &behind[blanks..];
                        continue;
                    }
                }
                length
            }
            '"' => quoted(rest, '"', false),
            '$' => dollar_quoted(rest),
            '-' if rest.starts_with("--") => Some(rest.find(['\n', '\r']).unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => comment(rest),
            other => Some(other.len_utf8()),
        };
        let Some(length) = length else {
            return Some("opens a quote or a comment and does not close it");
        };
        rest = &rest[length..];
    }
    (depth > 0).then_some("opens a parenthesis that it does not close")
}

fn is_of_a_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_' || letter == '$' || !letter.is_ascii()
}

/// The length of a text or a name, quotes included; none where it does not end.
fn quoted(text: &str, quote: char, escapes: bool) -> Option<usize> {
    let mut letters = text.char_indices().skip(1).peekable();
    while let Some((at, letter)) = letters.next() {
        if letter == '\\' && escapes {
            letters.next();
        } else if letter == quote && letters.next_if(|&(_, next)| next == quote).is_none() {
            return Some(at + 1);
        }
    }
    None
}

/// The length of a text in dollar quotes, or of the dollar that begins none.
fn dollar_quoted(text: &str) -> Option<usize> {
    let tag = text[1..].find(|c: char| !is_of_a_word(c) || c == '$').map(|end| &text[..end + 2]);
    let tag =
        tag.filter(|tag| tag.ends_with('$') && !tag[1..].starts_with(|c: char| c.is_ascii_digit()));
    let Some(tag) = tag else { return Some(1) };
    text[tag.len()..].find(tag).map(|end| end + 2 * tag.len())
}

/// The length of a comment, which may hold others.
fn comment(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let step = if rest.starts_with("/*") {
            depth += 1;
            2
        } else if rest.starts_with("*/") {
            depth -= 1;
            2
        } else {
            rest.chars().next().map_or(1, char::len_utf8)
        };
        at += step;
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_condition_that_stands_alone_is_let_be() {
        for condition in [
            "id > 1",
            "(a OR b) AND (c)",
            "note = ')' OR note = ''')' OR \"odd)name\" = 1",
            r"note = E'it\'s )' AND like_e'x'",
            r"note = '\' OR note = ')'",
            "note = $$)$$ OR note = $tag$ $$ ) $other$ $tag$",
            "a$1 = 1 -- a remark )",
            "id > 1 /* one ) /* inner ) */ ) */",
            "a[1] - (-2) / (3) > 0",
            "v = E'a'\n'b\\' )'",
            "v = 'a'\n'b\\' AND w = 'x'",
            "ä)".strip_suffix(')').unwrap_or_default(),
        ] {
            assert_eq!(gets_out(condition), None, "{condition}");
        }
    }

    #[test]
    fn one_that_gets_out_of_its_parentheses_is_told() {
        for (condition, said) in [
            ("id > 1) OR (true", "closes"),
            ("id > 1 --)\n) OR (true", "closes"),
            (r"note = E'\\') OR (true", "closes"),
            ("id = 1 -- c\r) OR (true", "closes"),
            ("v <> E'x'\n'\\'' ) OR (true --'", "closes"),
            (r"note = '\') OR (true", "closes"),
            ("(id > 1", "opens a parenthesis"),
            ("note = 'x", "opens a quote"),
            ("note = \"x", "opens a quote"),
            ("note = $a$ $b$", "opens a quote"),
            ("id > 1 /* /* */", "opens a quote"),
        ] {
            let found = gets_out(condition).unwrap_or_default();
            assert!(found.starts_with(said), "{condition}: {found}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged(condition in "\\PC{0,40}") {
            let in_parentheses = gets_out(&format!("({condition}\n)")).is_none();
            if gets_out(&condition).is_none() {
                prop_assert!(in_parentheses);
            }
        }
    }
}
