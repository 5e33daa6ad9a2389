//! What strings in the configuration mean: names, durations, addresses, prefixes, ports, DSCP.
//!
//! Each function takes what stands between the quotes and gives the value, or what the operator should know.

use crate::model::{Protocol, Rate};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

/// A value, or what is wrong with it.
pub type Parsed<T> = Result<T, String>;

/// A name of anything: 1-31 characters, so that it fits into netns names, IPFIX strings and a column of the console.
pub fn name(text: &str) -> Parsed<String> {
    let fits = (1..=31).contains(&text.len())
        && !text.starts_with('-')
        && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if fits {
        return Ok(text.to_owned());
    }
    Err(format!("bad name {text:?}: 1 to 31 of a-z, 0-9 and \"-\", beginning with a letter or digit"))
}

/// The name of a network interface, as the kernel takes it (`dev_valid_name`).
pub fn interface(text: &str) -> Parsed<String> {
    let fits = (1..=15).contains(&text.len())
        && !matches!(text, "." | "..")
        && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':'));
    if fits {
        return Ok(text.to_owned());
    }
    Err(format!("bad interface name {text:?}: 1 to 15 visible characters without \"/\" and \":\""))
}

/// A share: a number of percent, above 0 and at most 100, to a hundredth.
pub(super) fn percent(text: &str) -> Parsed<f64> {
    let number = text.strip_suffix('%').map(str::trim_end);
    let is_plain = |number: &&str| number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let percent = number.filter(is_plain).and_then(|number| number.parse::<f64>().ok());
    match percent {
        Some(percent) if (0.01..=100.0).contains(&percent) => Ok(percent / 100.0),
        Some(_) => Err(format!("{text:?} is out of range; 0.01% to 100%")),
        None => Err(format!("{text:?} is not a share; write a number of percent, as in \"1%\" or \"0.5%\"")),
    }
}

/// A mean opinion score (ITU-T P.800), to a hundredth.
pub(super) fn mos(text: &str) -> Parsed<f64> {
    match text.parse::<f64>() {
        Ok(score) if (1.0..=4.3).contains(&score) => Ok(score),
        Ok(_) => Err(format!(
            "{text:?} is out of range; 1 to 4.3, which is the best that G.711 gets over a real path"
        )),
        Err(_) => Err(format!("{text:?} is not a score; write it as in \"4.0\"")),
    }
}

/// A duration: a whole number and its unit.
pub fn duration(text: &str) -> Parsed<Duration> {
    const UNITS: [(&str, u64); 5] =
        [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(format!("{text:?} is not a duration; write a whole number and its unit, as in \"60s\""));
    }
    if unit.is_empty() {
        return Err(format!("{text:?} lacks its unit; write \"{text}s\", or with another of ms, s, m, h, d"));
    }
    let Some((_, millis)) = UNITS.iter().find(|(known, _)| *known == unit) else {
        return Err(format!("{text:?} has the unknown unit {unit:?}; units of time are ms, s, m, h, d"));
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*millis))
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is too long"))
}

/// A [`duration`] within `range`, given with how the operator would write its ends.
pub(super) fn duration_within(text: &str, range: RangeInclusive<Duration>, ends: &str) -> Parsed<Duration> {
    let duration = duration(text)?;
    if range.contains(&duration) { Ok(duration) } else { Err(format!("{text:?} is out of range; {ends}")) }
}

/// A size on disk, in bytes: a whole number and its decimal unit.
pub(super) fn size(text: &str) -> Parsed<u64> {
    const UNITS: [(&str, u64); 3] = [("MB", 1_000_000), ("GB", 1_000_000_000), ("TB", 1_000_000_000_000)];
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = UNITS.iter().find(|(known, _)| *known == unit).map(|(_, factor)| *factor);
    let Some((factor, number)) = factor.zip(number.parse::<u64>().ok()) else {
        return Err(format!("{text:?} is not a size; write a whole number of MB, GB or TB, as in \"10GB\""));
    };
    number.checked_mul(factor).ok_or_else(|| format!("{text:?} is too much"))
}

/// A line's rate: a whole number and its decimal unit.
pub(super) fn rate(text: &str) -> Parsed<Rate> {
    const UNITS: [(&str, u64); 3] = [("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000)];
    // Below, one packet takes longer than anybody's patience; above, there are no lines.
    const RANGE: RangeInclusive<u64> = 64_000..=400_000_000_000;
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = UNITS.iter().find(|(known, _)| *known == unit).map(|(_, factor)| *factor);
    let Some((factor, number)) = factor.zip(number.parse::<u64>().ok()) else {
        return Err(format!(
            "{text:?} is not a rate; write a whole number of kbit, mbit or gbit (a second), as in \"20mbit\""
        ));
    };
    let bits = number.checked_mul(factor).filter(|bits| RANGE.contains(bits));
    bits.and_then(Rate::bits_per_second).ok_or_else(|| format!("{text:?} is out of range; 64kbit to 400gbit"))
}

/// WireGuard's persistent keepalive, in its own unit: whole seconds.
pub(super) fn keepalive_secs(text: &str) -> Parsed<u16> {
    let second = Duration::from_secs(1);
    let duration = duration_within(text, second..=second * u32::from(u16::MAX), "1s to 65535s")?;
    match u16::try_from(duration.as_secs()) {
        Ok(seconds) if duration.subsec_millis() == 0 => Ok(seconds),
        _ => Err(format!("{text:?} is not a whole number of seconds")),
    }
}

/// `address:port`.
pub fn socket_address(text: &str) -> Parsed<SocketAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 { Err(bad_port("0")) } else { Ok(address) };
    }
    // Which half is wrong?
    if text.parse::<IpAddr>().is_ok() {
        return Err(format!("{text:?} lacks its port; write {:?}", example_with_port(text)));
    }
    match text.rsplit_once(':') {
        Some((address, port))
            if format!("{address}:1").parse::<SocketAddr>().is_ok()
                && !port.is_empty()
                && port.bytes().all(|b| b.is_ascii_digit()) =>
        {
            Err(bad_port(port))
        }
        _ => {
            Err(format!("{text:?} is not address:port, as in \"192.0.2.1:51820\" or \"[2001:db8::1]:51820\""))
        }
    }
}

fn example_with_port(address: &str) -> String {
    if address.contains(':') { format!("[{address}]:51820") } else { format!("{address}:51820") }
}

/// [`socket_address`] of somebody that can be sent to.
pub(super) fn endpoint(text: &str) -> Parsed<SocketAddr> {
    let address = socket_address(text)?;
    let ip = address.ip();
    if ip.is_unspecified() || ip.is_multicast() {
        return Err(format!("{text:?}: {ip} is nobody's address"));
    }
    Ok(address)
}

/// A string as TOML writes it: what is generated is read again by the reader.
pub fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// An address.
pub fn address(text: &str) -> Parsed<IpAddr> {
    text.parse().map_err(|_| format!("{text:?} is not an IP address"))
}

/// A prefix in CIDR notation, or a single address.
pub fn prefix(text: &str) -> Parsed<IpNetwork> {
    let network = network(text)?;
    if network.ip() != network.network() {
        let (meant, length) = (network.network(), network.prefix());
        return Err(format!("{text} has host bits set; did you mean {meant}/{length}?"));
    }
    Ok(network)
}

/// [`prefix`] of addresses that somebody can have: what link-local, loopback, multicast and unspecified addresses send
/// is never forwarded, so nobody can own them.
pub(super) fn owned_prefix(text: &str) -> Parsed<IpNetwork> {
    let prefix = prefix(text)?;
    let reserved = match prefix {
        IpNetwork::V4(v4) => v4_ranges().into_iter().find(|(range, _)| v4.is_subnet_of(*range)).map(|r| r.1),
        IpNetwork::V6(v6) => v6_ranges().into_iter().find(|(range, _)| v6.is_subnet_of(*range)).map(|r| r.1),
    };
    match reserved {
        Some(range) => Err(format!("{text} is {range} and is never forwarded")),
        None => Ok(prefix),
    }
}

/// RFC 6890's ranges that a router must not forward.
fn v4_ranges() -> [(Ipv4Network, &'static str); 4] {
    let range = |address, length| Ipv4Network::new(address, length).expect("the length is at most 32");
    [
        (range(Ipv4Addr::UNSPECIFIED, 8), "\"this network\" (0.0.0.0/8)"),
        (range(Ipv4Addr::new(127, 0, 0, 0), 8), "loopback (127.0.0.0/8)"),
        (range(Ipv4Addr::new(169, 254, 0, 0), 16), "link-local (169.254.0.0/16)"),
        (range(Ipv4Addr::new(224, 0, 0, 0), 4), "multicast (224.0.0.0/4)"),
    ]
}

fn v6_ranges() -> [(Ipv6Network, &'static str); 5] {
    let range = |address, length| Ipv6Network::new(address, length).expect("the length is at most 128");
    [
        (range(Ipv6Addr::UNSPECIFIED, 128), "the unspecified address (::)"),
        (range(Ipv6Addr::LOCALHOST, 128), "loopback (::1)"),
        (range(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(), 96), "IPv4-mapped (::ffff:0:0/96)"),
        (range(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10), "link-local (fe80::/10)"),
        (range(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8), "multicast (ff00::/8)"),
    ]
}

/// IPv4 addresses to translate to.
pub(super) fn pool_prefix(text: &str) -> Parsed<IpNetwork> {
    match owned_prefix(text)? {
        prefix @ IpNetwork::V4(_) => Ok(prefix),
        IpNetwork::V6(_) => Err(format!("{text} is IPv6, which is not translated; put it under routed")),
    }
}

/// An interface's address with the length of its network's prefix.
///
/// # Errors
/// For the operator: why the text is none.
pub fn interface_address(text: &str) -> Parsed<IpNetwork> {
    let network = network(text)?;
    if !text.contains('/') {
        return Err(format!("{text:?} lacks the length of its network's prefix, as in \"10.200.0.1/24\""));
    }
    // RFC 3021: the two addresses of a /31 are both usable, and so is IPv6's first on a /127 (RFC 6164).
    let whole = network.prefix() + 2 <= if network.is_ipv4() { 32 } else { 128 };
    if whole && network.ip() == network.network() {
        return Err(format!("{text} is the network itself; write the interface's own address in it"));
    }
    Ok(network)
}

fn network(text: &str) -> Parsed<IpNetwork> {
    let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(format!("{text:?} is not a prefix, as in \"10.1.0.0/16\""));
    };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => longest,
        Some(length) => match length.parse::<u8>() {
            Ok(length) if length <= longest => length,
            _ => return Err(format!("{text:?}: the length of the prefix must be 0 to {longest}")),
        },
    };
    IpNetwork::new(address, length).map_err(|error| format!("{text:?}: {error}"))
}

/// Whether all of `inner` lies in `outer`.
pub(super) fn covers(outer: IpNetwork, inner: IpNetwork) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.ip())
}

/// A range of ports, `8000-8010`, or a single one.
pub(super) fn ports(text: &str) -> Parsed<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!("the port range {text} is empty; did you mean {last}-{first}?"));
    }
    Ok(first..=last)
}

fn port(text: &str) -> Parsed<u16> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{text:?} is not a port; write a number, or a range as in \"8000-8010\""));
    }
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| bad_port(text))
}

fn bad_port(port: &str) -> String {
    format!("port {port} is out of range; 1 to 65535")
}

/// An IP protocol by name.
pub(super) fn protocol(text: &str) -> Parsed<Protocol> {
    match Protocol::NAMED.iter().find(|(name, _)| *name == text) {
        Some((_, protocol)) => Ok(*protocol),
        None => Err(format!("unknown protocol {text:?}; tcp, udp, icmp, icmpv6 or a number")),
    }
}

/// A DSCP by name: RFC 2474's class selectors, RFC 2597's AF, RFC 3246's EF, RFC 5865's VA, RFC 8622's LE.
pub fn dscp(text: &str) -> Parsed<u8> {
    match DSCPS.iter().find(|(name, _)| *name == text) {
        Some((_, dscp)) => Ok(*dscp),
        None => Err(format!("unknown DSCP {text:?}; ef, va, le, cs0 to cs7, af11 to af43, or 0 to 63")),
    }
}

/// What a DSCP is called: by name, or else by number.
pub fn dscp_name(dscp: u8) -> String {
    let name = DSCPS.iter().find(|(_, named)| *named == dscp);
    name.map_or_else(|| dscp.to_string(), |(name, _)| (*name).to_owned())
}

pub(super) const DSCPS: [(&str, u8); 24] = [
    ("default", 0),
    ("le", 1),
    ("cs0", 0),
    ("cs1", 8),
    ("cs2", 16),
    ("cs3", 24),
    ("cs4", 32),
    ("cs5", 40),
    ("cs6", 48),
    ("cs7", 56),
    ("af11", 10),
    ("af12", 12),
    ("af13", 14),
    ("af21", 18),
    ("af22", 20),
    ("af23", 22),
    ("af31", 26),
    ("af32", 28),
    ("af33", 30),
    ("af41", 34),
    ("af42", 36),
    ("af43", 38),
    ("va", 44),
    ("ef", 46),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_their_unit() {
        assert_eq!(duration("150ms"), Ok(Duration::from_millis(150)));
        assert_eq!(duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(duration("30d"), Ok(Duration::from_secs(30 * 24 * 3_600)));
        for wrong in
            ["", "s", "60", "-1s", "1.5s", "60 s", "60S", "99999999999999999999s", "18446744073709551615h"]
        {
            assert!(duration(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn sizes_carry_their_unit() {
        assert_eq!(size("500MB"), Ok(500_000_000));
        assert_eq!(size("10GB"), Ok(10_000_000_000));
        assert_eq!(size("2TB"), Ok(2_000_000_000_000));
        for wrong in ["", "GB", "10", "10 GB", "10gb", "1.5GB", "-1GB", "18446744073709551615TB"] {
            assert!(size(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn rates_carry_their_unit() {
        assert_eq!(rate("64kbit").ok(), Rate::bits_per_second(64_000));
        assert_eq!(rate("20mbit").ok(), Rate::bits_per_second(20_000_000));
        assert_eq!(rate("10gbit").ok(), Rate::bits_per_second(10_000_000_000));
        for wrong in ["", "20", "mbit", "20 mbit", "20Mbit", "1.5mbit", "63kbit", "401gbit"] {
            assert!(rate(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn keepalives_are_whole_seconds() {
        assert_eq!(keepalive_secs("25s"), Ok(25));
        assert_eq!(keepalive_secs("25000ms"), Ok(25));
        assert_eq!(keepalive_secs("2m"), Ok(120));
        assert_eq!(keepalive_secs("65535s"), Ok(u16::MAX));
        for wrong in ["0s", "1500ms", "65536s", "65535500ms", "19h"] {
            assert!(keepalive_secs(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn prefixes_are_networks_and_cover_what_lies_in_them() {
        let net = |text| prefix(text).expect("a prefix");
        assert_eq!(net("10.1.2.3").prefix(), 32);
        assert!(covers(net("0.0.0.0/0"), net("10.0.0.0/8")));
        assert!(covers(net("10.0.0.0/8"), net("10.0.0.0/8")));
        assert!(!covers(net("10.0.0.0/9"), net("10.0.0.0/8")));
        assert!(!covers(net("::/0"), net("10.0.0.0/8")));
        for wrong in [
            "10.0.0.0/33",
            "10.0.0/8",
            "2001:db8::/129",
            "10.0.0.0/255.0.0.0",
            "10.0.0.0/",
            "x",
            "10.0.0.1/8",
        ] {
            assert!(prefix(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn nobody_owns_what_is_never_forwarded() {
        for wrong in
            ["0.0.0.0", "127.0.0.1", "169.254.1.0/24", "239.0.0.0/8", "::", "::1", "fe80::/64", "ff02::1"]
        {
            assert!(owned_prefix(wrong).is_err(), "{wrong:?} was taken");
        }
        for right in ["0.0.0.0/0", "::/0", "10.0.0.0/8", "fd00::/8", "100.64.0.0/10"] {
            assert!(owned_prefix(right).is_ok(), "{right:?} was refused");
        }
    }

    #[test]
    fn an_interface_address_is_a_host_in_its_network() {
        for right in ["10.0.0.1/24", "10.0.0.0/31", "10.0.0.1/32", "2001:db8::1/64", "2001:db8::/127"] {
            assert!(interface_address(right).is_ok(), "{right:?} was refused");
        }
        for wrong in ["10.0.0.1", "10.0.0.0/24", "2001:db8::/64"] {
            assert!(interface_address(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn every_class_selector_and_assured_class_has_its_number() {
        for n in 0..8 {
            assert_eq!(dscp(&format!("cs{n}")), Ok(n * 8));
        }
        for (class, precedence) in (1..=4).flat_map(|c| (1..=3).map(move |p| (c, p))) {
            assert_eq!(dscp(&format!("af{class}{precedence}")), Ok(class * 8 + precedence * 2));
        }
    }
}
