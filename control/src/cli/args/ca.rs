//! Roots, intermediates and keys of tokens, one step at a time.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Wait;
use crate::duration::Span;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum CaVerb {
    /// Show roots, intermediates and keys of tokens: which signs, what the others wait for, what is needed by whom
    #[command(after_help = STATUS_EXAMPLES)]
    Status,
    /// Make the next one; it signs nothing yet. A root, and a key of tokens, is told to all proxies
    #[command(after_help = ROTATION)]
    Prepare {
        /// Which of them; `jwt` signs tokens
        #[arg(value_enum)]
        kind: CaKind,
        /// Of an intermediate: the replica that is to sign with it [default: the one that answers]
        #[arg(long, value_name = "NAME")]
        replica: Option<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Have a prepared one sign, once all proxies know it; the one before signs no more
    #[command(after_help = ROTATION)]
    Activate(Activate),
    /// Take out one that signs no more, when nothing live chains to it; or take back a prepared one
    #[command(after_help = ROTATION)]
    Retire {
        /// `root`, `intermediate`, `jwt`, or the first digits of an id of `signet ca status`
        authority: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Somebody else may have its key: replace it, have everybody renew, and end all trust in it
    #[command(after_help = COMPROMISED)]
    Compromised(Compromised),
    /// Ask a root that is kept elsewhere for an intermediate: prints the request that it is to sign
    #[command(after_help = ELSEWHERE)]
    Csr {
        /// Where to write it, PEM [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Drop the request that waits, and its key, and make another one
        #[arg(long)]
        anew: bool,
    },
    /// Take what that root has signed; below the root of now it signs at once
    #[command(after_help = ELSEWHERE)]
    Install {
        /// PEM: the intermediate, then its root; `-` reads standard input
        #[arg(long, value_name = "FILE")]
        chain: PathBuf,
        #[command(flatten)]
        wait: Wait,
    },
    /// Sign with new intermediates from now on; SVIDs that the old ones signed stay valid
    #[command(after_help = ROTATE)]
    RotateIntermediate {
        /// Only of this replica, by the first digits of its name [default: all of them]
        #[arg(long, value_name = "NAME")]
        replica: Option<String>,
    },
}

const ROTATE: &str = "\
Each replica of control signs with an intermediate of its own; `signet ca status` shows which.

Examples:
  signet ca rotate-intermediate
  signet ca rotate-intermediate --replica 3f2a91c0";

const STATUS_EXAMPLES: &str = "\
Examples:
  signet ca status
  signet ca status -o json | jq '.authorities[] | select(.phase == \"retiring\")'";

const ROTATION: &str = "\
All of this happens by itself in time. By hand, for a root:
  signet ca prepare root          in the bundle of all proxies from now on
  signet ca status                who does not know it yet
  signet ca activate root         waits for those
  signet ca retire root           when the last SVID below the old one has ended; also by itself

For the key that signs JWT-SVIDs the same, with `jwt`.";

const ELSEWHERE: &str = "\
The key of the root stays where it is; control holds that of the intermediate. With openssl at the root:
  signet ca csr --out intermediate.csr
  openssl x509 -req -in intermediate.csr -CA root.pem -CAkey root.key -days 90 -extfile ext -out intermediate.pem
  cat intermediate.pem root.pem > chain.pem
  signet ca install --chain chain.pem
  signet ca activate root          only if that root is new: when all proxies know it
where ext says
  basicConstraints = critical, CA:TRUE, pathlen:0
  keyUsage = critical, keyCertSign, cRLSign
  subjectKeyIdentifier = hash
  authorityKeyIdentifier = keyid";

const COMPROMISED: &str = "\
What happens:
  at once    another one takes its place; every proxy below it is told to renew, and does within seconds
             (of `jwt`: another key signs, and proxies get other tokens)
  --within   nobody is believed by it any more, connections that it vouched for are cut

Whoever did not renew by then has to join again: proxies that were not connected, operators (`signet login`).

Examples:
  signet ca compromised intermediate --reason 'the machine was broken into'
  signet ca compromised intermediate --replica 3f2a91c0 --reason 'this one of three machines was broken into'
  signet ca compromised root --within 5m --reason 'the key was in a backup'";

#[derive(Debug, Args)]
pub(in crate::cli) struct Compromised {
    /// `root`, `intermediate`, `jwt`, or the first digits of an id of `signet ca status`
    pub(in crate::cli) authority: String,
    /// Of intermediates the one of this replica, by the first digits of its name
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) replica: Option<String>,
    /// For how long it is believed still, so that everybody can renew; a day at most
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    pub(in crate::cli) within: Span,
    /// Why: it is kept in the audit
    #[arg(long)]
    pub(in crate::cli) reason: String,
    #[command(flatten)]
    pub(in crate::cli) wait: Wait,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Activate {
    /// `root`, `intermediate`, `jwt`, or the first digits of an id of `signet ca status`
    pub(in crate::cli) authority: String,
    /// How long to wait for proxies that do not know it yet; a minute at most
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub(in crate::cli) timeout: Span,
    /// Do not wait for proxies that do not know it: they refuse their peers until they do
    #[arg(long, conflicts_with = "timeout")]
    pub(in crate::cli) force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum CaKind {
    Root,
    Intermediate,
    Jwt,
}

impl CaKind {
    pub(in crate::cli) fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Intermediate => "intermediate",
            Self::Jwt => "jwt",
        }
    }
}
