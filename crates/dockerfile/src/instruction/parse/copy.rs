//! COPY and ADD.

use super::super::flags::{Flags, Kind};
use super::super::{Copy, CopyKind, Word};
use super::{Arguments, Parsing};
use crate::Diagnostic;

pub(super) const COPY_FLAGS: [(&str, Kind); 6] = [
    ("chmod", Kind::Text),
    ("chown", Kind::Text),
    ("exclude", Kind::List),
    ("from", Kind::Text),
    ("link", Kind::Boolean),
    ("parents", Kind::Boolean),
];

pub(super) const ADD_FLAGS: [(&str, Kind); 7] = [
    ("checksum", Kind::Text),
    ("chmod", Kind::Text),
    ("chown", Kind::Text),
    ("exclude", Kind::List),
    ("keep-git-dir", Kind::Boolean),
    ("link", Kind::Boolean),
    ("unpack", Kind::Boolean),
];

impl Parsing<'_> {
    pub(super) fn copy(&mut self, at: &Arguments<'_>, flags: &Flags<'_>, kind: CopyKind) -> Option<Copy> {
        let before = self.errors.len();
        let mut words = self.words(at);
        if words.len() < 2 {
            if self.errors.len() == before {
                let message = "requires at least two arguments, but only one was provided. Destination could not be determined";
                self.too_few(at, message);
            }
            return None;
        }
        let destination = words.pop()?;
        // By place, not by text: a quoted delimiter may hold blanks, at which the words were split.
        let is_heredoc = |word: &Word| {
            at.heredocs.iter().any(|h| h.word.start <= word.span.start && word.span.end <= h.word.end)
        };
        if is_heredoc(&destination) {
            let message = format!("{} cannot accept a heredoc as a destination", at.keyword);
            let help = format!("the destination stands last: {} {} /path", at.keyword, destination.text);
            self.error(message, destination.span, help);
        }
        let from = flags.text("from");
        if self.strict
            && let Some(from) = from.as_ref().filter(|from| from.text.contains('$'))
        {
            self.errors.push(
                Diagnostic::error("variable expansion is not supported for --from", from.span)
                    .help("define a new stage with FROM using ARG from global scope as a workaround"),
            );
        }
        Some(Copy {
            kind,
            sources: words.into_iter().filter(|word| !is_heredoc(word)).collect(),
            heredocs: at.heredocs.clone(),
            destination,
            from,
            chown: flags.text("chown"),
            chmod: flags.text("chmod"),
            link: flags.boolean("link").unwrap_or(false),
            parents: flags.boolean("parents").unwrap_or(false),
            exclude: flags.list("exclude").collect(),
            checksum: flags.text("checksum"),
            keep_git_dir: flags.boolean("keep-git-dir"),
            unpack: flags.boolean("unpack"),
        })
    }
}
