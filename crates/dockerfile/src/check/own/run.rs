//! Rules about RUN.

use super::shell::{Simple, Then, commands, turns_on};
use super::{Rule, Walk, secrets};
use crate::{CommandLine, Instruction, MountKind, Program, Run, Span};

/// A script and the shell that reads it.
struct Script<'a> {
    commands: Vec<Simple>,
    /// The interpreter and its arguments.
    shell: Vec<String>,
    run: &'a Run,
    /// The whole RUN is one heredoc.
    is_heredoc: bool,
    span: Span,
}

impl Walk<'_, '_> {
    pub(super) fn run(&mut self, instruction: &Instruction, run: &Run) {
        if let Some(what) = secrets::found(&whole_text(run)) {
            let message = format!("RUN holds what looks like {what}; use RUN --mount=type=secret");
            self.report.add(Rule::SecretInRun, instruction, instruction.keyword_text.span, message);
        }
        let Some(script) = self.script(run) else { return };
        self.errexit(instruction, &script);
        self.pipefail(instruction, &script);
        if self.is_kept {
            self.caches(instruction, &script);
            self.changes(instruction, &script);
        }
    }

    fn script<'a>(&self, run: &'a Run) -> Option<Script<'a>> {
        let CommandLine::Shell(command) = &run.command else { return None };
        let (span, is_heredoc) = (command.span, crate::lex::is_heredoc_word(&command.text));
        let (text, shell) = match run.program() {
            Program::Shell(text) => (text, self.state.shell.clone()),
            Program::Script { content, .. } => {
                let first = content.lines().next().unwrap_or_default();
                let shell = first.trim_start_matches("#!").split_whitespace().map(str::to_owned).collect();
                (content, Some(shell))
            }
            Program::Exec(_) => return None,
        };
        let shell = shell.filter(|shell: &Vec<String>| shell.iter().any(|word| is_shell(word)))?;
        Some(Script { commands: commands(&text), shell, run, is_heredoc, span })
    }

    /// Of a script over several lines, only the last command's failure counts.
    fn errexit(&mut self, instruction: &Instruction, script: &Script<'_>) {
        let statements = script.commands.iter().filter(|command| command.then == Then::End).count();
        if script.is_heredoc && statements > 1 && !script.sets(Some('e'), "errexit") {
            let message =
                "Heredoc RUN without `set -e`: only the last command's failure fails the build".to_owned();
            self.report.add(Rule::HeredocWithoutErrexit, instruction, script.span, message);
        }
    }

    /// Of a pipe, only the last program's failure counts.
    fn pipefail(&mut self, instruction: &Instruction, script: &Script<'_>) {
        let harmless = |command: &Simple| {
            matches!(command.program(), Some(("echo" | "printf" | "yes" | "true", _)) | None)
        };
        let piped = script.commands.iter().find(|command| command.then == Then::Pipe && !harmless(command));
        if let Some((program, _)) = piped.and_then(Simple::program).filter(|_| !script.sets(None, "pipefail"))
        {
            let message = format!("Pipe without `set -o pipefail`: a failure of {program} goes unnoticed");
            self.report.add(Rule::PipeWithoutPipefail, instruction, script.span, message);
        }
    }

    /// What package managers keep for the next time stays in the layer for ever.
    fn caches(&mut self, instruction: &Instruction, script: &Script<'_>) {
        let has_variable = |name: &str| self.state.variables.iter().any(|known| known == name);
        for (tool, help) in leftovers(script, &has_variable) {
            let message = format!("RUN leaves the cache of {tool} in the layer: {help}");
            self.report.add(Rule::PackageCacheInLayer, instruction, script.span, message);
        }
    }

    /// A file whose mode or owner changes later is stored a second time.
    fn changes(&mut self, instruction: &Instruction, script: &Script<'_>) {
        for command in &script.commands {
            let Some((program @ ("chmod" | "chown" | "chgrp"), arguments)) = command.program() else {
                continue;
            };
            let recursive = turns_on(arguments.iter().map(String::as_str), Some('R'), "--recursive");
            // The first that is no option is the mode or the owner.
            let paths = arguments.iter().filter(|word| !word.starts_with('-')).skip(1);
            for path in paths.map(|path| super::join(&self.state.workdir, path)) {
                let inside = |whole: &str, part: &str| {
                    part == whole
                        || part
                            .strip_prefix(whole.trim_end_matches('/'))
                            .is_some_and(|rest| rest.starts_with('/'))
                };
                let is_hit =
                    |known: &str| inside(known, &path) && known != "/" || recursive && inside(&path, known);
                if !self.copied.iter().any(|copied| is_hit(copied)) {
                    continue;
                }
                let flag = if program == "chmod" { "--chmod" } else { "--chown" };
                let message = format!(
                    "{program} of {path}, which was copied before, stores it twice; give COPY or ADD {flag}"
                );
                self.report.add(Rule::CopiedThenChanged, instruction, script.span, message);
                return;
            }
        }
    }
}

impl Script<'_> {
    /// Whether the shell's arguments or a `set` turn an option on.
    fn sets(&self, letter: Option<char>, name: &str) -> bool {
        let arguments = self.shell.iter().skip(1).take_while(|word| *word != "-c").map(String::as_str);
        let by_shell = turns_on(arguments, letter, name);
        let by_set = self.commands.iter().filter_map(Simple::program).any(|(program, arguments)| {
            program == "set" && turns_on(arguments.iter().map(String::as_str), letter, name)
        });
        by_shell || by_set
    }

    /// Whether a cache or tmpfs mount covers this folder.
    fn mounts(&self, part: &str) -> bool {
        self.run.mounts.iter().any(|mount| {
            matches!(mount.spec.kind, MountKind::Cache | MountKind::Tmpfs)
                && mount.spec.target.as_deref().is_some_and(|target| target.contains(part))
        })
    }

    /// Whether something is deleted whose path holds this.
    fn deletes(&self, part: &str) -> bool {
        let deleting = |command: &&Simple| matches!(command.program(), Some(("rm" | "find", _)));
        self.commands
            .iter()
            .filter(deleting)
            .any(|command| command.words.iter().any(|word| word.contains(part)))
    }
}

/// The caches that a script leaves, and what to do about each.
fn leftovers(script: &Script<'_>, has_variable: &dyn Fn(&str) -> bool) -> Vec<(&'static str, &'static str)> {
    let runs = |programs: &[&str], verbs: &[&str]| {
        script.commands.iter().any(|command| {
            command.program().is_some_and(|(program, arguments)| {
                programs.contains(&program) && arguments.iter().any(|word| verbs.contains(&word.as_str()))
            })
        })
    };
    let option = |word: &str| script.commands.iter().any(|command| command.has(word));
    let mut found = Vec::new();
    if runs(&["apt-get", "apt"], &["update"])
        && !script.deletes("/var/lib/apt")
        && !script.mounts("/var/lib/apt")
    {
        found.push(("apt", "end it with `rm -rf /var/lib/apt/lists/*`, or use RUN --mount=type=cache"));
    }
    if runs(&["apk"], &["add", "update", "upgrade"])
        && !(option("--no-cache") || script.deletes("/var/cache/apk") || script.mounts("/apk"))
    {
        found.push(("apk", "add with `--no-cache`"));
    }
    let pip = runs(&["pip", "pip3"], &["install"])
        || script
            .commands
            .iter()
            .any(|command| command.has("-m") && command.has("pip") && command.has("install"));
    if pip
        && !(option("--no-cache-dir")
            || has_variable("PIP_NO_CACHE_DIR")
            || script.deletes(".cache")
            || script.mounts("pip")
            || script.mounts("/.cache")
            || runs(&["pip", "pip3"], &["purge"]))
    {
        found.push((
            "pip",
            "install with `--no-cache-dir`, or use RUN --mount=type=cache,target=/root/.cache/pip",
        ));
    }
    if runs(&["npm"], &["install", "ci", "i"])
        && !(runs(&["npm"], &["clean"]) || script.deletes(".npm") || script.mounts("npm"))
    {
        found.push((
            "npm",
            "use RUN --mount=type=cache,target=/root/.npm, or end it with `npm cache clean --force`",
        ));
    }
    let managers = ["dnf", "yum", "microdnf", "tdnf"];
    if runs(&managers, &["install", "update", "upgrade", "groupinstall"])
        && !(runs(&managers, &["clean"])
            || ["/var/cache/dnf", "/var/cache/yum", "/var/cache/libdnf5"]
                .iter()
                .any(|folder| script.deletes(folder) || script.mounts(folder)))
    {
        found.push(("dnf", "end it with `dnf clean all`"));
    }
    found
}

fn is_shell(word: &str) -> bool {
    matches!(word.rsplit('/').next(), Some("sh" | "bash" | "dash" | "ash" | "zsh" | "ksh"))
}

fn whole_text(run: &Run) -> String {
    match run.program() {
        Program::Shell(text) | Program::Script { content: text, .. } => text,
        Program::Exec(words) => words.join(" "),
    }
}
