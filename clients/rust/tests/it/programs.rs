//! The examples, as a user would run them.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::server::{python, root, shared};

/// Runs an example, which cargo builds with the tests; its server is in the environment.
fn run(name: &str, arguments: &[&str]) -> String {
    let tests = std::env::current_exe().unwrap();
    let path: PathBuf = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    let output = Command::new(path).args(arguments).env("OPTSERVE_SERVER", shared()).output().unwrap();
    text(&output)
}

#[track_caller]
fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Compares the table of the quickstart with what the Python demo computes.
#[test]
fn quickstart() {
    const EPOCHS: &str = "25";
    let printed = run("quickstart", &["", EPOCHS]);
    let program = "
import sys, optserve
from demo import iris
with optserve.connect(sys.argv[1]) as client:
    for run in iris.train_all(client, int(sys.argv[2])):
        print(run.optimizer, run.losses[-1], 100*run.accuracies[-1])
";
    let mut demo = python();
    demo.args(["-c", program, shared(), EPOCHS]).env("PYTHONPATH", root().join("examples"));
    let expected = text(&demo.output().unwrap());
    assert_eq!((printed.lines().count(), expected.lines().count()), (6, 5), "{printed}");
    for (found, expected) in printed.lines().skip(1).zip(expected.lines()) {
        let rows = [found, expected].map(|line| line.split_whitespace().collect::<Vec<_>>());
        let [found, expected] =
            rows.each_ref().map(|row| [1, 2].map(|cell| row[cell].trim_end_matches('%').parse::<f64>().unwrap()));
        // RMSProp's first steps amplify rounding, and the order of NumPy's sums depends on the processor.
        let [loss, accuracy] = if rows[1][0] == "RMSProp" { [0.1, 50.0] } else { [1e-6, 0.06] };
        assert_eq!(rows[0][0], rows[1][0]);
        assert!((found[0] - expected[0]).abs() < loss, "{rows:?}");
        assert!((found[1] - expected[1]).abs() < accuracy, "{rows:?}");
    }
}

#[test]
fn sync_worker() {
    let printed = run("sync_worker", &[]);
    assert!(printed.ends_with("y = 2.000 x + 1.000 after 200 steps of 2 workers\n"), "{printed}");
}
