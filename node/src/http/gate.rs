//! Who may ask at all, decided before a request is routed: by which name the node was called (DNS rebinding), from where
//! (a web page), and with which token.

use std::sync::Arc;

use http::header::{AUTHORIZATION, HOST, ORIGIN, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method};
use me_sync_protocol::reason::Code;

use super::error::ApiError;
use super::token::Token;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const HINT_HOST: &str = "call it http://127.0.0.1:PORT, with its own port";

/// Where a request came in.
#[derive(Debug, Clone)]
pub(super) enum Door {
    /// Any process of this machine can knock there.
    Tcp { port: u16, token: Arc<Token> },
    /// The kernel has said that the caller is this user.
    Unix,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Somebody with the token: bound to the configured directories.
    Token,
    /// This user, over the Unix socket: may do what the command line may.
    User,
}

impl Door {
    /// RELIABILITY A90 to A92.
    pub(super) fn admit(&self, parts: &Parts) -> Result<Caller, ApiError> {
        match self {
            Self::Tcp { port, token } => {
                let host = check_host(parts, *port)?;
                check_origin(parts, Some(host))?;
                check_token(&parts.headers, token)?;
                Ok(Caller::Token)
            }
            Self::Unix => {
                check_origin(parts, None)?;
                Ok(Caller::User)
            }
        }
    }
}

fn check_host(parts: &Parts, port: u16) -> Result<&str, ApiError> {
    let refuse =
        || ApiError::coded(Code::ForbiddenHost, "the node was called by a name that is not its own", HINT_HOST);
    // an absolute form would overrule the header
    if parts.uri.authority().is_some() || parts.method == Method::CONNECT {
        return Err(refuse());
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(refuse()) };
    let host = host.to_str().map_err(|_| refuse())?;
    let ours = ["127.0.0.1", "[::1]", "localhost"].iter().any(|name| {
        let rest = host.strip_prefix(name).and_then(|rest| rest.strip_prefix(':'));
        rest.is_some_and(|rest| rest == port.to_string())
    });
    if ours { Ok(host) } else { Err(refuse()) }
}

/// A browser says which page a request is from, as far as the page cannot forge it.
fn check_origin(parts: &Parts, host: Option<&str>) -> Result<(), ApiError> {
    let headers = &parts.headers;
    let own = host.map(|host| format!("http://{host}"));
    let foreign = headers.get_all(ORIGIN).iter().any(|origin| own.as_ref().is_none_or(|own| origin != own.as_str()));
    let site = headers.get_all(&FETCH_SITE).iter().any(|site| site != "same-origin" && site != "none");
    if foreign || site || headers.contains_key(UPGRADE) {
        return Err(ApiError::coded(
            Code::ForbiddenOrigin,
            "web pages of others may not use the node",
            "use a program that is no browser",
        ));
    }
    Ok(())
}

fn check_token(headers: &HeaderMap, token: &Token) -> Result<(), ApiError> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let only = match (given.next(), given.next()) {
        (Some(only), None) => only.as_bytes().split_at_checked(7),
        _ => None,
    };
    match only {
        Some((scheme, text)) if scheme.eq_ignore_ascii_case(b"Bearer ") && token.is(text) => Ok(()),
        _ => Err(ApiError::coded(
            Code::Unauthorized,
            "the token is missing or wrong",
            "send the header `Authorization: Bearer TOKEN`; it is in api.token in the state directory",
        )),
    }
}
