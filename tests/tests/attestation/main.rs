//! Workloads that prove themselves by what others vouch for: tokens of an OpenID provider and certificates of
//! another CA, both made by software that we did not write.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod devices;
mod forgeries;
mod mutations;
mod tokens;

use serde_json::Value;
use signet_tests::mesh::{Mesh, Store};
use signet_tests::oidc::{AUDIENCE, Provider};
use signet_tests::proxy::ProxyBuilder;
use signet_tests::sockets::free_address;

/// Control's settings for tokens of `provider`, by the attestor's name `ci`.
pub(crate) fn believes(provider: &Provider) -> String {
    format!(
        "[attestors.ci]\nkind = \"jwt\"\nprofile = \"generic\"\nissuer = \"{}\"\naudience = [\"{AUDIENCE}\"]\n\
         allow-addresses = [\"127.0.0.0/8\"]\nclaims = {{ repository = \"repository\" }}\n",
        provider.issuer()
    )
}

/// A mesh whose control has these settings.
pub(crate) async fn mesh_with(config: &str) -> Mesh {
    Mesh::on(Store::Sqlite).config(config).start().await
}

/// A document that registers a workload for whoever proves all of `selectors`.
pub(crate) fn registration(id: &str, selectors: &[&str]) -> String {
    let selectors: Vec<String> = selectors.iter().map(|selector| format!("\"{selector}\"")).collect();
    format!(
        "kind: Workload\nid: {id}\nowner: {{ team: team-tests }}\npurpose: end-to-end test\nselectors: [{}]\n",
        selectors.join(", ")
    )
}

/// What a proof is answered with that the joiner itself does not send: it says what is wrong with the file.
pub(crate) const NOT_SENT: &str = "not sent";

/// What control answers to this proof: a status and a message; or [`NOT_SENT`].
pub(crate) async fn refusal(introduction: &str, proof: &str) -> String {
    const REFUSED: &str = "control refused (";
    let proxy = ProxyBuilder::attesting(introduction, proof).inbound("tcp://", free_address());
    let mut proxy = proxy.start_unready().await;
    // Whether it goes on trying is its own affair.
    proxy.process.expect_end();
    let refused = |event: &Value| {
        assert!(event["fields"]["message"] != "joined the mesh", "control believes {proof}");
        let fields = event["fields"].to_string();
        fields.contains(REFUSED) || fields.contains("`attest`: ")
    };
    let line = proxy.process.wait_for_log(&format!("refused: {proof}"), refused).await;
    if !line["fields"].to_string().contains(REFUSED) {
        return NOT_SENT.to_owned();
    }
    let text = |value: &Value| {
        value.as_str().and_then(|text| text.split_once(REFUSED)).map(|(_, rest)| rest.to_owned())
    };
    let fields = line["fields"].as_object().expect("fields of an event");
    fields.values().find_map(text).expect("one of them has it")
}
