//! What a request carries, read within limits; whatever is wrong with it is said in the one shape of errors.

use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Request};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use me_sync_protocol::ids::SessionId;
use me_sync_protocol::reason::Code;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::error::ApiError;

/// Longest body (RELIABILITY A93).
const MAX_BODY: usize = 64 << 10;
/// How long it may take to come.
const BODY_TIME: Duration = Duration::from_secs(10);

/// A body of JSON.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::http(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "a body of JSON is needed",
                "send the header `Content-Type: application/json`",
            ));
        }
        let reading = Limited::new(request.into_body(), MAX_BODY).collect();
        let body = match tokio::time::timeout(BODY_TIME, reading).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(err)) if err.downcast_ref::<LengthLimitError>().is_some() => {
                return Err(ApiError::coded(Code::BodyTooLarge, "the body is longer than 64 KiB", "send less"));
            }
            Ok(Err(_)) => return Err(ApiError::bad_request("the body cannot be read", "send it whole")),
            Err(_) => {
                let message = "the body did not come within 10 seconds";
                return Err(ApiError::http(StatusCode::REQUEST_TIMEOUT, "timeout", message, "send it at once"));
            }
        };
        serde_json::from_slice(&body).map(Self).map_err(|err| not_taken(&body, &err))
    }
}

/// Whether it is JSON at all, and where it breaks, or what in it is not what the route takes.
fn not_taken(body: &[u8], err: &serde_json::Error) -> ApiError {
    let hint = "send one JSON object; GET /openapi.json describes every route";
    match err.classify() {
        _ if body.iter().all(u8::is_ascii_whitespace) => {
            ApiError::bad_request("the body is empty, and a JSON object is expected", hint)
        }
        Category::Eof => {
            let at = format!("line {}, column {}", err.line(), err.column());
            ApiError::bad_request(format!("the body is not JSON: it breaks off at {at}"), hint)
        }
        Category::Syntax | Category::Io => ApiError::bad_request(format!("the body is not JSON: {err}"), hint),
        Category::Data => {
            ApiError::bad_request(format!("the JSON of the body is not what this route takes: {err}"), SEE)
        }
    }
}

const SEE: &str = "GET /openapi.json describes every route";

fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(only), None) = (types.next(), types.next()) else { return false };
    let essence = only.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

/// The query.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(err) => {
                let why = std::error::Error::source(&err).map_or_else(|| err.to_string(), ToString::to_string);
                Err(ApiError::bad_request(format!("the query is not what is needed: {why}"), SEE))
            }
        }
    }
}

/// A session's id, whole.
pub(super) fn session_id(text: &str) -> Result<SessionId, ApiError> {
    let lower = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let parsed = if lower { text.parse().ok() } else { None };
    parsed.ok_or_else(|| ApiError::bad_request("session_id is not 32 hex digits", "sessions lists them"))
}

/// A number within its bounds.
pub(super) fn within(name: &str, value: Option<u64>, default: u64, bounds: (u64, u64)) -> Result<u64, ApiError> {
    let (least, most) = bounds;
    match value {
        None => Ok(default),
        Some(value) if (least..=most).contains(&value) => Ok(value),
        Some(_) => Err(ApiError::bad_request(format!("{name} is {least} to {most}"), SEE)),
    }
}
