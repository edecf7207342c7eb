//! An object as text, packed.
//!
//! Objects of one kind are much alike, and each says the same words many times over: packed, it takes a third.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use serde::Serialize;
use serde::de::{DeserializeOwned, Error};

thread_local! {
    /// What packs and unpacks takes a third of a mebibyte, and longer to make than to use.
    static PACKER: RefCell<(Compress, Decompress)> =
        RefCell::new((Compress::new(Compression::fast(), false), Decompress::new(false)));
}

/// An object that is read when somebody looks at it.
pub(super) struct Text {
    packed: Box<[u8]>,
    /// Unpacked, in bytes.
    length: usize,
}

impl Text {
    /// Packs an object.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub(super) fn of(object: &impl Serialize) -> serde_json::Result<Self> {
        let text = serde_json::to_vec(object)?;
        // What cannot be packed gets longer by a few bytes.
        let mut packed = Vec::with_capacity(text.len() + text.len() / 8 + 64);
        let status = PACKER.with_borrow_mut(|(packer, _)| {
            packer.reset();
            packer.compress_vec(&text, &mut packed, FlushCompress::Finish)
        });
        match status {
            Ok(Status::StreamEnd) => {
                Ok(Self { packed: packed.into_boxed_slice(), length: text.len() })
            }
            Ok(_) => Err(serde_json::Error::custom("no room for the packed text")),
            Err(error) => Err(serde_json::Error::custom(error)),
        }
    }

    /// Reads an object.
    ///
    /// # Errors
    /// When it is no such object.
    pub(super) fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        let mut text = Vec::with_capacity(self.length);
        let status = PACKER.with_borrow_mut(|(_, packer)| {
            packer.reset(false);
            packer.decompress_vec(&self.packed, &mut text, FlushDecompress::Finish)
        });
        match status {
            Ok(_) if text.len() == self.length => serde_json::from_slice(&text),
            Ok(_) => Err(Error::custom("a packed text that is not whole")),
            Err(error) => Err(Error::custom(error)),
        }
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
        assert!(text.packed.len() * 3 < object.to_string().len(), "{}", text.packed.len());
        assert_eq!(text.read::<Value>().unwrap(), object);
        assert!(text.read::<Vec<Value>>().is_err());
    }

    #[test]
    fn what_cannot_be_packed_comes_out_as_well() {
        let numbers: Vec<u64> =
            (1..300_u64).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect();
        assert_eq!(Text::of(&numbers).unwrap().read::<Vec<u64>>().unwrap(), numbers);
        assert_eq!(Text::of(&"").unwrap().read::<String>().unwrap(), "");
    }
}
