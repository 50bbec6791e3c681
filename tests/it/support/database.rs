//! The database of a test: a file in its folder or, with `TEST_DATABASE=postgres`, one of its own on the server that
//! `scripts/with-postgres` runs.

use std::{env, sync::Arc, thread};

use reqwest::Url;
use sqlx::{
    AssertSqlSafe, Connection, Executor,
    postgres::{PgConnectOptions, PgConnection},
};
use uuid::Uuid;

/// Where a test keeps its record.
#[derive(Clone)]
pub enum Database {
    /// A file in the folder of the test.
    Sqlite,
    /// One that goes with its last holder.
    Postgres(Arc<PostgresDatabase>),
}

impl Database {
    /// What `TEST_DATABASE` asks for: SQLite where it is not set.
    pub fn asked_for() -> Self {
        match variable("TEST_DATABASE").as_deref() {
            None | Some("sqlite") => Self::Sqlite,
            Some("postgres") => Self::postgres(),
            Some(other) => panic!("TEST_DATABASE is sqlite or postgres, not {other:?}"),
        }
    }

    /// PostgreSQL, whatever is asked for.
    pub fn postgres() -> Self {
        Self::Postgres(Arc::new(PostgresDatabase::create()))
    }

    /// The settings that lead a service to it.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Sqlite => vec![],
            // Tests run side by side on one server.
            Self::Postgres(database) => vec![
                ("storage.url", database.url().to_owned()),
                ("storage.pool_min", "1".to_owned()),
                ("storage.pool_max", "8".to_owned()),
            ],
        }
    }
}

/// An empty database with a name of its own.
pub struct PostgresDatabase {
    url: Url,
    server: Url,
}

impl PostgresDatabase {
    /// Makes one on the server of [`server_url`].
    fn create() -> Self {
        Self::create_on(server_url())
    }

    /// Makes one on the server that this superuser's URL leads to.
    pub fn create_on(server: Url) -> Self {
        let name = format!("it_{}", Uuid::now_v7().simple());
        execute(&server, &format!("CREATE DATABASE {name}"));
        let mut url = server.clone();
        url.set_path(&name);
        Self { url, server }
    }

    /// A superuser's URL of it.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.url.path().trim_start_matches('/')
    }

    /// Runs statements in it.
    pub fn execute(&self, sql: &str) {
        execute(&self.url, sql);
    }

    /// Runs statements in the database that every server has.
    pub fn execute_on_server(&self, sql: &str) {
        execute(&self.server, sql);
    }

    /// This database as somebody else sees it.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        let mut url = self.url.clone();
        url.set_username(user).expect("a user");
        url.set_password(Some(password)).expect("a password");
        url.into()
    }
}

impl Drop for PostgresDatabase {
    fn drop(&mut self) {
        // Connections of a process that was just killed may not have noticed yet.
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name());
        if thread::panicking() {
            // The server may be the reason; the test has failed already.
            let _ = try_execute(&self.server, &sql);
        } else {
            execute(&self.server, &sql);
        }
    }
}

/// The server that `scripts/with-postgres` runs.
pub fn server_url() -> Url {
    let Some(url) = variable("TEST_POSTGRES_URL") else {
        panic!("TEST_POSTGRES_URL is not set: run this with scripts/with-postgres cargo test …");
    };
    Url::parse(&url).expect("TEST_POSTGRES_URL is a URL")
}

#[allow(clippy::disallowed_methods, reason = "how scripts/test talks to tests")]
pub(super) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn execute(url: &Url, sql: &str) {
    try_execute(url, sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Outside of the runtime of the test, which may have one thread only, and in which a drop can't await.
fn try_execute(url: &Url, sql: &str) -> Result<(), sqlx::Error> {
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let options: PgConnectOptions = url.as_str().parse()?;
            let mut connection = PgConnection::connect_with(&options).await?;
            connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await?;
            connection.close().await
        })
    };
    thread::scope(|scope| scope.spawn(work).join().expect("no panic"))
}
