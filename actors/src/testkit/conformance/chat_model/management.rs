//! The part of the suite on models that come and go: loading, pulling, deleting. A server that has more than that runs
//! it as a part of the whole.

use std::{future::Future, sync::Arc};

use futures_util::StreamExt;
use tokio::time::timeout;

use super::{OpenCalls, PATIENCE, untagged};
use crate::ports::chat_model::{ChatModel, ModelError, PullStep};

/// What it is run on.
pub struct Subject {
    /// The adapter.
    pub model: Arc<dyn ChatModel>,
    /// A model that the server has.
    pub name: String,
    /// A model that neither the server nor its registry has.
    pub missing: String,
    /// A model that the registry has and the server has not; none where there is no registry to ask.
    pub pullable: Option<String>,
    /// Counts the calls that the server works on, where that can be seen.
    pub open_calls: Option<OpenCalls>,
}

/// Every obligation that can be seen from outside.
///
/// # Panics
/// When one is broken.
pub async fn suite(subject: &Subject) {
    a_model_is_loaded_and_unloaded(subject).await;
    what_is_missing_is_neither_loaded_nor_deleted(subject).await;
    if let Some(name) = &subject.pullable {
        a_model_that_no_registry_has_is_not_pulled(subject).await;
        a_dropped_pull_is_closed(subject, name).await;
        a_pulled_model_is_there_until_it_is_deleted(subject, name).await;
    }
}

/// Waits for what a server does a moment after its answer.
async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let met = timeout(PATIENCE, async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    });
    assert!(met.await.is_ok(), "not in time: {what}");
}

async fn is_loaded(subject: &Subject) -> bool {
    let loaded = subject.model.loaded().await.expect("the loaded models");
    loaded.iter().any(|m| untagged(&m.name) == untagged(&subject.name))
}

async fn is_listed(subject: &Subject, name: &str) -> bool {
    let models = subject.model.models().await.expect("the models");
    models.iter().any(|m| untagged(&m.name) == untagged(name))
}

async fn a_model_is_loaded_and_unloaded(subject: &Subject) {
    for _ in 0..2 {
        assert_eq!(subject.model.load(&subject.name).await, Ok(()));
        assert!(is_loaded(subject).await, "in memory once load returned");
    }
    for _ in 0..2 {
        assert_eq!(subject.model.unload(&subject.name).await, Ok(()));
        until("out of memory after unload", || async { !is_loaded(subject).await }).await;
    }
}

async fn what_is_missing_is_neither_loaded_nor_deleted(subject: &Subject) {
    let missing = || Err(ModelError::ModelNotFound(subject.missing.clone()));
    assert_eq!(subject.model.load(&subject.missing).await, missing());
    assert_eq!(subject.model.unload(&subject.missing).await, missing());
    assert_eq!(subject.model.delete(&subject.missing).await, missing());
}

/// Reads a pull to its end: its steps, and how it ended.
async fn pulled(subject: &Subject, name: &str) -> (Vec<PullStep>, Result<(), ModelError>) {
    let all = async {
        let mut steps = vec![];
        let mut stream = match subject.model.pull(name).await {
            Ok(stream) => stream,
            Err(error) => return (steps, Err(error)),
        };
        while let Some(step) = stream.next().await {
            match step {
                Ok(step) => steps.push(step),
                Err(error) => {
                    assert_eq!(stream.next().await, None, "nothing comes after an error");
                    return (steps, Err(error));
                }
            }
        }
        (steps, Ok(()))
    };
    timeout(PATIENCE, all).await.expect("a pull ends")
}

async fn a_model_that_no_registry_has_is_not_pulled(subject: &Subject) {
    let (_, ended) = pulled(subject, &subject.missing).await;
    assert_eq!(ended, Err(ModelError::ModelNotFound(subject.missing.clone())));
    assert!(!is_listed(subject, &subject.missing).await);
}

async fn a_dropped_pull_is_closed(subject: &Subject, name: &str) {
    let mut stream = subject.model.pull(name).await.expect("a pull");
    let first = timeout(PATIENCE, stream.next()).await;
    assert!(matches!(first, Ok(Some(Ok(_)))), "{first:?}");
    drop(stream);
    if let Some(open) = &subject.open_calls {
        until("a dropped pull closes its connection", || async { open() == 0 }).await;
    }
    assert!(!is_listed(subject, name).await, "what was dropped is not there");
}

async fn a_pulled_model_is_there_until_it_is_deleted(subject: &Subject, name: &str) {
    let (steps, ended) = pulled(subject, name).await;
    assert_eq!(ended, Ok(()), "{steps:?}");
    let whole = |s: &PullStep| s.digest.is_some() && s.total.is_some() && s.completed == s.total;
    assert!(steps.iter().any(whole), "progress is told: {steps:?}");
    assert!(is_listed(subject, name).await);
    assert_eq!(pulled(subject, name).await.1, Ok(()), "again changes nothing");
    assert_eq!(subject.model.delete(name).await, Ok(()));
    assert!(!is_listed(subject, name).await);
    assert_eq!(subject.model.delete(name).await, Err(ModelError::ModelNotFound(name.to_owned())));
}
