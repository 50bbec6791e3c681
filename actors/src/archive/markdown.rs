//! The Markdown form: to be read. Texts stand as they were written, branches side by side with their numbers. Pure.

use crate::domain::{
    ids::BotId,
    message::{Conversation, Message, MessageState, Sender},
};

/// Writes headings and texts.
pub(super) struct MarkdownWriter;

impl MarkdownWriter {
    pub(super) fn begin(&self, out: &mut Vec<u8>, bot: &BotId) {
        put(out, &format!("# {bot}\n"));
    }

    pub(super) fn end(&self, out: &mut Vec<u8>, left_out: u64) {
        if left_out > 0 {
            put(
                out,
                &format!(
                    "\n---\n\n**Not complete:** {left_out} rows are left out: they can't be read, or were deleted meanwhile.\n"
                ),
            );
        }
    }

    pub(super) fn conversation(&self, out: &mut Vec<u8>, c: &Conversation) {
        let title = match (&c.title, c.main) {
            (Some(title), _) => escape(title),
            (None, true) => "Main conversation".into(),
            (None, false) => "Conversation".into(),
        };
        put(out, &format!("\n## {title}\n\n`{}`, begun {}\n", c.id, c.created_at));
    }

    pub(super) fn message(&self, out: &mut Vec<u8>, m: &Message) {
        let who = match m.sender {
            Sender::User => "User".into(),
            Sender::Bot => escape(m.bot_id.as_str()),
            Sender::System => "System".into(),
            Sender::Tool => "Tool".into(),
        };
        put(out, &format!("\n### {who} · {}", m.created_at));
        if m.siblings.count > 1 {
            put(out, &format!(" · {} of {}", m.siblings.index, m.siblings.count));
        }
        if m.state == MessageState::Partial {
            put(out, " · not finished");
        }
        if m.cut_by().is_some() {
            put(out, " · cut at its longest length");
        }
        put(out, "\n");
        if let Some(images) = m.images.as_ref().filter(|images| !images.is_empty()) {
            put(out, &format!("\n({} images)\n", images.len()));
        }
        if !m.content.is_empty() {
            put(out, &format!("\n{}\n", m.content));
            if let Some(fence) = open_fence(&m.content) {
                put(out, &format!("{fence}\n"));
            }
        }
    }
}

fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// A heading on one line, without markup of its own.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() && c != '-' {
            escaped.push('\\');
        }
        escaped.push(if c.is_control() { ' ' } else { c });
    }
    escaped
}

/// The fence that a text leaves open, so that what follows it is not taken for code.
fn open_fence(text: &str) -> Option<String> {
    let mut open: Option<(char, usize)> = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start_matches(' ').len();
        let line = line.trim_start_matches(' ');
        let Some(mark) = line.chars().next().filter(|c| indent < 4 && matches!(c, '`' | '~')) else {
            continue;
        };
        let length = line.chars().take_while(|c| *c == mark).count();
        let rest = line.get(length..).unwrap_or_default();
        match open {
            None if length >= 3 && (mark == '~' || !rest.contains('`')) => open = Some((mark, length)),
            Some((m, l)) if m == mark && length >= l && rest.trim().is_empty() => open = None,
            _ => {}
        }
    }
    open.map(|(mark, length)| mark.to_string().repeat(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_that_a_text_leaves_open_is_closed_after_it() {
        for (text, fence) in [
            ("plain", None),
            ("```rust\nfn a() {}\n```", None),
            ("```rust\nfn a() {}", Some("```")),
            ("~~~~\n```\n~~~", Some("~~~~")),
            ("    ```\nindented", None),
            ("```a`b", None),
            ("```\na\n``` b", Some("```")),
        ] {
            assert_eq!(open_fence(text).as_deref(), fence, "{text:?}");
        }
    }

    #[test]
    fn a_title_is_one_line_without_markup() {
        assert_eq!(escape("a *b*\n# [c](d)"), "a \\*b\\* \\# \\[c\\]\\(d\\)");
    }
}
