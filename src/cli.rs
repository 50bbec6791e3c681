//! The command line: parses it, reads the configuration, calls the one function that does the work, names the exit code.
//!
//! Exit codes: 0 ended as asked · 1 failed · 2 wrong command line · 3 migrations are pending · 70 the root supervisor
//! gave up · 78 the configuration can't be used.

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use deia_actors::{
    controller::ExportFormat,
    domain::ids::{BotId, ConversationId},
};

use crate::{
    app::{self, AppError},
    config::{Config, ConfigError, Log, LogFormat},
    signal::run_until_asked_to_stop,
    sim::{Sim, SimConfig},
    telemetry::{
        logs::{self, LogsError},
        metrics::{MetricsError, Recorder},
    },
};

/// Exit code for a configuration that can't be used (`EX_CONFIG`).
pub const EXIT_CONFIGURATION: u8 = 78;
/// Exit code for a root supervisor that gave up (`EX_SOFTWARE`).
pub const EXIT_GAVE_UP: u8 = 70;
/// Exit code for a database to which migrations have not been applied yet.
pub const EXIT_PENDING: u8 = 3;
const EXIT_FAILED: u8 = 1;

/// Runs many LLM chat bots on Ollama under an actor supervision tree.
#[derive(Debug, Parser)]
#[command(
    name = "deia",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Exit codes: 0 ended as asked, 1 failed, 2 wrong command line, 3 migrations are pending \
                  (deia migrate), 70 the supervision tree gave up, 78 the configuration can't be used."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the dashboard and the API (the default)
    Serve(ServeArgs),
    /// Serve Ollama's API from a script, for demos and tests
    Sim(SimArgs),
    /// Try the configuration and everything that the service depends on, and say what to do
    Check(ConfigArgs),
    /// Show which migrations the database has, or apply the missing ones
    ///
    /// `deia serve` applies them by itself when it starts. This is for those who want to see or do it before: a larger
    /// database, a look at what an update will bring. Without a subcommand it shows the status and changes nothing.
    #[command(
        after_help = "Exit codes: 0 nothing is missing, 1 failed, or the database is of a newer version, \
                            3 status: migrations are pending, 78 the configuration can't be used."
    )]
    Migrate(MigrateArgs),
    /// Write the history of a bot to a file or standard output; works on the database, while no deia runs on it
    Export(ExportArgs),
    /// Read back what `export` wrote as json; the bot must exist; works on the database, while no deia runs on it
    Import(ImportArgs),
}

#[derive(Debug, Args)]
struct ExportArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Bot
    bot: BotId,
    /// json (everything, for import), markdown (to be read) or csv (one row per message)
    #[arg(long, value_name = "FORMAT", default_value = "json")]
    format: ExportFormat,
    /// Only this conversation
    #[arg(long, value_name = "ID")]
    conversation: Option<ConversationId>,
    /// File to write [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ImportArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// File to read; - is standard input
    file: PathBuf,
}

#[derive(Debug, Default, Args)]
struct ConfigArgs {
    /// Configuration file [default: $DEIA_CONFIG, else ./config.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Default, Args)]
struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Write the address to this file once the service is ready
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct MigrateArgs {
    #[command(subcommand)]
    action: Option<MigrateAction>,
    /// Configuration file [default: $DEIA_CONFIG, else ./config.toml if it exists]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
enum MigrateAction {
    /// Apply what is missing, in order; of two processes that do so at once one waits
    Up,
    /// Show every migration and whether it is applied (the default)
    Status,
}

#[derive(Debug, Args)]
struct SimArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:11434")]
    listen: SocketAddr,
    /// Models to offer, by commas; names like sim:tokens=20 carry a script and need not be listed
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "simulated")]
    models: Vec<String>,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    Logs(#[from] LogsError),
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    #[error("can't listen on {0}: {1}")]
    Sim(SocketAddr, io::Error),
    #[error("can't wait for signals: {0}")]
    Signals(io::Error),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => EXIT_CONFIGURATION,
            Self::App(error) => error.exit_code(),
            Self::Logs(_) | Self::Metrics(_) | Self::Sim(..) | Self::Signals(_) => EXIT_FAILED,
        }
    }
}

impl Cli {
    /// Does what the command line says; a failure is one line on standard error.
    pub async fn run(self) -> ExitCode {
        let done = match self.command {
            None => serve(self.serve).await,
            Some(Command::Serve(args)) => serve(args).await,
            Some(Command::Sim(args)) => simulate(args).await,
            Some(Command::Check(args)) => check(args).await,
            Some(Command::Export(args)) => export(args).await,
            Some(Command::Import(args)) => import(args).await,
            Some(Command::Migrate(args)) => migrate(args).await,
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                // Nothing is left to do about a standard error that is closed.
                let _ = writeln!(io::stderr(), "deia: {failure}");
                ExitCode::from(failure.exit_code())
            }
        }
    }
}

async fn serve(args: ServeArgs) -> Result<(), Failure> {
    let config = Config::load(args.config.config.as_deref())?;
    logs::install(&config.log)?;
    let recorder = Recorder::install()?;
    let run = run_until_asked_to_stop(|stop| app::serve(config, args.ready_file, &recorder, stop)).await;
    recorder.stop().await;
    Ok(run.map_err(Failure::Signals)??)
}

async fn check(args: ConfigArgs) -> Result<(), Failure> {
    let config = Config::load(args.config.as_deref())?;
    Ok(app::check(config).await?)
}

async fn export(args: ExportArgs) -> Result<(), Failure> {
    let config = Config::load(args.config.config.as_deref())?;
    let ExportArgs { bot, format, conversation, output, .. } = args;
    Ok(app::export(&config, app::ExportAsked { bot, format, conversation, output }).await?)
}

async fn import(args: ImportArgs) -> Result<(), Failure> {
    let config = Config::load(args.config.config.as_deref())?;
    Ok(app::import(&config, &args.file).await?)
}

async fn migrate(args: MigrateArgs) -> Result<(), Failure> {
    let config = Config::load(args.config.as_deref())?;
    Ok(app::migrate(&config, args.action == Some(MigrateAction::Up)).await?)
}

async fn simulate(args: SimArgs) -> Result<(), Failure> {
    logs::install(&Log { format: LogFormat::Text, ..Log::default() })?;
    let config = SimConfig { listen: args.listen, models: args.models };
    let run = run_until_asked_to_stop(|stop| async move {
        let sim = Sim::start(config).await?;
        let mut out = io::stdout();
        // A closed standard output is no reason not to serve.
        let _ = writeln!(out, "listening on {}", sim.url()).and_then(|()| out.flush());
        stop.cancelled().await;
        sim.stop().await;
        Ok(())
    });
    run.await.map_err(Failure::Signals)?.map_err(|error| Failure::Sim(args.listen, error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    #[test]
    fn the_declaration_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_is_the_default_and_takes_the_same_options() {
        let plain = Cli::try_parse_from(["deia", "--config", "a.toml", "--ready-file", "r"]).unwrap();
        assert!(plain.command.is_none());
        assert_eq!(plain.serve.config.config, Some(PathBuf::from("a.toml")));
        let named =
            Cli::try_parse_from(["deia", "serve", "--config", "a.toml", "--ready-file", "r"]).unwrap();
        let Some(Command::Serve(args)) = named.command else { panic!("serve") };
        assert_eq!(args.ready_file, Some(PathBuf::from("r")));
    }

    #[test]
    fn sim_takes_its_models_by_commas() {
        let cli = Cli::try_parse_from(["deia", "sim", "--listen", "127.0.0.1:0", "--models", "a,sim:echo"])
            .unwrap();
        let Some(Command::Sim(args)) = cli.command else { panic!("sim") };
        assert_eq!(args.models, ["a", "sim:echo"]);
    }

    #[test]
    fn migrate_alone_shows_the_status() {
        let parsed = |words: &[&str]| match Cli::try_parse_from(words).unwrap().command {
            Some(Command::Migrate(args)) => (args.action, args.config),
            other => panic!("{other:?}"),
        };
        let file = Some(PathBuf::from("a.toml"));
        assert_eq!(parsed(&["deia", "migrate"]), (None, None));
        assert_eq!(parsed(&["deia", "migrate", "status"]), (Some(MigrateAction::Status), None));
        assert_eq!(
            parsed(&["deia", "migrate", "up", "--config", "a.toml"]),
            (Some(MigrateAction::Up), file.clone())
        );
        assert_eq!(parsed(&["deia", "migrate", "--config", "a.toml", "up"]), (Some(MigrateAction::Up), file));
    }

    #[test]
    fn an_unknown_subcommand_or_option_is_refused() {
        for words in [["deia", "swerve"], ["deia", "--port"]] {
            let error = Cli::try_parse_from(words).unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument),
                "{error}"
            );
        }
    }
}
