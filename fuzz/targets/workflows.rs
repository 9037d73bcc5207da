//! Workflow files: a plan or diagnostics that lie within the text.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let submission = caisson_model::run::Submission::default();
    if let Err(diagnostics) = caisson_workflow::plan(text, "fuzz.yml", &submission) {
        assert!(!diagnostics.is_empty());
        for diagnostic in diagnostics {
            assert!(!format!("{diagnostic:?}").is_empty());
        }
    }
});
