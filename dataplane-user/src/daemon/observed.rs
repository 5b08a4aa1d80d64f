//! What was observed: the mirror of the kernel's tables, and what is known beside it.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::abi::Ifindex;

use super::{
    mirror::ResyncStats,
    name::Names,
    neighbour::{Probes, Whose},
    netfilter::{self, NetfilterNotices},
};
use crate::{
    config::NetfilterChoice,
    control::row::{MirrorRow, MirrorState},
    model::{Event, Link, Missed, Model, Neighbour, Touched},
    netlink::{Mirror, Prober},
    rule::LinkPattern,
};

/// What the kernel said. Only events change it.
pub(super) struct Observed {
    model: Model,
    /// What changed of the model since it was lowered.
    touched: Touched,
    /// How many routes are read, until all are for the first time.
    loading: Option<(usize, usize)>,
    names: Names,
    /// Comparisons of the mirror with the kernel.
    resync_stats: ResyncStats,
    /// Neighbours that are kept alive.
    probes: Probes,
    /// What of netfilter the operator has been told.
    told: NetfilterNotices,
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            model: Model::default(),
            touched: Touched::all(),
            loading: Some((0, 0)),
            names: Names::default(),
            resync_stats: ResyncStats::default(),
            probes: Probes::default(),
            told: NetfilterNotices::default(),
        }
    }
}

impl Observed {
    /// The kernel's tables, as far as they are known.
    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    /// Follows one event.
    pub(super) fn follow(&mut self, event: Event) {
        self.model.follow(event, &mut self.touched);
    }

    /// Whether raw sockets read packets; whether that is news.
    pub(super) fn set_raw_readers(&mut self, readers: bool) -> bool {
        let news = self.model.raw_readers != readers;
        self.model.raw_readers = readers;
        self.touched.links |= news;
        news
    }

    /// The links whose other ends may be handed packets ([`Model::peers`]); whether that is news.
    pub(super) fn set_peers(&mut self, peers: BTreeSet<Ifindex>) -> bool {
        let news = self.model.peers != peers;
        self.model.peers = peers;
        self.touched.links |= news;
        news
    }

    /// The programs of others at tc egress ([`Model::egress_programs`]); whether that is news.
    pub(super) fn set_egress_programs(&mut self, programs: BTreeMap<Ifindex, Vec<String>>) -> bool {
        let news = self.model.egress_programs != programs;
        self.model.egress_programs = programs;
        self.touched.links |= news;
        news
    }

    /// Whether own rules are in a table of netfilter; whether that is news.
    pub(super) fn set_own_rules(&mut self, own_rules: bool) -> bool {
        let news = self.model.own_rules != own_rules;
        self.model.own_rules = own_rules;
        self.touched.links |= news;
        news
    }

    /// Follows events, and counts what announcements had missed.
    pub(super) fn follow_all(&mut self, events: Vec<Event>) {
        let mut missed = Missed::default();
        for event in events {
            if let Event::Compared(listed, announced) = &event {
                missed.join(self.model.missed(listed, announced));
            }
            self.model.follow(event, &mut self.touched);
        }
        if missed.count != 0 {
            let examples = missed.examples.join("; ");
            tracing::warn!(
                "the mirror had missed {} changes of the kernel, which are corrected now: {examples}",
                missed.count
            );
        }
        self.resync_stats.mended += missed.count as u64;
    }

    /// A comparison with the kernel is through.
    pub(super) fn count_comparisons(&mut self, mirror: &mut Mirror) {
        self.resync_stats.resyncs += u64::from(mirror.compared());
    }

    /// What changed since this was called last, for who lowers it.
    pub(super) fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.touched)
    }

    /// Everything counts as changed.
    pub(super) fn touch_all(&mut self) {
        self.touched = Touched::all();
    }

    /// Whether something changed since it was lowered.
    pub(super) fn is_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Whether something about links did.
    pub(super) fn are_links_touched(&self) -> bool {
        self.touched.links
    }

    /// Whether the kernel's tables are still read for the first time.
    pub(super) fn is_loading(&self) -> bool {
        self.loading.is_some()
    }

    /// So many routes were read so far; `None`: all tables were.
    pub(super) fn set_loading(&mut self, so_far: Option<(usize, usize)>) {
        self.loading = so_far;
    }

    /// What a link was called before, the latest first.
    pub(super) fn former_names(&self, ifindex: Ifindex) -> &[String] {
        self.names.former(ifindex)
    }

    /// Takes note of links that have another name than before; gives these, with the name before.
    pub(super) fn note_names(&mut self) -> Vec<(Ifindex, String)> {
        self.names.follow(&self.model.links)
    }

    /// The link of that name, or the one that had it last.
    pub(super) fn link_called(&self, name: &str) -> Option<&Link> {
        let before = |link: &&Link| self.names.former(link.ifindex).iter().any(|former| former == name);
        self.model.link_named(name).or_else(|| self.model.links.values().find(before))
    }

    /// Whether a rule's pattern means a link now.
    pub(super) fn fits(&self, pattern: &LinkPattern, link: &Link) -> bool {
        // Altnames are for those who name one link: they may begin as other links' names do.
        let other = || !pattern.is_wildcard() && link.names().any(|name| pattern.fits(name));
        let before = || pattern.is_followed() && self.former_names(link.ifindex).iter().any(|name| pattern.fits(name));
        pattern.fits(&link.name) || other() || before()
    }

    /// The links that fit a pattern now.
    pub(super) fn fitting(&self, pattern: &LinkPattern) -> Vec<Ifindex> {
        let links = self.model().links.values().filter(|link| self.fits(pattern, link));
        links.map(|link| link.ifindex).collect()
    }

    /// Lets the kernel look for the stale ones among the neighbours that were sent to since the last round.
    pub(super) fn probe(&mut self, used: impl Iterator<Item = Whose>, prober: &mut Prober) {
        let neighbours = &self.model.neighbours;
        let is_stale = |whose: &Whose| neighbours.get(whose).is_some_and(Neighbour::is_stale);
        self.probes.probe(used, is_stale, prober);
    }

    /// Logs what netfilter has and had that packets through ports would meet.
    pub(super) fn notice_netfilter(&mut self, are_ports: bool, choice: NetfilterChoice, obstacle: Option<String>) {
        let met = if are_ports { netfilter::met(&self.model) } else { Vec::new() };
        let shaped = are_ports.then(|| netfilter::all_shaped(&self.model).collect());
        self.told.notice(&met, shaped, choice, obstacle);
    }

    /// How far the mirror is, and how well it follows.
    pub(super) fn mirror_row(&self) -> MirrorRow {
        let (state, (routes4, routes6)) = match self.loading {
            Some(so_far) => (MirrorState::Loading, so_far),
            None => (MirrorState::Live, (0, 0)),
        };
        let (known4, known6) = (self.model.routes4.len(), self.model.routes6.len());
        MirrorRow {
            state,
            routes4: known4.max(routes4) as u64,
            routes6: known6.max(routes6) as u64,
            resyncs: self.resync_stats.resyncs,
            mended: self.resync_stats.mended,
            probes: self.probes.sent(),
        }
    }
}
