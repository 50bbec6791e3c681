//! Markdown on demand: a code block, a table, a list, or all of them.

const CODE: &str = "```rust\nfn fibonacci(n: u32) -> u64 {\n    let (mut a, mut b) = (0, 1);\n    for _ in 0..n {\n        \
(a, b) = (b, a + b);\n    }\n    a\n}\n\nfn main() {\n    println!(\"{}\", fibonacci(50));\n}\n```\n";

const TABLE: &str = "| model | answers | speed | knows things |\n|:--|:--|--:|:-:|\n| `simulated` | scripted | 50 tokens/s | no |\n\
| `sim:echo` | your own words | as fast as possible | no |\n| a real one | its own words | it depends | **yes** |\n";

const LIST: &str = "1. Launch a bot.\n2. Send it a message:\n   - watch the answer arrive\n   - press *Stop* half way\n3. Kill it in the \
supervision tree, and see it come back.\n";

/// The parts that the words ask for; `None` where they ask for no Markdown.
pub(super) fn wanted(words: &[&str]) -> Option<String> {
    let any = |names: &[&str]| words.iter().any(|w| names.contains(w));
    let all = any(&["markdown", "formatting"]);
    let code = all || any(&["code", "function", "snippet"]);
    let table = all || any(&["table"]);
    let list = all || any(&["list", "bullets", "bullet"]);
    if !(code || table || list) {
        return None;
    }
    let mut text = String::new();
    if all {
        text.push_str("# Markdown\n\nSome *emphasis*, some **weight**, a [link](https://example.org) and `code` in a line.\n\n> A quote, of nobody.\n\n");
    }
    for (wanted, title, body) in [(code, "Code", CODE), (table, "Table", TABLE), (list, "List", LIST)] {
        if wanted {
            text.push_str("## ");
            text.push_str(title);
            text.push_str("\n\n");
            text.push_str(body);
            text.push('\n');
        }
    }
    text.push_str("All of this is scripted.");
    Some(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_parts_that_were_asked_for_are_written() {
        let table = wanted(&["a", "table"]).unwrap();
        assert!(table.contains("|:--|") && !table.contains("```"));
        let all = wanted(&["show", "markdown"]).unwrap();
        assert!(all.contains("```rust") && all.contains("|:--|") && all.contains("1. Launch"));
        assert_eq!(wanted(&["stable"]), None);
    }
}
