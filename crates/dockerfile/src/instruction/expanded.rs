//! Instructions with their variables replaced.

use super::expose::PORT_HELP;
use super::signal::SIGNAL_HELP;
use super::{Command, Copy, Env, Instruction, Run, Word, parse_port, parse_signal};
use crate::expand::{ExpandError, Expansion, Mode, expand};
use crate::lex::Heredoc;
use crate::{Diagnostic, Escape, Lookup, Span};

impl Instruction {
    /// The instruction with all that the language expands replaced by its value in `env`, quotes and escapes taken
    /// off. What stays as written: the commands of RUN, CMD, ENTRYPOINT and HEALTHCHECK, SHELL, ONBUILD,
    /// `--network`, `--security`, `--exclude`, and the defaults of ARG, which are expanded one by one as they are
    /// reached and only where they count ([`super::Arg::expanded_default`]). FROM is expanded by the stage graph.
    ///
    /// ENV sees the environment before it; so `env` is the one before this instruction.
    pub fn expanded(&self, env: &dyn Lookup, escape: Escape) -> Result<Instruction, Diagnostic> {
        self.expanded_by(&|text, span, mode| expand_at(text, span, env, escape, mode))
    }

    /// The same with a way to expand each text; a wrong value is found once its words are expanded.
    pub(crate) fn expanded_by(&self, expand: &Expand<'_>) -> Result<Instruction, Diagnostic> {
        let expander = Expander { expand };
        let command = match &self.command {
            Command::Add(copy) => Command::Add(expander.copy(copy)?),
            Command::Copy(copy) => Command::Copy(expander.copy(copy)?),
            Command::Env(pairs) => Command::Env(expander.pairs(pairs)?),
            Command::Label(pairs) => Command::Label(expander.pairs(pairs)?),
            Command::Expose(expose) => {
                let mut expose = expose.clone();
                expose.ports = expander.ports(&expose.ports)?;
                Command::Expose(expose)
            }
            Command::Run(run) => Command::Run(expander.run(run)?),
            Command::StopSignal(word) => Command::StopSignal(expander.signal(word)?),
            Command::User(word) => Command::User(expander.word(word)?),
            Command::Volume(words) => Command::Volume(expander.volumes(words)?),
            Command::Workdir(word) => Command::Workdir(expander.word(word)?),
            other => other.clone(),
        };
        Ok(Instruction { command, ..self.clone() })
    }
}

impl super::Arg {
    /// The default in the environment `env`; to be asked for only when nothing else gives the value, since a default
    /// like `${x:?}` may be an error.
    pub fn expanded_default(&self, env: &dyn Lookup, escape: Escape) -> Result<Option<String>, Diagnostic> {
        let default = self.default.as_ref();
        let value = |word: &Word| expand_at(&word.text, word.span, env, escape, Mode::Word);
        default.map(|default| Ok(value(default)?.value)).transpose()
    }

    /// The name, quotes taken off and variables expanded.
    pub fn expanded_name(&self, env: &dyn Lookup, escape: Escape) -> Result<String, Diagnostic> {
        expand_at(&self.name.text, self.name.span, env, escape, Mode::Word).map(|name| name.value)
    }
}

/// Expands a text that stands somewhere.
pub(crate) type Expand<'a> = dyn Fn(&str, Span, Mode) -> Result<Expansion, Diagnostic> + 'a;

/// Expands a text; an error is shown at its place.
pub(crate) fn expand_at(
    text: &str,
    span: Span,
    env: &dyn Lookup,
    escape: Escape,
    mode: Mode,
) -> Result<Expansion, Diagnostic> {
    expand(text, env, escape, mode).map_err(|error| expand_diagnostic(text, span, error))
}

struct Expander<'a> {
    expand: &'a Expand<'a>,
}

/// A longer text is cut in a message, which shows the place anyway.
const LONGEST_SHOWN: usize = 60;

/// The place of an error inside a word; the whole word where continuations moved its bytes.
pub(crate) fn expand_diagnostic(text: &str, span: Span, error: ExpandError) -> Diagnostic {
    let at = match span.len() == text.len() {
        true => Span::new((span.start + error.offset).min(span.end), (span.start + error.end).min(span.end)),
        false => span,
    };
    // Of a heredoc only the part that is wrong.
    let wrong = text.get(error.offset..error.end).filter(|_| text.contains('\n')).unwrap_or(text);
    let line = wrong.lines().next().unwrap_or_default();
    let mut shown: String = line.chars().take(LONGEST_SHOWN).collect();
    if shown.len() < wrong.trim_end().len() {
        shown.push('…');
    }
    let fault = Diagnostic::error(format!("failed to process `{shown}`: {}", error.message), at);
    if error.help.is_empty() { fault } else { fault.help(error.help) }
}

impl Expander<'_> {
    fn text(&self, text: &str, span: Span, mode: Mode) -> Result<String, Diagnostic> {
        (self.expand)(text, span, mode).map(|expansion| expansion.value)
    }

    fn word(&self, word: &Word) -> Result<Word, Diagnostic> {
        Ok(Word::new(self.text(&word.text, word.span, Mode::Word)?, word.span))
    }

    fn words(&self, words: &[Word]) -> Result<Vec<Word>, Diagnostic> {
        words.iter().map(|word| self.word(word)).collect()
    }

    fn option(&self, word: Option<&Word>) -> Result<Option<Word>, Diagnostic> {
        word.map(|word| self.word(word)).transpose()
    }

    fn pairs(&self, env: &Env) -> Result<Env, Diagnostic> {
        let mut env = env.clone();
        for pair in &mut env.pairs {
            pair.key = self.word(&pair.key)?;
            pair.value = self.word(&pair.value)?;
        }
        Ok(env)
    }

    fn copy(&self, copy: &Copy) -> Result<Copy, Diagnostic> {
        Ok(Copy {
            sources: self.words(&copy.sources)?,
            heredocs: copy.heredocs.iter().map(|heredoc| self.heredoc(heredoc)).collect::<Result<_, _>>()?,
            destination: self.word(&copy.destination)?,
            from: self.option(copy.from.as_ref())?,
            chown: self.option(copy.chown.as_ref())?,
            chmod: self.option(copy.chmod.as_ref())?,
            checksum: self.option(copy.checksum.as_ref())?,
            ..copy.clone()
        })
    }

    /// The file that a heredoc of COPY or ADD stands for; its tabs are taken off here, its name is left alone.
    fn heredoc(&self, heredoc: &Heredoc) -> Result<Heredoc, Diagnostic> {
        let content = heredoc.chomped();
        let content = match heredoc.expand {
            true => self.text(&content, heredoc.body, Mode::Heredoc)?,
            false => content,
        };
        Ok(Heredoc { content, chomp: false, ..heredoc.clone() })
    }

    fn run(&self, run: &Run) -> Result<Run, Diagnostic> {
        let expand = |text: &str, span| self.text(text, span, Mode::Word);
        let mounts = run.mounts.iter().map(|mount| mount.expanded(expand)).collect::<Result<_, _>>()?;
        Ok(Run { mounts, ..run.clone() })
    }

    fn ports(&self, words: &[Word]) -> Result<Vec<Word>, Diagnostic> {
        let mut ports = Vec::new();
        for word in words {
            let values = (self.expand)(&word.text, word.span, Mode::Word)?;
            for value in values.words {
                parse_port(&value)
                    .map_err(|message| Diagnostic::error(message, word.span).help(PORT_HELP))?;
                ports.push(Word::new(value, word.span));
            }
        }
        ports.sort_by(|a, b| a.text.cmp(&b.text));
        Ok(ports)
    }

    fn signal(&self, word: &Word) -> Result<Word, Diagnostic> {
        let word = self.word(word)?;
        match parse_signal(&word.text) {
            Some(_) => Ok(word),
            None => {
                Err(Diagnostic::error(format!("invalid signal: {}", word.text), word.span).help(SIGNAL_HELP))
            }
        }
    }

    fn volumes(&self, words: &[Word]) -> Result<Vec<Word>, Diagnostic> {
        let volumes = self.words(words)?;
        match volumes.iter().find(|volume| volume.text.is_empty()) {
            None => Ok(volumes),
            Some(empty) => Err(Diagnostic::error("VOLUME specified can not be an empty string", empty.span)
                .help("a variable that is not set has no text")),
        }
    }
}
