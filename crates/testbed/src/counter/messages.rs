//! `proto/counter.proto` as Rust, by hand: payloads are [`Bytes`] here.

use bytes::Bytes;

/// A command for the counter, the register or the echo.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Request {
    /// Names the entity.
    #[prost(string, tag = "1")]
    pub id: String,
    /// What is added.
    #[prost(int64, tag = "2")]
    pub amount: i64,
    /// How many events say so, each with the whole amount; one when this is zero.
    #[prost(uint32, tag = "3")]
    pub events: u32,
    /// Who calls.
    #[prost(uint64, tag = "4")]
    pub caller: u64,
    /// Which of their calls this is.
    #[prost(uint64, tag = "5")]
    pub number: u64,
    /// Unless empty, the call fails with this text and without an event.
    #[prost(string, tag = "6")]
    pub failure: String,
    /// How long the answer takes.
    #[prost(uint32, tag = "7")]
    pub delay_ms: u32,
    /// Who answers in the entity's place.
    #[prost(message, optional, boxed, tag = "8")]
    pub forward: Option<Box<Call>>,
    /// What is called besides.
    #[prost(message, repeated, tag = "9")]
    pub effects: Vec<Call>,
    /// The echo sends it back, the counter keeps it in the event.
    #[prost(bytes = "bytes", tag = "10")]
    pub data: Bytes,
}

/// A call that an entity asks for.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Call {
    /// Full name.
    #[prost(string, tag = "1")]
    pub service: String,
    /// Bare name.
    #[prost(string, tag = "2")]
    pub command: String,
    /// What it is called with.
    #[prost(message, optional, tag = "3")]
    pub request: Option<Request>,
    /// Whether an effect is waited for.
    #[prost(bool, tag = "4")]
    pub synchronous: bool,
}

/// What counter and register answer.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Total {
    /// The sum.
    #[prost(int64, tag = "1")]
    pub value: i64,
    /// How many events, or changes of the value, stand behind it.
    #[prost(int64, tag = "2")]
    pub sequence: i64,
}

/// An event of the counter.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Added {
    /// What was added.
    #[prost(int64, tag = "1")]
    pub amount: i64,
    /// The total after it.
    #[prost(int64, tag = "2")]
    pub value: i64,
    /// Whose command it was.
    #[prost(uint64, tag = "3")]
    pub caller: u64,
    /// Which of their commands.
    #[prost(uint64, tag = "4")]
    pub number: u64,
    /// What came with the command.
    #[prost(bytes = "bytes", tag = "5")]
    pub data: Bytes,
}
