//! A wrong hit is the worst bug that a builder can have. Random small Dockerfiles are built on two stores after random
//! edits, and without a cache: files and configs never differ, the files are those that a model of the instructions works
//! out, and the steps that ran again are exactly the ones that the model says had to.
//!
//! `RBUILD_CACHE_ROUNDS` edits are made, from the seed `RBUILD_CACHE_SEED`; the suite makes a few, and on a slow machine fewer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rbuild_testkit::TestRegistry;

use crate::common::{Image, Kind, Run, Test};

const ROUNDS: u64 = 8;
/// After so long the suite's own rounds end.
const PATIENCE: Duration = Duration::from_secs(15);
/// Edits of one Dockerfile before the next.
const EDITS: u64 = 6;

/// xorshift64* (Marsaglia; Vigna 2016): the same numbers from the same seed on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % end
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// An instruction; its numbers choose among what there is when it is written down.
#[derive(Debug, Clone)]
enum Line {
    /// RUN: joins two files into another.
    Join(usize, usize, usize),
    /// RUN: writes the variables into a file.
    Say(usize, usize),
    /// RUN: another mode.
    Mode(usize, bool),
    /// RUN: takes a file away.
    Remove(usize),
    /// RUN with a file of the context, or of an earlier stage, mounted.
    Mount(usize, usize, Option<usize>),
    /// RUN as a heredoc.
    Script(usize, usize),
    Arg(usize, usize),
    Env(usize, usize),
    CopyFile(usize, usize),
    CopyFolder(usize),
    CopyFrom(usize, usize, usize),
    CopyText(usize, usize),
    Workdir(usize),
}

#[derive(Debug, Clone)]
struct Stage {
    /// Built from an earlier stage.
    base: Option<usize>,
    lines: Vec<Line>,
}

/// All that a build depends on.
#[derive(Debug, Clone)]
struct Project {
    stages: Vec<Stage>,
    /// Files of the context: content and mode.
    files: BTreeMap<String, (String, u32)>,
    arguments: BTreeMap<String, String>,
}

fn line(random: &mut Random) -> Line {
    let mut n = || random.below(1000);
    match n() % 14 {
        0 | 1 => Line::Join(n(), n(), n()),
        2 => Line::Say(n(), n()),
        3 => Line::Mode(n(), n() % 2 == 0),
        4 => Line::Remove(n()),
        5 => Line::Mount(n(), n(), (n() % 2 == 0).then(&mut n)),
        6 => Line::Script(n(), n()),
        7 => Line::Arg(n(), n()),
        8 => Line::Env(n(), n()),
        9 => Line::CopyFile(n(), n()),
        10 => Line::CopyFolder(n()),
        11 => Line::CopyFrom(n(), n(), n()),
        12 => Line::CopyText(n(), n()),
        _ => Line::Workdir(n()),
    }
}

impl Project {
    fn new(random: &mut Random) -> Project {
        let stages = (0..2 + random.below(2))
            .map(|index| Stage {
                base: (index > 0 && random.one_in(3)).then(|| random.below(index)),
                lines: (0..2 + random.below(4)).map(|_| line(random)).collect(),
            })
            .collect();
        let files = ["a", "b", "d/x", "d/y"];
        let files = files.map(|name| (name.to_owned(), (format!("{name} 0\n"), 0o644)));
        Project { stages, files: files.into(), arguments: BTreeMap::new() }
    }

    /// One change, of a kind that people make.
    fn edit(&mut self, random: &mut Random) {
        let stage = random.below(self.stages.len());
        let lines = &mut self.stages[stage].lines;
        let at = random.below(lines.len());
        let file = random.below(self.files.len());
        let file = self.files.values_mut().nth(file).unwrap();
        match random.below(8) {
            0 | 1 => file.0 = format!("edited {}\n", random.below(4)),
            2 => file.1 = if file.1 == 0o644 { 0o755 } else { 0o644 },
            3 => {
                self.arguments.insert(format!("V{}", random.below(3)), random.below(3).to_string());
            }
            4 => lines.insert(at, line(random)),
            5 if lines.len() > 1 => drop(lines.remove(at)),
            6 => lines[at] = line(random),
            // Nothing: the next build finds all as it was.
            _ => {}
        }
    }

    fn write(&self, test: &Test) {
        for (name, (content, mode)) in &self.files {
            test.file(&format!("ctx/{name}"), content);
            test.mode(&format!("ctx/{name}"), *mode);
        }
    }
}

/// A root file system as far as the instructions change it: content and mode.
type Files = BTreeMap<String, (String, u32)>;

/// What the model knows of a stage between two instructions.
#[derive(Debug, Clone, Default)]
struct State {
    files: Files,
    variables: Vec<(String, String)>,
    workdir: String,
    /// What the next step's result depends on, all before it included.
    key: String,
}

/// Results by key: which execution it was, and on which one it stands.
#[derive(Debug, Default)]
struct Cache {
    results: BTreeMap<String, (u64, u64)>,
    executions: u64,
}

/// One build as it should go: the Dockerfile, the last stage, the names of steps by key, and the keys that must run.
struct Expected {
    dockerfile: String,
    files: Files,
    /// Key by the text of the step, with its stage: `s1 RUN …`.
    steps: Vec<(String, String)>,
    runs: BTreeSet<String>,
}

/// Works a build out as the instructions say, and what of it must run with this cache.
fn expect(project: &Project, cache: &mut Cache) -> Expected {
    let mut expected =
        Expected { dockerfile: String::new(), files: Files::new(), steps: Vec::new(), runs: BTreeSet::new() };
    let mut states: Vec<State> = Vec::new();
    // What each stage did, to be counted where the target needs the stage.
    let mut told: Vec<Vec<(String, String)>> = Vec::new();
    let mut needs: Vec<BTreeSet<usize>> = Vec::new();
    for (index, stage) in project.stages.iter().enumerate() {
        let (mut state, base) = match stage.base {
            Some(base) => (states[base].clone(), format!("s{base}")),
            None => (State { key: "busybox".to_owned(), ..State::default() }, "busybox".to_owned()),
        };
        let mut needed: BTreeSet<usize> = stage.base.into_iter().collect();
        let _ = writeln!(expected.dockerfile, "FROM {base} AS s{index}");
        let mut steps = Vec::new();
        for line in &stage.lines {
            let written = written(line, project, &mut state, &states);
            let Some(Written { text, depends, from }) = written else { continue };
            let _ = writeln!(expected.dockerfile, "{text}");
            needed.extend(from);
            let Some(depends) = depends else { continue };
            state.key = format!("{}\n{depends}", state.key);
            steps.push((format!("s{index} {}", text.lines().next().unwrap()), state.key.clone()));
            // Executions are counted below, where it is known which stages are needed.
        }
        states.push(state);
        told.push(steps);
        needs.push(needed);
    }
    let last = project.stages.len() - 1;
    let mut wanted = BTreeSet::from([last]);
    for index in (0..=last).rev() {
        if wanted.contains(&index) {
            wanted.extend(needs[index].iter().copied());
        }
    }
    let mut ends: Vec<u64> = Vec::new();
    for (index, stage) in project.stages.iter().enumerate() {
        let mut made = stage.base.map_or(0, |base| ends[base]);
        for (name, key) in told[index].iter().filter(|_| wanted.contains(&index)) {
            expected.steps.push((name.clone(), key.clone()));
            // A result counts only on the very state that it was made on.
            made = match cache.results.get(key) {
                Some((result, below)) if *below == made => *result,
                _ => {
                    cache.executions += 1;
                    cache.results.insert(key.clone(), (cache.executions, made));
                    expected.runs.insert(key.clone());
                    cache.executions
                }
            };
        }
        ends.push(made);
    }
    expected.files = states.pop().unwrap().files;
    expected
}

struct Written {
    text: String,
    /// What a step depends on besides the state; nothing where the line is no step.
    depends: Option<String>,
    from: Option<usize>,
}

/// An instruction as text, carried out on the model. Nothing where it has nothing to work with.
fn written(line: &Line, project: &Project, state: &mut State, stages: &[State]) -> Option<Written> {
    let target = |n: usize| format!("/f{}", n % 5);
    let some_file = |files: &Files, n: usize| files.keys().nth(n % files.len().max(1)).cloned();
    let environment = format!("{:?} {}", state.variables, state.workdir);
    let run =
        |text: String| Some(Written { depends: Some(format!("{text} {environment}")), text, from: None });
    match line {
        Line::Join(one, other, to) => {
            let (one, other) = (some_file(&state.files, *one)?, some_file(&state.files, *other)?);
            let to = target(*to);
            let content = format!("{}{}", state.files[&one].0, state.files[&other].0);
            // The files are kept small whatever happens.
            let content = content.chars().take(200).collect();
            let mode = state.files.get(&to).map_or(0o644, |(_, mode)| *mode);
            state.files.insert(to.clone(), (content, mode));
            run(format!(
                "RUN cat {one} {other} | head -c 200 > /tmp-join && cat /tmp-join > {to} && rm /tmp-join"
            ))
        }
        Line::Say(word, to) => {
            let (to, name) = (target(*to), format!("V{}", word % 3));
            let value =
                state.variables.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
            let mode = state.files.get(&to).map_or(0o644, |(_, mode)| *mode);
            state.files.insert(to.clone(), (format!("{value} said\n"), mode));
            run(format!("RUN echo \"${name} said\" > {to}"))
        }
        Line::Mode(file, private) => {
            let file = some_file(&state.files, *file)?;
            let mode = if *private { 0o600 } else { 0o640 };
            state.files.get_mut(&file)?.1 = mode;
            run(format!("RUN chmod {mode:o} {file}"))
        }
        Line::Remove(file) => {
            let file = some_file(&state.files, *file)?;
            state.files.remove(&file);
            run(format!("RUN rm {file}"))
        }
        Line::Mount(file, to, stage) => {
            let stage = stage.filter(|_| !stages.is_empty()).map(|stage| stage % stages.len());
            let (source, (content, mode)) = match stage {
                Some(stage) => {
                    let source = some_file(&stages[stage].files, *file)?;
                    (source.clone(), stages[stage].files[&source].clone())
                }
                None => {
                    let name = some_file(&project.files, *file)?;
                    (format!("ctx/{name}"), project.files[&name].clone())
                }
            };
            let to = target(*to);
            let kept = state.files.get(&to).map_or(0o644, |(_, mode)| *mode);
            state.files.insert(to.clone(), (content.clone(), kept));
            let from = stage.map_or(String::new(), |stage| format!("from=s{stage},"));
            let text =
                format!("RUN --mount=type=bind,{from}source={source},target=/mounted cat /mounted > {to}");
            // Of what is mounted the content counts, and not which stage it is from.
            let command = format!("RUN --mount {source} {content:?} {mode:o} cat > {to}");
            Some(Written { text, depends: Some(format!("{command} {environment}")), from: stage })
        }
        Line::Script(word, to) => {
            let to = target(*to);
            let mode = state.files.get(&to).map_or(0o644, |(_, mode)| *mode);
            state.files.insert(to.clone(), (format!("script {word}\n"), mode));
            run(format!("RUN <<EOF\necho script {word} > {to}\nEOF"))
        }
        Line::Arg(name, value) => {
            let (name, default) = (format!("V{}", name % 3), (value % 3).to_string());
            let value = project.arguments.get(&name).unwrap_or(&default).clone();
            set(&mut state.variables, &name, &value);
            Some(Written { text: format!("ARG {name}={default}"), depends: None, from: None })
        }
        Line::Env(name, value) => {
            let (name, value) = (format!("V{}", name % 3), (value % 3).to_string());
            set(&mut state.variables, &name, &value);
            Some(Written { text: format!("ENV {name}={value}"), depends: None, from: None })
        }
        Line::CopyFile(file, to) => {
            let (name, to) = (some_file(&project.files, *file)?, target(*to));
            let (content, mode) = project.files[&name].clone();
            state.files.insert(to.clone(), (content.clone(), mode));
            let text = format!("COPY ctx/{name} {to}");
            let base = name.rsplit('/').next().unwrap();
            Some(Written {
                text,
                depends: Some(format!("COPY {base} {content:?} {mode:o} {to}")),
                from: None,
            })
        }
        Line::CopyFolder(to) => {
            let to = format!("/d{}", to % 2);
            let inside = project.files.iter().filter(|(name, _)| name.starts_with("d/"));
            let inside: Vec<_> = inside.map(|(name, file)| (name[2..].to_owned(), file.clone())).collect();
            let depends = format!("COPY d {inside:?} {to}");
            state.files.extend(inside.into_iter().map(|(name, file)| (format!("{to}/{name}"), file)));
            Some(Written { text: format!("COPY ctx/d {to}"), depends: Some(depends), from: None })
        }
        Line::CopyFrom(stage, file, to) => {
            let stage = stage.checked_rem(stages.len())?;
            let (source, to) = (some_file(&stages[stage].files, *file)?, target(*to));
            let (content, mode) = stages[stage].files[&source].clone();
            state.files.insert(to.clone(), (content.clone(), mode));
            let text = format!("COPY --from=s{stage} {source} {to}");
            let base = source.rsplit('/').next().unwrap();
            let depends = format!("COPY {base} {content:?} {mode:o} {to}");
            Some(Written { text, depends: Some(depends), from: Some(stage) })
        }
        Line::CopyText(word, to) => {
            let to = target(*to);
            state.files.insert(to.clone(), (format!("text {word}\n"), 0o644));
            let text = format!("COPY <<EOF {to}\ntext {word}\nEOF");
            Some(Written { depends: Some(text.clone()), text, from: None })
        }
        Line::Workdir(to) => {
            state.workdir = format!("/w{}", to % 2);
            let text = format!("WORKDIR {}", state.workdir);
            Some(Written { depends: Some(text.clone()), text, from: None })
        }
    }
}

fn set(variables: &mut Vec<(String, String)>, name: &str, value: &str) {
    match variables.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => value.clone_into(old),
        None => variables.push((name.to_owned(), value.to_owned())),
    }
}

/// A machine: its store, and what the model thinks is in it.
struct Machine {
    test: Test,
    cache: Cache,
}

impl Machine {
    fn new() -> Machine {
        Machine { test: Test::new(""), cache: Cache::default() }
    }

    fn build(&self, project: &Project, dockerfile: &str, options: &[&str]) -> (Image, Run) {
        project.write(&self.test);
        self.test.dockerfile(dockerfile);
        let arguments: Vec<String> =
            project.arguments.iter().map(|(name, value)| format!("--build-arg={name}={value}")).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.test.build_and_say(&[&["--explain"], options, &arguments].concat())
    }
}

/// Files without their times, as far as the model knows them all; and the config without its times.
fn essence(image: &Image) -> (BTreeMap<String, String>, String) {
    let file = |(path, entry): (&String, &crate::common::Entry)| {
        let words = format!(
            "{:?} {:o} {}:{} {:?} {:?}",
            entry.kind, entry.mode, entry.uid, entry.gid, entry.content, entry.link
        );
        (path.clone(), words)
    };
    (image.files.iter().map(file).collect(), image.config["config"].to_string())
}

fn model_files(image: &Image) -> Files {
    let ours = |path: &str| path.starts_with("/f") || path.starts_with("/d0/") || path.starts_with("/d1/");
    image
        .files
        .iter()
        .filter(|(path, entry)| ours(path) && entry.kind == Kind::File)
        .map(|(path, entry)| (path.clone(), (String::from_utf8(entry.content.clone()).unwrap(), entry.mode)))
        .collect()
}

/// The steps that ran, as often as they did, by the model's key.
fn ran(run: &Run, expected: &Expected) -> Vec<String> {
    let (_, told) = run.stderr.split_once("\nCache:\n").unwrap();
    let mut left = expected.steps.clone();
    let mut ran = Vec::new();
    for line in told.lines().filter(|line| line.starts_with("  hit   [") || line.starts_with("  miss  [")) {
        // `  miss  [s1 2/4] RUN … → why`
        let (head, text) = line[8..].split_once("] ").unwrap();
        let stage = head[1..].split(' ').next().unwrap();
        let text = text.split(" → ").next().unwrap();
        let name = format!("{stage} {text}");
        let at = left.iter().position(|(known, _)| *known == name);
        let (_, key) = left.remove(at.unwrap_or_else(|| panic!("an unknown step `{name}`:\n{told}")));
        if line.starts_with("  miss") {
            ran.push(key);
        }
    }
    assert!(left.is_empty(), "steps that were not told of: {left:#?}\n{told}");
    ran.sort();
    ran
}

#[test]
fn what_comes_from_the_cache_is_what_a_build_without_one_makes() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let (asked, seed) = (number("RBUILD_CACHE_ROUNDS"), number("RBUILD_CACHE_SEED").unwrap_or(1));
    let (rounds, begun) = (asked.unwrap_or(ROUNDS), Instant::now());
    let registry = TestRegistry::start();
    let reference = Machine::new();
    let (mut always, mut project) = (Machine::new(), Project::new(&mut Random(1)));
    let mut sometimes = Machine::new();
    let from = format!("type=registry,ref={}/cache", registry.address());
    let to = format!("{from},mode=max");
    for round in 0..rounds {
        if asked.is_none() && round > 1 && begun.elapsed() > PATIENCE {
            eprintln!("{round} of {rounds} rounds were made in time");
            break;
        }
        // Each round can be had again alone: its numbers depend on nothing before but the project.
        let mut random = Random((seed + round).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        random.below(2);
        if round % EDITS == 0 {
            project = Project::new(&mut random);
            (always, sometimes) = (Machine::new(), Machine::new());
        } else {
            project.edit(&mut random);
        }
        let expected = expect(&project, &mut always.cache);
        let (first, run) = always.build(&project, &expected.dockerfile, &["--cache-to", &to]);
        let say = format!("round {round}, seed {seed}\n{}\n{}", expected.dockerfile, run.stderr);
        assert_eq!(model_files(&first), expected.files, "not what the instructions say; {say}");
        assert_eq!(ran(&run, &expected), Vec::from_iter(expected.runs.clone()), "other steps ran; {say}");
        let (truth, _) = reference.build(&project, &expected.dockerfile, &["--no-cache"]);
        assert_eq!(essence(&first), essence(&truth), "not what a build without a cache makes; {say}");
        if random.one_in(2) {
            let (other, run) = sometimes.build(&project, &expected.dockerfile, &["--cache-from", &from]);
            assert_eq!(essence(&other), essence(&truth), "on the other store; {say}\n{}", run.stderr);
        }
    }
}
