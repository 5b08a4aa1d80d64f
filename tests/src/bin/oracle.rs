//! `oracle`: compares dataplane with the kernel, packet by packet.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use dataplane_tests::{
    lab::{Need, clear_own},
    oracle::{MODES, Order, run, stateful},
};

/// Two routers, one with dataplane, one without; the same frames into both; what comes out is compared. Needs root.
#[derive(Debug, Parser)]
#[command(name = "oracle", version)]
struct Cli {
    /// Frames in all
    #[arg(long, default_value_t = 20_000)]
    packets: u64,
    /// What the frames are made from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only topologies whose name contains this
    #[arg(long)]
    picture: Option<String>,
    /// Only this mode
    #[arg(long, value_parser = MODES)]
    mode: Option<String>,
    /// Only connections through rules of netfilter
    #[arg(long)]
    connections: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let Cli { packets, seed, picture, mode, connections } = Cli::parse();
    let unmet: Vec<_> = [
        Need::Root,
        Need::Tool("ip"),
        Need::Tool("ethtool"),
        Need::Tool("nsenter"),
        Need::Tool("sysctl"),
        Need::Tool("nft"),
    ]
    .iter()
    .filter_map(|need| need.unmet())
    .collect();
    anyhow::ensure!(unmet.is_empty(), "can not compare here: {}", unmet.join(", "));
    ctrlc::set_handler(|| {
        clear_own();
        std::process::exit(130);
    })
    .context("can not handle signals")?;
    let order = Order { packets, seed, picture, mode };
    if !connections {
        run(&order)?;
    }
    stateful::run(&order)?;
    Ok(ExitCode::SUCCESS)
}
