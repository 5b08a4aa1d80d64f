//! The screen on a terminal that is not there.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    style::Color,
};

use super::{
    samples::Said,
    screen::{Act, Sample, Screen},
};
use crate::{
    control::row::{Counts, LinkRow, PortRow, RoutesRow, RuleRow, Stats},
    rule::ChainName,
};

fn sample(at: Instant, packets: u64) -> Sample {
    let port = |name: &str, ifindex: u32, packets: u64| PortRow {
        name: name.to_owned(),
        ifindex,
        mode: "native".to_owned(),
        state: "up".to_owned(),
        mac: None,
        mtu: 1500,
        vlan: None,
        routes: RoutesRow::default(),
        taken: None,
        ipsec: false,
        netfilter: "none".to_owned(),
        flows: "none".to_owned(),
        header: "ethernet".to_owned(),
        layer3: None,
        switching: None,
        peer: "none".to_owned(),
        counts: Counts::new(packets, 0, packets / 2, 0),
    };
    let reasons = [("forwarded", 3 * packets), ("filter_forward", packets), ("no_route", 7)];
    let reasons: BTreeMap<_, _> = reasons.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
    let rule = |handle: u64, rule: &str, packets: u64| RuleRow {
        chain: ChainName::Forward,
        handle,
        rule: rule.to_owned(),
        packets,
        bytes: 0,
    };
    Sample {
        at,
        stats: Stats {
            totals: Counts::new(3 * packets, 0, packets, 0),
            reasons,
            ports: vec![port("eth0", 2, packets), port("eth1", 3, 2 * packets)],
            links: [("eth0", 2, packets), ("eth1", 3, 2 * packets)]
                .map(|(name, ifindex, packets)| LinkRow {
                    name: name.to_owned(),
                    ifindex,
                    rx_packets: packets,
                    rx_bytes: 500 * packets,
                    tx_packets: packets / 4,
                    tx_bytes: 25 * packets,
                    ..LinkRow::default()
                })
                .to_vec(),
            ..Stats::default()
        },
        rules: vec![rule(1, "tcp dport 23 drop", packets), rule(2, "udp dport 53 accept", 5), rule(3, "accept", 0)],
    }
}

fn drawn(screen: &Screen, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| screen.draw(frame)).expect("drawn");
    terminal.backend().to_string()
}

fn key(code: KeyCode) -> KeyEvent {
    KeyEvent::new(code, KeyModifiers::NONE)
}

fn screen() -> Screen {
    let start = Instant::now();
    let mut screen = Screen::new(sample(start, 1000), true);
    screen.show(sample(start + Duration::from_secs(2), 21_000));
    screen
}

#[test]
fn everything_is_on_80_by_24() {
    let text = drawn(&screen(), 80, 24);
    for words in [
        "dataplane top  2 ports  3 rules",
        "rx 120Mbit/s 40.0k/s            █  dropped 10.0k/s 25.0%",
        "eth1            native   up         80.0M      4.0M     30.0k     10.0k        █",
        "PKT/s     %  PACKETS REASON               60 s",
        "10.0k  25.0    21.0k filter_forward                █ drop",
        "10.0k 100.0    21.0k forward 1               █ tcp dport 23 drop",
        "no_route",
        "q end  s sort (rate)",
    ] {
        assert!(text.contains(words), "`{words}` is not on\n{text}");
    }
    // What did not count is not shown; what counts most is first.
    assert!(!text.contains("forward 3"), "{text}");
    let place = |words: &str| text.find(words).expect(words);
    assert!(place("eth1") < place("eth0") && place("forwarded  ") < place("filter_forward"));
}

#[test]
fn keys_sort_filter_pause_and_end() {
    let mut screen = screen();
    assert_eq!(screen.press(key(KeyCode::Char('s'))), Act::Stay);
    screen.press(key(KeyCode::Char('s')));
    let text = drawn(&screen, 80, 24);
    assert!(text.contains("sort (name)") && text.find("eth0") < text.find("eth1"), "{text}");
    for letter in "/udp".chars() {
        screen.press(key(KeyCode::Char(letter)));
    }
    let text = drawn(&screen, 80, 24);
    assert!(text.contains("filter: udp_") && text.contains("udp dport 53") && !text.contains("tcp dport"), "{text}");
    screen.press(key(KeyCode::Esc));
    assert!(drawn(&screen, 80, 24).contains("tcp dport"));
    screen.press(key(KeyCode::Char('p')));
    assert!(screen.is_paused());
    screen.press(key(KeyCode::Char('?')));
    assert!(drawn(&screen, 80, 24).contains("Press any key."));
    // Any key leaves the help, and only that.
    assert_eq!(screen.press(key(KeyCode::Char('q'))), Act::Stay);
    assert_eq!(screen.press(key(KeyCode::Char('q'))), Act::Quit);
    assert_eq!(screen.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Act::Quit);
}

#[test]
fn a_small_terminal_and_an_idle_daemon_are_no_trouble() {
    let mut empty = sample(Instant::now(), 0);
    empty.stats.ports.clear();
    empty.stats.reasons.clear();
    empty.rules.clear();
    let screen = Screen::new(empty, true);
    for (width, height) in [(80, 24), (20, 5), (1, 1), (300, 100)] {
        drawn(&screen, width, height);
    }
}

/// The text, and what `dataplane` shows in the colour.
fn coloured(screen: &Screen, colour: Color) -> String {
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("a terminal");
    terminal.draw(|frame| screen.draw(frame)).expect("drawn");
    let buffer = terminal.backend().buffer();
    buffer.content().iter().filter(|cell| cell.fg == colour).map(ratatui::buffer::Cell::symbol).collect()
}

#[test]
fn verdicts_have_colours_unless_they_are_not_wanted() {
    let mut screen = screen();
    let (red, green) = (coloured(&screen, Color::Red), coloured(&screen, Color::Green));
    assert!(red.contains("drop") && green.contains("forward") && !red.contains("forward"), "{red}\n{green}");
    screen.colour = false;
    assert_eq!((coloured(&screen, Color::Red), coloured(&screen, Color::Green)), (String::new(), String::new()));
}

/// A router with 200 ports, of which each has traffic, and a rule for each.
fn large() -> Screen {
    let start = Instant::now();
    let at = |start: Instant, packets: u64| {
        let mut sample = sample(start, packets);
        let (port, rule, link) =
            (sample.stats.ports[0].clone(), sample.rules[0].clone(), sample.stats.links[0].clone());
        let number = |index: u64| u32::try_from(index).expect("a number");
        sample.stats.ports = (0..200)
            .map(|index| PortRow { name: format!("cust-{index}"), ifindex: 10 + number(index), ..port.clone() })
            .collect();
        sample.stats.links = (0..200)
            .map(|index| LinkRow { name: format!("cust-{index}"), ifindex: 10 + number(index), ..link.clone() })
            .collect();
        sample.rules = (0..200)
            .map(|index| RuleRow { handle: index, rule: format!("udp dport {index} drop"), ..rule.clone() })
            .collect();
        sample
    };
    let mut screen = Screen::new(at(start, 1000), true);
    screen.show(at(start + Duration::from_secs(1), 2000));
    screen
}

#[test]
fn every_row_of_a_large_router_can_be_reached() {
    let mut screen = large();
    screen.press(key(KeyCode::Char('s')));
    screen.press(key(KeyCode::Char('s')));
    let text = drawn(&screen, 80, 24);
    assert!(text.contains("Ports 1-") && text.contains("of 200"), "{text}");
    assert!(text.find("cust-2 ") < text.find("cust-3 ") && !text.contains("cust-10 "), "{text}");
    screen.press(key(KeyCode::Tab));
    for (code, shown) in [
        (KeyCode::End, "cust-199 "),
        (KeyCode::PageUp, "cust-189 "),
        (KeyCode::Up, "cust-188 "),
        (KeyCode::Home, "cust-0 "),
        (KeyCode::PageDown, "cust-10 "),
        (KeyCode::Down, "cust-11 "),
    ] {
        screen.press(key(code));
        let text = drawn(&screen, 80, 24);
        assert!(text.contains(shown), "{code:?}: no {shown} on\n{text}");
    }
    let (small, large) = (drawn(&screen, 80, 24), drawn(&screen, 120, 60));
    let ports = |text: &str| text.matches("cust-").count();
    assert!(ports(&large) >= ports(&small) + 15, "{large}");
    assert!(large.contains("FWD/s") && large.contains("PASS/s") && !small.contains("FWD/s"), "{large}");
    screen.press(key(KeyCode::Char('3')));
    screen.press(key(KeyCode::End));
    assert!(drawn(&screen, 80, 24).contains("udp dport 199 drop"));
    // A filter that fits no port leaves the ports where they are.
    for letter in "/udp dport 7 ".chars() {
        screen.press(key(KeyCode::Char(letter)));
    }
    let text = drawn(&screen, 80, 24);
    assert!(text.contains("cust-") && text.contains("udp dport 7 drop") && !text.contains("udp dport 8 "), "{text}");
}

#[test]
fn behind_a_row_are_advice_and_live_packets() {
    let mut screen = screen();
    for letter in "/filter_forw".chars() {
        screen.press(key(KeyCode::Char(letter)));
    }
    screen.press(key(KeyCode::Enter));
    screen.press(key(KeyCode::Char('2')));
    assert_eq!(screen.press(key(KeyCode::Enter)), Act::Watch("reason filter_forward".to_owned()));
    let text = drawn(&screen, 80, 24);
    assert!(text.contains("reason filter_forward: drop") && text.contains("`dataplane rule list forward`"), "{text}");
    assert!(text.contains("Waiting for packets") && text.contains("filter: filter_forw"), "{text}");
    for number in 0..7 {
        screen.tell(Said::Packet(format!("packet {number}\n    its second line\n")));
    }
    let text = drawn(&screen, 80, 24);
    assert!(text.contains("packet 4") && text.contains("its second line") && !text.contains("packet 5"), "{text}");
    assert_eq!(screen.press(key(KeyCode::Enter)), Act::Watch("reason filter_forward".to_owned()));
    assert!(!drawn(&screen, 80, 24).contains("packet 4"), "five more are waited for");
    assert_eq!(screen.press(key(KeyCode::Esc)), Act::Leave);
    screen.press(key(KeyCode::Esc));
    screen.press(key(KeyCode::Char('3')));
    assert_eq!(screen.press(key(KeyCode::Enter)), Act::Watch("tcp dport 23".to_owned()));
    screen.tell(Said::Trouble("a filter matches no set".to_owned()));
    assert!(drawn(&screen, 80, 24).contains("No packets can be shown: a filter matches no set"));
    assert_eq!(screen.press(key(KeyCode::Esc)), Act::Leave);
    screen.press(key(KeyCode::Char('1')));
    assert_eq!(screen.press(key(KeyCode::Enter)), Act::Watch("iif eth1".to_owned()));
}

#[test]
fn counting_can_begin_at_zero_and_ports_have_packets_too() {
    let mut screen = screen();
    screen.press(key(KeyCode::Char('z')));
    let text = drawn(&screen, 80, 24);
    assert!(text.contains("counted from zero") && text.contains("no rule has matched yet"), "{text}");
    let later = sample(screen.now.at + Duration::from_secs(1), 21_500);
    screen.show(later);
    let text = drawn(&screen, 80, 24);
    assert!(text.contains("500 forward 1") && !text.contains("no_route"), "{text}");
    screen.press(key(KeyCode::Char('z')));
    assert!(drawn(&screen, 80, 24).contains("no_route"));
    screen.press(key(KeyCode::Char('b')));
    assert!(drawn(&screen, 80, 24).contains("LINK RX/s"));
}

/// The screen in the documentation is what is drawn.
#[test]
fn the_documentation_shows_the_screen() {
    let mut screen = screen();
    let mut packets = 21_000;
    for second in 1..40 {
        packets += 2_000 * (3 + second * second % 7);
        let later = sample(screen.now.at + Duration::from_secs(1), packets);
        screen.show(later);
    }
    let text = drawn(&screen, 80, 16);
    let lines = text.lines().map(|line| line.trim_matches('"').trim_end());
    let shown: String = lines.map(|line| format!("    {line}\n").trim_end().to_owned() + "\n").collect();
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let page = std::fs::read_to_string(page).expect("the page");
    assert!(page.contains(&shown), "docs/operations.md, section top, should show:\n{shown}");
}
