//! `google.protobuf.Any` whose value is shared rather than copied.
//!
//! The type of the same name in `prost-types` owns a `Vec<u8>`, which costs a copy of every payload
//! on its way through a proxy.

use bytes::Bytes;

/// A message of any type: where its type is described, and its bytes as they came.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Any {
    /// Names the type; opaque to the proxy.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The message, encoded.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}
