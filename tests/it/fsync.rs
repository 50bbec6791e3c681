//! An acknowledged message is on the disk: the system calls of the real binary show that what a message was written to was
//! synced after that and before anything of its acknowledgement was sent. `kill -9` can't show that: it leaves the
//! kernel's memory alone.

use std::{
    collections::HashMap,
    fs,
    process::{Child, Command, Stdio},
};

use crate::support::{Api, Home, eventually};

const MESSAGES: usize = 25;
const WRITES: &[&str] = &["write", "writev", "pwrite64", "pwritev"];
const SENDS: &[&str] = &["write", "writev", "sendto", "sendmsg"];
const SYNCS: &[&str] = &["fsync", "fdatasync"];

/// A system call: its name, all that was printed of it, and the lines of the trace on which it began and ended.
#[derive(Debug)]
struct Call {
    name: String,
    text: String,
    begun: usize,
    ended: usize,
}

/// The calls in what `strace -f` printed. One that another thread interrupts is printed in two parts.
fn calls(trace: &str) -> Vec<Call> {
    let mut unfinished: HashMap<&str, Call> = HashMap::new();
    let mut calls = vec![];
    for (at, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(resumed) = rest.strip_prefix("<... ") {
            if let Some(mut call) = unfinished.remove(thread) {
                call.text.push_str(resumed);
                call.ended = at;
                calls.push(call);
            }
            continue;
        }
        let Some((name, _)) = rest.split_once('(') else { continue };
        let call = Call { name: name.to_owned(), text: rest.to_owned(), begun: at, ended: at };
        if rest.ends_with("<unfinished ...>") {
            unfinished.insert(thread, call);
        } else {
            calls.push(call);
        }
    }
    calls.sort_by_key(|call| call.begun);
    calls
}

impl Call {
    fn is(&self, names: &[&str]) -> bool {
        names.contains(&self.name.as_str()) && !self.text.contains(") = -1 ")
    }

    fn is_on_database(&self) -> bool {
        self.text.contains("deia.db-wal>") || self.text.contains("deia.db>")
    }

    /// Whether it sends an acknowledgement to a client, and not the message to a model server.
    fn acknowledges(&self) -> bool {
        let marks = ["HTTP/1.1 202 ", r#"\"type\":\"ok\""#];
        self.is(SENDS) && self.text.contains("<socket:") && marks.iter().any(|mark| self.text.contains(mark))
    }
}

/// What is wrong with the acknowledgements of these messages. What is written of a message has come before.
fn judge(trace: &str, messages: &[String]) -> Vec<String> {
    let calls = calls(trace);
    let mut wrong = vec![];
    for message in messages {
        let mut about = calls.iter().filter(|call| call.text.contains(message.as_str()));
        let Some(sent) = about.clone().find(|call| call.acknowledges()) else {
            wrong.push(format!("{message} was never acknowledged"));
            continue;
        };
        let written = about.find(|c| c.is(WRITES) && c.is_on_database() && c.ended < sent.begun);
        let Some(written) = written else {
            wrong.push(format!("{message} was not written before it was acknowledged"));
            continue;
        };
        let between = |call: &Call| call.begun > written.ended && call.ended < sent.begun;
        if !calls.iter().any(|call| call.is(SYNCS) && call.is_on_database() && between(call)) {
            wrong.push(format!("{message} was acknowledged before it was synced"));
        }
    }
    wrong
}

/// The service as a child of strace; both end with their guard.
struct Traced {
    strace: Child,
    deia: u32,
}

impl Traced {
    async fn start(home: &Home) -> (Self, String) {
        let (ready, trace) = (home.path().join("ready"), home.path().join("trace"));
        let plain = home.command(&["serve", "--ready-file", &ready.to_string_lossy()]);
        let mut command = Command::new("strace");
        let calls = [WRITES, SENDS, SYNCS].concat().join(",");
        command.args(["-f", "-y", "-s", "20000", "-e", &calls, "-e", "signal=none", "-o"]).arg(&trace);
        command.arg(plain.get_program()).args(plain.get_args()).current_dir(home.path());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let strace = command.spawn().expect("strace is there (Debian: apt-get install strace)");
        let children = format!("/proc/{0}/task/{0}/children", strace.id());
        let mut traced = Self { strace, deia: 0 };
        let url = eventually("the traced service is ready", || {
            if let Some(status) = traced.strace.try_wait().expect("strace can be asked") {
                panic!("strace ended with {status}; may this user trace processes?");
            }
            let child = fs::read_to_string(&children).ok();
            traced.deia = child.and_then(|text| text.trim().parse().ok()).unwrap_or(traced.deia);
            let address = fs::read_to_string(&ready).ok().map(|text| text.trim().to_owned());
            std::future::ready(address.filter(|text| !text.is_empty()))
        })
        .await;
        (traced, url)
    }

    fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.deia);
        // Without a process there is nobody to be told.
        let _ = Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status();
    }

    /// Stops the service in good order; the trace is complete then.
    async fn stop(mut self) {
        self.signal("TERM");
        eventually("the traced service ends", || {
            let ended = self.strace.try_wait().expect("strace can be asked");
            std::future::ready(ended.map(|status| assert!(status.success(), "{status}")))
        })
        .await;
        self.deia = 0;
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if self.deia != 0 {
            self.signal("KILL");
            let _ = self.strace.kill();
            let _ = self.strace.wait();
        }
    }
}

#[tokio::test]
async fn every_acknowledgement_on_sqlite_comes_after_a_sync() {
    let home = Home::on_sqlite("a database server syncs by itself").env("DEIA_INFERENCE__SIMULATED", "on");
    let (traced, url) = Traced::start(&home).await;
    let api = Api::new(&url);
    api.launch("ada", "sim:tokens=1").await;
    let messages: Vec<String> = (0..MESSAGES).map(|n| format!("message number {n} of the trace")).collect();
    let mut socket = crate::support::Socket::connect(&url).await;
    for (n, message) in messages.iter().enumerate() {
        if n % 2 == 0 {
            let told = api.send_without_waiting("ada", message).await.expect(202);
            api.ended(&told["turn"]["id"]).await;
        } else {
            let told =
                socket.call(serde_json::json!({"type": "send", "bot_id": "ada", "content": message})).await;
            assert_eq!(told["type"], "ok", "{told}");
            api.ended(&told["turn"]["id"]).await;
        }
    }
    traced.stop().await;
    let trace = fs::read_to_string(home.path().join("trace")).expect("a trace");
    assert_eq!(judge(&trace, &messages), Vec::<String>::new());
}

const WRITTEN: &str = r#"8 pwrite64(11</data/deia.db-wal>, "\0\0hello\0", 4096, 4152) = 4096"#;
const SYNCED: &str = "8 fdatasync(11</data/deia.db-wal>) = 0";
const SENT: &str = r#"7 writev(20<socket:[77]>, [{iov_base="HTTP/1.1 202 … hello"}], 1) = 99"#;

fn judged(lines: &[&str]) -> Vec<String> {
    judge(&lines.join("\n"), &["hello".into()])
}

#[test]
fn a_trace_with_the_sync_in_its_place_is_good() {
    assert_eq!(judged(&[WRITTEN, SYNCED, SENT]), Vec::<String>::new());
    let parts = [
        WRITTEN,
        "8 fdatasync(11</data/deia.db-wal> <unfinished ...>",
        r#"9 read(3</x>, "", 8) = 0"#,
        "8 <... fdatasync resumed>)              = 0",
        SENT,
    ];
    assert_eq!(judged(&parts), Vec::<String>::new());
}

#[test]
fn a_trace_without_a_sync_in_its_place_is_found_out() {
    let before = "acknowledged before it was synced";
    let other = "8 fdatasync(12</data/other>) = 0";
    let failed = "8 fdatasync(11</data/deia.db-wal>) = -1 EIO (Input/output error)";
    let begun = "8 fdatasync(11</data/deia.db-wal> <unfinished ...>";
    let resumed = "8 <... fdatasync resumed>) = 0";
    let upstream = r#"7 writev(21<socket:[78]>, [{iov_base="POST /api/chat HTTP/1.1 hello"}], 1) = 99"#;
    for (lines, says) in [
        (vec![WRITTEN, SENT], before),
        (vec![WRITTEN, SENT, SYNCED], before),
        (vec![SYNCED, WRITTEN, SENT], before),
        (vec![WRITTEN, other, SENT], before),
        (vec![WRITTEN, failed, SENT], before),
        (vec![WRITTEN, begun, SENT, resumed], before),
        (vec![SYNCED, SENT, WRITTEN], "not written"),
        (vec![WRITTEN, SYNCED], "never acknowledged"),
        (vec![WRITTEN, SYNCED, upstream], "never acknowledged"),
    ] {
        let wrong = judged(&lines);
        assert!(wrong.len() == 1 && wrong[0].contains(says), "{says}: {wrong:?}");
    }
}
