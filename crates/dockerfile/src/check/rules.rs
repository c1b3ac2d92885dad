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
    HeredocWithoutErrexit: "a script of several commands goes on after a failure unless it says set -e",
    PipeWithoutPipefail: "a pipe succeeds if its last program does, whatever became of the others",
    AddWithoutChecksum: "what a server gives may be another file tomorrow; --checksum says which is meant",
    UnknownChownUser: "a name in --chown must be in the image's /etc/passwd or /etc/group",
    UnusedBuildArg: "a build arg that no ARG declares has no effect",
    PackageCacheInLayer: "what a package manager keeps for the next time makes the image larger",
    CopiedThenChanged: "a file whose mode or owner changes in a later step is stored twice",
    ArgTooEarly: "an ARG changes the cache keys of all RUNs behind it; declare it where it is used",
    NoUserInFinalStage: "without USER the image's programs are root",
    UnpinnedBaseImage: "without a fixed tag or digest the base changes from build to build",
    SecretInRun: "the text of RUN stays in the image's history; use RUN --mount=type=secret",
}

impl Rule {
    /// Whether it must be asked for.
    pub fn is_experimental(self) -> bool {
        self == Rule::InvalidDefinitionDescription || self.is_own()
    }

    /// Whether it is one of ours, which the reference does not have.
    pub fn is_own(self) -> bool {
        self >= Rule::HeredocWithoutErrexit
    }

    /// Where the reference explains it; one rule has no page, and ours are explained in CHECKS.md.
    pub fn url(self) -> Option<String> {
        if self.is_own() || self == Rule::InvalidBaseImagePlatform {
            return None;
        }
        let mut words = String::new();
        let name = self.name();
        for (at, letter) in name.char_indices() {
            let after = name[at + 1..].chars().next();
            // JSONArgs is two words: a capital begins one if a small letter is before or behind it.
            let begins = at > 0
                && letter.is_ascii_uppercase()
                && (name.as_bytes()[at - 1].is_ascii_lowercase()
                    || after.is_some_and(|next| next.is_ascii_lowercase()));
            if begins {
                words.push('-');
            }
            words.push(letter.to_ascii_lowercase());
        }
        Some(format!("https://docs.docker.com/go/dockerfile/rule/{words}/"))
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_named_after_their_rule() {
        for (rule, page) in [
            (Rule::StageNameCasing, Some("stage-name-casing")),
            (Rule::JSONArgsRecommended, Some("json-args-recommended")),
            (Rule::SecretsUsedInArgOrEnv, Some("secrets-used-in-arg-or-env")),
            (Rule::InvalidBaseImagePlatform, None),
            (Rule::SecretInRun, None),
        ] {
            let url = page.map(|page| format!("https://docs.docker.com/go/dockerfile/rule/{page}/"));
            assert_eq!(rule.url(), url);
        }
        assert_eq!(Rule::ALL.iter().filter(|rule| !rule.is_own()).count(), 22);
    }

    #[test]
    fn every_rule_of_ours_is_documented() {
        let text = include_str!("../../CHECKS.md");
        for rule in Rule::ALL.iter().filter(|rule| rule.is_own()) {
            assert!(text.contains(&format!("## {rule}\n")), "{rule} is not in CHECKS.md");
        }
    }
}
