//! A database of its own for every test, on the server that `TEST_POSTGRES_URL` names.

use std::time::Duration;

use deia_actors::{
    domain::{ids::BotId, message::Conversation},
    ports::history_store::HistoryStore,
    testkit::conformance::{Subject, samples},
};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

use super::super::{PostgresConfig, PostgresStore};

/// The server's address, as its superuser.
fn server_url() -> String {
    #[allow(clippy::disallowed_methods, reason = "which server the tests may use is no setting of the program")]
    std::env::var("TEST_POSTGRES_URL").expect(
        "TEST_POSTGRES_URL names no PostgreSQL: run scripts/test, or scripts/with-postgres cargo test, which start one",
    )
}

/// An empty database; dropped with it.
pub(super) struct Database {
    pub(super) name: String,
}

impl Database {
    pub(super) async fn create() -> Self {
        let name = format!("deia_test_{}", Uuid::now_v7().simple());
        let mut server = server_url().parse::<PgConnectOptions>().unwrap().connect().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut server).await.unwrap();
        server.close().await.unwrap();
        Self { name }
    }

    fn options(&self) -> PgConnectOptions {
        server_url().parse::<PgConnectOptions>().unwrap().database(&self.name)
    }

    /// A connection beside the store: an administrator, or another program.
    pub(super) async fn admin(&self) -> PgConnection {
        self.options().connect().await.unwrap()
    }

    /// Runs statements beside the store.
    pub(super) async fn run(&self, sql: &'static str) {
        let mut admin = self.admin().await;
        sqlx::raw_sql(sql).execute(&mut admin).await.unwrap();
        admin.close().await.unwrap();
    }

    /// Short limits, so that tests of them end soon.
    pub(super) fn config(&self) -> PostgresConfig {
        let url = self.options().to_url_lossy();
        PostgresConfig { pool_min: 0, pool_max: 4, ..PostgresConfig::new(url) }
    }

    /// The same through another port of this machine.
    pub(super) fn config_through(&self, port: u16) -> PostgresConfig {
        let url = self.options().host("127.0.0.1").port(port).to_url_lossy();
        PostgresConfig { url: format!("{url}&sslmode=disable"), ..self.config() }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let work = async move {
            let mut server = server_url().parse::<PgConnectOptions>()?.connect().await?;
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut server).await?;
            server.close().await
        };
        // A destructor can't wait, and the runtime around it may be the one of a single thread.
        let thread = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(work).map_err(std::io::Error::other)
        });
        // The server is thrown away with what could not be dropped.
        thread.join().ok();
    }
}

/// A store on such a database.
pub(super) struct OnServer {
    pub(super) store: PostgresStore,
    pub(super) database: Database,
}

impl OnServer {
    /// With one bot and its main conversation.
    pub(super) async fn with_bot() -> (Self, BotId, Conversation) {
        let server = Self::create().await;
        let (id, main) = launch(&server.store).await;
        (server, id, main)
    }
}

/// Launches a bot.
pub(super) async fn launch(store: &PostgresStore) -> (BotId, Conversation) {
    let id = BotId::numbered(1);
    let (fact, main) = samples::launch(&id);
    assert!(store.commit(vec![fact]).await.unwrap()[0].applied);
    (id, main)
}

impl Subject for OnServer {
    type Store = PostgresStore;
    async fn create() -> Self {
        let database = Database::create().await;
        let store = PostgresStore::open(&database.config()).await.unwrap();
        Self { store, database }
    }
    fn store(&self) -> &PostgresStore {
        &self.store
    }
    async fn reopen(self) -> Self {
        self.store.close().await;
        let store = PostgresStore::open(&self.database.config()).await.unwrap();
        Self { store, database: self.database }
    }
}

/// Waits for something that happens soon, on a busy machine with a slow disk too.
pub(super) async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), work).await.expect("it happens soon")
}
