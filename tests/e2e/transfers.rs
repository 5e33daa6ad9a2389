//! Must hold 4 of paths: a download over the line that is cut is soon as fast as the other line allows.

use crate::branches::{CONTROL, Class, SERVER, branches, is_measured, policies};
use crate::figures::{Figure, Where, percentile};
use crate::hosts::Server;
use crate::world::{World, eventually};
use popgate::pipeline::report::{DecisionRow, PathState};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const PORT: u16 = 80;
const RUNS: usize = 5;
/// The lines': all bytes of an Ethernet frame counted, as the lab counts them.
const RATE: f64 = 10e6;
/// A buffer of 60 ms, as routers should have: a download fills whatever there is.
const LINE: &str = "rate = \"10Mbps\"\nqueue = 50";
/// When the line is cut, and how long the download goes on.
const CUT: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(4);

#[test]
fn a_download_over_the_cut_is_as_fast_as_the_other_line_within_a_second() {
    if !is_measured() {
        return;
    }
    let world = branches("etransfers", RUNS, &policies(&[Class::call("default", 1, ""), CONTROL]), LINE);
    let _server = Server::start(
        &world,
        "web",
        PORT,
        |_, _, mut stream| {
            while stream.write_all(&[0x5a; 16_384]).is_ok() {}
        },
    );
    let of_acme = |world: &World| {
        world
            .paths("fra1")
            .iter()
            .filter(|path| path.tenant == "acme")
            .all(|path| path.state == PathState::Up)
    };
    eventually("all paths are up", || of_acme(&world));
    let runs: Vec<Download> = std::thread::scope(|scope| {
        let world = &world;
        let started: Vec<_> = (1..=RUNS).map(|number| scope.spawn(move || download(world, number))).collect();
        started.into_iter().map(|run| run.join().expect("no panic")).collect()
    });
    let rates: Vec<f64> = runs.iter().map(|run| run.share).collect();
    let before: Vec<f64> = runs.iter().map(|run| run.before).collect();
    println!("download: share of {RATE} bit/s from 1 s after the cut {rates:.2?}, before it {before:.2?}");
    let least = percentile(&rates, 0).expect("some");
    Figure::new("tcp-download-over-cut", Where::Lab, "default")
        .gaps(&runs.iter().map(|run| run.gap).collect::<Vec<_>>())
        .moves(RUNS as u64)
        .false_moves(runs.iter().map(|run| run.false_moves).sum())
        .with("rate_kept_min", (least * 100.0).round() / 100.0)
        .record();
    assert!(least >= 0.8, "{rates:?}");
}

/// Shares of the line's rate are of what a download brings: without headers, and what was sent twice.
struct Download {
    /// Of the PoP's, before the cut.
    false_moves: u64,
    /// In the last two seconds before the cut.
    before: f64,
    /// From one second after the cut to three.
    share: f64,
    /// The longest time in which nothing came, in milliseconds.
    gap: f64,
}

fn download(world: &World, number: usize) -> Download {
    let host = format!("h{number}");
    let stream = world.enter(&host, || TcpStream::connect((SERVER, PORT)));
    let mut stream = stream.expect("entered").expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    // Which of them the download was moved by, and when.
    let moves = |world: &World| -> Vec<DecisionRow> {
        let of = |row: &DecisionRow| row.site == format!("b{number}") && row.class == "default";
        world.decisions("fra1").into_iter().filter(of).collect()
    };
    let known = moves(world).len();
    let mut false_moves = 0;
    let begin = Instant::now();
    let (mut came, mut cut) = (Vec::new(), None);
    let mut buffer = [0; 65_536];
    while begin.elapsed() < CUT + AFTER {
        if cut.is_none() && begin.elapsed() >= CUT {
            let rows = moves(world);
            false_moves = rows.len() - known;
            rows.iter()
                .take(false_moves)
                .for_each(|row| println!("b{number}, before the cut: {}", row.detail));
            world.link(&format!("dsl{number}")).cut().expect("cut");
            cut = Some(begin.elapsed());
        }
        let read = stream.read(&mut buffer).expect("the connection lasts");
        assert!(read > 0, "the server has not finished");
        came.push((begin.elapsed(), read));
    }
    let cut = cut.expect("it was");
    let between = |from: Duration, until: Duration| {
        let bytes: usize =
            came.iter().filter(|(at, _)| (from..until).contains(at)).map(|(_, read)| read).sum();
        bytes as f64 * 8.0 / (until - from).as_secs_f64() / RATE
    };
    let second = Duration::from_secs(1);
    let tenths = (0..20).map(|tenth| between(cut + second / 10 * tenth, cut + second / 10 * (tenth + 1)));
    println!("share of the rate, by tenths of a second since the cut: {:.2?}", tenths.collect::<Vec<_>>());
    let gap = came.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or_default();
    Download {
        false_moves: false_moves as u64,
        before: between(cut - 2 * second, cut),
        share: between(cut + second, cut + 3 * second),
        gap: gap.as_secs_f64() * 1e3,
    }
}
