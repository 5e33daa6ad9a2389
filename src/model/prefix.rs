//! Addresses made of other addresses: IPv4 within IPv6 for NAT64 (RFC 6052), and one prefix for another, host by host: IPv4
//! as it is ("netmap"), IPv6 without a change of any checksum (NPTv6, RFC 6296).
//!
//! Nothing is kept of a mapping: what an address becomes, and back, is computed. What comes of the configuration is refused
//! in words for the operator.

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv6 prefix within which IPv4 addresses stand (RFC 6052 section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nat64Prefix {
    prefix: Ipv6Network,
}

/// The lengths there are. RFC 6052 section 2.2.
const NAT64_LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];
/// Bits 64 to 71 of every such address are zero (RFC 6052 section 2.2).
const U_OCTET: usize = 8;

impl Nat64Prefix {
    /// 64:ff9b::/96, the same everywhere (RFC 6052 section 2.1); it does not carry addresses that are not global.
    pub const WELL_KNOWN: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);

    /// `prefix`, if IPv4 addresses can stand within it.
    ///
    /// # Errors
    /// For the operator: which lengths there are, or that its bits 64 to 71 are not zero.
    pub fn new(prefix: Ipv6Network) -> Result<Nat64Prefix, String> {
        if !NAT64_LENGTHS.contains(&prefix.prefix()) {
            return Err(format!(
                "a NAT64 prefix is a /32, /40, /48, /56, /64 or /96, not a /{}",
                prefix.prefix()
            ));
        }
        if prefix.network().octets()[U_OCTET] != 0 {
            return Err(format!("bits 64 to 71 of the NAT64 prefix {prefix} must be zero (RFC 6052)"));
        }
        Ok(Nat64Prefix { prefix })
    }

    /// The prefix itself.
    pub fn network(&self) -> Ipv6Network {
        self.prefix
    }

    /// The address that stands for `v4`.
    pub fn embed(&self, v4: Ipv4Addr) -> Ipv6Addr {
        let mut octets = self.prefix.network().octets();
        for (at, octet) in self.places().zip(v4.octets()) {
            octets[at] = octet;
        }
        Ipv6Addr::from(octets)
    }

    /// Whether addresses within it stand for others.
    pub fn contains(&self, v6: Ipv6Addr) -> bool {
        self.prefix.contains(v6)
    }

    /// The address that `v6` stands for; `None` if it is not within the prefix, has anything in bits 64 to 71, stands for one that
    /// nothing is forwarded to, or the well-known prefix is used for one that is not global (RFC 6052 section 3.1). What follows
    /// the IPv4 address is of no account.
    pub fn extract(&self, v6: Ipv6Addr) -> Option<Ipv4Addr> {
        let octets = v6.octets();
        if !self.contains(v6) || octets[U_OCTET] != 0 {
            return None;
        }
        let mut v4 = [0; 4];
        for (octet, at) in v4.iter_mut().zip(self.places()) {
            *octet = octets[at];
        }
        let v4 = Ipv4Addr::from(v4);
        let well_known = self.prefix.network() == Nat64Prefix::WELL_KNOWN && self.prefix.prefix() == 96;
        (may_be_forwarded(v4.into()) && (!well_known || is_global(v4))).then_some(v4)
    }

    /// Where the four octets stand: behind the prefix, but not in bits 64 to 71.
    fn places(&self) -> impl Iterator<Item = usize> + use<> {
        let first = usize::from(self.prefix.prefix()) / 8;
        (first..16).filter(|at| *at != U_OCTET).take(4)
    }
}

impl fmt::Display for Nat64Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.prefix, f)
    }
}

/// Whether an address is none of those for private or special use (RFC 5735 section 3, RFC 6598).
fn is_global(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    !(v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_documentation()
        || a == 0
        || a >= 224
        || (a, b) == (100, b & 0x3f | 0x40)
        || (a, b & 0xfe) == (198, 18)
        || (a, b, c) == (192, 0, 0)
        || (a, b, c) == (192, 88, 99))
}

/// Whether a router may forward from or to it at all (RFC 1812 section 5.3.7, RFC 4291 sections 2.5.2 to 2.7). An IPv4-mapped
/// address on the wire is refused too (RFC 4942 section 2.2): nothing inside may confuse the families.
#[inline]
pub fn may_be_forwarded(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback()
                || v4.is_multicast()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.octets()[0] == 0)
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || v6.is_unspecified()
                || v6.to_ipv4_mapped().is_some())
        }
    }
}

/// One prefix for another of the same length: every address within one has its counterpart within the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PrefixMap {
    /// The host's bits stay.
    V4 { inside: Ipv4Network, outside: Ipv4Network },
    /// One word makes up for the sum of the others (RFC 6296 section 3.1). `adjustment`: inside less outside.
    V6 { inside: Ipv6Network, outside: Ipv6Network, adjustment: u16 },
}

/// The longest prefix that leaves the interface identifier alone, and with it a word to make up with.
const LONGEST_V6: u8 = 64;
/// Up to here the subnet's word makes up (RFC 6296 section 3.4); beyond, one of the interface identifier's (section 3.5).
const LONGEST_WITH_SUBNET: u8 = 48;
const SUBNET_WORD: usize = 3;

impl PrefixMap {
    /// Maps `inside` to `outside`.
    ///
    /// # Errors
    /// For the operator: what is wrong with the two.
    pub fn new(inside: IpNetwork, outside: IpNetwork) -> Result<PrefixMap, String> {
        let other_family = || Err(format!("{inside} cannot be mapped to {outside}: another family"));
        if inside.is_ipv4() != outside.is_ipv4() {
            return other_family();
        }
        if inside.prefix() != outside.prefix() {
            return Err(format!(
                "{inside} cannot be mapped to {outside}: host by host, both must be of one length"
            ));
        }
        if inside == outside {
            return Err(format!("{inside} would be mapped to itself"));
        }
        match (inside, outside) {
            (IpNetwork::V4(inside), IpNetwork::V4(outside)) => Ok(PrefixMap::V4 { inside, outside }),
            (IpNetwork::V6(inside), IpNetwork::V6(outside)) => PrefixMap::new_v6(inside, outside),
            _ => other_family(),
        }
    }

    fn new_v6(inside: Ipv6Network, outside: Ipv6Network) -> Result<PrefixMap, String> {
        if inside.prefix() > LONGEST_V6 {
            return Err(format!(
                "an IPv6 prefix to be mapped is a /{LONGEST_V6} or shorter, not a /{} (RFC 6296)",
                inside.prefix()
            ));
        }
        let adjustment = add(sum(inside.network()), !sum(outside.network()));
        Ok(PrefixMap::V6 { inside, outside, adjustment })
    }

    /// The inside's prefix.
    pub fn inside(&self) -> IpNetwork {
        match *self {
            PrefixMap::V4 { inside, .. } => inside.into(),
            PrefixMap::V6 { inside, .. } => inside.into(),
        }
    }

    /// The outside's prefix.
    pub fn outside(&self) -> IpNetwork {
        match *self {
            PrefixMap::V4 { outside, .. } => outside.into(),
            PrefixMap::V6 { outside, .. } => outside.into(),
        }
    }

    /// What an inside address is outside; `None` for one that is not within the prefix, or has no counterpart.
    ///
    /// In IPv6 the subnet FFFF has none, which is the sum 0000 is too; nor has, behind a prefix longer than 48, an interface
    /// identifier that is all ones (RFC 6296 section 3.5 with erratum 3033).
    pub fn to_outside(&self, address: IpAddr) -> Option<IpAddr> {
        match (*self, address) {
            (PrefixMap::V4 { inside, outside }, IpAddr::V4(v4)) => map_v4(inside, outside, v4),
            (PrefixMap::V6 { inside, outside, adjustment }, IpAddr::V6(v6)) => {
                map_v6(inside, outside, adjustment, v6)
            }
            _ => None,
        }
    }

    /// What an outside address is inside; `None` likewise.
    pub fn to_inside(&self, address: IpAddr) -> Option<IpAddr> {
        match (*self, address) {
            (PrefixMap::V4 { inside, outside }, IpAddr::V4(v4)) => map_v4(outside, inside, v4),
            (PrefixMap::V6 { inside, outside, adjustment }, IpAddr::V6(v6)) => {
                map_v6(outside, inside, !adjustment, v6)
            }
            _ => None,
        }
    }
}

fn map_v4(from: Ipv4Network, to: Ipv4Network, address: Ipv4Addr) -> Option<IpAddr> {
    let host = address.to_bits() & !from.mask().to_bits();
    from.contains(address).then(|| IpAddr::V4(Ipv4Addr::from_bits(to.network().to_bits() | host)))
}

fn map_v6(from: Ipv6Network, to: Ipv6Network, adjustment: u16, address: Ipv6Addr) -> Option<IpAddr> {
    if !from.contains(address) {
        return None;
    }
    let host = address.to_bits() & !from.mask().to_bits();
    let mut words = Ipv6Addr::from_bits(to.network().to_bits() | host).segments();
    let at = if from.prefix() <= LONGEST_WITH_SUBNET {
        Some(SUBNET_WORD).filter(|at| words[*at] != 0xffff)
    } else {
        // Never FFFF itself, so the way back finds the same.
        (SUBNET_WORD + 1..8).find(|at| words[*at] != 0xffff)
    }?;
    words[at] = match add(words[at], adjustment) {
        0xffff => 0,
        word => word,
    };
    Some(IpAddr::V6(Ipv6Addr::from(words)))
}

/// The ones' complement sum of an address's words (RFC 1071).
fn sum(address: Ipv6Addr) -> u16 {
    address.segments().into_iter().fold(0, add)
}

/// Adds in ones' complement.
fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v6(text: &str) -> Ipv6Addr {
        text.parse().expect("an address")
    }

    fn nat64(text: &str) -> Result<Nat64Prefix, String> {
        Nat64Prefix::new(text.parse().expect("a network"))
    }

    fn map(inside: &str, outside: &str) -> Result<PrefixMap, String> {
        PrefixMap::new(inside.parse().expect("a network"), outside.parse().expect("a network"))
    }

    #[test]
    fn ipv4_addresses_stand_where_rfc_6052_section_2_4_shows_them() {
        let v4 = Ipv4Addr::new(192, 0, 2, 33);
        for (prefix, address) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
        ] {
            let prefix = nat64(prefix).expect("a NAT64 prefix");
            assert_eq!(prefix.embed(v4), v6(address));
            assert_eq!(prefix.extract(v6(address)), Some(v4));
        }
        assert_eq!(nat64("64:ff9b::/96").expect("one").embed(v4), v6("64:ff9b::192.0.2.33"));
    }

    #[test]
    fn a_nat64_prefix_has_one_of_six_lengths_and_bits_64_to_71_zero() {
        for len in 0..=128 {
            let prefix = format!("2001:db8::/{len}");
            let network = Ipv6Network::new(v6("2001:db8::"), len).expect("a length");
            assert_eq!(
                Nat64Prefix::new(network).is_ok(),
                [32, 40, 48, 56, 64, 96].contains(&len),
                "{prefix}"
            );
        }
        assert!(nat64("2001:db8:0:0:100::/96").is_err());
        assert!(nat64("2001:db8:0:0:ff::/96").is_ok());
        let prefix = nat64("2001:db8:122:344::/64").expect("one");
        assert_eq!(prefix.extract(v6("2001:db8:122:344:1c0:2:2100::")), None);
        assert_eq!(prefix.extract(v6("2001:db8:122:345:c0:2:2100::")), None);
    }

    #[test]
    fn the_well_known_prefix_carries_global_addresses_only() {
        let well_known = nat64("64:ff9b::/96").expect("one");
        let own = nat64("2001:db8:64::/96").expect("one");
        for (text, global) in [
            ("8.8.8.8", true),
            ("100.63.0.1", true),
            ("100.128.0.1", true),
            ("198.20.0.1", true),
            ("0.1.2.3", false),
            ("10.0.0.1", false),
            ("100.64.0.1", false),
            ("100.127.255.255", false),
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("172.16.0.1", false),
            ("192.0.0.8", false),
            ("192.0.2.1", false),
            ("192.88.99.1", false),
            ("192.168.0.1", false),
            ("198.19.0.1", false),
            ("203.0.113.9", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
        ] {
            let v4: Ipv4Addr = text.parse().expect("an address");
            assert_eq!(well_known.extract(well_known.embed(v4)).is_some(), global, "{text}");
            assert_eq!(
                own.extract(own.embed(v4)),
                Some(v4).filter(|v4| may_be_forwarded((*v4).into())),
                "{text}"
            );
        }
    }

    #[test]
    fn nptv6_maps_as_rfc_6296_section_3_6_and_appendix_b_show() {
        for (inside, outside, address, mapped) in [
            ("fd01:203:405::/48", "2001:db8:1::/48", "fd01:203:405:1::1234", "2001:db8:1:d550::1234"),
            // The subnet's bits are not the prefix's alone: what the prefix leaves of them stays the host's.
            ("fd01:203:400::/44", "2001:db8::/44", "fd01:203:40f:1::1234", "2001:db8:f:d54c::1234"),
            // Longer than 48: the first word of the identifier that is not all ones.
            ("fd01:203:405:1::/64", "2001:db8:1::/64", "fd01:203:405:1:1::1234", "2001:db8:1:0:d551::1234"),
            (
                "fd01:203:405:1::/64",
                "2001:db8:1::/64",
                "fd01:203:405:1:ffff:1::1",
                "2001:db8:1:0:ffff:d551::1",
            ),
        ] {
            let Ok(map) = map(inside, outside) else { panic!("{inside} to {outside}") };
            let (address, mapped) = (IpAddr::V6(v6(address)), IpAddr::V6(v6(mapped)));
            assert_eq!(map.to_outside(address), Some(mapped), "{inside} to {outside}");
            assert_eq!(map.to_inside(mapped), Some(address), "{inside} to {outside}");
        }
    }

    #[test]
    fn what_has_no_counterpart_is_not_mapped() {
        let short = map("fd01:203:405::/48", "2001:db8:1::/48").expect("a map");
        assert_eq!(short.to_outside(v6("fd01:203:405:ffff::1").into()), None);
        assert_eq!(short.to_inside(v6("2001:db8:1:ffff::1").into()), None);
        assert_eq!(short.to_outside(v6("fd01:203:406:1::1").into()), None);
        assert_eq!(short.to_outside("10.0.0.1".parse().expect("v4")), None);
        let long = map("fd01:203:405:1::/64", "2001:db8:1::/64").expect("a map");
        assert_eq!(long.to_outside(v6("fd01:203:405:1:ffff:ffff:ffff:ffff").into()), None);
    }

    #[test]
    fn only_prefixes_of_one_family_and_length_and_ipv6_up_to_64_are_mapped() {
        for (inside, outside, problem) in [
            ("10.0.0.0/16", "fd00::/16", "10.0.0.0/16 cannot be mapped to fd00::/16: another family"),
            (
                "10.0.0.0/16",
                "100.64.0.0/24",
                "10.0.0.0/16 cannot be mapped to 100.64.0.0/24: host by host, both must be of one length",
            ),
            ("10.0.0.0/16", "10.0.0.0/16", "10.0.0.0/16 would be mapped to itself"),
            (
                "fd00::/65",
                "2001:db8::/65",
                "an IPv6 prefix to be mapped is a /64 or shorter, not a /65 (RFC 6296)",
            ),
        ] {
            assert_eq!(map(inside, outside), Err(problem.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn every_address_that_is_mapped_comes_back_and_changes_no_checksum(
            a: u128, b: u128, address: u128, len in 1u8..=64,
        ) {
            let network = |bits| Ipv6Network::new(Ipv6Addr::from_bits(bits), len).expect("a length");
            let network = |bits| Ipv6Network::new(network(bits).network(), len).expect("a length");
            prop_assume!(network(a) != network(b));
            let map = PrefixMap::new(network(a).into(), network(b).into()).expect("a map");
            let inside = Ipv6Addr::from_bits(
                network(a).network().to_bits() | address & !network(a).mask().to_bits(),
            );
            match map.to_outside(inside.into()) {
                Some(outside) => {
                    prop_assert!(map.outside().contains(outside));
                    prop_assert_eq!(map.to_inside(outside), Some(inside.into()));
                    let IpAddr::V6(outside) = outside else { panic!("v6") };
                    // 0000 and FFFF are the same number.
                    prop_assert_eq!(sum(outside) % 0xffff, sum(inside) % 0xffff);
                }
                None => {
                    let words = inside.segments();
                    let has_none = if len <= 48 { words[3] == 0xffff } else { words[4..] == [0xffff; 4] };
                    prop_assert!(has_none);
                }
            }
        }

        #[test]
        fn an_ipv4_prefix_maps_host_by_host(a: u32, b: u32, host: u32, len in 1u8..=32) {
            let network = |bits| {
                let network = Ipv4Network::new(Ipv4Addr::from_bits(bits), len).expect("a length");
                Ipv4Network::new(network.network(), len).expect("a length")
            };
            prop_assume!(network(a) != network(b));
            let map = PrefixMap::new(network(a).into(), network(b).into()).expect("a map");
            let host = host & !network(a).mask().to_bits();
            let at = |network: Ipv4Network| IpAddr::V4(Ipv4Addr::from_bits(network.network().to_bits() | host));
            prop_assert_eq!(map.to_outside(at(network(a))), Some(at(network(b))));
            prop_assert_eq!(map.to_inside(at(network(b))), Some(at(network(a))));
        }
    }
}
