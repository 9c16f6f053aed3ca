//! Signatures of certificates, calculated once.
//!
//! Whether a signature is right depends on algorithm, key, message and signature, on nothing else, and never changes. So
//! one that was right is right when the same certificates come again, whoever asks and under whatever trust: only this
//! calculation is spared, which is most of what a chain costs. Which anchors there are, which path leads to them, times,
//! uses, constraints and revocations are looked at each time by who asks.
//!
//! Only right ones are kept, and path validation starts at the anchor: nobody without a certificate of an authority that
//! is trusted can put anything here. What a peer signs in the handshake itself never comes here.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::digest::{Context, SHA256};
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};

use super::config::provider;
use super::recent::Recent;

/// Half of those that are kept, 32 bytes each: chains of two certificates of about 4,000 peers.
const HALF: usize = 4096;

/// All algorithms that path validation may use, with their memory.
#[derive(Debug)]
pub(super) struct Signatures(Vec<Remembering>);

impl Signatures {
    /// Those of this process.
    pub(super) fn shared() -> &'static Self {
        static SHARED: LazyLock<Signatures> =
            LazyLock::new(|| Signatures::remembering(HALF, provider().signature_verification_algorithms.all));
        &SHARED
    }

    fn remembering(half: usize, algorithms: &[&'static dyn SignatureVerificationAlgorithm]) -> Self {
        let right = Arc::new(Recent::new(half));
        let remembering = |(position, algorithm): (usize, &&'static dyn SignatureVerificationAlgorithm)| {
            Remembering { position, algorithm: *algorithm, right: Arc::clone(&right) }
        };
        Self(algorithms.iter().enumerate().map(remembering).collect())
    }

    pub(super) fn algorithms(&self) -> Vec<&dyn SignatureVerificationAlgorithm> {
        self.0.iter().map(|algorithm| algorithm as &dyn SignatureVerificationAlgorithm).collect()
    }
}

#[derive(Debug)]
struct Remembering {
    /// Which of all it is: identifiers alone leave open which sizes of keys it takes.
    position: usize,
    algorithm: &'static dyn SignatureVerificationAlgorithm,
    right: Arc<Recent<()>>,
}

impl Remembering {
    /// Each part with its length, so that no two questions are the same bytes.
    fn digest(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        context.update(&self.position.to_be_bytes());
        for part in [public_key, signature, message] {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        digest
    }
}

impl SignatureVerificationAlgorithm for Remembering {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let digest = self.digest(public_key, message, signature);
        if self.right.get(&digest).is_none() {
            self.algorithm.verify_signature(public_key, message, signature)?;
            self.right.put(digest, ());
        }
        Ok(())
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }

    fn fips(&self) -> bool {
        self.algorithm.fips()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustls_pki_types::alg_id;

    use super::*;

    /// Finds right what ends in the key, and counts how often it is asked.
    #[derive(Debug, Default)]
    struct Ends(AtomicUsize);

    impl SignatureVerificationAlgorithm for Ends {
        fn verify_signature(
            &self,
            public_key: &[u8],
            message: &[u8],
            signature: &[u8],
        ) -> Result<(), InvalidSignature> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let right = message.ends_with(public_key) && signature.ends_with(public_key);
            if right { Ok(()) } else { Err(InvalidSignature) }
        }

        fn public_key_alg_id(&self) -> AlgorithmIdentifier {
            alg_id::ED25519
        }

        fn signature_alg_id(&self) -> AlgorithmIdentifier {
            alg_id::ED25519
        }
    }

    fn counting(half: usize) -> (Signatures, [&'static Ends; 2]) {
        let ends = [(); 2].map(|()| &*Box::leak(Box::<Ends>::default()));
        (Signatures::remembering(half, &[ends[0], ends[1]]), ends)
    }

    fn asked(ends: &Ends) -> usize {
        ends.0.load(Ordering::Relaxed)
    }

    #[test]
    fn right_signature_is_calculated_once_and_a_wrong_one_each_time() {
        let (signatures, [ends, _]) = counting(8);
        let algorithm = signatures.algorithms()[0];
        for _ in 0..5 {
            algorithm.verify_signature(b"k", b"message k", b"signature k").unwrap();
        }
        assert_eq!(asked(ends), 1);
        for _ in 0..5 {
            algorithm.verify_signature(b"k", b"message k", b"signature").unwrap_err();
        }
        assert_eq!(asked(ends), 6);
    }

    #[test]
    fn any_other_key_message_signature_or_algorithm_is_another_question() {
        let (signatures, [ends, other]) = counting(64);
        let algorithms = signatures.algorithms();
        algorithms[0].verify_signature(b"kk", b"message kk", b"signature kk").unwrap();
        // The last three are the same bytes in a row, cut elsewhere.
        let questions: [[&[u8]; 3]; 6] = [
            [b"xx", b"message kk", b"signature kk"],
            [b"kk", b"massage kx", b"signature kk"],
            [b"kk", b"message kk", b"signature kx"],
            [b"kks", b"message kk", b"ignature kk"],
            [b"k", b"message kk", b"ksignature kk"],
            [b"kk", b"kmessage kk", b"signature k"],
        ];
        for (number, [key, message, signature]) in questions.into_iter().enumerate() {
            let _ = algorithms[0].verify_signature(key, message, signature);
            assert_eq!(asked(ends), number + 2);
        }
        algorithms[1].verify_signature(b"kk", b"message kk", b"signature kk").unwrap();
        assert_eq!(asked(other), 1);
    }
}
