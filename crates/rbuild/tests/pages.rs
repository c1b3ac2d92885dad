//! What a browser makes of the page of a build's timing.

use std::fs;

use crate::common::{Test, in_browser};

/// A script for the page of timings: how wide the axis is, and of each bar its class, place and colour.
const MEASURE: &str = "<script>
const axis = document.querySelector('svg').getBoundingClientRect();
const bars = [...document.querySelectorAll('svg g rect')].map(bar => {
  const at = bar.getBoundingClientRect();
  const inside = at.left >= axis.left && at.right <= axis.right + 1 && at.width > 0 && at.height > 0;
  return `${bar.getAttribute('class')} ${inside} ${getComputedStyle(bar).fill}`;
});
document.body.textContent = bars.join('|');
</script></body>";

#[test]
fn the_bars_of_timings_can_be_seen() {
    let test = Test::new(
        "FROM busybox AS one\nRUN sleep 0.2; echo > /f\nFROM busybox\nCOPY --from=one /f /f\nRUN sleep 0.1\n",
    );
    let page = test.beside("timings.html");
    test.run(&[&format!("--timings={}", page.display())]).succeeds();
    let with_script = fs::read_to_string(&page).unwrap().replace("</body>", MEASURE);
    fs::write(&page, with_script).unwrap();
    let Some(dom) = in_browser(&test, &format!("file://{}", page.display())) else { return };
    let body = dom.split_once("<body>").map_or(dom.as_str(), |(_, body)| body).split('<').next().unwrap();
    let bars: Vec<&str> = body.split('|').collect();
    let runs: Vec<&&str> = bars.iter().filter(|bar| bar.starts_with("run")).collect();
    assert_eq!(runs.len(), 2, "{dom}");
    for bar in &bars {
        assert!(bar.contains(" true rgb"), "outside the axis, or without colour: {bar}\n{dom}");
    }
    let copy = bars.iter().find(|bar| bar.starts_with("copy")).expect("COPY has a bar");
    assert_ne!(copy.split(" true ").nth(1), runs[0].split(" true ").nth(1), "kinds are told apart by colour");
}
