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

/// Primary result codes that are about what is written and not about the database.
fn content(primary: i32) -> bool {
    matches!(primary, ffi::SQLITE_CONSTRAINT | ffi::SQLITE_TOOBIG | ffi::SQLITE_MISMATCH)
}

/// Sorts an error of the writer's library.
pub(super) fn of_writer(error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error().map(|cause| cause.extended_code & 0xff) {
        Some(code) if may_pass(code) => StoreError::Unavailable(error.to_string()),
        Some(code) if content(code) => StoreError::Refused(error.to_string()),
        None if matches!(error, rusqlite::Error::ToSqlConversionFailure(_)) => {
            StoreError::Refused(error.to_string())
        }
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
        // Its connections are files: who waits for one waits for other readers.
        sqlx::Error::PoolTimedOut => StoreError::Busy("other requests come first".into()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_that_wait_too_long_for_each_other_are_no_outage() {
        let error = of_reader(sqlx::Error::PoolTimedOut);
        assert!(matches!(error, StoreError::Busy(_)), "{error}");
    }
}
