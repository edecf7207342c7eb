//! Headers of a call to metadata of a command, and back. What only concerns the transport stays out
//! on both ways (`docs/protocol.md`, "Metadata").

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use protocol::cloudstate::{Metadata, MetadataEntry, metadata_entry::Value};
use tracing::debug;

use crate::shown;

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
const TRANSPORT_PREFIXES: [&str; 2] = ["grpc-", "proxy-"];
/// What a user function must not say on top of that: it would change how its bytes are read.
const CONTENT_PREFIX: &str = "content-";
/// What all of a reply's metadata may take, counted as HTTP/2 counts headers. Callers of many languages take 8 KiB of
/// headers, and lose the whole reply to more.
const REPLY_MAX: usize = 8 * 1024 - 512;
/// What HTTP/2 counts for a header beside its name and value.
const HEADER: usize = 32;
/// Reasons that are given one by one.
const REASONS_MAX: usize = 16;
const BINARY_SUFFIX: &str = "-bin";
/// Peers may pad or not; we do not, as the protocol recommends.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The headers that concern the user function; none when nothing is left.
pub(super) fn of(headers: &HeaderMap) -> Option<Metadata> {
    let mut entries = Vec::new();
    for (name, value) in headers {
        let key = name.as_str();
        if !passes(key) {
            continue;
        }
        if !key.ends_with(BINARY_SUFFIX) {
            match value.to_str() {
                Ok(text) => entries.push(entry(key, Value::StringValue(text.to_owned()))),
                Err(_odd) => debug!(key, "a header that is no text was dropped"),
            }
            continue;
        }
        // One header may hold several values.
        for part in value.as_bytes().split(|byte| *byte == b',') {
            match BASE64.decode(part.trim_ascii()) {
                Ok(bytes) => entries.push(entry(key, Value::BytesValue(bytes.into()))),
                Err(_odd) => debug!(key, "a header that is not base64 was dropped"),
            }
        }
    }
    (!entries.is_empty()).then_some(Metadata { entries })
}

fn entry(key: &str, value: Value) -> MetadataEntry {
    MetadataEntry { key: key.to_owned(), value: Some(value) }
}

/// Puts what a reply says behind `headers`. What cannot be a header, or is not the user function's to
/// say, is left out, and what is more than callers take; each gives a reason for a developer.
pub(super) fn put(metadata: Metadata, headers: &mut HeaderMap) -> Vec<String> {
    let (mut refused, mut further, mut size) = (Vec::new(), 0_usize, 0);
    for MetadataEntry { key, value } in metadata.entries {
        let added = header(&key, value).and_then(|(name, value)| {
            let more = size + name.as_str().len() + value.len() + HEADER;
            if more > REPLY_MAX {
                return Err("the metadata of a reply has more than 7680 bytes, which is the limit");
            }
            size = more;
            headers.try_append(name, value).map_err(|_full| "there are too many headers")
        });
        match added {
            Ok(_) => {}
            Err(why) if refused.len() < REASONS_MAX => {
                refused.push(format!("metadata entry {:?} was dropped: {why}", shown::key(&key)));
            }
            Err(_) => further += 1,
        }
    }
    if further > 0 {
        refused.push(format!("{further} further metadata entries were dropped"));
    }
    refused
}

fn header(key: &str, value: Option<Value>) -> Result<(HeaderName, HeaderValue), &'static str> {
    const NO_HEADER: &str = "its key cannot be the name of a header";
    let mut key = key.to_ascii_lowercase();
    let value = match value.ok_or("it has no value")? {
        Value::StringValue(_) if key.ends_with(BINARY_SUFFIX) => {
            return Err("a key that ends with -bin must have a bytes_value");
        }
        Value::StringValue(text) => HeaderValue::try_from(text)
            .map_err(|_odd| "its value has characters that a header cannot have")?,
        Value::BytesValue(bytes) => {
            if !key.ends_with(BINARY_SUFFIX) {
                key.push_str(BINARY_SUFFIX);
            }
            HeaderValue::try_from(BASE64.encode(bytes)).expect("base64 is text")
        }
    };
    if !passes(&key) || key.starts_with(CONTENT_PREFIX) {
        return Err("its key is reserved for the transport");
    }
    Ok((HeaderName::try_from(key).map_err(|_odd| NO_HEADER)?, value))
}

fn passes(key: &str) -> bool {
    !TRANSPORT.contains(&key) && !TRANSPORT_PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap()));
        pairs.collect::<Vec<(HeaderName, HeaderValue)>>().into_iter().collect()
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
    fn several_binary_values_may_share_a_header() {
        let metadata = of(&headers(&[("trace-bin", "AQ==, Ag,AwQ"), ("x-bin", "%%%")])).unwrap();
        let bytes = |bytes| entry("trace-bin", Value::BytesValue(Bytes::from_static(bytes)));
        assert_eq!(metadata.entries, [bytes(&[1]), bytes(&[2]), bytes(&[3, 4])]);
    }

    #[test]
    fn a_reply_can_set_headers() {
        let entries = vec![
            entry("X-Cart", Value::StringValue("7".to_owned())),
            entry("x-cart", Value::StringValue("8".to_owned())),
            entry("raw", Value::BytesValue(Bytes::from_static(&[1, 2, 3]))),
            entry("more-bin", Value::BytesValue(Bytes::from_static(&[1]))),
        ];
        let mut map = HeaderMap::new();
        assert_eq!(put(Metadata { entries }, &mut map), Vec::<String>::new());
        assert_eq!(map.get_all("x-cart").iter().collect::<Vec<_>>(), ["7", "8"]);
        assert_eq!(map.get("raw-bin").unwrap(), "AQID");
        assert_eq!(map.get("more-bin").unwrap(), "AQ");
    }

    #[test]
    fn more_metadata_than_callers_take_is_dropped_and_told_in_a_few_words() {
        let one = |key: String, length| {
            let value = Some(Value::StringValue("v".repeat(length)));
            MetadataEntry { key, value }
        };
        let mut entries = vec![one("first".to_owned(), 10), one("k".repeat(1 << 20), 1)];
        entries.push(one("large".to_owned(), 1 << 20));
        // More than a map of headers can hold at all.
        entries.extend((0..40_000).map(|n| one(format!("key-{n}"), 10)));
        let mut map = HeaderMap::new();
        let refused = put(Metadata { entries }, &mut map);
        assert!(map.contains_key("first") && map.contains_key("key-0"));
        let bytes: usize = map.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        assert!(bytes < 8 * 1024 && map.len() > 100, "{bytes} bytes in {}", map.len());
        assert_eq!(refused.len(), REASONS_MAX + 1);
        assert!(refused.iter().all(|why| why.len() < 500), "{refused:?}");
        assert!(refused[1].contains("\"large\"") && refused[1].contains("limit"), "{refused:?}");
        assert!(refused[REASONS_MAX].ends_with("further metadata entries were dropped"));
    }

    #[test]
    fn what_a_reply_may_not_set_is_named() {
        let text = |text: &str| Some(Value::StringValue(text.to_owned()));
        for (key, value, why) in [
            ("grpc-status", text("0"), "reserved"),
            ("Content-Type", text("text/html"), "reserved"),
            ("content-encoding", text("br"), "reserved"),
            (":status", text("200"), "cannot be the name"),
            ("bad name", text("x"), "cannot be the name"),
            ("bad-value", text("a\nb"), "characters"),
            ("text-bin", text("AQ=="), "bytes_value"),
            ("empty", None, "no value"),
        ] {
            let metadata = Metadata { entries: vec![MetadataEntry { key: key.to_owned(), value }] };
            let mut map = HeaderMap::new();
            let refused = put(metadata, &mut map);
            assert!(map.is_empty(), "{key}");
            assert!(refused[0].contains(why) && refused[0].contains(key), "{refused:?}");
        }
    }
}
