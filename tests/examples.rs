//! The example project's own workflow passes.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use place::{Place, Run};

#[test]
fn polls_passes() {
    let place = Place::new();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/polls");
    let mut command = place.caisson(&["run", "--json", example]);
    // The operator's own package index and certificates, where they are configured by variables or a file.
    for (name, value) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("PIP_") || text.ends_with("_CERT_FILE") || text == "REQUESTS_CA_BUNDLE" || text == "PYENV_ROOT" {
            command.env(&name, value);
        }
    }
    let run = Run::of(command.output().unwrap());
    run.expect(0);
    assert_eq!(run.objects.last().unwrap()["outcome"], "success");
    // Only installing went anywhere.
    for entry in run.of_type("egress") {
        let step = entry["step_name"].as_str().unwrap();
        assert!(step == "Install" || step.contains("setup-python"), "{entry}");
        assert_eq!(entry["verdict"], "allowed", "{entry}");
    }
}
