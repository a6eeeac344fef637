//! The page for people: files that are part of the program, which anybody who may knock gets, for there is nothing of the
//! device in them. What they show they ask the API for, with the token of a login.

use axum::Router;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method};

/// Nothing from elsewhere, nothing inline, and no text that becomes a part of the page as anything but text.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
);
const OPENER: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! assets {
    ($($path:literal is $file:literal, $kind:ident;)*) => {
        &[$(($path, $kind, include_str!(concat!("page/", $file)))),*]
    };
}

/// Path, media type, text.
const ASSETS: &[(&str, &str, &str)] = assets![
    "/" is "index.html", HTML;
    "/page/style.css" is "style.css", CSS;
    "/page/icon.svg" is "icon.svg", SVG;
    "/page/main.js" is "main.js", SCRIPT;
    "/page/api.js" is "api.js", SCRIPT;
    "/page/events.js" is "events.js", SCRIPT;
    "/page/dom.js" is "dom.js", SCRIPT;
    "/page/format.js" is "format.js", SCRIPT;
    "/page/chart.js" is "chart.js", SCRIPT;
    "/page/forms.js" is "forms.js", SCRIPT;
    "/page/offer.js" is "offer.js", SCRIPT;
    "/page/review.js" is "review.js", SCRIPT;
    "/page/transfer.js" is "transfer.js", SCRIPT;
    "/page/transfers.js" is "transfers.js", SCRIPT;
    "/page/history.js" is "history.js", SCRIPT;
    "/page/devices.js" is "devices.js", SCRIPT;
];

/// It asks for a part of the page.
pub(super) fn is_asked_for(parts: &Parts) -> bool {
    let reads = parts.method == Method::GET || parts.method == Method::HEAD;
    reads && ASSETS.iter().any(|(path, ..)| *path == parts.uri.path())
}

/// Its parts as routes.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    ASSETS.iter().fold(Router::new(), |router, &(path, kind, text)| {
        router.route(path, get(move || std::future::ready(part(kind, text))))
    })
}

fn part(kind: &'static str, text: &'static str) -> Response {
    let mut response = ([(CONTENT_TYPE, kind)], text).into_response();
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, POLICY);
    response.headers_mut().insert(OPENER, HeaderValue::from_static("same-origin"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_a_part_names_is_a_part_and_nothing_comes_from_elsewhere() {
        let known = |path: &str| ASSETS.iter().any(|(asset, ..)| *asset == path);
        for (path, _, text) in ASSETS {
            // what is named in quotes, as attributes and imports do
            for quoted in text.split(['"', '\'']).filter(|quoted| !quoted.contains(char::is_whitespace)) {
                let named = quoted.strip_prefix("./").map(|name| format!("/page/{name}"));
                let named = named.or_else(|| quoted.starts_with("/page/").then(|| quoted.to_owned()));
                assert!(named.as_deref().is_none_or(known), "{path} names {quoted}");
                let is_name_space = quoted == "http://www.w3.org/2000/svg";
                assert!(!quoted.starts_with("http") || quoted == "http" || is_name_space, "{path} names {quoted}");
            }
        }
    }

    #[test]
    fn no_part_makes_markup_of_text_or_has_anything_inline() {
        for (path, _, text) in ASSETS {
            for bad in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=", " onclick="]
            {
                assert!(!text.contains(bad), "{path} has {bad}");
            }
        }
    }
}
