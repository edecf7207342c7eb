//! Headers of a call to metadata of a command, and back. What only concerns the transport stays out
//! on both ways (`docs/protocol.md`, "Metadata").

use bytes::Bytes;
use http::HeaderMap;
use protocol::cloudstate::{Metadata, MetadataEntry, metadata_entry::Value};
use tonic::metadata::{
    AsciiMetadataKey, BinaryMetadataKey, BinaryMetadataValue, KeyAndValueRef, MetadataMap,
};

const TRANSPORT: [&str; 14] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "host",
    "k-network-probe",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "date",
];
const TRANSPORT_PREFIXES: [&str; 3] = ["grpc-", "proxy-", ":"];

/// The headers that concern the user function; none when nothing is left.
pub(super) fn of(headers: &HeaderMap) -> Option<Metadata> {
    let map = MetadataMap::from_headers(headers.clone());
    let entries: Vec<_> = map
        .iter()
        .filter_map(|entry| match entry {
            KeyAndValueRef::Ascii(key, value) if passes(key.as_str()) => {
                let text = value.to_str().ok()?.to_owned();
                Some(self::entry(key.as_str(), Value::StringValue(text)))
            }
            KeyAndValueRef::Binary(key, value) if passes(key.as_str()) => {
                let bytes: Bytes = value.to_bytes().ok()?;
                Some(self::entry(key.as_str(), Value::BytesValue(bytes)))
            }
            KeyAndValueRef::Ascii(..) | KeyAndValueRef::Binary(..) => None,
        })
        .collect();
    (!entries.is_empty()).then_some(Metadata { entries })
}

fn entry(key: &str, value: Value) -> MetadataEntry {
    MetadataEntry { key: key.to_owned(), value: Some(value) }
}

/// Headers for the caller; what cannot be a header, or is not the user function's to say, is left out.
pub(super) fn into(metadata: Metadata) -> MetadataMap {
    let mut map = MetadataMap::new();
    for MetadataEntry { key, value } in metadata.entries {
        let key = key.to_ascii_lowercase();
        if !passes(&key) {
            continue;
        }
        match value {
            Some(Value::StringValue(text)) => {
                if let (Ok(key), Ok(value)) = (key.parse::<AsciiMetadataKey>(), text.parse()) {
                    map.append(key, value);
                }
            }
            Some(Value::BytesValue(bytes)) => {
                let key = if key.ends_with("-bin") { key } else { format!("{key}-bin") };
                if let Ok(key) = key.parse::<BinaryMetadataKey>() {
                    map.append_bin(key, BinaryMetadataValue::from_bytes(&bytes));
                }
            }
            None => {}
        }
    }
    map
}

fn passes(key: &str) -> bool {
    !TRANSPORT.contains(&key) && !TRANSPORT_PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap()));
        pairs.collect::<Vec<(http::HeaderName, http::HeaderValue)>>().into_iter().collect()
    }

    #[test]
    fn an_ordinary_client_brings_no_metadata() {
        let ordinary = headers(&[
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("user-agent", "grpc-go/1.70"),
            ("grpc-timeout", "1S"),
            ("grpc-accept-encoding", "gzip"),
        ]);
        assert_eq!(of(&ordinary), None);
    }

    #[test]
    fn headers_of_the_application_pass_and_binary_ones_are_decoded() {
        let custom =
            headers(&[("authorization", "Bearer x"), ("trace-bin", "AQID"), ("te", "trailers")]);
        let metadata = of(&custom).unwrap();
        assert_eq!(
            metadata.entries,
            [
                entry("authorization", Value::StringValue("Bearer x".to_owned())),
                entry("trace-bin", Value::BytesValue(Bytes::from_static(&[1, 2, 3]))),
            ]
        );
    }

    #[test]
    fn a_reply_can_set_headers_but_not_those_of_the_transport() {
        let entries = vec![
            entry("X-Cart", Value::StringValue("7".to_owned())),
            entry("raw", Value::BytesValue(Bytes::from_static(&[1, 2, 3]))),
            entry("grpc-status", Value::StringValue("0".to_owned())),
            entry("content-type", Value::StringValue("text/html".to_owned())),
            entry("bad name", Value::StringValue("x".to_owned())),
            entry("bad-value", Value::StringValue("a\nb".to_owned())),
        ];
        let map = into(Metadata { entries });
        assert_eq!(map.len(), 2);
        assert_eq!(map.get("x-cart").unwrap(), "7");
        assert_eq!(map.get_bin("raw-bin").unwrap().to_bytes().unwrap(), &[1, 2, 3][..]);
    }
}
