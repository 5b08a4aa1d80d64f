//! Scenarios: a router in a namespace, driven through the command line as its user would, judged by what arrives.
//!
//! One scenario at a time: they count what the machine holds, and share two processors.

mod prefix;
mod scene;

mod answer;
mod bgp;
mod bond;
mod bridge;
mod card;
mod commit;
mod config;
mod deliver;
mod detach;
mod doctor;
mod exclusive;
mod explain;
mod fault;
mod filter;
mod flap;
mod fragment;
mod heartbeat;
mod hostile;
mod icmp;
mod import;
mod ipsec;
mod ipv6;
mod lab;
mod link;
mod log;
mod loss;
mod metrics;
mod mirror;
mod mode;
mod mtu;
mod neighbour;
mod netfilter;
mod passage;
mod peer;
mod policy;
mod privilege;
mod reader;
mod ready;
mod rebind;
mod reject;
mod route;
mod scale;
mod set;
mod state;
mod survive;
mod taken;
mod top;
mod trace;
mod truth;
mod vlan;
mod vrf;
