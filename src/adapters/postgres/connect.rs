//! Connections: what the URL says, what every session is told, and what a server must be for its commits to count.

use std::{fmt, str::FromStr, time::Duration};

use deia_actors::ports::history_store::StoreError;
use sqlx::{
    ConnectOptions, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::error;

/// The oldest server that has what is used here, in the form of `server_version_num`.
const OLDEST: i32 = 120_000;
/// A connection that nobody used for so long is closed, down to the lower bound of the pool.
const IDLE: Duration = Duration::from_secs(30 * 60);

/// The advisory lock of the one process that writes: "deia" in ASCII, and a number for its purpose.
pub(super) const WRITER_LOCK: (i32, i32) = (0x6465_6961, 1);
/// The advisory lock of whoever looks whether there is something to migrate.
pub(super) const MIGRATION_LOCK: (i32, i32) = (0x6465_6961, 2);
/// How long the lock of a process that is just ending is waited for, and a lock of any other kind.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// Where and how to reach the database.
#[derive(Clone)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database?sslmode=verify-full&sslrootcert=FILE`.
    pub url: String,
    /// Connections that are kept for reading.
    pub pool_min: u32,
    /// Connections for reading at most; one more writes.
    pub pool_max: u32,
    /// How long a connection is waited for.
    pub acquire_timeout: Duration,
    /// How long the server works on one statement at most.
    pub statement_timeout: Duration,
}

impl PostgresConfig {
    /// The usual limits for this URL.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            pool_min: 10,
            pool_max: 50,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
        }
    }
}

/// Without the URL, which may hold a password.
impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("pool_min", &self.pool_min)
            .field("pool_max", &self.pool_max)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .finish_non_exhaustive()
    }
}

/// What every session is told. Plans are made once and are those of many small look-ups by key, whatever the statistics
/// of a young or fast-growing table say; compiling one takes longer than running it.
pub(super) fn options(config: &PostgresConfig) -> Result<PgConnectOptions, StoreError> {
    let options = PgConnectOptions::from_str(&config.url)
        .map_err(|e| StoreError::Unavailable(format!("storage.url is not understood: {e}")))?;
    check_parameters(&config.url)?;
    let named = options.get_application_name().is_some();
    let options = if named { options } else { options.application_name("deia") };
    let timeout = config.statement_timeout.as_millis().to_string();
    Ok(options
        .options([
            ("statement_timeout", timeout.as_str()),
            ("default_transaction_isolation", "read committed"),
            ("client_min_messages", "warning"),
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
            ("jit", "off"),
        ])
        .disable_statement_logging())
}

/// The driver passes over a parameter that it does not know, and a misspelt `sslmode` would be none at all.
fn check_parameters(url: &str) -> Result<(), StoreError> {
    const KNOWN: [&str; 13] = [
        "sslmode",
        "sslrootcert",
        "sslcert",
        "sslkey",
        "statement-cache-capacity",
        "host",
        "hostaddr",
        "port",
        "dbname",
        "user",
        "password",
        "application_name",
        "options",
    ];
    let query = url.split_once('?').map_or("", |(_, query)| query);
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        if !KNOWN.contains(&&*key) && !key.starts_with("options[") {
            let why = format!("storage.url has an unknown parameter {key}; there are {}", KNOWN.join(", "));
            return Err(StoreError::Unavailable(why));
        }
        if matches!(&*key, "sslrootcert" | "sslcert" | "sslkey") {
            std::fs::File::open(&*value)
                .map_err(|e| StoreError::Unavailable(format!("storage.url: {key}={value}: {e}")))?;
        }
    }
    Ok(())
}

/// The pool that reads. Its connections are made when they are needed.
pub(super) fn pool(config: &PostgresConfig) -> Result<PgPool, StoreError> {
    Ok(PgPoolOptions::new()
        .min_connections(config.pool_min.min(config.pool_max))
        .max_connections(config.pool_max.max(1))
        .acquire_timeout(config.acquire_timeout)
        .idle_timeout(IDLE)
        .max_lifetime(None)
        // A sign of life before each use: after a restart of the server no read fails for it.
        .test_before_acquire(true)
        .connect_lazy_with(options(config)?))
}

/// Waits for a connection, or for an answer, only so long.
pub(super) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = sqlx::Result<T>>,
) -> sqlx::Result<T> {
    let late = || std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer within {limit:?}"));
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(sqlx::Error::Io(late())))
}

/// Refuses a server on which an acknowledged commit could get lost, or that can't hold our texts. How commits are made stays as
/// it is found here for as long as the session lives, whatever the server is set to meanwhile.
pub(super) async fn check(connection: &mut PgConnection) -> Result<(), StoreError> {
    let (version, encoding, durable, synced, standby): (i32, String, String, String, bool) = sqlx::query_as(
        "SELECT current_setting('server_version_num')::int4, current_setting('server_encoding'), \
             set_config('synchronous_commit', current_setting('synchronous_commit'), false), current_setting('fsync'), pg_is_in_recovery()",
    )
    .fetch_one(connection)
    .await
    .map_err(error::sort)?;
    let why = if version < OLDEST {
        format!("PostgreSQL {} is too old: 12 is the oldest that works", version / 10_000)
    } else if encoding != "UTF8" {
        format!("its encoding is {encoding}; make a database with ENCODING 'UTF8'")
    } else if durable == "off" {
        "synchronous_commit is off for this role, database or server, so a crash of the server could lose acknowledged \
         messages; set it to on (ALTER ROLE … SET synchronous_commit = on) or give deia another role"
            .to_owned()
    } else if synced == "off" {
        "fsync is off, so a crash of the machine could lose or damage everything; set fsync = on in postgresql.conf"
            .to_owned()
    } else if standby {
        "the server is a standby, which takes no writes; name the primary in storage.url".to_owned()
    } else {
        return Ok(());
    };
    Err(StoreError::Unavailable(why))
}
