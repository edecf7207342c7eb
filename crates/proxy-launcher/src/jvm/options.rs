//! Options for a JVM as people write them: one string, or several variables, with flags that contradict
//! each other. Says what the JVM will make of them, before it does.

use api::environment::{Kind, Problem};

/// One flag that sets a size of the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeapFlag {
    /// Whether it sets the largest heap; else the one that the JVM begins with.
    pub is_max: bool,
    /// In bytes.
    pub bytes: u64,
}

/// Cuts `variable`'s value into arguments: spaces part them, quotes and backslashes keep them together.
/// Nothing is expanded: a `*` stays one.
///
/// # Errors
/// [`Kind::UnbalancedQuote`] tells at which byte the quote was opened.
pub(super) fn tokens(variable: &str, text: &str) -> Result<Vec<String>, Problem> {
    let mut tokens = Vec::new();
    let mut token: Option<String> = None;
    let mut quote: Option<(char, usize)> = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (c, quote) {
            (c, Some((open, _))) if c == open => quote = None,
            ('\\', None | Some(('"', _))) => {
                token.get_or_insert_default().extend(chars.next().map(|(_, escaped)| escaped));
            }
            ('"' | '\'', None) => {
                quote = Some((c, at));
                token.get_or_insert_default();
            }
            (c, None) if c.is_ascii_whitespace() => tokens.extend(token.take()),
            (c, _) => token.get_or_insert_default().push(c),
        }
    }
    if let Some((open, at)) = quote {
        return Err(Problem {
            kind: Kind::UnbalancedQuote,
            variable: variable.to_owned(),
            value: format!("… {open} at byte {at}"),
            expected: "every quote to be closed".to_owned(),
            hint: "close it, or put a backslash before it".to_owned(),
        });
    }
    tokens.extend(token);
    Ok(tokens)
}

/// What a token does to the heap; nothing when it is about something else.
///
/// # Errors
/// [`Kind::InvalidJvmSize`] when the JVM would refuse to start with it.
pub(super) fn heap_flag(
    variable: &str,
    nth: usize,
    token: &str,
) -> Result<Option<HeapFlag>, Problem> {
    const FLAGS: [(&str, bool); 5] = [
        ("-Xmx", true),
        ("-XX:MaxHeapSize=", true),
        ("-Xms", false),
        ("-XX:InitialHeapSize=", false),
        ("-XX:MinHeapSize=", false),
    ];
    let found = FLAGS.iter().find_map(|(flag, max)| Some((token.strip_prefix(flag)?, *max)));
    let Some((size, is_max)) = found else { return Ok(None) };
    match jvm_size(size) {
        Some(bytes) => Ok(Some(HeapFlag { is_max, bytes })),
        None => Err(Problem {
            kind: Kind::InvalidJvmSize,
            variable: variable.to_owned(),
            value: format!("{token} (argument {nth})"),
            expected: "a size as a JVM reads it: a whole number with k, m, g or t".to_owned(),
            hint: "write 256m for 256Mi; the JVM would refuse to start".to_owned(),
        }),
    }
}

/// HotSpot's own grammar: decimal or `0x`, one letter of a unit, nothing more.
fn jvm_size(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    let (digits, unit) = digits.split_at(end);
    let shift = match unit {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        _ => return None,
    };
    u64::from_str_radix(digits, radix).ok()?.checked_mul(1 << shift).filter(|bytes| *bytes > 0)
}

/// The name in front of a token's value, when it tells that the value is a secret. Every process of the pod
/// may read the arguments of the others.
pub(crate) fn secret_name(token: &str) -> Option<&str> {
    const WORDS: [&str; 8] = [
        "password",
        "passwd",
        "secret",
        "token",
        "credential",
        "privatekey",
        "private-key",
        "private_key",
    ];
    let (name, _) = token.split_once('=').filter(|_| token.starts_with('-'))?;
    let lower = name.to_ascii_lowercase();
    let shows = WORDS.iter().any(|word| lower.contains(word)) || lower.ends_with("key");
    shows.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        assert_eq!(tokens("JAVA_OPTS", text).unwrap(), expected, "{text}");
    }

    #[test]
    fn quotes_and_backslashes_keep_an_argument_together() {
        check("-Xms256m  -Xmx256m\t", &["-Xms256m", "-Xmx256m"]);
        check(r#"-Da="x y" '-Db=it''s' c\ d ''"#, &["-Da=x y", "-Db=its", "c d", ""]);
        check(r#"-Dq="a\"b" -Dg=*"#, &["-Dq=a\"b", "-Dg=*"]);
        check("", &[]);
    }

    #[test]
    fn a_quote_that_stays_open_is_named_with_its_place() {
        let problem = tokens("JAVA_OPTS", "-Dx=\"a").unwrap_err();
        assert_eq!(problem.kind, Kind::UnbalancedQuote);
        assert!(problem.value.contains("at byte 4"), "{problem}");
    }

    #[test]
    fn heap_flags_follow_the_jvms_grammar_and_not_ours() {
        let flag = |token| heap_flag("JAVA_OPTS", 1, token);
        let max = |bytes| Some(HeapFlag { is_max: true, bytes });
        for (token, expected) in [
            ("-Xmx256m", max(256 << 20)),
            ("-Xmx256M", max(256 << 20)),
            ("-Xmx0x10000000", max(256 << 20)),
            ("-XX:MaxHeapSize=1g", max(1 << 30)),
            ("-Xms64m", Some(HeapFlag { is_max: false, bytes: 64 << 20 })),
            ("-Dx=-Xmx1g", None),
            ("-verbose", None),
        ] {
            assert_eq!(flag(token).unwrap(), expected, "{token}");
        }
        for token in ["-Xmx256Mi", "-Xmx256MB", "-Xmx1.5g", "-Xmx-1", "-Xmx0", "-Xmx", "-Xmx256 m"]
        {
            assert_eq!(flag(token).unwrap_err().kind, Kind::InvalidJvmSize, "{token}");
        }
    }

    #[test]
    fn a_property_with_the_name_of_a_secret_is_noticed() {
        for (token, name) in [
            ("-Djavax.net.ssl.keyStorePassword=x", Some("-Djavax.net.ssl.keyStorePassword")),
            ("--api-token=x=y", Some("--api-token")),
            ("-Dssh.private.key=x", Some("-Dssh.private.key")),
            ("-DapiKey=x", Some("-DapiKey")),
            ("-Djavax.net.ssl.keyStore=/x", None),
            ("password=x", None),
            ("-Xmx256m", None),
        ] {
            assert_eq!(secret_name(token), name, "{token}");
        }
    }
}
