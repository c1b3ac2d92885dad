//! What an instruction writes into the image's history.

use super::healthcheck::format_duration;
use super::{Command, CommandLine, Copy, CopyKind, Env, Instruction, Program, Run};

/// What the history text of an instruction depends on beside the instruction.
#[derive(Clone, Debug, Default)]
pub struct HistoryContext {
    /// The shell of shell forms, `["/bin/sh", "-c"]` by default.
    pub shell: Vec<String>,
    /// The ARGs in force with their values, in order of declaration (RUN).
    pub args: Vec<(String, String)>,
    /// The resolved working directory (WORKDIR).
    pub workdir: Option<String>,
}

impl Instruction {
    /// `created_by` of the history entry of this (expanded) instruction. `None` for those that make none: FROM and
    /// ONBUILD. Of ARG the pairs in `context.args` are what it declares, with the values it got; names alone that got
    /// none.
    pub fn created_by(&self, context: &HistoryContext) -> Option<String> {
        Some(match &self.command {
            Command::From(_) | Command::Onbuild(_) => return None,
            Command::Add(copy) | Command::Copy(copy) => format!("{} # buildkit", copy_text(copy)),
            Command::Run(run) => format!("RUN {} # buildkit", run_text(run, context)),
            Command::Arg(args) => {
                let text = |arg: &super::Arg| {
                    let found = context.args.iter().rev().find(|(name, _)| *name == arg.name.text);
                    found.map_or(arg.name.text.clone(), |(name, value)| format!("{name}={value}"))
                };
                format!("ARG {}", args.iter().map(text).collect::<Vec<_>>().join(" "))
            }
            Command::Env(env) => format!("ENV{}", pairs_text(env)),
            Command::Label(label) => format!("LABEL{}", pairs_text(label)),
            Command::Cmd(line) => format!("CMD {}", quoted_list(&line.arguments(&context.shell))),
            Command::Entrypoint(line) => {
                format!("ENTRYPOINT {}", quoted_list(&line.arguments(&context.shell)))
            }
            Command::Expose(expose) => {
                let ports =
                    expose.ports.iter().filter_map(|word| super::parse_port(&word.text).ok()).flatten();
                let mut ports: Vec<String> = ports.map(|port| port.to_string()).collect();
                ports.sort();
                ports.dedup();
                format!("EXPOSE [{}]", ports.join(" "))
            }
            Command::Healthcheck(check) => format!("HEALTHCHECK {}", check.go_dump()),
            Command::Maintainer(name) => format!("MAINTAINER {}", name.text),
            Command::Shell(words) => format!("SHELL {}", plain_list(words)),
            Command::StopSignal(signal) => format!("STOPSIGNAL {}", signal.text),
            Command::User(user) => format!("USER {}", user.text),
            Command::Volume(words) => format!("VOLUME {}", plain_list(words)),
            Command::Workdir(path) => format!("WORKDIR {}", context.workdir.as_ref().unwrap_or(&path.text)),
        })
    }
}

fn copy_text(copy: &Copy) -> String {
    let mut text = match copy.kind {
        CopyKind::Copy => "COPY".to_owned(),
        CopyKind::Add => "ADD".to_owned(),
    };
    if copy.parents {
        text.push_str(" --parents");
    }
    for (flag, value) in [("chown", &copy.chown), ("chmod", &copy.chmod)] {
        if let Some(value) = value.as_ref().filter(|value| !value.text.is_empty()) {
            text.push_str(&format!(" --{flag}={}", value.text));
        }
    }
    for source in &copy.sources {
        text.push_str(&format!(" {}", source.text));
    }
    for heredoc in &copy.heredocs {
        text.push_str(&format!(" <<{}", heredoc.name));
    }
    format!("{text} {}", copy.destination.text)
}

fn run_text(run: &Run, context: &HistoryContext) -> String {
    let mut parts = Vec::new();
    if !context.args.is_empty() {
        parts.push(format!("|{}", context.args.len()));
        parts.extend(context.args.iter().map(|(name, value)| format!("{name}={value}")));
    }
    match run.program() {
        Program::Exec(words) => parts.extend(words),
        Program::Shell(text) => parts.extend(context.shell.iter().cloned().chain([text])),
        Program::Script { name, .. } => {
            parts.extend(context.shell.iter().cloned().chain([format!("/dev/pipes/{name}")]));
        }
    }
    parts.join(" ")
}

fn pairs_text(env: &Env) -> String {
    env.pairs.iter().map(|pair| format!(" {}={}", pair.key.text, pair.value.text)).collect()
}

/// Go's `%v` of a list of strings.
fn plain_list(words: &[super::Word]) -> String {
    let words: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    format!("[{}]", words.join(" "))
}

/// Go's `%q` of a list of strings.
fn quoted_list(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| go_quote(word)).collect();
    format!("[{}]", words.join(" "))
}

/// Go's `strconv.Quote`.
pub(crate) fn go_quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            letter if letter < ' ' || letter == '\u{7f}' => {
                quoted.push_str(&format!("\\x{:02x}", u32::from(letter)));
            }
            letter if letter.is_control() || matches!(letter, '\u{feff}' | '\u{ad}') => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(letter)));
            }
            letter if letter.is_whitespace() && letter != ' ' => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(letter)));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

impl super::Healthcheck {
    /// Go's `%+v` of the config's `Healthcheck`.
    fn go_dump(&self) -> String {
        let [interval, timeout, start_period, start_interval] =
            [self.interval, self.timeout, self.start_period, self.start_interval].map(format_duration);
        format!(
            "{{Test:[{}] Interval:{interval} Timeout:{timeout} StartPeriod:{start_period} \
             StartInterval:{start_interval} Retries:{}}}",
            self.test().join(" "),
            self.retries
        )
    }
}

impl CommandLine {
    /// Whether it is in shell form.
    pub fn is_shell(&self) -> bool {
        matches!(self, CommandLine::Shell(_))
    }
}
