//! Chat templates: the Jinja dialect that Hugging Face models carry.
//!
//! As in `transformers`: trailing newlines of blocks are trimmed, `raise_exception` and
//! `strftime_now` exist, and methods of Python strings, lists and dicts work.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};

use super::TextError;

/// Most steps of a template: a second or so. A conversation of a thousand messages takes a hundredth.
const STEPS_MAX: u64 = 20_000_000;

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Text.
    pub content: String,
}

impl ChatMessage {
    /// A message.
    pub fn new(role: &str, content: &str) -> Self {
        ChatMessage { role: role.to_string(), content: content.to_string() }
    }
}

/// The conversation as the model was trained to see it, with the prompt for its answer.
pub(super) fn render(
    template: &str,
    messages: &[ChatMessage],
    special_tokens: &[(String, String)],
) -> Result<String, TextError> {
    let failed = |e: Error| TextError::Template { why: describe(&e) };
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.map_err(failed)?);
    env.set_fuel(Some(STEPS_MAX));
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_function("raise_exception", |why: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, why))
    });
    env.add_function("strftime_now", |format: String| strftime(&format, now()));
    let template = env.template_from_str(template).map_err(failed)?;
    let message = |m: &ChatMessage| {
        Value::from(BTreeMap::from([("role", m.role.clone()), ("content", m.content.clone())]))
    };
    let messages: Value = messages.iter().map(message).collect();
    let mut conversation: BTreeMap<&str, Value> =
        special_tokens.iter().map(|(k, v)| (k.as_str(), Value::from(v.as_str()))).collect();
    conversation.extend([("messages", messages), ("add_generation_prompt", Value::from(true))]);
    template.render(Value::from(conversation)).map_err(failed)
}

/// What the template said, or where the engine stopped.
fn describe(error: &Error) -> String {
    match (error.detail(), error.line()) {
        (Some(detail), Some(line)) => format!("{detail} (line {line})"),
        (Some(detail), None) => detail.to_string(),
        _ => error.to_string(),
    }
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs())
}

/// The formats that chat templates use, in UTC: `%Y %m %d %b %B %H %M %S` and literal text.
fn strftime(format: &str, seconds: u64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let (year, month, day) = civil(seconds / 86_400);
    let name = MONTHS[month as usize - 1];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => out.push_str(&year.to_string()),
            Some('m') => out.push_str(&format!("{month:02}")),
            Some('d') => out.push_str(&format!("{day:02}")),
            Some('B') => out.push_str(name),
            Some('b') => out.push_str(&name[..3]),
            Some('H') => out.push_str(&format!("{:02}", seconds / 3600 % 24)),
            Some('M') => out.push_str(&format!("{:02}", seconds / 60 % 60)),
            Some('S') => out.push_str(&format!("{:02}", seconds % 60)),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

/// Year, month and day of a day number since 1970-01-01 (Hinnant, "chrono-compatible low-level date
/// algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(strftime("%d %b %Y", 0), "01 Jan 1970");
        assert_eq!(strftime("%Y-%m-%d %H:%M:%S %B", 951_827_696), "2000-02-29 12:34:56 February");
        assert_eq!(strftime("100%", 0), "100%");
    }

    #[test]
    fn templates_may_refuse_and_may_be_broken() {
        let refuse = "{{ raise_exception('roles must alternate') }}";
        let error = render(refuse, &[], &[]).unwrap_err();
        assert!(error.to_string().contains("roles must alternate"), "{error}");
        assert!(render("{% for %}", &[], &[]).is_err());
        let messages = [ChatMessage::new("user", "x")];
        let python =
            "{% if messages[0]['role'].startswith('us') %}{{ messages|length }}{% endif %}";
        assert_eq!(render(python, &messages, &[]).unwrap(), "1");
    }

    #[test]
    fn a_template_that_goes_on_for_ever_is_an_error() {
        let endless =
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}";
        let error = render(endless, &[], &[]).unwrap_err();
        assert!(error.to_string().contains("fuel"), "{error}");
    }
}
