//! Slash commands: what they are called, how they are written, what they mean. Pure; carried out by the
//! façade.

use crate::{
    controller::requests::CommandInfo,
    domain::problem::{Code, Problem},
};

/// A command, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// List the commands.
    Help,
    /// How the bot is.
    Status,
    /// Use another model.
    Model(String),
    /// Set the system prompt; empty removes it.
    System(String),
    /// Delete the messages of this conversation.
    Clear,
    /// Stop the running answer.
    Stop,
    /// Ask the last message again.
    Retry,
}

struct Spec {
    name: &'static str,
    usage: &'static str,
    description: &'static str,
}

const SPECS: [Spec; 7] = [
    Spec { name: "help", usage: "/help", description: "List the commands" },
    Spec {
        name: "status",
        usage: "/status",
        description: "Show the bot's state, model, queue and token totals",
    },
    Spec {
        name: "model",
        usage: "/model NAME",
        description: "Answer with another model from the next message on",
    },
    Spec {
        name: "system",
        usage: "/system TEXT",
        description: "Set the system prompt from the next message on; without TEXT, remove it",
    },
    Spec { name: "clear", usage: "/clear", description: "Delete the messages of this conversation" },
    Spec { name: "stop", usage: "/stop", description: "Stop the running answer; what is written is kept" },
    Spec {
        name: "retry",
        usage: "/retry",
        description: "Ask the last message again; the earlier answer is kept beside it",
    },
];

/// The commands as listed; `models` complete `/model`.
#[must_use]
pub fn list(models: &[String]) -> Vec<CommandInfo> {
    let info = |spec: &Spec| CommandInfo {
        name: spec.name,
        usage: spec.usage,
        description: spec.description,
        completions: if spec.name == "model" { models.to_vec() } else { vec![] },
    };
    SPECS.iter().map(info).collect()
}

/// The answer to `/help`, as Markdown.
#[must_use]
pub fn help() -> String {
    let line = |spec: &Spec| format!("- `{}` {}", spec.usage, spec.description);
    SPECS.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Name and arguments of a text that is written like a command: `/name` with `[a-z][a-z0-9-]*`, then a space or
/// the end. Everything else that begins with `/` (a path, `//`) is an ordinary message.
fn split(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix('/')?;
    let (name, arguments) = match rest.find(|c: char| c.is_ascii_whitespace()) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let mut letters = name.bytes();
    let first = letters.next()?;
    let fine = first.is_ascii_lowercase()
        && letters.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    fine.then(|| (name, arguments.trim()))
}

/// Understands a text: `None` for an ordinary message.
///
/// # Errors
/// `unknown_command` with the nearest match; `invalid_command` for wrong arguments.
pub fn parse(text: &str) -> Option<Result<Command, Problem>> {
    let (name, arguments) = split(text)?;
    Some(understand(name, arguments))
}

fn understand(name: &str, arguments: &str) -> Result<Command, Problem> {
    let bare = |command| match arguments {
        "" => Ok(command),
        _ => Err(Problem::new(Code::InvalidCommand, format!("/{name} takes no arguments."))),
    };
    match name {
        "help" => bare(Command::Help),
        "status" => bare(Command::Status),
        "clear" => bare(Command::Clear),
        "stop" => bare(Command::Stop),
        "retry" => bare(Command::Retry),
        "system" => Ok(Command::System(arguments.to_owned())),
        "model" if arguments.is_empty() || arguments.contains(char::is_whitespace) => Err(Problem::new(
            Code::InvalidCommand,
            "Write /model NAME with one name; GET /api/models lists them.",
        )),
        "model" => Ok(Command::Model(arguments.to_owned())),
        _ => {
            let near = SPECS
                .iter()
                .max_by(|a, b| {
                    strsim::jaro_winkler(name, a.name).total_cmp(&strsim::jaro_winkler(name, b.name))
                })
                .map_or("help", |spec| spec.name);
            Err(Problem::new(
                Code::UnknownCommand,
                format!("There is no /{name}. Did you mean /{near}? /help lists all."),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn commands_are_understood_with_their_arguments() {
        let cases = [
            ("/help", Command::Help),
            ("/status ", Command::Status),
            ("/model llama3.2:3b", Command::Model("llama3.2:3b".into())),
            ("/system  You are brief.\nAnd kind. ", Command::System("You are brief.\nAnd kind.".into())),
            ("/system", Command::System(String::new())),
            ("/clear", Command::Clear),
            ("/stop", Command::Stop),
            ("/retry", Command::Retry),
        ];
        for (text, command) in cases {
            assert_eq!(parse(text).unwrap().unwrap(), command, "{text}");
        }
    }

    #[test]
    fn text_that_only_begins_with_a_slash_is_an_ordinary_message() {
        for text in
            ["/usr/bin", "/clear\u{a0}", "//", "/", "/ help", "/Help", "/1", "/a_b c", "hello /help", ""]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_unknown_command_names_the_nearest_one() {
        let problem = parse("/stpo").unwrap().unwrap_err();
        assert_eq!(problem.code, Code::UnknownCommand);
        assert!(problem.detail.contains("/stop"), "{}", problem.detail);
        assert_eq!(parse("/model").unwrap().unwrap_err().code, Code::InvalidCommand);
        assert_eq!(parse("/clear all").unwrap().unwrap_err().code, Code::InvalidCommand);
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "\\PC*", slash in any::<bool>()) {
            let text = if slash { format!("/{text}") } else { text };
            let _ = parse(&text);
        }
    }
}
