//! Whom a revocation means. An SVID is refused for its own sake, or for that of what signed it: who was taken out stays
//! out, but an instance whose issuer is compromised may prove itself anew.

use std::time::Duration;

use signet_proto::because;
use signet_proto::handshake::{RevokedBecause, Svid, Trust};
use signet_proto::spiffe::{CertificateHandle, certificate_handle};

use crate::mesh::Mesh;

/// Whom a revocation means that an SVID matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Revoked {
    /// Its instance, its certificate or its key: an operator took it out.
    Itself,
    /// What signed it, and nothing of its own.
    ItsIssuer,
    /// One of these: control says so, and our own list does not have it yet.
    Unclear,
}

impl Revoked {
    /// What our own list says of it, and why. Suspended workloads and lapsed instances are not meant: they come back.
    pub(super) fn listed(svid: &Svid, trust: &Trust) -> Option<(Self, RevokedBecause)> {
        let handles: Vec<_> =
            svid.chain().iter().map(|der| certificate_handle(der)).collect::<Result<_, _>>().ok()?;
        let (leaf, issuers) = handles.split_first()?;
        let of = |instance, chain: &[CertificateHandle]| {
            let because = trust.revocations().matching(svid.id(), instance, chain);
            because.filter(|because| !matches!(because, RevokedBecause::Identity | RevokedBecause::Lapsed))
        };
        let itself =
            of(svid.profile().instance.as_ref(), &[]).or_else(|| of(None, std::slice::from_ref(leaf)));
        let its_issuer = || of(None, issuers).map(|because| (Self::ItsIssuer, because));
        itself.map(|because| (Self::Itself, because)).or_else(its_issuer)
    }

    /// What control's word says of it. That an element of the chain is revoked it says of the leaf and of an issuer alike:
    /// our own list tells them apart.
    fn said(word: Option<&str>, svid: &Svid, mesh: &Mesh) -> Option<Self> {
        let word = word.filter(|word| because::is_revoked(word))?;
        if ![RevokedBecause::Certificate, RevokedBecause::Key].iter().any(|of_any| of_any.as_str() == word) {
            return Some(Self::Itself);
        }
        let listed = mesh.credentials().and_then(|(_, trust)| Self::listed(svid, &trust));
        Some(listed.map_or(Self::Unclear, |(whom, _)| whom))
    }

    /// What is known of an SVID that could not be renewed: by control's word, if it answered, and by our own list, which
    /// holds while control is away. That an operator took it out is never taken back, even when the list forgets it.
    pub(super) fn known(word: Option<&str>, svid: &Svid, mesh: &Mesh, before: Option<Self>) -> Option<Self> {
        let listed = || Some(Self::listed(svid, &mesh.credentials()?.1)?.0);
        before
            .filter(|before| *before == Self::Itself)
            .or_else(|| Self::said(word, svid, mesh))
            .or_else(listed)
            .or(before)
    }

    /// Whether the instance is lost, so that who can prove itself again should: of what was revoked only for its issuer.
    pub(super) fn is_lost(known: Option<Self>, word: Option<&str>, left: Duration) -> bool {
        match known {
            Some(whom) => whom == Self::ItsIssuer,
            None => left.is_zero() || word.is_some_and(because::is_forgotten),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
    use signet_proto::handshake::{Revocations, WorkloadKey};
    use signet_proto::spiffe::InstanceId;
    use signet_proto::v1;

    use super::*;
    use crate::connections::Connections;
    use crate::testing::{DOMAIN, TestAuthority, bundle};

    /// An SVID that an intermediate signed, and what a list can say of it.
    struct Scene {
        root: TestAuthority,
        svid: Arc<Svid>,
    }

    impl Scene {
        fn new() -> Self {
            let root = TestAuthority::new();
            let issuing = root.intermediate();
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
            let life = Duration::from_secs(3600).try_into().unwrap();
            let id = format!("spiffe://{DOMAIN}/orders");
            let leaf = issuing.leaf(&key, &id, InstanceId::random().unwrap(), life);
            let key = WorkloadKey::signing_key_from_pem(key.serialize_pem().as_bytes()).unwrap();
            Self { root, svid: Arc::new(Svid::new(vec![leaf, issuing.root], key).unwrap()) }
        }

        fn certificate(&self, place: usize) -> v1::Revocations {
            let handle = certificate_handle(&self.svid.chain()[place]).unwrap();
            let (issuer_sha256, serial) = (handle.issuer_sha256.to_vec(), handle.serial);
            let certificates = vec![v1::RevokedCertificate { issuer_sha256, serial }];
            v1::Revocations { certificates, ..Default::default() }
        }

        fn key(&self, place: usize) -> v1::Revocations {
            let handle = certificate_handle(&self.svid.chain()[place]).unwrap();
            v1::Revocations { keys: vec![handle.spki_sha256.to_vec()], ..Default::default() }
        }

        fn instance(&self, lapsed: bool) -> v1::Revocations {
            let instance = self.svid.profile().instance.unwrap().to_string();
            v1::Revocations {
                instances: vec![v1::RevokedInstance { instance, lapsed }],
                ..Default::default()
            }
        }

        fn identity(&self) -> v1::Revocations {
            v1::Revocations { identities: vec![self.svid.id().to_string()], ..Default::default() }
        }

        fn listed(&self, list: v1::Revocations) -> Option<Revoked> {
            let trust = Trust::new([bundle([&self.root])], Revocations::try_from(list).unwrap());
            Revoked::listed(&self.svid, &trust).map(|(whom, _)| whom)
        }
    }

    fn both(one: v1::Revocations, other: v1::Revocations) -> v1::Revocations {
        v1::Revocations {
            identities: [one.identities, other.identities].concat(),
            instances: [one.instances, other.instances].concat(),
            certificates: [one.certificates, other.certificates].concat(),
            keys: [one.keys, other.keys].concat(),
        }
    }

    #[test]
    fn our_own_list_tells_an_svid_from_what_signed_it() {
        let scene = Scene::new();
        for (what, list, whom) in [
            ("nothing", v1::Revocations::default(), None),
            ("suspended", scene.identity(), None),
            ("lapsed", scene.instance(true), None),
            ("instance", scene.instance(false), Some(Revoked::Itself)),
            ("leaf", scene.certificate(0), Some(Revoked::Itself)),
            ("its key", scene.key(0), Some(Revoked::Itself)),
            ("issuer", scene.certificate(1), Some(Revoked::ItsIssuer)),
            ("issuer's key", scene.key(1), Some(Revoked::ItsIssuer)),
            ("lapsed, and the leaf", both(scene.instance(true), scene.certificate(0)), Some(Revoked::Itself)),
            ("lapsed, and its issuer", both(scene.instance(true), scene.key(1)), Some(Revoked::ItsIssuer)),
            ("leaf and issuer", both(scene.certificate(1), scene.key(0)), Some(Revoked::Itself)),
        ] {
            assert_eq!(scene.listed(list), whom, "{what}");
        }
    }

    #[test]
    fn control_s_word_and_our_own_list_say_together_whom_a_revocation_means() {
        let scene = Scene::new();
        let mesh = Mesh::new(Arc::new(Connections::default()));
        let listed = |list| {
            mesh.update(|inputs| {
                inputs.svid = Some(Arc::clone(&scene.svid));
                inputs.bundles = vec![bundle([&scene.root])];
                inputs.revocations = Revocations::try_from(list).unwrap();
            })
            .unwrap();
        };
        let said = |word| Revoked::said(Some(word), &scene.svid, &mesh);
        listed(v1::Revocations::default());
        assert_eq!(said("revoked_certificate"), Some(Revoked::Unclear));
        listed(both(scene.certificate(1), scene.key(1)));
        assert_eq!(said("revoked_certificate"), Some(Revoked::ItsIssuer));
        assert_eq!(said("revoked_key"), Some(Revoked::ItsIssuer));
        for own in ["revoked_instance", "instance_revoked", "certificate_revoked"] {
            assert_eq!(said(own), Some(Revoked::Itself), "{own}");
        }
        for other in ["revoked_identity", "lapsed", "instance_unknown"] {
            assert_eq!(said(other), None, "{other}");
        }
        listed(both(scene.certificate(1), scene.certificate(0)));
        assert_eq!(said("revoked_certificate"), Some(Revoked::Itself));

        // Taken out is taken out; what else is known is what was heard last.
        let known = |word, before| Revoked::known(word, &scene.svid, &mesh, before);
        assert_eq!(known(Some("revoked_key"), Some(Revoked::Itself)), Some(Revoked::Itself));
        assert_eq!(known(None, None), Some(Revoked::Itself), "our own list says so, while control is away");
        assert_eq!(known(Some("lapsed"), None), Some(Revoked::Itself), "and whatever else control says");
        mesh.update(|inputs| inputs.revocations = Revocations::default()).unwrap();
        assert_eq!(known(None, Some(Revoked::Itself)), Some(Revoked::Itself));
        assert_eq!(known(None, Some(Revoked::Unclear)), Some(Revoked::Unclear));
        assert_eq!((known(None, None), known(Some("lapsed"), None)), (None, None));
    }
}
