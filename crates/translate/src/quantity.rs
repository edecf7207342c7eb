//! Quantities as Kubernetes writes them, as far as two of them have to be compared.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A billionth, the smallest that Kubernetes knows.
const NANO: u128 = 1;
const UNIT: u128 = 1_000_000_000;

/// How many billionths the text means, if it is a quantity that is not below zero.
pub(crate) fn parse(quantity: &Quantity) -> Option<u128> {
    let text = quantity.0.as_str();
    let suffix_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(suffix_at);
    let factor = factor(suffix)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
    let whole = digits(whole)?.checked_mul(factor)?;
    let mut part = 0;
    let mut place = factor;
    for digit in fraction.chars() {
        place /= 10;
        part += u128::from(digit.to_digit(10)?) * place;
    }
    whole.checked_add(part)
}

fn factor(suffix: &str) -> Option<u128> {
    const KI: u128 = 1024;
    Some(match suffix {
        "n" => NANO,
        "u" => 1_000,
        "m" => 1_000_000,
        "" => UNIT,
        "k" => UNIT * 1_000,
        "M" => UNIT * 1_000_000,
        "G" => UNIT * 1_000_000_000,
        "T" => UNIT * 1_000_000_000_000,
        "P" => UNIT * 1_000_000_000_000_000,
        "E" => UNIT * 1_000_000_000_000_000_000,
        "Ki" => UNIT * KI,
        "Mi" => UNIT * KI.pow(2),
        "Gi" => UNIT * KI.pow(3),
        "Ti" => UNIT * KI.pow(4),
        "Pi" => UNIT * KI.pow(5),
        "Ei" => UNIT * KI.pow(6),
        exponent => {
            let exponent = exponent.strip_prefix(['e', 'E'])?;
            let exponent: i32 = exponent.strip_prefix('+').unwrap_or(exponent).parse().ok()?;
            match exponent {
                0..=18 => UNIT * 10_u128.pow(exponent.unsigned_abs()),
                -9..0 => UNIT / 10_u128.pow(exponent.unsigned_abs()),
                _ => return None,
            }
        }
    })
}

/// So many bytes as a quantity, in the largest unit that divides them.
pub(crate) fn bytes(bytes: u64) -> Quantity {
    let units = [(1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki"), (1, "")];
    let (unit, name) =
        units.into_iter().find(|(unit, _)| bytes.is_multiple_of(*unit)).unwrap_or((1, ""));
    Quantity(format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_amount_is_the_same_number() {
        let amount = |text: &str| parse(&Quantity(text.to_owned()));
        for (one, other) in [
            ("1", "1000m"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1"),
            ("1Gi", "1024Mi"),
            ("1.5Gi", "1536Mi"),
            ("128Mi", "134217728"),
            ("1e3", "1k"),
            ("5E-1", "500m"),
            ("2E", "2000P"),
        ] {
            assert!(amount(one).is_some(), "{one}");
            assert_eq!(amount(one), amount(other), "{one} and {other}");
        }
        for text in ["", ".", "1.2.3", "Mi", "1 Gi", "1gi", "-1", "many", "1e99", "0x10"] {
            assert_eq!(amount(text), None, "{text:?}");
        }
    }

    #[test]
    fn bytes_are_written_in_the_largest_unit() {
        for (amount, text) in
            [(512 << 20, "512Mi"), (1 << 30, "1Gi"), (1536, "1536"), (2048, "2Ki")]
        {
            assert_eq!(bytes(amount), Quantity(text.to_owned()));
        }
    }
}
