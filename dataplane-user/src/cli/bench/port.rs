//! `dataplane bench --from IFACE`: frames out of an interface of the operator's.

use std::{
    io::{self, BufRead as _, IsTerminal as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use dataplane_common::wire::Mac;

use super::{
    Place,
    measure::{Plan, Wire},
    place::mac,
    show, single,
    traffic::{Ends, Traffic},
    watch_signals,
};
use crate::{
    cli::{iface, session::Session, units::grouped, usage},
    kernel::{Generator, Sink},
};

/// Where frames go that leave this machine.
#[derive(Debug, Args)]
pub(super) struct Outside {
    /// Send out of this interface, in place of a lab
    ///
    /// Its driver must send what XDP redirects to it (`ndo_xdp_xmit`). All goes to 198.19.0.0/16 and `2001:db8:1000::/36`.
    #[arg(long, value_name = "IFACE", value_parser = iface, requires = "gateway", conflicts_with_all = ["rules", "rounds"])]
    from: Option<String>,
    /// The router that gets the frames: its address, which the neighbour table knows, or its link address
    #[arg(long, value_name = "ADDR|MAC", requires = "from")]
    gateway: Option<String>,
    /// Count what arrives at this interface
    #[arg(long, value_name = "IFACE", value_parser = iface, requires = "from")]
    to: Option<String>,
    /// Do not ask before sending
    #[arg(long)]
    yes: bool,
}

impl Outside {
    pub(super) const fn is_wanted(&self) -> bool {
        self.from.is_some()
    }

    pub(super) fn dispatch(&self, traffic: &Traffic, svg: Option<&Path>, session: &Session) -> anyhow::Result<()> {
        let (Some(from), Some(gateway)) = (&self.from, &self.gateway) else {
            return Err(usage("--from needs --gateway"));
        };
        let here = Place::default();
        let (egress, source) = here.link(from)?;
        let gateway = self::gateway(&here, from, gateway)?;
        if !self.yes && !is_lab() {
            Self::ask(from, traffic)?;
        }
        watch_signals()?;
        let (source4, source6) = sources(&here, from)?;
        let frames = traffic.frames(&Ends { source, gateway, source4, source6 });
        let sink = match &self.to {
            Some(to) => {
                let index = super::index(to)?;
                let occupied = "another XDP program may be there; `dataplane detach` takes ours off";
                Some(Sink::attach(index).with_context(|| format!("attaching the sink to {to}: {occupied}"))?)
            }
            None => None,
        };
        let generator = Generator::load(&frames, egress)?;
        let wire = Wire { generator, source: here.clone(), cpus: traffic.cpus as usize, sink };
        let before = here.counters(from)?;
        let passed = wire.send(Plan { time: traffic.time, rate: traffic.rate })?;
        std::thread::sleep(Duration::from_millis(50));
        let left = here.counters(from)?[1].saturating_sub(before[1]);
        if left < passed.sent {
            let (left, sent) = (grouped(left), grouped(passed.sent));
            eprintln!(
                "warning: {from} counts {left} of {sent} frames as sent; where it counts none, its driver sends nothing that \
                 XDP redirects to it"
            );
        }
        let path = match &self.to {
            Some(to) => format!("{from} to {to}"),
            None => format!("out of {from}"),
        };
        show(&single(traffic, path, &passed, None), svg, session)
    }

    /// Whether the operator means it.
    fn ask(from: &str, traffic: &Traffic) -> anyhow::Result<()> {
        let rate = traffic
            .rate
            .map_or("as many packets as get through".to_owned(), |rate| format!("{} packets a second", grouped(rate)));
        let what = format!("this sends {rate} out of {from} for {} s", traffic.time.as_secs_f64());
        if !io::stdin().is_terminal() {
            return Err(usage(format!("{what}; say --yes if that is what you want")));
        }
        eprint!("{what}. Go on? [y/N] ");
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
        if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) { Ok(()) } else { bail!("nothing was sent") }
    }
}

/// Whether we are on a machine of a lab.
fn is_lab() -> bool {
    let own = std::fs::metadata("/proc/self/ns/net").map(|file| file.ino());
    let names = std::fs::read_dir("/var/run/netns").into_iter().flatten().flatten();
    let labs = names.filter(|entry| entry.file_name().to_string_lossy().starts_with("lab-"));
    labs.filter_map(|entry| Some(std::fs::metadata(entry.path()).ok()?.ino()))
        .any(|lab| own.as_ref().is_ok_and(|own| *own == lab))
}

/// The link address of a router.
fn gateway(here: &Place, iface: &str, text: &str) -> anyhow::Result<Mac> {
    if let Some(mac) = mac(text) {
        return Ok(mac);
    }
    let address: IpAddr = text.parse().map_err(|_| {
        usage(format!("`{text}` is no address, such as 192.0.2.1, and no link address, such as 02:00:00:00:00:01"))
    })?;
    let known = here.run("ip", &["neigh", "show", &address.to_string(), "dev", iface], "")?;
    let found = known.split_once("lladdr ").and_then(|(_, rest)| mac(rest.split_whitespace().next()?));
    found.ok_or_else(|| {
        anyhow!("the neighbour table of {iface} does not know {address}; `ping -c 1 {address}` makes it known")
    })
}

/// The addresses of an interface; those of labs where it has none.
fn sources(here: &Place, iface: &str) -> anyhow::Result<(Ipv4Addr, Ipv6Addr)> {
    let shown = here.run("ip", &["-o", "address", "show", "dev", iface, "scope", "global"], "")?;
    let words: Vec<_> = shown.split_whitespace().collect();
    let behind = |family: &str| {
        let at = words.iter().position(|word| *word == family)?;
        words.get(at + 1)?.split('/').next()
    };
    let v4 = behind("inet").and_then(|text| text.parse().ok()).unwrap_or(Ipv4Addr::new(198, 18, 0, 2));
    let v6 = behind("inet6").and_then(|text| text.parse().ok());
    Ok((v4, v6.unwrap_or(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2))))
}
