//! The command line and what ends a start: exit codes, and one clear line on standard error.

use std::{fs, process::Output};

use crate::support::Home;

fn only_line(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "one line: {text}");
    assert!(output.stdout.is_empty(), "nothing on standard output");
    text.trim_end().to_owned()
}

#[tokio::test]
async fn the_version_is_told_and_nothing_else_happens() {
    let home = Home::new();
    let output = home.run(&["--version"]).await;
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), concat!("deia ", env!("CARGO_PKG_VERSION"), "\n"));
    assert!(!home.data().exists());
}

#[tokio::test]
async fn an_unknown_key_of_the_file_ends_the_start_with_78_and_its_place() {
    let home = Home::new();
    fs::write(home.path().join("config.toml"), "[server]\n# prose\nlissen = \"127.0.0.1:0\"\n").unwrap();
    for arguments in [&[][..], &["serve"], &["check"], &["check", "--config", "config.toml"]] {
        let output = home.run(arguments).await;
        assert_eq!(output.status.code(), Some(78), "{arguments:?}");
        let expected =
            "deia: config.toml:3: server.lissen: there is no such key, did you mean server.listen?";
        assert_eq!(only_line(&output), expected, "{arguments:?}");
    }
    assert!(!home.data().exists(), "nothing is made before the configuration is right");
}

#[tokio::test]
async fn a_bad_variable_ends_the_start_with_78_and_its_name() {
    for (name, value, expected) in [
        ("DEIA_SERVER__LISTN", "x", "there is no such variable, did you mean DEIA_SERVER__LISTEN?"),
        ("DEIA_BOTS__MAX_RUNNING", "many", "must be a whole number from 1 to 100000, not \"many\""),
        (
            "DEIA_LOG__LEVEL",
            "inof",
            "must be one of off, error, warn, info, debug, trace, or levels per target like info,deia::http=debug, not \"inof\"",
        ),
    ] {
        let output = Home::new().env(name, value).run(&["serve"]).await;
        assert_eq!(output.status.code(), Some(78));
        assert_eq!(only_line(&output), format!("deia: environment: {name}: {expected}"));
    }
}

#[tokio::test]
async fn a_public_address_is_refused_while_nobody_could_log_in() {
    let output = Home::new().env("DEIA_SERVER__LISTEN", "0.0.0.0:0").run(&["serve"]).await;
    assert_eq!(output.status.code(), Some(78));
    assert!(only_line(&output).contains("DEIA_SERVER__LISTEN: 0.0.0.0:0 is not a loopback address"));
}

#[tokio::test]
async fn the_file_is_named_by_the_option_before_the_variable() {
    let home = Home::new().env("DEIA_CONFIG", "absent.toml");
    let output = home.run(&["check"]).await;
    assert!(only_line(&output).starts_with("deia: absent.toml: the file can't be read: "));
    fs::write(home.path().join("other.toml"), "x = 1").unwrap();
    let output = home.run(&["check", "--config", "other.toml"]).await;
    assert_eq!(only_line(&output), "deia: other.toml:1: x: there is no such key");
}

#[tokio::test]
async fn a_wrong_command_line_ends_with_2() {
    assert_eq!(Home::new().run(&["swerve"]).await.status.code(), Some(2));
}

#[tokio::test]
async fn the_check_says_what_to_do_about_a_file_that_is_no_database() {
    let home = Home::new().env("DEIA_STORAGE__URL", "sqlite:letter.txt");
    fs::write(home.path().join("letter.txt"), "Dear reader,\n".repeat(100)).unwrap();
    let output = home.run(&["check"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("file is not a database. Name deia's own file, or a new one"), "{said}");
}
