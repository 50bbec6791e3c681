//! What SQLite says, as conditions of the port.

use deia_actors::ports::history_store::StoreError;
use rusqlite::ffi;

/// Primary result codes that a later try may survive.
fn may_pass(primary: i32) -> bool {
    matches!(
        primary,
        ffi::SQLITE_BUSY
            | ffi::SQLITE_LOCKED
            | ffi::SQLITE_NOMEM
            | ffi::SQLITE_READONLY
            | ffi::SQLITE_INTERRUPT
            | ffi::SQLITE_IOERR
            | ffi::SQLITE_FULL
            | ffi::SQLITE_CANTOPEN
            | ffi::SQLITE_PROTOCOL
            | ffi::SQLITE_PERM
            | ffi::SQLITE_AUTH
            | ffi::SQLITE_NOLFS
    )
}

/// Sorts an error of the writer's library.
pub(super) fn of_writer(error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error() {
        Some(cause) if may_pass(cause.extended_code & 0xff) => StoreError::Unavailable(error.to_string()),
        Some(_) | None => StoreError::Corrupt(error.to_string()),
    }
}

/// Sorts an error of the readers' library.
pub(super) fn of_reader(error: sqlx::Error) -> StoreError {
    match &error {
        sqlx::Error::Database(cause) => {
            let code = cause.code().and_then(|c| c.parse::<i32>().ok()).unwrap_or_default();
            if may_pass(code & 0xff) {
                StoreError::Unavailable(cause.message().to_owned())
            } else {
                StoreError::Corrupt(cause.message().to_owned())
            }
        }
        sqlx::Error::Decode(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::TypeNotFound { .. } => StoreError::Corrupt(error.to_string()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}
