//! Certificate revocation lists (RFC 5280 section 5), complete and delta, for those who are not proxies. Pure: who is
//! listed and when is said by the caller.
//!
//! Profile: version 2; authority key identifier and cRLNumber always (5.2.1, 5.2.3), deltaCRLIndicator critical in deltas
//! (5.2.4), freshestCRL in complete ones where deltas are served (5.2.6); nextUpdate always; an entry has its reason
//! unless that is `unspecified` (5.3.1). A complete list and the delta made with it have one number (5.2.3). No issuingDistributionPoint: the scope is all that the issuer certified, so that
//! nothing is left out by it.

use std::time::SystemTime;

use jiff::Timestamp;
use rcgen::{PKCS_ECDSA_P384_SHA384, SignatureAlgorithm};
use yasna::models::{GeneralizedTime, ObjectIdentifier, UTCTime};
use yasna::{DERWriter, Tag};

use super::CrlError;
use super::entries::Line;
use crate::ca::CaError;
use crate::store::model::Reason;

/// id-ce-...
const AUTHORITY_KEY_IDENTIFIER: &[u64] = &[2, 5, 29, 35];
const CRL_NUMBER: &[u64] = &[2, 5, 29, 20];
const DELTA_CRL_INDICATOR: &[u64] = &[2, 5, 29, 27];
const FRESHEST_CRL: &[u64] = &[2, 5, 29, 46];
const REASON_CODE: &[u64] = &[2, 5, 29, 21];
/// RFC 5758, which authorities sign with.
const ECDSA_WITH_SHA256: &[u64] = &[1, 2, 840, 10045, 4, 3, 2];
const ECDSA_WITH_SHA384: &[u64] = &[1, 2, 840, 10045, 4, 3, 3];
/// From 2050 on times are GeneralizedTime (5.1.2.4).
const YEAR_2050: i64 = 2_524_608_000;

/// The code of `removeFromCRL`, in deltas.
const REMOVED: i64 = 8;

/// Whose list it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Issuer<'a> {
    /// Its distinguished name, DER.
    pub(super) name: &'a [u8],
    /// The subject key identifier of its certificate.
    pub(super) key_identifier: &'a [u8],
    /// With what its key signs.
    pub(super) algorithm: &'static SignatureAlgorithm,
}

/// A list that is to be signed.
#[derive(Debug, Clone)]
pub(super) struct List<'a> {
    /// Greater than that of every list before.
    pub(super) number: u64,
    /// Of a delta: the complete list that it changes.
    pub(super) base: Option<u64>,
    /// When it was made.
    pub(super) this_update: SystemTime,
    /// When there is another one, at the latest.
    pub(super) next_update: SystemTime,
    /// Of a complete list: where its deltas are.
    pub(super) deltas: Option<&'a str>,
    /// In the order of serials; of a delta: what became listed since its base, or is not any more.
    pub(super) entries: &'a [Line],
}

/// The signed list, DER.
pub(super) fn sign(
    issuer: Issuer<'_>,
    list: &List<'_>,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, CaError>,
) -> Result<Vec<u8>, CrlError> {
    let times = Times::of(list)?;
    let content = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_u8(1);
            algorithm(writer.next(), issuer.algorithm);
            writer.next().write_der(issuer.name);
            times.this_update.write(writer.next());
            times.next_update.write(writer.next());
            // An empty list of entries must be absent (5.1.2.6).
            if !list.entries.is_empty() {
                writer.next().write_sequence(|writer| {
                    for (line, at) in list.entries.iter().zip(&times.entries) {
                        write_entry(writer.next(), line, at);
                    }
                });
            }
            writer.next().write_tagged(Tag::context(0), |writer| write_extensions(writer, issuer, list));
        });
    });
    let signature = sign(&content)?;
    Ok(yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_der(&content);
            algorithm(writer.next(), issuer.algorithm);
            writer.next().write_bitvec_bytes(&signature, signature.len() * 8);
        });
    }))
}

/// Its parameters are absent (RFC 5758 section 3.2).
fn algorithm(writer: DERWriter<'_>, algorithm: &SignatureAlgorithm) {
    let id = if *algorithm == PKCS_ECDSA_P384_SHA384 { ECDSA_WITH_SHA384 } else { ECDSA_WITH_SHA256 };
    writer.write_sequence(|writer| writer.next().write_oid(&oid(id)));
}

fn write_entry(writer: DERWriter<'_>, line: &Line, at: &Time) {
    writer.write_sequence(|writer| {
        writer.next().write_bigint_bytes(&line.serial, true);
        at.write(writer.next());
        if let Some(code) = code(line.reason) {
            writer.next().write_sequence(|writer| {
                extension(writer.next(), REASON_CODE, false, |writer| writer.write_enum(code));
            });
        }
    });
}

/// None where the reason is `unspecified`, which is not written.
fn code(reason: Option<Reason>) -> Option<i64> {
    match reason {
        Some(Reason::Unspecified) => None,
        Some(Reason::KeyCompromise) => Some(1),
        Some(Reason::CaCompromise) => Some(2),
        Some(Reason::CessationOfOperation) => Some(5),
        Some(Reason::CertificateHold) => Some(6),
        None => Some(REMOVED),
    }
}

fn write_extensions(writer: DERWriter<'_>, issuer: Issuer<'_>, list: &List<'_>) {
    writer.write_sequence(|writer| {
        extension(writer.next(), AUTHORITY_KEY_IDENTIFIER, false, |writer| {
            writer.write_sequence(|writer| {
                let identifier = issuer.key_identifier;
                writer.next().write_tagged_implicit(Tag::context(0), |writer| writer.write_bytes(identifier));
            });
        });
        extension(writer.next(), CRL_NUMBER, false, |writer| writer.write_u64(list.number));
        if let Some(base) = list.base {
            extension(writer.next(), DELTA_CRL_INDICATOR, true, |writer| writer.write_u64(base));
        } else if let Some(uri) = list.deltas {
            extension(writer.next(), FRESHEST_CRL, false, |writer| write_distribution_points(writer, uri));
        }
    });
}

/// CRLDistributionPoints with one full name (4.2.1.13).
fn write_distribution_points(writer: DERWriter<'_>, uri: &str) {
    writer.write_sequence(|points| {
        points.next().write_sequence(|point| {
            point.next().write_tagged(Tag::context(0), |name| {
                name.write_tagged_implicit(Tag::context(0), |names| {
                    names.write_sequence(|names| {
                        let uniform = Tag::context(6);
                        names.next().write_tagged_implicit(uniform, |name| name.write_ia5_string(uri));
                    });
                });
            });
        });
    });
}

fn extension(writer: DERWriter<'_>, id: &[u64], critical: bool, value: impl FnOnce(DERWriter<'_>)) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&oid(id));
        if critical {
            writer.next().write_bool(true);
        }
        writer.next().write_bytes(&yasna::construct_der(value));
    });
}

fn oid(arcs: &[u64]) -> ObjectIdentifier {
    ObjectIdentifier::from_slice(arcs)
}

/// A time as certificates say it: UTCTime until 2049 (5.1.2.4).
enum Time {
    Utc(UTCTime),
    Generalized(GeneralizedTime),
}

impl Time {
    fn of(at: SystemTime) -> Result<Self, CrlError> {
        let unwritable = || CrlError::Time(at);
        let timestamp = Timestamp::try_from(at).map_err(|_| unwritable())?;
        let text = |format: &str| timestamp.strftime(format).to_string();
        let time = if timestamp.as_second() < YEAR_2050 {
            UTCTime::parse(text("%y%m%d%H%M%SZ").as_bytes()).map(Self::Utc)
        } else {
            GeneralizedTime::parse(text("%Y%m%d%H%M%SZ").as_bytes()).map(Self::Generalized)
        };
        time.ok_or_else(unwritable)
    }

    fn write(&self, writer: DERWriter<'_>) {
        match self {
            Self::Utc(time) => writer.write_utctime(time),
            Self::Generalized(time) => writer.write_generalized_time(time),
        }
    }
}

struct Times {
    this_update: Time,
    next_update: Time,
    entries: Vec<Time>,
}

impl Times {
    fn of(list: &List<'_>) -> Result<Self, CrlError> {
        Ok(Self {
            this_update: Time::of(list.this_update)?,
            next_update: Time::of(list.next_update)?,
            entries: list.entries.iter().map(|line| Time::of(line.at)).collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use x509_parser::prelude::*;

    use super::*;
    use crate::time;

    const NAME: &[u8] =
        &[0x30, 0x0d, 0x31, 0x0b, 0x30, 0x09, 0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, 0x02, b'c', b'a'];

    fn made(base: Option<u64>, entries: &[Line]) -> (Vec<u8>, rcgen::KeyPair) {
        let key = rcgen::KeyPair::generate().unwrap();
        let at = time::from_millis(1_800_000_000_000);
        let list = List {
            number: 7,
            base,
            this_update: at,
            next_update: at + Duration::from_secs(3600),
            deltas: Some("http://control.example/crl/ca.delta.crl"),
            entries,
        };
        let issuer =
            Issuer { name: NAME, key_identifier: &[9; 20], algorithm: &rcgen::PKCS_ECDSA_P256_SHA256 };
        (sign(issuer, &list, |content| Ok(rcgen::SigningKey::sign(&key, content)?)).unwrap(), key)
    }

    fn line(serial: &[u8], reason: impl Into<Option<Reason>>) -> Line {
        let reason = reason.into();
        Line { serial: serial.to_vec(), at: time::from_millis(1_700_000_000_000), reason }
    }

    fn extension<'a>(list: &'a CertificateRevocationList<'_>, id: &[u64]) -> Option<&'a X509Extension<'a>> {
        list.extensions().iter().find(|extension| extension.oid.to_id_string() == dotted(id))
    }

    fn dotted(id: &[u64]) -> String {
        id.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
    }

    #[test]
    fn a_complete_list_says_what_the_profile_wants() {
        let entries = [
            // Not to be taken for a negative number.
            line(&[0x80, 1], Reason::Unspecified),
            line(&[0x81], Reason::CertificateHold),
        ];
        let (der, _) = made(None, &entries);
        let (rest, list) = CertificateRevocationList::from_der(&der).unwrap();
        assert!(rest.is_empty());
        assert_eq!(list.version(), Some(X509Version::V2));
        assert_eq!(list.issuer().as_raw(), NAME);
        assert_eq!(list.last_update().timestamp(), 1_800_000_000);
        assert_eq!(list.next_update().unwrap().timestamp(), 1_800_003_600);
        assert_eq!(list.crl_number().unwrap().to_string(), "7");
        let found: Vec<_> = list.iter_revoked_certificates().collect();
        assert_eq!(found[0].raw_serial(), [0, 0x80, 1]);
        assert!(found[0].reason_code().is_none(), "an unspecified reason is not written");
        assert_eq!(found[1].reason_code().unwrap().1, ReasonCode::CertificateHold);
        assert!(extension(&list, DELTA_CRL_INDICATOR).is_none());
        assert!(!extension(&list, FRESHEST_CRL).unwrap().critical);
        let identifier = extension(&list, AUTHORITY_KEY_IDENTIFIER).unwrap();
        assert!(identifier.value.ends_with(&[9; 20]));
    }

    #[test]
    fn a_delta_names_its_base_and_whoever_does_not_know_deltas_refuses_it() {
        let (der, _) = made(Some(5), &[line(&[3], None)]);
        let (_, list) = CertificateRevocationList::from_der(&der).unwrap();
        let delta = extension(&list, DELTA_CRL_INDICATOR).unwrap();
        assert!(delta.critical);
        assert_eq!(delta.value, [2, 1, 5]);
        assert!(extension(&list, FRESHEST_CRL).is_none());
        let only = list.iter_revoked_certificates().next().unwrap();
        assert_eq!(only.reason_code().unwrap().1, ReasonCode::RemoveFromCRL);
    }

    #[test]
    fn an_empty_list_has_no_list_of_entries_and_its_signature_is_right() {
        let (der, key) = made(None, &[]);
        let (_, list) = CertificateRevocationList::from_der(&der).unwrap();
        assert_eq!(list.iter_revoked_certificates().count(), 0);
        let public = rcgen::PublicKeyData::der_bytes(&key).to_vec();
        let public = aws_lc_rs::signature::UnparsedPublicKey::new(
            &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
            public,
        );
        let signature = list.signature_value.data.as_ref();
        public.verify(list.tbs_cert_list.as_ref(), signature).unwrap();
        assert!(public.verify(&der, signature).is_err());
    }
}
