//! Scenarios: a router in a namespace, driven through the command line as its user would, judged by what arrives.
//!
//! One scenario at a time: they count what the machine holds, and share two processors.

mod scene;

mod config;
mod deliver;
mod detach;
mod exclusive;
mod filter;
mod fragment;
mod icmp;
mod mode;
mod mtu;
mod neighbour;
mod netfilter;
mod peer;
mod policy;
mod rebind;
mod route;
mod scale;
mod survive;
mod vlan;
