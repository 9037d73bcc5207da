//! How fast the masker is: `cargo run --release -p caisson-agent --example mask_throughput`. Prints megabytes per second.

use std::time::Instant;

use caisson_agent::mask::Masker;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut values = Vec::new();
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..16 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        values.push(format!("tok_{state:016x}/{:x}", state >> 32));
    }
    let mut masker = Masker::new(&values)?;
    let line = b"test_create_question (polls.tests.QuestionModelTests.test_create_question) ... ok  tok_ 0x7f3a c29t\n";
    let mut chunk: Vec<u8> = line.iter().copied().cycle().take(64 * 1024).collect();
    chunk[30_000..30_000 + values[3].len()].copy_from_slice(values[3].as_bytes());
    let rounds = 4096;
    let mut out = Vec::with_capacity(2 * chunk.len());
    masker.push(&chunk, &mut out);
    let begun = Instant::now();
    let mut total = 0;
    for _ in 0..rounds {
        out.clear();
        masker.push(&chunk, &mut out);
        total += out.len();
    }
    let seconds = begun.elapsed().as_secs_f64();
    let megabytes = (rounds * chunk.len()) as f64 / 1e6;
    writeln_out(&format!("{masker:?}: {:.0} MB/s, {total} bytes out", megabytes / seconds))
}

fn writeln_out(line: &str) -> Result<(), Box<dyn std::error::Error>> {
    use std::io::Write;
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
