//! The authorities of one trust domain (SPIFFE Trust Domain and Bundle standard).
//!
//! Bundles are never pooled: an SVID is verified with the bundle of its own trust domain only. A
//! bundle that exists has one authority at least, and each of them is a certificate that may sign
//! SVIDs of that trust domain; chain verifiers do not check that of their anchors. Whether an
//! authority has expired is a question with a clock in it: see [`TrustBundle::authorities_at`].

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{PemObject, SectionKind};

use super::id::{SpiffeIdError, TrustDomain};
use super::jwks::{self, JwksError};
use super::jwt::{JwtAuthorities, JwtAuthorityError};
use super::svid::{SvidError, check_signer, sha256};
use crate::v1;

/// Most authorities in one bundle: some generations of a rotation, on some replicas.
pub const MAX_AUTHORITIES: usize = 64;

/// The certificates that vouch for the identities of one trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    authorities: Vec<CertificateDer<'static>>,
    /// Of each authority, in the same order.
    validity: Vec<[SystemTime; 2]>,
    sequence: u64,
    retired: Vec<CertificateDer<'static>>,
    superseded: Vec<[u8; 32]>,
    jwt: JwtAuthorities,
}

impl TrustBundle {
    /// The bundle of `trust_domain` with these authorities; the same one twice counts once.
    ///
    /// # Errors
    /// When there is none, more than [`MAX_AUTHORITIES`], or one that may not sign SVIDs of the domain.
    pub fn new(
        trust_domain: TrustDomain,
        authorities: Vec<CertificateDer<'static>>,
        sequence: u64,
    ) -> Result<Self, BundleError> {
        if authorities.is_empty() {
            return Err(BundleError::Empty { trust_domain });
        }
        if authorities.len() > MAX_AUTHORITIES {
            return Err(BundleError::TooMany { count: authorities.len() });
        }
        let mut bundle = Self {
            trust_domain,
            authorities: Vec::new(),
            validity: Vec::new(),
            sequence,
            retired: Vec::new(),
            superseded: Vec::new(),
            jwt: JwtAuthorities::default(),
        };
        for (position, authority) in authorities.into_iter().enumerate() {
            let signer = check_signer(&authority, &bundle.trust_domain)
                .map_err(|error| BundleError::Authority { position, error })?;
            let validity = [signer.not_before, signer.not_after];
            if !bundle.authorities.contains(&authority) {
                bundle.authorities.push(authority);
                bundle.validity.push(validity);
            }
        }
        Ok(bundle)
    }

    /// The same with authorities that were taken out of it in the ordinary course, the newest last.
    ///
    /// # Errors
    /// When there are more than [`MAX_AUTHORITIES`], or one may not sign SVIDs of the domain.
    pub fn with_retired(self, retired: Vec<CertificateDer<'static>>) -> Result<Self, BundleError> {
        if retired.len() > MAX_AUTHORITIES {
            return Err(BundleError::TooMany { count: retired.len() });
        }
        for (position, authority) in retired.iter().enumerate() {
            check_signer(authority, &self.trust_domain)
                .map_err(|error| BundleError::Authority { position, error })?;
        }
        Ok(Self { retired, ..self })
    }

    /// The same with issuers whose SVIDs are to be renewed at once: SHA-256 of their names, DER.
    ///
    /// # Errors
    /// When there are more than [`MAX_AUTHORITIES`].
    pub fn with_superseded(self, superseded: Vec<[u8; 32]>) -> Result<Self, BundleError> {
        if superseded.len() > MAX_AUTHORITIES {
            return Err(BundleError::TooMany { count: superseded.len() });
        }
        Ok(Self { superseded, ..self })
    }

    /// The same with the keys of JWT-SVIDs.
    #[must_use]
    pub fn with_jwt(self, jwt: JwtAuthorities) -> Self {
        Self { jwt, ..self }
    }

    /// What JWT-SVIDs of the domain are checked with.
    #[must_use]
    pub fn jwt_authorities(&self) -> &JwtAuthorities {
        &self.jwt
    }

    /// Whether SVIDs of this issuer, by the SHA-256 of its name, are to be renewed at once.
    #[must_use]
    pub fn supersedes(&self, issuer_sha256: &[u8; 32]) -> bool {
        self.superseded.contains(issuer_sha256)
    }

    /// Whose identities it vouches for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The certificates, DER, in the order given.
    #[must_use]
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }

    /// The certificates that are within their validity at `now`.
    pub fn authorities_at(&self, now: SystemTime) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.authorities
            .iter()
            .zip(&self.validity)
            .filter(move |(_, [not_before, not_after])| (not_before..=not_after).contains(&&now))
            .map(|(authority, _)| authority)
    }

    /// Authorities that it had once, and lost when nothing live chained to them any more. They vouch for nobody who
    /// comes; a connection that was let in by one is as good as before.
    #[must_use]
    pub fn retired(&self) -> &[CertificateDer<'static>] {
        &self.retired
    }

    /// When the authority that lasts longest expires: from then on nothing of this domain verifies.
    #[must_use]
    pub fn expires_at(&self) -> SystemTime {
        self.validity.iter().map(|[_, not_after]| *not_after).max().unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Grows with every change that the trust domain makes to its bundle.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// SHA-256 of each authority's DER, in order.
    pub fn fingerprints(&self) -> impl Iterator<Item = [u8; 32]> {
        self.authorities.iter().map(|authority| sha256(authority))
    }

    /// Reads PEM `CERTIFICATE` sections; text between them is allowed, other sections are not. PEM has
    /// no place for a sequence number: it is 0.
    ///
    /// # Errors
    /// When the PEM is broken, holds something else than certificates, or as for [`TrustBundle::new`].
    pub fn from_pem(trust_domain: TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        let mut authorities = Vec::new();
        // The reader passes over sections that it does not know.
        let sections =
            pem.split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"-----BEGIN ")).count();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
            match section {
                Ok((SectionKind::Certificate, der)) => authorities.push(CertificateDer::from(der)),
                Ok((kind, _)) => return Err(BundleError::PemSection { kind: label(kind) }),
                Err(_) => return Err(BundleError::Pem),
            }
            if authorities.len() > MAX_AUTHORITIES {
                return Err(BundleError::TooMany { count: authorities.len() });
            }
        }
        if authorities.len() != sections {
            return Err(BundleError::PemSection { kind: "something else" });
        }
        Self::new(trust_domain, authorities, 0)
    }

    /// The authorities as PEM, in order.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem(&self.authorities)
    }

    /// Reads a SPIFFE bundle: a JWK set whose `x509-svid` and `jwt-svid` keys are the authorities.
    ///
    /// # Errors
    /// When the text is not such a set, or as for [`TrustBundle::new`].
    pub fn from_jwks(trust_domain: TrustDomain, text: &str) -> Result<Self, BundleError> {
        Self::from_jwks_with_hint(trust_domain, text).map(|(bundle, _)| bundle)
    }

    /// The same, and how often the trust domain wants it read again, if it says so.
    ///
    /// # Errors
    /// As for [`TrustBundle::from_jwks`].
    pub fn from_jwks_with_hint(
        trust_domain: TrustDomain,
        text: &str,
    ) -> Result<(Self, Option<Duration>), BundleError> {
        let set = jwks::read(text)?;
        let bundle = Self::new(trust_domain, set.authorities, set.sequence)?
            .with_retired(set.retired)?
            .with_jwt(set.jwt);
        Ok((bundle, set.refresh_hint.map(Duration::from_secs)))
    }

    /// The bundle as a SPIFFE JWK set.
    #[must_use]
    pub fn to_jwks(&self) -> String {
        jwks::write(&self.authorities, &self.retired, &self.jwt, self.sequence)
    }
}

/// Certificates as PEM, in order (RFC 7468).
#[must_use]
pub fn pem(certificates: &[CertificateDer<'_>]) -> String {
    let mut pem = String::new();
    for certificate in certificates {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let mut text = STANDARD.encode(certificate);
        while !text.is_empty() {
            let rest = text.split_off(text.len().min(64));
            pem.push_str(&text);
            pem.push('\n');
            text = rest;
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}

fn label(kind: SectionKind) -> &'static str {
    match kind {
        SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => "a private key",
        SectionKind::PublicKey => "a public key",
        SectionKind::Crl => "a revocation list",
        SectionKind::Csr => "a certificate request",
        _ => "something else",
    }
}

impl TryFrom<&v1::Bundle> for TrustBundle {
    type Error = BundleError;

    fn try_from(message: &v1::Bundle) -> Result<Self, BundleError> {
        let trust_domain = message.trust_domain.parse()?;
        if message.x509_authorities.len() > MAX_AUTHORITIES {
            return Err(BundleError::TooMany { count: message.x509_authorities.len() });
        }
        let jwt = JwtAuthorities::parse(message.jwt_authorities.iter().map(String::as_str))?;
        let certificates = |list: &[Vec<u8>]| list.iter().cloned().map(CertificateDer::from).collect();
        Self::new(trust_domain, certificates(&message.x509_authorities), message.sequence)?
            .with_jwt(jwt)
            .with_retired(certificates(&message.retired_x509_authorities))?
            .with_superseded(
                message
                    .superseded_issuers
                    .iter()
                    .filter_map(|name| name.as_slice().try_into().ok())
                    .collect(),
            )
    }
}

impl From<&TrustBundle> for v1::Bundle {
    fn from(bundle: &TrustBundle) -> Self {
        Self {
            trust_domain: bundle.trust_domain.to_string(),
            x509_authorities: bundle.authorities.iter().map(|authority| authority.to_vec()).collect(),
            sequence: bundle.sequence,
            superseded_issuers: bundle.superseded.iter().map(|issuer| issuer.to_vec()).collect(),
            retired_x509_authorities: bundle.retired.iter().map(|authority| authority.to_vec()).collect(),
            jwt_authorities: bundle.jwt.keys().iter().map(ToString::to_string).collect(),
        }
    }
}

/// Why there is no bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// No authority.
    #[error(
        "the bundle of `{trust_domain}` has no authority: nothing of that trust domain could be verified"
    )]
    Empty {
        /// Whose bundle it was to be.
        trust_domain: TrustDomain,
    },
    /// More than [`MAX_AUTHORITIES`].
    #[error("the bundle has {count} authorities or more, expected at most {MAX_AUTHORITIES}")]
    TooMany {
        /// Authorities found, at least.
        count: usize,
    },
    /// One authority may not sign SVIDs of the trust domain.
    #[error("authority {position} of the bundle cannot be trusted: {error}")]
    Authority {
        /// Counted from 0.
        position: usize,
        /// The rule that it breaks.
        #[source]
        error: SvidError,
    },
    /// The name of the trust domain is malformed.
    #[error("the bundle is of a malformed trust domain: {0}")]
    TrustDomain(#[from] SpiffeIdError),
    /// Broken PEM.
    #[error("the PEM is broken: expected sections of `-----BEGIN CERTIFICATE-----`, base64 and an end line")]
    Pem,
    /// PEM of something else.
    #[error("the PEM holds {kind}, expected only certificates")]
    PemSection {
        /// What was found.
        kind: &'static str,
    },
    /// Keys of JWT-SVIDs that are none.
    #[error(transparent)]
    Jwt(#[from] JwtAuthorityError),
    /// Not a SPIFFE JWK set.
    #[error("the JWK set is not a SPIFFE bundle: {0}")]
    Jwks(#[from] JwksError),
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Parts, name, p256_key, validity};
    use super::*;

    fn domain() -> TrustDomain {
        "prod.example".parse().unwrap()
    }

    fn authority(fill: u8) -> CertificateDer<'static> {
        let parts = Parts::authority("spiffe://prod.example");
        Parts { spki: p256_key(fill), ..parts }.der().into()
    }

    fn bundle() -> TrustBundle {
        TrustBundle::new(domain(), vec![authority(1), authority(2)], 7).unwrap()
    }

    #[test]
    fn a_bundle_keeps_its_authorities_in_order_and_each_once() {
        let bundle = TrustBundle::new(domain(), vec![authority(2), authority(1), authority(2)], 7).unwrap();
        assert_eq!(bundle.authorities(), [authority(2), authority(1)]);
        assert_eq!((bundle.trust_domain(), bundle.sequence()), (&domain(), 7));
        let fingerprints: Vec<_> = bundle.fingerprints().collect();
        assert_eq!(fingerprints, [sha256(&authority(2)), sha256(&authority(1))]);
    }

    #[test]
    fn a_bundle_without_authority_is_none() {
        let error = TrustBundle::new(domain(), Vec::new(), 1).unwrap_err();
        assert_eq!(error, BundleError::Empty { trust_domain: domain() });
        assert!(matches!(TrustBundle::from_pem(domain(), b"just text"), Err(BundleError::Empty { .. })));
    }

    #[test]
    fn authorities_are_bounded() {
        let many = |count: u8| (1..=count).map(authority).collect::<Vec<_>>();
        assert!(TrustBundle::new(domain(), many(64), 1).is_ok());
        assert_eq!(TrustBundle::new(domain(), many(65), 1), Err(BundleError::TooMany { count: 65 }));
    }

    #[test]
    fn one_authority_that_may_not_sign_spoils_the_bundle() {
        let leaf = Parts::leaf("spiffe://prod.example/payments").der().into();
        let error = TrustBundle::new(domain(), vec![authority(1), leaf], 1).unwrap_err();
        assert_eq!(error, BundleError::Authority { position: 1, error: SvidError::NotAnAuthority });
        let foreign = Parts::authority("spiffe://other.example").der().into();
        assert!(matches!(
            TrustBundle::new(domain(), vec![foreign], 1),
            Err(BundleError::Authority { position: 0, error: SvidError::OtherTrustDomain { .. } })
        ));
        let nameless = Parts { subject: name(&[]), ..Parts::authority("spiffe://prod.example") };
        assert!(TrustBundle::new(domain(), vec![nameless.der().into()], 1).is_err());
    }

    #[test]
    fn expired_and_future_authorities_are_left_out_at_a_moment() {
        let early = Parts {
            validity: validity("250101000000Z", "260601000000Z"),
            ..Parts::authority("spiffe://prod.example")
        };
        let early: CertificateDer<'static> = early.der().into();
        let bundle = TrustBundle::new(domain(), vec![early.clone(), authority(1)], 1).unwrap();
        let at = |seconds| {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            bundle.authorities_at(now).cloned().collect::<Vec<_>>()
        };
        let (mid_2025, spring_2026, autumn_2026, year_2030) =
            (1_750_000_000, 1_775_000_000, 1_790_000_000, 1_900_000_000);
        assert_eq!(at(mid_2025), std::slice::from_ref(&early));
        assert_eq!(at(spring_2026), [early, authority(1)]);
        assert_eq!(at(autumn_2026), [authority(1)]);
        assert!(at(year_2030).is_empty());
        assert_eq!(bundle.expires_at(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_798_761_600));
    }

    #[test]
    fn pem_and_messages_carry_the_same_bundle() {
        let bundle = bundle();
        let read = TrustBundle::from_pem(domain(), bundle.to_pem().as_bytes()).unwrap();
        assert_eq!(read.authorities(), bundle.authorities());
        assert_eq!(read.sequence(), 0, "PEM has no sequence");
        assert!(bundle.to_pem().lines().all(|line| line.len() <= 64));
        assert_eq!(TrustBundle::try_from(&v1::Bundle::from(&bundle)), Ok(bundle.clone()));
        let with_text = format!("# the root of prod.example\n\n{}", bundle.to_pem());
        assert_eq!(TrustBundle::from_pem(domain(), with_text.as_bytes()).unwrap(), read);
    }

    #[test]
    fn pem_of_anything_else_is_refused() {
        let with = |label: &str| {
            let section = format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
            TrustBundle::from_pem(domain(), format!("{}{section}", bundle().to_pem()).as_bytes()).unwrap_err()
        };
        for label in ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"] {
            assert_eq!(with(label), BundleError::PemSection { kind: "a private key" });
        }
        assert_eq!(with("TRUSTED CERTIFICATE"), BundleError::PemSection { kind: "something else" });
        assert_eq!(with("X509 CRL"), BundleError::PemSection { kind: "a revocation list" });
        let pem = bundle().to_pem();
        let cut = pem.trim_end().strip_suffix("-----END CERTIFICATE-----").unwrap();
        assert_eq!(TrustBundle::from_pem(domain(), cut.as_bytes()), Err(BundleError::Pem));
        let broken = pem.replacen("MI", "!!", 1);
        assert_eq!(TrustBundle::from_pem(domain(), broken.as_bytes()), Err(BundleError::Pem));
    }

    #[test]
    fn messages_with_a_malformed_domain_or_too_many_authorities_are_refused() {
        let message = v1::Bundle::from(&bundle());
        let wrong = v1::Bundle { trust_domain: "Prod".into(), ..message.clone() };
        assert!(matches!(TrustBundle::try_from(&wrong), Err(BundleError::TrustDomain(_))));
        let many = v1::Bundle { x509_authorities: vec![Vec::new(); 65], ..message };
        assert_eq!(TrustBundle::try_from(&many), Err(BundleError::TooMany { count: 65 }));
    }
}
