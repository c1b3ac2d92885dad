//! What is said of a RUN that failed.

use rbuild_executor::{ExitReport, Limits};
use rbuild_image::Platform;

use crate::error::{BuildError, FailureKind};

/// Lines of a failed command's output that the error repeats.
const TAIL: usize = 12;

/// A command of which the kernel killed a process because its control group had no more memory.
pub(super) fn on_starved(error: BuildError, limits: &Limits) -> BuildError {
    let BuildError::Failed(mut failure) = error else { return error };
    let limit =
        limits.memory.map(|bytes| format!(", which has a limit of {bytes} bytes")).unwrap_or_default();
    failure.help = Some("give it more with `--memory`".to_owned());
    failure.caused_by(format!("a process was killed because the memory of RUN was used up{limit}")).into()
}

/// Programs for another architecture that the kernel does not know: the machine lacks the emulator.
pub(super) fn on_foreign(error: BuildError, platform: &Platform) -> BuildError {
    let BuildError::Failed(mut failure) = error else { return error };
    let refused =
        |line: &String| line.ends_with(": exec format error") || line.ends_with(": Exec format error");
    if platform.architecture != Platform::host().architecture && failure.output_tail.iter().any(refused) {
        failure.kind = FailureKind::Environment;
        failure.help = Some(format!(
            "this machine does not run {platform} programs yet: install an emulator (Debian, Ubuntu: qemu-user-static and \
             binfmt-support), or let the stage run here with `FROM --platform=$BUILDPLATFORM`"
        ));
    }
    BuildError::Failed(failure)
}

/// What the exit codes mean that a shell, and we, give to a command that could not be run.
pub(super) fn remedy(report: ExitReport, argv: &[String], tail: &[String]) -> Option<&'static str> {
    let shell_is_missing = || {
        let missing = argv.first().map(|shell| format!("exec: {shell:?}: stat"));
        argv.len() == 3 && missing.is_some_and(|words| tail.iter().any(|line| line.starts_with(&words)))
    };
    match report {
        ExitReport::Exited(127) if shell_is_missing() => Some(
            "the image has no shell: name the program itself, `RUN [\"program\", \"argument\"]`, or take another base",
        ),
        ExitReport::Exited(127) => {
            Some("a command is not in the image: install it in a step before, or take another base")
        }
        ExitReport::Exited(126) => Some(
            "a file could not be executed: has it the mode for it (`COPY --chmod=755`), and is it for this platform?",
        ),
        _ => None,
    }
}

/// The last lines of an output, control characters taken out.
pub(super) fn last_lines(tail: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(tail);
    let clean = |line: &str| line.chars().filter(|c| !c.is_control() || *c == '\t').collect::<String>();
    let lines: Vec<String> = text.lines().map(clean).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL)..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Failure;

    #[test]
    fn memory_that_was_used_up_is_the_cause() {
        let failed = || Failure::new(FailureKind::Build, "process \"make\" did not complete").into();
        let said = |limits: &Limits| match on_starved(failed(), limits) {
            BuildError::Failed(failure) => (failure.source.map(|cause| cause.to_string()), failure.help),
            other => panic!("{other:?}"),
        };
        let (cause, help) = said(&Limits { memory: Some(4096), ..Limits::default() });
        let expected =
            "a process was killed because the memory of RUN was used up, which has a limit of 4096 bytes";
        assert_eq!(cause.as_deref(), Some(expected));
        assert_eq!(help.as_deref(), Some("give it more with `--memory`"));
        let (cause, _) = said(&Limits::default());
        assert_eq!(cause.as_deref(), Some("a process was killed because the memory of RUN was used up"));
    }
}
