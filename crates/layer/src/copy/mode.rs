//! Symbolic modes of `--chmod`, by the rules of the BSD `setmode(3)` that the reference builder follows.
//!
//! They differ from GNU chmod in small things: `X` after `-` is `x`, `=` without classes leaves the sticky bit,
//! and the umask is 0.

use std::fmt;
use std::str::FromStr;

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
/// Everything but the sticky bit, which belongs to no class.
const STANDARD: u32 = SETUID | SETGID | 0o777;
const EXECUTE: u32 = 0o111;

/// What `--chmod` does to a mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chmod {
    /// A number up to 07777, for files and directories alike.
    Octal(u32),
    /// Clauses such as `u=rw,go+X`, relative to each file's mode.
    Symbolic(SymbolicMode),
}

/// Parsed clauses of a symbolic mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolicMode(Vec<Change>);

/// The text is neither an octal number up to 07777 nor a symbolic mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid mode `{0}`")]
pub struct InvalidMode(pub String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Set(u32),
    Clear(u32),
    /// Set these if the file is a directory or was executable by anyone at the start.
    SetIfExecutable(u32),
    /// Take the three permissions of the class at `from` (a shift) and use them on the classes in `to`.
    CopyClass {
        from: u32,
        to: u32,
        operator: Operator,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Assign,
}

impl Chmod {
    /// The mode that a file of mode `mode` gets.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Self::Octal(mode) => *mode,
            Self::Symbolic(symbolic) => symbolic.apply(mode, is_directory),
        }
    }
}

impl FromStr for Chmod {
    type Err = InvalidMode;

    fn from_str(text: &str) -> Result<Self, InvalidMode> {
        let invalid = || InvalidMode(text.to_owned());
        if !text.starts_with(|first: char| first.is_ascii_digit()) {
            return text.parse().map(Self::Symbolic);
        }
        let octal = text.bytes().all(|byte| byte.is_ascii_digit());
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| octal && *mode <= 0o7777);
        mode.map(Self::Octal).ok_or_else(invalid)
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "+",
            Self::Remove => "-",
            Self::Assign => "=",
        })
    }
}

impl SymbolicMode {
    /// The mode that a file of mode `mode` gets.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let was_executable = is_directory || mode & EXECUTE != 0;
        self.0.iter().fold(mode, |mode, change| match *change {
            Change::Set(bits) => mode | bits,
            Change::Clear(bits) => mode & !bits,
            Change::SetIfExecutable(bits) if was_executable => mode | bits,
            Change::SetIfExecutable(_) => mode,
            Change::CopyClass { from, to, operator } => copy_class(mode, from, to, operator),
        })
    }
}

fn copy_class(mode: u32, from: u32, to: u32, operator: Operator) -> u32 {
    // One octal digit times 0111 is that digit in every class.
    let bits = (((mode >> from) & 7) * 0o111) & to;
    match operator {
        Operator::Add => mode | bits,
        Operator::Remove => mode & !bits,
        Operator::Assign => mode & !to | bits,
    }
}

impl FromStr for SymbolicMode {
    type Err = InvalidMode;

    /// `[ugoa]* ([-+=] ([rwxXst]* | [ugo]))+`, clauses joined by commas.
    fn from_str(text: &str) -> Result<Self, InvalidMode> {
        let mut changes = Vec::new();
        text.split(',')
            .all(|clause| parse_clause(clause, &mut changes))
            .then_some(Self(changes))
            .ok_or_else(|| InvalidMode(text.to_owned()))
    }
}

/// Appends the changes of one clause; false if it is malformed.
fn parse_clause(clause: &str, changes: &mut Vec<Change>) -> bool {
    let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    let who = clause[..clause.len() - actions.len()].chars().fold(0, |who, class| who | class_bits(class));
    let mut rest = actions;
    while let Some(operator) = rest.chars().next() {
        let operator = match operator {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            '=' => Operator::Assign,
            _ => return false,
        };
        let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
        if !parse_action(operator, &rest[1..end], who, changes) {
            return false;
        }
        rest = &rest[end..];
    }
    !actions.is_empty()
}

fn class_bits(class: char) -> u32 {
    match class {
        'u' => SETUID | 0o700,
        'g' => SETGID | 0o070,
        'o' => 0o007,
        _ => STANDARD,
    }
}

/// One operator with its permissions, for example `=rw` or `-u`.
fn parse_action(operator: Operator, permissions: &str, mut who: u32, changes: &mut Vec<Change>) -> bool {
    let (mut bits, mut execute_if, mut copied) = (0, 0, false);
    // `s` and `t` mean nothing to others alone.
    let special = who == 0 || who & !0o007 != 0;
    for permission in permissions.chars() {
        match permission {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= EXECUTE,
            'X' if operator == Operator::Remove => bits |= EXECUTE,
            'X' => execute_if = EXECUTE,
            's' if special => bits |= SETUID | SETGID,
            't' if special => {
                // With classes given, the sticky bit must be asked for; without, every bit is in reach.
                who |= STICKY;
                bits |= STICKY;
            }
            's' | 't' => {}
            'u' | 'g' | 'o' => {
                flush(operator, who, &mut bits, &mut execute_if, false, changes);
                let from = match permission {
                    'u' => 6,
                    'g' => 3,
                    _ => 0,
                };
                let to = if who & 0o777 == 0 { 0o777 } else { who & 0o777 };
                changes.push(Change::CopyClass { from, to, operator });
                copied = true;
            }
            _ => return false,
        }
    }
    flush(operator, who, &mut bits, &mut execute_if, operator == Operator::Assign && !copied, changes);
    true
}

/// Turns the permissions gathered so far into changes; `always` for an `=` that may have none.
fn flush(
    operator: Operator,
    who: u32,
    bits: &mut u32,
    execute_if: &mut u32,
    always: bool,
    changes: &mut Vec<Change>,
) {
    let reach = if who == 0 { 0o7777 } else { who };
    let (bits, execute_if) = (std::mem::take(bits) & reach, std::mem::take(execute_if) & reach);
    if bits != 0 || always {
        match operator {
            Operator::Add => changes.push(Change::Set(bits)),
            Operator::Remove => changes.push(Change::Clear(bits)),
            Operator::Assign => {
                changes.push(Change::Clear(if who == 0 { STANDARD } else { who }));
                changes.push(Change::Set(bits));
            }
        }
    }
    if execute_if != 0 {
        changes.push(Change::SetIfExecutable(execute_if));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_by_the_rules_of_setmode() {
        // text, before, is a directory, after
        let table: &[(&str, u32, bool, u32)] = &[
            ("u=rwx,go=rx", 0o600, false, 0o755),
            ("u=rw,go=", 0o777, false, 0o600),
            ("a+r", 0o600, false, 0o644),
            ("+x", 0o644, false, 0o755),
            ("go-w", 0o666, false, 0o644),
            ("u+s", 0o755, false, 0o4755),
            ("g+s", 0o755, true, 0o2755),
            ("+s", 0o755, false, 0o6755),
            ("o+s", 0o755, false, 0o755),
            ("+t", 0o755, true, 0o1755),
            ("u+t", 0o755, true, 0o1755),
            ("o+t", 0o755, true, 0o755),
            ("a-s", 0o6755, false, 0o755),
            ("u=rwx", 0o4711, false, 0o711),
            ("=", 0o7777, false, 0o1000),
            ("=rx", 0o4755, false, 0o555),
            ("+X", 0o644, false, 0o644),
            ("+X", 0o744, false, 0o755),
            ("+X", 0o644, true, 0o755),
            ("go+rX", 0o700, true, 0o755),
            ("a-x,+X", 0o755, false, 0o755),
            ("+X,a-x", 0o755, false, 0o644),
            ("a=rX", 0o755, false, 0o555),
            ("a=rX", 0o644, false, 0o444),
            ("u=rwX,go=rX", 0o700, true, 0o755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("a-X", 0o755, false, 0o644),
            ("g=u", 0o640, false, 0o660),
            ("go=u-w", 0o640, false, 0o644),
            ("g+o", 0o604, false, 0o644),
            ("u-g", 0o750, false, 0o250),
            ("=u", 0o740, false, 0o777),
            ("u+r-w", 0o200, false, 0o400),
            ("ug+rw,o-rwx", 0o007, false, 0o660),
            ("g=t", 0o775, true, 0o1705),
        ];
        for &(text, before, is_directory, after) in table {
            let chmod: Chmod = text.parse().unwrap();
            let got = chmod.apply(before, is_directory);
            assert_eq!(got, after, "{text} on {before:o}: {got:o} instead of {after:o}");
        }
    }

    #[test]
    fn octal_modes_stand_for_themselves() {
        for (text, mode) in [("644", 0o644), ("0755", 0o755), ("7777", 0o7777), ("0", 0)] {
            assert_eq!(text.parse::<Chmod>().unwrap().apply(0o123, true), mode);
        }
    }

    #[test]
    fn what_is_no_mode() {
        for text in ["", "u", "rwx", "u=rwz", "10000", "8", "0o7", "75x", "u+r,", ",u+r", "u+r g+r", "a=1"] {
            assert_eq!(text.parse::<Chmod>(), Err(InvalidMode(text.to_owned())), "{text}");
        }
    }
}
