//! Where a history is kept: a file, or a database on a PostgreSQL server that is killed, frozen and cut off from the service.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use deia::adapters::{
    postgres::{PostgresConfig, PostgresStore},
    sqlite::SqliteStore,
};
use deia_actors::ports::storage::Storage;
use parking_lot::Mutex;
use reqwest::Url;
use tempfile::TempDir;

use crate::{
    plan::{self, Fault},
    proxy::Proxy,
    shared::support::{PostgresDatabase, PostgresServer, Signal},
};

/// What a server of histories is told.
const SERVER: &str = "max_connections = 40\nshared_buffers = '16MB'\n";

/// How long the record may take to open for the judge: how fast the machine is, is not judged.
const OPENING: Duration = Duration::from_secs(120);

/// Servers that no history uses now: making one takes longer than a history.
#[derive(Default)]
pub struct Servers(Mutex<Vec<PostgresServer>>);

impl Servers {
    async fn take(&self) -> PostgresServer {
        let free = self.0.lock().pop();
        match free {
            Some(server) => server,
            None => PostgresServer::start(SERVER).await,
        }
    }
}

/// The database of one history.
pub enum Place {
    File(TempDir),
    Server(Box<Server>),
}

/// A database on a server of which this history is the only guest.
pub struct Server {
    server: PostgresServer,
    database: PostgresDatabase,
    /// The service's way to it.
    way: Proxy,
    servers: Arc<Servers>,
}

impl Place {
    pub async fn new(database: plan::Database, servers: &Arc<Servers>) -> Self {
        if database == plan::Database::Sqlite {
            return Self::File(TempDir::with_prefix("deia-checker-").expect("a folder for the history"));
        }
        let server = servers.take().await;
        let url = Url::parse(&server.url()).expect("a URL");
        let database = PostgresDatabase::create_on(url);
        let way = Proxy::start().await;
        way.lead_to(Some(SocketAddr::from(([127, 0, 0, 1], server.port()))));
        Self::Server(Box::new(Server { server, database, way, servers: servers.clone() }))
    }

    /// The settings that lead the service there.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::File(folder) => {
                vec![("storage.url", format!("sqlite:{}", folder.path().join("deia.db").display()))]
            }
            Self::Server(server) => {
                let mut url = Url::parse(server.database.url()).expect("a URL");
                url.set_port(Some(server.way.address().port())).expect("a URL with a port");
                vec![
                    ("storage.url", url.into()),
                    ("storage.pool_min", "1".into()),
                    ("storage.pool_max", "4".into()),
                ]
            }
        }
    }

    pub async fn suffer(&mut self, fault: Fault) {
        let Self::Server(place) = self else { return };
        match fault {
            Fault::CutDatabase => place.way.cut(),
            Fault::CutAfterCommit => place.way.cut_after_commit(),
            Fault::KillDatabase => {
                place.server.crash();
                place.server.run().await;
            }
            Fault::FreezeDatabase(millis) => {
                place.server.signal_all(Signal::Stop);
                tokio::time::sleep(Duration::from_millis(millis)).await;
                place.server.signal_all(Signal::Continue);
            }
            Fault::Actor(_) | Fault::Bot { .. } | Fault::CutClients | Fault::Kill | Fault::Terminate => {}
        }
    }

    /// How often an answer of the database to a client's message was kept back.
    pub fn cut_commits(&self) -> usize {
        match self {
            Self::File(_) => 0,
            Self::Server(place) => place.way.cut_commits(),
        }
    }

    /// Opens the record, which no service uses any more.
    pub async fn open(self) -> Record {
        let store = match &self {
            Self::File(folder) => Store::Sqlite(
                SqliteStore::open(&folder.path().join("deia.db")).await.expect("the database opens"),
            ),
            Self::Server(place) => {
                let config = PostgresConfig {
                    pool_min: 1,
                    pool_max: 2,
                    acquire_timeout: OPENING,
                    ..PostgresConfig::new(place.database.url())
                };
                Store::Postgres(PostgresStore::open(&config).await.expect("the database opens"))
            }
        };
        Record { store, place: self }
    }
}

enum Store {
    Sqlite(SqliteStore),
    Postgres(PostgresStore),
}

/// The record, without a service.
pub struct Record {
    store: Store,
    place: Place,
}

impl Record {
    pub fn store(&self) -> &dyn Storage {
        match &self.store {
            Store::Sqlite(store) => store,
            Store::Postgres(store) => store,
        }
    }

    pub async fn close(self) {
        match &self.store {
            Store::Sqlite(store) => store.close().await,
            Store::Postgres(store) => store.close().await,
        }
        if let Place::Server(place) = self.place {
            let Server { server, database, servers, way } = *place;
            drop((database, way));
            servers.0.lock().push(server);
        }
    }
}
