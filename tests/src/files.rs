//! Files too large for the memory of a test.

use std::net::SocketAddr;
use std::path::Path;

use crate::client::{Client, Finished};

/// 1 GiB.
pub const GIBIBYTE: u64 = 1 << 30;

/// Writes 1 GiB that does not repeat (a key stream of zeros) and returns its BLAKE2 checksum.
///
/// # Panics
/// When it cannot be written.
pub async fn write_gibibyte(path: &Path) -> String {
    let zeros = "0".repeat(32);
    let script = r#"openssl enc -aes-128-ctr -K "$0" -iv "$0" -in /dev/zero 2>/dev/null |
        head -c "$2" | tee "$1" | b2sum"#;
    let written = Client::new("bash").args(["-c", script, &zeros]).arg(path).arg(GIBIBYTE.to_string());
    digest(&written.run().await.succeeded())
}

/// curl of a file, whose body goes into `b2sum` as it comes. Give the result to [`digest`].
#[must_use]
pub fn checksum_of(address: SocketAddr, path: &str) -> Client {
    let script = r#"set -o pipefail; curl --disable --silent --show-error --fail --noproxy '*' "$0" | b2sum"#;
    Client::new("bash").args(["-c", script, &format!("http://{address}{path}")])
}

/// The BLAKE2 checksum that was printed.
#[must_use]
pub fn digest(finished: &Finished) -> String {
    finished.stdout.split_whitespace().next().unwrap_or_default().to_owned()
}
