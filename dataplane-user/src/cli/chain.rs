//! `dataplane chain`.

use clap::Subcommand;

use super::{
    care::CareArgs,
    rule,
    session::{Session, unexpected},
    table::{LEFT, RIGHT, table},
};
use crate::{
    control::protocol::{Data, Request},
    rule::ChainName,
};

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  dataplane chain list\n  dataplane chain policy forward drop --confirm 60")]
pub(super) enum Chain {
    /// List the chains with their policies
    #[command(
        visible_alias = "show",
        aliases = ["ls", "lst"],
        after_help = "Examples:\n  dataplane chain list\n  dataplane chain list -j"
    )]
    List,
    /// Set what becomes of packets that no rule of a chain decides
    #[command(after_help = "Example:\n  dataplane chain policy forward drop --confirm 60")]
    Policy {
        /// The chain
        #[arg(value_name = "CHAIN", value_parser = rule::chain())]
        chain: ChainName,
        /// The policy
        #[arg(value_name = "POLICY", value_parser = ["accept", "drop"])]
        policy: String,
        #[command(flatten)]
        care: CareArgs,
    },
}

impl Chain {
    pub(super) fn dispatch(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Policy { chain, policy, care } => {
                session.change(&care.around(Request::ChainPolicy { chain, policy }))?;
                care.remind();
                Ok(())
            }
            Self::List => match session.call(&Request::ChainList)? {
                Data::Chains(rows) => session.print(&rows, || {
                    let lines =
                        rows.iter().map(|row| [row.chain.to_string(), row.policy.clone(), row.rules.to_string()]);
                    table([("CHAIN", LEFT), ("POLICY", LEFT), ("RULES", RIGHT)], lines)
                }),
                data => Err(unexpected(&data)),
            },
        }
    }
}
