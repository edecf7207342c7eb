//! Ids of any length and any character as text columns that are part of a key.
//!
//! Postgres keeps no NUL in text, and an index entry ends at a third of a page. So a backslash and a NUL
//! are written as `\\` and `\0`, and what is too long is replaced by `\#` and its digest; its full text
//! stands in the table of names. No other text can begin like that, so no two ids become one.

use std::{borrow::Cow, fmt::Write as _};

use sha2::{Digest as _, Sha256};

/// Longest text that stands for itself, in bytes: two of them and a number fit into an index entry.
const LENGTH_MAX: usize = 1_000;

/// An id as the key columns hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name<'a> {
    /// In the key columns.
    pub(super) short: Cow<'a, str>,
    /// What the short text stands for, when it is a digest.
    pub(super) long: Option<Cow<'a, str>>,
}

/// The id as the key columns hold it.
pub(super) fn name(id: &str) -> Name<'_> {
    let escaped = escape(id);
    if escaped.len() <= LENGTH_MAX {
        return Name { short: escaped, long: None };
    }
    let mut short = "\\#".to_owned();
    for byte in Sha256::digest(id.as_bytes()) {
        let _ = write!(short, "{byte:02x}");
    }
    Name { short: Cow::Owned(short), long: Some(escaped) }
}

/// The id without characters that Postgres refuses.
pub(super) fn escape(id: &str) -> Cow<'_, str> {
    if id.contains(['\\', '\0']) {
        Cow::Owned(id.replace('\\', "\\\\").replace('\0', "\\0"))
    } else {
        Cow::Borrowed(id)
    }
}

/// Takes [`escape`] back.
pub(super) fn unescape(text: String) -> String {
    if !text.contains('\\') {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' if rest.next() == Some('0') => out.push('\0'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_comes_back_and_no_two_become_one() {
        let ids = ["", "7", "a\0b", "a\\0b", "a\\b", "\\", "\0", "\\#", "ключ", "\\\\0"];
        let mut seen = std::collections::HashSet::new();
        for id in ids {
            let name = name(id);
            assert_eq!(name.long, None);
            assert!(!name.short.contains('\0'));
            assert_eq!(unescape(name.short.to_string()), id);
            assert!(seen.insert(name.short.into_owned()), "{id:?} is another's name");
        }
    }

    #[test]
    fn a_long_id_has_a_short_name_that_no_other_id_has() {
        let (one, other) = ("k".repeat(65_536), "k".repeat(65_535));
        let short = name(&one).short.into_owned();
        assert!(short.len() < 100);
        assert_ne!(short, name(&other).short);
        assert_ne!(short, name(&short).short);
        assert_eq!(name(&one).long.as_deref(), Some(one.as_str()));
    }
}
