//! An object as text, packed.
//!
//! Objects of one kind are much alike, and each says the same words many times over: packed, it takes a third.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateDecoder, DeflateEncoder};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// An object that is read when somebody looks at it.
pub(super) struct Text(Box<[u8]>);

impl Text {
    /// Packs an object.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub(super) fn of(object: &impl Serialize) -> serde_json::Result<Self> {
        let text = serde_json::to_vec(object)?;
        let mut packed =
            DeflateEncoder::new(Vec::with_capacity(text.len() / 2), Compression::fast());
        packed.write_all(&text).map_err(serde_json::Error::io)?;
        Ok(Self(packed.finish().map_err(serde_json::Error::io)?.into_boxed_slice()))
    }

    /// Reads an object.
    ///
    /// # Errors
    /// When it is no such object.
    pub(super) fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        let mut text = DeflateDecoder::new(Vec::with_capacity(self.0.len() * 4));
        text.write_all(&self.0).map_err(serde_json::Error::io)?;
        serde_json::from_slice(&text.finish().map_err(serde_json::Error::io)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn an_object_comes_out_as_it_went_in_and_takes_less_room() {
        let variable = |number: u32| json!({ "name": format!("VARIABLE_{number}"), "value": "1" });
        let object =
            json!({ "env": (0..50).map(variable).collect::<Vec<_>>(), "text": "\u{1f600}" });
        let text = Text::of(&object).unwrap();
        assert!(text.0.len() * 3 < object.to_string().len(), "{}", text.0.len());
        assert_eq!(text.read::<Value>().unwrap(), object);
        assert!(text.read::<Vec<Value>>().is_err());
    }
}
