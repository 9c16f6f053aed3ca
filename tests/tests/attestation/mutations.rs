//! Every field of every proof, changed in every way that somebody thought of, straight to control: nobody gets an SVID,
//! strangers hear one answer, and control goes on.

use std::collections::BTreeSet;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData, SerialNumber,
    SignatureAlgorithm,
};
use rustls::pki_types::CertificateDer;
use signet_proto::handshake::sign_with_pem_key;
use signet_proto::possession;
use signet_proto::spiffe::sha256;
use signet_proto::v1::attest_request::Proof;
use signet_proto::v1::{JoinTokenProof, SvidProof, X509PopProof};
use signet_tests::attest::{Joiner, Stranger};
use signet_tests::mesh::{Mesh, id};
use signet_tests::report::measured;
use tonic::{Code, Status};

use crate::{mesh_with, registration};

/// Certificates that a proof may have.
const MOST: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_a_proof_of_possession_counts() {
    let factory = Factory::new();
    let mesh = factory.mesh().await;
    mesh.apply(&registration(&id("/drill"), &["devices:subject-cn:drill-7"])).await;
    let stranger = Stranger::connect(mesh.grpc).await.expect("control is up");
    let good = factory.proof(&mesh, &stranger, &KeyPair::generate().expect("a key")).await;
    stranger.prove(Proof::X509Pop(good.clone())).await.expect("it is good");
    let issued = mesh.identities().await.len();

    let mut answers = Answers::default();
    for (what, changed) in factory.changed(&mesh, &stranger, &good).await {
        answers.add(&what, stranger.prove(Proof::X509Pop(changed)).await);
    }
    for large in [vec![good.chain[1].clone(); 10_000], vec![vec![0; 4 << 20]]] {
        let large = X509PopProof { chain: large, ..good.clone() };
        stranger.prove(Proof::X509Pop(large)).await.expect_err("it is too large to be read");
    }
    let other_request = Stranger::connect(mesh.grpc).await.expect("control is up");
    answers.add("with another request", other_request.prove(Proof::X509Pop(good.clone())).await);
    answers.are_one();

    assert_eq!(mesh.identities().await.len(), issued, "nothing was issued");
    let again = factory.proof(&mesh, &stranger, &KeyPair::generate().expect("a key")).await;
    stranger.prove(Proof::X509Pop(again)).await.expect("control goes on");
    let refusals = mesh.events().await;
    let refusals = refusals.iter().filter(|event| event["action"] == "proof.refused").count();
    assert_eq!(refusals, 10, "recorded, as many as are recorded of one address");
    mesh.verify_audit().await;
    measured("changed proofs of possession, one answer to all", answers.count);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_secret_but_the_one_is_refused() {
    let mesh = Mesh::start().await;
    mesh.workload(&id("/worker")).await;
    let ticket = mesh.ticket(&id("/worker")).await;
    let secret = Joiner::secret_of(&ticket);
    let stranger = Stranger::connect(mesh.grpc).await.expect("control is up");

    let mut wrong: Vec<(String, Vec<u8>)> = (0..secret.len() * 8)
        .map(|bit| {
            let mut changed = secret.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            (format!("bit {bit} flipped"), changed)
        })
        .collect();
    wrong.extend(
        [0, 1, secret.len() - 1].map(|length| (format!("{length} bytes"), secret[..length].to_vec())),
    );
    for (what, more) in
        [("a zero after it", vec![0]), ("a line's end after it", vec![b'\n']), ("twice", secret.clone())]
    {
        wrong.push((what.to_owned(), [secret.as_slice(), &more].concat()));
    }
    let text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    wrong.extend([
        ("in hex".to_owned(), text.clone().into_bytes()),
        ("in capital hex".to_owned(), text.to_uppercase().into_bytes()),
        ("the ticket".to_owned(), ticket.clone().into_bytes()),
    ]);
    let mut answers = Answers::default();
    for (what, secret) in wrong {
        answers.add(&what, stranger.prove(Proof::JoinToken(JoinTokenProof { secret })).await);
    }
    answers.are_one();
    assert!(mesh.identities().await.is_empty(), "nothing was issued");

    stranger.prove(Proof::JoinToken(JoinTokenProof { secret: secret.clone() })).await.expect("it is good");
    let thief = Stranger::connect(mesh.grpc).await.expect("control is up");
    answers.add("used, with another key", thief.prove(Proof::JoinToken(JoinTokenProof { secret })).await);
    answers.are_one();
    mesh.verify_audit().await;
    measured("secrets that are none, one answer to all", answers.count);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_svid_proves_its_successor_to_nobody_else() {
    let mesh = Mesh::start().await;
    mesh.workload(&id("/worker")).await;
    let joiner = Joiner::connect(mesh.grpc, &mesh.ticket(&id("/worker")).await).await.expect("control is up");
    let joined = joiner.become_instance().await.expect("a good ticket");
    let chain: Vec<CertificateDer<'static>> =
        joined.svid.chain.iter().cloned().map(CertificateDer::from).collect();
    let svid = Proof::Svid(SvidProof {});

    let anonymous = Stranger::connect(mesh.grpc).await.expect("control is up");
    let refused = anonymous.prove(svid.clone()).await.expect_err("it shows no SVID");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    for (what, chain) in [
        ("the leaf alone", chain[..1].to_vec()),
        ("the intermediate first", chain.iter().rev().cloned().collect()),
        ("of another authority", Factory::new().chain_like(&chain)),
    ] {
        // It fails in the handshake, or at the first call.
        let answer = match Stranger::connect_as(mesh.grpc, chain, &joined).await {
            Ok(stranger) => stranger.prove(svid.clone()).await.map(drop),
            Err(error) => Err(Status::unavailable(error.to_string())),
        };
        assert!(answer.is_err(), "{what}");
    }
    assert_eq!(mesh.identities().await.len(), 1, "nothing was issued");

    let itself = Stranger::connect_as(mesh.grpc, chain, &joined).await.expect("control is up");
    let next = itself.prove(svid.clone()).await.expect("its own SVID");
    assert_ne!(next.instance, joined.svid.instance);
    let again =
        itself.prove(svid.clone()).await.expect("its answer was lost: asked for again with the same key");
    assert_eq!(again.instance, next.instance, "it has one successor");
    let refused = itself.with_another_key().prove(svid).await.expect_err("nobody else succeeds it");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    mesh.verify_audit().await;
}

/// What control said to whom it does not believe.
#[derive(Default)]
struct Answers {
    different: BTreeSet<String>,
    count: usize,
}

impl Answers {
    fn add<T: std::fmt::Debug>(&mut self, what: &str, answer: Result<T, Status>) {
        let status = match answer {
            Ok(svid) => panic!("{what}: an SVID: {svid:?}"),
            Err(status) => status,
        };
        let answer = format!("{:?}: {}", status.code(), status.message());
        if self.different.insert(answer.clone()) {
            println!("{what}: {answer}");
        }
        self.count += 1;
    }

    fn are_one(&self) {
        assert_eq!(self.different.len(), 1, "one answer to all: {:#?}", self.different);
        assert!(self.different.first().is_some_and(|answer| answer.starts_with("Unauthenticated")));
    }
}

/// Another CA, with all that belongs to its devices in reach of the test.
struct Factory {
    root: Authority,
    line: Authority,
    key: KeyPair,
}

struct Authority {
    der: Vec<u8>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str, above: Option<&Self>) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = match above {
            None => params.self_signed(&key),
            Some(above) => params.signed_by(&key, &above.issuer),
        };
        let certificate = certificate.expect("a certificate");
        Self { der: certificate.der().to_vec(), pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    fn device(&self, key: &impl PublicKeyData, name: &str) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(7_u64));
        params.signed_by(key, &self.issuer).expect("a certificate").der().to_vec()
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

/// A public key that nobody has: 16384 bits of RSA.
struct Huge(Vec<u8>);

impl Huge {
    fn new() -> Self {
        let modulus: Vec<u8> = [0x00, 0xc1].into_iter().chain(std::iter::repeat_n(0x5b, 2047)).collect();
        let numbers = der(0x30, &[der(0x02, &modulus), der(0x02, &[1, 0, 1])].concat());
        Self(numbers)
    }
}

impl PublicKeyData for Huge {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("short").to_be_bytes();
    let mut header = vec![tag];
    match length {
        [0, short] if short < 0x80 => header.push(short),
        [0, short] => header.extend([0x81, short]),
        long => header.extend([&[0x82], &long[..]].concat()),
    }
    [header, content.to_vec()].concat()
}

impl Factory {
    fn new() -> Self {
        let root = Authority::new("root", None);
        let line = Authority::new("line", Some(&root));
        Self { root, line, key: KeyPair::generate().expect("a key") }
    }

    /// A mesh that believes it, by the attestor's name `devices`, and by another one, too.
    async fn mesh(&self) -> Mesh {
        let directory = std::env::temp_dir();
        let path = directory.join(format!("signet-mutations-{}.pem", std::process::id()));
        std::fs::write(&path, &self.root.pem).expect("a file");
        let attestor =
            |name: &str| format!("[attestors.{name}]\nkind = \"x509\"\nca-file = \"{}\"\n", path.display());
        let mesh = mesh_with(&(attestor("devices") + &attestor("others"))).await;
        std::fs::remove_file(path).expect("our own file");
        mesh
    }

    fn leaf(&self) -> Vec<u8> {
        self.line.device(&self.key, "drill-7")
    }

    /// A chain with these names that this authority made, for the same key.
    fn chain_like(&self, chain: &[CertificateDer<'static>]) -> Vec<CertificateDer<'static>> {
        let mut foreign = vec![CertificateDer::from(self.leaf())];
        foreign.extend(chain[1..].iter().cloned());
        foreign
    }

    /// A proof for the request of `stranger` that is good, with a leaf for `key`.
    async fn proof(&self, mesh: &Mesh, stranger: &Stranger, key: &KeyPair) -> X509PopProof {
        let chain = vec![self.line.device(key, "drill-7"), self.line.der.clone()];
        self.signed(mesh, stranger, "devices", chain, key).await
    }

    async fn signed(
        &self,
        mesh: &Mesh,
        stranger: &Stranger,
        attestor: &str,
        chain: Vec<Vec<u8>>,
        key: &KeyPair,
    ) -> X509PopProof {
        let challenge = stranger.challenge(attestor).await.expect("a challenge");
        let domain = mesh_domain(mesh);
        let message = possession::message(&domain, &challenge, &sha256(stranger.csr()));
        let signature = sign_with_pem_key(key.serialize_pem().as_bytes(), &message).expect("a signature");
        X509PopProof { attestor: "devices".to_owned(), chain, challenge, signature }
    }

    /// Each of them good but for what its name says.
    async fn changed(
        &self,
        mesh: &Mesh,
        stranger: &Stranger,
        good: &X509PopProof,
    ) -> Vec<(String, X509PopProof)> {
        let mut all = Vec::new();
        let mut add = |what: &str, change: &dyn Fn(&mut X509PopProof)| {
            let mut changed = good.clone();
            change(&mut changed);
            all.push((what.to_owned(), changed));
        };
        let (leaf, line, root) = (good.chain[0].clone(), self.line.der.clone(), self.root.der.clone());
        let other = Factory::new();
        add("no certificate", &|proof| proof.chain.clear());
        add("an empty certificate", &|proof| proof.chain[0].clear());
        add("leaf alone", &|proof| proof.chain.truncate(1));
        add("backwards", &|proof| proof.chain.reverse());
        add("root before the intermediate", &|proof| proof.chain.insert(1, root.clone()));
        add("the leaf twice", &|proof| proof.chain.insert(0, leaf.clone()));
        add("the intermediate twice", &|proof| proof.chain.push(line.clone()));
        add("another leaf after it", &|proof| proof.chain.push(self.leaf()));
        add("another root after it", &|proof| proof.chain.push(other.root.der.clone()));
        add("another intermediate of that name", &|proof| proof.chain[1] = other.line.der.clone());
        add("six certificates", &|proof| proof.chain.resize(MOST + 1, line.clone()));
        add("the root is the leaf", &|proof| proof.chain = vec![root.clone()]);
        add("the intermediate is the leaf", &|proof| proof.chain = vec![line.clone()]);
        add("a byte after the leaf", &|proof| proof.chain[0].push(0));
        add("PEM in place of DER", &|proof| proof.chain[1] = self.line.pem.clone().into_bytes());
        for place in (0..leaf.len()).step_by(7) {
            add(&format!("byte {place} of the leaf"), &|proof| proof.chain[0][place] ^= 0x01);
        }
        for place in (0..line.len()).step_by(13) {
            add(&format!("byte {place} of the intermediate"), &|proof| proof.chain[1][place] ^= 0x80);
        }
        add("no signature", &|proof| proof.signature.clear());
        add("a long signature", &|proof| proof.signature.resize(513, 1));
        add("a byte after the signature", &|proof| proof.signature.push(0));
        for place in 0..good.signature.len() {
            add(&format!("byte {place} of the signature"), &|proof| proof.signature[place] ^= 0x04);
        }
        add("no challenge", &|proof| proof.challenge.clear());
        add("half a challenge", &|proof| proof.challenge.truncate(good.challenge.len() / 2));
        add("a byte after the challenge", &|proof| proof.challenge.push(0));
        for place in 0..good.challenge.len() {
            add(&format!("byte {place} of the challenge"), &|proof| proof.challenge[place] ^= 0x20);
        }

        let chain = || vec![self.leaf(), line.clone()];
        let stolen = KeyPair::generate().expect("a key");
        all.push(("another key".into(), self.signed(mesh, stranger, "devices", chain(), &stolen).await));
        let elsewhere = self.signed(mesh, stranger, "others", chain(), &self.key).await;
        all.push(("a challenge of another attestor".into(), elsewhere));
        let bystander = Stranger::connect(mesh.grpc).await.expect("control is up");
        let theirs = self.signed(mesh, &bystander, "devices", chain(), &self.key).await;
        all.push(("a challenge for another request".into(), theirs));
        let challenge = stranger.challenge("devices").await.expect("a challenge");
        for (what, message) in [
            ("only the challenge signed", challenge.clone()),
            ("only the request signed", stranger.csr().to_vec()),
            (
                "signed for another mesh",
                possession::message(
                    &"other.mesh".parse().expect("a name"),
                    &challenge,
                    &sha256(stranger.csr()),
                ),
            ),
        ] {
            let signature =
                sign_with_pem_key(self.key.serialize_pem().as_bytes(), &message).expect("a signature");
            let challenge = challenge.clone();
            let changed = X509PopProof { attestor: "devices".into(), chain: chain(), challenge, signature };
            all.push((what.into(), changed));
        }
        let unregistered = vec![self.line.device(&self.key, "drill-8"), line.clone()];
        let unregistered = self.signed(mesh, stranger, "devices", unregistered, &self.key).await;
        all.push(("a device that nobody registered".into(), unregistered));
        let huge = vec![self.line.device(&Huge::new(), "drill-7"), line.clone()];
        all.push(("RSA of 16384 bits".into(), self.signed(mesh, stranger, "devices", huge, &self.key).await));
        for (what, kind) in [("P-384", &PKCS_ECDSA_P384_SHA384), ("Ed25519", &PKCS_ED25519)] {
            let other = KeyPair::generate_for(kind).expect("a key");
            let chain = vec![self.line.device(&other, "drill-7"), line.clone()];
            all.push((
                format!("a leaf for {what}"),
                self.signed(mesh, stranger, "devices", chain, &self.key).await,
            ));
        }
        let mut steps = vec![Authority::new("step 0", Some(&self.root))];
        for step in 1..MOST - 1 {
            let next = Authority::new(&format!("step {step}"), steps.last());
            steps.push(next);
        }
        let mut deep = vec![steps.last().expect("some").device(&self.key, "drill-7")];
        deep.extend(steps.iter().rev().map(|step| step.der.clone()));
        all.push(("a deep chain".into(), self.signed(mesh, stranger, "devices", deep, &self.key).await));
        all
    }
}

fn mesh_domain(_mesh: &Mesh) -> signet_proto::spiffe::TrustDomain {
    id("/x").parse::<signet_proto::spiffe::SpiffeId>().expect("an identity").trust_domain().clone()
}
