//! What this proxy proves itself with: the secret of a join ticket, once, or something that lasts. Tokens, certificates
//! and keys are read anew for each proof, as whoever keeps them rotates them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use signet_proto::handshake::{KeyError, is_key_of, sign_with_pem_key};
use signet_proto::possession;
use signet_proto::spiffe::{TrustDomain, sha256};
use signet_proto::v1;
use signet_proto::v1::attest_request::Proof as Message;
use signet_proto::v1::identity_client::IdentityClient;
use tokio::io::AsyncReadExt;
use tonic::transport::Channel;
use zeroize::Zeroizing;

use super::control::IdentityError;
use crate::config::Attest;
use crate::control::{CALL_DEADLINE, ControlError};

/// Control takes no larger token.
const LARGEST_TOKEN: usize = 16 * 1024;
const LARGEST_CHAIN: usize = 64 * 1024;
const LARGEST_KEY: usize = 16 * 1024;
/// Control takes no more certificates.
const MOST_CERTIFICATES: usize = 5;

/// How this proxy proves who it is.
#[derive(Clone)]
pub enum Proof {
    /// With the secret of a join ticket, which is good once.
    Ticket(Zeroizing<Vec<u8>>),
    /// With something that lasts.
    Attest(Attest),
}

/// Why there is no proof to send.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// A file cannot be read.
    #[error("`attest`: cannot read {path}: {error}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// What is in it is something else.
    #[error("`attest`: {path}: {problem}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The key is of another certificate.
    #[error(
        "`attest`: the key in {key} is not that of the first certificate in {chain}: expected the chain, leaf first, and \
         the key of one device; perhaps only one of them was replaced"
    )]
    OtherKey {
        /// Where the chain is.
        chain: PathBuf,
        /// Where the key is.
        key: PathBuf,
    },
    /// The key file.
    #[error("`attest`: {path}: {error}")]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        error: KeyError,
    },
}

impl Proof {
    /// Whether it can be used again when the instance is lost.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        !matches!(self, Self::Ticket(_))
    }

    /// The proof that goes with the signing request `csr`.
    pub(super) async fn present(
        &self,
        client: &mut IdentityClient<Channel>,
        domain: &TrustDomain,
        csr: &[u8],
    ) -> Result<Message, IdentityError> {
        match self {
            Self::Ticket(secret) => Ok(Message::JoinToken(v1::JoinTokenProof { secret: secret.to_vec() })),
            Self::Attest(Attest::Jwt { attestor, file }) => {
                let token = token(file).await?;
                Ok(Message::Jwt(v1::JwtProof { attestor: attestor.clone(), token }))
            }
            Self::Attest(Attest::X509 { attestor, chain, key }) => {
                // Read first: who cannot answer asks for no challenge.
                let (certificates, pem) = (certificates(chain).await?, read(key, LARGEST_KEY).await?);
                belong_together(&certificates, chain, &pem, key)?;
                let csr_sha256 = sha256(csr);
                let mut request = tonic::Request::new(v1::ChallengeRequest {
                    attestor: attestor.clone(),
                    csr_sha256: csr_sha256.to_vec(),
                });
                request.set_timeout(CALL_DEADLINE);
                let answer = client.challenge(request).await.map_err(ControlError::from)?;
                let challenge = answer.into_inner().challenge;
                if challenge.is_empty() || challenge.len() > possession::MAX_CHALLENGE_BYTES {
                    return Err(ControlError::Unusable("a challenge of a wrong length".into()).into());
                }
                let message = possession::message(domain, &challenge, &csr_sha256);
                let signature = sign_with_pem_key(&pem, &message)
                    .map_err(|error| ProofError::Key { path: key.clone(), error })?;
                let attestor = attestor.clone();
                Ok(Message::X509Pop(v1::X509PopProof { attestor, chain: certificates, challenge, signature }))
            }
        }
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ticket(_) => f.write_str("Ticket(..)"),
            Self::Attest(attest) => attest.fmt(f),
        }
    }
}

async fn token(file: &Path) -> Result<String, ProofError> {
    let wrong = |problem| ProofError::Content { path: file.to_path_buf(), problem };
    let bytes = read(file, LARGEST_TOKEN).await?;
    let token = bytes.trim_ascii();
    if token.is_empty() {
        return Err(wrong("it is empty: expected a token"));
    }
    match std::str::from_utf8(token) {
        Ok(text) if token.iter().all(u8::is_ascii_graphic) => Ok(text.to_owned()),
        _ => Err(wrong("expected one token, such as eyJhbGciOi..., and nothing else")),
    }
}

async fn certificates(file: &Path) -> Result<Vec<Vec<u8>>, ProofError> {
    let wrong = |problem| ProofError::Content { path: file.to_path_buf(), problem };
    let pem = read(file, LARGEST_CHAIN).await?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .map(|certificate| certificate.map(|der| der.to_vec()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| wrong("a damaged PEM section: expected certificates, leaf first"))?;
    match certificates.len() {
        0 => Err(wrong("no PEM section `CERTIFICATE`: expected a chain, leaf first")),
        1..=MOST_CERTIFICATES => Ok(certificates),
        _ => Err(wrong("more than 5 certificates: expected a chain, leaf first, without other roots")),
    }
}

/// What control would only call not believed is said here, where the files are.
fn belong_together(certificates: &[Vec<u8>], chain: &Path, pem: &[u8], key: &Path) -> Result<(), ProofError> {
    let leaf = CertificateDer::from(certificates.first().map(Vec::as_slice).unwrap_or_default());
    let unusable = |error| ProofError::Key { path: key.to_path_buf(), error };
    match is_key_of(pem, &leaf).map_err(unusable)? {
        Some(true) => Ok(()),
        Some(false) => Err(ProofError::OtherKey { chain: chain.to_path_buf(), key: key.to_path_buf() }),
        None => Err(ProofError::Content {
            path: chain.to_path_buf(),
            problem: "its first certificate cannot be read: expected X.509 of version 3",
        }),
    }
}

/// The whole of a file of at most so many bytes; room for it is taken at once, so that no copy is left behind.
async fn read(path: &Path, most: usize) -> Result<Zeroizing<Vec<u8>>, ProofError> {
    let failed = |error| ProofError::Read { path: path.to_path_buf(), error };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).await.map_err(failed)?;
    if bytes.len() > most {
        return Err(failed(io::Error::other(format!("it has more than {most} bytes"))));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn token_of(text: &[u8]) -> Result<String, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        token(file.path()).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_token_is_one_word_of_bounded_size() {
        assert_eq!(token_of(b" eyJ.e30.sig\n").await.unwrap(), "eyJ.e30.sig");
        for (text, said) in [
            (&b""[..], "it is empty"),
            (b"\n", "it is empty"),
            (b"two words", "expected one token"),
            (b"eyJ\0", "expected one token"),
            (b"\xff", "expected one token"),
            (&[b'a'; LARGEST_TOKEN + 1], "more than 16384 bytes"),
        ] {
            let error = token_of(text).await.unwrap_err();
            assert!(error.starts_with("`attest`: ") && error.contains(said), "{error}");
        }
        token_of(&[b'a'; LARGEST_TOKEN]).await.unwrap();
    }

    #[tokio::test]
    async fn files_that_never_end_are_not_read_to_their_end() {
        let error = read(Path::new("/dev/zero"), 100).await.unwrap_err().to_string();
        assert!(error.contains("/dev/zero") && error.contains("more than 100 bytes"), "{error}");
    }

    #[tokio::test]
    async fn a_chain_has_certificates() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hello").unwrap();
        assert!(certificates(file.path()).await.unwrap_err().to_string().contains("`CERTIFICATE`"));
        let one = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        std::fs::write(file.path(), one.repeat(2)).unwrap();
        assert_eq!(certificates(file.path()).await.unwrap(), [[0x30, 0], [0x30, 0]]);
        std::fs::write(file.path(), one.repeat(6)).unwrap();
        assert!(certificates(file.path()).await.unwrap_err().to_string().contains("more than 5"));
    }

    #[test]
    fn only_a_ticket_is_good_once_and_its_secret_is_not_shown() {
        let ticket = Proof::Ticket(Zeroizing::new(vec![7; 32]));
        assert!(!ticket.is_repeatable());
        assert_eq!(format!("{ticket:?}"), "Ticket(..)");
        let jwt = Proof::Attest(Attest::Jwt { attestor: "kubernetes".into(), file: "token".into() });
        assert!(jwt.is_repeatable());
    }
}
