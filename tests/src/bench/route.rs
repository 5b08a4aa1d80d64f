//! Route lookups alone, side by side: keys without a lookup, the project's tables, `LPM_TRIE`, `bpf_fib_lookup`.

#![expect(clippy::cast_precision_loss, reason = "counts and nanoseconds stay far below 2^53")]

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicU16, AtomicU64},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::{Array, LpmTrie, Map, MapData, PerCpuArray, PerCpuValues, lpm_trie::Key},
    programs::Xdp,
};
use dataplane_common::abi::{BASE_ENTRIES, BASE_LINES, BLOCK, RouteKind, Target, WORDS};
use dataplane_tests_ebpf::LOOKUPS;
use dataplane_user::{
    fib::{ChainedMemory, DirectTable, Painter, RangeTree, TableSizes},
    kernel::Mapping,
    model::{Family as Addressed, Prefix},
};
use serde::Serialize;

use super::{
    chain::Chain,
    measure::Spread,
    namespace::Namespace,
    program::{OBJECT, pin},
    table::{Frames, table4, table6},
};

/// Next hops that the routes are spread over.
const NEXT_HOPS: u32 = 64;
/// Routes that are changed one by one.
const CHANGES: usize = 200_000;
/// Changes between two grace periods; nobody reads here, so none is waited for.
const GRACE: usize = 4096;

/// What is to be measured.
#[derive(Debug, Serialize)]
pub struct Settings {
    /// IPv4 routes; a quarter as many of IPv6.
    pub routes: usize,
    /// Times that each contestant is measured.
    pub rounds: usize,
    /// Length of one measurement.
    pub seconds: f64,
    /// CPU to run on.
    pub cpu: usize,
}

/// One contestant with one kind of keys.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Who.
    pub contestant: &'static str,
    /// 4 or 6.
    pub family: u8,
    /// `hot` or `cold`.
    pub keys: String,
    /// Whether each key depends on the answer before.
    pub dependent: bool,
    /// Nanoseconds a lookup, without what the keys alone cost.
    pub nanoseconds: Spread,
    /// How many times as long as the project's own table takes.
    pub ratio: f64,
}

/// What else was measured of one family.
#[derive(Debug, Serialize)]
pub struct Handling {
    /// 4 or 6.
    pub family: u8,
    /// How many routes there are.
    pub routes: usize,
    /// Parsed routes to a table that is live.
    pub load_ms: f64,
    /// Filling an `LPM_TRIE` with the same.
    pub trie_ms: f64,
    /// `ip -batch` with the same.
    pub kernel_ms: f64,
    /// Single changes, one after the other.
    pub updates_per_second: f64,
    /// Two generations.
    pub bytes: usize,
    /// How much the kernel's slabs grew by the same routes.
    pub kernel_bytes: i64,
}

/// All of a run.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    /// Lookups.
    pub rows: Vec<Row>,
    /// The rest.
    pub handling: Vec<Handling>,
}

/// One family's part of everything.
struct Lane<A: Addressed> {
    routes: Vec<(Prefix<A>, Target)>,
    keys: [(Frames, Vec<A>); 2],
}

/// A family whose tables and keys can be put into the object.
trait Measured: Addressed {
    /// What a key is in its map.
    fn fill(ebpf: &mut Ebpf, keys: &[Self]) -> Result<()>;
    /// A route into the trie.
    fn insert(ebpf: &mut Ebpf, routes: &[(Prefix<Self>, Target)]) -> Result<()>;
}

impl Measured for u32 {
    fn fill(ebpf: &mut Ebpf, keys: &[Self]) -> Result<()> {
        let mut map = Array::<_, Self>::try_from(ebpf.map_mut("KEYS4").context("no map KEYS4")?)?;
        (0..).zip(keys).try_for_each(|(index, key)| map.set(index, *key, 0)).context("writing map KEYS4")
    }

    fn insert(ebpf: &mut Ebpf, routes: &[(Prefix<Self>, Target)]) -> Result<()> {
        let mut trie = LpmTrie::<_, [u8; 4], Self>::try_from(ebpf.map_mut("TRIE4").context("no map TRIE4")?)?;
        for (prefix, target) in routes {
            let key = Key::new(prefix.length().into(), prefix.first().to_be_bytes());
            trie.insert(&key, target.raw(), 0).context("writing map TRIE4")?;
        }
        Ok(())
    }
}

impl Measured for u128 {
    fn fill(ebpf: &mut Ebpf, keys: &[Self]) -> Result<()> {
        let mut map = Array::<_, [u64; 2]>::try_from(ebpf.map_mut("KEYS6").context("no map KEYS6")?)?;
        let words = |key: Self| [(key >> 64) as u64, key as u64];
        (0..).zip(keys).try_for_each(|(index, key)| map.set(index, words(*key), 0)).context("writing map KEYS6")
    }

    fn insert(ebpf: &mut Ebpf, routes: &[(Prefix<Self>, Target)]) -> Result<()> {
        let mut trie = LpmTrie::<_, [u8; 16], u32>::try_from(ebpf.map_mut("TRIE6").context("no map TRIE6")?)?;
        for (prefix, target) in routes {
            let key = Key::new(prefix.length().into(), prefix.first().to_be_bytes());
            trie.insert(&key, target.raw(), 0).context("writing map TRIE6")?;
        }
        Ok(())
    }
}

fn parsed<A: Addressed>(routes: &[String]) -> Result<Vec<(Prefix<A>, Target)>> {
    let parse = |(number, text): (u32, &String)| {
        let (address, length) = text.split_once('/').context("a prefix")?;
        let address = A::from_ip(address.parse::<IpAddr>()?).context("an address of the family")?;
        Ok((Prefix::new(address, length.parse()?), Target::new(RouteKind::Unicast, number % NEXT_HOPS)))
    };
    (0..).zip(routes).map(parse).collect()
}

/// Measures everything; `tell` is given a line for each step.
pub fn run(settings: &Settings, tell: &mut dyn FnMut(&str)) -> Result<Outcome> {
    let (all4, all6) = (table4(settings.routes, Frames::Cold), table6(settings.routes, Frames::Cold));
    let hot = (table4(settings.routes, Frames::Hot).destinations, table6(settings.routes, Frames::Hot).destinations);
    let bits4 = |keys: &[Ipv4Addr]| keys.iter().map(|key| key.to_bits()).collect();
    let bits6 = |keys: &[Ipv6Addr]| keys.iter().map(|key| key.to_bits()).collect();
    let sizes = TableSizes::for_routes(all4.routes.len(), all6.routes.len());
    let lane4 = Lane::<u32> {
        routes: parsed(&all4.routes)?,
        keys: [(Frames::Hot, bits4(&hot.0)), (Frames::Cold, bits4(&all4.destinations))],
    };
    let lane6 = Lane::<u128> {
        routes: parsed(&all6.routes)?,
        keys: [(Frames::Hot, bits6(&hot.1)), (Frames::Cold, bits6(&all6.destinations))],
    };
    let namespace = Namespace::new("route")?;
    let ingress = surround(&namespace)?;
    let mut outcome = Outcome::default();
    let mut kernel = Vec::new();
    for (flag, routes) in [("-4", &all4.routes), ("-6", &all6.routes)] {
        tell(&format!("ip {flag} -batch"));
        kernel.push(fill_kernel(&namespace, flag, routes)?);
    }
    let mut bench = Bench { namespace, sizes, ingress, settings };
    tell("IPv4");
    let begin = |ebpf: &mut Ebpf, sizes: TableSizes| -> Result<_> {
        let base = memory::<AtomicU16>(ebpf, "NEAR4", BASE_ENTRIES)?;
        let dynamic = memory(ebpf, "FIB4", 2 * sizes.ipv4.blocks() as usize * BLOCK)?;
        Ok(DirectTable::new(ChainedMemory::new(base, dynamic), sizes.ipv4))
    };
    let bytes = |sizes: TableSizes| (BASE_ENTRIES + 2 * sizes.ipv4.blocks() as usize * BLOCK) * 2;
    bench.family(&lane4, 4, begin, (bytes, kernel[0]), &mut outcome)?;
    tell("IPv6");
    let begin = |ebpf: &mut Ebpf, sizes: TableSizes| -> Result<_> {
        let base = memory::<AtomicU64>(ebpf, "NEAR6", BASE_LINES as usize * WORDS)?;
        let dynamic = memory(ebpf, "FIB6", 2 * sizes.ipv6.total() as usize * WORDS)?;
        Ok(RangeTree::new(ChainedMemory::new(base, dynamic), sizes.ipv6))
    };
    let bytes = |sizes: TableSizes| (BASE_LINES + 2 * sizes.ipv6.total()) as usize * WORDS * 8;
    bench.family(&lane6, 6, begin, (bytes, kernel[1]), &mut outcome)?;
    Ok(outcome)
}

/// A link with a neighbour behind it. Its index.
fn surround(namespace: &Namespace) -> Result<u32> {
    let lines = "link add r0 type veth peer name r1\nlink set r0 up\nlink set r1 up\naddr add 198.18.1.1/24 dev r0\n\
                 addr add 2001:db8:1::1/64 dev r0 nodad\n\
                 neigh add 198.18.1.2 lladdr 02:00:00:00:00:02 dev r0 nud permanent\n\
                 neigh add 2001:db8:1::2 lladdr 02:00:00:00:00:02 dev r0 nud permanent\n";
    namespace.feed("ip", &["-batch", "-"], lines)?;
    namespace.set("ipv4/ip_forward", "1")?;
    namespace.set("ipv6/conf/all/forwarding", "1")?;
    Chain::index(namespace, "r0")
}

/// The same routes in the kernel's table: how long `ip -batch` took, and how much its slabs grew.
fn fill_kernel(namespace: &Namespace, flag: &str, routes: &[String]) -> Result<(Duration, i64)> {
    let via = if flag == "-4" { "198.18.1.2" } else { "2001:db8:1::2" };
    let batch = routes.iter().fold(String::new(), |mut all, route| {
        let _ = writeln!(all, "route add {route} via {via} dev r0");
        all
    });
    let before = slabs()?;
    let begin = Instant::now();
    namespace.feed("ip", &[flag, "-batch", "-"], &batch)?;
    Ok((begin.elapsed(), slabs()? - before))
}

/// Bytes of slabs and per-CPU memory of the machine.
fn slabs() -> Result<i64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let mut bytes = 0;
    for name in ["Slab:", "Percpu:"] {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).context("a line of /proc/meminfo")?;
        bytes += line.split_whitespace().next().context("a number")?.parse::<i64>()? << 10;
    }
    Ok(bytes)
}

fn memory<T: dataplane_user::kernel::Word>(ebpf: &mut Ebpf, name: &str, words: usize) -> Result<Mapping<T>> {
    // It stays there: programs that are loaded later name it by its descriptor.
    let Some(Map::Array(map)) = ebpf.map(name) else { anyhow::bail!("the object has no array map {name}") };
    Mapping::new(map.fd(), words).with_context(|| format!("mapping {name}"))
}

struct Bench<'a> {
    namespace: Namespace,
    sizes: TableSizes,
    ingress: u32,
    settings: &'a Settings,
}

impl Bench<'_> {
    fn load(&self, keys: usize, dependent: bool, family: u8) -> Result<Ebpf> {
        let mask = u32::try_from(keys - 1).context("too many keys")?;
        let (keys4, keys6) = if family == 4 { (mask + 1, 1) } else { (1, mask + 1) };
        let dependent = u32::from(dependent);
        // The first table that a painter loads is the second generation.
        let (live4, live6) = (self.sizes.ipv4.live(1), self.sizes.ipv6.live(1));
        let mut loader = EbpfLoader::new();
        loader
            .override_global("KEYS", &mask, true)
            .override_global("DEPENDENT", &dependent, true)
            .override_global("INGRESS", &self.ingress, true)
            .map_max_entries("DESTINATIONS4", 1)
            .map_max_entries("DESTINATIONS6", 1)
            .map_max_entries("FLOWS", 1)
            .map_max_entries("KEYS4", keys4)
            .map_max_entries("KEYS6", keys6)
            .map_max_entries("TRIE4", 1 << 21)
            .map_max_entries("TRIE6", 1 << 20);
        loader.override_global("LIVE4", &live4, true).override_global("LIVE6", &live6, true);
        if family == 4 {
            loader.map_max_entries("FIB4", 2 * self.sizes.ipv4.blocks());
        } else {
            loader.map_max_entries("FIB6", 2 * self.sizes.ipv6.total());
        }
        Ok(loader.load(OBJECT)?)
    }

    fn family<A: Measured, P: Painter<Address = A>>(
        &mut self,
        lane: &Lane<A>,
        family: u8,
        begin: impl Fn(&mut Ebpf, TableSizes) -> Result<P>,
        (bytes, (kernel, kernel_bytes)): (impl Fn(TableSizes) -> usize, (Duration, i64)),
        outcome: &mut Outcome,
    ) -> Result<()> {
        let mut handled = None;
        for (frames, keys) in &lane.keys {
            for dependent in [false, true] {
                let (mut ebpf, mut painter, load) = loop {
                    let mut ebpf = self.load(keys.len(), dependent, family)?;
                    let mut painter = begin(&mut ebpf, self.sizes)?;
                    let start = Instant::now();
                    painter.load(lane.routes.iter().copied());
                    let load = start.elapsed();
                    // As the daemon does: what its guess had no room for gets larger tables.
                    let overflowed = painter.overflowed();
                    let larger = self.sizes.enlarged_for(if family == 4 { [overflowed, 0] } else { [0, overflowed] });
                    if overflowed == 0 {
                        break (ebpf, painter, load);
                    }
                    ensure!(larger != self.sizes, "the table has no room for {overflowed} places");
                    self.sizes = larger;
                };
                let start = Instant::now();
                A::insert(&mut ebpf, &lane.routes)?;
                let trie = start.elapsed();
                A::fill(&mut ebpf, keys)?;
                let wide = if family == 4 { self.sizes.ipv4.wide } else { self.sizes.ipv6.wide };
                self.compete(&mut ebpf, family, wide, (*frames, dependent), keys.len(), outcome)?;
                let changes = if handled.is_none() { Some(changed(&mut painter, &lane.routes)) } else { None };
                if let Some(rate) = changes {
                    handled = Some(Handling {
                        family,
                        routes: lane.routes.len(),
                        load_ms: load.as_secs_f64() * 1e3,
                        trie_ms: trie.as_secs_f64() * 1e3,
                        kernel_ms: kernel.as_secs_f64() * 1e3,
                        updates_per_second: rate,
                        bytes: bytes(self.sizes),
                        kernel_bytes,
                    });
                }
            }
        }
        outcome.handling.extend(handled);
        Ok(())
    }

    /// All contestants in turn, round by round.
    fn compete(
        &self,
        ebpf: &mut Ebpf,
        family: u8,
        wide: bool,
        (frames, dependent): (Frames, bool),
        keys: usize,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let own = if wide { "wide" } else { "narrow" };
        let contestants =
            [("keys alone", "empty"), ("dataplane", own), ("LPM_TRIE", "trie"), ("bpf_fib_lookup", "kernel")];
        let mut times: [Vec<f64>; 4] = Default::default();
        for (_, name) in contestants {
            xdp(ebpf, name, family)?.load().with_context(|| format!("loading route_{name}{family}"))?;
        }
        // Each key once: answers must be equal, and the caches are as they will be.
        let whole = u32::try_from(keys)? / LOOKUPS;
        let mut sums = Vec::new();
        for (_, name) in contestants {
            sums.push(self.once(ebpf, name, family, whole)?.1);
        }
        ensure!(sums[1] == sums[2], "the tables of dataplane and LPM_TRIE differ: {sums:?}");
        ensure!(sums[3] == keys as u64, "the kernel found {} of {keys} keys", sums[3]);
        for _ in 0..self.settings.rounds {
            let mut empty = 0.0;
            for ((_, name), times) in contestants.iter().zip(&mut times) {
                let pace = self.once(ebpf, name, family, whole.min(4096))?.0;
                let runs = (self.settings.seconds * 1e9 / (pace * f64::from(LOOKUPS))).clamp(64.0, 1e8);
                #[expect(clippy::cast_sign_loss, reason = "clamped to positive numbers")]
                let nanoseconds = self.once(ebpf, name, family, runs as u32)?.0;
                if *name == "empty" {
                    empty = nanoseconds;
                }
                times.push(nanoseconds - empty);
            }
        }
        let median = |times: &[f64]| Spread::of(times).context("no rounds");
        let ours = median(&times[1])?.median;
        for ((contestant, _), times) in contestants.into_iter().zip(&times).skip(1) {
            let nanoseconds = median(times)?;
            let ratio = nanoseconds.median / ours;
            outcome.rows.push(Row { contestant, family, keys: frames.to_string(), dependent, nanoseconds, ratio });
        }
        Ok(())
    }

    /// Runs a program so often, from the first key on: nanoseconds a lookup, and the sum of what was found.
    fn once(&self, ebpf: &mut Ebpf, name: &str, family: u8, runs: u32) -> Result<(f64, u64)> {
        let cpus = aya::util::nr_cpus().map_err(|(file, error)| anyhow::anyhow!("{file}: {error}"))?;
        let map = ebpf.map_mut("FOUND").context("no map FOUND")?;
        PerCpuArray::<_, [u64; 2]>::try_from(map)?.set(0, PerCpuValues::try_from(vec![[0; 2]; cpus])?, 0)?;
        let cpu = self.settings.cpu;
        let program: &Xdp = xdp(ebpf, name, family)?;
        let frame = [0; 64];
        let options = TestRunOptions { data_in: Some(&frame), repeat: runs, ..TestRunOptions::default() };
        let duration = self.namespace.enter(|| {
            pin(cpu)?;
            Ok(program.test_run(options).context("running a lookup")?.duration)
        })?;
        let map = PerCpuArray::<&MapData, [u64; 2]>::try_from(ebpf.map("FOUND").context("no map FOUND")?)?;
        let sum = map.get(&0, 0)?.iter().map(|found| found[1]).sum();
        Ok((duration.as_nanos() as f64 / f64::from(LOOKUPS), sum))
    }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str, family: u8) -> Result<&'a mut Xdp> {
    let name = format!("route_{name}{family}");
    Ok(ebpf.program_mut(&name).with_context(|| format!("the object has no program {name}"))?.try_into()?)
}

/// Routes that go and come back, one by one: how many a second.
fn changed<P: Painter>(painter: &mut P, routes: &[(Prefix<P::Address>, Target)]) -> f64 {
    let start = Instant::now();
    for step in 0..CHANGES / 2 {
        let (prefix, target) = routes[step.wrapping_mul(7919) % routes.len()];
        painter.change([(prefix, None)]);
        painter.change([(prefix, Some(target))]);
        if step % GRACE == 0 {
            painter.grace_passed();
        }
    }
    CHANGES as f64 / start.elapsed().as_secs_f64()
}

/// The table for people.
pub fn text(outcome: &Outcome) -> String {
    let mut out = format!(
        "{:<16} {:>6} {:<5} {:<12} {:>9} {:>18} {:>8}\n",
        "", "family", "keys", "", "ns", "min .. max", "x ours"
    );
    for row in &outcome.rows {
        let Row { contestant, family, keys, dependent, nanoseconds: Spread { median, min, max, .. }, ratio } = row;
        let kind = if *dependent { "dependent" } else { "independent" };
        let range = format!("{min:.1} .. {max:.1}");
        let _ =
            writeln!(out, "{contestant:<16} {family:>6} {keys:<5} {kind:<12} {median:>9.2} {range:>18} {ratio:>8.1}");
    }
    for Handling { family, routes, load_ms, trie_ms, kernel_ms, updates_per_second, bytes, kernel_bytes } in
        &outcome.handling
    {
        let (ours, theirs) = (*bytes as f64 / 1e6, *kernel_bytes as f64 / 1e6);
        let _ = writeln!(
            out,
            "IPv{family}, {routes} routes: live after {load_ms:.0} ms (LPM_TRIE {trie_ms:.0} ms, ip -batch {kernel_ms:.0} ms); \
             {updates_per_second:.0} single changes a second; {ours:.1} MB, the kernel's own {theirs:.1} MB"
        );
    }
    out
}
