//! What names, labels and keys may look like in Kubernetes. Each answers with the rule that is broken.

/// What a name has to be.
type Rule = &'static str;

const LABEL: Rule =
    "at most 63 lower-case letters, digits and '-', with a letter or digit at both ends";
const SUBDOMAIN: Rule = "at most 253 lower-case letters, digits, '-' and '.', with a letter or digit at both ends and around each '.'";
const LABEL_VALUE: Rule =
    "at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends, or nothing";
const KEY: Rule = "at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends, and before it, if anything, a domain and '/'";
const PORT_NAME: Rule = "at most 15 lower-case letters, digits and '-', with a letter among them, no '-' at the ends and no two in a row";
const VARIABLE: Rule = "one or more printable ASCII characters other than '='";

/// A name such as that of a container or a volume.
pub(super) fn label(text: &str) -> Result<(), Rule> {
    rule(is_label(text), LABEL)
}

/// A name such as that of a service account, a Secret or a StatefulStore.
pub(super) fn subdomain(text: &str) -> Result<(), Rule> {
    rule(is_subdomain(text), SUBDOMAIN)
}

/// The value of a label.
pub(super) fn label_value(text: &str) -> Result<(), Rule> {
    rule(text.is_empty() || is_qualified(text), LABEL_VALUE)
}

/// The key of a label or an annotation.
pub(super) fn key(text: &str) -> Result<(), Rule> {
    let is_key = match text.split_once('/') {
        Some((domain, name)) => is_subdomain(domain) && is_qualified(name),
        None => is_qualified(text),
    };
    rule(is_key, KEY)
}

/// The name of a port.
pub(super) fn port_name(text: &str) -> Result<(), Rule> {
    let is_name = (1..=15).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--");
    rule(is_name, PORT_NAME)
}

/// The name of an environment variable.
pub(super) fn variable(text: &str) -> Result<(), Rule> {
    let is_name = !text.is_empty() && text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    rule(is_name, VARIABLE)
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_subdomain(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_part)
}

fn is_qualified(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

fn rule(holds: bool, rule: Rule) -> Result<(), Rule> {
    if holds { Ok(()) } else { Err(rule) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rule: fn(&str) -> Result<(), Rule>, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(rule(text), Ok(()), "{text:?}");
        }
        for text in bad {
            assert!(rule(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_are_as_kubernetes_has_them() {
        let long = "a".repeat(63);
        let longer = "a".repeat(64);
        check(label, &["a", "0", "a-b", &long], &["", "-a", "a-", "A", "a.b", &longer]);
        let most = ["a".repeat(125).as_str(), &"b".repeat(127)].join(".");
        check(subdomain, &["a", "a.b", &longer, &most], &["", "a..b", ".a", "a-.b", "A", "a_b"]);
        assert!(subdomain(&format!("{most}b")).is_err());
        check(label_value, &["", "A_b.c-1", &long], &["-a", "a.", "a b", "ä", &longer]);
        check(key, &["a", "A.b_c", "example.com/a"], &["", "/a", "a/", "E.com/a", "a/b/c"]);
        check(port_name, &["a", "http-2", "123a"], &["", "1", "a--b", "-a", "Http", &long]);
        check(variable, &["PORT", "a.b-c", "a b"], &["", "a=b", "ä", "a\n"]);
    }
}
