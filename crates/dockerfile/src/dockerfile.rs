//! A whole Dockerfile.

use serde::Serialize;

use crate::instruction::{Parsing, parse_instruction};
use crate::lex::{Comment, Statement, read_directives, read_statements, split_keyword};
use crate::{Command, Diagnostic, Directives, Escape, From, Instruction, Keyword, LineIndex, Span, Word};

/// How to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ParseOptions {
    /// Refuse what the reference refuses though it could be had: variables in `COPY --from=` and
    /// `RUN --mount=from=`.
    pub strict_docker: bool,
}

/// A Dockerfile.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Dockerfile {
    /// The parser directives.
    pub directives: Directives,
    /// The escape character.
    pub escape: Escape,
    /// The `ARG`s before the first `FROM`.
    pub global_args: Vec<Instruction>,
    /// The stages in order; at least one.
    pub stages: Vec<Stage>,
    /// The comments behind the last instruction.
    pub trailing_comments: Vec<Comment>,
    /// What reading it had to say: `NoEmptyContinuation` alone. [`crate::check`] reports it too.
    pub warnings: Vec<Diagnostic>,
    /// Wrong values in instructions that can be read all the same: ports, signals. They matter only to a build that needs
    /// their stage, see [`crate::StageGraph::faults`].
    #[serde(skip)]
    pub faults: Vec<Diagnostic>,
    #[serde(skip)]
    source: String,
    #[serde(skip)]
    lines: LineIndex,
}

/// A stage: a `FROM` and what follows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Stage {
    /// Its number, from 0.
    pub index: usize,
    /// The `FROM` instruction.
    pub instruction: Instruction,
    /// What it says.
    pub from: From,
    /// The instructions behind it.
    pub instructions: Vec<Instruction>,
}

impl Stage {
    /// The name, in lower case.
    pub fn name(&self) -> Option<&str> {
        self.from.name.as_ref().map(|name| name.text.as_str())
    }

    /// The name, or `stage-N`.
    pub fn label(&self) -> String {
        self.name().map_or_else(|| format!("stage-{}", self.index), str::to_owned)
    }
}

impl Dockerfile {
    /// Reads a Dockerfile. The errors are all that were found, in the order of the text.
    pub fn parse(source: &str) -> Result<Dockerfile, Vec<Diagnostic>> {
        Dockerfile::parse_with(source, ParseOptions::default())
    }

    /// Reads a Dockerfile with options.
    pub fn parse_with(source: &str, options: ParseOptions) -> Result<Dockerfile, Vec<Diagnostic>> {
        let Reading { dockerfile, mut errors, .. } = read(source, options);
        if errors.is_empty() {
            return Ok(dockerfile);
        }
        errors.extend(dockerfile.faults);
        errors.sort_by_key(|error| error.span.start);
        Err(errors)
    }

    /// The text it was read from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The lines of that text.
    pub fn lines(&self) -> &LineIndex {
        &self.lines
    }

    /// All instructions in order, `FROM`s included.
    pub fn instructions(&self) -> impl Iterator<Item = &Instruction> {
        self.global_args.iter().chain(
            self.stages
                .iter()
                .flat_map(|stage| std::iter::once(&stage.instruction).chain(&stage.instructions)),
        )
    }

    /// The stage that `name` means to `COPY --from`, `RUN --mount=from=` and `--target`: in any case, the last of
    /// several.
    pub fn stage_named(&self, name: &str) -> Option<&Stage> {
        let name = name.to_lowercase();
        self.stages.iter().rev().find(|stage| stage.name() == Some(&name))
    }

    /// Gives every ARG of this name before the first FROM another default, or none.
    pub fn set_global_default(&mut self, name: &str, value: Option<&str>) {
        for instruction in &mut self.global_args {
            let Command::Arg(args) = &mut instruction.command else { continue };
            for arg in args.iter_mut().filter(|arg| arg.name.text == name) {
                arg.default = value.map(|value| Word::new(value, arg.span));
            }
        }
    }

    /// The typed instructions with their spans (byte offsets) as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// A text as far as it could be read.
pub(crate) struct Reading {
    /// What could be read; instructions that could not are left out.
    pub(crate) dockerfile: Dockerfile,
    /// What could not, in no order.
    pub(crate) errors: Vec<Diagnostic>,
    /// Whether every `FROM` and all before the first was read: the stages are those of the text.
    pub(crate) has_its_stages: bool,
}

pub(crate) fn read(source: &str, options: ParseOptions) -> Reading {
    let (mut errors, mut faults) = (Vec::new(), Vec::new());
    let (directives, escape) = read_directives(source, &mut errors);
    let (statements, trailing_comments) = read_statements(source, directives.end(), escape, &mut errors);
    if statements.is_empty() && errors.is_empty() {
        errors.push(Diagnostic::error("file with no instructions", Span::default()));
    }
    let mut parsing =
        Parsing { escape, strict: options.strict_docker, errors: &mut errors, faults: &mut faults };
    let instructions: Vec<Option<Instruction>> =
        statements.iter().map(|statement| parse_instruction(statement, &mut parsing)).collect();
    let (global_args, stages) = into_stages(&statements, instructions, &mut errors);
    let first = stages.first().map_or(usize::MAX, |stage| stage.instruction.span.start);
    let opening = statements.iter().filter(|statement| opens_stage(statement)).count();
    let has_its_stages = opening == stages.len() && errors.iter().all(|error| error.span.start > first);
    let dockerfile = Dockerfile {
        directives,
        escape,
        global_args,
        stages,
        trailing_comments,
        warnings: statements.iter().filter_map(empty_continuation).collect(),
        faults,
        source: source.to_owned(),
        lines: LineIndex::new(source),
    };
    Reading { dockerfile, errors, has_its_stages }
}

/// Reads a trigger as the image config keeps it, heredocs inline. Spans are offsets in `text`.
pub fn parse_onbuild(text: &str, escape: Escape) -> Result<Instruction, Diagnostic> {
    let (mut errors, mut faults) = (Vec::new(), Vec::new());
    let (statements, _) = read_statements(text, 0, escape, &mut errors);
    let mut parsing = Parsing { escape, strict: false, errors: &mut errors, faults: &mut faults };
    let instruction = match statements.as_slice() {
        [one] => parse_instruction(one, &mut parsing),
        _ => None,
    };
    let whole = Span::new(0, text.len());
    match (errors.into_iter().chain(faults).next(), instruction) {
        (Some(error), _) => Err(error),
        (None, None) => Err(Diagnostic::error("an ONBUILD trigger must be one instruction", whole)),
        (None, Some(found)) => match found.keyword {
            Keyword::From | Keyword::Maintainer | Keyword::Onbuild => Err(Diagnostic::error(
                format!("{} isn't allowed as an ONBUILD trigger", found.keyword),
                whole,
            )),
            _ => Ok(found),
        },
    }
}

fn into_stages(
    statements: &[Statement],
    instructions: Vec<Option<Instruction>>,
    errors: &mut Vec<Diagnostic>,
) -> (Vec<Instruction>, Vec<Stage>) {
    let mut global_args = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    // A FROM that could not be read still opens a stage: what follows it is not misplaced.
    let mut opened = false;
    let mut seen = None;
    for (statement, instruction) in statements.iter().zip(instructions) {
        let Some(instruction) = instruction else {
            opened |= opens_stage(statement);
            continue;
        };
        seen = Some(instruction.span);
        match (&instruction.command, stages.last_mut()) {
            (Command::From(from), _) => {
                opened = true;
                let (index, from) = (stages.len(), from.clone());
                stages.push(Stage { index, from, instruction, instructions: Vec::new() });
            }
            (_, Some(stage)) => stage.instructions.push(instruction),
            (Command::Arg(_), None) => global_args.push(instruction),
            _ if opened => {}
            _ => errors.push(
                Diagnostic::error("no build stage in current context", instruction.keyword_text.span)
                    .label(instruction.keyword_text.span, "only ARG may stand before the first FROM")
                    .help("begin the file with FROM"),
            ),
        }
    }
    if stages.is_empty() && errors.is_empty() {
        errors.push(
            Diagnostic::error("dockerfile contains no stages to build", seen.unwrap_or_default())
                .help("add a FROM instruction"),
        );
    }
    (global_args, stages)
}

/// Whether it is a `FROM`, readable or not.
fn opens_stage(statement: &Statement) -> bool {
    let text = &statement.text;
    split_keyword(text, 0..text.value.len()).0 == Some(Keyword::From)
}

fn empty_continuation(statement: &Statement) -> Option<Diagnostic> {
    let (blank, last) = statement.blank_continuation?;
    let message = "Empty continuation line";
    Some(Diagnostic::warning("NoEmptyContinuation", message, last).label(blank, "this line is blank"))
}
