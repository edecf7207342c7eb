//! Text that others wrote: cut to a bound, and free of what a terminal would obey.

/// At most `max` bytes on one line, without control characters; an ellipsis says what was cut.
pub(crate) fn tidy(text: &str, max: usize) -> String {
    let line = text
        .split(char::is_whitespace)
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
        .replace(is_unprintable, "\u{fffd}");
    cut(line, max)
}

/// At most `max` bytes.
pub(crate) fn cut(mut text: String, max: usize) -> String {
    const ELLIPSIS: &str = "...";
    if text.len() > max {
        let end = text.floor_char_boundary(max.saturating_sub(ELLIPSIS.len()));
        text.truncate(end);
        text.push_str(ELLIPSIS);
    }
    text
}

/// Control characters, and those that turn the direction of writing.
fn is_unprintable(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_and_line_breaks_do_not_come_through() {
        assert_eq!(tidy("a\n\x1b[31mred\t b\u{202e}", 100), "a \u{fffd}[31mred b\u{fffd}");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(tidy("ääääää", 8), "ää...");
        assert_eq!(tidy("short", 5), "short");
    }
}
