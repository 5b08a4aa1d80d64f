//! Decisions that need nothing but the packet and a port: what `ip_rcv`, `ip6_rcv` and the route input code look at.
