//! Lists as files hold them: several in PEM, or one in DER.

use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::{PemObject, SectionKind};

use super::{CrlError, RevocationList};

/// The lists in the bytes of a file, in order: PEM sections `X509 CRL` (RFC 7468) with text between them, or one list in
/// DER; each of them, or the rule that it breaks. More than `most` are too many.
///
/// # Errors
/// When there is none, or something else.
pub fn revocation_lists(
    bytes: &[u8],
    most: usize,
) -> Result<Vec<Result<RevocationList, CrlError>>, CrlError> {
    // A sequence with a length that takes bytes of its own: none is so short that it would not.
    if matches!(bytes, [0x30, 0x81..=0x83, ..]) {
        return Ok(vec![RevocationList::read(bytes)]);
    }
    // The reader passes over sections that it does not know.
    let sections = bytes.split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"-----BEGIN ")).count();
    if sections > most {
        return Err(CrlError::TooManyLists { most });
    }
    let mut lists = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
        match section {
            Ok((SectionKind::Crl, der)) => {
                lists.push(RevocationList::read(&CertificateRevocationListDer::from(der)));
            }
            Ok(_) => return Err(CrlError::PemSection),
            Err(_) => return Err(CrlError::Pem),
        }
    }
    match lists.len() {
        0 if sections == 0 => Err(CrlError::Nothing),
        found if found == sections => Ok(lists),
        _ => Err(CrlError::PemSection),
    }
}
