//! What is said: for each thing what was found, what it means, and the command that is next.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::time::SystemTime;

use crate::audit::Checkpoint;
use crate::ca::{Authority, CaError, CaKeys, Certified, KeyPlace, SealPlace};
use crate::duration;
use crate::store::model::GrantedRole;
use crate::store::{Comeback, Location};
use crate::time;

/// Lines for the operator, in the order in which they were found.
pub(super) struct Report {
    now: SystemTime,
    text: String,
}

impl Report {
    pub(super) fn new(now: SystemTime) -> Self {
        let mut report = Self { now, text: String::new() };
        report.line(format_args!("clock: {}", time::rfc3339(now)));
        report
    }

    pub(super) fn now(&self) -> SystemTime {
        self.now
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        let _ = writeln!(self.text, "{line}");
    }

    fn next(&mut self, step: fmt::Arguments<'_>) {
        let _ = writeln!(self.text, "  next: {step}");
    }

    pub(super) fn no_store(
        &mut self,
        store: &Location,
        seal: &SealPlace,
        keys: &CaKeys,
        kept: Option<&Checkpoint>,
    ) {
        match store {
            Location::Directory(directory) => {
                self.line(format_args!("store: there is none in {}", directory.display()));
            }
            Location::Server(server) => self.line(format_args!("store: there is none at {server}")),
        }
        if let Some(Checkpoint { sequence, at, .. }) = kept {
            let at = time::rfc3339(*at);
            self.line(format_args!("  it was there: its audit went up to event {sequence}, {at}"));
        }
        let seal_is_there = match seal {
            SealPlace::File(path) => path.exists(),
            SealPlace::Keyring(_) | SealPlace::Passphrase(_) => true,
        };
        if keys.places.iter().any(|place| matches!(place, KeyPlace::Token(_))) {
            self.line(format_args!(
                "keys of authorities are in a token, and in no backup of the store: it is needed too"
            ));
        }
        if seal_is_there {
            self.line(format_args!(
                "seal key: {seal} opens the signing keys of a backup, and nothing without one"
            ));
            self.next(format_args!("signet-control restore --from BACKUP, then signet-control run"));
            self.line(format_args!(
                "  proxies come back by themselves; what was revoked since has to be revoked again"
            ));
        } else {
            self.line(format_args!("seal key: there is none at {seal}: a backup alone cannot be run"));
            self.next(format_args!("bring back both a backup and the seal key"));
        }
        self.a_new_mesh("without a backup", None);
    }

    pub(super) fn clock_is_behind(&mut self, newest: SystemTime) {
        let behind = duration::rough(newest.duration_since(self.now).unwrap_or_default());
        self.line(format_args!(
            "the clock is {behind} behind the newest audit event, {}: it is wrong now, or was then",
            time::rfc3339(newest)
        ));
        self.next(format_args!(
            "set it right before anything else; what was certified ahead of time is replaced"
        ));
    }

    pub(super) fn older_store(&mut self, newest: u64, kept: u64, at: SystemTime) {
        let (from, at) = (newest + 1, time::rfc3339(at));
        self.line(format_args!(
            "store: it lacks audit events {from} to {kept} of {at}, with what they revoked"
        ));
        self.next(format_args!(
            "restore a newer backup, or signet-control run --accept-older-store, then revoke again"
        ));
    }

    pub(super) fn no_keys(&mut self, error: &CaError, documents: &Path, last_end: Option<SystemTime>) {
        self.line(format_args!("keys: {error}"));
        match last_end {
            Some(ends) => self.line(format_args!(
                "  proxies go on with each other without control; the last SVID ends {}",
                time::rfc3339(ends)
            )),
            None => self.line(format_args!("  no SVID is good any more")),
        }
        let (what, lost) = match error {
            CaError::Token(_) => ("token", "if the token and its own backup are lost"),
            _ => ("seal key", "if the seal key is lost"),
        };
        self.next(format_args!("bring the {what} back, or its backup, then signet-control run"));
        let documents = documents.display().to_string();
        self.line(format_args!("  all that is registered was written to {documents}"));
        self.a_new_mesh(lost, Some(&documents));
    }

    fn a_new_mesh(&mut self, when: &str, documents: Option<&str>) {
        let documents = documents.unwrap_or("YOUR-DOCUMENTS");
        self.line(format_args!("{when}, a new mesh takes its place:"));
        self.next(format_args!(
            "move the data directory away, its audit is worth keeping; then signet-control run"
        ));
        self.next(format_args!("signet apply -f {documents}"));
        self.next(format_args!("signet role grant, for each who had a role"));
        self.next(format_args!(
            "signet token create ID, or signet token introduction, for each proxy: all join anew"
        ));
    }

    pub(super) fn grants(&mut self, roles: &[GrantedRole]) {
        for GrantedRole { binding, .. } in roles {
            let (role, subject, scope) = (binding.role, &binding.subject, &binding.scope);
            self.next(format_args!("signet role grant {role} {subject} --on {scope}"));
        }
    }

    pub(super) fn authorities(&mut self, authority: &Authority) {
        let (root, intermediate) = (authority.root(), authority.intermediate());
        self.line(format_args!("root: good until {}", time::rfc3339(root.not_after())));
        let ends = intermediate.certified().not_after();
        self.line(format_args!("intermediate: good until {}", time::rfc3339(ends)));
    }

    pub(super) fn root_is_good(&mut self, ends: SystemTime) {
        let ends = time::rfc3339(ends);
        self.line(format_args!("--new-root: not done, as the root is good until {ends}"));
        self.next(format_args!("signet ca prepare root, while control runs: nobody has to join anew"));
    }

    pub(super) fn another_intermediate(&mut self, authority: &Authority) {
        self.line(format_args!("intermediate: it was not good now"));
        self.line(format_args!("done: another one was made below the same root; nobody has to learn of it"));
        self.authorities(authority);
    }

    pub(super) fn root_has_ended(&mut self, root: &Certified) {
        let (begins, ends) = (time::rfc3339(root.not_before()), time::rfc3339(root.not_after()));
        self.line(format_args!("root: good from {begins} to {ends}, not now: nobody is believed by it"));
        self.line(format_args!(
            "  if the clock above is wrong, set it right, and nothing else needs to be done"
        ));
        self.next(format_args!(
            "signet-control recover --new-root: another one, which all proxies have to be told of"
        ));
    }

    pub(super) fn another_root(&mut self, authority: &Authority, effects: &[String]) {
        self.line(format_args!("done: another root and intermediate sign"));
        for effect in effects {
            self.line(format_args!("  {effect}"));
        }
        self.authorities(authority);
    }

    /// Who comes back how; after a new root nobody by themselves.
    pub(super) fn comebacks(&mut self, comebacks: &[Comeback], anew: bool) {
        self.next(format_args!("signet-control run"));
        if comebacks.is_empty() {
            self.line(format_args!("proxies and operators: none have joined yet"));
        }
        for Comeback { proof, live, ended, identities, more } in comebacks {
            let all = live + ended;
            if !anew && *live > 0 {
                self.line(format_args!(
                    "by {proof}: {live} of {all} hold an SVID that is good, and renew it"
                ));
            }
            let lost = if anew { all } else { *ended };
            if lost == 0 {
                continue;
            }
            match proof.as_str() {
                "join_token" | "svid" => {
                    self.line(format_args!(
                        "by {proof}: {lost} cannot come back by themselves; a ticket for each:"
                    ));
                    for id in identities {
                        self.next(format_args!("signet token create {id}"));
                    }
                    if *more {
                        self.next(format_args!("and so on: signet identities --all shows them"));
                    }
                }
                attestor if anew => {
                    self.line(format_args!(
                        "by {attestor}: {lost} prove themselves once they know the new root"
                    ));
                    self.next(format_args!("signet token introduction, for their join-file"));
                }
                attestor => self
                    .line(format_args!("by {attestor}: {lost} whose SVID has ended prove themselves again")),
            }
        }
        if anew {
            self.line(format_args!("operators: each a ticket of their own"));
            self.next(format_args!("signet login"));
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
