//! Who takes part: candidates with a ticket and a request that is ready to be sent, and members with their SVID.
//! Keys and requests are made before any clock starts.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _};
use signet_proto::handshake::{Revocations, Svid, Trust, WorkloadKey};
use signet_proto::spiffe::{SpiffeId, TrustBundle, TrustDomain};
use signet_proto::ticket::JoinTicket;
use signet_proto::v1;

use super::progress::Progress;
use crate::control::Operator;
use crate::control::connection::source_address;

/// Invitations at a time: control commits what waits together.
const INVITATIONS: usize = 120;

/// A proxy before it has joined.
pub(super) struct Candidate {
    pub(super) id: SpiffeId,
    pub(super) key: WorkloadKey,
    pub(super) csr: Vec<u8>,
    pub(super) ticket: JoinTicket,
}

/// A proxy that has joined.
pub(super) struct Member {
    pub(super) svid: Svid,
    pub(super) source: Ipv4Addr,
}

/// All members, by number.
pub(super) struct Roll {
    pub(super) members: Vec<Member>,
    pub(super) trust: Arc<Trust>,
    pub(super) domain: TrustDomain,
}

/// A key and the request to certify it.
pub(super) struct Request {
    pub(super) key: WorkloadKey,
    pub(super) csr: Vec<u8>,
}

/// Registers everyone and makes their tickets, keys and requests.
pub(super) async fn candidates(
    domain: &TrustDomain,
    count: usize,
    operator: &Operator,
    progress: &Progress,
) -> Result<Vec<Candidate>> {
    let ids = (0..count).map(|number| super::id_of(domain, number)).collect::<Result<Vec<_>>>()?;
    let step = progress.step("registering workloads, making tickets", count);
    let tickets: Vec<JoinTicket> = futures_util::stream::iter(&ids)
        .map(|id| async {
            let ticket = match operator.register(id).await {
                Ok(()) => operator.invite(id).await,
                Err(error) => Err(error),
            };
            step.advance();
            ticket
        })
        .buffered(INVITATIONS)
        .try_collect()
        .await?;
    drop(step);
    let _step = progress.step("making keys", count);
    let requests = requests(&vec![None; count])?;
    let all = ids.into_iter().zip(tickets).zip(requests);
    Ok(all.map(|((id, ticket), Request { key, csr })| Candidate { id, key, csr, ticket }).collect())
}

/// One request for each of `ids`, with the name in it where it is known already.
pub(super) fn requests(ids: &[Option<SpiffeId>]) -> Result<Vec<Request>> {
    on_every_core(ids, |id| {
        let key = WorkloadKey::generate()?;
        let csr = key.csr(id.as_ref())?;
        Ok(Request { key, csr })
    })
}

/// The trust that an answer to `Attest` carries, if it is what the ticket pins.
pub(super) fn pinned_trust(ticket: &JoinTicket, bundles: &[v1::Bundle]) -> Result<Arc<Trust>> {
    let bundles = bundles.iter().map(TrustBundle::try_from).collect::<Result<Vec<_>, _>>()?;
    let [bundle] = bundles.as_slice() else { bail!("expected one bundle, got {}", bundles.len()) };
    ensure!(ticket.pins().are_in(bundle), "the bundle lacks the pinned root");
    Ok(Arc::new(Trust::new([bundle.clone()], Revocations::default())))
}

/// An SVID that `id`'s peers will believe, for this very key.
pub(super) fn checked(
    issued: Option<&v1::IssuedSvid>,
    key: &WorkloadKey,
    id: &SpiffeId,
    trust: &Trust,
) -> Result<Svid> {
    let issued = issued.context("an answer without an SVID")?;
    let chain = issued.chain.iter().map(|element| element.clone().into()).collect();
    let svid = Svid::new(chain, key.signing_key()?)?;
    svid.check(trust, signet_proto::clock::now())?;
    ensure!(svid.id() == id, "`{id}` was issued an SVID of `{}`", svid.id());
    let instance = svid.profile().instance.context("an SVID without an instance")?;
    ensure!(instance.to_string() == issued.instance, "the SVID is not of the instance that the answer names");
    Ok(svid)
}

impl Member {
    pub(super) fn new(number: usize, svid: Svid) -> Self {
        Self { svid, source: source_address(number) }
    }
}

/// `work` on every item, with all cores. For what is done while no clock runs.
pub(super) fn on_every_core<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let threads = thread::available_parallelism()?.get();
    let work = &work;
    tokio::task::block_in_place(|| {
        thread::scope(|scope| {
            let parts: Vec<_> = items
                .chunks(items.len().div_ceil(threads).max(1))
                .map(|part| scope.spawn(move || part.iter().map(work).collect::<Result<Vec<_>>>()))
                .collect();
            let mut results = Vec::with_capacity(items.len());
            for part in parts {
                results.extend(part.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??);
            }
            Ok(results)
        })
    })
}
