//! Build checks: what is legal but unwise. The rules, names and messages are the reference's.

mod rules;
mod settings;

pub use rules::{CheckInput, Finding, Rule, check};
pub use settings::CheckSettings;
