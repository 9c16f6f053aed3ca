//! An OpenID provider that we did not write, on loopback: discovery, JWKS, and ID tokens from the
//! authorization code flow. Its signing keys are files of the test, so they can be rotated, and forged with.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::Client;
use crate::http::{Reply, request, send};
use crate::process::Process;
use crate::sockets::free_address;
use crate::tools::oidc_python;
use crate::{PATIENCE, eventually};

/// The audience of tokens that control takes.
pub const AUDIENCE: &str = "signet";

const REDIRECT: &str = "http://127.0.0.1/callback";
const EC_KEY: &str = "elliptic";

/// A running provider.
#[derive(Debug)]
pub struct Provider {
    address: SocketAddr,
    process: Process,
    directory: TempDir,
    signs_with: String,
}

/// What `tests/peers/mint.py` made, by name.
#[derive(Debug, Deserialize)]
pub struct Minted {
    /// Tokens as good as the provider's own.
    pub accepted: BTreeMap<String, String>,
    /// Tokens that nobody may believe, each for what its name says.
    pub refused: BTreeMap<String, String>,
}

impl Provider {
    /// Starts it with one RSA key that signs, and an elliptic one in its JWKS.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("signet-oidc-").tempdir().expect("a directory");
        let (address, signs_with) = (free_address(), "first".to_owned());
        make_key(directory.path(), EC_KEY, &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .await;
        make_rsa_key(directory.path(), &signs_with).await;
        sign_with(directory.path(), &signs_with);
        let process = run(address, directory.path()).await;
        Self { address, process, directory, signs_with }
    }

    /// Its issuer, which is also where it is.
    #[must_use]
    pub fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends it.
    pub async fn stop(&mut self) {
        self.process.kill().await;
    }

    /// Starts it again at the same address, with the same keys.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn start_again(&mut self) {
        self.process = run(self.address, self.directory.path()).await;
    }

    /// Publishes another key and signs with it from now on; those from before stay published.
    pub async fn rotate(&mut self, kid: &str) {
        make_rsa_key(self.directory.path(), kid).await;
        sign_with(self.directory.path(), kid);
        kid.clone_into(&mut self.signs_with);
    }

    /// Publishes a key no longer.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn withdraw(&self, kid: &str) {
        fs::remove_file(key_file(self.directory.path(), kid)).expect("it was published");
    }

    /// Requests for its JWKS that it answered so far.
    #[must_use]
    pub fn fetches(&self) -> usize {
        self.process.logs().text().matches("\"GET /jwks HTTP").count()
    }

    /// An ID token for `audience` with these claims, as a client gets it: a code for a login, a token for the
    /// code.
    ///
    /// # Panics
    /// When the provider refuses.
    pub async fn id_token(&self, audience: &str, claims: &Value) -> String {
        let set = self.send("PUT", "/users/pipeline", "application/json", &claims.to_string()).await;
        assert_eq!(set.status, 204, "{}", set.body);
        let form = "application/x-www-form-urlencoded";
        let client = format!("client_id={audience}&redirect_uri={REDIRECT}");
        let login = format!("/oauth2/authorize?response_type=code&scope=openid&{client}");
        let answer = self.send("POST", &login, form, "sub=pipeline").await;
        let location =
            answer.headers.get("location").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (_, code) = location.split_once("code=").unwrap_or_else(|| panic!("no code: {answer:?}"));
        let redeem = format!("grant_type=authorization_code&code={code}&client_secret=any&{client}");
        let answer = self.send("POST", "/oauth2/token", form, &redeem).await;
        let tokens: Value = serde_json::from_str(&answer.body).expect("a token response");
        tokens["id_token"].as_str().unwrap_or_else(|| panic!("no ID token: {tokens}")).to_owned()
    }

    /// Tokens made with its keys, good ones and forged ones; `trap` is a URL in headers that nobody may
    /// fetch.
    ///
    /// # Panics
    /// When they cannot be made.
    pub async fn mint(&self, claims: &Value, trap: &str) -> Minted {
        let keys = self.directory.path();
        let asked = json!({
            "issuer": self.issuer(), "audience": AUDIENCE, "claims": claims, "trap": trap,
            "key": key_file(keys, &self.signs_with), "kid": self.signs_with,
            "ec_key": key_file(keys, EC_KEY), "ec_kid": EC_KEY,
        });
        let mut command = oidc_python();
        command.arg(script("mint.py"));
        let minted = Client::of(command).input(asked.to_string()).run().await.succeeded();
        serde_json::from_str(&minted.stdout).expect("tokens by name")
    }

    async fn send(&self, method: &str, path: &str, kind: &str, body: &str) -> Reply {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("connection", "close")
            .header("content-type", kind)
            .body(Full::new(Bytes::from(body.to_owned())))
            .expect("a valid request");
        send(self.address, request).await.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }
}

async fn run(address: SocketAddr, keys: &Path) -> Process {
    let mut command = oidc_python();
    command.arg(script("oidc_provider.py")).arg(address.to_string()).arg(keys);
    let process = Process::start("oidc_provider.py", command);
    eventually("the OpenID provider answers", PATIENCE, async || {
        match request(address, "/.well-known/openid-configuration").await {
            Ok(reply) if reply.status == 200 => Ok(()),
            other => Err(format!("{other:?}; {}", process.logs().tail(5))),
        }
    })
    .await;
    process
}

async fn make_rsa_key(keys: &Path, kid: &str) {
    make_key(keys, kid, &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]).await;
}

/// The provider may read the directory at any time: a key is there whole or not at all.
async fn make_key(keys: &Path, kid: &str, options: &[&str]) {
    let unfinished = keys.join("unfinished");
    let openssl =
        Client::new("openssl").args(["genpkey", "-quiet"]).args(options).arg("-out").arg(&unfinished);
    let _ = openssl.run().await.succeeded();
    fs::rename(unfinished, key_file(keys, kid)).expect("our own directory");
}

fn sign_with(keys: &Path, kid: &str) {
    let unfinished = keys.join("unfinished");
    symlink(key_file(keys, kid), &unfinished).expect("our own directory");
    fs::rename(unfinished, keys.join("signing")).expect("our own directory");
}

fn key_file(keys: &Path, kid: &str) -> PathBuf {
    keys.join(format!("{kid}.pem"))
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_provider_rotates_and_everything_is_minted() {
        let mut provider = Provider::start().await;
        let claims = json!({"repository": "shop/web"});
        let first = provider.id_token(AUDIENCE, &claims).await;
        provider.rotate("second").await;
        let second = provider.id_token(AUDIENCE, &claims).await;
        assert_ne!(first.split('.').next(), second.split('.').next(), "another key signs");
        let jwks = request(provider.address, "/jwks").await.expect("it answers").body;
        assert!(jwks.contains("\"first\"") && jwks.contains("\"second\""), "{jwks}");
        provider.withdraw("first");
        let jwks = request(provider.address, "/jwks").await.expect("it answers").body;
        assert!(!jwks.contains("\"first\"") && jwks.contains("\"second\""), "{jwks}");
        let minted = provider.mint(&claims, "http://127.0.0.1:1/").await;
        assert!(minted.accepted.len() >= 3 && minted.refused.len() >= 70);
    }
}
