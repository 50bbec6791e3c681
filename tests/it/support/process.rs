//! The process: started ready, stopped as a test likes, dead with its handle.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tempfile::TempDir;

use super::{Api, Database, Socket, eventually, soon};

/// What a process may be told.
#[derive(Debug, Clone, Copy)]
pub enum Signal {
    /// Stop in good order.
    Terminate,
    /// Ctrl-C.
    Interrupt,
    /// Die now (`kill -9`).
    Kill,
    /// Freeze.
    Stop,
    /// Thaw.
    Continue,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Terminate => "TERM",
            Self::Interrupt => "INT",
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
        }
    }
}

/// Sends a signal to a process that exists.
pub fn send_signal(pid: u32, signal: Signal) {
    assert!(try_signal(pid, signal), "there is no process {pid} for {signal:?}");
}

/// Sends a signal to a process that may have ended; says whether it was there.
pub fn try_signal(pid: u32, signal: Signal) -> bool {
    let kill = format!("kill -{} {pid}", signal.name());
    Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status().expect("a shell").success()
}

/// A folder and a database of its own for a service, and the environment that it starts with. They go with the last of
/// it and its processes.
pub struct Home {
    folder: Arc<TempDir>,
    database: Database,
    environment: BTreeMap<String, String>,
    starts: AtomicUsize,
}

impl Home {
    /// A fresh folder and a fresh database, of the kind that `TEST_DATABASE` asks for; the service will listen on a free
    /// port and find no model server, and offer its scripted model.
    pub fn new() -> Self {
        Self::with(Database::asked_for())
    }

    /// The same on SQLite, whatever is asked for: `why` this test is about its file. Such a test has `on_sqlite` in its
    /// name, so that the run on PostgreSQL leaves it out.
    pub fn on_sqlite(why: &str) -> Self {
        let this = thread::current();
        // One test at a time runs on the main thread, which has no test's name.
        let named = this.name().is_none_or(|name| name == "main" || name.contains("on_sqlite"));
        assert!(named, "{:?} needs on_sqlite in its name: {why}", this.name());
        Self::with(Database::Sqlite)
    }

    /// The same on this database.
    pub fn with(database: Database) -> Self {
        let folder = Arc::new(TempDir::with_prefix("deia-it-").expect("a folder for the test"));
        let data = folder.path().join("data");
        let settings = database.settings();
        let mut home = Self { folder, database, environment: BTreeMap::new(), starts: AtomicUsize::new(0) };
        for (key, value) in settings {
            home = home.env(&format!("DEIA_{}", key.to_uppercase().replace('.', "__")), value);
        }
        home.env("DEIA_SERVER__LISTEN", "127.0.0.1:0")
            .env("DEIA_DATA_DIR", data.to_string_lossy())
            .env("DEIA_STORAGE__ACQUIRE_TIMEOUT_S", super::DATABASE_S)
            .env("DEIA_INFERENCE__SERVERS", "http://127.0.0.1:1")
    }

    /// Sets a variable of the processes that start from now on.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.insert(name.to_owned(), value.into());
        self
    }

    /// The folder in which the process runs; `data` in it is its data directory.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// `deia` with these arguments, in this folder, with this environment and nothing of the caller's settings.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deia"));
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null());
        #[allow(clippy::disallowed_methods, reason = "to take the caller's settings away from the process")]
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("DEIA_") || text.starts_with("PG") || text == "OLLAMA_HOST" {
                command.env_remove(name);
            }
        }
        command.envs(&self.environment);
        command
    }

    /// Runs a command that ends by itself.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        let work = tokio::task::spawn_blocking(move || command.output().expect("the binary runs"));
        soon(&format!("deia {arguments:?} ends"), work).await.expect("the command is waited for")
    }

    /// As [`Self::run`], with a file as standard input.
    pub async fn run_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(arguments);
        command.stdin(File::open(input).expect("a file to read"));
        let work = tokio::task::spawn_blocking(move || command.output().expect("the binary runs"));
        soon(&format!("deia {arguments:?} ends"), work).await.expect("the command is waited for")
    }

    /// Starts the service and waits until it is ready.
    pub async fn start(&self) -> Deia {
        let number = self.starts.fetch_add(1, Ordering::Relaxed);
        let ready = self.path().join(format!("ready-{number}"));
        let log = self.path().join(format!("stderr-{number}.log"));
        let mut command = self.command(&["serve", "--ready-file", &ready.to_string_lossy()]);
        command.stdout(Stdio::null()).stderr(File::create(&log).expect("a file for standard error"));
        let child = command.spawn().expect("the binary starts");
        let mut deia = Deia {
            child: Some(child),
            url: String::new(),
            log,
            folder: self.folder.clone(),
            database: self.database.clone(),
        };
        deia.url = eventually("the service is ready", || {
            if let Some(status) = deia.exited() {
                panic!("the service ended before it was ready: {status}");
            }
            let address = fs::read_to_string(&ready).ok().map(|text| text.trim().to_owned());
            std::future::ready(address.filter(|text| !text.is_empty()))
        })
        .await;
        if !deia.url.contains("://") {
            deia.url.insert_str(0, "http://");
        }
        deia
    }
}

/// A running service.
pub struct Deia {
    /// None once it was waited for.
    child: Option<Child>,
    url: String,
    log: PathBuf,
    /// It runs in it.
    folder: Arc<TempDir>,
    /// It writes to it.
    database: Database,
}

impl Deia {
    /// Its base URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A client of its HTTP API.
    pub fn api(&self) -> Api {
        Api::new(&self.url)
    }

    /// A fresh socket to it.
    pub async fn socket(&self) -> Socket {
        Socket::connect(&self.url).await
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the process was not waited for").id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        send_signal(self.pid(), signal);
    }

    /// SIGTERM; answers how it ended.
    pub async fn terminate(self) -> ExitStatus {
        self.signal(Signal::Terminate);
        self.ended().await
    }

    /// `kill -9`; returns once the process is gone.
    pub async fn kill(self) {
        self.signal(Signal::Kill);
        self.ended().await;
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the process was not waited for");
        let pid = child.id();
        let work = tokio::task::spawn_blocking(move || child.wait().expect("the process is waited for"));
        let ended = tokio::time::timeout(super::DEADLINE, work).await;
        let Ok(status) = ended else {
            let _ = Command::new("sh").args(["-c", &format!("kill -KILL {pid}")]).status();
            panic!("the service did not end within {:?}", super::DEADLINE);
        };
        status.expect("the process is waited for")
    }

    /// How it ended, if it did.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().expect("the process can be asked")
    }
}

impl Drop for Deia {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            let log = self.log();
            let from = log.lines().count().saturating_sub(100);
            let end: Vec<&str> = log.lines().skip(from).collect();
            #[allow(clippy::print_stderr, reason = "the test harness shows it with the failure")]
            {
                eprintln!("--- the end of what deia wrote to standard error\n{}\n---", end.join("\n"));
            }
        }
    }
}
