//! Docker's longer commands in rbuild's words: `image ls` is `images`, `builder prune` is `cache prune`.
//!
//! Both words have to be there, so that a folder named `image` is still a build context; only `version` and `help` stand alone, and
//! a folder of such a name is written `./version`. `image prune` is not among them: what
//! `rbuild prune` takes away is more.

use std::ffi::OsString;

/// Docker's commands, and what is meant by them here.
const MEANT: [(&str, &[&str], &[&str]); 12] = [
    ("image", &["ls", "list"], &["images"]),
    ("image", &["rm", "remove"], &["rmi"]),
    ("container", &["ls", "list", "ps"], &["ps"]),
    ("container", &["rm", "remove"], &["rm"]),
    ("builder", &["prune"], &["cache", "prune"]),
    ("buildx", &["prune"], &["cache", "prune"]),
    ("builder", &["du"], &["du"]),
    ("buildx", &["du"], &["du"]),
    ("buildx", &["build", "b"], &["build"]),
    ("builder", &["build"], &["build"]),
    ("system", &["df"], &["du"]),
    ("system", &["prune"], &["prune"]),
];
/// Commands that are the same with and without the word before them.
const SAME: [(&str, &[&str]); 2] = [
    ("image", &["build", "history", "inspect", "load", "pull", "push", "save", "tag"]),
    ("container", &["run", "exec", "logs", "stop", "kill", "wait"]),
];

/// Replaces a command of Docker's that stands at `at`.
pub(crate) fn translated(arguments: &mut Vec<OsString>, at: usize) {
    let word = |at: usize| arguments.get(at).and_then(|word| word.to_str());
    let Some(first) = word(at) else { return };
    let meant: Vec<OsString> = match (first, word(at + 1)) {
        ("version" | "-v", None) => vec!["--version".into()],
        ("help", None) => vec!["--help".into()],
        ("help", Some(command)) => vec![command.into(), "--help".into()],
        (first, Some(second)) => match here(first, second) {
            Some(words) => words.iter().map(OsString::from).collect(),
            None => return,
        },
        (_, None) => return,
    };
    let end = arguments.len().min(at + 2);
    arguments.splice(at..end, meant);
}

/// What a user typed as a command with words behind it, though there is no such command: clap takes it for a build context,
/// and complains of the second word.
pub(crate) fn unknown_command<'a>(arguments: &'a [OsString], error: &clap::Error) -> Option<&'a str> {
    let first = arguments.get(1)?.to_str()?;
    let is_word = !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_lowercase());
    let is_conflict = error.kind() == clap::error::ErrorKind::ArgumentConflict;
    (is_conflict && is_word && !std::path::Path::new(first).exists()).then_some(first)
}

fn here<'a>(first: &str, second: &'a str) -> Option<Vec<&'a str>> {
    let known = MEANT.iter().find(|(group, names, _)| *group == first && names.contains(&second));
    if let Some((_, _, words)) = known {
        return Some(words.to_vec());
    }
    let same = SAME.iter().any(|(group, names)| *group == first && names.contains(&second));
    same.then(|| vec![second])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_longer_commands() {
        for (typed, meant) in [
            ("image ls -q", "images -q"),
            ("image rm -f a", "rmi -f a"),
            ("image push r.io/a", "push r.io/a"),
            ("container run --rm a", "run --rm a"),
            ("container ls -a", "ps -a"),
            ("builder prune -f", "cache prune -f"),
            ("buildx build -t a .", "build -t a ."),
            ("system df", "du"),
            ("help", "--help"),
            ("help push", "push --help"),
            ("version", "--version"),
            ("-v", "--version"),
            // Folders, and what is known nowhere.
            ("image", "image"),
            ("image prune", "image prune"),
            ("version -t", "version -t"),
            ("images -q", "images -q"),
            ("", ""),
        ] {
            let mut words: Vec<OsString> =
                std::iter::once("rbuild").chain(typed.split_whitespace()).map(OsString::from).collect();
            translated(&mut words, 1);
            let words: Vec<_> = words[1..].iter().map(|word| word.to_str().unwrap()).collect();
            assert_eq!(words.join(" "), meant, "{typed}");
        }
    }
}
