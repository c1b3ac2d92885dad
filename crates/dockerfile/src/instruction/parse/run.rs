//! RUN.

use super::super::flags::{Flags, Kind};
use super::super::{Mount, Network, Run, Security, Word};
use super::{Arguments, Parsing};
use crate::Diagnostic;

pub(super) const RUN_FLAGS: [(&str, Kind); 4] =
    [("device", Kind::List), ("mount", Kind::List), ("network", Kind::Text), ("security", Kind::Text)];

impl Parsing<'_> {
    pub(super) fn run(&mut self, at: &Arguments<'_>, flags: &Flags<'_>) -> Option<Run> {
        let mut mounts = Vec::new();
        for text in flags.list("mount") {
            match Mount::parse(text) {
                Ok(mount) => {
                    if self.strict && mount.has_variable_source() {
                        let message = "'from' doesn't support variable expansion, define alias stage instead";
                        self.error(message, mount.text.span, "write FROM name AS alias, and from=alias");
                    }
                    mounts.push(mount);
                }
                Err(error) => self.errors.push(error),
            }
        }
        let networks = [
            ("default", Network::Default),
            ("none", Network::None),
            ("host", Network::Host),
            // Ours; the reference knows those before.
            ("private", Network::Private),
        ];
        let networks = if self.strict { &networks[..3] } else { &networks[..] };
        let securities = [("sandbox", Security::Sandbox), ("insecure", Security::Insecure)];
        Some(Run {
            command: self.command_line(at)?,
            heredocs: at.heredocs.clone(),
            mounts,
            network: self.choice(flags.text("network"), networks, "network mode"),
            security: self.choice(flags.text("security"), &securities, "security mode"),
            devices: flags.list("device").collect(),
        })
    }

    fn choice<T: std::marker::Copy>(
        &mut self,
        value: Option<Word>,
        known: &[(&str, T)],
        what: &str,
    ) -> Option<T> {
        let value = value?;
        let found = known.iter().find(|(name, _)| *name == value.text).map(|(_, choice)| *choice);
        if found.is_none() {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            let error = Diagnostic::error(format!("unsupported {what} \"{}\"", value.text), value.span);
            self.errors.push(error.one_of(&value.text, &names));
        }
        found
    }
}
