//! What others define and we speak: the SPIFFE Workload API (`spiffe`), and of Envoy's discovery protocol what secrets
//! need (`envoy`). Generated from `standard/`. Nothing of it shows a private key when it is printed.

use std::fmt;

use self::envoy::config::core::v3::DataSource;
use self::spiffe::X509svid;

/// The SPIFFE Workload API. The standard gives it no package.
pub mod spiffe {
    pub use super::generated::*;
}

pub use self::generated::{envoy, google};

#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic)]
#[allow(clippy::needless_pass_by_value, clippy::large_futures)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/standard.rs"));
}

impl fmt::Debug for X509svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509svid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataSource(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::envoy::config::core::v3::data_source::Specifier;
    use super::*;

    #[test]
    fn what_holds_a_key_does_not_show_it() {
        let svid = X509svid { x509_svid_key: b"secret".to_vec(), ..X509svid::default() };
        let source = DataSource { specifier: Some(Specifier::InlineBytes(b"secret".to_vec())) };
        let shown = format!("{svid:?} {source:?}");
        assert!(!shown.contains("secret") && !shown.contains("115, 101"), "{shown}");
    }
}
