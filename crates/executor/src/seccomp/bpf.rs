//! A small emitter of classic BPF: a search tree over call numbers, with rules about arguments at some of its leaves.

use crate::sys::Instruction;

/// What the kernel does with a call (`SECCOMP_RET_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Errno(u16),
    /// Not one of the architectures that the filter knows.
    Kill,
    /// The supervisor answers.
    Tell,
}

/// What a leaf does: an action, or a question about the low half of one argument first. The calls in question take 32-bit
/// values there, so the kernel ignores the high half and so do we.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaf {
    Do(Action),
    /// Allowed unless the first argument has one of these bits.
    UnlessBits(u32, Action),
    /// Allowed unless the first argument is this.
    Unless(u32, Action),
    /// Allowed only for these values of the first argument.
    Only(&'static [u32], Action),
    /// Told to the supervisor if this argument has one of these bits, allowed otherwise.
    TellIfBits {
        argument: u8,
        bits: u32,
    },
}

/// From this call number on, up to the next segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) start: u32,
    pub(super) leaf: Leaf,
}

// `struct seccomp_data`: the call's number, the architecture, the instruction pointer, six arguments of 64 bits.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
/// Low half of the first argument; every architecture here is little-endian.
const OFFSET_ARGUMENT: u32 = 16;

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_BITS: u16 = 0x45;
const RETURN: u16 = 0x06;

/// The whole filter: one section for each architecture (`AUDIT_ARCH_*`), whose segments start at 0 and are sorted.
pub(super) fn program(architectures: &[(u32, Vec<Segment>)]) -> Vec<Instruction> {
    let sections: Vec<Vec<Instruction>> = architectures
        .iter()
        .map(|(_, segments)| [vec![load(OFFSET_NUMBER)], tree(segments)].concat())
        .collect();
    let mut out = vec![load(OFFSET_ARCHITECTURE)];
    for (index, (architecture, _)) in architectures.iter().enumerate() {
        // A conditional jump reaches 255 instructions, an unconditional one any distance.
        let questions_left = 2 * (architectures.len() - index - 1) + 1;
        let before: usize = sections[..index].iter().map(Vec::len).sum();
        out.push(compare(JUMP_EQUAL, *architecture, 0, 1));
        out.push(jump(questions_left + before));
    }
    out.push(give(Action::Kill));
    out.extend(sections.into_iter().flatten());
    out
}

fn tree(segments: &[Segment]) -> Vec<Instruction> {
    match segments {
        [] => vec![give(Action::Kill)],
        [segment] => leaf(segment.leaf),
        _ => {
            let (low, high) = segments.split_at(segments.len() / 2);
            let below = tree(low);
            let question = match u8::try_from(below.len()) {
                Ok(length) => vec![compare(JUMP_AT_LEAST, high[0].start, length, 0)],
                Err(_) => vec![compare(JUMP_AT_LEAST, high[0].start, 0, 1), jump(below.len())],
            };
            [question, below, tree(high)].concat()
        }
    }
}

fn leaf(leaf: Leaf) -> Vec<Instruction> {
    let allow = give(Action::Allow);
    match leaf {
        Leaf::Do(action) => vec![give(action)],
        Leaf::UnlessBits(bits, action) => {
            vec![load(OFFSET_ARGUMENT), compare(JUMP_BITS, bits, 1, 0), allow, give(action)]
        }
        Leaf::Unless(value, action) => {
            vec![load(OFFSET_ARGUMENT), compare(JUMP_EQUAL, value, 1, 0), allow, give(action)]
        }
        Leaf::TellIfBits { argument, bits } => {
            let offset = OFFSET_ARGUMENT + 8 * u32::from(argument);
            vec![load(offset), compare(JUMP_BITS, bits, 1, 0), allow, give(Action::Tell)]
        }
        Leaf::Only(values, action) => {
            let questions = values.iter().map(|&value| [compare(JUMP_EQUAL, value, 0, 1), allow]);
            [vec![load(OFFSET_ARGUMENT)], questions.flatten().collect(), vec![give(action)]].concat()
        }
    }
}

fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD, jump_true: 0, jump_false: 0, k: offset }
}

fn compare(code: u16, k: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, k }
}

fn jump(distance: usize) -> Instruction {
    Instruction { code: JUMP, jump_true: 0, jump_false: 0, k: distance as u32 }
}

fn give(action: Action) -> Instruction {
    let k = match action {
        Action::Allow => 0x7fff_0000,
        Action::Errno(errno) => 0x0005_0000 | u32::from(errno),
        Action::Kill => 0x8000_0000,
        Action::Tell => 0x7fc0_0000,
    };
    Instruction { code: RETURN, jump_true: 0, jump_false: 0, k }
}

/// The kernel's interpreter, for tests.
#[cfg(test)]
pub(super) fn evaluate(program: &[Instruction], architecture: u32, number: u32, argument: u64) -> Action {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let Instruction { code, jump_true, jump_false, k } = program[at];
        at += 1;
        let mut branch = |yes: bool| at += usize::from(if yes { jump_true } else { jump_false });
        match code {
            LOAD if k == OFFSET_NUMBER => accumulator = number,
            LOAD if k == OFFSET_ARCHITECTURE => accumulator = architecture,
            LOAD => accumulator = argument as u32,
            JUMP => at += k as usize,
            JUMP_EQUAL => branch(accumulator == k),
            JUMP_AT_LEAST => branch(accumulator >= k),
            JUMP_BITS => branch(accumulator & k != 0),
            _ if k == 0x7fff_0000 => return Action::Allow,
            _ if k == 0x8000_0000 => return Action::Kill,
            _ if k == 0x7fc0_0000 => return Action::Tell,
            _ => return Action::Errno(k as u16),
        }
    }
}
