//! Whether a database can be used, and what somebody has to do where it can't: asked before anything is opened.

use deia_actors::ports::history_store::StoreError;
use sqlx::{ConnectOptions, Connection, PgConnection};

use super::connect::{self, PostgresConfig};

/// Why a database can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    /// Nobody answers, or not yet: a later try may do.
    #[error("{0}")]
    Away(String),
    /// It will be the same the next time.
    #[error("{why}.{}{advice}", if advice.is_empty() { "" } else { " " })]
    Wrong {
        /// What is wrong, and sometimes what to do.
        why: String,
        /// What to do.
        advice: &'static str,
    },
}

/// What a server says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Reached {
    /// Connections that it allows in all.
    pub connections: u32,
}

/// Connects once and looks whether deia can work there.
///
/// # Errors
/// [`Obstacle`].
pub async fn reach(config: &PostgresConfig) -> Result<Reached, Obstacle> {
    let options = connect::options(config).map_err(|e| wrong(e.to_string(), "Correct storage.url."))?;
    let mut connection =
        connect::within(config.acquire_timeout, options.connect()).await.map_err(obstacle)?;
    let Ok(reached) = tokio::time::timeout(config.acquire_timeout, look(&mut connection)).await else {
        return Err(Obstacle::Away(format!("no answer within {:?}", config.acquire_timeout)));
    };
    // An error while closing says nothing that the look did not say.
    connection.close().await.ok();
    reached
}

async fn look(connection: &mut PgConnection) -> Result<Reached, Obstacle> {
    if let Err(error) = connect::check(connection).await {
        let (StoreError::Unavailable(why)
        | StoreError::Busy(why)
        | StoreError::Corrupt(why)
        | StoreError::Refused(why)) = error;
        // Where the connection still works, the words say what to change; else it ended while we looked.
        return Err(if connection.ping().await.is_ok() { wrong(why, "") } else { Obstacle::Away(why) });
    }
    let (read_only, schema, may_create, connections): (String, Option<String>, Option<bool>, i32) =
        sqlx::query_as(
            "SELECT current_setting('transaction_read_only'), current_schema()::text, \
                 has_schema_privilege(current_schema(), 'CREATE'), \
                 current_setting('max_connections')::int4 - current_setting('superuser_reserved_connections')::int4",
        )
        .fetch_one(connection)
        .await
        .map_err(obstacle)?;
    match schema {
        None => {
            let why = "no schema of the search_path exists, or none may be used";
            Err(wrong(why, "Grant USAGE and CREATE on one, or correct the search_path."))
        }
        Some(schema) if may_create != Some(true) => Err(wrong(
            format!("this role may not create tables in the schema {schema}"),
            "Make it the owner of the database (ALTER DATABASE … OWNER TO …), or GRANT CREATE ON SCHEMA to it.",
        )),
        Some(_) if read_only == "on" => Err(wrong(
            "transactions are read-only there",
            "Set default_transaction_read_only = off for this role and database.",
        )),
        Some(_) => Ok(Reached { connections: u32::try_from(connections).unwrap_or(0) }),
    }
}

fn wrong(why: impl Into<String>, advice: &'static str) -> Obstacle {
    Obstacle::Wrong { why: why.into().trim_end_matches('.').to_owned(), advice }
}

/// Sorts the error of a first connection.
fn obstacle(error: sqlx::Error) -> Obstacle {
    match error {
        sqlx::Error::Database(cause) => {
            let (code, why) = (cause.code().unwrap_or_default().into_owned(), cause.message().to_owned());
            match &*code {
                "28P01" => wrong(why, "Check user and password in storage.url, or PGPASSWORD, or ~/.pgpass."),
                "28000" if why.contains("no encryption") || why.contains("SSL off") => wrong(
                    why,
                    "The server asks for TLS: use sslmode=verify-full, or at least sslmode=require.",
                ),
                "28000" => wrong(why, "Check the user in storage.url and the server's pg_hba.conf."),
                "3D000" => wrong(why, "Make it: CREATE DATABASE … OWNER … ENCODING 'UTF8'."),
                "42501" => wrong(why, "GRANT CONNECT ON DATABASE to this role."),
                // Too many connections, starting, stopping, out of memory, an error of the system below it.
                _ if ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => {
                    Obstacle::Away(why)
                }
                _ => wrong(format!("{why} (SQLSTATE {code})"), "The log of the server may say more."),
            }
        }
        sqlx::Error::Tls(cause) => untrusted(cause.to_string()),
        // What rustls says while it shakes hands arrives as an invalid answer.
        sqlx::Error::Io(cause) if cause.kind() == std::io::ErrorKind::InvalidData => {
            untrusted(cause.to_string())
        }
        sqlx::Error::Configuration(cause) => wrong(cause.to_string(), "Correct storage.url."),
        other => Obstacle::Away(other.to_string()),
    }
}

fn untrusted(why: String) -> Obstacle {
    let advice = if why.contains("does not support TLS") {
        "Set ssl = on there, or use sslmode=prefer on a network that nobody else can read."
    } else if why.contains("not valid for name") || why.contains("NotValidForName") {
        "Use the host name that is in its certificate, or give it a certificate with this name."
    } else {
        "Name the CA that signed its certificate: sslrootcert=FILE."
    };
    wrong(format!("TLS with the server failed: {why}"), advice)
}
