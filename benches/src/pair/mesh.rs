//! The control service of Signet's pairs: a proxy learns from it where its peer is, as in any mesh. With files for
//! identities the two would not know each other as Signet's, and would not use a connection for one stream after the
//! other.

use std::path::Path;

use anyhow::{Context as _, Result};
use signet_proto::spiffe::{SpiffeId, TrustDomain};
use tempfile::TempDir;

use super::credentials::TRUST_DOMAIN;
use super::peers::Carries;
use super::service::{GRPC_METHOD, GRPC_SERVICE, HTTP_PATH};
use crate::control::{Control, Operator};

const KINDS: [Carries; 3] = [Carries::Http1, Carries::Http2, Carries::Tcp];

/// A running control, with workloads and the documents that are about them.
pub(super) struct Mesh {
    operator: Operator,
    client: SpiffeId,
    servers: Vec<(Carries, SpiffeId)>,
    _control: Control,
    _directory: TempDir,
}

/// What the two proxies of a pair join with.
#[derive(Debug, Clone)]
pub(super) struct Tickets {
    pub(super) outbound: String,
    pub(super) inbound: String,
    /// Who the inbound proxy becomes.
    pub(super) server: String,
}

impl Mesh {
    pub(super) async fn start(program: &Path) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("signet-pair-control-").tempdir()?;
        let control = Control::start(program, TRUST_DOMAIN, directory.path(), None).await?;
        let operator = Operator::connect(&control.socket()).await?;
        let domain: TrustDomain = TRUST_DOMAIN.parse()?;
        let client = SpiffeId::new(&domain, "/client")?;
        operator.register(&client).await?;
        let mut servers = Vec::new();
        for carries in KINDS {
            let id = SpiffeId::new(&domain, path(carries))?;
            operator.register(&id).await?;
            operator.apply(document(&client, &id, carries), 1).await?;
            servers.push((carries, id));
        }
        Ok(Self { operator, client, servers, _control: control, _directory: directory })
    }

    /// For one pair that carries this.
    pub(super) async fn tickets(&self, carries: Carries) -> Result<Tickets> {
        let server = self.servers.iter().find(|(of, _)| *of == carries);
        let (_, server) = server.context("a workload of each kind was registered")?;
        Ok(Tickets {
            outbound: self.operator.invite(&self.client).await?.to_string(),
            inbound: self.operator.invite(server).await?.to_string(),
            server: server.to_string(),
        })
    }
}

fn path(carries: Carries) -> &'static str {
    match carries {
        Carries::Http1 => "/http1",
        Carries::Http2 => "/http2",
        Carries::Tcp => "/bytes",
    }
}

/// Who may call, and for what.
fn document(client: &SpiffeId, server: &SpiffeId, carries: Carries) -> String {
    let what = match carries {
        Carries::Http1 => format!(", http: {{ methods: [GET], paths: [\"{HTTP_PATH}\"] }}"),
        Carries::Http2 => format!(", grpc: {{ services: [{GRPC_SERVICE}], methods: [{GRPC_METHOD}] }}"),
        Carries::Tcp => String::new(),
    };
    let name = path(carries).trim_start_matches('/');
    format!(
        "kind: Policy\nname: {name}\ntarget: {server}\nrules:\n  - name: caller\n    allow: {{ from: [{client}]{what} }}\n"
    )
}

#[cfg(test)]
mod tests {
    use signet_proto::policy::parse_yaml;

    use super::*;

    #[test]
    fn documents_are_in_the_language_of_policy() {
        let domain: TrustDomain = TRUST_DOMAIN.parse().unwrap();
        let client = SpiffeId::new(&domain, "/client").unwrap();
        for carries in KINDS {
            let server = SpiffeId::new(&domain, path(carries)).unwrap();
            let documents = parse_yaml("bench.yaml", &document(&client, &server, carries)).unwrap();
            assert_eq!(documents.len(), 1, "{carries:?}");
            assert_eq!(documents[0].whom.to_string(), server.to_string());
        }
    }
}
