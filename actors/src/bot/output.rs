//! Whether a whole answer has the form that was asked for.

use serde_json::Value;
use tokio::sync::Semaphore;

use super::turn_end::End;
use crate::{
    domain::{
        output_format,
        problem::{Code, Problem},
    },
    ports::chat_model::ChatDone,
};

/// Checks that run at once in this process: each may take a core for a while, and some memory.
static CHECKS: Semaphore = Semaphore::const_new(2);

/// The end of a turn whose answer is whole: failed where a form was asked for that it does not have. The text is kept.
pub(super) async fn judged(format: Option<Value>, text: String, done: ChatDone) -> End {
    let Some(format) = format.filter(|format| !format.is_null()) else {
        return End::Completed(done);
    };
    // A long text takes its time, and other turns run on this thread.
    // It goes on when its turn is stopped, so it holds its place itself. The semaphore is never closed.
    let place = CHECKS.acquire().await;
    let check = tokio::task::spawn_blocking(move || {
        let _place = place;
        output_format::deviations(&format, &text)
    });
    let errors = match check.await {
        Ok(errors) => errors,
        Err(error) => {
            tracing::error!(%error, "the check of an answer ended abnormally");
            return End::Failed(Problem::new(Code::Internal, "The form of the answer could not be checked."));
        }
    };
    let Some(first) = errors.first() else { return End::Completed(done) };
    let cut = match done.is_cut() {
        true => " It ended at its longest length: raise num_predict or num_ctx.",
        false => "",
    };
    let detail = format!(
        "The answer does not have the form asked for: {} {}.{cut} It is kept.",
        first.field, first.reason
    );
    End::Invalid(done, Problem { errors, ..Problem::new(Code::OutputInvalid, detail) })
}
