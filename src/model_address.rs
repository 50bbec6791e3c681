//! Addresses of model servers: the forms that people write them in, and which are never called (docs/SECURITY.md says why).
//!
//! Pure. Numbers are judged here; names where they are looked up, by [`forbidden`] too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use deia_actors::ports::server_factory::AddressRefused;
use reqwest::Url;

/// Ollama's port.
const OLLAMA_PORT: u16 = 11434;

const LINK_LOCAL: &str = "a link-local address (169.254.0.0/16, fe80::/10)";
const METADATA: &str = "an address where a cloud tells its machines their secrets";
const UNSPECIFIED: &str = "an address that stands for none or for all (0.0.0.0/8, ::)";
const MULTICAST: &str = "a multicast or broadcast address";

/// Reads an address: `http://host:port/prefix`, `host:port` or `host` (Ollama's port where a bare host gives none). The result
/// ends with a slash and says the same thing always in the same way: decimal, octal and hexadecimal forms of an IPv4
/// address are gone, and so is its form as a mapped IPv6 address.
///
/// # Errors
/// See [`AddressRefused`]; never `LeadsToForbidden` or `Unknown`.
pub fn parse_address(text: &str) -> Result<Url, AddressRefused> {
    let text = text.trim().trim_matches(['"', '\'']);
    let bare = !text.contains("://");
    let full = match text {
        _ if !bare => text.to_owned(),
        // A bare IPv6 address is not valid in a URL without its brackets.
        _ if text.parse::<Ipv6Addr>().is_ok() => format!("http://[{text}]"),
        _ if text.starts_with(':') => format!("http://127.0.0.1{text}"),
        _ => match text.split_once(':') {
            Some((scheme, rest))
                if !scheme.starts_with('[') && !rest.starts_with(|c: char| c.is_ascii_digit()) =>
            {
                return Err(AddressRefused::Scheme(scheme.chars().take(20).collect()));
            }
            _ => format!("http://{text}"),
        },
    };
    let mut url = Url::parse(&full).map_err(|_| AddressRefused::Malformed)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(AddressRefused::Scheme(url.scheme().chars().take(20).collect()));
    }
    if !url.username().is_empty() || url.password().is_some() || authority(&full).contains('@') {
        return Err(AddressRefused::Credentials);
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(AddressRefused::Extra);
    }
    let number = match (url.domain(), url.host_str()) {
        (Some(_), _) => None,
        (None, Some(host)) if !host.is_empty() => {
            let number = host.trim_matches(['[', ']']).parse::<IpAddr>();
            Some(number.map_err(|_| AddressRefused::Malformed)?)
        }
        (None, _) => return Err(AddressRefused::Malformed),
    };
    if let Some(what) = number.and_then(forbidden) {
        return Err(AddressRefused::Forbidden { what });
    }
    if let Some(IpAddr::V6(v6)) = number
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        url.set_ip_host(IpAddr::V4(v4)).map_err(|()| AddressRefused::Malformed)?;
    }
    // `Url` drops a port that is the scheme's own, so it is looked for in the text.
    let port_given = authority(&full).rsplit(']').next().is_some_and(|end| end.contains(':'));
    if bare && !port_given {
        url.set_port(Some(OLLAMA_PORT)).map_err(|()| AddressRefused::Malformed)?;
    }
    if url.port() == Some(0) {
        return Err(AddressRefused::Malformed);
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

/// What a server is called that has no other name.
#[must_use]
pub fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether this is where the process itself listens: any loopback address, or the very one, with its port. `found` is what its
/// name leads to, where that is known.
#[must_use]
pub fn is_own(url: &Url, found: &[IpAddr], listen: SocketAddr) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let own = |ip: &IpAddr| ip.is_loopback() || *ip == listen.ip();
    let is_local = host == "localhost" || host.ends_with(".localhost");
    url.port_or_known_default() == Some(listen.port())
        && (is_local || host.parse().iter().chain(found).any(own))
}

/// What `OLLAMA_HOST` says to a client: Ollama itself listens where it says, and that may be everywhere; then this machine is
/// meant.
#[must_use]
pub fn of_ollama_host(text: &str) -> String {
    let text = text.trim().trim_matches(['"', '\'']);
    let (scheme, rest) = text.split_once("://").map_or(("http", text), |(scheme, rest)| (scheme, rest));
    let bare = !text.contains("://");
    let ends = |rest: &str| rest.is_empty() || rest.starts_with([':', '/']);
    let here = [("0.0.0.0", "127.0.0.1"), ("[::]", "[::1]")].into_iter().find_map(|(all, local)| {
        let rest = rest.strip_prefix(all).filter(|rest| ends(rest))?;
        Some(format!("{local}{rest}"))
    });
    match here {
        _ if rest == "::" => "::1".to_owned(),
        Some(here) if bare => here,
        Some(here) => format!("{scheme}://{here}"),
        None => text.to_owned(),
    }
}

/// Which kind of address it is, where it is none that a model server may be called at. Loopback and private addresses are
/// allowed: that is where Ollama lives.
#[must_use]
pub fn forbidden(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => forbidden_v4(ip),
        IpAddr::V6(ip) => inside(ip).find_map(forbidden_v4).or_else(|| forbidden_v6(ip)),
    }
}

fn forbidden_v4(ip: Ipv4Addr) -> Option<&'static str> {
    // Alibaba, Oracle, Azure. Those of the others are link-local.
    const OF_CLOUDS: [Ipv4Addr; 3] =
        [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(168, 63, 129, 16)];
    match ip {
        _ if ip.is_link_local() => Some(LINK_LOCAL),
        _ if OF_CLOUDS.contains(&ip) => Some(METADATA),
        _ if ip.octets()[0] == 0 => Some(UNSPECIFIED),
        _ if ip.is_multicast() || ip.is_broadcast() => Some(MULTICAST),
        _ => None,
    }
}

fn forbidden_v6(ip: Ipv6Addr) -> Option<&'static str> {
    // AWS, Google.
    const OF_CLOUDS: [Ipv6Addr; 2] = [
        Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
        Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    ];
    match ip {
        _ if ip.is_unicast_link_local() => Some(LINK_LOCAL),
        _ if OF_CLOUDS.contains(&ip) => Some(METADATA),
        _ if ip.is_unspecified() => Some(UNSPECIFIED),
        _ if ip.is_multicast() => Some(MULTICAST),
        _ => None,
    }
}

/// The IPv4 addresses that an IPv6 address may stand for: mapped, compatible, translated (SIIT, NAT64) or tunnelled (6to4).
fn inside(ip: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let of = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    let one = match (a, b, c, d, e, f) {
        // `::` and `::1` are themselves.
        (0, 0, 0, 0, 0, 0) if g == 0 => None,
        (0, 0, 0, 0, 0, 0 | 0xffff) | (0, 0, 0, 0, 0xffff, 0) | (0x64, 0xff9b, 0, 0, 0, 0) => of(g, h),
        (0x2002, high, low, ..) => of(high, low),
        _ => None,
    };
    let local = ((a, b, c) == (0x64, 0xff9b, 1)).then(|| local_nat64(ip.octets()));
    one.into_iter().chain(local.into_iter().flatten())
}

/// The IPv4 addresses that one of 64:ff9b:1::/48 may stand for: each network chooses how long its prefix in there is, and
/// the address follows it, but for octet 8, which is zero (RFC 6052 §2.2, RFC 8215). A reading that begins with zero is padding.
fn local_nat64(octets: [u8; 16]) -> impl Iterator<Item = Ipv4Addr> {
    [[6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12], [12, 13, 14, 15]]
        .into_iter()
        .map(move |places| Ipv4Addr::from(places.map(|place: usize| octets[place])))
        .filter(|ip| ip.octets()[0] != 0)
}

fn authority(full: &str) -> &str {
    let rest = full.split_once("://").map_or("", |(_, rest)| rest);
    rest.split(['/', '?', '#', '\\']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_own_address_is_known_in_every_form_and_a_neighbour_is_not_it() {
        let listen = "127.0.0.1:8000".parse().unwrap();
        let own = |text: &str, found: &[&str]| {
            let found: Vec<IpAddr> = found.iter().map(|ip| ip.parse().unwrap()).collect();
            is_own(&parse_address(text).unwrap(), &found, listen)
        };
        for text in [
            "127.0.0.1:8000",
            "localhost:8000",
            "http://LOCALHOST:8000/ollama",
            "http://[::1]:8000",
            "http://[::ffff:127.0.0.1]:8000",
            "http://2130706433:8000",
            ":8000",
        ] {
            assert!(own(text, &[]), "{text}");
        }
        assert!(own("this-machine:8000", &["10.0.0.2", "127.0.1.1"]));
        for text in ["127.0.0.1:11434", "localhost", "10.0.0.2:8000", "gpu-a:8000"] {
            assert!(!own(text, &["10.0.0.2"]), "{text}");
        }
    }

    #[test]
    fn the_usual_forms_are_understood() {
        for (text, url) in [
            ("http://127.0.0.1:11434", "http://127.0.0.1:11434/"),
            (" 127.0.0.1:8080 ", "http://127.0.0.1:8080/"),
            ("gpu-a", "http://gpu-a:11434/"),
            ("gpu-a:80", "http://gpu-a/"),
            (":9999", "http://127.0.0.1:9999/"),
            ("\"10.0.0.2\"", "http://10.0.0.2:11434/"),
            ("::1", "http://[::1]:11434/"),
            ("[::1]", "http://[::1]:11434/"),
            ("http://[::1]:9", "http://[::1]:9/"),
            ("http://[::ffff:127.0.0.1]:9", "http://127.0.0.1:9/"),
            ("[::ffff:7f00:1]:11434", "http://127.0.0.1:11434/"),
            ("::ffff:10.0.0.2", "http://10.0.0.2:11434/"),
            ("http://[fd12:3456::7]", "http://[fd12:3456::7]/"),
            ("http://2130706433:11434", "http://127.0.0.1:11434/"),
            ("http://0300.0250.1.1", "http://192.168.1.1/"),
            ("https://models.example/ollama", "https://models.example/ollama/"),
        ] {
            assert_eq!(parse_address(text).map(String::from), Ok(url.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_of_a_server_is_refused_with_its_reason() {
        use AddressRefused as R;
        let scheme = |name: &str| R::Scheme(name.to_owned());
        for (text, why) in [
            ("", R::Malformed),
            ("http://", R::Malformed),
            ("host:99999", R::Malformed),
            ("host:0", R::Malformed),
            ("http://127.0.0.1:0", R::Malformed),
            ("http://bad host", R::Malformed),
            ("http://1.2.3.4.5", R::Malformed),
            ("http://[fe80::1%25eth0]/", R::Malformed),
            ("unix://x", scheme("unix")),
            ("file:///etc/passwd", scheme("file")),
            ("file:/etc/passwd", scheme("file")),
            ("javascript:alert(1)", scheme("javascript")),
            ("gopher://127.0.0.1:11434/_x", scheme("gopher")),
            ("http:/127.0.0.1", scheme("http")),
            ("http://me:s3cret@a", R::Credentials),
            ("http://me@a", R::Credentials),
            ("http://@a", R::Credentials),
            ("http://:@a", R::Credentials),
            ("http://127.0.0.1:11434@169.254.169.254/", R::Credentials),
            ("http://x/?a=1", R::Extra),
            ("http://x/#a", R::Extra),
        ] {
            assert_eq!(parse_address(text), Err(why), "{text}");
        }
    }

    #[test]
    fn no_way_to_write_a_forbidden_address_is_accepted() {
        for (what, texts) in [
            (
                LINK_LOCAL,
                &[
                    "http://169.254.169.254",
                    "169.254.169.254:80",
                    "http://169.254.0.1/",
                    "http://2852039166/",
                    "http://0xa9fea9fe",
                    "http://0251.0376.0251.0376",
                    "http://169.254.43518",
                    "http://１６９.254.169.254",
                    "http://169.254.169.254.",
                    "http://[::ffff:169.254.169.254]",
                    "http://[::ffff:a9fe:a9fe]",
                    "http://[::169.254.169.254]",
                    "http://[64:ff9b::169.254.169.254]",
                    "http://[::ffff:0:169.254.169.254]",
                    "http://[64:ff9b:1::169.254.169.254]",
                    "http://[64:ff9b:1:ab:cd:ef:169.254.169.254]",
                    "http://[64:ff9b:1:a9fe:a9:fe00::]",
                    "http://[64:ff9b:1:aa9:fe:a9fe::]",
                    "http://[64:ff9b:1:abcd:a9:fea9:fe00:0]",
                    "http://[2002:a9fe:a9fe::]",
                    "http://[fe80::1]",
                    "http://[febf::1]:11434",
                ][..],
            ),
            (
                METADATA,
                &[
                    "http://100.100.100.200",
                    "http://168.63.129.16",
                    "http://192.0.0.192",
                    "http://[fd00:ec2::254]",
                    "http://[fd20:ce::254]",
                ],
            ),
            (
                UNSPECIFIED,
                &[
                    "0.0.0.0",
                    "http://0.0.0.0:11434",
                    "http://0",
                    "http://0.1.2.3",
                    "http://[::]",
                    "::",
                    "http://[::ffff:0.0.0.0]",
                ],
            ),
            (
                MULTICAST,
                &["http://224.0.0.1", "http://239.1.2.3", "http://255.255.255.255", "http://[ff02::1]"],
            ),
        ] {
            for text in texts {
                assert_eq!(parse_address(text), Err(AddressRefused::Forbidden { what }), "{text}");
            }
        }
    }

    #[test]
    fn where_ollama_lives_is_allowed() {
        for text in [
            "127.0.0.1",
            "127.9.9.9",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.2",
            "100.64.0.7",
            "[::1]",
            "[fd00::2]",
            "203.0.113.7",
            "[::ffff:0:10.1.2.3]",
            "[64:ff9b::10.1.2.3]",
            "[64:ff9b:1::10.1.2.3]",
            "[64:ff9b:1:a01:2:300::]",
        ] {
            assert!(parse_address(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn ollamas_own_variable_means_this_machine_where_it_listens_everywhere() {
        for (text, here) in [
            ("0.0.0.0", "127.0.0.1"),
            ("0.0.0.0:1234", "127.0.0.1:1234"),
            ("http://0.0.0.0:11434", "http://127.0.0.1:11434"),
            ("[::]:5000", "[::1]:5000"),
            ("::", "::1"),
            ("0.0.0.0.example", "0.0.0.0.example"),
            ("gpu", "gpu"),
        ] {
            assert_eq!(of_ollama_host(text), here);
        }
    }
}
