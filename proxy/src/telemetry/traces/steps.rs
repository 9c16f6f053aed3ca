//! The phases of what is traced. They are known to the task rather than passed along: the code that connects and
//! shakes hands is the same whether anybody traces it.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::Either;
use parking_lot::Mutex;
use signet_proto::tunnel::TraceParent;

use super::Context;

/// Phases of one span; what it does more often than that is told by fewer.
const MOST: usize = 32;

tokio::task_local! {
    static SCOPE: Scope;
}

/// What is being traced.
#[derive(Debug, Clone)]
pub(crate) struct Scope(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    context: Context,
    steps: Mutex<Vec<Step>>,
}

/// A phase that is over.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) begun: Instant,
    pub(super) took: Duration,
    pub(super) failed: Option<String>,
}

impl Scope {
    pub(super) fn new(context: Context) -> Self {
        Self(Arc::new(Inner { context, steps: Mutex::default() }))
    }

    pub(crate) fn context(&self) -> Context {
        self.0.context
    }

    pub(super) fn steps(&self) -> Vec<Step> {
        std::mem::take(&mut *self.0.steps.lock())
    }

    /// Adds a phase that began then and is over now.
    pub(crate) fn step(&self, name: &'static str, begun: Instant, failed: Option<String>) {
        self.add(Step { name, begun, took: begun.elapsed(), failed });
    }

    /// Adds a phase that went well.
    pub(crate) fn went_well(&self, name: &'static str, begun: Instant, took: Duration) {
        self.add(Step { name, begun, took, failed: None });
    }

    fn add(&self, step: Step) {
        let mut steps = self.0.steps.lock();
        if steps.len() < MOST {
            steps.push(step);
        }
    }
}

/// Does `work` as part of what is traced, if it is. No `async fn`, which would hold `work` twice.
pub(crate) fn within<T>(scope: Option<Scope>, work: impl Future<Output = T>) -> impl Future<Output = T> {
    match scope {
        Some(scope) => Either::Left(Box::pin(SCOPE.scope(scope, work))),
        None => Either::Right(work),
    }
}

/// What is traced now, for work that goes on in another task.
pub(crate) fn carried<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    within(SCOPE.try_with(Clone::clone).ok(), work)
}

/// Does `work` as a phase of what is traced.
pub(crate) async fn measured<T, E: Display>(
    name: &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let Ok(scope) = SCOPE.try_with(Clone::clone) else { return work.await };
    let begun = Instant::now();
    let done = work.await;
    scope.step(name, begun, done.as_ref().err().map(ToString::to_string));
    done
}

/// What the called side of what is traced now is told.
pub(crate) fn parent() -> Option<TraceParent> {
    SCOPE.try_with(|scope| scope.context().traceparent()).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_are_of_what_is_traced_and_of_nothing_else() {
        let scope = Scope::new(Context { trace: 1, span: 2, sampled: true });
        let failing = || measured("connect", async { Err::<(), _>("refused") });
        assert!(failing().await.is_err() && parent().is_none(), "nothing is traced");
        within(Some(scope.clone()), async {
            assert!(parent().is_some_and(|parent| parent.as_str().contains("-0000000000000002-")));
            let _ = failing().await;
            let elsewhere =
                tokio::spawn(carried(async { measured("handshake", async { Ok::<_, &str>(1) }).await }));
            assert_eq!(elsewhere.await.unwrap(), Ok(1));
        })
        .await;
        let steps: Vec<_> = scope.steps().into_iter().map(|step| (step.name, step.failed)).collect();
        assert_eq!(steps, [("connect", Some("refused".to_owned())), ("handshake", None)]);
    }
}
