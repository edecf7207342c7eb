//! From an untouched string to a typed value. No guessing: `08013`, `+1` and ` 1` are not numbers.

use std::{
    net::IpAddr,
    num::{NonZeroU16, NonZeroU64},
    path::PathBuf,
    time::Duration,
};

use super::problem::Kind;
use crate::contract::Store;

/// Why a text is no value of the wanted type; the reader adds the variable and the hint.
#[derive(Debug)]
pub struct Refusal {
    /// What is wrong, in one word.
    pub kind: Kind,
    /// What would have been right.
    pub expected: String,
}

fn refuse<T>(kind: Kind, expected: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { kind, expected: expected.into() })
}

/// A TCP port; never zero.
pub fn port(text: &str) -> Result<NonZeroU16, Refusal> {
    const EXPECTED: &str = "a port from 1 to 65535";
    if !is_plain_number(text) {
        return refuse(Kind::InvalidInteger, EXPECTED);
    }
    match text.parse() {
        Ok(port) => Ok(port),
        Err(_) => refuse(Kind::PortOutOfRange, EXPECTED),
    }
}

/// Whole seconds, as Kubernetes writes a grace period.
pub fn seconds(text: &str) -> Result<Duration, Refusal> {
    /// A year; Kubernetes knows no limit, but a typing error should be found.
    const MAX: u64 = 31_536_000;
    Ok(Duration::from_secs(integer(text, 0, MAX, "whole seconds")?))
}

/// A count that may be zero.
pub fn count(text: &str) -> Result<u32, Refusal> {
    const MAX: u64 = 1_000;
    let count = integer(text, 0, MAX, "a whole number")?;
    // The maximum is far below what would not fit.
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// A [`count`] above zero.
pub fn positive(text: &str) -> Result<u32, Refusal> {
    match count(text)? {
        0 => refuse(Kind::OutOfRange, "a whole number above zero"),
        count => Ok(count),
    }
}

/// The refusal of a word that is none of these.
pub fn unknown(words: &[&str]) -> Refusal {
    Refusal { kind: Kind::UnknownVariant, expected: format!("one of {}", words.join(", ")) }
}

/// How many of something there may be; never zero, since then nothing would go on.
pub fn limit(text: &str) -> Result<usize, Refusal> {
    const MAX: u64 = 1_000;
    let limit = integer(text, 1, MAX, "a whole number")?;
    // The maximum is far below what would not fit.
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Bytes as the downward API writes them: a plain number, above zero.
pub fn bytes(text: &str) -> Result<NonZeroU64, Refusal> {
    let bytes = integer(text, 1, u64::MAX, "bytes as a whole number")?;
    Ok(NonZeroU64::new(bytes).unwrap_or(NonZeroU64::MIN))
}

/// The size of a message: bytes above zero, and so few that a proxy can hold several.
pub fn message_size(text: &str) -> Result<usize, Refusal> {
    const MAX: u64 = 16 * 1024 * 1024;
    let bytes = integer(text, 1, MAX, "bytes as a whole number of at most 16777216")?;
    // The maximum is far below what would not fit.
    Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// A duration with one unit, up to a day: `500ms`, `5s`, `10m`, `1h`.
pub fn duration(text: &str) -> Result<Duration, Refusal> {
    const EXPECTED: &str =
        "a whole number with one unit of ms, s, m or h, at most 24h, such as 500ms";
    const MAX: Duration = Duration::from_hours(24);
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return refuse(Kind::InvalidDuration, EXPECTED),
    };
    if !is_plain_number(digits) {
        return refuse(Kind::InvalidDuration, EXPECTED);
    }
    let ms = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
    match ms.map(Duration::from_millis) {
        Some(duration) if duration <= MAX => Ok(duration),
        _ => refuse(Kind::OutOfRange, EXPECTED),
    }
}

/// A [`duration`] above zero, since zero would spin.
pub fn pause(text: &str) -> Result<Duration, Refusal> {
    const MIN: Duration = Duration::from_millis(10);
    match duration(text)? {
        pause if pause < MIN => refuse(Kind::OutOfRange, "at least 10ms"),
        pause => Ok(pause),
    }
}

/// A number that may have a fraction, such as `1.5`; neither a sign nor an exponent.
pub fn decimal(text: &str) -> Result<f64, Refusal> {
    let is_plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    match text.parse() {
        Ok(number) if is_plain(whole) && is_plain(fraction) => Ok(number),
        _ => refuse(Kind::OutOfRange, "a plain number such as 1.5"),
    }
}

/// An IP address to listen on.
pub fn address(text: &str) -> Result<IpAddr, Refusal> {
    match text.parse() {
        Ok(address) => Ok(address),
        Err(_) => refuse(Kind::InvalidAddress, "an IP address such as 0.0.0.0 or ::"),
    }
}

/// A path from the root.
pub fn absolute_path(text: &str) -> Result<PathBuf, Refusal> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        refuse(Kind::NotAbsolute, "a path that starts with /")
    }
}

/// Any text that says something.
pub fn text(text: &str) -> Result<String, Refusal> {
    if text.trim().is_empty() {
        return refuse(Kind::EmptyValue, "a value that is more than spaces");
    }
    Ok(text.to_owned())
}

/// A kind of store that this build knows.
pub fn store(text: &str) -> Result<Store, Refusal> {
    match Store::parse(text) {
        Some(store) => Ok(store),
        None => refuse(
            Kind::UnknownVariant,
            format!("one of {}", Store::ALL.map(Store::as_str).join(", ")),
        ),
    }
}

/// How much is logged, in the words that logging libraries share.
pub fn level(text: &str) -> Result<&'static str, Refusal> {
    const LEVELS: [&str; 4] = ["error", "warn", "info", "debug"];
    match LEVELS.into_iter().find(|level| *level == text) {
        Some(level) => Ok(level),
        None => refuse(Kind::UnknownVariant, format!("one of {}", LEVELS.join(", "))),
    }
}

/// A switch.
pub fn switch(text: &str) -> Result<bool, Refusal> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => refuse(Kind::InvalidBool, "true or false"),
    }
}

fn integer(text: &str, min: u64, max: u64, what: &str) -> Result<u64, Refusal> {
    let expected = format!("{what} from {min} to {max}");
    if !is_plain_number(text) {
        return refuse(Kind::InvalidInteger, expected);
    }
    match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => refuse(Kind::OutOfRange, expected),
    }
}

fn is_plain_number(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && (text.len() == 1 || !text.starts_with('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused<T: std::fmt::Debug>(result: Result<T, Refusal>, kind: Kind) {
        assert_eq!(result.unwrap_err().kind, kind);
    }

    #[test]
    fn a_limit_is_never_zero() {
        assert_eq!(limit("32").unwrap(), 32);
        refused(limit("0"), Kind::OutOfRange);
        refused(limit("many"), Kind::InvalidInteger);
    }

    #[test]
    fn ports_are_plain_numbers_that_exist() {
        assert_eq!(port("8013").unwrap().get(), 8013);
        for text in ["abc", "8013.0", "-1", "+8013", "0x1F4D", "08013", " 80", "８０"] {
            refused(port(text), Kind::InvalidInteger);
        }
        for text in ["0", "65536", "99999999999999999999999"] {
            refused(port(text), Kind::PortOutOfRange);
        }
    }

    #[test]
    fn durations_have_exactly_one_unit() {
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("0s").unwrap(), Duration::ZERO);
        assert_eq!(duration("10m").unwrap(), Duration::from_mins(10));
        for text in ["250", "5 s", "1h30m", "s", "-5s", "1.5s", "5S", "05s"] {
            refused(duration(text), Kind::InvalidDuration);
        }
        for text in ["25h", "99999999999999999999h", "18446744073709551615m"] {
            refused(duration(text), Kind::OutOfRange);
        }
        refused(pause("0s"), Kind::OutOfRange);
    }

    #[test]
    fn the_rest_is_as_strict() {
        assert_eq!(bytes("268435456").unwrap().get(), 268_435_456);
        refused(bytes("256Mi"), Kind::InvalidInteger);
        refused(bytes("0"), Kind::OutOfRange);
        refused(count("1001"), Kind::OutOfRange);
        refused(text("  "), Kind::EmptyValue);
        refused(address("localhost"), Kind::InvalidAddress);
        refused(absolute_path("proxy"), Kind::NotAbsolute);
        refused(level("loud"), Kind::UnknownVariant);
        assert!(store("redis").unwrap_err().expected.contains("none, in-memory"));
    }
}
