//! What the routes take and give. The command line reads and writes the same types over the Unix socket.

mod archive;
mod device;
mod job;
mod offer;
mod page;
mod session;
mod start;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::archive::{TicketQuery, TicketRequest};
pub use self::device::{Health, PeerEntry, PeersQuery, PeersResponse};
pub use self::job::{Accepted, DecideRequest, JobRequest, JobStatusQuery, JobsResponse, StatusResponse};
pub use self::offer::{CreateRequest, CreateResponse, TicketOffer};
pub use self::page::{LinkRequest, LinkResponse, LoginResponse, LogoutResponse, RootEntry, RootsResponse};
pub use self::session::{
    AbortResponse, FailureEntry, FailuresQuery, FailuresResponse, RollbackRequest, RollbackResponse, SessionRequest,
    SessionsQuery, SessionsResponse, StatusQuery,
};
pub use self::start::{ResumeRequest, ResumeResponse, StartRequest, StartResponse};

/// JSON Schema counts `5.0` among the integers.
fn whole<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a whole number, 0 or more")]
    enum Number {
        Whole(u64),
        Float(f64),
    }
    match Number::deserialize(d)? {
        Number::Whole(number) => Ok(number),
        // beyond these floats are not exact
        Number::Float(number) if number.fract() == 0.0 && (0.0..9e15).contains(&number) => Ok(number as u64),
        Number::Float(_) => Err(D::Error::custom("a whole number, 0 or more, is needed")),
    }
}

fn maybe_whole<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    struct Whole(#[serde(deserialize_with = "whole")] u64);
    Ok(Option::<Whole>::deserialize(d)?.map(|Whole(number)| number))
}

/// When files are packed on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compress {
    /// What shrinks, while the connection is slower than packing.
    Auto,
    /// Nothing.
    Never,
    /// Whatever shrinks.
    Always,
}

/// Which transport to dial with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP first, QUIC after a short head start.
    #[default]
    Auto,
    /// TCP only.
    Tcp,
    /// QUIC only.
    Quic,
    /// WebSocket only.
    Ws,
}
