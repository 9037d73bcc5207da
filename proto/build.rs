//! Compiles the `.proto` files with a compiler written in Rust, so that building needs no `protoc`.

#![allow(clippy::print_stdout)] // how a build script speaks to cargo

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=caisson");
    let files =
        protox::compile(["caisson/v1/types.proto", "caisson/v1/agent.proto", "caisson/v1/client.proto", "caisson/v1/fleet.proto"], ["."])?;
    tonic_prost_build::configure().skip_debug(["OpenSecretsAnswer.Secret", "EnrollRequest", "CreateTokenAnswer"]).compile_fds(files)?;
    Ok(())
}
