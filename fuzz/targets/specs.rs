//! The spec as it is handed to the launcher: read from bytes, written down again and read as the same.
#![no_main]

use caisson_sandbox::spec::Spec;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(spec) = postcard::from_bytes::<Spec>(bytes) else { return };
    let written = postcard::to_stdvec(&spec).unwrap();
    let again: Spec = postcard::from_bytes(&written).unwrap();
    assert_eq!(format!("{spec:?}"), format!("{again:?}"));
});
