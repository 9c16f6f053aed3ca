use std::time::Duration;

use proptest::prelude::*;

use super::super::testing::{COMMON_NAME, integer, name, sequence, tlv};
use super::*;

const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const REASON_CODE: u8 = 21;
const INVALIDITY_DATE: u8 = 24;
const CERTIFICATE_ISSUER: u8 = 29;
const FRESHEST_CRL: u8 = 46;

/// The parts of a list, as DER unless said otherwise.
#[derive(Clone)]
struct Parts {
    version: Vec<u8>,
    algorithm: Vec<u8>,
    outer_algorithm: Vec<u8>,
    issuer: Vec<u8>,
    this_update: Vec<u8>,
    next_update: Vec<u8>,
    entries: Vec<Vec<u8>>,
    /// Last byte of the identifier, critical, value.
    extensions: Vec<(u8, bool, Vec<u8>)>,
    tail: Vec<u8>,
}

impl Parts {
    fn good() -> Self {
        let algorithm = sequence(&[&tlv(tag::OID, ECDSA_SHA256)]);
        Self {
            version: integer(&[1]),
            algorithm: algorithm.clone(),
            outer_algorithm: algorithm,
            issuer: name(&[(COMMON_NAME, "issuer")]),
            this_update: utc("260101000000Z"),
            next_update: utc("260108000000Z"),
            entries: vec![
                entry(&[0x12, 0x34], &[]),
                entry(&[0x00, 0x80], &[(REASON_CODE, false, vec![10, 1, 6])]),
            ],
            extensions: vec![
                (AUTHORITY_KEY_IDENTIFIER, false, sequence(&[&tlv(0x80, &[9; 20])])),
                (CRL_NUMBER, false, integer(&[0x10, 0x00])),
            ],
            tail: Vec::new(),
        }
    }

    fn with(mut self, id: u8, critical: bool, value: Vec<u8>) -> Self {
        self.extensions.retain(|(found, _, _)| *found != id);
        self.extensions.push((id, critical, value));
        self
    }

    fn numbered(self, number: &[u8]) -> Self {
        self.with(CRL_NUMBER, false, integer(number))
    }

    fn der(&self) -> Vec<u8> {
        let entries =
            if self.entries.is_empty() { Vec::new() } else { tlv(tag::SEQUENCE, &self.entries.concat()) };
        let extensions = match extensions(&self.extensions) {
            list if list.is_empty() => list,
            list => tlv(tag::VERSION, &list),
        };
        let signed = sequence(&[
            &self.version,
            &self.algorithm,
            &self.issuer,
            &self.this_update,
            &self.next_update,
            &entries,
            &extensions,
            &self.tail,
        ]);
        sequence(&[&signed, &self.outer_algorithm, &tlv(tag::BIT_STRING, &[0, 0x30, 0x00])])
    }

    fn read(&self) -> Result<RevocationList, CrlError> {
        RevocationList::read(&self.der())
    }
}

fn extensions(list: &[(u8, bool, Vec<u8>)]) -> Vec<u8> {
    let list: Vec<Vec<u8>> = list
        .iter()
        .map(|(id, critical, value)| {
            let critical = if *critical { tlv(tag::BOOLEAN, &[0xff]) } else { Vec::new() };
            let id = tlv(tag::OID, &[0x55, 0x1d, *id]);
            sequence(&[&id, &critical, &tlv(tag::OCTET_STRING, value)])
        })
        .collect();
    if list.is_empty() { Vec::new() } else { tlv(tag::SEQUENCE, &list.concat()) }
}

fn utc(text: &str) -> Vec<u8> {
    tlv(tag::UTC_TIME, text.as_bytes())
}

fn generalized(text: &str) -> Vec<u8> {
    tlv(tag::GENERALIZED_TIME, text.as_bytes())
}

fn entry(serial: &[u8], about: &[(u8, bool, Vec<u8>)]) -> Vec<u8> {
    sequence(&[&integer(serial), &utc("251231000000Z"), &extensions(about)])
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN X509 CRL-----\n{text}\n-----END X509 CRL-----\n")
}

#[test]
fn a_list_says_whose_it_is_until_when_and_whom_it_names() {
    let list = Parts::good().read().unwrap();
    assert_eq!(list.issuer(), "CN=issuer");
    assert_eq!(list.issuer_sha256(), sha256(&name(&[(COMMON_NAME, "issuer")])));
    assert_eq!(list.authority_key(), Some(&[9; 20][..]));
    assert_eq!(list.number(), "1000");
    assert_eq!(list.next_update(), list.this_update() + Duration::from_secs(7 * 86_400));
    assert_eq!(list.len(), 2);
    assert!(list.names(&[0x12, 0x34]) && list.names(&[0x80]), "the sign byte is none of the serial");
    for other in [&[][..], &[0x12], &[0x34], &[0x12, 0x34, 0x00], &[0; 21]] {
        assert!(!list.names(other), "{other:02x?}");
    }
    let empty = Parts { entries: Vec::new(), ..Parts::good() }.read().unwrap();
    assert!(empty.is_empty() && !empty.names(&[]) && !empty.names(&[0x12, 0x34]));
}

#[test]
fn numbers_are_compared_as_numbers() {
    let list = |number: &[u8]| Parts::good().numbered(number).read().unwrap();
    assert!(list(&[0xff >> 1]).is_older_than(&list(&[1, 0])));
    assert!(!list(&[1, 0]).is_older_than(&list(&[1, 0])) && list(&[1, 0]).has_number_of(&list(&[1, 0])));
    assert!(list(&[0]).is_older_than(&list(&[1])));
    assert_eq!((list(&[0]).number(), list(&[0x7f; 20]).number()), ("0".into(), "7f".repeat(20)));
}

#[test]
fn what_is_not_critical_and_not_about_the_scope_is_ignored() {
    let parts = Parts {
        entries: vec![
            entry(&[1], &[(INVALIDITY_DATE, false, generalized("20251230000000Z"))]),
            entry(&[2], &[(99, false, tlv(tag::NULL, &[]))]),
            // Of no certificate that we would look at.
            entry(&[0], &[]),
            entry(&[0x80], &[]),
            entry(&[1; 21], &[]),
        ],
        ..Parts::good().with(FRESHEST_CRL, false, sequence(&[])).with(99, false, vec![1, 2, 3])
    };
    let list = parts.read().unwrap();
    assert!(list.names(&[1]) && list.names(&[2]));
    assert_eq!(list.len(), 2);
}

#[test]
fn each_broken_rule_is_refused_by_name() {
    let good = Parts::good;
    let with_entry = |about: &[(u8, bool, Vec<u8>)]| Parts { entries: vec![entry(&[1], about)], ..good() };
    let without = |id: u8| {
        let mut parts = good();
        parts.extensions.retain(|(found, _, _)| *found != id);
        parts
    };
    let twice = {
        let mut parts = good();
        parts.extensions.push((CRL_NUMBER, false, integer(&[7])));
        parts
    };
    let rsa = sequence(&[&tlv(tag::OID, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b])]);
    let cases: Vec<(&str, Parts, &str)> = vec![
        ("version 1", Parts { version: Vec::new(), ..good() }, "no_number"),
        ("version 3", Parts { version: integer(&[2]), ..good() }, "no_number"),
        ("no number", without(CRL_NUMBER), "no_number"),
        ("a number of 21 bytes", good().numbered(&[0x11; 21]), "no_number"),
        ("a negative number", good().numbered(&[0x80]), "malformed"),
        ("no extensions", Parts { extensions: Vec::new(), ..good() }, "no_number"),
        ("no nextUpdate", Parts { next_update: Vec::new(), ..good() }, "no_next_update"),
        ("no issuer", Parts { issuer: sequence(&[]), ..good() }, "malformed"),
        ("it ends before it begins", Parts { next_update: utc("251231235959Z"), ..good() }, "malformed"),
        ("a time without seconds", Parts { this_update: utc("2601010000Z"), ..good() }, "malformed"),
        (
            "a time in the other form",
            Parts { this_update: generalized("20260101000000Z"), ..good() },
            "malformed",
        ),
        ("two algorithms", Parts { outer_algorithm: rsa, ..good() }, "malformed"),
        ("an extension twice", twice, "malformed"),
        ("a field too many", Parts { tail: tlv(tag::NULL, &[]), ..good() }, "malformed"),
        ("a delta", good().with(DELTA_CRL_INDICATOR, true, integer(&[1])), "delta"),
        (
            "a delta that does not say so aloud",
            good().with(DELTA_CRL_INDICATOR, false, integer(&[1])),
            "delta",
        ),
        ("a removal", with_entry(&[(REASON_CODE, false, vec![10, 1, 8])]), "delta"),
        (
            "a part",
            good().with(ISSUING_DISTRIBUTION_POINT, true, sequence(&[&tlv(0x81, &[0xff])])),
            "partial",
        ),
        (
            "indirect",
            good().with(ISSUING_DISTRIBUTION_POINT, false, sequence(&[&tlv(0x84, &[0xff])])),
            "partial",
        ),
        ("another issuer's entry", with_entry(&[(CERTIFICATE_ISSUER, true, sequence(&[]))]), "partial"),
        ("something critical", good().with(FRESHEST_CRL, true, sequence(&[])), "critical_extension"),
        (
            "something critical in an entry",
            with_entry(&[(99, true, tlv(tag::NULL, &[]))]),
            "critical_extension",
        ),
        ("no such reason", with_entry(&[(REASON_CODE, false, vec![10, 1, 7])]), "malformed"),
    ];
    for (case, parts, reason) in cases {
        match parts.read() {
            Err(error) => assert_eq!(error.reason(), reason, "{case}: {error}"),
            Ok(list) => panic!("{case}: accepted as {list:?}"),
        }
    }
}

#[test]
fn lists_are_bounded() {
    let entries = |count: u32| Parts {
        entries: (1..=count).map(|number| entry(&[&[1][..], &number.to_be_bytes()].concat(), &[])).collect(),
        ..Parts::good()
    };
    assert_eq!(entries(10_000).read().unwrap().len(), 10_000);
    assert_eq!(entries(500_001).read(), Err(CrlError::TooManyEntries));
    let mut long = Parts::good().der();
    long.resize(MAX_CRL_BYTES + 1, 0);
    assert_eq!(RevocationList::read(&long), Err(CrlError::TooLarge { length: MAX_CRL_BYTES + 1 }));
}

#[test]
fn files_hold_several_lists_in_pem_or_one_in_der() {
    let (one, two) = (Parts::good(), Parts::good().numbered(&[2]));
    let read = |bytes: &[u8]| {
        let lists = revocation_lists(bytes, 2)?;
        lists.into_iter().map(|list| Ok(list?.number())).collect::<Result<Vec<_>, _>>()
    };
    assert_eq!(read(&one.der()), Ok(vec!["1000".into()]));
    let both = format!("of today\n{}and\n{}", pem(&one.der()), pem(&two.der()));
    assert_eq!(read(both.as_bytes()), Ok(vec!["1000".into(), "2".into()]));
    assert_eq!(
        read(format!("{both}{}", pem(&one.der())).as_bytes()),
        Err(CrlError::TooManyLists { most: 2 })
    );
    assert_eq!(read(b""), Err(CrlError::Nothing));
    assert_eq!(read(b"<html>404</html>"), Err(CrlError::Nothing));
    let certificate = pem(&one.der()).replace("X509 CRL", "CERTIFICATE");
    assert_eq!(read(format!("{certificate}{}", pem(&one.der())).as_bytes()), Err(CrlError::PemSection));
    let unknown = pem(&one.der()).replace("X509 CRL", "SOMETHING");
    assert_eq!(read(format!("{unknown}{}", pem(&one.der())).as_bytes()), Err(CrlError::PemSection));
    assert!(read(&both.as_bytes()[..both.len() - 40]).is_err(), "cut off");
    assert!(read(&[&one.der()[..], &[0]].concat()).is_err(), "bytes after the list");
    let bad = Parts { next_update: Vec::new(), ..Parts::good() };
    let mixed = revocation_lists(format!("{}{}", pem(&bad.der()), pem(&two.der())).as_bytes(), 2).unwrap();
    assert_eq!(
        (mixed[0].is_err(), mixed[1].is_ok()),
        (true, true),
        "one that is bad does not spoil the others"
    );
}

#[test]
fn control_characters_of_a_name_do_not_reach_the_log() {
    let parts = Parts { issuer: name(&[(COMMON_NAME, "a\r\nb\u{1b}[2J")]), ..Parts::good() };
    let list = parts.read().unwrap();
    assert!(!list.issuer().chars().any(char::is_control), "{:?}", list.issuer());
    let long = Parts { issuer: name(&[(COMMON_NAME, &"x".repeat(5000))]), ..Parts::good() };
    assert!(long.read().unwrap().issuer().len() <= LONGEST_NAME);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = RevocationList::read(&bytes).is_ok();
        let _ = revocation_lists(&bytes, 2).is_ok();
    }

    /// Whatever is changed, cut or added: it is refused, or what was signed is another thing.
    #[test]
    fn no_change_goes_unnoticed(position in 0_usize..400, value in any::<u8>(), cut in any::<bool>()) {
        let good = Parts::good().der();
        let mut bytes = good.clone();
        if cut {
            bytes.truncate(position % good.len());
        } else {
            let place = position % good.len();
            bytes[place] = value;
        }
        prop_assume!(bytes != good);
        if let Ok(list) = RevocationList::read(&bytes) {
            let before = RevocationList::read(&good).unwrap();
            prop_assert_ne!(list.sha256(), before.sha256());
            prop_assert_ne!(list.signature(), before.signature());
        }
    }

    /// A list names the serials that were written into it and no others.
    #[test]
    fn exactly_the_serials_in_it_are_named(
        serials in prop::collection::hash_set(prop::collection::vec(1_u8..0x80, 1..19), 0..30),
        other in prop::collection::vec(1_u8..0x80, 1..19),
    ) {
        let entries = serials.iter().map(|serial| entry(serial, &[])).collect();
        let list = Parts { entries, ..Parts::good() }.read().unwrap();
        prop_assert_eq!(list.len(), serials.len());
        for serial in &serials {
            prop_assert!(list.names(serial));
        }
        prop_assert_eq!(list.names(&other), serials.contains(&other));
    }
}
