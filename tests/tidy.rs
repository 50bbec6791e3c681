//! What the compiler does not check: who may know whom, what a file looks like, what the documents list.
//!
//! `docs/ARCHITECTURE.md` draws the arrows; the table in [`arrows`] is the same picture for this test. Test modules
//! (`tests.rs`, `mod tests`) may look anywhere.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use deia_actors::{
    domain::problem::Code,
    metrics::{ALL, Kind, Label},
};
use toml::de::{DeTable, DeValue};

/// Longest file, tests included.
const MAX_LINES: usize = 500;

/// What files under `rooms` must not name, unless the path begins with one of `except`.
struct Arrow {
    rooms: &'static [&'static str],
    never: &'static [&'static str],
    except: &'static [&'static str],
    why: &'static str,
}

fn arrows() -> Vec<Arrow> {
    vec![
        Arrow {
            rooms: &["actors/src"],
            never: &[
                "warp",
                "hyper",
                "http",
                "tower",
                "tower_http",
                "reqwest",
                "ollama_rs",
                "sqlx",
                "rusqlite",
                "redis",
                "fred",
                "std::env",
                "std::fs",
                "std::net",
                "std::process",
                "tokio::fs",
                "tokio::net",
                "tokio::process",
                "deia",
            ],
            except: &[],
            why: "the tree knows no HTTP, SQL, Redis, Ollama, environment, file or socket: it asks a port",
        },
        Arrow {
            rooms: &["src/http"],
            never: &[
                "ractor",
                "sqlx",
                "rusqlite",
                "ollama_rs",
                "crate::adapters",
                "crate::app",
                "deia_actors",
            ],
            except: &[
                "deia_actors::controller",
                "deia_actors::domain",
                "deia_actors::broadcast::reader",
                "deia_actors::ports::chat_model",
            ],
            why: "HTTP calls the controller and converts; it holds no actor and no adapter",
        },
        Arrow {
            rooms: &["src/adapters"],
            never: &["warp", "crate::http", "crate::app", "crate::cli", "ractor", "deia_actors::controller"],
            except: &[],
            why: "an adapter serves a port; it knows neither who calls nor the way to the outside",
        },
        Arrow {
            rooms: &[
                "src/config",
                "src/telemetry",
                "src/signal",
                "src/sim",
                "src/cli",
                "src/main",
                "src/http",
            ],
            never: &["crate::adapters", "deia::adapters"],
            except: &[],
            why: "only src/app.rs names concrete adapters",
        },
    ]
}

#[test]
fn the_arrows_between_the_rooms_point_one_way() {
    let mut wrong = Vec::new();
    for file in sources(&["src", "actors/src"]).iter().filter(|file| !file.is_test()) {
        let paths = paths(&file.code());
        for arrow in arrows().iter().filter(|arrow| arrow.rooms.iter().any(|room| file.is_in(room))) {
            for path in &paths {
                let names = |prefix: &&str| path == *prefix || path.starts_with(&format!("{prefix}::"));
                if arrow.never.iter().any(names) && !arrow.except.iter().any(names) {
                    wrong.push(format!("{}: {path}: {}", file.name, arrow.why));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_tree_depends_on_no_technology() {
    let allowed = [
        "ractor",
        "tokio",
        "tokio-util",
        "futures-util",
        "bytes",
        "parking_lot",
        "async-trait",
        "serde",
        "serde_json",
        "uuid",
        "time",
        "thiserror",
        "tracing",
        "metrics",
        "rand",
        "strsim",
        "sha2",
        "csv",
        "unicode-normalization",
        "jsonschema",
        "base64",
        "imagesize",
    ];
    let text = read("actors/Cargo.toml");
    let manifest = DeTable::parse(&text).unwrap();
    let dependencies =
        manifest.get_ref().get("dependencies").and_then(|value| value.get_ref().as_table()).unwrap();
    for (name, _) in dependencies {
        assert!(
            allowed.contains(&name.get_ref().as_ref()),
            "actors/Cargo.toml: a new dependency: {}",
            name.get_ref()
        );
    }
}

#[test]
fn a_panic_unwinds_in_every_profile() {
    let text = read("Cargo.toml");
    let manifest = DeTable::parse(&text).unwrap();
    let profiles = manifest.get_ref().get("profile").and_then(|value| value.get_ref().as_table()).unwrap();
    // Supervision lives on unwinding: with `abort` the first panic of a bot would be the end of all.
    let panic = |name: &str| {
        profiles.get(name)?.get_ref().as_table()?.get("panic")?.get_ref().as_str().map(str::to_owned)
    };
    for (name, profile) in profiles {
        let profile: &DeValue<'_> = profile.get_ref();
        let parent = profile.as_table().and_then(|table| table.get("inherits")?.get_ref().as_str());
        let said = panic(name.get_ref()).or_else(|| panic(parent?));
        // Cargo builds tests with unwinding whatever the profile says.
        assert!(
            said.as_deref() == Some("unwind") || (said.is_none() && name.get_ref() == "test"),
            "{}",
            name.get_ref()
        );
    }
    for name in ["dev", "release"] {
        assert_eq!(panic(name).as_deref(), Some("unwind"), "profile {name} says it aloud");
    }
    assert!(!text.contains("\"abort\""));
}

#[test]
fn every_file_opens_with_what_it_is() {
    let all = all_sources();
    assert!(all.len() > 20, "the files are found");
    let silent: Vec<_> =
        all.iter().filter(|file| !file.text.starts_with("//!")).map(|file| &file.name).collect();
    assert!(silent.is_empty(), "no `//!` on the first line: {silent:?}");
}

#[test]
fn files_are_named_after_what_is_in_them() {
    let vague = ["mod.rs", "utils.rs", "util.rs", "helpers.rs", "common.rs", "misc.rs"];
    let all = all_sources();
    let named: Vec<_> =
        all.iter().filter(|file| vague.contains(&file.last())).map(|file| &file.name).collect();
    assert!(named.is_empty(), "{named:?}");
}

#[test]
fn no_file_is_too_long_to_read() {
    let long = all_sources().into_iter().map(|file| (file.text.lines().count(), file.name));
    let long: Vec<_> = long.filter(|(lines, _)| *lines > MAX_LINES).collect();
    assert!(long.is_empty(), "split by responsibility what has more than {MAX_LINES} lines: {long:?}");
}

#[test]
fn no_task_is_let_go() {
    let mut wrong = Vec::new();
    for file in sources(&["src", "actors/src"]).iter().filter(|file| !file.is_test()) {
        for line in file.code().lines().map(str::trim) {
            if ["tokio::spawn(", "let _ = tokio::spawn(", "drop(tokio::spawn("]
                .iter()
                .any(|start| line.starts_with(start))
            {
                wrong.push(format!("{}: {line}", file.name));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "keep the handle and await it, or use a TaskTracker or JoinSet:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_error_code_is_documented_with_its_status_and_no_other() {
    let text = read("docs/ERRORS.md");
    let rows: BTreeSet<(String, String)> = text
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            Some((cells.next()?.trim_end_matches('`').to_owned(), cells.next()?.to_owned()))
        })
        .collect();
    let codes = Code::ALL.iter().map(|code| (code.as_str().to_owned(), code.status().to_string())).collect();
    let missing: Vec<_> = BTreeSet::difference(&codes, &rows).collect();
    assert!(missing.is_empty(), "not in docs/ERRORS.md: {missing:?}");
    let gone: Vec<_> = rows.difference(&codes).collect();
    assert!(gone.is_empty(), "in docs/ERRORS.md only: {gone:?}");
}

#[test]
fn every_metric_is_documented_with_its_meaning_and_no_other() {
    let text = read("docs/OBSERVABILITY.md");
    let rows: BTreeSet<&str> = text.lines().filter(|line| line.starts_with("| `deia_")).collect();
    let declared: BTreeSet<String> = ALL
        .iter()
        .map(|metric| {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram(_) => "histogram",
            };
            let label = |label: &Label| match label.values {
                [] => format!("`{}`", label.name),
                values => format!("`{}`: {}", label.name, values.join(", ")),
            };
            let labels: Vec<_> = metric.labels.iter().map(label).collect();
            format!("| `{}` | {kind} | {} | {} |", metric.name, labels.join("; "), metric.help)
        })
        .collect();
    assert_eq!(declared.iter().map(String::as_str).collect::<BTreeSet<_>>(), rows);
}

/// One source file.
struct Source {
    /// Path from the root of the repository.
    name: String,
    text: String,
}

impl Source {
    fn last(&self) -> &str {
        self.name.rsplit('/').next().unwrap()
    }

    fn is_test(&self) -> bool {
        self.last() == "tests.rs" || self.name.contains("/tests/") || self.name.contains("/testkit")
    }

    /// Whether it is `room.rs` or lies below `room/`.
    fn is_in(&self, room: &str) -> bool {
        self.name.strip_prefix(room).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    }

    /// The text without comments and without the test module at its end.
    fn code(&self) -> String {
        let end = self.text.find("#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        let lines = self.text[..end].lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.map(|line| line.split(" // ").next().unwrap_or(line)).collect::<Vec<_>>().join("\n")
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn all_sources() -> Vec<Source> {
    sources(&["src", "actors/src", "actors/tests", "tests", "benches"])
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let mut waiting: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut found = Vec::new();
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let hidden = ["node_modules", "target"].iter().any(|name| path.ends_with(name));
            if path.is_dir() && !hidden {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
                found.push(Source { name, text: fs::read_to_string(&path).unwrap() });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Every path that the code names: `use` trees taken apart, and paths in expressions and types.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '_') {
        rest = &rest[start..];
        let end =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
        let (path, after) = rest.split_at(end);
        match path.strip_suffix("::") {
            Some(prefix) if after.starts_with('{') => {
                let tree = use_tree(after);
                found.extend(leaves(tree).into_iter().map(|leaf| format!("{prefix}::{leaf}")));
                rest = &after[tree.len()..];
            }
            _ => {
                // A single word before `:` is a field or a parameter, not a crate.
                let path = path.trim_end_matches(':');
                found.extend(path.contains("::").then(|| path.to_owned()));
                rest = after;
            }
        }
    }
    // `use warp;` and `use a::b as warp;` name a crate in one word.
    let words = code.lines().filter_map(|line| line.trim().strip_prefix("use ")?.strip_suffix(';'));
    found.extend(
        words
            .filter(|word| !word.contains(['{', ':']))
            .map(|word| word.split(' ').next().unwrap().to_owned()),
    );
    found
}

/// From `{` to its `}`.
fn use_tree(text: &str) -> &str {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            return &text[..=at];
        }
    }
    text
}

/// The paths in `{a, b::{c, d}}`.
fn leaves(tree: &str) -> Vec<String> {
    let inner = tree.strip_prefix('{').and_then(|tree| tree.strip_suffix('}')).unwrap_or_default();
    let (mut rest, mut found) = (inner.trim_start(), Vec::new());
    while !rest.is_empty() {
        let end = rest.find([',', '{']).unwrap_or(rest.len());
        let (path, after) = (rest[..end].trim(), &rest[end..]);
        if after.starts_with('{') {
            let tree = use_tree(after);
            found.extend(leaves(tree).into_iter().map(|leaf| format!("{path}{leaf}")));
            rest = &after[tree.len()..];
        } else {
            found.extend((!path.is_empty()).then(|| path.to_owned()));
            rest = after;
        }
        rest = rest.trim_start_matches(',').trim_start();
    }
    found
}

#[test]
fn use_trees_and_paths_are_taken_apart() {
    let code = "use std::{fs, io::{self, Read}};\nuse warp;\nlet x = tokio::net::TcpStream::connect(a.b);\nstruct S { http: u8 }";
    assert_eq!(
        paths(code),
        ["std::fs", "std::io::self", "std::io::Read", "tokio::net::TcpStream::connect", "warp"]
    );
}
