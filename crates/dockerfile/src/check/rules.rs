//! The names of the rules.

use serde::Serialize;

macro_rules! rules {
    ($($name:ident: $description:literal,)*) => {
        /// A rule.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
        pub enum Rule {
            $(#[doc = $description] $name,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &'static [Rule] = &[$(Rule::$name),*];

            /// The name in settings and findings.
            pub fn name(self) -> &'static str {
                match self { $(Rule::$name => stringify!($name)),* }
            }

            /// What it is about, in a sentence.
            pub fn description(self) -> &'static str {
                match self { $(Rule::$name => $description),* }
            }
        }
    };
}

rules! {
    StageNameCasing: "stage names should be lowercase",
    FromAsCasing: "the word AS should have the case of FROM",
    NoEmptyContinuation: "blank lines inside an instruction will become errors",
    ConsistentInstructionCasing: "all instructions should have the same case",
    DuplicateStageName: "stage names should be unique",
    ReservedStageName: "reserved words should not be used as stage names",
    JSONArgsRecommended: "the shell form keeps signals from the program",
    MaintainerDeprecated: "use a label: LABEL org.opencontainers.image.authors=…",
    UndefinedArgInFrom: "FROM should use arguments that are declared before it",
    WorkdirRelativePath: "a relative path depends on the base image's working directory",
    UndefinedVar: "variables should be defined before they are used",
    MultipleInstructionsDisallowed: "only the last of them in a stage has an effect",
    LegacyKeyValueFormat: "the form with = can hold several pairs and quotes",
    InvalidBaseImagePlatform: "the base image is not of the platform that is built for",
    RedundantTargetPlatform: "the target platform is the default",
    SecretsUsedInArgOrEnv: "build args and variables stay in the image's history; use RUN --mount=type=secret",
    InvalidDefaultArgInFrom: "the default of the argument should make a valid image name",
    FromPlatformFlagConstDisallowed: "a constant platform keeps the image from being built for others",
    CopyIgnoredFile: "what is ignored cannot be copied",
    InvalidDefinitionDescription: "a comment above a stage or argument describes it: # name description",
    ExposeProtoCasing: "protocols should be lowercase",
    ExposeInvalidFormat: "addresses and host ports mean nothing in EXPOSE",
}

impl Rule {
    /// Whether it must be asked for.
    pub fn is_experimental(self) -> bool {
        self == Rule::InvalidDefinitionDescription
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
