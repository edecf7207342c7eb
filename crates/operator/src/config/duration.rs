//! Durations as people write them: `500ms`, `2s`, `10m`.

use std::time::Duration;

use api::environment::value;
use serde::{Deserialize, Deserializer, Serializer, de::Error};

pub(super) fn serialize<S: Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{}ms", duration.as_millis()))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    value::duration(&text)
        .map_err(|refusal| D::Error::custom(format!("{text:?} is not {}", refusal.expected)))
}
