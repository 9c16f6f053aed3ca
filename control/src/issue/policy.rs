//! What an SVID may be: judged before every signature, first or next, in this one place. Pure: no clock, no I/O. What
//! can change between the signature and its record is judged once more in the commit (`store::issuance`).
//!
//! The first SVID is refused if what is asked for is out of bounds: whoever starts something is there to mend it. A
//! next one is cut to them: a bound that an operator draws tighter must not end what runs.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use crate::duration::Span;
use crate::registry::TtlBounds;
use crate::store::model::Terms;
use crate::time;

/// Which SVID of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// Its first.
    First,
    /// A further one.
    Next,
}

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// A life; none: the workload's usual one.
    pub(super) ttl: Option<Duration>,
    /// DNS names; none: all that the workload has.
    pub(super) dns: BTreeSet<String>,
}

/// What is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Granted {
    /// The life of the SVID.
    pub(super) ttl: Duration,
    /// Its DNS names.
    pub(super) dns: Vec<String>,
}

/// Why it is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotGranted {
    /// A life out of bounds.
    #[error("ttl: an SVID of this workload lives from {} to {}, {} is asked for", Span(*min), Span(*max), Span(*asked))]
    Ttl {
        /// What was asked for.
        asked: Duration,
        /// The shortest.
        min: Duration,
        /// The longest.
        max: Duration,
    },
    /// A DNS name that the workload does not have.
    #[error("the signing request asks for the DNS name `{name}`: {}", allowed(.have))]
    Dns {
        /// Which.
        name: String,
        /// Those that it has.
        have: BTreeSet<String>,
    },
    /// The workload's time is over.
    #[error("the workload was temporary and ended at {}: it gets no SVID", time::rfc3339(*.0))]
    Ended(SystemTime),
}

impl NotGranted {
    /// The stable name used in metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Ttl { .. } => "ttl_out_of_bounds",
            Self::Dns { .. } => "foreign_dns_name",
            Self::Ended(_) => "workload_ended",
        }
    }
}

/// What an SVID that begins now may be, of a workload on these terms in a mesh with these bounds.
///
/// # Errors
/// Why there is none.
pub(super) fn grant(
    bounds: TtlBounds,
    terms: &Terms,
    asked: &Asked,
    occasion: Occasion,
    now: SystemTime,
) -> Result<Granted, NotGranted> {
    let min = terms.ttl_min.unwrap_or(bounds.min);
    let max = terms.ttl_max.unwrap_or(bounds.max).min(bounds.max).max(min);
    let ttl = match (asked.ttl, occasion) {
        (None, _) => terms.ttl,
        (Some(asked), _) if (min..=max).contains(&asked) => asked,
        (Some(asked), Occasion::Next) => asked.clamp(min, max),
        (Some(asked), Occasion::First) => return Err(NotGranted::Ttl { asked, min, max }),
    };
    let ttl = match terms.until {
        None => ttl,
        Some(until) => {
            // Certificates know whole seconds: rounded down, they end in time.
            let left = until.duration_since(now).unwrap_or_default().as_secs();
            if left == 0 {
                return Err(NotGranted::Ended(until));
            }
            ttl.min(Duration::from_secs(left))
        }
    };
    let dns = if asked.dns.is_empty() { &terms.dns } else { &asked.dns };
    if let Some(foreign) = dns.difference(&terms.dns).next() {
        return Err(NotGranted::Dns { name: foreign.clone(), have: terms.dns.clone() });
    }
    Ok(Granted { ttl, dns: dns.iter().cloned().collect() })
}

fn allowed(have: &BTreeSet<String>) -> String {
    if have.is_empty() {
        return "this workload has none, add it to its `dns`".to_owned();
    }
    let have: Vec<&str> = have.iter().map(String::as_str).collect();
    format!("this workload has only {}", have.join(", "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn bounds() -> TtlBounds {
        TtlBounds { min: seconds(60), default: seconds(3600), max: seconds(86_400) }
    }

    fn terms() -> Terms {
        Terms { ttl: seconds(3600), ttl_min: None, ttl_max: None, dns: BTreeSet::new(), until: None }
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + seconds(1_000_000)
    }

    fn first(terms: &Terms, asked: &Asked) -> Result<Granted, NotGranted> {
        grant(bounds(), terms, asked, Occasion::First, now())
    }

    fn life(ttl: u64) -> Asked {
        Asked { ttl: Some(seconds(ttl)), ..Asked::default() }
    }

    #[test]
    fn a_life_out_of_bounds_is_refused_with_them_and_a_renewal_is_cut_to_them() {
        let terms = Terms { ttl_min: Some(seconds(300)), ttl_max: Some(seconds(7200)), ..terms() };
        assert_eq!(first(&terms, &Asked::default()).unwrap().ttl, seconds(3600));
        for ttl in [300, 1000, 7200] {
            assert_eq!(first(&terms, &life(ttl)).unwrap().ttl, seconds(ttl));
        }
        for (ttl, cut) in [(0, 300), (299, 300), (7201, 7200), (1_000_000, 7200)] {
            let refused = first(&terms, &life(ttl)).unwrap_err();
            assert!(refused.to_string().contains("from 5m to 2h"), "{refused}");
            let next = grant(bounds(), &terms, &life(ttl), Occasion::Next, now()).unwrap();
            assert_eq!(next.ttl, seconds(cut));
        }
    }

    #[test]
    fn control_s_bounds_count_where_the_workload_has_none() {
        assert!(first(&terms(), &life(59)).is_err() && first(&terms(), &life(86_401)).is_err());
        assert!(first(&terms(), &life(60)).is_ok() && first(&terms(), &life(86_400)).is_ok());
        let wide = Terms { ttl_max: Some(seconds(1_000_000)), ..terms() };
        assert!(first(&wide, &life(86_401)).is_err(), "control's bounds were drawn tighter since");
    }

    #[test]
    fn dns_names_are_all_or_those_asked_for_and_never_others() {
        let terms = Terms { dns: names(&["a.example", "b.example"]), ..terms() };
        let asked = |dns: &[&str]| Asked { dns: names(dns), ..Asked::default() };
        assert_eq!(first(&terms, &asked(&[])).unwrap().dns, ["a.example", "b.example"]);
        assert_eq!(first(&terms, &asked(&["b.example"])).unwrap().dns, ["b.example"]);
        for occasion in [Occasion::First, Occasion::Next] {
            for foreign in ["c.example", "A.example", "x.a.example", "example"] {
                let asked = asked(&["a.example", foreign]);
                let refused = grant(bounds(), &terms, &asked, occasion, now()).unwrap_err();
                assert!(refused.to_string().ends_with("has only a.example, b.example"), "{refused}");
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_no_svid_outlives_the_workload_or_leaves_its_bounds(
            usual in 60_u64..86_400,
            asked in proptest::option::of(0_u64..200_000),
            until in proptest::option::of(0_u64..200_000_000),
            next: bool,
        ) {
            let until = until.map(|millis| now() + Duration::from_millis(millis));
            let terms = Terms { ttl: seconds(usual), until, ..terms() };
            let asked = Asked { ttl: asked.map(seconds), ..Asked::default() };
            let occasion = if next { Occasion::Next } else { Occasion::First };
            match grant(bounds(), &terms, &asked, occasion, now()) {
                Ok(granted) => {
                    prop_assert!(until.is_none_or(|until| now() + granted.ttl <= until));
                    prop_assert!(granted.ttl <= seconds(86_400) && granted.ttl >= seconds(1));
                }
                Err(NotGranted::Ttl { .. }) => prop_assert!(!next && asked.ttl.is_some()),
                Err(NotGranted::Ended(until)) => prop_assert!(until < now() + seconds(1)),
                Err(NotGranted::Dns { .. }) => prop_assert!(false, "no name was asked for"),
            }
        }
    }
}
