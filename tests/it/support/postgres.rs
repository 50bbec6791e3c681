//! A PostgreSQL server of one test, to be configured, frozen and killed as it likes. It runs with the programs and as the
//! user of the server of `scripts/with-postgres`.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use tempfile::TempDir;

use super::{
    Signal,
    database::variable,
    eventually,
    process::{send_signal, try_signal},
};

/// The superuser of the server and the password.
const USER: &str = "deia";
const PASSWORD: &str = "s3cret-of-the-test";
/// Between two attempts to start it.
const AGAIN: Duration = Duration::from_millis(50);

/// A server with data of its own. Both go with its handle.
pub struct PostgresServer {
    folder: TempDir,
    programs: PathBuf,
    owner: (u32, u32),
    port: u16,
    running: Option<Child>,
}

impl PostgresServer {
    /// Makes data with these lines in `postgresql.conf`; nothing runs yet.
    pub fn new(settings: &str) -> Self {
        let programs = PathBuf::from(required("TEST_POSTGRES_BIN"));
        let data = fs::metadata(required("TEST_POSTGRES_DATA")).expect("the data folder of the server");
        let folder = TempDir::with_prefix("deia-postgres-").expect("a folder for the server");
        let server = Self { folder, programs, owner: (data.uid(), data.gid()), port: 0, running: None };
        server.give(server.folder.path(), 0o700);
        let password = server.file("password", PASSWORD);
        let mut initdb = server.program("initdb");
        initdb.arg("--pgdata").arg(server.data()).arg("--pwfile").arg(password);
        initdb.args([
            "--username",
            USER,
            "--auth=password",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ]);
        let made = initdb.output().expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        server.configure(
            "listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\nmax_wal_size = '64MB'\n",
        );
        server.configure(settings);
        server
    }

    /// Adds lines to `postgresql.conf`, for the next start.
    pub fn configure(&self, lines: &str) {
        let file = self.data().join("postgresql.conf");
        let before = fs::read_to_string(&file).expect("a configuration");
        fs::write(&file, format!("{before}\n{lines}")).expect("the configuration takes lines");
    }

    /// Who may come in from where (`pg_hba.conf`), from the next start on.
    pub fn access(&self, lines: &str) {
        fs::write(self.data().join("pg_hba.conf"), lines).expect("the list takes lines");
    }

    /// Makes a server and starts it.
    pub async fn start(settings: &str) -> Self {
        let mut server = Self::new(settings);
        server.run().await;
        server
    }

    /// Starts it and waits until it takes connections. Once it had a port it keeps it.
    pub async fn run(&mut self) {
        let port = self.port;
        for _ in 0..20 {
            // A port may be taken between a look and its use, so it is tried instead of looked at.
            self.port = if port == 0 { candidate() } else { port };
            let log = fs::File::create(self.folder.path().join("log")).expect("a file for the log");
            let mut postgres = self.program("postgres");
            postgres.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
            postgres.stdout(Stdio::null()).stderr(log);
            self.running = Some(postgres.spawn().expect("postgres runs"));
            let pid_file = self.data().join("postmaster.pid");
            let began = eventually("PostgreSQL is ready", || {
                let running = self.running.as_mut().expect("it was started");
                let pid = running.id().to_string();
                let state = fs::read_to_string(&pid_file).unwrap_or_default();
                // The file of a server that was killed may still lie there.
                let ready =
                    state.lines().next() == Some(&*pid) && state.lines().any(|line| line.trim() == "ready");
                let ended = running.try_wait().expect("the server can be asked").is_some();
                std::future::ready((ready || ended).then_some(!ended))
            })
            .await;
            if began {
                return;
            }
            self.running = None;
            // A process of a crashed server may be on its way out yet; it holds on to the shared memory until then.
            let log = self.log();
            let held = log.contains("pre-existing shared memory block");
            assert!(held || log.contains("could not create any TCP/IP sockets"), "{log}");
            tokio::time::sleep(AGAIN).await;
        }
        panic!("no port for PostgreSQL");
    }

    /// A file in the folder of the server that it may read and others may not, like a key.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).expect("a file for the server");
        self.give(&path, 0o600);
        path
    }

    /// The URL of the database `postgres` for the superuser, without parameters.
    pub fn url(&self) -> String {
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/postgres", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The password in [`PostgresServer::url`].
    pub fn password(&self) -> &'static str {
        PASSWORD
    }

    /// What it wrote to its log since it was started last.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Sends a signal to its first process: `Kill` is a crash, of `Stop` the others know nothing.
    pub fn signal(&self, signal: Signal) {
        send_signal(self.running.as_ref().expect("it runs").id(), signal);
    }

    /// Crashes it, all of its processes; the data stay as they are on the disk.
    pub fn crash(&mut self) {
        self.end(Signal::Kill);
    }

    /// Freezes all of its processes, or thaws them (`Stop` and `Continue`).
    pub fn signal_all(&self, signal: Signal) {
        let first = self.running.as_ref().expect("it runs").id();
        send_signal(first, signal);
        for pid in children(first) {
            // One that served a connection may have ended just now.
            try_signal(pid, signal);
        }
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut child) = self.running.take() else { return };
        let others = children(child.id());
        send_signal(child.id(), signal);
        for pid in others {
            // It may have gone with the first already.
            try_signal(pid, signal);
        }
        child.wait().expect("the server is waited for");
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        let me = fs::metadata("/proc/self").map_or(self.owner.0, |me| me.uid());
        if me != self.owner.0 {
            command.uid(self.owner.0).gid(self.owner.1);
        }
        command
    }

    fn give(&self, path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions of a file");
        chown(path, Some(self.owner.0), Some(self.owner.1)).expect("an owner for a file");
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.end(Signal::Kill);
    }
}

fn required(name: &str) -> String {
    variable(name)
        .unwrap_or_else(|| panic!("{name} is not set: run this with scripts/with-postgres cargo test …"))
}

/// A port to try, another one for every call and most processes.
fn candidate() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() % 6_000 * 2;
    20_000 + (u16::try_from(start).unwrap_or(0) + NEXT.fetch_add(1, Ordering::Relaxed) % 6_000) % 12_000
}

/// The processes that this one started.
fn children(of: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc lists processes");
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let child = |pid: &u32| {
        // `pid (name) state parent …`, and the name may hold anything.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        parent == Some(of)
    };
    pids.filter(child).collect()
}
