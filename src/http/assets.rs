//! The dashboard, embedded in the program: `GET /`, its pages, `GET /assets/…`.

use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

use bytes::Bytes;
use deia_actors::domain::problem::{Code, Problem};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY, VARY,
    },
};
use rust_embed::Embed;
use warp::{Filter, reply::Response};

use super::{
    accept::wants_page,
    extract::headers,
    problem::{Answer, respond},
    route::{Endpoint, PathValues},
};

/// Tells the unit tests of the scripts that these are modules; nothing of the dashboard.
const NOT_SERVED: &str = "package.json";

#[derive(Embed)]
#[folder = "assets/"]
struct Files;

/// Pages that the dashboard draws itself; all are the same document.
const PAGES: [&str; 8] =
    ["/", "/bots", "/bots/*", "/chat", "/chat/*", "/supervision", "/supervision/*", "/models"];

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

struct Asset {
    bytes: Bytes,
    etag: HeaderValue,
    kind: HeaderValue,
}

static ASSETS: LazyLock<HashMap<String, Asset>> = LazyLock::new(|| {
    let read = |name: Cow<'static, str>| {
        let file = Files::get(&name)?;
        let mark: String = file.metadata.sha256_hash().iter().take(12).map(|b| format!("{b:02x}")).collect();
        let etag = HeaderValue::from_str(&format!("\"{mark}\"")).ok()?;
        let bytes = match file.data {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => Bytes::from(bytes),
        };
        let kind = HeaderValue::from_static(kind(&name));
        Some((name.into_owned(), Asset { bytes, etag, kind }))
    };
    Files::iter().filter(|name| name != NOT_SERVED).filter_map(read).collect()
});

fn kind(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, end)| end) {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "json" | "webmanifest" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    let file = Endpoint::new(Method::GET, "/assets/*", |at| {
        at.and(headers())
            .map(|path: PathValues, headers: HeaderMap| respond(asset(&path.tail(), &headers)))
            .boxed()
    });
    let icon = Endpoint::new(Method::GET, "/favicon.ico", |at| {
        at.and(headers()).map(|_, headers: HeaderMap| respond(asset("favicon.svg", &headers))).boxed()
    });
    let page = |pattern| {
        Endpoint::new(Method::GET, pattern, |at| {
            at.and(headers()).map(|_, headers: HeaderMap| respond(page(&headers))).boxed()
        })
    };
    [file, icon].into_iter().chain(PAGES.map(page)).collect()
}

fn page(headers: &HeaderMap) -> Answer {
    if !wants_page(headers) && headers.contains_key(http::header::ACCEPT) && !accepts_all(headers) {
        return Err(Problem::new(Code::NotAcceptable, "this page is text/html"));
    }
    asset("index.html", headers)
}

fn accepts_all(headers: &HeaderMap) -> bool {
    headers.get_all(http::header::ACCEPT).iter().any(|v| v.to_str().is_ok_and(|v| v.contains("*/*")))
}

fn asset(name: &str, headers: &HeaderMap) -> Answer {
    let asset =
        ASSETS.get(name).ok_or_else(|| Problem::new(Code::NotFound, "the dashboard has no such file"))?;
    Ok(serve(asset, headers))
}

fn serve(asset: &Asset, asked: &HeaderMap) -> Response {
    let known = asked.get_all(IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok()).any(|list| {
        let mut tags = list.split(',').map(|tag| tag.trim().trim_start_matches("W/"));
        tags.any(|tag| tag == "*" || asset.etag == tag)
    });
    let mut response = if known {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        Response::new(asset.bytes.clone().into())
    };
    let headers = response.headers_mut();
    let html = asset.kind.as_bytes().starts_with(b"text/html");
    // File names carry no version: a browser keeps files but asks each time whether they are current.
    let cache = if html { "no-cache" } else { "max-age=0, must-revalidate" };
    for (name, value) in [
        (CACHE_CONTROL, cache),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-embedder-policy"), "require-corp"),
        (HeaderName::from_static("x-frame-options"), "DENY"),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), geolocation=(), microphone=(), payment=()",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if html {
        headers.insert(VARY, HeaderValue::from_static("accept"));
    }
    headers.insert(CONTENT_TYPE, asset.kind.clone());
    headers.insert(ETAG, asset.etag.clone());
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_is_sent_once_and_then_known_by_its_tag() {
        let first = asset("favicon.svg", &HeaderMap::new()).unwrap();
        assert_eq!(first.status(), 200);
        assert_eq!(first.headers()[CONTENT_TYPE], "image/svg+xml");
        let tag = first.headers()[ETAG].clone();
        for given in [
            tag.clone(),
            "*".parse().unwrap(),
            format!("\"x\", W/{}", tag.to_str().unwrap()).parse().unwrap(),
        ] {
            let again = asset("favicon.svg", &HeaderMap::from_iter([(IF_NONE_MATCH, given)])).unwrap();
            assert_eq!(again.status(), 304);
            assert_eq!(again.headers()[ETAG], tag);
        }
        let other = HeaderMap::from_iter([(IF_NONE_MATCH, "\"x\"".parse().unwrap())]);
        assert_eq!(asset("favicon.svg", &other).unwrap().status(), 200);
    }

    #[test]
    fn a_name_outside_the_folder_is_not_found() {
        for bad in ["", "package.json", "../Cargo.toml", "/etc/passwd", "css/../favicon.svg", "nope.js"] {
            assert_eq!(asset(bad, &HeaderMap::new()).unwrap_err().code, Code::NotFound, "{bad}");
        }
    }

    #[test]
    fn every_file_has_a_known_kind_and_runs_under_the_strict_policy() {
        assert!(!ASSETS.is_empty());
        for (name, asset) in ASSETS.iter() {
            assert_ne!(asset.kind, "application/octet-stream", "{name}");
            let response = serve(asset, &HeaderMap::new());
            let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
            assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        }
    }
}
