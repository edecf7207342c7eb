//! Tells a registry that does not answer from everything else that can go wrong.

use anyhow::Error;

/// Words by which Go, cargo and apt speak of a network that does not work.
const SIGNS: [&str; 16] = [
    "Timeout was reached",
    "failed to download from",
    "dial tcp",
    "i/o timeout",
    "no such host",
    "connection refused",
    "Connection refused",
    "connection reset",
    "TLS handshake",
    "Could not resolve",
    "Couldn't connect",
    "Temporary failure resolving",
    "Could not connect",
    "Failed to fetch",
    "spurious network error",
    "was not done after",
];

/// Adds what to look at when the text of the error speaks of the network.
pub fn explain(error: Error, registry: &str, setting: &str) -> Error {
    if SIGNS.iter().any(|sign| format!("{error:#}").contains(sign)) {
        return silent(error, registry, setting);
    }
    error
}

/// Says that the registry does not answer, and what to look at.
pub fn silent(error: Error, registry: &str, setting: &str) -> Error {
    error.context(format!(
        "{registry} does not answer: check the network, and that {setting} names one that can be reached"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_network_is_blamed_on_the_network() {
        let silent = anyhow::anyhow!("go: dial tcp 192.0.2.1:443: i/o timeout");
        assert!(explain(silent, "the Go module proxy", "GOPROXY").to_string().contains("GOPROXY"));
        let wrong = anyhow::anyhow!("go: undefined: main");
        assert_eq!(
            explain(wrong, "the Go module proxy", "GOPROXY").to_string(),
            "go: undefined: main"
        );
    }
}
