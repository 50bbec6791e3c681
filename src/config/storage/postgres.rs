//! `postgres://…`: what the driver would pass over in silence is refused here, and the password is shown nowhere.

use std::{fmt, fs::File};

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

/// What a URL may say behind its `?`. The driver warns of anything else in the log and goes on, without TLS perhaps.
const PARAMETERS: [&str; 12] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "dbname",
    "application_name",
    "options",
];
/// Without `allow`, which the driver takes for `disable`.
const TLS_MODES: [&str; 5] = ["disable", "prefer", "require", "verify-ca", "verify-full"];
const REDACTED: &str = "[redacted]";
/// How alike two names must be (0 to 1) for one to be offered instead of the other.
const ALIKE: f64 = 0.6;

/// The address of a PostgreSQL database. Its text has the password blotted out.
#[derive(Clone)]
pub struct PostgresUrl {
    url: SecretString,
    shown: String,
}

impl PostgresUrl {
    /// Reads a URL; the error says what was expected and repeats nothing that may be secret.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let unreadable = |why: &str| {
            format!(
                "postgres://USER:PASSWORD@HOST/DATABASE ({why}; write @, /, :, ?, #, % in a password as %40, %2F, \
                 %3A, %3F, %23, %25)"
            )
        };
        let url = Url::parse(text).map_err(|error| unreadable(&error.to_string()))?;
        // The rest of a password with a bare `/`, `?` or `#` in it, which must not be shown as something else.
        if url.fragment().is_some()
            || url.path().contains('@')
            || url.query().is_some_and(|q| q.contains('@'))
        {
            return Err(unreadable("@ or # stands where it can't be"));
        }
        let value = |name: &str| {
            url.query_pairs().filter(|(key, _)| key == name).last().map(|(_, value)| value.into_owned())
        };
        if let Some((name, _)) = url.query_pairs().find(|(key, _)| !PARAMETERS.contains(&key.as_ref())) {
            return Err(unknown_parameter(&name));
        }
        let host = value("hostaddr").or_else(|| value("host"));
        let host = host.or_else(|| url.host_str().map(str::to_owned)).unwrap_or_default();
        if host.is_empty() || host.contains(',') {
            return Err("a PostgreSQL URL with one host, like postgres://USER:PASSWORD@HOST/DATABASE".into());
        }
        if value("port").is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err("a PostgreSQL URL whose port is a number from 0 to 65535".into());
        }
        let mode = value("sslmode").unwrap_or_else(|| "prefer".into());
        if !TLS_MODES.contains(&mode.as_str()) {
            return Err(format!("a PostgreSQL URL whose sslmode is one of {}", TLS_MODES.join(", ")));
        }
        // Else a CA would be named and never asked.
        if value("sslrootcert").is_some() && !mode.starts_with("verify-") {
            return Err(format!(
                "a PostgreSQL URL with sslmode=verify-full where it has sslrootcert: {mode} checks no certificate"
            ));
        }
        if value("sslcert").is_some() != value("sslkey").is_some() {
            return Err("a PostgreSQL URL with both sslcert and sslkey, or neither".into());
        }
        for name in ["sslrootcert", "sslcert", "sslkey"] {
            if let Some(Err(error)) = value(name).map(File::open) {
                return Err(format!("a PostgreSQL URL whose {name} is a file that can be read ({error})"));
            }
        }
        Ok(Self { url: SecretString::from(text), shown: shown(&url) })
    }

    /// The whole URL, for the driver alone.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.url.expose_secret()
    }
}

fn unknown_parameter(name: &str) -> String {
    let nearest = PARAMETERS.iter().map(|known| (strsim::normalized_damerau_levenshtein(name, known), known));
    let nearest = nearest.filter(|(alike, _)| *alike >= ALIKE).max_by(|(a, _), (b, _)| a.total_cmp(b));
    let hint = nearest.map_or_else(
        || format!("there are {}", PARAMETERS.join(", ")),
        |(_, known)| format!("did you mean {known}?"),
    );
    format!("a PostgreSQL URL without the parameter {name:?}: {hint}")
}

/// The URL without its password, wherever that stands.
fn shown(url: &Url) -> String {
    let mut shown = format!("{}://{}", url.scheme(), url.username());
    if url.password().is_some() {
        shown = shown + ":" + REDACTED;
    }
    if !shown.ends_with("//") {
        shown.push('@');
    }
    shown += url.host_str().unwrap_or_default();
    if let Some(port) = url.port() {
        shown += &format!(":{port}");
    }
    shown += url.path();
    for (at, part) in url.query().unwrap_or_default().split('&').filter(|part| !part.is_empty()).enumerate() {
        let name = part.split('=').next().unwrap_or_default();
        // A name may be written with escapes: what is not plainly another one is taken for the password.
        let secret = name == "password" || name.contains('%');
        shown.push(if at == 0 { '?' } else { '&' });
        shown += &if secret { format!("password={REDACTED}") } else { part.to_owned() };
    }
    shown
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresUrl({})", self.shown)
    }
}
