//! Markdown to HTML that is safe to show: rendered by pulldown-cmark, then cleaned by ammonia.

use std::{collections::HashSet, sync::LazyLock};

use ammonia::Builder;
use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html::push_html};
use serde_json::Value;

/// Text above which rendering leaves the runtime's threads, in bytes.
const ASIDE_BYTES: usize = 32 * 1024;
/// Nested quotes, lists and the like that are shown as such.
const DEPTH_MAX: usize = 64;
/// Bytes of text in one piece for the cleaner.
const RUN_MAX: usize = 1024;
/// Longest address of a link, in bytes.
const URL_MAX: usize = 2048;

static CLEANER: LazyLock<Builder<'static>> = LazyLock::new(|| {
    let mut builder = Builder::default();
    builder
        .tags(HashSet::from([
            "a",
            "blockquote",
            "br",
            "code",
            "del",
            "em",
            "h1",
            "h2",
            "h3",
            "h4",
            "h5",
            "h6",
            "hr",
            "input",
            "li",
            "ol",
            "p",
            "pre",
            "strong",
            "sub",
            "sup",
            "table",
            "tbody",
            "td",
            "th",
            "thead",
            "tr",
            "ul",
        ]))
        .tag_attributes(
            [
                ("a", HashSet::from(["href", "title"])),
                ("code", HashSet::from(["class"])),
                ("ol", HashSet::from(["start"])),
                ("input", HashSet::from(["type", "checked", "disabled"])),
                ("td", HashSet::from(["align"])),
                ("th", HashSet::from(["align"])),
            ]
            .into(),
        )
        .generic_attributes(HashSet::new())
        .url_schemes(HashSet::from(["http", "https", "mailto"]))
        .link_rel(Some("noopener noreferrer nofollow"))
        .set_tag_attribute_value("a", "target", "_blank")
        // The only input that there can be is the box of a task list.
        .set_tag_attribute_value("input", "type", "checkbox")
        .set_tag_attribute_value("input", "disabled", "")
        .attribute_filter(|element, attribute, value| match (element, attribute) {
            ("code", "class") => is_language(value).then(|| value.into()),
            ("a", "href") => is_absolute(value).then(|| value.into()),
            _ => Some(value.into()),
        });
    builder
});

fn is_language(class: &str) -> bool {
    class.strip_prefix("language-").is_some_and(|name| {
        (1..=40).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+' | b'#' | b'.'))
    })
}

/// A model knows nothing of this service's own paths: a link into it would be a trap.
fn is_absolute(url: &str) -> bool {
    let url = url.trim_start().to_ascii_lowercase();
    ["http://", "https://", "mailto:"].iter().any(|scheme| url.starts_with(scheme))
}

/// The HTML of a Markdown text.
#[must_use]
pub(super) fn html(markdown: &str) -> String {
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    let mut raw = String::with_capacity(markdown.len() * 3 / 2);
    push_html(&mut raw, tamed(Parser::new_ext(markdown, options)));
    CLEANER.clean(&raw).to_string()
}

/// Shows HTML as the text that it is, flattens what is nested too deeply and drops the addresses that are too long: the
/// cleaner's time grows with the square of the depth. It also grows with the square of the length of a text without tags
/// (each `&` is looked for up to the next `<`), so a comment, which the cleaner removes, parts long ones.
fn tamed<'a>(events: impl Iterator<Item = Event<'a>>) -> impl Iterator<Item = Event<'a>> {
    let (mut depth, mut run) = (0_usize, 0_usize);
    events.flat_map(move |event| {
        let mut out = vec![];
        match event {
            Event::Start(tag) => {
                depth += 1;
                if depth <= DEPTH_MAX {
                    out.push(Event::Start(link(tag)));
                }
            }
            Event::End(tag) => {
                depth = depth.saturating_sub(1);
                if depth < DEPTH_MAX {
                    out.push(Event::End(if tag == TagEnd::Image { TagEnd::Link } else { tag }));
                }
            }
            Event::Text(text) | Event::Html(text) | Event::InlineHtml(text) => part(text, &mut run, &mut out),
            Event::Code(text) if text.len() > RUN_MAX => {
                out.push(Event::InlineHtml("<code>".into()));
                part(text, &mut run, &mut out);
                out.push(Event::InlineHtml("</code>".into()));
            }
            other => out.push(other),
        }
        out
    })
}

/// Text with a comment after every [`RUN_MAX`] bytes; `run` = bytes since the last one.
fn part<'a>(text: CowStr<'a>, run: &mut usize, out: &mut Vec<Event<'a>>) {
    if *run + text.len() <= RUN_MAX {
        *run += text.len();
        out.push(Event::Text(text));
        return;
    }
    let mut rest = &*text;
    while !rest.is_empty() {
        if *run >= RUN_MAX {
            out.push(Event::InlineHtml("<!---->".into()));
            *run = 0;
        }
        let (head, tail) = rest.split_at(rest.ceil_char_boundary(RUN_MAX - *run));
        *run += head.len();
        out.push(Event::Text(head.to_owned().into()));
        rest = tail;
    }
}

/// A link with an address of a sane length. An image becomes one: it is not loaded, that would tell its server who reads.
fn link<'a>(tag: Tag<'a>) -> Tag<'a> {
    match tag {
        Tag::Link { link_type, dest_url, title, id } | Tag::Image { link_type, dest_url, title, id } => {
            let sane = |text: CowStr<'a>| if text.len() <= URL_MAX { text } else { "".into() };
            let (dest_url, title) = (sane(dest_url), sane(title));
            Tag::Link { link_type, dest_url, title, id }
        }
        other => other,
    }
}

/// Gives a message, as JSON, its `html`; a reply that is still being written has none.
pub(super) fn add_html(message: &mut Value) {
    let Some(object) = message.as_object_mut() else { return };
    if object.get("state").and_then(Value::as_str) == Some("pending") {
        return;
    }
    let Some(content) = object.get("content").and_then(Value::as_str) else { return };
    let html = html(content);
    object.insert("html".into(), html.into());
}

/// [`add_html`] to each of a list.
pub(super) fn add_html_to_all(messages: &mut Value) {
    messages.as_array_mut().into_iter().flatten().for_each(add_html);
}

/// Runs `work` here where there is little text, else on a thread that may take its time.
pub(super) async fn aside<T: Default + Send + 'static>(
    text: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if text <= ASIDE_BYTES {
        return work();
    }
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "Markdown could not be rendered");
        T::default()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn markdown_becomes_html() {
        assert_eq!(html("a **b** `c` ~~d~~"), "<p>a <strong>b</strong> <code>c</code> <del>d</del></p>\n");
        assert!(html("```rust\nfn x() {}\n```").contains("<code class=\"language-rust\">fn x() {}"));
        assert!(html("|a|b|\n|:-:|-|\n|1|2|").contains("<td"));
        let task = html("- [x] done");
        assert!(task.contains("type=\"checkbox\"") && task.contains("checked"), "{task}");
        assert!(html("3. c").contains("<ol start=\"3\">"));
    }

    #[test]
    fn links_leave_safely_and_images_are_not_loaded() {
        let link = html("[x](https://example.org/a?b=1)");
        for part in [
            "href=\"https://example.org/a?b=1\"",
            "rel=\"noopener noreferrer nofollow\"",
            "target=\"_blank\"",
        ] {
            assert!(link.contains(part), "{link}");
        }
        for bad in
            ["[x](javascript:alert(1))", "[x](/api/bots)", "[x](//evil.example)", "[x](data:text/html,x)"]
        {
            assert!(!html(bad).contains("href"), "{bad}");
        }
        let image = html("![a *b*](https://evil.example/pixel.png)");
        assert!(!image.contains("<img") && image.contains(">a <em>b</em></a>"), "{image}");
    }

    #[test]
    fn html_in_markdown_is_shown_as_text() {
        assert_eq!(html("a <b onclick=x()>t</b>"), "<p>a &lt;b onclick=x()&gt;t&lt;/b&gt;</p>\n");
        let bad = "<script>alert(1)</script>\n\n<img src=x onerror=alert(1)><input type=text value=x><iframe src=x>";
        assert!(tags(&html(bad)).iter().all(|tag| tag == "p" || tag == "/p"), "{}", html(bad));
    }

    #[test]
    fn the_cleaner_alone_lets_nothing_through_either() {
        let bad = "<script>alert(1)</script><img src=x onerror=alert(1)><b onclick=x()>t</b><input type=text value=x>\
                   <style>p{}</style><iframe src=x></iframe><form action=/x><code class=\"a b\">";
        let out = CLEANER.clean(bad).to_string();
        for part in ["script", "onerror", "onclick", "style", "iframe", "form", "\"text\"", "class"] {
            assert!(!out.contains(part), "{part} in {out}");
        }
    }

    #[test]
    fn the_time_grows_with_the_length_and_not_with_the_depth() {
        let time = |text: String| {
            let began = Instant::now();
            let _ = html(&text);
            began.elapsed()
        };
        let many = |n: usize| (0..n).map(|i| format!("word{i} *a* ")).collect::<String>();
        let enough = time(many(10_000)) * 30 + Duration::from_secs(1);
        let long = 120_000;
        for unit in ["> ", "- ", "*", "[", "**a ", "~~", "![", "<a ", "|a", "&#", "& ", "£", "\n    a && b\n"]
        {
            let took = time(unit.repeat(long / unit.len()));
            assert!(took < enough, "{unit:?} took {took:?}, above {enough:?}");
        }
        for text in [format!("`{}`", "&".repeat(long)), format!("[a](http://x?{})", "&".repeat(long))] {
            let took = time(text);
            assert!(took < enough, "took {took:?}, above {enough:?}");
        }
    }

    #[test]
    fn long_texts_come_out_whole() {
        let text = "é & < \"x\" ".repeat(500);
        let code = format!("`{text}`").trim_end().to_owned();
        for (markdown, open, close) in
            [(text.trim_end().to_owned(), "<p>", "</p>\n"), (code, "<p><code>", "</code></p>\n")]
        {
            let escaped = text.replace('&', "&amp;").replace('<', "&lt;");
            let html = html(&markdown);
            let inner = html.strip_prefix(open).and_then(|h| h.strip_suffix(close)).unwrap();
            assert_eq!(inner.trim_end(), escaped.trim_end());
        }
    }

    #[test]
    fn a_message_that_is_still_written_has_no_html() {
        let mut messages =
            json!([{"content": "*a*", "state": "complete"}, {"content": "*a", "state": "pending"}]);
        add_html_to_all(&mut messages);
        assert_eq!(messages[0]["html"], "<p><em>a</em></p>\n");
        assert_eq!(messages[0]["content"], "*a*");
        assert!(messages[1].get("html").is_none());
    }

    /// The tags of the output, each up to its `>`.
    fn tags(html: &str) -> Vec<String> {
        html.split('<').skip(1).map(|t| t.split('>').next().unwrap_or(t).to_ascii_lowercase()).collect()
    }

    proptest! {
        #[test]
        fn nothing_that_runs_survives(text in "(<|>|\"|'|/|=|\\(|\\)|\\[|\\]|!|`|\\*| |\n|&|#|;|:|x|script|img|svg|a |on|onload|error|src|href|style|javascript|data|\\PC){0,60}") {
            let out = html(&text);
            for tag in tags(&out) {
                prop_assert!(!tag.starts_with("script") && !tag.starts_with("img") && !tag.starts_with("svg"), "{}", out);
                let outside: String = tag.split('"').step_by(2).collect();
                prop_assert!(!outside.split_whitespace().skip(1).any(|a| a.starts_with("on")), "{}", out);
                if let Some((_, url)) = tag.split_once("href=\"") {
                    prop_assert!(is_absolute(url), "{}", out);
                }
            }
        }
    }
}
