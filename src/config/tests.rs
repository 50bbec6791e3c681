//! What a configuration accepts, what it refuses, and how it says so.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;

const DOCUMENTED: &str = include_str!("../../config.toml");

fn load(file: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let layer = FileLayer::parse("config.toml".to_owned(), file)?;
    Config::from_layers(Some(layer), environment.iter().map(|(name, value)| (name.into(), value.into())))
}

fn refusal(file: &str, environment: &[(&str, &str)]) -> String {
    let error = load(file, environment).expect_err(&format!("{file:?} {environment:?} is refused"));
    let line = error.to_string();
    assert!(!line.contains(char::is_control), "one line: {line:?}");
    line
}

fn urls(config: &Config) -> Vec<String> {
    config.inference.servers.iter().map(ModelServer::shown_url).collect()
}

fn values(config: &Config) -> BTreeMap<&str, &Value> {
    config.items().iter().map(|item| (item.key.as_str(), &item.value)).collect()
}

#[test]
fn every_key_is_documented_with_its_default_and_its_variable() {
    let defaults = load("", &[]).unwrap();
    // Lines like `#listen = …` are keys at their default; `# listen` is prose.
    let is_key = |line: &str| {
        line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    let uncommented: Vec<&str> =
        DOCUMENTED.lines().map(|line| if is_key(line) { &line[1..] } else { line }).collect();
    let documented = load(&uncommented.join("\n"), &[]).unwrap();
    assert_eq!(values(&documented), values(&defaults));
    for (default, item) in defaults.items().iter().zip(documented.items()) {
        assert_eq!(default.source, Source::Default, "{}", item.key);
        assert_eq!(item.source, Source::File("config.toml".to_owned()), "{} is not in config.toml", item.key);
        let name = item.key.rsplit('.').next().unwrap();
        let at = uncommented.iter().position(|line| line.starts_with(&format!("{name} ="))).unwrap();
        let variable = format!("# Environment: {}", item.env);
        assert!(uncommented[at - 1].starts_with(&variable), "the line above {name}: {variable}");
        assert!(item.description.ends_with('.'), "{}", item.description);
    }
}

#[test]
fn the_shipped_file_changes_nothing() {
    let shipped = load(DOCUMENTED, &[]).unwrap();
    assert!(shipped.items().iter().all(|item| item.source == Source::Default));
}

#[test]
fn every_key_can_be_set_in_the_environment() {
    let other = |key: &str, value: &Value| match (key, value) {
        ("server.listen", _) => "127.0.0.1:0".to_owned(),
        ("storage.url", _) => "sqlite:/tmp/x.db".to_owned(),
        ("inference.simulated", _) => "off".to_owned(),
        ("log.level", _) => "warn,deia::http=debug".to_owned(),
        ("log.format", _) => "text".to_owned(),
        (_, Value::Number(number)) => (number.as_u64().unwrap() + 1).to_string(),
        (_, Value::Bool(flag)) => (!flag).to_string(),
        (_, Value::Array(_)) => "http://a:1,http://b:2".to_owned(),
        _ => "something".to_owned(),
    };
    let defaults = load("", &[]).unwrap();
    for item in defaults.items() {
        let text = other(&item.key, &item.value);
        let config = load("", &[(&item.env, &text)]).unwrap();
        let changed = config.items().iter().find(|changed| changed.key == item.key).unwrap();
        assert_eq!(changed.source, Source::Environment, "{}", item.env);
        assert_ne!(changed.value, item.value, "{}", item.env);
        let others = config.items().iter().filter(|changed| changed.source != Source::Default).count();
        assert_eq!(others, 1, "{} sets one key", item.env);
    }
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_default() {
    let file = "[server]\nlisten = \"127.0.0.1:1\"\ndrain_s = 3\n";
    let config =
        load(file, &[("DEIA_SERVER__LISTEN", "[::1]:2"), ("PATH", "/bin"), ("DEIA_CONFIG", "x")]).unwrap();
    assert_eq!(config.server.listen.to_string(), "[::1]:2");
    assert_eq!(config.server.drain.as_secs(), 3);
    assert_eq!(config.server.max_body_bytes, 2 << 20);
    let sources: Vec<Value> =
        config.items()[1..4].iter().map(|item| serde_json::to_value(&item.source).unwrap()).collect();
    assert_eq!(sources, ["environment", "config.toml", "default"]);
}

#[test]
fn the_database_follows_the_data_folder() {
    let config = load("data_dir = \"/srv/deia\"", &[]).unwrap();
    assert_eq!(config.storage.url.to_string(), "sqlite:/srv/deia/deia.db");
    let config = load("", &[("DEIA_STORAGE__URL", "sqlite:other.db")]).unwrap();
    assert_eq!(config.storage.url.to_string(), "sqlite:other.db");
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_match() {
    for (file, expected) in [
        (
            "[server]\n\nlisten = \"127.0.0.1:0\"\ndrains = 1",
            "config.toml:4: server.drains: there is no such key, did you mean server.drain_s?",
        ),
        (
            "[servr]\nlisten = \"x\"",
            "config.toml:2: servr.listen: there is no such key, did you mean server.listen?",
        ),
        (
            "listen = \"127.0.0.1:0\"",
            "config.toml:1: listen: there is no such key, did you mean server.listen?",
        ),
        (
            "[log]\ndata_dir = \"x\"",
            "config.toml:2: log.data_dir: there is no such key, did you mean data_dir?",
        ),
        ("[servers]", "config.toml:1: servers: there is no such key, did you mean inference.servers?"),
        ("[zebra]\nstripes = 7", "config.toml:2: zebra.stripes: there is no such key"),
        (
            "[server.listen]\nport = 1",
            "config.toml:2: server.listen.port: there is no such key, did you mean server.listen?",
        ),
    ] {
        assert_eq!(refusal(file, &[]), expected);
    }
}

#[test]
fn an_unknown_variable_is_refused_with_the_nearest_match() {
    for (name, expected) in [
        (
            "DEIA_SERVER__LISTN",
            "environment: DEIA_SERVER__LISTN: there is no such variable, did you mean DEIA_SERVER__LISTEN?",
        ),
        (
            "DEIA_SERVER_LISTEN",
            "environment: DEIA_SERVER_LISTEN: there is no such variable, did you mean DEIA_SERVER__LISTEN?",
        ),
        (
            "DEIA_server__listen",
            "environment: DEIA_server__listen: there is no such variable, did you mean DEIA_SERVER__LISTEN?",
        ),
        (
            "DEIA_LISTEN",
            "environment: DEIA_LISTEN: there is no such variable, did you mean DEIA_SERVER__LISTEN?",
        ),
        ("DEIA_QQQQ", "environment: DEIA_QQQQ: there is no such variable"),
    ] {
        assert_eq!(refusal("", &[(name, "1")]), expected);
    }
}

#[test]
fn a_wrong_type_or_a_value_out_of_range_is_refused_with_what_is_right() {
    for (file, expected) in [
        (
            "[server]\ndrain_s = \"10\"",
            "config.toml:2: server.drain_s: must be a whole number from 0 to 3600, not \"10\"",
        ),
        (
            "[server]\ndrain_s = 1.5",
            "config.toml:2: server.drain_s: must be a whole number from 0 to 3600, not 1.5",
        ),
        (
            "[server]\ndrain_s = -1",
            "config.toml:2: server.drain_s: must be a whole number from 0 to 3600, not -1",
        ),
        (
            "[server]\ndrain_s = true",
            "config.toml:2: server.drain_s: must be a whole number from 0 to 3600, not true",
        ),
        (
            "[server]\nlisten = 8000",
            "config.toml:2: server.listen: must be an address with a port, like 127.0.0.1:8000, not 8000",
        ),
        (
            "[supervision]\nallow_kill = 1",
            "config.toml:2: supervision.allow_kill: must be true or false, not 1",
        ),
        ("data_dir = \"\"", "config.toml:1: data_dir: must be a path, not \"\""),
        ("[log]\nformat = \"xml\"", "config.toml:2: log.format: must be json or text, not \"xml\""),
        (
            "[inference]\nservers = []",
            "config.toml:2: inference.servers: must be a list of at least one URL or table {name, url, slots}, not []",
        ),
    ] {
        assert_eq!(refusal(file, &[]), expected);
    }
    for (name, value, expected) in [
        (
            "DEIA_BOTS__MAX_RUNNING",
            "0",
            "environment: DEIA_BOTS__MAX_RUNNING: must be a whole number from 1 to 100000, not \"0\"",
        ),
        (
            "DEIA_BOTS__MAX_RUNNING",
            "9223372036854775808",
            "environment: DEIA_BOTS__MAX_RUNNING: must be a whole number from 1 to 100000, not \"9223372036854775808\"",
        ),
        (
            "DEIA_BOTS__MAX_RUNNING",
            "",
            "environment: DEIA_BOTS__MAX_RUNNING: must be a whole number from 1 to 100000, not \"\"",
        ),
        ("DEIA_LOG__FORMAT", "a\nb", "environment: DEIA_LOG__FORMAT: must be json or text, not \"a\\nb\""),
        (
            "DEIA_INFERENCE__SIMULATED",
            "maybe",
            "environment: DEIA_INFERENCE__SIMULATED: must be auto, on or off, not \"maybe\"",
        ),
    ] {
        assert_eq!(refusal("", &[(name, value)]), expected);
    }
}

#[test]
fn a_file_that_is_not_toml_is_refused_with_its_line() {
    let line = refusal("[server]\nlisten =\n", &[]);
    assert!(line.starts_with("config.toml:2: this is not TOML: "), "{line}");
    let line = refusal("[log]\nlevel = \"info\"\nlevel = \"warn\"", &[]);
    assert!(line.starts_with("config.toml:3: this is not TOML: "), "{line}");
}

#[test]
fn a_named_file_must_exist() {
    let error = Config::load(Some(Path::new("/nowhere/deia.toml"))).unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/deia.toml: the file can't be read: "), "{error}");
}

#[test]
fn addresses_that_others_can_reach_are_refused() {
    for listen in ["0.0.0.0:8000", "[::]:8000", "192.168.1.2:80"] {
        let line = refusal("", &[("DEIA_SERVER__LISTEN", listen)]);
        assert!(
            line.starts_with(&format!("environment: DEIA_SERVER__LISTEN: {listen} is not a loopback")),
            "{line}"
        );
    }
    assert!(load("", &[("DEIA_SERVER__LISTEN", "localhost:0")]).unwrap().server.listen.ip().is_loopback());
}

#[test]
fn a_database_is_a_file_or_a_postgresql_url() {
    for url in ["sqlite::memory:", "sqlite:", "sqlite:x.db?mode=ro", "deia.db", "mysql://u:s3cret@h/db", ""] {
        let line = refusal("", &[("DEIA_STORAGE__URL", url)]);
        let expected = "environment: DEIA_STORAGE__URL: must be sqlite:PATH, naming a file, or postgres://USER:PASSWORD@HOST/DATABASE";
        assert_eq!(line, expected, "{url}");
    }
    for url in [
        "postgres://deia@db.example/deia",
        "postgresql://deia@db.example:5433/deia?sslmode=verify-full&sslrootcert=Cargo.toml",
        "postgres://[::1]/deia?application_name=deia&options=-c%20search_path%3Dbots",
        "postgres:///deia?host=/var/run/postgresql",
    ] {
        let config = load("", &[("DEIA_STORAGE__URL", url)]).unwrap();
        let StorageUrl::Postgres(read) = &config.storage.url else { panic!("{url}") };
        assert_eq!((read.expose(), read.to_string().as_str()), (url, url));
    }
}

#[test]
fn a_postgresql_url_that_the_driver_would_half_understand_is_refused() {
    for (url, expected) in [
        (
            "h/db?ssl_mode=require",
            "a PostgreSQL URL without the parameter \"ssl_mode\": did you mean sslmode?",
        ),
        ("h/db?ssl-root-cert=x", "did you mean sslrootcert?"),
        ("h/db?zebra=1", "without the parameter \"zebra\": there are sslmode, sslrootcert,"),
        ("h/db?sslmode=verify", "sslmode is one of disable, prefer, require, verify-ca, verify-full"),
        ("h/db?sslmode=allow", "sslmode is one of disable,"),
        ("h/db?sslmode=require&sslrootcert=/ca", "sslmode=verify-full where it has sslrootcert"),
        ("h/db?sslrootcert=/ca", "sslmode=verify-full where it has sslrootcert"),
        ("h/db?sslcert=/c", "both sslcert and sslkey"),
        (
            "h/db?sslmode=verify-ca&sslrootcert=/no/ca.crt",
            "whose sslrootcert is a file that can be read (No such file",
        ),
        ("h/db?port=x", "port is a number"),
        ("/db", "with one host"),
        ("h1,h2/db", "with one host"),
        ("h:5432,h2:5432/db", "invalid port number"),
    ] {
        let line = refusal("", &[("DEIA_STORAGE__URL", &format!("postgres://{url}"))]);
        assert!(line.contains(expected), "{url}: {line}");
    }
}

#[test]
fn the_password_of_the_database_is_shown_nowhere() {
    for (url, shown) in [
        ("postgres://me:s3cret@h:1/db", "postgres://me:[redacted]@h:1/db"),
        (
            "postgres://me@h/db?password=s3cret&sslmode=require",
            "postgres://me@h/db?password=[redacted]&sslmode=require",
        ),
        ("postgres://:s3cret@h/db?pass%77ord=s3cret", "postgres://:[redacted]@h/db?password=[redacted]"),
    ] {
        let config = load("", &[("DEIA_STORAGE__URL", url)]).unwrap();
        assert_eq!(values(&config)["storage.url"], &json!(shown));
        let all = format!("{config:?}") + &serde_json::to_string(config.items()).unwrap();
        assert!(!all.contains("s3cret"), "{all}");
    }
    for url in [
        "postgres://me:s3cret/and@h/db",
        "postgres://me:12/s3cret@h/db",
        "postgres://me:12?s3cret@h/db",
        "postgres://me:12#s3cret@h/db",
        "postgres://me:1s3cret@h:port/db",
        "postgres://me:s3cret@h/db?nonsense=1",
        "postgres://me@h/db?pasword=s3cret",
        "postgress://me:s3cret@h/db",
    ] {
        let line = refusal(&format!("[storage]\nurl = \"{url}\""), &[]);
        assert!(
            line.starts_with("config.toml:2: storage.url: must be ") && !line.contains("s3cret"),
            "{line}"
        );
    }
}

#[test]
fn a_pool_has_a_least_and_a_most() {
    let config =
        load("[storage]\npool_min = 3\npool_max = 3", &[("DEIA_STORAGE__ACQUIRE_TIMEOUT_S", "2")]).unwrap();
    assert_eq!((config.storage.pool_min, config.storage.pool_max), (3, 3));
    assert_eq!(
        (config.storage.acquire_timeout.as_secs(), config.storage.statement_timeout.as_secs()),
        (2, 30)
    );
    assert_eq!(
        refusal("[storage]\npool_min = 4\npool_max = 3", &[]),
        "config.toml:2: storage.pool_min: must not be more than storage.pool_max, which is 3"
    );
    assert_eq!(
        refusal("", &[("DEIA_STORAGE__POOL_MAX", "9")]),
        "environment: DEIA_STORAGE__POOL_MAX: must not be less than storage.pool_min, which is 10"
    );
    for (key, range) in [
        ("pool_min", "0 to 1000"),
        ("pool_max", "2 to 1000"),
        ("acquire_timeout_s", "1 to 300"),
        ("statement_timeout_s", "1 to 3600"),
    ] {
        let line = refusal(&format!("[storage]\n{key} = 100000"), &[]);
        assert!(line.contains(&format!("must be a whole number from {range}, not 100000")), "{line}");
    }
}

#[test]
fn ollama_host_is_understood_in_its_usual_forms() {
    for (host, url) in [
        ("", "http://127.0.0.1:11434"),
        ("10.0.0.2", "http://10.0.0.2:11434"),
        ("gpu.local:8080", "http://gpu.local:8080"),
        (":9999", "http://127.0.0.1:9999"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:1234", "http://127.0.0.1:1234"),
        ("http://0.0.0.0:11434", "http://127.0.0.1:11434"),
        ("10.0.0.2:80", "http://10.0.0.2"),
        ("http://gpu.local", "http://gpu.local"),
        ("https://gpu.local/ollama/", "https://gpu.local/ollama"),
        ("::1", "http://[::1]:11434"),
        ("[::]:5000", "http://[::1]:5000"),
        ("\"10.0.0.2\"", "http://10.0.0.2:11434"),
    ] {
        let config = load("", &[("OLLAMA_HOST", host)]).unwrap();
        assert_eq!(urls(&config), [url], "{host}");
    }
    let line = refusal("", &[("OLLAMA_HOST", "http://bad host")]);
    assert!(line.starts_with("environment: OLLAMA_HOST: must be URLs like"), "{line}");
    let config = load("[inference]\nservers = [\"http://a:1\"]", &[("OLLAMA_HOST", "b")]).unwrap();
    assert_eq!(urls(&config), ["http://a:1"], "the key wins");
}

#[test]
fn servers_are_urls_or_tables_with_names_and_slots() {
    let file = r#"
        [inference]
        slots = 2
        servers = ["http://a:1", { name = "big", url = "http://b", slots = 4 }, { url = "http://c:3/x" }]
    "#;
    let config = load(file, &[]).unwrap();
    let servers: Vec<_> =
        config.inference.servers.iter().map(|server| (server.name.as_str(), server.slots)).collect();
    assert_eq!(servers, [("a:1", 2), ("big", 4), ("c:3", 2)]);
    assert_eq!(urls(&config)[1], "http://b", "a URL without a port means port 80, as for Ollama");

    for (servers, expected) in [
        (r#"[{ url = "http://a", slot = 1 }]"#, "there is no \"slot\""),
        (r#"[{ name = "a" }]"#, "a url in each"),
        (r#"[{ url = "http://a", slots = 0 }]"#, "slots from 1 to 1024"),
        (r#"[{ url = "http://a", name = "a/b" }]"#, "names of 1 to 50"),
        (r#"[{ url = "http://a", name = "." }]"#, "names of 1 to 50"),
        (r#"[{ url = "http://a", name = ".." }]"#, "names of 1 to 50"),
        (r#"["http://a:1", "http://a:1/"]"#, "listed twice"),
        (r#"["http://localhost:1", "http://127.0.0.1:1"]"#, "listed twice"),
        (r#"["localhost:8000"]"#, "it would ask itself at http://localhost:8000"),
        (r#"["http://[::1]:8000"]"#, "other than deia itself"),
        (r#"[{ name = "x", url = "http://a" }, { name = "x", url = "http://b" }]"#, "two are called x"),
        (r#"["ftp://a"]"#, "URLs like http://127.0.0.1:11434"),
        ("\"http://a\"", "a list of at least one"),
        ("[1]", "a list of URLs or of tables"),
    ] {
        let line = refusal(&format!("[inference]\nservers = {servers}"), &[]);
        assert!(line.starts_with("config.toml:2: inference.servers: must be "), "{line}");
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn servers_that_are_never_called_are_refused_and_passwords_shown_nowhere() {
    for (servers, expected) in [
        ("http://me:s3cret@a:1", "must not contain a user or a password"),
        ("http://a:1, http://me:s3cret@b:2", "must not contain a user or a password"),
        ("http://a:1, ftp://me:s3cret@b:2", "not ftp:"),
        ("http://169.254.169.254", "must not be a link-local address"),
        ("http://[::ffff:a9fe:a9fe]", "must not be a link-local address"),
        ("0.0.0.0", "must not be an address that stands for none or for all"),
        ("file:/etc/passwd", "not file:"),
    ] {
        let line = refusal("", &[("DEIA_INFERENCE__SERVERS", servers)]);
        assert!(line.contains(expected) && !line.contains("s3cret"), "{line}");
    }
    let line = refusal("[inference]\nservers = [{ url = \"http://me:s3cret@a:1\", slots = -1 }]", &[]);
    assert!(!line.contains("s3cret"), "{line}");
}

#[test]
fn a_misspelt_level_is_refused_and_levels_per_target_are_not() {
    for level in
        ["info", "WARN", "off", "info,deia::http=debug", "warn,deia_actors=trace", "info,[bot{bot.id}]=debug"]
    {
        load("", &[("DEIA_LOG__LEVEL", level)]).unwrap_or_else(|error| panic!("{level}: {error}"));
    }
    for level in ["inof", "", "info,deia", "deia=loud", "info,,"] {
        assert!(refusal("", &[("DEIA_LOG__LEVEL", level)]).contains("must be one of off, error,"), "{level}");
    }
}

#[test]
fn a_program_sets_keys_in_code() {
    let config = Config::with([("server.listen", "127.0.0.1:0"), ("inference.servers", "a:1,b:2")]).unwrap();
    assert_eq!(urls(&config), ["http://a:1", "http://b:2"]);
    assert_eq!(serde_json::to_value(&config.items()[1].source).unwrap(), "code");
    let error = Config::with([("server.lisen", "x")]).unwrap_err();
    assert_eq!(error.to_string(), "code: server.lisen: there is no such key, did you mean server.listen?");
}

#[test]
fn an_item_shows_key_value_source_variable_and_meaning() {
    let config = load("", &[("DEIA_BOTS__DEFAULT_MODEL", " ")]).unwrap();
    let item = config.items().iter().find(|item| item.key == "bots.default_model").unwrap();
    assert_eq!(
        serde_json::to_value(item).unwrap(),
        json!({
            "key": "bots.default_model", "value": null, "source": "environment", "env": "DEIA_BOTS__DEFAULT_MODEL",
            "description": item.description,
        })
    );
}
