//! The agent as a program of its own, for machines that have nothing else of this system.

use std::process::ExitCode;

use clap::Parser;

/// Fetches what this instance is to be, sets it up, runs its worker, and obeys orders.
#[derive(Debug, Parser)]
#[command(
    name = "epu-agent",
    version,
    after_help = "Settings come from the environment; whoever launches the instance puts them there:
  EPU_HOME    the instance's directory, in which `launch-token` lies
  EPU_URL     where the provisioner answers, such as http://127.0.0.1:7311 or https://epu.example.org:7311
  EPU_CA      the certificates to believe, and no others: a PEM file, by its path in EPU_HOME
  EPU_LAUNCH  the launch that the instance came from
  EPU_INDEX   its place in that launch, from 0; `metadata`: as the machine's metadata says
  EPU_METADATA  where a rented machine's metadata is, such as http://169.254.169.254; it also says when the site takes the machine away
  EPU_LOG     error, warn, info (default) or debug

Exit codes: 0 stopped or drained; 1 the directory or the system failed it; 2 settings are wrong; 3 another agent runs in the
directory; 4 the claim was refused; 5 no context came; 6 no worker and no contact for an hour;
7 the machine's metadata did not give its index."
)]
struct Arguments {}

fn main() -> ExitCode {
    Arguments::parse();
    epu_agent::start()
}
