//! Which rules count: `# check=skip=A,B;error=true;experimental=C`.

use super::Rule;
use crate::parse_bool;

/// Settings of the build checks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CheckSettings {
    /// Rules that are not reported.
    pub skip: Vec<String>,
    /// No rule is reported.
    pub skip_all: bool,
    /// Experimental rules that are.
    pub experimental: Vec<String>,
    /// All experimental rules are.
    pub experimental_all: bool,
    /// Findings make the build fail.
    pub error: bool,
}

impl CheckSettings {
    /// Reads settings; the error says what is wrong with them. Names of rules keep their case.
    pub fn parse(text: &str) -> Result<CheckSettings, String> {
        let mut settings = CheckSettings::default();
        for part in text.split(';') {
            let (key, value) =
                part.split_once('=').ok_or_else(|| format!("invalid check option \"{}\"", part.trim()))?;
            let value = value.trim();
            let names = || value.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>();
            match key.trim() {
                "skip" if value == "all" => settings.skip_all = true,
                "skip" => settings.skip = names(),
                // Those of the reference: ours are asked for by name, or all at once by who runs the check.
                "experimental" if value == "all" => {
                    let theirs = Rule::ALL.iter().filter(|rule| rule.is_experimental() && !rule.is_own());
                    settings.experimental.extend(theirs.map(|rule| rule.name().to_owned()));
                }
                "experimental" => settings.experimental = names(),
                "error" => {
                    settings.error = parse_bool(value).ok_or_else(|| {
                        format!("failed to parse check option error: invalid value \"{value}\"")
                    })?;
                }
                other => return Err(format!("invalid check option \"{other}\"")),
            }
        }
        Ok(settings)
    }

    /// Whether the rule of that name is left out.
    pub fn skips(&self, rule: &str) -> bool {
        self.skip_all || self.skip.iter().any(|name| name == rule)
    }

    /// Whether the experimental rule of that name was asked for.
    pub fn asks_for(&self, rule: &str) -> bool {
        self.experimental_all || self.experimental.iter().any(|name| name == rule)
    }
}
