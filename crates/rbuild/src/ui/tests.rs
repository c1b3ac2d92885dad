//! Events in, exact text out.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rbuild_engine::{Event, EventSink, Stream};
use serde_json::{Value, json};

use super::text::{Keep, clean};
use super::{Size, Ui, UiOptions, View, plain::Plain, rawjson::RawJson, tty::Tty};
use crate::args::Progress;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn started(step: usize, name: &str) -> Event<'_> {
    Event::Started { step, name }
}

fn output(step: usize, text: &str) -> Event<'_> {
    Event::Output { step, stream: Stream::Stdout, bytes: text.as_bytes() }
}

fn progress(step: usize, current: u64, total: u64) -> Event<'static> {
    Event::Progress { step, item: "sha256:abc", current, total }
}

fn done(step: usize, took: u64) -> Event<'static> {
    Event::Done { step, took: MS(took) }
}

fn fed<V: View>(mut view: V, events: &[(u64, Event<'_>)]) -> (V, String) {
    let mut out = String::new();
    for (at, event) in events {
        view.event(event, MS(*at), &mut out);
    }
    (view, out)
}

/// What `plain` writes for events at milliseconds, up to the end.
fn plain(events: &[(u64, Event<'_>)]) -> String {
    let (mut view, mut out) = fed(Plain::new(Keep::All), events);
    view.finish(MS(events.last().map_or(0, |(at, _)| *at)), &mut out);
    out
}

#[test]
fn plain_shows_one_step_after_the_other() {
    let shown = plain(&[
        (0, started(1, "[internal] load build definition from Dockerfile")),
        (20, Event::Note { step: 1, text: "transferring dockerfile: 32B" }),
        (30, done(1, 30)),
        (40, started(2, "[build 2/3] WORKDIR /src")),
        (40, Event::Cached { step: 2 }),
        (1000, started(3, "[build 3/3] RUN npm install")),
        (1334, output(3, "added 1 package\n\nfunding: ")),
        (1400, output(3, "none\nno newline")),
        (2000, Event::Failed { step: 3, message: "exit code 1\nsecond line" }),
        (2000, started(4, "[other 1/1] RUN sleep 9")),
        (2000, Event::Cancelled { step: 4 }),
    ]);
    let expected = "\
#1 [internal] load build definition from Dockerfile
#1 transferring dockerfile: 32B
#1 DONE 0.0s

#2 [build 2/3] WORKDIR /src
#2 CACHED

#3 [build 3/3] RUN npm install
#3 0.334 added 1 package
#3 0.334 
#3 0.400 funding: none
#3 1.000 no newline
#3 ERROR: exit code 1 second line

#4 [other 1/1] RUN sleep 9
#4 CANCELED

";
    assert_eq!(shown, expected);
}

#[test]
fn plain_lets_the_speaking_step_go_on_for_a_while() {
    let shown = plain(&[
        (0, started(1, "one")),
        (0, started(2, "two")),
        (100, output(1, "a\n")),
        (200, output(2, "x\n")),
        (300, output(1, "b\n")),
        // Step 2 has waited for two seconds.
        (2000, output(1, "c\n")),
        (2100, output(2, "y\n")),
        (2200, output(1, "d\n")),
        // The end of a step is told at once, and then the other one has its turn.
        (2300, done(1, 2300)),
        (2400, output(2, "z\n")),
        (2500, done(2, 2500)),
    ]);
    let expected = "\
#1 one
#1 0.100 a
#1 0.300 b
#1 2.000 c
#1 ...

#2 two
#2 0.200 x
#2 2.100 y
#2 ...

#1 one
#1 2.200 d
#1 DONE 2.3s

#2 two
#2 2.400 z
#2 DONE 2.5s

";
    assert_eq!(shown, expected);
}

#[test]
fn plain_shows_held_lines_when_time_passes() {
    let events = [(0, started(1, "one")), (0, started(2, "two")), (100, output(2, "x\n"))];
    let (mut view, mut out) = fed(Plain::new(Keep::All), &events);
    view.tick(MS(1900), &mut out);
    assert_eq!(out, "#1 one\n");
    view.tick(MS(2000), &mut out);
    assert_eq!(out, "#1 one\n#1 ...\n\n#2 two\n#2 0.100 x\n");
    out.clear();
    view.finish(MS(2000), &mut out);
    assert_eq!(out, "\n");
}

#[test]
fn plain_does_not_hold_back_much_output() {
    let much = "x\n".repeat(400_000);
    let (_, out) =
        fed(Plain::new(Keep::All), &[(0, started(1, "one")), (0, started(2, "two")), (0, output(2, &much))]);
    assert_eq!(out.lines().filter(|line| line.ends_with(" x")).count(), 400_000);
}

#[test]
fn plain_tells_what_was_waiting_when_it_ends() {
    let shown = plain(&[(0, started(1, "one")), (0, started(2, "two")), (100, output(2, "half a line"))]);
    assert_eq!(shown, "#1 one\n#1 ...\n\n#2 two\n#2 0.100 half a line\n\n");
}

#[test]
fn plain_cuts_lines_as_a_terminal_would_show_them() {
    for (written, expected) in [
        (&b"10%\r20%\r\ndone\n"[..], "#1 0.000 10%\n#1 0.000 20%\n#1 0.000 done\n"),
        (b"\xff\x00\x80\n", "#1 0.000 \u{fffd}\0\u{fffd}\n"),
        (b"\x1b[31mred\x1b[2J\n", "#1 0.000 \x1b[31mred\x1b[2J\n"),
    ] {
        let event = Event::Output { step: 1, stream: Stream::Stderr, bytes: written };
        assert_eq!(plain(&[(0, started(1, "s")), (0, event)]), format!("#1 s\n{expected}\n"));
    }
}

#[test]
fn plain_on_a_terminal_keeps_colours_only() {
    let events =
        [(0, started(1, "RUN printf '\x1b[2J\n'")), (0, output(1, "\x1b[31mred\x1b[2J\x1b]0;t\x07!\n"))];
    let (_, out) = fed(Plain::new(Keep::Colours), &events);
    assert_eq!(out, "#1 RUN printf ' '\n#1 0.000 \x1b[31mred!\x1b[0m\n");
}

#[test]
fn plain_loses_precision_with_time_as_buildkit_does() {
    let shown = plain(&[
        (0, started(1, "s")),
        (9_999, output(1, "a\n")),
        (12_345, output(1, "b\n")),
        (123_456, output(1, "c\n")),
    ]);
    assert_eq!(shown, "#1 s\n#1 9.999 a\n#1 12.35 b\n#1 123.5 c\n\n");
}

#[test]
fn plain_counts_bytes_now_and_then() {
    let shown = plain(&[
        (0, started(1, "FROM alpine")),
        (100, progress(1, 0, 3_410_000)),
        (200, progress(1, 1_000, 3_410_000)),
        (5_200, progress(1, 1_050_000, 3_410_000)),
        (5_300, progress(1, 1_060_000, 3_410_000)),
        (5_400, progress(1, 3_410_000, 3_410_000)),
        (5_500, progress(1, 3_410_000, 3_410_000)),
        (5_600, Event::Progress { step: 1, item: "unknown", current: 7_000, total: 0 }),
        (5_700, done(1, 5_700)),
    ]);
    let expected = "\
#1 FROM alpine
#1 sha256:abc 1.05MB / 3.41MB 5.1s
#1 sha256:abc 3.41MB / 3.41MB 5.3s done
#1 unknown 7.00kB 0.1s
#1 DONE 5.7s

";
    assert_eq!(shown, expected);
}

fn terminal(columns: usize, rows: usize) -> Box<dyn Fn() -> Size + Send> {
    Box::new(move || Size { columns, rows })
}

/// The visible rows of a frame.
fn rows(frame: &str) -> Vec<String> {
    frame.lines().map(|line| clean(line, Keep::Nothing)).filter(|line| !line.is_empty()).collect()
}

/// The rows that `tty` shows at `now` for events at milliseconds.
fn frame(size: (usize, usize), now: u64, events: &[(u64, Event<'_>)]) -> Vec<String> {
    let (mut view, mut out) = fed(Tty::new(terminal(size.0, size.1), 2, true), events);
    view.tick(MS(now), &mut out);
    rows(&out)
}

fn a_build() -> Vec<(u64, Event<'static>)> {
    vec![
        (0, started(1, "[build 1/3] FROM alpine")),
        (10, progress(1, 1_000, 2_000)),
        (110, progress(1, 2_000, 2_000)),
        (200, done(1, 200)),
        (200, started(2, "[build 2/3] WORKDIR /日本")),
        (200, Event::Cached { step: 2 }),
        (300, started(3, "[build 3/3] RUN npm install --no-audit --no-fund")),
        (400, output(3, "one\n10%\r20%\rtwo\tx\x1b[2J\nthree\nfour")),
        (400, started(4, "[test 1/1] RUN false")),
        (500, Event::Note { step: 4, text: "a note" }),
    ]
}

#[test]
fn tty_shows_steps_with_their_times() {
    let expected = [
        "[+] Building 8.4s (2/4)",
        " => [build 1/3] FROM alpine        0.2s",
        " => => sha256:abc 2.00kB / 2.00kB  0.1s",
        " => CACHED [build 2/3] WORKDIR /日 0.0s",
        " => [build 3/3] RUN npm install -- 8.1s",
        " => => # two     x",
        " => => # three",
        " => [test 1/1] RUN false           8.0s",
        " => => a note",
    ];
    assert_eq!(frame((39, 24), 8400, &a_build()), expected);
}

#[test]
fn tty_leaves_out_the_least_important_rows() {
    let expected = [
        "[+] Building 8.4s (2/4)",
        " => CACHED [build 2/3] WORKDIR /日 0.0s",
        " => [build 3/3] RUN npm install -- 8.1s",
        " => => # two     x",
        " => => # three",
        " => [test 1/1] RUN false           8.0s",
        " => => a note",
    ];
    assert_eq!(frame((39, 8), 8400, &a_build()), expected);
    assert_eq!(frame((39, 3), 8400, &a_build()), ["[+] Building 8.4s (2/4)", expected[5]]);
    assert_eq!(frame((39, 1), 8400, &a_build()), ["[+] Building 8.4s (2/4)"]);
}

#[test]
fn tty_survives_any_size() {
    for columns in 0..40 {
        for height in [0, 1, 2, 30] {
            for row in frame((columns, height), 8400, &a_build()) {
                assert!(super::text::width(&row) <= columns, "{row:?} in {columns}");
            }
        }
    }
}

#[test]
fn tty_leaves_the_final_state() {
    let mut events = a_build();
    events.push((9000, Event::Failed { step: 4, message: "exit code 1" }));
    events.push((9000, Event::Cancelled { step: 3 }));
    let (mut view, mut out) = fed(Tty::new(terminal(39, 4), 2, true), &events);
    view.finish(MS(9000), &mut out);
    let expected = [
        "[+] Building 9.0s (4/4) FINISHED",
        " => [build 1/3] FROM alpine        0.2s",
        " => => sha256:abc 2.00kB / 2.00kB  0.1s",
        " => CACHED [build 2/3] WORKDIR /日 0.0s",
        " => CANCELED [build 3/3] RUN npm i 8.7s",
        " => ERROR [test 1/1] RUN false     8.6s",
        " => => a note",
    ];
    assert_eq!(rows(&out), expected);
    assert!(out.contains("\x1b[31m => ERROR") && out.ends_with("\x1b[?25h"), "{out:?}");
}

#[test]
fn tty_draws_over_the_last_frame_and_only_what_changed() {
    let columns = Arc::new(AtomicU64::new(40));
    let asked = Arc::clone(&columns);
    let size = move || Size { columns: asked.load(Ordering::Relaxed) as usize, rows: 24 };
    let (mut view, mut out) =
        fed(Tty::new(Box::new(size), 6, false), &[(0, started(1, "a")), (0, Event::Cached { step: 1 })]);
    view.tick(MS(0), &mut out);
    assert!(out.starts_with("\x1b[?25l\r\x1b[J\x1b[2K[+]"), "nothing to go up to: {out:?}");
    out.clear();
    view.tick(MS(10), &mut out);
    assert_eq!(out, "", "the same frame again");
    view.tick(MS(100), &mut out);
    assert!(out.starts_with("\x1b[?25l\r\x1b[2A\x1b[2K[+] Building 0.1s (1/1)\n"), "{out:?}");
    out.clear();
    // Two rows of 23 and 40 columns were wrapped to three and four.
    columns.store(10, Ordering::Relaxed);
    view.tick(MS(100), &mut out);
    assert!(out.starts_with("\x1b[?25l\r\x1b[7A\x1b[J"), "{out:?}");
}

#[test]
fn rawjson_is_buildkits_solve_status() {
    let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let events = [
        (0, started(1, "[1/2] FROM \"x\"")),
        (250, Event::Output { step: 1, stream: Stream::Stderr, bytes: b"\xff\n" }),
        (300, progress(1, 5, 10)),
        (400, progress(1, 10, 10)),
        (500, done(1, 500)),
        (500, started(2, "two")),
        (500, Event::Cached { step: 2 }),
        (600, started(3, "three")),
        (700, Event::Failed { step: 3, message: "exit code 1" }),
        (700, started(4, "four")),
        (800, Event::Cancelled { step: 4 }),
        (900, Event::Warning { text: "old" }),
        (900, Event::Note { step: 4, text: "n" }),
    ];
    let (_, out) = fed(RawJson::new(epoch), &events);
    let documents: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let id = documents[0]["vertexes"][0]["digest"].as_str().unwrap().to_owned();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    let start = "2023-11-14T22:13:20Z";
    assert_eq!(
        documents[0],
        json!({"vertexes": [{"digest": id, "name": "[1/2] FROM \"x\"", "started": start}]})
    );
    assert_eq!(
        documents[1],
        json!({"logs": [{"vertex": id, "stream": 2, "data": "/wo=", "timestamp": "2023-11-14T22:13:20.25Z"}]})
    );
    let status = json!({"id": "sha256:abc", "vertex": id, "current": 10, "total": 10,
        "started": "2023-11-14T22:13:20.3Z", "timestamp": "2023-11-14T22:13:20.4Z",
        "completed": "2023-11-14T22:13:20.4Z"});
    assert_eq!(documents[2]["statuses"][0].get("completed"), None);
    assert_eq!(documents[3], json!({"statuses": [status]}));
    assert_eq!(
        documents[4],
        json!({"vertexes": [{"digest": id, "name": "[1/2] FROM \"x\"", "started": start,
            "completed": "2023-11-14T22:13:20.5Z"}]})
    );
    assert_eq!(documents[6]["vertexes"][0]["cached"], true);
    assert_ne!(documents[6]["vertexes"][0]["digest"], id);
    assert_eq!(documents[8]["vertexes"][0]["error"], "exit code 1");
    assert_eq!(documents[10]["vertexes"][0]["error"], "context canceled");
    assert_eq!(documents[11], json!({"warnings": [{"level": 1, "short": "b2xk"}]}));
    assert_eq!(documents[12]["statuses"][0]["id"], "n");
}

/// An output that can be read while the [`Ui`] has it.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a [`Ui`] with a standing clock writes for one step and a warning.
fn whole(progress: Progress, terminal: bool) -> String {
    let out = Captured::default();
    let options = UiOptions {
        progress,
        terminal,
        colour: false,
        size: self::terminal(30, 9),
        log_lines: 6,
        explain: false,
    };
    let ui = Ui::new(options, Box::new(out.clone()), Box::new(|| MS(0)), SystemTime::UNIX_EPOCH);
    ui.event(started(1, "a"));
    ui.event(Event::Warning { text: "an old\noption" });
    ui.event(done(1, 0));
    ui.finish();
    ui.event(done(1, 0));
    let written = out.text();
    drop(ui);
    assert_eq!(out.text(), written, "nothing is written twice");
    written
}

#[test]
fn the_form_follows_the_request_and_the_output() {
    let plain = "#1 a\n#1 DONE 0.0s\n\nwarning: an old\n         option\n";
    for (progress, terminal) in
        [(Progress::Auto, false), (Progress::Tty, false), (Progress::Plain, false), (Progress::Plain, true)]
    {
        assert_eq!(whole(progress, terminal), plain, "{progress:?}");
    }
    for progress in [Progress::Auto, Progress::Tty] {
        let shown = rows(&whole(progress, true));
        let last = &shown[shown.len() - 4..];
        let step = format!(" => a{}0.0s", " ".repeat(21));
        let expected = ["[+] Building 0.0s (1/1) FINISHED", &step, "warning: an old", "         option"];
        assert_eq!(last[1..], expected[1..]);
        assert_eq!(last[0], expected[0][..30]);
    }
    for progress in [Progress::Quiet, Progress::None] {
        assert_eq!(whole(progress, true), "");
    }
    let json = whole(Progress::Rawjson, true);
    assert_eq!(json.lines().count(), 3, "{json}");
}

#[test]
fn a_dropped_ui_leaves_what_it_knows() {
    let out = Captured::default();
    let options = UiOptions {
        progress: Progress::Plain,
        terminal: false,
        colour: false,
        size: terminal(80, 24),
        log_lines: 6,
        explain: false,
    };
    let ui = Ui::new(options, Box::new(out.clone()), Box::new(|| MS(0)), SystemTime::UNIX_EPOCH);
    ui.event(started(1, "a"));
    ui.event(output(1, "no newline"));
    drop(ui);
    assert_eq!(out.text(), "#1 a\n#1 0.000 no newline\n\n");
}

#[test]
fn events_of_many_threads_keep_their_lines_whole() {
    let out = Captured::default();
    let options = UiOptions {
        progress: Progress::Plain,
        terminal: false,
        colour: false,
        size: terminal(80, 24),
        log_lines: 6,
        explain: false,
    };
    let ui = Ui::new(options, Box::new(out.clone()), Box::new(|| MS(0)), SystemTime::UNIX_EPOCH);
    std::thread::scope(|scope| {
        for step in 1..=4 {
            let ui = &ui;
            scope.spawn(move || {
                ui.event(started(step, "s"));
                for _ in 0..100 {
                    ui.event(output(step, "hal"));
                    ui.event(output(step, "ves\n"));
                }
                ui.event(done(step, 0));
            });
        }
    });
    drop(ui);
    for step in 1..=4 {
        let line = format!("#{step} 0.000 halves");
        assert_eq!(out.text().lines().filter(|shown| *shown == line).count(), 100);
    }
}
