//! Sizes of memory, as `sidecarJvmMemory` gives them.
//!
//! Digits and at most one unit: `k`, `m`, `g`, `t` in either case as a JVM reads them, or `Ki`, `Mi`, `Gi`,
//! `Ti` as Kubernetes does; all are powers of 1024. Without a unit it is bytes. Nothing else: a size that
//! two programs read differently is worse than one that is refused.

use std::fmt;

use super::{problem::Kind, value::Refusal};

const KIB: u64 = 1024;
const MIB: u64 = KIB * 1024;
const GIB: u64 = MIB * 1024;
const TIB: u64 = GIB * 1024;
/// No program of ours, and no JVM, starts with less.
const MIN: u64 = 16 * MIB;

/// An amount of memory; at least 16 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// The amount in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Size {
    /// As a JVM reads it: the largest unit that divides the amount.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(GIB, "g"), (MIB, "m"), (KIB, "k"), (1, "")];
        let (unit, name) = units
            .into_iter()
            .find(|(unit, _)| self.0.is_multiple_of(*unit))
            .expect("one divides everything");
        write!(f, "{}{name}", self.0 / unit)
    }
}

/// A size of memory.
///
/// # Errors
/// [`Refusal`] says what is wrong and how the same size is written.
pub fn size(text: &str) -> Result<Size, Refusal> {
    let text = text.trim_matches(' ');
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    if text.starts_with('-') {
        return refuse(Kind::NegativeSize, "a size above zero, such as 256m");
    }
    if unit.starts_with('.') {
        return refuse(Kind::FractionalSize, "a whole number, such as 1536m for 1.5g");
    }
    let factor = match unit {
        "" => 1,
        "k" | "K" | "Ki" => KIB,
        "m" | "M" | "Mi" => MIB,
        "g" | "G" | "Gi" => GIB,
        "t" | "T" | "Ti" => TIB,
        // Letters that are meant as a unit, and everything else that is meant as who knows what.
        _ if digits.is_empty() && !unit.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            return refuse(Kind::InvalidSize, "digits and a unit, such as 256m");
        }
        _ if unit == "e"
            || !unit.chars().all(|c| c.is_ascii_alphabetic()) && !is_exponent(unit) =>
        {
            return refuse(Kind::InvalidSize, "digits and a unit, such as 256m");
        }
        _ => return refuse(Kind::UnknownUnit, "one of the units k, m, g, t, such as 256m"),
    };
    if digits.is_empty() {
        return refuse(Kind::MissingDigits, "digits before the unit, such as 256m");
    }
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    match bytes {
        None => refuse(Kind::SizeOverflow, "less than 16 million t"),
        Some(0) => refuse(Kind::ZeroSize, "a size above zero, such as 256m"),
        Some(bytes) if bytes < MIB && unit.is_empty() => refuse(
            Kind::SizeTooSmall,
            format!("at least 16m; a number without a unit is bytes: did you mean {digits}m?"),
        ),
        Some(bytes) if bytes < MIN => refuse(Kind::SizeTooSmall, "at least 16m, such as 256m"),
        Some(bytes) => Ok(Size(bytes)),
    }
}

/// `e9`: Kubernetes would take it.
fn is_exponent(unit: &str) -> bool {
    let rest = unit.strip_prefix(['e', 'E']).unwrap_or_default();
    !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit())
}

fn refuse<T>(kind: Kind, expected: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { kind, expected: expected.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_both_worlds_are_powers_of_1024() {
        for (text, bytes, shown) in [
            ("256m", 256 * MIB, "256m"),
            ("256M", 256 * MIB, "256m"),
            ("256Mi", 256 * MIB, "256m"),
            (" 1g ", GIB, "1g"),
            ("1536m", 1_536 * MIB, "1536m"),
            ("2048m", 2 * GIB, "2g"),
            ("268435456", 256 * MIB, "256m"),
            ("268435457", 256 * MIB + 1, "268435457"),
            ("20480k", 20 * MIB, "20m"),
            ("2Ti", 2 * TIB, "2048g"),
        ] {
            let size = size(text).unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, shown), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_by_kind() {
        for (kind, texts) in [
            (Kind::MissingDigits, &["m", "Mi"][..]),
            (Kind::UnknownUnit, &["256MB", "256mb", "256MiB", "1P", "1e9", "256q"]),
            (Kind::FractionalSize, &["1.5g", ".5g"]),
            (Kind::NegativeSize, &["-256m"]),
            (Kind::ZeroSize, &["0", "0m"]),
            (Kind::InvalidSize, &["256 m", "1_024m", "0x10m", "２５６m", "+1g"]),
            (Kind::SizeOverflow, &["99999999999g", "99999999999999999999999"]),
            (Kind::SizeTooSmall, &["256", "2m", "15m", "16383k"]),
        ] {
            for text in texts {
                assert_eq!(size(text).unwrap_err().kind, kind, "{text:?}");
            }
        }
        assert!(size("256").unwrap_err().expected.contains("did you mean 256m?"));
    }
}
