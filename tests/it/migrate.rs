//! `deia migrate` and the start of the service on databases of every age.

use std::process::Output;

use crate::support::{Database, Home};

/// Number and name, as `deia migrate` shows them.
const FIRST: &str = "0001  foundations";

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Lines of `deia migrate` that begin with this word.
fn count(output: &Output, word: &str) -> usize {
    out(output).lines().filter(|line| line.starts_with(word)).count()
}

#[tokio::test]
async fn a_fresh_database_has_nothing_until_it_is_migrated() {
    let home = Home::new();
    for arguments in [&["migrate"][..], &["migrate", "status"]] {
        let output = home.run(arguments).await;
        assert_eq!(output.status.code(), Some(3), "{}", err(&output));
        assert!(out(&output).contains(&format!("pending  {FIRST}")), "{}", out(&output));
        assert_eq!(count(&output, "applied"), 0);
        assert!(err(&output).contains("deia migrate up"), "{}", err(&output));
    }
    let output = home.run(&["migrate", "up"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(out(&output).contains(&format!("applied  {FIRST}")), "{}", out(&output));
    assert_eq!(count(&output, "pending"), 0);
    for arguments in [&["migrate", "status"][..], &["migrate", "up"]] {
        let again = home.run(arguments).await;
        assert_eq!((again.status.code(), out(&again)), (Some(0), out(&output)), "{}", err(&again));
    }
    assert_eq!(home.start().await.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn a_start_migrates_by_itself() {
    let home = Home::new();
    assert_eq!(home.start().await.terminate().await.code(), Some(0));
    let output = home.run(&["migrate"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(count(&output, "pending"), 0);
}

#[tokio::test]
async fn of_processes_that_migrate_at_once_each_ends_well() {
    let home = Home::new();
    let up = ["migrate", "up"];
    let outputs = tokio::join!(home.run(&up), home.run(&up), home.run(&up), home.run(&up));
    for output in <[Output; 4]>::from(outputs) {
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        assert_eq!(count(&output, "pending"), 0);
    }
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_and_left_alone() {
    let home = Home::new();
    home.run(&["migrate", "up"]).await;
    let row = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)";
    match home.database() {
        Database::Sqlite => {
            let file = rusqlite::Connection::open(home.data().join("deia.db")).unwrap();
            file.execute(&format!("{row} VALUES (9999, 'later', 1, x'00', 1)"), []).unwrap();
        }
        Database::Postgres(database) => {
            database.execute(&format!("{row} VALUES (9999, 'later', true, '\\x00', 1)"));
        }
    }
    for arguments in [&["migrate"][..], &["migrate", "up"], &["serve"], &["check"]] {
        let output = home.run(arguments).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", out(&output));
        let said = out(&output) + &err(&output);
        assert!(said.contains("9999") && said.contains("version"), "{arguments:?}: {said}");
        assert_eq!(count(&output, "newer"), usize::from(arguments == ["migrate"]));
    }
}

#[tokio::test]
async fn a_database_in_use_on_sqlite_is_migrated_by_nobody_else() {
    let home = Home::on_sqlite("PostgreSQL lets others in");
    let deia = home.start().await;
    let output = home.run(&["migrate", "up"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("in use by another process"), "{}", err(&output));
    assert_eq!(home.run(&["migrate", "status"]).await.status.code(), Some(0), "looking is allowed");
    assert_eq!(deia.terminate().await.code(), Some(0));
}
