//! The rules of the language, a table for each.

use rbuild_dockerfile::{
    Command, Dockerfile, Escape, HistoryContext, Instruction, MountKind, ParseOptions, Program, parse_onbuild,
};

/// The instructions behind `FROM scratch`.
fn instructions(body: &str) -> Vec<Instruction> {
    let source = format!("FROM scratch\n{body}");
    match Dockerfile::parse(&source) {
        Ok(mut dockerfile) => dockerfile.stages.remove(0).instructions,
        Err(errors) => panic!("{source:?}: {errors:?}"),
    }
}

fn one(body: &str) -> Instruction {
    let mut all = instructions(body);
    assert_eq!(all.len(), 1, "{body:?}");
    all.remove(0)
}

fn errors(source: &str) -> Vec<String> {
    match Dockerfile::parse(source) {
        Ok(dockerfile) => panic!("{source:?} was read: {dockerfile:?}"),
        Err(errors) => errors.into_iter().map(|error| error.message).collect(),
    }
}

/// The text of a shell-form RUN.
fn run_text(body: &str) -> String {
    match one(body).command {
        Command::Run(run) => match run.program() {
            Program::Shell(text) => text,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn continuations_and_comments() {
    for (body, text) in [
        ("RUN a \\\n  b", "a   b"),
        ("RUN a \\  \t\nb", "a b"),
        ("RUN a \\\n\n\nb", "a b"),
        ("RUN a \\\n# c\n  # d\nb # e", "a b # e"),
        ("RUN a \\", "a"),
        ("  \trun\ta", "a"),
        ("RUN a \\\r\n  b\r\n", "a   b"),
        ("RUN \\\na", "a"),
        ("RUN a\\\nb", "ab"),
        ("\\\nRUN a", "a"),
        ("RUN", ""),
    ] {
        assert_eq!(run_text(body), text, "{body:?}");
    }
    assert_eq!(instructions("RUN a \\\\\nRUN b").len(), 2);
    let dockerfile = Dockerfile::parse("# escape=`\nFROM a\nRUN x `\n y\nRUN z \\\nENV A=b`$c").unwrap();
    assert_eq!(dockerfile.stages[0].instructions.len(), 3);
    assert_eq!(dockerfile.escape, Escape::Backtick);
}

#[test]
fn exec_and_shell_form() {
    for (body, is_exec) in [
        ("CMD [\"a\", \"b\"]", true),
        ("CMD []", true),
        ("CMD ['a']", false),
        ("CMD [\"a\",]", false),
        ("CMD [\"a\"] b", false),
        ("CMD a", false),
    ] {
        let Command::Cmd(line) = one(body).command else { panic!() };
        assert_eq!(line.is_shell(), !is_exec, "{body}");
    }
    for body in ["CMD [1]", "RUN [\"a\", null]", "COPY [1, \"b\"] ", "VOLUME [[\"x\"]]", "ENTRYPOINT [true]"]
    {
        let message = "when using JSON array syntax, arrays must be comprised of strings only";
        assert_eq!(errors(&format!("FROM a\n{body}")), [message], "{body}");
    }
}

#[test]
fn heredocs() {
    assert_eq!(run_text("RUN <<EOF\na \\\n# b\n\nEOF\n"), "a \\\n# b\n\n");
    assert_eq!(run_text("RUN <<-EOF\n\t\ta\n\tEOF\n"), "a\n");
    assert_eq!(run_text("RUN cat <<A 3<<'B'\n1\nA\n2\nB\n"), "cat <<A 3<<'B'\n1\nA\n2\nB");
    let Command::Run(run) = one("RUN <<EOF\n#!/bin/x\ny\nEOF").command else { panic!() };
    assert_eq!(
        run.program(),
        Program::Script { name: "EOF".to_owned(), content: "#!/bin/x\ny\n".to_owned() }
    );
    let Command::Copy(copy) = one("COPY --chmod=1 <<A b <<\"C D\" /x/\n1\r\nA\nC D\n").command else {
        panic!()
    };
    assert_eq!((copy.sources.len(), copy.heredocs.len()), (1, 2));
    assert_eq!(copy.heredocs[0].content, "1\r\n");
    let Command::Onbuild(onbuild) = one("ONBUILD RUN <<E\nx\nE\n").command else { panic!() };
    assert_eq!(onbuild.text, "RUN <<E\nx\nE");
    let Command::Run(run) = parse_onbuild(&onbuild.text, Escape::Backslash).unwrap().command else {
        panic!()
    };
    assert_eq!(run.program(), Program::Shell("x\n".to_owned()));
    assert_eq!(instructions("RUN [\"a\", \"<<E\"]\nCMD <<E\nRUN echo $((1<<2))").len(), 3);
    assert_eq!(errors("FROM a\nRUN <<EOF\nx"), ["unterminated heredoc"]);
    assert_eq!(errors("FROM a\nCOPY a <<EOF\nEOF"), ["COPY cannot accept a heredoc as a destination"]);
}

#[test]
fn pairs() {
    for (body, expected) in [
        ("ENV a=b c=\"d e\" f=g\\ h", &[("a", "b"), ("c", "\"d e\""), ("f", "g\\ h")][..]),
        ("ENV a b=c  d ", &[("a", "b=c  d")]),
        ("ENV a= b=", &[("a", ""), ("b", "")]),
        ("ENV a.b-c=1", &[("a.b-c", "1")]),
        ("ENV a='x\\' b=y", &[("a", "'x\\'"), ("b", "y")]),
        ("ENV \\\n a=1 \\\n\n # c\n b=2", &[("a", "1"), ("b", "2")]),
    ] {
        let Command::Env(env) = one(body).command else { panic!() };
        let found: Vec<_> = env.pairs.iter().map(|p| (p.key.text.as_str(), p.value.text.as_str())).collect();
        assert_eq!(found, expected, "{body}");
    }
}

#[test]
fn an_instruction_sees_the_environment_before_it() {
    let env = vec!["abc=hello".to_owned()];
    let expanded = one("ENV abc=bye def=$abc").expanded(&env, Escape::Backslash).unwrap();
    let Command::Env(pairs) = expanded.command else { panic!() };
    assert_eq!(pairs.pairs[1].value.text, "hello");
}

#[test]
fn what_is_expanded() {
    let env = vec!["V=v".to_owned(), "PORTS=3000 4000/udp".to_owned(), "T=cache".to_owned()];
    for (body, expected) in [
        ("COPY --chown=$V --chmod=$V $V \"$V\" /$V", "COPY --chown=v --chmod=v v v /v # buildkit"),
        ("COPY [\"a $V\", \"/b\"]", "COPY a v /b # buildkit"),
        ("ADD --checksum=$V $V /", "ADD v / # buildkit"),
        ("COPY --parents <<E x /$V", "COPY --parents x <<E /v # buildkit"),
        ("RUN echo $V", "RUN /bin/sh -c echo $V # buildkit"),
        ("EXPOSE $PORTS 80/TCP", "EXPOSE [3000/tcp 4000/udp 80/tcp]"),
        ("VOLUME /$V [\"/x\"]", "VOLUME [/v [/x]]"),
        ("USER $V:$V", "USER v:v"),
        ("WORKDIR /$V", "WORKDIR /v"),
        ("LABEL a=$V 'b c'=\"d $V\"", "LABEL a=v b c=d v"),
        ("CMD echo $V", "CMD [\"/bin/sh\" \"-c\" \"echo $V\"]"),
        ("CMD [\"nginx\", \"-g\", \"daemon off;\"]", "CMD [\"nginx\" \"-g\" \"daemon off;\"]"),
        ("ENTRYPOINT [\"$V\"]", "ENTRYPOINT [\"$V\"]"),
        ("SHELL [\"/bin/$V\", \"-c\"]", "SHELL [/bin/$V -c]"),
        ("STOPSIGNAL SIG${X:-TERM}", "STOPSIGNAL SIGTERM"),
        ("MAINTAINER me $V", "MAINTAINER me $V"),
        (
            "HEALTHCHECK CMD x",
            "HEALTHCHECK {Test:[CMD-SHELL x] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
        ),
        (
            "HEALTHCHECK --interval=5m --timeout=3s --retries=3 CMD [\"a\"]",
            "HEALTHCHECK {Test:[CMD a] Interval:5m0s Timeout:3s StartPeriod:0s StartInterval:0s Retries:3}",
        ),
        (
            "HEALTHCHECK NONE",
            "HEALTHCHECK {Test:[NONE] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
        ),
    ] {
        let body = if body.contains("<<") { format!("{body}\nE\n") } else { body.to_owned() };
        let expanded = one(&body).expanded(&env, Escape::Backslash).unwrap();
        let context = HistoryContext {
            shell: vec!["/bin/sh".to_owned(), "-c".to_owned()],
            ..HistoryContext::default()
        };
        assert_eq!(expanded.created_by(&context).as_deref(), Some(expected), "{body}");
    }
    let expanded =
        one("RUN --mount=type=$T,target=/$V,id=${V}1 x").expanded(&env, Escape::Backslash).unwrap();
    let Command::Run(run) = expanded.command else { panic!() };
    let spec = &run.mounts[0].spec;
    assert_eq!(
        (spec.kind, spec.target.as_deref(), spec.id.as_deref()),
        (MountKind::Cache, Some("/v"), Some("v1"))
    );
    let Command::Copy(copy) =
        one("COPY <<A <<'B' /\n\"$V\" \\$V\nA\n$V\nB\n").expanded(&env, Escape::Backslash).unwrap().command
    else {
        panic!()
    };
    assert_eq!(
        (copy.heredocs[0].content.as_str(), copy.heredocs[1].content.as_str()),
        ("\"v\" $V\n", "$V\n")
    );
}

#[test]
fn history_of_run_lists_the_args() {
    let context = HistoryContext {
        shell: vec!["/bin/sh".to_owned(), "-c".to_owned()],
        args: vec![("a".to_owned(), "b".to_owned()), ("c".to_owned(), "d".to_owned())],
        workdir: None,
    };
    let text = one("RUN npm install").created_by(&context).unwrap();
    assert_eq!(text, "RUN |2 a=b c=d /bin/sh -c npm install # buildkit");
    assert_eq!(one("ARG a c=x e").created_by(&context).unwrap(), "ARG a=b c=d e");
}

#[test]
fn comments_stay_with_their_instruction() {
    let all = instructions("# one\n\n# two\nRUN a \\\n# inner\n b\nRUN c");
    let texts: Vec<_> = all[0].comments.iter().map(|comment| comment.text.as_str()).collect();
    assert_eq!(texts, ["one", "two"]);
    assert!(all[1].comments.is_empty());
}

#[test]
fn strict_mode_refuses_what_the_reference_refuses() {
    let options = ParseOptions { strict_docker: true };
    for (source, message) in [
        ("FROM a\nCOPY --from=$X a b", "variable expansion is not supported for --from"),
        (
            "FROM a\nRUN --mount=from=$X,target=/a b",
            "'from' doesn't support variable expansion, define alias stage instead",
        ),
    ] {
        assert!(Dockerfile::parse(source).is_ok(), "{source}");
        assert_eq!(Dockerfile::parse_with(source, options).unwrap_err()[0].message, message, "{source}");
    }
}

#[test]
fn progress_lines() {
    let env = vec!["U=http://x".to_owned()];
    for (body, expected) in [
        ("add --link $U/f \"$N\" /f", "ADD --link http://x/f \"$N\" /f"),
        ("RUN echo it's $U", "RUN echo it's $U"),
        ("RUN <<E\necho hello wonderful world\nE", "RUN <<E (echo hello wonderful...)"),
        ("RUN a \\\n  b", "RUN a   b"),
    ] {
        assert_eq!(one(body).display(&env, Escape::Backslash), expected, "{body}");
    }
}

#[test]
fn all_errors_of_a_file_are_told_in_order() {
    let found = errors(
        "FROM a AS 1b\nFRM x\nCOPY --form=x a b\nRUN --mount=typ=bind x\nENV a=1 b\nEXPOSE 1/x\nSHELL sh\n",
    );
    assert_eq!(found.len(), 7, "{found:?}");
}

#[test]
fn long_lines_and_empty_files() {
    assert_eq!(errors(""), ["file with no instructions"]);
    assert_eq!(errors("# only\n\n#comments"), ["file with no instructions"]);
    assert_eq!(errors("ARG A=1"), ["dockerfile contains no stages to build"]);
    assert_eq!(errors("RUN x\nFROM a"), ["no build stage in current context"]);
    let long = format!("FROM a\nRUN {}", "x".repeat(65535 - 4));
    assert!(Dockerfile::parse(&long).is_ok());
    assert_eq!(errors(&format!("{long}x")), ["dockerfile line greater than max allowed size of 65535"]);
}
