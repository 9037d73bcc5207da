# Everything that must hold before a change lands. `just check` is what CI runs.

check: format lint test doc deny

format:
    cargo fmt --all --check

lint:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# tests/layering.rs, which holds the shape of the house, is one of them.
test:
    cargo test --workspace --locked

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

deny:
    cargo deny --locked check bans licenses sources

# What known advisories say; needs the advisory database from the network.
advisories:
    cargo deny check advisories

# pip install of a Django project: pip alone and through the package gateway, cold, warm and offline, in one run.
bench-packages:
    cargo build --release
    python3 tests/benchmarks/packages.py target/release/caisson

# The policed exit beside host loopback: connection set-up, throughput, memory for thousands of connections, in one run.
bench-exit:
    cargo build --release
    python3 tests/benchmarks/exit.py target/release/caisson

# Real processes killed, stopped and cut off while 500 jobs run: on SQLite, on PostgreSQL, and with two controllers.
faults jobs="500" faults="200":
    CAISSON_FAULT_JOBS={{jobs}} CAISSON_FAULTS={{faults}} cargo test --release --test faults --locked -- --nocapture --test-threads 1

# From submission to a step's start, no-op jobs per second, and output: a controller and an agent over loopback TLS. Then 5,000
# idle agents at one controller, and what the engine decides per second by itself.
bench-fleet:
    cargo build --release
    python3 tests/benchmarks/fleet.py target/release/caisson
    cargo bench --bench idle
    cargo bench -p caisson-controller --bench engine

# 10,000 schedules of engine, agents and a hostile network.
simulate:
    cargo test --release -p caisson-controller --lib --locked simulation -- --nocapture

# What a sandbox costs against plain spawn, bubblewrap, crun and podman, in one interleaved run: start, idleness, limits,
# `caisson exec`, 300 more mounts, rate, teardown, memory, work inside.
bench:
    cargo bench --bench start

# Django's own test suite, bare and in the sandbox, in turns.
bench-django:
    cargo build --release
    python3 tests/benchmarks/django.py target/release/caisson

# Coverage-guided fuzzing of what reads bytes of hostile making, each target for SECONDS, one after the other; what was found is kept in
# fuzz/corpus and fuzz/artifacts. Stable Rust does: nothing but coverage is asked of the compiler. Needs a C++ compiler.
fuzz seconds="600" targets="archives command_files commands masks expressions workflows specs":
    #!/usr/bin/env bash
    set -euo pipefail
    host=$(rustc -vV | sed -n 's/^host: //p')
    export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
    # With a target, so that build scripts are not made to count.
    cargo build --manifest-path fuzz/Cargo.toml --release --target "$host"
    for target in {{targets}}; do
        mkdir -p "fuzz/corpus/$target" fuzz/artifacts
        "fuzz/target/$host/release/$target" -max_total_time={{seconds}} -max_len=4096 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
            -artifact_prefix="fuzz/artifacts/$target-" "fuzz/corpus/$target" 2>&1 | tail -n 12
    done

# Very many short steps from several threads under load: no exit lost, nothing left. Fails otherwise.
soak STEPS="10000":
    cargo bench -p caisson-sandbox --bench soak -- {{STEPS}}
