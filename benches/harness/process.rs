//! Processes under test, and what they cost as the kernel counts it.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The core that the process under test gets, and the one for everything else.
pub const CORES: (&str, &str) = ("0", "1");
/// How long a process may take to say where it listens.
const START: Duration = Duration::from_secs(20);

/// A process that ends with its guard.
pub struct Running {
    child: Child,
    pub address: SocketAddr,
    pub spawned: Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether `taskset` is there to pin processes to cores.
pub fn can_pin() -> bool {
    thread::available_parallelism().is_ok_and(|n| n.get() > 1)
        && Command::new("taskset").arg("--version").stdout(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// Pins this process to the core for everything else, before it has further threads. True where that worked.
pub fn pin_this() -> bool {
    let id = std::process::id().to_string();
    let mut command = Command::new("taskset");
    command.args(["-a", "-p", "-c", CORES.1, &id]).stdout(Stdio::null());
    can_pin() && command.status().is_ok_and(|s| s.success())
}

fn command(program: &str, core: Option<&str>) -> Command {
    match core {
        None => Command::new(program),
        Some(core) => {
            let mut command = Command::new("taskset");
            command.args(["-c", core, program]);
            command
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the configuration of whoever runs the bench is taken away")]
fn own_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DEIA_") || name == "OLLAMA_HOST" {
            command.env_remove(name);
        }
    }
}

/// Starts `program` and waits for its line `listening on …`.
pub fn start(program: &str, core: Option<&str>, prepare: impl FnOnce(&mut Command)) -> Running {
    let mut command = command(program, core);
    own_environment(&mut command);
    command.stdout(Stdio::piped()).stdin(Stdio::null());
    prepare(&mut command);
    let spawned = Instant::now();
    let mut child = command.spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let address = line.trim().trim_start_matches("listening on ").trim_start_matches("http://");
    let address = address.parse().unwrap_or_else(|_| panic!("it said: {line}"));
    // What else it says is read and forgotten, so that it never waits for a reader. The thread ends with the process.
    thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    Running { child, address, spawned }
}

/// The simulator.
pub fn simulator(core: Option<&str>) -> Running {
    start(env!("CARGO_BIN_EXE_deia"), core, |command| {
        command.args(["sim", "--listen", "127.0.0.1:0"]).stderr(Stdio::null());
    })
}

/// The service on a data folder, with one model server and slots for everybody.
pub fn service(core: Option<&str>, data: &Path, model_server: SocketAddr) -> Running {
    service_with(core, data, model_server, |_| {})
}

/// The same, with more of an environment.
pub fn service_with(
    core: Option<&str>,
    data: &Path,
    model_server: SocketAddr,
    prepare: impl FnOnce(&mut Command),
) -> Running {
    start(env!("CARGO_BIN_EXE_deia"), core, |command| {
        command
            .env("DEIA_DATA_DIR", data)
            .env("DEIA_SERVER__LISTEN", "127.0.0.1:0")
            .env("DEIA_INFERENCE__SERVERS", format!("http://{model_server}"))
            .env("DEIA_INFERENCE__SIMULATED", "off")
            .env("DEIA_INFERENCE__SLOTS", "1024")
            .env("DEIA_BOTS__MAX_RUNNING", "100000")
            .env("DEIA_LOG__LEVEL", "warn")
            .stderr(Stdio::null());
        prepare(command);
    })
}

/// A command that ran to its end.
pub struct Ran {
    pub took: Duration,
    /// Most memory that it had, in KiB, seen at most 2 ms before its end.
    pub peak: f64,
}

/// Runs a subcommand of deia on a data folder; it must succeed.
pub fn run(data: &Path, arguments: &[&str], prepare: impl FnOnce(&mut Command)) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deia"));
    own_environment(&mut command);
    command.args(arguments).env("DEIA_DATA_DIR", data).stdin(Stdio::null()).stdout(Stdio::null());
    prepare(&mut command);
    let (start, mut peak) = (Instant::now(), 0.0);
    let mut child = command.spawn().unwrap();
    let status = loop {
        peak = memory(child.id(), "VmHWM:").unwrap_or(peak);
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => pause(Duration::from_millis(2)),
        }
    };
    assert!(status.success(), "deia {arguments:?} ended with {status}");
    Ran { took: start.elapsed(), peak }
}

/// A line of a process's status, in KiB; none once it has ended.
fn memory(id: u32, name: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    number(&status, name).map(|kib| kib as f64)
}

impl Running {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// CPU time of all its threads, those that ended included.
    pub fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        ticks(&stat)
    }

    /// CPU time of each of its threads, joined by name.
    pub fn cpu_by_thread(&self) -> Vec<(String, f64)> {
        let mut all: Vec<(String, f64)> = vec![];
        let tasks = fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        for task in tasks.flatten() {
            let Ok(stat) = fs::read_to_string(task.path().join("stat")) else { continue };
            let name =
                stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')).map_or("?", |(n, _)| n);
            let spent = ticks(&stat);
            match all.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += spent,
                None => all.push((name.to_owned(), spent)),
            }
        }
        all
    }

    /// Voluntary and involuntary switches of all its threads.
    pub fn switches(&self) -> (u64, u64) {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        tasks.flatten().fold((0, 0), |sum, task| {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            let of = |name: &str| number(&status, name).unwrap_or(0);
            (sum.0 + of("voluntary_ctxt_switches:"), sum.1 + of("nonvoluntary_ctxt_switches:"))
        })
    }

    /// Memory that it has now, in KiB.
    pub fn rss(&self) -> f64 {
        memory(self.id(), "VmRSS:").unwrap()
    }

    /// Most memory that it had since [`Self::forget_peak`], in KiB.
    pub fn peak(&self) -> f64 {
        memory(self.id(), "VmHWM:").unwrap()
    }

    /// From now on the peak is counted anew.
    pub fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.id()), "5").unwrap();
    }

    /// Memory once it has not changed for half a second (at most 10 s), in KiB.
    pub fn settled_rss(&self) -> f64 {
        let (mut last, mut since) = (self.rss(), Instant::now());
        let begun = Instant::now();
        while since.elapsed() < Duration::from_millis(500) && begun.elapsed() < Duration::from_secs(10) {
            pause(Duration::from_millis(50));
            let now = self.rss();
            if (now - last).abs() > 16.0 {
                (last, since) = (now, Instant::now());
            }
        }
        self.rss()
    }

    /// Time from its start until `/ready` answered 200.
    pub fn until_ready(&self) -> Duration {
        while self.spawned.elapsed() < START {
            if let Ok(mut stream) = TcpStream::connect(self.address) {
                use std::io::Write as _;
                let asked =
                    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
                let mut answer = String::new();
                if asked.is_ok()
                    && stream.read_to_string(&mut answer).is_ok()
                    && answer.starts_with("HTTP/1.1 200")
                {
                    return self.spawned.elapsed();
                }
            }
            pause(Duration::from_millis(1));
        }
        panic!("not ready after {START:?}");
    }

    /// Asks it to end in order, as an operator would, and waits for it.
    pub fn stop(mut self) {
        let _ = Command::new("kill").arg(self.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// A pause of this thread; there is nothing to wait for but time.
#[allow(clippy::disallowed_methods, reason = "no runtime is blocked by it")]
pub fn pause(time: Duration) {
    thread::sleep(time);
}

fn number(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|l| l.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// utime + stime of a `stat` line, in seconds. The kernel's clock of these files ticks 100 times a second.
fn ticks(stat: &str) -> f64 {
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after.split_whitespace().collect();
    let of = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (of(11) + of(12)) / 100.0
}
