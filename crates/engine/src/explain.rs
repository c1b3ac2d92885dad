//! Why a step was carried out instead of taken from the cache, in words: against the nearest earlier run of it.

use rbuild_dockerfile::looks_secret;
use rbuild_image::Digest;
use rbuild_store::{Change, Difference, FileChange, PartValue};

use crate::state::StageState;

/// So many changed files are named; the others are counted.
const NAMED: usize = 3;
/// Longer values are cut, in characters.
const LONGEST: usize = 60;

/// Why a step has no usable result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Miss {
    /// The user wants it carried out again: the option or comment that says so.
    Asked(String),
    /// There is a result, too old for its `max-age`.
    TooOld,
    /// There is a result for the same inputs, on a state that is not there any more: a step before was carried out again.
    StandsElsewhere,
    /// Nothing is known for these inputs.
    Unknown,
}

/// The reasons, and whether one of them is this step's own and not only that a step before it changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reasons {
    pub(crate) lines: Vec<String>,
    pub(crate) own: bool,
}

impl Reasons {
    fn own(line: String) -> Self {
        Reasons { lines: vec![line], own: true }
    }

    fn inherited(line: &str) -> Self {
        Reasons { lines: vec![line.to_owned()], own: false }
    }

    /// Why a step missed; `difference` is asked for where the cache knows nothing of its inputs.
    pub(crate) fn of(miss: &Miss, state: &StageState, difference: Option<&Difference>) -> Self {
        match (miss, difference) {
            (Miss::Asked(by), _) => Reasons::own(format!("{by} asks for it")),
            (Miss::TooOld, _) => Reasons::own("the cached result is older than max-age allows".to_owned()),
            (Miss::StandsElsewhere, _) => Reasons::inherited("a step before it was carried out again"),
            (Miss::Unknown, None) => Reasons::inherited("it was not carried out here before"),
            (Miss::Unknown, Some(difference)) => Reasons::of_difference(difference, state),
        }
    }

    fn of_difference(difference: &Difference, state: &StageState) -> Self {
        let mut reasons = Reasons::default();
        let mut inherited = None;
        for change in &difference.changes {
            match own_reason(change, state) {
                Some(line) => reasons.lines.push(line),
                None => inherited = Some("a step before it changed"),
            }
        }
        reasons.own = !reasons.lines.is_empty();
        // What changed here says more than that something changed before.
        if let Some(line) = inherited.filter(|_| !reasons.own) {
            reasons.lines.push(line.to_owned());
        }
        reasons
    }
}

/// What changed in the step itself; `None` where only what it stands on is another.
fn own_reason(change: &Change, state: &StageState) -> Option<String> {
    let (from, to) = (text(change.from.as_ref()), text(change.to.as_ref()));
    match change.name.as_str() {
        "parent" => base_moved(from, to),
        "instruction" => Some(format!("{} became {}", from?, to?)),
        "command" | "script" => Some(moved("the command", from.map(command), to.map(command))),
        // It changes with the file that it belongs to.
        "unpack" => Some("how it is unpacked changed".to_owned()),
        name => Some(match name.strip_prefix("environment ") {
            Some(variable) => variable_changed(variable, from, to, state),
            None if is_content(change) => files_changed(change),
            None => moved(name, from.map(str::to_owned), to.map(str::to_owned)),
        }),
    }
}

fn is_content(change: &Change) -> bool {
    [&change.from, &change.to].into_iter().flatten().any(|value| matches!(value, PartValue::Content(_)))
}

fn text(value: Option<&PartValue>) -> Option<&str> {
    match value {
        Some(PartValue::Text(text)) => Some(text),
        _ => None,
    }
}

/// A stage begins on a chain of layers, whose digest tells it from the key of a step.
fn base_moved(from: Option<&str>, to: Option<&str>) -> Option<String> {
    let is_base = |text: &str| text == "scratch" || text.parse::<Digest>().is_ok();
    match (from?, to?) {
        (from, to) if is_base(from) && is_base(to) => {
            Some(format!("base image moved: {} → {}", short(from), short(to)))
        }
        _ => None,
    }
}

/// A digest as people recognise it.
fn short(digest: &str) -> &str {
    digest.get(.."sha256:".len() + 12).unwrap_or(digest)
}

/// `ARG VERSION 1.2 → 1.3`; what looks like a secret by its name is not shown.
fn variable_changed(name: &str, from: Option<&str>, to: Option<&str>, state: &StageState) -> String {
    let kind = if state.args.iter().any(|(known, _)| known == name) { "ARG" } else { "ENV" };
    let what = format!("{kind} {name}");
    if looks_secret(name) {
        return format!("{what} changed");
    }
    moved(&what, from.map(str::to_owned), to.map(str::to_owned))
}

fn moved(what: &str, from: Option<String>, to: Option<String>) -> String {
    match (from, to) {
        (Some(from), Some(to)) => format!("{what} {} → {}", cut(&from), cut(&to)),
        (None, Some(to)) => format!("{what} {} is new", cut(&to)),
        (_, None) => format!("{what} is gone"),
    }
}

/// The words of a shell form; of another command all of them.
fn command(argv: &str) -> String {
    let words: Vec<String> = serde_json::from_str(argv).unwrap_or_else(|_| vec![argv.to_owned()]);
    match words.as_slice() {
        [_, flag, script] if flag == "-c" => format!("`{script}`"),
        words => format!("`{}`", words.join(" ")),
    }
}

/// One line, not too long, empty ones in quotes.
fn cut(value: &str) -> String {
    let line: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match line.chars().count() {
        0 => "``".to_owned(),
        count if count > LONGEST => format!("{}…", line.chars().take(LONGEST).collect::<String>()),
        _ => line,
    }
}

fn files_changed(change: &Change) -> String {
    if change.files.is_empty() {
        let name = change.name.strip_prefix("source ").unwrap_or(&change.name);
        return match (&change.from, &change.to) {
            (None, _) => format!("{name} is new"),
            (_, None) => format!("{name} is gone"),
            _ => format!("{name} changed"),
        };
    }
    let named: Vec<String> =
        change.files.iter().take(NAMED).map(|(path, how)| file_changed(path, how)).collect();
    match change.files.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{}, and {more} more", named.join(", ")),
    }
}

fn file_changed(path: &str, how: &FileChange) -> String {
    match how {
        FileChange::Added => format!("{path} is new"),
        FileChange::Removed => format!("{path} is gone"),
        FileChange::Content => format!("{path} changed"),
        FileChange::Mode { from, to } => format!("{path} mode {from:04o} → {to:04o}"),
        FileChange::Owner { from, to } => format!("{path} owner {}:{} → {}:{}", from.0, from.1, to.0, to.1),
    }
}

#[cfg(test)]
mod tests {
    use rbuild_image::Platform;

    use super::*;

    fn reason(name: &str, from: Option<&str>, to: Option<&str>) -> Option<String> {
        let mut state = StageState::scratch(&Platform::host());
        state.set_arg("VERSION", "1.3");
        let value = |text: Option<&str>| text.map(|text| PartValue::Text(text.to_owned()));
        let change = Change { name: name.to_owned(), from: value(from), to: value(to), files: Vec::new() };
        own_reason(&change, &state)
    }

    #[test]
    fn changes_in_words() {
        let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let (one, two) = (digest("1"), digest("2"));
        for (name, from, to, words) in [
            ("environment VERSION", Some("1.2"), Some("1.3"), Some("ARG VERSION 1.2 → 1.3")),
            ("environment HOME", None, Some("/a"), Some("ENV HOME /a is new")),
            ("environment HOME", Some("/a"), None, Some("ENV HOME is gone")),
            ("environment API_TOKEN", Some("s3cret"), Some("s4cret"), Some("ENV API_TOKEN changed")),
            (
                "parent",
                Some(&one),
                Some(&two),
                Some("base image moved: sha256:111111111111 → sha256:222222222222"),
            ),
            ("parent", Some("0a"), Some("0b"), None),
            (
                "command",
                Some(r#"["/bin/sh", "-c", "a b"]"#),
                Some(r#"["/bin/x", "y"]"#),
                Some("the command `a b` → `/bin/x y`"),
            ),
            ("user", Some(""), Some("app"), Some("user `` → app")),
        ] {
            assert_eq!(reason(name, from, to).as_deref(), words, "{name}");
        }
    }

    #[test]
    fn files_are_named_and_counted() {
        let file = |name: &str, how| (name.to_owned(), how);
        let files = vec![
            file("a", FileChange::Content),
            file("b", FileChange::Mode { from: 0o644, to: 0o664 }),
            file("c", FileChange::Added),
            file("d", FileChange::Removed),
        ];
        let content = |bytes: &[u8]| Some(PartValue::Content(Digest::sha256_of(bytes)));
        let change = Change { name: "source .".to_owned(), from: content(b"1"), to: content(b"2"), files };
        assert_eq!(files_changed(&change), "a changed, b mode 0644 → 0664, c is new, and 1 more");
        let unknown = Change { files: Vec::new(), ..change };
        assert_eq!(files_changed(&unknown), ". changed");
    }
}
