//! The Dockerfile language: parser, expansion, build checks, stage graph.
//!
//! Pure: text in, values out. Nothing here reads a file, an environment variable or a clock; nothing panics,
//! whatever the input; every value knows the [`Span`] of the text it came from.
//!
//! ```
//! use rbuild_dockerfile::{Dockerfile, GraphArguments, StageGraph};
//!
//! let dockerfile = Dockerfile::parse("FROM node AS build\nRUN make\nFROM scratch\nCOPY --from=build /out /\n").unwrap();
//! let graph = StageGraph::of(&dockerfile, &GraphArguments::default()).unwrap();
//! let plan = graph.plan_for(None).unwrap();
//! assert_eq!(plan.stages.len(), 2);
//! assert_eq!(plan.images, [("node".to_string(), None)]);
//! ```
//!
//! The way of a text: [`Dockerfile::parse`] gives typed [`Instruction`]s grouped into [`Stage`]s;
//! [`StageGraph::of`] expands the `FROM` lines and finds what each stage needs; [`Plan`] lists what a target
//! needs; [`Instruction::expanded`] replaces variables just before an instruction is carried out;
//! [`check`] finds what is legal but unwise.

mod boolean;
mod check;
mod diagnose;
mod diagnostic;
mod dockerfile;
mod epoch;
mod expand;
mod format;
mod graph;
mod instruction;
mod lex;
mod outline;
mod span;
mod suggest;
mod wishes;

/// The README's example is tried with the others.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use boolean::parse_bool;
pub use check::{
    BaseImage, BaseImages, CheckInput, CheckSettings, Finding, Inspection, Rule, Verify, check,
    check_settings, inspect, looks_secret, unused_build_args,
};
pub use diagnose::diagnose;
pub use diagnostic::{Diagnostic, Severity};
pub use dockerfile::{Dockerfile, ParseOptions, Stage, parse_onbuild};
pub use epoch::{DateSource, DateSourceError, SOURCE_DATE_EPOCH, date_source};
pub use expand::{ExpandError, Expansion, Lookup, Mode, Undefined, expand, expand_key_value, expand_words};
pub use graph::{
    BuildPlatform, Dependency, GraphArguments, Plan, PlannedStage, Source, StageGraph, StageId, StageNode,
    StepCounter,
};
pub use instruction::{
    Arg, Command, CommandLine, Copy, CopyKind, Env, Expose, Flag, From, Healthcheck, HistoryContext,
    Instruction, KeyValue, Keyword, Label, Mount, MountKind, MountSpec, Network, Onbuild, Port, Program, Run,
    Security, Sharing, Word, format_duration, parse_port, parse_signal,
};
pub use lex::{Comment, Directive, Directives, Escape, Heredoc};
pub use outline::{Outline, OutlineArg, OutlineMount, Target, outline, targets};
pub use span::{LineIndex, Position, Span};
pub use suggest::suggestion;
pub use wishes::CacheWishes;
