//! What a step writes to `GITHUB_ENV` and its like.
#![no_main]

#[path = "../../agent/src/command_files.rs"]
#[allow(dead_code)]
mod command_files;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(entries) = command_files::entries(bytes) {
        assert!(entries.iter().all(|(name, value)| !name.is_empty() && !name.contains('\n') && !value.contains('\0')));
        // A value that is written down again in the form with a delimiter is read as the same.
        let plain = |(name, value): &&(String, String)| !name.contains(['<', '=']) && !value.contains("caisson-delimiter");
        if let Some((name, value)) = entries.first().filter(plain) {
            let again = format!("{name}<<caisson-delimiter\n{value}\ncaisson-delimiter\n");
            let value = value.strip_suffix('\r').unwrap_or(value);
            assert_eq!(command_files::entries(again.as_bytes()).unwrap()[0].1.trim_end_matches('\r'), value.trim_end_matches('\r'));
        }
    }
    if let Ok(lines) = command_files::lines(bytes) {
        assert!(lines.iter().all(|line| !line.is_empty() && !line.contains('\n') && !line.contains('\0')));
    }
});
