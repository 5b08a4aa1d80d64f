//! The standard picture: two hosts and a router between them.

use super::Lab;

/// One end of a link in the standard picture.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// The namespace.
    pub namespace: &'static str,
    /// The interface.
    pub port: &'static str,
    /// Its link address.
    pub mac: &'static str,
    /// Its IPv4 address, in a /24.
    pub v4: &'static str,
    /// Its IPv6 address, in a /64.
    pub v6: &'static str,
}

/// The client's end.
pub const CLIENT: End =
    End { namespace: "client", port: "eth0", mac: "02:00:00:00:00:02", v4: "198.18.0.2", v6: "2001:db8:0::2" };
/// The router's end towards the client.
pub const ROUTER_CLIENT: End =
    End { namespace: "router", port: "client0", mac: "02:00:00:00:00:01", v4: "198.18.0.1", v6: "2001:db8:0::1" };
/// The router's end towards the server.
pub const ROUTER_SERVER: End =
    End { namespace: "router", port: "server0", mac: "02:00:00:00:01:01", v4: "198.18.1.1", v6: "2001:db8:1::1" };
/// The server's end.
pub const SERVER: End =
    End { namespace: "server", port: "eth0", mac: "02:00:00:00:01:02", v4: "198.18.1.2", v6: "2001:db8:1::2" };

impl Lab {
    /// Two hosts and a router that forwards both families; offloads as the kernel made them.
    ///
    /// ```text
    ///  client                          router                          server
    ///  eth0 ------------------ client0        server0 ------------------ eth0
    ///  198.18.0.2/24           198.18.0.1/24  198.18.1.1/24     198.18.1.2/24
    ///  2001:db8:0::2/64     2001:db8:0::1/64  2001:db8:1::1/64  2001:db8:1::2/64
    ///  default via .0.1                                         default via .1.1
    /// ```
    pub fn router() -> anyhow::Result<Self> {
        let mut lab = Self::new()?;
        for name in ["client", "router", "server"] {
            lab.add(name)?;
        }
        for (host, gateway) in [(CLIENT, ROUTER_CLIENT), (SERVER, ROUTER_SERVER)] {
            lab.link(host, gateway)?;
            let namespace = lab.namespace(host.namespace);
            namespace.run(&format!("ip route add default via {}", gateway.v4))?;
            namespace.run(&format!("ip -6 route add default via {}", gateway.v6))?;
        }
        let router = lab.namespace("router");
        router.sysctl("net.ipv4.ip_forward", "1")?;
        router.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        Ok(lab)
    }

    /// A veth pair between two ends, with their addresses.
    pub fn link(&self, one: End, other: End) -> anyhow::Result<()> {
        self.veth((one.namespace, one.port, one.mac), (other.namespace, other.port, other.mac))?;
        for end in [one, other] {
            let namespace = self.namespace(end.namespace);
            // The kernel of the machine may have been told otherwise for all new interfaces.
            namespace.sysctl(&format!("net.ipv4.conf.{}.rp_filter", end.port), "0")?;
            namespace.run(&format!("ip addr add {}/24 dev {}", end.v4, end.port))?;
            namespace.run(&format!("ip addr add {}/64 dev {} nodad", end.v6, end.port))?;
        }
        Ok(())
    }
}
