//! Other trust domains, and their bundles as they were told last. A sequence does not go back, whoever fetched it.

use std::time::{Duration, SystemTime};

use serde_json::json;
use signet_proto::spiffe::{TrustBundle, TrustDomain};

use super::change::Change;
use super::mesh::Topics;
use super::model::{Actor, BundleEndpoint, EndpointProof, Federation, Fetched, Mutation, NewFederation};
use super::sql::{Row, Sql, values};
use super::{Refusal, Store, StoreError};
use crate::audit::Action;

/// Each is in the memory of every proxy.
const MOST: u64 = 64;
const WEB: &str = "https_web";
/// Longer reasons are cut: they are for people.
const MAX_ERROR: usize = 512;
const COLUMNS: &str = "SELECT trust_domain, url, profile, endpoint_id, web_authorities, bundle, sequence,
    refresh_hint_s, fetched_at_ms, due_at_ms, failures, error, created_at_ms, created_by FROM federation";

impl Store {
    /// All of them, by trust domain.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn federations(&self) -> Result<Vec<Federation>, StoreError> {
        self.read(all).await
    }

    /// Registers a trust domain; its bundle is due at once.
    ///
    /// # Errors
    /// [`StoreError::Exists`]; [`Refusal::TooManyFederations`].
    pub async fn create_federation(&self, new: NewFederation, actor: Actor) -> Result<Mutation, StoreError> {
        self.write(move |change| create(change, &new, &actor)).await
    }

    /// Forgets a trust domain.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_federation(&self, domain: TrustDomain, actor: Actor) -> Result<Mutation, StoreError> {
        self.write(move |change| {
            let known = require(&change.sql, &domain)?;
            change.sql.post("DELETE FROM federation WHERE trust_domain = ?1", values![domain.as_str()])?;
            let detail = json!({ "url": known.endpoint.url, "sequence": known.sequence });
            change.audit(&actor, Action::FederationDeleted, domain.as_str(), &detail)?;
            let commit = change.revise(Topics::BUNDLE, domain.as_str())?;
            let effects = vec![format!("nobody of `{domain}` is believed any more")];
            Ok(Mutation { commit, effects })
        })
        .await
    }

    /// Takes a bundle that an operator gives; its sequence counts from now on.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn replace_federated_bundle(
        &self,
        bundle: TrustBundle,
        actor: Actor,
    ) -> Result<Mutation, StoreError> {
        self.write(move |change| {
            require(&change.sql, bundle.trust_domain())?;
            change.sql.post(
                "UPDATE federation SET sequence = ?2, due_at_ms = ?3, failures = 0, error = NULL
                 WHERE trust_domain = ?1",
                values![bundle.trust_domain().as_str(), bundle.sequence(), change.at],
            )?;
            believe(change, &bundle, "given", &actor)
        })
        .await
    }

    /// Notes what came of asking for a bundle, and when it is asked next. It is a change only if the bundle is another.
    ///
    /// # Errors
    /// [`Refusal::FetchedMeanwhile`] unless all is as it was `before` the fetch: what an operator did meanwhile counts;
    /// [`StoreError::NotFound`]; [`Refusal::BundleWentBack`].
    pub async fn note_fetch(
        &self,
        before: Federation,
        fetched: Fetched,
        due: SystemTime,
        actor: Actor,
    ) -> Result<Mutation, StoreError> {
        self.write(move |change| note(change, &before, &fetched, due, &actor)).await
    }
}

fn create(change: &mut Change<'_>, new: &NewFederation, actor: &Actor) -> Result<Mutation, StoreError> {
    let domain = new.trust_domain.as_str();
    if find(&change.sql, &new.trust_domain)?.is_some() {
        return Err(StoreError::exists("federation", domain));
    }
    if change.sql.one::<u64>("SELECT count(*) FROM federation", &[])? >= MOST {
        return Err(Refusal::TooManyFederations.into());
    }
    let BundleEndpoint { url, proof } = &new.endpoint;
    let authorities = match proof {
        EndpointProof::Web { authorities } => authorities.as_deref(),
        EndpointProof::Spiffe(_) => None,
    };
    let id = proof.id().map(ToString::to_string);
    change.sql.post(
        "INSERT INTO federation (trust_domain, url, profile, endpoint_id, web_authorities, sequence, due_at_ms,
           failures, created_at_ms, created_by) VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, 0, ?6, ?7)",
        values![domain, url, proof.profile(), id.clone(), authorities, change.at, actor.as_str()],
    )?;
    let detail = json!({ "url": url, "profile": proof.profile(), "endpoint_id": id });
    change.audit(actor, Action::FederationCreated, domain, &detail)?;
    match &new.bundle {
        None => {
            let commit = change.revise(Topics::NONE, domain)?;
            let effects =
                vec![format!("`{domain}` is federated; nobody of it is believed before its bundle is here")];
            Ok(Mutation { commit, effects })
        }
        Some(bundle) => {
            change.sql.post(
                "UPDATE federation SET sequence = ?2 WHERE trust_domain = ?1",
                values![domain, bundle.sequence()],
            )?;
            believe(change, bundle, "given", actor)
        }
    }
}

fn note(
    change: &mut Change<'_>,
    before: &Federation,
    fetched: &Fetched,
    due: SystemTime,
    actor: &Actor,
) -> Result<Mutation, StoreError> {
    let domain = &before.trust_domain;
    let known = require(&change.sql, domain)?;
    let is_as_before = (known.created_at, known.sequence) == (before.created_at, before.sequence)
        && known.endpoint == before.endpoint
        && known.bundle == before.bundle;
    if !is_as_before {
        return Err(Refusal::FetchedMeanwhile(domain.clone()).into());
    }
    let unchanged =
        Mutation { commit: change.newest(), effects: vec![format!("the bundle of `{domain}` is as before")] };
    match fetched {
        Fetched::Nothing(error) => {
            change.operational();
            change.sql.post(
                "UPDATE federation SET due_at_ms = ?2, failures = ?3, error = ?4 WHERE trust_domain = ?1",
                values![domain.as_str(), due, known.failures.saturating_add(1), cut(error)],
            )?;
            Ok(unchanged)
        }
        Fetched::Distrusted => {
            change.sql.post(
                "UPDATE federation SET bundle = NULL, fetched_at_ms = ?2, due_at_ms = ?3, failures = 0, error = ?4
                 WHERE trust_domain = ?1",
                values![domain.as_str(), change.at, due, "it told a bundle without any authority"],
            )?;
            if known.bundle.is_none() {
                change.operational();
                return Ok(unchanged);
            }
            change.audit(actor, Action::FederationDistrusted, domain.as_str(), &json!({}))?;
            let commit = change.revise(Topics::BUNDLE, domain.as_str())?;
            let effects = vec![format!("`{domain}` says that nobody of it is to be believed: nobody is")];
            Ok(Mutation { commit, effects })
        }
        Fetched::Bundle(bundle, hint) => {
            if bundle.sequence() < known.sequence {
                return Err(Refusal::BundleWentBack(domain.clone()).into());
            }
            change.sql.post(
                "UPDATE federation SET sequence = ?2, refresh_hint_s = ?3, fetched_at_ms = ?4, due_at_ms = ?5,
                   failures = 0, error = NULL WHERE trust_domain = ?1",
                values![domain.as_str(), bundle.sequence(), hint.map(|hint| hint.as_secs()), change.at, due],
            )?;
            if known.bundle.as_ref() == Some(&**bundle) {
                change.operational();
                return Ok(unchanged);
            }
            believe(change, bundle, "fetched", actor)
        }
    }
}

/// From now on this is the bundle.
fn believe(
    change: &mut Change<'_>,
    bundle: &TrustBundle,
    how: &str,
    actor: &Actor,
) -> Result<Mutation, StoreError> {
    let domain = bundle.trust_domain();
    change.sql.post(
        "UPDATE federation SET bundle = ?2 WHERE trust_domain = ?1",
        values![domain.as_str(), bundle.to_jwks()],
    )?;
    let roots: Vec<String> = bundle.fingerprints().map(|root| crate::hex::encode(&root)).collect();
    let detail = json!({ "how": how, "sequence": bundle.sequence(), "authorities": roots });
    change.audit(actor, Action::FederationBundle, domain.as_str(), &detail)?;
    let commit = change.revise(Topics::BUNDLE, domain.as_str())?;
    let count = roots.len();
    let told = match count {
        1 => format!("identities of `{domain}` are believed by its root"),
        _ => format!("identities of `{domain}` are believed by its {count} roots"),
    };
    Ok(Mutation { commit, effects: vec![told] })
}

/// All of them, by trust domain.
pub(super) fn all(sql: &Sql<'_>) -> Result<Vec<Federation>, StoreError> {
    sql.all(&format!("{COLUMNS} ORDER BY trust_domain"), &[], federation)
}

fn find(sql: &Sql<'_>, domain: &TrustDomain) -> Result<Option<Federation>, StoreError> {
    sql.find(&format!("{COLUMNS} WHERE trust_domain = ?1"), values![domain.as_str()], federation)
}

fn require(sql: &Sql<'_>, domain: &TrustDomain) -> Result<Federation, StoreError> {
    find(sql, domain)?.ok_or_else(|| StoreError::missing("federation", domain.as_str()))
}

fn federation(row: &Row) -> Result<Federation, StoreError> {
    let trust_domain: TrustDomain = row.parsed(0)?;
    let proof = match (row.get::<String>(2)?.as_str(), row.get::<Option<String>>(3)?) {
        (WEB, None) => EndpointProof::Web { authorities: row.get(4)? },
        (_, Some(_)) => EndpointProof::Spiffe(row.parsed(3)?),
        (other, None) => {
            return Err(StoreError::Damaged(format!("endpoint of profile `{other}` without an ID")));
        }
    };
    let bundle = row.get::<Option<String>>(5)?.map(|text| {
        TrustBundle::from_jwks(trust_domain.clone(), &text)
            .map_err(|error| StoreError::Damaged(format!("stored bundle of `{trust_domain}`: {error}")))
    });
    Ok(Federation {
        bundle: bundle.transpose()?,
        endpoint: BundleEndpoint { url: row.get(1)?, proof },
        sequence: row.get(6)?,
        refresh_hint: row.get::<Option<u64>>(7)?.map(Duration::from_secs),
        fetched_at: row.get(8)?,
        due: row.get(9)?,
        failures: row.get(10)?,
        error: row.get(11)?,
        created_at: row.get(12)?,
        created_by: row.get(13)?,
        trust_domain,
    })
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_ERROR);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}
