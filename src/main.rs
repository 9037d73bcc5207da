//! The `caisson` command: composition of the other crates, and nothing else.

mod artifacts;
mod cells;
mod chain;
mod cli;
mod clock;
mod commands;
mod config;
mod controller_config;
mod embedded;
mod follow;
mod generated;
mod git;
mod given;
mod learn;
mod machine;
mod mirror;
mod opening;
mod plans;
mod policy_file;
mod project;
mod quantity;
mod reach;
mod references;
mod regular;
mod report;
mod sandboxing;
mod sarif;
mod selection;
mod source;
mod state;
mod table;
mod trust;
mod unpack;
mod view;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Color, Command};
use crate::report::Exit;

fn main() -> ExitCode {
    // This program is also the launcher and the init of every sandbox: those roles come before anything else.
    if let Some(code) = caisson_sandbox::launcher::entry() {
        return ExitCode::from(u8::try_from(code).unwrap_or(Exit::OURS.0));
    }
    // What follows may read what a launcher must not know.
    let ahead = commands::exec::ahead::if_asked();
    // And the attacker of `caisson selftest`.
    if let Some(code) = caisson_selftest::hostile::entry() {
        return ExitCode::from(u8::try_from(code).unwrap_or(Exit::OURS.0));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            drop(ahead);
            error.exit()
        }
    };
    match cli.color {
        Color::Auto => {}
        Color::Always => {
            console::set_colors_enabled(true);
            console::set_colors_enabled_stderr(true);
        }
        Color::Never => {
            console::set_colors_enabled(false);
            console::set_colors_enabled_stderr(false);
        }
    }
    report::trace(match &cli.command {
        Command::Controller(controller) => Some(controller.log_format),
        Command::Agent(agent) => Some(agent.log_format),
        _ => None,
    });
    let result = match cli.command {
        Command::Actions(arguments) => commands::actions::run(arguments),
        Command::Config(arguments) => commands::config::run(arguments),
        Command::Trust(arguments) => commands::trust::run(&arguments),
        Command::Check(arguments) => commands::check::run(&arguments),
        Command::Plan(arguments) => commands::plan::run(&arguments),
        Command::Init(arguments) => commands::generate::run(&arguments),
        Command::Eval(arguments) => commands::eval::run(&arguments),
        Command::Doctor(arguments) => commands::doctor::run(arguments),
        Command::Selftest(arguments) => commands::selftest::run(arguments),
        Command::Exec(arguments) => commands::exec::run(*arguments, ahead),
        Command::Run(arguments) => commands::run::run(*arguments),
        Command::Submit(arguments) => commands::submit::run(*arguments),
        Command::Controller(arguments) => commands::controller::run(*arguments),
        Command::Agent(arguments) => commands::agent::run(*arguments),
        Command::Runs(arguments) => commands::runs::run(arguments),
        Command::Show(arguments) => commands::show::run(arguments),
        Command::Ledger(arguments) => commands::ledger::run(arguments),
        Command::Logs(arguments) => commands::logs::run(arguments),
        Command::Cancel(arguments) => commands::cancel::run(arguments),
        Command::Rerun(arguments) => commands::rerun::run(arguments),
        Command::Agents(arguments) => commands::agents::run(arguments),
        Command::Cordon(arguments) => commands::agents::cordon(arguments),
        Command::Drain(arguments) => commands::agents::drain(arguments),
        Command::Explain(arguments) => commands::explain::run(arguments),
        Command::Token(arguments) => commands::token::run(*arguments),
        Command::Completions(arguments) => commands::completions::run(&arguments),
    };
    let exit = result.unwrap_or_else(|failure| {
        report::say(&failure.render());
        failure.exit()
    });
    ExitCode::from(exit.0)
}
