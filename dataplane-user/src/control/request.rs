//! What requests are: changes, large ones, lists; and how they are called.

use super::protocol::Request;

impl Request {
    /// Whether it changes anything: only root and the daemon's own user may ask for that.
    pub fn is_change(&self) -> bool {
        match self {
            Self::Attach { .. }
            | Self::Detach(_)
            | Self::RuleAdd { .. }
            | Self::RuleInsert { .. }
            | Self::RuleReplace { .. }
            | Self::ChainPolicy { .. }
            | Self::SetCreate { .. }
            | Self::SetDestroy { .. }
            | Self::Careful(_)
            | Self::RuleDel { .. }
            | Self::RuleFlush { .. }
            | Self::SetAdd { .. }
            | Self::SetDel { .. }
            | Self::ConfigApply(_)
            | Self::ConfigConfirm
            | Self::ConfigRollback
            | Self::FlowDel { .. }
            | Self::FlowFlush
            | Self::SteerAdd { .. }
            | Self::SteerDel { .. }
            // Packets are for the eyes of those who could capture them anyway.
            | Self::Trace { .. } => true,
            Self::PortList
            | Self::RouteList { .. }
            | Self::RouteGet { .. }
            | Self::NeighList
            | Self::SocketList
            | Self::SteerList
            | Self::FlowList { .. }
            | Self::RuleList { .. }
            | Self::ChainList
            | Self::SetList { .. }
            | Self::ConfigShow
            | Self::ConfigDiff(_)
            | Self::ConfigHistory
            | Self::Status
            | Self::Stats { .. }
            | Self::Metrics
            | Self::Explain { .. }
            | Self::Doctor
            | Self::Whereabouts => false,
        }
    }

    /// Whether a rollback of the config takes it back, so that it may wait for confirmation.
    pub fn can_wait(&self) -> bool {
        matches!(
            self,
            Self::Attach { .. }
                | Self::Detach(_)
                | Self::RuleAdd { .. }
                | Self::RuleInsert { .. }
                | Self::RuleReplace { .. }
                | Self::RuleDel { .. }
                | Self::RuleFlush { .. }
                | Self::ChainPolicy { .. }
                | Self::SetAdd { .. }
                | Self::SetDel { .. }
                | Self::SetCreate { .. }
                | Self::SetDestroy { .. }
        )
    }

    /// Whether it asks for what takes long, whoever answers it: a config, or packets that are tried.
    pub fn is_large(&self) -> bool {
        matches!(
            self,
            Self::FlowList { .. }
                | Self::SocketList
                | Self::SteerList
                | Self::ConfigDiff(_)
                | Self::ConfigShow
                | Self::ConfigHistory
                | Self::Explain { .. }
                // It reads the config file.
                | Self::Status
        )
    }

    /// Whether its answer is a list that may be long, and comes in pages.
    pub fn is_listing(&self) -> bool {
        matches!(self, Self::RouteList { .. } | Self::RuleList { .. } | Self::SetList { .. } | Self::NeighList)
    }

    /// How it is called on the command line.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Attach { .. } => "attach",
            Self::Detach(_) => "detach",
            Self::PortList => "port list",
            Self::RouteList { .. } => "route list",
            Self::RouteGet { .. } => "route get",
            Self::NeighList => "neigh list",
            Self::SocketList => "socket list",
            Self::SteerList => "steer list",
            Self::SteerAdd { replace: false, .. } => "steer add",
            Self::SteerAdd { .. } => "steer replace",
            Self::SteerDel { .. } => "steer del",
            Self::FlowList { .. } => "flow list",
            Self::FlowDel { .. } => "flow del",
            Self::FlowFlush => "flow flush",
            Self::RuleList { .. } => "rule list",
            Self::RuleAdd { .. } => "rule add",
            Self::RuleInsert { .. } => "rule insert",
            Self::RuleReplace { .. } => "rule replace",
            Self::ChainList => "chain list",
            Self::ChainPolicy { .. } => "chain policy",
            Self::SetCreate { .. } => "set create",
            Self::SetDestroy { .. } => "set destroy",
            Self::Careful(careful) => careful.change.verb(),
            Self::RuleDel { .. } => "rule del",
            Self::RuleFlush { .. } => "rule flush",
            Self::SetList { .. } => "set list",
            Self::SetAdd { .. } => "set add",
            Self::SetDel { .. } => "set del",
            Self::ConfigShow => "config show",
            Self::ConfigDiff(_) => "config diff",
            Self::ConfigApply(_) => "config apply",
            Self::ConfigConfirm => "config confirm",
            Self::ConfigRollback => "config rollback",
            Self::ConfigHistory => "config history",
            Self::Status => "status",
            Self::Stats { .. } => "stats",
            Self::Metrics => "metrics",
            Self::Explain { .. } => "explain",
            Self::Trace { .. } => "trace",
            Self::Doctor => "doctor",
            Self::Whereabouts => "whereabouts",
        }
    }
}
