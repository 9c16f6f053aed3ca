//! rustls' question "do you believe this peer?", answered by the SPIFFE rules. The stock verifiers of rustls
//! are not SPIFFE verifiers: they check neither the profile, nor the trust domain, nor revocation.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::config::provider;
use super::trust::Role;
use super::{Revocations, RevokedBecause, Trust};
use crate::spiffe::{Pins, SpiffeId, SvidError, TrustBundle};

/// Why a peer's certificate was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The peer sent an empty chain.
    #[error("peer presented no certificate: every connection needs an X.509-SVID")]
    NoCertificate,
    /// More certificates than are looked at before the peer is known.
    #[error("peer presented {found} certificates, at most {allowed} are accepted")]
    ChainTooLong {
        /// How many came.
        found: usize,
        /// How many are looked at.
        allowed: usize,
    },
    /// A certificate breaks the X.509-SVID profile.
    #[error("peer's certificate is not a valid X.509-SVID: {0}")]
    Profile(#[from] SvidError),
    /// No bundle for that trust domain.
    #[error("`{id}` is of a trust domain without a bundle here")]
    UnknownTrustDomain {
        /// Who the certificate names.
        id: SpiffeId,
    },
    /// The chain does not lead to its domain's bundle, or is outside its validity.
    #[error("certificate of `{id}` does not verify with its trust domain's bundle: {error}")]
    Untrusted {
        /// Who the certificate names.
        id: SpiffeId,
        /// What the path validation says.
        error: webpki::Error,
    },
    /// Something of the peer is revoked.
    #[error("`{id}` is refused: {}", because.as_str())]
    Revoked {
        /// Who it is.
        id: SpiffeId,
        /// What is revoked.
        because: RevokedBecause,
    },
    /// The revocation list of an issuer of its chain is out of date.
    #[error(
        "`{id}` is refused: the revocation list of its issuer is past its nextUpdate, so that nobody knows whether it is revoked; get the newest list, or use the old one with `crl-expired = use`"
    )]
    ListExpired {
        /// Who it is.
        id: SpiffeId,
    },
    /// The revocation list of an issuer of its chain cannot be believed.
    #[error(
        "`{id}` is refused: the revocation list of its issuer is not signed by it, or its key usage has no cRLSign"
    )]
    ListUnusable {
        /// Who it is.
        id: SpiffeId,
    },
    /// The peer proved to be someone else.
    #[error("expected `{expected}`, but the peer is `{found}`")]
    UnexpectedPeer {
        /// Who was called.
        expected: SpiffeId,
        /// Who answered.
        found: SpiffeId,
    },
    /// The pinned root is not in the presented chain.
    #[error(
        "control did not present the root that the join ticket pins: wrong address, or the ticket is of another mesh"
    )]
    PinMismatch,
}

impl VerifyError {
    /// The stable name used in metrics and logs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::ChainTooLong { .. } | Self::Profile(_) => "bad_svid",
            Self::UnknownTrustDomain { .. } => "unknown_trust_domain",
            Self::Untrusted { error: webpki::Error::CertExpired { .. }, .. } => "expired",
            Self::Untrusted { error: webpki::Error::CertNotValidYet { .. }, .. } => "not_yet_valid",
            Self::Untrusted { .. } => "untrusted",
            Self::Revoked { because, .. } => because.as_str(),
            Self::ListExpired { .. } => "crl_expired",
            Self::ListUnusable { .. } => "crl_unusable",
            Self::UnexpectedPeer { .. } => "unexpected_peer",
            Self::PinMismatch => "pin_mismatch",
        }
    }
}

impl From<VerifyError> for Error {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::NoCertificate => Error::NoCertificatesPresented,
            error => Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error)))),
        }
    }
}

/// The [`VerifyError`] inside a failed handshake, if it failed on the peer's certificate.
#[must_use]
pub fn verify_failure(error: &Error) -> Option<&VerifyError> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner.downcast_ref(),
        Error::NoCertificatesPresented => Some(&VerifyError::NoCertificate),
        _ => None,
    }
}

/// Verifies clients: any SVID of a trusted domain. Whether it may do anything is policy's business.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    pub(super) trust: Arc<Trust>,
    pub(super) mandatory: bool,
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.trust.verify(end_entity, intermediates, time(now), Role::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// How a client comes to believe a server.
#[derive(Debug)]
pub(super) enum Basis {
    /// By the bundle of its trust domain.
    Bundle(Arc<Trust>),
    /// By a root that it presents itself and whose SHA-256 is known beforehand: only to join.
    Pin(Pins),
}

/// Verifies servers: a believed SVID, and exactly the expected identity. The name that was dialled plays no
/// part; a SPIFFE ID is not a DNS name.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    pub(super) basis: Basis,
    pub(super) expected: SpiffeId,
}

impl ServerVerifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<(), VerifyError> {
        let found = match &self.basis {
            Basis::Bundle(trust) => trust.verify(leaf, intermediates, now, Role::Server)?,
            Basis::Pin(pins) => {
                let roots = intermediates.iter().filter(|certificate| pins.names(certificate));
                let roots = roots.map(|root| root.clone().into_owned()).collect();
                let bundle = TrustBundle::new(self.expected.trust_domain().clone(), roots, 0)
                    .map_err(|_| VerifyError::PinMismatch)?;
                Trust::new([bundle], Revocations::default()).verify(leaf, intermediates, now, Role::Server)?
            }
        };
        if found != self.expected {
            return Err(VerifyError::UnexpectedPeer { expected: self.expected.clone(), found });
        }
        Ok(())
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, time(now))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn time(now: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs())
}
