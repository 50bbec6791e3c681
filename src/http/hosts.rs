//! Who may ask: the host that a request names, and the page that it comes from.
//!
//! On an open loopback every page that the person visits could send requests here. A foreign page is recognised by
//! `Origin`; one that rebinds its own name to 127.0.0.1 by `Host`, since it must name itself there.

use std::net::IpAddr;

use deia_actors::domain::problem::{Code, Problem};
use http::{
    HeaderMap, Uri,
    header::{HOST, ORIGIN},
    uri::Authority,
};

/// Whether a name in `Host` is one of this service: an address or localhost. An address can't be rebound.
fn knows_host(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else { return false };
    let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok() || host == "localhost" || host.ends_with(".localhost")
}

/// Whether a page may use this service: only its own may. No `Origin` is no page.
pub(super) fn allows_origin(headers: &HeaderMap, own_host: Option<&str>) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let Some(origin) = origin.to_str().ok().and_then(origin_of) else { return false };
    own_host.is_some_and(|host| {
        ["http", "https"].iter().any(|s| origin_of(&format!("{s}://{host}")).as_ref() == Some(&origin))
    })
}

/// Refuses what a foreign page sent. `changes` = the request may change something, or opens a socket. A request that names
/// no host at all is none of a browser.
///
/// # Errors
/// 403 `origin_not_allowed`.
pub(super) fn check(headers: &HeaderMap, uri: &Uri, changes: bool) -> Result<(), Problem> {
    // A name that is no text is nobody's.
    let named = headers.get_all(HOST).iter().map(|v| v.to_str().unwrap_or("?"));
    let named: Vec<&str> = named.chain(uri.authority().map(Authority::as_str)).collect();
    if !named.iter().all(|host| knows_host(host)) {
        return Err(Problem::new(
            Code::OriginNotAllowed,
            "this Host is not one of this service; reach it by its address or as localhost",
        ));
    }
    let cross_site = !headers.contains_key(ORIGIN)
        && headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site");
    if changes && (cross_site || !allows_origin(headers, named.first().copied())) {
        return Err(Problem::new(
            Code::OriginNotAllowed,
            "this page may not use this service: only its own pages may",
        ));
    }
    Ok(())
}

/// `scheme://host[:port]` in lower case without a default port; none for `null` and nonsense.
fn origin_of(text: &str) -> Option<String> {
    let uri: Uri = text.trim().parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let authority = uri.authority()?;
    let host = authority.host().to_ascii_lowercase();
    let default = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    match authority.port_u16() {
        Some(port) if port != default => Some(format!("{scheme}://{host}:{port}")),
        _ => Some(format!("{scheme}://{host}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::HeaderValue;

    use super::*;

    fn checked(host: &str, origin: Option<&str>, changes: bool) -> bool {
        let mut headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        check(&headers, &Uri::from_static("/api/bots"), changes).is_ok()
    }

    #[test]
    fn only_addresses_and_localhost_are_this_host() {
        for own in ["127.0.0.1:8000", "[::1]:8000", "localhost:1", "LOCALHOST", "localhost.", "10.0.0.7"] {
            assert!(checked(own, None, false), "{own}");
        }
        for foreign in [
            "evil.example:8000",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "localhost@evil.example",
            "a b",
            "",
            ":8000",
        ] {
            assert!(!checked(foreign, None, false), "{foreign}");
        }
    }

    #[test]
    fn every_name_that_a_request_gives_counts() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        let mut headers = HeaderMap::new();
        assert!(check(&headers, &uri("/"), true).is_ok(), "no host is no browser");
        assert!(check(&headers, &uri("http://evil.example/"), false).is_err());
        headers.append(HOST, "localhost".parse().unwrap());
        assert!(check(&headers, &uri("http://localhost/"), false).is_ok());
        assert!(check(&headers, &uri("http://evil.example/"), false).is_err());
        headers.append(HOST, "evil.example".parse().unwrap());
        assert!(check(&headers, &uri("/"), false).is_err());
        let unreadable = HeaderMap::from_iter([(HOST, HeaderValue::from_bytes(b"local\xffhost").unwrap())]);
        assert!(check(&unreadable, &uri("/"), false).is_err());
    }

    #[test]
    fn a_foreign_page_changes_nothing() {
        let here = "127.0.0.1:8000";
        assert!(checked(here, None, true));
        assert!(checked(here, Some("http://127.0.0.1:8000"), true));
        assert!(checked("localhost", Some("https://localhost"), true));
        for foreign in ["https://evil.example", "null", "http://127.0.0.1:9000", "http://localhost:8000", "x"]
        {
            assert!(!checked(here, Some(foreign), true), "{foreign}");
            assert!(checked(here, Some(foreign), false), "{foreign} may navigate here");
        }
        let origin = HeaderMap::from_iter([(ORIGIN, "http://localhost".parse().unwrap())]);
        assert!(check(&origin, &Uri::from_static("/"), true).is_err(), "a page without a host is no own one");
    }

    #[test]
    fn a_request_that_the_browser_calls_cross_site_changes_nothing() {
        let headers =
            HeaderMap::from_iter([("sec-fetch-site".parse().unwrap(), "cross-site".parse().unwrap())]);
        assert!(check(&headers, &Uri::from_static("/"), true).is_err());
        assert!(check(&headers, &Uri::from_static("/"), false).is_ok());
    }
}
