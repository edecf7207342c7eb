//! Texts of others in what we log and report: as much of them as helps whoever reads it.

use std::borrow::Cow;

/// Characters of a key that are shown.
const KEY: usize = 200;
/// Characters of a whole report.
const REPORT: usize = 4_000;

/// An entity's key, which may be as long as a message.
pub(crate) fn key(key: &str) -> Cow<'_, str> {
    at_most(key, KEY)
}

/// A report, which may hold what the user function said.
pub(crate) fn report(text: String) -> String {
    let cut = match at_most(&text, REPORT) {
        Cow::Borrowed(_whole) => None,
        Cow::Owned(cut) => Some(cut),
    };
    cut.unwrap_or(text)
}

/// The text, or its beginning and how long it is.
fn at_most(text: &str, characters: usize) -> Cow<'_, str> {
    match text.char_indices().nth(characters) {
        None => text.into(),
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_is_shown_whole_and_what_is_long_by_its_beginning_and_length() {
        assert_eq!(key("cart 7"), "cart 7");
        let long = "ä".repeat(KEY);
        assert_eq!(key(&long), long);
        let longer = "ä".repeat(2 << 20);
        assert_eq!(key(&longer), format!("{long}… (4194304 bytes)"));
        assert!(report(longer).chars().count() < REPORT + 20);
        assert_eq!(report("once".to_owned()), "once");
    }
}
