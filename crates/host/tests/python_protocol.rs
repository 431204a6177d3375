//! The Python side of the engines' protocol, by its own tests: they need Python, and no package.

use std::path::Path;
use std::process::Command;

#[test]
fn the_python_side_passes_its_tests() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/protocol/python/test_protocol.py");
    let output = match Command::new("python3").arg("-B").arg(&tests).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("left out: the protocol in Python, because python3 does not start: {error}");
            return;
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("Ran "), "no test ran: {said}");
}
