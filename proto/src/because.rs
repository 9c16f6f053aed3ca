//! Why control refused, in one stable word beside the message for people: a trailer of the gRPC status. A proxy
//! decides by it whether to prove itself anew.

use tonic::Status;
use tonic::metadata::AsciiMetadataValue;

const TRAILER: &str = "signet-because";

/// The instance's last SVID ended without a renewal.
pub const LAPSED: &str = "lapsed";
/// The same, found out when the renewal was to be recorded.
pub const INSTANCE_LAPSED: &str = "instance_lapsed";
/// Control does not know the instance, as after the restore of an older backup.
pub const INSTANCE_UNKNOWN: &str = "instance_unknown";

/// Words for what an operator took out of the mesh, exactly this instance or what it holds.
const REVOKED: [&str; 5] =
    ["revoked_instance", "revoked_certificate", "revoked_key", "instance_revoked", "certificate_revoked"];

/// Adds the word to a refusal.
#[must_use]
pub fn with(mut status: Status, word: &'static str) -> Status {
    status.metadata_mut().insert(TRAILER, AsciiMetadataValue::from_static(word));
    status
}

/// The word of a refusal, if control gave one.
#[must_use]
pub fn of(status: &Status) -> Option<&str> {
    status.metadata().get(TRAILER)?.to_str().ok()
}

/// Whether the instance is gone without anybody having decided so.
#[must_use]
pub fn is_forgotten(word: &str) -> bool {
    [LAPSED, INSTANCE_LAPSED, INSTANCE_UNKNOWN].contains(&word)
}

/// Whether an operator took out this very instance, its certificate or its key.
#[must_use]
pub fn is_revoked(word: &str) -> bool {
    REVOKED.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::RevokedBecause;

    #[test]
    fn word_travels_with_the_status() {
        let status = with(Status::permission_denied("no"), INSTANCE_UNKNOWN);
        assert_eq!(of(&status), Some("instance_unknown"));
        assert_eq!(of(&Status::permission_denied("no")), None);
    }

    #[test]
    fn words_of_revocations_are_known_here() {
        for (because, forgotten, revoked) in [
            (RevokedBecause::Identity, false, false),
            (RevokedBecause::Instance, false, true),
            (RevokedBecause::Lapsed, true, false),
            (RevokedBecause::Certificate, false, true),
            (RevokedBecause::Key, false, true),
        ] {
            assert_eq!((is_forgotten(because.as_str()), is_revoked(because.as_str())), (forgotten, revoked));
        }
    }
}
