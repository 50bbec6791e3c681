//! What PostgreSQL says, as conditions of the port.

use deia_actors::ports::history_store::StoreError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// Classes and codes of SQLSTATE that a later try may survive.
fn may_pass(code: &str) -> bool {
    const CLASSES: [&str; 9] = ["08", "25", "28", "3D", "40", "53", "55", "57", "58"];
    // insufficient_privilege: until somebody grants it.
    code == "42501" || CLASSES.iter().any(|class| code.starts_with(class))
}

/// Classes of SQLSTATE that say: these values never.
fn is_refused(code: &str) -> bool {
    ["22", "23", "54"].iter().any(|class| code.starts_with(class))
}

/// Sorts an error.
pub(super) fn sort(error: sqlx::Error) -> StoreError {
    match &error {
        sqlx::Error::Database(cause) => {
            let code = cause.code().unwrap_or_default();
            if may_pass(&code) {
                StoreError::Unavailable(format!("{} (SQLSTATE {code})", cause.message()))
            } else if is_refused(&code) {
                // Not the message: it may quote the value.
                let rule = cause.constraint().map(|name| format!(", {name}")).unwrap_or_default();
                StoreError::Refused(format!("SQLSTATE {code}{rule}"))
            } else {
                StoreError::Corrupt(format!("{} (SQLSTATE {code})", cause.message()))
            }
        }
        sqlx::Error::Encode(_) => StoreError::Refused(error.to_string()),
        sqlx::Error::Decode(_)
        | sqlx::Error::RowNotFound
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::TypeNotFound { .. } => StoreError::Corrupt(error.to_string()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}

/// Whether the connection is gone, so that nobody says what became of the last statement.
pub(super) fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        // A server that ends a session says so even where the commit had just happened.
        sqlx::Error::Database(cause) => cause.try_downcast_ref::<PgDatabaseError>().is_none_or(|cause| {
            cause.code().starts_with("08")
                || matches!(cause.severity(), PgSeverity::Fatal | PgSeverity::Panic)
        }),
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
            true
        }
        _ => false,
    }
}

/// Whether a row with these keys is there already.
pub(super) fn is_taken(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

/// Whether a lock was held by somebody else for too long.
pub(super) fn is_locked(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|cause| cause.code()).is_some_and(|code| code == "55P03")
}
