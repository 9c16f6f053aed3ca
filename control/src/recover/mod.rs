//! `signet-control recover`: what is lost after a disaster, what works still, and the way back. Control must not run.
//!
//! | found | done here | left to the operator |
//! | --- | --- | --- |
//! | no store | nothing | `restore`, or a new mesh |
//! | keys that do not open | registry and policy are written out as documents | bring the seal key back, or a new mesh |
//! | keys in a token that is away, or another one | the same | bring the token back, or a new mesh |
//! | the root has ended | nothing; with `--new-root`: another root and intermediate | everybody joins anew |
//! | the intermediate has ended | another one | nothing |
//! | SVIDs have ended | nothing | a ticket for each of those that cannot prove themselves |
//!
//! Invariants: nothing that could still be believed is given up without `--new-root`; what the clock says is told before
//! anything is done by it; taken twice, every step does what it does once.

mod report;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;

use crate::audit::{AuditStore, SinkAddress, newest_checkpoint};
use crate::ca::{Authority, CaError};
use crate::config::Config;
use crate::registry::{Parts, Registry};
use crate::roles::{Binding, Judged, Operator, Role, Scope, Subject};
use crate::store::model::Actor;
use crate::store::{DataDir, Location, Store};
use crate::time;

use report::Report;

/// A clock that is behind by less than this is nobody's concern.
const BEHIND: Duration = Duration::from_secs(60);
/// Where documents go unless told otherwise, in the data directory.
const DOCUMENTS: &str = "recovered.yaml";

/// What may be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Have another root take the place of one that has ended.
    pub new_root: bool,
    /// Where documents go, if the keys are lost.
    pub documents: Option<PathBuf>,
}

/// Says what is lost, does what can be done safely, and says what is left. Returns whether control can be run.
///
/// # Errors
/// When the store cannot be read, or a step fails.
pub async fn recover(recovery: &Recovery, config: &Config) -> anyhow::Result<bool> {
    let mut report = Report::new(time::now());
    let ready = look(recovery, config, &mut report).await?;
    print!("{report}");
    Ok(ready)
}

async fn look(recovery: &Recovery, config: &Config, report: &mut Report) -> anyhow::Result<bool> {
    let now = report.now();
    let kept = newest_checkpoint(&config.data_dir, config.audit_sinks.iter().filter_map(SinkAddress::file))
        .context("what the audit was like is not known")?;
    if !Store::is_filled(&config.store)? {
        report.no_store(&config.store, &config.seal_key, &config.ca_keys, kept.as_ref());
        return Ok(false);
    }
    let claim = match config.store {
        Location::Directory(_) => None,
        Location::Server(_) => Some(DataDir::claim(&config.data_dir)?),
    };
    let store = match claim.as_ref().map(DataDir::name).transpose()? {
        None => Store::open(config.store.clone(), &config.trust_domain)?,
        Some(replica) => Store::open_as(config.store.clone(), &config.trust_domain, &replica)?,
    };
    let mut is_older = false;
    if let Some(newest) = store.newest_event().await? {
        if newest.at > now + BEHIND {
            report.clock_is_behind(newest.at);
        }
        if let Some(kept) = kept.filter(|kept| kept.sequence > newest.sequence) {
            report.older_store(newest.sequence, kept.sequence, kept.at);
            is_older = true;
        }
    }
    let opened = Authority::open_with(
        store.clone(),
        config.trust_domain.clone(),
        &config.seal_key,
        &config.ca_keys,
        config.lives,
        config.crl_url.clone(),
        config.upstream.clone(),
    );
    let authority = match opened.await {
        Ok(authority) => authority,
        Err(error @ (CaError::Seal(_) | CaError::Mismatch(_) | CaError::Token(_))) => {
            let path = recovery.documents.clone().unwrap_or_else(|| config.data_dir.join(DOCUMENTS));
            write_documents(&store, config, &path).await?;
            report.no_keys(&error, &path, store.last_end(now).await?);
            report.grants(&store.roles().await?);
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    };
    let anew = match hold(&authority, now) {
        Held::Well => {
            report.authorities(&authority);
            if recovery.new_root {
                report.root_is_good(authority.root().not_after());
            }
            false
        }
        Held::Intermediate => {
            if store.is_shared() {
                store.heartbeat(now).await?;
            }
            authority.revive(now).await?;
            report.another_intermediate(&authority);
            false
        }
        Held::Root if recovery.new_root => {
            let done = authority.begin_anew(now, Actor::control()).await?;
            report.another_root(&authority, &done.effects);
            true
        }
        Held::Root => {
            report.root_has_ended(&authority.root());
            return Ok(false);
        }
    };
    report.comebacks(&store.comebacks(now).await?, anew);
    Ok(!is_older)
}

/// What keeps the authorities from signing.
enum Held {
    Well,
    Intermediate,
    Root,
}

fn hold(authority: &Authority, now: SystemTime) -> Held {
    let (root, intermediate) = (authority.root(), authority.intermediate());
    let good = |begins, ends| begins <= now && now < ends;
    if !good(root.not_before(), root.not_after()) {
        return Held::Root;
    }
    let intermediate = intermediate.certified();
    match good(intermediate.not_before(), intermediate.not_after()) {
        true => Held::Well,
        false => Held::Intermediate,
    }
}

/// All that is registered, readable without any key.
async fn write_documents(store: &Store, config: &Config, path: &Path) -> anyhow::Result<()> {
    let subject = Subject::Unix(rustix::process::geteuid().as_raw());
    let admin = Binding { subject: subject.clone(), role: Role::Admin, scope: Scope::Everything };
    let verb = signet_proto::verbs::Verb::AdminExport;
    let sight = Operator::new(subject, vec![admin], verb, Judged::default()).by_settings().sight()?;
    let registry = Registry::new(store.clone(), config.trust_domain.clone(), config.ttl);
    let yaml = registry.export(Parts::ALL, None, sight).await?;
    std::fs::write(path, yaml).with_context(|| path.display().to_string())
}
