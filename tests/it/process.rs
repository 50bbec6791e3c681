//! The life of the process: ready, asked to stop, killed, started again on the same data.

use std::{
    io::{BufRead, BufReader},
    net::TcpStream,
    process::Stdio,
};

use crate::support::{DEADLINE, Home, Signal};

fn accepts(url: &str) -> bool {
    TcpStream::connect(url.trim_start_matches("http://")).is_ok()
}

#[tokio::test]
async fn the_ready_file_names_an_address_that_accepts() {
    let home = Home::new();
    let deia = home.start().await;
    assert!(deia.url().starts_with("http://127.0.0.1:"), "{}", deia.url());
    assert!(accepts(deia.url()));
}

#[tokio::test]
async fn standard_output_says_where_it_listens_and_nothing_more() {
    for arguments in [&["serve"][..], &["sim", "--listen", "127.0.0.1:0"]] {
        let home = Home::new();
        let mut command = home.command(arguments);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the binary starts");
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let read = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            out.read_line(&mut line).unwrap();
            (line, out)
        });
        let heard = tokio::time::timeout(DEADLINE, read).await;
        let accepted = heard.as_ref().is_ok_and(|heard| {
            let (line, _) = heard.as_ref().unwrap();
            line.trim_end().strip_prefix("listening on ").is_some_and(accepts)
        });
        child.kill().unwrap();
        child.wait().unwrap();
        let (line, out) = heard.expect("a line in time").unwrap();
        assert!(accepted, "{arguments:?}: {line}");
        assert_eq!(out.lines().count(), 0, "nothing follows the line");
    }
}

#[tokio::test]
async fn either_signal_ends_it_with_0() {
    for signal in [Signal::Terminate, Signal::Interrupt] {
        let home = Home::new();
        let deia = home.start().await;
        let url = deia.url().to_owned();
        deia.signal(signal);
        assert_eq!(deia.ended().await.code(), Some(0), "{signal:?}");
        assert!(!accepts(&url), "the port is free");
    }
}

#[tokio::test]
async fn it_starts_again_on_its_data_after_a_kill() {
    let home = Home::new();
    home.start().await.kill().await;
    let deia = home.start().await;
    assert!(accepts(deia.url()));
    assert_eq!(deia.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn the_log_is_json_with_the_head_of_every_line() {
    let home = Home::new();
    let deia = home.start().await;
    deia.signal(Signal::Terminate);
    let path = home.path().join("stderr-0.log");
    deia.ended().await;
    let log = std::fs::read_to_string(path).unwrap();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(!lines.is_empty());
    for line in lines {
        for name in ["timestamp", "level", "service", "target", "action"] {
            assert!(line[name].is_string(), "{name} in {line}");
        }
    }
}
