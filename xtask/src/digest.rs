//! Names by content: what has the same name has the same bytes.

use sha2::{Digest as _, Sha256};

/// A digest over named parts.
#[derive(Debug, Default)]
pub struct Digest(Sha256);

impl Digest {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part. Lengths go in as well, so that no two lists of parts look alike.
    pub fn part(&mut self, name: &str, content: &[u8]) {
        for bytes in [name.as_bytes(), content] {
            self.0.update((bytes.len() as u64).to_be_bytes());
            self.0.update(bytes);
        }
    }

    /// The first twelve hex digits: enough to tell builds apart, short enough for a tag.
    pub fn short(self) -> String {
        let bytes = self.0.finalize();
        bytes[..6].iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(parts: &[(&str, &str)]) -> String {
        let mut digest = Digest::new();
        for (name, content) in parts {
            digest.part(name, content.as_bytes());
        }
        digest.short()
    }

    #[test]
    fn moving_a_byte_between_parts_changes_the_digest() {
        assert_eq!(digest(&[("a", "bc")]), digest(&[("a", "bc")]));
        assert_ne!(digest(&[("a", "bc")]), digest(&[("ab", "c")]));
        assert_eq!(digest(&[("a", "bc")]).len(), 12);
    }
}
