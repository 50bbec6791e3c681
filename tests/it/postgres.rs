//! PostgreSQL seen from outside: TLS, what is wrong with a server told in words, and passwords told nowhere.

use std::{fs, path::Path, process::Output};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use crate::support::{Database, Home, PostgresDatabase, PostgresServer, eventually, soon};

/// A service on this database.
fn on(url: &str) -> Home {
    Home::with(Database::Sqlite).env("DEIA_STORAGE__URL", url).env("DEIA_STORAGE__POOL_MIN", "1")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Fails the test unless `serve`, `check` and `migrate` end with 1, these words and no password.
async fn refused(url: &str, words: &[&str], secret: &str) {
    let home = on(url);
    for command in ["serve", "check", "migrate"] {
        let output = home.run(&[command]).await;
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{command}: {said}");
        for word in words {
            assert!(said.contains(word), "{command}: {word:?} is not in {said}");
        }
        assert!(!said.contains(secret), "{command}: {said}");
    }
}

fn fresh() -> std::sync::Arc<PostgresDatabase> {
    match Database::postgres() {
        Database::Postgres(database) => database,
        Database::Sqlite => unreachable!("it was asked for"),
    }
}

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key for a server of this name.
    fn certify(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Its certificate as a file in this folder.
    fn file(&self, folder: &Path, name: &str) -> String {
        let path = folder.join(name);
        fs::write(&path, &self.pem).unwrap();
        path.to_string_lossy().into_owned()
    }
}

#[tokio::test]
async fn a_connection_is_encrypted_and_the_server_is_who_it_says_it_is() {
    let ca = Ca::new();
    let mut server = PostgresServer::new("ssl = on\n");
    let (certificate, key) = ca.certify("127.0.0.1");
    server.configure(&format!(
        "ssl_cert_file = '{}'\nssl_key_file = '{}'\n",
        server.file("server.crt", &certificate).display(),
        server.file("server.key", &key).display()
    ));
    // Nobody gets in without TLS.
    server.access("hostssl all all 127.0.0.1/32 password\n");
    server.run().await;
    let (url, secret) = (server.url(), server.password());
    let folder = tempfile::tempdir().unwrap();
    let good = ca.file(folder.path(), "ca.crt");
    let other = Ca::new().file(folder.path(), "other.crt");

    for parameters in ["sslmode=require", &format!("sslmode=verify-full&sslrootcert={good}")] {
        let home = on(&format!("{url}?{parameters}"));
        let deia = home.start().await;
        deia.api().well("/health/db").await;
        assert_eq!(deia.terminate().await.code(), Some(0), "{parameters}");
    }
    refused(&format!("{url}?sslmode=disable"), &["no encryption", "use sslmode=verify-full"], secret).await;
    for parameters in ["sslmode=verify-full", &format!("sslmode=verify-ca&sslrootcert={other}")] {
        let words = ["TLS with the server failed: invalid peer certificate", "Name the CA"];
        refused(&format!("{url}?{parameters}"), &words, secret).await;
    }
    let elsewhere = url.replace("127.0.0.1", "localhost");
    let words = ["TLS with the server failed", "not valid for name", "Use the host name"];
    refused(&format!("{elsewhere}?sslmode=verify-full&sslrootcert={good}"), &words, secret).await;
    let home = on(&format!("{elsewhere}?sslmode=verify-ca&sslrootcert={good}"));
    assert_eq!(home.start().await.terminate().await.code(), Some(0), "verify-ca asks for no name");
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_asked_for() {
    let database = fresh();
    let url = format!("{}?sslmode=require", database.url());
    refused(&url, &["does not support TLS", "Set ssl = on"], "no secret").await;
}

#[tokio::test]
async fn a_server_that_would_forget_what_it_acknowledged_is_refused_with_the_reason() {
    let database = fresh();
    database.execute(&format!("ALTER DATABASE {} SET synchronous_commit = off", database.name()));
    refused(database.url(), &["synchronous_commit is off", "lose acknowledged messages"], "no secret").await;
    database.execute(&format!("ALTER DATABASE {} RESET synchronous_commit", database.name()));
    assert_eq!(on(database.url()).start().await.terminate().await.code(), Some(0));
}

/// Told by a trigger, which runs in the session that writes; a second setting of the same reload shows that it has seen it.
#[tokio::test]
async fn a_server_that_is_told_to_forget_meanwhile_forgets_nothing_acknowledged() {
    let server = PostgresServer::start("").await;
    let home = on(&server.url()).env("DEIA_INFERENCE__SIMULATED", "on");
    let deia = home.start().await;
    let api = deia.api();
    api.launch("ada", "sim:echo").await;
    let mut admin = PgConnection::connect(&server.url()).await.unwrap();
    for sql in [
        "CREATE TABLE seen (commits text, mark text)",
        "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.seen \
             VALUES (current_setting('synchronous_commit'), current_setting('deadlock_timeout')); RETURN NULL; END $$",
        "CREATE TRIGGER look AFTER INSERT ON chat_messages FOR EACH STATEMENT EXECUTE FUNCTION look()",
        "ALTER SYSTEM SET synchronous_commit = off",
        "ALTER SYSTEM SET deadlock_timeout = '1234ms'",
        "SELECT pg_reload_conf()",
    ] {
        sqlx::raw_sql(sql).execute(&mut admin).await.unwrap();
    }
    let commits: String = soon("the writing session has read the settings", async {
        loop {
            api.send("ada", "hello").await.expect(200);
            let seen = sqlx::query_scalar("SELECT commits FROM seen WHERE mark = '1234ms'");
            if let Some(commits) = seen.fetch_optional(&mut admin).await.unwrap() {
                return commits;
            }
        }
    })
    .await;
    assert_eq!(commits, "on");
}

#[tokio::test]
async fn what_is_wrong_with_a_database_is_told_with_what_to_do() {
    let database = fresh();
    let (role, secret) = (format!("guest_of_{}", database.name()), "p@ss/w:rd");
    database.execute(&format!("CREATE ROLE {role} LOGIN PASSWORD '{secret}'"));
    let guest = database.url_as(&role, secret);
    refused(&guest, &["may not create tables in the schema public", "ALTER DATABASE"], secret).await;
    let wrong = database.url_as(&role, "s3cret");
    refused(&wrong, &["password authentication failed", "Check user and password"], "s3cret").await;
    let missing = guest.replace(&format!("/{}", database.name()), "/nowhere");
    refused(&missing, &["database \"nowhere\" does not exist", "CREATE DATABASE"], secret).await;
    database.execute(&format!("ALTER ROLE {role} SET default_transaction_read_only = on"));
    database.execute(&format!("GRANT CREATE ON SCHEMA public TO {role}"));
    refused(&guest, &["transactions are read-only"], secret).await;
    database.execute(&format!("ALTER ROLE {role} RESET default_transaction_read_only"));
    assert_eq!(on(&guest).start().await.terminate().await.code(), Some(0), "now it may");
    database.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[tokio::test]
async fn check_tries_the_database_and_counts_its_connections() {
    let database = fresh();
    let home = on(database.url()).env("DEIA_INFERENCE__SIMULATED", "on");
    let output = home.run(&["check"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("can be used; the start will apply"), "{}", said(&output));
    home.run(&["migrate", "up"]).await;
    let output = home.run(&["check"]).await;
    assert!(said(&output).lines().any(|line| line.ends_with(" can be used")), "{}", said(&output));

    let output = home.env("DEIA_STORAGE__POOL_MAX", "999").run(&["check"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("too few for storage.pool_max = 999"), "{}", said(&output));
}

#[tokio::test]
async fn a_server_that_is_still_starting_is_waited_for() {
    let mut server = PostgresServer::start("").await;
    server.crash();
    let home = on(&server.url());
    let log = home.path().join("stderr-0.log");
    let (deia, ()) = tokio::join!(home.start(), async {
        eventually("the service says that it waits", async || {
            fs::read_to_string(&log).ok().filter(|log| log.contains("the database is not there yet"))
        })
        .await;
        server.run().await;
    });
    assert!(!deia.log().contains(server.password()), "{}", deia.log());
    deia.api().well("/health/db").await;
    assert_eq!(deia.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn a_service_that_waits_for_its_database_ends_when_it_is_told_to() {
    let mut server = PostgresServer::start("").await;
    server.crash();
    let home = on(&server.url());
    let mut command = home.command(&["serve"]);
    let log = home.path().join("log");
    command.stdout(std::process::Stdio::null()).stderr(fs::File::create(&log).unwrap());
    let mut child = command.spawn().unwrap();
    eventually("the service says that it waits", async || {
        fs::read_to_string(&log).ok().filter(|log| log.contains("the database is not there yet"))
    })
    .await;
    crate::support::send_signal(child.id(), crate::support::Signal::Terminate);
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn the_password_is_shown_by_no_page_and_no_line() {
    let database = fresh();
    let secret = "p@ss/w:rd";
    let role = format!("owner_of_{}", database.name());
    database.execute(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD '{secret}'; ALTER DATABASE {} OWNER TO {role}",
        database.name()
    ));
    let home = on(&database.url_as(&role, secret)).env("DEIA_LOG__LEVEL", "trace");
    let deia = home.start().await;
    deia.api().launch("ada", "sim:echo").await;
    let config = deia.api().get("/api/config").await.expect(200);
    let url = config["items"].as_array().unwrap().iter().find(|item| item["key"] == "storage.url").unwrap();
    assert!(url["value"].as_str().unwrap().contains(&format!("{role}:[redacted]@127.0.0.1")), "{url}");
    database.execute_on_server(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", database.name()));
    database.execute_on_server(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'",
        database.name()
    ));
    let down = eventually("the database is known to be away", async || {
        let answer = deia.api().get("/health/db").await;
        (answer.status == 503).then_some(answer.body)
    })
    .await;
    let shown = Value::from(vec![config, down]).to_string() + &deia.log();
    for part in [secret, "p%40ss", "w:rd"] {
        assert!(!shown.contains(part), "{part} in {shown}");
    }
    deia.kill().await;
    database.execute_on_server(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", database.name()));
    database.execute(&format!(
        "DROP OWNED BY {role}; ALTER DATABASE {} OWNER TO CURRENT_USER; DROP ROLE {role}",
        database.name()
    ));
}
