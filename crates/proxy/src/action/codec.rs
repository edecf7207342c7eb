//! What goes over the wire to an action, with a way to cancel from our side of the stream: the
//! generated client knows only its end.

use prost::Message as _;
use protocol::cloudstate::action::{ActionCommand, ActionResponse};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// What we say on a stream.
#[derive(Debug)]
pub(super) enum Said {
    Command(ActionCommand),
    /// The stream is reset.
    Cancel,
}

/// Commands out, responses in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Commands;

impl Codec for Commands {
    type Encode = Said;
    type Decode = ActionResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Commands {
    type Item = Said;
    type Error = Status;

    fn encode(&mut self, item: Said, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        match item {
            Said::Command(command) => {
                command.encode(buffer).expect("the buffer grows as it must");
                Ok(())
            }
            // The cause becomes the code of the RST_STREAM frame.
            Said::Cancel => Err(Status::from_error(Box::new(h2::Error::from(h2::Reason::CANCEL)))),
        }
    }
}

impl Decoder for Commands {
    type Item = ActionResponse;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<ActionResponse>, Status> {
        ActionResponse::decode(buffer).map(Some).map_err(|error| {
            Status::internal(format!("the user function sent no ActionResponse: {error}"))
        })
    }
}
