//! What the API answers when something was not done: a status, and one shape of JSON.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::WWW_AUTHENTICATE;
use http::{HeaderName, HeaderValue, StatusCode};
use me_sync_protocol::reason::Code;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::book::BookError;
use crate::net::NetError;
use crate::node::{ArchiveError, CodeError, ImportError, OfferError, ResumeError};
use crate::refusal::{Exit, Refusal};
use crate::source::SourceError;
use crate::staging::RollbackError;
use crate::store::StoreError;

/// The exit code that a command ends with, for the command line.
pub const EXIT_HEADER: HeaderName = HeaderName::from_static("me-sync-exit");

/// Every error of the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// Stable, for programs: a code of SPEC §7.2, or `bad_request`, `method_not_allowed`, `no_review`, `not_found`,
    /// `session_over`, `socket_only`, `too_late`, `unsupported_media_type`, `usage`.
    pub code: String,
    /// What happened, in a sentence.
    pub message: String,
    /// What to do next, in a sentence.
    pub hint: String,
}

/// An error with its status.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    status: StatusCode,
    exit: Exit,
    body: ErrorBody,
}

impl ApiError {
    /// Not of the protocol, but of HTTP.
    pub(super) fn http(status: StatusCode, code: &str, message: impl Into<String>, hint: &str) -> Self {
        let body = ErrorBody { code: code.to_owned(), message: message.into(), hint: hint.to_owned() };
        Self { status, exit: Exit::Usage, body }
    }

    pub(super) fn bad_request(message: impl Into<String>, hint: &str) -> Self {
        Self::http(StatusCode::BAD_REQUEST, "bad_request", message, hint)
    }

    pub(super) fn coded(code: Code, message: impl Into<String>, hint: &str) -> Self {
        Refusal::coded(code, message, hint).into()
    }

    pub(super) fn unknown_session() -> Self {
        let refusal = Refusal::coded(
            Code::SessionUnknown,
            "there is no such session here",
            "GET /me/sync/v4/sessions lists those that are on record",
        );
        refusal.exit(Exit::Usage).into()
    }

    pub(super) fn stopping() -> Self {
        Self::coded(Code::NodeStopping, "the node is stopping", "start it again")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        response.headers_mut().insert(EXIT_HEADER, HeaderValue::from(u16::from(self.exit.code())));
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Refusal> for ApiError {
    fn from(Refusal { exit, code, message, hint }: Refusal) -> Self {
        let status = Code::parse(code).map_or(StatusCode::BAD_REQUEST, status);
        Self { status, exit, body: ErrorBody { code: code.to_owned(), message, hint } }
    }
}

macro_rules! refused {
    ($($error:ty),*) => { $(
        impl From<$error> for ApiError {
            fn from(err: $error) -> Self {
                Refusal::from(err).into()
            }
        }
    )* };
}

refused!(
    ArchiveError,
    BookError,
    CodeError,
    ImportError,
    NetError,
    OfferError,
    ResumeError,
    RollbackError,
    SourceError,
    StoreError
);

/// Who can do something about it: 4xx the caller, 5xx whoever runs the node.
fn status(code: Code) -> StatusCode {
    match code {
        Code::Unauthorized => StatusCode::UNAUTHORIZED,
        Code::ForbiddenHost
        | Code::ForbiddenOrigin
        | Code::PathNotAllowed
        | Code::TargetForbidden
        | Code::TicketInvalid
        | Code::PeerMismatch
        | Code::Declined => StatusCode::FORBIDDEN,
        Code::SessionUnknown | Code::PeerNotFound | Code::RollbackUnavailable => StatusCode::NOT_FOUND,
        Code::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::RateLimited | Code::Busy => StatusCode::TOO_MANY_REQUESTS,
        Code::NodeStopping => StatusCode::SERVICE_UNAVAILABLE,
        Code::StateCorrupt | Code::DurabilityUnknown => StatusCode::INTERNAL_SERVER_ERROR,
        Code::PathInvalid
        | Code::PathUnsupportedHere
        | Code::PathCollision
        | Code::KindUnsupported
        | Code::ManifestInvalid
        | Code::ManifestLimit
        | Code::ManifestMismatch
        | Code::ManifestChanged
        | Code::FrameTooLarge
        | Code::FrameUnknown
        | Code::FrameUnexpected
        | Code::OffsetMismatch
        | Code::SizeMismatch
        | Code::HashMismatch
        | Code::SourceChanged
        | Code::SourceUnreadable
        | Code::RetryExhausted
        | Code::SessionExpired
        | Code::NotOffered
        | Code::Timeout
        | Code::PeerGone
        | Code::Aborted
        | Code::VersionMismatch
        | Code::NoSpace
        | Code::IoError
        | Code::TargetBusy
        | Code::TargetChanged
        | Code::TargetConflict
        | Code::TargetIsMountpoint
        | Code::TargetContainsMount
        | Code::TargetParentNotWritable
        | Code::ApplyUnsupportedFs
        | Code::HealthFailed
        | Code::StateLocked => StatusCode::CONFLICT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_code_is_answered_as_a_success() {
        for code in Code::ALL {
            assert!(status(*code).is_client_error() || status(*code).is_server_error(), "{code}");
        }
    }
}
