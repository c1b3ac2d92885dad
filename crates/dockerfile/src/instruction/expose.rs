//! EXPOSE.

use serde::Serialize;

use crate::Word;

/// `EXPOSE`
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Expose {
    /// The words as written; after expansion each a port or a range, sorted.
    pub ports: Vec<Word>,
}

/// A port of an image.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
pub struct Port {
    /// The number.
    pub number: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

/// What a port may be.
pub(crate) const PORT_HELP: &str =
    "a port is a number up to 65535 or a range, with /tcp, /udp or /sctp: 8080, 53/udp, 9000-9010";

/// The ports of `[[ip:]host:]port[-port][/protocol]`; the parts for a host are checked and dropped, as they are only
/// taken for the sake of old files. The error says what is wrong with it.
pub fn parse_port(text: &str) -> Result<Vec<Port>, String> {
    let (address, protocol) = match text.split_once('/') {
        Some((address, protocol)) => (address, protocol),
        None => (text, "tcp"),
    };
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" | "" => "tcp",
        "udp" => "udp",
        "sctp" => "sctp",
        other => return Err(format!("invalid port: \"{text}\": invalid proto: {other}")),
    };
    let (host, ports) = match address.rsplit_once(':') {
        Some((host, ports)) => (Some(host), ports),
        None => (None, address),
    };
    if ports.is_empty() {
        return Err(format!("invalid port: \"{text}\": no port specified: {text}<empty>"));
    }
    if let Some(host) = host {
        check_host(host).map_err(|reason| format!("invalid port: \"{text}\": {reason}"))?;
    }
    let (first, last) =
        range(ports).ok_or_else(|| format!("invalid port: \"{text}\": invalid containerPort: {ports}"))?;
    Ok((first..=last).map(|number| Port { number, protocol }).collect())
}

/// `80`, `80-90`
fn range(text: &str) -> Option<(u16, u16)> {
    let number = |digits: &str| match digits.bytes().all(|b| b.is_ascii_digit()) {
        true => digits.parse::<u16>().ok(),
        false => None,
    };
    match text.split_once('-') {
        None => number(text).map(|port| (port, port)),
        Some((first, last)) => Some((number(first)?, number(last)?)).filter(|(first, last)| first <= last),
    }
}

/// `host port`, `ip:host port`; both may be empty.
fn check_host(text: &str) -> Result<(), String> {
    let (address, port) = match text.rsplit_once(':') {
        Some((address, port)) => (address, port),
        None => ("", text),
    };
    if !port.is_empty() && range(port).is_none() {
        return Err(format!("invalid hostPort: {port}"));
    }
    let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    match address.is_empty() || address.parse::<std::net::IpAddr>().is_ok() {
        true => Ok(()),
        false => Err(format!("invalid IP address: {address}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        for (text, expected) in [
            ("80", Ok("80/tcp")),
            ("80/UDP", Ok("80/udp")),
            ("80-82/sctp", Ok("80/sctp 81/sctp 82/sctp")),
            ("127.0.0.1:8080:80", Ok("80/tcp")),
            ("8080:80/udp", Ok("80/udp")),
            ("[::1]:80:80", Ok("80/tcp")),
            ("80/foo", Err("invalid port: \"80/foo\": invalid proto: foo")),
            ("x", Err("invalid port: \"x\": invalid containerPort: x")),
            ("90-80", Err("invalid port: \"90-80\": invalid containerPort: 90-80")),
            ("65536", Err("invalid port: \"65536\": invalid containerPort: 65536")),
            ("nowhere:1:2", Err("invalid port: \"nowhere:1:2\": invalid IP address: nowhere")),
        ] {
            let found =
                parse_port(text).map(|ports| ports.iter().map(Port::to_string).collect::<Vec<_>>().join(" "));
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{text}");
        }
    }
}
