//! Who may ask at all, decided before a request is routed: by which name the node was called (DNS rebinding), from where
//! (a web page), and with which token: the one of the state directory, the one of a page that has logged in, or, to log in, the
//! key of a link. The files of the page itself need none.

use std::sync::Arc;

use http::header::{AUTHORIZATION, HOST, ORIGIN, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method};
use me_sync_protocol::reason::Code;

use super::error::ApiError;
use super::logins::Logins;
use super::page;
use super::routes::LOGIN;
use super::token::Token;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const HINT_HOST: &str = "call it http://127.0.0.1:PORT, with its own port";

/// Where a request came in.
#[derive(Debug, Clone)]
pub(super) enum Door {
    /// Any process of this machine can knock there.
    Tcp { port: u16, token: Arc<Token>, logins: Arc<Logins> },
    /// The kernel has said that the caller is this user.
    Unix,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Somebody with the token: bound to the configured directories.
    Token,
    /// The page of somebody who has logged in: bound like that. The request has its session as an extension.
    Page,
    /// Somebody with the key of a link, which is used up by that: may log in and nothing else.
    Link,
    /// Anybody on this machine: gets the files of the page and nothing else.
    Anybody,
    /// This user, over the Unix socket: may do what the command line may.
    User,
}

impl Door {
    /// RELIABILITY A90 to A92.
    pub(super) fn admit(&self, parts: &mut Parts) -> Result<Caller, ApiError> {
        match self {
            Self::Tcp { port, token, logins } => {
                let host = check_host(parts, *port)?;
                check_origin(parts, Some(host))?;
                if page::is_asked_for(parts) {
                    return Ok(Caller::Anybody);
                }
                let given = bearer(&parts.headers).ok_or_else(unauthorized)?;
                if token.is(given) {
                    return Ok(Caller::Token);
                }
                let is_login = parts.uri.path() == LOGIN && parts.method == Method::POST;
                if is_login && logins.redeem(given) {
                    return Ok(Caller::Link);
                }
                let session = logins.session(given).ok_or_else(unauthorized)?;
                parts.extensions.insert(session);
                Ok(Caller::Page)
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
            "use the node's own page: `me-sync dashboard` prints a link to it",
        ));
    }
    Ok(())
}

/// The only token that a request has.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(only), None) = (given.next(), given.next()) else { return None };
    let (scheme, text) = only.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(text)
}

pub(super) fn unauthorized() -> ApiError {
    ApiError::coded(
        Code::Unauthorized,
        "the token is missing or wrong, or its time is over",
        "send the header `Authorization: Bearer TOKEN` with the one in api.token in the state directory; for the page, run \
         `me-sync dashboard` again",
    )
}
