//! The typed instructions.

mod display;
mod expanded;
mod expose;
mod flags;
mod healthcheck;
mod history;
mod json;
mod mount;
mod pairs;
mod parse;
mod signal;

use serde::Serialize;

pub(crate) use expanded::expand_at;
pub use expose::{Expose, Port, parse_port};
pub use healthcheck::{Healthcheck, format_duration};
pub use history::HistoryContext;
pub(crate) use json::is_json_array;
pub use mount::{Mount, MountKind, MountSpec, Sharing};
pub(crate) use parse::{Parsing, parse_instruction};
pub use signal::parse_signal;

use crate::Span;
use crate::lex::{Comment, Heredoc};

/// The instructions of the language.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names are the instructions' own")]
pub enum Keyword {
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
}

impl Keyword {
    /// Every keyword.
    pub const ALL: [Keyword; 18] = [
        Keyword::Add,
        Keyword::Arg,
        Keyword::Cmd,
        Keyword::Copy,
        Keyword::Entrypoint,
        Keyword::Env,
        Keyword::Expose,
        Keyword::From,
        Keyword::Healthcheck,
        Keyword::Label,
        Keyword::Maintainer,
        Keyword::Onbuild,
        Keyword::Run,
        Keyword::Shell,
        Keyword::StopSignal,
        Keyword::User,
        Keyword::Volume,
        Keyword::Workdir,
    ];

    /// The upper-case spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Keyword::Add => "ADD",
            Keyword::Arg => "ARG",
            Keyword::Cmd => "CMD",
            Keyword::Copy => "COPY",
            Keyword::Entrypoint => "ENTRYPOINT",
            Keyword::Env => "ENV",
            Keyword::Expose => "EXPOSE",
            Keyword::From => "FROM",
            Keyword::Healthcheck => "HEALTHCHECK",
            Keyword::Label => "LABEL",
            Keyword::Maintainer => "MAINTAINER",
            Keyword::Onbuild => "ONBUILD",
            Keyword::Run => "RUN",
            Keyword::Shell => "SHELL",
            Keyword::StopSignal => "STOPSIGNAL",
            Keyword::User => "USER",
            Keyword::Volume => "VOLUME",
            Keyword::Workdir => "WORKDIR",
        }
    }

    /// The keyword that `word` spells, in any case.
    pub fn parse(word: &str) -> Option<Keyword> {
        Keyword::ALL.into_iter().find(|keyword| keyword.as_str().eq_ignore_ascii_case(word))
    }

    /// How it is written, in short.
    pub(crate) fn example(self) -> &'static str {
        match self {
            Keyword::Add => "ADD https://example.org/file.tar.gz /dest/",
            Keyword::Arg => "ARG VERSION=1.0",
            Keyword::Cmd => "CMD [\"server\", \"--port=80\"]",
            Keyword::Copy => "COPY source destination",
            Keyword::Entrypoint => "ENTRYPOINT [\"server\"]",
            Keyword::Env => "ENV NAME=value",
            Keyword::Expose => "EXPOSE 8080",
            Keyword::From => "FROM image AS name",
            Keyword::Healthcheck => "HEALTHCHECK --interval=30s CMD command",
            Keyword::Label => "LABEL name=value",
            Keyword::Maintainer => "LABEL org.opencontainers.image.authors=\"name\"",
            Keyword::Onbuild => "ONBUILD RUN command",
            Keyword::Run => "RUN command",
            Keyword::Shell => "SHELL [\"/bin/bash\", \"-c\"]",
            Keyword::StopSignal => "STOPSIGNAL SIGTERM",
            Keyword::User => "USER name:group",
            Keyword::Volume => "VOLUME /data",
            Keyword::Workdir => "WORKDIR /app",
        }
    }

    /// Whether a word `<<NAME` of this instruction begins a heredoc.
    pub fn takes_heredocs(self) -> bool {
        matches!(self, Keyword::Add | Keyword::Copy | Keyword::Run)
    }
}

impl std::fmt::Display for Keyword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A piece of text and where it stands. After expansion the text is the value, the span still the source's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Word {
    /// The text: as written (continuations joined), quotes kept until it is expanded.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

impl Word {
    /// A word at a place.
    pub fn new(text: impl Into<String>, span: Span) -> Word {
        Word { text: text.into(), span }
    }
}

impl AsRef<str> for Word {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// A flag as written: `--name`, `--name=value`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Flag {
    /// The name without the dashes.
    pub name: String,
    /// The value, quotes and escapes taken off; `None` without `=`.
    pub value: Option<Word>,
    /// The whole flag.
    pub span: Span,
}

/// One instruction of a Dockerfile.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Instruction {
    /// Which.
    pub keyword: Keyword,
    /// The keyword as written.
    pub keyword_text: Word,
    /// From the keyword to the end of the last line that belongs to it, heredoc bodies included.
    pub span: Span,
    /// The instruction's text with continuations joined and comments taken out; heredoc bodies are not in it.
    pub original: String,
    /// The flags as written, in order.
    pub flags: Vec<Flag>,
    /// The comment lines since the instruction before.
    pub comments: Vec<Comment>,
    /// What it says.
    pub command: Command,
}

/// What an instruction says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// `ADD`
    Add(Copy),
    /// `ARG`
    Arg(Vec<Arg>),
    /// `CMD`
    Cmd(CommandLine),
    /// `COPY`
    Copy(Copy),
    /// `ENTRYPOINT`
    Entrypoint(CommandLine),
    /// `ENV`
    Env(Env),
    /// `EXPOSE`
    Expose(Expose),
    /// `FROM`
    From(From),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `LABEL`
    Label(Label),
    /// `MAINTAINER`
    Maintainer(Word),
    /// `ONBUILD`
    Onbuild(Onbuild),
    /// `RUN`
    Run(Run),
    /// `SHELL`
    Shell(Vec<Word>),
    /// `STOPSIGNAL`
    StopSignal(Word),
    /// `USER`
    User(Word),
    /// `VOLUME`
    Volume(Vec<Word>),
    /// `WORKDIR`
    Workdir(Word),
}

/// `FROM [--platform=P] base [AS name]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct From {
    /// The base as written: an earlier stage, a named context, `scratch` or an image reference.
    pub base: Word,
    /// The stage's name, in lower case.
    pub name: Option<Word>,
    /// The name as written.
    pub name_text: Option<String>,
    /// The word `AS` as written.
    pub as_text: Option<Word>,
    /// `--platform`
    pub platform: Option<Word>,
}

/// One `name` or `name=default` of an `ARG`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Arg {
    /// The name.
    pub name: Word,
    /// The default; `None` is something else than an empty one.
    pub default: Option<Word>,
    /// Both together.
    pub span: Span,
}

/// A name and a value.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct KeyValue {
    /// The name.
    pub key: Word,
    /// The value.
    pub value: Word,
}

/// `ENV a=b c=d`, or the old form `ENV a b c d`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Env {
    /// The pairs in order.
    pub pairs: Vec<KeyValue>,
    /// Whether it was written without `=`.
    pub legacy: bool,
}

/// `LABEL a=b c=d`, or the old form `LABEL a b c d`.
pub type Label = Env;

/// A command in shell form (text for the shell) or exec form (a JSON array of arguments).
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandLine {
    /// Text for the shell.
    Shell(Word),
    /// The arguments as they are.
    Exec(Vec<Word>),
}

impl CommandLine {
    /// The arguments to run: `shell` and the text, or the exec form's own.
    pub fn arguments(&self, shell: &[String]) -> Vec<String> {
        match self {
            CommandLine::Shell(text) => shell.iter().cloned().chain([text.text.clone()]).collect(),
            CommandLine::Exec(words) => words.iter().map(|word| word.text.clone()).collect(),
        }
    }
}

/// `RUN`'s network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the flag's own values")]
pub enum Network {
    Default,
    None,
    Host,
    Private,
}

/// `RUN`'s security mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the flag's own values")]
pub enum Security {
    Sandbox,
    Insecure,
}

/// `RUN`
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Run {
    /// The command as written; of a heredoc `RUN`, the first line. [`Run::program`] is what is to run.
    pub command: CommandLine,
    /// The heredocs in order.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, in order.
    pub mounts: Vec<Mount>,
    /// `--network`
    pub network: Option<Network>,
    /// `--security`
    pub security: Option<Security>,
    /// `--device`, in order, as written.
    pub devices: Vec<Word>,
}

/// What a `RUN` runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum Program {
    /// These arguments, no shell.
    Exec(Vec<String>),
    /// This text by the shell.
    Shell(String),
    /// A script that begins with `#!`: to be mounted as the file `/dev/pipes/<name>`, mode 0755, and that path be
    /// given to the shell.
    Script {
        /// The file's name.
        name: String,
        /// Its content.
        content: String,
    },
}

impl Run {
    /// What is to run, heredocs resolved: a lone heredoc is the script, others are put back for the shell to read.
    pub fn program(&self) -> Program {
        let text = match &self.command {
            CommandLine::Exec(words) => {
                return Program::Exec(words.iter().map(|word| word.text.clone()).collect());
            }
            CommandLine::Shell(text) => &text.text,
        };
        let Some(first) = self.heredocs.first() else { return Program::Shell(text.clone()) };
        if crate::lex::is_heredoc_word(text) {
            let content = first.chomped();
            return match first.content.starts_with("#!") {
                true => Program::Script { name: first.name.clone(), content },
                false => Program::Shell(content),
            };
        }
        let mut full = text.clone();
        for heredoc in &self.heredocs {
            full.push('\n');
            full.push_str(&heredoc.content);
            full.push_str(&heredoc.name);
        }
        Program::Shell(full)
    }
}

/// Which of the two copying instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names are the instructions' own")]
pub enum CopyKind {
    Copy,
    Add,
}

/// `COPY` and `ADD`
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Copy {
    /// Which of the two.
    pub kind: CopyKind,
    /// The sources in order, without the heredocs.
    pub sources: Vec<Word>,
    /// The heredocs among the sources, in order: each is a file named by its delimiter.
    pub heredocs: Vec<Heredoc>,
    /// The destination.
    pub destination: Word,
    /// `--from` (COPY)
    pub from: Option<Word>,
    /// `--chown`
    pub chown: Option<Word>,
    /// `--chmod`
    pub chmod: Option<Word>,
    /// `--link`
    pub link: bool,
    /// `--parents` (COPY)
    pub parents: bool,
    /// `--exclude`, in order
    pub exclude: Vec<Word>,
    /// `--checksum` (ADD)
    pub checksum: Option<Word>,
    /// `--keep-git-dir` (ADD)
    pub keep_git_dir: Option<bool>,
    /// `--unpack` (ADD); `None`: local archives are, remote ones are not.
    pub unpack: Option<bool>,
}

/// `ONBUILD`
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Onbuild {
    /// The trigger as it is kept in the image config, heredocs inline; [`crate::parse_onbuild`] reads it again.
    pub text: String,
    /// Where the trigger stands.
    pub span: Span,
    /// The trigger's keyword; `None`: there is no such instruction, which is an error only when the trigger fires.
    pub keyword: Option<Keyword>,
    /// Where the body of its first heredoc begins in the source.
    pub body: Option<usize>,
}
