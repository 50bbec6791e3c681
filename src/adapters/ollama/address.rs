//! The base address of a server, in the forms that people write into `OLLAMA_HOST`.

use reqwest::Url;
use thiserror::Error;

/// Ollama's port.
const DEFAULT_PORT: u16 = 11434;

/// Why a text is no address of a server.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressError {
    /// Not a URL.
    #[error("'{0}' is not a URL such as http://127.0.0.1:11434")]
    Malformed(String),
    /// A scheme other than http and https.
    #[error("the scheme '{0}' is not http or https")]
    Scheme(String),
    /// A query or a fragment.
    #[error("a server's address has no query and no fragment")]
    Extra,
}

/// Reads an address: `http://host:port/prefix`, `host:port` or `host` (Ollama's port where a bare host gives none). An
/// address to listen on at all interfaces is reached on loopback.
///
/// # Errors
/// See [`AddressError`].
pub fn parse_address(text: &str) -> Result<Url, AddressError> {
    let text = text.trim();
    let malformed = || AddressError::Malformed(text.to_owned());
    let bare = !text.contains("://");
    let full = if bare { format!("http://{text}") } else { text.to_owned() };
    let mut url = Url::parse(&full).map_err(|_| malformed())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(AddressError::Scheme(url.scheme().to_owned()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(AddressError::Extra);
    }
    let host = url.host_str().filter(|h| !h.is_empty()).ok_or_else(malformed)?;
    let loopback = match host {
        "0.0.0.0" => Some("127.0.0.1"),
        "[::]" => Some("[::1]"),
        _ => None,
    };
    if let Some(loopback) = loopback {
        url.set_host(Some(loopback)).map_err(|_| malformed())?;
    }
    // `:80` written out is dropped by the parser as http's own port, so the text itself is asked.
    let authority = full.split_once("://").map_or("", |(_, rest)| rest).split('/').next().unwrap_or("");
    let port_given = authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()) && !port.is_empty());
    if bare && !port_given {
        url.set_port(Some(DEFAULT_PORT)).map_err(|()| malformed())?;
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_usual_forms_are_understood() {
        for (text, url) in [
            ("http://127.0.0.1:11434", "http://127.0.0.1:11434/"),
            (" 127.0.0.1:8080 ", "http://127.0.0.1:8080/"),
            ("gpu-a", "http://gpu-a:11434/"),
            ("gpu-a:80", "http://gpu-a/"),
            ("0.0.0.0", "http://127.0.0.1:11434/"),
            ("http://[::]:9", "http://[::1]:9/"),
            ("[::1]", "http://[::1]:11434/"),
            ("https://models.example/ollama", "https://models.example/ollama/"),
        ] {
            assert_eq!(parse_address(text).map(String::from), Ok(url.to_owned()), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_a_reason() {
        assert!(matches!(parse_address("http://"), Err(AddressError::Malformed(_))));
        assert!(matches!(parse_address(""), Err(AddressError::Malformed(_))));
        assert!(matches!(parse_address("host:99999"), Err(AddressError::Malformed(_))));
        assert_eq!(parse_address("unix://x"), Err(AddressError::Scheme("unix".into())));
        assert_eq!(parse_address("http://x/?a=1"), Err(AddressError::Extra));
    }
}
