//! Which addresses keys are fetched from.
//!
//! A discovery document names a URL and DNS names an address, and control would connect to it from the inside:
//! so only to what is somebody's in the public internet, unless the operator allows more. Judged is the address
//! that is connected to, after the name was resolved.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), prefix)
}

const fn v6(a: u16, b: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
}

/// What is not global in IPv4 (IANA's special-purpose registry, RFC 6890), with multicast and reserved.
const NOT_GLOBAL_V4: [Ipv4Net; 15] = [
    v4(0, 0, 0, 8),
    v4(10, 0, 0, 8),
    v4(100, 64, 0, 10),
    v4(127, 0, 0, 8),
    v4(169, 254, 0, 16),
    v4(172, 16, 0, 12),
    v4(192, 0, 0, 24),
    v4(192, 0, 2, 24),
    v4(192, 88, 99, 24),
    v4(192, 168, 0, 16),
    v4(198, 18, 0, 15),
    v4(198, 51, 100, 24),
    v4(203, 0, 113, 24),
    v4(224, 0, 0, 4),
    v4(240, 0, 0, 4),
];

/// All that IANA has given out for global unicast in IPv6.
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 3);
/// And what of it is for protocols, examples and tunnels to IPv4 addresses that nobody checked.
const NOT_GLOBAL_V6: [Ipv6Net; 4] =
    [v6(0x2001, 0, 23), v6(0x2001, 0xdb8, 32), v6(0x2002, 0, 16), v6(0x3fff, 0, 20)];

/// Whether keys may be fetched from an address: allowed by the operator, or global.
pub(super) fn permitted(address: IpAddr, allowed: &[IpNet]) -> bool {
    match address {
        // An IPv4 address in disguise would pass by the rules for either kind.
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => false,
        address if allowed.iter().any(|network| network.contains(&address)) => true,
        IpAddr::V4(address) => !NOT_GLOBAL_V4.iter().any(|network| network.contains(&address)),
        IpAddr::V6(address) => {
            GLOBAL_V6.contains(&address) && !NOT_GLOBAL_V6.iter().any(|network| network.contains(&address))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_permitted(address: &str, allowed: &[&str]) -> bool {
        let allowed: Vec<IpNet> = allowed.iter().map(|network| network.parse().unwrap()).collect();
        permitted(address.parse().unwrap(), &allowed)
    }

    #[test]
    fn only_global_addresses_are_fetched_from() {
        for address in ["1.1.1.1", "140.82.112.3", "172.15.0.1", "172.32.0.1", "2606:4700::1", "2a00:1450::1"]
        {
            assert!(is_permitted(address, &[]), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.254",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:1.1.1.1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "fc00::1",
            "fd00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "4000::1",
        ] {
            assert!(!is_permitted(address, &[]), "{address}");
        }
    }

    #[test]
    fn the_operator_can_allow_more() {
        assert!(is_permitted("10.1.2.3", &["10.0.0.0/8"]));
        assert!(!is_permitted("192.168.0.1", &["10.0.0.0/8"]));
        assert!(is_permitted("::1", &["10.0.0.0/8", "::1/128"]));
        assert!(!is_permitted("::ffff:10.1.2.3", &["10.0.0.0/8"]));
        assert!(!is_permitted("::ffff:10.1.2.3", &["::/0", "0.0.0.0/0"]), "there is a plain way to say it");
    }

    proptest! {
        #[test]
        fn what_the_standard_library_knows_to_be_special_is_never_global(bits in any::<u32>(), wide in any::<u128>()) {
            let address = Ipv4Addr::from(bits);
            if address.is_private() || address.is_loopback() || address.is_link_local() || address.is_multicast()
                || address.is_broadcast() || address.is_documentation() || address.is_unspecified() {
                prop_assert!(!permitted(address.into(), &[]));
            }
            prop_assert!(!permitted(address.to_ipv6_mapped().into(), &[]));
            let address = Ipv6Addr::from(wide);
            if address.is_unique_local() || address.is_unicast_link_local() || address.is_multicast() {
                prop_assert!(!permitted(address.into(), &[]));
            }
        }
    }
}
